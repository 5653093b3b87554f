"""Scenario -> cell, whatever kind of deployment it asks for."""

from __future__ import annotations

from dataclasses import replace

from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.memory import host_link
from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.engine import afd, colocated
from afdsim.engine.cell import Cell
from afdsim.engine.seats import FOREVER, Keeping
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario


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
        return cell.keeping
    swaps = asked.preemption == "swap"
    copies = asked.host_bandwidth or host_link(cell.deployment.attention.gpu)
    pace = copies if swaps else asked.reprefill_rate or FOREVER
    alike = (0, 0) if prefix is None else (prefix.tokens, prefix.groups)
    return Keeping(asked.block, asked.policy == "grow", swaps, pace, cell.queries, *alike)
