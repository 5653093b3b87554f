"""A page of figures, tables and text as one HTML file that asks for nothing from outside.

What a page holds is data; how it looks is in `afdsim/data/report`: a template, a style sheet and a script. Every text
is escaped by the template; only the drawings are markup, which `inline` has made. The same page gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Template

MOST_ROWS: Final = 200
"""Rows of a table that are shown; the rest is counted."""

Cell = str | float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a head; texts stand left, numbers right, and the head sorts if there are more than two rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    cut: int = 0
    """Rows that were left out."""
    alive: bool = True
    """Whether it stands on a page with the script that sorts."""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers, or texts that begin with one."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.head)
        return tuple(
            any(cell not in {"", "-"} for cell in column) and all(_is_number(cell) is not False for cell in column)
            for column in columns
        )

    @property
    def tall(self) -> bool:
        """Whether it has a box of its own to scroll in."""
        return len(self.rows) > 30

    @property
    def sortable(self) -> bool:
        """Whether its head has buttons: where an order of the rows means anything, on a page with the script."""
        return self.alive and len(self.rows) > 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture, the sentence that says what it answers with its number, and the table behind it."""

    name: str
    """Unique on the page; letters, digits and hyphens."""
    title: str
    sentence: str
    svg: str
    table: Table | None = None
    wide: bool = False
    """Whether it needs the whole width of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with what stands under it, in this order; `code` is a listing, folded where it is long."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    points: tuple[str, ...] = ()
    """Sentences of a list."""
    code: str = ""
    fold: str = ""
    """What the folded listing is called; empty where it is short and open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A verdict: what was judged, the word, and in small what it rests on."""

    what: str
    word: str
    why: str = ""

    @property
    def tone(self) -> str:
        """Class of the word: good, bad, or neither."""
        return _TONES.get(self.word, "fair")


_TONES: Final = {"PASS": "good", "STABLE": "good", "met": "good", "FAIL": "bad", "OVERLOADED": "bad", "missed": "bad"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All of it: what kind of page, of what, the verdict, the answer in a sentence, and the sections."""

    kind: str
    title: str
    subtitle: tuple[str, ...] = ()
    badges: tuple[Badge, ...] = ()
    answer: str = ""
    sections: tuple[Section, ...] = ()
    footer: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A page that was written out: shown by a notebook, saved as a file."""

    html: str
    height: int = field(default=900)
    """Pixels of the frame in which a notebook shows it."""

    def __str__(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Report of {len(self.html) / 1e3:,.0f} kB; .save('report.html') writes it"

    def _repr_html_(self) -> str:
        from html import escape

        look = f"width:100%;height:{self.height}px;border:1px solid #ccc"
        return f'<iframe title="afdsim report" style="{look}" srcdoc="{escape(self.html)}"></iframe>'

    def save(self, path: Any) -> Any:
        """Write the page and return its path."""
        from pathlib import Path

        path = Path(path)
        path.write_text(self.html, encoding="utf-8", newline="\n")
        return path


def render(page: Page) -> str:
    """Return the page as HTML."""
    look, script = (_held(name).strip() for name in ("report.css", "report.js"))
    return _template("page.html.j2").render(page=page, style=look, script=script)


def table_html(table: Table) -> str:
    """Return a table alone as HTML."""
    return _template("table.html.j2").render(table=table)


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_held), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "svg": Markup, "key": _key, "finalize": _printable}
    environment.finalize = _printable
    return environment.get_template(name)


def _held(name: str) -> str:
    return files("afdsim").joinpath("data", "report", name).read_text(encoding="utf-8")


def _printable(value: object) -> object:
    """Replace what no page should hold: control characters, such as those of a terminal."""
    if type(value) is not str:
        return value
    return "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in value)


def shown(cell: Cell) -> str:
    """Return a cell as it is written: whole numbers whole, others with four digits."""
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN is not itself
        return "n/a"
    if isinstance(cell, bool | str):
        return str(cell)
    if isinstance(cell, int) or (float(cell).is_integer() and abs(cell) < 1e15):
        return f"{cell:,.0f}"
    return f"{cell:,.0f}" if abs(cell) >= 1e4 else f"{cell:,.4g}" if abs(cell) >= 1e-3 else f"{cell:.3g}"


_NUMBER: Final = re.compile(r"^[$<>+]?(-?[\d,]*\.?\d+(?:e[-+]?\d+)?)(?:%|\s?[a-zµ]+(?:/[a-z]+)?)?(?: to .*)?$")
_NOTHING: Final = frozenset({"", "n/a", "-", None})


def _is_number(cell: Cell) -> bool | None:
    """Whether a cell is a number, or begins with one before its unit; None where there is nothing in it."""
    if cell in _NOTHING:
        return None
    return not isinstance(cell, str) or _NUMBER.match(cell) is not None


def _key(cell: Cell) -> str:
    """Return what a cell is sorted by: a number where it begins with one."""
    if isinstance(cell, str):
        found = _NUMBER.match(cell)
        return found[1].replace(",", "") if found else cell
    return "" if cell is None or cell != cell else f"{cell!r}"  # noqa: PLR0124 - NaN is not itself


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = "") -> Table:
    """Return a table of at most `MOST_ROWS` rows that says how many were left out."""
    every = [tuple(row) for row in rows]
    kept = tuple(every[:MOST_ROWS])
    return Table(head=tuple(head), rows=kept, note=note, cut=len(every) - len(kept))


def of_frame(frame: pd.DataFrame, note: str = "") -> Table:
    """Return a frame as a table."""
    rows = (tuple(row) for row in frame.head(MOST_ROWS).itertuples(index=False))
    found = table([str(name) for name in frame.columns], rows, note)
    return Table(head=found.head, rows=found.rows, note=note, cut=len(frame) - len(found.rows))
