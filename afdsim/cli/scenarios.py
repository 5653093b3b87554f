"""What the commands about scenarios share: their options, how it is loaded and when it is refused, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from afdsim.cli.completion import scenario_names
from afdsim.units import printable

if TYPE_CHECKING:
    from afdsim.scenario.document import Scenario

SCENARIO = click.argument("scenario", metavar="SCENARIO", shell_complete=scenario_names)
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
        _hold_to_its_length(loaded)
    return loaded


def _hold_to_its_length(scenario: Scenario) -> None:
    """Refuse requests longer than the model was made for, or say that nothing tells how long that is."""
    from afdsim.catalog import entries as catalog
    from afdsim.simulation import refuse_beyond

    if (llm := catalog.llm(scenario.model)).positions is None:
        warn(f"--strict: nothing says for how many tokens {llm.name} was made")
    refuse_beyond(scenario)


def warn(text: str) -> None:
    """Tell something on stderr."""
    click.echo(f"{click.style('warning', fg='yellow')}: {printable(text)}", err=True)
