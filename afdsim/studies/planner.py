"""Which deployment to buy or build: the best one for a model, a workload, an SLA and a budget of GPUs, by simulation.

Every layout (`layouts`) first stands for what it gives at most (`trials.bounded`). What would be best by that is tried
in earnest, a quick measure first, then a whole run, and stands for what it gives from then on; the search ends when
what is best has been run. Bounds are optimistic, so nothing that was left untried can be better. The same holds for
fleets, where the best choice is a set of cells (`choosing`), and for the best of every family, the runner-up and so on.
The winner is at last measured by the SimPy processes too, which must agree with the compiled engine to the bit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.engine.lowering import deployment
from afdsim.scenario.document import Scenario
from afdsim.simulation import Engine
from afdsim.studies.choosing import Objective, Offer, chosen
from afdsim.studies.layouts import FAMILIES, Layout, layouts
from afdsim.studies.points import Cache, Models, Outcome, code, compute
from afdsim.studies.sweeps import POINTS, executor
from afdsim.studies.trials import Bound, Measure, Question, aimed, bounded, key, offered, paced, searched, whole

AHEAD = 4
"""Layouts that are tried at once, whatever the number of workers, so that it changes no answer."""
TRIES, LESS = 5, 0.995
"""Runs of a layout to find a batch that meets the SLA, and what each leaves of the limit at most."""
BOUND, MEASURED, RUN, OUT = "bound", "measured", "run", "out"
"""What a layout stands for: what it gives at most, by a quick measure, by a whole run; or it cannot be."""

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Trial:
    """A layout, and what is known of it."""

    layout: Layout
    question: Question
    """With a limit of its own where whole runs missed the SLA."""
    standing: str = BOUND
    batch: int = 0
    bound: float = 0.0
    """Tokens per GPU and second at most."""
    binding: str = ""
    offer: Offer | None = None
    measures: list[Measure] = field(default_factory=list)
    scenario: Scenario | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Of the summary of the whole run."""
    runs: int = 0
    why: str = ""
    """Why it cannot be."""

    def bounded(self, found: Bound | str) -> None:
        """Take what it gives at most."""
        if isinstance(found, str):
            return self.fail(found)
        batch = aimed(self.question, found, 1.0, self.layout.count, (0, len(found.tpot)))
        if batch is None:
            return self.fail(self._beyond(found))
        self.standing, self.batch, self.binding = BOUND, batch, found.binding[batch]
        self.bound = float(found.rate[batch]) / self.layout.count
        self.offer = self._offered(self.bound, float(found.tpot[batch]))
        return None

    def _beyond(self, found: Bound) -> str:
        """Why no batch is fine."""
        if self.question.floor is not None:
            return f"at most {found.rate.max() / self.layout.count:,.0f} tokens per GPU and second"
        return f"one sequence takes {found.tpot[1:].min() * 1e3:,.1f} ms per token ({found.binding[1]})"

    def measured(self, found: list[Measure]) -> None:
        """Take its quick measures, of which the last is the best."""
        self.measures += found
        if not found:
            return self.fail("no batch is fine")
        best = found[-1]
        self.standing, self.batch = MEASURED, best.batch
        self.offer = self._offered(best.tgs, best.tpot)
        return None

    def ran(self, scenario: Scenario, found: Outcome) -> None:
        """Take its whole run; where that misses the SLA, stand again for what it gives at most within less."""
        self.runs += 1
        if found.status == "error" or "tgs" not in found.columns:
            return self.fail(found.error or "the run was too short")
        self.scenario, self.columns = scenario, found.columns
        if found.columns.get("sla.met", True):
            self.standing = RUN
            self.offer = self._offered(found.columns["tgs"], found.columns["mean_tpot_ms"] / 1e3)
            return None
        if self.runs == TRIES or self.question.limit is None:
            return self.fail(f"{TRIES} runs missed the SLA")
        less = min(LESS, found.columns["sla.limit_ms"] / found.columns["sla.value_ms"])
        self.question = replace(self.question, limit=self.question.limit * less)
        return self.bounded(bounded(self.question, self.layout))

    def fail(self, why: str) -> None:
        """Be out of the question."""
        self.standing, self.offer, self.why = OUT, None, why

    def _offered(self, tgs: float, tpot: float) -> Offer:
        return offered(self.layout, tgs * self.layout.count, tpot, self.question.base.cost)


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A cell that was chosen."""

    trial: Trial
    replicas: int

    @property
    def label(self) -> str:
        """``2 x EP16 H800``."""
        return f"{self.replicas} x {self.trial.layout.label}" if self.replicas > 1 else self.trial.layout.label

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"replicas": self.replicas, **_row(self.trial)}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Cells that are best together."""

    picks: tuple[Pick, ...]

    @property
    def label(self) -> str:
        """``1 x EP64 H800 and 4 x TP8 H20``."""
        return " and ".join(pick.label for pick in self.picks)

    @property
    def offer(self) -> Offer:
        """What they give together; the slowest cell counts for a user."""
        every = [(pick.trial.offer, pick.replicas) for pick in self.picks if pick.trial.offer is not None]
        gpus: Counter[str] = Counter()
        for offer, count in every:
            gpus.update({kind: count * number for kind, number in offer.gpus.items()})
        prices = [offer.usd for offer, _ in every]
        usd = None if None in prices else sum(count * (offer.usd or 0.0) for offer, count in every)
        rate = sum(count * offer.rate for offer, count in every)
        return Offer(dict(gpus), rate, usd, min((offer.speed for offer, _ in every), default=0.0))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; what is not known is absent."""
        return {"cells": [pick.to_dict() for pick in self.picks], **figures(self.offer)}


def figures(offer: Offer) -> dict[str, Any]:
    """What cells give, as plain data; what is not known is absent."""
    found: dict[str, Any] = {"gpus": dict(offer.gpus), "output_throughput": offer.rate, "tgs": offer.rate / offer.total}
    found["tokens_per_s_per_user"] = offer.speed
    if offer.usd is not None:
        found["usd_per_hour"] = offer.usd
        found["usd_per_1m_output_tokens"] = offer.usd / offer.rate / 3600.0 * 1e6
    return found


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The best deployment that was found, and what it was held against."""

    objective: Objective
    budget: Mapping[str, int]
    best: Choice | None
    """None where nothing meets what was asked."""
    runner_up: Choice | None
    families: Mapping[str, Choice | None]
    """The best of every family."""
    trials: tuple[Trial, ...]
    agrees: bool | None
    """Whether the processes engine gives the winner's quick measures to the bit; None where there is no winner."""

    @property
    def counts(self) -> dict[str, int]:
        """How many layouts and batches there were, and how many were measured and run."""
        return {
            "layouts": len(self.trials),
            "tried": sum(bool(trial.measures) for trial in self.trials),
            "measures": sum(len(trial.measures) for trial in self.trials),
            "runs": sum(trial.runs for trial in self.trials),
        }

    def frame(self) -> Any:
        """Return a frame with a row for every layout, those that were run first, then by what they give."""
        import pandas as pd

        order = {RUN: 0, MEASURED: 1, BOUND: 2, OUT: 3}
        ranked = sorted(self.trials, key=lambda trial: (order[trial.standing], -_tgs(trial)))
        return pd.DataFrame([_row(trial) for trial in ranked])

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        lost = {name: None if found is None else found.to_dict() for name, found in self.families.items()}
        return {
            "objective": self.objective,
            "budget": dict(self.budget),
            "best": self.best and self.best.to_dict(),
            "runner_up": self.runner_up and self.runner_up.to_dict(),
            "families": lost,
            "counts": self.counts,
            "engines_agree": self.agrees,
        }


def _tgs(trial: Trial) -> float:
    return trial.offer.rate / trial.layout.count if trial.offer is not None else 0.0


def _row(trial: Trial) -> dict[str, Any]:
    """What is known of a layout, as plain data; what is not is absent."""
    row: dict[str, Any] = {"family": trial.layout.family, "deployment": trial.layout.label, "standing": trial.standing}
    if trial.offer is None:
        return row | {"gpus": dict(trial.layout.gpus), "why": trial.why}
    row |= {"max_num_seqs": trial.batch, **figures(trial.offer), "mean_tpot_ms": 1e3 / trial.offer.speed}
    return row | {"tgs_at_most": trial.bound, "binds": trial.binding}


# the search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Search:
    """Layouts under a question, tried until what is best has been run."""

    question: Question
    objective: Objective
    budget: Mapping[str, int]
    demand: float
    trials: tuple[Trial, ...]
    pool: Executor
    cache: Cache | None
    say: Say

    def settled(self, among: Callable[[Layout], bool]) -> Choice | None:
        """Return the best choice among some layouts, each of its cells run; None where there is none."""
        while True:
            picks = self._chosen(among, ())
            due = self._due(among)
            if not due:
                found = tuple(Pick(trial=self.trials[place], replicas=count) for place, count in picks.items())
                return Choice(picks=found) if found else None
            self._try(due)

    def _chosen(self, among: Callable[[Layout], bool], without: Iterable[int]) -> Counter[int]:
        left_out = set(without)
        offers = {
            place: trial.offer
            for place, trial in enumerate(self.trials)
            if trial.offer is not None and place not in left_out and among(trial.layout)
        }
        return chosen(self.objective, offers, self.budget, self.demand)

    def _due(self, among: Callable[[Layout], bool]) -> list[int]:
        """Layouts to try next: those of the best choice that were not run, and of the next best without them."""
        due: list[int] = []
        while len(due) < AHEAD:
            new = [place for place in self._chosen(among, due) if self.trials[place].standing != RUN]
            if not new:
                break
            due += new
        return due

    def _try(self, due: Iterable[int]) -> None:
        """Have every layout measured, or run where it was measured."""
        waiting: list[tuple[Trial, Scenario | None, Future[str]]] = []
        for trial in (self.trials[place] for place in due):
            self.say(trial.layout.label)
            if trial.standing == BOUND:
                waiting.append((trial, None, self._answer(_measures, trial)))
            else:
                scenario = whole(trial.question, trial.layout, trial.batch)
                waiting.append((trial, scenario, self._run(scenario)))
        for trial, ran, answer in waiting:
            text = answer.result()
            if ran is None:
                trial.measured([Measure(*row) for row in json.loads(text)])
            else:
                trial.ran(ran, Outcome.read(text))

    def _answer(self, ask: Callable[..., str], trial: Trial) -> Future[str]:
        """Have the quick measures of a layout, from the cache where they are there."""
        file = self._file(trial)
        if file is not None:
            with suppress(OSError, ValueError):
                kept = file.read_text(encoding="utf-8")
                json.loads(kept)
                return _known(kept)
        return self.pool.submit(ask, trial.question, trial.layout, file)

    def _run(self, scenario: Scenario) -> Future[str]:
        seed, models = scenario.run.seeds[0], self.question.models
        file = None if self.cache is None else self.cache.file(models.key(scenario), seed)
        if file is not None and (kept := Cache.get(file)) is not None:
            return _known(kept.text())
        return self.pool.submit(compute, scenario, seed, file, code(), models)

    def _file(self, trial: Trial) -> Path | None:
        if self.cache is None:
            return None
        return self.cache.file(key(trial.question, trial.layout, "measures"), trial.question.base.run.seeds[0])


def _known(text: str) -> Future[str]:
    found: Future[str] = Future()
    found.set_result(text)
    return found


def _measures(question: Question, layout: Layout, file: Path | None) -> str:
    """Measure a layout wherever this runs, keep the answer in `file` if there is one, and return its text."""
    bound = bounded(question, layout)
    text = json.dumps([] if isinstance(bound, str) else [list(each) for each in searched(question, layout, bound)])
    if file is not None:
        with suppress(OSError):
            Cache.put(file, text)
    return text


def plan(  # noqa: PLR0913 - the arguments are the question
    base: Scenario,
    *,
    gpus: Mapping[str, int],
    objective: Objective = "goodput",
    demand: float = 0.0,
    floor: float | None = None,
    cost: CostModel | None = None,
    network: Network | None = None,
    workers: int | Executor = 1,
    cache: str | Path | None = POINTS,
    say: Say = lambda text: None,
) -> Plan:
    """Return the best deployment."""
    models = Models(cost=cost, network=network)
    models.check()
    question = Question(
        base=base, limit=None if base.sla is None else base.sla.limits["tpot"], floor=floor, models=models
    )
    trials = tuple(Trial(layout=layout, question=question) for layout in layouts(deployment(base).llm, gpus))
    for trial in trials:
        trial.bounded(bounded(question, trial.layout))
    kept = None if cache is None or models.nameless() else Cache(Path(cache))
    with executor(workers) as pool:
        search = Search(
            question=question,
            objective=objective,
            budget=gpus,
            demand=demand,
            trials=trials,
            pool=pool,
            cache=kept,
            say=say,
        )
        best = search.settled(lambda layout: True)
        families = {name: search.settled(_of(name)) for name in FAMILIES}
        rival = None if best is None else search.settled(_unlike(best))
    agrees = None if best is None else all(_agrees(pick.trial) for pick in best.picks)
    return Plan(
        objective=objective,
        budget=dict(gpus),
        best=best,
        runner_up=rival,
        families=families,
        trials=trials,
        agrees=agrees,
    )


def _of(family: str) -> Callable[[Layout], bool]:
    return lambda layout: layout.family == family


def _unlike(best: Choice) -> Callable[[Layout], bool]:
    """Whether a layout is another than the largest cell of a choice, whatever its overlap and micro-batches."""
    largest = max(best.picks, key=lambda pick: pick.trial.layout.count * pick.replicas).trial.layout
    return lambda layout: (layout.family, layout.gpus) != (largest.family, largest.gpus)


def _agrees(trial: Trial) -> bool:
    """Whether both engines measure a layout alike, to the bit."""
    engines: tuple[Engine, Engine] = ("kernel", "processes")
    found = [paced(trial.question, trial.layout, trial.batch, engine) for engine in engines]
    return found[0] == found[1]
