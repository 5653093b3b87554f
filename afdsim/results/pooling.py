"""One summary of several seeds: counts added, all else averaged, intervals over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from afdsim.results import bottleneck, metrics
from afdsim.results.intervals import Interval, over_seeds
from afdsim.results.summary import bounds, known, limit

_SUMMED: Final = frozenset(
    {"completed", "duration", "total_input_tokens", "total_output_tokens", "refused", "unfinished", "steps", "events"}
)
"""Keys that count; every other number is averaged over the seeds, and maxima are kept."""
LEVELS: Final = ("n/a", "OVERLOADED", "BACKLOGGED", "STABLE")
"""Of a load, the gravest first: several seeds are as good as the worst of them."""


def together(every: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return one summary of independent runs that differ in their seed; that of a single run is its own."""
    first = every[0]
    if len(every) == 1:
        return first
    found: dict[str, Any] = _together("", every)
    own, each = found["afdsim"], [summary["afdsim"] for summary in every]
    own["seeds"] = list(seeds)
    own["ci"] = {key: _over(every, key) for key in first["afdsim"].get("ci", {})}
    own["tgs_ci"] = own["ci"].get("tgs")
    if "load" in own:
        own["load"] = own["saturation"]["level"] = min((one["load"] for one in each), key=LEVELS.index)
    if "sla" in own:
        own["sla"] |= _sla([one["sla"] for one in each], found)
    if "bottleneck" in own:
        own["bottleneck"] |= bottleneck.longest(own["bottleneck"]["bounds"], own["bottleneck"]["round_trip"])
    own["provenance"]["seed"] = own["seeds"][0]
    return found | {"afdsim": known(own)}


def _together(key: str, values: Sequence[Any]) -> Any:
    """Merge the values of one key over the seeds; what some seeds lack is left out."""
    first = values[0]
    if isinstance(first, Mapping):
        shared = [name for name in first if all(name in each for each in values)]
        return {name: _together(name, [each[name] for each in values]) for name in shared}
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    if key in _SUMMED:
        return sum(values)
    if key.startswith("max_"):
        return max(values)
    return first if len(set(values)) == 1 else sum(values) / len(values)


def _over(summaries: Sequence[Mapping[str, Any]], key: str) -> list[float] | None:
    """Return the interval of a figure over the seeds; None where a seed lacks it."""
    values = [summary.get(key, summary["afdsim"].get(key)) for summary in summaries]
    if any(value is None for value in values):
        return None
    found = over_seeds(values)
    return bounds(Interval(max(found.low, 0.0), found.high))


def _sla(slas: Sequence[Mapping[str, Any]], together: Mapping[str, Any]) -> dict[str, Any]:
    """Hold the mean over the seeds of every limited statistic against its limit."""
    each = [sla.get("limits", {sla["metric"]: sla}) for sla in slas]
    statistic, count = slas[0]["percentile"], together["completed"]
    enough = statistic == "mean" or metrics.enough(count, float(statistic[1:]))
    found = [_limit(metric, [limits[metric] for limits in each], statistic, enough) for metric in each[0]]
    ordered = sorted(found, key=lambda one: -(one.value or 0.0) / one.limit)
    limits, level = {one.metric: known(limit(one)) for one in ordered}, together["afdsim"].get("load")
    worst = {
        **limits[ordered[0].metric],
        "metric": ordered[0].metric,
        "met": level in {None, "STABLE"} and all(one.met for one in ordered),
        "verdict": metrics.overall([one.word for one in ordered], level),
    }
    return worst | ({"limits": limits} if len(limits) > 1 else {})


def _limit(metric: str, seeds: Sequence[Mapping[str, Any]], statistic: str, enough: bool) -> metrics.Verdict:
    values = [seed["value_ms"] / 1e3 for seed in seeds if "value_ms" in seed]
    found = over_seeds(values)
    return metrics.Verdict(
        metric=metric,
        percentile=statistic,
        limit=seeds[0]["limit_ms"] / 1e3,
        value=math.fsum(values) / len(values) if len(values) == len(seeds) else None,
        interval=Interval(max(found.low, 0.0), found.high),
        known=enough,
    )
