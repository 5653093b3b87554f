"""Sessions of several turns, and what does not go with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from afdsim.scenario.asked import Workload
from afdsim.scenario.part import Fault

_AROUND = MappingProxyType(
    {
        "prefill": "prefill servers have all prompts before decode begins, and a further turn comes when decode ends",
        "router": "a router would have to hear of turns that other turns decide",
        "failures": "what a crash does to a conversation between two turns is not known",
    }
)


def misfits(workload: Workload, around: Sequence[str]) -> Iterator[Fault]:
    """Yield what does not go with sessions; `around`: parts of the scenario that know no sessions."""
    path = "workload.sessions"
    for name in around:
        yield path, f"and '{name}' do not go together: {_AROUND[name]}; remove one of them (or set it to null)"
    for key, why in (
        ("prefix", "a conversation keeps the KV cache of its own prompt, shared beginnings are not modelled beside it"),
        ("classes", "all sessions are of one kind"),
        ("trace", "its requests stand alone: give arrival, input_len and output_len as laws"),
    ):
        if getattr(workload, key) is not None:
            yield path, f"and 'workload.{key}' do not go together: {why}; remove one of them (or set it to null)"
