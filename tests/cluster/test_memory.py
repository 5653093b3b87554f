"""HBM as engines count it: share, reserve, what is left for KV cache."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.cluster.memory import GIB, reserve
from afdsim.engine.lowering import deployment
from afdsim.scenario.document import load

WORKLOAD = {"arrival": {"process": "closed_loop"}, "input_len": 1024, "output_len": 16, "num_requests": 16}


def tensor(model, gpu, gpus, **more):
    asked = {"type": "tensor_parallel", "gpu": gpu, "gpus": gpus, "max_num_seqs": 8, **more}
    precision = {"attention": "bf16", "ffn": "fp8"}
    return deployment(load({"model": model, "precision": precision, "deployment": asked, "workload": WORKLOAD}))


def colocated(gpu="H800", **more):
    asked = {"type": "colocated", "gpu": gpu, "instances": 16, "max_num_seqs": 8, **more}
    return deployment(load({"model": "deepseek-v3", "deployment": asked, "workload": WORKLOAD}))


def main_job(**changes):
    return deployment(load("step3_2a2f_4k").varied({path.replace("__", "."): value for path, value in changes.items()}))


@pytest.mark.parametrize(
    ("name", "mib"), [("H100", 81_559), ("H800", 81_559), ("A100", 81_920), ("H20", 97_871), ("H200", 143_771)]
)
def test_memory_is_the_total_of_nvidia_smi(name, mib):
    assert catalog.gpu(name).memory == mib * 2**20


def test_what_is_left_for_the_cache_is_a_share_less_weights_and_reserve():
    found = tensor("deepseek-r1", "H20", 8, gpu_memory_utilization=0.95)
    kept = reserve(7168, 8, sparse=True)

    expected = 0.95 * 97_871 * 2**20 - found.attention_weights - found.ffn_weights - kept
    assert found.kv_budget == pytest.approx(expected)
    assert 2.3 * GIB < kept < 2.8 * GIB


@given(st.integers(1, 32_768), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_a_reserve_grows_with_the_model_and_with_experts(hidden, tp):
    here = reserve(hidden, tp, sparse=False)

    assert GIB < here < reserve(hidden + 1, tp, sparse=False)
    assert here < reserve(hidden, tp, sparse=True)


def test_a_share_of_memory_is_a_key_of_every_kind():
    for build in (main_job, colocated, lambda **more: tensor("qwen3-30b-a3b", "H100", 4, **more)):
        key = "deployment__gpu_memory_utilization" if build is main_job else "gpu_memory_utilization"
        less, more = build(**{key: 0.8}), build(**{key: 0.9})
        assert build().kv_budget == more.kv_budget
        assert more.kv_budget - less.kv_budget == pytest.approx(0.1 * less.attention.gpu.memory)


def test_deepseek_r1_fits_on_one_server_of_h20():
    found = tensor("deepseek-r1", "H20", 8)

    found.check_memory()
    assert 50_000 < found.kv_budget / found.kv_cache.reserved(1) < 80_000


def test_cards_of_80_gb_cannot_have_run_the_bf16_row_of_the_paper_and_h200_can():
    """Table 8: 3A2F, BF16 attention, 6,048 sequences of 4,096 tokens."""
    sequences = 6048 // (3 * 8)
    fits = {}
    for gpu in ("H800", "H100", "A800", "H200"):
        pool = {"gpu": gpu, "instances": 3}
        changes = {"deployment__attention": pool, "precision": {"attention": "bf16"}, "deployment__max_num_seqs": 252}
        fits[gpu] = main_job(**changes).kv_cache.sequences(4096) >= sequences

    assert fits == {"H800": False, "H100": False, "A800": False, "H200": True}


@pytest.mark.parametrize("gated", [True, False])
def test_an_ffn_without_a_gate_holds_two_matrices(gated):
    found = tensor("qwen3-32b", "H100", 8)
    layers = tuple(replace(each, ffn=replace(each.ffn, gated=gated)) for each in found.llm.layers)
    cut = replace(found, llm=replace(found.llm, layers=layers))

    assert cut.ffn_weights == (3 if gated else 2) * 64 * 5120 * 25_600 / 8


def test_the_batch_that_was_published_for_ep16_on_gb200_fits():
    asked = load("qwen3_235b_gb200_ep16")

    assert deployment(asked).kv_cache.sequences(8192 + 64) >= asked.deployment.max_num_seqs


def test_cases_of_published_deployments_fit(shared):
    for name, tokens in (("r1_tp8_h20", 50_000), ("llama70b_bf16_tp2_h100", 20_000)):
        found = deployment(load(shared / f"cases/{name}.yaml"))
        found.check_memory()
        assert found.kv_budget / found.kv_cache.reserved(1) > tokens


def test_more_sequences_than_fit_queue_with_a_note(shared):
    found = afdsim.simulate(load(shared / "cases/over_kv.yaml"))

    assert any("KV cache of a rank holds 83 of max_num_seqs 512" in note for note in found.notes)
