"""Latencies as rows of percentiles, in the units that reports show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from afdsim.results import metrics
from afdsim.results.metrics import Run, Samples
from afdsim.units import show_count

COLUMNS: Final = ("mean", "p50", "p90", "p95", "p99", "p99.9", "max")
OF_PREFILL: Final = (("ttft", "TTFT (ms)", 1e3), ("prefill_queue", "Prefill wait (ms)", 1e3))
LATENCIES: Final = (
    ("tpot", "TPOT (ms)", 1e3),
    ("itl", "ITL (ms)", 1e3),
    ("queue", "Queue wait (ms)", 1e3),
    ("e2el", "E2EL (s)", 1.0),
)
"""Metric, its label, what a second is in the unit shown; with prefill behind those of it."""
NONE: Final = "n/a"


def shown_of(run: Run) -> tuple[tuple[str, str, float], ...]:
    """Return what reports show of a run; where prompts are inside decode steps there is one wait, of the queue."""
    first = OF_PREFILL[:1] if run.mixed is not None else OF_PREFILL
    return (*(first if run.prefilled else ()), *LATENCIES)


def pooled(runs: Sequence[Run], metric: str) -> Samples:
    """Return the samples of all seeds together, in seconds."""
    parts = [metrics.latencies(run)[metric] for run in runs]
    values = np.concatenate([part.values for part in parts])
    weights = [part.weights for part in parts if part.weights is not None]
    return Samples(values, np.concatenate(weights) if weights else None)


def rows(runs: Sequence[Run], *, drafts: bool = False) -> list[list[str]]:
    """Return a row for every latency that has a sample, of all seeds together; with `drafts` an ITL is of a step."""
    found = []
    for metric, label, scale in shown_of(runs[0]):
        samples = pooled(runs, metric)
        if samples.count:
            found.append([f"{label} per step" if drafts and metric == "itl" else label, *cells(samples, scale)])
    return found


def cells(samples: Samples, scale: float) -> list[str]:
    """Statistics in the unit shown; n/a where a percentile has fewer than ten samples beyond it."""
    found = {name: value * scale for name, value in metrics.describe(samples).items()}
    places = digits(found["mean"])
    return [NONE if _needs(name, samples.count) else f"{found[name]:,.{places}f}" for name in COLUMNS]


def digits(mean: float) -> int:
    """Return the decimals that show four digits of values about `mean`, of small ones three."""
    return 1 if mean == 0 else max(0, min(2, 3 - math.floor(math.log10(mean)))) if mean >= 1 else 3


def _needs(name: str, count: int) -> bool:
    return name.startswith("p") and not metrics.enough(count, float(name[1:]))


def too_few(found: Sequence[Sequence[str]]) -> str:
    """Say what the percentiles that are n/a in some row would need; nothing where there is none."""
    lacking = [name for column, name in enumerate(COLUMNS, start=1) if any(row[column] == NONE for row in found)]
    if not lacking:
        return ""
    needs = ", ".join(f"{name} needs >= {show_count(1000 / (100 - float(name[1:])))}" for name in lacking)
    return f"{needs} requests"


def definitions(run: Run, *, drafts: bool = False) -> list[str]:
    """Say what the latencies of a run mean."""
    source = "comes with the end of its prompt" if run.mixed is not None else "comes from prefill"
    first = [f"TTFT = first token - arrival; the first token {source}"] if run.prefilled else []
    gaps = "ITL = every step of every request, of one token or more" if drafts else "ITL = every single gap"
    return [*first, f"TPOT = (last - first token)/(n - 1) per request; {gaps} (vLLM's definitions)"]


def averaged_away(tpot: Samples | None) -> bool:
    """Whether the TPOTs of all requests lie within 1 %: equal requests in a full batch share every step."""
    if tpot is None or not tpot.count:
        return False
    low, middle, high = metrics.percentiles(tpot, (0.5, 50, 99.5)).tolist()
    return bool(high - low < 0.01 * middle)
