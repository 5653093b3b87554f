"""The cells behind a router as one run: their columns side by side, and what each did.

Instances are numbered through: those of the second cell follow those of the first. `cell` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from afdsim.results import blame, caching, metrics, mixed
from afdsim.results.metrics import Columns, Run

Array = np.ndarray


def joined(runs: Sequence[Run], requests: Columns, widths: Mapping[str, int]) -> Run:
    """Return the run of all cells.

    `requests` are those of all, in the order in which they arrived (`of_all`); `widths` are a cell's instances by pool.
    """
    longest = max(runs, key=lambda run: len(run.tokens["t_s"]))
    gpus = _side_by_side([run.gpus for run in runs], widths)
    return replace(
        longest,
        requests=requests,
        tokens=_tokens([run.tokens for run in runs], next(iter(widths.values()))),
        gpus=gpus | {"gpu": np.arange(len(gpus["gpu"]))},
        links=_links([run.links for run in runs], widths),
        pools={name: _pool([run.pools[name] for run in runs]) for name in longest.pools},
        engine=replace(
            longest.engine,
            steps=sum(run.engine.steps for run in runs),
            events=sum(run.engine.events for run in runs),
        ),
        ranks=None,
        blame=_blame([run.blame for run in runs]),
        waits=blame.added([run.waits for run in runs]),
        critical=blame.averaged([run.critical for run in runs if run.critical]) or None,
        kv_cache=caching.added([run.kv_cache for run in runs]),
        mixed=mixed.added([run.mixed for run in runs]),
        cells=tuple(_told(run) for run in runs),
    )


def of_all(each: Sequence[Columns], numbers: Sequence[Array], width: int) -> dict[str, Array]:
    """Return the requests of all cells in the order in which they arrived.

    `numbers` are those of every cell's requests; `width` are instances of a cell that hold requests.
    """
    order = np.argsort(np.concatenate(numbers), kind="stable")
    cell = np.repeat(np.arange(len(each)), [len(own) for own in numbers])[order]
    found = {name: np.concatenate([np.asarray(own[name]) for own in each])[order] for name in each[0]}
    seated = found["instance"] >= 0
    found["instance"] = np.where(seated, found["instance"] + cell * width, found["instance"])
    return found | {"request_id": np.concatenate(numbers)[order], "cell": cell}


def _tokens(each: Sequence[Columns], width: int) -> dict[str, Array]:
    """Boundaries of all cells in order of time."""
    found = {name: np.concatenate([np.asarray(own[name]) for own in each]) for name in each[0]}
    cell = np.repeat(np.arange(len(each)), [len(own["t_s"]) for own in each])
    found["instance"], found["cell"] = found["instance"] + cell * width, cell
    order = np.argsort(found["t_s"], kind="stable")
    return {name: values[order] for name, values in found.items()}


def _side_by_side(each: Sequence[Columns], widths: Mapping[str, int]) -> dict[str, Array]:
    """Rows of pools and instances of all cells."""
    found = {name: np.concatenate([np.asarray(own[name]) for own in each]) for name in each[0]}
    cell = np.repeat(np.arange(len(each)), [len(own["instance"]) for own in each])
    width = np.array([widths[pool] for pool in found["pool"].tolist()], dtype=int)
    return found | {"instance": found["instance"] + cell * width, "cell": cell}


def _links(each: Sequence[Columns], widths: Mapping[str, int]) -> dict[str, Array]:
    found = _side_by_side(each, widths)
    rows = zip(*(found[name].tolist() for name in ("pool", "instance", "rail", "direction")), strict=True)
    return found | {"port": np.array([f"{pool}[{i}].{rail} {way}" for pool, i, rail, way in rows], str)}


def _pool(each: Sequence[metrics.Pool]) -> metrics.Pool:
    """GPUs of one role in all cells, with the mean of what they achieved."""
    return replace(
        each[0],
        gpus=sum(pool.gpus for pool in each),
        mfu=_mean([pool.mfu for pool in each]),
        mbu=_mean([pool.mbu for pool in each]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _blame(each: Sequence[Columns]) -> dict[str, Array]:
    """Culprits of all cells, with the cell before the name of whatever belongs to one."""
    found = {name: np.concatenate([np.asarray(own[name]) for own in each]) for name in each[0]}
    cell = np.repeat(np.arange(len(each)), [len(own["unit"]) for own in each])
    for column_ in ("unit", "culprit"):
        names = zip(found[column_].tolist(), cell.tolist(), strict=True)
        found[column_] = np.array([f"cell[{at}].{name}" if "[" in name else name for name, at in names], str)
    return found | {"share": found["share"] / len(each)}


def _told(run: Run) -> dict[str, Any]:
    """What one cell did."""
    samples, shares = metrics.latencies(run), metrics.causes(run.gpus)
    throughput = metrics.output_throughput(run.tokens, run.window)
    rates = {"output_throughput": throughput, "tgs": throughput / run.gpu_count} if run.steady else {}
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
