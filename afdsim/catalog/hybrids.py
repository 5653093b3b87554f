"""Models that do not pair one mixer with one FFN by rule: hybrids with Mamba, and DBRX with its nested keys."""

from __future__ import annotations

from typing import Any

from afdsim.catalog.config import LAYER_WORDS, MOST_LAYERS, Config, shown
from afdsim.catalog.ffns import all_dense, dense, moe, routed
from afdsim.catalog.llm import Attention, Ffn, Gqa, Layer, Linear, Mamba, Moe
from afdsim.catalog.mixers import gqa, state_dtype

MAMBA_ROLES = ("mamba_heads", "mamba_width", "mamba_state", "mamba_groups", "mamba_conv")


def mamba2(config: Config) -> Linear:
    """Return a Mamba-2 layer: B and C are its keys and queries, of ``mamba_d_state``."""
    heads = config.whole("mamba_heads")
    return Linear(
        heads=heads,
        head_dim=_mamba_width(config, heads),
        key_dim=config.whole("mamba_state"),
        groups=config.whole("mamba_groups", 1),
        scalars=1,
        conv=config.whole("mamba_conv", 4),
        state_dtype=state_dtype(config, "mamba_ssm_cache_dtype"),
    )


def _mamba_width(config: Config, heads: int) -> int:
    """Return the width of a head, by default the share of it in all channels."""
    channels = config.maybe("mamba_d_ssm") if config.has("mamba_d_ssm") else None
    if channels is None:
        channels = config.whole("mamba_expand", 2) * config.whole("hidden_size")
    config.skip("mamba_expand")
    said = config.get("mamba_width")
    width = channels // heads if said in (None, "auto") else config.whole("mamba_width")
    if config.has("mamba_d_ssm") and width * heads != channels:
        raise config.fault("mamba_width", f"such that {heads} heads share {channels} channels")
    return max(1, width)


def granite_hybrid(config: Config) -> list[Attention]:
    """Mamba-2 but where ``layer_types`` says attention (Granite 4)."""
    kinds = config.kinds("layer_types", ("full_attention", "linear_attention"))
    words = kinds or ["linear_attention"] * config.layers
    plain = gqa(config)
    if "linear_attention" not in words:
        config.skip(*MAMBA_ROLES, "mamba_expand")
        return [plain] * config.layers
    linear = mamba2(config)
    return [plain if kind == "full_attention" else linear for kind in words]


def bamba_mixers(config: Config) -> list[Attention]:
    """Mamba-2 but where ``attn_layer_indices`` says attention (Bamba)."""
    chosen = config.indices("attn_layer_indices") or ()
    linear, plain = mamba2(config), gqa(config)
    return [plain if layer in chosen else linear for layer in range(config.layers)]


def jamba_mixers(config: Config) -> list[Attention]:
    """Mamba-1, and attention once a period (Jamba)."""
    hidden = config.whole("hidden_size")
    rank = -(-hidden // 16) if config.get("mamba_dt_rank") in (None, "auto") else config.whole("mamba_dt_rank")
    mamba = Mamba(
        inner=config.whole("mamba_expand", 2) * hidden,
        state_dim=config.whole("mamba_d_state", 16),
        rank=rank,
        conv=config.whole("mamba_d_conv", 4),
    )
    plain = gqa(config)
    period, offset = config.whole("attn_layer_period"), config.whole("attn_layer_offset", least=0)
    return [plain if layer % period == offset else mamba for layer in range(config.layers)]


def jamba_ffns(config: Config) -> list[Ffn]:
    """MoE once a period (Jamba)."""
    if config.whole("experts") == 1:
        config.skip("expert_layer_period", "expert_layer_offset", "top_k")
        return all_dense(config)
    period, offset = config.whole("expert_layer_period"), config.whole("expert_layer_offset", least=0)
    return routed(config, [layer % period == offset for layer in range(config.layers)])


def falcon_h1(config: Config) -> list[Layer]:
    """Mamba-2 and attention side by side in every layer (Falcon-H1)."""
    config.notes.append("attention and Mamba-2 of a layer run side by side; here one follows the other")
    layer = Layer(before=(mamba2(config),), attention=gqa(config), ffn=dense(config))
    return [layer] * config.layers


def dbrx(config: Config) -> list[Layer]:
    """MoE in every layer, its keys in objects of their own (DBRX)."""
    attention, experts = config.part("attn_config"), config.part("ffn_config")
    heads = config.whole("num_attention_heads")
    kv_heads = attention.whole("kv_n_heads")
    if heads % kv_heads:
        raise attention.fault("kv_n_heads", f"a divisor of {heads} attention heads")
    number = experts.whole("moe_num_experts")
    mixer = Gqa(heads=heads, kv_heads=kv_heads, head_dim=max(1, config.whole("hidden_size") // heads))
    top_k = experts.whole("moe_top_k", most=number)
    ffn = Moe(experts=number, top_k=top_k, inner=experts.whole("ffn_hidden_size"))
    return [Layer(attention=mixer, ffn=ffn)] * config.layers


PATTERNS = ("hybrid_override_pattern", "layers_block_type", "layer_types")
LETTERS = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}


def nemotron_h(config: Config) -> list[Layer]:
    """Mamba-2, attention, dense and MoE in the order of a pattern; mixers wait for the next FFN (Nemotron-H)."""
    config.skip("mlp_hidden_act", "mamba_hidden_act", "num_hidden_layers")
    letters = _letters(config)
    if "E" not in letters:
        config.skip("experts", "top_k", "expert_inner", "shared_count", "shared_inner", "moe_latent_size")
    if "M" not in letters:
        config.skip(*MAMBA_ROLES, "mamba_expand")
    layers: list[Layer] = []
    waiting: list[Attention] = []
    for letter in letters:
        if letter in "M*":
            waiting.append(mamba2(config) if letter == "M" else gqa(config))
            continue
        if not waiting:
            raise config.refuse("pattern", f"has an FFN ({letter}) that follows another or none, which is not modelled")
        ffn = _latent_free(config) if letter == "E" else dense(config, gated=False)
        layers.append(Layer(before=tuple(waiting[:-1]), attention=waiting[-1], ffn=ffn))
        waiting = []
    if waiting:
        raise config.refuse("pattern", "ends without an FFN, which is not modelled")
    if len(layers) < len(letters):
        config.notes.append(
            f"{len(letters)} blocks are {len(layers)} layers: mixers are paired with the FFN that follows"
        )
    return layers


def _latent_free(config: Config) -> Moe:
    if config.get("moe_latent_size"):
        raise config.refuse("moe_latent_size", "routes experts in a latent space, which is not modelled")
    return moe(config, gated=False)


def _letters(config: Config) -> str:
    """Return the pattern of a Nemotron-H, a letter a layer."""
    value = _lettered(config.get("pattern"))
    for key in PATTERNS:
        if config.keys.get(key) is not None and _lettered(config.keys[key]) != value:
            raise config.refuse(key, f"contradicts {config.spelled('pattern')}; keep the one that is meant")
    config.skip(*PATTERNS)
    if not isinstance(value, str) or not value or set(value) - set("M*-E") or len(value) > MOST_LAYERS:
        raise config.fault("pattern", "a letter M, *, - or E for each layer")
    said = config.keys.get("num_hidden_layers")
    if said is not None and said != len(value):
        raise config.refuse("pattern", f"has {len(value)} letters, and num_hidden_layers is {shown(said)}")
    return value


def _lettered(value: Any) -> Any:
    """Return a pattern as letters where it is a list of words."""
    if not isinstance(value, list):
        return value
    words = [LAYER_WORDS.get(str(word), str(word)) for word in value]
    return "".join(LETTERS.get(word, "?") for word in words)
