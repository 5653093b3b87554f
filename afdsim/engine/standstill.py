"""The cell stands still: what an outage makes of the books, the resources and the requests of a run.

Up to the crash everything is booked as it was; from then until the cell goes on every unit is `down`. When it does, all
resources are free, nothing is on its way, and whoever is away computes nothing: seats on its units stay empty, its
experts are skipped (fewer answer; what that does to the quality of the output is not modelled), and messages to and
from it are empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from afdsim.engine import seats
from afdsim.engine.books import (
    AT_PEER,
    AWAY,
    BUSY,
    DOWN,
    NO_WORK,
    OUTAGE,
    WAIT_PEER,
    Ledger,
    Lines,
    clear,
    forget,
    settle,
)
from afdsim.engine.cell import Cell
from afdsim.engine.faults import Failing, Hit, Outage, Outages
from afdsim.engine.interruption import Rules, Stay, interrupt
from afdsim.engine.recurrence import Machine, Memory
from afdsim.engine.seats import FOREVER

Array = np.ndarray


class Standstill:
    """The outages of one run."""

    def __init__(self, cell: Cell, failing: Failing, horizon: float) -> None:
        self.cell, self.failing, self.horizon = cell, failing, horizon
        self.outages = Outages(failing=failing, horizon=horizon)
        self.log: list[tuple[Outage, Hit]] = []
        self.stays: list[Stay] = []
        self.muted: Array | None = None
        """0 for the factors of transfers to and from who is away, else 1; None where all are there."""
        self.posts: Array | None = None
        """The same for the posts of every unit's operations."""
        self._emitted = 0

    @property
    def resumed(self) -> float:
        """When the latest outage ended, or the run in it; 0 before the first."""
        return min(self.log[-1][0].resumed, self.horizon) if self.log else 0.0

    @property
    def halts(self) -> float:
        """When a cell in which nothing is in flight stops next."""
        return min(self.outages.strikes, self.outages.returns)

    def arm(self, clock: Array) -> None:
        """Let the engines know when the cell stops next."""
        clock[seats.STRIKES_AT], clock[seats.RETURNS_AT] = self.outages.strikes, self.outages.returns

    def begin(self, machine: Machine, memory: Memory, at: float, reached: Array) -> float:
        """The cell stops, with everything booked until then: returns when it goes on, or ends the run.

        `reached` is the latest step whose boundary a lane has passed (lane,).
        """
        book, count = memory.book, memory.book.count
        wanted = bool(count[seats.ACTIVE] or count[seats.QUEUE])
        outage = self.outages.begin(at)
        hit = interrupt(machine.places, machine.asked, book, reached, self._rules(outage), self.stays)
        memory.now.tokens[:] = 0
        memory.now.base[:] = 0.0
        ends = self._ends(machine, memory, outage)
        self.outages.endure(at, served=not wanted or count[seats.BOUNDARIES] > self._emitted)
        self._emitted = int(count[seats.BOUNDARIES])
        self.log.append((outage._replace(crashes=tuple(each for each in outage.crashes if each.at <= ends)), hit))
        if ends < FOREVER:
            book.clock[seats.ENDS_AT] = ends
        resumed = min(outage.resumed, ends)
        spend(machine.lines, memory.ledger, resumed, np.full(self.cell.schedule.units, DOWN))
        self._refit(machine, memory, resumed)
        self.arm(book.clock)
        return resumed

    def _rules(self, outage: Outage) -> Rules:
        failed = self._units({crash.instance for crash in outage.crashes})[: self.cell.seated]
        away = self._units(self.outages.away)[: self.cell.seated]
        return Rules(failed | (not self.failing.keeps), away, outage.at, outage.resumed, self.failing.pace)

    def _ends(self, machine: Machine, memory: Memory, outage: Outage) -> float:
        """When the run ends in the outage, because nobody is left or at the horizon; else never."""
        asked, count = machine.asked, memory.book.count
        if count[seats.OUTSTANDING] == 0 and count[seats.COUNT_COUNTED] >= asked.num_requests:
            latest = max((crash.at for crash in outage.crashes), default=outage.at)
            return latest if self.failing.keeps else outage.at
        return asked.horizon if outage.resumed > asked.horizon else FOREVER

    def _units(self, instances: Any) -> Array:
        """Mark the units of some instances (u,)."""
        marked = np.zeros(self.cell.schedule.units, dtype=bool)
        for index in instances:
            marked[self.failing.instances[index].units] = True
        return marked

    def _refit(self, machine: Machine, memory: Memory, resumed: float) -> None:
        """Everything is free from `resumed` on, and whoever is away takes no time and no bytes."""
        state, ledger, away = memory.state, memory.ledger, self._units(self.outages.away)
        for free in (state.free, state.inbox, state.egress, state.ingress, state.hops, ledger.booked):
            free[...] = resumed
        forget(ledger.past, resumed)
        state.idle[:] = np.where(away, AWAY, 0)
        spare = memory.priced.values.shape[1] - 1
        machine.tables.place[:] = np.where(away, spare, self.cell.tables.place)
        self.muted = self._heard(away) if away.any() else None
        self.posts = np.repeat(1.0 - away, np.diff(self.cell.variation.units)) if away.any() else None

    def _heard(self, away: Array) -> Array:
        """1 for the factors of transfers between units that are there, 0 for the others."""
        wiring, variation = self.cell.wiring, self.cell.variation
        heard = np.ones(max(int(variation.pairs[-1]), 1))
        taking = wiring.order.tolist()
        copies = [(int(x), leg[0]) for leg in wiring.leaving.tolist() for x in range(leg[2], leg[3])]
        copies += [(taking[x], leg[0]) for leg in wiring.arriving.tolist() for x in range(leg[2], leg[3])]
        for x, unit in copies:
            if away[unit]:
                first = int(wiring.draw[x])
                heard[first : first + variation.wires[0].draws] = 0.0
        return heard

    def finish(self, machine: Machine, memory: Memory, paused: float, ends: float) -> None:
        """Book the time from the latest pause until the run ended, if no step was done in it.

        Units with requests were at the first operations of their step, the others waited for them.
        """
        ledger, idle = memory.ledger, memory.state.idle
        if ends <= paused or not (ledger.end == paused).all():
            return
        rows = memory.book.lanes[:, seats.RANK_ROWS].reshape(self.cell.seated, -1).sum(axis=1)
        cause = np.full(len(idle), WAIT_PEER)
        cause[: self.cell.seated] = np.where(rows > 0, BUSY, NO_WORK)
        spend(machine.lines, ledger, ends, np.where(idle == AWAY, DOWN, cause))

    def heard(self, factors: Array) -> Array:
        """Factors of the transfers of some steps, without those of who is away."""
        return _masked(factors, self.muted)

    def late(self, seconds: Array) -> Array:
        """Seconds by which posts of some steps are late, without those of who is away."""
        return _masked(seconds, self.posts)


def _masked(draws: Array, mask: Array | None) -> Array:
    """The draws of some steps times the mask of one."""
    return draws if mask is None else (draws.reshape(-1, len(mask)) * mask).reshape(-1)


def fragile(machine: Machine, memory: Memory) -> tuple[Machine, Memory]:
    """The same with places that may change, and one more price, nothing, which those who are away look up."""
    tables, priced = machine.tables, memory.priced
    values = np.hstack([priced.values, np.zeros((len(priced.values), 1))])
    machine = machine._replace(tables=tables._replace(place=tables.place.copy()))
    return machine, memory._replace(priced=priced._replace(values=values))


def spend(lines: Lines, ledger: Ledger, until: float, cause: Array) -> None:
    """Book the time of every unit up to `until` under one cause each; whoever waits then waits for who crashed."""
    for unit in range(len(ledger.booked)):
        settle(ledger, unit)
        clear(ledger, unit)
        ledger.row[unit, cause[unit]] = until - ledger.end[unit]
        if cause[unit] == WAIT_PEER:
            part = lines.part[lines.start[np.searchsorted(lines.units, unit, "right") - 1]]
            ledger.charged[ledger.columns[unit] + [OUTAGE, part + AT_PEER]] = until - ledger.end[unit]
    ledger.begin[:] = ledger.end
    ledger.end[:] = until
