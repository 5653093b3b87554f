"""Pictures of sweeps: every function takes a table and returns the matplotlib Axes it drew on.

A point whose load is not stable is hollow: its throughput and price are not those of a deployment that carries the
load. A point without the figures of a picture, as of a run that was too short for a steady state, is left out and
counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np

from afdsim import units
from afdsim.results.metrics import Columns, Floats
from afdsim.results.plot_parts import COLOURS, colours, legend_below, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MISSED: Final[Mapping[str, Any]] = {"marker": "o", "linestyle": "none", "mfc": "none", "markersize": 5}
_UNSTABLE: Final[Mapping[str, Any]] = {"marker": "D", "linestyle": "none", "mfc": "none", "markersize": 5}
"""How points look that miss the SLA, and whose load is not stable."""


def pareto(  # noqa: PLR0913 - the axes, and what marks are
    table: Columns | pd.DataFrame,
    ax: Axes | None = None,
    *,
    x: str = "tokens_per_s_per_user",
    y: str = "tgs",
    hue: str | None = None,
    met: str | None = "sla.met",
    shades: Mapping[str, str] | None = None,
) -> Axes:
    """Draw every point of a sweep and the frontier of those that no other beats in both x and y.

    Points where the column `met` is false and points whose load is not stable are hollow and not part of a frontier.
    `shades` are the colours of the values of `hue`, as other pictures have them.
    """
    ax = new_axes(ax)
    across, up = _numbers(table, x), _numbers(table, y)
    groups = np.full(len(across), "") if hue is None else np.array(list(map(_name, np.asarray(table[hue]).tolist())))
    known, stable = ~np.isnan(across) & ~np.isnan(up), ~_unstable(table)
    fine = _claims(table, met) if met is not None and met in table else np.ones(len(across), bool)
    for name, colour in (shades or colours(dict.fromkeys(groups.tolist()))).items():
        mine = (groups == name) & known
        for some, look in ((mine & stable & ~fine, _MISSED), (mine & ~stable, _UNSTABLE)):
            ax.plot(across[some], up[some], color=colour, **look)
        good = mine & stable & fine
        best = np.flatnonzero(good)[frontier(across[good], up[good])]
        ax.plot(across[good], up[good], "o", color=colour, markersize=5, alpha=0.45, mec="none")
        ax.plot(across[best], up[best], "-o", color=colour, markersize=5, label=name or "frontier")
    if x == "tokens_per_s_per_user":
        _mark_slowest_speed(ax, table)
    for some, look, label in ((~fine & stable, _MISSED, "misses the SLA"), (~stable, _UNSTABLE, "load not stable")):
        if (known & some).any():
            ax.plot([], [], color="#666666", label=label, **look)
    ax.set(xlabel=f"{_title(table, x)}{_left_out(known)}", ylabel=_title(table, y))
    ax.set(title="Speed per user against throughput per GPU")
    _from_zero(ax)
    legend_below(ax, title=None if hue is None else _title(table, hue))
    return ax


def _mark_slowest_speed(ax: Axes, table: Columns | pd.DataFrame) -> None:
    """Draw the speed per user that a limit on the mean TPOT demands, if it is one for all points.

    A percentile of TPOT is no line here: the speed is that of the mean.
    """
    if not all(f"sla.{key}" in table for key in ("limit_ms", "metric", "percentile")):
        return
    limits, metrics, statistics = (
        np.asarray(table[f"sla.{key}"]).tolist() for key in ("limit_ms", "metric", "percentile")
    )
    rows = [row for row in zip(metrics, statistics, limits, strict=True) if row[0] == "tpot"]
    if len(set(rows)) == 1 and rows[0][1] == "mean":
        limit = rows[0][2]
        ax.axvline(1e3 / limit, color="#B00020", linewidth=1.6, label=f"SLA {limit:g} ms")


def _from_zero(ax: Axes) -> None:
    """Let both axes begin at zero and end where the last marker still has room."""
    for limits, last in ((ax.set_xlim, ax.dataLim.x1), (ax.set_ylim, ax.dataLim.y1)):
        limits(0, 1.05 * last if math.isfinite(last) and last > 0 else None)


def frontier(x: Floats, y: Floats) -> Any:
    """Return the indices of the points that no other point beats in both, by rising x."""
    order = np.lexsort((-y, -x))
    best = np.maximum.accumulate(np.concatenate(([-np.inf], y[order])))[:-1]
    return order[y[order] > best][::-1]


def ratio(
    table: Columns | pd.DataFrame,
    ax: Axes | None = None,
    *,
    x: str,
    y: str = "tgs",
    latency: str = "mean_tpot_ms",
    busy: tuple[str, str] = ("pools.attention.busy", "pools.ffn.busy"),
) -> Axes:
    """Draw throughput and latency against one axis, a band over seeds; shaded where the second pool is busier.

    A place is hollow where the load of any of its seeds is not stable.
    """
    ax = new_axes(ax)
    twin = ax.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    known = ~np.isnan(_numbers(table, x)) & ~np.isnan(_numbers(table, y))
    place, hollow = _numbers(table, x)[known], _unstable(table)[known]
    lines = [_over_seeds(axes, (place, _numbers(table, name)[known], hollow), look) for axes, name, look in (
        (ax, y, {"color": COLOURS[0], "marker": "o"}),
        (twin, latency, {"color": COLOURS[1], "marker": "s", "linestyle": "--"}),
    )]  # fmt: skip
    ax.set(xlabel=f"{_title(table, x)}{_left_out(known)}", ylabel=_title(table, y), title="Throughput and latency")
    twin.set(ylabel=_title(table, latency))
    for axes in (ax, twin):
        axes.set_ylim(0, 1.12 * axes.dataLim.y1 if math.isfinite(axes.dataLim.y1) else None)
    if (place == np.round(place)).all() and len(np.unique(place)) <= 12:
        ax.set_xticks(np.unique(place))
    if all(name in table for name in busy):
        name = busy[1].split(".")[-2] if "." in busy[1] else busy[1]
        excess = (_numbers(table, busy[1]) - _numbers(table, busy[0]))[known]
        _shade_bottleneck(ax, place, excess, f"{name} is the busier pool")
    if hollow.any():
        ax.plot([], [], "o", mfc="white", color="#666666", label="load not stable")
    handles, labels = ax.get_legend_handles_labels()
    own = [_title(table, y), _title(table, latency)]
    legend_below(ax, handles=[*lines, *handles], labels=[*own, *labels])
    return ax


def _over_seeds(ax: Axes, points: tuple[Floats, Floats, Any], look: dict[str, Any]) -> Any:
    """Draw the mean and the range of y at every x, hollow where any point is; `points` are x, y and hollow."""
    x, y, hollow = points
    places = np.unique(x)
    groups = [y[(x == place) & ~np.isnan(y)] for place in places]
    mean, low, high = (
        np.array([reduce(group) if len(group) else np.nan for group in groups]) for reduce in (np.mean, np.min, np.max)
    )
    ax.fill_between(places, low, high, color=look["color"], alpha=0.2, linewidth=0)
    line = ax.plot(places, mean, markersize=5, **look)[0]
    some = np.isin(places, x[hollow])
    ax.plot(places[some], mean[some], markersize=5, mfc="white", zorder=3, **{**look, "linestyle": "none"})
    return line


def _shade_bottleneck(ax: Axes, place: Floats, excess: Floats, label: str) -> None:
    """Shade from the place where the second pool becomes the busier one."""
    place, excess = place[~np.isnan(excess)], excess[~np.isnan(excess)]
    places = np.unique(place)
    ahead = np.array([excess[place == each].mean() for each in places])
    for left, right, one, two in zip(places[:-1], places[1:], ahead[:-1], ahead[1:], strict=True):
        if max(one, two) > 0:
            flip = left + (right - left) * min(max(one / (one - two), 0.0), 1.0) if one * two < 0 else left
            ends = (flip, right) if two > 0 else (left, flip if one * two < 0 else right)
            ax.axvspan(*ends, color="#EFEFEF", zorder=0, linewidth=0, label=label)


# what points are, and what is said of them --------------------------------------------------------------------------


def _unstable(table: Columns | pd.DataFrame) -> Any:
    """Mask of the points of an open loop whose load is not stable; a closed loop has no load."""
    cells = np.asarray(table["load"], object).tolist() if "load" in table else [None] * _size(table)
    return np.array([isinstance(cell, str) and cell != "STABLE" for cell in cells], bool)


def _left_out(known: Any) -> str:
    """Say how many points have no figure to draw."""
    count = int(np.count_nonzero(~known))
    return f"; {count:,} point{'s' if count > 1 else ''} n/a, left out" if count else ""


def _size(table: Columns | pd.DataFrame) -> int:
    return len(np.asarray(table[next(map(str, table))]))


def _numbers(table: Columns | pd.DataFrame, name: str) -> Floats:
    """A column as numbers: quantities in SI units, NaN where a point has none, or none has the figure."""
    if name not in table and "." not in name and (name in _TITLES or name.endswith("_ms")):
        return np.full(_size(table), np.nan)
    if name not in table:
        known = [str(column) for column in table]
        raise ValueError(
            f"no column {name!r}{units.suggestion(name, known)} (has {len(known)}: {', '.join(known[:8])} ...)"
        )
    column = np.asarray(table[name])
    if column.dtype.kind in "biuf":
        return column.astype(float)
    return np.array([_number(cell) for cell in column.tolist()], float)


def _number(cell: object) -> float:
    """A number, or the SI value of a text with a unit such as "60 req/s"."""
    if not isinstance(cell, str):
        return float(cell) if isinstance(cell, int | float) else math.nan
    for quantity in get_args(units.Quantity):
        with suppress(ValueError):
            return units.parse(cell, quantity)
    raise ValueError(f"{cell!r} is no number and no quantity with a unit")


def _claims(table: Columns | pd.DataFrame, name: str) -> Any:
    """A column of truth values as a mask: false where a point has none."""
    return np.array([cell is True for cell in np.asarray(table[name], object).tolist()], bool)


_TITLES: Final = {
    "tgs": "output tokens/s per GPU",
    "output_throughput": "output tokens/s",
    "tokens_per_s_per_user": "tokens/s per user",
    "usd_per_1m_output_tokens": "USD per 1M output tokens",
    "workload.arrival.request_rate": "request rate (req/s)",
    "deployment.attention.instances": "attention instances",
    "deployment.ffn.instances": "FFN instances",
}


def _name(cell: object) -> str:
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def _title(table: Columns | pd.DataFrame, column: str) -> str:
    """Axis label of a result key or an axis of the sweep, with its unit."""
    if unit := getattr(table, "attrs", {}).get("units", {}).get(column):
        return _TITLES.get(column, f"{column} ({unit})")
    if column in _TITLES or not column.endswith("_ms"):
        return _TITLES.get(column, column.replace("_", " "))
    *statistic, metric = column.removesuffix("_ms").split("_")
    return f"{' '.join(statistic)} {metric.upper()} (ms)".strip()
