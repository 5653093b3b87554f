"""Going on until an open loop is steady: the same arrivals, for longer.

Arrivals are drawn one after the other, so that a longer run begins with the requests of a shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from afdsim.errors import ScenarioError
from afdsim.results.result import Result
from afdsim.scenario.document import Scenario
from afdsim.units import exact

ROUNDS = 8
"""Times that a run is lengthened; each at least doubles it."""


def until_steady(
    scenario: Scenario, run: Callable[[Scenario], Sequence[Result]]
) -> Iterator[tuple[Scenario, Sequence[Result]]]:
    """Yield the scenario as it is and what its seeds gave, then longer ones until all of them are steady."""
    for _ in range(1 + ROUNDS):
        results = run(scenario)
        yield scenario, results
        wanted = [load for each in results if (load := each.run.load) is not None and load.level == "n/a"]
        if not wanted:
            return
        if (short := next((load for load in wanted if load.wants is None), None)) is not None:
            raise ScenarioError(f"--until-steady: a longer run would not help: {short.why}; or leave run.warmup out")
        scenario = lengthened(scenario, max(load.wants or 0.0 for load in wanted))


def lengthened(scenario: Scenario, seconds: float) -> Scenario:
    """Return the scenario with so many seconds of arrivals; ScenarioError where a trace or a stop ends them."""
    if scenario.workload.arrival.process == "trace":
        raise ScenarioError("--until-steady: a trace cannot go on beyond its end; give run.warmup, or a longer trace")
    stop = scenario.run.stop.max_sim_time
    if stop is not None and stop < seconds:
        raise ScenarioError(f"--until-steady: run.stop.max_sim_time ends the run before {exact(seconds, 'time')}")
    return scenario.varied({"workload.num_requests": None, "workload.duration": exact(seconds, "time")})
