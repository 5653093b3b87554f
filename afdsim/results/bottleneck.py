"""What bounds a step: every serial resource if it never waited, and the round trip of one micro-batch.

A step is at least as long as everything that any one resource has to do in it (a unit's compute, its gather and
scatter, a port in one direction), and as the way of one micro-batch through all layers, everything that it waits for
one after the other, in a cell that is otherwise empty. The first grows with the micro-batches, the second is what
bounds the step when they are too few (afd_mechanics I1 and I8 in the project's notes). Both are read off the schedule
at the mean batch and context of a run, jitter at its mean of 1 and stragglers at their factor. For equal steps they
are lower bounds; a run with jitter, skew or queues takes longer than the longest of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from afdsim.cluster.network import DEDICATED, PORTS, Wiring, cross
from afdsim.cluster.topology import UPLINKS
from afdsim.engine.cell import Array, Cell, Extra, Pool
from afdsim.engine.schedule import (
    COMPUTE,
    GATHER,
    NO_TURN,
    PAIRS,
    RANK,
    ROWS,
    SCATTER,
    TOKENS,
    Boundary,
    Compute,
    Exchange,
    Schedule,
    Source,
    Turn,
)
from afdsim.engine.tables import chunk_seconds, core_seconds

ROUND_TRIP = "round trip"
APART = 0.02
"""Instances of a pool whose seconds differ by more than this are named one by one."""
_EQUAL = 1e-9
"""Where a resource and the round trip are the same seconds, the resource is named."""
_RESOURCES = {COMPUTE: "", GATHER: "gather", SCATTER: "scatter"}


class Means(NamedTuple):
    """What a run had to do in a step, on average."""

    batch: float
    """Sequences of a rank in a micro-batch that has any."""
    context: float
    """Tokens of a sequence."""
    filled: Array
    """Share of the micro-batches of every unit that had any (u,)."""
    extra: Extra | None = None
    """Prompts beside those; None where steps compute none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Lower bounds of a step, seconds."""

    resources: Mapping[str, float]
    """Of a step's work on every serial resource; the longest of a pool where its instances are alike."""
    round_trip: Mapping[str, float]
    """Parts of the way of one micro-batch through all layers, the longest first; they add up to it."""


def bounds(cell: Cell, means: Means) -> Bounds:
    """Return what a step of `cell` takes at least with such `means`."""
    return Bounds(resources=_resources(cell, means), round_trip=_round_trip(cell, means))


def told(found: Bounds, step: float | None) -> dict[str, Any]:
    """Return the longest bound with its name, and all of them, in ms; `step` is the measured mean, seconds."""
    resources = {name: seconds * 1e3 for name, seconds in found.resources.items()}
    parts = {name: seconds * 1e3 for name, seconds in found.round_trip.items()}
    every = {ROUND_TRIP: math.fsum(parts.values())} | resources
    ordered = dict(sorted(every.items(), key=lambda item: -item[1]))
    return longest(ordered, parts) | {"step_ms": step and step * 1e3, "bounds": ordered, "round_trip": parts}


def longest(every: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, Any]:
    """Return the name and the ms of the longest bound, and of a round trip the largest of its parts.

    A resource comes before an equal round trip.
    """
    most = max(every.values())
    alike = [name for name, value in every.items() if value >= most * (1 - _EQUAL)]
    name = next((name for name in alike if name != ROUND_TRIP), ROUND_TRIP)
    part = {"part": max(parts, key=lambda each: parts[each])} if name == ROUND_TRIP else {}
    return {"name": name, "ms": most, **part}


# seconds at the means -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Seconds:
    """Looks sources up at the mean batch and context."""

    cell: Cell
    means: Means
    alone: bool = False
    """Of a micro-batch that is there, rather than on average over those that are and those that are not."""

    def of(self, source: Source, units: range, batch: int) -> Array:
        """Seconds of a source on some units, for a micro-batch of the cell."""
        if source.table == TOKENS:
            place = self.cell.tables.place[source.row, units.start : units.stop].astype(np.int64)
            return np.asarray(self._prices[batch][place])
        known = {RANK: self._rank, ROWS: self._rows}.get(source.table)
        return np.zeros(len(units)) if known is None else known[source.row] * self._filled[units.start : units.stop]

    def message(self, source: Source) -> float:
        """Seconds of the rows of a micro-batch that is there."""
        return float(self._rows[source.row])

    def head(self, units: range) -> Array:
        """Seconds of a boundary."""
        heads = self._batch + (self.means.extra.answers if self.means.extra else 0.0)
        return np.asarray(_at(self.cell.tables.head, heads) * self._filled[units.start : units.stop])

    def work(self, turn: Compute) -> Array:
        """Seconds of a compute turn, its pause left out."""
        own = self.of(turn.work, turn.units, turn.batch) * turn.slow + self.of(turn.more, turn.units, turn.batch)
        return np.asarray(own * self._factor(turn))

    def early(self, turn: Compute) -> Array:
        """Seconds before its end at which a compute turn posts."""
        own = self.of(turn.early, turn.units, turn.batch) * turn.slow * turn.share
        return np.asarray(own * self._factor(turn))

    def _factor(self, turn: Compute) -> Array:
        """Constant factor of every unit of a turn; one that nothing is drawn for has none."""
        if turn.draw == NO_TURN:
            return np.ones(len(turn.units))
        return self._stragglers[turn.units.start : turn.units.stop]

    @cached_property
    def _filled(self) -> Array:
        return np.ones(self.cell.seated) if self.alone else self.means.filled

    @property
    def _batch(self) -> float:
        """Sequences of the largest rank of a unit that has any."""
        return max(self.means.batch, 1.0)

    @property
    def _each(self) -> float:
        """Rows of the largest rank, where prompts come beside; else its sequences."""
        return self._of_rank(self._batch)

    def _of_rank(self, batch: float) -> float:
        extra = self.means.extra
        return batch if extra is None else batch * self.cell.queries + extra.tokens

    @cached_property
    def _stragglers(self) -> Array:
        """Constant factor of every unit (u,)."""
        return np.concatenate([each.stragglers for each in self.cell.variation.compute])

    @cached_property
    def _rows(self) -> Array:
        return _at(self.cell.tables.rows, self._each)

    @cached_property
    def _rank(self) -> Array:
        """Seconds of every kind of attention stage of a rank (k,)."""
        cell, tables = self.cell, self.cell.tables
        cores = np.zeros(len(tables.times_of_core))
        for c, window in enumerate(cell.windows[w] for w in tables.core_window):
            seen = self.means.context if window is None else min(self.means.context, window)
            cores[c] = core_seconds(tables, c, self._batch, self._batch * seen * cell.scale)  # type: ignore[arg-type]
        if (extra := self.means.extra) is not None:
            for p, q in enumerate(tables.chunk_window.tolist()):
                cores[len(tables.core_window) + p] = chunk_seconds(tables, p, extra.sums[q])
        return np.asarray(_at(tables.fixed, self._each) + cores[tables.core].sum(axis=1))

    @cached_property
    def _prices(self) -> list[Array]:
        """Seconds of everything that its tokens cost, by micro-batch of the cell."""
        units = [_first(self.cell.schedule, batch)[1].units for batch in range(self.cell.schedule.batches)]
        found = {each: self._priced(each) for each in units}
        return [found[each] for each in units]

    def _priced(self, units: range) -> Array:
        """Seconds by entry of a micro-batch of some units."""
        pricing, filled = self.cell.pricing, float(self.means.filled[units.start : units.stop].sum())
        tokens = min(filled * self.cell.ranks * self._of_rank(self.means.batch), pricing.most)
        tokens = max(tokens, 1.0) if self.alone else tokens
        low = math.floor(tokens)
        return _at(pricing.of(np.array([low, min(low + 1, pricing.most)])).T, tokens - low)


def _at(table: Array, count: float) -> Array:
    """Entries of a table by count, its last axis, between two of them."""
    last = table.shape[-1] - 1
    low = min(math.floor(count), last)
    part = min(count - low, 1.0)
    return np.asarray(table[..., low] * (1.0 - part) + table[..., min(low + 1, last)] * part)


def _first(step: Schedule, batch: int) -> tuple[int, Compute]:
    """The first operation of a micro-batch of the cell, and its place."""
    return next((n, turn) for n, turn in enumerate(step.turns) if isinstance(turn, Compute) and turn.batch == batch)


# resources ----------------------------------------------------------------------------------------------------------


def _resources(cell: Cell, means: Means) -> dict[str, float]:
    """Seconds of a step's work on every resource, the longest first."""
    seconds, step = _Seconds(cell=cell, means=means), cell.schedule
    computes = np.zeros((len(_RESOURCES), step.units))
    computes[COMPUTE, : cell.seated] += step.host
    ports = [np.zeros(count) for count in (*cell.wiring.ports, cell.wiring.servers)]
    for turn in step.turns:
        units = slice(turn.units.start, turn.units.stop) if not isinstance(turn, Exchange) else slice(0)
        match turn:
            case Boundary():
                computes[COMPUTE, units] += seconds.head(turn.units)
            case Compute():
                computes[turn.resource, units] += seconds.work(turn) + turn.pause
            case Exchange(pattern=pattern) if pattern == PAIRS:
                _occupy(cell, turn, seconds, ports)
            case Exchange():
                ports[0][: cell.seated] += seconds.of(turn.out, turn.senders, turn.batch)
                ports[1][: cell.seated] += seconds.of(turn.into, turn.receivers, turn.batch)
    return dict(sorted(_named(cell, computes, ports), key=lambda item: -item[1]))


def _occupy(cell: Cell, turn: Exchange, seconds: _Seconds, ports: Sequence[Array]) -> None:
    """Add what an exchange of pairs has every port, uplink and downlink do."""
    wiring, ends = cell.wiring, cell.wiring.routes[turn.route].astype(np.int64)
    out, into = _on_ports(wiring, seconds.message(turn.out), seconds.message(turn.into))
    filled = seconds.means.filled[wiring.lane.astype(np.int64) // cell.micro_batches]
    # a wire of its own has its receiver wait for the tail only, which the sender's side counts
    into = 0.0 * into if wiring.discipline == DEDICATED else into
    leaving, arriving, crossings = (
        legs[low:high].astype(np.int64)
        for legs, low, high in zip(
            (wiring.leaving, wiring.arriving, wiring.crossings), ends[::2], ends[1::2], strict=True
        )
    )
    _add(ports[0], leaving[:, 1:], filled * out)
    _add(ports[1], arriving[:, 1:], (filled * into)[wiring.order])
    for hop, source in enumerate((turn.out, turn.into) if len(crossings) else ()):
        each = filled[wiring.across] * seconds.message(_beside(wiring, source))
        _add(ports[2], crossings[:, [hop, 2, 3]], each)


def _on_ports(wiring: Wiring, out: float, into: float) -> tuple[Array, Array]:
    """Seconds of every copy on the NICs of its sender and its receiver."""
    slow = wiring.slow if len(wiring.slow) else np.ones((len(wiring.lane), 2))
    return out * slow[:, 0], into * slow[:, 1]


def _beside(wiring: Wiring, source: Source) -> Source:
    """Seconds on the uplink or downlink beside a port."""
    return source._replace(row=source.row + int(wiring.further))


def _add(busy: Array, legs: Array, each: Array) -> None:
    """Add the seconds of the places low .. high - 1 of every leg, (server, low, high)."""
    until = np.concatenate([[0.0], np.cumsum(each)])
    np.add.at(busy, legs[:, 0], until[legs[:, 2]] - until[legs[:, 1]])


def _named(cell: Cell, computes: Array, ports: Sequence[Array]) -> Iterator[tuple[str, float]]:
    """Yield the resources of every pool with their seconds, instance by instance where these differ."""
    sides = (cell.wiring.leaving, cell.wiring.arriving)
    for pool in cell.pools:
        for resource, what in _RESOURCES.items():
            slow = resource == COMPUTE and _slowed(cell, pool)
            yield from _labelled(pool, what, _by_instance(pool, computes[resource]), slow)
        for busy, legs, what in zip(ports[:2], sides, ("port out", "port in"), strict=True):
            every = np.arange(len(busy))
            owner, port = legs[:, :2].astype(np.int64).T if len(legs) else (every, every)
            most = np.zeros(computes.shape[1])
            np.maximum.at(most, owner, busy[port])
            yield from _labelled(pool, what, _by_instance(pool, most), False)
    for place, name in enumerate(UPLINKS if len(ports[2]) else ()):
        yield name, float(ports[2][place :: len(UPLINKS)].max())


def _by_instance(pool: Pool, of_units: Array) -> Array:
    """The longest of every instance's units."""
    own = of_units[pool.units.start : pool.units.stop]
    return np.asarray(own.reshape(pool.gpus.instances, -1).max(axis=1))


def _slowed(cell: Cell, pool: Pool) -> bool:
    """Whether some instance of a pool has a factor."""
    factors = np.concatenate([each.stragglers for each in cell.variation.compute])
    return bool((factors[pool.units.start : pool.units.stop] != 1.0).any())


def _labelled(pool: Pool, what: str, seconds: Array, slow: bool) -> Iterator[tuple[str, float]]:
    """Yield the seconds of instances by name; of the longest for all of them where they are alike; nothing of none."""
    if not seconds.any():
        return
    if _alike(seconds) and not slow:
        yield _label(pool, what), float(seconds.max())
    else:
        yield from ((_label(pool, what, f"[{i}]"), each) for i, each in enumerate(seconds.tolist()) if each)


def _alike(seconds: Array) -> bool:
    """Whether no instance takes noticeably longer than another."""
    return not len(seconds) or bool(seconds.max() - seconds.min() <= APART * seconds.max())


def _label(pool: Pool, what: str, place: str = "") -> str:
    """``attention``, ``ffn[1] port in``, and where there is one pool: ``experts``, ``instance[1] experts``."""
    if pool.name == "colocated":
        return f"instance{place} {what}".strip() if place else what or "compute"
    return f"{pool.name}{place} {'' if what == pool.name else what}".strip()


# the round trip -----------------------------------------------------------------------------------------------------

NETWORK, WIRE, BOUNDARY, PAUSES, OTHERS = range(5)
"""Parts of a way that are nobody's operation; those follow, one for each instance that runs them."""
_PARTS = ("network", "wire", "boundary", "pauses")
MOSTLY = 0.9
"""Share of an operation on the path from which the instance that runs it is named, if it differs from its like."""
CYCLES = 2
"""Steps walked before the one that counts: in the first, units that differ have not yet fallen into line."""


def _round_trip(cell: Cell, means: Means) -> dict[str, float]:
    """Parts of the longest round trip of any micro-batch, the longest first.

    All micro-batches of a group have the same way but for what stands before their first operation, which is longest
    for its first or its last.
    """
    seconds, m = _Seconds(cell=cell, means=means, alone=True), cell.micro_batches
    ways = {}
    for batch in range(cell.schedule.batches):
        if batch % m in (0, m - 1):
            way = _Way(cell, seconds, batch)
            ways[batch // m, tuple(type(turn) for _, turn in way.turns)] = way
    found = max((way.parts() for way in ways.values()), key=lambda parts: math.fsum(parts.values()))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class _Way:
    """One micro-batch in a cell that is otherwise empty, step after step.

    A moment is a row of parts that add up to it, the latest of several is the row with the greatest sum: so the
    parts are those of the critical path.
    """

    def __init__(self, cell: Cell, seconds: _Seconds, batch: int) -> None:
        self.cell, self.seconds, step = cell, seconds, cell.schedule
        first, own = _first(step, batch)
        self.turns, self.micro_batch = list(_alone(step, first, own)), own.micro_batch
        boundaries = (place for place, (_, turn) in enumerate(self.turns) if isinstance(turn, Boundary))
        self.opened = 1 + next(place for place in boundaries if self.turns[place][1].micro_batch == own.micro_batch)
        """Turns until its boundary is over."""
        self.columns = {name: np.full(step.units, OTHERS) for _, name in self._operations()}
        width = self._number_columns()
        self.free = np.zeros((len(_RESOURCES), step.units, width))
        self.inbox = np.zeros((max(step.batches, step.micro_batches), step.units, width))
        self.done: dict[int, Array] = {}
        self.spent = {name: np.zeros(step.units) for name in self.columns}

    def _number_columns(self) -> int:
        """Give every operation a column for each instance that runs it; returns how many there are."""
        width = OTHERS
        for pool, name in self._operations():
            each = len(pool.units) // pool.gpus.instances
            self.columns[name][pool.units.start : pool.units.stop] = width + np.arange(len(pool.units)) // each
            width += pool.gpus.instances
        return width

    def _operations(self) -> Iterator[tuple[Pool, str]]:
        """Yield every operation with its pool."""
        turns = (turn for turn in self.cell.schedule.turns if isinstance(turn, Compute))
        starts = {turn.name: turn.units.start for turn in turns}
        for name, start in starts.items():
            yield next(pool for pool in self.cell.pools if start in pool.units), name

    def parts(self) -> dict[str, float]:
        """Seconds of one step by part, none of them zero."""
        for _ in range(CYCLES):
            before = self._walk(self.turns)
            self.free[COMPUTE, : self.cell.seated, PAUSES] += self.cell.schedule.host
        after = self._walk(self.turns[: self.opened])
        found, named = after - before, dict[str, float]()
        for place, name in enumerate(_PARTS):
            named["all-to-all" if name == "wire" and self.cell.schedule.all_to_all else name] = float(found[place])
        for pool, name in self._operations():
            own, spent = found[_by_instance(pool, self.columns[name])], _by_instance(pool, self.spent[name])
            # skewed experts have another instance on the path in every layer: then it is nobody's part
            one = not _alike(spent[spent > 0]) and own.max() >= MOSTLY * own.sum()
            named[_label(pool, name, f"[{own.argmax()}]" if one else "")] = float(own.sum())
        return {name: seconds for name, seconds in named.items() if seconds > _EQUAL * found.sum()}

    def _walk(self, turns: Sequence[tuple[int, Turn]]) -> Array:
        """Walk some turns of a step; returns when its boundary was over on the last unit."""
        for number, turn in turns:
            match turn:
                case Boundary():
                    self._turn_page(number, turn)
                case Compute():
                    self._work(number, turn)
                case Exchange(pattern=pattern) if pattern == PAIRS:
                    self._pairs(turn)
                case Exchange():
                    self._all_to_all(turn)
        return _latest(self.done[turns[self.opened - 1][0]])

    def _turn_page(self, number: int, turn: Boundary) -> None:
        """The boundary of a micro-batch on its units; one of another only takes its time."""
        units = slice(turn.units.start, turn.units.stop)
        moment = self.free[COMPUTE, units]
        if turn.micro_batch == self.micro_batch:
            moment = _later(moment, self.inbox[turn.micro_batch, units])
        self._end(number, COMPUTE, units, _plus(moment, BOUNDARY, self.seconds.head(turn.units)))

    def _work(self, number: int, turn: Compute) -> None:
        """An operation, as soon as its units and what it waits for are there."""
        units, seconds = slice(turn.units.start, turn.units.stop), self.seconds.work(turn)
        moment = self.free[turn.resource, units]
        if turn.after in self.done:
            moment = _later(moment, self.done[turn.after])
        elif turn.after != NO_TURN:
            moment = _later(moment, self.inbox[turn.micro_batch, units])
        self.spent[turn.name][units] += seconds
        moment = _plus(_plus(moment, PAUSES, turn.pause), self.columns[turn.name][units], seconds)
        self._end(number, turn.resource, units, moment)

    def _end(self, number: int, resource: int, units: slice, moment: Array) -> None:
        self.free[resource, units] = self.done[number] = moment

    def _pairs(self, turn: Exchange) -> None:
        """One copy from every sender to every receiver.

        A port has received all its copies no sooner than the last tail is there, nor than it can have taken them all in
        since the first header: which is when, where senders are alike.
        """
        wiring, ends = self.cell.wiring, self.cell.wiring.routes[turn.route].astype(np.int64)
        header, tail, into = self._sent(turn, ends)
        receiver, _, low, high = wiring.arriving[ends[2] : ends[3]].astype(np.int64).T
        filled = low < high  # units that share a port have the times of the first of them
        starts, sizes = (low - low[0])[filled], (high - low)[filled]
        copies = wiring.order[low[0] : high[-1]] - wiring.leaving[ends[0], 2].astype(np.int64)
        header, tail = header[copies], tail[copies]
        moment = tail[_peaks(tail.sum(axis=1), starts)]
        if wiring.discipline != DEDICATED:
            begun = header[_peaks(-header.sum(axis=1), starts)]
            moment = _later(moment, _plus(begun, WIRE, sizes * into[copies][starts]))
        moment = moment[np.cumsum(filled) - 1]
        whole = moment[_peaks(moment.sum(axis=1), np.searchsorted(receiver, turn.receivers))]
        units = slice(turn.receivers.start, turn.receivers.stop)
        self.inbox[turn.inbox, units] = _plus(whole, NETWORK, wiring.rest + wiring.poll)

    def _sent(self, turn: Exchange, ends: Array) -> tuple[Array, Array, Array]:
        """Header and tail of every copy where it reaches the port of its receiver, and its seconds on that."""
        wiring = self.cell.wiring
        sender, port, low, high = wiring.leaving[ends[0] : ends[1]].astype(np.int64).T
        copies, sizes = slice(low[0], high[-1]), high - low
        both = _on_ports(wiring, self.seconds.message(turn.out), self.seconds.message(turn.into))
        out, into = (each[copies] for each in both)
        place = np.arange(len(out))
        ahead = (place - np.repeat(low - low[0], sizes)) if wiring.discipline == PORTS else np.zeros(len(place))
        behind = ahead + 1 if wiring.discipline == PORTS else np.repeat(sizes, sizes)
        posted = _plus(self.done[turn.after], NETWORK, wiring.wait + wiring.lag)[sender - turn.senders.start]
        if wiring.queued:
            _queue(posted, port, sizes * out[low - low[0]])
        leaves = np.repeat(posted, sizes, axis=0)
        header, tail = (_plus(leaves, WIRE, count * out) for count in (ahead, behind))
        for uplink in wiring.crossings[ends[4] : ends[5]].tolist():
            self._cross(turn, uplink, int(low[0]), (header, tail))
        return header, tail, into

    def _cross(self, turn: Exchange, uplink: Sequence[int], base: int, times: tuple[Array, Array]) -> None:
        """Let the copies of a rail pass its uplink and its downlink; what they wait there is on the wire."""
        wiring, (_, _, low, high) = self.cell.wiring, uplink
        copies, count = wiring.across[low:high] - base, high - low
        before = [each[copies].sum(axis=1) for each in times]
        header, tail = (each.tolist() for each in before)
        for lag, source in ((0.0, turn.out), (wiring.between, turn.into)):
            work = [self.seconds.message(_beside(wiring, source))] * count
            cross(-math.inf, lag, work, (header, tail, [0] * count), list(range(count)), (0, count))
        for each, old, new in zip(times, before, (header, tail), strict=True):
            each[copies, NETWORK] += wiring.between
            each[copies, WIRE] += np.array(new) - old - wiring.between

    def _all_to_all(self, turn: Exchange) -> None:
        """Everybody's rows to everybody, one aggregate per unit and direction."""
        units, sent = slice(turn.senders.start, turn.senders.stop), self._turn(turn.after)
        finish, away = self.done[turn.after], self.seconds.of(turn.out, turn.senders, turn.batch)
        begin = _plus(finish, self.columns[sent.name][units], -self.seconds.early(sent))
        end = _plus(begin, WIRE, away)
        end = _later(end, finish) if turn.held_back else end
        into = self.seconds.of(turn.into, turn.receivers, turn.batch)
        first = begin[begin.sum(axis=1).argmin()]
        self.inbox[turn.inbox, units] = _later(_plus(np.tile(first, (len(into), 1)), WIRE, into), _latest(end))

    def _turn(self, number: int) -> Compute:
        turn = self.cell.schedule.turns[number]
        assert isinstance(turn, Compute)
        return turn


def _alone(step: Schedule, first: int, own: Compute) -> Iterator[tuple[int, Turn]]:
    """Yield the turns that a micro-batch waits for if it is alone, with their places.

    They are its own, and what its units do in any case between its boundary and its first operation: where all open a
    step together, every boundary.
    """
    opens = next(
        n
        for n, turn in enumerate(step.turns)
        if isinstance(turn, Boundary)
        and turn.units == own.units
        and (step.together or turn.micro_batch == own.micro_batch)
    )
    for number, turn in enumerate(step.turns):
        if (not isinstance(turn, Boundary) and turn.batch == own.batch) or (
            not isinstance(turn, Exchange) and turn.units == own.units and opens <= number < first
        ):
            yield number, turn


def _plus(moments: Array, column: int | Array, seconds: float | Array) -> Array:
    """Moments, later by some seconds of one part each."""
    later = moments.copy()
    later[np.arange(len(later)), column] += seconds
    return later


def _queue(posted: Array, port: Array, seconds: Array) -> None:
    """Let what leaves by one port leave in the order in which it is posted, each leg after the one before it."""
    order = np.lexsort((posted.sum(axis=1), port))
    for one, other in pairwise(order):
        if port[one] == port[other]:
            free = _plus(posted[[one]], WIRE, seconds[one])
            posted[other] = _later(posted[[other]], free)[0]


def _later(one: Array, other: Array) -> Array:
    """The later of two moments, row by row."""
    return np.where((one.sum(axis=1) >= other.sum(axis=-1))[:, np.newaxis], one, other)


def _latest(moments: Array) -> Array:
    return np.asarray(moments[moments.sum(axis=1).argmax()])


def _peaks(values: Array, starts: Array) -> Array:
    """Where the greatest value of every run stands; runs begin at `starts`."""
    sizes = np.diff(np.append(starts, len(values)))
    hits = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, starts), sizes))
    return np.asarray(hits[np.searchsorted(hits, starts)])
