"""Published measurements against predictions: every case of ``data/published.csv`` that the program can simulate.

A case is an operator, an attention layer or a whole scenario; its row says how to predict it, with which settings, and
where the figure was published. Nothing here is fitted on.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Gqa, Layer, Llm, Precision
from afdsim.cluster.colocated import Colocated, TensorParallel
from afdsim.cluster.deployment import AttentionPool
from afdsim.cost.all_to_all import exchange, pair_bytes
from afdsim.cost.anatomy import Setting, attention_seconds, explain
from afdsim.errors import CatalogError
from afdsim.scenario.document import load, shipped
from afdsim.simulation import simulate

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published figure."""

    id: str
    kind: str
    """Class of figures that is judged together."""
    how: str
    """"layer", "scenario", "exchange" (an all-to-all alone), "capacity" (KV cache of a tensor-parallel dense model), or
    empty where nothing can predict it: `note` says why."""
    settings: str
    """``key=value`` texts: of a layer, of a model and its GPUs, or a scenario's name and its overrides."""
    metric: str
    """attention_alone, ``operator NAME``, tokens of a cache, or a key of the result."""
    measured: float
    unit: str
    source: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a case."""

    case: Case
    predicted: float
    """In the unit of the case."""

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.case.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """How well a class of figures is predicted."""

    kind: str
    cases: int
    error: float
    """Median of the absolute errors."""
    worst: float


@cache
def published() -> tuple[Case, ...]:
    """Return all packaged cases, in the order of the file."""
    text = files("afdsim").joinpath("data", "published.csv").read_text(encoding="utf-8")
    return tuple(read_case(line) for line in csv.DictReader(text.splitlines()))


def read_case(line: Mapping[str, str]) -> Case:
    """Return the case of one line; a figure without a source, or without a way and a reason, is refused."""
    if not line["source"].strip() or not (line["how"] or line["note"].strip()):
        raise CatalogError(f"published case {line['id']!r} states no source, or neither how nor why not")
    own = {"kind": line["class"], "measured": float(line["measured"])}
    rest = {field.name: line[field.name] for field in fields(Case) if field.name not in own}
    return Case(**own, **rest)  # type: ignore[arg-type]


def simulable(case: Case) -> bool:
    """Return whether the program can predict `case`: it says how, and its scenario ships."""
    return case.how in ("layer", "exchange", "capacity") or (
        case.how == "scenario" and case.settings.split()[0] in shipped()
    )


def validate(cases: Iterable[Case] | None = None, *, progress: Progress | None = None) -> list[Verdict]:
    """Predict every simulable case."""
    verdicts = []
    for case in published() if cases is None else cases:
        if simulable(case):
            if progress is not None:
                progress(case.id)
            verdicts.append(Verdict(case=case, predicted=predict(case)))
    return verdicts


def predict(case: Case) -> float:
    """Return what the program predicts for `case`, in its unit."""
    if case.how == "scenario":
        return _simulated(case)
    if case.how == "exchange":
        return _exchanged(case)
    if case.how == "capacity":
        return _held(case)
    setting = layer_setting(case.settings)
    if case.metric == "attention_alone":
        return attention_seconds(setting) * 1e6
    name = case.metric.removeprefix("operator ")
    return sum(part.seconds for part in explain(setting).parts if part.name == name) * 1e6


def layer_setting(text: str) -> Setting:
    """Return the layer that ``model=step3 gpu=H800 batch=64 context=8192 kv_cache=bf16`` asks for."""
    asked = dict(pair.split("=", 1) for pair in text.split())
    roles = {field.name for field in fields(Precision)}
    numbers: dict[str, Any] = {
        name: int(value) for name, value in asked.items() if name not in roles | {"model", "gpu"}
    }
    precision = Precision(**{name: value for name, value in asked.items() if name in roles})
    return Setting(llm=catalog.llm(asked["model"]), gpu=catalog.gpu(asked["gpu"]), precision=precision, **numbers)


def _exchanged(case: Case) -> float:
    """Microseconds of the all-to-all ``gpu=H800 gpus=8 tokens=128 top_k=8 hidden=7168 dtype=fp8``."""
    asked = dict(pair.split("=", 1) for pair in case.settings.split())
    kernel = exchange("low_latency", case.metric, catalog.gpu(asked["gpu"]), int(asked["gpus"]))
    nbytes = int(asked["tokens"]) * int(asked["top_k"]) * pair_bytes(int(asked["hidden"]), asked["dtype"])
    return float(kernel.seconds(nbytes)) * 1e6


def _held(case: Case) -> float:
    """Tokens that the KV cache of a rank holds, of a model and GPUs written as numbers; BF16 throughout.

    ``gpu=A100 memory_mib=40960 tp=4 share=0.95 layers=64 hidden=9216 heads=72 kv_heads=72 head_dim=128 inner=36864
    gated=0 vocab=50272 tied=1``
    """
    text = dict(pair.split("=", 1) for pair in case.settings.split())
    gpu, share = catalog.gpu(text.pop("gpu")), float(text.pop("share"))
    asked = {name: int(value) for name, value in text.items()}
    attention = Gqa(heads=asked["heads"], kv_heads=asked["kv_heads"], head_dim=asked["head_dim"])
    layer = Layer(attention=attention, ffn=Dense(inner=asked["inner"], gated=bool(asked["gated"])))
    llm = Llm(
        name=case.id,
        hidden=asked["hidden"],
        vocab=asked["vocab"],
        layers=(layer,) * asked["layers"],
        source=case.source,
        tied=bool(asked["tied"]),
    )
    memory = asked["memory_mib"] * 2.0**20 if "memory_mib" in asked else gpu.memory
    engine = Colocated(
        llm=llm,
        precision=Precision(attention="bf16", ffn="bf16"),
        attention=AttentionPool(gpu=replace(gpu, memory=memory), instances=1, dp=1, tp=asked["tp"]),
        experts=TensorParallel(),
        num_microbatches=1,
        max_num_seqs=1,
        gpu_memory_utilization=share,
    )
    return max(0.0, engine.kv_budget // engine.kv_cache.reserved(1))


def _simulated(case: Case) -> float:
    name, *overrides = case.settings.split()
    summary = simulate(load(name, overrides=overrides), watch=False).summary
    return float(summary["afdsim"].get(case.metric, summary.get(case.metric)))


def medians(verdicts: Sequence[Verdict]) -> list[Median]:
    """Return the median and the worst absolute error per class."""
    return [
        Median(kind=kind, cases=len(found), error=statistics.median(found), worst=max(found))
        for kind in dict.fromkeys(verdict.case.kind for verdict in verdicts)
        for found in ([abs(verdict.error) for verdict in verdicts if verdict.case.kind == kind],)
    ]
