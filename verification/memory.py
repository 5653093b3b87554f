"""Resident memory of a process that does nothing else: over simulated hours, and over the same work done many times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import afdsim
from verification.checks import NotRunError

STATM = Path("/proc/self/statm")
"""Where Linux tells what a process holds, in pages."""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Has the C library give arrays back at once when they are freed; else it may keep tens of megabytes for the next."""
SAMPLES = 200
"""Readings of a run, at most."""
OPEN: dict[str, Any] = {
    "run.engine": "kernel",
    "deployment.num_microbatches": 1,
    "workload.arrival.request_rate": "40 req/s",
}
"""What is changed of step3_poisson: one micro-batch makes steps cheap to simulate, and carries this load."""
SMALL: dict[str, Any] = {"run.engine": "kernel", "workload.num_requests": 400, "workload.output_len.value": 8}
"""What is changed of the smallest scenario: seventeen steps."""
SLOW: dict[str, Any] = {"run.engine": "processes", "deployment.max_num_seqs": 6, "workload.num_requests": 48}
"""What is changed of it for a long run by the processes: a closed loop draws 4,096 requests before it begins."""
POINTS = 20
"""Of one sweep."""


class Course(NamedTuple):
    """Resident memory over the course of a work, against what the process held before."""

    share: list[float]
    """How far the work was, 0..1."""
    held: list[float]
    """Bytes."""
    requests: int = 0
    """Of a run."""
    rows: int = 0
    """Boundaries that it recorded."""
    peak: float = 0.0
    """Bytes at most, while the result was made too."""


def resident() -> float:
    """Bytes that this process holds in memory."""
    return float(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alone(work: str, amount: float) -> Course:
    """Have a work done by a process of its own, and return its course."""
    if not STATM.is_file():
        raise NotRunError("resident memory is read from /proc, which only Linux has")
    words = [sys.executable, "-c", f"from verification.memory import tell; tell({work!r}, {amount!r})"]
    root = Path(__file__).parent.parent
    env = {**os.environ, **RETURNED, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(words, cwd=root, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return Course(**json.loads(done.stdout))


def tell(work: str, amount: float) -> None:
    """Do a work, and write its course to standard output for the process that asked."""
    course = RUNS[work](amount) if work in RUNS else again(work, amount)
    sys.stdout.write(json.dumps(course._asdict()))


def open_loop(seconds: float) -> Course:
    """Run an open loop of so many simulated seconds by the kernel."""
    asked = afdsim.load("step3_poisson").varied(OPEN)
    return _run(asked.vary("workload.duration", f"{seconds} s"), first=asked.vary("workload.duration", "2 s"))


def closed_loop(requests: float) -> Course:
    """Run a closed loop of so many requests by the processes."""
    asked = afdsim.load("small").varied(SLOW)
    return _run(asked.vary("workload.num_requests", int(requests)), first=asked)


def _run(asked: afdsim.Scenario, *, first: afdsim.Scenario) -> Course:
    """The course of a run behind another that has everything loaded."""
    import resource

    afdsim.simulate(first)
    before, share, held = resident(), list[float](), list[float]()

    def read(ended: float, _: str) -> None:
        if ended >= (share[-1] if share else 0.0) + 1 / SAMPLES:
            share.append(ended)
            held.append(resident() - before)

    found = afdsim.simulate(asked, progress=read)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0 - before
    return Course(share, held, len(found.requests), len(found.tokens), peak)


def again(work: str, rounds: float) -> Course:
    """Do the same work so many times."""
    with tempfile.TemporaryDirectory() as folder:
        act, share, held = WORKS[work](Path(folder)), list[float](), list[float]()
        act(0)
        before = resident()
        for number in range(1, int(rounds) + 1):
            act(number)
            share.append(number / int(rounds))
            held.append(resident() - before)
    return Course(share, held)


def _simulate(_: Path) -> Callable[[int], object]:
    asked = afdsim.load("small").varied(SMALL)
    return lambda number: afdsim.simulate(asked, seed=number)


def _sweep(folder: Path) -> Callable[[int], object]:
    asked = afdsim.load("small").varied(SMALL)

    def points(number: int) -> object:
        values = [0.01 + 1e-5 * (POINTS * number + place) for place in range(POINTS)]
        return afdsim.sweep(asked, over={"variation.event": values}, cache=folder, progress=False)

    return points


def _report(folder: Path) -> Callable[[int], object]:
    found = afdsim.simulate(afdsim.load("small").varied(SMALL))
    return lambda _: found.report().save(folder / "report.html")


def _tune(_: Path) -> Callable[[int], object]:
    asked = afdsim.load("small").varied(SMALL)
    return lambda number: afdsim.tune(asked.vary("run.seeds", [number]))


RUNS = {"open loop": open_loop, "closed loop": closed_loop}
"""One run, by how much is asked of it."""
WORKS = {"simulate": _simulate, "sweep": _sweep, "report": _report, "tune": _tune}
"""What is done again and again, by the number of the round; each begins with a folder of its own."""
