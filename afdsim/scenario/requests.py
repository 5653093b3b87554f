"""The requests of a scenario: what its workload asks for, as arrivals and laws of lengths with their streams."""

from __future__ import annotations

from functools import partial

import numpy as np

from afdsim.scenario.asked import (
    ClosedLoop,
    Constant,
    ConstantLength,
    ConstantTime,
    ExponentialTime,
    Gamma,
    LognormalLength,
    LognormalTime,
    Mmpp,
    Poisson,
    RateCurve,
    Replay,
    RequestClass,
    UniformLength,
    Workload,
)
from afdsim.scenario.document import Scenario
from afdsim.scenario.streams import stream
from afdsim.workload import laws as workload
from afdsim.workload import sessions as talks
from afdsim.workload.sessions import Exponential, Fixed, Thought
from afdsim.workload.traces import read_lengths, read_trace, spread

LONGEST_REQUEST = 131_072
"""Tokens at which an unbounded length law is clipped."""

COLUMNS = {
    "arrival": "arrivals",
    "state": "arrival_states",
    "input_len": "input_lengths",
    "output_len": "output_lengths",
    "class": "classes",
}


def counted(scenario: Scenario, source: workload.RequestSource) -> int:
    """How many requests there are to count in a closed loop, to issue in an open one."""
    asked = scenario.workload
    if source.size is not None:
        return min(source.size, asked.num_requests or source.size)
    if asked.duration is not None:
        return source.until(asked.duration)
    count = asked.num_requests or (source.file and len(source.file))
    assert count, "the schema demands it where no trace or duration gives it"
    return count


def requested(scenario: Scenario, seed: int) -> workload.RequestSource:
    """The requests of a scenario; reads the trace where there is one."""
    asked = scenario.workload
    recorded = _recorded(asked)
    return workload.RequestSource(
        _arrivals(asked),
        _lengths(asked.input_len) if recorded is None else recorded,
        _lengths(asked.output_len) if recorded is None else recorded,
        partial(_stream, seed),
        None if asked.classes is None else _classes(asked.classes),
        asked.samples or 1,
    )


def given(law: ConstantLength | LognormalLength | UniformLength | None) -> workload.Lengths:
    """A law of lengths that the schema demands."""
    found = _lengths(law)
    assert found is not None, "the schema demands it"
    return found


def thought(law: ConstantTime | ExponentialTime | LognormalTime | None) -> Thought:
    """The law of how long a user thinks; not at all where none is given."""
    match law:
        case None:
            return Fixed(seconds=0.0)
        case ConstantTime(value=value):
            return Fixed(seconds=value)
        case ExponentialTime(mean=mean):
            return Exponential(mean=mean)
        case LognormalTime(mean=mean, cv=cv):
            return talks.LognormalTime(mean=mean, cv=cv)


def _stream(seed: int, column: str) -> np.random.Generator:
    """The stream of a column of requests; those of classes differ in their step."""
    name, _, place = column.partition(".")
    return stream(seed, COLUMNS[name], int(place or 0))


def _classes(asked: tuple[RequestClass, ...]) -> workload.Classes:
    return workload.Classes(
        names=tuple(each.name for each in asked),
        weights=tuple(each.weight for each in asked),
        input_len=tuple(_lengths(each.input_len) for each in asked),
        output_len=tuple(_lengths(each.output_len) for each in asked),
    )


def _recorded(asked: Workload) -> workload.Recorded | None:
    """The lengths of the trace, where arrivals come from a law."""
    trace = asked.trace
    if trace is None or isinstance(asked.arrival, Replay):
        return None
    return read_lengths(
        trace.path,
        trace.format,
        time_unit=trace.time_unit,
        window=(trace.start, trace.end),
        skip_bad_rows=trace.skip_bad_rows,
    )


def _arrivals(asked: Workload) -> workload.Arrivals:
    match asked.arrival:
        case ClosedLoop(concurrency=concurrency):
            return workload.ClosedLoop(concurrency=concurrency)
        case Poisson(request_rate=rate):
            return workload.Poisson(rate=rate)
        case Constant(request_rate=rate):
            return workload.ConstantRate(rate=rate)
        case Gamma() as gamma:
            return workload.Gamma(rate=gamma.request_rate, burstiness=gamma.shape)
        case Mmpp() | RateCurve() as changing:
            return changing.law
        case Replay():
            trace = asked.trace
            assert trace is not None, "the schema demands a trace"
            recorded = read_trace(
                trace.path,
                trace.format,
                time_unit=trace.time_unit,
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
