"""Whole steps in one compiled call: boundaries in order of time, seating, layers, booking; no event queue at all.

What `clock.Run` does on the SimPy clock for both of its ways to run layers, this does as plain loops over flat arrays:
the next boundary is the earliest one, ties by unit. Python draws the random factors of a block of steps and sees to
capacity, pauses and the end. The functions down to `run_steps` are what numba compiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from afdsim.engine.causes import Cursor, Shape, Trace, book
from afdsim.engine.kernel import Delays, Durations, Peers, Scratch, State, advance_dedicated, advance_ports
from afdsim.engine.seating import (
    ACTIVE,
    ENDS_AT,
    INT,
    ISSUED,
    NOBODY,
    POPULATED,
    REAL,
    ROWS,
    WARM_AT,
    Book,
    Demand,
    Places,
    emptiest,
    issue,
    queue,
    turn_over,
)

Values = Any
FOREVER = float("inf")

DONE, ENDED, IDLE, MORE_REQUESTS, MORE_ROWS = range(5)
"""Why `run_steps` came back."""


class Tables(NamedTuple):
    """`Program`, flat; `stride` batches of a rank, `totals` tokens of a micro-batch."""

    stride: int
    totals: int
    attention_kind: Values  # l
    wire_kind: Values  # l
    ffn_row: Values  # f, l
    fixed: Values  # kind, batch
    core: Values  # kind
    core_window: Values  # core
    core_fixed: Values  # core
    core_flop: Values  # core
    core_byte: Values  # core
    core_flop_per_token: Values  # core
    core_byte_per_token: Values  # core
    fixed_total: Values  # batch
    layers_of_core: Values  # core
    layers_of_kind: Values  # kind
    head: Values  # batch
    gather: Values  # wire kind, tokens
    ffn: Values  # row, tokens
    scatter: Values  # tokens
    out_egress: Values  # wire kind, batch
    out_ingress: Values  # wire kind, batch
    back_egress: Values  # batch
    back_ingress: Values  # batch


UNIT = (("turn", INT), ("begin", REAL), ("end", REAL), ("idle", INT), ("longest", REAL))
"""Fields of a unit: its next micro-batch, begin and end of that boundary; whether it holds no sequence in this step;
attention seconds of its slowest ranks, inside the window."""
ACCOUNT = (("begin", REAL), ("end", REAL))
"""Fields of a unit or FFN instance in the ledger: begin and end of its latest row."""


class Current(NamedTuple):
    """What the membership of the micro-batches costs now, and where the boundaries of a step stand."""

    base: Values  # kind, lane
    tokens: Values  # j
    core: Values  # core: scratch
    units: Values  # u


class Ledger(NamedTuple):
    """`record.Ledger`, flat: attention units first, then FFN instances; rows of six causes."""

    accounts: Values  # unit
    row: Values  # unit, cause
    run: Values  # unit, cause
    window: Values  # unit, cause


class Noise(NamedTuple):
    """Factors of a block of steps, drawn as `Variation` draws them; a stride of 0 repeats one step's."""

    attention: Values  # k, u, l, j
    ffn: Values  # k, f, l, j
    out: Values  # k, u, f, l, j
    back: Values  # k, u, f, l, j
    compute_stride: int
    wire_stride: int


class Supply(NamedTuple):
    """Requests whose lengths have been drawn."""

    drawn: int
    fitting: Values  # request: how many before it can be held by some rank


class Machine(NamedTuple):
    """Everything that a step needs."""

    shape: Shape
    delays: Delays
    dedicated: bool
    drain: bool
    gap: float
    peers: Peers
    places: Places
    demand: Demand
    tables: Tables


class Memory(NamedTuple):
    """Everything that a step changes."""

    book: Book
    state: State
    current: Current
    work: Durations
    trace: Trace
    scratch: Scratch
    cursor: Cursor
    booked: tuple[Values, Values]
    ledger: Ledger


def populate(machine: Machine, memory: Memory) -> None:
    """Fill the slots of a closed loop with requests whose ages are evenly spread inside every seat."""
    places, held = machine.places, memory.book
    requests = held.requests
    for _ in range(machine.demand.concurrency):
        request = NOBODY
        seat = emptiest(held.seats)
        while request == NOBODY:
            request = issue(places, held, 0.0, False)
        queue(places, held, request, seat)
    for seat in range(len(held.seats)):
        request, place = held.seats[seat].waiting, 0
        while request != NOBODY:
            age = (2 * place + 1) * requests[request].output_len // (2 * held.seats[seat].sequences)
            requests[request].context += age
            request = requests[request].next
            place += 1
    held.count[POPULATED] = 1


def measure(machine: Machine, memory: Memory, lane: int) -> None:
    """Note what the new membership of a lane costs (`Program.attention_seconds` and `rank_seconds`)."""
    places, tables, current = machine.places, machine.tables, memory.current
    held, seats = memory.book, memory.book.seats
    lanes, total_seats, kinds, cores = len(held.lanes), len(seats), len(tables.core), len(tables.core_fixed)
    unit, j = lane // places.micro_batches, lane % places.micro_batches
    warm = memory.book.time[WARM_AT] < FOREVER and places.ranks > 1
    total = most = 0
    for k in range(kinds):
        current.base[k * lanes + lane] = 0.0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        seat = rank * places.micro_batches + j
        b = seats[seat].batch
        if b == 0:
            continue
        total += b
        most = max(most, b)
        own = 0.0
        for c in range(cores):
            s = held.contexts[tables.core_window[c] * total_seats + seat]
            flop = s * tables.core_flop[c] + b * tables.core_flop_per_token[c]
            byte = s * tables.core_byte[c] + b * tables.core_byte_per_token[c]
            current.core[c] = tables.core_fixed[c] + max(flop, byte)
            own += tables.layers_of_core[c] * current.core[c]
        for k in range(kinds):
            seconds = tables.fixed[k * tables.stride + b] + current.core[tables.core[k]]
            current.base[k * lanes + lane] = max(current.base[k * lanes + lane], seconds)
        if warm:
            held.ranks[rank].own += tables.fixed_total[b] + own
    if warm:
        longest = 0.0
        for k in range(kinds):
            longest += current.base[k * lanes + lane] * tables.layers_of_kind[k]
        current.units[unit].longest += longest
    current.tokens[j] += total - held.lanes[lane].rank_rows
    held.lanes[lane].rank_rows = total
    held.lanes[lane].rows = most


def schedule(machine: Machine, memory: Memory, unit: int) -> None:
    """When the next boundary of a unit begins and ends."""
    places, current, seats = machine.places, memory.current, memory.book.seats
    j = current.units[unit].turn
    begin = max(memory.state.ready[j * machine.shape.units + unit], memory.state.attention[unit])
    head = 0.0
    for rank in range(unit * places.ranks, (unit + 1) * places.ranks):
        head = max(head, machine.tables.head[seats[rank * places.micro_batches + j].batch])
    current.units[unit].begin = begin
    current.units[unit].end = begin + head


def attend(machine: Machine, memory: Memory, lane: int, factor: float) -> None:
    """The first layer's attention of a lane, right after its boundary or the pause of a drained step."""
    shape, trace, free = machine.shape, memory.trace, memory.state.attention
    unit, j = lane // shape.micro_batches, lane % shape.micro_batches
    kind = machine.tables.attention_kind[0]
    begin = free[unit] + (machine.gap if machine.drain and j == 0 else 0.0)
    free[unit] = begin + memory.current.base[kind * len(memory.book.lanes) + lane] * factor
    trace.attention_start[j * shape.units + unit] = begin
    trace.attention[j * shape.units + unit] = free[unit]


def open_step(machine: Machine, memory: Memory, noise: Noise, step: int, k: int) -> None:
    """All boundaries of a step, the earliest first, and the attention operations that follow them at once."""
    shape, current, trace, held = machine.shape, memory.current, memory.trace, memory.book
    units, micro_batches, layers = shape.units, shape.micro_batches, shape.layers
    for unit in range(units):
        current.units[unit].turn = 0
        schedule(machine, memory, unit)
    for _ in range(units * micro_batches):
        unit = 0
        for other in range(1, units):
            if current.units[other].end < current.units[unit].end:
                unit = other
        j, now = current.units[unit].turn, current.units[unit].end
        lane = unit * micro_batches + j
        trace.boundary_start[j * units + unit] = current.units[unit].begin
        trace.boundary[j * units + unit] = now
        memory.state.attention[unit] = now
        if held.time[ENDS_AT] == FOREVER:
            turn_over(machine.places, machine.demand, held, lane, step, now)
            if held.time[ENDS_AT] == FOREVER:
                measure(machine, memory, lane)
        first = k * noise.compute_stride * units + unit * layers * micro_batches
        if not machine.drain:
            attend(machine, memory, lane, noise.attention[first + j])
        current.units[unit].turn += 1
        if current.units[unit].turn < micro_batches:
            schedule(machine, memory, unit)
            continue
        current.units[unit].end = FOREVER
        if machine.drain:
            for x in range(micro_batches):
                attend(machine, memory, unit * micro_batches + x, noise.attention[first + x])


def tabulate(machine: Machine, memory: Memory, noise: Noise, k: int) -> None:
    """Seconds of every operation of a step, multipliers included (`Program.times`)."""
    layers, micro_batches, units, ffns, _ = machine.shape
    tables, current, work = machine.tables, memory.current, memory.work
    turns, lanes = layers * micro_batches, units * micro_batches
    compute, wire = k * noise.compute_stride, k * noise.wire_stride * units * ffns
    for layer in range(layers):
        kind, wires = tables.attention_kind[layer], tables.wire_kind[layer]
        for j in range(micro_batches):
            g, tokens = layer * micro_batches + j, current.tokens[j]
            work.gather[g] = tables.gather[wires * tables.totals + tokens]
            for f in range(ffns):
                seconds = tables.ffn[tables.ffn_row[f * layers + layer] * tables.totals + tokens]
                work.ffn[g * ffns + f] = seconds * noise.ffn[compute * ffns + f * turns + g]
            for u in range(units):
                lane = u * micro_batches + j
                factor = noise.attention[compute * units + u * turns + g]
                work.attention[g * units + u] = current.base[kind * lanes + lane] * factor
                rows = memory.book.lanes[lane].rows
                for f in range(ffns):
                    place = wire + (u * ffns + f) * turns + g
                    i = (g * units + u) * ffns + f
                    work.out_egress[i] = tables.out_egress[wires * tables.stride + rows] * noise.out[place]
                    work.out_ingress[i] = tables.out_ingress[wires * tables.stride + rows] * noise.out[place]
                    i = (g * ffns + f) * units + u
                    work.back_egress[i] = tables.back_egress[rows] * noise.back[place]
                    work.back_ingress[i] = tables.back_ingress[rows] * noise.back[place]
    for j in range(micro_batches):
        work.scatter[j] = tables.scatter[current.tokens[j]]


def close_step(machine: Machine, memory: Memory) -> None:
    """Book where the seconds of a step went; the row before it joins the sums."""
    units, ledger, opens = machine.shape.units, memory.ledger, memory.book.time[WARM_AT]
    book(machine.shape, machine.drain, memory.trace, memory.cursor, memory.current.units.idle, memory.booked)
    for unit in range(len(ledger.accounts)):
        begin, end = ledger.accounts[unit].begin, ledger.accounts[unit].end
        share = 1.0
        if opens > begin:
            share = (end - opens) / (end - begin) if end > opens else 0.0
        for cause in range(6):
            place = unit * 6 + cause
            ledger.run[place] += ledger.row[place]
            ledger.window[place] += ledger.row[place] * share
            ledger.row[place] = memory.booked[0][place] if unit < units else memory.booked[1][place - units * 6]
        ledger.accounts[unit].begin = end
        ledger.accounts[unit].end = memory.cursor.attention[unit] if unit < units else memory.cursor.ffn[unit - units]


def run_steps(machine: Machine, memory: Memory, supply: Supply, noise: Noise, first: int, last: int) -> tuple[int, int]:
    """Run steps first .. last - 1; returns why it came back and the step that it came to."""
    shape, held, current = machine.shape, memory.book, memory.current
    for step in range(first, last):
        if held.count[ROWS] + shape.units * shape.micro_batches > len(held.rows):
            return MORE_ROWS, step
        left = supply.fitting[supply.drawn] - supply.fitting[held.count[ISSUED]]
        if machine.demand.closed and left < machine.demand.concurrency:
            return MORE_REQUESTS, step
        open_step(machine, memory, noise, step, step - first)
        if held.time[ENDS_AT] < FOREVER:
            return ENDED, step
        if held.count[ACTIVE] == 0:
            return IDLE, step
        for unit in range(shape.units):
            idle = 1
            for j in range(shape.micro_batches):
                if held.lanes[unit * shape.micro_batches + j].rank_rows:
                    idle = 0
            current.units[unit].idle = idle
        tabulate(machine, memory, noise, step - first)
        if machine.dedicated:
            advance_dedicated(
                shape, machine.delays, machine.peers, memory.state, memory.work, memory.trace, memory.scratch
            )
        else:
            advance_ports(shape, machine.delays, machine.peers, memory.state, memory.work, memory.trace, memory.scratch)
        close_step(machine, memory)
    return DONE, last
