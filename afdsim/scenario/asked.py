"""What is asked of the cluster, as keys: when requests come, how long they are, and what they may take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from afdsim import units
from afdsim.scenario.leaves import Amount, Choice, Flag, Real, Text, got
from afdsim.scenario.part import Fault, Length, Part, Requests, Sigma, Time

MOST_GROUPS = 100_000
"""Of prompts that begin alike."""

if TYPE_CHECKING:
    from afdsim.workload import rates

Rate = Annotated[float, Amount("rate")]


class ClosedLoop(Part):
    """A finished request is replaced at once."""

    process: Literal["closed_loop"]
    concurrency: Requests | None = None
    """Requests in flight; default: all slots."""


class Poisson(Part):
    """Independent arrivals."""

    process: Literal["poisson"]
    request_rate: Rate
    """Mean rate; `inf`: all at once."""


class Constant(Part):
    """Evenly spaced arrivals."""

    process: Literal["constant"]
    request_rate: Rate
    """Rate."""


class Gamma(Part):
    """Gamma distributed gaps, burstier than Poisson for a shape below 1."""

    process: Literal["gamma"]
    request_rate: Rate
    """Mean rate."""
    burstiness: Annotated[float, Real(positive=True, reach=(1e-4, 1e6))] | None = None
    """Shape of the gamma law."""
    cv: Annotated[float, Real(positive=True, reach=(1e-3, 100.0))] | None = None
    """Coefficient of variation of the gaps, 1/sqrt(burstiness)."""

    @property
    def shape(self) -> float:
        """Shape of the gamma law, from whichever was given."""
        return self.burstiness if self.burstiness is not None else (self.cv or 1.0) ** -2

    def faults(self) -> Iterator[Fault]:
        """Check that exactly one of two words for one thing is given."""
        if self.burstiness is not None and self.cv is not None:
            yield "burstiness", "give one of burstiness and cv: burstiness (gamma shape) = 1/cv^2"
        if self.burstiness is None and self.cv is None:
            yield "", "process gamma needs burstiness (the gamma shape) or cv (= 1/sqrt(burstiness))"


class Burst(Part):
    """A state of bursty arrivals."""

    rate: Annotated[float, Amount("rate", positive=False)]
    """While it lasts; '0 req/s' is silence."""
    dwell: Annotated[float, Amount("time")]
    """Mean of the exponential time that it lasts."""


class Mmpp(Part):
    """Bursts: Poisson arrivals whose rate is that of a state, and the states follow one another in a circle (MMPP)."""

    process: Literal["mmpp"]
    states: tuple[Burst, ...]
    """Two or more, for example on and off. Which one it begins with is drawn by the time that each lasts."""

    def faults(self) -> Iterator[Fault]:
        """Check that there are bursts, and that somebody comes."""
        found = _finite(self.states, "states")
        if len(self.states) < 2:
            found += [("states", f"must be two or more, else write 'process: poisson' {got(len(self.states))}")]
        yield from found or _undrawable(self)

    @property
    def law(self) -> rates.Modulated:
        """The same to draw from."""
        from afdsim.workload import rates

        return rates.Modulated(states=tuple(rates.State(rate=each.rate, dwell=each.dwell) for each in self.states))


class Point(Part):
    """A rate at a time of a curve."""

    at: Time
    """Time of the point."""
    rate: Annotated[float, Amount("rate", positive=False)]
    """Rate at that time."""


class RateCurve(Part):
    """Poisson arrivals whose rate changes evenly from point to point: a day with 'period: 24h', or a ramp without."""

    process: Literal["rate_curve"]
    points: tuple[Point, ...]
    """In order of time, the first at 0s; two at one time are a jump."""
    period: Annotated[float, Amount("time")] | None = None
    """After which the curve begins again, to which it leads from the last point; default: the last rate stays."""

    def faults(self) -> Iterator[Fault]:
        """Check the order of the points, and that the rate does not end at 0."""
        yield from [*self._disorder(), *_finite(self.points, "points")] or _undrawable(self)

    def _disorder(self) -> Iterator[Fault]:
        times, last = [point.at for point in self.points], len(self.points) - 1
        if times[:1] != [0.0]:
            yield "points", "must begin at 0s, for example {at: 0s, rate: 2 req/s}"
        for place, (before, after) in enumerate(pairwise(times), start=1):
            if after < before:
                yield f"points.{place}.at", f"must be >= {units.show_time(before)}, that of the point before"
        if self.period is not None and times and self.period < times[-1]:
            end = got(units.show_time(self.period))
            yield "period", f"must be >= {units.show_time(times[-1])}, the last point {end}"
        if self.period is None and times and not self.points[-1].rate:
            yield f"points.{last}.rate", "must be > 0: the last rate stays, unless a period is given"

    @property
    def law(self) -> rates.RateCurve:
        """The same to draw from."""
        from afdsim.workload import rates

        points = tuple(rates.Point(at=each.at, rate=each.rate) for each in self.points)
        return rates.RateCurve(points=points, period=self.period)


def _finite(given: Sequence[Burst | Point], key: str) -> list[Fault]:
    """Check that rates are finite and not all 0."""
    endless = [f"{key}.{place}.rate" for place, each in enumerate(given) if math.isinf(each.rate)]
    found = [(path, "must be finite; all at once is 'process: poisson, request_rate: inf'") for path in endless]
    nobody = bool(given) and not any(each.rate for each in given)
    return [*found, (key, "must have a rate > 0")] if nobody else found


def _undrawable(asked: Mmpp | RateCurve) -> list[Fault]:
    """Return why nothing can be drawn, where no key alone is at fault."""
    try:
        _ = asked.law
    except ValueError as error:
        return [("", str(error))]
    return []


class Replay(Part):
    """Arrivals of `workload.trace`."""

    process: Literal["trace"]


class ConstantLength(Part):
    """Every request alike."""

    distribution: Literal["constant"]
    value: Length
    """Tokens."""


class _Bounded(Part):
    min: Length = 1
    """Fewest tokens."""
    max: Length | None = None
    """Most tokens; default: no limit."""

    def faults(self) -> Iterator[Fault]:
        """Check the order of the limits."""
        if self.max is not None and self.max < self.min:
            yield "max", f"must be >= min ({self.min}) {got(self.max)}"


class LognormalLength(_Bounded):
    """Lognormal, rounded and clipped."""

    distribution: Literal["lognormal"]
    mean: Annotated[float, Real(positive=True, reach=(1e-3, 1e9))]
    """Mean before clipping."""
    cv: Sigma
    """Standard deviation over mean."""


class UniformLength(_Bounded):
    """Every whole number from min to max, equally often."""

    distribution: Literal["uniform"]
    max: Length
    """Most tokens."""


class Trace(Part):
    """A file of recorded requests: lengths, and with 'process: trace' arrivals too."""

    path: Annotated[str, Text(wanted="a file")]
    """The file, CSV or JSON, also .gz."""
    format: Annotated[str, Text(wanted="a trace format, e.g. 'azure'")] = "auto"
    """Who wrote it; auto: told by the columns."""
    time_unit: Annotated[Literal["s", "ms", "us", "ns"], Choice(("s", "ms", "us", "ns"))] | None = None
    """What arrivals count in, for files whose columns do not tell."""
    time_scale: Annotated[float, Real(positive=True, reach=(1e-6, 1e6))] = 1.0
    """Stretches the gaps: 0.5 replays twice as fast."""
    start: Time = 0.0
    """Where to begin, counted from the first request."""
    end: Annotated[float, Amount("time")] | None = None
    """Where to stop, counted from the first request; default: its last."""
    spread: Annotated[bool, Flag()] = False
    """Space requests that share a timestamp evenly up to the next one, for traces recorded in buckets."""
    skip_bad_rows: Annotated[bool, Flag()] = True
    """Skip and count rows that cannot be, up to one in a hundred."""

    def faults(self) -> Iterator[Fault]:
        """Check the window, the format and that the file is there."""
        from afdsim.workload.formats import FORMATS, contradiction

        if self.end is not None and self.end <= self.start:
            yield "end", f"must be > start ({units.show_time(self.start)})"
        if self.format not in ("auto", *FORMATS):
            yield "format", f"must be one of auto, {', '.join(FORMATS)} {got(self.format)}"
        elif self.time_unit and self.format != "auto" and FORMATS[self.format].unit not in (None, self.time_unit):
            yield "time_unit", contradiction(self.format, self.time_unit)
        if Path(self.path).is_dir():
            yield "path", f"is a folder, '{self.path}'; name the file in it"
        elif not Path(self.path).is_file():
            yield "path", f"no such file '{self.path}'"


class Prefix(Part):
    """Prompts that begin alike: every request belongs to one of some groups, drawn from the seed.

    Blocks of a prefix that is on a rank are counted once. On a decode rank that saves memory; a prefill rank does not
    compute them again.
    """

    groups: Length
    """Prefixes in all: system prompts, tenants, documents."""
    tokens: Length
    """Tokens at the beginning of the prompts of a group, part of `input_len`; a shorter prompt is all prefix."""
    zipf: Sigma = 0.0
    """Exponent of how often groups are asked for; 0: all alike."""

    def faults(self) -> Iterator[Fault]:
        """Check that every rank can look at every group."""
        if self.groups > MOST_GROUPS:
            yield "groups", f"must be <= {MOST_GROUPS:,}: every rank has a place for each {got(self.groups)}"


Arrival = Annotated[ClosedLoop | Poisson | Constant | Gamma | Mmpp | RateCurve | Replay, Field(discriminator="process")]
Lengths = Annotated[ConstantLength | LognormalLength | UniformLength, Field(discriminator="distribution")]


class ConstantTime(Part):
    """Every time alike."""

    distribution: Literal["constant"]
    value: Time
    """The time."""


class ExponentialTime(Part):
    """Exponential times."""

    distribution: Literal["exponential"]
    mean: Annotated[float, Amount("time")]
    """Mean."""


class LognormalTime(Part):
    """Lognormal times."""

    distribution: Literal["lognormal"]
    mean: Annotated[float, Amount("time")]
    """Mean."""
    cv: Sigma
    """Standard deviation over mean."""


Times = Annotated[ConstantTime | ExponentialTime | LognormalTime, Field(discriminator="distribution")]
Between = Literal["keep", "offload", "drop"]


class Sessions(Part):
    """Conversations of several turns: an arrival opens one, and `input_len` is its first prompt.

    The prompt of a further turn is the whole conversation so far, answers included, and `user_len` tokens more; it
    comes `think_time` after the end of the answer before. A session ends early where the next turn would be longer than
    the model was made for, or than a rank can hold.
    """

    turns: Lengths
    """Requests of a session."""
    user_len: Lengths
    """Tokens that a further turn adds: what the user says, or what a tool answers."""
    think_time: Times | None = None
    """From the end of an answer to the next turn; default: none, as where a program goes on."""
    kv: Annotated[Between, Choice(get_args(Between))] = "keep"
    """KV cache of a conversation between two turns. keep: it stays on its rank, to which the next turn goes, until the
    rank needs the room; then it is computed again at `kv_cache.reprefill_rate`. offload: it goes to host memory, and
    comes back over the link of whichever rank the next turn goes to. drop: it is computed again. What a turn adds comes
    with its KV cache, as every first prompt does."""


class RequestClass(Part):
    """Requests of one kind: their share, their lengths, and what they may take."""

    name: Annotated[str, Text(r"[A-Za-z][A-Za-z0-9_-]{0,15}", "at most 16 letters, digits, _ and -, e.g. 'chat'")]
    """Name of the class in the report."""
    weight: Annotated[float, Real(positive=True)] = 1.0
    """Share of the arrivals, over the sum of all weights. Poisson classes with rates of their own are one Poisson
    process of the sum of these, with the rates as weights."""
    input_len: Lengths | None = None
    """Default: `workload.input_len`."""
    output_len: Lengths | None = None
    """Default: `workload.output_len`."""
    sla: Sla | None = None
    """Default: the SLA of the scenario."""


class Workload(Part):
    """Who asks for how much, and when."""

    arrival: Arrival
    """When requests come; `process` chooses the law."""
    input_len: Lengths | None = None
    """Tokens of the prompt, in the KV cache before the first decode step."""
    output_len: Lengths | None = None
    """Tokens that a request generates, the first included."""
    num_requests: Requests | None = None
    """Requests of an open loop, those that are counted of a closed one; with a trace: the first ones, default all.
    Turns of sessions are requests: sessions come until they have so many, the last one may be cut short."""
    duration: Annotated[float, Amount("time")] | None = None
    """How long requests arrive, in place of `num_requests`; for open loops."""
    prefix: Prefix | None = None
    """Prompts that begin alike; default: none do."""
    samples: Length | None = None
    """Answers to every prompt: requests of equal `input_len` that come at once, in a closed loop one after the other.
    Whole blocks of the prompt are on a rank once. `num_requests` counts answers. Default: one; nothing is shared."""
    sessions: Sessions | None = None
    """Conversations of several turns; default: every request stands alone."""
    trace: Trace | None = None
    """Where lengths come from, and with 'process: trace' arrivals; with another process they are that law's."""
    classes: tuple[RequestClass, ...] | None = None
    """Kinds of requests that come mixed; the class of each is drawn. Results are told by class too."""

    def faults(self) -> Iterator[Fault]:
        """Check that arrivals and lengths come from exactly one place each."""
        yield from self._how_many()
        replayed = isinstance(self.arrival, Replay)
        if replayed and self.trace is None:
            yield "trace", "process trace needs a file; give workload.trace.path"
        for key in ("input_len", "output_len"):
            given = getattr(self, key) is not None
            by_class = self.classes is not None and all(getattr(each, key) for each in self.classes)
            if given and (replayed or self.trace is not None):
                yield key, "comes from the trace; remove it (or set it to null)"
            elif not (given or by_class or replayed or self.trace):
                yield key, "required key is missing" + (", or in each of the classes" if self.classes else "")
        yield from self._classes()
        if self.trace is not None and not replayed:
            yield from self._unused(self.trace)

    def _classes(self) -> Iterator[Fault]:
        """Check that classes differ in name, and that their lengths come from one place."""
        if self.classes == ():
            yield "classes", "needs a class, for example {name: chat, weight: 3}; or remove it"
        names = [each.name for each in self.classes or ()]
        for place, each in enumerate(self.classes or ()):
            if each.name in names[:place]:
                yield f"classes.{place}.name", f"'{each.name}' is the name of another class"
            for key in ("input_len", "output_len"):
                if self.trace is not None and getattr(each, key) is not None:
                    yield f"classes.{place}.{key}", "comes from the trace; remove it (or set it to null)"

    def _unused(self, trace: Trace) -> Iterator[Fault]:
        """Check that nothing is asked of the arrivals of a trace that gives lengths only."""
        for key, default in (("time_scale", 1.0), ("spread", False)):
            if getattr(trace, key) != default:
                law = f"process {self.arrival.process} gives the arrivals"
                yield f"trace.{key}", f"changes arrivals of the file, and {law}; remove it, or write 'process: trace'"
        if trace.time_unit and not trace.start and trace.end is None:
            law = f"process {self.arrival.process} gives them"
            yield "trace.time_unit", f"is that of arrivals of the file, and {law}; remove it, or write 'process: trace'"

    def _how_many(self) -> Iterator[Fault]:
        """Check that the end of the requests is told once, in a way that the arrivals have."""
        told = (self.num_requests, self.duration) != (None, None)
        match self.arrival:
            case ClosedLoop() if self.duration is not None:
                yield (
                    "duration",
                    "is how long requests arrive; a closed loop has num_requests, or run.stop.max_sim_time",
                )
            case Replay() if self.duration is not None:
                yield "duration", "of a trace is told by trace.start and trace.end"
            case ClosedLoop() | Poisson() | Constant() | Gamma() | Mmpp() | RateCurve() if (
                not told and self.trace is None
            ):
                yield "num_requests", "required key is missing"
            case _ if None not in (self.num_requests, self.duration):
                yield "duration", "and num_requests both tell when arrivals end; remove one (or set it to null)"
        if self.duration is not None and math.isinf(getattr(self.arrival, "request_rate", 0.0)):
            yield "duration", "of an infinite rate holds no end of requests; give num_requests"


class Sla(Part):
    """Limits that a deployment must meet, while it carries its load.

    An open loop is measured from the end of the warm-up to the last arrival. offered: arrivals per second; served:
    completions per second; backlog growth: by how many requests per second the queue grows. STABLE: served is offered
    within chance, the number in flight does not drift, and the queue is empty or empties again and again. BACKLOGGED: a
    queue was left, or grew for a part of the window: it hardly empties. OVERLOADED: it grows for as long as requests
    come, and the run ends with the last of them. n/a: the run is too short to tell. Only a STABLE load meets an SLA.
    """

    ttft: Annotated[float, Amount("time")] | None = None
    """From arrival to the first token, which prefill gives."""
    tpot: Annotated[float, Amount("time")] | None = None
    """Time per output token."""
    e2el: Annotated[float, Amount("time")] | None = None
    """From arrival to the last token."""
    queue: Annotated[float, Amount("time")] | None = None
    """From arrival to admission."""
    percentile: Annotated[Literal["mean", "p50", "p90", "p95", "p99"], Choice(("mean", "p50", "p90", "p95", "p99"))] = (
        "p99"
    )
    """Which statistic over requests is held against the limits."""

    def faults(self) -> Iterator[Fault]:
        """Check that there is something to meet."""
        if not self.limits:
            yield "", "needs a limit, for example 'tpot: 50ms'"

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, seconds by metric."""
        every = {"ttft": self.ttft, "tpot": self.tpot, "e2el": self.e2el, "queue": self.queue}
        return {metric: limit for metric, limit in every.items() if limit is not None}


Workload.model_rebuild()
