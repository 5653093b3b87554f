"""How sure a figure of one run is: 95 % intervals of means, ratios and percentiles of correlated series.

Requests that shared steps, and steps that shared requests, resemble one another, so neighbours are averaged in batches
and the batches are compared (batch means; Law, Simulation Modeling and Analysis, section 9.5.3). Few large batches see
long memories, many small ones see short runs: the wider of the two answers is taken, and where the batches themselves
still follow one another, it is widened as for a first-order autoregression.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

CONFIDENCE: Final = 0.95
BATCHES: Final = (10, 30)
"""How many batches a series is cut into; both are tried."""
MOST: Final = 0.8
"""Correlation of neighbouring batches beyond which the widening is no longer to be trusted, and held."""


class Interval(NamedTuple):
    """A confidence interval; a bound that the data cannot give is infinite."""

    low: float
    high: float

    @classmethod
    def around(cls, value: float, half: float) -> Interval:
        """The interval of a half-width."""
        return cls(value - half, value + half)

    @property
    def positive(self) -> Interval:
        """The interval of what cannot be negative."""
        return Interval(max(self.low, 0.0), self.high)

    @property
    def skewed(self) -> Interval:
        """The interval of a mean of values that cannot be negative: the upper half as wide as on a logarithmic scale.

        Long waits are rare and come in bursts, so a mean that lacks one is too low and looks too certain.
        """
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        if not (middle > 0 and math.isfinite(half)):
            return self
        return Interval(self.low, middle * math.exp(min(half / middle, _MOST_SKEWED))).positive


_MOST_SKEWED: Final = 3.0
"""Relative half-width beyond which nothing is known anyway."""
UNKNOWN: Final = Interval(-math.inf, math.inf)

# Student's t at 97.5 % for 1 .. 10 degrees of freedom; beyond, the expansion of `t_quantile` is exact to 4 digits.
_T975: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_Z: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def t_quantile(freedom: int) -> float:
    """Student's t at 97.5 % (Abramowitz and Stegun 26.7.5 beyond 10 degrees of freedom)."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = _Z
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def over_seeds(values: Iterable[float]) -> Interval:
    """95 % interval of the mean of independent runs."""
    sample = np.fromiter(values, float)
    return Interval.around(float(sample.mean()), _half(sample)) if len(sample) > 1 else UNKNOWN


def _half(sample: Floats) -> float:
    """Half-width of the mean of independent values."""
    return t_quantile(len(sample) - 1) * float(sample.std(ddof=1)) / math.sqrt(len(sample))


def half_width(series: Floats) -> float:
    """Half of the 95 % interval of the mean of a series whose neighbours are correlated; infinite below two values."""
    return max((_of_batches(series, min(number, len(series))) for number in BATCHES), default=math.inf)


def _of_batches(series: Floats, number: int) -> float:
    if number < 2:
        return math.inf
    batches = np.array([part.mean() for part in np.array_split(series, number)])
    return _half(batches) * _widening(batches)


def _widening(batches: Floats) -> float:
    """By how much the memory of batches widens the interval of their mean; 1 where chance explains it."""
    number = len(batches)
    off = batches - batches.mean()
    total = float(off @ off)
    if number < min(BATCHES) or total <= 0:
        return 1.0
    # The estimate of a correlation lies 1/n too low.
    memory = min(float(off[1:] @ off[:-1]) / total + 1 / number, MOST)
    return math.sqrt((1 + memory) / (1 - memory)) if memory > 1 / math.sqrt(number) else 1.0


def mean_interval(values: Floats) -> Interval:
    """95 % interval of the mean of a series in the order in which it came about."""
    return Interval.around(float(values.mean()), half_width(values)) if len(values) > 1 else UNKNOWN


def ratio_interval(parts: Floats, wholes: Floats) -> Interval:
    """95 % interval of sum(parts)/sum(wholes), such as tokens over seconds, row by row of a series."""
    if len(parts) < 2 or wholes.sum() <= 0:
        return UNKNOWN
    ratio = float(parts.sum() / wholes.sum())
    return Interval.around(ratio, half_width(parts - ratio * wholes) / float(wholes.mean()))


def percentile_interval(values: Floats, percent: float) -> Interval:
    """95 % interval of a percentile of a series in the order in which it came about.

    From two order statistics (binomial), which take the values as independent, and widened to what the percentiles of
    consecutive blocks say of one another (sectioning; Asmussen and Glynn, Stochastic Simulation, chapter III).
    """
    if not len(values):
        return UNKNOWN
    ordered, found = np.sort(values), float(np.percentile(values, percent))
    low, high = _order_statistics(len(values), percent / 100)
    half = max((_of_blocks(values, percent, number) for number in BATCHES), default=0.0)
    return Interval(
        min(float(ordered[low]), found - half) if low >= 0 else -math.inf,
        max(float(ordered[high]), found + half) if high < len(values) else math.inf,
    )


def _of_blocks(values: Floats, percent: float, number: int) -> float:
    """Half-width from the percentiles of so many blocks; 0 where a block does not reach beyond the percentile."""
    if len(values) * min(percent, 100 - percent) < 100 * number:
        return 0.0
    found = np.array([np.percentile(block, percent) for block in np.array_split(values, number)])
    return _half(found) * _widening(found)


def _order_statistics(n: int, share: float) -> tuple[int, int]:
    """Return the indices around a quantile; -1 or n where the data do not reach far enough."""
    tail = (1 - CONFIDENCE) / 2
    if n > 10_000:
        half = _Z * math.sqrt(n * share * (1 - share))
        return math.floor(n * share - half) - 1, math.ceil(n * share + half)
    ratios = np.log(np.arange(n, 0, -1) / np.arange(1, n + 1)) + math.log(share / (1 - share))
    below = np.cumsum(np.exp(n * math.log1p(-share) + np.concatenate(([0.0], np.cumsum(ratios)))))
    return int(np.searchsorted(below, tail, side="right")) - 1, int(np.searchsorted(below, 1 - tail))
