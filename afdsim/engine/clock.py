"""The SimPy clock of a run: step boundaries, parking, the window and the horizon.

Between the boundaries of a step the layers run, by `processes` or by `kernel`. Both meet this module in two places: an
attention unit reports each boundary when its time has come, and says when it has passed all boundaries of a step.
Times are values; `env.now` only orders the boundaries, ties by unit.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import count
from operator import mul
from typing import Any, Literal

import numpy as np
import simpy

from afdsim.engine.admission import FOREVER, Admission, Demand
from afdsim.engine.batching import Batching
from afdsim.engine.causes import BUSY, CAUSES, NO_WORK, Cursor, Shape, Trace, tally
from afdsim.engine.colocated_causes import book_colocated
from afdsim.engine.colocated_kernel import ColocatedKernel
from afdsim.engine.colocated_processes import ColocatedPipeline
from afdsim.engine.colocated_program import ColocatedProgram, ColocatedTrace
from afdsim.engine.kernel import Kernel
from afdsim.engine.processes import Pipeline, Port, Steps
from afdsim.engine.program import Program
from afdsim.engine.record import Boundaries, Ledger, Record, Requests

Layers = Literal["processes", "kernel-python", "kernel-numba"]
AnyProgram = Program | ColocatedProgram
AnyTrace = Trace | ColocatedTrace
Observer = Callable[[int, Any], None]
"""Called with every completed step and the start and finish of its operations."""


class Moment(simpy.Event):
    """An event after `delay`, with an order among the events of its time."""

    def __init__(self, env: simpy.Environment, delay: float, order: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, order, delay)  # type: ignore[arg-type]  # any integer orders; URGENT is 0, NORMAL is 1


class Run:
    """One simulation of a program under a demand."""

    def __init__(
        self,
        program: AnyProgram,
        demand: Demand,
        *,
        layers: Layers,
        progress: Callable[[float], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.program, self.demand, self.env = program, demand, simpy.Environment()
        self.batching = Batching(program, Requests())
        self.admission = Admission(demand, self.batching)
        self.boundaries = Boundaries()
        self.ledger = Ledger(program.units + program.ffns)
        m, units = program.micro_batches, program.units
        self.base = [[[0.0] * units for _ in range(m)] for _ in program.fixed]
        self.rows = [[0] * units for _ in range(m)]
        self.rank_rows = [[0] * units for _ in range(m)]
        self.tokens = [0] * m
        self._completed = array("q")
        """Numbers of the completed steps."""
        self._traffic: dict[Port, list[float]] = {}
        self._carried: dict[int, dict[Port, list[float]]] = {}
        self._own = np.zeros((units, program.ranks))
        self._longest = np.zeros(units)
        self._cursor = Cursor([0.0] * units, [0.0] * program.ffns, [0.0] * m)
        self._traces: dict[int, Any] = {}
        self._opened: dict[int, int] = {}
        self._idle = [False] * units
        self._passed = 0
        """Boundaries so far."""
        self._skipped = -1
        """Latest step whose layers did not run, because nothing was active."""
        self._ends: float | None = None
        self._stop = self.env.event()
        self._next_step = self.env.event()
        self._kernel = None if layers == "processes" else _kernel(program, compiled=layers == "kernel-numba")
        self._pipeline: Pipeline | ColocatedPipeline | None = None
        self._progress = progress
        self._observer = observer

    def execute(self) -> Record:
        """Run until everything that counts has ended, or the horizon."""
        start = 0.0 if self.demand.closed else min(self.admission.next_arrival, self.demand.horizon)
        self._book_pause(start)
        if self._kernel is None:
            self._pipeline = self._processes(0, start)
        else:
            self._kernel.restart(start)
            for unit in range(self.program.units):
                self.env.process(self._unit(unit))
        self.env.run(until=self._stop)
        return self._record()

    # what the layers report ------------------------------------------------------------------------------------------

    def head(self, j: int, unit: int) -> float:
        """Seconds of the boundary of a micro-batch on a unit: reduction, LM head and sampling of its slowest rank."""
        return max(map(self.program.head.__getitem__, self.batching.groups[unit][j].batch))

    def at(self, time: float, unit: int) -> simpy.Event:
        """The moment of a boundary's end; ties are served by unit, after every other event of that time."""
        return Moment(self.env, max(0.0, time - self.env.now), 2 + unit)

    def boundary(self, step: int, j: int, unit: int, span: tuple[float, float]) -> None:
        """A boundary ends now: tokens are out, requests leave and join."""
        trace, index = self.trace(step), j * self.program.units + unit
        trace.boundary_start[index], trace.boundary[index] = span
        self._passed += 1
        if self._ends is None:
            self._turn_over(step, j, unit, span[1])

    def opened(self, step: int) -> None:
        """A unit has passed all boundaries of the step; the last one closes the books of the step before."""
        units = self._opened[step] = self._opened.get(step, 0) + 1
        if units < self.program.units:
            return
        del self._opened[step]
        self._book(step - 1)
        self._idle = [not any(rows[unit] for rows in self.rank_rows) for unit in range(self.program.units)]
        if self._ends is not None:
            self._stop.succeed()
        elif self.batching.active == 0 and self.program.parks:
            self._park(step)
        elif self._kernel is not None:
            self._kernel.run(step, self)
            self._advance()

    def trace(self, step: int) -> Any:
        """Where the step's operations are noted."""
        if step not in self._traces:
            self._traces[step] = self.program.blank_trace() if self._kernel is None else self._kernel.blank_trace()
        return self._traces[step]

    def carried(self, step: int, port: Port, nbytes: float) -> None:
        """A message has passed a port."""
        row = self._carried.setdefault(step, {}).setdefault(port, [0, 0.0])
        row[0] += 1
        row[1] += nbytes

    # boundaries ------------------------------------------------------------------------------------------------------

    def _turn_over(self, step: int, j: int, unit: int, now: float) -> None:
        if now > self.demand.horizon:
            self._ends = self.demand.horizon
            return
        admission, batching = self.admission, self.batching
        admission.arrive(now)
        if sum(batching.groups[unit][j].batch):
            self.boundaries.add(step, j, unit, now, batching.emitted(j, unit))
        for request in batching.leave(step, j, unit, now):
            admission.finished(request, now)
        if admission.done:
            self._ends = now
            return
        batching.join(step, j, unit, now)
        self._measure(j, unit)

    def _measure(self, j: int, unit: int) -> None:
        """Note what the new membership of a micro-batch costs."""
        group = self.batching.groups[unit][j]
        kinds, cores = self.program.attention_seconds(group.batch, group.contexts)
        for base, seconds in zip(self.base, kinds, strict=True):
            base[j][unit] = seconds
        total = sum(group.batch)
        self.tokens[j] += total - self.rank_rows[j][unit]
        self.rank_rows[j][unit] = total
        self.rows[j][unit] = max(group.batch)
        if self.ledger.opens == FOREVER and self.admission.warm_at is not None:
            self.ledger.opens = self.admission.warm_at
        if self.program.ranks > 1 and self.ledger.opens < FOREVER:
            self._own[unit] += self.program.rank_seconds(group.batch, cores)
            self._longest[unit] += sum(map(mul, kinds, self.program.layers_of_kind))

    # steps -----------------------------------------------------------------------------------------------------------

    def _unit(self, unit: int) -> Steps:
        """An attention unit whose layers the kernel runs: only its boundaries are events."""
        program, kernel = self.program, self._kernel
        assert kernel is not None
        for step in count():
            for j, boundary in program.first_layer:
                if boundary:
                    begin = max(kernel.ready[j * program.units + unit], kernel.free[unit])
                    end = kernel.free[unit] = begin + self.head(j, unit)
                    yield self.at(end, unit)
                    self.boundary(step, j, unit, (begin, end))
                    continue
                self._attend(step, j, unit)
            gate = self._next_step
            self.opened(step)
            yield gate

    def _attend(self, step: int, j: int, unit: int) -> None:
        """The first layer's attention, which starts from the boundary and not from a message."""
        program, kernel, trace = self.program, self._kernel, self.trace(step)
        assert isinstance(program, Program)
        assert isinstance(kernel, Kernel)
        begin = kernel.free[unit] + program.gap(j)
        base = self.base[program.attention_kind[0]][j][unit]
        kernel.free[unit] = begin + base * kernel.factor(step, j, unit)
        index = j * program.units + unit
        trace.attention_start[index], trace.attention[index] = begin, kernel.free[unit]

    def _processes(self, step: int, start: float) -> Pipeline | ColocatedPipeline:
        """The processes of a burst of steps."""
        if isinstance(self.program, ColocatedProgram):
            return ColocatedPipeline(self.env, self.program, self, step, start)
        return Pipeline(self.env, self.program, self, step, start)

    def _advance(self) -> None:
        """Let the units of the kernel go on to the boundaries of the next step."""
        gate, self._next_step = self._next_step, self.env.event()
        gate.succeed()

    def _park(self, step: int) -> None:
        """Nothing is active: skip this step's layers and start again when there is work."""
        trace = self._traces[step]
        self._skipped = step
        now = max(trace.boundary)
        start = now if self.batching.queued else max(now, self.admission.next_arrival)
        if self._pipeline is not None:
            self._pipeline.retired = True
        if start > self.demand.horizon:
            self._ends = max(now, self.demand.horizon)
            start = self._ends
        self._book_pause(start, trace)
        if self._ends is not None:
            self._stop.succeed()
        else:
            self.env.process(self._wake(step + 1, start))

    def _wake(self, step: int, start: float) -> Steps:
        yield self.env.timeout(max(0.0, start - self.env.now))
        if self._kernel is None:
            self._pipeline = self._processes(step, start)
        else:
            self._kernel.restart(start)
            self._advance()

    # books -----------------------------------------------------------------------------------------------------------

    def _book(self, step: int) -> None:
        """Close the books of a step that all units and instances have completed."""
        trace, carried = self._traces.pop(step, None), self._carried.pop(step, {})
        if trace is None or step == self._skipped:
            return
        self._completed.append(step)
        if self._observer is not None:
            self._observer(step, trace)
        for port, (messages, nbytes) in carried.items():
            row = self._traffic.setdefault(port, [0, 0.0])
            row[0] += messages
            row[1] += nbytes
        rows = self._blank_rows()
        if self._kernel is None:
            _close(self.program, trace, self._cursor, self._idle, rows)
        else:
            self._kernel.book(trace, self._cursor, self._idle, rows)
        self._enter(rows)
        if self._progress is not None:
            self._progress(self.admission.progress)

    def _book_pause(self, until: float, trace: AnyTrace | None = None) -> None:
        """Book a pause: the boundaries that found nothing to do are `busy`, the rest is `no_work`."""
        rows, units, width = self._blank_rows(), self.program.units, len(CAUSES)
        for unit in range(units):
            length = until - self._cursor.attention[unit]
            busy = 0.0 if trace is None else sum(trace.boundary[unit::units]) - sum(trace.boundary_start[unit::units])
            rows[0][unit * width + BUSY] = busy
            rows[0][unit * width + NO_WORK] = length - busy
            self._cursor.attention[unit] = until
        for f in range(self.program.ffns):
            rows[1][f * width + NO_WORK] = until - self._cursor.ffn[f]
            self._cursor.ffn[f] = until
        self._cursor.sent[:] = [until] * self.program.micro_batches
        self._enter(rows)

    def _blank_rows(self) -> tuple[list[float], list[float]]:
        return [0.0] * (self.program.units * len(CAUSES)), [0.0] * (self.program.ffns * len(CAUSES))

    def _enter(self, rows: tuple[list[float], list[float]]) -> None:
        ends = np.array([*self._cursor.attention, *self._cursor.ffn])
        self.ledger.book(ends, np.array([*rows[0], *rows[1]]).reshape(-1, len(CAUSES)))

    def _record(self) -> Record:
        assert self._ends is not None, "the run stopped without an end"
        opens, causes = self.ledger.close(self._ends)
        longest = np.where(self._longest > 0, self._longest, 1.0)[:, None]
        return Record(
            requests=self.batching.requests,
            boundaries=self.boundaries,
            window=(opens, self._ends),
            causes=causes,
            own=np.where(self._longest[:, None] > 0, self._own / longest, 1.0),
            traffic=self._traffic,
            steps_run=np.array(self._completed),
            events=self._passed if self._kernel else next(self.env._eid),  # SimPy's count of what it has scheduled
        )


def _kernel(program: AnyProgram, *, compiled: bool) -> Kernel | ColocatedKernel:
    """The kernel of a program."""
    if isinstance(program, ColocatedProgram):
        return ColocatedKernel(program, compiled=compiled)
    return Kernel(program)


def _close(
    program: AnyProgram, trace: Any, cursor: Cursor, idle: list[bool], rows: tuple[list[float], list[float]]
) -> None:
    """Book a step of the processes."""
    if isinstance(program, ColocatedProgram):
        book_colocated(program.line, trace, cursor.attention, idle, rows[0])
        return
    shape = Shape(program.layers, program.micro_batches, program.units, program.ffns, program.fabric.rails)
    tally(shape, program.timing.drain, trace, cursor, idle, rows)
