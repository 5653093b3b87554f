"""Deployments side by side."""

import dataclasses
import functools
import json
import math
import re

import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.errors import ScenarioError
from afdsim.results.header import WIDTH
from afdsim.studies.comparison import WORTH, _advised, _said, _wrapped
from afdsim.studies.differences import Difference
from afdsim.studies.tuning import Figures, Tuned

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


def told(*arguments):
    done = CliRunner().invoke(main, ["compare", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def one_line(text):
    return " ".join(text.split())


def small(rate, **changes):
    arrival = {"process": "poisson", "request_rate": f"{rate} req/s"}
    return afdsim.load("small").varied({"workload.arrival": arrival, "workload.num_requests": 6000, **changes})


@functools.cache
def uneven():
    """Two instances carry the load of the first, one does not; three limits, in ms and in s."""
    sla = {"tpot": "4ms", "e2el": "20min", "queue": "2000s", "percentile": "p99"}
    two = small(2500, name="two", sla=sla, **{"deployment.attention.instances": 2})
    return afdsim.compare(two, two.varied({"name": "one", "deployment.attention.instances": 1}))


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

    done = CliRunner().invoke(main, ["compare", "small", "small", "--no-tune", *fewer, "-o", str(out)])

    assert done.exit_code == 0, done.output
    assert "Output tok/s/GPU (TGS)" in done.stdout
    assert "GPU time (%)" in done.stdout
    saved = json.loads((out / "compare.json").read_text())
    assert set(saved) == {"advice", "deployments", "differences", "notes", "shared", "verdict"}
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
    found = afdsim.compare(engine("a") | {"sla": {"tpot": "1s"}}, engine("b", host_overhead="3s"), tune=False)

    goodput = next(each for each in found.differences if each.key == "request_goodput")
    assert (goodput.value, goodput.high) == (-1.0, math.inf)


def test_changes_of_the_second_alone_may_not_touch_what_all_share():
    done = CliRunner().invoke(main, ["compare", "small", "small", "--set-b", "run.seeds=[1]"])

    assert done.exit_code == 2
    assert "all have their run from the first scenario; use --set or --set-a" in done.stderr


def test_the_header_says_what_is_shared_and_what_differs(tmp_path):
    changes = ["--no-tune", "--set-a", "workload.num_requests=64", "--set-b", "deployment.max_num_seqs=24"]
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
    quick = ["--no-tune", "--set", "workload.num_requests=8", "--set", "workload.output_len.value=2"]
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


def test_the_header_names_the_seeds_that_ran_and_so_do_the_scenarios():
    found = afdsim.compare(engine("a"), engine("b"), seeds=range(3))

    assert "seeds=[0, 1, 2]" in found.text()
    assert found.notes == ()
    assert [[run.seed for run in runs] for runs in found.runs.values()] == [[0, 1, 2]] * 2
    assert {run.scenario.run.seeds for runs in found.runs.values() for run in runs} == {(0, 1, 2)}


def test_seeds_are_held_to_what_a_scenario_may_say():
    with pytest.raises(ScenarioError, match="names a seed twice"):
        afdsim.compare(engine("a"), engine("b"), seeds=[1, 1])


def test_changes_of_what_all_share_are_made_to_the_first_alone():
    text = told("step3_poisson", "step3_ep32", "--set", "workload.duration=5s", "--set", "sla.tpot=40ms")

    assert "duration=5 s" in text
    assert "sla: tpot=40 ms" in text
    assert "step3_ep32: workload replaced by that of step3_poisson" in text


def test_changes_of_the_rest_are_made_to_all():
    fewer = ["--no-tune", "--set", "workload.num_requests=64", "--set", "deployment.max_num_seqs=24"]
    found = json.loads(told("small", "small", "--json", *fewer))["deployments"]

    assert [each["completed"] for each in found.values()] == [64, 64]
    assert len({repr(each["afdsim"]["pools"]) for each in found.values()}) == 1
    assert "max_num_seqs" not in told("small", "small", *fewer)


def test_every_limit_is_held_with_its_unit_and_the_load():
    lines = [line for line in uneven().verdict if line.startswith("SLA ")]

    assert len(lines) == 6
    assert [line.partition(":")[0] for line in lines[::2]] == [line.partition(":")[0] for line in lines[1::2]]
    heads = {line.partition(":")[0] for line in lines}
    assert heads == {"SLA p99 TPOT <= 4 ms", "SLA p99 E2EL <= 1,200 s", "SLA p99 QUEUE <= 2,000,000 ms"}
    assert all("load" not in line for line in lines if ": two PASS at " in line)
    ones = [line for line in lines if ": one PASS at " in line]
    assert len(ones) == 3
    assert all(line.endswith("; load OVERLOADED, so the SLA is FAIL") for line in ones)


def test_a_limit_alone_is_held_as_the_sla_is():
    found = afdsim.compare(engine("a") | {"sla": {"e2el": "100s", "percentile": "p99"}}, engine("b"))

    assert [line for line in found.verdict if "SLA" in line] == [
        f"SLA p99 E2EL <= 100 s: {name} n/a (p99 needs more requests)" for name in "ab"
    ]


def test_who_does_not_carry_the_load_is_named_before_tokens():
    first, *others = uneven().verdict

    assert first == (
        "one does not carry the load (OVERLOADED: the queue grows and no longer empties); "
        "its tokens per GPU are its capacity."
    )
    tokens = [line for line in others if "tokens per GPU" in line]
    assert len(tokens) == 1
    assert tokens[0].startswith("one gives ")
    assert "tokens per GPU than two; the load fixes those of two; a token is " in tokens[0]


def test_more_than_twice_as_much_is_a_factor():
    queue = next(each for each in uneven().differences if each.key == "mean_queue_ms")
    factor = f"queue wait mean {1 + queue.value:,.1f} times as high"

    assert queue.value > 1
    assert any(f"{factor} (95% CI " in line and " times)" in line for line in uneven().verdict)


@pytest.mark.parametrize(
    ("value", "half", "spoken"),
    [
        (0.5, 0.1, "queue wait mean 50.0% higher (95% CI +40.0% to +60.0%)"),
        (1.0, 0.5, "queue wait mean 100.0% higher (95% CI +50.0% to +150.0%)"),
        (-0.5, 0.1, "queue wait mean 50.0% lower (95% CI -60.0% to -40.0%)"),
        (0.001, 0.1, "queue wait mean the same within chance, +0.1% (95% CI -9.9% to +10.1%)"),
        (11.7, 5.6, "queue wait mean 12.7 times as high (95% CI 7.1 to 18.3 times)"),
        (1999.0, math.inf, "queue wait mean 2,000.0 times as high"),
        (2.0, 3.0, "queue wait mean 3.0 times as high (95% CI 0.0 to 6.0 times), within chance"),
    ],
)
def test_changes_are_spoken(value, half, spoken):
    found = Difference(
        name="b", against="a", key="mean_queue_ms", value=value, low=max(value - half, -1), high=value + half
    )
    if math.isinf(half):
        found = dataclasses.replace(found, low=-math.inf)

    assert _said("queue wait mean", found) == spoken


@functools.cache
def in_some_seeds(limit):
    """Runs of one request each, which a limit in time lets pass with some seeds only."""
    alone = {"workload": {**ENGINE["workload"], "num_requests": 1}, "sla": {"e2el": limit, "percentile": "mean"}}
    return afdsim.compare(engine("a") | alone, engine("b", gpus=4), seeds=range(4))


def test_a_figure_that_is_nothing_with_one_seed_has_no_interval():
    found = in_some_seeds("9ms")

    assert [run.summary["request_goodput"] > 0 for run in found.runs["a"]] == [True, True, False, True]
    goodput = next(each for each in found.differences if each.key == "request_goodput")
    assert (goodput.low, goodput.high) == (-math.inf, math.inf)


def test_a_figure_that_is_nothing_with_every_seed_has_no_difference():
    found = in_some_seeds("1ms")

    assert found.summaries["a"]["request_goodput"] == 0
    assert "request_goodput" not in {each.key for each in found.differences}


def test_help_shows_the_examples_line_by_line():
    lines = told("--help").splitlines()

    assert "  afdsim compare step3_2a2f_4k dsv3_ep128_4k -o out/" in lines
    assert "\\b" not in "".join(lines)
    assert "\b" not in "".join(lines)
    assert "Write into a folder that holds something else." in one_line(told("--help"))
    assert f"gives over {WORTH:.0%} more tokens" in one_line(told("--help"))


@pytest.mark.parametrize("name", ["a", "a_deployment_of_20_col", "a_deployment_whose_name_is_35_cols_"])
def test_a_comparison_is_96_columns_wide(name):
    slow = {"variation": {"straggler": {f"attention[{each}]": 1.1 for each in range(8)}}}
    base = small(1500, name=name).varied({"workload.num_requests": 200, "deployment.attention.instances": 8})
    found = afdsim.compare(base, base.varied({"name": "b", **slow}))

    head, _, rest = found.text().partition("GPU time")
    assert max(map(len, head.splitlines())) <= WIDTH
    verdict = rest.partition("\n\n")[2]
    assert max(map(len, verdict.splitlines())) <= WIDTH
    assert "attention[7] x1.1" in one_line(head)


def test_what_is_noted_of_all_is_told_once_and_of_some_with_their_names():
    full = small_closed(**{"workload.input_len": 3_000_000})
    b, c = ({"name": name, "variation.step": 0.1} for name in "bc")
    text = one_line(afdsim.compare(full, full.varied(b), full.varied(c), tune=False).text())

    assert len(re.findall(r"(?<!: )KV cache of a rank holds [\d,]+ of max_num_seqs 48", text)) == 1
    assert text.count("kernel times assumed, not measured, on H800") == 1
    assert "small: variation as the scenario states it (sigma of lognormal multipliers): event 0.05, step 0.02" in text
    assert "b, c: variation as the scenario states it (sigma of lognormal multipliers): event 0.05, step 0.1" in text


def closed(folder, name, gpus, path="no_such_file.csv"):
    """Write a scenario that replays a trace on some GPUs."""
    file = folder / f"{name}.yaml"
    file.write_text(
        f"model: llama-7b\ndeployment: {{type: tensor_parallel, gpu: H100, gpus: {gpus}, max_num_seqs: 8}}\n"
        f"workload: {{trace: {{path: {path}}}}}\n"
    )
    return str(file)


@pytest.fixture
def replayed(tmp_path):
    """Two deployments of a model for 4,096 tokens, whose traces are not there, and a trace with one request beyond."""
    (tmp_path / "llama-7b").mkdir()
    keys = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8}
    keys |= {"num_key_value_heads": 8, "vocab_size": 1024, "max_position_embeddings": 4096, "model_type": "llama"}
    (tmp_path / "llama-7b" / "config.json").write_text(json.dumps(keys))
    rows = [f"{second},{4095 if second == 3 else 100},4" for second in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["arrival_s,input_len,output_len", *rows]) + "\n")
    two = closed(tmp_path, "two", 2), closed(tmp_path, "four", 4)
    return *two, "--no-tune", "--set", f"workload.trace.path={tmp_path / 't.csv'}"


def test_a_trace_that_is_replaced_need_not_be_there(replayed):
    text = one_line(told(*replayed))

    assert "replaced by that of" not in text
    assert text.count("t.csv: read as afdsim (s): 8 requests") == 1
    assert text.count("1 of 8 requests are longer than the 4,096 tokens that llama-7b was made for") == 1


def test_requests_beyond_a_model_are_refused_by_strict(replayed):
    done = CliRunner().invoke(main, ["compare", *replayed, "--strict"])

    assert done.exit_code == 2
    assert "workload: 1 of 8 requests are longer than the 4,096 tokens that llama-7b was made for" in done.stderr
    assert "--strict refuses that" in done.stderr


def test_one_file_twice_has_nothing_replaced():
    text = told("small", "small", "--no-tune", "--set", "workload.num_requests=8", "--set-a", "sla.tpot=9ms")

    assert "replaced by that of" not in text


def small_closed(**changes):
    return afdsim.load("small").varied({"workload.num_requests": 32, "workload.output_len": 4, **changes})


def test_a_side_shows_only_the_keys_of_the_network_that_it_has():
    pools = small_closed(**{"network.link.latency": "5us", "network.post": "0s"})
    overlap = {"type": "colocated", "gpu": "H800", "instances": 1, "max_num_seqs": 8}
    one = pools.varied({"name": "one", "network": {"link": {"bandwidth": "43 GB/s"}}, "deployment": overlap})
    head = one_line(afdsim.compare(pools, one, tune=False).text().partition("All of them")[0])

    assert "network: link.latency=5 us, post=0 s" in head
    assert head.endswith("network: link.bandwidth=43 GB/s")


def test_no_line_ends_within_a_word_a_quantity_or_an_option():
    (line,) = searched().advice
    told = "x " * 20
    lines = [_wrapped(told[:many] + line + " 2 micro-batches 0 s", "") for many in range(40)]

    assert all(
        one_line(" ".join(each)) == one_line(" ".join(each).replace("\N{NO-BREAK SPACE}", "?")) for each in lines
    )
    ends = [end for each in lines for end in each[:-1]]
    assert not [end for end in ends if re.search(r"(\d|--set-[ab]|micro-)$", end)]


# the best of every side -----------------------------------------------------------------------------------------------


TWO = {"type": "colocated", "gpu": "H800", "instances": 1, "two_batch_overlap": True, "max_num_seqs": 40}
TIGHT = {"sla": {"tpot": "1.5ms", "percentile": "mean"}, "workload": {**ENGINE["workload"], "num_requests": 512}}


def overlapped(name, **deployment):
    return {**ENGINE, **TIGHT, "name": name, "deployment": {**TWO, **deployment}}


@functools.cache
def searched():
    """The second is best as it is; the first overlaps where that does not pay."""
    base = overlapped("best", two_batch_overlap=False)
    best = afdsim.tune(base).scenario
    return afdsim.compare(overlapped("overlapped"), best)


def test_a_side_that_is_not_at_its_best_is_named_and_the_other_is_not():
    (line,) = searched().advice

    begin = "overlapped is not run at its best: on the same instances --set-a deployment.two_batch_overlap=false"
    assert line.startswith(begin)
    assert "--set-a deployment.max_num_seqs=" in line
    assert one_line(line) in one_line(searched().text())


def test_options_of_a_note_can_be_used_as_they_are_printed(tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, way in zip(files, ("overlapped", "other"), strict=True):
        file.write_text(json.dumps(overlapped(way)))
    printed = one_line(told(*map(str, files)))
    options = re.findall(r"(--set-[ab]) (deployment\.\S+=\S+)", printed)
    gives = re.findall(r"gives ([\d,]+) tok/s/GPU at a mean TPOT of ([\d.]+) ms; as it is", printed)
    again = json.loads(told(*map(str, files), *(part for option in options for part in option), "--json"))

    assert {option for option, _ in options} == {"--set-a", "--set-b"}
    for (tokens, tpot), found in zip(gives, again["deployments"].values(), strict=True):
        assert f"{found['afdsim']['tgs']:,.0f}" == tokens
        assert found["mean_tpot_ms"] == pytest.approx(float(tpot), abs=0.0005)
        assert found["afdsim"]["sla"]["met"]
    assert all(abs(each["gain"]) < 0.02 for each in again["tuning"].values())


def test_a_side_that_misses_its_sla_is_told_how_it_meets_it():
    many = overlapped("many", two_batch_overlap=False, max_num_seqs=400)
    (line,) = afdsim.compare(many, searched().runs["best"][0].scenario).advice

    begin = "many misses its SLA and on the same instances would meet it: --set-a deployment.max_num_seqs="
    assert line.startswith(begin)


def test_what_was_searched_is_in_the_data():
    found = searched().to_dict()["tuning"]

    assert list(found) == ["overlapped", "best"]
    assert found["overlapped"]["changes"]["deployment.two_batch_overlap"] is False
    assert found["overlapped"]["gain"] > 0.02 > abs(found["best"]["gain"])
    assert set(found["best"]["as_is"]) == {"tgs", "tpot_ms", "sla_tpot_ms", "verdict"}
    assert found["overlapped"]["verdict"] == "PASS"


@pytest.mark.parametrize(
    ("verdict", "may"), [("PASS", "would meet it"), ("n/a", "may meet it (p99 needs more requests)")]
)
def test_advice_shows_the_statistic_that_is_limited_and_which_seed_says_so(verdict, may):
    scenario = afdsim.load(overlapped("a")).varied({"sla.percentile": "p99", "run.seeds": [1, 2]})
    best, as_is = (Figures(90.0, 1.25, 1.49, verdict), Figures(100.0, 1.5, 1.75, "FAIL"))
    found = Tuned(scenario=scenario, changes={"deployment.max_num_seqs": 9}, best=best, as_is=as_is)

    assert _advised("a", found, {"afdsim": {"sla": {"verdict": "FAIL"}}}, "--set-a ") == (
        f"a misses its SLA and on the same instances {may}: --set-a deployment.max_num_seqs=9 gives 90 tok/s/GPU "
        "at a p99 TPOT of 1.49 ms, mean 1.25 ms; as it is 100 tok/s/GPU at a p99 TPOT of 1.75 ms, mean 1.5 ms (seed 1)."
    )


def test_a_third_side_has_its_changes_without_an_option():
    quick = [engine("a"), engine("b"), overlapped("c")]
    found = afdsim.compare(*quick)

    assert [
        line
        for line in found.advice
        if line.startswith("c is not run at its best: on the same instances deployment.two_batch_overlap=")
    ]


def test_nothing_is_searched_where_that_is_not_wanted_or_the_load_decides():
    unwanted = afdsim.compare(overlapped("a"), overlapped("b"), tune=False)

    assert (unwanted.tuned, unwanted.advice) == ({}, ())
    assert "tuning" not in unwanted.to_dict()
    assert uneven().tuned == {}
