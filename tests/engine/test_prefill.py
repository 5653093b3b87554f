"""The queue of prompts: who is computed when and where, and when KV caches have left."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.prefill import Pool, Queue, Wire
from afdsim.engine.prompts import Prices, Step
from afdsim.engine.seats import FOREVER
from afdsim.engine.servers import prefill_of
from afdsim.errors import CapacityError, SimulationError
from afdsim.scenario.document import load


class Linear(Prices):
    """A step takes a second for a thousand tokens of its fullest rank."""

    def step(self, ranks, finished):
        own = tuple(sum(chunk.tokens for chunk in chunks) / 1000 for chunks in ranks)
        return Step(max(own), own, 0.0, 0.0, 0.0)


FREE = Wire(nbytes=lambda tokens: 0.0, per_byte=0.0, latency=0.0)


def pool(wire=FREE, **prefill):
    """Servers with one rank each, unless said otherwise."""
    asked = {"instances": 1, "parallelism": "{dp: 1, tp: 8, ep: 1}", "chunk": "null", "max_batched_tokens": 1000}
    found = load("step3_prefill", overrides=[f"prefill.{key}={value}" for key, value in (asked | prefill).items()])
    return Pool(prices=Linear(prefill=prefill_of(found, found.prefill), cost=None), wire=wire)


def served(queue, arrivals):
    """Prompts of (time, tokens)."""
    found = [queue.submit(*each) for each in arrivals]
    queue.advance(FOREVER)
    return found


def test_a_prompt_alone_takes_its_steps_and_then_is_answered():
    (prompt,) = served(Queue(pool()), [(2.0, 2500)])

    assert (prompt.start, prompt.end, prompt.ready) == (2.0, 4.5, 4.5)


def test_a_rank_is_first_come_first_served():
    first, second, third = served(Queue(pool()), [(0.0, 1500), (0.1, 200), (0.2, 900)])

    assert (first.end, second.end, third.end) == pytest.approx((2.0, 2.0, 2.6))
    assert second.start == 1.0


def test_what_arrives_at_once_is_computed_at_once():
    found = served(Queue(pool()), [(1.0, 100)] * 3)

    assert [prompt.end for prompt in found] == [1.3] * 3


def test_a_chunk_lets_short_prompts_pass():
    whole, parts = (served(Queue(pool(chunk=chunk)), [(0.0, 3000), (0.0, 100)]) for chunk in (1000, 500))

    assert (whole[1].end, parts[1].end) == pytest.approx((3.1, 0.6))
    assert parts[0].end > whole[0].end


def test_a_prompt_goes_to_the_rank_with_the_fewest_tokens_ties_to_the_first():
    found = served(Queue(pool(instances=3)), [(0.0, 900), (0.0, 500), (0.0, 600), (0.0, 100), (0.0, 100)])

    assert [prompt.rank for prompt in found] == [0, 1, 2, 1, 1]


def test_tokens_of_a_step_count_until_it_ends():
    early, late = (served(Queue(pool(instances=2)), [(0.0, 500), (0.0, 800), (at, 10)])[2] for at in (0.4, 0.5))

    assert (early.rank, late.rank) == (0, 0)
    assert (early.start, late.start) == (0.5, 0.5)
    assert served(Queue(pool(instances=2)), [(0.0, 800), (0.0, 500), (0.5, 10)])[2].rank == 1


def test_ranks_of_an_instance_step_together():
    found = served(Queue(pool(parallelism="{dp: 2, tp: 4, ep: 8}")), [(0.0, 1000), (0.0, 400), (0.1, 300)])

    assert [prompt.rank for prompt in found] == [0, 1, 1]
    assert [prompt.end for prompt in found] == [1.0, 1.0, 1.3]


def test_caches_leave_a_rank_one_after_the_other():
    wire = Wire(nbytes=float, per_byte=1e-3, latency=0.25)
    first, second = served(Queue(pool(wire)), [(0.0, 400), (0.0, 600)])

    assert (first.end, second.end) == (1.0, 1.0)
    assert (first.ready, second.ready) == (1.65, 2.25)


def test_by_layer_only_the_last_layer_is_exposed_unless_the_wire_is_slower():
    quick, slow = (Wire(nbytes=float, per_byte=each, latency=0.0, by_layer=10) for each in (1e-4, 1e-2))
    (fast,), (late,) = (served(Queue(pool(wire)), [(0.0, 1000)]) for wire in (quick, slow))

    assert fast.ready == pytest.approx(1.0 + 0.1 / 10)
    assert late.ready == pytest.approx(0.1 + 10.0)


def test_earlier_chunks_have_left_while_later_ones_are_computed():
    wire = Wire(nbytes=lambda tokens: 5.0 + tokens, per_byte=1e-4, latency=0.0, by_layer=10)
    (prompt,) = served(Queue(pool(wire)), [(0.0, 3000)])

    assert prompt.ready == pytest.approx(3.0 + (1000 + 5) * 1e-4 / 10)


def test_one_token_is_answered_by_prefill_and_sends_nothing():
    wire = Wire(nbytes=float, per_byte=1.0, latency=1.0)
    queue = Queue(pool(wire))
    alone, other = queue.submit(0.0, 500, answered=False), queue.submit(0.0, 10)
    queue.advance(FOREVER)

    assert math.isnan(alone.ready)
    assert other.ready == pytest.approx(0.51 + 10 + 1)


def crowded(wire):
    """A rank whose memory holds the cache of 1,000 tokens."""
    found = pool(wire)
    prefill, engine = found.prices.prefill, found.prices.prefill.engine
    more = engine.kv_cache.reserved(1000) - engine.kv_budget + 1.0
    share = engine.gpu_memory_utilization + more / engine.attention.gpu.memory
    engine = replace(engine, gpu_memory_utilization=share)
    return replace(found, prices=replace(found.prices, prefill=replace(prefill, engine=engine)))


def test_a_prompt_waits_for_memory_until_the_cache_before_it_has_left():
    queue = Queue(crowded(Wire(nbytes=float, per_byte=1e-3, latency=9.0)))
    first, second = served(queue, [(0.0, 600), (0.0, 600)])

    assert (first.end, second.start, second.end) == pytest.approx((0.6, 1.2, 1.8))
    assert queue.blocked == [(0, pytest.approx(0.6), pytest.approx(1.2))]


def test_a_prompt_that_never_fits_is_told():
    with pytest.raises(
        CapacityError, match=r"a prompt of 1,001 tokens needs 31.3 MB of KV cache on each GPU of a prefill"
    ):
        Queue(crowded(FREE)).submit(0.0, 1001)


def test_prompts_come_in_order_of_time():
    queue = Queue(pool())
    queue.submit(1.0, 10)
    with pytest.raises(SimulationError, match="submit them in order"):
        queue.submit(0.5, 10)


times = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3000)), min_size=1, max_size=25).map(sorted)
ways = st.sampled_from(["{dp: 1, tp: 8, ep: 1}", "{dp: 2, tp: 4, ep: 8}", "{dp: 8, tp: 1, ep: 8}"])
shapes = st.fixed_dictionaries({"instances": st.integers(1, 3), "parallelism": ways, "chunk": st.integers(50, 1000)})


@given(times, shapes)
def test_every_token_is_computed_once_and_no_rank_is_overfull(arrivals, shape):
    queue = Queue(pool(**shape))
    found = served(queue, arrivals)

    assert all(prompt.computed == prompt.tokens for prompt in found)
    assert all(prompt.arrival <= prompt.start < prompt.end == prompt.ready for prompt in found)
    assert sum(sum(step.cost.own) for step in queue.steps) * 1000 == pytest.approx(sum(n for _, n in arrivals))
    assert max(max(step.cost.own) for step in queue.steps) <= 1.0
    assert not queue._left.any()


@given(times, shapes)
def test_an_instance_never_runs_two_steps_at_once_nor_rests_while_it_could_work(arrivals, shape):
    queue = Queue(pool(**shape))
    found = served(queue, arrivals)
    dp = queue._prefill.dp
    for instance in range(queue._prefill.instances):
        own = [(step.start, step.start + step.cost.seconds) for step in queue.steps if step.instance == instance]
        came = [prompt.arrival for prompt in found if prompt.rank // dp == instance]

        assert all(end <= start for (_, end), (start, _) in pairwise(own))
        assert all(start == end or start in came for (_, end), (start, _) in pairwise(own))


@given(times, shapes, st.lists(st.floats(0, 12), max_size=8).map(sorted))
def test_driving_the_queue_step_by_step_changes_nothing(arrivals, shape, stops):
    once, often = Queue(pool(**shape)), Queue(pool(**shape))
    whole = served(once, arrivals)
    parts = []
    for time, tokens in arrivals:
        for stop in stops:
            if stop <= time:
                often.advance(stop)
        parts.append(often.submit(time, tokens))
    for stop in stops:
        often.advance(max(stop, arrivals[-1][0]))
    often.advance(FOREVER)

    assert [(each.rank, each.start, each.end) for each in parts] == [
        (each.rank, each.start, each.end) for each in whole
    ]


def test_waits_of_single_prompts_are_those_of_an_m_d_1_queue():
    rng, load_, count = np.random.default_rng(5), 0.7, 40_000
    arrivals = np.cumsum(rng.exponential(1 / load_, count))
    found = served(Queue(pool()), [(time, 1000) for time in arrivals.tolist()])  # a prompt fills a step of one second
    waits = np.array([prompt.start - prompt.arrival for prompt in found])
    batches = waits.reshape(40, -1).mean(axis=1)

    assert waits.mean() == pytest.approx(load_ / (2 * (1 - load_)), abs=3 * batches.std() / math.sqrt(40))
