"""Figures of documents that no quote has: python -m verdicts --uncovered lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from afdsim.errors import ScenarioError
from verdicts.ledger import ROOT, Aside, Ledger
from verdicts.numbers import CELL, FIGURE, spaced

FENCE = re.compile(r"^(?P<mark>`{3,})(?P<info>[^\n`]*)\n.*?^(?P=mark) *$", re.MULTILINE | re.DOTALL)
MADE = ("docs/reference/", "docs/validation.md", "docs/verification.md", "docs/verdicts.md", "docs/_")
"""Pages that are made by the code, and by these checks."""
RUN = [["console"], ["python"], ["yaml"], ["json"], ["csv"]]
"""Languages of blocks that `tests/test_docs.py` runs, or that are files of those that it runs."""
HEADING = re.compile(r"^(#+) +(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Left:
    """A figure without an origin."""

    document: str
    line: int
    figure: str
    words: str
    """The line that has it."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Figures of one document."""

    document: str
    quoted: int
    run: int
    """In blocks that the tests run."""
    aside: int
    """In parts that the ledger sets aside, by class."""
    left: tuple[Left, ...]


def documents() -> list[str]:
    """Return the documents whose figures count."""
    found = [ROOT / "README.md", ROOT / "MODEL.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found += sorted((ROOT / "experiments").glob("*/README.md"))
    names = (path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if not name.startswith(MADE) and not name.endswith(".head.md")]


def counted(document: str, ledger: Ledger, root: Path = ROOT) -> Count:
    """Return the figures of a document by what becomes of them."""
    text = (root / document).read_text(encoding="utf-8")
    quoted, run, aside = _quoted(text, document, ledger), _fenced(text), set(_aside(text, document, ledger))
    left, counts = [], {"quoted": 0, "run": 0, "aside": 0}
    for start, figure in _figures(text):
        kinds = (("quoted", quoted), ("run", run), ("aside", aside))
        kind = next((name for name, places in kinds if start in places), None)
        if kind is None:
            begin, line = text.rfind("\n", 0, start) + 1, text.count("\n", 0, start) + 1
            words = text[begin : text.find("\n", start)]
            left.append(Left(document=document, line=line, figure=figure, words=words))
        else:
            counts[kind] += 1
    return Count(document=document, left=tuple(left), **counts)


def _figures(text: str) -> list[tuple[int, str]]:
    """Return numbers with units, and numbers in rows of tables that have digits behind a point or a comma."""
    found = {each.start(): each[0] for each in FIGURE.finditer(text)}
    for row in re.finditer(r"^\|.*$", text, re.MULTILINE):
        for each in CELL.finditer(text, row.start(), row.end()):
            if re.search(r"[.,]", each[0]):
                found.setdefault(each.start(), each[0])
    return sorted(found.items())


def _quoted(text: str, document: str, ledger: Ledger) -> set[int]:
    """Return the places of a text that quotes cover."""
    places = _places(text)
    plain = spaced(text)
    spans = (
        each.span() for quote in ledger.quotes if quote.document == document for each in quote.pattern.finditer(plain)
    )
    return {place for start, end in spans for place in range(places[start], places[end - 1] + 1)}


def _places(text: str) -> list[int]:
    """Return where each character of the spaced text stands in the text."""
    found: list[int] = []
    for word in re.finditer(r"\S+", text):
        found += [word.start() - 1] * bool(found) + list(range(*word.span()))
    return found


def _fenced(text: str) -> set[int]:
    """Return the places of blocks that are run, or read."""
    blocks = (block for block in FENCE.finditer(text) if block["info"].split()[:1] in RUN)
    return {place for block in blocks for place in range(*block.span())}


def _aside(text: str, document: str, ledger: Ledger) -> Iterator[int]:
    for part in ledger.asides:
        if part.document == document:
            yield from range(*span(text, part))


def span(text: str, part: Aside) -> tuple[int, int]:
    """Return where a part of a document that is set aside begins and ends."""
    if part.section:
        return _section(text, part.section)
    begin, end = _words(text, part.paragraph or part.words)
    return _paragraph(text, begin, end) if part.paragraph else (begin, end)


def _section(text: str, heading: str) -> tuple[int, int]:
    """Return where a heading's part begins and ends: at the next heading that is no lower."""
    found = [*HEADING.finditer(text)]
    own = next((each for each in found if each[2] == heading), None)
    if own is None:
        raise ScenarioError(f"docs/figures.yaml sets aside a part that is not there: {heading!r}")
    after = (each.start() for each in found if each.start() > own.start() and len(each[1]) <= len(own[1]))
    return own.start(), next(after, len(text))


def _words(text: str, words: str) -> tuple[int, int]:
    found = re.search(r"\s+".join(map(re.escape, words.split())), text)
    if found is None:
        raise ScenarioError(f"docs/figures.yaml sets aside words that are not there: {words!r}")
    return found.span()


def _paragraph(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return where the paragraph, the point of a list or the row of a table around some words begins and ends."""
    line = text.rfind("\n", 0, begin + 1) + 1
    if text.startswith("|", line):
        return line, text.find("\n", end)
    breaks = [0, *(each.end() for each in re.finditer(r"\n\n|\n(?=- )", text)), len(text)]
    return max(place for place in breaks if place <= begin), min(place for place in breaks if place >= end)


def report(counts: Iterable[Count]) -> str:
    """Return the figures that are left, and how many there are of each kind."""
    counts = list(counts)
    lines = [
        f"{each.document}:{each.line}: {each.figure} | {each.words.strip()}" for one in counts for each in one.left
    ]
    lines += [
        f"{one.document}: {one.quoted} quoted, {one.run} run, {one.aside} aside, {len(one.left)} left" for one in counts
    ]
    kinds = ("quoted", "run", "aside")
    total = ", ".join(f"{sum(getattr(one, kind) for one in counts)} {kind}" for kind in kinds)
    return "\n".join([*lines, f"in all: {total}, {sum(len(one.left) for one in counts)} left"])
