"""Language models: layers of attention and FFN, how their weights are cut, and the bytes of weights, KV and tokens.

Bytes are of one GPU and of arrays of token counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from afdsim.errors import CatalogError

Array: TypeAlias = "float | NDArray[np.float64]"

WIDTH: Mapping[str, float] = MappingProxyType(
    {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "w8a16": 1.0, "fp4": 0.5, "int4": 0.5, "fp32": 4.0}
)
"""Bytes of one element, scales left out, as kernels were fitted."""

ACTIVATION_WIDTH: Mapping[str, float] = MappingProxyType({**WIDTH, "int4": 2.0, "w8a16": 2.0})
"""Bytes of one element that meets weights of a dtype: INT4 and weight-only INT8 meet BF16 (W4A16, W8A16)."""

STORED_BITS: Mapping[str, float] = MappingProxyType({"fp4": 4.5, "int4": 4.0 + 16 / 128 + 4 / 128})
"""Bits of one weight in memory where scales are not small: NVFP4 has an FP8 scale per 16, INT4 a BF16 scale and a zero
point per 128. Block scales of FP8 (0.02 %) are left out."""

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
    projections: str = ""
    """Of the projections where theirs is another one; empty: as `ffn`, and FP8 beside FP4."""
    kv_cache: str | None = None
    """Of the KV cache, which decides the core's kernel; None: as `attention`."""

    def __post_init__(self) -> None:
        if self.attention and self.attention != self.cache:
            raise CatalogError(f"attention: {idle_attention(self.attention, self.cache)}")
        if not self.projections:
            object.__setattr__(self, "projections", "fp8" if self.ffn == "fp4" else self.ffn)

    @property
    def cache(self) -> str:
        """Dtype of core attention and of its KV cache."""
        return self.kv_cache or self.attention or "fp8"


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
class Index:
    """The lightning indexer of sparse attention (DeepSeek-V3.2): scores every context token for every query.

    Every GPU of a tensor-parallel group holds all of it, as engines run it.
    """

    heads: int
    head_dim: int
    """Of its queries, and of the one key that it keeps per context token."""
    top_k: int
    """Tokens that a query then reads."""
    key_dtype: str = "fp8"

    @property
    def window(self) -> int | None:
        """Return None: all of the context is scored."""
        return None

    @property
    def key_bytes(self) -> float:
        """Bytes kept per context token: a key, and an FP32 scale per block of it."""
        scales = 0.0 if self.key_dtype == "bf16" else self.head_dim / SCALE_BLOCK * 4.0
        return self.head_dim * WIDTH[self.key_dtype] + scales


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
    index: Index | None = None
    """What chooses the tokens that a query reads, in sparse attention (DeepSeek-V3.2)."""

    @property
    def window(self) -> int | None:
        """Tokens that a query reads; None means all of them."""
        return self.index.top_k if self.index else None


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
    v_dim: int | None = None
    """Width of a value head where it differs from a key's (MiMo-V2)."""
    gate: int = 0
    """Scalars per head of an output gate: `head_dim` in Qwen3-Next, 1 in Step-3.5."""

    @property
    def values(self) -> int:
        """Width of a value head."""
        return self.v_dim or self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A recurrent layer: states of key_dim x head_dim per head instead of a KV cache.

    Lightning attention (MiniMax-01), gated delta net (Qwen3-Next: two scalars per head) and Mamba-2 (one scalar per
    head; B and C are its keys and queries) differ in these numbers alone.
    """

    heads: int
    """States, each with a value and a gate of `head_dim`."""
    head_dim: int
    key_dim: int | None = None
    """Rows of a state; None: as `head_dim`."""
    groups: int | None = None
    """Heads of keys and queries; None: as `heads`."""
    scalars: int = 0
    """Further projected numbers per head: decays, steps, write strengths."""
    conv: int = 0
    """Taps of the causal convolution over queries, keys and values; 0: none."""
    state_dtype: str = "fp32"

    @property
    def window(self) -> int | None:
        """Return 0: no context token is read, whatever the context."""
        return 0

    def state(self, tp: int = 1) -> float:
        """Return the elements of the states on one of `tp` GPUs."""
        return float(share(self.heads, tp) * (self.key_dim or self.head_dim) * self.head_dim)

    def keys(self, tp: int = 1) -> int:
        """Return the width of all keys on one of `tp` GPUs."""
        return share(self.groups or self.heads, tp) * (self.key_dim or self.head_dim)

    def taps(self, tp: int = 1) -> float:
        """Return the elements that the convolution keeps of former tokens, on one of `tp` GPUs (BF16)."""
        return max(0.0, self.conv - 1.0) * (2 * self.keys(tp) + share(self.heads, tp) * self.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba:
    """A Mamba-1 layer (Jamba): a state per channel, its steps, inputs and outputs chosen by the channels."""

    inner: int
    """Channels."""
    state_dim: int
    """Elements of state per channel."""
    rank: int
    """Of the projection of the steps."""
    conv: int = 4
    """Taps of the causal convolution over the channels."""
    state_dtype: str = "fp32"

    @property
    def window(self) -> int | None:
        """Return 0: no context token is read, whatever the context."""
        return 0

    def state(self, tp: int = 1) -> float:
        """Return the elements of the states on one of `tp` GPUs."""
        return float(share(self.inner, tp) * self.state_dim)

    def taps(self, tp: int = 1) -> float:
        """Return the elements that the convolution keeps of former tokens, on one of `tp` GPUs (BF16)."""
        return max(0.0, self.conv - 1.0) * share(self.inner, tp)


Attention: TypeAlias = Mfa | Mla | Gqa | Linear | Mamba
Core: TypeAlias = Attention | Index
"""Whatever has a kernel of its own that depends on the sequences, not only on the tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """An FFN of three matrices, or of two without a gate."""

    inner: int
    gated: bool = True

    @property
    def matrices(self) -> int:
        """Matrices of hidden x inner."""
        return 3 if self.gated else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """Routed experts, each an FFN of width `inner`, with shared experts beside them."""

    experts: int
    top_k: int
    inner: int
    shared: int = 0
    shared_inner: int = 0
    """Width of one shared expert."""
    gated: bool = True

    @property
    def matrices(self) -> int:
        """Matrices of hidden x inner of one expert."""
        return 3 if self.gated else 2


Ffn: TypeAlias = Dense | Moe


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer layer: mixers of tokens, then an FFN."""

    attention: Attention
    ffn: Ffn
    before: tuple[Attention, ...] = ()
    """Mixers without an FFN of their own that run first, in a hybrid (Nemotron-H)."""

    @property
    def mixers(self) -> tuple[Attention, ...]:
        """All mixers, in order."""
        return (*self.before, self.attention)

    @property
    def cores(self) -> tuple[Core, ...]:
        """All kernels that depend on sequences, in order."""
        return tuple(core for mixer in self.mixers for core in cores(mixer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """A language model: layers in order, embedding and head."""

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    source: str
    tied: bool = False
    """Whether embedding and LM head are one matrix."""
    positions: int | None = None
    """Tokens of the longest sequence that it was made for (`max_position_embeddings`); None where nothing is said."""
    weights: str | None = None
    """Dtype of the quantised checkpoint; None where it is not quantised, or nothing is said."""
    unquantised: str | None = None
    """Dtype of a checkpoint that is not quantised, where it is said."""
    projections: str | None = None
    """Dtype of the projections of a quantised checkpoint."""
    bits: float | None = None
    """Bits of one of its weights with scales."""
    notes: tuple[str, ...] = ()
    """What its file holds that is not modelled, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How FFN weights are cut: over instances, then into `ep` expert groups, each expert `tp` ways.

    ``across="experts"`` gives every instance its own experts, ``"width"`` a slice of every expert. Dense layers
    are always cut by inner width over all GPUs, and so are shared experts unless rows have `owners`.
    """

    instances: int = 1
    ep: int = 1
    tp: int = 1
    across: str = "experts"
    owners: int = 0
    """GPUs of an instance among which its rows arrive, where a row goes on to the GPUs of its experts only: its owner
    runs the shared expert. 0: every GPU has every row."""

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


def vocabulary_cut(placement: str | None, tp: int) -> int:
    """Return over how many GPUs the vocabulary is cut; where nothing is said over the `tp` GPUs of a rank.

    >>> vocabulary_cut(None, 8), vocabulary_cut("replicated", 8), vocabulary_cut("tp4", 1)
    (8, 1, 4)
    """
    return tp if placement is None else ranks(placement)


def share(count: int, parts: int) -> int:
    """Return the most of `count` things that one of `parts` GPUs holds.

    >>> share(64, 8), share(4, 8), share(40, 16)
    (8, 1, 3)
    """
    return -(-count // parts)


def seen(core: Core, context: float) -> float:
    """Return the context tokens that `core` reads of a sequence of `context` tokens."""
    return context if core.window is None else min(context, core.window)


def cores(attention: Attention) -> tuple[Core, ...]:
    """Return the kernels of one mixer that depend on sequences: its core, after its indexer if it has one."""
    if isinstance(attention, Mla) and attention.index:
        return attention.index, attention
    return (attention,)


def projections(hidden: int, attention: Attention, tp: int = 1) -> tuple[tuple[str, int, int], ...]:
    """Return (name, k, n) of the projections into the core on one of `tp` GPUs, fused as kernels fuse them."""
    match attention:
        case Mfa(heads=heads, head_dim=d, q_rank=rank):
            return ("q down and kv", hidden, rank + 2 * d), ("q up", rank, share(heads, tp) * d)
        case Mla(heads=heads, q_rank=None) as a:
            query = share(heads, tp) * (a.nope_dim + a.rope_dim)
            return ("q and kv down", hidden, query + a.kv_rank + a.rope_dim), *_indexing(hidden, a)
        case Mla(heads=heads, q_rank=int(rank)) as a:
            up = share(heads, tp) * (a.nope_dim + a.rope_dim)
            down = ("q and kv down", hidden, rank + a.kv_rank + a.rope_dim)
            return down, ("q up", rank, up), *_indexing(hidden, a)
        case Gqa(heads=heads, kv_heads=kv, head_dim=d) as a:
            queries, keys = share(heads, tp) * (d + a.gate), share(kv, tp) * (d + a.values)
            return (("qkv and gate" if a.gate else "qkv", hidden, queries + keys),)
        case Linear(heads=heads, head_dim=d) as a:
            local = share(heads, tp)
            return (("qkv and gate", hidden, 2 * a.keys(tp) + local * (2 * d + a.scalars)),)
        case Mamba(inner=inner, rank=rank) as a:
            local = share(inner, tp)
            chosen = ("steps, in and out", local, rank + 2 * a.state_dim)
            return ("channels and gate", hidden, 2 * local), chosen, ("steps up", rank, local)
        case _:
            raise AssertionError(attention)


def _indexing(hidden: int, attention: Mla) -> tuple[tuple[str, int, int], ...]:
    """Return (name, k, n) of the projections of an indexer: queries from the latent ones, a key and head weights."""
    match attention:
        case Mla(index=Index(heads=heads, head_dim=d)):
            return ("index q", attention.q_rank or hidden, heads * d), ("index k and weights", hidden, d + heads)
        case _:
            return ()


def output_width(attention: Attention, tp: int = 1) -> int:
    """Return the inputs of o_proj on one of `tp` GPUs."""
    match attention:
        case Mamba(inner=inner):
            return share(inner, tp)
        case Mla(heads=heads, v_dim=width) | Mfa(heads=heads, head_dim=width) | Linear(heads=heads, head_dim=width):
            return share(heads, tp) * width
        case Gqa(heads=heads) as a:
            return share(heads, tp) * a.values
        case _:
            assert_never(attention)


def local_experts(moe: Moe, split: Split) -> tuple[float, float]:
    """Return (routed experts, inner width of each) of one GPU."""
    if split.across == "width":
        return moe.experts / split.ep, moe.inner / split.tp / split.instances
    return moe.experts / split.ep / split.instances, moe.inner / split.tp


def without_shared(ffn: Ffn) -> Ffn:
    """Return an FFN without its shared experts."""
    return replace(ffn, shared=0, shared_inner=0) if isinstance(ffn, Moe) else ffn


def token_bytes(llm: Llm, top_k: int, dtype: str) -> float:
    """Return the bytes of one dispatched token: hidden, FP32 scales per 128 elements, expert ids and weights.

    BF16 tokens carry no scales.
    """
    width = max(1.0, ACTIVATION_WIDTH[dtype])
    scales = 0.0 if width == WIDTH["bf16"] else llm.hidden / SCALE_BLOCK * 4.0
    return llm.hidden * width + scales + 8.0 * top_k


def dispatch_bytes(llm: Llm, layer: Layer, dtype: str = "fp8") -> float:
    """Return the bytes per token from an attention instance to each FFN instance."""
    return token_bytes(llm, layer.ffn.top_k if isinstance(layer.ffn, Moe) else 0, dtype)


def combine_bytes(llm: Llm) -> float:
    """Return the bytes per token from each FFN instance back: one BF16 partial sum."""
    return 2.0 * llm.hidden


def read_bytes(core: Core, precision: Precision, tp: int = 1) -> float:
    """Return the bytes of cache that `core` reads per context token that it sees, on one of `tp` GPUs."""
    match core:
        case Mfa(head_dim=d):
            return 2 * d * WIDTH[precision.cache]
        case Mla(kv_rank=rank, rope_dim=rope):
            return (rank + rope) * WIDTH[precision.cache]
        case Gqa(kv_heads=kv, head_dim=d, kv_dtype=dtype):
            return share(kv, tp) * (d + core.values) * WIDTH[dtype or precision.cache]
        case Linear() | Mamba():
            return 0.0
        case Index():
            return core.key_bytes
        case _:
            assert_never(core)


def layer_kv_bytes(attention: Attention, precision: Precision, tp: int = 1) -> float:
    """Return the bytes that one context token adds to the cache of one mixer on one of `tp` GPUs."""
    return sum(read_bytes(core, precision, tp) for core in cores(attention))


def kept(attention: Attention) -> int | None:
    """Return the context tokens whose cache is kept: None for all; sparse attention keeps what it may choose from."""
    return None if isinstance(attention, Mla) else attention.window


def kv_bytes_per_token(llm: Llm, precision: Precision, tp: int = 1) -> float:
    """Return the KV bytes that one more context token takes on one of `tp` GPUs while every window still grows."""
    return float(sum(layer_kv_bytes(mixer, precision, tp) for layer in llm.layers for mixer in layer.mixers))


def kv_bytes(llm: Llm, context: Array, precision: Precision, tp: int = 1) -> Array:
    """Return the KV cache and recurrent states of one sequence of `context` tokens on one of `tp` GPUs."""
    mixers = (mixer for layer in llm.layers for mixer in layer.mixers)
    return sum((stored_bytes(mixer, context, precision, tp) for mixer in mixers), 0.0 * context)


def stored_bytes(attention: Attention, context: Array, precision: Precision, tp: int = 1) -> Array:
    """Return what one sequence of `context` tokens keeps in memory for one mixer on one of `tp` GPUs."""
    if isinstance(attention, Linear | Mamba):
        return state_bytes(attention, tp) + 0.0 * context
    window = kept(attention)
    held = context if window is None else np.minimum(context, window)
    return layer_kv_bytes(attention, precision, tp) * held


def state_bytes(attention: Linear | Mamba, tp: int = 1) -> float:
    """Return the bytes of a recurrent layer's state and of its convolution's past, on one of `tp` GPUs."""
    return attention.state(tp) * WIDTH[attention.state_dtype] + 2.0 * attention.taps(tp)


def attention_weight_bytes(
    llm: Llm,
    precision: Precision,
    *,
    tp: int = 1,
    o_proj: str = "replicated",
    lm_head: str | None = None,
    embedding: str | None = None,
) -> float:
    """Return the weights of one attention GPU: projections, norms and router of all layers, embedding, LM head."""
    layers = sum(_layer_weight_bytes(llm, layer, precision, tp, ranks(o_proj)) for layer in llm.layers)
    head, rows = vocabulary_cut(lm_head, tp), vocabulary_cut(embedding, tp)
    held = share(llm.vocab, head) + (0 if llm.tied and head == rows else share(llm.vocab, rows))
    return layers + 2.0 * llm.hidden * held


def _layer_weight_bytes(llm: Llm, layer: Layer, precision: Precision, tp: int, o_ranks: int) -> float:
    """Return the weights of one layer's attention stage on one GPU; norms and router are BF16."""
    router = llm.hidden * layer.ffn.experts if isinstance(layer.ffn, Moe) else 0
    norms = (1 + len(layer.mixers)) * llm.hidden
    cut = tp if tp > 1 else o_ranks
    return sum(_mixer_bytes(llm, mixer, precision, tp, cut) for mixer in layer.mixers) + 2.0 * (router + norms)


def _mixer_bytes(llm: Llm, mixer: Attention, precision: Precision, tp: int, cut: int) -> float:
    """Return the weights of one mixer on one of `tp` GPUs, its o_proj cut `cut` ways; MLA's kv_b is BF16."""
    absorbed = _absorbed_elements(mixer, tp)
    elements = projection_elements(llm, mixer, tp=tp, o_proj=cut) - absorbed
    return elements * stored_width(llm, precision.projections) + 2.0 * absorbed


def projection_elements(llm: Llm, mixer: Attention, *, tp: int = 1, o_proj: int = 1) -> float:
    """Return the elements of a mixer's matrices on one of `tp` GPUs, its output projection cut `o_proj` ways."""
    elements = sum(k * n for _, k, n in projections(llm.hidden, mixer, tp))
    return float(elements + share(output_width(mixer), o_proj) * llm.hidden + _absorbed_elements(mixer, tp))


def _absorbed_elements(mixer: Attention, tp: int) -> int:
    """Return the elements of MLA's kv_b on one of `tp` GPUs."""
    if not isinstance(mixer, Mla):
        return 0
    return share(mixer.heads, tp) * mixer.kv_rank * (mixer.nope_dim + mixer.v_dim)


def ffn_weight_bytes(llm: Llm, precision: Precision, split: Split) -> float:
    """Return the FFN weights of one GPU over all layers, scales included."""
    elements = float(sum(_ffn_elements(llm, layer.ffn, split) for layer in llm.layers))
    return elements * stored_width(llm, precision.ffn)


def stored_width(llm: Llm, dtype: str) -> float:
    """Return the bytes that one weight of `dtype` takes in memory, scales included: as the checkpoint has it."""
    bits = llm.bits if dtype == llm.weights else None
    return (bits or STORED_BITS.get(dtype, 8.0 * WIDTH[dtype])) / 8.0


def as_stored(llm: Llm, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the formats of `asked` by role, completed by what a quantised checkpoint says of weights."""
    completed = dict(asked)
    if llm.weights:
        completed.setdefault("ffn", llm.weights)
    if llm.projections and completed.get("ffn") == llm.weights:
        completed.setdefault("projections", llm.projections)
    return completed


def _ffn_elements(llm: Llm, ffn: Ffn, split: Split) -> float:
    match ffn:
        case Dense(inner=inner):
            return ffn.matrices * float(llm.hidden) * inner / split.gpus
        case Moe() as moe:
            experts, inner_local = local_experts(moe, split)
            shared = moe.shared * moe.shared_inner / (split.instances if split.owners else split.gpus)
            return moe.matrices * float(llm.hidden) * (experts * inner_local + shared)
        case _:
            assert_never(ffn)
