"""A workload that moves: longer contexts, more requests, another SLA; and what a deployment is then asked for.

Before and after are questions (`asking`): closed loops of the lengths that were given, which keep the batch full. What
is asked for is tokens per second: requests per second, times the mean answer of the workload after the move.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from afdsim.errors import ScenarioError
from afdsim.scenario.asked import (
    ClosedLoop,
    ConstantLength,
    LognormalLength,
    UniformLength,
)
from afdsim.scenario.document import Scenario, load
from afdsim.scenario.requests import requested
from afdsim.studies.asking import BEYOND, of_file
from afdsim.studies.scaling import mean_rate
from afdsim.studies.trials import Question

Moves = Mapping[str, object] | Iterable[str]
"""Values by dotted path, or texts as of ``--set``."""

MOVING = ("workload", "sla")
"""Parts of a scenario that may move; the rest is the deployment, which stays."""
ANSWERS = 1 << 16
"""Requests over which the length of answers is averaged."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """What was asked, what is asked now, and how often."""

    source: Scenario
    """As it was given."""
    before: Scenario
    """The question before the move."""
    after: Scenario
    """The question after it."""
    rate: float
    """So many times the requests."""
    arrivals: float | None
    """Requests per second of an open loop, without `rate`; None of a closed loop, which asks for what is served."""

    @property
    def answer(self) -> float:
        """Mean output tokens of a request after the move."""
        return mean_answer(self.after)

    @property
    def context(self) -> tuple[float, float]:
        """Tokens of a sequence in flight on average, before and after."""
        first, second = (float(Question(base=each).contexts.mean()) for each in (self.before, self.after))
        return first, second


def moved(scenario: Scenario, changes: Moves, *, context: int | None, rate: float) -> Move:
    """Return the move of a workload; ScenarioError where a deployment cannot be sized for it."""
    if not 0.0 < rate < math.inf:
        raise ScenarioError(f"--rate: must be > 0, so many times the requests per second (got {rate:g})")
    found = _changed(scenario, changes)
    wrong = list(dict.fromkeys([*_unsized(scenario), *_unsized(found), *_unlimited(found)]))
    if wrong:
        raise ScenarioError("\n".join(f"{scenario.name}: {each}" for each in wrong))
    after = _full(found)
    if context is not None:
        after = at_context(after, context)
    arrivals = next((each for each in (arriving(found), arriving(scenario)) if each is not None), None)
    if mean_answer(after) <= 1.0:
        raise ScenarioError(
            f"{scenario.name}: workload.output_len: answers of one token have no TPOT; give longer ones"
        )
    return Move(source=scenario, before=_before(scenario), after=after, rate=rate, arrivals=arrivals)


def _changed(scenario: Scenario, changes: Moves) -> Scenario:
    if isinstance(changes, Mapping):
        paths: Iterable[str] = changes
    else:
        changes = tuple(changes)
        paths = (each.partition("=")[0].strip() for each in changes)
    fixed = [path for path in paths if path.partition(".")[0] not in MOVING]
    if fixed:
        raise ScenarioError(f"{', '.join(fixed)}: only keys of {' and '.join(MOVING)} can move; the deployment stays")
    return scenario.varied(changes) if isinstance(changes, Mapping) else load(scenario, changes)


def _before(scenario: Scenario) -> Scenario:
    """The question before the move; of its limits that of TPOT alone counts."""
    limits = {} if scenario.sla is None else scenario.sla.limits
    others = {f"sla.{key}": None for key in limits if key != "tpot"}
    changes = others if "tpot" in limits else {"sla": None} if limits else {}
    question, _ = of_file(scenario.varied(changes), None, None)
    return question


def _full(found: Scenario) -> Scenario:
    """The question of a workload, as many in flight as there are slots."""
    question, _ = of_file(found, None, None)
    if getattr(found.workload.arrival, "concurrency", None) is None:
        return question
    return question.vary("workload.arrival.concurrency", None)


def _unsized(scenario: Scenario) -> Iterator[str]:
    """Yield what keeps a deployment from being sized, and the way out."""
    for part, why in BEYOND.items():
        if getattr(scenario.workload, part) is not None:
            yield f"workload.{part} cannot be sized, {why}; resize a scenario without it"
    if scenario.failures is not None:
        yield "failures cannot be sized, a deployment is sized for its normal days; --set failures=null"
    if scenario.mixed is not None:
        yield "prefill.mode: mixed cannot be sized, prompts take a part of every step; --set prefill=null"
    if scenario.unlike:
        yield "router.cells cannot be sized, cells must be alike; resize a scenario with router.replicas"
    if scenario.kv_cache is not None and scenario.kv_cache.policy == "grow":
        yield "kv_cache.policy: grow cannot be sized, what is held is not known beforehand; --set kv_cache=null"


def _unlimited(scenario: Scenario) -> Iterator[str]:
    """Yield limits other than one of TPOT for all requests, and the way out."""
    limits = {} if scenario.sla is None else scenario.sla.limits
    others = [key for key in limits if key != "tpot"]
    if others and "tpot" in limits:
        out = " ".join(f"--set sla.{key}=null" for key in others)
        yield f"sla.{others[0]} cannot be sized, decode is sized under a limit of tpot; {out}"
    elif others:
        yield f"sla.{others[0]} cannot be sized, decode is sized under a limit of tpot; give one, or --set sla=null"
    for place, each in enumerate(scenario.workload.classes or ()):
        if each.sla is not None:
            key = f"workload.classes[{place}].sla"
            yield f"{key} cannot be sized, one limit counts for all requests; --set {key}=null"


# how long, how often -------------------------------------------------------------------------------------------------


def at_context(question: Scenario, tokens: int) -> Scenario:
    """Return a question whose sequences hold `tokens` on average: prompts are scaled, answers stay as they are."""
    if question.workload.trace is not None:
        raise ScenarioError(
            f"{question.name}: --context scales laws of lengths, and these are a trace's; give input_len"
        )
    posed = Question(base=question)
    prompt = float(posed.lengths[0].mean())
    answered = float(posed.contexts.mean()) - prompt
    if not tokens >= answered + 1.0:
        least = math.ceil(answered + 1.0)
        raise ScenarioError(
            f"--context: must be >= {least:,}, answers alone hold {answered:,.0f} tokens (got {tokens:,})"
        )
    scale = (tokens - answered) / prompt
    return question.varied(dict(_scaled(question, scale)))


def _scaled(question: Scenario, scale: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every law of prompts with its lengths scaled, by dotted path."""
    asked = question.workload
    laws = {"workload.input_len": asked.input_len}
    laws |= {f"workload.classes[{place}].input_len": each.input_len for place, each in enumerate(asked.classes or ())}
    for path, law in laws.items():
        match law:
            case ConstantLength(value=value):
                yield path, {"distribution": "constant", "value": _tokens(value, scale)}
            case UniformLength() | LognormalLength():
                ends = {"min": law.min if law.min > 1 else None, "max": law.max}
                given = {key: _tokens(value, scale) for key, value in ends.items() if value is not None}
                mean = {"mean": law.mean * scale, "cv": law.cv} if isinstance(law, LognormalLength) else {}
                yield path, {"distribution": law.distribution, **mean, **given}


def _tokens(value: int, scale: float) -> int:
    return max(round(value * scale), 1)


def arriving(scenario: Scenario) -> float | None:
    """Requests per second in the long run; None of a closed loop."""
    if isinstance(scenario.workload.arrival, ClosedLoop):
        return None
    rate = mean_rate(scenario)
    if math.isinf(rate):
        raise ScenarioError(f"{scenario.name}: all requests arrive at once, which is no rate; give a finite one")
    return rate


def mean_answer(question: Scenario) -> float:
    """Mean output tokens of the requests of a closed loop, those of a file as often as they come."""
    source = requested(question, question.run.seeds[0])
    count = ANSWERS if source.file is None else len(source.file)
    return float(source.columns(count)[1].mean())
