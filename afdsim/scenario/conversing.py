"""Requests that belong together, sessions of several turns and several answers to a prompt: what goes with neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from afdsim.scenario.asked import Workload
from afdsim.scenario.part import Fault

_AROUND = MappingProxyType(
    {
        "prefill": "who computes prompts, servers or decode steps, does not know what is left of a conversation",
        "router": "a router would have to hear of turns that other turns decide",
        "failures": "what a crash does to a conversation between two turns is not known",
    }
)
_AROUND_SAMPLES = MappingProxyType(
    {
        "prefill": "servers, or decode steps, would compute the prompt for every answer",
        "router": "a router would send the answers to a prompt to several cells",
    }
)
_REMOVE = "remove one of them (or set it to null)"


def misfits(workload: Workload, around: Sequence[str]) -> Iterator[Fault]:
    """Yield what does not go with sessions; `around`: parts of the scenario that know no sessions."""
    shared = "a conversation keeps the KV cache of its own prompt, and what others share is not modelled beside it"
    beside = {
        "prefix": shared,
        "samples": shared,
        "classes": "all sessions are of one kind",
        "trace": "its requests stand alone: give arrival, input_len and output_len as laws",
    }
    yield from _apart("sessions", workload, beside, {name: _AROUND[name] for name in around})


def unsampled(workload: Workload, around: Sequence[str]) -> Iterator[Fault]:
    """Yield what does not go with several answers to a prompt."""
    beside = {
        "prefix": "prompts that begin alike are not modelled beside prompts that are the same",
        "classes": "all prompts are of one kind",
        "trace": "its requests stand alone: give arrival, input_len and output_len as laws",
    }
    known = {name: why for name, why in _AROUND_SAMPLES.items() if name in around}
    yield from _apart("samples", workload, beside, known)


def _apart(key: str, workload: Workload, beside: Mapping[str, str], around: Mapping[str, str]) -> Iterator[Fault]:
    given = {f"workload.{name}": why for name, why in beside.items() if getattr(workload, name) is not None}
    for name, why in (dict(around) | given).items():
        yield f"workload.{key}", f"and '{name}' do not go together: {why}; {_REMOVE}"
