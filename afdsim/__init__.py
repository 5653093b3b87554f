"""Discrete-event simulation of LLM decode clusters with attention-FFN disaggregation.

>>> import afdsim
>>> afdsim.load("small").name
'small'

Names are resolved on first use, so that ``import afdsim`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from afdsim.errors import AfdsimError, CapacityError, CatalogError, ScenarioError, SimulationError

if TYPE_CHECKING:
    from afdsim.results import plot
    from afdsim.results.result import Result
    from afdsim.scenario.document import Scenario, load
    from afdsim.simulation import simulate
    from afdsim.studies.comparison import compare
    from afdsim.studies.sweeps import sweep

__version__ = "0.1.0"

__all__ = [
    "AfdsimError",
    "CapacityError",
    "CatalogError",
    "Result",
    "Scenario",
    "ScenarioError",
    "SimulationError",
    "__version__",
    "compare",
    "load",
    "plot",
    "simulate",
    "sweep",
]

_HOME = (
    ("Result", "results.result"),
    ("Scenario", "scenario.document"),
    ("compare", "studies.comparison"),
    ("load", "scenario.document"),
    ("plot", ""),
    ("simulate", "simulation"),
    ("sweep", "studies.sweeps"),
)
"""Public name, module that defines it (none for a module itself)."""


def __getattr__(name: str) -> object:
    """Import the module of a public name when it is first asked for."""
    from importlib import import_module

    for public, module in _HOME:
        if public == name:
            found = import_module(f"afdsim.{module or f'results.{name}'}")
            return getattr(found, name) if module else found
    raise AttributeError(f"module 'afdsim' has no attribute {name!r}")
