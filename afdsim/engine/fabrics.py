"""What a scenario says of NICs and uplinks, as cabling, as seconds of a row on its way, and as counters of NICs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from afdsim.catalog.hardware import Gpu
from afdsim.cluster.deployment import Afd
from afdsim.cluster.topology import SIDES, Cabling, Fabric
from afdsim.engine.cell import Array, LinkRow
from afdsim.scenario.tree import Network

Hop = tuple[tuple[float, float], tuple[int, int]]
"""On the attention and on the FFN side: bytes/s, and GPUs of an attention unit whose rows cross it."""


def cabling(network: Network) -> Cabling:
    """Return what differs from one whole NIC a GPU under one switch a rail."""
    nics = network.nics_per_instance
    return Cabling(
        nics=(nics.attention, nics.ffn) if nics else (None, None),
        uplinks=network.uplinks is not None,
        pinned=1 if network.link.split else network.link.ports,
        degraded=network.degraded,
    )


def hops(network: Network, fabric: Fabric, gpus: tuple[Gpu, Gpu]) -> list[Hop]:
    """Return what a message crosses: the ports of the NICs, and the uplinks where there are any.

    A NIC achieves `efficiency` of its line rate, and a queue pair that keeps to one port of two half of that; an uplink
    carries its line rate, as what a NIC falls short of its own is the NIC's.
    """
    shares, uplinks = fabric.shares, network.uplinks
    attention, ffn = (network.link.bandwidth or gpu.nic.bandwidth for gpu in gpus)
    achieved = network.efficiency / fabric.pinned
    found: list[Hop] = [((attention * achieved, ffn * achieved), (shares.attention, shares.ffn))]
    if uplinks is not None:
        over = uplinks.oversubscription or 1.0
        up, down = (uplinks.bandwidth or n * line / over for n, line in zip(fabric.nics, (attention, ffn), strict=True))
        found.append(((up, down), (shares.rail, shares.rail)))
    return found


def counters(
    afd: Afd, sharing: tuple[int, int], rank_tokens: Array, passes: int, per_token: tuple[float, float]
) -> list[LinkRow]:
    """Return what every NIC sent and took in `passes` passes of `rank_tokens`; bytes of a token out and back."""
    return per_nic(
        [*_attention(afd, rank_tokens, passes, per_token), *_ffn(afd, rank_tokens, passes, per_token)], sharing
    )


def _attention(afd: Afd, rank_tokens: Array, passes: int, per_token: tuple[float, float]) -> Iterator[LinkRow]:
    """Yield the counters of every attention GPU: of its part of its rank's rows, once for every FFN instance."""
    pool, peers = afd.attention, afd.ffn.instances
    for server in range(pool.instances):
        for rank in range(pool.dp):
            sent = rank_tokens[server * pool.dp + rank] * peers / pool.tp
            for part in range(pool.tp):
                place = ("attention", server, rank * pool.tp + part)
                yield (*place, "egress", passes * peers, sent * per_token[0])
                yield (*place, "ingress", passes * peers, sent * per_token[1])


def _ffn(afd: Afd, rank_tokens: Array, passes: int, per_token: tuple[float, float]) -> Iterator[LinkRow]:
    """Yield the counters of every FFN GPU: of the rows of its rail."""
    attention, gpus = afd.attention, afd.ffn.gpus_per_instance
    rails = min(attention.gpus_per_instance, gpus)
    met, peers = np.zeros(gpus), np.zeros(gpus, dtype=int)
    for rank, tokens_of in enumerate(rank_tokens):
        for part in range(attention.tp):
            nic = (rank % attention.dp * attention.tp + part) % rails
            met[nic] += tokens_of / attention.tp
            peers[nic] += 1
    for instance in range(afd.ffn.instances):
        for nic in range(gpus):
            messages = int(passes * peers[nic])
            yield ("ffn", instance, nic, "ingress", messages, float(met[nic] * per_token[0]))
            yield ("ffn", instance, nic, "egress", messages, float(met[nic] * per_token[1]))


def per_nic(rows: Sequence[LinkRow], sharing: tuple[int, int]) -> list[LinkRow]:
    """Return the counters of GPUs (attention, then FFN) as those of the NICs that so many of them share."""
    gpus, found = dict(zip(SIDES, sharing, strict=True)), dict[tuple[str, int, int, str], tuple[int, float]]()
    for side, instance, gpu, direction, messages, nbytes in rows:
        key = (side, instance, gpu // gpus[side], direction)
        known = found.get(key, (0, 0.0))
        found[key] = known[0] + messages, known[1] + nbytes
    return [(*key, *counted) for key, counted in found.items()]
