"""How far are the coefficients from kernels on this GPU?  ``python gpu.py [-o FILE]``; needs PyTorch and CUDA.

Times what `afdsim calibrate` leaves out: attention by other backends, MLA as three operations, an LM head, other ways
to sample, and what `torch.compile` would fuse without it. ``--compare FILE [FILE ...]`` and ``--fit FILE`` need no GPU:
they print the errors of the shipped coefficients on such files and on those of `afdsim calibrate --times FILE`, and the
coefficients that fit them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision
from afdsim.cost import measure, probes
from afdsim.cost.fitting import to_csv
from afdsim.cost.operators import core_operator, gemm, small
from afdsim.cost.probes import BATCHES, FEW, HEADS, HIDDEN, MATRICES, PARTIALS, TOKENS, VOCABULARY, Probe

MLA_BATCHES = ((32, 4096), (64, 4096), (64, 8192), (128, 4096))


def extras() -> Iterator[Probe]:
    """Yield what `afdsim calibrate` leaves out."""
    yield large_product()
    yield from (lm_head(tokens) for tokens in TOKENS)
    yield from (by_backend(heads, batch, "CUDNN_ATTENTION") for heads in HEADS for batch in BATCHES)
    yield from (by_backend(heads, batch, "FLASH_ATTENTION") for heads in HEADS for batch in BATCHES)
    yield from (block_scaled(tokens, shape) for shape in MATRICES for tokens in FEW if shape[1] % 128 == 0)
    yield from (mla(batch) for batch in MLA_BATCHES)
    yield from (sampled(name, tokens) for name in SAMPLERS for tokens in TOKENS)
    yield from (eager_sum(partials, tokens) for partials in PARTIALS for tokens in TOKENS)
    yield from (eager(name, tokens) for name in EAGER for tokens in FEW)


def large_product() -> Probe:
    """Return a product that only arithmetic bounds."""
    side = 8192

    def make(torch: Any) -> Callable[[], object]:
        a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        return lambda: torch.mm(a, b)

    work = gemm("gemm", float(side), (side, side), "bf16")
    return Probe(kernel="gemm (large)", dtype="bf16", shape=(side,) * 3, operator=work, make=make)


def lm_head(tokens: int) -> Probe:
    """Return the largest GEMM of a step."""

    def make(torch: Any) -> Callable[[], object]:
        rows = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
        weights = torch.randn(VOCABULARY, HIDDEN, device="cuda", dtype=torch.bfloat16)
        return lambda: torch.mm(rows, weights.t())

    work = gemm("lm head", float(tokens), (HIDDEN, VOCABULARY), "bf16")
    return Probe(kernel="gemm (LM head)", dtype="bf16", shape=(tokens, HIDDEN, VOCABULARY), operator=work, make=make)


def block_scaled(tokens: int, shape: tuple[int, int]) -> Probe:
    """Return an FP8 GEMM with a scale per 128 values and per block of weights, rows quantised while the clock runs."""
    k, n = shape

    def make(torch: Any) -> Callable[[], object]:
        def scaled(x: Any) -> Any:
            blocks = x.float().unflatten(-1, (-1, 128))
            most = blocks.abs().amax(-1).clamp(1e-4) / 448.0
            return (blocks / most[..., None]).to(torch.float8_e4m3fn).flatten(-2), most.t().contiguous()

        rows = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
        weights = torch.randn(n, k, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn)
        scales, scale = torch.ones(n // 128, k // 128, device="cuda"), probes.fused(torch, scaled)

        def call() -> object:
            short, most = scale(rows)
            return torch._scaled_mm(short, weights.t(), scale_a=most.t(), scale_b=scales.t(), out_dtype=torch.bfloat16)

        return call

    work = gemm("gemm", float(tokens), shape, "fp8")
    return Probe(kernel="gemm (block scales)", dtype="fp8", shape=(tokens, k, n), operator=work, make=make)


def by_backend(heads: tuple[int, int, int], batch: tuple[int, int], backend: str) -> Probe:
    """Return decode attention through one of PyTorch's backends."""
    plain = probes.attention(heads, batch)
    (query, kv, dim), (sequences, context) = heads, batch

    def make(torch: Any) -> Callable[[], object]:
        q = torch.randn(sequences, query, 1, dim, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(sequences, kv, context, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        attend, known = torch.nn.functional.scaled_dot_product_attention, torch.nn.attention

        def call() -> object:
            with known.sdpa_kernel(getattr(known.SDPBackend, backend)):
                return attend(q, k, v, enable_gqa=True)

        return call

    return replace(plain, kernel=f"{plain.kernel} ({backend.removesuffix('_ATTENTION').lower()})", make=make)


def mla(batch: tuple[int, int]) -> Probe:
    """Return absorbed MLA of 128 heads as two batched products and a softmax: no fused kernel in PyTorch takes it."""
    sequences, context = batch

    def make(torch: Any) -> Callable[[], object]:
        q = torch.randn(sequences, 128, 576, device="cuda", dtype=torch.bfloat16)
        kv = torch.randn(sequences, context, 576, device="cuda", dtype=torch.bfloat16)
        return lambda: torch.bmm(torch.softmax(torch.bmm(q, kv.transpose(1, 2)), -1), kv[..., :512])

    layer = next(layer for layer in catalog.llm("deepseek-v3").layers)
    work = core_operator(layer, float(sequences), float(sequences * context), precision=Precision(kv_cache="bf16"))
    return Probe(kernel="core_mla (bmm)", dtype="bf16", shape=(128, *batch), operator=work, tile=64, make=make)


def gumbel(torch: Any, logits: Any) -> Callable[[], object]:
    """One token of every row: the argmax of logits and Gumbel noise, compiled into one pass."""

    def drawn(logits: Any) -> Any:
        waiting = -torch.log(torch.rand_like(logits, dtype=torch.float32))
        return (logits.float() - torch.log(waiting)).argmax(-1)

    draw = probes.fused(torch, drawn)
    return lambda: draw(logits)


def top_p(torch: Any, logits: Any) -> Callable[[], object]:
    """The smallest set of tokens whose probabilities exceed 0.9, by a sort, and one drawn from it."""

    def call() -> object:
        chances, places = torch.softmax(logits, -1, dtype=torch.float32).sort(dim=-1, descending=True)
        kept = chances.masked_fill(chances.cumsum(-1) - chances > 0.9, 0.0)
        drawn = (kept / torch.empty_like(kept).exponential_()).argmax(-1, keepdim=True)
        return places.gather(-1, drawn)

    return call


def top_k(torch: Any, logits: Any) -> Callable[[], object]:
    """One drawn from the 50 likeliest tokens."""

    def call() -> object:
        likely, places = logits.topk(50, dim=-1)
        chances = torch.softmax(likely, -1, dtype=torch.float32)
        return places.gather(-1, (chances / torch.empty_like(chances).exponential_()).argmax(-1, keepdim=True))

    return call


def by_softmax(torch: Any, logits: Any) -> Callable[[], object]:
    """One token of every row: the argmax of probabilities over exponential noise."""
    noise = torch.empty(logits.shape, device="cuda")
    return lambda: (torch.softmax(logits, -1, dtype=torch.float32) / noise.exponential_()).argmax(-1)


SAMPLERS = {"Gumbel": gumbel, "softmax": by_softmax, "top-k": top_k, "top-p by sort": top_p}


def sampled(name: str, tokens: int) -> Probe:
    """Return another way to sample."""

    def make(torch: Any) -> Callable[[], object]:
        return SAMPLERS[name](torch, torch.randn(tokens, VOCABULARY, device="cuda", dtype=torch.bfloat16))

    return replace(probes.sampling(tokens), kernel=f"sampling ({name})", make=make)


def eager_sum(partials: int, tokens: int) -> Probe:
    """Return the reduction as PyTorch's own sum."""

    def make(torch: Any) -> Callable[[], object]:
        parts = torch.randn(partials + 1, tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
        return lambda: parts.sum(dim=0)

    return replace(probes.reduction(partials, tokens), kernel="reduce (eager)", make=make)


def eager_norm(torch: Any, tokens: int) -> Callable[[], object]:
    """PyTorch's own RMSNorm, one launch from 2.9 on."""
    rows = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    weight = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
    return lambda: torch.nn.functional.rms_norm(rows, (HIDDEN,), weight, 1e-6)


def router(torch: Any, tokens: int) -> Callable[[], object]:
    """The top 8 of 256 experts and their weights, from logits; eager, several launches."""
    logits = torch.randn(tokens, 256, device="cuda")
    bias = torch.randn(256, device="cuda")

    def call() -> object:
        scores = logits.sigmoid()
        chosen = (scores + bias).topk(8, dim=-1).indices
        weights = scores.gather(-1, chosen)
        return weights / weights.sum(-1, keepdim=True), chosen

    return call


EAGER = {"router top-k": router, "norm": eager_norm}


def eager(name: str, tokens: int) -> Probe:
    """Return an element-wise kernel without compiling."""
    return Probe(
        kernel=f"small ({name}, eager)",
        dtype="bf16",
        shape=(tokens,),
        operator=small(name, 1),
        make=lambda torch: EAGER[name](torch, tokens),
        walked=0.0,
    )


def launches(torch: Any, probe: Probe) -> int:
    """Return how many kernels one call of a probe launches."""
    call = probe.make(torch)
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events())


def read(path: Path) -> dict[str, list[tuple[Probe, float]]]:
    """Return probes with their measured seconds, by GPU."""
    known = {(p.kernel, p.dtype, measure.shape_text(p)): p for p in (*probes.probes((9, 0)), *extras())}
    found: dict[str, list[tuple[Probe, float]]] = {}
    for row in pd.read_csv(path, dtype=str).itertuples():
        probe = known[row.kernel, row.dtype, row.shape]
        found.setdefault(row.gpu, []).append((probe, float(row.us) * 1e-6))
    return found


def compared(paths: list[Path]) -> pd.DataFrame:
    """Return the errors of the shipped coefficients on measured times, by GPU, kernel and dtype."""
    times = pd.DataFrame(
        [
            (gpu, probe.kernel, probe.dtype, seconds * 1e6, measure.shipped_seconds(probe, catalog.gpu(gpu)) * 1e6)
            for path in paths
            for gpu, timed in read(path).items()
            for probe, seconds in timed
        ],
        columns=["gpu", "kernel", "dtype", "us", "shipped"],
    )
    times["off"] = times.shipped / times.us - 1.0
    times["size"] = times.off.abs()
    groups = times.groupby(["gpu", "kernel", "dtype"], sort=False)
    shown = {"shapes": groups.us.count(), "us from": groups.us.min(), "to": groups.us.max()}
    shown |= {"shipped from": groups.shipped.min(), "up to": groups.shipped.max(), "bias": groups.off.median()}
    return pd.DataFrame({**shown, "median": groups["size"].median(), "p90": groups["size"].quantile(0.9)})


def fits(path: Path) -> str:
    """Return the coefficients that fit the kernels of a file that `afdsim calibrate` times, as CSV."""
    lines = []
    for gpu, timed in read(path).items():
        plain = [(probe, seconds) for probe, seconds in timed if probe.kernel == probe.operator.kernel]
        lines += measure.fitted(plain, catalog.gpu(gpu), f"afdsim calibrate on NVIDIA {gpu}")
    return to_csv(lines)


def main() -> None:
    """Time, write and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.csv"))
    parser.add_argument("--compare", type=Path, nargs="+", help="print the errors on these files instead")
    parser.add_argument("--fit", type=Path, help="print the coefficients that fit this file instead")
    parser.add_argument("--repeats", type=int, default=20)
    asked = parser.parse_args()
    if asked.compare:
        print(compared(asked.compare).round(3).to_string())
    elif asked.fit:
        print(fits(asked.fit), end="")
    else:
        timed_here(asked.output, asked.repeats)


def timed_here(output: Path, repeats: int) -> None:
    """Time, and write even what was timed before a fault."""
    torch = measure.local_torch()
    gpu = measure.recognised(torch.cuda.get_device_name(), None)
    told = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    timed: list[tuple[Probe, float]] = []
    try:
        timed.extend(measure.time_all(torch, extras(), repeats=repeats, progress=told))
    finally:
        output.write_text(measure.times_csv(timed, gpu), encoding="utf-8")
    every = [*timed, *((probe, 0.0) for probe in probes.probes((9, 0)))]
    for kernel, own in measure.by_kernel(every).items():
        told(f"{' '.join(kernel)}: {launches(torch, own[0][0])} launches a call")


if __name__ == "__main__":
    main()
