"""The command `afdsim bench`: how fast the engines are on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from afdsim.studies.bench import Row


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(bench)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option(
    "--deployment", "deployments", multiple=True, help="Only this one, such as 2A2F, EP32 or 'EP128 MTP'; repeat."
)
@click.option("--engine", "engines", multiple=True, help="Only this one; repeat: processes, kernel.")
def bench(as_json: bool, deployments: tuple[str, ...], engines: tuple[str, ...]) -> None:
    """Time every engine on AFD, expert parallel and tensor parallel deployments.

    Figures are per CPU second. Compare steps per million bare SimPy events: that takes the machine's speed out.
    """
    from afdsim.studies import bench as benchmark

    _check("--deployment", deployments, benchmark.DEPLOYMENTS)
    _check("--engine", engines, benchmark.ENGINES)
    events = benchmark.simpy_events_per_s()
    rows = []
    for row in benchmark.rows(engines or benchmark.ENGINES, deployments or benchmark.DEPLOYMENTS):
        rows.append(row)
        click.echo(f"{row.deployment} {row.granularity} {row.engine}: {_rate(row.steps_per_s)} steps/s", err=True)
    click.echo(json.dumps(benchmark.as_json(events, rows), indent=2) if as_json else "\n".join(_table(events, rows)))


def _check(option: str, asked: Iterable[str], known: Iterable[str]) -> None:
    unknown = set(asked) - set(known)
    if unknown:
        message = f"{', '.join(sorted(unknown))}; known: {', '.join(known)}"
        raise click.BadParameter(message, param_hint=f"'{option}'")


_HEADER = (
    f"{'deployment':<17}{'granularity':<12}{'engine':<10}{'steps/s':>9}{'tokens/s':>13}{'real time':>10}"
    f"{'events/step':>12}{'MB':>6}{'ratio':>11}{'per M ev':>10}"
)


def _table(events: float, rows: list[Row]) -> Iterable[str]:
    yield f"bare SimPy loop: {events:,.0f} events/s"
    yield _HEADER
    slowest: dict[tuple[str, str], float] = {}
    for row in rows:
        base = slowest.setdefault((row.deployment, row.granularity), row.steps_per_s)
        yield _line(row, row.steps_per_s / base, row.steps_per_s / events * 1e6)


def _line(r: Row, ratio: float, per_million: float) -> str:
    return (
        f"{r.deployment:<17}{r.granularity:<12}{r.engine:<10}{_rate(r.steps_per_s):>9}{r.tokens_per_s:>13,.0f}"
        f"{r.real_time_factor:>9,.1f}x{r.events_per_step:>12,.0f}{r.peak_mb:>6,.0f}{ratio:>10,.1f}x{_rate(per_million):>10}"
    )


def _rate(value: float) -> str:
    """A figure, with a decimal where it is small."""
    return f"{value:,.{0 if value >= 100 else 1}f}"
