from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import (
    WIDTH,
    Gqa,
    Index,
    Layer,
    Linear,
    Llm,
    Mfa,
    Mla,
    Moe,
    Precision,
    Split,
    attention_weight_bytes,
    combine_bytes,
    dispatch_bytes,
    ffn_weight_bytes,
    kv_bytes,
    kv_bytes_per_token,
    projections,
    ranks,
    state_bytes,
    stored_bytes,
)
from afdsim.cost.operators import (
    attention_operators,
    boundary_operators,
    core_operator,
    core_operators,
    dense_operators,
    experts_touched,
    ffn_operators,
    gather_operator,
    reduction_operator,
    scatter_operator,
)

FP8 = Precision()
STEP3 = catalog.llm("step3")
DENSE, MOE = STEP3.layers[0], STEP3.layers[4]
TWO_F = Split(instances=2, ep=1, tp=8)


@pytest.fixture(params=catalog.llms())
def llm(request):
    return catalog.llm(request.param)


def flops(operators):
    return sum(operator.flops for operator in operators)


def moved(operators):
    return sum(operator.bytes for operator in operators)


def test_projections_of_step3_have_the_shapes_of_the_paper():
    gemms = {o.name: o.flops for o in attention_operators(STEP3, MOE, 1.0, precision=FP8) if o.kernel == "gemm"}

    assert gemms == {
        "q down and kv": 2 * 7168 * (2048 + 512),
        "q up": 2 * 2048 * 16384,
        "o_proj": 2 * 16384 * 7168,
        "router": 2 * 7168 * 48,
    }


def test_absorbed_mla_reads_its_latent_once_and_multiplies_it_twice():
    layer = catalog.llm("deepseek-v3").layers[5]
    core = core_operator(layer, 64.0, 64 * 4096.0, precision=Precision(kv_cache="bf16"))

    assert core.flops == 2 * 128 * (576 + 512) * 64 * 4096
    assert core.bytes == 64 * 4096 * 576 * 2 + 64 * 2 * 128 * 1088
    assert core.rows == 128


def test_core_of_step3():
    core = core_operator(MOE, 128.0, 128 * 4096.0, precision=FP8)

    assert core.kernel == "core_mfa"
    assert core.flops == 4 * 64 * 256 * 128 * 4096
    assert core.bytes == 128 * 4096 * 512 + 4 * 128 * 64 * 256


@pytest.mark.parametrize(("tp", "kernel", "rows"), [(1, "core_gqa", 16), (4, "core_mqa", 16), (8, "core_mqa", 8)])
def test_tensor_parallel_gqa_leaves_each_gpu_its_own_kv_heads(tp, kernel, rows):
    layer = catalog.llm("qwen3-235b").layers[0]
    core = core_operator(layer, 1.0, 1000.0, precision=FP8, tp=tp)

    assert (core.kernel, core.rows) == (kernel, rows)


def test_a_second_query_token_reads_the_kv_no_second_time():
    once = core_operator(MOE, 128.0, 5e5, precision=FP8)
    twice = core_operator(MOE, 256.0, 5e5, precision=FP8, query_tokens=2)

    assert twice.flops == 2 * once.flops
    assert twice.rows == 2 * once.rows
    assert twice.bytes - once.bytes == 4 * 128 * 64 * 256


def test_linear_attention_does_not_know_its_context():
    layer = catalog.llm("minimax-m1").layers[0]
    near, far = (core_operator(layer, 8.0, context, precision=FP8) for context in (0.0, 1e9))

    assert near.bytes == far.bytes == 8 * 2 * 4 * 64 * 128 * 128
    assert near.flops == far.flops


def test_a_layer_may_keep_its_own_kv_dtype():
    layer = Layer(attention=Gqa(heads=8, kv_heads=8, head_dim=64, kv_dtype="bf16"), ffn=MOE.ffn)
    core = core_operator(layer, 0.0, 10.0, precision=FP8)

    assert core.dtype == "bf16"
    assert core.bytes == 10 * 2 * 8 * 64 * 2


@given(tokens=st.integers(1, 500), context=st.integers(0, 10**7), extra=st.integers(1, 10**6))
def test_core_is_affine_in_its_context(tokens, context, extra):
    for layer in (MOE, catalog.llm("deepseek-v3").layers[9], catalog.llm("qwen3-235b").layers[0]):
        at = [core_operator(layer, tokens, float(c), precision=FP8) for c in (context, context + extra, extra, 0)]
        assert at[1].flops - at[0].flops == at[2].flops - at[3].flops
        assert at[1].bytes - at[0].bytes == at[2].bytes - at[3].bytes


def test_grouped_gemm_of_a_2a2f_gpu():
    (experts,) = ffn_operators(STEP3, MOE, 2048.0, precision=FP8, split=TWO_F)
    inner, pairs = 640, 2048 * 3 / 2

    assert experts.rows == 128
    assert experts.flops == pytest.approx(6 * 7168 * (inner * pairs + 320 * 2048))
    assert experts.unpadded == 6 * 7168 * 320 * 2048
    assert experts.bytes == pytest.approx(
        3 * 7168 * (24 * inner + 320) + pairs * (3 * 7168 + 6 * inner) + 2048 * (3 * 7168 + 6 * 320)
    )


def test_few_tokens_touch_few_experts():
    (experts,) = ffn_operators(catalog.llm("qwen3-235b"), MOE_QWEN, 1.0, precision=FP8, split=Split())
    weights = experts.bytes - 8 * (3 * 4096 + 6 * 1536)

    assert weights == pytest.approx(8 * 3 * 4096 * 1536)


MOE_QWEN = catalog.llm("qwen3-235b").layers[0]


@pytest.mark.parametrize("split", [Split(instances=2, ep=2, tp=4), Split(instances=4, ep=4, tp=2, across="width")])
@pytest.mark.parametrize("layer", [DENSE, MOE])
def test_gpus_of_all_instances_share_the_flops_and_weights(split, layer):
    model = Llm(name="one", hidden=7168, vocab=1000, layers=(layer,), source="test")
    whole = flops(ffn_operators(model, layer, 300.0, precision=FP8, split=Split()))
    part = flops(ffn_operators(model, layer, 300.0, precision=FP8, split=split))

    assert part * split.gpus == pytest.approx(whole)
    assert ffn_weight_bytes(model, FP8, split) * split.gpus == pytest.approx(ffn_weight_bytes(model, FP8, Split()))


def test_load_multiplies_routed_rows_only():
    (even,) = ffn_operators(STEP3, MOE, 2048.0, precision=FP8, split=TWO_F)
    (skewed,) = ffn_operators(STEP3, MOE, 2048.0, precision=FP8, split=TWO_F, load=1.5)

    assert skewed.rows == 1.5 * even.rows
    assert skewed.flops - skewed.unpadded == pytest.approx(1.5 * (even.flops - even.unpadded))


def test_bytes_between_the_pools():
    assert dispatch_bytes(STEP3, MOE) == 7168 + 7168 / 128 * 4 + 8 * 3
    assert dispatch_bytes(STEP3, DENSE) == 7168 + 7168 / 128 * 4
    assert dispatch_bytes(STEP3, MOE, "bf16") == 2 * 7168 + 8 * 3
    assert combine_bytes(STEP3) == 2 * 7168


def test_collectives_put_all_but_their_own_part_on_the_wire():
    gather = gather_operator(STEP3, 2048.0, gpus=8, top_k=3, precision=FP8)
    scatter = scatter_operator(STEP3, 2048.0, gpus=8)

    assert gather.bytes == 7 / 8 * 2048 * dispatch_bytes(STEP3, MOE)
    assert scatter.bytes == 7 / 8 * 2048 * 2 * 7168
    assert gather_operator(STEP3, 2048.0, gpus=1, top_k=3, precision=FP8).launches == 0


def test_reduction_reads_every_partial_sum_and_the_residual():
    assert reduction_operator(STEP3, 128.0, 2).bytes == 4 * 128 * 7168 * 2


def test_o_proj_over_ranks_travels_twice():
    operators = attention_operators(STEP3, MOE, 128.0, precision=FP8, o_proj="tp8")
    wires = {o.name: o.bytes for o in operators if o.gpus == 8}

    assert wires == {
        "o_proj all-to-all": 7 / 8 * 128 * 16384,
        "o_proj reduce-scatter": 7 / 8 * 8 * 128 * 2 * 7168,
    }
    assert flops(operators) == flops(attention_operators(STEP3, MOE, 128.0, precision=FP8))


def test_tensor_parallel_attention_ends_in_an_all_reduce():
    operators = attention_operators(STEP3, MOE, 128.0, precision=FP8, tp=4)
    (reduce,) = (o for o in operators if o.kernel == "all_reduce")

    assert reduce.bytes == 2 * 3 / 4 * 128 * 7168 * 2


def test_lm_head_over_ranks_keeps_its_flops():
    alone = boundary_operators(STEP3, 128.0, precision=FP8)
    cut = boundary_operators(STEP3, 128.0, precision=FP8, lm_head="tp8")

    assert flops(cut) == pytest.approx(flops(alone), rel=1e-4)


def test_a_tensor_parallel_rank_cuts_its_vocabulary():
    alone, cut = (boundary_operators(STEP3, 128.0, precision=FP8, tp=tp) for tp in (1, 8))
    whole, part = (next(o for o in each if o.name == "lm head") for each in (alone, cut))
    held = [attention_weight_bytes(STEP3, FP8, tp=8, lm_head=p, embedding=p) for p in (None, "replicated")]

    assert part.flops == pytest.approx(whole.flops / 8, rel=1e-4)
    assert [o.name for o in cut if o.gpus > 1] == ["candidates all-to-all", "embedding all-reduce"]
    assert held[1] - held[0] == 2 * 2 * 7168 * (128815 - 16102)


def test_ranks_that_share_the_vocabulary_gather_their_states():
    cut = boundary_operators(STEP3, 128.0, precision=FP8, tp=4, lm_head="tp8", embedding="replicated")
    head, gather = (next(o for o in cut if o.name == name) for name in ("lm head", "lm head all-gather"))

    assert head.flops == pytest.approx(2.0 * 256 * 7168 * 16102)
    assert gather.bytes == 128 * 7168 * 2


def test_tied_matrices_are_held_once_where_they_are_cut_alike():
    tied = replace(STEP3, tied=True)

    assert attention_weight_bytes(STEP3, FP8) - attention_weight_bytes(tied, FP8) == 2 * 7168 * 128815
    assert attention_weight_bytes(tied, FP8, lm_head="tp8") == attention_weight_bytes(STEP3, FP8, lm_head="tp8")


@pytest.mark.parametrize("placement", ["tp", "tp0", "tensor", "TP8", "tp-1"])
def test_an_unknown_placement_is_refused(placement):
    with pytest.raises(ValueError, match="'replicated' or 'tp<n>'"):
        ranks(placement)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("step3", 316),
        ("step3-600b", 618),
        ("deepseek-v3", 671),
        ("kimi-k2", 1027),
        ("qwen3-235b", 235),
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-32b", 32.8),
        ("llama4-maverick", 399),
        ("minimax-m1", 456),
        ("minimax-m2.5", 229),
        ("ernie-4.5-300b", 300),
        ("pangu-pro-moe", 72),
        ("mixtral-8x22b", 141),
        ("dbrx", 132),
    ],
)
def test_weights_add_up_to_the_published_parameter_count(name, billions):
    model, one = catalog.llm(name), Precision(kv_cache="fp8", ffn="int8")
    twice = 2.0 * model.hidden * (2 * model.vocab)
    layers = attention_weight_bytes(model, one) - twice
    total = ffn_weight_bytes(model, one, Split()) + layers + twice / 2

    assert total / 1e9 == pytest.approx(billions, rel=0.02)


def test_cutting_o_proj_and_head_frees_memory():
    whole = attention_weight_bytes(STEP3, FP8)

    assert whole - attention_weight_bytes(STEP3, FP8, o_proj="tp8") == 61 * 7 / 8 * 16384 * 7168
    assert attention_weight_bytes(STEP3, FP8, lm_head="tp8") < whole
    assert attention_weight_bytes(STEP3, FP8, tp=8) < attention_weight_bytes(STEP3, FP8, o_proj="tp8")


SPARSE = Mla(
    heads=128,
    kv_rank=512,
    rope_dim=64,
    nope_dim=128,
    v_dim=128,
    q_rank=1536,
    index=Index(heads=64, head_dim=128, top_k=2048),
)


def test_sparse_attention_scores_all_and_reads_what_it_chose():
    layer = replace(MOE, attention=SPARSE)
    near, far, farther = (core_operators(layer, 8.0, c, precision=FP8) for c in (2048.0, 65536.0, 131072.0))

    assert [operator.name for operator in far] == ["indexer", "core attention"]
    assert far[1].bytes == farther[1].bytes == near[1].bytes
    assert farther[0].bytes - far[0].bytes == 8 * 65536 * 132
    assert farther[0].flops == 2 * far[0].flops == 8 * 131072 * 2 * 64 * 128


def test_every_draft_of_sparse_attention_chooses_its_own_tokens():
    layer = replace(MOE, attention=SPARSE)
    once, twice = (core_operator(layer, 8.0 * q, 8 * 2048.0, precision=FP8, query_tokens=q) for q in (1, 2))

    assert twice.bytes == 2 * once.bytes


def test_sparse_attention_keeps_all_that_it_may_choose():
    assert float(stored_bytes(SPARSE, 100_000, FP8)) == 100_000 * (512 + 64 + 132)
    assert float(stored_bytes(SPARSE, 100_000, FP8, 8)) == 100_000 * (512 + 64 + 132)


def test_a_recurrent_layer_moves_its_state_whatever_the_context():
    delta = Linear(heads=32, head_dim=128, key_dim=128, groups=16, scalars=2, conv=4)
    state = 32 * 128 * 128 * 4 + 3 * 2 * (2 * 16 * 128 + 32 * 128)
    core = core_operator(delta, 8.0, 1e6, precision=FP8)

    assert float(stored_bytes(delta, 1e6, FP8)) == state_bytes(delta) == state
    assert core.bytes == 2 * 8 * state
    assert projections(2048, delta) == (("qkv and gate", 2048, 2 * 2048 + 2 * 4096 + 64),)


def test_a_mixer_without_an_ffn_runs_before_the_next():
    lightning = Linear(heads=64, head_dim=128)
    layer = replace(MOE, before=(lightning,))
    alone, both = (attention_operators(STEP3, each, 8.0, precision=FP8) for each in (MOE, layer))

    assert [type(core) for core in layer.cores] == [Linear, Mfa]
    assert flops(both) - flops(alone) == pytest.approx(8 * 2 * 7168 * 5 * 8192)


def test_ffns_without_a_gate_have_two_matrices():
    gated, plain = (
        ffn_operators(STEP3, replace(MOE, ffn=replace(MOE.ffn, gated=gate)), 64.0, precision=FP8, split=Split())
        for gate in (True, False)
    )

    assert flops(plain) == pytest.approx(flops(gated) * 2 / 3)
    assert flops(dense_operators(STEP3, 8.0, 1024, "fp8", matrices=2)) == 2 * 2 * 8 * 7168 * 1024


@given(st.integers(1, 256), st.integers(1, 256), st.floats(0, 5000))
def test_experts_touched_are_those_that_somebody_chose(top_k, more, tokens):
    experts = top_k + more
    touched = float(experts_touched(experts, tokens * top_k / experts, top_k / experts))
    poisson = experts * (1 - np.exp(-tokens * top_k / experts))

    assert float(experts_touched(experts, top_k / experts, top_k / experts)) == pytest.approx(top_k)
    assert poisson <= touched * (1 + 1e-9)
    assert touched <= min(experts, max(tokens, 1) * top_k) * (1 + 1e-9)


def test_kv_of_a_sequence():
    assert kv_bytes(STEP3, 4096, FP8) == 61 * 512 * 4096
    assert kv_bytes_per_token(STEP3, FP8) == 61 * 512
    assert kv_bytes(STEP3, 4096, Precision(kv_cache="bf16")) == 2 * kv_bytes(STEP3, 4096, FP8)


def test_windows_cap_the_kv_cache():
    llama = catalog.llm("llama4-maverick")
    at = [float(kv_bytes(llama, context, FP8)) for context in (8192, 8193)]

    assert at[1] - at[0] == 12 * 2 * 8 * 128 * 2


def test_linear_state_is_kept_once_per_sequence():
    minimax = catalog.llm("minimax-m1")

    assert kv_bytes(minimax, 0, FP8) == 70 * 64 * 128 * 128 * 4


def test_no_tokens_no_flops(llm):
    for layer in set(llm.layers):
        operators = [
            *attention_operators(llm, layer, 0.0, precision=FP8),
            *ffn_operators(llm, layer, 0.0, precision=FP8, split=Split()),
            core_operator(layer, 0.0, 0.0, precision=FP8),
        ]
        assert flops(operators) == 0


def test_arrays_and_scalars_agree(llm):
    tokens = np.arange(0.0, 50.0)
    for layer in set(llm.layers):
        for many, one in zip(
            (*attention_operators(llm, layer, tokens, precision=FP8), *_ffn(llm, layer, tokens)),
            (*attention_operators(llm, layer, 33.0, precision=FP8), *_ffn(llm, layer, 33.0)),
            strict=True,
        ):
            assert np.broadcast_to(many.flops, tokens.shape)[33] == one.flops
            assert np.broadcast_to(many.bytes, tokens.shape)[33] == one.bytes


def _ffn(llm, layer, tokens):
    return ffn_operators(llm, layer, tokens, precision=FP8, split=TWO_F)


def test_equal_layers_are_one_kind(llm):
    assert len(set(llm.layers)) <= 4


def test_bf16_ffn_pays_for_its_activation():
    names = [o.name for o in ffn_operators(STEP3, DENSE, 8.0, precision=Precision(ffn="bf16"), split=Split())]

    assert names == ["ffn up", "activation", "ffn down"]


def test_narrow_weights_move_fewer_bytes():
    by_dtype = [moved(_ffn_of(dtype)) for dtype in ("bf16", "fp8", "fp4")]

    assert by_dtype == sorted(by_dtype, reverse=True)
    assert WIDTH["fp4"] == 0.5


def _ffn_of(dtype):
    return ffn_operators(STEP3, MOE, 64.0, precision=Precision(ffn=dtype), split=TWO_F)


def test_step3_600b_is_step3_with_twice_the_experts():
    moe = catalog.llm("step3-600b").layers[4].ffn

    assert moe == Moe(experts=96, top_k=6, inner=5120, shared=2, shared_inner=5120)
