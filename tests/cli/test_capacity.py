"""What the command afdsim capacity prints, and how it refuses."""

import json
import shlex

from click.testing import CliRunner

from afdsim.cli.main import main

QUICK = ("small", "--tolerance", "0.3", "--set", "workload.output_len.value=8")


def run(*words):
    return CliRunner().invoke(main, list(words), prog_name="afdsim")


def test_json_is_all_of_stdout_and_text_ends_with_a_command_that_reproduces_it(tmp_path):
    told, text = run("capacity", *QUICK, "--json", "-o", str(tmp_path)), run("capacity", *QUICK, "--quiet")
    found, command = json.loads(told.stdout), shlex.split(text.stdout.splitlines()[-1])
    again = json.loads(run(*command[1:], "--json", "--no-marginal").stdout)["afdsim"]

    assert text.stderr == ""
    assert (tmp_path / "capacity.json").read_text() == told.stdout
    assert command[:3] == ["afdsim", "run", "small"]
    assert (again["tgs"], again["sla"]["verdict"]) == (found["tgs"], "PASS")


def test_bad_input_is_one_message_with_the_way_out():
    none, fine = run("capacity", "small", "--set", "sla=null"), run("capacity", "small", "--tolerance", "0")

    assert (none.exit_code, fine.exit_code) == (2, 2)
    assert none.stderr.splitlines()[-1].endswith("for example --set sla.tpot=50ms")
    assert fine.stderr.splitlines()[-1] == "tolerance: must be >= 0.001 and < 1, for example 0.02 (got 0)"
