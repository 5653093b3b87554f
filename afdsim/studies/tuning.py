"""The best way to run one deployment of a closed loop on the GPUs that it has, by a quick search.

Searched is what a server is told at its start: how computing and communication overlap (colocated EP: not, within a
batch, or across two; AFD: one to four micro-batches) and, where the SLA limits TPOT, how many sequences a rank takes.
Instances, GPUs and the ratio of the pools stay as they are.

A candidate is measured over a few steps of a cluster that starts as a settled one is: full, ages evenly spread, long
answers in flight as often as they are long. Its tokens are those of whole steps, its TPOT is the sequences that run
over the tokens per second (Little's law). What the SLA limits (a percentile, or a mean over short answers and drafts)
is taken to be as far from that as in the scenario's own run. The best candidate is then run as the scenario was; where
it misses the SLA after all, the search goes on below it. Nothing crashes meanwhile: failures of the scenario are left
out, because the best way to run a deployment is that of its normal days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from afdsim.cluster.memory import KvCache
from afdsim.cluster.network import Network
from afdsim.cost.checked import checked_cost, checked_network
from afdsim.cost.roofline import CostModel
from afdsim.engine.cell import Array, Cell, lonely_step
from afdsim.engine.desk import Demand
from afdsim.engine.drafts import Drafts
from afdsim.engine.lowering import lower
from afdsim.engine.record import Record
from afdsim.errors import CapacityError, ScenarioError
from afdsim.results import metrics
from afdsim.results.result import Result
from afdsim.scenario import tree
from afdsim.scenario.asked import ClosedLoop
from afdsim.scenario.document import Scenario, Source, load
from afdsim.simulation import Engine, demanded, execute, placed, simulate
from afdsim.workload.laws import Ints, RequestSource

Changes = dict[str, bool | int]
"""Values by dotted path, as for ``--set``."""

SKIPPED, STEPS = 4, 28
"""Steps in which the pipeline fills, and the last step of a quick measure."""
SPARE = 1.1
"""Times as long as these steps are thought to last."""
SURE = 0.995
"""Share of the limit within which a candidate is searched: a quick measure is good to about half a percent."""
TRIES, LESS = 5, 0.995
"""Runs to find a batch that meets the SLA, and what each leaves of the limit at least."""
FINE = 200
"""The largest batch is found up to this part of it."""
LARGEST = 4096
"""Sequences of a rank up to which is searched, far beyond what servers are run with."""
MICRO_BATCHES = 4
"""Of AFD, up to which are tried."""
SAMPLE = 4096
"""Requests over whose lengths the memory of a sequence is averaged."""
ENDLESS = 1 << 40
"""Requests to count: more than a quick measure sees, so that none ends it."""
BATCH = "deployment.max_num_seqs"


class Pace(NamedTuple):
    """What a quick measure says."""

    step: float
    """Seconds."""
    tgs: float
    """Output tokens per GPU and second."""
    tpot: float
    """Mean, seconds."""


class Figures(NamedTuple):
    """What a run says."""

    tgs: float
    """Output tokens per GPU and second."""
    tpot_ms: float | None
    """Mean; None where no answer has two tokens."""
    sla_tpot_ms: float | None
    """In the statistic that the SLA limits; None where it limits none."""
    verdict: str | None
    """Of the SLA, if there is one."""

    def to_dict(self) -> dict[str, object]:
        """The same as plain data; what is not known is absent."""
        return {key: value for key, value in self._asdict().items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best way to run a deployment that a quick search found, and what runs say of it."""

    scenario: Scenario
    """The one that was asked about, with the changes."""
    changes: Changes
    """In what it differs; empty where nothing better was found, or nothing meets the SLA."""
    best: Figures
    as_is: Figures
    """Without the changes."""

    @property
    def gain(self) -> float:
        """What the changes add to the tokens, relative: negative where only fewer tokens meet the SLA."""
        return self.best.tgs / self.as_is.tgs - 1

    @property
    def options(self) -> tuple[str, ...]:
        """The changes as ``path=value``."""
        return tuple(f"{path}={str(value).lower()}" for path, value in self.changes.items())

    def to_dict(self) -> dict[str, object]:
        """The same as plain data."""
        return {"changes": self.changes, **self.best.to_dict(), "gain": self.gain, "as_is": self.as_is.to_dict()}


def tune(
    scenario: Source | Scenario,
    *,
    cost: CostModel | None = None,
    network: Network | None = None,
    run: Result | None = None,
) -> Tuned | None:
    """Return the best way to run a closed loop on the GPUs that it has; None for an open loop: its load fixes tokens.

    None for sessions too, whose pauses fix them. The same scenario and seed give the same answer. `cost` and `network`
    replace the models, as in `simulate`. `run` is a result of the scenario under them, which is simulated if there is
    none.
    """
    asked = load(scenario)
    scenario = asked.vary("failures", None)
    if not isinstance(scenario.workload.arrival, ClosedLoop) or scenario.workload.sessions is not None:
        return None
    once = partial(simulate, cost=cost, network=network, watch=False)
    as_is = run if run is not None and asked.failures is None else once(scenario)
    if "tgs" not in as_is.summary["afdsim"]:
        return None  # it was stopped before there was anything to measure
    search = _Search(scenario=scenario, cost=checked_cost(cost), network=checked_network(network))
    try:
        changes, found = _confirmed(search, as_is, once)
    except CapacityError as error:
        raise placed(error, scenario) from None
    best, given = _figures(found or as_is), _figures(as_is)
    if best.tgs <= given.tgs and given.verdict != "FAIL":  # what a quick measure took for a little more
        changes, best = {}, given
    return Tuned(scenario=asked.varied(changes), changes=changes, best=best, as_is=given)


def _confirmed(search: _Search, as_is: Result, once: Callable[[Scenario], Result]) -> tuple[Changes, Result | None]:
    """Return the best changes and their run, which is within the limit if the batch was searched; else no changes."""
    limit = _limit(search.scenario, as_is, search.as_is)
    for _ in range(TRIES):
        changes, pace = replace(search, limit=limit).best()
        if not changes:
            break
        found = once(search.scenario.varied(dict(changes)))
        own = _limit(search.scenario, found, pace) or 0.0
        if limit is None or own >= pace.tpot:
            return changes, found
        limit = min(LESS * limit, own)
    return {}, None


def _limit(scenario: Scenario, run: Result, pace: Pace) -> float | None:
    """Mean TPOT in seconds by a quick measure that just meets the SLA, by a run and its pace.

    None where the batch is not searched: where the requests in flight are given, where other latencies are limited,
    which depend on queueing, and where no answer has a TPOT.
    """
    sla, arrival = scenario.sla, scenario.workload.arrival
    if sla is None or sla.limits.keys() != {"tpot"} or getattr(arrival, "concurrency", None) is not None:
        return None
    found = _limited(run)
    return None if found is None else sla.limits["tpot"] * pace.tpot / found


def _limited(run: Result) -> float | None:
    """Return TPOT in seconds in the statistic that the SLA limits; None where it limits none, or no answer has one."""
    sla, samples = run.run.sla, metrics.latencies(run.run)["tpot"]
    if sla is None or "tpot" not in sla.limits or not samples.count:
        return None
    return metrics.statistic_of(samples.values, sla.percentile)


def _figures(run: Result) -> Figures:
    own, limited = run.summary["afdsim"], _limited(run)
    verdict = own.get("sla", {}).get("verdict")
    return Figures(own["tgs"], run.summary.get("mean_tpot_ms"), None if limited is None else 1e3 * limited, verdict)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """A scenario, what it is held against, and the candidates that have been measured."""

    scenario: Scenario
    cost: CostModel | None
    network: Network | None
    limit: float | None = None
    """Mean TPOT in seconds by a quick measure; None where the batch stays as it is."""
    known: dict[tuple[tuple[str, bool | int], ...], Pace | None] = field(default_factory=dict)
    drawn: dict[int, Array] = field(default_factory=dict)
    """See `_Kept`."""

    def best(self) -> tuple[Changes, Pace]:
        """Return the changes that give most tokens within the limit, and their pace; none where nothing meets it."""
        batch = self.batch if self.limit is None else min(self.batch, self.most)
        ways = sorted(self.ways(), key=lambda way: -self.tgs(way, batch))
        if self.limit is None:
            return self.chosen(ways[0], batch)
        found: tuple[Changes, Pace] = {}, self.as_is
        reached = 0
        for way in ways:
            largest = self.largest(way, reached, batch)
            if largest and (not reached or self.tgs(way, largest) > found[1].tgs):
                found, reached = self.chosen(way, largest), largest
        fine = self.as_is.tpot <= self.limit and self.as_is.tgs >= found[1].tgs
        return ({}, self.as_is) if fine else found

    def largest(self, way: Changes, reached: int, near: int) -> int:
        """Return the largest batch at which a way meets the limit, 0 if that is below `reached`.

        TPOT does not fall with the batch, and at one TPOT tokens rise with it: a way that misses the limit at a batch
        at which another meets it gives fewer tokens.
        """
        if reached and not self.meets(way, reached):
            return 0
        low, high = reached, max(reached, near)
        while self.meets(way, high):
            if high == self.most:
                return high
            low, high = high, min(2 * high, self.most)
        while high - low > max(1, low // FINE):
            middle = (low + high) // 2
            low, high = (middle, high) if self.meets(way, middle) else (low, middle)
        return low

    def meets(self, way: Changes, batch: int) -> bool:
        """Whether a way is allowed and within the limit for sure."""
        found = self.pace(way, batch)
        return found is not None and self.limit is not None and found.tpot <= SURE * self.limit

    def tgs(self, way: Changes, batch: int) -> float:
        """Tokens of a way, 0 where the scenario refuses it."""
        found = self.pace(way, batch)
        return 0.0 if found is None else found.tgs

    def chosen(self, way: Changes, batch: int) -> tuple[Changes, Pace]:
        """A way and a batch as changes, with their pace."""
        found = self.pace(way, batch)
        assert found is not None, "only what is allowed is chosen"
        return way | ({} if batch == self.batch else {BATCH: batch}), found

    # candidates ------------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """Sequences of a rank as it is."""
        return self.scenario.deployment.max_num_seqs

    @cached_property
    def as_is(self) -> Pace:
        """The scenario without changes."""
        found = self.pace({}, self.batch)
        assert found is not None, "it is a scenario already"
        return found

    def ways(self) -> Iterator[Changes]:
        """Ways to overlap, as what they change; first the one that is."""
        yield {}
        asked = self.scenario.deployment
        for way in _every_way(asked):
            changes = {f"deployment.{key}": value for key, value in way.items() if getattr(asked, key) != value}
            if changes:
                yield changes

    @cached_property
    def most(self) -> int:
        """Sequences that the KV cache of a rank holds, of lengths as they are in flight; no more than `LARGEST`."""
        cell, demand = self.lowered(self.scenario)
        return max(fitting(cell.deployment.kv_cache, demand.source), 1)

    def pace(self, way: Changes, batch: int) -> Pace | None:
        """Measure a candidate; None where the scenario refuses it."""
        key = (*way.items(), (BATCH, batch))
        if key not in self.known:
            try:
                cell, demand = self.lowered(self.scenario.varied(dict(key)))
            except ScenarioError:
                self.known[key] = None
            else:
                self.known[key] = measured(cell, demand, max(filter(None, self.known.values()), default=None))
        return self.known[key]

    def lowered(self, scenario: Scenario) -> tuple[Cell, Demand]:
        """A candidate as its cell and what is asked of it: more requests than a quick measure sees."""
        seed = scenario.run.seeds[0]
        cell = lower(scenario, seed=seed, cost=self.cost, network=self.network)
        if cell.drafts is not None:
            cell = replace(cell, drafts=_Kept(**vars(cell.drafts), known=self.drawn))
        return cell, replace(demanded(scenario, cell, seed), num_requests=ENDLESS, warmup=0.0)


def held(cache: KvCache, contexts: Array) -> float:
    """Bytes of a sequence on one GPU of a rank, on average over sequences of so many tokens."""
    tokens, counts = np.unique(contexts, return_counts=True)
    return float(np.average([cache.reserved(int(each)) for each in tokens], weights=counts))


def fitting(cache: KvCache, source: RequestSource) -> int:
    """Sequences that the KV cache of a rank holds, of lengths as they are in flight; no more than `LARGEST`."""
    input_len, output_len = InFlight(source, SAMPLE).columns(SAMPLE)
    return min(int(cache.budget // held(cache, input_len + output_len)), LARGEST)


class InFlight(RequestSource):
    """Requests of a law, of which the first `count` are those that a settled closed loop has in flight.

    Answers one after the other are a line of tokens; at equal distances on it, a request is met as often as it is long.
    """

    def __init__(self, source: RequestSource, count: int) -> None:
        self.size, self.notes, self._source, self._count = source.size, source.notes, source, count
        self._mean = float(source.columns(SAMPLE)[1].mean())

    def columns(self, n: int) -> tuple[Ints, Ints]:
        """(input_len, output_len) of the first `n` requests."""
        met, drawn = (np.arange(min(n, self._count)) + 0.5) * self._mean, n
        ends = np.cumsum(self._source.columns(drawn)[1])
        while len(met) and ends[-1] <= met[-1]:
            drawn *= 2
            ends = np.cumsum(self._source.columns(drawn)[1])
        order = np.arange(n)
        order[: len(met)] = np.searchsorted(ends, met, side="right")
        input_len, output_len = self._source.columns(drawn)
        return input_len[order], output_len[order]


def _every_way(asked: tree.Deployment) -> Sequence[Mapping[str, bool | int]]:
    """Ways of a kind of deployment to overlap computing and communication."""
    match asked:
        case tree.Colocated():
            overlaps = ("single_batch_overlap", "two_batch_overlap")
            return [{each: each == chosen for each in overlaps} for chosen in (None, *overlaps)]
        case tree.Afd():
            return [{"num_microbatches": count} for count in range(1, MICRO_BATCHES + 1)]
    return ()


@dataclass(frozen=True, kw_only=True)
class _Kept(Drafts):
    """Drafts drawn once for all candidates: to draw them takes longer than all else."""

    known: dict[int, Array]
    """Tokens that a request has after each step."""

    def steps(self, request: int, tokens: int) -> int:
        """Decode steps that `request` needs for `tokens` more tokens."""
        if tokens <= 1 or self.acceptance == 0:
            return tokens
        reached = self.known.get(request)
        if reached is None or reached[-1] < tokens:
            reached = self.known[request] = self._reached(request, tokens)
        return int(reached.searchsorted(tokens)) + 1

    def _reached(self, request: int, tokens: int) -> Array:
        """Draw as many steps as give so many tokens; of one stream, so that more begin with the same."""
        reached, count = np.zeros(1), int(1.2 * tokens / self.mean) + 8
        while reached[-1] < tokens:
            reached, count = np.cumsum(self._yields(self.stream("acceptance", request), count)), 2 * count
        return reached


def measured(cell: Cell, demand: Demand, like: Pace | None, engine: Engine | None = None) -> Pace:
    """Run a cell for a few steps; `like` is a pace that is known, from which to guess how long they last."""
    demand = replace(demand, source=InFlight(demand.source, demand.concurrency))
    engine = engine or ("kernel" if cell.refuses is None else "processes")
    step, steps = lonely_step(cell) if like is None else like.step, 0
    while steps <= STEPS:  # the boundaries that end a step belong to the next one
        record = execute(cell, replace(demand, horizon=SPARE * (STEPS + 1) * step), engine)
        steps = record.steps
        step = record.ended / max(steps, 1)
    return _pace(record, cell)


def _pace(record: Record, cell: Cell) -> Pace:
    """What happened from the last boundary of the first steps to that of the last."""
    rows, requests = record.boundaries, record.requests
    begin, end = (float(rows.time[rows.step == step].max()) for step in (SKIPPED, STEPS))
    rate = float(rows.batch[(rows.step > SKIPPED) & (rows.step <= STEPS)].sum()) / (end - begin)
    present = np.fmin(requests.finish, end) - np.maximum(requests.admitted, begin)  # NaN: still there; not yet there
    running = float(present[present > 0].sum()) / (end - begin)
    return Pace((end - begin) / (STEPS - SKIPPED), rate / cell.deployment.gpus, running / rate)
