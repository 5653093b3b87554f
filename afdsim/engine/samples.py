"""A few steps of a run with everything that happened in them, spread over it evenly however long it will be.

A sample is a step and the one behind it, whose boundaries end it. Kept are the steps whose number is a multiple of a
stride. Whenever there is no place left, the stride doubles and every other sample goes: so the choice depends on the
numbers of the steps alone. One text for both engines.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from afdsim.engine.books import Trace

Values = Any
MISSING = -1
"""Number of a step that is not there."""
MOST, FEWEST = 32, 4
"""Samples for which there is place: even numbers, so that every other one can go."""
BYTES = 1 << 25
"""Of all samples of a large cell, as far as `FEWEST` allows."""


class Samples(NamedTuple):
    """Samples of a run: a place has a step and the next, each a row as in `books.Trace`."""

    stride: Values  # one number
    step: Values  # place, which: its number
    start: Values  # place, which, turn and unit
    finish: Values
    early: Values  # empty where nothing posts early
    posted: Values  # place, which, exchange
    ended: Values
    poster: Values
    arrived: Values  # place, which, exchange and receiver
    bound: Values


class Sample(NamedTuple):
    """A step and the one behind it; every column is a pair of rows as in `books.Trace`."""

    step: int
    start: Values
    finish: Values
    early: Values
    posted: Values
    ended: Values
    poster: Values
    arrived: Values
    bound: Values


def taken(samples: Samples) -> tuple[Sample, ...]:
    """The samples that are whole, in order."""
    found = [
        place for place, (step, after) in enumerate(samples.step.tolist()) if step != MISSING and after == step + 1
    ]
    return tuple(
        Sample(int(samples.step[place, 0]), *(column[place].copy() for column in samples[2:])) for place in found
    )


def keep(samples: Samples, trace: Trace, step: int) -> None:
    """Keep a completed step, if it is one of a sample."""
    for which in range(2):
        if step >= which and (step - which) % samples.stride[0] == 0:
            while (step - which) // samples.stride[0] >= len(samples.step):
                thin(samples)
            if (step - which) % samples.stride[0] == 0:
                note(samples, trace, (step - which) // samples.stride[0], which)
                samples.step[(step - which) // samples.stride[0], which] = step


def note(samples: Samples, trace: Trace, place: int, which: int) -> None:
    """Copy a step to its place."""
    for i in range(len(trace.start)):
        samples.start[place, which, i], samples.finish[place, which, i] = trace.start[i], trace.finish[i]
    for i in range(len(trace.early)):
        samples.early[place, which, i] = trace.early[i]
    for x in range(len(trace.posted)):
        samples.posted[place, which, x], samples.ended[place, which, x] = trace.posted[x], trace.ended[x]
        samples.poster[place, which, x] = trace.poster[x]
    for i in range(len(trace.arrived)):
        samples.arrived[place, which, i], samples.bound[place, which, i] = trace.arrived[i], trace.bound[i]


def thin(samples: Samples) -> None:
    """Let every other sample go; the others move up."""
    samples.stride[0] *= 2
    for place in range(len(samples.step)):
        for which in range(2):
            samples.step[place, which] = samples.step[2 * place, which] if 2 * place < len(samples.step) else MISSING
            if 2 * place < len(samples.step) and place > 0:
                move(samples, place, which)


def move(samples: Samples, place: int, which: int) -> None:
    """Take what stands at twice a place to it."""
    for column in (samples.start, samples.finish, samples.early, samples.arrived, samples.posted, samples.ended):
        for i in range(column.shape[2]):
            column[place, which, i] = column[2 * place, which, i]
    for whole in (samples.poster, samples.bound):
        for i in range(whole.shape[2]):
            whole[place, which, i] = whole[2 * place, which, i]
