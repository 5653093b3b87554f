"""Optimistic seconds of a decode step by its batch: what no schedule of a deployment can beat.

    step >= max( work of the busiest resource over all micro-batches,  way of one micro-batch through all layers )

The closed forms of afd_mechanics I1 and I8 over the operators that the simulator prices; all batches up to the largest
are priced at once, so that thousands of deployments take seconds. `results.bottleneck` reads the same bounds, and
tighter ones, off the schedule of a cell; that takes a cell for every deployment.

Why nothing beats them, in expectation over what is drawn:

- *Ranks.* All wait for the slowest rank in every layer, which has no less to do than the mean one; a core's time is
  convex in its context, so that equal contexts take least. The mean context of a few sequences may lie below that of
  all, by three standard errors at most (`SURE`).
- *Experts.* All wait for every GPU. On a resource the GPU of one instance counts, the same in every layer; on the way
  the busiest one of each layer. Loads are those that the run itself will have, rounded down (`loads`).
- *Jitter.* Factors have mean 1, and a fixed unit's work is a sum of them. The way leads through units that are chosen
  before anything is drawn, so that its mean is that of its parts. Where it leads through the first of several units,
  the mean of the smallest of n lognormal factors counts, which is at least exp(-s sqrt(2 ln n) - s^2 / 2): the maximum
  of n normal variates is sqrt(2 ln n) at most on average, and exp is convex.
- *Ports.* Of a broadcast whose copies share a port equally, a given copy ends when every other has sent as much as it:
  of two the smaller counts, whose mean is erfc(s / 2); where it sends them in order, the first or the last instance is
  the given one. A port that takes copies is done when it has taken all of them
  since the first header, which the first sender sends.

What only takes longer and is rare is left out: uplinks, degraded NICs, spikes, drained pipelines.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Dense, Ffn, Layer, Moe
from afdsim.cluster.colocated import Colocated, ExpertParallel
from afdsim.cluster.deployment import Afd
from afdsim.cost import stages
from afdsim.cost.all_to_all import exchange, pair_bytes
from afdsim.cost.loads import Floors
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
Seconds: TypeAlias = Floats | float

ROUND_TRIP = "round trip"
Stage: TypeAlias = Callable[[Afd, Layer, Floats, Floats | float], tuple[Operator, ...]]
SERVED: Mapping[str, Stage] = MappingProxyType(
    {"gather": stages.gather_stage, "ffn": stages.ffn_stage, "scatter": stages.scatter_stage}
)
"""Resources of an FFN instance."""
LAST_MATRIX = 1 / 3
"""Share of an expert's work that a combine may overlap (single-batch overlap)."""
SURE = 3.0
"""Standard errors by which a mean of few sequences may be below that of all."""


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Loads of the layers that have the same experts."""

    one: Floors
    """Of the busiest GPU of one instance, the same in every layer."""
    every: Floors
    """Of the busiest GPU of all instances in each layer."""
    least: Floors
    """Of the busiest GPU of that instance which has least to do in each layer."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a bound needs to know beside the deployment."""

    contexts: Floats
    """Tokens of sequences in flight, a sample."""
    queries: int = 1
    """Query tokens of a sequence in a step: 1, or drafts beside it."""
    groups: int = 1
    """Groups of attention instances that take turns on the FFN instances."""
    pause: float = 0.0
    """Seconds that a GPU waits for its host: before every micro-batch of AFD, once in a colocated step."""
    overhead: float = 0.0
    """Seconds of a layer and micro-batch of a colocated engine beside its kernels."""
    latency: float = 0.0
    """Seconds of a message beside its bytes."""
    bandwidth: float | None = None
    """Bytes/s that a NIC achieves; None: a share of the line rate that its GPU has."""
    efficiency: float = 1.0
    """That share."""
    sharing: tuple[float, float] = (1.0, 1.0)
    """GPUs of an attention and of an FFN instance that share a NIC."""
    jitter: float = 0.0
    """Sigma of the lognormal factor of an operation."""
    link: float = 0.0
    """Sigma of the lognormal factor of a copy."""
    in_order: bool = False
    """Whether a port sends one copy at a time, in the order of instances; else all at equal rates."""
    alone: bool = False
    """Whether messages have wires of their own, so that no port is busy."""
    overlaps: bool = False
    """Whether a colocated combine starts before the experts end (single-batch overlap)."""
    all_to_all: str = "low_latency"
    loads: Mapping[Moe, Busy] = field(default_factory=dict)
    """By experts; none where every GPU has an even load."""
    cost: CostModel | None = None

    def seen(self, core: object, sequences: Floats) -> Floats:
        """Context tokens that a core reads of a sequence, at least on average over so many."""
        window = getattr(core, "window", None)
        read = self.contexts if window is None else np.minimum(self.contexts, window)
        return np.asarray(np.maximum(read.mean() - SURE * read.std() / np.sqrt(sequences), 0.0))

    def priced(self, gpu: Gpu, kernels: tuple[str, ...], operators: Iterable[Operator]) -> Seconds:
        """Seconds of some operators, one after the other."""
        cost = self.cost or Roofline(backends=kernels)
        return sum((cost.seconds(operator, gpu) for operator in operators), 0.0)

    def first(self, count: int, sigma: float) -> float:
        """Mean of the smallest of so many lognormal factors, at least."""
        return math.exp(-sigma * math.sqrt(2.0 * math.log(count)) - sigma * sigma / 2.0) if count > 1 else 1.0

    def earliest(self, count: int) -> float:
        """When the first of so many copies that share a port ends, over when the last does, on average."""
        return 1.0 / count if self.in_order else self.first(count, self.link)

    def given(self, count: int) -> float:
        """The same of any given one of them."""
        return 1.0 / count if self.in_order else (1.0 + (count - 1) * math.erfc(self.link / 2.0)) / count


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Optimistic seconds of one micro-batch by its sequences on a rank; entry 0 unused."""

    work: Mapping[str, Seconds]
    """Of its work on every resource."""
    way: Seconds
    """Through all layers, one after the other."""
    pause: float = 0.0
    """Of a step beside its micro-batches."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Optimistic seconds of a step by `max_num_seqs`."""

    resources: Mapping[str, Floats]
    """Of a step's work on every resource, and of the round trip; entry b: a rank with b sequences, entry 0 unused."""

    @property
    def seconds(self) -> Floats:
        """The longest, by `max_num_seqs`."""
        return np.asarray(np.maximum.reduce(list(self.resources.values())))

    @property
    def binding(self) -> NDArray[np.object_]:
        """Name of the longest, by `max_num_seqs`."""
        names = np.array(list(self.resources), dtype=object)
        return np.asarray(names[np.argmax(np.stack(list(self.resources.values())), axis=0)])


def passes(deployment: Afd | Colocated, most: int, setting: Setting) -> Passes:
    """Return the bounds of one micro-batch of 1 to `most` sequences of a rank, however many micro-batches there are.

    `max_num_seqs` of the deployment does not count.
    """
    rows = np.arange(most + 1, dtype=float)
    rows[0] = 1.0  # never looked up: an empty micro-batch takes no time
    return _afd(deployment, rows, setting) if isinstance(deployment, Afd) else _colocated(deployment, rows, setting)


def split(found: Passes, most: int, m: int) -> Envelope:
    """Return the bounds of steps of m micro-batches, into which 1 to `most` sequences of a rank are split evenly."""
    count = -(-most // m) + 1
    each, more = np.divmod(np.arange(most + 1), m)
    work = np.stack([_long(seconds, count) for seconds in found.work.values()])
    work[:, 0] = 0.0
    steps = (m - more) * work[:, each] + more * work[:, np.minimum(each + 1, count - 1)] + found.pause
    trip = _long(found.way, count)[each + (more > 0)] + found.pause
    return Envelope(resources={**dict(zip(found.work, steps, strict=True)), ROUND_TRIP: trip})


def _long(seconds: Seconds, count: int) -> Floats:
    """The first `count` of some seconds, or one figure so many times."""
    return seconds[:count] if isinstance(seconds, np.ndarray) and seconds.ndim else np.full(count, seconds)


# attention and FFN apart ---------------------------------------------------------------------------------------------


def _afd(afd: Afd, rows: Floats, setting: Setting) -> Passes:
    """The bounds of a micro-batch of one attention group."""
    queries, kinds = rows * setting.queries, Counter(afd.llm.layers)
    attention = setting.pause + _attention_side(afd, kinds, rows, setting)
    shared = _sum(kinds, lambda layer: _on_attention(afd, setting, stages.shared_stage(afd, layer, queries)))
    served = partial(_served, afd, _by_ffn(kinds), queries, setting)
    ffn = {name: setting.groups * served(stage, "one") for name, stage in SERVED.items()}
    nbytes = _bytes(afd, kinds, queries)
    ports = {} if setting.alone else _ports(afd, nbytes, setting)
    way = _way(afd, attention, served, nbytes, setting) + 2 * len(afd.llm.layers) * setting.latency
    return Passes(work={"attention": attention + shared, **ffn, **ports}, way=way)


def _by_ffn(kinds: Counter[Layer]) -> Counter[Layer]:
    """Layers by their FFN alone: any of each kind, and how many there are."""
    first: dict[Ffn, Layer] = {}
    found: Counter[Layer] = Counter()
    for layer, count in kinds.items():
        found[first.setdefault(layer.ffn, layer)] += count
    return found


def _served(afd: Afd, ffns: Counter[Layer], queries: Floats, setting: Setting, stage: Stage, whose: str) -> Seconds:
    """Seconds of a stage of an FFN instance in all layers, for the tokens of one attention group."""
    tokens, pool = queries * (afd.attention.ranks / setting.groups), afd.ffn
    found: Seconds = 0.0
    for layer, count in ffns.items():
        loads = getattr(setting.loads.get(layer.ffn), whose, None) if isinstance(layer.ffn, Moe) else None
        load = 1.0 if loads is None else loads.of(tokens)
        found = found + _weighed(setting.priced(pool.gpu, pool.kernels, stage(afd, layer, tokens, load)), count, loads)
    return found


def _weighed(seconds: Seconds, layers: int, loads: Floors | None) -> Seconds:
    """Seconds of all layers of a kind from those of each load."""
    return layers * seconds if loads is None or np.ndim(seconds) < 2 else np.asarray(loads.layers @ seconds)


def _attention_side(afd: Afd, kinds: Counter[Layer], rows: Floats, setting: Setting) -> Seconds:
    """Seconds of a rank for one micro-batch: all layers, and the boundary; shared experts apart."""
    pool, queries = afd.attention, rows * setting.queries

    def of(layer: Layer) -> Seconds:
        own = (stages.reduction(afd, layer, queries), *stages.attention_stage(afd, layer, queries))
        return _on_attention(afd, setting, (*own, *_cores(layer, rows, setting, afd)))

    return _sum(kinds, of) + _on_attention(afd, setting, _head(afd, rows, setting, pool.tp))


def _on_attention(afd: Afd | Colocated, setting: Setting, operators: Iterable[Operator]) -> Seconds:
    return setting.priced(afd.attention.gpu, afd.attention.kernels, operators)


def _cores(layer: Layer, rows: Floats, setting: Setting, served: Afd | Colocated) -> Iterator[Operator]:
    """Cores of a layer at the mean of the contexts that each reads."""
    sequences = rows * (served.attention.ranks / setting.groups)
    for core in layer.cores:
        yield core_operator(
            core,
            rows * setting.queries,
            rows * setting.seen(core, sequences),
            precision=served.precision,
            tp=served.attention.tp,
            query_tokens=setting.queries,
        )


def _head(served: Afd | Colocated, rows: Floats, setting: Setting, tp: int) -> Iterator[Operator]:
    """The boundary: of all query tokens, and once more for every draft that is proposed."""
    pool = served.attention
    for tokens in (rows * setting.queries, *[rows] * (setting.queries - 1)):
        yield from boundary_operators(
            served.llm, tokens, precision=served.precision, tp=tp, lm_head=pool.lm_head, embedding=pool.embedding
        )


def _sum(kinds: Counter[Layer], of: Callable[[Layer], Seconds]) -> Seconds:
    """Sum over layers, each kind priced once."""
    return sum((count * of(layer) for layer, count in kinds.items()), 0.0)


# on its way ----------------------------------------------------------------------------------------------------------


def _bytes(afd: Afd, kinds: Counter[Layer], queries: Floats) -> tuple[Floats, Floats]:
    """Bytes of one GPU's rows to one FFN instance and back, in all layers."""
    moved = [(count, stages.message_bytes(afd, layer)) for layer, count in kinds.items()]
    out, back = (sum(count * each[way] for count, each in moved) * queries / afd.attention.tp for way in (0, 1))
    return out, back


def _rates(afd: Afd, setting: Setting) -> tuple[float, float]:
    """Bytes/s of an attention GPU's part of its NIC, and of an FFN NIC."""
    near, far = (
        setting.bandwidth or gpu.nic.bandwidth * setting.efficiency for gpu in (afd.attention.gpu, afd.ffn.gpu)
    )
    return near / setting.sharing[0], far


def _meeting(afd: Afd, setting: Setting) -> float:
    """GPUs of an attention instance whose rows meet on one NIC of an FFN instance, at least."""
    gpus = afd.attention.gpus_per_instance
    return gpus / max(min(gpus, afd.ffn.gpus_per_instance) / setting.sharing[1], 1.0)


def _ports(afd: Afd, nbytes: tuple[Floats, Floats], setting: Setting) -> dict[str, Floats]:
    """Seconds of the NICs of either side in either direction: of an attention group's, and of all at an FFN NIC."""
    (out, back), (near, far), copies = nbytes, _rates(afd, setting), afd.ffn.instances
    rails = afd.attention.instances * _meeting(afd, setting)
    return {
        "attention port out": out * copies / near,
        "attention port in": back * copies / near,
        "ffn port out": back * rails / far,
        "ffn port in": out * rails / far,
    }


def _way(
    afd: Afd,
    attention: Seconds,
    served: Callable[[Stage, str], Seconds],
    nbytes: tuple[Floats, Floats],
    setting: Setting,
) -> Seconds:
    """Seconds of a micro-batch through all layers, latencies apart: the longest of ways to chain what it waits for.

    Out to a given instance and back to a given unit, as their copies end; or by a port that has taken all copies since
    the first was sent, and so from the first unit, or the first instance, on.
    """
    (out, back), (near, far), met = nbytes, _rates(afd, setting), _meeting(afd, setting)
    units, copies = afd.attention.instances // setting.groups, afd.ffn.instances
    busiest, own = sum(served(stage, "every") for stage in SERVED.values()), out / (near * setting.sharing[0])
    if setting.alone:
        return attention + busiest + own + back / far
    taken, home, brought = out * units * met / far, back * units * met / far, back * copies / near
    many, first = math.ceil(units * met), setting.first(units * afd.attention.dp, setting.jitter) * attention
    ways: list[Seconds] = [
        attention + busiest + own * copies * setting.given(copies) + home * setting.given(many),
        first + busiest + taken + home * setting.earliest(many),
    ]
    if setting.in_order or np.any(brought > home):
        least = sum(served(stage, "least") for stage in SERVED.values())
        ways.append(attention + least + (own * copies + home if setting.in_order else 0.0))
        least = setting.first(copies, setting.jitter) * least
        ways.append(attention + least + own * copies * setting.earliest(copies) + brought)
        ways.append(first + least + taken + brought)
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*ways)))


# both on the same GPUs -----------------------------------------------------------------------------------------------


def _colocated(engine: Colocated, rows: Floats, setting: Setting) -> Passes:
    """The bounds of a micro-batch of an engine."""
    tp, queries, kinds = engine.attention.tp, rows * setting.queries, Counter(engine.llm.layers)
    own = _on_attention(engine, setting, _head(engine, rows, setting, tp))

    def of(layer: Layer) -> Seconds:
        operators = attention_operators(engine.llm, layer, queries, precision=engine.precision, tp=tp)
        return _on_attention(engine, setting, (*operators, *_cores(layer, rows, setting, engine)))

    own = own + _sum(kinds, of) + len(engine.llm.layers) * setting.overhead
    work, way = own, own
    for layer, layers in _by_ffn(kinds).items():
        if isinstance(layer.ffn, Dense):
            wide = layers * _on_attention(engine, setting, _wide(engine, layer.ffn, queries))
            work, way = work + wide, way + wide
        else:
            busy, through = _experts(engine, layer.ffn, layers, queries, setting)
            work, way = work + busy, way + through
    return Passes(work={"compute": work}, way=way, pause=setting.pause)


def _apart(engine: Colocated) -> bool:
    return isinstance(engine.experts, ExpertParallel) and engine.experts.shared_ranks > 0


def _wide(engine: Colocated, ffn: Dense, tokens: Floats) -> tuple[Operator, ...]:
    """A dense layer, its width cut over the GPUs of a rank."""
    tp = engine.attention.tp
    parts = dense_operators(engine.llm, tokens, ffn.inner / tp, engine.precision.ffn, matrices=ffn.matrices)
    return (*parts, *_all_reduce(engine, tokens))


def _shared(engine: Colocated, moe: Moe, tokens: Floats) -> tuple[Operator, ...]:
    """The shared expert: whole for the GPU's own rows, or cut like everything else."""
    if not moe.shared or _apart(engine):
        return ()
    tp, width = engine.attention.tp, moe.shared * moe.shared_inner
    alone = isinstance(engine.experts, ExpertParallel)
    rows, inner = (tokens / tp, float(width)) if alone else (tokens, width / tp)
    return dense_operators(engine.llm, rows, inner, engine.precision.ffn, matrices=moe.matrices)


def _experts(engine: Colocated, moe: Moe, layers: int, queries: Floats, setting: Setting) -> tuple[Seconds, Seconds]:
    """Seconds of the layers with some experts: of a GPU's work, and of the way through them."""
    beside = _on_attention(engine, setting, _shared(engine, moe, queries))
    busy = setting.loads.get(moe)
    found = []
    for loads in (None, None) if busy is None else (busy.one, busy.every):
        load = 1.0 if loads is None else loads.of(queries * engine.attention.ranks)
        experts = _on_attention(engine, setting, _routed(engine, moe, queries, load))
        held, flights = _flights(engine, moe, queries / engine.attention.tp, load, setting)
        hidden = experts * LAST_MATRIX if setting.overlaps else 0.0
        work = experts + held + beside
        way = experts + held + np.maximum(beside, flights[0]) + np.maximum(flights[1] - hidden, 0.0)
        found.append((_weighed(work, layers, loads), _weighed(way, layers, loads)))
    return found[0][0], found[1][1]


def _routed(engine: Colocated, moe: Moe, queries: Floats, load: Floats | float) -> tuple[Operator, ...]:
    """Routed experts of a GPU."""
    tokens = queries * engine.attention.ranks
    routed = expert_operator(
        engine.llm, engine.routed(moe), tokens, precision=engine.precision, split=engine.split, load=load
    )
    return (routed, *(() if isinstance(engine.experts, ExpertParallel) else _all_reduce(engine, tokens)))


def _all_reduce(engine: Colocated, tokens: Floats) -> tuple[Operator, ...]:
    tp = engine.attention.tp
    if tp == 1:
        return ()
    wire = 2.0 * (tp - 1) / tp * tokens * engine.llm.hidden * 2.0
    return (collective("ffn all-reduce", wire, gpus=tp, stage="ffn"),)


def _flights(
    engine: Colocated, moe: Moe, rows: Floats, load: Floats | float, setting: Setting
) -> tuple[Seconds, tuple[Seconds, Seconds]]:
    """Seconds in which dispatch and combine hold the SMs, and of their flights; none by a cost model of one's own.

    Own rows leave and return; those of the experts arrive and go back. Arrivals count from the first sender on, which
    is not known, so that the flight of a dispatch is that of own rows.
    """
    held: Seconds = 0.0
    flights: list[Seconds] = []
    gpu = engine.attention.gpu
    if not isinstance(engine.experts, ExpertParallel) or engine.gpus == 1 or setting.cost is not None:
        return 0.0, (0.0, 0.0)
    scale = setting.bandwidth / setting.efficiency / gpu.nic.bandwidth if setting.bandwidth else 1.0
    pairs = moe.top_k + (moe.shared if _apart(engine) else 0)
    for operation, dtype, flying in (("dispatch", engine.precision.ffn, 1.0), ("combine", "bf16", load)):
        nbytes = rows * pairs * pair_bytes(engine.llm.hidden, dtype)
        kernel = exchange(setting.all_to_all, operation, gpu, engine.gpus, nic_scale=scale)
        held = held + (kernel.held(nbytes) + kernel.held(nbytes * load)) / 2
        flights.append(kernel.seconds(nbytes * flying) - kernel.held(nbytes * flying))
    return held, (flights[0], flights[1])
