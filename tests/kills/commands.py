"""What is killed: a command of every kind, with what it keeps and what may be killed of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afdsim.scenario import yamlfile
from tests.cases import tiny_model
from tests.kills.processes import GROUP, PARENT, WORKER

AFDSIM = (sys.executable, "-m", "afdsim")
POINTS, OUT = "points", "out"
"""Folders of the outcomes and of the answer."""
AXIS = [6, 8, 10, 12, 14, 16, 18, 20]
SWEEP = {
    "version": 1,
    "name": "s",
    "base": {"extends": "small", "workload": {"num_requests": 400}},
    "axes": {"deployment.max_num_seqs": AXIS},
    "seeds": 1,
}
SCRIPT = f"""import afdsim
base = afdsim.load("small").vary("workload.num_requests", 400)
table = afdsim.sweep(base, {{"deployment.max_num_seqs": {AXIS}}}, seeds=1, workers=2, cache="{POINTS}")
print(table.drop(columns="wall_s").to_csv())
"""
PLAN = ("--gpus", "H800:2", "--context", "512", "--sla-tpot", "0.25ms", "--workers", "2")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command that is killed."""

    name: str
    words: Callable[[str], tuple[str, ...]]
    """What is typed, given the address of a Dask cluster."""
    write: Callable[[Path], object] = lambda folder: None
    """Puts what it reads into its folder."""
    victims: tuple[str, ...] = (PARENT, GROUP, WORKER)
    script: bool = False
    """Whether it is Python's to say how it was interrupted."""
    dask: bool = False


def _sweep_file(folder: Path) -> None:
    (folder / "s.sweep.yaml").write_text(yamlfile.dump(SWEEP), encoding="utf-8")


def _model(folder: Path) -> None:
    shutil.copy(tiny_model(2), folder / "config.json")


def _script(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")


def _run(_: str) -> tuple[str, ...]:
    changes = ("--set", "workload.num_requests=2000", "--set", "run.seeds=[0,1,2]", "--no-marginal")
    return (*AFDSIM, "run", "small", *changes, "-o", OUT, "--quiet")


def _swept(*who: str) -> tuple[str, ...]:
    return (*AFDSIM, "sweep", "s.sweep.yaml", *who, "-o", OUT, "--cache", POINTS, "--quiet")


def _compare(_: str) -> tuple[str, ...]:
    changes = ("--set-b", "deployment.max_num_seqs=24", "--set", "workload.num_requests=1000", "--no-tune")
    return (*AFDSIM, "compare", "small", "small", *changes, "-o", OUT)


KINDS = (
    Kind(name="run", words=_run, victims=(PARENT, GROUP)),
    Kind(name="sweep", words=lambda _: _swept("--workers", "2"), write=_sweep_file),
    Kind(name="sweep --dask", words=lambda at: _swept("--dask", at), write=_sweep_file, dask=True),
    Kind(name="compare", words=_compare, victims=(PARENT, GROUP)),
    Kind(
        name="plan",
        words=lambda _: (*AFDSIM, "plan", "--model", "config.json", *PLAN, "-o", OUT, "--cache", POINTS),
        write=_model,
    ),
    Kind(name="afdsim.sweep()", words=lambda _: (sys.executable, "script.py"), write=_script, script=True),
)
"""Where there are no workers, none is killed."""


def outcomes(folder: Path) -> dict[Path, tuple[int, int]]:
    """Outcomes that a command has kept, whole, each with what changes when it is written again."""
    files = [path for path in sorted((folder / POINTS).rglob("*.json")) if not path.name.startswith(".")]
    return {path.relative_to(folder): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def plain(line: str) -> object:
    """Return what a line of an outcome says, but for the time that it took."""
    found = json.loads(line)
    return (
        {key: value for key, value in found.items() if key not in {"wall_s", "sha256"}}
        if isinstance(found, dict)
        else found
    )
