"""Pictures of what was paid for and lost: culprits, the price of tokens, operators under the roofs of their GPUs.

Every function takes a result, or runs by name, and returns the matplotlib Axes it drew on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from afdsim.engine.books import CAUSES
from afdsim.results import blaming, metrics
from afdsim.results.metrics import Columns, Run
from afdsim.results.plot import One, Runs, named, one_run
from afdsim.results.plot_parts import COLOURS, legend_below, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

KIND_COLOURS: Final = {
    "port": "#CC79A7",
    "path": "#E8B9D3",
    "uplink": "#8A4F6E",
    "nvlink": "#56B4E9",
    "peer": "#E69F00",
    "pool": "#F3CF80",
    "rank": "#F0E442",
    "host": "#009E73",
    "outage": "#404040",
}
"""Kinds of culprit: what the network lost in one family of colours, what peers lost in another."""
POOL_COLOURS: Final = {"attention": "#0072B2", "ffn": "#D55E00", "colocated": "#009E73", "prefill": "#8C6D31"}
STAGE_COLOURS: Final = POOL_COLOURS | {"gather": "#56B4E9", "scatter": "#CC79A7", "boundary": "#7F7F7F"}


def blame(run: One, ax: Axes | None = None, *, most: int = 10) -> Axes:
    """Draw whom the GPUs waited for: the `most` culprits with the largest share of all GPU time, by kind."""
    found = one_run(run)
    rows = list(_culprits(found))[:most]
    ax = new_axes(ax, height=1.5 + 0.32 * max(len(rows), 1))
    widths = [100 * share for _, _, share in rows]
    shades = [KIND_COLOURS[kind] for _, kind, _ in rows]
    drawn = ax.barh(range(len(rows)), widths, height=0.66, color=shades, edgecolor="#666666", linewidth=0.4)
    ax.bar_label(drawn, [f"{width:.2g}%" for width in widths], padding=3, fontsize=9)
    ax.set_yticks(range(len(rows)), [culprit for culprit, _, _ in rows])
    ax.set(
        xlabel="share of all GPU time (%)", title="Whom the GPUs waited for", xlim=(0, 1.12 * max(widths, default=1))
    )
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    _legend(
        ax, {blaming.WORDS[kind]: {"facecolor": KIND_COLOURS[kind]} for kind in dict.fromkeys(row[1] for row in rows)}
    )
    return ax


def _legend(ax: Axes, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Put swatches with their names below the axes."""
    from matplotlib.patches import Patch

    legend_below(ax, handles=[Patch(**look) for look in looks.values()], labels=list(looks))


def _culprits(run: Run) -> Iterator[tuple[str, str, float]]:
    """Yield culprit, kind and share of all GPU time, the worst first; nothing below what a report tells."""
    whole, lost = run.duration * run.gpu_count, dict[tuple[str, str], float]()
    if run.blame:
        for culprit, kind, seconds in zip(*(run.blame[name] for name in ("culprit", "kind", "gpu_s")), strict=True):
            own = f"{culprit} NVLink" if kind == "nvlink" else str(culprit)
            lost[own, str(kind)] = lost.get((own, str(kind)), 0.0) + float(seconds)
    for (culprit, kind), seconds in sorted(lost.items(), key=lambda item: (-item[1], item[0])):
        if (share := metrics.ratio(seconds, whole)) >= blaming.LEAST:
            yield culprit, kind, share


# what tokens cost ---------------------------------------------------------------------------------------------------


def cost(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw what a million output tokens cost: a bar a deployment, by pool, what was paid for waiting hatched.

    In USD where all prices are known, else in GPU-hours. A deployment without a throughput has no bar.
    """
    bars = {name: _priced(seeds) for name, seeds in named(runs).items()}
    unit = "USD" if all(run.pools and _usd(run) for seeds in named(runs).values() for run in seeds) else "GPU-hours"
    ax = new_axes(ax, height=1.7 + 0.6 * len(bars))
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for pool, busy, amounts in parts:
            width = amounts[unit]
            ax.barh(row, width, left=left, height=0.6, facecolor=_shade(pool), **({} if busy else _IDLE))
            left += width
        ax.text(left, row, f" {left:.3g} {unit}" if parts else "n/a", va="center", fontsize=9)
    ax.set_yticks(range(len(bars)), list(bars))
    ax.set(xlabel=f"{unit} per 1M output tokens", title="What a million tokens cost", xlim=(0, None))
    ax.margins(x=0.16)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    pools = dict.fromkeys(pool for parts in bars.values() for pool, *_ in parts)
    looks: dict[str, dict[str, Any]] = {f"{pool} GPUs computing": {"facecolor": _shade(pool)} for pool in pools}
    _legend(ax, looks | {"waiting, or without work": {"facecolor": "#999999"} | _IDLE})
    return ax


_IDLE: Final[dict[str, Any]] = {"hatch": "///", "alpha": 0.55, "edgecolor": "white"}


def _shade(pool: str) -> str:
    return POOL_COLOURS.get(pool, COLOURS[-1])


def _priced(seeds: Sequence[Run]) -> list[tuple[str, bool, dict[str, float]]]:
    """Pool, whether busy, and amounts per million tokens by unit; nothing without a throughput."""
    known = [run for run in seeds if metrics.output_throughput(run.tokens, run.window) > 0 and run.steady]
    parts: dict[tuple[str, bool], dict[str, float]] = {}
    for run in known:
        scale = 1e6 / metrics.output_throughput(run.tokens, run.window) / 3600 / len(known)
        for pool, shares in metrics.causes(run.gpus).items():
            own = run.pools[pool]
            for busy in (True, False):
                hours = own.gpus * scale * sum(shares[cause] for cause in CAUSES if (cause == CAUSES[0]) is busy)
                row = parts.setdefault((pool, busy), {"USD": 0.0, "GPU-hours": 0.0})
                row["USD"] += hours * (own.usd_per_hour or 0.0)
                row["GPU-hours"] += hours
    return [(pool, busy, amounts) for (pool, busy), amounts in parts.items()]


def _usd(run: Run) -> bool:
    return all(pool.usd_per_hour is not None for pool in run.pools.values())


# operators ----------------------------------------------------------------------------------------------------------


def roofline(operators: Columns | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what every operator reaches, FLOP/s against FLOPs per byte of HBM, under the roofs of its GPU.

    `operators` is `Result.operators`. The area of a mark is its share of a step's seconds, the longest are named; those
    without FLOPs or bytes (launches, collectives, sums) are left out and counted.
    """
    ax = new_axes(ax, height=4.8)
    table = {name: np.asarray(operators[name]) for name in map(str, operators)}
    drawn = (table["flops"] > 0) & (table["bytes"] > 0)
    step, table = table["seconds"] * table["per_step"], {name: column[drawn] for name, column in table.items()}
    across, up = table["flops"] / table["bytes"], table["flops"] / table["seconds"] / 1e12
    ends = (10 ** math.floor(math.log10(across.min())), 10 ** math.ceil(math.log10(4 * across.max())))
    handles = _roofs(ax, table, ends)
    shares = step[drawn] / step.sum()
    for stage in dict.fromkeys(table["stage"].tolist()):
        mine, shade = table["stage"] == stage, STAGE_COLOURS.get(stage, COLOURS[-1])
        ax.scatter(across[mine], up[mine], s=14 + 1600 * shares[mine], color=shade, alpha=0.75, linewidths=0, zorder=3)
        handles[stage] = ax.plot([], [], "o", color=shade, markersize=6)[0]
    out = f"; {np.count_nonzero(~drawn)} operators without one of them left out" if not drawn.all() else ""
    ax.set(xscale="log", yscale="log", xlim=ends, xlabel=f"FLOPs per byte of HBM{out}", ylabel="reached (TFLOP/s)")
    ax.set(title="Operators of a step, under the roofs of their GPU")
    longest = np.argsort(-shares, kind="stable")[:5]
    texts = [f"{table['name'][x]}, {shares[x]:.0%} of the kernels' time" for x in longest.tolist()]
    _name(ax, across[longest], up[longest], texts)
    legend_below(ax, handles=list(handles.values()), labels=list(handles))
    return ax


def _roofs(ax: Axes, table: Mapping[str, Any], ends: tuple[float, float]) -> dict[str, Any]:
    """Draw a roof for every GPU and dtype, bandwidth and then peak; returns the lines by what they are."""
    across = np.geomspace(*ends, 200)
    columns = (table[name].tolist() for name in ("gpu", "dtype", "peak_flops", "bandwidth"))
    lines = {}
    for number, (gpu, dtype, peak, bandwidth) in enumerate(dict.fromkeys(zip(*columns, strict=True))):
        roof, style = np.minimum(peak, bandwidth * across) / 1e12, ("-", "--", ":", "-.")[number % 4]
        name = f"{gpu} {dtype}: {peak / 1e12:,.0f} TFLOP/s, {bandwidth / 1e12:.3g} TB/s"
        lines[name] = ax.plot(across, roof, style, color="#666666", linewidth=1.2, zorder=1)[0]
    return lines


def _name(ax: Axes, across: Any, up: Any, texts: Sequence[str]) -> None:
    """Write names in a column above the marks, each with a line to its mark that passes behind the names below it."""
    order = np.argsort(-across, kind="stable").tolist()
    for row, place in enumerate(order):
        ax.annotate(
            texts[place],
            (across[place], up[place]),
            xytext=(0.02, 0.96 - 0.075 * row),
            textcoords="axes fraction",
            va="top",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "relpos": (1.0, 0.5)},
            zorder=4,
        )
