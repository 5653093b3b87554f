"""What a language model is and where it fits, as lines of at most 96 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afdsim.catalog import entries as catalog
from afdsim.catalog import parameters
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import (
    Linear,
    Llm,
    Mamba,
    Moe,
    Precision,
    Split,
    attention_weight_bytes,
    ffn_weight_bytes,
    kv_bytes,
    kv_bytes_per_token,
    state_bytes,
)
from afdsim.cluster import degrees
from afdsim.cluster.colocated import Colocated, ExpertParallel, TensorParallel
from afdsim.cluster.deployment import AttentionPool
from afdsim.results.header import hanging
from afdsim.scenario.formats import Format
from afdsim.units import show_count, show_many

GPUS = ("L20", "A100", "H20", "H100", "H200", "B200", "MI300X")
"""Common ones, among which somebody who reads a config chooses."""
CONTEXT = 8192
LONG = 32_768
INSTANCE = 8
"""GPUs up to which every number is tried; beyond it whole servers are."""
SERVERS = 64
"""More servers than that are not tried."""


def portrait(llm: Llm, precision: Precision, found: Sequence[Format]) -> Iterator[str]:
    """Yield what `llm` is, layers by kind, its size, its cache, `found` formats, and which GPUs hold it."""
    limit = f", made for {show_count(llm.positions)} tokens" if llm.positions else ""
    what = f"{llm.name}: {len(llm.layers)} layers, hidden {llm.hidden:,}, vocabulary {llm.vocab:,}"
    yield from hanging("Model     ", f"{what}{' (tied)' if llm.tied else ''}{limit}")
    for number, (count, mixed, then) in enumerate(parameters.kinds(llm)):
        yield from hanging("          " if number else "Layers    ", f"{count} x {mixed}; {then}")
    yield from hanging("Size      ", _size(llm))
    yield from hanging("KV cache  ", _cache(llm, precision))
    yield from hanging("Precision ", ", ".join(map(str, found)))
    apart = attention_weight_bytes(llm, precision) / 1e9, ffn_weight_bytes(llm, precision, Split()) / 1e9
    yield f"Weights   attention {apart[0]:,.1f} GB (on every attention GPU of AFD), FFN {apart[1]:,.1f} GB"
    yield from _fits(llm, precision)


def _size(llm: Llm) -> str:
    total, active = parameters.total(llm), parameters.active(llm)
    sparse = f", {_billions(active)} active per token" if active < total else ""
    stored = f"; the checkpoint is {llm.weights}" if llm.weights else ""
    return f"{_billions(total)} parameters{sparse}: {total * 2 / 1e9:,.1f} GB in BF16{stored}"


def _billions(count: int) -> str:
    return f"{count / 1e9:,.1f} B" if count >= 1e10 else f"{count / 1e9:,.2f} B"


def _cache(llm: Llm, precision: Precision) -> str:
    mixers = [mixer for layer in llm.layers for mixer in layer.mixers]
    states = sum(state_bytes(mixer) for mixer in mixers if isinstance(mixer, Linear | Mamba))
    state = f", and {states / 1e6:,.1f} MB of states" if states else ""
    each = f"{kv_bytes_per_token(llm, precision) / 1e3:,.1f} kB per token in {precision.cache.upper()}{state}"
    return f"{each}: {float(kv_bytes(llm, float(LONG), precision)) / 1e9:,.3f} GB for {LONG:,} tokens"


# where it fits ------------------------------------------------------------------------------------------------------


def _fits(llm: Llm, precision: Precision) -> Iterator[str]:
    context = min(CONTEXT, llm.positions or CONTEXT)
    ways = "TP or DP+EP" if _has_experts(llm) else "TP"
    yield f"Fits      the fewest GPUs by {ways}, and sequences of {context:,} tokens in their KV cache:"
    for name in GPUS:
        yield f"          {name:<8}{_smallest(llm, precision, catalog.gpu(name), context)}"


def _has_experts(llm: Llm) -> bool:
    return any(isinstance(layer.ffn, Moe) for layer in llm.layers)


def _smallest(llm: Llm, precision: Precision, gpu: Gpu, context: int) -> str:
    """Return the smallest engine that holds a sequence, or what was tried."""
    for engine in _engines(llm, precision, gpu):
        sequences = engine.kv_cache.sequences(context) * engine.attention.ranks
        if sequences:
            return f"{engine.gpus:>4}  ({engine}): {show_many(sequences, 'sequence')}"
    domain = f"up to {min(gpu.scale_up, INSTANCE)} GPUs" if gpu.scale_up > 1 else "of 1 GPU (no NVLink)"
    return f"none: tried TP {domain}{f', DP+EP up to {SERVERS} servers' if _has_experts(llm) else ''}"


def _engines(llm: Llm, precision: Precision, gpu: Gpu) -> Iterator[Colocated]:
    """Yield engines, small ones first: of up to an instance of GPUs, and then of whole servers."""
    experts = _has_experts(llm)
    for gpus in range(1, INSTANCE + 1):
        if gpus <= gpu.scale_up:
            yield from _tensor_parallel(llm, precision, gpu, gpus)
        if experts and gpus > 1 and not degrees.experts_uneven(llm, gpus):
            yield _engine(llm, precision, _pool(gpu, dp=gpus), ExpertParallel())
    each = gpu.gpus_per_server
    for servers in range(INSTANCE // each + 1, SERVERS + 1):
        if experts and not degrees.experts_uneven(llm, servers * each):
            yield _engine(llm, precision, _pool(gpu, instances=servers, dp=each), ExpertParallel())


def _tensor_parallel(llm: Llm, precision: Precision, gpu: Gpu, tp: int) -> Iterator[Colocated]:
    """Yield an engine inside one NVLink domain, if the model allows; experts are cut by width, or dealt out."""
    rules = (degrees.attention_uneven, degrees.dense_uneven, degrees.shared_uneven)
    if any(uneven(llm, tp) for uneven in rules):
        return
    if not degrees.width_uneven(llm, tp):
        yield _engine(llm, precision, _pool(gpu, tp=tp), TensorParallel())
    elif not degrees.experts_uneven(llm, tp):
        yield _engine(llm, precision, _pool(gpu, tp=tp), TensorParallel(ep=tp))


def _pool(gpu: Gpu, *, instances: int = 1, dp: int = 1, tp: int = 1) -> AttentionPool:
    return AttentionPool(gpu=gpu, instances=instances, dp=dp, tp=tp)


def _engine(llm: Llm, precision: Precision, pool: AttentionPool, experts: ExpertParallel | TensorParallel) -> Colocated:
    return Colocated(llm=llm, precision=precision, attention=pool, experts=experts, num_microbatches=1, max_num_seqs=1)
