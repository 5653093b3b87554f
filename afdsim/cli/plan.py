"""The command `afdsim plan`: which deployment to buy or build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from afdsim.cli.completion import model_names
from afdsim.cli.executors import DASK, WORKERS, cores, opened
from afdsim.cli.folders import check_folder, save, trying
from afdsim.cli.stopping import StoppedError, code
from afdsim.cli.tables import AS_JSON, block
from afdsim.errors import ScenarioError

if TYPE_CHECKING:
    from afdsim.studies.candidates import Trial
    from afdsim.studies.choices import Choice
    from afdsim.studies.planner import Plan

OBJECTIVES = ("goodput", "tgs", "usd", "gpus", "speed")
RULES = ("mean", "worst", "cvar")


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(plan)


@click.command()
@click.option("--model", shell_complete=model_names, help="Name or config.json; default: that of the workload.")
@click.option("--gpus", "budget", metavar="GPU:N[,GPU:N]", required=True, help="What there is, e.g. H800:64,H20:64.")
@click.option("--context", "contexts", metavar="N[,N]", help="Tokens that a sequence holds on average; several: weigh.")
@click.option("--workload", "workloads", metavar="SCENARIO", multiple=True, help="All but its deployment; repeat.")
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value of workloads; repeat.")
@click.option("--sla-tpot", "tpot", metavar="TIME", help="Mean TPOT to meet, e.g. 50ms. Default: SLA of the workload.")
@click.option("--sla-ttft", "ttft", metavar="TIME", help="Mean TTFT to meet, by prefill servers that are planned too.")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="goodput", show_default=True)
@click.option("--demand", type=float, default=0.0, metavar="N", help="Output tokens/s, for the fewest gpus.")
@click.option("--floor", type=float, metavar="N", help="Tokens per GPU and second at least, for speed.")
@click.option("--weights", metavar="W,W", help="Of several workloads; default: alike.")
@click.option("--rule", type=click.Choice(RULES), default="mean", show_default=True, help="How workloads are weighed.")
@click.option("--tail", type=float, default=0.1, show_default=True, help="Share of the weight that cvar averages over.")
@click.option("--pareto", is_flag=True, help="Find the best cells at stricter limits of TPOT, too.")
@WORKERS
@DASK
@click.option("--resume/--no-resume", default=True, help="Take what was tried before. On by default.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of what was tried: results/points.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Save plan, winner and picture here.")
@click.option("--force", is_flag=True, help="Write into a folder that holds something else.")
@AS_JSON
def plan(as_json: bool, folder: Path | None, force: bool, **asked: Any) -> None:
    """Find the best deployment for a model, a workload and the GPUs that there are, by simulation.

    \b
    afdsim plan --model step3 --gpus H800:64,H20:64 --context 8192 --sla-tpot 50ms
    afdsim plan --workload step3_2a2f_4k --gpus H800:64 --objective usd -o plan/

    Objectives: goodput, most tokens per second from all these GPUs; tgs and usd, most tokens per GPU or USD, of one
    cell; gpus, the fewest that give --demand; speed, most tokens per second and user at --floor.
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with a backspace
    from afdsim.results.result import to_json

    if folder is not None:
        check_folder(folder, "plan.json", "plan", force=force)
    try:
        found = _found(**asked)
        if found.pod is not None:
            trying("what it carries when requests come by chance")
            _ = found.carried
    finally:
        trying("")
    click.echo(to_json(found.to_dict()) if as_json else "\n".join(_text(found)), nl=not as_json)
    if folder is not None:
        save(found.save, folder)


def _found(*, dask: str | None, workers: int | None, resume: bool, cache: Path | None, **asked: Any) -> Plan:
    from afdsim.scenario.document import load
    from afdsim.studies.planner import plan as search
    from afdsim.studies.sweeps import POINTS

    contexts, weights, named = asked["contexts"], asked["weights"], asked["workloads"]
    limits = {key: asked[key] for key in ("tpot", "ttft") if asked[key] is not None}
    if asked["overrides"] and not named:
        raise ScenarioError("--set changes workloads; give --workload")
    kept = (cache or POINTS) if resume else None
    with _resumable(kept), opened(dask, cores() if workers is None else workers) as pool:
        return search(
            asked["model"],
            [load(name, asked["overrides"]) for name in named] or None,
            {**limits, "percentile": "mean"} if limits else None,
            gpus=_budget(asked["budget"]),
            context=None if contexts is None else _numbers(contexts, "--context", int),
            objective=asked["objective"],
            demand=asked["demand"],
            floor=asked["floor"],
            weights=None if weights is None else _numbers(weights, "--weights", float),
            rule=asked["rule"],
            tail=asked["tail"],
            workers=pool,
            cache=kept,
            pareto=asked["pareto"],
            say=trying,
        )


@contextmanager
def _resumable(cache: Path | None) -> Iterator[None]:
    """Say, when a search is interrupted, what is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = "nothing was saved" if cache is None else f"what was tried is kept in {cache}; the same again goes on"
        raise StoppedError(kept, code=code(error)) from None


def _budget(text: str) -> dict[str, int]:
    """Return GPUs by kind of ``H800:64,H20:64``."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, colon, count = (each.strip() for each in part.partition(":"))
        if not colon or not count.isdecimal():
            raise ScenarioError(f"--gpus: {part!r}; write GPU:COUNT, for example H800:64,H20:64")
        if name in found:
            raise ScenarioError(f"--gpus: {name} is named twice")
        found[name] = int(count)
    return found


def _numbers(text: str, option: str, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        word = "whole numbers" if kind is int else "numbers"
        raise ScenarioError(f"{option}: must be {word} separated by commas (got {text!r})") from None


# what to say ---------------------------------------------------------------------------------------------------------


def _text(found: Plan) -> Iterator[str]:
    """Yield the lines of the answer."""
    from afdsim.catalog import entries as catalog
    from afdsim.studies.choosing import WORDS

    gpus = " + ".join(f"{count} {name}" for name, count in found.budget.items())
    model = catalog.llm(found.questions[0].model).name
    yield f"{click.style(model, bold=True)} on {gpus}: {WORDS[found.objective]}"
    yield from (f"  {each}" for each in found.asked())
    yield ""
    if found.best is None:
        yield "Nothing meets that. " + found.why()
        return
    yield click.style(found.best.short, bold=True)
    yield f"  {_sentence(found.best)}"
    yield ""
    yield from _cells(found)
    for pick in found.best.picks:
        yield from (f"  {pick.label} misses the SLA under {name}: no tokens" for name in pick.trial.missed)
    yield ""
    yield from _by_chance(found)
    yield from _families(found)
    yield ""
    if found.front:
        yield from _front(found)
        yield ""
    yield _effort(found)


def _sentence(choice: Choice) -> str:
    """Say what cells give together."""
    offer = choice.offer
    used = " + ".join(f"{count} {name}" for name, count in offer.gpus.items())
    price = "" if offer.usd is None else f", {offer.usd / offer.rate / 3.6e-3:.3f} USD per 1M tokens"
    most = "" if choice.pod is None else "up to "
    return (
        f"{most}{offer.rate:,.0f} tokens/s on {used}: {offer.rate / offer.total:,.0f} per GPU{price}, "
        f"{offer.speed:.1f} tokens/s per user"
    )


def _cells(found: Plan) -> list[str]:
    """Return the table of the cells that were chosen."""
    assert found.best is not None, "there is an answer"
    head = ("Cell", "GPUs", "batch", "tok/s/GPU", "TPOT ms", "USD/1M", "binds")
    rows = [
        (pick.label, str(pick.replicas * pick.trial.layout.count), pick.trial.batch, *_figures(pick.trial))
        for pick in found.best.picks
    ]
    if (pod := found.best.pod) is not None:
        told = (f"{pod.servers.rate(pod.ahead):,.1f} prompts/s", "", "", "")
        rows.append((f"prefill: {pod.label}", str(pod.gpus), "", *told))
    return block("Best", head, rows)


def _by_chance(found: Plan) -> Iterator[str]:
    """Say what a pod carries when requests come by chance."""
    if (carried := found.carried) is None:
        return
    low, high = carried.interval
    upper = "" if high is None else f", and {high:,.4g} is refused"
    binds = "" if carried.binds is None else f": {carried.binds['text']}"
    yield f"With requests that come by chance it carries {low:,.4g} a second within the SLA{upper}{binds}"
    yield ""


def _figures(trial: Trial) -> tuple[str, ...]:
    offer = trial.offer
    assert offer is not None, "it was run"
    price = "n/a" if offer.usd is None else f"{offer.usd / offer.rate / 3.6e-3:.3f}"
    return f"{offer.rate / offer.total:,.0f}", f"{1e3 / offer.speed:.1f}", price, trial.binding


def _families(found: Plan) -> list[str]:
    """Return the table of the best of every family, and why the others lost."""
    from afdsim.studies.choosing import against

    assert found.best is not None, "there is an answer"
    rows: list[Sequence[str]] = []
    for name, choice in (*found.families.items(), ("next best", found.runner_up)):
        if choice is None:
            rows.append((name, "nothing meets it" if name != "next best" else "none", "", "", ""))
            continue
        offer = choice.offer
        rows.append(
            (
                name,
                choice.short,
                f"{offer.rate:,.0f}",
                f"{offer.rate / offer.total:,.0f}",
                against(found.objective, offer, found.best.offer),
            )
        )
    return block("Against the others", ("Family", "Best", "tok/s", "tok/s/GPU", "worse by"), rows)


def _front(found: Plan) -> list[str]:
    """Return the table of the best cells at stricter limits of TPOT."""
    head = ("Cell", "GPUs", "batch", "tok/s/GPU", "TPOT ms", "USD/1M", "binds")
    rows = [
        (pick.label, str(pick.trial.layout.count), pick.trial.batch, *_figures(pick.trial))
        for choice in found.front
        for pick in choice.picks
    ]
    return block("The best cell at every speed", head, rows)


def _effort(found: Plan) -> str:
    """Say what was tried, and that both engines agree."""
    counts = found.counts
    agree = "both engines agree to the bit" if found.agrees else "THE ENGINES DISAGREE about the winner"
    return (
        f"{counts['layouts']:,} layouts; bounds left {counts['tried']:,} to measure ({counts['measures']:,} quick "
        f"measures) and {counts['runs']:,} runs; {agree}"
    )
