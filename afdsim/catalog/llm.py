"""Language models: layers of attention and FFN, how their weights are cut, and the bytes of weights, KV and tokens.

Bytes are of one GPU and of arrays of token counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from afdsim.errors import CatalogError

Array: TypeAlias = "float | NDArray[np.float64]"

WIDTH: Mapping[str, float] = MappingProxyType({"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "fp32": 4.0})
"""Bytes of one element."""

SCALE_BLOCK = 128
"""Elements that share one FP32 scale in FP8 activations on the wire (DeepSeek-V3's block scaling)."""


def idle_attention(attention: str, kv_cache: str) -> str:
    """Return why a format of core attention does nothing beside another one of its KV cache."""
    decides = f"'kv_cache: {kv_cache}', which decides the kernel of core attention"
    return f"{attention} does nothing beside {decides}; set one of them (or the same twice)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Dtypes of a deployment, in the words of the Step-3 paper: "BF16 attention" is the core and its cache, no GEMM."""

    attention: str | None = None
    """Of core attention and its KV cache; None: as `kv_cache`, and FP8 where both are None."""
    ffn: str = "fp8"
    """Of the weights and GEMMs: FFN and projections."""
    kv_cache: str | None = None
    """Of the KV cache, which decides the core's kernel; None: as `attention`."""

    def __post_init__(self) -> None:
        if self.attention and self.attention != self.cache:
            raise CatalogError(f"attention: {idle_attention(self.attention, self.cache)}")

    @property
    def cache(self) -> str:
        """Dtype of core attention and of its KV cache."""
        return self.kv_cache or self.attention or "fp8"

    @property
    def projections(self) -> str:
        """Dtype of the projections: FP4 checkpoints quantise the experts and leave the projections in FP8."""
        return "fp8" if self.ffn == "fp4" else self.ffn


@dataclass(frozen=True, slots=True, kw_only=True)
class Mfa:
    """Multi-matrix factorisation attention (Step-3): low-rank queries, one shared key and one shared value head."""

    heads: int
    head_dim: int
    q_rank: int

    @property
    def window(self) -> int | None:
        """Tokens that a query can see; None means all of them."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2/V3), decoded in its absorbed form."""

    heads: int
    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int
    q_rank: int | None
    """None where queries are projected at full rank (DeepSeek-V2-Lite)."""

    @property
    def window(self) -> int | None:
        """Tokens that a query can see; None means all of them."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gqa:
    """Grouped-query attention; multi-query with one KV head, multi-head with as many as query heads."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    """Tokens that a sliding or chunked layer can see; None means all of them."""
    kv_dtype: str | None = None
    """Dtype of this layer's KV cache whatever the deployment's precision says; None follows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Linear (lightning) attention: a state of heads x head_dim x head_dim instead of a KV cache."""

    heads: int
    head_dim: int
    state_dtype: str = "fp32"

    @property
    def window(self) -> int | None:
        """Return 0: no context token is read, whatever the context."""
        return 0


Attention: TypeAlias = Mfa | Mla | Gqa | Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A gated FFN of three matrices."""

    inner: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """Routed experts, each a gated FFN of width `inner`, with shared experts beside them."""

    experts: int
    top_k: int
    inner: int
    shared: int = 0
    shared_inner: int = 0
    """Width of one shared expert."""


Ffn: TypeAlias = Dense | Moe


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer layer."""

    attention: Attention
    ffn: Ffn


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """A language model: layers in order, embedding and head."""

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How FFN weights are cut: over instances, then into `ep` expert groups, each expert `tp` ways.

    ``across="experts"`` gives every instance its own experts, ``"width"`` a slice of every expert. Dense layers
    and shared experts are always cut by inner width over all GPUs.
    """

    instances: int = 1
    ep: int = 1
    tp: int = 1
    across: str = "experts"

    @property
    def gpus(self) -> int:
        """GPUs of all instances together."""
        return self.instances * self.ep * self.tp


def ranks(placement: str) -> int:
    """Return the tensor-parallel ranks of a placement: 1 for "replicated", n for "tp<n>".

    >>> ranks("replicated"), ranks("tp8")
    (1, 8)
    """
    if placement == "replicated":
        return 1
    if placement.startswith("tp") and placement[2:].isdigit() and int(placement[2:]) > 0:
        return int(placement[2:])
    raise ValueError(f"{placement!r} is no placement; use 'replicated' or 'tp<n>', for example 'tp8'")


def share(count: int, parts: int) -> int:
    """Return the most of `count` things that one of `parts` GPUs holds.

    >>> share(64, 8), share(4, 8), share(40, 16)
    (8, 1, 3)
    """
    return -(-count // parts)


def projections(hidden: int, attention: Attention, tp: int = 1) -> tuple[tuple[str, int, int], ...]:
    """Return (name, k, n) of the projections into the core on one of `tp` GPUs, fused as kernels fuse them."""
    match attention:
        case Mfa(heads=heads, head_dim=d, q_rank=rank):
            return ("q down and kv", hidden, rank + 2 * d), ("q up", rank, share(heads, tp) * d)
        case Mla(heads=heads, q_rank=None) as a:
            query = share(heads, tp) * (a.nope_dim + a.rope_dim)
            return (("q and kv down", hidden, query + a.kv_rank + a.rope_dim),)
        case Mla(heads=heads, q_rank=int(rank)) as a:
            up = share(heads, tp) * (a.nope_dim + a.rope_dim)
            return ("q and kv down", hidden, rank + a.kv_rank + a.rope_dim), ("q up", rank, up)
        case Gqa(heads=heads, kv_heads=kv, head_dim=d):
            return (("qkv", hidden, (share(heads, tp) + 2 * share(kv, tp)) * d),)
        case Linear(heads=heads, head_dim=d):
            return (("qkv and gate", hidden, 4 * share(heads, tp) * d),)
        case _:
            raise AssertionError(attention)


def output_width(attention: Attention, tp: int = 1) -> int:
    """Return the inputs of o_proj on one of `tp` GPUs."""
    width = attention.v_dim if isinstance(attention, Mla) else attention.head_dim
    return share(attention.heads, tp) * width


def local_experts(moe: Moe, split: Split) -> tuple[float, float]:
    """Return (routed experts, inner width of each) of one GPU."""
    if split.across == "width":
        return moe.experts / split.ep, moe.inner / split.tp / split.instances
    return moe.experts / split.ep / split.instances, moe.inner / split.tp


def token_bytes(llm: Llm, top_k: int, dtype: str) -> float:
    """Return the bytes of one dispatched token: hidden, FP32 scales per 128 elements, expert ids and weights.

    BF16 tokens carry no scales.
    """
    scales = 0.0 if dtype == "bf16" else llm.hidden / SCALE_BLOCK * 4.0
    return llm.hidden * max(1.0, WIDTH[dtype]) + scales + 8.0 * top_k


def dispatch_bytes(llm: Llm, layer: Layer, dtype: str = "fp8") -> float:
    """Return the bytes per token from an attention instance to each FFN instance."""
    return token_bytes(llm, layer.ffn.top_k if isinstance(layer.ffn, Moe) else 0, dtype)


def combine_bytes(llm: Llm) -> float:
    """Return the bytes per token from each FFN instance back: one BF16 partial sum."""
    return 2.0 * llm.hidden


def layer_kv_bytes(attention: Attention, precision: Precision, tp: int = 1) -> float:
    """Return the KV bytes that one context token adds to one layer on one of `tp` GPUs."""
    match attention:
        case Mfa(head_dim=d):
            return 2 * d * WIDTH[precision.cache]
        case Mla(kv_rank=rank, rope_dim=rope):
            return (rank + rope) * WIDTH[precision.cache]
        case Gqa(kv_heads=kv, head_dim=d, kv_dtype=dtype):
            return 2 * share(kv, tp) * d * WIDTH[dtype or precision.cache]
        case Linear():
            return 0.0
        case _:
            assert_never(attention)


def kv_bytes_per_token(llm: Llm, precision: Precision, tp: int = 1) -> float:
    """Return the KV bytes that one more context token takes on one of `tp` GPUs while every window still grows."""
    return float(sum(layer_kv_bytes(layer.attention, precision, tp) for layer in llm.layers))


def kv_bytes(llm: Llm, context: Array, precision: Precision, tp: int = 1) -> Array:
    """Return the KV cache and linear-attention state of one sequence of `context` tokens on one of `tp` GPUs."""
    return sum((stored_bytes(layer.attention, context, precision, tp) for layer in llm.layers), 0.0 * context)


def stored_bytes(attention: Attention, context: Array, precision: Precision, tp: int = 1) -> Array:
    """Return what one sequence of `context` tokens keeps in memory for one layer on one of `tp` GPUs."""
    if isinstance(attention, Linear):
        state = share(attention.heads, tp) * attention.head_dim**2 * WIDTH[attention.state_dtype]
        return state + 0.0 * context
    seen = context if attention.window is None else np.minimum(context, attention.window)
    return layer_kv_bytes(attention, precision, tp) * seen


def attention_weight_bytes(
    llm: Llm, precision: Precision, *, tp: int = 1, o_proj: str = "replicated", lm_head: str = "replicated"
) -> float:
    """Return the weights of one attention GPU: projections, norms and router of all layers, embedding, LM head."""
    layers = sum(_layer_weight_bytes(llm, layer, precision, tp, ranks(o_proj)) for layer in llm.layers)
    return layers + 2.0 * llm.hidden * (llm.vocab + share(llm.vocab, ranks(lm_head)))


def _layer_weight_bytes(llm: Llm, layer: Layer, precision: Precision, tp: int, o_ranks: int) -> float:
    """Return the weights of one layer's attention stage on one GPU; norms, router and kv_b are BF16."""
    attention, width = layer.attention, WIDTH[precision.projections]
    cut = tp if tp > 1 else o_ranks
    elements = sum(k * n for _, k, n in projections(llm.hidden, attention, tp))
    elements += share(output_width(attention), cut) * llm.hidden
    router = llm.hidden * layer.ffn.experts if isinstance(layer.ffn, Moe) else 0
    absorbed = 0
    if isinstance(attention, Mla):
        absorbed = share(attention.heads, tp) * attention.kv_rank * (attention.nope_dim + attention.v_dim)
    return elements * width + 2.0 * (router + 2 * llm.hidden + absorbed)


def ffn_weight_bytes(llm: Llm, precision: Precision, split: Split) -> float:
    """Return the FFN weights of one GPU over all layers; block scales (0.02 %) are left out."""
    return float(sum(_ffn_elements(llm, layer.ffn, split) for layer in llm.layers)) * WIDTH[precision.ffn]


def _ffn_elements(llm: Llm, ffn: Ffn, split: Split) -> float:
    match ffn:
        case Dense(inner=inner):
            return 3.0 * llm.hidden * inner / split.gpus
        case Moe() as moe:
            experts, inner_local = local_experts(moe, split)
            shared = moe.shared * moe.shared_inner / split.gpus
            return 3.0 * llm.hidden * (experts * inner_local + shared)
        case _:
            assert_never(ffn)
