"""What a run says of an open loop is true, or it says nothing: against long runs and against queueing theory."""

import math
from functools import cache

import numpy as np
import pytest

import afdsim
from afdsim.workload.laws import Lognormal, draw
from tests.cases import tiny_model

CAPACITY = 276.0
"""Requests per second of step3_poisson, from an hour at 350 of them."""
TOKENS = 15.67
"""Output tokens per request and GPU: 4,324 at capacity."""


def poisson(rate, duration):
    changes = {"workload.arrival.request_rate": f"{rate} req/s", "workload.duration": duration}
    return afdsim.simulate(afdsim.load("step3_poisson").varied(changes)).summary


def assert_true(summary, rate):
    """Verdict, served, TGS and price agree with what the rate and the capacity make them, or are n/a."""
    own = summary["afdsim"]
    if own["load"] == "n/a":
        assert own["saturation"]["wants_s"] > 0
        assert not {"tgs", "usd_per_1m_output_tokens"} & set(own)
        assert (own["sla"]["met"], own["sla"]["verdict"]) == (False, "n/a")
        return
    assert (own["load"] == "STABLE") == (rate < CAPACITY)
    assert own["sla"]["met"] <= (own["load"] == "STABLE")
    carried = min(rate, CAPACITY)
    for value, interval, truth in (
        (own["saturation"]["served"], own["saturation"]["served_ci"], carried),
        (own["tgs"], own["tgs_ci"], carried * TOKENS),
        (own["usd_per_1m_output_tokens"], own["ci"]["usd_per_1m_output_tokens"], 3.5 / 3600 / carried / TOKENS * 1e6),
    ):
        # 95 % intervals, and a truth that is itself known to half a percent: twice the half-width
        assert abs(value - truth) <= (interval[1] - interval[0]) + 0.005 * truth


@pytest.mark.parametrize("rate", [130, 190, 255, 282, 320, 360])
def test_the_table_of_truth_of_short_runs(rate):
    assert_true(poisson(rate, "60s"), rate)


@pytest.mark.slow
@pytest.mark.parametrize("duration", ["30s", "90s", "2min", "5min", "20min"])
@pytest.mark.parametrize("rate", [130, 190, 255, 282, 320, 360])
def test_the_table_of_truth(rate, duration):
    assert_true(poisson(rate, duration), rate)


def test_as_shipped_the_throughput_is_that_of_the_load():
    summary = afdsim.simulate("step3_poisson").summary

    assert summary["afdsim"]["load"] == "STABLE"
    assert summary["afdsim"]["tgs"] == pytest.approx(2977, rel=0.02)


@pytest.mark.slow
def test_an_hour_says_the_same():
    assert poisson(190, "1h")["afdsim"]["tgs"] == pytest.approx(2977, rel=0.02)


def test_what_used_to_win_the_sweep_is_overloaded():
    one = afdsim.load("step3_poisson").varied(
        {"deployment.attention.instances": 1, "workload.arrival.request_rate": "180 req/s"}
    )
    own = afdsim.simulate(one).summary["afdsim"]

    assert (own["load"], own["sla"]["met"], own["sla"]["verdict"]) == ("OVERLOADED", False, "FAIL")
    assert own["sla"]["goodput_share"] > 0.9  # every TPOT is fine: the requests wait


# one server, as in the textbooks -----------------------------------------------------------------------------------

EXACT = {"link": 0}
LENGTHS = {
    "M/D/1": {"distribution": "constant", "value": 6},
    "M/M/1": {"distribution": "lognormal", "mean": 8, "cv": 1.0, "min": 1, "max": 60},
}
GPUS = 2


def one_server(rate, law, requests):
    """One sequence at a time on one GPU of each kind."""
    pool = {"gpu": "H800", "instances": 1, "gpus_per_instance": 1}
    return afdsim.load(
        {
            "model": tiny_model(2),
            "deployment": {
                "type": "afd",
                "attention": pool,
                "ffn": pool,
                "num_microbatches": 1,
                "max_num_seqs": 1,
            },
            "variation": EXACT,
            "workload": {
                "arrival": {"process": "poisson", "request_rate": f"{rate} req/s"},
                "input_len": {"distribution": "constant", "value": 100},
                "output_len": LENGTHS[law],
                "num_requests": requests,
            },
            "run": {"engine": "kernel"},
        }
    )


@cache
def step():
    """Seconds of a decode step, and of a request beyond its steps."""
    requests = afdsim.simulate(one_server(1.0, "M/M/1", 400)).requests
    alone = requests[requests.queue_ms < 1e-9]
    return np.polyfit(alone.output_len, alone.finish_s - alone.admitted_s, 1)


@cache
def tokens(law):
    lognormal = Lognormal(mean=8, cv=1.0, min=1, max=60)
    return np.array([6]) if law == "M/D/1" else draw(lognormal, np.random.default_rng(1), 2_000_000)


def truth(rate, law):
    """Mean wait by Pollaczek and Khinchine, mean TPOT, tokens per GPU and second."""
    service = np.polyval(step(), tokens(law))
    wait = rate * float((service**2).mean()) / 2 / (1 - rate * float(service.mean()))
    return {"mean_queue_ms": wait * 1e3, "mean_tpot_ms": step()[0] * 1e3, "tgs": rate * tokens(law).mean() / GPUS}


def cells(number, seed):
    """(arrivals per second, law, requests) of random cells, 30 to 85 % busy."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        law = ("M/D/1", "M/M/1")[int(rng.integers(2))]
        busy = float(rng.uniform(0.3, 0.85))
        yield busy / float(np.polyval(step(), tokens(law)).mean()), law, int(math.exp(rng.uniform(7.6, 9.4)))


def covered(number, seed):
    """Share of the cells whose interval holds the truth, by figure; and of those that are stable."""
    held, stable = {key: [] for key in truth(1.0, "M/D/1")}, []
    for place, (rate, law, requests) in enumerate(cells(number, seed)):
        own = afdsim.simulate(one_server(rate, law, requests), seed=place).summary["afdsim"]
        stable.append(own["load"] == "STABLE")
        for key, value in truth(rate, law).items():
            if own["load"] != "n/a":
                low, high = own["ci"][key]
                # the step is fitted, and grows a little with the context
                held[key].append(low - 1e-4 * value <= value <= high + 1e-4 * value)
    return {key: float(np.mean(each)) for key, each in held.items()}, float(np.mean(stable))


@pytest.mark.slow
def test_intervals_hold_the_truth_of_queueing_theory():
    held, stable = covered(200, seed=3)

    assert stable > 0.95
    assert 0.90 <= held["mean_queue_ms"] <= 0.99
    assert 0.90 <= held["tgs"] <= 0.99
    assert held["mean_tpot_ms"] >= 0.90  # nothing varies it here: all of them hold it


def test_a_few_intervals_hold_the_truth_of_queueing_theory():
    held, stable = covered(8, seed=5)

    assert min(*held.values(), stable) >= 0.75


@pytest.mark.slow
def test_a_comparison_with_itself_finds_nothing():
    changes = ("workload.arrival.request_rate=120 req/s", "deployment.ffn.instances=3", "variation.event=0.1")
    wrong = 0
    for seed in range(20):
        scenario = afdsim.load("step3_poisson", overrides=(*changes[seed % 3 :], "workload.duration=5min"))
        other = scenario.vary("name", "other")
        found = afdsim.compare(scenario, other, seeds=[seed]).differences
        wrong += any(each.low > 0 or each.high < 0 for each in found)

    assert wrong <= 1
