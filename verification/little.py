"""Little's law, L = lambda W, over deployments of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

import afdsim
from tests.cases import tiny
from tests.laws.test_prefill import KINDS, scenario
from verification.checks import COLOURS, ROUNDING, Check, Finding, diagonal, finish, furthest, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from afdsim.results.result import Result
    from afdsim.scenario.document import Scenario

RATES = ("500 req/s", "1000 req/s", "2000 req/s")
SEATS = (3, 6, 9)
EDGES = 0.02
"""Of a closed loop: requests that the window cuts."""
JITTER = {"variation.event": 0.2, "variation.step": 0.1}


def closed() -> Iterator[Scenario]:
    """AFD deployments that are always full."""
    for seats in SEATS:
        yield tiny(4, 2, 1, deployment__max_num_seqs=seats, workload__num_requests=200 * seats).varied(JITTER)


def open_loops() -> Iterator[Scenario]:
    """Deployments of every kind under Poisson arrivals."""
    for kind in KINDS:
        for rate in RATES:
            yield scenario(kind, prefill=None).varied({"workload.arrival.request_rate": rate} | JITTER)


def behind_prefill() -> Iterator[Scenario]:
    """The same behind prefill servers."""
    for kind in KINDS:
        yield scenario(kind).varied({"workload.arrival.request_rate": RATES[0]} | JITTER)


def fleets() -> Iterator[Scenario]:
    """Several cells behind a router."""
    for policy in ("round_robin", "least_requests", "power_of_two"):
        yield scenario("afd", prefill=None, router={"policy": policy, "replicas": 3}).varied(JITTER)


CASES: dict[str, Callable[[], Iterator[Scenario]]] = {
    "closed loops": closed,
    "open loops: AFD, EP, TP": open_loops,
    "behind prefill servers": behind_prefill,
    "fleets of three cells": fleets,
}


def both_sides(result: Result) -> tuple[float, float]:
    """Mean number of sequences that have their first token and not their last: counted step by step, and by the law.

    The one comes from batches and step times, the other from the times of requests; of the whole run, from empty to
    empty.
    """
    requests, tokens = result.requests, result.tokens
    span = float(requests.finish_s.max() - requests.arrival_s.min())
    seated = float((tokens.gaps.to_numpy() * np.nan_to_num(tokens.itl_s.to_numpy())).sum())
    stay = float((requests.finish_s - requests.first_token_s).mean())
    return seated / span, len(requests) / span * stay


def of_users(result: Result) -> tuple[float, float]:
    """Users of a closed loop, and their throughput x mean time with a request (the interactive response time law)."""
    summary = result.summary
    users = result.scenario.deployment.max_num_seqs * result.scenario.deployment.attention.instances
    return float(users), summary["request_throughput"] * summary["mean_e2el_ms"] / 1e3


def compared(ax: Axes, scale: float) -> Finding:
    """Draw L over lambda W."""
    off, seen = [], []
    for (name, cases), colour in zip(CASES.items(), COLOURS, strict=False):
        sides, tolerance = (of_users, EDGES) if cases is closed else (both_sides, ROUNDING)
        rows = [sides(afdsim.simulate(each)) for each in list(cases())[:: max(round(1 / scale), 1)]]
        found, expected = (np.array(column) for column in zip(*rows, strict=True))
        points(ax, expected, found, colour, name, ms=6)
        off.append(furthest(found, expected) / tolerance)
        seen += expected.tolist()
    diagonal(ax, np.array(seen), part=EDGES, label=f"{EDGES:.0%} (open loops: far below)")
    finish(
        ax,
        "Little's law: sequences in decode are arrivals per second x mean stay",
        "arrivals per second x mean stay (sequences)",
        "mean sequences in decode, counted",
    )
    return Finding(
        statistic=f"largest relative difference of {len(seen)} runs, in tolerances",
        value=max(off),
        tolerance=1.0,
        reason=f"{ROUNDING:g} from empty to empty, where the law is exact; {EDGES:.0%} for the edges of a closed loop",
    )


LITTLE = Check(
    name="little",
    compares="sequences in decode, counted at every step, with arrivals per second x mean stay of requests",
    question="Do the columns of steps and those of requests speak of the same sequences?",
    answer=(
        "Little's law (1961) is exact over a run from empty to empty, whatever the arrivals, the order and the "
        "service. L comes from the batches of all ranks and the lengths of their steps, lambda and W from the "
        "times of requests, first token to last: open loops of AFD, EP and TP, the same behind prefill servers, "
        "and fleets. In a closed loop L is known beforehand, the users; lambda and W are the throughput and the "
        "mean latency that are reported."
    ),
    reading="All points lie on the diagonal, but for closed loops to the last digits.",
    run=compared,
)
