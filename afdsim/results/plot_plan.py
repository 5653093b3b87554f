"""Pictures of a plan and of a search for capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from afdsim.results.plot_parts import colours, legend_below, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TITLES: Final = {
    "tgs": "output tokens per GPU and second",
    "usd_per_1m_output_tokens": "USD per 1M output tokens",
    "tokens_per_s_per_user": "tokens per second and user",
}
LOOKS: Final = {
    "bound": (10, 0.25, "at most, left untried"),
    "measured": (26, 0.7, "measured"),
    "run": (46, 1.0, "run"),
}
"""Size, opacity and name of the marks of a standing, the least known first."""


def plan(table: pd.DataFrame, ax: Axes | None = None, *, x: str = "tgs") -> Axes:
    """Draw the layouts of a plan, a lane for each family: faint by what they give at most, full once they were tried.

    `table` is `Plan.frame()`; layouts that cannot be, or miss the SLA at any batch, are left out and counted.
    """
    ax = new_axes(ax, height=3.6)
    known = table[table["standing"].isin(LOOKS)]
    families = list(dict.fromkeys(known["family"]))[::-1]
    chosen = colours(families)
    for lane, family in enumerate(families):
        mine = known[known["family"] == family]
        places = lane + 0.6 * (np.arange(len(mine)) * 0.618 % 1.0 - 0.5)
        for standing, (size, opacity, _) in LOOKS.items():
            some = (mine["standing"] == standing).to_numpy()
            ax.scatter(
                mine[x][some], places[some], s=size, alpha=opacity, color=chosen[family], linewidths=0, zorder=size
            )
    for size, opacity, label in LOOKS.values():
        ax.scatter([], [], s=size, alpha=opacity, color="#444444", linewidths=0, label=label)
    out = len(table) - len(known)
    ax.set_yticks(range(len(families)), families)
    ax.set(xlabel=TITLES[x] + (f" ({out:,} layouts left out)" if out else ""), xlim=(0, None))
    ax.set(title="Every layout, and what was tried of it")
    ax.grid(axis="y", visible=False)
    legend_below(ax)
    return ax


def front(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the best cells at several limits of TPOT: tokens per GPU against the speed of a user, each with its name.

    `table` is `Plan.front_frame()`.
    """
    ax = new_axes(ax)
    families = colours(dict.fromkeys(table["family"]))
    ordered = table.sort_values("tokens_per_s_per_user")
    ax.plot(ordered["tokens_per_s_per_user"], ordered["tgs"], color="#999999", linewidth=1.2, zorder=1)
    for family, colour in families.items():
        mine = ordered[ordered["family"] == family]
        ax.scatter(mine["tokens_per_s_per_user"], mine["tgs"], s=46, color=colour, label=family, zorder=2)
    for _, row in ordered.iterrows():
        place = (row["tokens_per_s_per_user"], row["tgs"])
        ax.annotate(row["deployment"], place, xytext=(6, 6), textcoords="offset points", fontsize=8)
    ax.set(xlabel=TITLES["tokens_per_s_per_user"], ylabel=TITLES["tgs"], title="The best cell at every speed")
    ax.set(xlim=(0, 1.35 * float(ordered["tokens_per_s_per_user"].max())), ylim=(0, 1.12 * float(ordered["tgs"].max())))
    legend_below(ax)
    return ax


def capacity(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what a search for capacity saw: the limited latency over its limit against the rate, or the batch.

    `table` is `Capacity.frame()`. Filled: carried; hollow: refused; small: undecided. The metric nearest to its limit.
    """
    ax = new_axes(ax)
    x, metric = table.columns[0], str(table["metric"].iloc[0])
    colour = colours([metric])[metric]
    ax.plot(table[x], table["value_ms"], color="#999999", linewidth=1.2, zorder=1)
    for found, fill, size in (("carried", colour, 46), ("refused", "none", 46), ("undecided", colour, 12)):
        some = table[table["found"] == found]
        if len(some):
            ax.scatter(some[x], some["value_ms"], s=size, facecolors=fill, edgecolors=colour, label=found, zorder=2)
    limit = float(table["limit_ms"].iloc[0])
    ax.axhline(limit, color="#B00020", linewidth=1.6, label="SLA")
    unit = "requests per second" if x == "request_rate" else "sequences of a rank (max_num_seqs)"
    ax.set(xlabel=unit, ylabel=f"{metric}, ms", title="What it carries")
    ax.set(ylim=(0, 1.12 * max(limit, float(table["value_ms"].max()))))
    legend_below(ax)
    return ax
