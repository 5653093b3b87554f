"""The command line: parses, calls, prints. Results go to stdout, everything else to stderr.

Exit codes: 0 fine, 1 the simulation failed, 2 bad input, 3 SLA not met (with ``--fail-on-sla``), 130 and 143
interrupted by Ctrl-C and SIGTERM.
Only click is imported here; every command imports what it needs, so that ``afdsim --help`` stays quick.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from afdsim import __version__
from afdsim.cli import (
    bench,
    capacity,
    check,
    compare,
    completion,
    cost,
    explain,
    init,
    lists,
    plan,
    report,
    resize,
    sweep,
    verify,
)
from afdsim.cli.scenarios import SCENARIO, SET, STRICT, load_noted, warn
from afdsim.cli.stopping import StoppedError, between_steps, code, noticed, patient
from afdsim.errors import AfdsimError, ScenarioError, SimulationError, StoppedEarly
from afdsim.units import clip, file_name, printable

if TYPE_CHECKING:
    from afdsim.results.result import Result
    from afdsim.results.timeline import Recorder
    from afdsim.scenario.document import Scenario

Progress = Callable[[float, str], None]

FAILED, BAD_INPUT, SLA_NOT_MET, BROKEN_PIPE = 1, 2, 3, 141


class _Commands(click.Group):
    """A group that turns every failure that afdsim explains into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command line."""
        _tolerate_narrow_encodings()
        with noticed() as asked:
            try:
                with warnings.catch_warnings():
                    warnings.showwarning = _show_warning
                    returned = super().invoke(ctx)
                    sys.stdout.flush()
                    return returned
            except click.exceptions.Exit:
                raise
            except (Exception, KeyboardInterrupt) as error:
                if (found := _explained(error, asked)) is None:
                    raise
                ctx.exit(found)


def _explained(error: BaseException, asked: Sequence[int]) -> int | None:
    """Say what a failure means, and return the exit code; None for what afdsim does not explain.

    Where a signal has asked to stop, whatever was made of it by libraries on the way is that.
    """
    match error:
        case StoppedError():
            text, found = f"interrupted; {error}", error.code
        case KeyboardInterrupt():
            text, found = "interrupted; nothing was saved", code(error)
        case AfdsimError():
            text, found = str(error), FAILED if isinstance(error, SimulationError) else BAD_INPUT
        case _ if asked:
            text, found = "interrupted; nothing was saved", 128 + asked[0]
        case OSError(errno=errno.ENAMETOOLONG):
            text, found = f"{clip(str(error.filename))}: a file name is at most 255 bytes long", BAD_INPUT
        case OSError():
            return _output_lost(error)
        case _:
            return None
    _complain(text)
    return found


def _output_lost(error: OSError) -> int:
    """Say that the output cannot be written, but not to a reader that has gone (| head); return the exit code."""
    silent = isinstance(error, BrokenPipeError)
    if not silent:
        _complain(f"{error.filename or 'output'}: {error.strerror or error}")
    # what is still buffered goes nowhere, or the interpreter would complain once more
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE if silent else FAILED


def _tolerate_narrow_encodings() -> None:
    """Print what the terminal's encoding lacks as '?' instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        warn(str(message))


def _complain(text: str) -> None:
    click.echo(printable(text), err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="afdsim %(version)s")
def main() -> None:
    """Simulate LLM decode clusters with attention-FFN disaggregation.

    SCENARIO is a YAML file, or the name of a shipped one: see 'afdsim list scenarios'.
    """


@main.command()
@SCENARIO
@SET
@click.option("--seed", type=click.IntRange(min=0), help="Run this one seed instead of run.seeds.")
@click.option("--engine", type=click.Choice(["auto", "processes", "kernel"]), help="Instead of run.engine.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Save everything in this folder.")
@click.option("--force", is_flag=True, help="Write into a folder that holds something else.")
@click.option("--trace", metavar="TIME", help="Write a Chrome trace of the first seed: 2s, or 10s..12s.")
@click.option("--json", "as_json", is_flag=True, help="Print result.json instead of the report.")
@click.option("--quiet", is_flag=True, help="No progress bar and no wall time.")
@click.option(
    "--fail-on-sla",
    is_flag=True,
    help="Exit with 3 when the SLA is not met (MARGINAL counts by its value) or the load n/a.",
)
@click.option("--until-steady", is_flag=True, help="Lengthen an open loop until its load is known.")
@click.option(
    "--marginal/--no-marginal",
    default=None,
    help="Simulate one more instance of each role too; left out by itself only for a long open loop.",
)
@STRICT
def run(  # noqa: PLR0917 - click passes one argument per option
    scenario: str,
    overrides: tuple[str, ...],
    seed: int | None,
    engine: str | None,
    folder: Path | None,
    force: bool,
    trace: str | None,
    as_json: bool,
    quiet: bool,
    fail_on_sla: bool,
    until_steady: bool,
    marginal: bool | None,
    strict: bool,
) -> None:
    """Simulate SCENARIO and print the report."""
    from afdsim.results.result import pooled, to_json
    from afdsim.results.summary import met

    more = ([f"run.seeds=[{seed}]"] if seed is not None else []) + ([f"run.engine={engine}"] if engine else [])
    loaded = load_noted(scenario, (*overrides, *more), strict=strict)
    recorder = None if trace is None else _recorder(trace)
    try:
        results = _simulate_seeds(loaded, folder=folder, force=force, quiet=quiet, recorder=recorder, marginal=marginal)
    except StoppedError as stopped:
        if stopped.results and not as_json:
            _print_report(list(stopped.results), pooled(stopped.results), scenario, folder)
        raise
    if until_steady:
        results = _go_on(loaded, results, folder=folder, quiet=quiet, marginal=marginal)
    if recorder is not None:
        _write_trace(results[0], recorder, folder)
    summary = pooled(results)
    if as_json:
        click.echo(to_json(summary), nl=False)
    else:
        _print_report(results, summary, scenario, folder)
    if fail_on_sla and not met(summary):
        raise click.exceptions.Exit(SLA_NOT_MET)


def _simulate_seeds(
    scenario: Scenario,
    *,
    folder: Path | None,
    force: bool,
    quiet: bool,
    recorder: Recorder | None,
    marginal: bool | None,
) -> list[Result]:
    """Run every seed of the scenario; the first one's result is saved as soon as it is there."""
    from afdsim.results.result import check_folder

    if folder is not None:
        check_folder(folder, scenario, force=force)
    started, reached = time.perf_counter(), [0.0]
    results: list[Result] = []
    try:
        with _progress(quiet) as progress, between_steps() as stopped:
            for seed in scenario.run.seeds:
                reached[-1], report = 0.0, _noted(progress, reached, stopped)
                results.append(_one_seed(scenario, seed, report, None if results else recorder))
                if len(results) == 1 and not stopped():
                    results[0] = _with_marginal(results[0], marginal)
                patient()
                _save(results, folder, force=force, wall=time.perf_counter() - started)
                if stopped():
                    raise StoppedError(_kept(results, folder, scenario.run.seeds, reached), results, stopped())
                with noticed():  # which loses nothing now
                    _draw(results, folder)
    except KeyboardInterrupt as error:
        raise StoppedError(_kept(results, folder, scenario.run.seeds, reached), results, code(error)) from None
    if not quiet:
        _print_wall_time(results, time.perf_counter() - started)
    return results


def _with_marginal(result: Result, asked: bool | None) -> Result:
    """Simulate one more instance of each role, if that is asked for, or takes seconds only and is not refused."""
    if asked is False:
        return result
    from dataclasses import replace

    from afdsim.studies.marginal import marginal, quick

    with noticed() as signals:
        try:
            return replace(result, marginal=marginal(result)) if asked or quick(result.scenario) else result
        except KeyboardInterrupt:
            told = signals[0]
    signal.raise_signal(told)  # for who stops between steps, and keeps what is there
    return result


def _go_on(
    scenario: Scenario, results: list[Result], *, folder: Path | None, quiet: bool, marginal: bool | None
) -> list[Result]:
    """Lengthen an open loop until the load of all seeds is known; the folder keeps the last run."""
    from afdsim.studies.steadying import until_steady
    from afdsim.units import show_time

    if scenario.workload.arrival.process == "closed_loop":
        warn("--until-steady: a closed loop is steady when it has filled; nothing to lengthen")

    def run(longer: Scenario) -> list[Result]:
        if longer is scenario:
            return results
        click.echo(f"not steady yet: again with {show_time(longer.workload.duration or 0.0)} of arrivals", err=True)
        return _simulate_seeds(longer, folder=folder, force=True, quiet=quiet, recorder=None, marginal=marginal)

    *_, (_, found) = until_steady(scenario, run)
    return list(found)


def _one_seed(scenario: Scenario, seed: int, progress: Progress | None, recorder: Recorder | None) -> Result:
    from afdsim.simulation import simulate

    return simulate(scenario, seed=seed, progress=progress, observer=recorder)


def _noted(progress: Progress | None, reached: list[float], stopped: Callable[[], int]) -> Progress:
    """Pass progress on, note how far it is, and stop where that is asked for."""

    def report(done: float, text: str) -> None:
        reached[-1] = done
        if progress is not None:
            progress(done, text)
        if stopped():
            raise StoppedEarly

    return report


def _recorder(text: str) -> Recorder:
    from afdsim.results import timeline

    try:
        return timeline.Recorder(timeline.window(text))
    except ScenarioError as error:
        raise ScenarioError(f"--trace {error}") from None


def _write_trace(result: Result, recorder: Recorder, folder: Path | None) -> None:
    """Write the Chrome trace, and into a run folder the picture of the pipeline too."""
    from afdsim.results import chrome, timeline

    drawn = timeline.draw(result, recorder)
    path = Path(f"{file_name(result.scenario.name)}.trace.json.gz") if folder is None else folder / "trace.json.gz"
    try:
        chrome.write(drawn, path)
        if folder is not None:
            chrome.save_pipeline(drawn, folder / "figures")
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from None
    click.echo(f"{len(drawn.spans):,} slices in {path}; open it in ui.perfetto.dev or chrome://tracing", err=True)


def _save(results: list[Result], folder: Path | None, *, force: bool, wall: float) -> None:
    if folder is None:
        return
    from afdsim.results.seeds import save_seeds

    try:
        if len(results) == 1:
            results[0].save(
                folder,
                force=force,
                pictures=False,
                log=(f"wall time: {wall:.2f} s", f"command: {shlex.join(['afdsim', *sys.argv[1:]])}"),
            )
        if len(results[0].scenario.run.seeds) > 1:
            save_seeds(results, folder)
    except OSError as error:
        raise SimulationError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _draw(results: list[Result], folder: Path | None) -> None:
    if folder is None:
        return
    from afdsim.results.seeds import draw_seeds

    try:
        draw_seeds(results, folder)
    except OSError as error:
        raise SimulationError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _kept(results: list[Result], folder: Path | None, seeds: Sequence[int], reached: list[float]) -> str:
    """Say how far the run got, and what is on disk."""
    last = seeds[max(len(results) - 1, 0)]
    at = f"seed {last} was at {reached[-1]:.0%}; " if 0 < reached[-1] < 1 else ""
    saved = [] if folder is None else _on_disk(results, folder)
    if not saved:
        return f"{at}nothing was saved"
    return f"{at}{folder} keeps seed{'s' if len(saved) > 1 else ''} {', '.join(map(str, saved))}"


def _on_disk(results: list[Result], folder: Path) -> list[int]:
    """Return the seeds of which a folder has all but pictures."""
    from afdsim.results.result import SEEDS
    from afdsim.results.seeds import whole

    homes = [folder, *(folder / SEEDS / str(each.seed) for each in results[1:])]
    return [each.seed for each, home in zip(results, homes, strict=False) if whole(home)]


def _print_wall_time(results: list[Result], wall: float) -> None:
    steps = sum(result.summary["afdsim"]["engine"]["steps"] for result in results)
    click.echo(f"{wall:.1f} s wall time, {steps:,} steps, {steps / max(wall, 1e-9):,.0f} steps/s", err=True)


def _print_report(results: list[Result], summary: Mapping[str, Any], scenario: str, folder: Path | None) -> None:
    from afdsim.results.ink import Ink
    from afdsim.results.terminal import terminal

    ink = Ink(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ, unicode=_prints_blocks())
    click.echo(terminal(results, summary=summary, source=scenario, saved=folder, ink=ink))


def _prints_blocks() -> bool:
    try:
        "█▏▁".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _progress(quiet: bool) -> AbstractContextManager[Progress | None]:
    return nullcontext() if quiet or not sys.stderr.isatty() else _bar()


@contextmanager
def _bar() -> Iterator[Progress]:
    """Draw a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda done, text: bar.update(task, completed=done, description=text)


bench.register(main)
capacity.register(main)
check.register(main)
compare.register(main)
completion.register(main)
cost.register(main)
explain.register(main)
init.register(main)
lists.register(main)
plan.register(main)
report.register(main)
resize.register(main)
sweep.register(main)
verify.register(main)
