"""What each thing is worth in which AFD and colocated expert parallelism are not priced alike.

``python run.py [-o FOLDER]``; FOLDER (default: `expected` beside this file) gets `table.csv`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import afdsim
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Array
from afdsim.cost.operators import Operator
from afdsim.cost.roofline import CostModel, Roofline

HERE = Path(__file__).parent
CUTS = {"TP8": {"ep": 1, "tp": 8}, "EP8": {"ep": 8, "tp": 1}}
"""How the 8 GPUs of an FFN instance share its experts: width or whole experts."""
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "AFD, TP8 inside": (
        "step3_2a2f_4k",
        {"deployment.ffn.parallelism": CUTS["TP8"], "deployment.max_num_seqs": 463},
    ),
    "AFD, EP8 inside": (
        "step3_2a2f_4k",
        {"deployment.ffn.parallelism": CUTS["EP8"], "deployment.max_num_seqs": 526},
    ),
    "EP32": ("step3_ep32", {"deployment.max_num_seqs": 268}),
}
"""Scenario and changes: each side with its largest batch under 50 ms by `afdsim.tune`."""
HIDDEN, EXPERTS, TOP_K = 7168, 48, 3
"""Of Step-3."""
EVEN = {"variation.experts.law": "even"}


@dataclass(frozen=True, kw_only=True)
class WithLayout(Roofline):
    """Two kernels more on every FFN GPU, streaming at 0.8 of HBM: rows laid out by expert, results summed over top-k.

    The exchange kernels of expert parallelism do both, and their measured times include it.
    """

    def seconds(self, operator: Operator, gpu: Gpu) -> Array:
        """Return the seconds of `operator`; the two kernels belong to the experts."""
        found = super().seconds(operator, gpu)
        if operator.kernel != "grouped_gemm" or operator.rows is None:
            return found
        local = int(operator.shape[2])
        pairs = np.asarray(operator.rows) * local
        asking = 1.0 - comb(EXPERTS - local, TOP_K) / comb(EXPERTS, TOP_K)  # share of tokens with an expert here
        tokens = asking * pairs * EXPERTS / (TOP_K * local)
        laid_out = (tokens + pairs) * HIDDEN * (1.0 + 4.0 / 128.0)
        summed = (tokens + pairs) * HIDDEN * 2.0
        return found + 2 * 3e-6 + (laid_out + summed) / (0.8 * gpu.memory_bandwidth)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing changed, on every side that has it."""

    name: str
    sides: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    cost: CostModel | None = None


AFD, EP = ("AFD, TP8 inside", "AFD, EP8 inside"), ("EP32",)
CASES = (
    Case(name="at its best under 50 ms", sides=AFD + EP),
    Case(name="NIC at 47 GB/s, as DeepEP's kernels reach", sides=AFD, changes={"network.efficiency": 0.94}),
    Case(name="NIC at 40 GB/s, as AFD's", sides=EP, changes={"network.link.bandwidth": f"{400 * 40 / 47:.1f}Gbps"}),
    Case(name="experts exactly even", sides=AFD + EP, changes=EVEN),
    Case(name="row layout and top-k sum as kernels of their own", sides=AFD, cost=WithLayout()),
    Case(name="one message at a time, in index order", sides=AFD, changes={"network.type": "ports"}),
    Case(
        name="CPUs that post, poll and synchronise for nothing",
        sides=AFD,
        changes={f"network.{each}": "0s" for each in ("post", "poll", "synchronise")},
    ),
    Case(name="no overlap", sides=EP, changes={"deployment.single_batch_overlap": False}),
)


def rows() -> Iterator[dict[str, Any]]:
    """Simulate every case; changes are against the side as it is."""
    first: dict[str, float] = {}
    for side, case in ((side, case) for side in SIDES for case in CASES if side in case.sides):
        scenario, own = SIDES[side]
        result = afdsim.simulate(afdsim.load(scenario).varied({**own, **case.changes}), cost=case.cost).summary
        tgs = result["afdsim"]["tgs"]
        yield {
            "side": side,
            "changed": case.name,
            "mean_tpot_ms": result["mean_tpot_ms"],
            "tgs": tgs,
            "tgs_change": tgs / first.setdefault(side, tgs) - 1.0,
        }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows())
    frame.to_csv(folder / "table.csv", index=False, float_format="%.5g")
    print(frame.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
