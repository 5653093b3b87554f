"""The command `afdsim sweep`: a sweep file in, a folder of table shards out.

Registered by `cli`; like there, every command imports what it needs.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from afdsim.errors import ScenarioError, SimulationError

if TYPE_CHECKING:
    import pandas as pd

    from afdsim.studies.grid import Grid
    from afdsim.studies.sweeps import Sweep

FAILED, INTERRUPTED = 1, 130

MANY = 10_000
"""Simulations that need --yes."""

SHOWN = 40
"""Points of a table on the terminal."""

REASONS = 5
"""Reasons of failures that are told."""

FIGURES = {
    "tgs": ("tok/s/GPU", ",.0f"),
    "tokens_per_s_per_user": ("tok/s/user", ".1f"),
    "mean_tpot_ms": ("TPOT ms", ".2f"),
    "p99_tpot_ms": ("p99 ms", ".2f"),
    "usd_per_1m_output_tokens": ("USD/1M", ".3f"),
}
"""Columns that the terminal shows, their headings and formats."""


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(sweep)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value of the base; repeat.")
@click.option(
    "--workers", type=int, default=None, metavar="N", help="Processes; as many as there are cores by default."
)
@click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster (or its file) that runs the points.")
@click.option("--resume/--no-resume", default=True, help="Take points that were computed before. On by default.")
@click.option("--dry-run", is_flag=True, help="Check everything and say how much there is to do.")
@click.option("--yes", is_flag=True, help=f"Run more than {MANY:,} simulations.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Folder of the table: results/NAME.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of the points: results/points.")
@click.option("--force", is_flag=True, help="Replace a folder that holds something else.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def sweep(  # noqa: PLR0917 - click passes one argument per option
    ctx: click.Context,
    file: Path,
    overrides: tuple[str, ...],
    workers: int | None,
    dask: str | None,
    resume: bool,
    dry_run: bool,
    yes: bool,
    folder: Path | None,
    cache: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Simulate every point of the sweep in FILE.

    Every point is kept as soon as it has finished: run the same command again to go on where an interruption stopped.
    """
    from afdsim.studies import grid, sweeps
    from afdsim.studies.points import Cache

    points = grid.read(file, overrides)
    run = sweeps.Sweep(grid=points, cache=Cache(cache or sweeps.POINTS), resume=resume)
    if dry_run:
        click.echo(_intent(run))
        return
    count = _cores() if workers is None else workers
    folder = folder or Path("results") / points.name
    _check_folder(folder, points, force=force)
    if len(points) > MANY and not yes:
        raise ScenarioError(_estimate(run, count))
    try:
        with _executor(dask, count) as pool, run.resumable():
            _execute(run, pool, folder, quiet=quiet)
    except (KeyboardInterrupt, sweeps.StoppedError) as stopped:
        click.echo(_way_on(stopped, run), err=True)
        ctx.exit(INTERRUPTED)
    if run.tally.failed:
        ctx.exit(FAILED)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _execute(run: Sweep, pool: Executor, folder: Path, *, quiet: bool) -> None:
    """Run the points into the shards of the folder, and show the table where it is short."""
    from afdsim.results import result
    from afdsim.scenario import yamlfile
    from afdsim.studies import sweeps

    folder.mkdir(parents=True, exist_ok=True)
    result.write_text(folder / "sweep.yaml", yamlfile.dump(run.grid.described()))
    with nullcontext() if quiet else sweeps.bar() as report:
        sweeps.write(run.rows(pool, report), run.grid.paths, folder)
    reasons = [] if run.tally.failed == 0 else [f"{run.tally.failed:,} of {run.tally.total:,} fail: see column 'error'"]
    if run.tally.total <= MANY:
        frame = sweeps.read(folder)
        click.echo(_table(frame, run.grid.paths))
        reasons = _failures(frame["error"].dropna(), run.tally.total)
    click.echo(
        "\n".join([f"{run.tally.total:,} rows in {folder} ({run.tally.before:,} from before)", *reasons]), err=True
    )


def _check_folder(folder: Path, points: Grid, *, force: bool) -> None:
    """Refuse a folder that holds something else than this sweep."""
    from afdsim.scenario import yamlfile

    if folder.exists() and not folder.is_dir():
        raise ScenarioError(f"{folder} is a file; -o takes a folder")
    if force or not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        held = (folder / "sweep.yaml").read_text(encoding="utf-8")
    except OSError:
        raise ScenarioError(f"{folder} exists and holds no sweep; -o or --force") from None
    if held != yamlfile.dump(points.described()):
        raise ScenarioError(f"{folder} exists and holds a different sweep; -o or --force")


@contextmanager
def _executor(dask: str | None, workers: int) -> Iterator[Executor]:
    """Open the cluster at an address, or processes on this machine."""
    from afdsim.studies import sweeps

    if dask is None:
        with sweeps.executor(workers) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise ScenarioError("--dask needs distributed: pip install 'afdsim[dask]'") from None
    place = {"scheduler_file": dask} if Path(dask).is_file() else {"address": dask}
    with _connected(Client, dask, place) as client:
        yield client.get_executor()


def _connected(connect: Any, address: str, place: dict[str, str]) -> AbstractContextManager[Any]:
    try:
        client: AbstractContextManager[Any] = connect(**place, timeout=10)
    except (OSError, ValueError) as error:
        raise SimulationError(f"--dask {address}: no scheduler answers: {error}") from None
    return client


# what to say --------------------------------------------------------------------------------------------------------


def _intent(run: Sweep) -> str:
    """Say what a sweep would do."""
    points = run.grid
    lines = [f"{points.name}: {_counts(points)} of {points.base.name}"]
    for axis in points.axes:
        for index, path in enumerate(axis.paths):
            values = ", ".join(str(row[index]) for row in axis.rows[:12]) + (", ..." if len(axis.rows) > 12 else "")
            lines.append(f"  {'with ' if index else ''}{path}: {values}")
    if len(points) <= MANY:
        todo, wrong = run.ahead()
        lines.append(f"{todo:,} to simulate, {len(points) - todo - len(wrong):,} known")
        lines += _failures(wrong, len(points))
    return "\n".join(lines)


def _failures(errors: Iterable[str], total: int) -> list[str]:
    """Say how many points fail, and each reason once."""
    counts = Counter(errors)
    lines = [f"  {count:,} x {error}" for error, count in counts.most_common(REASONS)]
    more = [f"  and {len(counts) - REASONS:,} other reasons"] if len(counts) > REASONS else []
    return [f"{counts.total():,} of {total:,} fail:", *lines, *more] if counts else []


def _counts(points: Grid) -> str:
    return f"{points.combinations:,} points x {len(points.seeds):,} seed{'s' if len(points.seeds) > 1 else ''}"


def _estimate(run: Sweep, workers: int) -> str:
    """Say how long a sweep would take, by its first and last point, which are kept."""
    from afdsim.studies.points import Cache, outcome

    seconds = []
    for place in (0, run.grid.combinations - 1):
        scenario, seed = run.grid.scenario(run.grid.chosen(place)), run.grid.seeds[0]
        file = run.cache.file(scenario.key, seed)
        found = Cache.get(file) or outcome(scenario, seed)
        Cache.put(file, found.text())
        seconds.append(found.wall_s)
    hours = sum(seconds) / len(seconds) * len(run.grid) / workers / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(60 * hours))} min"
    return f"{_counts(run.grid)} ≈ {length} at {workers} workers (timed on 2 points); --yes to go on"


def _way_on(stopped: BaseException, run: Sweep) -> str:
    """Say what is kept, and the command that goes on."""
    words = [word for word in sys.argv[1:] if word not in {"--resume", "--no-resume"}]
    command = shlex.join(["afdsim", *words, "--resume"])
    what = f"interrupted; {run.kept()}" if isinstance(stopped, KeyboardInterrupt) else str(stopped)
    return f"{what}:\n  {command}"


def _table(frame: pd.DataFrame, paths: tuple[str, ...]) -> str:
    """Return the main figures of every point, averaged over its seeds."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = {name: look for name, look in FIGURES.items() if name in frame}
    heads = _headings(paths)
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in [*heads, *(title for title, _ in shown.values()), "SLA"]:
        drawn.add_column(head, justify="right", no_wrap=True)
    points = [group for _, group in frame.groupby("point", sort=False)]
    for group in points[:SHOWN]:
        drawn.add_row(*(str(group[path].iloc[0]) for path in paths), *_figures(group, shown), _verdict(group))
    console = Console(width=None if sys.stdout.isatty() else 400)
    with console.capture() as capture:
        console.print(drawn)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    more = [f"... and {len(points) - SHOWN:,} more points"] if len(points) > SHOWN else []
    return "\n".join([*lines, *more])


def _headings(paths: tuple[str, ...]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [path.removesuffix(".value").split(".") for path in paths]
    for length in range(1, 1 + max(map(len, parts), default=0)):
        ends = [".".join(each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            return ends
    return list(paths)


def _figures(group: pd.DataFrame, shown: dict[str, tuple[str, str]]) -> list[str]:
    means = {name: group[name].mean() for name in shown}
    return ["-" if means[name] != means[name] else format(means[name], look) for name, (_, look) in shown.items()]


def _verdict(group: pd.DataFrame) -> str:
    """Return whether every seed met the SLA, or why there is nothing to say."""
    if (group["status"] == "error").any():
        return "error"
    if "sla.met" not in group:
        return "-"
    return "met" if group["sla.met"].all() else "missed"
