"""What a claim is, and how it is judged: a case holds, is a tie or fails; those that hold are the claim's region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from afdsim.studies.pool import Pool

HOLDS, TIE, FAILS = "holds", "tie", "fails"
SHOWN, PARTLY, NOT = "shown", "shown with conditions", "not shown"
BUSY = 0.95
"""A side that computes for this share of the time hides all else behind it."""
KNOWN = 0.08
"""Systems that differ by less are a tie: the simulator is known to that over published rows (`afdsim validate`)."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that simulations can bear out or not."""

    name: str
    said: str
    """The statement, in our words."""
    source: str
    axes: tuple[str, ...]
    """Columns of the cases; the region is told along them, the last one as a list."""
    rule: str
    """When a case holds, in words; its `margin` says by how much, as a share."""
    tie: float
    """Margins up to this, of either sign, are a tie."""
    measured: Callable[[Pool], pd.DataFrame]
    """All that was tried, a row for every case and alternative; claims with the same function share its rows."""
    drawn: Callable[[pd.DataFrame, Axes], None]
    told: Callable[[pd.DataFrame], str]
    """The figures that carry the verdict, in a sentence."""
    margin: str = "margin"
    """Column that cases have, and other rows have not."""

    def judged(self, made: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with the `outcome` of every case; "" where a row is none."""
        return made.assign(outcome=made[self.margin].map(self._outcome))

    def _outcome(self, margin: float) -> str:
        if pd.isna(margin):
            return ""
        if abs(margin) <= self.tie:
            return TIE
        return HOLDS if margin > 0 else FAILS


def cases(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are cases."""
    return judged[judged["outcome"].isin((HOLDS, TIE, FAILS))]


def verdict(judged: pd.DataFrame) -> str:
    """Return what the cases say together."""
    outcomes = cases(judged)["outcome"]
    if (outcomes == HOLDS).all():
        return SHOWN
    return PARTLY if (outcomes == HOLDS).any() else NOT


def region(judged: pd.DataFrame, axes: tuple[str, ...], outcome: str) -> str:
    """Return the cases of one outcome, grouped by all axes but the last: ``H800 / TP8: 4K, 8K; H200 / TP8: all``."""
    every = list(dict.fromkeys(cases(judged)[axes[-1]]))
    groups: dict[str, list[str]] = {}
    for given, part in cases(judged).groupby(list(axes[:-1]), sort=False):
        mine = list(dict.fromkeys(part.loc[part["outcome"] == outcome, axes[-1]]))
        if not mine:
            continue
        whole = len(mine) == len(set(part[axes[-1]])) and len(mine) == len(every) and len(every) > 1
        groups.setdefault("all" if whole else ", ".join(map(show, mine)), []).append(" / ".join(map(show, given)))
    told = [f"{', '.join(names)}: {values}" if names != [""] else values for values, names in groups.items()]
    return "; ".join(told) or "nowhere"


def show(value: Any) -> str:
    """Return a value of an axis as people say it: contexts in K."""
    if isinstance(value, int) and value >= 1024 and value % 1024 == 0:
        return f"{value // 1024}K"
    return f"{value:g}" if isinstance(value, float) else str(value)
