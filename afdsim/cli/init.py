"""The command `afdsim init`: a commented file to edit, of a scenario or of a sweep."""

from __future__ import annotations

from pathlib import Path

import click

from afdsim.errors import ScenarioError


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(init)


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--from", "name", help="Shipped scenario (or sweep) to copy: step3_2a2f_4k (ratio) if not given.")
@click.option("--sweep", is_flag=True, help="Write a sweep file: axes of values around a scenario.")
def init(path: Path | None, name: str | None, sweep: bool) -> None:
    """Write a commented scenario, or sweep, to PATH.

    PATH is scenario.yaml (my.sweep.yaml) if not given; a file that exists is never overwritten.
    """
    from afdsim.scenario.document import locate
    from afdsim.studies.grid import find

    path = path or Path("my.sweep.yaml" if sweep else "scenario.yaml")
    source = find(name or "ratio") if sweep else locate(name or "step3_2a2f_4k")
    command, other = ("sweep", "other.sweep.yaml") if sweep else ("run", "other.yaml")
    _write(path, source.read_text(encoding="utf-8"), f"afdsim init {'--sweep ' if sweep else ''}{other}")
    click.echo(f"wrote {path}; next: afdsim {command} {path}")


def _write(path: Path, text: str, otherwise: str) -> None:
    """Write a new file; the message about one that exists ends with the command `otherwise`."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ScenarioError(f"{path} exists and is kept; give another name: {otherwise}") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be written: {error.strerror or error}") from None
