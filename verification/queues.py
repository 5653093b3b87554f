"""Servers of the textbooks, as afdsim has them (a prefill server, a decode rank of one seat) and as theory does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from afdsim.engine.lowering import lower
from afdsim.engine.prefill import Pool, Queue
from afdsim.engine.servers import lower_prefill
from afdsim.results.intervals import half_width
from afdsim.simulation import demanded, execute
from afdsim.workload.laws import RequestSource, Trace
from tests.cases import Stages, Wires, tiny
from tests.laws.test_prefill import scenario
from verification.checks import Array

CHUNK = 256
"""Tokens of a prompt that one prefill step computes."""
STEP = 4e-3
"""Seconds of a decode step of the rank: two layers of an attention and an FFN stage of 1 ms each."""
MEAN_TOKENS = 8
"""Of a request of the rank."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """Customers of several sizes, in chunks or in tokens, and what they take of a server, in its units."""

    name: str
    sizes: Array
    services: Array
    shares: Array
    """Probability of each size."""
    colour: int

    @property
    def mean(self) -> float:
        """Mean service, in units."""
        return float(self.services @ self.shares)

    @property
    def square(self) -> float:
        """Mean square service, in units squared."""
        return float(self.services**2 @ self.shares)

    def draw(self, random: np.random.Generator, count: int) -> Array:
        """Draw sizes."""
        return random.choice(self.sizes, count, p=self.shares)


@cache
def laws() -> tuple[Law, Law, Law]:
    """M/D/1 and M/G/1 at a prefill server, M/Geo/1 (an M/M/1 in steps) at a decode rank of one seat."""
    lengths, pool = np.arange(1, 40 * MEAN_TOKENS), prefill_pool(1)
    geometric = (1 - 1 / MEAN_TOKENS) ** (lengths - 1) / MEAN_TOKENS
    unlike = np.array([1, 12])
    return (
        Law(
            name="M/D/1: prefill, equal prompts",
            sizes=np.array([1]),
            services=np.array([1.0]),
            shares=np.array([1.0]),
            colour=0,
        ),
        Law(
            name="M/G/1: prefill, prompts of 1 or 12 chunks",
            sizes=unlike,
            services=np.array([service(pool, chunks) / service(pool) for chunks in unlike.tolist()]),
            shares=np.array([0.9, 0.1]),
            colour=1,
        ),
        Law(
            name="M/Geo/1: decode, outputs of geometric length",
            sizes=lengths,
            services=lengths.astype(float),
            shares=geometric / geometric.sum(),
            colour=2,
        ),
    )


def waits(law: Law, load: float, count: int, seed: int) -> tuple[Array, float]:
    """Return waits of customers at one of afdsim's servers at a load, in order of arrival, and the service unit."""
    random = np.random.default_rng(seed)
    asked, gaps = law.draw(random, count), random.exponential(1.0, count)
    if law is laws()[2]:
        return decode_waits(asked, np.cumsum(gaps) * law.mean * STEP / load), STEP
    pool = prefill_pool(1)
    unit = service(pool)
    return prefill_waits(pool, asked, 10.0 + np.cumsum(gaps) * law.mean * unit / load), unit


@cache
def prefill_pool(instances: int) -> Pool:
    """Prefill servers of one rank that compute a chunk a step."""
    servers = {"gpu": "H20", "instances": instances, "gpus_per_instance": 2, "max_batched_tokens": CHUNK}
    asked = scenario("afd", prefill=servers)
    found = lower_prefill(asked, lower(asked, seed=0))
    assert found is not None
    return found


@cache
def service(pool: Pool, chunks: int = 1) -> float:
    """Seconds that a server takes for a prompt of so many chunks on its own."""
    queue = Queue(pool)
    alone = queue.submit(0.0, CHUNK * chunks)
    queue.advance(math.inf)
    return alone.end - alone.start


def prefill_waits(pool: Pool, chunks: Array, times: Array) -> Array:
    """Seconds that prompts wait for their first step."""
    queue = Queue(pool)
    prompts = [queue.submit(time, CHUNK * many) for time, many in zip(times.tolist(), chunks.tolist(), strict=True)]
    queue.advance(math.inf)
    return np.array([each.start - each.arrival for each in prompts])


def decode_waits(tokens: Array, times: Array) -> Array:
    """Seconds that requests wait for the one seat of a rank."""
    one = {"deployment__num_microbatches": 1, "deployment__max_num_seqs": 1}
    arrival = {"process": "poisson", "request_rate": "1 req/s"}
    asked = tiny(2, **one, workload__arrival=arrival)
    cell = lower(asked, seed=0, cost=Stages(attention=1e-3, ffn=1e-3), network=Wires())
    file = Trace(arrival=times, input_len=np.full(len(times), 100), output_len=tokens)
    source = RequestSource(file, None, None, lambda _: np.random.default_rng(0))
    demand = replace(demanded(asked, cell, 0), source=source, num_requests=len(times), overloaded=None)
    requests = execute(cell, demand, "kernel").requests
    return np.asarray(requests.admitted - requests.arrival)


# theory --------------------------------------------------------------------------------------------------------------


def mean_wait(law: Law, load: float) -> float:
    """Mean wait in mean services (Pollaczek 1930, Khinchine 1932)."""
    return load * law.square / (2 * (1 - load) * law.mean**2)


def md1_at_most(load: float, time: float) -> float:
    """Share of M/D/1 waits of at most `time` services (Erlang 1909; Crommelin 1932)."""
    terms = [(load * (k - time)) ** k / math.factorial(k) * math.exp(-load * (k - time)) for k in range(int(time) + 1)]
    return (1 - load) * math.fsum(terms)


def mg1_at_most(law: Law, load: float, times: Array, fine: int = 40) -> Array:
    """Share of M/G/1 waits of at most `times` units (Pollaczek and Khinchine's transform, inverted on a fine lattice).

    A wait is a geometric number of remaining services, each of density P(service > x) / mean service.
    """
    size = 1 << int(np.ceil(np.log2(fine * max(20 * law.square / law.mean / (1 - load), 4 * times.max()))))
    edges = np.maximum(np.arange(size + 1) - 0.5, 0.0) / fine
    remaining = np.zeros(size)
    for service, share in zip(law.services, law.shares, strict=True):
        remaining += share * np.diff(np.minimum(edges, service))
    transform = np.fft.rfft(remaining / law.mean)
    mass = np.fft.irfft((1 - load) / (1 - load * transform), size)
    return np.asarray(np.interp(times, (np.arange(size) + 0.5) / fine, np.cumsum(mass)))


def share_above(series: Array, times: Array) -> tuple[Array, Array]:
    """Share of a correlated series above some times, with 95 % half-widths by batch means."""
    above = [(series > time).astype(float) for time in times]
    return np.array([each.mean() for each in above]), np.array([half_width(each) for each in above])
