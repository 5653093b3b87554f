"""Commands with all that they start, found by a mark in their environment, and signals to them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

MARK = "AFDSIM_KILLS"
GROUP, WORKER, PARENT = "group", "worker", "parent"
NUMBERS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL}
EVERY = 0.002
"""Seconds between two looks."""


class Command:
    """A command at work in a session of its own; its output goes to files, so that no orphan holds a pipe open."""

    def __init__(self, words: Sequence[str], folder: Path, mark: str, environment: Mapping[str, str]) -> None:
        self.mark, self.folder = mark, folder
        told = folder.parent
        with (told / "stdout").open("wb") as out, (told / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env={**environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.began, self._used = time.monotonic(), 0.0

    def seconds(self) -> float:
        """How long ago it began."""
        return time.monotonic() - self.began

    def used(self) -> float:
        """Seconds that it has computed itself; the last that was seen of one that has ended."""
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            self._used = max(self._used, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return self._used

    def said(self, stream: str = "stderr") -> str:
        """What it has written."""
        return (self.folder.parent / stream).read_text(encoding="utf-8", errors="replace")

    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def wait(self, until: Callable[[], object], seconds: float = 300.0) -> bool:
        """Wait for something, or for its end; whether that something was first."""
        deadline = self.began + seconds
        while not until():
            if self.ended() or time.monotonic() > deadline:
                return bool(until())
            time.sleep(EVERY)
        return True

    def kill(self, name: str, victim: str, rng: random.Random) -> bool:
        """Send a signal to a part of it; False where that part is no more."""
        if self.ended():
            return False
        with suppress(ProcessLookupError, IndexError):
            if victim == GROUP:
                os.killpg(self.process.pid, NUMBERS[name])
            elif victim == PARENT:
                self.process.send_signal(NUMBERS[name])
            else:
                os.kill(rng.choice(sorted(marked(self.mark) - {self.process.pid})), NUMBERS[name])
            return True
        return False

    def workers(self) -> set[int]:
        """What it has started."""
        return marked(self.mark) - {self.process.pid}


def marked(mark: str) -> set[int]:
    """Living processes of a mark, whatever session they are in."""
    return {pid for pid in _all() if f"{MARK}={mark}".encode() in _environment(pid)}


def _all() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _environment(pid: int) -> list[bytes]:
    """Variables of a process; none of one that has ended, a zombie too, or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def gone(mark: str, seconds: float) -> bool:
    """Whether no process of a mark is left within so many seconds."""
    deadline = time.monotonic() + seconds
    while left := marked(mark):
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True
