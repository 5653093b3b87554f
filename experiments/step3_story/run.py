"""The Step-3 paper's claims and what later work holds against them, each tried by simulation.

``python run.py [-o FOLDER] [--only NAME ...] [--workers N]``; FOLDER (default: `expected` beside this file) gets
a table for every claim in `claims/`, and `verdicts.csv` and `story.png` of all whose tables it has: an interrupted run
goes on with `--only`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))

import later
import models
import paper
from claims import FAILS, HOLDS, TIE, Claim, region, verdict

import afdsim
from afdsim.studies.pool import Pool

HERE = Path(__file__).parent
CLAIMS: tuple[Claim, ...] = (*paper.CLAIMS, *models.CLAIMS, *later.CLAIMS)
COLUMNS = 3


def measured(claims: list[Claim], workers: int) -> Iterator[tuple[Claim, pd.DataFrame]]:
    """Every claim with all that was tried of it."""
    frames: dict[Any, pd.DataFrame] = {}
    with Pool(workers) as pool:
        for claim in claims:
            if claim.measured not in frames:
                frames[claim.measured] = claim.measured(pool)
            yield claim, frames[claim.measured]


def kept(folder: Path, claim: Claim) -> Path:
    """The table of a claim."""
    return folder / "claims" / f"{claim.name}.csv"


def told(claim: Claim, judged: pd.DataFrame) -> dict[str, str]:
    """A claim's row in the table of verdicts."""
    where = {outcome: region(judged, claim.axes, outcome) for outcome in (HOLDS, TIE, FAILS)}
    return {
        "claim": claim.name,
        "said": claim.said,
        "source": claim.source,
        "verdict": verdict(judged),
        **where,
        "figures": claim.told(judged),
        "rule": claim.rule,
    }


def drawn(made: dict[str, pd.DataFrame]) -> Figure:
    """Draw a panel for every claim, titled by its verdict."""
    known = {claim.name: claim for claim in CLAIMS}
    rows = math.ceil(len(made) / COLUMNS)
    figure = Figure(figsize=(5.2 * COLUMNS, 3.9 * rows), layout="constrained")
    places = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for ax, (name, judged) in zip(places, made.items(), strict=False):
        known[name].drawn(judged, ax)
        ax.set_title(f"{name}: {verdict(judged)}", fontsize=11)
    for ax in places[len(made) :]:
        ax.set_axis_off()
    return figure


def main() -> None:
    """Try the claims, write tables and pictures, and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--only", nargs="+", choices=[claim.name for claim in CLAIMS])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    (given.output / "claims").mkdir(parents=True, exist_ok=True)
    chosen = [claim for claim in CLAIMS if not given.only or claim.name in given.only]
    for claim, frame in measured(chosen, given.workers):
        claim.judged(frame).to_csv(kept(given.output, claim), index=False, float_format="%.5g")
        row = told(claim, pd.read_csv(kept(given.output, claim)))  # what is told is what is kept
        print("\n".join(f"{key:>8}: {text}" for key, text in row.items()), flush=True, end="\n\n")
    paths = {claim.name: kept(given.output, claim) for claim in CLAIMS}
    made = {name: pd.read_csv(path) for name, path in paths.items() if path.exists()}
    rows = [told(claim, made[claim.name]) for claim in CLAIMS if claim.name in made]
    pd.DataFrame(rows).to_csv(given.output / "verdicts.csv", index=False)
    afdsim.plot.save(drawn(made), given.output / "story.png", dpi=80)


if __name__ == "__main__":
    main()
