"""What `afdsim run` prints: plain text of at most 96 columns, the same in a terminal, a pipe and a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afdsim import __version__
from afdsim.engine.books import CAUSES
from afdsim.results import blaming, caching, classed, conversed, metrics, mixed, outages, spread
from afdsim.results.bottleneck import ROUND_TRIP
from afdsim.results.header import (
    deployment_lines,
    hanging,
    model_lines,
    network_line,
    prefill_lines,
    router_line,
    straggler_lines,
)
from afdsim.results.ink import Ink, sparkline, table
from afdsim.units import show_count, show_rate

if TYPE_CHECKING:
    from afdsim.results.result import Result

_BAR = 48

_CAUSES = tuple(cause.replace("_", " ") for cause in CAUSES)


def terminal(
    results: Result | Sequence[Result],
    *,
    summary: Mapping[str, Any] | None = None,
    source: str = "",
    saved: Path | None = None,
    ink: Ink | None = None,
) -> str:
    """Return the report of one run, or of several that differ in their seed only.

    `summary` is theirs (`afdsim.results.result.pooled`), `source` the name the scenario was asked for by.
    """
    from afdsim.results.result import Result, pooled

    runs = [results] if isinstance(results, Result) else list(results)
    page = _Page(runs=runs, summary=summary or pooled(runs), ink=ink or Ink())
    parts = (
        page.head(source),
        page.load(),
        page.latencies(),
        classed.lines(page.own, page.ink, prefilled=page.prefilled),
        page.throughput(),
        page.histogram(),
        page.over_time(),
        page.causes(),
        page.blame(),
        page.marginal(),
        page.cells(),
        page.failures(),
        page.prompts(),
        page.kv_cache(),
        page.sessions(),
        page.verdict(),
        page.remarks(),
        [f"Saved {saved}/  ({_content(saved)})"] if saved is not None else [],
    )
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _content(saved: str | Path) -> str:
    """Name what a folder holds; no report and no figures where these could not be drawn."""
    drawn = {"report.html": "report.html, ", "figures": ", figures/"}
    first, last = (text if (Path(saved) / name).exists() else "" for name, text in drawn.items())
    return f"{first}result.json, scenario.yaml, frames{last}"


_OF_CELLS = {
    "TPOT": "mean_tpot_ms",
    "p99 TPOT": "p99_tpot_ms",
    "queue": "mean_queue_ms",
    "p99 queue (ms)": "p99_queue_ms",
}
"""Heads of the columns of cells, with keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """The blocks of the report; each is a list of lines, empty where there is nothing to say."""

    runs: Sequence[Result]
    summary: Mapping[str, Any]
    ink: Ink

    @property
    def own(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.summary["afdsim"]
        return found

    def head(self, source: str) -> list[str]:
        """Say what was run."""
        scenario = self.runs[0].scenario
        seeds = ",".join(str(each.seed) for each in self.runs)
        key = f"sha256:{scenario.key[:8]}"
        plural = "s" if len(self.runs) > 1 else ""
        first = f"afdsim {__version__}  {source or scenario.name}  {key}  seed{plural} {seeds}"
        lines = [self.ink.strong(first), *model_lines(scenario, self.runs[0].formats)]
        lines += deployment_lines(scenario)
        lines += [*prefill_lines(scenario), *router_line(scenario)]
        return [*lines, *network_line(scenario), *straggler_lines(scenario)]

    def latencies(self) -> list[str]:
        """Return the table of percentiles, with the definitions below."""
        runs = [each.run for each in self.runs]
        drafts = any(part.deployment.mtp is not None for part in self.runs[0].scenario.parts)
        rows = spread.rows(runs, drafts=drafts)
        if not rows:
            return ["No request finished in the window: there is no latency to show."]
        lines = table(["Metric", *spread.COLUMNS], rows, self.ink)
        lines += hanging(" n/a: ", lacking) if (lacking := spread.too_few(rows)) else []
        *first, tpot = spread.definitions(runs[0], drafts=drafts)
        return [*lines, *(f" {each}" for each in first), *hanging(" TPOT = ", tpot.removeprefix("TPOT = "))]

    @property
    def prefilled(self) -> bool:
        """Whether the first token comes from prefill."""
        return self.runs[0].run.prefilled

    @property
    def _mixed(self) -> bool:
        return self.runs[0].run.mixed is not None

    def throughput(self) -> list[str]:
        """Say tokens per second in all, per GPU, per user, and what they cost; or why that is not known."""
        lost = (fate for fate in ("refused", "lost", "unfinished") if self.own.get(fate))
        fates = [f"{show_count(self.summary['completed'])} finished"]
        fates += [f"{show_count(self.own[fate])} {fate}" for fate in lost]
        ended = "ended_s" in self.own.get("saturation", {})
        by = f", requests {'that came or left in it' if ended else 'by their arrival'}" if "load" in self.own else ""
        window = f"window {self.summary['duration']:,.4g} s simulated{by}"
        requests = f"Requests  {', '.join(fates)}; {window}"
        if "tgs" not in self.own and "load" not in self.own:
            why = "the window is shorter than half a step; count more requests (workload.num_requests)"
            return [f"Output    n/a: {why}", requests]
        if "tgs" not in self.own:
            which = "a seed" if len(self.runs) > 1 else "the run"
            short = f"Output    n/a, {which} was too short to be steady: see Load"
            return [short, f"{requests}, warm-up included"]
        parts = [f"{self.summary['output_throughput']:,.0f} tok/s"]
        parts.append(f"{self.own['tgs']:,.0f} tok/s/GPU (TGS{self._tgs_error()})")
        if "tokens_per_s_per_user" in self.own:
            parts.append(f"{self.own['tokens_per_s_per_user']:.1f} tok/s/user")
        over = (
            [f"          TGS over all {self.own['gpus']:,} GPUs, prefill's too"]
            if self.prefilled and not self._mixed
            else []
        )
        return [f"Output    {'   '.join(parts)}", *over, *self._cost(), requests]

    def _cost(self) -> list[str]:
        """Return the price of tokens with that of the GPUs, and where it comes from."""
        if "usd_per_1m_output_tokens" not in self.own:
            return []
        given = self.runs[0].scenario.cost
        prices = {
            pool.gpu: f"{pool.gpu} {pool.usd_per_hour:,.4g} USD/h ({'scenario' if pool.gpu in given else 'catalog'})"
            for pool in self.runs[0].run.pools.values()
        }
        return [
            f"Cost      ${self.own['usd_per_1m_output_tokens']:.3f} per 1M output tokens; {', '.join(prices.values())}"
        ]

    def _tgs_error(self) -> str:
        if "tgs_ci" not in self.own or not self.own["tgs"]:
            return ""
        low, high = self.own["tgs_ci"]
        over = f" over {len(self.runs)} seeds" if len(self.runs) > 1 else ""
        half = (high - low) / 2 / self.own["tgs"]
        return f", 95% CI +-{half:.{1 if half >= 0.01 else 2}%}{over}"

    def histogram(self) -> list[str]:
        """Draw the TPOT of the requests, with the limit; the ITL where that says more."""
        found = {name: each for name in _TITLES if (each := self._pooled(name)).count}
        if "itl" in found and spread.averaged_away(found.get("tpot")):
            return [*self._histogram("tpot", found), "", *self._histogram("itl", found)]
        return self._histogram(next(iter(found), ""), found)

    def _histogram(self, metric: str, found: Mapping[str, metrics.Samples]) -> list[str]:
        if metric not in found:
            return []
        limit = self._limit_ms(metric)
        title = _TITLES[metric] + _limit_outside(found[metric], limit)
        return [self.ink.strong(title), *_bars(found[metric], limit, self.ink)]

    def _limit_ms(self, metric: str) -> float | None:
        sla = self.own.get("sla", {})
        limits = sla.get("limits", {sla.get("metric"): sla})
        found: float | None = limits.get(metric, {}).get("limit_ms")
        return found

    def over_time(self) -> list[str]:
        """Draw the output of the first run over its window."""
        run = self.runs[0].run
        _, rates = metrics.throughput_over_time(run.tokens, run.window, 60)
        if not rates.any() or not (run.steady or run.load):
            return []
        return [f"tok/s over time  {sparkline(rates.tolist(), self.ink)}  peak {rates.max():,.0f}"]

    def causes(self) -> list[str]:
        """Say where the GPU time went, instance by instance where these differ, and what bounds a step."""
        pools = self.own["pools"]
        rows = []
        for name, pool in pools.items():
            rows.append([f"{name} {pool['gpus']}x {pool['gpu']}", *(f"{pool.get(cause, 0.0):.1%}" for cause in CAUSES)])
            rows += self._instances(name)
        lines = [self.ink.strong("Where the GPU time went (rows sum to 100 %)")]
        lines += table(["pool", *_CAUSES], rows, self.ink)
        return [*lines, *_ranks(pools), *_efficiency(pools), *_bottleneck(self.own, self._idle())]

    def blame(self) -> list[str]:
        """Say whom the GPUs waited for, and what bound the steps."""
        found = self.own.get("blame")
        return [] if found is None else [self.ink.strong(blaming.TITLE), *blaming.lines(found)]

    def marginal(self) -> list[str]:
        """Say what one more instance of each role would give."""
        return [*blaming.marginal(self.own.get("marginal", ()))]

    def _idle(self) -> float:
        """Return the share of time in which the instance that is hardly ever without work is without."""
        column = CAUSES.index("no_work")
        frames = [each.run.gpus for each in self.runs]
        pools = [pool for pool in self.own["pools"] if pool != "prefill"]  # whose steps are no part of a decode step
        return min(shares[column] for pool in pools for shares in _by_instance(frames, pool).values())

    def _instances(self, pool: str) -> list[list[str]]:
        """Return a row per instance of a pool where their busy shares differ or one is slowed down.

        Of a large pool only the most and the least busy are shown, and those slowed down.
        """
        shares = _by_instance([each.run.gpus for each in self.runs], pool)
        target = "instance" if pool == "colocated" else pool
        slow = [index for index in shares if f"{target}[{index}]" in self.runs[0].scenario.variation.straggler]
        busy = sorted(shares, key=lambda index: shares[index][0])
        if len(busy) < 2 or (not slow and shares[busy[-1]][0] - shares[busy[0]][0] <= _APART):
            return []
        shown = sorted(busy) if len(busy) <= _MOST_ROWS else sorted({busy[0], busy[-1], *slow[: _MOST_ROWS - 2]})
        return [[f"  {target}[{index}]", *(f"{share:.1%}" for share in shares[index])] for index in shown]

    def cells(self) -> list[str]:
        """Say what every cell behind a router did; of many those with the longest waits and TPOT."""
        cells = self.own.get("cells", ())
        pools = dict.fromkeys(pool for each in cells for pool in each["busy"])
        rows = [
            [
                f"cell[{number}]",
                show_count(each["completed"]),
                f"{each['tgs']:,.0f}" if "tgs" in each else "n/a",
                *(f"{each[key]:,.4g}" if key in each else "n/a" for key in _OF_CELLS.values()),
                *(f"{each['busy'][pool]:.1%}" if pool in each["busy"] else spread.NONE for pool in pools),
            ]
            for number, each in enumerate(cells)
        ]
        if not rows:
            return []
        kept = sorted(range(len(rows)), key=lambda at: -cells[at].get("mean_queue_ms", 0.0))[:_MOST_ROWS]
        shown = [rows[at] for at in sorted(kept)]
        left = [f" and {len(rows) - len(shown)} more cells that wait less"] if len(shown) < len(rows) else []
        head = ["cell", "finished", "tok/s/GPU", *_OF_CELLS, *(f"{pool} busy" for pool in pools)]
        return [self.ink.strong("Cells behind the router"), *table(head, shown, self.ink), *left]

    def failures(self) -> list[str]:
        """Say what crashed, how long all stood still, and whom it hit."""
        found = self.own.get("failures")
        if found is None:
            return []
        rows = outages.rows(found)
        lines = hanging("Failures: ", "; ".join(outages.sentences(found, self.own.get("lost", 0))))
        return [*lines, *(table(outages.HEAD, rows, self.ink) if rows else [])]

    def prompts(self) -> list[str]:
        """Say how much of the steps went to prompts."""
        found = self.own.get("prefill")
        return hanging("Prefill   ", "; ".join(mixed.sentences(found))) if found else []

    def kv_cache(self) -> list[str]:
        """Say how KV cache in blocks was given out, and whom that preempted."""
        found = self.own.get("kv_cache")
        return [] if found is None else hanging("KV cache: ", "; ".join(caching.sentences(found)))

    def sessions(self) -> list[str]:
        """Say what sessions there were, and what became of their KV cache."""
        found = self.own.get("sessions")
        return [] if found is None else hanging("Sessions: ", "; ".join(conversed.sentences(found)))

    def verdict(self) -> list[str]:
        """Hold the SLA limit by limit."""
        sla = self.own.get("sla")
        lines = [] if sla is None else self._limits(sla)
        if sla is not None:
            share = f"{sla['goodput_share']:.1%} of requests inside every limit"
            lines.append(f"     goodput {sla['goodput']:,.1f} req/s, {share}" if "goodput" in sla else f"     {share}")
        return lines

    def load(self) -> list[str]:
        """Say whether an open loop kept up, before any figure, and with "n/a" how long it would have to run."""
        load = self.own.get("saturation")
        if load is None:
            return []
        label, why = f"Load {self.ink.verdict(load['level'])}: ", load.get("why", "")
        if load["level"] == "n/a":
            seconds = f"{load.get('wants_s', 0.0):,.4g} s of arrivals would probably do (--until-steady)"
            return hanging(label, f"{why}; {seconds}" if "wants_s" in load else why)
        words = f"offered {show_rate(load['offered'])}, served {_rate(load['served'])}"
        if load["level"] == "STABLE":
            return hanging(label, f"{words}{_bracketed('', load.get('served_ci'))}")
        sure = _bracketed("served ", load.get("served_ci")) + _bracketed("growth ", load.get("queue_growth_ci"))
        return hanging(label, f"{words}; queue grows {show_rate(load['queue_growth'])}{sure}; {why}")

    def _limits(self, sla: Mapping[str, Any]) -> list[str]:
        """Hold every limit; PASS needs a stable load, so a limit that is kept may still be part of a FAIL."""
        limits = sla.get("limits", {sla["metric"]: sla})
        lines = [line for metric, limit in limits.items() for line in self._limit(sla, metric, limit)]
        load = self.own.get("load", "STABLE")
        if load in {"STABLE", "n/a"} or "FAIL" in {limit["verdict"] for limit in sla.get("limits", {}).values()}:
            return lines
        return [*lines, f"     the load is {load}: an SLA is met by a stable load only"]

    def _limit(self, sla: Mapping[str, Any], metric: str, limit: Mapping[str, Any]) -> list[str]:
        scale, unit = metrics.shown_in(metric)
        of = f" (mean of {len(self.runs)} seeds)" if len(self.runs) > 1 else ""
        name, word = f"{sla['percentile']} {metric.upper()}{of}", limit["verdict"]
        few = f"{sla['percentile']}_{metric}_ms" in self.own.get("too_few", ())
        value = f"{limit['value_ms'] * scale:,.4g} {unit}" if "value_ms" in limit else "no request has it"
        value = f"n/a ({sla['percentile']} needs more requests)" if few and word == "n/a" else value
        low, high = limit.get("ci_ms", (None, None)) if not few else (None, None)
        within = f"  (95% CI {low * scale:,.4g}..{high * scale:,.4g})" if low is not None and high is not None else ""
        return [f"SLA  {name} <= {limit['limit_ms'] * scale:,.6g} {unit} : {value}  {self.ink.verdict(word)}{within}"]

    def remarks(self) -> list[str]:
        """Say what a reader should know before believing the figures."""
        made = self.runs[0].manifest
        engine = [f"engine {made.engine}: {made.engine_reason}"] if made.engine_reason else []
        return [line for note in (*engine, *self.own.get("notes", ())) for line in hanging("Note ", note)]

    def _pooled(self, metric: str) -> metrics.Samples:
        """Return the samples of all seeds together, in seconds."""
        return spread.pooled([each.run for each in self.runs], metric)


_TITLES = {"tpot": "TPOT per request (ms)", "itl": "ITL, every gap (ms)"}


def _bracketed(name: str, interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({name}95% CI {_rate(interval[0])}..{_rate(interval[1])})"


def _rate(value: float) -> str:
    return show_rate(value, "").rstrip()


def _bars(samples: metrics.Samples, limit: float | None, ink: Ink) -> list[str]:
    """Return one line per bin, in ms; the limit's bin is marked, and what lies far outside is in one bin at an end."""
    inner = _round_edges(samples)
    edges = [-math.inf, *inner, math.inf]
    _, counts = metrics.hist(samples.values * 1e3, samples.weights, edges)
    names = _bin_names(inner)
    widest, last, lines = max(map(len, names)), len(names) - 1, []
    for index, (name, count, (low, high)) in enumerate(zip(names, counts.tolist(), pairwise(edges), strict=True)):
        bar = ink.block * round(_BAR * count / counts.max()) or ("." if count else "")
        mark = ink.bad(" < SLA") if limit is not None and low <= limit < high else ""
        if count or index not in (0, last):
            lines.append(f" {name:>{widest}} |{bar:<{_BAR}} {count / counts.sum():6.1%}{mark}")
    return lines


def _limit_outside(samples: metrics.Samples, limit: float | None) -> str:
    """Say where the limit lies when it is beyond every sample."""
    low, high = float(samples.values.min()) * 1e3, float(samples.values.max()) * 1e3
    if limit is None or low <= limit <= high:
        return ""
    return f", all {'below' if high < limit else 'above'} the SLA of {limit:,.6g}"


def _bin_names(edges: Sequence[float]) -> list[str]:
    width = edges[1] - edges[0]
    digits = next(number for number in range(9) if math.isclose(round(width, number), width, rel_tol=1e-6))
    texts = [f"{edge:,.{digits}f}" for edge in edges]
    return [f"<{texts[0]}", *(f"{low}-{high}" for low, high in pairwise(texts)), f">={texts[-1]}"]


def _round_edges(samples: metrics.Samples) -> list[float]:
    """Return a dozen edges at round numbers of ms around all but the outermost percent of the samples."""
    low, high = (metrics.percentiles(samples, [0.5, 99.5]) * 1e3).tolist()
    width = _round_up(max((high - low) / 12, abs(high) * 1e-5, 1e-4))
    first, last = math.floor(low / width), math.floor(high / width) + 1
    return [width * index for index in range(first, last + 1)]


def _round_up(width: float) -> float:
    """Return the least of 1, 2, 2.5, 5 times a power of ten that is not below `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= width * (1 - 1e-9))


def _efficiency(pools: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Model FLOPs and memory bytes against the peak, where they are known."""
    parts = [
        f"{name} " + ", ".join(f"{kind.upper()} {pool[kind]:.1%}" for kind in ("mfu", "mbu") if kind in pool)
        for name, pool in pools.items()
        if "mfu" in pool or "mbu" in pool
    ]
    return [" of peak: " + "; ".join(parts)] if parts else []


def _ranks(pools: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the busiest and the idlest rank where ranks differ, with what they had to do."""
    name = next(iter(pools))
    ranks, pool = pools[name].get("ranks"), "instance" if name == "colocated" else name
    if ranks is None:
        return []
    ends = [
        f"{word} {pool}[{end['instance']}].rank[{end['rank']}] {end['busy']:.1%} busy with {end['sequences']:,.1f} "
        f"sequences of {show_count(round(end['context']))} tokens"
        for word, end in ((word, ranks[word]) for word in ("busiest", "idlest"))
    ]
    return hanging(" ranks: ", ", ".join(ends))


_APART, _MOST_ROWS = 0.01, 8
"""Busy share by which instances differ to get rows of their own, and how many of these a pool may have."""


def _by_instance(runs: Sequence[metrics.Columns], pool: str) -> dict[int, list[float]]:
    """Return the shares of GPU time by cause of every instance of a pool, over all runs."""
    import numpy as np

    columns = {
        name: np.concatenate([np.asarray(gpus[name]) for gpus in runs]) for name in ("pool", "instance", *CAUSES)
    }
    found = {}
    for index in np.unique(columns["instance"][columns["pool"] == pool]).tolist():
        own = (columns["pool"] == pool) & (columns["instance"] == index)
        seconds = np.array([columns[cause][own].sum() for cause in CAUSES], float)
        found[int(index)] = (seconds / seconds.sum()).tolist()
    return found


def _bottleneck(own: Mapping[str, Any], idle: float) -> list[str]:
    """Name what bounds a step and what would be next, in ms; or say that the cluster waits for work."""
    found = own.get("bottleneck")
    if found is None:
        return []
    parts = ", ".join(f"{name} {_four(ms)}" for name, ms in _parts(found))
    whole = _bound(found["name"], found["ms"]) + _of_step(found) + (f" ({parts})" if parts else "")
    if idle >= _IDLE:
        return hanging(
            " no bottleneck: ", f"{idle:.0%} of the time nothing is in flight; in a step the longest is {whole}"
        )
    others = ", ".join(_bound(name, found["bounds"][name]) for name in _next(found))
    return hanging(" bottleneck: ", f"{whole}; next {others}" if others else whole)


_IDLE = 0.05
"""Share of time without any work from which a cluster is said to have no bottleneck."""


def _of_step(found: Mapping[str, Any]) -> str:
    """Say how much of the measured step a bound is; a fluctuating batch can make the mean step shorter than it."""
    step = found.get("step_ms")
    if step is None:
        return ""
    if found["ms"] > 1.005 * step:
        return f" at the mean batch; the step is {_four(step)} ms"
    return f" of the {_four(step)} ms step" if found["ms"] < step else ", the whole step"


def _parts(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the three largest parts of a round trip that bounds the step."""
    return list(found["round_trip"].items())[:3] if found["name"] == ROUND_TRIP else []


def _next(found: Mapping[str, Any]) -> list[str]:
    """Return two more bounds, one of each kind of resource, and the longest of an instance that is not like the others.

    The bounds stand in order, the longest first.
    """
    kinds: dict[str, str] = {}
    for name in (found["name"], *found["bounds"]):
        kinds.setdefault(re.sub(r"\[\d+\]", "", name), name)
    chosen = list(kinds.values())[1:3]
    apart = next((name for name in found["bounds"] if "[" in name), found["name"])
    said = (found["name"], *chosen, *(name for name, _ in _parts(found)))
    return chosen if apart in said else [*chosen, apart]


def _bound(name: str, ms: float) -> str:
    return f"{name} of a micro-batch {_four(ms)} ms" if name == ROUND_TRIP else f"{name} {_four(ms)} ms"


def _four(value: float) -> str:
    """Four digits, of small values three."""
    return f"{value:,.{spread.digits(value)}f}"
