"""The reference engine: one SimPy process per unit and resource, and one per port and direction.

Each process is a loop of three words, wait, work, announce, over its own turns of the schedule. What it announces is a
value, its finish time, computed exactly as in `recurrence`; `env.now` follows it and keeps the processes in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from itertools import count
from typing import Any, NamedTuple, Protocol

import simpy

from afdsim.cluster.network import cross, receive, send
from afdsim.engine.books import Trace
from afdsim.engine.cell import Cell
from afdsim.engine.culprits import doors, sources
from afdsim.engine.recurrence import holding
from afdsim.engine.schedule import ALL_TO_ALL, COMPUTE, GATHER, NO_TURN, SCATTER, Boundary, Compute, Exchange, Source
from afdsim.engine.seats import NOBODY

Steps = Generator[simpy.Event, Any, None]
Turn = tuple[int, int]
"""(step, place in the schedule): the unit of work."""
Port = tuple[str, int, int, str]
"""(pool, unit within the pool, port of the cell, direction)."""


class Copy(NamedTuple):
    """Rows on their way to one receiver; sorts by source."""

    number: int
    header: float
    tail: float
    into: float
    """Seconds on the receiver's port."""
    nbytes: float
    up: float = 0.0
    """Seconds on the uplink."""
    down: float = 0.0
    """Seconds on the downlink."""
    lost: float = 0.0
    """Seconds by which uplinks and downlinks held its tail back."""


class Part(NamedTuple):
    """What one port of a unit brings it."""

    time: float
    port: int
    bound: int
    """Why no earlier (`books.Trace.bound`)."""
    crossed: float = 0.0


class Aggregate(NamedTuple):
    """A unit's rows on their way to all the others."""

    begin: float
    end: float
    source: int
    nbytes: float


class Clock(Protocol):
    """What a pipeline needs of the clock of a run (`clock.Run`, which says it in full)."""

    def head(self, unit: int, micro_batch: int) -> float: ...
    def at(self, time: float, unit: int) -> simpy.Event: ...
    def boundary(self, turn: Turn, unit: int, span: tuple[float, float]) -> None: ...
    def opened(self, step: int) -> None: ...
    def trace(self, step: int) -> Trace: ...
    def seconds(self, source: Source, unit: int, micro_batch: int, batch: int) -> float: ...
    def factor(self, step: int, unit: int, draw: int) -> float: ...
    def wire(self, step: int, place: int) -> float: ...
    def more(self, step: int, unit: int, draw: int) -> float: ...
    def late(self, step: int, unit: int, draw: int) -> float: ...
    def sequences(self, unit: int, micro_batch: int) -> int: ...
    def tokens(self, batch: int) -> int: ...
    def carried(self, step: int, port: Port, nbytes: float) -> None: ...


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
    """Collects the items of a turn from its sources; one reader asks for whole turns in the order of the schedule."""

    __slots__ = ("_env", "_events", "_turns")

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._turns: dict[Turn, list[Any]] = {}
        self._events: dict[Turn, simpy.Event] = {}

    def put(self, turn: Turn, item: Any, sources: int) -> None:
        items = self._turns.setdefault(turn, [])
        items.append(item)
        if len(items) == sources:
            self.get(turn).succeed(self._turns.pop(turn))

    def get(self, turn: Turn) -> simpy.Event:
        """The event of a turn: of the last source and the reader, the first makes it and the second takes it."""
        event = self._events.pop(turn, None)
        if event is None:
            event = self._events[turn] = self._env.event()
        return event


class Pipeline:
    """The processes of one burst of steps, from `step` on, with every resource free at `start`."""

    def __init__(self, env: simpy.Environment, cell: Cell, clock: Clock, step: int, start: float) -> None:
        self.env, self.cell, self.clock, self.schedule = env, cell, clock, cell.schedule
        self.step, self.start = step, start
        self.retired = False
        """Set when the pipeline parks: units stop at their next boundary."""
        self._passed = 0
        self._closed = env.event()
        """The boundaries of a step are over everywhere."""
        units = range(self.schedule.units)
        self._inbox = [[Mailbox(env) for _ in range(self.schedule.batches)] for _ in units]
        self._own = [[Mailbox(env) for _ in (COMPUTE, GATHER, SCATTER)] for _ in units]
        self._followers = {
            turn.after: turn.resource
            for turn in self.schedule.turns
            if isinstance(turn, Compute)
            and turn.after != NO_TURN
            and not isinstance(self.schedule.turns[turn.after], Exchange)
        }
        self._sent = {self.schedule.turns[x].sent: number for x, number in self.schedule.exchanges.items()}  # type: ignore[union-attr]
        self._numbers = list(self.schedule.exchanges)
        self._sources, self._doors = sources(cell).tolist(), doors(cell).tolist()
        self._plug_in()
        for pool in self.schedule.pools:
            for resource in (COMPUTE, GATHER, SCATTER):
                turns = self.schedule.of(pool, resource)
                for unit in pool if turns else ():
                    env.process(self._unit(unit, turns))

    # compute ---------------------------------------------------------------------------------------------------------

    def _unit(self, unit: int, turns: list[int]) -> Steps:
        """Wait for what a turn needs, compute, announce its end."""
        free = due = self.start
        opening = [turn for turn in turns if turn < self.schedule.opening]
        for step in count(self.step):
            for place in turns:
                turn = self.schedule.turns[place]
                if isinstance(turn, Boundary):
                    arrived = (
                        due
                        if turn.after == NO_TURN or step == self.step
                        else (yield self._inbox[unit][turn.micro_batch].get())
                    )
                    begin = max(arrived, free)
                    free = begin + self.clock.head(unit, turn.micro_batch)
                    yield self.clock.at(free, unit)
                    if self.retired:
                        return
                    self.clock.boundary((step, place), unit, (begin, free))
                else:
                    assert isinstance(turn, Compute)
                    ready = yield from self._awaited(turn, unit)
                    free = yield from self._work((step, place), unit, max(ready, free) + turn.pause)
                if opening and place == opening[-1]:
                    yield from self._opened(step)
            due = free + self.schedule.host

    def _awaited(self, turn: Compute, unit: int) -> Generator[simpy.Event, float, float]:
        """When what an operation waits for is there."""
        if turn.after == NO_TURN:
            return self.start
        if isinstance(self.schedule.turns[turn.after], Exchange):
            return (yield self._inbox[unit][turn.micro_batch].get())
        return (yield self._own[unit][turn.resource].get())

    def _work(self, at: Turn, unit: int, begin: float) -> Generator[simpy.Event, Any, float]:
        """Compute from `begin` on; returns the end."""
        (step, place), turn = at, self.schedule.turns[at[1]]
        assert isinstance(turn, Compute)
        factor = self.clock.factor(step, unit, turn.draw) if turn.draw != NO_TURN else 1.0
        length = self.clock.seconds(turn.work, unit, turn.micro_batch, turn.batch) * turn.slow
        trace, index, early = self.clock.trace(step), self.schedule.at[place] + unit - turn.units.start, 0.0
        if self.schedule.all_to_all:
            more, early, held = (
                self.clock.seconds(each, unit, turn.micro_batch, turn.batch)
                for each in (turn.more, turn.early, turn.held)
            )
            length, early = length + more, early * turn.slow * turn.share * factor
            trace.held[index], trace.early[index] = held * factor, early
        finish = begin + length * factor
        if turn.draw != NO_TURN and length > 0.0:
            finish += self.clock.more(step, unit, turn.draw)
        trace.start[index], trace.finish[index] = begin, finish
        self._note(step, place, unit, finish - early)
        if place in self.schedule.posts or place not in self._followers:  # a unit hears of its own at once
            yield self._until(finish - early)
        self._announce(at, unit, (finish - early, finish))
        if early > 0.0:
            yield self._until(finish)
        return finish

    def _note(self, step: int, place: int, unit: int, time: float) -> None:
        """Note when the senders of an exchange had finished and posted, and who was the last; the lowest of several."""
        trace = self.clock.trace(step)
        if place in self._sent:
            x = self._sent[place]
            self._sender(trace, x, unit - self._exchange((step, self._numbers[x])).senders.start, time)
        if place in self.schedule.posts:
            number = self.schedule.posts[place]
            exchange, x = self._exchange((step, number)), self.schedule.exchanges[number]
            rank = unit - exchange.senders.start
            posted = time + self.clock.late(step, unit, self.schedule.post_draw(exchange))
            if (posted, -rank) > (trace.posted[x], -trace.poster[x]):
                trace.posted[x], trace.ended[x], trace.poster[x] = posted, time, rank

    def _sender(self, trace: Trace, x: int, rank: int, time: float) -> None:
        """Note when a sender of an exchange had finished."""
        only = len(self._exchange((0, self._numbers[x])).senders) == 1
        trace.first[x] = min(trace.first[x], time)
        if (time, -rank) > (trace.last[x], -trace.sender[x]):
            trace.second[x], trace.last[x], trace.sender[x] = time if only else trace.last[x], time, rank
        elif time > trace.second[x]:
            trace.second[x] = time

    def _announce(self, at: Turn, unit: int, times: tuple[float, float]) -> None:
        """Tell who waits for a turn: the ports of its unit, or another resource of it."""
        step, place = at
        if place in self.schedule.posts:
            self._post((step, self.schedule.posts[place]), unit, times)
        if place in self._followers:
            self._own[unit][self._followers[place]].put(times[1])

    def _opened(self, step: int) -> Steps:
        """All boundaries of a unit are over; where tokens of all units count, wait for the others."""
        closed, self._passed = self._closed, self._passed + 1
        last = self._passed == self.cell.seated
        if last:
            self._passed, self._closed = 0, self.env.event()
        self.clock.opened(step)
        if last:
            closed.succeed()
        if self.schedule.together:
            yield closed

    # ports -----------------------------------------------------------------------------------------------------------

    def _plug_in(self) -> None:
        """One process per port and direction."""
        wiring, env = self.cell.wiring, self.env
        self._posts = [Mailbox(env) for _ in range(wiring.ports[0])]
        self._gates = [Gate(env) for _ in range(wiring.ports[1])]
        self._arrivals: list[dict[Turn, list[Part]]] = [{} for _ in range(self.schedule.units)]
        self._legs: list[dict[int, list[tuple[int, int, int]]]] = [{} for _ in wiring.routes]
        """By route and sender: (egress port, low, high) of its copies."""
        self._sharing: list[dict[int, int]] = [{} for _ in wiring.routes]
        """By route and egress port: how many units send through it."""
        self._into: list[dict[int, tuple[list[int], int, int]]] = [{} for _ in wiring.routes]
        """By route and ingress port: receivers, how many copies it takes, how many ports of a receiver are in use."""
        self._queues: dict[tuple[Turn, int], list[tuple[float, int, int]]] = {}
        """By turn and egress port: posts of the units that share it, as long as some are missing."""
        self._switch: list[tuple[int, int]] = [(0, 0)] * len(wiring.lane)
        """By copy: uplink, and how many copies of its route cross it."""
        self._uplinks = [Gate(env) for _ in range(wiring.servers)]
        self._to = [0] * len(wiring.lane)
        """By copy: ingress port."""
        self._lane = (wiring.lane // self.cell.micro_batches).astype(int).tolist()
        """By copy: unit whose rows it carries."""
        self._draw = wiring.draw.tolist()
        if self.schedule.all_to_all:
            for unit in range(self.schedule.units):
                env.process(self._leave(unit))
                env.process(self._arrive(unit))
            return
        self._route()
        owners = {int(port): int(unit) for unit, port, *_ in wiring.leaving}
        for port, unit in owners.items():
            env.process(self._egress(port, unit))
        for port in {int(port) for _, port, *_ in wiring.arriving}:
            env.process(self._ingress(port))
        for up, down in {(int(up), int(down)) for up, down, *_ in wiring.crossings}:
            env.process(self._crossing(up, down))

    def _route(self) -> None:
        """Note which copies every route sends through which ports."""
        wiring = self.cell.wiring
        order, across = wiring.order.tolist(), wiring.across.tolist()
        for route, (a, b, c, d, e, f) in enumerate(wiring.routes.tolist()):
            for unit, port, low, high in wiring.leaving[a:b].tolist():
                self._legs[route].setdefault(unit, []).append((port, low, high))
                self._sharing[route][port] = self._sharing[route].get(port, 0) + 1
            legs = wiring.arriving[c:d].tolist()
            receivers = [unit for unit, *_ in legs]
            for unit, port, low, high in legs:
                self._into[route].setdefault(port, ([], high - low, receivers.count(unit)))[0].append(unit)
                for place in range(low, high):
                    self._to[order[place]] = port
            for up, _, low, high in wiring.crossings[e:f].tolist():
                for place in range(low, high):
                    self._switch[across[place]] = up, high - low

    def _arrived(self, turn: Turn, unit: int, part: Part, ports: int) -> None:
        """A port of a unit has received its part; the last one completes the turn."""
        parts = self._arrivals[unit].setdefault(turn, [])
        parts.append(part)
        if len(parts) == ports:
            self._complete(turn, unit, max(self._arrivals[unit].pop(turn), key=lambda each: (each.time, -each.port)))

    def _complete(self, turn: Turn, unit: int, part: Part) -> None:
        """A unit has everything that an exchange brings it."""
        exchange, trace = self._exchange(turn), self.clock.trace(turn[0])
        place = self.schedule.reached[self.schedule.exchanges[turn[1]]] + unit - exchange.receivers.start
        trace.arrived[place], trace.bound[place] = part.time, part.bound
        if trace.crossed:
            trace.crossed[place] = part.crossed
        self._inbox[unit][exchange.inbox].put(part.time)

    def _exchanges(self, port: int) -> Generator[Turn, None, None]:
        """Turns that reach an ingress port, in the order in which it serves them."""
        aggregates = self.schedule.all_to_all
        return self._along({route for route, ports in enumerate(self._into) if aggregates or port in ports})

    def _along(self, routes: set[int]) -> Generator[Turn, None, None]:
        """Turns that take one of some routes, in order."""
        places = [place for place in self.schedule.exchanges if self._exchange((0, place)).route in routes]
        for step in count(self.step) if places else ():
            yield from ((step, place) for place in places)

    def _post(self, turn: Turn, unit: int, times: tuple[float, float]) -> None:
        """Hand rows to the ports of a unit: they may leave at the first time, the operation ends at the second."""
        exchange = self._exchange(turn)
        late = self.clock.late(turn[0], unit, self.schedule.post_draw(exchange))
        if exchange.pattern == ALL_TO_ALL:
            self._posts[unit].put((turn, (times[0] + late, times[1])))
            return
        for port, low, high in self._legs[exchange.route][unit]:
            queue = self._queues.setdefault((turn, port), [])
            queue.append((times[1] + self.cell.wiring.wait + late, low, high))
            if len(queue) == self._sharing[exchange.route][port]:
                for post in sorted(self._queues.pop((turn, port))):
                    self._posts[port].put((turn, *post))

    def _egress(self, port: int, unit: int) -> Steps:
        """Wait for a post, put one copy per receiver on the wire, announce each header."""
        wiring, free = self.cell.wiring, self.start
        name = self._name(unit, port, "egress")
        while True:
            turn, posted, low, high = yield self._posts[port].get()
            exchange = self._exchange(turn)
            copies = [self._copy(turn, exchange, x) for x in range(low, high)]
            header, tail = [0.0] * len(copies), [0.0] * len(copies)
            wires, span = [wire for wire, _ in copies], (0, len(copies))
            free = send(
                wiring.discipline, max(free, posted), wiring.lag, wires, (header, tail, [0] * len(copies)), span
            )
            for x, (_, copy) in enumerate(copies):
                yield self._until(header[x])
                self.clock.carried(turn[0], name, copy.nbytes)
                self._forward(turn, copy._replace(header=header[x], tail=tail[x]))

    def _copy(self, turn: Turn, exchange: Exchange, x: int) -> tuple[float, Copy]:
        """Seconds of a copy on the sender's port, and the copy, which has not left yet."""
        unit, j, wiring = self._lane[x], exchange.micro_batch, self.cell.wiring
        factor, further = self.clock.wire(turn[0], self._draw[x] + exchange.draw), int(wiring.further)
        ends = (exchange.out, exchange.into)
        out, into = (self.clock.seconds(end, unit, j, exchange.batch) * factor for end in ends)
        if len(wiring.slow):
            out, into = out * float(wiring.slow[x, 0]), into * float(wiring.slow[x, 1])
        up = down = 0.0
        if wiring.servers:
            hops = (end._replace(row=end.row + further) for end in ends)
            up, down = (self.clock.seconds(hop, unit, j, exchange.batch) * factor for hop in hops)
        return out, Copy(x, 0.0, 0.0, into, exchange.nbytes * self.clock.sequences(unit, j), up, down)

    def _forward(self, turn: Turn, copy: Copy) -> None:
        """Hand a copy to the uplink of its side, or to the receiver's port where there is none."""
        if self.cell.wiring.servers:
            uplink, copies = self._switch[copy.number]
            self._uplinks[uplink].put(turn, copy, copies)
        else:
            self._deliver(turn, copy)

    def _deliver(self, turn: Turn, copy: Copy) -> None:
        """Hand a copy to the port of its receiver."""
        port = self._to[copy.number]
        self._gates[port].put(turn, copy, self._into[self._exchange(turn).route][port][1])

    def _crossing(self, up: int, down: int) -> Steps:
        """Wait for the headers of a whole turn, let them cross the uplink and the downlink of a rail, announce them."""
        wiring, free = self.cell.wiring, [self.start, self.start]
        spans = wiring.routes[:, 4:].tolist()
        routes = {route for route, (e, f) in enumerate(spans) if up in wiring.crossings[e:f, 0]}
        for turn in self._along(routes):
            copies = sorted((yield self._uplinks[up].get(turn)))
            header, tail = [copy.header for copy in copies], [copy.tail for copy in copies]
            works, whole = ([copy.up for copy in copies], [copy.down for copy in copies]), range(len(copies))
            for hop, (lag, work) in enumerate(zip((0.0, wiring.between), works, strict=True)):
                times = (header, tail, list(whole))
                free[hop] = cross(free[hop], lag, work, times, list(whole), (0, len(copies)))
            for x, copy in enumerate(copies):
                lost = max(tail[x] - copy.tail - wiring.between, 0.0)  # rounded, it may be less
                self._deliver(turn, copy._replace(header=header[x], tail=tail[x], lost=lost))

    def _ingress(self, port: int) -> Steps:
        """Wait for the headers of a whole turn, receive, announce the last tail."""
        wiring, free = self.cell.wiring, self.start
        for turn in self._exchanges(port):
            copies = yield self._gates[port].get(turn)
            exchange = self._exchange(turn)
            units, _, ports = self._into[exchange.route][port]
            number, header, tail, into, nbytes, _, _, lost = zip(*sorted(copies), strict=True)
            order, span = list(range(len(number))), (0, len(number))
            free = receive(wiring.discipline, free, into, (header, tail, list(order)), order, span)
            yield self._until(free + wiring.rest)
            name = self._name(units[0], port, "ingress")
            for each in nbytes:
                self.clock.carried(turn[0], name, each)
            x, end = holding(wiring.discipline, free, into, tail, order, span), free + wiring.rest + wiring.poll
            for unit in units:
                bound = self._sources[number[x]] if x != NOBODY else port - self._doors[unit] + exchange.senders.stop
                part = Part(end, port, bound - exchange.senders.start, lost[x] if x != NOBODY else 0.0)
                self._arrived(turn, unit, part, ports)

    # all-to-all ------------------------------------------------------------------------------------------------------

    def _leave(self, unit: int) -> Steps:
        """Wait for a post, send a share to every unit, announce when the last row has left."""
        free, name = self.start, self._name(unit, unit, "egress")
        while True:
            turn, (posted, finish) = yield self._posts[unit].get()
            exchange = self._exchange(turn)
            out = self.clock.seconds(exchange.out, unit, exchange.micro_batch, exchange.batch)
            begin = max(posted, free)
            free = begin + out * self.clock.wire(turn[0], int(self.cell.variation.pairs[unit]) + exchange.draw)
            if exchange.held_back:
                free = max(free, finish)
            yield self._until(free)
            nbytes = exchange.nbytes * self._share(exchange, unit)
            self.clock.carried(turn[0], name, nbytes)
            for gate in self._gates:
                gate.put(turn, Aggregate(begin, free, unit, nbytes), self.schedule.units)

    def _share(self, exchange: Exchange, unit: int) -> float:
        """Sequences whose rows a unit sends: its own, or an even share of everybody's results."""
        if exchange.held_back:
            return self.clock.tokens(exchange.batch) / self.schedule.units
        return self.clock.sequences(unit, exchange.micro_batch)

    def _arrive(self, unit: int) -> Steps:
        """Wait until every unit has sent, take in what is for this one, announce that it is there."""
        free, name = self.start, self._name(unit, unit, "ingress")
        for turn in self._exchanges(unit):
            shares = yield self._gates[unit].get(turn)
            exchange = self._exchange(turn)
            first, last = min(each.begin for each in shares), max(each.end for each in shares)
            into = self.clock.seconds(exchange.into, unit, exchange.micro_batch, exchange.batch)
            free = max(max(free, first) + into, last)
            yield self._until(free)
            self.clock.carried(turn[0], name, sum(each.nbytes for each in shares) / self.schedule.units)
            source = min(each.source for each in shares if each.end == last)
            self._complete(turn, unit, Part(free, unit, source if last >= free else len(exchange.senders)))

    def _exchange(self, turn: Turn) -> Exchange:
        exchange = self.schedule.turns[turn[1]]
        assert isinstance(exchange, Exchange)
        return exchange

    def _name(self, unit: int, port: int, direction: str) -> Port:
        pool = next(pool for pool in self.cell.pools if unit in pool.units)
        return pool.name, unit - pool.units.start, port, direction

    def _until(self, time: float) -> simpy.Event:
        return self.env.timeout(max(0.0, time - self.env.now))
