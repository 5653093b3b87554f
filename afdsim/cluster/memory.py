"""KV cache: what a sequence takes on one GPU of an attention rank, and how many sequences fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from afdsim.catalog.llm import Attention, Llm, Precision, layer_kv_bytes, stored_bytes

USABLE_MEMORY = 0.9
"""Share of HBM that weights and KV cache may fill; vLLM's `gpu_memory_utilization` default."""

GB = 1e9


def even_slots(sequences: int, parts: int) -> tuple[int, ...]:
    """`sequences` split evenly over `parts`, the first ones one more.

    >>> even_slots(8, 3)
    (3, 3, 2)
    """
    each, more = divmod(sequences, parts)
    return tuple(each + (index < more) for index in range(parts))


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """The KV cache of a rank of `tp` GPUs, on one of them."""

    llm: Llm
    precision: Precision
    tp: int
    budget: float
    """Bytes left for it."""

    @cached_property
    def _kinds(self) -> Counter[Attention]:
        return Counter(layer.attention for layer in self.llm.layers)

    def reserved(self, context: int) -> float:
        """Bytes for a sequence of `context` tokens."""
        return float(sum(n * stored_bytes(kind, context, self.precision, self.tp) for kind, n in self._kinds.items()))

    def law(self, windows: Sequence[int | None]) -> tuple[float, list[float]]:
        """Bytes of a sequence whatever its context, and per context token that each of `windows` lets in."""
        fixed, per_token = 0.0, [0.0] * len(windows)
        for kind, layers in self._kinds.items():
            fixed += layers * float(stored_bytes(kind, 0, self.precision, self.tp))
            per_token[windows.index(kind.window)] += layers * layer_kv_bytes(kind, self.precision, self.tp)
        return fixed, per_token

    def sequences(self, context: int) -> int:
        """Sequences of `context` tokens that the budget holds."""
        return int(self.budget // self.reserved(context)) if self.budget > 0 else 0
