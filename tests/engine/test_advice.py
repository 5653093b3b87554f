"""What does not fit is told what would; every change that is named is fed back here, and the smaller one refused."""

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.engine.advice import _larger, advised, final_length, shown
from afdsim.engine.capacity import too_long
from afdsim.engine.lowering import deployment
from afdsim.errors import AfdsimError, CapacityError, ScenarioError
from afdsim.scenario.document import load
from afdsim.simulation import placed

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


def scenario(model, asked, *, input_len=256, ffn="fp8"):
    return {
        "model": model,
        "precision": {"attention": "bf16", "ffn": ffn},
        "deployment": {"max_num_seqs": 1, **asked},
        "workload": {
            "arrival": {"process": "closed_loop"},
            "input_len": input_len,
            "output_len": 2,
            "num_requests": 4,
        },
    }


def tensor(gpu, gpus, **more):
    return {"type": "tensor_parallel", "gpu": gpu, "gpus": gpus, **more}


def colocated(gpu, instances, **more):
    return {"type": "colocated", "gpu": gpu, "instances": instances, **more}


def afd(attention, ffn):
    return {"type": "afd", "attention": {"instances": 1, **attention}, "ffn": {"instances": 1, **ffn}}


def checked(asked):
    """Raise `CapacityError` where a scenario does not fit, as a run does before it begins."""
    found = deployment(asked)
    found.check_memory()
    length = final_length(asked)
    if found.kv_cache.sequences(length) == 0:
        raise too_long(found, length)


def refusal(data):
    """Return a scenario and why it does not fit."""
    asked = load(data)
    with pytest.raises(CapacityError) as caught:
        checked(asked)
    return asked, placed(caught.value, asked)


CASES = [
    ("deepseek-v3", tensor("H100", 8), {}, ["deployment.gpu=H20"]),
    ("deepseek-v3", tensor("H100", 2), {}, ["deployment.gpus=4 with deployment.gpu=B200"]),
    ("qwen3-235b", tensor("H100", 2), {}, ["deployment.gpus=4", "deployment.gpu=H20-141GB"]),
    ("qwen3-32b", tensor("L4", 1), {"ffn": "bf16"}, ["deployment.gpu=H800"]),
    ("qwen3-32b", tensor("H100", 1), {"ffn": "bf16", "input_len": 200_000}, ["workload.input_len=", "deployment.gpus=2"]),
    ("deepseek-v3", colocated("H800", 1), {}, ["deployment.instances=2", "deployment.gpu=H20-141GB"]),
    ("mixtral-8x22b", colocated("L4", 1), {}, ["deployment.parallelism={tp: 4}", "deployment.gpu=L20"]),
    ("step3", afd({"gpu": "H800"}, {"gpu": "L4"}), {}, ["deployment.ffn.instances=2", "deployment.ffn.gpu=L20"]),
    ("step3", afd({"gpu": "L4"}, {"gpu": "H800", "instances": 4}), {"ffn": "bf16"}, ["deployment.attention.parallelism={tp: 2}"]),
    ("step3", afd({"gpu": "H800"}, {"gpu": "H800"}), {"input_len": 9_000_000}, ["workload.input_len="]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "asked", "more", "texts"), CASES)
def test_every_change_that_is_advised_makes_the_scenario_fit(model, asked, more, texts):
    base, error = refusal(scenario(model, asked, **more))

    assert error.advice
    for text in texts:
        assert text in str(error)
    for changes in error.advice:
        checked(base.varied(changes))


@pytest.mark.parametrize(("model", "asked", "more", "texts"), CASES)
def test_nothing_smaller_fits(model, asked, more, texts):
    base, error = refusal(scenario(model, asked, **more))
    for changes in (each for each in error.advice if len(each) == 1):
        ((path, value),) = changes.items()
        step = 1 if path == "workload.input_len" else -1
        if isinstance(value, int) and (other := stepped(base, path, value + step)) is not None:
            with pytest.raises(CapacityError):
                checked(other)


def stepped(base, path, value):
    """Return the scenario with a number put in; None where it is no scenario."""
    try:
        return base.vary(path, value)
    except ScenarioError:
        return None


def test_what_no_change_mends_says_so():
    _, error = refusal(scenario("kimi-k2", tensor("L4", 1), input_len=100_000_000, ffn="bf16"))

    assert error.advice == ()
    assert str(error).endswith(
        "; none of deployment.gpus, deployment.gpu, precision.ffn alone or in pairs makes it fit"
    )


def test_a_small_share_of_memory_is_raised_first():
    asked = tensor("H100", 2, gpu_memory_utilization=0.05)
    base, error = refusal(scenario("qwen3-32b", asked))

    ((path, value),) = error.advice[0].items()
    assert path == "deployment.gpu_memory_utilization"
    assert 0.05 < value <= 0.9
    checked(base.varied(error.advice[0]))
    with pytest.raises(CapacityError):
        checked(base.vary(path, round(value - 0.05, 2)))


def test_beside_another_key_a_share_of_memory_is_the_default():
    base, error = refusal(scenario("kimi-k2", tensor("H100", 8, gpu_memory_utilization=0.05)))

    assert error.advice == ({"deployment.gpu_memory_utilization": 0.9, "deployment.gpu": "H20-141GB"},)
    checked(base.varied(error.advice[0]))


@pytest.mark.parametrize("given", ["attention", "kv_cache"])
def test_a_narrower_cache_is_tried_where_the_cache_is_short(given):
    data = scenario("qwen3-32b", tensor("H100", 2), input_len=500_000) | {"precision": {given: "bf16"}}
    base, error = refusal(data)

    assert {f"precision.{given}": "fp8"} in error.advice
    checked(base.vary(f"precision.{given}", "fp8"))


def test_no_input_is_advised_that_the_model_was_not_made_for(tmp_path):
    path = tmp_path / "llama.json"
    path.write_text(json.dumps(LLAMA))
    _, error = refusal(scenario(str(path), tensor("H100", 1), input_len=10**9))

    assert {"workload.input_len": 131_070} in error.advice
    assert re.search(r"1,000,000,002 tokens need [\d,.]+ TB of KV cache", str(error))


def test_larger_gpus_of_an_architecture_come_first():
    assert _larger("L4")[0] == "L20"
    assert _larger("H100")[:3] == ["H20", "H20-141GB", "H200"]
    assert _larger("B200")[:3] == ["GB200", "B300", "GB300"]


def test_two_keys_are_named_where_no_single_one_does():
    base, error = refusal(scenario("deepseek-v3", tensor("L4", 1)))

    (changes,) = error.advice
    assert list(changes) == ["deployment.gpus", "deployment.gpu"]
    checked(base.varied(changes))


def test_the_limit_of_a_domain_is_not_exceeded():
    _, error = refusal(scenario("deepseek-v3", tensor("H100", 8)))

    assert "deployment.gpus=" not in str(error).partition("smallest fit")[2]


def test_a_run_and_its_exception_carry_the_advice():
    with pytest.raises(CapacityError, match=r"smallest fit: deployment\.gpu=H20$") as caught:
        afdsim.simulate(scenario("deepseek-v3", tensor("H100", 8)))

    assert caught.value.advice == ({"deployment.gpu": "H20"},)
    found = afdsim.simulate(load(scenario("deepseek-v3", tensor("H100", 8))).varied(caught.value.advice[0]))
    assert found.summary["completed"] >= 4


def test_values_are_shown_as_set_takes_them():
    assert [shown(each) for each in (2, "H200", {"tp": 4})] == ["2", "H200", "{tp: 4}"]


@given(
    model=st.sampled_from(catalog.llms()),
    gpu=st.sampled_from(["L4", "L20", "A100", "H100", "H20"]),
    count=st.sampled_from([1, 2, 4, 8]),
    kind=st.sampled_from([tensor, colocated]),
    input_len=st.sampled_from([16, 4096, 1_000_000]),
    share=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)
def test_advice_on_any_engine_fits(model, gpu, count, kind, input_len, share):
    try:
        base = load(scenario(model, kind(gpu, count, gpu_memory_utilization=share), input_len=input_len))
    except ScenarioError:
        assume(False)
    try:
        checked(base)
    except CapacityError as error:
        for changes in advised(error, base).advice:
            checked(base.varied(changes))
    except AfdsimError:
        assume(False)


def refused_prefill(**prefill):
    """A scenario whose prefill servers do not fit, and why."""
    asked = load("step3_prefill", overrides=["workload.duration=2s", "prefill.chunk=null"])
    asked = asked.varied({f"prefill.{key}": value for key, value in prefill.items()})
    with pytest.raises(CapacityError) as caught:
        afdsim.simulate(asked)
    return asked, caught.value


def test_prefill_weights_that_do_not_fit_name_more_gpus_or_larger_ones():
    asked, error = refused_prefill(gpu="H800", gpus_per_instance=4, parallelism={"dp": 1})

    assert str(error) == (
        "prefill.gpus_per_instance: prefill weights need 80.4 GB per GPU (attention 4.4, FFN 76.0) and leave no room for "
        "KV cache: H800 has 74.1 of 85.5 GB usable; smallest fit: prefill.gpus_per_instance=8, or prefill.gpu=H20"
    )
    for changes in error.advice:
        assert afdsim.simulate(asked.varied(changes)).summary["completed"] > 0


def test_a_prompt_that_no_prefill_rank_holds_names_what_would():
    share = {"gpu_memory_utilization": 0.42, "gpus_per_instance": 8, "parallelism": {"dp": 8}}
    lengths = {"workload.input_len": {"distribution": "constant", "value": 60_000}, "workload.duration": "0.2s"}
    asked = load("step3_prefill").varied({f"prefill.{key}": value for key, value in share.items()} | lengths)
    with pytest.raises(CapacityError) as caught:
        afdsim.simulate(asked)

    assert "prefill.gpus_per_instance: a prompt of 60,000 tokens needs 1.87 GB of KV cache" in str(caught.value)
    assert {"prefill.gpu_memory_utilization", "prefill.parallelism"} <= {
        k for each in caught.value.advice for k in each
    }
    for changes in caught.value.advice:
        assert afdsim.simulate(asked.varied(changes)).summary["completed"] > 0
