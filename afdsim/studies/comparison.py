"""Deployments side by side: the same workload and seeds, so that differences are not chance.

Every scenario takes the first one's workload and service limit. Random streams are keyed by seed and purpose (common
random numbers): request i has the same lengths and arrival everywhere, and differences are taken seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afdsim.engine.books import CAUSES
from afdsim.errors import ScenarioError
from afdsim.results import metrics
from afdsim.results.result import Result, pooled, to_json, write_text
from afdsim.results.terminal import Ink, deployment_line, model_line, table
from afdsim.scenario.document import Scenario, Source, load
from afdsim.simulation import simulate

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of the comparison."""

    key: str
    """Where the summary has it."""
    label: str
    shown: str
    """Format."""
    better: int = 0
    """1: more is better; -1: less is."""


FIGURES = (
    Figure(key="afdsim.gpus", label="GPUs", shown=",.0f"),
    Figure(key="output_throughput", label="Output tok/s", shown=",.0f"),
    Figure(key="afdsim.tgs", label="Output tok/s/GPU (TGS)", shown=",.0f", better=1),
    Figure(key="mean_tpot_ms", label="TPOT mean (ms)", shown=".2f", better=-1),
    Figure(key="median_tpot_ms", label="TPOT p50 (ms)", shown=".2f"),
    Figure(key="p99_tpot_ms", label="TPOT p99 (ms)", shown=".2f", better=-1),
    Figure(key="afdsim.step_ms", label="Step, mean ITL (ms)", shown=".2f"),
    Figure(key="afdsim.tokens_per_s_per_user", label="Tok/s/user", shown=".1f"),
    Figure(key="afdsim.usd_per_1m_output_tokens", label="USD per 1M output tokens", shown=".3f", better=-1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A figure of one deployment against that of the first, as a ratio minus 1."""

    name: str
    against: str
    key: str
    value: float
    low: float
    """95 % interval; infinite where one run says nothing about chance."""
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Finished runs of several deployments under one workload, by name; each list holds the seeds in order."""

    runs: Mapping[str, Sequence[Result]]
    notes: tuple[str, ...] = ()

    @cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """The summary of every deployment over its seeds."""
        return {name: pooled(results) for name, results in self.runs.items()}

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Every other deployment against the first, figure by figure."""
        first, *others = self.runs
        found = (self._difference(first, name, figure) for name in others for figure in FIGURES if figure.better)
        return tuple(each for each in found if each is not None)

    def _difference(self, first: str, name: str, figure: Figure) -> Difference | None:
        base, other = (_value(self.summaries[each], figure.key) for each in (first, name))
        if not base or other is None:
            return None
        low, high = self._interval(first, name, figure.key)
        return Difference(name=name, against=first, key=figure.key, value=other / base - 1, low=low, high=high)

    def _interval(self, first: str, name: str, key: str) -> tuple[float, float]:
        """Of the ratio minus 1: seed by seed, or from the batch means of two single runs."""
        pairs = zip(self.runs[first], self.runs[name], strict=True)
        if len(self.runs[first]) > 1:
            values = [(_value(a.summary, key), _value(b.summary, key)) for a, b in pairs]
            interval = metrics.over_seeds(b / a - 1 for a, b in values if a and b is not None)
            return interval.low, interval.high
        if key != "afdsim.tgs":
            return -math.inf, math.inf
        own = [self.summaries[each]["afdsim"] for each in (first, name)]
        if not all("tgs_ci" in each for each in own):
            return -math.inf, math.inf
        parts = [(each["tgs_ci"][1] - each["tgs_ci"][0]) / 2 / each["tgs"] for each in own]
        ratio = own[1]["tgs"] / own[0]["tgs"]
        half = ratio * math.hypot(*parts)
        return ratio - 1 - half, ratio - 1 + half

    @property
    def verdict(self) -> tuple[str, ...]:
        """One sentence per deployment after the first, and who meets the limit."""
        first, *others = self.runs
        return (*(self._sentence(first, name) for name in others), *self._limits())

    def _sentence(self, first: str, name: str) -> str:
        found = {each.key: each for each in self.differences if each.name == name}
        tgs, usd = found.get("afdsim.tgs"), found.get("afdsim.usd_per_1m_output_tokens")
        if tgs is None:
            return f"{name} and {first}: no tokens to compare."
        sure = f" (95% CI {tgs.low:+.1%} to {tgs.high:+.1%})" if math.isfinite(tgs.low) else ""
        text = f"{name} gives {_change(tgs.value, 'more', 'fewer')} tokens per GPU than {first}{sure}"
        if math.isfinite(tgs.low) and not tgs.certain:
            text = f"{name} and {first} give the same tokens per GPU within chance, {tgs.value:+.1%}{sure}"
        return f"{text}, {_change(usd.value, 'dearer', 'cheaper')} per token." if usd else f"{text}."

    def _limits(self) -> Iterable[str]:
        for name, summary in self.summaries.items():
            if (sla := summary["afdsim"].get("sla")) is not None:
                value = f"{sla['value_ms']:.2f}" if "value_ms" in sla else "n/a"
                limit = f"{sla['metric']} {sla['percentile']} <= {sla['limit_ms']:g} ms"
                yield f"SLA {limit}: {name} {sla['verdict']} at {value}"

    def text(self, ink: Ink | None = None) -> str:
        """Return what `afdsim compare` prints."""
        ink = ink or Ink()
        heads = [line for name, runs in self.runs.items() for line in _head(name, runs[0].scenario)]
        blocks = [
            heads,
            table(["", *self.runs], self._rows(), ink),
            self._causes(ink),
            list(self.verdict),
            list(self.notes),
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _rows(self) -> list[list[str]]:
        rows = []
        for figure in FIGURES:
            values = [_value(summary, figure.key) for summary in self.summaries.values()]
            if any(value is not None for value in values):
                rows.append([figure.label, *("-" if value is None else f"{value:{figure.shown}}" for value in values)])
        return rows

    def _causes(self, ink: Ink) -> list[str]:
        """Where the GPU time of every pool went, in percent."""
        rows = []
        for name, summary in self.summaries.items():
            for pool, own in summary["afdsim"]["pools"].items():
                shares = [f"{100 * own[cause]:.1f}" if cause in own else "-" for cause in CAUSES]
                rows.append([f"{name}: {pool} ({own['gpus']} {own['gpu']})", *shares])
        return table(["GPU time (%)", *(cause.replace("_", " ") for cause in CAUSES)], rows, ink)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per deployment and figure: name, key, value, difference from the first with its interval."""
        import pandas as pd

        changes = {(each.name, each.key): each for each in self.differences}
        rows = []
        for name, summary in self.summaries.items():
            for figure in FIGURES:
                change = changes.get((name, figure.key))
                bounds = (change.value, change.low, change.high) if change else (math.nan,) * 3
                rows.append((name, figure.key, _value(summary, figure.key), *bounds))
        return pd.DataFrame(rows, columns=["deployment", "key", "value", "difference", "low", "high"])

    def to_dict(self) -> dict[str, Any]:
        """Summaries and differences as plain data; what is not known is absent."""
        changes = [
            {"deployment": each.name, "against": each.against, "key": each.key, "difference": each.value}
            | ({"ci": [each.low, each.high]} if math.isfinite(each.low) else {})
            for each in self.differences
        ]
        return {"deployments": self.summaries, "differences": changes, "verdict": list(self.verdict)}

    def save(self, folder: str | Path) -> Path:
        """Write ``compare.json``, ``compare.txt`` and the figures; return the folder."""
        folder = Path(folder)
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        write_text(folder / "compare.json", to_json(self.to_dict()))
        write_text(folder / "compare.txt", self.text() + "\n")
        from afdsim.results import plot

        for name, draw in (("tpot_cdf", plot.tpot_cdf), ("causes", plot.causes)):
            axes = draw(self.runs)
            for suffix in ("svg", "png"):
                plot.save(axes, folder / "figures" / f"{name}.{suffix}")
        return folder


def compare(
    *scenarios: Source | Scenario, seeds: Sequence[int] | None = None, progress: Progress | None = None
) -> Comparison:
    """Run every scenario under the first one's workload, limit and seeds; `seeds` replaces its own."""
    if len(scenarios) < 2:
        raise ScenarioError("compare needs two scenarios or more")
    loaded = [load(each) for each in scenarios]
    seeds = tuple(seeds or loaded[0].run.seeds)
    same, notes = _under_one_workload(loaded)
    runs = {name: [simulate(each, seed=seed, progress=progress) for seed in seeds] for name, each in same.items()}
    return Comparison(runs=runs, notes=notes)


def _under_one_workload(loaded: Sequence[Scenario]) -> tuple[dict[str, Scenario], tuple[str, ...]]:
    """Scenarios by name, each with the workload and limit of the first, and what that changed."""
    first, given = loaded[0], loaded[0].resolved()
    notes, found = [], {}
    for scenario in loaded:
        name, varied, own = scenario.name, scenario, scenario.resolved()
        while name in found:
            name += "'"
        for key in ("workload", "sla"):
            if own.get(key) != given.get(key):
                notes.append(f"{name}: {key} replaced by that of {first.name}")
                varied = varied.vary(key, given.get(key))
        found[name] = varied
    return found, tuple(notes)


def _head(name: str, scenario: Scenario) -> list[str]:
    return [f"{name}: {deployment_line(scenario)}", f"{' ' * len(name)}  {model_line(scenario)}"]


def _value(summary: Mapping[str, Any], key: str) -> float | None:
    for part in key.split("."):
        if part not in summary:
            return None
        summary = summary[part]
    return float(summary)  # type: ignore[arg-type]


def _change(ratio: float, more: str, less: str) -> str:
    return f"{abs(ratio):.1%} {more if ratio >= 0 else less}"
