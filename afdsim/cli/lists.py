"""The command `afdsim list`: what ships with the package."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from afdsim.cli.init import MODELINE

if TYPE_CHECKING:
    from rich.table import Table


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(list_)


@click.command("list")
@click.argument("what", type=click.Choice(["gpus", "models", "scenarios", "sweeps"]), required=False)
def list_(what: str | None) -> None:
    """List GPUs, models, scenarios and sweeps, with sources."""
    from rich.console import Console

    tables = {"gpus": _gpus, "models": _models, "scenarios": _scenarios, "sweeps": _sweeps}
    console = Console(width=None if sys.stdout.isatty() else 400)
    with console.capture() as capture:
        for name in [what] if what else tables:
            console.print(tables[name]())
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _table(title: str, left: str, right: str, last: str) -> Table:
    """Return an empty table: one column of names, columns of figures, and one of long text."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(left, no_wrap=True)
    for column in right.split("|") if right else ():
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold")
    return table


def _gpus() -> Table:
    from afdsim.catalog import entries as catalog

    table = _table("GPUs", "name", "GB|TB/s|bf16 TF|fp8 TF|int8 TF|fp4 TF|NVLink GB/s|NIC GB/s|USD/h", "source")
    for gpu in map(catalog.gpu, catalog.gpus()):
        dtypes = ("bf16", "fp8", "int8", "fp4")
        peaks = (f"{gpu.flops[dtype] / 1e12:,.0f}" if dtype in gpu.flops else "-" for dtype in dtypes)
        links = ("-" if rate is None else f"{rate / 1e9:.0f}" for rate in (gpu.nvlink, gpu.nic.achieved))
        price = "-" if gpu.usd_per_hour is None else f"{gpu.usd_per_hour:.2f}"
        memory = (f"{gpu.memory / 1e9:.0f}", f"{gpu.memory_bandwidth / 1e12:.2f}")
        table.add_row(gpu.name, *memory, *peaks, *links, price, gpu.source)
    return table


def _models() -> Table:
    from afdsim.catalog import entries as catalog

    table = _table("Models", "name", "layers|hidden|attention|experts|top-k", "source")
    for llm in map(catalog.llm, catalog.llms()):
        kinds = dict.fromkeys(type(layer.attention).__name__.upper() for layer in llm.layers)
        experts = max(getattr(layer.ffn, "experts", 0) for layer in llm.layers)
        top_k = max(getattr(layer.ffn, "top_k", 0) for layer in llm.layers)
        sparse = (str(experts), str(top_k)) if experts else ("-", "-")
        table.add_row(llm.name, str(len(llm.layers)), f"{llm.hidden:,}", "+".join(kinds), *sparse, llm.source)
    return table


def _scenarios() -> Table:
    from afdsim.scenario.document import locate, shipped

    return _files("Scenarios", {name: locate(name) for name in shipped()})


def _sweeps() -> Table:
    from afdsim.studies.grid import find, shipped

    return _files("Sweeps", {name: find(name) for name in shipped()})


def _files(title: str, files: Mapping[str, Path]) -> Table:
    """Return shipped files, each with what its first sentence says."""
    table = _table(title, "name", "", "what it is")
    for name, file in files.items():
        first = file.read_text(encoding="utf-8").removeprefix(MODELINE).partition("\n")[0]
        table.add_row(name, first.removeprefix("#").strip())
    return table
