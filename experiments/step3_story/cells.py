"""Deployments that the claims are tried on, and the measures taken of them: each a function of plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.errors import AfdsimError

LIMIT = "50ms"
"""Of the mean TPOT, everywhere: the paper's 20 tokens per second and user."""
OUTPUT = 64
SERVER = 8
"""GPUs."""
GPUS = ("H800", "H200")
"""Of comparisons of whole clusters."""
WHOLE = 64
"""GPUs of such a cluster."""
EP = "colocated EP"
"""As `afdsim.plan` calls that family."""
TP8, EP8 = "TP8", "EP8"
INSIDE = {TP8: {"ep": 1, "tp": 8}, EP8: {"ep": 8, "tp": 1}}
"""How an FFN instance is cut: every expert over its GPUs (the paper's example), or whole experts on each."""
CALM = {f"variation.{kind}": 0.0 for kind in ("event", "step", "link")}
FIRST = 4096 * 256
"""Tokens of KV cache of a rank with which searches for the best batch begin."""

Changes = dict[str, Any]


def base(model: str, context: int, **changes: Any) -> afdsim.Scenario:
    """The main scenario with another model and equal lengths around a context."""
    lengths = {"workload.input_len": context - OUTPUT // 2, "workload.output_len": OUTPUT}
    own = {"name": "step3_story", "model": model, "cost": None, "deployment.max_num_seqs": max(4, FIRST // context)}
    return afdsim.load("step3_2a2f_4k").varied({**own, **lengths, **changes})


def afd(gpu: str, attention: int, ffn: int, inside: str = EP8) -> Changes:
    """xAyF on one kind of GPU."""
    return {
        "deployment.attention.gpu": gpu,
        "deployment.ffn.gpu": gpu,
        "deployment.attention.instances": attention,
        "deployment.ffn.instances": ffn,
        "deployment.ffn.parallelism": INSIDE[inside],
        "network.link.bandwidth": None,  # that of the GPU's servers
    }


def colocated(model: str, gpu: str, gpus: int, context: int) -> Changes:
    """Attention by data and experts over all GPUs of a group, copies filling up what the experts do not cover."""
    experts = max(getattr(layer.ffn, "experts", 0) for layer in catalog.llm(model).layers)
    deployment = {
        "type": "colocated",
        "gpu": gpu,
        "instances": gpus // SERVER,
        "parallelism": {"dp": SERVER, "tp": 1},
        "redundant_experts": -experts % gpus,
        "max_num_seqs": max(4, FIRST // context),
    }
    return {"deployment": deployment, "network": {}}


def measured(scenario: afdsim.Scenario) -> dict[str, Any]:
    """What a run gives: tokens per GPU and second, TPOT, and how busy either pool was."""
    summary = afdsim.simulate(scenario).summary
    own = summary["afdsim"]
    pools = {f"{name}_{what}": pool[what] for name, pool in own["pools"].items() for what in ("busy", "mfu", "mbu")}
    return {"tgs": own["tgs"], "tpot_ms": summary["mean_tpot_ms"], **pools}


def tuned(scenario: afdsim.Scenario) -> dict[str, Any] | None:
    """The same at the best batch and overlap within the limit; None where nothing meets it."""
    try:
        found = afdsim.tune(scenario)
    except AfdsimError:
        return None
    if found is None or found.best.verdict == "FAIL":
        return None
    asked = found.scenario.deployment
    return {
        **measured(found.scenario),
        "max_num_seqs": asked.max_num_seqs,
        "num_microbatches": asked.num_microbatches,
    }


def planned(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best that GPUs give, a row for every kind of deployment; `question` has model, context, gpus, objective."""
    asked = dict(question)
    gpus, label = asked.pop("gpus"), ", ".join(f"{count} {kind}" for kind, count in question["gpus"].items())
    made = afdsim.plan(asked.pop("model"), gpus=gpus, sla=LIMIT, cache=None, **asked)
    return [
        {
            "model": question["model"],
            "context": question["context"],
            "gpus": label,
            "family": family,
            "deployment": choice.short,
            "rate": choice.offer.rate,
            "used": choice.offer.total,
            "tgs": choice.offer.rate / choice.offer.total,
            "usd_per_1m": choice.offer.usd and choice.offer.usd / choice.offer.rate / 3600 * 1e6,
        }
        for family, choice in made.families.items()
        if choice is not None
    ]


def step3_with(experts: int, folder: Path) -> Path:
    """Write Step-3 with so many routed experts, of which a token still asks three, and return its config.json."""
    moe = ",".join(map(str, range(4, 60)))
    config = {
        "model_type": "step3_text",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 64,
        "num_attention_groups": 1,
        "head_dim": 256,
        "share_q_dim": 2048,
        "share_expert_dim": 5120,
        "moe_num_experts": experts,
        "moe_top_k": 3,
        "moe_intermediate_size": 5120,
        "moe_layers_enum": moe,
        "vocab_size": 128815,
        "max_position_embeddings": 65536,
        "norm_expert_weight": False,
        "tie_word_embeddings": False,
    }
    path = folder / f"step3-{experts}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
