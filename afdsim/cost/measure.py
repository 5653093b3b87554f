"""Kernels timed on a local GPU with PyTorch, at the shapes of decoding, and coefficients fitted to them.

Runs are replays of a CUDA graph over several copies of the operands that together exceed the L2 cache, as decoding
meets its weights. PyTorch is imported when asked for; a kernel that the device or the version lacks is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Dense, Gqa, Layer, Precision
from afdsim.cost.fitting import Identity, Peaks, Samples, fit, line
from afdsim.cost.operators import Operator, core_operator, gemm
from afdsim.cost.roofline import padding
from afdsim.errors import CatalogError

Progress = Callable[[str], None]

FLUSH = 256e6
"""Bytes of operand copies that a graph walks through: several times any L2 cache."""

TOKENS = (1, 8, 32, 64, 128, 256, 512)
MATRICES = ((2048, 16384), (4096, 4096), (5120, 25600), (7168, 2112), (7168, 2560), (16384, 7168))
"""(k, n) of projections in the catalog."""
HEADS = ((64, 1, 256), (16, 1, 128), (64, 4, 128), (40, 8, 128))
"""(query heads, KV heads, head dim) of MFA, MQA and GQA; one KV head of 256 belongs to MFA."""
BATCHES = ((8, 8192), (32, 4096), (64, 4096), (64, 8192), (128, 2048), (128, 4096))
"""(sequences, context)."""
PRODUCTS = (16, 64, 128)
"""Heads of the absorbed products of MLA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One shape of one kernel: its work, and how to set it up."""

    kernel: str
    dtype: str
    shape: tuple[int, ...]
    operator: Operator
    tile: int = 1
    make: Callable[[Any], Callable[[], object]]
    """PyTorch -> a call that launches the kernel on operands of its own."""


def calibrated(name: str | None, *, repeats: int, progress: Progress) -> list[dict[str, str]]:
    """Return lines of a coefficient table measured on the GPU of this machine."""
    torch = local_torch()
    gpu = recognised(torch.cuda.get_device_name(), name)
    progress(f"timing on {torch.cuda.get_device_name()}, coefficients for {gpu.name}")
    timed = list(_timed(torch, repeats, progress))
    source = f"afdsim calibrate: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    return fitted(timed, gpu, source)


def local_torch() -> Any:
    """Return PyTorch with a CUDA device behind it, or say in one line what is missing."""
    try:
        import torch
    except ImportError:
        raise CatalogError("calibrate needs PyTorch: pip install 'afdsim[calibrate]'") from None
    if not torch.cuda.is_available():
        raise CatalogError("calibrate found no CUDA GPU on this machine; run it where one is")
    return torch


def recognised(device: str, name: str | None) -> Gpu:
    """Return the catalog's GPU called `name`, or the one whose name stands, in whole words, in the device's own."""
    if name is not None:
        return catalog.gpu(name)
    words = f" {device.replace('-', ' ').upper()} "
    for known in catalog.gpus():
        if f" {known.upper()} " in words:
            return catalog.gpu(known)
    raise CatalogError(f"the catalog knows no GPU in {device!r}; name one with --gpu: {', '.join(catalog.gpus())}")


def _timed(torch: Any, repeats: int, progress: Progress) -> Iterator[tuple[Probe, float]]:
    """Yield every probe with its median seconds."""
    lacking: dict[tuple[str, str], str] = {}
    for probe in probes(torch):
        if (probe.kernel, probe.dtype) in lacking:
            continue
        try:
            seconds = time_kernel(torch, probe, repeats)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            lacking[probe.kernel, probe.dtype] = str(error)
            progress(f"{probe.kernel} {probe.dtype} left out: {str(error).splitlines()[0]}")
            continue
        progress(f"{probe.kernel} {probe.dtype} {'x'.join(map(str, probe.shape))}: {seconds * 1e6:.1f} us")
        yield probe, seconds


def probes(torch: Any) -> Iterator[Probe]:
    """Yield every shape to time on the current device."""
    yield from (_gemm(tokens, shape, "bf16") for shape in MATRICES for tokens in TOKENS)
    if torch.cuda.get_device_capability() >= (8, 9):
        yield from (_gemm(max(tokens, 16), shape, "fp8") for shape in MATRICES for tokens in TOKENS[1:])
    yield from (_core(heads, batch) for heads in HEADS for batch in BATCHES)
    yield from (_product(heads, tokens) for heads in PRODUCTS for tokens in TOKENS)


def _gemm(tokens: int, shape: tuple[int, int], dtype: str) -> Probe:
    """Return a dense GEMM; FP8 with a scale per tensor and its input quantised before the clock starts."""
    k, n = shape

    def make(torch: Any) -> Callable[[], object]:
        a = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        if dtype == "bf16":
            return lambda: torch.mm(a, b.t())
        one = torch.ones((), device="cuda")
        short, matrix = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        return lambda: torch._scaled_mm(short, matrix.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    work = gemm("gemm", float(tokens), shape, dtype)
    return Probe(kernel="gemm", dtype=dtype, shape=(tokens, k, n), operator=work, make=make)


def _core(heads: tuple[int, int, int], batch: tuple[int, int]) -> Probe:
    """Return grouped-query decode attention through PyTorch's own kernel, one query token per sequence."""
    (query, kv, dim), (sequences, context) = heads, batch

    def make(torch: Any) -> Callable[[], object]:
        def drawn(count: int, tokens: int) -> Any:
            return torch.randn(sequences, count, tokens, dim, device="cuda", dtype=torch.bfloat16)

        q, k, v = drawn(query, 1), drawn(kv, context), drawn(kv, context)
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(q, k, v, enable_gqa=True)

    layer = Layer(attention=Gqa(heads=query, kv_heads=kv, head_dim=dim), ffn=Dense(inner=1))
    work = core_operator(layer, float(sequences), float(sequences * context), precision=Precision(kv_cache="bf16"))
    return Probe(kernel=work.kernel, dtype="bf16", shape=(*heads, *batch), operator=work, tile=TORCH_TILE, make=make)


TORCH_TILE = 64
"""Query rows to which FlashAttention-2, PyTorch's decode kernel, pads."""


def _product(heads: int, tokens: int) -> Probe:
    """Return one absorbed product of MLA: a batch over heads of tokens x 128 by 128 x 512."""

    def make(torch: Any) -> Callable[[], object]:
        a = torch.randn(heads, tokens, 128, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(heads, 128, 512, device="cuda", dtype=torch.bfloat16)
        return lambda: torch.bmm(a, b)

    weights = heads * 128.0 * 512.0
    work = Operator(
        name="absorbed", stage="attention", kernel="bmm", dtype="bf16", flops=2.0 * tokens * weights, bytes=2 * weights
    )
    return Probe(kernel="bmm", dtype="bf16", shape=(heads, tokens), operator=work, make=make)


def time_kernel(torch: Any, probe: Probe, repeats: int) -> float:
    """Return the median seconds of one launch, from replays of a graph over copies of the operands."""
    copies = max(2, min(32, math.ceil(FLUSH / max(float(probe.operator.bytes), 1.0))))
    calls = [probe.make(torch) for _ in range(copies)]
    graph = _captured(torch, calls)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(repeats):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / copies)
    return float(np.median(times))


def _captured(torch: Any, calls: list[Callable[[], object]]) -> Any:
    """Return a CUDA graph of `calls`, warmed up on a side stream as capturing demands."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def fitted(timed: list[tuple[Probe, float]], gpu: Gpu, source: str) -> list[dict[str, str]]:
    """Return a line of the coefficient table per kernel and dtype; PyTorch's attention follows the BF16 peak."""
    lines = []
    for kernel, dtype in dict.fromkeys((probe.kernel, probe.dtype) for probe, _ in timed):
        own = [(probe, seconds) for probe, seconds in timed if (probe.kernel, probe.dtype) == (kernel, dtype)]
        name = Identity(gpu=gpu.name, kernel=kernel, dtype=dtype, source=source, tile=own[0][0].tile)
        if kernel.startswith("core"):
            name = replace(name, backend="torch", peak="bf16")
        if len(own) >= 6:
            lines.append(line(name, fit(samples(own), Peaks(flops=gpu.peak(dtype), bandwidth=gpu.memory_bandwidth))))
    return lines


def samples(timed: list[tuple[Probe, float]]) -> Samples:
    """Return the measurements of one kernel for fitting."""
    works = [probe.operator for probe, _ in timed]
    padded = [float(w.flops) * float(padding(w, probe.tile)) for w, (probe, _) in zip(works, timed, strict=True)]
    return Samples(
        flops=np.array(padded),
        bytes=np.array([float(work.bytes) for work in works]),
        seconds=np.array([seconds for _, seconds in timed]),
        shapes=tuple(probe.shape for probe, _ in timed),
    )
