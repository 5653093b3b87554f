"""What an outage does to those who sit and wait: everybody stands up, and sits down again when the cell goes on.

A request keeps the tokens that are out; its context at the next first step is its input and these. Who keeps the KV
cache keeps the seat. The others are seated anew in order of arrival, with those who waited, and may join when their
context has been computed again; or they are rejected, and a closed loop sends the next ones in their place.

Plain Python over the arrays of `seats`, one text for both engines: outages are rare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from afdsim.engine import seats
from afdsim.engine.faults import Hit
from afdsim.engine.seats import NOBODY, UNBOUNDED, Asked, Book, Places

Array = np.ndarray
Stay = tuple[int, int, int, int, int, int]
"""Request, seat, first step, steps, context at the first step, tokens: a row of `record.Stays`."""


class Rules(NamedTuple):
    """What becomes of contexts."""

    gone: Array
    """Whether a unit has lost its KV cache (u,)."""
    away: Array
    """Whether a unit takes no part from now on (u,)."""
    at: float
    resumed: float
    pace: float | None
    """Tokens per second at which a context is computed again; None: it is not, and its request is rejected."""


def interrupt(places: Places, asked: Asked, book: Book, reached: Array, rules: Rules, stays: list[Stay]) -> Hit:
    """Let everybody stand up, and seat them for the time after; `stays` has every stay so far and gets these.

    `reached` is the latest step whose boundary a lane has passed (lane,).
    """
    sitting = _sitting(book)
    _stand_up(places, book, sitting, reached, stays)
    lost = _lost(places, book, set(sitting), rules.gone)
    tokens, again = len(sitting), 0
    if rules.pace is None:
        tokens += _reject(book, lost, stays, rules.at)
        for request in lost if asked.closed else ():
            seats.refill(places, asked, book, int(book.requests[request, seats.SEAT]), rules.at)
    else:
        again = sum(_ready(book, request, rules.resumed, rules.pace) for request in lost)
    _clear(book)
    _seat_anew(places, book, rules.away)
    return Hit(len(sitting), len(lost), 0 if rules.pace is not None else len(lost), tokens, again)


def _sitting(book: Book) -> list[int]:
    """Those who take part in steps."""
    issued = book.count[seats.ISSUED]
    there = (book.requests[:issued, seats.JOINED] >= 0) & ~_ended(book)
    found: list[int] = np.flatnonzero(there).tolist()
    return found


def _lost(places: Places, book: Book, sitting: set[int], gone: Array) -> list[int]:
    """Those without their context: it was on a unit that lost its cache, or was still being computed again."""
    there = [request for request in _present(book) if not math.isnan(book.times[request, seats.ADMITTED])]
    unit = [int(book.requests[request, seats.SEAT]) // places.micro_batches // places.ranks for request in there]
    return [
        request
        for request, u in zip(there, unit, strict=True)
        if gone[u] or not (request in sitting or math.isnan(book.times[request, seats.READY]))
    ]


def _present(book: Book) -> list[int]:
    """Those who have come and not ended, in order of arrival."""
    order = np.argsort(book.times[: book.count[seats.ISSUED], seats.ARRIVAL], kind="stable")
    found: list[int] = order[~_ended(book)[order]].tolist()
    return found


def _ended(book: Book) -> Array:
    """Mark those who have finished, were refused or are lost (request,)."""
    issued = book.count[seats.ISSUED]
    gone = ~np.isnan(book.times[:issued, [seats.FINISH, seats.LOST]])
    return np.asarray((book.requests[:issued, seats.REFUSED] > 0) | gone.any(axis=1))


def _stand_up(places: Places, book: Book, sitting: list[int], reached: Array, stays: list[Stay]) -> None:
    """Take those who sit out of their lanes, and note the stays that had a token.

    What a lane has yielded is handed out in whole tokens, one request after the other.
    """
    requests, yielded = book.requests, dict[int, int]()
    for request in sitting:
        seat, joined, context = (int(requests[request, x]) for x in (seats.SEAT, seats.JOINED, seats.CONTEXT))
        lane = seat // places.micro_batches // places.ranks * places.micro_batches + seat % places.micro_batches
        steps = int(reached[lane]) - joined
        requests[request, seats.JOINED], book.times[request, seats.READY] = NOBODY, math.nan
        if steps == 0:
            continue
        left = seats.steps_of(requests, request) - steps
        gained = seats.tokens_of(requests, request) * places.scale - seats.pace_of(places, requests, request) * left
        before = yielded.get(lane, 0)
        yielded[lane] = before + int(gained)
        tokens = yielded[lane] // places.scale - before // places.scale
        stays.append((request, seat, joined, steps, context, tokens))
        requests[request, seats.CONTEXT] += tokens
        if requests[request, seats.DRAWN] > 0:
            requests[request, seats.DRAWN] = left


def _reject(book: Book, lost: list[int], stays: list[Stay], at: float) -> int:
    """End those whose context is lost; returns the tokens that they had got."""
    book.times[lost, seats.LOST] = at
    book.count[seats.OUTSTANDING] -= book.requests[lost, seats.COUNTED].sum()
    ended = set(lost)
    return sum(tokens for request, *_, tokens in stays if request in ended)


def _ready(book: Book, request: int, resumed: float, pace: float) -> int:
    """Let a request wait until its context is there again; returns the tokens of that."""
    seats.recompute(book, request, resumed, pace)
    return int(book.requests[request, seats.CONTEXT])


def _clear(book: Book) -> None:
    """Nobody sits anywhere, nobody is called or queues."""
    lanes, rows = book.lanes, book.seats
    lanes[:] = 0
    lanes[:, seats.FRESH] = NOBODY
    book.buckets[:] = NOBODY
    book.contexts[:] = 0
    book.growing[:] = 0
    rows[:, [seats.BATCH, seats.TAKEN, seats.SEQUENCES]] = 0
    rows[:, [seats.CALLED, seats.LAST_CALLED]] = NOBODY
    book.queues[:] = NOBODY
    book.count[[seats.ACTIVE, seats.QUEUE]] = 0


def _seat_anew(places: Places, book: Book, away: Array) -> None:
    """Give those who keep their context their seat again, then the others one where the fewest are."""
    rows, requests, times = book.seats, book.requests, book.times
    slots = np.tile(places.slots, len(rows) // places.micro_batches)
    shut = (slots == 0) | np.repeat(away, len(rows) // len(away))
    rows[:, seats.CROWD] = np.where(shut, UNBOUNDED, 0)
    book.ranks[:, seats.KV_FREE] = places.kv_budget
    present = _present(book)
    keeps = [not math.isnan(times[each, seats.ADMITTED]) and math.isnan(times[each, seats.READY]) for each in present]
    for request in (each for each, kept in zip(present, keeps, strict=True) if kept):
        seat = requests[request, seats.SEAT]
        book.ranks[seat // places.micro_batches, seats.KV_FREE] -= seats.need(places, requests, request)
        seats.crowd(places, rows, seat, 1)
        seats.append(requests, rows, seat, seats.CALLED, request)
        rows[seat, seats.TAKEN] += 1
        book.count[seats.QUEUE] += 1
    for request in (each for each, kept in zip(present, keeps, strict=True) if not kept):
        seats.welcome(places, book, request)


def earliest(book: Book, now: float) -> float:
    """When the first of those who wait may join, if nobody sits: `now`, unless all contexts are still computed."""
    called = [request for first in book.seats[:, seats.CALLED].tolist() for request in _chain(book, first)]
    moments = [float(book.times[request, seats.READY]) for request in called]
    return max(now, min((moment if math.isfinite(moment) else now for moment in moments), default=now))


def _chain(book: Book, request: int) -> Iterable[int]:
    """A list of requests, from its first on."""
    while request != NOBODY:
        yield request
        request = int(book.requests[request, seats.NEXT])
