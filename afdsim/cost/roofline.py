"""Seconds of an operator on a GPU: a roofline whose efficiencies were fitted to measured kernels.

    t = launches * (fixed + quantise) + max(flops * padding / (peak * compute), bytes / (bandwidth * memory))

Coefficients come per GPU family, kernel, dtype and backend from ``data/coefficients.csv``, each with its source,
its status and the median error of its fit. None was ever fitted to an end-to-end result.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from afdsim import units
from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Array
from afdsim.cost.operators import Operator
from afdsim.errors import CatalogError

STATUSES = ("measured", "family", "transferred", "assumed")
"""Where numbers come from, strongest first: measured on this very GPU; on a sibling of its family (same architecture);
transferred from another GPU, or from another format of this one; assumed, as wherever a format stands in for one that
the GPU lacks."""


class CostModel(Protocol):
    """Whatever can price an operator; time must not fall when flops, bytes or rows grow."""

    def seconds(self, operator: Operator, gpu: Gpu) -> Array:
        """Return the seconds of `operator` on one `gpu`, in the shape of the operator's arrays."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One row of the coefficient table."""

    gpu: str
    """Name of a GPU, of a family, or ``*``."""
    kernel: str
    dtype: str
    backend: str
    gpus: int
    """Ranks of a collective; 0 for any other kernel."""
    peak: str
    """Dtype whose peak `compute` refers to; empty for the operator's own."""
    fixed: float
    """Seconds of one launch."""
    compute: float
    """Fraction of peak FLOP/s reached."""
    memory: float
    """Fraction of the HBM bandwidth reached."""
    bandwidth: float
    """Bytes/s on the wire in place of HBM; 0 where HBM counts."""
    tile: int
    """Rows to which the kernel pads."""
    quantise: float
    """Seconds of the activation quantisation that the fit left out."""
    status: str
    """One of `STATUSES`, as seen from `gpu`; in an answer of `Roofline.coefficient`, from the GPU asked for."""
    source: str
    """A row that is marked `family` begins with whose table it is: ``B200's``."""
    samples: int
    median_error: float
    """Median of |predicted / measured - 1| over the samples; NaN where nothing was measured."""
    p90_error: float
    """Its ninth decile."""

    @property
    def lender(self) -> str:
        """GPU, or family, on which the numbers of a row of status family were measured."""
        owner, marked, _ = self.source.partition("'s ")
        return owner if marked and " " not in owner else self.gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """``seconds = fixed + max(flops * per_flop, bytes * per_byte)`` of one operator on one GPU."""

    fixed: float
    per_flop: float
    per_byte: float
    source: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The default cost model."""

    backends: tuple[str, ...] = ()
    """Kernel libraries to prefer over the defaults, for example ("flashinfer", "cutlass")."""
    own: tuple[Coefficient, ...] = ()
    """Rows that come before the shipped ones: what `afdsim calibrate` measured, read by `read_table`."""

    def __post_init__(self) -> None:
        for text in unknown_backends(self.backends, frozenset(row.backend for row in self.own)):
            raise CatalogError(text)

    def seconds(self, operator: Operator, gpu: Gpu) -> Array:
        """Return the seconds of `operator` on one `gpu`, in the shape of the operator's arrays."""
        law = self.law(operator, gpu)
        return law.fixed + np.maximum(self._computing(operator, gpu, law), operator.bytes * law.per_byte)

    def bound(self, operator: Operator, gpu: Gpu) -> str:
        """Return what limits `operator`, of scalar work: "compute", "memory" or "network", or "launch".

        The last where the kernel's fixed time is longer than its work.
        """
        law = self.law(operator, gpu)
        computing, moving = float(self._computing(operator, gpu, law)), float(operator.bytes * law.per_byte)
        if law.fixed > max(computing, moving):
            return "launch"
        if computing >= moving:
            return "compute"
        return "network" if self.coefficient(operator, gpu).bandwidth else "memory"

    def _computing(self, operator: Operator, gpu: Gpu, law: Law) -> Array:
        """Return the seconds of arithmetic of `operator`, tiles padded."""
        flops = operator.flops
        if not _foldable(operator):
            padded = padding(operator, self.coefficient(operator, gpu).tile)
            flops = operator.unpadded + (operator.flops - operator.unpadded) * padded
        return flops * law.per_flop

    def law(self, operator: Operator, gpu: Gpu) -> Law:
        """Return the affine law of `operator` on `gpu`; padding is inside `per_flop` where rows are one exact number.

        Elsewhere (grouped GEMM, rows as an array) `per_flop` is that of padded FLOPs.
        """
        row = self.coefficient(operator, gpu)
        waste = float(padding(operator, row.tile)) if _foldable(operator) else 1.0
        rate = gpu.peak(row.peak or operator.dtype) * row.compute if row.compute else math.inf
        bandwidth = row.bandwidth or gpu.memory_bandwidth * row.memory or math.inf
        return Law(
            fixed=operator.launches * (row.fixed + row.quantise),
            per_flop=waste / rate,
            per_byte=1.0 / bandwidth,
            source=row.source,
            status=row.status,
        )

    def coefficient(self, operator: Operator, gpu: Gpu) -> Coefficient:
        """Return the row that prices `operator` on `gpu`, with its status there.

        A row of the GPU comes first, then of its family, then of the nearest GPU; of its own format, then of the one
        that the GPU computes in instead.
        """
        dtypes = dict.fromkeys((operator.dtype, _native(operator.dtype, gpu)))
        for known in (_by_kernel(self.own), table()) if self.own else (table(),):
            for dtype, owner in product(dtypes, owners(gpu)):
                rows = [row for row in known.get((owner, operator.kernel), ()) if row.dtype in (dtype, "*")]
                if rows:
                    row = self._choose(rows, operator.gpus)
                    return _seen_from(gpu, row, operator)
        raise CatalogError(
            f"no coefficient for kernel {operator.kernel!r} in {[*dtypes][-1]} on {gpu.name}; "
            f"add a row for {gpu.family} to coefficients.csv"
        )

    def _choose(self, rows: list[Coefficient], gpus: int) -> Coefficient:
        """Return the row of a preferred backend, else of the default one, for the next measured group size."""
        wanted = [row for row in rows if row.backend in self.backends] or [
            row for row in rows if row.backend == rows[0].backend
        ]
        return min(wanted, key=lambda row: (row.gpus < gpus, abs(row.gpus - gpus)))


@cache
def owners(gpu: Gpu) -> tuple[str, ...]:
    """Return whose rows price `gpu`, best first: its own, its family's, those of the nearest GPU, anybody's."""
    lent = () if gpu.nearest is None else (gpu.nearest, catalog.gpu(gpu.nearest).family)
    return tuple(dict.fromkeys((gpu.name, gpu.family, *lent, "*")))


def status_on(gpu: Gpu, *, owner: str, status: str) -> str:
    """Return what the `status` of a row of `owner` (a GPU, a family or ``*``) means on `gpu`."""
    if owner not in (gpu.name, gpu.family, "*"):
        return weakest((status, "transferred"))
    return "family" if status == "measured" and owner not in (gpu.name, "*") else status


def weakest(statuses: Iterable[str]) -> str:
    """Return the weakest of `statuses`."""
    return max(statuses, key=STATUSES.index)


def _seen_from(gpu: Gpu, row: Coefficient, operator: Operator) -> Coefficient:
    """Return `row` with its status for `operator` on `gpu`: that another format stands in for one is assumed.

    The source names a GPU beyond the family that lends the row, and the format that stands in.
    """
    own = status_on(gpu, owner=row.gpu, status=row.status)
    foreign, lent = row.dtype not in (operator.dtype, "*"), row.gpu not in (gpu.name, gpu.family, "*")
    status = "assumed" if foreign else own
    source = f"{row.dtype} in place of {operator.dtype}: {row.source}" if foreign else row.source
    source = f"{row.gpu}: {source}" if lent else source
    return row if (status, source) == (row.status, row.source) else replace(row, status=status, source=source)


def known_status(line: Mapping[str, str]) -> bool:
    """Return whether a line of a table states one of `STATUSES`, and a source."""
    return bool(line["source"].strip()) and line["status"] in STATUSES


def _native(dtype: str, gpu: Gpu) -> str:
    """Return the dtype under which a table knows `dtype` on `gpu`; FP32 state is nobody's arithmetic."""
    return dtype if dtype == "fp32" else gpu.native(dtype)


def _foldable(operator: Operator) -> bool:
    """Return whether padding is one factor for the whole operator: its rows are one exact number, or none."""
    return operator.rows is None or not (operator.spread or np.ndim(operator.rows))


def padding(operator: Operator, tile: int) -> Array:
    """Return padded over useful FLOPs of the part of `operator` that is padded to `tile` rows."""
    if operator.rows is None:
        return 1.0
    rows = np.asarray(operator.rows, dtype=np.float64)
    filled = expected_rows(rows, tile) if operator.spread else np.ceil(rows / tile) * tile
    return np.divide(filled, rows, out=np.full_like(rows, tile), where=rows > 0)


def expected_rows(mean: Array, tile: int) -> NDArray[np.float64]:
    """Return E[X rounded up to a multiple of `tile`] for X Poisson with `mean`: what uniform routing costs.

    The first tile is exact; the others are P(X > k*tile) by the normal law with continuity correction. Strictly
    increasing, so that one more token never costs less.

    >>> expected_rows(128.0, 64).round(1).item()
    158.9
    """
    mean = np.asarray(mean, dtype=np.float64)
    tails = _tails(tile)
    last = len(tails) - 1
    beyond = np.maximum(mean - last, 0.0)
    more = np.interp(mean, np.arange(len(tails)), tails) * tile + beyond
    return np.asarray(more - tile * np.expm1(-mean))


@cache
def _tails(tile: int) -> NDArray[np.float64]:
    """Return sum over k >= 1 of P(X > k*tile) at means 0, 1, 2, ... up to where only the mean matters."""
    last = max(64, tile * tile // 4)
    return np.array([_tail(float(mean), tile) for mean in range(last + 1)])


def _tail(mean: float, tile: int) -> float:
    spread = math.sqrt(mean)
    first = max(1, int((mean - 7.0 * spread - 1.0) // tile)) if mean else 1
    total = first - 1.0
    for k in range(first, int((mean + 7.0 * spread) // tile) + 2):
        total += 0.5 * math.erfc((k * tile + 0.5 - mean) / (spread * math.sqrt(2.0))) if mean else 0.0
    return total


@cache
def table() -> Mapping[tuple[str, str], tuple[Coefficient, ...]]:
    """Return all coefficients by (GPU or family, kernel), in the order of the file: the default backend first."""
    return _by_kernel(read_table(files("afdsim").joinpath("data", "coefficients.csv").read_text(encoding="utf-8")))


def read_table(text: str) -> tuple[Coefficient, ...]:
    """Return the coefficients of a table's text, in its order."""
    return tuple(read_coefficient(line) for line in csv.DictReader(text.splitlines()))


def _by_kernel(rows: tuple[Coefficient, ...]) -> Mapping[tuple[str, str], tuple[Coefficient, ...]]:
    found: dict[tuple[str, str], tuple[Coefficient, ...]] = {}
    for row in rows:
        found[row.gpu, row.kernel] = (*found.get((row.gpu, row.kernel), ()), row)
    return found


def read_coefficient(line: Mapping[str, str]) -> Coefficient:
    """Return the coefficient that one line of the table states; an empty number is 0."""
    if not known_status(line):
        raise CatalogError(f"coefficient {line['gpu']} {line['kernel']} {line['dtype']} states no source or status")
    return Coefficient(
        gpu=line["gpu"],
        kernel=line["kernel"],
        dtype=line["dtype"],
        backend=line["backend"],
        gpus=int(line["gpus"] or 0),
        peak=line["peak"],
        fixed=float(line["fixed"]),
        compute=float(line["compute"] or 0.0),
        memory=float(line["memory"] or 0.0),
        bandwidth=float(line["bandwidth"] or 0.0),
        tile=int(line["tile"]),
        quantise=float(line["quantise"]),
        status=line["status"],
        source=line["source"],
        samples=int(line["samples"] or 0),
        median_error=float(line["median_error"] or "nan"),
        p90_error=float(line.get("p90_error") or "nan"),
    )


@cache
def known_backends() -> frozenset[str]:
    """Return the kernel libraries that the table names."""
    return frozenset(row.backend for rows in table().values() for row in rows) - {"*"}


def unknown_backends(names: Iterable[str], own: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield what is wrong with each of `names` that neither the table nor `own` has a kernel of."""
    known = (known_backends() | own) - {"*"}
    for name in names:
        if name not in known:
            yield f"no kernel was measured for {units.clip(name)!r} (known: {', '.join(sorted(known))})"
