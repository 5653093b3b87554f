"""A router in front of several cells, each of which is the deployment of the scenario or says what differs in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from afdsim.scenario.asked import ClosedLoop, Workload
from afdsim.scenario.leaves import Choice
from afdsim.scenario.part import Count, Fault, Part

Policy = Literal["round_robin", "least_requests", "least_kv", "power_of_two", "prefix_affinity"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
MOST = 1024
"""Cells of a fleet."""


class Cells(Part):
    """Cells that are alike: what differs in them from the scenario, key by key; null removes a key.

    A deployment of another type has no key of the scenario's, none of its stragglers, and of its network the line rate.
    """

    replicas: Count = 1
    """Cells of this kind."""
    deployment: Mapping[str, Any] = Field(default_factory=dict)
    """What differs in their deployment."""
    precision: Mapping[str, Any] = Field(default_factory=dict)
    """What differs in their number formats."""
    network: Mapping[str, Any] = Field(default_factory=dict)
    """What differs in their network."""
    variation: Mapping[str, Any] = Field(default_factory=dict)
    """What differs in their variation."""


class Router(Part):
    """Sends every request to one of several cells when it arrives; the request stays there."""

    replicas: Count | None = None
    """Cells that are alike: each is the whole deployment, with GPUs and random factors of its own."""
    cells: tuple[Cells, ...] | None = None
    """Cells that are not alike, in place of `replicas`."""
    policy: Annotated[Policy, Choice(POLICIES)] = "round_robin"
    """round_robin: one after the other, of unlike cells each as often as its share of all sequences that may run;
    least_requests: to the cell with the fewest requests that run or wait, of unlike cells over those that may run;
    least_kv: to the one with the smallest part of its KV cache taken or waited for; power_of_two: to the one of two
    drawn cells that least_requests would take; prefix_affinity: to the cell of the group of `workload.prefix`, unless
    it is 32 requests ahead of the one with the fewest. Cells are seen as they stand at the arrival, ties go to the
    first."""

    @property
    def count(self) -> int:
        """Cells of all kinds."""
        return self.replicas or sum(each.replicas for each in self.cells or ())

    def faults(self) -> Iterator[Fault]:
        """Check that cells are counted once."""
        if (self.replicas is None) == (self.cells is None):
            given = "neither is given" if self.cells is None else "both are given ('replicas: null' removes it)"
            yield "", f"must have one of replicas and cells, e.g. {{replicas: 4}}; {given}"
        elif not self.count:
            yield "cells", "must name at least one cell, e.g. [{replicas: 2}]"


def of_another_type(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data of a scenario without what belongs to its type of deployment."""
    rate = {"link": {"bandwidth": link["bandwidth"]}} if "bandwidth" in (link := _map(data, "network", "link")) else {}
    variation = {key: value for key, value in _map(data, "variation").items() if key != "straggler"}
    kept = {key: value for key, value in data.items() if key not in {"deployment", "network", "variation"}}
    return kept | {"network": rate, "variation": variation}


def _map(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        data = data.get(key) or {}
    return data


def misfits(router: Router, workload: Workload, crashes: bool) -> Iterator[Fault]:
    """Yield what does not go with a router."""
    if isinstance(workload.arrival, ClosedLoop):
        text = "needs requests that arrive: in a closed_loop every cell has its own, so run one cell without 'router'"
        yield "router", text
    if crashes:
        yield "router", "and 'failures' do not go together yet: no router hears of a crash; run one cell without it"
    if router.policy == "prefix_affinity" and workload.prefix is None:
        yield "router.policy", "prefix_affinity needs prompts that begin alike: add 'workload.prefix', or use another"
    if router.count > MOST:
        yield "router.replicas" if router.cells is None else "router.cells", f"must be <= {MOST:,}"
