"""Scarce KV cache: micro-batches of a rank share it fairly, more slots than fit cost nothing, every closed loop ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import seats
from afdsim.engine.desk import Desk
from afdsim.engine.lowering import lower
from afdsim.engine.population import populate
from afdsim.engine.turnover import turn_over
from afdsim.scenario.document import Scenario
from afdsim.simulation import demanded, simulate
from tests.cases import tiny, tiny_hybrid, tiny_sparse, tiny_windowed

ENGINES = ("kernel", "processes")
SCARCE = 30_000_000
"""Tokens of a context of which a rank of the tiny model holds some tens."""


def fitting(scenario: Scenario) -> int:
    """Sequences of the scenario's constant lengths that the cache of a rank holds."""
    cell = lower(scenario, seed=0)
    desk = Desk(cell, demanded(scenario, cell, 0))
    desk.begin(populate)
    return int(desk.machine.places.kv_budget // seats.need(desk.machine.places, desk.book.requests, 0))


@st.composite
def loops(draw: st.DrawFn) -> Scenario:
    """A closed loop of equal requests, AFD or colocated, of which a few fit a rank; one slot per micro-batch."""
    tokens = draw(st.integers(SCARCE // 4, SCARCE))
    micro_batches, output_len = draw(st.integers(1, 4)), draw(st.integers(4, 12))
    changes = {
        "workload__input_len__value": tokens,
        "workload__output_len__value": output_len,
        "workload__num_requests": 500,
        "deployment__num_microbatches": micro_batches,
        "deployment__max_num_seqs": micro_batches,
        "model": draw(st.sampled_from([tiny_windowed(2), tiny_sparse(2), tiny_hybrid(2), tiny().model])),
    }
    scenario = tiny(2, attention=draw(st.integers(1, 2)), **changes)
    if draw(st.booleans()):
        return scenario
    deployment = {"type": "colocated", "gpu": "H800", "instances": 2, "gpus_per_instance": 1, "max_num_seqs": 2}
    overlap = {"two_batch_overlap": draw(st.booleans())}
    return scenario.varied({"deployment": deployment | overlap, "network": {}})


@given(loops(), st.integers(0, 40), st.sampled_from(ENGINES))
def test_slots_beyond_what_fits_take_no_throughput(scenario, more, engine):
    most = fitting(scenario)
    scenario = scenario.vary("run.engine", engine)
    rates = []
    for slots in (most, most + more):
        if slots < scenario.deployment.max_num_seqs:
            return  # not one sequence per micro-batch fits
        found = simulate(scenario.vary("deployment.max_num_seqs", slots))
        assert found.summary["completed"] == scenario.workload.num_requests
        rates.append(found.summary["afdsim"]["tgs"])

    assert rates[1] >= rates[0] * 0.98  # the window begins elsewhere in the life of the requests


@given(loops(), st.integers(0, 40), st.integers(1, 400))
def test_micro_batches_of_a_rank_are_within_one_sequence_of_one_another(scenario, more, turns):
    slots = fitting(scenario) + more
    if slots < scenario.deployment.max_num_seqs:
        return
    scenario = scenario.vary("deployment.max_num_seqs", slots)
    cell = lower(scenario, seed=0)
    desk = Desk(cell, demanded(scenario, cell, 0))
    desk.begin(populate)
    for turn in range(turns):
        if desk.short:
            desk.draw_more()
        if desk.full:
            desk.extend_rows()
        step, lane = divmod(turn, len(desk.book.lanes))
        turn_over(desk.machine.places, desk.machine.asked, desk.book, lane, step, float(turn))
        if desk.ends < seats.FOREVER:
            break
        taken = desk.book.seats[:, seats.TAKEN].reshape(-1, cell.micro_batches)

        assert (np.ptp(taken, axis=1) <= 1).all()


@pytest.mark.parametrize("engine", ENGINES)
@given(tokens=st.integers(SCARCE // 2, 12 * SCARCE), cv=st.sampled_from([0.3, 1.0, 2.0]), slots=st.integers(1, 60))
def test_every_closed_loop_ends(engine, tokens, cv, slots):
    lengths = {"distribution": "lognormal", "mean": tokens, "cv": cv}
    scenario = tiny(2, workload__input_len=lengths, workload__num_requests=40, deployment__max_num_seqs=slots)
    found = simulate(scenario.vary("run.engine", engine))

    assert found.summary["completed"] + found.summary["afdsim"]["refused"] == 40
