"""The command `afdsim compare`: deployments side by side under one workload."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from afdsim.errors import SimulationError


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(compare)


@click.command()
@click.argument("scenarios", metavar="SCENARIO SCENARIO [...]", nargs=-1, required=True)
@click.option(
    "--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value of every scenario; repeat."
)
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Run seeds 0 to N-1; more give intervals.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Save table, JSON and figures here.")
@click.option("--json", "as_json", is_flag=True, help="Print the summaries and differences as JSON.")
def compare(
    scenarios: tuple[str, ...], overrides: tuple[str, ...], seeds: int | None, folder: Path | None, as_json: bool
) -> None:
    r"""Run deployments side by side under the first one's workload, limit and seeds.

    \b
    afdsim compare step3_2a2f_4k dsv3_ep128_4k -o out/
    """
    from afdsim.results.result import to_json
    from afdsim.results.terminal import Ink
    from afdsim.scenario.document import load
    from afdsim.studies.comparison import compare as run

    found = run(*(load(each, overrides=overrides) for each in scenarios), seeds=range(seeds) if seeds else None)
    ink = Ink(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ, unicode=True)
    click.echo(to_json(found.to_dict()) if as_json else found.text(ink), nl=not as_json)
    if folder is not None:
        try:
            found.save(folder)
        except OSError as error:
            raise SimulationError(f"{folder}: cannot be written: {error.strerror or error}") from None
        except ImportError:
            raise SimulationError("figures need matplotlib: pip install 'afdsim[report]'") from None
        click.echo(f"saved {folder}", err=True)
