"""What a check is, what it finds, and the parts that pictures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from afdsim.results.plot_parts import COLOURS, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, BROWN = COLOURS
BAND = "#C8C8C8"
LOWEST = 5e-3
"""Share of waits at which their pictures end."""
ROUNDING = 1e-9
"""Relative error of sums that are taken in another order."""
BY_ROUNDING = "sums are taken in another order"
BEYOND = 2.0
"""95 % half-widths that a mean may be off: four standard errors, as many points are looked at."""
BY_CHANCE = "in 95 % half-widths; two are four standard errors, which chance exceeds once in 11,000 points"


class NotRunError(Exception):
    """A check that this machine cannot run; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found."""

    statistic: str
    """What is measured, in words."""
    value: float
    tolerance: float
    """The most that `value` may be."""
    reason: str
    """Why so much."""

    @property
    def agrees(self) -> bool:
        """Whether both answers are the same."""
        return bool(self.value <= self.tolerance)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison. `run` draws on axes and takes the share of the full number of samples or cells."""

    name: str
    compares: str
    """What with what."""
    question: str
    answer: str
    """Where the independent answer comes from."""
    reading: str
    """What the picture shows."""
    run: Callable[[Axes, float], Finding]


def several(number: int, scale: float, least: int = 2) -> int:
    """Return a share of a number of samples."""
    return max(int(number * scale), least)


def furthest(found: Array, expected: Array) -> float:
    """Return the largest relative distance of two columns."""
    most = np.maximum(np.abs(found), np.abs(expected))
    apart = np.abs(np.asarray(found) - expected)
    return float(np.max(np.divide(apart, most, out=np.zeros_like(most), where=most > 0), initial=0.0))


def diagonal(ax: Axes, expected: Array, *, part: float, label: str) -> None:
    """Draw where both answers are equal, and a band of some percent around it, on logarithmic axes."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = float(np.min(expected)), float(np.max(expected))
    ends = np.geomspace(low / 1.5, high * 1.5, 50)
    ax.fill_between(ends, ends / (1 + part), ends * (1 + part), color=BAND, lw=0, label=label, zorder=1)
    ax.plot(ends, ends, color="black", lw=0.6, zorder=1.5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    decade = high / low > 300
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0,) if decade else (1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def finish(ax: Axes, title: str, x: str, y: str) -> None:
    """Write the title and the axis labels, and the legend below."""
    ax.set_title(title, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    legend_below(ax)


def points(ax: Axes, x: Any, y: Any, colour: str, label: str, **more: Any) -> None:
    """Draw points that lie over one another so that all are seen."""
    ax.plot(x, y, **({"ls": "", "marker": "o", "ms": 4, "alpha": 0.75, "mew": 0.8} | more), color=colour, label=label)
