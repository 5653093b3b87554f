"""What the independent simulators of `test_oracle` are told: how long things last, and what the deployment looks like.

Only seconds and shapes are read from a cell: its tables, the sources of its turns, its ports' constants. When anything
happens is the simulators' own affair.
"""

import numpy as np

from afdsim.cluster.topology import fabric
from afdsim.engine.cell import Cell
from afdsim.engine.desk import Demand
from afdsim.engine.drafts import SCALE
from afdsim.engine.schedule import ALL_TO_ALL, NOTHING, RANK, ROWS, Compute, Exchange, Source
from afdsim.engine.tables import core_seconds
from afdsim.scenario.document import Scenario


class Durations:
    """Seconds of a cell without jitter, stragglers included; contexts are given by window and rank."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.host = cell, cell.schedule.host
        self.slow = [factor for pool in cell.variation.compute for factor in pool.stragglers]
        self._computes: dict[tuple[str, int], Compute] = {}
        self._messages: dict[tuple[bool, int], Exchange] = {}
        turns = cell.schedule.turns
        for turn in turns:
            if isinstance(turn, Compute):
                self._computes.setdefault((turn.name, turn.layer), turn)
            elif isinstance(turn, Exchange):
                back = turn.held_back if turn.pattern == ALL_TO_ALL else turn.senders.start > 0
                self._messages.setdefault((back, turn.layer), turn)
        self._prices: dict[int, np.ndarray] = {}

    def head(self, u: int, batches: list[int]) -> float:
        return max(float(self.cell.tables.head[batch]) for batch in batches)

    def kv_need(self, context: int) -> float:
        return float(self.cell.deployment.kv_cache.reserved(context))

    def seconds(self, source: Source, unit: int, batches: list[int], contexts: list[list[int]], total: int) -> float:
        """What a source says of a unit."""
        tables = self.cell.tables
        if source.table == NOTHING:
            return 0.0
        if source.table == RANK:
            return max(self._rank(source.row, batch, rank, contexts) for rank, batch in enumerate(batches))
        if source.table == ROWS:
            return float(tables.rows[source.row, max(batches)])
        if total not in self._prices:
            self._prices[total] = self.cell.pricing.of(np.array([total]))[0]
        return float(self._prices[total][int(tables.place[source.row, unit])])

    def _rank(self, kind: int, batch: int, rank: int, contexts: list[list[int]]) -> float:
        tables = self.cell.tables
        if batch == 0:
            return 0.0
        seconds = float(tables.fixed[kind, batch])
        for core in map(int, tables.core[kind]):
            if core < len(tables.core_window):
                seconds += core_seconds(tables, core, batch, contexts[tables.core_window[core]][rank])
        return seconds


class AfdDurations(Durations):
    """As the simulator of AFD asks for them; layers count from 1."""

    def attention(self, layer: int, u: int, batches: list[int], contexts: list[list[int]]) -> float:
        work = self._computes["attention", layer - 1].work
        return self.seconds(work, u, batches, contexts, 0) * self.slow[u]

    def ffn(self, f: int, layer: int, tokens: int) -> float:
        return self._of_tokens("ffn", layer, tokens, f) * self.slow[self.cell.seated + f]

    def gather(self, layer: int, tokens: int) -> float:
        return self._of_tokens("gather", layer, tokens)

    def scatter(self, tokens: int) -> float:
        return self._of_tokens("scatter", 1, tokens)

    def out(self, layer: int, rows: int) -> float:
        return self.seconds(self._messages[False, layer - 1].out, 0, [rows], [], 0)

    def out_in(self, layer: int, rows: int) -> float:
        return self.seconds(self._messages[False, layer - 1].into, 0, [rows], [], 0)

    def back(self, rows: int) -> float:
        return self.seconds(self._messages[True, 0].out, 0, [rows], [], 0)

    def back_in(self, rows: int) -> float:
        return self.seconds(self._messages[True, 0].into, 0, [rows], [], 0)

    def _of_tokens(self, name: str, layer: int, tokens: int, f: int = 0) -> float:
        return self.seconds(self._computes[name, layer - 1].work, self.cell.seated + f, [], [], tokens)


STAGES = ("projections", "attention", "dispatch", "experts", "combine")


class ColocatedDurations(Durations):
    """As the simulator of colocated deployments asks for them; layers count from 0."""

    def stage(
        self, layer: int, stage: int, u: int, batches: list[int], contexts: list[list[int]], total: int
    ) -> tuple[float, float, float]:
        """(work, how long before its end it posts, seconds on the sender's port)"""
        turn, at = self._computes[STAGES[stage], layer], (u, batches, contexts, total)
        work, more, early = (self.seconds(source, *at) for source in (turn.work, turn.more, turn.early))
        posted = self._messages.get((stage == 3, layer)) if stage in (2, 3) else None
        out = 0.0 if posted is None else self.seconds(posted.out, *at)
        return (work * turn.slow + more) * self.slow[u], early * turn.slow * turn.share * self.slow[u], out

    def into(self, layer: int, stage: int, u: int, rows: int, total: int) -> float:
        return self.seconds(self._messages[stage == 3, layer].into, u, [rows], [], total)


def shape(scenario: Scenario, cell: Cell) -> dict[str, object]:
    """The deployment, in the words of the simulators' `Shape`."""
    asked, wiring, deployment = scenario.deployment, cell.wiring, cell.deployment
    afd, dedicated = asked.type == "afd", scenario.network.type == "dedicated"
    rails = fabric(deployment, per_rank=cell.per_rank) if afd and not dedicated else None
    return {
        "layers": len(deployment.llm.layers),
        "micro_batches": cell.micro_batches,
        "units": cell.seated,
        "ranks": cell.ranks,
        "ffns": asked.ffn.instances if afd else 0,
        "rails": rails.rails if rails else 1,
        "rail_of": rails.rail if rails else (0,) * cell.seated,
        "slots": tuple(deployment.micro_batch_slots),
        "windows": cell.windows,
        "drain": afd and asked.boundary == "drain",
        "gap": asked.gap if afd else 0.0,
        "dedicated": dedicated,
        "send": wiring.wait,
        "poll": wiring.poll,
        "latency": wiring.lag + wiring.rest,
        "kv_budget": deployment.kv_budget,
        "scale": SCALE if cell.drafts else 1,
    }


def work(cell: Cell, demand: Demand, requests: int) -> dict[str, object]:
    """What is asked for, in the words of the simulators' `Workload`."""
    input_len, output_len = demand.source.columns(requests)
    return {
        "lengths": list(zip(input_len.tolist(), output_len.tolist(), strict=True)),
        "arrivals": None if demand.closed else demand.source.times(demand.num_requests).tolist(),
        "concurrency": demand.concurrency,
        "num_requests": demand.num_requests,
        "warmup": demand.warmup or 0.0,
        "horizon": demand.horizon,
        "steps_of": cell.drafts.steps if cell.drafts else None,
    }


def stages(cell: Cell) -> list[int]:
    """Stages of every layer of a colocated cell."""
    names = [turn.layer for turn in cell.schedule.turns if isinstance(turn, Compute) and turn.micro_batch == 0]
    return np.bincount(names).tolist()
