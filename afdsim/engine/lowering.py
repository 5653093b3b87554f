"""Scenario -> cell, whatever kind of deployment it asks for."""

from __future__ import annotations

from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.engine import afd, colocated
from afdsim.engine.cell import Cell
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario


def deployment(scenario: Scenario) -> Afd | Colocated:
    """Return the deployment that a scenario asks for, with catalog entries in place of names."""
    if isinstance(scenario.deployment, tree.Afd):
        return afd.deployment(scenario)
    return colocated.deployment(scenario)


def lower(scenario: Scenario, *, seed: int, cost: CostModel | None = None, network: Network | None = None) -> Cell:
    """Tabulate everything about a scenario that does not change while it runs."""
    if isinstance(scenario.deployment, tree.Afd):
        return afd.lower(scenario, seed=seed, cost=cost, network=network)
    return colocated.lower(scenario, seed=seed, cost=cost)
