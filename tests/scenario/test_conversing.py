"""Sessions and several answers to a prompt: what they are written as, and what does not go with them."""

import pytest

from afdsim.errors import ScenarioError
from afdsim.scenario.document import Scenario, load
from afdsim.studies.comparison import under_one_workload
from tests.cases import tiny

ARRIVAL = {"process": "poisson", "request_rate": "20 req/s"}
TALK = {"workload.sessions": {"turns": 3, "user_len": 20}, "workload.arrival": ARRIVAL}
PRICE = {"kv_cache": {"reprefill_rate": "1e5 tok/s"}}
ANSWERS = {"workload.samples": 4, "kv_cache": {}, "workload.arrival": ARRIVAL}


def talk(**changes: object) -> Scenario:
    """Sessions of three turns; `changes` are dotted paths with __."""
    return tiny().varied({**TALK, **PRICE, **{path.replace("__", "."): value for path, value in changes.items()}})


def test_a_number_of_turns_and_a_time_may_stand_for_their_laws():
    asked = talk(workload__sessions__think_time="2s").workload.sessions

    assert (asked.turns.value, asked.user_len.value, asked.think_time.value, asked.kv) == (3, 20, 2.0, "keep")
    assert load(talk().resolved()).key == talk().key


def test_more_sessions_than_slots_may_go_on_at_a_time():
    many = {"process": "closed_loop", "concurrency": 1000}

    assert talk(workload__arrival=many).workload.arrival.concurrency == 1000
    with pytest.raises(ScenarioError, match="concurrency: must be <= 3"):
        talk(workload__arrival=many, workload__sessions=None, kv_cache=None)


@pytest.mark.parametrize("kv", ["keep", "offload", "drop"])
def test_prices_of_all_that_may_become_of_kv_cache_go_with_any_of_it(kv):
    both = {"reprefill_rate": "1e5 tok/s", "host_bandwidth": "10 GB/s"}

    assert talk(workload__sessions__kv=kv, kv_cache=both).workload.sessions.kv == kv


@pytest.mark.parametrize(
    ("base", "changes", "text"),
    [
        (TALK, {}, "kv_cache.reprefill_rate: required key is missing: a conversation that made room for others"),
        (TALK, {"workload.sessions.kv": "drop"}, "a conversation that was dropped is computed again"),
        (TALK | PRICE, {"workload.sessions.turns": 0}, "workload.sessions.turns.value: must be a whole number >= 1"),
        (TALK | PRICE, {"workload.sessions.think_time": 5}, r"think_time.value: needs a unit, for example '5us'"),
        (TALK | PRICE, {"workload.sessions.kv": "lose"}, "kv: must be one of keep, offload, drop"),
        (TALK | PRICE, {"router": {"replicas": 2}}, "and 'router' do not go together: a router would have to hear"),
        (
            TALK | PRICE,
            {"failures": {"mtbf": {"instance": "1 h"}, "requests": "reject"}},
            "and 'failures' do not go together",
        ),
        (TALK | PRICE, {"prefill": {"gpu": "H800", "instances": 1}}, "and 'prefill' do not go together"),
        (TALK | PRICE, {"workload.samples": 2}, "and 'workload.samples' do not go together"),
        (TALK | PRICE, {"workload.prefix": {"groups": 2, "tokens": 9}}, "and 'workload.prefix' do not go together"),
        (TALK | PRICE, {"workload.classes": [{"name": "a"}]}, "and 'workload.classes' do not go together"),
        (ANSWERS, {"workload.samples": 0}, "workload.samples: must be a whole number >= 1"),
        (ANSWERS, {"kv_cache": None}, "workload.samples: is shared in the blocks of a KV cache; add 'kv_cache: {}'"),
        (ANSWERS, {"router": {"replicas": 2}}, "workload.samples: and 'router' do not go together"),
        (ANSWERS, {"prefill": {"gpu": "H800", "instances": 1}}, "workload.samples: and 'prefill' do not go together"),
        (ANSWERS, {"workload.prefix": {"groups": 2, "tokens": 9}}, "workload.samples: and 'workload.prefix' do not go"),
        (PRICE, {}, "kv_cache.reprefill_rate: belongs to 'policy: grow': nobody is preempted where all is reserved"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(base, changes, text):
    with pytest.raises(ScenarioError, match=text):
        tiny().varied({**base, **changes})


def test_a_comparison_gives_the_price_of_sessions_to_who_has_none():
    found, notes = under_one_workload([talk(), tiny().varied({"name": "other"})])

    assert found["other"].kv_cache == talk().kv_cache
    assert "other: kv_cache replaced by that of scenario" in notes
