"""The search of a planner: layouts stand for what they give at most until what is best has been run.

What would be best by what every layout stands for is tried, a quick measure first, then whole runs; it ends when all
that is best has been run. Bounds are optimistic, so nothing that was left untried can be better.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afdsim.errors import SimulationError
from afdsim.scenario.document import Scenario
from afdsim.studies.candidates import BOUND, RUN, Point, Trial, points
from afdsim.studies.choices import Choice, Pick
from afdsim.studies.choosing import Objective, Offer, chosen
from afdsim.studies.layouts import Layout
from afdsim.studies.pods import Pod, Servers, Upstream, best_pod
from afdsim.studies.points import Cache, Models, Outcome, code, compute
from afdsim.studies.trials import Measure, Question, key, whole

AHEAD = 4
"""Layouts that are tried at once, whatever the number of workers, so that it changes no answer."""

Among = Callable[[Layout], bool]
"""Whether a layout may be chosen."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Search:
    """Layouts under some questions, tried until what is best has been run."""

    objective: Objective
    budget: Mapping[str, int]
    demand: float
    trials: tuple[Trial, ...]
    pool: Executor
    cache: Cache | None
    say: Say

    def settled(self, among: Among) -> Choice | None:
        """Return the best choice among some layouts, each of its cells run; None where there is none."""
        while True:
            picks = self._chosen(among, ())
            due = self._due(among)
            if not due:
                found = tuple(Pick(trial=self.trials[place], replicas=count) for place, count in picks.items())
                return Choice(picks=found) if found else None
            self._try(due)

    def _chosen(self, among: Among, without: Iterable[int]) -> Counter[int]:
        return chosen(self.objective, self._offers(among, without), self.budget, self.demand)

    def _offers(self, among: Among, without: Iterable[int]) -> dict[int, Offer]:
        """What layouts stand for, some left out."""
        left_out = set(without)
        return {
            place: trial.offer
            for place, trial in enumerate(self.trials)
            if trial.offer is not None and place not in left_out and among(trial.layout)
        }

    def _due(self, among: Among) -> list[int]:
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
        waiting: list[tuple[Trial, list[Scenario], list[Future[str]]]] = []
        for trial in (self.trials[place] for place in due):
            self.say(trial.layout.label)
            if trial.standing == BOUND:
                waiting.append((trial, [], [self._measured(trial)]))
            else:
                scenarios = [whole(question, trial.layout, trial.batch) for question in trial.questions]
                waiting.append((trial, scenarios, [self._run(scenario) for scenario in scenarios]))
        for trial, ran, answers in waiting:
            texts = [answer.result() for answer in answers]
            if ran:
                trial.ran(ran, [Outcome.read(text) for text in texts])
            else:
                trial.measured([_point(row) for row in json.loads(texts[0])])

    def _measured(self, trial: Trial) -> Future[str]:
        """Have the quick measures of a layout, from the cache where they are there."""
        file = self._file(trial)
        if file is not None and (kept := Cache.line(file)) is not None:
            with suppress(ValueError, TypeError):
                _ = [_point(row) for row in json.loads(kept)]
                return _known(kept)
        return self.pool.submit(_measures, trial.questions, trial.layout, file, code())

    def _run(self, scenario: Scenario) -> Future[str]:
        seed, models = scenario.run.seeds[0], self.models
        file = None if self.cache is None else self.cache.file(models.key(scenario), seed)
        if file is not None and (kept := Cache.get(file)) is not None:
            return _known(kept.text())
        return self.pool.submit(compute, scenario, seed, file, code(), models)

    @property
    def models(self) -> Models:
        """What prices them."""
        return self.trials[0].questions[0].models

    def _file(self, trial: Trial) -> Path | None:
        if self.cache is None:
            return None
        said = "-".join(key(question, trial.layout, "measures") for question in trial.questions)
        name = hashlib.sha256(said.encode()).hexdigest()
        return self.cache.file(name, trial.questions[0].base.run.seeds[0])


@dataclass(frozen=True, kw_only=True)
class Behind(Search):
    """The same for cells behind prefill servers."""

    upstream: Upstream
    servers: tuple[Servers, ...]

    def settled(self, among: Among) -> Choice | None:
        """Return the best pod of some layouts, its cells run and its servers simulated; None where there is none."""
        while True:
            if due := self._due(among):
                self._try(due)
                continue
            pod = self._pod(among, ())
            if pod is None or not pod.rate:
                return None
            if pod.ahead in pod.servers.known:
                return Choice(picks=(Pick(trial=self.trials[pod.place], replicas=pod.replicas),), pod=pod)
            self.say(pod.label)
            self.upstream.refine(pod.servers, pod.ahead)

    def _chosen(self, among: Among, without: Iterable[int]) -> Counter[int]:
        pod = self._pod(among, without)
        return Counter() if pod is None else Counter({pod.place: pod.replicas})

    def _pod(self, among: Among, without: Iterable[int]) -> Pod | None:
        return best_pod(self.objective, self._offers(among, without), self.servers, self.upstream, self.demand)


def _point(row: Sequence[Any]) -> Point:
    """A batch and its measures, from plain data."""
    batch, measures = row
    return Point(int(batch), tuple(Measure(*each) for each in measures))


def _known(text: str) -> Future[str]:
    found: Future[str] = Future()
    found.set_result(text)
    return found


def _measures(questions: tuple[Question, ...], layout: Layout, file: Path | None, expected: str) -> str:
    """Measure a layout wherever this runs, keep the answer in `file` if there is one, and return its text.

    `expected` is the `code` of who asks, as in `compute`.
    """
    if expected != code():
        raise SimulationError("this worker runs another version of afdsim than the plan; install the same everywhere")
    text = json.dumps([[point.batch, [list(each) for each in point.measures]] for point in points(questions, layout)])
    if file is not None:
        with suppress(OSError):
            Cache.put(file, text)
    return text
