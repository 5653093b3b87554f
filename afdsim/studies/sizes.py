"""Sizes of one deployment: instances of each role, and cells that are alike behind a router.

A size keeps the kind of deployment, its GPUs and splits. Where experts do not divide over other GPUs, as many copies
make them even. One cell may have more or fewer instances of each role; a cell as it is may be there several times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Moe
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.routing import MOST
from afdsim.studies.layouts import AFD, EP, MICRO_BATCHES, MIXED, TP, Layout

TIMES = 2
"""Times the instances that there are, up to which those of one cell go at least."""
LARGE = 32
"""Instances of a cell beyond which it does not go, unless that is less than `TIMES` those that there are."""


class Size(NamedTuple):
    """How large a deployment is."""

    counts: tuple[int, ...]
    """Instances of each role in a cell; none of tensor parallelism, whose engines are whole."""
    cells: int = 1
    """Cells that are alike."""


def roles(asked: tree.Deployment) -> tuple[str, ...]:
    """What there are instances of in a cell."""
    match asked:
        case tree.Afd():
            return ("attention", "ffn")
        case tree.Colocated():
            return ("instances",)
    return ()


def size_of(scenario: Scenario) -> Size:
    """The size of a scenario as it is."""
    asked, router = scenario.deployment, scenario.router
    cells = 1 if router is None or router.replicas is None else router.replicas
    match asked:
        case tree.Afd(attention=attention, ffn=ffn):
            return Size((attention.instances, ffn.instances), cells)
        case tree.Colocated(instances=instances):
            return Size((instances,), cells)
    return Size((), cells)


def apart(size: Size, now: Size) -> int:
    """Instances added and removed from one size to another; a cell is all of its instances."""
    if size.cells != now.cells:
        return abs(size.cells - now.cells) * max(sum(now.counts), 1)
    return sum(abs(one - other) for one, other in zip(size.counts, now.counts, strict=True))


def sizes(now: Size, cells: int) -> Iterator[Size]:
    """Yield the sizes near one, itself first: up to so many whole cells, or one cell with as many instances.

    The instances of cells of which there are several stay: one more in every cell is no small change.
    """
    yield now
    yield from (Size(now.counts, count) for count in range(1, min(cells, MOST) + 1) if count != now.cells)
    if now.cells == 1:
        there = sum(now.counts)
        most = max(TIMES * there, min(cells * there, LARGE))
        every = product(range(1, most + 1), repeat=len(now.counts))
        yield from (Size(counts) for counts in every if sum(counts) <= most and counts != now.counts)


def ways(asked: tree.Deployment) -> tuple[int | None, ...]:
    """Micro-batches to try, as now first; none of deployments that have none."""
    if not isinstance(asked, tree.Afd):
        return (None,)
    now = asked.num_microbatches
    return (now, *(each for each in MICRO_BATCHES if each != now))


def layout(question: Scenario, counts: tuple[int, ...], micro_batches: int | None) -> Layout:
    """One cell of a size, its batch open; what cannot be about it is told when a scenario is made of it."""
    asked = question.deployment
    given = asked.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    del given["max_num_seqs"]
    match asked:
        case tree.Afd():
            given |= {role: {**given[role], "instances": n} for role, n in zip(roles(asked), counts, strict=True)}
            given["num_microbatches"] = micro_batches
            family = AFD if asked.attention.gpu == asked.ffn.gpu else MIXED
        case tree.Colocated():
            given |= {"instances": counts[0], "redundant_experts": copies(question.model, asked, counts[0])}
            family = EP
        case tree.TensorParallel():
            family = TP
    return Layout(family=family, label=label(asked, counts), deployment=given, gpus=gpus(asked, counts))


def copies(model: str, asked: tree.Colocated, instances: int) -> int:
    """Redundant experts of an engine: as now where they divide, else the fewest that make experts even."""
    groups = instances * asked.gpus_per_instance - asked.shared_expert_gpus
    counts = {layer.ffn.experts for layer in catalog.llm(model).layers if isinstance(layer.ffn, Moe)}
    experts = max(counts, default=0)
    if groups < 1 or not experts or (experts + asked.redundant_experts) % groups == 0:
        return asked.redundant_experts
    return -experts % groups


def gpus(asked: tree.Deployment, counts: tuple[int, ...]) -> dict[str, int]:
    """GPUs of a cell by kind."""
    match asked:
        case tree.Afd(attention=attention, ffn=ffn):
            found = {attention.gpu: counts[0] * attention.gpus_per_instance}
            found[ffn.gpu] = found.get(ffn.gpu, 0) + counts[1] * ffn.gpus_per_instance
            return found
        case tree.Colocated():
            return {asked.gpu: counts[0] * asked.gpus_per_instance}
        case tree.TensorParallel():
            return {asked.gpu: asked.gpus}


def label(asked: tree.Deployment, counts: tuple[int, ...]) -> str:
    """``3A2F H20 + H800``, ``EP16 H800`` or ``TP8 H800``."""
    kinds = " + ".join(gpus(asked, counts))
    match asked:
        case tree.Afd():
            return f"{counts[0]}A{counts[1]}F {kinds}"
        case tree.Colocated():
            return f"EP{counts[0] * asked.gpus_per_instance} {kinds}"
        case tree.TensorParallel():
            return f"TP{asked.gpus} {kinds}"


def changed(asked: tree.Deployment, size: Size, now: Size) -> Mapping[str, int]:
    """Instances added, or removed, of every role whose number changes; cells where theirs does."""
    found: dict[str, Any] = dict(
        zip(roles(asked), (a - b for a, b in zip(size.counts, now.counts, strict=True)), strict=True)
    )
    found["cells"] = size.cells - now.cells
    return {role: count for role, count in found.items() if count}
