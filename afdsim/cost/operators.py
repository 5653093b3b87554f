"""Operators of a layer: FLOPs and bytes of every kernel, per GPU, for arrays of token counts.

A multiply-add counts as two FLOPs. Bytes are what a kernel moves through HBM (for a collective: over the wire)
with the definitions under which the coefficients were fitted, so that both belong together:

- GEMM of m rows: ``2mnk`` FLOPs; ``m*k*activation + n*k*weight + 2mn`` bytes (the output is BF16);
- core attention: the KV read once, plus BF16 queries and outputs;
- grouped GEMM: the matrices of every expert touched, plus ``pairs * (h + 6i + 2h)`` (FP8; BF16 alike).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from afdsim.catalog.llm import (
    ACTIVATION_WIDTH,
    WIDTH,
    Array,
    Attention,
    Core,
    Dense,
    Ffn,
    Gqa,
    Index,
    Layer,
    Linear,
    Llm,
    Mamba,
    Mfa,
    Mla,
    Moe,
    Precision,
    Split,
    combine_bytes,
    local_experts,
    output_width,
    projections,
    ranks,
    read_bytes,
    seen,
    share,
    state_bytes,
    token_bytes,
    vocabulary_cut,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operator:
    """One kernel (or `launches` equal ones) on one GPU."""

    name: str
    stage: str
    """attention, ffn, gather, scatter or boundary."""
    kernel: str
    """Coefficient family."""
    dtype: str
    """Dtype of the arithmetic; of the KV cache for core attention."""
    flops: Array = 0.0
    """Useful FLOPs, padding excluded."""
    bytes: Array = 0.0
    """HBM bytes; bytes on the wire and GPU for a collective."""
    rows: Array | None = None
    """Rows that a kernel pads to its tile: query rows per KV head, or mean rows per expert."""
    spread: bool = False
    """Whether `rows` is the mean of random loads (uniform routing) rather than exact."""
    unpadded: Array = 0.0
    """The part of `flops` whose rows need no padding (the shared expert inside a grouped GEMM)."""
    launches: float = 1
    gpus: int = 1
    """Ranks of a collective."""
    shape: tuple[float, ...] = ()
    """What a measured table is indexed by: (k, n) of a GEMM; (hidden, inner, local experts) of a grouped one."""


def gemm(name: str, tokens: Array, shape: tuple[float, float], dtype: str, *, stage: str = "attention") -> Operator:
    """Return the operator ``tokens x k`` times ``k x n`` with `shape` = (k, n), weights and inputs in `dtype`."""
    k, n = shape
    moved = tokens * (k * ACTIVATION_WIDTH[dtype] + 2.0 * n) + k * n * WIDTH[dtype]
    flops = 2.0 * tokens * k * n
    return Operator(name=name, stage=stage, kernel="gemm", dtype=dtype, flops=flops, bytes=moved, shape=(k, n))


def small(name: str, launches: int, *, stage: str = "attention") -> Operator:
    """Return `launches` element-wise kernels, whose activations stay in L2 at decode sizes."""
    return Operator(name=name, stage=stage, kernel="small", dtype="bf16", launches=launches)


def collective(name: str, moved: Array, *, gpus: int, stage: str = "attention") -> Operator:
    """Return the collective `name` over `gpus` ranks that puts `moved` bytes per GPU on the wire."""
    kernel = name.rsplit(" ", 1)[-1].replace("-", "_")
    return Operator(
        name=name, stage=stage, kernel=kernel, dtype="bf16", bytes=moved, launches=float(gpus > 1), gpus=gpus
    )


def attention_operators(
    llm: Llm,
    layer: Layer,
    tokens: Array,
    *,
    precision: Precision,
    tp: int = 1,
    o_proj: str = "replicated",
) -> tuple[Operator, ...]:
    """Return every operator of the attention stage but the cores and the reduction, for `tokens` rows on one GPU."""
    return (
        *operators_before(llm, layer, tokens, precision=precision, tp=tp, o_proj=o_proj),
        *operators_after(llm, layer, tokens, precision=precision, tp=tp, o_proj=o_proj),
    )


def operators_before(
    llm: Llm, layer: Layer, tokens: Array, *, precision: Precision, tp: int = 1, o_proj: str = "replicated"
) -> tuple[Operator, ...]:
    """Return what runs before the last core of a layer: its projections, and the mixers before it whole."""
    found: list[Operator] = []
    for mixer in layer.before:
        found += _into(llm, mixer, tokens, precision=precision, tp=tp)
        found += _out_of(llm, mixer, tokens, precision=precision, tp=tp, o_proj=o_proj)
    return (*found, *_into(llm, layer.attention, tokens, precision=precision, tp=tp))


def operators_after(
    llm: Llm, layer: Layer, tokens: Array, *, precision: Precision, tp: int = 1, o_proj: str = "replicated"
) -> tuple[Operator, ...]:
    """Return what runs after the last core of a layer: its output projection, norm and router."""
    last = _out_of(llm, layer.attention, tokens, precision=precision, tp=tp, o_proj=o_proj)
    return (*last, *_router_operators(llm, layer.ffn, tokens))


def _into(llm: Llm, mixer: Attention, tokens: Array, *, precision: Precision, tp: int) -> tuple[Operator, ...]:
    """Return norm, projections and small kernels into the core of a mixer."""
    into = (gemm(name, tokens, (k, n), precision.projections) for name, k, n in projections(llm.hidden, mixer, tp))
    first = small("norm, convolution, gates" if isinstance(mixer, Linear | Mamba) else "norm, rope, kv write", 3)
    return (first, *into, *_between(mixer, tokens, tp), *_absorbed(mixer, tokens, tp, "k"))


def _between(mixer: Attention, tokens: Array, tp: int) -> tuple[Operator, ...]:
    """Return what a mixer does between its projections and its core.

    Mamba-1 chooses steps, inputs and outputs by all channels: partial sums of a tensor-parallel group are added up.
    """
    match mixer:
        case Mla(index=Index()):
            return (small("index scale, top-k", 2),)
        case Mamba(rank=rank, state_dim=state) if tp > 1:
            wire = 2.0 * (tp - 1) / tp * tokens * (rank + 2 * state) * 2.0
            return (collective("steps all-reduce", wire, gpus=tp),)
        case _:
            return ()


def _out_of(
    llm: Llm, mixer: Attention, tokens: Array, *, precision: Precision, tp: int, o_proj: str
) -> tuple[Operator, ...]:
    output = _output_operators(llm, mixer, tokens, precision=precision, tp=tp, o_proj=o_proj)
    return (*_absorbed(mixer, tokens, tp, "v"), *output)


def _absorbed(attention: Attention, tokens: Array, tp: int, side: str) -> tuple[Operator, ...]:
    """Return MLA's batched BF16 product with the `side` ("k" or "v") of kv_b; its activations pass through L2."""
    if not isinstance(attention, Mla):
        return ()
    heads, width = share(attention.heads, tp), attention.nope_dim if side == "k" else attention.v_dim
    product = Operator(
        name=f"absorbed {side}",
        stage="attention",
        kernel="bmm",
        dtype="bf16",
        flops=2.0 * tokens * heads * width * attention.kv_rank,
        bytes=2.0 * heads * width * attention.kv_rank + 0.0 * tokens,
    )
    return (product,)


def _output_operators(
    llm: Llm, attention: Attention, tokens: Array, *, precision: Precision, tp: int, o_proj: str
) -> tuple[Operator, ...]:
    """Return o_proj with its collectives.

    Inside a tensor-parallel attention group it is row-parallel and ends in an all-reduce. ``"tp<n>"`` cuts it over
    n data-parallel ranks instead: heads travel to their owner, partial sums come back reduced and scattered.
    """
    dtype, n = precision.projections, ranks(o_proj)
    width = output_width(attention, tp)
    if tp > 1:
        wire = 2.0 * (tp - 1) / tp * tokens * llm.hidden * 2.0
        return gemm("o_proj", tokens, (width, llm.hidden), dtype), collective("o_proj all-reduce", wire, gpus=tp)
    if n == 1:
        return (gemm("o_proj", tokens, (width, llm.hidden), dtype),)
    away = (n - 1) / n
    return (
        collective("o_proj all-to-all", away * tokens * width * ACTIVATION_WIDTH[dtype], gpus=n),
        gemm("o_proj", tokens * n, (share(width, n), llm.hidden), dtype),
        collective("o_proj reduce-scatter", away * tokens * n * llm.hidden * 2.0, gpus=n),
    )


def _router_operators(llm: Llm, ffn: Ffn, tokens: Array) -> tuple[Operator, ...]:
    """Return what follows attention: norm and packing on every layer, router GEMM and top-k on MoE layers."""
    match ffn:
        case Dense():
            return (small("post-norm, pack", 2),)
        case Moe(experts=experts):
            return small("post-norm, top-k, pack", 3), gemm("router", tokens, (llm.hidden, experts), "bf16")
        case _:
            assert_never(ffn)


def core_operators(
    layer: Layer, tokens: Array, context: float, *, precision: Precision, tp: int = 1, query_tokens: int = 1
) -> tuple[Operator, ...]:
    """Return all cores of a layer for `tokens` query rows of sequences of `context` tokens each."""
    sequences = tokens / query_tokens
    return tuple(
        core_operator(
            core, tokens, sequences * seen(core, context), precision=precision, tp=tp, query_tokens=query_tokens
        )
        for core in layer.cores
    )


def core_operator(
    core: Layer | Core, tokens: Array, context: Array, *, precision: Precision, tp: int = 1, query_tokens: int = 1
) -> Operator:
    """Return one core (of a layer: its last); flops and bytes are affine in `context` at fixed `tokens`.

    `tokens` counts query rows, `context` is the sum over sequences of the tokens read (cap each sequence at
    ``core.window`` first); with `query_tokens` > 1 every sequence's KV is read once for all of them, but in sparse
    attention, where each query has chosen its own.
    """
    core = core.attention if isinstance(core, Layer) else core
    kernel, query_rows, per_pair, dtype = _core_shape(core, precision, tp)
    if isinstance(core, Linear | Mamba):
        elements = core.state(tp) * tokens
        flops = 10.0 * elements + 0.0 * context
        moved = 2.0 * state_bytes(core, tp) * tokens + 0.0 * context
    else:
        flops = per_pair * query_tokens * context
        reads = query_tokens if isinstance(core, Mla) and core.index else 1
        moved = reads * read_bytes(core, precision, tp) * context + 2.0 * tokens * _in_and_out(core, tp)
    rows = query_rows * query_tokens if query_rows else None
    return Operator(
        name="indexer" if isinstance(core, Index) else "core attention",
        stage="attention",
        kernel=kernel,
        dtype=dtype,
        flops=flops,
        bytes=moved,
        rows=rows,
    )


def _in_and_out(core: Mfa | Mla | Gqa | Index, tp: int) -> int:
    """Return the BF16 elements per query row that a core reads and writes beside the cache."""
    match core:
        case Mla(heads=heads) as a:
            return share(heads, tp) * (2 * a.kv_rank + a.rope_dim)
        case Mfa(heads=heads, head_dim=d):
            return share(heads, tp) * 2 * d
        case Gqa(heads=heads, head_dim=d) as a:
            return share(heads, tp) * (d + a.values)
        case Index(heads=heads, head_dim=d):
            return heads * d
        case _:
            assert_never(core)


def _core_shape(core: Core, precision: Precision, tp: int) -> tuple[str, float, float, str]:
    """Return (kernel, query rows per KV head, FLOPs per query and context token, dtype) on one of `tp` GPUs."""
    match core:
        case Mfa(heads=heads, head_dim=d):
            return _gqa_kernel(1, d), share(heads, tp), 4.0 * share(heads, tp) * d, precision.cache
        case Gqa(heads=heads, kv_heads=kv, head_dim=d, kv_dtype=kv_dtype) as a:
            local, groups = share(heads, tp), share(kv, tp)
            return _gqa_kernel(groups, d), local / groups, 2.0 * local * (d + a.values), kv_dtype or precision.cache
        case Mla(heads=heads) as a:
            local = share(heads, tp)
            return "core_mla", local, 2.0 * local * (2 * a.kv_rank + a.rope_dim), precision.cache
        case Linear(state_dtype=state) | Mamba(state_dtype=state):
            return "core_linear", 0.0, 0.0, state
        case Index(heads=heads, head_dim=d, key_dtype=dtype):
            return "core_index", heads, 2.0 * heads * d, dtype
        case _:
            assert_never(core)


def _gqa_kernel(kv_heads: int, head_dim: int) -> str:
    """Return the measured class of a grouped-query kernel: MFA-like, multi-query, or grouped."""
    if kv_heads > 1:
        return "core_gqa"
    return "core_mfa" if head_dim >= 256 else "core_mqa"


def reduction_operator(llm: Llm, tokens: Array, partials: Array) -> Operator:
    """Return the sum of `partials` BF16 partial results and the residual, `tokens` rows of the hidden size."""
    moved = (partials + 2.0) * tokens * llm.hidden * 2.0
    return Operator(name="reduction", stage="attention", kernel="reduce", dtype="bf16", bytes=moved)


def ffn_operators(
    llm: Llm, layer: Layer, tokens: Array, *, precision: Precision, split: Split, load: Array = 1.0
) -> tuple[Operator, ...]:
    """Return the FFN compute of one GPU for `tokens` tokens of all attention instances together.

    `load` multiplies the routed rows of this GPU (the slowest one's share over the mean).
    """
    match layer.ffn:
        case Dense(inner=inner):
            return dense_operators(llm, tokens, inner / split.gpus, precision.ffn, matrices=layer.ffn.matrices)
        case Moe() as moe:
            routed = expert_operator(llm, moe, tokens, precision=precision, split=split, load=load)
            return (*_owned(llm, moe, tokens, precision=precision, split=split), routed)
        case _:
            assert_never(layer.ffn)


def _owned(llm: Llm, moe: Moe, tokens: Array, *, precision: Precision, split: Split) -> tuple[Operator, ...]:
    """Return the shared expert of the rows that arrived at this GPU, where no GPU has all rows of the instance."""
    if not split.owners or not moe.shared:
        return ()
    width = moe.shared * moe.shared_inner / split.instances
    parts = dense_operators(llm, tokens / split.owners, width, precision.ffn, matrices=moe.matrices)
    return tuple(replace(part, name=f"shared expert {part.name.removeprefix('ffn ')}") for part in parts)


def dense_operators(llm: Llm, tokens: Array, inner: float, dtype: str, *, matrices: int = 3) -> tuple[Operator, ...]:
    """Return an FFN of width `inner` as two GEMMs; FP8 fits hold the activation in their quantise kernel."""
    up = gemm("ffn up", tokens, (llm.hidden, (matrices - 1) * inner), dtype, stage="ffn")
    down = gemm("ffn down", tokens, (inner, llm.hidden), dtype, stage="ffn")
    apart = ACTIVATION_WIDTH[dtype] == WIDTH["bf16"]
    return (up, small("activation", 1, stage="ffn"), down) if apart else (up, down)


def expert_operator(
    llm: Llm, moe: Moe, tokens: Array, *, precision: Precision, split: Split, load: Array = 1.0
) -> Operator:
    """Return one grouped GEMM over this GPU's routed experts with its slice of the shared ones in the same launch."""
    dtype = precision.ffn
    shared = 0.0 if split.owners else moe.shared * moe.shared_inner / split.gpus
    experts, inner = local_experts(moe, split)
    pairs = tokens * (moe.top_k * experts / moe.experts * load)
    rows = pairs / experts
    touched = experts_touched(experts, rows, moe.top_k / moe.experts)
    routed = 2.0 * moe.matrices * llm.hidden * inner * pairs
    both = 2.0 * moe.matrices * llm.hidden * shared * tokens
    return Operator(
        name="experts and shared expert" if shared else "experts",
        stage="ffn",
        kernel="grouped_gemm",
        dtype=dtype,
        flops=routed + both,
        bytes=_expert_bytes(llm, moe, inner, dtype, touched, pairs)
        + _expert_bytes(llm, moe, shared, dtype, 1.0, tokens),
        rows=rows,
        spread=True,
        unpadded=both,
        shape=(llm.hidden, inner, experts),
    )


def experts_touched(experts: float, rows: Array, chosen: float) -> Array:
    """Return how many of `experts` have work when each gets `rows` on average, of tokens that choose a share `chosen`.

    A token takes an expert once at most: all but ``(1 - chosen) ** (rows / chosen)`` of them are touched, so that one
    token touches exactly its top-k. At many experts it is the Poisson law ``1 - exp(-rows)``.
    """
    per_row = math.log1p(-min(chosen, 1.0 - 1e-15)) / chosen
    touched: Array = -experts * np.expm1(rows * per_row)
    return touched


def _expert_bytes(llm: Llm, moe: Moe, inner: float, dtype: str, experts: Array, rows: Array) -> Array:
    """Return weights of the experts touched plus activations of their rows; none of width 0."""
    if not inner:
        return 0.0
    width = ACTIVATION_WIDTH[dtype]
    between = (moe.matrices - 1) * 2.0 + 2.0 * width
    activations = llm.hidden * width + between * inner + 2.0 * llm.hidden
    return experts * (moe.matrices * llm.hidden * inner * WIDTH[dtype]) + rows * activations


def asked_share(moe: Moe, held: float) -> float:
    """Return the share of tokens that choose at least one of `held` of the routed experts, all of them equally popular.

    >>> moe = Moe(experts=48, top_k=3, inner=5120)
    >>> round(2048 * asked_share(moe, 3)), asked_share(moe, 48)
    (368, 1.0)
    """
    missed = (max(moe.experts - held - i, 0.0) / (moe.experts - i) for i in range(moe.top_k))
    return 1.0 - math.prod(missed)


def gather_operator(
    llm: Llm, tokens: Array, *, gpus: int, top_k: int, precision: Precision, apart: bool = False
) -> Operator:
    """Return what brings `tokens` dispatched tokens to a GPU of an instance of `gpus`, one of which has each already.

    An all-gather over NVLink; where the GPUs hold experts `apart`, an all-to-all.
    """
    wire = (gpus - 1) / gpus * tokens * token_bytes(llm, top_k, precision.ffn)
    return collective("dispatch all-to-all" if apart else "all-gather", wire, gpus=gpus, stage="gather")


def scatter_operator(llm: Llm, tokens: Array, *, gpus: int, apart: bool = False) -> Operator:
    """Return what brings BF16 results of `tokens` tokens from a GPU of an instance back to the GPUs that own them.

    A reduce-scatter over NVLink; where the GPUs hold experts `apart`, an all-to-all.
    """
    wire = (gpus - 1) / gpus * tokens * combine_bytes(llm)
    return collective("combine all-to-all" if apart else "reduce-scatter", wire, gpus=gpus, stage="scatter")


def boundary_operators(
    llm: Llm,
    tokens: Array,
    *,
    precision: Precision,
    tp: int = 1,
    lm_head: str | None = None,
    embedding: str | None = None,
) -> tuple[Operator, ...]:
    """Return the end of a step: final norm, LM head, sampling, and the embedding of the tokens sampled.

    Head and embedding are BF16 whatever `precision` says, as published checkpoints keep them. Both are cut by
    vocabulary over the `tp` GPUs of a rank, or over the n GPUs of ``"tp<n>"``, which then are those of n / tp ranks.
    """
    del precision
    sample = Operator(name="sampling", stage="boundary", kernel="sampling", dtype="bf16")
    return (
        small("final norm", 1, stage="boundary"),
        *_head_operators(llm, tokens, vocabulary_cut(lm_head, tp), tp),
        sample,
        *_lookup_operators(llm, tokens, vocabulary_cut(embedding, tp), tp),
    )


def _head_operators(llm: Llm, tokens: Array, n: int, tp: int) -> tuple[Operator, ...]:
    """Return the LM head cut over `n` GPUs: hidden states are gathered from the ranks that share it.

    Each GPU samples over its slice, and one candidate per token and GPU travels back (8 bytes).
    """
    if n == 1:
        return (gemm("lm head", tokens, (llm.hidden, llm.vocab), "bf16", stage="boundary"),)
    sharing = max(1, n // tp)
    away = (sharing - 1) * tokens
    return (
        *([collective("lm head all-gather", away * llm.hidden * 2.0, gpus=n, stage="boundary")] if sharing > 1 else []),
        gemm("lm head", tokens * sharing, (llm.hidden, share(llm.vocab, n)), "bf16", stage="boundary"),
        collective("candidates all-to-all", (n - 1) * tokens * 8.0, gpus=n, stage="boundary"),
    )


def _lookup_operators(llm: Llm, tokens: Array, n: int, tp: int) -> tuple[Operator, ...]:
    """Return the embedding of `tokens`, cut over `n` GPUs: who lacks a row adds zero, and the sum is everybody's."""
    sharing = max(1, n // tp)
    rows = Operator(
        name="embedding", stage="boundary", kernel="embedding", dtype="bf16", bytes=4.0 * tokens * llm.hidden * sharing
    )
    if n == 1:
        return (rows,)
    wire = 2.0 * (n - 1) / n * tokens * sharing * llm.hidden * 2.0
    return rows, collective("embedding all-reduce", wire, gpus=n, stage="boundary")
