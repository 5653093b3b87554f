"""The command `afdsim check`: whether a scenario is sound, or what the model of a config.json is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from afdsim.cli.completion import scenario_names
from afdsim.cli.scenarios import SET, STRICT, load_noted, warn
from afdsim.cli.tables import PRECISION, asked_formats, asked_precision
from afdsim.errors import CapacityError, CatalogError, ScenarioError

if TYPE_CHECKING:
    from afdsim.catalog.llm import Llm
    from afdsim.scenario.document import Scenario


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(check)


@click.command()
@click.argument("what", metavar="SCENARIO|MODEL", shell_complete=scenario_names)
@SET
@STRICT
@PRECISION
def check(what: str, overrides: tuple[str, ...], strict: bool, precision: tuple[str, ...]) -> None:
    """Say whether SCENARIO is sound, or what MODEL is and which GPUs hold it; simulate nothing.

    MODEL is a Hugging Face config.json, the folder of one, or a name of 'afdsim list models'.
    """
    llm = _model(what)
    if llm is None:
        _demand_something(what)
        if precision:
            raise ScenarioError(f"--precision is for models; {what} is a scenario: --set precision.ffn=bf16")
        _check_scenario(what, overrides, strict=strict)
    elif overrides or strict:
        raise CatalogError(f"--set and --strict are for scenarios; {what} is a model: --precision ffn=bf16")
    else:
        _check_model(what, llm, precision)


def _model(what: str) -> Llm | None:
    """Return the model that is meant, if a model is."""
    from afdsim.catalog import entries as catalog
    from afdsim.scenario.document import holds_scenario, shipped

    path = Path(what)
    names = {name.casefold() for name in catalog.llms()} - {name.casefold() for name in shipped()}
    is_config = (path.suffix == ".json" and not holds_scenario(path)) or (path / "config.json").is_file()
    return catalog.llm(what) if is_config or (not path.is_file() and what.casefold() in names) else None


def _demand_something(what: str) -> None:
    """Refuse what is neither the file nor the name of a scenario, and no model."""
    from afdsim import units
    from afdsim.catalog import entries as catalog
    from afdsim.scenario.document import SWEEP, shipped

    path, names = Path(what), (*shipped(), *catalog.llms())
    if path.is_file() or path.stem in shipped() or path.name.endswith(SWEEP):
        return
    if path.is_dir():
        raise ScenarioError(f"{what}: a folder without a config.json; a model's has one, a scenario is a file")
    close = units.suggestion(what, names)
    raise ScenarioError(
        f"{what}: no scenario and no model of that name{close} (afdsim list scenarios, afdsim list models; any other "
        "model is the config.json of its card on Hugging Face: give the file, or its folder)"
    )


def _check_model(what: str, llm: Llm, texts: Iterable[str]) -> None:
    from afdsim.results.header import hanging
    from afdsim.results.portrait import portrait

    asked = tuple(texts)
    for line in portrait(llm, asked_precision(asked, llm), asked_formats(asked, llm)):
        click.echo(line)
    for note in llm.notes:
        for line in hanging("Note      ", note):
            click.echo(line)
    click.echo(f"fine; next: write 'model: {what}' into a scenario (afdsim init)")


def _check_scenario(what: str, overrides: tuple[str, ...], *, strict: bool) -> None:
    from afdsim.engine.lowering import deployment
    from afdsim.results.header import deployment_lines, hanging, memory_lines, model_lines, prefill_lines, router_line
    from afdsim.results.remarks import beyond, lacking, of_model, of_trace
    from afdsim.scenario.formats import of_scenario
    from afdsim.scenario.requests import counted, requested
    from afdsim.workload.laws import Trace
    from afdsim.workload.traces import means

    loaded = load_noted(what, overrides, strict=strict)
    afd, length = deployment(loaded), _whole_length(loaded)
    for part in loaded.parts:
        _demand_room(part, length)
    source = requested(loaded, loaded.run.seeds[0])
    told, *notes = of_trace(loaded, source) or ("",)
    if isinstance(source.file, Trace):
        told += f"; {means(source.file.input_len, source.file.output_len)}"
    kinds = [deployment(part) for part in loaded.parts]
    lacks = dict.fromkeys(text for kind in kinds for text in lacking(kind))
    for note in (*notes, *of_model(afd.llm), *beyond(loaded, source, counted(loaded, source)), *lacks):
        warn(note)
    click.echo(f"{what}: fine  ({loaded.name}, sha256:{loaded.key[:8]})")
    lines = [*model_lines(loaded, of_scenario(loaded)), *deployment_lines(loaded)]
    lines += [line for kind in kinds for line in memory_lines(kind, length)]
    lines += [*prefill_lines(loaded), *router_line(loaded)]
    click.echo("\n".join([*lines, *hanging("Trace ", told)]))


def _demand_room(scenario: Scenario, length: int | None) -> None:
    """Raise what is short of memory: weights, or a request of `length` tokens."""
    from afdsim.engine.capacity import too_long
    from afdsim.engine.lowering import deployment
    from afdsim.engine.servers import prefill_of
    from afdsim.simulation import placed

    afd = deployment(scenario)
    try:
        afd.check_memory()
        if scenario.servers is not None:
            prefill_of(scenario, scenario.servers).check_memory()
        if length is not None and afd.kv_cache.sequences(length) == 0:
            raise too_long(afd, length)
    except CapacityError as error:
        raise placed(error, scenario) from None


def _whole_length(scenario: Scenario) -> int | None:
    """Return the tokens that every request ends with, where all are alike."""
    if any(each.input_len or each.output_len for each in scenario.workload.classes or ()):
        return None
    lengths = (scenario.workload.input_len, scenario.workload.output_len)
    values: list[int | None] = [getattr(length, "value", None) for length in lengths]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
