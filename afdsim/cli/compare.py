"""The command `afdsim compare`: deployments side by side under one workload."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from afdsim.cli.completion import scenario_names
from afdsim.cli.folders import check_folder, save
from afdsim.cli.scenarios import STRICT
from afdsim.errors import ScenarioError

if TYPE_CHECKING:
    from afdsim.scenario.document import Scenario


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(compare)


@click.command()
@click.argument("scenarios", metavar="SCENARIO SCENARIO [...]", nargs=-1, required=True, shell_complete=scenario_names)
@click.option(
    "--set",
    "overrides",
    metavar="PATH=VALUE",
    multiple=True,
    help="Change one value of every scenario, or of the workload, sla or run that all have from the first; repeat.",
)
@click.option("--set-a", metavar="PATH=VALUE", multiple=True, help="Change one value of the first; repeat.")
@click.option("--set-b", metavar="PATH=VALUE", multiple=True, help="Change one value of the second; repeat.")
@click.option("--seeds", type=click.IntRange(1, 100_000), metavar="N", help="Run seeds 0 to N-1; more give intervals.")
@click.option(
    "--no-tune",
    is_flag=True,
    help="Do not search for a better overlap and batch, told where it gives over 2% more tokens or meets the SLA.",
)
@STRICT
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Save table, JSON and figures here.")
@click.option("--force", is_flag=True, help="Write into a folder that holds something else.")
@click.option("--json", "as_json", is_flag=True, help="Print the summaries and differences as JSON.")
def compare(  # noqa: PLR0917 - click passes one argument per option
    scenarios: tuple[str, ...],
    overrides: tuple[str, ...],
    set_a: tuple[str, ...],
    set_b: tuple[str, ...],
    seeds: int | None,
    no_tune: bool,
    strict: bool,
    folder: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run deployments side by side under the first one's workload, SLA and run.

    \b
    afdsim compare step3_2a2f_4k dsv3_ep128_4k -o out/
    afdsim compare step3_poisson step3_poisson --set-b deployment.attention.instances=3
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with a backspace
    from afdsim.results.ink import Ink
    from afdsim.results.result import to_json
    from afdsim.studies.comparison import compare as run

    if folder is not None:
        check_folder(folder, "compare.json", "comparison", force=force)
    _refuse_shared(set_b)
    loaded = _loaded(scenarios, overrides, set_a, set_b)
    many = range(seeds) if seeds else None
    if strict:
        _refuse_beyond(loaded, many)
    found = run(*loaded, seeds=many, tune=not no_tune)
    ink = Ink(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ, unicode=True)
    click.echo(to_json(found.to_dict()) if as_json else found.text(ink), nl=not as_json)
    if folder is not None:
        save(found.save, folder)


def _loaded(
    scenarios: tuple[str, ...], overrides: tuple[str, ...], set_a: tuple[str, ...], set_b: tuple[str, ...]
) -> list[Scenario]:
    """Return the scenarios with their changes; the first may change what all have from it."""
    from afdsim.scenario.document import load
    from afdsim.studies.comparison import SHARED

    first = (*overrides, *set_a)
    shared = tuple(change for change in first if _part(change) in SHARED)
    apart = tuple(change for change in overrides if _part(change) not in SHARED)
    own = [(*apart, *set_b), *(apart,) * len(scenarios)]
    others = zip(scenarios[1:], own, strict=False)
    return [load(scenarios[0], overrides=first), *(_other(name, changes, shared) for name, changes in others)]


def _other(name: str, changes: tuple[str, ...], shared: tuple[str, ...]) -> Scenario:
    """Return a scenario after the first; changes of what all share are made to it too where its own allows them."""
    from afdsim.scenario.document import load

    try:
        return load(name, overrides=(*changes, *shared))
    except ScenarioError:
        return load(name, overrides=changes)


def _refuse_beyond(loaded: Sequence[Scenario], seeds: Iterable[int] | None) -> None:
    """Refuse requests of the first one's workload that are longer than any of the models was made for."""
    from afdsim.simulation import refuse_beyond
    from afdsim.studies.comparison import under_one_workload

    for scenario in under_one_workload(loaded)[0].values():
        refuse_beyond(scenario, seeds)


def _refuse_shared(changes: tuple[str, ...]) -> None:
    """Refuse changes of the second scenario to what all have from the first."""
    from afdsim.studies.comparison import SHARED

    for change in changes:
        if (part := _part(change)) in SHARED:
            raise ScenarioError(
                f"--set-b {change}: all have their {part} from the first scenario; use --set or --set-a"
            )


def _part(change: str) -> str:
    """Return the part of a scenario that ``PATH=VALUE`` changes."""
    return change.partition("=")[0].partition(".")[0].strip()
