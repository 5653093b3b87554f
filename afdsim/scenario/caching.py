"""How the KV cache of an attention rank is counted and given out, as keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from afdsim.scenario.leaves import Amount, Choice
from afdsim.scenario.part import Fault, Length, Part


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
    """Tokens per second at which a context is computed again, each request's by itself, as in `failures`; not where
    steps compute prompts (`prefill.mode: mixed`), and these then too."""
    host_bandwidth: Annotated[float, Amount("bandwidth")] | None = None
    """With 'preemption: swap': what a GPU moves to and from host memory, one copy at a time; default: line rate of the
    PCIe x16 slot of its architecture, assumed."""

    def faults(self) -> Iterator[Fault]:
        """Check that every key belongs to its policy and to the way in which a preempted request pays."""
        if self.policy == "reserve":
            for key in ("preemption", "reprefill_rate", "host_bandwidth"):
                if getattr(self, key) is not None:
                    yield key, "belongs to 'policy: grow': nobody is preempted where all is reserved; remove it"
        elif self.preemption == "swap":
            if self.reprefill_rate is not None:
                yield "reprefill_rate", "belongs to 'preemption: recompute'; remove it (or set it to null)"
        elif self.host_bandwidth is not None:
            yield "host_bandwidth", "belongs to 'preemption: swap'; remove it (or set it to null)"
