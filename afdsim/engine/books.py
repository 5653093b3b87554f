"""Where the seconds of a step went: every gap between operations is cut at the finish of the senders it waited for.

After the last sender's finish a gap is `network` (NVLink too); what comes before it the exchange names: `wait_peer`,
`imbalance`, or one until the first sender's finish and the other until the last's (DESIGN section 4). Communication
that holds the SMs is `network` too. One text for both engines and every deployment. Seconds are rows of six.

The same seconds are charged to who was waited for, in one flat row of all units: what its columns mean `culprits` says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from afdsim.engine.watch import Watch, coarsen, note

Values = Any
BUSY, WAIT_PEER, NETWORK, IMBALANCE, NO_WORK, DOWN = range(6)
CAUSES = ("busy", "wait_peer", "network", "imbalance", "no_work", "down")
WIDTH = len(CAUSES)

AWAY = 2
"""Mark of an idle unit that is not there: all of its time is `down`."""
UNCUT = -1
"""Place in `Lines.cut` of a turn that waits for no message: its gap is a pause."""
INDEX = np.uint64
"""Of whatever only points: unsigned, so that machine code need not ask for negative places."""
AT_PEER, AT_NETWORK = INDEX(WAIT_PEER), INDEX(NETWORK)
HOST, OWN, OUTAGE = INDEX(0), INDEX(1), INDEX(2)
"""First columns of every unit: its host; its own ports while communication holds the SMs; who crashed in a step."""
BLOCK = 10
"""Slices whose blame is kept in one."""


class Lines(NamedTuple):
    """The turns of the compute resource in order, the same for every unit of a pool.

    Pool p has units units[p] .. units[p + 1] - 1 and places start[p] .. start[p + 1] - 1. Columns count from a unit's
    first one.
    """

    units: Values  # pool
    start: Values  # pool
    index: Values  # place: where begin and end of its first unit stand in a trace
    cut: Values  # place: exchange whose senders cut the gap before it, or UNCUT
    earlier: Values  # place: whether that exchange was in the step before
    before: Values  # place: cause until the first sender's finish
    between: Values  # place: cause until the last sender's finish
    reach: Values  # place: where the arrival of that exchange at the first unit stands in a trace
    way: Values  # place: by which way it came
    part: Values  # place: column of its kind of layer and micro-batch for BUSY, were there one
    early: Values  # way: column of all senders for the seconds until the first had finished
    late: Values  # way: the same until the last but one had
    alone: Values  # way: first column of the senders for the seconds until the last had finished
    behind: Values  # way: the same for what it was late in the seconds behind its finish
    scatters: Values  # way: the same for the seconds until the last one's operation behind it ended
    hosts: Values  # way: the same until it had posted
    ports: Values  # way: first column of the ports (`Trace.bound`)
    uplink: Values  # way: column of the uplinks
    path: Values  # way: column of the path
    rest: Values  # way: column of what the receiver does before it begins
    flight: Values  # way: seconds of a message that meets no other, from post to poll
    kept: Values  # exchanges that boundaries of the next step look back at
    reached: Values  # exchange: where its arrivals begin in a trace; one entry more


class Trace(NamedTuple):
    """What happened in one step."""

    start: Values  # turn and unit
    finish: Values  # turn and unit
    held: Values  # turn and unit: seconds in which communication held the SMs; empty where it never does
    early: Values  # turn and unit: how long before its end it posted; the same
    first: Values  # exchange: when its first sender had finished
    last: Values  # exchange: when its last sender had finished
    second: Values  # exchange: when the last but one had; if there is one only, it
    sender: Values  # exchange: which was the last, the lowest of several
    posted: Values  # exchange: when the last of them had posted
    ended: Values  # exchange: when the operation had ended whose rows it posted
    poster: Values  # exchange: which that was
    arrived: Values  # exchange and receiver: when it had everything
    bound: Values  # exchange and receiver: sender of the copy that came last; behind the senders, its own port
    crossed: Values  # exchange and receiver: what that copy lost at uplinks; empty where there are none


class Ledger(NamedTuple):
    """Books the seconds of every unit by cause, slice by slice of the time between the edges.

    Rows come once per step and unit, (begin, end, seconds by cause), and adjoin. A row that an edge cuts counts in
    proportion, and the last row is stretched to the end. The first edge of a closed loop moves until it is warm.
    """

    booked: Values  # u: end of the last operation booked
    past: Trace  # what boundaries look back at: of the step before, `Lines.kept` alone
    begin: Values  # u: of its latest row
    end: Values  # u
    row: Values  # u, cause: the latest
    run: Values  # u, cause: the sum of the others
    edges: Values  # slice: where it begins; one entry more
    slices: Values  # slice, u, cause: the same inside it
    place: Values  # u: slice in which the others end
    columns: Values  # u: where its columns of blame begin; one entry more
    charged: Values  # column: of the latest rows
    charges: Values  # column: the sum of the others
    blocks: Values  # block of slices, column: the same inside it
    watch: Watch  # busy seconds of the others over the whole run


def close(lines: Lines, trace: Trace, ledger: Ledger, idle: Values, opens: float, until: float = float("inf")) -> None:
    """Book a step, all of whose turns are over; `idle` units held no sequence, and their gaps are `no_work`.

    `opens` is where the first slice begins, as far as that is known. Nothing is booked behind `until`: who crashed then
    has done the operations and the waiting before it.
    """
    ledger.edges[0] = opens
    for unit in range(len(ledger.booked)):
        settle(ledger, unit)
        clear(ledger, unit)
    for pool in range(len(lines.units) - 1):
        book(lines, trace, ledger, pool, until)
    for unit in range(len(ledger.booked)):
        if idle[unit]:
            rest(ledger, unit, idle[unit])
        ledger.begin[unit] = ledger.end[unit]
        ledger.end[unit] = ledger.booked[unit]
    remember(lines, trace, ledger.past)


def remember(lines: Lines, trace: Trace, past: Trace) -> None:
    """Keep what the boundaries of the next step look back at."""
    for x in lines.kept:
        past.first[x], past.last[x], past.second[x] = trace.first[x], trace.last[x], trace.second[x]
        past.sender[x], past.poster[x] = trace.sender[x], trace.poster[x]
        past.posted[x], past.ended[x] = trace.posted[x], trace.ended[x]
        for place in range(lines.reached[x], lines.reached[x + 1]):
            past.arrived[place], past.bound[place] = trace.arrived[place], trace.bound[place]
            if len(trace.crossed) > 0:
                past.crossed[place] = trace.crossed[place]


def forget(past: Trace, now: float) -> None:
    """What happened before a standstill is over: boundaries behind it wait for nobody."""
    for times in (past.first, past.last, past.second, past.posted, past.ended, past.arrived):
        times[...] = now


def settle(ledger: Ledger, unit: int) -> None:
    """Let the latest row of a unit join the sums."""
    begin, end, place = ledger.begin[unit], ledger.end[unit], ledger.place[unit]
    for cause in range(WIDTH):
        ledger.run[unit, cause] += ledger.row[unit, cause]
    for column in range(ledger.columns[unit], ledger.columns[unit + 1]):
        ledger.charges[column] += ledger.charged[column]
    note(ledger.watch, unit, (begin, end), ledger.row[unit, BUSY])
    while place < len(ledger.slices) and ledger.edges[place] < end:
        low, high = max(begin, ledger.edges[place]), min(end, ledger.edges[place + 1])
        if high > low:
            share = (high - low) / (end - begin) if high - low < end - begin else 1.0
            for cause in range(WIDTH):
                ledger.slices[place, unit, cause] += ledger.row[unit, cause] * share
            for column in range(ledger.columns[unit], ledger.columns[unit + 1]):
                ledger.blocks[place // BLOCK, column] += ledger.charged[column] * share
        if ledger.edges[place + 1] > end:
            break
        place += 1
    ledger.place[unit] = place


def watched(ledger: Ledger, ends: float) -> Watch | None:
    """Busy seconds of a run over time, the latest row of every unit stretched to its end; None where nobody looked.

    Nor while it goes on.
    """
    if not len(ledger.watch.busy) or ends == float("inf"):
        return None
    watch = Watch(ledger.watch.width.copy(), ledger.watch.busy.copy())
    for unit, (begin, end, busy) in enumerate(zip(ledger.begin, ledger.end, ledger.row[:, BUSY], strict=True)):
        if end > begin:
            note(watch, unit, (begin, ends), busy * ((ends - begin) / (end - begin)))
    while ends > len(watch.busy) * watch.width[0]:
        coarsen(watch)
    return watch._replace(busy=watch.busy[: int(np.ceil(ends / watch.width[0]))])


def clear(ledger: Ledger, unit: int) -> None:
    """Begin a row of a unit."""
    for cause in range(WIDTH):
        ledger.row[unit, cause] = 0.0
    for column in range(ledger.columns[unit], ledger.columns[unit + 1]):
        ledger.charged[column] = 0.0


def rest(ledger: Ledger, unit: int, idle: int) -> None:
    """Call a unit's gaps `no_work`, or all of its time `down` if it is not there: nobody is to blame."""
    row = ledger.row
    lost = row[unit, WAIT_PEER] + row[unit, NETWORK] + row[unit, IMBALANCE]
    busy = row[unit, BUSY]
    clear(ledger, unit)
    if idle == AWAY:
        row[unit, DOWN] = ledger.booked[unit] - ledger.end[unit]
    else:
        row[unit, BUSY], row[unit, NO_WORK] = busy, lost


def book(lines: Lines, trace: Trace, ledger: Ledger, pool: int, until: float) -> None:
    """Fill the rows of a pool's units with the seconds since the last operation booked, up to `until`."""
    span = (lines.units[pool], lines.units[pool + 1])
    for place in range(lines.start[pool], lines.start[pool + 1]):
        if lines.cut[place] == UNCUT:
            pause(lines, trace, ledger, place, span, until)
        elif lines.earlier[place]:
            wait(lines, (ledger.past, trace), ledger, place, span, until)
        else:
            wait(lines, (trace, trace), ledger, place, span, until)
        work(lines, trace, ledger, place, span, until)


def pause(lines: Lines, trace: Trace, ledger: Ledger, place: int, span: tuple[int, int], until: float) -> None:
    """Book the gaps before a turn that waits for no message."""
    for unit in range(span[0], span[1]):
        gap = min(trace.start[lines.index[place] + unit - span[0]], until) - ledger.booked[unit]
        if gap > 0.0:
            ledger.row[unit, WAIT_PEER] += gap
            ledger.charged[ledger.columns[unit] + HOST] += gap
            ledger.charged[ledger.columns[unit] + lines.part[place] + AT_PEER] += gap


def held_in(trace: Trace, i: int, until: float) -> float:
    """Seconds up to `until` in which communication held the SMs in an operation: of one that is cut its share."""
    if len(trace.held) == 0:
        return 0.0
    if trace.finish[i] <= until or trace.held[i] == 0.0:
        return float(trace.held[i])
    return float(trace.held[i] * max(until - trace.start[i], 0.0) / (trace.finish[i] - trace.start[i]))


def work(lines: Lines, trace: Trace, ledger: Ledger, place: int, span: tuple[int, int], until: float) -> None:
    """Book a turn itself."""
    for unit in range(span[0], span[1]):
        i = lines.index[place] + unit - span[0]
        held, end = held_in(trace, i, until), min(trace.finish[i], until)
        if held > 0.0:
            ledger.row[unit, NETWORK] += held
            ledger.charged[ledger.columns[unit] + OWN] += held
            ledger.charged[ledger.columns[unit] + lines.part[place] + AT_NETWORK] += held
        ledger.row[unit, BUSY] += end - min(trace.start[i], until) - held
        ledger.booked[unit] = end


def wait(
    lines: Lines, traces: tuple[Trace, Trace], ledger: Ledger, place: int, span: tuple[int, int], until: float
) -> None:
    """Book the gaps before a turn that waits for messages, and charge them to who was waited for.

    `traces`: of the step of the messages, and of the turn's own. A gap is shorter by what the last sender was later
    than the last but one: that is charged to it, the rest in order of time to all senders, and behind their finish to
    the NVLink and the host of whoever posted last, to the path, to uplinks and the port that held the last copy back,
    and to what the receiver does before it begins.
    """
    sent, own_start = traces[0], traces[1].start
    x, way, row, charged = lines.cut[place], lines.way[place], ledger.row, ledger.charged
    before, between, part = lines.before[place], lines.between[place], lines.part[place]
    first_sent, last_sent, alone = sent.first[x], sent.last[x], sent.last[x] - sent.second[x]
    i, reach = lines.index[place] - span[0], lines.reach[place] - span[0]
    for unit in range(span[0], span[1]):
        t, s, own = ledger.booked[unit], min(own_start[i + unit], until), ledger.columns[unit]
        if s > t:
            last = min(s, max(t, last_sent))
            if before != between:
                first = min(s, max(t, first_sent))
                row[unit, before] += first - t
                charged[own + lines.early[way]] += first - t
                charged[own + part + before] += first - t
                t = first
            row[unit, between] += last - t
            charged[own + part + between] += last - t
            row[unit, NETWORK] += s - last
            charged[own + part + AT_NETWORK] += s - last
            mine = min(alone, last - t)
            charged[own + lines.late[way]] += last - t - mine
            if alone > 0.0:
                charged[own + lines.alone[way] + sent.sender[x]] += mine
                mine = min(alone - mine, s - last)
                charged[own + lines.behind[way] + sent.sender[x]] += mine
                last += mine
            deliver(lines, sent, charged, (x, way, own, reach + unit), (last, s))


def deliver(
    lines: Lines, sent: Trace, charged: Values, at: tuple[int, int, int, int], gap: tuple[float, float]
) -> None:
    """Charge the seconds of a gap behind the last sender's finish in order of time.

    `at`: exchange, way, first column of the unit, and where its arrival stands in a trace.
    """
    (x, way, own, place), (begin, s) = at, gap
    ended = max(begin, min(s, sent.ended[x]))
    posted = max(ended, min(s, sent.posted[x]))
    arrived = max(posted, min(s, sent.arrived[place]))
    flown = max(posted, min(arrived, sent.posted[x] + lines.flight[way]))
    charged[own + lines.path[way]] += flown - posted
    if s > arrived:
        charged[own + lines.rest[way]] += s - arrived
    if ended > begin:
        charged[own + lines.scatters[way] + sent.poster[x]] += ended - begin
    if posted > ended:
        charged[own + lines.hosts[way] + sent.poster[x]] += posted - ended
    if arrived > flown:
        crossed = min(arrived - flown, sent.crossed[place]) if len(sent.crossed) > 0 else 0.0
        charged[own + lines.uplink[way]] += crossed
        charged[own + lines.ports[way] + sent.bound[place]] += arrived - flown - crossed
