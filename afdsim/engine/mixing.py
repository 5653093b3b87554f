"""Prompts inside the steps of a colocated deployment: what they cost, in the tables that decode is looked up in.

All operators but core attention see rows, and do not tell those of prompts from those that decode: the tables of a rank
then go by rows. Core attention of prompts is kernels of their own behind those of decode, by the same laws as on
prefill servers (`cost.prompts`). Under a cost model that is no roofline their seconds lie on a grid by tokens and
pairs, those of one chunk that has as many of both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from afdsim.catalog.llm import Core
from afdsim.cluster.colocated import Colocated
from afdsim.cost.operators import Operator, boundary_operators
from afdsim.cost.prompts import Ragged, Sums, kernels
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.engine import passes
from afdsim.engine.cell import LONGEST, Array, Extra, Ranks, lines, priced
from afdsim.engine.passes import Work
from afdsim.engine.seats import UNBOUNDED, Prompting
from afdsim.engine.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What prompts cost a rank that computes up to `chunk` tokens of them in a step."""

    deployment: Colocated
    cost: CostModel
    queries: int
    chunk: int

    @cached_property
    def budgets(self) -> Array:
        """Tokens in a step of every micro-batch: the chunk split evenly, the first ones one more."""
        m = self.deployment.num_microbatches
        return np.array([(self.chunk + m - 1 - j) // m for j in range(m)], dtype=np.int64)

    @cached_property
    def kernels(self) -> list[tuple[Core, Ragged]]:
        """Kernels of every core, once."""
        engine = self.deployment
        cores = dict.fromkeys(core for layer in engine.llm.layers for core in layer.cores)
        return [(core, kernel) for core in cores for kernel in kernels(core, engine.precision, engine.attention.tp)]

    @cached_property
    def windows(self) -> list[int | None]:
        """Different windows of the kernels."""
        return list(dict.fromkeys(kernel.window for _, kernel in self.kernels))

    @property
    def prompting(self) -> Prompting:
        """The same as numbers."""
        ranks, slots = self.deployment.attention.ranks, self.deployment.micro_batch_slots
        chunks = ranks * sum(min(places, budget) for places, budget in zip(slots, self.budgets.tolist(), strict=True))
        windows = [UNBOUNDED if window is None else window for window in self.windows]
        return Prompting(True, self.budgets, self.queries, np.array(windows, dtype=np.int64), chunks)

    def operators(self) -> list[Operator]:
        """Return every operator that prompts have apart from decode."""
        return [kernel.operator for _, kernel in self.kernels]

    # seconds ---------------------------------------------------------------------------------------------------------

    def added(self, tables: Tables, ranks: Ranks) -> Tables:
        """Return the tables with the kernels of prompts behind the cores of decode, and the lookup of embeddings."""
        cores, none = len(tables.core_window), len(tables.core_window) + len(self.kernels)
        mine = [
            [cores + p for core in own for p, (each, _) in enumerate(self.kernels) if each == core]
            for own in ranks.cores_of
        ]
        behind = np.full((len(tables.core), max(map(len, mine))), none)
        for kind, places in enumerate(mine):
            behind[kind, : len(places)] = places
        core = np.hstack([np.where(tables.core == cores, none, tables.core), behind])
        times = np.bincount(core.reshape(-1), np.repeat(tables.times_of_kind, core.shape[1]), minlength=none + 1)
        grids = [np.zeros(0) if isinstance(self.cost, Roofline) else self._grid(kernel) for _, kernel in self.kernels]
        begins = len(tables.grids) + np.cumsum([0, *map(len, grids)])[:-1]
        return tables._replace(
            core=core,
            times_of_core=times,
            lookup=self._lookup(),
            chunk_law=np.array([self._law(kernel) for _, kernel in self.kernels]).reshape(-1, 11),
            chunk_window=np.array([self.windows.index(kernel.window) for _, kernel in self.kernels], dtype=np.int64),
            chunk_grid=np.array([begin if len(grid) else -1 for begin, grid in zip(begins, grids, strict=True)]),
            grids=np.concatenate([tables.grids, *grids]),
        )

    def _law(self, kernel: Ragged) -> tuple[float, ...]:
        """Return the fixed seconds of a kernel, then those of arithmetic and of traffic by what its sums count."""
        if not isinstance(self.cost, Roofline):
            return (0.0,) * 11
        law = self.cost.law(kernel.operator, self.deployment.attention.gpu)
        flops, moved = [each * law.per_flop for each in kernel.flops], [each * law.per_byte for each in kernel.bytes]
        return (law.fixed, *flops, *moved)

    def _grid(self, kernel: Ragged) -> Array:
        """Return seconds by tokens and pairs, in the layout of `tables.on_grid`.

        Made monotone in pairs only: of fewer tokens as many pairs lie behind more tokens, and more is read.
        """
        most = int(self.budgets.max())
        tokens = lines(1.0, max(most, 2))
        pairs = np.concatenate([[0.0], lines(1.0, most * LONGEST)])
        n, seen_by = (axis.reshape(-1) for axis in np.meshgrid(tokens, pairs, indexing="ij"))
        before = np.maximum(seen_by / n - n / 2.0, 0.0)
        read = before if kernel.window is None else np.minimum(before, kernel.window)
        work = kernel.of(Sums(seen_by, n + read, before, n, 1.0))  # of all at once
        seconds = np.broadcast_to(self.cost.seconds(work, self.deployment.attention.gpu), n.shape)
        cells = np.maximum.accumulate(seconds.reshape(len(tokens), -1), axis=1)
        return np.concatenate([[float(len(tokens)), float(len(pairs))], tokens, pairs, cells.reshape(-1)])

    def _lookup(self) -> Array:
        """Return the seconds in which embeddings are found, by tokens."""
        tokens = np.arange(float(self.budgets.max()) + 1)
        seconds = priced(self.cost, self.deployment.attention.gpu, self._embedding(tokens))
        return np.where(tokens > 0, seconds, 0.0)

    def _embedding(self, tokens: Array | float) -> list[Operator]:
        pool, engine = self.deployment.attention, self.deployment
        found = boundary_operators(
            engine.llm, tokens, precision=engine.precision, tp=pool.tp, lm_head=pool.lm_head, embedding=pool.embedding
        )
        return [each for each in found if each.name.startswith("embedding")]

    # shares of peak --------------------------------------------------------------------------------------------------

    def work(self, batch: float, context: float, extra: Extra) -> Work:
        """Return what a pass has one GPU do for `batch` sequences that decode, and for prompts."""
        engine, counts = self.deployment, Counter(core for layer in self.deployment.llm.layers for core in layer.cores)
        found = passes.attention(engine, self.queries, batch, context, (extra.tokens, extra.answers))
        found += passes.experts(engine, 1, batch * self.queries + extra.tokens)
        found += [(1.0, each) for each in self._embedding(extra.tokens)]
        sums = dict(zip(self.windows, extra.sums.tolist(), strict=True))
        return [*found, *((counts[core], kernel.of(Sums(*sums[kernel.window]))) for core, kernel in self.kernels)]
