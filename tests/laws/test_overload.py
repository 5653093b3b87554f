"""An open loop that does not carry its load ends with its last arrival, by both engines at the same bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.lowering import lower
from afdsim.simulation import demanded, execute
from tests.cases import Outcome, run, tiny
from tests.laws.test_equivalence import assert_same

CAPACITY = 446.0
"""Requests per second of the tiny cell below."""


def loaded(rate, requests=1500, **changes):
    """Poisson arrivals at a cell of 1A1F that carries some 446 of them a second."""
    arrival = {"process": "poisson", "request_rate": f"{rate} req/s"}
    return tiny(2, workload__arrival=arrival, workload__num_requests=requests, **changes)


def to_the_end(scenario, seed=0):
    """The same run without a judge."""
    cell = lower(scenario, seed=seed)
    demand = replace(demanded(scenario, cell, seed), overloaded=None)
    return Outcome(cell=cell, record=execute(cell, demand, "kernel"), traces={})


@given(
    rate=st.floats(0.7 * CAPACITY, 2.6 * CAPACITY),
    seed=st.integers(0, 50),
    jitter=st.sampled_from([0.0, 0.1]),
    warmup=st.sampled_from([None, "10ms"]),
)
def test_both_engines_end_an_overload_at_the_same_bit(rate, seed, jitter, warmup):
    scenario = loaded(6 * rate, 240, workload__output_len=2, variation__event=jitter, run__warmup=warmup)
    slow, fast = (run(scenario, engine, seed=seed) for engine in ("processes", "kernel"))

    assert slow.record.overloaded == fast.record.overloaded
    assert slow.record.ended == fast.record.ended
    assert_same(slow, fast)


@pytest.mark.parametrize("rate", [2 * CAPACITY, 10 * CAPACITY])
def test_an_overload_ends_with_the_first_step_after_the_last_arrival(rate):
    cut, whole = run(loaded(rate)).record, to_the_end(loaded(rate)).record

    assert (cut.overloaded, whole.overloaded) == (True, False)
    last = cut.requests.arrival.max()
    opened = np.unique(whole.boundaries.time[whole.boundaries.time >= last])
    assert opened[0] <= cut.ended <= opened[:4].max()  # a step has three boundaries
    assert cut.steps < whole.steps
    done = ~np.isnan(cut.requests.finish)
    assert np.array_equal(cut.requests.finish[done], whole.requests.finish[done])
    assert np.isnan(cut.requests.finish).sum() == (whole.requests.finish > cut.ended).sum()


@pytest.mark.parametrize("rate", [0.3 * CAPACITY, 0.7 * CAPACITY])
def test_a_load_that_is_carried_goes_on_until_all_have_left(rate):
    record = run(loaded(rate)).record

    assert not record.overloaded
    assert not np.isnan(record.requests.finish).any()


@pytest.mark.parametrize("warmup", [None, "200ms"])
@pytest.mark.parametrize("rate", [2 * CAPACITY, 10 * CAPACITY])
def test_an_overload_says_so_and_its_rates_are_those_of_the_whole_run(rate, warmup):
    scenario = loaded(rate, 4000, sla={"tpot": "1s"}, run__warmup=warmup)
    result = afdsim.simulate(scenario)
    own = result.summary["afdsim"]

    assert own["load"] == own["saturation"]["level"] == "OVERLOADED"
    assert own["saturation"]["ended_s"] >= result.requests.arrival_s.max()
    assert own["saturation"]["served"] == pytest.approx(CAPACITY, rel=0.03)
    assert own["unfinished"] == (result.requests.counted & result.requests.finish_s.isna()).sum() > 0
    assert result.summary["completed"] > 30
    assert (own["sla"]["met"], own["sla"]["verdict"], own["sla"]["goodput_share"]) == (False, "FAIL", 1.0)
    assert any(note.startswith("overloaded: the run ended with its last arrival, at ") for note in result.notes)


def test_who_waits_for_longer_than_a_limit_is_known_to_miss_it():
    sla = {"e2el": "100ms", "queue": "50ms", "percentile": "p50"}
    result = afdsim.simulate(loaded(10 * CAPACITY, 4000, sla=sla))
    asked = result.requests[result.requests.counted]
    age = result.summary["afdsim"]["saturation"]["ended_s"] - asked.arrival_s
    missed = (asked.finish_s.isna() & (age > 0.1)) | (asked.admitted_s.isna() & (age > 0.05))
    good = (asked.e2el_ms <= 100) & (asked.queue_ms <= 50)

    assert result.summary["afdsim"]["sla"]["goodput_share"] == good.sum() / (asked.finish_s.notna() | missed).sum()


def test_a_run_with_failures_is_not_ended():
    crash = {"events": [{"at": "1ms", "target": "ffn[0]"}], "repair": "0s", "detection": "0s", "restart": "1s"}
    scenario = loaded(2 * CAPACITY, failures=crash | {"requests": "reject"})

    assert not run(scenario).record.overloaded


@pytest.mark.parametrize(("most", "level"), [(0.8, "STABLE"), (2.0, "OVERLOADED")])
def test_a_ramp_is_carried_or_ends_with_its_last_arrival(most, level):
    points = [{"at": "0s", "rate": "1 req/s"}, {"at": "8s", "rate": f"{most * CAPACITY} req/s"}]
    scenario = tiny(2).varied(
        {
            "workload.arrival": {"process": "rate_curve", "points": points},
            "workload.num_requests": None,
            "workload.duration": "8s",
        }
    )
    result = afdsim.simulate(scenario)
    own = result.summary["afdsim"]

    assert (own["load"], "ended_s" in own["saturation"]) == (level, level == "OVERLOADED")
    assert "served_ci" not in own["saturation"]
    assert "tgs" in own
    assert level != "STABLE" or "tgs_ci" not in own  # of an overload it is that of the cell's steps
    assert result.run.window == pytest.approx((0.0, result.requests.arrival_s.max()))
