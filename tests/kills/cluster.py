"""A Dask cluster that the commands of a whole exercise share: `python -m tests.kills.cluster FILE` until it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.kills.processes import MARK, gone

WORKERS = 2


class Cluster:
    """A scheduler with workers, each looked after by a nanny that starts it again where it was killed."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self._address, self._mark = folder / "address", f"cluster-{os.getpid()}-{folder.name}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kills.cluster", str(self._address)],
            cwd=folder,
            env={**environment, MARK: self._mark, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not self._address.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = self._address.read_text(encoding="utf-8")

    def workers(self) -> list[int]:
        """Processes of the workers that live; fewer where one was killed a moment ago."""
        return self._asked(lambda client: sorted(client.run(os.getpid).values()))

    def complete(self, seconds: float = 30.0) -> bool:
        """Whether all its workers are there within so many seconds; one that was asked to stop may not be replaced."""
        from distributed import Client

        try:
            with Client(self.address, timeout=30) as client:
                client.wait_for_workers(WORKERS, timeout=seconds)
        except (TimeoutError, OSError):
            return False
        return True

    def tasks(self) -> int:
        """Tasks that the scheduler knows of, and those that workers are in."""
        return self._asked(_tasks)

    def _asked(self, ask):
        from distributed import Client

        with Client(self.address, timeout=30) as client:
            client.wait_for_workers(1, timeout=120)
            return ask(client)

    def calm(self, seconds: float = 20.0) -> bool:
        """Whether it does nothing within so many seconds, nor for those who asked it and are no more."""
        deadline = time.monotonic() + seconds
        while self.tasks():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        gone(self._mark, 5.0)
        self._process.wait()


def _tasks(client) -> int:
    """Tasks, and threads of workers that go on for a moment with what nobody waits for."""
    waiting = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    return waiting + sum(client.run(lambda dask_worker: len(dask_worker.active_threads)).values())


def _serve(file: Path) -> None:
    import distributed

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:
        temporary = file.with_suffix(".part")
        temporary.write_text(cluster.scheduler_address, encoding="utf-8")
        temporary.replace(file)
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _serve(Path(sys.argv[1]))
