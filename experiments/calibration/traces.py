"""Which laws come closest to a recorded service?  ``python traces.py TRACE...`` (Azure CSV, Mooncake JSON lines).

Lengths: lognormal by the mean and the standard deviation of the logarithm; clipped at the longest. Arrivals: gamma by
the coefficient of variation of the gaps; and bursts of two states (MMPP) by the rate and by how counts in windows of
several lengths scatter (variance over mean: 1 of a Poisson process). The fit's error is told beside each: the largest
distance between the two distribution functions (Kolmogorov-Smirnov), the mean that the law has, and the scatter of its
counts. `scenarios/azure_code_burst.yaml` and `mooncake_long_context.yaml` hold what this prints.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from afdsim.workload.laws import Gamma, Lengths, Lognormal, arrivals, draw
from afdsim.workload.traces import read_trace

Array = np.ndarray
WINDOWS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Seconds over which arrivals are counted."""
DRAWN = 200_000


def lognormal(lengths: Array) -> Lognormal:
    """The law with the moments of the logarithm."""
    logs = np.log(np.maximum(lengths, 1))
    mean = math.exp(logs.mean() + logs.var() / 2)
    return Lognormal(mean=mean, cv=math.sqrt(math.expm1(logs.var())), max=int(lengths.max()))


def distance(one: Array, other: Array) -> float:
    """Largest distance between two distribution functions."""
    at = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


def scatter(times: Array, window: float) -> float:
    """Variance over mean of the counts in windows."""
    counts = np.histogram(times, np.arange(times[0], times[-1] + window, window))[0]
    return float(counts.var() / counts.mean())


def wanted(high: float, low: float, dwells: tuple[float, float], window: float) -> float:
    """Variance over mean of the counts of a process of two states, in windows of a length; exact."""
    up, down = dwells[0] / sum(dwells), dwells[1] / sum(dwells)
    rate, relaxes = up * high + down * low, 1 / dwells[0] + 1 / dwells[1]
    decay = 1 - (1 - math.exp(-relaxes * window)) / (relaxes * window)
    return 1 + 2 * up * down * (high - low) ** 2 / (rate * relaxes) * decay


def bursts(times: Array) -> tuple[float, float, float, float]:
    """(high rate, low rate, dwell high, dwell low): the mean rate, and the closest scatter over all windows."""
    rate = len(times) / (times[-1] - times[0])
    seen = [scatter(times, window) for window in WINDOWS]

    def miss(law: tuple[float, float, float]) -> float:
        high, dwell, share = law
        low = (rate - share * high) / (1 - share)
        if low < 0:
            return math.inf
        dwells = (dwell, dwell * (1 - share) / share)
        return sum(math.log(wanted(high, low, dwells, w) / s) ** 2 for w, s in zip(WINDOWS, seen, strict=True))

    grid = product(rate * np.geomspace(1.5, 40, 60), np.geomspace(0.5, 100, 60), np.geomspace(0.01, 0.6, 60))
    high, dwell, share = min(grid, key=miss)
    low = (rate - share * high) / (1 - share)
    return float(high), float(low), float(dwell), float(dwell * (1 - share) / share)


def told(path: str, say: Callable[[str], None]) -> None:
    """Say which laws come closest to a trace."""
    trace = read_trace(path, "auto")
    rng = np.random.default_rng(0)
    times = trace.arrival
    say(f"{Path(path).name}: {len(times):,} requests in {times[-1]:,.0f} s, {len(times) / times[-1]:.3f} req/s")
    for name in ("input_len", "output_len"):
        _lengths(name, getattr(trace, name), lognormal(getattr(trace, name)), rng, say)
    gaps = np.diff(times)
    cv = float(gaps.std() / gaps.mean())
    say(f"  gaps: cv {cv:.2f}, {np.mean(gaps == 0):.0%} of them 0; a gamma law has burstiness {cv**-2:.4f}")
    law = Gamma(rate=len(times) / times[-1], burstiness=cv**-2)
    _scatters("gamma", [scatter(arrivals(law, rng, DRAWN), w) for w in WINDOWS], say)
    _scatters("trace", [scatter(times, w) for w in WINDOWS], say)
    high, low, up, down = bursts(times)
    say(f"  mmpp: {high:.2f} req/s for {up:.2f} s, {low:.3f} req/s for {down:.2f} s (means)")
    _scatters("mmpp", [wanted(high, low, (up, down), w) for w in WINDOWS], say)


def _lengths(name: str, lengths: Array, law: Lengths, rng: np.random.Generator, say: Callable[[str], None]) -> None:
    assert isinstance(law, Lognormal)
    drawn = draw(law, rng, DRAWN)
    say(f"  {name}: lognormal mean {law.mean:.0f}, cv {law.cv:.2f}, max {law.max:,}; KS {distance(lengths, drawn):.3f}")
    for what, each in (("trace", lengths), ("law", drawn)):
        p50, p90, p99 = np.percentile(each, (50, 90, 99))
        say(f"    {what:6} mean {each.mean():.0f}, p50 {p50:.0f}, p90 {p90:.0f}, p99 {p99:.0f}")


def _scatters(name: str, found: Sequence[float], say: Callable[[str], None]) -> None:
    text = ", ".join(f"{each:.1f} in {window:g} s" for each, window in zip(found, WINDOWS, strict=True))
    say(f"    {name:6} variance over mean of counts: {text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("traces", nargs="+")
    for each in parser.parse_args().traces:
        told(each, print)
