"""What became of KV cache in blocks: whom it preempted, and what that cost.

Counts are of the whole run, as those of crashes are: a request that is preempted in the warm-up is one too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from afdsim.engine.record import Record
from afdsim.scenario.document import Scenario
from afdsim.units import show_many

SUMMED: Final = frozenset(
    {"prefill_prefix_tokens_asked", "prefill_prefix_tokens_hit", "prefill_prefixes_evicted"}
    | {"preemptions", "requests_preempted", "tokens_recomputed", "tokens_swapped"}
    | {"prefix_tokens_asked", "prefix_tokens_hit", "prefixes_evicted"}
)
"""Figures that are added up over several seeds."""


def told(scenario: Scenario, record: Record) -> dict[str, Any] | None:
    """Return what is said of a KV cache in blocks as a tree of numbers; None where a scenario asks for none."""
    asked = scenario.kv_cache
    if asked is None:
        return None
    found: dict[str, Any] = {"block": asked.block, "policy": asked.policy}
    if scenario.workload.prefix is not None or scenario.workload.samples is not None:
        wanted, hit, evicted = record.prefixes
        found |= {"prefix_tokens_asked": wanted, "prefix_tokens_hit": hit, "prefixes_evicted": evicted}
        found["prefix_hit_rate"] = hit / wanted if wanted else None
        found |= _at_prefill(record)
    if asked.policy == "reserve":
        return found
    price, stays, times = asked.preemption or "recompute", record.stays, record.requests.preempted
    mixed = record.chunks is not None  # then prompts are preempted too, and what is computed again is told of these
    tokens = {"tokens_swapped" if price == "swap" else "tokens_recomputed": int((stays.context + stays.tokens).sum())}
    return found | {
        "preemption": price,
        "preemptions": int(times.sum()) if mixed else len(stays.request),
        "requests_preempted": int((times > 0).sum()) if mixed else len(np.unique(stays.request)),
        **({} if mixed and price == "recompute" else tokens),
    }


def _at_prefill(record: Record) -> dict[str, Any]:
    """Return how many tokens prefill need not have computed; nothing without prefill."""
    if record.prefill is None:
        return {}
    wanted, hit, evicted = record.prefill.served.prefixes
    return {
        "prefill_prefix_tokens_asked": wanted,
        "prefill_prefix_tokens_hit": hit,
        "prefill_prefixes_evicted": evicted,
        "prefill_prefix_hit_rate": hit / wanted if wanted else None,
    }


def added(each: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the same of several cells."""
    known = [found for found in each if found is not None]
    if not known:
        return None
    sums = {name: sum(found[name] for found in known) for name in known[0] if name in SUMMED}
    found = {**known[0], **sums}
    for where in (where for where in ("", "prefill_") if f"{where}prefix_hit_rate" in found):
        wanted = found[f"{where}prefix_tokens_asked"]
        found[f"{where}prefix_hit_rate"] = found[f"{where}prefix_tokens_hit"] / wanted if wanted else None
    return found


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Say how KV cache was given out, and who had to give it back."""
    size = show_many(found["block"], "token")
    if found["policy"] == "reserve":
        return [f"blocks of {size}, reserved for the whole answer", *_prefixes(found)]
    return [f"blocks of {size} that grow with the context", *_preempted(found), *_prefixes(found)]


def _prefixes(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{found[f'{where}prefix_hit_rate'] or 0.0:.1%} of {found[f'{where}prefix_tokens_asked']:,} tokens of prefixes "
        f"were there{name}, prefixes evicted {found[f'{where}prefixes_evicted']:,} times"
        for where, name in (("prefill_", " at prefill, which did not compute them again"), ("", ""))
        if f"{where}prefix_hit_rate" in found
    ]


def _preempted(found: Mapping[str, Any]) -> list[str]:
    if not found["preemptions"]:
        return ["nobody was preempted"]
    who = f"{show_many(found['preemptions'], 'preemption')} of {show_many(found['requests_preempted'], 'request')}"
    again, moved = found.get("tokens_recomputed"), found.get("tokens_swapped")
    if moved is not None:
        return [who, f"{moved:,} tokens went to host memory"]
    return [who] if again is None else [who, f"{again:,} tokens of context computed again"]
