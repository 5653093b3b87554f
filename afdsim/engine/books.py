"""Where the seconds of a step went: every gap between operations is cut at the finish of the senders it waited for.

After the last sender's finish a gap is `network` (NVLink too); what comes before it the exchange names: `wait_peer`,
`imbalance`, or one until the first sender's finish and the other until the last's (DESIGN section 4). Communication
that holds the SMs is `network` too. One text for both engines and every deployment. Seconds are rows of six.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Values = Any
BUSY, WAIT_PEER, NETWORK, IMBALANCE, NO_WORK, DOWN = range(6)
CAUSES = ("busy", "wait_peer", "network", "imbalance", "no_work", "down")
WIDTH = len(CAUSES)

AWAY = 2
"""Mark of an idle unit that is not there: all of its time is `down`."""
UNCUT = -1
"""Place in `Lines.cut` of a turn that waits for no message: its gap is a pause."""


class Lines(NamedTuple):
    """The turns of every unit's compute resource in order: unit u has places start[u] .. start[u + 1] - 1."""

    start: Values  # u
    index: Values  # place: where its begin and end stand in a trace
    cut: Values  # place: exchange whose senders cut the gap before it, or UNCUT
    earlier: Values  # place: whether that exchange was in the step before
    before: Values  # place: cause until the first sender's finish
    between: Values  # place: cause until the last sender's finish


class Trace(NamedTuple):
    """What happened in one step."""

    start: Values  # turn and unit
    finish: Values  # turn and unit
    held: Values  # turn and unit: seconds in which communication held the SMs; empty where it never does
    early: Values  # turn and unit: how long before its end it posted; the same
    first: Values  # exchange: when its first sender had finished
    last: Values  # exchange: when its last sender had finished


class Ledger(NamedTuple):
    """Books the seconds of every unit by cause, slice by slice of the time between the edges.

    Rows come once per step and unit, (begin, end, seconds by cause), and adjoin. A row that an edge cuts counts in
    proportion, and the last row is stretched to the end. The first edge of a closed loop moves until it is warm.
    """

    booked: Values  # u: end of the last operation booked
    sent: Values  # exchange: `Trace.last` of the step before
    begin: Values  # u: of its latest row
    end: Values  # u
    row: Values  # u, cause: the latest
    run: Values  # u, cause: the sum of the others
    edges: Values  # slice: where it begins; one entry more
    slices: Values  # slice, u, cause: the same inside it
    place: Values  # u: slice in which the others end


def close(lines: Lines, trace: Trace, ledger: Ledger, idle: Values, opens: float, until: float = float("inf")) -> None:
    """Book a step, all of whose turns are over; `idle` units held no sequence, and their gaps are `no_work`.

    `opens` is where the first slice begins, as far as that is known. Nothing is booked behind `until`: who crashed then
    has done the operations and the waiting before it.
    """
    ledger.edges[0] = opens
    for unit in range(len(ledger.booked)):
        settle(ledger, unit)
        book(lines, trace, ledger, unit, idle[unit], until)
        ledger.begin[unit] = ledger.end[unit]
        ledger.end[unit] = ledger.booked[unit]
    for x in range(len(ledger.sent)):
        ledger.sent[x] = trace.last[x]


def settle(ledger: Ledger, unit: int) -> None:
    """Let the latest row of a unit join the sums."""
    begin, end, place = ledger.begin[unit], ledger.end[unit], ledger.place[unit]
    for cause in range(WIDTH):
        ledger.run[unit, cause] += ledger.row[unit, cause]
    while place < len(ledger.slices) and ledger.edges[place] < end:
        low, high = max(begin, ledger.edges[place]), min(end, ledger.edges[place + 1])
        if high > low:
            share = (high - low) / (end - begin) if high - low < end - begin else 1.0
            for cause in range(WIDTH):
                ledger.slices[place, unit, cause] += ledger.row[unit, cause] * share
        if ledger.edges[place + 1] > end:
            break
        place += 1
    ledger.place[unit] = place


def held_in(trace: Trace, i: int, until: float) -> float:
    """Seconds up to `until` in which communication held the SMs in an operation: of one that is cut its share."""
    if len(trace.held) == 0:
        return 0.0
    if trace.finish[i] <= until or trace.held[i] == 0.0:
        return float(trace.held[i])
    return float(trace.held[i] * max(until - trace.start[i], 0.0) / (trace.finish[i] - trace.start[i]))


def book(lines: Lines, trace: Trace, ledger: Ledger, unit: int, idle: int, until: float) -> None:
    """Fill a unit's row with the seconds since the last operation booked, up to `until`."""
    begin = t = ledger.booked[unit]
    busy = wait = network = late = 0.0
    for place in range(lines.start[unit], lines.start[unit + 1]):
        i = lines.index[place]
        s = min(trace.start[i], until)
        if s > t:
            x = lines.cut[place]
            if x == UNCUT:
                wait += s - t
            else:
                last = min(s, max(t, ledger.sent[x] if lines.earlier[place] else trace.last[x]))
                first = last
                if lines.before[place] != lines.between[place]:
                    first = min(s, max(t, trace.first[x]))
                if lines.before[place] == WAIT_PEER:
                    wait += first - t
                else:
                    late += first - t
                if lines.between[place] == WAIT_PEER:
                    wait += last - first
                else:
                    late += last - first
                network += s - last
        t = min(trace.finish[i], until)
        held = held_in(trace, i, until)
        network += held
        busy += t - s - held
    ledger.booked[unit] = t
    ledger.row[unit, BUSY] = busy
    ledger.row[unit, WAIT_PEER] = 0.0 if idle else wait
    ledger.row[unit, NETWORK] = 0.0 if idle else network
    ledger.row[unit, IMBALANCE] = 0.0 if idle else late
    ledger.row[unit, NO_WORK] = wait + network + late if idle else 0.0
    ledger.row[unit, DOWN] = 0.0
    if idle == AWAY:
        ledger.row[unit, BUSY], ledger.row[unit, NO_WORK], ledger.row[unit, DOWN] = 0.0, 0.0, t - begin
