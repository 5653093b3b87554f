"""Tests leave nothing behind, however their process ends, and only their order is random."""

import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

from tests.scratch import scratch


def test_the_folder_of_a_process_goes_with_it(repository):
    code = "from tests.scratch import scratch; (scratch() / 'a').write_text('b'); print(scratch())"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)

    assert Path(done.stdout.strip()).name.startswith("afdsim-test-")
    assert not Path(done.stdout.strip()).exists()


def test_workers_have_folders_of_their_own_and_take_them_along():
    with get_context("spawn").Pool(1) as pool:
        theirs = pool.apply(scratch)
        assert theirs.is_dir()
        pool.close()
        pool.join()

    assert theirs != scratch()
    assert not theirs.exists()
    assert scratch().is_dir()


def test_only_the_order_is_random(pytestconfig):
    assert not pytestconfig.getoption("randomly_reset_seed", default=False)
