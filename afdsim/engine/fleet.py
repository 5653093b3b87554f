"""Cells behind a router: every request goes to one of them when it arrives, and stays there.

A router looks at cells as they stand at that moment: with every boundary behind them that ended before. A cell is run
up to it only when somebody looks, so a router that does not look costs nothing, and one that looks at two cells a
request runs two. Requests are handed over in the order in which they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from operator import methodcaller
from typing import NamedTuple, Protocol

import numpy as np

from afdsim.engine import seats
from afdsim.engine.desk import Demand, Desk
from afdsim.engine.record import Record
from afdsim.engine.seats import FOREVER, NOBODY
from afdsim.errors import SimulationError, StoppedEarly

Array = np.ndarray


class Member(Protocol):
    """A cell that runs under an engine as far as it is told (`blocks.Blocks`, `clock.Run`)."""

    desk: Desk

    def execute(self) -> Record:
        """Run until everything that counts has ended, or the horizon."""
        ...

    def begin(self) -> None:
        """Let the first requests in, where there are any."""

    def wake(self) -> None:
        """Go on: somebody is known to come."""

    def advance(self, until: float) -> None:
        """Run as long as boundaries end before `until`, somebody is known to come, and the run has not ended."""

    def outlast(self, until: float) -> None:
        """Stand idle until then: others go on."""

    @property
    def due(self) -> float:
        """Before when nothing happens, if nobody comes."""
        ...

    def record(self) -> Record:
        """What the run leaves behind."""
        ...


class Request(NamedTuple):
    """A request at the router."""

    number: int
    arrival: float
    """Seconds."""
    input_len: int
    output_len: int
    group: int = NOBODY
    """Of prompts that begin alike; NOBODY where none do."""


class Standing:
    """A cell as it stands when a request arrives."""

    def __init__(self, number: int, member: Member) -> None:
        self.number, self._member = number, member
        self.slots = member.desk.cell.deployment.slots
        """Sequences that may run at a time."""
        self.now = 0.0
        """When the request arrives."""
        self._due, self._requests = FOREVER, 0
        self._kv: float | None = 0.0

    @property
    def requests(self) -> int:
        """Requests that run or wait."""
        if self._due < self.now:
            self._catch_up()
        return self._requests

    @property
    def load(self) -> float:
        """Requests that run or wait, over those that may run."""
        return self.requests / self.slots

    @property
    def running(self) -> int:
        """Requests that take part in steps."""
        return int(self._caught_up.book.count[seats.ACTIVE])

    @property
    def waiting(self) -> int:
        """Requests that have not joined a step yet."""
        return self.requests - self.running

    @property
    def kv(self) -> float:
        """KV cache that is taken or waited for, over what there is; above 1 where more is waited for than is free."""
        desk = self._caught_up
        if self._kv is None:
            self._kv = _kv(desk)
        return self._kv

    def take(self, request: Request) -> None:
        """Hand a request to the cell."""
        desk = self._member.desk
        desk.submit(request.arrival, request.input_len, request.output_len, request.group)
        if desk.dozing:
            self._member.wake()
        self._note()

    @property
    def _caught_up(self) -> Desk:
        """The cell's desk, with every boundary behind it that ended before the request came."""
        if self._due < self.now:
            self._catch_up()
        return self._member.desk

    def _catch_up(self) -> None:
        self._member.advance(self.now)
        self._note()

    def _note(self) -> None:
        count = self._member.desk.book.count.tolist()
        self._due, self._kv = self._member.due, None
        self._requests = count[seats.ACTIVE] + count[seats.QUEUE] + count[seats.KNOWN] - count[seats.ISSUED]


def _kv(desk: Desk) -> float:
    """KV cache of a cell that is taken or waited for, over what there is."""
    places, book = desk.machine.places, desk.book
    ranks = book.ranks[:, seats.KV_FREE]
    waiting = sum(seats.takes(places, book.requests, request) for request in _waiting(desk))
    whole = places.kv_budget * len(ranks)
    return float((whole - ranks.sum() + waiting) / whole)


def _waiting(desk: Desk) -> list[int]:
    """Requests in the queues of all ranks, and those that no boundary has seen yet."""
    book, found = desk.book, list[int]()
    for head in book.queues[:, seats.HEAD].tolist():
        request = head
        while request != NOBODY:
            found.append(request)
            request = int(book.requests[request, seats.NEXT])
    return [*found, *range(int(book.count[seats.ISSUED]), int(book.count[seats.KNOWN]))]


class Router(Protocol):
    """The seam for a router of your own."""

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        """Return the number of the cell that a request goes to."""
        ...


class RoundRobin:
    """One after the other, of unlike cells each as often as its share of all slots: the one that is most behind."""

    def __init__(self) -> None:
        self._behind: list[int] = []

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        slots = [cell.slots for cell in cells]
        if min(slots) == max(slots):
            return request.number % len(cells)
        self._behind = [own + more for own, more in zip(self._behind or [0] * len(cells), slots, strict=True)]
        place = self._behind.index(max(self._behind))
        self._behind[place] -= sum(slots)
        return place


class LeastRequests:
    """To the cell with the fewest requests that run or wait over those that may run, ties to the first."""

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        del request
        return min(cells, key=lambda cell: cell.load).number


class LeastKv:
    """To the cell of whose KV cache the smallest part is taken or waited for, ties to the first."""

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        del request
        return min(cells, key=lambda cell: cell.kv).number


class PowerOfTwo:
    """To the one of two cells drawn at random that has fewer requests over its slots, ties to the one drawn first."""

    def __init__(self, stream: Callable[[int], np.random.Generator]) -> None:
        self._stream = stream
        """By block of requests."""
        self._drawn = np.zeros((0, 2))

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        block, place = divmod(request.number, DRAWN)
        if place == 0:
            self._drawn = self._stream(block).random((DRAWN, 2))
        first = int(self._drawn[place, 0] * len(cells))
        other = (first + 1 + int(self._drawn[place, 1] * (len(cells) - 1))) % len(cells)
        return min((cells[first], cells[other]), key=lambda cell: cell.load).number


class PrefixAffinity:
    """To the cell of the group of prompts that begin alike, unless it is many requests ahead of the one with fewest."""

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        home, least = cells[request.group % len(cells)], min(cells, key=lambda cell: cell.load)
        return home.number if home.requests - least.requests <= LOYAL else least.number


DRAWN = 4096
"""Requests whose cells are drawn at a time."""
TOLD, GOES = 256, 64
"""Requests between two words of how far it is; goes in which a cell runs up to the last arrival, or for a second."""
LOYAL = 32
"""Requests by which the cell of a group may be ahead; assumed."""


class Routed(NamedTuple):
    """What a fleet leaves behind."""

    records: tuple[Record, ...]
    """By cell."""
    chosen: Array
    """Cell of every request (request,)."""


def route(
    members: Sequence[Member],
    demand: Demand,
    router: Router,
    told: Callable[[float], None] | None,
    *,
    threads: int = 1,
) -> Routed:
    """Send the requests of an open loop to cells, and run these to the end; `told`: how far that is, 0..1.

    Where `told` raises `StoppedEarly`, the cells end where they are. As nobody looks at cells behind the last arrival,
    so many `threads` run them from there on, with the same result: with a router that never looks, all the way.
    """
    chosen = np.zeros(demand.num_requests, dtype=np.int64)
    latest = float(demand.source.times(demand.num_requests)[-1])
    sent = 0
    for member in members:
        member.begin()
    try:
        for sent in _sent(members, demand, router, chosen):
            if told is not None and sent % TOLD == 0:
                told(sent / demand.num_requests / 2)
        _finish(members, latest, told, threads)
    except StoppedEarly:
        for member in members:
            if member.desk.ends == FOREVER and not member.desk.dozing:
                member.desk.cut()
    _close(members, latest if sent == demand.num_requests else 0.0)
    return Routed(tuple(member.record() for member in members), chosen[:sent])


def _sent(members: Sequence[Member], demand: Demand, router: Router, chosen: Array) -> Iterator[int]:
    """Hand over one request after the other; yields how many have been, and notes to whom."""
    many = demand.num_requests
    columns = (demand.source.times(many), *demand.source.columns(many), demand.groups(many))
    standings = [Standing(number, member) for number, member in enumerate(members)]
    for number, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        request = Request(number, *row)
        for standing in standings:
            standing.now = request.arrival
        place = router.choose(request, standings)
        if not 0 <= place < len(members):
            raise SimulationError(f"router: choose() must return a cell from 0 to {len(members) - 1} (got {place})")
        chosen[number] = place
        standings[place].take(request)
        yield number + 1


def _finish(members: Sequence[Member], latest: float, told: Callable[[float], None] | None, threads: int) -> None:
    """Run all cells until their requests have ended, some time at a go."""
    span = max(latest, 1.0) / GOES
    for member in members:
        member.desk.dismiss()
    with ThreadPoolExecutor(threads) as pool:
        for go in count(1):
            left = [member for member in members if member.desk.ends == FOREVER and not member.desk.dozing]
            if not left:
                break
            for _ in (map if threads == 1 else pool.map)(methodcaller("advance", go * span), left):
                pass
            if told is not None:
                told(0.5 + min(go / GOES, 1.0) / 2)


def _close(members: Sequence[Member], latest: float) -> None:
    """Let all cells end with the last of them, and no earlier than the last arrival."""
    ends = max([latest, *(member.desk.ends for member in members if member.desk.ends < FOREVER)])
    ends = min(ends, *(member.desk.machine.asked.horizon for member in members))
    for member in members:
        if member.desk.ends != ends:
            member.outlast(ends)
