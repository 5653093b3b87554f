"""What a reader of the figures should know: what is assumed, what was refused, where a window misleads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Moe
from afdsim.cost.operators import Operator, gather_operator, scatter_operator
from afdsim.cost.roofline import Roofline
from afdsim.engine.admission import Demand
from afdsim.engine.colocated_program import ColocatedProgram
from afdsim.engine.program import Program
from afdsim.engine.record import Record
from afdsim.results import outcome
from afdsim.scenario.document import Scenario

AnyProgram = Program | ColocatedProgram

DRAINED = 0.2
"""Share of the window after the last arrival beyond which rates describe a cluster that runs empty."""


def remarks(scenario: Scenario, program: AnyProgram, demand: Demand, record: Record) -> Iterator[str]:
    """Yield what a reader of the figures should know, one sentence each."""
    yield from (f"{path}: {text}" for path, text in scenario.cautions)
    yield from _of_trace(scenario, demand)
    yield from _assumed_variation(scenario)
    yield from _refused(program, record)
    yield from _short_of_memory(program, record)
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


def _refused(program: AnyProgram, record: Record) -> Iterator[str]:
    refused = sum(record.requests.refused)
    if refused:
        limit = program.deployment.kv_budget / 1e9
        yield f"{refused:,} requests refused: their context never fits the {limit:.1f} GB of KV cache of a rank"


def _short_of_memory(program: AnyProgram, record: Record) -> Iterator[str]:
    deployment, requests = program.deployment, record.requests
    longest = max(map(sum, zip(requests.input_len, requests.output_len, strict=True)), default=1)
    fits, asked = deployment.sequences_that_fit(longest), deployment.max_num_seqs
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


def unmeasured(program: AnyProgram) -> Iterator[str]:
    """Name the kernels that the default cost model knows only from another GPU or by assumption, per GPU."""
    cost, found = Roofline(), dict[tuple[str, str], dict[str, None]]()
    for gpu, operator in _operators(program):
        status = cost.coefficient(operator, gpu).status
        if status != "measured":
            found.setdefault((gpu.name, status), {})[operator.kernel.replace("_", " ")] = None
    if isinstance(program, ColocatedProgram) and program.all_to_all not in ("", "measured"):
        found.setdefault((program.deployment.attention.gpu.name, program.all_to_all), {})["all-to-all"] = None
    for (gpu_name, status), kernels in found.items():
        yield f"kernel times {status}, not measured, on {gpu_name}: {', '.join(kernels)}"


def _operators(program: AnyProgram) -> Iterator[tuple[Gpu, Operator]]:
    """Yield every operator of a pass with its GPU."""
    for pool, work in outcome.work(program, 1.0, 1.0):
        yield from ((pool.gpu, operator) for _, operator in work)
    if isinstance(program, Program):
        yield from ((program.deployment.ffn.gpu, operator) for operator in _nvlink(program))


def _nvlink(program: Program) -> tuple[Operator, Operator]:
    """Return the collectives of an FFN instance, which the shares of peak leave out."""
    llm, gpus = program.deployment.llm, program.deployment.ffn.gpus_per_instance
    top_k = max(layer.ffn.top_k if isinstance(layer.ffn, Moe) else 0 for layer in llm.layers)
    one = np.ones(1)
    return (
        gather_operator(llm, one, gpus=gpus, top_k=top_k, precision=program.deployment.precision),
        scatter_operator(llm, one, gpus=gpus),
    )
