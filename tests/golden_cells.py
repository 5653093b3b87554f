"""Small scenarios off the beaten track of the shipped ones, by name; `test_golden_cells` holds their frozen numbers.

Every cell is a function without arguments that answers with a scenario, so that model files are written when needed.
Changes are dotted paths with ``__`` for the dots; each turns one or a few knobs of one of the bases below. Cells whose
operations all last as long as the model says ("exact") meet ties; the others are jittered, so that no two times agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import afdsim
from tests.cases import tiny_model, tiny_windowed

JITTER = {"event": 0.1, "step": 0.05, "link": 0.05}
EXACT = {"link": 0}
LENGTHS = {
    "input_len": {"distribution": "uniform", "min": 50, "max": 400},
    "output_len": {"distribution": "lognormal", "mean": 8, "cv": 0.6, "max": 24},
}
HUGE = {"distribution": "lognormal", "mean": 30_000_000, "cv": 1.0, "max": 200_000_000}
"""Contexts of which a rank of these tiny models holds a few, and sometimes less than one."""


def closed(requests: int = 60, **changes: object) -> dict[str, object]:
    """A closed loop of uneven requests."""
    return {"arrival": {"process": "closed_loop"}, **LENGTHS, "num_requests": requests, **changes}


def arriving(rate: str, requests: int = 60, process: str = "poisson", **changes: object) -> dict[str, object]:
    """An open loop of uneven requests; `changes` to the workload."""
    law = {"burstiness": 0.3} if process == "gamma" else {}
    arrival = {"process": process, "request_rate": rate, **law}
    return {"arrival": arrival, **LENGTHS, "num_requests": requests, **changes}


def changed(data: dict[str, object], changes: dict[str, object]) -> afdsim.Scenario:
    """A scenario with values at dotted paths, __ for the dots, replaced."""
    return afdsim.load(data).varied({path.replace("__", "."): value for path, value in changes.items()})


def afd(model: str | None = None, **changes: object) -> afdsim.Scenario:
    """2A2F of two GPUs each, of two kinds, three micro-batches, ports."""
    data = {
        "model": model or tiny_model(4),
        "deployment": {
            "type": "afd",
            "attention": {"gpu": "H800", "instances": 2, "gpus_per_instance": 2},
            "ffn": {"gpu": "H20", "instances": 2, "gpus_per_instance": 2},
            "num_microbatches": 3,
            "max_num_seqs": 9,
        },
        "variation": JITTER,
        "workload": closed(),
        "sla": {"tpot": "0.6ms", "percentile": "mean"},
    }
    return changed(data, changes)


def colocated(model: str | None = None, **changes: object) -> afdsim.Scenario:
    """Expert parallelism on two servers of four GPUs, one dense layer first."""
    data = {
        "model": model or tiny_model(4, 1),
        "deployment": {
            "type": "colocated",
            "gpu": "H800",
            "instances": 2,
            "gpus_per_instance": 4,
            "max_num_seqs": 5,
        },
        "variation": JITTER,
        "workload": closed(100),
    }
    return changed(data, changes)


def tensor(model: str = "step3-small", gpus: int = 8, **changes: object) -> afdsim.Scenario:
    """GPUs that all work on every token."""
    data = {
        "model": model,
        "deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": gpus, "max_num_seqs": 12},
        "variation": JITTER,
        "workload": closed(40),
    }
    return changed(data, changes)


def shipped(name: str, **changes: object) -> afdsim.Scenario:
    """A shipped scenario, cut short."""
    return changed(afdsim.load(name).given(), changes)


def windowed(build: Callable[..., afdsim.Scenario], **changes: object) -> afdsim.Scenario:
    """`build` of the model whose every other layer reads 310 tokens: some requests start below and grow beyond."""
    lengths = {"input_len": {"distribution": "uniform", "min": 280, "max": 330}}
    return build(tiny_windowed(4), **{"workload": closed(60, **lengths), **changes})


def heavy(**changes: object) -> afdsim.Scenario:
    """Two layers of Step-3 with batches that fill the FFN instances, which are slow."""
    ffn = pool("H20", 2, 4, parallelism={"ep": 2, "tp": 2})
    slow = {"straggler": {"ffn[0]": 8.0, "ffn[1]": 8.0}}
    base = {"deployment__ffn": ffn, "deployment__max_num_seqs": 96, "workload": closed(400), "variation": JITTER | slow}
    return afd("step3-small", **{**base, **changes})


def ep_heavy(**changes: object) -> afdsim.Scenario:
    """Two layers of Step-3 with large batches on two NVLink domains with slow NICs between them."""
    base = {"deployment__instances": 4, "deployment__max_num_seqs": 48, "workload": closed(800)}
    base["network__link"] = {"bandwidth": "50Gbps"}
    return colocated("step3-small", **{**base, **changes})


def pool(gpu: str, instances: int, gpus: int, **more: object) -> dict[str, object]:
    """A pool of an AFD deployment."""
    return {"gpu": gpu, "instances": instances, "gpus_per_instance": gpus, **more}


DRAIN = {"deployment__boundary": "drain", "deployment__gap": "50us"}
GPU = {"run__granularity": "gpu"}
TP2 = pool("H800", 2, 4, parallelism={"dp": 2, "tp": 2})
UNEVEN = {
    "variation": {
        "event": 0.3,
        "step": 0.2,
        "link": 0.3,
        "straggler": {"attention[1]": 1.5, "ffn[0]": 1.3},
    }
}
UNEVEN_SERVERS = {"variation": {"event": 0.3, "step": 0.2, "link": 0.3, "straggler": {"instance[1]": 1.4}}}
SKEW = {"law": "power_law", "skew": 0.8}
STREAM_OF_REQUESTS = {"workload": arriving("20000 req/s"), "run__warmup": "1ms"}
IDLE = {"workload": arriving("60 req/s", 24)}
STOP = "run__stop__max_sim_time"
WIDE = {"deployment__instances": 4, "deployment__redundant_experts": 8}
"""Two NVLink domains; the servers of the base share one."""
MTP = {"draft": 1, "acceptance": 0.7}
MTP2 = {"draft": 2, "acceptance": 0.6}
TWO, SINGLE = {"deployment__two_batch_overlap": True}, {"deployment__single_batch_overlap": True}
REFUSED = {"input_len": HUGE}

AFD: dict[str, Callable[[], afdsim.Scenario]] = {
    "afd": afd,
    "afd_exact": partial(afd, variation=EXACT),
    "afd_drain": partial(afd, deployment__boundary="drain"),
    "afd_drain_gap": partial(afd, **DRAIN),
    "afd_drain_gap_idle": partial(afd, **DRAIN, **IDLE),
    "afd_dedicated": partial(afd, network__type="dedicated"),
    "afd_dedicated_exact": partial(afd, network__type="dedicated", variation=EXACT),
    "afd_dedicated_gpu": partial(afd, network__type="dedicated", **GPU, **UNEVEN),
    "afd_slow_links": partial(afd, network__link={"bandwidth": "0.1Gbps", "latency": "5us"}, **GPU),
    "afd_slow_links_dedicated": partial(
        afd, network__link={"bandwidth": "0.1Gbps", "latency": "5us"}, network__type="dedicated"
    ),
    "afd_heavy": heavy,
    "afd_heavy_skewed_gpu": partial(heavy, variation__experts=SKEW, **GPU),
    "afd_heavy_width": partial(heavy, variation__experts=SKEW, deployment__ffn=pool("H20", 2, 4, across="width")),
    "afd_free_messages": partial(
        afd, network__post="0s", network__poll="0s", network__synchronise="0s", network__link={"latency": "0s"}
    ),
    "afd_gpu_tp2": partial(afd, deployment__attention=TP2, **GPU),
    "afd_gpu_exact": partial(afd, variation=EXACT, **GPU),
    "afd_gpu_uneven": partial(afd, **GPU, **UNEVEN),
    "afd_gpu_uneven_drain": partial(afd, **GPU, **UNEVEN, **DRAIN),
    "afd_uneven": partial(afd, **UNEVEN),
    "afd_open_warmup": partial(afd, **STREAM_OF_REQUESTS),
    "afd_open_gamma": partial(afd, workload=arriving("5000 req/s", process="gamma")),
    "afd_open_constant": partial(afd, workload=arriving("20000 req/s", process="constant"), variation=EXACT),
    "afd_open_at_once": partial(afd, workload=arriving("inf req/s")),
    "afd_open_idle": partial(afd, **IDLE),
    "afd_open_idle_gpu": partial(afd, **IDLE, **GPU),
    "afd_horizon_warm": partial(afd, **{STOP: "20ms"}),
    "afd_horizon": partial(afd, **{STOP: "7ms"}),
    "afd_horizon_open": partial(afd, **{STOP: "6ms"}, **STREAM_OF_REQUESTS),
    "afd_horizon_idle": partial(afd, **{STOP: "0.2s"}, **IDLE),
    "afd_warmup_closed": partial(afd, run__warmup="4ms"),
    "afd_concurrency": partial(afd, workload__arrival={"process": "closed_loop", "concurrency": 17}),
    "afd_refused": partial(afd, workload=arriving("2000 req/s", 40, **REFUSED)),
    "afd_refused_closed": partial(afd, workload=closed(40, **REFUSED), **{STOP: "3s"}),
    "afd_mtp1": partial(afd, deployment__mtp=MTP),
    "afd_mtp2_windowed": partial(windowed, afd, deployment__mtp=MTP2),
    "afd_mtp1_windowed": partial(windowed, afd, deployment__mtp=MTP),
    "afd_mtp2_windowed_gpu": partial(windowed, afd, deployment__mtp=MTP2, **GPU),
    "afd_mtp2_open_idle": partial(afd, deployment__mtp=MTP2, **IDLE),
    "afd_windowed": partial(windowed, afd),
    "afd_windowed_gpu": partial(windowed, afd, **GPU),
    "afd_skewed_4f": partial(afd, variation__experts=SKEW, deployment__ffn=pool("H20", 4, 2)),
    "afd_skewed_balanced": partial(afd, variation__experts=SKEW | {"placement": "balanced"}),
    "afd_skewed_ep2": partial(
        afd, variation__experts=SKEW, deployment__ffn=pool("H20", 2, 4, parallelism={"ep": 2, "tp": 2})
    ),
    "afd_slowest": partial(heavy, variation__experts={"law": "slowest", "max_over_mean": 1.3}),
    "afd_width": partial(afd, variation__experts=SKEW, deployment__ffn=pool("H20", 4, 2, across="width")),
    "afd_width_gpu": partial(afd, deployment__ffn=pool("H20", 2, 2, across="width"), **GPU),
    "afd_dense_first": (lambda: afd(tiny_model(5, 2))),
    "afd_dense_first_gpu": (lambda: afd(tiny_model(5, 2), **GPU, network__type="dedicated")),
    "afd_dense_only": (lambda: afd(tiny_model(3, 3))),
    "afd_ep4": partial(afd, deployment__ffn=pool("H20", 2, 4, parallelism={"ep": 4, "tp": 1})),
    "afd_ep2_tp2": partial(afd, deployment__ffn=pool("H20", 2, 4, parallelism={"ep": 2, "tp": 2}), **GPU),
    "afd_tp2_o_proj": partial(
        afd, deployment__attention=pool("H800", 2, 4, o_proj="tp2", lm_head="tp4"), deployment__ffn=pool("H20", 1, 8)
    ),
    "afd_4_micro_batches": partial(afd, deployment__num_microbatches=4, deployment__max_num_seqs=10),
    "afd_4_micro_batches_drain": partial(
        afd, deployment__num_microbatches=4, deployment__max_num_seqs=7, deployment__boundary="drain", **GPU
    ),
    "afd_empty_micro_batches": partial(afd, deployment__num_microbatches=4, deployment__max_num_seqs=2),
    "afd_1_micro_batch": partial(afd, deployment__num_microbatches=1),
    "afd_7a1f": partial(
        afd, deployment__attention=pool("H800", 7, 1), deployment__ffn=pool("H20", 1, 4), workload=closed(90)
    ),
    "afd_1_layer": (lambda: afd(tiny_model(1))),
    "afd_1_layer_open": (lambda: afd(tiny_model(1), workload=arriving("600 req/s", 24))),
    "afd_1_layer_1_micro_batch": (lambda: afd(tiny_model(1), deployment__num_microbatches=1, **IDLE)),
    "afd_step3_gpu": partial(
        shipped,
        "step3_2a2f_4k",
        **GPU,
        run__seeds=[3],
        deployment__max_num_seqs=6,
        workload__output_len={"distribution": "constant", "value": 3},
        workload__num_requests=20,
    ),
}

COLOCATED: dict[str, Callable[[], afdsim.Scenario]] = {
    "ep": colocated,
    "ep_exact": partial(colocated, variation=EXACT),
    "ep_two_batches": partial(colocated, **TWO),
    "ep_two_batches_exact": partial(colocated, variation=EXACT, **TWO),
    "ep_normal": partial(colocated, deployment__all_to_all="normal"),
    "ep_normal_two_batches": partial(colocated, deployment__all_to_all="normal", **TWO),
    "ep_normal_single_overlap": partial(colocated, deployment__all_to_all="normal", **SINGLE),
    "ep_single_overlap": partial(colocated, **SINGLE),
    "ep_wide": partial(colocated, **WIDE),
    "ep_wide_two_batches": partial(colocated, **WIDE, **TWO, **UNEVEN_SERVERS),
    "ep_wide_single_overlap": partial(colocated, **WIDE, **SINGLE),
    "ep_wide_normal_two_batches_gpu": partial(colocated, **WIDE, **TWO, **GPU, deployment__all_to_all="normal"),
    "ep_heavy": ep_heavy,
    "ep_heavy_normal_two_batches": partial(ep_heavy, **TWO, deployment__all_to_all="normal"),
    "ep_heavy_single_overlap": partial(ep_heavy, **SINGLE),
    "ep_heavy_two_batches_gpu": partial(ep_heavy, variation__experts=SKEW, **TWO, **GPU),
    "ep_single_overlap_gpu": partial(colocated, **SINGLE, **GPU, variation__experts=SKEW),
    "ep_redundant_shared_gpus": partial(
        colocated, deployment__redundant_experts=4, deployment__shared_expert_gpus=2, variation__experts=SKEW
    ),
    "ep_redundant_balanced": partial(
        colocated, deployment__redundant_experts=8, variation__experts=SKEW | {"placement": "balanced"}, **TWO
    ),
    "ep_skewed_two_batches_gpu": partial(colocated, variation__experts=SKEW, **TWO, **GPU),
    "ep_slowest_two_batches": partial(colocated, variation__experts={"law": "slowest", "max_over_mean": 1.3}, **TWO),
    "ep_gpu": partial(colocated, **GPU),
    "ep_tp2_gpu": partial(colocated, deployment__parallelism={"dp": 2, "tp": 2}, deployment__lm_head="tp2", **GPU),
    "ep_tp2_two_batches": partial(colocated, deployment__parallelism={"dp": 2, "tp": 2}, **TWO),
    "ep_mtp1": partial(colocated, deployment__mtp=MTP),
    "ep_mtp2_two_batches": partial(colocated, deployment__mtp=MTP2, **TWO),
    "ep_mtp1_windowed": partial(windowed, colocated, deployment__mtp=MTP),
    "ep_mtp2_windowed_two_batches": partial(windowed, colocated, deployment__mtp=MTP2, **TWO),
    "ep_windowed": partial(windowed, colocated),
    "ep_open_warmup": partial(colocated, **STREAM_OF_REQUESTS),
    "ep_open_idle": partial(colocated, **IDLE),
    "ep_open_idle_two_batches_gpu": partial(colocated, **IDLE, **TWO, **GPU),
    "ep_open_idle_host": partial(colocated, **IDLE, deployment__host_overhead="0.3ms"),
    "ep_horizon": partial(colocated, **{STOP: "7ms"}),
    "ep_horizon_idle": partial(colocated, **{STOP: "0.2s"}, **IDLE),
    "ep_horizon_open": partial(colocated, **{STOP: "6ms"}, **STREAM_OF_REQUESTS),
    "ep_refused": partial(colocated, workload=arriving("2000 req/s", 40, **REFUSED)),
    "ep_overheads": partial(colocated, deployment__host_overhead="0.3ms", deployment__framework_overhead="20us"),
    "ep_overheads_two_batches": partial(
        colocated, deployment__host_overhead="0.3ms", deployment__framework_overhead="20us", **TWO
    ),
    "ep_uneven": partial(colocated, **UNEVEN_SERVERS),
    "ep_uneven_two_batches": partial(colocated, **UNEVEN_SERVERS, **TWO),
    "ep_uneven_single_overlap_gpu": partial(colocated, **UNEVEN_SERVERS, **SINGLE, **GPU),
    "ep_moe_only": (lambda: colocated(tiny_model(3), **TWO)),
    "ep_1_layer": (lambda: colocated(tiny_model(1), **TWO)),
    "ep_1_gpu": partial(
        colocated, deployment__instances=1, deployment__gpus_per_instance=1, deployment__max_num_seqs=24
    ),
    "ep128_skewed_two_batches": partial(
        shipped,
        "dsv3_ep128_4k",
        deployment__max_num_seqs=4,
        variation__experts=SKEW,
        workload__output_len={"distribution": "constant", "value": 3},
        workload__num_requests=300,
    ),
    "ep128_skewed_single_overlap": partial(
        shipped,
        "dsv3_ep128_4k",
        deployment__two_batch_overlap=False,
        deployment__single_batch_overlap=True,
        deployment__mtp=None,
        deployment__max_num_seqs=4,
        variation__experts=SKEW,
        workload__output_len={"distribution": "constant", "value": 3},
        workload__num_requests=300,
    ),
}

TENSOR: dict[str, Callable[[], afdsim.Scenario]] = {
    "tp8": tensor,
    "tp8_exact_gpu": partial(tensor, variation=EXACT, **GPU),
    "tp8_ep4": partial(tensor, deployment__ep=4),
    "tp8_ep8_skewed": partial(tensor, deployment__ep=8, variation__experts=SKEW),
    "tp8_mtp1": partial(tensor, deployment__mtp=MTP),
    "tp8_ep2_mtp2": partial(tensor, deployment__ep=2, deployment__mtp=MTP2),
    "tp8_open_idle": partial(tensor, **IDLE, deployment__host_overhead="0.2ms"),
    "tp8_dense": partial(tensor, "qwen3-32b"),
    "tp2_windowed": partial(windowed, tensor, gpus=2),
}

CELLS: dict[str, Callable[[], afdsim.Scenario]] = AFD | COLOCATED | TENSOR
"""Every scenario whose summary and frames are frozen."""

PROCESSES_ONLY = frozenset({"afd_1_layer", "afd_1_layer_open"})
"""Cells that the kernel refuses: one layer with several micro-batches."""

TIMELINES = {
    "afd_ports_gpu": ("afd_gpu_uneven", (0.001, 0.003)),
    "afd_dedicated": ("afd_dedicated", (0.001, 0.003)),
    "afd_idle": ("afd_open_idle", (0.0, 0.1)),
    "ep_two_batches": ("ep_uneven_two_batches", (0.001, 0.003)),
}
"""Cell and seconds of every timeline whose spans are frozen."""
