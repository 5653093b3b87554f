"""Keys of a `config.json` that change layers, memory or work: none of them is passed over in silence.

A reader asks for the keys that it understands. Any other key of `CHANGES_LAYERS` is refused by name and value unless
its value changes nothing; keys that are neither there nor known to be harmless are listed in a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from afdsim.catalog.config import Config, shown
from afdsim.errors import CatalogError

GATED = ("silu", "swish", "swiglu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "geglu", "quick_gelu")
"""Activations of gated FFNs."""

ONE = (1,)
NOTHING: tuple[Any, ...] = ()
FULL = ("full_attention", "attention")

CHANGES_LAYERS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    # What every layer is.
    dict.fromkeys(("layer_types", "layers_block_type", "attention_types"), FULL)
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
    # Heads that differ by layer, gates, shared caches.
    | dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim", "swa_v_head_dim"), NOTHING)
    | dict.fromkeys(("attention_other_setting", "num_sliding_attention_heads", "num_attention_groups"), NOTHING)
    | dict.fromkeys(("num_attention_heads_per_layer", "num_key_value_heads_per_layer"), NOTHING)
    | dict.fromkeys(("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"), NOTHING)
    | dict.fromkeys(("use_head_wise_attn_gate", "attn_output_gate", "gating", "use_attn_gate"), NOTHING)
    | dict.fromkeys(("num_kv_shared_layers", "use_cla", "kv_sharing_layers"), NOTHING)
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
    | dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k"), ONE)
    | dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp"), NOTHING)
    | dict.fromkeys(("moe_latent_size", "num_zero_experts", "zero_expert_num"), NOTHING)
    # Shared experts, in all spellings.
    | dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_shared_expert"), NOTHING)
    | dict.fromkeys(("moe_num_shared_experts", "shared_expert_intermediate_size"), NOTHING)
    | dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), NOTHING)
    | dict.fromkeys(("share_expert_dim", "share_expert_dims"), NOTHING)
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

HARMLESS = re.compile(
    r"architectures|auto_map|model_type|_name_or_path|_?transformers.*|torch_dtype|dtype|.*_token_ids?|.*token_index"
    r"|.*token_id.*|.*dropout.*|.*pdrop|.*drop_rate|drop_path.*|initializer.*|.*init.*|.*_norm|.*norm.*|.*eps|.*epsilon"
    r"|rope_.*|.*_rope.*|rotary.*|.*rotary.*|.*rope$|no_rope.*|nope.*|partial_rotary_factor.*|mrope.*|use_cache"
    r"|pretraining_tp"
    r"|.*_bias|bias|.*qkv_bias|router_.*|.*aux.*|.*jitter.*|scoring_func|score_func.*|.*routed_scal.*|moe_router.*"
    r"|.*topk_method|n_group|topk_group|norm_topk_prob|seq_aux|ep_size|num_expert_group|.*scaling.*|.*_multiplier"
    r"|.*multipliers|.*softcap.*|.*logit.*|query_pre_attn_scalar|attention_value_scale|.*temperature.*|attn_scale"
    r"|floor_scale|mup.*|.*_alpha_factor|.*_beta_factor|.*_linear_attn.*|clip_qkv|.*gradient.*|position_embedding.*"
    r"|attn_implementation|_attn_implementation.*|.*flash_attn.*|use_parallel_residual|parallel_attn|chunk_size"
    r"|mamba_chunk_size|mamba_ssm_.*|mamba_conv_bias|.*kernels|use_mambapy|use_associative_scan|time_step.*|mamba_dt.*"
    r"|residual_in_fp32|rescale.*|mamba_hidden_act|expand|n_groups|conv_kernel|attn_layer_offset|expert_layer_offset"
    r"|mtp.*|.*mtp.*|num_nextn_predict_layers|index_share.*|moe_shared_expert_overlap|cla_share_factor"
    r"|use_mixed_mlp_moe"
    r"|head_dim|intermediate_size|num_key_value_heads|num_attention_heads|hidden_size|num_hidden_layers|vocab_size"
    r"|.*vocab_size|tie_.*|tie_word_embeddings|tie_embedding|max_position_embeddings|model_max_length|seq_length"
    r"|max_seq.*|.*max_position.*|n_positions|quantization_config|compression_config|id2label|label2id|problem_type"
    r"|return_dict|output_.*|task_specific_params|finetuning_task|num_return_sequences|.*_penalty|top_k|top_p|do_sample"
    r"|pruned_heads|prefix|is_decoder|chunk_size_feed_forward|block_size|use_moe|moe_.*loss.*|moe_norm.*|swiglu_.*"
    r"|vision_.*|audio_.*|image_.*|video_.*|use_bfloat16|torchscript|cross_attention_hidden_size|decoder_start_token_id"
    r"|attention_sink.*|add_.*_sink_bias|first_dense.*|use_qk_.*|qk_.*norm.*|.*_sink.*|attention_type|.*_only_use.*"
    r"|attention_head_dim|experts_per_token|cache_implementation|initial_context_length|hidden_act"
    r"|order_of_interleaved.*"
    r"|bad_words_ids|.*suppress_tokens|early_stopping|.*no_repeat_ngram_size|max_length|min_length|max_new_tokens"
    r"|num_beam.*|remove_invalid_values|return_dict.*|tf_legacy_loss|tokenizer_.*|typical_p|unsloth.*|shared_moe_mode"
    r"|use_gated_activation|use_parallel_.*|use_embedding_sharing|mamba_use_mlp|multi_query_attention|num_layers"
    r"|qk_head_dim|z_loss_coefficient|enable_moe_fp32_combine|route_scale"
)
"""Whole names of keys that change neither layers nor memory nor work, or that are read for all models."""

MTP = ("num_nextn_predict_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_hidden_layers", "mtp_num_layers")
"""Layers of multi-token prediction, which stand beside the stack."""


def quiet(key: str, value: Any) -> bool:
    """Return whether a value of a key of `CHANGES_LAYERS` changes nothing.

    >>> quiet("sliding_window", None), quiet("layer_types", ["full_attention"]), quiet("moe_layer_freq", 2)
    (True, True, False)
    """
    if isinstance(value, list):
        return all(quiet(key, item) for item in value)
    return value in (None, False, 0, "", {}) or value in CHANGES_LAYERS[key]


def neutral(key: str, value: Any) -> bool:
    """Return whether `key` is in the table with a value that changes nothing."""
    return key in CHANGES_LAYERS and quiet(key, value)


def settle(config: Config, readers: Callable[[], Mapping[str, Collection[str]]]) -> None:
    """Refuse the keys that change layers and that no reader asked for; note those that nobody knows.

    `readers` returns the keys that the reader of every model type asks for; only a refusal needs them.
    """
    loud = [key for key in CHANGES_LAYERS if key in config.keys and not _settled(config, key, config.keys[key])]
    if loud:
        raise _not_understood(config, loud, readers())
    config.notes.extend(_unknown(config.keys, config.asked))


def _settled(config: Config, key: str, value: Any) -> bool:
    """Return whether a key was read or changes nothing; a window that is switched off changes nothing."""
    off = key in ("sliding_window", "max_window_layers") and config.keys.get("use_sliding_window") is False
    return off or key in config.asked or quiet(key, value)


def _not_understood(config: Config, loud: list[str], readers: Mapping[str, Collection[str]]) -> CatalogError:
    said = [f"{key}: {shown(config.keys[key])}" for key in loud]
    others = f" (so do {', '.join(said[1:])})" if said[1:] else ""
    types = _nearest(config, loud[0], readers)
    known = f" ({', '.join(types)})" if types else ""
    return CatalogError(
        f"{config.path}: {said[0]} is not understood for {config.model_type}: it changes layers{others}; "
        f"write the model_type that has it{known}, or set it to null in a copy if the model goes without"
    )


def _nearest(config: Config, key: str, readers: Mapping[str, Collection[str]]) -> list[str]:
    """Return the model types that read `key` and most of the file's other keys, those that need fewest more first."""
    read = {name: sum(other in keys for other in config.keys) for name, keys in readers.items() if key in keys}
    most = max(read.values(), default=0)
    return sorted((name for name in read if read[name] == most), key=lambda name: len(readers[name]))[:6]


def _unknown(keys: Mapping[str, Any], asked: Collection[str]) -> list[str]:
    """Return a note on the keys that are neither read nor known."""
    odd = [key for key in keys if key not in asked and key not in CHANGES_LAYERS and not HARMLESS.fullmatch(key)]
    return [f"not understood: {', '.join(odd)}"] if odd else []


def beside(keys: Mapping[str, Any]) -> list[str]:
    """Return a note on the layers of multi-token prediction, which are not part of the stack."""
    found = [f"{key}: {shown(keys[key])}" for key in MTP if isinstance(keys.get(key), int) and keys[key] > 0]
    return [f"{found[0]}: layers of multi-token prediction are not part of the stack"] if found else []
