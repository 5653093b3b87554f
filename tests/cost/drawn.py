"""Random deployments: every kind, every GPU and every option, of any model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from afdsim.catalog import entries as catalog
from afdsim.scenario.document import Scenario, load
from afdsim.studies.layouts import AFD, EP, TP, Layout

Random = random.Random
CONTEXTS = (128, 512, 2048, 4096, 8192, 32768, 131072)
PRECISIONS = ({}, {}, {}, {"ffn": "bf16"}, {"kv_cache": "bf16"}, {"ffn": "int8"}, {"ffn": "fp4"}, {"ffn": "int4"})
EXPERTS = (
    {"law": "even"},
    {"law": "uniform"},
    {"law": "uniform"},
    {"law": "slowest", "max_over_mean": 1.3},
    {"law": "power_law", "skew": 0.5},
    {"law": "power_law", "skew": 1.5, "placement": "balanced"},
)


def drawn(rng: Random, models: Sequence[str]) -> tuple[Scenario, Layout]:
    """A scenario, and its deployment as a layout; raises `ScenarioError` where the draw is none."""
    deployment = rng.choice((_afd, _afd, _colocated, _tensor_parallel))(rng)
    data = {
        "model": rng.choice(models),
        "deployment": {**deployment, "max_num_seqs": 4},
        "precision": rng.choice(PRECISIONS),
        "network": _network(rng, deployment),
        "variation": _variation(rng),
        "workload": _workload(rng),
        "run": {"granularity": rng.choice(("instance", "instance", "gpu"))},
    }
    family = {"afd": AFD, "colocated": EP, "tensor_parallel": TP}[deployment["type"]]
    layout = Layout(family=family, label=str(deployment), deployment=deployment, gpus={"": _count(deployment)})
    return load(data), layout


def _count(deployment: dict[str, Any]) -> int:
    """GPUs of a deployment."""
    pools = [deployment] if deployment["type"] == "colocated" else [deployment.get("attention"), deployment.get("ffn")]
    if deployment["type"] == "tensor_parallel":
        return int(deployment["gpus"])
    return sum(pool["instances"] * pool["gpus_per_instance"] for pool in pools)


def _maybe(rng: Random, share: float, **options: Callable[[], Any]) -> dict[str, Any]:
    """Every option with some probability."""
    return {key: value() for key, value in options.items() if rng.random() < share}


def _cut(rng: Random, size: int) -> int:
    """A divisor."""
    return rng.choice([each for each in range(1, size + 1) if size % each == 0])


def _afd(rng: Random) -> dict[str, Any]:
    size, served = (rng.choice((1, 2, 4, 8, 8, 8)) for _ in range(2))
    tp, groups = rng.choice((1, 1, 1, _cut(rng, size))), rng.choice((1, 1, 1, 2))
    attention = {
        "gpu": rng.choice(catalog.gpus()),
        "instances": groups * rng.randint(1, 4 // groups),
        "groups": groups,
        "gpus_per_instance": size,
        "parallelism": {"dp": size // tp, "tp": tp},
        **_maybe(rng, 0.2, **({"o_proj": lambda: f"tp{_cut(rng, size)}"} if tp == 1 else {})),
        **_maybe(rng, 0.1, lm_head=lambda: f"tp{size}", embedding=lambda: f"tp{size}"),
    }
    ep = rng.choice((1, served, _cut(rng, served)))
    ffn = {
        "gpu": rng.choice(catalog.gpus()),
        "instances": rng.randint(1, 4),
        "gpus_per_instance": served,
        "parallelism": {"ep": ep, "tp": served // ep},
        "across": rng.choice(("experts", "experts", "experts", "width")),
    }
    more = _maybe(
        rng,
        0.2,
        gate=lambda: "ffn",
        shared_expert=lambda: "attention",
        dispatch=lambda: "sparse",
        host_overhead=lambda: f"{rng.choice((0.1, 1, 5))}ms",
        mtp=lambda: {"draft": rng.randint(1, 3), "acceptance": rng.choice((0.0, 0.5, 0.8, 1.0))},
    )
    if rng.random() < 0.2:
        more |= {"boundary": "drain", "gap": f"{rng.choice((0, 1, 5))}ms"}
    return {"type": "afd", "attention": attention, "ffn": ffn, "num_microbatches": rng.randint(1, 4), **more}


def _engine(rng: Random) -> dict[str, Any]:
    """Options of colocated engines."""
    return _maybe(
        rng,
        0.2,
        framework_overhead=lambda: f"{rng.choice((5, 50))}us",
        host_overhead=lambda: f"{rng.choice((0.1, 1, 5))}ms",
        mtp=lambda: {"draft": rng.randint(1, 3), "acceptance": rng.choice((0.0, 0.5, 0.8, 1.0))},
    )


def _colocated(rng: Random) -> dict[str, Any]:
    size = rng.choice((1, 2, 4, 8, 8, 8))
    instances, tp = rng.randint(1, 6), rng.choice((1, 1, 1, _cut(rng, size)))
    return {
        "type": "colocated",
        "gpu": rng.choice(catalog.gpus()),
        "instances": instances,
        "gpus_per_instance": size,
        "parallelism": {"dp": size // tp, "tp": tp},
        **_maybe(rng, 0.3, redundant_experts=lambda: rng.choice((instances * size, 8, 16, 32))),
        **_maybe(rng, 0.1, shared_expert_gpus=lambda: rng.randint(1, instances * size)),
        **rng.choice(({}, {"single_batch_overlap": True}, {"two_batch_overlap": True})),
        **_maybe(rng, 0.2, all_to_all=lambda: "normal"),
        **_engine(rng),
    }


def _tensor_parallel(rng: Random) -> dict[str, Any]:
    gpus = rng.choice((1, 2, 4, 8, 8, 16))
    return {
        "type": "tensor_parallel",
        "gpu": rng.choice(catalog.gpus()),
        "gpus": gpus,
        "ep": rng.choice((1, gpus)),
        **_engine(rng),
    }


def _network(rng: Random, deployment: dict[str, Any]) -> dict[str, Any]:
    """A network: of colocated engines a line rate alone."""
    link = _maybe(rng, 0.3, bandwidth=lambda: f"{rng.choice((100, 200, 400, 800))}Gbps")
    if deployment["type"] != "afd":
        return {"link": link} if link else {}
    kind = rng.choice(("shared", "shared", "ports", "dedicated"))
    found = {"type": kind, "link": link | _maybe(rng, 0.2, latency=lambda: f"{rng.choice((0, 2, 20, 100))}us")}
    found |= _maybe(rng, 0.2, efficiency=lambda: rng.choice((0.5, 1.0)), post=lambda: "0us", synchronise=lambda: "0us")
    if kind == "dedicated":
        return found
    sizes = [deployment[pool]["gpus_per_instance"] for pool in ("attention", "ffn")]
    if "bandwidth" in link and rng.random() < 0.5:
        found["nics_per_instance"] = dict(zip(("attention", "ffn"), (_cut(rng, size) for size in sizes), strict=True))
    if rng.random() < 0.1:
        found["link"] |= {"ports": 2, "split": rng.random() < 0.5}
    return found | _maybe(
        rng,
        0.15,
        uplinks=lambda: {"oversubscription": rng.choice((1, 2, 4))},
        degraded=lambda: {rng.choice(("attention[0]", "ffn[0]", "ffn[0].nic[0]")): rng.choice((0.25, 0.9))},
    )


def _variation(rng: Random) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"event": 0.006, "step": 0.005, "link": 0.027, "experts": {"law": "uniform"}}
    sigmas = {key: rng.choice((0.0, rng.uniform(0.0, 0.1))) for key in ("event", "step", "link")}
    return {**sigmas, "experts": rng.choice(EXPERTS)}


def _workload(rng: Random) -> dict[str, Any]:
    """A closed loop of contexts about some length, equal or spread."""
    context, output = rng.choice(CONTEXTS), rng.choice((16, 64, 512, 1024))
    output = min(output, context)
    law: dict[str, Any] = {"distribution": "constant", "value": max(context - output // 2, 1)}
    if rng.random() < 0.4:
        law = {"distribution": "lognormal", "mean": context, "cv": rng.choice((0.3, 1.0)), "max": 8 * context}
    outputs: dict[str, Any] = {"distribution": "constant", "value": output}
    if rng.random() < 0.3:
        outputs = {"distribution": "lognormal", "mean": output, "cv": 0.5, "max": 8 * output}
    return {"arrival": {"process": "closed_loop"}, "input_len": law, "output_len": outputs, "num_requests": 1000}
