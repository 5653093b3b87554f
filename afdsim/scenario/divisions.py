"""What of a model does not divide over a deployment as it is written, and the nearest values with which it does.

A value is called nearest only after the deployment was built with it: every other rule of the tree holds there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, assert_never

from pydantic import ValidationError

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Llm
from afdsim.cluster import degrees
from afdsim.scenario import tree
from afdsim.scenario.part import Fault


@dataclass(frozen=True, kw_only=True)
class Way:
    """A key that decides a degree."""

    key: str
    """Dotted, below the deployment."""
    now: int
    candidates: tuple[int, ...]
    inside: str = ""
    """Where the value is a map: its one key that is written, the other follows from it."""
    shards: bool = False
    """Whether the value is a text, "tp8" or "replicated"."""

    def value(self, degree: int) -> Any:
        """Return what is written for a degree."""
        if self.shards:
            return f"tp{degree}" if degree > 1 else "replicated"
        return {self.inside: degree} if self.inside else degree

    def shown(self, degree: int) -> str:
        """Return it as in a file."""
        return f"{{{self.inside}: {degree}}}" if self.inside else str(self.value(degree))


@dataclass(frozen=True, kw_only=True)
class Uneven:
    """What does not divide, over what, and the keys that may help, the likeliest first."""

    path: str
    what: tuple[str, ...]
    over: str
    ways: tuple[Way, ...]


def faults(model: str, deployment: tree.Deployment) -> Iterator[Fault]:
    """Yield every degree that the model does not allow, with the nearest that it does."""
    llm = catalog.llm(model)
    found = tuple(uneven(llm, deployment))
    for each in found:
        others = {other.path for other in found} - {each.path}
        yield (
            each.path,
            f"{degrees.undivided(each.what)} over {each.over}; {_way_out(llm, deployment, each, others)}",
        )


def _way_out(llm: Llm, deployment: tree.Deployment, fault: Uneven, others: set[str]) -> str:
    """Return the nearest values of the first key that helps."""
    for way in fault.ways:
        near = degrees.nearest(
            way.now,
            way.candidates,
            lambda degree, way=way: _sound(llm, deployment, way, degree, others),  # type: ignore[misc]
        )
        if near:
            return f"nearest for deployment.{way.key}: {' or '.join(map(way.shown, near))}"
    return f"no other value of deployment.{fault.ways[0].key} alone does"


def _sound(llm: Llm, deployment: tree.Deployment, way: Way, degree: int, others: set[str]) -> bool:
    """Whether the deployment can be built with the degree, and nothing is uneven but what is so already elsewhere."""
    data = deployment.model_dump(mode="json", exclude_none=True)
    *parents, last = way.key.split(".")
    part = data
    for key in parents:
        part = part[key]
    part[last] = way.value(degree)
    try:
        varied = type(deployment).model_validate(data)
    except ValidationError:
        return False
    return {each.path for each in uneven(llm, varied)} <= others


def uneven(llm: Llm, deployment: tree.Deployment) -> Iterator[Uneven]:
    """Yield what does not divide."""
    match deployment:
        case tree.Afd():
            rules = _of_afd(llm, deployment)
        case tree.Colocated():
            rules = _of_colocated(llm, deployment)
        case tree.TensorParallel():
            rules = _of_tensor_parallel(llm, deployment)
        case _:
            assert_never(deployment)
    yield from (rule for rule in rules if rule.what)


def _of_afd(llm: Llm, afd: tree.Afd) -> Iterable[Uneven]:
    pool, ffn = afd.attention, afd.ffn
    yield Uneven(
        path="deployment.attention.parallelism",
        what=degrees.attention_uneven(llm, pool.parallelism.tp),
        over=f"tp={pool.parallelism.tp}",
        ways=(_inside(pool, "attention.parallelism", "tp"),),
    )
    shards = tree.degree(pool.o_proj)
    yield Uneven(
        path="deployment.attention.o_proj",
        what=degrees.output_uneven(llm, shards),
        over=pool.o_proj,
        ways=(Way(key="attention.o_proj", now=shards, candidates=_divisors(pool.gpus_per_instance), shards=True),),
    )
    yield from _of_ffn(llm, ffn)


def _of_ffn(llm: Llm, ffn: tree.FfnPool) -> Iterable[Uneven]:
    whole, (ep, tp) = ffn.across == "experts", (ffn.parallelism.ep, ffn.parallelism.tp)
    instances = Way(key="ffn.instances", now=ffn.instances, candidates=tuple(range(1, 2 * ffn.instances + 64)))
    split = _inside(ffn, "ffn.parallelism", "ep")
    groups = (ffn.instances if whole else 1) * ep
    experts = degrees.experts_uneven(llm, groups)
    yield Uneven(
        path="deployment.ffn",
        what=experts,
        over=f"instances x ep = {ffn.instances} x {ep} = {groups}" if whole and ffn.instances > 1 else f"ep={ep}",
        ways=(instances, split) if whole and ffn.instances > 1 else (split, instances),
    )
    cut = tp * (1 if whole else ffn.instances)
    yield Uneven(
        path="deployment.ffn.parallelism",
        what=degrees.width_uneven(llm, cut),
        over=f"tp={tp}" if whole or ffn.instances == 1 else f"instances x tp = {ffn.instances} x {tp} = {cut}",
        ways=(split,) if whole else (instances, split),
    )
    gpus = ffn.instances * ffn.gpus_per_instance
    each = Way(key="ffn.gpus_per_instance", now=ffn.gpus_per_instance, candidates=tuple(range(1, 17)))
    yield Uneven(
        path="deployment.ffn",
        what=() if experts else degrees.dense_uneven(llm, gpus),
        over=f"the {gpus} GPUs of the FFN pool",
        ways=(instances, each),
    )


def _of_colocated(llm: Llm, engine: tree.Colocated) -> Iterable[Uneven]:
    tp, copies = engine.parallelism.tp, engine.redundant_experts
    yield Uneven(
        path="deployment.parallelism",
        what=(*degrees.attention_uneven(llm, tp), *degrees.dense_uneven(llm, tp)),
        over=f"tp={tp}",
        ways=(_inside(engine, "parallelism", "tp"),),
    )
    groups = engine.instances * engine.gpus_per_instance - engine.shared_expert_gpus
    experts = degrees.experts_uneven(llm, groups, copies)
    more = Way(key="redundant_experts", now=copies, candidates=tuple(range(copies + groups + 1)))
    servers = Way(key="instances", now=engine.instances, candidates=tuple(range(1, 2 * engine.instances + 64)))
    yield Uneven(
        path="deployment.redundant_experts" if copies else "deployment",
        what=(*experts, f"{copies} {'copy' if copies == 1 else 'copies'}") if experts else (),
        over=f"{groups} groups of GPUs",
        ways=(more, servers) if copies else (servers, more),
    )


def _of_tensor_parallel(llm: Llm, engine: tree.TensorParallel) -> Iterable[Uneven]:
    gpus, ep = engine.gpus, engine.ep
    fewer = Way(key="gpus", now=gpus, candidates=tuple(range(1, catalog.gpu(engine.gpu).scale_up + 1)))
    groups = Way(key="ep", now=ep, candidates=_divisors(gpus))
    yield Uneven(
        path="deployment.gpus",
        what=(
            *degrees.attention_uneven(llm, gpus),
            *degrees.dense_uneven(llm, gpus),
            *degrees.shared_uneven(llm, gpus),
        ),
        over=f"{gpus} GPUs",
        ways=(fewer,),
    )
    yield Uneven(
        path="deployment.ep",
        what=(*degrees.experts_uneven(llm, ep), *degrees.width_uneven(llm, gpus // ep)),
        over=f"ep={ep} groups of {gpus // ep} GPUs",
        ways=(groups, fewer),
    )


def _inside(pool: tree.AttentionPool | tree.FfnPool | tree.Colocated, key: str, name: str) -> Way:
    """Return the way to cut the GPUs of an instance otherwise."""
    now = int(getattr(pool.parallelism, name))
    return Way(key=key, now=now, candidates=_divisors(pool.gpus_per_instance), inside=name)


def _divisors(count: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, count + 1) if count % n == 0)
