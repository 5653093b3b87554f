"""Record -> the columns that metrics read: requests, tokens, GPUs, links, and what the pools achieved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from afdsim.cost.operators import Operator
from afdsim.engine.books import BUSY, CAUSES, IMBALANCE
from afdsim.engine.cell import Array, Cell
from afdsim.engine.passes import byte_seconds, flop_seconds
from afdsim.engine.record import Record, Requests
from afdsim.engine.seats import UNBOUNDED
from afdsim.results import metrics, mixed, prefilled, steady
from afdsim.results.bottleneck import Means

Columns = dict[str, Array]


def requests(record: Record, cell: Cell) -> Columns:
    """One row per request; NaN and NA-like -1 where nothing happened."""
    table = record.requests
    more = {} if record.outages is None else {"lost_s": table.lost}
    if cell.keeping.grows:
        more["preemptions"] = table.preempted
    if cell.keeping.prefix:
        name = "prompt" if cell.keeping.prefix == UNBOUNDED else "prefix"
        more |= {name: table.group, f"{name}_hit": table.hit}
    if record.sessions is not None:
        more |= {"session": record.sessions.session, "turn": record.sessions.turn, "kv_found": table.hit}
    seat = np.array(table.seat, dtype=np.int32)
    rank = np.where(seat >= 0, seat // cell.micro_batches, np.int32(-1))
    dp = cell.deployment.attention.dp
    return {
        "request_id": np.arange(len(table)),
        "arrival_s": table.arrival,
        "admitted_s": table.admitted,
        "first_token_s": table.first_token,
        "finish_s": table.finish,
        **more,
        **mixed.times(record),
        "input_len": np.array(table.input_len, dtype=np.int64),
        "output_len": np.array(table.output_len, dtype=np.int64),
        "instance": np.where(rank >= 0, rank // dp, np.int32(-1)),
        "rank": np.where(rank >= 0, rank % dp, np.int32(-1)),
        "micro_batch": np.where(seat >= 0, seat % cell.micro_batches, np.int32(-1)),
        "status": table.status(),
        "counted": table.counted,
    }


def tokens(record: Record, cell: Cell) -> Columns:
    """One row per boundary that emitted tokens, for all ranks of an instance at once (rank -1) or for one of them.

    `itl_s` is the time since the boundary before it of the same seats. A row without tokens stands for gaps across an
    outage: those of requests that had their latest token before it, and whose next one is out at this boundary.
    """
    rows = record.boundaries
    unit, micro_batch, time = rows.unit, rows.micro_batch, rows.time
    lane = unit * cell.micro_batches + micro_batch
    order = np.lexsort((rows.step, lane))
    itl = np.full(len(time), np.nan)
    same = lane[order][1:] == lane[order][:-1]
    itl[order[1:][same]] = np.diff(time[order])[same]
    dp = cell.deployment.attention.dp
    found = {
        "step": np.array(rows.step, dtype=np.int64),
        "micro_batch": micro_batch,
        "instance": unit // dp if cell.per_rank else unit,
        "rank": unit % dp if cell.per_rank else np.full(len(unit), -1),
        "t_s": time,
        "batch": np.array(rows.batch, dtype=np.int64),
        "gaps": np.array(rows.gaps, dtype=np.int64),
        "itl_s": itl,
    }
    row, gaps, itl = _gaps_across(record, cell)
    if not len(row):
        return found
    more = {name: column[row] for name, column in found.items()} | {"batch": np.zeros_like(row), "gaps": gaps}
    return {name: np.concatenate([column, (more | {"itl_s": itl})[name]]) for name, column in found.items()}


def by_class(found: Columns, record: Record, cell: Cell, names: tuple[str, ...], kinds: Array) -> Columns:
    """The gaps of every class at the boundaries of `found`, `gaps_` and its name: exact, from who sat where.

    A gap across an outage is of no class.
    """
    rows, visits, m = record.boundaries, _tokens(record), cell.micro_batches
    place = np.int64(mixed.PLACE)
    lane = mixed.lane(cell, visits.seat) * place
    order = np.lexsort((rows.step, rows.unit * m + rows.micro_batch))
    at = ((rows.unit * m + rows.micro_batch) * place + rows.step)[order]
    begin, end = (np.searchsorted(at, lane + n + 1) for n in (visits.first, np.maximum(visits.last, visits.first)))
    columns = {}
    for kind, name in enumerate(names):
        mine = kinds[visits.request] == kind
        change = np.bincount(begin[mine], minlength=len(at) + 1) - np.bincount(end[mine], minlength=len(at) + 1)
        gaps = np.zeros(len(found["gaps"]), dtype=np.int64)
        gaps[order] = np.cumsum(change)[:-1]
        columns[f"gaps_{name}"] = gaps
    return columns


def _gaps_across(record: Record, cell: Cell) -> tuple[Array, Array, Array]:
    """Gaps across outages: boundary row at which they end, how many are equal, seconds."""
    rows, m = record.boundaries, cell.micro_batches
    if not len(record.stays.request) and not cell.keeping.grows:
        return (np.zeros(0, dtype=np.int64),) * 3
    visits = _tokens(record)
    order = np.lexsort((visits.first, visits.request))
    before, after = order[:-1], order[1:]
    same = visits.request[before] == visits.request[after]
    before, after = before[same], after[same]
    lane = mixed.lane(cell, visits.seat)
    lanes, emitted = cell.seated * m, rows.step * cell.seated * m + rows.unit * m + rows.micro_batch
    sorter = np.argsort(emitted)
    if not len(before) or not len(emitted):
        return (np.zeros(0, dtype=np.int64),) * 3
    ends = visits.last[before] * lanes + lane[before]
    begins = visits.first[after] * lanes + lane[after]
    place = np.minimum(np.searchsorted(emitted, begins, sorter=sorter), len(sorter) - 1)
    out = emitted[sorter[place]] == begins
    row = sorter[place[out]]
    gap = rows.time[row] - rows.time[sorter[np.searchsorted(emitted, ends[out], sorter=sorter)]]
    pairs, counts = np.unique(np.stack([row, gap]), axis=1, return_counts=True)
    return pairs[0].astype(np.int64), counts, pairs[1]


def loaded(
    requests: Columns, tokens: Columns, record: Record, *, given: bool, changing: bool = False
) -> tuple[int, steady.Load] | None:
    """(the slice with which the measurement of an open loop begins, how its load stood); None without a token.

    `given`: the warm-up was given and is where the record begins; `changing`: the rate of arrivals changes by design.
    """
    step = _step(requests if record.prefill is None else requests | {"first_token_s": record.prefill.decoded}, tokens)
    if step is None:
        return None
    place, load = steady.found(
        prefilled.flow(requests, record, step), record.edges, step, given=given, changing=changing
    )
    return place, replace(load, ended=record.ended) if record.overloaded else load


def overloaded(record: Record, cell: Cell, *, given: bool, changing: bool) -> bool:
    """Whether a record up to the last arrival is that of an overload, by the rules that judge the whole run."""
    columns = requests(record, cell), tokens(record, cell)
    found = loaded(*columns, record, given=given, changing=changing)
    return found is not None and found[1].level == "OVERLOADED"


def _step(requests: Columns, tokens: Columns) -> float | None:
    """Mean decode step, seconds; None without a token."""
    gaps = metrics.itl(tokens, (0.0, math.inf))
    if gaps.count:
        return metrics.mean(gaps)
    alone = requests["first_token_s"] - requests["admitted_s"]  # answers of one token have no gaps
    alone = alone[~np.isnan(alone)]
    return float(alone.mean()) if len(alone) else None


def counted(requests: Columns, record: Record) -> Array:
    """Mark the requests that came inside the window; where an overload ended the run, those that left in it too.

    Of a queue that grows by its own length, whoever comes in the window is served after it.
    """
    (start, end), arrival, finish = record.window, requests["arrival_s"], requests["finish_s"]
    came = requests["counted"] & (arrival >= start) & (arrival <= end)
    return came | ((finish > start) & (finish <= end)) if record.overloaded else came


def gpus(record: Record, cell: Cell) -> Columns:
    """One row per GPU: seconds of the window by cause, adding up to it.

    What the slowest rank, or the slowest GPU of an instance, keeps the others waiting for is their `imbalance`.
    """
    (batch, context, _), extra = _means(record, cell), mixed.extra(record, cell)
    rows: list[Array] = []
    for pool in cell.pools:
        shares = pool.shares(max(round(batch), 1), context, *([] if extra is None else [extra]))
        for place, unit in enumerate(pool.units):
            ranks, experts, even = shares[place]
            for rank in range(pool.ranks):
                own = record.own[unit, rank] if pool is cell.pools[0] else 1.0
                row = record.causes[unit].copy()
                idle = row[BUSY] * (ranks * (1.0 - own) + experts * (1.0 - even))
                row[BUSY] -= idle
                row[IMBALANCE] += idle
                rows += [row] * pool.gpus_per_rank
    table, sizes = np.array(rows), [(pool.gpus.instances, pool.gpus.gpus_per_instance) for pool in cell.pools]
    return {
        "gpu": np.arange(len(table)),
        "pool": np.repeat([pool.name for pool in cell.pools], [pool.gpus.gpus for pool in cell.pools]),
        "instance": np.concatenate([np.repeat(np.arange(n), each) for n, each in sizes]),
        "rank": np.concatenate([np.tile(np.arange(each), n) for n, each in sizes]),
        **{cause: table[:, index] for index, cause in enumerate(CAUSES)},
    }


APART = 1.01
"""Busy share of the busiest rank over that of the idlest from which they are told."""


def ranks(record: Record, cell: Cell, gpus: Columns) -> metrics.Ranks | None:
    """The busiest and the idlest of the ranks that hold requests; None where these are alike."""
    pool = cell.pools[0]
    seconds = np.array([gpus[cause][: pool.gpus.gpus : pool.gpus_per_rank] for cause in CAUSES])
    length = seconds.sum(axis=0)
    if not length.all():
        return None
    busy, (sequences, contexts) = seconds[BUSY] / length, _loads(record, cell)

    def at(place: int) -> metrics.Rank:
        instance, rank = divmod(place, cell.deployment.attention.dp)
        own = [float(column[place]) for column in (busy, sequences, contexts)]
        return metrics.Rank(instance=instance, rank=rank, busy=own[0], sequences=own[1], context=own[2])

    found = metrics.Ranks(busiest=at(int(busy.argmax())), idlest=at(int(busy.argmin())))
    return found if found.spread > APART else None


def _loads(record: Record, cell: Cell) -> tuple[Array, Array]:
    """Mean sequences of every attention rank over the completed steps, and their mean context."""
    visits, count = _visits(record), cell.deployment.attention.ranks
    taken, read = visits.read(record.steps_run)
    rank = visits.seat // cell.micro_batches
    there = taken > 0
    steps, tokens = (np.bincount(rank[there], each[there], minlength=count) for each in (taken, read))
    return steps / max(record.steps, 1), tokens / np.maximum(steps, 1)


def links(record: Record, cell: Cell) -> Columns:
    """One row per NIC and direction: messages and bytes over the completed steps."""
    rows = cell.links(_computed(record, cell), record.steps)
    pool, instance, rail, direction, messages, nbytes = map(list, zip(*rows, strict=True)) if rows else ([],) * 6
    names = [f"{p}[{i}].{r} {d}" for p, i, r, d in zip(pool, instance, rail, direction, strict=True)]
    return {
        "port": np.array(names, str),
        "pool": np.array(pool, str),
        "instance": np.array(instance, int),
        "rail": np.array(rail, int),
        "direction": np.array(direction, str),
        "messages": np.array(messages, int),
        "bytes": np.array(nbytes, float),
    }


def _computed(record: Record, cell: Cell) -> Array:
    """Tokens that every attention rank has computed in the completed steps (rank,)."""
    visits = _visits(record)
    taken = visits.taken(record.steps_run)
    rank = visits.seat // cell.micro_batches
    decoded = np.bincount(rank[taken > 0], taken[taken > 0], minlength=cell.deployment.attention.ranks)
    return decoded if record.chunks is None else decoded + mixed.computed(record, cell) / cell.queries


class _Visits(NamedTuple):
    """Every time that requests sat: before outages, then the last; columns."""

    request: Array
    seat: Array
    joined: Array
    """First step, or -1."""
    total: Array
    """Steps: those taken before an outage, at the last time those that it needs."""
    context: Array
    """At the first step."""
    pace: Array
    """Tokens of a step."""

    def taken(self, steps: Array) -> Array:
        """Completed steps that each took part in; `steps` are their numbers, ascending."""
        first, last = np.searchsorted(steps, self.joined), np.searchsorted(steps, self.joined + self.total)
        return np.where(self.joined >= 0, last - first, 0)

    def read(self, steps: Array) -> tuple[Array, Array]:
        """The same, and the sum of its contexts in these."""
        taken = self.taken(steps)
        return taken, taken * self.context + self.pace * taken * (taken - 1) / 2


def _visits(record: Record) -> _Visits:
    table, stays = record.requests, record.stays
    last = _last(table)
    if not len(stays.request):
        return last
    pace = stays.tokens / np.maximum(stays.steps, 1)
    first = _Visits(stays.request, stays.seat, stays.joined, stays.steps, stays.context, pace)
    return _Visits(*(np.concatenate(columns) for columns in zip(first, last, strict=True)))


def _tokens(record: Record) -> mixed.Sitting:
    """The boundaries at which the tokens of every visit were out; of those alone that took place."""
    visits = _visits(record)
    there = visits.joined >= 0
    joined, total = visits.joined[there], visits.total[there]
    own = mixed.Sitting(visits.request[there], visits.seat[there], joined + 1, joined + total)
    return own if record.chunks is None else mixed.sittings(own, record.chunks)


def _last(table: Requests) -> _Visits:
    left = np.asarray(table.input_len + table.output_len - table.context)  # tokens to produce from the first step on
    total = np.where(table.needs > 0, table.needs, left)
    pace = np.where(table.needs > 0, left / np.maximum(table.needs, 1), 1.0)
    return _Visits(np.arange(len(table)), table.seat, table.joined, total, table.context, pace)


def steps_taken(table: Requests, steps: Array) -> Array:
    """Completed steps that each request took part in since it last sat down; `steps` are their numbers, ascending."""
    return _last(table).taken(steps)


def pools(record: Record, cell: Cell, prices: dict[str, float]) -> dict[str, metrics.Pool]:
    """What the GPUs of each role are, and how much of their peak FLOPs and bandwidth the window used."""
    (batch, context, passes), extra = _means(record, cell), mixed.extra(record, cell)
    length = max(record.window[1] - record.window[0], math.ulp(0.0))
    rows = mixed.passes(record, cell)
    known, made = not steady.brief(rows.time, (rows.unit, rows.micro_batch), record.window), {}
    for pool in cell.pools:
        gpu, operators = pool.gpus.gpu, pool.work(batch, context) if batch else []
        if extra is not None:
            operators = cell.prompts.work(batch, context, extra)
        share = partial(_share, operators, passes / length) if known else lambda _: None
        made[pool.name] = metrics.Pool(
            gpu=gpu.name,
            gpus=pool.gpus.gpus,
            usd_per_hour=prices.get(gpu.name, gpu.usd_per_hour),
            mfu=share(partial(flop_seconds, gpu=gpu)),
            mbu=share(partial(byte_seconds, gpu=gpu)),
        )
    return made


def _means(record: Record, cell: Cell) -> tuple[float, float, float]:
    """Batch of a rank in a micro-batch, context of a sequence, and micro-batches per unit in the window."""
    rows, visits = mixed.passes(record, cell), _visits(record)
    time, batch, pace = rows.time, rows.batch, visits.pace
    inside = (time > record.window[0]) & (time <= record.window[1])
    count = int(inside.sum())
    if not count:
        return 0.0, 0.0, 0.0
    taken, contexts = visits.read(record.steps_run)
    mean_context = contexts.sum() / max(taken.sum(), 1)
    per_step = (pace * taken).sum() / max(taken.sum(), 1)
    batch_mean = batch[inside].sum() / (per_step or 1.0) / count / cell.ranks  # prompts alone take no step of decode
    return float(batch_mean), float(mean_context), count / cell.seated


def mean_step(record: Record, cell: Cell) -> Means | None:
    """What a step of the window had to do on average; None where there was none."""
    batch, context, _ = _means(record, cell)
    rows = mixed.passes(record, cell)
    inside = (rows.time > record.window[0]) & (rows.time <= record.window[1])
    steps = rows.step[inside]
    if not len(steps):
        return None
    # the window may cut its first and its last step
    whole = (steps > steps.min()) & (steps < steps.max())
    count = len(np.unique(steps[whole])) * cell.micro_batches
    units = np.bincount(rows.unit[inside][whole], minlength=cell.seated)
    filled = units / count if count else np.ones(cell.seated)
    return Means(batch, context, filled, mixed.extra(record, cell))


def _share(work: Iterable[tuple[float, Operator]], rate: float, seconds: Callable[[Operator], Any]) -> float:
    return rate * sum(count * float(seconds(operator)) for count, operator in work)
