"""A router in front of several cells, each of which is the deployment of the scenario."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from afdsim.scenario.asked import ClosedLoop, Workload
from afdsim.scenario.leaves import Choice, Whole
from afdsim.scenario.part import Fault, Part

Policy = Literal["round_robin", "least_requests", "least_kv", "power_of_two", "prefix_affinity"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
MOST = 1024
"""Cells of a fleet."""


class Router(Part):
    """Sends every request to one of several cells when it arrives; the request stays there."""

    replicas: Annotated[int, Whole(1)]
    """Cells: each is the whole deployment, with GPUs and random factors of its own."""
    policy: Annotated[Policy, Choice(POLICIES)] = "round_robin"
    """round_robin: one after the other; least_requests: to the cell with the fewest requests that run or wait;
    least_kv: to the one with the smallest part of its KV cache taken or waited for; power_of_two: to the one of two
    drawn cells with fewer requests; prefix_affinity: to the cell of the group of `workload.prefix`, unless it is 32
    requests ahead of the one with the fewest. Cells are seen as they stand at the arrival, ties go to the first."""


def misfits(router: Router, workload: Workload, crashes: bool) -> Iterator[Fault]:
    """Yield what does not go with a router."""
    if isinstance(workload.arrival, ClosedLoop):
        text = "needs requests that arrive: in a closed_loop every cell has its own, so run one cell without 'router'"
        yield "router", text
    if crashes:
        yield "router", "and 'failures' do not go together yet: no router hears of a crash; run one cell without it"
    if router.policy == "prefix_affinity" and workload.prefix is None:
        yield "router.policy", "prefix_affinity needs prompts that begin alike: add 'workload.prefix', or use another"
    if router.replicas > MOST:
        yield "router.replicas", f"must be <= {MOST:,}"
