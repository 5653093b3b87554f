"""KV cache in blocks: never more than there is, nothing lost by preemption, and with memory to spare as if reserved."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import seats
from afdsim.engine.lowering import deployment
from afdsim.scenario.document import Scenario
from tests.cases import run
from tests.engine.test_seats import Office
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import assert_same, deployments
from tests.laws.test_failures import assert_conserved

PRICES = [
    {"preemption": "recompute", "reprefill_rate": "1e5 tok/s"},
    {"reprefill_rate": "1e8 tok/s"},
    {"preemption": "swap"},
    {"preemption": "swap", "host_bandwidth": "10 MB/s"},
]


def scarce(scenario: Scenario, tokens: float) -> Scenario:
    """The same with a KV cache of about so many tokens of context on a rank, by the share of HBM that may be filled."""
    if scenario.deployment.type == "afd":
        scenario = scenario.vary("deployment.ffn.gpu", "B300")  # whose share leaves room for the weights
    found = deployment(scenario)
    wanted = found.kv_cache.reserved(round(tokens)) + 3 * found.kv_cache.reserved(0) + 1.0  # states have no tokens
    share = found.gpu_memory_utilization + (wanted - found.kv_budget) / found.attention.gpu.memory
    return scenario.vary("deployment.gpu_memory_utilization", share)


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, object]:
    """Closed and open loops of contexts that grow by several times their input, or hardly."""
    rate = draw(st.sampled_from(["20 req/s", "2000 req/s", "inf req/s"]))
    arrival = draw(st.sampled_from([{"process": "closed_loop"}, {"process": "poisson", "request_rate": rate}]))
    length = st.sampled_from([20, 100, {"distribution": "lognormal", "mean": 80, "cv": 1.0, "max": 400}])
    lengths = {"input_len": draw(length), "output_len": draw(length)}
    return {"arrival": arrival, "num_requests": draw(st.integers(1, 30)), **lengths}


@st.composite
def growing(draw: st.DrawFn) -> Scenario:
    """Any small deployment of any kind whose sequences outgrow its KV cache, or not, with any price of that."""
    scenario = draw(st.one_of(deployments(), engines(), tensors())).vary("workload", draw(workloads()))
    block = draw(st.sampled_from([1, 4, 16, 50]))
    asked = {"block": block, "policy": "grow", **draw(st.sampled_from(PRICES))}
    scenario = scenario.vary("deployment.max_num_seqs", draw(st.integers(4, 12)))
    return scarce(scenario.vary("kv_cache", asked), draw(st.sampled_from([900, 1200, 2000, 6000])))


def blocks_held(office: Office) -> np.ndarray:
    """Bytes by rank of those that run and of those that are called, each counted again."""
    book, places = office.book, office.places
    held = np.zeros(len(book.ranks))
    for request in running(office):
        k = office.step - int(book.requests[request, seats.JOINED])  # `step` is the next one
        held[rank_of(office, request)] += seats.kept(places, seats.written(places, book.requests, request, k))
    for request in (each for called in office.called for each in called):
        held[rank_of(office, request)] += seats.takes(places, book.requests, request)
    return held


def running(office: Office) -> list[int]:
    """Requests that take part in the step."""
    issued = office.book.count[seats.ISSUED]
    there = (office.book.requests[:issued, seats.JOINED] >= 0) & np.isnan(office.book.times[:issued, seats.FINISH])
    return np.flatnonzero(there).tolist()


def rank_of(office: Office, request: int) -> int:
    return int(office.book.requests[request, seats.SEAT]) // office.places.micro_batches


@given(growing())
def test_blocks_are_never_more_than_there_are_and_all_are_given_back(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        if office.desk.ends < seats.FOREVER:
            break  # the lanes behind the last one have not turned over
        held = blocks_held(office)

        assert (held <= office.places.kv_budget).all()
        assert (office.book.ranks[:, seats.KV_FREE] == office.places.kv_budget - held).all()


@given(growing())
def test_both_engines_agree_and_every_token_comes_once(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)
    counted = np.bincount(kernel.record.stays.request, minlength=len(kernel.record.requests))
    assert (kernel.record.requests.preempted == counted).all()
    assert set(kernel.record.requests.status()) <= {"finished", "refused", "running", "waiting"}
    if scenario.run.stop.max_sim_time is None and scenario.workload.arrival.process != "closed_loop":
        assert set(kernel.record.requests.status()) <= {"finished", "refused"}
