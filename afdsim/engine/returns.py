"""Turns of sessions at a boundary: whose session goes on, who comes back, and what of its conversation is there.

What is not there when a turn is called is paid for from the next boundary of its seat on: it comes back over the link
to host memory, or is computed again. What the user has said since comes with its KV cache, as every prompt does here.

Plain functions over flat arrays, one text for both engines, as `seats`.
"""

from __future__ import annotations

import math

from afdsim.engine.seats import (
    ADMITTED,
    COPIED,
    COUNT_COUNTED,
    GROUP,
    HIT,
    INPUT_LEN,
    NOBODY,
    OUTPUT_LEN,
    POPULATED,
    SEAT,
    Asked,
    Book,
    Places,
    bring,
    copied,
    issue,
    kept,
    lay_down,
    session_of,
    welcome,
)
from afdsim.engine.sessions import (
    AFRESH,
    ALONE,
    BACK,
    ENDED,
    FETCHED,
    FOUND,
    KEEP,
    OFFLOAD,
    SPOKEN,
    THERE_AT,
    TOKENS_FOUND,
    push,
    successor,
    take_next,
    upcoming,
)


def come_back(places: Places, asked: Asked, book: Book, now: float) -> None:
    """Seat every turn that has come by `now`, and every session that an open loop opens, in order of arrival."""
    while upcoming(book.sessions) <= now:
        arrival = upcoming(book.sessions)
        bring(book, take_next(book.sessions))
        counted = arrival >= asked.warmup
        if asked.closed:
            counted = book.count[POPULATED] > 0 and book.count[COUNT_COUNTED] < asked.num_requests
        if counted or not asked.closed:
            book.count[COUNT_COUNTED] += 1
        request = issue(places, book, arrival, counted)
        if request != NOBODY:
            welcome(places, book, request)


def go_on(places: Places, book: Book, request: int, now: float) -> bool:
    """Let the session of a request that has finished go on, if there is another turn; returns whether there is."""
    sessions, requests = book.sessions, book.requests
    turn, session = successor(sessions, requests[request, GROUP]), session_of(book, request)
    if turn == NOBODY:
        sessions.tally[ENDED] += 1
        return False
    rank = requests[request, SEAT] // places.micro_batches
    sessions.homes[session, SPOKEN] = requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN]
    push(sessions, now + sessions.think[turn], turn)
    if places.keeping.between == KEEP:
        lay_down(places, book, request)
    elif places.keeping.between == OFFLOAD:
        seconds = kept(places, sessions.homes[session, SPOKEN]) / places.keeping.link
        book.ranks[rank, COPIED] = max(now, book.ranks[rank, COPIED]) + seconds
        sessions.held[session, THERE_AT] = book.ranks[rank, COPIED]
    return True


def note_return(places: Places, book: Book, request: int) -> None:
    """Note of a turn that joins how much of its conversation it found, and what became of the rest."""
    spoken, tally = book.sessions.homes[session_of(book, request), SPOKEN], book.sessions.tally
    found = book.requests[request, HIT]
    if spoken == 0:
        return
    tally[BACK] += 1
    tally[FOUND] += int(found > 0)
    tally[TOKENS_FOUND] += found
    tally[FETCHED if places.keeping.between == OFFLOAD else AFRESH] += spoken - found


def fetch(places: Places, book: Book, request: int, since: float) -> float:
    """When the context of a request is there that lies in host memory, or nowhere."""
    if places.keeping.between == ALONE or not math.isnan(book.times[request, ADMITTED]):
        return copied(places, book, request, since)
    session, rank = session_of(book, request), book.requests[request, SEAT] // places.micro_batches
    spoken, sessions = book.sessions.homes[session, SPOKEN], book.sessions
    if places.keeping.between == OFFLOAD:
        since = max(since, sessions.held[session, THERE_AT], book.ranks[rank, COPIED])
        book.ranks[rank, COPIED] = since + kept(places, spoken) / places.keeping.link
        return float(book.ranks[rank, COPIED])
    return float(since + spoken / places.keeping.again)
