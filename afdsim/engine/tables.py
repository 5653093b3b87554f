"""Seconds as both engines look them up: flat tables, and what the membership of every lane makes of them.

Index letters: k kind of attention stage, c core, p kernel of prompts, b batch of a rank, or where steps compute prompts
its rows, n sequences of a rank that get tokens, w window, lane = unit x micro-batches + micro-batch. Plain functions
over flat arrays, one text for both engines.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from afdsim.engine.chunks import PAIRS
from afdsim.engine.chunks import TOKENS as COMPUTED
from afdsim.engine.schedule import RANK, ROWS, TOKENS
from afdsim.engine.seats import ANSWERS, BATCH, FOREVER, OWN, PROMPT_TOKENS, RANK_ROWS, WARM_AT, Book, Places
from afdsim.engine.seats import ROWS as LARGEST

Values = Any


class Tables(NamedTuple):
    """What a cell's operations take; constant."""

    fixed: Values  # k, b: an attention stage of a rank without its core
    core: Values  # k, place: which cores, behind these kernels of prompts, or as many as there are for none
    core_window: Values  # c
    core_law: Values  # c, column: fixed, per context token and per sequence of arithmetic, the same of traffic
    core_grid: Values  # c: where its grid begins in `grids`, or -1 where the law holds
    grids: Values
    fixed_total: Values  # b: all stages of a step without cores
    times_of_core: Values  # c and then p: how often a step runs it
    times_of_kind: Values  # k
    head: Values  # n
    lookup: Values  # tokens of prompts: finding their embeddings
    chunk_law: Values  # p, column: fixed, arithmetic of one of each of `cost.prompts.Sums`, the same of traffic
    chunk_window: Values  # p: which of `Prompting.windows`
    chunk_grid: Values  # p: as `core_grid`, by tokens and the pairs of them with what they see
    rows: Values  # row, b
    place: Values  # row, unit: entry of a micro-batch's tokens in `Priced.values`
    batch_of: Values  # lane: micro-batch of the whole cell


LAW_FIXED, LAW_FLOP, LAW_FLOP_EACH, LAW_BYTE, LAW_BYTE_EACH = range(5)


class Priced(NamedTuple):
    """Seconds by tokens of a micro-batch, as far as they are known."""

    slot: Values  # tokens: row of `values`, -1 where unknown
    values: Values  # slot, entry


class Now(NamedTuple):
    """What the membership of the lanes costs now."""

    base: Values  # k, lane: seconds of the slowest rank
    tokens: Values  # micro-batch of the cell: sequences over all its units
    core: Values  # c: scratch
    longest: Values  # u: attention seconds of its slowest ranks, inside the window


def core_seconds(tables: Tables, c: int, batch: int, context: float) -> float:
    """Seconds of core attention for `batch` sequences whose contexts add up to `context`."""
    law = tables.core_law
    if tables.core_grid[c] >= 0:
        return on_grid(tables.grids, tables.core_grid[c], batch, context)
    flop = context * law[c, LAW_FLOP] + batch * law[c, LAW_FLOP_EACH]
    byte = context * law[c, LAW_BYTE] + batch * law[c, LAW_BYTE_EACH]
    return float(law[c, LAW_FIXED] + max(flop, byte))


def chunk_seconds(tables: Tables, p: int, sums: Values) -> float:
    """Seconds of a kernel of prompts for the `sums` of its chunks."""
    law, flop, byte = tables.chunk_law, 0.0, 0.0
    if sums[COMPUTED] == 0.0:
        return 0.0
    if tables.chunk_grid[p] >= 0:
        return on_grid(tables.grids, tables.chunk_grid[p], sums[COMPUTED], sums[PAIRS])
    for column in range(5):
        flop += sums[column] * law[p, 1 + column]
        byte += sums[column] * law[p, 6 + column]
    return float(law[p, LAW_FIXED] + max(flop, byte)) if max(flop, byte) > 0.0 else 0.0


def on_grid(grids: Values, at: int, batch: float, context: float) -> float:
    """A monotone law, linear between the lines of a grid and along the last two beyond it.

    From `at` on: number of batches, number of contexts, both axes, then the seconds, a row a batch.
    """
    batches, contexts = int(grids[at]), int(grids[at + 1])
    rows, columns, cells = at + 2, at + 2 + batches, at + 2 + batches + contexts
    i, x = between(grids, rows, batches, batch)
    j, y = between(grids, columns, contexts, context)
    corner = cells + i * contexts + j
    low = grids[corner] + (grids[corner + 1] - grids[corner]) * y
    high = grids[corner + contexts] + (grids[corner + contexts + 1] - grids[corner + contexts]) * y
    return float(low + (high - low) * x)


def between(axis: Values, at: int, count: int, value: float) -> tuple[int, float]:
    """The line of an axis below a value (not the last) and how far the value is towards the next."""
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if axis[at + middle] <= value:
            low = middle
        else:
            high = middle
    return low, (value - axis[at + low]) / (axis[at + low + 1] - axis[at + low])


def measure(places: Places, tables: Tables, book: Book, now: Now, lane: int) -> None:
    """Note what the new membership of a lane costs."""
    seats, lanes, base = book.seats, book.lanes, now.base
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    warm = book.clock[WARM_AT] < FOREVER and places.ranks > 1
    total = most = 0
    for k in range(len(tables.core)):
        base[k, lane] = 0.0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        batch = seats[seat, BATCH]
        rows = batch * places.prompting.rows + seats[seat, PROMPT_TOKENS]
        if rows == 0:
            continue
        total += rows
        most = max(most, rows)
        own, cores = 0.0, len(tables.core_window)
        for c in range(cores):
            now.core[c] = core_seconds(tables, c, batch, book.contexts[tables.core_window[c], seat]) if batch else 0.0
            own += tables.times_of_core[c] * now.core[c]
        for p in range(len(tables.chunk_window)):
            now.core[cores + p] = chunk_seconds(tables, p, book.sums[tables.chunk_window[p], seat])
            own += tables.times_of_core[cores + p] * now.core[cores + p]
        for k in range(len(tables.core)):
            stage = tables.fixed[k, rows]
            for place in range(tables.core.shape[1]):
                stage += now.core[tables.core[k, place]]
            base[k, lane] = max(base[k, lane], stage)
        if warm:
            book.ranks[rank, OWN] += tables.fixed_total[rows] + own
    if warm:
        longest = 0.0
        for k in range(len(tables.core)):
            longest += base[k, lane] * tables.times_of_kind[k]
        now.longest[unit] += longest
    now.tokens[tables.batch_of[lane]] += total - lanes[lane, RANK_ROWS]
    lanes[lane, RANK_ROWS] = total
    lanes[lane, LARGEST] = most


def head_seconds(places: Places, tables: Tables, book: Book, lane: int) -> float:
    """Seconds of the boundary of a lane: reduction, LM head, sampling and embedding of its slowest rank.

    The embeddings of prompts are found with the rest of their step, at its end.
    """
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    head = 0.0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        prompts = book.seats[seat, PROMPT_TOKENS]
        head = max(head, tables.head[book.seats[seat, BATCH] + book.seats[seat, ANSWERS]] + tables.lookup[prompts])
    return head


def seconds(
    tables: Tables, priced: Priced, book: Book, now: Now, source: tuple[int, int], at: tuple[int, int, int]
) -> float:
    """Seconds of a source (table, row) at (unit, lane, micro-batch of the cell)."""
    table, row = source
    unit, lane, batch = at
    if table == RANK:
        return float(now.base[row, lane])
    if table == ROWS:
        return float(tables.rows[row, book.lanes[lane, LARGEST]])
    if table == TOKENS:
        return float(priced.values[priced.slot[now.tokens[batch]], tables.place[row, unit]])
    return 0.0
