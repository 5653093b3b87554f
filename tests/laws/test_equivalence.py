"""The two engines give the same bits: every operation, every request, every cause."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afdsim.errors import SimulationError
from afdsim.scenario.document import Scenario
from tests.cases import Outcome, Stages, run, tiny, tiny_windowed


@st.composite
def deployments(draw: st.DrawFn, attention: int = 4, depths: tuple[int, ...] = (2, 3, 4, 5, 6, 7)) -> Scenario:
    """Any small deployment: sizes, jitter, stragglers, skew, slow links, open and closed loops, both boundaries."""
    attention, ffn, gpus = (
        draw(st.integers(1, attention)),
        draw(st.sampled_from([1, 2, 4])),
        draw(st.sampled_from([1, 2])),
    )
    micro_batches = draw(st.integers(1, 4))
    drain = draw(st.booleans())
    changes = {
        "deployment__attention": {"gpu": "H800", "instances": attention, "gpus_per_instance": gpus},
        "deployment__ffn": {"gpu": "H20", "instances": ffn, "gpus_per_instance": gpus},
        "deployment__num_microbatches": micro_batches,
        "deployment__max_num_seqs": draw(st.integers(1, 9)),
        "deployment__boundary": "drain" if drain else "stream",
        "network__type": draw(st.sampled_from(["ports", "dedicated"])),
        "network__link": {"bandwidth": draw(st.sampled_from(["400Gbps", "2Gbps"])), "latency": "5us"},
        "network__synchronise": draw(st.sampled_from(["0s", "8us"])),
        "variation__event": draw(st.sampled_from([0.0, 0.1, 0.7])),
        "variation__step": draw(st.sampled_from([0.0, 0.2])),
        "variation__link": draw(st.sampled_from([0.0, 0.3])),
        "variation__straggler": draw(st.sampled_from([{}, {"attention[0]": 1.5}, {"ffn[0]": 1.2}])),
        "run__granularity": draw(st.sampled_from(["instance", "gpu"])),
    }
    if drain and draw(st.booleans()):
        changes["deployment__gap"] = "50us"
    layers = draw(st.sampled_from(depths))
    if draw(st.booleans()):
        changes["model"] = tiny_windowed(layers)
    return tiny(layers, **changes).vary("workload", draw(workloads()))


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
                {"process": "closed_loop"},
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
            assert list(mine) == list(its)
    for column in ("arrival", "admitted", "first_token", "finish", "seat", "joined", "refused", "counted"):
        mine, its = getattr(one.record.requests, column), getattr(other.record.requests, column)
        assert np.array_equal(np.array(mine), np.array(its), equal_nan=column in ("admitted", "first_token", "finish"))
    for column in ("step", "micro_batch", "unit", "time", "batch", "gaps"):
        assert list(getattr(one.record.boundaries, column)) == list(getattr(other.record.boundaries, column))
    assert one.record.window == other.record.window
    assert np.array_equal(one.record.causes, other.record.causes)


@given(deployments())
def test_processes_and_python_kernel_agree_bit_for_bit(scenario):
    assert_same(run(scenario, "processes"), run(scenario, "kernel-python"))


@settings(max_examples=4)
@given(deployments(attention=8, depths=(13, 61)))
def test_engines_agree_on_deep_models_and_many_instances(scenario):
    scenario = scenario.vary("workload.output_len", {"distribution": "constant", "value": 2})
    scenario = scenario.vary("workload.num_requests", 3)

    assert_same(run(scenario, "processes"), run(scenario, "kernel-python"))


@settings(max_examples=15)
@given(deployments())
def test_python_and_compiled_kernel_agree_bit_for_bit(scenario):
    pytest.importorskip("numba")

    python, compiled = run(scenario, "kernel-python"), run(scenario, "kernel-numba")

    assert_same(python, compiled)
    assert python.record.events == compiled.record.events
    assert python.record.own == pytest.approx(compiled.record.own)


@given(deployments())
def test_no_operation_is_left_out(scenario):
    outcome = run(scenario, "processes")
    assume(outcome.traces)

    assert not any(math.isnan(time) or time < 0 for trace in outcome.traces.values() for row in trace for time in row)
    assert all(all(row) for trace in list(outcome.traces.values())[1:] for row in trace)


def test_a_cost_model_without_closed_form_stays_out_of_machine_code():
    outcome = run(tiny(), "kernel-numba", cost=Stages(attention=1e-3, ffn=1e-3, head=1e-4))

    assert not outcome.program.compiles
    assert_same(outcome, run(tiny(), "processes", cost=Stages(attention=1e-3, ffn=1e-3, head=1e-4)))


def test_a_latency_change_of_two_in_ten_thousand_is_seen():
    changes = {"variation__event": 0.1, "network__synchronise": "8us"}
    one = run(tiny(network__link={"latency": "50us"}, **changes))
    other = run(tiny(network__link={"latency": "50.01us"}, **changes))

    assert one.record.requests.finish != other.record.requests.finish


def test_kernel_refuses_one_layer_with_several_micro_batches_and_auto_falls_back():
    from afdsim.simulation import simulate

    scenario = tiny(1, workload__num_requests=4)
    with pytest.raises(SimulationError, match="one layer with several micro-batches"):
        simulate(scenario.vary("run.engine", "kernel"))

    result = simulate(scenario)

    assert result.manifest.engine == "processes"
    assert "one layer" in result.manifest.engine_reason
