"""Scenario -> cell, whatever kind of deployment it asks for."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.memory import host_link
from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.engine import afd, colocated
from afdsim.engine import sessions as between
from afdsim.engine.cell import Cell
from afdsim.engine.seats import FOREVER, UNBOUNDED, Keeping
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario

KINDS = MappingProxyType({"keep": between.KEEP, "offload": between.OFFLOAD, "drop": between.DROP})
"""What becomes of KV cache between two turns."""


def deployment(scenario: Scenario) -> Afd | Colocated:
    """Return the deployment that a scenario asks for, with catalog entries in place of names."""
    afd_ = isinstance(scenario.deployment, tree.Afd)
    return _in_blocks(afd.deployment(scenario) if afd_ else colocated.deployment(scenario), scenario)


def lower(scenario: Scenario, *, seed: int, cost: CostModel | None = None, network: Network | None = None) -> Cell:
    """Tabulate everything about a scenario that does not change while it runs."""
    if isinstance(scenario.deployment, tree.Afd):
        cell = afd.lower(scenario, seed=seed, cost=cost, network=network)
    else:
        cell = colocated.lower(scenario, seed=seed, cost=cost)
    return replace(cell, deployment=_in_blocks(cell.deployment, scenario), keeping=_keeping(scenario, cell))


def _in_blocks(found: Afd | Colocated, scenario: Scenario) -> Afd | Colocated:
    """Count the KV cache of a deployment in the blocks that a scenario asks for."""
    return found if scenario.kv_cache is None else replace(found, kv_block=scenario.kv_cache.block)


def _keeping(scenario: Scenario, cell: Cell) -> Keeping:
    """How a scenario has KV cache given out."""
    asked, prefix = scenario.kv_cache, scenario.workload.prefix
    if asked is None:
        return _conversing(cell.keeping, scenario, cell)
    swaps = asked.preemption == "swap"
    copies = _host_link(scenario, cell)
    pace = copies if swaps else asked.reprefill_rate or FOREVER
    alike = (0, 0) if prefix is None else (prefix.tokens, prefix.groups)
    if scenario.workload.samples is not None:
        alike = (UNBOUNDED, 0)
    found = Keeping(asked.block, asked.policy == "grow", swaps, pace, cell.queries, *alike)
    return _conversing(found, scenario, cell)


def _host_link(scenario: Scenario, cell: Cell) -> float:
    """Bytes per second between a GPU and host memory."""
    asked = scenario.kv_cache
    return (asked and asked.host_bandwidth) or host_link(cell.deployment.attention.gpu)


def _conversing(keeping: Keeping, scenario: Scenario, cell: Cell) -> Keeping:
    """The same, with what becomes of KV cache between the turns of a session."""
    sessions, asked = scenario.workload.sessions, scenario.kv_cache
    if sessions is None:
        return keeping
    again = (asked and asked.reprefill_rate) or FOREVER
    return keeping._replace(between=KINDS[sessions.kv], again=again, link=_host_link(scenario, cell))
