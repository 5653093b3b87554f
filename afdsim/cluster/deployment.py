"""Deployments: which GPUs play which role, what each of them must hold, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import (
    Llm,
    Moe,
    Precision,
    Split,
    attention_weight_bytes,
    ffn_weight_bytes,
    stored_width,
    without_shared,
)
from afdsim.cluster.memory import GB, USABLE_MEMORY, KvCache, even_slots, usable
from afdsim.errors import CapacityError


@dataclass(frozen=True, kw_only=True)
class AttentionPool:
    """The instances that run attention; every instance holds `dp` ranks of `tp` GPUs."""

    gpu: Gpu
    instances: int
    dp: int
    tp: int
    o_proj: str = "replicated"
    """"replicated", or "tp<n>": cut over n data-parallel ranks of an instance."""
    lm_head: str | None = None
    """"replicated", or "tp<n>": vocabulary cut over n GPUs of an instance; None: over the GPUs of a rank."""
    embedding: str | None = None
    """As `lm_head`."""
    kernels: tuple[str, ...] = ()
    """Kernel libraries that its GPUs prefer over the defaults."""

    @property
    def gpus_per_instance(self) -> int:
        return self.dp * self.tp

    @property
    def gpus(self) -> int:
        return self.instances * self.gpus_per_instance

    @property
    def ranks(self) -> int:
        """Data-parallel attention ranks over all instances: each has its own requests."""
        return self.instances * self.dp


@dataclass(frozen=True, kw_only=True)
class FfnPool:
    """The instances that run the FFN; inside one, experts split over `ep` groups and widths over `tp` GPUs."""

    gpu: Gpu
    instances: int
    ep: int
    tp: int
    across: Literal["experts", "width"] = "experts"
    kernels: tuple[str, ...] = ()
    """Kernel libraries that its GPUs prefer over the defaults."""

    @property
    def gpus_per_instance(self) -> int:
        return self.ep * self.tp

    @property
    def gpus(self) -> int:
        return self.instances * self.gpus_per_instance


@dataclass(frozen=True, kw_only=True)
class Served:
    """What every deployment says of the model and of the ranks that hold its requests."""

    llm: Llm
    precision: Precision
    attention: AttentionPool
    """The GPUs that run attention, with the way it is cut over them."""
    num_microbatches: int
    max_num_seqs: int
    """Sequences per attention rank, over all its micro-batches (vLLM's name)."""
    gpu_memory_utilization: float = USABLE_MEMORY
    """Share of HBM that weights, reserve and KV cache may fill (vLLM's name)."""
    kv_block: int = 1
    """Tokens in which KV cache is given out."""

    @property
    def slots(self) -> int:
        """Sequences that the whole deployment can decode at once."""
        return self.attention.ranks * self.max_num_seqs

    @cached_property
    def micro_batch_slots(self) -> tuple[int, ...]:
        """`max_num_seqs` split evenly over the micro-batches, the first ones one more."""
        return even_slots(self.max_num_seqs, self.num_microbatches)

    @cached_property
    def attention_weights(self) -> float:
        """Bytes of attention weights, embedding and LM head on one of its GPUs."""
        pool = self.attention
        return (
            attention_weight_bytes(
                self.llm,
                self.precision,
                tp=pool.tp,
                o_proj=pool.o_proj,
                lm_head=pool.lm_head,
                embedding=pool.embedding,
            )
            + self.moved_weights
        )

    @property
    def moved_weights(self) -> float:
        """Bytes that one of its attention GPUs holds more, or less, because another role holds them usually."""
        return 0.0

    def usable(self, gpu: Gpu, tp: int, *, experts: bool) -> float:
        """Bytes that weights and KV cache may fill on a GPU of a group of `tp`; `experts` where it runs them."""
        return usable(self.llm, gpu, tp, experts=experts, share=self.gpu_memory_utilization)

    @cached_property
    def usable_memory(self) -> float:
        """The same on one of its attention GPUs."""
        return self.usable(self.attention.gpu, self.attention.tp, experts=False)

    @cached_property
    def kv_budget(self) -> float:
        """Bytes left for KV cache on one of its attention GPUs."""
        return self.usable_memory - self.attention_weights

    @cached_property
    def kv_cache(self) -> KvCache:
        """The KV cache of an attention rank."""
        return KvCache(
            llm=self.llm, precision=self.precision, tp=self.attention.tp, budget=self.kv_budget, block=self.kv_block
        )


@dataclass(frozen=True, kw_only=True)
class Afd(Served):
    """Attention-FFN disaggregation, written xAyF in the Step-3 paper (section 3)."""

    ffn: FfnPool
    gate: Literal["attention", "ffn"] = "attention"
    """Who computes router and top-k."""
    shared_expert: Literal["attention", "ffn"] = "ffn"
    """Who computes it."""
    dispatch: Literal["broadcast", "sparse"] = "broadcast"
    """Whether a token goes to every FFN instance, or to those that hold one of its experts."""

    def __str__(self) -> str:
        return f"{self.attention.instances}A{self.ffn.instances}F"

    @property
    def gpus(self) -> int:
        return self.attention.gpus + self.ffn.gpus

    @property
    def split(self) -> Split:
        """How the FFN is cut; rows have owners where the GPUs of an instance hold different experts."""
        pool, rails = self.ffn, min(self.attention.gpus_per_instance, self.ffn.gpus_per_instance)
        owners = rails if pool.ep > 1 else 0
        return Split(instances=pool.instances, ep=pool.ep, tp=pool.tp, across=pool.across, owners=owners)

    @property
    def moved_weights(self) -> float:
        """Bytes of the shared expert that an attention GPU holds, less those of the gate that it does not."""
        moes = [layer.ffn for layer in self.llm.layers if isinstance(layer.ffn, Moe)]
        gates = 2.0 * self.llm.hidden * sum(moe.experts for moe in moes)
        shared = self.llm.hidden * sum(moe.matrices * moe.shared * moe.shared_inner for moe in moes)
        more = shared / self.attention.tp * stored_width(self.llm, self.precision.ffn)
        return (more if self.shared_expert == "attention" else 0.0) - (gates if self.gate == "ffn" else 0.0)

    @cached_property
    def ffn_weights(self) -> float:
        """Bytes of weights on one FFN GPU, a gate left out."""
        llm = self.llm
        if self.shared_expert == "attention":
            llm = replace(llm, layers=tuple(replace(layer, ffn=without_shared(layer.ffn)) for layer in llm.layers))
        return ffn_weight_bytes(llm, self.precision, self.split)

    def check_memory(self) -> None:
        """Raise `CapacityError` when the weights of a role do not fit its GPUs."""
        self._check_ffn()
        self._check_attention()

    def _check_ffn(self) -> None:
        pool = self.ffn
        free = self.usable(pool.gpu, pool.tp, experts=True)
        if self.ffn_weights > free:
            raise CapacityError(
                f"FFN weights need {self.ffn_weights / GB:.1f} GB per GPU, {has(pool.gpu, free)}",
                path="deployment.ffn.instances",
            )

    def _check_attention(self) -> None:
        if self.kv_budget <= 0:
            raise CapacityError(
                f"attention weights need {self.attention_weights / GB:.1f} GB per GPU and leave no room for KV cache: "
                f"{has(self.attention.gpu, self.usable_memory)}",
                path="deployment.attention.gpu",
            )


def has(gpu: Gpu, free: float) -> str:
    """Return ``H800 has 74.7 of 85.5 GB usable``."""
    return f"{gpu.name} has {max(free, 0.0) / GB:.1f} of {gpu.memory / GB:.1f} GB usable"
