"""A lowered deployment: its schedule, and everything that the schedule's sources are looked up in.

What `afd` and `colocated` make of a scenario, and all that engines, books and results know of it. The functions below
are what every lowering needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Core, Layer, Llm, Precision, kept
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd, AttentionPool, FfnPool
from afdsim.cluster.network import Wiring
from afdsim.cost.operators import Operator, core_operator
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.engine import schedule
from afdsim.engine.drafts import SCALE, Drafts, with_drafts
from afdsim.engine.passes import Work
from afdsim.engine.schedule import Compute, Exchange, Schedule, Source
from afdsim.engine.seats import RESERVED, Keeping, Prompting
from afdsim.engine.tables import Tables, chunk_seconds, core_seconds
from afdsim.engine.variation import Jitter, Spike, Variation, Wires
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.streams import Streams

Array = np.ndarray
T = TypeVar("T")
LinkRow = tuple[str, int, int, str, int, float]
"""Pool, instance, rail, direction, messages, bytes of one NIC and direction."""


class Pricing(NamedTuple):
    """Seconds of everything that a micro-batch's tokens cost: a row per number of sequences."""

    most: int
    """Sequences of a full micro-batch."""
    of: Callable[[Array], Array]
    """(sequences,) -> (sequences, entry)"""
    at_once: bool
    """Whether a table of all of them is cheap; else they are asked for one by one."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The GPUs of one role."""

    name: str
    gpus: AttentionPool | FfnPool
    units: range
    ranks: int
    """Of one unit."""
    gpus_per_rank: int
    work: Callable[[float, float], Work]
    """What one GPU does for (sequences of a rank, context of each) in a micro-batch."""
    shares: Callable[..., Array]
    """(sequences of a rank, context of each, prompts beside them where there are any) -> by unit (u, 3): shares of its
    busy time in operations whose slowest rank counts, in those whose slowest GPU counts, and an even load over that
    GPU's."""


BROUGHT = Prompting(False, np.zeros(0, dtype=np.int64), 1, np.zeros(0, dtype=np.int64), 0)
"""Requests bring their context."""


class Extra(NamedTuple):
    """What a pass does for prompts on a rank, beside those that decode; on average."""

    tokens: float
    answers: float
    """Prompts that it ends."""
    sums: Array
    """What their kernels work on (q, column of `cost.prompts.Sums`)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Everything about a deployment that does not change while it runs."""

    deployment: Afd | Colocated
    schedule: Schedule
    pools: tuple[Pool, ...]
    """The first one holds the requests."""
    tables: Tables
    pricing: Pricing
    wiring: Wiring
    variation: Variation
    windows: tuple[int | None, ...]
    drafts: Drafts | None
    per_rank: bool
    """GPU granularity: every attention rank is a unit of its own."""
    links: Callable[[Array, int], list[LinkRow]]
    """(tokens computed by every attention rank, steps) -> every NIC and direction."""
    notes: tuple[tuple[str, str, str], ...] = ()
    """(GPU, status, what) of the exchanges that are not measured."""
    nvlink: tuple[tuple[Gpu, Operator], ...] = ()
    """Collectives that `Pool.work` leaves out."""
    keeping: Keeping = RESERVED
    """How KV cache is given out."""
    prompting: Prompting = BROUGHT
    """How steps compute prompts."""
    prompts: Any = None
    """What that costs (`mixing.Prompts`); None where they compute none."""
    refuses: str | None = None
    """Why the recurrence may not run it, or None."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one unit."""
        return self.schedule.micro_batches

    @property
    def seated(self) -> int:
        """Units that hold requests."""
        return len(self.pools[0].units)

    @property
    def ranks(self) -> int:
        """Attention ranks inside one unit."""
        return self.pools[0].ranks

    @property
    def scale(self) -> int:
        """Contexts are counted in tokens x this."""
        return SCALE if self.drafts else 1

    @property
    def queries(self) -> int:
        """Query tokens of a sequence and step: 1, and one more for every draft."""
        return 1 + (self.drafts.draft if self.drafts else 0)


# lowering ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """What every lowering reads of its scenario."""

    scenario: Scenario
    cost: CostModel
    stream: Streams

    @cached_property
    def drafts(self) -> Drafts | None:
        """Multi-token prediction, if there is any."""
        mtp = self.scenario.deployment.mtp
        return None if mtp is None else Drafts(draft=mtp.draft, acceptance=mtp.acceptance, stream=self.stream)

    @property
    def queries(self) -> int:
        """Query tokens of a sequence and step: rows of everything but the KV cache."""
        return 1 + (self.drafts.draft if self.drafts else 0)

    @property
    def per_rank(self) -> bool:
        """GPU granularity."""
        return self.scenario.run.granularity == "gpu"

    def varied(self, compute: tuple[Jitter, ...], wires: tuple[Wires, ...], *, link: float) -> Variation:
        """What operations and transfers draw."""
        asked = self.scenario.variation
        return Variation(
            stream=self.stream,
            compute=compute,
            wires=wires,
            event=asked.event,
            step=asked.step,
            link=link,
            spike=None if asked.spike is None else spiked(asked.spike),
        )


def spiked(asked: tree.Spike) -> Spike | None:
    """Return the spikes that a scenario asks for; None where they would change nothing."""
    factor, seconds = asked.factor or 1.0, asked.seconds or 0.0
    if asked.probability == 0 or (factor == 1 and seconds == 0):
        return None
    return Spike(probability=asked.probability, factor=factor, seconds=seconds, late=asked.where == "link")


def model_and_precision(scenario: Scenario) -> tuple[Llm, Precision]:
    """What is served: the model with a layer more for every draft, and the precisions of its parts."""
    mtp, asked = scenario.deployment.mtp, scenario.precision
    llm = with_drafts(catalog.llm(scenario.model), mtp.draft if mtp else 0)
    return llm, Precision(ffn=asked.ffn, projections=asked.projections or "", kv_cache=asked.kv_cache)


def table(seconds: Array | float, counts: Array) -> Array:
    """Seconds by count; nothing takes no time."""
    made = np.array(np.broadcast_to(seconds, counts.shape), dtype=float)
    made[0] = 0.0
    return made


def priced(cost: CostModel, gpu: Gpu, operators: Iterable[Operator]) -> Array | float:
    """Seconds of some operators, one after the other."""
    return sum((cost.seconds(operator, gpu) for operator in operators), 0.0)


def distinct(items: Iterable[T]) -> list[T]:
    """Every item once, in order."""
    return list(dict.fromkeys(items))


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """What a rank's own seconds are made of: stages by kind, cores, boundary and messages, by its batch."""

    layers: Sequence[Layer]
    kinds: Sequence[int]
    """Kind of every attention stage of a step."""
    fixed: Sequence[Array]
    """Of each kind, without its core."""
    cores_of: Sequence[tuple[Core, ...]]
    """Of each kind: the cores that it runs."""
    head: Array
    rows: Sequence[Array]

    @property
    def cores(self) -> list[Core]:
        """Different cores."""
        return distinct(core for each in self.cores_of for core in each)

    @property
    def windows(self) -> list[int | None]:
        """Different windows of what cores read and caches keep."""
        kept_too = (kept(mixer) for layer in self.layers for mixer in layer.mixers)
        return distinct((*(core.window for core in self.cores), *kept_too))


def flat(ranks: Ranks, core: Callable[[Core], Any], place: Array, batch_of: Array) -> Tables:
    """Put a rank's seconds into tables; `core` gives the law of a core."""
    cores, windows = ranks.cores, ranks.windows
    most = max(map(len, ranks.cores_of))
    which = np.full((len(ranks.cores_of), max(most, 1)), len(cores))
    for kind, each in enumerate(ranks.cores_of):
        which[kind, : len(each)] = [cores.index(one) for one in each]
    times = np.bincount(np.array(ranks.kinds), minlength=len(ranks.fixed)).astype(float)
    of_core = np.bincount(which.reshape(-1), np.repeat(times, which.shape[1]), minlength=len(cores) + 1)
    laws = [core(each) for each in cores]
    grids = [law for law in laws if not isinstance(law, tuple)]
    begins = np.cumsum([0, *(len(grid) for grid in grids)]).tolist()
    return Tables(
        fixed=np.array(ranks.fixed),
        core=which,
        core_window=np.array([windows.index(each.window) for each in cores]),
        core_law=np.array([law if isinstance(law, tuple) else (0.0,) * 5 for law in laws]),
        core_grid=np.array([-1 if isinstance(law, tuple) else begins.pop(0) for law in laws]),
        grids=np.concatenate(grids) if grids else np.zeros(1),
        fixed_total=times @ np.array(ranks.fixed),
        times_of_core=of_core,
        times_of_kind=times,
        head=ranks.head,
        lookup=np.zeros(1),
        chunk_law=np.zeros((0, 11)),
        chunk_window=np.zeros(0, dtype=np.int64),
        chunk_grid=np.zeros(0, dtype=np.int64),
        rows=np.array(ranks.rows) if len(ranks.rows) else np.zeros((1, len(ranks.head))),
        place=place,
        batch_of=batch_of,
    )


def rank_seconds(
    tables: Tables, windows: Sequence[int | None], batch: int, context: float, queries: int, extra: Extra | None = None
) -> tuple[float, float]:
    """Seconds of a rank's own stages in a pass with so many sequences of so many tokens each, and of its boundary."""
    rows, heads = batch, batch
    cores = [0.0] * len(tables.times_of_core)
    for c, window in enumerate(windows[w] for w in tables.core_window):
        seen = context if window is None else min(context, window)
        read = round(batch * seen * (SCALE if queries > 1 else 1))
        cores[c] = core_seconds(tables, c, batch, read) if batch else 0.0
    if extra is not None:
        rows = min(batch * queries + round(extra.tokens), tables.fixed.shape[1] - 1)  # means are rounded up apart
        heads = min(batch + round(extra.answers), len(tables.head) - 1)
        for p, q in enumerate(tables.chunk_window.tolist()):
            cores[len(tables.core_window) + p] = chunk_seconds(tables, p, extra.sums[q])
    stages = tables.fixed[:, rows] + np.array(cores)[tables.core].sum(axis=1)
    return float(stages @ tables.times_of_kind), float(tables.head[heads])


@dataclass(frozen=True, kw_only=True)
class CoreLaw:
    """The law of core attention over (batch, context sum) under a cost model."""

    deployment: Afd | Colocated
    cost: CostModel
    queries: int

    def __call__(self, core: Core) -> Any:
        """Five numbers of a roofline (`tables.LAW_FIXED` ...), or a grid."""
        return self._roofline(core) if isinstance(self.cost, Roofline) else self._grid(core)

    def _operator(self, core: Core, rows: Any, contexts: Any) -> Operator:
        pool, precision = self.deployment.attention, self.deployment.precision
        return core_operator(core, rows, contexts, precision=precision, tp=pool.tp, query_tokens=self.queries)

    def _roofline(self, core: Core) -> tuple[float, ...]:
        assert isinstance(self.cost, Roofline)
        q, scale = float(self.queries), SCALE if self.queries > 1 else 1
        at = partial(self._operator, core)
        law = self.cost.law(at(q, 1.0), self.deployment.attention.gpu)
        queries, both = at(q, 0.0), at(q, 1.0)
        return (
            law.fixed,
            float(both.flops - queries.flops) * law.per_flop / scale,
            float(queries.flops) * law.per_flop,
            float(both.bytes - queries.bytes) * law.per_byte / scale,
            float(queries.bytes) * law.per_byte,
        )

    def _grid(self, core: Core) -> Array:
        """Seconds on a grid of batches and context sums, made monotone, in the layout of `tables.on_grid`."""
        slots = max(self.deployment.micro_batch_slots)
        batches = lines(1.0, max(slots, 2))
        contexts = np.concatenate([[0.0], lines(1.0, slots * LONGEST)])
        rows, sums = (axis.reshape(-1) for axis in np.meshgrid(batches, contexts, indexing="ij"))
        operator = self._operator(core, rows * self.queries, sums)
        seconds = np.broadcast_to(self.cost.seconds(operator, self.deployment.attention.gpu), rows.shape)
        cells = np.maximum.accumulate(seconds.reshape(len(batches), -1), axis=1)
        cells = np.maximum.accumulate(cells, axis=0)
        scale = SCALE if self.queries > 1 else 1
        head = [float(len(batches)), float(len(contexts))]
        return np.concatenate([head, batches, contexts * scale, cells.reshape(-1)])


LONGEST = 131_072
"""Tokens of context up to which the grid of a core goes, by sequence; beyond it its last slope goes on."""
DENSE = 16
"""Lines of a grid: every whole number up to this, then eight to a doubling."""


def lines(first: float, last: float) -> Array:
    """Lines of a grid from `first` to `last`, both included."""
    doublings = max(0.0, np.log2(last / DENSE))
    near = np.arange(first, min(DENSE, last) + 1)
    far = DENSE * 2.0 ** (np.arange(1, int(np.ceil(8 * doublings)) + 1) / 8)
    return np.unique(np.minimum(np.concatenate([near, np.round(far), [last]]), last))


def lonely_step(cell: Cell) -> float:
    """Seconds of a step of one sequence alone: everything that its micro-batch waits for, one after the other."""
    tables, wiring = cell.tables, cell.wiring
    prices = cell.pricing.of(np.array([1]))[0]

    def seconds(source: Source, unit: int) -> float:
        match source.table:
            case schedule.RANK:
                return float(tables.fixed[source.row, 1]) + _core(tables, source.row)
            case schedule.ROWS:
                return float(tables.rows[source.row, 1])
            case schedule.TOKENS:
                return float(prices[int(tables.place[source.row, unit])])
        return 0.0

    total = float(tables.head[1]) + cell.schedule.host
    for turn in cell.schedule.turns:
        if isinstance(turn, Compute) and turn.batch == 0:
            total += seconds(turn.work, turn.units.start) * turn.slow + turn.pause
        elif isinstance(turn, Exchange) and turn.batch == 0:
            path = wiring.wait + wiring.lag + wiring.between + wiring.rest + wiring.poll
            total += seconds(turn.out, turn.senders.start) + path
    return total


def _core(tables: Tables, kind: int) -> float:
    """Seconds of the cores of a kind of stage for one sequence without a context."""
    cores = (int(core) for core in tables.core[kind])
    return sum(core_seconds(tables, core, 1, 0) for core in cores if core < len(tables.core_window))
