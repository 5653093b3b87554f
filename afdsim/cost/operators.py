"""Operators of a layer: FLOPs and bytes of every kernel, per GPU, for arrays of token counts.

A multiply-add counts as two FLOPs. Bytes are what a kernel moves through HBM (for a collective: over the wire)
with the definitions under which the coefficients were fitted, so that both belong together:

- GEMM of m rows: ``2mnk`` FLOPs; ``m*k*activation + n*k*weight + 2mn`` bytes (the output is BF16);
- core attention: the KV read once, plus BF16 queries and outputs;
- grouped GEMM: three matrices of every expert touched, plus ``pairs * (h + 6i + 2h)`` (FP8; BF16 alike).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np

from afdsim.catalog.llm import (
    WIDTH,
    Array,
    Attention,
    Dense,
    Ffn,
    Gqa,
    Layer,
    Linear,
    Llm,
    Mfa,
    Mla,
    Moe,
    Precision,
    Split,
    combine_bytes,
    layer_kv_bytes,
    local_experts,
    output_width,
    projections,
    ranks,
    share,
    token_bytes,
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
    width = WIDTH[dtype]
    moved = tokens * (k * width + 2.0 * n) + k * n * width
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
    """Return every operator of the attention stage but the core and the reduction, for `tokens` rows on one GPU."""
    into = tuple(
        gemm(name, tokens, (k, n), precision.projections) for name, k, n in projections(llm.hidden, layer.attention, tp)
    )
    return (
        small("norm, rope, kv write", 3),
        *into,
        *_absorbed(layer.attention, tokens, tp),
        *_output_operators(llm, layer.attention, tokens, precision=precision, tp=tp, o_proj=o_proj),
        *_router_operators(llm, layer.ffn, tokens),
    )


def _absorbed(attention: Attention, tokens: Array, tp: int) -> tuple[Operator, ...]:
    """Return MLA's two batched BF16 products with kv_b; their activations pass through L2."""
    if not isinstance(attention, Mla):
        return ()
    heads = share(attention.heads, tp)
    return tuple(
        Operator(
            name=name,
            stage="attention",
            kernel="bmm",
            dtype="bf16",
            flops=2.0 * tokens * heads * width * attention.kv_rank,
            bytes=2.0 * heads * width * attention.kv_rank + 0.0 * tokens,
        )
        for name, width in (("absorbed k", attention.nope_dim), ("absorbed v", attention.v_dim))
    )


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
        collective("o_proj all-to-all", away * tokens * width * WIDTH[dtype], gpus=n),
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


def core_operator(
    layer: Layer, tokens: Array, context: Array, *, precision: Precision, tp: int = 1, query_tokens: int = 1
) -> Operator:
    """Return core attention; flops and bytes are affine in `context` at fixed `tokens`.

    `tokens` counts query rows, `context` is the sum over sequences of the tokens read (cap each sequence at
    ``layer.attention.window`` first); with `query_tokens` > 1 every sequence's KV is read once for all of them.
    """
    kernel, query_rows, per_pair, dtype = _core_shape(layer.attention, precision, tp)
    kv = layer_kv_bytes(layer.attention, precision, tp)
    match layer.attention:
        case Linear(heads=heads, head_dim=d, state_dtype=state):
            elements = share(heads, tp) * d * d * tokens
            flops, moved = 10.0 * elements, 2.0 * WIDTH[state] * elements + 0.0 * context
        case Mla(heads=heads) as a:
            flops = per_pair * query_tokens * context
            moved = kv * context + 2.0 * tokens * share(heads, tp) * (2 * a.kv_rank + a.rope_dim)
        case Mfa() | Gqa() as a:
            flops = per_pair * query_tokens * context
            moved = kv * context + 4.0 * tokens * share(a.heads, tp) * a.head_dim
        case _:
            assert_never(layer.attention)
    rows = query_rows * query_tokens if query_rows else None
    return Operator(
        name="core attention", stage="attention", kernel=kernel, dtype=dtype, flops=flops, bytes=moved, rows=rows
    )


def _core_shape(attention: Attention, precision: Precision, tp: int) -> tuple[str, float, float, str]:
    """Return (kernel, query rows per KV head, FLOPs per query and context token, dtype) on one of `tp` GPUs."""
    match attention:
        case Mfa(heads=heads, head_dim=d):
            return _gqa_kernel(1, d), share(heads, tp), 4.0 * share(heads, tp) * d, precision.cache
        case Gqa(heads=heads, kv_heads=kv, head_dim=d, kv_dtype=kv_dtype):
            local, groups = share(heads, tp), share(kv, tp)
            return _gqa_kernel(groups, d), local / groups, 4.0 * local * d, kv_dtype or precision.cache
        case Mla(heads=heads) as a:
            local = share(heads, tp)
            return "core_mla", local, 2.0 * local * (2 * a.kv_rank + a.rope_dim), precision.cache
        case Linear(state_dtype=state):
            return "core_linear", 0.0, 0.0, state
        case _:
            assert_never(attention)


def _gqa_kernel(kv_heads: int, head_dim: int) -> str:
    """Return the measured class of a grouped-query kernel: MFA-like, multi-query, or grouped."""
    if kv_heads > 1:
        return "core_gqa"
    return "core_mfa" if head_dim >= 256 else "core_mqa"


def reduction_operator(llm: Llm, tokens: Array, partials: int) -> Operator:
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
            return dense_operators(llm, tokens, inner / split.gpus, precision.ffn)
        case Moe() as moe:
            return (expert_operator(llm, moe, tokens, precision=precision, split=split, load=load),)
        case _:
            assert_never(layer.ffn)


def dense_operators(llm: Llm, tokens: Array, inner: float, dtype: str) -> tuple[Operator, ...]:
    """Return a gated FFN of width `inner` as two GEMMs; FP8 fits hold the activation in their quantise kernel."""
    up = gemm("ffn up", tokens, (llm.hidden, 2 * inner), dtype, stage="ffn")
    down = gemm("ffn down", tokens, (inner, llm.hidden), dtype, stage="ffn")
    return (up, small("activation", 1, stage="ffn"), down) if dtype == "bf16" else (up, down)


def expert_operator(
    llm: Llm, moe: Moe, tokens: Array, *, precision: Precision, split: Split, load: Array = 1.0
) -> Operator:
    """Return one grouped GEMM over this GPU's routed experts with its slice of the shared ones in the same launch."""
    dtype, shared = precision.ffn, moe.shared * moe.shared_inner / split.gpus
    experts, inner = local_experts(moe, split)
    pairs = tokens * (moe.top_k * experts / moe.experts * load)
    rows = pairs / experts
    touched = -experts * np.expm1(-rows)
    routed = 6.0 * llm.hidden * inner * pairs
    both = 6.0 * llm.hidden * shared * tokens
    return Operator(
        name="experts and shared expert" if shared else "experts",
        stage="ffn",
        kernel="grouped_gemm",
        dtype=dtype,
        flops=routed + both,
        bytes=_expert_bytes(llm, inner, dtype, touched, pairs) + _expert_bytes(llm, shared, dtype, 1.0, tokens),
        rows=rows,
        spread=True,
        unpadded=both,
        shape=(llm.hidden, inner, experts),
    )


def _expert_bytes(llm: Llm, inner: float, dtype: str, experts: Array, rows: Array) -> Array:
    """Return weights of the experts touched plus activations of their rows; none of width 0."""
    if not inner:
        return 0.0
    width = WIDTH[dtype]
    activations = llm.hidden * width + (4.0 + 2.0 * width) * inner + 2.0 * llm.hidden
    return experts * (3.0 * llm.hidden * inner * width) + rows * activations


def gather_operator(llm: Llm, tokens: Array, *, gpus: int, top_k: int, precision: Precision) -> Operator:
    """Return the NVLink all-gather of `tokens` dispatched tokens to all `gpus` GPUs of an instance."""
    wire = (gpus - 1) / gpus * tokens * token_bytes(llm, top_k, precision.ffn)
    return collective("all-gather", wire, gpus=gpus, stage="gather")


def scatter_operator(llm: Llm, tokens: Array, *, gpus: int) -> Operator:
    """Return the NVLink reduce-scatter of BF16 results of `tokens` tokens inside an instance of `gpus` GPUs."""
    return collective("reduce-scatter", (gpus - 1) / gpus * tokens * combine_bytes(llm), gpus=gpus, stage="scatter")


def boundary_operators(
    llm: Llm, tokens: Array, *, precision: Precision, lm_head: str = "replicated"
) -> tuple[Operator, ...]:
    """Return the end of a step: final norm, LM head, sampling, and the embedding of the tokens sampled.

    Head and embedding are BF16 whatever `precision` says, as published checkpoints keep them.
    ``"tp<n>"`` cuts the vocabulary over n data-parallel ranks: hidden states are gathered, each rank samples
    over its slice, and one candidate per token and rank travels back (8 bytes).
    """
    del precision
    n = ranks(lm_head)
    if n == 1:
        head: tuple[Operator, ...] = (gemm("lm head", tokens, (llm.hidden, llm.vocab), "bf16", stage="boundary"),)
    else:
        away = (n - 1) / n * tokens * n
        head = (
            collective("lm head all-gather", away * llm.hidden * 2.0, gpus=n, stage="boundary"),
            gemm("lm head", tokens * n, (llm.hidden, share(llm.vocab, n)), "bf16", stage="boundary"),
            collective("candidates all-to-all", away * 8.0, gpus=n, stage="boundary"),
        )
    sample = Operator(name="sampling", stage="boundary", kernel="sampling", dtype="bf16")
    rows = 4.0 * tokens * llm.hidden
    lookup = Operator(name="embedding", stage="boundary", kernel="embedding", dtype="bf16", bytes=rows)
    return (small("final norm", 1, stage="boundary"), *head, sample, lookup)
