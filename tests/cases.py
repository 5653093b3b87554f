"""Small deployments for the laws: a tiny model of any depth, stages of any length, and both engines side by side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import settings

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Array
from afdsim.cluster.network import Network
from afdsim.cost.operators import Operator
from afdsim.cost.roofline import CostModel
from afdsim.engine.books import Trace
from afdsim.engine.cell import Cell
from afdsim.engine.lowering import lower
from afdsim.engine.record import Record
from afdsim.engine.schedule import Boundary, Compute, Schedule
from afdsim.scenario.document import Scenario, load
from afdsim.simulation import Engine, demanded, execute
from tests.scratch import scratch


def _written(name: str, config: Mapping[str, object]) -> str:
    """Path of a config in a file."""
    path = scratch() / name
    path.write_text(json.dumps(config))
    return str(path)


@cache
def tiny_model(layers: int, dense: int = 0) -> str:
    """Path of a Hugging Face config: hidden 256, eight experts, `layers` layers of which the first `dense` are dense."""
    config = {
        "model_type": "step3_text",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_attention_groups": 1,
        "head_dim": 64,
        "share_q_dim": 128,
        "moe_num_experts": 8,
        "moe_top_k": 2,
        "moe_intermediate_size": 512,
        "share_expert_dim": 512,
        "intermediate_size": 2048,
        "moe_layers_enum": list(range(dense, layers)),
    }
    return _written(f"tiny-{layers}-{dense}.json", config)


@cache
def tiny_windowed(layers: int) -> str:
    """Path of a Hugging Face config whose every other layer reads only the last 310 tokens."""
    config = {
        "model_type": "llama4_text",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 512,
        "intermediate_size_mlp": 2048,
        "interleave_moe_layer_step": 1,
        "attention_chunk_size": 310,
        "no_rope_layers": [index % 2 for index in range(layers)],
    }
    return _written(f"windowed-{layers}.json", config)


@cache
def tiny_sparse(layers: int) -> str:
    """Path of a Hugging Face config whose indexer scores all tokens and chooses 200 of them to read."""
    config = {
        "model_type": "deepseek_v32",
        "num_hidden_layers": layers,
        "hidden_size": 256,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "index_topk": 200,
        "index_n_heads": 8,
        "index_head_dim": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
        "intermediate_size": 2048,
        "first_k_dense_replace": min(1, layers - 1),
    }
    return _written(f"sparse-{layers}.json", config)


@cache
def tiny_hybrid(layers: int) -> str:
    """Path of a Hugging Face config of Mamba and attention, where every other layer has both before its FFN."""
    pattern = ("ME*M-" * layers)[: 2 * layers + layers // 2]
    config = {
        "model_type": "nemotron_h",
        "num_hidden_layers": len(pattern),
        "hybrid_override_pattern": pattern,
        "hidden_size": 256,
        "vocab_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "mamba_num_heads": 8,
        "mamba_head_dim": 32,
        "ssm_state_size": 64,
        "n_groups": 2,
        "conv_kernel": 4,
        "intermediate_size": 512,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 256,
    }
    return _written(f"hybrid-{layers}.json", config)


def tiny(layers: int = 4, attention: int = 1, ffn: int = 1, **changes: object) -> Scenario:
    """A closed loop of one sequence per micro-batch on instances of one GPU; `changes` are dotted paths with __."""
    data = {
        "model": tiny_model(layers),
        "deployment": {
            "type": "afd",
            "attention": {"gpu": "H800", "instances": attention, "gpus_per_instance": 1},
            "ffn": {"gpu": "H800", "instances": ffn, "gpus_per_instance": 1},
            "num_microbatches": 3,
            "max_num_seqs": 3,
        },
        "network": {"type": "dedicated", "link": {"latency": "0s"}, "post": "0s", "poll": "0s", "synchronise": "0s"},
        "variation": {"link": 0},
        "workload": {
            "arrival": {"process": "closed_loop"},
            "input_len": {"distribution": "constant", "value": 100},
            "output_len": {"distribution": "constant", "value": 12},
            "num_requests": 24,
        },
    }
    scenario = load(data)
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    return scenario


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A cost model of constants: seconds of an attention stage, an FFN stage and a step boundary."""

    attention: float = 0.0
    ffn: float = 0.0
    head: float = 0.0

    def seconds(self, operator: Operator, gpu: Gpu) -> Array:
        del gpu
        if operator.kernel.startswith("core"):
            return self.attention
        if operator.kernel == "grouped_gemm" or operator.name == "ffn up":
            return self.ffn
        return self.head if operator.name == "lm head" else 0.0


@dataclass(frozen=True, kw_only=True)
class Wires:
    """A network of constants: FP8 rows go out, BF16 rows come back, which are longer."""

    out: float = 0.0
    back: float = 0.0

    def seconds(self, nbytes: np.ndarray, bandwidth: float) -> np.ndarray:
        del bandwidth
        per_row = nbytes[1]
        return np.where(nbytes > 0, self.back if per_row >= 512 else self.out, 0.0)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run with the start and finish of every operation."""

    cell: Cell
    record: Record
    traces: dict[int, Trace]

    @property
    def schedule(self) -> Schedule:
        return self.cell.schedule

    @property
    def step_times(self) -> np.ndarray:
        """Times between consecutive boundaries of micro-batch 0 on unit 0."""
        rows = self.record.boundaries
        return np.diff(rows.time[(rows.unit == 0) & (rows.micro_batch == 0)])

    def span(self, step: int, name: str, *, layer: int = 0, micro_batch: int = 0, unit: int = 0) -> tuple[float, float]:
        """Start and finish of an operation of one step; `unit` counts all units of the cell."""
        at, trace = place(self.schedule, name, layer=layer, micro_batch=micro_batch, unit=unit), self.traces[step]
        return float(trace.start[at]), float(trace.finish[at])


def place(schedule: Schedule, name: str, *, layer: int = 0, micro_batch: int = 0, unit: int = 0) -> int:
    """Where an operation of a unit stands in a trace; a boundary has no layer."""
    (number,) = (
        number
        for number, turn in enumerate(schedule.turns)
        if isinstance(turn, Boundary | Compute)
        and unit in turn.units
        and turn.micro_batch == micro_batch
        and (name == "boundary" if isinstance(turn, Boundary) else (turn.name, turn.layer) == (name, layer))
    )
    turn = schedule.turns[number]
    assert isinstance(turn, Boundary | Compute)
    return schedule.at[number] + unit - turn.units.start


def fewer(part: int = 3) -> settings:
    """Only a part of the profile's examples: for laws that run long in processes."""
    return settings(max_examples=max(settings.default.max_examples // part, 1))


def unseen(scenario: Scenario) -> Outcome:
    """A run in machine code with nobody who looks at its steps: many at a go."""
    cell = lower(scenario, seed=0)
    return Outcome(cell=cell, record=execute(cell, demanded(scenario, cell, 0), "kernel"), traces={})


def run(
    scenario: Scenario,
    engine: Engine = "kernel",
    *,
    cost: CostModel | None = None,
    network: Network | None = None,
    seed: int = 0,
) -> Outcome:
    """One run with everything that it did."""
    cell = lower(scenario, seed=seed, cost=cost, network=network)
    traces: dict[int, Trace] = {}
    record = execute(cell, demanded(scenario, cell, seed), engine, observer=traces.__setitem__)
    return Outcome(cell=cell, record=record, traces=traces)
