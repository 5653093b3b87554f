"""GPUs, their servers and NICs: peaks as the makers print them, links as they are achieved.

All numbers are SI: FLOP/s (dense, never sparse), bytes, bytes/s one way. The price alone is per hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from afdsim.catalog.llm import ACTIVATION_WIDTH, WIDTH, Llm, Precision
from afdsim.errors import CatalogError

SUBSTITUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fp4": ("fp4", "fp8", "int8", "bf16"),
        "fp8": ("fp8", "int8", "bf16"),
        "int8": ("int8", "fp8", "bf16"),
        "int4": ("bf16",),
        "w8a16": ("bf16",),
        "bf16": ("bf16",),
    }
)
"""What a GPU without a dtype computes in instead, best first: A800 and 910B run "fp8" weights as INT8.

INT4 (W4A16: AWQ, GPTQ) and w8a16 (INT8 of GPTQ) are formats of weights alone: every GPU unpacks them and computes in
BF16.
"""


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
    nearest: str | None = None
    """Whose kernels price it where none of its family was measured, as transferred; None: nobody's."""

    def native(self, dtype: str, *, integers: bool = True) -> str:
        """Return the dtype in which this GPU computes `dtype`; weights keep the bytes of `dtype`.

        Without `integers`, INT8 stands in for no floating-point format: the rule of the Step-3 paper's theory.
        """
        for candidate in SUBSTITUTES.get(dtype, ()):
            if candidate in self.flops and (integers or candidate != "int8" or dtype == "int8"):
                return candidate
        known = ", ".join(SUBSTITUTES)
        raise CatalogError(f"{self.name} cannot compute in {dtype!r}; known dtypes: {known}")

    def peak(self, dtype: str) -> float:
        """Dense peak in FLOP/s for `dtype`, or for its best substitute on this GPU."""
        return self.flops[self.native(dtype)]


def stand_in(gpu: Gpu, dtype: str, *, keeps: str = "weights keep") -> str | None:
    """Return a sentence on what `gpu` computes in instead of `dtype`; None where it has that dtype.

    >>> from afdsim.catalog.entries import gpu
    >>> stand_in(gpu("H100"), "fp4")
    'H100 has no FP4 units: computes in fp8, weights keep the bytes of fp4, unpacking is not counted; assumed'
    """
    other = gpu.native(dtype)
    if other == dtype:
        return None
    return f"{lack(gpu, dtype)}: computes in {other}, {keeps} the bytes of {dtype}, unpacking is not counted; assumed"


def lack(gpu: Gpu, dtype: str) -> str:
    """Return why `gpu` does not compute in `dtype`."""
    unpacks = ACTIVATION_WIDTH[dtype] > WIDTH[dtype]
    return f"{gpu.name} unpacks {dtype} weights" if unpacks else f"{gpu.name} has no {dtype.upper()} units"


def foreign_formats(llm: Llm, precision: Precision, *, attention: Gpu, ffn: Gpu) -> list[str]:
    """Return a sentence for every format in which `attention` or `ffn` holds something that it cannot compute in."""
    caches = {
        getattr(core, "key_dtype", None) or getattr(core, "kv_dtype", None) or precision.cache
        for layer in llm.layers
        for core in layer.cores
        if core.window != 0
    }
    if attention == ffn:
        return _stand_ins(attention, {precision.projections, precision.ffn}, caches)
    return [*_stand_ins(attention, {precision.projections}, caches), *_stand_ins(ffn, {precision.ffn}, set())]


def _stand_ins(gpu: Gpu, weights: set[str], caches: set[str]) -> list[str]:
    used = (dtype for dtype in SUBSTITUTES if dtype in weights | caches)
    found = (stand_in(gpu, dtype, keeps=_KEEPERS[dtype in weights, dtype in caches]) for dtype in used)
    return [text for text in found if text is not None]


_KEEPERS: Mapping[tuple[bool, bool], str] = MappingProxyType(
    {(True, False): "weights keep", (False, True): "the KV cache keeps", (True, True): "weights and KV cache keep"}
)
