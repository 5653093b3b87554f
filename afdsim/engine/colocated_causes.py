"""Where the seconds of a colocated step went; the twin of `causes` for one pool.

A gap in which a GPU waits for tokens is cut at the moment when the last of its peers had sent: before it `imbalance`,
after it `network`. Communication that holds the SMs is `network` too. Waiting for the host between steps is
`wait_peer`. Plain Python over flat sequences, so that numba can compile it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Values = Any


class Line(NamedTuple):
    """The shape of a step; plain ints and flat int sequences."""

    units: int
    micro_batches: int
    posts: Values
    """Per operation: 0 nothing, 1 dispatch, 2 combine."""
    waits: Values
    """Per operation: the operation whose tokens it needs, or -1."""
    batch: Values
    """Micro-batch of every operation."""


def book_colocated(line: Line, trace: Any, booked: Values, idle: Values, rows: Values) -> None:
    """Fill `rows` (u x cause) with the seconds since `booked` (u), and move that; `idle` units have no sequence."""
    units, micro_batches, _, waits, _ = line
    start, finish, held, sent, boundary_start, boundary = trace
    for u in range(units):
        t = booked[u]
        busy = network = late = host = 0.0
        for j in range(micro_batches):
            s = boundary_start[j * units + u]
            host += s - t
            t = boundary[j * units + u]
            busy += t - s
        for i in range(len(waits)):
            k = i * units + u
            s = start[k]
            if s > t:
                cut = t
                if waits[i] >= 0:
                    cut = min(s, max(t, sent[waits[i]]))
                late += cut - t
                network += s - cut
            t = finish[k]
            network += held[k]
            busy += t - s - held[k]
        booked[u] = t
        o = u * 6
        rows[o] = busy
        rows[o + 1] = 0.0 if idle[u] else host
        rows[o + 2] = 0.0 if idle[u] else network
        rows[o + 3] = 0.0 if idle[u] else late
        rows[o + 4] = host + network + late if idle[u] else 0.0
