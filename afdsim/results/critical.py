"""What bound a step: the chain of operations, transfers and pauses that it lasted for, and the room that others had.

A step lasts from its last boundary to that of the next one. Every operation began when its resource was free and what
it waited for was there; whichever came later is what it was bound by. Back from the last boundary this gives one chain
without a gap, the critical path. A message is bound by the sender that posted last, and what it took from there is its
path and, beyond that, the ports.

The slack of an operation is the time by which it could end later and delay no boundary, if every operation and every
transfer behind it (from the last post to the arrival) took as long as it did. On the critical path it is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from afdsim.engine.cell import Array, Cell
from afdsim.engine.culprits import NOBODY, flight
from afdsim.engine.record import Record
from afdsim.engine.samples import Sample
from afdsim.engine.schedule import COMPUTE, GATHER, NO_TURN, SCATTER, Boundary, Compute, Exchange
from afdsim.results.blame import Names

STEPS = 20
"""Steps that are looked at, at most."""
PORTS, PATH, BOUNDARY, PAUSES = "ports", "path", "boundary", "pauses"
"""Parts of a step that are no operation."""
FIRST, NEXT = range(2)
"""Steps of a sample."""


class Link(NamedTuple):
    """A piece of the critical path."""

    part: str
    """Operation with its pool (``attention``, ``ffn scatter``), or one of the parts above."""
    unit: int
    """Whose operation it was; NOBODY's where it is none."""
    begin: float
    end: float


class Turn(NamedTuple):
    """A turn of a unit in one of the steps of a sample."""

    which: int
    number: int
    unit: int


def told(record: Record, cell: Cell) -> dict[str, Any] | None:
    """Return the mean shares of the critical path of some steps of the window, by part and by unit, and the slacks.

    None where the window has no whole sample.
    """
    steps, (begin, end) = Steps(cell=cell), record.window
    spans = [(each, *steps.window(each)) for each in record.samples]
    inside = [each for each, opens, closes in spans if begin <= opens and closes <= end]
    if not inside:
        return None
    chosen = [inside[place] for place in np.unique(np.linspace(0, len(inside) - 1, STEPS).round().astype(int)).tolist()]
    paths, names = [steps.path(each) for each in chosen], Names(cell=cell)
    return {
        "steps": len(chosen),
        "shares": _shares(paths, [[link.part for link in path] for path in paths]),
        "units": _shares(paths, [[names.unit(link.unit) if link.unit >= 0 else "" for link in path] for path in paths]),
        "slack_ms": {
            part: {"min": float(room.min()) * 1e3, "mean": float(room.mean()) * 1e3}
            for part, room in steps.slacks(chosen).items()
        },
    }


def _shares(paths: Sequence[Sequence[Link]], names: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean over the steps of every name's share, the greatest first; what has no name is left out."""
    found: dict[str, float] = {}
    for path, own in zip(paths, names, strict=True):
        length = sum(link.end - link.begin for link in path) * len(paths)
        for link, name in zip(path, own, strict=True):
            found[name] = found.get(name, 0.0) + (link.end - link.begin) / length
    return {name: share for name, share in sorted(found.items(), key=lambda item: (-item[1], item[0])) if name}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Reads the steps of samples of a cell."""

    cell: Cell

    def window(self, sample: Sample) -> tuple[float, float]:
        """When the step began and ended: its last boundary and that of the next."""
        return self._over(sample, FIRST)[0], self._over(sample, NEXT)[0]

    def part(self, number: int) -> str:
        """Return what a turn is called."""
        turn = self.cell.schedule.turns[number]
        if isinstance(turn, Boundary):
            return BOUNDARY
        assert isinstance(turn, Compute)
        pool = next(pool.name for pool in self.cell.pools if turn.units.start in pool.units)
        return turn.name if pool in {"colocated", turn.name} else f"{pool} {turn.name}"

    @cached_property
    def _boundaries(self) -> list[tuple[int, int]]:
        """Turn and unit of every boundary of a step."""
        turns = enumerate(self.cell.schedule.turns)
        return [(number, unit) for number, turn in turns if isinstance(turn, Boundary) for unit in turn.units]

    def _over(self, sample: Sample, which: int) -> tuple[float, Turn]:
        """When the last boundary of a step ended, and which that was, the first of several."""
        ends = ((self._span(sample, Turn(which, *each))[1], Turn(which, *each)) for each in self._boundaries)
        return max(ends, key=lambda end: end[0])

    def _span(self, sample: Sample, turn: Turn) -> tuple[float, float]:
        """Begin and end of a turn."""
        i = self._at(turn)
        return float(sample.start[turn.which, i]), float(sample.finish[turn.which, i])

    def _at(self, turn: Turn) -> int:
        """Where a turn stands in a trace."""
        own = self.cell.schedule.turns[turn.number]
        assert not isinstance(own, Exchange)
        return self.cell.schedule.at[turn.number] + turn.unit - own.units.start

    @cached_property
    def _before(self) -> dict[int, tuple[int, int]]:
        """The turn before every turn on its resource, and how many steps earlier."""
        step, found = self.cell.schedule, dict[int, tuple[int, int]]()
        for turns in (step.of(pool, resource) for pool in step.pools for resource in (COMPUTE, GATHER, SCATTER)):
            earlier = [(turns[-1], 1), *((number, 0) for number in turns)] if turns else []
            found |= dict(zip(turns, earlier, strict=False))
        return found

    # the critical path -----------------------------------------------------------------------------------------------

    def path(self, sample: Sample) -> list[Link]:
        """Return the pieces of the critical path, the last first; they adjoin and add up to the step."""
        (begin, _), (end, turn) = (self._over(sample, which) for which in (FIRST, NEXT))
        links = list[Link]()
        while end > begin:
            start = min(self._span(sample, turn)[0], end)  # rounded, an early post may lie before the start
            links.append(Link(self.part(turn.number), turn.unit, start, end))
            turn, bound, more = self._bound_by(sample, turn, start)
            links, end = links + more, min(bound, start)
        return [link._replace(begin=max(link.begin, begin)) for link in links if link.end > max(link.begin, begin)]

    def _bound_by(self, sample: Sample, turn: Turn, start: float) -> tuple[Turn, float, list[Link]]:
        """Return what a turn that began at `start` was bound by, until when, and what was in between."""
        own, (number, steps) = self.cell.schedule.turns[turn.number], self._before[turn.number]
        assert not isinstance(own, Exchange)
        before = Turn(turn.which - steps, number, turn.unit)
        free = self._span(sample, before)[1] if before.which >= FIRST else -np.inf
        awaited = self.cell.schedule.turns[own.after] if own.after != NO_TURN else None
        which = turn.which - isinstance(own, Boundary)
        if isinstance(awaited, Exchange) and which >= FIRST:
            found = self._message(sample, which, own.after, turn.unit)
        elif isinstance(awaited, Compute):
            followed = Turn(turn.which, own.after, turn.unit)
            found = followed, self._span(sample, followed)[1], []
        else:
            found = before, -np.inf, []
        ready = found[2][0].end if found[2] else found[1]
        rest = [Link(PAUSES, turn.unit, max(free, ready), start)]
        return (before, free, rest) if free > ready else (*found[:2], [*rest, *found[2]])

    def _message(self, sample: Sample, which: int, number: int, unit: int) -> tuple[Turn, float, list[Link]]:
        """Return the post that the arrival of an exchange at a unit was bound by, and the way from there."""
        step, exchange = self.cell.schedule, self.cell.schedule.turns[number]
        assert isinstance(exchange, Exchange)
        x = step.exchanges[number]
        arrived = float(sample.arrived[which, step.reached[x] + unit - exchange.receivers.start])
        posted, poster = float(sample.posted[which, x]), exchange.senders.start + int(sample.poster[which, x])
        ended, flown = float(sample.ended[which, x]), min(arrived, posted + flight(self.cell.wiring, exchange.pattern))
        way = [Link(PORTS, NOBODY, flown, arrived), Link(PATH, NOBODY, posted, flown)]
        return Turn(which, exchange.after, poster), ended, [*way, Link(PAUSES, poster, ended, posted)]

    # slack -----------------------------------------------------------------------------------------------------------

    def slacks(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """Return the slack of every operation of the steps, seconds, by part."""
        back = _Backward(self.cell, samples, np.array([self.window(each)[1] for each in samples]))
        found: dict[str, list[Array]] = {}
        for number, room in back.walk():
            found.setdefault(self.part(number), []).append(room.reshape(-1))
        return {part: np.concatenate(rooms) for part, rooms in reversed(found.items())}


class _Backward:
    """Latest ends that delay no boundary, turn by turn from the back; all samples at once, a row each."""

    def __init__(self, cell: Cell, samples: Iterable[Sample], ends: Array) -> None:
        _, *columns = zip(*samples, strict=True)
        self.start, self.finish, self.early, _, self.ended, _, self.arrived, _ = map(np.array, columns)
        self.step, units = cell.schedule, cell.schedule.units
        self.free = np.zeros((3, 1, units)) + ends[:, None]
        """By when every resource must be free (resource, sample, unit)."""
        self.due: dict[int, Array] = {}
        """By when a turn must have ended for what waits for it, an exchange must have been posted (sample, unit)."""

    def walk(self) -> Iterator[tuple[int, Array]]:
        """Yield every operation of the first steps with its slack (sample, unit), the last first."""
        opened = set[range]()
        for number in reversed(range(self.step.opening)):
            turn = self.step.turns[number]
            assert not isinstance(turn, Exchange)
            if isinstance(turn, Boundary) or turn.units in opened:
                opened.add(turn.units)
                self._turn(NEXT, number, turn)
        for number in reversed(range(len(self.step.turns))):
            turn = self.step.turns[number]
            if not isinstance(turn, Exchange):
                yield number, self._turn(FIRST, number, turn)

    def _turn(self, which: int, number: int, turn: Boundary | Compute) -> Array:
        """Let a turn end as late as it may; returns its slack."""
        span, units = slice(*self.step.at[number : number + 2]), slice(turn.units.start, turn.units.stop)
        resource, pause = (turn.resource, turn.pause) if isinstance(turn, Compute) else (COMPUTE, 0.0)
        start, finish, latest = self.start[:, which, span], self.finish[:, which, span], self.free[resource, :, units]
        if which == FIRST:
            early = self.early[:, which, span] if self.early.size else 0.0
            posted = self.due.get(self.step.posts.get(number, NO_TURN), np.inf)
            # a sender that ended behind the last poster's operation posted less late
            latest = np.minimum(latest, np.maximum(posted, finish - early) + early)
            latest = np.minimum(latest, self.due.get(number, np.inf))
        begin = latest - (finish - start) - pause
        if turn.after != NO_TURN and (which == FIRST) != isinstance(turn, Boundary):
            self._wait(turn, begin)
        self.free[resource, :, units] = begin - (self.step.host if which == NEXT and number == 0 else 0.0)
        return np.asarray(latest - finish)

    def _wait(self, turn: Boundary | Compute, begin: Array) -> None:
        """Have what a turn waits for there by the time at which it must begin."""
        awaited = self.step.turns[turn.after]
        if isinstance(awaited, Exchange):
            x = self.step.exchanges[turn.after]
            place = self.step.reached[x] + turn.units.start - awaited.receivers.start
            room = (begin - self.arrived[:, FIRST, place : place + len(turn.units)]).min(axis=1)
            begin = (self.ended[:, FIRST, x] + room)[:, None]
        self.due[turn.after] = np.minimum(self.due.get(turn.after, np.inf), begin)
