"""The smallest change of a deployment when its workload moves, and the cheapest size that is enough.

Sizes (`sizes`) are tried by how many instances they add or remove, those that keep all first; of equally small changes
the cheapest counts, then the better TPOT. What a size gives at most (`trials.bounded`) says whether it is worth a
quick measure; of what by that is enough, a whole run has the last word. The batch is searched anew for every size, but
a deployment that is enough as it is stays as it is. Served before the move is what is asked for after it: quick
measures are held against a quick measure, runs against a run, so that what is no change is none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.errors import AfdsimError, ScenarioError
from afdsim.scenario import tree, yamlfile
from afdsim.scenario.document import Scenario, Source, load
from afdsim.studies.candidates import BOUND, MEASURED, OUT, RUN, Point, Trial, Weighing, points
from afdsim.studies.choosing import Offer
from afdsim.studies.layouts import Layout
from afdsim.studies.moving import Move, Moves, mean_answer, moved
from afdsim.studies.points import Models, outcome
from afdsim.studies.sizes import Size, apart, changed, label, layout, size_of, sizes, ways
from afdsim.studies.trials import Question, fine, measure, offered, whole

ALONE = Weighing(weights=(1.0,))
"""Of the one workload of a question."""
AMPLE = 2.0
"""Times the cells that are enough by their bounds, up to which cells are added."""
ALMOST = 0.99
"""Part of the demand from which on a batch is searched to the last sequence."""
ROUNDING = 1e-9
"""Part of the demand that sums may lose."""

ANSWERS = ("smallest", "cheapest", "most")
"""Fields of `Resized`."""

Say = Callable[[str], None]
Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Output tokens per second that are asked for after the move."""

    measured: float
    """By a quick measure of what is served before; that of an open loop is exact."""
    run: float
    """By a whole run."""
    requests: float
    """Per second, by the run, with `rate`."""
    late: bool = False
    """Whether what is served before the move misses its SLA."""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A size, and what a whole run says of it under a workload; all cells together."""

    size: Size
    label: str
    """``3A2F H200``, or ``2 x TP8 H800``."""
    change: Mapping[str, int]
    """Instances or cells added or removed, by role; those that stay are absent."""
    offer: Offer
    scenario: Scenario
    """Of one cell, as it was run."""
    columns: Mapping[str, Any]
    """Of the summary of that run."""

    @property
    def batch(self) -> int:
        """Sequences of a rank."""
        return self.scenario.deployment.max_num_seqs

    @property
    def met(self) -> bool:
        """Whether the SLA is met, if there is one."""
        return bool(self.columns.get("sla.met", True))

    @property
    def binds(self) -> str:
        """What bounds a step."""
        return str(self.columns.get("bottleneck.name", ""))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; what is not known is absent."""
        found: dict[str, Any] = {"deployment": self.label, "change": dict(self.change), "cells": self.size.cells}
        found["max_num_seqs"] = self.batch
        if isinstance(self.scenario.deployment, tree.Afd):
            found["num_microbatches"] = self.scenario.deployment.num_microbatches
        found |= {"gpus": dict(self.offer.gpus), "output_throughput": self.offer.rate, **self._priced()}
        found["mean_tpot_ms"] = 1e3 / self.offer.speed
        sla = {
            key: self.columns[f"sla.{key}"] for key in ("met", "value_ms", "limit_ms") if f"sla.{key}" in self.columns
        }
        return found | ({"sla": sla} if sla else {}) | {"binds": self.binds}

    def _priced(self) -> dict[str, float]:
        return {} if self.offer.usd is None else {"usd_per_hour": self.offer.usd}


@dataclass(frozen=True, kw_only=True)
class Resized:
    """The sizes that are enough after a move, and what was asked."""

    move: Move
    demand: Demand
    as_is: Deployed | None
    """The deployment as it is after the move; None where it cannot run."""
    why: str
    """Why it cannot."""
    smallest: Deployed | None
    """The smallest change that is enough; None where nothing is."""
    cheapest: Deployed | None
    """The cheapest size that is enough."""
    most: Deployed | None
    """What gives most, where nothing is enough; None where nothing meets the SLA."""
    reason: str
    """Why nothing is enough, of most sizes."""
    tried: Mapping[str, int]
    """Sizes within reach, and how many cells were measured and run for them."""
    now: Offer
    """GPUs and price of the deployment as it is."""

    @property
    def answers(self) -> Mapping[str, Deployed]:
        """What was found, by what it is; one alone where the smallest change is the cheapest size too."""
        found = {name: each for name in ANSWERS if (each := getattr(self, name)) is not None}
        if self.smallest is not None and self.smallest == self.cheapest:
            del found["cheapest"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; what is not known is absent, what was not found is null."""
        before, after = self.move.context
        asked = {"request_rate": self.demand.requests, "output_throughput": self.demand.run}
        every: dict[str, Deployed | None] = {name: getattr(self, name) for name in ("as_is", *ANSWERS)}
        return {
            "demand": asked | {"rate": self.move.rate, "context_before": before, "context": after},
            "now": {"gpus": dict(self.now.gpus), **({} if self.now.usd is None else {"usd_per_hour": self.now.usd})},
            **{name: None if each is None else each.to_dict() | self._more(each) for name, each in every.items()},
            **({"why": self.why} if self.why else {}),
            **({"reason": self.reason} if self.reason else {}),
            "tried": dict(self.tried),
        }

    def _more(self, found: Deployed) -> dict[str, Any]:
        """GPUs, and USD per hour, beyond those that there are."""
        more: dict[str, Any] = {"gpus_more": found.offer.total - self.now.total}
        if found.offer.usd is not None and self.now.usd is not None:
            more["usd_per_hour_more"] = found.offer.usd - self.now.usd
        return more

    def options(self, found: Deployed) -> tuple[str, ...]:
        """What the scenario of an answer has otherwise than the one that was given, as ``path=value``."""
        return tuple(_differences(self.move.source.resolved(), found.scenario.resolved(), ""))

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``resize.json`` and the scenario of every answer; return the files of the scenarios."""
        from afdsim.results.result import to_json
        from afdsim.results.whole import write_text

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "resize.json", to_json(self.to_dict()))
        for name in ANSWERS:
            (folder / f"{name}.yaml").unlink(missing_ok=True)  # that of an earlier question
        files = []
        for name, found in self.answers.items():
            files.append(folder / f"{name}.yaml")
            write_text(files[-1], yamlfile.dump(found.scenario.given()))
        return files


def _differences(given: Any, other: Any, path: str) -> Iterator[str]:
    """Yield what is another value, new or gone in plain data."""
    if isinstance(given, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys((*given, *other)):
            yield from _differences(given.get(key), other.get(key), f"{path}.{key}".removeprefix("."))
    elif given != other:
        yield f"{path}={json.dumps(other)}"


# the search ----------------------------------------------------------------------------------------------------------


class _Asked(Question):
    """A question whose layouts say all of their deployment."""

    def scenario(self, layout: Layout, batch: int, **changes: object) -> Scenario:
        """The scenario of a layout with so many sequences for a rank."""
        return self.base.varied({"deployment": layout.sized(batch), **changes})


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A size, and a cell that it may consist of."""

    size: Size
    trial: Trial
    rank: int
    """0: the cell as it is; 1: with another batch; 2 and more: with other micro-batches too."""

    @property
    def rate(self) -> float:
        """Tokens per second, by whatever the cell stands for."""
        return 0.0 if self.trial.offer is None else self.trial.offer.rate * self.size.cells


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Sizes of a deployment, tried until some are enough."""

    source: Scenario
    question: Question
    """After the move."""
    demand: Demand
    as_is: Trial
    """The cell as it is, run or out."""
    say: Say
    known: dict[tuple[tuple[int, ...], int | None], Trial] = field(default_factory=dict)
    """Cells by instances and micro-batches."""
    priced: dict[Size, Offer] = field(default_factory=dict)
    """GPUs and prices of sizes."""

    @property
    def now(self) -> Size:
        """The size that there is."""
        return size_of(self.source)

    def near(self) -> list[Size]:
        """Sizes to try, and by that how many cells."""
        first = self.cell(self.now.counts, ways(self.source.deployment)[0])
        rates = [trial.offer.rate for trial in (self.as_is, first) if trial.offer is not None]
        need = max((self.demand.measured / rate for rate in rates if rate), default=1.0)
        return list(sizes(self.now, math.ceil(AMPLE * max(need, self.now.cells))))

    def first(self, groups: Iterable[Iterable[Size]]) -> _Candidate | None:
        """Return the best size that is enough in the first group that has one; it was run."""
        return next((found for group in groups if (found := self._settled(group, self._key, self.enough))), None)

    def most(self, every: Iterable[Size]) -> _Candidate | None:
        """Return the size that gives most within the SLA; it was run."""
        return self._settled(every, lambda each: (-each.rate, *self._key(each)), lambda each: each.rate > 0)

    def enough(self, each: _Candidate) -> bool:
        """Whether a size gives what is asked for, by whatever it stands for."""
        asked = self.demand.run if each.trial.standing == RUN else self.demand.measured
        return each.rate >= asked * (1.0 - ROUNDING)

    def cost(self, size: Size) -> float:
        """USD per hour, or GPUs where a price is not known."""
        found = self.offer(size)
        return float(found.total) if found.usd is None else found.usd

    def offer(self, size: Size) -> Offer:
        """GPUs and price of a size."""
        if size not in self.priced:
            cell = layout(self.source, size.counts, ways(self.source.deployment)[0])
            self.priced[size] = _together(offered(cell, 0.0, 1.0, self.question.base.cost), size.cells)
        return self.priced[size]

    def cell(self, counts: tuple[int, ...], micro_batches: int | None) -> Trial:
        """A cell, bounded once."""
        key = counts, micro_batches
        if key not in self.known:
            made = layout(self.source, counts, micro_batches)
            trial = self.known[key] = Trial(layout=made, questions=(self.question,), weighing=ALONE)
            trial.bounded()
        return self.known[key]

    def _settled(
        self, group: Iterable[Size], key: Callable[[_Candidate], Key], able: Callable[[_Candidate], bool]
    ) -> _Candidate | None:
        candidates = [each for size in group for each in self._candidates(size)]
        while left := [each for each in candidates if able(each)]:
            best = min(left, key=key)
            if best.trial.standing == RUN:
                return best
            self.say(best.trial.layout.label)
            self._advance(best)
        return None

    def _candidates(self, size: Size) -> Iterator[_Candidate]:
        if size.counts == self.now.counts:
            yield _Candidate(size=size, trial=self.as_is, rank=0)
        for rank, micro_batches in enumerate(ways(self.source.deployment), start=1):
            yield _Candidate(size=size, trial=self.cell(size.counts, micro_batches), rank=rank)

    def _key(self, each: _Candidate) -> Key:
        """What comes first: the cheaper, what changes less, then the better TPOT, which a bound does not know yet."""
        offer, bare = each.trial.offer, each.trial.standing == BOUND
        return self.cost(each.size), each.rank, not bare, 0.0 if offer is None or bare else -offer.speed

    def _advance(self, each: _Candidate) -> None:
        """Measure a cell that stands for its bound, run one that was measured."""
        trial = each.trial
        if trial.standing == BOUND:
            trial.measured(points(trial.questions, trial.layout))
            if trial.standing == MEASURED and ALMOST * self.demand.measured <= each.rate < self.demand.measured:
                self._finer(trial)
        elif trial.standing == MEASURED:
            ran = whole(trial.questions[0], trial.layout, trial.batch)
            trial.ran([ran], [outcome(ran, ran.run.seeds[0], self.question.models)])

    def _finer(self, trial: Trial) -> None:
        """Find the largest batch of a cell that is fine, of which a search is content to come near."""
        (question,), low = trial.questions, trial.batch
        high = min((point.batch for point in trial.points if point.batch > low), default=low)
        while high - low > 1:
            middle = (low + high) // 2
            found = measure(question, trial.layout, middle)
            if found is not None and fine(question, found):
                low = middle
                trial.measured([Point(middle, (found,))])
            else:
                high = middle

    @property
    def tried(self) -> dict[str, int]:
        """Cells that were bounded, and how many measures and runs there were beside that of the cell as it is."""
        every = self.known.values()
        measures = sum(len(trial.points) for trial in every)
        return {"cells": len(self.known), "measures": measures, "runs": sum(trial.runs for trial in every)}

    def reason(self) -> str:
        """Say why nothing is enough: the reason of most cells that are out."""
        reasons = Counter(trial.why for trial in self.known.values() if trial.standing == OUT)
        return reasons.most_common(1)[0][0] if reasons else ""


def resize(  # noqa: PLR0913 - the arguments are the question
    scenario: Source | Scenario,
    changes: Moves = (),
    *,
    context: int | None = None,
    rate: float = 1.0,
    cost: CostModel | None = None,
    network: Network | None = None,
    say: Say = lambda text: None,
) -> Resized:
    """Return the smallest change of a deployment that is enough when its workload moves, and the cheapest size.

    `changes` are keys of `workload` and `sla`, a map by dotted path or texts as of ``--set``; `context` scales prompts
    so that sequences hold so many tokens on average; `rate` is so many times the requests per second. A closed loop
    asks for the requests per second that it serves before the move, an open one for those that arrive. Decode alone is
    sized: prefill servers are left out. `cost` and `network` replace the models. ScenarioError where a deployment
    cannot be sized.
    """
    source, models = load(scenario), Models(cost=cost, network=network)
    models.check()
    move = moved(source, changes, context=context, rate=rate)
    question = _posed(move.after, models)
    served = None if move.arrivals is not None else _as_it_is(source, _posed(move.before, models))
    demand = _demand(move, served)
    still = move.before.key == move.after.key
    as_is = served if served is not None and still else _as_it_is(source, question)
    return _answered(_Search(source=source, question=question, demand=demand, as_is=as_is, say=say), move)


def _posed(base: Scenario, models: Models) -> Question:
    return _Asked(base=base, limit=None if base.sla is None else base.sla.limits["tpot"], models=models)


def _demand(move: Move, served: Trial | None) -> Demand:
    """What is asked for: what arrives, or what is served before the move."""
    if move.arrivals is not None:
        requests = move.rate * move.arrivals
        return Demand(measured=requests * move.answer, run=requests * move.answer, requests=requests)
    assert served is not None, "a closed loop was run"
    quick = measure(served.questions[0], served.layout, served.batch) if served.columns else None
    if quick is None:
        raise ScenarioError(f"{move.source.name}: does not run before the move: {served.why}")
    per_request = mean_answer(move.before)
    scale = move.rate * served.layout.count / per_request
    measured, run = (tgs * scale * move.answer for tgs in (quick.tgs, served.columns[0]["tgs"]))
    return Demand(measured=measured, run=run, requests=run / move.answer, late=served.standing == OUT)


def _as_it_is(source: Scenario, question: Question) -> Trial:
    """Run the cell of a scenario under a question with its own batch; it is out where that misses the SLA."""
    cell, batch = layout(source, size_of(source).counts, ways(source.deployment)[0]), source.deployment.max_num_seqs
    trial = Trial(layout=cell, questions=(question,), weighing=ALONE, batch=batch)
    try:
        ran = whole(question, cell, batch)
    except AfdsimError as error:
        trial.fail(str(error).splitlines()[0])
        return trial
    found = outcome(ran, ran.run.seeds[0], question.models)
    trial.runs += 1
    if "tgs" not in found.columns:
        trial.fail((found.error or "a run was too short").splitlines()[0])
        return trial
    trial.scenarios, trial.columns = (ran,), (found.columns,)
    if not found.columns.get("sla.met", True):
        trial.fail("it misses the SLA")
        return trial
    trial.standing, trial.offer = RUN, _offer(trial)
    return trial


def _offer(trial: Trial) -> Offer:
    """What a cell gives by its run, whether it meets the SLA or not."""
    (columns,), cell = trial.columns, trial.layout
    rate, tpot = columns["tgs"] * cell.count, columns["mean_tpot_ms"] / 1e3
    return offered(cell, rate, tpot, trial.questions[0].base.cost)


def _together(offer: Offer, cells: int) -> Offer:
    """What cells that are alike give together."""
    gpus = {kind: cells * count for kind, count in offer.gpus.items()}
    return Offer(gpus, cells * offer.rate, None if offer.usd is None else cells * offer.usd, offer.speed)


def _answered(search: _Search, move: Move) -> Resized:
    """Search for the smallest change, then for what is cheaper; else for what gives most."""
    near = search.near()
    far = {size: apart(size, search.now) for size in near}
    smallest = search.first(_groups(near, far.__getitem__))
    cheaper = [size for size in near if smallest and search.cost(size) < search.cost(smallest.size)]
    cheapest = search.first(_groups(cheaper, search.cost)) or smallest
    most = None if smallest else search.most(near)
    as_is = search.as_is

    def told(found: _Candidate | None) -> Deployed | None:
        return None if found is None else _deployed(search, found)

    return Resized(
        move=move,
        demand=search.demand,
        as_is=told(_Candidate(size=search.now, trial=as_is, rank=0) if as_is.columns else None),
        why="" if as_is.columns else as_is.why,
        smallest=told(smallest),
        cheapest=told(cheapest),
        most=told(most),
        reason="" if smallest else search.reason(),
        tried=search.tried | {"sizes": len(near)},
        now=search.offer(search.now),
    )


def _groups(sizes: Sequence[Size], by: Callable[[Size], float]) -> Iterator[list[Size]]:
    """Sizes that are equal by some figure together, the least first."""
    return (list(group) for _, group in groupby(sorted(sizes, key=by), key=by))


def _deployed(search: _Search, found: _Candidate) -> Deployed:
    trial, size, asked = found.trial, found.size, search.source.deployment
    name = label(asked, size.counts)
    return Deployed(
        size=size,
        label=f"{size.cells} x {name}" if size.cells > 1 else name,
        change=changed(asked, size, search.now),
        offer=_together(_offer(trial), size.cells),
        scenario=trial.scenarios[0],
        columns=trial.columns[0],
    )
