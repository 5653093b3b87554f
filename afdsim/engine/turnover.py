"""The boundary of a lane: tokens are out, requests leave, blocks are claimed, requests join.

Where blocks grow, a sequence claims another one for the step in which its context fills those that it has. If its rank
has none, those that are called to its seat go back to the queue, and then whoever joined the seat last is preempted,
itself at last: sequences of the rank's other micro-batches are in the midst of a step. Who is preempted keeps its
tokens, waits at the head of the queue of its rank, and joins again when the blocks of its context are free and its
context is there: computed again, or back from host memory. It does a step whenever it joins, and so all get their
tokens in the end.

Plain functions over flat arrays, one text for both engines, as `seats`.
"""

from __future__ import annotations

from afdsim.engine.seats import (
    ACTIVE,
    BATCH,
    BOUNDARIES,
    CALLED,
    CLAIMING,
    CLAIMS_AT,
    CONTEXT,
    COUNT_COUNTED,
    DRAWN,
    ENDS_AT,
    FILLING,
    FOREVER,
    JOINED,
    KV_FREE,
    LAST_LEAVING,
    LEAVING,
    NEXT,
    NEXT_CLAIM,
    NOBODY,
    OUTSTANDING,
    OWED,
    PACE,
    PREEMPTED,
    QUEUE,
    READY,
    RING,
    SEAT,
    STAYS,
    YOUNGEST,
    Asked,
    Book,
    Places,
    Values,
    arrive,
    copied,
    emit,
    first_tokens,
    gained,
    grow,
    growth,
    join,
    kept,
    leave,
    pace_of,
    put_back,
    recompute,
    schedule,
    steps_of,
    tokens_of,
    uncall,
    unlink,
    written,
)


def full(places: Places, book: Book) -> bool:
    """Whether a step might not find room for its boundaries, or for the stays that end in it."""
    count = book.count
    stays: bool = places.keeping.grows and count[STAYS] + count[ACTIVE] > len(book.stays)
    return stays or count[BOUNDARIES] + len(book.lanes) > len(book.rows)


def turn_over(places: Places, asked: Asked, book: Book, lane: int, step: int, now: float) -> None:
    """The boundary of a lane before `step`: tokens are out, requests leave, make room and join."""
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
    if places.keeping.grows:
        claim(places, book, lane, step, now)
    join(places, book, lane, step, now)


def claim(places: Places, book: Book, lane: int, step: int, now: float) -> None:
    """Give the sequences of a lane the blocks that they need for `step`."""
    requests, buckets, bucket = book.requests, book.buckets, lane * RING + step % RING
    request = buckets[bucket, CLAIMING]
    buckets[bucket, CLAIMING] = NOBODY
    while request != NOBODY:
        following = requests[request, NEXT_CLAIM]
        if requests[request, CLAIMS_AT] == step:
            fill(places, book, lane, request, step, now)
        elif requests[request, CLAIMS_AT] != NOBODY:  # in another round
            requests[request, NEXT_CLAIM] = buckets[bucket, CLAIMING]
            buckets[bucket, CLAIMING] = request
        request = following


def fill(places: Places, book: Book, lane: int, request: int, step: int, now: float) -> None:
    """Give a sequence its next block; who came last to its seat makes room, be it itself."""
    requests, seat = book.requests, book.requests[request, SEAT]
    rank, k = seat // places.micro_batches, step - requests[request, JOINED] + 1
    more = kept(places, written(places, requests, request, k)) - kept(places, written(places, requests, request, k - 1))
    while more > book.ranks[rank, KV_FREE]:
        if book.seats[seat, CALLED] != NOBODY:
            uncall(places, book, seat)
            continue
        last = book.seats[seat, YOUNGEST]
        preempt(places, book, lane, last, step, now)
        if last == request:
            return
    book.ranks[rank, KV_FREE] -= more
    schedule(places, book, lane, request, step)


def preempt(places: Places, book: Book, lane: int, request: int, step: int, now: float) -> None:
    """Let a sequence of a lane give up its blocks before `step`: it keeps its tokens, and pays to come back."""
    requests, count, seat = book.requests, book.count, book.requests[request, SEAT]
    done = step - requests[request, JOINED]
    left, pace = steps_of(requests, request) - done, pace_of(places, requests, request)
    claims = requests[request, CLAIMS_AT] == step  # then it has not got its next block
    held = kept(places, written(places, requests, request, done if claims else done + 1))
    book.ranks[seat // places.micro_batches, KV_FREE] += held
    strike_out(places, book, lane, request, done)
    unlink(book, request)
    tokens = hand_out(places, book.lanes, lane, tokens_of(requests, request) * places.scale - pace * left)
    stay = book.stays[count[STAYS]]
    stay[0], stay[1], stay[2], stay[3] = request, seat, requests[request, JOINED], done
    stay[4], stay[5] = requests[request, CONTEXT], tokens
    count[STAYS] += 1
    book.lanes[lane, PACE] -= pace
    book.seats[seat, BATCH] -= 1
    requests[request, JOINED], requests[request, CLAIMS_AT] = NOBODY, NOBODY
    requests[request, CONTEXT] += tokens
    requests[request, PREEMPTED] += 1
    if requests[request, DRAWN] > 0:
        requests[request, DRAWN] = left
    count[ACTIVE] -= 1
    count[QUEUE] += 1
    put_back(places, book, request)
    if places.keeping.swaps:
        copied(places, book, request, now)
        book.times[request, READY] = FOREVER
    else:
        recompute(book, request, now, places.keeping.pace)


def hand_out(places: Places, lanes: Values, lane: int, yielded: int) -> int:
    """Whole tokens of what a sequence has yielded; the rest of one is taken from, or goes to, what its lane owes."""
    tokens = yielded // places.scale
    rest = yielded - tokens * places.scale
    if lanes[lane, OWED] >= rest:
        lanes[lane, OWED] -= rest
        return tokens
    lanes[lane, OWED] += places.scale - rest  # the boundary has given it out already
    return tokens + 1


def strike_out(places: Places, book: Book, lane: int, request: int, done: int) -> None:
    """Take a sequence that has done some of its steps out of the sums and lists of its lane."""
    requests, windows, seat = book.requests, len(places.windows), book.requests[request, SEAT]
    joined, steps, pace = requests[request, JOINED], steps_of(requests, request), pace_of(places, requests, request)
    for w in range(windows):
        grows = growth(places, requests, request, w)
        read = min(requests[request, CONTEXT], places.windows[w]) * places.scale
        if done < grows:
            book.growing[w, seat] -= pace
            book.contexts[w, seat] -= read + done * pace
            if grows < steps:
                remove_filling(book, lane * RING + (joined + grows) % RING, request * windows + w)
        else:
            book.contexts[w, seat] -= read + gained(places, requests, request, w)
    remove_leaving(book, lane * RING + (joined + steps) % RING, request)
    if requests[request, CLAIMS_AT] != NOBODY:
        remove_claim(book, lane * RING + requests[request, CLAIMS_AT] % RING, request)


def remove_leaving(book: Book, bucket: int, request: int) -> None:
    """Take a request out of the list of those that leave in a step."""
    requests, buckets = book.requests, book.buckets
    each, before = buckets[bucket, LEAVING], NOBODY
    while each != request:
        each, before = requests[each, NEXT], each
    if before == NOBODY:
        buckets[bucket, LEAVING] = requests[request, NEXT]
    else:
        requests[before, NEXT] = requests[request, NEXT]
    if buckets[bucket, LAST_LEAVING] == request:
        buckets[bucket, LAST_LEAVING] = before


def remove_filling(book: Book, bucket: int, entry: int) -> None:
    """Take an entry out of the list of contexts that fill their window in a step."""
    chain, buckets = book.next_filling, book.buckets
    each, before = buckets[bucket, FILLING], NOBODY
    while each != entry:
        each, before = chain[each], each
    if before == NOBODY:
        buckets[bucket, FILLING] = chain[entry]
    else:
        chain[before] = chain[entry]


def remove_claim(book: Book, bucket: int, request: int) -> None:
    """Take a request out of the list of those that claim a block in a step, if it is not just being gone through."""
    requests, buckets = book.requests, book.buckets
    each, before = buckets[bucket, CLAIMING], NOBODY
    while each != request:
        if each == NOBODY:
            return
        each, before = requests[each, NEXT_CLAIM], each
    if before == NOBODY:
        buckets[bucket, CLAIMING] = requests[request, NEXT_CLAIM]
    else:
        requests[before, NEXT_CLAIM] = requests[request, NEXT_CLAIM]
