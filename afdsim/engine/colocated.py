"""Colocated deployments as a schedule: expert parallelism in the published order of stages, and tensor parallelism.

Five stages per layer and micro-batch (cost and order of the published DeepSeek and SGLang schedules):

    0  norm, projections into attention
    1  core attention, o_proj, router
    2  send the dispatch, shared expert (a dense layer: all of its FFN)
    3  receive the dispatch, routed experts, send the combine
    4  receive the combine

A GPU computes one stage at a time. With two micro-batches the second runs two stages behind the first, so that one
computes while the other's tokens fly. Tensor parallelism is the same without exchanges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Ffn, Layer, Moe
from afdsim.cluster import experts as routing
from afdsim.cluster.colocated import Colocated, ExpertParallel, TensorParallel
from afdsim.cluster.deployment import AttentionPool
from afdsim.cluster.experts import EVEN, Load
from afdsim.cluster.network import unwired
from afdsim.cost.all_to_all import Exchange as Kernel
from afdsim.cost.all_to_all import exchange, pair_bytes
from afdsim.cost.operators import (
    Operator,
    boundary_operators,
    collective,
    dense_operators,
    expert_operator,
    operators_after,
    operators_before,
)
from afdsim.cost.roofline import CostModel, Roofline, weakest
from afdsim.engine import passes
from afdsim.engine.books import IMBALANCE
from afdsim.engine.cell import (
    BROUGHT,
    Array,
    Cell,
    CoreLaw,
    Extra,
    LinkRow,
    Lowering,
    Pool,
    Pricing,
    Ranks,
    flat,
    model_and_precision,
    priced,
    rank_seconds,
    table,
)
from afdsim.engine.mixing import Prompts
from afdsim.engine.passes import Work
from afdsim.engine.schedule import (
    ALL_TO_ALL,
    INDEX,
    NO_TURN,
    NOWHERE,
    RANK,
    ROWS,
    TOKENS,
    Boundary,
    Compute,
    Exchange,
    Schedule,
    Source,
    Turn,
)
from afdsim.engine.tables import Tables
from afdsim.engine.variation import Jitter, Variation, Wires
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.streams import Streams

DOWN = 1 / 3
"""Share of an expert's work in its last matrix, which a combine may overlap (single-batch overlap)."""

STAGES = ("projections", "attention", "dispatch", "experts", "combine")
EXPERTS, HELD, FLY_IN, FLY_OUT = range(4)
"""What the tokens of a micro-batch cost the GPU of each load: the experts; receiving the dispatch and sending the
combine, SMs held; their flights."""
SEND, RECEIVE, GO, RETURN, SHARED = range(5)
"""Tables by the batch of a rank: sending a dispatch and receiving a combine, SMs held; flights; then shared experts."""


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


def deployment(scenario: Scenario) -> Colocated:
    """Return the deployment that a scenario asks for, with catalog entries in place of names."""
    asked = scenario.deployment
    assert not isinstance(asked, tree.Afd)
    llm, precision = model_and_precision(scenario)
    gpu = catalog.gpu(asked.gpu)
    if isinstance(asked, tree.TensorParallel):
        instances, dp, tp = 1, 1, asked.gpus
        experts: ExpertParallel | TensorParallel = TensorParallel(ep=asked.ep)
    else:
        instances, dp, tp = asked.instances, asked.parallelism.dp, asked.parallelism.tp
        experts = ExpertParallel(redundant=asked.redundant_experts, shared_ranks=asked.shared_expert_gpus)
    pool = AttentionPool(
        gpu=gpu,
        instances=instances,
        dp=dp,
        tp=tp,
        lm_head=asked.lm_head,
        embedding=asked.embedding,
        kernels=asked.kernels,
    )
    return Colocated(
        llm=llm,
        precision=precision,
        attention=pool,
        experts=experts,
        num_microbatches=asked.num_microbatches,
        max_num_seqs=asked.max_num_seqs,
        gpu_memory_utilization=asked.gpu_memory_utilization,
    )


def lower(scenario: Scenario, *, seed: int, cost: CostModel | None = None) -> Cell:
    """Return a colocated scenario as a cell."""
    found = deployment(scenario)
    found.check_memory()
    cost = cost or Roofline(backends=found.attention.kernels)
    return _Lowering(scenario=scenario, deployment=found, cost=cost, stream=Streams(seed)).cell()


@dataclass(frozen=True, kw_only=True)
class _Lowering(Lowering):
    """Holds what every part needs."""

    deployment: Colocated

    def cell(self) -> Cell:
        deployment = self.deployment
        return Cell(
            deployment=deployment,
            schedule=self._schedule(),
            pools=(self._pool(),),
            tables=self._tables,
            pricing=Pricing(deployment.attention.ranks * (len(self.batches) - 1), self._prices, at_once=False),
            wiring=unwired(self.units),
            variation=self._variation(),
            windows=tuple(self._ranks.windows),
            drafts=self.drafts,
            per_rank=self.per_rank,
            links=self._links,
            notes=self._notes(),
            prompting=self.prompts.prompting if self.prompts else BROUGHT,
            prompts=self.prompts,
        )

    # sizes -----------------------------------------------------------------------------------------------------------

    @property
    def asked(self) -> tree.Colocated | tree.TensorParallel:
        assert not isinstance(self.scenario.deployment, tree.Afd)
        return self.scenario.deployment

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.deployment.llm.layers

    @property
    def m(self) -> int:
        return self.deployment.num_microbatches

    @property
    def units(self) -> int:
        pool = self.deployment.attention
        return pool.ranks if self.per_rank else pool.instances

    @property
    def tp(self) -> int:
        return self.deployment.attention.tp

    @property
    def expert_parallel(self) -> bool:
        return isinstance(self.deployment.experts, ExpertParallel)

    @property
    def exchanges(self) -> bool:
        """Whether tokens travel between GPUs."""
        return self.expert_parallel and self.deployment.gpus > 1

    @cached_property
    def prompts(self) -> Prompts | None:
        """What prompts inside its steps cost; None where they come computed."""
        if (asked := self.scenario.mixed) is None:
            return None
        return Prompts(deployment=self.deployment, cost=self.cost, queries=self.queries, chunk=asked.chunk)

    @property
    def each(self) -> int:
        """Rows of one in `batches`: those of a sequence, or where steps compute prompts one."""
        return 1 if self.prompts else self.queries

    @cached_property
    def sequences(self) -> Array:
        return np.arange(max(self.deployment.micro_batch_slots) + 1, dtype=float)

    @cached_property
    def batches(self) -> Array:
        """Sequences of a rank, or where steps compute prompts its rows."""
        if not self.prompts:
            return self.sequences
        return np.arange(self.sequences[-1] * self.queries + self.prompts.budgets.max() + 1)

    @cached_property
    def tokens(self) -> Array:
        """Rows of an attention rank by its batch."""
        return self.batches * self.each

    @cached_property
    def rows(self) -> Array:
        """Rows of each GPU of a rank once heads are put together again."""
        return np.ceil(self.tokens / self.tp)

    @cached_property
    def kinds(self) -> list[Layer]:
        """Different layers."""
        return list(dict.fromkeys(self.layers))

    @cached_property
    def stages(self) -> list[int]:
        """Stages of every layer: a dense one ends with 2; without an exchange nothing is received in the end."""
        return [(5 if self.exchanges else 4) if isinstance(layer.ffn, Moe) else 3 for layer in self.layers]

    @cached_property
    def _routed(self) -> list[int]:
        """Layers with routed experts."""
        return [layer for layer, count in enumerate(self.stages) if count > 3]

    # schedule --------------------------------------------------------------------------------------------------------

    def _schedule(self) -> Schedule:
        """Boundaries, then every operation in order; an exchange follows each that posts one."""
        units = range(self.units)
        turns: list[Turn] = [Boundary(units=units, micro_batch=j) for j in range(self.m)]
        posted = [NO_TURN] * self.m
        for draw, operation in enumerate(order(self.stages, self.m)):
            j, travels = operation.micro_batch, self.stages[operation.layer] == 5 and operation.stage in (2, 3)
            waits = self.stages[operation.layer] == 5 and operation.stage >= 3
            turns.append(self._compute(operation, draw, posted[j] if waits else NO_TURN))
            if travels:
                turns.append(self._travel(operation, draw, len(turns) - 1))
                posted[j] = len(turns) - 1
        return Schedule(
            turns=tuple(turns), opening=self.m, micro_batches=self.m, batches=self.m, host=self.asked.host_overhead
        )

    def _compute(self, operation: Operation, draw: int, after: int) -> Compute:
        layer, stage, j = operation
        kind = self.kinds.index(self.layers[layer])
        work, more, early, held = Source(RANK, 3 * kind + stage), NOWHERE, NOWHERE, NOWHERE
        slow, share = self._slowdown, 1.0
        match stage:
            case 2 if self.stages[layer] > 3:
                held = Source(ROWS, SEND)
                early = Source(ROWS, SHARED + kind) if self._hides_shared else NOWHERE
            case 3:
                work = early = self._by_load(layer, EXPERTS)
                more = held = self._by_load(layer, HELD)
                share = DOWN if self._single_batch_overlap else 0.0
            case 4:
                work, held, slow = Source(ROWS, RECEIVE), Source(ROWS, RECEIVE), 1.0
        return Compute(
            name=STAGES[stage],
            units=range(self.units),
            layer=layer,
            micro_batch=j,
            batch=j,
            after=after,
            slow=slow,
            share=share,
            work=work,
            more=more,
            early=early,
            held=held,
            draw=draw,
        )

    def _travel(self, operation: Operation, draw: int, after: int) -> Exchange:
        layer, stage, j = operation
        combines = stage == 3
        return Exchange(
            senders=range(self.units),
            receivers=range(self.units),
            pattern=ALL_TO_ALL,
            layer=layer,
            micro_batch=j,
            inbox=j,
            batch=j,
            after=after,
            sent=after,
            out=self._by_load(layer, FLY_OUT) if combines else Source(ROWS, GO),
            into=Source(ROWS, RETURN) if combines else self._by_load(layer, FLY_IN),
            nbytes=self._pair_bytes("combine" if combines else "dispatch") * self.each,
            held_back=combines,
            before=IMBALANCE,
            between=IMBALANCE,
            draw=draw,
        )

    def _by_load(self, layer: int, what: int) -> Source:
        return Source(TOKENS, 4 * self._routed.index(layer) + what)

    @property
    def _slowdown(self) -> float:
        """Factor on all compute while communication kernels hold a share of the SMs: only where the two overlap."""
        if not self.exchanges or self.m == 1:
            return 1.0
        return 1.0 / (1.0 - max(self.exchange(operation).row.share for operation in ("dispatch", "combine")))

    @property
    def _hides_shared(self) -> bool:
        """Whether the shared expert runs while the dispatch flies."""
        return self.m == 2 or self._kernel == "low_latency"

    @property
    def _single_batch_overlap(self) -> bool:
        return isinstance(self.asked, tree.Colocated) and self.asked.single_batch_overlap

    # one rank --------------------------------------------------------------------------------------------------------

    @cached_property
    def _tables(self) -> Tables:
        core = CoreLaw(deployment=self.deployment, cost=self.cost, queries=self.queries)
        found = flat(self._ranks, core, self._place(), np.tile(np.arange(self.m), self.units))
        return self.prompts.added(found, self._ranks) if self.prompts else found

    @cached_property
    def _ranks(self) -> Ranks:
        """What a rank's own seconds are made of; stages 0, 1, 2 of every kind of layer."""
        at = partial(
            boundary_operators,
            self.deployment.llm,
            precision=self.deployment.precision,
            tp=self.tp,
            lm_head=self.deployment.attention.lm_head,
            embedding=self.deployment.attention.embedding,
        )
        heads, gpu = self.sequences, self.deployment.attention.gpu
        drafts = [operator for _ in range(self.queries - 1) for operator in at(heads)]
        travel = [self._own(operation, held=held) for held in (True, False) for operation in ("dispatch", "combine")]
        return Ranks(
            layers=self.layers,
            kinds=[3 * self.kinds.index(layer) + stage for layer in self.layers for stage in range(3)],
            fixed=[stage for layer in self.kinds for stage in self._rank_stages(layer)],
            cores_of=[layer.cores if stage == 1 else () for layer in self.kinds for stage in range(3)],
            head=table(priced(self.cost, gpu, (*at(heads * self.queries), *drafts)), heads),
            rows=[*travel, *map(self._shared, self.kinds)],
        )

    def _rank_stages(self, layer: Layer) -> tuple[Array, Array, Array]:
        llm, precision = self.deployment.llm, self.deployment.precision
        overhead = self.asked.framework_overhead / self.m
        last = self._shared(layer) if isinstance(layer.ffn, Moe) else self._dense(layer.ffn)
        sends = self._own("dispatch", held=True) if isinstance(layer.ffn, Moe) else np.zeros(len(last))
        return (
            self._seconds(operators_before(llm, layer, self.tokens, precision=precision, tp=self.tp), overhead),
            self._seconds(operators_after(llm, layer, self.tokens, precision=precision, tp=self.tp)),
            table(last + sends, self.batches),
        )

    def _shared(self, layer: Layer) -> Array:
        """Seconds of the shared expert beside the routed ones, by batch of a rank."""
        moe = layer.ffn
        if not isinstance(moe, Moe) or not moe.shared or self._apart:
            return np.zeros(len(self.batches))
        width = moe.shared * moe.shared_inner
        if self.expert_parallel:
            return self._seconds(self._matrices(self.rows, width, moe))
        return self._seconds(self._matrices(self.tokens, width / self.tp, moe))

    def _matrices(self, tokens: Array, width: float, ffn: Ffn) -> tuple[Operator, ...]:
        llm, dtype = self.deployment.llm, self.deployment.precision.ffn
        return dense_operators(llm, tokens, width, dtype, matrices=ffn.matrices)

    @property
    def _apart(self) -> int:
        """GPUs that hold nothing but the shared expert."""
        experts = self.deployment.experts
        return experts.shared_ranks if isinstance(experts, ExpertParallel) else 0

    def _dense(self, ffn: Dense) -> Array:
        operators = self._matrices(self.tokens, ffn.inner / self.tp, ffn)
        return self._seconds((*operators, *self._all_reduce(self.tokens)))

    def _all_reduce(self, tokens: Array) -> tuple[Operator, ...]:
        if self.tp == 1:
            return ()
        wire = 2.0 * (self.tp - 1) / self.tp * tokens * self.deployment.llm.hidden * 2.0
        return (collective("ffn all-reduce", wire, gpus=self.tp, stage="ffn"),)

    def _seconds(self, operators: Iterable[Operator], more: float = 0.0) -> Array:
        return table(priced(self.cost, self.deployment.attention.gpu, operators) + more, self.batches)

    # everybody's tokens ----------------------------------------------------------------------------------------------

    @cached_property
    def _load_rows(self) -> tuple[Array, list[tuple[int, Load]]]:
        """Rows (u, l) into the different (kind of layer, load), and these; the last ones are even loads."""
        loads = routing.in_layers(self.deployment, self.scenario.variation.experts, self.units, self.stream)
        kinds = {place: self.kinds.index(self.layers[place]) for place in self._routed}
        keys = [(kind, row[place]) for place, kind in kinds.items() for row in loads]
        even = [(kind, EVEN) for kind in dict.fromkeys(kinds.values())]
        index = {key: number for number, key in enumerate(dict.fromkeys(key for key in keys if key not in even))}
        index |= {key: len(index) + number for number, key in enumerate(even)}
        rows = np.zeros((len(loads), len(self.layers)), dtype=int)
        for place, kind in kinds.items():
            rows[:, place] = [index[kind, row[place]] for row in loads]
        return rows, list(index)

    def _place(self) -> Array:
        """Entries of `_prices` by (4 x routed layer + what, unit)."""
        row, keys = self._load_rows
        entries = [row[:, layer] + what * len(keys) for layer in self._routed for what in range(4)]
        return np.array(entries, dtype=INDEX) if entries else np.zeros((1, self.units), dtype=INDEX)

    def _prices(self, totals: Array) -> Array:
        """Seconds (EXPERTS, HELD, FLY_IN, FLY_OUT) x (kind of layer, load) by the sequences of a micro-batch."""
        return np.array([self._price(int(total)) for total in totals])

    def _price(self, total: int) -> Array:
        _, keys = self._load_rows
        if not total or not keys:
            return np.zeros(max(4 * len(keys), 1))
        tokens = float(total * self.each)
        loads = np.array([load.of(tokens) for _, load in keys])
        rows = total * self.each / self.deployment.gpus * loads
        held = self.travel("dispatch", rows, held=True) + self.travel("combine", rows, held=True)
        experts, kinds = np.zeros(len(keys)), np.array([kind for kind, _ in keys])
        for kind in set(kinds.tolist()):
            experts[kinds == kind] = self._experts(kind, loads[kinds == kind], tokens)
        flights = (self.travel(operation, rows, held=False) for operation in ("dispatch", "combine"))
        return np.concatenate([experts, held, *flights])

    def _experts(self, kind: int, loads: Array, tokens: float) -> Array:
        """Seconds of the experts of the GPUs of some loads; those with nothing but shared experts may take longer."""
        deployment, moe = self.deployment, self.kinds[kind].ffn
        assert isinstance(moe, Moe)
        every = np.full(len(loads), tokens)
        routed = expert_operator(
            deployment.llm,
            deployment.routed(moe),
            every,
            precision=deployment.precision,
            split=deployment.split,
            load=loads,
        )
        seconds = self._all((routed, *(() if self.expert_parallel else self._all_reduce(every))), len(loads))
        if self._apart and moe.shared:
            width = moe.shared * moe.shared_inner
            alone = dense_operators(deployment.llm, every / self._apart, width, deployment.precision.ffn)
            seconds = np.maximum(seconds, self._all(alone, len(loads)))
        return seconds

    def _all(self, operators: Iterable[Operator], count: int) -> Array:
        """Seconds of some operators in a row, `count` times."""
        seconds = priced(self.cost, self.deployment.attention.gpu, operators)
        return np.array(np.broadcast_to(seconds, count), dtype=float)

    # communication ---------------------------------------------------------------------------------------------------

    @property
    def _kernel(self) -> str:
        return self.asked.all_to_all if isinstance(self.asked, tree.Colocated) else "low_latency"

    def exchange(self, operation: str) -> Kernel:
        """The all-to-all of this deployment."""
        gpu, line = self.deployment.attention.gpu, self.scenario.network.link.bandwidth
        scale = line / gpu.nic.bandwidth if line else 1.0
        return exchange(self._kernel, operation, gpu, self.deployment.gpus, nic_scale=scale)

    def _notes(self) -> tuple[tuple[str, str, str], ...]:
        """The weaker status of the two directions, where it is not measured."""
        if not self.exchanges:
            return ()
        found = {self.exchange(operation).row.status for operation in ("dispatch", "combine")}
        status = weakest(found)
        return () if status == "measured" else ((self.deployment.attention.gpu.name, status, "all-to-all"),)

    def _pair_bytes(self, operation: str) -> float:
        """Bytes of a token to all its experts and back."""
        moe = next((layer.ffn for layer in self.layers if isinstance(layer.ffn, Moe)), None)
        if moe is None:
            return 0.0
        pairs = moe.top_k + (moe.shared if self._apart else 0)
        dtype = self.deployment.precision.ffn if operation == "dispatch" else "bf16"
        return pairs * pair_bytes(self.deployment.llm.hidden, dtype)

    def _own(self, operation: str, *, held: bool = False) -> Array:
        """Seconds of a rank's own tokens in an exchange, by its batch: half of what holds the SMs, or the flight."""
        return table(self.travel(operation, self.rows, held=held), self.batches)

    def travel(self, operation: str, rows: Array, *, held: bool) -> Array:
        """Seconds for `rows` tokens of a GPU: half of what holds the SMs (sending, or receiving), or the flight."""
        if not self.exchanges:
            return np.zeros(np.shape(rows))
        nbytes, gpu = rows * self._pair_bytes(operation), self.deployment.attention.gpu
        if not isinstance(self.cost, Roofline):
            moved = collective(operation, nbytes, gpus=self.deployment.gpus, stage=operation)
            seconds = 0.0 if held else self.cost.seconds(moved, gpu)
            return np.broadcast_to(np.asarray(seconds, dtype=float), np.shape(rows))
        kernel = self.exchange(operation)
        return np.asarray(kernel.held(nbytes) / 2 if held else kernel.seconds(nbytes) - kernel.held(nbytes))

    def _links(self, rank_tokens: Array, steps: int) -> list[LinkRow]:
        """Every GPU; everyone gets an even share."""
        pool = self.deployment.attention
        exchanges = self.stages.count(5)
        messages, mean = 2 * steps * self.m * exchanges, rank_tokens.mean()
        dispatch, combine = (self._pair_bytes(operation) * self.queries for operation in ("dispatch", "combine"))
        rows: list[LinkRow] = []
        for gpu in range(pool.gpus if exchanges else 0):
            own, place = rank_tokens[gpu // pool.tp], divmod(gpu, pool.gpus_per_instance)
            out = exchanges / pool.tp * (own * dispatch + mean * combine)
            into = exchanges / pool.tp * (mean * dispatch + own * combine)
            rows.append(("colocated", *place, "egress", messages, float(out)))
            rows.append(("colocated", *place, "ingress", messages, float(into)))
        return rows

    # variation and what a run is told by -----------------------------------------------------------------------------

    def _variation(self) -> Variation:
        asked, ranks = self.scenario.variation, self.deployment.attention.dp if self.per_rank else 1
        stragglers = tuple(asked.straggler.get(f"instance[{unit // ranks}]", 1.0) for unit in range(self.units))
        operations = order(self.stages, self.m)
        posting = tuple(i for i, each in enumerate(operations) if self.stages[each.layer] == 5 and each.stage in (2, 3))
        return self.varied(
            compute=(Jitter(pool="attention", stragglers=stragglers, draws=len(operations)),),
            wires=(Wires(kind="link_out", pairs=self.units, draws=len(operations), used=posting),),
            link=asked.link if posting else 0.0,
        )

    def _pool(self) -> Pool:
        pool = self.deployment.attention
        return Pool(
            name="colocated",
            gpus=pool,
            units=range(self.units),
            ranks=1 if self.per_rank else pool.dp,
            gpus_per_rank=pool.tp,
            work=self._work,
            shares=self._shares,
        )

    def _shares(self, batch: int, context: float, extra: Extra | None = None) -> Array:
        """By unit: shares of busy time in its ranks' stages and in experts, and an even load over its slowest GPU's."""
        if not self._routed:
            return np.tile([1.0, 0.0, 1.0], (self.units, 1))
        batch = min(batch, len(self.sequences) - 1)  # with drafts a few steps may yield more tokens than their mean
        own, head = rank_seconds(self._tables, self._ranks.windows, batch, context, self.queries, extra)
        batch = batch if extra is None else max(batch * self.queries + round(extra.tokens), 1)
        rows, keys = self._load_rows
        price = self._price(batch * self.deployment.attention.ranks)[: len(keys)]
        evens = {kind: price[number] for number, (kind, load) in enumerate(keys) if load == EVEN}
        experts = price[rows[:, self._routed]].sum(axis=1)
        even = sum(evens[self.kinds.index(self.layers[place])] for place in self._routed)
        whole = own + experts + head
        evenness = np.divide(even, experts, out=np.ones_like(experts), where=experts > 0)
        return np.stack([own / whole, experts / whole, np.minimum(evenness, 1.0)], axis=1)

    def _work(self, batch: float, context: float) -> Work:
        attention = passes.attention(self.deployment, self.queries, batch, context)
        return attention + passes.experts(self.deployment, self.queries, batch)
