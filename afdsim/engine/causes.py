"""Where the seconds of a step went: every gap between operations is cut at the finish of the senders it waited for.

After the last sender's finish the gap is `network` (NVLink too), before it `wait_peer`; on an FFN instance the part
between the first and the last sender's finish is `imbalance` (DESIGN section 4). Plain Python over flat sequences, so
that numba can compile it. Seconds are rows of six: the indices below.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

Values = Any
Array = np.ndarray
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


def tally(
    shape: Shape, drain: bool, trace: Trace, cursor: Cursor, idle: list[bool], rows: tuple[Values, Values]
) -> None:
    """`book` for lists: the same sums in the same order, by whole columns."""
    m, units, ffns = shape.micro_batches, shape.units, shape.ffns
    start, finish = (np.array(times).reshape(-1, units) for times in trace[:2])
    ffn_start, ffn_finish = (np.array(times).reshape(-1, ffns) for times in trace[2:4])
    boundaries = tuple(np.array(times).reshape(m, units) for times in trace[4:])
    sent = ffn_finish.max(axis=1)
    # first layer: each micro-batch after its boundary, or all boundaries first; its own gaps are the host's pauses
    axis = 0 if drain else 1
    begins = np.stack([boundaries[0], start[:m]], axis=axis).reshape(-1, units)
    ends = np.stack([boundaries[1], finish[:m]], axis=axis).reshape(-1, units)
    waited = np.broadcast_to(np.array(cursor.sent)[:, None], (m, units))
    cuts = np.stack([waited, start[:m]], axis=axis).reshape(-1, units)
    begins, ends = np.concatenate([begins, start[m:]]), np.concatenate([ends, finish[m:]])
    cuts = np.concatenate([cuts, np.broadcast_to(sent[:-m, None], (len(start) - m, units))])
    busy, wait, network = _gaps(np.array(cursor.attention), begins, ends, (cuts,))
    gone = np.array(idle)
    attention = (busy, np.where(gone, 0.0, wait), np.where(gone, 0.0, network), 0.0 * busy, (wait + network) * gone)
    first, last = finish.min(axis=1)[:, None], finish.max(axis=1)[:, None]
    ffn = _gaps(np.array(cursor.ffn), ffn_start, ffn_finish, (first, last))
    _fill(rows[0], attention)
    _fill(rows[1], (ffn[0], ffn[1], ffn[3], ffn[2]))
    cursor.attention[:], cursor.ffn[:], cursor.sent[:] = (
        finish[-1].tolist(),
        ffn_finish[-1].tolist(),
        sent[-m:].tolist(),
    )


def _gaps(origin: Array, begins: Array, ends: Array, cuts: tuple[Array, ...]) -> tuple[Array, ...]:
    """Busy seconds of every column, then its gaps cut at each of `cuts`: before the first, ..., after the last."""
    previous = np.concatenate([origin[None, :], ends[:-1]])
    edges = [previous, *(np.minimum(begins, np.maximum(previous, cut)) for cut in cuts), begins]
    idle = begins > previous
    parts = (np.where(idle, late - early, 0.0) for early, late in pairwise(edges))
    return tuple(part.cumsum(axis=0)[-1] for part in (ends - begins, *parts))


def _fill(row: Values, columns: tuple[Array, ...]) -> None:
    for cause, seconds in enumerate(columns):
        row[cause::6] = seconds.tolist()
