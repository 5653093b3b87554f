"""One panel for every claim: what was measured, with the line that decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from claims import BUSY, KNOWN
from matplotlib.ticker import PercentFormatter

import afdsim

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = {"color": "#555555", "linewidth": 1.0, "linestyle": (0, (4, 3))}
DASHES = ("-", (0, (2, 1.5)), (0, (5, 1, 1, 1)))
MARKS = ("o", "s", "^", "D", "v")


def overlap(made: pd.DataFrame, ax: Axes) -> None:
    """Share of time that the busier side computes, against micro-batches."""
    part = made[made["deployment"] == made["deployment"].iloc[0]]
    _lines(part, ax, ["gpu", "inside"], ("microbatches", "busiest"))
    ax.axhline(BUSY, **LINE)
    ax.set(xlabel="micro-batches (2A2F at 4K)", ylabel="busier side computes")
    ax.set_xticks(sorted(set(made["microbatches"])))
    _percent(ax)


def scale(made: pd.DataFrame, ax: Axes) -> None:
    """Tokens per GPU of EP groups by size, and AFD's as a point."""
    colours = afdsim.plot.colours(list(dict.fromkeys(made["gpu"])))
    for number, (model, part) in enumerate(made.groupby("model", sort=False)):
        for gpu, mine in part.groupby("gpu", sort=False):
            ep, ours = mine[(mine["side"] == "EP") & (mine["tgs"] > 0)], mine[mine["side"] == "AFD"]
            ax.plot(ep["gpus"], ep["tgs"], linestyle=DASHES[number], color=colours[gpu], label=f"{model} EP {gpu}")
            ax.plot(ours["gpus"], ours["tgs"], MARKS[number], color=colours[gpu], markersize=8, markeredgecolor="black")
    ax.set(xscale="log", xlabel="GPUs (marks: AFD; lines: EP)", ylabel="tok/s per GPU", ylim=(0, None))
    _powers(ax, made.loc[made["gpus"] != 320, "gpus"])
    ax.legend(fontsize=7, frameon=False)


def context(made: pd.DataFrame, ax: Axes) -> None:
    """Tokens of the cell over those at 4K, against the context."""
    _lines(made, ax, ["gpu", "inside"], ("context", "kept"))
    ax.axhline(1.0 - KNOWN, **LINE)
    ax.set(xscale="log", xlabel="context (attention instances in proportion)", ylabel="tokens/s of those at 4K")
    ax.set_ylim(0, None)
    _contexts(ax, made["context"])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def mix(made: pd.DataFrame, ax: Axes) -> None:
    """USD per 1M tokens on one and on two kinds."""
    names = made["other"] + " " + (made["context"] // 1024).astype(str) + "K"
    _bars(made.assign(case=names), ax, ("case", "family", "usd_per_1m"))
    ax.set_ylabel("USD per 1M tokens")


def weak(made: pd.DataFrame, ax: Axes) -> None:
    """TPOT with weak GPUs for attention."""
    _bars(made.assign(case=(made["context"] // 1024).astype(str) + "K"), ax, ("case", "gpu", "tpot_ms"))
    ax.axhline(50.0, **LINE)
    ax.set(ylabel="mean TPOT, ms", xlabel="context of each sequence")


def imbalance(made: pd.DataFrame, ax: Axes) -> None:
    """Tokens lost against skew."""
    _lines(made.drop_duplicates(["way", "skew"]).sort_values("skew"), ax, ["way"], ("skew", "lost"))
    ax.set(xlabel="skew of experts (0: even)", ylabel="tokens lost")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def sparsity(made: pd.DataFrame, ax: Axes) -> None:
    """Share of the best MFU against sparsity, with the paper's limits."""
    _lines(made, ax, ["gpu"], ("sparsity", "reached"))
    colours = afdsim.plot.colours(list(dict.fromkeys(made["gpu"])))
    for gpu, least in made.drop_duplicates("gpu").set_index("gpu")["least"].items():
        ax.axvline(least, **{**LINE, "color": colours[gpu]})
    ax.set(xscale="log", xlabel="share of experts a token uses (dashed: paper's limit)", ylabel="of the best FFN MFU")
    ax.set_xticks(
        sorted(set(made["sparsity"])), [f"{value:.2f}" for value in sorted(set(made["sparsity"]))], fontsize=7
    )
    ax.minorticks_off()
    _percent(ax)


def headline(made: pd.DataFrame, ax: Axes) -> None:
    """Ratios where both model and system changed, or the model alone."""
    _ratios(made[made["changed"].fillna("").str.match("both|model")], ax)


def system(made: pd.DataFrame, ax: Axes) -> None:
    """Ratios where the system alone changed."""
    _ratios(made[made["changed"].fillna("").str.startswith("system")], ax)


def _ratios(made: pd.DataFrame, ax: Axes) -> None:
    _bars(made, ax, ("changed", "gpu", "ratio"))
    ax.axhline(1.0, **LINE)
    ax.set_ylabel("tok/s per GPU, new over old")


def price(made: pd.DataFrame, ax: Axes) -> None:
    """USD per 1M tokens against active parameters."""
    colours = afdsim.plot.colours(list(dict.fromkeys(made["model"])))
    for number, (tokens, part) in enumerate(made.groupby("context", sort=False)):
        for row in part.itertuples():
            label = row.model if number == 0 else None
            ax.plot(row.active_b, row.usd_per_1m, MARKS[number], color=colours[row.model], label=label, markersize=7)
        ax.plot([], [], MARKS[number], color="#777777", label=f"{tokens // 1024}K")
    ax.set(xlabel="active parameters, billions", ylabel="USD per 1M tokens", ylim=(0, 1.5 * made["usd_per_1m"].max()))
    ax.legend(fontsize=7, frameon=False, ncols=2)


def gain(made: pd.DataFrame, ax: Axes) -> None:
    """AFD over EP against context."""
    _lines(made[made["family"] == "AFD"], ax, ["model", "gpu"], ("context", "over_ep"))
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.axhspan(-KNOWN, KNOWN, color="#EEEEEE", zorder=0)
    ax.set(xscale="log", xlabel="context (grey: a tie)", ylabel="AFD over the best EP")
    _contexts(ax, made["context"])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def dead_zone(made: pd.DataFrame, ax: Axes) -> None:
    """Best MFU of the FFN against its instances."""
    _lines(made[made["ffn_mfu"] > 0], ax, ["model"], ("ffn", "ffn_mfu"))
    ax.set(xscale="log", xlabel="FFN instances", ylabel="best MFU of the FFN")
    _powers(ax, made["ffn"])
    _percent(ax, top=None)


def granularity(made: pd.DataFrame, ax: Axes) -> None:
    """Tokens per GPU lost against servers, of AFD."""
    part = made[made["family"] == "AFD"]
    _lines(
        part.assign(context=(part["context"] // 1024).astype(str) + "K"), ax, ["gpu", "context"], ("servers", "lost")
    )
    ax.axhline(KNOWN, **LINE)
    ax.set(xlabel="servers", ylabel="tokens per GPU lost by AFD")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def _lines(made: pd.DataFrame, ax: Axes, by: list[str], columns: tuple[str, str]) -> None:
    """Draw a line for every group: colour by the first column, dashes and marks by the second."""
    first = list(dict.fromkeys(made[by[0]]))
    second = list(dict.fromkeys(made[by[-1]])) if len(by) > 1 else []
    colours = afdsim.plot.colours(first)
    for given, part in made.groupby(by, sort=False):
        number = second.index(given[-1]) if second else 0
        style = {"linestyle": DASHES[number % 3], "marker": MARKS[number], "markersize": 4}
        ax.plot(part[columns[0]], part[columns[1]], color=colours[given[0]], label=" ".join(map(str, given)), **style)
    ax.legend(fontsize=7, frameon=False, ncols=2 if len(ax.lines) > 4 else 1)
    ax.grid(color="#EEEEEE")


def _bars(made: pd.DataFrame, ax: Axes, columns: tuple[str, str, str]) -> None:
    """Draw bars in groups: place, colour, height."""
    table = made.pivot_table(index=columns[0], columns=columns[1], values=columns[2], sort=False)
    colours = afdsim.plot.colours(list(table.columns))
    width = 0.8 / len(table.columns)
    for number, name in enumerate(table.columns):
        places = [place + width * (number - (len(table.columns) - 1) / 2) for place in range(len(table))]
        ax.bar(places, table[name], width=0.92 * width, color=colours[name], label=str(name))
    ax.set_xticks(range(len(table)), table.index, fontsize=8)
    ax.margins(y=0.3)
    ax.legend(fontsize=7, frameon=False)


def _percent(ax: Axes, top: float | None = 1.05) -> None:
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(0, top)


def _contexts(ax: Axes, values: pd.Series) -> None:
    ticks = sorted(set(values))
    ax.set_xticks(ticks, [f"{value // 1024}K" for value in ticks])
    ax.minorticks_off()


def _powers(ax: Axes, values: pd.Series) -> None:
    ticks = sorted(set(values))
    ax.set_xticks(ticks, [str(value) for value in ticks], fontsize=8)
    ax.minorticks_off()
