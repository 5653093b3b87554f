"""What a run says whose steps compute prompts: vLLM's keys, the first token first, shares of steps, shares of peak."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.cost.prompts import Chunk
from afdsim.cost.roofline import Roofline
from afdsim.engine.lowering import lower
from afdsim.engine.prompts import Prices
from afdsim.engine.servers import prefill_of
from afdsim.results.result import Result, pooled
from afdsim.results.terminal import terminal
from afdsim.scenario.document import load
from afdsim.simulation import demanded, execute, member
from tests.cases import tiny_model

POISSON = {"process": "poisson", "request_rate": "8 req/s"}
ENGINE = {
    "model": "step3",
    "deployment": {"type": "tensor_parallel", "gpu": "H200", "gpus": 8, "max_num_seqs": 64},
    "prefill": {"mode": "mixed", "chunk": 512},
    "workload": {
        "arrival": POISSON,
        "input_len": {"distribution": "lognormal", "mean": 1024, "cv": 1.0, "max": 8192},
        "output_len": {"distribution": "uniform", "min": 1, "max": 60},
        "num_requests": 250,
    },
    "sla": {"ttft": "1s", "tpot": "50ms", "percentile": "p90"},
    "run": {"engine": "kernel", "warmup": "2s"},
}


def simulated(seed=0, **changes):
    asked = load(ENGINE).varied({key.replace("__", "."): value for key, value in changes.items()})
    return afdsim.simulate(asked, seed=seed)


@pytest.fixture(scope="module")
def result():
    return afdsim.simulate(load(ENGINE))


def test_keys_are_those_of_prefill_servers(result):
    found, own = result.summary, result.summary["afdsim"]
    table = result.requests
    done = table[table["counted"] & (table["status"] == "finished")]

    assert {f"{name}_{metric}_ms" for name in ("mean", "p99") for metric in ("ttft", "tpot", "itl")} < found.keys()
    assert found["mean_ttft_ms"] == pytest.approx(done["ttft_ms"].mean())
    assert found["mean_prefill_queue_ms"] == found["mean_queue_ms"]
    assert found["total_token_throughput"] > found["output_throughput"]
    assert own["definitions"]["ttft"].endswith("the first token comes with the end of its prompt")
    assert set(own["sla"]["limits"]) == {"ttft", "tpot"}
    assert (own["gpus"], list(own["pools"])) == (8, ["colocated"])
    assert "kv_ready_s" not in table
    assert (done["prefill_start_s"] == done["admitted_s"]).all()
    assert (done["prefill_end_s"] == done["first_token_s"]).all()


def test_shares_of_steps_are_counted(result):
    own = result.summary["afdsim"]["prefill"]
    long, short = (simulated(prefill__chunk=chunk).summary["afdsim"]["prefill"] for chunk in (64, 8192))

    assert (own["mode"], own["chunk"], own["tokens_recomputed"]) == ("mixed", 512, 0)
    assert 0 < own["share_of_steps"] < own["share_of_time"] < 1
    assert own["tokens_per_step"] <= 512
    assert short["share_of_steps"] < own["share_of_steps"] < long["share_of_steps"]
    assert own["prompt_tokens"] <= result.requests["input_len"].sum()


def test_the_report_says_what_computes_prompts(result):
    lines = terminal(result).splitlines()

    assert "Prefill mixed, 512 tokens a step and rank beside those that decode" in lines
    assert any(line.startswith(" TTFT (ms)") for line in lines)
    assert not any(line.startswith(" Prefill wait") for line in lines)
    assert any(line.startswith("Prefill   in ") and "of their time" in line for line in lines)
    assert not any("prefill's too" in line for line in lines)
    assert max(map(len, lines)) <= 96


def test_a_run_is_saved_and_read_back(result, tmp_path):
    again = Result.load(result.save(tmp_path / "run"))

    assert again.summary == result.summary
    assert terminal(again) == terminal(result)


def test_seeds_are_pooled():
    every = [simulated(seed) for seed in (0, 1)]
    found, each = pooled(every)["afdsim"]["prefill"], [one.summary["afdsim"]["prefill"] for one in every]

    assert found["share_of_steps"] == pytest.approx(np.mean([one["share_of_steps"] for one in each]))
    assert found["prompt_tokens"] == sum(one["prompt_tokens"] for one in each)
    assert found["mode"] == "mixed"


def test_cells_behind_a_router_compute_their_own_prompts(result):
    one, several = simulated(router={"replicas": 1}), simulated(router={"replicas": 2})

    assert one.summary["mean_ttft_ms"] == pytest.approx(result.summary["mean_ttft_ms"], rel=0.05)
    assert several.summary["mean_ttft_ms"] < one.summary["mean_ttft_ms"]
    assert several.summary["afdsim"]["prefill"]["share_of_steps"] < one.summary["afdsim"]["prefill"]["share_of_steps"]


def test_classes_have_a_first_token_of_their_own():
    classes = [
        {"name": "chat", "weight": 3, "input_len": 200, "output_len": 20},
        {"name": "papers", "weight": 1, "input_len": 6000, "output_len": 40},
    ]
    found = simulated(workload__classes=classes, workload__input_len=None, workload__output_len=None)
    own, requests = found.summary["afdsim"]["classes"], found.requests
    gaps = {name: int(found.tokens[f"gaps_{name}"].sum()) for name in own}

    assert own["chat"]["mean_ttft_ms"] < own["papers"]["mean_ttft_ms"]
    assert gaps == {name: int((requests.output_len - 1)[requests["class"] == name].sum()) for name in own}


def test_a_workload_of_single_tokens_is_one_of_prompts_alone():
    """Its FLOPs are those that prefill servers count, step by step."""
    at_once = {"process": "poisson", "request_rate": "inf req/s"}
    asked = load(ENGINE).varied({"workload.output_len": 1, "workload.num_requests": 40, "workload.arrival": at_once})
    servers = {"gpu": "H200", "instances": 1, "parallelism": {"dp": 1, "tp": 8}, "max_batched_tokens": 512}
    front = load("step3_prefill").vary("prefill", servers)
    prices = Prices(prefill=prefill_of(front, front.servers), cost=Roofline())
    cell = lower(asked, seed=0)
    record = execute(cell, demanded(asked, cell, 0), "kernel")
    log = record.chunks
    steps = [np.flatnonzero(log.step == step) for step in np.unique(log.step)]
    flops = sum(
        prices.step([[Chunk(int(log.tokens[i]), int(log.before[i])) for i in own]], [int(log.ends[own].sum())]).flops
        for own in steps
    )
    found = afdsim.simulate(asked).summary

    assert found["completed"] == 40
    assert found["afdsim"]["prefill"]["share_of_steps"] == 1
    assert found["afdsim"]["pools"]["colocated"]["mfu"] * found["duration"] == pytest.approx(flops, rel=1e-9)


class Other:
    """The roofline, as a cost model of somebody's own."""

    def seconds(self, operator, gpu):
        return Roofline().seconds(operator, gpu)


def test_a_cost_model_of_ones_own_prices_prompts_too(result):
    """On a grid by tokens and pairs, and chunks as one that has as many of both: within a few parts in a hundred."""
    kernel = afdsim.simulate(load(ENGINE), cost=Other()).summary

    assert kernel["mean_ttft_ms"] == pytest.approx(result.summary["mean_ttft_ms"], rel=0.05)
    assert kernel["mean_tpot_ms"] == pytest.approx(result.summary["mean_tpot_ms"], rel=0.02)


def test_the_json_has_everything():
    done = CliRunner().invoke(
        main,
        ["run", "step3_ep32_mixed", "--json", "--quiet", "--no-marginal", "--set", "workload.duration=3s"],
    )
    read = json.loads(done.stdout)

    assert done.exit_code == 0
    assert read["afdsim"]["prefill"]["chunk"] == 256
    assert read["p99_ttft_ms"] >= read["median_ttft_ms"] > 0


def test_scarce_cache_has_contexts_computed_again():
    one = {"block": 16, "policy": "grow"}
    tight = simulated(
        kv_cache=one,
        deployment__gpu_memory_utilization=0.5,
        workload__output_len={"distribution": "uniform", "min": 200, "max": 1200},
        workload__arrival={"process": "poisson", "request_rate": "inf req/s"},
        workload__num_requests=64,
        prefill__chunk=2048,
    ).summary["afdsim"]

    assert tight["kv_cache"]["preemptions"] >= tight["kv_cache"]["requests_preempted"] >= 0
    assert "tokens_recomputed" not in tight["kv_cache"]
    assert (tight["prefill"]["tokens_recomputed"] > 0) == (tight["kv_cache"]["preemptions"] > 0)


@pytest.mark.parametrize("longest", [1, 2])
def test_shares_are_there_where_as_many_answers_begin_as_there_are_places(longest):
    """Nobody decodes, or few do: means that are rounded up apart lie beyond the tables, and shares are told."""
    engine = {"type": "colocated", "gpu": "H800", "instances": 1, "gpus_per_instance": 2, "max_num_seqs": 3}
    lengths = {"distribution": "uniform", "min": 1, "max": longest}
    workload = {"arrival": {"process": "closed_loop"}, "input_len": 50, "output_len": lengths, "num_requests": 60}
    prefill = {"mode": "mixed", "chunk": 8192}
    found = afdsim.simulate({"model": tiny_model(2), "deployment": engine, "prefill": prefill, "workload": workload})
    assert len(found.requests) >= 60


def test_chunks_take_no_room_of_boundaries():
    """A step that computes a prompt and emits nothing asks for a row of chunks alone."""
    engine = {"type": "tensor_parallel", "gpu": "H800", "gpus": 1, "max_num_seqs": 1}
    arrival = {"process": "poisson", "request_rate": "1 req/s"}
    workload = {"arrival": arrival, "input_len": 4000, "output_len": 2, "num_requests": 4}
    prefill = {"mode": "mixed", "chunk": 2}
    scenario = load({"model": tiny_model(2), "deployment": engine, "prefill": prefill, "workload": workload})
    cell = lower(scenario, seed=0)
    started = member(cell, demanded(scenario, cell, 0), "processes")
    started.execute()
    assert len(started.desk.book.chunks) >= 8000
    assert len(started.desk.book.rows) == 4096
