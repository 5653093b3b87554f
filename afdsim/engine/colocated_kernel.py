"""A colocated decode step as a recurrence: the fast twin of `colocated_processes`, with the same bits.

Every GPU runs the operations in one static order, every port serves the exchanges in that order too, so a finish time
is max(own previous finish, tokens) plus a duration. `advance_colocated` is plain Python over flat sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from afdsim.engine.causes import Cursor
from afdsim.engine.colocated_causes import Line, book_colocated
from afdsim.engine.colocated_program import COMBINE, ColocatedProgram, ColocatedTrace

Values = Any


class Ports(NamedTuple):
    """When every resource becomes free; carried from step to step."""

    free: Values  # u: compute
    egress: Values  # u
    ingress: Values  # u
    arrived: Values  # j, u: the tokens of the latest exchange are in


def advance_colocated(line: Line, ports: Ports, work: Any, trace: Any) -> None:
    """Run all operations of a step."""
    units, _, posts, waits, batch = line
    free, egress, ingress, arrived = ports
    t_work, t_early, t_held, t_out, t_into = work
    start, finish, held, sent, _, _ = trace
    for i in range(len(posts)):
        row = i * units
        j = batch[i] * units
        for u in range(units):
            t = free[u]
            if waits[i] >= 0 and arrived[j + u] > t:
                t = arrived[j + u]
            start[row + u] = t
            t = t + t_work[row + u]
            finish[row + u] = t
            held[row + u] = t_held[row + u]
            free[u] = t
        if posts[i] == 0:
            continue
        first = finish[row] - t_early[row]
        if egress[0] > first:
            first = egress[0]
        last = posted = 0.0
        for u in range(units):
            e = finish[row + u] - t_early[row + u]
            if e > posted:
                posted = e
            if egress[u] > e:
                e = egress[u]
            if e < first:
                first = e
            e = e + t_out[row + u]
            if posts[i] == COMBINE and finish[row + u] > e:  # the last sums leave when the experts are done
                e = finish[row + u]
            egress[u] = e
            if e > last:
                last = e
        sent[i] = posted
        for u in range(units):
            q = ingress[u]
            if first > q:
                q = first
            q = q + t_into[row + u]
            if last > q:
                q = last
            ingress[u] = q
            arrived[j + u] = q


class Desk(Protocol):
    """What the kernel needs of the clock of a run (`clock.Run`)."""

    base: list[list[list[float]]]
    rows: list[list[int]]
    tokens: list[int]

    def trace(self, step: int) -> Any:
        """Where the step's operations are noted."""
        ...


class ColocatedKernel:
    """The state of all resources, and one call per step."""

    def __init__(self, program: ColocatedProgram, *, compiled: bool) -> None:
        self.program = program
        units = program.units
        self.ready = [0.0] * (program.micro_batches * units)
        """When the boundary of a micro-batch may begin (j, u)."""
        self.free = [0.0] * units
        """When the unit's compute is free."""
        self._compiled = compiled
        self._run = _compile(advance_colocated) if compiled else advance_colocated
        self._close = _compile(book_colocated) if compiled else book_colocated
        self._line = Line(units, program.micro_batches, *map(self._pack, program.line[2:]))
        self._ports = Ports(*(self._pack([0.0] * n) for n in (units, units, units, len(self.ready))))

    def restart(self, start: float) -> None:
        """Begin a burst at `start`, with every resource free."""
        self.ready[:] = [start] * len(self.ready)
        self.free[:] = [start] * len(self.free)

    def run(self, step: int, desk: Desk) -> None:
        """All operations of a step, from the end of its boundaries."""
        times = self.program.times(step, np.array(desk.base), np.array(desk.rows), desk.tokens)
        self._ports.free[:] = self._pack(self.free)
        work = tuple(self._flat(array) for array in times)
        self._run(self._line, self._ports, work, desk.trace(step))
        self.free[:] = self._unpack(self._ports.free)
        for unit, free in enumerate(self.free):
            self.ready[unit] = free + self.program.host

    def book(
        self, trace: ColocatedTrace, cursor: Cursor, idle: list[bool], rows: tuple[list[float], list[float]]
    ) -> None:
        """`book_colocated`, compiled where the kernel is."""
        booked, filled = self._pack(cursor.attention), self._pack(rows[0])
        self._close(self._line, trace, booked, self._pack(idle), filled)
        cursor.attention[:], rows[0][:] = self._unpack(booked), self._unpack(filled)

    def blank_trace(self) -> ColocatedTrace:
        """Return an empty record of a step."""
        return ColocatedTrace(*(self._pack([0.0] * size) for size in self.program.trace_sizes))

    def _pack(self, values: Any) -> Values:
        return np.array(values) if self._compiled else values

    def _unpack(self, values: Values) -> list[float]:
        return values.tolist() if self._compiled else list(values)

    def _flat(self, array: Any) -> Values:
        flat = np.ascontiguousarray(array).ravel()
        return flat if self._compiled else flat.tolist()


def _compile(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function as machine code, kept on disk between runs; no reordering of arithmetic."""
    import numba

    made: Callable[..., None] = numba.njit(cache=True, fastmath=False)(function)
    return made
