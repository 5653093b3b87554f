"""GPUs, their servers and NICs: peaks as the makers print them, links as they are achieved.

All numbers are SI: FLOP/s (dense, never sparse), bytes, bytes/s one way. The price alone is per hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from afdsim.errors import CatalogError

SUBSTITUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fp4": ("fp4", "fp8", "int8", "bf16"),
        "fp8": ("fp8", "int8", "bf16"),
        "int8": ("int8", "fp8", "bf16"),
        "bf16": ("bf16",),
    }
)
"""What a GPU without a dtype computes in instead, best first: A800 and 910B run "fp8" weights as INT8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A GPU's share of its server's NICs, full duplex, one way."""

    bandwidth: float
    """Line rate in bytes/s."""
    achieved: float
    """Bytes/s that a large RDMA write reaches (Step-3 section 5.4: 40 GB/s per 400 Gb/s)."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator with its place in a server."""

    name: str
    family: str
    """Whose kernel measurements apply: H800 belongs to H100, A800 to A100."""
    architecture: str
    flops: Mapping[str, float] = field(hash=False)
    """Dense peak FLOP/s per dtype: bf16, and fp8, int8, fp4 where the silicon has them."""
    memory: float
    memory_bandwidth: float
    nvlink: float | None
    """Bytes/s one way that a GPU achieves inside its scale-up domain; None where there is only PCIe."""
    nic: Nic
    gpus_per_server: int = 8
    scale_up: int = 8
    """GPUs in one scale-up (NVLink) domain."""
    usd_per_hour: float | None
    """Price of one GPU and hour; None where no source states one."""
    source: str

    def native(self, dtype: str) -> str:
        """Return the dtype in which this GPU computes `dtype`; weights keep the bytes of `dtype`."""
        for candidate in SUBSTITUTES.get(dtype, ()):
            if candidate in self.flops:
                return candidate
        known = ", ".join(SUBSTITUTES)
        raise CatalogError(f"{self.name} cannot compute in {dtype!r}; known dtypes: {known}")

    def peak(self, dtype: str) -> float:
        """Dense peak in FLOP/s for `dtype`, or for its best substitute on this GPU."""
        return self.flops[self.native(dtype)]
