"""What one layer and one step boundary are made of: every operator with its work, its seconds and what bounds it.

Two questions have an answer: a bare model on equal GPUs (tensor-parallel attention, expert-parallel FFN), and one
layer of an AFD deployment. Communication between attention and FFN is left to the simulation; the collectives that a
stage itself waits for are among its operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Layer, Llm, Moe, Precision, Split
from afdsim.cluster.colocated import Colocated, TensorParallel
from afdsim.cluster.deployment import Afd
from afdsim.cost import stages
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    core_operators,
    dense_operators,
    ffn_operators,
    small,
)
from afdsim.cost.roofline import Roofline, padding
from afdsim.errors import CatalogError


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One layer of a model on one GPU among equals."""

    llm: Llm
    gpu: Gpu
    batch: int
    """Sequences that this GPU works on; the `tp` GPUs of an attention group share the same ones."""
    context: int
    """Tokens that each sequence reads."""
    tp: int = 1
    """GPUs that cut attention, and the FFN where `ep` leaves room."""
    ep: int = 1
    """GPUs, or groups of them, that split the routed experts."""
    precision: Precision = field(default_factory=Precision)
    lm_head: str | None = None
    """"replicated" or "tp<n>"; None: vocabulary cut over the `tp` GPUs."""
    embedding: str | None = None
    """As `lm_head`."""
    layer: int | None = None
    """Index of the layer; None means the most frequent kind with experts."""

    def __post_init__(self) -> None:
        for name in ("batch", "context", "tp", "ep"):
            if getattr(self, name) < 1:
                raise CatalogError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if self.gpus % self.ep or self.gpus % self.tp:
            raise CatalogError(
                f"tp {self.tp} and ep {self.ep} do not divide {self.gpus} GPUs; one must divide the other"
            )
        if self.layer is not None and not 0 <= self.layer < len(self.llm.layers):
            raise CatalogError(f"{self.llm.name} has layers 0 to {len(self.llm.layers) - 1}, not {self.layer}")

    @property
    def gpus(self) -> int:
        """GPUs of the group that holds the layer once."""
        return max(self.tp, self.ep)

    @property
    def tokens(self) -> float:
        """Tokens that the FFN of the whole group works on."""
        return float(self.batch * (self.gpus // self.tp))

    @property
    def split(self) -> Split:
        """How the group cuts the FFN."""
        return Split(ep=self.ep, tp=self.gpus // self.ep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One operator of the answer."""

    name: str
    stage: str
    """attention, ffn, gather, scatter or boundary."""
    kernel: str
    """Name of the kernel in the coefficient table."""
    dtype: str
    """Whose peak `peak` refers to."""
    gpu: str
    flops: float
    """Useful FLOPs of one GPU."""
    bytes: float
    """HBM bytes of one GPU; bytes on the wire for a collective."""
    seconds: float
    bound: str
    """compute, memory, network or launch."""
    peak: float
    """Useful FLOPs over what the GPU could do in `seconds` at the peak of the operator's dtype."""
    rows: float | None
    """Rows that the kernel pads (query rows of a KV head; mean rows of an expert); None where it pads none."""
    padded: float | None
    """Rows that it computes: `rows` rounded up to its tiles, for random loads on average."""
    tile: int
    source: str
    """Of the coefficients."""
    status: str
    """One of `roofline.STATUSES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One layer and one step boundary, operator by operator."""

    title: str
    parts: tuple[Part, ...]

    def seconds(self, stage: str) -> float:
        """Return the seconds of all operators of `stage`."""
        return sum(part.seconds for part in self.parts if part.stage == stage)


def explain(setting: Setting, cost: Roofline | None = None) -> Anatomy:
    """Return the anatomy of a layer of a bare model."""
    index = representative(setting.llm) if setting.layer is None else setting.layer
    layer, tokens = setting.llm.layers[index], float(setting.batch)
    operators = (
        *attention_operators(setting.llm, layer, tokens, precision=setting.precision, tp=setting.tp),
        *core_operators(layer, tokens, setting.context, precision=setting.precision, tp=setting.tp),
        *_ffn(setting, layer),
        *boundary_operators(
            setting.llm,
            tokens,
            precision=setting.precision,
            tp=setting.tp,
            lm_head=setting.lm_head,
            embedding=setting.embedding,
        ),
    )
    return Anatomy(title=describe(setting.llm, index), parts=parts(operators, setting.gpu, cost or Roofline()))


def _ffn(setting: Setting, layer: Layer) -> tuple[Operator, ...]:
    """Return the FFN on one GPU; under expert parallelism every GPU runs the whole shared expert on its own tokens."""
    llm, precision = setting.llm, setting.precision
    moe = layer.ffn
    if not isinstance(moe, Moe) or setting.ep == 1 or not moe.shared:
        return ffn_operators(llm, layer, setting.tokens, precision=precision, split=setting.split)
    routed = replace(layer, ffn=replace(moe, shared=0, shared_inner=0))
    inner = moe.shared * moe.shared_inner / setting.tp
    shared = dense_operators(llm, float(setting.batch), inner, precision.ffn, matrices=moe.matrices)
    return (
        *(replace(operator, name=f"shared expert{operator.name.removeprefix('ffn')}") for operator in shared),
        small("shared expert add", 1, stage="ffn"),
        *ffn_operators(llm, routed, setting.tokens, precision=precision, split=setting.split),
    )


def explain_afd(afd: Afd, *, batch: int, context: int, cost: Roofline | None = None) -> Anatomy:
    """Return the anatomy of a layer of an AFD deployment: `batch` sequences of one micro-batch on every rank."""
    own = cost or Roofline()
    index = representative(afd.llm)
    layer, tokens = afd.llm.layers[index], float(batch)
    attention = (*_attention_stage(afd, layer, tokens, context), *_boundary(afd, tokens))
    ffn = _ffn_stage(afd, layer, tokens * afd.attention.ranks)
    return Anatomy(
        title=describe(afd.llm, index),
        parts=(
            *parts(attention, afd.attention.gpu, _preferring(afd.attention.kernels, own)),
            *parts(ffn, afd.ffn.gpu, _preferring(afd.ffn.kernels, own)),
        ),
    )


def explain_colocated(engine: Colocated, *, batch: int, context: int, cost: Roofline | None = None) -> Anatomy:
    """Return the anatomy of a layer where all GPUs run both parts; the all-to-all between them is simulated."""
    pool, experts = engine.attention, engine.experts
    ep = experts.ep if isinstance(experts, TensorParallel) else engine.gpus
    setting = Setting(
        llm=engine.llm,
        gpu=pool.gpu,
        batch=batch,
        context=context,
        tp=pool.tp,
        ep=ep,
        precision=engine.precision,
        lm_head=pool.lm_head,
        embedding=pool.embedding,
    )
    return explain(setting, _preferring(pool.kernels, cost or Roofline()))


def explain_deployment(found: Afd | Colocated, *, batch: int, context: int, cost: Roofline | None = None) -> Anatomy:
    """Return the anatomy of a layer of a deployment of either kind."""
    if isinstance(found, Afd):
        return explain_afd(found, batch=batch, context=context, cost=cost)
    return explain_colocated(found, batch=batch, context=context, cost=cost)


def _preferring(kernels: tuple[str, ...], cost: Roofline) -> Roofline:
    """Return `cost` with the kernel libraries of a pool before its own."""
    return replace(cost, backends=(*kernels, *cost.backends))


def _attention_stage(afd: Afd, layer: Layer, tokens: float, context: int) -> tuple[Operator, ...]:
    return (
        stages.reduction(afd, layer, tokens),
        *stages.attention_stage(afd, layer, tokens),
        *core_operators(layer, tokens, context, precision=afd.precision, tp=afd.attention.tp),
        *stages.shared_stage(afd, layer, tokens),
    )


def _boundary(afd: Afd, tokens: float) -> tuple[Operator, ...]:
    last = replace(stages.reduction(afd, afd.llm.layers[-1], tokens), name="last reduction", stage="boundary")
    pool = afd.attention
    head = boundary_operators(
        afd.llm, tokens, precision=afd.precision, tp=pool.tp, lm_head=pool.lm_head, embedding=pool.embedding
    )
    return last, *head


def _ffn_stage(afd: Afd, layer: Layer, tokens: float) -> tuple[Operator, ...]:
    return (
        *stages.gather_stage(afd, layer, tokens),
        *stages.ffn_stage(afd, layer, tokens),
        *stages.scatter_stage(afd, layer, tokens),
    )


def parts(operators: Iterable[Operator], gpu: Gpu, cost: Roofline) -> tuple[Part, ...]:
    """Return what `operators` of scalar work cost on `gpu`; those that never launch are left out."""
    return tuple(_part(operator, gpu, cost) for operator in operators if operator.launches)


def _part(operator: Operator, gpu: Gpu, cost: Roofline) -> Part:
    row = cost.coefficient(operator, gpu)
    borrowed = row.status == "family" and row.gpu != gpu.name
    seconds, rows = float(cost.seconds(operator, gpu)), operator.rows
    dtype = "bf16" if operator.dtype == "fp32" else operator.dtype  # the state of linear attention has no peak
    return Part(
        name=operator.name,
        stage=operator.stage,
        kernel=operator.kernel,
        dtype=dtype,
        gpu=gpu.name,
        flops=float(operator.flops),
        bytes=float(operator.bytes),
        seconds=seconds,
        bound=cost.bound(operator, gpu),
        peak=float(operator.flops) / (seconds * gpu.peak(dtype)),
        rows=None if rows is None else float(rows),
        padded=None if rows is None else float(rows * padding(operator, row.tile)),
        tile=row.tile,
        source=f"{row.gpu}: {row.source}" if borrowed else row.source,
        status=row.status,
    )


def attention_seconds(setting: Setting, cost: Roofline | None = None) -> float:
    """Return the seconds of attention alone: norm, projections, core, o_proj.

    What Step-3's table 9 measures: without collectives, router and packing.
    """
    beside = ("post-norm", "router", "o_proj all-reduce")
    own = (part for part in explain(setting, cost).parts if part.stage == "attention")
    return sum(part.seconds for part in own if not part.name.startswith(beside))


def representative(llm: Llm) -> int:
    """Return the index of the first layer of the most frequent kind, with experts if the model has any."""
    sparse = [layer for layer in llm.layers if isinstance(layer.ffn, Moe)] or list(llm.layers)
    common, _ = Counter(sparse).most_common(1)[0]
    return llm.layers.index(common)


def describe(llm: Llm, index: int) -> str:
    """Return which layer it is, and how many are like it: ``layer 4 of step3 (56 of its 61 are alike)``."""
    alike = llm.layers.count(llm.layers[index])
    return f"layer {index} of {llm.name} ({alike} of its {len(llm.layers)} are alike)"
