"""The servers of a deployment, and what of a network fits those of AFD: NICs that it names, and how GPUs share them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from afdsim.scenario.leaves import got
from afdsim.scenario.part import Fault
from afdsim.scenario.tree import Afd, AttentionPool, Colocated, Deployment, FfnPool, Network, TensorParallel


class Servers(NamedTuple):
    """The instances of a role, and what each of them has."""

    instances: int
    gpus: int
    nics: int


def servers(deployment: Deployment, network: Network) -> dict[str, Servers]:
    """Return the servers of every role, by the name that stragglers use; one NIC a GPU unless the network says less."""
    match deployment:
        case Afd():
            pools: dict[str, AttentionPool | FfnPool] = {"attention": deployment.attention, "ffn": deployment.ffn}
            sizes = {side: (pool.instances, pool.gpus_per_instance) for side, pool in pools.items()}
            return {side: Servers(*size, _nics(network, side) or size[1]) for side, size in sizes.items()}
        case Colocated():
            return {"instance": Servers(deployment.instances, *(deployment.gpus_per_instance,) * 2)}
        case TensorParallel():
            return {"instance": Servers(1, deployment.gpus, deployment.gpus)}


def misfits(network: Network, deployment: Afd) -> Iterator[Fault]:
    """Check what a network names against the instances and GPUs of a deployment."""
    pools = servers(deployment, network)
    gpus, nics = ({side: getattr(each, what) for side, each in pools.items()} for what in ("gpus", "nics"))
    if found := list(_uneven(network, deployment, gpus, nics)):
        yield from found
        return
    for target in network.degraded:
        side, instance, *nic = target.replace("]", "").replace(".nic", "").split("[")
        used = -(-min(gpus.values()) * nics[side] // gpus[side])
        if int(instance) >= pools[side].instances:
            yield f"network.degraded.{target}", f"{side} has instances 0..{pools[side].instances - 1}"
        elif nic and int(nic[0]) >= nics[side]:
            yield f"network.degraded.{target}", f"an {side} instance has NICs 0..{nics[side] - 1}"
        elif nic and int(nic[0]) >= used:
            yield f"network.degraded.{target}", f"carries nothing: NICs 0..{used - 1} meet the GPUs of the other side"


def _nics(network: Network, side: str) -> int | None:
    return getattr(network.nics_per_instance, side) if network.nics_per_instance else None


def _uneven(network: Network, deployment: Afd, gpus: Mapping[str, int], nics: Mapping[str, int]) -> Iterator[Fault]:
    """Check that NICs are shared evenly, by GPUs that meet each other, and lie on rails that are alike."""
    path, tp = "network.nics_per_instance", deployment.attention.parallelism.tp
    for side, count in gpus.items():
        if count % nics[side]:
            yield f"{path}.{side}", f"must divide the {count} GPUs of an {side} instance {got(nics[side])}"
            return
    few, many = sorted(gpus[side] // nics[side] for side in gpus)
    own, met = gpus["attention"] // nics["attention"], min(gpus.values())
    if many % few or met % many:
        yield path, f"{few} and {many} GPUs share a NIC on the two sides, so that GPUs which meet lie on several rails"
    elif own % tp and tp % own:
        yield f"{path}.attention", f"{own} GPUs share a NIC, which splits ranks of {tp} GPUs"
    elif network.uplinks and network.uplinks.oversubscription and any(n % (met // many) for n in nics.values()):
        yield "network.uplinks.oversubscription", f"the {met // many} rails have unequal NICs; give bandwidth instead"
