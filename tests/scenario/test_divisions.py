"""Degrees that a model does not allow are refused; every nearest value that is named was tried, and is fed back here."""

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.errors import ScenarioError
from afdsim.scenario import yamlfile
from afdsim.scenario.document import load
from afdsim.studies.grid import grid

WORKLOAD = {"arrival": {"process": "closed_loop"}, "input_len": 256, "output_len": 4, "num_requests": 16}
QWEN7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


def tensor(**more):
    return {"type": "tensor_parallel", "gpu": "H100", "gpus": 8, "max_num_seqs": 8, **more}


def colocated(**more):
    return {"type": "colocated", "gpu": "H100", "instances": 4, "max_num_seqs": 8, **more}


def afd(attention=None, ffn=None):
    attention, ffn = attention or {}, ffn or {}
    return {
        "type": "afd",
        "attention": {"gpu": "H100", "instances": 1, **attention},
        "ffn": {"gpu": "H100", "instances": 1, **ffn},
        "max_num_seqs": 8,
    }


def scenario(model, deployment):
    return {"model": model, "deployment": deployment, "workload": WORKLOAD}


def refusal(data):
    """Return the message of a scenario that is refused, None of one that is not."""
    try:
        load(data)
    except ScenarioError as error:
        return str(error)
    return None


def advice(message):
    """Return what a message advises: (path, value)."""
    found = re.findall(r"nearest for ([\w.]+): (.+)$", message, flags=re.MULTILINE)
    return [(path, yamlfile.parse(text, "advice").data) for path, values in found for text in values.split(" or ")]


def fed_back(data, path, value):
    """Return a scenario with a value put in."""
    varied = json.loads(json.dumps(data))
    *parents, last = path.split(".")
    part = varied
    for key in parents:
        part = part[key]
    part[last] = value
    return varied


@pytest.fixture
def qwen7b(tmp_path):
    path = tmp_path / "qwen7b.json"
    path.write_text(json.dumps(QWEN7B))
    return str(path)


def test_28_heads_are_not_cut_in_8(qwen7b):
    assert refusal(scenario(qwen7b, tensor())) == (
        "deployment.gpus: 28 query heads do not divide over 8 GPUs; nearest for deployment.gpus: 4"
    )
    assert refusal(scenario(qwen7b, afd({"parallelism": {"tp": 8}}))) == (
        "deployment.attention.parallelism: 28 query heads do not divide over tp=8; "
        "nearest for deployment.attention.parallelism: {tp: 4}"
    )
    assert refusal(scenario(qwen7b, tensor(gpus=4))) is None


def test_the_case_of_8_gpus_is_refused_where_it_stands(shared):
    with pytest.raises(ScenarioError, match=r"qwen7b_tp8\.yaml:4:\d+: deployment\.gpus: 28 query heads .*: 4$"):
        load(shared / "cases/qwen7b_tp8.yaml")


REFUSED = [
    ("step3", afd(ffn={"instances": 5, "parallelism": {"ep": 2}}), "48 experts do not divide over instances x ep"),
    ("step3", afd(ffn={"parallelism": {"ep": 8}, "instances": 4}), "48 experts do not divide over"),
    ("step3", afd(ffn={"gpus_per_instance": 6, "across": "width"}), "experts of width 5,120 do not divide over tp=6"),
    ("step3", afd(ffn={"instances": 3, "across": "width"}), "do not divide over instances x tp = 3 x 8 = 24"),
    ("qwen3-235b", afd({"gpus_per_instance": 6, "parallelism": {"dp": 1}}), "64 query heads and 4 KV heads do not"),
    ("deepseek-v3", colocated(instances=3), "256 experts and 0 copies do not divide over 24 groups of GPUs"),
    ("deepseek-v3", colocated(redundant_experts=1), "256 experts and 1 copy do not divide over 32 groups of GPUs"),
    ("dbrx", colocated(gpus_per_instance=10, parallelism={"tp": 5}, redundant_experts=24), "a hidden size of 6,144"),
    ("step3", tensor(ep=3, gpus=6), "48 experts"),
    ("qwen3-30b-a3b", tensor(gpus=6), "a hidden size of 2,048, 32 query heads and 4 KV heads do not divide over 6"),
    ("pangu-pro-moe", tensor(gpus=6), "do not divide over 6 GPUs"),
]


@pytest.mark.parametrize(("model", "deployment", "message"), REFUSED)
def test_every_nearest_value_loads(model, deployment, message):
    data = scenario(model, deployment)
    found = refusal(data)
    if message == "48 experts":
        assert "no other value of deployment.gpus alone does" in found
        return
    assert message in found
    advised = advice(found)
    assert advised
    for path, value in advised:
        left = refusal(fed_back(data, path, value)) or ""
        assert path.rpartition(".")[0] not in left or path not in dict(advice(left))


@given(
    model=st.sampled_from(catalog.llms()),
    kind=st.sampled_from(["tensor", "colocated", "afd"]),
    counts=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)),
)
def test_advice_on_any_deployment_is_sound(model, kind, counts):
    first, second, third = counts
    match kind:
        case "tensor":
            deployment = tensor(gpus=first * second if first * second <= 8 else first, ep=1)
        case "colocated":
            deployment = colocated(
                instances=first, parallelism={"tp": second, "dp": third}, gpus_per_instance=second * third
            )
        case _:
            deployment = afd(
                {"gpus_per_instance": first, "parallelism": {"dp": 1}},
                {"instances": second, "gpus_per_instance": third},
            )
    data = scenario(model, deployment)
    found = refusal(data)
    assume(found is not None and "\n" not in found and "do not divide" in found)
    for path, value in advice(found):
        assert refusal(fed_back(data, path, value)) is None


def test_a_cut_of_the_vocabulary_that_is_advised_loads():
    data = scenario("qwen3-235b", afd({"parallelism": {"tp": 4}, "lm_head": "tp2"}))

    assert "tp2 splits a rank of 4 GPUs; use 'tp4', 'tp8' or 'replicated'" in refusal(data)
    for value in ("tp4", "tp8", "replicated"):
        assert refusal(fed_back(data, "deployment.attention.lm_head", value)) is None
    one = scenario("qwen3-235b", tensor(lm_head="tp4"))
    assert refusal(one).endswith("tp4 splits a rank of 8 GPUs; use 'tp8' or 'replicated'")
    assert refusal(scenario("qwen3-235b", tensor(lm_head="tp3"))).endswith("; use 'tp8' or 'replicated'")


@pytest.mark.parametrize(("number", "text"), [(8, "tp8"), (1, "replicated")])
def test_a_bare_number_of_shards_is_told_how_it_is_written(number, text):
    data = scenario("qwen3-235b", tensor(lm_head=number))

    assert refusal(data).endswith(f"(got {number}); write '{text}'")
    assert refusal(fed_back(data, "deployment.lm_head", text)) is None


def test_output_projections_are_cut_by_whole_heads():
    data = scenario("qwen3-235b", afd({"gpus_per_instance": 6, "o_proj": "tp6"}))

    assert refusal(data) == (
        "deployment.attention.o_proj: 64 query heads do not divide over tp6; "
        "nearest for deployment.attention.o_proj: tp2"
    )
    assert refusal(fed_back(data, "deployment.attention.o_proj", "tp2")) is None
    alone = fed_back(
        data, "deployment.attention", {"gpu": "H100", "instances": 1, "gpus_per_instance": 3, "o_proj": "tp3"}
    )
    assert refusal(alone).endswith("nearest for deployment.attention.o_proj: replicated")


def test_dense_layers_are_cut_over_the_whole_ffn_pool(qwen7b):
    data = scenario(qwen7b, afd(ffn={"instances": 3}))

    assert refusal(data) == (
        "deployment.ffn: a dense FFN of width 18,944 does not divide over the 24 GPUs of the FFN pool; "
        "nearest for deployment.ffn.instances: 2 or 4"
    )
    for instances in (2, 4):
        assert refusal(fed_back(data, "deployment.ffn.instances", instances)) is None


def test_fewer_servers_are_nearer_than_copies_of_experts():
    data = scenario("deepseek-v3", colocated(instances=43, gpus_per_instance=1))

    assert advice(refusal(data)) == [("deployment.instances", 32), ("deployment.instances", 64)]
    copied = fed_back(data, "deployment.redundant_experts", 3)
    assert advice(refusal(copied)) == [("deployment.redundant_experts", 2), ("deployment.redundant_experts", 45)]


@pytest.mark.parametrize(
    ("model", "base", "path"),
    [("deepseek-v3", colocated(instances=2), "deployment.instances"), ("qwen7b", afd(), "deployment.ffn.instances")],
)
def test_a_number_of_instances_that_does_not_divide_is_a_failed_point_of_a_sweep(model, base, path, qwen7b):
    found = grid(load(scenario(qwen7b if model == "qwen7b" else model, base)), {path: [2, 3, 4]})

    assert len(found) == 3
    with pytest.raises(ScenarioError, match="divide over"):
        found.scenario((3,))


def test_ranks_without_experts_in_common_are_told_how_one_is_simulated(qwen7b):
    data = scenario(qwen7b, colocated(gpus_per_instance=8, parallelism={"tp": 4}))
    found = refusal(data)

    assert "simulate one of them: 'instances: 1, gpus_per_instance: 4, tp: 4', or 'type: tensor_parallel'" in found
    one = colocated(instances=1, gpus_per_instance=4, parallelism={"tp": 4})
    assert refusal(scenario(qwen7b, one)) is None
    assert refusal(scenario(qwen7b, colocated(instances=1, gpus_per_instance=1))) is None


def test_gpus_without_nvlink_are_no_tensor_parallel_group():
    assert refusal(scenario("qwen3-32b", tensor(gpu="L20", gpus=2))) == (
        "deployment.gpus: must be <= 1, the NVLink domain of L20, which has no NVLink (got 2)"
    )
    assert refusal(scenario("qwen3-32b", tensor(gpus=16))) == (
        "deployment.gpus: must be <= 8, the NVLink domain of H100 (got 16)"
    )
