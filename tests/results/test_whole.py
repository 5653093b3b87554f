"""A file is whole or not there, and what a killed process had not finished is neither in the way nor kept for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from afdsim.errors import ScenarioError
from afdsim.results import whole
from afdsim.results.result import check_folder
from afdsim.results.seeds import load_seeds, save_seeds
from tests import synthetic

WRITER = """import sys, time
from pathlib import Path
from afdsim.results.whole import write_whole
write_whole(Path("a.json"), lambda path: (path.write_text("{"), print("begun", flush=True), time.sleep(60)))
"""


@pytest.fixture
def killed(tmp_path):
    """A folder in which a process was killed while it wrote its only file."""
    with subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"begun\n"
        writer.kill()
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_had_not_finished_is_hidden_and_goes_when_the_file_is_written(killed):
    (left,) = names(killed)
    whole.write_text(killed / "b.json", "{}")

    assert left.startswith(".a.")
    assert names(killed) == [left, "b.json"]
    whole.write_text(killed / "a.json", "{}")
    assert names(killed) == ["a.json", "b.json"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_process_that_has_ended_unasked_writes_no_more(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"begun\n"
        writer.kill()
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # and is left a zombie
        whole.write_text(tmp_path / "a.json", "{}")

        assert names(tmp_path) == ["a.json"]


def test_what_others_still_write_stays(tmp_path):
    here = whole._named(tmp_path / "a.json", os.getppid())
    elsewhere = here.replace(here.split(".")[2].partition("-")[0], "12345678")
    for name in (here, elsewhere):
        (tmp_path / name).write_text("{", encoding="utf-8")
    whole.write_text(tmp_path / "a.json", "{}")

    assert names(tmp_path) == sorted([here, elsewhere, "a.json"])


def test_a_folder_that_a_killed_run_had_only_begun_is_free(killed, small):
    check_folder(killed, small)

    assert whole.vacant(killed)
    assert whole.vacant(killed / "nowhere")
    (killed / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(ScenarioError, match="holds no afdsim result"):
        check_folder(killed, small)


def test_a_seed_that_was_killed_while_it_was_saved_hides_no_other(small, tmp_path):
    several = small.vary("run.seeds", [7, 2])
    runs = [synthetic.result(several, seed) for seed in (7, 2)]
    folder = runs[0].save(tmp_path / "run", pictures=False)
    save_seeds(runs, folder)
    (folder / "seeds" / "2" / "manifest.json").unlink()

    assert [each.seed for each in load_seeds(folder)] == [7]
    save_seeds(runs, folder)
    assert [each.seed for each in load_seeds(folder)] == [7, 2]


def test_a_run_counts_as_kept_before_its_pictures_are_drawn(small, tmp_path, monkeypatch):
    result = synthetic.result(small)

    def interrupted(*_):
        raise KeyboardInterrupt

    result.save(tmp_path / "run")
    monkeypatch.setattr(type(result), "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "run")

    assert [each.summary for each in load_seeds(tmp_path / "run")] == [result.summary]
    assert not (tmp_path / "run" / "report.html").exists()  # that of the run before
    assert list((tmp_path / "run" / "figures").iterdir()) == []


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    plot_axes = pytest.importorskip("afdsim.results.plot_axes")
    from afdsim.results import plot_parts

    def torn(_, file, *__, **___):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(plot_axes, "write", torn)
    with pytest.raises(KeyboardInterrupt):
        plot_parts.save(None, tmp_path / "a.png")

    assert names(tmp_path) == []
