"""The network graph: GPUs, NICs, rails and their switches, and the ports and uplinks that messages cross.

The graph is built once with networkx and turned into integer tables; no engine walks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from afdsim.cluster.deployment import Afd
from afdsim.cluster.network import DEDICATED, Wiring
from afdsim.errors import SimulationError

if TYPE_CHECKING:
    import networkx as nx

Meets = Callable[[int, int], int]
"""(sender, receiver) -> port."""
SIDES = ("attention", "ffn")
UPLINKS = ("attention uplink", "ffn downlink", "ffn uplink", "attention downlink")
"""What the servers of a rail are called, in their order: two on the way out, two on the way back."""


@dataclass(frozen=True, kw_only=True)
class Cabling:
    """What differs from one whole NIC a GPU, all NICs of a rail under one switch."""

    nics: tuple[int | None, int | None] = (None, None)
    """NICs of an attention and of an FFN instance; None: one per GPU."""
    uplinks: bool = False
    """Whether attention and FFN instances hang under different switches."""
    pinned: int = 1
    """Ports of a NIC, if a queue pair keeps to one of them."""
    degraded: Mapping[str, float] = field(default_factory=dict)
    """Share of its rate that a NIC achieves, by ``attention[0]`` or ``ffn[1].nic[3]``; its own name comes first."""

    def factor(self, side: str, instance: int, nics: Sequence[int]) -> float:
        """How much longer a message takes on the slowest of some NICs of an instance."""
        whole = self.degraded.get(f"{side}[{instance}]", 1.0)
        return 1.0 / min(self.degraded.get(f"{side}[{instance}].nic[{nic}]", whole) for nic in nics)


class Rails(NamedTuple):
    """How the GPUs of an instance of each side share NICs, and which of them meet (attention, FFN).

    GPU i talks to GPU i of the other side, modulo the smaller side's; neighbours share a NIC, and NICs that serve GPUs
    which meet hang on the same rail.
    """

    gpus: tuple[int, int]
    """GPUs of an instance."""
    sharing: tuple[int, int]
    """GPUs that share a NIC."""

    @property
    def met(self) -> int:
        """GPUs of an instance that meet one of the other side."""
        return min(self.gpus)

    @property
    def total(self) -> int:
        """Rails."""
        return self.met // max(self.sharing)

    def nics(self, side: int) -> int:
        """NICs of an instance."""
        return self.gpus[side] // self.sharing[side]

    def of_nic(self, side: int, nic: int) -> int:
        """Rail of a NIC."""
        return nic * self.sharing[side] % self.met // max(self.sharing)

    def spread(self, gpus: int, sharing: int) -> int:
        """GPUs of `gpus` neighbours whose rows meet on one thing that `sharing` of the GPUs that they meet share."""
        return -(-gpus // -(-min(gpus, self.met) // sharing))


class Shares(NamedTuple):
    """GPUs of an attention unit whose rows cross one of these."""

    attention: int
    """A NIC of its own."""
    ffn: int
    """A NIC of an FFN instance."""
    rail: int
    """An uplink or downlink."""


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """Who meets whom on which rail (Step-3 section 7.2: GPU i talks to GPU i of the other side)."""

    rails: int
    """Ports of an FFN instance that are modelled one by one: 1 at instance granularity (a representative one)."""
    rail: tuple[int, ...]
    """Port of the FFN instances for every attention unit (an instance, or a rank at GPU granularity)."""
    instance: tuple[int, ...]
    """Instance of every attention unit."""
    port: tuple[int, ...]
    """Port of every attention unit; ranks that share a NIC have the same."""
    switch: tuple[int, ...]
    """Rail of every attention unit, by the uplinks that it crosses."""
    shares: Shares
    sharing: tuple[int, int]
    """GPUs of an attention and of an FFN instance that share a NIC."""
    nics: tuple[int, int]
    """NICs of all attention and all FFN instances on one rail."""
    crosses: bool
    """Whether messages cross an uplink and a downlink."""
    pinned: int
    """Ports of a NIC, if a queue pair keeps to one of them."""
    slow: tuple[tuple[float, ...], tuple[float, ...]]
    """Factor of a message's seconds on the NIC of every attention unit, and of every FFN instance and port."""


# the graph -----------------------------------------------------------------------------------------------------------


def rails_between(deployment: Afd, cabling: Cabling) -> Rails:
    """Return how the GPUs of both sides share NICs."""
    gpus = (deployment.attention.gpus_per_instance, deployment.ffn.gpus_per_instance)
    attention, ffn = (each // (nics or each) for each, nics in zip(gpus, cabling.nics, strict=True))
    return Rails(gpus, (attention, ffn))


def graph(deployment: Afd, cabling: Cabling | None = None) -> nx.Graph[Any]:
    """The rail-optimised fabric: NICs of a rail hang on one switch, or on one for each side under a spine switch."""
    import networkx as nx

    cabling = cabling or Cabling()
    network: nx.Graph[Any] = nx.Graph()
    rails = rails_between(deployment, cabling)
    instances = (deployment.attention.instances, deployment.ffn.instances)
    for side, role in enumerate(SIDES):
        for rail in range(rails.total) if cabling.uplinks else ():
            network.add_edge(("tor", rail, role), ("spine", rail))
        for instance in range(instances[side]):
            for rank in range(rails.gpus[side]):
                nic = rank // rails.sharing[side]
                tor = ("tor", rails.of_nic(side, nic), *((role,) if cabling.uplinks else ()))
                network.add_edge((role, instance, rank, "gpu"), (role, instance, nic, "nic"))
                network.add_edge((role, instance, nic, "nic"), tor)
    return network


def hops_between(network: nx.Graph[Any]) -> int:
    """Hops from an attention NIC to an FFN NIC on its rail, 2 or 4; every rail is alike."""
    import networkx as nx

    hops = len(nx.shortest_path(network, ("attention", 0, 0, "nic"), ("ffn", 0, 0, "nic"))) - 1
    if hops not in (2, 4):
        raise SimulationError(f"messages cross one switch, or three of which two have uplinks; found {hops} hops")
    return hops


def on_rail(network: nx.Graph[Any], role: str) -> int:
    """NICs of a role on the first rail."""
    tors = [node for node in network if node[:2] == ("tor", 0)]
    return sum(node[0] == role for tor in tors for node in network[tor])


# tables --------------------------------------------------------------------------------------------------------------


def fabric(deployment: Afd, *, per_rank: bool, cabling: Cabling | None = None) -> Fabric:
    """The integer tables of the fabric at instance granularity or, `per_rank`, at GPU granularity."""
    cabling = cabling or Cabling()
    attention, rails = deployment.attention, rails_between(deployment, cabling)
    network = graph(deployment, cabling)
    each = attention.tp if per_rank else attention.gpus_per_instance
    ranks = [rank for _ in range(attention.instances) for rank in range(attention.dp if per_rank else 1)]
    units = [(unit // attention.dp if per_rank else unit, rank * each) for unit, rank in enumerate(ranks)]
    modelled = max(1, rails.met // each)
    meets = [rank % modelled * each for rank in ranks]
    rail = _numbered([gpu // rails.sharing[1] for gpu in meets])
    return Fabric(
        rails=max(rail) + 1,
        rail=rail,
        instance=tuple(instance for instance, _ in units),
        port=_numbered([(instance, gpu // rails.sharing[0]) for instance, gpu in units]),
        switch=_numbered([gpu // max(rails.sharing) for gpu in meets]),
        shares=Shares(
            min(each, rails.sharing[0]), rails.spread(each, rails.sharing[1]), rails.spread(each, max(rails.sharing))
        ),
        sharing=rails.sharing,
        nics=(on_rail(network, SIDES[0]), on_rail(network, SIDES[1])),
        crosses=hops_between(network) > 2,
        pinned=cabling.pinned,
        slow=_slow(deployment, cabling, [range(gpu, gpu + each) for _, gpu in units], rail),
    )


def _numbered(keys: Sequence[Any]) -> tuple[int, ...]:
    """The place of every key among all different ones, in order."""
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    return tuple(places[key] for key in keys)


def _slow(
    deployment: Afd, cabling: Cabling, gpus: Sequence[range], rail: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factors of the NICs of every attention unit, whose GPUs are given, and of every FFN instance and port."""
    rails, units = rails_between(deployment, cabling), len(gpus) // deployment.attention.instances
    own = [sorted({gpu // rails.sharing[0] for gpu in each}) for each in gpus]
    met: dict[int, set[int]] = {}
    for each, port in zip(gpus, rail, strict=True):
        met.setdefault(port, set()).update(gpu % rails.met // rails.sharing[1] for gpu in each)
    return (
        tuple(cabling.factor("attention", unit // units, nics) for unit, nics in enumerate(own)),
        tuple(
            cabling.factor("ffn", instance, sorted(met[port]))
            for instance in range(deployment.ffn.instances)
            for port in sorted(met)
        ),
    )


# ports ---------------------------------------------------------------------------------------------------------------


def wired(rails: Fabric, groups: list[range], ffns: int, *, alone: bool, first_lane: int, draws: int) -> Wiring:
    """Copies of every group's dispatch (route 2g) and combine (2g + 1), by the ports that they leave and reach."""
    units = groups[-1].stop
    leaves, reaches, ports = _wires(units, ffns) if alone else _plugs(rails, units, ffns)
    servers = range(units, units + ffns)
    routes = [_pairs(*ends) for group in groups for ends in ((group, servers), (servers, group))]
    found = [sorted((leaves(*pair), place, *pair) for place, pair in enumerate(pairs)) for pairs in routes]
    copies = [(route, port, a, b) for route, rows in enumerate(found) for port, _, a, b in rows]
    taking = sorted((route, reaches(a, b), x, b) for x, (route, _, a, b) in enumerate(copies))
    crossing = _crossing(rails, copies) if rails.crosses and not alone else []
    leaving = _legs([(route, a, port) for route, port, a, _ in copies])
    arriving, crossings = _arrivals(taking), _legs([(route, rail) for route, rail, _ in crossing])
    spans = [
        tuple(end for legs in (leaving, arriving, crossings) for end in _span(legs, r)) for r in range(len(routes))
    ]
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
        ports=ports,
        sharing=rails.sharing,
        queued=not alone and len(set(rails.port)) < units,
        slow=np.zeros((0, 2)) if alone else _factors(rails, ends),
        crossings=np.array([_hop(*leg) for leg in crossings], dtype=np.int64).reshape(-1, 4),
        across=np.array([x for _, _, x in crossing], dtype=np.int64),
        between=0.0,
        further=np.uint64(0),
        servers=len(UPLINKS) * (max(rails.switch) + 1) if crossing else 0,
    )


def _wires(units: int, ffns: int) -> tuple[Meets, Meets, tuple[int, int]]:
    """A wire for every pair: its end at the sender, at the receiver, and how many of both there are."""

    def leaves(sender: int, receiver: int) -> int:
        return (
            sender * ffns + receiver - units if sender < units else units * ffns + (sender - units) * units + receiver
        )

    return leaves, lambda _, receiver: receiver, (2 * units * ffns, units + ffns)


def _plugs(rails: Fabric, units: int, ffns: int) -> tuple[Meets, Meets, tuple[int, int]]:
    """Port that a pair's copies leave through, port that they reach, and how many of both there are."""
    own, pinned = max(rails.port) + 1, rails.pinned

    def leaves(sender: int, receiver: int) -> int:
        if sender < units:
            return rails.port[sender] * pinned + (receiver - units) % pinned
        port = own + (sender - units) * rails.rails + rails.rail[receiver]
        return port * pinned + rails.instance[receiver] % pinned

    def reaches(sender: int, receiver: int) -> int:
        return rails.port[receiver] if receiver < units else own + (receiver - units) * rails.rails + rails.rail[sender]

    ports = own + ffns * rails.rails
    return leaves, reaches, (ports * pinned, ports)


def _factors(rails: Fabric, ends: list[tuple[int, int, bool]]) -> np.ndarray:
    """Factors of every copy's seconds on the NICs of its sender and its receiver; none where all are 1."""
    attention, ffn = rails.slow
    sides = [(attention[u], ffn[f * rails.rails + rails.rail[u]]) for u, f, _ in ends]
    rows = np.array([pair[::-1] if back else pair for pair, (_, _, back) in zip(sides, ends, strict=True)])
    return rows if (rows != 1.0).any() else np.zeros((0, 2))


def _crossing(rails: Fabric, copies: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    """(route, rail, copy) of all copies, rail by rail."""
    return sorted((route, rails.switch[min(a, b)], x) for x, (route, _, a, b) in enumerate(copies))


def _hop(route: int, rail: int, low: int, high: int) -> tuple[int, int, int, int]:
    """(uplink, downlink, low, high) of a rail of a route."""
    server = len(UPLINKS) * rail + 2 * (route % 2)
    return server, server + 1, low, high


def _pairs(senders: range, receivers: range) -> list[tuple[int, int]]:
    return [(a, b) for a in senders for b in receivers]


def _legs(ends: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """(route, ..., low, high) of every run of equal (route, ...)."""
    legs, low = [], 0
    for key, run in groupby(ends):
        high = low + len(list(run))
        legs.append((*key, low, high))
        low = high
    return legs


def _arrivals(taking: list[tuple[int, int, int, int]]) -> list[tuple[int, ...]]:
    """(route, unit, port, low, high) of every port; ranks that share it but for the first have none of its copies."""
    legs: list[tuple[int, ...]] = []
    for route, port, low, high in _legs([copy[:2] for copy in taking]):
        first, *others = sorted({unit for *_, unit in taking[low:high]})
        legs += [(route, first, port, low, high), *((route, unit, port, high, high) for unit in others)]
    return legs


def _span(legs: Sequence[tuple[int, ...]], route: int) -> tuple[int, int]:
    """First and last leg of a route; (0, 0) if it has none."""
    places = [place for place, leg in enumerate(legs) if leg[0] == route]
    return (places[0], places[-1] + 1) if places else (0, 0)
