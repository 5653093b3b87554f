"""What one slow GPU and rare spikes cost, AFD against colocated EP of equal size.

``python run.py [-o FOLDER] [--workers N]``; FOLDER (default: `expected` beside this file) gets `table.csv`, `table.txt`
and `straggler.png`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
AFD, EP = "AFD 2A2F", "EP32"
BASES = {AFD: ("step3_2a2f_4k", {"network.type": "shared"}), EP: ("step3_ep32", {})}
SERVERS = {"attention[1]": AFD, "ffn[1]": AFD, "instance[3]": EP}
"""Servers of which one GPU is slow: the others of its instance wait for it, so the whole instance is."""
FACTORS = [1.0, 1.05, 1.1, 1.2, 1.3, 1.5]
PROBABILITIES = [0.0, 1e-5, 1e-4, 1e-3]
SPIKE = "5ms"
PLACES = {"compute": "an operation takes longer", "link": "its rows are posted later"}
FIGURES = {"tgs": "TGS", "p99_tpot_ms": "P99 TPOT", "p99_itl_ms": "P99 ITL", "p99.9_itl_ms": "P99.9 ITL"}


def swept(side: str, axis: str, values: list[Any], changes: dict[str, Any], workers: int) -> pd.DataFrame:
    """Simulate one side with each value of an axis; the first one is its base."""
    name, own = BASES[side]
    base = afdsim.load(name).varied({"name": "straggler", **own, **changes})
    frame = afdsim.sweep(base, {axis: values}, workers=workers)[[axis, *FIGURES]]
    return frame.rename(columns={axis: "value"}).assign(deployment=side)


def table(workers: int) -> pd.DataFrame:
    """Return a row for every case, with what it changes against the same side without it."""
    frames = [
        swept(side, f"variation.straggler.{server}", FACTORS, {}, workers).assign(case=f"{server} slower")
        for server, side in SERVERS.items()
    ]
    for side in BASES:
        for where, words in PLACES.items():
            spike = {"variation.spike": {"probability": 0.0, "seconds": SPIKE, "where": where}}
            frame = swept(side, "variation.spike.probability", PROBABILITIES, spike, workers)
            frames.append(frame.assign(case=f"spikes: {words}"))
    return pd.concat([changed(frame) for frame in frames], ignore_index=True)


def changed(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the changes against the first row beside the figures, in percent."""
    more = {f"{name}_change_%": 100 * (frame[name] / frame[name].iloc[0] - 1) for name in FIGURES}
    return frame[["deployment", "case", "value", *FIGURES]].assign(**more)


def drawn(made: pd.DataFrame) -> Figure:
    """Draw the loss of throughput by the factor of a slow GPU, and what spikes do to throughput and tails."""
    figure = Figure(figsize=(16, 4.8), layout="constrained")
    slow, less, tails = figure.subplots(1, 3)
    lines = made[made["value"] > 0].groupby(["deployment", "case"], sort=False)
    colours = afdsim.plot.colours(f"{side}, {case}" for (side, case), _ in lines)
    for (_, part), (label, colour) in zip(lines, colours.items(), strict=True):
        dashes = "--" if "later" in label else "-"  # which may hide a line below
        style = {"color": colour, "linestyle": dashes, "marker": "o", "markersize": 4, "label": label}
        first = less if "spikes" in label else slow
        first.plot(part["value"], -part["tgs_change_%"], **style)
        if first is less:
            tails.plot(part["value"], part["p99.9_itl_ms_change_%"], **style)
    slow.plot(FACTORS, [100 * (1 - 1 / factor) for factor in FACTORS], ":", color="#888888", label="1 - 1/factor")
    labelled(slow, "one slow GPU", "factor of its operations", "tokens per GPU lost (%)")
    labelled(less, f"spikes of {SPIKE}", "probability of an operation", "tokens per GPU lost (%)")
    labelled(tails, f"spikes of {SPIKE}", "probability of an operation", "P99.9 ITL longer (%)")
    for ax in (less, tails):
        ax.set_xscale("log")
    return figure


def labelled(ax: Axes, title: str, x: str, y: str) -> None:
    """Give an axis its words."""
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.set_ylim(bottom=0)
    ax.grid(color="#E6E6E6")
    ax.legend(frameon=False, fontsize=8)


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    made = table(given.workers)
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    text = made.to_string(index=False, float_format="{:.4g}".format)
    (given.output / "table.txt").write_text(text + "\n", encoding="utf-8")
    afdsim.plot.save(drawn(made), given.output / "straggler.png", dpi=90)
    print(text)


if __name__ == "__main__":
    main()
