"""Kernels timed on a local GPU with PyTorch, at the shapes of decoding, and coefficients fitted to them.

Runs are replays of a CUDA graph over several copies of the operands that together exceed the L2 cache, as decoding
meets its weights. PyTorch is imported when asked for; a kernel that the device or the version lacks is left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.cost.fitting import Errors, Identity, Peaks, Samples, fit, line
from afdsim.cost.probes import Probe, probes
from afdsim.cost.roofline import Roofline, padding
from afdsim.errors import CatalogError

Progress = Callable[[str], None]
Timed: TypeAlias = "Sequence[tuple[Probe, float]]"
"""Probes with the median seconds of a launch."""

FLUSH = 256e6
"""Bytes of operand copies that a graph walks through: several times any L2 cache."""
LAUNCHES = (2, 256)
"""Fewest and most launches of a graph."""
RESIDENT = 32
"""Launches of a graph on operands that stay in L2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was timed on a GPU, and what follows from it."""

    device: str
    gpu: Gpu
    timed: Timed
    lines: Sequence[dict[str, str]]
    """Of a coefficient table."""


def calibrated(name: str | None, *, repeats: int, progress: Progress) -> Calibration:
    """Return kernels timed on the GPU of this machine, and the lines of a coefficient table that fit them."""
    torch = local_torch()
    device = torch.cuda.get_device_name()
    gpu = recognised(device, name)
    progress(f"timing on {device}, coefficients for {gpu.name}")
    timed = list(time_all(torch, probes(torch.cuda.get_device_capability()), repeats=repeats, progress=progress))
    lines = fitted(timed, gpu, f"afdsim calibrate: {device}, PyTorch {torch.__version__}")
    return Calibration(device=device, gpu=gpu, timed=timed, lines=lines)


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


def time_all(torch: Any, chosen: Iterable[Probe], *, repeats: int, progress: Progress) -> Iterator[tuple[Probe, float]]:
    """Yield every probe that the device can run with its median seconds."""
    lacking: dict[tuple[str, str], str] = {}
    for probe in chosen:
        if (probe.kernel, probe.dtype) in lacking:
            continue
        try:
            seconds = time_kernel(torch, probe, repeats)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            if "out of memory" in reason:
                progress(f"{_title(probe)} left out: does not fit")
            else:
                lacking[probe.kernel, probe.dtype] = reason
                progress(f"{probe.kernel} {probe.dtype} left out: {reason}")
            continue
        progress(f"{_title(probe)}: {seconds * 1e6:.1f} us")
        yield probe, seconds


def _title(probe: Probe) -> str:
    return f"{probe.kernel} {probe.dtype} {shape_text(probe)}"


def shape_text(probe: Probe) -> str:
    """Return the shape of a probe as one word.

    >>> shape_text(next(probes((9, 0))))
    '1x2048x16384'
    """
    return "x".join(map(str, probe.shape)).replace(" ", "-")


def time_kernel(torch: Any, probe: Probe, repeats: int) -> float:
    """Return the median seconds of one launch, from replays of a graph over copies of the operands."""
    calls = _calls(torch, probe)
    graph = _captured(torch, calls)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(repeats):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / len(calls))
    return float(np.median(times))


def _calls(torch: Any, probe: Probe) -> list[Callable[[], object]]:
    """Return launches on operands that together exceed L2, or on the same ones where they would be there."""
    if not probe.moved:
        return [probe.make(torch)] * RESIDENT
    fewest, most = LAUNCHES
    return [probe.make(torch) for _ in range(max(fewest, min(most, math.ceil(FLUSH / probe.moved))))]


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


def fitted(timed: Timed, gpu: Gpu, source: str) -> list[dict[str, str]]:
    """Return a line of the coefficient table per kernel and dtype.

    PyTorch's attention follows the BF16 peak. A fraction on which no time depends is left empty.
    """
    lines = []
    for (kernel, dtype), own in by_kernel(timed).items():
        name = Identity(gpu=gpu.name, kernel=kernel, dtype=dtype, source=source, tile=own[0][0].tile)
        if kernel.startswith("core"):
            name = replace(name, backend="torch", peak="bf16")
        elif kernel == "grouped_gemm":
            name = replace(name, backend="torch")
        if len(own) >= 6:
            lines.append(_line(name, samples(own), Peaks(flops=gpu.peak(dtype), bandwidth=gpu.memory_bandwidth)))
    return lines


def _line(name: Identity, found: Samples, peaks: Peaks) -> dict[str, str]:
    counted = {"compute": found.flops.any(), "memory": found.bytes.any()}
    return {**line(name, fit(found, peaks)), **{column: "" for column, any_work in counted.items() if not any_work}}


def by_kernel(timed: Timed) -> dict[tuple[str, str], Timed]:
    """Return what was timed of each kernel and dtype."""
    found: dict[tuple[str, str], list[tuple[Probe, float]]] = {}
    for probe, seconds in timed:
        found.setdefault((probe.kernel, probe.dtype), []).append((probe, seconds))
    return dict(found)


def shipped_errors(timed: Timed, gpu: Gpu) -> Errors | None:
    """Return how far the shipped coefficients are off what was timed; None where none prices all of it."""
    predicted = [shipped_seconds(probe, gpu) for probe, _ in timed]
    if None in predicted:
        return None
    off = np.abs(np.array(predicted, dtype=np.float64) / np.array([seconds for _, seconds in timed]) - 1.0)
    return Errors(median=float(np.median(off)), p90=float(np.quantile(off, 0.9)))


def shipped_seconds(probe: Probe, gpu: Gpu) -> float | None:
    """Return what the shipped coefficients say of a probe, or None where they are silent."""
    try:
        return float(Roofline().seconds(probe.operator, gpu))
    except CatalogError:
        return None


def times_csv(timed: Timed, gpu: Gpu) -> str:
    """Return what was timed, in us, and what the shipped coefficients say, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("gpu", "kernel", "dtype", "shape", "us", "shipped_us"))
    for probe, seconds in timed:
        known = shipped_seconds(probe, gpu)
        shipped = "" if known is None else f"{known * 1e6:.2f}"
        writer.writerow((gpu.name, probe.kernel, probe.dtype, shape_text(probe), f"{seconds * 1e6:.2f}", shipped))
    return text.getvalue()


def samples(timed: Timed) -> Samples:
    """Return the measurements of one kernel for fitting."""
    works = [probe.operator for probe, _ in timed]
    padded = [float(w.flops) * float(padding(w, probe.tile)) for w, (probe, _) in zip(works, timed, strict=True)]
    return Samples(
        flops=np.array(padded),
        bytes=np.array([float(work.bytes) for work in works]),
        seconds=np.array([seconds for _, seconds in timed]),
        shapes=tuple(probe.shape for probe, _ in timed),
    )
