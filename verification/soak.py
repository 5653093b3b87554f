"""Memory over ten simulated hours, and over the same work done again and again: what grows is what is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verification.checks import BAND, BLUE, GREEN, ORANGE, PINK, SKY, Array, Check, Finding, finish
from verification.memory import POINTS, Course, alone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOURS, HOUR, MB = 10.0, 3600.0, 1e6
ROW = 5 * 8 + 8
"""Bytes of a boundary that is recorded: five whole numbers and a time (`engine.record.Boundaries`)."""
SETTLED = 0.02
"""Share of a run behind which it is measured: until then tables, samples and inboxes are touched for the first time."""
SPARE = 16.0
"""MB that may be held beyond what is recorded."""
BY_PAGES = "the C library and the kernel give memory out in pieces; a megabyte an hour more would be seen"
FLAT = 4.0
"""MB that the later half of a work may hold more than the earlier."""
FEWEST = 8
"""Rounds below which a work cannot have levelled off, and is left out."""
BY_POOLS = "pools of the interpreter fill up; one figure left open a report would be tens of megabytes"
WORKS = (
    ("simulate", 800, 1, "runs by the kernel", BLUE),
    ("closed loop", 3000, 1, "requests of a run by processes", ORANGE),
    ("sweep", 50, POINTS, "points of sweeps", GREEN),
    ("report", 24, 1, "reports, each with all figures", PINK),
    ("tune", 12, 1, "searches by afdsim.tune", SKY),
)
"""A work, its rounds, what a round counts for, that in words, the colour of its line."""


def recorded(course: Course) -> Array:
    """Bytes that a run holds if nothing grows but its rows, from its first reading on."""
    return course.held[0] + ROW * course.rows * (np.array(course.share) - course.share[0])


def settled(course: Course) -> Course:
    """The course without its beginning."""
    after = next(place for place, share in enumerate(course.share) if share >= SETTLED)
    return course._replace(share=course.share[after:], held=course.held[after:])


def soaked(ax: Axes, scale: float) -> Finding:
    """Draw the memory of a long run over its simulated hours."""
    hours = HOURS * scale
    course = settled(alone("open loop", hours * HOUR))
    line, held, time = recorded(course) / MB, np.array(course.held) / MB, hours * np.array(course.share)
    ax.fill_between(time, line - SPARE, line + SPARE, color=BAND, lw=0, label=f"{SPARE:g} MB to either side", zorder=1)
    ax.plot(time, line, color="black", lw=1, label=f"expected: {ROW} bytes a boundary, {course.rows:,} of them")
    ax.plot(time, held, color=BLUE, lw=1.8, label="resident")
    each = held[0] * MB / course.requests
    start = f"{course.requests:,} requests, there from the start: {each:.0f} bytes each"
    ax.fill_between(time, 0, held[0], color=SKY, alpha=0.25, lw=0, label=start)
    ax.set_xlim(0, hours)
    ax.set_ylim(0, 1.12 * max(held.max(), line.max() + SPARE))
    title = f"{hours:g} simulated hours: nothing grows but what is recorded"
    finish(ax, title, "simulated time (h)", "memory that the run holds (MB)")
    return Finding(
        statistic=f"MB furthest from the line, over {hours:g} simulated hours and {course.requests:,} requests",
        value=float(np.abs(held - line).max()),
        tolerance=SPARE,
        reason=BY_PAGES,
    )


def growth(course: Course) -> float:
    """MB that the later half of a work held more than the earlier, at most."""
    held, half = course.held, max(len(course.held) // 2, 1)
    return (max(held[half:], default=held[-1]) - max(held[:half])) / MB


def repeated(ax: Axes, scale: float) -> Finding:
    """Draw the memory of a process that does the same thing again and again."""
    found = []
    for name, full, counts, words, colour in WORKS:
        if (rounds := int(full * scale)) < FEWEST:
            continue
        course = alone(name, rounds)
        ax.plot(
            100 * np.array(course.share),
            np.array(course.held) / MB,
            color=colour,
            lw=1.8,
            marker="o" if len(course.held) < 60 else "",
            ms=3,
            label=f"{rounds * counts:,} {words}",
        )
        found.append((growth(course), name))
    ax.axvline(50, color="black", lw=0.8, ls=":")
    ax.set_xlim(0, 100)
    ax.set_ylim(bottom=0)
    finish(ax, "The same work again and again: memory levels off", "part of the work (%)", "memory that it added (MB)")
    most, which = max(found)
    return Finding(
        statistic=f"MB that the later half of {len(found)} works held more than the earlier, most for {which}",
        value=most,
        tolerance=FLAT,
        reason=BY_POOLS,
    )


SOAK = Check(
    name="soak",
    compares="memory held over ten simulated hours with the bytes of what is recorded",
    question="Does a run that goes on for hours need more memory than its record?",
    answer=(
        f"A boundary of the record is five whole numbers and a time, {ROW} bytes, and nothing is stored per token. "
        "Requests of an open loop have their columns from the start. The rest (queues, ports, books, samples, random "
        "factors) has a size that does not depend on how long a run is. Memory is what the operating system says that "
        "a process of its own holds while the kernel runs step3_poisson, with one micro-batch, at 40 requests a second."
    ),
    reading="The blue line lies on the black one, in the grey band; without rows it would be flat.",
    run=soaked,
)
REPEATED = Check(
    name="repeats",
    compares="memory held in the later half of the same work, done again and again, with that in the earlier",
    question="Does a notebook or a sweep that simulates, draws or searches many times fill the memory?",
    answer=(
        "What has been returned and dropped leaves nothing behind: no figures left open, no cache without a bound, no "
        "cells that something still refers to. So a process that does a thing over and over levels off once its pools "
        "are full. Each work has a process of its own."
    ),
    reading="Every line is level behind the dotted one, where the later half begins.",
    run=repeated,
)
