"""A plugin of pytest: instead of running the tests once, run those of every mutant, each in a process of its own.

Nothing is imported or collected again for a mutant. The process is forked, forgets what functions have cached, gets the
changed function, and runs the tests that call it when nothing is changed, those first that were quick and killed
before. The first test that fails ends it: the mutant is killed. So does a process that hangs.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import os
import pickle
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from _pytest.runner import runtestprotocol


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a test does where nothing is changed."""

    seconds: float
    calls: frozenset[tuple[str, int]]
    """(file, first line) of the functions under test that it calls."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a mutant."""

    killed: bool
    by: str
    """The test that failed, or why else it ended."""
    seconds: float


@dataclass(kw_only=True)
class Trials:
    """The plugin; `judge` is called with it once the tests are known."""

    files: frozenset[str]
    """Those under test."""
    longest: float
    """Seconds of computing of a test, beyond which it is left out."""
    patience: float
    """Seconds of computing that the tests of a mutant may take."""
    judge: Callable[[Trials], None]
    known: Path | None = None
    """File in which what tests do is kept for another time."""
    seen: dict[str, Seen] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    items: dict[str, pytest.Item] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self) -> None:
        """Let property tests draw few examples, always the same ones, and not seek the smallest that fails."""
        from hypothesis import Phase, settings

        few = {"max_examples": 6, "phases": [Phase.explicit, Phase.generate], "database": None, "derandomize": True}
        settings.register_profile("mutants", deadline=None, print_blob=False, **few)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of the one run of every test."""
        _prepare()
        self.items = {item.nodeid: item for item in session.items}
        if self.known is not None and self.known.exists():
            self.seen = pickle.loads(self.known.read_bytes())
        while left := [name for name in self.items if name not in self.seen]:
            self.seen |= self._looked(left)
            if self.known is not None:
                self.known.write_bytes(pickle.dumps(self.seen))
        self.judge(self)
        return True

    def chosen(self, file: str, line: int) -> list[str]:
        """Return the tests that call a function, as many as there is patience for, the best ones first."""
        calling = [name for name in self.items if (file, line) in self.seen[name].calls]  # more may be known
        ordered = sorted(calling, key=lambda name: (self.seen[name].seconds + 0.01) / (1 + self.kills.get(name, 0)))
        found, left = [], self.patience
        for name in ordered:
            left -= self.seen[name].seconds
            if left < 0:
                break
            found.append(name)
        return found

    def tried(self, change: Callable[[], None], names: list[str]) -> Verdict:
        """Run tests under a change."""
        began = time.perf_counter()

        def trial() -> bytes:
            change()
            return next((name.encode() for name in names if self._fails(name)), b"-")

        answer = forked(trial, limit=60.0 + 5.0 * self.patience)
        by = "no answer" if answer is None else answer.decode()
        self.kills[by] = self.kills.get(by, 0) + 1
        return Verdict(killed=by != "-", by=by, seconds=time.perf_counter() - began)

    def _fails(self, name: str) -> bool:
        """Whether a test fails; one that takes far longer than it should ends the process."""
        with _ended_after(2.0 + 4.0 * self.seen[name].seconds):
            return self._failed(name)

    def _failed(self, name: str) -> bool:
        reports = runtestprotocol(self.items[name], nextitem=None, log=False)
        return any(report.failed for report in reports)

    def _looked(self, names: list[str]) -> dict[str, Seen]:
        """Return what tests do, up to the first that takes too long; one that fails calls nothing."""
        with tempfile.NamedTemporaryFile() as file:

            def look() -> bytes:
                for name in names:
                    forget()  # so that whoever asks for what is cached, calls for it
                    with _calls(self.files) as calls, _ended_after(self.longest) as began:
                        failed = self._failed(name)
                    seen = Seen(seconds=time.process_time() - began, calls=frozenset(() if failed else calls))
                    file.write(pickle.dumps((name, seen)))
                    file.flush()
                return b"-"

            forked(look, limit=3600.0)
            found = dict(_records(Path(file.name).read_bytes()))
        late = [name for name in names if name not in found][:1]
        return found | dict.fromkeys(late, Seen(seconds=self.longest, calls=frozenset()))


def _records(data: bytes) -> Iterator[tuple[str, Seen]]:
    """Yield what was written one after the other."""
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        yield pickle.load(stream)


@contextmanager
def _ended_after(seconds: float) -> Iterator[float]:
    """End this process if it computes for longer: the machine may have other work, so no clock is asked."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    yield time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 0.0)


@contextmanager
def _calls(files: frozenset[str]) -> Iterator[set[tuple[str, int]]]:
    """Note which functions of `files` are called."""
    found: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        del event, arg
        code = frame.f_code
        if code.co_filename in files:
            found.add((code.co_filename, code.co_firstlineno))

    sys.settrace(note)
    try:
        yield found
    finally:
        sys.settrace(None)


def forked(work: Callable[[], bytes], limit: float) -> bytes | None:
    """Return what `work` says in a forked process; None where it computes for longer than `limit` seconds, or dies."""
    folder = Path(tempfile.mkdtemp(prefix="afdsim-mutants-"))
    answer = folder / "answer"
    sys.stdout.flush()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 1))
        _work(work, folder, answer)
    said = answer.read_bytes() if _waited(child, 20.0 * limit) and answer.exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    return said


def _work(work: Callable[[], bytes], folder: Path, answer: Path) -> None:
    """Work in a forked process, and end it."""
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    forget()
    try:
        answer.write_bytes(work())
    finally:
        os._exit(0)


def _waited(child: int, limit: float) -> bool:
    """Whether a process ends in time; it is ended otherwise, with all that it started."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def forget() -> None:
    """Empty every cache of the package but that of machine code, which holds functions and not what they said."""
    for name, module in list(sys.modules.items()):
        if name.startswith("afdsim") and module is not None:
            for each in vars(module).values():
                if isinstance(each, functools._lru_cache_wrapper) and each.__name__ != "compiled":
                    each.cache_clear()


class _Signed:
    """Numpy without unsigned numbers."""

    uint64 = np.int64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _prepare() -> None:
    """Import what is imported late, once for all mutants: runs of both engines need it. And let places be signed.

    Machine code mixes unsigned and signed numbers into signed ones, Python into ones that wrap around.
    """
    import afdsim
    from afdsim import cluster, engine
    from afdsim.engine import blank

    for wing in (cluster, engine):
        for room in pkgutil.iter_modules(wing.__path__):
            importlib.import_module(f"{wing.__name__}.{room.name}")
    for name, module in list(sys.modules.items()):
        if name.startswith("afdsim.") and name != "afdsim.engine.normals":
            for key, value in list(vars(module).items()):
                if value is np or value is np.uint64:
                    setattr(module, key, _Signed() if value is np else np.int64)
                elif isinstance(value, np.uint64):
                    setattr(module, key, np.int64(value))
    blank.WHOLE = dict.fromkeys(blank.WHOLE, np.int64)
    for name in ("kernel", "processes"):
        assert afdsim.simulate(afdsim.load("small").vary("run.engine", name)).summary
