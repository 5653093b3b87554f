"""Prefill before a router: one cell is the run without it, free prefill is none, and every prompt is accounted for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.books import CAUSES
from afdsim.engine.fleet import route
from afdsim.engine.handover import divided, handed, joined, served
from afdsim.engine.lowering import lower
from afdsim.engine.servers import lower_prefill
from afdsim.simulation import demanded, drawing, execute, member, routing
from afdsim.workload.laws import RequestSource, Trace
from tests.cases import fewer
from tests.laws.test_prefill import KINDS, equal, free, scenario

POLICIES = ("round_robin", "least_requests", "least_kv", "power_of_two")
LENGTHS = st.sampled_from([(300, 9), (80, 1), (700, 30)])


def routed(asked, cells, policy, engine="kernel", change=lambda pool: pool):
    """Demand, what prefill did of it, and the records and choices of some cells."""
    cell = lower(asked, seed=0)
    demand = replace(demanded(asked, cell, 0), overloaded=None)
    done = served(change(lower_prefill(asked, cell)), demand)
    decode = replace(handed(demand, done), routed=True)
    members = [member(drawing(cell, 0, number), decode, engine) for number in range(cells)]
    return demand, done, route(members, decode, routing(policy, 0), None)


@fewer()
@given(st.sampled_from(sorted(KINDS)), LENGTHS, st.sampled_from(POLICIES))
def test_one_cell_behind_prefill_is_the_run_without_a_router(kind, lengths, policy):
    asked = scenario(kind, lengths=lengths)
    demand, done, found = routed(asked, 1, policy)
    cell, *rest = divided(found.records, found.chosen, demand, done).records
    alone = joined(execute(lower(asked, seed=0), handed(demand, done), "kernel"), demand, done)
    seen = np.isin(np.arange(150), done.order)

    for name in cell.requests.__slots__:
        whole = getattr(alone.requests, name)
        assert equal(getattr(cell.requests, name), whole[seen]), name
        assert equal(getattr(rest[0].requests, name), whole[~seen]), name
    assert equal(cell.slices, alone.slices)


@fewer()
@given(st.sampled_from(sorted(KINDS)), st.integers(2, 3), st.sampled_from(POLICIES))
def test_free_prefill_is_a_router_without_prefill(kind, cells, policy):
    demand, _, found = routed(scenario(kind), cells, policy, change=free)
    arrival, (inputs, outputs) = demand.source.times(150), demand.source.columns(150)
    trace = Trace(arrival=arrival, input_len=inputs + 1, output_len=outputs - 1)
    source = RequestSource(trace, None, None, lambda _: np.random.default_rng(0))
    bare = replace(demand, source=source, routed=True)
    cell = lower(scenario(kind, prefill=None), seed=0)
    members = [member(drawing(cell, 0, number), bare, "kernel") for number in range(cells)]
    other = route(members, bare, routing(policy, 0), None)

    assert equal(found.chosen, other.chosen)
    for one, its in zip(found.records, other.records, strict=True):
        assert equal(one.requests.finish, its.requests.finish)
        assert equal(one.boundaries.time, its.boundaries.time)
        assert equal(one.slices, its.slices)


@fewer()
@given(st.sampled_from(sorted(KINDS)), LENGTHS, st.sampled_from(POLICIES))
def test_engines_agree_bit_for_bit(kind, lengths, policy):
    one, other = (routed(scenario(kind, lengths=lengths), 2, policy, engine)[2] for engine in ("kernel", "processes"))

    assert equal(one.chosen, other.chosen)
    for mine, its in zip(one.records, other.records, strict=True):
        assert equal(mine.requests.finish, its.requests.finish)
        assert equal(mine.slices, its.slices)


def fleet(cells=3, lengths=(300, 30), **more):
    return scenario("afd", lengths=lengths, router={"replicas": cells, "policy": "least_requests"}, **more)


@pytest.mark.parametrize("lengths", [(300, 30), (300, 1)])
@pytest.mark.parametrize("stop", [{}, {"max_sim_time": "20ms"}])
def test_every_prompt_and_every_gpu_second_is_accounted_for(lengths, stop):
    result = afdsim.simulate(fleet(lengths=lengths, run={"stop": stop}))
    requests, own = result.requests, result.summary["afdsim"]
    seconds = result.gpus[list(CAUSES)].sum(axis=1)

    assert list(requests["request_id"]) == list(range(len(requests)))
    assert len(requests) == 150 or stop
    assert (requests["cell"] == -1).equals((requests["output_len"] == 1) | (requests["instance"] == -1))
    assert seconds.to_numpy() == pytest.approx([result.summary["duration"]] * len(seconds))
    assert own["gpus"] == len(result.gpus) == 3 * 6 + 4
    assert set(result.gpus["cell"][result.gpus["pool"] == "prefill"]) == {-1}
    assert sum(each["completed"] for each in own["cells"]) <= result.summary["completed"]


def test_the_first_token_is_the_same_whatever_is_behind_prefill():
    one, other = (afdsim.simulate(fleet(cells)) for cells in (1, 3))

    assert one.requests["first_token_s"].equals(other.requests["first_token_s"])
    assert other.summary["mean_ttft_ms"] > 0
    assert other.summary["mean_queue_ms"] < one.summary["mean_queue_ms"]


def test_the_report_tells_prefill_and_cells():
    from afdsim.results.terminal import terminal

    text = terminal(afdsim.simulate(fleet()))

    assert "TTFT" in text
    assert "prefill" in text
    assert "cell[2]" in text
    assert "over all 22 GPUs, prefill's too" in text
