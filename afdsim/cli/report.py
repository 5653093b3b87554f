"""The command `afdsim report`: folders of answers as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from afdsim.errors import ScenarioError, SimulationError


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(report)


@click.command()
@click.argument("folders", metavar="DIR [DIR ...]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path),
    help="File to write: default DIR/report.html; of several folders ./report.html.",
)
def report(folders: tuple[Path, ...], file: Path | None) -> None:
    """Write what folders hold as one HTML page that needs no network.

    \b
    afdsim report results/run                 of a run, sweep, comparison, plan or capacity
    afdsim report out/afd out/ep -o both.html runs over one another
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with a backspace
    from afdsim.results.result import REPORT
    from afdsim.results.whole import write_text
    from afdsim.studies.reporting import report as made

    path = file or (folders[0] / REPORT if len(folders) == 1 else Path(REPORT))
    if path.is_dir():
        raise ScenarioError(f"{path} is a folder; -o takes a file")
    html = str(made(*folders))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, html)
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from None
    click.echo(path)
    click.echo(f"{len(html.encode()) / 1e3:,.0f} kB; open it in a browser", err=True)
