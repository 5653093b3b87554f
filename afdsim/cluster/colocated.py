"""Colocated deployments: attention and FFN on the same GPUs, experts spread over all of them or cut by width.

Two ways: data-parallel attention with expert parallelism (`ExpertParallel`), the strongest rival of AFD, and pure
tensor parallelism (`TensorParallel`). One `Colocated` is one engine: all its GPUs step together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from afdsim.catalog.llm import (
    Dense,
    Moe,
    Split,
    ffn_weight_bytes,
)
from afdsim.cluster.deployment import Served, has
from afdsim.cluster.memory import GB
from afdsim.errors import CapacityError


@dataclass(frozen=True, kw_only=True)
class ExpertParallel:
    """Every GPU holds whole experts; tokens travel to them."""

    redundant: int = 0
    """Copies of experts beyond one each, over all GPUs."""
    shared_ranks: int = 0
    """GPUs that hold nothing but the shared expert; 0: every GPU has it beside its routed ones."""


@dataclass(frozen=True, kw_only=True)
class TensorParallel:
    """All GPUs work on every token: heads and widths are cut, sums are all-reduced."""

    ep: int = 1
    """Groups that hold different experts."""


@dataclass(frozen=True, kw_only=True)
class Colocated(Served):
    """One engine whose GPUs run attention and FFN alike."""

    experts: ExpertParallel | TensorParallel

    def __str__(self) -> str:
        pool = self.attention
        way = f"TP{pool.tp}" if isinstance(self.experts, TensorParallel) else f"DP{pool.ranks}+EP{self.gpus}"
        return f"{way} {pool.gpu.name}"

    @property
    def gpus(self) -> int:
        return self.attention.gpus

    @property
    def expert_gpus(self) -> int:
        """GPUs over which routed experts are spread whole."""
        if isinstance(self.experts, TensorParallel):
            return self.experts.ep
        return self.gpus - self.experts.shared_ranks

    def routed(self, moe: Moe) -> Moe:
        """The routed experts as they lie in memory: copies included, shared ones apart."""
        copies = self.experts.redundant if isinstance(self.experts, ExpertParallel) else 0
        return replace(moe, experts=moe.experts + copies, shared=0, shared_inner=0)

    @cached_property
    def split(self) -> Split:
        """How the routed experts are cut."""
        if isinstance(self.experts, TensorParallel):
            return Split(ep=self.experts.ep, tp=self.attention.tp // self.experts.ep)
        return Split(ep=self.expert_gpus)

    # memory ----------------------------------------------------------------------------------------------------------

    @cached_property
    def ffn_weights(self) -> float:
        """Bytes of routed experts, shared experts and dense layers on the GPU that holds most."""
        return max(self._ffn_bytes(self.split, shared=shared) for shared in self._roles())

    def _roles(self) -> tuple[bool | None, ...]:
        """Who holds the shared expert: True beside routed ones, or some GPUs the one (None) and others the other."""
        separate = isinstance(self.experts, ExpertParallel) and self.experts.shared_ranks > 0
        return (None, False) if separate else (True,)

    def _ffn_bytes(self, split: Split, *, shared: bool | None) -> float:
        llm, tp = self.llm, self.attention.tp
        routed = replace(
            llm,
            layers=tuple(replace(each, ffn=self.routed(each.ffn)) for each in llm.layers if isinstance(each.ffn, Moe)),
        )
        cut = replace(
            llm,
            layers=tuple(
                replace(each, ffn=self._wide(each.ffn, with_shared=shared is not False)) for each in llm.layers
            ),
        )
        experts = 0.0 if shared is None else ffn_weight_bytes(routed, self.precision, split)
        return experts + ffn_weight_bytes(cut, self.precision, Split(tp=tp))

    def _wide(self, ffn: Moe | Dense, *, with_shared: bool) -> Dense:
        """What every attention group holds in full: dense layers, and shared experts times its GPUs."""
        if isinstance(ffn, Dense):
            return ffn
        cut = 1 if isinstance(self.experts, TensorParallel) else self.attention.tp
        return Dense(inner=ffn.shared * ffn.shared_inner * cut if with_shared else 0, gated=ffn.gated)

    @cached_property
    def usable_memory(self) -> float:
        """Bytes that weights and KV cache may fill on one GPU."""
        return self.usable(self.attention.gpu, self.attention.tp, experts=True)

    @cached_property
    def kv_budget(self) -> float:
        """Bytes left for KV cache on one GPU."""
        return self.usable_memory - self.attention_weights - self.ffn_weights

    def check_memory(self) -> None:
        """Raise `CapacityError` when the weights leave no room for KV cache."""
        if self.kv_budget > 0:
            return
        need = self.attention_weights + self.ffn_weights
        raise CapacityError(
            f"weights need {need / GB:.1f} GB per GPU (attention {self.attention_weights / GB:.1f}, "
            f"FFN {self.ffn_weights / GB:.1f}) and leave no room for KV cache: "
            f"{has(self.attention.gpu, self.usable_memory)}",
            path="deployment.gpus" if isinstance(self.experts, TensorParallel) else "deployment.instances",
        )
