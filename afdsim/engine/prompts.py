"""Seconds of a prefill step: one batch of prompt tokens through all layers, by the operators and prices of decode.

Ranks of an instance meet in every layer with experts, so a step takes as long as its slowest rank's own work, the
experts of all tokens, and the flights between them. With two-batch overlap a step is two halves, and a half's flights
hide behind the other's work: the step takes the longer of both halves' work, and of one half's work and flights. The LM
head sees the last token of the prompts that a step finishes. Experts are asked evenly, and nothing jitters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from afdsim.catalog.llm import Dense, Layer, Moe
from afdsim.cluster.colocated import ExpertParallel
from afdsim.cluster.prefill import Prefill
from afdsim.cost.all_to_all import Exchange, exchange, pair_bytes
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    collective,
    dense_operators,
    expert_operator,
)
from afdsim.cost.prompts import Chunk, Ragged, Sums, ragged, summed
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.engine.passes import byte_seconds, flop_seconds
from afdsim.errors import CatalogError

Array = np.ndarray
EXACT = 16_384
"""Tokens up to which every number is priced; above it so many lines to a doubling, and straight between them."""
LINES = 256
SECONDS, FLOPS, BYTES = range(3)
"""What is known of some work on one GPU: its time, and what its FLOPs and bytes would take at peak."""


class Step(NamedTuple):
    """What a step costs an instance."""

    seconds: float
    own: tuple[float, ...]
    """Seconds in which the GPUs of each rank compute."""
    flights: float
    """Seconds in which all of them wait for tokens on their way."""
    flops: float
    """Seconds at peak FLOP/s, on average over GPUs."""
    bytes: float
    """Seconds at full memory bandwidth, on average over GPUs."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What steps of a prefill instance cost."""

    prefill: Prefill
    cost: CostModel
    nic_scale: float = 1.0
    """Line rate of the NICs over that of the catalog."""

    def step(self, ranks: Sequence[Sequence[Chunk]], finished: Sequence[int]) -> Step:
        """Return the price of the chunks of every rank, of whose prompts so many are finished."""
        halves = 2 if self.prefill.two_batch_overlap else 1
        tokens = [-(-sum(chunk.tokens for chunk in chunks) // halves) for chunks in ranks]
        stages = [self._rows(n) + self._cores(chunks, halves) for n, chunks in zip(tokens, ranks, strict=True)]
        experts, flight = self._experts(sum(tokens)), float(self._flights(max(tokens))[SECONDS])
        slow = 1.0 / (1.0 - self._share) if halves == 2 else 1.0
        heads = [self._heads(count) for count in finished]
        own = [halves * slow * (stage + experts) + head for stage, head in zip(stages, heads, strict=True)]
        slowest = halves * slow * (max(stage[SECONDS] for stage in stages) + experts[SECONDS])
        exposed = max(flight - slowest / 2, 0.0) if halves == 2 else flight
        work = np.mean([halves * (stage + experts) + head for stage, head in zip(stages, heads, strict=True)], axis=0)
        return Step(
            seconds=float(max(each[SECONDS] for each in own) + exposed),
            own=tuple(float(each[SECONDS]) for each in own),
            flights=float(exposed),
            flops=float(work[FLOPS]),
            bytes=float(work[BYTES]),
        )

    def operators(self) -> list[Operator]:
        """Return every operator of a step of one token, priced by the table of coefficients."""
        one, layers = np.ones(1), dict.fromkeys(self.prefill.engine.llm.layers)
        alone = [kernel.operator for kernel, _, _ in self._kernels]
        rows = [operator for layer in layers for operator in (*self._rank(layer, one), *self._shared_out(layer, one))]
        return [*rows, *alone, *self._head(one), *self._lookup(one)]

    # what is priced by tables ----------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> Callable[[int], Array]:
        """By tokens of a rank: all of its layers but core attention and routed experts, and its embedding."""
        layers = Counter(self.prefill.engine.llm.layers).items()
        return self._curve(
            self.prefill.max_batched_tokens,
            lambda n: [
                *((count, each) for layer, count in layers for each in self._rank(layer, n)),
                *((1, each) for each in self._lookup(n)),
            ],
        )

    @cached_property
    def _experts(self) -> Callable[[int], Array]:
        """By tokens of all ranks: the routed experts of all layers, on one GPU."""
        layers = Counter(self.prefill.engine.llm.layers).items()
        return self._curve(
            self.prefill.dp * self.prefill.max_batched_tokens,
            lambda n: [(count, each) for layer, count in layers for each in self._shared_out(layer, n)],
        )

    @cached_property
    def _heads(self) -> Callable[[int], Array]:
        """By prompts that a rank finishes."""
        return self._curve(self.prefill.max_batched_tokens, lambda n: [(1, each) for each in self._head(n)])

    @cached_property
    def _flights(self) -> Callable[[int], Array]:
        """By tokens of the rank that has most: dispatch and combine of all layers with experts."""
        most = self.prefill.max_batched_tokens
        if not self._travels:
            return lambda _: np.zeros(3)
        return _curve(most, lambda n: np.stack([self._travel(n), np.zeros(len(n)), np.zeros(len(n))]))

    def _curve(self, most: int, work: Callable[[Array], Iterable[tuple[int, Operator]]]) -> Callable[[int], Array]:
        def priced(n: Array) -> Array:
            parts = [
                [count * np.broadcast_to(meter(each), n.shape) for meter in self._meters] for count, each in work(n)
            ]
            found: Array = np.sum(parts, axis=0) if parts else np.zeros((3, len(n)))
            return np.where(n > 0, found, 0.0)

        return _curve(most, priced)

    @cached_property
    def _meters(self) -> tuple[Callable[[Operator], Array | float], ...]:
        gpu = self.prefill.gpu
        return (
            lambda each: self.cost.seconds(each, gpu),
            lambda each: flop_seconds(each, gpu),
            lambda each: byte_seconds(each, gpu),
        )

    # what a step is made of ------------------------------------------------------------------------------------------

    def _rank(self, layer: Layer, n: Array) -> tuple[Operator, ...]:
        """Return the operators of a layer on a GPU of a rank of `n` tokens, but core attention and routed experts."""
        engine, tp = self.prefill.engine, self.prefill.tp
        dtype, ffn = engine.precision.ffn, layer.ffn
        attention = attention_operators(engine.llm, layer, n, precision=engine.precision, tp=tp)
        if isinstance(ffn, Dense):
            own = dense_operators(engine.llm, n, ffn.inner / tp, dtype, matrices=ffn.matrices)
            return (*attention, *own, *self._all_reduce(n))
        width = ffn.shared * ffn.shared_inner
        if not width:
            return attention
        rows, inner = (np.ceil(n / tp), width) if self._travels else (n, width / tp)
        return (*attention, *dense_operators(engine.llm, rows, inner, dtype, matrices=ffn.matrices))

    def _shared_out(self, layer: Layer, n: Array) -> tuple[Operator, ...]:
        """Return the routed experts of one GPU for `n` tokens of all ranks, and where it has parts of all the sum."""
        engine, ffn = self.prefill.engine, layer.ffn
        if not isinstance(ffn, Moe):
            return ()
        routed = expert_operator(engine.llm, engine.routed(ffn), n, precision=engine.precision, split=engine.split)
        return (routed,) if self._travels else (routed, *self._all_reduce(n))

    def _all_reduce(self, n: Array) -> tuple[Operator, ...]:
        tp = self.prefill.tp
        if tp == 1:
            return ()
        wire = 2.0 * (tp - 1) / tp * n * self.prefill.engine.llm.hidden * 2.0
        return (collective("ffn all-reduce", wire, gpus=tp, stage="ffn"),)

    def _head(self, n: Array) -> list[Operator]:
        return [each for each in self._boundary(n) if not each.name.startswith("embedding")]

    def _lookup(self, n: Array) -> list[Operator]:
        return [each for each in self._boundary(n) if each.name.startswith("embedding")]

    def _boundary(self, n: Array) -> tuple[Operator, ...]:
        engine = self.prefill.engine
        return boundary_operators(engine.llm, n, precision=engine.precision, tp=self.prefill.tp)

    # core attention --------------------------------------------------------------------------------------------------

    def _cores(self, chunks: Sequence[Chunk], halves: int) -> Array:
        """Return core attention of a rank, on one of its GPUs and for one of so many parts of a step."""
        if not chunks:
            return np.zeros(3)
        sums = {window: summed(chunks, window) for window in self._windows}
        part = {window: Sums(*(each / halves for each in whole)) for window, whole in sums.items()}
        return sum((layers * price(part[kernel.window]) for kernel, layers, price in self._kernels), np.zeros(3))

    @cached_property
    def _windows(self) -> tuple[int | None, ...]:
        return tuple(dict.fromkeys(kernel.window for kernel, _, _ in self._kernels))

    @cached_property
    def _kernels(self) -> list[tuple[Ragged, int, Callable[[Sums], Array]]]:
        """Kernels with their layers and their price."""
        engine = self.prefill.engine
        found = ragged(engine.llm, engine.precision, self.prefill.tp)
        return [(kernel, layers, self._price(kernel)) for kernel, layers in found]

    def _price(self, kernel: Ragged) -> Callable[[Sums], Array]:
        """Return the price of a kernel: of the roofline its law, which is quicker than to ask it for every step."""
        gpu = self.prefill.gpu
        if not isinstance(self.cost, Roofline):
            return lambda sums: np.array([float(meter(kernel.of(sums))) for meter in self._meters])
        law = self.cost.law(kernel.operator, gpu)
        peak = float(flop_seconds(replace(kernel.operator, flops=1.0), gpu))

        def price(sums: Sums) -> Array:
            flops, moved = kernel.flops.times(sums), kernel.bytes.times(sums)
            if not flops and not moved:
                return np.zeros(3)
            seconds = law.fixed + max(flops * law.per_flop, moved * law.per_byte)
            return np.array([seconds, flops * peak, moved / gpu.memory_bandwidth])

        return price

    # between experts -------------------------------------------------------------------------------------------------

    @property
    def _travels(self) -> bool:
        """Whether tokens travel between GPUs that hold whole experts."""
        return isinstance(self.prefill.engine.experts, ExpertParallel) and self.prefill.engine.gpus > 1

    def _exchange(self, operation: str) -> Exchange:
        """Return the normal kernels, made for many tokens; where none are known on the GPU the low-latency ones."""
        place = (operation, self.prefill.gpu, self.prefill.engine.gpus)
        try:
            return exchange("normal", *place, nic_scale=self.nic_scale)
        except CatalogError:
            return exchange("low_latency", *place, nic_scale=self.nic_scale)

    @property
    def _share(self) -> float:
        """SMs that the kernels hold while others compute."""
        if not self._travels:
            return 0.0
        return max(self._exchange(operation).row.share for operation in ("dispatch", "combine"))

    def _travel(self, n: Array) -> Array:
        """Return the seconds of dispatch and combine of all layers, for `n` tokens of the rank that has most."""
        engine = self.prefill.engine
        seconds = np.zeros(len(n))
        for layer, count in Counter(engine.llm.layers).items():
            if not isinstance(layer.ffn, Moe):
                continue
            for operation, dtype in (("dispatch", engine.precision.ffn), ("combine", "bf16")):
                nbytes = n / self.prefill.tp * layer.ffn.top_k * pair_bytes(engine.llm.hidden, dtype)
                seconds = seconds + count * self._flight(operation, nbytes)
        return np.where(n > 0, seconds, 0.0)

    def _flight(self, operation: str, nbytes: Array) -> Array:
        if isinstance(self.cost, Roofline):
            return np.asarray(self._exchange(operation).seconds(nbytes))
        moved = collective(operation, nbytes, gpus=self.prefill.engine.gpus, stage=operation)
        return np.asarray(np.broadcast_to(self.cost.seconds(moved, self.prefill.gpu), nbytes.shape))


def _curve(most: int, priced: Callable[[Array], Array]) -> Callable[[int], Array]:
    """Return a function of a number up to `most` from its values (three, number) at the lines of a grid."""
    far = EXACT * 2.0 ** np.arange(0.0, max(np.log2(most / EXACT), 0.0), 1 / LINES)
    grid = np.unique(np.concatenate([np.arange(min(most, EXACT) + 1), np.round(far[far < most]), [most]]))
    values = priced(grid).T.copy()

    def at(number: int) -> Array:
        if number <= EXACT:
            return np.asarray(values[number])
        place = min(int(np.searchsorted(grid, number, side="right")) - 1, len(grid) - 2)
        part = (number - grid[place]) / (grid[place + 1] - grid[place])
        return np.asarray(values[place] + part * (values[place + 1] - values[place]))

    return at
