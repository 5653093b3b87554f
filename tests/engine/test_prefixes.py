"""Prompts that begin alike: the cache of prefixes against an ordered dictionary, alone and in whole runs."""

from collections import Counter, OrderedDict, deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import prefixes
from afdsim.scenario.document import Scenario
from afdsim.simulation import simulate
from tests.cases import Outcome, run, tiny
from tests.laws.test_equivalence import assert_same
from tests.laws.test_kv_cache import scarce

GROUPS = 5


class Lru:
    """The same cache as ordered dictionaries: what nobody holds, the one that was let go first at the front."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}
        self.holders = Counter[int]()
        self.idle = OrderedDict[int, None]()

    def touch(self, prefix: int, tokens: int) -> int:
        self.idle.pop(prefix, None)
        self.holders[prefix] += 1
        before = self.tokens.get(prefix, 0)
        self.tokens[prefix] = max(before, tokens)
        return max(tokens - before, 0)

    def let_go(self, prefix: int) -> None:
        self.holders[prefix] -= 1
        if not self.holders[prefix]:
            self.idle[prefix] = None

    def evict(self) -> int:
        return self.tokens.pop(self.idle.popitem(last=False)[0]) if self.idle else 0

    def spare(self, without: int | None = None) -> int:
        return sum(self.tokens[prefix] for prefix in self.idle if prefix != without)


@given(st.lists(st.tuples(st.sampled_from("tlte"), st.integers(0, GROUPS - 1), st.integers(1, 4)), max_size=80))
def test_the_flat_cache_is_an_ordered_dictionary(asked):
    flat, lru, evicted = prefixes.blank(2, GROUPS), Lru(), 0
    for what, prefix, blocks in asked:
        if what == "t":
            assert prefixes.touch(flat, 1, prefix, 16 * blocks) == lru.touch(prefix, 16 * blocks)
        elif what == "e":
            evicted += bool(lru.idle)
            assert prefixes.evict(flat, 1) == lru.evict()
        elif lru.holders[prefix]:
            prefixes.let_go(flat, 1, prefix)
            lru.let_go(prefix)

        assert [prefixes.here(flat, 1, each) for each in range(GROUPS)] == [lru.tokens.get(g, 0) for g in range(GROUPS)]
        assert prefixes.spare_beside(flat, 1, prefix) == lru.spare(without=prefix)
        assert flat.spare[1] == lru.spare()
    assert not flat.entries[0, :, : prefixes.EARLIER].any()
    assert flat.tally[prefixes.EVICTED] == evicted


BLOCK, PREFIX = 16, 70
"""Tokens; of the prefix four whole blocks are shared."""


@st.composite
def crowds(draw: st.DrawFn) -> Scenario:
    """A closed loop on one rank whose prompts begin alike in some ways, with little memory."""
    law = {"distribution": "lognormal", "mean": 90, "cv": 0.5, "max": 200}
    workload = {
        "arrival": {"process": "closed_loop"},
        "num_requests": draw(st.integers(20, 60)),
        "input_len": draw(st.sampled_from([100, law])),
        "output_len": draw(st.sampled_from([9, {"distribution": "uniform", "min": 1, "max": 40}])),
        "prefix": {"groups": draw(st.integers(1, 9)), "tokens": PREFIX, "zipf": draw(st.sampled_from([0, 1]))},
    }
    scenario = tiny(2, deployment__num_microbatches=1, deployment__max_num_seqs=draw(st.integers(1, 9)))
    scenario = scenario.varied({"workload": workload, "kv_cache": {"block": BLOCK}})
    return scarce(scenario, draw(st.integers(300, 900)))


@given(crowds())
def test_hits_of_a_run_are_those_of_a_queue_counted_by_itself(scenario):
    outcome = run(scenario)
    assert_same(outcome, run(scenario, "processes"))

    joined, asked, hit, evicted = replayed(outcome)

    assert outcome.record.requests.joined[joined].min() >= 0
    assert len(joined) == (outcome.record.requests.joined >= 0).sum()
    assert outcome.record.prefixes == [asked, hit, evicted]


def replayed(outcome: Outcome) -> tuple[list[int], int, int, int]:
    """Who joins, tokens asked, tokens hit and prefixes evicted, from when requests ended alone."""
    table, lru = outcome.record.requests, Lru()
    cache = outcome.cell.deployment.kv_cache
    free, slots = (
        int(outcome.cell.deployment.kv_budget // cache.reserved(BLOCK)),
        sum(outcome.cell.deployment.micro_batch_slots),
    )
    shared = np.minimum(table.input_len, PREFIX) // BLOCK
    own = -(-(table.input_len + table.output_len) // BLOCK) - shared
    queue, sitting, joined, asked, hit = deque(range(slots)), list[int](), list[int](), 0, 0
    coming, evicted = slots, 0
    ends = np.unique(table.finish[~np.isnan(table.finish)]).tolist()
    for now in [0.0, *ends[:-1]]:
        for request in [each for each in sitting if table.finish[each] == now]:
            sitting.remove(request)
            free += int(own[request])
            if shared[request]:
                lru.let_go(int(table.group[request]))
            queue.append(coming)
            coming += 1
        while queue and len(sitting) < slots:
            request, group, blocks = queue[0], int(table.group[queue[0]]), int(shared[queue[0]])
            missing = int(own[request]) + max(blocks - (lru.tokens.get(group, 0) if blocks else 0), 0)
            if missing > free + lru.spare(without=group if blocks else None):
                break
            queue.popleft()
            if blocks:
                hit += (blocks - lru.touch(group, blocks)) * BLOCK
            asked += blocks * BLOCK
            while missing > free:
                free += lru.evict()
                evicted += 1
            free -= missing
            sitting.append(request)
            joined.append(request)
    return joined, asked, hit, evicted


def test_blocks_of_a_prefix_are_counted_once():
    """Three blocks each, of which two are shared: six hold two sequences, or four that begin alike."""
    workload = {"arrival": {"process": "poisson", "request_rate": "inf req/s"}, "num_requests": 5}
    workload |= {"input_len": 8, "output_len": 4}
    scenario = tiny(2, deployment__num_microbatches=1, deployment__max_num_seqs=5)
    scenario = scarce(scenario.varied({"workload": workload, "kv_cache": {"block": 4}}), 24)
    alike = run(scenario.vary("workload.prefix", {"groups": 1, "tokens": 9})).record

    assert (run(scenario).record.requests.joined == 0).sum() == 2
    assert (alike.requests.joined == 0).sum() == 4
    assert alike.prefixes == [40, 32, 0]
    assert alike.requests.hit.tolist() == [0, 8, 8, 8, 8]


def test_hits_are_told():
    workload = {"arrival": {"process": "poisson", "request_rate": "inf req/s"}, "num_requests": 3}
    workload |= {"input_len": 8, "output_len": 4, "prefix": {"groups": 1, "tokens": 8}}
    found = simulate(tiny(2).varied({"workload": workload, "kv_cache": {"block": 4}}))
    told = found.summary["afdsim"]["kv_cache"]

    assert told["prefix_tokens_asked"] == 24
    assert told["prefix_tokens_hit"] == 16
    assert told["prefix_hit_rate"] == pytest.approx(2 / 3)
    assert found.requests["prefix_hit"].tolist() == [0, 8, 8]


def test_a_group_of_a_request_does_not_depend_on_how_many_are_drawn():
    from functools import partial

    from afdsim.scenario.streams import stream
    from afdsim.workload.prefixes import Prefixes

    law = Prefixes(groups=50, tokens=8, zipf=1.0, stream=partial(stream, 3))
    many = law.first(40_000)

    assert np.array_equal(law.first(17), many[:17])
    weights = np.arange(1, 51) ** -1.0
    assert np.bincount(many, minlength=50) / 40_000 == pytest.approx(weights / weights.sum(), abs=0.01)
