"""KV cache in blocks: never more than there is, nothing lost by preemption, and with memory to spare as if reserved."""

from dataclasses import fields
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import prefixes, seats
from afdsim.engine.capacity import fits, places
from afdsim.engine.lowering import deployment, lower
from afdsim.results import outcome as columns
from afdsim.results.result import Result
from afdsim.results.terminal import terminal
from afdsim.scenario.document import Scenario
from afdsim.simulation import simulate
from tests.cases import Outcome, Stages, Wires, fewer, run, tiny, unseen
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

DRAFTS = st.sampled_from([None, None, {"draft": 2, "acceptance": 0.6}])
OPEN = [{"process": "poisson", "request_rate": rate} for rate in ("200 req/s", "20000 req/s", "inf req/s")]


def scarce(scenario: Scenario, tokens: float) -> Scenario:
    """The same with a KV cache of about so many tokens of context on a rank, by the share of HBM that may be filled."""
    if scenario.deployment.type == "afd":
        scenario = scenario.vary("deployment.ffn.gpu", "B300")  # whose share leaves room for the weights
    found = deployment(scenario)
    wanted = found.kv_cache.reserved(round(tokens)) + 3 * found.kv_cache.reserved(0) + 1.0  # states have no tokens
    share = found.gpu_memory_utilization + (wanted - found.kv_budget) / found.attention.gpu.memory
    return scenario.vary("deployment.gpu_memory_utilization", share)


@st.composite
def growing(draw: st.DrawFn) -> Scenario:
    """Any small deployment of any kind whose sequences outgrow its KV cache, or not, with any price of that.

    A rank has a little more than the longest request needs, or some times of it, and slots for more.
    """
    scenario = draw(st.one_of(deployments(), engines(), tensors()))
    longest = draw(st.sampled_from([60, 150, 400]))
    law = {"distribution": "lognormal", "mean": longest / 3, "cv": 1.0, "max": longest}
    input_len, output_len = draw(st.sampled_from([5, longest // 4, law])), draw(st.sampled_from([longest, law]))
    arrival = draw(st.sampled_from([{"process": "closed_loop"}, *OPEN]))
    lengths = {"input_len": input_len, "output_len": output_len}
    workload = {"arrival": arrival, "num_requests": draw(st.integers(10, 40)), **lengths}
    asked = {"block": draw(st.sampled_from([1, 4, 16, 50])), "policy": "grow", **draw(st.sampled_from(PRICES))}
    scenario = scenario.varied({"workload": workload, "kv_cache": asked})
    scenario = scenario.vary("deployment.max_num_seqs", draw(st.integers(4, 12)))
    return scarce(scenario, 2 * longest * draw(st.sampled_from([1.05, 1.3, 2.0, 5.0])))


@st.composite
def alike(draw: st.DrawFn) -> Scenario:
    """Prompts that begin alike in some ways, on ranks that hold a few of them and no more than a prefix or two beside."""
    law = {"distribution": "lognormal", "mean": 90, "cv": 0.5, "max": 200}
    workload = {
        "arrival": draw(st.sampled_from([{"process": "closed_loop"}, *OPEN])),
        "num_requests": draw(st.integers(20, 60)),
        "input_len": draw(st.sampled_from([100, law])),
        "output_len": draw(st.sampled_from([60, {"distribution": "uniform", "min": 1, "max": 120}])),
        "prefix": {"groups": draw(st.integers(1, 9)), "tokens": 70, "zipf": draw(st.sampled_from([0, 1]))},
    }
    asked = {"block": draw(st.sampled_from([1, 16])), "policy": "grow", **draw(st.sampled_from(PRICES))}
    scenario = tiny(2, attention=draw(st.integers(1, 2)), deployment__num_microbatches=draw(st.integers(1, 3)))
    scenario = scenario.varied({"workload": workload, "kv_cache": asked, "deployment.mtp": draw(DRAFTS)})
    return scarce(scenario.vary("deployment.max_num_seqs", draw(st.integers(3, 9))), draw(st.integers(350, 900)))


def blocks_held(office: Office) -> np.ndarray:
    """Bytes by rank of those that run, of those that are called, and of prefixes once, all counted again."""
    book, places = office.book, office.places
    held = book.prefixes.entries[:, :, prefixes.TOKENS].sum(axis=1) * seats.worth(places, 1)
    for request in running(office):
        k = office.step - int(book.requests[request, seats.JOINED])  # `step` is the next one
        own = seats.kept(places, seats.written(places, book.requests, request, k))
        held[rank_of(office, request)] += own - beginning(office, request)
    for request in (each for called in office.called for each in called):
        own = seats.takes(places, book.requests, request)
        held[rank_of(office, request)] += own - beginning(office, request)
    return held


def beginning(office: Office, request: int) -> float:
    """Bytes of a sequence that it shares."""
    keeping, prompt = office.places.keeping, int(office.book.requests[request, seats.INPUT_LEN])
    return seats.worth(office.places, min(keeping.prefix, prompt) // keeping.block * keeping.block)


def running(office: Office) -> list[int]:
    """Requests that take part in the step."""
    issued = office.book.count[seats.ISSUED]
    there = (office.book.requests[:issued, seats.JOINED] >= 0) & np.isnan(office.book.times[:issued, seats.FINISH])
    return np.flatnonzero(there).tolist()


def rank_of(office: Office, request: int) -> int:
    return int(office.book.requests[request, seats.SEAT]) // office.places.micro_batches


@given(st.one_of(growing(), alike()))
def test_blocks_are_never_more_than_there_are_and_all_are_given_back(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        if office.desk.ends < seats.FOREVER:
            break  # the lanes behind the last one have not turned over
        held = blocks_held(office)

        assert (held <= office.places.kv_budget).all()
        assert (office.book.ranks[:, seats.KV_FREE] == office.places.kv_budget - held).all()


@pytest.mark.parametrize("block", [1, 16])
def test_who_fits_alone_is_who_needs_no_more_than_a_rank_has(block):
    found = places(lower(scarce(tiny(kv_cache={"block": block}), 90), seed=0))
    contexts = np.arange(1, 300)
    alone = fits(found, contexts)

    assert alone.tolist() == [seats.kept(found, context) <= found.kv_budget for context in contexts.tolist()]
    assert 90 <= alone.sum() < 300
    assert alone.sum() % block == 0


def test_the_count_of_blocks_can_fail():
    office = Office(pair(reprefill_rate="10 tok/s"))
    office.turn()
    office.book.ranks[0, seats.KV_FREE] += 1.0

    assert (office.book.ranks[:, seats.KV_FREE] != office.places.kv_budget - blocks_held(office)).all()


@given(st.one_of(growing(), alike()))
def test_seats_queues_and_sums_are_those_of_who_is_there(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        book, sitting = office.book, running(office)
        called, waiting = list(map(len, office.called)), list(map(len, office.waiting))
        batch = np.bincount(book.requests[sitting, seats.SEAT], minlength=len(book.seats))

        assert (book.seats[:, seats.BATCH] == batch).all()
        assert (book.seats[:, seats.TAKEN] == batch + called).all()
        assert book.seats[:, seats.SEQUENCES].sum() == batch.sum() + sum(called) + sum(waiting)
        assert book.count[seats.ACTIVE] == batch.sum()
        assert book.count[seats.QUEUE] == sum(called) + sum(waiting)
        assert ((book.lanes[:, seats.OWED] >= 0) & (book.lanes[:, seats.OWED] < office.places.scale)).all()
        if office.desk.ends == seats.FOREVER:  # else the lanes behind the last one have not turned over
            assert np.array_equal(book.contexts, contexts_read(office, sitting))


def contexts_read(office: Office, sitting: list[int]) -> np.ndarray:
    """Sums of the contexts of those that sit, by window and seat."""
    found, places, requests = np.zeros_like(office.book.contexts), office.places, office.book.requests
    for request in sitting:
        row = requests[request]
        taken = office.step - 1 - int(row[seats.JOINED])
        read = int(row[seats.CONTEXT]) * places.scale + taken * int(seats.pace_of(places, requests, request))
        for w, window in enumerate(map(int, places.windows)):
            found[w, row[seats.SEAT]] += min(read, window * places.scale)
    return found


@fewer()
@given(st.one_of(growing(), alike()))
def test_both_engines_agree_and_every_token_comes_once(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)
    counted = np.bincount(kernel.record.stays.request, minlength=len(kernel.record.requests))
    assert (kernel.record.requests.preempted == counted).all()
    assert set(kernel.record.requests.status()) <= {"finished", "refused", "running", "waiting"}
    if scenario.run.stop.max_sim_time is None and scenario.workload.arrival.process != "closed_loop":
        assert set(kernel.record.requests.status()) <= {"finished", "refused"}


@given(growing())
def test_every_gap_between_two_tokens_of_a_finished_request_is_counted_once(scenario):
    outcome = run(scenario.vary("deployment.mtp", None))
    table, tokens = outcome.record.requests, columns.tokens(outcome.record, outcome.cell)
    if not set(table.status()) <= {"finished", "refused"}:
        return  # a closed loop ends with others in flight
    finished = ~np.isnan(table.finish)

    assert tokens["batch"].sum() == table.output_len[finished].sum()
    assert tokens["gaps"].sum() == (table.output_len[finished] - 1).sum()
    spans = (table.finish - table.first_token)[finished].sum()
    assert np.nansum(tokens["gaps"] * tokens["itl_s"]) == pytest.approx(spans, rel=1e-9, abs=1e-12)


def assert_same_times(one: Outcome, other: Outcome) -> None:
    """Every request has the same times and the same seat, and every boundary the same tokens."""
    for part in ("requests", "boundaries"):
        for field in fields(getattr(one.record, part)):
            mine, yours = (getattr(getattr(each.record, part), field.name) for each in (one, other))

            assert np.array_equal(mine, yours, equal_nan=mine.dtype == float), field.name


@given(growing())
def test_with_memory_to_spare_growing_is_reserving(scenario):
    scenario = scenario.vary("workload.prefix", None).vary("deployment.gpu_memory_utilization", 0.9)
    grown, reserved = unseen(scenario), unseen(scenario.vary("kv_cache", None))

    assert_same_times(grown, reserved)
    assert not grown.record.stays.request.size


@given(growing())
def test_reserved_blocks_of_one_token_are_what_was_without_blocks(scenario):
    scenario = scenario.vary("workload.prefix", None)
    reserved = unseen(scenario.vary("kv_cache", {"block": 1, "policy": "reserve"}))

    assert_same_times(reserved, unseen(scenario.vary("kv_cache", None)))


@given(growing())
def test_reserved_blocks_are_never_more_than_there_are(scenario):
    office = Office(scenario.vary("workload.prefix", None).vary("kv_cache", {"block": 16}))
    while office.open:
        office.turn()
        held = np.zeros(len(office.book.ranks))
        for request in [*office.seated, *chain.from_iterable(office.called)]:
            row = office.book.requests[request]
            held[rank_of(office, request)] += office.cell.deployment.kv_cache.reserved(
                int(row[seats.INPUT_LEN] + row[seats.OUTPUT_LEN])
            )

        assert (held <= office.places.kv_budget).all()


# by hand -------------------------------------------------------------------------------------------------------------

STEP = 4.0
"""Two layers of a second of attention and a second of FFN, nothing on the wire: a boundary every four seconds."""


def pair(**kv_cache: object) -> Scenario:
    """Two requests of 7 + 8 tokens at time 0, in a cache of six blocks of four tokens.

    Each fills two blocks in its first step, three from the second on, and four from the sixth on.
    """
    scenario = tiny(2, deployment__num_microbatches=1, deployment__max_num_seqs=2)
    arrival = {"process": "poisson", "request_rate": "inf req/s"}
    workload = {"arrival": arrival, "num_requests": 2, "input_len": 7, "output_len": 8}
    return scarce(scenario.varied({"workload": workload, "kv_cache": {"block": 4, "policy": "grow", **kv_cache}}), 24)


def both(scenario: Scenario) -> Outcome:
    """The run by both engines, which agree."""
    cost = Stages(attention=1.0, ffn=1.0)
    kernel = run(scenario, cost=cost, network=Wires())
    assert_same(kernel, run(scenario, "processes", cost=cost, network=Wires()))
    assert_conserved(kernel)
    return kernel


@pytest.mark.parametrize(
    ("rate", "again"),
    [
        ("10 tok/s", [36.0, 40.0, 44.0]),  # 12 tokens are there again at 21.2 s, long before there is room
        ("1 tok/s", [36.0, 40.0, 44.0]),  # at 32 s, as the other leaves
        ("0.5 tok/s", [48.0, 52.0, 56.0]),  # at 44 s: nobody sits until then
    ],
)
def test_who_came_last_makes_room_keeps_its_tokens_and_comes_back_when_there_is_room(rate, again):
    record = both(pair(reprefill_rate=rate)).record

    # before the sixth step there is room for one of two: five tokens of each are out
    assert record.stays.request.tolist() == [1]
    assert (record.stays.steps.tolist(), record.stays.tokens.tolist(), record.stays.context.tolist()) == ([5], [5], [7])
    assert record.requests.preempted.tolist() == [0, 1]
    assert record.requests.first_token.tolist() == [4.0, 4.0]
    assert record.requests.finish.tolist() == pytest.approx([32.0, again[-1]])
    assert record.boundaries.batch.tolist() == [2] * 5 + [1] * 6
    assert record.boundaries.time[8:].tolist() == pytest.approx(again)


def test_blocks_go_to_host_memory_and_come_back_once_there_is_room():
    scenario = pair(preemption="swap")
    blocks = deployment(scenario).kv_cache.reserved(12)
    record = both(scenario.vary("kv_cache.host_bandwidth", f"{blocks} B/s")).record

    # three blocks go from 20 to 21 s and come from 32 to 33 s
    assert record.boundaries.time[8:].tolist() == pytest.approx([37.0, 41.0, 45.0])


def test_copies_of_a_rank_go_one_after_the_other():
    scenario = pair(preemption="swap")
    blocks = deployment(scenario).kv_cache.reserved(12)
    record = both(scenario.vary("kv_cache.host_bandwidth", f"{blocks / 20} B/s")).record

    # out from 20 to 40 s, and back from then on
    assert record.boundaries.time[8:].tolist() == pytest.approx([64.0, 68.0, 72.0])


def test_of_those_that_joined_at_one_boundary_the_last_in_the_queue_makes_room():
    scenario = pair(reprefill_rate="1000 tok/s").vary("deployment.max_num_seqs", 3)
    record = both(scenario.vary("workload.num_requests", 3).vary("workload.output_len", 5)).record

    # two blocks each at first; before the second step each wants a third, and two can have it
    assert record.stays.request.tolist() == [2]
    assert record.stays.tokens.tolist() == [1]


def test_whoever_is_called_goes_back_before_anybody_is_preempted():
    """The second request comes at 3 s and finds two blocks; at the boundary the first needs one of them."""
    arrival = {"process": "constant", "request_rate": f"{1 / 3} req/s"}
    scenario = scarce(pair(reprefill_rate="1000 tok/s").vary("workload.arrival", arrival), 16)
    record = both(scenario).record

    assert not record.stays.request.size
    assert record.requests.admitted.tolist() == pytest.approx([0.0, 32.0])
    assert record.requests.finish.tolist() == pytest.approx([32.0, 64.0])


@pytest.mark.parametrize("engine", ["kernel", "processes"])
@pytest.mark.parametrize("policy", [{"policy": "reserve"}, {"policy": "grow", "reprefill_rate": "1e6 tok/s"}])
def test_a_long_prefix_that_nobody_shares_gives_its_tail_to_who_shares_its_beginning(engine, policy, tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,300,4\n1.0,16,280\n")
    workload = {"arrival": {"process": "trace"}, "trace": {"path": str(path)}, "prefix": {"groups": 1, "tokens": 400}}
    asked = tiny(2).varied({"workload": workload, "kv_cache": {"block": 4, **policy}, "run.stop.max_sim_time": "60s"})
    outcome = run(scarce(asked, 312), engine)

    assert list(outcome.record.requests.status()) == ["finished", "finished"]


def test_preemptions_are_told(tmp_path):
    found = simulate(pair(reprefill_rate="10 tok/s"))
    told = found.summary["afdsim"]["kv_cache"]

    assert told == {
        "block": 4,
        "policy": "grow",
        "preemption": "recompute",
        "preemptions": 1,
        "requests_preempted": 1,
        "tokens_recomputed": 12,
    }
    assert found.requests["preemptions"].tolist() == [0, 1]
    assert "KV cache: blocks of 4 tokens that grow with the context; 1 preemption of 1 request" in terminal(found)
    assert Result.load(found.save(tmp_path / "run")).summary == found.summary
