"""The compiled scenario: tables of seconds that both engines read, and the random multipliers of a step.

Index letters: l layer, j micro-batch, u attention unit (an instance, or a rank at GPU granularity), r rank inside a
unit, f FFN instance. Arrays name their axes in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import add
from typing import NamedTuple

import numpy as np

from afdsim.catalog.llm import Layer
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.topology import Fabric
from afdsim.cost.operators import core_operator
from afdsim.cost.roofline import CostModel
from afdsim.engine.causes import Trace
from afdsim.engine.drafts import SCALE, Drafts
from afdsim.engine.variation import Variation

Array = np.ndarray
Table = list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCore:
    """Core attention as a roofline: fixed + max(flop time, byte time), both affine in the context sum."""

    window: int
    """Index of the context sum it reads (`Program.windows`)."""
    fixed: float
    flop: float
    """Seconds of arithmetic per context token."""
    byte: float
    """Seconds of memory traffic per context token."""
    flop_per_token: float
    """Seconds of arithmetic per sequence, whatever its context (linear attention)."""
    byte_per_token: float
    """Seconds of memory traffic per sequence (queries in, results out)."""

    def seconds(self, batch: int, context: int) -> float:
        """Seconds for `batch` sequences whose contexts add up to `context`."""
        return self.fixed + max(
            context * self.flop + batch * self.flop_per_token, context * self.byte + batch * self.byte_per_token
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledCore:
    """Core attention of a cost model that has no closed form: asked at every boundary."""

    window: int
    layer: Layer
    deployment: Afd | Colocated
    cost: CostModel
    query_tokens: int = 1
    """Tokens of a sequence that read its KV cache together."""

    def seconds(self, batch: int, context: int) -> float:
        """Seconds for `batch` sequences whose contexts add up to `context`."""
        pool = self.deployment.attention
        operator = core_operator(
            self.layer,
            np.array([float(batch * self.query_tokens)]),
            np.array([context / SCALE if self.query_tokens > 1 else float(context)]),
            precision=self.deployment.precision,
            tp=pool.tp,
            query_tokens=self.query_tokens,
        )
        return float(np.asarray(self.cost.seconds(operator, pool.gpu)).reshape(-1)[0])


Core = LinearCore | SampledCore


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a message is on its way beside the wire, and how steps begin (DESIGN 4, pinned constants)."""

    dedicated: bool
    """One wire per pair of instances instead of NIC ports."""
    send: float
    """Seconds between the end of a computation and the NIC: synchronise and post."""
    poll: float
    latency: float
    """One-way path from NIC to NIC."""
    half: float
    """Latency of one hop."""
    drain: bool
    gap: float


class StepTimes(NamedTuple):
    """Seconds of every operation of one decode step, multipliers included."""

    attention: Array
    """(l, j, u)"""
    ffn: Array
    """(l, j, f)"""
    gather: Array
    """(l, j)"""
    scatter: Array
    """(j,)"""
    out_egress: Array
    """(l, j, u, f), seconds on the sender's port"""
    out_ingress: Array
    """(l, j, u, f), seconds on the receiver's port"""
    back_egress: Array
    """(l, j, f, u)"""
    back_ingress: Array
    """(l, j, f, u)"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """Everything about a deployment that does not change while it runs."""

    deployment: Afd
    fabric: Fabric
    timing: Timing
    variation: Variation
    per_rank: bool
    """GPU granularity: every attention rank is a unit of its own."""
    windows: tuple[int | None, ...]
    attention_kind: tuple[int, ...]
    """Kind of attention stage of every layer, an index into `fixed` and `core`."""
    fixed: tuple[Table, ...]
    """Seconds of a kind's attention stage without its core, by batch of a rank."""
    core: tuple[int, ...]
    """Index into `cores` of every kind."""
    cores: tuple[Core, ...]
    drafts: Drafts | None
    """Multi-token prediction, if there is any."""
    head: Table
    """Seconds of the step boundary (reduction, LM head, sampling), by batch of a rank."""
    wire_kind: tuple[int, ...]
    """Kind of message of every layer: with or without expert ids."""
    gather: tuple[Table, ...]
    """By kind of message and tokens of the micro-batch."""
    ffn_row: Array
    """Index into `ffn` by FFN instance and layer (f, l)."""
    ffn_row_even: Array
    """The same for a GPU whose load is the mean (l,)."""
    ffn: tuple[Table, ...]
    """Seconds by tokens of the micro-batch, of every kind of FFN and load of its slowest GPU."""
    scatter: Table
    out_egress: tuple[Table, ...]
    """By kind of message and batch of the largest rank."""
    out_ingress: tuple[Table, ...]
    back_egress: Table
    back_ingress: Table
    dispatch_bytes: tuple[float, ...]
    """Bytes per token to each FFN instance, by kind of message."""
    combine_bytes: float
    """Bytes per token from each FFN instance."""

    @property
    def layers(self) -> int:
        return len(self.attention_kind)

    @property
    def queries(self) -> int:
        """Query tokens of a sequence and step: 1, and one more for every draft."""
        return 1 + (self.drafts.draft if self.drafts else 0)

    @property
    def micro_batches(self) -> int:
        return self.deployment.num_microbatches

    @property
    def ranks(self) -> int:
        """Attention ranks inside one unit."""
        return 1 if self.per_rank else self.deployment.attention.dp

    @property
    def units(self) -> int:
        return self.deployment.attention.ranks // self.ranks

    @property
    def ffns(self) -> int:
        return self.deployment.ffn.instances

    @property
    def ports(self) -> int:
        """Ports of the FFN side per direction: one per FFN instance and rail, instance-major."""
        return self.ffns * self.fabric.rails

    @cached_property
    def layers_of_kind(self) -> tuple[int, ...]:
        return tuple(self.attention_kind.count(kind) for kind in range(len(self.fixed)))

    @cached_property
    def kernel_refuses(self) -> str | None:
        """Why the kernel may not run this program, or None."""
        if self.layers == 1 and self.micro_batches > 1:
            return "one layer with several micro-batches: a step may overtake the boundaries of the one before"
        return None

    @cached_property
    def compiles(self) -> bool:
        """Whether whole steps can run in machine code: one token a step, and a core in closed form."""
        return self.drafts is None and all(isinstance(core, LinearCore) for core in self.cores)

    @cached_property
    def parks(self) -> bool:
        """Whether an idle pipeline parks; where steps may overlap nobody can tell that it is idle."""
        return self.kernel_refuses is None

    @cached_property
    def first_layer(self) -> tuple[tuple[int, bool], ...]:
        """(micro-batch, is a boundary) in the order in which a unit begins a step."""
        turns = range(self.micro_batches)
        if self.timing.drain:
            return (*((j, True) for j in turns), *((j, False) for j in turns))
        return tuple((j, boundary) for j in turns for boundary in (True, False))

    def gap(self, j: int) -> float:
        """Seconds that a draining unit pauses before the first layer of micro-batch `j`."""
        return self.timing.gap if self.timing.drain and j == 0 else 0.0

    @cached_property
    def trace_sizes(self) -> tuple[int, ...]:
        """Lengths of the sequences of a `causes.Trace`."""
        turns, units = self.layers * self.micro_batches, self.units
        ends = self.micro_batches * units
        return (turns * units, turns * units, turns * self.ffns, turns * self.ffns, ends, ends)

    def blank_trace(self) -> Trace:
        """An empty record of a step."""
        return Trace(*([0.0] * size for size in self.trace_sizes))

    def attention_seconds(self, batch: list[int], contexts: list[list[int]]) -> tuple[list[float], list[list[float]]]:
        """Seconds of a unit's attention by kind (its slowest rank), and of the cores (core, rank)."""
        cores = [
            [core.seconds(b, s) if b else 0.0 for b, s in zip(batch, contexts[core.window], strict=True)]
            for core in self.cores
        ]
        kinds = [
            max(map(add, map(fixed.__getitem__, batch), cores[core]))
            for fixed, core in zip(self.fixed, self.core, strict=True)
        ]
        return kinds, cores

    def rank_seconds(self, batch: list[int], cores: list[list[float]]) -> Array:
        """Attention seconds of all layers of each rank alone (r,)."""
        seconds: Array = self.fixed_total[batch] + np.array(self.layers_of_core) @ np.array(cores)
        return seconds

    @cached_property
    def fixed_total(self) -> Array:
        """Seconds of all layers' attention without the cores, by batch of a rank."""
        total: Array = np.array(self.layers_of_kind) @ np.array(self.fixed)
        return total

    @cached_property
    def layers_of_core(self) -> tuple[int, ...]:
        counts = [0] * len(self.cores)
        for kind in self.attention_kind:
            counts[self.core[kind]] += 1
        return tuple(counts)

    def ffn_seconds(self, f: int, layer: int, tokens: int) -> float:
        """Seconds of one FFN operation for all `tokens` of a micro-batch, before multipliers."""
        return self.ffn[int(self.ffn_row[f, layer])][tokens]

    def times(self, step: int, base: Array, rows: Array, tokens: Sequence[int]) -> StepTimes:
        """All durations of a step from base (kind, j, u), rows of the largest rank (j, u) and tokens (j,)."""
        noise = self.variation.multipliers(step)
        kinds, wires = self._kinds, self._wires
        ffn = self._ffn[self.ffn_row.T[:, None, :], np.array(tokens)[None, :, None]]
        out = self._out_egress[wires][:, rows][..., None] * noise.out
        back = self._back_egress[rows][:, None, :] * noise.back
        return StepTimes(
            attention=base[kinds] * noise.attention,
            ffn=ffn * noise.ffn,
            gather=self._gather[wires][:, tokens],
            scatter=self._scatter[tokens],
            out_egress=out,
            out_ingress=out if self._same_ports else self._out_ingress[wires][:, rows][..., None] * noise.out,
            back_egress=back,
            back_ingress=back if self._same_ports else self._back_ingress[rows][:, None, :] * noise.back,
        )

    @cached_property
    def _same_ports(self) -> bool:
        return self.out_egress == self.out_ingress and self.back_egress == self.back_ingress

    @cached_property
    def _kinds(self) -> Array:
        return np.array(self.attention_kind)

    @cached_property
    def _wires(self) -> Array:
        return np.array(self.wire_kind)

    @cached_property
    def _ffn(self) -> Array:
        return np.array(self.ffn)

    @cached_property
    def _gather(self) -> Array:
        return np.array(self.gather)

    @cached_property
    def _scatter(self) -> Array:
        return np.array(self.scatter)

    @cached_property
    def _out_egress(self) -> Array:
        return np.array(self.out_egress)

    @cached_property
    def _out_ingress(self) -> Array:
        return np.array(self.out_ingress)

    @cached_property
    def _back_egress(self) -> Array:
        return np.array(self.back_egress)

    @cached_property
    def _back_ingress(self) -> Array:
        return np.array(self.back_ingress)
