"""The command `afdsim bench`: how fast the engines are on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from afdsim.studies.bench import Row


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    group.add_command(bench)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--deployment", "deployments", multiple=True, metavar="xAyF", help="Only this one; repeat.")
@click.option(
    "--engine", "engines", multiple=True, help="Only this one; repeat: processes, kernel-python, kernel-numba."
)
def bench(as_json: bool, deployments: tuple[str, ...], engines: tuple[str, ...]) -> None:
    """Time every engine on deployments of growing size.

    Figures are per CPU second. Compare steps per million bare SimPy events: that takes the machine's speed out.
    """
    from afdsim.studies import bench as benchmark

    unknown = set(engines) - set(benchmark.ENGINES)
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(benchmark.ENGINES)}")
    events = benchmark.simpy_events_per_s()
    rows = []
    if not as_json:
        click.echo(f"bare SimPy loop: {events:,.0f} events/s\n{_HEADER}")
    slowest: dict[tuple[str, str], float] = {}
    for row in benchmark.rows(engines or benchmark.ENGINES, deployments):
        rows.append(row)
        base = slowest.setdefault((row.deployment, row.granularity), row.steps_per_s)
        if not as_json:
            click.echo(_line(row, row.steps_per_s / base, row.steps_per_s / events * 1e6))
    if as_json:
        click.echo(json.dumps(benchmark.as_json(events, rows), indent=2))


_HEADER = (
    f"{'deployment':<12}{'granularity':<12}{'engine':<15}{'steps/s':>9}{'tokens/s':>12}{'real time':>10}"
    f"{'events/step':>12}{'MB':>6}{'ratio':>8}{'per M ev':>10}"
)


def _line(r: Row, ratio: float, per_million: float) -> str:
    return (
        f"{r.deployment:<12}{r.granularity:<12}{r.engine:<15}{r.steps_per_s:>9,.0f}{r.tokens_per_s:>12,.0f}"
        f"{r.real_time_factor:>9,.1f}x{r.events_per_step:>12,.0f}{r.peak_mb:>6,.0f}{ratio:>7.1f}x{per_million:>10,.0f}"
    )
