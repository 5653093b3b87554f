"""Rules for `hypothesis`: requests arrive and lanes turn over, in flat arrays and in plain lists side by side."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from afdsim.engine import seats, turnover
from afdsim.engine.blank import blank_book
from afdsim.engine.desk import BLANK, extended
from afdsim.engine.population import populate
from afdsim.engine.seats import NOBODY, UNBOUNDED, Asked, Book
from tests.engine.plain import Guest, House, Plain

MANY = 1 << 30
"""Requests that count: more than there are, so that a run never ends by itself."""
PATIENCE = 3000
"""Steps in which everybody has left that was there."""
Lengths = tuple[int, int, int]


@st.composite
def houses(draw: st.DrawFn, grows: bool) -> House:
    """Any small deployment, whose KV cache holds one to four of the longest requests."""
    windows = draw(st.sampled_from([(UNBOUNDED,), (7,), (5, UNBOUNDED), (4, 9, UNBOUNDED)]))
    micro_batches = draw(st.integers(1, 3))
    slots = draw(st.lists(st.integers(0, 3), min_size=micro_batches, max_size=micro_batches).filter(any))
    closed = draw(st.booleans())
    house = House(
        units=draw(st.integers(1, 2)),
        ranks=draw(st.integers(1, 2)),
        slots=tuple(slots),
        budget=0,
        windows=windows,
        per_token=tuple(draw(st.integers(1, 3)) for _ in windows),
        fixed=draw(st.sampled_from([0, 5])),
        block=draw(st.sampled_from([1, 1, 3, 4, 16])),
        grows=grows,
        swaps=grows and draw(st.booleans()),
        pace=draw(st.sampled_from([2.0, 10.0, 1e9])),
        scale=1 if grows or closed else draw(st.sampled_from([1, 12])),
        closed=closed,
    )
    budget = math.ceil(house.nbytes(20) * draw(st.sampled_from([1.0, 1.3, 2.0, 4.0])))
    return House(**{**vars(house), "budget": budget})


LENGTHS = st.tuples(st.integers(1, 10), st.integers(1, 14), st.integers(1, 14))
"""Prompt, answer, and the most steps that the answer takes; where memory is scarce some fit nowhere."""


class SideBySide(RuleBasedStateMachine):
    """A house in both texts."""

    grows = False

    def __init__(self) -> None:
        super().__init__()
        self.step, self.lane, self.now = 0, 0, 0.0

    # rules -----------------------------------------------------------------------------------------------------------

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        """Nobody is there, or a closed loop is full."""
        self.house = house = data.draw(houses(self.grows))
        most = data.draw(st.integers(1, 2 * house.units * house.ranks * sum(house.slots))) if house.closed else 0
        self.asked = Asked(house.closed, MANY, most, -1.0 if house.closed else 3.0, math.inf)
        self.places, self.plain = house.places, Plain(house=house)
        self.book: Book = blank_book(self.places, house.units, self.asked)
        self.guests: list[Guest] = []
        self.stock: list[Guest] = []
        if house.closed:
            lengths = data.draw(st.lists(LENGTHS, min_size=1, max_size=6))
            self.supply = [*lengths, (1, 1, 1)]  # one that fits
            self.restock()
            populate(self.places, self.asked, self.book)
            self.plain.populate(most, self.stock)

    @precondition(lambda self: not self.house.closed)
    @rule(lengths=st.lists(LENGTHS, min_size=1, max_size=4))
    def arrive(self, lengths: list[Lengths]) -> None:
        """Some come at once; they are seen at the next boundary."""
        self.plain.outside += [self.known(each) for each in lengths]
        self.book.count[seats.KNOWN] = len(self.guests)

    @rule(boundaries=st.integers(1, 9))
    def go_on(self, boundaries: int) -> None:
        """So many lanes turn over, in order."""
        for _ in range(boundaries):
            self.turn_over()
            self.agree()

    def turn_over(self) -> None:
        if self.house.closed and len(self.stock) < 100:
            self.restock()
        self.now += 1.0
        turnover.turn_over(self.places, self.asked, self.book, self.lane, self.step, self.now)
        self.plain.turn_over(self.lane, self.step, self.now, self.stock)
        self.lane = (self.lane + 1) % len(self.book.lanes)
        self.step += self.lane == 0

    def restock(self) -> None:
        """Have some hundred more requests of a closed loop."""
        self.stock += [self.known(each) for each in self.supply * (200 // len(self.supply))]

    def known(self, lengths: Lengths) -> Guest:
        """One more request, in both texts."""
        (input_len, output_len, most), number = lengths, len(self.guests)
        drafts = self.house.scale > 1
        steps = min(most, output_len) if drafts else output_len
        guest = Guest(
            number=number, input_len=input_len, output_len=output_len, steps=steps, arrival=self.now, context=input_len
        )
        self.guests.append(guest)
        if number >= len(self.book.requests):
            self.book = roomier(self.book, 2 * number + 64, len(self.house.windows))
        row = self.book.requests[number]
        row[[seats.INPUT_LEN, seats.OUTPUT_LEN, seats.DRAWN]] = input_len, output_len, steps * drafts
        self.book.times[number, seats.ARRIVAL] = math.nan if self.house.closed else self.now
        return guest

    # laws ------------------------------------------------------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        """Both texts say the same."""
        book, plain = self.book, self.plain
        assert [chained(book, seat[seats.CALLED]) for seat in book.seats] == numbers(plain.called)
        assert [chained(book, queue[seats.HEAD]) for queue in book.queues] == numbers(plain.waiting)
        assert running(book) == [sorted(each) for each in numbers(plain.running)]
        assert book.seats[:, seats.TAKEN].tolist() == [plain.taken(seat) for seat in range(len(book.seats))]
        assert book.seats[:, seats.SEQUENCES].tolist() == [plain.counted(seat) for seat in range(len(book.seats))]
        assert book.seats[:, seats.BATCH].tolist() == [len(each) for each in plain.running]
        free = [self.house.budget - plain.held(rank) for rank in range(len(book.ranks))]
        assert book.ranks[:, seats.KV_FREE].tolist() == free
        for w, window in enumerate(self.house.windows):
            assert book.contexts[w].tolist() == [plain.read(seat, window) for seat in range(len(book.seats))]

    @invariant()
    def nobody_is_in_two_places_and_nobody_is_lost(self) -> None:
        """Whoever has arrived waits, is called, sits, has left or was refused, once."""
        book, issued = self.book, int(self.book.count[seats.ISSUED])
        waiting = list(chain.from_iterable(chained(book, queue[seats.HEAD]) for queue in book.queues))
        called = list(chain.from_iterable(chained(book, seat[seats.CALLED]) for seat in book.seats))
        sitting = list(chain.from_iterable(running(book)))
        left = np.flatnonzero(~np.isnan(book.times[:issued, seats.FINISH])).tolist()
        refused = np.flatnonzero(book.requests[:issued, seats.REFUSED]).tolist()
        everyone = Counter([*waiting, *called, *sitting, *left, *refused])

        assert everyone == Counter(range(issued))
        assert book.count[seats.QUEUE] == len(waiting) + len(called)
        assert book.count[seats.ACTIVE] == len(sitting)
        assert book.count[seats.FINISHED] == len(left)

    @invariant()
    def no_place_and_no_byte_is_given_twice(self) -> None:
        """Taken places are at most those that there are, and so are bytes."""
        taken, free = self.book.seats[:, seats.TAKEN], self.book.ranks[:, seats.KV_FREE]

        assert (taken <= np.resize(self.house.slots, len(taken))).all()
        assert (free >= 0).all()
        assert (free <= self.house.budget).all()

    @invariant()
    def the_first_in_a_queue_waits_for_a_place_or_for_kv_cache(self) -> None:
        """A queue moves at boundaries of its rank's lanes: behind one, whoever is first there has not got both."""
        if self.step + self.lane == 0:
            return
        lane = (self.lane - 1) % len(self.book.lanes)
        m, unit = len(self.house.slots), lane // len(self.house.slots)
        for rank in range(unit * self.house.ranks, (unit + 1) * self.house.ranks):
            first = int(self.book.queues[rank, seats.HEAD])
            taken = self.book.seats[rank * m : (rank + 1) * m, seats.TAKEN]
            if first != NOBODY and (taken < self.house.slots).any():
                assert seats.takes(self.places, self.book.requests, first) > self.book.ranks[rank, seats.KV_FREE]

    def teardown(self) -> None:
        """All go in the end, with all their tokens, at the times that they should have."""
        if not hasattr(self, "plain") or self.house.closed:
            return
        while len(self.plain.done) + len(self.plain.refused) < len(self.guests):
            assert self.step < PATIENCE, "somebody never leaves"
            self.turn_over()
        self.agree()
        rows, times = self.book.rows[: self.book.count[seats.BOUNDARIES]], self.book.times
        assert rows[:, seats.TOKENS].sum() == sum(guest.output_len for guest in self.plain.done)
        assert rows[:, seats.GAPS].sum() == sum(each for *_, each in self.plain.tokens) - sum(
            guest.preempted + 1 for guest in self.plain.done
        )
        for guest in self.plain.done:
            columns = [seats.ADMITTED, seats.FIRST_TOKEN, seats.FINISH]
            assert times[guest.number, columns].tolist() == [guest.admitted, guest.first, guest.finish]
            assert self.book.requests[guest.number, seats.PREEMPTED] == guest.preempted
        assert self.book.count[seats.OUTSTANDING] == 0


def roomier(book: Book, size: int, windows: int) -> Book:
    """The same with room for so many requests, as `Desk` makes it."""
    requests = extended(book.requests, size, 0)
    requests[len(book.requests) :, BLANK] = NOBODY
    times, chains = extended(book.times, size, math.nan), extended(book.next_filling, size * windows, NOBODY)
    return book._replace(requests=requests, times=times, next_filling=chains)


def chained(book: Book, first: int) -> list[int]:
    """A list of requests from its first on."""
    found: list[int] = []
    while first != NOBODY:
        assert len(found) <= len(book.requests), "a list without an end"
        found.append(int(first))
        first = book.requests[first, seats.NEXT]
    return found


def running(book: Book) -> list[list[int]]:
    """Who takes part at every seat, in order of arrival."""
    issued = book.count[seats.ISSUED]
    there = (book.requests[:issued, seats.JOINED] != NOBODY) & np.isnan(book.times[:issued, seats.FINISH])
    who = np.flatnonzero(there)
    where = book.requests[who, seats.SEAT]
    return [who[where == seat].tolist() for seat in range(len(book.seats))]


def numbers(lists: list[list[Guest]]) -> list[list[int]]:
    return [[guest.number for guest in each] for each in lists]
