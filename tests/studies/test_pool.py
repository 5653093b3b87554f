import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from afdsim.errors import CapacityError, SimulationError
from afdsim.studies.pool import Pool


def test_calls_run_in_other_processes():
    with Pool(2) as pool:
        pids = {future.result() for future in [pool.submit(os.getpid) for _ in range(8)]}

    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2


def test_errors_come_back():
    with Pool(1) as pool:
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
        assert isinstance(pool.submit(fail_with_place).exception(), CapacityError)
        assert pool.submit(os.getpid).result() > 0


def test_a_call_that_a_worker_cannot_read_is_an_error_and_the_worker_lives():
    with Pool(1) as pool:
        before = pool.submit(os.getpid).result()

        assert isinstance(pool.submit(len, [Unreadable()]).exception(), ZeroDivisionError)
        assert pool.submit(os.getpid).result() == before


def test_ctrl_c_is_not_heard_by_workers_from_their_first_moment():
    with Pool(1) as pool:
        assert pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result() == {signal.SIGINT}


class Unreadable:
    def __reduce__(self):
        return divmod, (1, 0)


def fail_with_place():
    raise CapacityError("too small", path="deployment")


def test_a_worker_that_dies_costs_only_its_call_which_is_repeated(tmp_path):
    with Pool(2) as pool:
        futures = [pool.submit(die_once, str(tmp_path / "died")), *(pool.submit(abs, -n) for n in range(20))]

        assert [future.result() for future in futures] == ["alive", *range(20)]


def die_once(flag):
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_a_call_that_kills_every_worker_fails_alone():
    with Pool(1) as pool:
        fatal, fine = pool.submit(os._exit, 3), pool.submit(abs, -1)

        assert isinstance(fatal.exception(), SimulationError)
        assert fine.result() == 1


def test_an_error_drops_what_is_queued_and_ends_the_workers():
    started = time.perf_counter()
    futures = []
    with pytest.raises(KeyboardInterrupt):
        interrupt(futures)

    wait(futures, timeout=5)
    assert all(future.done() for future in futures)
    assert time.perf_counter() - started < 20


def interrupt(futures):
    with Pool(1) as pool:
        futures += [pool.submit(time.sleep, 60) for _ in range(3)]
        raise KeyboardInterrupt


def test_what_a_call_prints_does_not_disturb_the_answers():
    with Pool(1) as pool:
        assert pool.submit(print, "noise").result() is None
        assert pool.submit(abs, -2).result() == 2


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from afdsim.studies.pool import Pool\nwith Pool(2) as pool:\n    print(pool.submit(abs, -7).result())\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=env)

    assert (done.stdout, done.returncode) == ("7\n", 0)
