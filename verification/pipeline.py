"""Steps and bubbles of the pipeline, against closed forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from afdsim.engine.books import BUSY
from tests.cases import Outcome
from tests.laws.test_theory import pipeline
from verification.checks import (
    BAND,
    BLUE,
    BY_ROUNDING,
    GREEN,
    ORANGE,
    ROUNDING,
    Array,
    Check,
    Finding,
    diagonal,
    finish,
    furthest,
    points,
    several,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 160
PAPER = (61, 272e-6, 3)
"""Layers, seconds of each of three stages, micro-batches (Step-3, section 5)."""
ENOUGH = 60
"""Requests of a run whose books are read."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A random pipeline. Seconds."""

    attention: float
    ffn: float
    out: float
    back: float
    latency: float
    layers: int
    m: int
    drain: bool

    @property
    def slowest(self) -> float:
        """Slowest stage."""
        return max(self.attention, self.ffn, self.out, self.back)

    @property
    def trip(self) -> float:
        """Round trip of a layer."""
        return self.attention + self.out + self.ffn + self.back + 2 * self.latency

    @property
    def period(self) -> float:
        """Time of a layer: the longer of the busiest resource and the round trip."""
        return max(self.m * self.slowest, self.trip)

    @property
    def step(self) -> float:
        """Time of a step; one that drains adds a round trip for a layer, and the other micro-batches."""
        if not self.drain:
            return self.layers * self.period
        return self.trip + (self.layers - 1) * self.period + (self.m - 1) * self.slowest

    def run(self, **changes: object) -> Outcome:
        """Simulate it."""
        return pipeline(
            (self.attention, self.ffn, self.out, self.back),
            layers=self.layers,
            m=self.m,
            deployment__boundary="drain" if self.drain else "stream",
            network__link__latency=f"{self.latency!r}s",
            workload__num_requests=4 * self.m,
            **changes,
        )


def drawn(number: int, seed: int) -> list[Drawn]:
    """Random pipelines, stages of 50 us to 2 ms."""
    random, found = np.random.default_rng(seed), []
    for _ in range(number):
        a, f, out, back, latency = np.exp(random.uniform(np.log(5e-5), np.log(2e-3), 5)).round(9).tolist()
        layers, m = int(random.integers(2, 62)), int(random.integers(1, 6))
        drain = bool(random.integers(2))
        found.append(
            Drawn(
                attention=a, ffn=f, out=out, back=back, latency=round(latency / 4, 9), layers=layers, m=m, drain=drain
            )
        )
    return found


def last_step(outcome: Outcome) -> float:
    """Seconds of a step that has fallen into line."""
    return float(outcome.step_times[-1])


def steps(ax: Axes, scale: float) -> Finding:
    """Draw simulated steps over predicted ones."""
    cells = drawn(several(CELLS, scale, 6), seed=1)
    layers, stage, m = PAPER
    paper = Drawn(
        attention=stage, ffn=stage, out=stage / 2, back=stage / 2, latency=0.0, layers=layers, m=m, drain=False
    )
    cells = [*cells, paper]
    expected = np.array([each.step for each in cells])
    simulated = np.array([last_step(each.run()) for each in cells])
    drains = np.array([each.drain for each in cells])
    diagonal(ax, expected * 1e3, part=0.02, label="2 % (the difference is far below)")
    for kind, colour, label in (
        (False, BLUE, "stream: layers x longer of both"),
        (True, ORANGE, "drain: and the tail"),
    ):
        mine = drains == kind
        points(ax, expected[mine] * 1e3, simulated[mine] * 1e3, colour, label)
    told = f"three stages of 272 µs, 61 layers: {simulated[-1] * 1e3:.2f} ms"
    ax.plot(expected[-1] * 1e3, simulated[-1] * 1e3, color=GREEN, marker="*", ms=13, ls="", label=told)
    finish(
        ax,
        "Steps last as the closed form says:\nlayers x max(micro-batches x slowest stage, round trip)",
        "predicted step (ms)",
        "simulated step (ms)",
    )
    return Finding(
        statistic=f"largest relative error of {len(cells)} steps",
        value=furthest(simulated, expected),
        tolerance=ROUNDING,
        reason=BY_ROUNDING,
    )


def bubbles(ax: Axes, scale: float) -> Finding:
    """Draw the share of its time that each side is idle, simulated over predicted."""
    cells = [each for each in drawn(several(CELLS // 2, scale, 6), seed=2) if not each.drain]
    rows = [idle(each) for each in cells]
    predicted, booked = (np.array(column) for column in zip(*rows, strict=True))
    ends = np.array([0.0, 100.0])
    ax.fill_between(ends, ends - 1, ends + 1, color=BAND, lw=0, label="1 % of the time (the difference is far below)")
    ax.plot(ends, ends, color="black", lw=0.8)
    points(ax, predicted[:, 0] * 100, booked[:, 0] * 100, BLUE, "attention")
    points(ax, predicted[:, 1] * 100, booked[:, 1] * 100, ORANGE, "FFN")
    finish(
        ax,
        "Bubbles are what the closed form leaves: 1 - micro-batches x stage / period",
        "predicted idle share (%)",
        "booked idle share (%)",
    )
    return Finding(
        statistic=f"furthest of {predicted.size} idle shares, in shares of the window",
        value=float(np.max(np.abs(predicted - booked))),
        tolerance=ROUNDING,
        reason=f"the window begins and ends with a step; {BY_ROUNDING}",
    )


def idle(cell: Drawn) -> tuple[Array, Array]:
    """Idle shares of attention and FFN, predicted and booked."""
    record = cell.run(workload__output_len__value=ENOUGH).record
    start, end = record.window
    busy = np.array([cell.attention, cell.ffn]) * cell.m / cell.period
    return 1 - busy, 1 - record.causes[:, BUSY] / (end - start)


STEPS = Check(
    name="steps",
    compares="simulated steps of random pipelines with the closed form of a deterministic pipeline",
    question="Does a step last as long as its dependencies and resources make it?",
    answer=(
        "With equal layers and no jitter a step that streams takes layers x max(micro-batches x slowest stage, "
        "round trip); one that drains takes a round trip, layers - 1 such periods and the other micro-batches of "
        "the slowest stage. Three stages of 272 µs over 61 layers are the 49.78 ms of the Step-3 paper's 50 ms. "
        "Stages, layers (2 to 61), micro-batches (1 to 5) and latencies are drawn at random."
    ),
    reading="All points lie on the diagonal, to the last digits; the band shows what 2 % would be.",
    run=steps,
)
BUBBLES = Check(
    name="bubbles",
    compares="GPU time that the books call not busy with the idle share of the closed form",
    question="Are the bubbles that a report shows the time that a GPU has nothing to do?",
    answer=(
        "Of every period of a layer a side is busy for micro-batches x its stage; what is left is idle. The books "
        "come from the engine, second by second, cut at the ends of the measured window."
    ),
    reading="All points lie on the diagonal, to the last digits; the band shows what 1 % of the time would be.",
    run=bubbles,
)
