"""What a layer is made of: the same operators as the simulation, with work, seconds and bound."""

import pytest

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision
from afdsim.cost.anatomy import Setting, attention_seconds, explain, explain_afd, explain_colocated, representative
from afdsim.cost.roofline import STATUSES, Roofline
from afdsim.engine.lowering import deployment
from afdsim.errors import CatalogError
from afdsim.scenario.document import load

H800 = catalog.gpu("H800")


def setting(model="step3", **more):
    return Setting(llm=catalog.llm(model), **{"gpu": H800, "batch": 64, "context": 8192, **more})


def named(found):
    return {part.name: part for part in found.parts}


def test_stages_add_up_to_their_operators():
    found = explain(setting())

    assert found.seconds("attention") == pytest.approx(sum(p.seconds for p in found.parts if p.stage == "attention"))
    assert {part.stage for part in found.parts} == {"attention", "ffn", "boundary"}


@pytest.mark.parametrize("gpu", catalog.gpus())
def test_every_model_is_taken_apart_on_every_gpu(gpu):
    taken = (explain(setting(model, gpu=catalog.gpu(gpu), tp=2, ep=4)) for model in catalog.llms())
    for part in (part for each in taken for part in each.parts):
        assert part.seconds > 0
        assert part.bound in ("compute", "memory", "network", "launch")
        assert part.status in STATUSES
        assert part.source


def test_a_bound_is_the_longer_part():
    parts = named(explain(setting("deepseek-v3", precision=Precision(kv_cache="bf16"))))

    assert parts["core attention"].bound == "compute"
    assert parts["o_proj"].bound == "memory"
    assert parts["norm, rope, kv write"].bound == "launch"
    assert named(explain(setting()))["core attention"].bound == "memory"
    assert named(explain(setting(tp=4)))["o_proj all-reduce"].bound == "network"


def test_padding_can_make_a_kernel_compute_bound():
    qwen = setting("qwen3-235b", gpu=catalog.gpu("H20"), tp=4, precision=Precision(kv_cache="bf16"))

    assert named(explain(qwen))["core attention"].bound == "compute"
    assert named(explain(qwen, Roofline(backends=("flashinfer",))))["core attention"].bound == "memory"


@pytest.mark.parametrize("model", catalog.llms())
def test_padding_and_the_share_of_peak_are_said(model):
    for part in explain(setting(model, gpu=catalog.gpu("H20"), ep=4)).parts:
        assert 0 <= part.peak <= 1
        assert (part.rows is None) == (part.padded is None)
        assert part.rows is None or part.tile * part.rows >= part.padded >= part.rows or part.rows < 1


def test_a_grouped_gemm_pads_the_mean_rows_of_an_expert():
    experts = named(explain(setting("qwen3-235b", gpu=catalog.gpu("H20"))))["experts"]

    assert experts.rows == 64 * 8 / 128
    assert experts.padded == pytest.approx(64 * (1 - 2.718281828**-4), rel=1e-6)
    assert (experts.tile, experts.bound) == (64, "compute")
    assert experts.peak < 0.06


def test_a_colocated_engine_is_explained_with_its_kernels():
    default, chosen = (
        deployment(load("dsr1_h20_ep16", overrides=[f"deployment.kernels={kernels}"])) for kernels in ("[]", "[swapab]")
    )
    one, other = (named(explain_colocated(each, batch=16, context=4096))["experts"] for each in (default, chosen))

    assert other.seconds < one.seconds
    assert (one.tile, other.tile) == (64, 32)


def test_coefficients_of_a_sibling_are_called_family():
    o_proj = named(explain(setting()))["o_proj"]
    on_h100 = named(explain(setting(gpu=catalog.gpu("H100"))))["o_proj"]

    assert (o_proj.status, on_h100.status) == ("family", "measured")
    assert o_proj.source.startswith("H100: ")
    assert o_proj.seconds == on_h100.seconds


def test_experts_spread_over_gpus_take_the_tokens_of_all():
    alone, spread = (named(explain(setting("deepseek-v3", ep=ep))) for ep in (1, 32))

    assert spread["experts"].flops == pytest.approx(64 * 8 * 6 * 7168 * 2048)
    assert spread["shared expert up"].flops + spread["shared expert down"].flops == 64 * 6 * 7168 * 2048
    assert alone["experts and shared expert"].flops == pytest.approx(64 * 9 * 6 * 7168 * 2048)


def test_tensor_parallel_attention_shares_its_sequences():
    one, four = (named(explain(setting("qwen3-235b", tp=tp))) for tp in (1, 4))

    assert four["core attention"].flops == one["core attention"].flops / 4
    assert four["experts"].flops == pytest.approx(one["experts"].flops / 4)


def test_the_anatomy_of_a_scenario_is_what_it_simulates():
    afd = deployment(load("step3_2a2f_4k"))
    found = explain_afd(afd, batch=128, context=4096)

    assert found.seconds("attention") == pytest.approx(208e-6, rel=0.02)
    assert found.seconds("gather") == pytest.approx(62e-6, rel=0.01)
    assert "56 of its 61" in found.title


def test_attention_alone_leaves_router_and_collectives_out():
    whole, alone = explain(setting(tp=4)).seconds("attention"), attention_seconds(setting(tp=4))

    left = ("post-norm, top-k, pack", "router", "o_proj all-reduce")
    assert whole - alone == pytest.approx(sum(named(explain(setting(tp=4)))[name].seconds for name in left))


def test_the_usual_layer_has_experts():
    assert representative(catalog.llm("step3")) == 4
    assert representative(catalog.llm("qwen3-32b")) == 0
    assert explain(setting("step3", layer=0)).seconds("ffn") != explain(setting("step3")).seconds("ffn")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"tp": 3, "ep": 2}, "tp 3 and ep 2 do not divide 3 GPUs"),
        ({"layer": 61}, "step3 has layers 0 to 60, not 61"),
    ],
)
def test_impossible_settings_are_refused(asked, message):
    with pytest.raises(CatalogError, match=message):
        setting(**asked)
