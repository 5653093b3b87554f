"""A word of another tool is answered with what is here: its name, or that it is not modelled and what is nearest."""

import re

import pytest

from afdsim import ScenarioError, load, sweep
from afdsim.scenario import complaints, words
from afdsim.scenario.document import Scenario


def told(keys, base="small"):
    """Return the answer to one key of a scenario, where there is no file."""
    nested = {}
    inner = nested
    *path, last = keys.split(".")
    for key in path:
        inner = inner.setdefault(key, {})
    inner[last] = 1
    with pytest.raises(ScenarioError) as caught:
        load({"extends": base, **nested})
    return str(caught.value)


def paths():
    return set(complaints._paths(Scenario))


def test_every_name_of_ours_is_a_path_of_a_scenario():
    assert {path for found in words.OURS.values() for path in found} - paths() == set()


def test_what_is_not_modelled_is_no_key():
    keys = {path.rpartition(".")[2] for path in paths()}

    assert keys & set(words.ABSENT) == set()
    assert set(words.OURS) & set(words.ABSENT) == set()


@pytest.mark.parametrize("sentence", sorted(set(words.ABSENT.values())))
def test_a_sentence_says_what_is_missing_and_names_what_is_here(sentence):
    quoted = re.findall(r"'([\w.]+)'", sentence)

    assert re.search(r"\bnot? modelled\b", sentence)
    assert quoted
    assert set(quoted) <= paths()
    assert len(sentence) < 240


@pytest.mark.parametrize("word", sorted({*words.ABSENT, *words.OURS}))
def test_a_word_is_answered_in_a_file_an_override_and_an_axis(word):
    with pytest.raises(ScenarioError) as overridden:
        load("small", overrides=[f"{word}=1"])
    with pytest.raises(ScenarioError) as swept:
        sweep("small", over={word: [1]})
    known = "afdsim calls it '" if word in words.OURS else words.ABSENT[word]

    assert f"{word}: unknown key {word!r}; {known}" in told(word)
    assert f"no such key {word!r}; {known}" in str(overridden.value)
    assert f"no such key {word!r}; {known}" in str(swept.value)


def test_a_replica_is_a_whole_deployment():
    assert (
        told("deployment.replicas") == "deployment.replicas: unknown key 'replicas'; afdsim calls it 'router.replicas'"
    )


def test_a_latency_that_no_sla_can_limit_is_told():
    assert told("sla.itl").startswith("sla.itl: unknown key 'itl'; a limit on single gaps is not modelled; 'sla.tpot'")


@pytest.mark.parametrize("word", ["enable_lora", "enable-lora", "--no-enable-lora"])
def test_a_flag_is_the_word_that_it_switches(word):
    assert words.hint(word, "", lambda _: True) == f"; {words.ABSENT['lora']}"


@pytest.mark.parametrize(
    ("keys", "base", "ours"),
    [
        ("deployment.attention.tp_size", "small", "parallelism.tp"),
        ("deployment.ffn.parallelism.tp_size", "small", "tp"),
        ("deployment.ffn.num_nodes", "small", "instances"),
        ("deployment.num_nodes", "dsv3_ep128_4k", "instances"),
        ("deployment.device", "dsv3_ep128_4k", "gpu"),
        ("deployment.num_ubatches", "dsv3_ep128_4k", "two_batch_overlap"),
        ("deployment.scheduler_overhead", "small", "host_overhead"),
    ],
)
def test_a_word_with_several_meanings_is_the_nearest_that_the_deployment_has(keys, base, ours):
    assert told(keys, base).endswith(f"; afdsim calls it '{ours}'")


@pytest.mark.parametrize("word", ["zebra", "", "enable_", "--", "otput_len"])
def test_another_word_is_no_hint(word):
    assert words.hint(word, "workload", lambda _: True) == ""


def test_a_key_in_the_wrong_place_is_told_its_place():
    with pytest.raises(ScenarioError) as caught:
        load("small", overrides=["network.bandwidth=400Gbps"])

    assert str(caught.value).endswith("; it belongs to 'network.link.bandwidth'")


def test_a_kind_of_deployment_that_is_not_modelled_is_told():
    with pytest.raises(ScenarioError, match="unknown type 'pipeline_parallel'; pipeline parallelism is not modelled"):
        load("small", overrides=["deployment.type=pipeline_parallel"])


def test_prefill_of_other_tools_is_told_its_key():
    assert told("max_num_batched_tokens").endswith("; afdsim calls it 'prefill.max_batched_tokens'")
    assert told("prefill.chunked_prefill_size").endswith("; afdsim calls it 'chunk'")
    assert told("sla.ttft_slo").endswith("; afdsim calls it 'ttft'")


def test_shares_of_memory_that_are_counted_otherwise_are_no_other_name():
    assert told("deployment.memory_margin_fraction").endswith("'deployment.gpu_memory_utilization' is 1 minus it")
    assert "without activations, it is a little lower than 'deployment.gpu_memory_util" in told(
        "deployment.mem_fraction_static"
    )
