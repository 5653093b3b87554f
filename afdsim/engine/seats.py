"""Who sits in which micro-batch: continuous batching, admission, KV accounting and drafts in O(changes).

One text for both engines: plain functions over flat arrays, compiled for `recurrence` and called as they are by
`processes`. A seat is (attention rank, micro-batch), index rank x micro-batches + micro-batch; a lane is (unit,
micro-batch), index unit x micro-batches + micro-batch. Lists of requests (waiting in a rank's queue, called to a seat,
leaving a lane at a step, fresh in a lane) are chained through request ids; -1 ends one.

A rank has one queue and one KV cache for all its micro-batches. The first in it is *called* as soon as a place and KV
cache are free, to the micro-batch with the fewest sequences, and joins at the next boundary of that one. So
micro-batches stay alike however scarce the cache is, and nobody overtakes. A sequence holds the blocks that it may come
to need, or those that it fills (`turnover` has what happens when there are no more).

Contexts are counted in tokens x `scale`: 1, or more where a step may yield a fraction of a token (drafts).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from afdsim.engine.prefixes import Prefixes, beyond, evict, here, let_go, spare_beside, touch, trim
from afdsim.engine.sessions import (
    ALONE,
    ANSWER,
    KEEP,
    OPENED,
    PROMPT,
    RANK,
    SESSION,
    SPOKEN,
    STEPS,
    Sessions,
    forget,
    lie_down,
    open_next,
    pick_up,
)

Values = Any
"""An array: integers and floats apart, a row a thing, a column a field."""

NOBODY = -1
UNCOUNTED = -1
"""In COUNTED of a request that is known: it will not count."""
FOREVER = float("inf")
UNBOUNDED = 1 << 60
"""The window of full attention; how crowded a seat is that has no place."""
FULL = 1 << 40
"""How much more crowded a seat looks whose places are all spoken for."""
RING = 1024
"""Buckets of future steps per lane; a request that leaves later stays in its bucket for another round."""

# columns
BATCH, TAKEN, SEQUENCES, CROWD, CALLED, LAST_CALLED, YOUNGEST, PROMPT_TOKENS, ANSWERS = range(9)
"""Of a seat: running; these and those called to it; these and those of the rank's queue that are counted here; the same
and FULL more where it has no place left, which is where arrivals look; first and last that are called; who joined last
of those that run, where blocks grow; tokens of prompts that the step under way computes; prompts that end in it."""
HEAD, LAST_WAITING = range(2)
"""Of a rank: first and last in its queue."""
FRESH, FRESH_COUNT, ROWS, RANK_ROWS, PACE, OWED = range(6)
"""Of a lane: first of those that joined at the latest boundary, and how many; batch of the largest rank;
sequences of all ranks; fixed-point tokens that a step yields; those that have not made a whole one yet."""
LEAVING, LAST_LEAVING, FILLING, CLAIMING = range(4)
"""Of (lane, step modulo RING): first and last that leave; first (request x windows + window) whose context fills its
window; first that needs another block (where blocks grow)."""
KV_FREE, OWN, COPIED = range(3)
"""Of a rank: bytes; attention seconds that it alone would have needed, inside the window; when its link to host memory
is free."""
INPUT_LEN, OUTPUT_LEN, CONTEXT, JOINED, SEAT, COUNTED, REFUSED, DRAWN, NEEDS, NEXT, NEXT_FRESH = range(11)
CLAIMS_AT, NEXT_CLAIM, OLDER, YOUNGER, PREEMPTED, GROUP, HIT, LEFT = range(11, 19)
"""Of a request: lengths; context at its first step; that step; its seat; whether it counts; whether no rank could ever
hold it; decode steps it will need with drafts (0 without), and the same once it sits; next of the lists it is in. Where
blocks grow: step in which it needs another one (or NOBODY), next of those that do; who joined its seat before and after
it; how often it was preempted. Where prompts begin alike: its group; tokens of that which were there when it was
called. Where there are sessions: its turn; tokens of its conversation that were there when it was called. Where steps
compute prompts: tokens of its context that they have still to compute, or ANSWERING."""
ANSWERING = -1
"""In LEFT: the step under way computes the last of them, and gives a token."""
ARRIVAL, ADMITTED, FIRST_TOKEN, FINISH, LOST, READY = range(6)
"""Times of a request, NaN until they happen. LOST: a crash has ended it; READY: before which it may not join, because
its lost context is still being computed, or comes back from host memory; infinite while it lies there, or nowhere."""
STEP, MICRO_BATCH, UNIT, TOKENS, GAPS = range(5)
"""Of a boundary that emitted tokens: how many, and for how many of its sequences it was not the first."""
ISSUED, COUNT_COUNTED, OUTSTANDING, FINISHED, ACTIVE, QUEUE, BOUNDARIES, POPULATED, KNOWN, STAYS, CHUNKS = range(11)
"""Places in `Book.count`: requests issued, of these counted; counted and not ended; finished; running; waiting;
boundary rows; whether the warm-up population of a closed loop is complete; requests whose arrival is known; rows of
stays and of chunks of prompts."""
WARM_AT, ENDS_AT, STRIKES_AT, RETURNS_AT, OPENED_AT, PAUSES_AT, CLOSES_AT = range(7)
"""Places in `Book.clock`: when the warm-up ended and when the run ended, infinite until then; when the cell will stop,
when an instance is back for which it stops between two steps, infinite where neither is known; when the latest step had
passed all its boundaries; before which no boundary may end as yet, because it is not known who arrives until then; when
the load of an open loop is judged, infinite where it is not or has been."""


class Asked(NamedTuple):
    """What is asked, as numbers."""

    closed: bool
    num_requests: int
    concurrency: int
    warmup: float
    """Seconds; negative: a closed loop is warm when as many requests have finished as it started with."""
    horizon: float


class Keeping(NamedTuple):
    """How KV cache is given out."""

    block: int
    """Tokens."""
    grows: bool
    """Whether a sequence holds the blocks that it fills, not those that it may come to need."""
    swaps: bool
    """Whether the context of a preempted request goes to host memory; else it is computed again."""
    pace: float
    """Bytes per second of the link to host memory, or tokens per second at which a context is computed again."""
    queries: int
    """Tokens that a sequence writes in a step: one, and its drafts."""
    prefix: int
    """Tokens with which the prompts of a group begin alike, and whose blocks are shared; 0: none; UNBOUNDED: prompts
    are the same, as of several answers to one."""
    groups: int
    between: int = ALONE
    """What becomes of the KV cache of a conversation between two turns (`sessions`)."""
    again: float = FOREVER
    """Tokens per second at which a conversation that is not there is computed again."""
    link: float = FOREVER
    """Bytes per second at which one goes to host memory and comes back."""


RESERVED = Keeping(1, False, False, FOREVER, 1, 0, 0)
"""A block is a token, and all that a request may come to need is held from its admission on."""


class Prompting(NamedTuple):
    """How decode steps compute prompts."""

    on: bool
    """Whether they do; else requests bring their context."""
    budgets: Values  # j: tokens of prompts that a rank computes in a step
    rows: int
    """Rows of operators for a sequence that decodes: where steps compute prompts its tokens, else it is one row."""
    windows: Values  # q: of the kernels of prompts, UNBOUNDED where they see all
    most: int
    """Chunks that may begin in a step."""


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
    keeping: Keeping
    prompting: Prompting


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
    stays: Values  # those that were preempted: request, seat, first step, steps, context at that, tokens
    prefixes: Prefixes
    chunks: Values  # of prompts: request, seat, step, tokens, tokens of it before, whether it ends there
    chunk_times: Values  # when its step began
    sums: Values  # q, seat, column: what the kernels of prompts do in the step under way (`cost.prompts.Sums`)
    sessions: Sessions
    count: Values
    clock: Values


def kept(places: Places, tokens: int) -> float:
    """Bytes of KV cache that a sequence of so many tokens fills, in whole blocks; a window has blocks of its own."""
    total, block = places.kv_fixed, places.keeping.block
    for w in range(len(places.windows)):
        seen = min(tokens, places.windows[w])
        total += places.kv_per_token[w] * ((seen + block - 1) // block * block)
    return total


def need(places: Places, requests: Values, request: int) -> float:
    """Bytes of KV cache that a request may come to need."""
    return kept(places, requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN])


def written(places: Places, requests: Values, request: int, k: int) -> int:
    """Tokens that a sequence has room for in its k-th step: its context, and what the step writes, drafts included."""
    most: int = requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN]
    if k >= steps_of(requests, request):
        return most
    ahead = ((k - 1) * pace_of(places, requests, request) + places.scale - 1) // places.scale
    tokens: int = min(most, requests[request, CONTEXT] + ahead + places.keeping.queries)
    return tokens


def takes(places: Places, requests: Values, request: int) -> float:
    """Bytes of KV cache that a request is given when it is called."""
    if not places.keeping.grows:
        return need(places, requests, request)
    if requests[request, LEFT] <= 0:
        return kept(places, written(places, requests, request, 1))
    most = requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN]  # its prompt, and the step behind that
    return kept(places, min(most, requests[request, CONTEXT] + 1 + places.keeping.queries))


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


# KV cache ------------------------------------------------------------------------------------------------------------


def shares(places: Places, requests: Values, request: int) -> int:
    """Tokens of a prompt whose blocks it shares with others of its group."""
    alike: int = min(places.keeping.prefix, requests[request, INPUT_LEN])
    return alike // places.keeping.block * places.keeping.block


def worth(places: Places, tokens: int) -> float:
    """Bytes of so many tokens in whole blocks, where every window holds all of them."""
    total = 0.0
    for w in range(len(places.windows)):
        total += places.kv_per_token[w] * tokens
    return total


def grant(places: Places, book: Book, request: int) -> bool:
    """Give a request the KV cache that it takes, if its rank has it; prefixes that nobody shares make room."""
    if places.keeping.between != ALONE:
        return resume(places, book, request)
    requests, rank = book.requests, book.requests[request, SEAT] // places.micro_batches
    wanted, shared, spare = takes(places, requests, request), shares(places, requests, request), 0
    group = requests[request, GROUP]
    if shared > 0:
        wanted -= worth(places, min(shared, here(book.prefixes, rank, group)))
        spare = spare_beside(book.prefixes, rank, group)
    elif places.keeping.prefix > 0:
        spare = book.prefixes.spare[rank]
    free, own = book.ranks[rank, KV_FREE], beyond(book.prefixes, rank, group, shared) if shared > 0 else 0
    if wanted > free + worth(places, spare + own):
        return False
    if wanted > free + worth(places, spare):
        book.ranks[rank, KV_FREE] += worth(places, trim(book.prefixes, rank, group, shared))
    if shared > 0:
        requests[request, HIT] = shared - touch(book.prefixes, rank, group, shared)
    while wanted > book.ranks[rank, KV_FREE]:
        make_room(places, book, rank)
    book.ranks[rank, KV_FREE] -= wanted
    return True


def make_room(places: Places, book: Book, rank: int) -> bool:
    """Let a rank forget the prefix, or the conversation, that nobody has shared for longest; whether there was one."""
    if places.keeping.between == KEEP:
        nbytes = forget(book.sessions, rank)
        book.ranks[rank, KV_FREE] += nbytes
        return nbytes > 0.0
    if places.keeping.prefix == 0:
        return False
    tokens = evict(book.prefixes, rank)
    book.ranks[rank, KV_FREE] += worth(places, tokens)
    return tokens > 0


def give_back(places: Places, book: Book, request: int, held: float) -> None:
    """Give back the bytes that a request holds; its prefix stays until its rank needs the room."""
    requests, rank = book.requests, book.requests[request, SEAT] // places.micro_batches
    shared = shares(places, requests, request)
    book.ranks[rank, KV_FREE] += held - worth(places, shared)
    if shared > 0:
        let_go(book.prefixes, rank, requests[request, GROUP])


# arrivals ------------------------------------------------------------------------------------------------------------


def issue(places: Places, book: Book, arrival: float, counted: bool) -> int:
    """The next request; NOBODY if no rank could ever hold it."""
    requests, count = book.requests, book.count
    request: int = count[ISSUED]
    count[ISSUED] += 1
    book.times[request, ARRIVAL] = arrival
    requests[request, COUNTED] = int(counted)
    requests[request, CONTEXT] = requests[request, INPUT_LEN]
    if places.prompting.on:
        requests[request, LEFT] = requests[request, INPUT_LEN]
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


def emptiest_of(places: Places, seats: Values, rank: int) -> int:
    """The same of a rank."""
    best = rank * places.micro_batches
    for seat in range(best + 1, (rank + 1) * places.micro_batches):
        if seats[seat, CROWD] < seats[best, CROWD]:
            best = seat
    return best


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
        seat = fewest(places, seats, rank, here)
        if seat == NOBODY or not grant(places, book, request):
            return
        queues[rank, HEAD] = requests[request, NEXT]
        crowd(places, seats, requests[request, SEAT], -1)
        crowd(places, seats, seat, 1)
        requests[request, SEAT] = seat
        append(requests, seats, seat, CALLED, request)
        seats[seat, TAKEN] += 1


def put_back(places: Places, book: Book, request: int) -> None:
    """Send a request from its place to the head of its rank's queue; it goes on counting at its seat."""
    requests, queues, seat = book.requests, book.queues, book.requests[request, SEAT]
    rank = seat // places.micro_batches
    if queues[rank, HEAD] == NOBODY:
        queues[rank, LAST_WAITING] = request
    requests[request, NEXT] = queues[rank, HEAD]
    queues[rank, HEAD] = request
    book.seats[seat, TAKEN] -= 1


def uncall(places: Places, book: Book, seat: int) -> int:
    """Send the last that is called to a seat back to the queue, without its KV cache; returns who that is."""
    requests, seats = book.requests, book.seats
    request, before = seats[seat, CALLED], NOBODY
    while request != seats[seat, LAST_CALLED]:
        request, before = requests[request, NEXT], request
    if before == NOBODY:
        seats[seat, CALLED] = NOBODY
    else:
        requests[before, NEXT] = NOBODY
    seats[seat, LAST_CALLED] = before
    give_back(places, book, request, takes(places, requests, request))
    if places.keeping.between == KEEP and requests[request, HIT] > 0 and math.isnan(book.times[request, ADMITTED]):
        lay_down(places, book, request)
    put_back(places, book, request)
    if 0 < requests[request, LEFT] < requests[request, CONTEXT]:  # what was computed of it is lost
        requests[request, LEFT] = requests[request, CONTEXT]
        requests[request, PREEMPTED] += 1
        book.count[ACTIVE] -= 1
        book.count[QUEUE] += 1
    if places.keeping.swaps and not math.isnan(book.times[request, READY]):
        book.times[request, READY] = FOREVER
    return int(request)


def arrive(places: Places, asked: Asked, book: Book, now: float) -> None:
    """Seat every request of an open loop that has arrived by `now`, in order of arrival."""
    count, times = book.count, book.times
    while count[ISSUED] < count[KNOWN] and times[count[ISSUED], ARRIVAL] <= now:
        arrival, counts = times[count[ISSUED], ARRIVAL], book.requests[count[ISSUED], COUNTED] != UNCOUNTED
        count[COUNT_COUNTED] += int(counts)
        request = issue(places, book, arrival, counts and arrival >= asked.warmup)
        if request != NOBODY:
            welcome(places, book, request)


def welcome(places: Places, book: Book, request: int) -> None:
    """Send a request to the seat with the fewest sequences of all."""
    seat = emptiest(book.seats)
    if places.keeping.between == KEEP:
        home = book.sessions.homes[session_of(book, request), RANK]
        seat = seat if home == NOBODY else emptiest_of(places, book.seats, home)
    elif places.keeping.prefix == UNBOUNDED:
        seat = beside(places, book, request, seat)
    queue(places, book, request, seat)
    call(places, book, seat // places.micro_batches, NOBODY)


def beside(places: Places, book: Book, request: int, seat: int) -> int:
    """The emptiest seat of the rank where the answer before to the same prompt is, if it has a place, else `seat`."""
    requests, before = book.requests, request - 1
    if before < 0 or requests[before, GROUP] != requests[request, GROUP] or requests[before, SEAT] == NOBODY:
        return seat
    own = emptiest_of(places, book.seats, requests[before, SEAT] // places.micro_batches)
    return own if book.seats[own, CROWD] < FULL else seat


def refill(places: Places, asked: Asked, book: Book, seat: int, now: float) -> None:
    """A closed loop puts its next request into the queue of a seat's rank; enough that fit have been drawn."""
    request = NOBODY
    while request == NOBODY:
        counted = book.count[POPULATED] > 0 and book.count[COUNT_COUNTED] < asked.num_requests
        if counted:
            book.count[COUNT_COUNTED] += 1
        if places.keeping.between != ALONE:
            bring(book, open_next(book.sessions))
        request = issue(places, book, now, counted)
    queue(places, book, request, seat)


# sessions ------------------------------------------------------------------------------------------------------------


def session_of(book: Book, request: int) -> int:
    """The session of a request."""
    session: int = book.sessions.plan[book.requests[request, GROUP], SESSION]
    return session


def bring(book: Book, turn: int) -> None:
    """Make the next request a turn of a session."""
    row, planned = book.requests[book.count[ISSUED]], book.sessions.plan[turn]
    row[INPUT_LEN], row[OUTPUT_LEN], row[DRAWN] = planned[PROMPT], planned[ANSWER], planned[STEPS]
    row[GROUP] = turn


def resume(places: Places, book: Book, request: int) -> bool:
    """Give a turn the KV cache that it takes beyond that of its conversation, if its rank has it.

    Conversations that nobody reads make room.
    """
    sessions, requests, rank = book.sessions, book.requests, book.requests[request, SEAT] // places.micro_batches
    session, wanted = session_of(book, request), takes(places, requests, request)
    there = sessions.homes[session, RANK] == rank
    if wanted > book.ranks[rank, KV_FREE] + sessions.spare[rank]:
        return False
    if there:
        book.ranks[rank, KV_FREE] += pick_up(sessions, session)
    while wanted > book.ranks[rank, KV_FREE]:
        make_room(places, book, rank)
    book.ranks[rank, KV_FREE] -= wanted
    if math.isnan(book.times[request, ADMITTED]):
        spoken = sessions.homes[session, SPOKEN]
        requests[request, HIT] = spoken if there else 0
        book.times[request, READY] = FOREVER if spoken > requests[request, HIT] else math.nan
    return True


def lay_down(places: Places, book: Book, request: int) -> None:
    """Let the conversation of a request lie on its rank, which has just got its blocks back."""
    session, rank = session_of(book, request), book.requests[request, SEAT] // places.micro_batches
    nbytes = kept(places, book.sessions.homes[session, SPOKEN])
    book.ranks[rank, KV_FREE] -= nbytes
    lie_down(book.sessions, session, rank, nbytes)


# what others ask ------------------------------------------------------------------------------------------------------


def recompute(book: Book, request: int, since: float, pace: float) -> None:
    """Let a request wait until its context, computed again from `since` on, is there."""
    book.times[request, READY] = since + book.requests[request, CONTEXT] / pace


def copied(places: Places, book: Book, request: int, since: float) -> float:
    """When the blocks that a context fills have gone over the link to host memory, one copy after the other."""
    rank = book.requests[request, SEAT] // places.micro_batches
    seconds = kept(places, book.requests[request, CONTEXT]) / places.keeping.pace
    book.ranks[rank, COPIED] = max(since, book.ranks[rank, COPIED]) + seconds
    return float(book.ranks[rank, COPIED])


def begun(places: Places, book: Book) -> int:
    """Requests that have come, or sessions where there are any: the first of those that a closed loop has in store."""
    if places.keeping.between != ALONE:
        return int(book.sessions.tally[OPENED])
    return int(book.count[ISSUED])


def stops(clock: Values) -> bool:
    """Whether the cell stops in the step whose boundaries are over: it crashed before their end, or means to."""
    crashed: bool = clock[OPENED_AT] > clock[STRIKES_AT]
    return crashed or clock[OPENED_AT] >= clock[RETURNS_AT]
