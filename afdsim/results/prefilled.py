"""What prefill adds to the columns of a run: times of requests, the first tokens and gaps, its GPUs and what they did.

Its seconds are `busy` while a GPU computes; `network` while tokens fly between experts, or prompts wait for memory that
others hold until their KV cache has left; `imbalance` while a rank waits for the slowest of its instance; else
`no_work`. Shares of peak are those of the steps in the window, cut where it begins and ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from afdsim.engine.books import BUSY, CAUSES, IMBALANCE, NETWORK, NO_WORK
from afdsim.engine.cell import Array
from afdsim.engine.prefill import Served
from afdsim.engine.record import Record
from afdsim.results import metrics
from afdsim.results.metrics import Window

Columns = dict[str, Array]
DEFINITIONS: Final = {
    "ttft": "first token - arrival; the first token comes from prefill",
    "prefill_queue": "first step of its prompt - arrival",
    "queue": "admission to decode - its KV cache there",
    "itl": "every gap between consecutive tokens of a request, that from prefill to decode too",
    "tgs": "output tokens per GPU and second, over all GPUs, those of prefill too",
}
"""What more, and what else, the definitions say with prefill."""
NAME = "prefill"
OF_CLASS = "gaps_"
"""Begin of the columns of tokens that count the gaps of a class (`outcome.by_class`)."""


def requests(found: Columns, record: Record) -> Columns:
    """Return the columns of requests with the times of prefill; as they are where there is none."""
    own = record.prefill
    if own is None:
        return found
    times = {"prefill_start_s": own.start, "prefill_end_s": own.end, "kv_ready_s": own.ready}
    place = list(found).index("admitted_s")
    items = list(found.items())
    return dict([*items[:place], *times.items(), *items[place:]])


def tokens(found: Columns, requests: Columns, record: Record) -> Columns:
    """Return the rows of boundaries with those of prefill, whose step is -1.

    A row for every moment of first tokens, and one without tokens for the gap between the first and the second token of
    one of the `requests`.
    """
    own = record.prefill
    if own is None:
        return found
    moments, counts = np.unique(own.end[~np.isnan(own.end)], return_counts=True)
    there = ~np.isnan(own.decoded)
    second, gaps = own.decoded[there], (own.decoded - own.end)[there]
    zeros, ones = np.zeros(len(gaps), dtype=np.int64), np.ones(len(gaps), dtype=np.int64)
    more = {
        "t_s": np.concatenate([moments, second]),
        "batch": np.concatenate([counts, zeros]),
        "gaps": np.concatenate([np.zeros_like(counts), ones]),
        "itl_s": np.concatenate([np.full(len(moments), np.nan), gaps]),
    }
    for name in (name for name in found if name.startswith(OF_CLASS)):
        mine = np.asarray(requests["class"])[there] == name.removeprefix(OF_CLASS)
        more[name] = np.concatenate([np.zeros_like(counts), mine.astype(np.int64)])
    nowhere = np.full(len(moments) + len(gaps), -1)
    return {name: np.concatenate([column, more.get(name, nowhere)]) for name, column in found.items()}


def flow(found: Columns, record: Record, step: float) -> Columns:
    """Return the requests as the judgement of a load reads them: who waited how long in either queue.

    A wait for prefill counts in its own steps, so that it is put in decode steps (`step`, seconds) of equal number.
    """
    own = record.prefill
    if own is None:
        return found
    lengths = [each.cost.seconds for each in own.served.steps]
    scale = step / float(np.mean(lengths)) if sum(lengths) > 0 else 0.0
    before, after = (own.start - found["arrival_s"]) * scale, found["admitted_s"] - own.ready
    alone = np.asarray(found["output_len"]) == 1  # and done when prefill is
    return found | {
        "admitted_s": np.where(alone, own.end, found["admitted_s"]),
        "queued_s": np.maximum(before, np.where(alone, 0.0, after)),  # NaN where either is not over
    }


def gpus(found: Columns, record: Record) -> Columns:
    """Return the rows of the GPUs of decode with those of prefill behind them."""
    own = record.prefill
    if own is None:
        return found
    prefill = own.served.pool.prices.prefill
    seconds = np.repeat(_seconds(own.served, record.window), prefill.tp, axis=0)
    more = {
        "gpu": len(found["gpu"]) + np.arange(len(seconds)),
        **_names(own.served),
        "cell": np.full(len(seconds), -1),
        **{cause: seconds[:, place] for place, cause in enumerate(CAUSES)},
    }
    return {name: np.concatenate([column, more[name]]) for name, column in found.items()}


def _names(done: Served) -> Columns:
    """Pool, instance and rank of every GPU of prefill."""
    prefill = done.pool.prices.prefill
    each = prefill.dp * prefill.tp
    return {
        "pool": np.full(prefill.instances * each, NAME),
        "instance": np.repeat(np.arange(prefill.instances), each),
        "rank": np.tile(np.arange(each), prefill.instances),
    }


def over_time(done: Served, edges: Array) -> tuple[Columns, Array]:
    """Pool, instance and rank of every GPU of prefill, and its busy share of every slice between edges (slice, GPU)."""
    prefill = done.pool.prices.prefill
    seconds = np.zeros((len(edges) - 1, prefill.instances, prefill.dp))
    instance = np.array([step.instance for step in done.steps], dtype=int)
    own = np.array([step.cost.own for step in done.steps]).reshape(-1, prefill.dp)
    for place in range(len(edges) - 1):
        inside = _inside(done, (edges[place], edges[place + 1]))
        np.add.at(seconds[place], instance, inside[:, np.newaxis] * own)
    shares = seconds.reshape(len(seconds), -1) / np.diff(edges)[:, np.newaxis]
    return _names(done), np.repeat(shares, prefill.tp, axis=1)


def _seconds(done: Served, window: Window) -> Array:
    """Seconds of a window by cause of every rank (rank, cause)."""
    prefill = done.pool.prices.prefill
    found = np.zeros((prefill.instances, prefill.dp, len(CAUSES)))
    for step, inside in zip(done.steps, _inside(done, window).tolist(), strict=True):
        own = np.array(step.cost.own)
        found[step.instance, :, BUSY] += inside * own
        found[step.instance, :, NETWORK] += inside * step.cost.flights
        found[step.instance, :, IMBALANCE] += inside * (own.max() - own)
    for instance, since, until in done.blocked:
        found[instance, :, NETWORK] += max(min(until, window[1]) - max(since, window[0]), 0.0)
    found[..., NO_WORK] = np.maximum(window[1] - window[0] - found.sum(axis=2), 0.0)
    return found.reshape(-1, len(CAUSES))


def _inside(done: Served, window: Window) -> Array:
    """Share of every step that lies in a window."""
    start = np.array([step.start for step in done.steps])
    length = np.array([step.cost.seconds for step in done.steps])
    covered = np.minimum(start + length, window[1]) - np.maximum(start, window[0])
    share: Array = np.divide(np.maximum(covered, 0.0), length, out=np.zeros(len(length)), where=length > 0)
    return share


def pools(found: dict[str, metrics.Pool], record: Record, prices: Mapping[str, float]) -> dict[str, metrics.Pool]:
    """Return the pools with that of prefill."""
    if record.prefill is None:
        return found
    done = record.prefill.served
    prefill, inside = done.pool.prices.prefill, _inside(done, record.window)
    whole = max((record.window[1] - record.window[0]) * prefill.instances, np.finfo(float).tiny)
    flops, moved = (
        sum(share * getattr(step.cost, name) for share, step in zip(inside.tolist(), done.steps, strict=True)) / whole
        for name in ("flops", "bytes")
    )
    own = metrics.Pool(
        gpu=prefill.gpu.name,
        gpus=prefill.gpus,
        usd_per_hour=prices.get(prefill.gpu.name, prefill.gpu.usd_per_hour),
        mfu=flops,
        mbu=moved,
    )
    return found | {NAME: own}


def prompt_throughput(run: metrics.Run) -> float:
    """Prompt tokens per second of the window, each prompt when its first token is out."""
    end, (start, stop) = metrics.column(run.requests, "prefill_end_s"), run.window
    inside = (end > start) & (end <= stop)
    return metrics.ratio(float(metrics.column(run.requests, "input_len")[inside].sum()), stop - start)
