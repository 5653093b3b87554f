"""The frozen tree that a scenario becomes: every key, its unit, its range and its default.

Attribute names are the YAML names. Values are SI numbers in here and texts with units in a file. Each part checks what
it alone can know and reports all of its faults; `afdsim.scenario.document` adds positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from afdsim.scenario.leaves import Amount, Choice, Flag, GpuName, Real, Sharding, Text, Whole, got
from afdsim.scenario.part import Count, Fault, Part, Sequences, Sigma, Time

Gpu = Annotated[str, GpuName()]
DType = Literal["fp8", "bf16", "int8", "fp4"]
Width = Annotated[DType, Choice(get_args(DType))]
WeightType = Literal["fp8", "bf16", "int8", "fp4", "int4", "w8a16"]
WeightWidth = Annotated[WeightType, Choice(get_args(WeightType))]
Drafts = Annotated[int, Whole(high=16, why="no published system proposes more")]
MicroBatches = Annotated[int, Whole(high=64, why="a micro-batch beyond has nothing left to hide behind")]
Copies = Annotated[int, Whole(0, 10**5, "no cluster has more GPUs")]
Shards = Annotated[str, Sharding()]
Share = Annotated[float, Real(0.0, 1.0, positive=True)]
Kernels = tuple[Annotated[str, Text(wanted="a kernel library, e.g. 'flashinfer'")], ...]


class Precision(Part):
    """Number formats, in the words of the Step-3 paper: "BF16 attention" is the core and its cache, no GEMM."""

    attention: Width = "fp8"
    """Core attention and its KV cache; default: as `kv_cache`."""
    ffn: WeightWidth = "fp8"
    """Weights and GEMMs: FFN and projections. Default: that of a quantised checkpoint, where `model` is a config.json
    that says so."""
    projections: WeightWidth | None = None
    """Projections where theirs is another format; default: as `ffn` (FP8 beside FP4), or that of the checkpoint."""
    kv_cache: Width = "fp8"
    """KV cache, which decides the kernel of core attention; default: as `attention`."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        """Let either of `attention` and `kv_cache` decide both."""
        if not isinstance(data, dict):
            return data
        core = ("kv_cache", "attention")
        one = next((data[key] for key in core if data.get(key) in get_args(DType)), "fp8")
        return data | {key: one for key in core if data.get(key) is None}

    def faults(self) -> Iterator[Fault]:
        """Check that core attention has one format."""
        if self.attention != self.kv_cache:
            from afdsim.catalog.llm import idle_attention

            yield "attention", idle_attention(self.attention, self.kv_cache)


class AttentionParallelism(Part):
    """How the GPUs of one attention instance share the work; the product is the GPUs of the instance."""

    dp: Count
    """Data parallel ranks, each with its own requests."""
    tp: Count
    """GPUs that split the heads of one rank."""


class FfnParallelism(Part):
    """How the GPUs of one FFN instance share the work; the product is the GPUs of the instance."""

    ep: Count
    """Groups that hold different experts."""
    tp: Count
    """GPUs that split the width of each expert."""


class AttentionPool(Part):
    """The attention instances, the x of xAyF."""

    gpu: Gpu
    """GPU of these instances, a name of `afdsim list gpus`."""
    instances: Count
    """Servers of attention: the x of xAyF."""
    groups: Count = 1
    """Groups of instances that take turns on the FFN pool, each with its own micro-batches."""
    gpus_per_instance: Count = 8
    """GPUs of a server."""
    parallelism: AttentionParallelism
    """Default: every GPU is a data parallel rank."""
    o_proj: Shards = "replicated"
    """GPUs of an instance that cut the output projection of attention."""
    lm_head: Shards | None = None
    """GPUs of an instance that cut the vocabulary of the LM head; default: those of a rank."""
    embedding: Shards | None = None
    """The same of the embedding."""
    kernels: Kernels = ()
    """Kernel libraries to prefer over the defaults, e.g. [flashinfer]."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        return _with_parallelism(data, narrow="tp", wide="dp")

    def faults(self) -> Iterator[Fault]:
        """Check that the parallel degrees cover the instance, and the kernel libraries."""
        yield from _measured(self.kernels)
        yield from _product(self.parallelism.dp, self.parallelism.tp, self.gpus_per_instance, "dp")
        if self.instances % self.groups:
            yield "groups", f"{self.groups} groups do not divide the {self.instances} instances"
        if self.gpus_per_instance % degree(self.o_proj):
            yield "o_proj", f"{self.o_proj} does not divide the {self.gpus_per_instance} GPUs of an instance"
        yield from _vocabulary(self, self.gpus_per_instance, self.parallelism.tp)


class FfnPool(Part):
    """The FFN instances, the y of xAyF."""

    gpu: Gpu
    """GPU of these instances."""
    instances: Count
    """Servers of FFN: the y of xAyF."""
    gpus_per_instance: Count = 8
    """GPUs of a server."""
    parallelism: FfnParallelism
    """Default: the width of every expert is split over all GPUs of the instance."""
    across: Annotated[Literal["experts", "width"], Choice(("experts", "width"))] = "experts"
    """What is split over instances: the routed experts, or the width of each of them."""
    kernels: Kernels = ()
    """Kernel libraries to prefer over the defaults, e.g. [swapab]."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        return _with_parallelism(data, narrow="ep", wide="tp")

    def faults(self) -> Iterator[Fault]:
        """Check that the parallel degrees cover the instance, and the kernel libraries."""
        yield from _measured(self.kernels)
        yield from _product(self.parallelism.ep, self.parallelism.tp, self.gpus_per_instance, "ep")


class Mtp(Part):
    """Multi-token prediction."""

    draft: Drafts
    """Tokens proposed beyond the one that is certain."""
    acceptance: Annotated[float, Real(0.0, 1.0)]
    """Probability that a proposed token is kept."""


Role = Annotated[Literal["attention", "ffn"], Choice(("attention", "ffn"))]


class Afd(Part):
    """Attention-FFN disaggregation, xAyF."""

    type: Literal["afd"]
    attention: AttentionPool
    """The attention pool."""
    ffn: FfnPool
    """The FFN pool."""
    num_microbatches: MicroBatches = 3
    """Micro-batches in flight at once; one leaves nothing to overlap."""
    max_num_seqs: Sequences
    """Sequences in flight per attention rank, over all micro-batches."""
    gpu_memory_utilization: Share = 0.9
    """Share of HBM that an engine may fill: weights, its own reserve, KV cache; vLLM's word and default."""
    boundary: Annotated[Literal["stream", "drain"], Choice(("stream", "drain"))] = "stream"
    """Whether a micro-batch starts its next step at once or waits for the others of its instance."""
    gap: Time = 0.0
    """Pause between steps of a drained pipeline, once a step, beside `host_overhead`. Published: 2 ms per iteration of
    93 ms (xDeepServe), 9.8 ms where the host does not run ahead (FastAFD), 15 ms between batches (arXiv:2602.09721);
    sources in docs/host_time.md."""
    host_overhead: Time = 0.0
    """Host time per step of a micro-batch (scheduler, sampling on the host): its attention instance stands still for it
    between the boundary and layer 1, in both kinds of `boundary`. Published: 0.5 to 6 ms for a whole step of an open
    engine; sources in docs/host_time.md."""
    gate: Role = "attention"
    """Who computes router and top-k. On the FFN side messages carry no expert ids."""
    shared_expert: Role = "ffn"
    """Who computes it. On the attention side it runs while its rows are away."""
    dispatch: Annotated[Literal["broadcast", "sparse"], Choice(("broadcast", "sparse"))] = "broadcast"
    """Whether a token goes to every FFN instance, as StepMesh has it, or to those that hold one of its experts."""
    mtp: Mtp | None = None
    """Multi-token prediction; default: none."""

    @property
    def slots(self) -> int:
        """Sequences that can be in flight over the whole deployment."""
        return self.attention.instances * self.attention.parallelism.dp * self.max_num_seqs

    def faults(self) -> Iterator[Fault]:
        """Check what belongs to one boundary only."""
        if self.gap and self.boundary == "stream":
            yield "gap", "is a pause of drained pipelines; add 'boundary: drain' or remove it"
        if self.dispatch == "sparse" and self.gate == "ffn":
            yield "dispatch", "is sparse only if the sender knows the experts; add 'gate: attention'"
        if self.dispatch == "sparse" and self.ffn.across == "width":
            yield "dispatch", "cannot be sparse with 'ffn.across: width': every instance holds a part of every expert"


class _Engine(Part):
    """What every colocated engine has."""

    gpu: Gpu
    """GPU of the engine, a name of `afdsim list gpus`."""
    max_num_seqs: Sequences
    """Sequences in flight per attention rank, over all micro-batches."""
    gpu_memory_utilization: Share = 0.9
    """Share of HBM that an engine may fill: weights, its own reserve, KV cache; vLLM's word and default."""
    lm_head: Shards | None = None
    """GPUs of an instance that cut the vocabulary of the LM head; default: those of a rank."""
    embedding: Shards | None = None
    """The same of the embedding."""
    kernels: Kernels = ()
    """Kernel libraries to prefer over the defaults, e.g. [swapab]."""
    framework_overhead: Time = 0.0
    """GPU time per layer and step beyond the modelled kernels; wall-clock figures of open frameworks need it."""
    host_overhead: Time = 0.0
    """Pause between two steps in which the GPU waits for the host. Published: 6.1 ms (SGLang on H200 without overlap
    scheduling), 0.5 to 5 ms (quoted in BLIS #480 and #482); sources in docs/host_time.md."""
    mtp: Mtp | None = None
    """Multi-token prediction; default: none."""

    def faults(self) -> Iterator[Fault]:
        """Check the kernel libraries."""
        yield from _measured(self.kernels)


class Colocated(_Engine):
    """Data-parallel attention and expert parallelism on the same GPUs: one engine, EP over all of them."""

    type: Literal["colocated"]
    instances: Count
    """Servers."""
    gpus_per_instance: Count = 8
    """GPUs of a server."""
    parallelism: AttentionParallelism
    """Of attention, inside an instance. Default: every GPU is a data parallel rank."""
    redundant_experts: Copies = 0
    """Copies of experts beyond one each, over all GPUs."""
    shared_expert_gpus: Copies = 0
    """GPUs that hold nothing but the shared expert; 0: every GPU holds it beside its routed ones."""
    two_batch_overlap: Annotated[bool, Flag()] = False
    """Two micro-batches, one computing while the other's tokens fly."""
    single_batch_overlap: Annotated[bool, Flag()] = False
    """The combine overlaps with the last matrix of the experts."""
    all_to_all: Annotated[Literal["low_latency", "normal"], Choice(("low_latency", "normal"))] = "low_latency"
    """Communication kernels: DeepEP's low-latency ones, or its normal ones, which hold a share of the SMs."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        return _with_parallelism(data, narrow="tp", wide="dp")

    @property
    def num_microbatches(self) -> int:
        """Micro-batches that take turns."""
        return 2 if self.two_batch_overlap else 1

    @property
    def slots(self) -> int:
        """Sequences that can be in flight over the whole deployment."""
        return self.instances * self.parallelism.dp * self.max_num_seqs

    def faults(self) -> Iterator[Fault]:
        """Check that the parallel degrees cover the instance, and that one overlap is chosen."""
        yield from super().faults()
        yield from _product(self.parallelism.dp, self.parallelism.tp, self.gpus_per_instance, "dp")
        yield from _vocabulary(self, self.gpus_per_instance, self.parallelism.tp)
        gpus = self.instances * self.gpus_per_instance
        if self.shared_expert_gpus >= gpus:
            yield "shared_expert_gpus", f"must be < {gpus}, the GPUs of the deployment {got(self.shared_expert_gpus)}"
        if self.two_batch_overlap and self.single_batch_overlap:
            yield "single_batch_overlap", "excludes two_batch_overlap; choose one"
        if self.two_batch_overlap and self.max_num_seqs < 2:
            yield "max_num_seqs", f"must be >= 2, one sequence per micro-batch {got(self.max_num_seqs)}"


class TensorParallel(_Engine):
    """Every GPU works on every token: heads and widths are cut, sums are all-reduced."""

    type: Literal["tensor_parallel"]
    gpus: Count
    """GPUs of the engine, all inside one NVLink domain."""
    ep: Count = 1
    """Groups that hold different experts."""

    @property
    def num_microbatches(self) -> int:
        """Return 1: nothing overlaps."""
        return 1

    @property
    def slots(self) -> int:
        """Sequences that can be in flight over the whole deployment."""
        return self.max_num_seqs

    def faults(self) -> Iterator[Fault]:
        """Check that the GPUs reach one another, and that the expert groups divide them."""
        yield from super().faults()
        from afdsim.catalog import entries as catalog
        from afdsim.cluster.degrees import beyond_domain

        if text := beyond_domain(catalog.gpu(self.gpu), self.gpus):
            yield "gpus", text
        yield from _vocabulary(self, self.gpus, self.gpus)
        if self.gpus % self.ep:
            yield "ep", f"must divide gpus, {self.gpus} {got(self.ep)}"


Deployment = Annotated[Afd | Colocated | TensorParallel, Field(discriminator="type")]


class Link(Part):
    """One NIC and the path behind it."""

    bandwidth: Annotated[float, Amount("bandwidth")] | None = None
    """Line rate; default: that of the NIC of the GPU."""
    latency: Time = 9e-6
    """The whole one-way path."""
    ports: Count = 1
    """Bonded ports of a NIC, which have its line rate together: 1 or 2."""
    split: Annotated[bool, Flag()] = True
    """Whether a message is cut over both ports (STEPMESH_SPLIT_QP_LAG=1); else a queue pair keeps to one of them."""


Discipline = Annotated[Literal["ports", "shared", "dedicated"], Choice(("ports", "shared", "dedicated"), ("fifo",))]


NicName = Annotated[
    str,
    Text(
        r"(attention|ffn)\[\d{1,6}\](\.nic\[\d{1,3}\])?",
        "'attention[i]', 'ffn[i]', or one NIC of them, 'ffn[i].nic[j]'",
    ),
]
Degraded = Mapping[NicName, Annotated[float, Real(0.0, 1.0, positive=True)]]


class Uplinks(Part):
    """Attention and FFN instances hang under different switches: what one rail has between them, in each direction."""

    bandwidth: Annotated[float, Amount("bandwidth")] | None = None
    """Line rate of a rail's uplink, and of its downlink, on either side."""
    oversubscription: Annotated[float, Real(1.0)] | None = None
    """Line rates of all NICs of a side on a rail over that of its uplink."""
    latency: Time = 0.0
    """What the way over two more switches adds to `link.latency`; default: nothing, for want of a source."""

    def faults(self) -> Iterator[Fault]:
        """Check that the rate is given once."""
        if (self.bandwidth is None) == (self.oversubscription is None):
            given = "both are given" if self.bandwidth else "neither is given"
            yield "", f"must have one of bandwidth and oversubscription, e.g. {{oversubscription: 2}}; {given}"


class Nics(Part):
    """NICs of an instance where several GPUs share one; default: one per GPU. A number alone is that of both sides."""

    attention: Count | None = None
    """NICs of an attention instance; default: one per GPU."""
    ffn: Count | None = None
    """NICs of an FFN instance; default: one per GPU."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        if isinstance(data, int) and not isinstance(data, bool) and data >= 1:
            return {"attention": data, "ffn": data}
        if not isinstance(data, dict):
            raise ValueError(f"must be a whole number >= 1, or a map such as {{attention: 4, ffn: 8}} {got(data)}")  # noqa: TRY004 - pydantic collects ValueError only
        return data


class Network(Part):
    """What moves tokens between the pools, and what each message costs besides its bytes."""

    type: Discipline = "shared"
    """How the messages of a NIC share it: at equal rates, as queue pairs do; one at a time; or not at all."""
    link: Link = Link()
    """One NIC and the path behind it."""
    uplinks: Uplinks | None = None
    """Attention and FFN instances under different switches; default: all NICs of a rail under one."""
    nics_per_instance: Nics | None = None
    """NICs of an instance, where GPUs share them."""
    degraded: Degraded = Field(default_factory=dict)
    """Share of its rate that the NICs of an instance, or one of them, achieve in either direction."""
    efficiency: Annotated[float, Real(0.0, 1.0, positive=True)] = 0.8
    """Achieved over line rate."""
    post: Time = 1.5e-6
    """CPU time to post a message."""
    poll: Time = 1.5e-6
    """Time until a completed message is seen."""
    synchronise: Time = 8e-6
    """GPU to CPU hand-over before a message is posted."""

    def faults(self) -> Iterator[Fault]:
        """Check that bonded ports, shared NICs and the discipline go together."""
        link = self.link
        if link.ports > 2:
            yield "link.ports", f"must be 1 or 2 {got(link.ports)}"
        if not link.split and link.ports == 1:
            yield "link.split", "is about messages over two bonded ports; add 'ports: 2' or remove it"
        if self.nics_per_instance and link.bandwidth is None:
            yield (
                "nics_per_instance",
                "needs link.bandwidth, the line rate of one NIC, e.g. 400Gbps: the catalog knows what a GPU has of its "
                "server's NICs",
            )
        asked = {"uplinks": self.uplinks, "nics_per_instance": self.nics_per_instance, "degraded": self.degraded}
        found = [key for key, value in (asked | {"link.split": not link.split}).items() if value]
        for key in found if self.type == "dedicated" else ():
            yield key, "needs the ports of NICs, but 'type: dedicated' gives every pair of instances a wire of its own"


_LAWS = ("even", "uniform", "power_law", "trace", "slowest")
_A_LAW: Mapping[str, str] = MappingProxyType(
    {"even": "an even", "uniform": "a uniform", "trace": "a trace", "slowest": "a slowest-rank"}
)


class Experts(Part):
    """How tokens spread over experts."""

    law: Annotated[Literal["even", "uniform", "power_law", "trace", "slowest"], Choice(_LAWS)] = "even"
    """As many rows for every GPU, drawn by uniform routing, or by the popularity of experts."""
    skew: Sigma = 0.0
    """Exponent of the power law."""
    path: Annotated[str, Text(wanted="a file")] | None = None
    """With 'law: trace': a CSV file of tokens per expert, one row per MoE layer or one for all."""
    max_over_mean: Annotated[float, Real(1.0)] = 1.0
    """With 'law: slowest': load of the busiest rank of every layer over the mean, where a source states only that."""
    placement: Annotated[Literal["contiguous", "balanced"], Choice(("contiguous", "balanced"))] = "contiguous"
    """Where experts and their copies lie: in order, or packed by load (EPLB)."""

    def faults(self) -> Iterator[Fault]:
        """Check that every key belongs to its law."""
        if self.law == "power_law" and not self.skew:
            yield "skew", "must be > 0 with 'law: power_law', e.g. 0.5"
        if self.law != "power_law" and self.skew:
            yield "skew", f"is the exponent of 'law: power_law'; {_A_LAW[self.law]} law has none"
        if self.law == "trace" and (self.path is None or not Path(self.path).is_file()):
            yield "path", f"no such file '{self.path}'" if self.path else "required key is missing"
        if self.law != "trace" and self.path is not None:
            yield "path", "is the file of 'law: trace'; remove it"
        if (self.law == "slowest") != (self.max_over_mean > 1.0):
            yield "max_over_mean", "must be > 1 with 'law: slowest', e.g. 1.11, and belongs to no other law"
        if self.placement == "balanced" and self.law in ("even", "uniform", "slowest"):
            yield "placement", f"of experts makes no difference to 'law: {self.law}'; remove it"


class Spike(Part):
    """Operations that rarely take much longer, beside their jitter; give one of `seconds` and `factor`.

    Multipliers of jitter have mean 1, spikes do not: they cost time on average too. StepMesh reports that an occasional
    slow polling thread raises the P99 of TPOT by tens of ms.
    """

    probability: Annotated[float, Real(0.0, 1.0)]
    """Of every operation of a unit: an instance, or a rank of attention with `granularity: gpu`."""
    seconds: Time | None = None
    """How much longer it takes, or how much later its rows are posted."""
    factor: Annotated[float, Real(1.0)] | None = None
    """How many times as long it takes."""
    where: Annotated[Literal["compute", "link"], Choice(("compute", "link"))] = "compute"
    """What it hits: the operation itself, or the post of its rows, as a descheduled thread would (seconds only); rows
    of the same NIC that come behind wait too."""

    def faults(self) -> Iterator[Fault]:
        """Check that one of seconds and factor is given, and that it fits what is hit."""
        if self.where == "link" and self.factor is not None:
            yield (
                "factor",
                "does not fit 'where: link': a late post is late by 'seconds', e.g. '5ms', whatever its rows",
            )
        elif self.seconds is None and self.factor is None:
            yield "", "needs 'seconds', e.g. '5ms', or 'factor', e.g. 10"
        elif self.seconds is not None and self.factor is not None:
            yield "factor", "give one of factor and seconds"


class Variation(Part):
    """Lognormal multipliers of mean 1, given by the sigma of their logarithm, spikes, and constant factors."""

    event: Sigma = 0.0
    """Per operation."""
    step: Sigma = 0.0
    """Per step and instance."""
    link: Sigma = 0.027
    """Per transfer; p99/p50 = 1.065 was published for StepMesh."""
    straggler: Mapping[
        Annotated[
            str, Text(r"(attention|ffn|instance)\[\d{1,6}\]", "'attention[i]' or 'ffn[i]'; colocated: 'instance[i]'")
        ],
        Annotated[float, Real(positive=True, reach=(1e-3, 1e6))],
    ] = Field(default_factory=dict)
    """Constant slow-down of single instances."""
    spike: Spike | None = None
    """Operations that rarely take much longer; default: none."""
    experts: Experts = Experts()
    """How tokens spread over experts."""


class Stop(Part):
    """When to stop early."""

    max_sim_time: Annotated[float, Amount("time")] | None = None
    """Simulated time after which the run ends; default: none."""


class RecordOptions(Part):
    """What to keep besides the frame of requests."""

    tokens: Annotated[bool, Flag()] = True
    """Whether to keep every token; without them there is no ITL."""


class Run(Part):
    """How to simulate; nothing here describes the cluster."""

    engine: Annotated[Literal["auto", "processes", "kernel"], Choice(("auto", "processes", "kernel"))] = "auto"
    """Which engine: SimPy processes, the compiled kernel, or whichever is sooner done; both give the same bits."""
    granularity: Annotated[Literal["instance", "gpu"], Choice(("instance", "gpu"))] = "instance"
    """What is one operation of attention: that of an instance, or of each of its GPUs."""
    seeds: tuple[Annotated[int, Whole(0)], ...] = (0,)
    """Seeds; several are pooled in one report."""
    warmup: Time | None = None
    """Requests that arrive before are simulated and not counted. Default: an open loop is warm when its number of
    requests in flight has stopped drifting (MSER-5), a closed one when as many have finished as it started with."""
    stop: Stop = Stop()
    """When to stop early."""
    record: RecordOptions = RecordOptions()
    """What to keep."""

    def faults(self) -> Iterator[Fault]:
        """Check that there is a seed, and each only once."""
        if not self.seeds:
            yield "seeds", "must name at least one seed, e.g. [0]"
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds", "names a seed twice"


def _with_parallelism(data: Any, narrow: str, wide: str) -> Any:
    """Complete the degrees of a pool so that they cover an instance; `narrow` is 1 if neither is given."""
    if not isinstance(data, dict) or not isinstance(data.get("parallelism", {}), dict):
        return data
    given, gpus = data.get("parallelism", {}), data.get("gpus_per_instance", 8)
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1:
        gpus = 8  # its own fault is reported; a second one here would confuse
    if narrow in given or wide in given:
        degree = given.get(narrow, given.get(wide))
        divides = isinstance(degree, int) and degree > 0 and gpus % degree == 0
        rest = gpus // degree if divides else gpus
        return {**data, "parallelism": {narrow: rest, wide: rest, **given}}
    return {**data, "parallelism": {narrow: 1, wide: gpus, **given}}


def degree(placement: str) -> int:
    """Return the GPUs that "tp<n>" means; 1 for "replicated"."""
    return int(placement.removeprefix("tp").replace("replicated", "1"))


def _vocabulary(pool: AttentionPool | _Engine, gpus: int, tp: int) -> Iterator[Fault]:
    """Check that whoever cuts the vocabulary is whole ranks of one instance."""
    known = ", ".join(f"'tp{n}'" for n in range(max(tp, 2), gpus + 1) if gpus % n == 0 and n % tp == 0)
    use = f"use {known} or 'replicated'" if known else "use 'replicated'"
    for key in ("lm_head", "embedding"):
        placement = getattr(pool, key)
        parts = 1 if placement is None else degree(placement)
        if gpus % parts:
            yield key, f"{placement} does not divide the {gpus} GPUs of an instance; {use}"
        elif parts > 1 and parts % tp:
            yield key, f"{placement} splits a rank of {tp} GPUs; {use}"


def _measured(kernels: Kernels) -> Iterator[Fault]:
    from afdsim.cost.roofline import unknown_backends

    yield from (("kernels", text) for text in unknown_backends(kernels))


def _product(first: int, second: int, gpus: int, name: str) -> Iterator[Fault]:
    if first * second != gpus:
        yield "parallelism", f"{name} x tp = {first} x {second} = {first * second} but an instance has {gpus} GPUs"
