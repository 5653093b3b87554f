"""What a run says, as pure functions of its columns: latencies, throughput, utilisation by cause, cost, the SLA.

Definitions are vLLM's. TPOT is one number per request, (last - first token)/(n - 1), and a request of one token has
none; ITL is every gap between two tokens of a request; queue delay is admission - arrival; E2EL is last token -
arrival. Percentiles interpolate linearly as `numpy.percentile` does, standard deviations have ddof 0. Everything that
is a rate, and the ITL, is taken over the window (start, end]; other latencies over the counted requests that finished.
Columns are any mapping of names to sequences: a dict of arrays or a data frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afdsim.engine.books import CAUSES

Floats: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = Mapping[str, Any]
Window: TypeAlias = tuple[float, float]

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
CONFIDENCE: Final = 0.95

DEFINITIONS: Final = {
    "tpot": "(last token - first token)/(n - 1) per request; none where n = 1",
    "itl": "every gap between consecutive tokens of a request",
    "queue": "admission - arrival",
    "e2el": "last token - arrival",
    "tgs": "output tokens per GPU and second, over all GPUs",
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
    """Limits in seconds by metric ("tpot", "e2el", "queue"), held against one statistic over the requests."""

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
class Run:
    """Everything that the metrics are computed from. Times in seconds."""

    requests: Columns
    """arrival_s, admitted_s, first_token_s, finish_s (NaN: not reached), input_len, output_len, status, counted."""
    tokens: Columns
    """One row per boundary: t_s, batch (tokens emitted), gaps (those that followed another one), itl_s (that gap)."""
    gpus: Columns
    """One row per GPU: pool, and the seconds of every cause inside the window."""
    window: Window
    pools: Mapping[str, Pool]
    engine: Engine
    sla: Sla | None = None
    open_loop: bool = False
    """Whether requests come at times of their own; only then can a cluster be overloaded."""
    links: Columns = field(default_factory=dict)
    """One row per port and direction: port, pool, instance, rail, direction, messages, bytes."""

    @property
    def duration(self) -> float:
        """Length of the window."""
        return self.window[1] - self.window[0]

    @property
    def gpu_count(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools.values())


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Values, each standing for `weights` equal ones."""

    values: Floats
    weights: Floats | None = None

    @property
    def count(self) -> int:
        """Samples, weights counted."""
        return len(self.values) if self.weights is None else int(self.weights.sum())


class Interval(NamedTuple):
    """A confidence interval; a bound that the data cannot give is infinite."""

    low: float
    high: float


# latencies ----------------------------------------------------------------------------------------------------------


def tpot(requests: Columns) -> Floats:
    """Seconds per output token after the first, of every request; NaN where there is none."""
    gaps = _numbers(requests, "output_len") - 1
    span = _numbers(requests, "finish_s") - _numbers(requests, "first_token_s")
    per_gap: Floats = np.divide(span, gaps, out=np.full(len(span), np.nan), where=gaps > 0)
    return per_gap


def queue(requests: Columns) -> Floats:
    """Seconds from arrival to admission, of every request."""
    return _numbers(requests, "admitted_s") - _numbers(requests, "arrival_s")


def e2el(requests: Columns) -> Floats:
    """Seconds from arrival to the last token, of every request."""
    return _numbers(requests, "finish_s") - _numbers(requests, "arrival_s")


def itl(tokens: Columns, window: Window) -> Samples:
    """Every gap that ends in the window: boundaries, weighted by the tokens that each one followed up."""
    gaps = _numbers(tokens, "gaps")
    kept = _inside(_numbers(tokens, "t_s"), window) & (gaps > 0)
    return Samples(_numbers(tokens, "itl_s")[kept], gaps[kept])


def completed(requests: Columns) -> NDArray[np.bool_]:
    """Mark the requests that count and have finished."""
    return _counted(requests) & ~np.isnan(_numbers(requests, "finish_s"))


def latencies(run: Run) -> dict[str, Samples]:
    """Return the samples of tpot, itl, e2el and queue, in seconds, as the summary takes them."""
    done = completed(run.requests)
    spans = {"tpot": tpot(run.requests)[done], "e2el": e2el(run.requests)[done], "queue": queue(run.requests)[done]}
    return {
        "tpot": Samples(spans["tpot"][~np.isnan(spans["tpot"])]),
        "itl": itl(run.tokens, run.window),
        "e2el": Samples(spans["e2el"]),
        "queue": Samples(spans["queue"]),
    }


# throughput, time and money -----------------------------------------------------------------------------------------


def output_throughput(tokens: Columns, window: Window) -> float:
    """Output tokens per second of the window, of all requests in flight."""
    inside = _inside(_numbers(tokens, "t_s"), window)
    return _ratio(float(_numbers(tokens, "batch")[inside].sum()), window[1] - window[0])


def tgs(tokens: Columns, gpus: int, window: Window) -> float:
    """Output tokens per GPU and second of the window; `gpus` counts all GPUs of the deployment."""
    return output_throughput(tokens, window) / gpus


def request_throughput(requests: Columns, window: Window) -> float:
    """Return the requests per second that finish in the window, counted or not."""
    return _ratio(float(_inside(_numbers(requests, "finish_s"), window).sum()), window[1] - window[0])


def throughput_over_time(tokens: Columns, window: Window, bins: int = 60) -> tuple[Floats, Floats]:
    """(edges in seconds, output tokens per second between them).

    The tokens of a boundary are spread over the time since the one before: bins that cut steps would flicker.
    """
    edges = np.linspace(*window, bins + 1)
    moments, place = np.unique(_numbers(tokens, "t_s"), return_inverse=True)
    if not len(moments):
        return edges, np.zeros(bins)
    first = moments[0] - (moments[1] - moments[0] if len(moments) > 1 else 1e-3)
    produced = np.cumsum(np.bincount(place, _numbers(tokens, "batch")))
    until = np.interp(edges, np.concatenate(([first], moments)), np.concatenate(([0.0], produced)))
    return edges, np.diff(until) / np.diff(edges)


def causes(gpus: Columns) -> dict[str, dict[str, float]]:
    """Shares of GPU time by pool and cause; those of a pool add up to 1."""
    pools = np.asarray(gpus["pool"])
    seconds = np.stack([_numbers(gpus, cause) for cause in CAUSES])
    sums = {str(pool): seconds[:, pools == pool].sum(axis=1) for pool in dict.fromkeys(pools.tolist())}
    return {pool: dict(zip(CAUSES, (part / part.sum()).tolist(), strict=True)) for pool, part in sums.items()}


def usd_per_1m_output_tokens(pools: Mapping[str, Pool], throughput: float) -> float | None:
    """USD per million output tokens at `throughput` tokens per second; None where a price is not known."""
    prices = [pool.usd_per_hour for pool in pools.values()]
    if throughput <= 0 or None in prices:
        return None
    per_hour = sum(pool.gpus * (pool.usd_per_hour or 0.0) for pool in pools.values())
    return per_hour / 3600 / throughput * 1e6


# the SLA ------------------------------------------------------------------------------------------------------------


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

    @property
    def met(self) -> bool:
        """Whether the value itself is inside the limit."""
        return self.value is not None and self.value <= self.limit

    @property
    def word(self) -> Literal["PASS", "FAIL", "MARGINAL"]:
        """MARGINAL where the confidence interval holds the limit: more requests could turn the verdict."""
        if self.value is not None and self.interval.low <= self.limit < self.interval.high:
            return "MARGINAL"
        return "PASS" if self.met else "FAIL"


def verdict(metric: str, samples: Samples, sla: Sla) -> Verdict:
    """Hold the SLA's statistic of `samples` against its limit."""
    values = samples.values
    value, interval = None, Interval(-math.inf, math.inf)
    if len(values) and sla.percentile == "mean":
        value, interval = float(values.mean()), mean_interval(values)
    elif len(values):
        percent = float(sla.percentile.removeprefix("p"))
        value, interval = float(np.percentile(values, percent)), percentile_interval(values, percent)
    return Verdict(metric=metric, percentile=sla.percentile, limit=sla.limits[metric], value=value, interval=interval)


def verdicts(run: Run) -> list[Verdict]:
    """Every limit of the SLA, the one nearest to being broken (or broken most) first."""
    if run.sla is None:
        return []
    samples = latencies(run)
    found = [verdict(metric, samples[metric], run.sla) for metric in run.sla.limits]
    return sorted(found, key=lambda each: -math.inf if each.value is None else -each.value / each.limit)


def good(requests: Columns, sla: Sla) -> NDArray[np.bool_]:
    """Mark the counted requests that finished inside every limit; one token has no TPOT and cannot miss its limit."""
    spans = {"tpot": np.nan_to_num(tpot(requests), nan=0.0), "e2el": e2el(requests), "queue": queue(requests)}
    kept = completed(requests)
    for metric, limit in sla.limits.items():
        kept = kept & (spans[metric] <= limit)
    return kept


def goodput(run: Run, sla: Sla) -> float:
    """Return the requests per second that met every limit: the good share of those completed, times their rate."""
    share = _ratio(float(good(run.requests, sla).sum()), float(completed(run.requests).sum()))
    return share * request_throughput(run.requests, run.window)


# saturation ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """How an open loop stood while its requests came in. Requests per second over the later half of the arrivals."""

    level: Literal["STABLE", "BACKLOGGED", "OVERLOADED"]
    offered: float
    served: float
    """Requests admitted per second."""

    @property
    def growth(self) -> float:
        """Requests per second by which the queue grows."""
        return self.offered - self.served


def saturation(requests: Columns, step: float) -> Saturation | None:
    """Say whether the cluster kept up with its arrivals; None where they have no duration.

    BACKLOGGED: more than a tenth of the requests waited over two decode steps (`step` seconds each), where a free
    slot costs one at most. OVERLOADED: also, admissions stay 5 % behind arrivals in the later half of the arrivals,
    by more than chance moves them (three standard deviations of a Poisson count).
    """
    refused = np.asarray(requests["status"]) == "refused"
    arrival, admitted = (_numbers(requests, name)[~refused] for name in ("arrival_s", "admitted_s"))
    if not len(arrival) or arrival.max() <= arrival.min():
        return None
    middle, end = (arrival.min() + arrival.max()) / 2, arrival.max()
    came, served = (int(_inside(times, (middle, end)).sum()) for times in (arrival, admitted))
    waited = np.where(np.isnan(admitted), math.inf, admitted - arrival) > 2 * step
    # The last arrivals of a cluster that keeps up are admitted a step later.
    behind = came - served - came / (end - middle) * step
    overloaded = behind > 0.05 * came and behind > 3 * math.sqrt(came)
    backlogged = float(waited.mean()) > 0.1
    return Saturation(
        level="OVERLOADED" if overloaded and backlogged else "BACKLOGGED" if backlogged else "STABLE",
        offered=came / (end - middle),
        served=served / (end - middle),
    )


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


# confidence ---------------------------------------------------------------------------------------------------------

# Student's t at 97.5 % for 1 .. 10 degrees of freedom; beyond, the expansion of `t_quantile` is exact to 4 digits.
_T975: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def t_quantile(freedom: int) -> float:
    """Student's t at 97.5 % (Abramowitz and Stegun 26.7.5 beyond 10 degrees of freedom)."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def over_seeds(values: Iterable[float]) -> Interval:
    """95 % interval of the mean of independent runs."""
    sample = np.fromiter(values, float)
    if len(sample) < 2:
        return Interval(-math.inf, math.inf)
    half = t_quantile(len(sample) - 1) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return Interval(float(sample.mean()) - half, float(sample.mean()) + half)


def mean_interval(values: Floats, batches: int = 20) -> Interval:
    """95 % interval of the mean of a correlated series, by batch means: consecutive values averaged in `batches`."""
    number = min(batches, len(values))
    return over_seeds(part.mean() for part in np.array_split(values, number)) if number else over_seeds(())


def tgs_interval(tokens: Columns, gpus: int, window: Window, batches: int = 20) -> Interval:
    """95 % interval of the tokens per GPU and second, by batch means over parts of the window.

    Parts are cut at boundaries and hold equally many: a cut inside a step would look like noise.
    """
    times = _numbers(tokens, "t_s")
    inside = _inside(times, window)
    moments, place = np.unique(times[inside], return_inverse=True)
    if len(moments) < 2:
        return over_seeds(())
    emitted = np.bincount(place, _numbers(tokens, "batch")[inside])
    ends = np.linspace(0, len(moments), min(batches, len(moments)) + 1).astype(int)[1:] - 1
    counts = np.diff(np.cumsum(emitted)[ends], prepend=0.0)
    return over_seeds(counts / np.diff(moments[ends], prepend=window[0]) / gpus)


def percentile_interval(values: Floats, percent: float) -> Interval:
    """95 % interval of a percentile from two order statistics (binomial).

    It takes the values as independent. Requests that share decode steps are not, so the true interval is wider;
    runs with several seeds show it.
    """
    ordered = np.sort(values)
    low, high = _order_statistics(len(ordered), percent / 100)
    return Interval(
        float(ordered[low]) if low >= 0 else -math.inf, float(ordered[high]) if high < len(ordered) else math.inf
    )


def _order_statistics(n: int, share: float) -> tuple[int, int]:
    """Return the indices around a quantile; -1 or n where the data do not reach far enough."""
    tail = (1 - CONFIDENCE) / 2
    if n > 10_000:
        half = NormalDist().inv_cdf(1 - tail) * math.sqrt(n * share * (1 - share))
        return math.floor(n * share - half) - 1, math.ceil(n * share + half)
    ratios = np.log(np.arange(n, 0, -1) / np.arange(1, n + 1)) + math.log(share / (1 - share))
    below = np.cumsum(np.exp(n * math.log1p(-share) + np.concatenate(([0.0], np.cumsum(ratios)))))
    return int(np.searchsorted(below, tail, side="right")) - 1, int(np.searchsorted(below, 1 - tail))


# the summary --------------------------------------------------------------------------------------------------------


def summary(run: Run) -> dict[str, Any]:
    """Return vLLM's flat keys, and ours under "afdsim". What is not known is absent: no NaN, no null."""
    samples = latencies(run)
    done = completed(run.requests)
    flat: dict[str, Any] = {
        "completed": int(done.sum()),
        "duration": run.duration,
        "total_input_tokens": int(_numbers(run.requests, "input_len")[done].sum()),
        "total_output_tokens": int(_numbers(run.requests, "output_len")[done].sum()),
        "request_throughput": request_throughput(run.requests, run.window),
        "output_throughput": output_throughput(run.tokens, run.window),
    }
    if run.sla is not None:
        flat["request_goodput"] = goodput(run, run.sla)
    for metric, values in samples.items():
        flat |= _in_milliseconds(metric, values)
    return flat | {"afdsim": _known(_own(run, samples))}


def _in_milliseconds(metric: str, samples: Samples) -> dict[str, float]:
    """Keys such as p99_tpot_ms; p99.9 only where there are enough samples for it."""
    left_out = {"min", "p50"} | ({"p99.9"} if not enough(samples.count, 99.9) else set())
    return {f"{name}_{metric}_ms": value * 1e3 for name, value in describe(samples).items() if name not in left_out}


def _own(run: Run, samples: Mapping[str, Samples]) -> dict[str, Any]:
    throughput = output_throughput(run.tokens, run.window)
    step = mean(samples["itl"]) if samples["itl"].count else None
    per_token = mean(samples["tpot"]) if samples["tpot"].count else step
    return {
        "gpus": run.gpu_count,
        "tgs": throughput / run.gpu_count,
        "tgs_ci": _bounds(tgs_interval(run.tokens, run.gpu_count, run.window)),
        "step_ms": step and step * 1e3,
        "tokens_per_s_per_user": 1 / per_token if per_token else None,
        "usd_per_1m_output_tokens": usd_per_1m_output_tokens(run.pools, throughput),
        "pools": _pools(run),
        "sla": _sla(run),
        "saturation": _saturation(run, step),
        **_fates(run.requests),
        "engine": {"name": run.engine.name, "steps": run.engine.steps, "events": run.engine.events},
        "itl_method": "exact",
        "definitions": dict(DEFINITIONS),
    }


def _pools(run: Run) -> dict[str, Any]:
    shares = causes(run.gpus)
    return {
        name: {"gpu": pool.gpu, "gpus": pool.gpus, **shares.get(name, {}), "mfu": pool.mfu, "mbu": pool.mbu}
        for name, pool in run.pools.items()
    }


def _sla(run: Run) -> dict[str, Any] | None:
    found = verdicts(run)
    if run.sla is None or not found:
        return None
    kept = good(run.requests, run.sla)
    limits = {each.metric: _limit(each) for each in found}
    return {
        "met": all(each.met for each in found),
        "metric": found[0].metric,
        "percentile": run.sla.percentile,
        **limits[found[0].metric],
        "goodput": goodput(run, run.sla),
        "goodput_share": _ratio(float(kept.sum()), float(_counted(run.requests).sum())),
        "limits": limits if len(found) > 1 else None,
    }


def _limit(each: Verdict) -> dict[str, Any]:
    return {
        "limit_ms": each.limit * 1e3,
        "value_ms": None if each.value is None else each.value * 1e3,
        "ci_ms": _bounds(each.interval, 1e3),
        "verdict": each.word,
    }


def _saturation(run: Run, step: float | None) -> dict[str, Any] | None:
    found = saturation(run.requests, step) if run.open_loop and step else None
    if found is None:
        return None
    return {"level": found.level, "offered": found.offered, "served": found.served, "queue_growth": found.growth}


def _fates(requests: Columns) -> dict[str, int]:
    """Count the requests that did not finish: refused for ever, or not done when the run ended."""
    counted = _counted(requests)
    refused = counted & (np.asarray(requests["status"]) == "refused")
    unfinished = counted & ~refused & ~completed(requests)
    return {"refused": int(refused.sum()), "unfinished": int(unfinished.sum())}


def _bounds(interval: Interval, scale: float = 1.0) -> list[float] | None:
    return [bound * scale for bound in interval] if all(map(math.isfinite, interval)) else None


def _known(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None, at any depth."""
    return {
        key: _known(value) if isinstance(value, Mapping) else value for key, value in tree.items() if value is not None
    }


# columns ------------------------------------------------------------------------------------------------------------


def _numbers(columns: Columns, name: str) -> Floats:
    return np.asarray(columns[name], float)


def _counted(requests: Columns) -> NDArray[np.bool_]:
    return np.asarray(requests["counted"], bool)


def _inside(times: Floats, window: Window) -> NDArray[np.bool_]:
    """After the start: what happens at it belongs to the step before. Up to and with the end."""
    return (times > window[0]) & (times <= window[1])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
