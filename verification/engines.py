"""The two engines against one another, bit for bit, over random cells of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import afdsim
from afdsim.results.result import FRAMES
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import deployments
from tests.laws.test_prefill import KINDS, SERVERS, scenario
from verification.checks import COLOURS, Check, Finding, diagonal, finish, points, several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from afdsim.results.result import Result
    from afdsim.scenario.document import Scenario


def explored(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """Examples of a strategy of the tests, the same every time."""
    found: list[Any] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found


PREFILLED = st.builds(
    lambda kind, instances, lengths: scenario(kind, prefill=SERVERS | {"instances": instances}, lengths=lengths),
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 3),
    st.sampled_from([(300, 1), (80, 2), (700, 9)]),
)
FLEETS = st.builds(
    lambda kind, policy, replicas: scenario(kind, prefill=None, router={"policy": policy, "replicas": replicas}),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["round_robin", "least_requests", "power_of_two"]),
    st.integers(2, 3),
)
CELLS: dict[str, tuple[Callable[[], st.SearchStrategy[Any]], int]] = {
    "AFD": (deployments, 60),
    "colocated EP": (engines, 30),
    "tensor parallel": (tensors, 30),
    "behind prefill": (lambda: PREFILLED, 12),
    "fleets": (lambda: FLEETS, 8),
}
"""Strategies and how many cells of each."""


def unlike(one: Result, other: Result) -> tuple[int, int]:
    """Bits that differ in all columns of two results, and bits that were compared."""
    differ = compared = 0
    for name in FRAMES:
        mine, its = getattr(one, name), getattr(other, name)
        if mine.shape != its.shape:
            return max(mine.size, its.size) * 64, max(mine.size, its.size) * 64
        for column in mine.columns:
            left, right = (np.ascontiguousarray(frame[column].to_numpy()) for frame in (mine, its))
            if left.dtype == object:
                left, right = (np.array(each, dtype="U") for each in (left, right))
            bits = np.bitwise_xor(left.view(np.uint8), right.view(np.uint8))
            differ += int(np.unpackbits(bits).sum())
            compared += 8 * left.nbytes
    return differ, compared


def pair(asked: Scenario) -> tuple[Result, Result]:
    """The results of both engines."""
    one, other = (afdsim.simulate(asked.vary("run.engine", engine)) for engine in ("processes", "kernel"))
    return one, other


def compared(ax: Axes, scale: float) -> Finding:
    """Draw when requests finish by the kernel over when by processes."""
    cells = differing = bits = 0
    every = []
    for (name, (strategy, number)), colour in zip(CELLS.items(), COLOURS, strict=False):
        results = [pair(asked) for asked in explored(strategy(), several(number, scale))]
        found = [unlike(*each) for each in results]
        cells, bits = cells + len(found), bits + sum(each[1] for each in found)
        differing += sum(each[0] for each in found)
        ends = [np.concatenate([each[side].requests.finish_s for each in results]) for side in (0, 1)]
        points(ax, ends[0], ends[1], colour, f"{name}: {len(found)} cells", ms=3, alpha=0.5)
        every.append(ends[0][np.isfinite(ends[0]) & (ends[0] > 0)])
    diagonal(ax, np.concatenate(every), part=0.02, label="2 % (not one bit differs)" if not differing else "2 %")
    finish(
        ax,
        f"Processes and kernel agree bit for bit: {differing} of {bits / 1e6:.0f} million bits differ",
        "finish of a request by processes (s)",
        "finish by the kernel (s)",
    )
    return Finding(
        statistic=f"bits that differ of {bits / 1e6:.0f} million, in {cells} cells",
        value=differing,
        tolerance=0.0,
        reason="the same sums in the same order",
    )


ENGINES = Check(
    name="engines",
    compares="every column of every frame by the kernel with the same by processes, bit for bit",
    question="Do the readable engine and the fast one say the same of any deployment?",
    answer=(
        "The one is SimPy processes that wait, work and announce, the other a compiled recurrence over flat arrays. "
        "Cells of every kind are drawn at random: sizes, layers, models, micro-batches, networks, jitter, spikes, "
        "stragglers, skewed experts, drafts, open and closed loops from idle to overloaded."
    ),
    reading="Finish times lie on the diagonal; the title counts the bits of all columns of all frames.",
    run=compared,
)
