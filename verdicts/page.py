"""The table of verdicts: a page of the documentation, and printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from verdicts.kept import NOT_RUN, Row

HEAD = """# Verdicts

Every figure of README, the model and these pages that comes from afdsim itself, and whether it comes out again. Made by

```
make paper                              # everything but the long experiments; exit code 1 where something moved
make paper ARGS="--all --traces FOLDER" # those, too
make paper ARGS="--only ledger"         # this page anew, of what was made before
.venv/bin/python -m verdicts --uncovered   # figures of the documents that have no origin, and how many have one
```

*Tables* of experiments are made anew and held to those that are kept (a thousandth). *Quotes* are sentences and rows of
documents whose figures [`figures.yaml`](figures.yaml) names with their origin: they are held to tables and runs at the
digits that are printed. *Blocks* of pages are run, *pictures* drawn anew. *Claims* are those of the Step-3 paper,
*checks* those of [Verification](verification.md). What an interrupted run made is kept in `results/paper` as long as no
source changes.
"""
HEADS = ("", "what", "told in", "verdict", "origin")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text, one for each of the heads."""
    return (row.kind, row.what, row.told, row.verdict, row.origin)


def counted(rows: Sequence[Row]) -> str:
    """Return how many rows hold, moved and were not run."""
    idle = sum(row.verdict.startswith(NOT_RUN) for row in rows)
    bad = sum(not row.holds for row in rows)
    claims = Counter(row.verdict for row in rows if row.kind == "claim")
    told = f"; claims: {', '.join(f'{count} {verdict}' for verdict, count in claims.items())}" if claims else ""
    return f"{len(rows)} rows: {len(rows) - idle - bad} hold, {bad} moved, differ or failed, {idle} not run here{told}"


def page(rows: Sequence[Row]) -> str:
    """Return the page."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for row in rows:
        kind, what, told, verdict, origin = (each.replace("|", "\\|") for each in cells(row))
        lines.append(f"| {kind} | {what} | {told} | {verdict if row.holds else f'**{verdict}**'} | `{origin}` |")
    return f"{HEAD}\n{counted(rows)}.\n\n" + "\n".join(lines) + "\n"


def printed(rows: Sequence[Row]) -> str:
    """Return the table for a terminal: what moved comes last."""
    first, last = [row for row in rows if row.holds], [row for row in rows if not row.holds]
    lines = [f"{row.kind:<8} {row.verdict:<9} {row.what} ({row.told}; {row.origin})" for row in [*first, *last]]
    return "\n".join([*lines, counted(rows)])
