"""Where an open loop is warm, and what its load was: queues of known rates, without an engine."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.results import steady
from afdsim.results.intervals import Interval
from afdsim.results.steady import Load, truncation
from afdsim.workload.rates import Point, RateCurve, TimeChange

STEP = 0.01


def served(rate, seconds, *, slots, service=1.0, seed=0):
    """Requests of a Poisson process, each `service` seconds on one of some slots, first come, first served."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    return queued(arrival, slots, service * rng.uniform(0.8, 1.2, len(arrival)))


def queued(arrival, slots, lasts=None):
    """The same from arrivals and seconds of service, one each where they are not given."""
    lasts = np.ones(len(arrival)) if lasts is None else lasts
    free, admitted = np.zeros(slots), np.empty(len(arrival))
    for request, (moment, length) in enumerate(zip(arrival, lasts, strict=True)):
        slot = int(np.argmin(free))
        admitted[request] = max(moment, free[slot])
        free[slot] = admitted[request] + length
    status = np.full(len(arrival), "finished")
    return {"arrival_s": arrival, "admitted_s": admitted, "finish_s": admitted + lasts, "status": status}


def judged(requests, **given):
    edges = np.linspace(0.0, requests["arrival_s"][-1], 501)
    place, load = steady.found(requests, edges, STEP, given=False, **given)
    return float(edges[place]), load


@pytest.mark.parametrize("rate", [10, 40, 70, 80])
@pytest.mark.parametrize("seconds", [60, 300])
def test_a_load_below_capacity_is_stable_and_its_rates_are_right(rate, seconds):
    start, load = judged(served(rate, seconds, slots=100))

    assert load.level == "STABLE"
    assert 1.0 <= start < seconds / 2
    assert load.offered_interval.low <= rate <= load.offered_interval.high
    assert load.served_interval.low <= load.offered <= load.served_interval.high
    assert load.growth_interval.low <= 0 <= load.growth_interval.high


@pytest.mark.parametrize("rate", [115, 150, 400])
@pytest.mark.parametrize("seconds", [20, 300])
def test_a_load_above_capacity_is_never_stable(rate, seconds):
    _, load = judged(served(rate, seconds, slots=100))

    assert load.level == "OVERLOADED"
    assert load.served == pytest.approx(100, rel=0.06)
    assert load.growth_interval.low <= rate - 100 <= load.growth_interval.high


@settings(max_examples=60, deadline=None)
@given(rate=st.floats(112.0, 300.0), seconds=st.floats(1.0, 80.0), seed=st.integers(0, 1000))
def test_no_run_is_too_short_to_see_that_it_is_not_stable(rate, seconds, seed):
    _, load = judged(served(rate, seconds, slots=100, seed=seed))

    assert load.level != "STABLE"


def curved(points, seconds, *, slots=100, seed=0):
    """Requests whose rate is linear between (time, rate), each a second on one of some slots."""
    rates = np.array(points, float)[:, 1]
    law = RateCurve(points=tuple(Point(at=time, rate=rate) for time, rate in points))
    expected = np.cumsum(np.random.default_rng(seed).exponential(1.0, int(rates.max() * seconds * 1.2)))
    arrival = TimeChange(law, np.random.default_rng(seed))(expected)
    return queued(arrival[arrival <= seconds], slots)


@pytest.mark.parametrize(
    ("points", "level"),
    [
        ([(0, 10), (60, 80), (120, 10)], "STABLE"),
        ([(0, 1), (120, 90)], "STABLE"),
        ([(0, 60), (40, 160), (80, 60), (120, 60)], "BACKLOGGED"),
        ([(0, 120), (60, 180), (120, 120)], "OVERLOADED"),
        ([(0, 10), (120, 300)], "OVERLOADED"),
    ],
    ids=["a day", "a ramp", "a rush", "too much all day", "a ramp beyond capacity"],
)
def test_a_rate_that_changes_is_judged_by_its_queue(points, level):
    requests = curved(points, 120.0)
    edges = np.linspace(0.0, requests["arrival_s"][-1], 501)
    place, load = steady.found(requests, edges, STEP, given=False, changing=True)

    assert (place, load.level) == (0, level)
    assert load.offered == pytest.approx(len(requests["arrival_s"]) / 120.0, rel=0.01)
    assert not any(map(math.isfinite, (*load.offered_interval, *load.served_interval, *load.growth_interval)))
    if level == "STABLE":
        assert steady.found(requests, edges, STEP, given=False)[1].level == "n/a"  # what rests has one level


def test_a_run_that_only_fills_the_cluster_says_how_long_it_should_be():
    start, load = judged(served(50, 1.5, slots=100))

    assert (load.level, start, load.served, load.growth) == ("n/a", 0.0, None, None)
    assert load.wants >= 10.0
    assert judged(served(50, load.wants, slots=100))[1].level == "STABLE"


def test_a_long_queue_that_comes_and_goes_is_stable_and_one_that_stays_is_not():
    # one server at 80 %: every other request queues, and the queue empties all the time
    assert judged(served(0.8, 4000.0, slots=1))[1].level == "STABLE"
    stays = judged(served(1.0, 400.0, slots=1, seed=2))[1]

    assert stays.level in {"BACKLOGGED", "OVERLOADED", "n/a"}


def test_a_given_warm_up_is_taken_as_it_is_and_checked():
    requests = served(60, 100.0, slots=100)
    stop = requests["arrival_s"][-1]

    assert steady.found(requests, np.array([20.0, stop]), STEP, given=True)[1].level == "STABLE"
    fills = served(300, 3.0, slots=1000)
    place, load = steady.found(fills, np.array([0.0, fills["arrival_s"][-1]]), STEP, given=True)
    assert (place, load.level) == (0, "n/a")


def test_refused_requests_are_no_load():
    requests = served(50, 100.0, slots=100)
    requests["status"][::2] = "refused"
    requests["finish_s"][::2] = math.nan

    load = judged(requests)[1]

    assert (load.level, load.offered) == ("STABLE", pytest.approx(25, rel=0.1))


def test_a_burst_at_the_start_is_no_even_load():
    steady_part = served(10, 100.0, slots=100)
    burst = served(4000, 1.0, slots=100)
    later = {name: column + 60.0 if name != "status" else column for name, column in steady_part.items()}
    both = {name: np.concatenate([burst[name], later[name]]) for name in burst}

    load = judged(both)[1]

    assert load.level == "n/a"
    assert "come in the first" in load.why


def test_what_is_served_must_be_known_to_better_than_half():
    arrival = np.concatenate([np.linspace(0.0, 5.0, 40), np.linspace(90.0, 100.0, 400)])
    bursts = {
        "arrival_s": arrival,
        "admitted_s": arrival,
        "finish_s": arrival + 0.5,
        "status": np.full(len(arrival), "finished"),
    }

    assert judged(bursts)[1].level == "n/a"


# the truncation


def test_a_ramp_is_dropped_and_a_level_series_is_kept():
    noise = np.random.default_rng(1).normal(size=100)

    assert truncation(100 + noise) == 0
    assert 15 <= truncation(np.minimum(np.arange(100) * 5.0, 100.0) + noise) <= 30


@pytest.mark.parametrize("level", [0.0, 1.0, 1e6])
def test_a_level_rest_is_level_whatever_is_rounded(level):
    assert truncation(np.array([0.0, 0.0625, 0.0625, 0.0625]) + level) == 1


def test_at_most_half_is_dropped():
    assert truncation(np.arange(100.0)) <= 50


@given(st.lists(st.floats(0, 1e4), min_size=4, max_size=100), st.floats(-1e3, 1e3))
def test_the_truncation_does_not_depend_on_the_level(values, shift):
    series = np.round(np.array(values), 3)

    assert truncation(series) == pytest.approx(truncation(series + round(shift)), abs=0) or np.ptp(series) < 1e-3


def test_a_load_is_read_back_as_it_was():
    for load in (
        Load(level="n/a", offered=2.0, wants=40.0, why="short"),
        Load(level="STABLE", offered=2.0, served=1.9, growth=0.0, served_interval=Interval(1.5, math.inf)),
    ):
        assert Load.read(json.loads(json.dumps(load.plain(), allow_nan=False))) == load
