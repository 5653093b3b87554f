"""The reference engine of colocated deployments: a SimPy process per unit, and one per port and direction.

Each process is a loop of three words: wait, work, announce. What it announces is a value, its finish time, computed
exactly as in `colocated_kernel`; `env.now` follows it and keeps the processes in order.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import simpy

from afdsim.engine.colocated_program import COMBINE, NOTHING, ColocatedProgram, ColocatedTimes, ColocatedTrace
from afdsim.engine.processes import Clock, Gate, Mailbox, Steps

Values = Any


class Tokens(NamedTuple):
    """A unit's tokens on their way to all the others."""

    begin: float
    end: float
    posted: float
    nbytes: float


class ColocatedPipeline:
    """The processes of one burst of steps, from `step` on, with every resource free at `start`."""

    def __init__(
        self, env: simpy.Environment, program: ColocatedProgram, clock: Clock, step: int, start: float
    ) -> None:
        self.env, self.program, self.clock = env, program, clock
        self.step, self.start = step, start
        self.retired = False
        """Set when the pipeline parks: units stop at their next boundary."""
        self._times: dict[int, ColocatedTimes] = {}
        self._closed = env.event()
        """The boundaries of a step are over everywhere: its durations are known."""
        units = range(program.units)
        self._posts, self._inboxes = [Mailbox(env) for _ in units], [Mailbox(env) for _ in units]
        self._arrived = [[Mailbox(env) for _ in range(program.micro_batches)] for _ in units]
        self._all_sent = [Gate(box.put, program.units) for box in self._inboxes]
        for unit in units:
            env.process(self._egress(unit))
            env.process(self._ingress(unit))
            env.process(self._unit(unit))

    def _unit(self, unit: int) -> Steps:
        """Wait for the tokens that an operation needs, compute, announce what it sends."""
        program, clock = self.program, self.clock
        free = due = self.start
        for step in count(self.step):
            for j in range(program.micro_batches):
                begin = max(due, free)
                free = begin + clock.head(j, unit)
                yield clock.at(free, unit)
                if self.retired:
                    return
                clock.boundary(step, j, unit, (begin, free))
            closed = self._closed
            clock.opened(step)
            yield self._others(step, closed)
            times = self._of(step)
            for i, operation in enumerate(program.operations):
                if program.waits[i] >= 0:
                    free = max(free, (yield self._arrived[unit][operation.micro_batch].get()))
                begin, free = free, free + float(times.work[i, unit])
                self._note(step, i, unit, (begin, free))
                if program.posts[i] != NOTHING:
                    self._posts[unit].put(((step, i, operation.micro_batch), free))
                yield self._until(free)
            due = free + program.host

    def _others(self, step: int, closed: simpy.Event) -> simpy.Event:
        """Wait until every unit has passed the step's boundaries: a micro-batch is as large as all of it."""
        self._waiting = getattr(self, "_waiting", 0) + 1
        if self._waiting == self.program.units:
            self._waiting, self._closed = 0, self.env.event()
            closed.succeed()
        return closed

    def _egress(self, unit: int) -> Steps:
        """Wait for a post, send a share to every unit, announce when the last byte has left."""
        free = self.start
        while True:
            turn, finish = yield self._posts[unit].get()
            step, i, j = turn
            times = self._of(step)
            posted = finish - float(times.early[i, unit])
            begin = max(posted, free)
            free = begin + float(times.out[i, unit])
            if self.program.posts[i] == COMBINE:  # the last sums leave when the experts are done
                free = max(free, finish)
            yield self._until(free)
            tokens = Tokens(begin, free, posted, self._bytes(i, unit, j))
            self.clock.carried(step, ("colocated", unit, 0, "egress"), tokens.nbytes)
            for gate in self._all_sent:
                gate.put(turn, tokens)

    def _ingress(self, unit: int) -> Steps:
        """Wait until every unit has sent, take in what is for this one, announce that it is there."""
        free = self.start
        while True:
            turn, messages = yield self._inboxes[unit].get()
            step, i, j = turn
            self.clock.trace(step).sent[i] = max(message.posted for message in messages)
            first = min(message.begin for message in messages)
            last = max(message.end for message in messages)
            free = max(max(free, first) + float(self._of(step).into[i, unit]), last)
            yield self._until(free)
            nbytes = sum(message.nbytes for message in messages) / self.program.units
            self.clock.carried(step, ("colocated", unit, 0, "ingress"), nbytes)
            self._arrived[unit][j].put(free)

    def _note(self, step: int, i: int, unit: int, span: tuple[float, float]) -> None:
        trace: ColocatedTrace = self.clock.trace(step)
        index = i * self.program.units + unit
        trace.start[index], trace.finish[index] = span
        trace.held[index] = float(self._of(step).held[i, unit])

    def _bytes(self, i: int, unit: int, j: int) -> float:
        """Bytes that the GPUs of a unit send in an exchange, those that stay at home included."""
        program = self.program
        if program.posts[i] == COMBINE:
            return program.combine_bytes * self.clock.tokens[j] / program.units
        return program.dispatch_bytes * self.clock.rank_rows[j][unit]

    def _of(self, step: int) -> ColocatedTimes:
        """The durations of a step; the boundaries of the next one come after the last use."""
        if step not in self._times:
            import numpy as np

            clock = self.clock
            self._times.clear()
            self._times[step] = self.program.times(step, np.array(clock.base), np.array(clock.rows), clock.tokens)
        return self._times[step]

    def _until(self, time: float) -> simpy.Event:
        return self.env.timeout(max(0.0, time - self.env.now))
