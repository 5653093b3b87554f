"""How fast the engines are: steps per second of each, beside the rate of a bare SimPy loop in the same run.

Times are CPU seconds of one process. The bare loop takes the speed of the machine out: compare steps/s over events/s.
Every row runs in a process of its own, so that its peak memory is its own; one after the other, so that none disturbs
another.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afdsim.engine.record import Record
    from afdsim.simulation import Engine

ENGINES: tuple[Engine, ...] = ("processes", "kernel")
BARE_EVENTS = 300_000
JITTER = 0.1
AFD_STEPS = 120_000
"""Steps x (attention units x FFN instances) that the kernel simulates of AFD."""
SEQUENCES = 6_144
"""Most sequences in flight of AFD."""
WARM_UP = 1.0
"""Simulated seconds of the run that tells how long a step is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A deployment to measure: a shipped scenario with other values, as a closed loop with jitter."""

    deployment: str
    granularity: str = "instance"
    scenario: str
    overrides: tuple[str, ...] = ()
    steps: dict[Engine, int]
    """How many each engine simulates: a second or two of work, but at least three steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement."""

    deployment: str
    granularity: str
    engine: str
    steps_per_s: float
    """Decode steps per CPU second."""
    tokens_per_s: float
    """Simulated output tokens per CPU second."""
    real_time_factor: float
    """Simulated seconds per CPU second."""
    events_per_step: float
    """SimPy events; boundaries where the kernel runs."""
    peak_mb: float


def _afd(attention: int, ffn: int, processes: int, granularity: str = "instance") -> Case:
    """The shipped main scenario with other instances, `processes` steps of which the processes simulate."""
    units = attention * (8 if granularity == "gpu" else 1)
    return Case(
        deployment=f"{attention}A{ffn}F",
        granularity=granularity,
        scenario="step3_2a2f_4k",
        overrides=(
            f"deployment.attention.instances={attention}",
            f"deployment.ffn.instances={ffn}",
            f"deployment.max_num_seqs={min(384, SEQUENCES // (8 * attention))}",
        ),
        steps={"processes": processes, "kernel": AFD_STEPS // (units * ffn)},
    )


def _ep128(kind: str, mtp: str) -> Case:
    """Few sequences: drawing the steps of fresh requests, which drafts make necessary, shall not be what is timed."""
    return Case(
        deployment=f"EP128 {kind}",
        scenario="dsv3_ep128_4k",
        overrides=("deployment.max_num_seqs=16", f"deployment.mtp={mtp}"),
        steps={"processes": 6, "kernel": 3_000},
    )


CASES = (
    _afd(1, 1, 120),
    _afd(2, 2, 60),
    _afd(4, 2, 36),
    _afd(16, 2, 12),
    _afd(64, 8, 3),
    _afd(16, 2, 3, "gpu"),
    Case(deployment="EP32", scenario="step3_ep32", steps={"processes": 30, "kernel": 10_000}),
    _ep128("two-batch", "null"),
    _ep128("MTP", "{draft: 1, acceptance: 0.8}"),
    Case(
        deployment="TP8",
        scenario="step3_ep32",
        overrides=("deployment={type: tensor_parallel, gpu: H800, gpus: 8, max_num_seqs: 256}",),
        steps={"processes": 1_200, "kernel": 40_000},
    ),
)
DEPLOYMENTS = tuple(dict.fromkeys(case.deployment for case in CASES))


def simpy_events_per_s() -> float:
    """Events per CPU second of one SimPy process that only waits."""
    import simpy

    def wait(env: simpy.Environment) -> Iterator[simpy.Event]:
        for _ in range(BARE_EVENTS):
            yield env.timeout(1.0)

    env = simpy.Environment()
    env.process(wait(env))  # type: ignore[arg-type]  # an iterator is all that SimPy asks for
    started = time.process_time()
    env.run()
    return BARE_EVENTS / (time.process_time() - started)


def rows(engines: tuple[str, ...] = ENGINES, deployments: tuple[str, ...] = DEPLOYMENTS) -> Iterator[Row]:
    """Measure every engine on every deployment."""
    for case in CASES:
        if case.deployment not in deployments:
            continue
        with _process() as kernel:
            length = kernel.submit(step_seconds, case).result()
            if "processes" in engines:
                with _process() as other:
                    yield other.submit(measure, case, "processes", length).result()
            if "kernel" in engines:
                yield kernel.submit(measure, case, "kernel", length).result()


def _process() -> ProcessPoolExecutor:
    """A process of its own, with nothing inherited."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def step_seconds(case: Case) -> float:
    """Simulated seconds of a step, by a run of the kernel: afterwards its machine code is there."""
    record = run(case, "kernel", until=WARM_UP)
    return record.ended / record.steps


def measure(case: Case, engine: Engine, length: float) -> Row:
    """Time one engine on as many steps of `length` simulated seconds as the case asks for."""
    started = time.process_time()
    record = run(case, engine, until=case.steps[engine] * length)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Row(
        deployment=case.deployment,
        granularity=case.granularity,
        engine=engine,
        steps_per_s=record.steps / seconds,
        tokens_per_s=float(sum(record.boundaries.batch)) / seconds,
        real_time_factor=record.ended / seconds,
        events_per_step=record.events / record.steps,
        peak_mb=peak / 2 ** (20 if sys.platform == "darwin" else 10),
    )


def run(case: Case, engine: Engine, *, until: float) -> Record:
    """Run a case up to the simulated second `until`, from its scenario on."""
    from afdsim.engine.lowering import lower
    from afdsim.scenario.document import load
    from afdsim.simulation import demanded, execute

    common = (
        f"variation={{event: {JITTER}, link: 0}}",
        f"run.granularity={case.granularity}",
        "workload.num_requests=1000000",
    )
    scenario = load(case.scenario, overrides=[*case.overrides, *common])
    cell = lower(scenario, seed=0)
    return execute(cell, replace(demanded(scenario, cell, 0), horizon=until), engine)


def as_json(events_per_s: float, measured: list[Row]) -> dict[str, object]:
    """What `afdsim bench --json` prints."""
    return {"simpy_events_per_s": events_per_s, "rows": [asdict(row) for row in measured]}
