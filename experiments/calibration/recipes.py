"""Which measured file holds which kernel, and the work of each of its rows.

File layouts are those of the shared measurements: shape columns and `measured_us`. The work of a row is computed by
`afdsim.cost.operators`, so that a fit and the simulator mean the same by FLOPs and bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Gqa, Layer, Mla, Precision
from afdsim.cost.fitting import Identity, Peaks, Samples
from afdsim.cost.operators import Operator, core_operator, gemm
from afdsim.cost.roofline import padding

AIC = "aiconfigurator 095f58a (Apache-2.0)"
AIC_CORE = "aiconfigurator_core 0.12.0 (Apache-2.0)"
INFERSIM = "InferSim f2293da (Apache-2.0)"
BIG_KV = 50e6
"""Bytes of KV below which a decode kernel runs out of the L2 cache."""

Row = dict[str, str]
Work = tuple[float, float]
"""Padded FLOPs and bytes."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the coefficient table and where its measurements are."""

    identity: Identity
    file: str
    work: Callable[[Row], Work | None]
    """None for a row that does not belong to this kernel."""
    shape: tuple[str, ...]
    """Columns that make a shape; the rows of a shape are held out together."""
    where: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def peaks(self) -> Peaks:
        """Peaks that the fractions refer to."""
        if self.identity.collective:
            return Peaks(flops=1.0, bandwidth=1.0)
        gpu = catalog.gpu(self.identity.gpu)
        return Peaks(flops=gpu.peak(self.identity.peak or self.identity.dtype), bandwidth=gpu.memory_bandwidth)


def samples(recipe: Recipe, folder: Path) -> Samples:
    """Return the measurements of a recipe."""
    flops, moved, seconds, shapes = [], [], [], []
    for row in read(folder / recipe.file, recipe.where):
        work = recipe.work(row)
        if work is None:
            continue
        flops.append(work[0])
        moved.append(work[1])
        seconds.append(float(row["measured_us"]) * 1e-6)
        shapes.append(tuple(row[name] for name in recipe.shape))
    return Samples(flops=np.array(flops), bytes=np.array(moved), seconds=np.array(seconds), shapes=tuple(shapes))


def read(path: Path, where: dict[str, str]) -> Iterator[Row]:
    """Yield the rows of a CSV in which every column of `where` has its value."""
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if all(row[name] == value for name, value in where.items()):
                yield row


def padded(operator: Operator, tile: int) -> Work:
    """Return padded FLOPs and bytes of an operator of scalar work."""
    return float(operator.flops) * float(padding(operator, tile)), float(operator.bytes)


def gemms() -> Iterator[Recipe]:
    """Dense GEMMs of decode-sized matrices."""
    files = {
        ("H100", "bf16"): "gemm_h100_sxm_bfloat16.csv",
        ("H100", "fp8"): "gemm_h100_sxm_fp8_block.csv",
        ("H200", "bf16"): "gemm_h200_sxm_bfloat16.csv",
        ("H200", "fp8"): "gemm_h200_sxm_fp8_block.csv",
        ("A100", "bf16"): "gemm_a100_sxm_bfloat16.csv",
        ("B200", "bf16"): "gemm_b200_sxm_bfloat16.csv",
        ("B200", "fp8"): "gemm_b200_sxm_fp8.csv",
        ("B200", "fp4"): "gemm_b200_sxm_nvfp4.csv",
        ("GB200", "bf16"): "gemm_gb200_bfloat16.csv",
        ("GB200", "fp8"): "gemm_gb200_fp8.csv",
        ("GB200", "fp4"): "gemm_gb200_nvfp4.csv",
    }
    for (gpu, dtype), file in files.items():
        name = Identity(gpu=gpu, kernel="gemm", dtype=dtype, source=f"dense GEMM: {AIC} sglang")
        yield Recipe(identity=name, file=file, work=gemm_work(dtype), shape=("n", "k"))
    h20 = Identity(gpu="H20", kernel="gemm", dtype="fp8", quantise=3e-6, source=f"DeepGEMM: {INFERSIM}")
    yield Recipe(
        identity=h20,
        file="infersim_gemm_h800_h20.csv",
        work=gemm_work("fp8"),
        shape=("n", "k"),
        where={"hardware": "h20"},
    )


def gemm_work(dtype: str) -> Callable[[Row], Work | None]:
    """Return the work of a GEMM row; at most 4096 rows and matrices of 512 to 16384."""

    def work(row: Row) -> Work | None:
        m, n, k = (int(float(row[name])) for name in "mnk")
        if m > 4096 or not (512 <= n <= 16384 and 512 <= k <= 16384):
            return None
        return padded(gemm("gemm", float(m), (k, n), dtype), 1)

    return work


def cores() -> Iterator[Recipe]:
    """Decode attention with at least 50 MB of KV."""
    classes = {"core_mfa": (1, 256), "core_mqa": (1, 128), "core_gqa": (2, 0)}
    for gpu, tile, backend, kernel_source in (
        ("H100", 64, "fa3", "fa3"),
        ("H200", 64, "fa3", "fa3"),
        ("B200", 64, "trtllm", "torch_flow"),
    ):
        for (kernel, (kv, dim)), dtype in ((pair, dtype) for pair in classes.items() for dtype in ("bf16", "fp8")):
            name = Identity(
                gpu=gpu,
                kernel=kernel,
                dtype=dtype,
                backend=backend,
                peak="bf16",
                tile=tile,
                source=f"{backend} decode rows with at least 50 MB of KV: {AIC}",
            )
            yield Recipe(
                identity=name,
                file=f"gqa_decode_{gpu.lower()}_sxm.csv",
                work=gqa_work(kv, dim, tile),
                shape=("num_heads", "num_key_value_heads", "head_dim", "batch_size", "ctx"),
                where={"kernel_source": kernel_source, "kv_cache_dtype": {"bf16": "bfloat16", "fp8": "fp8"}[dtype]},
            )


def gqa_work(kv_heads: int, head_dim: int, tile: int) -> Callable[[Row], Work | None]:
    """Return the work of a grouped-query row of one class: one KV head of a width, or several of any."""

    def work(row: Row) -> Work | None:
        heads, kv, dim = (int(row[name]) for name in ("num_heads", "num_key_value_heads", "head_dim"))
        batch, context = int(row["batch_size"]), int(row["ctx"])
        dtype = {"bfloat16": "bf16", "fp8": "fp8"}[row["kv_cache_dtype"]]
        belongs = kv > 1 if kv_heads > 1 else kv == 1 and dim == head_dim and heads <= 64
        layer = Layer(attention=Gqa(heads=heads, kv_heads=kv, head_dim=dim), ffn=Dense(inner=1))
        core = core_operator(layer, float(batch), float(batch * context), precision=Precision(kv_cache=dtype))
        return padded(core, tile) if belongs and core.bytes >= BIG_KV and heads >= kv else None

    return work


def latents() -> Iterator[Recipe]:
    """Absorbed MLA decode of 16 to 128 heads."""
    for gpu, hardware, src, backend, dtype in (
        ("H100", "h100_sxm", "sglang/0.5.14", "flashmla", "bf16"),
        ("H200", "h200_sxm", "sglang/0.5.14", "flashmla", "bf16"),
        ("B200", "b200_sxm", "trtllm/1.3.0rc20", "trtllm", "bf16"),
        ("B200", "b200_sxm", "trtllm/1.3.0rc20", "trtllm", "fp8"),
    ):
        long = {"bf16": "bfloat16", "fp8": "fp8"}[dtype]
        name = Identity(
            gpu=gpu,
            kernel="core_mla",
            dtype=dtype,
            backend=backend,
            peak="bf16",
            tile=64,
            source=f"absorbed MLA: {AIC} {src}",
        )
        yield Recipe(
            identity=name,
            file="mla_decode_core.csv",
            work=mla_work,
            shape=("num_heads", "batch_size", "ctx"),
            where={"hardware": hardware, "src": src, "kv_cache_dtype": long},
        )
    yield Recipe(
        identity=Identity(
            gpu="H20", kernel="core_mla", dtype="bf16", backend="flashmla", peak="bf16", tile=64, source=INFERSIM
        ),
        file="infersim_decode_attention_h800_h20.csv",
        work=mla_work,
        shape=("num_heads", "batch_size", "kv_len"),
        where={"hardware": "h20", "op": "mla_decode"},
        note="128 heads only, so intensity is constant: compute and memory cannot be told apart",
    )


def mla_work(row: Row) -> Work | None:
    """Return the work of an MLA row at decode sizes: at least 16 heads, contexts from 128."""
    heads, batch, context = int(row["num_heads"]), int(float(row["batch_size"])), row.get("ctx") or row["kv_len"]
    kind = Mla(heads=heads, kv_rank=512, rope_dim=64, nope_dim=128, v_dim=128, q_rank=None)
    kv = {"bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8"}[row.get("kv_cache_dtype") or row["kv_dtype"]]
    layer = Layer(attention=kind, ffn=Dense(inner=1))
    tokens = float(batch) * float(context)
    if heads < 16 or float(context) < 128:
        return None
    return padded(core_operator(layer, float(batch), tokens, precision=Precision(kv_cache=kv)), 64)


def experts() -> Iterator[Recipe]:
    """Masked grouped GEMMs with equal loads, and fused MoE kernels."""
    for gpu in ("H100", "H200"):
        yield masked_experts(gpu, f"{gpu.lower()}_sxm", "moe_deepepmoe_decode.csv", AIC)
        for dtype, long in (("fp8", "fp8_block"), ("bf16", "bfloat16")):
            fused = Identity(
                gpu=gpu,
                kernel="grouped_gemm",
                dtype=dtype,
                backend="cutlass",
                tile=64,
                source=f"fused MoE (CUTLASS), balanced: {AIC} trtllm 1.3.0rc20",
            )
            yield Recipe(
                identity=fused,
                file=f"moe_fused_trtllm_{gpu.lower()}_sxm.csv",
                work=expert_work(dtype),
                shape=("hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size"),
                where={"dtype": long, "distribution": "balanced"},
                note="the simple form does not fit a fused kernel: use a measured table",
            )
    h20 = Identity(
        gpu="H20", kernel="grouped_gemm", dtype="fp8", backend="deepgemm", tile=64, quantise=3e-6, source=INFERSIM
    )
    yield Recipe(
        identity=h20,
        file="infersim_grouped_gemm_h800_h20.csv",
        work=grouped_work,
        shape=("num_experts", "num_local_experts", "hidden_size", "intermediate_size", "tokens_per_expert"),
        where={"hardware": "h20", "phase": "decode"},
    )
    for gpu, hardware in (("B200", "b200_sxm"), ("GB200", "gb200")):
        yield masked_experts(gpu, hardware, "moe_deepepmoe_blackwell.csv", AIC_CORE)


def masked_experts(gpu: str, hardware: str, file: str, source: str) -> Recipe:
    """Return the recipe of masked grouped DeepGEMM (up, activation, down) in SGLang 0.5.10."""
    name = Identity(
        gpu=gpu, kernel="grouped_gemm", dtype="fp8", backend="deepgemm", tile=64, source=f"DeepGEMM: {source}"
    )
    return Recipe(
        identity=name,
        file=file,
        work=expert_work("fp8"),
        shape=("num_tokens", "moe_ep_size"),
        where={"hardware": hardware, "src": "sglang 0.5.10", "distribution": "uniform"},
    )


def expert_work(dtype: str) -> Callable[[Row], Work | None]:
    """Return the work of one rank with equal loads; loads below one token per expert touch as many as there are."""
    width = {"fp8": 1.0, "bf16": 2.0}[dtype]

    def work(row: Row) -> Work | None:
        hidden, inner = float(row["hidden_size"]), float(row["inter_size"])
        ep = float(row["moe_ep_size"])
        local = float(row["num_experts"]) / ep
        pairs = float(row["num_tokens"]) * float(row["topk"]) / ep
        return equal_loads(hidden, inner, local, pairs, width)

    return work


def grouped_work(row: Row) -> Work | None:
    """Return the work of an InferSim row; those of one token per expert hit only half of the experts."""
    if float(row["tokens_per_expert"]) <= 1:
        return None
    local = float(row["num_local_experts"])
    pairs = local * float(row["tokens_per_expert"])
    return equal_loads(float(row["hidden_size"]), float(row["intermediate_size"]), local, pairs, 1.0)


def equal_loads(hidden: float, inner: float, local: float, pairs: float, width: float) -> Work:
    """Return padded FLOPs and bytes of `pairs` rows over `local` experts, as equal as they can be."""
    touched = min(local, max(pairs, 1.0))
    rows = max(pairs, 1.0) / touched
    flops = touched * np.ceil(rows / 64) * 64 * 6.0 * hidden * inner
    moved = touched * 3.0 * hidden * inner * width
    return float(flops), float(moved + pairs * (hidden * width + (4.0 + 2.0 * width) * inner + 2.0 * hidden))


def absorbed() -> Iterator[Recipe]:
    """MLA's two batched products with kv_b."""
    for gpu in ("H100", "H200"):
        name = Identity(gpu=gpu, kernel="bmm", dtype="bf16", source=f"absorbed BMMs, weights only: {AIC} sglang 0.5.14")
        yield Recipe(
            identity=name,
            file="mla_bmm.csv",
            work=bmm_work,
            shape=("op", "num_heads"),
            where={"hardware": f"{gpu.lower()}_sxm", "dtype": "bfloat16"},
        )


def bmm_work(row: Row) -> Work | None:
    """Return the work of a batched product of 16 to 128 heads and up to 512 tokens; activations stay in L2."""
    heads, tokens = int(row["num_heads"]), int(row["num_tokens"])
    if heads < 16 or tokens > 512:
        return None
    weights = heads * 128.0 * 512.0
    return 2.0 * tokens * weights, 2.0 * weights


WIRE = {
    "all_gather": (1.0, {"op": "all_gather", "dtype": "half"}, "NCCL"),
    "reduce_scatter": (1.0, {"op": "reduce_scatter", "dtype": "half"}, "NCCL"),
    "all_to_all": (1.0, {"op": "alltoall", "dtype": "half"}, "NCCL"),
    "all_reduce": (2.0, {"op": "custom_allreduce_graph"}, "custom all-reduce"),
}
"""Kernel -> passes over the buffer, columns that select its rows, library."""


def collectives() -> Iterator[Recipe]:
    """NCCL rings and the custom all-reduce inside a server."""
    for gpu, hardware in (("H100", "h100_sxm"), ("H200", "h200_sxm"), ("A100", "a100_sxm"), ("B200", "b200_sxm")):
        for kernel, gpus in ((kernel, gpus) for kernel in WIRE for gpus in (2, 4, 8)):
            passes, where, library = WIRE[kernel]
            name = Identity(gpu=gpu, kernel=kernel, dtype="*", gpus=gpus, source=f"{AIC} {library}")
            yield Recipe(
                identity=name,
                file="collectives_nvlink.csv",
                work=wire_work(passes, gpus),
                shape=("bytes",),
                where={"hardware": hardware, "num_gpus": str(gpus), **where},
            )


def wire_work(passes: float, gpus: int) -> Callable[[Row], Work]:
    """Return the bytes per GPU on the wire of a collective of `gpus` ranks."""
    return lambda row: (0.0, passes * (gpus - 1) / gpus * float(row["bytes"]))


def recipes() -> Iterable[Recipe]:
    """Every row of the coefficient table whose measurements have one of the known layouts."""
    return (*gemms(), *cores(), *latents(), *experts(), *absorbed(), *collectives())
