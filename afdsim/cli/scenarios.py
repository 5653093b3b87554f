"""What the commands about one scenario share: their options, how it is loaded and when it is refused, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from afdsim.errors import ScenarioError

if TYPE_CHECKING:
    from afdsim.scenario.document import Scenario

SCENARIO = click.argument("scenario", metavar="SCENARIO")
SET = click.option(
    "--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value, e.g. run.seeds='[1, 2]'; repeat."
)
STRICT = click.option("--strict", is_flag=True, help="Refuse requests longer than the model was made for.")


def load_noted(scenario: str, overrides: tuple[str, ...], *, strict: bool = False) -> Scenario:
    """Return the scenario, what may surprise in it told; with `strict` refuse requests beyond what its model can."""
    from afdsim.scenario.document import load

    loaded = load(scenario, overrides=overrides)
    for note in loaded.notes:
        warn(note)
    if strict:
        _refuse_beyond(loaded)
    return loaded


def _refuse_beyond(scenario: Scenario) -> None:
    """Raise `ScenarioError` where a request is longer than the model was made for."""
    from afdsim.results.remarks import beyond
    from afdsim.simulation import counted, requested

    for seed in scenario.run.seeds:
        source = requested(scenario, seed)
        for text in beyond(scenario, source, counted(scenario, source)):
            at = scenario.where("workload")
            raise ScenarioError(f"{at}: workload: {text}; --strict refuses that".removeprefix(": "))


def warn(text: str) -> None:
    """Tell something on stderr."""
    click.echo(f"{click.style('warning', fg='yellow')}: {text}", err=True)
