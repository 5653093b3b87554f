"""A few kills of a sweep from Python in every run of the suite; `make kills` tries sixty, of every command."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import files, processes
from tests.kills.commands import KINDS
from tests.kills.processes import GROUP, PARENT, WORKER
from tests.kills.shelf import Shelf
from tests.kills.trial import CASES, Case, chosen, tried

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")

SWEEP = next(kind for kind in KINDS if kind.script)


@pytest.fixture(scope="module")
def shelf():
    pytest.importorskip("pyarrow")
    with Shelf() as made:
        yield made


@pytest.mark.parametrize(("signal", "victim"), [("INT", GROUP), ("KILL", WORKER), ("KILL", PARENT)])
def test_a_kill_tears_nothing_loses_nothing_and_leaves_nobody(signal, victim, shelf):
    outcome = tried(Case(kind=SWEEP, signal=signal, victim=victim), 0, shelf)

    assert outcome.wrong == ()


def test_sixty_trials_hold_every_case_and_the_same_for_a_seed():
    order = [chosen(number, 3) for number in range(60)]

    assert {(case.kind.name, case.signal, case.victim) for case in order} == {
        (case.kind.name, case.signal, case.victim) for case in CASES
    }
    assert order == [chosen(number, 3) for number in range(60)]
    assert order != [chosen(number, 4) for number in range(60)]


def test_a_process_in_another_session_is_found_and_ended():
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen(words, env={**os.environ, processes.MARK: "left"}, start_new_session=True)

    assert not processes.gone("left", 0.1)
    assert left.wait(timeout=10) == -9
    assert processes.gone("left", 0.1)


@pytest.mark.parametrize("name", ["a.json", "a.parquet", "a.csv", "a.gz", "a.yaml", "a.png", "a.svg", "a.html"])
def test_half_a_file_is_torn(name, tmp_path):
    (tmp_path / name).write_bytes(random.Random(0).randbytes(20))

    assert [each.partition(":")[0] for each in files.torn(tmp_path)] == [f"{name} is torn"]


def test_files_that_are_missing_too_many_or_changed_are_differences(tmp_path):
    for folder, text, more in (("here", "1", "b.txt"), ("there", "2", "c.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text, encoding="utf-8")
        (tmp_path / folder / more).write_text("", encoding="utf-8")

    assert list(files.differences(tmp_path / "here", tmp_path / "there")) == [
        "c.txt is missing",
        "b.txt is one too many",
        "a.txt is not the same",
    ]
