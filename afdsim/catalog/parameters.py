"""What a language model is, in numbers: parameters in all and per token, and its layers by kind.

Matrices, norms, convolutions and state decays are counted; biases and other vectors (below 0.1 %) are not.
"""

from __future__ import annotations

from collections import Counter
from typing import assert_never

from afdsim.catalog.llm import (
    Attention,
    Dense,
    Ffn,
    Gqa,
    Layer,
    Linear,
    Llm,
    Mamba,
    Mfa,
    Mla,
    Moe,
    projection_elements,
)


def total(llm: Llm) -> int:
    """Return the parameters of `llm`, embedding and LM head included, once where they are tied."""
    layers = sum(count * _layer(llm, layer) for layer, count in Counter(llm.layers).items())
    return layers + llm.hidden + llm.vocab * llm.hidden * (1 if llm.tied else 2)


def active(llm: Llm) -> int:
    """Return the parameters that one token meets: of the routed experts its top-k."""
    return total(llm) - sum(_idle(llm, layer.ffn) for layer in llm.layers)


def _idle(llm: Llm, ffn: Ffn) -> int:
    """Return the parameters of the experts that a token does not choose."""
    return (ffn.experts - ffn.top_k) * ffn.matrices * llm.hidden * ffn.inner if isinstance(ffn, Moe) else 0


def _layer(llm: Llm, layer: Layer) -> int:
    mixers = sum(int(projection_elements(llm, mixer)) + _vectors(mixer) for mixer in layer.mixers)
    return mixers + _ffn(llm, layer.ffn) + (1 + len(layer.mixers)) * llm.hidden


def _vectors(mixer: Attention) -> int:
    """Return the elements of a recurrent layer's convolution and state decays."""
    match mixer:
        case Linear(conv=taps) as a:
            return taps * (2 * a.keys() + a.heads * a.head_dim) + a.heads * a.scalars
        case Mamba(inner=inner) as a:
            return inner * (a.conv + a.state_dim)
        case Mfa() | Mla() | Gqa():
            return 0
        case _:
            assert_never(mixer)


def _ffn(llm: Llm, ffn: Ffn) -> int:
    match ffn:
        case Dense(inner=inner):
            return ffn.matrices * llm.hidden * inner
        case Moe() as moe:
            experts = moe.experts * moe.inner + moe.shared * moe.shared_inner
            return llm.hidden * (moe.matrices * experts + moe.experts)
        case _:
            assert_never(ffn)


def kinds(llm: Llm) -> list[tuple[int, str, str]]:
    """Return (layers, what mixes tokens, what follows) of every kind of layer, in order of appearance.

    >>> from afdsim.catalog import entries
    >>> kinds(entries.llm("qwen3-235b"))
    [(94, 'GQA 64 heads, 4 KV x 128', '128 experts of 1,536, top 8')]
    """
    counted = Counter((" + ".join(map(mixing, layer.mixers)), following(layer.ffn)) for layer in llm.layers)
    return [(count, mixed, then) for (mixed, then), count in counted.items()]


def mixing(mixer: Attention) -> str:
    """Return what a mixer is, in a few words."""
    match mixer:
        case Mfa(heads=heads, head_dim=d):
            return f"MFA {heads} heads x {d}"
        case Mla(heads=heads, kv_rank=rank, rope_dim=rope, index=index):
            sparse = f", of which an indexer chooses {index.top_k:,} tokens" if index else ""
            return f"MLA {heads} heads, latent {rank} + {rope}{sparse}"
        case Gqa(heads=heads, kv_heads=kv, head_dim=d, window=window):
            seen = f", window {window:,}" if window else ""
            grouped = f"MQA {heads} heads, 1 KV" if kv == 1 else f"GQA {heads} heads, {kv} KV"
            return f"{f'MHA {heads} heads' if kv == heads else grouped} x {d}{seen}"
        case Linear(heads=heads, head_dim=d) as a:
            return f"recurrent, {heads} states of {a.key_dim or d} x {d}"
        case Mamba(inner=inner, state_dim=state):
            return f"Mamba, {inner:,} channels x {state}"
        case _:
            assert_never(mixer)


def following(ffn: Ffn) -> str:
    """Return what an FFN is, in a few words."""
    match ffn:
        case Dense(inner=inner):
            return f"dense FFN of {inner:,}"
        case Moe() as moe:
            shared = f", {moe.shared} shared of {moe.shared_inner:,}" if moe.shared else ""
            return f"{moe.experts} experts of {moe.inner:,}, top {moe.top_k}{shared}"
        case _:
            assert_never(ffn)
