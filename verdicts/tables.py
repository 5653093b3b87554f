"""Kept tables: rows of them by their leading columns, and a table made anew beside the one that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verdicts.numbers import change

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).parent.parent
RTOL, ATOL = 1e-3, 1e-8
"""As the tests of experiments allow, for other processors' last digits."""


class Rows:
    """Rows of a table; `rows(a, b)` are those whose first columns are a and b, `...` stands for any value."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def __call__(self, *values: Any) -> Rows:
        asked = {name: value for name, value in zip(self._rows[0], values, strict=False) if value is not ...}
        return self.where(**asked)

    def where(self, **values: Any) -> Rows:
        """Return the rows that have these values, or one of those that a list has."""
        asked = {name: value if isinstance(value, list | tuple) else (value,) for name, value in values.items()}
        rows = [row for row in self._rows if all(row[name] in known for name, known in asked.items())]
        if not rows:
            raise LookupError(f"no row with {values} in a table of {', '.join(self._rows[0])}")
        return Rows(rows)

    def most(self, column: str) -> Rows:
        """Return the row with the largest value of a column."""
        return Rows([max(self._rows, key=lambda row: row[column])])

    def least(self, column: str) -> Rows:
        """Return the row with the smallest value of a column."""
        return Rows([min(self._rows, key=lambda row: row[column])])

    def __getitem__(self, column: str) -> Any:
        """The value of the only row, or a list of all rows'."""
        found = self.all(column)
        return found[0] if len(found) == 1 else found

    def __getattr__(self, column: str) -> Any:
        return self[column]

    def all(self, column: str) -> list[Any]:
        """Return the values of all rows."""
        return [row[column] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)


@cache
def places() -> dict[str, Path]:
    """Return the kept tables by name: the experiment's, and the file's where it is not `table.csv`."""
    found = sorted((ROOT / "experiments").glob("*/expected/**/*.csv"))
    return {_name(path): path for path in found}


def home(path: Path) -> tuple[str, Path]:
    """Return the experiment of a kept file, and where in its folder the file is."""
    name, _, *below = path.relative_to(ROOT / "experiments").parts
    return name, Path(*below)


def _name(path: Path) -> str:
    own, below = home(path)
    words = below.with_suffix("").parts
    return own if words == ("table",) else "_".join((own, *words))


def read(path: Path) -> Rows:
    """Return a kept table."""
    import pandas as pd

    return Rows(pd.read_csv(path).to_dict("records"))


def validation() -> Rows:
    """Return the classes of `docs/validation.md`: kind, figures, error (median), worst; shares."""
    rows = [[kind[1:].partition("]")[0].lower(), *rest] for kind, *rest in _below("| class | figures |")]
    return _framed([[kind, *map(_number, rest)] for kind, *rest in rows], ["kind", "figures", "error", "worst"])


def validated() -> Rows:
    """Return the cases of `docs/validation.md`: case, unit, predicted, measured, error; a share."""
    rows = [[*row[:2], *map(_number, row[2:5])] for row in _below("| case | unit |")]
    return _framed(rows, ["case", "unit", "predicted", "measured", "error"])


def _framed(rows: list[list[Any]], columns: list[str]) -> Rows:
    return Rows([dict(zip(columns, row, strict=True)) for row in rows])


def _below(head: str) -> Iterator[list[str]]:
    """Return the rows of the tables of `docs/validation.md` that have this head."""
    inside = False
    for line in (ROOT / "docs" / "validation.md").read_text(encoding="utf-8").splitlines():
        inside = line.startswith(head) or (inside and line.startswith("|"))
        if inside and not line.startswith((head, "|---")):
            yield [each.strip() for each in line.strip("|").split("|")]


def _number(text: str) -> float:
    plain = text.replace(",", "")
    return float(plain.rstrip("%")) / (100 if plain.endswith("%") else 1)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of two tables."""

    row: str
    column: str
    kept: Any
    made: Any
    share: float
    """By how much of itself it moved; inf where it is text or missing."""

    def __str__(self) -> str:
        moved = f" ({change(self.kept, self.made)})" if self.share != float("inf") else ""
        return f"{self.column} of {self.row}: {_short(self.kept)} -> {_short(self.made)}{moved}"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def moved(kept: Path, made: Path) -> list[Cell]:
    """Return the cells of a table made anew that are not as kept, the worst first."""
    import pandas as pd

    before, after = pd.read_csv(kept), pd.read_csv(made)
    if list(before.columns) != list(after.columns) or len(before) != len(after):
        shapes = (f"{len(each)} rows of {', '.join(each.columns)}" for each in (before, after))
        return [Cell(row="the table", column="shape", kept=next(shapes), made=next(shapes), share=float("inf"))]
    return sorted(_unlike(before, after), key=lambda cell: -cell.share)


def _unlike(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[Cell]:
    labels = before.select_dtypes(exclude="number").columns[:3]
    for column in before.columns:
        for number, (kept, made) in enumerate(zip(before[column], after[column], strict=True)):
            share = _share(kept, made)
            if share > 0:
                words = [str(before[label].iloc[number]) for label in labels]
                row = f"row {number + 1} ({', '.join(words)})" if words else f"row {number + 1}"
                yield Cell(row=row, column=column, kept=kept, made=made, share=share)


def _share(kept: Any, made: Any) -> float:
    """Return by what share a cell moved: 0 where it is within tolerance, inf where it is not a number on both sides."""
    import pandas as pd

    if kept == made or (pd.isna(kept) and pd.isna(made)):
        return 0.0
    if isinstance(kept, str) or isinstance(made, str) or pd.isna(kept) or pd.isna(made):
        return float("inf")
    far = abs(made - kept)
    return 0.0 if far <= ATOL + RTOL * abs(kept) else float(far / max(abs(kept), ATOL))
