"""What a reader of the figures should know: what is assumed, what was refused, where a window misleads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu, foreign_formats
from afdsim.catalog.llm import Llm
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.degrees import crossings
from afdsim.cluster.deployment import Afd
from afdsim.cost.operators import Operator
from afdsim.cost.roofline import STATUSES, Roofline
from afdsim.engine.cell import Cell
from afdsim.engine.desk import Demand
from afdsim.engine.prefill import Pool
from afdsim.engine.record import Record
from afdsim.results import conversed
from afdsim.scenario.document import Scenario
from afdsim.scenario.tree import Spike
from afdsim.units import show_many, show_time
from afdsim.workload.laws import Recorded, RequestSource

BEYOND = "(max_position_embeddings)"
"""Mark of a remark on requests that are too long for the model."""

LATE = 0.05
"""Share of the requests that finish while the cluster empties from which a reader should know."""


KERNELS: Mapping[str, str] = MappingProxyType(
    {
        "all_gather": "all-gather",
        "all_reduce": "all-reduce",
        "all_to_all": "all-to-all",
        "bmm": "batched GEMM",
        "core_gqa": "core attention (GQA)",
        "core_index": "sparse attention's indexer",
        "core_linear": "linear attention",
        "core_mfa": "core attention (MFA)",
        "core_mla": "core attention (MLA)",
        "core_mqa": "core attention (MQA)",
        "gemm": "GEMM",
        "grouped_gemm": "grouped GEMM",
        "reduce": "reduction",
        "reduce_scatter": "reduce-scatter",
        "small": "element-wise kernels",
    }
)
"""Kernels of the coefficient table in words; the others are words."""


def remarks(scenario: Scenario, cell: Cell, demand: Demand, record: Record) -> Iterator[str]:
    """Yield what a reader of the figures should know, one sentence each."""
    yield from (f"{path}: {text}" for path, text in scenario.cautions)
    yield from of_trace(scenario, demand.source)
    yield from of_model(catalog.llm(scenario.model))
    first = record.requests if record.sessions is None else np.unique(record.sessions.session)
    yield from beyond(scenario, demand.source, len(first))
    yield from _repeated(scenario, demand, record)
    yield from _assumed_variation(scenario)
    yield from _assumed_failures(scenario)
    yield from _assumed_swaps(scenario, cell)
    yield from conversed.remarks(scenario, cell)
    yield from _refused(cell, record)
    yield from _short_of_memory(cell, record)
    yield from _warm_up(demand, record)


def of_trace(scenario: Scenario, source: RequestSource) -> tuple[str, ...]:
    """Say as what a trace was read, and then what its reader had to do; without the folder of the file."""
    trace, file = scenario.workload.trace, source.file
    if trace is None or file is None:
        return ()
    told, *notes = (note.replace(trace.path, Path(trace.path).name) for note in (file.told, *file.notes))
    return (told, *notes)


def of_model(llm: Llm) -> Iterator[str]:
    """Say what the file of a model holds that is not modelled, or leaves to defaults."""
    yield from (f"{llm.name}: {note}" for note in llm.notes)


def beyond(scenario: Scenario, source: RequestSource, count: int) -> Iterator[str]:
    """Say how many of the first `count` requests are longer than the model was made for."""
    llm = catalog.llm(scenario.model)
    if llm.positions is None:
        return
    inputs, outputs = source.columns(count)
    whole = inputs + outputs
    if over := int((whole > llm.positions).sum()):
        yield (
            f"{over:,} of {count:,} requests are longer than the {llm.positions:,} tokens that {llm.name} was made for "
            f"{BEYOND}, the longest {int(whole.max()):,}: engines refuse them"
        )


def _repeated(scenario: Scenario, demand: Demand, record: Record) -> Iterator[str]:
    """Say that lengths of a file, to which a law gives arrivals, were used more than once."""
    trace, file, used = scenario.workload.trace, demand.source.file, len(record.requests)
    if trace is not None and isinstance(file, Recorded) and used > len(file):
        yield f"{Path(trace.path).name}: its {len(file):,} lengths start again from the first: {used:,} requests came"


def _assumed_variation(scenario: Scenario) -> Iterator[str]:
    assumed = [f"{key} {value:g}" for key in ("event", "step") if (value := getattr(scenario.variation, key))]
    if assumed:
        yield f"variation as the scenario states it (sigma of lognormal multipliers): {', '.join(assumed)}"
    if (spike := scenario.variation.spike) is not None and spike.probability:
        yield f"assumed spikes: {_spike(spike)}"
    slow = [f"{target} x{factor:g}" for target, factor in scenario.variation.straggler.items() if factor != 1]
    if slow:
        yield f"assumed stragglers (factor on the operations of every layer): {', '.join(slow)}"


def _spike(spike: Spike) -> str:
    """Return ``an operation takes 5.00 ms longer with probability 0.0001``."""
    time, rare = show_time(spike.seconds or 0.0), f"with probability {spike.probability:g}"
    if spike.factor is not None:
        return f"an operation takes {spike.factor:g} times as long {rare}"
    if spike.where == "link":
        return f"the rows of an operation are posted {time} later {rare}"
    return f"an operation takes {time} longer {rare}"


def _assumed_failures(scenario: Scenario) -> Iterator[str]:
    """Say which times of crashes and repairs nobody gave."""
    if scenario.failures is None:
        return
    given, asked = scenario.origins("failures"), scenario.failures
    own = {"repair": any(event.repair is None for event in asked.events) or asked.mtbf is not None, "restart": True}
    assumed = [f"{key} {getattr(asked, key):g} s" for key, used in own.items() if used and key not in given]
    if assumed:
        yield f"assumed of failures, not given: {', '.join(assumed)}"


def _assumed_swaps(scenario: Scenario, cell: Cell) -> Iterator[str]:
    """Say how fast contexts go to host memory, where nobody said."""
    if cell.keeping.swaps and scenario.kv_cache is not None and scenario.kv_cache.host_bandwidth is None:
        gpu, rate = cell.deployment.attention.gpu.name, cell.keeping.pace / 1e9
        yield f"assumed of preemption, not given: {rate:g} GB/s to host memory, the line rate of {gpu}'s PCIe slot"


def _refused(cell: Cell, record: Record) -> Iterator[str]:
    refused = int(record.requests.refused.sum())
    if refused:
        limit = cell.deployment.kv_budget / 1e9
        yield (
            f"{show_many(refused, 'request')} refused: {'its' if refused == 1 else 'their'} context never fits the "
            f"{limit:.1f} GB of KV cache of a rank"
        )


def _short_of_memory(cell: Cell, record: Record) -> Iterator[str]:
    deployment, requests = cell.deployment, record.requests
    longest = int(max(requests.input_len + requests.output_len, default=1))
    fits, asked = deployment.kv_cache.sequences(longest), deployment.max_num_seqs
    if fits < asked and not cell.keeping.grows:
        yield f"KV cache of a rank holds {fits:,} of max_num_seqs {asked:,} at the longest context, {longest:,}"


def _warm_up(demand: Demand, record: Record) -> Iterator[str]:
    """Say where the measurement is not of a steady cluster, or not of the part that was asked for."""
    end = record.window[1]
    if demand.stop is not None and demand.given != demand.warmup:
        yield (
            f"run.warmup {demand.warmup:,.4g} s is not before the last arrival at {demand.stop:,.4g} s: "
            "where the warm-up ends was found instead"
        )
    yield from _cut_short(demand, record)
    yield from _of_arrivals(demand, record)
    if demand.closed and record.window[0] == 0.0:
        yield f"the warm-up had not ended at {end:,.4g} s: everything is measured, and the batch is not what it becomes"
    if not demand.closed and demand.stop is None and len(record.requests) > 1:
        unused = ", and run.warmup is not used" if demand.warmup else ""
        yield f"all requests come at once: rates are those of the whole batch, until the last one has finished{unused}"


def _cut_short(demand: Demand, record: Record) -> Iterator[str]:
    """Say that the run ended before its requests did, by its own limit or because somebody stopped it."""
    table = record.requests
    there = np.isnan(table.finish) & np.isnan(table.lost) & ~table.refused & table.counted
    asked = demand.closed and int(table.counted.sum()) < demand.num_requests
    if record.ended >= demand.horizon and there.any():
        yield (
            f"{int(there.sum()):,} of {int(table.counted.sum()):,} requests had not finished at run.stop.max_sim_time: "
            "latencies are those of the others"
        )
    elif record.overloaded:
        waits = int(np.isnan(table.admitted[there]).sum())
        yield (
            f"overloaded: the run ended with its last arrival, at {record.ended:,.4g} s, when {waits:,} requests "
            f"waited and {int(there.sum()) - waits:,} were in flight: latencies are those of the others, and would go "
            "on growing"
        )
    elif record.ended < demand.horizon and (there.any() or asked):
        yield f"stopped at {record.ended:,.4g} s: {int((~np.isnan(table.finish)).sum()):,} requests had finished"


def _of_arrivals(demand: Demand, record: Record) -> Iterator[str]:
    """Say how many requests of an open loop came in the warm-up, and how many left after the last arrival."""
    table, (start, end) = record.requests, record.window
    early = int((table.arrival < start).sum())
    if early and demand.given is None and demand.stop is not None:
        yield f"the warm-up was found to end at {start:,.4g} s: {early:,} of {len(table):,} requests came in it"
    missed = sum(outage.at < start for outage, _ in record.outages or ())
    if missed:
        yield (
            f"{missed:,} of {len(record.outages or ()):,} outages began in the warm-up: what they did to latencies and "
            "rates is not in the window; run.warmup ends it earlier"
        )
    late = (table.arrival >= start) & (table.arrival <= end) & (table.finish > end)
    share = float(late.sum()) / max(int((table.arrival >= start).sum()), 1)
    if demand.stop is not None and share > LATE:
        yield (
            f"{share:.0%} of the requests that count finished after the last arrival, in a cluster that empties: "
            "their TPOT may be lower than under the load"
        )


# coefficients -------------------------------------------------------------------------------------------------------


def unmeasured(cell: Cell, prefill: Pool | None = None) -> Iterator[str]:
    """Say which formats a GPU lacks, and which kernels were not measured on the GPU that runs them, weakest first."""
    yield from lacking(cell.deployment)
    families = {pool.gpus.gpu.name: pool.gpus.gpu.family for pool in cell.pools}
    found = dict[tuple[str, str, str], dict[str, None]]()
    for cost, gpu, operator in chain(_operators(cell), _of_prompts(prefill), _mixed(cell)):
        row = cost.coefficient(operator, gpu)
        kind = (row.status, gpu.name, row.lender if row.status == "family" else "")
        found.setdefault(kind, {})[KERNELS.get(operator.kernel, operator.kernel)] = None
    for gpu_name, status, what in cell.notes:
        found.setdefault((status, gpu_name, families[gpu_name] if status == "family" else ""), {})[what] = None
    for kind in sorted(found, key=lambda kind: -STATUSES.index(kind[0])):
        yield from _told(*kind, list(found[kind]))
    yield from _without_effect(cell)


def lacking(deployment: Afd | Colocated) -> list[str]:
    """Return a sentence for every format and every NVLink that `deployment` would need and its GPUs lack."""
    ffn = deployment.ffn.gpu if isinstance(deployment, Afd) else deployment.attention.gpu
    formats = foreign_formats(deployment.llm, deployment.precision, attention=deployment.attention.gpu, ffn=ffn)
    return [*formats, *crossings(deployment)]


def _told(status: str, gpu: str, lender: str, kernels: list[str]) -> Iterator[str]:
    """Say where the numbers of `kernels` on `gpu` come from; a sibling's are counted, weaker ones named."""
    if status == "family":
        count = f"{len(kernels)} kernel{'s' if len(kernels) > 1 else ''}"
        yield f"{gpu}: {count} priced by {lender}'s measured tables (same family)"
    elif status != "measured":
        yield f"kernel times {status}, not measured, on {gpu}: {', '.join(kernels)}"


def _without_effect(cell: Cell) -> Iterator[str]:
    """Name the kernel libraries that are preferred and price nothing, so that the defaults do."""
    for pool in cell.pools:
        path = "deployment.kernels" if pool.name == "colocated" else f"deployment.{pool.name}.kernels"
        gpu, cost = pool.gpus.gpu, Roofline(backends=pool.gpus.kernels)
        used = {cost.coefficient(operator, gpu).backend for _, operator in pool.work(1.0, 1.0)}
        if idle := [name for name in pool.gpus.kernels if name not in used]:
            yield f"{path}: no kernel of {', '.join(idle)} was measured for what {gpu.name} runs here, in its formats"


def _of_prompts(prefill: Pool | None) -> Iterator[tuple[Roofline, Gpu, Operator]]:
    """Yield every operator of a prefill step."""
    if prefill is not None:
        prices = prefill.prices
        yield from ((Roofline(), prices.prefill.gpu, operator) for operator in prices.operators())


def _mixed(cell: Cell) -> Iterator[tuple[Roofline, Gpu, Operator]]:
    """Yield every operator that prompts have inside decode steps."""
    if cell.prompts is not None:
        pool = cell.deployment.attention
        yield from ((Roofline(backends=pool.kernels), pool.gpu, each) for each in cell.prompts.operators())


def _operators(cell: Cell) -> Iterator[tuple[Roofline, Gpu, Operator]]:
    """Yield every operator of a pass with its GPU and what prices it."""
    for pool in cell.pools:
        cost = Roofline(backends=pool.gpus.kernels)
        yield from ((cost, pool.gpus.gpu, operator) for _, operator in pool.work(1.0, 1.0))
    yield from ((Roofline(), gpu, operator) for gpu, operator in cell.nvlink)
