"""What the two roles of an AFD deployment compute and send in a layer, with the variants that real systems have.

An attention rank works on its own rows, an FFN instance on the tokens of all attention instances together; `rows` and
`tokens` count query tokens. Who computes the gate and the shared expert, and who gets a token, the deployment says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from afdsim.catalog.llm import Array, Dense, Layer, Moe, combine_bytes, dispatch_bytes, without_shared
from afdsim.cluster.deployment import Afd
from afdsim.cost.operators import (
    Operator,
    asked_share,
    attention_operators,
    collective,
    dense_operators,
    ffn_operators,
    gather_operator,
    gemm,
    reduction_operator,
    scatter_operator,
    small,
)


def attention_stage(afd: Afd, layer: Layer, rows: Array) -> tuple[Operator, ...]:
    """Return the attention stage of a rank but its cores and the sum of the results before it."""
    pool, seen = afd.attention, layer
    if afd.gate == "ffn" and isinstance(layer.ffn, Moe):
        seen = replace(layer, ffn=Dense(inner=0))  # packed as it is
    return attention_operators(afd.llm, seen, rows, precision=afd.precision, tp=pool.tp, o_proj=pool.o_proj)


def shared_stage(afd: Afd, layer: Layer, rows: Array) -> tuple[Operator, ...]:
    """Return the shared expert of a rank's rows, where the attention side computes it; else nothing."""
    if afd.shared_expert == "ffn" or not isinstance(layer.ffn, Moe) or not layer.ffn.shared:
        return ()
    tp, moe = afd.attention.tp, layer.ffn
    width = moe.shared * moe.shared_inner / tp
    parts = dense_operators(afd.llm, rows, width, afd.precision.ffn, matrices=moe.matrices)
    named = tuple(replace(part, name=f"shared expert {part.name}", stage="attention") for part in parts)
    wire = 2.0 * (tp - 1) / tp * rows * combine_bytes(afd.llm)
    return (*named, collective("shared expert all-reduce", wire, gpus=tp)) if tp > 1 else named


def reduction(afd: Afd, layer: Layer, rows: Array) -> Operator:
    """Return the sum of the results of a layer: of those FFN instances that had a row, and of its own shared expert."""
    return reduction_operator(afd.llm, rows, afd.ffn.instances * reach(afd, layer) + bool(shared_stage(afd, layer, 1)))


def reach(afd: Afd, layer: Layer) -> float:
    """Return the share of tokens that one FFN instance gets: all but where dispatch is sparse."""
    if afd.dispatch == "broadcast" or not isinstance(layer.ffn, Moe):
        return 1.0
    return asked_share(layer.ffn, layer.ffn.experts / afd.ffn.instances)


def message_bytes(afd: Afd, layer: Layer) -> tuple[float, float]:
    """Return the bytes per token to each FFN instance and back, on average over tokens."""
    seen = replace(layer, ffn=Dense(inner=0)) if afd.gate == "ffn" else layer
    part = reach(afd, layer)
    return dispatch_bytes(afd.llm, seen, afd.precision.ffn) * part, combine_bytes(afd.llm) * part


def gather_stage(afd: Afd, layer: Layer, tokens: Array, load: Array = 1.0) -> tuple[Operator, ...]:
    """Return what brings rows from the GPUs where they arrived to those that work on them, on the busiest GPU.

    Where experts lie on different GPUs a row goes to those that hold one of its experts, else to all.
    """
    top_k = layer.ffn.top_k if isinstance(layer.ffn, Moe) else 0
    gpus, part = afd.ffn.gpus_per_instance, crossing(afd, layer, load)
    apart = _apart(afd, layer)
    return (gather_operator(afd.llm, tokens * part, gpus=gpus, top_k=top_k, precision=afd.precision, apart=apart),)


def scatter_stage(afd: Afd, layer: Layer, tokens: Array, load: Array = 1.0) -> tuple[Operator, ...]:
    """Return what brings partial sums back to the GPUs whose NICs return them, on the busiest GPU.

    NVLink adds up what every GPU has of every row. Where experts lie on different GPUs, the owner of a row adds up the
    results that it gets.
    """
    gpus, part = afd.ffn.gpus_per_instance, crossing(afd, layer, load)
    if not _apart(afd, layer):
        return (scatter_operator(afd.llm, tokens * part, gpus=gpus),)
    shared = afd.shared_expert == "ffn" and isinstance(layer.ffn, Moe) and layer.ffn.shared > 0
    results = crossing(afd, layer) * gpus + shared - 1.0  # no residual is added, which the operator counts
    summed = reduction_operator(afd.llm, tokens / afd.split.owners, results)
    added = replace(summed, name="sum of results", stage="scatter")
    return scatter_operator(afd.llm, tokens * part, gpus=gpus, apart=True), added


def crossing(afd: Afd, layer: Layer, load: Array = 1.0) -> Array:
    """Return the share of all tokens that a GPU of an FFN instance works on; `load`: its rows over the mean."""
    held = _held(afd, layer)
    if held is None:
        return 1.0
    assert isinstance(layer.ffn, Moe)
    share: Array = asked_share(layer.ffn, held)
    return np.minimum(share * load, 1.0)


def _held(afd: Afd, layer: Layer) -> float | None:
    """Return the experts of a GPU's group, or of its instance where dispatch is sparse; None where it has all rows."""
    if not isinstance(layer.ffn, Moe):
        return None
    if _apart(afd, layer):
        experts = layer.ffn.experts / afd.ffn.ep
        return experts if afd.ffn.across == "width" else experts / afd.ffn.instances
    return None if afd.dispatch == "broadcast" else layer.ffn.experts / afd.ffn.instances


def _apart(afd: Afd, layer: Layer) -> bool:
    """Return whether the GPUs of an instance hold different experts of a layer."""
    return afd.ffn.ep > 1 and isinstance(layer.ffn, Moe)


def ffn_stage(afd: Afd, layer: Layer, tokens: Array, load: Array = 1.0) -> tuple[Operator, ...]:
    """Return the FFN of one GPU; `load` multiplies the routed rows (of the busiest GPU, its share over the mean)."""
    seen = layer if afd.shared_expert == "ffn" else replace(layer, ffn=without_shared(layer.ffn))
    experts = ffn_operators(afd.llm, seen, tokens, precision=afd.precision, split=afd.split, load=load)
    return (*_gate(afd, layer, tokens), *experts)


def _gate(afd: Afd, layer: Layer, tokens: Array) -> tuple[Operator, ...]:
    """Return router and top-k where FFN instances compute them: each GPU for the rows that it has."""
    if afd.gate == "attention" or not isinstance(layer.ffn, Moe):
        return ()
    rows = tokens / afd.split.owners if afd.split.owners else tokens
    return gemm("router", rows, (afd.llm.hidden, layer.ffn.experts), "bf16", stage="ffn"), small(
        "top-k", 1, stage="ffn"
    )
