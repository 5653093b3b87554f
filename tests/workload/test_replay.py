"""Replay of a published trace that does not ship: every request is accounted for."""

import pytest

import afdsim
from afdsim.scenario.document import load


@pytest.fixture(scope="module")
def replayed(shared):
    trace = shared / "traces/azure23_conv.csv"
    if not trace.is_file():
        pytest.skip("no Azure trace on this machine")
    return afdsim.simulate(load("azure_conversation", overrides=[f"workload.trace.path={trace}"]))


def test_ten_minutes_of_a_recorded_service_are_replayed_and_every_request_is_accounted_for(replayed):
    requests, summary = replayed.run.requests, replayed.summary
    fates = {status: int((requests["status"] == status).sum()) for status in set(requests["status"])}

    assert 590 < replayed.run.window[1] <= 600
    assert fates == {"finished": len(requests["status"])}
    assert summary["completed"] + summary["afdsim"]["refused"] + summary["afdsim"]["unfinished"] == sum(
        requests["counted"]
    )
    assert sum(requests["output_len"]) == sum(replayed.run.tokens["batch"])


def test_a_service_of_this_size_is_inside_its_limit(replayed):
    assert replayed.summary["afdsim"]["sla"]["met"]
    assert replayed.summary["afdsim"]["saturation"]["level"] == "STABLE"
