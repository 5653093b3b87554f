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


def changes(message):
    """Return what a message advises, each a {path: value} that is meant to help by itself."""
    alone = re.findall(r"nearest for ([\w.]+): (.+)$", message, flags=re.MULTILINE)
    together = re.findall(r"nearest: (.+)$", message, flags=re.MULTILINE)
    texts = [{path: text} for path, values in alone for text in values.split(" or ")]
    texts += [dict(one.split("=") for one in several.split(" with ")) for several in together]
    return [{path: yamlfile.parse(text, "advice").data for path, text in each.items()} for each in texts]


def advice(message):
    """Return the values of single keys that a message advises: (path, value)."""
    return [pair for each in changes(message) if len(each) == 1 for pair in each.items()]


def fed_back(data, path, value):
    """Return a scenario with a value put in."""
    varied = json.loads(json.dumps(data))
    *parents, last = path.split(".")
    part = varied
    for key in parents:
        part = part[key]
    part[last] = value
    return varied


def mended(data, change):
    """Return a scenario with several values put in."""
    for path, value in change.items():
        data = fed_back(data, path, value)
    return data


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
    ("step3", tensor(ep=3, gpus=6), "64 query heads and a shared expert of width 5,120 do not divide over 6 GPUs"),
    ("qwen3-30b-a3b", tensor(gpus=6), "a hidden size of 2,048, 32 query heads and 4 KV heads do not divide over 6"),
    ("pangu-pro-moe", tensor(gpus=6), "do not divide over 6 GPUs"),
]


@pytest.mark.parametrize(("model", "deployment", "message"), REFUSED)
def test_every_nearest_value_loads(model, deployment, message):
    data = scenario(model, deployment)
    found = refusal(data)

    assert message in found
    assert changes(found)
    for change in changes(found):
        assert refusal(mended(data, change)) is None


COUNTS = st.integers(1, 12)
TENSOR = st.builds(tensor, gpus=st.integers(1, 16), ep=st.sampled_from([1, 1, 2, 3, 4, 5, 6, 7, 8]))
COLOCATED = st.builds(
    lambda tp, dp, **more: colocated(parallelism={"tp": tp, "dp": dp}, gpus_per_instance=tp * dp, **more),
    tp=st.integers(1, 8),
    dp=st.integers(1, 2),
    instances=COUNTS,
    redundant_experts=st.sampled_from([0, 0, 1, 16, 32]),
)
AFD = st.builds(
    lambda attention, tp, dp, ep, cut, **ffn: afd(
        {"instances": attention, "gpus_per_instance": dp * tp, "parallelism": {"tp": tp}, "o_proj": f"tp{tp}"},
        {"gpus_per_instance": ep * cut, "parallelism": {"ep": ep}, **ffn},
    ),
    attention=st.integers(1, 3),
    tp=st.integers(2, 12),
    dp=st.integers(1, 3),
    ep=st.integers(1, 6),
    cut=st.integers(1, 4),
    instances=COUNTS,
    across=st.sampled_from(["experts", "width"]),
)


def on(gpu, deployment):
    """Return a deployment on another GPU."""
    pools = [deployment[name] for name in ("attention", "ffn") if name in deployment] or [deployment]
    for pool in pools:
        pool["gpu"] = gpu
    return deployment


@given(
    model=st.sampled_from(catalog.llms()),
    gpu=st.sampled_from(catalog.gpus()),
    deployment=st.one_of(TENSOR, COLOCATED, AFD),
)
def test_all_advice_on_any_deployment_loads(model, gpu, deployment):
    data = scenario(model, on(gpu, deployment))
    found = refusal(data)
    assume(found is not None and all("not divide over" in line for line in found.splitlines()))

    for change in changes(found):
        assert refusal(mended(data, change)) is None


def test_a_key_that_mends_several_faults_is_said_once():
    found = refusal(scenario("mixtral-8x22b", tensor(gpus=5)))

    assert advice(found) == [("deployment.gpus", 4), ("deployment.gpus", 8)]
    assert [line.rpartition("; ")[2] for line in found.splitlines()] == [
        "nearest for deployment.gpus: 4 or 8",
        "mended together with deployment.gpus",
    ]


def test_degrees_that_help_only_together_are_said_together(qwen7b):
    assert changes(refusal(scenario("step3", tensor(ep=3, gpus=6)))) == [{"deployment.gpus": 4, "deployment.ep": 2}]
    both = scenario(qwen7b, afd({"parallelism": {"tp": 8}}, {"instances": 3}))
    assert changes(refusal(both)) == [
        {"deployment.attention.parallelism": {"tp": 4}, "deployment.ffn.instances": 2},
    ]


def test_advice_minds_the_rest_of_the_scenario(qwen7b):
    slow = scenario(qwen7b, afd(ffn={"instances": 3})) | {"variation": {"straggler": {"ffn[2]": 1.5}}}
    assert advice(refusal(slow)) == [("deployment.ffn.instances", 4)]
    full = scenario("deepseek-v3", colocated(instances=3))
    full["workload"] = WORKLOAD | {"arrival": {"process": "closed_loop", "concurrency": 3 * 8 * 8}}
    assert advice(refusal(full)) == [("deployment.instances", 4)]


def test_a_degree_that_nothing_mends_is_said_to_be_so():
    found = refusal(scenario("qwen3-235b", tensor(gpus=6, lm_head="tp6")))

    assert not changes(found)
    assert all(line.endswith("; no other value of deployment.gpus alone does") for line in found.splitlines()[:1])


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
