"""Several answers to one prompt: engines agree, and what a rank holds is the prompt once and every answer."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import seats
from afdsim.results.result import Result
from afdsim.results.terminal import terminal
from afdsim.scenario.document import Scenario
from afdsim.simulation import simulate
from tests.cases import fewer, run, tiny, unseen
from tests.engine.test_seats import Office
from tests.laws.test_equivalence import assert_same
from tests.laws.test_failures import assert_conserved
from tests.laws.test_kv_cache import DRAFTS, OPEN, PRICES, assert_same_times, blocks_held, rank_of, running, scarce
from tests.laws.test_sessions import ungrouped


@st.composite
def sampling(draw: st.DrawFn) -> Scenario:
    """A few answers to every prompt, on one or two ranks with room for many of them, or for few."""
    law = {"distribution": "uniform", "min": 1, "max": 90}
    workload = {
        "arrival": draw(
            st.sampled_from([{"process": "closed_loop"}, {"process": "closed_loop", "concurrency": 2}, *OPEN])
        ),
        "num_requests": draw(st.integers(5, 50)),
        "input_len": draw(st.sampled_from([40, law])),
        "output_len": draw(st.sampled_from([1, {"distribution": "uniform", "min": 1, "max": 60}])),
        "samples": draw(st.integers(1, 9)),
    }
    grows = {"policy": "grow", **draw(st.sampled_from(PRICES))}
    cache = {"block": draw(st.sampled_from([1, 16])), **draw(st.sampled_from([{}, grows]))}
    scenario = tiny(2, attention=draw(st.integers(1, 2)), deployment__num_microbatches=draw(st.integers(1, 3)))
    scenario = scenario.varied({"workload": workload, "kv_cache": cache, "deployment.mtp": draw(DRAFTS)})
    return scarce(scenario.vary("deployment.max_num_seqs", draw(st.integers(3, 9))), draw(st.sampled_from([200, 600])))


@fewer(5)
@given(sampling())
def test_both_engines_agree_and_every_token_comes_once(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)


@fewer(3)
@given(sampling())
def test_answers_to_a_prompt_have_it_in_common_and_come_together(scenario):
    table = unseen(scenario).record.requests
    samples = scenario.workload.samples
    first = np.arange(len(table)) // samples * samples

    assert np.array_equal(table.group, np.arange(len(table)) // samples)
    assert np.array_equal(table.input_len, table.input_len[first])
    if scenario.workload.arrival.process != "closed_loop":
        assert np.array_equal(table.arrival, table.arrival[first])


@fewer(3)
@given(sampling())
def test_a_rank_holds_every_prompt_once_and_no_more_than_there_is(scenario):
    office = Office(scenario.vary("kv_cache", {"policy": "grow", "reprefill_rate": "1e6 tok/s", "block": 4}))
    while office.open:
        office.turn()
        if office.desk.ends < seats.FOREVER:
            break
        held = blocks_held(office)

        assert (held <= office.places.kv_budget).all()
        assert (office.book.ranks[:, seats.KV_FREE] == office.places.kv_budget - held).all()


@fewer(3)
@given(sampling())
def test_with_memory_to_spare_all_but_the_first_on_a_rank_find_the_prompt(scenario):
    outcome = unseen(scenario.varied({"deployment.gpu_memory_utilization": 0.9, "deployment.ffn.gpu": "H800"}))
    table, cell = outcome.record.requests, outcome.cell
    shared = table.input_len // scenario.kv_cache.block * scenario.kv_cache.block
    joined = np.flatnonzero(~np.isnan(table.admitted))
    first, hits = Counter[tuple[int, int]](), 0
    for request in joined.tolist():
        at = (int(table.seat[request]) // cell.micro_batches, int(table.group[request]))
        hits += int(shared[request]) if first[at] else 0
        first[at] += 1

    assert outcome.record.prefixes[:2] == [shared[joined].sum(), hits]


@fewer(3)
@given(sampling())
def test_one_answer_to_every_prompt_is_what_was_without(scenario):
    one = scenario.vary("workload.samples", 1)

    assert_same_times(*(ungrouped(unseen(each)) for each in (one, scenario.vary("workload.samples", None))))


# by hand -------------------------------------------------------------------------------------------------------------


def problem(answers: int, **changes: object) -> Scenario:
    """A prompt of 32 tokens, answers of 8, all at once, on two ranks of four places."""
    scenario = tiny(2, attention=2, deployment__num_microbatches=1, deployment__max_num_seqs=4)
    arrival = {"process": "poisson", "request_rate": "inf req/s"}
    workload = {"arrival": arrival, "num_requests": answers, "input_len": 32, "output_len": 8, "samples": answers}
    return scenario.varied({"workload": workload, "kv_cache": {"block": 8}, **changes})


def test_what_is_held_is_one_prompt_and_all_answers():
    office = Office(problem(3))
    office.turn()
    free, places = office.book.ranks[:, seats.KV_FREE], office.places

    assert [rank_of(office, request) for request in running(office)] == [0, 0, 0]
    assert free.tolist() == [places.kv_budget - seats.worth(places, 32 + 3 * 8), places.kv_budget]


def test_answers_stay_together_as_long_as_there_is_a_place():
    office = Office(problem(7))
    office.turn()

    assert [rank_of(office, request) for request in range(7)] == [0] * 4 + [1] * 3


def test_prompts_in_common_are_told(tmp_path):
    found = simulate(problem(3))

    assert found.summary["afdsim"]["kv_cache"]["prefix_hit_rate"] == pytest.approx(2 / 3)
    assert found.requests[["prompt", "prompt_hit"]].to_numpy().tolist() == [[0, 0], [0, 32], [0, 32]]
    assert "66.7% of 96 tokens of prefixes were there" in " ".join(terminal(found).split())
    assert Result.load(found.save(tmp_path / "run")).summary == found.summary
