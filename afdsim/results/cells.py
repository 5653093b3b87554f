"""The cells behind a router as one run: their columns side by side, and what each did.

Instances are numbered through: those of the second cell follow those of the first. `cell` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from afdsim.engine.cell import Cell
from afdsim.engine.record import Record
from afdsim.results import blame, caching, metrics, mixed, prefilled, watched
from afdsim.results.metrics import Columns, Run

Array = np.ndarray


class Place(NamedTuple):
    """Where the pools of a cell stand among those of all cells."""

    names: Mapping[str, str]
    """What each is called there."""
    first: Mapping[str, int]
    """Number of its first instance there."""
    seated: str
    """Which one holds the requests."""


def places(cells: Sequence[Cell]) -> list[Place]:
    """Return where every cell stands: a pool whose GPUs are not the same everywhere is named with its GPU."""
    gpus: dict[str, set[str]] = {}
    for pool in (pool for cell in cells for pool in cell.pools):
        gpus.setdefault(pool.name, set()).add(pool.gpus.gpu.name)
    found, ends = list[Place](), dict[str, int]()
    for cell in cells:
        names = {
            pool.name: pool.name if len(gpus[pool.name]) == 1 else f"{pool.name}_{pool.gpus.gpu.name}"
            for pool in cell.pools
        }
        found.append(Place(names, {own: ends.get(name, 0) for own, name in names.items()}, cell.pools[0].name))
        for pool in cell.pools:
            ends[names[pool.name]] = ends.get(names[pool.name], 0) + pool.gpus.instances
    return found


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What is known of a fleet beside its cells."""

    places: Sequence[Place]
    requests: Columns
    """Of all cells (`of_all`)."""
    tokens: Columns
    """The same (`tokens_of_all`)."""
    record: Record
    """Of any cell: it knows what prefill did for all of them."""
    prices: Mapping[str, float]
    alike: bool
    """Whether cells differ in nothing but what they draw; else nothing is said of what bounds a step."""


def joined(runs: Sequence[Run], whole: Whole) -> Run:
    """Return the run of all cells."""
    found, alike = whole.places, whole.alike
    longest = max(runs, key=lambda run: len(run.tokens["t_s"]))
    gpus = _side_by_side([run.gpus for run in runs], found)
    gpus = prefilled.gpus(gpus | {"gpu": np.arange(len(gpus["gpu"]))}, whole.record)
    return replace(
        longest,
        requests=whole.requests,
        tokens=whole.tokens,
        gpus=gpus,
        slots=sum(run.slots or 0 for run in runs) or None,
        utilization=_watched(runs, whole),
        pipeline=runs[0].pipeline,
        links=_links([run.links for run in runs], found),
        pools=prefilled.pools(_pools(runs, found), whole.record, whole.prices),
        engine=replace(
            longest.engine,
            steps=sum(run.engine.steps for run in runs),
            events=sum(run.engine.events for run in runs),
        ),
        ranks=None,
        bounds=longest.bounds if alike else None,
        blame=_blame(runs, found, len(gpus["gpu"])),
        waits=blame.added([_named(run.waits, place) for run, place in zip(runs, found, strict=True)]),
        critical=(blame.averaged([run.critical for run in runs if run.critical]) or None) if alike else None,
        kv_cache=caching.added([run.kv_cache for run in runs]),
        mixed=mixed.added([run.mixed for run in runs]),
        cells=tuple(sizes | _told(run) for sizes, run in zip(_sizes(runs), runs, strict=True)),
    )


def _named(of_pools: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """What is known of the pools of a cell, by their names among all cells."""
    return {place.names[pool]: own for pool, own in of_pools.items()}


def of_all(each: Sequence[Columns], numbers: Sequence[Array], found: Sequence[Place]) -> dict[str, Array]:
    """Return the requests of all cells in the order in which they arrived.

    `numbers` are those of every cell's requests; behind the cells there may be requests that none of them has seen.
    """
    order = np.argsort(np.concatenate(numbers), kind="stable")
    cell = _cell(each, "request_id", found)[order]
    whole = {name: np.concatenate([np.asarray(own[name]) for own in each])[order] for name in each[0]}
    whole["instance"] = _numbered(whole["instance"], cell, found)
    return whole | {"request_id": np.concatenate(numbers)[order], "cell": cell}


def tokens_of_all(each: Sequence[Columns], found: Sequence[Place]) -> dict[str, Array]:
    """Return the boundaries of all cells in order of time."""
    whole = {name: np.concatenate([np.asarray(own[name]) for own in each]) for name in each[0]}
    cell = _cell(each, "t_s", found)
    whole["instance"], whole["cell"] = _numbered(whole["instance"], cell, found), cell
    order = np.argsort(whole["t_s"], kind="stable")
    return {name: values[order] for name, values in whole.items()}


def _cell(each: Sequence[Columns], column: str, found: Sequence[Place]) -> Array:
    """The cell of every row, -1 of what belongs to none."""
    numbers = np.arange(len(each))
    return np.repeat(np.where(numbers < len(found), numbers, -1), [len(own[column]) for own in each])


def _numbered(instance: Array, cell: Array, found: Sequence[Place]) -> Array:
    """Instances that hold requests, numbered through those of their pool; -1 stays."""
    first = np.array([place.first[place.seated] for place in found])
    return np.where(instance >= 0, instance + first[cell], instance)


def _side_by_side(each: Sequence[Columns], found: Sequence[Place]) -> dict[str, Array]:
    """Rows of pools and instances of all cells."""
    whole = {name: np.concatenate([np.asarray(own[name]) for own in each]) for name in each[0]}
    cell = _cell(each, "instance", found)
    rows = list(zip(whole["pool"].tolist(), cell.tolist(), strict=True))
    first = np.array([found[at].first[pool] for pool, at in rows], dtype=int)
    names = np.array([found[at].names[pool] for pool, at in rows], str)
    return whole | {"pool": names, "instance": whole["instance"] + first, "cell": cell}


def _watched(runs: Sequence[Run], whole: Whole) -> dict[str, Array]:
    """GPU use over time in all cells, whose slices may be unlike; nothing where one was not watched."""
    each = [run.utilization for run in runs]
    return watched.with_prefill(_side_by_side(each, whole.places), whole.record) if all(each) else {}


def _links(each: Sequence[Columns], found: Sequence[Place]) -> dict[str, Array]:
    whole = _side_by_side(each, found)
    rows = zip(*(whole[name].tolist() for name in ("pool", "instance", "rail", "direction")), strict=True)
    return whole | {"port": np.array([f"{pool}[{i}].{rail} {way}" for pool, i, rail, way in rows], str)}


def _pools(runs: Sequence[Run], found: Sequence[Place]) -> dict[str, metrics.Pool]:
    """Pools by name, each with the GPUs of all cells that have it."""
    each: dict[str, list[metrics.Pool]] = {}
    for run, place in zip(runs, found, strict=True):
        for name, pool in _named(run.pools, place).items():
            each.setdefault(name, []).append(pool)
    return {name: _pool(own) for name, own in each.items()}


def _pool(each: Sequence[metrics.Pool]) -> metrics.Pool:
    """GPUs of one role in all cells, with the mean of what they achieved."""
    weights = [pool.gpus / each[0].gpus for pool in each]
    return replace(
        each[0],
        gpus=sum(pool.gpus for pool in each),
        mfu=_mean([pool.mfu for pool in each], weights),
        mbu=_mean([pool.mbu for pool in each], weights),
    )


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [value * weight for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(known) / sum(weights) if len(known) == len(values) else None


def _blame(runs: Sequence[Run], found: Sequence[Place], count: int) -> dict[str, Array]:
    """Culprits of all cells, with the cell before the name of whatever belongs to one; `count` are all GPUs."""
    each, gpus = [run.blame for run in runs], [len(run.gpus["gpu"]) for run in runs]
    whole = {name: np.concatenate([np.asarray(own[name]) for own in each]) for name in each[0]}
    cell = np.repeat(np.arange(len(each)), [len(own["unit"]) for own in each])
    for column_ in ("unit", "culprit"):
        names = zip(whole[column_].tolist(), cell.tolist(), strict=True)
        whole[column_] = np.array([f"cell[{at}].{name}" if "[" in name else name for name, at in names], str)
    pools = zip(whole["pool"].tolist(), cell.tolist(), strict=True)
    whole["pool"] = np.array([found[at].names[pool] for pool, at in pools], str)
    return whole | {"share": whole["share"] / np.array([count / own for own in gpus])[cell]}


def _sizes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """GPUs of every cell, where they have not as many."""
    counts = [run.gpu_count for run in runs]
    return [{"gpus": count} if min(counts) < max(counts) else {} for count in counts]


def _told(run: Run) -> dict[str, Any]:
    """What one cell did."""
    samples, shares = metrics.latencies(run), metrics.causes(run.gpus)
    throughput = metrics.output_throughput(run.tokens, run.window)
    rates = {"output_throughput": throughput} if run.steady else {}
    if run.steady and not run.prefilled:  # the GPUs of prefill work for all cells
        rates["tgs"] = throughput / run.gpu_count
    return {
        "completed": int(metrics.completed(run.requests).sum()),
        **rates,
        **{f"{name}_{metric}_ms": value for metric, name, value in _latencies(samples)},
        "busy": {pool: own["busy"] for pool, own in shares.items()},
    }


def _latencies(samples: Mapping[str, metrics.Samples]) -> Iterator[tuple[str, str, float]]:
    for metric in ("tpot", "queue"):
        if samples[metric].count:
            yield metric, "mean", metrics.mean(samples[metric]) * 1e3
            if metrics.enough(samples[metric].count, 99.0):
                yield metric, "p99", float(metrics.percentiles(samples[metric], (99.0,))[0]) * 1e3
