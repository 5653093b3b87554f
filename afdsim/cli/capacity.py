"""The command `afdsim capacity`: the largest request rate, or batch, that meets the SLA."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from afdsim.cli.folders import check_folder, save
from afdsim.cli.scenarios import SCENARIO, SET, STRICT, load_noted

if TYPE_CHECKING:
    from afdsim.results.ink import Ink
    from afdsim.studies.capacity import Capacity, Point

SHARE = 0.7
"""Of the capacity, at which services are often run: told beside it."""


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(capacity)


@click.command()
@SCENARIO
@SET
@click.option("--closed", is_flag=True, help="The largest max_num_seqs of a closed loop, in place of a rate.")
@click.option("--tolerance", type=float, default=0.02, show_default=True, help="Relative width of the answer.")
@click.option("--seed", type=click.IntRange(min=0), help="Run this one seed instead of run.seeds.")
@click.option(
    "--seeds", type=click.IntRange(1, 100_000), metavar="N", help="Run seeds 0 to N-1; all must meet the SLA."
)
@click.option("--engine", type=click.Choice(["auto", "processes", "kernel"]), help="Instead of run.engine.")
@STRICT
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Save capacity.json in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--force", is_flag=True, help="Write into a folder that holds something else.")
@click.option("--quiet", is_flag=True, help="No progress.")
def capacity(  # noqa: PLR0917 - click passes one argument per option
    scenario: str,
    overrides: tuple[str, ...],
    closed: bool,
    tolerance: float,
    seed: int | None,
    seeds: int | None,
    engine: str | None,
    strict: bool,
    folder: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the largest request rate at which SCENARIO meets its SLA.

    \b
    afdsim capacity step3_poisson
    afdsim capacity step3_2a2f_4k --closed --set sla.tpot=40ms
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with a backspace
    from afdsim.results.ink import Ink
    from afdsim.results.result import to_json
    from afdsim.studies.capacity import capacity as search

    if seed is not None and seeds is not None:
        raise click.UsageError("--seed and --seeds both say which seeds run; give one")
    if folder is not None:
        check_folder(folder, "capacity.json", "answer of capacity", force=force)
    many = [seed] if seed is not None else list(range(seeds)) if seeds else None
    options = (*overrides, *([f"run.seeds={many}"] if many else []), *([f"run.engine={engine}"] if engine else []))
    loaded = load_noted(scenario, options, strict=strict)
    found = search(loaded, closed=closed, tolerance=tolerance, progress=None if quiet else _progress)
    ink = Ink(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ, unicode=True)
    click.echo(to_json(found.to_dict()) if as_json else _text(found, (scenario, *options), ink), nl=not as_json)
    if folder is not None:
        save(found.save, folder)


def _progress(point: Point) -> None:
    click.echo(f"{_value(point.at, point.closed)}: {point.found}", err=True)


def _value(at: float, closed: bool) -> str:
    from afdsim.units import show_rate

    return f"max_num_seqs {at:,.0f}" if closed else show_rate(at)


def _text(found: Capacity, asked: tuple[str, ...], ink: Ink) -> str:
    """The answer, what binds, what was seen, and how to see it again."""
    from afdsim.results.ink import table

    lines = [*_answer(found, ink), "", *table(*_rows(found, ink), ink), ""]
    lines += [f"Note {note}" for note in found.notes]
    own = " ".join(f"--set {shlex.quote(option)}" for option in asked[1:])
    return "\n".join([*lines, " ".join(filter(None, ["afdsim run", shlex.quote(asked[0]), own, found.command]))])


def _answer(found: Capacity, ink: Ink) -> list[str]:
    """One sentence with the answer, one with what binds."""
    from afdsim.studies.binding import amount, limits, shown
    from afdsim.units import show_rate

    name, closed = found.scenario.name, found.closed
    held = limits((found.best or found.points[0]).summary)
    sla = " and ".join(f"{shown(each)} <= {amount(each, 'limit_ms')}" for each in held)
    because = f": {found.binds['text']}" if found.binds else ""
    if found.best is None:
        least = _value(found.points[0].at, closed)
        return [ink.strong(f"{name} carries nothing with {sla}"), f"The least that was tried is {least}{because}"]
    own = found.best.summary["afdsim"]
    tokens = f"{show_rate(own['tgs'], 'tok/s/GPU')} on {own['gpus']} GPUs"
    share = "" if closed else f"; {SHARE:.0%} of it is {show_rate(SHARE * found.answer)}"
    first = ink.strong(f"{name} carries {_value(found.answer, closed)} with {sla}") + f": {tokens}{share}"
    if found.binds is None:
        return [first, "Nothing that was tried is refused"]
    at = f"At {_value(found.binds['at'], closed)} it does not" if "at" in found.binds else "More does not fit"
    return [first, f"{at}{because}"]


def _rows(found: Capacity, ink: Ink) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table of points."""
    from afdsim.studies.binding import limits, shown

    metrics = [shown(each) for each in limits(found.points[0].summary)]
    units = [_unit(each) for each in limits(found.points[0].summary)]
    names = [f"{metric} ({unit})" for metric, unit in zip(metrics, units, strict=True)]
    head = ["max_num_seqs" if found.closed else "req/s", *([] if found.closed else ["load"]), *names]
    return [*head, "tok/s/GPU", "verdict", ""], [_row(point, ink) for point in found.points]


def _unit(limit: dict[str, Any]) -> str:
    from afdsim.results.metrics import shown_in

    return shown_in(limit["metric"])[1]


def _row(point: Point, ink: Ink) -> list[str]:
    from afdsim.results.metrics import shown_in
    from afdsim.studies.binding import limits

    own = point.summary["afdsim"]
    values = [
        f"{each['value_ms'] * shown_in(each['metric'])[0]:,.4g}" if "value_ms" in each else "n/a"
        for each in limits(point.summary)
    ]
    tokens = f"{own['tgs']:,.0f}" if "tgs" in own else "n/a"
    return [f"{point.at:,.5g}", *([] if point.closed else [own["load"]]), *values, tokens, point.verdict, point.found]
