"""What sessions were, and what became of the KV cache of conversations between two turns.

Counts are of the whole run, as those of preemptions are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from afdsim.engine import sessions
from afdsim.engine.cell import Cell
from afdsim.engine.record import Record
from afdsim.scenario.document import Scenario
from afdsim.units import show_many

SUMMED: Final = frozenset(
    {"opened", "ended", "ended_early", "turns", "turns_back", "turns_found", "conversations_evicted"}
    | {"tokens_kept", "tokens_fetched", "tokens_recomputed"}
)
"""Figures that are added up over several seeds."""


def told(scenario: Scenario, record: Record) -> dict[str, Any] | None:
    """Return what is said of sessions as a tree of numbers; None where every request stands alone."""
    asked, found = scenario.workload.sessions, record.sessions
    if asked is None or found is None:
        return None
    tally = found.tally
    back = tally[sessions.BACK]
    return {
        "kv": asked.kv,
        "opened": tally[sessions.OPENED],
        "ended": tally[sessions.ENDED],
        "ended_early": found.cut,
        "turns": len(found.turn),
        "turns_back": back,
        "turns_found": tally[sessions.FOUND],
        "kv_hit_rate": tally[sessions.FOUND] / back if back else None,
        "tokens_kept": tally[sessions.TOKENS_FOUND],
        "tokens_fetched": tally[sessions.FETCHED],
        "tokens_recomputed": tally[sessions.AFRESH],
        "conversations_evicted": tally[sessions.EVICTED],
    }


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """Say how many sessions there were, and what a further turn found of its conversation."""
    yield f"{found['opened']:,} opened, {show_many(found['turns'], 'turn')}, {found['ended']:,} ended"
    if found["ended_early"]:
        yield f"{found['ended_early']:,} end early, as the next turn would be too long"
    if not found["turns_back"]:
        return
    again = f"{show_many(found['tokens_recomputed'], 'token')} computed again"
    match found["kv"]:
        case "keep":
            yield f"KV cache was still there for {found['kv_hit_rate']:.1%} of {found['turns_back']:,} further turns"
            yield f"{again}, {found['conversations_evicted']:,} conversations evicted"
        case "offload":
            yield f"{show_many(found['tokens_fetched'], 'token')} came back from host memory"
        case _:
            yield f"KV cache was dropped between turns, {again}"


def remarks(scenario: Scenario, cell: Cell) -> Iterator[str]:
    """Say how fast conversations go to host memory, where nobody said."""
    asked, cache = scenario.workload.sessions, scenario.kv_cache
    if asked is not None and asked.kv == "offload" and (cache is None or cache.host_bandwidth is None):
        gpu, rate = cell.deployment.attention.gpu.name, cell.keeping.link / 1e9
        yield f"assumed of sessions, not given: {rate:g} GB/s to host memory, the line rate of {gpu}'s PCIe slot"
