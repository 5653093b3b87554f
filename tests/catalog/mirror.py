"""An independent count of a model from its `config.json`: by the presence of keys, never by a reader of afdsim.

A layer is a word of letters, one a block: A attention, S attention with a window, L lightning attention, D gated delta
net, M Mamba-2, m Mamba-1, - dense FFN, E experts. Biases are left out; norms are counted roughly (two a layer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

Config = Mapping[str, Any]

DEFAULTS: Mapping[str, Config] = {
    "gemma2": {"tie_word_embeddings": True, "sliding_window_pattern": 2},
    "gemma3_text": {"tie_word_embeddings": True, "sliding_window_pattern": 6, "vocab_size": 262208},
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window_pattern": 4},
    "smollm3": {"tie_word_embeddings": True},
}
"""What a file may leave out because its class says it (transformers' configuration classes)."""

EVERYWHERE = {"mistral", "phi3"}
"""Types whose `sliding_window` holds in every layer."""

UNGATED = {"nemotron_h"}


class Block(NamedTuple):
    """Parameters in all and per token, cache bytes per token in BF16, and bytes of state per sequence."""

    total: int
    active: int
    cache: float = 0.0
    state: float = 0.0


class Count(NamedTuple):
    """The same of a whole model, with the cache of windows that are full."""

    total: int
    active: int
    cache: float
    state: float


def text(config: Config) -> Config:
    """Return the language part of `config` with the defaults of its class."""
    inner = config
    for part in ("thinker_config", "llm_config", "text_config"):
        inner = inner.get(part, inner)
    return {**DEFAULTS.get(inner["model_type"], {}), **inner}


def key(c: Config, *names: str, default: Any = None) -> Any:
    """Return the first of `names` that is there and not null."""
    return next((c[name] for name in names if c.get(name) is not None), default)


def count(config: Config) -> Count:
    """Return the whole model: its blocks, embedding and head."""
    c = text(config)
    hidden, vocab = key(c, "hidden_size", "d_model"), c["vocab_size"]
    blocks = [(block(c, letter), n) for letter, n in Counter("".join(words(c))).items()]
    edges = vocab * hidden * (1 if c.get("tie_word_embeddings") else 2) + hidden
    total, active, cache, state = (sum(part[i] * n for part, n in blocks) for i in range(4))
    return Count(int(total) + edges, int(active) + edges, cache, state)


def words(c: Config) -> list[str]:
    """Return the word of every layer, or of every block where the file lists blocks (Nemotron-H)."""
    if pattern := c.get("hybrid_override_pattern"):
        return list(pattern.replace("*", "A"))
    layers = range(key(c, "num_hidden_layers", "n_layers"))
    both = "M" if c.get("mamba_d_ssm") else ""
    return [both + mixer(c, i) + ("E" if is_moe(c, i) else "-") for i in layers]


LETTER = {
    "full_attention": "A",
    "attention": "A",
    "sliding_attention": "S",
    "linear_attention": "D",
    "mamba": "M",
}


def mixer(c: Config, i: int) -> str:
    """Return the letter of what mixes tokens in layer `i`."""
    if types := c.get("layer_types"):
        return LETTER[types[i]]
    for name, letters in (("attn_type_list", "LA"), ("hybrid_layer_pattern", "AS")):
        if name in c:
            return letters[c[name][i]]
    if interval := c.get("full_attention_interval"):
        return "D" if (i + 1) % interval else "A"
    if period := c.get("attn_layer_period"):
        return "A" if i % period == c["attn_layer_offset"] else "m"
    if (indices := c.get("attn_layer_indices")) is not None:
        return "A" if i in indices else "M"
    return "S" if is_windowed(c, i) else "A"


def is_windowed(c: Config, i: int) -> bool:
    """Return whether layer `i` of a model without types of layers has a window."""
    if pattern := c.get("sliding_window_pattern"):
        return bool((i + 1) % pattern)
    if c.get("attention_chunk_size") and "no_rope_layers" in c:
        return bool(c["no_rope_layers"][i])
    return c["model_type"] in EVERYWHERE and c.get("sliding_window") is not None


def is_moe(c: Config, i: int) -> bool:
    """Return whether layer `i` has experts."""
    if not experts(c):
        return False
    if listed := c.get("moe_layers_enum"):
        return str(i) in listed.split(",")
    if isinstance(frequency := c.get("moe_layer_freq"), list):
        return bool(frequency[i])
    if period := c.get("expert_layer_period"):
        return bool(i % period == c["expert_layer_offset"])
    if step := c.get("interleave_moe_layer_step"):
        return bool((i + 1) % step == 0)
    return bool(i >= key(c, "first_k_dense_replace", "moe_layer_start_index", default=0))


def experts(c: Config) -> int:
    """Return the number of routed experts of a layer."""
    names = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
    return int(key({**c, **c.get("ffn_config", {})}, *names, default=0))


def block(c: Config, letter: str) -> Block:
    """Return one block, with its norm."""
    build = {"A": attention, "S": sliding, "L": lightning, "D": delta, "M": mamba2, "m": mamba1, "-": dense, "E": moe}
    part, norm = build[letter](c), key(c, "hidden_size", "d_model")
    return part._replace(total=part.total + norm, active=part.active + norm)


def attention(c: Config) -> Block:
    """Return multi-head, grouped or latent attention over all of the context."""
    if c.get("kv_lora_rank"):
        return latent(c)
    if c.get("share_q_dim"):
        return factorised(c)
    hidden, heads = key(c, "hidden_size", "d_model"), key(c, "num_attention_heads", "n_heads")
    kv = key({**c, **c.get("attn_config", {})}, "num_key_value_heads", "kv_n_heads", "num_attention_groups")
    d = c.get("head_dim") or hidden // heads
    return grouped(c, heads, kv, (d, c.get("v_head_dim") or d))


def sliding(c: Config) -> Block:
    """Return attention with a window; some models give it heads of its own."""
    other = c.get("attention_other_setting") or {}
    if "swa_num_key_value_heads" in c:
        widths = (c["swa_head_dim"], c["swa_v_head_dim"])
        return grouped(c, c["swa_num_attention_heads"], c["swa_num_key_value_heads"], widths)
    return attention({**c, **{name: other[name] for name in ("num_attention_heads", "num_attention_groups") if other}})


def grouped(c: Config, heads: int, kv: int, widths: tuple[int, int]) -> Block:
    """Return grouped attention with key and value heads of `widths`, and its output gate where there is one."""
    hidden, (d, v) = key(c, "hidden_size", "d_model"), widths
    gate = heads * d if "linear_num_value_heads" in c else heads if c.get("use_head_wise_attn_gate") else 0
    size = hidden * (heads * d + kv * (d + v) + gate + heads * v)
    return Block(size, size, 2.0 * kv * (d + v))


def factorised(c: Config) -> Block:
    """Return Step-3's attention: low-rank queries, one key and one value head."""
    hidden, heads, d, rank = c["hidden_size"], c["num_attention_heads"], c["head_dim"], c["share_q_dim"]
    size = hidden * (rank + 2 * d) + rank * heads * d + heads * d * hidden
    return Block(size, size, 2.0 * 2 * d)


def latent(c: Config) -> Block:
    """Return DeepSeek's attention, with its indexer where there is one."""
    hidden, heads, rank, rope = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"], c["qk_rope_head_dim"]
    query, q_rank = heads * (c["qk_nope_head_dim"] + rope), c.get("q_lora_rank")
    size = (hidden + query) * q_rank if q_rank else hidden * query
    size += hidden * (rank + rope) + rank * heads * (c["qk_nope_head_dim"] + c["v_head_dim"])
    size += heads * c["v_head_dim"] * hidden
    if not c.get("index_topk"):
        return Block(size, size, 2.0 * (rank + rope))
    index_heads, d = c["index_n_heads"], c["index_head_dim"]
    size += q_rank * index_heads * d + hidden * (d + index_heads)
    return Block(size, size, 2.0 * (rank + rope) + d + 4)


def lightning(c: Config) -> Block:
    """Return MiniMax's attention: queries, keys, values, an output gate and the output, a state per head."""
    hidden, heads, d = c["hidden_size"], c["num_attention_heads"], c["head_dim"]
    return Block(5 * hidden * heads * d, 5 * hidden * heads * d, state=4.0 * heads * d * d)


def delta(c: Config) -> Block:
    """Return a gated delta net: queries, keys, values, a gate, two scalars a head, the convolution, the output."""
    hidden, heads, d, v = (
        c["hidden_size"],
        c["linear_num_value_heads"],
        c["linear_key_head_dim"],
        c["linear_value_head_dim"],
    )
    keys, values, taps = c["linear_num_key_heads"] * d, heads * v, c["linear_conv_kernel_dim"]
    channels = 2 * keys + values
    size = hidden * (2 * keys + 2 * values + 2 * heads) + taps * channels + values * hidden
    return Block(size, size, state=4.0 * heads * d * v + 2.0 * (taps - 1) * channels)


def mamba2(c: Config) -> Block:
    """Return Mamba-2: gate, channels, inputs, outputs, a step a head, the convolution, the output."""
    heads, d = key(c, "mamba_num_heads", "mamba_n_heads"), key(c, "mamba_head_dim", "mamba_d_head")
    groups, state = key(c, "n_groups", "mamba_n_groups"), key(c, "ssm_state_size", "mamba_d_state")
    taps, inner, hidden = key(c, "conv_kernel", "mamba_d_conv"), heads * d, c["hidden_size"]
    channels = inner + 2 * groups * state
    size = hidden * (inner + channels + heads) + taps * channels + inner * hidden
    return Block(size, size, state=4.0 * inner * state + 2.0 * (taps - 1) * channels)


def mamba1(c: Config) -> Block:
    """Return Mamba-1: channels and gate, convolution, choice of steps, inputs and outputs, decays, the output."""
    inner, state, rank = c["mamba_expand"] * c["hidden_size"], c["mamba_d_state"], c["mamba_dt_rank"]
    size = inner * (3 * c["hidden_size"] + c["mamba_d_conv"] + 2 * rank + 2 * state + state)
    return Block(size, size, state=4.0 * inner * state + 2.0 * (c["mamba_d_conv"] - 1) * inner)


def dense(c: Config) -> Block:
    """Return an FFN without experts."""
    matrices = 2 if c["model_type"] in UNGATED else 3
    zero = experts(c) == 0 and "num_local_experts" in c
    inner = c["shared_intermediate_size"] if zero else key(c, "intermediate_size_mlp", "intermediate_size")
    return Block(matrices * c["hidden_size"] * inner, matrices * c["hidden_size"] * inner)


def moe(c: Config) -> Block:
    """Return routed experts, what all tokens share, and the router."""
    hidden, n, matrices = key(c, "hidden_size", "d_model"), experts(c), 2 if c["model_type"] in UNGATED else 3
    flat = {**c, **c.get("ffn_config", {})}
    top = first(key(flat, "num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k"))
    inner = first(key(flat, "moe_intermediate_size", "ffn_hidden_size", "intermediate_size"))
    always = matrices * hidden * shared(c, inner) + n * hidden
    return Block(always + n * matrices * hidden * inner, always + top * matrices * hidden * inner)


def shared(c: Config, inner: int) -> int:
    """Return the width of what every token runs beside its experts."""
    width = key(c, "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size", "share_expert_dim")
    if width is not None:
        return int(width)
    if "shared_intermediate_size" in c:
        return int(c["shared_intermediate_size"])
    if "interleave_moe_layer_step" in c:
        return inner
    number = key(c, "n_shared_experts", "moe_num_shared_experts", "num_shared_expert", default=0)
    return int(first(number) * inner)


def first(value: Any) -> int:
    """Return a number that some files repeat for every layer."""
    return int(value[0] if isinstance(value, list) else value)
