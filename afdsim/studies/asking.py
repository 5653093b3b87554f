"""What a planner is asked, as scenarios whose deployment is still open: one for every workload.

A workload is a scenario file, of which all but the deployment counts, or a context: requests of equal lengths whose
sequences hold so many tokens on average while they decode. A plan sizes decode: what arrives by a law or from a trace
is taken as a closed loop of the same lengths, which keeps the batch full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from afdsim.errors import ScenarioError
from afdsim.scenario.asked import ClosedLoop, Sla
from afdsim.scenario.document import Scenario, Source, load
from afdsim.units import parse

ANSWER = 512
"""Output tokens of a request where only a context is given."""
VARIATION: Mapping[str, Any] = {"event": 0.006, "step": 0.005, "link": 0.027, "experts": {"law": "uniform"}}
"""Of a question that is no file: single kernels and steps as measured on an H200 (experiments/calibration), copies as
published for StepMesh, and tokens that draw their experts."""
PLACE = {"type": "tensor_parallel", "gpus": 1, "max_num_seqs": 1}
"""A deployment that every model allows, until there is another."""
BEYOND = {
    "sessions": "whose pauses fix the tokens",
    "prefix": "whose saving of memory depends on the batch",
    "samples": "whose saving of memory depends on the batch",
}
"""Parts of a workload that a plan cannot size."""


Workloads = Source | Scenario | Sequence[Source | Scenario]
"""A scenario, or several."""


class Ttft(NamedTuple):
    """A limit on the time to the first token, which prefill servers are to meet."""

    limit: float
    """Seconds."""
    percentile: str


def asked(
    model: str | None,
    workload: Workloads | None,
    sla: str | Mapping[str, Any] | None,
    context: int | Sequence[int] | None,
    gpus: Sequence[str],
) -> tuple[tuple[Scenario, ...], Ttft | None]:
    """Return the question of every workload, and what is asked of prefill; ScenarioError where there is no question."""
    limits = {"tpot": sla, "percentile": "mean"} if isinstance(sla, str) else sla
    limits, ttft = _split(limits)
    if (workload is None) == (context is None):
        raise ScenarioError("a plan needs a workload or a context, one of the two, e.g. --context 8192")
    if workload is not None:
        single = isinstance(workload, str | Path | Mapping | Scenario)
        files = (workload,) if single else tuple(workload)  # type: ignore[arg-type]
        given = [of_file(each, model, limits) for each in files]  # type: ignore[arg-type]
        found = tuple(question for question, _ in given)
        ttft = ttft or next((own for _, own in given if own is not None), None)
    elif model is None:
        raise ScenarioError("a plan at a context needs a model")
    else:
        contexts = (context,) if isinstance(context, int) else tuple(context or ())
        found = tuple(at_context(model, each, gpus[0], limits) for each in contexts)
    check(found)
    if ttft is not None and len(found) > 1:
        raise ScenarioError("a limit of ttft is about one workload; give one")
    return found, ttft


def _split(sla: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, Ttft | None]:
    """The limits that decode meets, and that of the first token."""
    if sla is None or sla.get("ttft") is None:
        return None if sla is None else dict(sla), None
    statistic = str(sla.get("percentile", Sla.model_fields["percentile"].default))
    value = sla["ttft"]
    limit = parse(value, "time") if isinstance(value, str) else float(value)
    rest = {key: each for key, each in sla.items() if key != "ttft"}
    return (rest if rest.keys() - {"percentile"} else None), Ttft(limit, statistic)


def at_context(model: str, context: int, gpu: str, sla: Mapping[str, Any] | None) -> Scenario:
    """Return the question of a model at a context: equal requests that hold `context` tokens on average."""
    prompt = context - ANSWER // 2
    if prompt < 1:
        raise ScenarioError(f"--context: must be > {ANSWER // 2}, half of an answer of {ANSWER} tokens (got {context})")
    lengths = {"input_len": prompt, "output_len": ANSWER}
    return load(
        {
            "version": 1,
            "name": f"{context} tokens",
            "model": model,
            "deployment": {**PLACE, "gpu": gpu},
            "variation": VARIATION,
            "workload": {
                "arrival": {"process": "closed_loop"},
                **{key: {"distribution": "constant", "value": value} for key, value in lengths.items()},
                "num_requests": 1,
            },
            **({} if sla is None else {"sla": dict(sla)}),
        }
    )


def of_file(
    source: Source | Scenario, model: str | None, sla: Mapping[str, Any] | None, overrides: Iterable[str] = ()
) -> tuple[Scenario, Ttft | None]:
    """Return the question of a scenario, for another model and other limits where they are given; and its own TTFT."""
    found = load(source, overrides)
    for part, why in BEYOND.items():
        if getattr(found.workload, part) is not None:
            raise ScenarioError(f"{found.name}: workload.{part} cannot be planned, {why}; --set workload.{part}=null")
    if any(each.sla is not None for each in found.workload.classes or ()):
        raise ScenarioError(f"{found.name}: a plan sizes decode for all classes alike; leave the sla of classes out")
    changes: dict[str, object] = {"prefill": None, "router": None, "failures": None, "kv_cache": None}
    changes |= {"run.stop.max_sim_time": None}
    changes |= {"run.seeds": [found.run.seeds[0]]} if len(found.run.seeds) > 1 else {}
    changes |= {"model": model} if model else {}
    own = found.sla
    ttft = None if sla or own is None or own.ttft is None else Ttft(own.ttft, own.percentile)
    changes |= {"sla": dict(sla)} if sla else {}
    if ttft is not None:
        changes |= {"sla.ttft": None} if own is not None and len(own.limits) > 1 else {"sla": None}
    if not isinstance(found.workload.arrival, ClosedLoop):
        changes |= {"workload.arrival": {"process": "closed_loop"}, "workload.duration": None}
        changes |= {"workload.num_requests": 1} if found.workload.num_requests is None else {}
        changes |= _lengths_alone(found)
    wanted = {key: value for key, value in changes.items() if value is not None or _given(found, key)}
    return found.varied(wanted), ttft


def _lengths_alone(found: Scenario) -> dict[str, object]:
    """Leave out what a trace says of arrivals alone."""
    if found.workload.trace is None:
        return {}
    return {"workload.trace.time_scale": None, "workload.trace.spread": None, "workload.trace.time_unit": None}


def _given(found: Scenario, path: str) -> bool:
    place: Any = found.given()
    for key in path.split("."):
        if not isinstance(place, Mapping) or key not in place:
            return False
        place = place[key]
    return place is not None


def check(questions: Sequence[Scenario]) -> None:
    """Refuse questions that cannot be planned together, or without a limit that decode meets."""
    if not questions:
        raise ScenarioError("a plan needs a workload or a context")
    models = dict.fromkeys(each.model for each in questions)
    if len(models) > 1:
        raise ScenarioError(f"workloads must be of one model, not of {', '.join(models)}; give --model")
    if any(dict(each.cost) != dict(questions[0].cost) for each in questions):
        raise ScenarioError("workloads must have the same prices; change 'cost' in their files")
    names = [each.name for each in questions]
    if len(set(names)) < len(names):
        raise ScenarioError(f"workloads must differ in name ({', '.join(names)}); change 'name' in their files")
    for each in questions:
        if getattr(each.workload.arrival, "concurrency", None) is not None:
            key = "workload.arrival.concurrency"
            raise ScenarioError(f"{each.name}: {key} cannot be planned, which leaves slots empty; --set {key}=null")
        limits = {} if each.sla is None else each.sla.limits
        if limits and limits.keys() != {"tpot"}:
            raise ScenarioError(
                f"{each.name}: a plan sizes decode under a limit of tpot, not of {', '.join(limits)}; "
                "give --sla-tpot, and see 'afdsim capacity' for the rest"
            )
