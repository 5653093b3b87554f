"""Deployments side by side."""

import dataclasses
import json
import math

import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.errors import ScenarioError

ENGINE = {
    "name": "engine",
    "model": "step3-small",
    "deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 16},
    "workload": {
        "arrival": {"process": "closed_loop"},
        "input_len": {"distribution": "constant", "value": 64},
        "output_len": {"distribution": "uniform", "min": 2, "max": 20},
        "num_requests": 64,
    },
}


def engine(name, **deployment):
    return {**ENGINE, "name": name, "deployment": {**ENGINE["deployment"], **deployment}}


def test_a_deployment_does_not_differ_from_itself():
    found = afdsim.compare(engine("a"), engine("b"), seeds=[0, 1])

    assert [each.value for each in found.differences] == [0.0] * len(found.differences)
    assert all(each.low == each.high == 0.0 for each in found.differences)


def test_requests_are_the_same_everywhere():
    found = afdsim.compare(engine("a"), engine("b", max_num_seqs=8))

    a, b = (runs[0].requests for runs in found.runs.values())
    both = min(len(a), len(b))
    assert a.output_len[:both].tolist() == b.output_len[:both].tolist()


def test_the_first_workload_and_limit_count():
    other = engine("b") | {"workload": {**ENGINE["workload"], "num_requests": 8}}

    found = afdsim.compare(engine("a") | {"sla": {"tpot": "1ms", "percentile": "mean"}}, other)

    assert found.notes == ("b: workload replaced by that of a", "b: sla replaced by that of a")
    assert {summary["completed"] for summary in found.summaries.values()} == {64}
    assert sum("SLA" in line for line in found.verdict) == 2


def test_more_gpus_are_faster_and_the_verdict_says_so():
    found = afdsim.compare(engine("one", gpus=4), engine("two"), seeds=[0, 1, 2])

    tpot = next(each for each in found.differences if each.key == "mean_tpot_ms")
    assert tpot.certain
    assert tpot.value < 0
    assert found.verdict[0].startswith("two against one: TPOT mean ")
    assert found.verdict[1].startswith("two gives")


def test_two_of_one_name_are_told_apart():
    assert list(afdsim.compare(engine("a"), engine("a")).runs) == ["a", "a'"]


def test_one_scenario_is_nothing_to_compare():
    with pytest.raises(ScenarioError, match="two scenarios or more"):
        afdsim.compare(engine("a"))


def test_the_command_prints_and_saves(tmp_path):
    out = tmp_path / "out"
    fewer = ["--set", "workload.num_requests=64", "--set", "workload.output_len.value=4"]

    done = CliRunner().invoke(main, ["compare", "small", "small", *fewer, "-o", str(out)])

    assert done.exit_code == 0, done.output
    assert "Output tok/s/GPU (TGS)" in done.stdout
    assert "GPU time (%)" in done.stdout
    saved = json.loads((out / "compare.json").read_text())
    assert set(saved) == {"deployments", "differences", "verdict"}
    assert {path.name for path in (out / "figures").iterdir()} >= {"tpot_cdf.svg", "tpot_cdf.png", "causes.png"}


def test_the_frame_has_one_row_per_figure():
    frame = afdsim.compare(engine("a"), engine("b", max_num_seqs=8)).frame

    assert set(frame.columns) == {"deployment", "key", "value", "difference", "low", "high"}
    assert frame.deployment.unique().tolist() == ["a", "b"]


def test_a_comparison_at_a_prompt_is_a_page():
    found = afdsim.compare(engine("a"), engine("<b>"))
    many = dataclasses.replace(found, notes=tuple(f"note {number}" for number in range(200)))

    assert repr(found) == found.text()
    assert "&lt;b&gt;" in found._repr_html_()
    assert len(repr(many).splitlines()) == 61
    assert repr(many).endswith("... print(comparison.text()) for the rest")


def test_a_figure_of_nothing_has_no_interval_and_no_traceback():
    found = afdsim.compare(engine("a") | {"sla": {"tpot": "1s"}}, engine("b", host_overhead="3s"))

    goodput = next(each for each in found.differences if each.key == "request_goodput")
    assert (goodput.value, goodput.high) == (-1.0, math.inf)


def test_changes_of_the_second_alone_may_not_touch_what_all_share():
    done = CliRunner().invoke(main, ["compare", "small", "small", "--set-b", "run.seeds=[1]"])

    assert done.exit_code == 2
    assert "all have their run from the first scenario; use --set or --set-a" in done.stderr


def test_the_header_says_what_is_shared_and_what_differs(tmp_path):
    changes = ["--set-a", "workload.num_requests=64", "--set-b", "deployment.max_num_seqs=24"]
    done = CliRunner().invoke(main, ["compare", "small", "small", *changes])

    assert done.exit_code == 0, done.output
    head = done.stdout.partition("GPU time")[0]
    assert "deployment: max_num_seqs=48" in head
    assert "deployment: max_num_seqs=24" in head
    assert "All of them have from small:" in head
    assert "num_requests=64" in head
    assert max(map(len, done.stdout.splitlines())) <= 96


def test_a_folder_that_holds_something_else_is_not_written(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    quick = ["--set", "workload.num_requests=8", "--set", "workload.output_len.value=2"]
    refused = CliRunner().invoke(main, ["compare", "small", "small", *quick, "-o", str(tmp_path)])

    assert refused.exit_code == 2
    assert "holds no comparison; -o or --force" in refused.stderr
    assert (
        CliRunner().invoke(main, ["compare", "small", "small", *quick, "-o", str(tmp_path), "--force"]).exit_code == 0
    )


def test_the_load_fixes_the_tokens_of_deployments_that_carry_it():
    arrival = {"process": "poisson", "request_rate": "1500 req/s"}
    small = afdsim.load("small").varied({"workload.arrival": arrival, "workload.num_requests": 6000})
    found = afdsim.compare(small, small.varied({"name": "two", "deployment.attention.instances": 2}))

    assert any(
        "Both carry the load, which fixes the tokens: two on 24 GPUs, small on 16" in line for line in found.verdict
    )
    assert "Load " in found.text()
