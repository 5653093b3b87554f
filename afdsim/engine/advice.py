"""Ways out of a deployment that does not fit: small changes of a scenario, each tried by building what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from afdsim.catalog import entries as catalog
from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import WIDTH
from afdsim.cluster import degrees
from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.cluster.memory import USABLE_MEMORY
from afdsim.engine.lowering import deployment
from afdsim.engine.servers import prefill_of
from afdsim.errors import AfdsimError, CapacityError
from afdsim.scenario import tree
from afdsim.scenario.document import Scenario
from afdsim.scenario.prefilling import Prefill

MOST = 128
"""Instances up to which is searched."""
SHARE = "deployment.gpu_memory_utilization"
SHARES = tuple(n / 20 for n in range(1, 20))
"""Of HBM: what is tried of it, beside another key from the default on; above the last, graphs have no room."""

Changes = Mapping[str, Any]
"""Values by dotted path, to be set together."""


def advised(error: CapacityError, scenario: Scenario) -> CapacityError:
    """Return the error with every change of one key that makes the scenario fit, or of two where none of one does."""
    found = changes(scenario, error)
    texts = [" with ".join(f"{scenario.inside}{path}={shown(value)}" for path, value in each.items()) for each in found]
    tried = ", ".join(dict.fromkeys(scenario.inside + path for path, values in _candidates(scenario, error) if values))
    none = f"none of {tried} alone or in pairs makes it fit" if tried else "nothing larger or narrower is known"
    fix = f"smallest fit: {', or '.join(texts)}" if texts else none
    return CapacityError(f"{error}; {fix}", path=error.path, tokens=error.tokens, advice=found)


def shown(value: Any) -> str:
    """Return a value as ``--set`` takes it: ``{tp: 4}``."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {each}' for key, each in value.items())}}}"
    return str(value)


def changes(scenario: Scenario, error: CapacityError) -> tuple[Changes, ...]:
    """Return the first value of each key with which the scenario is sound, holds its weights and one request.

    Where no key has one, those of the first two keys that have.
    """
    keys = tuple(_candidates(scenario, error))
    alone = (_first(scenario, [key], error.tokens) for key in keys)
    if found := tuple(each for each in alone if each):
        return found
    beside = [(path, [x for x in values if path != SHARE or x >= USABLE_MEMORY]) for path, values in keys]
    together = (_first(scenario, pair, error.tokens) for pair in combinations(beside, 2))
    return tuple(filter(None, [next(filter(None, together), None)]))


def _first(scenario: Scenario, keys: Sequence[tuple[str, Sequence[Any]]], tokens: int) -> Changes | None:
    """Return the first values of some keys that fit together."""
    paths = [path for path, _ in keys]
    tried = (dict(zip(paths, values, strict=True)) for values in product(*(values for _, values in keys)))
    return next((each for each in tried if _fits(scenario, each, tokens)), None)


def _fits(scenario: Scenario, asked: Changes, tokens: int) -> bool:
    try:
        varied = scenario.varied(asked)
        built = deployment(varied)
        built.check_memory()
        if varied.servers is not None:
            prefill = prefill_of(varied, varied.servers)
            prefill.check_memory()
            prefill.check_prompt(tokens)
    except AfdsimError:
        return False
    longest = final_length(varied)
    return built.kv_cache.sequences(tokens if longest is None else longest) >= 1


def final_length(scenario: Scenario) -> int | None:
    """Return the tokens that every request ends with, where all are alike."""
    lengths = [getattr(law, "value", None) for law in (scenario.workload.input_len, scenario.workload.output_len)]
    known = [int(value) for value in lengths if value is not None]
    return sum(known) if len(known) == len(lengths) else None


def _candidates(scenario: Scenario, error: CapacityError) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield keys that may help with the values to try, from the smallest change on."""
    asked = scenario.deployment
    if scenario.servers is not None and error.path.startswith("prefill"):
        yield from _of_prefill(scenario, scenario.servers)
        return
    if asked.gpu_memory_utilization < USABLE_MEMORY:
        yield SHARE, [x for x in SHARES if x > asked.gpu_memory_utilization]
    if error.path == "workload.input_len":
        yield from _shorter(scenario)
        yield from _narrower_cache(scenario)
    match asked:
        case tree.Afd() if error.path.startswith("deployment.ffn"):
            yield "deployment.ffn.instances", _more_ffn(scenario.model, asked.ffn)
            yield "deployment.ffn.gpu", _larger(asked.ffn.gpu)
            yield "precision.ffn", _narrower(scenario.precision.ffn, asked.ffn.gpu)
        case tree.Afd():
            yield "deployment.attention.parallelism", _wider(asked.attention)
            yield "deployment.attention.gpu", _larger(asked.attention.gpu)
            yield "precision.ffn", _narrower(scenario.precision.ffn, asked.attention.gpu)
        case tree.Colocated():
            yield "deployment.instances", _more_servers(scenario.model, asked)
            yield "deployment.parallelism", _wider(asked)
            yield "deployment.gpu", _larger(asked.gpu)
            yield "precision.ffn", _narrower(scenario.precision.ffn, asked.gpu)
        case tree.TensorParallel():
            yield "deployment.gpus", _more_gpus(scenario.model, asked)
            yield "deployment.gpu", _larger(asked.gpu)
            yield "precision.ffn", _narrower(scenario.precision.ffn, asked.gpu)


def _of_prefill(scenario: Scenario, asked: Prefill) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the same for prefill servers."""
    gpus, most = asked.gpus_per_instance, catalog.gpu(asked.gpu).scale_up
    if asked.gpu_memory_utilization < USABLE_MEMORY:
        yield "prefill.gpu_memory_utilization", [x for x in SHARES if x > asked.gpu_memory_utilization]
    yield "prefill.parallelism", [{"tp": tp} for tp in range(asked.parallelism.tp + 1, gpus + 1) if gpus % tp == 0]
    yield "prefill.gpus_per_instance", [n for n in range(gpus + 1, most + 1) if n % gpus == 0]
    yield "prefill.gpu", _larger(asked.gpu)
    yield "precision.ffn", _narrower(scenario.precision.ffn, asked.gpu)


def _shorter(scenario: Scenario) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the longest input that fits and for which the model was made, where all requests are alike."""
    length = final_length(scenario)
    if length is None:
        return
    output_len = length - int(getattr(scenario.workload.input_len, "value", 0))
    fitting = _longest(deployment(scenario), length)
    longest = min(fitting, catalog.llm(scenario.model).positions or fitting) - output_len
    if longest >= 1:
        yield "workload.input_len", (longest,)


def _narrower_cache(scenario: Scenario) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the narrower formats of the KV cache, under each of its two words that was given, or else its own."""
    asked = scenario.deployment
    gpu = asked.attention.gpu if isinstance(asked, tree.Afd) else asked.gpu
    given = scenario.origins("precision")
    for role in [role for role in ("attention", "kv_cache") if role in given] or ["kv_cache"]:
        yield f"precision.{role}", _narrower(scenario.precision.kv_cache, gpu)


def _longest(built: Afd | Colocated, above: int) -> int:
    """Return the longest context below `above` of which a rank holds one sequence, 0 if there is none."""
    low, high = 0, above
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if built.kv_cache.sequences(middle) else (low, middle)
    return low


def _more_ffn(model: str, pool: tree.FfnPool) -> Sequence[int]:
    """Return the larger numbers of FFN instances over which the experts divide."""
    llm, parts = catalog.llm(model), range(pool.instances + 1, MOST + 1)
    whole = pool.across == "experts"
    return [n for n in parts if not degrees.experts_uneven(llm, (n if whole else 1) * pool.parallelism.ep)]


def _more_servers(model: str, engine: tree.Colocated) -> Sequence[int]:
    """Return the larger numbers of servers over which experts and their copies divide."""
    llm, each, apart = catalog.llm(model), engine.gpus_per_instance, engine.shared_expert_gpus
    parts, copies = range(engine.instances + 1, MOST + 1), engine.redundant_experts
    return [n for n in parts if not degrees.experts_uneven(llm, n * each - apart, copies)]


def _more_gpus(model: str, engine: tree.TensorParallel) -> Sequence[int]:
    """Return the larger tensor-parallel degrees that attention allows, up to the largest domain that is known."""
    llm, most = catalog.llm(model), max(catalog.gpu(name).scale_up for name in catalog.gpus())
    return [n for n in range(engine.gpus + 1, most + 1) if not degrees.attention_uneven(llm, n)]


def _wider(pool: tree.AttentionPool | tree.Colocated) -> Sequence[Changes]:
    """Return the larger tensor-parallel degrees of an instance."""
    gpus = pool.gpus_per_instance
    return [{"tp": tp} for tp in range(pool.parallelism.tp + 1, gpus + 1) if gpus % tp == 0]


def _larger(name: str) -> Sequence[str]:
    """Return the GPUs with more memory, those of the same architecture before others, each the smallest first."""
    now = catalog.gpu(name)
    foreign = {gpu.name: gpu.architecture.split()[0] != now.architecture.split()[0] for gpu in _gpus()}
    gpus = sorted(_gpus(), key=lambda gpu: (foreign[gpu.name], gpu.memory))
    return [gpu.name for gpu in gpus if gpu.memory > now.memory]


def _gpus() -> Sequence[Gpu]:
    return [catalog.gpu(name) for name in catalog.gpus()]


def _narrower(dtype: str, name: str) -> Sequence[str]:
    """Return the formats of fewer bytes that a GPU has units for, the widest first."""
    gpu = catalog.gpu(name)
    return sorted((each for each in gpu.flops if WIDTH[each] < WIDTH[dtype]), key=lambda each: -WIDTH[each])
