"""What of a model does not divide over a deployment as it is written, and the nearest values with which it does.

A value is called nearest only after the deployment was built with it and nothing of it was uneven any more: every other
rule holds there too. Where no key helps alone, several are named that help together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias, assert_never

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

    @property
    def pool(self) -> str:
        """Whose key it is: "attention" or "ffn"; empty if the deployment has no pools."""
        return self.key.rpartition(".")[0]

    def value(self, degree: int) -> Any:
        """Return what is written for a degree."""
        if self.shards:
            return f"tp{degree}" if degree > 1 else "replicated"
        return {self.inside: degree} if self.inside else degree

    def shown(self, degree: int) -> str:
        """Return it as in a file."""
        return f"{{{self.inside}: {degree}}}" if self.inside else str(self.value(degree))


Fix: TypeAlias = tuple[Way, tuple[int, ...]]
"""A key, and its nearest values that help."""

Values: TypeAlias = Sequence[tuple[Way, int]]
"""Keys, and what each is set to."""

Rules: TypeAlias = Callable[[tree.Deployment], Iterable[Fault]]
"""What the rest of a scenario says to a deployment."""


@dataclass(frozen=True, kw_only=True)
class Uneven:
    """What does not divide, over what, and the keys that may help, the likeliest first."""

    path: str
    what: tuple[str, ...]
    over: str
    ways: tuple[Way, ...]


def faults(model: str, deployment: tree.Deployment, elsewhere: Rules) -> Iterator[Fault]:
    """Yield every degree that the model does not allow, the first with what mends all; `elsewhere` has other rules."""
    llm = catalog.llm(model)
    llm = replace(llm, layers=tuple(dict.fromkeys(llm.layers)))  # each kind once: many degrees may be tried
    if not (found := tuple(uneven(llm, deployment))):
        return
    mended = _mended(llm, deployment, found, elsewhere)
    for place, each in enumerate(found):
        none = f"no other value of deployment.{each.ways[0].key} alone does"
        fix = none if mended is None else f"mended together with {found[0].path}" if place else mended
        yield each.path, f"{degrees.undivided(each.what)} over {each.over}; {fix}"


def _mended(llm: Llm, deployment: tree.Deployment, found: Sequence[Uneven], elsewhere: Rules) -> str | None:
    """Return the nearest values of one key, or else of several together, with which nothing is uneven any more."""
    known = {path for path, _ in elsewhere(deployment)}
    ways: dict[str, dict[str, Way]] = {}
    for way in (way for each in found for way in each.ways):
        ways.setdefault(way.pool, {}).setdefault(way.key, way)
    fixes: list[Fix] = []
    for pool, keys in ways.items():
        others = tuple((way, near[0]) for way, near in fixes)

        def allowed(values: Values, pool: str = pool, others: Values = others) -> bool:
            varied = _with(deployment, [*others, *values])
            if varied is None or any(way.pool == pool for each in uneven(llm, varied) for way in each.ways):
                return False
            return {path for path, _ in elsewhere(varied)} <= known

        if not (more := _fix(tuple(keys.values()), allowed)):
            return None
        fixes += more
    return _shown(fixes)


def _fix(ways: Sequence[Way], allowed: Callable[[Values], bool]) -> list[Fix]:
    """Return the first key that helps alone with its nearest values, or two or three that help together."""
    for way in ways:
        near = degrees.nearest(way.now, way.candidates, lambda degree, way=way: allowed([(way, degree)]))  # type: ignore[misc]
        if near:
            return [(way, near)]
    for count in range(2, min(len(ways), 3) + 1):
        for some in combinations(ways, count):
            together = degrees.together(
                [way.now for way in some],
                [way.candidates for way in some],
                lambda values, some=some: allowed(tuple(zip(some, values, strict=True))),  # type: ignore[misc]
            )
            if together:
                return [(way, (degree,)) for way, degree in zip(some, together, strict=True)]
    return []


def _shown(fixes: Sequence[Fix]) -> str:
    """Return the advice in words."""
    if len(fixes) == 1:
        ((way, near),) = fixes
        return f"nearest for deployment.{way.key}: {' or '.join(map(way.shown, near))}"
    return f"nearest: {' with '.join(f'deployment.{way.key}={way.shown(near[0])}' for way, near in fixes)}"


def _with(deployment: tree.Deployment, values: Values) -> tree.Deployment | None:
    """Return the deployment with other degrees, None where it cannot be built."""
    data = deployment.model_dump(mode="json", exclude_none=True)
    for way, degree in values:
        *parents, last = way.key.split(".")
        part = data
        for key in parents:
            part = part[key]
        part[last] = way.value(degree)
    try:
        return type(deployment).model_validate(data)
    except ValidationError:
        return None


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
    each = Way(key="gpus_per_instance", now=engine.gpus_per_instance, candidates=tuple(range(1, 17)))
    yield Uneven(
        path="deployment.parallelism",
        what=(*degrees.attention_uneven(llm, tp), *degrees.dense_uneven(llm, tp)),
        over=f"tp={tp}",
        ways=(_inside(engine, "parallelism", "tp"), each),
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
    groups = Way(key="ep", now=ep, candidates=fewer.candidates)
    yield Uneven(
        path="deployment.gpus",
        what=(
            *degrees.attention_uneven(llm, gpus),
            *degrees.dense_uneven(llm, gpus),
            *degrees.shared_uneven(llm, gpus),
        ),
        over=f"{gpus} GPUs",
        ways=(fewer, groups),
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
    return Way(key=key, now=now, candidates=tuple(range(1, max(16, pool.gpus_per_instance) + 1)), inside=name)


def _divisors(count: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, count + 1) if count % n == 0)
