"""A run in compiled steps: flattens the program, draws factors in blocks, sees to capacity, pauses and the end.

Gives the same `Record`, bit for bit, as `clock.Run`. Where numba is missing the same functions run on lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from afdsim.engine.admission import MOST_REFUSALS, Demand, too_long
from afdsim.engine.causes import BUSY, CAUSES, NO_WORK, Cursor, Shape, Trace
from afdsim.engine.compiled import (
    ACCOUNT,
    DONE,
    ENDED,
    FOREVER,
    IDLE,
    MORE_REQUESTS,
    MORE_ROWS,
    UNIT,
    Current,
    Ledger,
    Machine,
    Memory,
    Noise,
    Supply,
    Tables,
)
from afdsim.engine.kernel import Delays, Durations, Peers, Scratch, State
from afdsim.engine.native import compiled
from afdsim.engine.program import LinearCore, Program
from afdsim.engine.record import Boundaries, Record
from afdsim.engine.record import Requests as RequestTable
from afdsim.engine.seating import (
    BUCKET,
    COUNTED,
    ENDS_AT,
    ISSUED,
    LANE,
    NOBODY,
    OUTSTANDING,
    QUEUED,
    RANK,
    REAL,
    REQUEST,
    RING,
    ROW,
    ROWS,
    SEAT,
    UNBOUNDED,
    WARM_AT,
    Book,
    Places,
)
from afdsim.engine.seating import Demand as FlatDemand

Array = np.ndarray
Observer = Callable[[int, Trace], None]

BLOCK_FACTORS = 60_000
"""Random factors that are drawn for one call of the compiled steps."""
MOST_STEPS = 64
NEVER = float("nan")
BLANK_REQUEST = tuple(
    NEVER if kind == REAL else NOBODY if name in ("joined", "seat", "next", "next_fresh") else 0
    for name, kind in REQUEST
)


class CompiledRun:
    """One simulation of a program under a demand, in compiled steps."""

    def __init__(
        self,
        program: Program,
        demand: Demand,
        *,
        progress: Callable[[float], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.program, self.demand = program, demand
        self._progress, self._observer = progress, observer
        self._machine = machine(program, demand)
        self._supply = Supply(0, np.zeros(1, dtype=np.int64))
        self._memory = memory(program, demand)
        self._runs, self._populate = compiled()
        self._completed: list[tuple[int, int]] = []
        """Half-open ranges of completed steps."""
        self._windowed = any(window is not None for window in program.windows)
        self._idle_steps = 0
        self._parked = False
        """Whether the run ended in a pause."""

    def execute(self) -> Record:
        """Run until everything that counts has ended, or the horizon."""
        self._draw(self.demand.concurrency + 1 if self.demand.closed else self.demand.num_requests)
        if self.demand.closed:
            self._populate(self._machine, self._memory)
        self._pause(min(self._next_arrival(), self.demand.horizon), None)
        step = 0
        while self._ends == FOREVER:
            step = self._stretch(step)
            if self._progress is not None:
                count = self._memory.book.count
                self._progress((count[COUNTED] - count[OUTSTANDING]) / max(self.demand.num_requests, 1))
        return self._record()

    @property
    def _ends(self) -> float:
        return float(self._memory.book.time[ENDS_AT])

    def _stretch(self, first: int) -> int:
        """Run a block of steps; returns the step to go on with."""
        noise, steps = self._factors(first)
        why, step = self._runs(self._machine, self._memory, self._supply, noise, first, first + steps)
        if step > first:
            self._completed.append((first, step))
            if self._observer is not None:
                self._observer(first, Trace(*(row.tolist() for row in self._memory.trace)))
        if why == MORE_REQUESTS:
            self._draw(len(self._memory.book.requests) * 5 // 4)
        elif why == MORE_ROWS:
            self._extend_rows()
        elif why == IDLE:
            self._idle_steps += 1
            self._park()
            return int(step) + 1
        else:
            assert why in (DONE, ENDED), why
        return int(step)

    def _factors(self, first: int) -> tuple[Noise, int]:
        """Factors of the next steps, and how many steps."""
        variation = self.program.variation
        turns, units, ffns = self._machine.shape[0] * self._machine.shape[1], self.program.units, self.program.ffns
        computes = variation.event > 0 or variation.step > 0
        wires = variation.link > 0
        each = computes * turns * (units + ffns) + wires * 2 * turns * units * ffns
        steps = 1 if self._observer else max(1, min(MOST_STEPS, BLOCK_FACTORS // each)) if each else MOST_STEPS
        drawn = range(first, first + steps)
        compute, wire = drawn if computes else drawn[:1], drawn if wires else drawn[:1]
        factors = [_stacked(variation.compute, side, compute) for side in ("attention", "ffn")]
        factors += [_stacked(variation.wire, kind, wire) for kind in ("link_out", "link_back")]
        attention, ffn, out, back = factors
        strides = {"compute_stride": turns * computes, "wire_stride": turns * wires}
        return Noise(attention=attention, ffn=ffn, out=out, back=back, **strides), steps

    # capacity --------------------------------------------------------------------------------------------------------

    def _draw(self, wanted: int) -> None:
        """Have the lengths of at least `wanted` requests, and enough that fit for one more step of a closed loop."""
        held, closed = self._memory.book, self.demand.closed
        wanted = max(wanted, 4096) if closed else wanted
        while True:
            input_len, output_len = self.demand.source.columns(wanted)
            fitting = np.concatenate([[0], np.cumsum(self._fits(input_len + output_len))])
            if not closed or fitting[wanted] - fitting[held.count[ISSUED]] >= self.demand.concurrency:
                break
            if wanted > held.count[ISSUED] + MOST_REFUSALS and not fitting[wanted] - fitting[held.count[ISSUED]]:
                raise too_long(self.program.deployment, int(input_len[-1] + output_len[-1]))
            wanted *= 2
        self._supply = Supply(wanted, fitting)
        arrival = np.full(wanted, NEVER) if closed else self.demand.source.times(wanted)
        issued, windows = held.count[ISSUED], len(self.program.windows)
        requests = extended(held.requests, wanted, BLANK_REQUEST)
        requests["input_len"], requests["output_len"] = input_len, output_len
        requests["arrival"][issued:] = arrival[issued:]
        chains = extended(held.next_filling, wanted * windows if self._windowed else 1, NOBODY)
        self._memory = self._memory._replace(book=held._replace(requests=requests, next_filling=chains))

    def _fits(self, context: Array) -> Array:
        places = self._machine.places
        total = np.full(len(context), places.kv_fixed)
        for per_token, window in zip(places.kv_per_token, places.windows, strict=True):
            total += per_token * np.minimum(context, window)
        return total <= places.kv_budget

    def _extend_rows(self) -> None:
        held = self._memory.book
        rows = extended(held.rows, 2 * len(held.rows), 0)
        self._memory = self._memory._replace(book=held._replace(rows=rows))

    # pauses and the end ----------------------------------------------------------------------------------------------

    def _next_arrival(self) -> float:
        issued = self._memory.book.count[ISSUED]
        if self.demand.closed:
            return 0.0
        return float(self._memory.book.requests[issued]["arrival"]) if issued < self.demand.num_requests else FOREVER

    def _park(self) -> None:
        """Nothing is active: start again when there is work."""
        held, trace = self._memory.book, self._memory.trace
        now = float(trace.boundary.max())
        start = now if held.count[QUEUED] else max(now, self._next_arrival())
        self._parked = start > self.demand.horizon
        if self._parked:
            held.time[ENDS_AT] = start = max(now, self.demand.horizon)
        self._pause(start, trace)

    def _pause(self, until: float, trace: Trace | None) -> None:
        """Book a pause, and begin again with every resource free (see `clock.Run`)."""
        units, cursor, state = self.program.units, self._memory.cursor, self._memory.state
        ledger, opens = self._memory.ledger, float(self._memory.book.time[WARM_AT])
        row, ends = ledger.row.reshape(-1, len(CAUSES)), ledger.accounts["end"].copy()
        ledger.run[:] += ledger.row
        if opens < FOREVER:
            ledger.window[:] += (row * inside(ledger.accounts, ends, opens)).reshape(-1)
        busy = np.zeros(len(ends))
        for unit in range(units if trace is not None else 0):
            assert trace is not None
            busy[unit] = sum(trace.boundary.tolist()[unit::units]) - sum(trace.boundary_start.tolist()[unit::units])
        row[:] = 0.0
        row[:, BUSY] = busy
        row[:, NO_WORK] = until - ends - busy
        ledger.accounts["begin"], ledger.accounts["end"] = ends, until
        for free in (*cursor, state.ready, state.attention):
            free[:] = until

    def _record(self) -> Record:
        held, ledger, current = self._memory.book, self._memory.ledger, self._memory.current
        ends, opens = self._ends, float(held.time[WARM_AT])
        sums = ledger.run if opens >= ends else ledger.window
        opens = 0.0 if opens >= ends else opens
        last = ledger.row.reshape(-1, len(CAUSES)) * inside(ledger.accounts, np.full(len(ledger.accounts), ends), opens)
        own = held.ranks["own"].reshape(self.program.units, self.program.ranks)
        longest = current.units["longest"][:, None]
        steps = [np.arange(first, last) for first, last in self._completed]
        opened = sum(map(len, steps)) + self._idle_steps + (not self._parked)
        rows = held.rows[: held.count[ROWS]]
        return Record(
            requests=_table(held.requests[: held.count[ISSUED]]),
            boundaries=Boundaries(*(rows[name] for name, _ in ROW)),
            window=(opens, ends),
            causes=sums.reshape(-1, len(CAUSES)) + last,
            own=np.divide(own, longest, out=np.ones_like(own), where=longest > 0),
            traffic={},
            steps_run=np.concatenate(steps) if steps else np.zeros(0, dtype=np.int64),
            events=opened * self.program.units * self.program.micro_batches,
        )


def _stacked(draw: Callable[[str, int], Array], kind: str, steps: Sequence[int]) -> Array:
    return np.concatenate([draw(kind, step).reshape(-1) for step in steps])


def _table(requests: Array) -> RequestTable:
    """The requests of a run as the columns of its record."""
    flags = ("counted", "refused")
    known = [name for name in RequestTable.__dataclass_fields__ if name != "needs"]
    columns: dict[str, Any] = {name: requests[name] for name in known}
    columns["needs"] = np.zeros(len(requests), dtype=np.int8)  # several tokens a step are the SimPy engine's
    return RequestTable(**columns | {name: columns[name].astype(bool) for name in flags})


def extended(column: Array, size: int, blank: Any) -> Array:
    """The array with room for `size` entries; new ones are `blank`."""
    grown = np.empty(size, dtype=column.dtype)
    grown[:] = blank
    grown[: len(column)] = column
    return grown


def inside(accounts: Array, end: Array, opens: float) -> Array:
    """Part of every unit's latest row between `opens` and `end` (unit, 1); see `record.Ledger`."""
    length = accounts["end"] - accounts["begin"]
    covered = np.maximum(end - np.maximum(accounts["begin"], opens), 0.0)
    share: Array = np.divide(covered, length, out=np.zeros_like(length), where=length > 0)
    return share[:, None]


def machine(program: Program, demand: Demand) -> Machine:
    """The constants of a run, flat."""
    timing = program.timing
    members = [unit for peers in program.fabric.peers for unit in peers]
    starts = np.cumsum([0, *map(len, program.fabric.peers)])
    return Machine(
        shape=Shape(program.layers, program.micro_batches, program.units, program.ffns, program.fabric.rails),
        delays=Delays(timing.send, timing.half, timing.latency, timing.poll),
        dedicated=timing.dedicated,
        drain=timing.drain,
        gap=timing.gap,
        peers=Peers(starts, np.array(members)),
        places=places(program),
        demand=FlatDemand(
            closed=demand.closed,
            num_requests=demand.num_requests,
            concurrency=demand.concurrency,
            warmup=_warmup(demand),
            horizon=demand.horizon,
        ),
        tables=tables(program),
    )


def _warmup(demand: Demand) -> float:
    if demand.closed and demand.warmup is None:
        return -1.0
    return demand.warmup or 0.0


def places(program: Program) -> Places:
    """What the deployment offers to requests; KV bytes are affine in the context as far as each window goes."""
    deployment = program.deployment
    windows = [UNBOUNDED if window is None else window for window in program.windows]
    fixed, per_token = deployment.kv_law(program.windows)
    return Places(
        micro_batches=program.micro_batches,
        ranks=program.ranks,
        slots=np.array(deployment.micro_batch_slots),
        windows=np.array(windows, dtype=np.int64),
        kv_budget=deployment.kv_budget,
        kv_fixed=fixed,
        kv_per_token=np.array(per_token),
    )


def tables(program: Program) -> Tables:
    """The tables of a program, flat."""
    cores = [core for core in program.cores if isinstance(core, LinearCore)]
    assert len(cores) == len(program.cores), "a cost model without a closed form needs the processes"
    per_core = {name: np.array([float(getattr(core, name)) for core in cores]) for name in LinearCore.__slots__}
    return Tables(
        stride=len(program.head),
        totals=len(program.scatter),
        attention_kind=np.array(program.attention_kind),
        wire_kind=np.array(program.wire_kind),
        ffn_row=np.ascontiguousarray(program.ffn_row).reshape(-1),
        fixed=_flat(program.fixed),
        core=np.array(program.core),
        core_window=np.array([core.window for core in cores]),
        core_fixed=per_core["fixed"],
        core_flop=per_core["flop"],
        core_byte=per_core["byte"],
        core_flop_per_token=per_core["flop_per_token"],
        core_byte_per_token=per_core["byte_per_token"],
        fixed_total=program.fixed_total,
        layers_of_core=np.array(program.layers_of_core, dtype=float),
        layers_of_kind=np.array(program.layers_of_kind, dtype=float),
        head=np.array(program.head),
        gather=_flat(program.gather),
        ffn=_flat(program.ffn),
        scatter=np.array(program.scatter),
        out_egress=_flat(program.out_egress),
        out_ingress=_flat(program.out_ingress),
        back_egress=np.array(program.back_egress),
        back_ingress=np.array(program.back_ingress),
    )


def _flat(rows: Sequence[Sequence[float]]) -> Array:
    return np.array(rows).reshape(-1)


def memory(program: Program, demand: Demand) -> Memory:
    """Everything that changes, blank."""
    m, units, ffns = program.micro_batches, program.units, program.ffns
    turns, pairs, lanes = program.layers * m, units * ffns, units * m
    members = [unit for peers in program.fabric.peers for unit in peers]
    ports = ffns * program.fabric.rails
    zeros = np.zeros
    free = (units, units, units, ports, ports, ffns, ffns, ffns, pairs, pairs, lanes)
    orders = (members * ffns, list(range(ffns)) * units)
    state = State._make([*map(zeros, free), *map(np.array, orders)])
    work = (turns * units, turns * ffns, turns, m, turns * pairs, turns * pairs, turns * pairs, turns * pairs)
    current = Current(
        base=zeros(len(program.fixed) * lanes),
        tokens=zeros(m, dtype=np.int64),
        core=zeros(len(program.cores)),
        units=np.zeros(units, dtype=list(UNIT)),
    )
    every = units + ffns
    width = len(CAUSES)
    return Memory(
        book=blank_book(program, _warmup(demand)),
        state=state,
        current=current,
        work=Durations(*map(zeros, work)),
        trace=Trace(*map(zeros, program.trace_sizes)),
        scratch=Scratch(zeros(pairs), zeros(pairs)),
        cursor=Cursor(zeros(units), zeros(ffns), zeros(m)),
        booked=(zeros(units * width), zeros(ffns * width)),
        ledger=Ledger(np.zeros(every, dtype=list(ACCOUNT)), *(zeros(every * width) for _ in range(3))),
    )


def blank_book(program: Program, warmup: float) -> Book:
    """No request yet."""
    m, windows = program.micro_batches, len(program.windows)
    seats, lanes = program.units * program.ranks * m, program.units * m
    slots = program.deployment.micro_batch_slots

    sequences = [0 if slots[seat % m] else UNBOUNDED for seat in range(seats)]
    return Book(
        seats=_records(SEAT, seats, sequences=sequences, waiting=NOBODY, last_waiting=NOBODY),
        lanes=_records(LANE, lanes, fresh=NOBODY),
        buckets=_records(BUCKET, lanes * RING, leaving=NOBODY, last_leaving=NOBODY, filling=NOBODY),
        ranks=_records(RANK, seats // m, kv_free=program.deployment.kv_budget),
        contexts=np.zeros(windows * seats, dtype=np.int64),
        growing=np.zeros(windows * seats, dtype=np.int64),
        requests=_records(REQUEST, 0),
        next_filling=np.zeros(0, dtype=np.int64),
        rows=_records(ROW, 4096),
        count=np.zeros(8, dtype=np.int64),
        time=np.array([FOREVER if warmup < 0 else warmup, FOREVER]),
    )


def _records(fields: tuple[tuple[str, str], ...], size: int, **values: object) -> Array:
    """An array of records, zero but for `values`."""
    records = np.zeros(size, dtype=np.dtype(list(fields), align=True))
    for name, value in values.items():
        records[name] = value
    return records
