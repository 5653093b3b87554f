"""Arrival rates that change: bursts between states, and curves over time, both drawn by one change of time.

Arrivals of rate 1 are drawn first, and each is put where the integral of the rate has come to it. So request i arrives
at the same moment however many are drawn at a time, as by every other law; thinning would not keep that. Nothing here
holds a random state but a `TimeChange`, which belongs to one column of requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

FEWEST: Final = 0.01
"""Requests that must be expected per state or period: what changes faster is no burst, but a Poisson process."""
FASTER: Final = "; what changes faster is a Poisson process of the mean rate"
ROUNDS: Final = 512
"""Rounds of all states that are drawn at a time, and periods of a curve that are laid out at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state of bursty arrivals."""

    rate: float
    """Requests per second while it lasts; 0 is silence."""
    dwell: float
    """Mean of the exponential time that it lasts, seconds."""

    def __post_init__(self) -> None:
        _demand_rate(self.rate)
        _demand(math.isfinite(self.dwell) and self.dwell > 0, f"dwell must be > 0 s (got {self.dwell:g})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Modulated:
    """Poisson arrivals whose rate is that of a state (MMPP); the states follow one another in their order, in a circle.

    It is stationary: the state at time 0 is drawn by the share of time that each lasts.
    """

    states: tuple[State, ...]

    def __post_init__(self) -> None:
        _demand(len(self.states) >= 2, f"states must be at least 2 (got {len(self.states)})")
        _demand(self.rate > 0, "a state must have a rate > 0 req/s (all are 0)")
        _demand(
            self.expected >= FEWEST,
            f"states must last for {FEWEST:g} requests or more (got {self.expected:.3g}){FASTER}",
        )

    @property
    def expected(self) -> float:
        """Requests per state, on average."""
        return self.rate * sum(state.dwell for state in self.states) / len(self.states)

    @property
    def rate(self) -> float:
        """Mean rate in the long run, requests per second."""
        dwells = [state.dwell for state in self.states]
        return sum(state.rate * state.dwell for state in self.states) / sum(dwells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A rate at a time; between two points it changes evenly, and two points at one time are a jump."""

    at: float
    """Seconds."""
    rate: float
    """Requests per second."""

    def __post_init__(self) -> None:
        _demand_rate(self.rate)
        _demand(math.isfinite(self.at) and self.at >= 0, f"at must be >= 0 s (got {self.at:g})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCurve:
    """Poisson arrivals whose rate follows points in time: a day, or a ramp."""

    points: tuple[Point, ...]
    period: float | None = None
    """Seconds after which the curve begins again; None: the last rate lasts for ever."""

    def __post_init__(self) -> None:
        times = [point.at for point in self.points]
        _demand(times[:1] == [0.0], "the first of the points must be at 0 s")
        _demand(all(first <= second for first, second in pairwise(times)), "points must be in order of time")
        if self.period is None:
            _demand(self.points[-1].rate > 0, "the rate of the last point lasts, and must be > 0 req/s")
            return
        fits = math.isfinite(self.period) and self.period > 0 and self.period >= times[-1]
        _demand(fits, f"period must not end before the last point, {times[-1]:g} s (got {self.period:g})")
        _demand(self.expected > 0, "a rate > 0 req/s must last for some time of a period")
        _demand(
            self.expected >= FEWEST, f"a period must have {FEWEST:g} requests or more (got {self.expected:.3g}){FASTER}"
        )

    @property
    def expected(self) -> float:
        """Requests per period."""
        return float(sum(self.whole.area))

    @property
    def rate(self) -> float:
        """Mean rate of a period, or the last rate where none repeats; requests per second."""
        return self.points[-1].rate if self.period is None else self.expected / self.period

    @property
    def whole(self) -> Pieces:
        """The curve from 0 on: one period, or up to its last point and then for ever."""
        end = Point(at=self.period, rate=self.points[0].rate) if self.period is not None else None
        knots = self.points if end is None or self.points[-1].at == end.at else (*self.points, end)
        pairs = [(first, second) for first, second in pairwise(knots) if second.at > first.at]
        length = [second.at - first.at for first, second in pairs]
        start, stop = [first.rate for first, _ in pairs], [second.rate for _, second in pairs]
        if end is None:
            length, start, stop = [*length, math.inf], [*start, knots[-1].rate], [*stop, knots[-1].rate]
        return Pieces(np.array(length), np.array(start), np.array(stop))


Changing: TypeAlias = Modulated | RateCurve


class Pieces(NamedTuple):
    """Stretches of time in each of which a rate changes evenly, one behind the other."""

    length: Floats
    """Seconds."""
    start: Floats
    """Requests per second."""
    stop: Floats

    @property
    def area(self) -> Floats:
        """Expected arrivals."""
        return np.asarray(self.length * (self.start + self.stop) / 2)


class TimeChange:
    """From expected arrivals to seconds: the inverse of the integral of a rate, asked for in rising order."""

    def __init__(self, law: Changing, rng: np.random.Generator) -> None:
        self._more = _circles(law, rng) if isinstance(law, Modulated) else _laid_out(law)
        self._known = Pieces(*np.zeros((3, 0)))
        self._begin, self._area = np.zeros(1), np.zeros(1)
        """Of every known piece, and the end of the last: seconds, expected arrivals."""
        self._latest = 0.0

    def __call__(self, expected: Floats) -> Floats:
        """When so many arrivals are expected, seconds; `expected` rises, from one call to the next too."""
        if not len(expected):
            return np.zeros(0)
        self._extend(float(expected[-1]))
        place = np.searchsorted(self._area, expected, side="right") - 1
        left, (length, start, stop) = expected - self._area[place], (column[place] for column in self._known)
        root = np.sqrt(np.maximum(start**2 + 2 * left * (stop - start) / length, 0.0))
        spent = np.divide(2 * left, start + root, out=np.zeros(len(left)), where=left > 0)
        reached = np.minimum(self._begin[place] + spent, self._begin[place + 1])
        times: Floats = np.maximum.accumulate(np.maximum(reached, self._latest))  # rounding must not turn two around
        self._latest = float(times[-1])
        self._forget(int(place[-1]))
        return times

    def _extend(self, goal: float) -> None:
        """Know the pieces up to some expected arrivals."""
        begins, areas, pieces = [self._begin], [self._area], [self._known]
        while areas[-1][-1] <= goal:
            more = next(self._more)
            begins.append(_summed(begins[-1][-1], more.length))
            areas.append(_summed(areas[-1][-1], more.area))
            pieces.append(more)
        self._begin, self._area = np.concatenate(begins), np.concatenate(areas)
        self._known = Pieces(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))

    def _forget(self, passed: int) -> None:
        self._known = Pieces(*(column[passed:] for column in self._known))
        self._begin, self._area = self._begin[passed:], self._area[passed:]


def _summed(carry: float, steps: Floats) -> Floats:
    """Running sums, one after the other, so that it does not matter where they were cut."""
    return np.cumsum(np.concatenate([[carry], steps]))[1:]


def _circles(law: Modulated, rng: np.random.Generator) -> Iterator[Pieces]:
    """Yield the states as they come, `ROUNDS` circles at a time."""
    dwell, rate = np.array([[state.dwell, state.rate] for state in law.states]).T
    shares = np.cumsum(dwell) / dwell.sum()
    first = min(int(np.searchsorted(shares, rng.random(), side="right")), len(dwell) - 1)
    dwell, rate = np.tile(np.roll(dwell, -first), ROUNDS), np.tile(np.roll(rate, -first), ROUNDS)
    while True:
        yield Pieces(dwell * rng.standard_exponential(len(dwell)), rate, rate)


def _laid_out(law: RateCurve) -> Iterator[Pieces]:
    """Yield a curve once, or again and again."""
    whole = law.whole
    if law.period is None:
        yield whole
        return
    while True:
        yield Pieces(*(np.tile(column, ROUNDS) for column in whole))


def _demand_rate(rate: float) -> None:
    _demand(math.isfinite(rate) and rate >= 0, f"rate must be finite and >= 0 req/s (got {rate:g})")


def _demand(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)
