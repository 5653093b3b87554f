"""Whether an open loop was steady and carried its load: where its measurement begins, offered, served, backlog.

A load is measured between the end of the warm-up and the last arrival, never while the cluster runs empty. The warm-up
ends where the number in flight has stopped drifting: the truncation that gives the mean of the rest its least standard
error (MSER-5; White, Simulation 69(6), 1997), but not before 95 % of the first requests are gone, nor after the middle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from afdsim.engine.desk import SLICES
from afdsim.results.intervals import UNKNOWN, Interval, half_width, mean_interval

Floats: TypeAlias = NDArray[np.float64]
Marks: TypeAlias = NDArray[np.bool_]
Level = Literal["STABLE", "BACKLOGGED", "OVERLOADED", "n/a"]

LEVELS: Final[tuple[Level, ...]] = ("STABLE", "n/a", "BACKLOGGED", "OVERLOADED")
"""From the best to the gravest, which counts where several runs have different ones."""
GROUPED: Final = 5
"""Slices whose numbers in flight are averaged before the rule is applied: the 5 of MSER-5."""
CHANCE: Final = 0.5
"""By how much the variance of a series that is worth eight independent values differs by chance: the root of 2/8."""
ROUNDED: Final = 1e-9
"""Relative difference below which sums of squares are the same: a level rest is level, whatever is rounded."""
FILLING: Final = 0.8
"""Share of the later number in flight below which a cluster fills."""
BINS: Final = 60
"""Parts of the window whose arrivals and departures are counted for the intervals."""
FEWEST: Final = 30
"""Requests that must have come and gone inside the window."""
PATIENCE: Final = 2.0
"""Decode steps: whoever waited longer was held back by something else than the next boundary."""
HELD: Final = 0.1
"""Share of requests held back up to which a queue is none."""
CYCLES: Final = 10
"""Times that a longer queue must have emptied inside the window to be one that comes and goes, half of them late."""
STUCK: Final = 0.95
"""Share of requests held back in the later half of a window in which a queue no longer empties."""
LATENCIES: Final = 6.0
"""Mean end-to-end latencies that the window must have: at both ends requests see a cluster fill or empty."""
MOST_EARLY: Final = 0.6
"""Share of the requests that may come in the warm-up: of an even load it is half at most."""
DOUBT: Final = 0.5
"""Relative half-width of the rate served beyond which it is not known."""
ENOUGH: Final = 10.0
"""Mean end-to-end latencies of arrivals that usually do."""


def brief(moments: Any, lanes: Sequence[Any], window: tuple[float, float], share: float = 1.0) -> bool:
    """Whether a window is shorter than a `share` of any step: it holds boundaries, but not the time that led to them.

    `moments` are boundaries (seconds), `lanes` columns that say whose (unit, micro-batch). A closed loop has such a
    window where all that count finish with the last of the warm-up.
    """
    times = np.asarray(moments, float)
    own = [np.asarray(column) == np.asarray(column)[0] for column in lanes if len(times)]
    steps = np.diff(np.sort(times[np.all(own, axis=0)])) if own else times[:0]
    return bool(len(steps)) and window[1] - window[0] < share * float(steps.min()) * (1 - ROUNDED)


def cut_short(tokens: Mapping[str, Any], window: tuple[float, float]) -> bool:
    """Whether a window is shorter than half a step: it has no rates."""
    names = ("cell", "instance", "rank", "micro_batch")
    return brief(tokens["t_s"], [tokens[name] for name in names if name in tokens], window, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How an open loop stood while its requests came in. Rates in requests per second, over the window."""

    level: Level
    offered: float
    """Arrivals."""
    served: float | None = None
    """Completions; None with "n/a"."""
    growth: float | None = None
    """By which the queue grows; None with "n/a"."""
    offered_interval: Interval = UNKNOWN
    served_interval: Interval = UNKNOWN
    growth_interval: Interval = UNKNOWN
    wants: float | None = None
    """With "n/a": simulated seconds of arrivals that would probably do."""
    settling: float = 0.0
    """Seconds before the last arrival from which requests see the cluster empty."""
    why: str = ""
    """What keeps the level from being STABLE."""
    ended: float | None = None
    """When the run was ended because it was OVERLOADED, seconds; None where it went on until all had left."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it: bounds that are not known are None."""
        return {
            name: [end if math.isfinite(end) else None for end in value] if isinstance(value, Interval) else value
            for name in self.__slots__
            for value in [getattr(self, name)]
        }

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Load:
        """Return the load of `plain`."""
        spans = {
            name: Interval(-math.inf if low is None else low, math.inf if high is None else high)
            for name in ("offered_interval", "served_interval", "growth_interval")
            for low, high in [plain[name]]
        }
        return cls(**{**plain, **spans})


@dataclass(frozen=True, slots=True)
class _Flow:
    """Requests that were not refused, in order of arrival. Seconds; infinite where nothing happened."""

    arrival: Floats
    admitted: Floats
    finish: Floats
    gone: Floats
    """The same, or when a crash ended it."""
    queued: Floats
    """Seconds that it waited, for prefill and for a seat the longer."""
    step: float
    """Mean decode step."""

    @property
    def latency(self) -> float:
        """Mean from arrival to the last token, of those that finished; infinite if none did."""
        spans = (self.finish - self.arrival)[np.isfinite(self.finish)]
        return float(spans.mean()) if len(spans) else math.inf

    @property
    def settling(self) -> float:
        """Latency of all but one in twenty: so long it takes until those are gone who saw another cluster."""
        spans = (self.finish - self.arrival)[np.isfinite(self.finish)]
        return max(float(np.percentile(spans, 95)), self.latency) if len(spans) else math.inf

    def arrived(self, window: tuple[float, float]) -> Marks:
        return (self.arrival >= window[0]) & (self.arrival <= window[1])

    def held(self, window: tuple[float, float]) -> Marks:
        """Mark those of the window that waited for more than the next boundary."""
        here = self.arrived(window)
        return self.queued[here] > PATIENCE * self.step

    def waiting(self, time: float) -> int:
        """How many have come by a time and not been admitted."""
        return int(np.count_nonzero(self.arrival <= time) - np.count_nonzero(self.admitted <= time))

    def in_flight(self, edges: Floats) -> Floats:
        """Mean number of requests that have come and not gone, between edges."""
        areas = _area(self.arrival, edges) - _area(self.gone, edges)
        return np.asarray(np.diff(areas) / np.diff(edges))


def found(
    requests: Mapping[str, Any], edges: Floats, step: float, *, given: bool, changing: bool = False
) -> tuple[int, Load]:
    """(the edge at which the measurement begins, how the load stood).

    `edges` cut the time up to the last arrival, seconds; where the warm-up is `given`, the first is its end. `step` is
    the mean decode step in seconds. Where nothing can be said of the load, everything is measured. A `changing` rate
    is measured from the first edge on, and judged by its queue: there is no level at which it could rest, and it grows
    if it is longer at the end than in the middle.
    """
    flow, stop = _flow(requests, step), float(edges[-1])
    if changing:
        return 0, _judged(flow, (float(edges[0]), stop), changing=True)
    if given:
        return 0, _as_given(flow, (float(edges[0]), stop))
    if len(edges) <= GROUPED:
        return 0, _unknown(flow, stop, "the run was stopped early")
    warm = _warm(flow, edges)
    place = len(edges) // 2 if warm is None else warm
    load = _judged(flow, (float(edges[place]), stop))
    early = float((flow.arrival < edges[place]).mean()) if len(flow.arrival) else 1.0
    if warm is None and load.level != "OVERLOADED":
        load = _unknown(flow, stop, "the number of requests in flight drifts to the end")
    elif early > MOST_EARLY:
        load = _unknown(flow, stop, f"no even load: {early:.0%} of the requests come in the first {edges[place]:.4g} s")
    return (0 if load.level == "n/a" else place), load


def _flow(requests: Mapping[str, Any], step: float) -> _Flow:
    kept = np.asarray(requests["status"]) != "refused"
    columns = (np.asarray(requests[name], float)[kept] for name in ("arrival_s", "admitted_s", "finish_s"))
    arrival, admitted, finish = (np.where(np.isnan(column), math.inf, column) for column in columns)
    gone = finish
    if "lost_s" in requests:
        lost = np.asarray(requests["lost_s"], float)[kept]
        gone = np.where(np.isnan(lost), finish, lost)
    queued = np.asarray(requests["queued_s"], float)[kept] if "queued_s" in requests else admitted - arrival
    return _Flow(arrival, admitted, finish, gone, np.where(np.isnan(queued), math.inf, queued), step)


def _area(moments: Floats, edges: Floats) -> Floats:
    """Integral up to every edge of the number of moments that have passed."""
    ordered = np.sort(moments[np.isfinite(moments)])
    passed = np.searchsorted(ordered, edges, side="right")
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    return np.asarray(edges * passed - sums[passed])


# the warm-up --------------------------------------------------------------------------------------------------------


def _warm(flow: _Flow, edges: Floats) -> int | None:
    """Index of the edge at which the cluster is warm; None where that is not before the middle of the arrivals."""
    series = flow.in_flight(edges)
    least = truncation(_grouped(series)) * GROUPED
    place = max(least, int(np.searchsorted(edges, edges[0] + flow.settling)))
    return place if 2 * place < len(series) else None


def _grouped(series: Floats) -> Floats:
    return np.asarray(series[: len(series) // GROUPED * GROUPED].reshape(-1, GROUPED).mean(axis=1))


def truncation(series: Floats) -> int:
    """How many values to drop from the start of a series so that the mean of the rest has its least standard error.

    At most half of them: what is left beyond is too short to be compared. Of those that are the least within chance it
    is the fewest: the very least would drop bursts at the start, and what is left would look calmer than it is.
    """
    kept = np.arange(len(series), 0, -1)
    totals, squares = (np.cumsum(part[::-1])[::-1] for part in (series - series.mean(), (series - series.mean()) ** 2))
    left = np.maximum(squares - totals**2 / kept, ROUNDED * squares[0])
    tried = (left / kept**2)[: len(series) // 2 + 1]
    return int(np.argmax(tried <= tried.min() * (1 + CHANCE) * (1 + ROUNDED)))


# the level ----------------------------------------------------------------------------------------------------------


def _as_given(flow: _Flow, window: tuple[float, float]) -> Load:
    """Judge the window after a warm-up that was given, unless the cluster still fills in it."""
    load, edges = _judged(flow, window), np.linspace(*window, SLICES + 1)
    series = _grouped(flow.in_flight(edges))
    place = truncation(series)
    if load.level == "STABLE" and place and series[:place].mean() < FILLING * series[place:].mean():
        warm = float(edges[place * GROUPED])
        why = f"the cluster still fills after the warm-up that was given; {warm:.3g} s would do"
        return replace(_unknown(flow, window[1], why), wants=None)
    return load


def _judged(flow: _Flow, window: tuple[float, float], *, changing: bool = False) -> Load:
    """Hold the window against the rules, the gravest first."""
    came, joined, went = _rates(flow, window)
    length = window[1] - window[0]
    if min(came.mean(), went.mean()) * length < FEWEST:
        return _unknown(flow, window[1], f"fewer than {FEWEST} requests came and went after the warm-up")
    load, held = replace(_measured(came, joined, went), settling=flow.settling), flow.held(window)
    middle = window[0] + length / 2
    longer = changing and flow.waiting(window[1]) > flow.waiting(middle)
    level, why = _queue(held, flow.held((middle, window[1])), load, longer=longer)
    if changing:  # its rates follow the curve, not chance
        load = replace(load, offered_interval=UNKNOWN, served_interval=UNKNOWN, growth_interval=UNKNOWN)
    if level != "STABLE":
        return replace(load, level=level, why=why)
    if length < LATENCIES * flow.latency:
        return _unknown(flow, window[1], f"arrivals end {length / flow.latency:.1f} mean latencies after the warm-up")
    doubt = "" if changing else _doubt(came, went, _counted(flow.gone, window))
    return _unknown(flow, window[1], doubt) if doubt else load


def _doubt(came: Floats, went: Floats, gone: Floats) -> str:
    """Say what chance leaves open of the rates of a window."""
    if half_width(went) > DOUBT * went.mean():
        return "what is served is known to no better than half"
    drifts = abs((came - gone).mean()) > half_width(came - gone)
    return "the number of requests in flight still drifts" if drifts else ""


def _queue(held: Marks, later: Marks, load: Load, *, longer: bool) -> tuple[Level, str]:
    """Say what the queue of the window, and of its later half, did; `longer`: it is at the end than in the middle."""
    grows = load.growth_interval.low > 0
    if len(later) and later.mean() > STUCK:
        if grows or longer:
            return "OVERLOADED", "the queue grows and no longer empties"
        return "BACKLOGGED", "the queue no longer empties"
    rarely = _emptied(held) < CYCLES or 2 * _emptied(later) < CYCLES
    if held.mean() > HELD and (grows or rarely):
        return "BACKLOGGED", f"{held.mean():.0%} of the requests queued, and the queue hardly empties"
    return "STABLE", ""


def _emptied(held: Marks) -> int:
    """How often a request that had to wait was followed by one that had not."""
    return int(np.count_nonzero(held[:-1] & ~held[1:]))


def _rates(flow: _Flow, window: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Arrivals, admissions and completions per second in equal parts of the window."""
    came, joined, went = (_counted(each, window) for each in (flow.arrival, flow.admitted, flow.finish))
    return came, joined, went


def _counted(moments: Floats, window: tuple[float, float]) -> Floats:
    """How often per second in equal parts of the window."""
    counts: Floats = np.histogram(moments, np.linspace(*window, BINS + 1))[0] / ((window[1] - window[0]) / BINS)
    return counts


def _measured(came: Floats, joined: Floats, went: Floats) -> Load:
    """Return the rates of a window with their intervals, as if stable."""
    return Load(
        level="STABLE",
        offered=float(came.mean()),
        served=float(went.mean()),
        growth=float((came - joined).mean()),
        offered_interval=mean_interval(came).positive,
        served_interval=mean_interval(went).positive,
        growth_interval=mean_interval(came - joined),
    )


def _unknown(flow: _Flow, stop: float, why: str) -> Load:
    """Nothing can be said of the load; how long the arrivals should have gone on."""
    came = max(int(np.count_nonzero(flow.arrival <= stop)), 1)
    rate = came / stop
    latency = flow.latency if math.isfinite(flow.latency) else stop
    wants = max(2 * stop, ENOUGH * latency, 4 * FEWEST / rate)
    return Load(level="n/a", offered=rate, wants=_rounded(wants), why=why)


def _rounded(seconds: float) -> float:
    """Round up to two digits."""
    power = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return float(math.ceil(seconds / power - 1e-9) * power)
