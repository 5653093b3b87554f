"""What a reader of the figures should know: what is assumed, what was refused, where a window misleads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from afdsim.catalog.hardware import Gpu
from afdsim.cost.operators import Operator
from afdsim.cost.roofline import Roofline
from afdsim.engine.cell import Cell
from afdsim.engine.desk import Demand
from afdsim.engine.record import Record
from afdsim.scenario.document import Scenario

DRAINED = 0.2
"""Share of the window after the last arrival beyond which rates describe a cluster that runs empty."""


def remarks(scenario: Scenario, cell: Cell, demand: Demand, record: Record) -> Iterator[str]:
    """Yield what a reader of the figures should know, one sentence each."""
    yield from (f"{path}: {text}" for path, text in scenario.cautions)
    yield from _of_trace(scenario, demand)
    yield from _assumed_variation(scenario)
    yield from _refused(cell, record)
    yield from _short_of_memory(cell, record)
    yield from _drained(demand, record)


def _of_trace(scenario: Scenario, demand: Demand) -> Iterator[str]:
    """Say what the reader of a trace had to do, without the folder of the file."""
    trace = scenario.workload.trace
    if trace is not None:
        yield from (note.replace(trace.path, Path(trace.path).name) for note in demand.source.notes)


def _assumed_variation(scenario: Scenario) -> Iterator[str]:
    assumed = [f"{key} {value:g}" for key in ("event", "step") if (value := getattr(scenario.variation, key))]
    if assumed:
        yield f"assumed variation (sigma of lognormal multipliers): {', '.join(assumed)}"


def _refused(cell: Cell, record: Record) -> Iterator[str]:
    refused = int(record.requests.refused.sum())
    if refused:
        limit = cell.deployment.kv_budget / 1e9
        yield f"{refused:,} requests refused: their context never fits the {limit:.1f} GB of KV cache of a rank"


def _short_of_memory(cell: Cell, record: Record) -> Iterator[str]:
    deployment, requests = cell.deployment, record.requests
    longest = int(max(requests.input_len + requests.output_len, default=1))
    fits, asked = deployment.kv_cache.sequences(longest), deployment.max_num_seqs
    if fits < asked:
        yield f"KV cache of a rank holds {fits:,} of max_num_seqs {asked:,} at the longest context, {longest:,}"


def _drained(demand: Demand, record: Record) -> Iterator[str]:
    """Say that an open loop's rates hold a long time without arrivals."""
    if demand.closed or not len(record.requests):
        return
    (start, end), last = record.window, record.requests.arrival[-1]
    if end - last > DRAINED * (end - start):
        yield (
            f"the last request came at {last:,.1f} s and the window ends at {end:,.1f} s: "
            "rates and busy shares are low because the cluster runs empty in between"
        )


# coefficients -------------------------------------------------------------------------------------------------------


def unmeasured(cell: Cell) -> Iterator[str]:
    """Name the kernels that the default cost model knows only from another GPU or by assumption, per GPU."""
    cost, found = Roofline(), dict[tuple[str, str], dict[str, None]]()
    for gpu, operator in _operators(cell):
        status = cost.coefficient(operator, gpu).status
        if status != "measured":
            found.setdefault((gpu.name, status), {})[operator.kernel.replace("_", " ")] = None
    for gpu_name, status, what in cell.notes:
        found.setdefault((gpu_name, status), {})[what] = None
    for (gpu_name, status), kernels in found.items():
        yield f"kernel times {status}, not measured, on {gpu_name}: {', '.join(kernels)}"


def _operators(cell: Cell) -> Iterator[tuple[Gpu, Operator]]:
    """Yield every operator of a pass with its GPU."""
    for pool in cell.pools:
        yield from ((pool.gpus.gpu, operator) for _, operator in pool.work(1.0, 1.0))
    yield from cell.nvlink
