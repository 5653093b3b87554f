"""Coefficients of ``t = fixed + max(flops / (peak * compute), bytes / (bandwidth * memory))`` from measured kernels.

Fits minimise the mean of |log(predicted / measured)|, so that a kernel twice too fast weighs as much as one twice too
slow, and a tenth of wild rows moves nothing. A fifth of the shapes, chosen by a hash of the shape, is never fitted on
when the held-out error is stated. Rows are written in the format of ``data/coefficients.csv``.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Triple: TypeAlias = tuple[float, float, float]
"""Fixed seconds, then the fractions of peak and of bandwidth reached."""

COLUMNS = (
    *("gpu", "kernel", "dtype", "backend", "gpus", "peak", "fixed", "compute", "memory", "bandwidth", "tile"),
    *("quantise", "status", "source", "samples", "median_error", "p90_error", "held_out_median", "held_out_p90"),
)

LEAST = 6
"""Rows below which three numbers are not fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Measured runs of one kernel on one GPU, row by row."""

    flops: Floats
    """Padded FLOPs; zero for a kernel that only moves bytes."""
    bytes: Floats
    seconds: Floats
    shapes: tuple[Hashable, ...]
    """What is held out together."""

    def __post_init__(self) -> None:
        lengths = {len(self.flops), len(self.bytes), len(self.seconds), len(self.shapes)}
        if len(lengths) > 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")
        if (self.seconds <= 0).any():
            raise ValueError("a measured time is not positive")

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, rows: NDArray[np.bool_]) -> Samples:
        """Return the rows where `rows` is true."""
        kept = tuple(shape for shape, keep in zip(self.shapes, rows, strict=True) if keep)
        return Samples(flops=self.flops[rows], bytes=self.bytes[rows], seconds=self.seconds[rows], shapes=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What the fractions of a fit refer to."""

    flops: float
    bandwidth: float
    """Bytes/s; 1 where the bandwidth itself is fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of |predicted / measured - 1|."""

    median: float
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fit to all samples, and how well one on four fifths of the shapes predicts the last fifth."""

    fixed: float
    compute: float
    memory: float
    samples: int
    own: Errors
    held_out: Errors


def fit(samples: Samples, peaks: Peaks) -> Fit:
    """Return the fit to `samples` with its errors."""
    if len(samples) < LEAST:
        raise ValueError(f"{len(samples)} measured rows are too few for a fit; {LEAST} are needed")
    out = held_out(samples.shapes)
    every = best(samples, peaks)
    most = best(samples.take(~out), peaks) if out.any() and (~out).sum() >= LEAST else every
    rest = samples.take(out) if out.any() else samples
    return Fit(
        fixed=every[0],
        compute=every[1],
        memory=every[2],
        samples=len(samples),
        own=errors(every, samples, peaks),
        held_out=errors(most, rest, peaks),
    )


def held_out(shapes: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Return which rows belong to the held-out fifth: by a hash of the shape, the same on every machine."""
    return np.array([zlib.crc32(repr(shape).encode()) % 5 == 0 for shape in shapes], dtype=bool)


def predicted(triple: Triple, samples: Samples, peaks: Peaks) -> Floats:
    """Return the seconds that `triple` predicts for `samples`."""
    fixed, compute, memory = triple
    arithmetic = samples.flops / (peaks.flops * compute)
    return np.asarray(fixed + np.maximum(arithmetic, samples.bytes / (peaks.bandwidth * memory)))


def errors(triple: Triple, samples: Samples, peaks: Peaks) -> Errors:
    """Return the errors of `triple` on `samples`."""
    found = np.abs(predicted(triple, samples, peaks) / samples.seconds - 1.0)
    return Errors(median=float(np.median(found)), p90=float(np.quantile(found, 0.9)))


def best(samples: Samples, peaks: Peaks) -> Triple:
    """Return the triple of least loss: a grid of five values each, centred on the best so far and shrinking.

    No kernel streams faster than HBM: where measured ones ran out of L2, the fit says 1.
    """
    centre, span = _start(samples, peaks), np.log(np.array([30.0, 8.0, 8.0]))
    # the centre comes first, so that a number on which nothing depends stays where it is
    steps = np.array(sorted(product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=3), key=lambda step: sum(map(abs, step))))
    few = _thinned(samples)
    while span.max() > 1e-3:
        candidates = centre + steps * span
        if peaks.bandwidth > 1.0:
            candidates[:, 2] = np.minimum(candidates[:, 2], 0.0)
        losses = [_loss(candidate, few, peaks) for candidate in candidates]
        nearest = candidates[int(np.argmin(losses))]
        # a step inside the grid narrows it; one to its edge moves it first
        span = span * np.where(np.abs(nearest - centre) < span * 0.9, 0.7, 1.0)
        centre = nearest
    fixed, compute, memory = np.exp(centre).tolist()
    return fixed, compute, memory


def _start(samples: Samples, peaks: Peaks) -> Floats:
    """Return the logarithms of a rough guess: the fastest run, and the rates of the largest tenth of the runs."""
    large = samples.seconds >= np.quantile(samples.seconds, 0.9)
    worked = samples.take(large)
    rates = [
        float(np.quantile(worked.flops / worked.seconds, 0.9)) / peaks.flops,
        float(np.quantile(worked.bytes / worked.seconds, 0.9)) / peaks.bandwidth,
    ]
    return np.log([samples.seconds.min() * 0.7, *(max(rate, 1e-3) for rate in rates)])


def _thinned(samples: Samples, most: int = 3000) -> Samples:
    """Return every n-th sample, so that a fit takes a second whatever the table."""
    rows = np.zeros(len(samples), dtype=bool)
    rows[:: max(1, len(samples) // most)] = True
    return samples.take(rows)


def _loss(logs: Floats, samples: Samples, peaks: Peaks) -> float:
    fixed, compute, memory = np.exp(logs)
    return float(np.abs(np.log(predicted((fixed, compute, memory), samples, peaks) / samples.seconds)).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a fitted row of the coefficient table is about."""

    gpu: str
    kernel: str
    dtype: str
    source: str
    backend: str = "*"
    gpus: int = 0
    """Ranks of a collective."""
    peak: str = ""
    tile: int = 1
    quantise: float = 0.0

    @property
    def collective(self) -> bool:
        """Whether bytes are on a wire, so that the bandwidth itself is fitted."""
        return self.gpus > 0


def line(identity: Identity, found: Fit) -> dict[str, str]:
    """Return the row of the coefficient table that a fit makes."""
    streamed = {"compute": f"{found.compute:.4f}", "memory": f"{found.memory:.3f}"}
    rates = {"bandwidth": f"{found.memory:.4g}"} if identity.collective else streamed
    filled = {
        "gpu": identity.gpu,
        "kernel": identity.kernel,
        "dtype": identity.dtype,
        "backend": identity.backend,
        "gpus": str(identity.gpus or ""),
        "peak": identity.peak,
        "fixed": f"{found.fixed:.3g}",
        **rates,
        "tile": str(identity.tile),
        "quantise": f"{identity.quantise:g}",
        "status": "measured",
        "source": identity.source,
        "samples": str(found.samples),
        "median_error": f"{found.own.median:.3f}",
        "p90_error": f"{found.own.p90:.3f}",
        "held_out_median": f"{found.held_out.median:.3f}",
        "held_out_p90": f"{found.held_out.p90:.3f}",
    }
    return {column: filled.get(column, "") for column in COLUMNS}


def to_csv(lines: Iterable[dict[str, str]]) -> str:
    """Return the text of a coefficient table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
