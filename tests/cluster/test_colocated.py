"""Colocated deployments: memory, faults, routing, exchanges."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision
from afdsim.cluster import experts as routing
from afdsim.cluster.colocated import Colocated, ExpertParallel, TensorParallel
from afdsim.cluster.deployment import AttentionPool
from afdsim.cost.all_to_all import exchange, pair_bytes, table
from afdsim.errors import CapacityError, CatalogError, ScenarioError
from afdsim.scenario.document import load
from afdsim.scenario.streams import stream

ENGINE = {
    "model": "deepseek-v3",
    "deployment": {"type": "colocated", "gpu": "H800", "instances": 4, "max_num_seqs": 8},
    "workload": {
        "arrival": {"process": "closed_loop"},
        "input_len": {"distribution": "constant", "value": 256},
        "output_len": {"distribution": "constant", "value": 4},
        "num_requests": 16,
    },
}


def engine(**deployment):
    return ENGINE | {"deployment": ENGINE["deployment"] | deployment}


def tensor(**deployment):
    return ENGINE | {
        "deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 8, **deployment}
    }


def placed(experts, *, instances=16, model="deepseek-v3", gpu="H800", tp=1):
    pool = AttentionPool(gpu=catalog.gpu(gpu), instances=instances, dp=8 // tp, tp=tp)
    return Colocated(
        llm=catalog.llm(model),
        precision=Precision(),
        attention=pool,
        experts=experts,
        num_microbatches=1,
        max_num_seqs=8,
    )


def test_two_routed_experts_and_the_shared_one_fill_a_gpu_of_ep128():
    expert = 3 * 7168 * 2048

    found = placed(ExpertParallel())

    assert found.ffn_weights == 58 * 3 * expert + 3 * 3 * 7168 * 18432


def test_a_gpu_of_its_own_for_the_shared_expert_spares_the_others():
    beside, apart = placed(ExpertParallel()), placed(ExpertParallel(shared_ranks=64, redundant=0))

    assert apart.expert_gpus == 64
    assert apart.ffn_weights == beside.ffn_weights + 58 * 3 * 7168 * 2048  # four routed, none shared


def test_tensor_parallel_gpus_hold_equal_shares():
    whole, half = (placed(TensorParallel(ep=ep), instances=1, tp=8, model="qwen3-30b-a3b") for ep in (1, 4))

    assert whole.ffn_weights == pytest.approx(half.ffn_weights)
    alone = placed(TensorParallel(), instances=1, model="qwen3-30b-a3b")
    assert whole.ffn_weights * 8 == pytest.approx(alone.ffn_weights)


def test_weights_that_do_not_fit_are_refused_with_the_smallest_fit():
    with pytest.raises(CapacityError) as caught:
        afdsim.simulate(engine(instances=1))

    assert "leave no room for KV cache" in str(caught.value)
    assert str(caught.value).endswith("; smallest fit: deployment.instances=2, or deployment.gpu=H20-141GB")
    assert caught.value.path == "deployment.instances"


def test_a_tensor_parallel_model_that_does_not_fit_names_the_key():
    with pytest.raises(CapacityError, match=r"^deployment\.gpus: .*; smallest fit: deployment\.gpu=H20$") as caught:
        afdsim.simulate(tensor())

    assert caught.value.path == "deployment.gpus"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            engine(two_batch_overlap=True, single_batch_overlap=True),
            "deployment.single_batch_overlap: excludes two_batch",
        ),
        (engine(two_batch_overlap=True, max_num_seqs=1), "deployment.max_num_seqs: must be >= 2, one sequence per"),
        (engine(shared_expert_gpus=32), "deployment.shared_expert_gpus: must be < 32"),
        (
            engine(instances=3),
            "256 experts and 0 copies do not divide over 24 groups of GPUs; nearest for deployment.instances: 2 or 4",
        ),
        (engine(kernels=["nope"]), "deployment.kernels: no kernel was measured for 'nope'"),
        (engine(parallelism={"dp": 3, "tp": 2}), "dp x tp = 3 x 2 = 6 but an instance has 8 GPUs"),
        (engine(attention={}), "deployment.attention: unknown key 'attention'"),
        (engine() | {"network": {"poll": "1us"}}, "network: of a colocated deployment has link.bandwidth alone"),
        (engine() | {"variation": {"straggler": {"ffn[0]": 2}}}, "a colocated deployment has 'instance[i]'"),
        (engine() | {"variation": {"straggler": {"instance[4]": 2}}}, "instance has instances 0..3"),
        (engine() | {"model": "qwen3-32b"}, "qwen3-32b has no experts, so its data-parallel ranks are independent"),
        (tensor(gpus=16), "deployment.gpus: must be <= 8, the NVLink domain of H800"),
        (tensor(ep=3), "deployment.ep: must divide gpus, 8"),
        (engine() | {"variation": {"experts": {"law": "slowest"}}}, "variation.experts.max_over_mean: must be > 1"),
        (engine() | {"variation": {"experts": {"law": "trace"}}}, "variation.experts.path: required key is missing"),
        (engine() | {"variation": {"experts": {"placement": "balanced"}}}, "makes no difference to 'law: even'"),
    ],
)
def test_a_fault_names_the_key_and_the_way_out(data, message):
    with pytest.raises(ScenarioError) as caught:
        load(data)

    assert message in str(caught.value)


def test_dense_models_run_in_tensor_parallel_engines():
    few, many = (afdsim.simulate(tensor(gpus=n) | {"model": "qwen3-32b"}).summary for n in (2, 8))

    assert many["mean_tpot_ms"] < few["mean_tpot_ms"]
    assert many["afdsim"]["pools"]["colocated"]["gpus"] == 8


def test_expert_counts_of_a_file_govern_the_load(tmp_path):
    path = tmp_path / "counts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerow([1000] + [1] * 255)
    skewed = engine() | {"variation": {"experts": {"law": "trace", "path": str(path)}}}

    even, hot = (afdsim.simulate(each).summary["mean_tpot_ms"] for each in (engine(max_num_seqs=128), skewed))
    balanced = skewed | {"deployment": engine(redundant_experts=32)["deployment"]}
    balanced["variation"] = {"experts": {"law": "trace", "path": str(path), "placement": "balanced"}}

    assert load(skewed).key != load(engine()).key
    assert hot > 0
    assert even > 0
    assert afdsim.simulate(balanced).summary["mean_tpot_ms"] <= hot


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,x\n", "rows of numbers"),
        ("1,2\n", "needs 1 or 3 rows of 4 experts"),
        ("0,0,0,0\n", "above 0 somewhere"),
        ("1,2,inf,4\n", "must be finite"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path, text, message):
    path = tmp_path / "counts.csv"
    path.write_text(text)

    with pytest.raises(ScenarioError, match=message):
        routing.counted(str(path), 4, 3)


def test_copies_and_packing_even_out_a_skew():
    shares = routing.power_law(256, 4, skew=0.63, stream=lambda kind, at: stream(0, kind, at))
    plain = routing.rank_loads(shares, 32)
    eplb = routing.rank_loads(shares, 32, copies=32, balanced=True)

    assert plain.mean(axis=1) == pytest.approx(np.ones(4))
    assert eplb.mean(axis=1) == pytest.approx(np.ones(4))
    assert 2.0 < plain.max(axis=1).mean() < 3.2  # published without EPLB: 2.56
    assert eplb.max() < 1.05


def test_every_row_of_the_exchange_table_has_a_source():
    assert all(row.source and row.status for rows in table().values() for row in rows)


def test_a_gpu_without_a_row_takes_its_own_links_and_says_so():
    found = exchange("low_latency", "dispatch", catalog.gpu("A800"), 32)

    assert found.row.status == "assumed"
    assert found.nic == catalog.gpu("A800").nic.achieved
    with pytest.raises(CatalogError, match="no normal all-to-all is known for A800"):
        exchange("normal", "dispatch", catalog.gpu("A800"), 32)


def test_an_exchange_that_a_sibling_was_measured_for_is_of_the_family():
    h200 = catalog.gpu("H200")
    own, sibling = (exchange("low_latency", "dispatch", gpu, 32) for gpu in (h200, replace(h200, name="H201")))

    assert (own.row.status, sibling.row.status) == ("measured", "family")
    assert own.seconds(1e6) == sibling.seconds(1e6)


def test_all_of_an_nvl72_is_one_domain():
    dispatch = exchange("low_latency", "dispatch", catalog.gpu("GB200"), 64)
    nbytes = 128 * 8 * pair_bytes(7168, "fp8")

    assert dispatch.domains == 1
    assert dispatch.held(nbytes) == pytest.approx(dispatch.seconds(nbytes))


def test_normal_kernels_take_a_share_of_the_sms_where_they_overlap():
    h100 = engine(gpu="H100", all_to_all="normal")
    two = afdsim.simulate(h100 | {"deployment": h100["deployment"] | {"two_batch_overlap": True}})

    assert two.summary["afdsim"]["pools"]["colocated"]["network"] > 0
    assert exchange("normal", "combine", catalog.gpu("H100"), 32).row.share == pytest.approx(24 / 132, abs=1e-3)


def test_a_slower_nic_is_seen():
    slow = engine() | {"network": {"link": {"bandwidth": "100Gbps"}}}

    assert afdsim.simulate(slow).summary["mean_tpot_ms"] > afdsim.simulate(engine()).summary["mean_tpot_ms"]


def test_the_report_says_what_the_exchange_rests_on():
    notes = afdsim.simulate(engine()).summary["afdsim"]["notes"]

    assert any("transferred, not measured, on H800" in note and "all-to-all" in note for note in notes)
