"""HBM as engines count it: what they keep for themselves, what a sequence takes of the rest, how many fit.

    KV cache = gpu_memory_utilization * HBM - weights - reserve

as vLLM has it. HBM is the total that nvidia-smi reports. The reserve adds what the driver keeps of that total, the CUDA
context, communication buffers where ranks have several GPUs, and the activations of the largest pass for which an
engine is profiled when it starts. No term is fitted; which to take was chosen with the published capacities of
`studies.validation` in view, so their scores are in-sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Attention, Llm, Moe, Precision, kept, layer_kv_bytes, stored_bytes

USABLE_MEMORY = 0.9
"""Share of HBM that an engine may fill; vLLM's `gpu_memory_utilization` default (0.92 from its version 0.22 on)."""

GB, GIB = 1e9, 2.0**30

DRIVER = 0.6 * GIB
"""What PyTorch's total is below nvidia-smi's: 0.4 to 0.8 GiB on L4, A100, H20, H100 and H200."""
CONTEXT = 551e6
"""CUDA context and libraries (aiconfigurator-core 0.12.0, Apache-2.0, systems yaml: `other_mem` as observed there)."""
BUFFERS = 392 * 2.0**20
"""Of NCCL in a rank of several GPUs (the same file, `nccl_mem`: 342 MiB on two GPUs, 392 on more)."""
PROFILED = 8192
"""Tokens of the largest pass: vLLM's `max_num_batched_tokens` and SGLang's `chunked_prefill_size` on such GPUs."""

PCIE_4, PCIE_5 = 32e9, 64e9
"""Line rate of a slot of 16 lanes, one way (NVIDIA A100 and H100 data sheets: 64 and 128 GB/s both ways). Nothing is
taken off it, and GB200's faster link to its own CPU is not known here: a scenario that knows better says so."""


def host_link(gpu: Gpu) -> float:
    """Return bytes per second between a GPU and host memory, one way; assumed where it is not Ampere, Ada or Hopper."""
    return PCIE_4 if gpu.architecture in ("ampere", "ada") else PCIE_5


def reserve(hidden: int, tp: int, *, sparse: bool) -> float:
    """Return the bytes that an engine keeps on a GPU beside weights and KV cache; `sparse` where it runs experts.

    Activations are 4 + 6/tp BF16 values of the hidden size per token, and twice that with experts (aiconfigurator-core
    0.12.0, trtllm_backend.py, which serves vLLM too). CUDA graphs and all-to-all buffers are not counted: they come out
    of the share that is left over.
    """
    activations = 2.0 * PROFILED * hidden * (4.0 + 6.0 / tp) * (2.0 if sparse else 1.0)
    return DRIVER + CONTEXT + (BUFFERS if tp > 1 else 0.0) + activations


def usable(llm: Llm, gpu: Gpu, tp: int = 1, *, experts: bool, share: float = USABLE_MEMORY) -> float:
    """Return the bytes that weights and KV cache may fill on a GPU of a group of `tp`; `experts` where it runs them."""
    sparse = experts and any(isinstance(layer.ffn, Moe) for layer in llm.layers)
    return share * gpu.memory - reserve(llm.hidden, tp, sparse=sparse)


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
    block: int = 1
    """Tokens in which it is given out."""

    @cached_property
    def _kinds(self) -> Counter[Attention]:
        return Counter(mixer for layer in self.llm.layers for mixer in layer.mixers)

    def reserved(self, context: int) -> float:
        """Bytes for a sequence of `context` tokens."""
        return float(sum(n * self._stored(kind, context) for kind, n in self._kinds.items()))

    def _stored(self, kind: Attention, context: int) -> float:
        window = kept(kind)
        seen = context if window is None else min(context, window)
        blocks = -(seen // -self.block) * self.block
        fixed = float(stored_bytes(kind, 0, self.precision, self.tp))
        return fixed + layer_kv_bytes(kind, self.precision, self.tp) * blocks

    def law(self, windows: Sequence[int | None]) -> tuple[float, list[float]]:
        """Bytes of a sequence whatever its context, and per context token that each of `windows` lets in."""
        fixed, per_token = 0.0, [0.0] * len(windows)
        for kind, layers in self._kinds.items():
            fixed += layers * float(stored_bytes(kind, 0, self.precision, self.tp))
            per_token[windows.index(kept(kind))] += layers * layer_kv_bytes(kind, self.precision, self.tp)
        return fixed, per_token

    def sequences(self, context: int) -> int:
        """Sequences of `context` tokens that the budget holds."""
        return int(self.budget // self.reserved(context)) if self.budget > 0 else 0
