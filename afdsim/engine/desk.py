"""What both engines share of a run: flat constants and memory, requests when they are needed, pauses, the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.network import Wiring
from afdsim.engine import seats
from afdsim.engine.books import AWAY, BUSY, DOWN, NO_WORK, WAIT_PEER, WIDTH, Ledger, Trace, settle
from afdsim.engine.cell import Cell
from afdsim.engine.faults import Failing
from afdsim.engine.interruption import earliest
from afdsim.engine.record import Boundaries, Record, Requests, Stays
from afdsim.engine.recurrence import Flight, Machine, Memory, State, Supply
from afdsim.engine.schedule import COMPUTE, INDEX, Boundary
from afdsim.engine.seats import FOREVER, NOBODY, UNBOUNDED, Asked, Book, Places
from afdsim.engine.standstill import Standstill, fragile, spend
from afdsim.engine.tables import Now, Priced
from afdsim.errors import CapacityError
from afdsim.units import show_bytes
from afdsim.workload.laws import RequestSource

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
RESOURCES = 3
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
    overloaded: Callable[[Record], bool] | None = None
    """Whether the record of an open loop up to its last arrival shows an overload; it then ends there."""

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
        last = 0.0 if self.closed else float(self.source.times(self.num_requests)[-1])
        return min(last, self.horizon) if last > 0 else None

    @property
    def given(self) -> float | None:
        """The warm-up of an open loop, if one was given that ends before the last arrival."""
        return self.warmup if self.stop is not None and self.warmup is not None and self.warmup < self.stop else None

    @property
    def asked(self) -> Asked:
        """The same as numbers."""
        warmup = (-1.0 if self.warmup is None else self.warmup) if self.closed else self.given or 0.0
        return Asked(self.closed, self.num_requests, self.concurrency, float(warmup), float(self.horizon))


class Desk:
    """The state of one run."""

    def __init__(self, cell: Cell, demand: Demand) -> None:
        self.cell, self.demand = cell, demand
        self.machine = machine(cell, demand.asked)
        self.memory = memory(cell, demand.asked, demand.edges)
        self.supply = Supply(0, np.zeros(1, dtype=np.int64))
        self.parked = False
        """Whether the run ended in a pause."""
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
        self._lengths(asked.concurrency + 1 if asked.closed else asked.num_requests)
        if asked.closed:
            populate(self.machine.places, asked, self.book)
        self._steps(0)
        return self._rest(0.0, min(self.next_arrival, asked.horizon), None)

    # requests --------------------------------------------------------------------------------------------------------

    @property
    def short(self) -> bool:
        """Whether a step of a closed loop might need more requests than have been drawn."""
        left = self.supply.fitting[self.supply.drawn] - self.supply.fitting[self.book.count[seats.ISSUED]]
        return self.demand.closed and bool(left < self.demand.concurrency)

    def draw_more(self) -> None:
        """Draw a quarter more requests."""
        known = len(self.book.requests)
        self._lengths(known * 5 // 4)
        self._steps(known)

    def _lengths(self, wanted: int) -> None:
        """Have the lengths of at least `wanted` requests, and enough that fit for one more step of a closed loop."""
        book, closed = self.book, self.demand.closed
        wanted = max(wanted, AHEAD) if closed else wanted
        while True:
            input_len, output_len = self.demand.source.columns(wanted)
            fitting = np.concatenate([[0], np.cumsum(self._fits(input_len + output_len))])
            if not closed or fitting[wanted] - fitting[book.count[seats.ISSUED]] >= self.demand.concurrency:
                break
            if (
                wanted > book.count[seats.ISSUED] + MOST_REFUSALS
                and not fitting[-1] - fitting[book.count[seats.ISSUED]]
            ):
                raise too_long(self.cell.deployment, int(input_len[-1] + output_len[-1]))
            wanted *= 2
        self.supply = Supply(wanted, fitting)
        self._extend_requests(wanted, input_len, output_len)

    def _extend_requests(self, wanted: int, input_len: Array, output_len: Array) -> None:
        book, issued = self.book, self.book.count[seats.ISSUED]
        requests = extended(book.requests, wanted, 0)
        blank = [seats.JOINED, seats.SEAT, seats.NEXT, seats.NEXT_FRESH]
        requests[len(book.requests) :, blank] = NOBODY
        requests[:, seats.INPUT_LEN], requests[:, seats.OUTPUT_LEN] = input_len, output_len
        times = extended(book.times, wanted, NEVER)
        if not self.demand.closed:
            times[issued:, seats.ARRIVAL] = self.demand.source.times(wanted)[issued:]
        chains = extended(book.next_filling, wanted * len(self.cell.windows), NOBODY)
        self.memory = self.memory._replace(book=book._replace(requests=requests, times=times, next_filling=chains))

    def _steps(self, first: int) -> None:
        """Draw the decode steps that requests from `first` on need, where a step may yield several tokens."""
        drafts, requests = self.cell.drafts, self.book.requests
        if drafts is None:
            return
        left = requests[:, seats.OUTPUT_LEN].copy()
        known = slice(self.book.count[seats.ISSUED])
        left[known] += requests[known, seats.INPUT_LEN] - requests[known, seats.CONTEXT]
        for request in range(first, len(requests)):
            requests[request, seats.DRAWN] = drafts.steps(request, int(left[request]))

    def _fits(self, context: Array) -> Array:
        places = self.machine.places
        total = np.full(len(context), places.kv_fixed)
        for per_token, window in zip(places.kv_per_token, places.windows, strict=True):
            total += per_token * np.minimum(context, window)
        return total <= places.kv_budget

    @property
    def full(self) -> bool:
        """Whether a step might not find room for its boundaries."""
        return bool(self.book.count[seats.BOUNDARIES] + len(self.book.lanes) > len(self.book.rows))

    def extend_rows(self) -> None:
        """Double the room for boundaries."""
        book, size = self.book, 2 * max(len(self.book.rows), len(self.book.lanes))
        rows, times = extended(book.rows, size, 0), extended(book.row_times, size, 0.0)
        self.memory = self.memory._replace(book=book._replace(rows=rows, row_times=times))

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
        if self.demand.closed:
            return 0.0
        return float(self.book.times[issued, seats.ARRIVAL]) if issued < self.demand.num_requests else FOREVER

    def park(self, trace: Trace) -> float:
        """Nothing is active in a step whose boundaries are over: returns when to start again, if before the horizon."""
        now = self.opened(trace)
        start = self._rest(now, self._awakes(now), trace)
        self.parked = self.ends < FOREVER
        return start

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
        if self.still is None:
            return now
        arrives = FOREVER if self.demand.closed else max(now, self.next_arrival)
        return min(earliest(self.book, now), arrives)

    def pause(self, until: float, trace: Trace | None) -> None:
        """Book a pause: the boundaries that found nothing to do are `busy`, the rest is `no_work`; then all is free."""
        ledger, state = self.memory.ledger, self.memory.state
        ledger.edges[0] = self.book.clock[seats.WARM_AT]
        for unit in range(len(ledger.booked)):
            settle(ledger, unit)
            busy = 0.0
            if trace is not None and unit < self.cell.seated:
                places = self._boundaries[unit]
                busy = sum(trace.finish[place] for place in places) - sum(trace.start[place] for place in places)
            ledger.row[unit] = 0.0
            ledger.row[unit, BUSY], ledger.row[unit, NO_WORK] = busy, until - ledger.end[unit] - busy
            if state.idle[unit] == AWAY:
                ledger.row[unit] = 0.0
                ledger.row[unit, DOWN] = until - ledger.end[unit]
        ledger.begin[:], self._paused = ledger.end, until
        for free in (ledger.end, ledger.booked, ledger.sent, state.inbox, state.free[COMPUTE, : self.cell.seated]):
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
        start, finish, first, last = (
            np.minimum(times, until) for times in (trace.start, trace.finish, trace.first, trace.last)
        )
        return Trace(start, finish, np.array(trace.held), np.array(trace.early), first, last)

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
        spend(self.memory.ledger, at, np.choose(self.memory.state.idle, (WAIT_PEER, NO_WORK, DOWN)))
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
            self.still.finish(self.memory, self._paused, self.ends)
        edges, slices = self._sliced()
        own = self.book.ranks[:, seats.OWN].reshape(self.cell.seated, self.cell.ranks)
        longest = self.memory.now.longest[:, None]
        stays = [] if self.still is None else self.still.stays
        return Record(
            requests=self._requests(),
            stays=Stays.of(stays),
            outages=None if self.still is None else tuple(self.still.log),
            unfelt=() if self.still is None else tuple(self.still.outages.unfelt),
            boundaries=self._rows(),
            edges=edges,
            ended=self.ends,
            slices=slices,
            own=np.minimum(np.divide(own, longest, out=np.ones_like(own), where=longest > 0), 1.0),
            traffic=traffic,
            steps_run=steps,
            events=events,
        )

    def _sliced(self) -> tuple[Array, Array]:
        """Edges and sums of the slices, the latest row of every unit stretched to the end; a run never warm is one."""
        ledger, ends = self.memory.ledger, self.ends
        edges, slices = ledger.edges.copy(), ledger.slices
        edges[0] = self.book.clock[seats.WARM_AT]
        known = min(int(np.searchsorted(edges, ends)), len(slices))  # fewer where the run ended before the last arrival
        edges, slices = np.append(edges[:known], min(edges[-1], ends)), slices[:known]
        if not known:
            edges, slices = np.array([0.0, ends]), ledger.run[np.newaxis]
        return edges, slices + ledger.row * _inside(ledger, edges)

    def _requests(self) -> Requests:
        issued = self.book.count[seats.ISSUED]
        whole, times = self.book.requests[:issued], self.book.times[:issued]
        short = {
            name: whole[:, getattr(seats, name.upper())].astype(np.int32)
            for name in ("input_len", "output_len", "context", "joined", "seat", "needs")
        }
        flags = {name: whole[:, getattr(seats, name.upper())].astype(bool) for name in ("counted", "refused")}
        real = {
            name: times[:, getattr(seats, name.upper())].copy()
            for name in ("arrival", "admitted", "first_token", "finish", "lost")
        }
        return Requests(**short, **flags, **real)

    def _rows(self) -> Boundaries:
        count = self.book.count[seats.BOUNDARIES]
        step, micro_batch, unit, batch, gaps = self.book.rows[:count].T.copy()
        time = self.book.row_times[:count]
        return Boundaries(step=step, micro_batch=micro_batch, unit=unit, time=time, batch=batch, gaps=gaps)


def _inside(ledger: Ledger, edges: Array) -> Array:
    """Part of every unit's latest row in every slice (slice, unit, 1)."""
    length = ledger.end - ledger.begin
    covered = np.maximum(edges[1:, np.newaxis] - np.maximum(ledger.begin, edges[:-1, np.newaxis]), 0.0)
    share: Array = np.divide(covered, length, out=np.zeros_like(covered), where=length > 0)
    return share[..., np.newaxis]


def too_long(deployment: Afd | Colocated, context: int) -> CapacityError:
    """No request of a closed loop fits; `context` is the need of one of them."""
    return CapacityError(
        f"no request fits: {context:,} tokens need {show_bytes(deployment.kv_cache.reserved(context))} of KV cache, "
        f"an attention rank has {show_bytes(deployment.kv_budget)}",
        path="workload.input_len",
        tokens=context,
    )


def extended(column: Array, size: int, blank: Any) -> Array:
    """The array with room for `size` entries; new ones are `blank`."""
    grown = np.full((size, *column.shape[1:]), blank, dtype=column.dtype)
    grown[: len(column)] = column
    return grown


# flat ----------------------------------------------------------------------------------------------------------------


def machine(cell: Cell, asked: Asked) -> Machine:
    """The constants of a run."""
    step = cell.schedule
    turns, reals = step.flat
    line, starts, opens = step.line
    return Machine(
        turns=turns,
        reals=reals,
        opening=INDEX(step.opening),
        length=INDEX(len(turns)),
        micro_batches=INDEX(step.micro_batches),
        together=step.together,
        host=step.host,
        line=line,
        starts=starts,
        opens=opens,
        lines=step.lines,
        places=places(cell),
        asked=asked,
        tables=cell.tables,
        wiring=cell.wiring,
        seated=cell.seated,
        drawn=cell.variation.units.astype(INDEX),
        paired=cell.variation.pairs.astype(INDEX),
    )


def places(cell: Cell) -> Places:
    """What the deployment offers to requests; KV bytes are affine in the context as far as each window goes."""
    windows = [UNBOUNDED if window is None else window for window in cell.windows]
    fixed, per_token = cell.deployment.kv_cache.law(cell.windows)
    return Places(
        micro_batches=cell.micro_batches,
        ranks=cell.ranks,
        scale=cell.scale,
        slots=np.array(cell.deployment.micro_batch_slots),
        windows=np.array(windows, dtype=np.int64),
        kv_budget=float(np.floor(cell.deployment.kv_budget)),
        kv_fixed=fixed,
        kv_per_token=np.array(per_token),
    )


def memory(cell: Cell, asked: Asked, edges: Array) -> Memory:
    """Everything that changes, blank; the books have slices between `edges`."""
    step, wiring, tables = cell.schedule, cell.wiring, cell.tables
    units, lanes = step.units, cell.seated * cell.micro_batches
    zeros, whole = np.zeros, counts
    return Memory(
        book=blank_book(cell, asked),
        now=Now(
            base=zeros((len(tables.core), lanes)),
            tokens=whole(step.batches),
            core=zeros(len(tables.times_of_core)),
            longest=zeros(cell.seated),
        ),
        priced=blank_prices(cell),
        state=State(
            free=zeros((RESOURCES, units)),
            inbox=zeros((max(step.batches, cell.micro_batches), units)),
            egress=zeros(wiring.ports[0]),
            ingress=zeros(wiring.ports[1]),
            hops=zeros(wiring.servers),
            place=whole(units),
            begin=zeros(units),
            end=zeros(units),
            idle=whole(units),
        ),
        flight=blank_flight(wiring),
        trace=Trace(*map(np.array, blank_trace(cell))),
        ledger=Ledger(
            booked=zeros(units),
            sent=zeros(len(step.exchanges)),
            begin=zeros(units),
            end=zeros(units),
            row=zeros((units, WIDTH)),
            run=zeros((units, WIDTH)),
            edges=edges.copy(),
            slices=zeros((len(edges) - 1, units, WIDTH)),
            place=whole(units),
        ),
    )


def blank_flight(wiring: Wiring) -> Flight:
    """No copy on its way yet."""
    header, tail, wire, into, up, down = np.zeros((6, len(wiring.order)))
    return Flight(
        header=header,
        tail=tail,
        wire=wire,
        into=into,
        scratch=counts(len(wiring.order)),
        order=wiring.order.copy(),
        up=up,
        down=down,
        across=wiring.across.copy(),
        queue=np.arange(len(wiring.leaving), dtype=INDEX),
        post=np.zeros(len(wiring.leaving)),
    )


def counts(size: int) -> Array:
    """Whole numbers, all zero."""
    return np.zeros(size, dtype=np.int64)


def blank_trace(cell: Cell) -> Trace:
    """An empty record of a step, as lists."""
    size, exchanges = cell.schedule.at[-1], len(cell.schedule.exchanges)
    some = size if cell.schedule.all_to_all else 0
    return Trace(
        start=[0.0] * size,
        finish=[0.0] * size,
        held=[0.0] * some,
        early=[0.0] * some,
        first=[FOREVER] * exchanges,
        last=[0.0] * exchanges,
    )


def blank_prices(cell: Cell) -> Priced:
    """Seconds by tokens of a micro-batch: all of them where that is cheap, else those of none."""
    pricing = cell.pricing
    known = np.arange(pricing.most + 1 if pricing.at_once else 1)
    slot = np.full(pricing.most + 1, -1, dtype=np.int64)
    slot[known] = known
    return Priced(slot, np.ascontiguousarray(pricing.of(known), dtype=float))


def blank_book(cell: Cell, asked: Asked) -> Book:
    """No request yet."""
    m, windows = cell.micro_batches, len(cell.windows)
    ranks, lanes = cell.seated * cell.ranks, cell.seated * m
    slots = np.tile(np.array(cell.deployment.micro_batch_slots), ranks)
    nobody = np.full((ranks * m, 6), NOBODY, dtype=np.int64)
    nobody[:, [seats.BATCH, seats.TAKEN, seats.SEQUENCES]] = 0
    nobody[:, seats.CROWD] = np.where(slots > 0, 0, UNBOUNDED)
    row = np.zeros((lanes, 6), dtype=np.int64)
    row[:, seats.FRESH] = NOBODY
    held = np.zeros((ranks, 2))
    held[:, seats.KV_FREE] = places(cell).kv_budget
    return Book(
        seats=nobody,
        lanes=row,
        buckets=np.full((lanes * seats.RING, 3), NOBODY, dtype=np.int64),
        ranks=held,
        queues=np.full((ranks, 2), NOBODY, dtype=np.int64),
        contexts=np.zeros((windows, ranks * m), dtype=np.int64),
        growing=np.zeros((windows, ranks * m), dtype=np.int64),
        requests=np.zeros((0, 11), dtype=np.int64),
        times=np.zeros((0, 6)),
        next_filling=counts(0),
        rows=np.zeros((AHEAD, 5), dtype=np.int64),
        row_times=np.zeros(AHEAD),
        count=counts(8),
        clock=np.array([FOREVER if asked.warmup < 0 else asked.warmup, FOREVER, FOREVER, FOREVER, 0.0, FOREVER]),
    )
