"""The dtype of a quantised checkpoint, from ``quantization_config`` and its kin, and what it leaves wider."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afdsim.catalog.config import shown
from afdsim.catalog.llm import WIDTH
from afdsim.errors import CatalogError

KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of a `config.json`, or of an ``hf_quant_config.json`` beside it, that hold a scheme."""

METHODS: Mapping[str, str] = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "ptpc_fp8": "fp8",
    "mxfp8": "fp8",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
    "modelopt_fp4": "fp4",
    "eetq": "int8",
    "w8a8_int8": "int8",
    "experts_int8": "int8",
    "compressed-tensors-int8": "int8",
}
"""Dtype of methods that have one format."""

ALGORITHMS: Mapping[str, str] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8",
    "MXFP8": "fp8",
    "FP4": "fp4",
    "NVFP4": "fp4",
    "NVFP4_AWQ": "fp4",
    "MXFP4": "fp4",
    "W4A8_MXFP4_FP8": "fp4",
    "W4A16_AWQ": "int4",
    "W4A16": "int4",
    "INT4_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "INT8_SQ": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W8A16": "int8",
}
"""Dtype by ``quant_algo`` of NVIDIA ModelOpt."""

INTEGER_BITS: Mapping[int, str] = {4: "int4", 8: "int8"}
FLOAT_BITS: Mapping[int, str] = {4: "fp4", 8: "fp8"}

BY_BITS = ("gptq", "gptq_marlin", "awq", "awq_marlin", "auto-round", "auto_round", "hqq", "intel/auto-round")
"""Integer methods whose file states the bits; MLX names none and states bits and group size."""

SKIPPED = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules", "exclude")
"""Lists of modules that are not quantised."""

PARTS: Mapping[str, str] = {
    r"attn|attention|\b[qkvo]_proj|in_proj|out_proj|mamba": "attention projections",
    r"shared_experts?(?!_gate)|shared_mlp": "shared experts",
    r"mlp\.(?!gate$|router|shared|experts)": "dense FFN",
}
"""What a skipped module belongs to, where that is more than a gate, a norm, the embedding or the LM head."""

OTHERS = re.compile(r"vis|audio|mtp|conv1d|in_proj_(a|b|ba)$")
"""Skipped modules that are no matrices of the language model's layers, or small ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How a checkpoint is quantised."""

    weights: str | None
    """None where only the KV cache is quantised."""
    notes: tuple[str, ...] = ()


def scheme(where: str, found: Any) -> Scheme | None:
    """Return the scheme of the object `found`, None where it quantises nothing; `where` names file and key."""
    if found in (None, {}, False):
        return None
    if not isinstance(found, dict):
        raise CatalogError(f"{where}: must be an object with quant_method or quant_algo (got {shown(found)})")
    widths = _widths(where, found)
    if not widths:
        return Scheme(weights=None, notes=tuple(_cache(found)))
    narrowest = min(widths, key=lambda dtype: WIDTH[dtype])
    mixed = sorted(set(widths) - {narrowest})
    notes = [f"parts of the checkpoint are {', '.join(mixed)}, not {narrowest}"] if mixed else []
    return Scheme(weights=narrowest, notes=(*notes, *_kept_wide(found, narrowest), *_cache(found)))


def _widths(where: str, found: Mapping[str, Any]) -> list[str]:
    """Return the dtypes of all parts that the scheme quantises."""
    if "quant_algo" in found:
        return [] if found["quant_algo"] is None else _algorithms(where, found, found["quant_algo"])
    if isinstance(found.get("config_groups"), dict):
        return _groups(where, found["config_groups"])
    method = str(found.get("quant_method") or found.get("mode") or "").lower()
    if method in METHODS:
        return [METHODS[method]]
    if method in BY_BITS or (found.get("quant_method") is None and "group_size" in found):
        return [_bits(where, found, ("bits", "w_bit", "wbits", "nbits"), INTEGER_BITS)]
    if method in ("bitsandbytes", "bnb"):
        return _bitsandbytes(where, found)
    if method == "quark":
        return _quark(where, found)
    raise _unknown(where, "quant_method", found.get("quant_method"))


def _unknown(where: str, key: str, value: object) -> CatalogError:
    return CatalogError(
        f"{where}.{key}: {shown(value)} is not known (known: fp8, int8, fp4 and int4 in the words of FP8, ModelOpt, "
        "compressed-tensors, GPTQ, AWQ, bitsandbytes, MXFP4 and Quark); take the key out and set the precision"
    )


def _algorithms(where: str, found: Mapping[str, Any], algorithm: object) -> list[str]:
    """Return the dtypes that ModelOpt names; of a mix, those of its layers."""
    layers = found.get("quantized_layers")
    if str(algorithm).upper() == "MIXED_PRECISION" and isinstance(layers, dict) and layers:
        algorithms = {str(layer.get("quant_algo")) for layer in layers.values() if isinstance(layer, dict)}
        return [dtype for name in sorted(algorithms) for dtype in _algorithms(where, {}, name)]
    dtype = ALGORITHMS.get(str(algorithm).upper())
    if dtype is None:
        raise _unknown(where, "quant_algo", algorithm)
    return [dtype]


def _groups(where: str, groups: Mapping[str, Any]) -> list[str]:
    """Return the dtypes of the weights of every group of compressed-tensors."""
    weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
    return [_numbers(f"{where}.config_groups", one) for one in weights if isinstance(one, dict)]


def _numbers(where: str, weights: Mapping[str, Any]) -> str:
    table = FLOAT_BITS if weights.get("type") == "float" else INTEGER_BITS
    return _bits(where, weights, ("num_bits",), table)


def _bits(where: str, found: Mapping[str, Any], keys: tuple[str, ...], table: Mapping[int, str]) -> str:
    """Return the dtype of as many bits as the first of `keys` says."""
    key = next((key for key in keys if found.get(key) is not None), keys[0])
    bits = found.get(key)
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in table:
        raise _unknown(where, key, bits)
    return table[bits]


def _bitsandbytes(where: str, found: Mapping[str, Any]) -> list[str]:
    if found.get("load_in_4bit") or found.get("_load_in_4bit"):
        return ["int4"]
    if found.get("load_in_8bit") or found.get("_load_in_8bit"):
        return ["int8"]
    raise _unknown(where, "load_in_4bit", found.get("load_in_4bit"))


def _quark(where: str, found: Mapping[str, Any]) -> list[str]:
    """Return the dtype of the weights in AMD Quark's global scheme."""
    overall = found.get("global_quant_config")
    weight = overall.get("weight") if isinstance(overall, dict) else None
    dtype = weight.get("dtype") if isinstance(weight, dict) else None
    for word in ("fp8", "fp4", "int8", "int4"):
        if isinstance(dtype, str) and dtype.startswith(word):
            return [word]
    raise _unknown(where, "global_quant_config.weight.dtype", dtype)


def _kept_wide(found: Mapping[str, Any], dtype: str) -> list[str]:
    """Return a note on the matrices of layers that the scheme leaves wider."""
    lists = [found[key] for key in SKIPPED if isinstance(found.get(key), list)]
    names = [str(name).replace("\\", "") for skipped in lists for name in skipped]
    names = [name for name in names if not OTHERS.search(name)]
    parts = [part for pattern, part in PARTS.items() if any(re.search(pattern, name) for name in names)]
    return [f"the checkpoint leaves {' and '.join(parts)} wider than {dtype}"] if parts else []


def _cache(found: Mapping[str, Any]) -> list[str]:
    """Return a note on a KV cache that the checkpoint has scales for."""
    cache = found.get("kv_cache_scheme") or found.get("kv_cache_quant_algo")
    if not cache:
        return []
    words = f"{cache.get('num_bits')} bits" if isinstance(cache, dict) else str(cache)
    return [f"the checkpoint has scales for a KV cache of {words}"]
