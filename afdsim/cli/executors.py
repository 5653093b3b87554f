"""Who runs the many simulations of a command: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

from afdsim.errors import ScenarioError, SimulationError

WORKERS = click.option(
    "--workers", type=int, default=None, metavar="N", help="Processes; as many as there are cores by default."
)
DASK = click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster (or its file) that runs the points.")


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def opened(dask: str | None, workers: int) -> Iterator[Executor]:
    """Open the cluster at an address, or processes on this machine."""
    from afdsim.studies import sweeps

    if dask is None:
        with sweeps.executor(workers) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise ScenarioError("--dask needs distributed: pip install 'afdsim[dask]'") from None
    place = {"scheduler_file": dask} if Path(dask).is_file() else {"address": dask}
    with _connected(Client, dask, place) as client:
        yield client.get_executor()


def _connected(connect: Any, address: str, place: dict[str, str]) -> AbstractContextManager[Any]:
    try:
        client: AbstractContextManager[Any] = connect(**place, timeout=10)
    except (OSError, ValueError) as error:
        raise SimulationError(f"--dask {address}: no scheduler answers: {error}") from None
    return client
