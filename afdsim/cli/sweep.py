"""The command `afdsim sweep`: a sweep file in, a folder of table shards and pictures out, the best point said.

Registered by `cli`; like there, every command imports what it needs.
"""

from __future__ import annotations

import math
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

SHOWN = 100
"""Points of a table on the terminal."""

SLA = {"met": "met", "no SLA": "-", "missed": "missed", "unstable": "missed", "n/a": "n/a", "error": "error"}
"""What the terminal says of the SLA, by standing."""

USED = ("load", "sla.met", "sla.metric", "sla.limit_ms", "pools.attention.busy", "pools.ffn.busy")
"""Columns that verdicts and pictures read beside the figures."""

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
    """Simulate every point of the sweep in FILE, and say which is best under the SLA.

    FILE is a sweep file, or the name of a shipped one: see 'afdsim list sweeps' and 'afdsim init --sweep'.
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
    """Run the points into the shards of the folder, and show the table, the winner and where the pictures are."""
    from afdsim.results import result
    from afdsim.scenario import yamlfile
    from afdsim.studies import ranking, sweeps

    folder.mkdir(parents=True, exist_ok=True)
    result.write_text(folder / "sweep.yaml", yamlfile.dump(run.grid.described()))
    with nullcontext() if quiet else sweeps.bar() as report:
        sweeps.write(run.rows(pool, report), run.grid.paths, folder, run.grid.units)
    frame = sweeps.read(folder, (*FIGURES, *USED))
    found = ranking.ranked(frame, run.grid.paths, FIGURES)
    click.echo("\n".join([*_table(found, run.grid, folder), _best(found, run.grid)]))
    reasons = [*_failures(frame["error"].dropna(), run.tally.total), *_pictures(frame, run.grid, folder)]
    click.echo(
        "\n".join([f"{run.tally.total:,} rows in {folder} ({run.tally.before:,} from before)", *reasons]), err=True
    )


def _pictures(frame: pd.DataFrame, points: Grid, folder: Path) -> list[str]:
    """Draw the table into `folder`; return a sentence where nothing can be drawn."""
    if frame["tgs"].isna().all():
        return ["no pictures: no point has a throughput"]
    if len(frame) > MANY:
        return [f"no pictures of more than {MANY:,} rows"]
    try:
        from afdsim import plot

        drawn = {"pareto": plot.pareto(frame)}
    except ImportError:
        return ["no pictures: they need matplotlib: pip install 'afdsim[report]'"]
    numbers = [path for path in points.paths if frame[path].dtype.kind in "if"]
    if len(numbers) == len(points.axes) == 1:
        drawn["curves"] = plot.ratio(frame, x=numbers[0])
        if points.units:
            drawn["curves"].set_xlabel(_headings(points)[0])
    (folder / "figures").mkdir(exist_ok=True)
    for name, axes in drawn.items():
        for suffix in ("svg", "png"):
            plot.save(axes, folder / "figures" / f"{name}.{suffix}")
    return []


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
    from afdsim.studies.points import Cache, Models, outcome

    seconds = []
    for place in (0, run.grid.combinations - 1):
        scenario, seed = run.grid.scenario(run.grid.chosen(place)), run.grid.seeds[0]
        file = run.cache.file(scenario.key, seed)
        found = Cache.get(file) or outcome(scenario, seed, Models())
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


def _table(found: pd.DataFrame, points: Grid, folder: Path) -> list[str]:
    """Return the main figures of every point, averaged over its seeds, the best first."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = {name: look for name, look in FIGURES.items() if name in found}
    loads = ["load"] if "load" in found else []
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in [*_headings(points), *(title for title, _ in shown.values()), *loads, "SLA"]:
        drawn.add_column(head, justify="right", no_wrap=True)
    for row in found[:SHOWN].to_dict("records"):
        figures = (_figure(row[name], look) for name, (_, look) in shown.items())
        axes = (_cell(row[path]) for path in points.paths)
        drawn.add_row(*axes, *figures, *(row[name] for name in loads), SLA[row["standing"]])
    console = Console(width=None if sys.stdout.isatty() else 400)
    with console.capture() as capture:
        console.print(drawn)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    left = len(found) - SHOWN
    more = f"... and {left:,} more points, all in {folder}: afdsim.studies.sweeps.read({str(folder)!r})"
    return [*lines, *([more] if left > 0 else []), _order(found)]


def _order(found: pd.DataFrame) -> str:
    """Say in which order the rows are."""
    parts = {
        "met": "SLA met",
        "no SLA": "no SLA",
        "missed": "SLA missed",
        "unstable": "load not STABLE",
        "n/a": "n/a (too short to tell)",
        "error": "errors",
    }
    return (
        f"Order: {', then '.join(parts[each] for each in dict.fromkeys(found['standing']))}; each by falling tok/s/GPU"
    )


def _best(found: pd.DataFrame, points: Grid) -> str:
    """Name the winner, or say that there is none."""
    if found.iloc[0]["standing"] == "error":
        return f"no best: all {len(found):,} points fail"
    counts = Counter(found["standing"])
    tally = ", ".join(f"{counts[each]:,} {each}" for each in dict.fromkeys(found["standing"]))
    best = found.iloc[0]
    if best["standing"] not in {"met", "no SLA"}:
        return f"none of {len(found):,} points meets the SLA ({tally})"
    what = "best under the SLA" if best["standing"] == "met" else "best, no SLA being given"
    heads = zip(_headings(points), points.paths, strict=True)
    where = ", ".join(f"{head} = {_cell(best[path])}" for head, path in heads) or points.base.name
    shown = [f"{_figure(best[name], look)} {title}" for name, (title, look) in FIGURES.items() if name in found]
    return f"{what}: {where}: {', '.join(shown)} ({tally})"


def _headings(points: Grid) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, with their units."""
    parts = [path.removesuffix(".value").split(".") for path in points.paths]
    for length in range(1, 1 + max(map(len, parts), default=0)):
        ends = [".".join(each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            break
    else:
        ends = list(points.paths)
    units = (points.units.get(path) for path in points.paths)
    return [f"{end} ({unit})" if unit else end for end, unit in zip(ends, units, strict=True)]


def _figure(value: float, look: str) -> str:
    return "n/a" if math.isnan(value) else format(value, look)


def _cell(value: object) -> str:
    """Return a value of an axis as it is written."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.15g}"
    return "-" if value is None else str(value)
