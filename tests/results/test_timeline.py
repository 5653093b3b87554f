"""Timelines and Chrome traces: valid, in agreement with the run, the same for every engine."""

import gzip
import json
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.errors import ScenarioError
from afdsim.results import chrome, plot_time, timeline
from afdsim.studies import recording

TINY = {
    "version": 1,
    "name": "tiny",
    "model": "step3-small",
    "deployment": {
        "type": "afd",
        "attention": {"gpu": "H800", "instances": 2},
        "ffn": {"gpu": "H800", "instances": 2},
        "max_num_seqs": 6,
    },
    "variation": {"event": 0.1, "step": 0.05},
    "workload": {"arrival": {"process": "closed_loop"}, "input_len": 64, "output_len": 4, "num_requests": 600},
}
COLOCATED = TINY | {
    "deployment": {"type": "colocated", "gpu": "H800", "instances": 2, "two_batch_overlap": True, "max_num_seqs": 8}
}
WHOLE = (0.0, 1e9)


def scenario(**changes):
    return afdsim.load(TINY).varied({path.replace("__", "."): value for path, value in changes.items()})


KINDS = {
    "closed loop": scenario,
    "by processes": lambda: scenario(run__engine="processes"),
    "requests now and then": lambda: scenario(
        workload__arrival={"process": "poisson", "request_rate": "300 req/s"}, workload__num_requests=40
    ),
    "every GPU": lambda: scenario(run__granularity="gpu"),
    "dedicated wires": lambda: scenario(network__type="dedicated"),
    "ports": lambda: scenario(network__type="ports"),
    "uplinks": lambda: scenario(network__uplinks={"oversubscription": 4, "latency": "1us"}),
    "uplinks of every GPU": lambda: scenario(network__uplinks={"oversubscription": 4}, run__granularity="gpu"),
    "bonded ports": lambda: scenario(
        network__type="shared", network__link={"ports": 2, "split": False}, network__degraded={"ffn[1]": 0.5}
    ),
    "few NICs": lambda: scenario(
        network__link__bandwidth="100Gbps", network__nics_per_instance=2, run__granularity="gpu"
    ),
    "drained steps": lambda: scenario(deployment__boundary="drain", deployment__gap="50us"),
    "one micro-batch": lambda: scenario(deployment__num_microbatches=1),
    "late posts": lambda: scenario(variation__spike={"probability": 0.3, "seconds": "1ms", "where": "link"}),
    "colocated": lambda: afdsim.load(COLOCATED),
}


@pytest.fixture(scope="module")
def drawn():
    """Return the timeline of a kind of run, simulated once."""
    known = {}

    def draw(kind):
        if kind not in known:
            known[kind] = recording.record(KINDS[kind](), WHOLE)
        return known[kind]

    return draw


@pytest.mark.parametrize("kind", KINDS)
def test_every_trace_is_valid(drawn, kind):
    document = chrome.document(drawn(kind))

    assert chrome.faults(document) == []
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("kind", KINDS)
def test_a_track_does_one_thing_at_a_time(drawn, kind):
    tracks = defaultdict(list)
    for span in drawn(kind).spans:
        tracks[span.track].append((span.start_s, span.end_s))

    for spans in tracks.values():
        begin, end = np.array(sorted(spans)).T
        assert (begin[1:] >= end[:-1] - 1e-12).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"colocated", "requests now and then"}])
def test_replayed_transfers_end_when_the_engine_says(drawn, kind):
    """An FFN operation begins when its micro-batch is gathered and the one before has ended; bit for bit.

    Nobody knows the rows of the last step, which the end of the run cut off.
    """
    every = drawn(kind).spans
    spans = [span for span in every if span.step < every[-1].step]
    gathered = {(s.step, s.layer, s.micro_batch): s.end_s for s in spans if s.track == "ffn[1] gather"}
    works = [s for s in spans if s.track == "ffn[1]" and s.cause == "busy"]

    assert len(works) > 50
    for before, work in pairwise(works):
        assert work.start_s == max(before.end_s, gathered[work.step, work.layer, work.micro_batch])


def test_late_rows_leave_late():
    every = {"probability": 1.0, "seconds": "1ms", "where": "link"}
    found = recording.record(scenario(network__type="shared", variation__spike=every), WHOLE).spans
    places = {span.track: {} for span in found}
    for span in found:
        if span.cause == "busy" and span.layer >= 0:
            places[span.track][span.step, span.layer, span.micro_batch] = span

    for server, port in (("attention[1]", "attention[1] egress"), ("ffn[0] scatter", "ffn[0] egress")):
        shared = places[server].keys() & places[port].keys()
        waited = [places[port][place].start_s - places[server][place].end_s for place in shared]
        assert len(waited) > 50
        assert min(waited) == pytest.approx(1e-3 + 8e-6 + 1.5e-6, rel=1e-9)  # synchronise and post as well


def test_engines_draw_the_same_timeline(drawn):
    assert drawn("closed loop").spans == drawn("by processes").spans


def test_tracks_are_instances_their_ports_and_micro_batches(drawn):
    assert drawn("closed loop").tracks == (
        *(f"attention[{u}]{part}" for u in (0, 1) for part in ("", " egress", " ingress")),
        *(f"ffn[{f}]{part}" for f in (0, 1) for part in ("", " egress", " gather", " ingress", " scatter")),
        *(f"micro-batch {j}" for j in range(3)),
    )
    assert "attention[1].7 egress" in drawn("every GPU").tracks
    assert {"attention uplink", "attention downlink", "ffn uplink", "ffn downlink"} < set(drawn("uplinks").tracks)
    assert {"attention uplink.7", "ffn[1].7 ingress"} < set(drawn("uplinks of every GPU").tracks)
    assert {"attention[0].0 egress", "attention[0].1 egress", "ffn[1] ingress"} < set(drawn("bonded ports").tracks)
    assert {"attention[0].7 egress", "attention[0].4 ingress", "ffn[1].1 egress"} < set(drawn("few NICs").tracks)
    assert "ffn[0] to attention[1]" in drawn("dedicated wires").tracks
    assert drawn("colocated").tracks == ("colocated[0]", "colocated[1]", "micro-batch 0", "micro-batch 1")


@pytest.mark.parametrize("kind", ["closed loop", "one micro-batch", "colocated"])
def test_spans_add_up_to_the_seconds_of_the_causes(drawn, kind):
    """The record shares out the steps at the edges of its window evenly, hence the tolerance."""
    made = drawn(kind)
    begin, end = made.result.run.window
    frame = made.result.gpus.groupby(["pool", "instance"]).mean(numeric_only=True)
    pool, track = ("colocated", "colocated[0]") if kind == "colocated" else ("ffn", "ffn[0]")
    for cause in ("busy", "wait_peer", "network"):
        drawn_s = sum(
            max(0.0, min(s.end_s, end) - max(s.start_s, begin))
            for s in made.spans
            if (s.track, s.cause) == (track, cause)
        )
        # in a colocated pool slow ranks and held SMs are told apart inside an operation
        slack = 0.25 if kind == "colocated" else 0.05
        assert drawn_s == pytest.approx(frame.loc[(pool, 0), cause], abs=slack * (end - begin))


def test_slices_are_named_by_step_layer_and_micro_batch(drawn):
    names = {event["name"] for event in chrome.document(drawn("ports"))["traceEvents"] if event["ph"] == "X"}

    assert {
        "s3 L1 m2",
        "s3 m0 boundary",
        "s2 L0 m1 to ffn[1]",
        "s2 L0 m1 from attention[1]",
        "s4 L1 m0 A to F",
    } <= names
    assert {"wait peer", "network"} <= names


def test_counters_follow_batch_and_queue(drawn):
    events = chrome.document(drawn("requests now and then"))["traceEvents"]
    counts = [event for event in events if event["ph"] == "C"]

    assert {event["name"] for event in counts} == {"queue", *(f"batch of micro-batch {j}" for j in range(3))}
    assert max(event["args"]["requests"] for event in counts if event["name"] == "queue") >= 1
    assert [event for event in counts if event["name"] == "queue"][-1]["args"]["requests"] == 0


def test_a_window_keeps_what_touches_it():
    part, whole = recording.record(TINY, (0.004, 0.006)), recording.record(TINY, WHOLE)
    inside = [s for s in whole.spans if s.start_s < 0.006 and s.end_s > 0.004 and s.track == "attention[0]"]

    assert {s for s in inside if s.cause == "busy"} == {
        s for s in part.spans if s.cause == "busy" and s.track == "attention[0]"
    }


def test_the_pipeline_shows_four_rows(drawn):
    columns, window = drawn("closed loop").pipeline(layers=2)

    assert list(dict.fromkeys(columns["track"].tolist())) == ["A", "A → F", "F", "F → A"]
    assert set(columns["micro_batch"].tolist()) == {-1, 0, 1, 2}
    assert {"busy", "network"} <= set(columns["cause"].tolist())
    assert 0 < window[1] - window[0] < 0.01


@pytest.mark.parametrize(
    ("text", "expected"), [("2s", (0.0, 2.0)), ("100ms", (0.0, 0.1)), ("10s..12s", (10.0, 12.0))]
)  # fmt: skip
def test_windows_are_read_with_units(text, expected):
    assert timeline.window(text) == expected


@pytest.mark.parametrize("text", ["2", "2 GB", "3s..2s", "0s", "..", "1s.."])
def test_other_windows_are_refused(text):
    with pytest.raises(ScenarioError, match=text.replace(".", r"\.")):
        timeline.window(text)


# the validator can fail ---------------------------------------------------------------------------------------------

GOOD = {"ph": "X", "name": "a", "pid": 1, "tid": 1, "ts": 0.0, "dur": 2.0}
BAD = {
    "unknown ph 'B'": [GOOD | {"ph": "B"}],
    "ts '0' is no number": [GOOD | {"ts": "0"}],
    "ts nan is no number": [GOOD | {"ts": float("nan")}],
    "dur -1.0 < 0": [GOOD | {"dur": -1.0}],
    "dur None is no number": [{key: value for key, value in GOOD.items() if key != "dur"}],
    "tid None is no number": [{key: value for key, value in GOOD.items() if key != "tid"}],
    "no name": [GOOD | {"name": ""}],
    "'a' and 'b' overlap at 1.0": [GOOD, GOOD | {"name": "b", "ts": 1.0}],
    "a counter counts no number": [{"ph": "C", "name": "queue", "pid": 1, "tid": 0, "ts": 0, "args": {"n": "x"}}],
}


@pytest.mark.parametrize("fault", BAD)
def test_the_validator_finds(fault):
    assert any(fault in found for found in chrome.faults({"traceEvents": BAD[fault]}))


def test_the_validator_allows_nested_and_adjacent_slices():
    inner, after, elsewhere = GOOD | {"dur": 1.0}, GOOD | {"ts": 2.0}, GOOD | {"tid": 2, "ts": 1.0}

    assert chrome.faults({"traceEvents": [GOOD, inner, after, elsewhere]}) == []


# files --------------------------------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        chrome.write(recording.record(TINY, (0.0, 0.01)), tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_command_writes_a_trace_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(main, ["run", "small", "--trace", "50ms", "-o", str(tmp_path / "r"), "--quiet"])
    trace = json.loads(gzip.decompress((tmp_path / "r/trace.json.gz").read_bytes()))

    assert done.exit_code == 0
    assert "open it in ui.perfetto.dev" in done.stderr
    assert chrome.faults(trace) == []
    assert trace["otherData"]["scenario"] == "small"
    assert (tmp_path / "r/figures/gantt.png").stat().st_size


def test_without_a_folder_the_trace_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["run", "small", "--trace", "10ms..20ms", "--quiet"])

    assert done.exit_code == 0
    assert (tmp_path / "small.trace.json.gz").stat().st_size


def test_a_window_without_unit_is_bad_input():
    done = CliRunner().invoke(main, ["run", "small", "--trace", "2"])

    assert done.exit_code == 2
    assert "--trace 2: needs a unit" in done.stderr


def test_a_gantt_of_a_run_is_drawn(drawn, tmp_path):
    pytest.importorskip("matplotlib")
    columns, window = drawn("closed loop").pipeline()
    axes = plot_time.gantt(columns, window=window)

    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "A → F", "F", "F → A"]


def test_the_micro_batches_of_every_attention_group_come_back():
    made = recording.record(scenario(deployment__attention__groups=2, network__type="shared"), WHOLE)
    back = {span.track for span in made.spans if span.what == "F to A"}

    assert back == {f"micro-batch {batch}" for batch in range(6)}
    assert chrome.faults(chrome.document(made)) == []
