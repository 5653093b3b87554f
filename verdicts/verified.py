"""What the verification suite and the paper's claims say, read from what they write."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from verdicts.kept import NOT_RUN, ROOT, Row

CHECKS = ROOT / "docs" / "verification.json"
"""The table of docs/verification.md as data, which `make verify` writes."""
CLAIMS = ROOT / "experiments" / "step3_story" / "expected" / "verdicts.csv"


def checks(path: Path = CHECKS) -> Iterator[Row]:
    """Return a row for every check of the verification suite."""
    told, origin = "docs/verification.md", "make verify"
    if not path.is_file():
        yield Row(kind="check", what="verification", told=told, verdict=NOT_RUN, origin=origin)
        return
    for each in json.loads(path.read_text(encoding="utf-8")):
        what = f"{each['check']}: {each['compares']}"
        yield Row(
            kind="check",
            what=what,
            told=told,
            verdict=each["verdict"],
            origin=origin,
            holds=each["verdict"] != "differs",
        )


def claims(path: Path = CLAIMS) -> Iterator[Row]:
    """Return a row for every claim of the paper, if they were simulated."""
    if not path.is_file():
        return
    folder = path.parent.parent.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.parent.parent.name
    with path.open(encoding="utf-8", newline="") as file:
        for each in csv.DictReader(file):
            what = f"{each['claim']}: {each['said']}"
            yield Row(
                kind="claim", what=what, told=f"{folder}/README.md", verdict=each["verdict"], origin=f"{folder}/run.py"
            )
