"""Continuous batching in lists and dictionaries: what `engine.seats` and `engine.turnover` do, said a second time.

Nothing is carried along that can be counted again: bytes in use, contexts and who comes next follow from who is where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from afdsim.engine.cell import BROUGHT
from afdsim.engine.seats import Keeping, Places


@dataclass(frozen=True, kw_only=True)
class House:
    """What a deployment offers."""

    units: int
    ranks: int
    slots: tuple[int, ...]
    """Of the micro-batches of a rank."""
    budget: int
    """Bytes of KV cache of a rank."""
    windows: tuple[int, ...]
    per_token: tuple[int, ...]
    """Bytes of a token in each window."""
    fixed: int
    block: int
    grows: bool
    swaps: bool
    pace: float
    """Of a preempted context: tokens per second if computed again, bytes per second if it goes to host memory."""
    scale: int
    closed: bool = False

    @property
    def places(self) -> Places:
        """The same as the engines have it."""
        keeping = Keeping(self.block, self.grows, self.swaps, self.pace, 1, 0, 0)
        slots, windows = (np.array(each, dtype=np.int64) for each in (self.slots, self.windows))
        costs = (float(self.budget), float(self.fixed), np.array(self.per_token, dtype=float))
        return Places(len(slots), self.ranks, self.scale, slots, windows, *costs, keeping, BROUGHT)

    def nbytes(self, tokens: int) -> int:
        """Bytes of so many tokens in whole blocks."""
        blocks = (-(-min(tokens, window) // self.block) for window in self.windows)
        return self.fixed + sum(each * self.block * n for each, n in zip(self.per_token, blocks, strict=True))


@dataclass(eq=False, kw_only=True)
class Guest:
    """A request."""

    number: int
    input_len: int
    output_len: int
    steps: int
    """That its answer takes: with drafts fewer than tokens."""
    arrival: float
    context: int
    """Tokens of it that are written, but for what drafts have yielded since it joined."""
    seat: int = -1
    """Where it sits, or is called to, or is counted while it waits."""
    taken: int = 0
    """Steps since it joined."""
    joined: int = -1
    """How many had joined before it, anywhere."""
    preempted: int = 0
    ready: float = -math.inf
    admitted: float = math.nan
    first: float = math.nan
    finish: float = math.nan

    @property
    def longest(self) -> int:
        return self.input_len + self.output_len


@dataclass(kw_only=True)
class Plain:
    """Who is where, and what follows from that."""

    house: House
    outside: list[Guest] = field(default_factory=list)
    waiting: list[list[Guest]] = field(default_factory=list)
    called: list[list[Guest]] = field(default_factory=list)
    running: list[list[Guest]] = field(default_factory=list)
    done: list[Guest] = field(default_factory=list)
    refused: list[Guest] = field(default_factory=list)
    calls: list[list[Guest]] = field(default_factory=list)
    """Who has been called on a rank, in order."""
    links: list[float] = field(default_factory=list)
    """When the link of a rank to host memory is free."""
    tokens: list[tuple[int, int, int]] = field(default_factory=list)
    """Step, lane and sequences of every boundary that gave tokens."""
    joins: int = 0

    def __post_init__(self) -> None:
        ranks, self.m = self.house.units * self.house.ranks, len(self.house.slots)
        self.waiting, self.calls, self.links = [[] for _ in range(ranks)], [[] for _ in range(ranks)], [0.0] * ranks
        self.called, self.running = ([[] for _ in range(ranks * self.m)] for _ in range(2))

    # what follows ----------------------------------------------------------------------------------------------------

    def taken(self, seat: int) -> int:
        return len(self.running[seat]) + len(self.called[seat])

    def counted(self, seat: int) -> int:
        return self.taken(seat) + sum(guest.seat == seat for guest in self.waiting[seat // self.m])

    def holds(self, guest: Guest) -> int:
        """Bytes of one that sits or is called: of all that it may need, or of its context and the token to come."""
        return self.house.nbytes(guest.context + 1 if self.house.grows else guest.longest)

    def held(self, rank: int) -> int:
        seats = range(rank * self.m, (rank + 1) * self.m)
        return sum(self.holds(guest) for seat in seats for guest in self.running[seat] + self.called[seat])

    def read(self, seat: int, window: int) -> int:
        """Tokens (scaled) that core attention of a seat reads in a window."""
        scale, total = self.house.scale, 0
        for guest in self.running[seat]:
            drafted = guest.taken * (guest.output_len * scale // guest.steps) if guest.steps < guest.output_len else 0
            total += min(guest.context * scale + drafted, window * scale)
        return total

    # who comes and goes ----------------------------------------------------------------------------------------------

    def arrive(self, guest: Guest) -> bool:
        """Seat a request; whether any rank could ever hold it."""
        if self.house.nbytes(guest.longest) > self.house.budget:
            self.refused.append(guest)
            return False
        slots = self.house.slots

        def crowd(seat: int) -> tuple[bool, bool, int]:
            return not slots[seat % self.m], self.counted(seat) >= slots[seat % self.m], self.counted(seat)

        self.wait(guest, min(range(len(self.running)), key=crowd))
        self.call(guest.seat // self.m, None)
        return True

    def wait(self, guest: Guest, seat: int) -> None:
        guest.seat = seat
        self.waiting[seat // self.m].append(guest)

    def call(self, rank: int, here: int | None) -> None:
        """The first in the queue goes to the free place with the fewest, as long as there is one and KV cache."""
        queue = self.waiting[rank]
        while queue:
            free = [j for j in range(self.m) if self.taken(rank * self.m + j) < self.house.slots[j]]
            if not free or self.held(rank) + self.holds(queue[0]) > self.house.budget:
                return
            j = min(free, key=lambda j: (self.taken(rank * self.m + j), j != here, j))
            guest = queue.pop(0)
            guest.seat = rank * self.m + j
            self.called[guest.seat].append(guest)
            self.calls[rank].append(guest)

    def uncall(self, seat: int) -> Guest:
        """The last that is called to a seat waits again, at the head of the queue."""
        guest = self.called[seat].pop()
        self.waiting[seat // self.m].insert(0, guest)
        if self.house.swaps and guest.ready > -math.inf:
            guest.ready = math.inf
        return guest

    def preempt(self, seat: int, now: float) -> None:
        """The last that joined a seat waits again, at the head of the queue; it pays for its context."""
        guest, rank = self.running[seat].pop(), seat // self.m
        self.waiting[rank].insert(0, guest)
        guest.taken, guest.preempted = 0, guest.preempted + 1
        guest.ready = now + guest.context / self.house.pace
        if self.house.swaps:
            self.copy(rank, guest, now)
            guest.ready = math.inf

    def copy(self, rank: int, guest: Guest, now: float) -> float:
        """When the blocks of a context have gone over the link of a rank."""
        self.links[rank] = max(now, self.links[rank]) + self.house.nbytes(guest.context) / self.house.pace
        return self.links[rank]

    def turn_over(self, lane: int, step: int, now: float, stock: list[Guest]) -> None:
        """The boundary of a lane before a step; a closed loop draws from the stock."""
        first = lane // self.m * self.house.ranks
        ranks, j = range(first, first + self.house.ranks), lane % self.m
        seats = [rank * self.m + j for rank in ranks]
        while self.outside:
            self.arrive(self.outside.pop(0))
        for guest in self.emit(lane, step, now, seats):
            self.running[guest.seat].remove(guest)
            self.done.append(guest)
            if self.house.closed:
                self.refill(guest.seat, now, stock)
        for seat in seats:
            while self.house.grows and self.held(seat // self.m) > self.house.budget:
                self.uncall(seat) if self.called[seat] else self.preempt(seat, now)
        for rank, seat in zip(ranks, seats, strict=True):
            self.call(rank, j)
            self.join(seat, now)

    def emit(self, lane: int, step: int, now: float, seats: list[int]) -> list[Guest]:
        """The step before has ended; returns who has all its tokens, in the order in which they joined."""
        sitting = [guest for seat in seats for guest in self.running[seat]]
        if sitting:
            self.tokens.append((step, lane, len(sitting)))
        for guest in sitting:
            guest.taken += 1
            if guest.steps == guest.output_len:
                guest.context += 1
            if math.isnan(guest.first):
                guest.first = now
        ended = [guest for guest in sitting if guest.taken == guest.steps or guest.context == guest.longest]
        for guest in ended:
            guest.finish = now
        return sorted(ended, key=lambda guest: guest.joined)

    def refill(self, seat: int, now: float, stock: list[Guest]) -> None:
        """The next of the stock that fits waits where somebody has left."""
        while True:
            guest = stock.pop(0)
            guest.arrival = now
            if self.house.nbytes(guest.longest) <= self.house.budget:
                self.wait(guest, seat)
                return
            self.refused.append(guest)

    def join(self, seat: int, now: float) -> None:
        """Who is called and has its context takes part from the next step on."""
        called, self.called[seat] = self.called[seat], []
        for guest in called:
            if guest.ready == math.inf:
                guest.ready = self.copy(seat // self.m, guest, now)
            if guest.ready > now:
                self.called[seat].append(guest)
                continue
            guest.joined, self.joins = self.joins, self.joins + 1
            guest.admitted = now if math.isnan(guest.admitted) else guest.admitted
            self.running[seat].append(guest)

    def populate(self, concurrency: int, stock: list[Guest]) -> None:
        """A closed loop begins full, with ages evenly spread as far as KV cache goes."""
        for _ in range(concurrency):
            while not self.arrive(stock.pop(0)):
                pass
        for called in self.called:
            for place, guest in enumerate(called):
                guest.context += (2 * place + 1) * guest.output_len // (2 * len(called))
        for rank in range(len(self.waiting)):
            while self.held(rank) > self.house.budget:
                seat = max(range(rank * self.m, (rank + 1) * self.m), key=lambda seat: (self.taken(seat), seat))
                guest = self.uncall(seat)
                guest.context = guest.input_len
