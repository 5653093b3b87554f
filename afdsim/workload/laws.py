"""What is asked of the cluster: laws of arrivals and of lengths, and requests as endless columns.

Requests are columns, and a request is its index. Nothing here holds a random state: every function takes a numpy
``Generator``. Drawing n values and then m more gives the numbers that drawing n + m at once gives, so request i has
the same lengths and arrival however many requests a run needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from afdsim.workload.rates import Modulated, RateCurve, TimeChange

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Stream: TypeAlias = Callable[[str, int], np.random.Generator]
"""Stream of a kind of draw at a step."""

BLOCK: Final = 16_384
"""Requests that a `RequestSource` draws at a time."""


# lengths ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Every request has the same length."""

    value: int
    """Tokens, at least 1."""

    def __post_init__(self) -> None:
        _demand(self.value >= 1, f"value must be >= 1 token (got {self.value})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """Lognormal lengths, rounded to whole tokens and clipped to [min, max].

    `mean` and `cv` describe the law before clipping, so the drawn mean differs where the limits bite.
    """

    mean: float
    """Tokens."""
    cv: float
    """Standard deviation over mean."""
    min: int = 1
    max: int = 131_072

    def __post_init__(self) -> None:
        _demand(math.isfinite(self.mean) and self.mean > 0, f"mean must be > 0 tokens (got {self.mean:g})")
        _demand(math.isfinite(self.cv) and self.cv >= 0, f"cv must be >= 0 (got {self.cv:g})")
        _demand_range(self.min, self.max)

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.sqrt(math.log1p(self.cv**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every whole number of tokens from min to max is equally likely, both ends included."""

    min: int
    max: int

    def __post_init__(self) -> None:
        _demand_range(self.min, self.max)


Lengths: TypeAlias = Constant | Lognormal | Uniform


def draw(law: Lengths, rng: np.random.Generator, n: int) -> Ints:
    """Draw `n` lengths in tokens."""
    match law:
        case Constant(value=value):
            return np.full(n, value, np.int64)
        case Lognormal():
            shift = math.log(law.mean) - law.sigma**2 / 2
            lengths = np.exp(shift + law.sigma * rng.standard_normal(n))
            return np.clip(np.rint(lengths), law.min, law.max).astype(np.int64)
        case Uniform():
            return law.min + (rng.random(n) * (law.max - law.min + 1)).astype(np.int64)
        case _:
            assert_never(law)


def longest(law: Lengths) -> int:
    """Tokens of the longest request that the law can draw: what memory checks must hold."""
    return law.value if isinstance(law, Constant) else law.max


# arrivals -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """A fixed number of requests in flight: a finished one is replaced at once."""

    concurrency: int | None = None
    """Requests in flight over the whole deployment; None fills every slot."""

    def __post_init__(self) -> None:
        fits = self.concurrency is None or self.concurrency >= 1
        _demand(fits, f"concurrency must be >= 1 (got {self.concurrency})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Independent arrivals: exponential gaps, the first gap before the first request."""

    rate: float
    """Requests per second; inf is everything at time 0 (vLLM's meaning)."""

    def __post_init__(self) -> None:
        _demand_rate(self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantRate:
    """Evenly spaced arrivals, the first at time 0."""

    rate: float
    """Requests per second; inf is everything at time 0."""

    def __post_init__(self) -> None:
        _demand_rate(self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """Gamma-distributed gaps: a `burstiness` of 1 is Poisson, smaller is burstier (cv of a gap = burstiness**-0.5)."""

    rate: float
    """Requests per second; inf is everything at time 0."""
    burstiness: float
    """Shape of the gamma law, vLLM's word."""

    def __post_init__(self) -> None:
        _demand_rate(self.rate)
        fits = math.isfinite(self.burstiness) and self.burstiness > 0
        _demand(fits, f"burstiness must be > 0 (got {self.burstiness:g})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests as they were recorded; the index is the request id."""

    arrival: Floats
    """Seconds after the first request, never falling."""
    input_len: Ints
    """Prompt tokens."""
    output_len: Ints
    """Generated tokens."""
    notes: tuple[str, ...] = ()
    """What the reader had to do to the file, one sentence each."""
    told: str = ""
    """As what the file was read, and what it then holds."""

    def __len__(self) -> int:
        return len(self.arrival)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """Lengths as they were recorded, without their arrivals; after the last request they start again."""

    input_len: Ints
    """Prompt tokens."""
    output_len: Ints
    """Generated tokens."""
    notes: tuple[str, ...] = ()
    """What the reader had to do to the file, one sentence each."""
    told: str = ""
    """As what the file was read, and what it then holds."""

    def __len__(self) -> int:
        return len(self.input_len)


OpenLoop: TypeAlias = Poisson | ConstantRate | Gamma | Trace
Arrivals: TypeAlias = ClosedLoop | OpenLoop | Modulated | RateCurve


def arrivals(law: OpenLoop, rng: np.random.Generator, n: int) -> Floats:
    """Return the first `n` arrival times in seconds, never falling. A trace has no more than it holds."""
    return _arrivals(law, rng, 0, n, 0.0)


def _arrivals(law: OpenLoop, rng: np.random.Generator, start: int, stop: int, clock: float) -> Floats:
    """Arrivals of requests start .. stop - 1, where the one before came at `clock`."""
    if isinstance(law, Trace):
        return law.arrival[start:stop]
    if math.isinf(law.rate):
        return np.zeros(stop - start)
    match law:
        case ConstantRate():
            return np.arange(start, stop) / law.rate
        case Poisson():
            gaps = rng.standard_exponential(stop - start) / law.rate
        case Gamma():
            gaps = rng.standard_gamma(law.burstiness, stop - start) / (law.burstiness * law.rate)
        case _:
            assert_never(law)
    gaps[:1] += clock
    return np.cumsum(gaps)


# classes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Kinds of requests that come mixed; a request's is drawn by weight, independent of its arrival."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    input_len: tuple[Lengths | None, ...]
    """Of each; None: as those of all requests."""
    output_len: tuple[Lengths | None, ...]

    def __post_init__(self) -> None:
        _demand(bool(self.names), "there must be a class")
        fits = all(math.isfinite(weight) and weight > 0 for weight in self.weights)
        _demand(fits, f"weights must be > 0 (got {', '.join(f'{weight:g}' for weight in self.weights)})")


# the endless column -------------------------------------------------------------------------------------------------


class RequestSource:
    """Requests by index, drawn in blocks when first asked for: endless for laws, `size` long for a trace.

    Lengths of None are those of the trace that gives the arrivals. `streams` gives the generator of a column:
    "arrival", "state" (of bursts), "class", "input_len" or "output_len", these followed by ".1" and so on where a class
    has lengths of its own. So a class that comes or goes leaves arrivals alone, and lengths of the others. Of `samples`
    requests that follow one another, each has an answer of its own to the same prompt, and they come at once.
    """

    def __init__(
        self,
        arrival: Arrivals,
        input_len: Lengths | Recorded | None,
        output_len: Lengths | Recorded | None,
        streams: Callable[[str], np.random.Generator],
        classes: Classes | None = None,
        samples: int = 1,
    ) -> None:
        self.law, self.classes, self._samples = arrival, classes, samples
        self.size: int | None = len(arrival) if isinstance(arrival, Trace) else None
        self.file = next(
            (each for each in (arrival, input_len, output_len) if isinstance(each, Trace | Recorded)), None
        )
        """The recording that requests come from, if any."""
        self.notes = () if self.file is None else self.file.notes
        self._kind = None if classes is None else _Column(_kinds(classes, streams("class")))
        self._input = _Column(self._lengths("input_len", input_len, streams))
        self._output = _Column(self._lengths("output_len", output_len, streams))
        self._arrival = None if isinstance(arrival, ClosedLoop) else _Column(_times(arrival, streams))

    def kinds(self, n: int) -> Ints:
        """Return the classes of the first `n` requests, by their place in `classes`."""
        assert self._kind is not None, "there are no classes"
        return self._kind.first(n).astype(np.int64)

    def _lengths(
        self, column: str, law: Lengths | Recorded | None, streams: Callable[[str], np.random.Generator]
    ) -> Callable[[int], Ints]:
        """Lengths by the law of all requests, or by that of the class of each."""
        kind, every = self._kind, () if self.classes is None else getattr(self.classes, column)
        own = [(place, each, streams(f"{column}.{place + 1}")) for place, each in enumerate(every) if each is not None]
        alone = bool(own) and len(own) == len(every)
        common = (lambda _: np.zeros(BLOCK, np.int64)) if alone else _lengths(column, self.law, law, streams)
        if kind is None or not own:
            return common

        def block(number: int) -> Ints:
            which, found = kind.block(number), common(number)
            for place, each, rng in own:
                found = np.where(which == place, draw(each, rng, BLOCK), found)
            return found

        return block

    def lengths(self, request: int) -> tuple[int, int]:
        """(input, output) tokens of a request."""
        return int(self._input[request // self._samples]), int(self._output[request])

    def arrival(self, request: int) -> float:
        """Return when a request arrives, in seconds; a closed loop decides that while it runs, and has no column."""
        assert self._arrival is not None, "a closed loop has no arrival column"
        return self._arrival[request // self._samples]

    def times(self, n: int) -> Floats:
        """Return when the first `n` requests of an open loop arrive."""
        assert self._arrival is not None, "a closed loop has no arrival column"
        return self._each(self._arrival, n).astype(np.float64)

    def until(self, time: float) -> int:
        """Return how many requests of an open loop arrive up to a time, at least 1."""
        known = BLOCK * self._samples
        while self.times(known)[-1] <= time:
            known *= 2
        return max(int(np.searchsorted(self.times(known), time, side="right")), 1)

    def columns(self, n: int) -> tuple[Ints, Ints]:
        """(input_len, output_len) of the first `n` requests."""
        return self._each(self._input, n).astype(np.int64), self._output.first(n).astype(np.int64)

    def _each(self, column: _Column, n: int) -> NDArray[Any]:
        """Return what the first `n` requests have of their prompts."""
        if self._samples == 1:
            return column.first(n)
        return np.repeat(column.first(-(-n // self._samples)), self._samples)[:n]


class _Column:
    """A lazily drawn column: blocks stay compact arrays, and the block in use is a list of Python numbers."""

    __slots__ = ("_blocks", "_draw", "_list", "_start")

    def __init__(self, draw_block: Callable[[int], NDArray[Any]]) -> None:
        self._draw = draw_block
        self._blocks: list[NDArray[Any]] = []
        self._list: list[float] = []
        self._start = 0

    def __getitem__(self, index: int) -> float:
        offset = index - self._start
        if 0 <= offset < len(self._list):
            return self._list[offset]
        number, offset = divmod(index, BLOCK)
        self._start, self._list = number * BLOCK, self.block(number).tolist()
        return self._list[offset]

    def first(self, n: int) -> NDArray[Any]:
        blocks = [self.block(number) for number in range(-(-n // BLOCK))]
        return np.concatenate(blocks)[:n] if blocks else np.zeros(0)

    def block(self, number: int) -> NDArray[Any]:
        """Return a whole block."""
        while len(self._blocks) <= number:
            self._blocks.append(self._draw(len(self._blocks)))
        return self._blocks[number]


def _lengths(
    column: str, arrival: Arrivals, law: Lengths | Recorded | None, streams: Callable[[str], np.random.Generator]
) -> Callable[[int], Ints]:
    if isinstance(law, Recorded):
        endless: Ints = getattr(law, column)
        return lambda number: np.take(endless, np.arange(number * BLOCK, (number + 1) * BLOCK), mode="wrap")
    if law is None:
        assert isinstance(arrival, Trace), f"{column} needs a law where no trace gives it"
        recorded: Ints = getattr(arrival, column)
        return lambda number: recorded[number * BLOCK : (number + 1) * BLOCK]
    rng = streams(column)
    return lambda _: draw(law, rng, BLOCK)


def _kinds(classes: Classes, rng: np.random.Generator) -> Callable[[int], Ints]:
    shares = np.cumsum(classes.weights) / math.fsum(classes.weights)
    last = len(shares) - 1
    return lambda _: np.minimum(np.searchsorted(shares, rng.random(BLOCK), side="right"), last)


def _times(
    law: OpenLoop | Modulated | RateCurve, streams: Callable[[str], np.random.Generator]
) -> Callable[[int], Floats]:
    if isinstance(law, Modulated | RateCurve):
        change, even = TimeChange(law, streams("state")), _one_by_one(Poisson(rate=1.0), streams("arrival"))
        return lambda number: change(even(number))
    return _one_by_one(law, streams("arrival"))


def _one_by_one(law: OpenLoop, rng: np.random.Generator) -> Callable[[int], Floats]:
    clock = 0.0

    def block(number: int) -> Floats:
        nonlocal clock
        times = _arrivals(law, rng, number * BLOCK, (number + 1) * BLOCK, clock)
        clock = float(times[-1]) if len(times) else clock
        return times

    return block


def _demand(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)


def _demand_range(low: int, high: int) -> None:
    _demand(low >= 1, f"min must be >= 1 token (got {low})")
    _demand(high >= low, f"max must be >= min (got min {low}, max {high})")


def _demand_rate(rate: float) -> None:
    _demand(rate > 0, f"rate must be > 0 req/s (got {rate:g})")
