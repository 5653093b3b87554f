"""Folders that answers of several runs are saved in, and what is told while one waits for such an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from afdsim.cli.scenarios import warn
from afdsim.cli.stopping import StoppedError, code
from afdsim.errors import ScenarioError, SimulationError


def check_folder(folder: Path, holds: str, what: str, *, force: bool) -> None:
    """Refuse a folder that holds something else than `what`, which is known by the file `holds`."""
    from afdsim.results.whole import vacant

    if folder.exists() and not folder.is_dir():
        raise ScenarioError(f"{folder} is a file; -o takes a folder")
    if not force and not vacant(folder) and not (folder / holds).is_file():
        raise ScenarioError(f"{folder} exists and holds no {what}; -o or --force")


def save(write: Callable[[Path], Iterable[Path] | Path], folder: Path, *, page: bool = True) -> None:
    """Have an answer written, and a page about it, and tell where they are; with the scenarios that it comes with."""
    try:
        written = write(folder)
        if page:
            report(folder)
    except OSError as error:
        raise SimulationError(f"{folder}: cannot be written: {error.strerror or error}") from None
    except KeyboardInterrupt as error:
        raise StoppedError(f"{folder} is not whole: the same again writes it", code=code(error)) from None
    except ImportError:
        raise SimulationError("figures need matplotlib: pip install 'afdsim[report]'") from None
    files = () if isinstance(written, Path) else written
    click.echo("\n".join([f"saved {folder}", *(f"  afdsim run {file}" for file in files)]), err=True)


def report(folder: Path) -> bool:
    """Write the page about what a folder holds; False where what draws it is not installed."""
    from afdsim.studies import reporting

    try:
        reporting.write(folder)
    except SimulationError as error:
        warn(str(error))
        return False
    return True


def trying(text: str) -> None:
    """Tell on a terminal what is being tried, in place of what was before."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text and f'trying {text}'}", nl=False, err=True)
