"""Seats as a state machine: whatever comes in whatever order, both texts agree, and nobody overtakes."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from afdsim.engine import seats, turnover
from afdsim.engine.seats import append, fewest, give_back, queue
from tests.engine.machine import SideBySide

RING = 8
"""Buckets of steps: fewer than answers have tokens, so that they go round, as they do for answers of thousands."""


@pytest.fixture(autouse=True)
def short_ring(monkeypatch):
    for room in (seats, turnover):
        monkeypatch.setattr(room, "RING", RING)


class Reserving(SideBySide):
    """Whoever is called holds all that it may need."""

    @invariant()
    def nobody_overtakes(self) -> None:
        """A rank calls requests in the order in which they came."""
        for calls in self.plain.calls:
            assert [guest.number for guest in calls] == sorted(guest.number for guest in calls)


def test_whatever_comes_seats_are_what_plain_lists_say():
    run_state_machine_as_test(Reserving, settings=settings(stateful_step_count=25))


# negative controls: what is broken is found -----------------------------------------------------------------------------

CONTROL = settings(max_examples=60, phases=[Phase.generate], derandomize=True, deadline=None, database=None)
"""As many as find it, not made small."""


def first_place(places, table, rank, here):
    """The first free place, not the one with the fewest."""
    free = [rank * places.micro_batches + j for j in range(places.micro_batches)]
    return next((seat for seat in free if table[seat, seats.TAKEN] < places.slots[seat % len(free)]), seats.NOBODY)


def one_too_many(places, table, rank, here):
    """A place more than there is."""
    return fewest(places._replace(slots=places.slots + 1), table, rank, here)


def at_the_head(places, book, request, seat):
    """Whoever comes waits before all others."""
    queue(places, book, request, seat)
    if book.queues[seat // places.micro_batches, seats.HEAD] != request:
        last = book.queues[seat // places.micro_batches, seats.HEAD]
        while book.requests[last, seats.NEXT] != request:
            last = book.requests[last, seats.NEXT]
        book.requests[last, seats.NEXT] = seats.NOBODY
        book.requests[request, seats.NEXT] = book.queues[seat // places.micro_batches, seats.HEAD]
        book.queues[seat // places.micro_batches] = request, last


def a_byte_less(places, book, request, held):
    """Somebody keeps a byte."""
    give_back(places, book, request, held - 1.0)


def all_at_once(requests, lists, row, first, request):
    """A list of one: whoever was in it is forgotten."""
    append(requests, lists, row, first, request)
    lists[row, first] = request


@pytest.mark.parametrize(
    ("room", "name", "broken"),
    [
        (seats, "fewest", first_place),
        (seats, "fewest", one_too_many),
        (seats, "queue", at_the_head),
        (turnover, "give_back", a_byte_less),
        (seats, "append", all_at_once),
    ],
    ids=lambda each: each.__name__ if callable(each) else None,
)
def test_a_planted_bug_in_seats_is_found(monkeypatch, room, name, broken):
    monkeypatch.setattr(room, name, broken)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Reserving, settings=CONTROL)
