"""Prompts inside decode steps: none is lost, none is over its budget, and where they are free nothing changes.

Free means that a step takes as long whatever is in it. A prompt that fits into one step is then, to a request, the step
that would have given its first token without it: every time is the same, bit for bit.
"""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.cost.prompts import Chunk
from afdsim.engine import seats
from afdsim.engine.chunks import note
from afdsim.engine.lowering import lower
from afdsim.engine.prompts import Prices
from afdsim.engine.record import Chunks
from afdsim.engine.servers import prefill_of
from afdsim.engine.tables import head_seconds, measure, seconds
from afdsim.errors import ScenarioError
from afdsim.results import outcome as columns
from afdsim.scenario.document import load
from afdsim.simulation import demanded, execute
from tests.cases import Outcome, Stages, fewer, run, tiny_model, tiny_windowed, unseen
from tests.engine.test_seats import Office
from tests.engine.test_tables import Own
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import assert_same
from tests.laws.test_kv_cache import scarce

OPEN = [{"process": "poisson", "request_rate": rate} for rate in ("200 req/s", "20000 req/s", "inf req/s")]
GROWING = [
    None,
    {"block": 16},
    {"block": 4, "policy": "grow"},
    {"block": 1, "policy": "grow", "preemption": "recompute"},
    {"block": 16, "policy": "grow", "preemption": "swap", "host_bandwidth": "10 MB/s"},
]


@st.composite
def mixing(draw, drafts=True, kv=True):
    """Any small colocated or tensor-parallel deployment whose steps compute prompts, with memory to spare or not."""
    scenario = draw(st.one_of(engines(), tensors()))
    longest = draw(st.sampled_from([30, 150, 400]))
    law = {"distribution": "lognormal", "mean": longest / 3, "cv": 1.0, "max": longest}
    workload = {
        "arrival": draw(st.sampled_from([{"process": "closed_loop"}, *OPEN])),
        "num_requests": draw(st.integers(1, 40)),
        "input_len": draw(st.sampled_from([1, longest // 4, law])),
        "output_len": draw(st.sampled_from([1, 2, law, {"distribution": "uniform", "min": 1, "max": longest // 3}])),
    }
    chunk = draw(st.sampled_from([2, 7, 64, 512]))
    scenario = scenario.varied({"workload": workload, "prefill": {"mode": "mixed", "chunk": chunk}})
    if not drafts:
        scenario = scenario.vary("deployment.mtp", None)
    asked = draw(st.sampled_from(GROWING)) if kv else None
    if asked is None:
        return scenario
    tight = scarce(scenario.vary("kv_cache", asked), 2 * longest * draw(st.sampled_from([1.05, 1.3, 2.0, 5.0])))
    return tight.vary("deployment.max_num_seqs", draw(st.integers(3, 9)))


def assert_chunks_same(one: Outcome, other: Outcome) -> None:
    for column in fields(Chunks):
        mine, its = (getattr(each.record.chunks, column.name) for each in (one, other))

        assert np.array_equal(mine, its), column.name


@fewer()
@given(mixing())
def test_both_engines_agree_bit_for_bit(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_chunks_same(kernel, processes)


@given(mixing())
def test_every_prompt_is_computed_once_and_no_step_computes_more_than_its_budget(scenario):
    outcome = unseen(scenario)
    chunks, table, m = outcome.record.chunks, outcome.record.requests, outcome.cell.micro_batches
    sums = np.bincount(chunks.request, chunks.tokens, minlength=len(table))
    begun = np.bincount(chunks.request, chunks.before == 0, minlength=len(table))
    ended = np.bincount(chunks.request, chunks.ends, minlength=len(table))
    young = ~np.isnan(table.finish) & (begun > 0) & (table.preempted == 0)
    steps, budgets = chunks.step * len(outcome.cell.deployment.micro_batch_slots) * 10_000, outcome.cell.prompting
    of_seat = np.bincount(np.unique(steps + chunks.seat, return_inverse=True)[1], chunks.tokens)
    of_rank = np.bincount(np.unique(steps + chunks.seat // m, return_inverse=True)[1], chunks.tokens)

    assert (sums[young] == table.input_len[young]).all()
    assert (begun[young] == 1).all()
    assert (ended[young] == 1).all()
    assert of_seat.max(initial=0) <= budgets.budgets.max()
    assert of_rank.max(initial=0) <= scenario.mixed.chunk == budgets.budgets.sum()
    if scenario.workload.arrival.process != "closed_loop":
        assert set(table.status()) <= {"finished", "refused"}
        assert (begun[table.status() == "finished"] >= 1).all()


@given(mixing(drafts=False))
def test_every_token_and_every_gap_is_counted_once(scenario):
    outcome = unseen(scenario)
    table, tokens = outcome.record.requests, columns.tokens(outcome.record, outcome.cell)
    if not set(table.status()) <= {"finished", "refused"}:
        return  # a closed loop ends with others in flight
    finished = ~np.isnan(table.finish)

    assert tokens["batch"].sum() == table.output_len[finished].sum()
    assert tokens["gaps"].sum() == (table.output_len[finished] - 1).sum()
    spans = (table.finish - table.first_token)[finished].sum()
    assert np.nansum(tokens["gaps"] * tokens["itl_s"]) == pytest.approx(spans, rel=1e-9, abs=1e-12)


@given(mixing())
def test_times_of_a_request_follow_one_another(scenario):
    outcome = unseen(scenario)
    table, record = outcome.record.requests, outcome.record
    several = (table.output_len > 1) & np.isin(np.arange(len(table)), record.chunks.request)
    order = (table.arrival, table.admitted, table.first_token, table.finish)

    for before, after in pairwise(order):
        assert not (before > after).any()
    assert not (table.first_token >= table.finish)[several].any()
    assert record.causes.sum(axis=1) == pytest.approx(
        np.full(len(record.causes), record.window[1] - record.window[0]), rel=1e-9, abs=1e-12
    )


@given(mixing())
def test_seats_queues_blocks_and_sums_are_those_of_who_is_there(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        if office.desk.ends < seats.FOREVER:
            break  # the lanes behind the last one have not turned over
        book = office.book
        issued = book.count[seats.ISSUED]
        requests, times = book.requests[:issued], book.times[:issued]
        sitting = (requests[:, seats.JOINED] >= 0) & np.isnan(times[:, seats.FINISH])
        batch = np.bincount(requests[sitting, seats.SEAT], minlength=len(book.seats))
        called = [each for seat in office.called for each in seat]
        left = requests[called, seats.LEFT]
        begun = (left == seats.ANSWERING) | ((left > 0) & (left < requests[called, seats.CONTEXT]))
        waiting = sum(map(len, office.waiting))

        assert (book.seats[:, seats.BATCH] == batch).all()
        assert (book.seats[:, seats.TAKEN] == batch + list(map(len, office.called))).all()
        assert book.seats[:, seats.ANSWERS].sum() == (left == seats.ANSWERING).sum()
        assert book.count[seats.ACTIVE] == batch.sum() + begun.sum()
        assert book.count[seats.QUEUE] == waiting + (~begun).sum()
        assert (book.ranks[:, seats.KV_FREE] >= 0).all()
        assert (book.sums[:, :, 3] == book.seats[:, seats.PROMPT_TOKENS]).all()
    if office.desk.ends < seats.FOREVER and not office.desk.demand.closed:
        assert (office.book.ranks[:, seats.KV_FREE] == office.places.kv_budget).all()
        assert office.book.count[seats.ACTIVE] == office.book.count[seats.QUEUE] == 0


# free prompts --------------------------------------------------------------------------------------------------------


GROUP = {"type": "colocated", "gpu": "H800", "instances": 2, "gpus_per_instance": 2, "max_num_seqs": 6}
KINDS = {
    "colocated": GROUP,
    "overlap": GROUP | {"two_batch_overlap": True},
    "tensor_parallel": {"type": "tensor_parallel", "gpu": "H800", "gpus": 2, "max_num_seqs": 12},
}


def asked(kind, chunk=50_000, **more):
    data = {
        "model": tiny_model(2),
        "deployment": KINDS[kind],
        "workload": {
            "arrival": {"process": "poisson", "request_rate": "0.5 req/s"},
            "input_len": {"distribution": "uniform", "min": 10, "max": 90},
            "output_len": {"distribution": "uniform", "min": 1, "max": 20},
            "num_requests": 120,
        },
        "prefill": {"mode": "mixed", "chunk": chunk},
        "variation": {"link": 0},
    }
    return load(data | more)


@pytest.mark.parametrize("engine", ["kernel", "processes"])
@pytest.mark.parametrize("kind", KINDS)
def test_free_prompts_that_fit_into_a_step_give_the_decode_only_run(kind, engine):
    scenario = asked(kind)
    _, mixed = constant(scenario, engine)
    _, bare = constant(scenario.vary("prefill", None), engine)

    for name in ("arrival", "admitted", "first_token", "finish"):
        assert np.array_equal(getattr(mixed.requests, name), getattr(bare.requests, name)), name
    for name in ("time", "batch", "step", "unit", "micro_batch"):
        assert np.array_equal(getattr(mixed.boundaries, name), getattr(bare.boundaries, name)), name
    assert np.array_equal(mixed.slices, bare.slices)


def constant(scenario, engine="kernel"):
    """A run whose stages take as long whatever is in them: cores take nothing, neither those of prompts."""
    cell = lower(scenario, seed=0, cost=Stages(ffn=1.0, head=0.25))
    return cell, execute(cell, replace(demanded(scenario, cell, 0), overloaded=None), engine)


def test_prompts_that_do_not_fit_into_a_step_change_it():
    _, mixed = constant(asked("colocated", chunk=8))
    _, bare = constant(asked("colocated").vary("prefill", None))

    assert (mixed.requests.first_token >= bare.requests.first_token).all()
    assert (mixed.requests.first_token > bare.requests.first_token).any()


# by hand -------------------------------------------------------------------------------------------------------------


def test_a_prompt_of_three_chunks_by_hand():
    """Two layers of a second for each kind of core attention that there is, and two of shared and routed experts.

    Ten tokens in chunks of four, then two steps of decode; the second prompt begins where the first has left room.
    """
    scenario = asked("tensor_parallel", chunk=4).varied(
        {
            "workload": {
                "arrival": {"process": "poisson", "request_rate": "inf req/s"},
                "num_requests": 2,
                "input_len": 10,
                "output_len": 3,
            }
        }
    )
    cost = Stages(attention=1.0, ffn=1.0)
    both = [run(scenario, engine, cost=cost) for engine in ("kernel", "processes")]
    table, chunks = both[0].record.requests, both[0].record.chunks

    assert_same(*both)
    assert chunks.request.tolist() == [0, 0, 0, 1, 1, 1]
    assert chunks.tokens.tolist() == [4, 4, 2, 2, 4, 4]
    assert chunks.before.tolist() == [0, 4, 8, 0, 2, 6]
    assert chunks.step.tolist() == [0, 1, 2, 2, 3, 4]
    # steps 0 to 2 have prompts alone, 3 and 4 the first request beside them, 5 and 6 the second one alone
    assert table.first_token.tolist() == [18.0, 34.0]
    assert table.finish.tolist() == [34.0, 46.0]
    assert table.admitted.tolist() == [0.0, 12.0]


# seconds -------------------------------------------------------------------------------------------------------------


def step_of(desk, batch, context, chunks):
    """Seconds of all operations of a step of a rank, with its boundary behind."""
    places, book, tables, now = desk.machine.places, desk.book, desk.machine.tables, desk.memory.now
    book.count[seats.CHUNKS] = 0
    book.sums[:] = 0
    book.seats[0, seats.BATCH] = batch
    book.contexts[:, 0] = [min(context, window) * batch for window in places.windows]
    book.seats[0, seats.PROMPT_TOKENS] = sum(chunk.tokens for chunk in chunks)
    for chunk in chunks:
        note(places, book, (0, 0, 0), chunk.tokens, chunk.before, 0.0)
    measure(places, tables, book, now, 0)
    desk.price()
    sources = [turn.work for turn in desk.cell.schedule.turns if hasattr(turn, "work")]
    whole = sum(seconds(tables, desk.memory.priced, book, now, source, (0, 0, 0)) for source in sources)
    return whole + head_seconds(places, tables, book, 0)


def rank(model, gpus, cost=None):
    """A desk of one tensor-parallel rank that computes prompts inside its steps."""
    scenario = load(
        {
            "model": model,
            "deployment": {"type": "tensor_parallel", "gpu": "H200", "gpus": gpus, "max_num_seqs": 64},
            "prefill": {"mode": "mixed", "chunk": 2048},
            "workload": {
                "arrival": {"process": "poisson", "request_rate": "inf req/s"},
                "input_len": 100,
                "output_len": 2,
                "num_requests": 64,
            },
        }
    )
    office = Office(scenario, cost=cost).desk
    office._lengths(64)
    return office


@pytest.fixture(scope="module")
def desk():
    """A desk of Step-3 on eight GPUs."""
    return rank("step3", 8)


def served(desk, model, gpus, chunks):
    """Seconds of a step of a prefill server for these chunks, of which one ends, and of its token's embedding."""
    servers = {"gpu": "H200", "instances": 1, "gpus_per_instance": gpus, "max_batched_tokens": 2048}
    servers["parallelism"] = {"dp": 1, "tp": gpus, "ep": 1}
    scenario = load("step3_prefill", overrides=["workload.arrival.request_rate=1 req/s"]).vary("prefill", servers)
    prefill = prefill_of(scenario.vary("model", model), scenario.servers)
    step = Prices(prefill=prefill, cost=desk.cell.prompts.cost).step([chunks], [1])
    return step.seconds + desk.machine.tables.lookup[1]


def prompted(desk, chunks):
    """Seconds of a step of these chunks alone, of which one ends."""
    desk.book.seats[0, seats.ANSWERS] = 1
    found = step_of(desk, 0, 0, chunks)
    desk.book.seats[0, seats.ANSWERS] = 0
    return found


CHUNKS = [[Chunk(2048, 0)], [Chunk(700, 0), Chunk(300, 5000), Chunk(1, 9)], [Chunk(1, 0)]]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_step_of_prompts_alone_costs_what_a_prefill_server_takes_for_it(desk, chunks):
    assert prompted(desk, chunks) == pytest.approx(served(desk, "step3", 8, chunks), rel=1e-9)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_step_of_prompts_of_a_model_with_windows_costs_as_much_too(chunks):
    model = tiny_windowed(5)
    desk = rank(model, 2)

    assert prompted(desk, chunks) == pytest.approx(served(desk, model, 2, chunks), rel=1e-9)


@pytest.mark.parametrize("chunks", [*CHUNKS, [Chunk(512, 100_000)], [Chunk(2048, 60_000)]])
def test_the_grid_of_prompts_is_near_their_law(chunks):
    """Of a cost model without a closed form; the grid knows tokens and pairs, so several chunks have their mean."""
    model = tiny_windowed(5)
    law, grid = rank(model, 2), rank(model, 2, Own())

    assert prompted(grid, chunks) == pytest.approx(prompted(law, chunks), rel=0.02)


loads = st.tuples(st.integers(0, 64), st.integers(1, 30_000), st.integers(0, 2048), st.integers(0, 30_000))


@given(loads, st.tuples(*[st.integers(0, 1000)] * 4))
def test_more_of_anything_never_makes_a_step_shorter(desk, one, more):
    most = (64, 10**9, 2048, 10**9)
    other = [min(each + extra, limit) for each, extra, limit in zip(one, more, most, strict=True)]

    def taken(batch, context, tokens, before):
        return step_of(desk, batch, context, [Chunk(tokens, before)] if tokens else [])

    assert taken(*one) <= taken(*other) * (1 + 1e-12)


# what does not go together -------------------------------------------------------------------------------------------

GROW = {"block": 16, "policy": "grow"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill": {"mode": "mixed", "chunk": 1}}, "prefill.chunk: must be >= 2, a token per micro-batch"),
        ({"prefill": {"mode": "mixed", "chunk": 10**9}}, "prefill.chunk: must be <= 65,536"),
        ({"failures": {"mtbf": {"gpu": "100d"}, "requests": "reject"}}, "failures: is not modelled together with"),
        (
            {"workload.prefix": {"groups": 2, "tokens": 64}, "kv_cache": {}},
            "workload.prefix: is not modelled together with 'prefill: {mode: mixed}'; remove one of them",
        ),
        ({"kv_cache": GROW | {"reprefill_rate": "9 tok/s"}}, "kv_cache.reprefill_rate: is not asked with"),
        ({"kv_cache": GROW, "prefill": None}, "kv_cache.reprefill_rate: required key is missing"),
    ],
)
def test_what_it_does_not_go_with_is_told(changes, message):
    with pytest.raises(ScenarioError, match=message):
        asked("overlap").varied(changes)


def test_steps_that_compute_contexts_again_need_no_rate():
    assert asked("overlap").varied({"kv_cache": GROW}).mixed.chunk == 50_000
