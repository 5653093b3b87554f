"""The reference engine: one SimPy process per attention unit, per FFN instance and per NIC port and direction.

Each process is a loop of three words: wait, work, announce. What it announces is a value, its finish time, computed
exactly as in `kernel`; `env.now` follows it and keeps the processes in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Protocol

import simpy

from afdsim.engine.program import Program

Steps = Generator[simpy.Event, Any, None]
Turn = tuple[int, int, int]
"""(step, layer, micro-batch): the unit of work, and the order on every resource."""
Port = tuple[str, int, int, str]
"""(pool, unit or FFN instance, rail, direction)."""


class Message(NamedTuple):
    """A micro-batch's rows on their way; sorts by header time, ties by source."""

    header: float
    source: int
    tail: float
    wire: float
    """Seconds on the receiver's port."""
    nbytes: float


class Clock(Protocol):
    """What a pipeline needs of the clock of a run (`clock.Run`)."""

    base: list[list[list[float]]]
    """Seconds of attention by kind, micro-batch and unit, set at the boundary."""
    rows: list[list[int]]
    """Batch of the largest rank by micro-batch and unit."""
    rank_rows: list[list[int]]
    """Tokens of all ranks by micro-batch and unit."""
    tokens: list[int]
    """Tokens of the micro-batch over all units."""

    def head(self, j: int, unit: int) -> float:
        """Seconds of the boundary of a micro-batch on a unit."""
        ...

    def at(self, time: float, unit: int) -> simpy.Event:
        """The moment of a boundary's end; ties are served by unit."""
        ...

    def boundary(self, step: int, j: int, unit: int, span: tuple[float, float]) -> None:
        """A boundary ends now: tokens are out, requests leave and join."""
        ...

    def opened(self, step: int) -> None:
        """A unit has passed all boundaries of the step."""
        ...

    def trace(self, step: int) -> Any:
        """Where the step's operations are noted: the program's kind of trace."""
        ...

    def carried(self, step: int, port: Port, nbytes: float) -> None:
        """A message has passed a port."""
        ...


class Mailbox:
    """Values in order, one reader; the leanest store that a process can wait on."""

    __slots__ = ("_env", "_items", "_reader")

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._items: deque[Any] = deque()
        self._reader: simpy.Event | None = None

    def put(self, item: Any) -> None:
        if self._reader is None:
            self._items.append(item)
        else:
            reader, self._reader = self._reader, None
            reader.succeed(item)

    def get(self) -> simpy.Event:
        event = self._env.event()
        if self._items:
            event.succeed(self._items.popleft())
        else:
            self._reader = event
        return event


class Gate:
    """Collects one item from each of `sources` per turn, then delivers the whole turn.

    Sources keep their own order, so turns fill in order even when a fast source is several turns ahead.
    """

    __slots__ = ("_deliver", "_sources", "_turns")

    def __init__(self, deliver: Callable[[tuple[Turn, list[Any]]], None], sources: int) -> None:
        self._deliver, self._sources = deliver, sources
        self._turns: dict[Turn, list[Any]] = {}

    def put(self, turn: Turn, item: Any) -> None:
        items = self._turns.setdefault(turn, [])
        items.append(item)
        if len(items) == self._sources:
            self._deliver((turn, self._turns.pop(turn)))


class Factors(NamedTuple):
    """`variation.Multipliers` as nested lists: scalars are read one by one here."""

    attention: list[list[list[float]]]
    ffn: list[list[list[float]]]
    out: list[list[list[list[float]]]]
    back: list[list[list[list[float]]]]


def receive(free: float, messages: list[Message]) -> float:
    """When an ingress port that is free at `free` has received a turn's messages, cut through."""
    for message in sorted(messages):
        free = max(max(free, message.header) + message.wire, message.tail)
    return free


class Pipeline:
    """The processes of one burst of steps, from `step` on, with every resource free at `start`."""

    def __init__(self, env: simpy.Environment, program: Program, clock: Clock, step: int, start: float) -> None:
        self.env, self.program, self.clock = env, program, clock
        self.step, self.start = step, start
        self.retired = False
        """Set when the pipeline parks: units stop at their next boundary."""
        self._factors: dict[int, Factors] = {}
        units, ffns = range(program.units), range(program.ffns)
        self._returned = [Mailbox(env) for _ in units]
        self._arrived = [Mailbox(env) for _ in ffns]
        for unit in units:
            for _ in range(program.micro_batches):
                self._returned[unit].put(start)
        if program.timing.dedicated:
            self._wire_up()
        else:
            self._plug_in()
        for f in ffns:
            env.process(self._ffn_instance(f))
        for unit in units:
            env.process(self._attention(unit))

    def _plug_in(self) -> None:
        """One process per NIC port and direction."""
        program, env = self.program, self.env
        rails = range(program.fabric.rails)
        inboxes = [[Mailbox(env) for _ in rails] for _ in range(program.ffns)]
        self._to_ffn = [[Gate(box.put, len(program.fabric.peers[r])) for r, box in enumerate(row)] for row in inboxes]
        self._arrivals = [Gate(box.put, program.fabric.rails) for box in self._arrived]
        unit_inboxes = [Mailbox(env) for _ in range(program.units)]
        self._to_unit = [Gate(box.put, program.ffns) for box in unit_inboxes]
        self._unit_posts = [[Mailbox(env)] for _ in range(program.units)]
        self._ffn_posts = [[Mailbox(env) for _ in rails] for _ in range(program.ffns)]
        for unit, inbox in enumerate(unit_inboxes):
            env.process(self._unit_egress(unit, self._unit_posts[unit][0]))
            env.process(self._unit_ingress(unit, inbox))
        for f in range(program.ffns):
            for r in rails:
                env.process(self._ffn_ingress(f, r, inboxes[f][r]))
                env.process(self._ffn_egress(f, r, self._ffn_posts[f][r]))

    def _wire_up(self) -> None:
        """One process per pair of instances and direction."""
        program, env = self.program, self.env
        units, ffns = range(program.units), range(program.ffns)
        arrivals = [Gate(box.put, program.units) for box in self._arrived]
        returns = [Gate(self._reduced(unit), program.ffns) for unit in units]
        self._unit_posts = [[Mailbox(env) for _ in ffns] for _ in units]
        self._ffn_posts = [[Mailbox(env) for _ in units] for _ in ffns]
        for unit in units:
            for f in ffns:
                env.process(self._wire(self._unit_posts[unit][f], partial(self._out, unit=unit, f=f), arrivals[f]))
                env.process(self._wire(self._ffn_posts[f][unit], partial(self._back, f=f, unit=unit), returns[unit]))

    def _reduced(self, unit: int) -> Callable[[tuple[Turn, list[float]]], None]:
        box, poll = self._returned[unit], self.program.timing.poll
        return lambda message: box.put(max(message[1]) + poll)

    # compute ---------------------------------------------------------------------------------------------------------

    def _attention(self, unit: int) -> Steps:
        """Wait for the summed result of the layer before, compute, announce to the NIC."""
        program, clock, returned = self.program, self.clock, self._returned[unit]
        turns = [(layer, j) for layer in range(1, program.layers) for j in range(program.micro_batches)]
        free = self.start
        for step in count(self.step):
            for j, boundary in program.first_layer:
                if boundary:
                    begin = max((yield returned.get()), free)
                    free = begin + clock.head(j, unit)
                    yield clock.at(free, unit)
                    if self.retired:
                        return
                    clock.boundary(step, j, unit, (begin, free))
                    continue
                free = self._attend((step, 0, j), unit, free + program.gap(j))
                yield self._until(free)
                self._post(self._unit_posts[unit], (step, 0, j), free)
            clock.opened(step)
            for layer, j in turns:
                free = self._attend((step, layer, j), unit, max((yield returned.get()), free))
                yield self._until(free)
                self._post(self._unit_posts[unit], (step, layer, j), free)

    def _attend(self, turn: Turn, unit: int, begin: float) -> float:
        """Finish time of one attention operation that begins at `begin`."""
        step, layer, j = turn
        base = self.clock.base[self.program.attention_kind[layer]][j][unit]
        finish = begin + base * self._noise(step).attention[layer][j][unit]
        trace, index = self.clock.trace(step), (layer * self.program.micro_batches + j) * self.program.units + unit
        trace.attention_start[index], trace.attention[index] = begin, finish
        return finish

    def _ffn_instance(self, f: int) -> Steps:
        """Wait for every attention unit, gather over NVLink, compute, scatter, announce to the NIC."""
        program, timing = self.program, self.program.timing
        gather = compute = scatter = self.start
        while True:
            turn, arrivals = yield self._arrived[f].get()
            step, layer, j = turn
            tokens = self.clock.tokens[j]
            gather = max(gather, max(arrivals) + timing.poll) + program.gather[program.wire_kind[layer]][tokens]
            begin = max(compute, gather)
            compute = begin + program.ffn_seconds(f, layer, tokens) * self._noise(step).ffn[layer][j][f]
            scatter = max(scatter, compute) + program.scatter[tokens]
            trace, index = self.clock.trace(step), (layer * program.micro_batches + j) * program.ffns + f
            trace.ffn_start[index], trace.ffn[index] = begin, compute
            yield self._until(scatter)
            self._post(self._ffn_posts[f], turn, scatter)

    def _post(self, posts: list[Mailbox], turn: Turn, finish: float) -> None:
        """Hand a result to the NIC: the CPU notices the kernel's end and posts the transfer."""
        for box in posts:
            box.put((turn, finish + self.program.timing.send))

    # network ---------------------------------------------------------------------------------------------------------

    def _unit_egress(self, unit: int, posts: Mailbox) -> Steps:
        """Wait for a post, put one copy per FFN instance on the wire in index order, announce each header."""
        half, rail = self.program.timing.half, self.program.fabric.rail[unit]
        free = self.start
        while True:
            turn, posted = yield posts.get()
            nbytes = self._out_bytes(turn, unit)
            for f in range(self.program.ffns):
                wire, wire_in = self._out(turn, unit, f)
                begin = max(posted, free)
                free = begin + wire
                yield self._until(begin + half)
                self.clock.carried(turn[0], ("attention", unit, rail, "egress"), nbytes)
                self._to_ffn[f][rail].put(turn, Message(begin + half, unit, free + half, wire_in, nbytes))

    def _ffn_egress(self, f: int, r: int, posts: Mailbox) -> Steps:
        """Wait for a post, return each attention unit its rows in index order, announce each header."""
        half, free = self.program.timing.half, self.start
        while True:
            turn, posted = yield posts.get()
            for unit in self.program.fabric.peers[r]:
                nbytes = self.program.combine_bytes * self.clock.rank_rows[turn[2]][unit]
                wire, wire_in = self._back(turn, f, unit)
                begin = max(posted, free)
                free = begin + wire
                yield self._until(begin + half)
                self.clock.carried(turn[0], ("ffn", f, r, "egress"), nbytes)
                self._to_unit[unit].put(turn, Message(begin + half, f, free + half, wire_in, nbytes))

    def _ffn_ingress(self, f: int, r: int, inbox: Mailbox) -> Steps:
        """Wait for the headers of a whole turn, receive in order of arrival, announce the last tail."""
        half, free = self.program.timing.half, self.start
        while True:
            turn, messages = yield inbox.get()
            free = receive(free, messages)
            yield self._until(free + half)
            for message in messages:
                self.clock.carried(turn[0], ("ffn", f, r, "ingress"), message.nbytes)
            self._arrivals[f].put(turn, free + half)

    def _unit_ingress(self, unit: int, inbox: Mailbox) -> Steps:
        """Wait for the headers of a whole turn, receive in order of arrival, announce the last tail."""
        timing, free = self.program.timing, self.start
        while True:
            turn, messages = yield inbox.get()
            free = receive(free, messages)
            yield self._until(free + timing.half)
            for message in messages:
                self.clock.carried(
                    turn[0], ("attention", unit, self.program.fabric.rail[unit], "ingress"), message.nbytes
                )
            self._returned[unit].put(free + timing.half + timing.poll)

    def _wire(self, posts: Mailbox, seconds: Callable[[Turn], tuple[float, float]], arrivals: Gate) -> Steps:
        """Wait for a post, occupy the wire, announce the arrival."""
        latency, free = self.program.timing.latency, self.start
        while True:
            turn, posted = yield posts.get()
            free = max(posted, free) + seconds(turn)[0]
            yield self._until(free + latency)
            arrivals.put(turn, free + latency)

    def _out_bytes(self, turn: Turn, unit: int) -> float:
        """Bytes that all ranks of a unit send to one FFN instance."""
        _, layer, j = turn
        return self.program.dispatch_bytes[self.program.wire_kind[layer]] * self.clock.rank_rows[j][unit]

    def _out(self, turn: Turn, unit: int, f: int) -> tuple[float, float]:
        """Seconds of a message to an FFN instance on the sender's and on the receiver's port."""
        step, layer, j = turn
        rows, kind = self.clock.rows[j][unit], self.program.wire_kind[layer]
        factor = self._noise(step).out[layer][j][unit][f]
        return self.program.out_egress[kind][rows] * factor, self.program.out_ingress[kind][rows] * factor

    def _back(self, turn: Turn, f: int, unit: int) -> tuple[float, float]:
        """Seconds of a message from an FFN instance on the sender's and on the receiver's port."""
        step, layer, j = turn
        rows = self.clock.rows[j][unit]
        factor = self._noise(step).back[layer][j][f][unit]
        return self.program.back_egress[rows] * factor, self.program.back_ingress[rows] * factor

    def _noise(self, step: int) -> Factors:
        """The multipliers of a step; two steps are alive at once."""
        if step not in self._factors:
            drawn = self.program.variation.multipliers(step)
            self._factors.pop(step - 2, None)
            lists = (array.tolist() for array in (drawn.attention, drawn.ffn, drawn.out, drawn.back))
            self._factors[step] = Factors(*lists)
        return self._factors[step]

    def _until(self, time: float) -> simpy.Event:
        return self.env.timeout(max(0.0, time - self.env.now))
