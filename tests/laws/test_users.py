"""A closed loop behind prefill servers: as many requests as users at any moment, each sent when the one before ended."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.lowering import lower
from afdsim.engine.servers import lower_prefill
from afdsim.engine.users import behind
from afdsim.results import outcome, prefilled
from afdsim.simulation import demanded, member
from tests.cases import fewer
from tests.laws.test_kv_cache import scarce
from tests.laws.test_prefill import KINDS, LOST, equal, scenario, shapes

CLOSED = {"process": "closed_loop"}


COUNT = 60


def asked(kind, *, concurrency=None, **more):
    loop = CLOSED if concurrency is None else CLOSED | {"concurrency": concurrency}
    return scenario(kind, **more).varied({"workload.arrival": loop, "workload.num_requests": COUNT})


def run(asked, engine, change=lambda pool: pool):
    cell = lower(asked, seed=0)
    demand = replace(demanded(asked, cell, 0), routed=True)
    return cell, behind(change(lower_prefill(asked, cell)), member(cell, demand, engine), demand)


@fewer(6)
@given(st.sampled_from(sorted(KINDS)), shapes, st.sampled_from([(300, 1), (80, 2), (700, 9)]), st.integers(1, 40))
def test_engines_agree_bit_for_bit(kind, shape, lengths, concurrency):
    loop = asked(kind, prefill=shape | {"gpu": "H20", "gpus_per_instance": 2}, lengths=lengths, concurrency=concurrency)
    kernel, processes = (run(loop, engine)[1] for engine in ("kernel", "processes"))

    for name in kernel.requests.__slots__:
        assert equal(getattr(kernel.requests, name), getattr(processes.requests, name)), name
    assert equal(kernel.slices, processes.slices)
    assert equal(kernel.prefill.decoded, processes.prefill.decoded)


VARIANTS = {
    "every GPU a unit": {"run.granularity": "gpu"},
    "drafts": {"deployment.mtp": {"draft": 1, "acceptance": 0.7}},
    "a crash, rejected": {"failures": LOST | {"requests": "reject"}},
    "a crash, computed again": {"failures": LOST | {"requests": "reprefill", "reprefill_rate": "1e6 tok/s"}},
    "a cache that grows": {"kv_cache": {"policy": "grow", "block": 16, "reprefill_rate": "1e6 tok/s"}},
    "a warm-up": {"run.warmup": "10ms"},
    "an early end": {"run.stop.max_sim_time": "20ms"},
    "jitter": {"variation": {"event": 0.1, "step": 0.05}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_engines_agree_whatever_else_is_on(variant):
    loop = asked("afd", lengths=(300, 20)).varied(VARIANTS[variant])
    kernel, processes = (run(loop, engine)[1] for engine in ("kernel", "processes"))

    for name in kernel.requests.__slots__:
        assert equal(getattr(kernel.requests, name), getattr(processes.requests, name)), name
    assert kernel.ended == processes.ended


@fewer(6)
@given(st.sampled_from(sorted(KINDS)), shapes, st.sampled_from([(300, 1), (80, 2), (700, 9)]), st.integers(1, 40))
def test_there_are_as_many_requests_as_users_at_any_moment(kind, shape, lengths, concurrency):
    loop = asked(kind, prefill=shape | {"gpu": "H20", "gpus_per_instance": 2}, lengths=lengths, concurrency=concurrency)
    _, record = run(loop, "kernel")
    table = record.requests
    ends = np.sort(table.finish[~np.isnan(table.finish)])

    assert equal(np.sort(table.arrival)[:concurrency], np.zeros(concurrency))
    assert equal(np.sort(table.arrival)[concurrency:], ends[ends < record.ended][: len(table) - concurrency])
    assert table.counted.sum() == COUNT
    assert not np.isnan(table.finish[table.counted]).any()
    assert record.ended == pytest.approx(table.finish[table.counted].max(), abs=0.01)


@fewer(6)
@given(st.sampled_from(sorted(KINDS)), shapes, st.sampled_from([(300, 1), (80, 2), (700, 9)]))
def test_every_token_and_every_gap_is_counted_once(kind, shape, lengths):
    loop = asked(kind, prefill=shape | {"gpu": "H20", "gpus_per_instance": 2}, lengths=lengths)
    cell, record = run(loop, "kernel")
    table = record.requests
    requests = prefilled.requests(outcome.requests(record, cell), record)
    tokens = prefilled.tokens(outcome.tokens(record, cell), requests, record)
    own, rows = record.prefill, record.boundaries
    first, there = ~np.isnan(own.end), ~np.isnan(own.decoded)

    assert tokens["batch"].sum() == rows.batch.sum() + first.sum()
    assert tokens["gaps"].sum() == rows.gaps.sum() + there.sum()
    assert (there <= first).all()
    assert equal(own.end[first], table.first_token[first])
    assert (tokens["itl_s"][tokens["gaps"] > 0] > 0).all()


def test_the_run_lasts_until_the_last_single_token_is_out():
    """Several prompts in a step, which ends long behind the boundaries of decode."""
    servers = {"gpu": "H20", "instances": 1, "gpus_per_instance": 2, "parallelism": {"dp": 2, "tp": 1}}
    loop = asked("colocated", prefill=servers | {"max_batched_tokens": 700}, lengths=(300, 1), concurrency=20)
    table = run(loop, "kernel")[1].requests

    assert not np.isnan(table.finish[table.counted]).any()


def test_one_user_waits_for_nobody():
    _, record = run(asked("afd", concurrency=1), "kernel")
    table, own = record.requests, record.prefill
    later = slice(1, None)

    assert equal(table.arrival[later], table.finish[:-1])
    assert equal(own.start[later], table.arrival[later])
    assert (own.ready[later] <= table.admitted[later]).all()


def test_prefill_that_is_quick_is_the_closed_loop_without_it():
    """Nearly: a step and a path in some 300 decode steps."""
    loop = asked("afd", lengths=(300, 300), prefill={"gpu": "H200", "instances": 30, "gpus_per_instance": 2})
    bare = asked("afd", lengths=(300, 300), prefill=None)
    one, other = (afdsim.simulate(each).summary["mean_tpot_ms"] for each in (loop, bare))

    assert one == pytest.approx(other, rel=0.05)


def test_requests_that_no_rank_could_hold_are_refused_and_their_users_go_on():
    loop = scarce(asked("afd", lengths=(300, 9)), 500)
    kernel, processes = (run(loop, engine)[1].requests for engine in ("kernel", "processes"))

    assert kernel.refused.any()
    assert kernel.counted.sum() == COUNT
    assert (~np.isnan(kernel.finish) | kernel.refused)[kernel.counted].all()
    assert equal(kernel.finish, processes.finish)


def test_more_users_wait_longer_for_their_first_token():
    waits = [afdsim.simulate(asked("afd", concurrency=n)).summary["mean_ttft_ms"] for n in (1, 8, 24)]

    assert waits == sorted(waits)


def test_littles_law_holds():
    result = afdsim.simulate(asked("colocated", concurrency=20, lengths=(300, 60)).vary("workload.num_requests", 600))
    done = result.requests[result.requests["counted"]]
    rate = len(done) / (done["arrival_s"].max() - done["arrival_s"].min())

    assert rate * (done["e2el_ms"].mean() / 1e3) == pytest.approx(20, rel=0.05)
