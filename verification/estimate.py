"""Steps, against the closed form of an estimator of AFD: where it holds, and how far it is off elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verification.checks import BY_ROUNDING, COLOURS, ROUNDING, Check, Finding, finish, points, several
from verification.pipeline import Drawn, last_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 40
"""For each number of micro-batches."""
MICRO_BATCHES = (1, 2, 3, 4)


def estimated(cell: Drawn) -> tuple[float, bool]:
    """Step by NVIDIA AIConfigurator's AFD estimate (version 0.12, `--estimate-mode afd`), and whether its terms hold.

    The cycle is the slowest of attention, FFN and both transfers together where micro-batches suffice to hide these
    ("optimistic"), and a side with its own transfer where not ("conservative"). Its constant derating of decode is left
    out. The terms hold where transfers are hidden and are not themselves the slowest: it has them on one resource.
    """
    transfers = cell.out + cell.back + 2 * cell.latency
    slowest = max(cell.attention, cell.ffn)
    optimistic = cell.m >= 2 + transfers / max(slowest, transfers)
    conservative = max(cell.attention + cell.out + cell.latency, cell.ffn + cell.back + cell.latency)
    cycle = max(slowest, transfers) if optimistic else conservative
    return cell.trip + cycle * (cell.m * cell.layers - 1), optimistic and transfers <= slowest


def cells(number: int, m: int) -> list[Drawn]:
    """Random pipelines that drain, as the estimate does: transfers from a tenth of a stage to twice as long."""
    random, found = np.random.default_rng(m), []
    for _ in range(number):
        a, f = np.exp(random.uniform(np.log(1e-4), np.log(1e-3), 2)).round(9).tolist()
        wire = round(float(np.exp(random.uniform(np.log(0.05), np.log(1.0)))) * max(a, f), 9)
        found.append(
            Drawn(
                attention=a,
                ffn=f,
                out=wire,
                back=wire,
                latency=0.0,
                layers=int(random.integers(4, 30)),
                m=m,
                drain=True,
            )
        )
    return found


def compared(ax: Axes, scale: float) -> Finding:
    """Draw how far the estimate is from the simulated step, by how much longer the round trip is than the stages."""
    exact: list[float] = []
    for m, colour in zip(MICRO_BATCHES, COLOURS, strict=False):
        for holds in (True, False):
            rows = [row for row in map(errors, cells(several(CELLS, scale, 3), m)) if row[2] == holds]
            if rows:
                full = {} if holds else {"mfc": "none"}
                name = f"{m} micro-batch{'es' if m > 1 else ''}, {'terms hold' if holds else 'do not hold'}"
                points(ax, [row[0] for row in rows], [row[1] * 100 for row in rows], colour, name, **full)
            exact += [abs(row[1]) for row in rows if holds]
    ax.axhline(0.0, color="black", lw=0.8)
    ax.axvline(1.0, color="black", lw=0.8, ls=":")
    ax.set_xscale("log")
    ax.set_xticks([0.5, 0.7, 1, 2, 4], ["0.5", "0.7", "1", "2", "4"], minor=False)
    ax.minorticks_off()
    finish(
        ax,
        "AIConfigurator's closed form is the simulated step where its terms hold\n"
        "(filled); elsewhere (hollow) it is off by as much as this",
        "round trip / (micro-batches x slowest stage)",
        "estimate against simulation (%)",
    )
    return Finding(
        statistic=f"largest relative error of {len(exact)} steps of {len(MICRO_BATCHES) * several(CELLS, scale, 3)}, "
        "where its terms hold",
        value=max(exact, default=0.0),
        tolerance=ROUNDING,
        reason=BY_ROUNDING,
    )


def errors(cell: Drawn) -> tuple[float, float, bool]:
    """Round trip over busiest stage, relative error of the estimate, whether its terms hold."""
    value, holds = estimated(cell)
    return cell.trip / (cell.m * cell.slowest), value / last_step(cell.run()) - 1, holds


ESTIMATE = Check(
    name="aiconfigurator",
    compares="simulated steps that drain with the closed form of AIConfigurator's AFD estimate",
    question="Does the simulator meet the estimate that others make of AFD, where that is exact, and where is it not?",
    answer=(
        "NVIDIA AIConfigurator 0.12 estimates an AFD step as fill + cycle x (micro-batches x layers - 1), where "
        "the cycle is the slowest of attention, FFN and both transfers together if there are micro-batches "
        "enough, and a side with its transfer if not. This is our own writing of that formula. It has no jitter, "
        "no queues, and both directions of the network on one resource."
    ),
    reading=(
        "Filled points, where transfers are hidden and no stage is slower than compute, lie on zero. Hollow ones "
        "show the error of the estimate: with one or two micro-batches it adds a side and its transfer, whatever "
        "overlaps; with long transfers it makes both directions share one link."
    ),
    run=compared,
)
