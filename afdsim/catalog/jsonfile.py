"""One JSON file of a model, in any encoding of JSON; what is no config of a decoder is named as what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afdsim.catalog.config import shown
from afdsim.errors import CatalogError

OTHERS: Mapping[bytes, str] = {
    b"GGUF": "is a GGUF file of llama.cpp; take the config.json of the model that it was made from",
    b"version https://git-lfs": "is a placeholder of Git LFS, not the file; fetch it with 'git lfs pull'",
    b"PK\x03\x04": "is a zip archive (PyTorch weights are one); take the config.json beside it",
    b"<": "is a web page or XML, not JSON; download the file itself (on Hugging Face: resolve/ in place of blob/)",
}
"""How files begin that are no JSON, and what they are."""

ENCODERS = (
    "albert bert big_bird camembert deberta deberta-v2 distilbert electra ernie esm eurobert longformer modernbert "
    "mpnet nomic_bert rembert roberta roformer xlm-roberta xlm-roberta-xl"
)
TRANSLATORS = (
    "bart blenderbot encoder-decoder fsmt led longt5 m2m_100 marian mbart mt5 mvp nllb-moe pegasus prophetnet "
    "switch_transformers t5 t5gemma t5gemma2 udop umt5 whisper"
)
SEERS = "clip clip_text_model clip_vision_model convnext dinov2 resnet siglip siglip2 swin vit wav2vec2 wavlm"


def load(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, in UTF-8, UTF-16 or UTF-32, with a byte order mark or without."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CatalogError(f"{path}: cannot be read ({error.strerror or error})") from error
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding)
        _refuse_others(path, data, text)
        keys = json.loads(text)
    except json.JSONDecodeError as error:
        raise CatalogError(f"{path}:{error.lineno}:{error.colno}: is no JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        _refuse_others(path, data, "?")
        raise CatalogError(
            f"{path}: is no JSON text in {encoding.upper()} ({error.reason}); save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{path}: is no JSON that can be read ({type(error).__name__})") from error
    if not isinstance(keys, dict):
        raise CatalogError(f"{path}: must hold a JSON object, the config of a model (got {shown(keys)})")
    return keys


def _refuse_others(path: Path, data: bytes, text: str) -> None:
    """Refuse a file whose first bytes, or whose first characters in its own encoding, are those of another kind."""
    if not text.strip():
        raise CatalogError(f"{path}: is empty; a model is the JSON object of its config.json")
    for head in (data.lstrip(), text.lstrip()[:40].encode()):
        for begin, what in OTHERS.items():
            if head.startswith(begin):
                raise CatalogError(f"{path}: {what}")


def refuse_strangers(path: Path, keys: Mapping[str, Any]) -> None:
    """Refuse the config of something that is no decoder, and say what it is."""
    key, what = _stranger(keys)
    if what:
        raise CatalogError(f"{path}: {key}: {shown(keys[key])} {what}")


def _stranger(keys: Mapping[str, Any]) -> tuple[str, str]:
    """Return the key that tells what a config is of, and what; nothing where it may be of a decoder."""
    if "peft_type" in keys:
        base = keys.get("base_model_name_or_path")
        return "peft_type", f"is an adapter, not a model; take the config.json of its base ({shown(base)})"
    if "_class_name" in keys and "model_type" not in keys:
        return "_class_name", "is a part of a diffusers pipeline, which generates no tokens"
    word = keys.get("model_type")
    if word in ENCODERS.split():
        return "model_type", "is an encoder: it generates no tokens, and is not modelled"
    if word in TRANSLATORS.split():
        return "model_type", "is an encoder with a decoder: attention between the two is not modelled"
    return (
        ("model_type", "sees or hears and generates no text: it is not modelled") if word in SEERS.split() else ("", "")
    )
