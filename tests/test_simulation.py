"""The whole line: what a result says about itself, and what a scenario's trace becomes."""

import json
from pathlib import Path

import numpy as np
import pytest

import afdsim
from afdsim.errors import StoppedEarly
from afdsim.results.terminal import terminal
from afdsim.scenario.document import load
from tests.cases import Stages, tiny

DATA = Path(__file__).parent / "data"
QUICK = {"workload__num_requests": 3}


def replay(file, *overrides):
    given = (f"workload.trace.path={DATA / file}", "workload.trace.format=auto", "workload.trace.end=null")
    return load("azure_conversation", overrides=(*given, "model=step3-small", *overrides))


def test_the_manifest_names_the_cost_model_that_was_given_or_the_coefficients():
    given = afdsim.simulate(tiny(2, **QUICK), cost=Stages(attention=1.0, ffn=1.0, head=1.0))
    own = afdsim.simulate(tiny(2, **QUICK))

    assert given.manifest.coefficients.startswith("tests.cases.Stages sha256:")
    assert own.manifest.coefficients.startswith("sha256:")
    assert not any("kernel times" in note for note in given.notes)


def test_notes_say_what_is_assumed_and_what_was_measured_elsewhere(small):
    notes = afdsim.simulate(small.vary("workload.num_requests", 2)).notes

    assert "variation as the scenario states it (sigma of lognormal multipliers): event 0.05, step 0.02" in notes
    assert "kernel times assumed, not measured, on H800: reduction, sampling, embedding" in notes
    assert "kernel times transferred, not measured, on H800: all-gather, reduce-scatter" in notes
    assert "H800: 4 kernels priced by H100's measured tables (same family)" in notes


def test_a_run_on_the_gpu_that_was_measured_names_no_sibling(small):
    pools = {f"deployment.{pool}.gpu": "H100" for pool in ("attention", "ffn")}
    notes = afdsim.simulate(small.varied({"workload.num_requests": 2, **pools})).notes

    assert not any("same family" in note for note in notes)


def test_notes_repeat_the_cautions_of_the_scenario_without_its_folder(small):
    result = afdsim.simulate(small.vary("deployment.num_microbatches", 1).vary("workload.num_requests", 2))

    assert result.notes[0] == "deployment.num_microbatches: no overlap: with one micro-batch the pools take turns"


def test_notes_tell_what_was_done_to_a_trace_by_the_name_of_its_file():
    result = afdsim.simulate(replay("mooncake.jsonl", "workload.num_requests=20"))

    assert result.notes[0].startswith("mooncake.jsonl: read as mooncake (ms): 200 requests in ")
    assert result.notes[1].startswith("mooncake.jsonl: 200 requests on ")
    assert result.notes[1].endswith(" timestamps; see workload.trace.spread")
    assert sum(result.run.requests["counted"]) == 20


def test_a_spread_trace_has_no_two_arrivals_at_once():
    bucketed = afdsim.simulate(replay("mooncake.jsonl", "workload.num_requests=20"))
    spread = afdsim.simulate(replay("mooncake.jsonl", "workload.num_requests=20", "workload.trace.spread=true"))

    assert np.diff(bucketed.run.requests["arrival_s"]).min() == 0.0
    assert np.diff(spread.run.requests["arrival_s"]).min() > 0.0
    assert spread.notes[1].endswith(" timestamps; spread evenly")


def test_a_load_is_measured_up_to_the_last_arrival():
    drained = tiny(
        2,
        workload__arrival={"process": "constant", "request_rate": "10 req/s"},
        workload__output_len__value=400,
        **QUICK,
    )
    result = afdsim.simulate(drained.vary("network.synchronise", "5ms"))

    assert result.run.window[1] == max(result.run.requests["arrival_s"]) < max(result.run.requests["finish_s"])
    assert set(result.run.requests["status"]) == {"finished"}


def test_a_warm_up_that_takes_all_arrivals_is_noted_and_found_instead():
    late = tiny(2, workload__arrival={"process": "constant", "request_rate": "10 req/s"}, run__warmup="2s", **QUICK)
    result = afdsim.simulate(late)

    assert "run.warmup 2 s is not before the last arrival at 0.2 s: where the warm-up ends was found instead" in (
        result.notes
    )
    assert result.summary["completed"] > 0


def test_requests_that_all_come_at_once_are_a_batch_measured_to_its_end():
    batch = tiny(2, workload__arrival={"process": "poisson", "request_rate": float("inf")}, **QUICK)
    result = afdsim.simulate(batch)

    assert result.run.window == (0.0, max(result.run.requests["finish_s"]))
    assert "load" not in result.summary["afdsim"]
    assert any(note.startswith("all requests come at once") for note in result.notes)


def test_more_requests_than_a_trace_holds_are_all_it_holds():
    result = afdsim.simulate(replay("azure.csv", "workload.num_requests=100000", "run.warmup=0s"))

    assert set(result.run.requests["status"]) == {"finished"}
    assert result.summary["completed"] == len(result.run.requests["arrival_s"]) < 100_000


def test_the_report_shows_the_gaps_where_requests_are_too_equal_to_show_anything(small):
    equal = terminal(afdsim.simulate(small))
    unequal = terminal(
        afdsim.simulate(small.vary("workload.output_len", {"distribution": "uniform", "min": 2, "max": 40}))
    )

    assert "ITL, every gap (ms)" in equal
    assert "TPOT per request (ms)" in equal
    assert "ITL, every gap (ms)" not in unequal


@pytest.mark.parametrize("engine", ["processes", "kernel"])
def test_a_request_that_never_fits_is_refused_and_counted(engine):
    scenario = tiny(
        2,
        run__engine=engine,
        workload__arrival={"process": "constant", "request_rate": "1000 req/s"},
        workload__input_len={"distribution": "uniform", "min": 1, "max": 800_000_000},
        workload__num_requests=40,
    )
    result = afdsim.simulate(scenario)
    own = result.summary["afdsim"]

    assert own["refused"] > 0
    assert own["refused"] + own["unfinished"] + result.summary["completed"] == 40
    assert any(
        note.startswith(f"{own['refused']} requests refused: their context never fits the ") for note in result.notes
    )


def test_answers_of_one_token_have_a_load_too():
    flood = {"process": "poisson", "request_rate": "200000 req/s"}
    brief = afdsim.load("small").varied(
        {"workload.arrival": flood, "workload.output_len": 1, "workload.num_requests": 9000}
    )
    own = afdsim.simulate(brief).summary["afdsim"]

    assert own["load"] == "OVERLOADED"
    assert (own["sla"]["met"], own["sla"]["verdict"]) == (False, "FAIL")


def test_a_batch_at_once_has_no_warm_up():
    batch = tiny(2, workload__arrival={"process": "poisson", "request_rate": float("inf")}, run__warmup="9s", **QUICK)
    result = afdsim.simulate(batch)

    assert result.summary["completed"] == QUICK["workload__num_requests"]
    assert any(note.endswith("run.warmup is not used") for note in result.notes)


def test_a_run_that_stops_before_anything_happened_has_a_summary(small):
    summary = afdsim.simulate(small.vary("run.stop.max_sim_time", "1us")).summary

    assert "busy" not in summary["afdsim"]["pools"]["attention"]
    json.dumps(summary, allow_nan=False)


def test_a_load_of_one_request_is_none():
    arrival = {"process": "poisson", "request_rate": "10 req/s"}
    own = afdsim.simulate(tiny(2, workload__arrival=arrival, workload__num_requests=1)).summary["afdsim"]

    assert own["load"] == "n/a"
    assert "tgs" not in own


def test_notes_say_what_the_warm_up_took_and_what_left_after_the_last_arrival(small):
    arrival = {"process": "poisson", "request_rate": "1500 req/s"}
    notes = afdsim.simulate(small.varied({"workload.arrival": arrival, "workload.num_requests": 4000})).notes

    assert any(note.startswith("the warm-up was found to end at ") for note in notes)
    assert any("finished after the last arrival" in note for note in notes)


@pytest.mark.parametrize("engine", ["kernel", "processes"])
@pytest.mark.parametrize("rate", [None, "1500 req/s"])
def test_a_run_that_is_stopped_keeps_what_is_complete(small, engine, rate):
    def stop(done, _):
        if done > 0.3:
            raise StoppedEarly

    arrival = {"workload.arrival": {"process": "poisson", "request_rate": rate}} if rate else {}
    result = afdsim.simulate(small.varied({"run.engine": engine, **arrival}), progress=stop)

    finished = int((result.requests.status == "finished").sum())
    assert 0.3 * 768 < finished < len(result.requests)
    assert any(note.startswith("stopped at ") for note in result.notes)
    assert result.run.window[1] == pytest.approx(result.tokens.t_s.max()) or rate
    seconds = result.gpus[["busy", "wait_peer", "network", "imbalance", "no_work", "down"]].sum(axis=1)
    assert seconds.to_numpy() == pytest.approx(np.full(len(seconds), result.run.duration))
    json.dumps(result.summary, allow_nan=False)


def test_an_open_loop_that_is_stopped_before_its_load_can_be_judged_says_so(small):
    def stop(*_):
        raise StoppedEarly

    asked = small.varied(
        {"run.engine": "kernel", "workload.arrival": {"process": "poisson", "request_rate": "20 req/s"}}
    )
    found = afdsim.simulate(asked, progress=stop).run.load

    assert (found.level, found.why) == ("n/a", "the run was stopped early")


def test_requests_that_a_limit_cut_off_are_noted(small):
    notes = afdsim.simulate(small.vary("run.stop.max_sim_time", "250ms")).notes

    assert any("requests had not finished at run.stop.max_sim_time" in note for note in notes)
