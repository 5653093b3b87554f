"""What is asked of a cluster: where arrivals and lengths come from, each told once."""

import json

import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.errors import ScenarioError
from afdsim.scenario.document import load, shipped
from afdsim.scenario.requests import requested

VIDUR = "num_prefill_tokens,num_decode_tokens\n" + "".join(f"{100 + n},{20 + n}\n" for n in range(6))
TIMED = "arrival_s,input_len,output_len\n" + "".join(f"{n},{100 + n},{20 + n}\n" for n in range(6))
LAWS = (
    {"process": "poisson", "request_rate": "50 req/s"},
    {"process": "constant", "request_rate": "50 req/s"},
    {"process": "gamma", "request_rate": "50 req/s", "cv": 2.0},
    {"process": "closed_loop", "concurrency": 4},
)


@pytest.fixture
def lengths(tmp_path):
    """A scenario of two layers that takes lengths from a file and arrivals from a law."""

    def asked(law, rows=VIDUR, **workload):
        path = tmp_path / "t.csv"
        path.write_text(rows)
        given = {"arrival": law, "input_len": None, "output_len": None, "trace": {"path": str(path)}}
        return load({"extends": "small", "workload": given | {"num_requests": None} | workload})

    return asked


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law["process"])
@pytest.mark.parametrize("rows", [VIDUR, TIMED], ids=["without arrivals", "with arrivals"])
def test_lengths_come_from_a_file_and_arrivals_from_a_law(lengths, law, rows):
    source = requested(lengths(law, rows), seed=0)

    assert source.columns(8)[0].tolist() == [100, 101, 102, 103, 104, 105, 100, 101]
    assert source.file.told.endswith("; lengths from the file, arrivals from the law")


def test_arrivals_of_a_law_are_the_same_whatever_gives_the_lengths(lengths, small):
    law = LAWS[0]
    other = small.varied({"workload.arrival": law})

    assert requested(lengths(law), 3).times(50).tolist() == requested(other, 3).times(50).tolist()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law["process"])
def test_all_lengths_of_a_file_are_used_once_unless_more_are_asked_for(lengths, law):
    once, more = afdsim.simulate(lengths(law)), afdsim.simulate(lengths(law, num_requests=20))

    assert sum(once.run.requests["counted"]) <= 6
    assert any(note.startswith("t.csv: read as vidur (lengths only): 6 requests of ") for note in once.notes)
    assert any(note.startswith("t.csv: its 6 lengths start again from the first: ") for note in more.notes)
    assert law["process"] == "closed_loop" or not any("start again" in note for note in once.notes)


def test_lengths_are_drawn_from_a_file_for_as_long_as_a_duration(lengths):
    found = requested(lengths(LAWS[1], duration="1s"), 0)

    assert found.until(1.0) == 51


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_len": 5}, "workload.input_len: comes from the trace; remove it (or set it to null)"),
        ({"arrival": {"process": "trace"}, "output_len": 5}, "workload.output_len: comes from the trace; remove it"),
        (
            {"trace": {"time_scale": 0.5}},
            "workload.trace.time_scale: changes arrivals of the file, and process poisson",
        ),
        ({"trace": {"spread": True}}, "workload.trace.spread: changes arrivals of the file, and process poisson gives"),
        ({"trace": None}, "workload.input_len: required key is missing"),
        ({"trace": None}, "workload.num_requests: required key is missing"),
        ({"arrival": {"process": "trace"}, "trace": None}, "workload.trace: process trace needs a file"),
        ({"trace": {"format": "azur"}}, "workload.trace.format: must be one of auto, azure, mooncake, bailian"),
        ({"trace": {"time_unit": "min"}}, "workload.trace.time_unit: must be one of s, ms, us, ns (got 'min')"),
        (
            {"trace": {"format": "mooncake", "time_unit": "s"}},
            "workload.trace.time_unit: time_unit s contradicts the format mooncake, whose arrivals count in ms",
        ),
        (
            {"trace": {"format": "azure", "time_unit": "s"}},
            "workload.trace.time_unit: time_unit s contradicts the format azure, whose arrivals are dates and times",
        ),
        ({"duration": "1s", "num_requests": 5}, "workload.duration: and num_requests both tell when arrivals end"),
    ],
)
def test_what_is_told_twice_or_not_at_all_is_refused(lengths, changes, message):
    base = lengths(LAWS[0])
    trace = changes.get("trace", {})
    merged = None if trace is None else {"path": base.workload.trace.path, **trace}

    with pytest.raises(ScenarioError) as caught:
        lengths(changes.get("arrival", LAWS[0]), **{**changes, "trace": merged})
    assert message in str(caught.value)


def test_a_unit_of_the_scenario_reaches_the_file(lengths):
    rows = "timestamp,input_length,output_length\n0,5,5\n500,5,5\n"
    arrival = {"process": "trace"}
    asked = lengths(arrival, rows)

    with pytest.raises(ScenarioError, match=r"fit mooncake \(ms\) and bailian \(s\)"):
        requested(asked, 0)
    assert requested(asked.vary("workload.trace.time_unit", "ms"), 0).times(2)[-1] == 0.5
    assert requested(asked.vary("workload.trace.format", "bailian"), 0).times(2)[-1] == 500.0


def test_a_replay_of_lengths_alone_names_the_way_out(lengths):
    with pytest.raises(ScenarioError, match=r"t.csv: read as vidur: has lengths and no arrivals .*process: poisson"):
        requested(lengths({"process": "trace"}), 0)
    with pytest.raises(ScenarioError, match=r"has lengths and no arrivals .*leave start out, and set end to null"):
        requested(lengths(LAWS[0]).vary("workload.trace.end", "1s"), 0)


def test_the_report_json_and_check_say_as_what_a_trace_was_read(lengths, tmp_path):
    lengths(LAWS[0], TIMED)
    words = ["--set", f"workload.trace.path={tmp_path / 't.csv'}", "--set", "model=step3-small"]
    told = "t.csv: read as afdsim (s): 6 requests in 5.00 s, 1.200 req/s"
    run, answer, check = (
        CliRunner().invoke(main, [*command, "azure_conversation", *words])
        for command in (["run", "--quiet"], ["run", "--quiet", "--json"], ["check"])
    )

    assert f"Note {told}\n" in run.stdout
    assert told in json.loads(answer.stdout)["afdsim"]["notes"]
    assert f"Trace {told}; 102.5 tokens in and 22.5 out on average" in " ".join(check.stdout.split())


def test_a_folder_is_no_trace(lengths, tmp_path):
    with pytest.raises(ScenarioError, match=r"workload\.trace\.path: is a folder, .*; name the file in it"):
        lengths(LAWS[0]).vary("workload.trace.path", str(tmp_path))


def test_a_unit_of_arrivals_that_nobody_reads_is_refused(lengths):
    base = lengths(LAWS[0], TIMED)

    with pytest.raises(
        ScenarioError, match=r"workload\.trace\.time_unit: is that of arrivals of the file, and process"
    ):
        base.vary("workload.trace.time_unit", "s")
    assert base.varied({"workload.trace.time_unit": "s", "workload.trace.end": "2s"}).workload.trace.time_unit == "s"


def test_no_shipped_scenario_fixes_a_format():
    overrides = {"azure_conversation": [f"workload.trace.path={__file__}"]}
    traces = [load(name, overrides=overrides.get(name, [])).workload.trace for name in shipped()]

    assert {trace.format for trace in traces if trace is not None} == {"auto"}


def test_a_comparison_says_once_as_what_a_trace_was_read(lengths):
    base = lengths(LAWS[3])
    text = afdsim.compare(base, base.varied({"name": "other", "deployment.max_num_seqs": 24}), tune=False).text()

    assert text.count("t.csv: read as vidur (lengths only): 6 requests") == 1
