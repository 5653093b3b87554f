"""Language models read from a Hugging Face ``config.json``, by its ``model_type``.

The language part of a larger model is taken from its nested config. A key that changes layers is read or refused by
name and value; absent keys have the defaults of the model's configuration class, as engines have them, and a note says
which were taken. Every fault is one message with the file and key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from afdsim.catalog import ledger, quantisation
from afdsim.catalog.config import Config, shown
from afdsim.catalog.families import FAMILIES, Family
from afdsim.catalog.llm import Llm
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


def read(path: Path) -> Llm:
    """Return the model that the `config.json` at `path` describes."""
    keys = _load(path)
    inner, outer_type = _language_part(keys)
    nested = inner is not keys
    family, model_type = _family(path, inner.get("model_type", OUTER.get(str(outer_type), outer_type)))
    config = _config(path, inner, model_type, family, nested=nested)
    layers = tuple(family.read(config))
    hidden, vocab = config.whole("hidden_size"), config.whole("vocab_size")
    tied, positions = _tied(config, keys), _positions(config, nested=nested)
    weights, notes = _weights(path, keys, inner)
    ledger.settle(config, asked)
    return Llm(
        name=(path.resolve().parent.name if path.name == "config.json" else path.stem) or "config",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        source=f"Hugging Face config {path}",
        tied=tied,
        positions=positions,
        weights=weights,
        notes=(*notes, *_taken(config), *config.notes, *ledger.beside(inner)),
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
        raise CatalogError(f"{path}: must hold a JSON object, the config of a model (got {shown(keys)})")
    return keys


def _language_part(keys: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the config of the language part, however deep, and the model type of what holds it."""
    outer = keys.get("model_type")
    found = next((keys[key] for key in NESTED if isinstance(keys.get(key), dict) and keys[key]), None)
    if found is None:
        return keys, outer
    inner, inner_type = _language_part(found)
    return inner, outer if inner_type is None else inner_type


def _family(path: Path, model_type: Any) -> tuple[Family, str]:
    """Return the family of a model type, and the name of it that the message and the defaults use."""
    if isinstance(model_type, str):
        for name in (model_type, model_type.lower(), model_type.lower().removesuffix("_text")):
            if name in FAMILIES:
                return FAMILIES[name], name
    close = get_close_matches(str(model_type), FAMILIES, n=1, cutoff=0.7)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise CatalogError(
        f"{path}: model_type: {shown(model_type)} is not known ({hint}known: {', '.join(sorted(FAMILIES))}); if its "
        "layers equal one of these, write that model_type and its keys into a copy"
    )


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


def _tied(config: Config, outer: Mapping[str, Any]) -> bool:
    """Return whether embedding and LM head are one matrix: as the language part says, the whole, or the class."""
    for keys in (config.keys, outer):
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
        return config.defaults.get(key) if nested else None
    return max(config.whole("positions", most=10**9), _stretched(config.keys))


def _stretched(keys: Mapping[str, Any]) -> int:
    """Return the tokens that YaRN stretches the original ones to; 0 without it."""
    rope = keys.get("rope_scaling") or keys.get("rope_parameters")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "yarn":
        return 0
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isinstance(original, int | float):
        return 0
    return int(factor * original) if 0 < factor * original < 10**9 else 0


def _weights(path: Path, *parts: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return the dtype of a quantised checkpoint and what is to be said of it."""
    for keys in parts:
        for key in quantisation.KEYS:
            found = quantisation.scheme(f"{path}: {key}", keys.get(key))
            if found:
                return found.weights, found.notes
    beside = path.with_name("hf_quant_config.json")
    if path.name == "config.json" and beside.is_file():
        found = quantisation.scheme(f"{beside}: quantization", _load(beside).get("quantization"))
        if found:
            return found.weights, found.notes
    return None, ()


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
