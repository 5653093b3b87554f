"""Record -> the columns that metrics read: requests, tokens, GPUs, links, and what the pools achieved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from afdsim.catalog.hardware import Gpu
from afdsim.cluster.deployment import AttentionPool, FfnPool
from afdsim.cost.operators import (
    Operator,
    attention_operators,
    boundary_operators,
    core_operator,
    ffn_operators,
    reduction_operator,
)
from afdsim.engine.causes import BUSY, CAUSES, IMBALANCE
from afdsim.engine.colocated_program import ColocatedProgram
from afdsim.engine.program import Array, Program
from afdsim.engine.record import Record, Requests
from afdsim.results import colocated_outcome, metrics

Columns = dict[str, Array]
AnyProgram = Program | ColocatedProgram


def requests(record: Record, program: AnyProgram) -> Columns:
    """One row per request; NaN and NA-like -1 where nothing happened."""
    table = record.requests
    seat = np.array(table.seat, dtype=np.int32)
    rank = np.where(seat >= 0, seat // program.micro_batches, np.int32(-1))
    dp = program.deployment.attention.dp
    return {
        "request_id": np.arange(len(table)),
        "arrival_s": np.array(table.arrival),
        "admitted_s": np.array(table.admitted),
        "first_token_s": np.array(table.first_token),
        "finish_s": np.array(table.finish),
        "input_len": np.array(table.input_len, dtype=np.int64),
        "output_len": np.array(table.output_len, dtype=np.int64),
        "instance": np.where(rank >= 0, rank // dp, np.int32(-1)),
        "rank": np.where(rank >= 0, rank % dp, np.int32(-1)),
        "micro_batch": np.where(seat >= 0, seat % program.micro_batches, np.int32(-1)),
        "status": np.array(table.status()),
        "counted": np.array(table.counted),
    }


def tokens(record: Record, program: AnyProgram) -> Columns:
    """One row per boundary that emitted tokens, for all ranks of an instance at once (rank -1) or for one of them.

    `itl_s` is the time since the boundary before it of the same seats.
    """
    rows = record.boundaries
    unit = np.array(rows.unit, dtype=np.int64)
    micro_batch = np.array(rows.micro_batch, dtype=np.int64)
    time = np.array(rows.time)
    lane = unit * program.micro_batches + micro_batch
    order = np.lexsort((np.array(rows.step), lane))
    itl = np.full(len(time), np.nan)
    same = lane[order][1:] == lane[order][:-1]
    itl[order[1:][same]] = np.diff(time[order])[same]
    dp = program.deployment.attention.dp
    return {
        "step": np.array(rows.step, dtype=np.int64),
        "micro_batch": micro_batch,
        "instance": unit // dp if program.per_rank else unit,
        "rank": unit % dp if program.per_rank else np.full(len(unit), -1),
        "t_s": time,
        "batch": np.array(rows.batch, dtype=np.int64),
        "gaps": np.array(rows.gaps, dtype=np.int64),
        "itl_s": itl,
    }


def gpus(record: Record, program: AnyProgram) -> Columns:
    """One row per GPU: seconds of the window by cause, adding up to it."""
    if isinstance(program, ColocatedProgram):
        return colocated_outcome.gpus(record, program, _means(record, program)[:2])
    attention, ffn = program.deployment.attention, program.deployment.ffn
    causes, own = record.causes, record.own
    rows = []
    for unit in range(program.units):
        for rank in range(program.ranks):
            row = causes[unit].copy()
            idle = row[BUSY] * (1.0 - own[unit, rank])
            row[BUSY] -= idle
            row[IMBALANCE] += idle
            rows += [row] * attention.tp
    loads = _even_shares(program)
    for f in range(program.ffns):
        row = causes[program.units + f].copy()
        idle = row[BUSY] * (1.0 - loads[f])
        row[BUSY] -= idle
        row[IMBALANCE] += idle
        rows += [row] * ffn.gpus_per_instance
    table = np.array(rows)
    sizes = [(pool.instances, pool.gpus_per_instance) for pool in (attention, ffn)]
    return {
        "gpu": np.arange(len(table)),
        "pool": np.repeat(["attention", "ffn"], [attention.gpus, ffn.gpus]),
        "instance": np.concatenate([np.repeat(np.arange(n), each) for n, each in sizes]),
        "rank": np.concatenate([np.tile(np.arange(each), n) for n, each in sizes]),
        **{cause: table[:, index] for index, cause in enumerate(CAUSES)},
    }


def _even_shares(program: Program) -> list[float]:
    """Mean over slowest GPU's seconds in every FFN instance; 1 where experts are evenly used."""
    tokens = sum(program.deployment.micro_batch_slots[:1]) * program.deployment.attention.ranks
    best = [program.ffn[row][tokens] for row in program.ffn_row_even]
    slow = [
        [program.ffn[program.ffn_row[f, layer]][tokens] for layer in range(program.layers)] for f in range(program.ffns)
    ]
    return [sum(best) / sum(row) if sum(row) else 1.0 for row in slow]


def links(record: Record, program: AnyProgram) -> Columns:
    """One row per NIC and direction: messages and bytes over the completed steps."""
    if isinstance(program, ColocatedProgram):
        return colocated_outcome.links(record, program, _computed(record, program))
    rank_tokens, passes = _computed(record, program), record.steps * program.micro_batches * program.layers
    out = sum(program.dispatch_bytes[kind] for kind in program.wire_kind)
    back = program.combine_bytes * program.layers
    attention, ffn = program.deployment.attention, program.deployment.ffn
    rows: list[tuple[str, int, int, str, int, float]] = []
    for server in range(attention.instances):
        for rank in range(attention.dp):
            sent = rank_tokens[server * attention.dp + rank] * ffn.instances / attention.tp
            for part in range(attention.tp):
                place = ("attention", server, rank * attention.tp + part)
                rows.append((*place, "egress", passes * ffn.instances, sent * out))
                rows.append((*place, "ingress", passes * ffn.instances, sent * back))
    rows += _ffn_links(program, rank_tokens, passes, (out, back))
    pool, instance, rail, direction, messages, nbytes = zip(*rows, strict=True)
    return {
        "port": np.array([f"{p}[{i}].{r} {d}" for p, i, r, d in zip(pool, instance, rail, direction, strict=True)]),
        "pool": np.array(pool),
        "instance": np.array(instance),
        "rail": np.array(rail),
        "direction": np.array(direction),
        "messages": np.array(messages),
        "bytes": np.array(nbytes),
    }


def _ffn_links(
    program: Program, rank_tokens: Array, passes: int, per_token: tuple[float, float]
) -> list[tuple[str, int, int, str, int, float]]:
    """Rows of the FFN NICs: NIC i meets GPU i of every attention instance."""
    attention, ffn = program.deployment.attention, program.deployment.ffn
    rails = min(attention.gpus_per_instance, ffn.gpus_per_instance)
    met, peers = np.zeros(ffn.gpus_per_instance), np.zeros(ffn.gpus_per_instance, dtype=int)
    for rank, tokens_of in enumerate(rank_tokens):
        for part in range(attention.tp):
            nic = (rank % attention.dp * attention.tp + part) % rails
            met[nic] += tokens_of / attention.tp
            peers[nic] += 1
    rows = []
    for instance in range(ffn.instances):
        for nic in range(ffn.gpus_per_instance):
            messages = int(passes * peers[nic])
            rows.append(("ffn", instance, nic, "ingress", messages, float(met[nic] * per_token[0])))
            rows.append(("ffn", instance, nic, "egress", messages, float(met[nic] * per_token[1])))
    return rows


def _computed(record: Record, program: AnyProgram) -> Array:
    """Tokens that every attention rank has computed in the completed steps (rank,)."""
    table = record.requests
    taken = steps_taken(table, record.steps_run)
    rank = np.array(table.seat) // program.micro_batches
    return np.bincount(rank[taken > 0], taken[taken > 0], minlength=program.deployment.attention.ranks)


def steps_taken(table: Requests, steps: Array) -> Array:
    """Completed steps that each request took part in; `steps` are the numbers of the completed steps, ascending."""
    joined = np.array(table.joined)
    total = np.array(table.needs)
    total = np.where(total > 0, total, _tokens_left(table))
    first, last = np.searchsorted(steps, joined), np.searchsorted(steps, joined + total)
    return np.where(joined >= 0, last - first, 0)


def _tokens_left(table: Requests) -> Array:
    """Tokens that every request still had to produce when it was admitted."""
    return np.asarray(np.array(table.input_len) + np.array(table.output_len) - np.array(table.context))


def pools(record: Record, program: AnyProgram, prices: dict[str, float]) -> dict[str, metrics.Pool]:
    """What the GPUs of each role are, and how much of their peak FLOPs and bandwidth the window used."""
    batch, context, passes = _means(record, program)
    length = record.window[1] - record.window[0]
    names = ("colocated",) if isinstance(program, ColocatedProgram) else ("attention", "ffn")
    made = {}
    for role, (pool, done) in zip(names, work(program, batch, context), strict=True):
        operators = done if batch else []
        made[role] = metrics.Pool(
            gpu=pool.gpu.name,
            gpus=pool.gpus,
            usd_per_hour=prices.get(pool.gpu.name, pool.gpu.usd_per_hour),
            mfu=_share(operators, partial(_flop_seconds, gpu=pool.gpu), passes / length),
            mbu=_share(operators, partial(_byte_seconds, gpu=pool.gpu), passes / length),
        )
    return made


def work(
    program: AnyProgram, batch: float, context: float
) -> tuple[tuple[AttentionPool | FfnPool, colocated_outcome.Work], ...]:
    """What one GPU of each pool does for `batch` sequences of `context` tokens in the micro-batch of every rank."""
    if isinstance(program, ColocatedProgram):
        return ((program.deployment.attention, colocated_outcome.work(program, batch, context)),)
    return (
        (program.deployment.attention, _attention_work(program, batch, context)),
        (program.deployment.ffn, _ffn_work(program, batch)),
    )


def _means(record: Record, program: AnyProgram) -> tuple[float, float, float]:
    """Batch of a rank in a micro-batch, context of a sequence, and micro-batches per unit in the window."""
    rows, table = record.boundaries, record.requests
    time, batch = np.array(rows.time), np.array(rows.batch)
    inside = (time > record.window[0]) & (time <= record.window[1])
    count = int(inside.sum())
    if not count:
        return 0.0, 0.0, 0.0
    taken = steps_taken(table, record.steps_run)
    pace = np.where(np.array(table.needs) > 0, _tokens_left(table) / np.maximum(table.needs, 1), 1.0)
    contexts = taken * np.array(table.context) + pace * taken * (taken - 1) / 2
    mean_context = contexts.sum() / max(taken.sum(), 1)
    per_step = (pace * taken).sum() / max(taken.sum(), 1)
    batch_mean = batch[inside].sum() / per_step / count / program.ranks
    return float(batch_mean), float(mean_context), count / program.units


def _attention_work(program: Program, batch: float, context: float) -> colocated_outcome.Work:
    """(times per pass, operator) of one attention GPU; a pass is one micro-batch through all layers."""
    deployment, pool, rows = program.deployment, program.deployment.attention, batch * program.queries
    work: colocated_outcome.Work = []
    for layer, count in Counter(deployment.llm.layers).items():
        seen = context if layer.attention.window is None else min(context, layer.attention.window)
        operators = attention_operators(
            deployment.llm, layer, rows, precision=deployment.precision, tp=pool.tp, o_proj=pool.o_proj
        )
        core = core_operator(
            layer, rows, batch * seen, precision=deployment.precision, tp=pool.tp, query_tokens=program.queries
        )
        reduction = reduction_operator(deployment.llm, rows, deployment.ffn.instances)
        work += [(count, operator) for operator in (*operators, core, reduction)]
    head = boundary_operators(deployment.llm, rows, precision=deployment.precision, lm_head=pool.lm_head)
    return [*work, *((1, operator) for operator in head)]


def _ffn_work(program: Program, batch: float) -> colocated_outcome.Work:
    deployment = program.deployment
    total = batch * program.queries * deployment.attention.ranks
    return [
        (count, operator)
        for layer, count in Counter(deployment.llm.layers).items()
        for operator in ffn_operators(
            deployment.llm, layer, total, precision=deployment.precision, split=deployment.ffn.split
        )
    ]


def _share(work: Iterable[tuple[float, Operator]], seconds: Callable[[Operator], float], rate: float) -> float:
    return rate * sum(count * seconds(operator) for count, operator in work)


def _flop_seconds(operator: Operator, gpu: Gpu) -> float:
    """Useful FLOPs at peak; core attention computes in BF16 whatever the dtype of its cache."""
    dtype = "bf16" if operator.kernel.startswith("core") else operator.dtype
    return float(operator.flops) / gpu.peak(dtype) if operator.flops else 0.0


def _byte_seconds(operator: Operator, gpu: Gpu) -> float:
    """HBM traffic at full bandwidth; a collective moves bytes over the wire instead."""
    return 0.0 if operator.gpus > 1 else float(operator.bytes) / gpu.memory_bandwidth
