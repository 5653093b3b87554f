"""Attention-FFN disaggregation as a schedule: attention -> exchange -> gather -> FFN -> scatter -> exchange.

One round per (layer, micro-batch), in that order on every resource. Several attention groups take turns on one FFN
pool; each has micro-batches of its own, so that a layer sees groups x micro-batches of them (xDeepServe's domains).

Index letters: l layer, j micro-batch of a group, u attention unit (an instance, or a rank at GPU granularity), f FFN
instance, J micro-batch of the cell: group x micro-batches + j.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Layer, Moe
from afdsim.cluster import experts as routing
from afdsim.cluster.deployment import Afd, AttentionPool, FfnPool
from afdsim.cluster.experts import EVEN, Load
from afdsim.cluster.network import DEDICATED, DISCIPLINES, Network, Wire, Wiring
from afdsim.cluster.topology import Fabric, fabric, wired
from afdsim.cost import stages
from afdsim.cost.operators import Operator, boundary_operators
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.engine import fabrics, passes
from afdsim.engine.books import IMBALANCE, WAIT_PEER
from afdsim.engine.cell import (
    Array,
    Cell,
    CoreLaw,
    LinkRow,
    Lowering,
    Pool,
    Pricing,
    Ranks,
    distinct,
    flat,
    model_and_precision,
    priced,
    rank_seconds,
    table,
)
from afdsim.engine.passes import Work
from afdsim.engine.schedule import (
    GATHER,
    INDEX,
    NO_TURN,
    RANK,
    ROWS,
    SCATTER,
    TOKENS,
    Boundary,
    Compute,
    Exchange,
    Schedule,
    Source,
    Turn,
)
from afdsim.engine.variation import Jitter, Variation, Wires
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.streams import Streams

Stage = tuple[Layer, Layer | None] | Layer
"""Of attention in a layer, with the layer before it whose results it adds up; or of a layer's shared expert."""
Place = tuple[str, int, int]
"""Stage, layer, micro-batch of the cell."""
BOUNDARY, ATTENTION, SHARED, OUT, GATHERED, FFN, SCATTERED, BACK = (
    "boundary", "attention", "shared expert", "out", "gather", "ffn", "scatter", "back",
)  # fmt: skip
ON_ATTENTION = (ATTENTION, SHARED)
SERVED = {FFN: stages.ffn_stage, GATHERED: stages.gather_stage, SCATTERED: stages.scatter_stage}
"""Stages of an FFN instance, as their seconds are tabulated."""


def deployment(scenario: Scenario) -> Afd:
    """Return the AFD deployment that a scenario asks for, with catalog entries in place of names."""
    asked = scenario.deployment
    assert isinstance(asked, tree.Afd)
    a, f = asked.attention, asked.ffn
    llm, precision = model_and_precision(scenario)
    return Afd(
        llm=llm,
        precision=precision,
        attention=AttentionPool(
            gpu=catalog.gpu(a.gpu),
            instances=a.instances,
            dp=a.parallelism.dp,
            tp=a.parallelism.tp,
            o_proj=a.o_proj,
            lm_head=a.lm_head,
            embedding=a.embedding,
            kernels=a.kernels,
        ),
        ffn=FfnPool(
            gpu=catalog.gpu(f.gpu),
            instances=f.instances,
            ep=f.parallelism.ep,
            tp=f.parallelism.tp,
            across=f.across,
            kernels=f.kernels,
        ),
        num_microbatches=asked.num_microbatches,
        max_num_seqs=asked.max_num_seqs,
        gpu_memory_utilization=asked.gpu_memory_utilization,
        gate=asked.gate,
        shared_expert=asked.shared_expert,
        dispatch=asked.dispatch,
    )


def lower(scenario: Scenario, *, seed: int, cost: CostModel | None = None, network: Network | None = None) -> Cell:
    """Return an AFD scenario as a cell."""
    afd = deployment(scenario)
    afd.check_memory()
    return _Lowering(
        scenario=scenario,
        deployment=afd,
        cost=cost or Roofline(backends=afd.attention.kernels),
        ffn_cost=cost or Roofline(backends=afd.ffn.kernels),
        network=network or Wire(),
        stream=Streams(seed),
        fabric=fabric(afd, per_rank=scenario.run.granularity == "gpu", cabling=fabrics.cabling(scenario.network)),
    ).cell()


@dataclass(frozen=True, kw_only=True)
class _Lowering(Lowering):
    """Holds what every part needs; `cost` prices the attention GPUs."""

    deployment: Afd
    ffn_cost: CostModel
    """Of the FFN GPUs."""
    network: Network
    fabric: Fabric

    def cell(self) -> Cell:
        place, pricing, even = self._tokens()
        ranks, law = self._ranks(), CoreLaw(deployment=self.deployment, cost=self.cost, queries=self.queries)
        tables = flat(ranks, law, place, self._batch_of)
        return Cell(
            deployment=self.deployment,
            schedule=self._schedule(),
            pools=self._pools(even, partial(rank_seconds, tables, ranks.windows, queries=self.queries)),
            tables=tables,
            pricing=pricing,
            wiring=self._wiring(),
            variation=self._variation(),
            windows=tuple(ranks.windows),
            drafts=self.drafts,
            per_rank=self.per_rank,
            links=self._links,
            nvlink=self._nvlink(),
            refuses=self._refuses(),
        )

    # sizes -----------------------------------------------------------------------------------------------------------

    @property
    def asked(self) -> tree.Afd:
        assert isinstance(self.scenario.deployment, tree.Afd)
        return self.scenario.deployment

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.deployment.llm.layers

    @property
    def units(self) -> int:
        return self.deployment.attention.ranks if self.per_rank else self.deployment.attention.instances

    @property
    def ffns(self) -> int:
        return self.deployment.ffn.instances

    @cached_property
    def groups(self) -> list[range]:
        """Units of every attention group."""
        count = self.asked.attention.groups
        each = self.units // count
        return [range(each * g, each * (g + 1)) for g in range(count)]

    @property
    def m(self) -> int:
        """Micro-batches of a group."""
        return self.deployment.num_microbatches

    @property
    def _batch_of(self) -> Array:
        """Micro-batch of the cell by lane."""
        group = np.repeat(np.arange(len(self.groups)), len(self.groups[0]))
        return (group[:, None] * self.m + np.arange(self.m)).reshape(-1)

    @cached_property
    def batches(self) -> Array:
        """Batches of one rank in one micro-batch."""
        return np.arange(max(self.deployment.micro_batch_slots) + 1, dtype=float)

    @cached_property
    def totals(self) -> Array:
        """Sequences of a whole micro-batch."""
        ranks = self.deployment.attention.ranks // len(self.groups)
        return np.arange(ranks * max(self.deployment.micro_batch_slots) + 1, dtype=float)

    @cached_property
    def attentions(self) -> list[tuple[Layer, Layer | None]]:
        """Attention stage of every layer: the layer, and the one before it, whose results it adds up."""
        return list(zip(self.layers, (None, *self.layers[:-1]), strict=True))

    @cached_property
    def shared(self) -> list[Layer | None]:
        """Shared expert of every layer that the attention side computes."""
        return [layer if stages.shared_stage(self.deployment, layer, 1.0) else None for layer in self.layers]

    @cached_property
    def kinds(self) -> list[Stage]:
        """Different stages of a rank: of attention, and of shared experts."""
        return distinct(self._stages)

    @property
    def _stages(self) -> list[Stage]:
        return [*self.attentions, *(layer for layer in self.shared if layer)]

    @cached_property
    def wires(self) -> list[tuple[float, float]]:
        """Different messages: bytes of a query token to an FFN instance, and back."""
        return distinct(self._wire(layer) for layer in range(len(self.layers)))

    def _wire(self, layer: int) -> tuple[float, float]:
        return stages.message_bytes(self.deployment, self.layers[layer])

    def _refuses(self) -> str | None:
        if len(self.layers) == 1 and self.m * len(self.groups) > 1:
            return "one layer with several micro-batches: a step may overtake the boundaries of the one before"
        return None

    # schedule --------------------------------------------------------------------------------------------------------

    def _schedule(self) -> Schedule:
        """Boundaries with the first layer's attention, then rounds by layer, group and micro-batch."""
        places = self._places
        opening = sum(stage in (BOUNDARY, *ON_ATTENTION) and layer == 0 for stage, layer, _ in places)
        return Schedule(
            turns=tuple(self._turn(*place) for place in places),
            opening=opening,
            micro_batches=self.m,
            batches=len(self.groups) * self.m,
            together=False,
        )

    @cached_property
    def _places(self) -> dict[Place, int]:
        """Where every turn of a step stands, in order."""
        batches = range(len(self.groups) * self.m)
        opening = [
            place for g in range(len(self.groups)) for place in self._opening(range(g * self.m, (g + 1) * self.m))
        ]
        rounds = [
            place for layer in range(len(self.layers)) for batch in batches for place in self._round(layer, batch)
        ]
        return {place: number for number, place in enumerate((*opening, *rounds))}

    def _opening(self, batches: range) -> Iterator[Place]:
        """How the units of a group begin a step: each micro-batch after its boundary, or all boundaries first."""
        for some in (batches,) if self._drains else ((batch,) for batch in batches):
            yield from ((BOUNDARY, 0, batch) for batch in some)
            yield from (place for batch in some for place in self._attended(0, batch))

    def _attended(self, layer: int, batch: int) -> Iterator[Place]:
        """What the units of a group compute of a layer."""
        yield ATTENTION, layer, batch
        if self.shared[layer]:
            yield SHARED, layer, batch

    def _round(self, layer: int, batch: int) -> Iterator[Place]:
        """One micro-batch in one layer, from the end of its attention (in the first layer) to its return."""
        if layer:
            yield from self._attended(layer, batch)
        yield from ((stage, layer, batch) for stage in (OUT, GATHERED, FFN, SCATTERED, BACK))

    @cached_property
    def _drains(self) -> bool:
        return self.asked.boundary == "drain"

    def _turn(self, stage: str, layer: int, batch: int) -> Turn:
        """The turn at a place of the step."""
        layers, last = len(self.layers), len(self.layers) - 1
        at, source = partial(self._at, layer=layer, batch=batch), partial(Source, TOKENS)
        match stage:
            case "boundary":
                back = self._places[BACK, last, batch]
                return Boundary(units=self.groups[batch // self.m], micro_batch=batch % self.m, after=back)
            case "attention" | "shared expert":
                return self._attention(stage, layer, batch)
            case "out" | "back":
                return self._travel(stage, layer, batch)
            case "gather":
                return self._served(stage, layer, batch, resource=GATHER, after=at(OUT), work=source(layers + layer))
            case "ffn":
                draw = layer * len(self.groups) * self.m + batch
                return self._served(stage, layer, batch, after=at(GATHERED), work=source(layer), draw=draw)
            case _:
                work = source(2 * layers + layer)
                return self._served(stage, layer, batch, resource=SCATTER, after=at(FFN), work=work)

    def _at(self, stage: str, *, layer: int, batch: int) -> int:
        return self._places[stage, layer, batch]

    def _attention(self, stage: str, layer: int, batch: int) -> Compute:
        """A turn of the attention units: a layer's own stage, or its shared expert behind it."""
        group, j = divmod(batch, self.m)
        kind, drawn = (
            (self.attentions[layer], layer) if stage == ATTENTION else (self.shared[layer], len(self.layers) + layer)
        )
        assert kind is not None
        starts, waits = layer == 0 and stage == ATTENTION, layer > 0 and stage == ATTENTION
        return Compute(
            name=stage,
            units=self.groups[group],
            layer=layer,
            micro_batch=j,
            batch=batch,
            after=self._places[BACK, layer - 1, batch] if waits else NO_TURN,
            work=Source(RANK, self.kinds.index(kind)),
            pause=self._pause(j) if starts else 0.0,
            draw=drawn * self.m + j,
        )

    def _pause(self, j: int) -> float:
        """Seconds that a unit waits for its host before a micro-batch's first operation, with what a drain adds."""
        return self.asked.host_overhead + (self.asked.gap if self._drains and j == 0 else 0.0)

    def _served(self, name: str, layer: int, batch: int, **more: Any) -> Compute:
        """A turn of the FFN instances, which count the cell's micro-batches."""
        return Compute(name=name, units=self._ffns, layer=layer, micro_batch=batch, batch=batch, **more)

    def _travel(self, stage: str, layer: int, batch: int) -> Exchange:
        """The way of a group's rows to the FFN instances, or back from them."""
        group, j = divmod(batch, self.m)
        kind, kinds, outward = self.wires.index(self._wire(layer)), len(self.wires), stage == OUT
        ends = (self.groups[group], self._ffns) if outward else (self._ffns, self.groups[group])
        posted, sent = (ATTENTION, ATTENTION) if outward else (SCATTERED, FFN)
        rows = (0, kinds) if outward else (2 * kinds, 3 * kinds)
        return Exchange(
            senders=ends[0],
            receivers=ends[1],
            layer=layer,
            micro_batch=j,
            inbox=batch if outward else j,
            batch=batch,
            route=2 * group + (not outward),
            after=self._places[posted, layer, batch],
            sent=self._places[sent, layer, batch],
            out=Source(ROWS, rows[0] + kind),
            into=Source(ROWS, rows[1] + kind),
            nbytes=self.wires[kind][not outward] * self.queries,
            between=IMBALANCE if outward else WAIT_PEER,
            draw=layer * self.m + j,
        )

    @property
    def _ffns(self) -> range:
        return range(self.units, self.units + self.ffns)

    # seconds ---------------------------------------------------------------------------------------------------------

    def _ranks(self) -> Ranks:
        """What a rank's own seconds are made of."""
        afd, pool = self.deployment, self.deployment.attention
        at = partial(
            boundary_operators,
            afd.llm,
            precision=afd.precision,
            tp=pool.tp,
            lm_head=pool.lm_head,
            embedding=pool.embedding,
        )
        drafts = [operator for _ in range(self.queries - 1) for operator in at(self.batches)]
        return Ranks(
            layers=self.layers,
            kinds=[self.kinds.index(each) for each in self._stages],
            fixed=[self._stage(kind) for kind in self.kinds],
            cores_of=[() if isinstance(kind, Layer) else kind[0].cores for kind in self.kinds],
            head=self._on_rank((self._sum(self.layers[-1]), *at(self.batches * self.queries), *drafts)),
            rows=self._messages(),
        )

    def _stage(self, kind: Stage) -> Array:
        """A stage of one rank without its core, by batch; the first layer has no results to add up."""
        rows = self.batches * self.queries
        if isinstance(kind, Layer):
            return self._on_rank(stages.shared_stage(self.deployment, kind, rows))
        layer, before = kind
        sums = () if before is None else (self._sum(before),)
        return self._on_rank((*stages.attention_stage(self.deployment, layer, rows), *sums))

    def _sum(self, layer: Layer) -> Operator:
        return stages.reduction(self.deployment, layer, self.batches * self.queries)

    def _on_rank(self, operators: tuple[Operator, ...]) -> Array:
        return table(priced(self.cost, self.deployment.attention.gpu, operators), self.batches)

    def _messages(self) -> list[Array]:
        """Seconds of a message on the sender's and on the receiver's port, out by kind and back; then on uplinks."""
        out, back = ([kind[way] * self.queries for kind in self.wires] for way in (0, 1))
        gpus, rows = (self.deployment.attention.gpu, self.deployment.ffn.gpu), list[Array]()
        for (attention, ffn), (own, met) in fabrics.hops(self.scenario.network, self.fabric, gpus):
            rows += [
                *(self._occupied(nbytes * own, attention) for nbytes in out),
                *(self._occupied(nbytes * met, ffn) for nbytes in out),
                *(self._occupied(nbytes * met, ffn) for nbytes in back),
                *(self._occupied(nbytes * own, attention) for nbytes in back),
            ]
        return rows

    def _occupied(self, per_token: float, bandwidth: float) -> Array:
        """Seconds of a message on one NIC port by batch of the rank; its rows are shared by the rank's GPUs."""
        rows = np.ceil(self.batches / self.deployment.attention.tp)
        return table(self.network.seconds(rows * per_token, bandwidth), self.batches)

    # a micro-batch's tokens ------------------------------------------------------------------------------------------

    def _tokens(self) -> tuple[Array, Pricing, Array]:
        """Entries of FFN, gather and scatter of every layer by (row, unit), their seconds, and evenness (f,)."""
        loads, layers = self._loads(), self.layers  # evenness: seconds of an even load over the instance's, at most 1
        rows = [(stage, place) for stage in SERVED for place in range(len(layers))]
        asked = [
            [self._asked(stage, layers[at], load[at]) for stage, at in rows] for load in (*loads, [EVEN] * len(layers))
        ]
        found = distinct(key for each in asked for key in each)
        number = {key: place for place, key in enumerate(found)}
        columns = np.array([self._seconds(*key) for key in found]).T
        entries = np.array([[number[key] for key in each] for each in asked])
        place = np.zeros((len(rows), self.units + self.ffns), dtype=INDEX)
        place[:, self.units :] = entries[:-1].T
        ffn = columns[-1][entries[:, : len(layers)]].sum(axis=1)
        best, slow = ffn[-1], ffn[:-1]
        shares = np.minimum(np.divide(best, slow, out=np.ones_like(slow), where=slow > 0), 1.0)
        return place, Pricing(len(self.totals) - 1, lambda asked: columns[asked], at_once=True), shares

    def _asked(self, stage: str, layer: Layer, load: Load) -> tuple[str, Layer, Load]:
        """What a stage of the FFN instances depends on: layers with equal FFNs are one."""
        alike = next(each for each in self.layers if each.ffn == layer.ffn)
        moved = stage == FFN or stages.crossing(self.deployment, layer) < 1.0
        return stage, alike, load if moved else EVEN

    def _seconds(self, stage: str, layer: Layer, load: Load) -> Array:
        """Seconds of a stage on the busiest GPU of an instance, by sequences of the micro-batch."""
        afd, tokens = self.deployment, self.totals * self.queries
        return table(
            priced(self.ffn_cost, afd.ffn.gpu, SERVED[stage](afd, layer, tokens, load.of(tokens))), self.totals
        )

    def _loads(self) -> list[list[Load]]:
        """Load of the busiest GPUs of each FFN instance and layer (f, l)."""
        ffn, layers, law = self.deployment.ffn, self.layers, self.scenario.variation.experts
        moes = [layer.ffn for layer in layers if isinstance(layer.ffn, Moe)]
        if not moes:
            return [[EVEN] * len(layers)] * ffn.instances
        apart = ffn.instances if ffn.across == "experts" else 1
        asked = routing.Asked(experts=moes[0].experts, layers=len(moes), ranks=ffn.ep * apart, top_k=moes[0].top_k)
        drawn = routing.slowest(law, asked, apart, self.stream)
        found = [iter(drawn[instance % apart]) for instance in range(ffn.instances)]
        return [[next(row) if isinstance(layer.ffn, Moe) else EVEN for layer in layers] for row in found]

    # network and variation -------------------------------------------------------------------------------------------

    def _wiring(self) -> Wiring:
        """Ports of both sides: one a unit, one an FFN instance and rail; a wire a pair where they are dedicated."""
        network, uplinks = self.scenario.network, self.scenario.network.uplinks
        discipline = DISCIPLINES.index(network.type)
        alone = discipline == DEDICATED
        return wired(
            self.fabric,
            self.groups,
            self.ffns,
            alone=alone,
            first_lane=self.m,
            draws=len(self.layers) * self.m,
        )._replace(
            discipline=discipline,
            wait=network.synchronise + network.post,
            lag=network.link.latency if alone else network.link.latency / 2,
            rest=0.0 if alone else network.link.latency / 2,
            poll=network.poll,
            between=uplinks.latency if uplinks else 0.0,
            further=INDEX(4 * len(self.wires) if uplinks else 0),
        )

    def _variation(self) -> Variation:
        asked, ranks = self.scenario.variation, self.deployment.attention.dp if self.per_rank else 1
        slow, draws = asked.straggler, len(self.layers) * self.m
        own = draws * (1 + any(self.shared))
        attention = tuple(slow.get(f"attention[{unit // ranks}]", 1.0) for unit in range(self.units))
        ffn = tuple(slow.get(f"ffn[{f}]", 1.0) for f in range(self.ffns))
        return self.varied(
            compute=(
                Jitter(pool="attention", stragglers=attention, draws=own),
                Jitter(pool="ffn", stragglers=ffn, draws=draws * len(self.groups)),
            ),
            wires=tuple(
                Wires(kind=kind, pairs=self.units * self.ffns, draws=draws) for kind in ("link_out", "link_back")
            ),
            link=asked.link,
        )

    # what a run is told by -------------------------------------------------------------------------------------------

    def _pools(self, even: Array, own: Callable[[int, float], tuple[float, float]]) -> tuple[Pool, Pool]:
        attention, ffn, ranks = (
            self.deployment.attention,
            self.deployment.ffn,
            1 if self.per_rank else self.deployment.attention.dp,
        )
        shares = np.stack([np.zeros_like(even), np.ones_like(even), even], axis=1)
        return (
            Pool(
                name="attention",
                gpus=attention,
                units=range(self.units),
                ranks=ranks,
                gpus_per_rank=attention.tp,
                work=self._attention_work,
                shares=lambda batch, context: self._shares(*own(min(batch, len(self.batches) - 1), context)),
            ),
            Pool(
                name="ffn",
                gpus=ffn,
                units=range(self.units, self.units + self.ffns),
                ranks=1,
                gpus_per_rank=ffn.gpus_per_instance,
                work=self._ffn_work,
                shares=lambda batch, context: shares,
            ),
        )

    def _shares(self, stages: float, boundary: float) -> Array:
        """Shares of an attention unit's busy time in its ranks' stages, in experts (none), and an even load's."""
        return np.tile([stages / max(stages + boundary, np.finfo(float).tiny), 0.0, 1.0], (self.units, 1))

    def _attention_work(self, batch: float, context: float) -> Work:
        return passes.attention(self.deployment, self.queries, batch, context)

    def _ffn_work(self, batch: float, context: float) -> Work:
        del context
        return passes.ffn(self.deployment, self.queries, batch, len(self.groups))

    def _nvlink(self) -> tuple[tuple[Gpu, Operator], ...]:
        """The collectives of an FFN instance, which the shares of peak leave out."""
        afd, one = self.deployment, np.ones(1)
        found = {
            operator.name: (afd.ffn.gpu, operator)
            for layer in distinct(self.layers)
            for stage in (stages.gather_stage, stages.scatter_stage)
            for operator in stage(afd, layer, one)
        }
        return tuple(found.values())

    def _links(self, rank_tokens: Array, steps: int) -> list[LinkRow]:
        """Every NIC: NIC i meets GPU i of the other side."""
        layers = [self._wire(layer) for layer in range(len(self.layers))]
        out, back = (self.queries * sum(wire[way] for wire in layers) for way in (0, 1))
        passes = steps * self.m * len(self.layers)
        return fabrics.counters(self.deployment, self.fabric.sharing, rank_tokens, passes, (out, back))
