"""What one GPU of each role does in a pass, one micro-batch through all layers: what shares of peak are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Array, Dense, Layer, Moe
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cost import stages
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    core_operators,
    dense_operators,
    expert_operator,
)

Work = list[tuple[float, Operator]]
"""(times per pass, operator) of one GPU."""


def flop_seconds(operator: Operator, gpu: Gpu) -> Array:
    """Useful FLOPs at peak; core attention computes in BF16 whatever the dtype of its cache."""
    dtype = "bf16" if operator.kernel.startswith("core") else operator.dtype
    return operator.flops / gpu.peak(dtype) if np.any(operator.flops) else 0.0


def byte_seconds(operator: Operator, gpu: Gpu) -> Array:
    """HBM traffic at full bandwidth; a collective moves bytes over the wire instead."""
    return 0.0 if operator.gpus > 1 else operator.bytes / gpu.memory_bandwidth


def attention(
    deployment: Afd | Colocated, queries: int, batch: float, context: float, prompts: tuple[float, float] = (0.0, 0.0)
) -> Work:
    """Attention and boundary of a rank with `batch` sequences of `context` tokens, `queries` query tokens each.

    `prompts`: tokens of prompts that it computes beside these, without their core attention, and how many end.
    """
    llm, precision, pool, rows = deployment.llm, deployment.precision, deployment.attention, batch * queries
    work: Work = []
    for layer, count in Counter(llm.layers).items():
        cores = core_operators(layer, rows, context, precision=precision, tp=pool.tp, query_tokens=queries)
        work += [(count, operator) for operator in (*_attention(deployment, layer, rows + prompts[0]), *cores)]
    head = boundary_operators(
        llm, rows + prompts[1], precision=precision, tp=pool.tp, lm_head=pool.lm_head, embedding=pool.embedding
    )
    return [*work, *((1.0, operator) for operator in head)]


def _attention(deployment: Afd | Colocated, layer: Layer, rows: float) -> Iterator[Operator]:
    """The attention stage of a layer but its cores; apart, with the sum of the results that come back."""
    pool = deployment.attention
    if isinstance(deployment, Afd):
        yield from stages.attention_stage(deployment, layer, rows)
        yield from stages.shared_stage(deployment, layer, rows)
        yield stages.reduction(deployment, layer, rows)
    else:
        yield from attention_operators(
            deployment.llm, layer, rows, precision=deployment.precision, tp=pool.tp, o_proj=pool.o_proj
        )


def ffn(afd: Afd, queries: int, batch: float, groups: int) -> Work:
    """The FFN of a pass of every attention group."""
    total = batch * queries * (afd.attention.ranks // groups)
    return [
        (count * groups, operator)
        for layer, count in Counter(afd.llm.layers).items()
        for operator in stages.ffn_stage(afd, layer, total)
    ]


def experts(deployment: Colocated, queries: int, batch: float) -> Work:
    """The FFN of a colocated rank."""
    layers = Counter(deployment.llm.layers).items()
    return [(count, each) for layer, count in layers for each in _experts(deployment, layer, batch * queries)]


def _experts(deployment: Colocated, layer: Layer, rows: float) -> Iterator[Operator]:
    llm, precision, tp = deployment.llm, deployment.precision, deployment.attention.tp
    match layer.ffn:
        case Dense(inner=inner) as dense:
            yield from dense_operators(llm, rows, inner / tp, precision.ffn, matrices=dense.matrices)
        case Moe() as moe:
            # a shared expert of its own GPUs is counted as if all GPUs shared it
            width = moe.shared * moe.shared_inner
            yield from dense_operators(llm, rows / tp, width, precision.ffn, matrices=moe.matrices)
            total, routed = rows * deployment.attention.ranks, deployment.routed(moe)
            yield expert_operator(llm, routed, total, precision=precision, split=deployment.split)
