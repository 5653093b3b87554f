"""What both engines share of a run: flat constants and memory, requests when they are needed, pauses, the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np

from afdsim.engine import books, culprits, prefixes, seats, sessions
from afdsim.engine.blank import machine, memory
from afdsim.engine.books import AWAY, BLOCK, BUSY, DOWN, NO_WORK, WAIT_PEER, Ledger, Trace, clear, forget, settle
from afdsim.engine.capacity import fits, too_long
from afdsim.engine.cell import Cell
from afdsim.engine.faults import Failing
from afdsim.engine.interruption import earliest
from afdsim.engine.record import Boundaries, Chunks, Conversed, Record, Requests, Stays
from afdsim.engine.recurrence import Supply
from afdsim.engine.samples import taken
from afdsim.engine.schedule import COMPUTE, Boundary
from afdsim.engine.seats import FOREVER, NOBODY, UNBOUNDED, UNCOUNTED, Asked, Book
from afdsim.engine.standstill import Standstill, fragile, spend
from afdsim.engine.turnover import full, lacks_chunks, lacks_rows, lacks_stays
from afdsim.workload.laws import RequestSource
from afdsim.workload.prefixes import Listed, Prefixes, Samples
from afdsim.workload.sessions import Plan, Sessions

Array = np.ndarray
Progress = Callable[[float], None] | None
"""Told the share of the counted requests that has ended; may raise `StoppedEarly`, and the run ends where it is."""
Observer = Callable[[int, Trace], None] | None
"""Called with every completed step and its trace."""
NEVER = float("nan")
MOST_REFUSALS = 10_000
"""Requests in a row that may be too long for any rank before a closed loop gives up."""
AHEAD = 4096
"""Requests of a closed loop that are drawn at least."""
FEWEST = 1024
"""Sessions of a closed loop that are drawn at least."""
SUBMITTED = 64
"""Requests of a router that there is room for at first, halved."""
BLANK = [seats.JOINED, seats.SEAT, seats.NEXT, seats.NEXT_FRESH, seats.CLAIMS_AT]
"""Columns of a request that point to nobody at first."""
SLICES = 500
"""Of the arrivals of an open loop whose warm-up is to be found."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of the deployment."""

    source: RequestSource
    closed: bool
    num_requests: int
    """Requests to count in a closed loop, to issue in an open one."""
    concurrency: int = 0
    """Requests in flight in a closed loop."""
    warmup: float | None = None
    """Seconds that do not count. None in a closed loop: until as many requests have finished as it started with; in an
    open one: all is recorded in slices, and where to begin is found afterwards."""
    horizon: float = FOREVER
    """Simulated seconds after which the run stops."""
    failing: Failing | None = None
    """What may crash, and what then happens."""
    last: float | None = None
    """When the last request of an open loop came, where prefill had it first, or when the last session opens; None
    where `source` says so."""
    routed: bool = False
    """Whether the requests of `source` are handed in one by one, by a router or by prefill servers that a closed loop
    sends its prompts to: which of them come here, and when, is not known before."""
    prefixes: Prefixes | Listed | Samples | None = None
    """Which prompts begin alike."""
    sessions: Sessions | None = None
    """Turns that follow one another; `source` then says of first turns only."""
    overloaded: Callable[[Record], bool] | None = None
    """Whether the record of an open loop up to its last arrival shows an overload; it then ends there."""
    watched: bool = False
    """Whether to note who was busy when (`engine.watch`)."""

    @cached_property
    def edges(self) -> Array:
        """Where the slices of the books begin and end, seconds: an open loop is measured up to its last arrival.

        Requests that all come at once are no load but a batch, which is measured to its end, as a closed loop is.
        """
        if self.stop is None:
            return np.array([(self.warmup or 0.0) if self.closed else 0.0, FOREVER])
        return np.array([self.given, self.stop]) if self.given is not None else np.linspace(0.0, self.stop, SLICES + 1)

    @cached_property
    def stop(self) -> float | None:
        """When the last request of an open loop arrives, seconds; None where they all come at once, at time 0."""
        last = self.last
        if last is None:
            last = 0.0 if self.closed else float(self.source.times(self.num_requests)[-1])
        return min(last, self.horizon) if last > 0 else None

    @property
    def refills(self) -> bool:
        """Whether the next request of a closed loop comes as soon as one has finished."""
        return self.closed and not self.routed

    def groups(self, count: int) -> Array:
        """Groups of the first requests whose prompts begin alike; NOBODY where none do."""
        return np.full(count, NOBODY) if self.prefixes is None else self.prefixes.first(count)

    @property
    def given(self) -> float | None:
        """The warm-up of an open loop, if one was given that ends before the last arrival."""
        return self.warmup if self.stop is not None and self.warmup is not None and self.warmup < self.stop else None

    @property
    def asked(self) -> Asked:
        """The same as numbers."""
        warmup = (-1.0 if self.warmup is None else self.warmup) if self.closed else self.given or 0.0
        counted = UNBOUNDED if self.routed else self.num_requests
        return Asked(self.refills, counted, self.concurrency, float(warmup), float(self.horizon))


class Desk:
    """The state of one run."""

    def __init__(self, cell: Cell, demand: Demand) -> None:
        self.cell, self.demand = cell, demand
        self.machine = machine(cell, demand.asked)
        self.memory = memory(cell, demand.asked, demand.edges, watched=demand.watched)
        self.supply = Supply(0, np.zeros(1, dtype=np.int64))
        self.parked = False
        """Whether the run ended in a pause."""
        self.dozing = False
        """Whether the cell waits for a router."""
        self._found_nothing: Trace | None = None
        self._paused = 0.0  # until when the latest pause lasted
        self.still: Standstill | None = None
        if demand.failing is not None:
            self.machine, self.memory = fragile(self.machine, self.memory)
            self.still = Standstill(cell, demand.failing, demand.horizon)
            self.still.arm(self.book.clock)
        boundaries = [(place, turn) for place, turn in enumerate(cell.schedule.turns) if isinstance(turn, Boundary)]
        self._boundaries = [
            [cell.schedule.at[place] + unit - turn.units.start for place, turn in boundaries if unit in turn.units]
            for unit in range(cell.seated)
        ]
        """Where a unit's boundaries stand in a trace."""

    @property
    def book(self) -> Book:
        """Requests and where they sit."""
        return self.memory.book

    @property
    def ends(self) -> float:
        """When the run ended; infinite until then."""
        return float(self.book.clock[seats.ENDS_AT])

    @property
    def progress(self) -> float:
        """Share of the counted requests that has ended."""
        count = self.book.count
        ended = count[seats.COUNT_COUNTED] - count[seats.OUTSTANDING]
        return float(ended) / max(self.demand.num_requests, 1)

    def cut(self) -> None:
        """End the run with the latest boundary: somebody wants no more."""
        rows = self.book.count[seats.BOUNDARIES]
        resumed = 0.0 if self.still is None else self.still.resumed
        self.book.clock[seats.ENDS_AT] = self.book.row_times[:rows].max(initial=resumed)

    def begin(self, populate: Callable[..., Any]) -> float:
        """Draw the first requests and fill a closed loop; returns when the first step may begin."""
        asked = self.machine.asked
        closed, count = self.demand.closed, self.book.count
        if self.demand.routed and not closed:
            self.doze(None)
            return 0.0
        wanted = asked.concurrency + 1 if closed else asked.num_requests
        if self.demand.sessions is None:
            self._lengths(wanted)
            count[seats.KNOWN] = asked.num_requests
        else:
            self._turns(self.demand.sessions, wanted)
        if closed:
            populate(self.machine.places, asked, self.book)
        if self.demand.routed:
            count[seats.KNOWN] = count[seats.ISSUED]
        self._steps(0)
        return self._rest(0.0, 0.0 if closed else min(self.next_arrival, asked.horizon), None)

    # requests --------------------------------------------------------------------------------------------------------

    @property
    def short(self) -> bool:
        """Whether a step of a closed loop might need more requests than have been drawn."""
        if not self.demand.refills:
            return False
        begun = seats.begun(self.machine.places, self.book)
        return bool(self.supply.fitting[self.supply.drawn] - self.supply.fitting[begun] < self.demand.concurrency)

    def draw_more(self) -> None:
        """Draw a quarter more requests."""
        known = len(self.book.requests)
        if self.demand.sessions is not None:
            self._turns(self.demand.sessions, self.supply.drawn * 5 // 4)
            return
        self._lengths(known * 5 // 4)
        self._steps(known)

    def _lengths(self, wanted: int) -> None:
        """Have the lengths of at least `wanted` requests, and enough that fit for one more step of a closed loop."""
        wanted = self._stock(max(wanted, AHEAD) if self.demand.closed else wanted)
        self._extend_requests(wanted, *self.demand.source.columns(wanted))

    def _stock(self, wanted: int) -> int:
        """Have at least `wanted` requests, or sessions, in store; returns how many."""
        closed, begun = self.demand.closed, seats.begun(self.machine.places, self.book)
        while True:
            input_len, output_len = self.demand.source.columns(wanted)
            fitting = np.concatenate([[0], np.cumsum(fits(self.machine.places, input_len + output_len))])
            if not closed or fitting[wanted] - fitting[begun] >= self.demand.concurrency:
                break
            if wanted > begun + MOST_REFUSALS and not fitting[-1] - fitting[begun]:
                raise too_long(self.cell.deployment, int(input_len[-1] + output_len[-1]))
            wanted *= 2
        self.supply = Supply(wanted, fitting)
        return wanted

    def _turns(self, asked: Sessions, wanted: int) -> None:
        """Have the turns of at least `wanted` sessions, in an open loop of as many as have so many requests."""
        closed, known = self.demand.closed, len(self.book.sessions.plan)
        plan = asked.plan(self._stock(max(wanted, FEWEST))) if closed else asked.first_requests(wanted)
        count, drafts = len(plan.cut), self.cell.drafts
        steps = np.zeros(len(plan), dtype=np.int64)
        steps[:known] = self.book.sessions.plan[:, sessions.STEPS]
        if drafts is not None:
            steps[known:] = [drafts.steps(turn, int(plan.output_len[turn])) for turn in range(known, len(plan))]
        starts, opens = plan.first[:-1].copy(), np.zeros(0)
        if closed:
            starts += _underway(plan, self.demand.concurrency)
        else:
            opens = self.demand.source.times(count)
        self._extend_room(len(plan))
        longer = sessions.extended(self.book.sessions, plan, steps, starts, opens)
        self.memory = self.memory._replace(book=self.book._replace(sessions=longer))

    def _extend_requests(self, wanted: int, input_len: Array, output_len: Array) -> None:
        self._extend_room(wanted)
        requests, issued = self.book.requests, self.book.count[seats.ISSUED]
        requests[:, seats.INPUT_LEN], requests[:, seats.OUTPUT_LEN] = input_len, output_len
        if self.demand.prefixes is not None:
            requests[:, seats.GROUP] = self.demand.prefixes.first(wanted)
        if isinstance(self.demand.prefixes, Samples):
            wider = prefixes.widened(self.book.prefixes, int(requests[-1, seats.GROUP]) + 1)
            self.memory = self.memory._replace(book=self.book._replace(prefixes=wider))
        if not self.demand.closed:
            self.book.times[issued:, seats.ARRIVAL] = self.demand.source.times(wanted)[issued:]

    def _extend_room(self, size: int) -> None:
        """Have room for so many requests."""
        book = self.book
        requests = extended(book.requests, size, 0)
        requests[len(book.requests) :, BLANK] = NOBODY
        times = extended(book.times, size, NEVER)
        chains = extended(book.next_filling, size * len(self.cell.windows), NOBODY)
        self.memory = self.memory._replace(book=book._replace(requests=requests, times=times, next_filling=chains))

    def _steps(self, first: int) -> None:
        """Draw the decode steps that requests from `first` on need, where a step may yield several tokens."""
        drafts, requests = self.cell.drafts, self.book.requests
        if drafts is None:
            return
        keys = range(len(requests)) if self.demand.sessions is None else requests[:, seats.GROUP].tolist()
        left = requests[:, seats.OUTPUT_LEN].copy()
        known = slice(self.book.count[seats.ISSUED])
        left[known] += requests[known, seats.INPUT_LEN] - requests[known, seats.CONTEXT]
        if self.cell.prompting.on:  # a prompt gives a token itself
            left[requests[:, seats.LEFT] > 0] -= 1
            left[known.stop :] -= 1
        last = len(requests) if self.demand.sessions is None else known.stop
        for request in range(first, last):
            requests[request, seats.DRAWN] = drafts.steps(keys[request], int(left[request]))

    @property
    def full(self) -> bool:
        """Whether a step might not find room for its boundaries."""
        return bool(full(self.machine.places, self.book))

    def extend_rows(self) -> None:
        """Double the room that a step might not find: for boundaries, stays that end early, chunks of prompts."""
        book, places = self.book, self.machine.places
        if lacks_rows(book):
            size = 2 * max(len(book.rows), len(book.lanes))
            rows, times = extended(book.rows, size, 0), extended(book.row_times, size, 0.0)
            book = book._replace(rows=rows, row_times=times)
        if lacks_stays(places, book):
            size = 2 * max(len(book.stays), int(book.count[seats.ACTIVE]))
            book = book._replace(stays=extended(book.stays, size, 0))
        if lacks_chunks(places, book):
            size = 2 * len(book.chunks)
            chunks, times = extended(book.chunks, size, 0), extended(book.chunk_times, size, 0.0)
            book = book._replace(chunks=chunks, chunk_times=times)
        self.memory = self.memory._replace(book=book)

    def price(self) -> None:
        """Have the seconds of the micro-batches as large as they are now."""
        priced, tokens = self.memory.priced, np.unique(self.memory.now.tokens)
        missing = tokens[priced.slot[tokens] < 0]
        if not len(missing):
            return
        used = int(priced.slot.max()) + 1
        values = priced.values
        if used + len(missing) > len(values):
            values = extended(values, 2 * (used + len(missing)), 0.0)
            self.memory = self.memory._replace(priced=priced._replace(values=values))
        prices = self.cell.pricing.of(missing)
        values[used : used + len(missing), : prices.shape[1]] = prices
        priced.slot[missing] = used + np.arange(len(missing))

    # pauses ----------------------------------------------------------------------------------------------------------

    @property
    def next_arrival(self) -> float:
        """When the next request of an open loop arrives; never, if there is none."""
        issued = self.book.count[seats.ISSUED]
        if self.demand.sessions is not None:
            return float(sessions.upcoming(self.book.sessions))
        if self.demand.refills:
            return 0.0
        return float(self.book.times[issued, seats.ARRIVAL]) if issued < self.book.count[seats.KNOWN] else FOREVER

    def park(self, trace: Trace) -> float:
        """Nothing is active in a step whose boundaries are over: returns when to start again, if before the horizon."""
        if self.demand.routed and self.next_arrival == FOREVER and not self.book.count[seats.QUEUE]:
            self.doze(trace)
            return self.opened(trace)
        return self._awaken(trace)

    def _awaken(self, trace: Trace | None) -> float:
        now = 0.0 if trace is None else self.opened(trace)
        start = self._rest(now, self._awakes(now), trace)
        self.parked = self.ends < FOREVER
        return start

    # by a router -----------------------------------------------------------------------------------------------------

    def doze(self, trace: Trace | None) -> None:
        """Nothing is in flight, and nobody is known to come; `trace`: of the step that found nothing to do."""
        self.dozing, self._found_nothing = True, trace

    def wake(self) -> float:
        """Somebody is known to come: returns when to start again, if before the horizon."""
        self.dozing = False
        return self._awaken(self._found_nothing)

    def submit(self, arrival: float, input_len: int, output_len: int, group: int, *, counts: bool = True) -> None:
        """Take in a request that no other precedes; `group` of prompts that begin alike, if any do."""
        known = int(self.book.count[seats.KNOWN])
        if known == len(self.book.requests):
            self._extend_room(2 * max(known, SUBMITTED))
        row = self.book.requests[known]
        row[seats.INPUT_LEN], row[seats.OUTPUT_LEN] = input_len, output_len
        row[seats.COUNTED] = 0 if counts else UNCOUNTED
        if group != NOBODY:
            row[seats.GROUP] = group
        self.book.times[known, seats.ARRIVAL] = arrival
        if self.cell.drafts is not None:
            row[seats.DRAWN] = self.cell.drafts.steps(known, output_len - self.cell.prompting.on)
        self.book.count[seats.KNOWN] = known + 1

    def dismiss(self, many: int | None = None) -> None:
        """No more requests come that count: the run ends when those (`many`, or all that are here) have ended."""
        many = int(self.book.count[seats.KNOWN]) if many is None else many
        asked = self.machine.asked._replace(num_requests=many)
        self.machine = self.machine._replace(asked=asked)

    def outlast(self, until: float, trace: Trace | None) -> None:
        """Other cells go on until then: book what is left as `no_work`, but for boundaries that found nothing to do."""
        ledger, trace = self.memory.ledger, self._found_nothing if self.dozing else trace
        ledger.edges[0] = self.book.clock[seats.WARM_AT]
        for unit in range(len(ledger.booked)):
            settle(ledger, unit)
            clear(ledger, unit)
            left = max(until - ledger.end[unit], 0.0)
            busy = min(self._heads(trace, unit), left)
            ledger.row[unit, BUSY], ledger.row[unit, NO_WORK] = busy, left - busy
        ledger.begin[:], ledger.end[:] = ledger.end, np.maximum(ledger.end, until)
        self.parked, self.dozing = self.parked or self.dozing, False
        self.book.clock[seats.ENDS_AT] = until

    def _heads(self, trace: Trace | None, unit: int) -> float:
        """Seconds of the boundaries of a step on a unit."""
        if trace is None or unit >= self.cell.seated:
            return 0.0
        places = self._boundaries[unit]
        ends, begins = (reduce(add, (each[at] for at in places), 0.0) for each in (trace.finish, trace.start))
        return float(ends - begins)  # not by sum(): from 3.12 on it rounds floats otherwise than numbers of arrays

    def opened(self, trace: Trace) -> float:
        """When the last boundary of a step ended."""
        return float(max(trace.finish[place] for places in self._boundaries for place in places))

    def _rest(self, now: float, start: float, trace: Trace | None) -> float:
        """Book the time in which nothing is in flight until `start`, or until an outage lets the cell start again."""
        while self.still is not None and (at := max(now, self.still.halts)) < min(start, self.demand.horizon):
            self.pause(at, trace)
            trace, now = None, self._stand_still(at, np.zeros(len(self.book.lanes), dtype=np.int64))
            if self.ends < FOREVER:
                return now
            start = self._awakes(now)
        if start > self.demand.horizon:
            start = max(now, self.demand.horizon)
            self.book.clock[seats.ENDS_AT] = start
        self.pause(start, trace)
        return start

    def _awakes(self, now: float) -> float:
        """When somebody may join, if nobody sits now."""
        if not self.book.count[seats.QUEUE]:
            return max(now, self.next_arrival)
        alone = self.demand.sessions is None
        if self.still is None and not self.cell.keeping.grows and alone:
            return now
        arrives = FOREVER if self.demand.refills and alone else max(now, self.next_arrival)
        return min(earliest(self.book, now), arrives)

    def pause(self, until: float, trace: Trace | None) -> None:
        """Book a pause: the boundaries that found nothing to do are `busy`, the rest is `no_work`; then all is free."""
        ledger, state = self.memory.ledger, self.memory.state
        ledger.edges[0] = self.book.clock[seats.WARM_AT]
        for unit in range(len(ledger.booked)):
            settle(ledger, unit)
            clear(ledger, unit)
            busy, left = self._heads(trace, unit), until - ledger.end[unit]
            if state.idle[unit] == AWAY:
                ledger.row[unit, DOWN] = left
            else:
                ledger.row[unit, BUSY], ledger.row[unit, NO_WORK] = busy, left - busy
        ledger.begin[:], self._paused = ledger.end, until
        forget(ledger.past, until)
        for free in (ledger.end, ledger.booked, state.inbox, state.free[COMPUTE, : self.cell.seated]):
            free[...] = until

    # outages ---------------------------------------------------------------------------------------------------------

    def halts(self, trace: Trace) -> bool:
        """Whether the cell stops in a step whose boundaries are over, at a crash before their end or at their end."""
        clock = self.book.clock
        if self.still is None or self.ends < FOREVER:
            return False
        clock[seats.OPENED_AT] = self.opened(trace)
        if seats.stops(clock):
            clock[seats.STRIKES_AT] = min(clock[seats.STRIKES_AT], clock[seats.OPENED_AT])
        return seats.stops(clock)

    @property
    def crashed(self) -> bool:
        """Whether some boundaries of the latest step lie behind a crash: the step before was not completed."""
        clock = self.book.clock
        return bool(clock[seats.OPENED_AT] > clock[seats.STRIKES_AT])

    def seen(self, trace: Trace) -> Trace:
        """A copy of what happened in a step, as far as it did before a crash."""
        until = self.book.clock[seats.STRIKES_AT]
        seen = Trace(*map(np.array, trace))
        exchanges = (seen.first, seen.last, seen.second, seen.posted, seen.ended, seen.arrived)
        for times in (seen.start, seen.finish, *exchanges):
            np.minimum(times, until, out=times)
        return seen

    def heard(self, factors: Array) -> Array:
        """Random factors of the transfers of some steps, 0 of those to and from who is away."""
        return factors if self.still is None else self.still.heard(factors)

    def spikes(self, steps: range) -> tuple[Array, Array]:
        """Seconds that spikes add to operations, and to posts: who is away posts nothing late."""
        more, late = self.cell.variation.spikes(steps)
        return more, late if self.still is None else self.still.late(late)

    def fall(self, step: int, trace: Trace) -> float:
        """The cell has stopped in a step that is booked up to then: returns when it goes on."""
        at = float(self.book.clock[seats.STRIKES_AT])
        spend(self.machine.lines, self.memory.ledger, at, np.choose(self.memory.state.idle, (WAIT_PEER, NO_WORK, DOWN)))
        passed = [trace.finish[place] <= at for places in self._boundaries for place in places]
        return self._stand_still(at, np.where(passed, step, step - 1))

    def _stand_still(self, at: float, reached: Array) -> float:
        while self.short:
            self.draw_more()
        assert self.still is not None
        self._paused = self.still.begin(self.machine, self.memory, at, reached)
        return self._paused

    # the end ---------------------------------------------------------------------------------------------------------

    def record(self, *, steps: Array, events: int, traffic: dict[Any, list[float]]) -> Record:
        """What the run leaves behind."""
        if self.still is not None:
            self.still.finish(self.machine, self.memory, self._paused, self.ends)
        edges, slices, blame = self._sliced()
        own = self.book.ranks[:, seats.OWN].reshape(self.cell.seated, self.cell.ranks)
        longest = self.memory.now.longest[:, None]
        stays = self.book.stays[: self.book.count[seats.STAYS]].tolist()
        return Record(
            requests=self._requests(),
            stays=Stays.of(stays if self.still is None else self.still.stays),
            sessions=None if self.demand.sessions is None else self._conversed(self.demand.sessions),
            outages=None if self.still is None else tuple(self.still.log),
            prefixes=self.book.prefixes.tally.tolist(),
            unfelt=() if self.still is None else tuple(self.still.outages.unfelt),
            boundaries=self._rows(),
            chunks=self._chunks() if self.cell.prompting.on else None,
            edges=edges,
            ended=self.ends,
            slices=slices,
            blame=blame,
            columns=culprits.columns(self.cell),
            samples=taken(self.memory.samples),
            watch=books.watched(self.memory.ledger, self.ends),
            own=np.minimum(np.divide(own, longest, out=np.ones_like(own), where=longest > 0), 1.0),
            traffic=traffic,
            steps_run=steps,
            events=events,
        )

    def _sliced(self) -> tuple[Array, Array, Array]:
        """Edges, sums of the slices and blame of their blocks, with the latest row of every unit stretched to the end.

        A run that was never warm is one slice.
        """
        ledger, ends = self.memory.ledger, self.ends
        edges, slices = ledger.edges.copy(), ledger.slices
        edges[0] = self.book.clock[seats.WARM_AT]
        known = min(int(np.searchsorted(edges, ends)), len(slices))  # fewer where the run ended before the last arrival
        edges, slices, blocks = np.append(edges[:known], min(edges[-1], ends)), slices[:known], ledger.blocks
        if not known:
            edges, slices, blocks = np.array([0.0, ends]), ledger.run[np.newaxis], ledger.charges[np.newaxis]
        inside = _inside(ledger, edges)
        shares = np.add.reduceat(inside[..., 0], np.arange(0, len(inside), BLOCK))
        latest = ledger.charged * shares[:, culprits.columns(self.cell)[:, 0]]
        return edges, slices + ledger.row * inside, blocks[: len(shares)] + latest

    def _requests(self) -> Requests:
        issued = self.book.count[seats.ISSUED]
        whole, times = self.book.requests[:issued], self.book.times[:issued]
        short = {
            name: whole[:, getattr(seats, name.upper())].astype(np.int32)
            for name in ("input_len", "output_len", "context", "joined", "seat", "needs", "preempted", "group", "hit")
        }
        flags = {name: whole[:, getattr(seats, name.upper())].astype(bool) for name in ("counted", "refused")}
        real = {
            name: times[:, getattr(seats, name.upper())].copy()
            for name in ("arrival", "admitted", "first_token", "finish", "lost")
        }
        return Requests(**short, **flags, **real)

    def _conversed(self, asked: Sessions) -> Conversed:
        told, turn = self.book.sessions, self.book.requests[: self.book.count[seats.ISSUED], seats.GROUP]
        session, tally = told.plan[turn, sessions.SESSION], told.tally
        plan = asked.plan(len(told.starts))
        cut = int(plan.cut[: tally[sessions.OPENED]].sum())
        return Conversed(session=session, turn=turn - plan.first[session], cut=cut, tally=tally.tolist())

    def _rows(self) -> Boundaries:
        count = self.book.count[seats.BOUNDARIES]
        step, micro_batch, unit, batch, gaps = self.book.rows[:count].T.copy()
        time = self.book.row_times[:count]
        return Boundaries(step=step, micro_batch=micro_batch, unit=unit, time=time, batch=batch, gaps=gaps)

    def _chunks(self) -> Chunks:
        count = self.book.count[seats.CHUNKS]
        names = ("request", "seat", "step", "tokens", "before", "ends")
        own = dict(zip(names, self.book.chunks[:count].T.copy(), strict=True))
        return Chunks(**own | {"ends": own["ends"] > 0}, time=self.book.chunk_times[:count].copy())


def _inside(ledger: Ledger, edges: Array) -> Array:
    """Part of every unit's latest row in every slice (slice, unit, 1)."""
    length = ledger.end - ledger.begin
    covered = np.maximum(edges[1:, np.newaxis] - np.maximum(ledger.begin, edges[:-1, np.newaxis]), 0.0)
    share: Array = np.divide(covered, length, out=np.zeros_like(covered), where=length > 0)
    return share[..., np.newaxis]


def _underway(plan: Plan, concurrency: int) -> Array:
    """Turns that the sessions with which a closed loop begins have behind them, evenly spread (session,)."""
    turns, place = np.diff(plan.first), np.arange(len(plan.cut))
    behind = (2 * place + 1) * turns // (2 * concurrency)
    return np.where(place < concurrency, behind, 0)


def extended(column: Array, size: int, blank: Any) -> Array:
    """The array with room for `size` entries; new ones are `blank`. Zeros take no memory before they are written."""
    shape = (size, *column.shape[1:])
    grown = np.full(shape, blank, dtype=column.dtype) if blank else np.zeros(shape, dtype=column.dtype)
    grown[: len(column)] = column
    return grown
