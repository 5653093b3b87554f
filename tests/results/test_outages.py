"""What is said of crashes: sums, recovery, availability, and that every way to look at a run bears them."""

import numpy as np
import pytest

import afdsim
from afdsim import timeline
from afdsim.results import outages
from afdsim.results.result import Result, pooled
from afdsim.results.terminal import terminal
from afdsim.scenario.document import Scenario, load

CRASH = {
    "events": [{"at": "600ms", "target": "ffn[0]"}],
    "detection": "10ms",
    "repair": "100ms",
    "restart": "90ms",
    "reprefill_rate": "1e6 tok/s",
}


def crashed(**changes: object) -> Scenario:
    """An open loop on 1A1F for two seconds with a crash in the middle, and 200 ms of standing still."""
    workload = {
        "arrival": {"process": "poisson", "request_rate": "600 req/s"},
        "input_len": 1024,
        "output_len": 32,
        "duration": "2s",
    }
    base = load("small").varied({"workload": workload, "run.warmup": "200ms", "failures": CRASH | changes})
    return base.vary("sla", {"tpot": "4ms", "percentile": "mean"})


@pytest.fixture(scope="module")
def result() -> Result:
    return afdsim.simulate(crashed())


def test_a_run_that_ends_before_the_first_crash_tells_of_none():
    found = afdsim.simulate(crashed().vary("run.stop.max_sim_time", "500ms")).summary["afdsim"]["failures"]

    assert found["outages"] == []
    assert found["crashes"] == found["downtime_s"] == 0


def test_an_outage_is_told_with_whom_it_hit_and_when_the_output_was_back(result):
    found = result.summary["afdsim"]["failures"]
    (one,) = found["outages"]

    assert (found["crashes"], one["targets"], one["at_s"]) == (1, ["ffn[0]"], 0.6)
    assert one["downtime_s"] == pytest.approx(0.2)
    assert found["availability"] == pytest.approx(1 - 0.2 / result.run.duration)
    assert one["requests_hit"] == one["contexts_lost"] == one["tokens_lost"] > 10
    assert one["tokens_reprefilled"] >= 1024 * one["contexts_lost"]
    assert 0.2 < one["recovery_s"] < 0.5
    assert one["output_during"] < one["output_before"]  # with what is caught up with after it
    assert one["goodput_during"] < one["goodput_before"]


def test_the_gap_across_an_outage_is_the_longest_of_all(result):
    gaps = result.samples("itl")
    crossed = gaps.values > 0.2

    (one,) = result.summary["afdsim"]["failures"]["outages"]
    firsts, admitted = result.requests["first_token_s"], result.requests["admitted_s"]
    without = int(((admitted < one["at_s"]) & (firsts > one["at_s"])).sum())  # hit before their first token
    assert gaps.weights[crossed].sum() == one["requests_hit"] - without
    assert result.summary["max_itl_ms"] > 200


def test_gaps_are_as_many_as_tokens_that_followed_another(result):
    tokens = result.tokens
    followers = int(tokens["batch"].sum()) - int((~np.isnan(result.requests["first_token_s"])).sum())

    assert int(tokens["gaps"].sum()) == followers


def test_down_time_is_a_column_of_the_report(result):
    told = terminal(result)

    assert "Failures: 1 crash; up " in told
    assert all(len(line) <= 96 for line in told.splitlines())
    assert result.summary["afdsim"]["pools"]["ffn"]["down"] == pytest.approx(0.2 / result.run.duration)


def test_lost_requests_are_failed_and_not_completed():
    result = afdsim.simulate(crashed(requests="reject", reprefill_rate=None))
    own, status = result.summary["afdsim"], result.requests["status"]

    assert own["lost"] == (status[result.requests["counted"]] == "lost").sum() > 0
    assert own["unfinished"] == 0
    assert own["sla"]["goodput_share"] < 1 - own["lost"] / result.requests["counted"].sum() + 1e-9
    assert "lost" in terminal(result)


def test_a_run_without_failures_says_nothing_of_them():
    own = afdsim.simulate(load("small").vary("workload.num_requests", 10)).summary["afdsim"]

    assert not {"failures", "lost"} & own.keys()


def test_a_saved_run_is_read_back(result, tmp_path):
    again = Result.load(result.save(tmp_path / "run"))

    assert again.summary == result.summary


def test_seeds_are_added_up():
    runs = [afdsim.simulate(crashed(), seed=seed) for seed in (0, 1)]
    found, each = pooled(runs)["afdsim"]["failures"], [run.summary["afdsim"]["failures"] for run in runs]

    assert found["crashes"] == 2
    assert found["tokens_lost"] == sum(one["tokens_lost"] for one in each)
    assert "outages" not in found
    assert "Failures: 2 crashes" in terminal(runs)


def test_failures_are_axes_of_sweeps():
    frame = afdsim.sweep(crashed(), over={"failures.restart": ["10ms", "90ms"]}, workers=1)

    assert frame["failures.downtime_s"].tolist() == pytest.approx([0.12, 0.2])


@pytest.mark.parametrize("engine", ["kernel", "processes"])
def test_a_timeline_bears_a_crash(engine):
    found = timeline.record(crashed().vary("run.engine", engine), (0.59, 0.82))
    spans = [span for span in found.spans if span.track in {"attention[0]", "ffn[0]"}]
    busy = [span for span in spans if span.cause == "busy"]

    assert max(span.end_s for span in busy if span.start_s < 0.6) == 0.6
    assert min(span.start_s for span in busy if span.start_s >= 0.6) == pytest.approx(0.8)
    assert [(span.track, span.start_s) for span in spans if span.cause == "down"] == [
        ("attention[0]", 0.6),
        ("ffn[0]", 0.6),
    ]


def test_outages_in_the_warm_up_are_told_of():
    result = afdsim.simulate(crashed().vary("run.warmup", "1s"))
    found = afdsim.simulate(crashed().vary("run.warmup", None))

    assert result.summary["afdsim"]["failures"]["availability"] == 1.0
    assert any("began in the warm-up" in note for note in result.notes)
    assert found.run.window[0] < 0.6 or any("began in the warm-up" in note for note in found.notes)


def test_rows_name_the_first_of_several_crashes():
    scenario = crashed(events=[{"at": "600ms", "target": "ffn[0]"}, {"at": "600ms", "target": "attention[0].gpu[1]"}])
    (row,) = outages.rows(afdsim.simulate(scenario).summary["afdsim"]["failures"])

    assert row[0] == "attention[0].gpu[1] +1"
