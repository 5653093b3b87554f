"""Expert-parallel all-to-all: seconds of a dispatch or combine kernel by bytes, GPUs and fabric.

    t = fixed(GPUs) + max(bytes * (1 - 1/domains) / nic, bytes / domains / nvlink)

with `bytes` of one GPU and `domains` the scale-up (NVLink) domains that the experts lie in: one formula for every size
of DeepEP's low-latency kernels. Those hold all SMs while they send and receive, for as long as the same bytes take
inside one domain, and none while data flies. Normal kernels hold a share of the SMs from end to end. Coefficients lie
in ``data/all_to_all.csv``, each with source and status; none was fitted to an end-to-end result.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import ACTIVATION_WIDTH, SCALE_BLOCK, WIDTH, Array
from afdsim.cost.roofline import known_status, owners, status_on, weakest
from afdsim.errors import CatalogError

PCIE = 20e9
"""Bytes/s between GPUs without NVLink: PCIe 4.0 x16, 20 of 32 GB/s one way (assumed, as in coefficients.csv)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    gpus: int
    """GPUs of the measured group."""
    fixed: float
    nic: float
    """Bytes/s on the NIC of a GPU; 0 where the GPU's own counts."""
    nvlink: float
    """Bytes/s inside a scale-up domain; 0 where the GPU's own counts."""
    logical: float
    """Bytes/s over everything, in place of the two."""
    share: float
    """SMs that the kernel holds from end to end."""
    status: str
    """One of `roofline.STATUSES`: in an exchange as seen from its GPU."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One direction of the all-to-all of a group of GPUs."""

    row: Row
    inside: Row
    """The same kernel inside one domain."""
    domains: int
    nic: float
    nvlink: float

    def seconds(self, nbytes: Array) -> Array:
        """Isolated seconds of a kernel in which every GPU sends and receives `nbytes`."""
        if self.row.logical:
            return self.row.fixed + nbytes / self.row.logical
        return self._over(self.row, self.domains, nbytes)

    def held(self, nbytes: Array) -> Array:
        """Seconds of it in which the kernel holds all SMs, sending and receiving alike."""
        if self.row.logical:
            return 0.0 * nbytes
        return np.minimum(self._over(self.inside, 1, nbytes), self.seconds(nbytes))

    def _over(self, row: Row, domains: int, nbytes: Array) -> Array:
        return row.fixed + np.maximum(nbytes * (1 - 1 / domains) / self.nic, nbytes / domains / self.nvlink)


def exchange(kernel: str, operation: str, gpu: Gpu, gpus: int, *, nic_scale: float = 1.0) -> Exchange:
    """Return the `operation` (dispatch or combine) of `kernel` (low_latency or normal) over `gpus` GPUs of one kind.

    `nic_scale` is the line rate of the NICs over that of the catalog.
    """
    rows = _rows(kernel, operation, gpu)
    row, inside = _next(rows, gpus), _next(rows, min(gpus, gpu.scale_up))
    return Exchange(
        row=row,
        inside=inside,
        domains=-(-gpus // gpu.scale_up),
        nic=(row.nic or gpu.nic.achieved) * nic_scale,
        nvlink=row.nvlink or gpu.nvlink or PCIE,
    )


def _rows(kernel: str, operation: str, gpu: Gpu) -> tuple[Row, ...]:
    for owner in owners(gpu):
        if rows := table().get((owner, kernel, operation)):
            return tuple(replace(row, status=status_on(gpu, owner=owner, status=row.status)) for row in rows)
    known = ", ".join(sorted({owner for owner, one, _ in table() if one == kernel}))
    raise CatalogError(f"no {kernel} all-to-all is known for {gpu.name} (known: {known}); use all_to_all: low_latency")


def _next(rows: tuple[Row, ...], gpus: int) -> Row:
    """Return the smallest group that was measured with at least `gpus`, else the largest, transferred."""
    row = min(rows, key=lambda row: (row.gpus < gpus, abs(row.gpus - gpus)))
    return row if row.gpus >= gpus else replace(row, status=weakest((row.status, "transferred")))


def pair_bytes(hidden: int, dtype: str) -> float:
    """Bytes of one token on its way to one expert: the hidden state, and FP32 scales where it is quantised.

    Beside weight-only formats tokens stay BF16.
    """
    if ACTIVATION_WIDTH[dtype] == WIDTH["bf16"]:
        return hidden * WIDTH["bf16"]
    return hidden * (WIDTH[dtype] + 4.0 / SCALE_BLOCK)


@cache
def table() -> Mapping[tuple[str, str, str], tuple[Row, ...]]:
    """All rows by (GPU or family, kernel, operation)."""
    text = files("afdsim").joinpath("data", "all_to_all.csv").read_text(encoding="utf-8")
    found: dict[tuple[str, str, str], tuple[Row, ...]] = {}
    for line in csv.DictReader(text.splitlines()):
        key = (line["gpu"], line["kernel"], line["operation"])
        found[key] = (*found.get(key, ()), _row(line))
    return found


def _row(line: Mapping[str, str]) -> Row:
    if not known_status(line):
        raise CatalogError(f"all-to-all of {line['gpu']} over {line['gpus']} GPUs states no source or status")
    return Row(
        gpus=int(line["gpus"]),
        fixed=float(line["fixed"]),
        nic=float(line["nic"] or 0.0),
        nvlink=float(line["nvlink"] or 0.0),
        logical=float(line["logical"] or 0.0),
        share=float(line["share"] or 0.0),
        status=line["status"],
        source=line["source"],
    )
