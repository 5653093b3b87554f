"""Operators of a run: what one layer and one boundary compute at the batch and context that its ranks had."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from afdsim.catalog import entries as catalog
from afdsim.cost.anatomy import Part, explain_deployment
from afdsim.engine.lowering import deployment
from afdsim.results.metrics import Columns, Run, column, counted
from afdsim.scenario.document import Scenario

COLUMNS = ("stage", "name", "kernel", "gpu", "dtype", "flops", "bytes", "seconds", "bound", "status", "source")


def operators(scenario: Scenario, run: Run) -> Columns:
    """Return every operator of the usual layer and of a boundary on one GPU, at the mean batch of a micro-batch.

    The columns are those of `cost.anatomy.Part`; `peak_flops` and `bandwidth` of the GPU, per second; and `per_step`,
    how often a step has it if all layers were alike. What the network moves between the roles is not among them. Of
    cells that differ, it is the scenario's own deployment.
    """
    found = deployment(scenario)
    parts = explain_deployment(found, batch=_batch(run, found.attention.dp), context=_context(run)).parts
    own = {name: np.array([asdict(part)[name] for part in parts]) for name in COLUMNS}
    own["per_step"] = np.where(own["stage"] == "boundary", 1, len(found.llm.layers)) * found.num_microbatches
    return own | {name: np.array([peak(part)[at] for part in parts]) for at, name in enumerate(PEAKS)}


PEAKS = ("peak_flops", "bandwidth")


def peak(part: Part) -> tuple[float, float]:
    """FLOP/s of an operator's dtype and bytes/s of HBM of its GPU."""
    gpu = catalog.gpu(part.gpu)
    return gpu.peak(part.dtype), gpu.memory_bandwidth


def _batch(run: Run, ranks: int) -> int:
    """Sequences of a rank in a micro-batch, on average inside the window; an instance has `ranks` of them."""
    moments, sequences = column(run.tokens, "t_s"), column(run.tokens, "batch")
    shared = np.where(column(run.tokens, "rank") < 0, ranks, 1)
    inside = (moments > run.window[0]) & (moments <= run.window[1])
    return max(1, round(float((sequences / shared)[inside].mean()))) if inside.any() else 1


def _context(run: Run) -> int:
    """Tokens that a sequence reads, on average over the steps of the requests that count."""
    kept = counted(run.requests)
    inputs, outputs = (column(run.requests, name)[kept] for name in ("input_len", "output_len"))
    return max(1, round(float(np.average(inputs + (outputs - 1) / 2, weights=outputs)))) if kept.any() else 1
