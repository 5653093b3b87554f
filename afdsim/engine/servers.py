"""Prefill servers of a scenario, lowered: what they are, what their steps cost, and how their KV caches leave."""

from __future__ import annotations

from functools import cache

from afdsim.catalog import entries as catalog
from afdsim.cluster.colocated import Colocated, ExpertParallel, TensorParallel
from afdsim.cluster.deployment import AttentionPool
from afdsim.cluster.prefill import Prefill
from afdsim.cost.roofline import CostModel, Roofline
from afdsim.engine.cell import Cell, model_and_precision
from afdsim.engine.prefill import Pool, Wire
from afdsim.engine.prompts import Prices
from afdsim.engine.reuse import Alike
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.prefilling import Prefill as Asked


def prefill_of(scenario: Scenario, asked: Asked) -> Prefill:
    """Return the prefill servers that a scenario asks for, with catalog entries in place of names."""
    llm, precision = model_and_precision(scenario)
    ways, alone = asked.parallelism, asked.parallelism.dp == 1
    engine = Colocated(
        llm=llm,
        precision=precision,
        attention=AttentionPool(gpu=catalog.gpu(asked.gpu), instances=1, dp=ways.dp, tp=ways.tp),
        experts=TensorParallel(ep=ways.ep) if alone else ExpertParallel(),
        num_microbatches=1,
        max_num_seqs=1,
        gpu_memory_utilization=asked.gpu_memory_utilization,
    )
    return Prefill(
        engine=engine,
        instances=asked.instances,
        chunk=asked.chunk or asked.max_batched_tokens,
        max_batched_tokens=asked.max_batched_tokens,
        two_batch_overlap=asked.two_batch_overlap,
    )


def lower_prefill(scenario: Scenario, cell: Cell, *, cost: CostModel | None = None) -> Pool | None:
    """Return the prefill pool in front of a cell; None where the scenario has none."""
    asked = scenario.servers
    if asked is None:
        return None
    prefill, line = prefill_of(scenario, asked), scenario.network.link.bandwidth
    prefill.check_memory()
    prices = Prices(
        prefill=prefill, cost=cost or Roofline(), nic_scale=line / prefill.gpu.nic.bandwidth if line else 1.0
    )
    return Pool(prices=prices, wire=_wire(scenario, asked, prefill, cell), alike=_alike(cell))


def _alike(cell: Cell) -> Alike | None:
    """Return which prompts begin alike, as decode shares them."""
    keeping = cell.keeping
    return Alike(keeping.prefix, keeping.groups, keeping.block) if keeping.prefix else None


def _wire(scenario: Scenario, asked: Asked, prefill: Prefill, cell: Cell) -> Wire:
    """Return how caches travel: each GPU of a decode rank gets what it keeps, from all NICs of the prefill rank."""
    network, decode = scenario.network, cell.deployment
    here, there = (network.link.bandwidth or gpu.nic.bandwidth for gpu in (prefill.gpu, decode.attention.gpu))
    shared = network.nics_per_instance and network.nics_per_instance.attention
    if shared and isinstance(scenario.deployment, tree.Afd):
        there *= shared / decode.attention.gpus_per_instance
    slower = max(decode.attention.tp / prefill.tp / here, 1.0 / there)
    return Wire(
        nbytes=cache(decode.kv_cache.reserved),
        per_byte=slower / network.efficiency,
        latency=network.link.latency,
        by_layer=len(decode.llm.layers) if asked.overlap == "layers" else 0,
    )
