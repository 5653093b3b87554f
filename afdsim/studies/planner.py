"""Which deployment to buy or build: the best one for a model, a workload, an SLA and a budget of GPUs, by simulation.

Every layout (`layouts`) first stands for what it gives at most (`trials.bounded`). What would be best by that is tried
in earnest, a quick measure first, then a whole run, and stands for what it gives from then on; the search ends when
what is best has been run. Bounds are optimistic, so nothing that was left untried can be better. The same holds for
fleets, where the best choice is a set of cells (`choosing`), and for the best of every family, the runner-up and so on.
The winner is at last measured by the SimPy processes too, which must agree with the compiled engine to the bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from afdsim.catalog import entries as catalog
from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.errors import ScenarioError
from afdsim.scenario import yamlfile
from afdsim.scenario.document import Scenario
from afdsim.simulation import Engine
from afdsim.studies.asking import Ttft, Workloads, asked
from afdsim.studies.candidates import BOUND, MEASURED, OUT, RULES, RUN, Rule, Trial, Weighing, candidates
from afdsim.studies.capacity import Capacity, capacity
from afdsim.studies.choices import Choice, row, tgs
from afdsim.studies.choosing import OBJECTIVES, Objective
from afdsim.studies.layouts import FAMILIES, Layout
from afdsim.studies.pods import Upstream
from afdsim.studies.points import Cache, Models
from afdsim.studies.pool import Pool
from afdsim.studies.searching import Behind, Say, Search
from afdsim.studies.sweeps import POINTS, executor
from afdsim.studies.trials import Question, paced
from afdsim.units import show_time

MOST_GPUS, LARGEST_CELL = 2_048, 256
"""Of a kind: in all, and in one cell."""
PARTS = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Of the limit of TPOT, at which a front is found."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The best deployment that was found, and what it was held against."""

    objective: Objective
    budget: Mapping[str, int]
    questions: tuple[Scenario, ...]
    """One for every workload."""
    ttft: Ttft | None
    """What was asked of prefill."""
    best: Choice | None
    """None where nothing meets what was asked."""
    runner_up: Choice | None
    families: Mapping[str, Choice | None]
    """The best of every family."""
    trials: tuple[Trial, ...]
    front: tuple[Choice, ...]
    """Best cells at stricter limits of TPOT, the loosest first; empty where they were not asked for."""
    pod: Scenario | None
    """The winner behind prefill servers, with requests that come by chance at the rate that it is thought to carry."""
    agrees: bool | None
    """Whether the processes engine gives the winner's quick measures to the bit; None where there is no winner."""

    @cached_property
    def carried(self) -> Capacity | None:
        """What the winner behind prefill servers carries when requests come by chance; simulated when asked for."""
        if self.pod is None:
            return None
        models = self.trials[0].questions[0].models
        return capacity(self.pod, cost=models.cost, network=models.network)

    @property
    def counts(self) -> dict[str, int]:
        """How many layouts and batches there were, and how many were measured and run."""
        return {
            "layouts": len(self.trials),
            "tried": sum(bool(trial.points) for trial in self.trials),
            "measures": sum(len(point.measures) for trial in self.trials for point in trial.points),
            "runs": sum(trial.runs for trial in self.trials),
        }

    def asked(self) -> list[str]:
        """Return what was asked under every workload, a line each."""
        lines = []
        for question, weight in zip(self.questions, self.trials[0].weighing.weights, strict=True):
            sla = question.sla
            limit = "no limit" if sla is None else f"{sla.percentile} TPOT <= {show_time(sla.limits['tpot'])}"
            share = f", {weight:.0%} of the weight" if len(self.questions) > 1 else ""
            ttft = self.ttft and f", {self.ttft.percentile} TTFT <= {show_time(self.ttft.limit)}"
            lines.append(f"{question.name}: {limit}{ttft or ''}{share}")
        return lines

    def why(self) -> str:
        """Say why nothing was found: the reason of most layouts."""
        if any(trial.offer is not None for trial in self.trials):
            if self.objective == "usd" and all(trial.offer is None or trial.offer.usd is None for trial in self.trials):
                return "No price of these GPUs is known; give 'cost' in the workload."
            return "No choice of cells gives enough."
        reason, count = Counter(trial.why for trial in self.trials).most_common(1)[0]
        return f"Of {len(self.trials):,} layouts {count:,} are out for one reason: {reason}"

    def frame(self) -> Any:
        """Return a frame with a row for every layout, those that were run first, then by what they give."""
        import pandas as pd

        order = {RUN: 0, MEASURED: 1, BOUND: 2, OUT: 3}
        ranked = sorted(self.trials, key=lambda trial: (order[trial.standing], -tgs(trial)))
        return pd.DataFrame([row(trial) for trial in ranked])

    def front_frame(self) -> Any:
        """Return a frame with a row for every cell of the front."""
        import pandas as pd

        return pd.DataFrame([row(pick.trial) for choice in self.front for pick in choice.picks])

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``plan.json``, ``plan.csv`` with every layout, the winner's scenarios, those of rivals and a picture.

        Returns the files of the winner's scenarios; the best of every other family is ``best-FAMILY.yaml``.
        """
        from afdsim.results import plot_parts
        from afdsim.results.plot_plan import front
        from afdsim.results.plot_plan import plan as drawn
        from afdsim.results.result import to_json
        from afdsim.results.whole import write_text

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "plan.json").is_file():  # of an earlier plan, whose winners are others
            stale = ("plan.csv", "winner*.yaml", "best-*.yaml", "front.*")
            for each in (path for pattern in stale for path in folder.glob(pattern)):
                each.unlink()
        write_text(folder / "plan.json", to_json(self.to_dict()))
        frame = self.frame()
        write_text(folder / "plan.csv", frame.to_csv(index=False))
        if self.front:
            write_text(folder / "front.csv", self.front_frame().to_csv(index=False))
        files = [_written(folder / name, scenario) for name, scenario in self.winners()]
        for name, scenario in self.rivals():
            _written(folder / name, scenario)
        pictures = {"plan": drawn(frame), **({"front": front(self.front_frame())} if self.front else {})}
        for name, suffix in product(pictures, ("svg", "png")):
            plot_parts.save(pictures[name], folder / f"{name}.{suffix}")
        return files

    def winners(self) -> Iterator[tuple[str, Scenario]]:
        """Yield the file names and scenarios of the winner: one for every cell and workload, or that of a pod."""
        if self.carried is not None:
            found = self.carried.scenario.varied(self.carried.changes)
            yield "winner.yaml", found.vary("name", f"{found.name}, {self.best.short}" if self.best else found.name)
            return
        yield from self._cells("winner", self.best)

    def rivals(self) -> Iterator[tuple[str, Scenario]]:
        """Yield the file names and scenarios of the best of every family that did not win, without prefill servers."""
        for family, choice in self.families.items() if self.ttft is None else ():
            if choice is not None and choice != self.best:
                yield from self._cells(f"best-{family.replace(' ', '-')}", choice)

    def _cells(self, stem: str, choice: Choice | None) -> Iterator[tuple[str, Scenario]]:
        """Yield a file name and a scenario for every cell of a choice and every workload."""
        for number, pick in enumerate(choice.picks if choice else (), start=1):
            for place, scenario in enumerate(pick.trial.scenarios, start=1):
                cell = f"-{number}" if choice and len(choice.picks) > 1 else ""
                name = f"{stem}{cell}{f'-workload{place}' if len(self.questions) > 1 else ''}"
                yield f"{name}.yaml", scenario.vary("name", f"{scenario.name}, {pick.trial.layout.label}")

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        lost = {name: None if found is None else found.to_dict() for name, found in self.families.items()}
        return {
            "model": catalog.llm(self.questions[0].model).name,
            "asked": self.asked(),
            "objective": self.objective,
            "budget": dict(self.budget),
            "best": self.best and self.best.to_dict(),
            **({"short": self.best.short} if self.best else {"why": self.why()}),
            "winners": [name for name, _ in self.winners()],
            "runner_up": self.runner_up and self.runner_up.to_dict(),
            "families": lost,
            "front": [choice.to_dict() for choice in self.front],
            "carried": self.carried and self.carried.to_dict(),
            "counts": self.counts,
            "engines_agree": self.agrees,
        }


def _written(file: Path, scenario: Scenario) -> Path:
    from afdsim.results.whole import write_text

    write_text(file, yamlfile.dump(scenario.given()))
    return file


def plan(  # noqa: PLR0913 - the arguments are the question
    model: str | None = None,
    workload: Workloads | None = None,
    sla: str | Mapping[str, Any] | None = None,
    *,
    gpus: Mapping[str, int],
    context: int | Sequence[int] | None = None,
    objective: Objective = "goodput",
    demand: float = 0.0,
    floor: float | None = None,
    weights: Sequence[float] | None = None,
    rule: Rule = "mean",
    tail: float = 0.1,
    cost: CostModel | None = None,
    network: Network | None = None,
    workers: int | Executor = 1,
    cache: str | Path | None = POINTS,
    pareto: bool = False,
    say: Say = lambda text: None,
) -> Plan:
    """Return the best deployment of a model on at most so many GPUs of each kind, by simulation.

    `workload` is a scenario or several, of which all but the deployment counts; else `context` says how many tokens the
    sequences of equal requests hold on average. `sla` is a limit on the mean TPOT, such as "50ms", or a map as in a
    scenario. `demand` (output tokens per second) is for the objective "gpus", `floor` (tokens per GPU and second) for
    "speed": see `choosing.WORDS`. Several workloads have `weights` and a `rule` (`candidates.Weighing`); one in which
    the SLA is missed counts as no tokens. With `pareto` the best cells at stricter limits of TPOT are found too.
    `cost` and `network` replace the models. What was tried is kept in `cache`.
    """
    budget, models = check_budget(gpus), Models(cost=cost, network=network)
    models.check()
    bases, ttft = asked(model, workload, sla, context, tuple(gpus))
    check_objective(objective, demand, floor, len(bases))
    questions = tuple(_question(each, models, floor, objective) for each in bases)
    trials = candidates(questions, _weighing(weights, len(bases), rule, tail), budget, LARGEST_CELL)
    kept = None if cache is None or models.nameless() else Cache(Path(cache))
    with executor(workers) as pool:
        search = Search(objective, budget, demand, trials, pool, kept, say)
        return _planned(search if ttft is None else _behind(search, ttft), pareto=pareto)


def _question(base: Scenario, models: Models, floor: float | None, objective: Objective) -> Question:
    limit = None if base.sla is None else base.sla.limits["tpot"]
    found = Question(base=base, limit=limit, floor=floor if objective == "speed" else None, models=models)
    if limit is not None and found.lengths[1].max() <= 1:
        raise ScenarioError(f"{base.name}: answers of one token have no TPOT to limit; leave the limit out")
    return found


def _behind(search: Search, ttft: Ttft) -> Search:
    """The same search for cells behind prefill servers that meet a limit of TTFT."""
    if search.objective == "speed":
        raise ScenarioError("objective speed is about decode alone; leave the limit of ttft out")
    standing = [trial for trial in search.trials if trial.offer is not None]
    if not standing:
        return search
    first = max(standing, key=tgs)
    upstream = Upstream(
        question=first.questions[0],
        limit=ttft.limit,
        percentile=ttft.percentile,
        budget=search.budget,
        decode=(first.layout, first.batch),
    )
    return Behind(**vars(search), upstream=upstream, servers=tuple(upstream.ways()))


def _by_chance(search: Search, best: Choice | None) -> Scenario | None:
    """The scenario of a pod."""
    if not isinstance(search, Behind) or best is None or best.pod is None:
        return None
    trial = best.picks[0].trial
    return search.upstream.scenario(trial.layout, trial.batch, best.pod)


def _front(search: Search, asked: Sequence[Question]) -> Iterator[Choice]:
    """Yield the best cell at every part of the limits of TPOT: most tokens per GPU, or per USD where that is asked.

    `asked` is what was asked at first: a trial whose runs missed the SLA has made its own limits stricter.
    """
    for part in PARTS if any(each.limit is not None for each in asked) else PARTS[:1]:
        questions = tuple(replace(each.within(part), floor=None) for each in asked)
        trials = candidates(questions, search.trials[0].weighing, search.budget, LARGEST_CELL)
        objective: Objective = "usd" if search.objective == "usd" else "tgs"
        found = replace(search, objective=objective, trials=trials).settled(lambda layout: True)
        if found is not None:
            yield found


def _planned(search: Search, *, pareto: bool) -> Plan:
    """Search for the best choice, the best of every family, and the runner-up."""
    asked = search.trials[0].questions
    if isinstance(search.pool, Pool):
        search.models.check_travel()
    best = search.settled(lambda layout: True)
    present = {trial.layout.family for trial in search.trials}
    families = {name: search.settled(_of(name)) for name in FAMILIES if name in present}
    rival = None if best is None else search.settled(_unlike(best))
    search.say("the winner by the processes engine")
    return Plan(
        objective=search.objective,
        budget=search.budget,
        questions=tuple(each.base for each in asked),
        ttft=Ttft(search.upstream.limit, search.upstream.percentile) if isinstance(search, Behind) else None,
        best=best,
        runner_up=rival,
        families=families,
        trials=search.trials,
        front=tuple(_front(search, asked)) if pareto else (),
        pod=_by_chance(search, best),
        agrees=None if best is None else all(_agrees(pick.trial) for pick in best.picks),
    )


def _weighing(weights: Sequence[float] | None, count: int, rule: Rule, tail: float) -> Weighing:
    """Weights that add up to 1, with the rule by which they count."""
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise ScenarioError(f"weights: {len(given)} for {count} workloads; give one for each")
    if min(given) < 0 or not 0 < math.fsum(given) < math.inf:
        raise ScenarioError(f"weights: must be >= 0 and not all 0 (got {', '.join(map(str, given))})")
    if rule not in RULES:
        raise ScenarioError(f"rule: must be one of {', '.join(RULES)} (got {rule!r})")
    if rule != "mean" and count == 1:
        raise ScenarioError(f"rule {rule} weighs several workloads; give them, or leave it out")
    if not 0 < tail <= 1:
        raise ScenarioError(f"tail: must be > 0 and <= 1, a share of the weight (got {tail})")
    return Weighing(weights=tuple(each / math.fsum(given) for each in given), rule=rule, tail=tail)


def check_budget(gpus: Mapping[str, int]) -> dict[str, int]:
    """Return the GPUs by the names of the catalog; refuse a question without any."""
    if not gpus:
        raise ScenarioError('gpus: needs a kind of GPU, for example {"H800": 64}')
    for name, count in gpus.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_GPUS:
            raise ScenarioError(f"gpus: {name} must be 1 to {MOST_GPUS:,} GPUs (got {count})")
    found = {catalog.gpu(name).name: count for name, count in gpus.items()}
    if len(found) < len(gpus):
        raise ScenarioError(f"gpus: {', '.join(gpus)} name a kind twice")
    return found


def check_objective(objective: Objective, demand: float, floor: float | None, workloads: int) -> None:
    """Refuse an objective without the figure that it needs."""
    if objective not in OBJECTIVES:
        raise ScenarioError(f"objective: must be one of {', '.join(OBJECTIVES)} (got {objective!r})")
    if objective == "gpus" and not 0 < demand < math.inf:
        raise ScenarioError(f"objective gpus needs a demand, output tokens per second > 0 (got {demand})")
    if objective == "speed" and (floor is None or not 0 < floor < math.inf):
        raise ScenarioError(f"objective speed needs a floor, tokens per GPU and second > 0 (got {floor})")
    if demand and objective != "gpus":
        raise ScenarioError(f"demand is for objective gpus, not {objective}; leave it out")
    if floor is not None and objective != "speed":
        raise ScenarioError(f"floor is for objective speed, not {objective}; leave it out")
    if objective == "speed" and workloads > 1:
        raise ScenarioError("objective speed is about one workload; give one")


def _of(family: str) -> Callable[[Layout], bool]:
    return lambda layout: layout.family == family


def _unlike(best: Choice) -> Callable[[Layout], bool]:
    """Whether a layout is another than the largest cell of a choice, whatever its overlap and micro-batches."""
    largest = max(best.picks, key=lambda pick: pick.trial.layout.count * pick.replicas).trial.layout
    return lambda layout: (layout.family, layout.gpus) != (largest.family, largest.gpus)


def _agrees(trial: Trial) -> bool:
    """Whether both engines measure a layout alike, to the bit."""
    engines: tuple[Engine, Engine] = ("kernel", "processes")
    found = [paced(trial.questions[0], trial.layout, trial.batch, engine) for engine in engines]
    return found[0] == found[1]
