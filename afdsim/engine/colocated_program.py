"""The compiled colocated deployment: what `colocated_processes` and `colocated_kernel` read, and the order of stages.

Five stages per layer and micro-batch (cost and order of the published DeepSeek and SGLang schedules):

    0  norm, projections into attention
    1  core attention, o_proj, router
    2  send the dispatch, shared expert (a dense layer: all of its FFN)
    3  receive the dispatch, routed experts, send the combine
    4  receive the combine

A GPU computes one stage at a time. With two micro-batches the second runs two stages behind the first, so that one
computes while the other's tokens fly. Index letters: i operation in that order, u unit, the rest as in `program`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import add
from typing import Any, NamedTuple

import numpy as np

from afdsim.catalog.llm import Layer
from afdsim.cluster.colocated import Colocated
from afdsim.engine.colocated_causes import Line
from afdsim.engine.drafts import Drafts
from afdsim.engine.program import Array, Core, Table
from afdsim.workload.laws import Stream

Values = Any
NOTHING, DISPATCH, COMBINE = range(3)
"""What an operation posts or waits for."""


class Operation(NamedTuple):
    """One stage of one micro-batch in one layer."""

    layer: int
    stage: int
    micro_batch: int


def order(stages: Sequence[int], micro_batches: int) -> tuple[Operation, ...]:
    """Every operation of a step in the order in which each GPU runs them; `stages` of each layer.

    >>> [f"{'ab'[j]}{stage}" for _, stage, j in order([5], 2)]
    ['a0', 'a1', 'a2', 'b0', 'a3', 'b1', 'a4', 'b2', 'b3', 'b4']
    """
    lanes = [
        [Operation(layer, stage, j) for layer, count in enumerate(stages) for stage in range(count)]
        for j in range(micro_batches)
    ]
    behind = [[None] * (2 * j) + lane + [None] * (2 * (micro_batches - 1 - j)) for j, lane in enumerate(lanes)]
    return tuple(each for each in chain(*zip(*behind, strict=True)) if each is not None)


class ColocatedTrace(NamedTuple):
    """What happened in one step."""

    start: Values  # i, u
    finish: Values  # i, u
    held: Values  # i, u: seconds of the operation in which communication held the SMs
    sent: Values  # i: when the last unit had posted
    boundary_start: Values  # j, u
    boundary: Values  # j, u


class ColocatedTimes(NamedTuple):
    """Seconds of every operation of one step, multipliers included; (i, u) each."""

    work: Array
    early: Array
    """How long before its end the operation posts."""
    held: Array
    out: Array
    """Seconds that the unit's tokens occupy its ports on the way out."""
    into: Array
    """Seconds that the tokens for this unit occupy its ports on the way in."""


class Received(NamedTuple):
    """What the tokens of a whole micro-batch cost the GPU of each load that they reach; arrays over loads."""

    experts: Array
    held: Array
    """Receiving the dispatch and sending the combine, SMs held."""
    fly_in: Array
    fly_out: Array


@dataclass(frozen=True, kw_only=True)
class ColocatedVariation:
    """Lognormal multipliers of mean 1 and constant stragglers, as in `variation.Variation`."""

    stream: Stream
    stragglers: tuple[float, ...]
    event: float = 0.0
    step: float = 0.0
    link: float = 0.0

    def compute(self, step: int, operations: int) -> Array:
        """Factors of operations (i, u): straggler x step x event, associated in that order."""
        units = len(self.stragglers)
        slow = np.array(self.stragglers) * self._lognormal("step_attention", self.step, step, (units,))
        return np.asarray((slow[:, None] * self._lognormal("event_attention", self.event, step, (units, operations))).T)

    def wire(self, step: int, operations: int) -> Array:
        """Factors of transfers (i, u)."""
        return np.asarray(self._lognormal("link_out", self.link, step, (len(self.stragglers), operations)).T)

    def _lognormal(self, kind: str, sigma: float, step: int, shape: tuple[int, ...]) -> Array:
        if sigma == 0:
            return np.ones(shape)
        return np.asarray(np.exp(self.stream(kind, step).standard_normal(shape) * sigma - 0.5 * sigma * sigma))


@dataclass(frozen=True, kw_only=True)
class ColocatedProgram:
    """Everything about a colocated deployment that does not change while it runs."""

    deployment: Colocated
    variation: ColocatedVariation
    per_rank: bool
    """GPU granularity: every attention rank is a unit of its own."""
    exchanges: bool
    """Whether tokens travel between GPUs."""
    all_to_all: str
    """What is known of the exchange: measured, transferred or assumed; empty without one."""
    host: float
    """Seconds that the host takes between two steps."""
    slowdown: float
    """Factor on all compute while communication kernels hold a share of the SMs."""
    hides_shared: bool
    """Whether the shared expert runs while the dispatch flies."""
    hides_down: float
    """Share of the experts' time that already overlaps with the combine (single-batch overlap)."""
    drafts: Drafts | None
    queries: int
    """Query tokens of a sequence and step: 1, and one more for every draft."""
    layer_types: tuple[Layer, ...]
    """Layers of a step in order, drafts included."""
    windows: tuple[int | None, ...]
    layer_kind: tuple[int, ...]
    """Kind of every layer."""
    stages: tuple[int, ...]
    """Stages of every layer."""
    fixed: tuple[Table, ...]
    """Seconds of stages 0, 1, 2 of every kind (3 x kind + stage) without the core, by batch of a rank."""
    core: tuple[int, ...]
    """Index into `cores` of each of these; beyond the last where there is none."""
    cores: tuple[Core, ...]
    head: Table
    """Seconds of the step boundary (LM head, sampling, drafts), by batch of a rank."""
    shared: tuple[Table, ...]
    """Seconds of the shared expert of every kind, the end of stage 2, by batch of a rank."""
    send: Table
    """Seconds in which sending a dispatch holds the SMs, by batch of a rank; in `fixed` already."""
    receive: Table
    """The same for receiving a combine, all of stage 4."""
    fly_out: Table
    """Seconds that a dispatch flies, by batch of the sending rank."""
    fly_back: Table
    """Seconds that a combine flies to a rank, by its batch."""
    load_row: Array
    """Index into the arrays of `Received` by unit and layer (u, l)."""
    received: Callable[[int], Received]
    """By tokens of the micro-batch over all ranks."""
    dispatch_bytes: float
    """Bytes that a rank's GPUs send per sequence and MoE layer, its own experts included."""
    combine_bytes: float
    _totals: dict[int, Received] = field(default_factory=dict, repr=False, compare=False)

    @property
    def layers(self) -> int:
        """Layers of a step, drafts included."""
        return len(self.layer_kind)

    @property
    def micro_batches(self) -> int:
        """Micro-batches that take turns."""
        return self.deployment.num_microbatches

    @property
    def ranks(self) -> int:
        """Attention ranks inside one unit."""
        return 1 if self.per_rank else self.deployment.attention.dp

    @property
    def units(self) -> int:
        """Servers, or ranks at GPU granularity."""
        return self.deployment.attention.ranks // self.ranks

    @property
    def ffns(self) -> int:
        """Return 0: there is no second pool."""
        return 0

    @property
    def rails(self) -> int:
        """Return 1: every unit has one port each way."""
        return 1

    @property
    def kernel_refuses(self) -> str | None:
        """Return None: the kernel runs every colocated program."""
        return None

    @property
    def parks(self) -> bool:
        """Return True: an idle pipeline parks."""
        return True

    @property
    def first_layer(self) -> tuple[tuple[int, bool], ...]:
        """(micro-batch, is a boundary) in the order in which a unit begins a step: boundaries only."""
        return tuple((j, True) for j in range(self.micro_batches))

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The order of a step on every GPU."""
        return order(self.stages, self.micro_batches)

    @cached_property
    def posts(self) -> tuple[int, ...]:
        """What every operation posts when it is done."""
        return tuple(
            {2: DISPATCH, 3: COMBINE}.get(each.stage, NOTHING) if self._travels(each.layer) else NOTHING
            for each in self.operations
        )

    @cached_property
    def waits(self) -> tuple[int, ...]:
        """Operation whose tokens every operation waits for; -1 for none."""
        at = {each: i for i, each in enumerate(self.operations)}
        return tuple(
            at[each._replace(stage=each.stage - 1)] if self._travels(each.layer) and each.stage >= 3 else -1
            for each in self.operations
        )

    def _travels(self, layer: int) -> bool:
        return self.exchanges and self.stages[layer] == 5

    @cached_property
    def line(self) -> Line:
        """The order of a step as flat integers."""
        batch = [each.micro_batch for each in self.operations]
        return Line(self.units, self.micro_batches, list(self.posts), list(self.waits), batch)

    @cached_property
    def trace_sizes(self) -> tuple[int, ...]:
        """Lengths of the sequences of a `ColocatedTrace`."""
        ops, ends = len(self.operations), self.micro_batches * self.units
        return (ops * self.units, ops * self.units, ops * self.units, ops, ends, ends)

    def blank_trace(self) -> ColocatedTrace:
        """Return an empty record of a step."""
        return ColocatedTrace(*([0.0] * size for size in self.trace_sizes))

    # seconds ---------------------------------------------------------------------------------------------------------

    def attention_seconds(self, batch: list[int], contexts: list[list[int]]) -> tuple[list[float], list[list[float]]]:
        """Seconds of a unit's stages 0, 1, 2 by kind (its slowest rank), and of the cores (core, rank)."""
        cores = [
            [core.seconds(b, s) if b else 0.0 for b, s in zip(batch, contexts[core.window], strict=True)]
            for core in self.cores
        ]
        cores.append([0.0] * len(batch))
        kinds = [
            max(map(add, map(fixed.__getitem__, batch), cores[core]))
            for fixed, core in zip(self.fixed, self.core, strict=True)
        ]
        return kinds, cores

    def rank_seconds(self, batch: list[int], cores: list[list[float]]) -> Array:
        """Seconds of stages 0, 1, 2 over all layers of each rank alone (r,)."""
        return np.asarray(self._fixed_total[batch] + self._layers_of_core @ np.array(cores))

    @cached_property
    def layers_of_kind(self) -> tuple[int, ...]:
        """How often each of `fixed` runs in a step."""
        return tuple(self.layer_kind.count(place // 3) for place in range(len(self.fixed)))

    @cached_property
    def _fixed_total(self) -> Array:
        return np.asarray(np.array(self.layers_of_kind) @ np.array(self.fixed))

    @cached_property
    def _layers_of_core(self) -> Array:
        counts = np.zeros(len(self.cores) + 1)
        np.add.at(counts, list(self.core), self.layers_of_kind)
        return counts

    def of_tokens(self, total: int) -> Received:
        """`received`, kept: most micro-batches have the same size again and again."""
        if total not in self._totals:
            self._totals[total] = self.received(total)
        return self._totals[total]

    def times(self, step: int, base: Array, rows: Array, tokens: Sequence[int]) -> ColocatedTimes:
        """All durations of a step from base (kind, j, u), rows of the largest rank (j, u) and tokens (j,)."""
        shape, at = (len(self.operations), self.units), self._places
        work, early, held, out, into = (np.zeros(shape) for _ in range(5))
        work[at.rank] = base[at.kind, at.rank_batch] * self.slowdown
        for j in range(self.micro_batches):
            rows_j, got = rows[j], self.of_tokens(tokens[j])
            sends, computes, ends = at.moe[j]
            load = self.load_row.T[at.layers]
            experts = got.experts[load] * self.slowdown
            held[sends], held[computes], held[ends] = self._send[rows_j], got.held[load], self._receive[rows_j]
            work[computes], work[ends] = experts + got.held[load], self._receive[rows_j]
            if self.hides_shared:
                early[sends] = self._shared[at.kinds][:, rows_j] * self.slowdown
            early[computes] = experts * self.hides_down
            out[sends], into[sends] = self._fly_out[rows_j], got.fly_in[load]
            out[computes], into[computes] = got.fly_out[load], self._fly_back[rows_j]
        noise, wires = self.variation.compute(step, shape[0]), self.variation.wire(step, shape[0])
        return ColocatedTimes(work * noise, early * noise, held * noise, out * wires, into)

    @cached_property
    def _places(self) -> _Places:
        ops = self.operations
        rank = [i for i, each in enumerate(ops) if each.stage < 3]
        layers = [layer for layer, count in enumerate(self.stages) if count > 3]
        at = {each: i for i, each in enumerate(ops)}
        return _Places(
            rank=rank,
            kind=[3 * self.layer_kind[ops[i].layer] + ops[i].stage for i in rank],
            rank_batch=[ops[i].micro_batch for i in rank],
            layers=layers,
            kinds=[self.layer_kind[layer] for layer in layers],
            moe=[
                tuple([at[Operation(place, s, j)] for place in layers if s < self.stages[place]] for s in (2, 3, 4))
                for j in range(self.micro_batches)
            ],
        )

    @cached_property
    def _shared(self) -> Array:
        return np.array(self.shared)

    @cached_property
    def _send(self) -> Array:
        return np.array(self.send)

    @cached_property
    def _receive(self) -> Array:
        return np.array(self.receive)

    @cached_property
    def _fly_out(self) -> Array:
        return np.array(self.fly_out)

    @cached_property
    def _fly_back(self) -> Array:
        return np.array(self.fly_back)


class _Places(NamedTuple):
    """Where the operations of each sort are."""

    rank: list[int]
    kind: list[int]
    rank_batch: list[int]
    layers: list[int]
    """Layers with routed experts."""
    kinds: list[int]
    moe: list[tuple[list[int], ...]]
    """Sends, experts and receives of these layers, by micro-batch."""
