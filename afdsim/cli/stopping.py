"""Being asked to stop: Ctrl-C and SIGTERM end a command alike, with a message and the exit code of the signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import FrameType

    from afdsim.results.result import Result

Handler = Callable[[int, "FrameType | None"], object]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes, as shells have them: 128 and the signal."""
GRACE = 2
"""Seconds in which a run that was terminated may reach the end of its step."""


AGAIN = 0.05
"""Seconds after which a signal is sent once more that went unheard."""


class InterruptError(KeyboardInterrupt):
    """Ctrl-C, in a class of its own.

    CPython remembers that a plain `KeyboardInterrupt` left an `exec`, and then ends by the signal, whatever was made of
    it; libraries make their classes so.
    """


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, which whoever waits for Ctrl-C takes for it."""


class StoppedError(Exception):
    """A command that was asked to stop, with what is kept, and the results that are there."""

    def __init__(self, message: str, results: Sequence[Result] = (), code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.results, self.code = results, code


def code(error: BaseException) -> int:
    """Return the exit code of what was raised where a command was asked to stop."""
    if isinstance(error, StoppedError):
        return error.code
    return TERMINATED if isinstance(error, TerminatedError) else INTERRUPTED


@contextmanager
def noticed() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` where a signal asks to stop; gives the signals that have.

    Some libraries turn what is raised inside of their calls into errors of their own: the list knows better.
    """
    asked: list[int] = []

    def raised(number: int, _: object) -> None:
        asked.append(number)
        raise TerminatedError if number == signal.SIGTERM else InterruptError

    with _handled(raised):
        yield asked


@contextmanager
def between_steps() -> Iterator[Callable[[], int]]:
    """Let a signal end a run at its next whole step, so that what is complete is kept; a second one ends it at once.

    Whoever sends SIGTERM does not wait for long, and kills: a step that has not ended `GRACE` seconds after it is not
    kept. Gives a function that returns the exit code once one was asked to stop, and 0 before.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise TerminatedError if asked[0] == signal.SIGTERM else InterruptError
        if number == signal.SIGTERM and hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, ask)
            signal.alarm(GRACE)
        click.echo("stopping; Ctrl-C again to drop the run", err=True)

    alarmed = signal.getsignal(signal.SIGALRM) if hasattr(signal, "SIGALRM") else None
    with _handled(ask):
        try:
            yield lambda: 128 + asked[0] if asked else 0
        finally:
            if asked and alarmed is not None:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, alarmed)


def patient() -> None:
    """Let what follows take its time though a run was terminated: its step has ended, and is to be kept."""
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    """Have signals handled so; only the main thread may, and what the caller has ignored (nohup, &) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) not in {signal.SIG_IGN, None}]
    before = [(number, signal.signal(number, handler)) for number in heard]
    try:
        with _raised_again():
            yield
    finally:
        for number, handled in before:
            signal.signal(number, handled)


@contextmanager
def _raised_again() -> Iterator[None]:
    """Send a signal once more whose exception Python dropped, as it does in callbacks of objects that go."""
    before = sys.unraisablehook

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, (InterruptError, TerminatedError)):
            before(what)
            return
        number = signal.SIGTERM if isinstance(what.exc_value, TerminatedError) else signal.SIGINT
        threading.Timer(AGAIN, os.kill, (os.getpid(), number)).start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = before
