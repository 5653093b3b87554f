"""Mean waits and their distribution at one server, against queueing theory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from afdsim.results.intervals import half_width
from verification.checks import BEYOND, BY_CHANCE, COLOURS, LOWEST, Check, Finding, finish, points, several
from verification.queues import Law, laws, md1_at_most, mean_wait, mg1_at_most, share_above, waits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOADS = (0.2, 0.35, 0.5, 0.65, 0.8)
MOST_LOADED = 0.8
CUSTOMERS = (30_000, 30_000, 10_000)
"""Of every law; those of decode take longest to simulate."""
ASIDE = 0.006
"""What keeps points of two laws apart."""


def means(ax: Axes, scale: float) -> Finding:
    """Draw mean waits by load, in mean services."""
    off = []
    smooth = np.linspace(0.15, 0.84, 120)
    for law in laws():
        ax.plot(smooth, [mean_wait(law, load) for load in smooth], color=COLOURS[law.colour], lw=1, label=law.name)
        for place, load in enumerate(LOADS):
            series, unit = waits(law, load, several(CUSTOMERS[law.colour], scale, 500), seed=10 * law.colour + place)
            series = series / (unit * law.mean)
            half = half_width(series)
            off.append(abs(series.mean() - mean_wait(law, load)) / half)
            x, bar = load + ASIDE * (law.colour - 1), {"fmt": "o", "ms": 4, "capsize": 3}
            ax.errorbar(x, series.mean(), BEYOND * half, color=COLOURS[law.colour], **bar)
    ax.set_yscale("log")
    finish(
        ax,
        "Mean waits agree with Pollaczek and Khinchine's formula\nbars: simulated, two 95 % half-widths; lines: theory",
        "load (share of the time that the server is busy)",
        "mean wait / mean service",
    )
    return Finding(
        statistic=f"furthest of {len(off)} mean waits from theory",
        value=float(max(off)),
        tolerance=BEYOND,
        reason=BY_CHANCE,
    )


def at_most(law: Law, load: float, times: np.ndarray) -> np.ndarray:
    """Share of waits of at most `times` units, by theory."""
    if law is laws()[0]:
        return np.array([md1_at_most(load, time) for time in times])
    return mg1_at_most(law, load, times)


def longest(law: Law, load: float) -> float:
    """The wait, in units, that one customer in a hundred exceeds by theory."""
    times = np.linspace(0.1, 40 * law.square / law.mean, 20_000)
    return float(np.interp(0.99, mg1_at_most(law, load, times), times))


def distribution(ax: Axes, scale: float) -> Finding:
    """Draw the share of customers that wait longer than a time."""
    off, number = [], 0
    for law in laws():
        series, unit = waits(law, MOST_LOADED, several(3 * CUSTOMERS[law.colour], scale, 6000), seed=50 + law.colour)
        last = longest(law, MOST_LOADED)
        times = np.linspace(last / 24, last, 24)
        shares, half = share_above(series / unit, times)
        expected = 1 - at_most(law, MOST_LOADED, times)
        off.append(float(np.max(np.abs(shares - expected) / half)))
        number += len(times)
        x, low, high = times / law.mean, np.maximum(shares - BEYOND * half, LOWEST / 2), shares + BEYOND * half
        ax.fill_between(x, low, high, color=COLOURS[law.colour], alpha=0.15, lw=0)
        ax.plot(x, expected, color=COLOURS[law.colour], lw=1)
        points(ax, x, shares, COLOURS[law.colour], law.name)
    ax.set_yscale("log")
    ax.set_ylim(LOWEST, 1.2)
    finish(
        ax,
        f"Waits are distributed as theory says, at a load of {MOST_LOADED:.0%}\n"
        "points: simulated; lines: theory; shaded: two 95 % half-widths",
        "wait / mean service",
        "share of customers that wait longer",
    )
    return Finding(
        statistic=f"furthest of {number} shares from theory",
        value=float(max(off)),
        tolerance=BEYOND,
        reason=BY_CHANCE,
    )


MEANS = Check(
    name="mean_waits",
    compares="mean waits at a prefill server and at a decode rank of one seat with Pollaczek and Khinchine's formula",
    question="Do requests wait as long as they must at a server whose arrivals are Poisson, at every load?",
    answer=(
        "Of any single server with Poisson arrivals the mean wait is load x mean square service / 2 (1 - load) mean "
        "service (Pollaczek 1930, Khinchine 1932). A prefill server of equal prompts is M/D/1, one of prompts of one "
        "or twelve chunks M/G/1; a decode rank of one seat whose outputs have a geometric length is M/Geo/1, which is "
        "M/M/1 counted in steps."
    ),
    reading="Every bar crosses the line of its colour. Bars grow with load as waits resemble one another for longer.",
    run=means,
)
DISTRIBUTION = Check(
    name="wait_distribution",
    compares="the distribution of waits at the same servers with Crommelin's formula and the inverted transform",
    question="Is not only the mean wait right but the share of requests that wait longer than any time?",
    answer=(
        "Of M/D/1 the distribution is known in closed form (Erlang 1909, Crommelin 1932); of the other two it is "
        "Pollaczek and Khinchine's transform, a geometric sum of remaining services, inverted on a fine lattice."
    ),
    reading="Points lie on the lines down to the slowest percent; the shade is what chance allows a point.",
    run=distribution,
)
