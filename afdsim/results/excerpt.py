"""Three layers of one step: who computed, why others stood still, and what was on its way.

Every run keeps a few whole steps (`engine.samples`). Times are the engine's own; gaps are cut as the books cut them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from afdsim.engine.books import CAUSES, UNCUT
from afdsim.engine.cell import Array, Cell
from afdsim.engine.record import Record
from afdsim.engine.samples import Sample
from afdsim.engine.schedule import COMPUTE, GATHER, PAIRS, SCATTER, Boundary, Compute, Exchange
from afdsim.results.blame import Names
from afdsim.results.metrics import Window

LAYERS = 3
UNITS = 2
"""Of every pool, at most."""
PARTS = {COMPUTE: "", GATHER: " gather", SCATTER: " scatter"}
"""What the tracks of a unit's resources are called behind its name."""
NEVER = float("-inf")


class Span(NamedTuple):
    """What a track does from one moment to another, or what it waits for; columns of the frame `pipeline`."""

    track: str
    """A unit, its NVLink (``ffn[0] gather``, ``ffn[0] scatter``), or messages on their way to it (``→ ffn[0]``)."""
    start_s: float
    end_s: float
    step: int
    layer: int
    """-1 at a boundary; of a gap that of the operation behind it, which timelines leave at -1."""
    micro_batch: int
    """-1 in a gap."""
    cause: str
    """"busy", or why a unit stood still (`books.CAUSES`)."""
    what: str = ""
    """Operation, "boundary", "messages" or "gap"; of timelines only where the track does not say it."""


def pipeline(record: Record, cell: Cell) -> dict[str, Array]:
    """Return who did what in three layers in the middle of the model, as columns of `Span`; nothing if not watched.

    Of a step near the middle of the window and at most two units (instances, or ranks at GPU granularity) of every
    pool; whatever else these did meanwhile is there too, cut where the three layers begin and end. A model of three
    layers or fewer is shown from the last boundary of a step to that of the next. Messages are on
    their way from the end of the last sender's operation (all-to-all: of the unit's own) until the unit has them all,
    one exchange after the other. Of a run with failures only FFN units that are away are `down`.
    """
    sample = None if record.watch is None else _middle(record)
    if sample is None:
        return {}
    found = list(_Excerpt(cell=cell, sample=sample, empty=_empties(record, cell, sample.step), record=record).spans())
    return {name: np.array([getattr(span, name) for span in found]) for name in Span._fields}


def _middle(record: Record) -> Sample | None:
    """The sample of the window, or of the run, that is nearest to the middle of it."""
    begin, end = record.window
    spans = [(float(each.start[0].min()), float(each.finish[0].max())) for each in record.samples]
    inside = [place for place, span in enumerate(spans) if begin <= span[0] and span[1] <= end]
    places = inside or range(len(spans))
    nearest = min(places, key=lambda place: abs(sum(spans[place]) - begin - end), default=None)
    return None if nearest is None else record.samples[nearest]


def _empties(record: Record, cell: Cell, step: int) -> tuple[Array, Array]:
    """Units that held no request in a step, and in the one behind it (where the run ended in that: as before)."""
    first, second = (_empty(record, cell, each) for each in (step, step + 1))
    return first, first if second.all() else second


def _empty(record: Record, cell: Cell, step: int) -> Array:
    """Mark the units with requests that held none in a step (u,): they gave no token and computed no prompt."""
    rows, empty = record.boundaries, np.ones(cell.seated, dtype=bool)
    empty[rows.unit[(rows.step == step + 1) & (rows.batch > 0)]] = False
    if record.chunks is not None:
        seats = record.chunks.seat[record.chunks.step == step]
        empty[seats // (cell.micro_batches * cell.ranks)] = False
    return empty


@dataclass(frozen=True, kw_only=True)
class _Excerpt:
    """Reads the spans of a sample."""

    cell: Cell
    sample: Sample
    empty: tuple[Array, Array]
    record: Record

    def spans(self) -> Iterator[Span]:
        """Yield all spans, track after track, each in order of time."""
        first, *others = ([*self._units(pool.units)] for pool in self.cell.pools)
        for unit in first:
            yield from self._works(unit, COMPUTE)
        for unit in (unit for units in others for unit in units):
            yield from self._messages(unit)
            for resource in (GATHER, COMPUTE, SCATTER):
                yield from self._works(unit, resource)
        for unit in first:
            yield from self._messages(unit)

    def _units(self, units: range) -> list[int]:
        """The units of a pool that are shown: of several groups one of each first."""
        parts = [part for part in self.cell.schedule.pools if part.start in units]
        return sorted(sorted(units, key=lambda unit: min(unit - part.start for part in parts if unit in part))[:UNITS])

    # the window ------------------------------------------------------------------------------------------------------

    @cached_property
    def _layers(self) -> range:
        count = 1 + max(turn.layer for turn in self.cell.schedule.turns if isinstance(turn, Compute))
        first = max(0, (count - LAYERS + 1) // 2)
        return range(first, min(first + LAYERS, count))

    @cached_property
    def _window(self) -> Window:
        """From the first operation of the layers until the last has ended and its messages are there.

        Of a model that has no others: from the last boundary to the next one, as nobody knows the step before.
        """
        if self._layers.start == 0:
            begin, end = (float(self.sample.start[which, self._boundaries].max()) for which in range(2))
            return begin, end
        begin, end = np.inf, NEVER
        for number, turn in enumerate(self.cell.schedule.turns):
            if isinstance(turn, Boundary) or turn.layer not in self._layers:
                continue
            if isinstance(turn, Exchange):
                end = max(end, float(self.sample.arrived[0, self._reach(number)].max()))
            else:
                at = self._at(number)
                begin = min(begin, float(self.sample.start[0, at].min()))
                end = max(end, float(self.sample.finish[0, at].max()))
        return begin, end

    @cached_property
    def _boundaries(self) -> list[int]:
        """Where boundaries stand in a trace."""
        turns = enumerate(self.cell.schedule.turns)
        at = [self._at(number) for number, turn in turns if isinstance(turn, Boundary)]
        return [place for each in at for place in range(each.start, each.stop)]

    def _at(self, number: int) -> slice:
        """Where the units of an operation stand in a trace."""
        return slice(self.cell.schedule.at[number], self.cell.schedule.at[number + 1])

    def _reach(self, number: int) -> slice:
        """Where the receivers of an exchange stand in a trace."""
        x = self.cell.schedule.exchanges[number]
        return slice(self.cell.schedule.reached[x], self.cell.schedule.reached[x + 1])

    def _cut(self, span: Span) -> Iterator[Span]:
        """The part of a span inside the window, if there is one."""
        begin, end = max(span.start_s, self._window[0]), min(span.end_s, self._window[1])
        if begin < end:
            yield span._replace(start_s=begin, end_s=end)

    # tracks ----------------------------------------------------------------------------------------------------------

    def _works(self, unit: int, resource: int) -> Iterator[Span]:
        """Operations of a resource of a unit, and, of its compute, the gaps between them."""
        schedule = self.cell.schedule
        pool = next(part for part in schedule.pools if unit in part)
        turns, ended = schedule.of(pool, resource), self._window[0]
        track = self._name(unit) + PARTS[resource]
        for which in range(2):
            at = np.array([schedule.at[number] + unit - pool.start for number in turns], dtype=int)
            start, finish = self.sample.start[which, at], self.sample.finish[which, at]
            for place in np.lexsort((finish, start)).tolist():
                begin, end = float(start[place]), float(finish[place])
                if ended >= self._window[1]:
                    return
                if end > self._window[0]:
                    if resource == COMPUTE:
                        yield from self._gap((which, turns[place]), unit, track, (ended, begin))
                    yield from self._work((which, turns[place]), unit, track, (begin, end))
                ended = max(ended, end)

    def _work(self, at: tuple[int, int], unit: int, track: str, span: Window) -> Iterator[Span]:
        turn, step = self.cell.schedule.turns[at[1]], self.sample.step + at[0]
        if isinstance(turn, Boundary):
            batch = int(self.cell.tables.batch_of[unit * self.cell.micro_batches + turn.micro_batch])
            yield from self._cut(Span(track, *span, step, -1, batch, "busy", "boundary"))
        elif isinstance(turn, Compute):
            yield from self._cut(Span(track, *span, step, turn.layer, turn.batch, "busy", turn.name))

    def _gap(self, at: tuple[int, int], unit: int, track: str, span: Window) -> Iterator[Span]:
        """A gap before a turn, cut where the first and the last sender that it waited for had finished."""
        (which, number), (begin, until) = at, span
        turn = self.cell.schedule.turns[number]
        _, x, earlier, before, between = self.cell.schedule.booked(number)
        places = [("wait_peer", begin, until)]
        if unit < self.cell.seated and self.empty[which][unit]:
            places = [("no_work", begin, until)]
        elif unit in self._away:
            places = [("down", begin, until)]
        elif x != UNCUT:
            # gaps that look back at the step before the sample lie before the window
            first, last = self._senders(max(which - earlier, 0), x)
            first, last = (min(until, max(begin, cut)) for cut in (last if before == between else first, last))
            places = [(CAUSES[before], begin, first), (CAUSES[between], first, last), ("network", last, until)]
        layer = turn.layer if isinstance(turn, Compute) else -1
        for cause, left, right in places:
            yield from self._cut(Span(track, left, right, self.sample.step + which, layer, -1, cause, "gap"))

    def _messages(self, unit: int) -> Iterator[Span]:
        """Messages on their way to a unit, one exchange after the other."""
        track, had = f"→ {self._name(unit)}", NEVER
        for which in range(2):
            for number, x in self.cell.schedule.exchanges.items():
                turn = self.cell.schedule.turns[number]
                if not isinstance(turn, Exchange) or unit not in turn.receivers:
                    continue
                there = float(self.sample.arrived[which, self._reach(number)][unit - turn.receivers.start])
                if had < self._window[1] and there > self._window[0]:
                    sent = self._senders(which, x)[1] if turn.pattern == PAIRS else self._sent(which, x)[unit]
                    place = (self.sample.step + which, turn.layer, turn.batch, "busy", "messages")
                    yield from self._cut(Span(track, max(had, sent), there, *place))
                had = max(had, there)

    # what they need --------------------------------------------------------------------------------------------------

    def _senders(self, which: int, x: int) -> Window:
        """When the first and the last sender of an exchange had finished."""
        ends = self._sent(which, x).values()
        return min(ends), max(ends)

    def _sent(self, which: int, x: int) -> dict[int, float]:
        """When every sender of an exchange had finished."""
        turn = self.cell.schedule.turns[list(self.cell.schedule.exchanges)[x]]
        assert isinstance(turn, Exchange)
        at = self._at(turn.sent)
        early = self.sample.early[which, at] if self.sample.early.size else 0.0
        return dict(zip(turn.senders, (self.sample.finish[which, at] - early).tolist(), strict=True))

    def _name(self, unit: int) -> str:
        """``attention[0]``, ``colocated[1]``, or ``attention[0].gpu[3]``, as the frames of GPUs have it."""
        pool = next(pool.name for pool in self.cell.pools if unit in pool.units)
        return Names(cell=self.cell).unit(unit).replace("instance", pool)

    @cached_property
    def _away(self) -> set[int]:
        """Units without requests that did nothing at all in a run with failures: they were not there."""
        if not self.record.outages:
            return set()
        worked = set[int]()
        for number, turn in enumerate(self.cell.schedule.turns):
            if isinstance(turn, Compute):
                at = self._at(number)
                lasted = self.sample.finish[0, at] > self.sample.start[0, at]
                worked.update(unit for unit, own in zip(turn.units, lasted.tolist(), strict=True) if own)
        return set(range(self.cell.seated, self.cell.schedule.units)) - worked
