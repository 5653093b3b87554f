"""A layout as a candidate: what is known of it under every workload, and what it stands for.

It stands for what it gives at most, by a quick measure, or by whole runs, whichever was found last. Several workloads
make one figure by their weights; the batch is one for all, because an engine is started with one. Between the batches
at which some workload begins to miss its limit tokens rise with the batch, so that those are the batches to try.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from afdsim.catalog import entries as catalog
from afdsim.scenario.document import Scenario
from afdsim.studies.choosing import Offer
from afdsim.studies.layouts import Layout, layouts
from afdsim.studies.points import Outcome
from afdsim.studies.trials import Bound, Measure, Question, aimed, bounded, fine, measure, offered, searched
from afdsim.studies.tuning import LESS, TRIES

Rule = Literal["mean", "worst", "cvar"]
RULES: tuple[Rule, ...] = get_args(Rule)
BOUND, MEASURED, RUN, OUT = "bound", "measured", "run", "out"
"""What a layout stands for: what it gives at most, by a quick measure, by a whole run; or it cannot be."""


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """How the tokens under several workloads make one figure."""

    weights: tuple[float, ...]
    """Of every workload; they add up to 1."""
    rule: Rule = "mean"
    tail: float = 0.1
    """Share of the weight that `cvar` averages over: the worst."""

    def pooled(self, rates: Sequence[float]) -> float:
        """The figure: the mean, the worst workload (group DRO), or the mean of a tail of the worst (CVaR)."""
        if self.rule == "worst":
            return min(rate for rate, weight in zip(rates, self.weights, strict=True) if weight)
        if self.rule == "mean":
            return math.fsum(weight * rate for weight, rate in zip(self.weights, rates, strict=True))
        left, found = self.tail, 0.0
        for rate, weight in sorted(zip(rates, self.weights, strict=True)):
            taken = min(weight, left)
            left, found = left - taken, found + taken * rate
        return found / self.tail


class Point(NamedTuple):
    """A batch of a layout, measured under every workload."""

    batch: int
    measures: tuple[Measure, ...]


@dataclass(slots=True, kw_only=True)
class Trial:
    """A layout, and what is known of it."""

    layout: Layout
    questions: tuple[Question, ...]
    """One for every workload, with a limit of its own where whole runs missed the SLA."""
    weighing: Weighing
    standing: str = BOUND
    batch: int = 0
    bound: float = 0.0
    """Tokens per GPU and second at most."""
    binding: str = ""
    offer: Offer | None = None
    points: list[Point] = field(default_factory=list)
    scenarios: tuple[Scenario, ...] = ()
    columns: tuple[Mapping[str, Any], ...] = ()
    """Of the summaries of the whole runs."""
    runs: int = 0
    why: str = ""
    """Why it cannot be."""
    floor: float = field(init=False)
    """Tokens per GPU and second that whole runs are to give at least."""

    def __post_init__(self) -> None:
        self.floor = self.questions[0].floor or 0.0

    def bounded(self) -> None:
        """Find what it gives at most."""
        found = [bounded(question, self.layout) for question in self.questions]
        if reasons := [each for each in found if isinstance(each, str)]:
            return self.fail(reasons[0])
        bounds = [each for each in found if not isinstance(each, str)]
        best = best_bound(self.questions, bounds, self.layout, self.weighing)
        if best is None:
            return self.fail(self._beyond(bounds[0]))
        rates, self.batch = best
        worst = min(range(len(rates)), key=rates.__getitem__)
        self.standing, self.binding = BOUND, bounds[worst].binding[_within(self.batch, bounds[worst])]
        speeds = [float(each.tpot[_within(self.batch, each)]) for each in bounds]
        self.bound = self.weighing.pooled(rates) / self.layout.count
        self.offer = self._offered(rates, speeds)
        return None

    def _beyond(self, found: Bound) -> str:
        """Why no batch is fine."""
        if self.questions[0].floor is not None:
            return f"at most {found.rate.max() / self.layout.count:,.0f} tokens per GPU and second"
        return f"one sequence takes {found.tpot[1:].min() * 1e3:,.1f} ms per token ({found.binding[1]})"

    def measured(self, found: Sequence[Point]) -> None:
        """Take its quick measures, and stand for the best."""
        self.points += found
        best = max(found, key=lambda point: self.weighing.pooled(self._rates(point)), default=None)
        if best is None or not self.weighing.pooled(self._rates(best)):
            return self.fail("no batch is fine")
        self.standing, self.batch = MEASURED, best.batch
        self.offer = self._offered(self._rates(best), [each.tpot for each in best.measures])
        return None

    def _rates(self, point: Point) -> list[float]:
        """Tokens per second under every workload; none where its limit is missed."""
        pairs = zip(self.questions, point.measures, strict=True)
        return [found.tgs * self.layout.count if fine(question, found) else 0.0 for question, found in pairs]

    def ran(self, scenarios: Sequence[Scenario], found: Sequence[Outcome]) -> None:
        """Take its whole runs; where one misses an SLA that it was to meet, stand again for what it gives at most."""
        self.runs += len(found)
        wrong = next((each.error or "a run was too short" for each in found if "tgs" not in each.columns), None)
        if wrong is not None:
            return self.fail(wrong)
        self.scenarios, self.columns = tuple(scenarios), tuple(each.columns for each in found)
        expected = next(each for each in reversed(self.points) if each.batch == self.batch)
        asked = zip(self.questions, expected.measures, self.columns, strict=True)
        missed = [fine(question, measure) and not self._enough(columns) for question, measure, columns in asked]
        if not any(missed):
            self.standing = RUN
            rates = [columns["tgs"] * self.layout.count * _met(columns) for columns in self.columns]
            pairs = zip(self.columns, expected.measures, strict=True)  # an answer of one token has no TPOT
            tpots = [columns.get("mean_tpot_ms", 1e3 * measure.tpot) / 1e3 for columns, measure in pairs]
            self.offer = self._offered(rates, tpots)
            return None
        if self.runs >= TRIES * len(found):
            return self.fail(f"{TRIES} runs missed the {'SLA' if not all(map(_met, self.columns)) else 'floor'}")
        self.questions = tuple(
            _stricter(question, columns, self.floor) if late else question
            for question, columns, late in zip(self.questions, self.columns, missed, strict=True)
        )
        return self.bounded()

    def _enough(self, columns: Mapping[str, Any]) -> bool:
        """Whether a whole run meets its SLA, and reaches the floor."""
        return _met(columns) and columns["tgs"] >= self.floor

    @property
    def missed(self) -> tuple[str, ...]:
        """Workloads in which its whole runs miss the SLA, by name."""
        pairs = zip(self.questions, self.columns, strict=False)
        return tuple(question.base.name for question, columns in pairs if not _met(columns))

    def fail(self, why: str) -> None:
        """Be out of the question."""
        self.standing, self.offer, self.why = OUT, None, why

    def _offered(self, rates: Sequence[float], tpots: Sequence[float]) -> Offer:
        """What it gives; the slowest workload in which the SLA is met counts for a user."""
        slowest = max(tpot for rate, tpot in zip(rates, tpots, strict=True) if rate)
        return offered(self.layout, self.weighing.pooled(rates), slowest, self.questions[0].base.cost)


def _met(columns: Mapping[str, Any]) -> bool:
    return bool(columns.get("sla.met", True))


def _stricter(question: Question, columns: Mapping[str, Any], floor: float) -> Question:
    """The question with less of its limit, by how much a whole run missed the SLA; or with more of its floor."""
    if _met(columns):
        assert question.floor is not None, "a run without a floor misses none"
        return replace(question, floor=question.floor * max(1.0 / LESS, floor / columns["tgs"]))
    assert question.limit is not None, "a run without an SLA misses none"
    less = min(LESS, columns["sla.limit_ms"] / columns["sla.value_ms"])
    return replace(question, limit=question.limit * less)


def _within(batch: int, bound: Bound) -> int:
    """Sequences of a rank that run at a batch: no more than memory holds."""
    return min(batch, len(bound.tpot) - 1)


def thresholds(questions: Sequence[Question], bounds: Sequence[Bound], layout: Layout) -> list[int]:
    """Batches beyond which some workload misses its limit by its bound; tokens rise with the batch in between."""
    found = (
        aimed(question, bound, 1.0, layout.count, (0, len(bound.tpot)))
        for question, bound in zip(questions, bounds, strict=True)
    )
    return sorted({batch for batch in found if batch is not None}, reverse=True)


def best_bound(
    questions: Sequence[Question], bounds: Sequence[Bound], layout: Layout, weighing: Weighing
) -> tuple[list[float], int] | None:
    """Return the tokens per second of every workload at most, at the batch that is best by them; None if none is."""
    best: tuple[list[float], int] | None = None
    for batch in thresholds(questions, bounds, layout):
        rates = [
            float(bound.rate[_within(batch, bound)]) * _allowed(question, bound, batch)
            for question, bound in zip(questions, bounds, strict=True)
        ]
        if weighing.pooled(rates) > (weighing.pooled(best[0]) if best else 0.0):
            best = rates, batch
    return best


def _allowed(question: Question, bound: Bound, batch: int) -> bool:
    return question.limit is None or float(bound.tpot[_within(batch, bound)]) <= question.limit


def points(questions: tuple[Question, ...], layout: Layout) -> list[Point]:
    """Measure a layout under every workload at the best batch of each, and on the way there if there is only one."""
    every = [bounded(question, layout) for question in questions]
    bounds = [each for each in every if not isinstance(each, str)]
    found = [searched(question, layout, bound) for question, bound in zip(questions, bounds, strict=True)]
    if len(questions) == 1:
        return [Point(each.batch, (each,)) for each in found[0]]
    known = {(place, each.batch): each for place, some in enumerate(found) for each in some}
    batches = {some[-1].batch for some in found if some}
    rows = []
    for batch in sorted(batches):
        places = [(place, _within(batch, bound)) for place, bound in enumerate(bounds)]
        row = [known.get(each) or measure(questions[each[0]], layout, each[1]) for each in places]
        if all(row):
            rows.append(Point(batch, tuple(each for each in row if each is not None)))
    return rows


def candidates(
    questions: tuple[Question, ...], weighing: Weighing, budget: Mapping[str, int], most: int
) -> tuple[Trial, ...]:
    """Return every layout on at most so many GPUs of each kind, no more than `most`, with what it gives at most."""
    llm, cells = catalog.llm(questions[0].base.model), {kind: min(count, most) for kind, count in budget.items()}
    found = tuple(Trial(layout=layout, questions=questions, weighing=weighing) for layout in layouts(llm, cells))
    for trial in found:
        trial.bounded()
    return found
