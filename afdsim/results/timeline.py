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
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from afdsim import units
from afdsim.engine.causes import Trace
from afdsim.engine.colocated_program import ColocatedProgram, ColocatedTrace, Operation
from afdsim.engine.compiler import compile_program
from afdsim.engine.program import Program, StepTimes
from afdsim.errors import ScenarioError
from afdsim.results.metrics import Columns, Window
from afdsim.results.result import Result

NEVER = float("-inf")
COLOCATED_STAGES = ("projections", "attention", "dispatch", "experts", "combine")


class Span(NamedTuple):
    """One interval in which a track does one thing, or waits for one cause."""

    track: str
    start_s: float
    end_s: float
    step: int
    layer: int
    """-1 at a step boundary and in a gap."""
    micro_batch: int
    """-1 in a gap."""
    cause: str
    """"busy", or why the track stood still."""
    what: str = ""
    """What is done or where to, where the track does not say."""


class Recorder:
    """Keeps the steps of a run that touch a window; an `clock.Observer`."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.steps: list[tuple[int, Any]] = []

    def __call__(self, step: int, trace: Any) -> None:
        """Keep a copy of a step, whose sequences the engine may use again."""
        _, finish, *_ = trace
        begin, end = min(trace.boundary_start), max(*finish, *trace.boundary)
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
        for time, j, instance, batch in sorted(rows):
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
    program, window = compile_program(result.scenario, seed=result.seed), recorder.window
    if isinstance(program, ColocatedProgram):
        spans = _colocated(program, recorder.steps)
    else:
        spans = _Afd(program, _batches(result.run.tokens, program)).spans(recorder.steps)
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


def _batches(tokens: Columns, program: Program) -> Mapping[tuple[int, int, int], int]:
    """Return the sequences of (step, micro-batch, unit): those that had a token at the boundary after it."""
    dp = program.deployment.attention.dp
    unit = np.asarray(tokens["instance"]) * dp + np.asarray(tokens["rank"]) if program.per_rank else tokens["instance"]
    rows = (np.asarray(column).tolist() for column in (tokens["step"], tokens["micro_batch"], unit, tokens["batch"]))
    found = {(step - 1, j, u): batch for step, j, u, batch in zip(*rows, strict=True)}
    last = max((step for step, _, _ in found), default=0)
    # the run ended at one of the last boundaries, and those after it told nothing
    ends = {(last, j, u): batch for (step, j, u), batch in found.items() if step == last - 1}
    return ends | found


# attention-FFN disaggregation ---------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Step:
    """A step with everything that its spans need; turn g = layer x micro-batches + micro-batch."""

    number: int
    trace: Trace
    times: StepTimes
    idle: tuple[bool, ...]
    """Units without any sequence."""


@dataclass
class _Afd:
    """Replays the transfers of recorded steps and cuts the gaps between operations."""

    program: Program
    batches: Mapping[tuple[int, int, int], int]
    free: dict[str, float] = field(default_factory=dict)
    """When every replayed resource becomes free."""
    ended: dict[str, float] = field(default_factory=dict)
    """Where the last operation of every compute track ended."""
    sent: dict[int, float] = field(default_factory=dict)
    """Per micro-batch: last finish of the FFN instances in the step before."""
    back: dict[int, Window] = field(default_factory=dict)
    """Per micro-batch on its way back: when the last FFN instance had finished, and when every unit has its results."""
    parked: set[str] = field(default_factory=set)
    """Compute tracks that have not worked since the pipeline stood still."""

    def spans(self, steps: Sequence[tuple[int, Trace]]) -> Iterator[Span]:
        """Yield every span of the steps."""
        last = None
        for number, trace in steps:
            if last is not None and number != last + 1:  # the pipeline had parked: every resource is free
                self.free.clear()
                self.sent.clear()
                self.back.clear()
                self.parked = set(self.ended)
            last = number
            yield from self._step(self._prepared(number, trace))

    def _prepared(self, number: int, trace: Trace) -> _Step:
        program = self.program
        m, units = range(program.micro_batches), range(program.units)
        batch = np.array([[self.batches.get((number, j, u), 0) for u in units] for j in m])
        base = np.zeros((len(program.fixed), len(m), len(units)))
        rows = -(-batch // program.ranks)
        times = program.times(number, base, rows, batch.sum(axis=1).tolist())
        return _Step(number=number, trace=trace, times=times, idle=tuple((batch.sum(axis=0) == 0).tolist()))

    def _step(self, step: _Step) -> Iterator[Span]:
        yield from self._attention(step)
        yield from self._ffn(step)
        for g in range(self.program.layers * self.program.micro_batches):
            out, gathered = self._dispatch(step, g)
            back, returned = self._combine(step, g)
            yield from chain(out, back, self._path(step, g, gathered, returned))
        ffn = step.trace.ffn.reshape(-1, self.program.ffns)
        self.sent = {j: float(ffn[j - self.program.micro_batches].max()) for j in range(self.program.micro_batches)}

    # compute ---------------------------------------------------------------------------------------------------------

    def unit(self, u: int) -> str:
        """Return the name of an attention unit."""
        dp = self.program.deployment.attention.dp
        return f"attention[{u // dp}].{u % dp}" if self.program.per_rank else f"attention[{u}]"

    def _attention(self, step: _Step) -> Iterator[Span]:
        """Yield boundaries and attention operations, and the gaps before them cut at the last FFN finish."""
        m, units = self.program.micro_batches, self.program.units
        start, end = (values.reshape(-1, units) for values in (step.trace.attention_start, step.trace.attention))
        begun, over = (values.reshape(-1, units) for values in (step.trace.boundary_start, step.trace.boundary))
        sent = step.trace.ffn.reshape(-1, self.program.ffns).max(axis=1)
        for u in range(units):
            track = self.unit(u)
            works = [(begun[j, u], over[j, u], -1, j, self.sent.get(j, NEVER)) for j in range(m)]
            for g in range(len(start)):
                layer, j = divmod(g, m)
                works.append((start[g, u], end[g, u], layer, j, sent[g - m] if layer else np.inf))
            for begin, until, layer, j, cut in sorted(works):
                yield from self._gap(step, track, float(begin), (float(cut), float(cut)), idle=step.idle[u])
                what = "boundary" if layer < 0 else ""
                yield from self._work(track, (float(begin), float(until)), (step.number, layer, j), what)

    def _ffn(self, step: _Step) -> Iterator[Span]:
        """Yield FFN operations, and the gaps before them cut at the first and the last attention finish."""
        ffns = self.program.ffns
        start, end = (values.reshape(-1, ffns) for values in (step.trace.ffn_start, step.trace.ffn))
        sent = step.trace.attention.reshape(-1, self.program.units)
        for f in range(ffns):
            for g in range(len(start)):
                layer, j = divmod(g, self.program.micro_batches)
                cuts = float(sent[g].min()), float(sent[g].max())
                yield from self._gap(step, f"ffn[{f}]", float(start[g, f]), cuts, idle=all(step.idle))
                yield from self._work(f"ffn[{f}]", (float(start[g, f]), float(end[g, f])), (step.number, layer, j), "")

    def _work(self, track: str, span: Window, turn: tuple[int, int, int], what: str) -> Iterator[Span]:
        self.ended[track] = span[1]
        yield Span(track, *span, *turn, "busy", what)

    def _gap(self, step: _Step, track: str, until: float, cuts: Window, *, idle: bool) -> Iterator[Span]:
        """Yield the gap before an operation: to the first cut `wait_peer`, to the last `imbalance`, then `network`."""
        begin = self.ended.get(track, until)
        if idle or track in self.parked:
            self.parked.discard(track)
            places = [("no_work", begin, until)]
        else:
            first, last = (min(until, max(begin, cut)) for cut in cuts)
            places = [("wait_peer", begin, first), ("imbalance", first, last), ("network", last, until)]
        for cause, left, right in places:
            yield Span(track, left, right, step.number, -1, -1, cause)

    # network ---------------------------------------------------------------------------------------------------------

    def _port(self, track: str, ready: float, seconds: float, least: float = NEVER) -> Window:
        """Occupy a resource in order: from when it is free, for so long, and at least until `least`."""
        begin = max(self.free.get(track, NEVER), ready)
        self.free[track] = max(begin + seconds, least)
        return begin, self.free[track]

    def _dispatch(self, step: _Step, g: int) -> tuple[list[Span], list[float]]:
        """Return the transfers of a turn to the FFN instances, and when each instance has gathered it."""
        (layer, j), timing, spans = divmod(g, self.program.micro_batches), self.program.timing, []
        posted = step.trace.attention.reshape(-1, self.program.units)[g] + timing.send
        headers: dict[tuple[int, int], Window] = {}
        for u, f in np.ndindex(self.program.units, self.program.ffns):
            track = self._lane(("attention", u), ("ffn", f), "egress")
            begin, end = self._port(track, float(posted[u]), float(step.times.out_egress[layer, j, u, f]))
            headers[u, f] = begin, end
            spans.append(Span(track, begin, end, step.number, layer, j, "busy", f"to ffn[{f}]"))
        gathered = []
        for f in range(self.program.ffns):
            seconds = step.times.out_ingress[layer, j, :, f]
            met = {u: headers[u, f] for u in range(self.program.units)}
            arrived, received = self._receive(("ffn", f), ("attention", met), seconds, (step.number, layer, j))
            begin, end = self._port(f"ffn[{f}] gather", arrived + timing.poll, float(step.times.gather[layer, j]))
            spans += [*received, Span(f"ffn[{f}] gather", begin, end, step.number, layer, j, "busy")]
            gathered.append(end)
        return spans, gathered

    def _combine(self, step: _Step, g: int) -> tuple[list[Span], list[float]]:
        """Return the transfers of a turn back to the attention units, and when each unit has all its results."""
        (layer, j), timing, spans = divmod(g, self.program.micro_batches), self.program.timing, []
        computed = step.trace.ffn.reshape(-1, self.program.ffns)[g]
        headers: dict[tuple[int, int], Window] = {}
        for f in range(self.program.ffns):
            begin, end = self._port(f"ffn[{f}] scatter", float(computed[f]), float(step.times.scatter[j]))
            spans.append(Span(f"ffn[{f}] scatter", begin, end, step.number, layer, j, "busy"))
            for u in chain(*self.program.fabric.peers):
                track = self._lane(("ffn", f), ("attention", u), "egress")
                sent = self._port(track, end + timing.send, float(step.times.back_egress[layer, j, f, u]))
                headers[f, u] = sent
                spans.append(Span(track, *sent, step.number, layer, j, "busy", f"to {self.unit(u)}"))
        returned = []
        for u in range(self.program.units):
            met = {f: headers[f, u] for f in range(self.program.ffns)}
            seconds = step.times.back_ingress[layer, j, :, u]
            arrived, received = self._receive(("attention", u), ("ffn", met), seconds, (step.number, layer, j))
            spans += received
            returned.append(arrived + timing.poll)
        return spans, returned

    def _receive(
        self, to: tuple[str, int], by: tuple[str, dict[int, Window]], seconds: Any, turn: tuple[int, int, int]
    ) -> tuple[float, list[Span]]:
        """Let the ports of an instance receive a turn's messages as they arrive; return when all are there."""
        half, spans, arrived = self.program.timing.half, [], NEVER
        pool, messages = by
        for source, (begin, end) in sorted(messages.items(), key=lambda item: (item[1][0], item[0])):
            if self.program.timing.dedicated:
                arrived = max(arrived, end + self.program.timing.latency)
                continue
            track = self._lane(to, (pool, source), "ingress")
            left, right = self._port(track, begin + half, float(seconds[source]), least=end + half)
            name = self.unit(source) if pool == "attention" else f"ffn[{source}]"
            spans.append(Span(track, left + half, right + half, *turn, "busy", f"from {name}"))
            arrived = max(arrived, right + half)
        return arrived, spans

    def _lane(self, owner: tuple[str, int], peer: tuple[str, int], direction: str) -> str:
        """Return the name of the port (or, if wires are dedicated, the wire) between an instance and a peer."""
        pool, index = owner
        name = self.unit(index) if pool == "attention" else f"ffn[{index}]"
        other = self.unit(peer[1]) if peer[0] == "attention" else f"ffn[{peer[1]}]"
        if self.program.timing.dedicated:
            return f"{name} to {other}"
        rail = self.program.fabric.rail[peer[1] if pool == "ffn" else index]
        several = pool == "ffn" and self.program.fabric.rails > 1
        return f"{name}.{rail} {direction}" if several else f"{name} {direction}"

    # micro-batches ---------------------------------------------------------------------------------------------------

    def _path(self, step: _Step, g: int, gathered: list[float], returned: list[float]) -> Iterator[Span]:
        """Yield where a micro-batch was in one layer: A, A to F, F, F to A, and waiting for either."""
        trace, units, ffns = step.trace, self.program.units, self.program.ffns
        layer, j = divmod(g, self.program.micro_batches)
        starts = trace.attention_start if layer else trace.boundary_start
        begin = float(starts.reshape(-1, units)[g if layer else j].min())
        attended = float(trace.attention.reshape(-1, units)[g].max())
        ffn_start, ffn_end = (
            float(trace.ffn_start.reshape(-1, ffns)[g].min()),
            float(trace.ffn.reshape(-1, ffns)[g].max()),
        )
        ready = min(max(gathered), ffn_start)
        places = [
            *self._return(j, begin),
            ("A", begin, attended),
            ("A to F", attended, ready),
            ("wait", ready, ffn_start),
            ("F", ffn_start, ffn_end),
        ]
        self.back[j] = ffn_end, max(returned)
        for what, left, right in places:
            yield Span(f"micro-batch {j}", left, right, step.number, layer, j, "busy", what)

    def _return(self, j: int, begin: float) -> list[tuple[str, float, float]]:
        """Return how a micro-batch came back from the FFN: the first unit may begin before the last has its results."""
        sent, returned = self.back.pop(j, (begin, begin))
        ready = min(returned, begin)
        return [("F to A", sent, ready), ("wait", ready, begin)]


# colocated ----------------------------------------------------------------------------------------------------------


def _colocated(program: ColocatedProgram, steps: Sequence[tuple[int, ColocatedTrace]]) -> Iterator[Span]:
    """Yield the operations of every unit, and where each micro-batch was."""
    ended: dict[str, float] = {}
    for number, trace in steps:
        begun, over = (values.reshape(-1, program.units) for values in (trace.boundary_start, trace.boundary))
        start, end = (values.reshape(-1, program.units) for values in (trace.start, trace.finish))
        for u in range(program.units):
            works = [(Operation(-1, 0, j), begun[j, u], over[j, u], NEVER) for j in range(program.micro_batches)]
            for i, operation in enumerate(program.operations):
                cut = trace.sent[program.waits[i]] if program.waits[i] >= 0 else np.inf
                works.append((operation, start[i, u], end[i, u], cut))
            for operation, *times in works:
                yield from _colocated_work(f"colocated[{u}]", number, operation, list(map(float, times)), ended)
                if u == 0:
                    yield from _colocated_work(
                        f"micro-batch {operation.micro_batch}", number, operation, [*times[:2]], {}
                    )


def _colocated_work(
    track: str, step: int, operation: Operation, times: Sequence[float], ended: dict[str, float]
) -> Iterator[Span]:
    """Yield an operation and the gap before it, cut when the last of the peers had sent."""
    begin, end = float(times[0]), float(times[1])
    last = ended.get(track, begin)
    if begin > last:
        cut = min(begin, max(last, times[2]))
        causes = (
            (("wait_peer", last, begin),)
            if operation.layer < 0
            else (("imbalance", last, cut), ("network", cut, begin))
        )
        for cause, left, right in causes:
            yield Span(track, left, right, step, -1, -1, cause)
    ended[track] = end
    what = "boundary" if operation.layer < 0 else COLOCATED_STAGES[operation.stage]
    yield Span(track, begin, end, step, operation.layer, operation.micro_batch, "busy", what)
