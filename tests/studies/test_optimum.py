"""The planner against every layout at every batch."""

import numpy as np
import pytest

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.studies.choosing import chosen
from afdsim.studies.layouts import layouts
from afdsim.studies.planner import plan
from afdsim.studies.trials import Question, bounded, offered, paced
from afdsim.studies.tuning import SURE
from tests.cases import tiny_model

MODEL, GPUS, LIMIT = tiny_model(2), {"H800": 2, "H20": 1}, 0.0006
BASE = {
    "model": MODEL,
    "deployment": {
        "type": "tensor_parallel",
        "gpu": "H800",
        "gpus": 1,
        "max_num_seqs": 8,
        "gpu_memory_utilization": 0.04,
    },
    "workload": {"arrival": {"process": "closed_loop"}, "input_len": 32000, "output_len": 16, "num_requests": 1},
    "variation": {"event": 0.006, "step": 0.005, "experts": {"law": "uniform"}},
    "sla": {"tpot": f"{LIMIT}s", "percentile": "mean"},
}
BATCHES = 5
"""Of every layout, at equal ratios."""


@pytest.fixture(scope="module")
def every():
    """What every layout gives at the best of its batches that meets the SLA, and how many were simulated."""
    question, found, count = Question(base=afdsim.load(BASE), limit=LIMIT), {}, 0
    for place, layout in enumerate(layouts(catalog.llm(MODEL), GPUS)):
        bound = bounded(question, layout)
        fewest = int(np.flatnonzero(np.isfinite(bound.tpot))[0])
        some = sorted({round(each) for each in np.geomspace(fewest, len(bound.tpot) - 1, BATCHES)})
        paces = [paced(question, layout, batch) for batch in some]
        fine = [pace for pace in paces if pace.tpot <= SURE * LIMIT]
        count += len(paces)
        if fine:
            best = max(fine, key=lambda pace: pace.tgs)
            found[place] = offered(layout, best.tgs * layout.count, best.tpot, {})
    return found, count


@pytest.mark.parametrize("objective", ["usd", "goodput"])
def test_nothing_that_is_simulated_is_better_than_the_plan(every, objective):
    offers, simulated = every
    picks = chosen(objective, offers, GPUS)
    found = plan(workload=afdsim.load(BASE), gpus=GPUS, objective=objective, cache=None)
    spent = found.counts["measures"] + found.counts["runs"]

    if objective == "goodput":
        best, planned = sum(n * offers[place].rate for place, n in picks.items()), found.best.offer.rate
    else:
        best, planned = offers[next(iter(picks))].figure(objective), found.best.offer.figure(objective)
    assert planned >= (1 - 0.005) * best  # a quick measure is good to about half a percent
    assert spent < simulated / 2
