"""Who sits in which micro-batch: continuous batching, admission, KV accounting and drafts in O(changes).

One text for both engines: plain functions over flat arrays, compiled for `recurrence` and called as they are by
`processes`. A seat is (attention rank, micro-batch), index rank x micro-batches + micro-batch; a lane is (unit,
micro-batch), index unit x micro-batches + micro-batch. Lists of requests (waiting in a rank's queue, called to a seat,
leaving a lane at a step, fresh in a lane) are chained through request ids; -1 ends one.

A rank has one queue and one KV cache for all its micro-batches. The first in it is *called* as soon as a place and KV
cache are free, to the micro-batch with the fewest sequences, and joins at the next boundary of that one. So
micro-batches stay alike however scarce the cache is, and nobody overtakes.

Contexts are counted in tokens x `scale`: 1, or more where a step may yield a fraction of a token (drafts).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Values = Any
"""An array: integers and floats apart, a row a thing, a column a field."""

NOBODY = -1
FOREVER = float("inf")
UNBOUNDED = 1 << 60
"""The window of full attention; how crowded a seat is that has no place."""
FULL = 1 << 40
"""How much more crowded a seat looks whose places are all spoken for."""
RING = 1024
"""Buckets of future steps per lane; a request that leaves later stays in its bucket for another round."""

# columns
BATCH, TAKEN, SEQUENCES, CROWD, CALLED, LAST_CALLED = range(6)
"""Of a seat: running; these and those called to it; these and those of the rank's queue that are counted here; the same
and FULL more where it has no place left, which is where arrivals look; first and last that are called."""
HEAD, LAST_WAITING = range(2)
"""Of a rank: first and last in its queue."""
FRESH, FRESH_COUNT, ROWS, RANK_ROWS, PACE, OWED = range(6)
"""Of a lane: first of those that joined at the latest boundary, and how many; batch of the largest rank;
sequences of all ranks; fixed-point tokens that a step yields; those that have not made a whole one yet."""
LEAVING, LAST_LEAVING, FILLING = range(3)
"""Of (lane, step modulo RING): first and last that leave; first (request x windows + window) whose context fills its
window."""
KV_FREE, OWN = range(2)
"""Of a rank: bytes; attention seconds that it alone would have needed, inside the window."""
INPUT_LEN, OUTPUT_LEN, CONTEXT, JOINED, SEAT, COUNTED, REFUSED, DRAWN, NEEDS, NEXT, NEXT_FRESH = range(11)
"""Of a request: lengths; context at its first step; that step; its seat; whether it counts; whether no rank could ever
hold it; decode steps it will need with drafts (0 without), and the same once it sits; next of the lists it is in."""
ARRIVAL, ADMITTED, FIRST_TOKEN, FINISH, LOST, READY = range(6)
"""Times of a request, NaN until they happen. LOST: a crash has ended it; READY: before which it may not join, because
its lost context is still being computed."""
STEP, MICRO_BATCH, UNIT, TOKENS, GAPS = range(5)
"""Of a boundary that emitted tokens: how many, and for how many of its sequences it was not the first."""
ISSUED, COUNT_COUNTED, OUTSTANDING, FINISHED, ACTIVE, QUEUE, BOUNDARIES, POPULATED = range(8)
"""Places in `Book.count`: requests issued, of these counted; counted and not ended; finished; running; waiting;
boundary rows; whether the warm-up population of a closed loop is complete."""
WARM_AT, ENDS_AT, STRIKES_AT, RETURNS_AT, OPENED_AT, CLOSES_AT = range(6)
"""Places in `Book.clock`: when the warm-up ended and when the run ended, infinite until then; when the cell will stop,
when an instance is back for which it stops between two steps, infinite where neither is known; when the latest step had
passed all its boundaries; when the load of an open loop is judged, infinite where it is not or has been."""


class Asked(NamedTuple):
    """What is asked, as numbers."""

    closed: bool
    num_requests: int
    concurrency: int
    warmup: float
    """Seconds; negative: a closed loop is warm when as many requests have finished as it started with."""
    horizon: float


class Places(NamedTuple):
    """What a deployment offers; constant."""

    micro_batches: int
    """Of one unit."""
    ranks: int
    """Of one unit."""
    scale: int
    slots: Values  # j
    windows: Values  # w, UNBOUNDED for full attention
    kv_budget: float
    """Whole bytes, so that taking and giving back are exact."""
    kv_fixed: float
    """Bytes that a sequence takes whatever its context (linear attention)."""
    kv_per_token: Values  # w


class Book(NamedTuple):
    """Everything about requests that changes while a run goes on."""

    seats: Values  # seat, column
    lanes: Values  # lane, column
    buckets: Values  # lane x RING + step modulo RING, column
    ranks: Values  # rank, column
    queues: Values  # rank, column
    contexts: Values  # w, seat: sum of the contexts read
    growing: Values  # w, seat: by how much it grows in a step
    requests: Values  # request, column
    times: Values  # request, column
    next_filling: Values  # request x windows + w
    rows: Values  # boundary, column
    row_times: Values  # boundary
    count: Values
    clock: Values


def need(places: Places, requests: Values, request: int) -> float:
    """Bytes of KV cache that a request may come to need."""
    context = requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN]
    total = places.kv_fixed
    for w in range(len(places.windows)):
        total += places.kv_per_token[w] * min(context, places.windows[w])
    return total


def tokens_of(requests: Values, request: int) -> int:
    """Tokens that a request still has to produce when it is admitted."""
    tokens: int = requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN] - requests[request, CONTEXT]
    return tokens


def steps_of(requests: Values, request: int) -> int:
    """Decode steps that a request takes part in."""
    drawn: int = requests[request, DRAWN]
    return drawn if drawn > 0 else tokens_of(requests, request)


def pace_of(places: Places, requests: Values, request: int) -> int:
    """Fixed-point tokens that a request gains in a step."""
    return tokens_of(requests, request) * places.scale // steps_of(requests, request)


def growth(places: Places, requests: Values, request: int, w: int) -> int:
    """Steps in which a request's context grows inside a window."""
    steps = steps_of(requests, request)
    window = places.windows[w]
    if window == UNBOUNDED:  # times the scale it would not fit into 64 bits
        return steps
    left = max(window - requests[request, CONTEXT], 0) * places.scale
    pace = pace_of(places, requests, request)
    grows: int = min(steps, (left + pace - 1) // pace)
    return grows


def gained(places: Places, requests: Values, request: int, w: int) -> int:
    """Context (scaled) that a request has gained inside a window when its growth there is over."""
    grows = growth(places, requests, request, w)
    if grows == steps_of(requests, request):
        return grows * pace_of(places, requests, request)
    inside: int = max(places.windows[w] - requests[request, CONTEXT], 0) * places.scale
    return inside


# arrivals ------------------------------------------------------------------------------------------------------------


def issue(places: Places, book: Book, arrival: float, counted: bool) -> int:
    """The next request; NOBODY if no rank could ever hold it."""
    requests, count = book.requests, book.count
    request: int = count[ISSUED]
    count[ISSUED] += 1
    book.times[request, ARRIVAL] = arrival
    requests[request, COUNTED] = int(counted)
    requests[request, CONTEXT] = requests[request, INPUT_LEN]
    if need(places, requests, request) > places.kv_budget:
        requests[request, REFUSED] = 1
        return NOBODY
    if counted:
        count[OUTSTANDING] += 1
    return request


def append(requests: Values, lists: Values, row: int, first: int, request: int) -> None:
    """Append a request to a list, whose first and last are in two columns of a row side by side."""
    requests[request, NEXT] = NOBODY
    if lists[row, first] == NOBODY:
        lists[row, first] = request
    else:
        requests[lists[row, first + 1], NEXT] = request
    lists[row, first + 1] = request


def queue(places: Places, book: Book, request: int, seat: int) -> None:
    """Let a request wait in the queue of a seat's rank, counted at the seat until it is called."""
    book.requests[request, SEAT] = seat
    append(book.requests, book.queues, seat // places.micro_batches, HEAD, request)
    crowd(places, book.seats, seat, 1)
    book.count[QUEUE] += 1


def crowd(places: Places, seats: Values, seat: int, more: int) -> None:
    """Count sequences at a seat."""
    seats[seat, SEQUENCES] += more
    full = seats[seat, SEQUENCES] >= places.slots[seat % places.micro_batches]
    seats[seat, CROWD] = seats[seat, SEQUENCES] + (FULL if full else 0)


def emptiest(seats: Values) -> int:
    """The seat with the fewest sequences, one with a free place before any other, ties to the lowest index."""
    return int(np.argmin(seats[:, CROWD]))


def fewest(places: Places, seats: Values, rank: int, here: int) -> int:
    """The seat of a rank with a free place and the fewest sequences, ties to micro-batch `here`, then to the first."""
    best = NOBODY
    for j in range(places.micro_batches):
        seat = rank * places.micro_batches + j
        taken = seats[seat, TAKEN]
        if taken >= places.slots[j]:
            continue
        if best == NOBODY or taken < seats[best, TAKEN] or (taken == seats[best, TAKEN] and j == here):
            best = seat
    return best


def call(places: Places, book: Book, rank: int, here: int) -> None:
    """Give free places and KV cache of a rank to its queue, in order; `here` is the micro-batch at its boundary."""
    seats, requests, queues = book.seats, book.requests, book.queues
    while queues[rank, HEAD] != NOBODY:
        request = queues[rank, HEAD]
        wanted = need(places, requests, request)
        seat = fewest(places, seats, rank, here)
        if seat == NOBODY or wanted > book.ranks[rank, KV_FREE]:
            return
        book.ranks[rank, KV_FREE] -= wanted
        queues[rank, HEAD] = requests[request, NEXT]
        crowd(places, seats, requests[request, SEAT], -1)
        crowd(places, seats, seat, 1)
        requests[request, SEAT] = seat
        append(requests, seats, seat, CALLED, request)
        seats[seat, TAKEN] += 1


def arrive(places: Places, asked: Asked, book: Book, now: float) -> None:
    """Seat every request of an open loop that has arrived by `now`, in order of arrival."""
    count, times = book.count, book.times
    while count[ISSUED] < asked.num_requests and times[count[ISSUED], ARRIVAL] <= now:
        arrival = times[count[ISSUED], ARRIVAL]
        count[COUNT_COUNTED] += 1
        request = issue(places, book, arrival, arrival >= asked.warmup)
        if request != NOBODY:
            welcome(places, book, request)


def welcome(places: Places, book: Book, request: int) -> None:
    """Send a request to the seat with the fewest sequences of all."""
    seat = emptiest(book.seats)
    queue(places, book, request, seat)
    call(places, book, seat // places.micro_batches, NOBODY)


def refill(places: Places, asked: Asked, book: Book, seat: int, now: float) -> None:
    """A closed loop puts its next request into the queue of a seat's rank; enough that fit have been drawn."""
    request = NOBODY
    while request == NOBODY:
        counted = book.count[POPULATED] > 0 and book.count[COUNT_COUNTED] < asked.num_requests
        if counted:
            book.count[COUNT_COUNTED] += 1
        request = issue(places, book, now, counted)
    queue(places, book, request, seat)


def populate(places: Places, asked: Asked, book: Book) -> None:
    """Fill a closed loop; those with a place have ages that are evenly spread inside every seat, the others wait."""
    requests = book.requests
    for _ in range(asked.concurrency):
        request = NOBODY
        while request == NOBODY:
            request = issue(places, book, 0.0, False)
        welcome(places, book, request)
    for seat in range(len(book.seats)):
        request, place = book.seats[seat, CALLED], 0
        while request != NOBODY:
            age = (2 * place + 1) * requests[request, OUTPUT_LEN] // (2 * book.seats[seat, TAKEN])
            requests[request, CONTEXT] += age
            request = requests[request, NEXT]
            place += 1
    book.count[POPULATED] = 1


# the boundary of a lane ----------------------------------------------------------------------------------------------


def turn_over(places: Places, asked: Asked, book: Book, lane: int, step: int, now: float) -> None:
    """The boundary of a lane before `step`: tokens are out, requests leave and join."""
    if now > asked.horizon:
        book.clock[ENDS_AT] = asked.horizon
        return
    if not asked.closed:
        arrive(places, asked, book, now)
    emit(places, book, lane, step, now)
    first_tokens(book, lane, now)
    grow(places, book, lane, step)
    leave(places, asked, book, lane, step, now)
    if book.count[OUTSTANDING] == 0 and book.count[COUNT_COUNTED] >= asked.num_requests:
        book.clock[ENDS_AT] = now
        return
    join(places, book, lane, step, now)


def emit(places: Places, book: Book, lane: int, step: int, now: float) -> None:
    """Note the tokens that the step before has produced in a lane."""
    lanes, rows, count = book.lanes, book.rows, book.count
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    sequences = 0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        sequences += book.seats[rank * places.micro_batches + j, BATCH]
    if sequences == 0:
        return
    owed = lanes[lane, OWED] + lanes[lane, PACE]
    tokens = owed // places.scale
    lanes[lane, OWED] = owed - tokens * places.scale
    row = count[BOUNDARIES]
    rows[row, STEP], rows[row, MICRO_BATCH], rows[row, UNIT] = step, j, unit
    rows[row, TOKENS], rows[row, GAPS] = tokens, sequences - lanes[lane, FRESH_COUNT]
    book.row_times[row] = now
    count[BOUNDARIES] = row + 1


def first_tokens(book: Book, lane: int, now: float) -> None:
    """The requests that joined a lane at the boundary before have their first token."""
    request = book.lanes[lane, FRESH]
    while request != NOBODY:
        if math.isnan(book.times[request, FIRST_TOKEN]):
            book.times[request, FIRST_TOKEN] = now
        request = book.requests[request, NEXT_FRESH]
    book.lanes[lane, FRESH] = NOBODY
    book.lanes[lane, FRESH_COUNT] = 0


def grow(places: Places, book: Book, lane: int, step: int) -> None:
    """Every sequence of a lane has read a step's tokens more, as far as its window goes."""
    requests, windows = book.requests, len(places.windows)
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        for w in range(windows):
            book.contexts[w, seat] += book.growing[w, seat]
    bucket = lane * RING + step % RING
    entry, kept = book.buckets[bucket, FILLING], NOBODY
    while entry != NOBODY:
        following = book.next_filling[entry]
        request, w = entry // windows, entry % windows
        grows, pace = growth(places, requests, request, w), pace_of(places, requests, request)
        if requests[request, JOINED] + grows == step:
            seat = requests[request, SEAT]
            book.growing[w, seat] -= pace
            book.contexts[w, seat] -= grows * pace - gained(places, requests, request, w)  # drafts overshoot
        else:
            book.next_filling[entry] = kept
            kept = entry
        entry = following
    book.buckets[bucket, FILLING] = kept


def leave(places: Places, asked: Asked, book: Book, lane: int, step: int, now: float) -> None:
    """Let the requests of a lane go that have no token left; a closed loop refills their seats."""
    requests = book.requests
    bucket = lane * RING + step % RING
    request = book.buckets[bucket, LEAVING]
    book.buckets[bucket, LEAVING] = NOBODY
    while request != NOBODY:
        following = requests[request, NEXT]
        if requests[request, JOINED] + steps_of(requests, request) == step:
            stand_up(places, book, lane, request, now)
            if asked.closed:
                refill(places, asked, book, requests[request, SEAT], now)
        else:
            append(requests, book.buckets, bucket, LEAVING, request)
        request = following
    cold = asked.closed and asked.warmup < 0 and book.clock[WARM_AT] > now
    if cold and book.count[FINISHED] >= asked.concurrency:
        book.clock[WARM_AT] = now


def stand_up(places: Places, book: Book, lane: int, request: int, now: float) -> None:
    """Free what a finished request held."""
    seats, requests, count = book.seats, book.requests, book.count
    seat, start, steps = requests[request, SEAT], requests[request, CONTEXT], steps_of(requests, request)
    pace = pace_of(places, requests, request)
    seats[seat, BATCH] -= 1
    seats[seat, TAKEN] -= 1
    crowd(places, seats, seat, -1)
    book.lanes[lane, PACE] -= pace
    for w in range(len(places.windows)):
        grows = growth(places, requests, request, w)
        book.contexts[w, seat] -= min(start, places.windows[w]) * places.scale + gained(places, requests, request, w)
        if grows == steps:
            book.growing[w, seat] -= pace
    book.ranks[seat // places.micro_batches, KV_FREE] += need(places, requests, request)
    book.times[request, FINISH] = now
    count[ACTIVE] -= 1
    count[FINISHED] += 1
    if requests[request, COUNTED]:
        count[OUTSTANDING] -= 1


def join(places: Places, book: Book, lane: int, step: int, now: float) -> None:
    """Call whom the ranks of a lane have room for, and let those in that are called to it."""
    seats, requests = book.seats, book.requests
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        call(places, book, rank, j)
        seat = rank * places.micro_batches + j
        request = seats[seat, CALLED]
        seats[seat, CALLED] = NOBODY
        while request != NOBODY:
            following = requests[request, NEXT]
            if book.times[request, READY] > now:
                append(requests, seats, seat, CALLED, request)
            else:
                sit_down(places, book, lane, request, step)
                if math.isnan(book.times[request, ADMITTED]):
                    book.times[request, ADMITTED] = now
            request = following


def stops(clock: Values) -> bool:
    """Whether the cell stops in the step whose boundaries are over: it crashed before their end, or means to."""
    crashed: bool = clock[OPENED_AT] > clock[STRIKES_AT]
    return crashed or clock[OPENED_AT] >= clock[RETURNS_AT]


def sit_down(places: Places, book: Book, lane: int, request: int, step: int) -> None:
    """Let a request take part from `step` on."""
    requests, count, lanes = book.requests, book.count, book.lanes
    seat, windows = requests[request, SEAT], len(places.windows)
    start, steps = requests[request, CONTEXT], steps_of(requests, request)
    pace = pace_of(places, requests, request)
    requests[request, JOINED] = step
    requests[request, NEEDS] = requests[request, DRAWN]
    book.seats[seat, BATCH] += 1
    count[QUEUE] -= 1
    count[ACTIVE] += 1
    lanes[lane, PACE] += pace
    lanes[lane, OWED] += tokens_of(requests, request) * places.scale - pace * steps  # what rounding leaves over
    for w in range(windows):
        book.contexts[w, seat] += min(start, places.windows[w]) * places.scale
        grows = growth(places, requests, request, w)
        if grows > 0:
            book.growing[w, seat] += pace
        if 0 < grows < steps:
            bucket = lane * RING + (step + grows) % RING
            book.next_filling[request * windows + w] = book.buckets[bucket, FILLING]
            book.buckets[bucket, FILLING] = request * windows + w
    lanes[lane, FRESH_COUNT] += 1
    requests[request, NEXT_FRESH] = lanes[lane, FRESH]
    lanes[lane, FRESH] = request
    append(requests, book.buckets, lane * RING + (step + steps) % RING, LEAVING, request)
