"""Whom a unit that stands still may blame: the columns in which the books charge its seconds, and what they mean.

By what the last sender finished later than the last but one a gap is longer than it would have been: that is charged
to this peer alone, even where the gap shows only while its results fly. What remains until the last sender's finish is
charged to all senders, the pool. Behind it, in order of time: the NVLink stage of the peer that posted last, and its
host if that was late; the constant path of a message; uplinks, and the port that held the last copy back, which is the
receiver's own if it was done only after that copy had come, else the one that sent it; and the receiver's own NVLink
stage. A unit that waits for no message waits for its host, and while communication holds its SMs, for its own ports.

The same seconds are summed by kind of layer and micro-batch of the unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from afdsim.catalog.llm import Gqa, Layer, Moe
from afdsim.cluster.network import Wiring
from afdsim.engine.books import IMBALANCE, NETWORK, WAIT_PEER, Lines
from afdsim.engine.cell import Array, Cell, distinct
from afdsim.engine.schedule import ALL_TO_ALL, GATHER, INDEX, PAIRS, Boundary, Compute, Exchange

NOBODY = -1
PAUSES = "boundary"
"""Kind of layer of a gap before a boundary, or between steps."""
WAYS = 10
"""Columns that a way has in `books.Lines`: `early` .. `rest`."""
LOST = (WAIT_PEER, NETWORK, IMBALANCE)
"""Causes that have culprits."""


class Culprit(NamedTuple):
    """Who is blamed in a column."""

    kind: str
    """peer, pool, nvlink, host, port, uplink, path or outage."""
    cause: int
    unit: int = NOBODY
    """Whose operation or port it is; of a pool the first; its own host's; nobody's path and uplink."""
    port: int = NOBODY
    """Among the ports of its direction; NOBODY: all of the unit's."""
    direction: str = ""
    """Of a port: egress, ingress."""
    stage: str = ""
    """Operation that was waited for; of ports and paths the one whose rows they carried."""


class Part(NamedTuple):
    """Where a unit stood still, in a column."""

    cause: int
    kind: str
    """Of the layer, or `PAUSES`."""
    micro_batch: int
    """Which of its own."""


class Way(NamedTuple):
    """How the messages of some exchanges reach the units of a pool."""

    senders: range
    sent: str
    """Operation at whose end the senders count as done."""
    after: str
    """Operation at whose end they post."""
    before: int
    between: int
    route: int
    pattern: int
    gather: str
    """What the receiver does before it begins; nothing."""

    @property
    def waits(self) -> list[int]:
        """Causes of the seconds until the last sender's finish."""
        return distinct((self.before, self.between))

    @property
    def alone(self) -> tuple[int, int]:
        """Causes of what the last sender was late: until it finished, and behind that."""
        return self.between, NETWORK

    @property
    def follows(self) -> bool:
        """Whether senders do something between the end that counts and their post."""
        return self.after != self.sent


class Account(NamedTuple):
    """The columns of a unit."""

    culprits: tuple[Culprit, ...]
    parts: tuple[Part, ...]
    """Behind them."""


def accounts(cell: Cell) -> Iterator[Account]:
    """Yield the columns of every unit of a cell."""
    for lane in _lanes(cell):
        yield from (Account(tuple(lane.culprits(unit)), lane.parts) for unit in lane.units)


def columns(cell: Cell) -> Array:
    """Return the unit and the cause of every column (column, 2); units of a pool have the same causes."""
    each = [np.array([(unit, cause) for cause in lane.causes]) for lane in _lanes(cell) for unit in lane.units]
    return np.concatenate(each)


def lines(cell: Cell) -> Lines:
    """Return what the books read of a cell."""
    step, lanes = cell.schedule, _lanes(cell)
    first = [0, *accumulate(len(lane.ways) for lane in lanes)]
    reach, way, part = np.concatenate([lane.places(at) for at, lane in zip(first, lanes, strict=False)], axis=1)
    ways = np.array([row for lane in lanes for row in lane.rows()], dtype=INDEX).reshape(-1, WAYS).T
    opening = (step.awaited(number) for number, turn in enumerate(step.turns) if isinstance(turn, Boundary))
    kept = [step.exchanges[step.posts[each.after]] for each in opening if each is not None]
    whole = (reach, way, part, *ways), (kept, step.reached)
    places, exchanges = ([np.array(each, dtype=INDEX) for each in columns] for columns in whole)
    flights = np.array([flight(cell.wiring, each.pattern) for lane in lanes for each in lane.ways])
    return Lines._make((*step.lines, *places, flights, *exchanges))


def flight(wiring: Wiring, pattern: int) -> float:
    """Return the seconds of a message that meets no other, but for those on its ports."""
    if pattern != PAIRS:
        return 0.0
    return wiring.wait + wiring.lag + wiring.rest + wiring.poll + (wiring.between if wiring.servers else 0.0)


def sources(cell: Cell) -> Array:
    """Return the unit that sends every copy."""
    found = np.zeros(len(cell.wiring.order), dtype=np.int64)
    for unit, _, low, high in cell.wiring.leaving.tolist():
        found[low:high] = unit
    return found


def doors(cell: Cell) -> Array:
    """Return the first port to receive of every unit."""
    legs = sorted((unit, -port) for unit, port, *_ in cell.wiring.arriving.tolist())
    lowest = {unit: -port for unit, port in legs}
    return np.array([lowest.get(unit, unit) for unit in range(cell.schedule.units)], dtype=INDEX)


def _lanes(cell: Cell) -> list[_Lane]:
    return [_Lane(cell=cell, units=units) for units in cell.schedule.pools]


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """Units with the same turns."""

    cell: Cell
    units: range

    @cached_property
    def turns(self) -> list[tuple[Boundary | Compute, Exchange | None]]:
        """Turns of the compute resource in order, with the exchange that each waits for."""
        step = self.cell.schedule
        return [(step.turns[number], step.awaited(number)) for number in step.of(self.units)]  # type: ignore[misc]

    @cached_property
    def ways(self) -> list[Way]:
        """Ways by which messages reach a unit."""
        return distinct(self._way(turn, awaited) for turn, awaited in self.turns if awaited is not None)

    def _way(self, turn: Boundary | Compute, awaited: Exchange) -> Way:
        step = self.cell.schedule
        sent, after, before = (step.turns[number] for number in (awaited.sent, awaited.after, turn.after))
        assert isinstance(sent, Compute)
        assert isinstance(after, Compute)
        gathers = isinstance(before, Compute) and before.resource == GATHER
        return Way(
            senders=awaited.senders,
            sent=sent.name,
            after=after.name,
            before=awaited.before,
            between=awaited.between,
            route=awaited.route,
            pattern=awaited.pattern,
            gather=before.name if gathers else "",  # type: ignore[union-attr]
        )

    @cached_property
    def kinds(self) -> list[tuple[str, int]]:
        """Kinds of layer and micro-batches of the turns."""
        return distinct(self._kind(turn) for turn, _ in self.turns)

    def _kind(self, turn: Boundary | Compute) -> tuple[str, int]:
        return (PAUSES if isinstance(turn, Boundary) else self._labels[turn.layer]), turn.micro_batch

    @cached_property
    def _labels(self) -> list[str]:
        layers = self.cell.deployment.llm.layers
        several = len({_mixing(layer) for layer in layers}) > 1
        return [" + ".join([*_mixing(layer), _following(layer)][0 if several else -1 :]) for layer in layers]

    # columns ---------------------------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Where a unit may stand still."""
        return tuple(Part(cause, *kind) for kind in self.kinds for cause in LOST)

    @cached_property
    def causes(self) -> list[int]:
        """Causes of the columns of any unit."""
        return [*(each.cause for each in self.culprits(self.units.start)), *(part.cause for part in self.parts)]

    def culprits(self, unit: int) -> Iterator[Culprit]:
        """Whom a unit may blame."""
        yield Culprit("host", WAIT_PEER, unit, stage="pause")
        yield Culprit("port", NETWORK, unit, stage="kernels")
        yield Culprit("outage", WAIT_PEER, stage="step")
        for way in self.ways:
            for columns_ in self.blamed(way, unit).values():
                yield from columns_

    def blamed(self, way: Way, unit: int) -> dict[str, list[Culprit]]:
        """The same of a way, by where its columns begin in `books.Lines`, in order."""
        senders, alone = way.senders, len(way.senders) == 1
        joint = [Culprit("pool", cause, senders.start, stage=way.sent) for cause in way.waits]
        peers = [] if alone else [[Culprit("peer", cause, u, stage=way.sent) for u in senders] for cause in way.alone]
        leaving, reaching = self.ports(way, unit)
        out = [Culprit("port", NETWORK, u, leaving[u], "egress", way.sent) for u in senders]
        into = [Culprit("port", NETWORK, unit, port, "ingress", way.sent) for port in reaching]
        kind, stage = ("nvlink", way.gather) if way.gather else ("host", "pause")
        return {
            "early": joint[:1],
            "late": joint[1:],
            "alone": peers[0] if peers else [],
            "behind": peers[1] if peers else [],
            "scatters": [Culprit("nvlink", NETWORK, u, stage=way.after) for u in senders] if way.follows else [],
            "hosts": [Culprit("host", NETWORK, u, stage="post") for u in senders] if self.late else [],
            "ports": [*out, *into],
            "uplink": [Culprit("uplink", NETWORK, stage=way.sent)] if self.cell.wiring.servers else [],
            "path": [Culprit("path", NETWORK, stage=way.sent)],
            "rest": [Culprit(kind, NETWORK, unit, stage=stage)],
        }

    @property
    def late(self) -> bool:
        """Whether posts may be late."""
        spike = self.cell.variation.spike
        return spike is not None and spike.late

    def ports(self, way: Way, unit: int) -> tuple[dict[int, int], list[int]]:
        """The port of every sender that leads to a unit, and those of the unit, which have numbers in a row."""
        if way.pattern == ALL_TO_ALL:
            return {u: u for u in way.senders}, [unit]
        wiring, (out_from, out_to, in_from, in_to, *_) = self.cell.wiring, self.cell.wiring.routes[way.route].tolist()
        left = {x: (u, port) for u, port, a, b in wiring.leaving[out_from:out_to].tolist() for x in range(a, b)}
        legs = wiring.arriving[in_from:in_to].tolist()
        own = {port for owner, port, *_ in legs if owner == unit}
        taken = [x for _, port, a, b in legs if port in own for x in wiring.order[a:b].tolist()]
        every = [port for owner, port, *_ in wiring.arriving.tolist() if owner == unit]
        return dict(left[x] for x in taken), list(range(min(every), max(every) + 1))

    def rows(self) -> Iterator[list[int]]:
        """Columns of the ways in `books.Lines`, `early` .. `rest`; of what there is not, any: it gets nothing."""
        at = 3
        for way in self.ways:
            sizes = [len(columns_) for columns_ in self.blamed(way, self.units.start).values()]
            begins = [at, *(at + end for end in accumulate(sizes))]
            begins[1] -= sizes[1] == 0  # of one cause for both
            yield [min(begin, begins[-1] - 1) for begin in begins[:-1]]
            at = begins[-1]

    def places(self, first: int) -> Array:
        """(arrival at the first unit, way, part) of every turn; the ways count from `first`."""
        step, places = self.cell.schedule, np.zeros((3, len(self.turns)), dtype=np.int64)
        for place, (turn, awaited) in enumerate(self.turns):
            if awaited is not None:
                reached = step.reached[step.exchanges[step.posts[awaited.after]]]
                places[0, place] = reached + self.units.start - awaited.receivers.start
                places[1, place] = first + self.ways.index(self._way(turn, awaited))
            places[2, place] = len(LOST) * self.kinds.index(self._kind(turn)) - WAIT_PEER
        places[2] += len(self.causes) - len(self.parts)
        return places


def _mixing(layer: Layer) -> tuple[str, ...]:
    """What mixes tokens in a layer, in a word each."""
    return tuple(
        type(each).__name__.upper() + _window(each.window if isinstance(each, Gqa) else None) for each in layer.mixers
    )


def _window(window: int | None) -> str:
    return "" if window is None else f" window {window}"


def _following(layer: Layer) -> str:
    return "moe" if isinstance(layer.ffn, Moe) else "dense"
