"""Families of language models by `model_type`: how their layers are read, and how their keys are spelled.

Sources: the configuration and modeling files of transformers 5.24.0, and of the models' own repositories for those
that it lacks (Kimi K2, MiMo, Step-3, MiniMax-Text-01 and M1, Pangu, Ling, internLM2, ChatGLM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from afdsim.catalog import ffns, hybrids, mixers
from afdsim.catalog.config import Config
from afdsim.catalog.llm import Layer

Reader = Callable[[Config], list[Layer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the layers of one `model_type` are read."""

    read: Reader
    spell: Mapping[str, str] = field(default_factory=dict)
    """Keys of every role that this family has, joined by ``|`` where several say the same."""
    like: str | None = None
    """The model type whose defaults it has; None: its own."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Further defaults, of its modeling code."""


LOCAL = {
    "experts": "num_local_experts|num_experts",
    "top_k": "num_experts_per_tok",
    "expert_inner": "intermediate_size",
}
QWEN = {
    "experts": "num_experts|num_local_experts",
    "top_k": "num_experts_per_tok",
    "expert_inner": "moe_intermediate_size",
}
QWEN_SHARED = {**QWEN, "shared_inner": "shared_expert_intermediate_size"}
DEEPSEEK = {
    "experts": "n_routed_experts|num_local_experts|num_experts",
    "top_k": "num_experts_per_tok",
    "expert_inner": "moe_intermediate_size",
    "shared_count": "n_shared_experts",
    "first_dense": "first_k_dense_replace",
    "moe_layer_freq": "moe_layer_freq",
}
KINDS = {"mlp_layer_types": "mlp_layer_types"}
FIRST_DENSE = MappingProxyType({"first_k_dense_replace": 1})
"""The first layer is dense if nothing is said."""
MIMO = {**DEEPSEEK, **KINDS, "sliding_window": "sliding_window|sliding_window_size"}
SHARED_BY_NUMBER = {**QWEN, "shared_count": "num_shared_experts", "first_dense": "first_k_dense_replace"}
ERNIE = {
    "experts": "moe_num_experts|num_experts",
    "top_k": "moe_k|num_experts_per_tok",
    "expert_inner": "moe_intermediate_size",
    "shared_count": "moe_num_shared_experts",
}
STEP = {
    "experts": "moe_num_experts|n_routed_experts|num_local_experts",
    "top_k": "moe_top_k|num_experts_per_tok",
    "expert_inner": "moe_intermediate_size",
    "shared_inner": "share_expert_dim|share_expert_dims",
}
MAMBA = {
    "mamba_heads": "mamba_n_heads",
    "mamba_width": "mamba_d_head",
    "mamba_state": "mamba_d_state",
    "mamba_groups": "mamba_n_groups",
    "mamba_conv": "mamba_d_conv",
}
GRANITE = {**MAMBA, **LOCAL, "shared_inner": "shared_intermediate_size", "layer_types": "layer_types|layers_block_type"}
NEMOTRON = {
    **DEEPSEEK,
    "shared_inner": "moe_shared_expert_intermediate_size",
    "head_dim": "head_dim|attention_head_dim",
    "pattern": "hybrid_override_pattern|layers_block_type|layer_types",
    "mamba_heads": "mamba_num_heads",
    "mamba_width": "mamba_head_dim",
    "mamba_state": "ssm_state_size",
    "mamba_groups": "n_groups|mamba_n_groups",
    "mamba_conv": "conv_kernel|mamba_d_conv",
    "mamba_expand": "expand|mamba_expand",
}
PANGU_ULTRA = {
    "experts": "num_routed_experts|n_routed_experts",
    "top_k": "num_experts_per_tok",
    "expert_inner": "moe_intermediate_size",
    "shared_count": "num_shared_experts|n_shared_experts",
    "first_dense": "num_dense_layers|first_k_dense_replace",
    "kv_lora_rank": "attention_kv_lora_dim|kv_lora_rank",
    "q_lora_rank": "attention_q_lora_dim|q_lora_rank",
    "qk_nope_head_dim": "attention_qk_dim|qk_nope_head_dim",
    "qk_rope_head_dim": "attention_qk_rope_dim|qk_rope_head_dim",
    "v_head_dim": "attention_v_dim|v_head_dim",
}
BAILING = {**SHARED_BY_NUMBER, "shared_inner": "moe_shared_expert_intermediate_size"}
HUNYUAN = {
    "experts": "num_experts|num_local_experts",
    "top_k": "moe_topk|num_experts_per_tok",
    "expert_inner": "moe_intermediate_size|intermediate_size",
    "shared_count": "num_shared_expert",
    "head_dim": "head_dim|attention_head_dim",
}
CHATGLM = {
    "num_hidden_layers": "num_layers|num_hidden_layers",
    "num_key_value_heads": "multi_query_group_num",
    "intermediate_size": "ffn_hidden_size",
    "head_dim": "kv_channels",
    "vocab_size": "padded_vocab_size|vocab_size",
}
DBRX = {
    "hidden_size": "d_model|hidden_size",
    "num_attention_heads": "n_heads|num_attention_heads",
    "num_hidden_layers": "n_layers|num_hidden_layers",
}
PATTERN = {"pattern": "sliding_window_pattern|_sliding_window_pattern"}
COHERE = {"pattern": "sliding_window_pattern|_sliding_window_pattern|layer_switch"}
MINIMAX = {**LOCAL, "shared_inner": "shared_intermediate_size"}


def stack(mix: mixers.Mixers, follow: ffns.Ffns) -> Reader:
    """Return the reader that pairs a mixer and an FFN in every layer."""

    def layers(config: Config) -> list[Layer]:
        pairs = zip(mix(config), follow(config), strict=True)
        return [Layer(attention=attention, ffn=ffn) for attention, ffn in pairs]

    return layers


def _text_experts(config: Config) -> list[Layer]:
    """ERNIE 4.5 VL lists its keys twice: experts of text, then those of images, which are left out."""
    keys = {k: v[0] if k.startswith("moe_") and isinstance(v, list) and v else v for k, v in config.keys.items()}
    config.notes.append("experts of images are left out")
    defaults = {"moe_intermediate_size": 1536, **config.defaults}
    return stack(mixers.full, ffns.ernie)(replace(config, keys=keys, defaults=defaults))


PLAIN = stack(mixers.full, ffns.all_dense)
UNGATED = stack(mixers.full, ffns.ungated)
LATENT = stack(mixers.latent, ffns.after_dense)
INDEXED = stack(mixers.indexed, ffns.after_dense)
GROUPED = stack(mixers.full, ffns.after_dense)
EVERY_MOE = stack(mixers.full, ffns.all_moe)
WINDOWED_MOE = stack(mixers.windowed, ffns.all_moe)
LIGHTNING = Family(read=stack(mixers.lightning, ffns.all_moe), spell=MINIMAX)
STEP3 = Family(read=stack(mixers.factorised, ffns.listed), spell=STEP)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "deepseek": Family(read=GROUPED, spell=DEEPSEEK),
        "deepseek_v2": Family(read=LATENT, spell=DEEPSEEK),
        "deepseek_v3": Family(read=LATENT, spell=DEEPSEEK),
        "deepseek_v32": Family(read=INDEXED, spell={**DEEPSEEK, **KINDS}),
        "kimi_k2": Family(read=LATENT, spell=DEEPSEEK),
        "mistral4": Family(read=LATENT, spell=DEEPSEEK),
        "pangu_ultra_moe": Family(read=LATENT, spell=PANGU_ULTRA),
        "glm_moe_dsa": Family(read=INDEXED, spell={**DEEPSEEK, **KINDS}),
        "glm4_moe_lite": Family(read=LATENT, spell={**DEEPSEEK, **KINDS}, defaults=FIRST_DENSE),
        "glm4_moe": Family(read=GROUPED, spell=DEEPSEEK),
        "glm4v_moe": Family(read=GROUPED, spell=DEEPSEEK),
        "solar_open": Family(read=EVERY_MOE, spell=DEEPSEEK),
        "dots1": Family(read=stack(mixers.dots, ffns.after_dense), spell=DEEPSEEK),
        "bailing_moe": Family(read=GROUPED, spell=BAILING),
        "bailing_moe_v2": Family(read=GROUPED, spell=BAILING),
        "hy_v3": Family(read=GROUPED, spell={**SHARED_BY_NUMBER, **KINDS}, defaults=FIRST_DENSE),
        "exaone_moe": Family(
            read=stack(mixers.interleaved(4), ffns.after_dense), spell={**SHARED_BY_NUMBER, **KINDS, **PATTERN}
        ),
        "mimo_v2_flash": Family(read=stack(mixers.mimo_mixed, ffns.after_dense), spell=MIMO, defaults=FIRST_DENSE),
        "llama": Family(read=PLAIN),
        "mistral": Family(read=stack(mixers.windowed, ffns.all_dense)),
        "ministral": Family(read=stack(mixers.local, ffns.all_dense)),
        "ministral3": Family(read=stack(mixers.windowed, ffns.all_dense)),
        "qwen2": Family(read=stack(mixers.qwen, ffns.all_dense)),
        "qwen2_vl": Family(read=stack(mixers.qwen, ffns.all_dense)),
        "qwen2_5_vl": Family(read=stack(mixers.qwen, ffns.all_dense)),
        "qwen2_5_omni": Family(read=stack(mixers.qwen, ffns.all_dense)),
        "qwen3": Family(read=stack(mixers.qwen, ffns.all_dense)),
        "qwen3_vl": Family(read=PLAIN),
        "mimo": Family(read=stack(mixers.qwen, ffns.all_dense)),
        "glm": Family(read=PLAIN),
        "glm4": Family(read=PLAIN),
        "glm4v": Family(read=PLAIN),
        "chatglm": Family(read=stack(mixers.queried, ffns.all_dense), spell=CHATGLM),
        "internlm2": Family(read=PLAIN),
        "internlm3": Family(read=PLAIN),
        "gemma": Family(read=PLAIN),
        "gemma2": Family(read=stack(mixers.interleaved(2), ffns.all_dense)),
        "gemma3": Family(read=stack(mixers.interleaved(6), ffns.all_dense), spell=PATTERN),
        "phi3": Family(read=stack(mixers.windowed, ffns.all_dense)),
        "olmo": Family(read=PLAIN),
        "olmo2": Family(read=PLAIN),
        "olmo3": Family(read=stack(mixers.interleaved(4), ffns.all_dense)),
        "granite": Family(read=PLAIN),
        "cohere": Family(read=PLAIN),
        "cohere2": Family(read=stack(mixers.interleaved(4), ffns.all_dense), spell=COHERE),
        "seed_oss": Family(read=PLAIN),
        "panguembedded": Family(read=PLAIN),
        "exaone4": Family(read=stack(mixers.interleaved(4), ffns.all_dense), spell=PATTERN),
        "smollm3": Family(read=stack(mixers.roped, ffns.all_dense)),
        "ernie4_5": Family(read=PLAIN),
        "hunyuan_v1_dense": Family(read=PLAIN, spell={"head_dim": "head_dim|attention_head_dim"}),
        "stablelm": Family(read=PLAIN),
        "arcee": Family(read=UNGATED),
        "apertus": Family(read=UNGATED),
        "nemotron": Family(read=UNGATED),
        "phi": Family(read=UNGATED),
        "starcoder2": Family(read=stack(mixers.windowed, ffns.ungated)),
        "qwen2_moe": Family(read=stack(mixers.qwen2_moe, ffns.sparse_steps), spell=QWEN_SHARED),
        "qwen3_moe": Family(read=stack(mixers.switched, ffns.sparse_steps), spell=QWEN),
        "qwen3_vl_moe": Family(read=stack(mixers.full, ffns.sparse_steps), spell=QWEN),
        "qwen3_omni_moe": Family(read=stack(mixers.windowed, ffns.sparse_steps), spell=QWEN),
        "qwen3_next": Family(read=stack(mixers.delta, ffns.sparse_steps), spell=QWEN_SHARED),
        "qwen3_5": Family(read=stack(mixers.delta, ffns.all_dense)),
        "qwen3_5_moe": Family(read=stack(mixers.delta, ffns.sparse_steps), spell=QWEN_SHARED),
        "pangupromoe": Family(read=stack(mixers.full, ffns.sparse_steps), spell=QWEN_SHARED),
        "pangu_pro_moe": Family(read=stack(mixers.full, ffns.sparse_steps), spell=QWEN_SHARED),
        "mixtral": Family(read=WINDOWED_MOE, spell=LOCAL),
        "phimoe": Family(read=WINDOWED_MOE, spell=LOCAL),
        "gpt_oss": Family(read=stack(mixers.interleaved(2), ffns.all_moe), spell=LOCAL),
        "olmoe": Family(read=EVERY_MOE, spell={**LOCAL, "experts": "num_experts|num_local_experts"}),
        "granitemoe": Family(read=EVERY_MOE, spell=LOCAL),
        "granitemoeshared": Family(read=EVERY_MOE, spell=MINIMAX),
        "hunyuan_v1_moe": Family(read=stack(mixers.full, ffns.hunyuan_ffns), spell=HUNYUAN),
        "ernie4_5_moe": Family(read=stack(mixers.full, ffns.ernie), spell=ERNIE),
        "ernie4_5_vl_moe": Family(read=_text_experts, spell=ERNIE),
        "ernie4_5_moe_vl": Family(read=_text_experts, spell=ERNIE, like="ernie4_5_vl_moe"),
        "dbrx": Family(read=hybrids.dbrx, spell=DBRX),
        "llama4": Family(read=stack(mixers.chunked, ffns.llama4_ffns), spell=LOCAL),
        "minimax": LIGHTNING,
        "minimax_m1": LIGHTNING,
        "minimax_text_01": LIGHTNING,
        "minimax_m2": Family(read=WINDOWED_MOE, spell=MINIMAX),
        "granitemoehybrid": Family(read=stack(hybrids.granite_hybrid, ffns.granite_ffns), spell=GRANITE),
        "nemotron_h": Family(read=hybrids.nemotron_h, spell=NEMOTRON),
        "jamba": Family(
            read=stack(hybrids.jamba_mixers, hybrids.jamba_ffns),
            spell={**LOCAL, "experts": "num_experts|num_local_experts"},
        ),
        "bamba": Family(read=stack(hybrids.bamba_mixers, ffns.all_dense), spell=MAMBA),
        "falcon_h1": Family(read=hybrids.falcon_h1, spell={**MAMBA, "mamba_d_ssm": "mamba_d_ssm"}),
        "step3p5": Family(
            read=stack(mixers.step_mixed, ffns.listed),
            spell={**STEP, **KINDS, "num_key_value_heads": "num_attention_groups|num_key_value_heads"},
        ),
        "step3_text": STEP3,
        "step3_vl": STEP3,
    }
)
"""Families by `model_type`; a trailing ``_text`` of a language part is dropped where the name with it is not here."""
