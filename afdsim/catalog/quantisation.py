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
    "eetq": "w8a16",
    "w8a8_int8": "int8",
    "experts_int8": "w8a16",
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
    "W8A16": "w8a16",
}
"""Dtype by ``quant_algo`` of NVIDIA ModelOpt."""

INTEGER_BITS: Mapping[int, str] = {4: "int4", 8: "int8"}
WEIGHT_ONLY: Mapping[int, str] = {4: "int4", 8: "w8a16"}
FLOAT_BITS: Mapping[int, str] = {4: "fp4", 8: "fp8"}

TORCHAO: Mapping[str, str] = {
    "int4_weight_only": "int4",
    "int8_dynamic_activation_int4_weight": "int4",
    "float8_dynamic_activation_int4_weight": "int4",
    "int8_weight_only": "w8a16",
    "float8_weight_only": "w8a16",
    "int8_dynamic_activation_int8_weight": "int8",
    "int8_static_activation_int8_weight": "int8",
    "float8_dynamic_activation_float8_weight": "fp8",
    "nvfp4_dynamic_activation_nvfp4_weight": "fp4",
    "nvfp4_weight_only": "fp4",
}
"""Dtype by ``quant_type`` of torchao, whose classes (Int4WeightOnlyConfig) say the same words."""

QUANTO: Mapping[str, str] = {"int4": "int4", "int8": "w8a16", "float8": "w8a16"}
"""Dtype by ``weights`` of Quanto, where activations are not quantised alike."""

ASKS: Mapping[str, str] = {"modelopt": "quant_algo", "compressed-tensors": "config_groups"}
"""Methods that say nothing without another key."""

BY_BITS = ("gptq", "gptq_marlin", "awq", "awq_marlin", "auto-round", "auto_round", "metal", "intel/auto-round")
"""Integer methods whose file states the bits; MLX names none and states bits and group size."""

SKIPPED = (
    "ignore",
    "ignored_layers",
    "modules_to_not_convert",
    "exclude_modules",
    "exclude",
    "skip_modules",
    "llm_int8_skip_modules",
)
"""Lists of modules that are not quantised."""

WIDE = "bf16"
"""Dtype of what is not quantised."""
ATTENTION = "attention projections"
AT_ATTENTION = r"attn|attention|\b[qkvo]_proj"
PARTS: Mapping[str, str] = {
    r"attn|attention|\b[qkvo]_proj|in_proj|out_proj|mamba": ATTENTION,
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
    projections: str | None = None
    """Of the projections of attention."""
    bits: float | None = None
    """Of one weight, scales included."""
    notes: tuple[str, ...] = ()


def scheme(where: str, found: Any) -> Scheme | None:
    """Return the scheme of the object `found`, None where it quantises nothing; `where` names file and key."""
    if found in (None, {}, False):
        return None
    if not isinstance(found, dict):
        raise CatalogError(f"{where}: must be an object with quant_method or quant_algo (got {shown(found)})")
    if isinstance(found.get("quantization"), dict):
        return scheme(f"{where}.quantization", found["quantization"])
    found = {**_nested(found), **found}
    widths = _widths(where, found)
    if not widths:
        return Scheme(weights=None, notes=tuple(_cache(found)))
    narrowest = min(widths, key=lambda dtype: WIDTH[dtype])
    mixed = sorted(set(widths) - {narrowest})
    notes = [f"parts of the checkpoint are {', '.join(mixed)}, not {narrowest}"] if mixed else []
    wide = _kept_wide(found)
    own = _of_attention(where, found) or narrowest
    notes += [f"the checkpoint leaves {' and '.join(wide)} wider than {narrowest}"] if wide else []
    return Scheme(
        weights=narrowest,
        projections=WIDE if ATTENTION in wide else own,
        bits=_stored_bits(found, narrowest),
        notes=(*notes, *_cache(found)),
    )


def _nested(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what HQQ (``quant_config.weight_quant_params``) and torchao (``quant_type.default._data``) nest."""
    inner: Any = found
    path = {"hqq": ("quant_config", "weight_quant_params"), "torchao": ("quant_type", "default", "_data")}
    for key in path.get(str(found.get("quant_method")).lower(), ("",)):
        inner = inner.get(key) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else {}


def _stored_bits(found: Mapping[str, Any], dtype: str) -> float:
    """Return the bits of one weight with its scales: BF16 scales (and zero points) of INT4, FP8 ones of FP4."""
    if dtype not in ("int4", "fp4"):
        return 8.0 * WIDTH[dtype]
    if str(found.get("quant_method")).lower() in ("bitsandbytes", "bnb"):  # an FP32 maximum per 64, itself in 8 bits
        return 4.127 if found.get("bnb_4bit_use_double_quant") else 4.5
    group = _group_size(found) or (128 if dtype == "int4" else 32 if "mxfp4" in str(found).lower() else 16)
    zeros = 4.0 if found.get("zero_point") or found.get("sym") is False else 0.0
    return 4.0 + ((16.0 if dtype == "int4" else 8.0) + zeros) / group


def _group_size(found: Mapping[str, Any]) -> int | None:
    """Return how many weights share a scale, where the scheme says it."""
    groups = found.get("config_groups")
    parts = (
        [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        if isinstance(groups, dict)
        else []
    )
    overall = found.get("global_quant_config")
    parts += [overall.get("weight")] if isinstance(overall, dict) else []
    keys = ("group_size", "q_group_size")
    sizes = [part.get(key) for part in (found, *parts) if isinstance(part, dict) for key in keys]
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def _of_attention(where: str, found: Mapping[str, Any]) -> str | None:
    """Return the dtype of the group of compressed-tensors that is aimed at attention alone."""
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        targets = group.get("targets") if isinstance(group, dict) else None
        aimed = isinstance(targets, list) and targets and all(re.search(AT_ATTENTION, str(each)) for each in targets)
        if aimed and isinstance(group.get("weights"), dict):
            return _numbers(f"{where}.config_groups", group)
    return None


def _widths(where: str, found: Mapping[str, Any]) -> list[str]:
    """Return the dtypes of all parts that the scheme quantises."""
    if "quant_algo" in found:
        return [] if found["quant_algo"] is None else _algorithms(where, found, found["quant_algo"])
    if isinstance(found.get("config_groups"), dict):
        return _groups(where, found["config_groups"])
    method = str(found.get("quant_method") or found.get("mode") or "").lower()
    if method in ASKS:
        raise CatalogError(f"{where}.{ASKS[method]}: missing; a scheme of {method} needs it")
    if method in METHODS:
        return [METHODS[method]]
    if method in BY_BITS and str(found.get("data_type", "int")).startswith(("mx_fp", "nv_fp")):
        return [_bits(where, found, ("bits",), FLOAT_BITS)]
    if method in BY_BITS or (found.get("quant_method") is None and "group_size" in found):
        return [_bits(where, found, ("bits", "w_bit", "wbits", "nbits"), WEIGHT_ONLY)]
    forms = {"bitsandbytes": _bitsandbytes, "bnb": _bitsandbytes}
    forms |= {"quark": _quark, "torchao": _torchao, "quanto": _quanto, "hqq": _hqq}
    if method in forms:
        return forms[method](where, found)
    raise _unknown(where, "quant_method", found.get("quant_method"))


def _unknown(where: str, key: str, value: object) -> CatalogError:
    return CatalogError(
        f"{where}.{key}: {shown(value)} is not known (known: fp8, int8, fp4 and int4 in the words of FP8, ModelOpt, "
        "compressed-tensors, GPTQ, AWQ, bitsandbytes, MXFP4, Quark, torchao and HQQ); take the key out and set the "
        "precision"
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
    known = (group for group in groups.values() if isinstance(group, dict) and isinstance(group.get("weights"), dict))
    return [_numbers(f"{where}.config_groups", group) for group in known]


def _numbers(where: str, group: Mapping[str, Any]) -> str:
    weights: Mapping[str, Any] = group["weights"]
    integers = INTEGER_BITS if group.get("input_activations") else WEIGHT_ONLY
    return _bits(where, weights, ("num_bits",), FLOAT_BITS if weights.get("type") == "float" else integers)


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


def _torchao(where: str, found: Mapping[str, Any]) -> list[str]:
    """Return the dtype of a torchao scheme: a word, or the class of its one default."""
    kind = found.get("quant_type")
    default = kind.get("default") if isinstance(kind, dict) else kind
    name = default.get("_type") if isinstance(default, dict) else default
    words = re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", str(name).removesuffix("Config")).lower()
    if words not in TORCHAO:
        raise _unknown(where, "quant_type", name)
    return [TORCHAO[words]]


def _hqq(where: str, found: Mapping[str, Any]) -> list[str]:
    if found.get("nbits") is None:
        raise _unknown(where, "quant_config", found.get("quant_config"))
    return [_bits(where, found, ("nbits",), WEIGHT_ONLY)]


def _quanto(where: str, found: Mapping[str, Any]) -> list[str]:
    weights, activations = str(found.get("weights")), found.get("activations")
    if weights not in QUANTO:
        raise _unknown(where, "weights", found.get("weights"))
    both = {"int8": "int8", "float8": "fp8"}
    return [both[weights] if activations == weights and weights in both else QUANTO[weights]]


def _kept_wide(found: Mapping[str, Any]) -> list[str]:
    """Return the matrices of layers that the scheme leaves wider."""
    lists = [found[key] for key in SKIPPED if isinstance(found.get(key), list)]
    names = [str(name).replace("\\", "") for skipped in lists for name in skipped]
    names = [name for name in names if not OTHERS.search(name)]
    return [part for pattern, part in PARTS.items() if any(re.search(pattern, name) for name in names)]


def _cache(found: Mapping[str, Any]) -> list[str]:
    """Return a note on a KV cache that the checkpoint has scales for."""
    cache = found.get("kv_cache_scheme") or found.get("kv_cache_quant_algo")
    if not cache:
        return []
    if found.get("quant_method") == "fp8" and isinstance(cache, str):
        return [f"the checkpoint has {cache} scales for a KV cache of FP8"]
    words = f"{cache.get('num_bits')} bits" if isinstance(cache, dict) else str(cache)
    return [f"the checkpoint has scales for a KV cache of {words}"]
