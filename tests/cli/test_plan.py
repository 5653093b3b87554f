"""`afdsim plan`: the answer on a terminal, as JSON and in a folder, and what is refused."""

import json
import signal

import pandas as pd
import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli import plan
from afdsim.cli.main import main
from afdsim.studies import candidates, choosing
from tests.cases import tiny_model


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    question = ("--model", tiny_model(4), "--gpus", "H800:8", "--context", "1024", "--sla-tpot", "0.5ms")

    def run(*words):
        return CliRunner().invoke(main, ["plan", *question, "--workers", "1", *words], prog_name="afdsim")

    return run


def test_the_answer_is_a_deployment_with_its_figures(command):
    shown = command().stdout

    assert "most tokens per second from these GPUs" in shown
    assert "mean TPOT <= 500" in shown
    assert "tokens/s on 8 H800" in shown
    assert "both engines agree to the bit" in shown


def test_the_folder_holds_the_winner_every_layout_and_a_picture(command, tmp_path):
    told = command("-o", "out", "--json")
    best = json.loads(told.stdout)["best"]
    (cell,) = best["cells"]

    layouts = pd.read_csv(tmp_path / "out" / "plan.csv")
    summary = afdsim.simulate(tmp_path / "out" / "winner.yaml").summary
    assert summary["afdsim"]["tgs"] == cell["tgs"]
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == json.loads(told.stdout)
    assert len(layouts) == json.loads(told.stdout)["counts"]["layouts"]
    assert (tmp_path / "out" / "plan.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_folder_holds_the_best_of_every_family_that_did_not_win(command, tmp_path):
    told = json.loads(command("--model", "step3-small", "--sla-tpot", "4ms", "-o", "out", "--json").stdout)
    rivals = {path.stem.removeprefix("best-").replace("-", " ") for path in (tmp_path / "out").glob("best-*.yaml")}
    known = {name for name, found in told["families"].items() if found is not None}
    lost = {name for name in known if told["families"][name] != told["best"]}

    assert rivals == lost != set()
    for name in rivals:
        summary = afdsim.simulate(tmp_path / "out" / f"best-{name.replace(' ', '-')}.yaml").summary
        assert summary["afdsim"]["tgs"] == told["families"][name]["cells"][0]["tgs"]


def test_the_same_question_gives_the_same_bytes(command):
    assert command("--json").stdout == command("--json", "--no-resume").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "H800"], "--gpus: 'H800'; write GPU:COUNT"),
        (["--gpus", "H800:8,H800:8"], "H800 is named twice"),
        (["--context", "8k"], "--context: must be whole numbers"),
        (["--weights", "a"], "--weights: must be numbers"),
        (["--set", "a=1"], "--set changes workloads; give --workload"),
        (["--workload", "small"], "a workload or a context, one of the two"),
        (["--objective", "gpus"], "needs a demand"),
        (["--workers", "0"], "workers must be >= 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_message(command, words, message):
    said = command(*words)

    assert said.exit_code == 2
    assert message in said.stderr
    assert "Traceback" not in said.stderr


def test_the_choices_of_the_command_are_those_of_the_planner():
    assert plan.OBJECTIVES == choosing.OBJECTIVES
    assert plan.RULES == candidates.RULES


def test_an_interrupted_search_says_what_it_keeps(command, monkeypatch):
    from afdsim.studies.searching import Search

    def interrupted(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Search, "_try", interrupted)
    kept, lost = command("--cache", "points"), command("--no-resume")

    assert (kept.exit_code, lost.exit_code) == (143, 143)
    assert kept.stderr == "interrupted; what was tried is kept in points; the same again goes on\n"
    assert lost.stderr == "interrupted; nothing was saved\n"


def test_a_folder_whose_writing_was_interrupted_is_not_called_saved(command, monkeypatch):
    from afdsim.results import plot_parts

    monkeypatch.setattr(plot_parts, "save", lambda *_: signal.raise_signal(signal.SIGINT))
    done = command("-o", "out")

    assert done.exit_code == 130
    assert done.stderr == "interrupted; out is not whole: the same again writes it\n"


def test_a_folder_of_something_else_is_left_alone(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    assert "holds no plan" in command("-o", "out").stderr
