"""Record of a colocated run -> columns: GPUs, links, and what the pool achieved; the twin of parts of `outcome`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from afdsim.catalog.llm import Dense, Layer, Moe
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    core_operator,
    dense_operators,
    expert_operator,
)
from afdsim.engine.causes import BUSY, CAUSES, IMBALANCE
from afdsim.engine.colocated_program import ColocatedProgram
from afdsim.engine.program import Array
from afdsim.engine.record import Record

Columns = dict[str, Array]
Work = list[tuple[float, Operator]]
"""(times per pass, operator) of one GPU; a pass is one micro-batch through all layers."""


def gpus(record: Record, program: ColocatedProgram, means: tuple[float, float]) -> Columns:
    """One row per GPU: seconds of the window by cause, adding up to it; `means` are batch and context."""
    pool, rows = program.deployment.attention, []
    parts = _parts(program, *means)
    for unit in range(program.units):
        rank_stages, experts, even = parts[unit]
        for rank in range(program.ranks):
            row = record.causes[unit].copy()
            idle = row[BUSY] * (rank_stages * (1.0 - record.own[unit, rank]) + experts * (1.0 - even))
            row[BUSY] -= idle
            row[IMBALANCE] += idle
            rows += [row] * pool.tp
    table = np.array(rows)
    return {
        "gpu": np.arange(len(table)),
        "pool": np.repeat(["colocated"], len(table)),
        "instance": np.repeat(np.arange(pool.instances), pool.gpus_per_instance),
        "rank": np.tile(np.arange(pool.gpus_per_instance), pool.instances),
        **{cause: table[:, index] for index, cause in enumerate(CAUSES)},
    }


def _parts(program: ColocatedProgram, batch: float, context: float) -> list[tuple[float, float, float]]:
    """By unit: shares of busy time in stages of its ranks and in experts, and an even load over its slowest GPU's."""
    b = max(round(batch), 1)
    contexts = [[round(b * (context if window is None else min(context, window)))] for window in program.windows]
    kinds, _ = program.attention_seconds([b], contexts)
    ranks = sum(seconds * count for seconds, count in zip(kinds, program.layers_of_kind, strict=True))
    by_load = program.of_tokens(b * program.deployment.attention.ranks).experts
    places = [layer for layer, count in enumerate(program.stages) if count > 3]
    if not places:
        return [(1.0, 0.0, 1.0)] * program.units
    slowest = by_load[program.load_row[:, places]]
    even = slowest.mean(axis=0).sum()
    whole = ranks + slowest.sum(axis=1) + program.head[b]
    return [(ranks / w, own / w, min(even / own, 1.0)) for own, w in zip(slowest.sum(axis=1), whole, strict=True)]


def links(record: Record, program: ColocatedProgram, rank_tokens: Array) -> Columns:
    """One row per GPU and direction: messages and bytes over the completed steps; everyone gets an even share."""
    pool = program.deployment.attention
    exchanges = sum(count == 5 for count in program.stages) if program.exchanges else 0
    messages = 2 * record.steps * program.micro_batches * exchanges
    mean = rank_tokens.mean()
    rows = []
    for gpu in range(pool.gpus if exchanges else 0):
        own = rank_tokens[gpu // pool.tp]
        out = exchanges / pool.tp * (own * program.dispatch_bytes + mean * program.combine_bytes)
        into = exchanges / pool.tp * (mean * program.dispatch_bytes + own * program.combine_bytes)
        place = divmod(gpu, pool.gpus_per_instance)
        rows += [(*place, "egress", messages, out), (*place, "ingress", messages, into)]
    instance, rail, direction, count, nbytes = map(list, zip(*rows, strict=True)) if rows else ([],) * 5
    return {
        "port": np.array([f"colocated[{i}].{r} {d}" for i, r, d in zip(instance, rail, direction, strict=True)], str),
        "pool": np.array(["colocated"] * len(rows), str),
        "instance": np.array(instance, int),
        "rail": np.array(rail, int),
        "direction": np.array(direction, str),
        "messages": np.array(count, int),
        "bytes": np.array(nbytes, float),
    }


def work(program: ColocatedProgram, batch: float, context: float) -> Work:
    """What one GPU does for `batch` sequences of `context` tokens in a rank's micro-batch."""
    deployment, tp = program.deployment, program.deployment.attention.tp
    rows = batch * program.queries
    found: Work = []
    for layer, count in Counter(program.layer_types).items():
        seen = context if layer.attention.window is None else min(context, layer.attention.window)
        operators = attention_operators(deployment.llm, layer, rows, precision=deployment.precision, tp=tp)
        core = core_operator(
            layer, rows, batch * seen, precision=deployment.precision, tp=tp, query_tokens=program.queries
        )
        found += [(count, each) for each in (*operators, core, *_ffn(program, layer, rows))]
    head = boundary_operators(
        deployment.llm, rows, precision=deployment.precision, lm_head=deployment.attention.lm_head
    )
    return [*found, *((1.0, each) for each in head)]


def _ffn(program: ColocatedProgram, layer: Layer, rows: float) -> Iterable[Operator]:
    deployment, tp = program.deployment, program.deployment.attention.tp
    llm, dtype = deployment.llm, deployment.precision.ffn
    match layer.ffn:
        case Dense(inner=inner):
            yield from dense_operators(llm, rows, inner / tp, dtype)
        case Moe() as moe:
            # a shared expert of its own GPUs is counted as if all GPUs shared it
            yield from dense_operators(llm, rows / tp, moe.shared * moe.shared_inner, dtype)
            yield expert_operator(
                llm,
                deployment.routed(moe),
                rows * deployment.attention.ranks,
                precision=deployment.precision,
                split=deployment.split,
            )
