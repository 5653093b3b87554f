"""From 4K to 128K of context: AFD against colocated EP on as many GPUs, each as it is best run under 50 ms.

``python run.py [-o FOLDER]``; FOLDER (default: `expected` beside this file) gets `table.csv` and `scaling.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
OUTPUT = 64
LIMIT = 50.0
"""Milliseconds per token, mean: the SLA of the base."""

SERVERS = {4096: 4, 8192: 6, 16384: 10, 32768: 18, 65536: 34, 131072: 66}
"""Servers of 8 GPUs at every context, of both deployments: 2A2F at 4K, and attention that doubles with the context."""
FFN = (1, 2, 3, 4, 6, 8, 12, 16)
"""Of these, FFN instances of AFD that are tried: they divide the experts."""
EXPERTS = 48
TOKENS = 4096 * 256
"""KV cache of a rank with which the searches begin; they go on up to what memory holds."""

KEPT = ("gpus", "tgs", "mean_tpot_ms", "usd_per_1m_output_tokens")
COLUMNS = ("side", "context", "deployment", "overlap", "max_num_seqs", *KEPT)


def afd(base: afdsim.Scenario, servers: int) -> Iterator[afdsim.Scenario]:
    """Every way to divide the servers between attention and FFN."""
    for ffn in FFN:
        if ffn < servers:
            counts = {"deployment.attention.instances": servers - ffn, "deployment.ffn.instances": ffn}
            yield base.varied(counts)


def colocated(base: afdsim.Scenario, servers: int) -> Iterator[afdsim.Scenario]:
    """DP attention with EP over all GPUs; copies of experts fill up what 48 do not cover."""
    deployment = {
        "type": "colocated",
        "gpu": "H800",
        "instances": servers,
        "parallelism": {"dp": 8, "tp": 1},
        "redundant_experts": -EXPERTS % (8 * servers),
        "max_num_seqs": base.deployment.max_num_seqs,
    }
    yield base.varied({"deployment": deployment, "network": {}})


SIDES = {"AFD": afd, "colocated EP": colocated}


def best(scenarios: Iterator[afdsim.Scenario]) -> afdsim.Scenario:
    """Return what gives most tokens under the limit, with its best overlap and batch."""
    tuned = [afdsim.tune(scenario) for scenario in scenarios]
    within = [each for each in tuned if each is not None and (each.best.tpot_ms or LIMIT) <= LIMIT]
    return max(within, key=lambda each: each.best.tgs).scenario


def row(side: str, context: int) -> dict[str, Any]:
    """Search a side at a context, and simulate what was found."""
    base = afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "context_scaling",
            "workload.input_len": context - OUTPUT // 2,
            "workload.output_len": OUTPUT,
            "deployment.max_num_seqs": TOKENS // context,
        }
    )
    found = best(SIDES[side](base, SERVERS[context]))
    result = afdsim.simulate(found.vary("workload.num_requests", found.deployment.slots))
    own = {**result.summary, **result.summary["afdsim"]}
    deployment, overlap = described(found.deployment)
    told = (side, context, deployment, overlap, found.deployment.max_num_seqs, *(own[key] for key in KEPT))
    return dict(zip(COLUMNS, told, strict=True))


def described(deployment: Any) -> tuple[str, str]:
    """(how the GPUs are used, what overlaps) of a deployment."""
    if deployment.type == "afd":
        return (
            f"{deployment.attention.instances}A{deployment.ffn.instances}F",
            f"{deployment.num_microbatches} micro-batches",
        )
    gpus = deployment.instances * deployment.gpus_per_instance
    ways = {"single batch": deployment.single_batch_overlap, "two batches": deployment.two_batch_overlap}
    return f"EP{gpus}", next((way for way, chosen in ways.items() if chosen), "none")


def drawn(made: pd.DataFrame) -> Figure:
    """Draw TGS and TPOT against context, a line for each side."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    colours = afdsim.plot.colours(SIDES)
    panels = {"tgs": "output tokens/s per GPU", "mean_tpot_ms": "mean TPOT (ms)"}
    for ax, (column, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, part in made.groupby("side", sort=False):
            ax.plot(part["context"], part[column], "o-", color=colours[name], markersize=5, label=name)
        ax.set(xscale="log", xlabel="context (tokens)", ylabel=label, ylim=(0, None))
        ax.set_xticks(list(SERVERS), [f"{context // 1024}K" for context in SERVERS], minor=False)
        ax.minorticks_off()
        ax.grid(color="#E6E6E6")
    figure.axes[0].set(yscale="log", ylim=(100, None))
    figure.axes[1].axhline(LIMIT, color="#B00020", linewidth=1.6, label=f"SLA {LIMIT:g} ms")
    handles, labels = figure.axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    made = pd.DataFrame([row(side, context) for side in SIDES for context in SERVERS])
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "scaling.png", dpi=90)
    print(made.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
