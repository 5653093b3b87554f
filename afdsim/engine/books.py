"""Where the seconds of a step went: every gap between operations is cut at the finish of the senders it waited for.

After the last sender's finish a gap is `network` (NVLink too); what comes before it the exchange names: `wait_peer`,
`imbalance`, or one until the first sender's finish and the other until the last's (DESIGN section 4). Communication
that holds the SMs is `network` too. One text for both engines and every deployment. Seconds are rows of six.

The same seconds are charged to who was waited for, in one flat row of all units: what its columns mean `culprits` says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Values = Any
BUSY, WAIT_PEER, NETWORK, IMBALANCE, NO_WORK, DOWN = range(6)
CAUSES = ("busy", "wait_peer", "network", "imbalance", "no_work", "down")
WIDTH = len(CAUSES)

UNCUT = -1
"""Place in `Lines.cut` of a turn that waits for no message: its gap is a pause."""
INDEX = np.uint64
"""Of whatever only points: unsigned, so that machine code need not ask for negative places."""
PEER, AWAY = INDEX(WAIT_PEER), INDEX(NETWORK)
HOST, OWN = INDEX(0), INDEX(1)
"""First columns of every unit: its host; its own ports while communication holds the SMs."""
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
    peers: Values  # way: first column of the senders for the seconds until the first had finished
    others: Values  # way: the same until the last had finished
    scatters: Values  # way: the same until the last had posted
    ports: Values  # way: first column of the ports (`Trace.bound`)
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
    sender: Values  # exchange: which that was, the lowest of several
    posted: Values  # exchange: when the last of them had posted
    poster: Values  # exchange: which that was
    arrived: Values  # exchange and receiver: when it had everything
    bound: (
        Values  # exchange and receiver: the sender of the copy that came last, or units + its own port if that is why
    )


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


def close(lines: Lines, trace: Trace, ledger: Ledger, idle: Values, opens: float) -> None:
    """Book a step, all of whose turns are over; `idle` units held no sequence, and their gaps are `no_work`.

    `opens` is where the first slice begins, as far as that is known.
    """
    ledger.edges[0] = opens
    for unit in range(len(ledger.booked)):
        settle(ledger, unit)
        clear(ledger, unit)
    for pool in range(len(lines.units) - 1):
        book(lines, trace, ledger, pool)
    for unit in range(len(ledger.booked)):
        if idle[unit]:
            rest(ledger, unit)
        ledger.begin[unit] = ledger.end[unit]
        ledger.end[unit] = ledger.booked[unit]
    remember(lines, trace, ledger.past)


def remember(lines: Lines, trace: Trace, past: Trace) -> None:
    """Keep what the boundaries of the next step look back at."""
    for x in lines.kept:
        past.first[x], past.last[x], past.sender[x] = trace.first[x], trace.last[x], trace.sender[x]
        past.posted[x], past.poster[x] = trace.posted[x], trace.poster[x]
        for place in range(lines.reached[x], lines.reached[x + 1]):
            past.arrived[place], past.bound[place] = trace.arrived[place], trace.bound[place]


def settle(ledger: Ledger, unit: int) -> None:
    """Let the latest row of a unit join the sums."""
    begin, end, place = ledger.begin[unit], ledger.end[unit], ledger.place[unit]
    for cause in range(WIDTH):
        ledger.run[unit, cause] += ledger.row[unit, cause]
    for column in range(ledger.columns[unit], ledger.columns[unit + 1]):
        ledger.charges[column] += ledger.charged[column]
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


def clear(ledger: Ledger, unit: int) -> None:
    """Begin a row of a unit."""
    for cause in range(WIDTH):
        ledger.row[unit, cause] = 0.0
    for column in range(ledger.columns[unit], ledger.columns[unit + 1]):
        ledger.charged[column] = 0.0


def rest(ledger: Ledger, unit: int) -> None:
    """Call a unit's gaps `no_work`: nobody is to blame."""
    row = ledger.row
    lost = row[unit, WAIT_PEER] + row[unit, NETWORK] + row[unit, IMBALANCE]
    busy = row[unit, BUSY]
    clear(ledger, unit)
    row[unit, BUSY], row[unit, NO_WORK] = busy, lost


def book(lines: Lines, trace: Trace, ledger: Ledger, pool: int) -> None:
    """Fill the rows of a pool's units with the seconds since the last operation booked."""
    span = (lines.units[pool], lines.units[pool + 1])
    for place in range(lines.start[pool], lines.start[pool + 1]):
        if lines.cut[place] == UNCUT:
            pause(lines, trace, ledger, place, span)
        elif lines.earlier[place]:
            wait(lines, ledger.past, trace.start, ledger, place, span)
        else:
            wait(lines, trace, trace.start, ledger, place, span)
        work(lines, trace, ledger, place, span)


def pause(lines: Lines, trace: Trace, ledger: Ledger, place: int, span: tuple[int, int]) -> None:
    """Book the gaps before a turn that waits for no message."""
    for unit in range(span[0], span[1]):
        gap = trace.start[lines.index[place] + unit - span[0]] - ledger.booked[unit]
        if gap > 0.0:
            ledger.row[unit, WAIT_PEER] += gap
            ledger.charged[ledger.columns[unit] + HOST] += gap
            ledger.charged[ledger.columns[unit] + lines.part[place] + PEER] += gap


def work(lines: Lines, trace: Trace, ledger: Ledger, place: int, span: tuple[int, int]) -> None:
    """Book a turn itself."""
    for unit in range(span[0], span[1]):
        i = lines.index[place] + unit - span[0]
        held = trace.held[i] if len(trace.held) > 0 else 0.0
        if held > 0.0:
            ledger.row[unit, NETWORK] += held
            ledger.charged[ledger.columns[unit] + OWN] += held
            ledger.charged[ledger.columns[unit] + lines.part[place] + AWAY] += held
        ledger.row[unit, BUSY] += trace.finish[i] - trace.start[i] - held
        ledger.booked[unit] = trace.finish[i]


def wait(lines: Lines, sent: Trace, start: Values, ledger: Ledger, place: int, span: tuple[int, int]) -> None:
    """Book the gaps before a turn that waits for messages, and charge them to who was waited for.

    Behind the last sender's finish follow the sender's NVLink until the last had posted, the path as far as it goes,
    whichever port held the last copy back, and what the receiver does before it begins.
    """
    x, way, row, charged = lines.cut[place], lines.way[place], ledger.row, ledger.charged
    before, between, part = lines.before[place], lines.between[place], lines.part[place]
    first_sent, last_sent, posted = sent.first[x], sent.last[x], sent.posted[x]
    peer, other, path = lines.peers[way] + sent.sender[x], lines.others[way] + sent.sender[x], lines.path[way]
    flown_at, i, reach = posted + lines.flight[way], lines.index[place] - span[0], lines.reach[place] - span[0]
    for unit in range(span[0], span[1]):
        t, s, own = ledger.booked[unit], start[i + unit], ledger.columns[unit]
        if s > t:
            last = min(s, max(t, last_sent))
            if before != between:
                first = min(s, max(t, first_sent))
                row[unit, before] += first - t
                charged[own + peer] += first - t
                charged[own + part + before] += first - t
                t = first
            row[unit, between] += last - t
            charged[own + other] += last - t
            charged[own + part + between] += last - t
            row[unit, NETWORK] += s - last
            charged[own + part + AWAY] += s - last
            left = max(last, min(s, posted))
            arrived = max(left, min(s, sent.arrived[reach + unit]))
            flown = max(left, min(arrived, flown_at))
            charged[own + path] += flown - left
            if s > arrived:
                charged[own + lines.rest[way]] += s - arrived
            if left > last:
                charged[own + lines.scatters[way] + sent.poster[x]] += left - last
            if arrived > flown:
                charged[own + lines.ports[way] + sent.bound[reach + unit]] += arrived - flown
