"""Requests, tokens, bytes and GPU time are conserved, and a step at 2A2F stays within its event budget."""

import math

import numpy as np
import pytest
from hypothesis import given

from afdsim.engine.record import Requests
from afdsim.results import outcome as columns
from afdsim.scenario.document import load
from tests.cases import run, tiny
from tests.laws.test_equivalence import deployments


@given(deployments())
def test_every_request_ends_as_finished_refused_running_or_waiting(scenario):
    requests = run(scenario).record.requests
    status, counted = requests.status(), requests.counted

    assert set(status) <= {"finished", "refused", "running", "waiting"}
    assert counted.sum() <= scenario.workload.num_requests
    if scenario.run.stop.max_sim_time is None:
        assert counted.sum() == scenario.workload.num_requests
        assert set(status[counted]) <= {"finished", "refused"}


def tokens_needed(requests: Requests) -> np.ndarray:
    """Tokens that every request had to produce when it was admitted."""
    return requests.input_len + requests.output_len - requests.context


@given(deployments())
def test_tokens_of_requests_with_drafts_are_emitted_once(scenario):
    scenario = scenario.vary("deployment.mtp", {"draft": 2, "acceptance": 0.6})
    record = run(scenario).record
    requests, emitted = record.requests, int(record.boundaries.batch.sum())
    finished = ~np.isnan(requests.finish)
    tokens = tokens_needed(requests)

    # a lane emits whole tokens: what is less than one stays owed
    lanes = record.causes.shape[0] * scenario.deployment.num_microbatches
    assert tokens[finished].sum() - lanes <= emitted <= tokens[requests.joined >= 0].sum()
    if finished.sum() == (requests.joined >= 0).sum():
        assert emitted == tokens[finished].sum()


@given(deployments())
def test_tokens_out_are_the_steps_that_requests_took_part_in(scenario):
    record = run(scenario.vary("deployment.mtp", None)).record
    taken = columns.steps_taken(record.requests, record.steps_run)

    # the boundaries of the step in which the run ended have emitted the tokens of some units only
    last = record.steps_run[-1] if len(record.steps_run) else -1
    emitted = record.boundaries.batch[record.boundaries.step <= last].sum()
    before = columns.steps_taken(record.requests, record.steps_run[record.steps_run < last])

    assert before.sum() <= emitted <= taken.sum()
    finished, needed = record.requests.status() == "finished", tokens_needed(record.requests)
    assert taken[finished].tolist() == needed[finished].tolist()


@given(deployments())
def test_times_of_a_request_are_ordered(scenario):
    requests = run(scenario).record.requests
    for row in zip(requests.arrival, requests.admitted, requests.first_token, requests.finish, strict=True):
        reached = [time for time in row if not math.isnan(time)]

        assert reached == sorted(reached)


@given(deployments())
def test_every_gpu_second_is_booked_once(scenario):
    outcome = run(scenario)
    start, end = outcome.record.window
    gpus = columns.gpus(outcome.record, outcome.cell)
    causes = np.array([gpus[cause] for cause in ("busy", "wait_peer", "network", "imbalance", "no_work", "down")])

    assert causes.min() >= -1e-12
    assert causes.sum(axis=0) == pytest.approx(np.full(causes.shape[1], end - start), rel=1e-9, abs=1e-12)


@given(deployments())
def test_bytes_sent_are_bytes_received_and_equal_rows_times_bytes_per_row(scenario):
    if scenario.network.type == "dedicated":
        scenario = scenario.vary("network.type", "ports")
    outcome = run(scenario, "processes")
    links = columns.links(outcome.record, outcome.cell)
    expected = {}
    for pool, direction in (("attention", "egress"), ("attention", "ingress"), ("ffn", "egress"), ("ffn", "ingress")):
        rows = (links["pool"] == pool) & (links["direction"] == direction)
        expected[pool, direction] = links["bytes"][rows].sum()
    counted = dict.fromkeys(expected, 0.0)
    for (pool, _, _, direction), (_, nbytes) in outcome.record.traffic.items():
        counted[pool, direction] += nbytes

    assert expected["attention", "egress"] == pytest.approx(expected["ffn", "ingress"])
    assert expected["ffn", "egress"] == pytest.approx(expected["attention", "ingress"])
    assert counted == pytest.approx(expected)


def test_messages_per_step_are_two_per_pair_turn_and_rail():
    outcome = run(tiny(5, attention=2, ffn=4, network__type="ports"), "processes")
    turns = 5 * 3 * outcome.record.steps
    sent = sum(messages for (_, _, _, way), (messages, _) in outcome.record.traffic.items() if way == "egress")

    assert sent == 2 * turns * 2 * 4


def test_event_budget_of_a_step_at_2a2f():
    scenario = load("step3_2a2f_4k")
    scenario = scenario.vary("workload.num_requests", 1).vary("workload.output_len", 5)
    processes, kernel = (run(scenario, layers).record for layers in ("processes", "kernel"))

    assert 4_000 < processes.events / processes.steps < 6_000
    assert kernel.events / kernel.steps < 10


def test_kernel_counts_a_boundary_of_every_micro_batch_of_every_unit_that_seats():
    scenario = tiny(attention=3, workload__num_requests=4)
    outcome = run(scenario)

    assert outcome.record.events == (outcome.record.steps + 1) * 3 * 3


def test_a_step_that_finds_nothing_to_do_has_boundaries_too():
    """Three requests a thousand seconds apart, on average: the cell parks twice between them, and at the end."""
    arrival = {"process": "poisson", "request_rate": "0.001 req/s"}
    workload = {"arrival": arrival, "num_requests": 3, "input_len": 100, "output_len": 5}
    scenario = tiny(attention=1, deployment__num_microbatches=1, workload=workload)
    kernel, processes = (run(scenario, engine).record for engine in ("kernel", "processes"))

    assert kernel.steps == processes.steps == 3 * 5
    assert kernel.events == (3 * 5 + 3) * 1 * 1
