"""What `afdsim run` prints: plain text of at most 96 columns, the same in a terminal, a pipe and a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from afdsim import __version__
from afdsim.engine.books import CAUSES
from afdsim.results import metrics
from afdsim.units import show_count

if TYPE_CHECKING:
    from pathlib import Path

    from afdsim.cluster.colocated import Colocated
    from afdsim.cluster.deployment import Afd
    from afdsim.results.result import Result
    from afdsim.scenario import tree
    from afdsim.scenario.document import Scenario

WIDTH = 96
_BAR = 48

_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "p99.9", "max")
_LATENCIES = (
    ("tpot", "TPOT (ms)", 1e3),
    ("itl", "ITL (ms)", 1e3),
    ("queue", "Queue wait (ms)", 1e3),
    ("e2el", "E2EL (s)", 1.0),
)
"""Metric, its label, what a second is in the unit shown."""
_CAUSES = tuple(cause.replace("_", " ") for cause in CAUSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """How the text may be drawn: in colour or not, with block characters or in ASCII."""

    colour: bool = False
    unicode: bool = True

    @property
    def block(self) -> str:
        """What bars are made of."""
        return "█" if self.unicode else "#"

    @property
    def levels(self) -> str:
        """Eight heights of a sparkline."""
        return "▁▂▃▄▅▆▇█" if self.unicode else "_.-=+*%#"

    def strong(self, text: str) -> str:
        """Bold."""
        return self._styled(text, 1)

    def faint(self, text: str) -> str:
        """Dim."""
        return self._styled(text, 2)

    def good(self, text: str) -> str:
        """Bold green."""
        return self._styled(text, 1, 32)

    def bad(self, text: str) -> str:
        """Bold red."""
        return self._styled(text, 1, 31)

    def _styled(self, text: str, *codes: int) -> str:
        return f"\033[{';'.join(map(str, codes))}m{text}\033[0m" if self.colour else text


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], ink: Ink) -> list[str]:
    """Lay out rows: the first column left, the others right, a rule below the head."""
    body = [head, *rows]
    widths = [max(len(row[column]) for row in body) for column in range(len(head))]
    lines = [" " + "  ".join(_aligned(row, widths)).rstrip() for row in body]
    rule = " " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [ink.strong(lines[0]), ink.faint(rule), *lines[1:]]


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
        page.latencies(),
        page.throughput(),
        page.histogram(),
        page.over_time(),
        page.causes(),
        page.verdict(),
        page.remarks(),
        [f"Saved {saved}/  ({_CONTENT})"] if saved is not None else [],
    )
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


_CONTENT = "result.json, scenario.yaml, requests, tokens, gpus, links, figures/"


def deployment_line(scenario: Scenario) -> str:
    """Return ``AFD decode 2A2F (32 GPUs) = 2x8 H800 attention + 2x8 H800 FFN, 3 micro-batches``."""
    from afdsim.scenario import tree

    each = scenario.deployment
    if not isinstance(each, tree.Afd):
        return _engine_line(each)
    attention, ffn = each.attention, each.ffn
    label = f"{attention.instances}A{ffn.instances}F"
    gpus = attention.instances * attention.gpus_per_instance + ffn.instances * ffn.gpus_per_instance
    batches = f"{each.num_microbatches} micro-batch{'es' if each.num_microbatches > 1 else ''}"
    batches += f" in each of {attention.groups} attention groups" if attention.groups > 1 else ""
    return (
        f"AFD decode {label} ({show_count(gpus)} GPUs) = "
        f"{attention.instances}x{attention.gpus_per_instance} {attention.gpu} attention + "
        f"{ffn.instances}x{ffn.gpus_per_instance} {ffn.gpu} FFN, {batches}"
    )


def _engine_line(each: tree.Colocated | tree.TensorParallel) -> str:
    """Return ``Colocated decode DP128+EP128 = 16x8 H800 (128 GPUs), two-batch overlap``."""
    if each.type == "tensor_parallel":
        return f"Colocated decode TP{each.gpus} = {each.gpus} {each.gpu}, no overlap"
    gpus = each.instances * each.gpus_per_instance
    overlap = "two-batch" if each.two_batch_overlap else "single-batch" if each.single_batch_overlap else "no"
    return (
        f"Colocated decode DP{each.instances * each.parallelism.dp}+EP{gpus} = "
        f"{each.instances}x{each.gpus_per_instance} {each.gpu} ({show_count(gpus)} GPUs), {overlap} overlap"
    )


def model_line(scenario: Scenario) -> str:
    """Return the model and its number formats."""
    formats = scenario.precision
    words = f"attention {formats.attention}, FFN {formats.ffn}, KV cache {formats.kv_cache or formats.attention}"
    return f"Model {scenario.model} ({words})"


def memory_lines(afd: Afd | Colocated, context: int | None) -> list[str]:
    """Return what fills the memory of a GPU of each role; `context` is the final length of all requests."""
    together = not hasattr(afd, "ffn")
    weights = afd.attention_weights + (afd.ffn_weights if together else 0.0)
    role = "Colocated GPU " if together else "Attention GPU "
    line = f"{role} {weights / 1e9:.1f} GB of weights, {afd.kv_budget / 1e9:.1f} GB for KV cache"
    if context is not None:
        fits = f"{show_count(afd.kv_cache.sequences(context))} sequences of {show_count(context)} tokens"
        line += f":\n               {fits} (max_num_seqs {show_count(afd.max_num_seqs)})"
    return [line] if together else [line, f"FFN GPU        {afd.ffn_weights / 1e9:.1f} GB of weights"]


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
        return [self.ink.strong(first), model_line(scenario), deployment_line(scenario)]

    def latencies(self) -> list[str]:
        """Return the table of percentiles, with the definitions below."""
        samples = {metric: self._pooled(metric) for metric, _, _ in _LATENCIES}
        rows = [
            [label, *_cells(samples[metric], scale)] for metric, label, scale in _LATENCIES if samples[metric].count
        ]
        if not rows:
            return ["No request finished in the window: there is no latency to show."]
        lines = table(["Metric", *_COLUMNS], rows, self.ink)
        lines += _too_few(rows)
        lines.append(" TPOT = (last - first token)/(n - 1) per request; ITL = every single gap (vLLM's definitions)")
        return lines

    def throughput(self) -> list[str]:
        """Say tokens per second in all, per GPU, per user, and what they cost."""
        parts = [f"{self.summary['output_throughput']:,.0f} tok/s"]
        parts.append(f"{self.own['tgs']:,.0f} tok/s/GPU (TGS{self._tgs_error()})")
        if "tokens_per_s_per_user" in self.own:
            parts.append(f"{self.own['tokens_per_s_per_user']:.1f} tok/s/user")
        lost = (fate for fate in ("refused", "unfinished") if self.own.get(fate))
        fates = [f"{show_count(self.summary['completed'])} finished"]
        fates += [f"{show_count(self.own[fate])} {fate}" for fate in lost]
        lines = [f"Output    {'   '.join(parts)}"]
        if "usd_per_1m_output_tokens" in self.own:
            lines.append(f"Cost      ${self.own['usd_per_1m_output_tokens']:.3f} per 1M output tokens")
        return [*lines, f"Requests  {', '.join(fates)}; window {self.summary['duration']:,.4g} s simulated"]

    def _tgs_error(self) -> str:
        if "tgs_ci" not in self.own or not self.own["tgs"]:
            return ""
        low, high = self.own["tgs_ci"]
        over = f" over {len(self.runs)} seeds" if len(self.runs) > 1 else ""
        return f", 95% CI +-{(high - low) / 2 / self.own['tgs']:.1%}{over}"

    def histogram(self) -> list[str]:
        """Draw the TPOT of the requests, with the limit; the ITL where that says more."""
        found = {name: each for name in _TITLES if (each := self._pooled(name)).count}
        if "itl" in found and _averaged_away(found.get("tpot")):
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
        if not rates.any():
            return []
        return [f"tok/s over time  {sparkline(rates.tolist(), self.ink)}  peak {rates.max():,.0f}"]

    def causes(self) -> list[str]:
        """Say where the GPU time went, and which pool holds the other up."""
        pools = self.own["pools"]
        rows = [
            [f"{name} {pool['gpus']}x {pool['gpu']}", *(f"{pool.get(cause, 0.0):.1%}" for cause in CAUSES)]
            for name, pool in pools.items()
        ]
        lines = [self.ink.strong("Where the GPU time went (rows sum to 100 %)")]
        lines += table(["pool", *_CAUSES], rows, self.ink)
        return [*lines, *_efficiency(pools), *_bottleneck(pools)]

    def verdict(self) -> list[str]:
        """Hold the SLA limit by limit, and say whether an open loop kept up."""
        sla = self.own.get("sla")
        lines = [] if sla is None else self._limits(sla)
        if sla is not None:
            share = f"{sla['goodput_share']:.1%} of requests"
            lines.append(f"     goodput {sla['goodput']:,.1f} req/s, {share} inside every limit")
        if (load := self.own.get("saturation")) is not None:
            words = f"offered {load['offered']:.4g} req/s, served {load['served']:.4g}"
            grows = f"; queue grows {load['queue_growth']:.3g} req/s" if load["level"] != "STABLE" else ""
            lines.append(f"Load {self._word(load['level'])}: {words}{grows}")
        return lines

    def _limits(self, sla: Mapping[str, Any]) -> list[str]:
        limits = sla.get("limits", {sla["metric"]: sla})
        return [self._limit(f"{sla['percentile']} {metric.upper()}", limit) for metric, limit in limits.items()]

    def _limit(self, name: str, limit: Mapping[str, Any]) -> str:
        value = f"{limit['value_ms']:,.4g} ms" if "value_ms" in limit else "no request has it"
        within = (
            "  (95% CI {:,.4g}..{:,.4g})".format(*limit["ci_ms"])
            if "ci_ms" in limit
            else "  (too few requests for a CI)"
        )
        return f"SLA  {name} <= {limit['limit_ms']:,.6g} ms : {value}  {self._word(limit['verdict'])}{within}"

    def _word(self, word: str) -> str:
        return {"PASS": self.ink.good, "STABLE": self.ink.good, "FAIL": self.ink.bad, "OVERLOADED": self.ink.bad}.get(
            word, self.ink.strong
        )(word)

    def remarks(self) -> list[str]:
        """Say what a reader should know before believing the figures."""
        made = self.runs[0].manifest
        engine = [f"engine {made.engine}: {made.engine_reason}"] if made.engine_reason else []
        notes = dict.fromkeys((*engine, *(note for each in self.runs for note in each.notes)))
        return [line for note in notes for line in _hanging("Note ", note)]

    def _pooled(self, metric: str) -> metrics.Samples:
        """Return the samples of all seeds together, in seconds."""
        import numpy as np

        parts = [each.samples(metric) for each in self.runs]  # type: ignore[arg-type]
        values = np.concatenate([part.values for part in parts])
        weights = [part.weights for part in parts if part.weights is not None]
        return metrics.Samples(values, np.concatenate(weights) if weights else None)


_TITLES = {"tpot": "TPOT per request (ms)", "itl": "ITL, every gap (ms)"}


def _averaged_away(tpot: metrics.Samples | None) -> bool:
    """Whether the TPOTs of all requests lie within 1 %: equal requests in a full batch share every step."""
    if tpot is None:
        return False
    low, middle, high = metrics.percentiles(tpot, (0.5, 50, 99.5)).tolist()
    return bool(high - low < 0.01 * middle)


def _cells(samples: metrics.Samples, scale: float) -> list[str]:
    """Statistics in the unit shown; n/a where a percentile has fewer than ten samples beyond it."""
    found = {name: value * scale for name, value in metrics.describe(samples).items()}
    digits = _digits(found["mean"])
    return [_NONE if _needs(name, samples.count) else f"{found[name]:,.{digits}f}" for name in _COLUMNS]


def _digits(mean: float) -> int:
    """Return the decimals that show four digits of values about `mean`, of small ones three."""
    return 1 if mean == 0 else max(0, min(2, 3 - math.floor(math.log10(mean)))) if mean >= 1 else 3


_NONE = "n/a"


def _needs(name: str, count: int) -> bool:
    return name.startswith("p") and not metrics.enough(count, float(name[1:]))


def _too_few(rows: Sequence[Sequence[str]]) -> list[str]:
    """Say what the percentiles that are n/a would need."""
    lacking = [name for column, name in enumerate(_COLUMNS, start=1) if any(row[column] == _NONE for row in rows)]
    if not lacking:
        return []
    needs = ", ".join(f"{name} needs >= {show_count(1000 / (100 - float(name[1:])))}" for name in lacking)
    return [f" n/a: {needs} requests"]


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


def sparkline(values: Sequence[float], ink: Ink) -> str:
    """Return one character per value, from zero to the greatest."""
    most = max(values)
    return "".join(ink.levels[min(int(value / most * len(ink.levels)), len(ink.levels) - 1)] for value in values)


def _efficiency(pools: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Model FLOPs and memory bytes against the peak, where they are known."""
    parts = [
        f"{name} " + ", ".join(f"{kind.upper()} {pool[kind]:.1%}" for kind in ("mfu", "mbu") if kind in pool)
        for name, pool in pools.items()
        if "mfu" in pool or "mbu" in pool
    ]
    return [" of peak: " + "; ".join(parts)] if parts else []


def _bottleneck(pools: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the busiest pool when there are several; close calls are called balanced."""
    if len(pools) < 2:
        return []
    ranked = sorted(pools, key=lambda name: -float(pools[name].get("busy", 0.0)))
    most, next_one = (float(pools[name].get("busy", 0.0)) for name in ranked[:2])
    if most - next_one < 0.03:
        return [f" bottleneck: none, the pools are balanced ({most:.0%} and {next_one:.0%} busy)"]
    waits = max(("wait_peer", "network", "imbalance", "no_work"), key=lambda cause: float(pools[ranked[0]][cause]))
    share = float(pools[ranked[0]][waits])
    lost = f", {share:.0%} lost to {waits.replace('_', ' ')}" if share >= 0.05 else ""
    return [f" bottleneck: {ranked[0]} ({most:.0%} busy{lost}; {ranked[1]} {next_one:.0%} busy)"]


def _hanging(label: str, text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_long_words=False)
