"""The GPUs and language models that ship with afdsim, found by name; and models read from a `config.json`.

Every entry names its source; one without is an error of the catalog itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from afdsim.catalog.hardware import Gpu, Nic
from afdsim.catalog.huggingface import read as read_config
from afdsim.catalog.llm import Attention, Dense, Ffn, Gqa, Layer, Linear, Llm, Mfa, Mla, Moe
from afdsim.errors import CatalogError

PARTS: Mapping[str, type[Attention | Ffn]] = {
    "mfa": Mfa,
    "mla": Mla,
    "gqa": Gqa,
    "linear": Linear,
    "dense": Dense,
    "moe": Moe,
}


OTHER_NAMES: Mapping[str, str] = {
    "h20-3e": "H20-141GB",
    "h20-96gb": "H20",
    "h100-80gb": "H100",
    "h100-sxm": "H100",
    "h100-sxm5": "H100",
    "h200-141gb": "H200",
    "h200-sxm": "H200",
    "h800-sxm": "H800",
    "a100-80gb": "A100",
    "a100-sxm4-80gb": "A100",
    "a800-80gb": "A800",
    "l20-48gb": "L20",
    "ascend-910b": "910B",
    "gb200-nvl72": "GB200",
    "gb300-nvl72": "GB300",
    "rtx-6000-pro": "RTX PRO 6000",
    "rtx-pro-6000-blackwell": "RTX PRO 6000",
    "rtx6000-pro": "RTX PRO 6000",
}
"""Names under which GPUs of the catalog are known elsewhere, joined by hyphens; what is meant is told, not taken."""


def gpu(name: str) -> Gpu:
    """Return the GPU called `name`, in any case.

    >>> gpu("h800").family
    'H100'
    """
    found = _find(name, gpus())
    if found is None:
        raise CatalogError(_unknown("GPU", name, gpus(), "afdsim list gpus"))
    return read_gpu(found, _entries("gpus.json")[found])


def llm(name_or_path: str | Path) -> Llm:
    """Return the model of that name, in any case, or the one that a Hugging Face `config.json` describes.

    A directory means the `config.json` inside it.

    >>> llm("Step3").layers[4].ffn.top_k
    3
    """
    found = _find(str(name_or_path), llms())
    if found is not None:
        return _catalogued(found)
    path = config_file(Path(name_or_path))
    if path.is_file() or path.suffix == ".json":
        return read_config(path)
    raise CatalogError(_unknown("model", str(name_or_path), llms(), "afdsim list models"))


@cache
def _catalogued(name: str) -> Llm:
    return read_llm(name, _entries("llms.json")[name])


def config_file(path: Path) -> Path:
    """Return the file that holds a model: of a folder its `config.json`."""
    return path / "config.json" if path.is_dir() else path


def gpus() -> tuple[str, ...]:
    """Return the names of all GPUs."""
    return tuple(_entries("gpus.json"))


def llms() -> tuple[str, ...]:
    """Return the names of all language models."""
    return tuple(_entries("llms.json"))


def read_gpu(name: str, entry: Mapping[str, Any]) -> Gpu:
    """Return the GPU that a catalog entry describes."""
    _demand_source(name, entry)
    try:
        fields = {**entry, "nic": Nic(**entry["nic"]), "flops": dict(entry["flops"])}
        return Gpu(name=name, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{name}: not a whole entry of a GPU ({error}); take a shipped one as the pattern") from None


def read_llm(name: str, entry: Mapping[str, Any]) -> Llm:
    """Return the model that a catalog entry describes: named parts, and runs of layers ``[count, "part part"]``."""
    _demand_source(name, entry)
    parts = {key: _part(fields) for key, fields in entry["parts"].items()}
    layers = tuple(
        Layer(**dict(zip(("attention", "ffn"), (parts[key] for key in pair.split()), strict=True)))
        for count, pattern in entry["layers"]
        for pair in ([pattern] if isinstance(pattern, str) else pattern) * count
    )
    return Llm(
        name=name,
        hidden=entry["hidden"],
        vocab=entry["vocab"],
        layers=layers,
        source=entry["source"],
        positions=entry.get("positions"),
    )


def _part(fields: Mapping[str, Any]) -> Any:
    return PARTS[fields["kind"]](**{key: value for key, value in fields.items() if key != "kind"})


def _demand_source(name: str, entry: Mapping[str, Any]) -> None:
    if not str(entry.get("source", "")).strip():
        raise CatalogError(f"catalog entry {name!r} states no source; every figure needs one")


@cache
def _entries(file: str) -> dict[str, Any]:
    text = files("afdsim").joinpath("data", file).read_text(encoding="utf-8")
    entries: dict[str, Any] = json.loads(text)
    return entries


def _find(name: str, known: Iterable[str]) -> str | None:
    return {candidate.casefold(): candidate for candidate in known}.get(name.strip().casefold())


def _unknown(kind: str, name: str, known: tuple[str, ...], command: str) -> str:
    folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    other = OTHER_NAMES.get("-".join(name.casefold().replace("_", " ").replace("-", " ").split()))
    meant = other if other in known else folded[close[0]] if close else None
    hint = f"did you mean '{meant}'? " if meant else ""
    return f"unknown {kind} '{name}'; {hint}{command}"
