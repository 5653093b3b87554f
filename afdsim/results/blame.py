"""Whom the GPUs waited for: seconds that were lost, by the peer, pool, port, NVLink stage, path or host to blame.

Rows of a unit add up to what its GPUs lost: `wait_peer`, `network` and `imbalance`. A peer is blamed for what it was
later than the last but one of its pool, the pool for what all of it was waited for (`engine.culprits`). For what the
slowest rank of a unit keeps the others waiting inside an operation the culprit is of kind "rank": the slowest one of
the moment. Who held a culprit up is not asked: for this see `critical`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from afdsim.cluster.network import DEDICATED
from afdsim.engine.books import CAUSES, IMBALANCE
from afdsim.engine.cell import Array, Cell, Pool
from afdsim.engine.culprits import NOBODY, Account, Culprit, accounts, sources
from afdsim.engine.record import Record
from afdsim.results.metrics import Columns, Run, ratio

WORST = 3
"""Peers and ports that a summary names."""


class Row(NamedTuple):
    """What one unit lost by one culprit."""

    pool: str
    unit: str
    kind: str
    """peer, pool, port, uplink, nvlink, path, host, rank or outage."""
    culprit: str
    stage: str
    """Operation that was waited for; of ports and paths the one whose rows they carried."""
    cause: str
    gpu_s: float
    """Seconds times the GPUs of the unit."""
    share: float
    """Of the time of all GPUs."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What units and ports are called: as in `variation.straggler`, with the GPU or NIC where each is modelled."""

    cell: Cell

    def unit(self, u: int) -> str:
        """Return ``attention[0]``, ``ffn[1]``, ``instance[2]``, or ``attention[0].gpu[3]``."""
        instance, rank = self._place(u)
        return instance if rank == NOBODY else f"{instance}.gpu[{rank}]"

    def port(self, found: Culprit, peer: int) -> str:
        """Return ``attention[0] egress``, ``ffn[1].nic[3] ingress``, all ``ports`` of a unit, or a wire to a peer."""
        u, wiring = found.unit, self.cell.wiring
        if found.port == NOBODY:
            return f"{self.unit(u)} ports"
        if wiring.discipline == DEDICATED and found.direction == "egress" and not self.cell.schedule.all_to_all:
            return f"{self.unit(u)} to {self.unit(peer)}"
        instance, gpu = self._place(u)
        if gpu != NOBODY:
            gpu //= wiring.sharing[0]
        elif self.cell.per_rank and not self.cell.schedule.all_to_all:
            pinned = wiring.ports[0] // wiring.ports[1] if found.direction == "egress" else 1
            gpu = self._met[found.port // pinned]
        return f"{instance} {found.direction}" if gpu == NOBODY else f"{instance}.nic[{gpu}] {found.direction}"

    def of(self, found: Culprit, waiting: int) -> str:
        """Return the name of a culprit of a unit that waits."""
        match found.kind:
            case "port":
                return self.port(found, waiting)
            case "pool":
                return f"{self.pool(found.unit).name} pool"
            case "path" | "outage":
                return found.kind
            case "uplink":
                return "uplinks"
            case "host":
                return f"{self.unit(found.unit)} host"
        return self.unit(found.unit)

    def pool(self, u: int) -> Pool:
        """Return whose unit it is."""
        return next(pool for pool in self.cell.pools if u in pool.units)

    def _place(self, u: int) -> tuple[str, int]:
        """Instance of a unit, and its first GPU there if it is not all of it."""
        pool = self.pool(u)
        each = len(pool.units) // pool.gpus.instances
        instance, rank = divmod(u - pool.units.start, each)
        name = "instance" if pool.name == "colocated" else pool.name
        seated = pool is self.cell.pools[0]
        return f"{name}[{instance}]", rank * pool.gpus_per_rank if self.cell.per_rank and seated else NOBODY

    @cached_property
    def _met(self) -> dict[int, int]:
        """First NIC of an FFN instance that an ingress port stands for: those that the GPUs of its senders meet."""
        attention, ffn = self.cell.pools
        met = min(pool.gpus.gpus_per_instance for pool in (attention, ffn))
        senders, found = sources(self.cell), dict[int, int]()
        for unit, port, low, high in self.cell.wiring.arriving.tolist():
            if unit in ffn.units:
                gpus = [self._place(int(senders[x]))[1] for x in self.cell.wiring.order[low:high]]
                found[port] = min(gpu % met for gpu in gpus) // self.cell.wiring.sharing[1]
        return found


# the rows of a run --------------------------------------------------------------------------------------------------


def columns(record: Record, cell: Cell, gpus: Columns) -> Columns:
    """Return every culprit of every unit in a window; `gpus` are its GPUs (`outcome.gpus`), then any others."""
    rows = [row for row in _rows(record, cell, gpus) if row.gpu_s > 0]
    whole = zip(*rows, strict=True) if rows else ((),) * len(Row._fields)
    return {
        name: np.array(column, float if name in {"gpu_s", "share"} else str)
        for name, column in zip(Row._fields, whole, strict=True)
    }


def _rows(record: Record, cell: Cell, gpus: Columns) -> Iterator[Row]:
    names, slow = Names(cell=cell), _slowest_ranks(record, cell, gpus)
    length = (record.window[1] - record.window[0]) * len(gpus["gpu"])
    for unit, (account, seconds) in enumerate(_charged(record, cell)):
        pool, name = names.pool(unit), names.unit(unit)
        for place in np.flatnonzero(seconds[: len(account.culprits)]):
            who, lost = account.culprits[place], float(seconds[place]) * pool.ranks * pool.gpus_per_rank
            what = (who.kind, names.of(who, unit), who.stage, CAUSES[who.cause])
            yield Row(pool.name, name, *what, lost, ratio(lost, length))
        what, lost = ("rank", f"{name} slowest rank", "operations", CAUSES[IMBALANCE]), float(slow[unit])
        yield Row(pool.name, name, *what, lost, ratio(lost, length))


def _charged(record: Record, cell: Cell) -> Iterator[tuple[Account, Array]]:
    """Yield the columns of every unit with their seconds."""
    seconds, at = record.blamed, 0
    for account in accounts(cell):
        end = at + len(account.culprits) + len(account.parts)
        yield account, seconds[at:end]
        at = end


def _slowest_ranks(record: Record, cell: Cell, gpus: Columns) -> Array:
    """GPU-seconds of every unit in which its other ranks waited inside an operation (u,)."""
    counts = [pool.ranks * pool.gpus_per_rank for pool in cell.pools for _ in pool.units]
    more = np.asarray(gpus[CAUSES[IMBALANCE]], float)[: sum(counts)] - np.repeat(record.causes[:, IMBALANCE], counts)
    return np.asarray(np.add.reduceat(more, np.cumsum([0, *counts[:-1]])))


Waits = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""GPU-seconds lost by pool, kind of layer, cause and micro-batch of a unit."""


def waits(record: Record, cell: Cell) -> Waits:
    """Return where the units of every pool stood still; their slowest ranks left out."""
    made: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    names = Names(cell=cell)
    for unit, (account, seconds) in enumerate(_charged(record, cell)):
        pool = names.pool(unit)
        own = (seconds[len(account.culprits) :] * pool.ranks * pool.gpus_per_rank).tolist()
        for part, lost in zip(account.parts, own, strict=True):
            row = made.setdefault(pool.name, {}).setdefault(part.kind, {}).setdefault(CAUSES[part.cause], {})
            row[part.micro_batch] = row.get(part.micro_batch, 0.0) + lost
    return {pool: {kind: _lists(causes) for kind, causes in kinds.items()} for pool, kinds in made.items()}


def _lists(causes: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    return {cause: [*row.values()] for cause, row in causes.items() if any(row.values())}


# summaries ----------------------------------------------------------------------------------------------------------


def told(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return whom the GPUs of runs of one scenario waited for: the worst, every kind, and where they stood still."""
    frames = [run.blame for run in runs if run.blame]
    if len(frames) < len(runs):
        return None
    whole = sum(run.duration * run.gpu_count for run in runs)
    found: dict[str, Any] = {}
    for kind in ("peer", "port"):
        found[f"{kind}s"] = dict(_worst(frames, kind, whole))
    found["kinds"] = {kind: _told(seconds, whole) for kind, seconds in sums(frames, "kind").items()}
    found["waits"] = added([run.waits for run in runs])
    found["critical_path"] = averaged([run.critical for run in runs if run.critical]) or None
    return found


def sums(frames: Sequence[Columns], name: str, kind: str = "") -> dict[str, float]:
    """Return GPU-seconds by the values of a column, the most first; of one kind of culprit, or of all."""
    found: dict[str, float] = {}
    for frame in frames:
        for key, own, seconds in zip(frame[name], frame["kind"], frame["gpu_s"], strict=True):
            if kind in {"", own}:
                found[str(key)] = found.get(str(key), 0.0) + float(seconds)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _worst(frames: Sequence[Columns], kind: str, whole: float) -> Iterator[tuple[str, dict[str, float]]]:
    every = sums(frames, "culprit", kind)
    yield from ((name, _told(every[name], whole)) for name in list(every)[:WORST])


def _told(seconds: float, whole: float) -> dict[str, float]:
    return {"gpu_s": seconds, "share": ratio(seconds, whole)}


def averaged(found: Sequence[Any]) -> dict[str, Any]:
    """Return one critical path of several: steps added up, all else averaged, but of the slacks the least is kept."""
    if len(found) < 2:
        return dict(*found)
    slacks = {part: [each["slack_ms"][part] for each in found] for part in found[0]["slack_ms"]}
    return {
        "steps": sum(each["steps"] for each in found),
        "shares": _means([each["shares"] for each in found]),
        "units": _means([each["units"] for each in found]),
        "slack_ms": {
            part: {"min": min(each["min"] for each in own), "mean": sum(each["mean"] for each in own) / len(own)}
            for part, own in slacks.items()
        },
    }


def _means(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in shares for name in each)
    means = {name: sum(each.get(name, 0.0) for each in shares) / len(shares) for name in names}
    return dict(sorted(means.items(), key=lambda item: (-item[1], item[0])))


def added(trees: Sequence[Any]) -> Any:
    """Add up numbers at the same places of several trees."""
    first = trees[0]
    if isinstance(first, Mapping):
        keys = dict.fromkeys(key for tree in trees for key in tree)
        return {key: added([tree[key] for tree in trees if key in tree]) for key in keys}
    return [sum(each) for each in zip_longest(*trees, fillvalue=0.0)]
