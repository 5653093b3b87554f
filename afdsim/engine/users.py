"""A closed loop behind prefill servers: whoever has an answer sends the next prompt, which prefill computes first.

At first all users sit in decode with evenly spread ages, as they do without prefill; then as many are behind a prompt
as prefill makes them wait. So what is sent during the warm-up does not count: until as many requests have finished as
there are users, unless its length is given.

Prefill and decode take turns by stretches no longer than the shortest step: what a finish inside a stretch leads
to reaches decode behind it, so nothing is ever known too late.
A prompt whose request no rank could ever hold is refused when it is sent, and its user sends the next one.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

import numpy as np

from afdsim.cost.prompts import Chunk
from afdsim.engine import seats
from afdsim.engine.capacity import fits
from afdsim.engine.cell import Array
from afdsim.engine.desk import Demand
from afdsim.engine.fleet import Member
from afdsim.engine.handover import joined
from afdsim.engine.prefill import Pool, Prompt, Queue, Served
from afdsim.engine.record import Record
from afdsim.engine.seats import FOREVER
from afdsim.errors import SimulationError, StoppedEarly

NEVER = float("nan")
CAREFUL = 0.999
"""Of the shortest time: a stretch is a little less, because times are rounded."""
DRAWN = 4096
"""Requests whose lengths are drawn at first, before the number is doubled."""


class Sent(NamedTuple):
    """A prompt that a user has sent."""

    time: float
    prompt: Prompt | None
    """None where it is refused."""


def behind(pool: Pool, member: Member, demand: Demand) -> Record:
    """Run a closed loop whose prompts go through a pool before they reach the cell of `member`."""
    loop = _Loop(pool, member, demand)
    try:
        loop.run()
    except StoppedEarly:
        member.desk.cut()
    return loop.record()


class _Loop:
    """The users, between prefill and decode."""

    def __init__(self, pool: Pool, member: Member, demand: Demand) -> None:
        self._pool, self._member, self._demand, self._queue = pool, member, demand, Queue(pool)
        self._lengths = demand.source.columns(DRAWN)
        self._groups = np.zeros(0, dtype=np.int64)
        self._sent: list[Sent] = []
        self._number: dict[int, int] = {}
        """Place in `_sent` of a prompt, by its identity."""
        self._flying: list[tuple[float, int]] = []
        """(when it is with decode, place in `_sent`), a heap."""
        self._alone: list[tuple[float, int]] = []
        """(when it is done, place in `_sent`) of prompts of which one token is all, a heap."""
        self._seated: list[int] = []
        """Place in `_sent` of those that were handed over, in that order."""
        self._inside = np.zeros(0, dtype=np.int64)
        """Rows of decode that have not ended."""
        self._opens = seats.UNBOUNDED
        """Place of the first prompt that counts."""
        self._counted, self._left, self._known = 0, demand.num_requests, 0

    def run(self) -> None:
        """Take turns until everything that counts has ended."""
        desk, stretch = self._member.desk, CAREFUL * shortest(self._pool)
        self._member.begin()
        self._first = int(desk.book.count[seats.ISSUED])
        self._inside = np.flatnonzero(desk.book.requests[: self._first, seats.REFUSED] == 0)
        for turn in count(1):
            until = turn * stretch
            self._hand_over(until)
            self._member.advance(until)
            if desk.ends < FOREVER:
                break
            for time in sorted(self._over(until - stretch, until)):
                self._send(time)
            self._queue.advance(until)
            self._collect()
            if self._left == 0 and desk.dozing:
                self._member.outlast(until)

    def _hand_over(self, until: float) -> None:
        """Let decode know whose KV cache it has before `until`."""
        desk, rows = self._member.desk, []
        while self._flying and self._flying[0][0] < until:
            ready, place = heappop(self._flying)
            input_len, output_len = self._length(place)
            counts = self._counts(place)
            rows.append(int(desk.book.count[seats.KNOWN]))
            desk.submit(ready, input_len + 1, output_len - 1, self._group(place), counts=counts)
            self._seated.append(place)
            self._counted += counts
            self._settle(place)
            if desk.dozing:
                self._member.wake()
        self._inside = np.append(self._inside, np.array(rows, dtype=np.int64))

    def _over(self, since: float, until: float) -> list[float]:
        """Return when the requests have ended that did so from `since` to `until`."""
        times = self._member.desk.book.times[self._inside]
        ends = np.fmax(times[:, seats.FINISH], times[:, seats.LOST])
        ended = ends < until
        self._inside = self._inside[~ended]
        alone = []
        while self._alone and self._alone[0][0] < until:
            time, place = heappop(self._alone)
            self._settle(place)
            alone.append(time)
        return [*np.maximum(ends[ended], since).tolist(), *alone]

    def _send(self, time: float) -> None:
        """A user sends the next prompt, and more while they are refused."""
        if self._opens == seats.UNBOUNDED and time >= self._member.desk.book.clock[seats.WARM_AT]:
            self._opens = len(self._sent)
        while True:
            place = len(self._sent)
            input_len, output_len = self._length(place)
            fit = bool(fits(self._member.desk.machine.places, np.array([input_len + output_len]))[0])
            several = output_len > 1
            prompt = self._queue.submit(time, input_len, answered=several, group=self._group(place)) if fit else None
            self._sent.append(Sent(time, prompt))
            if prompt is not None:
                self._number[id(prompt)] = place
                return
            self._settle(place)

    def _collect(self) -> None:
        """Note whose first token is out, or will be at a known time."""
        found = self._queue.finished
        for prompt in found[self._known :]:
            place = self._number.pop(id(prompt))
            if prompt.answered:
                heappush(self._flying, (prompt.ready, place))
            else:
                heappush(self._alone, (prompt.end, place))
        self._known = len(found)

    def _settle(self, place: int) -> None:
        """One of those that count has been handed over, or is done without decode; after the last, decode may end."""
        self._left -= self._counts(place)
        if self._left == 0:
            self._member.desk.dismiss(self._counted)

    def _counts(self, place: int) -> bool:
        """Whether what was sent at a place counts."""
        return self._opens <= place < self._opens + self._demand.num_requests

    def _length(self, place: int) -> tuple[int, int]:
        """Return input and output tokens of what is sent at a place; the first requests of the source sit at first."""
        number = self._first + place
        while number >= len(self._lengths[0]):
            self._lengths = self._demand.source.columns(2 * len(self._lengths[0]))
        return int(self._lengths[0][number]), int(self._lengths[1][number])

    def _group(self, place: int) -> int:
        """Return the group of what is sent at a place; NOBODY where no prompts begin alike."""
        number = self._first + place
        if number >= len(self._groups):
            self._groups = self._demand.groups(max(2 * number, DRAWN))
        return int(self._groups[number])

    # the end ---------------------------------------------------------------------------------------------------------

    def record(self) -> Record:
        """Return what the run leaves behind: who sat at first, then prompts in the order in which they were sent."""
        record, first = self._member.record(), self._first
        done = self._served()
        whole = joined(record, self._demand, done)
        own, table = record.requests, whole.requests
        assert whole.prefill is not None
        places, sat = np.arange(len(table)) - first, slice(first)
        refused = np.array([each.prompt is None for each in self._sent], dtype=bool)[: len(table) - first]
        kept = {name: getattr(table, name).copy() for name in ("context", "first_token", "finish")}
        for name, column in kept.items():
            column[sat] = getattr(own, name)[sat]
        counted = (places >= self._opens) & (places < self._opens + self._demand.num_requests)
        refused = np.concatenate([own.refused[sat], refused])
        decoded = np.where(places < 0, np.nan, whole.prefill.decoded)
        requests = replace(table, **kept, counted=counted, refused=refused)
        return replace(whole, requests=requests, prefill=replace(whole.prefill, decoded=decoded))

    def _served(self) -> Served:
        """Return what prefill made of the prompts, behind those that sat at first and had none."""
        first, nobody = self._first, Prompt(0.0, 0, False, 0)
        prompts = [each.prompt or nobody for each in self._sent]
        lengths = np.array([self._length(place) for place in range(-first, len(prompts))]).reshape(-1, 2)
        columns = {name: np.array([getattr(each, name) for each in prompts]) for name in ("start", "end", "ready")}
        columns = {name: np.concatenate([np.full(first, NEVER), each]) for name, each in columns.items()}
        return Served(
            pool=self._pool,
            arrival=np.concatenate([np.zeros(first), [each.time for each in self._sent]]),
            input_len=lengths[:, 0],
            output_len=lengths[:, 1],
            order=self._order(),
            prefixes=self._queue.reuse.tally,
            steps=tuple(self._queue.steps),
            blocked=tuple(self._queue.blocked),
            **columns,
        )

    def _order(self) -> Array:
        """Return the rows of the whole table in the order of those of decode."""
        return np.concatenate([np.arange(self._first), self._first + np.array(self._seated, dtype=np.int64)])


def shortest(pool: Pool) -> float:
    """Return the seconds that a prompt takes at least, from its arrival to when decode has its KV cache."""
    ranks = pool.prices.prefill.dp
    step = pool.prices.step([[Chunk(1, 0)], *([] for _ in range(ranks - 1))], [1, *(0 for _ in range(ranks - 1))])
    if step.seconds <= 0:
        raise SimulationError("a closed loop needs prefill steps that take time: here they take none")
    return step.seconds
