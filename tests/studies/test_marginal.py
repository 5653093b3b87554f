"""One more instance of each role: simulated, told in a line, refused in half of one."""

import json

import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.results import blaming
from afdsim.studies.marginal import MOST, marginal, quick, ways
from tests.cases import tiny
from tests.laws.test_colocated import colocated

OPEN = {
    "arrival": {"process": "poisson", "request_rate": "2000 req/s"},
    "input_len": {"distribution": "constant", "value": 100},
    "output_len": {"distribution": "constant", "value": 12},
    "num_requests": 400,
}


def rows(scenario):
    return marginal(afdsim.simulate(scenario))


def test_nothing_crashes_while_one_more_instance_is_measured():
    crash = {"events": [{"at": "10ms", "target": "attention[0]"}], "repair": "50ms", "requests": "reject"}
    crashing = tiny(3, attention=2, ffn=1).vary("failures", crash)

    assert rows(crashing) == rows(crashing.vary("failures", None))


def test_a_closed_loop_is_measured_like_the_deployment_that_it_would_be():
    found = rows(tiny(3, attention=1, ffn=1, cost__H800="2 USD/h"))
    as_it_is = afdsim.simulate(tiny(3, attention=1, ffn=1, cost__H800="2 USD/h")).summary
    more = afdsim.simulate(tiny(3, attention=2, ffn=1, cost__H800="2 USD/h")).summary

    assert [(row["role"], row["deployment"], row["gpus"]) for row in found] == [
        ("attention", "2A1F", 3),
        ("ffn", "1A2F", 3),
    ]
    assert found[0]["mean_tpot_ms"] == pytest.approx(more["mean_tpot_ms"], rel=0.01)
    assert found[0]["tgs"] == pytest.approx(more["afdsim"]["tgs"], rel=0.01)
    assert found[0]["tgs_change"] == pytest.approx(more["afdsim"]["tgs"] / as_it_is["afdsim"]["tgs"] - 1, abs=0.01)
    assert found[0]["usd_per_1m_output_tokens"] == pytest.approx(more["afdsim"]["usd_per_1m_output_tokens"], rel=0.01)


def test_an_open_loop_meets_the_same_requests():
    scenario = tiny(3, attention=1, ffn=1, workload=OPEN)
    ours, _ = rows(scenario)
    theirs = afdsim.simulate(scenario.vary("deployment.attention.instances", 2)).summary

    assert ours["mean_tpot_ms"] == theirs["mean_tpot_ms"]
    assert ours["tgs"] == theirs["afdsim"]["tgs"]


def test_what_cannot_be_says_why_in_half_a_line():
    (row,) = rows(colocated(deployment__instances=4))

    assert row == {
        "role": "instance",
        "deployment": "EP10",
        "why": "8 experts and 0 copies do not divide over 10 groups of GPUs",
    }
    assert list(blaming.marginal([row])) == [f"One more instance (EP10): {row['why']}"]


def test_of_attention_groups_one_more_instance_does_not_divide():
    attention, _ = rows(tiny(3, attention=2, ffn=1, deployment__attention__groups=2))

    assert attention["why"] == "2 groups do not divide the 3 instances"


def test_tensor_parallelism_takes_the_next_degree_that_divides_or_none():
    engine = {"type": "tensor_parallel", "gpu": "H800", "gpus": 2, "max_num_seqs": 4}
    (more,) = ways(colocated().vary("deployment", engine))

    assert (more.label, more.changes) == ("TP4", {"deployment.gpus": 4})
    assert list(ways(colocated().vary("deployment", engine | {"gpus": 4}))) == []


def test_a_long_open_loop_is_left_out_unless_asked_for():
    assert quick(tiny(3))
    assert quick(tiny(3, workload=OPEN))
    assert MOST < 1e9
    long = {**OPEN, "arrival": {"process": "constant", "request_rate": "20 req/s"}, "num_requests": 3_000_000}
    assert not quick(tiny(3, workload=long))


def test_the_command_prints_saves_and_leaves_it_out(tmp_path):
    def run(*words):
        return CliRunner().invoke(main, ["run", "small", "--quiet", *words])

    shown, plain = run(), run("--no-marginal")
    folder = tmp_path / "run"
    first, second = run("--json", "-o", str(folder)), run("--json")
    told = json.loads(first.stdout)["afdsim"]["marginal"]

    assert "One more attention instance (2A1F, 24 GPUs): TPOT " in shown.stdout
    assert "One more" not in plain.stdout
    assert first.stdout == second.stdout == (folder / "result.json").read_text(encoding="utf-8")
    assert [row["role"] for row in told] == ["attention", "ffn"]
    assert list(afdsim.Result.load(folder).marginal) == told
    assert "marginal" not in json.loads(run("--json", "--no-marginal").stdout)["afdsim"]


def test_of_several_seeds_the_first_is_asked():
    seeds = ["--set", "run.seeds=[0, 1]"]
    both, one = (
        json.loads(CliRunner().invoke(main, ["run", "small", "--quiet", "--json", *more]).stdout)["afdsim"]
        for more in (seeds, [])
    )

    assert both["marginal"] == one["marginal"]
