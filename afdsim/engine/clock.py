"""The SimPy clock of a run by processes: step boundaries, parking, the window and the horizon.

Between the boundaries of a step the layers run (`processes`). They meet this module in two places: a unit reports each
boundary when its time has come, and says when it has passed all boundaries of a step. Times are values; `env.now` only
orders the boundaries, ties by unit.
"""

from __future__ import annotations

from array import array

import numpy as np
import simpy

from afdsim.engine import seats
from afdsim.engine.blank import blank_trace
from afdsim.engine.books import AWAY, Lines, Trace, close
from afdsim.engine.cell import Cell
from afdsim.engine.closing import Closing
from afdsim.engine.desk import Demand, Desk, Observer, Progress
from afdsim.engine.population import populate
from afdsim.engine.processes import Pipeline, Port, Steps, Turn
from afdsim.engine.record import Record
from afdsim.engine.samples import keep
from afdsim.engine.schedule import TOKENS, Boundary, Source
from afdsim.engine.seats import FOREVER
from afdsim.engine.tables import head_seconds, measure, seconds
from afdsim.engine.turnover import turn_over
from afdsim.errors import StoppedEarly


class Moment(simpy.Event):
    """An event after `delay`, with an order among the events of its time."""

    def __init__(self, env: simpy.Environment, delay: float, order: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, order, delay)  # type: ignore[arg-type]  # any integer orders; URGENT is 0, NORMAL is 1


class Run:
    """One simulation of a cell under a demand, by processes."""

    def __init__(self, cell: Cell, demand: Demand, *, progress: Progress = None, observer: Observer = None) -> None:
        self.cell, self.desk, self.env = cell, Desk(cell, demand), simpy.Environment()
        self._lines = Lines(*(column.tolist() for column in self.desk.machine.lines))
        self._completed = array("q")
        """Numbers of the completed steps."""
        self._traffic: dict[Port, list[float]] = {}
        self._carried: dict[int, dict[Port, list[float]]] = {}
        self._traces: dict[int, Trace] = {}
        self._factors: dict[int, tuple[list[float], ...]] = {}
        self._opened: dict[int, int] = {}
        self._known: list[dict[Source, float]] = [{} for _ in range(cell.seated * cell.micro_batches)]
        """Seconds by lane."""
        self._idle = [0] * cell.schedule.units
        self._drawn_at = cell.variation.units.tolist()
        self._skipped = -1
        """Latest step whose layers did not run, because nothing was active."""
        self._stop = self.env.event()
        self._stopped = -1
        """Step in which the cell has stopped for an outage."""
        self._events = 0
        """Of the environments before."""
        self._progress, self._observer = progress, observer
        self._closing = Closing(self.desk)

    def execute(self) -> Record:
        """Run until everything that counts has ended, or the horizon."""
        self.begin()
        try:
            self.advance(FOREVER)
        except StoppedEarly:
            self.desk.cut()
        return self.record()

    def begin(self) -> None:
        """Let the first requests in, where there are any."""
        start = self.desk.begin(populate)
        self._idle = self.desk.memory.state.idle.tolist()
        if not self.desk.dozing:
            self._pipeline = Pipeline(self.env, self.cell, self, 0, start)

    def wake(self) -> None:
        """Go on: somebody is known to come."""
        start, self._stop = self.desk.wake(), self.env.event()
        if not self.desk.parked:
            self._idle = self.desk.memory.state.idle.tolist()
            self.env.process(self._wake(self._skipped + 1, start))

    def advance(self, until: float) -> None:
        """Run as long as boundaries end before `until`, somebody is known to come, and the run has not ended."""
        while self.desk.ends == FOREVER and not self.desk.dozing and self._reached(until):
            if self.desk.ends == FOREVER and not self.desk.dozing:
                self._fall(self._stopped)

    def _reached(self, until: float) -> bool:
        """Let happen what happens before `until`; returns whether the cell has stopped."""
        if until == FOREVER:
            self.env.run(until=self._stop)
        while not self._stop.processed and (self.env.peek() < until or self.desk.ends < FOREVER):
            self.env.step()
        return bool(self._stop.processed)

    def outlast(self, until: float) -> None:
        """Stand idle until then: others go on."""
        latest = self._traces[max(self._traces)] if self._traces else None
        self.desk.outlast(until, latest)

    @property
    def due(self) -> float:
        """Before when nothing happens, if nobody comes."""
        return FOREVER if self.desk.ends < FOREVER or self.desk.dozing else float(self.env.peek())

    def record(self) -> Record:
        """What the run leaves behind."""
        events = self._events + next(self.env._eid)  # SimPy's count of what it has scheduled
        record = self.desk.record(steps=np.array(self._completed), events=events, traffic=self._traffic)
        return self._closing.signed(record)

    def _fall(self, step: int) -> None:
        """The cell has stopped: let the layers of its step run out, and begin anew when it goes on."""
        self._pipeline.retired = True
        self.env.run()
        trace = self.trace(step)
        self._book(step, completed=False)
        self.desk.memory.state.idle[:] = self._idle
        start = self.desk.fall(step, trace)
        self._traces, self._carried, self._opened, self._factors = {}, {}, {}, {}
        self._known = [{} for _ in self._known]
        self._idle = self.desk.memory.state.idle.tolist()
        if self.desk.ends == FOREVER:
            self._events += next(self.env._eid)
            self.env = simpy.Environment(start)
            self._stop = self.env.event()
            self._pipeline = Pipeline(self.env, self.cell, self, step + 1, start)

    # what the processes ask ------------------------------------------------------------------------------------------

    def head(self, unit: int, micro_batch: int) -> float:
        """Seconds of the boundary of a micro-batch on a unit."""
        machine, lane = self.desk.machine, unit * self.cell.micro_batches + micro_batch
        return float(head_seconds(machine.places, machine.tables, self.desk.book, lane))

    def seconds(self, source: Source, unit: int, micro_batch: int, batch: int) -> float:
        """What a source says of a unit now; what depends on the unit's own rows is kept until its next boundary."""
        lane = unit * self.cell.micro_batches + micro_batch
        if source.table == TOKENS:
            return self._looked_up(source, (unit, lane, batch))
        known = self._known[lane]
        if source not in known:
            known[source] = self._looked_up(source, (unit, lane, batch))
        return known[source]

    def _looked_up(self, source: Source, at: tuple[int, int, int]) -> float:
        memory = self.desk.memory
        return seconds(self.desk.machine.tables, memory.priced, memory.book, memory.now, source, at)

    def factor(self, step: int, unit: int, draw: int) -> float:
        """Random factor of an operation."""
        place: int = self._drawn_at[unit] + draw
        return self._drawn(step)[0][place]

    def wire(self, step: int, place: int) -> float:
        """Random factor of a transfer."""
        return self._drawn(step)[1][place]

    def more(self, step: int, unit: int, draw: int) -> float:
        """Seconds that a spike adds to an operation."""
        return self._spike(2, step, self._drawn_at[unit] + draw)

    def late(self, step: int, unit: int, draw: int) -> float:
        """Seconds that a spike adds to the post of an operation's rows."""
        return self._spike(3, step, self._drawn_at[unit] + draw)

    def _spike(self, which: int, step: int, place: int) -> float:
        seconds = self._drawn(step)[which]
        return seconds[place] if seconds else 0.0

    def sequences(self, unit: int, micro_batch: int) -> int:
        """Sequences of a unit in a micro-batch."""
        return int(self.desk.book.lanes[unit * self.cell.micro_batches + micro_batch, seats.RANK_ROWS])

    def tokens(self, batch: int) -> int:
        """Sequences of a micro-batch over all units."""
        return int(self.desk.memory.now.tokens[batch])

    def at(self, time: float, unit: int) -> simpy.Event:
        """The moment of a boundary's end; ties are served by unit, after every other event of that time."""
        return Moment(self.env, max(0.0, time - self.env.now), 2 + unit)

    def trace(self, step: int) -> Trace:
        """Where the step's operations are noted."""
        if step not in self._traces:
            self._traces[step] = blank_trace(self.cell)
        return self._traces[step]

    def _drawn(self, step: int) -> tuple[list[float], ...]:
        """All draws of a step as lists: scalars are read one by one here. Two steps are alive at once."""
        if step not in self._factors:
            self._factors.pop(step - 2, None)
            variation, steps = self.cell.variation, range(step, step + 1)
            wires = self.desk.heard(variation.transfers(steps))
            drawn = (variation.operations(steps), wires, *self.desk.spikes(steps))
            self._factors[step] = tuple(each.tolist() for each in drawn)
        return self._factors[step]

    # what they report ------------------------------------------------------------------------------------------------

    def boundary(self, turn: Turn, unit: int, span: tuple[float, float]) -> None:
        """A boundary ends now: tokens are out, requests leave and join."""
        (step, place), schedule = turn, self.cell.schedule
        each = schedule.turns[place]
        assert isinstance(each, Boundary)
        trace, index = self.trace(step), schedule.at[place] + unit - each.units.start
        trace.start[index], trace.finish[index] = span
        if self.desk.ends < FOREVER or span[1] > self.desk.book.clock[seats.STRIKES_AT]:
            return
        if self.desk.short:
            self.desk.draw_more()
        if self.desk.full:
            self.desk.extend_rows()
        machine, memory = self.desk.machine, self.desk.memory
        lane = unit * self.cell.micro_batches + each.micro_batch
        turn_over(machine.places, machine.asked, memory.book, lane, step, span[1])
        assert memory.book.ranks[:, seats.KV_FREE].min() >= 0.0, "KV cache is overdrawn"
        if self.desk.ends == FOREVER:
            measure(machine.places, machine.tables, memory.book, memory.now, lane)
            self._known[lane].clear()

    def carried(self, step: int, port: Port, nbytes: float) -> None:
        """A message has passed a port."""
        row = self._carried.setdefault(step, {}).setdefault(port, [0, 0.0])
        row[0] += 1
        row[1] += nbytes

    def opened(self, step: int) -> None:
        """A unit has passed all boundaries of the step; the last one closes the books of the step before."""
        units = self._opened[step] = self._opened.get(step, 0) + 1
        if units < self.cell.seated:
            return
        del self._opened[step]
        stops = self.desk.halts(self.trace(step))
        self._book(step - 1, completed=not (stops and self.desk.crashed))
        lanes = self.desk.book.lanes[:, seats.RANK_ROWS].reshape(self.cell.seated, -1)
        for unit, empty in enumerate((lanes.sum(axis=1) == 0).tolist()):
            self._idle[unit] = AWAY if self._idle[unit] == AWAY else int(empty)
        if self.desk.ends < FOREVER:
            self._stop.succeed()
        elif stops:
            self._stopped = step
            self.desk.price()
            self._stop.succeed()
        elif self.desk.book.count[seats.ACTIVE] == 0 and self.cell.refuses is None:
            self._park(step)
        elif self._closing.ends(self.desk.opened(self._traces[step])):
            self._stop.succeed()
        else:
            self.desk.price()

    def _park(self, step: int) -> None:
        """Nothing is active: skip this step's layers and start again when there is work."""
        self._skipped = step
        self._pipeline.retired = True
        start = self.desk.park(self._traces[step])
        if self.desk.parked or self.desk.dozing:
            self._stop.succeed()
        else:
            self._idle = self.desk.memory.state.idle.tolist()
            self.env.process(self._wake(step + 1, start))

    def _wake(self, step: int, start: float) -> Steps:
        yield self.env.timeout(max(0.0, start - self.env.now))
        self._pipeline = Pipeline(self.env, self.cell, self, step, start)

    def _book(self, step: int, *, completed: bool = True) -> None:
        """Close the books of a step; `completed`: whether all units have passed the boundaries that end it."""
        trace, carried = self._traces.pop(step, None), self._carried.pop(step, {})
        if trace is None or step == self._skipped:
            return
        if completed:
            self._completed.append(step)
        if self._observer is not None:
            self._observer(step, trace if self.desk.still is None else self.desk.seen(trace))
        for port, (messages, nbytes) in carried.items() if completed else ():
            row = self._traffic.setdefault(port, [0, 0.0])
            row[0] += messages
            row[1] += nbytes
        clock = self.desk.book.clock
        opens, until = float(clock[seats.WARM_AT]), float(clock[seats.STRIKES_AT])
        close(self._lines, trace, self.desk.memory.ledger, self._idle, opens, until)
        if step != self._stopped:
            keep(self.desk.memory.samples, trace, step)
        if self._progress is not None:
            self._progress(self.desk.progress)
