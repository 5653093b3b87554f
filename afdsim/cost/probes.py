"""Kernels at the shapes of decoding: the work that the cost model counts for each, and how PyTorch runs it.

Each is one launch, but for attention (split over the context, then joined) and the experts (two grouped GEMMs with the
activation between them). What serving fuses by hand is fused by ``torch.compile`` here, which needs a C compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Gqa, Layer, Moe, Precision, Split
from afdsim.cost.operators import Operator, core_operator, expert_operator, gemm, reduction_operator, small

TOKENS = (1, 8, 32, 64, 128, 256, 512)
MATRICES = ((2048, 16384), (4096, 4096), (5120, 25600), (7168, 2112), (7168, 2560), (16384, 7168))
"""(k, n) of projections in the catalog."""
HEADS = ((64, 1, 256), (16, 1, 128), (64, 4, 128), (40, 8, 128))
"""(query heads, KV heads, head dim) of MFA, MQA and GQA; one KV head of 256 belongs to MFA."""
BATCHES = ((8, 8192), (32, 4096), (64, 4096), (64, 8192), (128, 2048), (128, 4096), (128, 8192), (64, 16384))
"""(sequences, context)."""
PRODUCTS = (16, 64, 128)
"""Heads of the absorbed products of MLA."""
EXPERTS = ((2048, 8, 256, 8), (2048, 32, 256, 8), (640, 24, 48, 3), (5120, 3, 48, 3))
"""(inner, experts on the GPU, experts, top-k): DeepSeek-V3 on 32 and 8 GPUs, Step-3 cut by width and by experts."""
ROWS = (4, 16, 32, 64, 128, 256)
"""Mean rows of an expert."""
HIDDEN = 7168
"""Of DeepSeek-V3 and of Step-3."""
VOCABULARY = 129_280
FEW = (8, 64, 128, 256)
"""Tokens of element-wise kernels."""
PARTIALS = (1, 2, 4)
"""Partial results that are added to the residual: FFN instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One shape of one kernel: its work, and how to set it up."""

    kernel: str
    dtype: str
    shape: tuple[int | str, ...]
    operator: Operator
    tile: int = 1
    make: Callable[[Any], Callable[[], object]]
    """PyTorch -> a call that launches the kernel on operands of its own."""
    walked: float | None = None
    """Bytes that one call reads or writes, where its operator does not count them; 0: they have just been written, and
    lie in L2."""

    @property
    def moved(self) -> float:
        """Bytes that one call reads or writes."""
        return float(self.operator.bytes) if self.walked is None else self.walked


def probes(capability: tuple[int, int]) -> Iterator[Probe]:
    """Yield every shape to time on a device of this compute capability."""
    yield from (_gemm(tokens, shape, "bf16") for shape in MATRICES for tokens in TOKENS)
    if capability >= (8, 9):
        yield from (_gemm(max(tokens, 16), shape, "fp8") for shape in MATRICES for tokens in TOKENS[1:])
    yield from (attention(heads, batch) for heads in HEADS for batch in BATCHES)
    yield from (_product(heads, tokens) for heads in PRODUCTS for tokens in TOKENS)
    yield from (_experts(moe, rows, "bf16") for moe in EXPERTS for rows in ROWS)
    if capability >= (9, 0):
        yield from (_experts(moe, rows, "fp8") for moe in EXPERTS for rows in ROWS)
    yield from (reduction(partials, tokens) for partials in PARTIALS for tokens in TOKENS)
    yield from (make(tokens) for make in (_embedding, sampling) for tokens in TOKENS)
    yield from (make(tokens) for make in (_cache_write, _norm, _rope, _quantise) for tokens in FEW)


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


def attention(heads: tuple[int, int, int], batch: tuple[int, int]) -> Probe:
    """Return grouped-query decode attention, one query token per sequence, by the faster backend (see `BACKENDS`)."""
    (query, kv, dim), (sequences, context) = heads, batch

    def make(torch: Any) -> Callable[[], object]:
        def drawn(count: int, tokens: int) -> Any:
            return torch.randn(sequences, count, tokens, dim, device="cuda", dtype=torch.bfloat16)

        q, k, v = drawn(query, 1), drawn(kv, context), drawn(kv, context)
        known, attend = torch.nn.attention, torch.nn.functional.scaled_dot_product_attention
        order = [getattr(known.SDPBackend, name) for name in (WIDE_BACKENDS if dim > 128 else BACKENDS)]

        def call() -> object:
            with known.sdpa_kernel(order, set_priority=True):
                return attend(q, k, v, enable_gqa=True)

        return call

    layer = Layer(attention=Gqa(heads=query, kv_heads=kv, head_dim=dim), ffn=Dense(inner=1))
    work = core_operator(layer, float(sequences), float(sequences * context), precision=Precision(kv_cache="bf16"))
    return Probe(kernel=work.kernel, dtype="bf16", shape=(*heads, *batch), operator=work, tile=TORCH_TILE, make=make)


BACKENDS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
"""Of PyTorch, the first choice first. On H200 cuDNN takes 0.55 to 1.01 of the time of FlashAttention-2 for heads of 128
and 2.1 to 3.8 times as long for heads of 256, where PyTorch 2.11 takes it by itself."""
WIDE_BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
TORCH_TILE = 64
"""Query rows to which PyTorch's kernels pad."""


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


def _experts(moe: tuple[int, int, int, int], rows: int, dtype: str) -> Probe:
    """Return the FFN of a GPU's routed experts, `rows` of them each on average, of tokens that choose uniformly.

    FP8 with a scale per row, its input quantised before the clock starts, what lies between the GEMMs cast at scale 1.
    """
    inner, local, count, top_k = moe
    tokens = rows * count // top_k
    layer = Moe(experts=count, top_k=top_k, inner=inner)
    work = expert_operator(
        catalog.llm("deepseek-v3"), layer, float(tokens), precision=Precision(ffn=dtype), split=Split(ep=count // local)
    )
    loads = np.random.default_rng(0).binomial(tokens, top_k / count, size=local)
    shape = (HIDDEN, inner, local, rows)
    return Probe(
        kernel="grouped_gemm",
        dtype=dtype,
        shape=shape,
        operator=work,
        tile=TORCH_TILE,
        make=lambda torch: _expert_call(torch, loads, inner, dtype),
    )


def _expert_call(torch: Any, loads: Any, inner: int, dtype: str) -> Callable[[], object]:
    ends = torch.tensor(np.cumsum(loads), device="cuda", dtype=torch.int32)
    product_of = _scaled_product if dtype == "fp8" else _plain_product
    up = product_of(torch, loads, (HIDDEN, 2 * inner))
    down = product_of(torch, loads, (inner, HIDDEN))
    rows = torch.randn(int(loads.sum()), HIDDEN, device="cuda", dtype=torch.bfloat16)
    given = rows.to(torch.float8_e4m3fn) if dtype == "fp8" else rows

    def call() -> object:
        gate, value = up(given, ends).chunk(2, dim=1)
        between = torch.nn.functional.silu(gate) * value
        return down(between.to(given.dtype), ends)

    return call


def _plain_product(torch: Any, loads: Any, shape: tuple[int, int]) -> Callable[[Any, Any], Any]:
    """Return (rows, ends of groups) -> their products with one BF16 matrix a group."""
    k, n = shape
    weights = torch.randn(len(loads), n, k, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    return lambda rows, ends: torch._grouped_mm(rows, weights, offs=ends)


def _scaled_product(torch: Any, loads: Any, shape: tuple[int, int]) -> Callable[[Any, Any], Any]:
    """Return (rows, ends of groups) -> their products with one FP8 matrix a group, a scale per row and column."""
    k, n = shape
    weights = torch.randn(len(loads), n, k, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn).transpose(1, 2)
    each, columns = torch.ones(int(loads.sum()), device="cuda"), torch.ones(len(loads), n, device="cuda")

    def call(rows: Any, ends: Any) -> Any:
        return torch._scaled_grouped_mm(
            rows, weights, each, columns, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return call


def fused(torch: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled into one kernel for every shape it meets."""
    torch._dynamo.config.recompile_limit = 64
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
    return compiled


def reduction(partials: int, tokens: int) -> Probe:
    """Return the sum of partial results and the residual, in FP32."""

    def total(parts: list[Any]) -> Any:
        return sum(part.float() for part in parts).to(parts[0].dtype)

    def make(torch: Any) -> Callable[[], object]:
        parts = [torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16) for _ in range(partials + 1)]
        add = fused(torch, total)
        return lambda: add(parts)

    work = reduction_operator(catalog.llm("deepseek-v3"), float(tokens), float(partials))
    return Probe(kernel="reduce", dtype="bf16", shape=(partials, tokens, HIDDEN), operator=work, make=make)


def _embedding(tokens: int) -> Probe:
    """Return the rows of `tokens` in a table that is long enough for them to lie apart."""

    def make(torch: Any) -> Callable[[], object]:
        table = torch.randn(8 * max(tokens, 128), HIDDEN, device="cuda", dtype=torch.bfloat16)
        chosen = torch.randperm(len(table), device="cuda")[:tokens]
        return lambda: torch.nn.functional.embedding(chosen, table)

    work = Operator(name="embedding", stage="boundary", kernel="embedding", dtype="bf16", bytes=4.0 * tokens * HIDDEN)
    return Probe(kernel="embedding", dtype="bf16", shape=(tokens, HIDDEN), operator=work, make=make)


def sampling(tokens: int) -> Probe:
    """Return the likeliest token of every row of BF16 logits; PyTorch draws one in two to seven times as long."""

    def make(torch: Any) -> Callable[[], object]:
        logits = torch.randn(tokens, VOCABULARY, device="cuda", dtype=torch.bfloat16)
        return lambda: logits.argmax(-1)

    work = Operator(name="sampling", stage="boundary", kernel="sampling", dtype="bf16")
    walked = tokens * VOCABULARY * 2.0
    return Probe(kernel="sampling", dtype="bf16", shape=(tokens, VOCABULARY), operator=work, make=make, walked=walked)


def _cache_write(tokens: int) -> Probe:
    """Return the write of a row of KV cache per token."""

    def make(torch: Any) -> Callable[[], object]:
        cache = torch.zeros(65536, 576, device="cuda", dtype=torch.bfloat16)
        rows = torch.randn(tokens, 576, device="cuda", dtype=torch.bfloat16)
        slots = torch.randperm(65536, device="cuda")[:tokens]
        return lambda: cache.index_copy_(0, slots, rows)

    return _element_wise("kv write", (tokens, 576), make)


def _norm(tokens: int) -> Probe:
    """Return the residual added, and an RMSNorm of the sum."""

    def make(torch: Any) -> Callable[[], object]:
        def normed(x: Any, y: Any, weight: Any) -> Any:
            total = x.float() + y.float()
            scaled = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-6)
            return total.to(x.dtype), scaled.to(x.dtype) * weight

        x, y = (torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        weight, norm = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16), fused(torch, normed)
        return lambda: norm(x, y, weight)

    return _element_wise("norm", (tokens, HIDDEN), make)


def _rope(tokens: int) -> Probe:
    """Return the rotated halves of 64 heads of 128."""

    def make(torch: Any) -> Callable[[], object]:
        def turned(x: Any, cos: Any, sin: Any) -> Any:
            a, b = x.float().chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

        x = torch.randn(tokens, 64, 128, device="cuda", dtype=torch.bfloat16)
        cos, sin = (torch.randn(tokens, 1, 64, device="cuda") for _ in range(2))
        turn = fused(torch, turned)
        return lambda: turn(x, cos, sin)

    return _element_wise("rope", (tokens, 64, 128), make)


def _quantise(tokens: int) -> Probe:
    """Return rows as they are sent: FP8 with a scale per 128 values."""

    def make(torch: Any) -> Callable[[], object]:
        def scaled(x: Any) -> Any:
            blocks = x.float().unflatten(-1, (-1, 128))
            most = blocks.abs().amax(-1, keepdim=True).clamp(1e-4) / 448.0
            return (blocks / most).to(torch.float8_e4m3fn).flatten(-2), most.squeeze(-1)

        x, scale = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16), fused(torch, scaled)
        return lambda: scale(x)

    return _element_wise("quantise", (tokens, HIDDEN), make)


def _element_wise(name: str, shape: tuple[int, ...], make: Callable[[Any], Callable[[], object]]) -> Probe:
    """Return one launch on activations that have just been written."""
    return Probe(kernel="small", dtype="bf16", shape=(name, *shape), operator=small(name, 1), make=make, walked=0.0)
