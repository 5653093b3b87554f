"""Commands about cost: what decoding costs in theory, what a layer is made of, how far predictions are off.

Registered by `cli`; like there, every command imports what it needs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from afdsim.errors import CatalogError, ScenarioError
from afdsim.units import show_bytes, show_count, show_time

if TYPE_CHECKING:
    from afdsim.catalog.hardware import Gpu
    from afdsim.catalog.llm import Precision
    from afdsim.cost.anatomy import Anatomy, Part
    from afdsim.cost.roofline import Roofline
    from afdsim.cost.survey import Survey
    from afdsim.scenario.document import Scenario
    from afdsim.studies.validation import Case, Verdict
    from afdsim.units import Quantity

MODELS = (
    "step3",
    "deepseek-v3",
    "kimi-k2",
    "qwen3-235b",
    "qwen3-32b",
    "llama4-maverick",
    "minimax-m1",
    "ernie-4.5-300b",
    "pangu-pro-moe",
)
ACCELERATORS = ("H800", "H20", "A800", "910B")
"""The nine models and four accelerators of the Step-3 paper's analysis."""

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_PRECISION = click.option(
    "--precision",
    metavar="ROLE=DTYPE",
    multiple=True,
    help="attention (projections), ffn or kv_cache, in bf16, fp8, int8 or fp4; repeat.",
)


def register(group: click.Group) -> None:
    """Add the commands of this module to `group`."""
    for command in (cost, explain, validate, calibrate):
        group.add_command(command)


@click.command()
@click.option("--model", "models", multiple=True, help="Name or config.json; repeat. Default: the paper's nine.")
@click.option("--gpu", "gpus", multiple=True, help="Name; repeat. Default: H800, H20, A800, 910B.")
@click.option("--context", "contexts", default="8192,32768", show_default=True, help="Tokens, separated by commas.")
@click.option("--network", help="NICs of one server together, e.g. '400 GB/s'. Default: the paper's.")
@click.option("--tpot", default="50ms", show_default=True, help="Time per output token to meet.")
@click.option("--price", "prices", metavar="GPU=USD/h", multiple=True, help="Price to use, e.g. H200=3.1; repeat.")
@_PRECISION
@_JSON
def cost(as_json: bool, **asked: Any) -> None:
    """Say what decoding costs in theory: work per token, USD, and what fits.

    Peak FLOPs and peak bandwidth, communication hidden: the analysis of the Step-3 paper. `afdsim run` simulates
    what is left of it.
    """
    survey = _survey(**asked)
    if as_json:
        click.echo(json.dumps(_cost_answer(survey), indent=1))
        return
    click.echo("\n\n".join("\n".join(block) for block in _cost_text(survey)))


def _survey(
    *,
    models: tuple[str, ...],
    gpus: tuple[str, ...],
    contexts: str,
    network: str | None,
    tpot: str,
    **more: tuple[str, ...],
) -> Survey:
    from afdsim.catalog import entries as catalog
    from afdsim.cost.survey import Survey

    return Survey(
        llms=tuple(catalog.llm(name) for name in _listed(models) or MODELS),
        gpus=_priced(tuple(catalog.gpu(name) for name in _listed(gpus) or ACCELERATORS), more["prices"]),
        contexts=tuple(_count(text, "--context") for text in contexts.split(",")),
        precision=_precision(more["precision"]),
        network=None if network is None else _positive(network, "bandwidth", "--network"),
        tpot=_positive(tpot, "time", "--tpot"),
    )


def _listed(texts: Iterable[str]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]


def _count(text: str, option: str) -> int:
    if not (text.strip().isdigit() and int(text) > 0):
        raise CatalogError(f"{option}: {text!r} is not a number of tokens; write e.g. 8192 or 8192,32768")
    return int(text)


def _positive(text: str, quantity: Quantity, option: str) -> float:
    from afdsim.units import parse

    try:
        value = parse(text, quantity)
    except ValueError as error:
        raise CatalogError(f"{option}: {error}") from None
    if not (value > 0 and math.isfinite(value)):
        raise CatalogError(f"{option}: {text!r} must be greater than zero")
    return value


def _priced(gpus: tuple[Gpu, ...], prices: Iterable[str]) -> tuple[Gpu, ...]:
    """Return `gpus` with the prices asked for in place of the catalog's."""
    asked = {}
    for text in prices:
        name, _, value = text.partition("=")
        try:
            asked[name.strip().casefold()] = float(value.replace("USD/h", ""))
        except ValueError:
            raise CatalogError(f"--price: {text!r} is not GPU=USD/h; write e.g. H200=3.1") from None
    if strangers := asked.keys() - {gpu.name.casefold() for gpu in gpus}:
        raise CatalogError(f"--price: {sorted(strangers)[0]!r} is none of the GPUs compared; add --gpu")
    return tuple(replace(gpu, usd_per_hour=asked.get(gpu.name.casefold(), gpu.usd_per_hour)) for gpu in gpus)


def _precision(texts: Iterable[str]) -> Precision:
    """Return the precision that ``role=dtype`` texts ask for; FP8 elsewhere."""
    from dataclasses import fields

    from afdsim.catalog.llm import WIDTH, Precision

    roles = [field.name for field in fields(Precision)]
    dtypes = [dtype for dtype in WIDTH if dtype != "fp32"]
    asked = {}
    for text in _listed(texts):
        role, _, dtype = text.partition("=")
        if role not in roles or dtype not in dtypes:
            raise CatalogError(f"--precision: {text!r}; write ROLE=DTYPE with {'|'.join(roles)} and {'|'.join(dtypes)}")
        asked[role] = dtype
    return Precision(**asked)


def _cost_answer(survey: Survey) -> dict[str, Any]:
    return {
        "work": survey.work(),
        "usd": survey.usd(),
        "afd": survey.afd(),
        "min_sparsity": survey.min_sparsity(),
        "accelerators": survey.accelerators(),
        "intensity": survey.intensity(),
        "sparsity": survey.sparsity(),
        "weak_hardware": survey.weak(),
    }


def _cost_text(survey: Survey) -> Iterator[list[str]]:
    work = [[r["model"], show_count(r["context"]), *(f"{r[key]:.2e}" for key in _WORK)] for r in survey.work()]
    yield _block("Work per decoded token", ("model", "context", *_WORK.values()), work)
    for context in survey.contexts:
        yield _usd_block(survey, context)
    yield _block(*_accelerators(survey))
    yield _block(*_intensities(survey))
    yield _block(*_sparsities(survey))
    yield _block(*_weak(survey))


_WORK: Mapping[str, str] = {
    "kv_bytes": "KV bytes",
    "attention_flops": "core FLOPs",
    "linear_flops": "linear FLOPs",
    "ffn_flops": "FFN FLOPs",
}


def _usd_block(survey: Survey, context: int) -> list[str]:
    """Return one line per model: attention + FFN on every accelerator, and the best pair."""
    cells = {
        (row["model"], row["gpu"]): "no price" if row["total"] is None else f"{row['attention']:.3f}+{row['ffn']:.3f}"
        for row in survey.usd()
        if row["context"] == context
    }
    best = {
        row["model"]: f"{row['usd']:.3f}  {row['attention_gpu']} + {row['ffn_gpu']}"
        for row in survey.afd()
        if row["context"] == context
    }
    names = [gpu.name for gpu in survey.gpus]
    rows = [[llm.name, *(cells[llm.name, name] for name in names), best.get(llm.name, "-")] for llm in survey.llms]
    title = (
        f"USD per 1M tokens at {show_count(context)} tokens: attention+FFN on one accelerator, and the best AFD pair"
    )
    return _block(title, ("model", *names, "AFD  attention + FFN"), rows)


Sheet = tuple[str, Sequence[str], list[list[str]]]


def _accelerators(survey: Survey) -> Sheet:
    limits = {row["gpu"]: row["value"] for row in survey.min_sparsity()}
    rows = [
        [
            row["gpu"],
            f"{row['roofline']:,.0f}",
            *("-" if row[key] is None else f"{row[key]:.2e}" for key in ("usd_per_flop", "usd_per_byte")),
            f"{row['dense_batch']:,.0f}",
            f"{row['server_network'] / 1e9:,.0f} GB/s",
            f"{limits[row['gpu']]:.3f}",
        ]
        for row in survey.accelerators()
    ]
    head = ("GPU", "FLOP/byte", "USD/FLOP", "USD/byte", "dense batch", "server network", "min sparsity")
    title = f"Accelerators (sparsity: 61 layers of 7168, {show_time(survey.tpot)} per token in three stages)"
    return title, head, rows


def _intensities(survey: Survey) -> Sheet:
    found: dict[tuple[Any, Any], list[str]] = {}
    for row in survey.intensity():
        cells = found.setdefault((row["model"], row["context"]), [f"{row['flops_per_byte']:,.0f}"])
        cells.append(str(row["bound"]))
    rows = [[model, show_count(context), *cells] for (model, context), cells in found.items()]
    head = ("model", "context", "FLOP/byte", *(gpu.name for gpu in survey.gpus))
    return "What bounds core attention at peak", head, rows


def _sparsities(survey: Survey) -> Sheet:
    rows = [
        [
            row["model"],
            row["gpu"],
            f"{row['sparsity']:.3f}",
            f"{row['min_sparsity']:.3f}",
            "yes" if row["hidden"] else "no",
            show_count(row["ideal_batch"]),
        ]
        for row in survey.sparsity()
    ]
    head = ("model", "FFN on", "active share", "least", "network hidden", "ideal FFN batch")
    return "Share of active experts against the least that hides the network", head, rows


def _weak(survey: Survey) -> Sheet:
    rows = [
        [
            row["model"],
            row["gpu"],
            show_count(row["context"]),
            show_count(row["largest_batch"]) if row["largest_batch"] else "too weak",
            show_count(row["ffn_cards"]),
        ]
        for row in survey.weak()
    ]
    head = ("model", "GPU", "context", "largest batch", "FFN cards")
    limit = show_time(survey.tpot)
    title = f"What a GPU could take within {limit}: sequences on attention (o_proj over 8), cards for the FFN"
    return title, head, rows


@click.command()
@click.argument("scenario", metavar="[SCENARIO]", nargs=-1)
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change one value; repeat.")
@click.option("--model", help="Name or config.json, instead of a scenario.")
@click.option("--gpu", help="Name of the GPU.")
@click.option("--batch", type=click.IntRange(min=1), help="Sequences per GPU.")
@click.option("--context", type=click.IntRange(min=1), help="Tokens that each sequence reads.")
@click.option("--tp", type=click.IntRange(min=1), default=1, help="GPUs that cut attention.")
@click.option("--ep", type=click.IntRange(min=1), default=1, help="GPUs that split the experts.")
@click.option("--layer", type=click.IntRange(min=0), help="Index of the layer; default: the usual one with experts.")
@click.option("--coefficients", type=click.Path(path_type=Path), help="What `afdsim calibrate` wrote, to use first.")
@_PRECISION
@_JSON
def explain(scenario: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Take one layer and one step boundary apart, operator by operator.

    Either a bare model on equal GPUs (--model --gpu --batch --context), or SCENARIO: a rank's micro-batch at its
    mean context. Times are those of kernels; the network between GPUs is what `afdsim run` simulates.
    """
    # click hands the values after the first of `--precision a=x b=y` to the argument
    stray = [text for text in scenario if "=" in text and asked["model"]]
    names = [text for text in scenario if text not in stray]
    asked["precision"] = (*asked["precision"], *stray)
    if len(names) != (0 if asked["model"] else 1):
        raise ScenarioError("explain takes a SCENARIO or --model with --gpu, --batch and --context")
    found = _explain_scenario(names[0], **asked) if names else _explain_model(**asked)
    click.echo(json.dumps(_explain_answer(found), indent=1) if as_json else "\n".join(_explain_text(found)))


def _explain_model(*, model: str, gpu: str | None, **asked: Any) -> Anatomy:
    from afdsim.catalog import entries as catalog
    from afdsim.cost.anatomy import Setting
    from afdsim.cost.anatomy import explain as taken_apart

    needed = {"gpu": gpu, "batch": asked["batch"], "context": asked["context"]}
    missing = [f"--{name}" for name, value in needed.items() if value is None]
    if gpu is None or missing:
        raise ScenarioError(f"explain --model also needs {', '.join(missing)}")
    if asked["overrides"]:
        raise ScenarioError("--set changes a scenario; with --model use the options of explain")
    numbers = {name: asked[name] for name in ("batch", "context", "tp", "ep", "layer")}
    precision = _precision(asked["precision"])
    setting = Setting(llm=catalog.llm(model), gpu=catalog.gpu(gpu), precision=precision, **numbers)
    return taken_apart(setting, _roofline(asked["coefficients"]))


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


def _explain_scenario(name: str, *, overrides: tuple[str, ...], **asked: Any) -> Anatomy:
    from afdsim.cluster.deployment import Afd
    from afdsim.cost.anatomy import explain_afd, explain_colocated
    from afdsim.engine.lowering import deployment
    from afdsim.scenario.document import load

    if asked["gpu"] or asked["precision"] or asked["tp"] != 1 or asked["ep"] != 1 or asked["layer"] is not None:
        raise ScenarioError("a scenario states its own GPUs, precision and parallelism; change them with --set")
    scenario = load(name, overrides=overrides)
    found = deployment(scenario)
    found.check_memory()
    context = asked["context"] or _mean_context(scenario)
    batch = asked["batch"] or found.micro_batch_slots[0]
    cost = _roofline(asked["coefficients"])
    if isinstance(found, Afd):
        return explain_afd(found, batch=batch, context=context, cost=cost)
    return explain_colocated(found, batch=batch, context=context, cost=cost)


def _mean_context(scenario: Scenario) -> int:
    """Return the mean context at which a scenario decodes its tokens: input plus half of the output."""
    import numpy as np

    from afdsim.scenario.document import stream
    from afdsim.simulation import COLUMNS, _lengths, arrival_law
    from afdsim.workload.laws import RequestSource

    asked, seed = scenario.workload, scenario.run.seeds[0]
    laws = (arrival_law(scenario), _lengths(asked.input_len), _lengths(asked.output_len))
    source = RequestSource(*laws, lambda column: stream(seed, COLUMNS[column]))
    prompts, outputs = source.columns(1000)
    return max(1, round(float(np.average(prompts + (outputs - 1) / 2, weights=outputs))))


def _explain_answer(found: Anatomy) -> dict[str, Any]:
    keys = ("name", "stage", "gpu", "flops", "bytes", "seconds", "bound", "status", "source")
    return {
        "operators": [{key: getattr(part, key) for key in keys} for part in found.parts],
        **{f"{stage}_s": found.seconds(stage) for stage in ("attention", "ffn", "gather", "scatter", "boundary")},
        "layer": found.title,
    }


def _explain_text(found: Anatomy) -> Iterator[str]:
    sources = list(dict.fromkeys((part.status, part.source) for part in found.parts))
    yield f"One GPU, {found.title}; bound: what limits the kernel, launch where its fixed time is the longer part"
    for stage in dict.fromkeys(part.stage for part in found.parts):
        rows = [_part_cells(part, sources) for part in found.parts if part.stage == stage]
        yield ""
        head = (f"{stage}: {show_time(found.seconds(stage))}", "on", "FLOPs", "bytes", "time", "bound", "coefficient")
        yield from _columns(head, rows)
    yield ""
    yield "Coefficients"
    yield from (f" [{number}] {status}: {source}" for number, (status, source) in enumerate(sources, start=1))


def _part_cells(part: Part, sources: list[tuple[str, str]]) -> list[str]:
    return [
        part.name,
        part.gpu,
        f"{part.flops:.2e}" if part.flops else "-",
        show_bytes(part.bytes) if part.bytes else "-",
        show_time(part.seconds),
        part.bound,
        f"{part.status} [{sources.index((part.status, part.source)) + 1}]",
    ]


@click.command()
@click.option("--class", "kinds", multiple=True, help="Only this class, e.g. 'attention layer'; repeat.")
@_JSON
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
        yield _columns(head, [_verdict_cells(verdict, sources) for verdict in own])
    summary = [[each.kind, each.cases, f"{each.error:.1%}", f"{each.worst:.1%}"] for each in medians(verdicts)]
    yield _block("Absolute errors", ("class", "cases", "median", "worst"), summary)
    if notes := dict.fromkeys(verdict.case.note for verdict in verdicts if verdict.case.note):
        yield [click.style("Notes", bold=True), *(_noted(note, verdicts) for note in notes)]
    if left:
        lines = [f" {case.id} ({case.measured:,g} {case.unit}): {case.note}; {case.source}" for case in left]
        yield [click.style("Not simulated", bold=True), *lines]
    yield [click.style("Sources", bold=True), *(f" [{n}] {text}" for n, text in enumerate(sources, start=1))]


def _noted(note: str, verdicts: Sequence[Verdict]) -> str:
    return f" {', '.join(each.case.id for each in verdicts if each.case.note == note)}: {note}"


def _verdict_cells(verdict: Verdict, sources: list[str]) -> list[str]:
    case = verdict.case
    digits = 1 if case.measured < 100 else 0
    figures = (f"{verdict.predicted:,.{digits}f}", f"{case.measured:,.{digits}f}", f"{verdict.error:+.1%}")
    return [case.id, case.unit, *figures, f"[{sources.index(case.source) + 1}]"]


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("coefficients.csv"), show_default=True)
@click.option("--gpu", help="Name for the GPU; default: the catalog's that the device's own name contains.")
@click.option("--repeats", type=click.IntRange(min=3), default=20, show_default=True, help="Timed runs per shape.")
def calibrate(output: Path, gpu: str | None, repeats: int) -> None:
    """Time operators at decode shapes on a local GPU and fit coefficients to them.

    Needs PyTorch (pip install 'afdsim[calibrate]') and a CUDA device. Writes the format of the shipped table, which
    `afdsim.cost.roofline.read_table` reads: simulate(..., cost=Roofline(own=read_table(text))).
    """
    from afdsim.cost.fitting import to_csv
    from afdsim.cost.measure import calibrated

    lines = calibrated(gpu, repeats=repeats, progress=lambda text: click.echo(text, err=True))
    try:
        output.write_text(to_csv(lines), encoding="utf-8")
    except OSError as error:
        raise CatalogError(f"{output}: cannot be written: {error.strerror or error}") from None
    click.echo(f"wrote {output}: {len(lines)} coefficients")


def _block(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [click.style(title, bold=True), *_columns(head, rows)]


def _columns(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lay out rows: the first column left, the others right, a rule below the head."""
    body = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in body) for column in range(len(head))]
    rule = " " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    first, *rest = (_aligned(row, widths) for row in body)
    return [first, rule, *rest]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([f" {row[0]:<{widths[0]}}", *cells]).rstrip()
