"""TGS and TPOT against the A:F ratio at three contexts: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv` and `ratio.png`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
X = "deployment.attention.instances"
CONTEXT = "workload.input_len"
EP, TP = "deployment.ffn.parallelism.ep", "deployment.ffn.parallelism.tp"
KEPT = ("gpus", "tgs", "mean_tpot_ms", "p99_itl_ms", "pools.attention.busy", "pools.ffn.busy")
OUTPUT = 64
"""Output tokens: short ones, so that the warm-up is; the mean context is what counts."""

# a rank keeps the same bytes of KV cache at every context, so a longer context means fewer sequences
CONTEXTS = {4096: 384, 8192: 192, 32768: 48}
CUTS = {1: "TP8", 8: "EP8"}
"""How the 8 GPUs of an FFN instance share its experts, by their ep: width or whole experts."""


def swept(workers: int) -> pd.DataFrame:
    """Simulate 2 FFN instances, cut both ways, with 1 to 16 attention instances."""
    base = afdsim.load("step3_2a2f_4k").varied({"name": "ratio_sweep", "workload.output_len": OUTPUT})
    inputs = [context - OUTPUT // 2 for context in CONTEXTS]
    ratios = [1, 2, 3, 4, 6, 8, 12, 16]
    together = [
        {EP: list(CUTS), TP: [8 // ep for ep in CUTS]},
        {CONTEXT: inputs, "deployment.max_num_seqs": list(CONTEXTS.values())},
        {
            X: ratios,
            "workload.num_requests": [1536 * ratio for ratio in ratios],
        },  # half the slots at 4K, and more later
    ]
    return afdsim.sweep(base, zip=together, seeds=2, workers=workers)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the seeds, and which pool is busier."""
    frame = frame.assign(ffn=frame[EP].map(CUTS), context=frame[CONTEXT] + OUTPUT // 2)
    means = frame.groupby(["ffn", "context", X], sort=False)[list(KEPT)].mean().reset_index()
    ahead = means["pools.ffn.busy"] > means["pools.attention.busy"]
    return means.assign(bottleneck=ahead.map({True: "ffn", False: "attention"}))


def drawn(frame: pd.DataFrame) -> Figure:
    """Draw one panel for each way to cut FFN instances, a row, and context."""
    figure = Figure(figsize=(17, 9.6), layout="constrained")
    for (ep, cut), axes in zip(CUTS.items(), figure.subplots(2, 3), strict=True):
        for ax, (context, seqs) in zip(axes, CONTEXTS.items(), strict=True):
            afdsim.plot.ratio(frame[(frame[EP] == ep) & (frame[CONTEXT] == context - OUTPUT // 2)], ax, x=X)
            ax.set_title(f"{cut} inside, {context // 1024}K context, {seqs} sequences per attention GPU", fontsize=11)
    figure.suptitle("2 FFN instances, 1 to 16 attention instances, H200")
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
    return figure


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    frame = swept(given.workers)
    made = table(frame)
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(frame), given.output / "ratio.png", dpi=90)
    print(made.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
