"""The command `afdsim verify`: whether a saved result is what its scenario and seed give, or the verification suite."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from afdsim.cli.tables import AS_JSON
from afdsim.errors import ScenarioError

if TYPE_CHECKING:
    from afdsim.studies.verifying import Difference, Verified

DIFFERS = 1
"""Exit code."""
SHOWN = 20
"""Differences that are told one by one."""


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(verify)


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@AS_JSON
def verify(folder: Path | None, as_json: bool) -> None:
    """Run the result saved in DIR again and say whether it is identical, or what differs and by how much.

    Every seed runs with its engine; all frames and figures are compared bit for bit. Exit code 1 where any differs.
    Without DIR the verification suite of the checkout runs: afdsim against closed forms and other simulators.
    """
    if folder is None:
        raise click.exceptions.Exit(_suite(as_json=as_json))
    from afdsim.results.result import to_json
    from afdsim.studies.verifying import verify as run_again

    found = run_again(folder)
    click.echo(to_json(found.to_dict()) if as_json else "\n".join(_lines(found)), nl=not as_json)
    if not found.identical:
        raise click.exceptions.Exit(DIFFERS)


def _suite(*, as_json: bool) -> int:
    """Run the suite of the checkout that this package is in; returns its exit code."""
    import afdsim

    root = Path(afdsim.__file__).parent.parent
    if not (root / "verification" / "__main__.py").is_file():
        raise ScenarioError(
            "the verification suite is no part of the installed package: run 'make verify' in a checkout of the "
            "repository, or 'afdsim verify DIR' to check a saved result"
        )
    out = Path.cwd() / "results" / "verification"
    words = [sys.executable, "-m", "verification", "-o", str(out), *(["--json"] if as_json else [])]
    return subprocess.run(words, cwd=root, check=False).returncode


def _lines(found: Verified) -> Iterator[str]:
    seeds = f"seed{'s' if len(found.seeds) > 1 else ''} {', '.join(map(str, found.seeds))}"
    head = f"{found.folder}  {found.scenario}, {seeds}"
    for each in found.origin:
        yield f"not as it was: {each.figure.removeprefix('packages.')} {_shown(each.saved)}, now {_shown(each.again)}"
    if found.identical:
        yield f"{head}: identical ({found.compared:,} values, bit for bit)"
        return
    worst = max((each.relative for each in found.differences if each.relative is not None), default=None)
    far = "" if worst is None else f", at most {worst:.2g} of a value"
    yield f"{head}: differs in {len(found.differences)} of {found.compared:,} figures and columns{far}"
    yield from (f"  {_told(each)}" for each in found.differences[:SHOWN])
    if len(found.differences) > SHOWN:
        yield f"  and {len(found.differences) - SHOWN} more (--json tells all)"


def _told(each: Difference) -> str:
    rows = "" if each.rows is None else f" in {each.rows:,} row{'s' if each.rows > 1 else ''}, most"
    far = "" if each.relative is None else f"  ({each.relative:.2g})"
    return f"{each.file} {each.figure}{rows}: {_shown(each.saved)}, now {_shown(each.again)}{far}"


def _shown(value: object) -> str:
    return "absent" if value in (None, "") else str(value)
