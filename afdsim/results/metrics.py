"""What a run says, as pure functions of its columns: latencies, throughput, utilisation by cause, cost, the SLA.

Definitions are vLLM's. TPOT is one number per request, (last - first token)/(n - 1), and a request of one token has
none; ITL is every gap between two tokens of a request; queue delay is admission - arrival; E2EL is last token -
arrival. With prefill TTFT is first token - arrival, and queue delay begins when decode has the KV cache. Percentiles
interpolate linearly as `numpy.percentile` does, standard deviations have ddof 0. Everything that is a rate, and the
ITL, is taken over the window (start, end]; other latencies over the counted requests that finished, TTFT over those
with a first token. Columns are any mapping of names to sequences: a dict of arrays or a data frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afdsim.engine.books import CAUSES
from afdsim.results import bottleneck
from afdsim.results.intervals import UNKNOWN, Interval, mean_interval, percentile_interval
from afdsim.results.steady import Level, Load, cut_short

Floats: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = Mapping[str, Any]
Window: TypeAlias = tuple[float, float]

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)

DEFINITIONS: Final = {
    "tpot": "(last token - first token)/(n - 1) per request; none where n = 1",
    "itl": "every gap between consecutive tokens of a request",
    "queue": "admission - arrival",
    "e2el": "last token - arrival",
    "tgs": "output tokens per GPU and second, over all GPUs",
    "load": "STABLE: served is offered and the queue does not grow; BACKLOGGED: a queue was left, or grew for a while; "
    "OVERLOADED: it grows for as long as requests come",
}


# what is measured ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The GPUs that play one role."""

    gpu: str
    gpus: int
    usd_per_hour: float | None = None
    """Of one GPU."""
    mfu: float | None = None
    """Useful FLOPs over peak FLOPs in the window, 0..1."""
    mbu: float | None = None
    """Bytes moved over the memory bandwidth in the window, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sla:
    """Limits in seconds by metric ("ttft", "tpot", "e2el", "queue"), held against one statistic over the requests."""

    limits: Mapping[str, float]
    percentile: str = "p99"
    """"mean", or "p" and a percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What did the work."""

    name: str
    steps: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One rank of those that hold requests."""

    instance: int
    rank: int
    """Inside its instance."""
    busy: float
    """Share of its time."""
    sequences: float
    """In flight on average."""
    context: float
    """Mean of theirs, tokens; 0 where it had none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """How far the ranks that hold requests lie apart."""

    busiest: Rank
    idlest: Rank

    @property
    def spread(self) -> float:
        """Busy share of the busiest over that of the idlest."""
        return self.busiest.busy / self.idlest.busy if self.idlest.busy else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that the metrics are computed from. Times in seconds."""

    requests: Columns
    """arrival_s, admitted_s, first_token_s, finish_s (NaN: not reached), input_len, output_len, status, counted; with
    prefill prefill_start_s and prefill_end_s too, and kv_ready_s where servers have done it."""
    tokens: Columns
    """One row per boundary: t_s, batch (tokens emitted), gaps (those that followed another one), itl_s (that gap)."""
    gpus: Columns
    """One row per GPU: pool, and the seconds of every cause inside the window."""
    window: Window
    pools: Mapping[str, Pool]
    engine: Engine
    sla: Sla | None = None
    load: Load | None = None
    """How an open loop stood; a closed loop has none."""
    links: Columns = field(default_factory=dict)
    """One row per port and direction: port, pool, instance, rail, direction, messages, bytes."""
    bounds: bottleneck.Bounds | None = None
    """What a step takes at least; None where no step was run."""
    ranks: Ranks | None = None
    """Of the first pool; None where they are alike."""
    failures: Mapping[str, Any] | None = None
    """What crashes did (`afdsim.results.outages`); None where nothing may crash."""
    mixed: Mapping[str, Any] | None = None
    """What steps did for prompts (`afdsim.results.mixed`); None where they compute none."""
    kv_cache: Mapping[str, Any] | None = None
    """What KV cache in blocks did (`afdsim.results.caching`); None where it is not asked for."""
    sessions: Mapping[str, Any] | None = None
    """What sessions were (`afdsim.results.conversed`); None where every request stands alone."""
    blame: Columns = field(default_factory=dict)
    """One row per unit and culprit (`blame.Row`); nothing where nobody noted it."""
    waits: Mapping[str, Any] = field(default_factory=dict)
    """Where the units of every pool stood still (`blame.waits`)."""
    critical: Mapping[str, Any] | None = None
    """What bound some steps (`critical.told`); None where none is whole."""
    cells: Sequence[Mapping[str, Any]] = ()
    """What every cell behind a router did (`afdsim.results.cells`); empty without one."""
    classes: Mapping[str, Sla | None] = field(default_factory=dict)
    """Classes of requests, with what each is held against: the requests then have a `class`, the tokens the gaps of
    each under `gaps_` and its name."""

    @property
    def duration(self) -> float:
        """Length of the window."""
        return self.window[1] - self.window[0]

    @property
    def gpu_count(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools.values())

    @property
    def prefilled(self) -> bool:
        """Whether prompts were computed: requests have a time to first token."""
        return "prefill_end_s" in self.requests

    @property
    def steady(self) -> bool:
        """Whether rates of the window mean anything."""
        return not cut_short(self.tokens, self.window) if self.load is None else self.load.level != "n/a"

    @property
    def carried(self) -> bool:
        """Whether the cluster kept up with what was asked of it."""
        return self.load is None or self.load.level == "STABLE"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Values, each standing for `weights` equal ones."""

    values: Floats
    weights: Floats | None = None
    late: NDArray[np.bool_] | None = None
    """Marks those of an open loop that saw the cluster empty, after the last arrival."""

    @property
    def count(self) -> int:
        """Samples, weights counted."""
        return len(self.values) if self.weights is None else int(self.weights.sum())


def tpot(requests: Columns) -> Floats:
    """Seconds per output token after the first, of every request; NaN where there is none."""
    gaps = column(requests, "output_len") - 1
    span = column(requests, "finish_s") - column(requests, "first_token_s")
    per_gap: Floats = np.divide(span, gaps, out=np.full(len(span), np.nan), where=gaps > 0)
    return per_gap


def ttft(requests: Columns) -> Floats:
    """Seconds from arrival to the first token, of every request."""
    return column(requests, "first_token_s") - column(requests, "arrival_s")


def prefill_queue(requests: Columns) -> Floats:
    """Seconds from arrival to the first step of its prompt, of every request that went through prefill."""
    return column(requests, "prefill_start_s") - column(requests, "arrival_s")


def queue(requests: Columns) -> Floats:
    """Seconds to admission, from arrival or with prefill from when its KV cache is there, of every request."""
    return column(requests, "admitted_s") - column(requests, "kv_ready_s" if "kv_ready_s" in requests else "arrival_s")


def e2el(requests: Columns) -> Floats:
    """Seconds from arrival to the last token, of every request."""
    return column(requests, "finish_s") - column(requests, "arrival_s")


def shown_in(metric: str) -> tuple[float, str]:
    """(what a millisecond of a latency is in the unit that reports show it in, that unit)."""
    return (1e-3, "s") if metric == "e2el" else (1.0, "ms")


def itl(tokens: Columns, window: Window) -> Samples:
    """Every gap that ends in the window: boundaries, weighted by the tokens that each one followed up."""
    gaps = column(tokens, "gaps")
    kept = _inside(column(tokens, "t_s"), window) & (gaps > 0)
    return Samples(column(tokens, "itl_s")[kept], gaps[kept])


def completed(requests: Columns) -> NDArray[np.bool_]:
    """Mark the requests that count and have finished."""
    return counted(requests) & ~np.isnan(column(requests, "finish_s"))


def latencies(run: Run) -> dict[str, Samples]:
    """Return the samples of tpot, itl, e2el and queue, and of ttft and prefill_queue with prefill, in seconds.

    Those of the first token are of all that have it, finished or not: who finishes before a run is stopped came early.
    """
    table, done = run.requests, completed(run.requests)
    late = None if run.load is None else column(table, "arrival_s") > run.window[1] - run.load.settling

    def of(span: Callable[[Columns], Floats], kept: NDArray[np.bool_]) -> Samples:
        values = span(table)
        kept = kept & ~np.isnan(values)
        return Samples(values[kept], late=None if late is None else late[kept])

    first = {"ttft": ttft, "prefill_queue": prefill_queue} if run.prefilled else {}
    out = counted(table) & ~np.isnan(column(table, "first_token_s"))
    return {
        **{name: of(span, out) for name, span in first.items()},
        "tpot": of(tpot, done),
        "itl": itl(run.tokens, run.window),
        "e2el": of(e2el, done),
        "queue": of(queue, done),
    }


def of_class(run: Run, name: str) -> Run:
    """Return a run with the requests and gaps of one class alone, held against what that class is."""
    mine = np.asarray(run.requests["class"]) == name
    return replace(
        run,
        requests={key: np.asarray(run.requests[key])[mine] for key in run.requests},
        tokens={**{key: run.tokens[key] for key in run.tokens}, "gaps": run.tokens[f"gaps_{name}"]},
        sla=run.classes[name],
        classes={},
    )


# throughput, time and money -----------------------------------------------------------------------------------------


def output_throughput(tokens: Columns, window: Window) -> float:
    """Output tokens per second of the window, of all requests in flight."""
    inside = _inside(column(tokens, "t_s"), window)
    return ratio(float(column(tokens, "batch")[inside].sum()), window[1] - window[0])


def tgs(tokens: Columns, gpus: int, window: Window) -> float:
    """Output tokens per GPU and second of the window; `gpus` counts all GPUs of the deployment."""
    return output_throughput(tokens, window) / gpus


def steps(tokens: Columns, window: Window) -> tuple[Floats, Floats]:
    """(tokens, seconds) of every whole step inside the window: from the last boundary of a step to that of the next.

    A cut inside a step would look like noise: its micro-batches are not evenly spaced. Of several cells it is the steps
    of the one with the most boundaries.
    """
    own = column(tokens, "step") >= 0  # what came before or beside decode has none
    times = column(tokens, "t_s")[own]
    numbers, place = np.unique(_numbers(tokens, column(tokens, "t_s"))[own], return_inverse=True)
    first, last = np.full(len(numbers), math.inf), np.zeros(len(numbers))
    np.minimum.at(first, place, times)
    np.maximum.at(last, place, times)
    emitted = np.bincount(place, column(tokens, "batch")[own]).astype(float)
    seconds = np.diff(last, prepend=math.nan)
    whole = (first > window[0]) & (last <= window[1]) & ~np.isnan(seconds)
    return emitted[whole], seconds[whole]


def _numbers(tokens: Columns, times: Floats) -> Floats:
    """The step of every boundary; of several cells the one that the cell with the most boundaries was in."""
    steps_ = column(tokens, "step")
    if "cell" not in tokens or not len(steps_):
        return steps_
    cells = np.asarray(tokens["cell"])
    own = cells == np.bincount(cells[cells >= 0], minlength=1).argmax()
    numbers, place = np.unique(steps_[own], return_inverse=True)
    last = np.zeros(len(numbers))
    np.maximum.at(last, place, times[own])
    return np.searchsorted(last, times).astype(float)


def request_throughput(requests: Columns, window: Window) -> float:
    """Return the requests per second that finish in the window, counted or not."""
    return ratio(float(_inside(column(requests, "finish_s"), window).sum()), window[1] - window[0])


def throughput_over_time(tokens: Columns, window: Window, bins: int = 60) -> tuple[Floats, Floats]:
    """(edges in seconds, output tokens per second between them).

    The tokens of a boundary are spread over the time since the one before: bins that cut steps would flicker.
    """
    edges = np.linspace(*window, bins + 1)
    moments, place = np.unique(column(tokens, "t_s"), return_inverse=True)
    if not len(moments):
        return edges, np.zeros(bins)
    first = moments[0] - (moments[1] - moments[0] if len(moments) > 1 else 1e-3)
    produced = np.cumsum(np.bincount(place, column(tokens, "batch")))
    until = np.interp(edges, np.concatenate(([first], moments)), np.concatenate(([0.0], produced)))
    return edges, np.diff(until) / np.diff(edges)


def causes(gpus: Columns) -> dict[str, dict[str, float]]:
    """Shares of GPU time by pool and cause; those of a pool add up to 1. An empty window has none."""
    pools = np.asarray(gpus["pool"])
    seconds = np.stack([column(gpus, cause) for cause in CAUSES])
    sums = {str(pool): seconds[:, pools == pool].sum(axis=1) for pool in dict.fromkeys(pools.tolist())}
    shares = {pool: part / part.sum() for pool, part in sums.items() if part.sum() > 0}
    return {pool: dict(zip(CAUSES, part.tolist(), strict=True)) for pool, part in shares.items()}


def usd_per_1m_output_tokens(pools: Mapping[str, Pool], throughput: float) -> float | None:
    """USD per million output tokens at `throughput` tokens per second; None where a price is not known."""
    prices = [pool.usd_per_hour for pool in pools.values()]
    if throughput <= 0 or None in prices:
        return None
    per_hour = sum(pool.gpus * (pool.usd_per_hour or 0.0) for pool in pools.values())
    return per_hour / 3600 / throughput * 1e6


# the SLA ------------------------------------------------------------------------------------------------------------

Word = Literal["PASS", "FAIL", "MARGINAL", "n/a"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One limit held against the requests. Seconds."""

    metric: str
    percentile: str
    limit: float
    value: float | None
    """None where no request has the metric."""
    interval: Interval
    """Of the value, at 95 %."""
    known: bool = True
    """Whether there are samples enough for the statistic."""

    @property
    def met(self) -> bool:
        """Whether the value itself is inside the limit."""
        return self.value is not None and self.known and self.value <= self.limit

    @property
    def word(self) -> Word:
        """MARGINAL where the confidence interval holds the limit: more requests could turn the verdict.

        Too few samples give no verdict, unless even so the limit is broken for certain.
        """
        if self.value is None:
            return "n/a"
        if self.interval.low > self.limit:
            return "FAIL"
        if not self.known:
            return "n/a"
        if self.limit < self.interval.high:
            return "MARGINAL"
        return "PASS" if self.met else "FAIL"


def verdict(metric: str, samples: Samples, sla: Sla) -> Verdict:
    """Hold the SLA's statistic of `samples` against its limit."""
    values, statistic = samples.values, sla.percentile
    return Verdict(
        metric=metric,
        percentile=statistic,
        limit=sla.limits[metric],
        value=statistic_of(values, statistic) if len(values) else None,
        interval=interval_of(samples, statistic),
        known=statistic == "mean" or enough(len(values), float(statistic[1:])),
    )


def statistic_of(values: Floats, statistic: str) -> float:
    """Return the mean, or a percentile by its name ("p99")."""
    return float(values.mean() if statistic == "mean" else np.percentile(values, float(statistic[1:])))


def interval_of(samples: Samples, statistic: str) -> Interval:
    """95 % interval of the same; the values are latencies, in the order of the requests.

    Where some saw the cluster empty, it also holds what those say who did not.
    """
    found = _interval(samples.values, statistic)
    if samples.late is None or not samples.late.any() or samples.late.all():
        return found
    before = _interval(samples.values[~samples.late], statistic)
    return Interval(min(found.low, before.low), max(found.high, before.high))


def _interval(values: Floats, statistic: str) -> Interval:
    if not len(values):
        return UNKNOWN
    if statistic == "mean":
        return mean_interval(values).skewed
    return percentile_interval(values, float(statistic[1:])).positive


def overall(words: Sequence[str], level: Level | None) -> Word:
    """Return the verdict of all limits together: PASS needs a stable load, where there is one."""
    if level == "n/a":
        return "n/a"
    if "FAIL" in words or level in {"BACKLOGGED", "OVERLOADED"}:
        return "FAIL"
    if "n/a" in words:
        return "n/a"
    return "MARGINAL" if "MARGINAL" in words else "PASS"


def verdicts(run: Run, samples: Mapping[str, Samples]) -> list[Verdict]:
    """Every limit of the SLA held against the `latencies`, the one nearest to being broken (or broken most) first."""
    if run.sla is None:
        return []
    found = [verdict(metric, samples[metric], run.sla) for metric in run.sla.limits]
    return sorted(found, key=lambda each: -math.inf if each.value is None else -each.value / each.limit)


def good(requests: Columns, sla: Sla) -> NDArray[np.bool_]:
    """Mark the counted requests that finished inside every limit."""
    return counted(requests) & within(requests, sla)


def within(requests: Columns, sla: Sla) -> NDArray[np.bool_]:
    """Mark all requests that finished inside every limit; one token has no TPOT and cannot miss its limit.

    Nor has it a wait for decode where prefill gives it.
    """
    spans = {"tpot": np.nan_to_num(tpot(requests), nan=0.0), "e2el": e2el(requests), "ttft": ttft(requests)}
    spans["queue"] = np.where(np.isnan(column(requests, "admitted_s")), 0.0, queue(requests))
    kept = ~np.isnan(column(requests, "finish_s"))
    for metric, limit in sla.limits.items():
        kept = kept & (spans[metric] <= limit)
    return kept


def decided(run: Run, sla: Sla) -> NDArray[np.bool_]:
    """Mark the counted requests of which it is known whether they met every limit.

    Where an overloaded run was ended, not those that then sat or waited, unless they were late by then.
    """
    asked = counted(run.requests)
    if run.load is None or run.load.ended is None:
        return asked
    age = run.load.ended - column(run.requests, "arrival_s")
    late = age > sla.limits.get("e2el", math.inf)
    late |= (age > sla.limits.get("ttft", math.inf)) & np.isnan(column(run.requests, "first_token_s"))
    waits = run.load.ended - column(run.requests, "kv_ready_s") if "kv_ready_s" in run.requests else age
    late |= (waits > sla.limits.get("queue", math.inf)) & np.isnan(column(run.requests, "admitted_s"))
    return asked & (late | ~np.isin(np.asarray(run.requests["status"]), ("running", "waiting")))


def goodput(run: Run, sla: Sla) -> float:
    """Return the requests per second that met every limit.

    Closed loop: the good share of those completed, times their rate. Open loop: those that finished in the window.
    """
    if run.load is not None:
        return ratio(float(len(good_ends(run, sla))), run.duration)
    share = ratio(float(good(run.requests, sla).sum()), float(completed(run.requests).sum()))
    return share * request_throughput(run.requests, run.window)


def good_ends(run: Run, sla: Sla) -> Floats:
    """Return when the requests that met every limit finished, of those that did in the window, counted or not."""
    ends = column(run.requests, "finish_s")
    return ends[within(run.requests, sla) & _inside(ends, run.window)]


# statistics ---------------------------------------------------------------------------------------------------------


def percentiles(samples: Samples, percents: Sequence[float] = PERCENTILES) -> Floats:
    """Return `numpy.percentile` (linear) of the samples, exactly, without writing every sample out."""
    values, weights = samples.values, samples.weights
    if weights is None:
        return np.asarray(np.percentile(values, percents), float)
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(weights[order])
    position = np.true_divide(percents, 100) * (ranks[-1] - 1)
    below = np.floor(position)
    above = np.minimum(below + 1, ranks[-1] - 1)
    low, high = (values[order][np.searchsorted(ranks, rank, side="right")] for rank in (below, above))
    # From the nearer end, as numpy does: the same rounding.
    part, gap = position - below, high - low
    found: Floats = np.where(part < 0.5, low + gap * part, high - gap * (1 - part))
    return found


def mean(samples: Samples) -> float:
    """Arithmetic mean."""
    return float(np.average(samples.values, weights=samples.weights))


def std(samples: Samples) -> float:
    """Return the standard deviation, ddof 0."""
    return math.sqrt(np.average((samples.values - mean(samples)) ** 2, weights=samples.weights))


def enough(count: int, percent: float) -> bool:
    """Whether a percentile has ten samples beyond it, below which it is shown as n/a."""
    return round(count * (100 - percent), 6) >= 1000


def describe(samples: Samples) -> dict[str, float]:
    """Mean, median, std, p50 .. p99.9 and max by name, in the samples' unit; empty where there is no sample.

    Percentiles that have too few samples are there too: `enough` tells.
    """
    if not samples.count:
        return {}
    names = [f"p{percent:g}" for percent in PERCENTILES]
    found = dict(zip(names, percentiles(samples).tolist(), strict=True))
    ends = {"min": float(samples.values.min()), "max": float(samples.values.max())}
    return {"mean": mean(samples), "median": found["p50"], "std": std(samples), **found, **ends}


Bins: TypeAlias = int | Literal["auto", "log"] | ArrayLike


def hist(values: ArrayLike, weights: ArrayLike | None = None, bins: Bins = "auto") -> tuple[Floats, Floats]:
    """Return (edges, counts). Bins: a number, edges, "auto" (Freedman-Diaconis) or "log" (0.5 % wide).

    The edges of "log" are powers of 1.005, so that histograms of different runs can be added.
    """
    samples = Samples(np.asarray(values, float), None if weights is None else np.asarray(weights, float))
    if not samples.count:
        return np.array([0.0, 1.0]), np.zeros(1)
    chosen = _bins(samples, bins) if isinstance(bins, str) else bins
    counts, edges = np.histogram(samples.values, chosen, weights=samples.weights)
    return edges, counts.astype(float)


def _bins(samples: Samples, bins: str) -> Floats:
    low, high = float(samples.values.min()), float(samples.values.max())
    if bins == "log":
        first, last = (math.floor(math.log(max(end, 1e-9)) / math.log(1.005)) for end in (low, high))
        return np.asarray(1.005 ** np.arange(first, last + 2))
    if high - low <= 1e-9 * abs(high):
        return np.array([low * 0.99, high * 1.01]) if low else np.array([-0.5, 0.5])
    lower, upper = percentiles(samples, (25.0, 75.0)).tolist()
    width = 2 * (upper - lower) / samples.count ** (1 / 3)
    number = min(max(math.ceil((high - low) / width), 10), 100) if width > 0 else 30
    return np.linspace(low, high, number + 1)


# columns ------------------------------------------------------------------------------------------------------------


def column(columns: Columns, name: str) -> Floats:
    """Return a column as numbers."""
    return np.asarray(columns[name], float)


def counted(requests: Columns) -> NDArray[np.bool_]:
    """Mark the requests that count."""
    return np.asarray(requests["counted"], bool)


def _inside(times: Floats, window: Window) -> NDArray[np.bool_]:
    """After the start: what happens at it belongs to the step before. Up to and with the end."""
    return (times > window[0]) & (times <= window[1])


def ratio(part: float, whole: float) -> float:
    """Return the ratio, 0 of nothing."""
    return part / whole if whole > 0 else 0.0
