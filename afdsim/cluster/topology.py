"""The network graph: GPUs, NICs, rails and their ToR switches, and the ports that messages cross.

The graph is built once with networkx and turned into integer tables; no engine walks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afdsim.cluster.deployment import Afd, AttentionPool, FfnPool
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
