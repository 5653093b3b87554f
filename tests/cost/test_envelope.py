"""What no schedule of a deployment can beat, held against what simulations of random deployments give."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.cluster.experts import Load
from afdsim.cost.loads import floors
from afdsim.errors import AfdsimError
from afdsim.scenario.document import load
from afdsim.studies.layouts import Layout, layouts
from afdsim.studies.points import Models
from afdsim.studies.trials import Question, bounded, paced
from tests.cases import Stages, Wires, fewer, tiny, tiny_hybrid, tiny_model, tiny_sparse, tiny_windowed
from tests.cost.drawn import drawn

TINY = (tiny_model(4, 1), tiny_windowed(4), tiny_sparse(4), tiny_hybrid(4))
MOST = 10_000
"""Sequences of a cell, so that a case takes a tenth of a second."""


def case(seed, models, sequences=MOST):
    """A random question, a layout that fits, and a batch; draws again until a scenario allows and memory holds it."""
    rng = random.Random(seed)
    while True:
        try:
            base, layout = drawn(rng, models)
        except AfdsimError:
            continue
        question = Question(base=base)
        bound = bounded(question, layout)
        fewest = base.deployment.num_microbatches
        if isinstance(bound, str):
            continue
        most = min(len(bound.tpot) - 1, sequences * base.deployment.max_num_seqs // base.deployment.slots)
        if most >= fewest:
            return question, layout, bound, round(fewest * (most / fewest) ** rng.random())


def excess(seed, models, sequences=MOST):
    """What a simulation gives over what it may give at most, in tokens per second; None where it is not run."""
    question, layout, bound, batch = case(seed, models, sequences)
    found = paced(question, layout, batch)
    return None if found is None else found.tgs * layout.count / bound.rate[batch]


@fewer(1)
@given(st.integers(0, 2**32))
def test_no_simulation_gives_more_than_its_bound(seed):
    assert (excess(seed, TINY, 1_000) or 0.0) <= 1.0


@pytest.mark.slow
def test_no_simulation_of_ten_thousand_gives_more_than_its_bound():
    ratios = np.array([found for seed in range(10_000) if (found := excess(seed, catalog.llms())) is not None])

    assert len(ratios) > 9_900
    assert ratios.max() <= 1.0
    assert np.median(ratios) >= 0.94


def near(law, deployment):
    """What a simulation gives over its bound, of a deployment that the planner knows, with the jitter of the paper."""
    lengths = {"arrival": {"process": "closed_loop"}, "input_len": 3840, "output_len": 512, "num_requests": 9}
    data = {
        "model": "step3-small",
        "deployment": {**deployment, "gpu": "H800", "max_num_seqs": 64},
        "variation": {"event": 0.006, "step": 0.005, "link": 0.027, "experts": {"law": law}},
        "workload": lengths,
    }
    question = Question(base=load(data))
    layout = Layout(family="", label="", deployment=deployment | {"gpu": "H800"}, gpus={"H800": 8})
    return paced(question, layout, 64).tgs * 8 / bounded(question, layout).rate[64]


@pytest.mark.parametrize("law", ["even", "uniform"])
@pytest.mark.parametrize(
    "deployment",
    [
        {"type": "colocated", "instances": 1},
        {"type": "colocated", "instances": 1, "single_batch_overlap": True},
        {"type": "tensor_parallel", "gpus": 8, "ep": 8},
    ],
)
def test_a_bound_is_near_however_experts_are_loaded(law, deployment):
    assert 0.95 < near(law, deployment) <= 1.0


@pytest.mark.parametrize("models", [Models(cost=Stages(attention=1e-4, ffn=2e-4)), Models(network=Wires(out=1e-7))])
def test_no_simulation_gives_more_than_its_bound_by_models_of_the_callers(models):
    base = tiny(6, variation={"link": 0}, network={"type": "shared"})
    some = [layout for layout in layouts(catalog.llm(tiny_model(6)), {"H800": 4}) if layout.count > 1]
    question = Question(base=base, models=models)

    for layout in some:
        found = paced(question, layout, 24)
        assert found.tgs * layout.count <= bounded(question, layout).rate[24]


@given(
    st.lists(st.lists(st.tuples(st.floats(0.1, 4), st.floats(-3, 4)), min_size=1, max_size=4), min_size=1, max_size=40),
    st.floats(0, 4),
    st.floats(0, 2),
)
def test_floors_are_never_above_the_loads(layers, deviation, skewness):
    loads = [Load(tuple(ranks), deviation, skewness, 8.0) for ranks in layers]
    tokens = np.array([1.0, 8.0, 64.0, 1024.0, 1e5])
    found = floors(loads)
    summed = (found.layers[:, np.newaxis] * found.of(tokens)).sum(axis=0)

    assert found.layers.sum() == len(loads)
    assert (summed <= sum(load.of(tokens) for load in loads) + 1e-9).all()
