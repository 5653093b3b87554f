"""One mutated input in a folder of its own, and what became of it."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result

from afdsim.cli.main import main
from tests.fuzz.targets import TARGETS, Target
from tests.scratch import scratch

SECONDS = 20
MEMORY = 3e9
"""Bytes that a process may hold: ten million requests, the most that a scenario may ask for, take 2.6 GB behind a router."""
LINES = 10


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an input."""

    target: str
    seed: int
    code: int
    seconds: float
    wrong: str = ""
    """What it did that it must not; nothing where it was a valid run or one message."""


class _TooLongError(BaseException):
    """An input took longer than it may."""


def tried(target: Target, seed: int, keep: Path | None = None) -> Outcome:
    """Let one input be read; `keep` a folder for what went wrong."""
    yard = Path(tempfile.mkdtemp(prefix="yard-", dir=scratch()))
    inside = yard / "a" / "b"
    inside.mkdir(parents=True)
    before, started = Path.cwd(), time.perf_counter()
    os.chdir(inside)
    try:
        words = target.write(random.Random(f"{target.name} {seed}"), inside)
        code, wrong = _read(words, target.codes)
        outside = [path for path in yard.rglob("*") if path.is_file() and not path.is_relative_to(inside)]
        wrong = wrong or (f"files outside of the folder: {outside}" if outside else "")
        if wrong and keep is not None:
            shutil.copytree(inside, keep / f"{target.name}-{seed}".replace(" ", "_"), dirs_exist_ok=True)
    finally:
        os.chdir(before)
        shutil.rmtree(yard, ignore_errors=True)
    return Outcome(target=target.name, seed=seed, code=code, seconds=time.perf_counter() - started, wrong=wrong)


def _read(words: tuple[str, ...], codes: tuple[int, ...]) -> tuple[int, str]:
    """Return the exit code, and what is wrong with it."""
    before = _held()
    try:
        with _within(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(main, list(words))
    except _TooLongError:
        return -1, f"took longer than {SECONDS} s"
    return done.exit_code, next(
        _wrongs(done, words[0], codes), "" if _held() == before or _held() < MEMORY else f"held {_held() / 1e9:.1f} GB"
    )


def _wrongs(done: Result, verb: str, codes: tuple[int, ...]) -> Iterator[str]:
    """Yield what is wrong with an answer."""
    error = done.exception
    told = [line for line in done.stderr.splitlines() if not line.startswith(("warning: ", " "))]
    if error is not None and not isinstance(error, SystemExit):
        yield f"traceback: {type(error).__name__}: {str(error)[:200]}"
    if done.exit_code not in codes:
        yield f"exit code {done.exit_code}: {done.stderr[-300:]}"
    if done.exit_code == 2 and not 0 < len(told) <= LINES:
        yield f"{len(told)} lines of message"
    if done.exit_code == 0 and verb == "run" and any(word in done.stdout for word in ("NaN", "Infinity")):
        yield "not a number in the result"


def _held() -> float:
    """Most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


@contextmanager
def _within(seconds: int):
    def late(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def chosen(number: int) -> Target:
    """Return the kind of input of the n-th trial: scenarios most often, for they have most in them."""
    return TARGETS[(0, 1, 0, 2, 0, 3, 0, 4, 5, 6, 0, 1, 6, 7, 8, 2)[number % 16]]


def numbered(number: int, seed: int, keep: Path | None = None) -> Outcome:
    """Return what became of the n-th input of a seed."""
    return tried(chosen(number), seed * 1_000_000 + number, keep)
