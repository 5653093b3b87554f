"""Prefill servers in front of a deployment: what an instance holds, and whether it fits.

An instance is one colocated engine: data-parallel ranks with expert parallelism over all its GPUs, or one rank that
cuts every token's work over them.
"""

from __future__ import annotations

from dataclasses import dataclass

from afdsim.catalog.hardware import Gpu
from afdsim.cluster.colocated import Colocated
from afdsim.errors import CapacityError
from afdsim.units import show_bytes


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Instances of one engine that compute prompts only."""

    engine: Colocated
    """One instance."""
    instances: int
    chunk: int
    """Tokens of a prompt that a step computes at most."""
    max_batched_tokens: int
    """Tokens that a rank computes in a step at most (vLLM's name)."""
    two_batch_overlap: bool = False
    """Whether a step is two halves, one computing while the tokens of the other travel."""

    @property
    def gpu(self) -> Gpu:
        return self.engine.attention.gpu

    @property
    def gpus(self) -> int:
        return self.instances * self.engine.gpus

    @property
    def dp(self) -> int:
        """Ranks of an instance, each with its own prompts."""
        return self.engine.attention.dp

    @property
    def tp(self) -> int:
        """GPUs of a rank."""
        return self.engine.attention.tp

    def check_memory(self) -> None:
        """Raise `CapacityError` where the weights leave no room for KV cache."""
        try:
            self.engine.check_memory()
        except CapacityError as error:
            raise CapacityError(f"prefill {error}", path="prefill.gpus_per_instance") from None

    def check_prompt(self, tokens: int) -> None:
        """Raise `CapacityError` where the cache of a prompt does not fit a rank that has no other."""
        needed, budget = self.engine.kv_cache.reserved(tokens), self.engine.kv_budget
        if needed > budget:
            raise CapacityError(
                f"a prompt of {tokens:,} tokens needs {show_bytes(needed)} of KV cache on each GPU of a prefill rank, "
                f"which has {show_bytes(budget)}",
                path="prefill.gpus_per_instance",
                tokens=tokens,
            )
