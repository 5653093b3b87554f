"""What may crash in a cell, from the scenario: every crash is known beforehand, whether it is stated or drawn.

A part that wears has a stream of its own, counted by its place in the deployment; the gaps between its crashes are
exponential in simulated time. Repairs are constant: nobody has published how they spread, and so the same crashes give
the same run, stated or drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

import numpy as np

from afdsim.engine.cell import Cell
from afdsim.engine.faults import Crash, Failing, Instance
from afdsim.errors import SimulationError
from afdsim.scenario.cabling import Servers, servers
from afdsim.scenario.document import Scenario
from afdsim.scenario.failing import Failures, split
from afdsim.scenario.streams import stream


def failing(scenario: Scenario, cell: Cell, seed: int) -> Failing | None:
    """What may crash in the cell of a scenario; None where nothing does."""
    asked = scenario.failures
    if asked is None:
        return None
    if cell.refuses is not None:
        raise SimulationError(f"failures: cannot be told of this scenario: {cell.refuses}; remove failures")
    instances = tuple(_instances(cell, servers(scenario.deployment, scenario.network)))
    parts = list(_parts(instances))
    return Failing(
        instances=instances,
        crashes=lambda: heapq.merge(*_streams(asked, instances, parts, seed)),
        detection=asked.detection,
        restart=asked.restart,
        shrinks=asked.meanwhile == "shrink",
        keeps=asked.kv_cache == "kept",
        pace=asked.reprefill_rate,
    )


def _instances(cell: Cell, sizes: Mapping[str, Servers]) -> Iterator[Instance]:
    for pool in cell.pools:
        role = "instance" if pool.name == "colocated" else pool.name
        each = len(pool.units) // pool.gpus.instances
        for index in range(pool.gpus.instances):
            first = pool.units.start + index * each
            yield Instance(f"{role}[{index}]", role, sizes[role].gpus, sizes[role].nics, first, first + each)


def _parts(instances: tuple[Instance, ...]) -> Iterator[tuple[str, str, int]]:
    """(target, kind, instance) of everything that may crash, whatever of it does."""
    for index, instance in enumerate(instances):
        yield instance.name, "instance", index
        for kind, count in (("gpu", instance.gpus), ("nic", instance.nics)):
            yield from ((f"{instance.name}.{kind}[{number}]", kind, index) for number in range(count))


def _streams(
    asked: Failures, instances: tuple[Instance, ...], parts: list[tuple[str, str, int]], seed: int
) -> Iterator[Iterator[Crash]]:
    """The crashes of the stated parts, and of every part that wears."""
    place = {target: number for number, (target, _, _) in enumerate(parts)}
    names = [instance.name for instance in instances]
    stated = [
        Crash(
            event.at,
            place[event.target],
            event.target,
            names.index("{}[{}]".format(*split(event.target))),
            asked.repair if event.repair is None else event.repair,
        )
        for event in asked.events
    ]
    yield iter(sorted(stated))
    means = {} if asked.mtbf is None else asked.mtbf.given
    for number, (target, kind, instance) in enumerate(parts):
        if kind in means:
            yield _drawn(Crash(0.0, number, target, instance, asked.repair), means[kind], seed)


def _drawn(part: Crash, mean: float, seed: int) -> Iterator[Crash]:
    """The crashes of one part: gaps from a stream of its own, counted by its place in the deployment."""
    random: np.random.Generator = stream(seed, "failures", part.part)
    at = 0.0
    while True:
        at += float(random.exponential(mean))
        yield part._replace(at=at)
