"""What a cluster might carry, by quick measures: where a search for its capacity begins.

Decode is measured over a few steps with every slot taken, or with as many sequences as keep the mean TPOT within the
limit; prefill servers compute a few prompts at full speed. The least of these rates is the guess. It knows nothing of
queues, bursts and percentiles, so it is the begin of a search, never an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from afdsim.cluster.network import Network
from afdsim.cost.checked import checked_cost, checked_network
from afdsim.cost.roofline import CostModel
from afdsim.engine.cell import Cell
from afdsim.engine.desk import Demand
from afdsim.engine.handover import served
from afdsim.engine.lowering import lower
from afdsim.engine.servers import lower_prefill
from afdsim.errors import CapacityError
from afdsim.scenario.document import Scenario
from afdsim.scenario.requests import requested
from afdsim.simulation import demanded, placed
from afdsim.studies.scaling import at_rate
from afdsim.studies.tuning import ENDLESS, Pace, measured
from afdsim.workload.laws import Ints, RequestSource

SAMPLE = 4096
"""Requests over whose lengths is averaged."""
PROMPTS = 32
"""That a prefill rank computes to be measured."""
HALVINGS = 8
"""Of an interval of batches, until TPOT is near enough to its limit for a guess."""
AT_ONCE = 1e9
"""Requests per second at which they all come at once."""


class Guess(NamedTuple):
    """What a search begins with."""

    rate: float
    """Arrivals per second: requests, or sessions, or prompts of several answers."""
    visit: float
    """Mean seconds from an arrival to its last token; of sessions, of their last turn."""


class Repeated(RequestSource):
    """Lengths of the requests of a source, which start again after the last of a trace."""

    def __init__(self, source: RequestSource) -> None:
        self.size, self.notes, self._source = source.size, source.notes, source

    def columns(self, n: int) -> tuple[Ints, Ints]:
        """(input_len, output_len) of the first `n` requests."""
        input_len, output_len = self._source.columns(min(n, self.size or n))
        return np.resize(input_len, n), np.resize(output_len, n)


@dataclass(frozen=True, kw_only=True)
class Quick:
    """A scenario, and the models that price it in place of afdsim's own."""

    scenario: Scenario
    cost: CostModel | None = None
    network: Network | None = None

    def guess(self) -> Guess:
        """Return the rate that might be carried, and how long an answer takes then."""
        found = [self.pace(cell) for cell in self._plain]
        tokens = sum(cell.deployment.gpus * each.tgs for cell, each in zip(self._plain, found, strict=True))
        turns, visit = self._visits(max(each.tpot for each in found))
        rate = tokens / self.answer / turns
        return Guess(min([rate, *self._prefill()]), visit)

    @property
    def slots(self) -> int:
        """Sequences that may sit in all cells."""
        return sum(cell.deployment.slots for cell in self.cells)

    @property
    def sequences(self) -> float:
        """Sequences of a closed loop that keep the mean TPOT within the limit; as many as have slots if all do."""
        found = self.pace(self._plain[0])
        return found.tgs * self.cells[0].deployment.gpus * found.tpot

    @cached_property
    def seed(self) -> int:
        """The first of the scenario's."""
        return self.scenario.run.seeds[0]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell; those that are alike are one object."""
        return self._lowered({})

    @cached_property
    def _plain(self) -> list[Cell]:
        """The same for requests that stand alone, as a quick measure asks for."""
        asked = self.scenario.workload
        alone = ("sessions", "samples", "prefix")
        gone: dict[str, object] = {f"workload.{key}": None for key in alone if getattr(asked, key) is not None}
        if not gone:
            return self.cells
        return self._lowered({**gone, **({} if self.scenario.router is None else {"router.policy": "round_robin"})})

    def _lowered(self, changes: Mapping[str, object]) -> list[Cell]:
        found: list[Cell] = []
        for part in self.scenario.varied(changes).parts:
            try:
                cell = lower(part, seed=self.seed, cost=checked_cost(self.cost), network=checked_network(self.network))
            except CapacityError as error:
                raise placed(error, part) from None
            found += [cell] * (1 if part.router is None else part.router.count)
        return found

    @cached_property
    def source(self) -> RequestSource:
        """Lengths of requests, of sessions those of the first turn."""
        return Repeated(requested(self.scenario, self.seed))

    @cached_property
    def answer(self) -> float:
        """Mean output tokens of a request."""
        return float(self.source.columns(SAMPLE)[1].mean())

    @cached_property
    def limit(self) -> float:
        """Seconds of the mean TPOT beyond which no SLA could be met; infinite where none limits it."""
        classes = self.scenario.workload.classes or ()
        every = [sla.limits for sla in (self.scenario.sla, *(each.sla for each in classes)) if sla is not None]
        whole = [limits["e2el"] / self.answer for limits in every if "e2el" in limits]
        return min([limits["tpot"] for limits in every if "tpot" in limits] + whole, default=float("inf"))

    def pace(self, cell: Cell) -> Pace:
        """Measure a cell with as many sequences as have slots, or as keep TPOT within the limit."""
        high, best = float(cell.deployment.slots), self.measured(cell, cell.deployment.slots, None)
        if best.tpot <= self.limit:
            return best
        low, found = 1.0, best
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            found = self.measured(cell, round(middle), found)
            if found.tpot <= self.limit:
                low, best = middle, found
            else:
                high = middle
        return best if best.tpot <= self.limit else found

    def measured(self, cell: Cell, sequences: int, like: Pace | None) -> Pace:
        """Measure a cell with so many sequences in flight."""
        demand = Demand(source=self.source, closed=True, num_requests=ENDLESS, concurrency=sequences, warmup=0.0)
        return measured(cell, demand, like)

    def _visits(self, tpot: float) -> tuple[float, float]:
        """(requests of an arrival, seconds that it takes) at a TPOT."""
        asked = self.scenario.workload
        if asked.sessions is None:
            return float(asked.samples or 1), self.answer * tpot
        plan = self._demand(SAMPLE).sessions
        assert plan is not None, "the scenario has sessions"
        turns = plan.first_requests(SAMPLE)
        lasts = np.bincount(turns.session, turns.output_len * tpot + turns.think)
        return len(turns) / len(turns.cut), float(lasts.mean())

    def _prefill(self) -> Iterator[float]:
        """Yield the prompts per second of prefill servers, where there are any."""
        pool = lower_prefill(self.scenario.parts[0], self.cells[0], cost=checked_cost(self.cost))
        if pool is not None:
            done = served(pool, self._demand(PROMPTS * pool.ranks))
            yield len(done.end) / float(done.end.max())

    def _demand(self, requests: int) -> Demand:
        """So many requests that all come at once."""
        few = self.scenario.varied({"workload.num_requests": requests, "workload.duration": None})
        asked = at_rate(few, AT_ONCE)
        return replace(demanded(asked, self.cells[0], self.seed), overloaded=None)
