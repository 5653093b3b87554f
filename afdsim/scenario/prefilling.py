"""Who computes prompts, as keys: servers in front of the deployment, or its own steps; and what fits them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Tag, model_validator

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Llm
from afdsim.cluster import degrees
from afdsim.scenario import asked
from afdsim.scenario.caching import KvCache
from afdsim.scenario.leaves import Choice, Flag, got
from afdsim.scenario.part import Count, Fault, Length, Part
from afdsim.scenario.tree import Afd, Colocated, Deployment, Gpu, Share

MODES = ("servers", "mixed")
FEW = 256
"""Tokens of a rank in an exchange for which low-latency kernels are made, at most."""
MOST = 65_536
"""Tokens of prompts in a decode step at most: every number of them has its price."""


class Mixed(Part):
    """Prompts are computed inside the decode steps of a colocated or tensor-parallel deployment, chunk by chunk."""

    mode: Annotated[Literal["mixed"], Choice(MODES)]
    """Prompts inside decode steps."""
    chunk: Length = 8192
    """Tokens of prompts that a rank computes in a step at most, beside those that it decodes; SGLang's
    `chunked_prefill_size` with `--enable-mixed-chunk` and vLLM's `max_num_batched_tokens`, whose default on such GPUs
    this is: both count the decoding sequences of a rank in it, so that theirs is this plus `max_num_seqs`."""


class PrefillParallelism(Part):
    """How the GPUs of one prefill instance share the work; dp x tp are the GPUs of the instance."""

    dp: Count
    """Data parallel ranks, each with its own prompts; more than one needs experts spread over all GPUs."""
    tp: Count
    """GPUs that split the heads of one rank."""
    ep: Count
    """Groups that hold different experts: with several ranks all GPUs, with one rank a divisor of them."""


class Prefill(Part):
    """Servers that compute prompts and the first token, and send the KV cache to the deployment."""

    mode: Annotated[Literal["servers"], Choice(MODES)] = "servers"
    """Servers of their own."""
    gpu: Gpu
    """GPU of these servers."""
    instances: Count
    """Servers."""
    gpus_per_instance: Count = 8
    """GPUs of a server."""
    parallelism: PrefillParallelism
    """Default: one rank, whose heads and widths are split over all GPUs of the instance."""
    max_batched_tokens: Length = 8192
    """Prompt tokens that a rank computes in one step at most; vLLM's word, and its default on such GPUs."""
    chunk: Length | None = None
    """Tokens of one prompt in a step at most; default: `max_batched_tokens`. Less lets short prompts pass long ones."""
    two_batch_overlap: Annotated[bool, Flag()] = False
    """Two halves of a step, one computing while the other's tokens fly between experts; needs 'dp' above 1."""
    overlap: Annotated[Literal["none", "layers"], Choice(("none", "layers"))] = "none"
    """Whether the KV cache travels when a prompt is done, or layer by layer while the next one is computed."""
    gpu_memory_utilization: Share = 0.9
    """Share of HBM that an engine may fill: weights, its own reserve, KV cache of prompts that are not yet sent."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        """Complete the degrees of parallelism so that they cover an instance."""
        if not isinstance(data, dict) or not isinstance(data.get("parallelism", {}), dict):
            return data
        given, gpus = data.get("parallelism", {}), data.get("gpus_per_instance", 8)
        if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1:
            gpus = 8  # its own fault is reported; a second one here would confuse
        given = given if {"dp", "tp"} & given.keys() else {"dp": 1, "tp": gpus, **given}
        degree: Any = given.get("dp", given.get("tp"))
        whole = isinstance(degree, int) and not isinstance(degree, bool) and degree > 0 and gpus % degree == 0
        rest = gpus // degree if whole else gpus
        found = {"dp": rest, "tp": rest, **given}
        ranks = found["dp"]
        alone = isinstance(ranks, int) and ranks <= 1
        return {**data, "parallelism": {"ep": 1 if alone else gpus, **found}}

    def faults(self) -> Iterator[Fault]:
        """Check that the degrees cover the instance and go together, and the order of the limits."""
        ways, gpus = self.parallelism, self.gpus_per_instance
        if ways.dp * ways.tp != gpus:
            product = f"{ways.dp} x {ways.tp} = {ways.dp * ways.tp}"
            yield "parallelism", f"dp x tp = {product} but an instance has {gpus} GPUs"
        elif ways.dp > 1 and ways.ep != gpus:
            yield "parallelism.ep", f"must be {gpus}, all GPUs of an instance with several ranks {got(ways.ep)}"
        elif gpus % ways.ep:
            yield "parallelism.ep", f"must divide the {gpus} GPUs of an instance {got(ways.ep)}"
        if text := degrees.beyond_domain(catalog.gpu(self.gpu), ways.tp):
            yield "parallelism.tp", text
        if self.chunk is not None and self.chunk > self.max_batched_tokens:
            limit = f"{self.max_batched_tokens:,}, the tokens of a step (max_batched_tokens)"
            yield "chunk", f"must be <= {limit} {got(self.chunk)}"
        if self.two_batch_overlap and ways.dp == 1:
            yield "two_batch_overlap", "hides the flights between experts, and one rank has none; give 'dp' above 1"


def _mode(data: Any) -> str:
    """Return which kind of prefill is asked for; with a mode that there is not, the one whose keys are written."""
    mode = data.get("mode", "servers") if isinstance(data, dict) else getattr(data, "mode", "servers")
    unknown = isinstance(data, dict) and mode not in MODES and "gpu" not in data
    return "mixed" if mode == "mixed" or unknown else "servers"


Asked: TypeAlias = Annotated[Annotated[Prefill, Tag("servers")] | Annotated[Mixed, Tag("mixed")], Discriminator(_mode)]


def misfits(prefill: Prefill | None, model: str, workload: asked.Workload, sla: asked.Sla | None) -> Iterator[Fault]:
    """Check prefill servers against the rest of a scenario."""
    if prefill is None:
        limits = {"sla": sla} | {f"workload.classes.{n}.sla": each.sla for n, each in enumerate(workload.classes or ())}
        for path, each in limits.items():
            if each is not None and each.ttft is not None:
                give = "'prefill: {gpu: H800, instances: 2}', or if nothing is apart 'prefill: {mode: mixed}'"
                yield f"{path}.ttft", f"needs prefill, which gives the first token, e.g. {give}"
        return
    if all(map(_of_one, _answers(workload))):
        yield "workload.output_len", "is 1 token, which prefill gives: decode has nothing to do; give more than 1"
    yield from ((f"prefill.{path}", text) for path, text in _uneven(catalog.llm(model), prefill))


def _answers(workload: asked.Workload) -> list[asked.Lengths | None]:
    """Lengths of the answers of every class; None where a trace tells them."""
    return [each.output_len or workload.output_len for each in workload.classes or ()] or [workload.output_len]


def _of_one(lengths: asked.Lengths | None) -> bool:
    """Whether every answer is one token."""
    match lengths:
        case asked.ConstantLength(value=most) | asked.LognormalLength(max=most) | asked.UniformLength(max=most):
            return most == 1
        case None:
            return False


def unmixed(mixed: Mixed | None, deployment: Deployment, kv_cache: KvCache | None) -> Iterator[Fault]:
    """Check prompts inside decode steps against the deployment and its KV cache, which has contexts computed again."""
    if mixed is not None and isinstance(deployment, Afd):
        give = "e.g. 'prefill: {gpu: H800, instances: 2}', or a deployment of type colocated or tensor_parallel"
        yield "prefill.mode", f"mixed is not modelled of AFD, whose prompts come from servers; give these, {give}"
        return
    if mixed is not None and mixed.chunk > MOST:
        yield "prefill.chunk", f"must be <= {MOST:,}, more than any engine runs {got(mixed.chunk)}"
    if mixed is not None and mixed.chunk < deployment.num_microbatches:
        yield "prefill.chunk", f"must be >= {deployment.num_microbatches}, a token per micro-batch {got(mixed.chunk)}"
    if kv_cache is None or kv_cache.policy == "reserve" or kv_cache.preemption == "swap":
        return
    if mixed is None and kv_cache.reprefill_rate is None:
        yield (
            "kv_cache.reprefill_rate",
            "required key is missing with 'policy: grow', e.g. '20000 tok/s'; or write 'preemption: swap'",
        )
    if mixed is not None and kv_cache.reprefill_rate is not None:
        text = "is not asked with 'prefill: {mode: mixed}', whose steps compute a context again; remove it"
        yield "kv_cache.reprefill_rate", text


def cautions(mixed: Mixed | None, deployment: Deployment) -> Iterator[Fault]:
    """Say that kernels made for few tokens carry many, if they do (DeepEP: the low-latency ones)."""
    if mixed is None or not isinstance(deployment, Colocated) or deployment.all_to_all == "normal":
        return
    if mixed.chunk + deployment.max_num_seqs > FEW and deployment.instances * deployment.gpus_per_instance > 1:
        text = f"low_latency kernels are made for up to {FEW} tokens a rank (DeepEP); engines with prompts run 'normal'"
        yield "deployment.all_to_all", text


def _uneven(llm: Llm, prefill: Prefill) -> Iterator[Fault]:
    """Check that the model divides over an instance, and that several ranks have experts in common."""
    ways, gpus = prefill.parallelism, prefill.gpus_per_instance

    def cut(tp: int) -> tuple[str, ...]:
        widths = degrees.width_uneven(llm, tp // ways.ep) if ways.dp == 1 and tp % ways.ep == 0 else ()
        return (*degrees.attention_uneven(llm, tp), *degrees.dense_uneven(llm, tp), *widths)

    def spread(ep: int) -> tuple[str, ...]:
        return degrees.experts_uneven(llm, ep)

    for key, now, uneven, over in (("tp", ways.tp, cut, "GPUs"), ("ep", ways.ep, spread, "groups")):
        if what := uneven(now):
            near = degrees.nearest(now, range(1, 2 * now), lambda n, uneven=uneven: not uneven(n))  # type: ignore[misc]
            fix = f"; nearest that do: {degrees.in_words(map(str, near))}" if near else ""
            yield f"parallelism.{key}", f"{degrees.undivided(what)} over {now} {over}{fix}"
    if ways.dp > 1 and not any(hasattr(layer.ffn, "experts") for layer in llm.layers):
        more = f"{{dp: 1, tp: {gpus}}} or more instances of fewer GPUs"
        yield "parallelism.dp", f"{llm.name} has no experts, so its ranks are instances of their own; give {more}"
