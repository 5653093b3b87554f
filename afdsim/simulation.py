"""The whole line: scenario -> cell -> engine -> record -> result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.cluster.network import Network
from afdsim.cost.checked import checked_cost, checked_network
from afdsim.cost.identity import label
from afdsim.cost.roofline import CostModel
from afdsim.engine.advice import advised
from afdsim.engine.blocks import Blocks
from afdsim.engine.capacity import fits, places
from afdsim.engine.cell import Cell, lonely_step
from afdsim.engine.crashes import failing
from afdsim.engine.desk import Demand, Observer
from afdsim.engine.fleet import LeastKv, LeastRequests, Member, PowerOfTwo, PrefixAffinity, RoundRobin, Router, route
from afdsim.engine.handover import divided, handed, joined, served
from afdsim.engine.lowering import lower
from afdsim.engine.prefill import Pool, Served
from afdsim.engine.record import Record
from afdsim.engine.seats import FOREVER
from afdsim.engine.servers import lower_prefill
from afdsim.engine.users import behind
from afdsim.errors import CapacityError, ScenarioError, SimulationError
from afdsim.results import (
    blame,
    bottleneck,
    caching,
    conversed,
    critical,
    excerpt,
    metrics,
    mixed,
    outages,
    outcome,
    pooling,
    prefilled,
    watched,
)
from afdsim.results import cells as joining
from afdsim.results.remarks import beyond, remarks, unmeasured
from afdsim.results.result import Result, manifest
from afdsim.results.steady import Load
from afdsim.scenario.asked import (
    Sla,
)
from afdsim.scenario.document import Scenario, Source, load
from afdsim.scenario.requests import counted, given, requested, thought
from afdsim.scenario.routing import Policy
from afdsim.scenario.streams import Streams, stream
from afdsim.scenario.tree import Afd
from afdsim.workload import laws as workload
from afdsim.workload import rates
from afdsim.workload.prefixes import Prefixes, Samples
from afdsim.workload.sessions import Sessions

Progress = Callable[[float, str], None]

Engine = Literal["processes", "kernel"]

LOADING, COMPILING = 1.0, 60.0
"""Seconds to start numba where its machine code is kept from an earlier run, and to compile it."""
TURN = 3e-5
"""Seconds of a turn of one unit, or of a copy, by processes: 3e-5 in the main scenario, up to 7e-5 in small ones."""


def simulate(  # noqa: PLR0913 - the whole line has three seams
    scenario: Source | Scenario,
    *,
    seed: int | None = None,
    cost: CostModel | None = None,
    network: Network | None = None,
    progress: Progress | None = None,
    observer: Observer = None,
    router: Router | None = None,
    watch: bool = True,
) -> Result:
    """Run a scenario once. `seed` defaults to the first of the scenario's; `cost` and `network` replace the models.

    `observer` is called with every completed step and the start and finish of its operations (see `timeline`).
    `router` takes the place of the policy of `router` in the scenario. `watch` fills `Result.utilization` and
    `.pipeline`: it changes nothing else, and costs some milliseconds.
    """
    scenario = scenario if isinstance(scenario, Scenario) else load(scenario)
    _fitting(scenario, observer, router)
    seed = scenario.run.seeds[0] if seed is None else seed
    kinds = _kinds(scenario, seed, checked_cost(cost), checked_network(network))
    cell = kinds[0].cell
    try:
        demand = replace(demanded(scenario, cell, seed), watched=watch)
        pool = lower_prefill(kinds[0].scenario, cell, cost=checked_cost(cost))
        done = None if pool is None or demand.closed else served(pool, demand)
        decode = demand if done is None else handed(demand, done)
        engine, reason = chosen_engine(scenario, _refusing(kinds), decode)
        report = None if progress is None else lambda fraction: progress(fraction, scenario.name)
        if scenario.router is None:
            start = partial(member, cell, engine=engine, progress=report, observer=observer)
            made = _single(scenario, cell, demand, _through(start, (demand, decode), pool, done), engine)
        else:
            chosen = routing(scenario.router.policy, seed) if router is None else router
            made = _fleet(kinds, (demand, decode), done, Sent(seed, engine, chosen, _threads(engine, cost), report))
    except CapacityError as error:
        raise placed(error, scenario) from None
    signed = manifest(scenario, seed=seed, engine=engine, engine_reason=reason)
    found = Result(scenario=scenario, run=made.run, manifest=signed, notes=made.notes)
    return _signed(found, cost, network, [*_routed_by(router), *(_unmeasured(kinds, pool) if cost is None else ())])


def _routed_by(router: Router | None) -> list[str]:
    return [] if router is None else [f"requests were routed by {label(router)}, not by the scenario's policy"]


def _refusing(kinds: Sequence[Kind]) -> Cell:
    """The first cell that the kernel does not run; the first of all where it runs each."""
    return next((kind.cell for kind in kinds if kind.cell.refuses is not None), kinds[0].cell)


def _unmeasured(kinds: Iterable[Kind], pool: Pool | None) -> Iterable[str]:
    """What of the kernels of every kind of cell is not measured, each once."""
    return dict.fromkeys(note for kind in kinds for note in unmeasured(kind.cell, pool))


def _fitting(scenario: Scenario, observer: Observer, router: Router | None) -> None:
    """Refuse an observer of several cells, and a router of one."""
    if observer is not None and scenario.router is not None:
        raise SimulationError("a trace shows one cell: leave 'router' out of the scenario (--set router=null)")
    if router is not None and scenario.router is None:
        raise SimulationError("router= needs cells: add 'router: {replicas: n}' to the scenario")


def _through(
    start: Callable[[Demand], Member], asked: tuple[Demand, Demand], pool: Pool | None, done: Served | None
) -> Record:
    """The record of one cell, of which all is asked, and this of decode.

    Prompts of an open loop have been through the pool before, those of a closed one go.
    """
    demand, decode = asked
    if pool is not None and done is None:
        return behind(pool, start(each := replace(demand, routed=True)), each)
    record = start(decode).execute()
    return record if done is None else joined(record, demand, done)


def execute(
    cell: Cell,
    demand: Demand,
    engine: Engine,
    *,
    progress: Callable[[float], None] | None = None,
    observer: Observer = None,
) -> Record:
    """Run a cell by one of the engines."""
    return member(cell, demand, engine, progress=progress, observer=observer).execute()


def demanded(scenario: Scenario, cell: Cell, seed: int) -> Demand:
    """What the workload of a scenario asks of a deployment."""
    source = requested(scenario, seed)
    law = source.law
    closed, warmup = isinstance(law, workload.ClosedLoop), scenario.run.warmup
    demand = Demand(
        source=source,
        closed=closed,
        num_requests=counted(scenario, source),
        concurrency=(law.concurrency or cell.deployment.slots) if isinstance(law, workload.ClosedLoop) else 0,
        warmup=(warmup or None) if closed else warmup,
        horizon=scenario.run.stop.max_sim_time or FOREVER,
        failing=failing(scenario, cell, seed),
        prefixes=_prefixes(scenario, seed),
    )
    if scenario.workload.sessions is not None:
        demand = _conversing(demand, scenario, cell, seed)
    if demand.stop is None:
        return demand
    given, changing = _judged_as(demand)
    return replace(demand, overloaded=partial(outcome.overloaded, cell=cell, given=given, changing=changing))


def _judged_as(demand: Demand) -> tuple[bool, bool]:
    """How the load of an open loop is to be judged: whether its warm-up is given, whether its rate is to change."""
    return demand.given is not None, isinstance(demand.source.law, rates.RateCurve)


def _prefixes(scenario: Scenario, seed: int) -> Prefixes | Samples | None:
    asked = scenario.workload.prefix
    if scenario.workload.samples is not None:
        return Samples(answers=scenario.workload.samples)
    if asked is None:
        return None
    streams = partial(stream, seed)
    return Prefixes(groups=asked.groups, tokens=asked.tokens, zipf=asked.zipf, stream=streams)


def _conversing(demand: Demand, scenario: Scenario, cell: Cell, seed: int) -> Demand:
    """The demand of sessions whose first turns are its requests."""
    asked, source, spoken = scenario.workload, demand.source, scenario.workload.sessions
    assert spoken is not None
    turns, user_len, output_len = (given(law) for law in (spoken.turns, spoken.user_len, asked.output_len))
    longest, offered = catalog.llm(scenario.model).positions or math.inf, places(cell)
    sessions = Sessions(
        source=source,
        turns=turns,
        user_len=user_len,
        output_len=output_len,
        think=thought(spoken.think_time),
        fits=lambda context: (context <= longest) & fits(offered, context),
        stream=partial(stream, seed),
    )
    if demand.closed:
        return replace(demand, sessions=sessions)
    if asked.duration is not None:
        plan = sessions.plan(demand.num_requests)
    else:
        plan = sessions.first_requests(demand.num_requests)
    last = float(source.times(len(plan.cut))[-1])
    return replace(demand, sessions=sessions, num_requests=len(plan), last=last)


def refuse_beyond(scenario: Scenario, seeds: Iterable[int] | None = None) -> None:
    """Raise `ScenarioError` where a request of a seed (of any of its own) is longer than the model was made for."""
    for seed in scenario.run.seeds if seeds is None else seeds:
        source = requested(scenario, seed)
        for text in beyond(scenario, source, counted(scenario, source)):
            at = scenario.where("workload")
            raise ScenarioError(f"{at}: workload: {text}; --strict refuses that".removeprefix(": "))


def chosen_engine(scenario: Scenario, cell: Cell, demand: Demand) -> tuple[Engine, str]:
    """Which engine runs, and why, where the scenario leaves it open: the kernel, unless it refuses or hardly starts."""
    asked, refusal = scenario.run.engine, cell.refuses
    if asked == "processes":
        return "processes", ""
    if refusal is not None:
        if asked == "kernel":
            raise SimulationError(
                f"run.engine: the kernel does not run this scenario: {refusal}; use processes or auto"
            )
        return "processes", f"the kernel does not run this scenario: {refusal}"
    return ("kernel" if asked == "kernel" or _kernel_pays(cell, demand) else "processes"), ""


def _kernel_pays(cell: Cell, demand: Demand) -> bool:
    """Whether the processes would take longer than to have the machine code."""
    seconds = TURN * turns_expected(cell, demand)
    if seconds < LOADING:
        return False
    from afdsim.engine.native import kept

    return kept() or seconds > COMPILING


def turns_expected(cell: Cell, demand: Demand) -> float:
    """Turns of units, and copies, of a run, roughly."""
    copies = len(cell.wiring.lane) / len(cell.wiring.routes) * len(cell.schedule.exchanges)
    return (cell.schedule.at[-1] + copies) * steps_expected(cell, demand)


def steps_expected(cell: Cell, demand: Demand) -> float:
    """Decode steps of a run, roughly: it only decides which engine runs.

    A closed loop refills its slots until all requests are done. An open one steps while anything is in flight, at the
    pace of a nearly empty cell.
    """
    _, output_len = demand.source.columns(demand.num_requests if not demand.closed else min(demand.num_requests, 1000))
    step = max(lonely_step(cell), 1e-9)
    if demand.closed:
        rounds = 1.0 + demand.num_requests / max(min(demand.concurrency, cell.deployment.slots), 1)
        return min(float(output_len.mean()) * rounds, demand.horizon / step)
    if demand.sessions is not None:
        return _steps_of_sessions(demand, demand.sessions, step)
    arrival = demand.source.times(demand.num_requests)
    ends = np.maximum.accumulate(arrival + output_len * step)
    idle = np.maximum(arrival[1:] - ends[:-1], 0.0).sum()
    return float(min(ends[-1] - arrival[0] - idle, demand.horizon) / step)


def _steps_of_sessions(demand: Demand, sessions: Sessions, step: float) -> float:
    """Decode steps of an open loop of sessions, roughly: while any is in flight, and no more than all answers have."""
    plan = sessions.first_requests(demand.num_requests)
    lasts = np.bincount(plan.session, plan.output_len * step + plan.think)
    ends = demand.source.times(len(plan.cut)) + lasts
    return float(min(ends.max() / step, float(plan.output_len.sum()), demand.horizon / step))


def placed(error: CapacityError, scenario: Scenario) -> CapacityError:
    """The error with the place in the scenario file where the fault lies, and with changes that mend it."""
    error = advised(error, scenario)
    where = scenario.where(error.path)
    place = ": ".join(part for part in (where, error.path and scenario.inside + error.path) if part)
    text = f"{place}: {error}" if place else str(error)
    return CapacityError(text, path=error.path, tokens=error.tokens, advice=error.advice)


class Made(NamedTuple):
    """What a run says, and what a reader should know."""

    run: metrics.Run
    notes: tuple[str, ...]


def _single(scenario: Scenario, cell: Cell, demand: Demand, record: Record, engine: Engine) -> Made:
    requests, tokens = _columns(demand, record, cell, np.arange(len(record.requests)))
    found = _loaded(demand, requests, tokens, record)
    if found is not None:
        record = record.since(found[0])
        requests["counted"] = outcome.counted(requests, record)
    requests, tokens = prefilled.requests(requests, record), prefilled.tokens(tokens, requests, record)
    made = _run(scenario, cell, record, (requests, tokens), (engine, found))
    return Made(made, tuple(remarks(scenario, cell, demand, record)))


def _loaded(
    demand: Demand, requests: outcome.Columns, tokens: outcome.Columns, record: Record
) -> tuple[int, Load] | None:
    """Where the measurement of an open loop begins, and how its load stood."""
    if demand.stop is None:
        return None
    given, changing = _judged_as(demand)
    return outcome.loaded(requests, tokens, record, given=given, changing=changing)


def _run(
    scenario: Scenario,
    cell: Cell,
    record: Record,
    columns: tuple[metrics.Columns, metrics.Columns],
    how: tuple[Engine, tuple[int, Load] | None],
) -> metrics.Run:
    """The run of one cell in the window of its record."""
    (requests, tokens), (engine, found), sla = columns, how, scenario.sla
    asked = _limits(sla)
    gpus = prefilled.gpus(outcome.gpus(record, cell), record)
    return metrics.Run(
        requests=requests,
        tokens=tokens,
        gpus=gpus,
        links=outcome.links(record, cell),
        window=record.window,
        pools=prefilled.pools(outcome.pools(record, cell, dict(scenario.cost)), record, scenario.cost),
        engine=metrics.Engine(name=engine, steps=record.steps, events=record.events),
        sla=asked,
        load=None if found is None else found[1],
        failures=outages.told(record, requests, tokens, asked),
        kv_cache=caching.told(scenario, record),
        mixed=mixed.told(scenario, record),
        sessions=conversed.told(scenario, record),
        bounds=None if (means := outcome.mean_step(record, cell)) is None else bottleneck.bounds(cell, means),
        ranks=outcome.ranks(record, cell, gpus),
        slots=cell.deployment.slots,
        utilization=watched.utilization(record, cell, gpus),
        pipeline=excerpt.pipeline(record, cell),
        blame=blame.columns(record, cell, gpus),
        waits=blame.waits(record, cell),
        critical=critical.told(record, cell),
        classes={each.name: _limits(each.sla or sla) for each in scenario.workload.classes or ()},
    )


# fleets -------------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """Cells of a fleet that are alike; the only one where there is no router."""

    scenario: Scenario
    cell: Cell
    replicas: int


class Sent(NamedTuple):
    """How requests get to the cells of a fleet."""

    seed: int
    engine: Engine
    router: Router
    threads: int
    progress: Callable[[float], None] | None


def _kinds(scenario: Scenario, seed: int, cost: CostModel | None, network: Network | None) -> list[Kind]:
    """Lower every kind of cell."""
    found = []
    for part in scenario.parts:
        try:
            cell = lower(part, seed=seed, cost=cost, network=network)
        except CapacityError as error:
            raise placed(error, part) from None
        found.append(Kind(part, cell, 1 if part.router is None else part.router.count))
    return found


def _fleet(kinds: Sequence[Kind], asked: tuple[Demand, Demand], done: Served | None, sent: Sent) -> Made:
    """Run cells behind a router, and put them side by side in one window; `asked`: in all, and of decode."""
    demand, _ = asked
    each = [kind for kind in kinds for _ in range(kind.replicas)]
    cells = [drawing(kind.cell, sent.seed, number) for number, kind in enumerate(each)]
    records, numbers, judged = _routed(cells, asked, done, sent)
    columns = [_columns(demand, *both) for both in zip(records, (*cells, cells[0]), numbers, strict=False)]
    places = joining.places(cells)
    requests = joining.of_all([own for own, _ in columns], numbers, places)
    tokens = {name: np.concatenate([own[name] for _, own in columns]) for name in columns[0][1]}
    found = _loaded(demand, requests, tokens, judged)
    if found is not None:
        records = tuple(record.since(found[0]) for record in records)
    columns = [_finished(*own, record, judged=found is not None) for own, record in zip(columns, records, strict=True)]
    rows = list(zip(each, cells, records, columns, strict=False))
    whole = joining.Whole(
        places=places,
        requests=joining.of_all([own for own, _ in columns], numbers, places),
        tokens=joining.tokens_of_all([own for _, own in columns], places),
        record=records[0],
        prices=kinds[0].scenario.cost,
        alike=len(kinds) == 1,
    )
    runs = [
        _run(kind.scenario, cell, replace(record, prefill=None), own, (sent.engine, found))
        for kind, cell, record, own in rows
    ]
    notes = [tuple(remarks(kind.scenario, cell, demand, record)) for kind, cell, record, _ in rows]
    return Made(joining.joined(runs, whole), tuple(pooling.notes(notes, range(len(notes)), "cell")))


def _routed(
    cells: Sequence[Cell], asked: tuple[Demand, Demand], done: Served | None, sent: Sent
) -> tuple[tuple[Record, ...], list[np.ndarray], Record]:
    """Run cells behind a router.

    Returns the records of cells, and behind them with prefill that of requests which none has seen; the numbers of
    their requests; and a record for the judgement of the load.
    """
    demand, decode = asked[0], replace(asked[1], routed=True, overloaded=None)
    members = [member(cell, decode, sent.engine) for cell in cells]
    records, chosen = route(members, decode, sent.router, sent.progress, threads=sent.threads)
    if done is None:
        numbers = [np.flatnonzero(chosen == number)[: len(record.requests)] for number, record in enumerate(records)]
        return records, numbers, records[0]
    found = divided(records, chosen, demand, done)
    return tuple(found.records), found.numbers, replace(found.records[0], prefill=found.prefill)


def _finished(
    requests: outcome.Columns, tokens: outcome.Columns, record: Record, *, judged: bool
) -> tuple[outcome.Columns, outcome.Columns]:
    """The columns of a cell when the window is known: who counts, and the times of prefill."""
    counted = {"counted": outcome.counted(requests, record)} if judged else {}
    requests = prefilled.requests({**requests, **counted}, record)
    return requests, prefilled.tokens(tokens, requests, record)


def drawing(cell: Cell, seed: int, number: int) -> Cell:
    """The cell as number `number` of a fleet: with random factors and drafts of its own."""
    streams = Streams(seed, number)
    drafts = cell.drafts and replace(cell.drafts, stream=streams)
    return replace(cell, variation=replace(cell.variation, stream=streams), drafts=drafts)


def _threads(engine: Engine, cost: CostModel | None) -> int:
    """How many threads may run cells: as many as numba may have, which sweeps leave one; one where Python is asked."""
    if engine == "processes" or cost is not None:
        return 1
    import numba

    config: Any = numba.config
    return int(config.NUMBA_NUM_THREADS)


def member(
    cell: Cell,
    demand: Demand,
    engine: Engine,
    *,
    progress: Callable[[float], None] | None = None,
    observer: Observer = None,
) -> Member:
    """A cell under an engine."""
    if engine == "kernel":
        return Blocks(cell, demand, progress=progress, observer=observer)
    from afdsim.engine.clock import Run

    return Run(cell, demand, progress=progress, observer=observer)


def routing(policy: Policy, seed: int) -> Router:
    """The router of a policy."""
    match policy:
        case "round_robin":
            return RoundRobin()
        case "least_requests":
            return LeastRequests()
        case "least_kv":
            return LeastKv()
        case "prefix_affinity":
            return PrefixAffinity()
        case "power_of_two":
            return PowerOfTwo(lambda block: stream(seed, "router", block))


def _columns(
    demand: Demand, record: Record, cell: Cell, numbers: np.ndarray
) -> tuple[outcome.Columns, outcome.Columns]:
    """Requests and tokens; where there are classes, with the class of every request and the gaps of every class.

    `numbers` are those that the requests have in the workload.
    """
    requests, tokens, classes = outcome.requests(record, cell), outcome.tokens(record, cell), demand.source.classes
    if classes is None:
        return requests, tokens
    kinds = demand.source.kinds(int(numbers.max(initial=-1)) + 1)[numbers]
    gaps = outcome.by_class(tokens, record, cell, classes.names, kinds)
    return requests | {"class": np.array(classes.names, dtype=object)[kinds]}, tokens | gaps


def _limits(sla: Sla | None) -> metrics.Sla | None:
    return None if sla is None else metrics.Sla(limits=sla.limits, percentile=sla.percentile)


def _signed(found: Result, cost: CostModel | None, network: Network | None, notes: Iterable[str]) -> Result:
    """The result with what it owes to the models of the caller's in its manifest and notes."""
    signed, more = found.manifest, list(notes)
    if cost is not None:
        signed = replace(signed, coefficients=label(cost))
    if network is not None and any(isinstance(part.deployment, Afd) for part in found.scenario.parts):
        signed = replace(signed, network=label(network))
    elif network is not None:
        more.append("network= is not used: a colocated deployment has no ports, its all-to-all kernels hold the rest")
    return replace(found, manifest=signed, notes=(*found.notes, *more))
