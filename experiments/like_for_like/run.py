"""What each thing is worth in which AFD and colocated expert parallelism are not priced alike.

``python run.py [-o FOLDER]``; FOLDER (default: `expected` beside this file) gets `table.csv`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
AFD, EP = "step3_2a2f_4k", "step3_ep32"
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
        local = operator.shape[2]
        pairs = np.asarray(operator.rows) * local
        tokens = pairs * EXPERTS / (TOP_K * local)
        laid_out = (tokens + pairs) * HIDDEN * (1.0 + 4.0 / 128.0)
        summed = (tokens + pairs) * HIDDEN * 2.0
        return found + 2 * 3e-6 + (laid_out + summed) / (0.8 * gpu.memory_bandwidth)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing changed on one side."""

    name: str
    scenario: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    cost: CostModel | None = None


CASES = (
    Case(name="as shipped", scenario=AFD),
    Case(name="NIC at 43 GB/s, as DeepEP reaches on H800", scenario=AFD, changes={"network.efficiency": 0.86}),
    Case(name="experts exactly even", scenario=AFD, changes=EVEN),
    Case(name="row layout and top-k sum as kernels of their own", scenario=AFD, cost=WithLayout()),
    Case(name="queue pairs share a NIC, no index order", scenario=AFD, changes={"network.type": "shared"}),
    Case(name="as shipped", scenario=EP),
    Case(name="NIC at 40 GB/s, as AFD's", scenario=EP, changes={"network.link.bandwidth": "372Gbps"}),
    Case(name="experts exactly even", scenario=EP, changes=EVEN),
)


def rows() -> Iterator[dict[str, Any]]:
    """Simulate every case; changes are against the side as shipped."""
    shipped: dict[str, float] = {}
    for case in CASES:
        own = afdsim.simulate(afdsim.load(case.scenario).varied(dict(case.changes)), cost=case.cost).summary
        tgs = own["afdsim"]["tgs"]
        first = shipped.setdefault(case.scenario, tgs)
        yield {
            "scenario": case.scenario,
            "changed": case.name,
            "mean_tpot_ms": own["mean_tpot_ms"],
            "tgs": tgs,
            "tgs_change": tgs / first - 1.0,
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
