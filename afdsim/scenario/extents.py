"""How large a scenario may be as a whole, where every key alone is in bounds: what a run would hold in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from afdsim.errors import CatalogError
from afdsim.scenario import asked, tree
from afdsim.scenario.part import Fault

MOST_SEQUENCES = 5_000_000
"""Sequences in flight of a deployment: a table has a row for each that a step may have."""
MOST_GPUS = 100_000
MOST_MESSAGES = 20_000_000
"""Messages, or operations, of a step: each has a place in the schedule."""
MOST_REQUESTS = 10_000_000
"""Requests of a run, 150 to 260 bytes each."""


def misfits(deployment: tree.Deployment, model: str, *, per_gpu: bool) -> Iterator[Fault]:
    """Yield what of a deployment is too large to be simulated; `per_gpu`: every GPU is a unit of its own."""
    if deployment.slots > MOST_SEQUENCES:
        text = f"gives {deployment.slots:,} sequences in flight; at most {MOST_SEQUENCES:,} are simulated"
        yield "deployment.max_num_seqs", text
    if (gpus := _gpus(deployment)) > MOST_GPUS:
        yield "deployment", f"has {gpus:,} GPUs; at most {MOST_GPUS:,} are simulated: no cluster has more"
    if (count := _messages(deployment, per_gpu) * _layers(model)) > MOST_MESSAGES:
        text = f"has {count:,} messages or operations in a step; at most {MOST_MESSAGES:,} are simulated"
        yield "deployment", f"{text}: fewer instances or micro-batches" + (", or granularity: instance" * per_gpu)


def _gpus(deployment: tree.Deployment) -> int:
    """GPUs of a deployment."""
    match deployment:
        case tree.Afd(attention=attention, ffn=ffn):
            return sum(pool.instances * pool.gpus_per_instance for pool in (attention, ffn))
        case tree.Colocated():
            return deployment.instances * deployment.gpus_per_instance
        case tree.TensorParallel():
            return deployment.gpus


def _messages(deployment: tree.Deployment, per_gpu: bool) -> int:
    """Messages, or operations, of a layer and step."""
    match deployment:
        case tree.Afd(attention=pool):
            senders = pool.instances * (pool.parallelism.dp if per_gpu else 1)
            return 2 * senders * deployment.ffn.instances * deployment.num_microbatches
        case tree.Colocated():
            return 5 * deployment.instances * deployment.parallelism.dp * deployment.num_microbatches
        case tree.TensorParallel():
            return 1


def _layers(model: str) -> int:
    """Layers of a model; 1 where it is not known, which is said elsewhere."""
    from afdsim.catalog import entries as catalog

    with suppress(CatalogError):
        return len(catalog.llm(model).layers)
    return 1


def arrivals(workload: asked.Workload) -> Iterator[Fault]:
    """Yield why too many requests would come before the end of a duration."""
    match workload.arrival:
        case asked.Poisson() | asked.Constant() | asked.Gamma() as law:
            most = law.request_rate
        case asked.Mmpp(states=states):
            most = max(state.rate for state in states)
        case asked.RateCurve(points=points):
            most = max(point.rate for point in points)
        case _:
            return
    if workload.duration is not None and (count := most * workload.duration) > MOST_REQUESTS:
        text = f"would bring {count:.3g} requests at {most:,.6g} req/s; at most {MOST_REQUESTS:,} fit in memory"
        yield "workload.duration", text
