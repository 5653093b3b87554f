"""Runs against independent simulators, which were written from the text of MODEL.md alone and do not ship."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.engine.test_oracle import COLOCATED, afd_both, colocated_both
from tests.laws.test_equivalence import deployments
from verification.checks import (
    BLUE,
    BY_ROUNDING,
    ORANGE,
    ROUNDING,
    Array,
    Check,
    Finding,
    NotRunError,
    diagonal,
    finish,
    furthest,
    points,
    several,
)
from verification.engines import explored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 30
"""Of each kind."""
SHARED = "AFDSIM_SHARED"
"""Variable of the environment that names the folder which holds them; a neighbour of the checkout otherwise."""


def oracles() -> tuple[Any, Any]:
    """The modules of both simulators."""
    held = os.environ.get(SHARED, Path(__file__).parent.parent.parent / "shared")
    folder = Path(held) / "oracle"
    if not folder.is_dir():
        raise NotRunError(f"the independent simulators do not ship; {SHARED} names the folder that holds theirs")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("afd_oracle"), importlib.import_module("colocated_oracle")
    finally:
        sys.path.remove(str(folder))


def times(found: Any, outcome: Any) -> tuple[Array, Array]:
    """Times of all boundaries, and of all last tokens: ours, and the other simulator's."""
    rows, requests = outcome.record.boundaries, outcome.record.requests
    order = np.lexsort((rows.unit, rows.micro_batch, rows.step))
    last = [each.tokens[-1] if each.tokens and each.left == 0 else np.nan for each in found.seating.requests]
    ours = np.concatenate([rows.time[order], requests.finish])
    its = np.array([*(row[3] for row in sorted(found.rows)), *last])
    if len(ours) != len(its) or (np.isnan(ours) != np.isnan(its)).any():
        return np.array([1.0]), np.array([0.0])  # not even the same events
    return ours[~np.isnan(ours)], its[~np.isnan(its)]


def compared(ax: Axes, scale: float) -> Finding:
    """Draw times of boundaries and last tokens over those of the other simulators."""
    both, worst, every, cells = oracles(), 0.0, [], 0
    kinds = {"AFD": (deployments(), afd_both, BLUE), "colocated EP and TP": (COLOCATED, colocated_both, ORANGE)}
    for name, (strategy, runs, colour) in kinds.items():
        asked = explored(strategy, several(CELLS, scale))
        rows = [times(*runs(both, each, "kernel")) for each in asked]
        ours, its = (np.concatenate(column) for column in zip(*rows, strict=True))
        points(ax, its, ours, colour, f"{name}: {len(rows)} cells, {len(ours):,} times", ms=3, alpha=0.5)
        worst, cells = max(worst, furthest(ours, its)), cells + len(rows)
        every.append(its[its > 0])
    diagonal(ax, np.concatenate(every), part=0.02, label="2 % (the difference is far below)")
    finish(
        ax,
        "Boundaries and last tokens come when independent simulators say",
        "time by the independent simulator (s)",
        "time by afdsim (s)",
    )
    return Finding(
        statistic=f"largest relative error of {sum(map(len, every)):,} times, in {cells} cells",
        value=worst,
        tolerance=ROUNDING,
        reason=BY_ROUNDING,
    )


ORACLES = Check(
    name="oracles",
    compares="times of all boundaries and last tokens with simulators written from the model's text alone",
    question="Does the code do what MODEL.md says, when somebody writes that text down anew?",
    answer=(
        "Two small simulators, one event heap and one plain object per request each, were written from MODEL.md "
        "without a look at the engines; they share nothing with them but the seconds of a stage. They do not ship "
        "with the package, so this check runs where their folder is at hand only. Jitter is off, and what they do "
        "not know (shared ports, uplinks, groups) is left out; sizes, models, drafts, loads, boundaries and "
        "granularities are drawn at random."
    ),
    reading="All points lie on the diagonal, to the last digits; the band shows what 2 % would be.",
    run=compared,
)
