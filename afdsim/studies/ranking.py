"""The points of a sweep from the best to the worst.

First those that meet the SLA with every seed, be it marginally, by falling tokens per GPU and second; then those
without an SLA, those that miss it, those whose load is not stable, those that ran too briefly or had too few requests
to say, and last those that failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from afdsim.results.steady import LEVELS

if TYPE_CHECKING:
    import pandas as pd

Mask: TypeAlias = NDArray[np.bool_]

STANDINGS = ("met", "no SLA", "missed", "unstable", "n/a", "error")
"""What can be said of a point, from the best to the worst."""

METRICS = ("ttft", "tpot", "e2el", "queue")
"""Metrics that an SLA may limit."""

USED = (
    *("load", "too_few", "sla.met", "sla.verdict", "sla.metric", "sla.value_ms", "sla.limit_ms"),
    *(f"sla.limits.{metric}.{key}" for metric in METRICS for key in ("value_ms", "limit_ms")),
)
"""Columns that are read here, beside the figures; a table need not have them."""


def ranked(frame: pd.DataFrame, paths: Iterable[str], figures: Iterable[str] = ("tgs",)) -> pd.DataFrame:
    """Return one row for every point of a sweep, the best first.

    Columns: the axes; point; standing (one of `STANDINGS`); marginal, true where the SLA is met but the interval of a
    seed holds a limit; missed, the metrics that are beyond their limits where it is missed ("queue, tpot"); limited,
    whether there is an SLA; load, where there are open loops; and the mean of every figure over the seeds, NaN where
    one of them has none.
    """
    import pandas as pd

    frame = _known(frame if "tgs" in frame else frame.assign(tgs=np.nan))
    keys, figures = [*paths, "point"], [name for name in dict.fromkeys(("tgs", *figures)) if name in frame]
    nothing = pd.Series(pd.NA, index=frame.index)
    met = frame.get("sla.met", nothing).astype("boolean")
    rank = frame.get("load", nothing).map({each: place for place, each in enumerate(LEVELS)})
    said: dict[str, pd.Series[int] | Mask] = {
        "failed": frame["status"].eq("error").to_numpy(bool),
        "missed": _true(~met),
        "without": met.isna().to_numpy(bool),
        "untold": _true(frame.get("sla.verdict", nothing).eq("n/a")),
        "marginal": _true(frame.get("sla.verdict", nothing).eq("MARGINAL")),
        "rank": rank.fillna(-1).astype(int),
        **{f"beyond {metric}": _beyond(frame, metric) for metric in METRICS},
    }
    groups = frame[[*keys, *figures]].assign(**said).groupby(keys, sort=False, dropna=False)
    worst = groups[list(said)].max()
    means = groups[figures].mean().where(groups[figures].count().eq(groups.size(), axis=0))
    found = means.assign(standing=_standing(worst), limited=~worst["without"])
    found["marginal"] = worst["marginal"] & found["standing"].eq("met")
    found["missed"] = _missed(worst).where(found["standing"].eq("missed"), "")
    if "load" in frame:
        found["load"] = ["-" if rank < 0 else LEVELS[rank] for rank in worst["rank"]]
    found = found.reset_index()
    place = found["standing"].map(STANDINGS.index)
    return found.iloc[np.lexsort((-found["tgs"].fillna(-np.inf), place))].reset_index(drop=True)


def _standing(worst: pd.DataFrame) -> list[str]:
    """Return the standing of points by the worst of their seeds."""
    rank = worst["rank"]
    cases = {
        "error": worst["failed"],
        "unstable": rank > LEVELS.index("n/a"),
        "n/a": worst["untold"] | (rank == LEVELS.index("n/a")),
        "no SLA": worst["without"],
        "missed": worst["missed"],
    }
    return [str(each) for each in np.select(list(cases.values()), list(cases), "met")]


def _beyond(frame: pd.DataFrame, metric: str) -> Mask:
    """Mark the runs in which a metric is beyond its limit: the only one, or one of several."""
    import pandas as pd

    nothing = pd.Series(np.nan, index=frame.index)
    value, limit = (frame.get(f"sla.limits.{metric}.{key}", nothing) for key in ("value_ms", "limit_ms"))
    nearest = frame.get("sla.value_ms", nothing) > frame.get("sla.limit_ms", nothing)
    return _true(value > limit) | (_true(nearest) & _true(frame.get("sla.metric", nothing).eq(metric)))


def _missed(worst: pd.DataFrame) -> pd.Series[str]:
    """Name the metrics that are beyond their limits with any seed."""
    import pandas as pd

    rows = worst[[f"beyond {metric}" for metric in METRICS]].to_numpy(bool)
    texts = [", ".join(metric for metric, beyond in zip(METRICS, row, strict=True) if beyond) for row in rows]
    return pd.Series(texts, index=worst.index, dtype=object)


def _true(mask: pd.Series[bool]) -> Mask:
    """Return a column of truth values as a mask: false where it has none."""
    return mask.fillna(value=False).to_numpy(bool)


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out percentiles that have too few samples, point by point."""
    if "too_few" not in frame:
        return frame
    few = frame["too_few"].astype("string").fillna("").str.split("; ")
    names = {name for names in few for name in names} & set(frame.columns)
    return frame.assign(**{name: frame[name].where(np.array([name not in each for each in few])) for name in names})
