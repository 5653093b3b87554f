"""From 4K to 128K of context: AFD against colocated EP, each as it is best run under 50 ms, on H800, H100 and H200.

``python run.py [-o FOLDER] [--workers N]``; FOLDER (default: `expected` beside this file) gets `table.csv`,
`candidates.csv` (everything that was tried) and `scaling.png`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import afdsim
from afdsim.studies.pool import Pool

HERE = Path(__file__).parent
OUTPUT = 64
LIMIT = 50.0
"""Milliseconds per token, mean: the SLA of the base."""

SURE = 0.995
"""Share of the limit up to which `afdsim.tune` searches."""

GPUS = {"H800": (4096, 16384, 65536), "H100": (4096, 16384, 65536), "H200": (4096, 8192, 16384, 32768, 65536, 131072)}
"""Contexts that are simulated on every GPU."""
CELLS = {
    4096: ((1, 1), (2, 1), (2, 2), (3, 2)),
    8192: ((1, 1), (2, 1), (3, 1), (3, 2), (4, 2)),
    16384: ((2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (10, 2)),
    32768: ((3, 1), (4, 1), (6, 1), (8, 2), (10, 2)),
    65536: ((3, 1), (5, 1), (6, 1), (8, 2), (12, 2), (16, 2)),
    131072: ((5, 1), (8, 1), (10, 1), (20, 2)),
}
"""Attention and FFN instances of AFD that are tried at a context: those that came near the best of a wider search."""
EP = (8, 16, 24, 32, 48)
"""GPUs of a colocated group that are tried, beside as many as AFD's deployments have."""
CUTS = {"AFD, TP8 inside": {"ep": 1, "tp": 8}, "AFD, EP8 inside": {"ep": 8, "tp": 1}}
COLOCATED, BEST, EQUAL, PLAIN = "EP", "EP at its best", "EP on as many GPUs", "EP on as many GPUs, no overlap"
EXPERTS = 48
TOKENS = 4096 * 256
"""KV cache of a rank with which the searches begin; they go on up to what memory holds."""


class Candidate(NamedTuple):
    """One deployment of a side."""

    gpu: str
    context: int
    side: str
    deployment: str
    gpus: int
    scenario: afdsim.Scenario


def base(gpu: str, context: int) -> afdsim.Scenario:
    """The main scenario with equal lengths."""
    return afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "context_scaling",
            "cost": None,
            "deployment.attention.gpu": gpu,
            "deployment.ffn.gpu": gpu,
            "deployment.max_num_seqs": TOKENS // context,
            "workload.input_len": context - OUTPUT // 2,
            "workload.output_len": OUTPUT,
        }
    )


def afd(gpu: str, context: int) -> Iterator[Candidate]:
    """Deployments of AFD, cut both ways."""
    for side, cut in CUTS.items():
        for attention, ffn in CELLS[context]:
            counts = {"deployment.attention.instances": attention, "deployment.ffn.instances": ffn}
            own = base(gpu, context).varied({**counts, "deployment.ffn.parallelism": cut})
            yield Candidate(gpu, context, side, f"{attention}A{ffn}F", 8 * (attention + ffn), own)


def colocated(gpu: str, context: int) -> Iterator[Candidate]:
    """DP attention with EP over all GPUs; copies of experts fill up what 48 do not cover, evenly where they can."""
    for gpus in sorted({*EP, *(8 * sum(cell) for cell in CELLS[context])}):
        least = -EXPERTS % gpus
        for copies in sorted({least, least + gpus * (EXPERTS % gpus > 0 and gpus % EXPERTS > 0)}):
            deployment = {
                "type": "colocated",
                "gpu": gpu,
                "instances": gpus // 8,
                "parallelism": {"dp": 8, "tp": 1},
                "redundant_experts": copies,
                "max_num_seqs": TOKENS // context,
            }
            own = base(gpu, context).varied({"deployment": deployment, "network": {}})
            yield Candidate(gpu, context, COLOCATED, f"EP{gpus}", gpus, own)


def candidates() -> Iterator[Candidate]:
    """Everything that is tried."""
    for gpu, contexts in GPUS.items():
        for context in contexts:
            yield from afd(gpu, context)
            yield from colocated(gpu, context)


def measured(workers: int) -> pd.DataFrame:
    """Every candidate with its best overlap and batch under the limit."""
    tried = list(candidates())
    with Pool(workers) as pool:
        tuned = list(pool.map(afdsim.tune, [each.scenario for each in tried]))
    return pd.DataFrame([row(*each) for each in zip(tried, tuned, strict=True)])


def row(tried: Candidate, tuned: Any) -> dict[str, Any]:
    """A candidate as it is best run."""
    asked = tuned.scenario.deployment
    return {
        **tried._replace(scenario=tuned.scenario)._asdict(),
        "overlap": overlap(asked),
        "max_num_seqs": asked.max_num_seqs,
        "tgs": tuned.best.tgs,
        "mean_tpot_ms": tuned.best.tpot_ms,
    }


def overlap(deployment: Any) -> str:
    """What overlaps in a deployment."""
    if deployment.type == "afd":
        return f"{deployment.num_microbatches} micro-batches"
    ways = {"single batch": deployment.single_batch_overlap, "two batches": deployment.two_batch_overlap}
    return next((way for way, chosen in ways.items() if chosen), "none")


def best(tried: pd.DataFrame) -> pd.DataFrame:
    """The best of every side, and of EP on as many GPUs as the better AFD has; what bounds the step of each."""
    rows = []
    for _, own in tried[tried["mean_tpot_ms"] <= LIMIT].groupby(["gpu", "context"], sort=False):
        first = own.loc[own.groupby("side", sort=False)["tgs"].idxmax()].set_index("side", drop=False)
        size = first.loc[list(CUTS)].sort_values("tgs").iloc[-1]["gpus"]
        alike = own[(own["side"] == COLOCATED) & (own["gpus"] == size)]
        equal = alike.loc[alike["tgs"].idxmax()].to_dict() | {"side": EQUAL}
        both = pd.DataFrame([equal, {**equal, "side": PLAIN, **plain(equal["scenario"])}])
        ahead = pd.concat([first.loc[list(CUTS)], both, first.loc[[COLOCATED]].assign(side=BEST)])
        rows.append(ahead.assign(over_ep=ahead["tgs"] / equal["tgs"] - 1.0))
    made = pd.concat(rows, ignore_index=True)
    bounds = [afdsim.simulate(each).summary["afdsim"]["bottleneck"]["name"] for each in made["scenario"]]
    return made.assign(bound=bounds)


def plain(overlapped: afdsim.Scenario) -> dict[str, Any]:
    """A colocated deployment without overlap, its batch at most what it has and the largest that tune would take."""
    alone = {f"deployment.{each}_overlap": False for each in ("single_batch", "two_batch")}
    most = overlapped.deployment.max_num_seqs
    low, high, middle, found = int(0.8 * most), most + 1, most, {}
    while high - low > max(1, low // 200):
        scenario = overlapped.varied({**alone, "deployment.max_num_seqs": middle})
        summary = afdsim.simulate(scenario).summary
        if summary["mean_tpot_ms"] <= SURE * LIMIT:
            own = {"tgs": summary["afdsim"]["tgs"], "mean_tpot_ms": summary["mean_tpot_ms"]}
            low, found = middle, {"overlap": "none", "max_num_seqs": middle, **own, "scenario": scenario}
        else:
            high = middle
        middle = (low + high) // 2
    assert found, "four fifths of the batch meet the limit"
    return found


def drawn(made: pd.DataFrame) -> Figure:
    """Draw tokens per GPU against context, relative to EP on as many GPUs, a panel for each GPU."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    colours = afdsim.plot.colours([*CUTS, BEST])
    for ax, gpu in zip(figure.subplots(1, len(GPUS), sharey=True), GPUS, strict=True):
        for name, colour in colours.items():
            part = made[(made["gpu"] == gpu) & (made["side"] == name)]
            ax.plot(part["context"], 100 * part["over_ep"], "o-", color=colour, markersize=5, label=name)
        part = made[(made["gpu"] == gpu) & (made["side"] == PLAIN)]
        ax.plot(part["context"], 100 * part["over_ep"], ":", color="#666666", linewidth=1.6, label=PLAIN)
        ax.axhline(0, color="#666666", linewidth=1.6, label=EQUAL)
        ax.set(xscale="log", xlabel="context (tokens)", title=gpu, xlim=(3600, 150000))
        ax.set_xticks(list(CELLS), [f"{context // 1024}K" for context in CELLS], minor=False)
        ax.minorticks_off()
        ax.grid(color="#E6E6E6")
    figure.axes[0].set_ylabel("tokens/s per GPU against\nEP on as many GPUs as the better AFD (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"Step-3, each side at its best with mean TPOT <= {LIMIT:g} ms")
    return figure


def main() -> None:
    """Write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    tried = measured(given.workers)
    made = best(tried)
    tried.drop(columns="scenario").to_csv(given.output / "candidates.csv", index=False, float_format="%.5g")
    made.drop(columns="scenario").to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "scaling.png", dpi=90)
    print(made.drop(columns="scenario").to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
