"""Optimistic seconds of a decode step by its batch: what no schedule of a deployment can beat.

    step >= max( work of the busiest resource over all micro-batches,  way of one micro-batch through all layers )

Every pool computes with an even load, every port moves its bytes at its achieved rate, nothing waits and nothing
varies: the closed forms of afd_mechanics I1 and I8 over the operators that the simulator prices. All batches up to the
largest are priced at once, so that thousands of deployments take seconds. `results.bottleneck` reads the same bounds,
and tighter ones, off the schedule of a cell; that takes a cell for every deployment.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Dense, Layer, Llm, Moe
from afdsim.cluster.colocated import Colocated, ExpertParallel
from afdsim.cluster.deployment import Afd
from afdsim.cost import stages
from afdsim.cost.all_to_all import exchange, pair_bytes
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    collective,
    core_operator,
    dense_operators,
    expert_operator,
)
from afdsim.cost.roofline import CostModel, Roofline

Floats: TypeAlias = NDArray[np.float64]

ROUND_TRIP = "round trip"
Stage: TypeAlias = Callable[[Afd, Layer, Floats], tuple[Operator, ...]]
SERVED: Mapping[str, Stage] = MappingProxyType(
    {"gather": stages.gather_stage, "ffn": stages.ffn_stage, "scatter": stages.scatter_stage}
)
"""Resources of an FFN instance."""
ENDS = (("out", "in"), ("in", "out"))
"""Directions of an attention port, and of the FFN port that it meets."""
LAST_MATRIX = 1 / 3
"""Share of an expert's work that a combine may overlap (single-batch overlap)."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a bound needs to know beside the deployment."""

    contexts: Floats
    """Tokens of sequences in flight, a sample."""
    queries: int = 1
    """Query tokens of a sequence in a step: 1, or drafts beside it."""
    latency: float = 0.0
    """Seconds of a message beside its bytes."""
    bandwidth: float | None = None
    """Bytes/s that a NIC achieves; None: a share of the line rate that its GPU has."""
    efficiency: float = 1.0
    """That share."""
    link: float = 0.0
    """Sigma of the lognormal factor of a copy: of two that share a port, the smaller sets the time of both."""
    alone: bool = False
    """Whether messages have wires of their own, so that no port is busy."""
    overlaps: bool = False
    """Whether a colocated combine starts before the experts end (single-batch overlap)."""
    all_to_all: str = "low_latency"
    cost: CostModel | None = None

    def seen(self, core: object) -> float:
        """Context tokens that a core reads of a sequence, on average."""
        window = getattr(core, "window", None)
        return float(self.contexts.mean() if window is None else np.minimum(self.contexts, window).mean())

    def priced(self, gpu: Gpu, kernels: tuple[str, ...], operators: Iterable[Operator]) -> Floats | float:
        """Seconds of some operators, one after the other."""
        cost = self.cost or Roofline(backends=kernels)
        return sum((cost.seconds(operator, gpu) for operator in operators), 0.0)


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Optimistic seconds of a step by `max_num_seqs`."""

    resources: Mapping[str, Floats]
    """Of a step's work on every resource, and of the round trip; entry b: a rank with b sequences, entry 0 unused."""

    @property
    def seconds(self) -> Floats:
        """The longest, by `max_num_seqs`."""
        return np.asarray(np.maximum.reduce(list(self.resources.values())))

    def binding(self, batch: int) -> str:
        """Name of the longest at a batch."""
        return max(self.resources, key=lambda name: float(self.resources[name][batch]))


def envelope(deployment: Afd | Colocated, most: int, setting: Setting) -> Envelope:
    """Return the bounds of a deployment for 1 to `most` sequences of a rank; its own `max_num_seqs` does not count."""
    m = deployment.num_microbatches
    rows = np.arange(-(-most // m) + 1, dtype=float)
    rows[0] = 1.0  # never looked up: an empty micro-batch takes no time
    work, way = (
        _afd(deployment, rows, setting) if isinstance(deployment, Afd) else _colocated(deployment, rows, setting)
    )
    found = {name: _over(np.broadcast_to(seconds, rows.shape), most, m) for name, seconds in work.items()}
    trip = np.broadcast_to(way, rows.shape)[-(-np.arange(most + 1) // m)]
    return Envelope(resources=found | {ROUND_TRIP: np.asarray(trip)})


def _over(seconds: Floats, most: int, m: int) -> Floats:
    """Sum the seconds of the micro-batches into which 0 .. most sequences are split evenly."""
    each, more = np.divmod(np.arange(most + 1), m)
    full = np.where(each > 0, seconds[each], 0.0)
    larger = seconds[np.minimum(each + 1, len(seconds) - 1)]
    return np.asarray(more * larger + (m - more) * full)


# attention and FFN apart ---------------------------------------------------------------------------------------------


def _afd(afd: Afd, rows: Floats, setting: Setting) -> tuple[dict[str, Floats | float], Floats | float]:
    """Seconds of one micro-batch on every resource, and of its way; by the sequences of a rank."""
    queries = rows * setting.queries
    tokens = queries * afd.attention.ranks
    attention = _attention_side(afd, rows, setting)
    shared = _sum(afd.llm, lambda layer: _on_attention(afd, setting, stages.shared_stage(afd, layer, queries)))
    served = {name: _on_ffn(afd, tokens, setting, stage) for name, stage in SERVED.items()}
    ports = _ports(afd, queries, setting)
    flights = sum(np.maximum(ports[f"attention port {near}"], ports[f"ffn port {far}"]) for near, far in ENDS)
    way = (
        attention
        + sum(served.values())
        + flights * math.erfc(setting.link / 2)
        + 2 * len(afd.llm.layers) * setting.latency
    )
    return {"attention": attention + shared, **served, **({} if setting.alone else ports)}, way


def _on_ffn(afd: Afd, tokens: Floats, setting: Setting, stage: Stage) -> Floats | float:
    """Seconds of a stage of an FFN instance in all layers."""
    return _sum(afd.llm, lambda layer: setting.priced(afd.ffn.gpu, afd.ffn.kernels, stage(afd, layer, tokens)))


def _attention_side(afd: Afd, rows: Floats, setting: Setting) -> Floats | float:
    """Seconds of a rank for one micro-batch: all layers, and the boundary; shared experts apart."""
    pool, queries = afd.attention, rows * setting.queries

    def of(layer: Layer) -> Floats | float:
        own = (stages.reduction(afd, layer, queries), *stages.attention_stage(afd, layer, queries))
        return _on_attention(afd, setting, (*own, *_cores(layer, rows, setting, afd)))

    return _sum(afd.llm, of) + _on_attention(afd, setting, _head(afd, rows * setting.queries, pool.tp))


def _on_attention(afd: Afd | Colocated, setting: Setting, operators: Iterable[Operator]) -> Floats | float:
    return setting.priced(afd.attention.gpu, afd.attention.kernels, operators)


def _cores(layer: Layer, rows: Floats, setting: Setting, served: Afd | Colocated) -> Iterator[Operator]:
    """Cores of a layer at the mean of the contexts that each reads."""
    for core in layer.cores:
        yield core_operator(
            core,
            rows * setting.queries,
            rows * setting.seen(core),
            precision=served.precision,
            tp=served.attention.tp,
            query_tokens=setting.queries,
        )


def _head(served: Afd | Colocated, tokens: Floats, tp: int) -> tuple[Operator, ...]:
    pool = served.attention
    return boundary_operators(
        served.llm, tokens, precision=served.precision, tp=tp, lm_head=pool.lm_head, embedding=pool.embedding
    )


def _ports(afd: Afd, queries: Floats, setting: Setting) -> dict[str, Floats]:
    """Seconds of the NICs of either side in either direction; every GPU has one, and meets one of the other side.

    The last copy of a broadcast is as late as the port is busy; on wires of their own all copies fly at once.
    """
    moved = [stages.message_bytes(afd, layer) for layer in afd.llm.layers]
    out, back = (sum(each[way] for each in moved) * queries / afd.attention.tp for way in (0, 1))
    copies, rails = afd.ffn.instances, afd.attention.gpus / afd.ffn.gpus_per_instance
    if setting.alone:
        copies, rails = 1, afd.attention.gpus_per_instance / afd.ffn.gpus_per_instance
    near, far = (
        setting.bandwidth or gpu.nic.bandwidth * setting.efficiency for gpu in (afd.attention.gpu, afd.ffn.gpu)
    )
    return {
        "attention port out": out * copies / near,
        "attention port in": back * copies / near,
        "ffn port out": back * rails / far,
        "ffn port in": out * rails / far,
    }


def _sum(llm: Llm, of: Callable[[Layer], Floats | float]) -> Floats | float:
    """Sum over layers, each kind priced once."""
    return sum((count * of(layer) for layer, count in Counter(llm.layers).items()), 0.0)


# both on the same GPUs -----------------------------------------------------------------------------------------------


def _colocated(engine: Colocated, rows: Floats, setting: Setting) -> tuple[dict[str, Floats | float], Floats | float]:
    """Seconds of one micro-batch on the GPUs of an engine, and of its way; by the sequences of a rank."""
    work = _on_attention(engine, setting, _head(engine, rows * setting.queries, engine.attention.tp))
    way = work
    for layer, count in Counter(engine.llm.layers).items():
        own, beside, flight, hidden = _layer(engine, layer, rows, setting)
        work = work + count * (own + beside)
        way = way + count * (own + np.maximum(beside, flight[0]) + np.maximum(flight[1] - hidden, 0.0))
    return {"compute": work}, way


def _layer(
    engine: Colocated, layer: Layer, rows: Floats, setting: Setting
) -> tuple[Floats | float, Floats | float, tuple[Floats | float, Floats | float], Floats | float]:
    """Seconds of a layer: on the way, beside the dispatch, both flights, and what a combine may overlap."""
    queries, tp = rows * setting.queries, engine.attention.tp
    operators = attention_operators(engine.llm, layer, queries, precision=engine.precision, tp=tp)
    own = _on_attention(engine, setting, (*operators, *_cores(layer, rows, setting, engine)))
    if isinstance(layer.ffn, Dense):
        return own + _on_attention(engine, setting, _wide(engine, layer.ffn, queries)), 0.0, (0.0, 0.0), 0.0
    beside = 0.0 if _apart(engine) else _on_attention(engine, setting, _shared(engine, layer.ffn, queries))
    experts = _on_attention(engine, setting, _experts(engine, layer.ffn, queries))
    if not isinstance(engine.experts, ExpertParallel) or engine.gpus == 1:
        return own + beside + experts, 0.0, (0.0, 0.0), 0.0
    held, flights = _flights(engine, layer.ffn, queries / tp, setting)
    return own + experts + held, beside, flights, experts * LAST_MATRIX if setting.overlaps else 0.0


def _apart(engine: Colocated) -> bool:
    return isinstance(engine.experts, ExpertParallel) and engine.experts.shared_ranks > 0


def _wide(engine: Colocated, ffn: Dense, tokens: Floats) -> tuple[Operator, ...]:
    """A dense layer, its width cut over the GPUs of a rank."""
    tp = engine.attention.tp
    parts = dense_operators(engine.llm, tokens, ffn.inner / tp, engine.precision.ffn, matrices=ffn.matrices)
    return (*parts, *_all_reduce(engine, tokens))


def _shared(engine: Colocated, moe: Moe, tokens: Floats) -> tuple[Operator, ...]:
    """The shared expert: whole for the GPU's own rows, or cut like everything else."""
    if not moe.shared:
        return ()
    tp, width = engine.attention.tp, moe.shared * moe.shared_inner
    alone = isinstance(engine.experts, ExpertParallel)
    rows, inner = (tokens / tp, float(width)) if alone else (tokens, width / tp)
    return dense_operators(engine.llm, rows, inner, engine.precision.ffn, matrices=moe.matrices)


def _experts(engine: Colocated, moe: Moe, queries: Floats) -> tuple[Operator, ...]:
    """Routed experts of a GPU with an even load."""
    tokens = queries * engine.attention.ranks
    routed = expert_operator(
        engine.llm, engine.routed(moe), tokens, precision=engine.precision, split=engine.split, load=1.0
    )
    return (routed, *(() if isinstance(engine.experts, ExpertParallel) else _all_reduce(engine, tokens)))


def _all_reduce(engine: Colocated, tokens: Floats) -> tuple[Operator, ...]:
    tp = engine.attention.tp
    if tp == 1:
        return ()
    wire = 2.0 * (tp - 1) / tp * tokens * engine.llm.hidden * 2.0
    return (collective("ffn all-reduce", wire, gpus=tp, stage="ffn"),)


def _flights(
    engine: Colocated, moe: Moe, rows: Floats, setting: Setting
) -> tuple[Floats | float, tuple[Floats | float, Floats | float]]:
    """Seconds in which dispatch and combine hold the SMs, and of their flights; none by a cost model of one's own."""
    held: Floats | float = 0.0
    flights: list[Floats | float] = []
    gpu = engine.attention.gpu
    scale = setting.bandwidth / setting.efficiency / gpu.nic.bandwidth if setting.bandwidth else 1.0
    pairs = moe.top_k + (moe.shared if _apart(engine) else 0)
    for operation, dtype in (("dispatch", engine.precision.ffn), ("combine", "bf16")):
        nbytes = rows * pairs * pair_bytes(engine.llm.hidden, dtype)
        if setting.cost is None:
            kernel = exchange(setting.all_to_all, operation, gpu, engine.gpus, nic_scale=scale)
            held = held + kernel.held(nbytes)
            flights.append(kernel.seconds(nbytes) - kernel.held(nbytes))
        else:
            flights.append(0.0)
    return held, (flights[0], flights[1])
