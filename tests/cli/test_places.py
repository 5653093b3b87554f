"""Where commands are told to write and cannot: one message with the place, and nothing half done."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from afdsim import __version__
from afdsim.cli.main import main

SWEEP = "base: {extends: small}\naxes: {deployment.max_num_seqs: [4, 8]}\n"
PLAN = ("plan", "--model", "step3-small", "--gpus", "H800:8", "--context", "1024", "--sla-tpot", "50ms")


def command(*words):
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="afdsim")


@pytest.mark.parametrize("module", ["afdsim", "afdsim.cli"])
def test_modules_are_the_command_line(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == f"afdsim {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [("sweep", "a.sweep.yaml"), PLAN, ("capacity", "small"), ("run", "small")],
    ids=lambda words: words[0],
)
def test_a_file_in_place_of_a_folder_is_refused_before_anything_runs(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sweep.yaml").write_text(SWEEP)
    (tmp_path / "taken").write_text("mine")
    done = command(*words, "-o", "taken")

    assert done.exit_code == 2
    assert done.stderr.endswith("taken is a file; -o takes a folder\n")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_of_something_else_is_no_place_for_a_plan_or_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sweep.yaml").write_text(SWEEP)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")

    for words, what in (PLAN, "plan"), (("sweep", "a.sweep.yaml"), "sweep"):
        done = command(*words, "-o", "mine")
        assert done.exit_code == 2
        assert done.stderr.endswith(f"mine exists and holds no {what}; -o or --force\n")
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]


def test_a_schema_goes_to_a_file_or_says_why_not(tmp_path):
    file = tmp_path / "schema.json"
    done, refused = command("schema", "-o", file), command("schema", "-o", file / "below.json")

    assert done.stdout == f"wrote {file}\n"
    assert file.read_text(encoding="utf-8") == command("schema").stdout
    assert refused.exit_code == 1
    assert refused.stderr == f"{file / 'below.json'}: cannot be written: Not a directory\n"


def test_a_trace_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.trace.json.gz").mkdir()
    done = command("run", "small", "--trace", "1ms", "--quiet")

    assert done.exit_code == 1
    assert done.stderr == "small.trace.json.gz: cannot be written: Is a directory\n"


def test_a_closed_loop_has_nothing_to_lengthen():
    done = command("run", "small", "--until-steady", "--quiet")

    assert done.exit_code == 0
    assert "--until-steady: a closed loop is steady when it has filled; nothing to lengthen" in done.stderr
