"""What the envelope of a layout needs of a scenario: its network, its jitter, and the loads of its experts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from afdsim.catalog.llm import Moe
from afdsim.cluster import experts as routing
from afdsim.cluster.colocated import Colocated, ExpertParallel
from afdsim.cluster.deployment import Afd
from afdsim.cluster.experts import Load
from afdsim.cluster.topology import rails_between
from afdsim.cost.envelope import Busy, Floats, Setting
from afdsim.cost.loads import floors, typical
from afdsim.engine import fabrics
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.streams import Streams
from afdsim.studies.points import Models

Loads = Sequence[Sequence[Load]]
"""Of the busiest GPU of every unit and MoE layer."""


def setting(
    scenario: Scenario, served: Afd | Colocated, contexts: Floats, loads: Mapping[Moe, Busy], models: Models
) -> Setting:
    """Return what the envelope needs of a scenario beside its deployment; `contexts` is a sample of those in flight.

    Of a network of the caller's nothing is known but the latency: its bytes may take no time.
    """
    asked, network, mtp = scenario.deployment, scenario.network, scenario.deployment.mtp
    foreign = isinstance(served, Afd) and models.network is not None
    line = math.inf if foreign else network.link.bandwidth
    return Setting(
        contexts=contexts,
        queries=1 + (mtp.draft if mtp else 0),
        groups=asked.attention.groups if isinstance(asked, tree.Afd) else 1,
        pause=asked.host_overhead,
        overhead=getattr(asked, "framework_overhead", 0.0) / served.num_microbatches,
        latency=network.link.latency + network.synchronise + network.post + network.poll,
        bandwidth=line and line * network.efficiency,
        efficiency=network.efficiency,
        sharing=rails_between(served, fabrics.cabling(network)).sharing if isinstance(served, Afd) else (1, 1),
        jitter=math.hypot(scenario.variation.event, scenario.variation.step),
        link=scenario.variation.link,
        in_order=network.type == "ports",
        alone=network.type == "dedicated",
        overlaps=isinstance(asked, tree.Colocated) and asked.single_batch_overlap,
        all_to_all=asked.all_to_all if isinstance(asked, tree.Colocated) else "low_latency",
        loads=loads,
        cost=models.cost,
    )


def units_of(scenario: Scenario, served: Afd | Colocated) -> int:
    """Return over how many units the loads of a run are told apart: those that the engines wait for."""
    if isinstance(served, Afd):
        return served.ffn.instances if served.ffn.across == "experts" else 1
    pool = served.attention
    return pool.ranks if scenario.run.granularity == "gpu" else pool.instances


def asked_of(served: Afd | Colocated, units: int) -> routing.Asked | None:
    """Return whose loads a run draws; None where nothing is routed."""
    moes = [layer.ffn for layer in served.llm.layers if isinstance(layer.ffn, Moe)]
    if not moes:
        return None
    return routing.Asked(
        experts=moes[0].experts,
        layers=len(moes),
        ranks=served.ffn.ep * units if isinstance(served, Afd) else served.expert_gpus,
        top_k=moes[0].top_k,
        copies=_copies(served),
    )


def _copies(served: Afd | Colocated) -> int:
    experts = None if isinstance(served, Afd) else served.experts
    return experts.redundant if isinstance(experts, ExpertParallel) else 0


def busy(ffns: Iterable[object], law: routing.Law, asked: routing.Asked, units: int, seed: int) -> dict[Moe, Busy]:
    """Return the loads of layers by their experts, as a run of a seed draws them."""
    moes = [ffn for ffn in ffns if isinstance(ffn, Moe)]
    rows, places = routing.slowest(law, asked, units, Streams(seed)), dict[Moe, list[int]]()
    for place, ffn in enumerate(moes):
        places.setdefault(ffn, []).append(place)
    return {ffn: _summed(rows, own) for ffn, own in places.items()}


def _summed(rows: Loads, places: Sequence[int]) -> Busy:
    """The loads of some layers."""
    score = lru_cache(maxsize=None)(typical)
    own = [[row[place] for place in places] for row in rows]
    columns = list(zip(*own, strict=True))
    return Busy(
        one=floors(max(own, key=lambda row: sum(map(score, row)))),
        every=floors([max(column, key=score) for column in columns]),
        least=floors([min(column, key=score) for column in columns]),
    )
