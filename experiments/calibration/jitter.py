"""How much do operations of equal size differ in time on one GPU?  ``python jitter.py [-o FILE]``; needs PyTorch, CUDA.

Runs steps of 61 layers, each a pass that reads KV-cache-sized memory and a GEMM of an FFN's size, back to back in one
stream, and times every one with device events. Prints what `variation.event`, `variation.step` and `variation.spike`
stand for: the standard deviation of the logarithm inside a step, of the means of steps (less what the former adds), and
how often an operation took more than 1.5 times its median. A second part times a host that waits for a kernel by
polling an event, as a communication thread does.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = 61
STEPS = 1500
WARM = 100
LONG = 1.5
"""An operation is a spike from this many medians on."""


def timed(torch: Any, operations: dict[str, Any], steps: int) -> dict[str, np.ndarray]:
    """Seconds of every operation (step, layer), by name; a layer before the first waits for the host: left out."""
    names, found = list(operations), {name: np.empty((steps, LAYERS)) for name in operations}
    for step in range(-WARM, steps):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range((LAYERS + 1) * len(names) + 1)]
        marks[0].record()
        for place in range((LAYERS + 1) * len(names)):
            operations[names[place % len(names)]]()
            marks[place + 1].record()
        marks[-1].synchronize()
        if step >= 0:
            lengths = [a.elapsed_time(b) * 1e-3 for a, b in pairwise(marks)]
            for number, name in enumerate(names):
                found[name][step] = lengths[number :: len(names)][1:]
    return found


def spread(lengths: np.ndarray) -> dict[str, float]:
    """The sigmas and the spikes of one operation, from its seconds (step, layer)."""
    usual = np.median(lengths)
    calm = np.where(lengths < LONG * usual, lengths, usual)
    logs = np.log(calm)
    within = float(logs.var(axis=1, ddof=1).mean())
    means = logs.mean(axis=1)
    between = float(np.diff(means).var() / 2.0 - within / LAYERS)
    late = lengths[lengths >= LONG * usual]
    return {
        "median_us": usual * 1e6,
        "event": within**0.5,
        "step": max(between, 0.0) ** 0.5,
        "drift": float(np.log(np.median(lengths[-50:]) / np.median(lengths[:50]))),
        "p99_over_p50": float(np.quantile(lengths, 0.99) / usual),
        "max_over_p50": float(lengths.max() / usual),
        "spikes": len(late) / lengths.size,
        "spike_us": float((late - usual).mean() * 1e6) if len(late) else 0.0,
        "samples": float(lengths.size),
    }


def polled(torch: Any, rounds: int) -> np.ndarray:
    """Seconds from the launch of an empty kernel until a polling host has seen its end."""
    word, found = torch.zeros(1, device="cuda"), np.empty(rounds)
    for number in range(-1000, rounds):
        mark = torch.cuda.Event()
        begin = time.perf_counter_ns()
        word.add_(1)
        mark.record()
        while not mark.query():
            pass
        if number >= 0:
            found[number] = (time.perf_counter_ns() - begin) * 1e-9
    return found


def stolen(seconds: float) -> np.ndarray:
    """Gaps between two looks at the clock of a thread that does nothing else, seconds, those above 20 us."""
    found, begin = [], time.perf_counter_ns()
    last, end = begin, begin + int(seconds * 1e9)
    while last < end:
        now = time.perf_counter_ns()
        if now - last > 20_000:
            found.append((now - last) * 1e-9)
        last = now
    return np.array(found)


def measured(torch: Any) -> list[dict[str, Any]]:
    """All rows."""
    torch.manual_seed(0)
    cache = torch.randint(0, 127, (420_000_000,), dtype=torch.uint8, device="cuda").view(torch.int32)
    x = torch.randn(2048, 7168, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(7168, 5120, device="cuda", dtype=torch.bfloat16)
    y, s = (
        torch.empty(2048, 5120, device="cuda", dtype=torch.bfloat16),
        torch.empty((), device="cuda", dtype=torch.int32),
    )
    operations = {
        "read of 420 MB": lambda: torch.amax(cache, 0, out=s),
        "gemm 2048x7168x5120 bf16": lambda: torch.mm(x, w, out=y),
    }
    rows = [{"what": name, **spread(lengths)} for name, lengths in timed(torch, operations, STEPS).items()]
    seen = polled(torch, 200_000)
    late = seen[seen > 1e-4]
    rows.append(
        {
            "what": "launch, end, polled by the host",
            "median_us": np.median(seen) * 1e6,
            "p99_over_p50": np.quantile(seen, 0.99) / np.median(seen),
            "max_over_p50": seen.max() / np.median(seen),
            "spikes": len(late) / len(seen),
            "spike_us": late.mean() * 1e6 if len(late) else 0.0,
            "samples": float(len(seen)),
        }
    )
    gaps = stolen(20.0)
    rows.append(
        {
            "what": "gaps above 20 us of a spinning thread, per second",
            "median_us": np.median(gaps) * 1e6 if len(gaps) else 0.0,
            "max_over_p50": gaps.max() / np.median(gaps) if len(gaps) else 0.0,
            "spikes": len(gaps) / 20.0,
            "spike_us": gaps.mean() * 1e6 if len(gaps) else 0.0,
            "samples": 20.0,
        }
    )
    return rows


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the rows")
    path = parser.parse_args(arguments).output
    rows = measured(torch)
    print(torch.cuda.get_device_name(), torch.__version__)
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    if path is not None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
