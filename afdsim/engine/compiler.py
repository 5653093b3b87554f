"""Scenario -> Program: operators become tables of seconds by batch, so that a step only looks them up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Layer, Moe, Precision, combine_bytes, dispatch_bytes
from afdsim.cluster import experts as routing
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd, AttentionPool, FfnPool
from afdsim.cluster.network import Network, Wire
from afdsim.cluster.topology import Fabric, fabric
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    core_operator,
    ffn_operators,
    gather_operator,
    reduction_operator,
    scatter_operator,
)
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.engine.colocated_compiler import colocated, compile_colocated, drafts_of
from afdsim.engine.colocated_program import ColocatedProgram
from afdsim.engine.drafts import SCALE, with_drafts
from afdsim.engine.program import Array, Core, LinearCore, Program, SampledCore, Table, Timing
from afdsim.engine.variation import Variation
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario, Streams

T = TypeVar("T")

LOAD_STEP = 0.01
"""Loads of skewed experts are rounded to this, so that layers share tables."""


def any_deployment(scenario: Scenario) -> Afd | Colocated:
    """Return the deployment that a scenario asks for, of whatever type."""
    return deployment(scenario) if isinstance(scenario.deployment, tree.Afd) else colocated(scenario)


def deployment(scenario: Scenario) -> Afd:
    """Return the AFD deployment that a scenario asks for, with catalog entries in place of names."""
    asked = scenario.deployment
    assert isinstance(asked, tree.Afd)
    a, f = asked.attention, asked.ffn
    return Afd(
        llm=with_drafts(catalog.llm(scenario.model), asked.mtp.draft if asked.mtp else 0),
        precision=Precision(
            attention=scenario.precision.attention, ffn=scenario.precision.ffn, kv_cache=scenario.precision.kv_cache
        ),
        attention=AttentionPool(
            gpu=catalog.gpu(a.gpu),
            instances=a.instances,
            dp=a.parallelism.dp,
            tp=a.parallelism.tp,
            o_proj=a.o_proj,
            lm_head=a.lm_head,
        ),
        ffn=FfnPool(
            gpu=catalog.gpu(f.gpu), instances=f.instances, ep=f.parallelism.ep, tp=f.parallelism.tp, across=f.across
        ),
        num_microbatches=asked.num_microbatches,
        max_num_seqs=asked.max_num_seqs,
    )


def compile_program(
    scenario: Scenario, *, seed: int, cost: CostModel | None = None, network: Network | None = None
) -> Program | ColocatedProgram:
    """Tabulate everything about a scenario that does not change while it runs."""
    if not isinstance(scenario.deployment, tree.Afd):
        return compile_colocated(scenario, seed=seed, cost=cost)
    return compile_afd(scenario, seed=seed, cost=cost, network=network)


def compile_afd(
    scenario: Scenario, *, seed: int, cost: CostModel | None = None, network: Network | None = None
) -> Program:
    """Tabulate everything about an AFD scenario that does not change while it runs."""
    afd = deployment(scenario)
    afd.check_memory()
    per_rank = scenario.run.granularity == "gpu"
    return _Compiler(scenario, afd, seed, cost or Roofline(), network or Wire()).program(
        fabric(afd, per_rank=per_rank), per_rank=per_rank
    )


class _Compiler:
    """Holds what every table needs."""

    def __init__(self, scenario: Scenario, afd: Afd, seed: int, cost: CostModel, network: Network) -> None:
        self.scenario, self.afd, self.cost, self.network = scenario, afd, cost, network
        self.stream = Streams(seed)
        self.batches = np.arange(max(afd.micro_batch_slots) + 1, dtype=float)
        """Batches of one rank in one micro-batch."""
        self.totals = np.arange(afd.attention.ranks * max(afd.micro_batch_slots) + 1, dtype=float)
        """Sequences of a whole micro-batch."""
        asked = scenario.deployment
        assert isinstance(asked, tree.Afd)
        self.drafts = drafts_of(asked.mtp, self.stream)
        self.queries = 1 + (asked.mtp.draft if asked.mtp else 0)
        """Query tokens of a sequence and step: rows of everything but the KV cache."""

    def program(self, rails: Fabric, *, per_rank: bool) -> Program:
        afd, layers = self.afd, self.afd.llm.layers
        kinds = _distinct((layer, place == 0) for place, layer in enumerate(layers))
        cores = _distinct(layer.attention for layer in layers)
        windows = _distinct(layer.attention.window for layer in layers)
        wires = _distinct(self._top_k(layer) for layer in layers)
        wire_layers = [next(layer for layer in layers if self._top_k(layer) == top_k) for top_k in wires]
        ffn_row, ffn = self._ffn(self._loads())
        egress, ingress = self._port_bandwidths()
        senders = rails.senders_per_port
        out = [dispatch_bytes(afd.llm, layer, afd.precision.ffn) * self.queries for layer in wire_layers]
        back = combine_bytes(afd.llm) * self.queries
        return Program(
            deployment=afd,
            fabric=rails,
            timing=self._timing(rails.hops),
            variation=self._variation(afd.attention.ranks if per_rank else afd.attention.instances, per_rank=per_rank),
            per_rank=per_rank,
            windows=tuple(windows),
            attention_kind=tuple(kinds.index((layer, place == 0)) for place, layer in enumerate(layers)),
            fixed=tuple(self._attention(layer, first=first) for layer, first in kinds),
            core=tuple(cores.index(layer.attention) for layer, _ in kinds),
            cores=tuple(self._core(layer, windows.index(layer.attention.window)) for layer in self._first_with(cores)),
            drafts=self.drafts,
            head=self._head(),
            wire_kind=tuple(wires.index(self._top_k(layer)) for layer in layers),
            gather=tuple(self._gather(top_k) for top_k in wires),
            ffn_row=ffn_row[:-1],
            ffn_row_even=ffn_row[-1],
            ffn=ffn,
            scatter=self._scatter(),
            out_egress=tuple(self._wire(nbytes, egress) for nbytes in out),
            out_ingress=tuple(self._wire(nbytes * senders, ingress) for nbytes in out),
            back_egress=self._wire(back * senders, ingress),
            back_ingress=self._wire(back, egress),
            dispatch_bytes=tuple(out),
            combine_bytes=back,
        )

    # compute ---------------------------------------------------------------------------------------------------------

    def _attention(self, layer: Layer, *, first: bool) -> Table:
        """Attention stage of one rank without its core, by batch; the first layer has no results to add up."""
        afd = self.afd
        pool = afd.attention
        operators = attention_operators(
            afd.llm, layer, self.batches * self.queries, precision=afd.precision, tp=pool.tp, o_proj=pool.o_proj
        )
        if not first:
            operators = (*operators, self._reduction())
        return self._seconds(operators, pool.gpu, self.batches)

    def _reduction(self) -> Operator:
        return reduction_operator(self.afd.llm, self.batches * self.queries, self.afd.ffn.instances)

    def _head(self) -> Table:
        pool = self.afd.attention
        at = partial(boundary_operators, self.afd.llm, precision=self.afd.precision, lm_head=pool.lm_head)
        drafts = [operator for _ in range(self.queries - 1) for operator in at(self.batches)]
        operators = (self._reduction(), *at(self.batches * self.queries), *drafts)
        return self._seconds(operators, pool.gpu, self.batches)

    def _core(self, layer: Layer, window: int) -> Core:
        afd = self.afd
        if not isinstance(self.cost, Roofline):
            return SampledCore(window=window, layer=layer, deployment=afd, cost=self.cost, query_tokens=self.queries)
        q, scale = float(self.queries), SCALE if self.queries > 1 else 1
        at = partial(core_operator, layer, precision=afd.precision, tp=afd.attention.tp, query_tokens=self.queries)
        law = self.cost.law(at(q, 1.0), afd.attention.gpu)
        queries, both = at(q, 0.0), at(q, 1.0)
        return LinearCore(
            window=window,
            fixed=law.fixed,
            flop=float(both.flops - queries.flops) * law.per_flop / scale,
            byte=float(both.bytes - queries.bytes) * law.per_byte / scale,
            flop_per_token=float(queries.flops) * law.per_flop,
            byte_per_token=float(queries.bytes) * law.per_byte,
        )

    def _first_with(self, attentions: Sequence[object]) -> list[Layer]:
        return [next(layer for layer in self.afd.llm.layers if layer.attention == one) for one in attentions]

    def _ffn(self, loads: Array) -> tuple[Array, tuple[Table, ...]]:
        """Rows (f, l) into the tables of one GPU of an FFN instance, one per kind of FFN and load.

        One row more than instances: that of a GPU whose load is the mean.
        """
        layers = self.afd.llm.layers
        even = [(layer.ffn, 1.0) for layer in layers]
        keys = [(layer.ffn, float(load)) for row in loads for layer, load in zip(layers, row, strict=True)] + even
        found = _distinct(keys)
        rows = np.array([found.index(key) for key in keys]).reshape(-1, len(layers))
        return rows, tuple(self._ffn_table(layers[keys.index(key) % len(layers)], key[1]) for key in found)

    def _ffn_table(self, layer: Layer, load: float) -> Table:
        afd = self.afd
        tokens = self.totals * self.queries
        operators = ffn_operators(afd.llm, layer, tokens, precision=afd.precision, split=afd.ffn.split, load=load)
        return self._seconds(operators, afd.ffn.gpu, self.totals)

    def _loads(self) -> Array:
        """Load of the slowest GPU of each FFN instance and layer relative to the mean (f, l)."""
        ffn, layers, law = self.afd.ffn, self.afd.llm.layers, self.scenario.variation.experts
        places = [isinstance(layer.ffn, Moe) for layer in layers]
        experts = next((layer.ffn.experts for layer in layers if isinstance(layer.ffn, Moe)), 0)
        loads = np.ones((ffn.instances, len(layers)))
        if not experts or law.law == "uniform":
            return loads
        apart = ffn.instances if ffn.across == "experts" else 1
        asked = routing.Asked(experts=experts, layers=sum(places), ranks=ffn.ep * apart)
        slowest = routing.loads(law, asked, self.stream).reshape(sum(places), apart, ffn.ep).max(axis=2)
        loads[:, places] = np.ceil(slowest.T / LOAD_STEP) * LOAD_STEP
        return loads

    # network ---------------------------------------------------------------------------------------------------------

    def _gather(self, top_k: int) -> Table:
        afd = self.afd
        operator = gather_operator(
            afd.llm, self.totals * self.queries, gpus=afd.ffn.gpus_per_instance, top_k=top_k, precision=afd.precision
        )
        return self._seconds((operator,), afd.ffn.gpu, self.totals)

    def _scatter(self) -> Table:
        operator = scatter_operator(self.afd.llm, self.totals * self.queries, gpus=self.afd.ffn.gpus_per_instance)
        return self._seconds((operator,), self.afd.ffn.gpu, self.totals)

    def _port_bandwidths(self) -> tuple[float, float]:
        """Achieved bytes/s of an attention NIC and of an FFN NIC."""
        link, efficiency = self.scenario.network.link, self.scenario.network.efficiency
        gpus = (self.afd.attention.gpu, self.afd.ffn.gpu)
        attention, ffn = ((link.bandwidth or gpu.nic.bandwidth) * efficiency for gpu in gpus)
        return attention, ffn

    def _wire(self, per_token: float, bandwidth: float) -> Table:
        """Seconds of a message on one NIC port by batch of the rank; its rows are shared by the rank's GPUs."""
        rows = np.ceil(self.batches / self.afd.attention.tp)
        return _table(self.network.seconds(rows * per_token, bandwidth), self.batches)

    def _timing(self, hops: int) -> Timing:
        network, asked = self.scenario.network, self.scenario.deployment
        assert isinstance(asked, tree.Afd)
        return Timing(
            dedicated=network.type == "dedicated",
            send=network.synchronise + network.post,
            poll=network.poll,
            latency=network.link.latency,
            half=network.link.latency / hops,
            drain=asked.boundary == "drain",
            gap=asked.gap,
        )

    # variation -------------------------------------------------------------------------------------------------------

    def _variation(self, units: int, *, per_rank: bool) -> Variation:
        asked, afd = self.scenario.variation, self.afd
        slow = asked.straggler
        ranks = afd.attention.dp if per_rank else 1
        return Variation(
            layers=len(afd.llm.layers),
            micro_batches=afd.num_microbatches,
            stream=self.stream,
            attention_stragglers=tuple(slow.get(f"attention[{unit // ranks}]", 1.0) for unit in range(units)),
            ffn_stragglers=tuple(slow.get(f"ffn[{f}]", 1.0) for f in range(afd.ffn.instances)),
            event=asked.event,
            step=asked.step,
            link=asked.link,
        )

    @staticmethod
    def _top_k(layer: Layer) -> int:
        return layer.ffn.top_k if isinstance(layer.ffn, Moe) else 0

    def _seconds(self, operators: Iterable[Operator], gpu: Gpu, counts: Array) -> Table:
        return _table(sum(self.cost.seconds(operator, gpu) for operator in operators), counts)


def _table(seconds: Array | float, counts: Array) -> Table:
    """Seconds by count; nothing takes no time."""
    table: Table = np.broadcast_to(seconds, counts.shape).tolist()
    table[0] = 0.0
    return table


def _distinct(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
