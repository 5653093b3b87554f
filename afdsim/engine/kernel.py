"""The layers of one decode step as a recurrence: the fast twin of `processes`, with the same bits.

Every resource serves (layer, micro-batch) in a fixed order, so a finish time is max(own previous finish, latest input)
plus a duration, even when durations are random. The two functions `advance_ports` and `advance_dedicated` are plain
Python over flat sequences: they run on lists as they are, and on arrays when numba has compiled them (`compiled`).

Index of a flat sequence: turn g = layer x micro-batches + micro-batch, then the axes named in the field's comment.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from afdsim.engine.causes import Cursor, Shape, Trace, tally
from afdsim.engine.program import Program

Values = Any
"""A list of floats (Python) or a contiguous float array (numba)."""


class Delays(NamedTuple):
    """Constant seconds."""

    send: float
    half: float
    latency: float
    poll: float


class Peers(NamedTuple):
    """Attention units on rail r: member[start[r]:start[r + 1]]."""

    start: Values
    member: Values


class State(NamedTuple):
    """When every resource becomes free; carried from step to step."""

    attention: Values  # u
    unit_egress: Values  # u
    unit_ingress: Values  # u
    ffn_ingress: Values  # f, rail
    ffn_egress: Values  # f, rail
    gather: Values  # f
    compute: Values  # f
    scatter: Values  # f
    link_out: Values  # u, f (dedicated)
    link_back: Values  # f, u (dedicated)
    ready: Values  # j, u: the reduced result of the last layer is at the unit
    served: Values  # f, peer: order in which an FFN port served its peers, first guess of the next sort
    returned: Values  # u, f: the same for the ports of the units


class Durations(NamedTuple):
    """`StepTimes`, flat."""

    attention: Values
    ffn: Values
    gather: Values
    scatter: Values
    out_egress: Values
    out_ingress: Values
    back_egress: Values
    back_ingress: Values


class Scratch(NamedTuple):
    """Headers and tails of the messages of one turn."""

    header: Values
    tail: Values


def advance_ports(
    shape: Shape, delays: Delays, peers: Peers, state: State, work: Durations, trace: Trace, scratch: Scratch
) -> None:
    """Run all layers of a step over in-order NIC ports; the units' first layer is already in `trace`."""
    layers, micro_batches, units, ffns, rails = shape
    send, half, _, poll = delays
    start, member = peers
    free, unit_egress, unit_ingress, ready = state.attention, state.unit_egress, state.unit_ingress, state.ready
    ffn_ingress, ffn_egress, served, returned = state.ffn_ingress, state.ffn_egress, state.served, state.returned
    gather, compute, scatter = state.gather, state.compute, state.scatter
    t_attention, t_ffn, t_gather, t_scatter, t_out, t_out_in, t_back, t_back_in = work
    begin_a, end_a, begin_f, end_f, _, _ = trace
    header, tail = scratch
    for layer in range(layers):
        for j in range(micro_batches):
            g = layer * micro_batches + j
            pairs = g * units * ffns
            for u in range(units):
                i = g * units + u
                if layer:
                    t = ready[j * units + u]
                    if free[u] > t:
                        t = free[u]
                    begin_a[i] = t
                    t = t + t_attention[i]
                    end_a[i] = t
                    free[u] = t
                e = end_a[i] + send
                if unit_egress[u] > e:
                    e = unit_egress[u]
                h = e + half
                k = u * ffns
                for f in range(ffns):
                    i = f * units + u
                    header[i] = h
                    e = e + t_out[pairs + k]
                    h = e + half
                    tail[i] = h
                    k += 1
                unit_egress[u] = e
            for f in range(ffns):
                got = 0.0
                for r in range(rails):
                    low, high = f * units + start[r], f * units + start[r + 1]
                    for x in range(low + 1, high):
                        u = served[x]
                        h = header[f * units + u]
                        y = x - 1
                        while y >= low:
                            v = served[y]
                            other = header[f * units + v]
                            if other < h or (other == h and v < u):
                                break
                            served[y + 1] = v
                            y -= 1
                        served[y + 1] = u
                    q = ffn_ingress[f * rails + r]
                    for x in range(low, high):
                        u = served[x]
                        i = f * units + u
                        h = header[i]
                        if h > q:
                            q = h
                        q = q + t_out_in[pairs + u * ffns + f]
                        if tail[i] > q:
                            q = tail[i]
                    ffn_ingress[f * rails + r] = q
                    q = q + half
                    if q > got:
                        got = q
                t = got + poll
                if gather[f] > t:
                    t = gather[f]
                t = t + t_gather[g]
                gather[f] = t
                if compute[f] > t:
                    t = compute[f]
                i = g * ffns + f
                begin_f[i] = t
                t = t + t_ffn[i]
                end_f[i] = t
                compute[f] = t
                if scatter[f] > t:
                    t = scatter[f]
                scatter[f] = t + t_scatter[j]
            # the messages of the units are delivered: their headers and tails may be overwritten
            for f in range(ffns):
                posted = scatter[f] + send
                for r in range(rails):
                    e = ffn_egress[f * rails + r]
                    if posted > e:
                        e = posted
                    h = e + half
                    for x in range(start[r], start[r + 1]):
                        u = member[x]
                        i = u * ffns + f
                        header[i] = h
                        e = e + t_back[pairs + f * units + u]
                        h = e + half
                        tail[i] = h
                    ffn_egress[f * rails + r] = e
            for u in range(units):
                low = u * ffns
                for x in range(low + 1, low + ffns):
                    f = returned[x]
                    h = header[low + f]
                    y = x - 1
                    while y >= low:
                        v = returned[y]
                        other = header[low + v]
                        if other < h or (other == h and v < f):
                            break
                        returned[y + 1] = v
                        y -= 1
                    returned[y + 1] = f
                q = unit_ingress[u]
                for x in range(low, low + ffns):
                    f = returned[x]
                    h = header[low + f]
                    if h > q:
                        q = h
                    q = q + t_back_in[pairs + f * units + u]
                    if tail[low + f] > q:
                        q = tail[low + f]
                unit_ingress[u] = q
                ready[j * units + u] = q + half + poll


def advance_dedicated(
    shape: Shape, delays: Delays, peers: Peers, state: State, work: Durations, trace: Trace, scratch: Scratch
) -> None:
    """Run all layers of a step over one wire per pair of instances and direction."""
    layers, micro_batches, units, ffns, _ = shape
    send, _, latency, poll = delays
    free, _, _, _, _, gather, compute, scatter, link_out, link_back, ready, _, _ = state
    t_attention, t_ffn, t_gather, t_scatter, t_out, _, t_back, _ = work
    begin_a, end_a, begin_f, end_f, _, _ = trace
    arrived, _ = scratch
    for layer in range(layers):
        for j in range(micro_batches):
            g = layer * micro_batches + j
            pairs = g * units * ffns
            for f in range(ffns):
                arrived[f] = 0.0
            for u in range(units):
                i = g * units + u
                if layer:
                    t = ready[j * units + u]
                    if free[u] > t:
                        t = free[u]
                    begin_a[i] = t
                    t = t + t_attention[i]
                    end_a[i] = t
                    free[u] = t
                posted = end_a[i] + send
                for f in range(ffns):
                    k = u * ffns + f
                    e = link_out[k]
                    if posted > e:
                        e = posted
                    e = e + t_out[pairs + k]
                    link_out[k] = e
                    if e + latency > arrived[f]:
                        arrived[f] = e + latency
            for u in range(units):
                ready[j * units + u] = 0.0
            for f in range(ffns):
                t = arrived[f] + poll
                if gather[f] > t:
                    t = gather[f]
                t = t + t_gather[g]
                gather[f] = t
                if compute[f] > t:
                    t = compute[f]
                begin_f[g * ffns + f] = t
                t = t + t_ffn[g * ffns + f]
                end_f[g * ffns + f] = t
                compute[f] = t
                if scatter[f] > t:
                    t = scatter[f]
                t = t + t_scatter[j]
                scatter[f] = t
                posted = t + send
                for u in range(units):
                    k = f * units + u
                    e = link_back[k]
                    if posted > e:
                        e = posted
                    e = e + t_back[pairs + k]
                    link_back[k] = e
                    if e + latency > ready[j * units + u]:
                        ready[j * units + u] = e + latency
            for u in range(units):
                ready[j * units + u] = ready[j * units + u] + poll


class Desk(Protocol):
    """What the kernel needs of the clock of a run (`clock.Run`)."""

    base: list[list[list[float]]]
    rows: list[list[int]]
    tokens: list[int]

    def trace(self, step: int) -> Trace:
        """Where the step's operations are noted."""
        ...


class Kernel:
    """The state of all resources, and one call per step."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ready = [0.0] * (program.micro_batches * program.units)
        """When the reduced result of the last layer is at the unit (j, u)."""
        self.free = [0.0] * program.units
        """When the unit's compute is free."""
        self._run = advance_dedicated if program.timing.dedicated else advance_ports
        self._shape = Shape(program.layers, program.micro_batches, program.units, program.ffns, program.fabric.rails)
        timing = program.timing
        self._delays = Delays(timing.send, timing.half, timing.latency, timing.poll)
        self._peers, self._state, self._scratch = self._tables()

    def restart(self, start: float) -> None:
        """Begin a burst at `start`, with every resource free."""
        self.ready[:] = [start] * len(self.ready)
        self.free[:] = [start] * len(self.free)

    def factor(self, step: int, j: int, unit: int) -> float:
        """Multiplier of the first layer's attention."""
        return float(self.program.variation.multipliers(step).attention[0, j, unit])

    def run(self, step: int, desk: Desk) -> None:
        """All layers of a step, from the end of its first attention operations to the last result's return."""
        times = self.program.times(step, np.array(desk.base), np.array(desk.rows), desk.tokens)
        self._state.attention[:] = self.free
        self._state.ready[:] = self.ready
        work = Durations(*(array.ravel().tolist() for array in times))
        self._run(self._shape, self._delays, self._peers, self._state, work, desk.trace(step), self._scratch)
        self.free[:] = self._state.attention
        self.ready[:] = self._state.ready

    def book(self, trace: Trace, cursor: Cursor, idle: list[bool], rows: tuple[list[float], list[float]]) -> None:
        """`causes.tally` of a step."""
        tally(self._shape, self.program.timing.drain, trace, cursor, idle, rows)

    def blank_trace(self) -> Trace:
        """An empty record of a step."""
        return self.program.blank_trace()

    def _tables(self) -> tuple[Peers, State, Scratch]:
        _, m, units, ffns, rails = self._shape
        members = [unit for peers in self.program.fabric.peers for unit in peers]
        starts = np.cumsum([0, *map(len, self.program.fabric.peers)]).tolist()
        free = [
            units,
            units,
            units,
            ffns * rails,
            ffns * rails,
            ffns,
            ffns,
            ffns,
            units * ffns,
            units * ffns,
            m * units,
        ]
        state = State._make([*([0.0] * size for size in free), members * ffns, list(range(ffns)) * units])
        return Peers(starts, members), state, Scratch([0.0] * (units * ffns), [0.0] * (units * ffns))
