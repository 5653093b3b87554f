"""Continuous batching by hand: lanes are turned over one after the other, and everything is counted again each time."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.cost.roofline import CostModel
from afdsim.engine import seats
from afdsim.engine.cell import Cell
from afdsim.engine.desk import Desk
from afdsim.engine.lowering import lower
from afdsim.engine.population import populate
from afdsim.engine.seats import FOREVER, NOBODY
from afdsim.engine.turnover import turn_over
from afdsim.scenario.document import Scenario
from afdsim.simulation import demanded
from tests.cases import tiny, tiny_windowed
from tests.laws.test_colocated import engines
from tests.laws.test_equivalence import deployments

PERIOD = 1e-3
"""Seconds of a made-up step."""
MOST = 150
"""Steps."""


class Office:
    """A desk whose lanes are turned over at made-up times."""

    def __init__(self, scenario: Scenario, cost: CostModel | None = None) -> None:
        self.cell: Cell = lower(scenario, seed=0, cost=cost)
        self.desk = Desk(self.cell, demanded(scenario, self.cell, 0))
        self.now = self.desk.begin(populate)
        self.step = 0

    @property
    def book(self) -> seats.Book:
        return self.desk.book

    @property
    def places(self) -> seats.Places:
        return self.desk.machine.places

    @property
    def open(self) -> bool:
        return self.desk.ends == FOREVER and self.step < MOST

    def turn(self) -> None:
        """All lanes of a step, in order."""
        if self.desk.short:
            self.desk.draw_more()
        if self.desk.full:
            self.desk.extend_rows()
        self.now += PERIOD
        for lane in range(len(self.book.lanes)):
            if self.desk.ends == FOREVER:
                turn_over(self.places, self.desk.machine.asked, self.book, lane, self.step, self.now)
        self.step += 1

    @property
    def seated(self) -> np.ndarray:
        """Requests that run."""
        times = self.book.times[: self.book.count[seats.ISSUED]]
        return np.flatnonzero(~np.isnan(times[:, seats.ADMITTED]) & np.isnan(times[:, seats.FINISH]))

    @property
    def called(self) -> list[list[int]]:
        """Requests that are called to every seat and have not joined yet."""
        return [chained(self.book, seat[seats.CALLED]) for seat in self.book.seats]

    @property
    def waiting(self) -> list[list[int]]:
        """Requests in the queue of every rank."""
        return [chained(self.book, queue[seats.HEAD]) for queue in self.book.queues]

    def need(self, request: int) -> float:
        return float(seats.need(self.places, self.book.requests, request))


def chained(book: seats.Book, first: int) -> list[int]:
    """A list of requests from its first on."""
    found = []
    while first != NOBODY:
        found.append(int(first))
        first = book.requests[first, seats.NEXT]
    return found


def anything() -> st.SearchStrategy[Scenario]:
    return st.one_of(deployments(), engines())


@given(anything())
def test_kv_cache_is_never_overdrawn_and_given_back(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        held = np.zeros(len(office.book.ranks))
        for request in [*office.seated, *chain.from_iterable(office.called)]:
            held[office.book.requests[request, seats.SEAT] // office.places.micro_batches] += office.need(request)
        free, budget = office.book.ranks[:, seats.KV_FREE], office.places.kv_budget

        assert (held <= budget).all()
        assert (free == budget - held).all()


@given(anything())
def test_nobody_sits_twice_and_no_micro_batch_is_overfull(scenario):
    office = Office(scenario)
    slots = np.tile(office.places.slots, len(office.book.ranks))
    while office.open:
        office.turn()
        book, running = office.book, office.seated
        batch = np.bincount(book.requests[running, seats.SEAT], minlength=len(book.seats))

        assert (book.seats[:, seats.BATCH] == batch).all()
        assert (batch <= slots).all()
        assert book.count[seats.ACTIVE] == len(running)
        called, waiting = list(map(len, office.called)), list(map(len, office.waiting))
        assert (book.seats[:, seats.TAKEN] == batch + called).all()
        assert (book.seats[:, seats.TAKEN] <= slots).all()
        assert book.seats[:, seats.SEQUENCES].sum() == batch.sum() + sum(called) + sum(waiting)
        assert book.count[seats.QUEUE] == sum(called) + sum(waiting)
        assert book.count[seats.ISSUED] == (
            book.count[seats.FINISHED]
            + book.count[seats.ACTIVE]
            + book.count[seats.QUEUE]
            + book.requests[:, seats.REFUSED].sum()
        )


@given(anything())
def test_sums_of_contexts_are_those_of_the_sequences_that_sit(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        book, places, step = office.book, office.places, office.step - 1
        if office.desk.ends < FOREVER:
            break  # the lanes behind the last one have not turned over
        expected = np.zeros_like(book.contexts)
        for request in office.seated:
            row = book.requests[request]
            taken, pace = step - row[seats.JOINED], seats.pace_of(places, book.requests, request)
            read = int(row[seats.CONTEXT]) * places.scale + int(taken * pace)
            for w, window in enumerate(map(int, places.windows)):
                expected[w, row[seats.SEAT]] += min(read, window * places.scale)

        assert np.array_equal(book.contexts, expected)


@given(anything(), st.sampled_from([None, {"draft": 1, "acceptance": 0.6}, {"draft": 2, "acceptance": 1.0}]))
def test_tokens_are_conserved_with_and_without_drafts(scenario, mtp):
    office = Office(scenario.vary("deployment.mtp", mtp))
    while office.open:
        office.turn()
    book = office.book
    issued = book.count[seats.ISSUED]
    requests, rows = book.requests[:issued], book.rows[: book.count[seats.BOUNDARIES]]
    tokens = requests[:, seats.INPUT_LEN] + requests[:, seats.OUTPUT_LEN] - requests[:, seats.CONTEXT]
    finished = ~np.isnan(book.times[:issued, seats.FINISH])
    emitted = rows[:, seats.TOKENS].sum()

    assert (rows[:, seats.GAPS] >= 0).all()
    assert tokens[finished].sum() <= emitted + len(book.lanes)
    if book.count[seats.ACTIVE] == 0:
        assert emitted == tokens[finished].sum()
        assert (book.lanes[:, seats.OWED] == 0).all()


@given(anything())
def test_who_waits_finds_no_place_or_no_cache(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        book, m = office.book, office.places.micro_batches
        for rank, waiting in enumerate(office.waiting):
            free = office.places.slots - book.seats[rank * m : (rank + 1) * m, seats.TAKEN]
            if waiting and (free > 0).any() and office.desk.ends == FOREVER:
                assert office.need(waiting[0]) > book.ranks[rank, seats.KV_FREE]


# by hand -------------------------------------------------------------------------------------------------------------


def test_a_closed_loop_fills_its_seats_in_turn_with_ages_evenly_spread():
    office = Office(tiny(attention=2, deployment__max_num_seqs=6, workload__output_len__value=8))

    # two instances of one rank, three micro-batches: two sequences a seat, at a quarter and three quarters of 8 tokens
    assert office.called == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    ages = office.book.requests[:12, seats.CONTEXT] - office.book.requests[:12, seats.INPUT_LEN]
    assert ages.tolist() == [2] * 6 + [6] * 6


def test_a_request_leaves_after_its_tokens_and_the_next_takes_its_seat():
    office = Office(tiny(deployment__num_microbatches=1, deployment__max_num_seqs=1, workload__output_len__value=4))
    joined = []
    for _ in range(11):
        office.turn()
        joined.append([int(request) for request in office.seated])

    # the first is two tokens old, the others have four steps each
    assert joined == [[0], [0], *[[1]] * 4, *[[2]] * 4, [3]]
    assert office.book.count[seats.FINISHED] == 3
    first, finish = (office.book.times[1, column] for column in (seats.FIRST_TOKEN, seats.FINISH))
    assert finish - first == pytest.approx(3 * PERIOD)


def test_an_arrival_takes_the_emptiest_seat():
    arrival = {"process": "constant", "request_rate": "1000 req/s"}
    office = Office(tiny(attention=2, workload__arrival=arrival, workload__num_requests=8))
    while office.book.count[seats.ISSUED] < 8:
        office.turn()

    assert office.book.requests[:8, seats.SEAT].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_a_request_that_no_rank_could_hold_is_refused():
    huge = {"distribution": "constant", "value": 10**9}
    arrival = {"process": "constant", "request_rate": "1000 req/s"}
    office = Office(tiny(workload__arrival=arrival, workload__num_requests=3, workload__input_len=huge))
    while office.open:
        office.turn()

    assert office.book.requests[:3, seats.REFUSED].tolist() == [1, 1, 1]
    assert office.book.count[seats.FINISHED] == 0


def test_a_context_stops_growing_at_its_window():
    changes = {"model": tiny_windowed(2), "workload__input_len__value": 308, "workload__output_len__value": 6}
    office = Office(tiny(deployment__num_microbatches=1, deployment__max_num_seqs=1, **changes))
    seen = []
    for _ in range(9):
        office.turn()
        seen.append(office.book.contexts[:, 0].tolist())
    short, whole = ([row[office.cell.windows.index(window)] for row in seen] for window in (310, None))

    # the first request is three tokens old, then come new ones
    assert whole == [311, 312, 313, 308, 309, 310, 311, 312, 313]
    assert short == [310, 310, 310, 308, 309, 310, 310, 310, 310]
