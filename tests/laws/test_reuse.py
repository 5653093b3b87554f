"""Prompts that begin alike before prefill: hits are those of an LRU cache, and what is hit is not computed again."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.lowering import lower
from afdsim.engine.prefill import Queue
from afdsim.engine.reuse import Alike, Reuse
from afdsim.engine.servers import lower_prefill
from tests.laws.test_prefill import KINDS, equal, run, scenario
from tests.laws.test_users import asked as closed
from tests.laws.test_users import run as run_closed

ONE = {"gpu": "H20", "instances": 1, "gpus_per_instance": 2}
SHARED = {"workload.prefix": {"groups": 5, "tokens": 200, "zipf": 0.8}, "kv_cache": {"block": 16}}


def pool(prefill=ONE, **alike):
    asked = scenario("afd", prefill=prefill)
    found = lower_prefill(asked, lower(asked, seed=0))
    return replace(found, alike=Alike(**alike)) if alike else found


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), max_size=60),
    st.integers(1, 6),
    st.integers(12, 40),
)
def test_hits_are_those_of_a_cache_that_forgets_what_was_used_longest_ago(prompts, prefix, budget):
    """One prompt after the other, in blocks of a token; the last token of a prompt is always computed."""
    cache = pool().prices.prefill.engine.kv_cache
    reuse, kept = Reuse(1, cache, Alike(prefix, 6, 1)), OrderedDict()
    each, hits = cache.reserved(1) - cache.reserved(0), []
    room = budget * each + cache.reserved(0)
    for group, tokens in prompts:
        shared = min(prefix, tokens)
        hit, more = reuse.begin(0, (group, tokens), room, alone=True)
        there = min(kept.get(group, 0), shared)
        hits.append(min(there, tokens - 1))
        mine = kept.pop(group, 0)
        while tokens - shared + max(mine, shared) + sum(kept.values()) > budget and mine > shared:
            mine = shared
        while tokens - shared + max(mine, shared) + sum(kept.values()) > budget and kept:
            kept.popitem(last=False)
        kept[group] = max(mine, shared)

        assert hit == hits[-1]
        room -= more
        reuse.computed(0, group, tokens)
        room += reuse.leave(0, group, tokens)
        assert room == pytest.approx((budget - sum(kept.values())) * each + cache.reserved(0))
        assert reuse.idle(0) == pytest.approx(sum(kept.values()) * each)
    assert reuse.tally[1] == sum(hits)


def test_what_is_hit_is_no_load_of_a_rank():
    """A prompt goes to the rank with the fewest tokens left to compute."""
    queue = Queue(pool(ONE | {"instances": 2}, tokens=600, groups=1, block=1))
    queue.submit(0.0, 700, group=0)
    queue.advance(10.0)
    arrivals = [(10.0, 700, 0), (10.0 + 1e-6, 300, -1), (10.0 + 2e-6, 10, -1)]
    again, beside, last = (queue.submit(time, tokens, group=group) for time, tokens, group in arrivals)

    assert (again.rank, beside.rank, last.rank) == (0, 1, 0)
    assert queue.reuse.tally[1] == 600


@given(st.sampled_from([1, 3]), st.integers(1, 700))
def test_a_prompt_that_was_there_costs_what_its_rest_costs(servers, tokens):
    queue = Queue(pool(ONE | {"instances": 1, "max_batched_tokens": 256}, tokens=tokens, groups=2, block=1))
    first = queue.submit(0.0, 700, group=0)
    queue.advance(10.0)
    again = queue.submit(10.0, 700, group=0)
    other = queue.submit(20.0, 700, group=1)
    queue.advance(np.inf)

    assert first.end == pytest.approx(other.end - 20.0)
    assert again.end - 10.0 <= first.end
    assert sum(each.cost.flops for each in queue.steps[-3:]) > 0
    assert queue.reuse.tally[:2] == [3 * tokens, min(tokens, 699)]


def test_prompts_of_a_step_do_not_share_what_is_not_computed_yet():
    queue = Queue(pool(tokens=200, groups=1, block=16))
    for time in (0.0, 0.0, 1.0):
        queue.submit(time, 300, group=0)
    queue.advance(np.inf)

    assert queue.reuse.tally[:2] == [3 * 192, 192]


def test_prefixes_that_nobody_shares_change_nothing():
    bare, alone = (
        run(scenario("afd").varied(more), "kernel")[1]
        for more in (
            {"kv_cache": {"block": 16}},
            {"workload.prefix": {"groups": 1_000, "tokens": 8}, "kv_cache": {"block": 16}},
        )
    )

    for name in ("start", "end", "ready"):
        assert equal(getattr(bare.prefill, name), getattr(alone.prefill, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_bit_for_bit(kind):
    for runs, asked in ((run, scenario(kind)), (run_closed, closed(kind, lengths=(300, 9)))):
        kernel, processes = (runs(asked.varied(SHARED), engine)[1] for engine in ("kernel", "processes"))

        for name in kernel.requests.__slots__:
            assert equal(getattr(kernel.requests, name), getattr(processes.requests, name)), name
        assert kernel.prefill.served.prefixes == processes.prefill.served.prefixes
        assert kernel.prefixes == processes.prefixes
        assert kernel.prefixes[1] > 0


def test_longer_prefixes_bring_the_first_token_sooner_and_hits_are_told():
    asked = scenario("afd", prefill=ONE)
    found = [
        afdsim.simulate(asked.varied(SHARED | {"workload.prefix.tokens": tokens})).summary for tokens in (16, 128, 288)
    ]
    waits = [each["mean_ttft_ms"] for each in found]
    told = found[-1]["afdsim"]["kv_cache"]

    assert waits == sorted(waits, reverse=True)
    assert told["prefill_prefix_tokens_asked"] == 150 * 288
    assert 0.5 < told["prefill_prefix_hit_rate"] < 1.0
