"""Tails of the time per token against jitter and micro-batches: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv` and `tails.png`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
MICRO_BATCHES = "deployment.num_microbatches"
KINDS = {"variation.event": "jitter of every operation", "variation.step": "slow and fast steps of an instance"}
MEASURED = 0.006
"""Sigma of an operation on one quiet H200 (`experiments/calibration/jitter.py`); 0.005 for whole steps."""
SIGMAS = [0.0, MEASURED, 0.05, 0.1, 0.2, 0.4]
TAILS = ("median", "p99", "p99.9")
KEPT = ("tgs", *(f"{tail}_{metric}_ms" for metric in ("tpot", "itl") for tail in TAILS))


def swept(workers: int) -> pd.DataFrame:
    """Simulate the main scenario with more and more variation of either kind."""
    base = afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "jitter_tails",
            **dict.fromkeys(KINDS, 0.0),
            "workload.input_len": 4080,
            "workload.output_len": 32,
            "workload.num_requests": 12288,
        }
    )
    frames = []
    for kind in KINDS:
        over = {MICRO_BATCHES: [2, 3, 4], kind: SIGMAS}
        frames.append(
            afdsim.sweep(base, over, seeds=2, workers=workers).assign(kind=kind).rename(columns={kind: "sigma"})
        )
    return pd.concat(frames, ignore_index=True)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the seeds."""
    return frame.groupby(["kind", MICRO_BATCHES, "sigma"])[list(KEPT)].mean().reset_index()


def drawn(made: pd.DataFrame) -> Figure:
    """Draw how much longer than without variation the percentiles of TPOT are."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    colours = afdsim.plot.colours(f"{each} micro-batches" for each in made[MICRO_BATCHES].unique())
    for ax, (kind, title) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        for (name, colour), (_, part) in zip(
            colours.items(), made[made["kind"] == kind].groupby(MICRO_BATCHES), strict=True
        ):
            for tail, style in zip(TAILS, (":", "-", "--"), strict=True):
                column = part[f"{tail}_tpot_ms"]
                excess = 100 * (column / column.iloc[0] - 1)
                ax.plot(part["sigma"], excess, style, color=colour, marker="o", markersize=4, label=f"{name}, {tail}")
        ax.axvline(MEASURED, color="#666666", linewidth=1.0, label=f"measured sigma {MEASURED:g}")
        ax.set(xlabel="sigma", title=title)
        ax.grid(color="#E6E6E6")
    figure.axes[0].set_ylabel("TPOT longer than without (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    made = table(swept(given.workers))
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "tails.png", dpi=90)
    print(made.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
