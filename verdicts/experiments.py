"""Experiments run anew into folders of their own, their tables and pictures beside those that they keep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

from verdicts import kept, pictures, tables
from verdicts.kept import KEPT, MOVED, NOT_RUN, ROOT, Row

PLACE = ROOT / "experiments"
LONG = {"when_afd_pays": "half an hour", "planner_check": "twenty minutes"}
"""Experiments that run with `--all` only."""
TRACED = "when_afd_pays"
"""Its table is made of recorded traces, which do not ship."""
LOG, FAILED = "log.txt", "failed.txt"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment that keeps tables."""

    name: str
    made: Path
    """Where it is made anew."""
    arguments: tuple[str, ...] = ()
    why_not: str = field(default="")
    """Why it is not run."""

    @property
    def folder(self) -> Path:
        return PLACE / self.name

    @property
    def made_of(self) -> str:
        """The digest of what it is made of."""
        return kept.digest(*sorted(self.folder.glob("*.py")))

    @property
    def origin(self) -> str:
        return f"experiments/{self.name}/run.py"


def found(results: Path, *, everything: bool, traces: Path | None) -> tuple[Experiment, ...]:
    """Return the experiments that keep tables, and why some are not run."""
    folders = sorted({path.parent.parent for path in PLACE.glob("*/expected/*.csv")})
    names = [folder.name for folder in folders if (folder / "run.py").is_file()]
    return tuple(
        Experiment(
            name=name,
            made=results / name,
            arguments=("--traces", str(traces.resolve())) if name == TRACED and traces else (),
            why_not=_why_not(name, everything=everything, traces=traces),
        )
        for name in names
    )


def _why_not(name: str, *, everything: bool, traces: Path | None) -> str:
    if name in LONG and not everything:
        return f"{LONG[name]}; with --all"
    if name == TRACED and traces is None:
        return "the recorded traces do not ship; with --traces FOLDER"
    return ""


def run(experiments: Sequence[Experiment], jobs: int, say: Callable[[str], None]) -> None:
    """Run experiments that are not whole yet, some at a time; each is kept as soon as it is there."""
    waiting = [each for each in experiments if not each.why_not and not kept.whole(each.made, each.made_of)]
    going: dict[Experiment, subprocess.Popen[bytes]] = {}
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                each = waiting.pop(0)
                say(f"{each.name} ...")
                going[each] = _start(each, jobs)
            for each in [each for each, process in going.items() if process.poll() is not None]:
                say(_end(each, going.pop(each).returncode))
            time.sleep(0.2)
    finally:
        for process in going.values():
            process.terminate()


def _start(each: Experiment, jobs: int) -> subprocess.Popen[bytes]:
    rmtree(each.made, ignore_errors=True)
    each.made.mkdir(parents=True)
    script = each.folder / "run.py"
    workers = ("--workers", str(max(1, (os.cpu_count() or 1) // jobs)))
    own = workers if workers[0] in script.read_text(encoding="utf-8") else ()
    words = [sys.executable, str(script), "-o", str(each.made), *own, *each.arguments]
    with (each.made / LOG).open("wb") as log:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, cwd=each.made, env=env)


def _end(each: Experiment, code: int) -> str:
    if code == 0:
        kept.stamp(each.made, each.made_of)
        return f"{each.name}: made"
    last = (each.made / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    (each.made / FAILED).write_text("".join(last), encoding="utf-8")
    return f"{each.name}: failed with exit code {code}: {''.join(last)} ({each.made / LOG})"


def rows(each: Experiment) -> Iterator[Row]:
    """Return what became of an experiment's tables and pictures."""
    told = f"experiments/{each.name}/README.md"
    if not kept.whole(each.made, each.made_of):
        failed = not each.why_not and (each.made / FAILED).is_file()
        verdict = "failed" if failed else f"{NOT_RUN}: {each.why_not or 'not asked for'}"
        yield Row(kind="table", what=each.name, told=told, verdict=verdict, origin=each.origin, holds=not failed)
        return
    for path in sorted((each.folder / "expected").rglob("*.csv")):
        yield _table(each, path, told)
    for path in sorted((each.folder / "expected").rglob("*.png")):
        place, made = path.relative_to(ROOT).as_posix(), each.made / path.relative_to(each.folder / "expected")
        yield pictures.row(path, made, what=place, told=told, origin=each.origin)


def _table(each: Experiment, path: Path, told: str) -> Row:
    what = path.relative_to(ROOT).as_posix()
    made = each.made / path.relative_to(each.folder / "expected")
    if not made.is_file():
        return Row(kind="table", what=what, told=told, verdict="no longer made", origin=each.origin, holds=False)
    cells = tables.moved(path, made)
    worst = f"{MOVED} in {len(cells)} cells, most in {cells[0]}" if cells else KEPT
    return Row(kind="table", what=what, told=told, verdict=worst, origin=each.origin, holds=not cells)
