"""The command `afdsim init`: a commented file to edit, of a scenario or of a sweep, with the schema beside it."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from afdsim.errors import ScenarioError, SimulationError

KINDS = ("afd", "colocated", "prefill")
SCHEMA = "afdsim.schema.json"
"""Name of the JSON schema that editors check and complete scenarios with, beside them."""
MODELINE = f"# yaml-language-server: $schema={SCHEMA}\n"
"""First line of a scenario, by which editors find the schema."""


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(init)
    group.add_command(schema)


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--kind", type=click.Choice(KINDS), help="What the scenario shows; afd if not given.")
@click.option("--from", "name", help="Shipped scenario (or sweep) to copy instead.")
@click.option("--sweep", is_flag=True, help="Write a sweep file: axes of values around a scenario.")
def init(path: Path | None, kind: str | None, name: str | None, sweep: bool) -> None:
    """Write a commented scenario, or sweep, to PATH.

    PATH is scenario.yaml (my.sweep.yaml) if not given; a file that exists is never overwritten. The JSON schema for
    editors is put beside a scenario.
    """
    if kind is not None and (name is not None or sweep):
        raise ScenarioError(f"--kind writes a scenario of its own; leave out {'--sweep' if sweep else '--from'}")
    path = path or Path("my.sweep.yaml" if sweep else "scenario.yaml")
    command, other = ("sweep", "other.sweep.yaml") if sweep else ("run", "other.yaml")
    _write(path, _text(path, kind, name, sweep), f"afdsim init {'--sweep ' if sweep else ''}{other}")
    if not sweep:
        write_schema(path.with_name(SCHEMA))
    click.echo(f"wrote {path}; next: afdsim {command} {path}")


def _text(path: Path, kind: str | None, name: str | None, sweep: bool) -> str:
    """Return what the file is to hold."""
    from importlib.resources import files

    from afdsim.scenario.document import locate
    from afdsim.studies.grid import find

    if sweep:
        return find(name or "ratio").read_text(encoding="utf-8")
    if name is not None:
        return MODELINE + locate(name).read_text(encoding="utf-8").removeprefix(MODELINE)
    template = files("afdsim").joinpath("data", "init", f"{kind or 'afd'}.yaml").read_text(encoding="utf-8")
    return MODELINE + (template.replace("FILE", shlex.quote(str(path))) if str(path).isprintable() else template)


def _write(path: Path, text: str, otherwise: str) -> None:
    """Write a new file; the message about one that exists ends with the command `otherwise`."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ScenarioError(f"{path} exists and is kept; give another name: {otherwise}") from None
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from None


@click.command()
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help=f"Write it there, e.g. {SCHEMA}.")
def schema(path: Path | None) -> None:
    """Print the JSON schema of scenarios, for editors.

    A scenario names it in its first line: `# yaml-language-server: $schema=afdsim.schema.json`.
    """
    if path is None:
        click.echo(_schema(), nl=False)
        return
    write_schema(path)
    click.echo(f"wrote {path}")


def write_schema(path: Path) -> None:
    """Write the schema, in place of an older one."""
    try:
        path.write_text(_schema(), encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from None


def _schema() -> str:
    import json

    from afdsim.scenario.document import schema as described

    return json.dumps(described(extending=True), indent=2) + "\n"
