"""One summary of several seeds: counts added, all else averaged, intervals over the seeds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from afdsim.results import bottleneck, caching, conversed, metrics, mixed, outages
from afdsim.results.intervals import over_seeds
from afdsim.results.steady import LEVELS, Level
from afdsim.results.summary import bounds, known, limit, worst_class

_SUMMED: Final = frozenset(
    {"completed", "duration", "total_input_tokens", "total_output_tokens", "refused", "unfinished", "steps", "events"}
    | outages.SUMMED
    | caching.SUMMED
    | mixed.SUMMED
    | conversed.SUMMED
)
"""Keys that count; every other number is averaged over the seeds, and maxima are kept."""
_RATES: Final = ("offered", "served", "queue_growth")
_NUMBER: Final = re.compile(r"(?<![A-Za-z\d.,])\d[\d,]*(?:\.\d+)?")
"""A number in a note; digits of names such as H100 are none."""


def together(every: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return one summary of independent runs that differ in their seed; that of a single run is its own."""
    first = every[0]
    if len(every) == 1:
        return first
    found: dict[str, Any] = _together("", every)
    own, each = found["afdsim"], [summary["afdsim"] for summary in every]
    own["seeds"] = list(seeds)
    too_few = sorted({key for one in each for key in one.get("too_few", ())})
    own["too_few"] = too_few or None
    own["ci"] = {key: _over(every, key) for key in first["afdsim"].get("ci", {})}
    own["tgs_ci"] = own["ci"].get("tgs")
    if "load" in own:
        own["load"] = max((one["load"] for one in each), key=LEVELS.index)
        own["saturation"] = _saturation(own["load"], [one["saturation"] for one in each])
    if "sla" in own:
        own["sla"] |= _sla([one["sla"] for one in each], own.get("load"), too_few) | {
            "goodput_ci": own["ci"].get("request_goodput")
        }
    if "classes" in own:
        own |= _classes(own["classes"], [one["classes"] for one in each], own.get("load"))
    if "bottleneck" in own:
        own["bottleneck"] |= bottleneck.longest(own["bottleneck"]["bounds"], own["bottleneck"]["round_trip"])
    if "failures" in own:
        own["failures"] = outages.pooled(own["failures"])
    own["notes"] = notes([one.get("notes", ()) for one in each], seeds) or None
    own["provenance"]["seed"] = own["seeds"][0]
    return found | {"afdsim": known(own)}


def notes(every: Sequence[Sequence[str]], seeds: Sequence[int], noun: str = "seed") -> list[str]:
    """Return the notes of several runs; of those that differ in their numbers only, the one that counts the most.

    `noun` is what the runs differ in.
    """
    found: dict[tuple[str, int], dict[int, str]] = {}
    for seed, own in zip(seeds, every, strict=True):
        before = Counter[str]()
        for note in own:
            shape = _NUMBER.sub("#", note)
            found.setdefault((shape, before[shape]), {})[seed] = note
            before[shape] += 1
    return [_most(by_seed, len(seeds), noun) for by_seed in found.values()]


def _most(by_seed: Mapping[int, str], seeds: int, noun: str) -> str:
    """Return one of the notes of several seeds that say the same in numbers, and which seed says it."""
    seed = max(by_seed, key=lambda each: _numbers(by_seed[each]))
    text, alike = by_seed[seed], len(set(by_seed.values())) == 1
    if alike and len(by_seed) == seeds:
        return text
    if alike:
        return f"{text} (in {f'{noun} {seed}' if len(by_seed) == 1 else f'{len(by_seed)} of {seeds} {noun}s'})"
    return f"{text} (in {noun} {seed}, the most of {len(by_seed)} {noun}s)"


def _numbers(note: str) -> list[float]:
    return [float(text.replace(",", "")) for text in _NUMBER.findall(note)]


def _cells(values: Sequence[Any]) -> list[Any]:
    return [_together("", each) for each in zip(*values, strict=True)]


def _furthest(values: Sequence[Any]) -> Any:
    return max(values, key=lambda ranks: ranks.get("spread", math.inf))


_WHOLE: Final = {"cells": _cells, "ranks": _furthest}
"""How what is more than a number is merged."""


def _together(key: str, values: Sequence[Any]) -> Any:
    """Merge the values of one key over the seeds; what some seeds lack is left out.

    Of ranks, which have names and no mean, those of the seed in which they lie furthest apart.
    """
    first = values[0]
    if key in _WHOLE:
        return _WHOLE[key](values)
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
    return bounds(over_seeds(values).positive)


def _saturation(level: str, loads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rates of the seeds that have them, and what the gravest says; of the time wanted the longest."""
    found: dict[str, Any] = {
        "level": level,
        "why": next((one.get("why") for one in loads if one["level"] == level), None),
    }
    for name in _RATES:
        values = [one[name] for one in loads if name in one]
        found[name] = sum(values) / len(values) if values else None
        found[f"{name}_ci"] = bounds(over_seeds(values))
    wants = [one["wants_s"] for one in loads if "wants_s" in one]
    return found | ({"wants_s": max(wants)} if wants and level == "n/a" else {})


def _classes(
    found: dict[str, Any], every: Sequence[Mapping[str, Any]], level: Level | None
) -> dict[str, dict[str, Any] | str | None]:
    """Return the classes with their SLAs held against the mean over the seeds."""
    for name, own in found.items():
        too_few = sorted({key for one in every for key in one[name].get("too_few", ())})
        own["too_few"] = too_few or None
        if "sla" in own:
            own["sla"] |= _sla([one[name]["sla"] for one in every], level, too_few)
    return {"classes": found, "worst_class": worst_class(found)}


def _sla(slas: Sequence[Mapping[str, Any]], level: Level | None, too_few: Sequence[str]) -> dict[str, Any]:
    """Hold the mean over the seeds of every limited statistic against its limit."""
    each, statistic = [sla.get("limits", {sla["metric"]: sla}) for sla in slas], slas[0]["percentile"]
    found = [
        _limit(metric, [limits[metric] for limits in each], statistic, f"{statistic}_{metric}_ms" not in too_few)
        for metric in each[0]
    ]
    ordered = sorted(found, key=lambda one: -(one.value or 0.0) / one.limit)
    limits = {one.metric: known(limit(one, level)) for one in ordered}
    worst = {
        **limits[ordered[0].metric],
        "metric": ordered[0].metric,
        "met": level in {None, "STABLE"} and all(one.met for one in ordered),
        "verdict": metrics.overall([one.word for one in ordered], level),
    }
    return worst | ({"limits": limits} if len(limits) > 1 else {})


def _limit(metric: str, seeds: Sequence[Mapping[str, Any]], statistic: str, enough: bool) -> metrics.Verdict:
    values = [seed["value_ms"] / 1e3 for seed in seeds if "value_ms" in seed]
    return metrics.Verdict(
        metric=metric,
        percentile=statistic,
        limit=seeds[0]["limit_ms"] / 1e3,
        value=math.fsum(values) / len(values) if len(values) == len(seeds) else None,
        interval=over_seeds(values).positive,
        known=enough,
    )
