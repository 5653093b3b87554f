"""How NIC ports share: a small ladder of disciplines, one text for both engines.

`DEDICATED`: a wire per pair, nothing is shared. `PORTS`: a port sends one copy at a time in index order and receives
one at a time in order of headers. `SHARED`: the queue pairs of a port share it equally, which is what an RNIC does
(fair bandwidth allocation); the copies of a broadcast leave together, equal ones end together, and a receiver is a
work-conserving server of everything that arrives.

A copy's header and tail arrive `lag` after they left. Where the two sides of a deployment hang under different
switches, copies cross two servers more on their way (`cross`). Plain functions over flat sequences: `send` fills places
low .. high - 1 of `header` and `tail`; `receive` and `cross` read them in whatever order those of their `order` name.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray
Values = Any
DEDICATED, PORTS, SHARED = range(3)
FEW = 32
"""Places that an insertion sort puts in order faster than a heap does."""
DISCIPLINES = ("dedicated", "ports", "shared")


class Network(Protocol):
    """The seam for a network of your own: seconds that a message occupies one NIC port."""

    def seconds(self, nbytes: Array, bandwidth: float) -> Array:
        """Seconds on the wire for messages of `nbytes` bytes at `bandwidth` bytes/s achieved."""
        ...


class Wire:
    """Time on the wire is bytes over achieved bandwidth."""

    def seconds(self, nbytes: Array, bandwidth: float) -> Array:
        return nbytes / bandwidth


class Wiring(NamedTuple):
    """Who sends to whom through which port; a copy has one place in the arrays of `recurrence.Flight`."""

    discipline: int
    wait: float
    """Seconds between the end of an operation and its first copy: synchronise and post."""
    lag: float
    """Seconds from a sender's port to the receiver's."""
    rest: float
    """Seconds from the receiver's port on, without `poll`."""
    poll: float
    routes: Values  # route, (first and last leg out, first and last leg in, first and last crossing)
    leaving: Values  # leg out, (unit, egress port, low, high): places of its copies
    arriving: Values  # leg in, (unit, ingress port, low, high): places in `order`; none if it shares the port before it
    order: Values  # place: copy
    lane: Values  # copy: first lane of the unit whose rows it carries
    draw: Values  # copy: where its factors begin
    ports: tuple[int, int]
    """Egress ports, ingress ports."""
    sharing: tuple[int, int]
    """GPUs of an attention and of an FFN instance that share a NIC."""
    queued: bool
    """Whether units share egress ports: then their broadcasts leave in the order in which they are posted."""
    slow: Values  # copy, (sender's, receiver's): factor of its seconds on a NIC; empty where every NIC has its rate
    crossings: Values  # rail of a route, (uplink, downlink, low, high): places in `across`
    across: Values  # place: copy
    between: float
    """Seconds from the uplink of one side to the downlink of the other."""
    further: Any  # rows of `Tables.rows` from a port's seconds to those of the uplink or downlink beside it; 0: none
    servers: int
    """Uplinks and downlinks."""


def unwired(units: int) -> Wiring:
    """One port a unit and direction, and no pairs."""
    routes, legs, none = (np.zeros(shape, dtype=np.uint64) for shape in ((1, 6), (0, 4), 0))
    order, slow, crossings = none.astype(np.int64), np.zeros((0, 2)), np.zeros((0, 4), dtype=np.int64)
    return Wiring(
        discipline=DEDICATED,
        wait=0.0,
        lag=0.0,
        rest=0.0,
        poll=0.0,
        routes=routes,
        leaving=legs,
        arriving=legs,
        order=order,
        lane=none,
        draw=none,
        ports=(units, units),
        sharing=(1, 1),
        queued=False,
        slow=slow,
        crossings=crossings,
        across=order,
        between=0.0,
        further=np.uint64(0),
        servers=0,
    )


def send(
    discipline: int,
    start: float,
    lag: float,
    wire: Values,
    copies: tuple[Values, Values, Values],
    span: tuple[int, int],
) -> float:
    """Put a broadcast on the wire from `start` on; returns when the port is free. `copies`: header, tail, scratch."""
    header, tail, _ = copies
    if discipline == SHARED:
        return send_together(start, lag, wire, copies, span)
    for x in range(span[0], span[1]):
        header[x] = start + lag
        start = start + wire[x]
        tail[x] = start + lag
    return start


def send_together(
    start: float, lag: float, wire: Values, copies: tuple[Values, Values, Values], span: tuple[int, int]
) -> float:
    """Equal shares: a copy ends when every other has had as many seconds as it, or all of its own."""
    header, tail, order = copies
    low, high = span
    for x in range(low, high):
        order[x] = x
    rank(order, wire, low, high)
    shorter, last = 0.0, start
    for place in range(low, high):
        x = order[place]
        last = start + (shorter + wire[x] * (high - place))
        header[x] = start + lag
        tail[x] = last + lag
        shorter += wire[x]
    return last


def receive(
    discipline: int,
    free: float,
    into: Values,
    copies: tuple[Values, Values, Values],
    order: Values,
    span: tuple[int, int],
) -> float:
    """When a port that is free at `free` has received the copies of a turn; `into` are their seconds on it."""
    header, tail, _ = copies
    low, high = span
    if discipline == SHARED:
        return receive_together(free, into, copies, order, span)
    if discipline == DEDICATED:
        for place in range(low, high):
            free = max(free, tail[order[place]])
        return free
    settle_order(order, header, low, high)
    for place in range(low, high):
        x = order[place]
        free = max(max(free, header[x]) + into[x], tail[x])
    return free


def settle_order(order: Values, keys: Values, low: int, high: int) -> None:
    """Sort an order that was sorted a turn ago: an insertion sort, by (key, place)."""
    for place in range(low + 1, high):
        moving, to = order[place], place
        while to > low and precedes(keys, moving, order[to - 1]):
            order[to] = order[to - 1]
            to -= 1
        order[to] = moving


def receive_together(
    free: float,
    into: Values,
    copies: tuple[Values, Values, Values],
    order: Values,
    span: tuple[int, int],
) -> float:
    """A work-conserving server of copies that each arrive at a constant rate from header to tail.

    It is done at the latest of t + (work that arrives after t) over headers and tails t, and free + all work.
    """
    header, tail, scratch = copies
    low, high = span
    for place in range(low, high):
        scratch[place] = order[place]
    rank(order, tail, low, high)
    rank(scratch, header, low, high)
    work = 0.0
    for place in range(low, high):
        work += into[order[place]]
    return max(free + work, drained(into, (header, tail, scratch), order, low, high - 1))


def drained(into: Values, copies: tuple[Values, Values, Values], tails: Values, low: int, last: int) -> float:
    """When a server that is free from the start is done; walks from the last tail to the first header.

    `after` is the work still to arrive; it grows by the rate of the copies that are on.
    """
    header, tail, headers = copies
    ends = begins = last
    after = rate = done = 0.0
    on, t = 0, tail[tails[last]]
    while begins >= low:
        ending = ends >= low and tail[tails[ends]] >= header[headers[begins]]
        x = tails[ends] if ending else headers[begins]
        now, length = tail[x] if ending else header[x], tail[x] - header[x]
        after += rate * (t - now)
        t = now
        own = into[x] / length if length > 0.0 else 0.0
        if ending:
            ends, on, rate = ends - 1, on + 1, rate + own
            after += 0.0 if length > 0.0 else into[x]
        else:
            begins, on = begins - 1, on - 1
            rate = rate - own if on > 0 else 0.0
        done = max(done, t + after)
    return done


# hops between two switches --------------------------------------------------------------------------------------------


def cross(
    free: float,
    lag: float,
    work: Values,
    copies: tuple[Values, Values, Values],
    order: Values,
    span: tuple[int, int],
) -> float:
    """Let a group of copies pass an uplink or downlink that is `lag` away and free at `free`; returns its new `free`.

    The server works whenever there is something to serve, first come, first served; every copy arrives at a constant
    rate from header to tail. So what arrives at t leaves at D(t) = max(free + work that arrived until t, the latest of
    s + work that arrived from s to t over headers and tails s <= t), and a copy's new header and tail are D of the old.
    `work` are seconds of the copies on the server, and are used up.
    """
    header, tail, heads = copies
    low, high = span
    for place in range(low, high):
        x = order[place]
        header[x] += lag
        tail[x] += lag
        heads[place] = x
    rank(order, tail, low, high)
    rank(heads, header, low, high)
    return flow(free, work, (header, tail, heads), order, low, high)


def flow(free: float, work: Values, copies: tuple[Values, Values, Values], tails: Values, low: int, high: int) -> float:
    """Walk from the first header to the last tail; D grows by the rate of the copies that are on, and is never early.

    Times are written when the walk goes on to a later one: all that arrives at one moment leaves at one moment.
    """
    header, tail, heads = copies
    begins = ends = begun = ended = low
    on, rate, now = 0, 0.0, header[heads[low]]
    leaves = max(free, now)
    while ends < high:
        starting = begins < high and header[heads[begins]] <= tail[tails[ends]]
        x = heads[begins] if starting else tails[ends]
        t = header[x] if starting else tail[x]
        if t > now:
            begun = stamp(header, heads, begun, begins, leaves)
            ended = stamp(tail, tails, ended, ends, leaves)
            leaves, now = max(leaves + rate * (t - now), t), t
        if starting:
            length = tail[x] - t
            leaves += 0.0 if length > 0.0 else work[x]
            work[x] = work[x] / length if length > 0.0 else 0.0
            begins, on, rate = begins + 1, on + 1, rate + work[x]
        else:
            ends, on = ends + 1, on - 1
            rate = max(rate - work[x], 0.0) if on > 0 else 0.0
    stamp(header, heads, begun, begins, leaves)
    stamp(tail, tails, ended, ends, leaves)
    return float(leaves)


def stamp(times: Values, order: Values, low: int, high: int, time: float) -> int:
    """Set the times of the copies at places low .. high - 1; returns `high`."""
    for place in range(low, high):
        times[order[place]] = time
    return high


# sorting -------------------------------------------------------------------------------------------------------------


def rank(order: Values, keys: Values, low: int, high: int) -> None:
    """Sort places low .. high - 1 of `order` by (key, place): few by insertion, many by a heap, n log n at worst."""
    count = high - low
    if count <= FEW:
        settle_order(order, keys, low, high)
        return
    for top in range(count // 2 - 1, -1, -1):
        sink(order, keys, low, top, count)
    for last in range(count - 1, 0, -1):
        order[low], order[low + last] = order[low + last], order[low]
        sink(order, keys, low, 0, last)


def sink(order: Values, keys: Values, low: int, top: int, count: int) -> None:
    """Let the entry at `top` of a heap of `count` sink to its place."""
    moving = order[low + top]
    while 2 * top + 1 < count:
        child = 2 * top + 1
        if child + 1 < count and precedes(keys, order[low + child], order[low + child + 1]):
            child += 1
        if not precedes(keys, moving, order[low + child]):
            break
        order[low + top] = order[low + child]
        top = child
    order[low + top] = moving


def precedes(keys: Values, one: int, other: int) -> bool:
    """Whether `one` comes before `other`: smaller key, ties by index."""
    return bool(keys[one] < keys[other] or (keys[one] == keys[other] and one < other))
