"""A step of a cell as a static list of turns: all that an engine knows of a deployment.

A *boundary* opens a step for one micro-batch and ends the one before: requests leave and join. A *compute* turn
occupies one serial resource of every unit of a pool; an *exchange* moves rows between units through their ports. The
first `opening` turns run unit by unit, in the order of boundary times, the others in the order of the list; on every
resource that is the order of the list.

>>> pool = range(0, 2)
>>> seconds = Source(ROWS, 0)
>>> step = Schedule(
...     turns=(
...         Boundary(units=pool),
...         Compute(units=pool, name="attention", work=seconds, draw=0),
...         Exchange(
...             senders=pool, receivers=pool, after=1, sent=1, pattern=ALL_TO_ALL, out=seconds, into=seconds, draw=0
...         ),
...         Compute(units=pool, name="experts", after=2, work=Source(TOKENS, 0), draw=1),
...     ),
...     opening=1,
...     micro_batches=1,
... )
>>> print(step)
 0  boundary   0..1   micro-batch 0
 1  attention  0..1   layer 0  micro-batch 0
 2  exchange   0..1 to 0..1   after 1
 3  experts    0..1   layer 0  micro-batch 0  after 2
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from afdsim.engine import books
from afdsim.engine.books import UNCUT, WAIT_PEER

NOTHING, RANK, ROWS, TOKENS = range(4)
"""Where seconds are looked up: nowhere; by the batches and contexts of a unit's ranks; by the rows of its largest
rank; by the tokens of the whole micro-batch and the load of the unit."""
COMPUTE, GATHER, SCATTER = range(3)
"""Serial resources of a unit."""
PAIRS, ALL_TO_ALL = range(2)
"""One message per sender and receiver, or one aggregate per unit and direction."""
NO_TURN = -1


class Source(NamedTuple):
    """A table of seconds: its kind and its row."""

    table: int = NOTHING
    row: int = 0


NOWHERE = Source()


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The end of a step and the beginning of the next for one micro-batch, on each unit for itself."""

    units: range
    micro_batch: int = 0
    """Which of a unit's own."""
    after: int = NO_TURN
    """Exchange of the step before whose messages it waits for."""

    def __str__(self) -> str:
        return f"boundary   {_span(self.units):<6} micro-batch {self.micro_batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """One operation on each of some units: (work x slow + more) seconds times the unit's factor."""

    name: str
    units: range
    resource: int = COMPUTE
    layer: int = 0
    micro_batch: int = 0
    """Which of a unit's own."""
    batch: int = 0
    """Which of the whole cell's: whose tokens count."""
    after: int = NO_TURN
    """Turn that it waits for: an exchange's messages, or the unit's own earlier operation."""
    work: Source = NOWHERE
    slow: float = 1.0
    """Factor of `work`, while communication has a share of the SMs."""
    more: Source = NOWHERE
    early: Source = NOWHERE
    """It posts early: early x slow x share seconds, times the unit's factor, before its end."""
    share: float = 1.0
    """Part of `early` that the exchange behind it may overlap."""
    held: Source = NOWHERE
    """Seconds of it in which communication holds the SMs: not `busy`."""
    pause: float = 0.0
    """Seconds that the unit stands still before it."""
    draw: int = NO_TURN
    """Which of the unit's random factors; none."""

    def __str__(self) -> str:
        waits = f"  after {self.after}" if self.after != NO_TURN else ""
        place = f"layer {self.layer}  micro-batch {self.micro_batch}"
        return f"{self.name:<10} {_span(self.units):<6} {place}{waits}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Rows on their way from units to units."""

    senders: range
    receivers: range
    pattern: int = PAIRS
    layer: int = 0
    micro_batch: int = 0
    """Which of the own ones of the units whose rows they are."""
    inbox: int = 0
    """Which of the receivers' own."""
    batch: int = 0
    route: int = 0
    """Pairs: which of the cell's wirings (`Wiring`)."""
    after: int
    """Compute turn at whose end it is posted."""
    sent: int
    """Compute turn whose end the books take for the sender's."""
    out: Source
    """Seconds on the port of a sender."""
    into: Source
    """Seconds on the port of a receiver."""
    nbytes: float = 0.0
    """Bytes of a sequence on its way to each receiver (pairs), or to all of them."""
    held_back: bool = False
    """Whether the last row leaves no earlier than the operation ends (a combine's last sums)."""
    before: int = WAIT_PEER
    """Cause of a receiver's gap until the first sender's end."""
    between: int = WAIT_PEER
    """Cause until the last sender's."""
    draw: int
    """Which of the random factors of every pair, or sender."""

    def __str__(self) -> str:
        return f"exchange   {_span(self.senders)} to {_span(self.receivers)}   after {self.after}"


Turn = Boundary | Compute | Exchange

KIND, FIRST, LAST, OWN, BATCH_OF, RESOURCE, WAITS, AFTER, AT, DRAWS, DRAW = range(11)
"""Columns of every flat turn: boundary, compute, pairs or all-to-all; its units; the micro-batch on a unit and in the
cell; the resource; what it waits for, and where that stands in a trace; where its first unit stands there; whether it
has random factors, and which."""
WORK, MORE, EARLY, HELD = 11, 13, 15, 17
"""Columns of a compute turn: tables and rows in pairs."""
OUT, INTO, TO_FIRST, TO_LAST, TO_OWN, ROUTE, HELD_BACK, NUMBER, SENT, REACHED = 11, 13, 15, 16, 17, 18, 19, 20, 21, 22
"""Columns of an exchange: tables and rows in pairs; receivers and which of their own; wiring; flag; its number; where
the senders' ends stand in a trace (and at AFTER: the ends at which it is posted), and its arrivals."""
POST_DRAW = 23
"""Column of an exchange: which of a sender's draws its post has."""
COLUMNS = 24
INDEX = books.INDEX
"""Of flat turns and whatever else only points."""
IS_BOUNDARY, IS_COMPUTE, IS_PAIRS, IS_ALL_TO_ALL = range(4)
AT_ONCE, INBOX, ITSELF = range(3)
"""In WAITS: for nothing, for messages, for the unit's own end at AFTER."""
SLOW, SHARE, PAUSE = range(3)
"""Columns of the real numbers of a turn."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The turns of a step."""

    turns: tuple[Turn, ...]
    opening: int
    """How many of them run before the list."""
    micro_batches: int
    """Of one unit."""
    batches: int = 1
    """Micro-batches of the whole cell."""
    together: bool = True
    """Whether the list begins when every unit has passed all its boundaries; else when its messages allow."""
    host: float = 0.0
    """Seconds between the end of a step and the first boundary of the next."""

    def __str__(self) -> str:
        return "\n".join(f"{number:>2}  {turn}" for number, turn in enumerate(self.turns))

    @cached_property
    def units(self) -> int:
        """Units of all pools."""
        return max(turn.units.stop for turn in self.turns if not isinstance(turn, Exchange))

    @cached_property
    def exchanges(self) -> dict[int, int]:
        """Turns that are exchanges, and the number of each among them."""
        turns = (place for place, turn in enumerate(self.turns) if isinstance(turn, Exchange))
        return {place: number for number, place in enumerate(turns)}

    @cached_property
    def at(self) -> tuple[int, ...]:
        """Where the first unit of every turn stands in a trace; the last entry is the length of a trace."""
        sizes = [0 if isinstance(turn, Exchange) else len(turn.units) for turn in self.turns]
        return tuple(np.cumsum([0, *sizes]).tolist())

    @cached_property
    def reached(self) -> tuple[int, ...]:
        """Where the first receiver of every exchange stands in a trace; the last entry is the length of them all."""
        sizes = [len(turn.receivers) for turn in self.turns if isinstance(turn, Exchange)]
        return tuple(np.cumsum([0, *sizes]).tolist())

    @cached_property
    def posts(self) -> dict[int, int]:
        """Exchange behind a compute turn."""
        return {turn.after: number for number, turn in enumerate(self.turns) if isinstance(turn, Exchange)}

    @cached_property
    def all_to_all(self) -> bool:
        """Whether exchanges are all-to-all; all or none are. Only then do `more`, `early` and `held` count."""
        return any(isinstance(turn, Exchange) and turn.pattern == ALL_TO_ALL for turn in self.turns)

    def of(self, units: range, resource: int = COMPUTE) -> list[int]:
        """Turns of one resource of some units, in order; boundaries occupy their compute."""
        return [
            number
            for number, turn in enumerate(self.turns)
            if not isinstance(turn, Exchange) and turn.units == units and _resource(turn) == resource
        ]

    @cached_property
    def pools(self) -> tuple[range, ...]:
        """Ranges of units that have the same turns, in order."""
        found = {turn.units: None for turn in self.turns if not isinstance(turn, Exchange)}
        return tuple(sorted(found, key=lambda units: units.start))

    # flat ------------------------------------------------------------------------------------------------------------

    @cached_property
    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """The turns as whole numbers (turn, column) and real ones (turn, SLOW | SHARE | PAUSE)."""
        whole = np.zeros((len(self.turns), COLUMNS), dtype=INDEX)
        real = np.ones((len(self.turns), 3))
        for number, turn in enumerate(self.turns):
            row = self._exchange(turn) if isinstance(turn, Exchange) else self._unitwise(turn, number)
            whole[number, : len(row)] = row
            if isinstance(turn, Compute):
                real[number] = turn.slow, turn.share, turn.pause
        return whole, real

    def _unitwise(self, turn: Boundary | Compute, number: int) -> list[int]:
        units, place = (turn.units.start, turn.units.stop), self.at[number]
        if isinstance(turn, Boundary):
            return [IS_BOUNDARY, *units, turn.micro_batch, 0, COMPUTE, INBOX, 0, place]
        waits = self.turns[turn.after] if turn.after != NO_TURN else None
        kind = AT_ONCE if waits is None else INBOX if isinstance(waits, Exchange) else ITSELF
        after = self.at[turn.after] if kind == ITSELF else 0
        head = [IS_COMPUTE, *units, turn.micro_batch, turn.batch, turn.resource, kind, after, place]
        draw = [int(turn.draw != NO_TURN), max(turn.draw, 0)]
        return [*head, *draw, *turn.work, *turn.more, *turn.early, *turn.held]

    def _exchange(self, turn: Exchange) -> list[int]:
        kind = IS_PAIRS if turn.pattern == PAIRS else IS_ALL_TO_ALL
        head = [kind, turn.senders.start, turn.senders.stop, turn.micro_batch, turn.batch, COMPUTE, ITSELF]
        number = self.exchanges[self.posts[turn.after]]
        receivers = (turn.receivers.start, turn.receivers.stop, turn.inbox)
        tail = (*receivers, turn.route, int(turn.held_back), number, self.at[turn.sent], self.reached[number])
        draw = [int(turn.draw != NO_TURN), max(turn.draw, 0)]
        return [*head, self.at[turn.after], 0, *draw, *turn.out, *turn.into, *tail, self.post_draw(turn)]

    def post_draw(self, turn: Exchange) -> int:
        """Which of a sender's draws its post has: that of the operation whose rows are sent."""
        sent = self.turns[turn.sent]
        assert isinstance(sent, Compute)
        return max(sent.draw, 0)

    @cached_property
    def line(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Turns of every unit's compute resource, flat, where each unit's begin, and how many belong to its opening."""
        lines = [(np.array(self.of(units)), len(units)) for units in self.pools]
        starts = np.cumsum([0, *(len(turns) for turns, units in lines for _ in range(units))])
        opening = [int((turns < self.opening).sum()) for turns, units in lines for _ in range(units)]
        places = np.concatenate([np.tile(turns, units) for turns, units in lines])
        return places.astype(INDEX), starts, np.array(opening)

    @cached_property
    def lines(self) -> tuple[np.ndarray, ...]:
        """The first columns of what the books read (`books.Lines`)."""
        turns = [self.of(units) for units in self.pools]
        rows = np.array([self.booked(number) for own in turns for number in own])
        units, start = (np.cumsum([0, *map(len, each)]) for each in (self.pools, turns))
        index, cut, *others = rows.T.copy()
        return *(each.astype(INDEX) for each in (units, start, index)), cut, *(each.astype(INDEX) for each in others)

    def booked(self, number: int) -> tuple[int, int, int, int, int]:
        """Place in the trace, exchange that cuts the gap before a turn, whether of the step before, and two causes."""
        turn, found = self.turns[number], self.awaited(number)
        if found is None:
            return self.at[number], UNCUT, 0, WAIT_PEER, WAIT_PEER
        cut = self.exchanges[self.posts[found.after]]
        return self.at[number], cut, int(isinstance(turn, Boundary)), found.before, found.between

    def awaited(self, number: int) -> Exchange | None:
        """The exchange whose messages a turn waits for, over operations of its own unit or not."""
        found: Turn = self.turns[number]
        while not isinstance(found, Exchange) and found.after != NO_TURN:
            found = self.turns[found.after]
        return found if isinstance(found, Exchange) else None


def _resource(turn: Boundary | Compute) -> int:
    return turn.resource if isinstance(turn, Compute) else COMPUTE


def _span(units: range) -> str:
    return f"{units.start}..{units.stop - 1}"
