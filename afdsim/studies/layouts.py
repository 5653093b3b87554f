"""Every way to lay a model out on GPUs of some kinds: the cells among which a planner chooses.

A layout is a deployment whose batch is open: AFD xAyF with every pair of GPU kinds, every split of experts inside an
FFN instance and two to four micro-batches, shared experts on either side, attention by data or, where that cuts KV
heads, by tensor parallelism; colocated expert parallelism over parts of a server and every number of servers, plain and
with either overlap, with every degree of tensor parallelism in its attention; tensor parallelism inside an NVLink
domain. What cannot be cut is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Gqa, Llm, Mfa, Mla, Moe
from afdsim.cluster.degrees import attention_uneven, dense_uneven, experts_uneven, shared_uneven, width_uneven

AFD, MIXED, EP, TP = "AFD", "AFD on two kinds of GPU", "colocated EP", "tensor parallel"
FAMILIES = (AFD, MIXED, EP, TP)
MICRO_BATCHES = (2, 3, 4)
"""Of AFD: with one, attention and FFN wait for each other in turn."""
OVERLAPS: tuple[Mapping[str, bool], ...] = ({}, {"single_batch_overlap": True}, {"two_batch_overlap": True})
DEGREES = (4, 2)
"""Of tensor parallelism in the attention of AFD, of which the first that cuts every KV head is tried."""
ON_ATTENTION = {"shared_expert": "attention"}
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
    def short(self) -> str:
        """The label up to the GPUs: ``2A2F H20 + H800``."""
        return self.label.partition(",")[0]

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
    sizes = tuple(_part(gpu, gpus[gpu.name] // (2 if attention == ffn else 1)) for gpu in pair)
    if not all(sizes):
        return
    for x, y in product(*(range(1, gpus[gpu.name] // size + 1) for gpu, size in zip(pair, sizes, strict=True))):
        used = {attention.name: x * sizes[0]}
        used[ffn.name] = used.get(ffn.name, 0) + y * sizes[1]
        if used[ffn.name] > gpus[ffn.name]:
            continue
        for tp, more in _ways(llm, attention, sizes[0]):
            rank = {"gpu": attention.name, "instances": x, "gpus_per_instance": sizes[0]}
            rank |= {"parallelism": {"dp": sizes[0] // tp, "tp": tp}} if tp > 1 else {}
            words = [f"attention TP{tp}"] * (tp > 1) + ["shared expert on attention"] * bool(more)
            for ep in _splits(llm, y, sizes[1], shared=not more):
                served = {"gpu": ffn.name, "instances": y, "gpus_per_instance": sizes[1]}
                served |= {"parallelism": {"ep": ep, "tp": sizes[1] // ep}}
                yield from _piped({"attention": rank, "ffn": served, **more}, used, words)


def _part(gpu: Gpu, most: int) -> int:
    """GPUs of an instance: those of a server, or of the largest even part of it that so many fill; 0 if none."""
    return max((n for n in _divisors(gpu.gpus_per_server) if n <= most), default=0)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _ways(llm: Llm, gpu: Gpu, size: int) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Degrees of tensor parallelism in attention, with who runs shared experts where that is the attention side."""
    yield 1, {}
    if any(isinstance(layer.ffn, Moe) and layer.ffn.shared for layer in llm.layers):
        yield 1, ON_ATTENTION
    mixers = [mixer for layer in llm.layers for mixer in layer.mixers]
    heads = {mixer.kv_heads for mixer in mixers if isinstance(mixer, Gqa)}
    whole = any(isinstance(mixer, Mfa | Mla) for mixer in mixers)  # their cache is every GPU's
    for tp in DEGREES if heads and not whole else ():
        if _fits(llm, gpu, tp, size) and not any(count % tp for count in heads):
            yield tp, {}
            return


def _fits(llm: Llm, gpu: Gpu, tp: int, size: int) -> bool:
    """Whether the attention of a rank can be cut over `tp` of the GPUs of an instance."""
    return size % tp == 0 and tp <= gpu.scale_up and not attention_uneven(llm, tp)


def _piped(pools: Mapping[str, Any], used: Mapping[str, int], words: Sequence[str]) -> Iterator[Layout]:
    """One xAyF with every number of micro-batches."""
    attention, ffn = pools["attention"], pools["ffn"]
    ep, tp = ffn["parallelism"].values()
    cut = f"EP{ep}" if tp == 1 else f"TP{tp}" if ep == 1 else f"EP{ep} x TP{tp}"
    same = attention["gpu"] == ffn["gpu"]
    where = ffn["gpu"] if same else f"{attention['gpu']} + {ffn['gpu']}"
    for m in MICRO_BATCHES:
        deployment = {"type": "afd", **pools, "num_microbatches": m}
        label = [f"{attention['instances']}A{ffn['instances']}F {where}", cut, f"{m} micro-batches", *words]
        yield Layout(family=AFD if same else MIXED, label=", ".join(label), deployment=deployment, gpus=used)


def _splits(llm: Llm, instances: int, size: int, *, shared: bool) -> Iterator[int]:
    """Expert-parallel degrees inside an FFN instance of `size` GPUs, widths cut over what is left.

    A dense model has one: its width is cut over all GPUs. `shared` where these GPUs run shared experts.
    """
    routed = any(isinstance(layer.ffn, Moe) for layer in llm.layers)
    for ep in _divisors(size) if routed else (1,):
        wide = instances * size
        if not (
            experts_uneven(llm, instances * ep)
            or width_uneven(llm, size // ep)
            or dense_uneven(llm, wide)
            or (shared and ep == 1 and shared_uneven(llm, wide))
        ):
            yield ep


def _expert_parallel(llm: Llm, gpu: Gpu, most: int) -> Iterator[Layout]:
    """Experts over all GPUs, as many copies as make them even; attention by data, or by tensors inside a server."""
    experts = max((layer.ffn.experts for layer in llm.layers if isinstance(layer.ffn, Moe)), default=0)
    whole = gpu.gpus_per_server
    parts = [(1, n) for n in _divisors(whole)[1:-1] if n <= most]
    for instances, size in (*parts, *((servers, whole) for servers in range(1, most // whole + 1))):
        count = instances * size
        copies = -experts % count
        if not experts or copies > experts or count == 1:
            continue
        for tp in (n for n in _divisors(size) if _fits(llm, gpu, n, size) and not dense_uneven(llm, n)):
            rank = {"type": "colocated", "gpu": gpu.name, "instances": instances, "gpus_per_instance": size}
            rank |= {"parallelism": {"dp": size // tp, "tp": tp}} if tp > 1 else {}
            words = [f"EP{count} {gpu.name}"] + [f"attention TP{tp}"] * (tp > 1)
            yield from _overlapped(rank | {"redundant_experts": copies}, words, count)


def _overlapped(deployment: Mapping[str, Any], words: Sequence[str], count: int) -> Iterator[Layout]:
    """One engine with every overlap."""
    for overlap in OVERLAPS:
        label = ", ".join([*words, *(SHORT[each] for each in overlap)])
        yield Layout(family=EP, label=label, deployment={**deployment, **overlap}, gpus={deployment["gpu"]: count})


def _tensor_parallel(llm: Llm, gpu: Gpu, most: int) -> Iterator[Layout]:
    """One engine inside an NVLink domain whose GPUs share every token, experts cut by width or whole."""
    size, within = gpu.gpus_per_server, min(most, gpu.scale_up)
    servers = (size << n for n in range(1, gpu.scale_up.bit_length()))
    for count in (n for n in (*_divisors(size), *servers) if n <= within):
        if attention_uneven(llm, count) or dense_uneven(llm, count) or shared_uneven(llm, count):
            continue
        for ep in dict.fromkeys((1, count)):
            if experts_uneven(llm, ep) or width_uneven(llm, count // ep):
                continue
            label = f"TP{count} {gpu.name}{f', EP{ep}' if ep > 1 else ''}"
            deployment = {"type": "tensor_parallel", "gpu": gpu.name, "gpus": count, "ep": ep}
            yield Layout(family=TP, label=label, deployment=deployment, gpus={gpu.name: count})
