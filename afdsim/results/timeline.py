"""Who did what when in a part of a run: the start and finish of every operation and transfer, and why others waited.

The engine reports the operations of compute resources. Transfers are replayed from them with the engine's own rules and
draws, the rows of a micro-batch spread evenly over the ranks of an instance (exact where they are; elsewhere a transfer
may be a little longer than drawn). Feeds `plot.gantt` and the Chrome trace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from afdsim import units
from afdsim.cluster.network import DEDICATED, PORTS, SHARED, cross, receive, send
from afdsim.cluster.topology import UPLINKS
from afdsim.engine.books import CAUSES, UNCUT, Trace
from afdsim.engine.cell import Cell
from afdsim.engine.lowering import lower
from afdsim.engine.schedule import COMPUTE, GATHER, PAIRS, SCATTER, Boundary, Compute, Exchange
from afdsim.errors import ScenarioError
from afdsim.results.excerpt import NEVER, PARTS, Span
from afdsim.results.metrics import Columns, Window
from afdsim.results.result import Result


class Recorder:
    """Keeps the steps of a run that touch a window; a `desk.Observer`."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.steps: list[tuple[int, Any]] = []

    def __call__(self, step: int, trace: Any) -> None:
        """Keep a copy of a step, whose sequences the engine may use again."""
        begin, end = min(trace.start), max(trace.finish)
        if begin < self.window[1] and end > self.window[0]:
            self.steps.append((step, type(trace)(*(np.array(values, float) for values in trace))))


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The spans of a window of one run, in order of tracks and time, and what to count beside them."""

    result: Result
    window: Window
    spans: tuple[Span, ...]

    @property
    def tracks(self) -> tuple[str, ...]:
        """Every track, resources before micro-batches."""
        return tuple(dict.fromkeys(span.track for span in self.spans))

    def columns(self) -> Columns:
        """Return every span as columns."""
        return _columns(self.spans)

    def pipeline(self, *, layers: int = 3, step: int | None = None) -> tuple[Columns, Window]:
        """Return what `plot.gantt` draws: a few layers of one step on the first instances, and transfers between.

        A transfer lasts from the end of the last sender's operation until every receiver could begin.
        """
        steps = sorted({span.step for span in self.spans if span.cause == "busy"})
        chosen = steps[len(steps) // 2] if step is None else step
        middle = max(0, (max(span.layer for span in self.spans) + 1 - layers) // 2)
        drawn = [(_row(span), span) for span in self.spans]
        rows = ["A", "A → F", "F", "F → A"] if "ffn[0]" in self.tracks else ["GPUs"]
        spans = [span._replace(track=row) for wanted in rows for row, span in drawn if row == wanted]
        seen = [span for span in spans if span.step == chosen and middle <= span.layer < middle + layers]
        return _columns(spans), (min(span.start_s for span in seen), max(span.end_s for span in seen))

    def batches(self) -> Iterator[tuple[float, str, int]]:
        """Yield (time, micro-batch, sequences over all instances) whenever a boundary has changed them."""
        tokens, lanes = self.result.run.tokens, {}
        rows = zip(
            *(np.asarray(tokens[name]).tolist() for name in ("t_s", "micro_batch", "instance", "batch")), strict=True
        )
        for time, j, instance, batch in sorted(row for row in rows if row[3]):  # without tokens: gaps across outages
            if time >= self.window[1]:
                break
            lanes[j, instance] = batch
            if time >= self.window[0]:
                yield time, f"micro-batch {j}", sum(size for (lane, _), size in lanes.items() if lane == j)

    def queue(self) -> Iterator[tuple[float, int]]:
        """Yield (time, requests that have arrived and wait) whenever it changes inside the window."""
        requests = self.result.run.requests
        moves = [(time, 1) for time in np.asarray(requests["arrival_s"], float).tolist()]
        moves += [(time, -1) for time in np.asarray(requests["admitted_s"], float).tolist() if not math.isnan(time)]
        waiting, at = 0, None
        for time, change in sorted(move for move in moves if move[0] < self.window[1]):
            if at is not None and time != at and at >= self.window[0]:
                yield at, waiting
            waiting, at = waiting + change, time
        if at is not None:
            yield at, waiting


def _columns(spans: Sequence[Span]) -> Columns:
    return {name: np.array([getattr(span, name) for span in spans]) for name in Span._fields}


def _row(span: Span) -> str | None:
    """Return the row of the pipeline picture that shows a span, if one does."""
    if span.track.startswith("micro-batch"):
        return {"A to F": "A → F", "F to A": "F → A"}.get(span.what)
    return {"attention[0]": "A", "attention[0].0": "A", "ffn[0]": "F", "colocated[0]": "GPUs"}.get(span.track)


def draw(result: Result, recorder: Recorder) -> Timeline:
    """Return what happened in the steps that an observer of a run has kept."""
    cell, window = lower(result.scenario, seed=result.seed), recorder.window
    outages = (result.run.failures or {}).get("outages", ())
    stood = {each["at_s"]: each["at_s"] + each["downtime_s"] for each in outages}
    spans = _Spans(cell, _batches(result.run.tokens, cell), stood).of(recorder.steps)
    inside = [span for span in spans if max(span.start_s, window[0]) < min(span.end_s, window[1])]
    if not inside:
        raise ScenarioError(f"nothing happens between {window[0]:g} s and {window[1]:g} s of this run")
    return Timeline(result=result, window=window, spans=tuple(_ordered(inside)))


def window(text: str) -> Window:
    """Return the simulated times that a text names: "2s" is from the beginning, "10s..12s" from one to another."""
    first, dots, last = text.partition("..")
    try:
        begin, end = (
            (units.parse(first, "time"), units.parse(last, "time")) if dots else (0.0, units.parse(first, "time"))
        )
    except ValueError as error:
        raise ScenarioError(f"{text}: {error}") from None
    if end <= begin:
        raise ScenarioError(f"{text}: must end after it begins")
    return begin, end


def _ordered(spans: Iterable[Span]) -> list[Span]:
    """Return spans by track and time; tracks by pool, kind and index."""
    kinds = ("attention", "ffn", "colocated", "micro-batch")
    return sorted(spans, key=lambda span: (*_place(span.track, kinds), span.start_s, span.end_s))


def _place(track: str, kinds: Sequence[str]) -> tuple[int, list[str | int]]:
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", track)]
    return next(index for index, kind in enumerate(kinds) if track.startswith(kind)), parts


def _batches(tokens: Columns, cell: Cell) -> Mapping[tuple[int, int, int], int]:
    """Return the sequences of (step, micro-batch, unit): those that had a token at the boundary after it."""
    dp = cell.deployment.attention.dp
    unit = np.asarray(tokens["instance"]) * dp + np.asarray(tokens["rank"]) if cell.per_rank else tokens["instance"]
    rows = (np.asarray(column).tolist() for column in (tokens["step"], tokens["micro_batch"], unit, tokens["batch"]))
    found = {(step - 1, j, u): batch for step, j, u, batch in zip(*rows, strict=True)}
    last = max((step for step, _, _ in found), default=0)
    # the run ended at one of the last boundaries, and those after it told nothing
    ends = {(last, j, u): batch for (step, j, u), batch in found.items() if step == last - 1}
    return ends | found


# the spans of a step ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Step:
    """A step with what its spans need beside the schedule."""

    number: int
    trace: Trace
    batch: np.ndarray
    """Sequences by lane."""
    transfers: np.ndarray
    """Random factors of the transfers."""
    late: np.ndarray
    """Seconds that spikes add to posts; empty where none do."""


@dataclass
class _Spans:
    """Cuts the gaps between the operations of recorded steps, and replays their transfers."""

    cell: Cell
    batches: Mapping[tuple[int, int, int], int]
    stood: Mapping[float, float] = field(default_factory=dict)
    """When outages began, at which every operation under way was cut, and when they ended."""
    egress: dict[int, float] = field(default_factory=dict)
    """When every replayed port becomes free."""
    ingress: dict[int, float] = field(default_factory=dict)
    hops: dict[int, float] = field(default_factory=dict)
    """When every replayed uplink and downlink becomes free."""
    ended: dict[str, float] = field(default_factory=dict)
    """Where the last operation of every compute track ended."""
    sent: dict[int, float] = field(default_factory=dict)
    """Last end of the senders of every exchange in the step before."""
    back: dict[int, Window] = field(default_factory=dict)
    """Per micro-batch on its way back: when the last FFN instance had finished, and when every unit has its results."""
    parked: set[str] = field(default_factory=set)
    """Compute tracks that have not worked since the pipeline stood still."""

    def of(self, steps: Sequence[tuple[int, Trace]]) -> Iterator[Span]:
        """Yield every span of the steps."""
        last = None
        for number, trace in steps:
            if last is not None and number != last + 1:  # the pipeline had parked: every resource is free
                for state in (self.egress, self.ingress, self.hops, self.sent, self.back):
                    state.clear()
                self.parked = set(self.ended)
            last = number
            yield from self._step(self._prepared(number, trace))

    def _prepared(self, number: int, trace: Trace) -> _Step:
        cell = self.cell
        lanes = [(number, j, u) for u in range(cell.seated) for j in range(cell.micro_batches)]
        return _Step(
            number=number,
            trace=trace,
            batch=np.array([self.batches.get(lane, 0) for lane in lanes]),
            transfers=cell.variation.transfers(range(number, number + 1)),
            late=cell.variation.spikes(range(number, number + 1))[1],
        )

    def _step(self, step: _Step) -> Iterator[Span]:
        schedule = self.cell.schedule
        for pool in schedule.pools:
            for resource in (COMPUTE, GATHER, SCATTER):
                turns = schedule.of(pool, resource)
                for unit in pool if turns else ():
                    yield from self._operations(step, unit, turns, PARTS[resource])
        arrived: dict[int, float] = {}
        for number, turn in enumerate(schedule.turns):
            if isinstance(turn, Exchange) and turn.pattern == PAIRS:
                spans, arrived[number] = self._transfers(step, turn, number)
                yield from spans
        yield from self._paths(step, arrived) if arrived else self._stages(step)
        self.sent = dict(enumerate(step.trace.last))

    # compute ---------------------------------------------------------------------------------------------------------

    def unit(self, u: int) -> str:
        """Return the name of a unit."""
        pool = next(pool for pool in self.cell.pools if u in pool.units)
        place, dp = u - pool.units.start, self.cell.deployment.attention.dp
        if self.cell.per_rank and pool.name == "attention":
            return f"attention[{place // dp}].{place % dp}"
        return f"{pool.name}[{place}]"

    def _operations(self, step: _Step, unit: int, turns: list[int], part: str) -> Iterator[Span]:
        """Yield what a resource did, and, of its compute, why it stood still in between."""
        schedule, track = self.cell.schedule, self.unit(unit) + part
        several = len({turn.name for turn in map(schedule.turns.__getitem__, turns) if isinstance(turn, Compute)}) > 1
        for number in sorted(turns, key=lambda number: self._span(step, number, unit)):
            turn, span = schedule.turns[number], self._span(step, number, unit)
            if not part:
                yield from self._gap(step, number, unit, span[0])
            self.ended[track] = span[1]
            what = turn.name if isinstance(turn, Compute) and several else ""
            layer, batch = (-1, self._batch(turn, unit)) if isinstance(turn, Boundary) else (turn.layer, turn.batch)
            yield Span(track, *span, step.number, layer, batch, "busy", "boundary" if layer < 0 else what)

    def _batch(self, turn: Boundary, unit: int) -> int:
        return int(self.cell.tables.batch_of[unit * self.cell.micro_batches + turn.micro_batch])

    def _span(self, step: _Step, number: int, unit: int) -> Window:
        """Begin and end of a turn on a unit."""
        turn = self.cell.schedule.turns[number]
        assert not isinstance(turn, Exchange)
        i = self.cell.schedule.at[number] + unit - turn.units.start
        return float(step.trace.start[i]), float(step.trace.finish[i])

    def _gap(self, step: _Step, number: int, unit: int, until: float) -> Iterator[Span]:
        """Yield the gap before a turn, cut at the ends of the first and the last sender that it waited for."""
        track = self.unit(unit)
        begin = self.ended.get(track, until)
        if begin in self.stood:
            yield Span(track, begin, min(self.stood[begin], until), step.number, -1, -1, "down")
            begin = min(self.stood[begin], until)
        _, x, earlier, before, between = self.cell.schedule.booked(number)
        if self._idle(step, unit) or track in self.parked:
            self.parked.discard(track)
            places = [("no_work", begin, until)]
        elif x == UNCUT:
            places = [("wait_peer", begin, until)]
        else:
            last = self.sent.get(x, NEVER) if earlier else float(step.trace.last[x])
            first = last if before == between else float(step.trace.first[x])
            first, last = (min(until, max(begin, cut)) for cut in (first, last))
            places = [(CAUSES[before], begin, first), (CAUSES[between], first, last), ("network", last, until)]
        for cause, left, right in places:
            yield Span(track, left, right, step.number, -1, -1, cause)

    def _idle(self, step: _Step, unit: int) -> bool:
        """Return whether a unit holds no sequence; an FFN instance, whether nobody does."""
        m = self.cell.micro_batches
        lanes = slice(unit * m, (unit + 1) * m) if unit < self.cell.seated else slice(None)
        return not step.batch[lanes].any()

    # network ---------------------------------------------------------------------------------------------------------

    def _transfers(self, step: _Step, turn: Exchange, number: int) -> tuple[list[Span], float]:
        """Return the copies of an exchange on the ports that they cross, and when the last receiver has them all."""
        wiring, copies = self.cell.wiring, len(self.cell.wiring.lane)
        header, tail, into = [0.0] * copies, [0.0] * copies, [0.0] * copies
        arrived, order = NEVER, wiring.order.tolist()
        spans: list[Span] = []
        out_from, out_to, in_from, in_to, *_ = wiring.routes[turn.route].tolist()
        for posted, (unit, port, low, high) in self._posts(step, turn, wiring.leaving[out_from:out_to].tolist()):
            wire = [0.0] * copies
            for x in range(low, high):
                wire[x], into[x] = self._seconds(step, turn, x)
            begin = max(self.egress.get(port, NEVER), posted)
            scratch = (header, tail, list(range(copies)))
            self.egress[port] = send(wiring.discipline, begin, 0.0, wire, scratch, (low, high))
            spans += self._sent(step, turn, (unit, port, low, high), (header, tail))
        header, tail = ([time + wiring.lag for time in times] for times in (header, tail))
        spans += self._crossed(step, turn, (header, tail))
        for unit, port, low, high in wiring.arriving[in_from:in_to].tolist():
            taken = order[low:high]
            spans += self._taken(step, turn, (unit, port), taken, (header, tail, into)) if taken else []
            arrived = max(arrived, self.ingress[port] + wiring.rest + wiring.poll)
        return spans, arrived

    def _late(self, step: _Step, turn: Exchange, unit: int) -> float:
        """Return the seconds that a spike adds to the post of a sender."""
        place = int(self.cell.variation.units[unit]) + self.cell.schedule.post_draw(turn)
        return float(step.late[place]) if len(step.late) else 0.0

    def _posts(self, step: _Step, turn: Exchange, legs: list[list[int]]) -> list[tuple[float, list[int]]]:
        """Return the legs with the times at which they are posted, in the order in which ports serve them."""
        wait = self.cell.wiring.wait
        ends = [self._span(step, turn.after, leg[0])[1] + wait + self._late(step, turn, leg[0]) for leg in legs]
        posts = list(zip(ends, legs, strict=True))
        return sorted(posts, key=lambda post: (post[1][1], post[0], post[1][2]))

    def _crossed(self, step: _Step, turn: Exchange, times: tuple[list[float], list[float]]) -> Iterator[Span]:
        """Let the copies of an exchange pass the uplinks and downlinks; yield when these served them."""
        wiring, place = self.cell.wiring, (step.number, turn.layer, turn.batch, "busy")
        first, last = wiring.routes[turn.route, 4:].tolist()
        for up, down, low, high in wiring.crossings[first:last].tolist():
            copies = wiring.across[low:high].tolist()
            works = zip(*(self._seconds(step, turn, x, int(wiring.further)) for x in copies), strict=True)
            for hop, lag, work in zip((up, down), (0.0, wiring.between), works, strict=True):
                header, tail = ([each[x] for x in copies] for each in times)
                free, begin = self.hops.get(hop, NEVER), min(header) + lag
                scratch, span = [0] * len(copies), (0, len(copies))
                self.hops[hop] = cross(free, lag, list(work), (header, tail, scratch), list(range(len(copies))), span)
                for x, begins, ends in zip(copies, header, tail, strict=True):
                    times[0][x], times[1][x] = begins, ends
                several = f".{hop // len(UPLINKS)}" if wiring.servers > len(UPLINKS) else ""
                track = f"{UPLINKS[hop % len(UPLINKS)]}{several}"
                yield Span(track, max(free, begin), self.hops[hop], *place, "broadcast")

    def _seconds(self, step: _Step, turn: Exchange, x: int, further: int = 0) -> tuple[float, float]:
        """Return the seconds of a copy on both its ports, a micro-batch's rows spread evenly over the ranks.

        `further` rows of the table on it is the uplink and the downlink that it crosses.
        """
        cell = self.cell
        rows = -(-int(step.batch[int(cell.wiring.lane[x]) + turn.micro_batch]) // cell.ranks)
        factor = float(step.transfers[int(cell.wiring.draw[x]) + turn.draw])
        out, into = (float(cell.tables.rows[source.row + further, rows]) * factor for source in (turn.out, turn.into))
        if len(cell.wiring.slow) and not further:
            out, into = out * float(cell.wiring.slow[x, 0]), into * float(cell.wiring.slow[x, 1])
        return out, into

    def _sent(
        self, step: _Step, turn: Exchange, leg: tuple[int, int, int, int], times: tuple[list[float], list[float]]
    ) -> Iterator[Span]:
        """Yield what a port sent: its copies one by one, or all of them at once where they share it."""
        unit, port, low, high = leg
        place = (step.number, turn.layer, turn.batch, "busy")
        if self.cell.wiring.discipline == SHARED:
            yield Span(
                self._port(unit, unit, port, "egress"), times[0][low], max(times[1][low:high]), *place, "broadcast"
            )
            return
        receivers = self._receivers(turn.route)
        for x in range(low, high):
            track = self._port(unit, receivers[x], port, "egress")
            yield Span(track, times[0][x], times[1][x], *place, f"to {self.unit(receivers[x])}")

    def _taken(
        self,
        step: _Step,
        turn: Exchange,
        at: tuple[int, int],
        taken: list[int],
        copies: tuple[list[float], list[float], list[float]],
    ) -> list[Span]:
        """Let a port receive its copies; return them one by one, or all at once where they share it."""
        (unit, port), (header, tail, into), wiring = at, copies, self.cell.wiring
        discipline, free, senders = wiring.discipline, self.ingress.get(port, NEVER), self._senders(turn.route)
        place, spans = (step.number, turn.layer, turn.batch, "busy"), []
        groups = [[x] for x in sorted(taken, key=lambda x: (header[x], x))] if discipline == PORTS else [taken]
        for group in groups:
            begin = max(free, min(header[x] for x in group))
            order, span = list(group), (0, len(group))
            free = receive(discipline, free, into, (header, tail, [0] * len(group)), order, span)
            what = "broadcast" if discipline == SHARED else f"from {self.unit(senders[group[0]])}"
            track = self._port(unit, senders[group[0]], port, "ingress")
            spans.append(Span(track, begin + wiring.rest, free + wiring.rest, *place, what))
        self.ingress[port] = free
        return [] if discipline == DEDICATED else spans

    def _receivers(self, route: int) -> dict[int, int]:
        """Return the receiver of every copy of a route; one that comes back belongs to whose rows it carries."""
        wiring, (_, _, first, last, *_) = self.cell.wiring, self.cell.wiring.routes[route].tolist()
        legs, order = wiring.arriving[first:last].tolist(), wiring.order.tolist()
        found = {order[place]: unit for unit, _, low, high in legs for place in range(low, high)}
        own = (wiring.lane // self.cell.micro_batches).tolist()
        return {x: own[x] if unit < self.cell.seated else unit for x, unit in found.items()}

    def _senders(self, route: int) -> dict[int, int]:
        """Return the sender of every copy of a route."""
        first, last, *_ = self.cell.wiring.routes[route].tolist()
        legs = self.cell.wiring.leaving[first:last].tolist()
        return {x: unit for unit, _, low, high in legs for x in range(low, high)}

    def _port(self, owner: int, peer: int, port: int, direction: str) -> str:
        """Return the name of the port (or, if wires are dedicated, the wire) between a unit and a peer."""
        wiring, name = self.cell.wiring, self.unit(owner)
        if wiring.discipline == DEDICATED:
            return f"{name} to {self.unit(peer)}"
        own = self._ports[direction][owner]
        return f"{name}.{own.index(port)} {direction}" if len(own) > 1 else f"{name} {direction}"

    @cached_property
    def _ports(self) -> dict[str, dict[int, list[int]]]:
        """Return the ports of every unit in each direction, in order."""
        found: dict[str, dict[int, list[int]]] = {}
        wiring = self.cell.wiring
        for direction, legs in (("egress", wiring.leaving), ("ingress", wiring.arriving)):
            for unit, port in sorted({(int(unit), int(port)) for unit, port, *_ in legs}):
                found.setdefault(direction, {}).setdefault(unit, []).append(port)
        return found

    # micro-batches ---------------------------------------------------------------------------------------------------

    def _stages(self, step: _Step) -> Iterator[Span]:
        """Yield where the micro-batches of the first unit were: its operations, where there is one pool."""
        for number in self.cell.schedule.of(self.cell.schedule.pools[0]):
            turn, span = self.cell.schedule.turns[number], self._span(step, number, 0)
            assert not isinstance(turn, Exchange)
            layer, what = (-1, "boundary") if isinstance(turn, Boundary) else (turn.layer, turn.name)
            yield Span(f"micro-batch {turn.micro_batch}", *span, step.number, layer, turn.micro_batch, "busy", what)

    def _paths(self, step: _Step, arrived: Mapping[int, float]) -> Iterator[Span]:
        """Yield where every micro-batch was in every layer: A, A to F, F, F to A, and waiting for either."""
        turns, ends = self.cell.schedule.turns, {}
        for number, turn in enumerate(turns):
            match turn:
                case Boundary():
                    ends["A", self._batch(turn, turn.units.start)] = self._over(step, number)[0]
                case Compute(name="attention", layer=layer, batch=batch):
                    begin, _, end = self._over(step, number)
                    ends["A", batch] = ends["A", batch] if layer == 0 else begin
                    ends["A to F", batch] = end
                case Compute(name="gather", batch=batch):
                    ends["gather", batch] = self._over(step, number)[2]
                case Compute(name="ffn", layer=layer, batch=batch):
                    begin, _, end = self._over(step, number)
                    attended, arrival = (ends["A", batch], ends["A to F", batch]), ends["gather", batch]
                    yield from self._path(step, (layer, batch), attended, (arrival, begin, end))
                case Exchange(receivers=receivers, batch=batch) if receivers.start < self.cell.seated:
                    self.back[batch] = self._over(step, turn.sent)[2], arrived[number]

    def _over(self, step: _Step, number: int) -> tuple[float, float, float]:
        """Return first begin, first end and last end of a turn over its units."""
        turn = self.cell.schedule.turns[number]
        assert not isinstance(turn, Exchange)
        spans = [self._span(step, number, unit) for unit in turn.units]
        return min(s for s, _ in spans), min(e for _, e in spans), max(e for _, e in spans)

    def _path(
        self, step: _Step, place: tuple[int, int], attended: Window, ffn: tuple[float, float, float]
    ) -> Iterator[Span]:
        """Yield one layer of a micro-batch; the first unit may begin before the last has its results."""
        (layer, batch), (begin, end), (gathered, start, finish) = place, attended, ffn
        sent, returned = self.back.pop(batch, (begin, begin))
        back, ready = min(returned, begin), min(gathered, start)
        places = [
            ("F to A", sent, back),
            ("wait", back, begin),
            ("A", begin, end),
            ("A to F", end, ready),
            ("wait", ready, start),
            ("F", start, finish),
        ]
        for what, left, right in places:
            yield Span(f"micro-batch {batch}", left, right, step.number, layer, batch, "busy", what)
