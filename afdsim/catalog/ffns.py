"""The FFN of each layer: one function for every way that families of models place dense and MoE layers.

Each returns one FFN per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from afdsim.catalog.config import Config
from afdsim.catalog.llm import Dense, Ffn, Moe

Ffns = Callable[[Config], Sequence[Ffn]]


def moe(config: Config, *, gated: bool = True) -> Moe:
    """Return the MoE layer of a family; shared experts are counted, or given as the width of them all."""
    experts = config.even("experts")
    top_k, inner = config.even("top_k", most=experts), config.even("expert_inner")
    number, width = _shared(config, inner)
    return Moe(experts=experts, top_k=top_k, inner=inner, shared=number, shared_inner=width, gated=gated)


def _shared(config: Config, inner: int) -> tuple[int, int]:
    """Return (number, width) of the shared experts, (0, 0) without any."""
    if not (config.has("shared_count") or config.has("shared_inner")):
        return 0, 0
    number, width = 1, inner if config.has("shared_count") else 0
    if config.has("shared_count"):
        number = 0 if config.get("shared_count") is None else config.even("shared_count", least=0)
    if config.has("shared_inner") and config.get("shared_inner") is not None:
        width = config.even("shared_inner", least=0)
    return (number, width) if number and width else (0, 0)


def dense(config: Config, *, gated: bool = True) -> Dense:
    """Return the FFN of a dense layer."""
    return Dense(inner=config.even("intermediate_size"), gated=gated)


def all_dense(config: Config) -> list[Ffn]:
    """Every FFN is dense and gated."""
    return [dense(config)] * config.layers


def ungated(config: Config) -> list[Ffn]:
    """Every FFN is dense, of two matrices (Nemotron, Arcee, Apertus, StarCoder2)."""
    config.skip("hidden_act", "activation")
    return [dense(config, gated=False)] * config.layers


def all_moe(config: Config) -> list[Ffn]:
    """Every FFN is MoE."""
    return [moe(config)] * config.layers


def routed(config: Config, where: Sequence[bool]) -> list[Ffn]:
    """Return MoE where true; the keys of dense layers are read only if one needs them."""
    sparse = moe(config)
    plain = sparse if all(where) else dense(config)
    return [sparse if chosen else plain for chosen in where]


def after_dense(config: Config) -> list[Ffn]:
    """MoE after the first dense layers (DeepSeek, Kimi, GLM), in every ``moe_layer_freq``-th or as listed."""
    kinds = config.kinds("mlp_layer_types", ("dense", "sparse")) if config.has("mlp_layer_types") else None
    if kinds is not None:
        config.skip("first_dense", "moe_layer_freq")
        return routed(config, [kind == "sparse" for kind in kinds])
    step = config.get("moe_layer_freq") if config.has("moe_layer_freq") else 1
    if isinstance(step, list):
        config.skip("first_dense")
        chosen = config.numbers("moe_layer_freq") or ()
        config.per_layer("moe_layer_freq", chosen)
        return routed(config, [bool(one) for one in chosen])
    first = config.whole("first_dense", 0, least=0)
    step = config.whole("moe_layer_freq", 1) if config.has("moe_layer_freq") else 1
    return routed(config, [layer >= first and layer % step == 0 for layer in range(config.layers)])


def sparse_steps(config: Config) -> list[Ffn]:
    """MoE in every ``decoder_sparse_step``-th layer but those in ``mlp_only_layers`` (Qwen)."""
    step = config.whole("decoder_sparse_step", 1)
    plain = config.indices("mlp_only_layers") or ()
    return routed(config, [layer not in plain and (layer + 1) % step == 0 for layer in range(config.layers)])


def ernie(config: Config) -> list[Ffn]:
    """MoE from ``moe_layer_start_index`` to ``moe_layer_end_index``, at intervals (ERNIE 4.5)."""
    kinds = config.kinds("mlp_layer_types", ("dense", "sparse"))
    if kinds is not None:
        config.skip("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
        return routed(config, [kind == "sparse" for kind in kinds])
    first = config.whole("moe_layer_start_index", 1, least=0)
    last = config.whole("moe_layer_end_index", -1, least=-1)
    step = config.whole("moe_layer_interval", 1)
    last = config.layers - 1 if last == -1 else last
    return routed(config, [first <= i <= last and (i + 1) % step == 0 for i in range(config.layers)])


def listed(config: Config) -> list[Ffn]:
    """MoE where ``moe_layers_enum`` or, in newer files, ``mlp_layer_types`` says (Step-3, Step-3.5)."""
    kinds = config.kinds("mlp_layer_types", ("dense", "sparse")) if config.has("mlp_layer_types") else None
    if kinds is not None:
        config.skip("moe_layers_enum")
        return routed(config, [kind == "sparse" for kind in kinds])
    chosen = config.indices("moe_layers_enum")
    if chosen is None:
        raise config.fault("moe_layers_enum", "a list of whole numbers")
    return routed(config, [layer in chosen for layer in range(config.layers)])


def llama4_ffns(config: Config) -> list[Ffn]:
    """MoE with one shared expert of the routed ones' width, interleaved with wider dense layers (Llama 4)."""
    step = config.whole("interleave_moe_layer_step", 1)
    chosen = config.indices("moe_layers") or tuple(range(step - 1, config.layers, step))
    sparse = moe(config)
    sparse = replace(sparse, shared=1, shared_inner=sparse.inner)
    where = [layer in chosen for layer in range(config.layers)]
    config.skip("intermediate_size_mlp")
    plain = sparse if all(where) else Dense(inner=config.whole("intermediate_size_mlp"))
    return [sparse if one else plain for one in where]


def granite_ffns(config: Config) -> list[Ffn]:
    """MoE beside a shared expert, or the shared expert alone (Granite 4)."""
    if config.count("experts") == 0:
        config.skip("top_k", "expert_inner")
        return [Dense(inner=config.whole("shared_inner"))] * config.layers
    return all_moe(config)


def hunyuan_ffns(config: Config) -> list[Ffn]:
    """MoE in every layer, its shared experts as wide as ``intermediate_size`` each (Hunyuan)."""
    if config.flag("use_cla"):
        raise config.refuse("use_cla", "shares caches between layers, which is not modelled")
    sparse = moe(config)
    return [replace(sparse, shared_inner=config.whole("intermediate_size") if sparse.shared else 0)] * config.layers
