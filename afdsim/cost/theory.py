"""What decoding costs in theory: work per token, its price per accelerator, and the network's limit on sparsity.

The analysis of the Step-3 paper (arXiv 2507.19427, sections 2 to 4 and 6). It counts peak FLOPs and peak bandwidth,
leaves embedding and LM head out (under 5 %) and takes communication as hidden; the simulator does none of this.
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
    Mfa,
    Mla,
    Moe,
    Precision,
    Split,
    ffn_weight_bytes,
    kv_bytes_per_token,
    layer_kv_bytes,
    output_width,
    projections,
    share,
)
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
    kinds = [layer.attention for layer in llm.layers]
    return Work(
        kv_bytes=sum(layer_traffic(kind, context, kv_precision) for kind in kinds),
        attention_flops=sum(layer_attention_flops(kind, context) for kind in kinds),
        linear_flops=sum(layer_linear_flops(llm, kind) for kind in kinds),
        ffn_flops=sum(layer_ffn_flops(llm, layer.ffn) for layer in llm.layers),
    )


def layer_traffic(attention: Attention, context: int, precision: Precision) -> float:
    """Return the KV bytes that one token reads in one layer; a linear layer reads and writes its state."""
    if isinstance(attention, Linear):
        return 2.0 * attention.heads * attention.head_dim**2 * WIDTH[attention.state_dtype]
    return layer_kv_bytes(attention, precision) * _seen(attention, context)


def layer_attention_flops(attention: Attention, context: int) -> float:
    """Return the core's FLOPs of one token in one layer; MLA counts 576 per head for both products, as the paper."""
    match attention:
        case Linear(heads=heads, head_dim=d):
            return 10.0 * heads * d**2
        case Mla(heads=heads, kv_rank=rank, rope_dim=rope):
            return 4.0 * heads * (rank + rope) * context
        case Mfa(heads=heads, head_dim=d) | Gqa(heads=heads, head_dim=d):
            return 4.0 * heads * d * _seen(attention, context)
        case _:
            assert_never(attention)


def layer_linear_flops(llm: Llm, attention: Attention) -> float:
    """Return the projections' FLOPs of one token in one layer, MLA's absorbed kv_b included."""
    return 2.0 * _projection_elements(llm, attention)


def layer_ffn_flops(llm: Llm, ffn: Ffn) -> float:
    """Return the FFN's FLOPs of one token in one layer, router excluded."""
    match ffn:
        case Dense(inner=inner):
            return 6.0 * llm.hidden * inner
        case Moe() as moe:
            return 6.0 * llm.hidden * (moe.top_k * moe.inner + moe.shared * moe.shared_inner)
        case _:
            assert_never(ffn)


def intensity(attention: Attention, precision: Precision | None = None) -> float:
    """Return core FLOPs per KV byte: 128 for Step-3's MFA, 512 for DeepSeek-V3's MLA, 32 for Qwen3-235B's GQA."""
    return layer_attention_flops(attention, 1) / layer_traffic(attention, 1, precision or Precision())


def llm_intensity(llm: Llm, context: int, precision: Precision | None = None) -> float:
    """Return core FLOPs per KV byte over all layers of `llm` at `context` tokens."""
    token = work(llm, context, precision)
    return token.attention_flops / token.kv_bytes


def peak(gpu: Gpu) -> float:
    """Return the peak that the paper prices: FP8 where the GPU has it, else BF16."""
    return gpu.flops.get("fp8", gpu.flops["bf16"])


def roofline(gpu: Gpu) -> float:
    """Return FLOPs per byte at which `gpu` turns from memory- to compute-bound (Step-3 table 4)."""
    return peak(gpu) / gpu.memory_bandwidth


def usd_per_flop(gpu: Gpu) -> float:
    """Return the price of one FLOP at peak (Step-3 table 5)."""
    return _price(gpu) / 3600.0 / peak(gpu)


def usd_per_byte(gpu: Gpu) -> float:
    """Return the price of one HBM byte at peak (Step-3 table 5)."""
    return _price(gpu) / 3600.0 / gpu.memory_bandwidth


def attention_usd(llm: Llm, gpu: Gpu, context: int, precision: Precision | None = None) -> float:
    """Return USD per 1M tokens of attention: the dearer of core FLOPs and KV bytes, plus the projections."""
    token = work(llm, context, precision)
    core = max(token.attention_flops * usd_per_flop(gpu), token.kv_bytes * usd_per_byte(gpu))
    return (core + token.linear_flops * usd_per_flop(gpu)) * MILLION


def ffn_usd(llm: Llm, gpu: Gpu) -> float:
    """Return USD per 1M tokens of the FFN at its ideal batch."""
    return work(llm, 0).ffn_flops * usd_per_flop(gpu) * MILLION


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
    ffn = min(candidates, key=lambda gpu: ffn_usd(llm, gpu))
    usd = attention_usd(llm, attention, context, precision) + ffn_usd(llm, ffn)
    return Pair(attention=attention, ffn=ffn, usd=usd)


def server_network(gpu: Gpu) -> float:
    """Return bytes/s of a server with one port per GPU, as the paper assumes: 400 Gb/s from Hopper on, else 200.

    This is its section 5, not what is sold: real H20 servers have half (see `Gpu.nic`).
    """
    return 8 * (50e9 if gpu.architecture in ("hopper", "blackwell") else 25e9)


def dense_batch(gpu: Gpu) -> float:
    """Return the tokens at which a dense FP8 FFN turns compute-bound."""
    return peak(gpu) / (2.0 * gpu.memory_bandwidth)


def min_sparsity(
    gpu: Gpu, *, hidden: int = 7168, layers: int = 61, network: float | None = None, tpot: float = TPOT
) -> float:
    """Return the smallest share of active experts whose traffic hides behind the FFN (Step-3 table 7).

    An FFN server needs ``dense_batch / S`` tokens to be compute-bound and moves ``3 * hidden`` bytes for each (FP8 in,
    BF16 out) within a stage of a third of `tpot`.
    """
    wire = server_network(gpu) if network is None else network
    return 3.0 * hidden * dense_batch(gpu) * layers / (wire * tpot / STAGES)


def ideal_batch(llm: Llm, gpu: Gpu) -> float:
    """Return the tokens per micro-batch at which the FFN of `llm` turns compute-bound, shared experts counted."""
    return dense_batch(gpu) / sparsity(llm)


def sparsity(llm: Llm) -> float:
    """Return the active share of the experts in the sparsest layer of `llm`; 1 where it has none."""
    return min((_active_share(layer.ffn) for layer in llm.layers), default=1.0)


def largest_context(llm: Llm, gpu: Gpu, *, o_proj: int = 1, tpot: float = TPOT) -> float:
    """Return the context tokens (all sequences of a GPU) that attention can read in its stage, a third of `tpot`.

    Step-3 section 6: the GPU streams its projections (o_proj cut over `o_proj` GPUs) and its KV cache at full
    bandwidth. Negative where the projections alone do not fit; windows count as full.
    """
    return _kv_budget(llm, gpu, o_proj, tpot) / max(kv_bytes_per_token(llm, Precision()), 1.0)


def _kv_budget(llm: Llm, gpu: Gpu, o_proj: int, tpot: float) -> float:
    """Return the bytes of KV that one GPU can read in its stage beside the FP8 projections of all layers."""
    weights = sum(_projection_elements(llm, layer.attention, o_proj) for layer in llm.layers)
    return gpu.memory_bandwidth * tpot / STAGES - weights


def _projection_elements(llm: Llm, attention: Attention, o_proj: int = 1) -> float:
    elements = sum(k * n for _, k, n in projections(llm.hidden, attention))
    elements += share(output_width(attention), o_proj) * llm.hidden
    if isinstance(attention, Mla):
        elements += attention.heads * attention.kv_rank * (attention.nope_dim + attention.v_dim)
    return float(elements)


def largest_batch(llm: Llm, gpu: Gpu, context: int, *, o_proj: int = 1, tpot: float = TPOT) -> int:
    """Return the sequences of `context` tokens that attention on one GPU can take; 0 where the weights do not fit."""
    return max(0, math.floor(_kv_budget(llm, gpu, o_proj, tpot) / work(llm, context).kv_bytes))


def ffn_cards(llm: Llm, gpu: Gpu, *, utilisation: float = 0.5, tpot: float = TPOT) -> int:
    """Return the GPUs that stream the FFN weights of `llm` in one stage at `utilisation` of their bandwidth.

    Rounded up until the experts divide evenly over the GPUs, or the GPUs over the experts: 48 L20 or 144 L4 for
    Step-3 (its section 6).
    """
    each = gpu.memory_bandwidth * utilisation * tpot / STAGES
    cards = math.ceil(ffn_weight_bytes(llm, Precision(), Split()) / min(each, 0.9 * gpu.memory))
    experts = max((layer.ffn.experts for layer in llm.layers if isinstance(layer.ffn, Moe)), default=1)
    return next(count for count in itertools.count(cards) if experts % count == 0 or count % experts == 0)


def _active_share(ffn: Ffn) -> float:
    """Return active over all experts; shared ones are active and uncounted below, the paper's convention."""
    return 1.0 if isinstance(ffn, Dense) else min(1.0, (ffn.top_k + ffn.shared) / ffn.experts)


def _seen(attention: Attention, context: int) -> int:
    return context if attention.window is None else min(context, attention.window)


def _price(gpu: Gpu) -> float:
    if gpu.usd_per_hour is None:
        raise CatalogError(f"no price is known for {gpu.name}; state one in the scenario's cost block")
    return gpu.usd_per_hour
