"""Shared ports, against their definition written down once more: fluid, event by event."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from afdsim.cluster.network import SHARED, receive, send
from verification.checks import (
    BLUE,
    BY_ROUNDING,
    ORANGE,
    ROUNDING,
    Array,
    Check,
    Finding,
    diagonal,
    finish,
    furthest,
    points,
    several,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PORTS = 250
GROUPS = 6
"""Broadcasts, or groups of arrivals, one after the other at a port."""


class Arrival(NamedTuple):
    """A copy that comes in at a constant rate from `begin` to `end`; `work` are its seconds on the port."""

    begin: float
    end: float
    work: float


def shared_out(work: list[float], start: float) -> list[float]:
    """When the copies of a broadcast have left a port whose queue pairs have equal shares: from end to end."""
    left, ends, now = dict(enumerate(work)), [0.0] * len(work), start
    while left:
        least = min(left.values())
        now += least * len(left)
        for copy in [copy for copy, more in left.items() if more == least]:
            ends[copy] = now
            del left[copy]
        left = {copy: more - least for copy, more in left.items()}
    return ends


def served_in(arrivals: list[Arrival], free: float) -> float:
    """When a port that works whenever there is work has served a group; it is busy with others until `free`."""
    times = sorted({free, *(each.begin for each in arrivals), *(each.end for each in arrivals)})
    backlog = sum(each.work for each in arrivals if each.begin == each.end == times[0])
    for now, later in pairwise(times):
        rate = sum(each.work / (each.end - each.begin) for each in arrivals if each.begin <= now and later <= each.end)
        backlog += (rate - (now >= free)) * (later - now)
        backlog = max(backlog, 0.0)
        backlog += sum(each.work for each in arrivals if each.begin == each.end == later)
    return times[-1] + backlog


def leaving(random: np.random.Generator) -> tuple[list[float], list[float]]:
    """Ends of the copies of broadcasts at one port: afdsim's, and by definition."""
    ours, by_definition, free, own, post = [], [], 0.0, 0.0, 0.0
    for _ in range(GROUPS):
        post += float(random.exponential(2.0))
        work = random.choice([random.exponential(1.0), 0.5], int(random.integers(1, 9))) * random.uniform(0.5, 1.5)
        head, tail = np.zeros(len(work)), np.zeros(len(work))
        own = float(send(SHARED, max(own, post), 0.0, work, (head, tail, np.zeros(len(work), int)), (0, len(work))))
        ends = shared_out(work.tolist(), max(free, post))
        free = max(ends)
        ours += tail.tolist()
        by_definition += ends
    return ours, by_definition


def arriving(random: np.random.Generator) -> tuple[list[float], list[float]]:
    """When groups have come in at one port: afdsim's, and by definition."""
    ours, by_definition, free, own, now = [], [], 0.0, 0.0, 1.0
    for _ in range(GROUPS):
        now += float(random.exponential(3.0))
        count = int(random.integers(1, 9))
        begin = now + random.exponential(1.0, count)
        length, work = random.exponential(1.0, count) * (random.random(count) < 0.9), random.exponential(0.7, count)
        copies, order = (begin, begin + length, np.zeros(count, int)), np.arange(count)
        own = float(receive(SHARED, own, work, copies, order, (0, count)))
        free = served_in([Arrival(*row) for row in zip(begin, begin + length, work, strict=True)], free)
        ours.append(own)
        by_definition.append(free)
    return ours, by_definition


def compared(ax: Axes, scale: float) -> Finding:
    """Draw when copies have left and groups have come in, afdsim's over the definition's."""
    found: list[tuple[Array, Array]] = []
    for case in (leaving, arriving):
        random = np.random.default_rng(3)
        rows = [case(random) for _ in range(several(PORTS, scale, 10))]
        found.append((np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])))
    diagonal(
        ax, np.concatenate([expected for _, expected in found]), part=0.02, label="2 % (the difference is far below)"
    )
    labels = ("copies that leave: equal shares", "groups that arrive: work conserving")
    for (ours, expected), colour, label, ms in zip(found, (BLUE, ORANGE), labels, (7, 3), strict=True):
        points(ax, expected, ours, colour, label, ms=ms, mfc="none", alpha=0.5)
    finish(
        ax,
        "Shared ports do what their definition says, event by event",
        "time by the definition (seconds of a copy)",
        "time by afdsim (same)",
    )
    return Finding(
        statistic=f"largest relative error of {sum(len(ours) for ours, _ in found)} times",
        value=max(furthest(*each) for each in found),
        tolerance=ROUNDING,
        reason=BY_ROUNDING,
    )


PORTS_CHECK = Check(
    name="shared_ports",
    compares="times on shared ports with a fluid simulation of their definition, event by event",
    question="Do the closed recurrences of shared ports do what is said of them?",
    answer=(
        "An RNIC serves its queue pairs at equal rates, so the copies of a broadcast share the line until each "
        "has had its seconds; a receiving port serves what has arrived whenever something has. Both are simulated "
        "here from one event to the next, with shares and backlogs, as one would by hand; afdsim has a formula "
        "for each. Random sizes, posts and overlaps, six broadcasts or groups one after the other at each port."
    ),
    reading="All points lie on the diagonal, to the last digits; the band shows what 2 % would be.",
    run=compared,
)
