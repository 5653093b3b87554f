"""95 % intervals hold the truth 19 times in 20, of independent values and of series whose neighbours are alike."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.results import intervals
from afdsim.results.intervals import Interval


def autoregression(rng, memory, n):
    """A stationary series of mean 0, each value `memory` times the one before and noise."""
    noise, series = rng.normal(size=n), np.empty(n)
    series[0] = noise[0] / math.sqrt(1 - memory**2)
    for index in range(1, n):
        series[index] = memory * series[index - 1] + noise[index]
    return series


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (10, 2.228), (11, 2.201), (20, 2.086), (60, 2.000), (1000, 1.962)]
)
def test_t_quantiles_of_the_tables(freedom, t):
    assert intervals.t_quantile(freedom) == pytest.approx(t, abs=6e-4)


def test_interval_over_seeds():
    assert intervals.over_seeds([9.0, 10.0, 11.0]) == pytest.approx(
        (10 - 4.3027 / math.sqrt(3), 10 + 4.3027 / math.sqrt(3))
    )
    assert intervals.over_seeds([1.0]) == Interval(-math.inf, math.inf)


@pytest.mark.parametrize("n", [60, 400, 20_000])
def test_percentile_intervals_hold_the_truth_nineteen_times_in_twenty(n):
    rng = np.random.default_rng(n)
    held = [
        (low <= 0.9 <= high) for low, high in (intervals.percentile_interval(rng.random(n), 90.0) for _ in range(400))
    ]

    assert 0.93 <= np.mean(held) <= 0.995


def test_order_statistics_of_the_median_of_ten():
    # Textbook: the 2nd and the 9th of ten values hold the median with 97.9 %.
    assert intervals.percentile_interval(np.arange(1.0, 11.0), 50.0) == (2.0, 9.0)


def test_too_few_samples_leave_an_interval_open():
    low, high = intervals.percentile_interval(np.arange(20.0), 99.0)

    assert math.isfinite(low)
    assert high == math.inf


def test_batch_means_see_correlation():
    rng = np.random.default_rng(5)
    noise = np.repeat(rng.normal(size=50), 100)

    low, high = intervals.mean_interval(noise)

    assert high - low > 4 * 1.96 * noise.std() / math.sqrt(len(noise))


@pytest.mark.parametrize(("memory", "n"), [(0.0, 400), (0.9, 2000), (0.97, 4000)])
def test_intervals_of_a_mean_hold_the_truth_of_series_with_a_memory(memory, n):
    rng, held = np.random.default_rng(7), 0
    for _ in range(200):
        series = autoregression(rng, memory, n)
        low, high = intervals.mean_interval(series)
        held += low <= 0.0 <= high

    assert 0.92 <= held / 200 <= 0.995


@pytest.mark.parametrize("percent", [50.0, 90.0])
def test_intervals_of_a_percentile_hold_the_truth_of_series_with_a_memory(percent):
    memory, rng, held = 0.9, np.random.default_rng(8), 0
    truth = NormalDist(0.0, 1 / math.sqrt(1 - memory**2)).inv_cdf(percent / 100)
    for _ in range(150):
        low, high = intervals.percentile_interval(autoregression(rng, memory, 3000), percent)
        held += low <= truth <= high

    assert held / 150 >= 0.92


def test_batches_without_memory_would_not_hold_it():
    # the negative control: independent values are what these are not
    rng, held = np.random.default_rng(7), 0
    for _ in range(200):
        series = autoregression(rng, 0.9, 2000)
        held += abs(series.mean()) <= 1.96 * series.std() / math.sqrt(len(series))

    assert held / 200 < 0.6


def test_a_ratio_is_known_as_well_as_what_is_left_of_its_parts():
    seconds = np.random.default_rng(1).gamma(4.0, 0.01, 2000)

    low, high = intervals.ratio_interval(8.0 * seconds, seconds)
    assert (low, high) == pytest.approx((8.0, 8.0))

    low, high = intervals.ratio_interval(np.full(2000, 8.0), seconds)
    assert low < 8.0 / 0.04 < high
    assert high - low < 0.1 * 8.0 / 0.04


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=80), st.floats(-1e3, 1e3))
def test_a_mean_interval_moves_with_its_values(values, shift):
    series = np.array(values)
    low, high = intervals.mean_interval(series)
    moved = intervals.mean_interval(series + shift)

    assert low <= series.mean() <= high
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6 * (1 + high - low))


def test_a_mean_that_cannot_be_negative_has_a_skewed_interval():
    low, high = Interval(0.5, 1.5).skewed

    assert (low, high) == (0.5, pytest.approx(math.exp(0.5)))
    assert Interval(-1.0, 3.0).skewed.low == 0.0
    assert Interval(2.0, 2.0).skewed == (2.0, 2.0)
    assert Interval(0.0, 0.0).skewed == (0.0, 0.0)
    assert Interval(-math.inf, math.inf).skewed == (-math.inf, math.inf)
