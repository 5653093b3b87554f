"""The constants of a run as flat arrays, and its memory while nothing has happened yet."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from afdsim.cluster.network import Wiring
from afdsim.engine import culprits, prefixes, seats, sessions
from afdsim.engine.books import BLOCK, WIDTH, Ledger, Trace
from afdsim.engine.capacity import places
from afdsim.engine.cell import Cell
from afdsim.engine.recurrence import Flight, Machine, Memory, State
from afdsim.engine.samples import BYTES, FEWEST, MISSING, MOST, Samples
from afdsim.engine.schedule import INDEX
from afdsim.engine.seats import FOREVER, NOBODY, UNBOUNDED, Asked, Book, Places
from afdsim.engine.tables import Now, Priced
from afdsim.engine.watch import FINEST, Watch
from afdsim.engine.watch import MOST as SLICES

Array = np.ndarray
AHEAD = 4096
"""Boundaries that there is room for at first."""
RESOURCES = 3
WHOLE = MappingProxyType(dict.fromkeys(("sender", "poster", "bound"), INDEX))
"""Columns of a trace that are whole numbers, with their type."""
NOT_YET = -1.0
"""Time of what has not happened in a step, before all others."""


def machine(cell: Cell, asked: Asked) -> Machine:
    """The constants of a run."""
    step = cell.schedule
    turns, reals = step.flat
    line, starts, opens = step.line
    return Machine(
        turns=turns,
        reals=reals,
        opening=INDEX(step.opening),
        length=INDEX(len(turns)),
        micro_batches=INDEX(step.micro_batches),
        together=step.together,
        host=step.host,
        line=line,
        starts=starts,
        opens=opens,
        lines=culprits.lines(cell),
        places=places(cell),
        asked=asked,
        tables=cell.tables,
        wiring=cell.wiring,
        sources=culprits.sources(cell).astype(INDEX),
        doors=culprits.doors(cell),
        seated=cell.seated,
        drawn=cell.variation.units.astype(INDEX),
        paired=cell.variation.pairs.astype(INDEX),
    )


def memory(cell: Cell, asked: Asked, edges: Array, *, watched: bool = False) -> Memory:
    """Everything that changes, blank; the books have slices between `edges`, if `watched` also who was busy when."""
    step, wiring, tables = cell.schedule, cell.wiring, cell.tables
    units, lanes = step.units, cell.seated * cell.micro_batches
    zeros, whole = np.zeros, counts
    return Memory(
        book=blank_book(places(cell), cell.seated, asked),
        now=Now(
            base=zeros((len(tables.core), lanes)),
            tokens=whole(step.batches),
            core=zeros(len(tables.times_of_core)),
            longest=zeros(cell.seated),
        ),
        priced=blank_prices(cell),
        state=State(
            free=zeros((RESOURCES, units)),
            inbox=zeros((max(step.batches, cell.micro_batches), units)),
            egress=zeros(wiring.ports[0]),
            ingress=zeros(wiring.ports[1]),
            hops=zeros(wiring.servers),
            place=whole(units),
            begin=zeros(units),
            end=zeros(units),
            idle=whole(units),
            left=whole(1),
        ),
        flight=blank_flight(wiring),
        trace=blank_arrays(cell),
        ledger=blank_ledger(cell, edges, watched=watched),
        samples=blank_samples(cell),
    )


def blank_flight(wiring: Wiring) -> Flight:
    """No copy on its way yet."""
    header, tail, wire, into, up, down, left = np.zeros((7, len(wiring.order)))
    return Flight(
        header=header,
        tail=tail,
        wire=wire,
        into=into,
        scratch=counts(len(wiring.order)),
        order=wiring.order.copy(),
        up=up,
        down=down,
        left=left,
        across=wiring.across.copy(),
        queue=np.arange(len(wiring.leaving), dtype=INDEX),
        post=np.zeros(len(wiring.leaving)),
    )


def counts(size: int) -> Array:
    """Whole numbers, all zero."""
    return np.zeros(size, dtype=np.int64)


def blank_trace(cell: Cell) -> Trace:
    """An empty record of a step, as lists."""
    size, exchanges, reached = cell.schedule.at[-1], len(cell.schedule.exchanges), cell.schedule.reached[-1]
    some, crossing = size if cell.schedule.all_to_all else 0, reached if cell.wiring.servers else 0
    return Trace(
        start=[0.0] * size,
        finish=[0.0] * size,
        held=[0.0] * some,
        early=[0.0] * some,
        first=[FOREVER] * exchanges,
        last=[NOT_YET] * exchanges,
        second=[NOT_YET] * exchanges,
        sender=[0] * exchanges,
        posted=[NOT_YET] * exchanges,
        ended=[NOT_YET] * exchanges,
        poster=[0] * exchanges,
        arrived=[NOT_YET] * reached,
        bound=[0] * reached,
        crossed=[0.0] * crossing,
    )


def blank_arrays(cell: Cell) -> Trace:
    """The same as arrays."""
    found = blank_trace(cell)._asdict()
    return Trace(**{name: np.array(column, dtype=WHOLE.get(name, float)) for name, column in found.items()})


def blank_ledger(cell: Cell, edges: Array, *, watched: bool) -> Ledger:
    """Nothing booked yet; slices lie between `edges`."""
    units, zeros, columns = cell.schedule.units, np.zeros, culprits.columns(cell)
    width = len(columns)
    return Ledger(
        booked=zeros(units),
        past=blank_arrays(cell),
        begin=zeros(units),
        end=zeros(units),
        row=zeros((units, WIDTH)),
        run=zeros((units, WIDTH)),
        edges=edges.copy(),
        slices=zeros((len(edges) - 1, units, WIDTH)),
        place=counts(units),
        columns=np.searchsorted(columns[:, 0], np.arange(units + 1)).astype(INDEX),
        charged=zeros(width),
        charges=zeros(width),
        blocks=zeros((-(-(len(edges) - 1) // BLOCK), width)),
        watch=Watch(np.full(1, FINEST), zeros((SLICES if watched else 0, units))),
    )


def blank_samples(cell: Cell) -> Samples:
    """No sample yet; as many places as memory allows."""
    trace = blank_arrays(cell)
    places = min(max(BYTES // (2 * sum(column.nbytes for column in trace)) // 2 * 2, FEWEST), MOST)
    columns = {name: np.zeros((places, 2, len(column)), column.dtype) for name, column in trace._asdict().items()}
    return Samples(
        stride=np.ones(1, dtype=np.int64),
        step=np.full((places, 2), MISSING, dtype=np.int64),
        **{name: columns[name] for name in Samples._fields[2:]},
    )


def blank_prices(cell: Cell) -> Priced:
    """Seconds by tokens of a micro-batch: all of them where that is cheap, else those of none."""
    pricing = cell.pricing
    known = np.arange(pricing.most + 1 if pricing.at_once else 1)
    slot = np.full(pricing.most + 1, -1, dtype=np.int64)
    slot[known] = known
    return Priced(slot, np.ascontiguousarray(pricing.of(known), dtype=float))


def blank_book(places: Places, units: int, asked: Asked) -> Book:
    """No request yet, in so many units."""
    m, windows = places.micro_batches, len(places.windows)
    ranks, lanes = units * places.ranks, units * m
    slots = np.tile(places.slots, ranks)
    nobody, prompting = np.full((ranks * m, 9), NOBODY, dtype=np.int64), places.prompting
    nobody[:, [seats.BATCH, seats.TAKEN, seats.SEQUENCES, seats.PROMPT_TOKENS, seats.ANSWERS]] = 0
    nobody[:, seats.CROWD] = np.where(slots > 0, 0, UNBOUNDED)
    row = np.zeros((lanes, 6), dtype=np.int64)
    row[:, seats.FRESH] = NOBODY
    held = np.zeros((ranks, 3))
    held[:, seats.KV_FREE] = places.kv_budget
    return Book(
        seats=nobody,
        lanes=row,
        buckets=np.full((lanes * seats.RING, 4), NOBODY, dtype=np.int64),
        ranks=held,
        queues=np.full((ranks, 2), NOBODY, dtype=np.int64),
        contexts=np.zeros((windows, ranks * m), dtype=np.int64),
        growing=np.zeros((windows, ranks * m), dtype=np.int64),
        requests=np.zeros((0, 19), dtype=np.int64),
        times=np.zeros((0, 6)),
        next_filling=counts(0),
        rows=np.zeros((AHEAD, 5), dtype=np.int64),
        row_times=np.zeros(AHEAD),
        stays=np.zeros((AHEAD if places.keeping.grows else 0, 6), dtype=np.int64),
        prefixes=prefixes.blank(ranks, places.keeping.groups),
        chunks=np.zeros((prompting.most, 6), dtype=np.int64),
        chunk_times=np.zeros(prompting.most),
        sums=np.zeros((len(prompting.windows), ranks * m, 5)),
        sessions=sessions.blank(ranks),
        count=counts(11),
        clock=blank_clock(asked),
    )


def blank_clock(asked: Asked) -> Array:
    """Nothing has happened, and nothing is known to."""
    clock = np.full(7, FOREVER)
    clock[seats.OPENED_AT] = 0.0
    if asked.warmup >= 0:
        clock[seats.WARM_AT] = asked.warmup
    return clock
