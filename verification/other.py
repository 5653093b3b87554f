"""The same queues in Ciw, another discrete-event simulator, with random numbers of its own."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from verification.checks import (
    BAND,
    BEYOND,
    BLUE,
    BY_CHANCE,
    LOWEST,
    ORANGE,
    Array,
    Check,
    Finding,
    NotRunError,
    finish,
    several,
)
from verification.queues import CHUNK, laws, prefill_pool, prefill_waits, service, share_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOAD = 0.7
SERVERS = 3
CUSTOMERS = 60_000
PATIENT = 200.0
"""Units after which nothing of the start is left."""


def ciw() -> ModuleType:
    """The other simulator."""
    try:
        import ciw as found
    except ImportError:
        raise NotRunError("Ciw is missing: pip install 'afdsim[verification]'") from None
    return found


def one_server(count: int) -> tuple[Array, Array]:
    """Waits of prompts of one or twelve chunks at one server: afdsim's and Ciw's, in services of a chunk."""
    law, pool = laws()[1], prefill_pool(1)
    unit, random = service(pool), np.random.default_rng(5)
    times = np.cumsum(random.exponential(law.mean * unit / LOAD, count))
    ours = prefill_waits(pool, law.draw(random, count), times) / unit
    sim = ciw()
    network = sim.create_network(
        arrival_distributions=[sim.dists.Exponential(LOAD / law.mean)],
        service_distributions=[sim.dists.Pmf(law.services.tolist(), law.shares.tolist())],
        number_of_servers=[1],
    )
    return ours, simulated(network, count * law.mean / LOAD, {1})


def shortest_of(count: int) -> tuple[Array, Array]:
    """Waits of equal prompts that join the server that has the fewest: afdsim's and Ciw's, in services."""
    pool = prefill_pool(SERVERS)
    unit, random = service(pool), np.random.default_rng(6)
    ours = prefill_waits(pool, np.ones(count, dtype=int), np.cumsum(random.exponential(unit / LOAD / SERVERS, count)))
    sim = ciw()
    queues = list(range(2, SERVERS + 2))
    # its shortest queue leaves out who is being served; fewest there is what a pool of servers counts
    joining = sim.routing.LoadBalancing(destinations=queues, tie_break="order")
    network = sim.create_network(
        arrival_distributions=[sim.dists.Exponential(LOAD * SERVERS), *([None] * SERVERS)],
        service_distributions=[sim.dists.Deterministic(0.0), *([sim.dists.Deterministic(1.0)] * SERVERS)],
        number_of_servers=[float("inf"), *([1] * SERVERS)],
        routing=sim.routing.NetworkRouting(routers=[joining, *([sim.routing.Leave()] * SERVERS)]),
    )
    return ours / unit, simulated(network, count / LOAD / SERVERS, set(queues))


def simulated(network: object, span: float, nodes: set[int]) -> Array:
    """Waits at some nodes, in order of arrival."""
    sim = ciw()
    sim.seed(1)
    run = sim.Simulation(network)
    run.simulate_until_max_time(span)
    records = sorted((r.arrival_date, r.waiting_time) for r in run.get_all_records() if r.node in nodes)
    return np.array([wait for _, wait in records])


def compared(ax: Axes, scale: float) -> Finding:
    """Draw the share of customers that wait longer than a time, of both simulators."""
    off, number = [], 0
    count = several(CUSTOMERS, scale, 3000)
    cases = {
        "one server, prompts of 1 or 12 chunks": one_server,
        f"{SERVERS} servers, the one with the fewest": shortest_of,
    }
    for (label, case), colour in zip(cases.items(), (ORANGE, BLUE), strict=True):
        ours, its = (each[int(PATIENT) :] for each in case(count))
        times = np.linspace(0.25, float(np.quantile(its, 0.99)), 24)
        (mine, half), (other, its_half) = share_above(ours, times), share_above(its, times)
        both = np.hypot(half, its_half)
        off.append(float(np.max(np.abs(mine - other) / both)))
        number += len(times)
        ax.fill_between(
            times, np.maximum(other - BEYOND * both, LOWEST / 2), other + BEYOND * both, color=BAND, lw=0,
            label="two 95 % half-widths of a difference",
        )  # fmt: skip
        ax.plot(times, other, color=colour, lw=1, label=f"Ciw: {label}")
        ax.plot(times, mine, color=colour, ls="", marker="o", ms=4, label=f"afdsim: {label}")
    ax.set_yscale("log")
    ax.set_ylim(LOWEST, 1.2)
    finish(
        ax,
        f"Prompts wait in afdsim's prefill servers as in Ciw's, load {LOAD:.0%}",
        f"wait / service of a prompt of {CHUNK} tokens",
        "share of prompts that wait longer",
    )
    return Finding(
        statistic=f"furthest of {number} shares from Ciw's", value=max(off), tolerance=BEYOND, reason=BY_CHANCE
    )


CIW = Check(
    name="ciw",
    compares="waits at prefill servers with the same queues in Ciw",
    question="Does a simulator written by others, with random numbers of its own, find the same waits?",
    answer=(
        "[Ciw](https://ciw.readthedocs.io) is a discrete-event simulator of open queueing networks (Palmer, "
        "Knight, Harper, Hawa 2019). It has the M/G/1 of the checks above, and what has no closed form: equal "
        "prompts that join the server with the fewest of three, ties to the first, which is how afdsim's prefill "
        "pool places them."
    ),
    reading="The points of afdsim lie on the lines of Ciw, within the grey band that chance allows their difference.",
    run=compared,
)
