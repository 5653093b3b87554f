"""From 4K to 128K of context: AFD that adds attention instances only, against colocated EP on as many GPUs.

``python run.py [-o FOLDER] [--workers N]``; FOLDER (default: `expected` beside this file) gets `table.csv` and
`scaling.png`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
OUTPUT = 64
BATCH = 6144
"""Sequences in flight over the whole deployment, at every context and in both deployments."""

INSTANCES = {4096: 2, 8192: 4, 16384: 8, 32768: 16, 65536: 32, 131072: 64}
"""Attention instances of AFD: as much KV cache on each at every context. Two FFN instances serve them all."""

EXPERTS = 48
KEPT = ("gpus", "tgs", "mean_tpot_ms", "usd_per_1m_output_tokens")


def afd(base: afdsim.Scenario, workers: int) -> pd.DataFrame:
    """Simulate xA2F."""
    together = {
        "workload.input_len.value": [context - OUTPUT // 2 for context in INSTANCES],
        "deployment.attention.instances": list(INSTANCES.values()),
        "deployment.max_num_seqs": [BATCH // (8 * count) for count in INSTANCES.values()],
    }
    return afdsim.sweep(base, zip=together, workers=workers).assign(deployment="AFD")


def colocated(base: afdsim.Scenario, workers: int, *, overlap: bool) -> pd.DataFrame:
    """Simulate DP attention with EP over all GPUs; copies of experts fill up what 48 do not cover."""
    servers = [count + 2 for count in INSTANCES.values()]
    deployments = [
        {
            "type": "colocated",
            "gpu": "H800",
            "instances": count,
            "parallelism": {"dp": 8, "tp": 1},
            "two_batch_overlap": overlap,
            "redundant_experts": -EXPERTS % (8 * count),
            "max_num_seqs": BATCH // (8 * count),
        }
        for count in servers
    ]
    together = {
        "workload.input_len.value": [context - OUTPUT // 2 for context in INSTANCES],
        "deployment": deployments,
        "network": [{}] * len(servers),
    }
    name = "colocated EP, two micro-batches" if overlap else "colocated EP, one micro-batch"
    return afdsim.sweep(base, zip=together, workers=workers).assign(deployment=name)


def swept(workers: int) -> pd.DataFrame:
    """Simulate all deployments at all contexts."""
    base = afdsim.load("step3_2a2f_4k").varied(
        {"name": "context_scaling", "workload.output_len": OUTPUT, "workload.num_requests": BATCH}
    )
    frames = [afd(base, workers), colocated(base, workers, overlap=True), colocated(base, workers, overlap=False)]
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(context=frame["workload.input_len.value"] + OUTPUT // 2)


def drawn(made: pd.DataFrame) -> Figure:
    """Draw TGS and TPOT against context, a line for each deployment."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    colours = afdsim.plot.colours(made["deployment"].unique())
    panels = {"tgs": "output tokens/s per GPU", "mean_tpot_ms": "mean TPOT (ms)"}
    for ax, (column, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, part in made.groupby("deployment", sort=False):
            ax.plot(part["context"], part[column], "o-", color=colours[name], markersize=5, label=name)
        ax.set(xscale="log", xlabel="context (tokens)", ylabel=label, ylim=(0, None))
        ax.set_xticks(list(INSTANCES), [f"{context // 1024}K" for context in INSTANCES], minor=False)
        ax.minorticks_off()
        ax.grid(color="#E6E6E6")
    figure.axes[1].axhline(50, color="#B00020", linewidth=1.6, label="SLA 50 ms")
    handles, labels = figure.axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    frame = swept(given.workers)
    for error in frame["error"].dropna():
        print(error)
    made = frame[["deployment", "context", *KEPT]]
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "scaling.png", dpi=90)
    print(made.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
