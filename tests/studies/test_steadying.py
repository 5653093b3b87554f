"""A run that is too short goes on with the same arrivals until its load is known."""

import pytest

import afdsim
from afdsim.errors import ScenarioError
from afdsim.studies.steadying import lengthened, until_steady

POISSON = {"process": "poisson", "request_rate": "1500 req/s"}


def brief(**changes):
    return afdsim.load("small").varied(
        {"workload.arrival": POISSON, "workload.num_requests": None, "workload.duration": "300ms", **changes}
    )


def run(scenario):
    return [afdsim.simulate(scenario, seed=seed) for seed in scenario.run.seeds]


def test_a_short_run_is_lengthened_until_every_seed_is_steady():
    rounds = list(until_steady(brief(**{"run.seeds": [0, 1]}), run))
    first, last = rounds[0], rounds[-1]

    assert {each.run.load.level for each in first[1]} == {"n/a"}
    assert {each.run.load.level for each in last[1]} == {"STABLE"}
    assert last[0].workload.duration >= 2 * first[0].workload.duration
    for short, long in zip(first[1], last[1], strict=True):
        shared = len(short.run.requests["arrival_s"])
        assert short.run.requests["arrival_s"].tolist() == long.run.requests["arrival_s"][:shared].tolist()


def test_a_steady_run_and_a_closed_loop_are_left_alone():
    assert len(list(until_steady(brief(**{"workload.duration": "4s"}), run))) == 1
    assert len(list(until_steady(afdsim.load("small"), run))) == 1


def test_what_a_longer_run_cannot_help_is_refused():
    with pytest.raises(ScenarioError, match=r"run\.stop\.max_sim_time ends the run before 9 s"):
        lengthened(brief(**{"run.stop.max_sim_time": "1s"}), 9.0)
    with pytest.raises(ScenarioError, match=r"a longer run would not help: .* or leave run\.warmup out"):
        list(until_steady(brief(**{"run.warmup": "0s", "workload.duration": "2s"}), run))
