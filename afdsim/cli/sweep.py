"""The command `afdsim sweep`: a sweep file in, a folder of table shards and pictures out, the best point said.

Registered by `cli`; like there, every command imports what it needs.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from afdsim.cli.completion import sweep_names
from afdsim.cli.executors import DASK, WORKERS, cores, opened
from afdsim.cli.scenarios import STRICT
from afdsim.cli.stopping import code
from afdsim.errors import AfdsimError, ScenarioError
from afdsim.units import file_name

if TYPE_CHECKING:
    import pandas as pd

    from afdsim.studies import telling
    from afdsim.studies.grid import Grid
    from afdsim.studies.sweeps import Sweep

FAILED = 1

MANY = 10_000
"""Simulations that need --yes."""

SHOWN = 100
"""Points of a table on the terminal."""

WIDTH = 96
"""Characters of a line on the terminal, where the axes allow it."""

NOTES = "notes.txt"
"""File beside the shards with what the base rests on."""

OF_BASE = " (of the base; an axis may change that)"

REASONS = 5
"""Reasons of failures that are told."""


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(sweep)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path), shell_complete=sweep_names)
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value of the base; repeat.")
@WORKERS
@DASK
@click.option("--resume/--no-resume", default=True, help="Take points that were computed before. On by default.")
@click.option("--dry-run", is_flag=True, help="Check everything and say how much there is to do.")
@click.option("--yes", is_flag=True, help=f"Run more than {MANY:,} simulations.")
@STRICT
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
    strict: bool,
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
    run = sweeps.Sweep(grid=points, cache=Cache(cache or sweeps.POINTS), resume=resume, strict=strict)
    if dry_run:
        click.echo(_intent(run))
        return
    count = cores() if workers is None else workers
    folder = _free_folder(folder or Path("results") / file_name(points.name), points, force=force)
    if len(points) > MANY and not yes:
        raise ScenarioError(_estimate(run, count))
    try:
        with opened(dask, count) as pool, run.resumable():
            _execute(run, pool, folder, quiet=quiet)
    except (KeyboardInterrupt, sweeps.StoppedError) as stopped:
        click.echo(_way_on(stopped, run), err=True)
        ctx.exit(code(stopped) if isinstance(stopped, KeyboardInterrupt) else FAILED)
    if run.tally.failed:
        ctx.exit(FAILED)


def _execute(run: Sweep, pool: Executor, folder: Path, *, quiet: bool) -> None:
    """Run the points into the shards of the folder, and show the table, the winner and where the pictures are."""
    from afdsim.studies import ranking, sweeps, telling

    _begin(run.grid, folder)
    _tell(_of_base(run.grid), folder)
    with nullcontext() if quiet else sweeps.bar() as report:
        sweeps.write(run.rows(pool, report), run.grid.paths, folder, run.grid.units)
    frame = sweeps.read(folder, telling.COLUMNS)
    figures = telling.FIGURES | telling.limited(frame)
    found = ranking.ranked(frame, run.grid.paths, figures)
    figures = {name: figure for name, figure in figures.items() if name in found}
    click.echo("\n".join([*_table(found, run.grid, figures), *_left(found, folder), *_order(found)]))
    click.echo("\n".join(_wrapped(telling.best(found, _axes(run.grid), figures))))
    reasons = [*_failures(frame["error"].dropna(), run.tally.total), *_too_long(frame, run.grid)]
    reasons += _pictures(frame, run.grid, folder)
    _report(frame, folder)
    click.echo(
        "\n".join([f"{run.tally.total:,} rows in {folder} ({run.tally.before:,} from before)", *reasons]), err=True
    )


def _begin(points: Grid, folder: Path) -> None:
    """Write which sweep a folder is of; what it held of another one is no part of it, and goes first."""
    from afdsim.results.whole import write_text
    from afdsim.scenario import yamlfile

    folder.mkdir(parents=True, exist_ok=True)
    text = yamlfile.dump(points.described())
    if _held(folder) != text:
        for stale in folder.glob("points-*"):
            stale.unlink()
    write_text(folder / "sweep.yaml", text)


def _held(folder: Path) -> str | None:
    """Return which sweep a folder is of; None where it is of none."""
    try:
        return (folder / "sweep.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _tell(notes: Sequence[str], folder: Path) -> None:
    """Print what the base rests on, and keep it beside the table."""
    from afdsim.results.header import hanging
    from afdsim.results.whole import write_text

    write_text(folder / NOTES, "".join(f"{note}\n" for note in notes))
    precision, *rest = notes
    lines = hanging("Precision ", precision.removeprefix("precision "))
    click.echo("\n".join([*lines, *(line for note in rest for line in hanging("Note ", note))]), err=True)


def _of_base(points: Grid) -> list[str]:
    """Return the formats of the base, as what its trace was read, and what else its reports note before a run."""
    from afdsim.engine.lowering import deployment
    from afdsim.results.remarks import beyond, lacking, of_model, of_trace
    from afdsim.scenario.formats import of_scenario, sentence
    from afdsim.scenario.requests import counted, requested

    base = points.base
    found: list[tuple[str, Sequence[str]]] = [(sentence(of_scenario(base)), ("model", "precision"))]
    with suppress(AfdsimError):  # an axis may replace what is amiss with it; else every point says so
        afd, source = deployment(base), requested(base, points.seeds[0])
        found += [(note, ("workload.trace",)) for note in of_trace(base, source)]
        found += [(note, ("model",)) for note in of_model(afd.llm)]
        found += [(note, ("model", "workload")) for note in beyond(base, source, counted(base, source))]
        found += [(note, ("model", "precision", "deployment")) for note in lacking(afd)]
    return [text + OF_BASE * any(_touches(path, parts) for path in points.paths) for text, parts in found]


def _touches(path: str, parts: Sequence[str]) -> bool:
    """Whether a path is one of `parts` of a scenario, below one or above one."""
    return any(f"{path}.".startswith(f"{part}.") or f"{part}.".startswith(f"{path}.") for part in parts)


def _too_long(frame: pd.DataFrame, points: Grid) -> list[str]:
    """Say how many rows have requests longer than their model was made for, where that is not said of the base."""
    from afdsim.results.remarks import BEYOND

    if "notes" not in frame or not any(_touches(path, ("model", "workload")) for path in points.paths):
        return []
    count = int(frame["notes"].astype("string").str.contains(BEYOND, regex=False).sum())
    text = f"{count:,} of {len(frame):,} rows have requests beyond max_position_embeddings: see the column notes"
    return [text] if count else []


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
    from afdsim.studies import telling

    numbers = [path for path in points.paths if frame[path].dtype.kind in "if"]
    if len(numbers) == len(points.axes) == 1:
        drawn["curves"] = plot.ratio(frame, x=numbers[0])
        if points.units:
            drawn["curves"].set_xlabel(telling.headings(_axes(points))[0])
    (folder / "figures").mkdir(exist_ok=True)
    for name, axes in drawn.items():
        for suffix in ("svg", "png"):
            plot.save(axes, folder / "figures" / f"{name}.{suffix}")
    return []


def _report(frame: pd.DataFrame, folder: Path) -> None:
    """Write the page of the sweep into `folder`, but not of a table too large to draw."""
    from afdsim.cli.folders import report

    if len(frame) <= MANY:
        report(folder)


def _axes(points: Grid) -> telling.Axes:
    """Return what is varied, for words about it."""
    from afdsim.studies.telling import Axes

    return Axes(name=points.base.name, paths=points.paths, units=points.units)


def _free_folder(folder: Path, points: Grid, *, force: bool) -> Path:
    """Return a folder, or refuse it where it holds something else than this sweep."""
    from afdsim.results.whole import vacant
    from afdsim.scenario import yamlfile

    if folder.exists() and not folder.is_dir():
        raise ScenarioError(f"{folder} is a file; -o takes a folder")
    if force or vacant(folder):
        return folder
    if (held := _held(folder)) is None:
        raise ScenarioError(f"{folder} exists and holds no sweep; -o or --force")
    if held != yamlfile.dump(points.described()):
        raise ScenarioError(f"{folder} exists and holds a different sweep; -o or --force")
    return folder


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


def _table(found: pd.DataFrame, points: Grid, figures: dict[str, telling.Figure]) -> list[str]:
    """Return the main figures of every point, averaged over its seeds, the best first; wide heads on two lines."""
    from afdsim.studies import telling

    loads = ["load"] if "load" in found else []
    heads = [*telling.headings(_axes(points)), *(figure.title for figure in figures.values()), *loads, "SLA"]
    named = not figures.keys() <= telling.FIGURES.keys()
    rows = []
    for row in found[:SHOWN].to_dict("records"):
        shown = (figure.text(row[name]) for name, figure in figures.items())
        axes = (telling.cell(row[path]) for path in points.paths)
        rows.append([*axes, *shown, *(row[name] for name in loads), telling.standing(row, named=named)])
    lines = _drawn(heads, rows)
    return lines if max(map(len, lines)) <= WIDTH else _drawn(list(map(_two_lines, heads)), rows)


def _drawn(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table as lines."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head in heads:
        drawn.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 400)
    with console.capture() as capture:
        console.print(drawn)
    return [line.rstrip() for line in capture.get().splitlines()]


def _two_lines(head: str) -> str:
    """Break a heading where its longer part is shortest: at a blank, after a dot, before a slash."""
    places = [match.start() for match in re.finditer(r"(?<=\.)| |(?=/)", head) if 0 < match.start() < len(head)]
    parts = [(head[:place], head[place:].strip()) for place in places]
    return "\n".join(min(parts, key=lambda pair: max(map(len, pair)))) if parts else head


def _left(found: pd.DataFrame, folder: Path) -> list[str]:
    """Say how many points are not shown, and where they are."""
    left = len(found) - SHOWN
    where = f"all in {folder}: afdsim.studies.sweeps.read({str(folder)!r})"
    return [f"... and {left:,} more points, {where}"] if left > 0 else []


def _wrapped(text: str) -> list[str]:
    """Return a sentence in lines; parts that are joined by no-break spaces stay together."""
    found = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    return [line.replace("\xa0", " ") for line in found]


def _order(found: pd.DataFrame) -> list[str]:
    """Say in which order the rows are."""
    parts = {
        "met": "SLA met",
        "no SLA": "no SLA",
        "missed": "SLA missed",
        "unstable": "load not STABLE",
        "n/a": "n/a (too short to tell)",
        "error": "errors",
    }
    order = ", then ".join(parts[each] for each in dict.fromkeys(found["standing"]))
    return _wrapped(f"Order: {order}; each by falling tok/s/GPU")
