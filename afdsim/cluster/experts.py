"""Where tokens go: how popular experts are, where their copies lie, and how loaded the GPUs are that hold them.

A *rank* here is a group of GPUs that holds different experts than the others. Its load is its share of the routed rows
over the mean of all ranks. Under uniform routing all experts are alike, but the draws are not: of n tokens that each
pick k of E experts, one of R ranks gets a hypergeometric number of rows each. Their standard deviation over the mean is
``sqrt((R - 1) * (E - k) / ((E - 1) * k * n))``, and they lean towards many rows by their skewness (Cornish and Fisher).
"""

from __future__ import annotations

import csv
import heapq
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from afdsim.catalog.llm import Moe
from afdsim.cluster.colocated import Colocated, ExpertParallel
from afdsim.errors import ScenarioError
from afdsim.workload.laws import Stream

Array = np.ndarray


class Law(Protocol):
    """What a scenario says about experts (`variation.experts`)."""

    @property
    def law(self) -> str: ...
    @property
    def skew(self) -> float: ...
    @property
    def path(self) -> str | None: ...
    @property
    def max_over_mean(self) -> float: ...
    @property
    def placement(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whose loads are asked for."""

    experts: int
    layers: int
    """MoE layers."""
    ranks: int
    """Groups of GPUs that hold different experts."""
    top_k: int
    """Experts of a token."""
    copies: int = 0
    """Slots beyond one per expert."""

    @property
    def deviation(self) -> float:
        """Standard deviation of a rank's rows over their mean when one token is routed uniformly."""
        if self.experts <= self.top_k:
            return 0.0
        return math.sqrt((self.ranks - 1) * (self.experts - self.top_k) / ((self.experts - 1) * self.top_k))

    @property
    def skewness(self) -> float:
        """Its term in Cornish and Fisher's expansion: a sixth of the third cumulant over the variance, over the mean.

        Towards many rows only: below zero rows would not grow with tokens.
        """
        if self.experts <= 2 * self.top_k or self.ranks <= 2:
            return 0.0
        skew = (1.0 - 2.0 / self.ranks) * (self.experts - 2 * self.top_k) / (self.experts - 2)
        return skew / 6.0 * self.ranks / self.top_k

    @property
    def most(self) -> float:
        """The largest load that a rank can have: every token asks for as many of its experts as it may."""
        slots = -(-(self.experts + self.copies) // self.ranks)
        return self.ranks * min(self.top_k, slots) / self.top_k


class Load(NamedTuple):
    """Rows of the busiest of some ranks over the mean of all, by the number of tokens."""

    ranks: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    """Those that may be the busiest: mean, and how many standard deviations its draw is off."""
    deviation: float = 0.0
    """See `Asked.deviation`."""
    skewness: float = 0.0
    """See `Asked.skewness`."""
    most: float = math.inf

    def of(self, tokens: Array | float) -> Array:
        """Load when so many tokens are routed."""
        n = np.maximum(tokens, 1.0)
        # ranks with far fewer rows than the mean do not lean back: rows shall grow with tokens
        leaning = [(mean, z, self.skewness * (z * z - 1.0 if z > -1.0 else 0.0)) for mean, z in self.ranks]
        loads = [mean + z * self.deviation / np.sqrt(n) + lean / n for mean, z, lean in leaning]
        return np.asarray(np.clip(np.max(loads, axis=0), 0.0, self.most))


EVEN = Load()
STEP = 0.01
"""Mean loads are rounded up to this, so that layers share tables."""
DRAW_STEP = 0.1
"""Draws of uniform routing are rounded to this many standard deviations, for the same reason."""


def slowest(law: Law, asked: Asked, units: int, stream: Stream) -> list[list[Load]]:
    """Load of the busiest rank of every unit and layer (unit, layer); where units do not divide ranks, that of all."""
    mean, draws = _loads(law, asked, stream)
    mean = np.ceil(np.round(mean / STEP, 6)) * STEP
    parts = 1 if asked.ranks % units else units
    shape = (asked.layers, parts, -1)
    pairs = np.stack([mean.reshape(shape), draws.reshape(shape)], axis=3)
    own = (asked.deviation, asked.skewness, asked.most) if law.law == "uniform" else ()
    found = [[Load(_busiest(part), *own) for part in layer] for layer in pairs.tolist()]
    return [[layer[unit % parts] for layer in found] for unit in range(units)]


def in_layers(deployment: Colocated, law: Law, units: int, stream: Stream) -> list[list[Load]]:
    """Load of the busiest GPU of every unit and layer of a colocated deployment (unit, layer)."""
    layers, experts = deployment.llm.layers, deployment.experts
    moes = [layer.ffn for layer in layers if isinstance(layer.ffn, Moe)]
    if not moes:
        return [[EVEN] * len(layers)] * units
    asked = Asked(
        experts=moes[0].experts,
        layers=len(moes),
        ranks=deployment.expert_gpus,
        top_k=moes[0].top_k,
        copies=experts.redundant if isinstance(experts, ExpertParallel) else 0,
    )
    found = map(iter, slowest(law, asked, units, stream))
    return [[next(row) if isinstance(layer.ffn, Moe) else EVEN for layer in layers] for row in found]


def _busiest(ranks: list[list[float]]) -> tuple[tuple[float, float], ...]:
    """Ranks of which none has both a lower mean and a lower draw than another."""
    found: list[tuple[float, float]] = []
    for mean, draw in sorted(map(tuple, ranks), reverse=True):
        if not found or draw > found[-1][1]:
            found.append((mean, draw))
    return tuple(found)


def _loads(law: Law, asked: Asked, stream: Stream) -> tuple[Array, Array]:
    """Mean load of every rank, and standard deviations by which a draw differs from it, both (layer, rank)."""
    even = np.ones((asked.layers, asked.ranks))
    match law.law:
        case "even":
            return even, np.zeros_like(even)
        case "uniform":  # copies, and experts that ranks do not divide, leave some ranks with more even at best
            shares = np.full((1, asked.experts), 1.0 / asked.experts)
            best = rank_loads(shares, asked.ranks, copies=asked.copies, balanced=True)
            return even * best, drawn(asked.layers, asked.ranks, stream=stream)
        case "slowest":
            most = min(law.max_over_mean, float(asked.ranks))  # no rank has more than all rows
            found = one_slow_rank(asked.layers, asked.ranks, most=most, stream=stream)
            return found, np.zeros_like(even)
        case "trace":
            shares = counted(law.path or "", asked.experts, asked.layers)
        case _:
            shares = power_law(asked.experts, asked.layers, skew=law.skew, stream=stream)
    loads = rank_loads(shares, asked.ranks, copies=asked.copies, balanced=law.placement == "balanced")
    return loads, np.zeros_like(even)


def drawn(layers: int, ranks: int, *, stream: Stream) -> Array:
    """Normal draws (layer, rank) that add up to 0 in a layer, as the ranks share the rows, of variance 1."""
    if ranks == 1:
        return np.zeros((layers, 1))
    free = np.stack([stream("experts", layer).standard_normal(ranks) for layer in range(layers)])
    scaled = (free - free.mean(axis=1, keepdims=True)) / math.sqrt(1.0 - 1.0 / ranks)
    return np.asarray(np.round(scaled / DRAW_STEP) * DRAW_STEP)


def power_law(experts: int, layers: int, *, skew: float, stream: Stream) -> Array:
    """Share of the routed tokens of every expert (layer, expert).

    Popularity falls as rank ** -skew (Zipf); which expert is popular is drawn once per layer.
    """
    weights = np.arange(1, experts + 1, dtype=float) ** -skew
    weights /= weights.sum()
    return np.stack([stream("experts", layer).permutation(weights) for layer in range(layers)])


def counted(path: str, experts: int, layers: int) -> Array:
    """Share of the routed tokens of every expert (layer, expert), from a CSV file of token counts.

    One row per MoE layer, or one row for all of them; one column per expert, no header.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].lstrip().startswith("#")]
    try:
        counts = np.array([[float(cell) for cell in row] for row in rows])
    except ValueError:
        raise ScenarioError(f"{path}: expert counts are rows of numbers, one column per expert") from None
    if counts.ndim != 2 or counts.shape[1] != experts or len(counts) not in (1, layers):
        shape = "x".join(map(str, counts.shape))
        raise ScenarioError(f"{path}: {shape} counts; needs 1 or {layers} rows of {experts} experts")
    sums = counts.sum(axis=1)
    if not np.isfinite(sums).all() or (counts < 0).any() or (sums <= 0).any():
        raise ScenarioError(f"{path}: counts must be finite and >= 0, and above 0 somewhere in every row")
    return np.broadcast_to(counts / counts.sum(axis=1, keepdims=True), (layers, experts))


def rank_loads(shares: Array, ranks: int, *, copies: int = 0, balanced: bool = False) -> Array:
    """Load of every rank relative to the mean (layer, rank).

    `copies` more slots than experts hold copies, of the most loaded expert each time, which then share its tokens.
    `balanced` places slots as EPLB does: the heaviest first, on the least loaded rank that has room; otherwise slots
    lie in contiguous blocks, experts first.
    """
    return np.stack([_layer_loads(layer, ranks, copies, balanced) for layer in shares]) * ranks


def _layer_loads(shares: Array, ranks: int, copies: int, balanced: bool) -> Array:
    weights = replicated(shares, copies)
    if balanced:
        return packed(weights, ranks)
    padded = np.pad(weights, (0, -len(weights) % ranks))
    return np.asarray(padded.reshape(ranks, -1).sum(axis=1))


def replicated(shares: Array, copies: int) -> Array:
    """Tokens of every slot when `copies` slots more than experts go to the most loaded expert, one by one.

    >>> replicated(np.array([0.6, 0.4]), 1).tolist()
    [0.3, 0.4, 0.3]
    """
    count = np.ones(len(shares))
    owner = list(range(len(shares)))
    heap = [(-float(share), expert) for expert, share in enumerate(shares)]
    heapq.heapify(heap)
    for _ in range(copies):
        _, expert = heap[0]
        count[expert] += 1
        owner.append(expert)
        heapq.heapreplace(heap, (-float(shares[expert] / count[expert]), expert))
    return np.asarray((shares / count)[owner])


def packed(weights: Array, ranks: int) -> Array:
    """Load of every rank when slots go, the heaviest first, to the least loaded rank with room.

    >>> packed(np.array([3.0, 3.0, 2.0, 1.0]), 2).tolist()
    [5.0, 4.0]
    """
    room = -(-len(weights) // ranks)
    heap = [(0.0, 0, rank) for rank in range(ranks)]
    loads = np.zeros(ranks)
    for slot in np.argsort(-weights, kind="stable"):
        load, held, rank = heapq.heappop(heap)
        loads[rank] = load + float(weights[slot])
        if held + 1 < room:
            heapq.heappush(heap, (float(loads[rank]), held + 1, rank))
    return loads


def one_slow_rank(layers: int, ranks: int, *, most: float, stream: Stream) -> Array:
    """Loads (layer, rank) where one rank of each layer, drawn once, has `most` times the mean; the others are even."""
    rest = (ranks - most) / max(ranks - 1, 1)
    loads = np.full((layers, ranks), rest)
    slowest = [int(stream("experts", layer).integers(ranks)) for layer in range(layers)]
    loads[np.arange(layers), slowest] = most
    return loads
