"""What a run with prefill says: vLLM's keys, the first token first, both pools' GPUs, and all of it read back."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.results import metrics
from afdsim.results.result import Result, pooled
from afdsim.results.terminal import terminal
from afdsim.scenario.document import load

SHORT = ["workload.duration=12s", "workload.output_len={distribution: uniform, min: 1, max: 60}", "run.warmup=3s"]
LATENCIES = ("ttft", "tpot", "itl", "e2el")


def simulated(*overrides, seed=0):
    return afdsim.simulate(load("step3_prefill", overrides=[*SHORT, *overrides]), seed=seed)


@pytest.fixture(scope="module")
def result():
    return simulated()


@pytest.fixture(scope="module")
def requests(result):
    return result.requests


def test_a_script_for_vllm_bench_results_reads_the_json():
    """Keys as `vllm bench serve --save-result --percentile-metrics ttft,tpot,itl,e2el` documents them."""
    asked = [part for override in SHORT for part in ("--set", override)]
    done = CliRunner().invoke(main, ["run", "step3_prefill", "--json", "--quiet", "--no-marginal", *asked])
    read = json.loads(done.stdout)
    counts = [read[key] for key in ("completed", "total_input_tokens", "total_output_tokens")]
    rates = [read[key] for key in ("duration", "request_throughput", "output_throughput", "total_token_throughput")]
    table = {
        metric: [read[f"{statistic}_{metric}_ms"] for statistic in ("mean", "median", "std", "p99")]
        for metric in LATENCIES
    }

    assert done.exit_code == 0
    assert all(isinstance(count, int) and count > 0 for count in counts)
    assert all(isinstance(rate, float) and rate > 0 for rate in rates)
    assert read["total_token_throughput"] > read["output_throughput"]
    assert all(value >= 0 for row in table.values() for value in row)
    assert table["ttft"][3] > table["ttft"][0]
    assert read["request_goodput"] <= read["request_throughput"] * 1.2


def test_times_of_requests_are_columns(requests):
    done = requests[requests["status"] == "finished"]
    several = done[done["output_len"] > 1]

    assert (done["prefill_end_s"] == done["first_token_s"]).all()
    assert np.allclose(done["ttft_ms"], 1e3 * (done["first_token_s"] - done["arrival_s"]))
    assert np.allclose(several["queue_ms"], 1e3 * (several["admitted_s"] - several["kv_ready_s"]))
    assert np.allclose(
        several["tpot_ms"], 1e3 * (several["finish_s"] - several["first_token_s"]) / (several["output_len"] - 1)
    )


def test_a_request_of_one_token_ends_with_prefill(requests):
    one = requests[(requests["output_len"] == 1) & (requests["status"] == "finished")]

    assert len(one) > 3
    assert (one["finish_s"] == one["prefill_end_s"]).all()
    assert one[["kv_ready_s", "admitted_s", "queue_ms", "tpot_ms"]].isna().all().all()
    assert (one["rank"] == -1).all()


def test_statistics_are_those_of_the_frame(result, requests):
    counted = requests[requests["counted"] & (requests["status"] == "finished")]

    assert result.summary["mean_ttft_ms"] == pytest.approx(counted["ttft_ms"].mean())
    assert result.summary["p99_ttft_ms"] == pytest.approx(np.percentile(counted["ttft_ms"], 99))
    assert result.summary["mean_queue_ms"] == pytest.approx(counted["queue_ms"].mean())
    assert result.summary["afdsim"]["definitions"]["ttft"].startswith("first token - arrival")


def test_gpus_of_prefill_count_in_rates_and_money(result):
    own = result.summary["afdsim"]
    pool = own["pools"]["prefill"]
    shares = sum(pool[cause] for cause in ("busy", "wait_peer", "network", "imbalance", "no_work", "down"))
    hours = own["gpus"] * 3.5 / 3600

    assert (own["gpus"], pool["gpu"], pool["gpus"]) == (64, "H200", 32)
    assert shares == pytest.approx(1)
    assert own["tgs"] == pytest.approx(result.summary["output_throughput"] / 64)
    assert own["usd_per_1m_output_tokens"] == pytest.approx(hours / result.summary["output_throughput"] * 1e6)
    assert 0 < pool["mfu"] < pool["busy"]
    assert (result.gpus["pool"] == "prefill").sum() == 32


def test_the_report_begins_with_the_first_token(result):
    text = terminal(result)
    lines = text.splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith(" Metric"))

    assert lines[head + 2].startswith(" TTFT (ms)")
    assert any(line.startswith("Prefill 4x8 H200 (32 GPUs), DP4+EP8, 8,192 tokens a step and rank") for line in lines)
    assert "TGS over all 64 GPUs, prefill's too" in text
    assert any(line.startswith(" prefill 32x H200") for line in lines)
    assert any(line.startswith("SLA  p99 TTFT <= 1,000 ms") for line in lines)
    assert max(map(len, lines)) <= 96


def test_without_prefill_nothing_is_said_of_it():
    bare = afdsim.simulate(load("small"))

    assert not [key for key in bare.summary if "ttft" in key or "prefill" in key]
    assert "total_token_throughput" not in bare.summary
    assert "ttft" not in bare.summary["afdsim"]["definitions"]
    assert "TTFT" not in terminal(bare)
    assert "ttft_ms" not in bare.requests


def test_a_limit_on_the_first_token_is_held():
    strict, loose = (simulated(f"sla={{ttft: {limit}, percentile: mean}}") for limit in ("1ms", "100s"))

    assert strict.summary["afdsim"]["sla"]["verdict"] == "FAIL"
    assert strict.summary["request_goodput"] == 0
    assert loose.summary["afdsim"]["sla"]["met"]
    assert loose.summary["request_goodput"] == pytest.approx(loose.summary["request_throughput"])


def test_too_few_servers_are_an_overload():
    load_ = simulated("prefill.instances=1", "run.warmup=null").summary["afdsim"]

    assert load_["load"] == "OVERLOADED"
    assert load_["sla"]["verdict"] == "FAIL"


def test_a_run_is_saved_and_read_back(result, tmp_path):
    folder = result.save(tmp_path / "run")
    again = Result.load(folder)

    assert again.summary == result.summary
    assert list(again.requests.columns) == list(result.requests.columns)
    assert {path.stem for path in (folder / "figures").glob("ttft*")} == {"ttft_histogram", "ttft_cdf"}


def test_seeds_are_pooled():
    every = [simulated(seed=seed) for seed in (0, 1)]
    found = pooled(every)
    means = [each.summary["mean_ttft_ms"] for each in every]

    assert found["mean_ttft_ms"] == pytest.approx(np.mean(means))
    assert "mean_ttft_ms" in found["afdsim"]["ci"]


def test_littles_law_holds_between_arrival_and_first_token(requests):
    """Mean number between arrival and first token = rate x mean TTFT, over all requests of the run."""
    events = np.concatenate([requests["arrival_s"], requests["first_token_s"]])
    steps = np.concatenate([np.ones(len(requests)), -np.ones(len(requests))])
    order = np.argsort(events, kind="stable")
    area = float((np.cumsum(steps[order])[:-1] * np.diff(events[order])).sum())

    assert area == pytest.approx(requests["ttft_ms"].sum() / 1e3)


def test_ttft_is_a_metric_that_can_be_asked_for(result):
    assert result.samples("ttft").count == metrics.completed(result.run.requests).sum()
    assert result.hist("ttft")["count"].sum() == result.samples("ttft").count
    assert result.plot.ttft_cdf().get_xlabel().startswith("TTFT of a request")


def test_the_first_token_counts_even_where_a_run_is_stopped_before_the_last():
    result = simulated("run.stop.max_sim_time=5s")
    first = result.requests[result.requests["counted"] & result.requests["first_token_s"].notna()]

    assert (first["status"] != "finished").any()
    assert result.samples("ttft").count == len(first)
    assert result.summary["mean_ttft_ms"] == pytest.approx(first["ttft_ms"].mean())


def test_a_workload_of_single_tokens_is_told():
    with pytest.raises(afdsim.SimulationError, match="every request ends with the first token"):
        simulated("workload.output_len={distribution: lognormal, mean: 1, cv: 0}")


def test_classes_have_a_first_token_of_their_own():
    short = {
        "name": "chat",
        "weight": 3,
        "input_len": 200,
        "output_len": 20,
        "sla": {"ttft": "1s", "percentile": "mean"},
    }
    long = {
        "name": "papers",
        "weight": 1,
        "input_len": 6000,
        "output_len": 40,
        "sla": {"ttft": "1ms", "percentile": "mean"},
    }
    base = load("step3_prefill", overrides=[*SHORT, "workload.arrival.request_rate=20 req/s"])
    asked = base.varied({"workload.classes": [short, long], "workload.input_len": None, "workload.output_len": None})
    found = afdsim.simulate(asked)
    own, requests = found.summary["afdsim"]["classes"], found.requests
    gaps = {name: int(found.tokens[f"gaps_{name}"].sum()) for name in own}

    assert own["chat"]["mean_ttft_ms"] < own["papers"]["mean_ttft_ms"]
    assert [own[name]["sla"]["goodput_share"] for name in own] == [1.0, 0.0]
    assert gaps == {name: int((requests.output_len - 1)[requests["class"] == name].sum()) for name in own}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": {"cells": [{}, {"replicas": 2}]}}, "router.cells: must be of one kind behind prefill servers"),
    ],
)
def test_what_prefill_does_not_go_with_is_told(changes, message):
    with pytest.raises(afdsim.ScenarioError, match=message):
        load("step3_prefill").varied(changes)
