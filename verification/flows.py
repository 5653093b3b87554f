"""Exchanges between the pools, against maximum flows of the graph of the network (networkx)."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from afdsim.cluster.topology import Cabling, graph
from tests.cases import Outcome, Stages, run, tiny
from verification.checks import BLUE, BY_ROUNDING, ORANGE, ROUNDING, Check, Finding, diagonal, finish, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATE = 10e6 / 8
"""Bytes per second of a NIC."""
LAYERS, MICRO_BATCHES = 4, 4
ROWS = (280, 512)
"""Bytes of a row on its way out (FP8, with scales and choices of experts) and back (BF16)."""
SIZES = tuple(product((1, 2, 3, 4), (1, 2, 4)))
UPLINKS = (None, 1.0, 2.0, 3.0)
"""Oversubscription of the uplinks between the sides; None: all NICs of a rail under one switch."""
SLOWER: tuple[dict[str, float], ...] = ({}, {"attention[0]": 0.5}, {"ffn[0]": 0.3})
"""NICs that achieve less than their rate."""


def saturated(attention: int, ffn: int, uplinks: float | None, slower: dict[str, float]) -> Outcome:
    """A run that waits for the network alone: four micro-batches, hardly any compute, no latency."""
    changes: dict[str, object] = {
        "network__type": "shared",
        "network__link": {"bandwidth": "10Mbps", "latency": "0s"},
        "network__efficiency": 1.0,
        "network__degraded": slower,
        "network__uplinks": None if uplinks is None else {"oversubscription": uplinks},
        "deployment__num_microbatches": MICRO_BATCHES,
        "deployment__max_num_seqs": MICRO_BATCHES,
        "workload__num_requests": 3 * MICRO_BATCHES * attention,
    }
    return run(tiny(LAYERS, attention, ffn, **changes), cost=Stages(attention=1e-7, ffn=1e-7))


def throughput(outcome: Outcome, attention: int, ffn: int) -> float:
    """Bytes per second that the longer way back carries, of a step that has fallen into line."""
    step = float(outcome.step_times[-1])
    return LAYERS * MICRO_BATCHES * attention * ffn * max(ROWS) / step


def maximum(outcome: Outcome, uplinks: float | None, slower: dict[str, float]) -> float:
    """The maximum flow from all FFN GPUs to all attention GPUs, bytes per second."""
    deployment = outcome.cell.deployment
    capacities: Any = nx.DiGraph()
    for one, other in graph(deployment, Cabling(uplinks=uplinks is not None)).edges:
        for tail, head in ((one, other), (other, one)):
            capacities.add_edge(tail, head, capacity=_capacity(tail, head, deployment, uplinks, slower))
    for node in list(capacities):
        if node[-1] == "gpu":
            ends = ("source", node) if node[0] == "ffn" else (node, "sink")
            capacities.add_edge(*ends)  # without a capacity: as much as comes
    return float(nx.maximum_flow_value(capacities, "source", "sink"))


def _capacity(tail: Any, head: Any, deployment: Any, uplinks: float | None, slower: dict[str, float]) -> float:
    """Bytes per second of an edge: a NIC's rate; of an uplink its switch's NICs', by the oversubscription."""
    for node in (tail, head):
        if node[-1] == "nic":
            return RATE * slower.get(f"{node[0]}[{node[1]}]", 1.0)
    side = next(node[2] for node in (tail, head) if node[0] == "tor")
    return float(getattr(deployment, side).instances) * RATE / (uplinks or 1.0)


def compared(ax: Axes, scale: float) -> Finding:
    """Draw throughputs over maximum flows."""
    every = list(product(SIZES, UPLINKS, SLOWER))
    cases = every[:: max(round(1 / scale), 1)]
    rows = []
    for (attention, ffn), uplinks, slower in cases:
        outcome = saturated(attention, ffn, uplinks, slower)
        rows.append((throughput(outcome, attention, ffn), maximum(outcome, uplinks, slower), not slower))
    found, most, alike = (np.array(column) for column in zip(*rows, strict=True))
    diagonal(ax, most / 1e6, part=0.02, label="2 % around the maximum flow")
    points(
        ax, most[~alike] / 1e6, found[~alike] / 1e6, ORANGE, "one NIC slower: at most it", marker="s", mfc="none", ms=7
    )
    points(ax, most[alike] / 1e6, found[alike] / 1e6, BLUE, "all NICs equal: the maximum flow")
    finish(
        ax,
        "A saturated exchange carries the maximum flow of the network's graph,\nand never more",
        "maximum flow (MB/s)",
        "simulated throughput of the way back (MB/s)",
    )
    below = np.where(alike, np.abs(found / most - 1), found / most - 1)
    return Finding(
        statistic=f"furthest from the flow of {alike.sum()} with equal NICs, or above it of {(~alike).sum()} others",
        value=max(float(below.max()), 0.0),
        tolerance=ROUNDING,
        reason=f"compute hides behind the network; {BY_ROUNDING}",
    )


FLOWS = Check(
    name="max_flow",
    compares="the throughput of saturated exchanges with the maximum flow of the graph of NICs, switches and uplinks",
    question="Does the network carry all that its cables allow, and never more?",
    answer=(
        "The graph of the fabric, with a NIC's rate on its edges and the oversubscribed rate on uplinks, has a "
        "maximum flow from all FFN GPUs to all attention GPUs, which networkx finds (Ford and Fulkerson's "
        "theorem: the smallest cut). Where all NICs are alike every pair may have its equal share of it. Where "
        "one NIC is slower, every exchange waits for its rows, and less than the maximum flow is carried."
    ),
    reading="Blue points lie on the diagonal, orange squares on or below it; none lies above.",
    run=compared,
)
