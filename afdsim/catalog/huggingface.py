"""Language models read from a Hugging Face ``config.json``, by its ``model_type``.

The language part of a larger model is taken from its nested config. A key that changes layers is read or refused by
name and value; absent keys have the defaults of the model's configuration class, as engines have them, and a note says
which were taken. Every fault is one message with the file and key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from afdsim.catalog import jsonfile, ledger, quantisation
from afdsim.catalog.config import Config, meant, shown
from afdsim.catalog.families import FAMILIES, Family
from afdsim.catalog.llm import Attention, Gqa, Layer, Llm
from afdsim.errors import CatalogError

NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "language_model", "text_model_config")
"""Keys of larger models that hold the config of their language part."""

OUTER: Mapping[str, str] = {
    "kimi_k25": "deepseek_v3",
    "kimi_vl": "deepseek_v3",
    "deepseek_vl_v2": "deepseek_v2",
    "mistral3": "mistral",
    "cohere2_vision": "cohere2",
    "glm46v": "glm4v",
    "step3p7": "step3p5",
}
"""What the language part of a larger model is where it does not say."""

SIZES = ("hidden_size", "num_hidden_layers", "vocab_size")
"""Roles that only the nested config of a larger model may leave to the defaults of its class."""

POSITIONS = (
    "max_position_embeddings|n_positions|max_seq_len|max_sequence_length|seq_length|model_max_length|max_seq_length"
)
VOCABULARY = "vocab_size|padded_vocab_size"
MOST_POSITIONS = 10**9
BRANDS = "llama, mistral, qwen, gemma, phi, deepseek, kimi, glm, minimax, gpt_oss, granite, nemotron, olmo and others"
"""What families are called, for messages."""


def read(path: Path) -> Llm:
    """Return the model that the `config.json` at `path` describes."""
    inner, *outer = levels = _levels(jsonfile.load(path))
    jsonfile.refuse_strangers(path, inner)
    family, model_type = _family(path, _model_type(levels), inner.get("architectures"))
    config = _config(path, inner, model_type, family, nested=bool(outer))
    layers = tuple(family.read(config))
    hidden, vocab = config.whole("hidden_size"), config.whole("vocab_size")
    tied, positions = _tied(config, outer), _positions(config, nested=bool(outer))
    stored = _weights(path, reversed(levels))
    ledger.settle(config, asked, windows=any(_window(mixer) for layer in layers for mixer in layer.mixers))
    for keys in outer:
        ledger.outside(config, keys)
    return Llm(
        name=(path.resolve().parent.name if path.name == "config.json" else path.stem) or "config",
        hidden=hidden,
        vocab=vocab,
        layers=tuple(_seen(layer, positions) for layer in layers),
        source=f"Hugging Face config {path}",
        tied=tied,
        positions=positions,
        weights=stored.weights,
        unquantised=None if stored.weights else _unquantised(levels),
        projections=stored.projections,
        bits=stored.bits,
        notes=(*stored.notes, *_taken(config), *config.notes, *ledger.beside(inner)),
    )


def _levels(keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the config of the language part, however deep, and what holds it, the outermost last."""
    found = next((keys[key] for key in NESTED if isinstance(keys.get(key), dict) and keys[key]), None)
    return [keys] if found is None else [*_levels(found), keys]


def _model_type(levels: Sequence[Mapping[str, Any]]) -> Any:
    """Return the model type of the language part, or what it is in the model that holds it."""
    inner, *outer = levels
    if inner.get("model_type") is not None or not outer:
        return inner.get("model_type")
    word = next((keys["model_type"] for keys in outer if keys.get("model_type") is not None), None)
    return OUTER.get(str(word), word)


def _family(path: Path, model_type: Any, architectures: Any) -> tuple[Family, str]:
    """Return the family of a model type, and the name of it that the message and the defaults use."""
    if isinstance(model_type, str):
        for name in (model_type, model_type.lower(), model_type.lower().removesuffix("_text")):
            if name in FAMILIES:
                return FAMILIES[name], name
    known = f"known are {len(FAMILIES)} types of {BRANDS}"
    if model_type is None:
        raise CatalogError(f"{path}: model_type: missing; {_architecture(architectures) or known}")
    raise CatalogError(
        f"{path}: model_type: {shown(model_type)} is not known ({_nearest(str(model_type))}{known}); if its layers "
        "equal those of a known one, write that model_type and its keys into a copy"
    )


def _nearest(word: str) -> str:
    """Return the type that a word is a slip of, or those that only sound like it, as a part of a message."""
    slip = meant(word.lower(), FAMILIES)
    if slip:
        return f"did you mean {slip!r}? "
    alike = get_close_matches(word, FAMILIES, n=3, cutoff=0.7)
    return f"nearest in name, with other layers: {', '.join(alike)}; " if alike else ""


def _architecture(names: Any) -> str:
    """Return the model type that the classes of a model point to, as the way out of a message."""
    folded = {name.replace("_", ""): name for name in FAMILIES}
    for name in names if isinstance(names, list) else ():
        stem = re.sub(r"(ForCausalLM|ForConditionalGeneration|LMHeadModel|Model)$", "", str(name)).lower()
        if stem in folded:
            return f'architectures says {name}: write "model_type": "{folded[stem]}" into a copy'
    return ""


def _config(path: Path, keys: Mapping[str, Any], model_type: str, family: Family, *, nested: bool) -> Config:
    defaults = {**family.defaults, **class_defaults(family.like or model_type)}
    if not nested:
        defaults = {key: value for key, value in defaults.items() if key not in SIZES}
    spellings = {"vocab_size": VOCABULARY, "positions": POSITIONS, **family.spell}
    return Config(path=path, model_type=model_type, keys=keys, defaults=defaults, spellings=spellings)


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """Return the defaults of a model's configuration class, by key; none for models that transformers lacks."""
    found = _all_defaults().get(model_type, {})
    return found if isinstance(found, dict) else {}


@cache
def _all_defaults() -> dict[str, Any]:
    text = files("afdsim").joinpath("data", "config_defaults.json").read_text(encoding="utf-8")
    defaults: dict[str, Any] = json.loads(text)
    return defaults


def _tied(config: Config, outer: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether embedding and LM head are one matrix: as the language part says, what holds it, or the class."""
    for keys in (config.keys, *outer):
        value = keys.get("tie_word_embeddings")
        if isinstance(value, bool):
            return value
        if value is not None:
            raise CatalogError(f"{config.path}: tie_word_embeddings: must be true or false (got {shown(value)})")
    return bool(config.defaults.get("tie_word_embeddings", False))


def _positions(config: Config, *, nested: bool) -> int | None:
    """Return the longest sequence that the file states; a nested config may leave it to its class."""
    key = config.spelled("positions")
    if config.keys.get(key) is None:
        found = config.get("positions") if nested else None
        config.asked.add(key)
        if found is None:
            config.notes.append(f"{key}: not in the file, so no length of requests is refused or noted")
        return found
    stated = config.whole("positions", most=MOST_POSITIONS)
    return max(stated, _stretched(config, stated))


def _stretched(config: Config, stated: int) -> int:
    """Return the tokens that a scaling of rotary positions reaches; 0 without it.

    YaRN stretches the original length, which is the stated one where nothing names it (transformers 5.24); linear and
    dynamic scaling stretch the stated one (vLLM), but in Gemma 3, which states what they reach.
    """
    rope = config.keys.get("rope_scaling") or config.keys.get("rope_parameters")
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    if not isinstance(rope, dict) or kind not in ("yarn", "linear", "dynamic") or config.model_type == "gemma3":
        return 0
    said = (part.get("original_max_position_embeddings") for part in (rope, config.keys) if kind == "yarn")
    original = next((value for value in said if value is not None), stated)
    factor = rope.get("factor")
    if not isinstance(factor, int | float) or not isinstance(original, int | float):
        return 0
    return int(factor * original) if 0 < factor * original < MOST_POSITIONS else 0


def _window(mixer: Attention) -> int | None:
    """Return the tokens that a mixer sees at most; None: all."""
    return mixer.window if isinstance(mixer, Gqa) else None


def _seen(layer: Layer, positions: int | None) -> Layer:
    """Return a layer without a window that no sequence outgrows."""
    window = _window(layer.attention)
    if positions is None or window is None or window < positions or not isinstance(layer.attention, Gqa):
        return layer
    return replace(layer, attention=replace(layer.attention, window=None))


def _weights(path: Path, levels: Iterable[Mapping[str, Any]]) -> quantisation.Scheme:
    """Return how a checkpoint is quantised, and what is to be said of it."""
    for keys in levels:
        for key in quantisation.KEYS:
            found = quantisation.scheme(f"{path}: {key}", keys.get(key))
            if found:
                return found
    beside = path.with_name("hf_quant_config.json")
    if path.name == "config.json" and beside.is_file():
        found = quantisation.scheme(f"{beside}: quantization", jsonfile.load(beside).get("quantization"))
        if found:
            return found
    return quantisation.Scheme(weights=None)


def _unquantised(levels: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the dtype that a checkpoint is kept in where nothing quantises it; 16 bits of any kind are BF16."""
    said = (keys.get(key) for keys in levels for key in ("dtype", "torch_dtype"))
    word = next((str(each).removeprefix("torch.") for each in said if each), "")
    return {"bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}.get(word)


@cache
def asked() -> Mapping[str, frozenset[str]]:
    """Return what the reader of every model type asks for, as far as the defaults of its class let it read."""
    found = {}
    for name, family in FAMILIES.items():
        config = _config(Path("config.json"), {}, name, family, nested=True)
        with suppress(CatalogError):
            family.read(config)
        found[name] = frozenset(config.asked)
    return found


def _taken(config: Config) -> list[str]:
    """Return a note on the defaults that stood in for absent keys."""
    changed = {key: value for key, value in config.taken.items() if not ledger.neutral(key, value)}
    found = [f"{key} {value}" for key, value in changed.items()]
    return [f"not in the file, so as {config.model_type} has them by default: {', '.join(found)}"] if found else []
