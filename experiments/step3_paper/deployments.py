"""The three deployments that the Step-3 paper measured (table 8), on every Hopper GPU that it may have used.

FFN instances are cut by width (TP8, the paper's worked example) or by experts (EP8). Peak: equal lengths, no variation.
Average: lengths and variation of the main scenario. Nothing is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import afdsim
from afdsim.engine.lowering import deployment

GPUS = ("H800", "H100", "H200")
INSIDE = {"TP8": {"ep": 1, "tp": 8}, "EP8": {"ep": 8, "tp": 1}}
CALM = {f"variation.{kind}": 0.0 for kind in ("event", "step", "link")}
OUTPUT = 128
"""Output tokens where all requests are alike."""


class Row(NamedTuple):
    """A line of the paper's table 8."""

    name: str
    attention: int
    """Instances."""
    context: int
    cache: str
    sequences: int
    """Of an attention GPU, over all micro-batches."""
    peak: float
    """Tokens/s per GPU in the best minute."""
    average: float | None = None
    """The same in the long run, where it is published."""


ROWS = (
    Row("2A2F 4K FP8", 2, 4096, "fp8", 384, 4039, 3910),
    Row("3A2F 4K BF16", 3, 4096, "bf16", 252, 3321),
    Row("4A2F 8K FP8", 4, 8192, "fp8", 192, 2643),
)


def scenario(row: Row, gpu: str, inside: str) -> afdsim.Scenario:
    """The main scenario with a row's deployment, lengths that vary included."""
    main = afdsim.load("step3_2a2f_4k")
    return main.varied(
        {
            "precision": {"ffn": "fp8", "kv_cache": row.cache},
            "deployment.attention.gpu": gpu,
            "deployment.ffn.gpu": gpu,
            "deployment.attention.instances": row.attention,
            "deployment.ffn.parallelism": INSIDE[inside],
            "deployment.max_num_seqs": row.sequences,
            "workload.input_len.mean": main.workload.input_len.mean + row.context - 4096,
        }
    )


def peak(row: Row, base: afdsim.Scenario) -> afdsim.Scenario:
    """The same with requests that are all alike, without variation."""
    alike = {"workload.input_len": row.context - OUTPUT // 2, "workload.output_len": OUTPUT}
    return base.varied({**CALM, **alike, "workload.num_requests": 6144})


def predicted() -> Iterator[dict[str, Any]]:
    """Every row on every GPU, cut both ways: figures of a peak and of an average run, or why there are none."""
    for row in ROWS:
        for gpu in GPUS:
            for inside in INSIDE:
                base = scenario(row, gpu, inside)
                head = {"row": row.name, "gpu": gpu, "ffn": inside}
                held = deployment(base).kv_cache.sequences(row.context)
                if held < row.sequences:
                    yield {**head, "remark": f"does not fit: cache for {held} of {row.sequences} sequences"}
                    continue
                yield {**head, **figures("peak", row.peak, peak(row, base)), **figures("average", row.average, base)}


def figures(kind: str, published: float | None, asked: afdsim.Scenario) -> dict[str, Any]:
    """TPOT and TGS of a run, the published TGS and the error; what sets the step."""
    summary = afdsim.simulate(asked).summary
    tgs, bound = summary["afdsim"]["tgs"], summary["afdsim"]["bottleneck"]["name"]
    own = {f"{kind}_tpot_ms": summary["mean_tpot_ms"], f"{kind}_tgs": tgs, f"{kind}_bound": bound}
    if published is not None:
        own |= {f"{kind}_published": published, f"{kind}_error": tgs / published - 1.0}
    return own


def text(found: list[dict[str, Any]]) -> str:
    """The table for people."""
    head = " ".join(f"{word:>{width}}" for word, width in (("ms", 8), ("tok/s/GPU", 10), ("error", 7)))
    lines = [
        "Table 8 again: the measured rows on every Hopper GPU, and how FFN instances are cut",
        f"  {'row':13} {'GPU':5} {'FFN':4} {'peak':>26}   {'average':>27}",
        f"  {'':13} {'':5} {'':4} {head}   {head}   peak is set by",
    ]
    for each in found:
        place = f"  {each['row']:13} {each['gpu']:5} {each['ffn']:4}"
        cells = (
            (each["remark"],)
            if "remark" in each
            else (shown(each, "peak"), " ", shown(each, "average"), each["peak_bound"])
        )
        lines.append(f"{place} {'  '.join(cells)}")
    return "\n".join([*lines, ""])


def shown(each: dict[str, Any], kind: str) -> str:
    """TPOT, TGS and error, the latter where a figure is published."""
    error = f"{each[f'{kind}_error']:+7.1%}" if f"{kind}_error" in each else f"{'':7}"
    return f"{each[f'{kind}_tpot_ms']:8.2f} {each[f'{kind}_tgs']:10,.0f} {error}"
