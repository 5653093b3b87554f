"""The same requests at another rate: arrivals keep their form, and all of their rates change by one factor.

Every draw of a seed is the same at every rate, lengths too. Arrivals of a law with one rate, and of a trace, come at
the same times but for a factor; bursts keep their states and how long these last, and a curve its points in time. A
closed loop, which has no rate, becomes Poisson arrivals of the same lengths.
"""

from __future__ import annotations

from itertools import pairwise

from afdsim.errors import ScenarioError
from afdsim.scenario.asked import ClosedLoop, Constant, Gamma, Mmpp, Poisson, RateCurve, Replay
from afdsim.scenario.document import Scenario
from afdsim.scenario.requests import counted, requested
from afdsim.units import exact

Changes = dict[str, object]
"""Values by dotted path, as for ``--set``."""

ARRIVAL = "workload.arrival"


def at_rate(scenario: Scenario, rate: float) -> Scenario:
    """Return the scenario with so many requests per second on average, sessions or prompts where those arrive.

    It is as long as before: `num_requests` and `duration` stay, and a trace ends with its last request.
    """
    return scenario.varied(scaled(scenario, rate))


def scaled(scenario: Scenario, rate: float) -> Changes:
    """Return what `at_rate` changes."""
    arrival = scenario.workload.arrival
    match arrival:
        case Poisson() | Constant() | Gamma():
            return {f"{ARRIVAL}.request_rate": exact(rate, "rate")}
        case ClosedLoop():
            return {ARRIVAL: {"process": "poisson", "request_rate": exact(rate, "rate")}}
        case Mmpp(states=states):
            factor = rate / mean_rate(scenario)
            rates = [{"rate": _six(factor * each.rate), "dwell": exact(each.dwell, "time")} for each in states]
            return {f"{ARRIVAL}.states": rates}
        case RateCurve(points=points):
            factor = rate / mean_rate(scenario)
            knots = [{"at": exact(each.at, "time"), "rate": _six(factor * each.rate)} for each in points]
            return {f"{ARRIVAL}.points": knots}
        case Replay():
            trace = scenario.workload.trace
            assert trace is not None, "the schema demands a trace"
            return {"workload.trace.time_scale": trace.time_scale * mean_rate(scenario) / rate}


def _six(rate: float) -> str:
    """A rate of several, with six digits."""
    return exact(float(f"{rate:.6g}"), "rate")


def mean_rate(scenario: Scenario) -> float:
    """Arrivals per second in the long run, of a curve and of a trace while they last; infinite for all at once."""
    arrival = scenario.workload.arrival
    match arrival:
        case Poisson() | Constant() | Gamma():
            return arrival.request_rate
        case Mmpp():
            return arrival.law.rate
        case RateCurve():
            return arrival.law.rate if arrival.period is not None else _up_to(arrival, length(scenario))
        case Replay():
            source = requested(scenario, scenario.run.seeds[0])
            many, last = counted(scenario, source), length(scenario)
            if last > 0:
                return many / last
            raise ScenarioError(f"{ARRIVAL}: all requests of the trace come at once, which has no rate to change")
        case ClosedLoop():
            raise ScenarioError(f"{ARRIVAL}: a closed loop has no rate")


def length(scenario: Scenario) -> float:
    """Seconds in which requests arrive."""
    if scenario.workload.duration is not None:
        return scenario.workload.duration
    source = requested(scenario, scenario.run.seeds[0])
    return float(source.times(counted(scenario, source))[-1])


def _up_to(curve: RateCurve, end: float) -> float:
    """Mean rate of a curve that does not repeat, up to some time."""
    total, last = 0.0, curve.points[-1]
    for here, there in pairwise(curve.points):
        span = max(min(there.at, end) - here.at, 0.0)
        slope = (there.rate - here.rate) / (there.at - here.at) if there.at > here.at else 0.0
        total += span * (here.rate + slope * span / 2)
    return (total + max(end - last.at, 0.0) * last.rate) / end
