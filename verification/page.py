"""The page of the documentation: the table of verdicts, and a paragraph and a picture for every check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from verification.suite import PICTURES, Row

HEAD = """# Verification

What afdsim says, against answers that come from elsewhere: closed forms, other simulators, definitions written down
once more. These checks stand apart from the tests; anybody with a checkout can run them and look at them:

```
make verify                                    # all, and this page anew; exit code 1 where one differs
.venv/bin/python -m verification steps ciw     # some
afdsim verify                                  # all, into results/verification
afdsim verify DIR                              # a saved result, run again: identical, or what differs
```

A check of samples is held to two 95 % half-widths (four standard errors; of correlated series by batch means), one of
times or sums to rounding. Seeds are fixed, so a run on the same versions gives the same figures.
"""
COLUMNS = ("check", "compares", "statistic", "value", "at most", "because", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table as text, one for each of the columns."""
    found = row.finding
    if found is None:
        return (row.check.name, row.check.compares, "", "", "", "", row.verdict)
    value, tolerance = f"{found.value:.2g}", f"{found.tolerance:g}"
    return (row.check.name, row.check.compares, found.statistic, value, tolerance, found.reason, row.verdict)


def plain(row: Row) -> dict[str, Any]:
    """Return a row as data for JSON."""
    told = dict(zip(COLUMNS, cells(row), strict=True))
    return told | ({} if row.finding is None else {"value": float(row.finding.value), "at most": row.finding.tolerance})


def kept(rows: Iterable[Row]) -> str:
    """Return the table of verdicts as JSON, as the page prints it: `make paper` reads it."""
    told = [dict(zip(COLUMNS, cells(row), strict=True)) for row in rows]
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Return the table of verdicts in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        name, *rest = cells(row)
        verdict = f"**{rest[-1]}**" if row.finding else rest[-1]
        lines.append("| " + " | ".join((f"[{name}](#{name.replace('_', '-')})", *rest[:-1], verdict)) + " |")
    return "\n".join(lines)


def section(row: Row) -> str:
    """Return the paragraph and the picture of a check."""
    check = row.check
    # a heading whose anchor is the same for every renderer
    lines = [f"## {check.name.replace('_', ' ')}", "", f"**Question.** {check.question}", ""]
    lines += [f"**Independent answer.** {check.answer}", "", f"**Reading.** {check.reading}", ""]
    if row.finding is None:
        return "\n".join([*lines, f"Not run here: {row.why}."])
    return "\n".join([*lines, f"![{check.compares}]({PICTURES}/{check.name}.png)"])


def page(rows: Iterable[Row]) -> str:
    """Return the whole page."""
    rows = tuple(rows)
    return "\n\n".join([HEAD.rstrip(), table(rows), *(section(row) for row in rows)]) + "\n"
