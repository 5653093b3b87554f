"""Attention-FFN disaggregation as a schedule: attention -> exchange -> gather -> FFN -> scatter -> exchange.

One round per (layer, micro-batch), in that order on every resource. Several attention groups take turns on one FFN
pool; each has micro-batches of its own, so that a layer sees groups x micro-batches of them (xDeepServe's domains).

Index letters: l layer, j micro-batch of a group, u attention unit (an instance, or a rank at GPU granularity), f FFN
instance, J micro-batch of the cell: group x micro-batches + j.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Layer, Moe, combine_bytes, dispatch_bytes
from afdsim.cluster import experts as routing
from afdsim.cluster.deployment import Afd, AttentionPool, FfnPool
from afdsim.cluster.experts import EVEN, Load
from afdsim.cluster.network import DEDICATED, DISCIPLINES, Network, Wire, Wiring
from afdsim.cluster.topology import Fabric, fabric, wired
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    ffn_operators,
    gather_operator,
    reduction_operator,
    scatter_operator,
)
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
from afdsim.scenario.document import Scenario, Streams


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
        ranks = self._ranks()
        return Cell(
            deployment=self.deployment,
            schedule=self._schedule(),
            pools=self._pools(even),
            tables=flat(
                ranks, CoreLaw(deployment=self.deployment, cost=self.cost, queries=self.queries), place, self._batch_of
            ),
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
    def kinds(self) -> list[tuple[Layer, bool]]:
        """Different attention stages; the first layer has no results to add up."""
        return distinct((layer, place == 0) for place, layer in enumerate(self.layers))

    @cached_property
    def wires(self) -> list[int]:
        """Different messages: experts chosen for a token, 0 in a dense layer."""
        return distinct(_top_k(layer) for layer in self.layers)

    def _refuses(self) -> str | None:
        if len(self.layers) == 1 and self.m * len(self.groups) > 1:
            return "one layer with several micro-batches: a step may overtake the boundaries of the one before"
        return None

    # schedule --------------------------------------------------------------------------------------------------------

    def _schedule(self) -> Schedule:
        """Boundaries with the first layer's attention, then rounds by layer, group and micro-batch."""
        batches = range(len(self.groups) * self.m)
        opening = [turn for g in range(len(self.groups)) for turn in self._opening(g)]
        rounds = [turn for layer in range(len(self.layers)) for batch in batches for turn in self._round(layer, batch)]
        return Schedule(
            turns=(*opening, *rounds),
            opening=len(opening),
            micro_batches=self.m,
            batches=len(batches),
            together=False,
        )

    def _opening(self, g: int) -> Iterator[Turn]:
        """How the units of a group begin a step: each micro-batch after its boundary, or all boundaries first."""
        last = len(self.layers) - 1
        for x in range(2 * self.m):
            j, attends = (x % self.m, x >= self.m) if self._drains else (x // 2, x % 2 == 1)
            batch = g * self.m + j
            if attends:
                yield self._attention(0, batch)
            else:
                yield Boundary(units=self.groups[g], micro_batch=j, after=self._back(last, batch))

    @cached_property
    def _drains(self) -> bool:
        return self.asked.boundary == "drain"

    def _attended(self, layer: int, batch: int) -> int:
        """Place of an attention turn."""
        group, j = divmod(batch, self.m)
        if layer == 0:
            return 2 * self.m * group + (self.m + j if self._drains else 2 * j + 1)
        return self._back(layer, batch) - 5

    def _back(self, layer: int, batch: int) -> int:
        """Place of the exchange that ends a round: of five turns in the first layer, of six behind it."""
        batches = len(self.groups) * self.m
        return (
            2 * batches + 5 * (batch + 1) - 1
            if layer == 0
            else (7 * batches + 6 * (layer - 1) * batches + 6 * batch + 5)
        )

    def _attention(self, layer: int, batch: int) -> Compute:
        group, j = divmod(batch, self.m)
        kind = self.kinds.index((self.layers[layer], layer == 0))
        return Compute(
            name="attention",
            units=self.groups[group],
            layer=layer,
            micro_batch=j,
            batch=batch,
            after=self._back(layer - 1, batch) if layer else NO_TURN,
            work=Source(RANK, kind),
            pause=self.asked.gap if self._drains and layer == 0 and j == 0 else 0.0,
            draw=layer * self.m + j,
        )

    def _round(self, layer: int, batch: int) -> Iterator[Turn]:
        """One micro-batch in one layer, from the end of its attention (in the first layer) to its return."""
        end, wires = self._back(layer, batch), len(self.wires)
        kind, attended = self.wires.index(_top_k(self.layers[layer])), self._attended(layer, batch)
        gather, ffn, scatter = (Source(TOKENS, row) for row in (kind, wires + layer, wires + len(self.layers)))
        out, into, back, home = (Source(ROWS, row) for row in (kind, wires + kind, 2 * wires, 2 * wires + 1))
        if layer:
            yield self._attention(layer, batch)
        yield self._travel(layer, batch, after=attended, sent=attended, out=out, into=into)
        yield self._served("gather", layer, batch, resource=GATHER, after=end - 4, work=gather)
        draw = layer * len(self.groups) * self.m + batch
        yield self._served("ffn", layer, batch, after=end - 3, work=ffn, draw=draw)
        yield self._served("scatter", layer, batch, resource=SCATTER, after=end - 2, work=scatter)
        yield self._travel(layer, batch, after=end - 1, sent=end - 2, out=back, into=home)

    def _served(self, name: str, layer: int, batch: int, **more: Any) -> Compute:
        """A turn of the FFN instances, which count the cell's micro-batches."""
        return Compute(name=name, units=self._ffns, layer=layer, micro_batch=batch, batch=batch, **more)

    def _travel(self, layer: int, batch: int, **more: Any) -> Exchange:
        """The way of a group's rows to the FFN instances, or back from them."""
        group, j = divmod(batch, self.m)
        kind, outward = self.wires.index(_top_k(self.layers[layer])), more["after"] == more["sent"]
        ends = (self.groups[group], self._ffns) if outward else (self._ffns, self.groups[group])
        return Exchange(
            senders=ends[0],
            receivers=ends[1],
            layer=layer,
            micro_batch=j,
            inbox=batch if outward else j,
            batch=batch,
            route=2 * group + (not outward),
            nbytes=self._row_bytes[0][kind] if outward else self._row_bytes[1],
            between=IMBALANCE if outward else WAIT_PEER,
            draw=layer * self.m + j,
            **more,
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
            kinds=[self.kinds.index((layer, place == 0)) for place, layer in enumerate(self.layers)],
            fixed=[self._stage(layer, first=first) for layer, first in self.kinds],
            cores_of=[layer.cores for layer, _ in self.kinds],
            head=self._on_rank((self._reduction(), *at(self.batches * self.queries), *drafts)),
            rows=self._messages(),
        )

    def _stage(self, layer: Layer, *, first: bool) -> Array:
        """Attention stage of one rank without its core, by batch; the first layer has no results to add up."""
        afd, pool = self.deployment, self.deployment.attention
        operators = attention_operators(
            afd.llm, layer, self.batches * self.queries, precision=afd.precision, tp=pool.tp, o_proj=pool.o_proj
        )
        return self._on_rank(operators if first else (*operators, self._reduction()))

    def _reduction(self) -> Operator:
        return reduction_operator(self.deployment.llm, self.batches * self.queries, self.deployment.ffn.instances)

    def _on_rank(self, operators: tuple[Operator, ...]) -> Array:
        return table(priced(self.cost, self.deployment.attention.gpu, operators), self.batches)

    def _messages(self) -> list[Array]:
        """Seconds of a message on the sender's and on the receiver's port, out by kind and back; then on uplinks."""
        (out, back), rows, pools = self._row_bytes, list[Array](), (self.deployment.attention, self.deployment.ffn)
        for (attention, ffn), (own, met) in fabrics.hops(
            self.scenario.network, self.fabric, (pools[0].gpu, pools[1].gpu)
        ):
            rows += [
                *(self._wire(nbytes * own, attention) for nbytes in out),
                *(self._wire(nbytes * met, ffn) for nbytes in out),
                self._wire(back * met, ffn),
                self._wire(back * own, attention),
            ]
        return rows

    @cached_property
    def _row_bytes(self) -> tuple[list[float], float]:
        """Bytes of a sequence to each FFN instance by kind of message, and back."""
        llm, queries = self.deployment.llm, self.queries
        firsts = [next(layer for layer in self.layers if _top_k(layer) == top_k) for top_k in self.wires]
        out = [dispatch_bytes(llm, layer, self.deployment.precision.ffn) * queries for layer in firsts]
        return out, combine_bytes(llm) * queries

    def _wire(self, per_token: float, bandwidth: float) -> Array:
        """Seconds of a message on one NIC port by batch of the rank; its rows are shared by the rank's GPUs."""
        rows = np.ceil(self.batches / self.deployment.attention.tp)
        return table(self.network.seconds(rows * per_token, bandwidth), self.batches)

    # a micro-batch's tokens ------------------------------------------------------------------------------------------

    def _tokens(self) -> tuple[Array, Pricing, Array]:
        """Entries of `gather`, FFN and scatter by (row, unit), their seconds, and evenness (f,)."""
        loads, layers = self._loads(), self.layers  # evenness: seconds of an even load over the instance's, at most 1
        even = [(layer.ffn, EVEN) for layer in layers]
        keys = [(layer.ffn, load) for row in loads for layer, load in zip(layers, row, strict=True)] + even
        found = distinct(keys)
        ffn = [self._ffn(layers[keys.index(key) % len(layers)], key[1]) for key in found]
        rows = np.array([found.index(key) for key in keys]).reshape(-1, len(layers)) + len(self.wires)
        columns = np.array([*(self._gather(top_k) for top_k in self.wires), *ffn, self._scatter()]).T
        place = np.zeros((len(self.wires) + len(layers) + 1, self.units + self.ffns), dtype=INDEX)
        place[: len(self.wires)] = np.arange(len(self.wires))[:, None]
        place[len(self.wires) : -1, self.units :] = rows[:-1].T
        place[-1] = columns.shape[1] - 1
        best, slow = columns[-1][rows[-1]].sum(), columns[-1][rows[:-1]].sum(axis=1)
        shares = np.minimum(np.divide(best, slow, out=np.ones_like(slow), where=slow > 0), 1.0)
        return place, Pricing(len(self.totals) - 1, lambda asked: columns[asked], at_once=True), shares

    def _ffn(self, layer: Layer, load: Load) -> Array:
        afd, tokens = self.deployment, self.totals * self.queries
        operators = ffn_operators(
            afd.llm, layer, tokens, precision=afd.precision, split=afd.ffn.split, load=load.of(tokens)
        )
        return table(priced(self.ffn_cost, afd.ffn.gpu, operators), self.totals)

    def _gather(self, top_k: int) -> Array:
        afd, gpus = self.deployment, self.deployment.ffn.gpus_per_instance
        tokens = self.totals * self.queries
        operator = gather_operator(afd.llm, tokens, gpus=gpus, top_k=top_k, precision=afd.precision)
        return table(priced(self.ffn_cost, afd.ffn.gpu, (operator,)), self.totals)

    def _scatter(self) -> Array:
        operator = scatter_operator(
            self.deployment.llm, self.totals * self.queries, gpus=self.deployment.ffn.gpus_per_instance
        )
        return table(priced(self.ffn_cost, self.deployment.ffn.gpu, (operator,)), self.totals)

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
            further=INDEX(2 * len(self.wires) + 2 if uplinks else 0),
        )

    def _variation(self) -> Variation:
        asked, ranks = self.scenario.variation, self.deployment.attention.dp if self.per_rank else 1
        slow, draws = asked.straggler, len(self.layers) * self.m
        attention = tuple(slow.get(f"attention[{unit // ranks}]", 1.0) for unit in range(self.units))
        ffn = tuple(slow.get(f"ffn[{f}]", 1.0) for f in range(self.ffns))
        return Variation(
            stream=self.stream,
            compute=(
                Jitter(pool="attention", stragglers=attention, draws=draws),
                Jitter(pool="ffn", stragglers=ffn, draws=draws * len(self.groups)),
            ),
            wires=tuple(
                Wires(kind=kind, pairs=self.units * self.ffns, draws=draws) for kind in ("link_out", "link_back")
            ),
            event=asked.event,
            step=asked.step,
            link=asked.link,
        )

    # what a run is told by -------------------------------------------------------------------------------------------

    def _pools(self, even: Array) -> tuple[Pool, Pool]:
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
                shares=lambda batch, context: np.tile([1.0, 0.0, 1.0], (self.units, 1)),
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

    def _attention_work(self, batch: float, context: float) -> Work:
        return passes.attention(self.deployment, self.queries, batch, context, partials=self.ffns)

    def _ffn_work(self, batch: float, context: float) -> Work:
        del context
        return passes.ffn(self.deployment, self.queries, batch, len(self.groups))

    def _nvlink(self) -> tuple[tuple[Gpu, Operator], ...]:
        """The collectives of an FFN instance, which the shares of peak leave out."""
        llm, ffn, one = self.deployment.llm, self.deployment.ffn, np.ones(1)
        gather = gather_operator(
            llm,
            one,
            gpus=ffn.gpus_per_instance,
            top_k=max(map(_top_k, self.layers)),
            precision=self.deployment.precision,
        )
        return (ffn.gpu, gather), (ffn.gpu, scatter_operator(llm, one, gpus=ffn.gpus_per_instance))

    def _links(self, rank_tokens: Array, steps: int) -> list[LinkRow]:
        """Every NIC: NIC i meets GPU i of the other side."""
        attention, ffn = self.deployment.attention, self.deployment.ffn
        passes, (out, back) = steps * self.m * len(self.layers), self._row_bytes
        per_token = (sum(out[self.wires.index(_top_k(layer))] for layer in self.layers), back * len(self.layers))
        rows: list[LinkRow] = []
        for server in range(attention.instances):
            for rank in range(attention.dp):
                sent = rank_tokens[server * attention.dp + rank] * ffn.instances / attention.tp
                for part in range(attention.tp):
                    place = ("attention", server, rank * attention.tp + part)
                    rows.append((*place, "egress", passes * ffn.instances, sent * per_token[0]))
                    rows.append((*place, "ingress", passes * ffn.instances, sent * per_token[1]))
        return fabrics.per_nic(rows + self._ffn_links(rank_tokens, passes, per_token), self.fabric.sharing)

    def _ffn_links(self, rank_tokens: Array, passes: int, per_token: tuple[float, float]) -> list[LinkRow]:
        attention, ffn = self.deployment.attention, self.deployment.ffn
        rails = min(attention.gpus_per_instance, ffn.gpus_per_instance)
        met, peers = np.zeros(ffn.gpus_per_instance), np.zeros(ffn.gpus_per_instance, dtype=int)
        for rank, tokens_of in enumerate(rank_tokens):
            for part in range(attention.tp):
                nic = (rank % attention.dp * attention.tp + part) % rails
                met[nic] += tokens_of / attention.tp
                peers[nic] += 1
        rows: list[LinkRow] = []
        for instance in range(ffn.instances):
            for nic in range(ffn.gpus_per_instance):
                messages = int(passes * peers[nic])
                rows.append(("ffn", instance, nic, "ingress", messages, float(met[nic] * per_token[0])))
                rows.append(("ffn", instance, nic, "egress", messages, float(met[nic] * per_token[1])))
        return rows


def _top_k(layer: Layer) -> int:
    return layer.ffn.top_k if isinstance(layer.ffn, Moe) else 0
