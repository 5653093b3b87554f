"""Hold the planner against every layout at every batch: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv`.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.scenario.document import Scenario
from afdsim.studies.choosing import Objective, Offer, chosen
from afdsim.studies.layouts import Layout, layouts
from afdsim.studies.planner import plan
from afdsim.studies.trials import Question, bounded, offered, paced
from afdsim.studies.tuning import SURE

HERE = Path(__file__).parent
MODEL, LIMIT, OUTPUT = "step3", 0.05, 512
BATCHES = 12
"""Of every layout, at equal ratios, from one sequence a micro-batch to what memory holds."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """GPUs and a context for which everything is simulated, and what is sought."""

    name: str
    context: int
    gpus: Mapping[str, int]
    objectives: tuple[Objective, ...]


GRIDS = (
    Grid(name="24 H800, 4K", context=4096, gpus={"H800": 24}, objectives=("tgs", "goodput")),
    Grid(name="24 H800, 8K", context=8192, gpus={"H800": 24}, objectives=("tgs", "goodput")),
    Grid(name="24 H800, 32K", context=32768, gpus={"H800": 24}, objectives=("tgs", "goodput")),
    Grid(
        name="8 H800 and 8 H20, 8K",
        context=8192,
        gpus={"H800": 8, "H20": 8},
        objectives=("tgs", "usd", "goodput"),
    ),
)


def asked(grid: Grid) -> Scenario:
    """What is asked of every layout: a mean of 50 ms per token, with the jitter of the main scenario."""
    return afdsim.load(
        {
            "model": MODEL,
            "deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 8},
            "workload": {
                "arrival": {"process": "closed_loop"},
                "input_len": grid.context - OUTPUT // 2,
                "output_len": OUTPUT,
                "num_requests": 1,
            },
            "variation": {"event": 0.006, "step": 0.005, "link": 0.027, "experts": {"law": "uniform"}},
            "sla": {"tpot": f"{LIMIT * 1e3:g}ms", "percentile": "mean"},
        }
    )


def batches(question: Question, layout: Layout) -> list[int]:
    """The batches of a layout; none where the model does not fit."""
    bound = bounded(question, layout)
    if isinstance(bound, str):
        return []
    fewest = int(np.flatnonzero(np.isfinite(bound.tpot))[0])
    return sorted({round(each) for each in np.geomspace(fewest, len(bound.tpot) - 1, BATCHES)})


def measured(question: Question, layout: Layout) -> list[Offer]:
    """What a layout gives at each of its batches, as far as the SLA is met with the planner's own margin."""
    found = [pace for batch in batches(question, layout) if (pace := paced(question, layout, batch)) is not None]
    offers = [offered(layout, pace.tgs * layout.count, pace.tpot, {}) for pace in found]
    return [
        offer if pace.tpot <= SURE * LIMIT else offer._replace(rate=0.0)
        for offer, pace in zip(offers, found, strict=True)
    ]


def total(offers: Mapping[int, Offer], picks: Mapping[int, int], objective: Objective) -> float:
    """Tokens per second of a fleet, or the figure of a cell."""
    if objective == "goodput":
        return sum(count * offers[place].rate for place, count in picks.items())
    return max((offers[place].figure(objective) for place in picks), default=0.0)


def compared(grid: Grid, workers: int) -> Iterator[dict[str, object]]:
    """Yield a row for each objective."""
    question = Question(base=asked(grid), limit=LIMIT)
    every = list(layouts(catalog.llm(MODEL), grid.gpus))
    with ProcessPoolExecutor(workers) as pool:
        answers = list(pool.map(partial(measured, question), every, chunksize=4))
    best = {n: max(offers, key=lambda offer: offer.rate) for n, offers in enumerate(answers) if offers}
    simulated = sum(map(len, answers))
    for objective in grid.objectives:
        picks = chosen(objective, best, grid.gpus)
        found = plan(workload=question.base, gpus=grid.gpus, objective=objective, cache=None)
        own = Counter({n: pick.replicas for n, pick in enumerate(found.best.picks)})
        quick = dict(enumerate(_quick(question, pick.trial.layout, pick.trial.batch) for pick in found.best.picks))
        spent = found.counts["measures"] + found.counts["runs"]
        exhaustive, planned = total(best, picks, objective), total(quick, own, objective)
        yield {
            "grid": grid.name,
            "objective": objective,
            "layouts": len(every),
            "simulated": simulated,
            "by the planner": spent,
            "share": spent / simulated,
            "best of all": exhaustive,
            "planner": planned,
            "planner over best": planned / exhaustive,
            "best layout of all": " and ".join(f"{count} x {every[n].label}" for n, count in picks.items()),
            "planner's layout": found.best.label,
        }


def _quick(question: Question, layout: Layout, batch: int) -> Offer:
    """The same quick measure of the planner's cell."""
    pace = paced(question, layout, batch)
    return offered(layout, pace.tgs * layout.count, pace.tpot, {})


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for grid in GRIDS:
        rows += compared(grid, given.workers)
        pd.DataFrame(rows).to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
