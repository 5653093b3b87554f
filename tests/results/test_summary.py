"""A run as one tree of numbers: what is there, and what is absent because it is not known."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.results.intervals import Interval
from afdsim.results.metrics import Sla
from afdsim.results.steady import Load
from afdsim.results.summary import summary
from tests.results.by_hand import NAN, gpus, requests, run, tokens

LOAD = Load(level="STABLE", offered=1.5, served=1.4, growth=0.0, offered_interval=Interval(1.4, 1.6))


def test_summary_has_vllm_keys_and_ours():
    found = summary(run())

    assert found["completed"] == 2
    assert found["duration"] == 2.0
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (30, 4)
    assert (found["output_throughput"], found["request_throughput"], found["request_goodput"]) == (2.0, 1.0, 1.0)
    for metric in ("tpot", "itl", "e2el", "queue"):
        assert {f"{name}_{metric}_ms" for name in ("mean", "median", "std", "p90", "p95", "p99", "max")} <= set(found)
    assert found["mean_tpot_ms"] == found["p99_itl_ms"] == 500.0
    assert "p99.9_tpot_ms" not in found


def test_summary_of_ours():
    own = summary(run())["afdsim"]

    assert own["gpus"] == 3
    assert own["tgs"] == pytest.approx(2 / 3)
    assert (own["step_ms"], own["tokens_per_s_per_user"]) == (500.0, 2.0)
    assert own["usd_per_1m_output_tokens"] == pytest.approx(500.0)
    assert own["pools"]["attention"]["busy"] == 0.75
    assert own["pools"]["attention"]["mfu"] == 0.25
    assert "mfu" not in own["pools"]["ffn"]
    assert (own["sla"]["met"], own["sla"]["goodput"], own["sla"]["goodput_share"]) == (True, 1.0, pytest.approx(2 / 3))
    assert own["engine"] == {"name": "kernel", "steps": 3, "events": 9}
    assert (own["refused"], own["unfinished"]) == (1, 0)
    assert "saturation" not in own


def test_an_open_loop_has_a_saturation():
    own = summary(run(load=LOAD))["afdsim"]

    assert own["load"] == own["saturation"]["level"] == "STABLE"
    assert (own["saturation"]["offered"], own["saturation"]["offered_ci"]) == (1.5, [1.4, 1.6])
    assert "served_ci" not in own["saturation"]


def test_a_run_without_any_token_has_a_summary_without_latencies():
    nothing = {name: np.array([]) for name in ("step", "t_s", "batch", "gaps", "itl_s")}
    never = requests(admitted_s=[NAN] * 3, first_token_s=[NAN] * 3, finish_s=[NAN] * 3, status=["waiting"] * 3)

    found = summary(run(tokens=nothing, requests=never))

    assert found["completed"] == found["output_throughput"] == 0
    assert found["afdsim"]["unfinished"] == 3
    assert not [key for key in found if key.endswith("_ms")]
    assert "step_ms" not in found["afdsim"]
    json.dumps(found, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(
    finish=st.lists(st.one_of(st.just(NAN), st.floats(2.0, 9.0)), min_size=3, max_size=3),
    lengths=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    counted=st.lists(st.booleans(), min_size=3, max_size=3),
    percentile=st.sampled_from(["mean", "p50", "p99"]),
)
def test_every_summary_is_strict_json(finish, lengths, counted, percentile):
    reached = [NAN if math.isnan(end) else 1.0 for end in finish]
    table = requests(finish_s=finish, first_token_s=reached, admitted_s=reached, output_len=lengths, counted=counted)

    text = json.dumps(
        summary(run(requests=table, sla=Sla(limits={"tpot": 0.5}, percentile=percentile))), allow_nan=False
    )

    assert "null" not in text


def test_data_frames_are_columns_too():
    frames = {"requests": requests(), "tokens": tokens(), "gpus": gpus()}

    assert summary(run(**{name: pd.DataFrame(table) for name, table in frames.items()})) == summary(run())


def test_the_tightest_limit_is_the_verdict():
    found = summary(run(sla=Sla(limits={"e2el": 1.6, "tpot": 0.6}, percentile="mean")))["afdsim"]["sla"]

    assert (found["metric"], found["limit_ms"], found["value_ms"], found["met"]) == ("e2el", 1600, 1500, True)
    assert found["limits"]["tpot"]["value_ms"] == 500.0


def test_a_limit_without_samples_is_not_met():
    found = summary(run(requests=requests(output_len=[1, 1, 1])))["afdsim"]["sla"]

    assert found["verdict"] == "n/a"
    assert not found["met"]
    assert "value_ms" not in found


@pytest.mark.parametrize("level", ["BACKLOGGED", "OVERLOADED"])
def test_a_load_that_is_not_carried_meets_no_limit(level):
    easy = Sla(limits={"tpot": 60.0}, percentile="mean")

    own = summary(run(sla=easy, load=replace(LOAD, level=level, why="it grows")))["afdsim"]
    assert (own["load"], own["sla"]["met"], own["sla"]["verdict"]) == (level, False, "FAIL")
    assert own["saturation"]["why"] == "it grows"
    assert own["tgs"] > 0
    assert summary(run(sla=easy, load=LOAD))["afdsim"]["sla"]["met"]


def test_an_unsteady_load_has_no_rates_no_price_and_no_verdict():
    found = summary(run(load=Load(level="n/a", offered=1.5, wants=40.0, why="too short")))
    own = found["afdsim"]

    assert own["load"] == own["sla"]["verdict"] == "n/a"
    assert not own["sla"]["met"]
    assert own["saturation"] == {"level": "n/a", "offered": 1.5, "why": "too short", "wants_s": 40.0}
    assert not {"output_throughput", "request_throughput", "request_goodput"} & set(found)
    assert not {"tgs", "tgs_ci", "usd_per_1m_output_tokens"} & set(own)
    assert "goodput" not in own["sla"]
    assert "mean_tpot_ms" in found


def many(n=4000):
    """Requests one after the other, a step of 0.1 s each, whose TPOT varies."""
    start = np.arange(n) * 0.1
    gaps = np.random.default_rng(4).uniform(0.02, 0.04, n)
    table = requests(
        arrival_s=start,
        admitted_s=start,
        first_token_s=start + 0.05,
        finish_s=start + 0.05 + gaps,
        input_len=np.full(n, 7),
        output_len=np.full(n, 2),
        status=np.full(n, "finished"),
        counted=np.full(n, True),
    )
    steps = {"step": np.arange(n), "t_s": start + 0.1, "batch": np.full(n, 2), "gaps": np.full(n, 1)}
    return run(requests=table, tokens={**steps, "itl_s": np.full(n, 0.1)}, window=(0.0, n * 0.1), sla=None)


def test_intervals_stand_under_the_key_of_their_figure():
    found = summary(many())
    ci = found["afdsim"]["ci"]

    for key in ("mean_tpot_ms", "median_tpot_ms", "p99_tpot_ms", "mean_e2el_ms", "request_throughput"):
        assert ci[key][0] <= found[key] <= ci[key][1]
    assert ci["tgs"] == found["afdsim"]["tgs_ci"] == pytest.approx([20 / 3, 20 / 3], rel=1e-3)
    low, high = ci["usd_per_1m_output_tokens"]
    assert low <= found["afdsim"]["usd_per_1m_output_tokens"] <= high
    assert all(low >= 0 for low, _ in ci.values())


def test_the_output_is_known_no_better_than_the_arrivals_that_it_follows():
    known = summary(replace(many(), load=replace(LOAD, offered=10.0, offered_interval=Interval(9.0, 11.0))))

    assert known["afdsim"]["tgs_ci"] == pytest.approx([0.9 * 20 / 3, 1.1 * 20 / 3], rel=1e-3)


def test_percentiles_with_too_few_samples_are_named():
    assert summary(many(150))["afdsim"]["too_few"] == [
        f"{name}_{metric}_ms" for metric in ("tpot", "itl", "e2el", "queue") for name in ("p95", "p99")
    ]
    assert "p95_tpot_ms" not in summary(many(150))["afdsim"]["ci"]
    assert "too_few" not in summary(many())["afdsim"]
