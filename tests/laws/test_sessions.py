"""Sessions: engines agree, conversations grow turn by turn, KV cache between turns is where it is said to be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import seats, sessions
from afdsim.engine.lowering import deployment
from afdsim.results.result import Result
from afdsim.results.terminal import terminal
from afdsim.scenario.document import Scenario
from afdsim.simulation import simulate
from tests.cases import Outcome, Stages, Wires, fewer, run, tiny, unseen
from tests.engine.test_seats import Office
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import assert_same, deployments
from tests.laws.test_failures import assert_conserved
from tests.laws.test_kv_cache import assert_same_times, blocks_held, rank_of, scarce

CACHES = {
    "keep": [{"reprefill_rate": "1e5 tok/s"}, {"policy": "grow", "reprefill_rate": "1e6 tok/s", "block": 4}],
    "offload": [{}, {"host_bandwidth": "10 MB/s"}, {"policy": "grow", "preemption": "swap", "block": 4}],
    "drop": [{"reprefill_rate": "1e5 tok/s"}, {"policy": "grow", "preemption": "swap", "reprefill_rate": "1e9 tok/s"}],
}
ARRIVALS = [
    {"process": "poisson", "request_rate": "300 req/s"},
    {"process": "poisson", "request_rate": "inf req/s"},
    {"process": "closed_loop"},
    {"process": "closed_loop", "concurrency": 2},
    {"process": "closed_loop", "concurrency": 30},
]
THOUGHT = [None, "3ms", {"distribution": "exponential", "mean": "20ms"}]
BEYOND = {"distribution": "lognormal", "mean": "2ms", "cv": 2.0}


@st.composite
def talking(draw: st.DrawFn) -> Scenario:
    """Sessions of a few turns on any small deployment whose ranks have room for some conversations, or for few."""
    kv = draw(st.sampled_from(["keep", "keep", "offload", "drop"]))
    workload = {
        "arrival": draw(st.sampled_from(ARRIVALS)),
        "num_requests": draw(st.integers(5, 50)),
        "input_len": draw(st.sampled_from([40, {"distribution": "uniform", "min": 1, "max": 90}])),
        "output_len": draw(st.sampled_from([1, 9, {"distribution": "uniform", "min": 1, "max": 30}])),
        "sessions": {
            "turns": draw(st.sampled_from([1, 2, {"distribution": "uniform", "min": 1, "max": 7}])),
            "user_len": draw(st.sampled_from([1, {"distribution": "uniform", "min": 1, "max": 40}])),
            "think_time": draw(st.sampled_from([*THOUGHT, BEYOND])),
            "kv": kv,
        },
    }
    scenario = draw(st.one_of(deployments(), engines(), tensors()))
    drafts = draw(st.sampled_from([None, None, {"draft": 2, "acceptance": 0.6}]))
    cache = draw(st.sampled_from(CACHES[kv]))
    changes = {"run.stop.max_sim_time": draw(st.sampled_from([None, None, "30ms"]))}
    scenario = scenario.varied({"workload": workload, "kv_cache": cache, "deployment.mtp": drafts, **changes})
    scenario = scenario.vary("deployment.max_num_seqs", draw(st.integers(3, 6)))
    return scarce(scenario, draw(st.sampled_from([130, 400, 2000])))


@fewer(5)
@given(talking())
def test_both_engines_agree_and_every_token_comes_once(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)
    for name in ("session", "turn", "tally", "cut"):
        assert np.array_equal(*(getattr(each.record.sessions, name) for each in (kernel, processes)))
    if scenario.workload.arrival.process != "closed_loop" and scenario.run.stop.max_sim_time is None:
        assert set(kernel.record.requests.status()) <= {"finished", "refused"}
        assert len(kernel.record.requests) <= scenario.workload.num_requests


@fewer(3)
@given(talking())
def test_a_turn_comes_when_the_one_before_has_ended_and_repeats_the_conversation(scenario):
    outcome = unseen(scenario)
    table, told = outcome.record.requests, outcome.record.sessions
    assert (np.diff(table.arrival) >= 0).all()
    order = np.lexsort((told.turn, told.session))
    before, after = order[:-1], order[1:]
    same = told.session[before] == told.session[after]
    before, after = before[same], after[same]

    assert (told.turn[after] == told.turn[before] + 1).all()
    assert (table.arrival[after] >= table.finish[before]).all()
    more = table.input_len[after] - table.input_len[before] - table.output_len[before]
    assert (more >= 1).all()
    assert (more <= 40).all()
    if scenario.workload.sessions.think_time is None:
        assert np.array_equal(table.arrival[after], table.finish[before])


@fewer(3)
@given(talking())
def test_tokens_of_conversations_are_kept_or_fetched_or_computed_again(scenario):
    found = unseen(scenario).record
    table, told = found.requests, found.sessions
    joined = ~np.isnan(table.admitted)
    spoken = np.zeros(len(table), dtype=int)
    row = {(s, t): number for number, (s, t) in enumerate(zip(told.session.tolist(), told.turn.tolist(), strict=True))}
    for (session, turn), number in row.items():
        if (last := row.get((session, turn - 1))) is not None:
            spoken[number] = table.input_len[last] + table.output_len[last]
    back = joined & (spoken > 0)
    tally = told.tally

    assert tally[sessions.BACK] == back.sum()
    assert tally[sessions.TOKENS_FOUND] == table.hit[joined].sum()
    assert tally[sessions.FOUND] == (table.hit[joined] > 0).sum()
    elsewhere = tally[sessions.FETCHED] + tally[sessions.AFRESH]
    assert tally[sessions.TOKENS_FOUND] + elsewhere == spoken[back].sum()
    assert set(table.hit[back]) <= set(spoken[back]) | {0}
    assert tally[sessions.OPENED] - tally[sessions.ENDED] <= max(len(table), 30)


@fewer(3)
@given(talking())
def test_blocks_are_never_more_than_there_are_with_those_that_lie_between_turns(scenario):
    office = Office(scenario)
    while office.open:
        office.turn()
        if office.desk.ends < seats.FOREVER:
            break
        book = office.book
        lying = book.sessions.homes[:, sessions.RANK]
        between = np.bincount(
            lying[lying >= 0], book.sessions.held[lying >= 0, sessions.BYTES], minlength=len(book.ranks)
        )
        held = blocks_held(office) if office.places.keeping.grows else reserved(office)

        assert (book.sessions.spare == between).all()
        assert (book.ranks[:, seats.KV_FREE] == office.places.kv_budget - held - between).all()
        assert (book.ranks[:, seats.KV_FREE] >= 0).all()


def reserved(office: Office) -> np.ndarray:
    """Bytes by rank of those that run and of those that are called."""
    held = np.zeros(len(office.book.ranks))
    for request in [*office.seated, *(each for called in office.called for each in called)]:
        held[rank_of(office, request)] += office.need(request)
    return held


@fewer(3)
@given(talking())
def test_sessions_of_one_turn_are_requests_that_stand_alone(scenario):
    closed = scenario.workload.arrival.process == "closed_loop"
    all_slots = {"workload.arrival.concurrency": None} if closed else {}
    scenario = scenario.varied({"workload.sessions.turns": 1, **all_slots})
    alone = without(scenario)

    assert_same_times(*(ungrouped(unseen(each)) for each in (scenario, alone)))


def without(scenario: Scenario) -> Scenario:
    """The same without sessions, and without prices that they alone pay."""
    cache = scenario.kv_cache
    grows, swaps = cache.policy == "grow", cache.preemption == "swap"
    kept = {"block": cache.block, "policy": cache.policy, "preemption": cache.preemption}
    if grows and not swaps:
        kept["reprefill_rate"] = f"{cache.reprefill_rate} tok/s"
    return scenario.varied({"workload.sessions": None, "kv_cache": kept})


def ungrouped(outcome: Outcome) -> Outcome:
    """The same without the numbers of turns."""
    outcome.record.requests.group[:] = 0
    return outcome


def test_the_count_of_what_lies_between_turns_can_fail():
    office = Office(talk("keep"))
    while not office.book.sessions.spare.any():
        office.turn()
    session = int(office.book.sessions.idle[0, sessions.FIRST])

    assert office.book.sessions.spare[0] == office.places.kv_budget - office.book.ranks[0, seats.KV_FREE]
    office.book.sessions.held[session, sessions.BYTES] -= 1.0
    assert (
        sessions.pick_up(office.book.sessions, session) < office.places.kv_budget - office.book.ranks[0, seats.KV_FREE]
    )


# by hand -------------------------------------------------------------------------------------------------------------

STEP = 4.0
"""Two layers of a second of attention and a second of FFN, nothing on the wire: a boundary every four seconds."""


def talk(kv: str, tokens: float = 1000, **changes: object) -> Scenario:
    """A session a time unit of 100 s: three turns of 10 tokens and 2 more, answers of 2 tokens, 8 s of thought."""
    scenario = tiny(2, deployment__num_microbatches=1, deployment__max_num_seqs=2)
    workload = {
        "arrival": {"process": "constant", "request_rate": "0.01 req/s"},
        "num_requests": 3,
        "input_len": 10,
        "output_len": 2,
        "sessions": {"turns": 3, "user_len": 2, "think_time": "8s", "kv": kv},
    }
    cache = {"block": 1} if kv == "offload" else {"block": 1, "reprefill_rate": "1 tok/s"}
    return scarce(scenario.varied({"workload": workload, "kv_cache": cache, **changes}), tokens)


def both(scenario: Scenario) -> Outcome:
    """The run by both engines, which agree."""
    cost = Stages(attention=1.0, ffn=1.0)
    kernel = run(scenario, cost=cost, network=Wires())
    assert_same(kernel, run(scenario, "processes", cost=cost, network=Wires()))
    assert_conserved(kernel)
    return kernel


def test_a_conversation_that_stays_is_there_at_once():
    record = both(talk("keep")).record

    assert record.requests.input_len.tolist() == [10, 14, 18]
    assert record.requests.arrival.tolist() == [0.0, 16.0, 32.0]
    assert record.requests.admitted.tolist() == [0.0, 16.0, 32.0]
    assert record.requests.finish.tolist() == [8.0, 24.0, 40.0]
    assert record.requests.hit.tolist() == [0, 12, 16]
    assert record.sessions.tally == [1, 0, 1, 2, 2, 28, 0, 0, 0]


def test_a_conversation_that_was_dropped_is_computed_again():
    record = both(talk("drop")).record

    # 12 tokens from 16 s on, 16 tokens from 44 s on
    assert record.requests.arrival.tolist() == [0.0, 16.0, 44.0]
    assert record.requests.admitted.tolist() == [0.0, 28.0, 60.0]
    assert record.sessions.tally == [1, 0, 1, 2, 0, 0, 0, 28, 0]


def test_a_conversation_in_host_memory_comes_back_behind_its_way_out():
    scenario = talk("offload")
    twelve = deployment(scenario).kv_cache.reserved(12)
    record = both(scenario.vary("kv_cache.host_bandwidth", f"{twelve / 9} B/s")).record

    # out from 8 to 17 s, so it comes back from 17 s on; 16 tokens go out from 34 to 46 s and come back until 58 s
    assert record.requests.admitted.tolist() == pytest.approx([0.0, 26.0, 58.0])
    assert record.sessions.tally == [1, 0, 1, 2, 0, 0, 28, 0, 0]


def test_a_conversation_makes_room_for_others_and_is_computed_again():
    """A second session comes at 10 s, while the first one thinks; the cache holds 20 tokens, and each has spoken 12."""
    arrival = {"process": "constant", "request_rate": "0.1 req/s"}
    changes = {"workload.arrival": arrival, "workload.num_requests": 4, "workload.sessions.turns": 2}
    record = both(talk("keep", 20, **changes)).record

    # the first one's 12 tokens go at 10 s, and the second one's at 18 s for 16 of the first one, which comes at 16 s
    assert record.requests.arrival.tolist() == [0.0, 10.0, 16.0, 26.0]
    assert record.requests.admitted.tolist() == [0.0, 10.0, 30.0, 50.0]
    assert record.requests.hit.tolist() == [0, 0, 0, 0]
    assert record.sessions.tally == [2, 0, 2, 2, 0, 0, 0, 24, 2]


def test_without_a_thought_the_next_turn_joins_at_the_same_boundary():
    record = both(talk("keep").vary("workload.sessions.think_time", None)).record

    assert record.requests.admitted.tolist() == [0.0, 8.0, 16.0]
    assert record.requests.finish.tolist() == [8.0, 16.0, 24.0]


def test_a_closed_loop_begins_in_the_midst_of_sessions_and_opens_one_for_each_that_ends():
    changes = {"workload.arrival": {"process": "closed_loop", "concurrency": 3}, "workload.num_requests": 12}
    record = both(talk("keep", **changes)).record
    told = record.sessions

    assert told.turn[:3].tolist() == [0, 1, 2]
    assert record.requests.input_len[:3].tolist() == [10, 14, 18]
    assert told.tally[sessions.OPENED] == 3 + told.tally[sessions.ENDED]
    assert record.requests.counted.sum() == 12


def test_a_session_ends_before_a_turn_that_no_rank_could_hold():
    record = both(talk("keep", 18)).record
    table = record.requests

    assert table.input_len.tolist() == [10, 14, 10]
    assert record.sessions.cut == 2
    assert record.sessions.session.tolist() == [0, 0, 1]


def test_sessions_are_told(tmp_path):
    found = simulate(talk("keep"))
    told = found.summary["afdsim"]["sessions"]

    assert told == {
        "kv": "keep",
        "opened": 1,
        "ended": 1,
        "ended_early": 0,
        "turns": 3,
        "turns_back": 2,
        "turns_found": 2,
        "kv_hit_rate": 1.0,
        "tokens_kept": 28,
        "tokens_fetched": 0,
        "tokens_recomputed": 0,
        "conversations_evicted": 0,
    }
    assert found.requests[["session", "turn", "kv_found"]].to_numpy().tolist() == [[0, 0, 0], [0, 1, 12], [0, 2, 16]]
    assert "Sessions: 1 opened, 3 turns, 1 ended; KV cache was still there for 100.0%" in terminal(found)
    assert Result.load(found.save(tmp_path / "run")).summary == found.summary


@fewer(3)
@given(st.integers(1, 12), st.integers(1, 4), st.sampled_from(["keep", "offload", "drop"]))
def test_every_session_of_a_closed_loop_is_in_flight_or_thinks(concurrency, turns, kv):
    workload = {
        "arrival": {"process": "closed_loop", "concurrency": concurrency},
        "num_requests": 60,
        "input_len": 40,
        "output_len": {"distribution": "uniform", "min": 1, "max": 9},
        "sessions": {
            "turns": turns,
            "user_len": 3,
            "kv": kv,
            "think_time": {"distribution": "exponential", "mean": "2ms"},
        },
    }
    cache = {} if kv == "offload" else {"reprefill_rate": "1e5 tok/s"}
    record = unseen(tiny(2).varied({"workload": workload, "kv_cache": cache})).record
    table, told = record.requests, record.sessions
    goes_on = told.turn < turns - 1
    row = {(s, t): number for number, (s, t) in enumerate(zip(told.session.tolist(), told.turn.tolist(), strict=True))}
    after = [row.get((s, t + 1)) for s, t in zip(told.session.tolist(), told.turn.tolist(), strict=True)]
    comes = np.array([np.inf if each is None else table.arrival[each] for each in after])
    finish = np.where(np.isnan(table.finish), np.inf, table.finish)
    for time in np.linspace(0.0, record.ended, 50, endpoint=False):
        flying = (table.arrival <= time) & (time < finish)
        thinking = goes_on & (finish <= time) & (time < comes)

        assert flying.sum() + thinking.sum() == concurrency
