"""Keys of a `config.json` that change layers, memory or work: none of them is passed over in silence.

A reader asks for the keys that it understands. Any other key of `CHANGES_LAYERS` is refused by name and value unless
its value changes nothing; keys that are neither there nor known to be harmless are listed in a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from afdsim.catalog import quantisation
from afdsim.catalog.config import Config, meant, same, shown
from afdsim.errors import CatalogError

GATED = ("silu", "swish", "swiglu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "geglu", "quick_gelu")
"""Activations of gated FFNs."""

ONE = (1,)
NOTHING: tuple[Any, ...] = ()
FULL = ("full_attention", "attention")
WELL_KNOWN = ("mistral", "mixtral", "qwen3", "qwen3_moe", "gpt_oss", "gemma3", "deepseek_v3", "glm4_moe", "qwen3_next")
"""Model types that a message names before others."""

CHANGES_LAYERS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    # How many layers there are, and what each is.
    dict.fromkeys(("num_layers", "n_layers", "n_layer"), NOTHING)
    | dict.fromkeys(("layer_types", "layers_block_type", "attention_types"), FULL)
    | dict.fromkeys(("mlp_layer_types", "indexer_types", "index_topk_pattern"), NOTHING)
    | {"attn_type_list": ONE, "hybrid_override_pattern": NOTHING, "hybrid_layer_pattern": NOTHING}
    | dict.fromkeys(("block_configs", "per_layer_config", "layer_group_size", "full_attn_idxs"), NOTHING)
    | dict.fromkeys(("attn_layer_period", "attn_layer_indices", "full_attention_interval"), NOTHING)
    | dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "cross_attention_layers"), NOTHING)
    # Windows and other reasons to see less than everything.
    | dict.fromkeys(("sliding_window", "sliding_window_size", "use_sliding_window", "max_window_layers"), NOTHING)
    | dict.fromkeys(("sliding_window_pattern", "_sliding_window_pattern", "interleaved_sliding_window"), NOTHING)
    | dict.fromkeys(("sliding_window_layers", "layer_switch", "global_attn_every_n_layers"), NOTHING)
    | dict.fromkeys(("attention_chunk_size", "attention_window_size", "use_bidirectional_attention"), NOTHING)
    | dict.fromkeys(("index_topk", "index_n_heads", "index_head_dim", "index_topk_blocks"), NOTHING)
    | {"index_topk_freq": ONE}
    | dict.fromkeys(("sparse_attention_config", "sparse_config", "moba_config", "nsa_config"), NOTHING)
    | dict.fromkeys(("window_size", "attention_window", "local_attention_window", "sliding_windows"), NOTHING)
    | dict.fromkeys(("attention_layers", "full_attention_layers", "linear_layers", "use_nsa", "mla_config"), NOTHING)
    # Heads that differ by layer, gates, shared caches.
    | dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim", "swa_v_head_dim"), NOTHING)
    | dict.fromkeys(("attention_other_setting", "num_sliding_attention_heads", "num_attention_groups"), NOTHING)
    | dict.fromkeys(("num_attention_heads_per_layer", "num_key_value_heads_per_layer"), NOTHING)
    | dict.fromkeys(("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"), NOTHING)
    | dict.fromkeys(("use_head_wise_attn_gate", "attn_output_gate", "gating", "use_attn_gate"), NOTHING)
    | dict.fromkeys(("num_kv_shared_layers", "use_cla", "kv_sharing_layers"), NOTHING)
    | dict.fromkeys(("multi_query_attention", "multi_query", "multi_query_group_num"), NOTHING)
    | dict.fromkeys(("num_kv_heads", "n_kv_heads", "n_head_kv"), NOTHING)
    | dict.fromkeys(("altup_num_inputs", "laurel_rank", "hidden_size_per_layer_input"), NOTHING)
    # Latent and factorised attention.
    | dict.fromkeys(("use_mla", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), NOTHING)
    | dict.fromkeys(("v_head_dim", "attention_kv_lora_dim", "attention_q_lora_dim", "share_q_dim"), NOTHING)
    # Recurrent layers.
    | dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"), NOTHING)
    | dict.fromkeys(("linear_value_head_dim", "linear_conv_kernel_dim", "linear_attn_config"), NOTHING)
    | dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_d_head", "mamba_head_dim", "mamba_d_ssm"), NOTHING)
    | dict.fromkeys(("mamba_d_state", "mamba_n_groups", "mamba_d_conv", "mamba_expand", "mamba_dt_rank"), NOTHING)
    | dict.fromkeys(("ssm_state_size", "ssm_cfg", "conv_L_cache", "short_conv_kernel_size"), NOTHING)
    # Routed experts.
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), ONE)
    | {"num_routed_experts": ONE}
    | dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "experts_per_token"), ONE)
    | dict.fromkeys(("moe_k", "moe_topk", "moe_top_k"), ONE)
    | dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp"), NOTHING)
    | dict.fromkeys(("moe_latent_size", "num_zero_experts", "zero_expert_num"), NOTHING)
    # Shared experts, in all spellings.
    | dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_shared_expert"), NOTHING)
    | dict.fromkeys(("moe_num_shared_experts", "shared_expert_intermediate_size"), NOTHING)
    | dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), NOTHING)
    | dict.fromkeys(("share_expert_dim", "share_expert_dims"), NOTHING)
    | dict.fromkeys(("n_shared_expert", "shared_expert_num", "shared_experts", "moe_shared_intermediate_size"), NOTHING)
    | dict.fromkeys(("num_moe_experts", "n_experts"), ONE)
    | dict.fromkeys(("moe", "moe_config", "ffn_config", "attn_config"), NOTHING)
    # One matrix for embedding and LM head, in other words than tie_word_embeddings.
    | dict.fromkeys(("tie_embeddings", "tie_embedding"), NOTHING)
    # Which layers are dense.
    | dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_num_skipped"), NOTHING)
    | dict.fromkeys(("mlp_only_layers", "moe_layers_enum", "moe_layers", "moe_layer_start_index"), NOTHING)
    | dict.fromkeys(("moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step"), ONE)
    | {"moe_layer_interval": ONE, "moe_layer_end_index": (-1,), "expert_layer_period": ONE}
    | dict.fromkeys(("moe_every_n_layer", "moe_every_n_layers"), ONE)
    # FFNs without a gate.
    | dict.fromkeys(("hidden_act", "hidden_activation", "mlp_hidden_act", "activation_function"), GATED)
)
"""Keys of all families, known here or not, and the values beside null, false, 0 and nothing that change nothing.

A list whose entries all change nothing changes nothing.
"""

ZERO_SAYS = ("moe_layer_end_index",)
"""Keys of which 0 is an answer: the first layer."""

ALIASES: tuple[frozenset[str], ...] = tuple(
    frozenset(keys.split("|"))
    for keys in (
        "num_hidden_layers|num_layers|n_layers|n_layer",
        "layer_types|layers_block_type",
        "sliding_window|sliding_window_size",
        "sliding_window_pattern|_sliding_window_pattern",
        "num_key_value_heads|num_attention_groups|multi_query_group_num|num_kv_heads|n_kv_heads|n_head_kv",
        "num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts",
        "num_experts_per_tok|num_experts_per_token|experts_per_token|moe_k|moe_topk|moe_top_k",
        "moe_intermediate_size|expert_ffn_hidden_size",
        "n_shared_experts|num_shared_experts|num_shared_expert|moe_num_shared_experts",
        "shared_expert_intermediate_size|moe_shared_expert_intermediate_size|share_expert_dim|share_expert_dims",
        "first_k_dense_replace|num_dense_layers",
    )
)
"""Keys by which families call one thing; a file may hold several that agree."""

HARMLESS = re.compile(
    # The file itself, generation, training.
    r"architectures|auto_map|model_type|_name_or_path|_?transformers.*|torch_dtype|dtype|.*_token_ids?|.*token_index"
    r"|.*token_id.*|.*dropout.*|.*pdrop|.*drop_rate|drop_path.*|use_cache|pretraining_tp|.*gradient.*|id2label|label2id"
    r"|initializer_(?:range|factor)|.*_initializer_range|.*init_std|.*init_method(?:_std)?|init_device|problem_type"
    r"|return_dict.*|output_.*|task_specific_params|finetuning_task|num_return_sequences|.*_penalty|top_k|top_p"
    r"|do_sample|bad_words_ids|.*suppress_tokens|early_stopping|.*no_repeat_ngram_size|max_length|min_length"
    r"|max_new_tokens|num_beam.*|remove_invalid_values|tf_legacy_loss|tokenizer_.*|typical_p|unsloth.*|pruned_heads"
    r"|prefix|is_decoder|chunk_size_feed_forward|use_bfloat16|torchscript|cross_attention_hidden_size"
    r"|decoder_start_token_id|attn_implementation|_attn_implementation.*|.*flash_attn.*|cache_implementation"
    # Norms, positions, scales and biases: vectors, or nothing.
    r"|(?!.*(?:layers|num_|every|freq|interval|size|dim|idx)).*norm.*|.*eps|.*epsilon"
    r"|rope_.*|.*_rope_(?:theta|base.*|scaling|parameters|interleave)|.*rope|no_rope_layers|no_rope_layer_interval"
    r"|partial_rotary_factor.*|rotary_.*|.*_rotary_(?:dim|emb|pct|percent|base|factor)|mrope.*|position_embedding.*"
    r"|original_max_position_embeddings|initial_context_length|.*_bias|bias|clip_qkv|attn_scale|floor_scale|mup.*"
    r"|.*scaling.*|(?:attention(?:_in|_out)?|embedding|key|lm_head|residual|ssm_in|ssm_out|logits?)_multiplier"
    r"|(?:mlp|ssm)_multipliers|.*softcap.*|.*logit.*|query_pre_attn_scalar|attention_value_scale|.*temperature.*"
    r"|.*_alpha_factor|.*_beta_factor|residual_in_fp32|rescale.*|swiglu_(?:alpha|limit).*|(?:add_)?.*sink_bias"
    # Routing: which experts, not how many.
    r"|router_.*|.*aux.*|.*jitter.*|scoring_func|score_func.*|.*routed_scal.*|moe_router.*|.*topk_method|n_group"
    r"|topk_group|num_expert_group|ep_size|use_moe|moe_.*loss.*|moe_shared_expert_overlap|use_mixed_mlp_moe"
    r"|shared_moe_mode|z_loss_coefficient|enable_moe_fp32_combine|route_scale"
    # What is read for all models, or only where another key asks for it.
    r"|head_dim|intermediate_size|num_key_value_heads|num_attention_heads|hidden_size|num_hidden_layers|.*vocab_size"
    r"|tie_.*|max_position_embeddings|model_max_length|seq_length|max_seq_len(?:gth)?|max_sequence_length|n_positions"
    r"|quantization_config|compression_config|qk_head_dim|attention_head_dim|cla_share_factor|use_gated_activation"
    r"|mamba_chunk_size|mamba_ssm_.*|mamba_conv_bias|mamba_dt.*|mamba_hidden_act|mamba_use_mlp|time_step.*|chunk_size"
    r"|expand|n_groups|conv_kernel|use_mambapy|use_associative_scan|.*kernels|block_size"
    r"|attn_layer_offset|expert_layer_offset|order_of_interleaved_layers|use_parallel_.*|parallel_attn"
    r"|use_embedding_sharing"
    # What stands beside the stack.
    r"|mtp.*|.*_mtp.*|num_nextn_predict_layers|index_share_for_mtp.*|vision_.*|audio_.*|image_.*|video_.*"
)
"""Whole names of keys that change neither layers nor memory nor work, or that are read for all models."""

MTP = ("num_nextn_predict_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_hidden_layers", "mtp_num_layers")
"""Layers of multi-token prediction, which stand beside the stack."""


def quiet(key: str, value: Any) -> bool:
    """Return whether a value of a key of `CHANGES_LAYERS` changes nothing.

    >>> quiet("sliding_window", None), quiet("layer_types", ["full_attention"]), quiet("moe_layer_freq", 2)
    (True, True, False)
    """
    if isinstance(value, list):  # 0 in a list is the number of a layer, or a kind
        return all(item in (None, "") or item in CHANGES_LAYERS[key] for item in value)
    if value == 0 and not isinstance(value, bool):
        return key not in ZERO_SAYS
    return value in (None, False, "", {}) or value in CHANGES_LAYERS[key]


def neutral(key: str, value: Any) -> bool:
    """Return whether `key` is in the table with a value that changes nothing."""
    return key in CHANGES_LAYERS and quiet(key, value)


def settle(config: Config, readers: Callable[[], Mapping[str, Collection[str]]], *, windows: bool) -> None:
    """Refuse the keys that change layers and that no reader asked for; note those that nobody knows.

    `readers` returns the keys that the reader of every model type asks for; only a refusal needs them. With `windows`
    a list of kinds that nobody read says something even if it calls all layers full.
    """
    loud = [key for key in CHANGES_LAYERS if key in config.keys and not _settled(config, key, windows=windows)]
    for key in loud:
        if (twin := _twin(config, key)) is not None:
            raise _contradiction(config, key, twin)
    if "layer_types" in loud and quiet("layer_types", config.keys["layer_types"]):
        raise _disputed(config)
    if loud:
        raise _not_understood(config, loud, readers())
    config.notes.extend(_unknown(config))


def _settled(config: Config, key: str, *, windows: bool) -> bool:
    """Return whether a key was read, repeats one that was, or changes nothing."""
    value, twin = config.keys[key], _twin(config, key)
    if key in config.asked or _switched_off(key, config.keys) or (twin and same(value, config.keys[twin])):
        return True
    return quiet(key, value) and not (windows and key == "layer_types" and value)


def _switched_off(key: str, keys: Mapping[str, Any]) -> bool:
    """Return whether `key` is about windows that are switched off."""
    return key in ("sliding_window", "max_window_layers") and keys.get("use_sliding_window") is False


def _relatives(key: str) -> frozenset[str]:
    """Return the other keys that say what `key` does."""
    return next((group - {key} for group in ALIASES if key in group), frozenset())


def _twin(config: Config, key: str) -> str | None:
    """Return the key of the file that was read and says what `key` does."""
    found = (other for other in sorted(_relatives(key) & config.asked) if config.keys.get(other) is not None)
    return next(found, None)


def _contradiction(config: Config, key: str, twin: str) -> CatalogError:
    said, read = (f"{each}: {shown(config.keys[each])}" for each in (key, twin))
    return CatalogError(f"{config.path}: {said} contradicts {read}; keep the one that is meant")


def _disputed(config: Config) -> CatalogError:
    """Return the refusal of full layers beside a window that the class of the model gives to all."""
    kinds, window = config.keys["layer_types"], {**config.defaults, **config.keys}.get("sliding_window")
    return CatalogError(
        f"{config.path}: layer_types: {shown(kinds)} stands beside sliding_window: {shown(window)}, which transformers "
        f"gives every layer of a {config.model_type}, whereas vLLM obeys the list; set one of them to null in a copy"
    )


def _not_understood(config: Config, loud: list[str], readers: Mapping[str, Collection[str]]) -> CatalogError:
    said = [f"{key}: {shown(config.keys[key])}" for key in loud]
    others = f" (so do {', '.join(said[1:])})" if said[1:] else ""
    return CatalogError(
        f"{config.path}: {said[0]} is not understood for {config.model_type}: it changes layers{others}; "
        f"{_way_out(config, loud, readers)}"
    )


def _way_out(config: Config, loud: list[str], readers: Mapping[str, Collection[str]]) -> str:
    relative = next(iter(sorted(_relatives(loud[0]) & config.asked)), None)
    if relative is not None:
        return f"{config.model_type} calls it {relative}: rename it, or set it to null in a copy"
    types = _nearest(config, loud, readers)
    known = f" ({', '.join(types)})" if types else ""
    return f"write the model_type that has it{known}, or set it to null in a copy if the model goes without"


def _nearest(config: Config, loud: list[str], readers: Mapping[str, Collection[str]]) -> list[str]:
    """Return the model types that read most of the refused keys and of the others that change layers.

    Those whose readers need the fewest keys more come first, and of these the well-known ones.
    """
    others = [key for key in config.keys if key in CHANGES_LAYERS and not quiet(key, config.keys[key])]
    score = {
        name: (sum(key in keys for key in loud), sum(key in keys for key in others))
        for name, keys in readers.items()
        if loud[0] in keys and name != config.model_type
    }
    best = [name for name in score if score[name] == max(score.values())]
    more = {name: sum(key in CHANGES_LAYERS and key not in config.keys for key in readers[name]) for name in best}
    known = {name: WELL_KNOWN.index(name) if name in WELL_KNOWN else len(WELL_KNOWN) for name in best}
    return sorted(best, key=lambda name: (more[name], known[name]))[:6]


def _unknown(config: Config) -> list[str]:
    """Return a note on the keys that are neither read nor known, with what they may be slips of."""
    known = config.asked | set(CHANGES_LAYERS)
    known |= set(quantisation.KEYS)
    odd = [key for key in config.keys if key not in known and not HARMLESS.fullmatch(key)]
    absent = sorted(config.asked - set(config.keys))
    slips = ((key, meant(key, absent)) for key in odd)
    words = [f"{key} (did you mean {slip}?)" if slip else key for key, slip in slips]
    return [f"not understood: {', '.join(words)}"] if odd else []


def outside(config: Config, outer: Mapping[str, Any]) -> None:
    """Refuse the keys that change layers in `outer`, which holds the language part, unless that says the same."""
    for key in CHANGES_LAYERS:
        value = outer.get(key)
        silent = quiet(key, value) or CHANGES_LAYERS[key] == GATED or _switched_off(key, outer)
        said = [{**config.defaults, **config.keys}.get(other) for other in (key, *_relatives(key))]
        if silent or any(same(value, inner) for inner in said):
            continue
        inside = "does not have it" if said[0] is None else f"says {shown(said[0])}"
        raise CatalogError(
            f"{config.path}: {key}: {shown(value)} stands outside the language part, which {inside}; move it there, "
            "or set it to null in a copy"
        )


def beside(keys: Mapping[str, Any]) -> list[str]:
    """Return a note on the layers of multi-token prediction, which are not part of the stack."""
    found = [f"{key}: {shown(keys[key])}" for key in MTP if isinstance(keys.get(key), int) and keys[key] > 0]
    return [f"{found[0]}: layers of multi-token prediction are not part of the stack"] if found else []
