"""What a cluster can carry: the largest request rate, or batch of a closed loop, that meets the SLA.

A rate is *carried* if with every seed the load is STABLE and the SLA is met for sure (PASS: its 95 % interval lies
within the limit, for every class too), *refused* if with any seed the load is not carried or the SLA fails, and
*undecided* between. The search begins at a guess by quick measures, steps up or down until it has a rate of either
kind, and bisects by ratios until the answer is within the tolerance of the next rate that is not carried. All rates see
the same draws of the same seeds. The answer and the smallest refused rate are its interval; rates between may be
undecided.

A run begins short and is lengthened, at least to the double, while it is undecided: up to the length of the scenario,
and to four times its own first length where that is more. What is undecided then is not carried. Arrivals that follow
a clock, of a curve or a trace, are always as long as in the scenario. Nothing crashes meanwhile: failures of the
scenario are left out, and so is a time at which it stops.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.errors import ScenarioError
from afdsim.results.result import Result, pooled
from afdsim.results.summary import known
from afdsim.scenario import yamlfile
from afdsim.scenario.asked import ClosedLoop, Gamma, Mmpp, RateCurve, Replay
from afdsim.scenario.document import Scenario, Source, load
from afdsim.simulation import simulate
from afdsim.studies.binding import LOADS, binds, limits, shown, worst
from afdsim.studies.guessing import SAMPLE, Guess, Quick
from afdsim.studies.scaling import ARRIVAL, Changes, length, scaled
from afdsim.studies.tuning import BATCH, LARGEST, fitting
from afdsim.units import exact, show_many

Word = Literal["carried", "undecided", "refused"]

TOLERANCE: Final = 0.02
FINEST: Final = 1e-3
"""Smallest tolerance: rates are tried with four digits."""
CLEAR: Final = 0.95
"""Of the guess: there the search begins."""
FIRST: Final = 1.1
"""By what the first rate is stepped up or down; the next step is the square of that."""
WIDEST: Final = 4.0
"""Largest step."""
STEPS: Final = 16
"""Of the search for a rate of either kind."""
ALONE: Final = 0.05
"""Requests in flight below which nothing smaller is tried: a request has the cluster for itself."""
FEWEST: Final = 64
"""Requests of a run."""
VISITS: Final = 12.0
"""Mean answer times that the first run of a rate lasts: a load can usually be told after as many."""
BEYOND: Final = 100
"""Requests beyond the percentile that the SLA limits, without which nothing is carried; a mean counts as p90."""
SURE: Final = 2.0
"""Standard errors of a rate that its first run holds within the tolerance."""
CIRCLES: Final = 10
"""Circles of the states of bursts in the first run."""
LONGER: Final = 4.0
"""Times its first length that a run is lengthened to at most, unless the scenario is longer."""
FILLED: Final = "the closed loop fills every slot, whatever its concurrency"
LOOKS: Final = 16
"""Most runs of one rate, each at least twice as long as the one before."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A rate, or a batch, that was simulated, and what its longest runs said, over its seeds."""

    at: float
    """Requests per second, or sequences of a rank."""
    found: Word
    length: float
    """Seconds of arrivals; of a closed loop requests that count."""
    verdict: str
    """The gravest of the SLA, over limits, classes and seeds."""
    seeds: tuple[int, ...]
    """Up to the first that refuses."""
    summary: Mapping[str, Any] = field(repr=False)
    """Of the runs of these seeds."""
    why: Mapping[str, Any] | None = None
    """What keeps it from being carried; None where it is."""

    @property
    def closed(self) -> bool:
        """Whether it is a batch: a rate has a load."""
        return "load" not in self.summary["afdsim"]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; what is not known is absent."""
        own = self.summary["afdsim"]
        return {
            "max_num_seqs" if self.closed else "request_rate": self.at,
            "found": self.found,
            **known({"load": own.get("load"), "verdict": self.verdict, "limits": list(limits(self.summary))}),
            **known({"tgs": own.get("tgs"), "tgs_ci": own.get("tgs_ci")}),
            **({} if self.closed else {"duration_s": self.length}),
            "completed": self.summary["completed"],
            "seeds": list(self.seeds),
        }


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The largest rate or batch that a search found to be carried, and all that it saw."""

    scenario: Scenario
    """The one that was asked about."""
    closed: bool
    points: tuple[Point, ...]
    """Every rate or batch that was simulated, the smallest first."""
    changes: Changes
    """By which the scenario becomes the run of the answer, or of the smallest point where nothing is carried."""
    fits: int | None = None
    """Of a closed loop: sequences that the KV cache of a rank holds, of lengths as they are in flight, if that is what
    ends the search."""

    @property
    def refused(self) -> Point | None:
        """The smallest that is refused."""
        return _refused(self.points)

    @property
    def best(self) -> Point | None:
        """The largest that is carried below that; None where none is."""
        return _carried(self.points, self.refused)

    @property
    def answer(self) -> float:
        """Requests per second, or sequences of a rank; 0 where nothing is carried."""
        return self.best.at if self.best else 0

    @property
    def request_rate(self) -> float | None:
        """The answer; None where a batch was searched."""
        return None if self.closed else self.answer

    @property
    def max_num_seqs(self) -> int | None:
        """The answer; None where a rate was searched."""
        return int(self.answer) if self.closed else None

    @property
    def interval(self) -> tuple[float, float | None]:
        """The answer, and the smallest that is refused."""
        return self.answer, None if self.refused is None else self.refused.at

    @cached_property
    def binds(self) -> dict[str, Any] | None:
        """What keeps the smallest refused from being carried, or the next undecided; None where all are carried."""
        above = [point for point in self.points if point.why is not None and point.at > self.answer]
        if above:
            point = self.refused or above[0]
            return {**(point.why or {}), "at": point.at}
        if self.fits is not None and self.answer >= self.fits:
            text = f"the KV cache of a rank holds {show_many(self.fits, 'sequence')}"
            return {"kind": "kv_cache", "text": text}
        return None

    @property
    def options(self) -> tuple[str, ...]:
        """The changes as ``path=value``."""
        return tuple(f"{path}={_written(value)}" for path, value in self.changes.items())

    @property
    def command(self) -> str:
        """The options as a shell has them: ``--set path=value ...``."""
        return " ".join(f"--set {shlex.quote(option)}" for option in self.options)

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the scenario is not as it was written."""
        asked, arrival = self.scenario.workload, self.scenario.workload.arrival
        opened = not self.closed and isinstance(arrival, ClosedLoop)
        told = (
            (opened, "the closed loop became Poisson arrivals of the same lengths"),
            (self.closed and not isinstance(arrival, ClosedLoop), "the arrivals became a closed loop"),
            (self.closed and isinstance(arrival, ClosedLoop) and arrival.concurrency is not None, FILLED),
            (not self.closed and asked.sessions is not None, "the rate is that of sessions, each of several requests"),
            (not self.closed and asked.samples is not None, f"the rate is that of prompts of {asked.samples} answers"),
            (self.scenario.failures is not None, "failures of the scenario are left out"),
            (self.scenario.run.stop.max_sim_time is not None, "run.stop.max_sim_time of the scenario is left out"),
        )
        return tuple(text for holds, text in told if holds)

    def frame(self) -> Any:
        """Return a frame with a row for every point: of the limits the one that is nearest to being missed."""
        import pandas as pd

        rows = []
        for point in self.points:
            held = worst(point.summary)
            own = {**held, "metric": shown(held)} if held else {"metric": ""}
            row = {"max_num_seqs" if point.closed else "request_rate": point.at, "found": point.found, **own}
            rows.append(row | {"tgs": point.summary["afdsim"].get("tgs")})
        return pd.DataFrame(rows)

    def save(self, folder: str | Path) -> Path:
        """Write ``capacity.json``, the scenario, ``capacity.csv`` with every point, and pictures; return the folder."""
        from afdsim.results import plot_parts, plot_plan
        from afdsim.results.result import to_json
        from afdsim.results.whole import write_text

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "capacity.json", to_json(self.to_dict()))
        write_text(folder / "scenario.yaml", yamlfile.dump(self.scenario.given()))
        frame = self.frame()
        write_text(folder / "capacity.csv", frame.to_csv(index=False))
        axes = plot_plan.capacity(frame)
        for suffix in ("svg", "png"):
            plot_parts.save(axes, folder / f"capacity.{suffix}")
        return folder

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; what is not known is absent."""
        own = self.best.summary["afdsim"] if self.best else {}
        told = ("tgs", "tgs_ci", "tokens_per_s_per_user", "usd_per_1m_output_tokens")
        return {
            "scenario": self.scenario.name,
            "max_num_seqs" if self.closed else "request_rate": self.answer,
            "interval": list(self.interval),
            "gpus": self.points[0].summary["afdsim"]["gpus"],
            **known({key: own.get(key) for key in told}),
            **known({"binds": self.binds}),
            "options": list(self.options),
            "notes": list(self.notes),
            "points": [point.to_dict() for point in self.points],
        }


def capacity(
    scenario: Source | Scenario,
    *,
    closed: bool = False,
    tolerance: float = TOLERANCE,
    cost: CostModel | None = None,
    network: Network | None = None,
    progress: Callable[[Point], None] | None = None,
) -> Capacity:
    """Return the largest request rate of a scenario that meets its SLA, or with `closed` the largest `max_num_seqs`.

    The answer is within `tolerance`, relative, of the next rate that is not carried. `cost` and `network` replace the
    models, as in `simulate`; `progress` is called with every point. The same call gives the same answer.
    """
    asked = load(scenario)
    _check(asked, tolerance)
    base: Changes = {"failures": None} if asked.failures is not None else {}
    if asked.run.stop.max_sim_time is not None:
        base["run.stop.max_sim_time"] = None
    plain = asked.varied(base) if base else asked
    quick = Quick(scenario=plain, cost=cost, network=network)
    axis: _Axis = _Batch(quick=quick) if closed else _Rate(quick=quick, tolerance=tolerance)
    search = _Search(axis=axis, tolerance=tolerance, progress=progress)
    points = search.points()
    best = _carried(points, _refused(points)) or points[0]
    fits = int(axis.most) if isinstance(axis, _Batch) and axis.most < LARGEST else None
    return Capacity(
        scenario=asked, closed=closed, points=points, changes=base | axis.changes(best.at, best.length), fits=fits
    )


def _verdict(runs: Sequence[Result]) -> str:
    """The gravest verdict of all limits of all runs."""
    words: list[str] = [part["sla"]["verdict"] for run in runs for part in _parts(run) if "sla" in part]
    return max(words, key=("PASS", "MARGINAL", "n/a", "FAIL").index)


def _parts(run: Result) -> Iterator[Mapping[str, Any]]:
    """What was held against an SLA: all requests, and every class."""
    own = run.summary["afdsim"]
    yield own
    yield from own.get("classes", {}).values()


def _check(scenario: Scenario, tolerance: float) -> None:
    if scenario.sla is None and not any(each.sla for each in scenario.workload.classes or ()):
        raise ScenarioError("sla: capacity is what meets an SLA, and there is none; for example --set sla.tpot=50ms")
    if not FINEST <= tolerance < 1:
        raise ScenarioError(f"tolerance: must be >= {FINEST:g} and < 1, for example 0.02 (got {tolerance:g})")


def _refused(points: Sequence[Point]) -> Point | None:
    """The smallest point that is refused."""
    return next((point for point in points if point.found == "refused"), None)


def _carried(points: Sequence[Point], refused: Point | None) -> Point | None:
    """The largest point that is carried below the smallest refused."""
    below = [point for point in points if point.found == "carried" and (refused is None or point.at < refused.at)]
    return below[-1] if below else None


def _written(value: object) -> str:
    """A value as ``--set`` reads it."""
    match value:
        case None:
            return "null"
        case Mapping():
            return "{" + ", ".join(f"{key}: {_written(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
    return str(value)


# the axis -----------------------------------------------------------------------------------------------------------


class _Axis(Protocol):
    """What is searched along: values, and the scenario of each."""

    @property
    def quick(self) -> Quick:
        """The scenario, without what is left out, and its models."""

    @property
    def start(self) -> float:
        """Where to begin."""

    @property
    def least(self) -> float:
        """The value below which nothing is tried."""

    @property
    def most(self) -> float:
        """The largest value that can be."""

    def near(self, value: float) -> float:
        """The nearest value that is tried."""

    def lengths(self, at: float) -> tuple[float, float, float]:
        """(the first, the least to be carried, the largest length of a run)."""

    def changes(self, at: float, length: float) -> Changes:
        """By which the scenario becomes a run of such a length."""


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """Request rates; lengths are seconds of arrivals."""

    quick: Quick
    tolerance: float
    most: float = math.inf

    @cached_property
    def guess(self) -> Guess:
        return self.quick.guess()

    @property
    def start(self) -> float:
        return CLEAR * self.guess.rate

    @property
    def least(self) -> float:
        return ALONE / self.guess.visit

    def near(self, value: float) -> float:
        return float(f"{value:.4g}")

    def lengths(self, at: float) -> tuple[float, float, float]:
        asked, warmup = self.quick.scenario.workload, self.quick.scenario.run.warmup or 0.0
        if isinstance(asked.arrival, RateCurve | Replay):
            return (length(self.quick.scenario),) * 3
        circle = sum(state.dwell for state in asked.arrival.states) if isinstance(asked.arrival, Mmpp) else 0.0
        least = max(VISITS * self.guess.visit, CIRCLES * circle, 2 * warmup)
        wanted, needed = (
            self._requests * min(at * self.guess.visit / self.quick.slots, 1.0),
            _needed(self.quick.scenario),
        )
        first, enough = (_rounded(max(least, many / at)) for many in (max(wanted, FEWEST), max(wanted, needed)))
        return first, enough, max(LONGER * enough, asked.duration or (asked.num_requests or 0) / at)

    @cached_property
    def _requests(self) -> float:
        """Requests of a run of a full cluster: so many that chance moves their rate, in tokens, within the tolerance.

        Of a cluster that is nearly empty fewer will do: what chance does to the rate is small to what it does to waits.
        """
        arrival, (_, output_len) = self.quick.scenario.workload.arrival, self.quick.source.columns(SAMPLE)
        gaps = 1 / arrival.shape if isinstance(arrival, Gamma) else 1.0
        scatter = gaps + float(output_len.var() / output_len.mean() ** 2)
        return max(scatter * (SURE / self.tolerance) ** 2, _needed(self.quick.scenario))

    def changes(self, at: float, length: float) -> Changes:
        scenario = self.quick.scenario
        found = scaled(scenario, at)
        if isinstance(scenario.workload.arrival, Replay):
            return found
        if scenario.workload.num_requests is not None:
            found["workload.num_requests"] = None
        return found | {"workload.duration": exact(length, "time")}


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Sequences of a rank in a closed loop; lengths are requests that count."""

    quick: Quick
    least: float = 1.0

    @property
    def start(self) -> float:
        """The batch at which a quick measure is within the limit of TPOT."""
        full = self.quick.scenario.vary(BATCH, int(self.most))
        return replace(self.quick, scenario=full).sequences / self._ranks

    @cached_property
    def most(self) -> float:
        """Sequences that the KV cache of a rank holds, of lengths as they are in flight."""
        return max(fitting(self.quick.cells[0].deployment.kv_cache, self.quick.source), 1)

    @property
    def _ranks(self) -> float:
        asked = self.quick.scenario.deployment
        return asked.slots / asked.max_num_seqs

    def near(self, value: float) -> float:
        return max(min(round(value), self.most), 1)

    def lengths(self, at: float) -> tuple[float, float, float]:
        first = math.ceil(max(2 * at * self._ranks, _needed(self.quick.scenario)))
        return first, first, max(LONGER * first, self.quick.scenario.workload.num_requests or 0)

    def changes(self, at: float, length: float) -> Changes:
        arrival = {} if _all_slots(self.quick.scenario) else {ARRIVAL: {"process": "closed_loop"}}
        duration = {} if self.quick.scenario.workload.duration is None else {"workload.duration": None}
        return {BATCH: int(at), **arrival, **duration, "workload.num_requests": int(length)}


def _all_slots(scenario: Scenario) -> bool:
    """Whether a scenario is a closed loop that fills every slot."""
    arrival = scenario.workload.arrival
    return isinstance(arrival, ClosedLoop) and arrival.concurrency is None


def _needed(scenario: Scenario) -> float:
    """Requests in whose tail the statistics that are limited have enough, the rarest class's too."""
    classes = scenario.workload.classes or ()
    whole = sum(each.weight for each in classes)
    asked = [(scenario.sla, 1.0), *((each.sla or scenario.sla, each.weight / whole) for each in classes)]
    statistics = [(float(sla.percentile.strip("p").replace("mean", "90")), share) for sla, share in asked if sla]
    return max(BEYOND / (1 - percent / 100) / share for percent, share in statistics)


def _rounded(seconds: float) -> float:
    """Round up to two digits."""
    power = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return float(f"{math.ceil(seconds / power - 1e-9) * power:.12g}")


# the search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Simulates points of an axis until the answer is known."""

    axis: _Axis
    tolerance: float
    progress: Callable[[Point], None] | None
    seen: dict[float, Point] = field(default_factory=dict)

    def points(self) -> tuple[Point, ...]:
        """Return every point that the search simulates, the smallest first.

        The answer is held against a run of twice the length: among rates that are near to what is carried, the search
        would else choose those whose short run was a lucky one.
        """
        sure: Point | None = None
        while True:
            self._bracket()
            if (value := self._next()) is not None:
                self._try(value)
                continue
            points = self._ordered()
            best = _carried(points, _refused(points))
            if best is None or best is sure:
                return points
            sure = self.seen[best.at] = self._longer(best)

    def _longer(self, point: Point) -> Point:
        """A point that is carried, by runs that are twice as long where there can be such."""
        first, _, largest = self.axis.lengths(point.at)
        return point if first == largest else self._point(point.at, 2 * point.length)

    def _ordered(self) -> tuple[Point, ...]:
        return tuple(self.seen[at] for at in sorted(self.seen))

    def _try(self, value: float) -> Point:
        """Simulate a value, unless it is known."""
        at = self.axis.near(value)
        if at not in self.seen:
            point = self.seen[at] = self._point(at)
            if self.progress is not None:
                self.progress(point)
        return self.seen[at]

    def _bracket(self) -> None:
        """Step up or down until there is a point that is carried and one that is refused, or steps are out."""
        step = FIRST
        for _ in range(STEPS):
            points = self._ordered() or (self._try(self.axis.start),)
            refused = _refused(points)
            if (best := _carried(points, refused)) is not None and refused is not None:
                return
            value = self.axis.near(points[0].at / step if best is None else points[-1].at * step)
            if value in self.seen or value < self.axis.least:
                return
            self._try(value)
            step = min(step**2, WIDEST)

    def _next(self) -> float | None:
        """Return the next value to simulate; None where the next above the answer is near, or nothing is carried."""
        points = self._ordered()
        best = _carried(points, _refused(points))
        above = [point.at for point in points if best is not None and point.at > best.at]
        if best is None or not above or above[0] <= (1 + self.tolerance) * best.at:
            return None
        middle = self.axis.near(math.sqrt(best.at * above[0]))
        return middle if best.at < middle < above[0] else None

    def _point(self, at: float, begin: float = 0.0) -> Point:
        """Simulate a value for as long as its verdict is not clear, the first time for `begin` at least."""
        span, enough, largest = self.axis.lengths(at)
        span, largest = max(span, begin), max(largest, begin)
        for _ in range(LOOKS):
            runs = tuple(self._runs(self.axis.quick.scenario.varied(self.axis.changes(at, span))))
            word = _word(runs)
            open_ = word == "undecided" or (word == "carried" and span < enough)
            if not open_ or span >= largest:
                break
            wants = [load.wants or 0.0 for run in runs if (load := run.run.load) is not None]
            span = min(max([2 * span, *wants]), largest)
        return Point(
            at=at,
            found=word,
            length=span,
            verdict=_verdict(runs),
            seeds=tuple(run.seed for run in runs),
            summary=pooled(runs),
            why=None if word == "carried" else binds(_gravest(runs)),
        )

    def _runs(self, scenario: Scenario) -> Iterator[Result]:
        """Yield the runs of all seeds, up to the first that refuses."""
        for seed in scenario.run.seeds:
            quick = self.axis.quick
            run = simulate(scenario, seed=seed, cost=quick.cost, network=quick.network, watch=False)
            yield run
            if _word([run]) == "refused":
                return


def _gravest(runs: Sequence[Result]) -> Result:
    """The first run that refuses, else the first that is not carried."""
    return min(runs, key=lambda run: ("refused", "undecided", "carried").index(_word([run])))


def _word(runs: Sequence[Result]) -> Word:
    """Say what runs of one point mean."""
    loads = {run.summary["afdsim"].get("load", "STABLE") for run in runs}
    verdict = _verdict(runs)
    if loads & LOADS or verdict == "FAIL":
        return "refused"
    return "carried" if loads == {"STABLE"} and verdict == "PASS" else "undecided"
