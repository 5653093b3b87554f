"""Colocated scenario -> ColocatedProgram: operators and exchanges become tables of seconds by batch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Layer, Mla, Moe, Precision, projections
from afdsim.cluster import experts as routing
from afdsim.cluster.colocated import Colocated, ExpertParallel, TensorParallel
from afdsim.cluster.deployment import AttentionPool
from afdsim.cost.all_to_all import Exchange, exchange, pair_bytes
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
from afdsim.engine.colocated_program import ColocatedProgram, ColocatedVariation, Received
from afdsim.engine.drafts import SCALE, Drafts, with_drafts
from afdsim.engine.program import Array, Core, LinearCore, SampledCore, Table
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario, Streams
from afdsim.workload.laws import Stream

LOAD_STEP = 0.01
"""Loads of skewed experts are rounded up to this, so that layers share prices."""

DOWN = 1 / 3
"""Share of an expert's work in its last matrix, which a combine may overlap (single-batch overlap)."""


def colocated(scenario: Scenario) -> Colocated:
    """The deployment that a scenario asks for, with catalog entries in place of names."""
    asked = scenario.deployment
    assert not isinstance(asked, tree.Afd)
    precision = Precision(
        attention=scenario.precision.attention, ffn=scenario.precision.ffn, kv_cache=scenario.precision.kv_cache
    )
    gpu = catalog.gpu(asked.gpu)
    if isinstance(asked, tree.TensorParallel):
        pool = AttentionPool(gpu=gpu, instances=1, dp=1, tp=asked.gpus)
        experts: ExpertParallel | TensorParallel = TensorParallel(ep=asked.ep)
    else:
        pool = AttentionPool(
            gpu=gpu,
            instances=asked.instances,
            dp=asked.parallelism.dp,
            tp=asked.parallelism.tp,
            lm_head=asked.lm_head,
        )
        experts = ExpertParallel(redundant=asked.redundant_experts, shared_ranks=asked.shared_expert_gpus)
    return Colocated(
        llm=with_drafts(catalog.llm(scenario.model), asked.mtp.draft if asked.mtp else 0),
        precision=precision,
        attention=pool,
        experts=experts,
        num_microbatches=asked.num_microbatches,
        max_num_seqs=asked.max_num_seqs,
    )


def compile_colocated(scenario: Scenario, *, seed: int, cost: CostModel | None = None) -> ColocatedProgram:
    """Tabulate everything about a colocated scenario that does not change while it runs."""
    deployment, asked = colocated(scenario), scenario.deployment
    assert not isinstance(asked, tree.Afd)
    deployment.check_memory()
    return _Compiler(scenario, deployment, seed, cost or Roofline(backends=asked.kernels)).program()


def drafts_of(asked: tree.Mtp | None, draws: Stream) -> Drafts | None:
    """Multi-token prediction as a run needs it."""
    return None if asked is None else Drafts(draft=asked.draft, acceptance=asked.acceptance, stream=draws)


class _Compiler:
    """Holds what every table needs."""

    def __init__(self, scenario: Scenario, deployment: Colocated, seed: int, cost: CostModel) -> None:
        asked = scenario.deployment
        assert not isinstance(asked, tree.Afd)
        self.scenario, self.asked, self.deployment, self.cost = scenario, asked, deployment, cost
        self.stream = Streams(seed)
        self.gpu, self.tp = deployment.attention.gpu, deployment.attention.tp
        self.queries = 1 + (asked.mtp.draft if asked.mtp else 0)
        """Query tokens of a sequence and step."""
        self.per_rank = scenario.run.granularity == "gpu"
        self.batches = np.arange(max(deployment.micro_batch_slots) + 1, dtype=float)
        self.tokens = self.batches * self.queries
        """Rows of an attention rank by its batch."""
        self.rows = np.ceil(self.tokens / self.tp)
        """Rows of each of its GPUs once heads are put together again."""
        self.layers = deployment.llm.layers

    @property
    def expert_parallel(self) -> bool:
        return isinstance(self.deployment.experts, ExpertParallel)

    @property
    def exchanges(self) -> bool:
        return self.expert_parallel and self.deployment.gpus > 1

    def program(self) -> ColocatedProgram:
        asked, kinds = self.asked, list(dict.fromkeys(self.layers))
        attentions = list(dict.fromkeys(layer.attention for layer in kinds))
        windows = list(dict.fromkeys(attention.window for attention in attentions))
        firsts = [next(layer for layer in kinds if layer.attention == one) for one in attentions]
        row, received = self._received([layer for layer in kinds if isinstance(layer.ffn, Moe)])
        return ColocatedProgram(
            deployment=self.deployment,
            variation=self._variation(),
            per_rank=self.per_rank,
            exchanges=self.exchanges,
            all_to_all=self._known(),
            host=asked.host_overhead,
            slowdown=1.0 / (1.0 - self._sm_share),
            hides_shared=asked.num_microbatches == 2 or self._kernel == "low_latency",
            hides_down=DOWN if self._single_batch_overlap else 0.0,
            drafts=drafts_of(asked.mtp, self.stream),
            queries=self.queries,
            layer_types=self.layers,
            windows=tuple(windows),
            layer_kind=tuple(kinds.index(layer) for layer in self.layers),
            stages=tuple(self._stages(layer) for layer in self.layers),
            fixed=tuple(table for layer in kinds for table in self._rank_stages(layer)),
            core=tuple(
                attentions.index(layer.attention) if stage == 1 else len(attentions)
                for layer in kinds
                for stage in range(3)
            ),
            cores=tuple(self._core(layer, windows.index(layer.attention.window)) for layer in firsts),
            head=self._head(),
            shared=tuple(self._shared(layer) for layer in kinds),
            send=self._own("dispatch", held=True),
            receive=self._own("combine", held=True),
            fly_out=self._own("dispatch"),
            fly_back=self._own("combine"),
            load_row=row,
            received=received,
            dispatch_bytes=self._pair_bytes("dispatch") * self.queries,
            combine_bytes=self._pair_bytes("combine") * self.queries,
        )

    def _stages(self, layer: Layer) -> int:
        """A dense layer ends with stage 2; without an exchange nothing is received in the end."""
        return (5 if self.exchanges else 4) if isinstance(layer.ffn, Moe) else 3

    # one rank --------------------------------------------------------------------------------------------------------

    def _rank_stages(self, layer: Layer) -> tuple[Table, Table, Table]:
        deployment = self.deployment
        operators = attention_operators(deployment.llm, layer, self.tokens, precision=deployment.precision, tp=self.tp)
        cut = 1 + len(projections(deployment.llm.hidden, layer.attention, self.tp)) + isinstance(layer.attention, Mla)
        overhead = self.asked.framework_overhead / self.asked.num_microbatches
        last = self._shared(layer) if isinstance(layer.ffn, Moe) else self._dense(layer.ffn)
        sends = self._own("dispatch", held=True) if isinstance(layer.ffn, Moe) else [0.0] * len(last)
        return (
            self._seconds(operators[:cut], overhead),
            self._seconds(operators[cut:]),
            _table(np.array(last) + np.array(sends), self.batches),
        )

    def _shared(self, layer: Layer) -> Table:
        """Seconds of the shared expert beside the routed ones, by batch of a rank."""
        moe, deployment = layer.ffn, self.deployment
        separate = isinstance(deployment.experts, ExpertParallel) and deployment.experts.shared_ranks > 0
        if not isinstance(moe, Moe) or not moe.shared or separate:
            return [0.0] * len(self.batches)
        width = moe.shared * moe.shared_inner
        if self.expert_parallel:
            return self._seconds(dense_operators(deployment.llm, self.rows, width, deployment.precision.ffn))
        return self._seconds(dense_operators(deployment.llm, self.tokens, width / self.tp, deployment.precision.ffn))

    def _dense(self, ffn: Dense) -> Table:
        deployment = self.deployment
        operators = dense_operators(deployment.llm, self.tokens, ffn.inner / self.tp, deployment.precision.ffn)
        return self._seconds((*operators, *self._all_reduce(self.tokens)))

    def _all_reduce(self, tokens: Array) -> tuple[Operator, ...]:
        if self.tp == 1:
            return ()
        wire = 2.0 * (self.tp - 1) / self.tp * tokens * self.deployment.llm.hidden * 2.0
        return (collective("ffn all-reduce", wire, gpus=self.tp, stage="ffn"),)

    def _core(self, layer: Layer, window: int) -> Core:
        deployment, q = self.deployment, self.queries
        if not isinstance(self.cost, Roofline):
            return SampledCore(window=window, layer=layer, deployment=deployment, cost=self.cost, query_tokens=q)
        at = partial(core_operator, layer, precision=deployment.precision, tp=self.tp, query_tokens=q)
        law = self.cost.law(at(float(q), 1.0), self.gpu)
        queries, both = at(float(q), 0.0), at(float(q), 1.0)
        scale = SCALE if q > 1 else 1
        return LinearCore(
            window=window,
            fixed=law.fixed,
            flop=float(both.flops - queries.flops) * law.per_flop / scale,
            byte=float(both.bytes - queries.bytes) * law.per_byte / scale,
            flop_per_token=float(queries.flops) * law.per_flop,
            byte_per_token=float(queries.bytes) * law.per_byte,
        )

    def _head(self) -> Table:
        """LM head and sampling of all query tokens, and one more LM head for every draft."""
        deployment = self.deployment
        at = partial(
            boundary_operators,
            deployment.llm,
            precision=deployment.precision,
            lm_head=deployment.attention.lm_head,
        )
        drafts = [operator for _ in range(self.queries - 1) for operator in at(self.batches)]
        return self._seconds((*at(self.tokens), *drafts))

    # everybody's tokens ----------------------------------------------------------------------------------------------

    def _received(self, kinds: list[Layer]) -> tuple[Array, _Received]:
        """Rows (u, l) into the loads of a micro-batch, and what the tokens behind each of them cost."""
        loads = np.ceil(np.round(self._loads() / LOAD_STEP, 6)) * LOAD_STEP
        index: dict[tuple[int, float], int] = {}
        row = np.zeros(loads.shape, dtype=int)
        for place, layer in enumerate(self.layers):
            if layer in kinds:
                for unit in range(len(loads)):
                    row[unit, place] = index.setdefault((kinds.index(layer), float(loads[unit, place])), len(index))
        return row, _Received(self, kinds, list(index))

    def _loads(self) -> Array:
        """Load of the slowest GPU of each unit and layer relative to the mean (u, l)."""
        deployment = self.deployment
        units = deployment.attention.ranks if self.per_rank else deployment.attention.instances
        groups, places = deployment.expert_gpus, [isinstance(layer.ffn, Moe) for layer in self.layers]
        loads = np.ones((len(self.layers), groups))
        moe = next((layer.ffn for layer in self.layers if isinstance(layer.ffn, Moe)), None)
        if moe is not None and groups > 1:
            experts = deployment.experts
            copies = experts.redundant if isinstance(experts, ExpertParallel) else 0
            asked = routing.Asked(experts=moe.experts, layers=sum(places), ranks=groups, copies=copies)
            loads[places] = routing.loads(self.scenario.variation.experts, asked, self.stream)
        if groups % units:
            return np.repeat(loads.max(axis=1)[None, :], units, axis=0)
        return np.asarray(loads.reshape(len(self.layers), units, -1).max(axis=2).T)

    # communication ---------------------------------------------------------------------------------------------------

    @property
    def _kernel(self) -> str:
        return self.asked.all_to_all if isinstance(self.asked, tree.Colocated) else "low_latency"

    @property
    def _single_batch_overlap(self) -> bool:
        return isinstance(self.asked, tree.Colocated) and self.asked.single_batch_overlap

    @property
    def _sm_share(self) -> float:
        """SMs that communication takes from compute: only where the two overlap."""
        if not self.exchanges or self.asked.num_microbatches == 1:
            return 0.0
        return max(self.exchange(operation).row.share for operation in ("dispatch", "combine"))

    def exchange(self, operation: str) -> Exchange:
        """The all-to-all of this deployment."""
        line = self.scenario.network.link.bandwidth
        scale = line / self.gpu.nic.bandwidth if line else 1.0
        return exchange(self._kernel, operation, self.gpu, self.deployment.gpus, nic_scale=scale)

    def _known(self) -> str:
        """The weaker status of the two directions."""
        if not self.exchanges:
            return ""
        found = {self.exchange(operation).row.status for operation in ("dispatch", "combine")}
        return next(status for status in ("assumed", "transferred", "measured") if status in found)

    def _pair_bytes(self, operation: str) -> float:
        """Bytes of a token to all its experts and back."""
        llm = self.deployment.llm
        moe = next((layer.ffn for layer in llm.layers if isinstance(layer.ffn, Moe)), None)
        if moe is None:
            return 0.0
        separate = isinstance(self.deployment.experts, ExpertParallel) and self.deployment.experts.shared_ranks > 0
        pairs = moe.top_k + (moe.shared if separate else 0)
        return pairs * pair_bytes(llm.hidden, self.deployment.precision.ffn if operation == "dispatch" else "bf16")

    def _own(self, operation: str, *, held: bool = False) -> Table:
        """Seconds of a rank's own tokens in an exchange, by its batch: half of what holds the SMs, or the flight."""
        return _table(self.travel(operation, self.rows, held=held), self.batches)

    def travel(self, operation: str, rows: Array, *, held: bool) -> Array:
        """Seconds for `rows` tokens of a GPU: half of what holds the SMs (sending, or receiving), or the flight."""
        if not self.exchanges:
            return np.zeros(np.shape(rows))
        nbytes = rows * self._pair_bytes(operation)
        if not isinstance(self.cost, Roofline):
            priced = collective(operation, nbytes, gpus=self.deployment.gpus, stage=operation)
            seconds = 0.0 if held else self.cost.seconds(priced, self.gpu)
            return np.broadcast_to(np.asarray(seconds, dtype=float), np.shape(rows))
        kernel = self.exchange(operation)
        return np.asarray(kernel.held(nbytes) / 2 if held else kernel.seconds(nbytes) - kernel.held(nbytes))

    # the rest --------------------------------------------------------------------------------------------------------

    def _variation(self) -> ColocatedVariation:
        asked, pool = self.scenario.variation, self.deployment.attention
        units, ranks = (pool.ranks, pool.dp) if self.per_rank else (pool.instances, 1)
        return ColocatedVariation(
            stream=self.stream,
            stragglers=tuple(asked.straggler.get(f"instance[{unit // ranks}]", 1.0) for unit in range(units)),
            event=asked.event,
            step=asked.step,
            link=asked.link,
        )

    def _seconds(self, operators: Iterable[Operator], more: float = 0.0) -> Table:
        return _table(sum((self.cost.seconds(each, self.gpu) for each in operators), 0.0) + more, self.batches)


class _Received:
    """`ColocatedProgram.received`: prices the tokens of a micro-batch at every load at once."""

    def __init__(self, compiler: _Compiler, kinds: list[Layer], keys: list[tuple[int, float]]) -> None:
        self.compiler, self.kinds, self.keys = compiler, kinds, keys
        self.loads = np.array([load for _, load in keys])

    def __call__(self, total: int) -> Received:
        compiler = self.compiler
        rows = total * compiler.queries / compiler.deployment.gpus * self.loads
        if not total:
            nothing = np.zeros(len(self.keys))
            return Received(nothing, nothing, nothing, nothing)
        held = compiler.travel("dispatch", rows, held=True) + compiler.travel("combine", rows, held=True)
        return Received(
            experts=np.array([self._experts(kind, load, float(total * compiler.queries)) for kind, load in self.keys]),
            held=held,
            fly_in=compiler.travel("dispatch", rows, held=False),
            fly_out=compiler.travel("combine", rows, held=False),
        )

    def _experts(self, kind: int, load: float, tokens: float) -> float:
        """Seconds of the experts of the GPU with this load; a GPU with nothing but shared experts may take longer."""
        deployment, moe = self.compiler.deployment, self.kinds[kind].ffn
        assert isinstance(moe, Moe)
        routed = expert_operator(
            deployment.llm,
            deployment.routed(moe),
            np.array([tokens]),
            precision=deployment.precision,
            split=deployment.split,
            load=load,
        )
        seconds = self._price((routed, *self._reduced(tokens)))
        experts = deployment.experts
        if isinstance(experts, ExpertParallel) and experts.shared_ranks and moe.shared:
            share = np.array([tokens / experts.shared_ranks])
            width = moe.shared * moe.shared_inner
            return max(seconds, self._price(dense_operators(deployment.llm, share, width, deployment.precision.ffn)))
        return seconds

    def _reduced(self, tokens: float) -> tuple[Operator, ...]:
        compiler = self.compiler
        return () if compiler.expert_parallel else compiler._all_reduce(np.array([tokens]))

    def _price(self, operators: Iterable[Operator]) -> float:
        compiler = self.compiler
        return sum(float(np.sum(compiler.cost.seconds(each, compiler.gpu))) for each in operators)


def _table(seconds: Array | float, counts: Array) -> Table:
    """Seconds by count; nothing takes no time."""
    table: Table = np.broadcast_to(seconds, counts.shape).tolist()
    table[0] = 0.0
    return table
