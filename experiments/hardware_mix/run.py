"""Attention on H800, H20, A800 or L20, the FFN on H800: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv` and `mix.png`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
GPU, INSTANCES, SEQS = "deployment.attention.gpu", "deployment.attention.instances", "deployment.max_num_seqs"
KEPT = ("gpus", "tgs", "mean_tpot_ms", "usd_per_1m_output_tokens")
LIMIT = 50.0
"""Milliseconds per token."""

PRICES = {"H800": "2.00 USD/h", "H20": "0.80 USD/h", "A800": "0.75 USD/h", "L20": "0.60 USD/h"}
"""Rental prices; L20's is assumed, the others are those behind the Step-3 paper's table 6."""

OUTPUT = 64


def swept(workers: int) -> pd.DataFrame:
    """Simulate 1 to 8 attention instances of every GPU at several batches, at 8K of context."""
    base = afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "hardware_mix",
            "cost": PRICES,
            "deployment.attention.parallelism": {"dp": 8, "tp": 1},
            "workload.input_len": 8192 - OUTPUT // 2,
            "workload.output_len": OUTPUT,
        }
    )
    over = {GPU: list(PRICES), INSTANCES: [1, 2, 3, 4, 6, 8]}
    seqs = [6, 12, 24, 48, 96, 144, 192]
    return afdsim.sweep(
        base, over, {SEQS: seqs, "workload.num_requests": [64 * each for each in seqs]}, workers=workers
    )


def best(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, for every GPU and number of instances, the largest batch that meets the limit."""
    fine = frame[(frame["status"] == "ok") & (frame["mean_tpot_ms"] <= LIMIT)]
    rows = fine.sort_values(SEQS).groupby([GPU, INSTANCES], sort=False).tail(1)
    return rows.sort_values([GPU, INSTANCES])[[GPU, INSTANCES, SEQS, *KEPT]]


def drawn(made: pd.DataFrame) -> Figure:
    """Draw TGS and cost against attention instances, a colour for each attention GPU."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    colours = afdsim.plot.colours(PRICES)
    panels = {"tgs": "output tokens/s per GPU (all GPUs)", "usd_per_1m_output_tokens": "USD per 1M output tokens"}
    for ax, (column, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for gpu in PRICES:
            part = made[made[GPU] == gpu]
            ax.plot(part[INSTANCES], part[column], "o-", color=colours[gpu], label=f"attention on {gpu}")
        ax.set(xlabel="attention instances", ylabel=label, ylim=(0, None))
        ax.set_xticks([1, 2, 3, 4, 6, 8])
        ax.grid(color="#E6E6E6")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"FFN on 2 x 8 H800, 8K context, largest batch with mean TPOT <= {LIMIT:g} ms")
    return figure


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    frame = swept(given.workers)
    for error, count in frame["error"].value_counts().items():
        print(f"{count} x {error}")
    made = best(frame)
    fastest = frame.groupby(GPU, sort=False)["mean_tpot_ms"].min()
    print("shortest mean TPOT (ms):", ", ".join(f"{gpu} {least:.1f}" for gpu, least in fastest.items()))
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "mix.png", dpi=90)
    print(made.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
