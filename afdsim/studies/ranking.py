"""The points of a sweep from the best to the worst.

First those that meet the SLA with every seed, by falling tokens per GPU and second; then those without an SLA, those
that miss it, those whose load is not stable, those that ran too briefly to say, and last those that failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from afdsim.results.steady import LEVELS

if TYPE_CHECKING:
    import pandas as pd

STANDINGS = ("met", "no SLA", "missed", "unstable", "n/a", "error")
"""What can be said of a point, from the best to the worst."""


def ranked(frame: pd.DataFrame, paths: Iterable[str], figures: Iterable[str] = ("tgs",)) -> pd.DataFrame:
    """Return one row for every point of a sweep, the best first.

    Columns: the axes; point; standing (one of `STANDINGS`); load, where there are open loops; and the mean of every
    figure over the seeds, NaN where one of them has none.
    """
    import pandas as pd

    frame = _known(frame if "tgs" in frame else frame.assign(tgs=np.nan))
    keys, figures = [*paths, "point"], [name for name in dict.fromkeys(("tgs", *figures)) if name in frame]
    nothing = pd.Series(pd.NA, index=frame.index)
    met = frame.get("sla.met", nothing).astype("boolean")
    rank = frame.get("load", nothing).map({each: place for place, each in enumerate(LEVELS)})
    told = frame[[*keys, *figures]].assign(
        failed=frame["status"].eq("error").to_numpy(bool),
        missed=(~met).fillna(value=False).to_numpy(bool),
        without=met.isna().to_numpy(bool),
        untold=frame.get("sla.verdict", nothing).eq("n/a").fillna(value=False).to_numpy(bool),
        rank=rank.fillna(-1).astype(int),
    )
    groups = told.groupby(keys, sort=False, dropna=False)
    worst = groups[["failed", "missed", "without", "untold", "rank"]].max()
    means = groups[figures].mean().where(groups[figures].count().eq(groups.size(), axis=0))
    found = means.assign(standing=_standing(worst))
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


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out percentiles that have too few samples, point by point."""
    if "too_few" not in frame:
        return frame
    few = frame["too_few"].astype("string").fillna("").str.split("; ")
    names = {name for names in few for name in names} & set(frame.columns)
    return frame.assign(**{name: frame[name].where(np.array([name not in each for each in few])) for name in names})
