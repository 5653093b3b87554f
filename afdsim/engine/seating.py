"""Who sits in which micro-batch, as plain loops over flat arrays: continuous batching in O(changes).

The compiled twin of `batching` and `admission`, on arrays of records. A seat is (attention rank, micro-batch), index
rank x micro-batches + micro-batch; a lane is (unit, micro-batch). Lists of requests (waiting in a seat, leaving a lane
at a step, fresh in a lane) are chained through request ids; -1 ends one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Values = Any
"""An array; of records where the fields stand below."""

NOBODY = -1
UNBOUNDED = 1 << 60
"""The window of full attention."""
RING = 1024
"""Buckets of future steps per lane; a request that leaves later stays in its bucket for another round."""

ISSUED, COUNTED, OUTSTANDING, FINISHED, ACTIVE, QUEUED, ROWS, POPULATED = range(8)
"""Places in `Book.count`: requests issued, of these counted; counted and not ended; finished; running; waiting;
boundary rows; whether the warm-up population of a closed loop is complete."""
WARM_AT, ENDS_AT = range(2)
"""Places in `Book.time`: when the warm-up ended and when the run ended; infinite until then."""


class Demand(NamedTuple):
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
    ranks: int
    """Per unit."""
    slots: Values  # j
    windows: Values  # w, UNBOUNDED for full attention
    kv_budget: float
    kv_fixed: float
    """Bytes that a sequence takes whatever its context (linear attention)."""
    kv_per_token: Values  # w


INT, SHORT, FLAG, REAL = "i8", "i4", "i1", "f8"
SEAT = (("batch", INT), ("sequences", INT), ("waiting", INT), ("last_waiting", INT))
"""Fields of a seat: running; running and waiting (huge where nothing can sit); first and last that wait."""
LANE = (("queued", INT), ("fresh", INT), ("fresh_count", INT), ("rows", INT), ("rank_rows", INT))
"""Fields of a lane: waiting; first of those that joined at the latest boundary, and how many; batch of the largest
rank; tokens of all ranks."""
BUCKET = (("leaving", INT), ("last_leaving", INT), ("filling", INT))
"""Fields of (lane, step modulo RING): first and last that leave; first (request x windows + window) whose context fills
its window."""
RANK = (("kv_free", REAL), ("own", REAL))
"""Fields of a rank: bytes; attention seconds that it alone would have needed, inside the window."""
REQUEST = (
    ("arrival", REAL),
    ("admitted", REAL),
    ("first_token", REAL),
    ("finish", REAL),
    ("input_len", SHORT),
    ("output_len", SHORT),
    ("context", SHORT),
    ("joined", SHORT),
    ("seat", SHORT),
    ("counted", FLAG),
    ("refused", FLAG),
    ("next", SHORT),
    ("next_fresh", SHORT),
)
"""Fields of a request, as in `record.Requests`; times are NaN until they happen. `next` of the list that it is in."""
ROW = (("step", INT), ("micro_batch", INT), ("unit", INT), ("time", REAL), ("batch", INT), ("gaps", INT))
"""Fields of a boundary that emitted tokens, as in `record.Boundaries`."""


class Book(NamedTuple):
    """Everything about requests that changes while a run goes on."""

    seats: Values
    lanes: Values
    buckets: Values
    ranks: Values
    contexts: Values  # w, seat: sum of the contexts read
    growing: Values  # w, seat: sequences that still grow inside the window
    requests: Values
    next_filling: Values  # request, w
    rows: Values
    count: Values
    time: Values


def need(places: Places, requests: Values, request: int) -> float:
    """Bytes of KV cache that a request may come to need."""
    context = requests[request].input_len + requests[request].output_len
    total = places.kv_fixed
    for w in range(len(places.windows)):
        total += places.kv_per_token[w] * min(context, places.windows[w])
    return total


def issue(places: Places, book: Book, arrival: float, counted: bool) -> int:
    """The next request; NOBODY if no rank could ever hold it."""
    requests, count = book.requests, book.count
    request: int = count[ISSUED]
    count[ISSUED] += 1
    requests[request].arrival = arrival
    requests[request].counted = int(counted)
    requests[request].context = requests[request].input_len
    if need(places, requests, request) > places.kv_budget:
        requests[request].refused = 1
        return NOBODY
    if counted:
        count[OUTSTANDING] += 1
    return request


def queue(places: Places, book: Book, request: int, seat: int) -> None:
    """Let a request wait for a place in a seat."""
    seats, requests = book.seats, book.requests
    requests[request].seat = seat
    requests[request].next = NOBODY
    if seats[seat].waiting == NOBODY:
        seats[seat].waiting = request
    else:
        requests[seats[seat].last_waiting].next = request
    seats[seat].last_waiting = request
    seats[seat].sequences += 1
    rank, j = seat // places.micro_batches, seat % places.micro_batches
    book.lanes[rank // places.ranks * places.micro_batches + j].queued += 1
    book.count[QUEUED] += 1


def emptiest(seats: Values) -> int:
    """The seat with the fewest sequences, ties to the lowest index."""
    best = 0
    for seat in range(1, len(seats)):
        if seats[seat].sequences < seats[best].sequences:
            best = seat
    return best


def arrive(places: Places, demand: Demand, book: Book, now: float) -> None:
    """Seat every request of an open loop that has arrived by `now`, in order of arrival."""
    count, requests = book.count, book.requests
    while count[ISSUED] < demand.num_requests and requests[count[ISSUED]].arrival <= now:
        arrival = requests[count[ISSUED]].arrival
        count[COUNTED] += 1
        request = issue(places, book, arrival, arrival >= demand.warmup)
        if request != NOBODY:
            queue(places, book, request, emptiest(book.seats))


def refill(places: Places, demand: Demand, book: Book, seat: int, now: float) -> None:
    """A closed loop puts its next request into a seat; enough that fit have been drawn."""
    request = NOBODY
    while request == NOBODY:
        counted = book.count[POPULATED] > 0 and book.count[COUNTED] < demand.num_requests
        if counted:
            book.count[COUNTED] += 1
        request = issue(places, book, now, counted)
    queue(places, book, request, seat)


def grow(places: Places, book: Book, lane: int, step: int) -> None:
    """Every sequence of a lane has one more token to read, as far as its window goes."""
    seats, requests, windows = book.seats, book.requests, len(places.windows)
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    total = len(seats)
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        for w in range(windows):
            book.contexts[w * total + seat] += book.growing[w * total + seat]
    bucket = lane * RING + step % RING
    entry, kept = book.buckets[bucket].filling, NOBODY
    while entry != NOBODY:
        following = book.next_filling[entry]
        request, w = entry // windows, entry % windows
        if requests[request].joined + places.windows[w] - requests[request].context == step:
            book.growing[w * total + requests[request].seat] -= 1
        else:
            book.next_filling[entry] = kept
            kept = entry
        entry = following
    book.buckets[bucket].filling = kept


def steps_of(requests: Values, request: int) -> int:
    """Decode steps that a request takes part in."""
    steps: int = requests[request].input_len + requests[request].output_len - requests[request].context
    return steps


def leave(places: Places, demand: Demand, book: Book, lane: int, step: int, now: float) -> None:
    """Let the requests of a lane go that have no token left; a closed loop refills their seats."""
    requests = book.requests
    bucket = lane * RING + step % RING
    request = book.buckets[bucket].leaving
    book.buckets[bucket].leaving = NOBODY
    while request != NOBODY:
        following = requests[request].next
        if requests[request].joined + steps_of(requests, request) == step:
            stand_up(places, book, request, now)
            if demand.closed:
                refill(places, demand, book, requests[request].seat, now)
        else:
            chain_leaving(book, bucket, request)
        request = following
    cold = demand.closed and demand.warmup < 0 and book.time[WARM_AT] > now
    if cold and book.count[FINISHED] >= demand.concurrency:
        book.time[WARM_AT] = now


def stand_up(places: Places, book: Book, request: int, now: float) -> None:
    """Free what a finished request held."""
    seats, requests, count = book.seats, book.requests, book.count
    seat, total = requests[request].seat, len(seats)
    start, steps = requests[request].context, steps_of(requests, request)
    seats[seat].batch -= 1
    seats[seat].sequences -= 1
    for w in range(len(places.windows)):
        window = places.windows[w]
        book.contexts[w * total + seat] -= min(start + steps, window)
        if start < window and start + steps <= window:
            book.growing[w * total + seat] -= 1
    book.ranks[seat // places.micro_batches].kv_free += need(places, requests, request)
    requests[request].finish = now
    count[ACTIVE] -= 1
    count[FINISHED] += 1
    if requests[request].counted:
        count[OUTSTANDING] -= 1


def chain_leaving(book: Book, bucket: int, request: int) -> None:
    """Append a request to a bucket of those that leave."""
    requests = book.requests
    requests[request].next = NOBODY
    if book.buckets[bucket].leaving == NOBODY:
        book.buckets[bucket].leaving = request
    else:
        requests[book.buckets[bucket].last_leaving].next = request
    book.buckets[bucket].last_leaving = request


def join(places: Places, book: Book, lane: int, step: int, now: float) -> None:
    """Let the waiting requests of a lane in, in order, while there are slots and KV cache for them."""
    seats, requests = book.seats, book.requests
    if book.lanes[lane].queued == 0:
        return
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        while seats[seat].waiting != NOBODY and seats[seat].batch < places.slots[j]:
            request = seats[seat].waiting
            wanted = need(places, requests, request)
            if wanted > book.ranks[rank].kv_free:
                break
            book.ranks[rank].kv_free -= wanted
            seats[seat].waiting = requests[request].next
            book.lanes[lane].queued -= 1
            sit_down(places, book, lane, request, step)
            requests[request].admitted = now


def sit_down(places: Places, book: Book, lane: int, request: int, step: int) -> None:
    """Let a request take part from `step` on."""
    seats, requests, count = book.seats, book.requests, book.count
    seat, total, windows = requests[request].seat, len(seats), len(places.windows)
    start, steps = requests[request].context, steps_of(requests, request)
    requests[request].joined = step
    seats[seat].batch += 1
    count[QUEUED] -= 1
    count[ACTIVE] += 1
    for w in range(windows):
        window = places.windows[w]
        book.contexts[w * total + seat] += min(start, window)
        if start < window:
            book.growing[w * total + seat] += 1
            if start + steps > window:
                bucket = lane * RING + (step + window - start) % RING
                book.next_filling[request * windows + w] = book.buckets[bucket].filling
                book.buckets[bucket].filling = request * windows + w
    book.lanes[lane].fresh_count += 1
    requests[request].next_fresh = book.lanes[lane].fresh
    book.lanes[lane].fresh = request
    chain_leaving(book, lane * RING + (step + steps) % RING, request)


def emit(places: Places, book: Book, lane: int, step: int, now: float) -> None:
    """Note the tokens that the step before has produced in a lane."""
    seats, rows, count = book.seats, book.rows, book.count
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    emitted = 0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        emitted += seats[rank * places.micro_batches + j].batch
    if emitted:
        row = count[ROWS]
        rows[row].step, rows[row].micro_batch, rows[row].unit = step, j, unit
        rows[row].time, rows[row].batch, rows[row].gaps = now, emitted, emitted - book.lanes[lane].fresh_count
        count[ROWS] = row + 1


def first_tokens(book: Book, lane: int, now: float) -> None:
    """The requests that joined a lane at the boundary before have their first token."""
    requests = book.requests
    request = book.lanes[lane].fresh
    while request != NOBODY:
        requests[request].first_token = now
        request = requests[request].next_fresh
    book.lanes[lane].fresh = NOBODY
    book.lanes[lane].fresh_count = 0


def turn_over(places: Places, demand: Demand, book: Book, lane: int, step: int, now: float) -> None:
    """The boundary of a lane before `step`: tokens are out, requests leave and join."""
    if now > demand.horizon:
        book.time[ENDS_AT] = demand.horizon
        return
    if not demand.closed:
        arrive(places, demand, book, now)
    emit(places, book, lane, step, now)
    first_tokens(book, lane, now)
    grow(places, book, lane, step)
    leave(places, demand, book, lane, step, now)
    if book.count[OUTSTANDING] == 0 and book.count[COUNTED] >= demand.num_requests:
        book.time[ENDS_AT] = now
        return
    join(places, book, lane, step, now)
