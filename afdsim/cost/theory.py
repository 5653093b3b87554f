"""What decoding costs in theory: work per token, its price per accelerator, and the network's limit on sparsity.

The analysis of the Step-3 paper (arXiv 2507.19427, sections 2 to 4 and 6). It counts peak FLOPs and peak bandwidth,
leaves embedding and LM head out (under 5 %) and takes communication as hidden; the simulator does none of this.
Where a precision is asked for, every formula follows it; the default, FP8 everywhere, is the paper's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import (
    WIDTH,
    Attention,
    Dense,
    Ffn,
    Gqa,
    Linear,
    Llm,
    Mamba,
    Mfa,
    Mla,
    Moe,
    Precision,
    Split,
    attention_weight_bytes,
    cores,
    ffn_weight_bytes,
    kv_bytes,
    kv_bytes_per_token,
    projection_elements,
    read_bytes,
    seen,
    state_bytes,
)
from afdsim.cluster.memory import usable
from afdsim.errors import CatalogError

TPOT = 0.050
"""The paper's target: 20 tokens/s per user."""

STAGES = 3
"""Attention, communication and FFN take turns on three micro-batches."""

MILLION = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Bytes and FLOPs of one decoded token over all layers (Step-3 tables 2 and 3)."""

    kv_bytes: float
    """KV cache read, and linear-attention state read and written."""
    attention_flops: float
    linear_flops: float
    ffn_flops: float


def work(llm: Llm, context: int, precision: Precision | None = None) -> Work:
    """Return the work of one token of `llm` at `context` tokens."""
    kv_precision = precision or Precision()
    kinds = [mixer for layer in llm.layers for mixer in layer.mixers]
    return Work(
        kv_bytes=sum(layer_traffic(kind, context, kv_precision) for kind in kinds),
        attention_flops=sum(layer_attention_flops(kind, context) for kind in kinds),
        linear_flops=sum(layer_linear_flops(llm, kind) for kind in kinds),
        ffn_flops=sum(layer_ffn_flops(llm, layer.ffn) for layer in llm.layers),
    )


def layer_traffic(attention: Attention, context: int, precision: Precision) -> float:
    """Return the KV bytes that one token reads in one mixer; a recurrent one reads and writes its state."""
    if isinstance(attention, Linear | Mamba):
        return 2.0 * state_bytes(attention)
    return sum(read_bytes(core, precision) * seen(core, context) for core in cores(attention))


def layer_attention_flops(attention: Attention, context: int) -> float:
    """Return the core's FLOPs of one token in one layer; MLA counts 576 per head for both products, as the paper."""
    match attention:
        case Linear() | Mamba():
            return 10.0 * attention.state()
        case Mla(heads=heads, kv_rank=rank, rope_dim=rope, index=index):
            scoring = 2.0 * index.heads * index.head_dim * context if index else 0.0
            return 4.0 * heads * (rank + rope) * seen(attention, context) + scoring
        case Mfa(heads=heads, head_dim=d):
            return 4.0 * heads * d * context
        case Gqa(heads=heads, head_dim=d) as a:
            return 2.0 * heads * (d + a.values) * seen(attention, context)
        case _:
            assert_never(attention)


def layer_linear_flops(llm: Llm, attention: Attention) -> float:
    """Return the projections' FLOPs of one token in one layer, MLA's absorbed kv_b included."""
    return 2.0 * projection_elements(llm, attention)


def layer_ffn_flops(llm: Llm, ffn: Ffn) -> float:
    """Return the FFN's FLOPs of one token in one layer, router excluded."""
    match ffn:
        case Dense(inner=inner):
            return 2.0 * ffn.matrices * llm.hidden * inner
        case Moe() as moe:
            return 2.0 * moe.matrices * llm.hidden * (moe.top_k * moe.inner + moe.shared * moe.shared_inner)
        case _:
            assert_never(ffn)


def intensity(attention: Attention, precision: Precision | None = None) -> float:
    """Return core FLOPs per KV byte: 128 for Step-3's MFA, 512 for DeepSeek-V3's MLA, 32 for Qwen3-235B's GQA."""
    return layer_attention_flops(attention, 1) / layer_traffic(attention, 1, precision or Precision())


def llm_intensity(llm: Llm, context: int, precision: Precision | None = None) -> float:
    """Return core FLOPs per KV byte over all layers of `llm` at `context` tokens."""
    token = work(llm, context, precision)
    return token.attention_flops / token.kv_bytes


def peak(gpu: Gpu, dtype: str = "fp8") -> float:
    """Return the peak that the paper prices: of `dtype` where the GPU has it, else of a wider one.

    INT8 counts only where it is asked for: the paper prices A800 and 910B in BF16.
    """
    return gpu.flops[gpu.native(dtype, integers=False)]


def roofline(gpu: Gpu, dtype: str = "fp8") -> float:
    """Return FLOPs per byte at which `gpu` turns from memory- to compute-bound (Step-3 table 4)."""
    return peak(gpu, dtype) / gpu.memory_bandwidth


def usd_per_flop(gpu: Gpu, dtype: str = "fp8") -> float:
    """Return the price of one FLOP at peak (Step-3 table 5)."""
    return _price(gpu) / 3600.0 / peak(gpu, dtype)


def usd_per_byte(gpu: Gpu) -> float:
    """Return the price of one HBM byte at peak (Step-3 table 5)."""
    return _price(gpu) / 3600.0 / gpu.memory_bandwidth


def attention_usd(llm: Llm, gpu: Gpu, context: int, precision: Precision | None = None) -> float:
    """Return USD per 1M tokens of attention: the dearer of core FLOPs and KV bytes, plus the projections."""
    return attention_seconds(llm, gpu, context, precision) * _price(gpu) / 3600.0 * MILLION


def ffn_usd(llm: Llm, gpu: Gpu, precision: Precision | None = None) -> float:
    """Return USD per 1M tokens of the FFN at its ideal batch."""
    return ffn_seconds(llm, gpu, precision) * _price(gpu) / 3600.0 * MILLION


def attention_seconds(llm: Llm, gpu: Gpu, context: int, precision: Precision | None = None) -> float:
    """Return the seconds of one `gpu` at peak for attention of one token, its share of reading weights left out."""
    asked = precision or Precision()
    token = work(llm, context, asked)
    core = max(token.attention_flops / peak(gpu, asked.cache), token.kv_bytes / gpu.memory_bandwidth)
    return core + token.linear_flops / peak(gpu, asked.projections)


def ffn_seconds(llm: Llm, gpu: Gpu, precision: Precision | None = None) -> float:
    """Return the seconds of one `gpu` at peak for the FFN of one token."""
    return work(llm, 0).ffn_flops / peak(gpu, (precision or Precision()).ffn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The accelerators of an AFD deployment, and what a million tokens cost on them."""

    attention: Gpu
    ffn: Gpu
    usd: float


def best_pair(llm: Llm, gpus: Iterable[Gpu], context: int, precision: Precision | None = None) -> Pair:
    """Return the cheapest accelerator for each part."""
    candidates = tuple(gpus)
    attention = min(candidates, key=lambda gpu: attention_usd(llm, gpu, context, precision))
    ffn = min(candidates, key=lambda gpu: ffn_usd(llm, gpu, precision))
    usd = attention_usd(llm, attention, context, precision) + ffn_usd(llm, ffn, precision)
    return Pair(attention=attention, ffn=ffn, usd=usd)


def server_network(gpu: Gpu) -> float:
    """Return bytes/s of a server with one port per GPU, as the paper assumes: 400 Gb/s from Hopper on, else 200.

    This is its section 5, not what is sold: real H20 servers have half (see `Gpu.nic`).
    """
    return 8 * (50e9 if gpu.architecture in ("hopper", "blackwell") else 25e9)


def dense_batch(gpu: Gpu, dtype: str = "fp8") -> float:
    """Return the tokens at which a dense FFN of `dtype` turns compute-bound."""
    return peak(gpu, dtype) * WIDTH[dtype] / (2.0 * gpu.memory_bandwidth)


def min_sparsity(
    gpu: Gpu,
    *,
    hidden: int = 7168,
    layers: int = 61,
    network: float | None = None,
    tpot: float = TPOT,
    dtype: str = "fp8",
) -> float:
    """Return the smallest share of active experts whose traffic hides behind the FFN (Step-3 table 7).

    An FFN server needs ``dense_batch / S`` tokens to be compute-bound and moves ``3 * hidden`` bytes for each (FP8 in,
    BF16 out; 4 where the FFN's `dtype` is BF16) within a stage of a third of `tpot`.
    """
    wire = server_network(gpu) if network is None else network
    moved = (max(1.0, WIDTH[dtype]) + 2.0) * hidden
    return moved * dense_batch(gpu, dtype) * layers / (wire * tpot / STAGES)


def ideal_batch(llm: Llm, gpu: Gpu, dtype: str = "fp8") -> float:
    """Return the tokens per micro-batch at which the FFN of `llm` turns compute-bound, shared experts counted."""
    return dense_batch(gpu, dtype) / sparsity(llm)


def sparsity(llm: Llm) -> float:
    """Return the active share of the experts in the sparsest layer of `llm`; 1 where it has none."""
    return min((_active_share(layer.ffn) for layer in llm.layers), default=1.0)


def largest_context(
    llm: Llm, gpu: Gpu, *, o_proj: int = 1, tpot: float = TPOT, precision: Precision | None = None
) -> float:
    """Return the context tokens (all sequences of a GPU) that attention can read in its stage, a third of `tpot`.

    Step-3 section 6: the GPU streams its projections (o_proj cut over `o_proj` GPUs) and its KV cache at full
    bandwidth. Negative where the projections alone do not fit; windows count as full.
    """
    asked = precision or Precision()
    return _readable(llm, gpu, o_proj, tpot, asked) / max(kv_bytes_per_token(llm, asked), 1.0)


def _readable(llm: Llm, gpu: Gpu, o_proj: int, tpot: float, precision: Precision) -> float:
    """Return the bytes of KV that one GPU can read in its stage beside the projections of all layers."""
    weights = sum(projection_elements(llm, mixer, o_proj=o_proj) for layer in llm.layers for mixer in layer.mixers)
    return gpu.memory_bandwidth * tpot / STAGES - weights * WIDTH[precision.projections]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences of one micro-batch that attention on one GPU can take, by each limit alone; 0 is too weak."""

    bandwidth: int
    """The KV cache read within the stage, beside the projections (Step-3 section 6)."""
    compute: int
    """The FLOPs done within the stage."""
    memory: int
    """The KV cache held in memory, a third of it for each of three micro-batches."""

    @property
    def limit(self) -> str:
        """Which limit binds."""
        return min(("bandwidth", "compute", "memory"), key=lambda name: int(getattr(self, name)))

    @property
    def largest(self) -> int:
        """Sequences that meet every limit."""
        return min(self.bandwidth, self.compute, self.memory)


def largest_batch(
    llm: Llm,
    gpu: Gpu,
    context: int,
    *,
    o_proj: int = 1,
    tpot: float = TPOT,
    precision: Precision | None = None,
) -> Batch:
    """Return how many sequences of `context` tokens each micro-batch may have on one attention GPU."""
    asked = precision or Precision()
    token, stage = work(llm, context, asked), tpot / STAGES
    computing = token.attention_flops / peak(gpu, asked.cache) + token.linear_flops / peak(gpu, asked.projections)
    held = usable(llm, gpu, experts=False) - attention_weight_bytes(llm, asked, o_proj=f"tp{o_proj}")
    return Batch(
        bandwidth=max(0, math.floor(_readable(llm, gpu, o_proj, tpot, asked) / token.kv_bytes)),
        compute=math.floor(stage / computing),
        memory=max(0, math.floor(held / STAGES / float(kv_bytes(llm, context, asked)))),
    )


def ffn_cards(
    llm: Llm, gpu: Gpu, *, utilisation: float = 0.5, tpot: float = TPOT, precision: Precision | None = None
) -> int:
    """Return the GPUs that stream the FFN weights of `llm` in one stage at `utilisation` of their bandwidth.

    Rounded up until the experts divide evenly over the GPUs, or the GPUs over the experts: 48 L20 or 144 L4 for
    Step-3 (its section 6).
    """
    each = gpu.memory_bandwidth * utilisation * tpot / STAGES
    held = usable(llm, gpu, experts=True)
    cards = math.ceil(ffn_weight_bytes(llm, precision or Precision(), Split()) / min(each, held))
    experts = max((layer.ffn.experts for layer in llm.layers if isinstance(layer.ffn, Moe)), default=1)
    return next(count for count in itertools.count(cards) if experts % count == 0 or count % experts == 0)


def _active_share(ffn: Ffn) -> float:
    """Return active over all experts; shared ones are active and uncounted below, the paper's convention."""
    return 1.0 if isinstance(ffn, Dense) else min(1.0, (ffn.top_k + ffn.shared) / ffn.experts)


def _price(gpu: Gpu) -> float:
    if gpu.usd_per_hour is None:
        raise CatalogError(f"no price is known for {gpu.name}; state one in the scenario's cost block")
    return gpu.usd_per_hour
