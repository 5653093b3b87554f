"""Five figures of the paper's cost analysis, ours as filled marks and bars, published figures as hollow rings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.cost import theory

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""
ACCELERATORS = {"H800": BLUE, "H20": ORANGE, "A800": GREEN, "910B": PURPLE}
RING = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.1, "zorder": 5}

Cells = dict[tuple[str, str, str], Any]


def draw(found: Sequence[Any], folder: Path) -> None:
    """Write all figures as PNG."""
    cells = {(cell.table, cell.row, cell.column): cell for cell in found}
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figures = {
        "figure1_pareto": pareto,
        "figure2_cost": stacked,
        "figure3_attention": by_accelerator,
        "figure4_intensity": intensity,
        "figure5_layers": layers,
    }
    for name, figure in figures.items():
        drawn = figure(cells)
        drawn.savefig(folder / f"{name}.png", dpi=130, bbox_inches="tight", metadata={"Software": None})
        plt.close(drawn)


def models(cells: Cells) -> list[str]:
    return list(
        dict.fromkeys(row.removesuffix(" 8K") for table, row, _ in cells if table == "2 and 3" and " 8K" in row)
    )


def best(cells: Cells, model: str, column: str, which: str) -> float:
    """Return the least cost of a part over the accelerators, "ours" or "published"."""
    return min(getattr(cells["6", f"{model} {gpu}", column], which) for gpu in ACCELERATORS)


def total(cells: Cells, model: str, context: str, which: str) -> float:
    return best(cells, model, f"attention_{context}_usd", which) + best(cells, model, "ffn_usd", which)


def pareto(cells: Cells) -> Any:
    """Cost on the best AFD pair over the parameters that a token activates."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, context in zip(axes, ("8k", "32k"), strict=True):
        points = []
        for model in models(cells):
            own = [cells["2 and 3", f"{model} 8K", part].ours for part in ("linear_flops", "ffn_flops")]
            points.append((sum(own) / 2e9, total(cells, model, context, "ours"), model))
            ax.scatter(sum(own) / 2e9, total(cells, model, context, "published"), s=70, **RING)
        for x, y, model in points:
            ax.scatter(x, y, s=26, color=ORANGE if model == "Step-3" else BLUE, zorder=4)
            side = SIDES.get((context, model), (6, 4, "left"))
            ax.annotate(model, (x, y), xytext=side[:2], textcoords="offset points", ha=side[2], fontsize=8)
        ax.set(
            xlabel="activated parameters (billions, head left out)",
            ylabel="USD per 1M tokens",
            title=f"context {context}",
        )
        ax.set_xlim(12, 52)
        ax.set_ylim(0, 1.1 * max(y for _, y, _ in points))
    figure.suptitle("Activated parameters do not decide the cost of decoding (rings: published)")
    return figure


SIDES = {
    ("8k", "Step-3"): (-7, -11, "right"),
    ("8k", "Pangu Pro"): (6, -10, "left"),
    ("32k", "Pangu Pro"): (6, -10, "left"),
    ("8k", "Qwen3 MoE"): (-7, -3, "right"),
    ("8k", "Kimi K2"): (-7, 2, "right"),
    ("32k", "Kimi K2"): (-7, 2, "right"),
}
"""Label places (points right, points up, alignment) where the usual one would collide."""


def stacked(cells: Cells) -> Any:
    """Attention and FFN on the best pair, stacked."""
    names = sorted(models(cells), key=lambda model: total(cells, model, "32k", "ours"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for ax, context in zip(axes, ("8k", "32k"), strict=True):
        attention = [best(cells, model, f"attention_{context}_usd", "ours") for model in names]
        ffn = [best(cells, model, "ffn_usd", "ours") for model in names]
        ax.barh(names, attention, color=BLUE, label="attention", height=0.65)
        ax.barh(names, ffn, left=attention, color=ORANGE, label="FFN", height=0.65)
        theirs = [total(cells, model, context, "published") for model in names]
        ax.scatter(theirs, names, s=38, label="published total", **RING)
        ax.set(xlabel="USD per 1M tokens", title=f"context {context}")
        ax.invert_yaxis()
    axes[1].legend(frameon=False, loc="lower right")
    figure.suptitle("Theoretical decoding cost with the cheapest accelerator for each part")
    return figure


def by_accelerator(cells: Cells) -> Any:
    """Attention cost on every accelerator."""
    names = models(cells)
    figure, axes = plt.subplots(2, 1, figsize=(10, 6), layout="constrained", sharex=True)
    places = np.arange(len(names))
    for ax, context in zip(axes, ("8k", "32k"), strict=True):
        for index, (gpu, colour) in enumerate(ACCELERATORS.items()):
            x = places + (index - 1.5) * 0.2
            own = [cells["6", f"{model} {gpu}", f"attention_{context}_usd"] for model in names]
            ax.bar(x, [cell.ours for cell in own], 0.18, color=colour, label=gpu)
            label = "published" if index == 3 else None
            ax.scatter(x, [cell.published for cell in own], s=16, label=label, **RING)
        ax.set(ylabel="USD per 1M tokens", title=f"attention, context {context}")
        ax.set_xticks(places, names)
    axes[0].legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.0))
    axes[0].set_ylim(0, 0.225)
    return figure


def intensity(cells: Cells) -> Any:
    """Core FLOPs over KV bytes of one token, with the ridge of each accelerator."""
    figure, ax = plt.subplots(figsize=(7.5, 5), layout="constrained")
    span = np.array([1.6e8, 9e9])
    for gpu, colour in ACCELERATORS.items():
        ridge = theory.roofline(catalog.gpu(gpu))
        ax.plot(span, span * ridge, color=colour, lw=1, ls="--", zorder=1)
        ax.annotate(f"{gpu} {ridge:.0f}", (span[1], span[1] * ridge), color=colour, fontsize=8, va="center",
                    xytext=(3, {"910B": 4, "A800": -4}.get(gpu, 0)), textcoords="offset points")  # fmt: skip
    for model in models(cells):
        pair = [[cells["2 and 3", f"{model} {context}", part] for part in ("kv_bytes", "attention_flops")]
                for context in ("8K", "32K")]  # fmt: skip
        xs, ys = ([each[axis].ours for each in pair] for axis in (0, 1))
        ax.plot(xs, ys, color=ORANGE if model == "Step-3" else "0.35", lw=1.2, marker="o", ms=4, zorder=4)
        ax.scatter([each[0].published for each in pair], [each[1].published for each in pair], s=55, **RING)
        below = LIFTS.get(model, -4)
        ax.annotate(model, (xs[1], ys[1]), xytext=(6, below), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", yscale="log", xlabel="KV bytes read per token", ylabel="core attention FLOPs per token")
    ax.set_title("8K to 32K of context; above a dashed line attention is compute-bound (rings: published)", fontsize=9)
    ax.set_xlim(1.6e8, 1.5e10)
    return figure


LIFTS = {"Kimi K2": 6, "ERNIE 4.5": -10, "MM M1": -10, "Llama 4 M": 2, "Qwen3 32B": 0}
"""Heights of labels in points where the usual one would collide."""


def layers(cells: Cells) -> Any:
    """Measured attention layers and our predictions."""
    own = [cell for (table, _, _), cell in cells.items() if table == "9"]
    figure, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
    places = np.arange(len(own))
    ax.bar(places - 0.2, [cell.published for cell in own], 0.38, color="0.75", label="published")
    ax.bar(places + 0.2, [cell.ours for cell in own], 0.38, color=BLUE, label="predicted")
    for place, cell in zip(places, own, strict=True):
        ax.annotate(f"{cell.error:+.0%}", (place, max(cell.published, cell.ours)), xytext=(0, 3),
                    textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    ax.set_xticks(places, [cell.row.replace(" ", "\n") for cell in own])
    ax.set(yscale="log", ylabel="one attention layer (us)", ylim=(150, 9000))
    ax.set_yticks([200, 500, 1000, 2000, 5000], ["200", "500", "1,000", "2,000", "5,000"])
    ax.minorticks_off()
    ax.legend(frameon=False, loc="upper left")
    ax.set_title(
        "Attention layers of table 9: 64 sequences per GPU (GQA: 256 over 4), no coefficient fitted on them", fontsize=9
    )
    return figure
