"""A run by the recurrence: draws the factors of a block of steps, runs it in one call, sees to why it came back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from afdsim.engine.cell import Cell
from afdsim.engine.closing import Closing
from afdsim.engine.desk import Demand, Desk, Observer, Progress
from afdsim.engine.native import compiled
from afdsim.engine.normals import sooner
from afdsim.engine.record import Record
from afdsim.engine.recurrence import (
    CLOSING,
    DONE,
    ENDED,
    IDLE,
    MORE_PRICES,
    MORE_REQUESTS,
    MORE_ROWS,
    PAUSED,
    STOPPED,
    Noise,
)
from afdsim.engine.schedule import INDEX
from afdsim.engine.seats import FOREVER, KV_FREE, OPENED_AT, PAUSES_AT
from afdsim.errors import StoppedEarly

Array = np.ndarray
BLOCK_FACTORS = 60_000
"""Random factors that are drawn for one call of the compiled steps."""
MOST_STEPS = 64


class Blocks:
    """One simulation of a cell under a demand, in compiled steps."""

    def __init__(self, cell: Cell, demand: Demand, *, progress: Progress = None, observer: Observer = None) -> None:
        self.cell, self.desk = cell, Desk(cell, demand)
        self._progress, self._observer = progress, observer
        self._run, self._populate, normals = compiled()
        self._variation = replace(cell.variation, normals=sooner(normals))
        self._closing = Closing(self.desk)
        self._completed: list[tuple[int, int]] = []
        """Half-open ranges of completed steps."""
        self._opened = False
        """Whether the boundaries of the next step are over."""
        self._step = 0
        """The next step."""
        self._noise: Noise | None = None
        self._until = 0
        """Step behind those whose factors are drawn."""
        self._idle_steps = self._broken_steps = 0

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
        self.desk.begin(self._populate)

    def wake(self) -> None:
        """Go on: somebody is known to come."""
        self.desk.wake()
        self._forget()

    def advance(self, until: float) -> None:
        """Run as long as boundaries end before `until`, somebody is known to come, and the run has not ended."""
        self.desk.book.clock[PAUSES_AT] = until
        why = DONE
        while self.desk.ends == FOREVER and not self.desk.dozing and why != PAUSED:
            why, self._step = self._block(self._step)
            if self._progress is not None:
                self._progress(self.desk.progress)

    def outlast(self, until: float) -> None:
        """Stand idle until then: others go on."""
        self.desk.outlast(until, self.desk.memory.trace)

    @property
    def due(self) -> float:
        """Before when nothing happens, if nobody comes."""
        if self.desk.ends < FOREVER or self.desk.dozing:
            return FOREVER
        state = self.desk.memory.state
        return float(min(state.end[: self.cell.seated].tolist())) if state.left[0] else 0.0

    def _block(self, first: int) -> tuple[int, int]:
        """Run a block of steps; returns why it ended and the step to go on with."""
        desk, noise = self.desk, self._factors(first)
        why, step = self._run(desk.machine, desk.memory, desk.supply, noise, (first, self._until), self._opened)
        assert desk.book.ranks[:, KV_FREE].min() >= 0.0, "KV cache is overdrawn"
        self._opened = why in {MORE_PRICES, CLOSING}
        if step > first:
            self._complete(first, int(step))
            if self._observer is not None:
                self._observer(first, desk.seen(desk.memory.trace))
        match why:
            case _ if why == MORE_REQUESTS:
                desk.draw_more()
            case _ if why == MORE_ROWS:
                desk.extend_rows()
            case _ if why == MORE_PRICES:
                desk.price()
            case _ if why == CLOSING:
                self._closing.ends(float(desk.book.clock[OPENED_AT]))
            case _ if why == IDLE:
                self._idle_steps += 1
                desk.park(desk.memory.trace)
                self._forget()
                return why, int(step) + 1
            case _ if why == STOPPED:
                self._broken(int(step) - 1)
            case _:
                assert why in (DONE, ENDED, PAUSED), why
        return why, int(step)

    def _complete(self, first: int, end: int) -> None:
        """Note that steps are completed, in one range with those right before them."""
        if self._completed and self._completed[-1][1] == first:
            first, _ = self._completed.pop()
        self._completed.append((first, end))

    def _broken(self, step: int) -> None:
        """The cell has stopped in a step: it is not completed, and the one before only if all its boundaries stand."""
        last = step - 1 if self.desk.crashed else step
        self._completed = [(first, min(end, last)) for first, end in self._completed]
        self._broken_steps += 1
        self.desk.fall(step, self.desk.memory.trace)
        self._forget()

    def _forget(self) -> None:
        """Draw anew behind a pause in which an outage may have come and gone: who is away draws nothing."""
        if self.desk.still is not None:
            self._noise = None

    def _factors(self, first: int) -> Noise:
        """Factors of the next steps, drawn some steps at a time."""
        if self._noise is None or first >= self._until:
            self._noise = self._drawn(first)
        return self._noise

    def _drawn(self, first: int) -> Noise:
        """Factors of the next steps."""
        variation = self._variation
        computes, wires = int(variation.units[-1]), int(variation.pairs[-1])
        varies = computes * variation.jitters, wires * (variation.link > 0)
        each = sum(varies)
        steps = 1 if self._observer else max(1, min(MOST_STEPS, BLOCK_FACTORS // each)) if each else MOST_STEPS
        self._until = first + steps
        drawn = range(first, self._until)
        more, late = self.desk.spikes(drawn)
        return Noise(
            compute=variation.operations(drawn),
            wire=self.desk.heard(variation.transfers(drawn)),
            compute_stride=INDEX(varies[0]),
            wire_stride=INDEX(varies[1]),
            more=more,
            late=late,
            first=first,
        )

    def record(self) -> Record:
        steps = [np.arange(first, last) for first, last in self._completed]
        opened = sum(map(len, steps)) + self._idle_steps + self._broken_steps + (not self.desk.parked)
        record = self.desk.record(
            steps=np.concatenate(steps) if steps else np.zeros(0, dtype=np.int64),
            events=opened * self.cell.seated * self.cell.micro_batches,
            traffic={},
        )
        return self._closing.signed(record)
