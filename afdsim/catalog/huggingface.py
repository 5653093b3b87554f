"""Language models read from a Hugging Face ``config.json``, by its ``model_type``.

A vision model's language part is taken from its ``text_config``. Every fault is one message with the file and key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from afdsim.catalog.llm import Attention, Dense, Ffn, Gqa, Layer, Linear, Llm, Mfa, Mla, Moe
from afdsim.errors import CatalogError

LARGEST = 10**7
"""No dimension of a language model is larger; a bigger number is a slip, and would only exhaust memory."""

MOST_LAYERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The keys of one model, read with a check each."""

    path: Path
    model_type: str
    keys: Mapping[str, Any]

    def fault(self, key: str, demand: str) -> CatalogError:
        """Return the error that says what `key` must be."""
        if key not in self.keys:
            return CatalogError(f"{self.path}: {key}: missing; a {self.model_type} config needs it")
        return CatalogError(f"{self.path}: {key}: must be {demand} (got {_shown(self.keys[key])})")

    def whole(self, key: str, default: int | None = None, *, least: int = 1, most: int = LARGEST) -> int:
        """Return a whole number; `default`, where there is one, also stands for null."""
        value = self.keys.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.fault(key, f"a whole number from {least:,} to {most:,}")
        return value

    def maybe(self, key: str) -> int | None:
        """Return a whole number, or None where the key is absent or null."""
        return None if self.keys.get(key) is None else self.whole(key)

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """Return a list of whole numbers, also written as "4,5,6"; None where the key is absent or null."""
        value = self.keys.get(key)
        if value is None:
            return None
        items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list) or any(not isinstance(item, int | str) or item is True for item in items):
            raise self.fault(key, "a list of whole numbers")
        try:
            return tuple(int(item) for item in items)
        except ValueError:
            raise self.fault(key, "a list of whole numbers") from None

    def words(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings; None where the key is absent or null."""
        value = self.keys.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fault(key, "a list of names")
        return tuple(value)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.whole("num_hidden_layers", most=MOST_LAYERS)

    def per_layer(self, key: str, found: Collection[Any]) -> None:
        """Demand one entry per layer of the list `found` under `key`."""
        if len(found) != self.layers:
            raise self.fault(key, f"one entry for each of the {self.layers} layers, not {len(found)}")


def read(path: Path) -> Llm:
    """Return the model that the `config.json` at `path` describes."""
    keys = _load(path)
    outer = keys.get("model_type")
    if isinstance(keys.get("text_config"), dict):
        keys = keys["text_config"]
    model_type = keys.get("model_type", outer)
    reader = READERS.get(model_type) if isinstance(model_type, str) else None
    if reader is None:
        raise CatalogError(
            f"{path}: model_type: {_shown(model_type)} is not known (known: {', '.join(READERS)}); if its layers equal "
            "one of these, write that model_type and its keys into a copy"
        )
    config = Config(path=path, model_type=str(model_type), keys=keys)
    layers = tuple(reader(config))
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return Llm(
        name=name or "config",
        hidden=config.whole("hidden_size"),
        vocab=config.whole("vocab_size"),
        layers=layers,
        source=f"Hugging Face config {path}",
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        raise CatalogError(f"{path}:{error.lineno}:{error.colno}: is no JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{path}: is no JSON text in UTF-8 ({type(error).__name__})") from error
    if not isinstance(keys, dict):
        raise CatalogError(f"{path}: must hold a JSON object, the config of a model (got {_shown(keys)})")
    return keys


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _gqa(config: Config, *, window: int | None = None) -> Gqa:
    """Return grouped-query attention; without ``head_dim`` the heads share the hidden size."""
    heads = config.whole("num_attention_heads")
    kv_heads = config.whole("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.fault("num_key_value_heads", f"a divisor of {heads} attention heads")
    head_dim = config.whole("head_dim", max(1, config.whole("hidden_size") // heads))
    return Gqa(heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window)


def _moe(config: Config, experts: str, top_k: str, inner: str, shared: tuple[int, int] = (0, 0)) -> Moe:
    """Return an MoE layer from the names of its keys; `shared` is (count, inner width)."""
    count = config.whole(experts)
    active = config.whole(top_k, most=count)
    number, width = shared if all(shared) else (0, 0)
    return Moe(experts=count, top_k=active, inner=config.whole(inner), shared=number, shared_inner=width)


def _dense(config: Config, inner: str = "intermediate_size") -> Dense:
    return Dense(inner=config.whole(inner))


def _stack(config: Config, attention: Attention, dense: Callable[[], Ffn], moe: Ffn, where: list[bool]) -> list[Layer]:
    """Return layers of one attention with `moe` where true; `dense` keys are read only if a layer needs them."""
    plain = moe if all(where) else dense()
    return [Layer(attention=attention, ffn=moe if routed else plain) for routed in where]


def _deepseek(config: Config) -> list[Layer]:
    """DeepSeek-V2/V3/R1, Kimi K2: MLA; MoE after the first dense layers."""
    attention = Mla(
        heads=config.whole("num_attention_heads"),
        kv_rank=config.whole("kv_lora_rank"),
        rope_dim=config.whole("qk_rope_head_dim"),
        nope_dim=config.whole("qk_nope_head_dim"),
        v_dim=config.whole("v_head_dim"),
        q_rank=config.maybe("q_lora_rank"),
    )
    shared = config.whole("n_shared_experts", 0, least=0), config.whole("moe_intermediate_size")
    moe = _moe(config, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", shared)
    first = config.whole("first_k_dense_replace", 0, least=0)
    every = config.whole("moe_layer_freq", 1)
    where = [layer >= first and layer % every == 0 for layer in range(config.layers)]
    return _stack(config, attention, lambda: _dense(config), moe, where)


def _plain(config: Config) -> list[Layer]:
    """Llama, Qwen2, Qwen3: grouped-query attention and a dense FFN."""
    return [Layer(attention=_gqa(config), ffn=_dense(config))] * config.layers


def _qwen_moe(config: Config) -> list[Layer]:
    """Qwen3-MoE: every ``decoder_sparse_step``-th layer is MoE but those in ``mlp_only_layers``."""
    moe = _moe(config, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    every = config.whole("decoder_sparse_step", 1)
    dense = config.numbers("mlp_only_layers") or ()
    where = [layer not in dense and (layer + 1) % every == 0 for layer in range(config.layers)]
    return _stack(config, _gqa(config), lambda: _dense(config), moe, where)


def _mixtral(config: Config) -> list[Layer]:
    """Mixtral and MiniMax-M2: every layer is MoE, with an optional sliding window."""
    shared = 1, config.whole("shared_intermediate_size", 0, least=0)
    moe = _moe(config, "num_local_experts", "num_experts_per_tok", "intermediate_size", shared)
    return [Layer(attention=_gqa(config, window=config.maybe("sliding_window")), ffn=moe)] * config.layers


def _llama4(config: Config) -> list[Layer]:
    """Llama 4: chunked attention but where ``no_rope_layers`` is 0; MoE interleaved, with one shared expert."""
    shared = 1, config.whole("intermediate_size")
    moe = _moe(config, "num_local_experts", "num_experts_per_tok", "intermediate_size", shared)
    every = config.whole("interleave_moe_layer_step", 1)
    routed = config.numbers("moe_layers") or tuple(range(every - 1, config.layers, every))
    interval = config.whole("no_rope_layer_interval", 4)
    rope = config.numbers("no_rope_layers") or tuple(int((i + 1) % interval != 0) for i in range(config.layers))
    config.per_layer("no_rope_layers", rope)
    full, chunked = _gqa(config), _gqa(config, window=config.maybe("attention_chunk_size"))
    where = [layer in routed for layer in range(config.layers)]
    stack = _stack(config, full, lambda: _dense(config, "intermediate_size_mlp"), moe, where)
    return [replace(layer, attention=chunked) if local else layer for layer, local in zip(stack, rope, strict=True)]


def _minimax(config: Config) -> list[Layer]:
    """MiniMax-Text-01 and M1: lightning attention but where the list of kinds says full."""
    full = _gqa(config)
    linear = Linear(heads=full.heads, head_dim=full.head_dim)
    key = "layer_types" if config.keys.get("layer_types") is not None else "attn_type_list"
    if key == "layer_types":
        kinds = [word == "full_attention" for word in config.words(key) or ()]
    else:
        kinds = [bool(kind) for kind in config.numbers(key) or ()]
    config.per_layer(key, kinds)
    shared = 1, config.whole("shared_intermediate_size", 0, least=0)
    moe = _moe(config, "num_local_experts", "num_experts_per_tok", "intermediate_size", shared)
    return [Layer(attention=full if kind else linear, ffn=moe) for kind in kinds]


def _step3(config: Config) -> list[Layer]:
    """Step-3: MFA with one KV group; MoE where ``moe_layers_enum`` says."""
    config.whole("num_attention_groups", 1, most=1)
    attention = Mfa(
        heads=config.whole("num_attention_heads"),
        head_dim=config.whole("head_dim"),
        q_rank=config.whole("share_q_dim"),
    )
    shared = 1, config.whole("share_expert_dim", 0, least=0)
    moe = _moe(config, "moe_num_experts", "moe_top_k", "moe_intermediate_size", shared)
    routed = config.numbers("moe_layers_enum")
    if routed is None:
        raise config.fault("moe_layers_enum", "a list of whole numbers")
    where = [layer in routed for layer in range(config.layers)]
    return _stack(config, attention, lambda: _dense(config), moe, where)


READERS: Mapping[str, Callable[[Config], list[Layer]]] = MappingProxyType(
    {
        "deepseek_v2": _deepseek,
        "deepseek_v3": _deepseek,
        "kimi_k2": _deepseek,
        "llama": _plain,
        "qwen2": _plain,
        "qwen3": _plain,
        "qwen3_moe": _qwen_moe,
        "mixtral": _mixtral,
        "minimax_m2": _mixtral,
        "llama4": _llama4,
        "llama4_text": _llama4,
        "minimax": _minimax,
        "minimax_m1": _minimax,
        "minimax_text_01": _minimax,
        "step3_text": _step3,
        "step3_vl": _step3,
    }
)
"""Reader of the layers by `model_type`."""
