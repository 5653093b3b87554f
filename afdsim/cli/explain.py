"""Commands about the cost model: what a layer is made of, how far predictions are off, coefficients of one's own.

Registered by `cli`; like there, every command imports what it needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from afdsim.cli.completion import model_names, scenario_names
from afdsim.cli.tables import AS_JSON, PRECISION, asked_formats, asked_precision, block, columns, listed
from afdsim.errors import CapacityError, CatalogError, ScenarioError, SimulationError
from afdsim.units import show_bytes, show_time

if TYPE_CHECKING:
    from afdsim.cost.anatomy import Anatomy, Part
    from afdsim.cost.measure import Calibration
    from afdsim.cost.roofline import Roofline
    from afdsim.scenario.formats import Format
    from afdsim.studies.validation import Case, Verdict
    from afdsim.workload.laws import RequestSource


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    for command in (explain, validate, calibrate):
        group.add_command(command)


@click.command()
@click.argument("scenario", metavar="[SCENARIO]", nargs=-1, shell_complete=scenario_names)
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value; repeat.")
@click.option("--model", shell_complete=model_names, help="Name or config.json, instead of a scenario.")
@click.option("--gpu", help="Name of the GPU.")
@click.option("--batch", type=click.IntRange(min=1), help="Sequences per GPU.")
@click.option("--context", type=click.IntRange(min=1), help="Tokens that each sequence reads.")
@click.option("--tp", type=click.IntRange(min=1), default=1, help="GPUs that cut attention.")
@click.option("--ep", type=click.IntRange(min=1), default=1, help="GPUs that split the experts.")
@click.option("--layer", type=click.IntRange(min=0), help="Index of the layer; default: the usual one with experts.")
@click.option("--kernels", multiple=True, help="Kernel library to prefer, e.g. flashinfer; repeat.")
@click.option("--coefficients", type=click.Path(path_type=Path), help="What `afdsim calibrate` wrote, to use first.")
@PRECISION
@AS_JSON
def explain(scenario: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Take one layer and one step boundary apart, operator by operator.

    Either a bare model on equal GPUs (--model --gpu --batch --context), or SCENARIO: a rank's micro-batch at its
    mean context. Times are those of kernels; the network between GPUs is what `afdsim run` simulates.
    """
    asked["kernels"] = tuple(listed(asked["kernels"]))
    # click hands the values after the first of `--precision a=x b=y` to the argument
    stray = [text for text in scenario if "=" in text and asked["model"]]
    names = [text for text in scenario if text not in stray]
    asked["precision"] = (*asked["precision"], *stray)
    if len(names) != (0 if asked["model"] else 1):
        raise ScenarioError("explain takes a SCENARIO or --model with --gpu, --batch and --context")
    found = _explain_scenario(names[0], **asked) if names else _explain_model(**asked)
    click.echo(json.dumps(_explain_answer(found), indent=1) if as_json else "\n".join(_explain_text(found)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Explained:
    """A layer taken apart, and the number formats that it rests on."""

    anatomy: Anatomy
    formats: tuple[Format, ...]
    notes: Sequence[str]


def _explain_model(*, model: str, gpu: str | None, **asked: Any) -> _Explained:
    from afdsim.catalog import entries as catalog
    from afdsim.catalog.hardware import foreign_formats
    from afdsim.cluster.degrees import demand
    from afdsim.cost.anatomy import Setting
    from afdsim.cost.anatomy import explain as taken_apart
    from afdsim.results.remarks import of_model

    needed = {"gpu": gpu, "batch": asked["batch"], "context": asked["context"]}
    missing = [f"--{name}" for name, value in needed.items() if value is None]
    if gpu is None or missing:
        raise ScenarioError(f"explain --model also needs {', '.join(missing)}")
    if asked["overrides"]:
        raise ScenarioError("--set changes a scenario; with --model use the options of explain")
    numbers = {name: asked[name] for name in ("batch", "context", "tp", "ep", "layer")}
    llm = catalog.llm(model)
    precision = asked_precision(asked["precision"], llm)
    setting = Setting(llm=llm, gpu=catalog.gpu(gpu), precision=precision, **numbers)
    demand(llm, setting.gpu, tp=setting.tp, ep=setting.ep)
    return _Explained(
        anatomy=taken_apart(setting, replace(_roofline(asked["coefficients"]), backends=asked["kernels"])),
        formats=asked_formats(asked["precision"], llm),
        notes=[*of_model(llm), *foreign_formats(llm, precision, attention=setting.gpu, ffn=setting.gpu)],
    )


def _roofline(coefficients: Path | None) -> Roofline:
    """Return the cost model, with the rows of a file before the shipped ones."""
    from afdsim.cost.roofline import Roofline, read_table

    if coefficients is None:
        return Roofline()
    try:
        return Roofline(own=read_table(coefficients.read_text(encoding="utf-8")))
    except OSError as error:
        raise CatalogError(f"{coefficients}: {error.strerror or error}") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CatalogError(f"{coefficients} is no coefficient table ({error}); afdsim calibrate writes one") from None


def _explain_scenario(name: str, *, overrides: tuple[str, ...], **asked: Any) -> _Explained:
    from afdsim.cost.anatomy import explain_deployment
    from afdsim.engine.lowering import deployment
    from afdsim.results.remarks import lacking, of_model, of_trace
    from afdsim.scenario.document import load
    from afdsim.scenario.formats import of_scenario
    from afdsim.scenario.requests import requested
    from afdsim.simulation import placed

    own = ("gpu", "precision", "kernels", "layer")
    if any(asked[key] not in (None, ()) for key in own) or asked["tp"] != 1 or asked["ep"] != 1:
        raise ScenarioError("a scenario states its own GPUs, precision, kernels, parallelism; change them with --set")
    scenario = load(name, overrides=overrides)
    found = deployment(scenario)
    try:
        found.check_memory()
    except CapacityError as error:
        raise placed(error, scenario) from None
    source = requested(scenario, scenario.run.seeds[0])
    context = asked["context"] or _mean_context(source)
    batch = asked["batch"] or found.micro_batch_slots[0]
    cost = _roofline(asked["coefficients"])
    taken_apart = explain_deployment(found, batch=batch, context=context, cost=cost)
    notes = [*of_trace(scenario, source), *of_model(found.llm), *lacking(found)]
    if scenario.mixed is not None:
        notes.append(
            f"prefill is mixed: a step computes up to {scenario.mixed.chunk:,} tokens of prompts too, left out here"
        )
    return _Explained(anatomy=taken_apart, formats=of_scenario(scenario), notes=notes)


def _mean_context(source: RequestSource) -> int:
    """Return the mean context at which requests decode their tokens: input plus half of the output."""
    import numpy as np

    prompts, outputs = source.columns(1000)
    return max(1, round(float(np.average(prompts + (outputs - 1) / 2, weights=outputs))))


def _explain_answer(explained: _Explained) -> dict[str, Any]:
    from afdsim.scenario.formats import answer

    found = explained.anatomy
    return {
        "operators": [asdict(part) for part in found.parts],
        **{f"{stage}_s": found.seconds(stage) for stage in ("attention", "ffn", "gather", "scatter", "boundary")},
        "layer": found.title,
        "precision": answer(explained.formats),
        "notes": list(explained.notes),
    }


def _explain_text(explained: _Explained) -> Iterator[str]:
    from afdsim.scenario.formats import sentence

    found = explained.anatomy
    sources = list(dict.fromkeys((part.status, part.source) for part in found.parts))
    yield f"One GPU, {found.title}; bound: what limits the kernel, launch where its fixed time is the longer part"
    yield "rows: of a KV head or, on average, of an expert, padded to the kernel's tiles; peak: reached by useful FLOPs"
    yield sentence(explained.formats)
    yield from (f"Note {note}" for note in explained.notes)
    for stage in dict.fromkeys(part.stage for part in found.parts):
        rows = [_part_cells(part, sources) for part in found.parts if part.stage == stage]
        yield ""
        yield from columns((f"{stage}: {show_time(found.seconds(stage))}", *_PARTS), rows)
    yield ""
    yield "Coefficients"
    yield from (f" [{number}] {status}: {source}" for number, (status, source) in enumerate(sources, start=1))


_PARTS = ("on", "FLOPs", "bytes", "rows", "time", "peak", "bound", "coefficient")


def _part_cells(part: Part, sources: list[tuple[str, str]]) -> list[str]:
    return [
        part.name,
        part.gpu,
        f"{part.flops:.2e}" if part.flops else "-",
        show_bytes(part.bytes) if part.bytes else "-",
        "-" if part.rows is None or part.padded is None else f"{part.rows:.3g} padded to {part.padded:.3g}",
        show_time(part.seconds),
        f"{part.peak:.1%}" if part.flops else "-",
        part.bound,
        f"{part.status} [{sources.index((part.status, part.source)) + 1}]",
    ]


@click.command()
@click.option("--class", "kinds", multiple=True, help="Only this class, e.g. 'attention layer'; repeat.")
@AS_JSON
def validate(kinds: tuple[str, ...], as_json: bool) -> None:
    """Hold predictions against every packaged published measurement.

    Nothing was fitted on these figures. Claims are figures that their authors computed or extrapolated.
    """
    from afdsim.studies.validation import published, simulable
    from afdsim.studies.validation import validate as judged

    known = dict.fromkeys(case.kind for case in published())
    if strangers := [kind for kind in kinds if kind not in known]:
        raise CatalogError(f"--class: no published case is {strangers[0]!r}; classes: {', '.join(known)}")
    cases = [case for case in published() if not kinds or case.kind in kinds]
    verdicts = judged(cases, progress=_say if sys.stderr.isatty() else None)
    left = [case for case in cases if not simulable(case)]
    if as_json:
        click.echo(json.dumps(_validate_answer(verdicts, left), indent=1))
    else:
        click.echo("\n\n".join("\n".join(block) for block in _validate_text(verdicts, left)))


def _say(text: str) -> None:
    click.echo(f"\r\033[K{text}\r", nl=False, err=True)


def _validate_answer(verdicts: Sequence[Verdict], left: Sequence[Case]) -> dict[str, Any]:
    from afdsim.studies.validation import medians

    return {
        "cases": [
            {
                "id": verdict.case.id,
                "class": verdict.case.kind,
                "predicted": verdict.predicted,
                "measured": verdict.case.measured,
                "unit": verdict.case.unit,
                "error": verdict.error,
                "source": verdict.case.source,
                "note": verdict.case.note,
            }
            for verdict in verdicts
        ],
        "medians": [
            {"class": each.kind, "cases": each.cases, "median_error": each.error, "worst_error": each.worst}
            for each in medians(verdicts)
        ],
        "not_simulated": [
            {"id": case.id, "class": case.kind, "measured": case.measured, "unit": case.unit}
            | {"source": case.source, "reason": case.note}
            for case in left
        ],
    }


def _validate_text(verdicts: Sequence[Verdict], left: Sequence[Case]) -> Iterator[list[str]]:
    from afdsim.studies.validation import medians

    sources = list(dict.fromkeys(verdict.case.source for verdict in verdicts))
    for kind in dict.fromkeys(verdict.case.kind for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.case.kind == kind]
        head = (kind, "unit", "predicted", "measured", "error", "source")
        yield columns(head, [_verdict_cells(verdict, sources) for verdict in own])
    summary = [[each.kind, each.cases, f"{each.error:.1%}", f"{each.worst:.1%}"] for each in medians(verdicts)]
    yield block("Absolute errors", ("class", "cases", "median", "worst"), summary)
    if notes := dict.fromkeys(verdict.case.note for verdict in verdicts if verdict.case.note):
        yield [click.style("Notes", bold=True), *(_noted(note, verdicts) for note in notes)]
    if left:
        lines = [f" {case.id} ({case.measured:,g} {case.unit}): {case.note}; {case.source}" for case in left]
        yield [click.style("Not simulated", bold=True), *lines]
    yield [click.style("Sources", bold=True), *(f" [{n}] {text}" for n, text in enumerate(sources, start=1))]


def _noted(note: str, verdicts: Sequence[Verdict]) -> str:
    return f" {', '.join(each.case.id for each in verdicts if each.case.note == note)}: {note}"


def _verdict_cells(verdict: Verdict, sources: list[str]) -> list[str]:
    from afdsim.units import show_change

    case = verdict.case
    digits = 1 if case.measured < 100 else 0
    figures = (f"{verdict.predicted:,.{digits}f}", f"{case.measured:,.{digits}f}", show_change(verdict.error))
    return [case.id, case.unit, *figures, f"[{sources.index(case.source) + 1}]"]


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("coefficients.csv"), show_default=True)
@click.option("--times", type=click.Path(path_type=Path), help="Write every time, beside what the shipped table says.")
@click.option("--gpu", help="Name for the GPU; default: the catalog's that the device's own name contains.")
@click.option("--repeats", type=click.IntRange(min=3), default=20, show_default=True, help="Timed runs per shape.")
def calibrate(output: Path, times: Path | None, gpu: str | None, repeats: int) -> None:
    """Time operators at decode shapes on a local GPU and fit coefficients to them.

    Needs PyTorch (pip install 'afdsim[calibrate]') and a CUDA device. Writes the format of the shipped table, which
    `afdsim.cost.roofline.read_table` reads: simulate(..., cost=Roofline(own=read_table(text))). PyTorch's kernels are
    not those of a serving framework: what is printed tells how far the two are apart.
    """
    from afdsim.cost.fitting import to_csv
    from afdsim.cost.measure import calibrated, times_csv

    found = calibrated(gpu, repeats=repeats, progress=lambda text: click.echo(text, err=True))
    _write(output, to_csv(found.lines))
    if times is not None:
        _write(times, times_csv(found.timed, found.gpu))
    for text in _calibration_lines(found):
        click.echo(text)
    click.echo(f"wrote {output}: {len(found.lines)} coefficients")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from None


def _calibration_lines(found: Calibration) -> list[str]:
    """Return how far the shipped and the new coefficients are off what was timed, a line per kernel."""
    from afdsim.cost.measure import by_kernel, shipped_errors

    new = {(line["kernel"], line["dtype"]): line for line in found.lines}
    rows = []
    for (kernel, dtype), timed in by_kernel(found.timed).items():
        shipped, line = shipped_errors(timed, found.gpu), new.get((kernel, dtype))
        known = ("-", "-") if shipped is None else (f"{shipped.median:.0%}", f"{shipped.p90:.0%}")
        own = ("-", "-") if line is None else tuple(f"{float(line[key]):.0%}" for key in ("median_error", "p90_error"))
        rows.append((kernel, dtype, str(len(timed)), *known, *own))
    head = ("kernel", "dtype", "shapes", "shipped, median", "p90", "fitted, median", "p90")
    return block(f"Errors against the times of this {found.gpu.name}", head, rows)
