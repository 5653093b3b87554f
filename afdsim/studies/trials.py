"""What a layout gives at its best batch: at most, by a quick measure, and by a whole run.

The three are tried in this order, each on fewer layouts than the one before. *At most* is the envelope of its step
(`cost.envelope`), for every batch that memory holds. A *quick measure* runs a few steps of a full cell (see `tuning`);
from one batch to the next the envelope says where to look, so that two or three measures find the batch. A *run* is
`simulate`, as `afdsim run` has it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Moe
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.experts import Asked
from afdsim.cost.envelope import Busy, Floats, Passes, passes, split
from afdsim.engine.cell import Cell
from afdsim.engine.lowering import deployment, lower
from afdsim.errors import AfdsimError
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.requests import requested
from afdsim.simulation import Engine, demanded
from afdsim.studies.bounding import asked_of, busy, setting, units_of
from afdsim.studies.choosing import Offer
from afdsim.studies.layouts import Layout
from afdsim.studies.points import Models
from afdsim.studies.tuning import (
    ENDLESS,
    FINE,
    LARGEST,
    SAMPLE,
    SKIPPED,
    STEPS,
    SURE,
    InFlight,
    Pace,
    held,
    measured,
)
from afdsim.units import exact

INHERITED = ("mtp", "gpu_memory_utilization", "host_overhead")
"""Keys of the deployment of a question's scenario that every layout has from it."""
MEASURES = 6
"""Quick measures of a layout at most."""
SIGMAS, MEASURED = 3.0, STEPS - SKIPPED
"""Standard deviations that a bound leaves to chance, and steps of a quick measure over which it evens out."""
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Spreads the ages of sequences evenly, whatever their lengths."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every layout."""

    base: Scenario
    """Workload, network, variation, prices: all but the deployment."""
    limit: float | None = None
    """Seconds per output token that may not be exceeded, on average."""
    floor: float | None = None
    """Tokens per GPU and second at least, of which the fastest for a user is sought; else the most tokens."""
    models: Models = field(default_factory=Models)

    def __getstate__(self) -> dict[str, object]:
        """Leave behind what was computed, when other processes are asked."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def scenario(self, layout: Layout, batch: int, **changes: object) -> Scenario:
        """The scenario of a layout with so many sequences for a rank."""
        own = self.base.deployment
        kept = own.model_dump(mode="json", include=set(INHERITED), exclude_defaults=True)
        return self.base.varied({"deployment": layout.sized(batch) | kept, **self._network(layout), **changes})

    def _network(self, layout: Layout) -> dict[str, object]:
        """Of the network of the base what a colocated engine has, the line rate alone; of AFD all."""
        network, line = self.base.network, self.base.network.link.bandwidth
        if layout.deployment["type"] == "afd" or network == tree.Network():
            return {}
        return {"network": {} if line is None else {"link": {"bandwidth": f"{8.0 * line!r}bps"}}}

    def within(self, part: float) -> Question:
        """The same question under a part of its limit."""
        if self.limit is None or self.base.sla is None or self.base.sla.tpot is None:
            return self
        base = self.base.vary("sla.tpot", exact(part * self.base.sla.tpot, "time"))
        return replace(self, base=base, limit=part * self.limit)

    @cached_property
    def lengths(self) -> tuple[Floats, Floats]:
        """Input and output tokens of requests in flight, a sample."""
        source = InFlight(requested(self.base, self.base.run.seeds[0]), SAMPLE)
        input_len, output_len = source.columns(SAMPLE)
        return input_len.astype(float), output_len.astype(float)

    @cached_property
    def contexts(self) -> Floats:
        """Their tokens so far."""
        input_len, output_len = self.lengths
        ages = np.arange(SAMPLE) * GOLDEN % 1.0
        return np.asarray(input_len + ages * (output_len - 1.0))

    @cached_property
    def tokens(self) -> float:
        """Output tokens of a sequence in a step, on average."""
        mtp = self.base.deployment.mtp
        if mtp is None:
            return 1.0
        return sum(mtp.acceptance**kept for kept in range(mtp.draft + 1))

    @cached_property
    def reserved(self) -> dict[int, float]:
        """Bytes of a sequence on one GPU of a rank, by the GPUs of the rank; filled as they are asked for."""
        return {}

    @cached_property
    def priced(self) -> dict[str, Known | str]:
        """What the layouts that differ in their micro-batches alone have in common, of the last that was asked for."""
        return {}

    @cached_property
    def loads(self) -> dict[tuple[Asked, int], dict[Moe, Busy]]:
        """Loads of the busiest GPUs, by whose they are and over how many units; filled as they are asked for."""
        return {}

    @cached_property
    def slack(self) -> float:
        """Share by which a quick measure may be faster than a bound on its mean: three sigma of what varies in it.

        Operations vary by themselves, of which the rarest kind of layers may be all that counts; copies do, at least
        one a layer; and units from step to step. Stragglers may be faster than the rest.
        """
        asked, kinds = self.base.variation, Counter(catalog.llm(self.base.model).layers)
        rarest, layers = min(kinds.values()), kinds.total()
        sigma = math.hypot(asked.step, asked.event / math.sqrt(rarest), asked.link / math.sqrt(layers))
        quickest = min(1.0, *asked.straggler.values(), 1.0)
        return 1.0 - 0.999 * math.exp(-SIGMAS * sigma / math.sqrt(MEASURED)) * quickest

    def luck(self, slots: Floats) -> Floats:
        """Share by which drafts may be luckier than their mean in a quick measure of so many sequences."""
        mtp = self.base.deployment.mtp
        if mtp is None:
            return 0.0 * slots
        reached = np.array([mtp.acceptance**kept for kept in range(1, mtp.draft + 1)])
        square = 1.0 + float((reached * (2.0 * np.arange(1, mtp.draft + 1) + 1.0)).sum())
        deviation = math.sqrt(max(square - self.tokens**2, 0.0)) / self.tokens
        return np.asarray(SIGMAS * deviation / np.sqrt(np.maximum(slots, 1.0) * MEASURED))


class Known(NamedTuple):
    """What layouts that differ in their micro-batches alone have in common."""

    served: Afd | Colocated
    most: int
    """Sequences of a rank that memory holds."""
    passes: Passes
    """As long as the fewest micro-batches that were asked for need."""


class Bound(NamedTuple):
    """What a layout gives at most, by its batch; entry 0 unused."""

    tpot: Floats
    """Seconds per output token at least."""
    rate: Floats
    """Output tokens per second at most."""
    binding: NDArray[np.object_]
    """The resource that binds, by batch."""


def bounded(question: Question, layout: Layout) -> Bound | str:
    """Return what a layout gives at most; or why it cannot be."""
    known = _known(question, layout)
    if isinstance(known, str):
        return known
    m = layout.deployment.get("num_microbatches", known.served.num_microbatches)
    if known.most < m:
        return f"memory holds {known.most} sequences of a rank, {m} micro-batches need as many"
    found = split(known.passes, known.most, m)
    slots = known.served.attention.ranks * np.arange(known.most + 1.0)
    seconds, tokens = found.seconds * (1.0 - question.slack), question.tokens * (1.0 + question.luck(slots))
    seconds[:m] = math.inf  # a micro-batch would be empty
    return Bound(seconds / tokens, slots * tokens / seconds, found.binding)


def _known(question: Question, layout: Layout) -> Known | str:
    """What a layout has in common with those of more micro-batches, priced if it is the first; or why it cannot be."""
    m = layout.deployment.get("num_microbatches", 1)
    name = json.dumps({key: value for key, value in layout.deployment.items() if key != "num_microbatches"})
    known = question.priced.get(name)
    if known is None or (isinstance(known, Known) and m < known.served.num_microbatches):
        question.priced.clear()  # those that have it in common come one after the other
        known = question.priced[name] = _priced(question, layout)
    return known


def _priced(question: Question, layout: Layout) -> Known | str:
    """The same of a layout itself."""
    try:
        scenario = question.scenario(layout, LARGEST)
        served = deployment(scenario)
        served.check_memory()
        told = setting(scenario, served, question.contexts, _loads(question, scenario, served), question.models)
        most = min(int(served.kv_cache.budget // _reserved(question, served)), LARGEST)
        return Known(served, most, passes(served, -(-most // served.num_microbatches), told))
    except AfdsimError as error:
        return str(error).splitlines()[0]


def _reserved(question: Question, served: Afd | Colocated) -> float:
    """Bytes of a sequence on one GPU of a rank."""
    cache = served.kv_cache
    if cache.tp not in question.reserved:
        question.reserved[cache.tp] = held(cache, np.asarray(sum(question.lengths)))
    return question.reserved[cache.tp]


def _loads(question: Question, scenario: Scenario, served: Afd | Colocated) -> dict[Moe, Busy]:
    """Loads of the busiest GPUs of a layout, as its runs have them."""
    units = units_of(scenario, served)
    asked, law = asked_of(served, units), scenario.variation.experts
    if asked is None or law.law == "even":
        return {}
    if (asked, units) not in question.loads:
        ffns = [layer.ffn for layer in served.llm.layers]
        question.loads[asked, units] = busy(ffns, law, asked, units, scenario.run.seeds[0])
    return question.loads[asked, units]


def aimed(question: Question, bound: Bound, scale: float, gpus: int, between: tuple[int, int]) -> int | None:
    """Return the best batch between two (both excluded) if every step took `scale` times its bound; None if none.

    The largest within the limit; or, where a floor of tokens per GPU is given, the smallest that reaches it.
    """
    low, high = between
    batches = np.arange(low + 1, min(high, len(bound.tpot)))
    if question.floor is not None:
        fine = batches[bound.rate[batches] / (scale * gpus) >= question.floor]
        return int(fine[0]) if len(fine) else None
    if question.limit is None:
        return int(batches[-1]) if len(batches) else None
    fine = batches[bound.tpot[batches] * scale <= (SURE if scale != 1.0 else 1.0) * question.limit]
    return int(fine[-1]) if len(fine) else None


def price(name: str, prices: Mapping[str, float]) -> float | None:
    """USD of an hour of a GPU: of the scenario, else of the catalog; None where neither knows."""
    return prices.get(name, catalog.gpu(name).usd_per_hour)


def offered(layout: Layout, rate: float, tpot: float, prices: Mapping[str, float]) -> Offer:
    """What a layout gives, as an offer."""
    hourly = [price(name, prices) for name in layout.gpus]
    counts = list(layout.gpus.values())
    usd = None if None in hourly else sum(n * (each or 0.0) for n, each in zip(counts, hourly, strict=True))
    return Offer(layout.gpus, rate, usd, 1.0 / tpot)


class Measure(NamedTuple):
    """A quick measure of a batch."""

    batch: int
    step: float
    tgs: float
    tpot: float


def searched(question: Question, layout: Layout, bound: Bound) -> list[Measure]:
    """Measure a layout at batches that the bound points to; the best that is fine comes last, nothing if none is."""
    low, high, scale, best, known = 0, len(bound.tpot), 1.0, None, []
    for _ in range(MEASURES):
        batch = aimed(question, bound, scale, layout.count, (low, high))
        if batch is None or (best is not None and abs(batch - best.batch) <= best.batch // FINE):
            break
        found = measure(question, layout, batch)
        if found is None:
            high = batch
            continue
        known.append(found)
        scale = found.tpot / float(bound.tpot[batch])
        enough = fine(question, found)
        best = found if enough else best
        low, high = (batch, high) if enough == (question.floor is None) else (low, batch)
    return [] if best is None else [*(each for each in known if each != best), best]


def measure(question: Question, layout: Layout, batch: int) -> Measure | None:
    """Measure a layout at a batch; None where the scenario refuses it."""
    pace = paced(question, layout, batch)
    return None if pace is None else Measure(batch, pace.step, pace.tgs, pace.tpot)


def fine(question: Question, found: Measure) -> bool:
    """Whether a measure is within the limit for sure, and reaches the floor."""
    within = question.limit is None or found.tpot <= SURE * question.limit
    return within and (question.floor is None or found.tgs >= question.floor)


def paced(question: Question, layout: Layout, batch: int, engine: Engine | None = None) -> Pace | None:
    """Run a few steps of a layout; None where the scenario refuses it."""
    try:
        scenario = question.scenario(layout, batch)
        cell = _lowered(question, scenario)
    except AfdsimError:
        return None
    seed = scenario.run.seeds[0]
    demand = replace(demanded(scenario, cell, seed), num_requests=ENDLESS, warmup=0.0)
    return measured(cell, demand, None, engine)


def _lowered(question: Question, scenario: Scenario) -> Cell:
    models = question.models
    return lower(scenario, seed=scenario.run.seeds[0], cost=models.cost, network=models.network)


def whole(question: Question, layout: Layout, batch: int) -> Scenario:
    """The scenario of a whole run: after its warm-up, two requests for every slot, or as many as are asked for."""
    slots = question.scenario(layout, batch).deployment.slots
    asked = question.base.workload.num_requests or 0
    return question.scenario(layout, batch, **{"workload.num_requests": max(asked, 2 * slots)})


def key(question: Question, layout: Layout, what: str) -> str:
    """A name for the answer to a question about a layout."""
    said: list[Any] = [
        what,
        question.models.key(question.base),
        dict(layout.deployment),
        question.limit,
        question.floor,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
