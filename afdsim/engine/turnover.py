"""The boundary of a lane: tokens are out, requests leave, blocks are claimed, requests join.

Where blocks grow, a sequence claims another one for the step in which its context fills those that it has. If its rank
has none, prefixes that nobody shares make room, then those that are called to its seat go back to the queue, and then
whoever joined the seat last is preempted, itself at last: sequences of the rank's other micro-batches are in the midst
of a step. Who is preempted keeps its tokens, waits at the head of the queue of its rank, and joins again when the
blocks of its context are free and its context is there: computed again, or back from host memory. It does a step
whenever it joins, and so all get their tokens in the end.

Plain functions over flat arrays, one text for both engines, as `seats`.
"""

from __future__ import annotations

import math

from afdsim.engine.chunks import bow_out, budget, compute
from afdsim.engine.prefixes import ASKED
from afdsim.engine.prefixes import HIT as HITS
from afdsim.engine.returns import come_back, fetch, go_on, note_return
from afdsim.engine.seats import (
    ACTIVE,
    ADMITTED,
    ANSWERING,
    ANSWERS,
    BATCH,
    BOUNDARIES,
    CALLED,
    CHUNKS,
    CLAIMING,
    CLAIMS_AT,
    CONTEXT,
    COUNT_COUNTED,
    COUNTED,
    DRAWN,
    ENDS_AT,
    FILLING,
    FINISH,
    FINISHED,
    FIRST_TOKEN,
    FOREVER,
    FRESH,
    FRESH_COUNT,
    GAPS,
    HIT,
    INPUT_LEN,
    JOINED,
    KV_FREE,
    LAST_LEAVING,
    LEAVING,
    LEFT,
    MICRO_BATCH,
    NEEDS,
    NEXT,
    NEXT_CLAIM,
    NEXT_FRESH,
    NOBODY,
    OLDER,
    OUTPUT_LEN,
    OUTSTANDING,
    OWED,
    PACE,
    PREEMPTED,
    QUEUE,
    READY,
    RING,
    SEAT,
    STAYS,
    STEP,
    TAKEN,
    TOKENS,
    UNIT,
    WARM_AT,
    YOUNGER,
    YOUNGEST,
    Asked,
    Book,
    Places,
    Values,
    append,
    arrive,
    call,
    copied,
    crowd,
    gained,
    give_back,
    growth,
    kept,
    make_room,
    need,
    pace_of,
    put_back,
    recompute,
    refill,
    shares,
    steps_of,
    tokens_of,
    uncall,
    written,
)
from afdsim.engine.sessions import ALONE, ENDED


def full(places: Places, book: Book) -> bool:
    """Whether a step might not find room for its boundaries, for the stays that end in it or the chunks it computes."""
    return lacks_rows(book) or lacks_stays(places, book) or lacks_chunks(places, book)


def lacks_rows(book: Book) -> bool:
    """Whether a step might not find room for its boundaries."""
    lacking: bool = book.count[BOUNDARIES] + len(book.lanes) > len(book.rows)
    return lacking


def lacks_stays(places: Places, book: Book) -> bool:
    """Whether more stays might end in a step than there is room for."""
    lacking: bool = places.keeping.grows and book.count[STAYS] + book.count[ACTIVE] > len(book.stays)
    return lacking


def lacks_chunks(places: Places, book: Book) -> bool:
    """Whether a step might compute more chunks than there is room for."""
    lacking: bool = book.count[CHUNKS] + places.prompting.most > len(book.chunks)
    return lacking


def turn_over(places: Places, asked: Asked, book: Book, lane: int, step: int, now: float) -> None:
    """The boundary of a lane before `step`: tokens are out, requests leave, make room and join."""
    if now > asked.horizon:
        book.clock[ENDS_AT] = asked.horizon
        return
    if places.keeping.between != ALONE:
        come_back(places, asked, book, now)
    elif not asked.closed:
        arrive(places, asked, book, now)
    emit(places, book, lane, step, now)
    first_tokens(book, lane, now)
    grow(places, book, lane, step)
    if places.prompting.on:
        promote(places, asked, book, lane, step, now)
    leave(places, asked, book, lane, step, now)
    if places.keeping.between != ALONE:
        come_back(places, asked, book, now)  # of those who have just left and do not think
    if book.count[OUTSTANDING] == 0 and book.count[COUNT_COUNTED] >= asked.num_requests:
        book.clock[ENDS_AT] = now
        return
    if places.keeping.grows:
        claim(places, book, lane, step, now)
    join(places, book, lane, step, now)


# coming and going -----------------------------------------------------------------------------------------------------


def emit(places: Places, book: Book, lane: int, step: int, now: float) -> None:
    """Note the tokens that the step before has produced in a lane."""
    lanes, rows, count = book.lanes, book.rows, book.count
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    sequences = answers = 0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        sequences += book.seats[rank * places.micro_batches + j, BATCH]
        answers += book.seats[rank * places.micro_batches + j, ANSWERS]
    if sequences + answers == 0:
        return
    owed = lanes[lane, OWED] + lanes[lane, PACE]
    tokens = owed // places.scale
    lanes[lane, OWED] = owed - tokens * places.scale
    row = count[BOUNDARIES]
    rows[row, STEP], rows[row, MICRO_BATCH], rows[row, UNIT] = step, j, unit
    rows[row, TOKENS], rows[row, GAPS] = tokens + answers, sequences - lanes[lane, FRESH_COUNT]
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


def promote(places: Places, asked: Asked, book: Book, lane: int, step: int, now: float) -> None:
    """The prompts of a lane that the step before has computed have a token, and decode from `step` on."""
    seats, requests = book.seats, book.requests
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        if seats[seat, ANSWERS] == 0:
            continue
        request = seats[seat, CALLED]
        seats[seat, CALLED] = NOBODY
        while request != NOBODY:
            following = requests[request, NEXT]
            if requests[request, LEFT] == ANSWERING:
                answer(places, asked, book, lane, request, (step, now))
            else:
                append(requests, seats, seat, CALLED, request)
            request = following


def answer(places: Places, asked: Asked, book: Book, lane: int, request: int, at: tuple[int, float]) -> None:
    """A prompt has its token at (step, time): one more of context and one less to come."""
    requests, times, (step, now) = book.requests, book.times, at
    requests[request, LEFT] = 0
    requests[request, CONTEXT] += 1
    if math.isnan(times[request, FIRST_TOKEN]):
        times[request, FIRST_TOKEN] = now
    left = tokens_of(requests, request)
    if left > 0:
        requests[request, DRAWN] = min(requests[request, DRAWN], left)
        take_part(places, book, lane, request, step)
        return
    bow_out(places, book, request, now)
    if asked.closed:
        refill(places, asked, book, requests[request, SEAT], now)


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
            goes_on = places.keeping.between != ALONE and go_on(places, book, request, now)
            if asked.closed and not goes_on:
                refill(places, asked, book, requests[request, SEAT], now)
        else:
            append(requests, book.buckets, bucket, LEAVING, request)
        request = following
    cold = asked.warmup < 0 and book.clock[WARM_AT] > now
    ended = book.count[FINISHED] if places.keeping.between == ALONE else book.sessions.tally[ENDED]
    if cold and ended >= asked.concurrency:
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
    give_back(places, book, request, need(places, requests, request))
    if places.keeping.grows:
        unlink(book, request)
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
        room, request = budget(places, book, seat), seats[seat, CALLED]
        seats[seat, CALLED] = NOBODY
        while request != NOBODY:
            following = requests[request, NEXT]
            if requests[request, LEFT] > 0:
                room -= compute(places, book, request, room, step, now)
                append(requests, seats, seat, CALLED, request)
                request = following
                continue
            if book.times[request, READY] == FOREVER:
                book.times[request, READY] = fetch(places, book, request, now)
            if book.times[request, READY] > now:
                append(requests, seats, seat, CALLED, request)
            else:
                sit_down(places, book, lane, request, step)
                if math.isnan(book.times[request, ADMITTED]):
                    book.times[request, ADMITTED] = now
            request = following


def sit_down(places: Places, book: Book, lane: int, request: int, step: int) -> None:
    """Let a request in that brings its context: its next token is the first since it came."""
    requests, count, lanes = book.requests, book.count, book.lanes
    count[QUEUE] -= 1
    count[ACTIVE] += 1
    lanes[lane, FRESH_COUNT] += 1
    requests[request, NEXT_FRESH] = lanes[lane, FRESH]
    lanes[lane, FRESH] = request
    take_part(places, book, lane, request, step)
    if places.keeping.prefix > 0:
        book.prefixes.tally[ASKED] += shares(places, requests, request)
        book.prefixes.tally[HITS] += requests[request, HIT]
    if places.keeping.between != ALONE and math.isnan(book.times[request, ADMITTED]):
        note_return(places, book, request)


def take_part(places: Places, book: Book, lane: int, request: int, step: int) -> None:
    """Let a request take part from `step` on."""
    requests, lanes = book.requests, book.lanes
    seat, windows = requests[request, SEAT], len(places.windows)
    start, steps = requests[request, CONTEXT], steps_of(requests, request)
    pace = pace_of(places, requests, request)
    requests[request, JOINED] = step
    requests[request, NEEDS] = requests[request, DRAWN]
    book.seats[seat, BATCH] += 1
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
    append(requests, book.buckets, lane * RING + (step + steps) % RING, LEAVING, request)
    if places.keeping.grows:
        link(book, request)
        schedule(places, book, lane, request, step)


def link(book: Book, request: int) -> None:
    """Note who joined a seat last."""
    requests, seats, seat = book.requests, book.seats, book.requests[request, SEAT]
    last = seats[seat, YOUNGEST]
    requests[request, OLDER], requests[request, YOUNGER] = last, NOBODY
    if last != NOBODY:
        requests[last, YOUNGER] = request
    seats[seat, YOUNGEST] = request


def unlink(book: Book, request: int) -> None:
    """Whoever joined before a request and after it are neighbours now."""
    requests, older, younger = book.requests, book.requests[request, OLDER], book.requests[request, YOUNGER]
    if older != NOBODY:
        requests[older, YOUNGER] = younger
    if younger != NOBODY:
        requests[younger, OLDER] = older
    else:
        book.seats[requests[request, SEAT], YOUNGEST] = older


def schedule(places: Places, book: Book, lane: int, request: int, step: int) -> None:
    """Note in which step after `step`, for which it has its blocks, a sequence needs another one."""
    requests, keeping = book.requests, places.keeping
    k, steps = step - requests[request, JOINED] + 1, steps_of(requests, request)
    held = (written(places, requests, request, k) + keeping.block - 1) // keeping.block * keeping.block
    requests[request, CLAIMS_AT] = NOBODY
    if k == steps or requests[request, INPUT_LEN] + requests[request, OUTPUT_LEN] <= held:
        return
    left = held - requests[request, CONTEXT] - keeping.queries
    first = left * places.scale // pace_of(places, requests, request) + 2
    claims_at = requests[request, JOINED] + min(first, steps) - 1
    bucket = lane * RING + claims_at % RING
    requests[request, CLAIMS_AT] = claims_at
    requests[request, NEXT_CLAIM] = book.buckets[bucket, CLAIMING]
    book.buckets[bucket, CLAIMING] = request


# blocks ---------------------------------------------------------------------------------------------------------------


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
        if make_room(places, book, rank):
            continue
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
    give_back(places, book, request, held)
    strike_out(places, book, lane, request, done)
    unlink(book, request)
    tokens = hand_out(places, book.lanes, lane, tokens_of(requests, request) * places.scale - pace * left)
    if done > 0:
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
    elif places.prompting.on:
        requests[request, LEFT] = requests[request, CONTEXT]
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
