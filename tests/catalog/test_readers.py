"""What published and hand-written files hold beside the plain case: spellings, levels, slips, encodings, schemes."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afdsim.catalog import huggingface, ledger, parameters
from afdsim.catalog.config import meant, same
from afdsim.catalog.families import FAMILIES
from afdsim.catalog.llm import Gqa
from afdsim.errors import CatalogError
from tests.catalog.test_huggingface import MINIMAL, WHOLE

LLAMA = {**MINIMAL["llama"], **WHOLE}
MISTRAL = {**MINIMAL["mistral"], **WHOLE, "max_position_embeddings": 32768}


@pytest.fixture
def read(tmp_path):
    """Read keys, or bytes, as a config.json."""

    def reader(keys, **more):
        path = tmp_path / "config.json"
        path.write_bytes(keys if isinstance(keys, bytes) else json.dumps({**keys, **more}).encode())
        return huggingface.read(path)

    return reader


def windows(llm):
    return [layer.attention.window for layer in llm.layers]


# Two spellings of one thing


@pytest.mark.parametrize(
    ("name", "key", "other"),
    [
        ("gemma2", "sliding_window", "sliding_window_size"),
        ("mixtral", "num_local_experts", "num_experts"),
        ("mixtral", "num_experts_per_tok", "moe_topk"),
        ("deepseek_v3", "n_shared_experts", "moe_num_shared_experts"),
        ("llama", "num_hidden_layers", "num_layers"),
        ("llama", "num_key_value_heads", "num_kv_heads"),
        ("gpt_oss", "num_experts_per_tok", "experts_per_token"),
    ],
)
def test_spellings_that_agree_are_read_and_those_that_differ_contradict(read, name, key, other):
    plain = read(MINIMAL[name], **{key: 4})

    assert read(MINIMAL[name], **{key: 4, other: 4}).layers == plain.layers
    with pytest.raises(CatalogError, match=f": {other}: 2 contradicts {key}: 4; keep the one that is meant"):
        read(MINIMAL[name], **{key: 4, other: 2})


def test_a_spelling_of_another_family_is_to_be_renamed(read):
    keys = {key: value for key, value in MINIMAL["deepseek_v3"].items() if key != "n_routed_experts"}
    with pytest.raises(
        CatalogError, match=r"moe_num_experts: 16 is not .* deepseek_v3 calls it n_routed_experts: rename"
    ):
        read(keys, moe_num_experts=16)


@given(st.sampled_from(sorted(FAMILIES)), st.sampled_from(sorted(ledger.CHANGES_LAYERS)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_refusal_never_advises_the_type_that_the_file_has(read, name, key):
    try:
        read(MINIMAL[name], **{key: 7})
    except CatalogError as error:
        advised = str(error).partition("the model_type that has it (")[2].partition(")")[0]

        assert name not in advised.split(", ")


@pytest.mark.parametrize("more", [{}, {"hidden_act": "silu"}])
def test_a_window_in_a_llama_points_to_mistral_first(read, more):
    with pytest.raises(CatalogError, match=r"write the model_type that has it \(mistral, "):
        read(LLAMA, sliding_window=4096, **more)


def test_a_pattern_of_nemotron_may_be_written_in_letters_and_words_that_agree(read):
    keys = {**MINIMAL["nemotron_h"], "hybrid_override_pattern": "M-*-", "num_hidden_layers": 4}
    words = ["mamba", "mlp", "attention", "mlp"]
    found = read(keys, layers_block_type=words)

    assert len(found.layers) == 2
    assert "4 blocks are 2 layers: mixers are paired with the FFN that follows" in found.notes
    with pytest.raises(CatalogError, match=r"layers_block_type: .* contradicts hybrid_override_pattern"):
        read(keys, layers_block_type=[*words[:2], "mamba", "mlp"])


# Windows, heads


def test_a_list_of_kinds_repeats_the_window_of_all_layers_or_is_refused(read):
    assert windows(read(MISTRAL, sliding_window=4096, layer_types=["sliding_attention"] * 12)) == [4096] * 12
    assert windows(read(MISTRAL, sliding_window=None, layer_types=["full_attention"] * 12)) == [None] * 12
    with pytest.raises(
        CatalogError, match=r"layer_types: .* stands beside sliding_window: 4096, which transformers gives"
    ):
        read(MISTRAL, sliding_window=4096, layer_types=["full_attention"] * 12)
    with pytest.raises(CatalogError, match=r"layer_types: .* is not understood for mistral"):
        read(MISTRAL, sliding_window=4096, layer_types=["full_attention", "sliding_attention"] * 6)


def test_a_switched_off_window_leaves_a_list_of_full_layers_quiet(read):
    keys = {**MINIMAL["qwen3_moe"], "sliding_window": 4096}

    assert windows(read(keys, layer_types=["full_attention"] * 12)) == [None] * 12
    with pytest.raises(CatalogError, match="stands beside sliding_window"):
        read(keys, use_sliding_window=True, layer_types=["full_attention"] * 12)


@pytest.mark.parametrize(("window", "seen"), [(4095, 4095), (4096, None), (262144, None)])
def test_a_window_that_no_sequence_outgrows_is_none(read, window, seen):
    keys = {**MINIMAL["phi3"], **WHOLE, "sliding_window": window}

    assert windows(read(keys)) == [seen] * 12


def test_chunks_count_as_windows_and_a_note_says_so(read):
    assert any(
        note.startswith("attention in chunks of 8,192 counts as a window") for note in read(MINIMAL["llama4"]).notes
    )


@pytest.mark.parametrize(
    ("more", "kv_heads"),
    [({"multi_query_attention": True}, 2), ({"multi_query_attention": False}, 32), ({}, 32)],
)
def test_chatglm_has_groups_only_where_it_says_so(read, more, kv_heads):
    assert read(MINIMAL["chatglm"], **more).layers[0].attention.kv_heads == kv_heads


@pytest.mark.parametrize(
    ("kv_heads", "words"),
    [(32, "MHA 32 heads x 128"), (8, "GQA 32 heads, 8 KV x 128"), (1, "MQA 32 heads, 1 KV x 128")],
)
def test_attention_is_called_what_it_is(kv_heads, words):
    assert parameters.mixing(Gqa(heads=32, kv_heads=kv_heads, head_dim=128)) == words


@pytest.mark.parametrize(
    ("name", "key"),
    [("qwen3_moe", "mlp_only_layers"), ("step3_text", "moe_layers_enum"), ("bamba", "attn_layer_indices")],
)
def test_layers_beyond_the_last_are_refused(read, name, key):
    with pytest.raises(CatalogError, match=rf"{key}: \[0, 1, 99\] holds 99, and the layers are 0 to 11"):
        read(MINIMAL[name], **{key: [0, 1, 99]})


# Levels


def test_every_level_between_the_outermost_and_the_innermost_is_read(read):
    middle = {
        "text_config": MINIMAL["qwen3_moe"],
        "quantization_config": {"quant_method": "fp8"},
        "torch_dtype": "float32",
    }
    keys = {"model_type": "qwen3_omni_moe", "thinker_config": {**middle, "tie_word_embeddings": True}}
    found = read(keys)

    assert (found.weights, found.tied) == ("fp8", True)
    del keys["thinker_config"]["quantization_config"]
    assert read(keys).unquantised == "fp32"


def test_a_key_outside_the_language_part_is_repeated_there_or_refused(read):
    inner = {**MISTRAL, "sliding_window": 4096}
    keys = {"model_type": "mistral3", "text_config": inner, "vision_config": {"sliding_window": 7}}

    assert windows(read(keys, sliding_window=4096, num_layers=12, hidden_act="relu")) == [4096] * 12
    assert windows(read(keys, sliding_window=2048, use_sliding_window=False)) == [4096] * 12
    with pytest.raises(CatalogError, match="sliding_window: 2048 stands outside the language part, which says 4096"):
        read(keys, sliding_window=2048)
    with pytest.raises(CatalogError, match="num_experts: 8 stands outside the language part, which does not have it"):
        read(keys, num_experts=8)


# Lengths


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, 131072),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}, 32768),
        ({"type": "linear", "factor": 2}, 65536),
        ({"type": "dynamic", "factor": 2.0}, 65536),
        ({"type": "yarn"}, 32768),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 32768),
        (None, 32768),
    ],
)
def test_scaled_positions_reach_as_far_as_engines_take_them(read, rope, positions):
    assert read(LLAMA, max_position_embeddings=32768, rope_scaling=rope).positions == positions


# Slips and defaults


def test_a_mistyped_key_is_named_with_what_it_may_mean_and_what_was_taken(read):
    keys = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "max_position_embeddings")}
    taken, positions, odd = read(keys, num_key_value_head=8, max_position_embedding=8192).notes

    assert "num_key_value_heads 32 (as many as heads)" in taken
    assert positions.startswith("max_position_embeddings: not in the file")
    assert odd == (
        "not understood: num_key_value_head (did you mean num_key_value_heads?), "
        "max_position_embedding (did you mean max_position_embeddings?)"
    )
    with pytest.raises(
        CatalogError, match=r"hidden_size: missing; a llama config needs it \(the file has hiden_size\)"
    ):
        read({key: value for key, value in LLAMA.items() if key != "hidden_size"}, hiden_size=4096)


def test_a_note_says_which_layers_have_windows_where_the_file_does_not(read):
    assert "layer_types with a window in 6 of 12" in read(MINIMAL["gemma2"]).notes[0]
    assert "max_position_embeddings 131072" in read({"model_type": "x", "text_config": MINIMAL["gemma3"]}).notes[0]


@pytest.mark.parametrize(
    "key", ["ffn_dim_multiplier", "first_init_layers", "num_norm_layers", "nope_layer_interval", "attention_type"]
)
def test_words_of_layers_are_not_called_harmless(read, key):
    assert read(LLAMA, **{key: 3}).notes == (f"not understood: {key}",)


@given(st.sampled_from(sorted(FAMILIES)), st.integers(min_value=0, max_value=30))
def test_a_slip_of_a_letter_is_recognised_and_another_version_is_not(name, at):
    letters = [place for place, letter in enumerate(name) if letter.isalpha()]
    doubled = letters[at % len(letters)]
    slip = name[: doubled + 1] + name[doubled:]

    assert meant(slip, [name]) == (name if 2 * len(name) / (2 * len(name) + 1) >= 0.85 else None)
    assert meant(f"{name}9", [name]) is None


def test_values_agree_in_older_and_newer_words():
    assert same(["mamba", "attention"], ["linear_attention", "full_attention"])
    assert not same(["mamba"], ["mamba", "mamba"])


# Files that are something else


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_config_is_read_in_every_encoding_of_json(read, encoding):
    assert read(json.dumps(LLAMA).encode(encoding)).layers == read(LLAMA).layers


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "config.json: is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is a web page or XML, not JSON"),
        ("\n<html>".encode("utf-16"), "is a web page or XML, not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a placeholder of Git LFS"),
        (b"GGUF\x03\x00\x00\x00\xff\xfe", "is a GGUF file of llama.cpp"),
        (b"PK\x03\x04\xff\xfe", "is a zip archive"),
        (b'{"a": "\xe9"}', r"is no JSON text in UTF-8 \(invalid continuation byte\)"),
        (b'{"peft_type": "LORA", "base_model_name_or_path": "a/b"}', r'is an adapter, .* of its base \("a/b"\)'),
        (b'{"_class_name": "UNet2DConditionModel"}', "is a part of a diffusers pipeline"),
        (b'{"model_type": "bert"}', 'model_type: "bert" is an encoder'),
        (b'{"model_type": "t5"}', 'model_type: "t5" is an encoder with a decoder'),
        (b'{"model_type": "siglip"}', 'model_type: "siglip" sees or hears'),
    ],
)
def test_what_is_no_config_of_a_decoder_is_named(read, data, message):
    with pytest.raises(CatalogError, match=message):
        read(data)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "model_type: missing; known are "),
        ({"model_type": None}, "model_type: missing; known are "),
        (
            {"architectures": ["LlamaForCausalLM"]},
            'missing; architectures says LlamaForCausalLM: write "model_type": "llama"',
        ),
        ({"architectures": ["Qwen2MoeForCausalLM"]}, '"model_type": "qwen2_moe"'),
        ({"model_type": "qwen3-moe"}, "did you mean 'qwen3_moe'"),
        ({"model_type": "deepseek_v4"}, "nearest in name, with other layers: deepseek_v3, "),
    ],
)
def test_a_missing_or_unknown_type_gets_a_short_answer(read, keys, message):
    with pytest.raises(CatalogError, match=message) as caught:
        read({key: value for key, value in LLAMA.items() if key != "model_type"}, **keys)

    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("word", ["falcon", "gpt2", "gemma4", "llama9", "deepseek_v4"])
def test_another_architecture_is_no_slip(read, word):
    with pytest.raises(CatalogError) as caught:
        read(LLAMA, model_type=word)

    assert "did you mean" not in str(caught.value)


# Forms of quantisation


def hqq(**params):
    return {"quant_method": "hqq", "quant_config": {"weight_quant_params": params}, "skip_modules": ["lm_head"]}


def torchao(name, **data):
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": name, "_version": 2, "_data": data}}}


@pytest.mark.parametrize(
    ("scheme", "weights", "bits"),
    [
        (hqq(nbits=4, group_size=64), "int4", 4.25),
        (hqq(nbits=8, group_size=64), "w8a16", 8.0),
        ({"quant_method": "hqq", "nbits": 4}, "int4", 4.125),
        (torchao("Int4WeightOnlyConfig", group_size=64), "int4", 4.25),
        (torchao("Float8DynamicActivationFloat8WeightConfig"), "fp8", 8.0),
        (torchao("Int8DynamicActivationInt8WeightConfig"), "int8", 8.0),
        (torchao("NVFP4WeightOnlyConfig"), "fp4", 4.5),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "w8a16", 8.0),
        ({"quant_method": "quanto", "weights": "int8", "activations": None}, "w8a16", 8.0),
        ({"quant_method": "quanto", "weights": "float8", "activations": "float8"}, "fp8", 8.0),
        ({"quant_method": "metal", "bits": 4, "group_size": 64}, "int4", 4.25),
        ({"producer": {}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}, "fp4", 4.5),
    ],
)
def test_nested_forms_of_a_scheme_are_read(read, scheme, weights, bits):
    found = read(LLAMA, quantization_config=scheme)

    assert (found.weights, found.bits) == (weights, bits)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (hqq(nbits=3), r"quantization_config\.nbits: 3 is not known"),
        (hqq(), r"quantization_config\.quant_config: .* is not known"),
        (torchao("FqnToConfig"), r'quant_type: "FqnToConfig" is not known'),
        ({"quant_method": "torchao", "quant_type": [1]}, r"quant_type: \[1\] is not known"),
        ({"quant_method": "quanto", "weights": ["int2"]}, r'weights: \["int2"\] is not known'),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int2"}}},
            r'global_quant_config\.weight\.dtype: "int2" is not known',
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": False}, r"load_in_4bit: false is not known"),
        (
            {"quantization": {"quant_algo": "W2A8"}},
            r'quantization_config\.quantization\.quant_algo: "W2A8" is not known',
        ),
    ],
)
def test_forms_that_are_not_known_are_refused_with_their_value(read, scheme, message):
    with pytest.raises(CatalogError, match=message):
        read(LLAMA, quantization_config=scheme)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dbrx", {"attn_config": {"kv_n_heads": 7}}, r"kv_n_heads: must be a divisor of 32 attention heads \(got 7\)"),
        (
            "nemotron_h",
            {"mamba_ssm_cache_dtype": "int4"},
            r"must be one of float32, bfloat16, float16 \(got \"int4\"\)",
        ),
        (
            "gemma3",
            {"sliding_window": None, "layer_types": ["sliding_attention"] * 12},
            "sliding_window: must be a whole number, as layer_types holds sliding_attention",
        ),
        ("falcon_h1", {"mamba_d_ssm": 1024, "mamba_n_heads": 8, "mamba_d_head": 100}, "such that 8 heads share 1024"),
        ("qwen3_moe", {"use_sliding_window": 2}, r"use_sliding_window: must be true or false \(got 2\)"),
        ("minimax", {"layer_types": ["full_attention"] * 3}, "for each of the 12 layers"),
    ],
)
def test_a_value_that_does_not_go_with_the_others_is_refused_with_its_key(read, name, changes, message):
    with pytest.raises(CatalogError, match=message):
        read(MINIMAL[name], **changes)


def test_static_scales_of_autofp8_are_those_of_an_fp8_cache(read):
    scheme = {"quant_method": "fp8", "activation_scheme": "static", "kv_cache_scheme": "static"}

    assert read(LLAMA, quantization_config=scheme).notes == ("the checkpoint has static scales for a KV cache of FP8",)


# What a list says with a 0, and windows that are not there


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mixtral", "attn_type_list", [0, 1]),
        ("minimax_m2", "attn_type_list", [0, 0]),
        ("qwen3_moe", "moe_layer_freq", [0, 1]),
        ("mixtral", "mlp_only_layers", [0]),
        ("mixtral", "full_attn_idxs", [0]),
        ("qwen3_moe", "moe_layer_end_index", 0),
        ("llama", "tie_embeddings", True),
        ("llama", "full_attention_layers", [3]),
        ("llama", "use_nsa", True),
    ],
)
def test_zero_in_a_list_is_a_layer_or_a_kind(read, name, key, value):
    with pytest.raises(CatalogError, match=f"{key}: .* is not understood for {name}"):
        read({**MINIMAL[name], **WHOLE, key: value})


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("switched", [{}, {"use_sliding_window": False, "sliding_window": 2048}])
def test_windowed_layers_without_a_window_are_refused(read, name, switched):
    keys = {**MINIMAL[name], **WHOLE, "layer_types": ["sliding_attention"] * MINIMAL[name]["num_hidden_layers"]}

    with pytest.raises(CatalogError, match=r"layer_types: .* calls layers windowed, but no window is in force"):
        read({**keys, **switched})


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}}, 4.25),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.127),
        ({"quant_method": "awq", "bits": 4, "q_group_size": 64, "zero_point": True}, 4 + 20 / 64),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, 4.5),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"quant_algo": "NVFP4", "group_size": 16}, 4.5),
        ({"quant_method": "fp8"}, 8.0),
    ],
)
def test_weights_count_with_their_scales(read, scheme, bits):
    assert read({**LLAMA, "quantization_config": scheme}).bits == bits


def test_a_group_aimed_at_attention_is_the_format_of_projections(read):
    attention = {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}
    experts = {"targets": ["re:.*experts.*"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}}
    groups = {"group_0": attention, "group_1": experts}
    found = read({**LLAMA, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}})

    assert (found.weights, found.projections) == ("fp4", "fp8")


@pytest.mark.parametrize(("method", "key"), [("modelopt", "quant_algo"), ("compressed-tensors", "config_groups")])
def test_a_scheme_without_its_key_says_which(read, method, key):
    with pytest.raises(CatalogError, match=f"quantization_config.{key}: missing"):
        read({**LLAMA, "quantization_config": {"quant_method": method}})
