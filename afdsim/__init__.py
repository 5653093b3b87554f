"""Discrete-event simulation of LLM decode clusters with attention-FFN disaggregation.

>>> import afdsim
>>> afdsim.load("small").name
'small'

Names are resolved on first use, so that ``import afdsim`` costs nothing:

{names}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers read of the table below
    from afdsim import chrome as chrome
    from afdsim import plot as plot
    from afdsim import timeline as timeline
    from afdsim.errors import AfdsimError as AfdsimError
    from afdsim.errors import CapacityError as CapacityError
    from afdsim.errors import CatalogError as CatalogError
    from afdsim.errors import ModelError as ModelError
    from afdsim.errors import ScenarioError as ScenarioError
    from afdsim.errors import SimulationError as SimulationError
    from afdsim.results.result import Result as Result
    from afdsim.scenario.document import Scenario as Scenario
    from afdsim.scenario.document import load as load
    from afdsim.simulation import simulate as simulate
    from afdsim.studies.capacity import capacity as capacity
    from afdsim.studies.comparison import compare as compare
    from afdsim.studies.planner import plan as plan
    from afdsim.studies.resizing import resize as resize
    from afdsim.studies.sweeps import sweep as sweep
    from afdsim.studies.tuning import tune as tune

__version__ = "0.1.0"

_TABLE = (
    (
        "A scenario and its run",
        (
            ("load", "scenario.document", "(source, overrides)", "a scenario from a shipped name, a file or a dict"),
            ("Scenario", "scenario.document", ".vary(path, value)", "one YAML file as a frozen tree"),
            ("simulate", "simulation", "(scenario, seed, ...)", "run a scenario once"),
            (
                "Result",
                "results.result",
                ".load(folder)",
                "what a run gives: columns, a summary, figures; saved and read back",
            ),
        ),
    ),
    (
        "Many runs",
        (
            ("sweep", "studies.sweeps", "(base, over, ...)", "every point of a grid of values, as one table"),
            ("compare", "studies.comparison", "(*scenarios, ...)", "deployments side by side under one workload"),
            ("capacity", "studies.capacity", "(scenario, ...)", "the largest rate, or batch, that meets the SLA"),
            ("tune", "studies.tuning", "(scenario, ...)", "the best way to run one deployment, by a quick search"),
            ("plan", "studies.planner", "(model, ..., gpus)", "the best deployment for a budget of GPUs"),
            ("resize", "studies.resizing", "(scenario, ...)", "the smallest change when the workload moves"),
        ),
    ),
    (
        "Pictures",
        (
            ("plot", "", ".<TAB>", "figures of runs and sweeps"),
            ("timeline", "", ".<TAB>", "who did what when in a part of a run"),
            ("chrome", "", ".<TAB>", "a timeline as a Chrome trace"),
        ),
    ),
    (
        "Errors",
        (
            ("AfdsimError", "errors", "", "the base of them all"),
            ("ScenarioError", "errors", "", "a scenario that cannot be"),
            ("CapacityError", "errors", "", "weights or caches that do not fit"),
            ("CatalogError", "errors", "", "a GPU, a model or a coefficient that is not known"),
            ("ModelError", "errors", "", "a cost or network model of one's own that gives no seconds"),
            ("SimulationError", "errors", "", "a run that cannot go on"),
        ),
    ),
)
"""Headings; under each the public names, the room that defines them (none for a public module), how they are begun, and
what they are."""

_HOME = tuple((name, room) for _, rows in _TABLE for name, room, *_ in rows)
"""Public name, room that defines it (none for a public module)."""

__all__ = sorted(  # noqa: PLE0605 - it comes from the table
    ("__version__", *(name for name, _ in _HOME)), key=lambda name: (not name[0].isupper(), name)
)

__doc__ = (__doc__ or "").format(
    names="\n\n".join(
        "\n".join([heading, "-" * len(heading), *(f"{name + call:<32}{what}" for name, _, call, what in rows)])
        for heading, rows in _TABLE
    )
)


def __getattr__(name: str) -> object:
    """Import the room of a public name when it is first asked for."""
    from importlib import import_module

    for public, room in _HOME:
        if public == name:
            return getattr(import_module(f"afdsim.{room}"), name) if room else import_module(f"afdsim.{name}")
    raise AttributeError(f"module 'afdsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, whether they are resolved or not, and what every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
