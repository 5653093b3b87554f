"""Deployments side by side: the same workload and seeds, so that differences are not chance.

Every scenario takes the first one's workload, service limit and run, so that they are measured alike; `differences`
says how figures are held against one another.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.engine.books import CAUSES
from afdsim.errors import ScenarioError
from afdsim.results.header import WIDTH, deployment_lines, model_line, prefill_lines, router_line, straggler_lines
from afdsim.results.ink import Ink, table
from afdsim.results.metrics import shown_in
from afdsim.results.result import Result, pooled, to_json
from afdsim.results.seeds import save_seeds
from afdsim.results.whole import write_text
from afdsim.scenario.document import Scenario, Source, load
from afdsim.scenario.tree import Afd
from afdsim.simulation import simulate
from afdsim.studies import tuning
from afdsim.studies.differences import FIGURES, Difference, difference, value_of
from afdsim.studies.tuning import Figures, Tuned
from afdsim.units import show_change

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float, str], None]

SHARED = ("workload", "sla", "run")
"""Parts of a scenario that all deployments have from the first."""

_LINES = (prefill_lines, router_line, straggler_lines)
"""What a head says of a scenario where it has it."""
_SPOKEN = (
    ("mean_ttft_ms", "TTFT mean"),
    ("mean_tpot_ms", "TPOT mean"),
    ("p99_tpot_ms", "p99"),
    ("mean_queue_ms", "queue wait mean"),
    ("request_goodput", "goodput"),
)
"""Figures of the verdict, and how they are called there."""

_HIGH = ("higher", "lower", "high")
_MANY = ("more", "fewer", "many")
_DEAR = ("dearer", "cheaper", "dear")
"""What is said of a change up, of one down, and after "times as"."""

_HANG = 24
"""Columns of a name beside which its lines still hang."""

RUNS = "runs"
"""Folder of the runs beside a comparison, numbered from 1."""

PAGE = 60
"""Lines of a comparison that a prompt shows."""

WORTH = 0.02
"""Relative gain in tokens from which a better way to run a deployment is worth a note."""

_SETS = ("--set-a ", "--set-b ")
"""Options of the command that change the first and the second deployment; further ones have none."""

_TOGETHER = re.compile(r"(?<=\d) (?=[A-Za-z])|(?<=--set-[ab]) ")
"""Blanks at which no line ends: between a number and its unit, and between an option and its value."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Finished runs of several deployments under one workload, by name; each list holds the seeds in order."""

    runs: Mapping[str, Sequence[Result]]
    notes: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    """What all of them have from the first, as text."""
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    """The best way to run each deployment by a quick search, where one was made."""

    @cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """The summary of every deployment over its seeds."""
        return {name: pooled(results) for name, results in self.runs.items()}

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Every other deployment against the first, figure by figure."""
        first, *others = self.runs
        found = (
            difference((first, name), (self.runs[first], self.runs[name]), figure.key)
            for name in others
            for figure in FIGURES
            if figure.better
        )
        return tuple(each for each in found if each is not None)

    @property
    def verdict(self) -> tuple[str, ...]:
        """Who does not carry the load, sentences about every deployment after the first, and who meets which limit."""
        first, *others = self.runs
        pairs = (line for name in others for line in self._sentences(first, name))
        return (*self._loads(), *pairs, *self._limits())

    @property
    def advice(self) -> tuple[str, ...]:
        """A sentence about every deployment that could give more tokens, or meet the SLA that it misses."""
        asked = zip_longest(self.runs, _SETS, fillvalue="")
        return tuple(
            text
            for name, option in asked
            if name in self.tuned and (text := _advised(name, self.tuned[name], self.summaries[name], option))
        )

    def _loads(self) -> Iterator[str]:
        """Name every deployment that does not carry the load."""
        for name, summary in self.summaries.items():
            load = summary["afdsim"].get("saturation", {})
            if (level := load.get("level")) in {"BACKLOGGED", "OVERLOADED"}:
                why = f": {load['why']}" if "why" in load else ""
                capacity = "; its tokens per GPU are its capacity" if level == "OVERLOADED" else ""
                yield f"{name} does not carry the load ({level}{why}){capacity}."

    def _sentences(self, first: str, name: str) -> Iterator[str]:
        """Speak of what differs: latencies, queue, goodput, and tokens where the load does not fix them."""
        found = {each.key: each for each in self.differences if each.name == name}
        levels = [self.summaries[each]["afdsim"].get("load") for each in (first, name)]
        latencies = [text for key, label in _SPOKEN if (text := _said(label, found.get(key)))]
        if latencies:
            yield f"{name} against {first}: {'; '.join(latencies)}."
        yield from self._of_tokens(first, name, found, levels)

    def _of_tokens(
        self, first: str, name: str, found: Mapping[str, Difference], levels: Sequence[str | None]
    ) -> Iterator[str]:
        """Say who makes more tokens per GPU, or that the load decides that, and what a token costs."""
        tgs, usd = found.get("afdsim.tgs"), found.get("afdsim.usd_per_1m_output_tokens")
        price = f"; a token is {_priced(usd)}" if usd else ""
        if "n/a" in levels:
            unsteady = " and ".join(each for each, level in zip((first, name), levels, strict=True) if level == "n/a")
            yield f"{unsteady}: the run is too short to say what load is carried; raise workload.duration."
        elif tgs is None:
            yield f"{name} and {first}: no tokens to compare."
        elif set(levels) == {"STABLE"}:
            gpus = [self.summaries[each]["afdsim"]["gpus"] for each in (first, name)]
            yield f"Both carry the load, which fixes the tokens: {name} on {gpus[1]} GPUs, {first} on {gpus[0]}{price}."
        elif math.isfinite(tgs.low) and not tgs.certain:
            yield f"{name} and {first} give the same tokens per GPU within chance, {_with_interval(tgs)}{price}."
        else:
            than = "as" if tgs.value > 1 else "than"
            fixed = "".join(
                f"; the load fixes those of {each}"
                for each, level in zip((first, name), levels, strict=True)
                if level == "STABLE"
            )
            yield f"{name} gives {_change(tgs, _MANY)} tokens per GPU {than} {first}{fixed}{price}."

    def _limits(self) -> Iterator[str]:
        """Hold every deployment against every limit, first the one that is nearest to being broken."""
        every = {name: own for name, each in self.summaries.items() if "sla" in (own := each["afdsim"])}
        found = dict.fromkeys(metric for own in every.values() for metric in _limits_of(own["sla"]))
        yield from (_held(metric, name, own) for metric in found for name, own in every.items())

    def text(self, ink: Ink | None = None) -> str:
        """Return what `afdsim compare` prints."""
        ink = ink or Ink()
        blocks = [
            self._heads(),
            [*self.shared],
            table(["", *self.runs], self._rows(), ink),
            self._causes(ink),
            [line for sentence in self.verdict for line in _wrapped(sentence, "")],
            [line for sentence in self.advice for line in _wrapped(sentence, "")],
            [line for note in (*self.notes, *self._own_notes()) for line in _wrapped(note, "")],
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _own_notes(self) -> Iterator[str]:
        """Say once what is noted of all deployments, and of whom what is noted of some."""
        noted = {name: summary["afdsim"].get("notes", ()) for name, summary in self.summaries.items()}
        of = {note: [name for name, own in noted.items() if note in own] for notes in noted.values() for note in notes}
        yield from (note for note, names in of.items() if len(names) == len(noted))
        yield from (f"{', '.join(names)}: {note}" for note, names in of.items() if len(names) < len(noted))

    def __repr__(self) -> str:
        lines = self.text().splitlines()
        more = ["... print(comparison.text()) for the rest"] if len(lines) > PAGE else []
        return "\n".join([*lines[:PAGE], *more])

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"

    def _heads(self) -> list[str]:
        """Say what every deployment is, with every key in which they differ."""
        first = {name: runs[0] for name, runs in self.runs.items()}
        keys = differing([run.scenario for run in first.values()])
        return [line for name, run in first.items() for line in _head(name, run, keys)]

    def _rows(self) -> list[list[str]]:
        rows = []
        for figure in FIGURES:
            values = [value_of(summary, figure.key) for summary in self.summaries.values()]
            if any(value is not None for value in values):
                texts = ("n/a" if value is None else f"{value * figure.scale:{figure.shown}}" for value in values)
                rows.append([figure.label, *texts])
        levels = [summary["afdsim"].get("load", "-") for summary in self.summaries.values()]
        return [*rows, ["Load", *levels]] if set(levels) != {"-"} else rows

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
                rows.append((name, figure.key, value_of(summary, figure.key), *bounds))
        return pd.DataFrame(rows, columns=["deployment", "key", "value", "difference", "low", "high"])

    def to_dict(self) -> dict[str, Any]:
        """Summaries and differences as plain data; what is not known is absent."""
        changes = [
            {"deployment": each.name, "against": each.against, "key": each.key, "difference": each.value}
            | ({"ci": [each.low, each.high]} if math.isfinite(each.low) else {})
            for each in self.differences
        ]
        found = {"deployments": self.summaries, "differences": changes, "verdict": list(self.verdict)}
        found |= {"advice": list(self.advice), "shared": list(self.shared), "notes": list(self.notes)}
        searched = {name: each.to_dict() for name, each in self.tuned.items()}
        return found | ({"tuning": searched} if searched else {})

    def save(self, folder: str | Path) -> Path:
        """Write ``compare.json``, ``compare.txt``, the figures and a run folder for every deployment in ``runs/``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for manifest in (folder / RUNS).glob("*/manifest.json"):
            manifest.unlink()  # of an earlier comparison, whose runs must not be taken for those of this one
        write_text(folder / "compare.json", to_json(self.to_dict()))
        write_text(folder / "compare.txt", self.text() + "\n")
        for number, results in enumerate(self.runs.values(), start=1):
            own = folder / RUNS / str(number)
            results[0].save(own, force=True, pictures=False)
            save_seeds(results, own)
        from afdsim.results import plot, plot_parts

        (folder / "figures").mkdir(exist_ok=True)
        for name, draw in (("tpot_cdf", plot.tpot_cdf), ("causes", plot.causes)):
            axes = draw(self.runs)
            for suffix in ("svg", "png"):
                plot_parts.save(axes, folder / "figures" / f"{name}.{suffix}")
        return folder


def compare(
    *scenarios: Source | Scenario,
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
    cost: CostModel | None = None,
    network: Network | None = None,
    tune: bool = True,
) -> Comparison:
    """Run every scenario under the first one's workload, SLA and run (warm-up, stop, seeds, granularity).

    `seeds` replaces its own seeds, in every scenario. In a closed loop the best overlap and batch of every deployment
    are searched for (`afdsim.tune`), so that none is called worse than it can be: one that could give 2 % more tokens
    on its instances, or meet the SLA that it misses, is named. `tune=False` leaves that out.

    `cost` and `network` replace the models of all of them, as in `simulate`.
    """
    if len(scenarios) < 2:
        raise ScenarioError("compare needs two scenarios or more")
    loaded = [load(each) for each in scenarios]
    if seeds is not None:
        loaded = [each.vary("run.seeds", list(seeds)) for each in loaded]
    same, notes = under_one_workload(loaded)
    one = partial(simulate, cost=cost, network=network, progress=progress)
    runs = {name: [one(each, seed=seed) for seed in each.run.seeds] for name, each in same.items()}
    tuned = _tuned(same, runs, (cost, network)) if tune else {}
    return Comparison(runs=runs, notes=notes, shared=_shared(loaded[0]), tuned=tuned)


def _tuned(
    scenarios: Mapping[str, Scenario],
    runs: Mapping[str, Sequence[Result]],
    models: tuple[CostModel | None, Network | None],
) -> dict[str, Tuned]:
    """Search the best way to run every deployment, if the workload is a closed loop."""
    cost, network = models
    found = {name: tuning.tune(each, cost=cost, network=network, run=runs[name][0]) for name, each in scenarios.items()}
    return {name: each for name, each in found.items() if each is not None}


def _in_blocks(scenario: Scenario) -> bool:
    """Whether a workload asks for KV cache in blocks, or for a price of it, which a deployment may not say."""
    asked = scenario.workload
    return any(part is not None for part in (asked.prefix, asked.samples, asked.sessions))


def under_one_workload(loaded: Sequence[Scenario]) -> tuple[dict[str, Scenario], tuple[str, ...]]:
    """Scenarios by name, each with the workload, limit and run of the first, and what that changed."""
    first, given = loaded[0], loaded[0].resolved()
    notes, found = [], {}
    for scenario in loaded:
        name, own = scenario.name, scenario.resolved()
        while name in found:
            name += "'"
        parts = (*SHARED, "kv_cache") if scenario.kv_cache is None and _in_blocks(first) else SHARED
        taken = {key: given.get(key) for key in parts if own.get(key) != given.get(key)}
        notes += [f"{name}: {key} replaced by that of {first.name}" for key in taken]
        found[name] = scenario.varied(taken)
    return found, tuple(notes)


def differing(scenarios: Sequence[Scenario]) -> list[str]:
    """Dotted paths of all keys beside the name in which scenarios differ, in the order of the file."""
    trees = [dict(_leaves(scenario.resolved())) for scenario in scenarios]
    paths = dict.fromkeys(path for tree in trees for path in tree)
    return [path for path in paths if path != "name" and len({repr(tree.get(path)) for tree in trees}) > 1]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _head(name: str, run: Result, keys: Sequence[str]) -> list[str]:
    """Return a name and, hanging from it, what it is; below the name where that is long."""
    scenario = run.scenario
    own, label = scenario.resolved(), f"{name}: "
    texts = [*deployment_lines(scenario), model_line(scenario, run.formats)]
    texts += filter(None, [" ".join(map(str.strip, lines(scenario))) for lines in _LINES])
    keys = [key for key in keys if key != "model" and _used(key, scenario)]
    for part in dict.fromkeys(key.partition(".")[0] for key in keys):
        value, paths = own.get(part), [key.partition(".")[2] for key in keys if key.partition(".")[0] == part]
        told = _told(value, paths) if isinstance(value, Mapping) else str(value)
        texts += [f"{part}: {told}"] if told else []
    if len(label) > _HANG:
        return [f"{name}:", *(line for text in texts for line in _wrapped(text, "  "))]
    lines = [line for text in texts for line in _wrapped(text, " " * len(label))]
    return [label + lines[0][len(label) :], *lines[1:]]


def _used(key: str, scenario: Scenario) -> bool:
    """Whether a kind of deployment reads a key: of the network, all but AFD have the rate of their NICs alone."""
    return isinstance(scenario.deployment, Afd) or not key.startswith("network.") or key == "network.link.bandwidth"


def _shared(scenario: Scenario) -> tuple[str, ...]:
    """Say what is the same for all of them."""
    own = scenario.resolved()
    parts = (f"{part}: {_told(own[part], list(dict(_leaves(own[part]))))}" for part in SHARED if own.get(part))
    return (f"All of them have from {scenario.name}:", *(line for text in parts for line in _wrapped(text, " ")))


def _told(tree: Mapping[str, Any], paths: Iterable[str]) -> str:
    """Return ``a.b=1, a.c=2`` of those paths that a part has."""
    own = dict(_leaves(tree))
    return ", ".join(f"{path}={own[path]}" for path in paths if path in own)


def _advised(name: str, found: Tuned, summary: Mapping[str, Any], option: str) -> str:
    """Say how a deployment gives more tokens, or meets the SLA that it misses; nothing where it is near its best."""
    how = " ".join(option + change for change in found.options)
    sla, seeds = found.scenario.sla, found.scenario.run.seeds
    statistic = "mean" if sla is None else sla.percentile
    of = f" (seed {seeds[0]})" if len(seeds) > 1 else ""
    gives = f"{_paced(found.best, statistic)}; as it is {_paced(found.as_is, statistic)}{of}."
    if found.gain > WORTH:
        return f"{name} is not run at its best: on the same instances {how} gives {gives}"
    missed = summary["afdsim"].get("sla", {}).get("verdict") == "FAIL"
    if missed and found.changes and found.best.verdict != "FAIL":
        few = found.best.verdict == "n/a"
        meets = f"may meet it ({statistic} needs more requests)" if few else "would meet it"
        return f"{name} misses its SLA and on the same instances {meets}: {how} gives {gives}"
    return ""


def _paced(found: Figures, statistic: str) -> str:
    """Return tokens and TPOT, in the statistic that the SLA limits and its mean."""
    if found.tpot_ms is None:
        return f"{found.tgs:,.0f} tok/s/GPU"
    tpot = f"a mean TPOT of {_digits(found.tpot_ms)} ms"
    if found.sla_tpot_ms is not None and statistic != "mean":
        tpot = f"a {statistic} TPOT of {_digits(found.sla_tpot_ms)} ms, mean {_digits(found.tpot_ms)} ms"
    return f"{found.tgs:,.0f} tok/s/GPU at {tpot}"


def _wrapped(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(
        _TOGETHER.sub("\N{NO-BREAK SPACE}", text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _said(label: str, found: Difference | None) -> str:
    """Return ``TPOT mean 3.1% lower (95% CI -3.4% to -2.8%)``, or that chance explains the difference."""
    if found is None:
        return ""
    if _by_chance(found):
        if found.value > 1:
            return f"{label} {_change(found, _HIGH)}, within chance"
        return f"{label} the same within chance, {_with_interval(found)}"
    return f"{label} {_change(found, _HIGH)}"


def _priced(found: Difference) -> str:
    if _by_chance(found):
        return f"as dear within chance, {_with_interval(found)}"
    return _change(found, _DEAR)


def _by_chance(found: Difference) -> bool:
    return found.value == 0.0 or (math.isfinite(found.low) and not found.certain)


def _change(found: Difference, words: tuple[str, str, str]) -> str:
    """Return ``3.1% lower (95% CI -3.4% to -2.8%)``, or ``12.7 times as high (95% CI 7.1 to 18.4 times)``."""
    more, less, much = words
    if found.value > 1:
        return f"{1 + found.value:,.1f} times as {much}{_interval(found)}"
    return f"{abs(found.value):.1%} {more if found.value >= 0 else less}{_interval(found)}"


def _with_interval(found: Difference) -> str:
    amount = f"{1 + found.value:,.1f} times" if found.value > 1 else show_change(found.value)
    return f"{amount}{_interval(found)}"


def _interval(found: Difference) -> str:
    """Return the interval in brackets, in the unit of the value: factors beyond twice as much."""
    if not math.isfinite(found.low):
        return ""
    if found.value > 1:
        return f" (95% CI {1 + found.low:,.1f} to {1 + found.high:,.1f} times)"
    return f" (95% CI {show_change(found.low)} to {show_change(found.high)})"


def _digits(value: float) -> str:
    """Return four digits, and from 10 on two decimals with thousands separators."""
    return f"{value:,.2f}" if value >= 10 else f"{value:.4g}"


def _limits_of(sla: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the limits of an SLA in a summary by metric; one alone is written as the SLA itself."""
    return sla.get("limits", {sla["metric"]: sla})  # type: ignore[no-any-return]


def _held(metric: str, name: str, own: Mapping[str, Any]) -> str:
    """Return ``SLA p99 E2EL <= 30 s: NAME PASS at 18.26 s``, and the load where it is not STABLE."""
    sla, limit = own["sla"], _limits_of(own["sla"])[metric]
    statistic, word, level = sla["percentile"], limit["verdict"], own.get("load", "STABLE")
    scale, unit = shown_in(metric)
    value = f"at {_digits(limit['value_ms'] * scale)} {unit}" if "value_ms" in limit else "(no request has it)"
    if word == "n/a" and f"{statistic}_{metric}_ms" in own.get("too_few", ()):
        value = f"({statistic} needs more requests)"
    so = "" if word == sla["verdict"] else f", so the SLA is {sla['verdict']}"
    load = "" if level == "STABLE" else f"; load {level}{so}"
    return f"SLA {statistic} {metric.upper()} <= {limit['limit_ms'] * scale:,.10g} {unit}: {name} {word} {value}{load}"
