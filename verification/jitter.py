"""What is drawn, and what the slowest of several ranks costs, against the lognormal law."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from afdsim.engine.lowering import lower
from afdsim.results.intervals import half_width
from tests.cases import Stages, Wires, run, tiny
from verification.checks import BEYOND, BY_CHANCE, COLOURS, Array, Check, Finding, finish, several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGMAS = (0.027, 0.1, 0.2, 0.3, 0.5)
POWERS = (1, 2, 3)
STEPS = 4_000
RANKS = (1, 2, 4, 8, 16)
SPREADS = (0.1, 0.3)
WARM = 5
"""Steps that are left out."""


def factors(sigma: float, steps: int) -> Array:
    """Factors of the operations of a small deployment, as a run draws them."""
    return lower(tiny(variation__event=sigma), seed=3).variation.operations(range(steps))


def moments(ax: Axes, scale: float) -> Finding:
    """Draw how far moments of the factors are from the law's."""
    off = []
    for sigma in SIGMAS:
        drawn = factors(sigma, several(STEPS, scale, 100))
        for power in POWERS:
            expected = math.exp(power * (power - 1) * sigma**2 / 2)
            measured, half = float((drawn**power).mean()), half_width(drawn**power)
            off.append(abs(measured - expected) / half)
            label = {1: "mean", 2: "mean square", 3: "mean cube"}[power]
            error, bar = (measured / expected - 1) * 100, BEYOND * half / expected * 100
            x = sigma * 1.08 ** (power - 2)
            ax.errorbar(x, error, bar, color=COLOURS[power - 1], fmt="o", ms=4, capsize=3, label=label)
    ax.axhline(0.0, color="black", lw=0.8)
    ax.set_xscale("log")
    ax.set_xticks(SIGMAS, [str(sigma) for sigma in SIGMAS])
    ax.minorticks_off()
    finish(
        ax,
        "Jitter has the moments of the lognormal law with mean 1\nbars: two 95 % half-widths",
        "sigma",
        "measured moment against the law's (%)",
    )
    statistic = f"furthest of {len(off)} moments from the law's"
    return Finding(statistic=statistic, value=float(max(off)), tolerance=BEYOND, reason=BY_CHANCE)


def slowest(sigma: float, ranks: int) -> float:
    """Mean of the greatest of so many lognormal factors: the integral of 1 - F(x)^n, by the trapezoidal rule."""
    x = np.exp(np.linspace(-12 * sigma, 12 * sigma, 20_001))
    below = np.array([math.erf(z / math.sqrt(2)) for z in (np.log(x) + sigma**2 / 2) / sigma])
    above = 1 - ((1 + below) / 2) ** ranks
    return float(x[0] + np.trapezoid(above, x))


def steps(kind: Literal["step", "event"], sigma: float, ranks: int, number: int) -> Array:
    """Steps of so many instances with one micro-batch and attention alone, as multiples of a step without jitter."""
    layers = 12 if kind == "event" else 2
    one = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1}
    length = {"workload__output_len__value": number + WARM + 2, "workload__num_requests": ranks}
    asked = tiny(layers, ranks, variation={"link": 0, kind: sigma}, **one, **length)
    outcome = run(asked, cost=Stages(attention=1e-3), network=Wires())
    return outcome.step_times[WARM:] / (layers * 1e-3)


def maxima(ax: Axes, scale: float) -> Finding:
    """Draw mean steps by the number of instances that wait for one another."""
    off = []
    for sigma, colour in zip(SPREADS, COLOURS, strict=False):
        expected = {ranks: slowest(sigma, ranks) for ranks in RANKS}
        ax.plot(RANKS, list(expected.values()), color=colour, lw=1, label=f"integral, sigma {sigma}")
        for kind, marker, aside in (("step", "o", 0.97), ("event", "s", 1.03)):
            for ranks in RANKS:
                found = steps(kind, sigma, ranks, several(STEPS // 8, scale, 40))  # type: ignore[arg-type]
                half = half_width(found)
                off.append(abs(found.mean() - expected[ranks]) / half)
                bar = {"color": colour, "fmt": marker, "ms": 4, "capsize": 3, "mfc": "white" if aside > 1 else colour}
                name = f"simulated, sigma {sigma}, by {'operation' if kind == 'event' else 'step'}"
                ax.errorbar(ranks * aside, found.mean(), BEYOND * half, label=name, **bar)
    ax.set_xscale("log", base=2)
    ax.set_xticks(RANKS, [str(ranks) for ranks in RANKS])
    finish(
        ax,
        "A step waits for the slowest of n instances, whose mean is known\nbars: two 95 % half-widths",
        "attention instances",
        "mean step / step without jitter",
    )
    statistic = f"furthest of {len(off)} mean steps from the integral"
    return Finding(statistic=statistic, value=float(max(off)), tolerance=BEYOND, reason=BY_CHANCE)


MOMENTS = Check(
    name="jitter_moments",
    compares="factors that runs draw for operations with the moments of the lognormal law of mean 1",
    question="Is jitter what the model says: lognormal, of mean 1, so that it costs nothing but by waiting?",
    answer=(
        "Of a lognormal factor exp(sigma Z - sigma^2 / 2) the k-th moment is exp(k (k - 1) sigma^2 / 2). The factors "
        "are those that the engines read, from the streams of a deployment."
    ),
    reading="Every bar crosses zero. Higher powers and larger sigmas hang on rarer draws, so their bars are longer.",
    run=moments,
)
MAXIMA = Check(
    name="jitter_maxima",
    compares="mean simulated steps of n instances with the mean of the slowest of n lognormal factors",
    question="Does waiting for one another cost what order statistics say?",
    answer=(
        "With one micro-batch and attention alone, every layer waits for the slowest of n instances. Its mean is "
        "the integral of 1 - F(x)^n over x with F the lognormal law, here by the trapezoidal rule. Whether a "
        "factor lasts a step or an operation, the mean step is the same."
    ),
    reading="Points lie on the lines, which rise with the number of instances: the price of the barrier.",
    run=maxima,
)
