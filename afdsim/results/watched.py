"""GPU use over time: in which share of every slice of a run each GPU computed."""

from __future__ import annotations

import numpy as np

from afdsim.engine.books import BUSY
from afdsim.engine.cell import Array, Cell
from afdsim.engine.record import Record
from afdsim.results import prefilled
from afdsim.results.metrics import Columns


def utilization(record: Record, cell: Cell, gpus: Columns) -> dict[str, Array]:
    """Return one row per GPU and slice of the whole run, warm-up included; nothing of a run that was not watched.

    Columns: begin_s, end_s, pool, instance, rank, busy (0..1). There are 33 to 64 slices as wide as a power of two
    seconds; the last one ends with the run. Busy seconds of a step are spread evenly over it. Ranks, and GPUs of an
    instance, that wait for the slowest of their operation have the share of it that they have in the window (`gpus`).
    """
    watch = record.watch
    if watch is None:
        return {}
    begin = np.arange(len(watch.busy)) * float(watch.width[0])
    end = np.minimum(begin + float(watch.width[0]), record.ended)
    unit = np.concatenate([np.repeat(pool.units, pool.ranks * pool.gpus_per_rank) for pool in cell.pools])
    whole = record.causes[unit, BUSY]
    own = np.divide(gpus["busy"][: len(unit)], whole, out=np.ones(len(unit)), where=whole > 0)
    busy = watch.busy[:, unit] / (end - begin)[:, np.newaxis] * own
    names = {name: np.asarray(gpus[name])[: len(unit)] for name in ("pool", "instance", "rank")}
    return with_prefill(_rows((begin, end), names, busy), record)


def with_prefill(found: dict[str, Array], record: Record) -> dict[str, Array]:
    """Return the rows of the GPUs of decode with those of prefill behind them, in the same slices."""
    if record.prefill is None or not found:
        return found
    begin, end = np.unique(found["begin_s"]), np.unique(found["end_s"])
    names, busy = prefilled.over_time(record.prefill.served, np.append(begin, end[-1]))
    more = _rows((begin, end), names, busy) | {"cell": np.full(busy.size, -1)}
    return {name: np.concatenate([column, more[name]]) for name, column in found.items()}


def _rows(slices: tuple[Array, Array], names: Columns, busy: Array) -> dict[str, Array]:
    """Rows of every GPU, slice after slice, from shares (slice, GPU); a rounded one may exceed 1."""
    count, gpus = busy.shape
    times = {name: np.tile(each, gpus) for name, each in zip(("begin_s", "end_s"), slices, strict=True)}
    return (
        times | {name: np.repeat(own, count) for name, own in names.items()} | {"busy": np.minimum(busy.T.ravel(), 1)}
    )
