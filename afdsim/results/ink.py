"""Text on a terminal: styles, tables, sparklines; in colour or not, with block characters or in ASCII."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """How the text may be drawn: in colour or not, with block characters or in ASCII."""

    colour: bool = False
    unicode: bool = True

    @property
    def block(self) -> str:
        """What bars are made of."""
        return "█" if self.unicode else "#"

    @property
    def levels(self) -> str:
        """Eight heights of a sparkline."""
        return "▁▂▃▄▅▆▇█" if self.unicode else "_.-=+*%#"

    def strong(self, text: str) -> str:
        """Bold."""
        return self._styled(text, 1)

    def faint(self, text: str) -> str:
        """Dim."""
        return self._styled(text, 2)

    def good(self, text: str) -> str:
        """Bold green."""
        return self._styled(text, 1, 32)

    def bad(self, text: str) -> str:
        """Bold red."""
        return self._styled(text, 1, 31)

    def verdict(self, word: str) -> str:
        """In the colour of what it says."""
        styles = {"PASS": self.good, "STABLE": self.good, "FAIL": self.bad, "OVERLOADED": self.bad}
        return styles.get(word, self.strong)(word)

    def _styled(self, text: str, *codes: int) -> str:
        return f"\033[{';'.join(map(str, codes))}m{text}\033[0m" if self.colour else text


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], ink: Ink) -> list[str]:
    """Lay out rows: the first column left, the others right, a rule below the head."""
    body = [head, *rows]
    widths = [max(len(row[column]) for row in body) for column in range(len(head))]
    lines = [" " + "  ".join(_aligned(row, widths)).rstrip() for row in body]
    rule = " " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [ink.strong(lines[0]), ink.faint(rule), *lines[1:]]


def sparkline(values: Sequence[float], ink: Ink) -> str:
    """Return one character per value, from zero to the greatest."""
    most = max(values)
    return "".join(ink.levels[min(int(value / most * len(ink.levels)), len(ink.levels) - 1)] for value in values)
