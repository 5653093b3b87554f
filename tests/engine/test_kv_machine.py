"""KV cache that grows as a state machine: whatever comes, bytes are what those who sit hold, and all go in the end."""

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from afdsim.engine import seats, turnover
from afdsim.engine.turnover import preempt, schedule
from tests.engine.machine import SideBySide
from tests.engine.test_seats_machine import CONTROL, short_ring

__all__ = ["short_ring"]


class Growing(SideBySide):
    """Whoever sits holds the blocks that it fills, and may lose them."""

    grows = True

    @invariant()
    def who_joined_last_is_known(self) -> None:
        """Those at a seat are chained in the order in which they joined, from the last on."""
        for seat, sitting in enumerate(self.plain.running):
            found, request = [], int(self.book.seats[seat, seats.YOUNGEST])
            while request != seats.NOBODY and len(found) <= len(sitting):
                found.append(request)
                request = int(self.book.requests[request, seats.OLDER])

            assert found == [guest.number for guest in reversed(sitting)]


def test_whatever_comes_kv_cache_is_what_those_who_sit_hold():
    run_state_machine_as_test(Growing, settings=settings(stateful_step_count=25))


# negative controls: what is broken is found -----------------------------------------------------------------------------


def the_oldest(places, book, lane, request, step, now):
    """Whoever has been there longest makes room."""
    while book.requests[request, seats.OLDER] != seats.NOBODY:
        request = book.requests[request, seats.OLDER]
    preempt(places, book, lane, request, step, now)


def too_late(places, book, lane, request, step):
    """A sequence claims its block a step after it has begun to fill it."""
    schedule(places, book, lane, request, step + 1)


def to_the_end(places, book, request):
    """Whoever is preempted waits behind all others."""
    book.count[seats.QUEUE] -= 1
    book.seats[book.requests[request, seats.SEAT], seats.TAKEN] -= 1
    seats.crowd(places, book.seats, book.requests[request, seats.SEAT], -1)
    seats.queue(places, book, request, book.requests[request, seats.SEAT])


def for_nothing(book, request, since, pace):
    """A context is computed again at once."""
    book.times[request, seats.READY] = since


@pytest.mark.parametrize(
    ("name", "broken"),
    [("preempt", the_oldest), ("schedule", too_late), ("put_back", to_the_end), ("recompute", for_nothing)],
    ids=lambda each: each.__name__ if callable(each) else None,
)
def test_a_planted_bug_in_kv_cache_is_found(monkeypatch, name, broken):
    monkeypatch.setattr(turnover, name, broken)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Growing, settings=CONTROL)
