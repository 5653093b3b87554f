"""The largest rate, or batch, that meets the SLA: against theory, against sweeps, and against itself."""

import json
from functools import cache

import numpy as np
import pytest

import afdsim
from afdsim.errors import ScenarioError
from afdsim.results.result import to_json
from afdsim.studies.capacity import Capacity, Point, capacity
from afdsim.studies.scaling import at_rate, mean_rate
from tests.cases import tiny

ONE = {"num_microbatches": 1, "max_num_seqs": 1}
SERVER = {
    **{f"deployment__{key}": value for key, value in ONE.items()},
    "workload__arrival": {"process": "poisson", "request_rate": "1 req/s"},
    "workload__output_len": {"distribution": "constant", "value": 6},
    "run__engine": "kernel",
}
"""One sequence at a time: an M/D/1 queue."""
CELL = {
    "deployment__max_num_seqs": 6,
    "workload__arrival": {"process": "poisson", "request_rate": "1 req/s"},
    "run__engine": "kernel",
    "sla": {"queue": "3ms", "percentile": "mean"},
}
BURSTS = {"process": "mmpp", "states": [{"rate": "30 req/s", "dwell": "2s"}, {"rate": "0 req/s", "dwell": "4s"}]}
RAMP = {"process": "rate_curve", "points": [{"at": "0s", "rate": "0 req/s"}, {"at": "4s", "rate": "20 req/s"}]}


@cache
def once():
    """The answer for the small cell."""
    return capacity(tiny(**CELL), tolerance=0.1)


def service():
    """Seconds of a request of the one server, without a queue."""
    requests = afdsim.simulate(tiny(**SERVER, workload__num_requests=50)).requests
    return float((requests.finish_s - requests.admitted_s).median())


def times(scenario, many=200):
    from afdsim.scenario.requests import requested

    return requested(scenario, 0).times(many)


def words(found):
    return [point.found for point in found.points]


# against theory and sweeps ------------------------------------------------------------------------------------------


def test_one_server_carries_what_theory_says():
    """Pollaczek and Khinchine: a mean wait of load x service / 2(1 - load); of half a service at a load of a half."""
    seconds = service()
    found = capacity(tiny(**SERVER, sla={"queue": f"{seconds / 2} s", "percentile": "mean"}), tolerance=0.2)
    low, high = found.interval

    assert low * seconds < 0.5 < high * seconds
    assert low * seconds > 0.35
    assert high * seconds < 0.7
    assert found.binds["kind"] == "sla"
    assert found.binds["metric"] == "queue"


def test_it_agrees_with_a_sweep():
    base = tiny(**CELL)
    found = once()
    options = afdsim.load(base, overrides=found.options)
    verdicts = {
        share: afdsim.simulate(at_rate(options, share * found.request_rate)).summary["afdsim"]["sla"]["verdict"]
        for share in (0.8, 0.9, 1.6, 2.0)
    }

    assert verdicts == {0.8: "PASS", 0.9: "PASS", 1.6: "FAIL", 2.0: "FAIL"}


def test_options_reproduce_the_answer_and_the_same_call_gives_the_same_bytes():
    base = tiny(**CELL)
    found, again = once(), capacity(base, tolerance=0.1)
    run = afdsim.simulate(afdsim.load(base, overrides=found.options))

    assert to_json(found.to_dict()) == to_json(again.to_dict())
    assert run.summary["afdsim"]["tgs"] == found.to_dict()["tgs"]
    assert run.summary["afdsim"]["sla"]["verdict"] == "PASS"


def test_a_looser_limit_carries_no_less():
    loose = capacity(tiny(**CELL | {"sla": {"queue": "6ms", "percentile": "mean"}}), tolerance=0.2)

    assert loose.request_rate >= once().request_rate
    assert loose.interval[1] >= once().interval[1]


def test_points_are_bracketed_within_the_tolerance():
    found = once()
    rates = [point.at for point in found.points]
    above = min(rate for rate in rates if rate > found.request_rate)

    assert rates == sorted(rates)
    assert above <= 1.1 * found.request_rate * 1.001
    assert set(words(found)) <= {"carried", "undecided", "refused"}
    assert all((point.why is None) == (point.found == "carried") for point in found.points)


# the batch of a closed loop -----------------------------------------------------------------------------------------


def test_the_largest_batch_is_the_one_that_a_sweep_finds():
    long = tiny(workload__input_len={"distribution": "constant", "value": 20_000}, run__engine="kernel")
    limit = 1.5 * afdsim.simulate(long).summary["mean_tpot_ms"]
    small = long.vary("sla", {"tpot": f"{limit} ms", "percentile": "mean"})
    found = capacity(small, closed=True, tolerance=0.1)
    high = found.refused.at
    runs = {
        batch: afdsim.simulate(small.varied({**found.changes, "deployment.max_num_seqs": batch}))
        for batch in (int(found.max_num_seqs), int(high))
    }

    assert [run.summary["afdsim"]["sla"]["verdict"] for run in runs.values()] == ["PASS", "FAIL"]
    assert min(point.at for point in found.points if point.at > found.max_num_seqs) <= 1.1 * found.max_num_seqs + 1
    assert found.binds["metric"] == "tpot"


def test_what_no_limit_ends_is_ended_by_memory():
    long = {"workload.input_len.value": 240_000, "workload.output_len.value": 4, "sla.tpot": "1s"}
    found = capacity(afdsim.load("small").varied(long), closed=True)

    assert found.binds == {"kind": "kv_cache", "text": f"the KV cache of a rank holds {found.fits:,} sequences"}
    assert found.max_num_seqs == found.fits


# what binds ---------------------------------------------------------------------------------------------------------


def test_a_limit_that_nothing_meets_carries_nothing():
    found = capacity(tiny(**CELL | {"sla": {"tpot": "1us"}}))

    assert found.to_dict()["request_rate"] == 0
    assert set(words(found)) == {"refused"}
    assert found.binds["metric"] == "tpot"
    assert found.binds["at"] == found.points[0].at


def test_an_overload_names_slots_or_memory():
    slots = capacity(tiny(**CELL | {"sla": {"tpot": "1s", "percentile": "mean"}}), tolerance=0.2)
    prompts = {"distribution": "constant", "value": 2_000_000}
    full = {"deployment__max_num_seqs": 300}
    memory = capacity(
        tiny(**CELL | {"sla": {"tpot": "10s", "percentile": "mean"}, "workload__input_len": prompts, **full}),
        tolerance=0.2,
    )

    assert (slots.binds["kind"], slots.binds["cause"]) == ("load", "slots")
    assert (memory.binds["kind"], memory.binds["cause"]) == ("load", "kv_cache")


# arrivals at another rate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arrival",
    [
        {"process": "poisson", "request_rate": "3 req/s"},
        {"process": "gamma", "request_rate": "3 req/s", "cv": 3},
        {"process": "constant", "request_rate": "3 req/s"},
    ],
    ids=lambda arrival: arrival["process"],
)
def test_arrivals_of_a_seed_are_the_same_draws_at_every_rate(arrival):
    scenario = tiny(workload__arrival=arrival)

    np.testing.assert_allclose(2 * times(at_rate(scenario, 8.0)), times(at_rate(scenario, 4.0)), rtol=1e-12)


@pytest.mark.parametrize("arrival", [BURSTS, RAMP], ids=lambda arrival: arrival["process"])
def test_rates_that_change_keep_their_clock(arrival):
    scenario = tiny(workload__arrival=arrival).varied({"workload.num_requests": None, "workload.duration": "8s"})
    twice = at_rate(scenario, 2 * mean_rate(scenario))

    assert mean_rate(twice) == pytest.approx(2 * mean_rate(scenario), rel=1e-5)
    assert mean_rate(scenario) == pytest.approx({"mmpp": 10.0, "rate_curve": 15.0}[arrival["process"]])


def test_a_trace_is_replayed_faster_and_a_closed_loop_opens(tmp_path):
    file = tmp_path / "trace.csv"
    rows = "\n".join(f"2023-11-16 18:00:{second:02d}.0000000,100,12" for second in range(41))
    file.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}\n")
    replay = {"arrival": {"process": "trace"}, "trace": {"path": str(file), "time_scale": 0.5}}
    trace = afdsim.load({**tiny().given(), "workload": replay})

    assert mean_rate(trace) == pytest.approx(41 / 20)
    assert times(at_rate(trace, 41.0), 41)[-1] == pytest.approx(1.0)
    assert at_rate(tiny(), 4.0).workload.arrival.process == "poisson"


# bad input ----------------------------------------------------------------------------------------------------------


def test_without_a_limit_there_is_no_capacity():
    with pytest.raises(ScenarioError, match=r"there is none; for example --set sla\.tpot=50ms"):
        capacity(tiny())
    with pytest.raises(ScenarioError, match=r"tolerance: must be >= 0\.001 and < 1"):
        capacity(tiny(**CELL), tolerance=0.0)


def test_public_names():
    found = once()

    assert afdsim.capacity is capacity
    assert isinstance(found, Capacity)
    assert all(isinstance(point, Point) for point in found.points)
    assert {"request_rate", "tgs", "binds", "points"} <= set(json.loads(to_json(found.to_dict())))
