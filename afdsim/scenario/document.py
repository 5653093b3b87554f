"""One YAML file <-> one frozen tree.

`load` reads a file, a shipped name or a dict, follows ``extends``, applies overrides and answers with a Scenario, or
with a ScenarioError that lists every fault, each as ``file:line:col: path: message``. A Scenario knows its content key,
where each value was written, and how to vary one of them. The random streams of a run are here too, because they are
part of what a scenario with a seed means.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from afdsim import units
from afdsim.catalog import entries as catalog
from afdsim.errors import ScenarioError
from afdsim.scenario import (
    asked,
    cabling,
    caching,
    complaints,
    conversing,
    divisions,
    extents,
    failing,
    jsonschema,
    leaves,
    prefilling,
    routing,
    tree,
    yamlfile,
)
from afdsim.scenario.part import Fault, Part
from afdsim.scenario.yamlfile import Document, Keys, Mark

Source = str | Path | Mapping[str, Any]
"""A file, the name of a shipped scenario, or the data itself."""

SWEEP = ".sweep.yaml"
"""End of the names of files that hold a sweep, not a scenario."""

_A_MODEL = "{0}: is a model, not a scenario; afdsim check {0}, or 'model: {0}' in a scenario (afdsim init)"


class Scenario(Part):
    """Everything that a run needs: model, cluster, workload, and how to simulate them."""

    version: Annotated[int, leaves.Version()] = 1
    """Version of the format."""
    name: Annotated[str, leaves.Name()] = "scenario"
    """Name of the scenario in reports and folders; default: that of its file."""
    model: Annotated[str, leaves.ModelName()]
    """Model: a name of `afdsim list models`, or the path of a Hugging Face config.json or of its folder."""
    precision: tree.Precision = tree.Precision()
    """Number formats."""
    deployment: tree.Deployment
    """How the model is laid out on GPUs; `type` chooses the kind."""
    prefill: prefilling.Asked | None = None
    """Who computes prompts; default: nobody, their KV cache is there when a request is admitted."""
    network: tree.Network = tree.Network()
    """What moves tokens between instances."""
    variation: tree.Variation = tree.Variation()
    """Jitter, spikes, stragglers and skewed experts."""
    workload: asked.Workload
    """What is asked: arrivals and lengths."""
    kv_cache: caching.KvCache | None = None
    """Blocks of the KV cache; default: a block is one token, and all that a request may need is reserved."""
    sla: asked.Sla | None = None
    """Limits; default: none, so that there is no verdict."""
    failures: failing.Failures | None = None
    """Crashes and repairs; default: nothing fails."""
    router: routing.Router | None = None
    """Several cells behind a router; default: one."""
    cost: Mapping[tree.Gpu, Annotated[float, leaves.Amount("price", positive=False)]] = Field(default_factory=dict)
    """Price of a GPU and hour by name of the GPU; default: the price of the catalog, where it has one."""
    run: tree.Run = tree.Run()
    """How to simulate."""

    _document: Document = PrivateAttr(default_factory=lambda: Document(data={}))
    _inside: str = PrivateAttr("")

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        """Let a quantised checkpoint decide the formats of weights of which nothing is said.

        Run folders of before `failures` could be said hold an empty list of them.
        """
        if isinstance(data, dict) and data.get("failures") == []:
            data = {key: value for key, value in data.items() if key != "failures"}
        if not isinstance(data, dict) or not isinstance(data.get("precision", {}), dict):
            return data
        given = {role: dtype for role, dtype in data.get("precision", {}).items() if dtype is not None}
        stored = leaves.stored(data.get("model"), given)
        return data if stored == given else data | {"precision": stored}

    def faults(self) -> Iterator[Fault]:
        """Check what no single part can know."""
        yield from extents.arrivals(self.workload)
        yield from self._misfits(self.deployment)
        yield from divisions.faults(self.model, self.deployment, self._misfits)
        if self.mixed is None:
            yield from prefilling.misfits(self.servers, self.model, self.workload, self.sla)
        if self.servers is not None and self.router is not None and len(self.router.cells or ()) > 1:
            yield (
                "router.cells",
                "must be of one kind behind prefill servers, which send their KV caches to any of them",
            )

    def _misfits(self, deployment: tree.Deployment) -> Iterator[Fault]:
        """Yield what of the rest does not fit a deployment."""
        pools = cabling.servers(deployment, self.network)
        for target in self.variation.straggler:
            pool, index = target.rstrip("]").split("[")
            if pool not in pools:
                words = " and ".join(f"'{name}[i]'" for name in pools)
                yield f"variation.straggler.{target}", f"a {deployment.type} deployment has {words}"
            elif int(index) >= pools[pool].instances:
                yield f"variation.straggler.{target}", f"{pool} has instances 0..{pools[pool].instances - 1}"
        spike = self.variation.spike
        if spike is not None and spike.where == "link" and isinstance(deployment, tree.TensorParallel):
            yield "variation.spike.where", "a tensor_parallel deployment posts nothing: use 'where: compute'"
        if self.failures is not None:
            found = failing.misfits(self.failures, pools, deployment.type)
            yield from ((f"failures.{path}", text) for path, text in found)
        yield from extents.misfits(deployment, self.model, per_gpu=self.run.granularity == "gpu")
        yield from self._apart()
        arrival = self.workload.arrival
        alone = self.workload.sessions is None and self.servers is None  # who thinks or has no answer yet takes no slot
        if isinstance(arrival, asked.ClosedLoop) and alone and (arrival.concurrency or 0) > deployment.slots:
            yield "workload.arrival.concurrency", f"must be <= {deployment.slots:,}, all slots of the deployment"
        if isinstance(deployment, tree.Afd):
            yield from _shared_faults(self.model, deployment)
            yield from cabling.misfits(self.network, deployment)
        else:
            yield from _colocated_faults(self.model, deployment, self.network, prefilled=self.servers is not None)
        yield from prefilling.unmixed(self.mixed, deployment, self.kv_cache)

    def _apart(self) -> Iterator[Fault]:
        """Yield what does not go together, whatever the deployment."""
        yield from caching.misfits(self.kv_cache, self.workload.sessions)
        if self.workload.sessions is not None:
            yield from conversing.misfits(self.workload, self._around())
        if self.router is not None:
            yield from routing.misfits(self.router, self.workload, self.failures is not None)
        if self.workload.samples is not None:
            yield from conversing.unsampled(self.workload, self._around())
        for key in ("prefix", "samples"):
            if getattr(self.workload, key) is not None:
                yield from ((f"workload.{key}", text) for text in self._unshared())
        if self.mixed is not None:
            yield from self._unmixed()
        if self.failures is not None and self.kv_cache is not None and self.kv_cache.policy == "grow":
            yield "kv_cache.policy", "grow is not modelled together with failures; write 'policy: reserve'"

    def _unmixed(self) -> Iterator[Fault]:
        """Yield what is not modelled together with prompts inside decode steps."""
        for path, given in (("failures", self.failures), ("workload.prefix", self.workload.prefix)):
            if given is not None:
                yield path, "is not modelled together with 'prefill: {mode: mixed}'; remove one of them"

    def _around(self) -> tuple[str, ...]:
        """Return what of prefill, router and failures there is."""
        found = {"prefill": self.prefill, "router": self.router, "failures": self.failures}
        return tuple(name for name, part in found.items() if part is not None)

    def _unshared(self) -> Iterator[str]:
        """Yield why prompts that begin alike could not share blocks."""
        from afdsim.catalog.llm import kept

        if self.kv_cache is None:
            yield "is shared in the blocks of a KV cache; add 'kv_cache: {}'"
        if self.failures is not None:
            yield "is not modelled together with failures; remove one of them (or set it to null)"
        mixers = (mixer for layer in catalog.llm(self.model).layers for mixer in layer.mixers)
        if any(kept(mixer) is not None for mixer in mixers):
            yield "is not modelled of layers that keep a window or a state, which this model has; remove it"

    @property
    def servers(self) -> prefilling.Prefill | None:
        """Prefill servers in front of the deployment; None without."""
        return self.prefill if isinstance(self.prefill, prefilling.Prefill) else None

    @property
    def mixed(self) -> prefilling.Mixed | None:
        """How decode steps compute prompts; None where they compute none."""
        return self.prefill if isinstance(self.prefill, prefilling.Mixed) else None

    @property
    def inside(self) -> str:
        """What comes before the paths of a part, such as ``router.cells[1].``; nothing of a whole scenario."""
        return self._inside

    @property
    def unlike(self) -> bool:
        """Whether a router sends requests to cells that are not all the deployment of the scenario."""
        return self.router is not None and self.router.cells is not None

    @property
    def parts(self) -> tuple[Scenario, ...]:
        """The scenario of every kind of cell behind a router, with as many replicas; else the scenario itself."""
        return self._kinds or (self,)

    @cached_property
    def _kinds(self) -> tuple[Scenario, ...]:
        cells = () if self.router is None else self.router.cells or ()
        return tuple(self._part(number, each) for number, each in enumerate(cells))

    def _part(self, number: int, each: routing.Cells) -> Scenario:
        """The scenario with what differs in some cells on top, and checked again; marks are those of its keys."""
        assert self.router is not None
        document, keys = self._document, ("router", "cells", number)
        router = {"replicas": each.replicas, "policy": self.router.policy}
        own = {key: value for key, value in document.data["router"]["cells"][number].items() if key != "replicas"}
        data = {key: value for key, value in document.data.items() if key != "router"} | {"router": router}
        if own.get("deployment", {}).get("type", self.deployment.type) != self.deployment.type:
            data = routing.of_another_type(data)
        found = {path: document.mark((*keys, *path)) for path in _all_keys(own, ()) if path}
        marks = {path: mark for path, mark in found.items() if mark is not None}
        base = Document(data=data, marks=document.marks)
        return _validated(_shorthand(yamlfile.merged(base, Document(data=own, marks=marks))), under=keys)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the meaning: every resolved value, the content of the files it names, the version of afdsim."""
        from afdsim import __version__

        data = self.resolved()
        if self.unlike:
            data["router"]["cells"] = [part.key for part in self.parts]
        data["model"] = _content(data["model"])
        if "trace" in data["workload"]:
            data["workload"]["trace"]["path"] = _content(data["workload"]["trace"]["path"])
        if "path" in data["variation"]["experts"]:
            data["variation"]["experts"]["path"] = _content(data["variation"]["experts"]["path"])
        text = json.dumps({"afdsim": __version__, "scenario": data}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is allowed and may surprise, one line each, with its position."""
        return tuple(": ".join(filter(None, (self.where(path), path, text))) for path, text in self.cautions)

    @property
    def cautions(self) -> tuple[tuple[str, str], ...]:
        """What is allowed and may surprise: (path, sentence)."""
        found = []
        if isinstance(self.deployment, tree.Afd) and self.deployment.num_microbatches == 1:
            found.append(("deployment.num_microbatches", "no overlap: with one micro-batch the pools take turns"))
        if math.isinf(getattr(self.workload.arrival, "request_rate", 0.0)):
            found.append(("workload.arrival.request_rate", "infinite: all requests arrive at time 0"))
        found.extend(prefilling.cautions(self.mixed, self.deployment))
        experts, copies = self.variation.experts, getattr(self.deployment, "redundant_experts", 0)
        if copies and experts.law in {"power_law", "trace"} and experts.placement == "contiguous":
            text = "copies lie in a block behind all experts, on GPUs of their own; 'balanced' packs by load (EPLB)"
            found.append(("variation.experts.placement", text))
        return tuple(found)

    def where(self, path: str) -> str:
        """Return ``file:line:col`` of a dotted path or of its nearest given parent; empty if it came from a dict."""
        return self._document.where(_keys(path))

    def origins(self, part: str) -> dict[str, str]:
        """Return who gave each key of a part of the scenario that was given: "scenario" or "--set"."""
        given = self._document.data.get(part) or {}
        return {
            key: "--set" if self._document.where((part, key)).startswith("--set ") else "scenario"
            for key, value in given.items()
            if value is not None
        }

    def vary(self, path: str, value: object) -> Scenario:
        """Return this scenario with the value at a dotted path replaced, and everything checked again."""
        return self.varied({path: value})

    def varied(self, changes: Mapping[str, object], *, folder: str = "") -> Scenario:
        """Return this scenario with several values replaced at once; paths among them start from `folder`."""
        document, mark = self._document, Mark(key="", value="", folder=folder)
        for path, value in changes.items():
            document = _put(document, path, _plain(value), mark)
        return _validated(document)

    def given(self) -> dict[str, Any]:
        """Return what was written: ``extends`` and overrides applied, no defaults."""
        return yamlfile.parse(yamlfile.dump(self._document.data), "given").data  # type: ignore[no-any-return]

    def resolved(self) -> dict[str, Any]:
        """Return every value including defaults, quantities as texts with units; it loads to the same key."""
        return self.model_dump(mode="json", exclude_none=True)


def load(source: Source | Scenario, overrides: Iterable[str] = ()) -> Scenario:
    """Return the scenario in a file, of a shipped name or of a dict, with overrides such as ``"a.b=c"`` applied."""
    if isinstance(source, Scenario):
        document = source._document
    elif isinstance(source, Mapping):
        document = _extended(_from_mapping(source), ())
    else:
        path = locate(source)
        if holds_model(path):
            raise ScenarioError(_A_MODEL.format(path))
        document = _extended(yamlfile.read(path), (path.resolve(),))
        document.data.setdefault("name", path.stem)
    return _validated(_overridden(document, overrides))


def within(document: Document, key: str, overrides: Iterable[str] = ()) -> Scenario:
    """Return the scenario that is written under a key of another file; its paths start from that file."""
    marks = {keys[1:]: mark for keys, mark in document.marks.items() if keys[:1] == (key,)}
    return _validated(_overridden(_extended(Document(data=document.data[key], marks=marks), ()), overrides))


def vary(scenario: Scenario, path: str, value: object) -> Scenario:
    """Return `scenario` with the value at a dotted path replaced, and everything checked again."""
    return scenario.vary(path, value)


def shipped() -> tuple[str, ...]:
    """Return the names of the scenarios that travel with the package."""
    return tuple(sorted(path.stem for path in shelf().glob("*.yaml") if not path.name.endswith(SWEEP)))


def locate(source: str | Path) -> Path:
    """Return the file of a scenario: a path first, then a shipped name, with or without ``.yaml``."""
    path = Path(source)
    if path.name.endswith(SWEEP):
        raise ScenarioError(f"{source}: a sweep is no scenario; afdsim sweep {source}")
    if path.is_file():
        return path
    if str(path.parent) in (".", "scenarios") and path.name.removesuffix(".yaml") in shipped():
        return near(shelf() / f"{path.name.removesuffix('.yaml')}.yaml")
    if holds_model(path / "config.json"):
        raise ScenarioError(_A_MODEL.format(path))
    close = units.suggestion(path.stem, shipped())
    what = "is a folder" if path.is_dir() else "no such file"
    if held := [each for each in ("winner.yaml", "scenario.yaml") if (path / each).is_file()]:
        raise ScenarioError(f"{source}: {what}; give {path / held[0]}")
    raise ScenarioError(f"{source}: {what}, and no shipped scenario{close} (shipped: {', '.join(shipped())})")


def holds_scenario(path: Path) -> bool:
    """Return whether a JSON file holds a scenario, by its keys."""
    return not {"deployment", "extends", "workload"}.isdisjoint(_json_keys(path))


def holds_model(path: Path) -> bool:
    """Return whether a file holds the config of a model: JSON with its keys and none of a scenario."""
    if path.suffix != ".json" or holds_scenario(path):
        return False
    return not {"architectures", "model_type"}.isdisjoint(_json_keys(path))


def _json_keys(path: Path) -> Collection[str]:
    """Return the keys of the object in a JSON file; none where there is no such thing."""
    try:
        keys = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ()
    return keys.keys() if isinstance(keys, dict) else ()


def schema(*, extending: bool = False) -> dict[str, Any]:
    """Return the JSON schema of scenario files.

    Nothing is required in it, because a file may inherit any key with ``extends``. With `extending`, any key may be
    null too, as where it takes that of the base out: the schema that editors want.
    """
    described = jsonschema.described(Scenario)
    return jsonschema.lenient(described) if extending else described


def _extended(document: Document, seen: tuple[Path, ...]) -> Document:
    """Put `document` on top of the scenario that it extends."""
    if "extends" not in document.data:
        return _shorthand(document)
    keys: Keys = ("extends",)
    base, at = document.data.pop("extends"), document.where(keys)
    try:
        path = _base(base, document.folder(keys), seen)
    except ScenarioError as error:
        raise ScenarioError(f"{at}: extends: {error}".removeprefix(": ")) from None
    parent = _extended(yamlfile.read(path), (*seen, path.resolve()))
    parent.data.pop("name", None)  # a scenario is named by itself
    return _shorthand(yamlfile.merged(parent, document))


def _base(base: Any, folder: Path, seen: tuple[Path, ...]) -> Path:
    """Return the file that ``extends`` names: beside the one that says so, or shipped."""
    if not isinstance(base, str) or "\0" in base:
        raise ScenarioError(f"must be a file or the name of a shipped scenario {leaves.got(base)}")
    path = folder / base if (folder / base).is_file() else locate(base)
    if path.resolve() in seen:
        circle = " -> ".join(file.name for file in (*seen[seen.index(path.resolve()) :], path))
        raise ScenarioError(f"goes in a circle: {circle}")
    return path


def _overridden(document: Document, overrides: Iterable[str]) -> Document:
    wrong: list[str] = []
    for override in overrides:
        try:
            document = _override(document, override)
        except ScenarioError as error:
            wrong.append(str(error))
    if wrong:
        raise ScenarioError("\n".join(wrong))
    return document


def _override(document: Document, override: str) -> Document:
    path, equals, text = override.partition("=")
    at = f"--set {override}"
    if not equals or not path.strip():
        raise ScenarioError(f"{at}: write path=value, for example 'deployment.max_num_seqs=256'")
    value = yamlfile.parse(text, at)
    if value.faults:
        raise ScenarioError(told(value.faults))
    return _put(document, path.strip(), value.data, Mark(key=at, value=at, folder=""))


def _put(document: Document, path: str, value: Any, mark: Mark) -> Document:
    keys = _keys(path)
    if (fault := complaints.no_such_key(Scenario, keys, document.data)) is not None:
        raise ScenarioError(f"{mark.key}: {path}: {fault}".removeprefix(": "))
    return _shorthand(yamlfile.put(document, yamlfile.indexed(document.data, keys), value, mark))


def told(faults: Iterable[str], most: int = 9) -> str:
    """Return every fault once, in the order of the file; the first ones where there are more than a screen takes."""
    lines = sorted(dict.fromkeys(faults), key=_by_position)
    rest = [f"... and {len(lines) - most:,} more faults"] if len(lines) > most + 1 else []
    return "\n".join([*lines[:most], *(rest or lines[most:])])


def _validated(document: Document, under: Keys = ()) -> Scenario:
    """Return the scenario of plain data, or raise every fault at once; it stands `under` some keys of another."""
    _anchor(document)
    try:
        scenario = Scenario.model_validate(document.data)
    except ValidationError as error:
        faults = [*document.faults, *complaints.lines(error, document, Scenario, under)]
        raise ScenarioError(told(faults)) from None
    if document.faults:
        raise ScenarioError(told(document.faults))
    scenario._document = document
    scenario._inside = f"{yamlfile.dotted(under)}." if under else ""
    _ = scenario.parts  # whose faults are those of the scenario
    return scenario


def _shorthand(document: Document) -> Document:
    """Write out what may be written briefly: a bare number of tokens, a time, and arrivals that come with a trace."""
    workload = document.data.get("workload")
    if isinstance(workload, dict):
        classes = workload.get("classes")
        for part in (workload, workload.get("sessions"), *(classes if isinstance(classes, list) else ())):
            _spell_out_lengths(part)
        if "trace" in workload and "arrival" not in workload:
            workload["arrival"] = {"process": "trace"}
    return document


def _spell_out_lengths(part: Any) -> None:
    if not isinstance(part, dict):
        return
    for key in ("input_len", "output_len", "turns", "user_len"):
        if isinstance(part.get(key), int) and not isinstance(part[key], bool):
            part[key] = {"distribution": "constant", "value": part[key]}
    if isinstance(part.get("think_time"), str | int | float) and not isinstance(part["think_time"], bool):
        part["think_time"] = {"distribution": "constant", "value": part["think_time"]}


def _anchor(document: Document) -> None:
    """Make the paths in `document` absolute, each from where it was written."""
    model = document.data.get("model")
    if isinstance(model, str):
        document.data["model"] = _model_file(model, document.folder(("model",)))
    router = document.data.get("router")
    cells = router.get("cells") if isinstance(router, dict) else None
    inside = [("router", "cells", number) for number in range(len(cells) if isinstance(cells, list) else 0)]
    experts: list[Keys] = [(*keys, "variation", "experts", "path") for keys in ((), *inside)]
    for keys in (("workload", "trace", "path"), *experts):
        inner = yamlfile.at(document.data, keys[:-1])
        if isinstance(inner, dict) and isinstance(inner.get("path"), str) and "\0" not in inner["path"]:
            inner["path"] = str((document.folder(keys) / inner["path"]).resolve())


def _model_file(model: str, folder: Path) -> str:
    """Return the file of a model that is given by its file or its folder, seen from `folder`; a name as it is."""
    path = folder / model
    named = model.strip().casefold() in map(str.casefold, catalog.llms())
    if "\0" in model or named or not (leaves.is_path(model) or (path / "config.json").is_file()):
        return model
    return str(catalog.config_file(path.resolve()))


def _from_mapping(source: Mapping[str, Any]) -> Document:
    data = _plain(source)
    nowhere = Mark(key="", value="", folder="")
    return Document(data=data, marks=dict.fromkeys(_all_keys(data, ()), nowhere))


def _all_keys(data: Any, keys: Keys) -> Iterator[Keys]:
    yield keys
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _all_keys(value, (*keys, key))


def _plain(value: object) -> Any:
    """Return maps as dicts, sequences as lists, NumPy scalars as numbers."""
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise ScenarioError(f"key {strange[0]!r} must be text")
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 1) == 0 else value


def _shared_faults(model: str, deployment: tree.Afd) -> Iterator[Fault]:
    """Check that whoever computes a shared expert has one, and its tokens."""
    if deployment.shared_expert == "ffn" and deployment.dispatch == "broadcast":
        return
    from afdsim.catalog.llm import Moe

    shared = any(isinstance(layer.ffn, Moe) and layer.ffn.shared for layer in catalog.llm(model).layers)
    if deployment.shared_expert == "attention" and not shared:
        yield "deployment.shared_expert", f"{model} has no shared expert; remove the key"
    if deployment.shared_expert == "ffn" and shared:
        text = "the shared expert needs every token on the FFN side; add 'shared_expert: attention'"
        yield "deployment.dispatch", f"cannot be sparse while {text}"


def _colocated_faults(
    model: str, engine: tree.Colocated | tree.TensorParallel, network: tree.Network, *, prefilled: bool
) -> Iterator[Fault]:
    """Check that data-parallel ranks have experts in common, and that no network is asked for that is not there."""
    experts = {getattr(layer.ffn, "experts", 0) for layer in catalog.llm(model).layers} - {0}
    used = {"bandwidth", "latency"} if prefilled else {"bandwidth"}
    link = network.link.model_copy(update={key: getattr(tree.Link(), key) for key in used})
    plain = network.model_copy(update={"link": link} | ({"efficiency": tree.Network().efficiency} if prefilled else {}))
    if plain != tree.Network():
        known = "link.bandwidth, link.latency and efficiency" if prefilled else "link.bandwidth"
        yield "network", f"of a colocated deployment has {known} alone; its all-to-all kernels hold the rest"
    if isinstance(engine, tree.Colocated) and not experts and engine.instances * engine.parallelism.dp > 1:
        tp = engine.parallelism.tp
        one = "instances: 1, gpus_per_instance: 1" if tp == 1 else f"instances: 1, gpus_per_instance: {tp}, tp: {tp}"
        yield (
            "deployment",
            f"{model} has no experts, so its data-parallel ranks are independent; simulate one of them: '{one}', or "
            "'type: tensor_parallel' with gpus",
        )


def _content(path: str) -> str:
    """Return the digest of a file that a scenario names, so that the key follows its content and not its place."""
    file = Path(path)
    if not leaves.is_path(path) and not file.is_file():
        return path
    state = file.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _digest(path: str, modified: int, size: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shelf() -> Path:
    """Return the folder of shipped scenarios and sweeps: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "scenarios"
    return inside if inside.is_dir() else package.parent / "scenarios"


def near(path: Path) -> Path:
    """Return `path` as seen from the working directory if it is below it, to keep positions short."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _keys(path: str) -> Keys:
    return yamlfile.split(path)


def _by_position(line: str) -> tuple[str, int, int]:
    found = re.match(r"(?P<file>.*?):(?P<line>\d+):(?P<column>\d+): ", line)
    return (found["file"], int(found["line"]), int(found["column"])) if found else ("", 0, 0)
