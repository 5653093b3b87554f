"""Configs of every family: what is read, what is refused by name and value, and what is said of it."""

import json
import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afdsim.catalog import huggingface, ledger, parameters
from afdsim.catalog.families import FAMILIES
from afdsim.catalog.llm import Dense, Gqa, Index, Linear, Mamba, Moe, Precision, kv_bytes
from afdsim.errors import CatalogError

BF16 = Precision(kv_cache="bf16")
SIZES = {"hidden_size": 4096, "num_hidden_layers": 12, "vocab_size": 1000}
HEADS = {"num_attention_heads": 32, "intermediate_size": 8192}
WHOLE = {**HEADS, "num_key_value_heads": 8, "max_position_embeddings": 4096}
LOCAL = {"num_local_experts": 128, "num_experts_per_tok": 4, "head_dim": 64}
LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
ROUTED = {"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "n_shared_experts": 2}
NAMED = {"num_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408}
LIGHTNING = {"num_local_experts": 32, "num_experts_per_tok": 2, "attn_type_list": [0, 1] * 6, **HEADS}
STEP = {"moe_num_experts": 48, "moe_top_k": 3, "moe_intermediate_size": 5120, "moe_layers_enum": "4,5", "head_dim": 128}
EXTRA = {
    "deepseek": {**HEADS, **ROUTED},
    "deepseek_v2": {**ROUTED},
    "kimi_k2": {**HEADS, **ROUTED, **LATENT},
    "dots1": {**ROUTED},
    "bailing_moe": {**HEADS, **NAMED, "num_shared_experts": 2},
    "bailing_moe_v2": {**HEADS, **NAMED, "num_shared_experts": 1, "first_k_dense_replace": 1},
    "pangu_ultra_moe": {**HEADS, **ROUTED, **LATENT},
    "pangu_pro_moe": {**HEADS, **NAMED, "shared_expert_intermediate_size": 5376},
    "pangupromoe": {**HEADS, **NAMED, "shared_expert_intermediate_size": 5376},
    "panguembedded": {**HEADS},
    "mimo": {**HEADS},
    "internlm2": {**HEADS},
    "phi": {**HEADS},
    "chatglm": {"num_layers": 12, "num_attention_heads": 32, "ffn_hidden_size": 8192, "multi_query_group_num": 2},
    "dbrx": {
        "num_attention_heads": 32,
        "attn_config": {"kv_n_heads": 8},
        "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 1024},
    },
    "minimax": LIGHTNING,
    "minimax_m1": LIGHTNING,
    "minimax_text_01": LIGHTNING,
    "nemotron_h": {"hybrid_override_pattern": "M-*-MEM*EM-", "num_hidden_layers": 11},
    "step3_text": {**HEADS, **STEP, "share_q_dim": 2048, "share_expert_dim": 5120},
    "step3_vl": {**HEADS, **STEP, "share_q_dim": 2048, "share_expert_dim": 5120},
    "step3p5": {**HEADS, **STEP, "num_attention_groups": 8, "share_expert_dim": 1280},
}
"""Keys that the smallest config of a family needs beside its sizes."""

MINIMAL = {name: {"model_type": name, **SIZES, **EXTRA.get(name, {})} for name in FAMILIES}
LOUD = 7
USUAL = [
    "aux_loss_alpha",
    "ep_size",
    "n_group",
    "norm_topk_prob",
    "scoring_func",
    "seq_aux",
    "topk_group",
    "topk_method",
    "rope_scaling",
    "pretraining_tp",
    "routed_scaling_factor",
    "rms_norm_eps",
    "rope_theta",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "auto_map",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "hidden_act",
    "num_key_value_heads",
]
"""Keys of the config.json of DeepSeek-V3 that change nothing here."""


@pytest.fixture
def llm(tmp_path):
    """Read keys as a config.json."""

    def read(keys, **more):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**keys, **more}))
        return huggingface.read(path)

    return read


def asked(name):
    """Return the keys that the reader of a family asks for in its smallest config."""
    keys = MINIMAL[name]
    config = huggingface._config("config.json", keys, name, FAMILIES[name], nested=False)
    FAMILIES[name].read(config)
    return config.asked | {"vocab_size"}


# The ledger


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_key_that_changes_layers_is_read_or_refused_by_name_and_value(llm, name):
    unread = [key for key in ledger.CHANGES_LAYERS if key not in asked(name) | set(MINIMAL[name])]

    assert unread
    for key in unread:
        message = rf"config\.json: {re.escape(key)}: 7 (is not understood for {name}: |contradicts \w+: )"
        with pytest.raises(CatalogError, match=message):
            llm(MINIMAL[name], **{key: LOUD})


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_value_that_changes_nothing_is_accepted(llm, name):
    plain = llm(MINIMAL[name])
    unread = [key for key in ledger.CHANGES_LAYERS if key not in asked(name) | set(MINIMAL[name])]
    nothing = {key: (ledger.CHANGES_LAYERS[key] or (None,))[0] for key in unread}
    if name == "mistral":
        del nothing["layer_types"]  # beside its window, a list of full layers says something else

    for keys in (
        nothing,
        dict.fromkeys(unread),
        dict.fromkeys(set(unread) - set(ledger.ZERO_SAYS), 0),
        {key: [] for key in unread},
    ):
        found = llm(MINIMAL[name], **keys)
        assert found.layers == plain.layers
        assert found.notes == plain.notes


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_key_of_its_own_class_that_changes_layers_is_passed_over(name):
    own = huggingface.class_defaults(FAMILIES[name].like or name)
    passed_over = [key for key in own if key not in asked(name) and key in ledger.CHANGES_LAYERS]
    switched_off = {"interleave_moe_layer_step", "expert_layer_period"}

    assert [key for key in passed_over if key not in switched_off and not ledger.quiet(key, own[key])] == []


def test_every_default_belongs_to_a_family():
    known = {family.like or name for name, family in FAMILIES.items()}

    assert set(huggingface._all_defaults()) - {"source"} <= known


def test_a_family_that_is_another_ones_in_disguise_is_refused_with_the_way_out(llm):
    keys = {
        **SIZES,
        "model_type": "qwen3_moe",
        "shared_expert_intermediate_size": 512,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
    }
    message = (
        r"full_attention_interval: 4 is not understood for qwen3_moe: it changes layers \(so do linear_num_key_heads: "
        r"16, shared_expert_intermediate_size: 512\); write the model_type that has it \(qwen3_next, qwen3_5_moe\), or "
    )
    with pytest.raises(CatalogError, match=message):
        llm(keys)


def test_llama_refuses_a_window_because_engines_differ(llm):
    # transformers 5.24's Llama ignores sliding_window, vLLM 0.33 applies it to all layers: no reading is right for both.
    with pytest.raises(CatalogError, match=r"sliding_window: 4096 is not understood for llama: .*mistral"):
        llm(MINIMAL["llama"], sliding_window=4096)
    assert llm(MINIMAL["mistral"], sliding_window=4096).layers[0].attention.window == 4096


def test_mixtral_has_one_window_for_all_layers_and_no_types_of_them(llm):
    # transformers' Mixtral reads sliding_window and ignores layer_types.
    types = ["sliding_attention", "full_attention"] * 6
    with pytest.raises(CatalogError, match=r'layer_types: \["sliding_attention".*not understood for mixtral.*gpt_oss'):
        llm({**MINIMAL["mixtral"], **LOCAL}, sliding_window=128, layer_types=types)


def test_a_window_that_is_switched_off_changes_nothing_anywhere(llm):
    off = {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}

    for name in ("llama", "bailing_moe_v2", "qwen2", "qwen3_moe", "qwen2_moe", "mimo"):
        assert llm(MINIMAL[name], **off).layers == llm(MINIMAL[name]).layers


def test_what_is_neither_read_nor_known_is_noted_in_one_line(llm):
    known = {"rope_theta": 1e6, "torch_dtype": "bfloat16", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1}

    assert llm(MINIMAL["llama"], **WHOLE, **known).notes == ()
    assert llm(MINIMAL["llama"], **WHOLE, **known, foo=1, bar=None).notes == ("not understood: foo, bar",)


def test_the_usual_keys_of_deepseek_need_no_note(llm):
    found = llm({**dict.fromkeys(USUAL), **MINIMAL["deepseek_v3"], "hidden_act": "silu"})

    assert [note for note in found.notes if note.startswith("not understood")] == []


def test_multi_token_prediction_is_no_layer_of_the_stack(llm):
    found = llm(MINIMAL["deepseek_v3"], num_nextn_predict_layers=1)

    assert len(found.layers) == 12
    assert "num_nextn_predict_layers: 1: layers of multi-token prediction are not part of the stack" in found.notes


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**10)
    | st.floats()
    | st.sampled_from(["", "auto", "LG", "M-", "1,2"]),
    lambda inner: (
        st.lists(inner, max_size=13) | st.dictionaries(st.sampled_from(["bits", "weights"]), inner, max_size=3)
    ),
    max_leaves=14,
)
KEYS = sorted(
    set(ledger.CHANGES_LAYERS)
    | {"quantization_config", "rope_scaling", "max_position_embeddings", "text_config", "tie_word_embeddings"}
    | {"attn_config", "ffn_config", "head_dim", "num_attention_heads", "num_key_value_heads", "n_groups", "conv_kernel"}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(FAMILIES)), changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_no_value_of_any_key_ends_in_a_traceback(llm, name, changes):
    with suppress(CatalogError):
        assert llm(MINIMAL[name], **changes).layers


# Defaults, nesting, sizes


def test_absent_keys_have_the_defaults_of_their_class_and_a_note_says_which(llm):
    found = llm(MINIMAL["gpt_oss"])

    assert found.layers[0].ffn == Moe(experts=128, top_k=4, inner=2880)
    note, positions = found.notes
    assert positions.startswith("max_position_embeddings: not in the file, so no length of requests")
    assert note.startswith("not in the file, so as gpt_oss has them by default: ")
    assert {"num_local_experts 128", "num_experts_per_tok 4", "sliding_window 128"} <= set(
        note.split(": ")[1].split(", ")
    )


def test_sizes_of_a_whole_model_have_no_defaults_those_of_a_language_part_do(llm):
    with pytest.raises(CatalogError, match="vocab_size: missing; a gemma3 config needs it"):
        llm({"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34})
    nested = {"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}

    assert (llm(nested).vocab, llm(nested).positions) == (262208, 131072)
    assert llm(nested).layers[0].attention == Gqa(heads=8, kv_heads=4, head_dim=256, window=4096)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: {"model_type": "internvl_chat", "llm_config": text},
        lambda text: {"model_type": "deepseek_vl_v2", "language_config": text},
        lambda text: {"model_type": "qwen3_omni_moe", "thinker_config": {"model_type": "x", "text_config": text}},
        lambda text: {"model_type": "mistral3", "text_config": text, "vision_config": {"hidden_size": 1}},
    ],
)
def test_the_language_part_is_found_however_it_is_called(llm, wrap):
    assert llm(wrap(MINIMAL["qwen2"])).layers == llm(MINIMAL["qwen2"]).layers


def test_a_language_part_without_a_type_is_what_its_model_has(llm):
    text = {key: value for key, value in MINIMAL["kimi_k2"].items() if key != "model_type"}

    assert llm({"model_type": "kimi_k25", "text_config": text}).layers[0].attention.kv_rank == 512


def test_tied_embeddings_are_the_files_or_the_classes(llm):
    assert llm(MINIMAL["gemma2"]).tied
    assert not llm(MINIMAL["qwen2"]).tied
    assert llm(MINIMAL["qwen2"], tie_word_embeddings=True).tied
    nested = {"model_type": "qwen3_vl_moe", "text_config": MINIMAL["qwen3_vl_moe"]}
    assert (llm(nested).tied, llm(nested, tie_word_embeddings=False).tied) == (True, False)
    with pytest.raises(CatalogError, match="tie_word_embeddings: must be true or false"):
        llm(MINIMAL["qwen2"], tie_word_embeddings="no")


def test_positions_are_stated_under_any_name_and_stretched_by_yarn(llm):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

    assert llm(MINIMAL["qwen2"]).positions is None
    assert llm(MINIMAL["qwen2"], max_position_embeddings=32768).positions == 32768
    assert llm(MINIMAL["dbrx"], max_seq_len=4096).positions == 4096
    assert llm(MINIMAL["qwen2"], max_position_embeddings=32768, rope_scaling=yarn).positions == 131072


# Layers


def test_windows_of_qwen3_are_those_of_layer_types(llm):
    keys = {
        "model_type": "qwen3",
        "hidden_size": 5120,
        "num_hidden_layers": 5,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 248320,
        "intermediate_size": 17408,
        "use_sliding_window": True,
        "sliding_window": 2048,
        "max_window_layers": 5,
    }
    found = llm(keys, layer_types=["sliding_attention"] * 5)

    assert kv_bytes(found, 32768, BF16) == 5 * 2048 * 2 * 8 * 128 * 2
    assert [layer.attention.window for layer in llm(keys, max_window_layers=3).layers] == [None] * 3 + [2048] * 2
    with pytest.raises(CatalogError, match="one entry for each of the 5 layers, not 4"):
        llm(keys, layer_types=["sliding_attention"] * 4)
    with pytest.raises(CatalogError, match=r"layer_types: .* holds 'conv', which qwen3 does not have"):
        llm(keys, layer_types=["conv"] * 5)


@pytest.mark.parametrize(
    ("name", "more", "windows"),
    [
        ("gpt_oss", {}, [128, None] * 6),
        ("gemma2", {}, [4096, None] * 6),
        ("gemma3", {"sliding_window_pattern": 3}, [4096, 4096, None] * 4),
        ("gemma3", {}, ([4096] * 5 + [None]) * 2),
        ("cohere2", {}, [4096, 4096, 4096, None] * 3),
        ("exaone4", {"sliding_window_pattern": "LLG"}, [4096, 4096, None] * 4),
        ("exaone4", {"sliding_window": None}, [None] * 12),
        ("mistral", {"sliding_window": 0}, [None] * 12),
        ("llama4", {}, [8192, 8192, 8192, None] * 3),
        ("ministral", {}, [4096] * 12),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 512}, [512] * 12),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 6}, [4096, None] * 3 + [None] * 6),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 64}, [None, None, None, 64] * 3),
        ("mimo_v2_flash", {"sliding_window": 128}, [None, *[128] * 4, None, *[128] * 5, None]),
    ],
)
def test_windows_are_where_the_class_puts_them(llm, name, more, windows):
    assert [layer.attention.window for layer in llm(MINIMAL[name], **more).layers] == windows


def test_sparse_attention_has_its_indexer(llm):
    (layer, *_) = llm(MINIMAL["deepseek_v32"]).layers

    assert layer.attention.index == Index(heads=64, head_dim=128, top_k=2048)
    assert layer.ffn == Dense(inner=18432)


@pytest.mark.parametrize(
    "shared", [{"indexer_types": ["full", "shared"]}, {"index_topk_pattern": "FS"}, {"index_topk_freq": 2}]
)
def test_layers_that_share_an_indexer_are_refused(llm, shared):
    own = {"indexer_types": ["full"] * 12, "index_topk_pattern": "F" * 12, "index_topk_freq": 1}

    assert llm(MINIMAL["glm_moe_dsa"], **own).layers == llm(MINIMAL["glm_moe_dsa"]).layers
    with pytest.raises(CatalogError, match="lets layers share the choice of an indexer"):
        llm(MINIMAL["glm_moe_dsa"], **shared)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama4", {"interleave_moe_layer_step": 1, "intermediate_size_mlp": 16384}),
        ("nemotron_h", {"hybrid_override_pattern": "M-" * 6, "num_hidden_layers": 12, "moe_intermediate_size": 768}),
        ("granitemoehybrid", {"layer_types": ["attention"] * 12, "mamba_n_heads": 80, "mamba_d_state": 128}),
        ("deepseek_v2", {"use_mla": False, "kv_lora_rank": 512}),
    ],
)
def test_keys_of_parts_that_no_layer_has_are_not_refused(llm, name, changes):
    assert len(llm(MINIMAL[name], **changes).layers) in (6, 12)


def test_newer_files_of_step_say_by_layer_what_is_dense(llm):
    keys = {key: value for key, value in MINIMAL["step3p5"].items() if key != "moe_layers_enum"}
    found = llm(keys, mlp_layer_types=["dense"] * 4 + ["sparse"] * 2 + ["dense"] * 6)

    assert found.layers == llm(MINIMAL["step3p5"]).layers


def test_delta_nets_are_gated_and_so_is_full_attention(llm):
    first, *_, last = llm(MINIMAL["qwen3_next"]).layers

    assert first.attention == Linear(heads=32, head_dim=128, key_dim=128, groups=16, scalars=2, conv=4)
    assert last.attention == Gqa(heads=16, kv_heads=2, head_dim=256, gate=256)
    ungated = llm(MINIMAL["qwen3_next"], attn_output_gate=False)
    assert ungated.layers[-1].attention.gate == 0


def test_mixers_of_nemotron_wait_for_the_next_ffn(llm):
    keys = {**MINIMAL["nemotron_h"], "hybrid_override_pattern": "M-M*EM-", "num_hidden_layers": 7}
    first, second, _ = llm(keys).layers
    state = Linear(heads=128, head_dim=64, key_dim=128, groups=8, scalars=1, conv=4)

    assert (first.before, first.attention, first.ffn) == ((), state, Dense(inner=21504, gated=False))
    assert second.before == (state,)
    assert isinstance(second.attention, Gqa)
    assert second.ffn == Moe(experts=8, top_k=2, inner=7688, shared=1, shared_inner=7688, gated=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hybrid_override_pattern": "M--", "num_hidden_layers": 3}, "follows another or none"),
        ({"hybrid_override_pattern": "M-M", "num_hidden_layers": 3}, "ends without an FFN"),
        ({"hybrid_override_pattern": "M-Q", "num_hidden_layers": 3}, "a letter M, \\*, - or E"),
        ({"hybrid_override_pattern": "M-", "num_hidden_layers": 3}, "has 2 letters, and num_hidden_layers is 3"),
        ({"moe_latent_size": 1024}, "moe_latent_size: 1024 routes experts in a latent space"),
    ],
)
def test_a_pattern_that_the_parts_cannot_express_is_refused(llm, changes, message):
    with pytest.raises(CatalogError, match=message):
        llm(MINIMAL["nemotron_h"], **changes)


def test_hybrids_have_the_states_of_their_kind(llm):
    jamba = llm(MINIMAL["jamba"]).layers
    assert jamba[0].attention == Mamba(inner=8192, state_dim=16, rank=256, conv=4)
    assert [type(layer.attention) for layer in jamba].index(Gqa) == 4
    assert [isinstance(layer.ffn, Moe) for layer in jamba] == [False, True] * 6
    granite = llm(MINIMAL["granitemoehybrid"], layer_types=["mamba"] * 11 + ["attention"], num_local_experts=0)
    assert isinstance(granite.layers[0].attention, Linear)
    assert granite.layers[-1].ffn == Dense(inner=1024)
    (layer, *_) = llm(MINIMAL["falcon_h1"]).layers
    assert isinstance(layer.before[0], Linear)
    assert isinstance(layer.attention, Gqa)


def test_heads_of_windowed_layers_are_their_own(llm):
    other = {"attention_type": "sliding_attention", "num_attention_heads": 96, "num_attention_groups": 8}
    types = ["full_attention", "sliding_attention"] * 6 + ["full_attention"] * 3
    keys = {**MINIMAL["step3p5"], "attention_other_setting": other, "layer_types": types, "sliding_window": 512}
    whole, local, *_ = llm(keys).layers

    assert whole.attention == Gqa(heads=32, kv_heads=8, head_dim=128, gate=1)
    assert local.attention == Gqa(heads=96, kv_heads=8, head_dim=128, gate=1, window=512)


def test_heads_by_layer_are_those_of_the_windowed_layers_or_refused(llm):
    types = ["full_attention", "sliding_attention"] * 6
    keys = {**MINIMAL["step3p5"], "layer_types": types, "sliding_window": 512, "num_sliding_attention_heads": 96}
    heads = {f"{layer:02}": {"num_attention_heads": 96} for layer in range(1, 12, 2)}

    assert llm(keys, per_layer_config=heads).layers == llm(keys).layers
    with pytest.raises(CatalogError, match=r"per_layer_config: .* is not the heads of the windowed layers"):
        llm(keys, per_layer_config={"3": {"num_attention_heads": 8}})


def test_lists_of_hunyuan_are_one_number_or_refused(llm):
    lists = {
        "num_experts": 64,
        "moe_topk": [8] * 12,
        "moe_intermediate_size": [3072] * 12,
        "num_shared_expert": [1] * 12,
    }
    keys = {**MINIMAL["hunyuan_v1_moe"], "intermediate_size": 3072, **lists}

    assert llm(keys).layers[0].ffn == Moe(experts=64, top_k=8, inner=3072, shared=1, shared_inner=3072)
    with pytest.raises(CatalogError, match="moe_topk: must be one whole number from 1 to 64, the same for all layers"):
        llm(keys, moe_topk=[8, 9] * 6)
    with pytest.raises(CatalogError, match="use_cla: true shares caches between layers"):
        llm(keys, use_cla=True)


def test_two_spellings_that_differ_are_refused(llm):
    assert llm(MINIMAL["mixtral"], num_local_experts=8, num_experts=8).layers[0].ffn.experts == 8
    with pytest.raises(
        CatalogError, match="num_experts: 16 contradicts num_local_experts: 8; keep the one that is meant"
    ):
        llm(MINIMAL["mixtral"], num_local_experts=8, num_experts=16)


# Quantisation


def groups(*weights, inputs=None):
    """Return a scheme of compressed-tensors, with or without quantised activations."""
    parts = {
        f"group_{i}": {"weights": {"num_bits": bits, "type": kind}, "input_activations": inputs}
        for i, (bits, kind) in enumerate(weights)
    }
    return {"quant_method": "compressed-tensors", "config_groups": parts}


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "w8a16"),
        ({"quant_method": "awq", "w_bit": 4}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8"),
        ({"group_size": 64, "bits": 4}, "int4"),
        (groups((4, "int")), "int4"),
        (groups((4, "float")), "fp4"),
        (groups((8, "float")), "fp8"),
        (groups((8, "int")), "w8a16"),
        (groups((8, "int"), inputs={"num_bits": 8, "type": "int"}), "int8"),
        (None, None),
        ({}, None),
    ],
)
def test_a_scheme_gives_the_dtype_of_the_checkpoint(llm, scheme, dtype):
    assert llm(MINIMAL["llama"], quantization_config=scheme).weights == dtype
    nested = {"model_type": "internvl_chat", "llm_config": MINIMAL["llama"], "compression_config": scheme}
    assert llm(nested).weights == dtype


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"quant_method": "gptq", "bits": 3}, r"quantization_config\.bits: 3 is not known"),
        ({"quant_method": "awq", "bits": True}, r"quantization_config\.bits: true is not known"),
        ({"group_size": 64, "bits": 6}, r"quantization_config\.bits: 6 is not known"),
        ({"quant_method": "gguf"}, r'quantization_config\.quant_method: "gguf" is not known \(known: fp8'),
        ({"quant_method": "exl3", "bits": 4}, r'quant_method: "exl3" is not known'),
        ({"quant_algo": "W2A8"}, r'quant_algo: "W2A8" is not known'),
        (groups((6, "float")), r"quantization_config\.config_groups\.num_bits: 6 is not known"),
        ({"bits": 4}, "quant_method: null is not known"),
        ([1], r"quantization_config: must be an object with quant_method"),
    ],
)
def test_an_unknown_scheme_is_refused_by_name_and_value(llm, scheme, message):
    with pytest.raises(CatalogError, match=message):
        llm(MINIMAL["llama"], quantization_config=scheme)


def test_what_a_checkpoint_leaves_wider_is_noted(llm):
    kept = ["lm_head", "model.layers.*.self_attn", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|down)_proj.*"]
    scheme = {**groups((4, "int")), "ignore": kept}
    gates = ["model.layers.*.mlp.gate", "model.embed_tokens", "lm_head", "visual.blocks.0.attn.qkv"]

    assert "the checkpoint leaves attention projections and shared experts and dense FFN wider than int4" in (
        llm(MINIMAL["kimi_k2"], quantization_config=scheme).notes
    )
    found = llm(MINIMAL["kimi_k2"], quantization_config={**scheme, "ignore": gates}, max_position_embeddings=4096)
    assert found.notes == ()


def test_the_scheme_may_lie_beside_the_config(llm, tmp_path):
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    found = llm(MINIMAL["deepseek_v3"])

    assert found.weights == "fp4"
    assert "the checkpoint has scales for a KV cache of FP8" in found.notes


def test_a_scheme_of_the_cache_alone_leaves_the_weights_as_they_are(llm):
    scheme = {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"}
    found = llm(MINIMAL["llama"], quantization_config=scheme, **WHOLE)

    assert (found.weights, found.notes) == (None, ("the checkpoint has scales for a KV cache of FP8",))


def test_mixed_schemes_count_as_the_narrowest_and_say_so(llm):
    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4"}}
    scheme = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    found = llm(MINIMAL["llama"], quantization_config=scheme, **WHOLE)

    assert (found.weights, found.notes) == ("fp4", ("parts of the checkpoint are fp8, not fp4",))


# The cases of the issue

PARAMETERS = {
    "gemma3_27b": 27.016e9,
    "internvl_llm_config": 7.242e9,
    "llama70b": 70.554e9,
    "llama8b": 8.030e9,
    "mistral_7b_v01": 7.242e9,
    "mixtral_8x7b": 46.703e9,
    "qwen2_7b": 7.6156e9,
}
"""Parameters of the language part, by the cards and reports; InternVL's has the shape of Mistral 7B."""

REFUSED = {
    "dbrx": "attn_config: missing; a dbrx config needs it",
    "gpt_oss_120b_as_mixtral": "layer_types: .* is not understood for mixtral",
    "mistral_v01_as_llama": "sliding_window: 4096 is not understood for llama",
    "nemotron_h": "hybrid_override_pattern: missing",
    "qwen3_next_as_qwen3_moe": "full_attention_interval: 4 is not understood for qwen3_moe",
}
DEFAULTS = {
    "ernie4_5_moe": "moe_num_experts 64",
    "glm4_moe": "n_routed_experts 128",
    "gpt_oss": "num_local_experts 128",
    "olmoe": "num_experts 64",
    "phimoe": "num_local_experts 16",
    "qwen2_moe": "num_experts 60",
    "qwen3_next": "num_experts 512",
}


def test_poor_files_give_the_right_value_or_name_the_cause(shared):
    for path in sorted((shared / "cases/models").glob("*.json")):
        if path.stem in REFUSED:
            with pytest.raises(CatalogError, match=REFUSED[path.stem]):
                huggingface.read(path)
            continue
        found = huggingface.read(path)
        if path.stem in PARAMETERS:
            assert parameters.total(found) == pytest.approx(PARAMETERS[path.stem], rel=1e-3)
        if path.stem in DEFAULTS:
            assert any(DEFAULTS[path.stem] in note for note in found.notes)
        if path.stem == "qwen3_sliding":
            assert kv_bytes(found, 32768, BF16) == pytest.approx(0.042e9, rel=0.01)
