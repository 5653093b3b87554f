"""What mixes tokens in each layer: one function for every way that families of models lay out their attention.

Each returns one mixer per layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from afdsim.catalog.config import Config
from afdsim.catalog.llm import Attention, Gqa, Index, Linear, Mfa, Mla

Mixers = Callable[[Config], Sequence[Attention]]

PLACES = ("sliding_window_pattern", "_sliding_window_pattern", "layer_switch", "max_window_layers", "no_rope_layers")
"""Keys that place windows beside ``layer_types``."""

STATE_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}


def gqa(config: Config, *, window: int | None = None, heads: str = "num_attention_heads", gate: int = 0) -> Gqa:
    """Return grouped-query attention; without ``head_dim`` the heads share the hidden size."""
    number = config.whole(heads)
    kv_heads = config.whole("num_key_value_heads", number)
    config.assume("num_key_value_heads", f"{number} (as many as heads)")
    if number % kv_heads:
        raise config.fault("num_key_value_heads", f"a divisor of {number} attention heads")
    head_dim = config.whole("head_dim", max(1, config.whole("hidden_size") // number))
    return Gqa(heads=number, kv_heads=kv_heads, head_dim=head_dim, window=window, gate=gate)


def full(config: Config) -> list[Attention]:
    """Every token sees all others."""
    return [gqa(config)] * config.layers


def queried(config: Config) -> list[Attention]:
    """As many KV heads as heads unless ``multi_query_attention`` says otherwise (ChatGLM)."""
    config.assume("multi_query_attention", "false")
    if config.flag("multi_query_attention"):
        return full(config)
    config.skip("num_key_value_heads")
    whole = gqa(replace(config, keys={**config.keys, "multi_query_group_num": config.whole("num_attention_heads")}))
    return [whole] * config.layers


def windowed(config: Config) -> list[Attention]:
    """One window for all layers, where there is one (Mistral, Mixtral, Phi-3)."""
    return _everywhere(config, config.window("sliding_window"))


def _everywhere(config: Config, window: int | None) -> list[Attention]:
    """Return one kind of attention; a list of kinds may repeat it, and is else refused, as engines differ."""
    if window and config.keys.get("layer_types") == ["sliding_attention"] * config.layers:
        config.skip("layer_types")
    return [gqa(config, window=window)] * config.layers


def switched(config: Config) -> list[Attention]:
    """One window for all layers if ``use_sliding_window`` says so (Qwen3-MoE)."""
    config.skip("max_window_layers")
    return _everywhere(config, _switched_window(config))


def _switched_window(config: Config) -> int | None:
    if not config.flag("use_sliding_window"):
        config.skip("sliding_window")
        return None
    return config.window("sliding_window")


def typed(config: Config, words: Sequence[str], window: int | None) -> list[Attention]:
    """Return full or windowed attention as ``layer_types`` says, else as `words` do."""
    kinds = config.kinds("layer_types", ("full_attention", "sliding_attention", "chunked_attention")) or words
    near = sum(kind != "full_attention" for kind in kinds)
    _demand_window(config, "layer_types", window, near=kinds.count("sliding_attention"))
    said = (config.keys.get(key) for key in PLACES if key in config.asked)
    if window and near and all(value is None for value in said):
        config.assume("layer_types", f"with a window in {near} of {len(kinds)}")
    whole, local = gqa(config), gqa(config, window=window)
    return [whole if kind == "full_attention" else local for kind in kinds]


def _demand_window(config: Config, key: str, window: int | None, *, near: int) -> None:
    """Refuse layers that a list calls windowed where the file gives no window, or leaves it switched off."""
    if near and window is None and config.get(key) is not None:
        why = "calls layers windowed, but no window is in force (sliding_window, use_sliding_window)"
        raise config.refuse(key, f"{why}: give it, or call them full in a copy")


def every(config: Config, period: int) -> list[str]:
    """Return the words of a stack where every `period`-th layer sees everything; 0: all do."""
    return ["sliding_attention" if period and (i + 1) % period else "full_attention" for i in range(config.layers)]


def interleaved(period: int) -> Mixers:
    """Windows but in every `period`-th layer, or as the file's own pattern says (Gemma, gpt-oss, Cohere, OLMo)."""

    def mixers(config: Config) -> list[Attention]:
        window = config.window("sliding_window")
        step = _pattern(config, period) if config.has("pattern") else period
        words = every(config, step if window else 0)
        if window is None and "sliding_attention" in (config.words("layer_types") or ()):
            raise config.fault("sliding_window", "a whole number, as layer_types holds sliding_attention")
        return typed(config, words, window)

    return mixers


def _pattern(config: Config, period: int) -> int:
    """Return the period of a pattern, a number or the letters of one period ("LLLG")."""
    value = config.get("pattern")
    if isinstance(value, str) and value and set(value) == {"L", "G"} and value.find("G") == len(value) - 1:
        return len(value)
    return config.whole("pattern", period)


def local(config: Config) -> list[Attention]:
    """A window in every layer, where there is one, or as ``layer_types`` says (Ministral)."""
    window = config.window("sliding_window")
    return typed(config, ["sliding_attention" if window else "full_attention"] * config.layers, window)


def qwen(config: Config) -> list[Attention]:
    """Windows from layer ``max_window_layers`` on, if ``use_sliding_window`` says so (Qwen2, Qwen3)."""
    window = _switched_window(config)
    if window is None:
        config.skip("max_window_layers")
    first = config.whole("max_window_layers", config.layers, least=0) if window else config.layers
    words = ["sliding_attention" if layer >= first else "full_attention" for layer in range(config.layers)]
    return typed(config, words, window)


def qwen2_moe(config: Config) -> list[Attention]:
    """Windows in every other of the first ``max_window_layers`` layers, if switched on (Qwen2-MoE)."""
    window = _switched_window(config)
    if window is None:
        config.skip("max_window_layers")
    last = config.whole("max_window_layers", config.layers, least=0) if window else 0
    local = [layer % 2 == 0 and layer < last for layer in range(config.layers)]
    return typed(config, ["sliding_attention" if near else "full_attention" for near in local], window)


def dots(config: Config) -> list[Attention]:
    """Windows from layer ``max_window_layers`` on (dots.llm1)."""
    window, first = config.window("sliding_window"), config.whole("max_window_layers", config.layers, least=0)
    words = ["sliding_attention" if window and i >= first else "full_attention" for i in range(config.layers)]
    return typed(config, words, window)


def roped(config: Config) -> list[Attention]:
    """Windows in layers without rotary embedding, if switched on (SmolLM3)."""
    window = _switched_window(config)
    rope = _rope_layers(config) if window else (1,) * config.layers
    return typed(config, ["full_attention" if rotary else "sliding_attention" for rotary in rope], window)


def _rope_layers(config: Config) -> tuple[int, ...]:
    """Return 1 for layers with rotary embedding, 0 for those without."""
    interval = config.whole("no_rope_layer_interval", 4)
    rope = config.numbers("no_rope_layers") or tuple(int((i + 1) % interval != 0) for i in range(config.layers))
    config.per_layer("no_rope_layers", rope)
    return rope


def chunked(config: Config) -> list[Attention]:
    """Chunks but where ``no_rope_layers`` is 0 (Llama 4)."""
    chunk = config.window("attention_chunk_size")
    words = ["chunked_attention" if rotary else "full_attention" for rotary in _rope_layers(config)]
    if chunk:
        config.notes.append(
            f"attention in chunks of {chunk:,} counts as a window: caches of local layers are at most that"
        )
    return typed(config, words, chunk)


def mla(config: Config, index: Index | None = None) -> Mla:
    """Return multi-head latent attention."""
    return Mla(
        heads=config.whole("num_attention_heads"),
        kv_rank=config.whole("kv_lora_rank"),
        rope_dim=config.whole("qk_rope_head_dim"),
        nope_dim=config.whole("qk_nope_head_dim"),
        v_dim=config.whole("v_head_dim"),
        q_rank=config.maybe("q_lora_rank"),
        index=index,
    )


def latent(config: Config) -> list[Attention]:
    """MLA in every layer; plain attention where ``use_mla`` is false (the smallest DeepSeek-VL2)."""
    if not config.flag("use_mla", default=True):
        config.skip("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
        return full(config)
    return [mla(config)] * config.layers


def indexed(config: Config) -> list[Attention]:
    """MLA over the tokens that an indexer chooses (DeepSeek-V3.2, GLM-5)."""
    kinds = config.kinds("layer_types", ("indexed_attention", "full_attention"))
    _demand_own_indexers(config)
    index = Index(
        heads=config.whole("index_n_heads"), head_dim=config.whole("index_head_dim"), top_k=config.whole("index_topk")
    )
    sparse, whole = mla(config, index), mla(config)
    words = kinds or ["indexed_attention"] * config.layers
    return [sparse if kind == "indexed_attention" else whole for kind in words]


def _demand_own_indexers(config: Config) -> None:
    """Refuse layers that use the choice of a layer below instead of an indexer of their own."""
    why = "lets layers share the choice of an indexer, which is not modelled"
    if config.whole("index_topk_freq", 1) > 1:
        raise config.refuse("index_topk_freq", why)
    for key, own in (("indexer_types", "full"), ("index_topk_pattern", "F")):
        value = config.get(key)
        if value is not None and (not isinstance(value, list | str) or any(kind not in (own, "F") for kind in value)):
            raise config.refuse(key, why)


def factorised(config: Config) -> list[Attention]:
    """MFA with one KV group (Step-3)."""
    config.whole("num_attention_groups", 1, most=1)
    heads, head_dim = config.whole("num_attention_heads"), config.whole("head_dim")
    return [Mfa(heads=heads, head_dim=head_dim, q_rank=config.whole("share_q_dim"))] * config.layers


def delta(config: Config) -> list[Attention]:
    """Gated delta net, and gated full attention in every fourth layer (Qwen3-Next, Qwen3.5)."""
    width = config.whole("linear_value_head_dim")
    linear = Linear(
        heads=config.whole("linear_num_value_heads"),
        head_dim=width,
        key_dim=config.whole("linear_key_head_dim"),
        groups=config.whole("linear_num_key_heads"),
        scalars=2,
        conv=config.whole("linear_conv_kernel_dim"),
        state_dtype=state_dtype(config, "mamba_ssm_dtype"),
    )
    plain = gqa(config)
    gated = replace(plain, gate=plain.head_dim) if config.flag("attn_output_gate", default=True) else plain
    period = config.whole("full_attention_interval", 4)
    kinds = config.kinds("layer_types", ("full_attention", "linear_attention"))
    if kinds is None:
        config.assume("full_attention_interval", period)
    return [gated if word == "full_attention" else linear for word in kinds or every(config, period)]


def state_dtype(config: Config, key: str) -> str:
    """Return the dtype of recurrent states, FP32 where `key` says nothing."""
    word = config.get(key)
    if word is None:
        return "fp32"
    if not isinstance(word, str) or word not in STATE_DTYPES:
        raise config.fault(key, f"one of {', '.join(STATE_DTYPES)}")
    return STATE_DTYPES[word]


def lightning(config: Config) -> list[Attention]:
    """Lightning attention but where the list of kinds says full (MiniMax-Text-01 and M1)."""
    plain = gqa(config)
    linear = Linear(heads=plain.heads, head_dim=plain.head_dim)
    if config.get("layer_types") is not None:
        words = config.kinds("layer_types", ("full_attention", "linear_attention")) or ()
        kinds = [word == "full_attention" for word in words]
    else:
        kinds = [bool(kind) for kind in config.numbers("attn_type_list") or ()]
        config.per_layer("attn_type_list", kinds)
    return [plain if kind else linear for kind in kinds]


def step_mixed(config: Config) -> list[Attention]:
    """Windows with more heads than the full layers, both with a gate per head (Step-3.5)."""
    config.skip("gating")
    kinds = _padded(config, ("full_attention", "sliding_attention"))
    gate = 1 if config.flag("use_head_wise_attn_gate", default=True) else 0
    whole = gqa(config, gate=gate)
    local = replace(_step_local(config, whole), window=config.window("sliding_window"))
    _demand_window(config, "layer_types", local.window, near=kinds.count("sliding_attention"))
    _demand_heads(config, {i: local.heads for i, kind in enumerate(kinds) if kind == "sliding_attention"})
    return [whole if kind == "full_attention" else local for kind in kinds]


def _demand_heads(config: Config, heads: Mapping[int, int]) -> None:
    """Demand that heads by layer, as newer files repeat them, are those of the windowed layers."""
    found = config.get("per_layer_config")
    if found is None:
        return
    said = found.items() if isinstance(found, dict) else ()
    if {(str(layer).lstrip("0") or "0", json.dumps(keys)) for layer, keys in said} != {
        (str(layer), json.dumps({"num_attention_heads": number})) for layer, number in heads.items()
    }:
        raise config.refuse("per_layer_config", "is not the heads of the windowed layers, and so not modelled")


def _padded(config: Config, allowed: tuple[str, ...]) -> Sequence[str]:
    """Return ``layer_types`` without the entries of its multi-token prediction, or all full."""
    words = config.words("layer_types")
    if words is None:
        return ["full_attention"] * config.layers
    if len(words) < config.layers or set(words) - set(allowed):
        raise config.fault("layer_types", f"one of {', '.join(allowed)} for each of the {config.layers} layers")
    return words[: config.layers]


def _step_local(config: Config, whole: Gqa) -> Gqa:
    """Return the attention of windowed layers, whose heads ``attention_other_setting`` counts."""
    if config.get("attention_other_setting") is None:
        return replace(whole, heads=config.whole("num_sliding_attention_heads", whole.heads))
    other = config.part("attention_other_setting")
    kv = other.whole("num_attention_groups", whole.kv_heads)
    head_dim = other.whole("head_dim", whole.head_dim)
    return replace(whole, heads=other.whole("num_attention_heads", whole.heads), kv_heads=kv, head_dim=head_dim)


def mimo_mixed(config: Config) -> list[Attention]:
    """Windows but in the first and every sixth layer, with values narrower than keys (MiMo-V2)."""
    config.skip("attention_chunk_size")
    whole = replace(gqa(config), v_dim=config.maybe("v_head_dim"))
    window = config.window("sliding_window")
    local = Gqa(
        heads=config.whole("swa_num_attention_heads", whole.heads),
        kv_heads=config.whole("swa_num_key_value_heads", 2 * whole.kv_heads),
        head_dim=config.whole("swa_head_dim", whole.head_dim),
        window=window,
        v_dim=config.whole("swa_v_head_dim", whole.values),
    )
    where = _mimo_local(config)
    _demand_window(config, "hybrid_layer_pattern", window, near=sum(where))
    return [local if near else whole for near in where]


def _mimo_local(config: Config) -> list[bool]:
    """Return which layers have windows."""
    kinds = config.kinds("layer_types", ("full_attention", "sliding_attention"))
    pattern = config.numbers("hybrid_layer_pattern")
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    if pattern is not None:
        config.per_layer("hybrid_layer_pattern", pattern)
        return [bool(near) for near in pattern]
    return [layer > 0 and (layer + 1) % 6 > 0 for layer in range(config.layers)]
