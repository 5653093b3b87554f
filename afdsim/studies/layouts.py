"""Every way to lay a model out on GPUs of some kinds: the cells among which a planner chooses.

A layout is a deployment whose batch is open: AFD xAyF with every pair of GPU kinds, every split of experts inside an
FFN instance and two to four micro-batches; colocated expert parallelism over every number of servers, plain and with
either overlap; tensor parallelism inside a server. What cannot be cut is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Llm, Moe
from afdsim.cluster.degrees import attention_uneven, dense_uneven, experts_uneven, shared_uneven, width_uneven

AFD, MIXED, EP, TP = "AFD", "AFD on two kinds of GPU", "colocated EP", "tensor parallel"
FAMILIES = (AFD, MIXED, EP, TP)
MICRO_BATCHES = (2, 3, 4)
"""Of AFD: with one, attention and FFN wait for each other in turn."""
OVERLAPS: tuple[Mapping[str, bool], ...] = ({}, {"single_batch_overlap": True}, {"two_batch_overlap": True})
SHORT = {"single_batch_overlap": "single-batch overlap", "two_batch_overlap": "two-batch overlap"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One cell, its batch open."""

    family: str
    """One of `FAMILIES`."""
    label: str
    """``2A2F H20 + H800, EP8, 3 micro-batches``."""
    deployment: Mapping[str, Any] = field(hash=False)
    """The deployment of a scenario, `max_num_seqs` left out."""
    gpus: Mapping[str, int] = field(hash=False)
    """GPUs by kind."""

    @property
    def count(self) -> int:
        """GPUs in all."""
        return sum(self.gpus.values())

    def sized(self, batch: int) -> dict[str, Any]:
        """The deployment with so many sequences for a rank."""
        return {**self.deployment, "max_num_seqs": batch}


def layouts(llm: Llm, gpus: Mapping[str, int]) -> Iterator[Layout]:
    """Yield every layout of a model on at most so many GPUs of each kind, those that cannot be cut left out."""
    kinds = {name: catalog.gpu(name) for name in gpus}
    for attention, ffn in product(kinds, repeat=2):
        yield from _afd(llm, (kinds[attention], kinds[ffn]), gpus)
    for name, gpu in kinds.items():
        yield from _expert_parallel(llm, gpu, gpus[name])
        yield from _tensor_parallel(llm, gpu, gpus[name])


def _afd(llm: Llm, pair: tuple[Gpu, Gpu], gpus: Mapping[str, int]) -> Iterator[Layout]:
    """Attention on one kind and FFN on another, or on the same."""
    attention, ffn = pair
    sizes = tuple(gpu.gpus_per_server for gpu in pair)
    for x, y in product(*(range(1, gpus[gpu.name] // size + 1) for gpu, size in zip(pair, sizes, strict=True))):
        used = {attention.name: x * sizes[0]}
        used[ffn.name] = used.get(ffn.name, 0) + y * sizes[1]
        if used[ffn.name] > gpus[ffn.name]:
            continue
        for ep in _splits(llm, y, sizes[1]):
            yield from _piped(pair, (x, y), ep, used)


def _piped(pair: tuple[Gpu, Gpu], counts: tuple[int, int], ep: int, used: Mapping[str, int]) -> Iterator[Layout]:
    """One xAyF with every number of micro-batches."""
    (attention, ffn), (x, y) = pair, counts
    size, tp = ffn.gpus_per_server, ffn.gpus_per_server // ep
    cut = f"EP{ep}" if tp == 1 else f"TP{tp}" if ep == 1 else f"EP{ep} x TP{tp}"
    where = attention.name if attention == ffn else f"{attention.name} + {ffn.name}"
    for m in MICRO_BATCHES:
        deployment = {
            "type": "afd",
            "attention": {
                "gpu": attention.name,
                "instances": x,
                "gpus_per_instance": attention.gpus_per_server,
            },
            "ffn": {
                "gpu": ffn.name,
                "instances": y,
                "gpus_per_instance": size,
                "parallelism": {"ep": ep, "tp": tp},
            },
            "num_microbatches": m,
        }
        label = f"{x}A{y}F {where}, {cut}, {m} micro-batches"
        yield Layout(family=AFD if attention == ffn else MIXED, label=label, deployment=deployment, gpus=used)


def _splits(llm: Llm, instances: int, size: int) -> Iterator[int]:
    """Expert-parallel degrees inside an FFN instance of `size` GPUs, widths cut over what is left."""
    for ep in (each for each in range(1, size + 1) if size % each == 0):
        wide = instances * size
        if not (
            experts_uneven(llm, instances * ep)
            or width_uneven(llm, size // ep)
            or dense_uneven(llm, wide)
            or (ep == 1 and shared_uneven(llm, wide))
        ):
            yield ep


def _expert_parallel(llm: Llm, gpu: Gpu, most: int) -> Iterator[Layout]:
    """Attention by data, experts over all GPUs, as many copies as make them even."""
    experts = max((layer.ffn.experts for layer in llm.layers if isinstance(layer.ffn, Moe)), default=0)
    size = gpu.gpus_per_server
    for servers in range(1, most // size + 1):
        count = servers * size
        copies = -experts % count
        if not experts or copies > experts:
            continue
        for overlap in OVERLAPS:
            deployment = {"type": "colocated", "gpu": gpu.name, "instances": servers, "gpus_per_instance": size}
            deployment |= {"redundant_experts": copies, **overlap}
            words = [f"EP{count} {gpu.name}", *(SHORT[each] for each in overlap)]
            yield Layout(family=EP, label=", ".join(words), deployment=deployment, gpus={gpu.name: count})


def _tensor_parallel(llm: Llm, gpu: Gpu, most: int) -> Iterator[Layout]:
    """One engine inside a server whose GPUs share every token, experts cut by width or whole."""
    for count in (
        n for n in range(1, min(most, gpu.gpus_per_server, gpu.scale_up) + 1) if gpu.gpus_per_server % n == 0
    ):
        if attention_uneven(llm, count) or dense_uneven(llm, count) or shared_uneven(llm, count):
            continue
        for ep in dict.fromkeys((1, count)):
            if experts_uneven(llm, ep) or width_uneven(llm, count // ep):
                continue
            label = f"TP{count}{f', EP{ep}' if ep > 1 else ''} {gpu.name}"
            deployment = {"type": "tensor_parallel", "gpu": gpu.name, "gpus": count, "ep": ep}
            yield Layout(family=TP, label=label, deployment=deployment, gpus={gpu.name: count})
