"""Runs as a page: the verdict, the answer in one sentence, pictures with their tables, and what the figures rest on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from afdsim import __version__
from afdsim.results import blaming, caching, conversed, metrics, mixed, outages, plot, spread
from afdsim.results.exhibits import Subject, Told, far_off, figures
from afdsim.results.glossary import WORDS
from afdsim.results.header import deployment_lines, prefill_lines, router_line, short
from afdsim.results.inline import THEME, inline
from afdsim.results.page import Badge, Page, Report, Section, Table, render, table, table_html
from afdsim.scenario import yamlfile
from afdsim.scenario.document import Scenario
from afdsim.units import show_rate

UNMODELLED: Final = (
    "Prompts and the transfer of their KV cache, where a scenario has no prefill: requests arrive with their cache.",
    "Autoscaling, pipeline and context parallelism, adapters, and schedulers other than first come, first served.",
    "The fabric beyond one switch per rail, or two with uplinks between: no spine, no congestion control, no loss.",
    "Overlap of a message's transfer with the kernel that makes it.",
    "Host time per step, unless host_overhead or gap states it.",
    "Power, clocks and thermal limits: a GPU holds the clock at which its kernels were measured.",
    "Accuracy of number formats; correlation of routing between layers and of jitter between instances.",
)
"""The limits of the model in short; MODEL.md has them all."""


def report(runs: Mapping[str, Sequence[Told]], summaries: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the report of deployments by name, each with its seeds and its summary over them."""
    return Report(render(page(Subject(runs=runs, summaries=summaries))))


def page(subject: Subject) -> Page:
    """Return what a report says of the runs."""
    scenario = subject.first.scenario
    title = scenario.name if subject.alone else " and ".join(subject.runs)
    return Page(
        kind="run" if subject.alone else f"{len(subject.runs)} runs",
        title=title,
        subtitle=tuple(_subtitle(scenario)) if subject.alone else (),
        badges=tuple(badge for name in subject.runs for badge in badges(name, subject)),
        answer=" ".join(_answers(subject)),
        sections=tuple(_sections(subject)),
        footer=footer(),
    )


def footer() -> str:
    """Say what made a page."""
    return f"Simulated and written by afdsim {__version__}. The page is whole: it loads nothing from anywhere."


def _subtitle(scenario: Scenario) -> Iterator[str]:
    yield from (" ".join(lines) for lines in ([deployment_lines(scenario)] if not scenario.unlike else []))
    for lines in (prefill_lines(scenario), router_line(scenario)):
        if lines:
            yield " ".join(line.strip() for line in lines)


# the answer ---------------------------------------------------------------------------------------------------------


def badges(name: str, subject: Subject) -> Iterator[Badge]:
    """Yield the verdicts on a deployment: its load first where that is not stable, then its limits."""
    own, seeds = subject.summaries[name]["afdsim"], len(subject.runs[name])
    found = [*_limits(own, seeds), *_load(own)]
    for each in found if own.get("load", "STABLE") == "STABLE" else reversed(found):
        yield each if subject.alone else Badge(what=f"{name}: {each.what}", word=each.word, why=each.why)


def _load(own: Mapping[str, Any]) -> Iterator[Badge]:
    load = own.get("saturation")
    if load is not None:
        rates = f"offered {show_rate(load['offered'])}" + (
            f", served {show_rate(load['served'])}" if "served" in load else ""
        )
        yield Badge(what="Load", word=load["level"], why="; ".join(filter(None, (rates, load.get("why", "")))))


def _limits(own: Mapping[str, Any], seeds: int) -> Iterator[Badge]:
    """Yield a badge for every limit, with its value and its interval."""
    sla = own.get("sla")
    if sla is None:
        yield Badge(what="SLA", word="n/a", why="the scenario states none")
        return
    for metric, limit in sla.get("limits", {sla.get("metric"): sla}).items():
        scale, unit = metrics.shown_in(metric)
        few = f"{sla['percentile']}_{metric}_ms" in own.get("too_few", ()) and limit["verdict"] == "n/a"
        value = f"{limit['value_ms'] * scale:,.4g} {unit}" if "value_ms" in limit else "no request has it"
        value = f"{sla['percentile']} needs more requests" if few else value
        low, high = limit.get("ci_ms", (None, None)) if not few else (None, None)
        within = "" if low is None or high is None else f", 95% CI {low * scale:,.4g} to {high * scale:,.4g}"
        over = f", mean of {seeds} seeds" if seeds > 1 else ""
        if limit["verdict"] == "FAIL" and limit.get("value_ms", math.inf) <= limit["limit_ms"]:
            over += "; an SLA is met by a stable load only"
        what = f"SLA {sla['percentile']} {metric.upper()}"
        yield Badge(
            what=what,
            word=limit["verdict"],
            why=f"{value}{', limit' if few or 'value_ms' not in limit else ' of'} "
            f"{limit['limit_ms'] * scale:,.6g} {unit}{within}{over}",
        )


def _answers(subject: Subject) -> Iterator[str]:
    """Answer for every deployment, by its name where there are several."""
    for name, own in subject.summaries.items():
        said = answer(subject.runs[name][0], own)
        yield said if subject.alone else f"{name}: {said}"


def answer(told: Told, summary: Mapping[str, Any]) -> str:
    """Answer in a sentence what a deployment gives, and whether that is enough."""
    own, scenario = summary["afdsim"], told.scenario
    gpus = " and ".join(f"{count:,} {gpu}" for gpu, count in _gpus(told).items())
    parts = [f"{summary[key]:,.4g} ms {label}" for key, label in _LATENCIES if key in summary]
    parts += [f"{own['tgs']:,.0f} tok/s/GPU"] if "tgs" in own else []
    parts += (
        [f"${own['usd_per_1m_output_tokens']:.3f} per 1M output tokens"] if "usd_per_1m_output_tokens" in own else []
    )
    gives = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1] if parts else "no figure yet"
    what = f"{short(scenario)} on {gpus}"
    level = own.get("load", "STABLE")
    if level == "n/a":
        return f"{what}: the run is too short to say what load it carries."
    if level != "STABLE":
        return f"{what} does not carry the load: {level}, {gives}; {own['saturation']['why']}."
    return f"{what} gives {gives}; {_enough(own)}."


_LATENCIES: Final = (("mean_ttft_ms", "mean TTFT"), ("mean_tpot_ms", "mean TPOT"))


def _enough(own: Mapping[str, Any]) -> str:
    """Hold the SLA: which limit is met, missed, or too near to tell."""
    sla = own.get("sla")
    if sla is None:
        return "no SLA is stated"
    parts = []
    for metric, limit in sla.get("limits", {sla.get("metric"): sla}).items():
        scale, unit = metrics.shown_in(metric)
        amount = f"{limit['limit_ms'] * scale:,.6g} {unit}"
        held = _HELD["unsure" if limit["verdict"] == "MARGINAL" and "ci_ms" not in limit else limit["verdict"]]
        parts.append(f"{sla['percentile']} {metric.upper()} is {held.format(amount)}")
    return ", ".join(parts)


_HELD: Final = {
    "PASS": "within the SLA of {}",
    "FAIL": "beyond the SLA of {}",
    "MARGINAL": "too near the SLA of {} to tell",
    "unsure": "not known well enough for the SLA of {}: the run is too short for an interval",
    "n/a": "not known well enough for the SLA of {}",
}


def _gpus(told: Told) -> dict[str, int]:
    found: dict[str, int] = {}
    for pool in told.run.pools.values():
        found[pool.gpu] = found.get(pool.gpu, 0) + pool.gpus
    return found


# sections -----------------------------------------------------------------------------------------------------------


def _sections(subject: Subject) -> Iterator[Section]:
    yield _summary(subject)
    found = {name: tuple(figures(subject, name)) for name in _HEADINGS}
    for name, title in _HEADINGS.items():
        if found[name]:
            text = tuple(_lost(subject)) if name == "gpu-time" and subject.alone else ()
            yield Section(name=name, title=title, figures=found[name], points=text)
    yield from _happened(subject)
    yield from _rests(subject)
    yield from _resolved(subject)


_HEADINGS: Final = {
    "latency": "Latency",
    "gpu-time": "Where the GPU time went",
    "over-time": "Over time",
    "economy": "Throughput, cost and kernels",
}


def _summary(subject: Subject) -> Section:
    tables = [] if subject.alone else [_side_by_side(subject)]
    texts: dict[str, Sequence[str]] = {}
    for (name, runs), seeds in zip(subject.columns.items(), subject.runs.values(), strict=True):
        drafts = any(part.deployment.mtp is not None for part in seeds[0].scenario.parts)
        rows = spread.rows(runs, drafts=drafts)
        few = spread.too_few(rows)
        tables.append(table([name or "Metric", *spread.COLUMNS], rows, f"n/a: {few}." if few else ""))
        texts[name] = spread.definitions(runs[0], drafts=drafts)
    own = tables + ([_rates(subject)] if subject.alone else [])
    return Section(name="summary", title="Summary", tables=tuple(own), text=tuple(_of_whom(texts)))


def _rates(subject: Subject) -> Table:
    """What is no latency: tokens, price, requests."""
    summary, own = subject.summary, subject.summary["afdsim"]
    interval = own.get("tgs_ci")
    rows: list[tuple[Any, ...]] = [
        ("Output (tok/s)", summary.get("output_throughput") if "tgs" in own else None, ""),
        (
            "Output (tok/s/GPU, TGS)",
            own.get("tgs"),
            f"95% CI {interval[0]:,.0f} to {interval[1]:,.0f}" if interval else "",
        ),
        ("Output (tok/s/user)", own.get("tokens_per_s_per_user"), "1 / mean TPOT"),
    ]
    if "usd_per_1m_output_tokens" in own:
        priced = {pool.gpu: f"{pool.gpu} {pool.usd_per_hour:,.4g} USD/h" for pool in subject.first.run.pools.values()}
        rows.append(("USD per 1M output tokens", own["usd_per_1m_output_tokens"], ", ".join(priced.values())))
    fates = ", ".join(f"{own[fate]:,} {fate}" for fate in ("refused", "lost", "unfinished") if own.get(fate))
    rows.append(("Requests finished", summary["completed"], fates))
    rows.append(("Window (s)", summary["duration"], "simulated time that counts"))
    if "goodput_share" in own.get("sla", {}):
        rows.append(("Requests inside every limit (%)", 100 * own["sla"]["goodput_share"], ""))
    return Table(head=("Figure", "value", ""), rows=tuple(rows))


def _side_by_side(subject: Subject) -> Table:
    """The main figures of several deployments."""
    rows = []
    for label, key in _MAIN.items():
        values = [_figure(each, key) for each in subject.summaries.values()]
        if any(value is not None for value in values):
            rows.append((label, *values))
    return Table(head=("Figure", *subject.runs), rows=tuple(rows))


def _figure(summary: Mapping[str, Any], key: str) -> Any:
    """A figure of a summary; none for a percentile of too few requests."""
    own = summary["afdsim"]
    return None if key in own.get("too_few", ()) else own.get(key, summary.get(key))


_MAIN: Final = {
    "GPUs": "gpus",
    "TPOT mean (ms)": "mean_tpot_ms",
    "TPOT p99 (ms)": "p99_tpot_ms",
    "TTFT mean (ms)": "mean_ttft_ms",
    "tok/s/GPU (TGS)": "tgs",
    "tok/s/user": "tokens_per_s_per_user",
    "USD per 1M output tokens": "usd_per_1m_output_tokens",
}


def _lost(subject: Subject) -> Iterator[str]:
    """Say what bounds a step, whom the GPUs waited for, and what more instances would give."""
    own = subject.summary["afdsim"]
    if (bound := own.get("bottleneck")) is not None:
        step = f" of the {bound['step_ms']:,.4g} ms step" if bound.get("step_ms") else ""
        yield f"What bounds a step: {bound['name']}, {bound['ms']:,.4g} ms{step}."
    yield from (f"{line}." for line in joined(blaming.marginal(own.get("marginal", ()))))
    for line in joined(blaming.lines(own["blame"])) if "blame" in own else ():
        head, colon, rest = line.partition(": ")
        said = f"{_WAITED[head]} (share of all GPU time, GPU-seconds)" if head in _WAITED else head
        yield f"{said[:1].upper()}{said[1:]}{colon}{rest}."


_WAITED: Final = {
    blaming.WORST["peers"]: "Waited for instances later than their mates",
    blaming.WORST["ports"]: "Waited for ports",
}


def joined(lines: Iterable[str]) -> list[str]:
    """Return sentences that were wrapped for a terminal in one line each."""
    found: list[str] = []
    for line in lines:
        if found and line.startswith("  "):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line.strip())
    return found


def _happened(subject: Subject) -> Iterator[Section]:
    """Say what crashed, who was preempted, what sessions there were and what every cell did, where there is any."""
    own = subject.summary["afdsim"] if subject.alone else {}
    texts: list[str] = []
    if (found := own.get("failures")) is not None:
        texts += outages.sentences(found, own.get("lost", 0))
    for key, (head, sentences) in _EVENTS.items():
        said = "; ".join(sentences(own[key])) if own.get(key) else ""
        texts += [f"{head}: {said}"] if said else []
    tables = tuple(_cells(own["cells"])) if own.get("cells") else ()
    tables += (table(outages.HEAD, rows),) if found and (rows := outages.rows(found)) else ()
    if texts or tables:
        points = tuple(f"{text[:1].upper()}{text[1:]}." for text in texts)
        yield Section(name="happened", title="What else happened", points=points, tables=tables)


_EVENTS: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], Iterable[str]]]]] = {
    "prefill": ("prompts", mixed.sentences),
    "kv_cache": ("KV cache", caching.sentences),
    "sessions": ("sessions", conversed.sentences),
}
"""What a summary may hold, what that is called, and how it is said."""


def _cells(cells: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """The cells behind a router."""
    pools = list(dict.fromkeys(pool for each in cells for pool in each["busy"]))
    rows = [
        [number, *(each.get(key) for key in _OF_CELL), *(100 * each["busy"].get(pool, math.nan) for pool in pools)]
        for number, each in enumerate(cells)
    ]
    yield table(["cell", *_OF_CELL.values(), *(f"{pool} busy (%)" for pool in pools)], rows)


_OF_CELL: Final = {
    "completed": "finished",
    "tgs": "tok/s/GPU",
    "mean_tpot_ms": "TPOT (ms)",
    "p99_tpot_ms": "p99 TPOT (ms)",
    "mean_queue_ms": "queue (ms)",
    "p99_queue_ms": "p99 queue (ms)",
}


def _rests(subject: Subject) -> Iterator[Section]:
    told = {name: tuple(_basis(own["afdsim"], subject.runs[name][0])) for name, own in subject.summaries.items()}
    yield Section(name="rests-on", title="What the figures rest on", points=tuple(_of_whom(told)))
    yield Section(name="limits", title="What is not modelled", points=UNMODELLED)
    yield Section(name="words", title="Words", tables=(table(["word", "means"], WORDS),))


def _of_whom(told: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Say once what is said of every deployment, and of whom what is said of some."""
    of = {text: [name for name, own in told.items() if text in own] for texts in told.values() for text in texts}
    for text, names in of.items():
        yield f"{text[:1].upper()}{text[1:]}." if len(names) == len(told) else f"{', '.join(names)}: {text}."


def _basis(own: Mapping[str, Any], told: Told) -> Iterator[str]:
    """What is noted of a deployment, and the engine that ran it."""
    made = told.summary["afdsim"]["provenance"]
    yield from own.get("notes", ())
    yield f"engine {made['engine']}" + (f": {made['engine_reason']}" if made.get("engine_reason") else "")


def _resolved(subject: Subject) -> Iterator[Section]:
    """The scenario with every default, and how to see it all again."""
    for number, (name, seeds) in enumerate(subject.runs.items(), start=1):
        told, more = seeds[0], "" if subject.alone else f": {name}"
        made = told.summary["afdsim"]["provenance"]
        packages = ", ".join(f"{package} {version}" for package, version in made["packages"].items())
        text = f"sha256:{made['key'][:16]}, afdsim {made['afdsim']}, coefficients {made['coefficients']}, {packages}."
        written = yamlfile.dump(told.scenario.resolved())
        yield Section(
            name=f"scenario-{number}",
            title=f"Scenario{more}",
            text=(text,),
            code=written,
            fold="All keys, defaults filled in",
        )
    if subject.alone:
        one = (
            f" --seed {subject.first.summary['afdsim']['provenance']['seed']}"
            if len(next(iter(subject.runs.values()))) == 1
            else ""
        )
        text = "From the folder of this run; the same scenario and seed give the same bytes."
        yield Section(name="again", title="Reproduce", text=(text,), code=f"afdsim run scenario.yaml{one} -o again")


# in a notebook ------------------------------------------------------------------------------------------------------


def excerpt(told: Told) -> str:
    """Return the percentiles of a run as HTML, and below them the histogram of its TPOT where that can be drawn."""
    rows = spread.rows([told.run])
    found = (
        table_html(Table(head=("Metric", *spread.COLUMNS), rows=tuple(map(tuple, rows)), alive=False)) if rows else ""
    )
    if not spread.pooled([told.run], "tpot").count:
        return found
    style = "max-width:520px;background:#fff;" + ";".join(f"{name}:{colour}" for colour, name in THEME.items())
    axes, off = plot.tpot_histogram(told), far_off(Subject(runs={"": [told]}, summaries={"": told.summary}), "tpot")
    picture = inline(axes, "tpot", "TPOT per request")
    return f'{found}<div style="{style}">{picture}</div><p>{off}</p>'
