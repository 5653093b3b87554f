"""What decoding costs in theory, what each table leaves out, and what a run of the best AFD pairs gives.

Registered by `cli`; like there, every command imports what it needs.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from afdsim.cli.tables import AS_JSON, PRECISION, asked_formats, asked_precision, block, listed
from afdsim.errors import CatalogError
from afdsim.units import show_bandwidth, show_count, show_time

if TYPE_CHECKING:
    from afdsim.catalog.hardware import Gpu
    from afdsim.catalog.llm import Llm
    from afdsim.cost.survey import Row, Survey
    from afdsim.scenario.formats import Format
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

WIDTH = 110
"""Characters of the longest line."""


def register(group: click.Group) -> None:
    """Add the command of this module to `group`."""
    group.add_command(cost)


@click.command()
@click.option("--model", "models", multiple=True, help="Name or config.json; repeat. Default: the paper's nine.")
@click.option("--gpu", "gpus", multiple=True, help="Name; repeat. Default: H800, H20, A800, 910B.")
@click.option("--context", "contexts", default="8192,32768", show_default=True, help="Tokens, separated by commas.")
@click.option("--network", help="NICs of one server together, e.g. '400 GB/s'. Default: the paper's.")
@click.option("--tpot", default="50ms", show_default=True, help="Time per output token to meet.")
@click.option("--price", "prices", metavar="GPU=PRICE", multiple=True, help="E.g. 'H200=3.1 USD/h'; repeat.")
@PRECISION
@AS_JSON
def cost(as_json: bool, **asked: Any) -> None:
    """Say what decoding costs in theory: work per token, USD, and what fits.

    Peak FLOPs and peak bandwidth, communication hidden: the analysis of the Step-3 paper. The best AFD pairs are
    also simulated, sized as the theory sizes them, to show what it leaves out.
    """
    from afdsim.studies.pairs import runs

    models = _models(asked["models"])
    survey = _survey(**asked | {"models": tuple(models)})
    formats = asked_formats(asked["precision"], _only(survey.llms))
    pairs = runs(survey, models, progress=_say if sys.stderr.isatty() else None)
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    if as_json:
        click.echo(json.dumps(_basis(survey, formats) | _answer(survey, pairs), indent=1))
        return
    click.echo("\n\n".join("\n".join(lines) for lines in (_head(survey, formats), *_text(survey, pairs))))


def _say(text: str) -> None:
    click.echo(f"\r\033[Ksimulating {text} (the first run compiles the engine, 20 s)", nl=False, err=True)


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

    names = dict.fromkeys(catalog.gpu(name).name for name in listed(gpus) or ACCELERATORS)
    compared = tuple(map(catalog.gpu, names))
    llms = tuple(map(catalog.llm, models))
    stated = _stated(more["prices"], compared)
    return Survey(
        llms=llms,
        gpus=tuple(replace(gpu, usd_per_hour=stated.get(gpu.name, gpu.usd_per_hour)) for gpu in compared),
        contexts=tuple(_count(text, "--context") for text in contexts.split(",")),
        precision=asked_precision(more["precision"], _only(llms)),
        stated=frozenset(stated),
        network=None if network is None else _positive(network, "bandwidth", "--network"),
        tpot=_positive(tpot, "time", "--tpot"),
    )


def _models(texts: Iterable[str]) -> list[str]:
    """Return the names or files of the models to compare, each model once."""
    from afdsim.catalog import entries as catalog

    found: dict[str, tuple[str, Llm]] = {}
    for name in listed(texts) or MODELS:
        llm = catalog.llm(name)
        first, same = found.setdefault(llm.name, (name, llm))
        if replace(same, source=llm.source) != llm:
            raise CatalogError(f"--model: {first} and {name} are two models called {llm.name}; rename one of the files")
    return [name for name, _ in found.values()]


def _only(llms: Sequence[Llm]) -> Llm | None:
    """Return the one model that is asked for, whose checkpoint may decide the precision; None where there are more."""
    return llms[0] if len(llms) == 1 else None


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


def _stated(prices: Iterable[str], compared: tuple[Gpu, ...]) -> dict[str, float]:
    """Return USD per hour by name of the GPU, as asked for."""
    from afdsim.catalog import entries as catalog

    asked: dict[str, float] = {}
    for text in prices:
        name, equals, price = text.partition("=")
        if not equals:
            raise CatalogError(f"--price: {text!r} is not GPU=PRICE; write e.g. 'H200=3.1 USD/h'")
        try:
            gpu = catalog.gpu(name).name
        except CatalogError as error:
            raise CatalogError(f"--price: {error}") from None
        if gpu not in [each.name for each in compared]:
            raise CatalogError(f"--price: {gpu} is none of the GPUs compared; add --gpu {gpu}")
        if gpu in asked:
            raise CatalogError(f"--price: {gpu} has two prices; state one")
        asked[gpu] = _positive(price, "price", f"--price {gpu}")
    return asked


def _answer(survey: Survey, pairs: list[Row]) -> dict[str, Any]:
    return {
        "work": survey.work(),
        "usd": survey.usd(),
        "afd": survey.afd(),
        "afd_simulated": pairs,
        "min_sparsity": survey.min_sparsity(),
        "accelerators": survey.accelerators(),
        "intensity": survey.intensity(),
        "sparsity": survey.sparsity(),
        "weak_hardware": survey.weak(),
        "rates": survey.rates(),
    }


def _basis(survey: Survey, formats: Sequence[Format]) -> dict[str, Any]:
    """Return the number formats that every table rests on."""
    from afdsim.scenario.formats import answer

    return {"precision": answer(formats), "notes": list(_notes(survey, formats))}


def _head(survey: Survey, formats: Sequence[Format]) -> list[str]:
    from afdsim.scenario.formats import sentence

    precision = sentence(formats).replace("precision", "Precision", 1)
    first = textwrap.wrap(precision, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [*first, *(line for note in _notes(survey, formats) for line in _wrapped(f"Note {note}"))]


def _notes(survey: Survey, formats: Sequence[Format]) -> Iterator[str]:
    """Say what the models' files leave open, whose checkpoint is not followed, and which formats are stood in for."""
    from afdsim.results.remarks import of_model

    yield from (note for llm in survey.llms for note in of_model(llm))
    yield from _not_followed(survey, formats)
    yield from _foreign(survey)


def _not_followed(survey: Survey, formats: Sequence[Format]) -> Iterator[str]:
    """Name the models whose checkpoints are in another format than the one that all of them are compared in."""
    from afdsim.scenario.formats import DEFAULT

    others = [f"{llm.name} ({llm.weights})" for llm in survey.llms if llm.weights not in (None, survey.precision.ffn)]
    if others and any(each.role == "FFN" and each.origin == DEFAULT for each in formats):
        yield (
            f"several models are compared in one format, {survey.precision.ffn}, not in that of the checkpoint of "
            f"{', '.join(others)}: give one --model at a time to follow it, or --precision"
        )


def _foreign(survey: Survey) -> Iterator[str]:
    """Say what stands in for a format that a GPU lacks: in the theory, and in the runs of pairs."""
    from afdsim.catalog.hardware import lack

    asked = survey.precision
    for gpu, dtype in product(survey.gpus, dict.fromkeys((asked.cache, asked.projections, asked.ffn))):
        counted, run = gpu.native(dtype, integers=False), gpu.native(dtype)
        if counted != dtype:
            also = "" if run == counted else f" (a run computes in {run})"
            yield f"{lack(gpu, dtype)}: counted at its {counted} peak{also}, weights keep the bytes of {dtype}; assumed"


def _text(survey: Survey, pairs: list[Row]) -> Iterator[list[str]]:
    work = [[r["model"], show_count(r["context"]), *(f"{r[key]:.2e}" for key in _WORK)] for r in survey.work()]
    table = block("Work per decoded token", ("model", "context", *_WORK.values()), work)
    yield [*table, *_note("embedding, LM head, norms and router; weights, which a whole batch reads once")]
    for context in survey.contexts:
        yield _usd_block(survey, context)
        if own := [row for row in pairs if row["context"] == context]:
            yield _pairs_block(survey, context, own)
    for sheet, left_out in (
        (_accelerators(survey), "what kernels reach of a peak, and what messages wait beside their bytes"),
        (_intensities(survey), "what kernels reach of a peak and the rows they pad (afdsim explain); projections"),
        (_sparsities(survey), "latency, contention and efficiency of the network, kernel efficiency, skewed experts"),
        (_weak(survey), "network, pipeline bubbles, kernel efficiency, step boundary, queue, skewed experts"),
    ):
        yield [*block(*sheet), *_note(left_out)]
    yield _rates_block(survey)


def _note(left_out: str) -> list[str]:
    return _wrapped(f"Leaves out: {left_out}.")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" ", subsequent_indent="  ", break_on_hyphens=False)


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
    left_out = "network, pipeline bubbles, kernel efficiency, memory, step boundary (LM head, sampling), queue"
    return [*block(title, ("model", *names, "AFD  attention + FFN"), rows), *_note(left_out)]


def _pairs_block(survey: Survey, context: int, pairs: list[Row]) -> list[str]:
    """Return what a run gives for the best pairs, a line each, and why some have none."""
    rows = [_pair_cells(survey, row) for row in pairs if row["reason"] is None]
    head = ("model", "attention + FFN", "xAyF", "GPUs", "batch", "USD", "of theory", "TPOT", "busy A", "busy F")
    title = f"The best AFD pairs simulated at {show_count(context)} tokens, as `afdsim run` does"
    how = (
        "Sized as the theory sizes them: both pools busy at peak, 8 GPUs an instance, 3 micro-batches of `batch` "
        "sequences on an attention GPU. Defaults of a scenario, equal requests without a queue; NIC rates below. "
        f"A star marks a TPOT beyond {show_time(survey.tpot)}."
    )
    left = [
        line
        for row in pairs
        if row["reason"] is not None
        for line in _wrapped(f"{row['model']} on {row['attention_gpu']} + {row['ffn_gpu']}, no run: {row['reason']}")
    ]
    return [*([*block(title, head, rows), *_wrapped(how)] if rows else [click.style(title, bold=True)]), *left]


def _pair_cells(survey: Survey, row: Row) -> list[str]:
    late = "*" if row["tpot_ms"] > survey.tpot * 1e3 else ""
    return [
        row["model"],
        f"{row['attention_gpu']} + {row['ffn_gpu']}",
        row["deployment"],
        show_count(row["gpus"]),
        show_count(row["micro_batch"]),
        f"{row['usd']:.3f}",
        f"{row['usd'] / row['theory_usd']:.1f} x",
        f"{show_time(row['tpot_ms'] / 1e3)}{late}",
        *(f"{row['busy'][pool]:.0%}" for pool in ("attention", "ffn")),
    ]


def _rates_block(survey: Survey) -> list[str]:
    """Return the prices and network rates that were used, with their sources."""
    rates = survey.rates()
    keys = ("price_source", "network_source", "run_nic_source")
    sources = list(dict.fromkeys(row[key] for row in rates for key in keys))
    rows = [
        [
            row["gpu"],
            "none known" if row["usd_per_hour"] is None else f"{row['usd_per_hour']:.2f}",
            show_bandwidth(row["server_network"]),
            show_bandwidth(row["run_nic"]),
            " ".join(f"[{sources.index(row[key]) + 1}]" for key in keys),
        ]
        for row in rates
    ]
    head = ("GPU", "USD/h", "server network in theory", "line rate a GPU in run", "from")
    notes = [line for n, text in enumerate(sources, start=1) for line in _wrapped(f"[{n}] {text}")]
    return [*block("Prices and network rates used", head, rows), *notes]


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
    formats = f"FLOPs in {survey.precision.cache}, dense FFN in {survey.precision.ffn}"
    title = f"Accelerators ({formats}; sparsity: 61 layers of 7168, {show_time(survey.tpot)} in three stages)"
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
            row["limit"],
            show_count(row["ffn_cards"]),
        ]
        for row in survey.weak()
    ]
    head = ("model", "GPU", "context", "largest batch", "limited by", "FFN cards")
    limit = show_time(survey.tpot)
    title = (
        f"What a GPU could take within {limit}: sequences of each of 3 micro-batches (o_proj over 8), cards for the FFN"
    )
    return title, head, rows
