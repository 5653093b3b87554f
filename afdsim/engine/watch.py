"""Who computed when, over a whole run however long it will be: busy seconds of every unit in slices of equal width.

A row of the books (`books.settle`: the seconds of a step) is spread evenly over the time that it covers. Whenever a run
outgrows its slices each takes in the next one, and the width doubles; it is a power of two, so that edges are exact.
One text for both engines.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Values = Any
MOST = 64
"""Slices; at least half of them lie in a run that lasts longer than all of the finest."""
FINEST = 2.0**-20
"""Seconds of a slice at first."""


class Watch(NamedTuple):
    """Busy seconds over time; slices begin at multiples of the width."""

    width: Values  # one number, seconds
    busy: Values  # slice, unit; no slice where nobody looks


def coarsen(watch: Watch) -> None:
    """Let every slice take in the next one."""
    watch.width[0] *= 2.0
    half = len(watch.busy) // 2
    for unit in range(watch.busy.shape[1]):
        for place in range(half):
            watch.busy[place, unit] = watch.busy[2 * place, unit] + watch.busy[2 * place + 1, unit]
        for place in range(half, len(watch.busy)):
            watch.busy[place, unit] = 0.0


def note(watch: Watch, unit: int, span: tuple[float, float], busy: float) -> None:
    """Note the seconds that a unit was busy in some time."""
    begin, end = span
    if len(watch.busy) == 0 or end <= begin or busy <= 0.0:
        return
    while end > len(watch.busy) * watch.width[0]:
        coarsen(watch)
    width = watch.width[0]
    place = int(begin / width)
    while place < len(watch.busy) and place * width < end:
        inside = min(end, (place + 1) * width) - max(begin, place * width)
        watch.busy[place, unit] += busy * (inside / (end - begin))
        place += 1
