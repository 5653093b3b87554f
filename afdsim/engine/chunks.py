"""Prompts inside decode steps: what a step computes of them, first come, first served, within the budget of its rank.

A prompt that is called to a seat waits there until all of its tokens are computed: at every boundary of its lane those
at the seat take from the budget in order. What a step computes is noted, a row a chunk. Whoever was preempted, and has
its context computed again, is a prompt as long as that.

Plain functions over flat arrays, one text for both engines, as `seats`.
"""

from __future__ import annotations

import math

from afdsim.engine.seats import (
    ACTIVE,
    ADMITTED,
    ANSWERING,
    ANSWERS,
    CHUNKS,
    CONTEXT,
    FINISH,
    FINISHED,
    LEFT,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE,
    SEAT,
    TAKEN,
    Book,
    Places,
    crowd,
    give_back,
    need,
)
from afdsim.engine.seats import COUNTED as COUNTS

PAIRS, SEEN, BEFORE, TOKENS, COUNT = range(5)
"""Columns of sums, in the order of `cost.prompts.Sums`."""


def budget(places: Places, book: Book, seat: int) -> int:
    """Tokens of prompts that a step may compute at a seat; it has computed none as yet."""
    if not places.prompting.on:
        return 0
    book.seats[seat, PROMPT_TOKENS] = book.seats[seat, ANSWERS] = 0
    for q in range(len(places.prompting.windows)):
        for column in range(5):
            book.sums[q, seat, column] = 0.0
    left: int = places.prompting.budgets[seat % places.micro_batches]
    return left


def compute(places: Places, book: Book, request: int, room: int, step: int, now: float) -> int:
    """Let a step compute what of a prompt has room in it; returns how many tokens that is."""
    requests, count, seat = book.requests, book.count, book.requests[request, SEAT]
    tokens, before = min(requests[request, LEFT], room), requests[request, CONTEXT] - requests[request, LEFT]
    if tokens == 0:
        return 0
    if before == 0:
        count[QUEUE] -= 1
        count[ACTIVE] += 1
        if math.isnan(book.times[request, ADMITTED]):
            book.times[request, ADMITTED] = now
    note(places, book, (request, seat, step), tokens, before, now)
    book.seats[seat, PROMPT_TOKENS] += tokens
    requests[request, LEFT] -= tokens
    if requests[request, LEFT] == 0:
        requests[request, LEFT] = ANSWERING
        book.seats[seat, ANSWERS] += 1
    return int(tokens)


def note(places: Places, book: Book, at: tuple[int, int, int], tokens: int, before: int, now: float) -> None:
    """Note a chunk of so many tokens behind so many others, and what kernels do for it; `at`: request, seat, step."""
    row = book.count[CHUNKS]
    chunk = book.chunks[row]
    chunk[0], chunk[1], chunk[2], chunk[3], chunk[4] = at[0], at[1], at[2], tokens, before
    chunk[5] = int(tokens == book.requests[at[0], LEFT])
    book.chunk_times[row] = now
    book.count[CHUNKS] = row + 1
    for q in range(len(places.prompting.windows)):
        window, sums = places.prompting.windows[q], book.sums[q, at[1]]
        grows = min(max(window - before, 0), tokens)  # queries that see fewer tokens than the window has
        sums[PAIRS] += grows * (before + grows / 2.0) + float(tokens - grows) * window
        sums[SEEN] += float(tokens + min(before, window))
        sums[BEFORE] += float(before)
        sums[TOKENS] += float(tokens)
        sums[COUNT] += 1.0


def bow_out(places: Places, book: Book, request: int, now: float) -> None:
    """Free what a request held that has its last token and never sat."""
    seat = book.requests[request, SEAT]
    book.seats[seat, TAKEN] -= 1
    crowd(places, book.seats, seat, -1)
    give_back(places, book, request, need(places, book.requests, request))
    book.times[request, FINISH] = now
    book.count[ACTIVE] -= 1
    book.count[FINISHED] += 1
    if book.requests[request, COUNTS]:
        book.count[OUTSTANDING] -= 1
