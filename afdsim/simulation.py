"""The whole line: scenario -> program -> engine -> record -> result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.engine.admission import FOREVER, Demand
from afdsim.engine.clock import Layers, Observer, Run
from afdsim.engine.colocated_program import ColocatedProgram
from afdsim.engine.compiler import compile_program
from afdsim.engine.program import Program
from afdsim.engine.record import Record
from afdsim.errors import CapacityError, SimulationError
from afdsim.results import metrics, outcome
from afdsim.results.remarks import remarks, unmeasured
from afdsim.results.result import Result, manifest
from afdsim.scenario.document import Scenario, Source, load, stream
from afdsim.scenario.tree import (
    ClosedLoop,
    Constant,
    ConstantLength,
    Gamma,
    LognormalLength,
    Poisson,
    Replay,
    UniformLength,
)
from afdsim.workload import laws as workload
from afdsim.workload.traces import read_trace, spread

Progress = Callable[[float, str], None]

LONGEST_REQUEST = 131_072
"""Tokens at which an unbounded length law is clipped."""

COMPILING_PAYS, STARTING_PAYS = 2e7, 7e5
"""Operations (layers x micro-batches x messages x steps) above which numba is worth compiling for, or starting where
its machine code is kept from an earlier run."""

COLUMNS = {"arrival": "arrivals", "input_len": "input_lengths", "output_len": "output_lengths"}


def simulate(
    scenario: Source | Scenario,
    *,
    seed: int | None = None,
    cost: CostModel | None = None,
    network: Network | None = None,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> Result:
    """Run a scenario once. `seed` defaults to the first of the scenario's; `cost` and `network` replace the models.

    `observer` is called with every completed step and the start and finish of its operations (see `timeline`).
    """
    scenario = scenario if isinstance(scenario, Scenario) else load(scenario)
    seed = scenario.run.seeds[0] if seed is None else seed
    try:
        program = compile_program(scenario, seed=seed, cost=cost, network=network)
        demand = demanded(scenario, program, seed)
        layers, reason = chosen_layers(scenario, program, demand)
        report = None if progress is None else lambda fraction: progress(fraction, scenario.name)
        record = execute(program, demand, layers, progress=report, observer=observer)
    except CapacityError as error:
        raise placed(error, scenario) from None
    found = _result(scenario, program, demand, record, (seed, layers, reason))
    if cost is None:
        return replace(found, notes=(*found.notes, *unmeasured(program)))
    return replace(found, manifest=replace(found.manifest, coefficients=type(cost).__name__))


def execute(
    program: Program | ColocatedProgram,
    demand: Demand,
    layers: Layers,
    *,
    progress: Callable[[float], None] | None = None,
    observer: Observer | None = None,
) -> Record:
    """Run a program by one of the engines."""
    if layers == "kernel-numba" and isinstance(program, Program) and program.compiles:
        from afdsim.engine.compiled_run import CompiledRun

        return CompiledRun(program, demand, progress=progress, observer=observer).execute()
    return Run(program, demand, layers=layers, progress=progress, observer=observer).execute()


def demanded(scenario: Scenario, program: Program | ColocatedProgram, seed: int) -> Demand:
    """What the workload of a scenario asks of a deployment."""
    asked = scenario.workload
    law = arrival_law(scenario)
    source = workload.RequestSource(
        law, _lengths(asked.input_len), _lengths(asked.output_len), lambda column: stream(seed, COLUMNS[column])
    )
    closed = isinstance(law, workload.ClosedLoop)
    count = len(law) if isinstance(law, workload.Trace) else asked.num_requests
    assert count is not None, "the schema demands num_requests where no trace gives it"
    return Demand(
        source=source,
        closed=closed,
        num_requests=min(count, asked.num_requests or count),
        concurrency=(law.concurrency or program.deployment.slots) if isinstance(law, workload.ClosedLoop) else 0,
        warmup=(scenario.run.warmup or None) if closed else scenario.run.warmup,
        horizon=scenario.run.stop.max_sim_time or FOREVER,
    )


def arrival_law(scenario: Scenario) -> workload.Arrivals:
    """The arrivals of a scenario; reads the trace where there is one."""
    match scenario.workload.arrival:
        case ClosedLoop(concurrency=concurrency):
            return workload.ClosedLoop(concurrency=concurrency)
        case Poisson(request_rate=rate):
            return workload.Poisson(rate=rate)
        case Constant(request_rate=rate):
            return workload.ConstantRate(rate=rate)
        case Gamma() as gamma:
            return workload.Gamma(rate=gamma.request_rate, burstiness=gamma.shape)
        case Replay():
            trace = scenario.workload.trace
            assert trace is not None, "the schema demands a trace"
            recorded = read_trace(
                trace.path,
                trace.format,
                time_scale=trace.time_scale,
                window=(trace.start, trace.end),
                skip_bad_rows=trace.skip_bad_rows,
            )
            return spread(recorded) if trace.spread else recorded


def _lengths(law: ConstantLength | LognormalLength | UniformLength | None) -> workload.Lengths | None:
    match law:
        case ConstantLength(value=value):
            return workload.Constant(value=value)
        case LognormalLength():
            longest = law.max or LONGEST_REQUEST
            return workload.Lognormal(mean=law.mean, cv=law.cv, min=law.min, max=longest)
        case UniformLength(min=low, max=high):
            return workload.Uniform(min=low, max=high or LONGEST_REQUEST)
        case None:
            return None


def chosen_layers(scenario: Scenario, program: Program | ColocatedProgram, demand: Demand) -> tuple[Layers, str]:
    """How to run the layers, and why, where the scenario leaves it open."""
    asked, refusal = scenario.run.engine, program.kernel_refuses
    if asked == "processes":
        return "processes", ""
    if refusal is not None:
        if asked == "kernel":
            raise SimulationError(
                f"run.engine: the kernel does not run this scenario: {refusal}; use processes or auto"
            )
        return "processes", f"the kernel does not run this scenario: {refusal}"
    messages = 2 * program.units * program.ffns + program.units + program.ffns
    if isinstance(program, ColocatedProgram):
        messages = 5 * program.units
    operations = program.layers * program.micro_batches * messages * _steps_expected(program, demand)
    return ("kernel-numba" if _numba_pays(operations) else "kernel-python"), ""


def _numba_pays(operations: float) -> bool:
    if operations < STARTING_PAYS or find_spec("numba") is None:
        return False
    from afdsim.engine.native import kept

    return operations > COMPILING_PAYS or kept()


def _steps_expected(program: Program | ColocatedProgram, demand: Demand) -> float:
    """Decode steps of a run, roughly: it only decides whether compiling pays."""
    _, output_len = demand.source.columns(min(demand.num_requests, 1000))
    return float(output_len.mean()) * (1.0 + demand.num_requests / program.deployment.slots)


def placed(error: CapacityError, scenario: Scenario) -> CapacityError:
    """The error with the place in the scenario file where the fault lies."""
    where = scenario.where(error.path)
    place = ": ".join(part for part in (where, error.path) if part)
    return CapacityError(f"{place}: {error}" if place else str(error), path=error.path)


def _result(
    scenario: Scenario,
    program: Program | ColocatedProgram,
    demand: Demand,
    record: Record,
    how: tuple[int, Layers, str],
) -> Result:
    seed, layers, reason = how
    name = layers.split("-")[0]
    sla = scenario.sla
    run = metrics.Run(
        requests=outcome.requests(record, program),
        tokens=outcome.tokens(record, program),
        gpus=outcome.gpus(record, program),
        links=outcome.links(record, program),
        window=record.window,
        pools=outcome.pools(record, program, dict(scenario.cost)),
        engine=metrics.Engine(name=name, steps=record.steps, events=record.events),
        sla=None if sla is None else metrics.Sla(limits=_limits(sla.tpot, sla.e2el), percentile=sla.percentile),
        open_loop=not demand.closed,
    )
    return Result(
        scenario=scenario,
        run=run,
        manifest=manifest(scenario, seed=seed, engine=name, engine_reason=reason),
        notes=tuple(remarks(scenario, program, demand, record)),
    )


def _limits(tpot: float | None, e2el: float | None) -> dict[str, float]:
    return {name: limit for name, limit in (("tpot", tpot), ("e2el", e2el)) if limit is not None}
