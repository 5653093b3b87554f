"""Whole steps in one compiled call: a schedule as a recurrence of max and plus, without an event queue.

Every resource serves its turns in a fixed order, so a finish time is max(own previous finish, latest input) plus a
duration, even where durations are random: the fast twin of `processes`, with the same bits. The next boundary is the
earliest one, ties by unit. These are plain functions over flat arrays, and what numba compiles; `blocks` has
factors drawn and sees to why a call came back; `desk` supplies requests, rows, prices and pauses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from afdsim.cluster.network import PORTS, SHARED, Wiring, cross, receive, send, settle_order
from afdsim.engine.books import AWAY, Ledger, Lines, Trace, close
from afdsim.engine.samples import Samples, keep
from afdsim.engine.schedule import (
    AFTER,
    AT,
    AT_ONCE,
    BATCH_OF,
    COMPUTE,
    DRAW,
    DRAWS,
    EARLY,
    FIRST,
    HELD,
    HELD_BACK,
    INBOX,
    INDEX,
    INTO,
    IS_BOUNDARY,
    IS_COMPUTE,
    IS_PAIRS,
    KIND,
    LAST,
    MORE,
    NUMBER,
    OUT,
    OWN,
    PAUSE,
    POST_DRAW,
    REACHED,
    RESOURCE,
    ROUTE,
    SENT,
    SHARE,
    SLOW,
    TO_FIRST,
    TO_LAST,
    TO_OWN,
    WAITS,
    WORK,
)
from afdsim.engine.seats import (
    ACTIVE,
    CLOSES_AT,
    ENDS_AT,
    FOREVER,
    NOBODY,
    OPENED_AT,
    PAUSES_AT,
    RANK_ROWS,
    STRIKES_AT,
    WARM_AT,
    Asked,
    Book,
    Places,
    begun,
    stops,
)
from afdsim.engine.seats import ROWS as LARGEST
from afdsim.engine.tables import Now, Priced, Tables, head_seconds, measure, seconds
from afdsim.engine.turnover import full, turn_over

Values = Any
Index = Any
"""An unsigned whole number (schedule.INDEX): never mix it with signed ones."""
DONE, ENDED, IDLE, MORE_REQUESTS, MORE_ROWS, MORE_PRICES, STOPPED, PAUSED, CLOSING = range(9)
"""Why `run_steps` came back."""


class Machine(NamedTuple):
    """Everything that a step needs."""

    turns: Values  # turn, column
    reals: Values  # turn, column
    opening: Index
    """Turns before the list."""
    length: Index
    """All turns."""
    micro_batches: Index
    """Of one unit."""
    together: bool
    host: float
    line: Values  # place: turn
    starts: Values  # unit: first place; one entry more
    opens: Values  # unit: turns of its opening
    lines: Lines
    places: Places
    asked: Asked
    tables: Tables
    wiring: Wiring
    sources: Values  # copy: unit that sends it
    doors: Values  # unit: its first port to receive
    seated: int
    """Units that hold requests: the first ones."""
    drawn: Values  # unit: where its factors begin
    paired: Values  # pair: where its factors begin


class Flight(NamedTuple):
    """Copies on their way; carried from turn to turn only for their order."""

    header: Values  # copy
    tail: Values  # copy
    wire: Values  # copy: seconds on the sender's port
    into: Values  # copy: seconds on the receiver's port
    scratch: Values  # copy
    order: Values  # place: copy, in the order in which a port received them a turn ago
    up: Values  # copy: seconds on the uplink
    down: Values  # copy: seconds on the downlink
    left: Values  # copy: its tail before it crosses them
    across: Values  # place: copy, as `order` has them for uplinks
    queue: Values  # leg out, in the order in which they are served
    post: Values  # leg out: when it is posted


class State(NamedTuple):
    """When every resource becomes free, and what lies in every inbox."""

    free: Values  # resource, unit
    inbox: Values  # own micro-batch, unit
    egress: Values  # port
    ingress: Values  # port
    hops: Values  # uplink or downlink
    place: Values  # unit: next turn of its opening
    begin: Values  # unit: of its next boundary
    end: Values  # unit
    idle: Values  # unit: whether it holds no sequence in this step
    left: Values  # one number: boundaries of this step that are not over


class Memory(NamedTuple):
    """Everything that a step changes."""

    book: Book
    now: Now
    priced: Priced
    state: State
    flight: Flight
    trace: Trace
    ledger: Ledger
    samples: Samples


class Noise(NamedTuple):
    """Factors and spikes of a block of steps; a stride of 0 repeats one step's."""

    compute: Values
    wire: Values
    compute_stride: Index
    wire_stride: Index
    more: Values  # as `compute`: seconds that a spike adds to an operation; empty where none does
    late: Values  # the same to the post behind it
    first: int = 0
    """Step of the first of them."""


class Supply(NamedTuple):
    """Requests whose lengths have been drawn."""

    drawn: int
    fitting: Values  # request: how many before it can be held by some rank


# turns ---------------------------------------------------------------------------------------------------------------


def work(machine: Machine, memory: Memory, noise: Noise, t: Index, unit: Index, shift: Index) -> None:
    """One operation of one unit, as soon as the unit and what it waits for are there."""
    turns, reals, state, trace = machine.turns, machine.reals, memory.state, memory.trace
    resource, own, offset = turns[t, RESOURCE], turns[t, OWN], unit - turns[t, FIRST]
    begin = state.free[resource, unit]
    if turns[t, WAITS] == INBOX:
        begin = max(begin, state.inbox[own, unit])
    elif turns[t, WAITS] != AT_ONCE:
        begin = max(begin, trace.finish[turns[t, AFTER] + offset])
    begin += reals[t, PAUSE]
    at = (unit, unit * machine.micro_batches + own, turns[t, BATCH_OF])
    tables, priced, book, now = machine.tables, memory.priced, memory.book, memory.now
    factor = noise.compute[shift + machine.drawn[unit] + turns[t, DRAW]] if turns[t, DRAWS] else 1.0
    i, slow = turns[t, AT] + offset, reals[t, SLOW]
    length = seconds(tables, priced, book, now, (turns[t, WORK], turns[t, WORK + 1]), at) * slow
    if len(trace.held) > 0:
        length += seconds(tables, priced, book, now, (turns[t, MORE], turns[t, MORE + 1]), at)
        early = seconds(tables, priced, book, now, (turns[t, EARLY], turns[t, EARLY + 1]), at) * slow
        trace.early[i] = early * reals[t, SHARE] * factor
        trace.held[i] = seconds(tables, priced, book, now, (turns[t, HELD], turns[t, HELD + 1]), at) * factor
    finish = begin + length * factor
    if len(noise.more) > 0 and turns[t, DRAWS] and length > 0.0:
        finish += noise.more[shift + machine.drawn[unit] + turns[t, DRAW]]
    trace.start[i] = begin
    trace.finish[i] = finish
    state.free[resource, unit] = finish


def exchange_pairs(machine: Machine, memory: Memory, noise: Noise, t: Index, shift: Index, spikes: Index) -> None:
    """One copy from every sender to every receiver, through the ports of both."""
    turns, wiring, flight, state, trace = machine.turns, machine.wiring, memory.flight, memory.state, memory.trace
    lanes, copies = memory.book.lanes, (flight.header, flight.tail, flight.scratch)
    own, route = turns[t, OWN], turns[t, ROUTE]
    draw = shift + turns[t, DRAW]
    note_senders(machine, trace, noise, t, spikes)
    if wiring.queued:
        line_up(machine, memory, noise, t, spikes)
    for place in range(wiring.routes[route, 0], wiring.routes[route, 1]):
        leg = flight.queue[place]
        unit, port = wiring.leaving[leg, 0], wiring.leaving[leg, 1]
        low, high = wiring.leaving[leg, 2], wiring.leaving[leg, 3]
        for x in range(low, high):
            weigh(machine, flight, t, x, lanes[wiring.lane[x] + own, LARGEST], noise.wire[draw + wiring.draw[x]])
        start = max(state.egress[port], post_time(machine, trace, noise, t, unit, spikes))
        state.egress[port] = send(wiring.discipline, start, wiring.lag, flight.wire, copies, (low, high))
    if wiring.servers > 0:
        cross_over(wiring, flight, state, route)
    take_in(machine, memory, t)


def take_in(machine: Machine, memory: Memory, t: Index) -> None:
    """Copies of all senders into the inboxes of the receivers, and why they were there no earlier."""
    turns, wiring, flight, state, trace = machine.turns, machine.wiring, memory.flight, memory.state, memory.trace
    copies, route, x = (flight.header, flight.tail, flight.scratch), turns[t, ROUTE], NOBODY
    to, reach = turns[t, TO_OWN], turns[t, REACHED] - turns[t, TO_FIRST]
    for unit in range(turns[t, TO_FIRST], turns[t, TO_LAST]):
        trace.arrived[reach + unit] = -1.0
    for leg in range(wiring.routes[route, 2], wiring.routes[route, 3]):
        unit, port = wiring.arriving[leg, 0], wiring.arriving[leg, 1]
        span, done = (wiring.arriving[leg, 2], wiring.arriving[leg, 3]), state.ingress[port]
        if span[0] < span[1]:
            done = receive(wiring.discipline, done, flight.into, copies, flight.order, span)
            x = holding(wiring.discipline, done, flight.into, flight.tail, flight.order, span)
        state.ingress[port] = done
        if done + wiring.rest + wiring.poll > trace.arrived[reach + unit]:
            state.inbox[to, unit] = trace.arrived[reach + unit] = done + wiring.rest + wiring.poll
            note_binding(machine, flight, trace, t, (unit, port), x)


def note_binding(machine: Machine, flight: Flight, trace: Trace, t: Index, door: tuple[Index, Index], x: int) -> None:
    """Why a unit has everything only now: for copy x, or for its own port if that is nobody."""
    turns, (unit, port) = machine.turns, door
    place, shut = turns[t, REACHED] + unit - turns[t, TO_FIRST], turns[t, FIRST]
    if x == NOBODY:
        trace.bound[place] = turns[t, LAST] - shut + port - machine.doors[unit]
    else:
        trace.bound[place] = machine.sources[x] - shut
    if machine.wiring.servers > 0:
        lost = 0.0 if x == NOBODY else flight.tail[x] - flight.left[x] - machine.wiring.between
        trace.crossed[place] = max(lost, 0.0)  # rounded, it may be less


def note_senders(machine: Machine, trace: Trace, noise: Noise, t: Index, spikes: Index) -> None:
    """When the senders of an exchange had finished and posted, and who was the last; the lowest of several."""
    turns, number, shut = machine.turns, machine.turns[t, NUMBER], machine.turns[t, FIRST]
    first, last, second, sender = FOREVER, -1.0, -1.0, shut
    posted, ended, poster = -1.0, -1.0, shut
    for unit in range(shut, turns[t, LAST]):
        sent, end = sent_at(trace, turns[t, SENT] + unit - shut), sent_at(trace, turns[t, AFTER] + unit - shut)
        post = end
        if len(noise.late) > 0:
            post += noise.late[spikes + machine.drawn[unit] + turns[t, POST_DRAW]]
        first = min(first, sent)
        if sent > last:
            second, last, sender = last, sent, unit
        elif sent > second:
            second = sent
        if post > posted:
            posted, ended, poster = post, end, unit
    trace.first[number], trace.last[number], trace.sender[number] = first, last, sender - shut
    trace.second[number] = second if second >= 0.0 else last
    trace.posted[number], trace.ended[number], trace.poster[number] = posted, ended, poster - shut


def sent_at(trace: Trace, i: Index) -> float:
    """When the rows of an operation are posted."""
    return float(trace.finish[i] - trace.early[i]) if len(trace.early) > 0 else float(trace.finish[i])


def holding(discipline: int, done: float, into: Values, tail: Values, order: Values, span: tuple[int, int]) -> int:
    """The copy at whose tail a port had received the copies of a turn; NOBODY where the port was done only later.

    Behind `receive`, which leaves the last one at the end of `order`, but where wires are dedicated or it has no bytes.
    """
    place, low = signed(span[1]), signed(span[0])
    while place > low:
        place -= 1
        x = order[place]
        if tail[x] >= done:
            return int(x)
        if discipline == SHARED or (discipline == PORTS and into[x] > 0.0):
            break
    return NOBODY


def post_time(machine: Machine, trace: Trace, noise: Noise, t: Index, unit: Index, spikes: Index) -> float:
    """When a sender's rows may leave its port."""
    turns = machine.turns
    time = trace.finish[turns[t, AFTER] + unit - turns[t, FIRST]] + machine.wiring.wait
    if len(noise.late) > 0:
        time += noise.late[spikes + machine.drawn[unit] + turns[t, POST_DRAW]]
    return float(time)


def line_up(machine: Machine, memory: Memory, noise: Noise, t: Index, spikes: Index) -> None:
    """Put the legs that leave by one port in the order in which they are posted, ties by unit."""
    wiring, flight, route = machine.wiring, memory.flight, machine.turns[t, ROUTE]
    low = wiring.routes[route, 0]
    for leg in range(wiring.routes[route, 0], wiring.routes[route, 1]):
        flight.post[leg] = post_time(machine, memory.trace, noise, t, wiring.leaving[leg, 0], spikes)
        if wiring.leaving[leg, 1] != wiring.leaving[low, 1]:
            settle_order(flight.queue, flight.post, low, leg)
            low = leg
    settle_order(flight.queue, flight.post, low, wiring.routes[route, 1])


def weigh(machine: Machine, flight: Flight, t: Index, x: Index, most: int, factor: float) -> None:
    """Seconds of a copy of `most` rows wherever it is served."""
    rows, wiring, out, into = machine.tables.rows, machine.wiring, machine.turns[t, OUT + 1], machine.turns[t, INTO + 1]
    flight.wire[x] = rows[out, most] * factor
    flight.into[x] = rows[into, most] * factor
    if len(wiring.slow) > 0:
        flight.wire[x] *= wiring.slow[x, 0]
        flight.into[x] *= wiring.slow[x, 1]
    if wiring.servers > 0:
        flight.up[x] = rows[out + wiring.further, most] * factor
        flight.down[x] = rows[into + wiring.further, most] * factor


def cross_over(wiring: Wiring, flight: Flight, state: State, route: Index) -> None:
    """Every rail's copies over the uplink of the senders' side and the downlink of the receivers'."""
    copies = (flight.header, flight.tail, flight.scratch)
    for x in range(len(flight.tail)):
        flight.left[x] = flight.tail[x]
    for leg in range(wiring.routes[route, 4], wiring.routes[route, 5]):
        up, down = wiring.crossings[leg, 0], wiring.crossings[leg, 1]
        span = (wiring.crossings[leg, 2], wiring.crossings[leg, 3])
        state.hops[up] = cross(state.hops[up], 0.0, flight.up, copies, flight.across, span)
        state.hops[down] = cross(state.hops[down], wiring.between, flight.down, copies, flight.across, span)


def exchange_all(machine: Machine, memory: Memory, noise: Noise, t: Index, shift: Index, spikes: Index) -> None:
    """Everybody's rows to everybody, one aggregate per unit and direction."""
    turns, state, trace = machine.turns, memory.state, memory.trace
    tables, priced, book, now = machine.tables, memory.priced, memory.book, memory.now
    own, shut, after = turns[t, OWN], turns[t, FIRST], turns[t, AFTER]
    place, first, last, sender = turns[t, REACHED] - shut, FOREVER, -1.0, shut
    note_senders(machine, trace, noise, t, spikes)
    for unit in range(shut, turns[t, LAST]):
        i = after + unit - shut
        post = sent_at(trace, i)
        if len(noise.late) > 0:
            post += noise.late[spikes + machine.drawn[unit] + turns[t, POST_DRAW]]
        begin = max(post, state.egress[unit])
        first = min(first, begin)
        factor = noise.wire[shift + machine.paired[unit] + turns[t, DRAW]]
        at = (unit, unit * machine.micro_batches + own, turns[t, BATCH_OF])
        end = begin + seconds(tables, priced, book, now, (turns[t, OUT], turns[t, OUT + 1]), at) * factor
        if turns[t, HELD_BACK]:
            end = max(end, trace.finish[i])
        state.egress[unit] = end
        if end > last:
            last, sender = end, unit
    for unit in range(shut, turns[t, LAST]):
        at = (unit, unit * machine.micro_batches + own, turns[t, BATCH_OF])
        into = seconds(tables, priced, book, now, (turns[t, INTO], turns[t, INTO + 1]), at)
        done = max(max(state.ingress[unit], first) + into, last)
        state.ingress[unit] = done
        state.inbox[turns[t, TO_OWN], unit] = trace.arrived[place + unit] = done
        trace.bound[place + unit] = (sender if last >= done else turns[t, LAST]) - shut


def signed(index: Index) -> int:
    """The same number, to reckon with."""
    return np.int64(index)  # type: ignore[return-value]  # int() would leave it unsigned in machine code


# steps ---------------------------------------------------------------------------------------------------------------


def approach(machine: Machine, memory: Memory, unit: int) -> None:
    """When the next boundary of a unit begins and ends."""
    state, j = memory.state, signed(machine.turns[machine.line[memory.state.place[unit]], OWN])
    begin = max(state.inbox[j, unit], state.free[COMPUTE, unit])
    lane = unit * machine.places.micro_batches + j
    state.begin[unit] = begin
    state.end[unit] = begin + head_seconds(machine.places, machine.tables, memory.book, lane)


def turn_page(machine: Machine, memory: Memory, step: int, unit: int) -> None:
    """The boundary of a unit that is next."""
    state, trace, turns, t = memory.state, memory.trace, machine.turns, machine.line[memory.state.place[unit]]
    now, lane = state.end[unit], unit * machine.places.micro_batches + signed(turns[t, OWN])
    i = signed(turns[t, AT]) + unit - signed(turns[t, FIRST])
    trace.start[i], trace.finish[i] = state.begin[unit], now
    state.free[COMPUTE, unit] = now
    if memory.book.clock[ENDS_AT] == FOREVER and now <= memory.book.clock[STRIKES_AT]:
        turn_over(machine.places, machine.asked, memory.book, lane, step, now)
        if memory.book.clock[ENDS_AT] == FOREVER:
            measure(machine.places, machine.tables, memory.book, memory.now, lane)


def begin_step(machine: Machine, memory: Memory) -> None:
    """All boundaries of a step lie ahead."""
    state = memory.state
    memory.book.clock[OPENED_AT], state.left[0] = 0.0, machine.seated * machine.places.micro_batches
    for unit in range(machine.seated):
        state.place[unit] = machine.starts[unit]
        approach(machine, memory, unit)


def open_step(machine: Machine, memory: Memory, noise: Noise, step: int, shift: Index) -> bool:
    """The boundaries of a step, the earliest first, and the operations that follow them at once.

    Returns whether all of them are over: not where the next one may see somebody who is not known yet.
    """
    state, clock = memory.state, memory.book.clock
    while state.left[0] > 0:
        unit = 0
        for other in range(1, machine.seated):
            if state.end[other] < state.end[unit]:
                unit = other
        if state.end[unit] >= clock[PAUSES_AT] and clock[ENDS_AT] == FOREVER:
            return False
        turn_page(machine, memory, step, unit)
        clock[OPENED_AT] = max(clock[OPENED_AT], state.end[unit])
        state.left[0] -= 1
        state.place[unit] += 1
        state.end[unit] = FOREVER
        while state.place[unit] < machine.starts[unit] + machine.opens[unit]:
            t = machine.line[state.place[unit]]
            if machine.turns[t, KIND] == IS_BOUNDARY:
                approach(machine, memory, unit)
                break
            work(machine, memory, noise, t, INDEX(unit), shift)
            state.place[unit] += 1
    return True


def run_list(machine: Machine, memory: Memory, noise: Noise, shift: Index, wires: Index) -> None:
    """The turns of a step in the order of the list."""
    turns = machine.turns
    for t in range(machine.opening, machine.length):
        kind = turns[t, KIND]
        if kind == IS_COMPUTE:
            for unit in range(turns[t, FIRST], turns[t, LAST]):
                work(machine, memory, noise, t, unit, shift)
        elif kind == IS_PAIRS:
            exchange_pairs(machine, memory, noise, t, wires, shift)
        else:
            exchange_all(machine, memory, noise, t, wires, shift)
    if machine.together:
        for unit in range(machine.seated):
            memory.state.inbox[0, unit] = memory.state.free[COMPUTE, unit] + machine.host


def lacks_prices(priced: Priced, now: Now) -> bool:
    """Whether a micro-batch has a size whose seconds are not known yet."""
    lacking = False
    for batch in range(len(now.tokens)):
        lacking = lacking or priced.slot[now.tokens[batch]] < 0
    return lacking


def note_idle(idle: Values, lanes: Values, micro_batches: int) -> None:
    """Note which units hold no sequence; who is away stays so."""
    for unit in range(len(lanes) // micro_batches):
        if idle[unit] == AWAY:
            continue
        idle[unit] = 1
        for lane in range(unit * micro_batches, (unit + 1) * micro_batches):
            if lanes[lane, RANK_ROWS]:
                idle[unit] = 0


def lacks_room(places: Places, asked: Asked, book: Book, supply: Supply) -> int:
    """What the boundaries of a step may need that is not there."""
    if full(places, book):
        return MORE_ROWS
    if asked.closed and supply.fitting[supply.drawn] - supply.fitting[begun(places, book)] < asked.concurrency:
        return MORE_REQUESTS
    return DONE


def after_opening(book: Book) -> int:
    """Whether a step whose boundaries are over has no layers: the run has ended, or nothing is active.

    Or they wait until the load has been judged.
    """
    if book.clock[ENDS_AT] < FOREVER:
        return ENDED
    if stops(book.clock):  # on purpose: at the end of the boundaries
        book.clock[STRIKES_AT] = min(book.clock[STRIKES_AT], book.clock[OPENED_AT])
        return DONE
    if book.count[ACTIVE] == 0:
        return IDLE
    return CLOSING if book.clock[OPENED_AT] >= book.clock[CLOSES_AT] else DONE


def run_steps(
    machine: Machine, memory: Memory, supply: Supply, noise: Noise, span: tuple[int, int], opened: bool
) -> tuple[int, int]:
    """Run the steps of a span, the first of which may be open; returns why it came back and the step it came to."""
    book = memory.book
    for step in range(span[0], span[1]):
        shift = INDEX(step - noise.first) * noise.compute_stride
        wires = INDEX(step - noise.first) * noise.wire_stride
        if not opened:
            if memory.state.left[0] == 0:
                why = lacks_room(machine.places, machine.asked, book, supply)
                if why != DONE:
                    return why, step
                begin_step(machine, memory)
            if not open_step(machine, memory, noise, step, shift):
                return PAUSED, step
            why = after_opening(book)
            if why != DONE:
                return why, step
        if lacks_prices(memory.priced, memory.now):
            return MORE_PRICES, step
        opened = False
        note_idle(memory.state.idle, book.lanes, machine.places.micro_batches)
        run_list(machine, memory, noise, shift, wires)
        opens, until = book.clock[WARM_AT], book.clock[STRIKES_AT]
        close(machine.lines, memory.trace, memory.ledger, memory.state.idle, opens, until)
        if stops(book.clock):
            return STOPPED, step + 1
        keep(memory.samples, memory.trace, step)
    return DONE, span[1]
