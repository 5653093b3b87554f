"""Sweeps, comparisons, plans and searches for capacity as pages, each from what its folder holds."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from afdsim.results import plot_plan, plot_sweep
from afdsim.results.exhibits import Exhibit, Subject, framed
from afdsim.results.page import Badge, Figure, Page, Section, Table, of_frame, table
from afdsim.results.report import footer, joined
from afdsim.results.report import page as page_of
from afdsim.studies import ranking, telling
from afdsim.studies.choosing import WORDS
from afdsim.studies.comparison import Comparison
from afdsim.studies.differences import FIGURES, value_of
from afdsim.units import show_change, show_many

if TYPE_CHECKING:
    import pandas as pd

REASONS: Final = 20
"""Reasons of failures that a page tells."""


def _again(text: str, command: str) -> Section:
    return Section(name="again", title="Reproduce", text=(text,), code=command)


def _noted(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


# sweeps -------------------------------------------------------------------------------------------------------------


def sweep(frame: pd.DataFrame, axes: telling.Axes, notes: Sequence[str]) -> Page:
    """Return the page of a sweep: the best point, all points, the frontier, and every numeric axis through the best."""
    figures = telling.FIGURES | telling.limited(frame)
    found = ranking.ranked(frame, axes.paths, figures)
    figures = {name: figure for name, figure in figures.items() if name in found}
    answer = _worded(telling.best(found, axes, figures))
    pictures = tuple(_pictures(frame, found, axes))
    sections = [
        Section(name="pictures", title="Pictures", figures=pictures),
        Section(name="points", title="Points", tables=(_points(found, axes, figures),)),
        Section(name="failed", title="What failed", tables=tuple(_failed(frame))),
        Section(name="rests-on", title="What the figures rest on", points=tuple(map(_noted, notes))),
    ]
    kept = [each for each in sections if each.figures or each.tables or each.points]
    counts = f"{show_many(len(found), 'point')}, {show_many(len(frame), 'run')}"
    varied = ", ".join(axes.paths) or "nothing"
    again = _again(
        "From the folder of this sweep; points that are known are not run again.", "afdsim sweep sweep.yaml -o again"
    )
    return Page(
        kind="sweep",
        title=axes.name,
        subtitle=(f"{counts}; varied: {varied}",),
        answer=f"{answer[:1].upper()}{answer[1:]}.",
        sections=(*kept, again),
        footer=footer(),
    )


def _worded(best: str) -> str:
    """Return the sentence about the best point as a page has it: what a number is before its unit."""
    text = re.sub(r"(\d[\d.,]*) ([^,:(]+) (ms|s)(?=[,. ])", r"\2 \1 \3", best.replace("\xa0", " "))
    text = re.sub(r", n/a [^,(]+(?=,| \()", "", text)
    return re.sub(r"([\d.]+) USD/1M", r"$\1 per 1M tokens", text)


def _points(found: pd.DataFrame, axes: telling.Axes, figures: Mapping[str, telling.Figure]) -> Table:
    """The main figures of every point, averaged over its seeds, the best first."""
    loads = ["load"] if "load" in found else []
    named = not figures.keys() <= telling.FIGURES.keys()
    head = [*telling.headings(axes), *(figure.title for figure in figures.values()), *loads, "SLA"]
    rows = []
    for row in found.to_dict("records"):
        shown = (figure.text(row[name]) for name, figure in figures.items())
        places = (telling.cell(row[path]) for path in axes.paths)
        rows.append([*places, *shown, *(row[name] for name in loads), telling.standing(row, named=named)])
    return table(head, rows)


def _failed(frame: pd.DataFrame) -> Iterator[Table]:
    counts = Counter(_PATH.sub(r"\1", str(reason)) for reason in frame["error"].dropna())
    if counts:
        rows = [(reason, count) for reason, count in counts.most_common(REASONS)]
        yield table(["reason", "runs"], rows, f"{counts.total():,} of {len(frame):,} runs failed.")


_PATH: Final = re.compile(r"\S*[/\\]([^/\\\s]+:\d+:\d+: )")
"""A place in a file, whose folder is of one machine only."""


def _pictures(frame: pd.DataFrame, found: pd.DataFrame, axes: telling.Axes) -> Iterator[Figure]:
    if frame["tgs"].isna().all():
        return
    yield framed("pareto", _pareto(frame, axes))
    best = found.iloc[0]
    if best["standing"] == "error":
        return
    for number, path in enumerate(axes.paths):
        if frame[path].dtype.kind in "if" and frame[path].nunique() > 2:
            others = [each for each in axes.paths if each != path]
            same = np.logical_and.reduce(
                [np.ones(len(frame), bool), *(_equal(frame[each], best[each]) for each in others)]
            )
            part = frame[same & frame["tgs"].notna().to_numpy()]
            if part[path].nunique() > 2:
                yield framed(f"axis-{number}", _through(part, path, axes))


def _equal(column: pd.Series[Any], value: Any) -> Any:
    return (column.eq(value) | (column.isna() & (value != value))).to_numpy(bool)  # noqa: PLR0124 - NaN is not itself


def _pareto(frame: pd.DataFrame, axes: telling.Axes) -> Exhibit:
    """Every run, with the frontier of those that no other beats."""
    heads = telling.headings(axes)
    rows = frame.to_dict("records")
    where = [
        ", ".join(f"{head} {telling.cell(row[path])}" for head, path in zip(heads, axes.paths, strict=True))
        for row in rows
    ]
    at = [(float(row["tokens_per_s_per_user"]), float(row["tgs"])) for row in rows]
    picture = plot_sweep.pareto(frame)
    front = _frontier(frame)
    texts: list[list[Any]] = [[where[place], *at[place]] for place in front]
    ends = [at[place] for place in front[:: max(1, len(front) - 1)]]
    told = " to ".join(f"{tgs:,.0f} tok/s/GPU at {speed:.1f} tok/s per user" for speed, tgs in ends[:2])
    what = "run" if frame["seed"].ne(frame["seed"].iloc[0]).any() else "point"
    sentence = (
        f"{show_many(len(front), what)} {'is' if len(front) == 1 else 'are'} beaten by no other: {told}."
        if front
        else f"No {what} carries its load within the SLA."
    )
    return Exhibit(
        axes=picture,
        sentence=sentence,
        table=table(["point", "tok/s/user", "tok/s/GPU"], texts),
        names=dict(zip(at, where, strict=True)),
    )


def _frontier(frame: pd.DataFrame) -> list[int]:
    """Rows that meet the SLA, carry their load, and are beaten by no other, the slowest user first."""
    x, y = (frame[name].to_numpy(float) for name in ("tokens_per_s_per_user", "tgs"))
    fine = ~np.isnan(x) & ~np.isnan(y)
    if "sla.met" in frame:
        fine &= frame["sla.met"].astype("boolean").fillna(value=False).to_numpy(bool)
    if "load" in frame:
        fine &= (frame["load"].isna() | frame["load"].eq("STABLE")).to_numpy(bool)
    places = np.flatnonzero(fine)
    return [int(place) for place in places[plot_sweep.frontier(x[places], y[places])]]


def _through(part: pd.DataFrame, path: str, axes: telling.Axes) -> Exhibit:
    """Throughput and latency along one axis, all else as in the best point."""
    picture = plot_sweep.ratio(part, x=path)
    head = telling.headings(axes)[list(axes.paths).index(path)]
    picture.set_xlabel(head)
    means = part.groupby(path)[["tgs", "mean_tpot_ms"]].mean()
    low, *_, high = (
        [telling.cell(value), *row] for value, row in zip(means.index, means.to_numpy().tolist(), strict=True)
    )
    top = f", with the most, {means['tgs'].max():,.0f}, at {telling.cell(means['tgs'].idxmax())}"
    sentence = (
        f"From {low[0]} to {high[0]} tokens per GPU go from {low[1]:,.0f} to {high[1]:,.0f}{top}; "
        f"the mean TPOT goes from {low[2]:.4g} to {high[2]:.4g} ms."
    )
    sentence += " All else is as in the best point." if len(axes.paths) > 1 else ""
    rows: list[list[Any]] = [
        [telling.cell(value), *row] for value, row in zip(means.index, means.to_numpy().tolist(), strict=True)
    ]
    found = table([head, "tok/s/GPU", "mean TPOT (ms)"], rows)
    return Exhibit(axes=picture, sentence=sentence, table=found, title=f"Throughput and latency by {head}")


# comparisons --------------------------------------------------------------------------------------------------------


def comparison(found: Comparison, advice: Sequence[str]) -> Page:
    """Return the page of deployments side by side: who is better by how much, and the pictures over one another."""
    subject = Subject(runs=found.runs, summaries=found.summaries)
    whole = page_of(subject)
    verdict = list(found.verdict)
    first, *rest = verdict or ["There is no figure to compare."]
    own = Section(
        name="differences", title="Differences", tables=(_differences(found),), points=tuple(advice), text=tuple(rest)
    )
    summary, *sections = whole.sections
    sections = [each for each in sections if each.name != "again"]
    _, *shared = joined(found.shared)
    same = Section(name="same", title=f"What all have from {next(iter(found.runs))}", points=tuple(shared))
    again = _again("From the folder of this comparison.", f"afdsim compare {' '.join(_files(found))}")
    summary = replace(summary, tables=summary.tables[1:])
    return replace(whole, kind="comparison", answer=first, sections=(own, summary, *sections, same, again))


def _files(found: Comparison) -> list[str]:
    return [f"runs/{number}/scenario.yaml" for number, _ in enumerate(found.runs, start=1)]


def _differences(found: Comparison) -> Table:
    """Every figure, and by how much every other deployment differs from the first."""
    first, *others = found.runs
    changes = {(each.name, each.key): each for each in found.differences}
    rows = []
    for figure in FIGURES:
        values = {name: value_of(summary, figure.key) for name, summary in found.summaries.items()}
        for name in others:
            if values[first] is None and values[name] is None:
                continue
            change = changes.get((name, figure.key))
            texts = [
                "n/a" if value is None else f"{value * figure.scale:{figure.shown}}"
                for value in (values[first], values[name])
            ]
            known = change is not None and np.isfinite(change.low)
            ends = [
                show_change(change.value) if change else "",
                f"{change.low:+,.1%} to {change.high:+,.1%}" if change and known else "",
            ]
            rows.append([figure.label, *([name] if len(others) > 1 else []), *texts, *ends])
    of = ["deployment", first, "it"] if len(others) > 1 else [first, others[0]]
    return table(["Figure", *of, "change", "95% CI"], rows)


# plans --------------------------------------------------------------------------------------------------------------

_CELLS: Final = ("Cell", "GPUs", "batch", "tok/s/GPU", "TPOT (ms)", "USD per 1M", "binds")


def plan(found: Mapping[str, Any], layouts: pd.DataFrame, front: pd.DataFrame | None) -> Page:
    """Return the page of a plan: the winner, what it was held against, and everything that was tried."""
    best, gpus = found["best"], " and ".join(f"{count} {name}" for name, count in found["budget"].items())
    answer = f"{found['short']}: {_gives(best)}." if best else f"Nothing meets that. {found['why']}"
    sections = [
        Section(name="cells", title="The best", tables=(_cells(best["cells"]),) if best else ()),
        Section(name="families", title="Against the others", tables=(_families(found),)),
        Section(name="pictures", title="Pictures", figures=tuple(_plan_pictures(layouts, front))),
        Section(name="layouts", title="Every layout", tables=(of_frame(_layouts(layouts)),)),
    ]
    counts = found["counts"]
    left = f"bounds left {counts['tried']:,} to measure, and {counts['runs']:,} runs were made"
    effort = f"{counts['layouts']:,} layouts; {left}."
    agree = {True: "Both engines agree about the winner to the bit.", False: "The engines disagree about the winner."}
    notes = (effort, *([agree[found["engines_agree"]]] if found["engines_agree"] is not None else []))
    files = [f"afdsim run {name}" for name in found["winners"]]
    return Page(
        kind="plan",
        title=f"{found['model']} on {gpus}",
        subtitle=(f"Asked for: {WORDS[found['objective']]}", *found["asked"]),
        answer=answer,
        sections=(
            *(each for each in sections if each.tables or each.figures),
            Section(name="rests-on", title="What it rests on", points=notes),
            *([_again("The winner, from the folder of this plan.", "\n".join(files))] if files else []),
        ),
        footer=footer(),
    )


def _gives(choice: Mapping[str, Any]) -> str:
    gpus = " and ".join(f"{count} {name}" for name, count in choice["gpus"].items())
    usd = choice.get("usd_per_1m_output_tokens")
    price = "" if usd is None else f", ${usd:.3f} per 1M tokens"
    speed = f"{choice['tokens_per_s_per_user']:.1f} tok/s per user"
    return f"{choice['output_throughput']:,.0f} tok/s on {gpus}, {choice['tgs']:,.0f} per GPU{price}, {speed}"


def _called(cell: Mapping[str, Any]) -> str:
    return f"{cell['replicas']} x {cell['deployment']}" if cell["replicas"] > 1 else str(cell["deployment"])


def _cells(cells: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for each in cells:
        count = each["replicas"] * sum(each["gpus"].values())
        rows.append([_called(each), count, *(each.get(key) for key in _OF_CELL)])
    return table(_CELLS, rows)


_OF_CELL: Final = ("max_num_seqs", "tgs", "mean_tpot_ms", "usd_per_1m_output_tokens", "binds")


def _families(found: Mapping[str, Any]) -> Table:
    rows = []
    for name, choice in (*found["families"].items(), ("next best", found["runner_up"])):
        if choice is None:
            rows.append([name, "nothing meets it", None, None, None, None])
            continue
        cells = " and ".join(map(_called, choice["cells"]))
        rows.append([name, cells, *(choice.get(key) for key in _OF_CHOICE)])
    return table(["Family", "Best", "tok/s", "tok/s/GPU", "tok/s/user", "USD per 1M"], rows)


_OF_CHOICE: Final = ("output_throughput", "tgs", "tokens_per_s_per_user", "usd_per_1m_output_tokens")


def _plan_pictures(layouts: pd.DataFrame, front: pd.DataFrame | None) -> Iterator[Figure]:
    known = layouts[layouts["standing"].isin(plot_plan.LOOKS)]
    if len(known):
        tried = int((known["standing"] != "bound").sum())
        sentence = f"Of {len(layouts):,} layouts {len(known):,} may meet what was asked, and {tried:,} had to be tried."
        counts = layouts.groupby(["family", "standing"]).size().reset_index(name="layouts")
        picture = plot_plan.plan(layouts)
        yield framed("layouts-tried", Exhibit(axes=picture, sentence=sentence, table=of_frame(counts), wide=True))
    if front is not None and len(front):
        fast = max(front.to_dict("records"), key=lambda row: row["tokens_per_s_per_user"])
        speed = f"{fast['tokens_per_s_per_user']:.1f} tok/s at {fast['tgs']:,.0f} tok/s/GPU"
        sentence = f"The fastest, {fast['deployment']}, gives a user {speed}."
        yield framed(
            "front", Exhibit(axes=plot_plan.front(front), sentence=sentence, table=of_frame(_layouts(front)), wide=True)
        )


def _layouts(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of layouts that a reader looks for, under names without underscores."""
    kept = frame[[name for name in _OF_LAYOUT if name in frame]]
    return kept.rename(columns=dict(_OF_LAYOUT)).astype(object).where(kept.notna().to_numpy(), "")


_OF_LAYOUT: Final = {
    "deployment": "layout",
    "family": "family",
    "standing": "standing",
    "max_num_seqs": "batch",
    "tgs": "tok/s/GPU",
    "tokens_per_s_per_user": "tok/s/user",
    "usd_per_1m_output_tokens": "USD per 1M",
    "binds": "binds",
    "why": "why it is out",
}


# capacity -----------------------------------------------------------------------------------------------------------


def capacity(found: Mapping[str, Any], points: pd.DataFrame) -> Page:
    """Return the page of a search for capacity: the answer, what binds, and every point that was simulated."""
    closed = "max_num_seqs" in found
    value = found["max_num_seqs"] if closed else found["request_rate"]
    shown = f"{value:,.0f} sequences of a rank" if closed else f"{value:,.5g} req/s"
    binds = found.get("binds")
    why = f" Beyond that, {binds['text']}." if binds and binds.get("text") else ""
    gives = f", {found['tgs']:,.0f} tok/s/GPU on {found['gpus']} GPUs" if "tgs" in found else ""
    answer = (
        f"{found['scenario']} carries {shown} within its SLA{gives}.{why}"
        if value
        else f"{found['scenario']} carries nothing.{why}"
    )
    carried = int((points["found"] == "carried").sum())
    held = points.dropna(subset=["value_ms"]) if "value_ms" in points else points[:0]
    figures: tuple[Figure, ...] = ()
    if len(held):
        sentence = f"{carried} of {len(points)} points that were simulated are carried."
        kept = points[[name for name in _OF_POINT if name in points]].rename(columns=dict(_OF_POINT))
        picture = plot_plan.capacity(held)
        exhibit = Exhibit(axes=picture, sentence=sentence, table=of_frame(kept), title="What it carries", wide=True)
        figures = (framed("capacity", exhibit),)
    options = " ".join(f"--set {shlex.quote(option)}" for option in found["options"])
    return Page(
        kind="capacity",
        title=found["scenario"],
        badges=(Badge(what="Capacity", word=shown if value else "none"),),
        answer=answer,
        sections=(
            Section(name="points", title="What was simulated", figures=figures),
            *(
                [Section(name="notes", title="Notes", points=tuple(map(_noted, found["notes"])))]
                if found["notes"]
                else []
            ),
            _again("The run of the answer, from the folder of this search.", f"afdsim run scenario.yaml {options}"),
        ),
        footer=footer(),
    )


_OF_POINT: Final = {
    "request_rate": "req/s",
    "max_num_seqs": "sequences of a rank",
    "found": "found",
    "metric": "limited",
    "value_ms": "value (ms)",
    "limit_ms": "limit (ms)",
    "tgs": "tok/s/GPU",
}
