"""How the KV cache of an attention rank is counted and given out, as keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from afdsim.scenario.asked import Sessions
from afdsim.scenario.leaves import Amount, Choice
from afdsim.scenario.part import Fault, Length, Part

NOBODY = "belongs to 'policy: grow': nobody is preempted where all is reserved; remove it"


class KvCache(Part):
    """KV cache in blocks, in the words of vLLM; without this map a block is one token and all is reserved."""

    block: Length = 16
    """Tokens of a block; vLLM's `block_size` and its default on NVIDIA GPUs."""
    policy: Annotated[Literal["reserve", "grow"], Choice(("reserve", "grow"))] = "reserve"
    """What a request holds: the blocks that it may come to need, from its admission on; or those that its context
    fills, and one more whenever that is full, as vLLM has it."""
    preemption: Annotated[Literal["recompute", "swap"], Choice(("recompute", "swap"))] | None = None
    """With 'policy: grow': what becomes of the context of a request that must give its blocks back: it is computed
    again (vLLM's only way from its version 1 on, and the default), or goes to host memory and comes back."""
    reprefill_rate: Annotated[float, Amount("token rate")] | None = None
    """Tokens per second at which a context is computed again, each request's by itself, as in `failures`; also that of
    a conversation of `workload.sessions` which is no longer there. Not where steps compute prompts (`prefill.mode:
    mixed`), and these then too."""
    host_bandwidth: Annotated[float, Amount("bandwidth")] | None = None
    """With 'preemption: swap', or conversations that are offloaded: what a GPU moves to and from host memory, one copy
    at a time; default: line rate of the PCIe x16 slot of its architecture, assumed."""

    def faults(self) -> Iterator[Fault]:
        """Check that every key belongs to its policy and to the way in which a preempted request pays."""
        if self.policy == "reserve" and self.preemption is not None:
            yield "preemption", NOBODY


def misfits(cache: KvCache | None, sessions: Sessions | None) -> Iterator[Fault]:
    """Yield prices that nobody pays, and those that sessions pay and nobody has told."""
    kv = None if sessions is None else sessions.kv
    if kv in ("keep", "drop") and (cache is None or cache.reprefill_rate is None):
        what = "that was dropped" if kv == "drop" else "that made room for others"
        give = "e.g. '20000 tok/s'; or write 'workload.sessions.kv: offload'"
        yield "kv_cache.reprefill_rate", f"required key is missing: a conversation {what} is computed again, {give}"
    if cache is None:
        return
    grows, swaps = cache.policy == "grow", cache.preemption == "swap"
    for key, way, paid in (("reprefill_rate", "recompute", grows and not swaps), ("host_bandwidth", "swap", swaps)):
        if getattr(cache, key) is None or paid or kv:  # a sweep over `kv` has both prices
            continue
        yield f"kv_cache.{key}", f"belongs to 'preemption: {way}'; remove it (or set it to null)" if grows else NOBODY
