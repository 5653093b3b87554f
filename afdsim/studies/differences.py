"""One figure of two deployments under one workload, and by how much they differ, with a 95 % interval.

Random streams are keyed by seed and purpose (common random numbers): request i has the same lengths and arrival in
both. So seeds are compared one by one, and where there is one seed only, means over requests are compared request by
request; other figures of single runs differ by no more than their own intervals together say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from afdsim.results import metrics
from afdsim.results.intervals import UNKNOWN, Interval, over_seeds, ratio_interval
from afdsim.results.result import Result, pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of the comparison."""

    key: str
    """Where the summary has it."""
    label: str
    shown: str
    """Format."""
    better: int = 0
    """1: more is better; -1: less is."""
    scale: float = 1.0
    """What is shown over what the summary has."""


FIGURES = (
    Figure(key="afdsim.gpus", label="GPUs", shown=",.0f"),
    Figure(key="output_throughput", label="Output tok/s", shown=",.0f"),
    Figure(key="afdsim.tgs", label="Output tok/s/GPU (TGS)", shown=",.0f", better=1),
    Figure(key="mean_ttft_ms", label="TTFT mean (ms)", shown=",.1f", better=-1),
    Figure(key="p99_ttft_ms", label="TTFT p99 (ms)", shown=",.1f", better=-1),
    Figure(key="mean_tpot_ms", label="TPOT mean (ms)", shown=".2f", better=-1),
    Figure(key="median_tpot_ms", label="TPOT p50 (ms)", shown=".2f", better=-1),
    Figure(key="p99_tpot_ms", label="TPOT p99 (ms)", shown=".2f", better=-1),
    Figure(key="mean_queue_ms", label="Queue wait mean (ms)", shown=",.1f", better=-1),
    Figure(key="p99_queue_ms", label="Queue wait p99 (ms)", shown=",.1f", better=-1),
    Figure(key="mean_e2el_ms", label="E2EL mean (s)", shown=",.2f", better=-1, scale=1e-3),
    Figure(key="request_goodput", label="Goodput (req/s)", shown=",.1f", better=1),
    Figure(key="afdsim.step_ms", label="Step, mean ITL (ms)", shown=".2f"),
    Figure(key="afdsim.tokens_per_s_per_user", label="Tok/s/user", shown=".1f"),
    Figure(key="afdsim.usd_per_1m_output_tokens", label="USD per 1M output tokens", shown=".3f", better=-1),
)

_PAIRED = {
    "mean_ttft_ms": metrics.ttft,
    "mean_tpot_ms": metrics.tpot,
    "mean_queue_ms": metrics.queue,
    "mean_e2el_ms": metrics.e2el,
}
"""Means over requests, and what each request contributes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A figure of one deployment against that of the first, as a ratio minus 1."""

    name: str
    against: str
    key: str
    value: float
    low: float
    """95 % interval; infinite where the runs say nothing about chance."""
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def difference(names: tuple[str, str], runs: tuple[Sequence[Result], Sequence[Result]], key: str) -> Difference | None:
    """Return how a figure of the second of two deployments differs from the first's; None where one has none."""
    summaries = tuple(pooled(each) for each in runs)
    base, other = (value_of(summary, key) for summary in summaries)
    if not base or other is None:
        return None
    found = _over_seeds(runs, key) if len(runs[0]) > 1 else _of_one(runs, key, (base, other))
    value = other / base - 1
    # The mean of ratios and the ratio of means differ a little; the interval is the figure's.
    low, high = (end + value - (found.low + found.high) / 2 for end in found) if math.isfinite(found.high) else found
    low = max(low, -1.0) if math.isfinite(high) else low
    return Difference(name=names[1], against=names[0], key=key, value=value, low=low, high=high)


def _over_seeds(runs: tuple[Sequence[Result], Sequence[Result]], key: str) -> Interval:
    """Interval of a ratio minus 1 from pairs of seeds; unknown where the first has nothing to divide by with a seed."""
    ratios = []
    for pair in zip(*runs, strict=True):
        a, b = (value_of(one.summary, key) for one in pair)
        if not a or b is None:
            return UNKNOWN
        ratios.append(b / a - 1)
    return over_seeds(ratios)


def _of_one(runs: tuple[Sequence[Result], Sequence[Result]], key: str, values: tuple[float, float]) -> Interval:
    """Interval of a ratio minus 1 from two single runs."""
    one, other = runs[0][0], runs[1][0]
    if key in _PAIRED:
        a, b = _pairs(one, other, key)
        found = ratio_interval(b, a)
        return Interval(found.low - 1, found.high - 1)
    halves = [_relative(each.summary, key, value) for each, value in zip((one, other), values, strict=True)]
    if None in halves:
        return UNKNOWN
    ratio = values[1] / values[0]
    return Interval.around(ratio - 1, ratio * math.hypot(*(half or 0.0 for half in halves)))


def _pairs(one: Result, other: Result, key: str) -> tuple[metrics.Floats, metrics.Floats]:
    """Return what the requests that count and finished in both runs contribute to a mean."""
    tables = (one.run.requests, other.run.requests)
    count = min(len(table["arrival_s"]) for table in tables)
    columns = [_PAIRED[key](table)[:count] for table in tables]
    kept = np.logical_and(*(metrics.completed(table)[:count] for table in tables))
    kept &= ~np.isnan(columns[0]) & ~np.isnan(columns[1])
    return columns[0][kept], columns[1][kept]


def _relative(summary: Mapping[str, Any], key: str, value: float) -> float | None:
    """Half of the interval of a figure over the figure."""
    found = summary["afdsim"].get("ci", {}).get(key.removeprefix("afdsim."))
    return (found[1] - found[0]) / 2 / value if found and value else None


def value_of(summary: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of a summary; None where it has none, or too few samples for it."""
    if key in summary["afdsim"].get("too_few", ()):
        return None
    for part in key.split("."):
        if part not in summary:
            return None
        summary = summary[part]
    return float(summary)  # type: ignore[arg-type]
