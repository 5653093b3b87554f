"""The AFD pairs that theory finds best, simulated: what `afdsim run` makes of a price that theory promises.

A pair is sized as the theory sizes it: the fewest FFN instances that hold and stream the weights, as many attention
instances as keep both pools busy at peak, and the largest micro-batches that bandwidth, FLOPs and memory allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from afdsim import units
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Llm, Moe
from afdsim.cost import theory
from afdsim.cost.survey import Row, Survey
from afdsim.errors import AfdsimError, CapacityError

GPUS = 8
"""Of every instance: one server."""
MOST = 128
"""Attention instances up to which a pair is simulated: lowering and running it takes about a second."""
TOKENS = 16
"""Output tokens of a request: two rounds of them are 30 to 40 steps, all alike in a closed loop of equal requests."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of an AFD deployment."""

    attention: int
    """Instances."""
    ffn: int
    """Instances."""
    micro_batch: int
    """Sequences of one micro-batch on an attention GPU."""


def sizes(survey: Survey, llm: Llm, gpus: tuple[Gpu, Gpu], context: int) -> Sizes:
    """Return the sizes of `llm` on (attention, FFN) `gpus`; `CapacityError` where there are none to simulate."""
    try:
        return _sized(survey, llm, gpus, context)
    except CapacityError as error:
        longest = _longest(survey, llm, gpus, context)
        fix = f"the longest --context that does is {longest:,}" if longest else f"no --context does on {gpus[0].name}"
        raise CapacityError(f"{error}; {fix}") from None


def _longest(survey: Survey, llm: Llm, gpus: tuple[Gpu, Gpu], above: int) -> int:
    """Return the longest context below `above` for which there are sizes, 0 if there is none: less is less work."""
    low, high = 0, above
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _sized(survey, llm, gpus, middle)
        except CapacityError:
            high = middle
        else:
            low = middle
    return low


def _sized(survey: Survey, llm: Llm, gpus: tuple[Gpu, Gpu], context: int) -> Sizes:
    attention, ffn = gpus
    batch = theory.largest_batch(llm, attention, context + TOKENS, tpot=survey.tpot, precision=survey.precision)
    if not batch.largest:
        raise CapacityError(
            f"the {batch.limit} of {attention.name} does not do for one sequence of {context:,} tokens in each of "
            f"{theory.STAGES} micro-batches"
        )
    servers = _servers(llm, ffn, survey)
    busy = theory.attention_seconds(llm, attention, context, survey.precision)
    ratio = busy / theory.ffn_seconds(llm, ffn, survey.precision)
    instances = max(1, round(servers * ratio))
    if instances > MOST:
        raise CapacityError(
            f"{instances:,}A{servers}F balances it, more than the {MOST} attention instances that are simulated here"
        )
    return Sizes(attention=instances, ffn=servers, micro_batch=batch.largest)


def _servers(llm: Llm, gpu: Gpu, survey: Survey) -> int:
    """Return the fewest FFN instances that stream the weights in time, the experts divided evenly over them."""
    least = math.ceil(theory.ffn_cards(llm, gpu, tpot=survey.tpot, precision=survey.precision) / GPUS)
    experts = {layer.ffn.experts for layer in llm.layers if isinstance(layer.ffn, Moe)}
    even = (n for n in range(least, max(experts, default=least) + 1) if not any(count % n for count in experts))
    found = next(even, None)
    if found is None:
        raise CapacityError(f"{least} FFN instances stream the weights in time, more than there are experts")
    return found


def runs(survey: Survey, models: Sequence[str], progress: Progress | None = None) -> list[Row]:
    """Return the best pair of every context and model, simulated; `models` are the names or paths of its `llms`."""
    return list(_runs(survey, models, progress))


def _runs(survey: Survey, models: Sequence[str], progress: Progress | None) -> Iterator[Row]:
    named = {gpu.name: gpu for gpu in survey.gpus}
    asked = product(survey.contexts, zip(survey.llms, models, strict=True))
    # theory finds no pair where no price is known, and then none at all
    for row, (context, (llm, model)) in zip(survey.afd(), asked, strict=False):
        if progress is not None:
            progress(f"{llm.name} at {context:,} tokens")
        pair = (named[row["attention_gpu"]], named[row["ffn_gpu"]])
        yield {**row, "theory_usd": row.pop("usd"), **_simulated(survey, llm, model, pair, context)}


def _simulated(survey: Survey, llm: Llm, model: str, pair: tuple[Gpu, Gpu], context: int) -> Row:
    """Return what a run of the pair says, or why there is none."""
    from afdsim.simulation import simulate

    try:
        asked = sizes(survey, llm, pair, context)
        summary = simulate(scenario(survey, model, pair, context, asked), watch=False).summary
    except AfdsimError as error:
        return {"deployment": None, "usd": None, "tpot_ms": None, "reason": str(error)}
    found = summary["afdsim"]
    return {
        "deployment": f"{asked.attention}A{asked.ffn}F",
        "gpus": found["gpus"],
        "micro_batch": asked.micro_batch,
        "usd": found["usd_per_1m_output_tokens"],
        "tpot_ms": summary["mean_tpot_ms"],
        "busy": {pool: part["busy"] for pool, part in found["pools"].items()},
        "reason": None,
    }


def scenario(survey: Survey, model: str, pair: tuple[Gpu, Gpu], context: int, asked: Sizes) -> dict[str, Any]:
    """Return a closed loop of equal requests, `context` tokens each on average, on the pair."""
    attention, ffn = pair
    precision = survey.precision
    link = {} if survey.network is None else {"bandwidth": units.exact(survey.network / GPUS, "bandwidth")}
    return {
        "version": 1,
        "name": "pair",
        "model": model,
        "precision": {"ffn": precision.ffn, "projections": precision.projections, "kv_cache": precision.cache},
        "deployment": {
            "type": "afd",
            "attention": {"gpu": attention.name, "instances": asked.attention, "gpus_per_instance": GPUS},
            "ffn": {"gpu": ffn.name, "instances": asked.ffn, "gpus_per_instance": GPUS},
            "num_microbatches": theory.STAGES,
            "max_num_seqs": theory.STAGES * asked.micro_batch,
        },
        "network": {"link": link},
        "workload": {
            "arrival": {"process": "closed_loop"},
            "input_len": {"distribution": "constant", "value": max(1, context - TOKENS // 2)},
            "output_len": {"distribution": "constant", "value": TOKENS},
            "num_requests": asked.attention * GPUS * theory.STAGES * asked.micro_batch,
        },
        "cost": {gpu.name: units.exact(gpu.usd_per_hour or 0.0, "price") for gpu in pair},
        "run": {"engine": "kernel"},
    }
