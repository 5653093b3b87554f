"""How fast the engines are: steps per second of each, beside the rate of a bare SimPy loop in the same run.

Times are CPU seconds of one process. The bare loop takes the speed of the machine out: compare steps/s over events/s.
Every row runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

ENGINES = ("processes", "kernel-python", "kernel-numba")
ROWS = (
    ((1, 1), "instance"),
    ((2, 2), "instance"),
    ((4, 2), "instance"),
    ((16, 2), "instance"),
    ((64, 8), "instance"),
    ((16, 2), "gpu"),
)
"""(attention instances, FFN instances) and granularity."""

BARE_EVENTS = 300_000
WORK_PER_ROW = {"processes": 4_000, "kernel-python": 40_000, "kernel-numba": 120_000}
"""Steps x (units x FFN instances) that a row simulates, so that each takes a second or two."""
JITTER = 0.1
WARM_UP = 0.2
"""Simulated seconds of the run that compiles and tells how long a step is."""


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
    """SimPy events."""
    peak_mb: float


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


def rows(engines: tuple[str, ...] = ENGINES, deployments: tuple[str, ...] = ()) -> Iterator[Row]:
    """Measure every engine on every deployment, one process each; numba only where it is installed."""
    for (attention, ffn), granularity in ROWS:
        if deployments and f"{attention}A{ffn}F" not in deployments:
            continue
        for engine in engines:
            if engine == "kernel-numba" and find_spec("numba") is None:
                continue
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                yield pool.submit(measure, (attention, ffn), granularity, engine).result()


def measure(instances: tuple[int, int], granularity: str, engine: str) -> Row:
    """Time one engine on a closed loop of up to 6,144 sequences with jitter, after a warm-up that compiles."""
    warm_up = run(instances, granularity, engine, until=WARM_UP)
    units = instances[0] * (8 if granularity == "gpu" else 1)
    steps = max(3, WORK_PER_ROW[engine] // (units * instances[1]))
    started = time.process_time()
    record = run(instances, granularity, engine, until=steps * WARM_UP / max(warm_up.steps, 1))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024)
    return Row(
        deployment=f"{instances[0]}A{instances[1]}F",
        granularity=granularity,
        engine=engine,
        steps_per_s=record.steps / seconds,
        tokens_per_s=float(sum(record.boundaries.batch)) / seconds,
        real_time_factor=record.window[1] / seconds,
        events_per_step=record.events / record.steps,
        peak_mb=peak / (1024 if sys.platform == "darwin" else 1),
    )


def run(instances: tuple[int, int], granularity: str, engine: str, *, until: float) -> Any:
    """Run the shipped main scenario with other instances up to the simulated second `until`."""
    from dataclasses import replace

    from afdsim.engine.compiler import compile_program
    from afdsim.scenario.document import load
    from afdsim.simulation import demanded, execute

    scenario = load("step3_2a2f_4k", overrides=_overrides(instances, granularity))
    program = compile_program(scenario, seed=0)
    demand = demanded(scenario, program, 0)
    return execute(program, replace(demand, horizon=until), engine)  # type: ignore[arg-type]


def _overrides(instances: tuple[int, int], granularity: str) -> list[str]:
    attention, ffn = instances
    return [
        f"deployment.attention.instances={attention}",
        f"deployment.ffn.instances={ffn}",
        f"deployment.max_num_seqs={min(384, 6144 // (8 * attention))}",
        f"variation={{event: {JITTER}, link: 0}}",
        f"run.granularity={granularity}",
        "workload.num_requests=1000000",
    ]


def as_json(events_per_s: float, measured: list[Row]) -> dict[str, object]:
    """What `afdsim bench --json` prints."""
    return {"simpy_events_per_s": events_per_s, "rows": [asdict(row) for row in measured]}
