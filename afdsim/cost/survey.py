"""Models x accelerators x contexts: the rows of a theoretical cost analysis, ready to print or to save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Llm, Precision
from afdsim.cost import theory

Row: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is compared, and the limits it has to meet."""

    llms: tuple[Llm, ...]
    gpus: tuple[Gpu, ...]
    contexts: tuple[int, ...]
    precision: Precision = field(default_factory=Precision)
    network: float | None = None
    """Bytes/s of a server's NICs together; None for the paper's per accelerator."""
    tpot: float = theory.TPOT
    o_proj: int = 8
    """GPUs over which weak hardware cuts o_proj (Step-3 section 6)."""
    stated: frozenset[str] = frozenset()
    """GPUs whose price comes from who asks, not from the catalog."""

    def work(self) -> list[Row]:
        """Return bytes and FLOPs per decoded token (Step-3 tables 2 and 3)."""
        return [self._work(llm, context) for context, llm in product(self.contexts, self.llms)]

    def _work(self, llm: Llm, context: int) -> Row:
        token = theory.work(llm, context, self.precision)
        return {
            "model": llm.name,
            "context": context,
            "kv_bytes": token.kv_bytes,
            "attention_flops": token.attention_flops,
            "linear_flops": token.linear_flops,
            "ffn_flops": token.ffn_flops,
        }

    def usd(self) -> list[Row]:
        """Return USD per 1M tokens with both parts on one accelerator (Step-3 table 6); None without a price."""
        return [self._usd(llm, gpu, context) for context, llm, gpu in product(self.contexts, self.llms, self.gpus)]

    def _usd(self, llm: Llm, gpu: Gpu, context: int) -> Row:
        row: Row = {"model": llm.name, "gpu": gpu.name, "context": context}
        if gpu.usd_per_hour is None:
            return {**row, "attention": None, "ffn": None, "total": None}
        attention = theory.attention_usd(llm, gpu, context, self.precision)
        ffn = theory.ffn_usd(llm, gpu, self.precision)
        return {**row, "attention": attention, "ffn": ffn, "total": attention + ffn}

    def afd(self) -> list[Row]:
        """Return the cheapest accelerator for each part, of those with a price."""
        priced = [gpu for gpu in self.gpus if gpu.usd_per_hour is not None]
        return [self._afd(llm, priced, context) for context, llm in product(self.contexts, self.llms) if priced]

    def _afd(self, llm: Llm, priced: list[Gpu], context: int) -> Row:
        pair = theory.best_pair(llm, priced, context, self.precision)
        names = {"attention_gpu": pair.attention.name, "ffn_gpu": pair.ffn.name}
        return {"model": llm.name, "context": context, **names, "usd": pair.usd}

    def min_sparsity(self) -> list[Row]:
        """Return the paper's limit per accelerator, for 61 layers of 7168 (Step-3 table 7)."""
        limits: Row = {"network": self.network, "tpot": self.tpot, "dtype": self.precision.ffn}
        return [{"gpu": gpu.name, "value": theory.min_sparsity(gpu, **limits)} for gpu in self.gpus]

    def accelerators(self) -> list[Row]:
        """Return ridge, unit prices and the FFN's dense batch per accelerator (Step-3 tables 4 and 5).

        Ridge and USD/FLOP are of core attention's format, the dense batch of the FFN's.
        """
        return [self._accelerator(gpu) for gpu in self.gpus]

    def _accelerator(self, gpu: Gpu) -> Row:
        priced, core = gpu.usd_per_hour is not None, self.precision.cache
        return {
            "gpu": gpu.name,
            "roofline": theory.roofline(gpu, core),
            "usd_per_flop": theory.usd_per_flop(gpu, core) if priced else None,
            "usd_per_byte": theory.usd_per_byte(gpu) if priced else None,
            "dense_batch": theory.dense_batch(gpu, self.precision.ffn),
            "server_network": self.network or theory.server_network(gpu),
        }

    def rates(self) -> list[Row]:
        """Return the prices and network rates that were used per accelerator, with their sources."""
        return [self._rates(gpu) for gpu in self.gpus]

    def _rates(self, gpu: Gpu) -> Row:
        asked = self.network is not None
        return {
            "gpu": gpu.name,
            "usd_per_hour": gpu.usd_per_hour,
            "price_source": "--price" if gpu.name in self.stated else gpu.source,
            "server_network": self.network or theory.server_network(gpu),
            "network_source": "--network" if asked else "Step-3 paper, section 5: one port a GPU",
            "run_nic": self.network / 8 if self.network else gpu.nic.bandwidth,
            "run_nic_source": "--network" if asked else gpu.nic.source,
        }

    def intensity(self) -> list[Row]:
        """Return core FLOPs per KV byte, and whether that makes attention compute-bound on each accelerator."""
        return [
            {"model": llm.name, "context": context, "gpu": gpu.name, "flops_per_byte": value, "bound": bound}
            for llm, context, gpu in product(self.llms, self.contexts, self.gpus)
            for value in (theory.llm_intensity(llm, context, self.precision),)
            for bound in ("compute" if value > theory.roofline(gpu, self.precision.cache) else "memory",)
        ]

    def sparsity(self) -> list[Row]:
        """Return each model's share of active experts, the least that hides its network, and the ideal FFN batch."""
        return [self._sparsity(llm, gpu) for llm, gpu in product(self.llms, self.gpus)]

    def _sparsity(self, llm: Llm, gpu: Gpu) -> Row:
        share, dtype = theory.sparsity(llm), self.precision.ffn
        size: Row = {"hidden": llm.hidden, "layers": len(llm.layers)}
        least = theory.min_sparsity(gpu, network=self.network, tpot=self.tpot, dtype=dtype, **size)
        ideal = theory.ideal_batch(llm, gpu, dtype)
        names: Row = {"model": llm.name, "gpu": gpu.name}
        return {**names, "sparsity": share, "min_sparsity": least, "ideal_batch": ideal, "hidden": share >= least}

    def weak(self) -> list[Row]:
        """Return what each accelerator could take at the TPOT, and in memory.

        Sequences of each of three micro-batches on an attention GPU with the limit that binds, and cards for the FFN;
        `context_tokens` of all of them is what the bandwidth alone allows.
        """
        return list(self._weak())

    def _weak(self) -> Iterator[Row]:
        asked: Row = {"tpot": self.tpot, "precision": self.precision}
        for llm, gpu, context in product(self.llms, self.gpus, self.contexts):
            batch = theory.largest_batch(llm, gpu, context, o_proj=self.o_proj, **asked)
            yield {
                "model": llm.name,
                "gpu": gpu.name,
                "context": context,
                "context_tokens": max(0.0, theory.largest_context(llm, gpu, o_proj=self.o_proj, **asked)),
                "largest_batch": batch.largest,
                "limit": batch.limit,
                "ffn_cards": theory.ffn_cards(llm, gpu, **asked),
            }
