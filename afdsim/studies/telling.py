"""A sweep in words: which figures are told, how axes are called, how points stand, and which is the best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from afdsim.studies.ranking import USED

if TYPE_CHECKING:
    import pandas as pd

BUSY = ("pools.attention.busy", "pools.ffn.busy")
"""Columns that pictures read beside the figures and those of verdicts."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What is varied in a sweep."""

    name: str
    paths: Sequence[str]
    """Dotted paths of a scenario."""
    units: Mapping[str, str] = field(default_factory=dict)
    """In which the values of a path are written."""


class Figure(NamedTuple):
    """A column that the terminal shows."""

    title: str
    look: str
    scale: float = 1.0

    def text(self, value: float) -> str:
        """Return a value as it is written."""
        return "n/a" if math.isnan(value) else format(self.scale * value, self.look)


FIGURES = {
    "tgs": Figure("tok/s/GPU", ",.0f"),
    "tokens_per_s_per_user": Figure("tok/s/user", ".1f"),
    "mean_tpot_ms": Figure("TPOT ms", ".2f"),
    "p99_tpot_ms": Figure("p99 ms", ".2f"),
    "usd_per_1m_output_tokens": Figure("USD/1M", ".3f"),
}
"""Columns that the terminal shows of every sweep."""

LIMITED = {
    (statistic, metric): (f"{'median' if statistic == 'p50' else statistic}_{metric}_ms", look)
    for statistic in ("mean", "p50", "p90", "p95", "p99")
    for metric, look in {
        "ttft": Figure(f"{statistic} TTFT ms", ",.1f"),
        "tpot": Figure(f"{statistic} TPOT ms", ".2f"),
        "e2el": Figure(f"{statistic} E2EL s", ",.3f", 1e-3),
        "queue": Figure(f"{statistic} queue ms", ",.2f"),
    }.items()
}
"""Columns that it shows where an SLA limits them."""

COLUMNS = (*FIGURES, *(name for name, _ in LIMITED.values()), "sla.percentile", "notes", *USED, *BUSY)
"""Columns of a table that words and pictures need."""


def limited(frame: pd.DataFrame) -> dict[str, Figure]:
    """Return the figures that an SLA limits and that are not shown anyway."""
    statistics, nearest = (
        set(frame[name].dropna()) if name in frame else set() for name in ("sla.percentile", "sla.metric")
    )
    return {
        name: figure
        for (statistic, metric), (name, figure) in LIMITED.items()
        if statistic in statistics and (metric in nearest or f"sla.limits.{metric}.limit_ms" in frame)
        if name not in FIGURES
    }


def headings(points: Axes) -> list[str]:
    """Return of every path the shortest end that no other path has, with its unit."""
    parts = [path.removesuffix(".value").split(".") for path in points.paths]
    ends = [[".".join(each[-length:]) for length in range(1, 1 + len(each))] for each in parts]
    counts = Counter(end for each in ends for end in each)
    found = [
        next((end for end in each if counts[end] == 1), path) for each, path in zip(ends, points.paths, strict=True)
    ]
    units = (points.units.get(path) for path in points.paths)
    return [f"{end} ({unit})" if unit else end for end, unit in zip(found, units, strict=True)]


def cell(value: object) -> str:
    """Return a value of an axis as it is written."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.15g}"
    return "-" if value is None else str(value)


def standing(row: dict[Hashable, Any], *, named: bool) -> str:
    """Say how a point stands to its SLA; of a missed one, with `named`, which metrics are beyond their limits."""
    match row["standing"]:
        case "error":
            return "error"
        case "met":
            return "marginal" if row["marginal"] else "met"
        case "n/a" if row["limited"]:
            return "n/a"
        case "missed" if named:
            return f"missed ({row['missed']})"
        case _:
            return "missed" if row["limited"] else "-"


def best(found: pd.DataFrame, points: Axes, figures: Mapping[str, Figure]) -> str:
    """Name the winner, or say that there is none."""
    if found.iloc[0]["standing"] == "error":
        return f"no best: all {len(found):,} points fail"
    counts = Counter(found["standing"])
    tally = ", ".join(f"{counts[each]:,} {each}".replace(" ", "\xa0") for each in dict.fromkeys(found["standing"]))
    first = found.iloc[0]
    if first["standing"] not in {"met", "no SLA"}:
        if not found["limited"].any():
            return f"no best: no point is known to carry its load ({tally})"
        return f"none of {len(found):,} points meets the SLA ({tally})"
    what = "best under the SLA" if first["standing"] == "met" else "best, no SLA being given"
    marginal = " (marginal)" if first["marginal"] else ""
    heads = zip(headings(points), points.paths, strict=True)
    where = [f"{head} = {cell(first[path])}".replace(" ", "\xa0") for head, path in heads]
    shown = [f"{figure.text(first[name])} {figure.title}".replace(" ", "\xa0") for name, figure in figures.items()]
    return f"{what}{marginal}: {', '.join(where) or points.name}: {', '.join(shown)} ({tally})"
