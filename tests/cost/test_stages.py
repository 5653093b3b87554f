"""What crosses NVLink and the network in every form of an FFN instance and in every variant of a step."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog.llm import Moe, ffn_weight_bytes
from afdsim.cost import stages
from afdsim.cost.operators import asked_share
from afdsim.engine.lowering import deployment
from afdsim.errors import ScenarioError
from afdsim.scenario.document import load
from tests.cases import run

DENSE, MOE = 0, 4
TOKENS = 2048.0


def step3(ep=1, **changes):
    asked = {"deployment.ffn.parallelism": {"ep": ep, "tp": 8 // ep}}
    asked |= {f"deployment.{key}": value for key, value in changes.items()}
    return deployment(load("step3_2a2f_4k").varied(asked))


def moved(afd, stage, layer=MOE):
    return sum(each.bytes for each in stage(afd, afd.llm.layers[layer], TOKENS) if each.gpus > 1)


def test_with_experts_apart_only_rows_that_were_asked_for_cross():
    whole, apart = moved(step3(), stages.gather_stage), moved(step3(8), stages.gather_stage)

    assert apart / whole == pytest.approx(368 / 2048, rel=1e-3)
    assert moved(step3(8), stages.scatter_stage) / moved(step3(), stages.scatter_stage) == pytest.approx(apart / whole)
    assert moved(step3(8), stages.gather_stage, DENSE) == moved(step3(), stages.gather_stage, DENSE)


def test_hybrids_lie_between():
    found = [moved(step3(ep), stages.gather_stage) for ep in (1, 2, 4, 8)]

    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4


@given(experts=st.integers(1, 256), data=st.data())
def test_the_share_that_is_asked_is_a_probability_and_grows(experts, data):
    moe = Moe(experts=experts, top_k=data.draw(st.integers(1, experts)), inner=64)
    held = data.draw(st.floats(0, experts))
    share = asked_share(moe, held)

    assert 0.0 <= share <= 1.0
    assert asked_share(moe, float(experts)) == 1.0
    assert asked_share(moe, 0.0) == 0.0
    assert share <= asked_share(moe, min(held + 1.0, experts)) + 1e-12


def test_a_shared_expert_runs_where_its_rows_arrived():
    routed = {each.name: each for each in stages.ffn_stage(step3(8), step3().llm.layers[MOE], TOKENS)}
    gathered = stages.ffn_stage(step3(), step3().llm.layers[MOE], TOKENS)

    assert set(routed) == {"shared expert up", "shared expert down", "experts"}
    assert routed["shared expert up"].shape == (7168, 2 * 5120 / 2)  # half of the width: there are two instances
    assert sum(each.flops for each in routed.values()) == pytest.approx(sum(each.flops for each in gathered))


def test_whoever_computes_it_holds_its_weights():
    here, there = step3(), step3(shared_expert="attention")
    shared = 56 * 3 * 7168 * 5120

    assert there.attention_weights - here.attention_weights == pytest.approx(shared)
    assert here.ffn_weights - there.ffn_weights == pytest.approx(shared / 16)
    assert here.attention_weights - step3(gate="ffn").attention_weights == pytest.approx(56 * 2 * 7168 * 48)
    assert ffn_weight_bytes(here.llm, here.precision, replace(here.split, owners=8)) > here.ffn_weights


def test_a_token_goes_only_where_its_experts_are():
    afd = step3(shared_expert="attention", dispatch="sparse")
    layer, dense = afd.llm.layers[MOE], afd.llm.layers[DENSE]
    half = 1 - 24 * 23 * 22 / (48 * 47 * 46)

    assert stages.reach(afd, layer) == pytest.approx(half)
    assert stages.reach(afd, dense) == 1.0
    out, back = stages.message_bytes(afd, layer)
    assert (out, back) == pytest.approx((half * (7168 + 224 + 24), half * 14336))
    assert stages.reduction(afd, layer, 1.0).bytes == pytest.approx((2 * half + 1 + 2) * 14336)


def test_a_gate_on_the_ffn_side_sends_no_ids():
    afd = step3(gate="ffn")
    layer = afd.llm.layers[MOE]

    assert stages.message_bytes(afd, layer)[0] == 7168 + 224
    assert "router" not in {each.name for each in stages.attention_stage(afd, layer, 128.0)}
    assert "router" in {each.name for each in stages.ffn_stage(afd, layer, TOKENS)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dispatch": "sparse"}, "the shared expert needs every token on the FFN side; add 'shared_expert: attention'"),
        ({"dispatch": "sparse", "gate": "ffn"}, "is sparse only if the sender knows the experts"),
        ({"dispatch": "sparse", "ffn.across": "width"}, "every instance holds a part of every expert"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ScenarioError, match=message):
        load("step3_2a2f_4k").varied({f"deployment.{key}": value for key, value in changes.items()})


def test_a_model_without_a_shared_expert_has_none_to_move():
    with pytest.raises(ScenarioError, match="has no shared expert; remove the key"):
        load("qwen3_235b_gb200_7a1f", overrides=["deployment.shared_expert=attention"])


VARIANTS = {
    "apart": {"ffn.parallelism": {"ep": 8, "tp": 1}},
    "hybrid": {"ffn.parallelism": {"ep": 2, "tp": 4}},
    "gate": {"gate": "ffn"},
    "shared": {"shared_expert": "attention"},
    "sparse": {"shared_expert": "attention", "dispatch": "sparse"},
}


@pytest.mark.parametrize("boundary", ["stream", "drain"])
@pytest.mark.parametrize("granularity", ["instance", "gpu"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_engines_agree_on_every_variant(variant, granularity, boundary):
    changes = {f"deployment.{key}": value for key, value in VARIANTS[variant].items()}
    few = {"deployment.max_num_seqs": 6, "deployment.ffn.instances": 2, "workload.num_requests": 24}
    scenario = load("small").varied(
        {**few, **changes, "deployment.boundary": boundary, "run.granularity": granularity, "workload.output_len": 8}
    )
    kernel, processes = (run(scenario, engine).record for engine in ("kernel", "processes"))

    assert (kernel.boundaries.time == processes.boundaries.time).all()
    assert (kernel.causes == processes.causes).all()


def test_a_shared_expert_on_the_attention_side_hides_under_the_messages():
    """One micro-batch waits for its FFN, and for a shared expert only where that is on the FFN side."""
    few = {"deployment.num_microbatches": 1, "deployment.max_num_seqs": 128, "workload.num_requests": 1}
    base = load("step3_2a2f_4k").varied(few)
    moved = base.vary("deployment.shared_expert", "attention")

    assert run(moved, "kernel").record.ended < run(base, "kernel").record.ended
