"""Prefill servers for a plan: how many prompts they carry within a limit of TTFT, and what to put behind them.

A *pod* is some cells that decode, alike, behind some prefill servers, alike. What it carries is the less of what its
cells decode with full batches and of the prompts that its servers compute within the limit. Servers that never wait
carry the most that there can be, and stand for that until they are simulated with prompts that come by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afdsim.catalog import entries as catalog
from afdsim.engine.handover import served
from afdsim.engine.lowering import lower
from afdsim.engine.servers import lower_prefill
from afdsim.errors import AfdsimError
from afdsim.results.metrics import statistic_of
from afdsim.scenario.document import Scenario
from afdsim.scenario.requests import requested
from afdsim.simulation import demanded
from afdsim.studies.choosing import FREE, Objective, Offer, best_of_sizes
from afdsim.studies.guessing import AT_ONCE
from afdsim.studies.layouts import Layout
from afdsim.studies.scaling import scaled
from afdsim.studies.trials import Question, price
from afdsim.studies.tuning import SAMPLE
from afdsim.units import exact

PROMPTS = 64
"""Of a rank, from which its rate without waiting is told."""
FEWEST, MOST = 2_000, 6_000
"""Prompts from which TTFT at a rate is told."""
LASTS = 30.0
"""Times the limit of TTFT for which they come."""
HALVINGS = 7
"""Of the rates between none and that without waiting."""


@dataclass(kw_only=True)
class Servers:
    """Prefill servers of one kind, with what some of them carry."""

    gpu: str
    size: int
    """GPUs of a server."""
    prefill: Mapping[str, Any]
    """Of a scenario, `instances` left out."""
    flood: float
    """Prompts per second of one that never waits."""
    usd: float | None
    """Of an hour of one GPU; None where that is not known."""
    known: dict[int, float] = field(default_factory=dict)
    """Prompts per second within the limit, by servers."""

    def rate(self, count: int) -> float:
        """Prompts per second of some servers, at most where that was not simulated."""
        return self.known.get(count, count * self.flood)

    @property
    def label(self) -> str:
        """``H800 DP8``."""
        ways = self.prefill["parallelism"]
        cut = "x".join(f"{word}{ways[key]}" for key, word in (("dp", "DP"), ("tp", "TP")) if ways[key] > 1)
        return f"{self.gpu} {cut}{', two-batch overlap' if self.prefill.get('two_batch_overlap') else ''}"


class Pod(NamedTuple):
    """Cells behind servers."""

    place: int
    """Of the cells' layout among those of a search."""
    replicas: int
    servers: Servers
    ahead: int
    """Of the servers."""
    rate: float
    """Requests per second."""
    answer: float
    """Output tokens of a request."""

    @property
    def label(self) -> str:
        """``4 x H800 DP8``, the servers."""
        return f"{self.ahead} x {self.servers.label}" if self.ahead > 1 else self.servers.label

    @property
    def gpus(self) -> int:
        """GPUs of the servers."""
        return self.ahead * self.servers.size

    @property
    def tokens(self) -> float:
        """Output tokens per second."""
        return self.rate * self.answer

    def to_dict(self) -> dict[str, Any]:
        """What is in front, as plain data."""
        carried = self.servers.rate(self.ahead)
        return {**self.servers.prefill, "instances": self.ahead, "request_rate": self.rate, "at_most": carried}


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """What is asked of prefill."""

    question: Question
    limit: float
    """Seconds of TTFT, in the statistic of the SLA."""
    percentile: str
    budget: Mapping[str, int]
    decode: tuple[Layout, int]
    """A cell, and its batch, that the caches travel to while servers are simulated alone."""

    @cached_property
    def answer(self) -> float:
        """Output tokens of a request, on average over those that come."""
        source = requested(self.question.base, self.question.base.run.seeds[0])
        return float(source.columns(SAMPLE)[1].mean())

    def ways(self) -> Iterator[Servers]:
        """Yield every kind of server that can hold the model, with what one carries at most."""
        for name, count in self.budget.items():
            size, usd = catalog.gpu(name).gpus_per_server, price(name, self.question.base.cost)
            degrees = [dp for dp in range(1, size + 1) if size % dp == 0] if count >= size else []
            for dp, overlap in product(degrees, (False, True)):
                prefill = _prefill(name, size, dp, overlap=overlap)
                with suppress(AfdsimError):
                    if dp > 1 or not overlap:
                        flood = self._flooded(prefill, dp)
                        yield Servers(gpu=name, size=size, prefill=prefill, flood=flood, usd=usd)

    def refine(self, servers: Servers, count: int) -> None:
        """Find what some servers carry within the limit, prompts coming by chance."""
        low, high = 0.0, count * servers.flood
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._waited(servers, count, middle) <= self.limit else (low, middle)
        servers.known[count] = low
        if not low:  # a prompt that hardly waits takes longer, whatever the number of servers
            servers.flood = 0.0

    def scenario(self, layout: Layout, batch: int, pod: Pod) -> Scenario:
        """The scenario of a pod with requests that come by chance at its rate."""
        base = self.question.base
        sla = {} if base.sla is None else {"tpot": exact(base.sla.limits["tpot"], "time")}
        changes: dict[str, object] = {
            "prefill": {**pod.servers.prefill, "instances": pod.ahead},
            **scaled(base, pod.rate),
            "workload.num_requests": max(FEWEST, base.workload.num_requests or 0),
            "sla": {**sla, "ttft": exact(self.limit, "time"), "percentile": self.percentile},
        }
        if pod.replicas > 1:
            changes["router"] = {"replicas": pod.replicas}
        return self.question.scenario(layout, batch, **changes)

    def _flooded(self, prefill: Mapping[str, Any], ranks: int) -> float:
        """Prompts per second of one server that never waits."""
        done = self._served({**prefill, "instances": 1}, AT_ONCE, PROMPTS * ranks)
        return float(len(done) / done.max())

    def _waited(self, servers: Servers, count: int, rate: float) -> float:
        """TTFT in seconds in the statistic that is limited, at a rate."""
        prompts = int(min(max(FEWEST, rate * LASTS * self.limit), MOST))
        return statistic_of(self._served({**servers.prefill, "instances": count}, rate, prompts), self.percentile)

    def _served(self, prefill: Mapping[str, Any], rate: float, prompts: int) -> NDArray[np.float64]:
        """Seconds from arrival to the first token of some prompts."""
        changes: dict[str, object] = {
            "prefill": dict(prefill),
            **scaled(self.question.base, rate),
            "workload.num_requests": prompts,
        }
        (layout, batch), models = self.decode, self.question.models
        scenario = self.question.scenario(layout, batch, **changes)
        cell = lower(scenario, seed=scenario.run.seeds[0], cost=models.cost, network=models.network)
        pool = lower_prefill(scenario, cell, cost=models.cost)
        assert pool is not None, "servers were asked for"
        done = served(pool, replace(demanded(scenario, cell, scenario.run.seeds[0]), overloaded=None))
        return np.asarray(done.end - done.arrival)


def _prefill(name: str, size: int, dp: int, *, overlap: bool) -> dict[str, Any]:
    """Prefill of a scenario, `instances` left out."""
    ways = {"dp": dp, "tp": size // dp, **({"ep": size} if dp > 1 else {})}
    found = {"gpu": name, "gpus_per_instance": size, "parallelism": ways}
    return found | ({"two_batch_overlap": True} if overlap else {})


def best_pod(
    objective: Objective,
    offers: Mapping[int, Offer],
    every: Sequence[Servers],
    upstream: Upstream,
    demand: float,
) -> Pod | None:
    """Return the best pod within the budget by what cells and servers are known to give; None where there is none."""
    best: tuple[tuple[float, ...], Pod] | None = None
    alike = best_of_sizes(offers, tuple(upstream.budget), [1] * len(upstream.budget))
    offers = {place: offers[place] for place in alike.values()}
    for servers in every:
        most = upstream.budget[servers.gpu] // servers.size
        carried = np.array([servers.rate(count) for count in range(1, most + 1)])
        for place, offer in offers.items():
            found = _best_of(objective, offer, servers, carried, upstream, demand)
            if found is not None and (best is None or found[0] > best[0]):
                score, replicas, count, rate = found
                best = score, Pod(place, replicas, servers, count, rate, upstream.answer)
    return None if best is None else best[1]


def _best_of(
    objective: Objective,
    offer: Offer,
    servers: Servers,
    carried: NDArray[np.float64],
    upstream: Upstream,
    demand: float,
) -> tuple[tuple[float, ...], int, int, float] | None:
    """Return (score, cells, servers, requests per second) of the best pod of a kind of cell and a kind of server."""
    fits = min(upstream.budget[kind] // count for kind, count in offer.gpus.items())
    rates = np.arange(1, fits + 1)[:, None] * (offer.rate / upstream.answer)
    rate = np.minimum(rates, carried[None, :])
    cells, servers_gpus = np.arange(1, fits + 1)[:, None], servers.size * np.arange(1, len(carried) + 1)[None, :]
    mine = cells * offer.gpus.get(servers.gpu, 0) + servers_gpus
    allowed = mine <= upstream.budget[servers.gpu]
    if objective == "gpus":
        allowed &= rate * upstream.answer >= demand
    if not allowed.any():
        return None
    total = cells * offer.total + servers_gpus
    score = np.where(allowed, _score(objective, rate, total, cells, offer, servers), -np.inf)
    row, column = np.unravel_index(int(np.lexsort((total.ravel(), -score.ravel()))[0]), score.shape)
    place = int(row), int(column)
    if score[place] == -np.inf:
        return None
    return (float(score[place]), -float(total[place])), place[0] + 1, place[1] + 1, float(rate[place])


def _score(
    objective: Objective,
    rate: NDArray[np.float64],
    total: NDArray[np.int64],
    cells: NDArray[np.int64],
    offer: Offer,
    servers: Servers,
) -> NDArray[np.float64]:
    """What pods are compared by: more is better."""
    if objective == "goodput":
        return rate
    if objective == "gpus":
        return np.asarray(-total.astype(float))
    if objective == "usd":
        if offer.usd is None or servers.usd is None:
            return np.full(rate.shape, -np.inf)
        hourly = cells * offer.usd + (total - cells * offer.total) * servers.usd
        return np.asarray(rate / np.maximum(hourly, FREE))
    return np.asarray(rate / total)
