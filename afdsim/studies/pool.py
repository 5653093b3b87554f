"""Fresh Python processes behind the interface of `concurrent.futures`.

Two things set them apart from `ProcessPoolExecutor`. A worker starts from nothing and never imports the caller's main
module, so a script needs no ``if __name__ == "__main__"`` and a notebook works. A worker that dies costs only the call
that it was running, which another one repeats; the rest of the queue does not notice.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from afdsim.errors import SimulationError

T = TypeVar("T")
Process = subprocess.Popen[bytes]

ATTEMPTS = 3
"""Processes that one call may take down before it counts as failed."""

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""The parallelism is in the processes; threads inside them would only contend."""


class _Call(NamedTuple):
    future: Future[Any]
    request: bytes
    """The pickled call, pickled once more: what cannot be read inside is then answered and not lost."""


class Pool(Executor):
    """`workers` processes, each fed by a thread of its own."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = Lock()
        self._processes: set[Process] = set()
        self._closed = self._killed = False
        self._threads = [Thread(target=self._feed, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call of an importable function."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        future: Future[T] = Future()
        self._calls.put(_Call(future, pickle.dumps(pickle.dumps((fn, args, kwargs)))))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; finish the queue, or drop it and end every process now."""
        with self._lock:
            self._killed |= cancel_futures
            for _ in () if self._closed else self._threads:
                self._calls.put(None)
            self._closed = True
            for process in self._processes if cancel_futures else ():
                process.kill()
        for thread in self._threads if wait else ():
            thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the queue; after an error, drop it."""
        self.shutdown(cancel_futures=kind is not None)

    def _feed(self) -> None:
        """Wait for a call, let a process answer it, announce the answer."""
        if hasattr(signal, "pthread_sigmask"):  # processes inherit it, and are deaf to Ctrl-C from their first moment
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process: Process | None = None
        while (call := self._calls.get()) is not None:
            if self._killed:
                call.future.cancel()
            elif call.future.set_running_or_notify_cancel():
                process = self._run(call, process)
        if process is not None:
            self._end(process)

    def _run(self, call: _Call, process: Process | None) -> Process | None:
        """Have a call answered by `process` or, where that has died, by another; return the one that lives."""
        for _ in range(ATTEMPTS):
            process = process or self._start()
            if process is None:
                break
            try:
                fine, answer = _exchange(process, call.request)
            except (EOFError, OSError, pickle.UnpicklingError):
                self._end(process)
                process = None
                continue
            (call.future.set_result if fine else call.future.set_exception)(answer)
            return process
        lost = "stopped" if self._killed else f"{ATTEMPTS} worker processes died over it; out of memory?"
        call.future.set_exception(SimulationError(lost))
        return process

    def _start(self) -> Process | None:
        """Return a new process; none once the pool has been told to stop."""
        with self._lock:
            if self._killed:
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from afdsim.studies.pool import serve; serve({os.getpid()})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**dict.fromkeys(_ONE_THREAD, "1"), **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            self._processes.add(process)
            return process

    def _end(self, process: Process) -> None:
        """Close the pipes, at which an idle process ends, and wait for that."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
        with self._lock:
            self._processes.discard(process)


def _exchange(process: Process, request: bytes) -> tuple[bool, Any]:
    """Send a request; return whether the call returned, and what it returned or raised."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    answer: tuple[bool, Any] = pickle.load(process.stdout)
    return answer


def serve(parent: int) -> None:
    """Answer calls of the process `parent` until there are no more; this is all that a worker does.

    Ctrl-C reaches the whole group of processes: it is the caller's to decide what to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_follow, args=(parent,), daemon=True).start()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a call prints must not mix with the answers
    with suppress(EOFError, BrokenPipeError):
        while True:
            answers.write(_answer(pickle.load(requests)))
            answers.flush()


def _follow(parent: int) -> None:
    """End with the process that this one works for, however that ends, in the middle of a call too."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _answer(request: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(request)
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:  # raised again where the call came from
        try:
            pickle.loads(pickled := pickle.dumps((False, error)))
        except Exception:  # some exceptions do not survive the journey
            return pickle.dumps((False, SimulationError(f"{type(error).__name__}: {error}")))
        return pickled
