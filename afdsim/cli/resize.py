"""The command `afdsim resize`: the smallest change of a deployment when its workload moves."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from afdsim.cli.folders import check_folder, save, trying
from afdsim.cli.scenarios import SCENARIO, load_noted, warn
from afdsim.cli.tables import AS_JSON, block

if TYPE_CHECKING:
    from afdsim.scenario.document import Scenario
    from afdsim.studies.resizing import Deployed, Resized

NAMES = {"smallest": "smallest change", "cheapest": "cheapest", "most": "gives most"}
BRIEF = 8
"""Changes up to which they are told as a command."""


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(resize)


@click.command()
@SCENARIO
@click.option(
    "--set",
    "overrides",
    metavar="PATH=VALUE",
    multiple=True,
    help="A key of workload or sla moves to this value; any other has it before and after. Repeat.",
)
@click.option("--context", type=int, metavar="N", help="Scale prompts: sequences hold N tokens on average.")
@click.option("--rate", type=float, default=1.0, metavar="FACTOR", help="So many times the requests per second.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Save answers and scenarios here.")
@click.option("--force", is_flag=True, help="Write into a folder that holds something else.")
@AS_JSON
def resize(  # noqa: PLR0917 - click passes one argument per option
    scenario: str,
    overrides: tuple[str, ...],
    context: int | None,
    rate: float,
    folder: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find the smallest change of a deployment when its workload moves, and what it costs.

    \b
    afdsim resize step3_2a2f_4k --rate 1.5
    afdsim resize step3_2a2f_4k --context 8192 -o resized/
    afdsim resize step3_2a2f_4k --set sla.tpot=40ms

    SCENARIO is the deployment as it is, with the workload before the move. A closed loop asks for the requests per
    second that it serves, an open one for those that arrive. The batch is searched anew.
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with a backspace
    from afdsim.results.result import to_json
    from afdsim.studies.moving import MOVING
    from afdsim.studies.resizing import resize as search

    if folder is not None:
        check_folder(folder, "resize.json", "answer of resize", force=force)
    moves = [each for each in overrides if each.partition("=")[0].strip().partition(".")[0] in MOVING]
    fixed = tuple(each for each in overrides if each not in moves)
    source = load_noted(scenario, fixed)
    _note(source)
    try:
        found = search(source, moves, context=context, rate=rate, say=trying)
    finally:
        trying("")
    if as_json:
        click.echo(to_json(found.to_dict()), nl=False)
    else:
        commands = () if folder else _commands(found, scenario, fixed)
        click.echo("\n".join((*_text(found), *commands)))
    if folder is not None:
        save(found.save, folder, page=False)


def _note(source: Scenario) -> None:
    """Tell what does not count."""
    if source.servers is not None:
        warn("prefill servers are left out: decode alone is sized")
    if source.sla is None:
        warn("no SLA: tokens per second alone count; --set sla.tpot=50ms")


# what to say ---------------------------------------------------------------------------------------------------------


def _text(found: Resized) -> Iterator[str]:
    """Yield the lines of the answer."""
    from afdsim.units import show_many

    source = found.move.source
    yield f"{click.style(source.name, bold=True)}: {_priced(found)}"
    yield f"  asked for  {_asked(found)}"
    yield f"             {_limits(found)}"
    yield f"  as it is   {_as_is(found)}"
    yield ""
    if found.smallest is None:
        yield _nothing(found)
    if found.answers:
        yield from _table(found)
        yield ""
    nouns = {"sizes": "size", "cells": "cell", "measures": "quick measure", "runs": "run"}
    sizes, cells, measures, runs = (show_many(found.tried[what], noun) for what, noun in nouns.items())
    yield f"{sizes}; bounds of {cells} left {measures} and {runs}"


def _priced(found: Resized) -> str:
    """``2A2F H200: 32 GPUs, 112.00 USD/h``."""
    from afdsim.studies.sizes import label, size_of

    size = size_of(found.move.source)
    name = label(found.move.source.deployment, size.counts)
    price = "" if found.now.usd is None else f", {found.now.usd:,.2f} USD/h"
    return f"{f'{size.cells} x ' if size.cells > 1 else ''}{name}, {found.now.total} GPUs{price}"


def _asked(found: Resized) -> str:
    """Say how many requests are asked for, and how many tokens that is."""
    demand, move = found.demand, found.move
    what = "what arrives" if move.arrivals is not None else "what is served before"
    what += ", though it misses the SLA" if demand.late else ""
    times = what if move.rate == 1 else f"{move.rate:g} x {what}"
    return f"{demand.requests:,.1f} req/s ({times}) of {move.answer:,.0f} tokens: {demand.run:,.0f} tokens/s"


def _limits(found: Resized) -> str:
    """Say what sequences hold, and the limit."""
    from afdsim.units import show_time

    before, after = found.move.context
    held = f"{after:,.0f} tokens" if round(before) == round(after) else f"{before:,.0f}, then {after:,.0f} tokens"
    sla = found.move.after.sla
    limit = "no limit" if sla is None else f"{sla.percentile} TPOT <= {show_time(sla.limits['tpot'])}"
    return f"sequences hold {held} on average; {limit}"


def _as_is(found: Resized) -> str:
    """Say what the deployment gives as it is."""
    now = found.as_is
    if now is None:
        return f"cannot run: {found.why}"
    share, tpot = now.offer.rate / found.demand.run, 1e3 / now.offer.speed
    return f"{now.offer.rate:,.0f} tokens/s ({share:.0%}), TPOT {tpot:.1f} ms{_verdict(now)}; {now.binds} binds"


def _verdict(now: Deployed) -> str:
    limit, value = now.columns.get("sla.limit_ms"), now.columns.get("sla.value_ms")
    if limit is None or value is None:
        return ""
    return ": the SLA is met" if now.met else f": misses the SLA by {value / limit - 1:.1%}"


def _nothing(found: Resized) -> str:
    """Say that nothing is enough, and what is known of it."""
    head = f"Nothing within {found.tried['sizes']:,} sizes is enough"
    if found.most is None:
        return f"{head}: {found.reason or 'nothing meets the SLA'}"
    return f"{head}; the most is {found.most.offer.rate / found.demand.run:.0%} of what is asked for:"


def _table(found: Resized) -> list[str]:
    head = ("Answer", "Change", "Then", "batch", "tok/s", "TPOT ms", "GPUs", "USD/h")
    return block("Sizes", head, [_row(NAMES[name], each, found) for name, each in found.answers.items()])


def _row(name: str, each: Deployed, found: Resized) -> Sequence[str]:
    offer, now = each.offer, found.now
    more = offer.total - now.total
    price = "n/a" if offer.usd is None or now.usd is None else f"{offer.usd:,.2f} ({offer.usd - now.usd:+,.2f})"
    gpus = f"{offer.total} ({more:+d})"
    return name, _change(each), each.label, _batch(each), f"{offer.rate:,.0f}", f"{1e3 / offer.speed:.1f}", gpus, price


def _change(each: Deployed) -> str:
    """``+1 attention, -1 ffn``, or none."""
    named = {role: role.removesuffix("s") if abs(count) == 1 else role for role, count in each.change.items()}
    return ", ".join(f"{count:+d} {named[role]}" for role, count in each.change.items()) or "none"


def _batch(each: Deployed) -> str:
    """``384``, of AFD with its micro-batches: ``384 in 3``."""
    micro_batches = each.to_dict().get("num_microbatches")
    return f"{each.batch}" if micro_batches is None else f"{each.batch} in {micro_batches}"


def _commands(found: Resized, scenario: str, fixed: Sequence[str]) -> Iterator[str]:
    """Yield how to run every answer, where that is brief."""
    for each in found.answers.values():
        new = found.options(each)
        paths = {option.partition("=")[0] for option in new}
        options = [*(each for each in fixed if each.partition("=")[0].strip() not in paths), *new]
        alone = " (one cell)" if each.size.cells > 1 else ""
        if len(options) > BRIEF:
            yield "its scenario: -o DIR"
        else:
            command = ["afdsim", "run", scenario, *(word for option in options for word in ("--set", option))]
            yield f"  {shlex.join(command)}{alone}"
