"""How a closed loop begins: full, with ages that are evenly spread, as far as KV cache goes.

Plain functions over flat arrays, one text for both engines, as `seats`.
"""

from __future__ import annotations

from afdsim.engine.seats import (
    CALLED,
    CONTEXT,
    INPUT_LEN,
    KV_FREE,
    LEFT,
    NEXT,
    NOBODY,
    OUTPUT_LEN,
    POPULATED,
    TAKEN,
    Asked,
    Book,
    Places,
    bring,
    issue,
    takes,
    uncall,
    welcome,
)
from afdsim.engine.sessions import ALONE, open_next


def populate(places: Places, asked: Asked, book: Book) -> None:
    """Fill a closed loop; those with a place have ages that are evenly spread inside every seat, the others wait."""
    requests = book.requests
    for _ in range(asked.concurrency):
        request = NOBODY
        while request == NOBODY:
            if places.keeping.between != ALONE:
                bring(book, open_next(book.sessions))
            request = issue(places, book, 0.0, False)
        welcome(places, book, request)
    for seat in range(len(book.seats)):
        request, place = book.seats[seat, CALLED], 0
        while request != NOBODY:
            age = (2 * place + 1) * requests[request, OUTPUT_LEN] // (2 * book.seats[seat, TAKEN])
            young = takes(places, requests, request)
            requests[request, CONTEXT] += age
            requests[request, LEFT] = 0
            book.ranks[seat // places.micro_batches, KV_FREE] -= takes(places, requests, request) - young
            request = requests[request, NEXT]
            place += 1
    for rank in range(len(book.ranks)):
        shed(places, book, rank)
    book.count[POPULATED] = 1


def shed(places: Places, book: Book, rank: int) -> None:
    """Let the last that are called wait, without their age, where those that have one no longer fit together."""
    while book.ranks[rank, KV_FREE] < 0.0:
        fullest = rank * places.micro_batches
        for seat in range(fullest, fullest + places.micro_batches):
            if book.seats[seat, TAKEN] >= book.seats[fullest, TAKEN]:
                fullest = seat
        request = uncall(places, book, fullest)
        book.requests[request, CONTEXT] = book.requests[request, INPUT_LEN]
        if places.prompting.on:
            book.requests[request, LEFT] = book.requests[request, INPUT_LEN]
