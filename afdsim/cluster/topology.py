"""The network graph: GPUs, NICs, rails and their ToR switches, and the ports that messages cross.

The graph is built once with networkx and turned into integer tables; no engine walks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from afdsim.cluster.deployment import Afd, AttentionPool, FfnPool
from afdsim.cluster.network import DEDICATED, Wiring
from afdsim.errors import SimulationError

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """Who meets whom on which rail (Step-3 section 7.2: GPU i talks to GPU i of the other side)."""

    rails: int
    """Rails that are modelled one by one: 1 at instance granularity (a representative one)."""
    rail: tuple[int, ...]
    """Rail of every attention unit (an instance, or a rank at GPU granularity)."""
    peers: tuple[tuple[int, ...], ...]
    """Attention units on every rail, in index order."""
    senders_per_port: int
    """Attention GPUs of one instance that share one NIC port of an FFN instance."""
    hops: int
    """Hops of the path from NIC to NIC: 2 through one ToR switch."""


def graph(deployment: Afd) -> nx.Graph[Any]:
    """The rail-optimised fabric: every GPU has a NIC, NIC i of every server hangs on ToR switch i."""
    import networkx as nx

    network: nx.Graph[Any] = nx.Graph()
    pools: dict[str, AttentionPool | FfnPool] = {"attention": deployment.attention, "ffn": deployment.ffn}
    rails = rails_between(deployment)
    for role, pool in pools.items():
        for instance in range(pool.instances):
            for rank in range(pool.gpus_per_instance):
                gpu, nic, tor = (role, instance, rank, "gpu"), (role, instance, rank, "nic"), ("tor", rank % rails)
                network.add_edge(gpu, nic)
                network.add_edge(nic, tor)
    return network


def rails_between(deployment: Afd) -> int:
    """Rails that both sides can use: the smaller side's GPUs per instance."""
    return min(deployment.attention.gpus_per_instance, deployment.ffn.gpus_per_instance)


def fabric(deployment: Afd, *, per_rank: bool) -> Fabric:
    """The integer tables of the fabric at instance granularity or, `per_rank`, at GPU granularity."""
    attention, rails = deployment.attention, rails_between(deployment)
    hops = hops_between(graph(deployment))
    if not per_rank:
        units = tuple(range(attention.instances))
        senders = -(-attention.gpus_per_instance // rails)
        return Fabric(rails=1, rail=(0,) * len(units), peers=(units,), senders_per_port=senders, hops=hops)
    modelled = max(1, rails // attention.tp)
    rail = tuple(rank % modelled for _ in range(attention.instances) for rank in range(attention.dp))
    peers = tuple(tuple(unit for unit, on in enumerate(rail) if on == index) for index in range(modelled))
    return Fabric(rails=modelled, rail=rail, peers=peers, senders_per_port=1, hops=hops)


def hops_between(network: nx.Graph[Any]) -> int:
    """Hops from an attention NIC to the FFN NIC on its rail; every rail is alike."""
    import networkx as nx

    path = nx.shortest_path(network, ("attention", 0, 0, "nic"), ("ffn", 0, 0, "nic"))
    hops = len(path) - 1
    if hops != 2:
        raise SimulationError(f"ports arbitrate per NIC, which needs one switch between NICs; found {hops} hops")
    return hops


# ports --------------------------------------------------------------------------------------------------------------


def wired(rails: Fabric, groups: list[range], ffns: int, *, alone: bool, first_lane: int, draws: int) -> Wiring:
    """Copies of every group's dispatch (route 2g) and combine (2g + 1), by the ports that they leave and reach."""
    units = groups[-1].stop
    per_unit, per_ffn = (ffns, units) if alone else (1, rails.rails)
    egress = np.cumsum([0, *([per_unit] * units), *([per_ffn] * ffns)])
    ingress = np.cumsum([0, *([1] * units), *([1 if alone else rails.rails] * ffns)])

    def leaves(sender: int, receiver: int) -> int:
        if alone:
            return int(egress[sender]) + (receiver - units if sender < units else receiver)
        return int(egress[sender]) + (0 if sender < units else rails.rail[receiver])

    def reaches(sender: int, receiver: int) -> int:
        return int(ingress[receiver]) + (0 if receiver < units or alone else rails.rail[sender])

    servers = range(units, units + ffns)
    routes = [_pairs(*ends) for group in groups for ends in ((group, servers), (servers, group))]
    found = [sorted((leaves(*pair), place, *pair) for place, pair in enumerate(pairs)) for pairs in routes]
    copies = [(route, port, a, b) for route, rows in enumerate(found) for port, _, a, b in rows]
    taking = sorted((route, reaches(a, b), x, b) for x, (route, _, a, b) in enumerate(copies))
    leaving = _legs([(route, a, port) for route, port, a, _ in copies])
    arriving = _legs([(route, b, port) for route, port, _, b in taking])
    spans = [(*_span(leaving, route), *_span(arriving, route)) for route in range(len(routes))]
    ends = [(min(a, b), max(a, b) - units, a > b) for _, _, a, b in copies]
    return Wiring(
        discipline=DEDICATED,
        wait=0.0,
        lag=0.0,
        rest=0.0,
        poll=0.0,
        routes=np.array(spans, dtype=np.uint64),
        leaving=np.array([leg[1:] for leg in leaving], dtype=np.uint64),
        arriving=np.array([leg[1:] for leg in arriving], dtype=np.uint64),
        order=np.array([x for _, _, x, _ in taking]),
        lane=np.array([u * first_lane for u, _, _ in ends], dtype=np.uint64),
        draw=np.array([(back * units * ffns + u * ffns + f) * draws for u, f, back in ends], dtype=np.uint64),
        ports=(int(egress[-1]), int(ingress[-1])),
    )


def _pairs(senders: range, receivers: range) -> list[tuple[int, int]]:
    return [(a, b) for a in senders for b in receivers]


def _legs(ends: list[tuple[int, int, int]]) -> list[tuple[int, int, int, int, int]]:
    """(route, unit, port, low, high) of every run of equal (route, unit, port)."""
    legs, low = [], 0
    for key, run in groupby(ends):
        high = low + len(list(run))
        legs.append((*key, low, high))
        low = high
    return legs


def _span(legs: list[tuple[int, int, int, int, int]], route: int) -> tuple[int, int]:
    """First and last leg of a route."""
    places = [place for place, leg in enumerate(legs) if leg[0] == route]
    return places[0], places[-1] + 1
