"""Pictures of a report: when there is one, the sentence that it answers with its number, and the table behind it.

`DRAWN` lists them by section. A picture that a run has no data for is left out; so is one whose drawing is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from afdsim.engine.books import CAUSES
from afdsim.results import blaming, metrics, plot, plot_accounts, plot_sweep, plot_time, spread
from afdsim.results.header import short
from afdsim.results.inline import Names, inline, stairs
from afdsim.results.metrics import Columns, Run
from afdsim.results.operators import operators
from afdsim.results.page import Figure, Table, shown, table
from afdsim.results.plot_parts import colours
from afdsim.scenario.document import Scenario
from afdsim.units import show_many

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Told(Protocol):
    """A finished simulation with its summary; `afdsim.Result` is one."""

    @property
    def run(self) -> Run:
        """Its columns."""

    @property
    def scenario(self) -> Scenario:
        """What was simulated."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """Its figures, as in ``result.json``."""

    @property
    def plot(self) -> Any:
        """Pictures that are its own, by name."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a report is about: the seeds of every deployment, and the summary of each over them."""

    runs: Mapping[str, Sequence[Told]]
    summaries: Mapping[str, Mapping[str, Any]]

    @property
    def alone(self) -> bool:
        """Whether it is about one deployment."""
        return len(self.runs) == 1

    @property
    def first(self) -> Told:
        """The first seed of the first deployment, which pictures of one run show."""
        return next(iter(self.runs.values()))[0]

    @property
    def seeds(self) -> int:
        """How many runs there are of the first deployment."""
        return len(next(iter(self.runs.values())))

    @property
    def seed(self) -> str:
        """What the first run is called, where pictures show it and not its mates."""
        return f"seed {self.first.summary['afdsim']['provenance']['seed']}"

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures of the first deployment."""
        return next(iter(self.summaries.values()))

    @property
    def columns(self) -> dict[str, list[Run]]:
        """The runs by deployment; one alone has no name, so that pictures do not write it on everything."""
        return {"" if self.alone else name: [each.run for each in seeds] for name, seeds in self.runs.items()}

    def samples(self, metric: str) -> dict[str, metrics.Samples]:
        """Return the seconds of a latency, of all seeds together, of every deployment that has some."""
        having = {name: runs for name, runs in self.columns.items() if metric in metrics.latencies(runs[0])}
        found = {name: spread.pooled(runs, metric) for name, runs in having.items()}
        return {name: each for name, each in found.items() if each.count}

    def limits_ms(self, metric: str) -> dict[str, tuple[str, float]]:
        """Statistic and limit, ms, of the SLA of every deployment that has one on a latency."""
        asked = {name: runs[0].sla for name, runs in self.columns.items()}
        return {
            name: (sla.percentile, 1e3 * sla.limits[metric])
            for name, sla in asked.items()
            if sla is not None and metric in sla.limits
        }


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A picture with what is said of it."""

    axes: Axes
    sentence: str
    table: Table | None = None
    title: str = ""
    """Instead of that of the picture."""
    wide: bool = False
    names: Names | None = None


WIDE: Final = 14.6
"""Inches of a picture as wide as the page, on which text is as large as on one of half its width."""

Draw = Callable[[Subject], Exhibit | None]


def figures(subject: Subject, section: str) -> Iterator[Figure]:
    """Yield the figures of a section that the runs have data for."""
    for name, draw in DRAWN[section].items():
        found = draw(subject)
        if found is not None:
            yield framed(name, found)


def framed(name: str, found: Exhibit) -> Figure:
    """Return an exhibit as a figure of a page; its title stands below it and not on it."""
    title = found.title or found.axes.get_title()
    figure = found.axes.get_figure(root=True)
    if found.wide and figure is not None:
        figure.set_size_inches(WIDE, figure.get_size_inches()[1])
    svg = inline(found.axes, name, f"{title}. {found.sentence}", found.names)
    return Figure(name=name, title=title, sentence=found.sentence, svg=svg, table=found.table, wide=found.wide)


# latency ------------------------------------------------------------------------------------------------------------


def _histogram(metric: str) -> Draw:
    def draw(subject: Subject) -> Exhibit | None:
        if not (samples := subject.samples(metric)):
            return None
        axes = getattr(plot, f"{metric}_histogram")(subject.columns)
        sentence = _sentence(_middles(samples, metric), subject) + far_off(subject, metric)
        return Exhibit(axes=axes, sentence=sentence, table=_bins(axes), title=_TITLES[metric])

    return draw


def far_off(subject: Subject, metric: str) -> str:
    """Say which limits of a latency are so far off that a histogram does not draw them; nothing where none is."""
    every = 1e3 * np.concatenate([each.values for each in subject.samples(metric).values()])
    limits = {limit for _, limit in subject.limits_ms(metric).values() if plot.far(every, limit)}
    text = " and ".join(f"{limit:,.6g}" for limit in sorted(limits))
    return f" The SLA of {text} ms is far off this picture." if limits else ""


_TITLES: Final = {"tpot": "Time per output token, by request", "ttft": "Time to first token, by request"}


def _middles(samples: Mapping[str, metrics.Samples], metric: str) -> dict[str, str]:
    """Say where half and nearly all of the requests are, as far as there are enough of them."""
    parts = {}
    for name, each in samples.items():
        high = next((percent for percent in (99, 95, 90) if metrics.enough(each.count, percent)), 100)
        ends = [shown(1e3 * value) for value in metrics.percentiles(each, (50, high)).tolist()]
        if metrics.enough(each.count, 50):
            most = "all" if high == 100 else f"{high}%"
            said = (
                f"half of the requests have a {metric.upper()} of at most {ends[0]} ms, and {most} at most {ends[1]} ms"
            )
        else:
            few = show_many(each.count, "request")
            said = f"{few}, too few for percentiles, with a {metric.upper()} of at most {ends[1]} ms"
        parts[name] = said
    return parts


def _sentence(parts: Mapping[str, str], subject: Subject) -> str:
    """Return what is said of deployments as one sentence: once where it is the same of all, else by name."""
    if len(set(parts.values())) == 1 and len(parts) == len(subject.runs):
        text = next(iter(parts.values()))
        return f"{text[:1].upper()}{text[1:]}{' in every run' if len(parts) > 1 else ''}."
    return "; ".join(f"{name}: {text}" for name, text in parts.items()) + "."


def _bins(axes: Axes) -> Table:
    """Return the bins of a histogram with the share of every series."""
    found = list(stairs(axes))
    edges = found[0][1]
    head = ["from (ms)", "to (ms)", *(f"{name or 'share'} (%)" for _, _, name in found)]
    shares = zip(*(values for values, _, _ in found), strict=True)
    rows = ([f"{low:,.6g}", f"{high:,.6g}", *own] for low, high, own in zip(edges, edges[1:], shares, strict=False))
    return table(head, rows)


def _cdf(metric: str, *, tail: bool = False) -> Draw:
    def draw(subject: Subject) -> Exhibit | None:
        samples = subject.samples(metric)
        if not samples or (tail and min(each.count for each in samples.values()) < 100):
            return None
        if tail:
            axes = getattr(plot, f"{metric}_cdf")(subject.columns, tail=True)
            sentence = _sentence(_ends(samples, metric), subject) + far_off(subject, metric)
        else:
            axes = getattr(plot, f"{metric}_cdf")(subject.columns)
            sentence = _sentence(_inside(samples, subject.limits_ms(metric), metric), subject)
        title = (
            f"{metric.upper()}: the slowest requests" if tail else f"{metric.upper()}: share of requests within a time"
        )
        return Exhibit(axes=axes, sentence=sentence, table=_quantiles(samples), title=title)

    return draw


def _inside(
    samples: Mapping[str, metrics.Samples], limits: Mapping[str, tuple[str, float]], metric: str
) -> dict[str, str]:
    """Say which share of the requests is inside the limit of their deployment, or within what nine of ten are."""
    parts = {}
    for name, each in samples.items():
        if name not in limits:
            ninth = shown(1e3 * metrics.percentiles(each, (90,)).tolist()[0])
            parts[name] = f"nine of ten requests have a {metric.upper()} of at most {ninth} ms"
            continue
        statistic, limit = limits[name]
        share = np.count_nonzero(1e3 * each.values <= limit) / each.count
        asked = f"which the SLA asks of their {statistic}"
        parts[name] = f"{_share(share)} requests have a {metric.upper()} of at most {limit:,.6g} ms, {asked}"
    return parts


def _share(share: float) -> str:
    """Write a share without rounding up to all or down to none."""
    shown = f"{share:.1%}"
    return "all" if share == 1 else "nearly all" if shown == "100.0%" else "no" if share == 0 else f"{shown} of the"


def _ends(samples: Mapping[str, metrics.Samples], metric: str) -> dict[str, str]:
    parts = {}
    for name, each in samples.items():
        one = next(percent for percent in (99.9, 99, 90) if metrics.enough(each.count, percent) or percent == 90)
        high, most = shown(1e3 * metrics.percentiles(each, (one,)).tolist()[0]), shown(1e3 * float(each.values.max()))
        slow = f"one request in {100 / (100 - one):,.0f} has a {metric.upper()} above {high} ms"
        parts[name] = f"{slow}, the slowest {most} ms"
    return parts


_PERCENTS: Final = (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


def _quantiles(samples: Mapping[str, metrics.Samples]) -> Table:
    """Return percentiles that have enough samples, in ms."""
    head = ["requests (%)", *(f"{name or 'at or below'} (ms)" for name in samples)]
    known = [p for p in _PERCENTS if all(metrics.enough(each.count, max(p, 100 - p)) for each in samples.values())]
    columns = [(1e3 * metrics.percentiles(each, known)).tolist() for each in samples.values()]
    return table(head, ([f"{p:g}", *row] for p, *row in zip(known, *columns, strict=True)))


def _itl(subject: Subject) -> Exhibit | None:
    """Gaps between tokens, where the TPOTs of requests average jitter away."""
    gaps = subject.samples("itl").get("") if subject.alone else None
    if gaps is None or not spread.averaged_away(subject.samples("tpot").get("")):
        return None
    axes = plot.itl_histogram(subject.first)
    low, high = (1e3 * metrics.percentiles(gaps, (1, 99))).tolist()
    gap = f"98% of the gaps between two tokens are {low:,.4g} to {high:,.4g} ms"
    sentence = f"{gap}: jitter that a request's TPOT averages away."
    return Exhibit(axes=axes, sentence=sentence, table=_bins(axes), title="Time between two tokens")


# where the time went ------------------------------------------------------------------------------------------------


def _causes(subject: Subject) -> Exhibit:
    parts, rows = [], []
    for name, summary in subject.summaries.items():
        for pool, own in summary["afdsim"]["pools"].items():
            shares = {cause: float(own.get(cause, 0.0)) for cause in CAUSES}
            who = (
                f"{pool} ({own['gpus']} {own['gpu']})"
                if subject.alone
                else f"{name}: {pool} ({own['gpus']} {own['gpu']})"
            )
            rows.append([who, *(f"{100 * share:.2f}" for share in shares.values())])
            worst = max(CAUSES[1:], key=shares.__getitem__)
            most = f", {shares[worst]:.1%} {worst.replace('_', ' ')}" if shares[worst] >= 0.005 else ""
            parts.append(f"{'' if subject.alone else f'{name} '}{pool} {shares['busy']:.1%} busy{most}")
    head = ["pool", *(f"{cause.replace('_', ' ')} (%)" for cause in CAUSES)]
    sentence = f"Of the time of GPUs: {'; '.join(parts)}."
    return Exhibit(axes=plot.causes(subject.columns), sentence=sentence, table=table(head, rows))


def _blame(subject: Subject) -> Exhibit | None:
    found = subject.summary["afdsim"].get("blame") if subject.alone else None
    blame = subject.first.run.blame
    if found is None or not blame or not len(blame["culprit"]):
        return None
    axes = plot_accounts.blame(subject.first)
    names = [text.get_text() for text in axes.get_yticklabels()]
    bars: Sequence[Any] = axes.patches
    widths = [bar.get_width() for bar in bars]
    if not widths:
        return None
    kinds = [f"{blaming.WORDS[kind]} {own['share']:.1%}" for kind, own in list(found["kinds"].items())[:3]]
    sentence = (
        f"The worst single culprit is {names[0]}, with {widths[0]:.2g}% of all GPU time; in all {', '.join(kinds)}."
    )
    rows = zip(names, (f"{width:.3g}" for width in widths), strict=False)
    return Exhibit(axes=axes, sentence=sentence, table=table(["culprit", "share of all GPU time (%)"], rows))


def _utilization(subject: Subject) -> Exhibit | None:
    if not subject.alone:
        return None
    run = subject.first.run
    seconds = np.stack([np.asarray(run.gpus[cause], float) for cause in CAUSES])
    busy, pools = 100 * seconds[0] / seconds.sum(axis=0), np.asarray(run.gpus["pool"])
    ends = [f"{pool} {_range(busy[pools == pool])}" for pool in run.pools]
    columns = (np.asarray(run.gpus[name]).tolist() for name in ("pool", "instance", "rank"))
    rows = zip(*columns, (f"{share:.2f}" for share in busy.tolist()), strict=True)
    whose = "single GPUs" if subject.seeds == 1 else f"single GPUs with {subject.seed}"
    sentence = f"Busy shares of {whose} over the window of the metrics: {', '.join(ends)}."
    axes = plot_time.utilization(subject.first)
    found = table(["pool", "instance", "rank", "busy in the window (%)"], rows)
    return Exhibit(axes=axes, sentence=sentence, table=found, wide=True)


def _range(shares: Any) -> str:
    """Write the ends of some shares, percent; once where they are the same."""
    low, high = f"{shares.min():.1f}", f"{shares.max():.1f}"
    return f"{low}%" if low == high else f"{low} to {high}%"


# over time ----------------------------------------------------------------------------------------------------------


def _pipeline(subject: Subject) -> Exhibit | None:
    """Three layers of a step, if somebody watched."""
    spans = subject.first.run.pipeline if subject.alone else {}
    if not len(spans):
        return None
    rows = zip(*(_cells(name, spans) for name in _SPAN), strict=True)
    found = table([*_SPAN.values()], rows)
    sentence = _bubbles(spans, "" if subject.seeds == 1 else f" with {subject.seed}")
    return Exhibit(axes=plot_time.gantt(subject.first), sentence=sentence, table=found, wide=True)


def _bubbles(spans: Columns, where: str = "") -> str:
    """Say which track stands still most, and what most bubbles are."""
    cause, track = np.asarray(spans["cause"]), np.asarray(spans["track"])
    begin, end = (np.asarray(spans[name], float) for name in ("start_s", "end_s"))
    lost = {each: float((end - begin)[cause == each].sum()) for each in CAUSES[1:]}
    idle = {each: float((end - begin)[(track == each) & (cause != "busy")].sum()) for each in sorted(set(track))}
    most, worst = max(idle, key=idle.__getitem__), max(lost, key=lost.__getitem__)
    if not lost[worst]:
        return f"In the layers shown{where} nobody stands still."
    share, of = metrics.ratio(idle[most], float(end.max() - begin.min())), lost[worst] / sum(lost.values())
    why = f"{of:.0%} of all bubbles are {worst.replace('_', ' ')}"
    return f"In the layers shown{where} {most} stands still most, {share:.0%} of the time; {why}."


_SPAN: Final = {
    "track": "track",
    "start_s": "begin (ms)",
    "end_s": "end (ms)",
    "layer": "layer",
    "micro_batch": "micro-batch",
    "what": "what",
    "cause": "cause",
}


def _cells(name: str, spans: Columns) -> list[Any]:
    """A column of spans, times in ms after the first."""
    if not name.endswith("_s"):
        return [
            str(each).replace("_", " ") if isinstance(each, str) else each for each in np.asarray(spans[name]).tolist()
        ]
    zero = float(np.min(np.asarray(spans["start_s"], float)))
    return [f"{1e3 * (each - zero):.4f}" for each in np.asarray(spans[name], float).tolist()]


def _queue(subject: Subject) -> Exhibit | None:
    waits = subject.samples("queue").get("") if subject.alone else None
    if waits is None:
        return None
    late, most = metrics.mean(waits), float(waits.values.max())
    sentence = f"A request waits {shown(1e3 * late)} ms for its seat on average, and {shown(1e3 * most)} ms at most."
    sentence += "" if subject.seeds == 1 else f" The curves are those of {subject.seed}."
    axes = plot_time.queue(subject.first, points=200)
    return Exhibit(axes=axes, sentence=sentence, table=_series(axes))


def _series(axes: Axes) -> Table | None:
    """Return the first curves or stairs of axes as rows."""
    found = list(stairs(axes))
    if found:
        rows = zip(found[0][1], *(values for values, _, _ in found), strict=False)
        return table([axes.get_xlabel(), *(name or axes.get_ylabel() for *_, name in found)], rows)
    lines = [line for line in axes.lines if np.size(line.get_xdata()) > 2]
    if not lines:
        return None
    rows = zip(*(np.asarray(each, float).tolist() for each in lines[0].get_data()), strict=True)
    return table([axes.get_xlabel(), axes.get_ylabel()], rows)


def _throughput(subject: Subject) -> Exhibit | None:
    summary = subject.summary
    if not subject.alone or "tgs" not in summary["afdsim"]:
        return None
    axes = plot.throughput(subject.first)
    run = subject.first.run
    _, rates = metrics.throughput_over_time(run.tokens, run.window, 60)
    mean = summary["output_throughput"] if subject.seeds == 1 else metrics.output_throughput(run.tokens, run.window)
    sentence = (
        f"The cluster makes {mean:,.0f} tokens/s on average over the window of {run.duration:,.4g} s"
        f"{'' if subject.seeds == 1 else f' of {subject.seed}'}, between {rates.min():,.0f} and {rates.max():,.0f}."
    )
    return Exhibit(axes=axes, sentence=sentence, table=_series(axes), title="Throughput over simulated time")


# throughput and cost ------------------------------------------------------------------------------------------------


def _speed(subject: Subject) -> Exhibit | None:
    """Throughput against the speed of a user: every deployment, or the one with its neighbours."""
    alone = short(subject.first.scenario) if subject.alone else ""
    rows = [_point(alone or name, each["afdsim"], each) for name, each in subject.summaries.items()]
    if subject.alone:
        more = subject.summary["afdsim"].get("marginal", ())
        rows += [_point(each["deployment"], each, each) for each in more if "why" not in each]
    rows = [row for row in rows if None not in row]
    if len(rows) < 2:
        return None
    columns = dict(
        zip(("deployment", "tokens_per_s_per_user", "tgs"), map(np.array, zip(*rows, strict=True)), strict=True)
    )
    axes = plot_sweep.pareto(columns, hue="deployment", met=None, shades=_shades(subject, [row[0] for row in rows]))
    _closer(axes, columns)
    best = max(rows, key=lambda row: row[2])
    sentence = f"{best[0]} makes the most of its GPUs, {best[2]:,.0f} tok/s each, at {best[1]:.1f} tok/s for a user."
    names = {(row[1], row[2]): row[0] for row in rows}
    head = ["deployment", "tok/s/user", "tok/s/GPU"]
    return Exhibit(axes=axes, sentence=sentence, table=table(head, rows), names=names)


def _shades(subject: Subject, names: Sequence[str]) -> dict[str, str]:
    """Give deployments the colours that all pictures of the page have; one alone is the first, without a name."""
    if not subject.alone:
        every = colours(subject.runs)
        return {name: every[name] for name in names}
    own, *others = names if names[0] == short(subject.first.scenario) else ("", *names)
    first = colours([""])[""]
    found = colours(["", *dict.fromkeys(others)])
    return {**({own: first} if own else {}), **{name: found[name] for name in dict.fromkeys(others)}}


def _closer(axes: Axes, columns: Mapping[str, Any]) -> None:
    """Let axes begin near the points where these lie close together far from zero."""
    for limits, name in ((axes.set_xlim, "tokens_per_s_per_user"), (axes.set_ylim, "tgs")):
        low, high = float(columns[name].min()), float(columns[name].max())
        if low > 0.6 * high:
            room = max(0.25 * (high - low), 0.02 * high)
            limits(low - room, high + room)


def _point(name: str, own: Mapping[str, Any], flat: Mapping[str, Any]) -> tuple[Any, ...]:
    speed = own.get("tokens_per_s_per_user") or (1e3 / flat["mean_tpot_ms"] if flat.get("mean_tpot_ms") else None)
    return name, speed, own.get("tgs")


def _cost(subject: Subject) -> Exhibit | None:
    priced = {name: each["afdsim"].get("usd_per_1m_output_tokens") for name, each in subject.summaries.items()}
    known = {name: usd for name, usd in priced.items() if usd is not None}
    if not known:
        return None
    axes = plot_accounts.cost(subject.columns)
    rows = [(name, usd, 1e6 / usd) for name, usd in known.items()]
    found = table(["deployment", "USD per 1M output tokens", "output tokens per USD"], rows)
    if not subject.alone:
        told = ", ".join(f"${usd:.3f} with {name}" for name, usd in known.items())
        return Exhibit(axes=axes, sentence=f"A million output tokens cost {told}.", table=found)
    axes.set_yticks([])
    pools = subject.summary["afdsim"]["pools"].items()
    idle = ", ".join(f"{100 * (1 - own['busy']):.0f}% of what the {pool} GPUs cost" for pool, own in pools)
    sentence = f"A million output tokens cost ${next(iter(known.values())):.3f}; waiting takes {idle}."
    return Exhibit(axes=axes, sentence=sentence, table=found)


def _roofline(subject: Subject) -> Exhibit | None:
    if not subject.alone:
        return None
    found: Any = getattr(subject.first, "operators", None)
    found = operators(subject.first.scenario, subject.first.run) if found is None else found
    each: Columns = {str(name): np.asarray(found[name]) for name in found}
    share = each["seconds"] * each["per_step"]
    share = share / share.sum()
    drawn = np.flatnonzero((each["flops"] > 0) & (each["bytes"] > 0))
    across, up = each["flops"][drawn] / each["bytes"][drawn], each["flops"][drawn] / each["seconds"][drawn] / 1e12
    names = dict(zip(zip(across.tolist(), up.tolist(), strict=True), each["name"][drawn].tolist(), strict=True))
    longest = int(np.argmax(share))
    bound = f", bound by {each['bound'][longest]}" if "bound" in each else ""
    sentence = f"The longest operator, {each['name'][longest]}, takes {share[longest]:.0%} of the kernels' time{bound}."
    return Exhibit(axes=plot_accounts.roofline(found), sentence=sentence, table=_operators(each, share), names=names)


def _operators(each: Columns, share: Any) -> Table:
    """Return the operators, the longest first; flops, bytes and seconds are of one."""
    head = ["operator", "stage", "GPU", "dtype", "share of time (%)", "GFLOP", "MB", "µs", "reached (TFLOP/s)"]
    rows: list[list[Any]] = []
    for at in np.argsort(-share, kind="stable").tolist():
        flops, moved, seconds = (float(each[key][at]) for key in ("flops", "bytes", "seconds"))
        reached = metrics.ratio(flops, seconds) / 1e12
        names = (str(each[key][at]) for key in ("name", "stage", "gpu", "dtype"))
        rows.append([*names, f"{100 * share[at]:.2f}", flops / 1e9, moved / 1e6, 1e6 * seconds, reached])
    return table(head, rows)


DRAWN: Final[Mapping[str, Mapping[str, Draw]]] = {
    "latency": {
        "ttft-histogram": _histogram("ttft"),
        "ttft-cdf": _cdf("ttft"),
        "tpot-histogram": _histogram("tpot"),
        "tpot-cdf": _cdf("tpot"),
        "tpot-tail": _cdf("tpot", tail=True),
        "itl-histogram": _itl,
    },
    "gpu-time": {"causes": _causes, "blame": _blame, "utilization": _utilization, "pipeline": _pipeline},
    "over-time": {"queue": _queue, "throughput": _throughput},
    "economy": {"speed": _speed, "cost": _cost, "roofline": _roofline},
}
"""Pictures of every section of a report, in order."""
