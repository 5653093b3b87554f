"""Arrivals whose rate changes: against the theory of Markov-modulated Poisson processes and the integral of a curve."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.scenario.document import load
from afdsim.scenario.requests import COLUMNS, requested
from afdsim.scenario.streams import stream
from afdsim.workload.laws import BLOCK, Constant, Poisson, RequestSource, arrivals
from afdsim.workload.rates import Modulated, Point, RateCurve, State, TimeChange

ON_OFF = Modulated(states=(State(rate=40.0, dwell=0.5), State(rate=4.0, dwell=1.5)))
CIRCLE = Modulated(states=(State(rate=2.0, dwell=1.0), State(rate=30.0, dwell=0.3), State(rate=9.0, dwell=0.7)))
DAY = RateCurve(points=(Point(at=0.0, rate=2.0), Point(at=9.0, rate=30.0), Point(at=14.0, rate=8.0)), period=24.0)


def source(law, seed=0):
    return RequestSource(law, Constant(value=1), Constant(value=1), lambda column: stream(seed, COLUMNS[column]))


def dispersion(times, width):
    """Variance over mean of the arrivals in windows."""
    counts = np.histogram(times, np.arange(0.0, times[-1], width))[0]
    return counts.var() / counts.mean()


# bursts


@pytest.mark.parametrize("law", [ON_OFF, CIRCLE], ids=["on and off", "three states"])
def test_bursts_have_the_mean_rate_of_their_states(law):
    times = source(law).times(400_000)
    dwells = np.array([state.dwell for state in law.states])

    assert law.rate == pytest.approx(np.dot([state.rate for state in law.states], dwells / dwells.sum()))
    assert len(times) / times[-1] == pytest.approx(law.rate, rel=0.02)  # standard error 0.6 %: bursts count for less


@pytest.mark.parametrize("width", [0.2, 1.0, 4.0])
def test_the_dispersion_of_two_states_is_its_closed_form(width):
    first, second = ON_OFF.states
    out, back = 1 / first.dwell, 1 / second.dwell  # rates of leaving the states (Fischer and Meier-Hellstern 1993)
    whole = out + back
    grown = 2 * (first.rate - second.rate) ** 2 * out * back / (whole**2 * (first.rate * back + second.rate * out))
    truth = 1 + grown * (1 - (1 - math.exp(-whole * width)) / (whole * width))

    assert dispersion(source(ON_OFF).times(600_000), width) == pytest.approx(truth, rel=0.05)


def test_the_dispersion_of_a_circle_is_that_of_its_generator():
    dwells, rates = np.array([[state.dwell, state.rate] for state in CIRCLE.states]).T
    generator = np.diag(-1 / dwells) + np.roll(np.diag(1 / dwells), 1, axis=1)
    share, ones, width = dwells / dwells.sum(), np.ones((3, 1)), 40.0
    deviation = np.linalg.inv(ones * share - generator) - ones * share
    mean, settled = share @ rates, (share * rates) @ deviation @ deviation @ rates
    truth = 1 + 2 * ((share * rates) @ deviation @ rates - settled / width) / mean

    assert dispersion(source(CIRCLE).times(2_000_000), width) == pytest.approx(truth, rel=0.06)


def test_bursts_are_stationary_from_the_first_moment():
    early = [int((source(ON_OFF, seed).times(200) <= 1.0).sum()) for seed in range(1000)]

    assert np.mean(early) == pytest.approx(ON_OFF.rate, rel=0.08)  # standard error 2 %
    assert np.var(early) / np.mean(early) > 5


def test_states_of_one_rate_are_a_poisson_process():
    even = Modulated(states=(State(rate=9.0, dwell=1.0), State(rate=9.0, dwell=2.0)))

    assert source(even).times(5000) == pytest.approx(arrivals(Poisson(rate=9.0), stream(0, "arrivals"), 5000), rel=1e-9)


def test_nobody_comes_in_silence():
    silent = Modulated(states=(State(rate=100.0, dwell=1.0), State(rate=0.0, dwell=50.0)))
    gaps = np.diff(source(silent).times(20_000))
    long = gaps[gaps > 1.0]

    assert len(long) > 100
    assert long.mean() == pytest.approx(50.0, rel=0.2)


# curves


def integral(law, times):
    """Expected arrivals up to some times, from the points of the curve alone."""
    knots = [(point.at, point.rate) for point in law.points]
    if law.period is None:
        knots.append((max(times.max(), knots[-1][0]) + 1.0, knots[-1][1]))
    elif knots[-1][0] < law.period:
        knots.append((law.period, knots[0][1]))
    at, rate = np.array(knots).T
    area = np.concatenate([[0.0], np.cumsum(np.diff(at) * (rate[1:] + rate[:-1]) / 2)])
    rounds, within = np.divmod(times, law.period) if law.period else (np.zeros(len(times)), times)
    place = np.clip(np.searchsorted(at, within, side="right") - 1, 0, len(at) - 2)
    slope = np.divide(np.diff(rate), np.diff(at), out=np.zeros(len(at) - 1), where=np.diff(at) > 0)[place]
    since = within - at[place]
    return rounds * area[-1] + area[place] + since * (rate[place] + slope * since / 2)


rates = st.floats(0.05, 200.0)
steps = st.lists(st.tuples(st.floats(0.01, 50.0), rates), max_size=5)


@given(first=rates, steps=steps, rest=st.one_of(st.none(), st.floats(0.01, 50.0)), seed=st.integers(0, 99))
def test_the_integral_of_a_curve_up_to_its_arrivals_is_a_poisson_process_of_rate_one(first, steps, rest, seed):
    times = np.cumsum([0.0, *(step for step, _ in steps)]).tolist()
    points = tuple(Point(at=at, rate=rate) for at, rate in zip(times, [first, *(r for _, r in steps)], strict=True))
    law = RateCurve(points=points, period=None if rest is None else times[-1] + rest)
    found = source(law, seed).times(300)

    assert np.all(np.diff(found) >= 0)
    expected = arrivals(Poisson(rate=1.0), stream(seed, "arrivals"), 300)
    assert integral(law, found) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_hours_of_a_day_have_their_share_of_arrivals():
    times, hours = source(DAY).times(300_000), np.arange(25.0)
    counts = np.histogram(times % 24.0, hours)[0]
    expected = np.diff(integral(DAY, hours - 1e-12 * hours)) * len(times) / integral(DAY, np.array([24.0 - 1e-9]))

    assert len(times) / times[-1] == pytest.approx(DAY.rate, rel=0.01)
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected.max())


def test_a_ramp_ends_at_its_last_rate_and_a_jump_is_one():
    ramp = RateCurve(points=(Point(at=0.0, rate=0.0), Point(at=100.0, rate=50.0)))
    jump = RateCurve(points=(Point(at=0.0, rate=5.0), Point(at=10.0, rate=5.0), Point(at=10.0, rate=100.0)))
    rising, jumped = source(ramp).times(60_000), source(jump).times(60_000)

    assert (rising <= 100.0).sum() == pytest.approx(2500, abs=200)  # half of 50 x 100; standard error 50
    assert ((rising > 500.0) & (rising <= 600.0)).sum() == pytest.approx(5000, abs=300)
    assert ((jumped <= 10.0).sum(), ((jumped > 10.0) & (jumped <= 20.0)).sum()) == pytest.approx((50, 1000), rel=0.4)
    assert ramp.rate == 50.0


def test_a_flat_curve_is_a_poisson_process():
    flat = RateCurve(points=(Point(at=0.0, rate=7.0),), period=3.0)

    assert source(flat).times(5000) == pytest.approx(arrivals(Poisson(rate=7.0), stream(0, "arrivals"), 5000), rel=1e-9)


# both


@pytest.mark.parametrize("law", [ON_OFF, CIRCLE, DAY], ids=["on and off", "three states", "day"])
def test_more_arrivals_leave_the_first_ones_alone(law):
    all_at_once = source(law).times(2 * BLOCK + 5)
    later = source(law)
    first = later.times(3)

    assert np.array_equal(all_at_once[:3], first)
    assert np.array_equal(all_at_once, later.times(2 * BLOCK + 5))
    assert np.all(np.diff(all_at_once) >= 0)


@given(cuts=st.lists(st.integers(0, 3000), max_size=6), seed=st.integers(0, 50))
def test_a_change_of_time_does_not_see_where_its_questions_are_cut(cuts, seed):
    expected = np.cumsum(np.random.default_rng(seed).exponential(1.0, 3000))
    for law in (ON_OFF, DAY):
        whole, parts = (TimeChange(law, stream(seed, "arrival_states")) for _ in range(2))
        pieces = [parts(part) for part in np.split(expected, sorted(cuts))]

        assert np.array_equal(whole(expected), np.concatenate(pieces))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (State, {"rate": math.inf, "dwell": 1.0}, "rate must be finite"),
        (State, {"rate": 1.0, "dwell": 0.0}, "dwell must be > 0 s"),
        (Modulated, {"states": ON_OFF.states[:1]}, "states must be at least 2"),
        (Modulated, {"states": (State(rate=0.0, dwell=1.0),) * 2}, "a state must have a rate > 0"),
        (Modulated, {"states": (State(rate=1.0, dwell=1e-6),) * 2}, "states must last for 0.01 requests or more"),
        (RateCurve, {"points": (Point(at=0.0, rate=1.0),), "period": 1e-3}, "a period must have 0.01 requests"),
        (Point, {"at": -1.0, "rate": 1.0}, "at must be >= 0 s"),
        (RateCurve, {"points": ()}, "the first of the points must be at 0 s"),
        (RateCurve, {"points": DAY.points[::-1]}, "the first of the points must be at 0 s"),
        (RateCurve, {"points": (DAY.points[0], *DAY.points[:0:-1])}, "points must be in order of time"),
        (RateCurve, {"points": DAY.points, "period": 9.0}, "period must not end before the last point, 14 s"),
        (RateCurve, {"points": (Point(at=0.0, rate=0.0),)}, "the rate of the last point lasts"),
        (RateCurve, {"points": (Point(at=0.0, rate=0.0),), "period": 1.0}, "a rate > 0 req/s must last for some time"),
    ],
)
def test_impossible_rates_cannot_be_constructed(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kind(**given)


@pytest.mark.parametrize(
    "arrival",
    [
        {
            "process": "mmpp",
            "states": [{"rate": "40 req/s", "dwell": "0.5s"}, {"rate": "4 req/s", "dwell": "1.5s"}],
        },
        {
            "process": "rate_curve",
            "points": [
                {"at": "0s", "rate": "2 req/s"},
                {"at": "9s", "rate": "30 req/s"},
                {"at": "14s", "rate": "8 req/s"},
            ],
            "period": "24s",
        },
    ],
    ids=lambda arrival: arrival["process"],
)
def test_a_scenario_asks_for_them(arrival):
    scenario = load({"extends": "small", "workload": {"arrival": arrival, "num_requests": None, "duration": "60s"}})
    law, found = ON_OFF if arrival["process"] == "mmpp" else DAY, requested(scenario, 3)

    assert found.law == law
    assert np.array_equal(found.times(500), source(law, 3).times(500))
    assert load(scenario.resolved()).key == scenario.key
    assert found.until(60.0) == int((source(law, 3).times(20_000) <= 60.0).sum())


def test_everything_at_once_is_an_infinite_rate():
    scenario = load({"extends": "small", "workload": {"arrival": {"process": "poisson", "request_rate": "inf"}}})

    assert requested(scenario, 0).times(5).tolist() == [0.0] * 5
