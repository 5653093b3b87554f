"""Where the seconds of a step went: every gap between operations is cut at the finish of the senders it waited for.

After the last sender's finish the gap is `network` (NVLink too), before it `wait_peer`; on an FFN instance the part
between the first and the last sender's finish is `imbalance` (DESIGN section 4). Plain Python over flat sequences, so
that numba can compile it. Seconds are rows of six: the indices below.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Values = Any
BUSY, WAIT_PEER, NETWORK, IMBALANCE, NO_WORK, DOWN = range(6)
CAUSES = ("busy", "wait_peer", "network", "imbalance", "no_work", "down")


class Shape(NamedTuple):
    """Counts; plain ints."""

    layers: int
    micro_batches: int
    units: int
    ffns: int
    rails: int


class Trace(NamedTuple):
    """Start and finish of every operation of one step; turn g = layer x micro-batches + micro-batch."""

    attention_start: Values  # g, u
    attention: Values  # g, u
    ffn_start: Values  # g, f
    ffn: Values  # g, f
    boundary_start: Values  # j, u
    boundary: Values  # j, u


class Cursor(NamedTuple):
    """Carried from step to step: where the booking of every unit stands, and who was waited for."""

    attention: Values  # u: end of the last operation booked
    ffn: Values  # f
    sent: Values  # j: last finish of the FFN instances in the last layer


def book(shape: Shape, drain: bool, trace: Trace, cursor: Cursor, idle: Values, rows: tuple[Values, Values]) -> None:
    """Fill `rows` (attention u x cause, FFN f x cause) with the seconds since the cursor, and move the cursor.

    `idle`: units (u) without any sequence in this step; their gaps are `no_work`.
    """
    layers, micro_batches, units, ffns, _ = shape
    start, finish, ffn_start, ffn_finish, boundary_start, boundary = trace
    for u in range(units):
        t = cursor.attention[u]
        busy = wait = network = 0.0
        for x in range(2 * micro_batches):  # first layer: each micro-batch after its boundary, or all boundaries first
            j = x % micro_batches if drain else x // 2
            s, end, cut = boundary_start[j * units + u], boundary[j * units + u], cursor.sent[j]
            if (drain and x >= micro_batches) or (not drain and x % 2):
                s, end = start[j * units + u], finish[j * units + u]
                cut = s
            if s > t:
                cut = min(s, max(t, cut))
                wait += cut - t
                network += s - cut
            t = end
            busy += t - s
        for g in range(micro_batches, layers * micro_batches):
            s = start[g * units + u]
            if s > t:
                cut = ffn_finish[(g - micro_batches) * ffns]
                for f in range(1, ffns):
                    cut = max(cut, ffn_finish[(g - micro_batches) * ffns + f])
                cut = min(s, max(t, cut))
                wait += cut - t
                network += s - cut
            t = finish[g * units + u]
            busy += t - s
        cursor.attention[u] = t
        o = u * 6
        rows[0][o] = busy
        rows[0][o + 1] = 0.0 if idle[u] else wait
        rows[0][o + 2] = 0.0 if idle[u] else network
        rows[0][o + 4] = wait + network if idle[u] else 0.0
    for f in range(ffns):
        t = cursor.ffn[f]
        busy = wait = network = imbalance = 0.0
        for g in range(layers * micro_batches):
            s = ffn_start[g * ffns + f]
            if s > t:
                first = last = finish[g * units]
                for u in range(1, units):
                    first = min(first, finish[g * units + u])
                    last = max(last, finish[g * units + u])
                first = min(s, max(t, first))
                last = min(s, max(t, last))
                wait += first - t
                imbalance += last - first
                network += s - last
            t = ffn_finish[g * ffns + f]
            busy += t - s
        cursor.ffn[f] = t
        o = f * 6
        rows[1][o] = busy
        rows[1][o + 1] = wait
        rows[1][o + 2] = network
        rows[1][o + 3] = imbalance
    for j in range(micro_batches):
        g = (layers - 1) * micro_batches + j
        last = ffn_finish[g * ffns]
        for f in range(1, ffns):
            last = max(last, ffn_finish[g * ffns + f])
        cursor.sent[j] = last
