"""The two engines give the same bits: every operation, every request, every cause."""

import math
from dataclasses import fields
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afdsim.engine import blocks
from afdsim.engine.lowering import lower
from afdsim.engine.record import Boundaries, Requests, Stays
from afdsim.engine.variation import Variation
from afdsim.errors import SimulationError
from afdsim.scenario.document import Scenario
from afdsim.simulation import demanded, execute
from tests.cases import Outcome, Stages, run, tiny, tiny_hybrid, tiny_sparse, tiny_windowed, unseen

SKEWS = [{}, {"law": "power_law", "skew": 0.8}, {"law": "slowest", "max_over_mean": 1.3}]
"""Laws of the load of experts."""
SPIKES = [
    None,
    {"probability": 0.05, "factor": 7.0},
    {"probability": 0.05, "seconds": "2ms"},
    {"probability": 0.05, "seconds": "2ms", "where": "link"},
]
"""Rare operations that take longer, and rare posts that come later."""
SIDES = [(1, 1), (2, 2), (2, 1), (1, 2), (2, 4), (3, 2), (4, 4), (5, 4)]
"""GPUs of an attention and of an FFN instance: at GPU granularity one rail or several, of as many ranks or not."""


UPLINKS = [
    None,
    None,
    {"oversubscription": 1},
    {"oversubscription": 3, "latency": "1us"},
    {"bandwidth": "3Gbps", "latency": "700ns"},
]
DEGRADED = [{}, {}, {"attention[0]": 0.5}, {"ffn[0].nic[0]": 0.3}, {"ffn[0]": 0.8, "attention[0].nic[0]": 0.6}]


@st.composite
def cablings(draw: st.DrawFn, gpus: tuple[int, int]) -> dict[str, object]:
    """Uplinks, degraded NICs, bonded ports and shared NICs between instances of so many GPUs."""
    shared = [
        {"attention": a, "ffn": f}
        for a, f in product(range(1, gpus[0] + 1), range(1, gpus[1] + 1))
        if gpus[0] % a == gpus[1] % f == 0 and nest(gpus[0] // a, gpus[1] // f, min(gpus))
    ]
    uplinks, nics = draw(st.sampled_from(UPLINKS)), draw(st.sampled_from([None, None, *shared]))
    own = (nics["attention"], nics["ffn"]) if nics else gpus
    rails = min(gpus) // max(count // n for count, n in zip(gpus, own, strict=True))
    if any(n % rails for n in own) and uplinks is not None:
        uplinks = {"bandwidth": "3Gbps"}  # rails with unequal NICs have no ratio of their own
    bonded = draw(st.sampled_from([{}, {"ports": 2}, {"ports": 2, "split": False}]))
    return {
        "network__link": {"bandwidth": draw(st.sampled_from(["400Gbps", "2Gbps"])), "latency": "5us", **bonded},
        "network__nics_per_instance": nics,
        "network__uplinks": uplinks,
        "network__degraded": draw(st.sampled_from(DEGRADED)),
    }


def nest(one: int, other: int, met: int) -> bool:
    """Whether NICs that serve so many GPUs serve the same ones, of those that meet."""
    return not max(one, other) % min(one, other) and not met % max(one, other)


@st.composite
def deployments(draw: st.DrawFn, attention: int = 4, depths: tuple[int, ...] = (2, 3, 4, 5, 6, 7)) -> Scenario:
    """Any small deployment: sizes, jitter, spikes, stragglers, skew, drafts, every network, both boundaries."""
    gpus = draw(st.sampled_from(SIDES))
    drain = draw(st.booleans())
    instances = draw(st.integers(1, attention))
    changes = {
        "deployment__attention": {
            "gpu": "H800",
            "instances": instances,
            "groups": draw(st.sampled_from([groups for groups in (1, 2, 3, 4) if instances % groups == 0])),
            "gpus_per_instance": gpus[0],
        },
        "deployment__ffn": {
            "gpu": "H20",
            "instances": draw(st.sampled_from([1, 2, 4])),
            "gpus_per_instance": gpus[1],
            "across": draw(st.sampled_from(["experts", "width"])),
            "kernels": draw(st.sampled_from([[], ["swapab"]])),
        },
        "deployment__num_microbatches": draw(st.integers(1, 4)),
        "deployment__max_num_seqs": draw(st.integers(1, 9)),
        "deployment__boundary": "drain" if drain else "stream",
        "network__type": draw(st.sampled_from(["ports", "shared", "dedicated"])),
        "network__link": {"bandwidth": draw(st.sampled_from(["400Gbps", "2Gbps"])), "latency": "5us"},
        "network__synchronise": draw(st.sampled_from(["0s", "8us"])),
        "variation__event": draw(st.sampled_from([0.0, 0.1, 0.7])),
        "variation__step": draw(st.sampled_from([0.0, 0.2])),
        "variation__link": draw(st.sampled_from([0.0, 0.3])),
        "variation__straggler": draw(st.sampled_from([{}, {"attention[0]": 1.5}, {"ffn[0]": 1.2}])),
        "variation__spike": draw(st.sampled_from(SPIKES)),
        "variation__experts": draw(st.sampled_from(SKEWS)),
        "run__granularity": draw(st.sampled_from(["instance", "gpu"])),
    }
    if draw(st.booleans()):
        changes["deployment__host_overhead"] = "70us"
    if drain and draw(st.booleans()):
        changes["deployment__gap"] = "50us"
    if draw(st.integers(0, 2)) == 0:
        changes["deployment__mtp"] = draw(drafts(most=2))
    if changes["network__type"] != "dedicated":
        changes |= draw(cablings(gpus))
    layers = draw(st.sampled_from(depths))
    if draw(st.booleans()):
        changes["model"] = draw(st.sampled_from([tiny_windowed, tiny_sparse, tiny_hybrid]))(layers)
    return tiny(layers, **changes).vary("workload", draw(workloads()))


@st.composite
def drafts(draw: st.DrawFn, most: int = 3) -> dict[str, object]:
    """Multi-token prediction."""
    return {"draft": draw(st.integers(1, most)), "acceptance": draw(st.sampled_from([0.0, 0.6, 1.0]))}


CLOSED = {"process": "closed_loop"}
SHORT = {"distribution": "lognormal", "mean": 300, "cv": 1.0, "max": 3000}
HUGE = {"distribution": "lognormal", "mean": 30_000_000, "cv": 1.0, "max": 200_000_000}
"""Contexts that fill the KV cache of a rank with a few sequences, and sometimes with less than one."""


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, object]:
    """Closed loops and open loops from idle to overloaded."""
    rate = draw(st.sampled_from(["20 req/s", "2000 req/s", "100000 req/s"]))
    arrival = draw(
        st.sampled_from(
            [
                CLOSED,
                {"process": "poisson", "request_rate": rate},
                {"process": "constant", "request_rate": rate},
                {"process": "gamma", "request_rate": rate, "burstiness": 0.3},
            ]
        )
    )
    constant = {"distribution": "constant", "value": draw(st.integers(1, 6))}
    spread = {"distribution": "lognormal", "mean": 6, "cv": 0.8, "max": 30}
    return {
        "arrival": arrival,
        "input_len": draw(st.sampled_from([SHORT, HUGE])),
        "output_len": draw(st.sampled_from([constant, spread])),
        "num_requests": draw(st.integers(1, 40)),
    }


def assert_same(one: Outcome, other: Outcome) -> None:
    """Every bit of what happened, NaN where nothing did."""
    assert one.traces.keys() == other.traces.keys()
    for step, trace in one.traces.items():
        for mine, its in zip(trace, other.traces[step], strict=True):
            assert np.array_equal(mine, its)
    for part, kind in (("requests", Requests), ("stays", Stays), ("boundaries", Boundaries)):
        for column in fields(kind):
            mine, its = (getattr(getattr(each.record, part), column.name) for each in (one, other))
            assert mine.dtype == its.dtype
            assert np.array_equal(mine, its, equal_nan=mine.dtype.kind == "f")
    assert one.record.window == other.record.window
    assert np.array_equal(one.record.causes, other.record.causes)
    assert np.array_equal(one.record.own, other.record.own)
    assert np.array_equal(one.record.steps_run, other.record.steps_run)
    assert one.record.outages == other.record.outages


@given(deployments())
def test_processes_and_kernel_agree_bit_for_bit(scenario):
    assert_same(run(scenario, "processes"), run(scenario, "kernel"))


@settings(max_examples=4)
@given(deployments(attention=8, depths=(13, 61)))
def test_engines_agree_on_deep_models_and_many_instances(scenario):
    scenario = scenario.vary("workload.output_len", {"distribution": "constant", "value": 2})
    scenario = scenario.vary("workload.num_requests", 3)

    assert_same(run(scenario, "processes"), run(scenario, "kernel"))


@settings(max_examples=15)
@given(deployments())
def test_an_observer_changes_nothing(scenario):
    """With one the kernel runs step by step, without one many steps in a call."""
    cell = lower(scenario, seed=0)
    blind = execute(cell, demanded(scenario, cell, 0), "kernel")
    seen = run(scenario)

    assert_same(seen, Outcome(cell=cell, record=blind, traces=seen.traces))
    assert blind.events == seen.record.events


@pytest.mark.parametrize("engine", ["processes", "kernel"])
def test_an_observer_sees_every_step_once_and_in_order(engine):
    """Though a block of the kernel ends, too, where requests, prices or rows are wanting and no step was made."""
    scenario, seen = tiny(workload__num_requests=40), []
    cell = lower(scenario, seed=0)
    record = execute(cell, demanded(scenario, cell, 0), engine, observer=lambda step, _: seen.append(step))

    assert seen == [*range(record.steps)]


def test_factors_are_the_same_however_few_steps_are_drawn_at_a_time(monkeypatch):
    scenario = tiny(variation__event=0.1, variation__step=0.1, workload__num_requests=9)
    many = unseen(scenario)
    monkeypatch.setattr(blocks, "BLOCK_FACTORS", 1)

    assert_same(many, unseen(scenario))


@given(deployments())
def test_no_operation_is_left_out(scenario):
    outcome = run(scenario, "processes")
    assume(outcome.traces)
    columns = [np.array(column) for trace in outcome.traces.values() for column in trace]

    assert not any(np.isnan(column).any() or (column < 0).any() for column in columns)
    for trace in list(outcome.traces.values())[1:]:
        assert all(np.all(column) for column in (trace.start, trace.finish, trace.first, trace.last))


def test_a_cost_model_without_closed_form_runs_by_both_engines():
    cost = Stages(attention=1e-3, ffn=1e-3, head=1e-4)

    assert_same(run(tiny(), "processes", cost=cost), run(tiny(), "kernel", cost=cost))


# the law can fail ----------------------------------------------------------------------------------------------------


def test_a_latency_change_of_two_in_ten_thousand_is_seen():
    changes = {"variation__event": 0.1, "network__synchronise": "8us"}
    one = run(tiny(network__link={"latency": "50us"}, **changes))
    other = run(tiny(network__link={"latency": "50.01us"}, **changes), "processes")

    with pytest.raises(AssertionError):
        assert_same(one, other)
    assert one.record.requests.finish.tolist() != other.record.requests.finish.tolist()


@pytest.mark.parametrize("engine", ["processes", "kernel"])
@pytest.mark.parametrize("pool", ["attention", "ffn"])
def test_the_last_bit_of_one_factor_is_seen(monkeypatch, engine, pool):
    scenario, cost = tiny(variation__event=0.1), Stages(**{pool: 1.0})  # long, so that no sum rounds it away
    before = run(scenario, cost=cost)
    place = int(before.cell.variation.units[0 if pool == "attention" else 1])
    drawn = Variation.operations

    def nudged(variation, steps):
        factors = drawn(variation, steps)
        if 0 in steps:
            factors[place] = math.nextafter(factors[place], 2.0)
        return factors

    assert_same(before, run(scenario, "processes", cost=cost))
    monkeypatch.setattr(Variation, "operations", nudged)
    after = run(scenario, engine, cost=cost)

    with pytest.raises(AssertionError):
        assert_same(before, after)
    assert after.record.requests.finish == pytest.approx(before.record.requests.finish, rel=1e-12, nan_ok=True)


# what the kernel leaves to the processes -----------------------------------------------------------------------------


def test_kernel_refuses_one_layer_with_several_micro_batches_and_auto_falls_back():
    from afdsim.simulation import simulate

    scenario = tiny(1, workload__num_requests=4)
    with pytest.raises(SimulationError, match="one layer with several micro-batches"):
        simulate(scenario.vary("run.engine", "kernel"))

    result = simulate(scenario)

    assert result.manifest.engine == "processes"
    assert "one layer" in result.manifest.engine_reason
