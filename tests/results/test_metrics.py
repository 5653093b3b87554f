import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.results import metrics
from afdsim.results.metrics import Engine, Interval, Pool, Run, Samples, Sla

NAN = math.nan


def requests(**columns):
    """Three requests: two finish, with 3 and 1 tokens, and one is refused."""
    return {
        "arrival_s": [0.0, 1.0, 2.0],
        "admitted_s": [0.5, 1.0, NAN],
        "first_token_s": [1.0, 2.0, NAN],
        "finish_s": [2.0, 2.0, NAN],
        "input_len": [10, 20, 30],
        "output_len": [3, 1, 5],
        "status": ["finished", "finished", "refused"],
        "counted": [True, True, True],
    } | columns


def tokens():
    """One sequence with tokens at 1, 1.5 and 2; another one joins at 2."""
    return {"t_s": [1.0, 1.5, 2.0], "batch": [1, 1, 2], "gaps": [0, 1, 1], "itl_s": [1.0, 0.5, 0.5]}


def gpus():
    rows = {cause: [0.0, 0.0, 0.0] for cause in metrics.CAUSES}
    rows |= {"busy": [1.0, 2.0, 1.0], "wait_peer": [1.0, 0.0, 0.5], "network": [0.0, 0.0, 0.5]}
    return {"pool": ["attention", "attention", "ffn"], **rows}


def run(**fields):
    pools = {
        "attention": Pool(gpu="H20", gpus=2, usd_per_hour=1.0, mfu=0.25),
        "ffn": Pool(gpu="H800", gpus=1, usd_per_hour=1.6),
    }
    given = {
        "requests": requests(),
        "tokens": tokens(),
        "gpus": gpus(),
        "window": (0.0, 2.0),
        "pools": pools,
        "engine": Engine(name="kernel", steps=3, events=9),
        "sla": Sla(limits={"tpot": 0.6}, percentile="p50"),
    }
    return Run(**given | fields)


# latencies


def test_tpot_is_per_request_and_needs_two_tokens():
    tpot = metrics.tpot(requests())

    assert tpot[0] == 0.5
    assert np.isnan(tpot[1:]).all()


def test_queue_delay_and_end_to_end_latency():
    assert metrics.queue(requests())[:2].tolist() == [0.5, 0.0]
    assert metrics.e2el(requests())[:2].tolist() == [2.0, 1.0]


def test_itl_counts_every_gap_that_ends_in_the_window():
    itl = metrics.itl(tokens(), (0.0, 2.0))

    assert itl.values.tolist() == [0.5, 0.5]  # noqa: PD011 - no data frame
    assert itl.count == 2
    assert metrics.itl(tokens(), (1.5, 2.0)).count == 1


def test_warm_up_requests_are_not_counted():
    table = requests(counted=[False, True, True])

    assert metrics.completed(table).tolist() == [False, True, False]


def test_data_frames_are_columns_too():
    frames = {"requests": requests(), "tokens": tokens(), "gpus": gpus()}

    assert metrics.summary(run(**{name: pd.DataFrame(table) for name, table in frames.items()})) == metrics.summary(
        run()
    )


# throughput, causes, money


def test_throughput_is_over_the_window_and_over_all_gpus():
    assert metrics.output_throughput(tokens(), (0.0, 2.0)) == 2.0
    assert metrics.tgs(tokens(), 4, (0.0, 2.0)) == 0.5
    assert metrics.request_throughput(requests(), (0.0, 2.0)) == 1.0


def test_a_token_at_the_edge_belongs_to_the_window_that_it_ends():
    halves = [metrics.output_throughput(tokens(), window) for window in ((0.0, 1.5), (1.5, 2.0))]

    assert halves == [pytest.approx(2 / 1.5), 4.0]


def test_throughput_over_time_holds_every_token():
    edges, rates = metrics.throughput_over_time(tokens(), (0.0, 2.0), bins=4)

    assert rates.tolist() == [0.0, 2.0, 2.0, 4.0]
    assert (rates * np.diff(edges)).sum() == 4.0


def test_throughput_over_time_of_a_steady_run_is_flat_whatever_the_bins():
    steady = {"t_s": np.arange(1, 101) * 0.05, "batch": np.full(100, 5)}

    assert metrics.throughput_over_time(steady, (1.0, 4.0), bins=37)[1] == pytest.approx(np.full(37, 100.0))
    assert metrics.throughput_over_time({"t_s": [], "batch": []}, (0.0, 1.0), bins=2)[1].tolist() == [0.0, 0.0]


def test_causes_add_up_to_one_in_every_pool():
    causes = metrics.causes(gpus())

    assert causes["attention"] == dict.fromkeys(metrics.CAUSES, 0.0) | {"busy": 0.75, "wait_peer": 0.25}
    assert causes["ffn"]["network"] == 0.25


def test_price_of_a_million_tokens():
    pools = run().pools

    assert metrics.usd_per_1m_output_tokens(pools, 1000.0) == pytest.approx(3.6 / 3600 / 1000 * 1e6)
    assert metrics.usd_per_1m_output_tokens(pools, 0.0) is None
    assert metrics.usd_per_1m_output_tokens({"ffn": Pool(gpu="X", gpus=1)}, 1000.0) is None


# the SLA


@pytest.mark.parametrize(("limit", "word"), [(0.9, "PASS"), (0.1, "FAIL"), (0.5001, "MARGINAL")])
def test_verdict_is_marginal_where_the_interval_holds_the_limit(limit, word):
    values = np.linspace(0.49, 0.51, 4000)

    verdict = metrics.verdict("tpot", Samples(values), Sla(limits={"tpot": limit}, percentile="p50"))

    assert verdict.word == word
    assert verdict.interval.low < verdict.value < verdict.interval.high


def test_the_tightest_limit_is_the_verdict():
    summary = metrics.summary(run(sla=Sla(limits={"e2el": 1.6, "tpot": 0.6}, percentile="mean")))["afdsim"]["sla"]

    assert (summary["metric"], summary["limit_ms"], summary["value_ms"], summary["met"]) == ("e2el", 1600, 1500, True)
    assert summary["limits"]["tpot"]["value_ms"] == 500.0


def test_goodput_counts_a_single_token_as_met():
    assert metrics.good(requests(), Sla(limits={"tpot": 0.4})).tolist() == [False, True, False]
    assert metrics.good(requests(), Sla(limits={"tpot": 0.6, "queue": 0.1})).tolist() == [False, True, False]
    assert metrics.goodput(run(), Sla(limits={"tpot": 0.4})) == 0.5


def test_a_limit_without_samples_is_not_met():
    summary = metrics.summary(run(requests=requests(output_len=[1, 1, 1])))["afdsim"]["sla"]

    assert summary["verdict"] == "FAIL"
    assert not summary["met"]
    assert "value_ms" not in summary


# saturation


def open_loop(wait, n=4000, rate=100.0):
    arrival = np.cumsum(np.random.default_rng(3).exponential(1 / rate, n))
    return {"arrival_s": arrival, "admitted_s": arrival + wait(arrival), "status": np.full(n, "finished")}


@pytest.mark.parametrize(
    ("wait", "level"),
    [
        (lambda t: np.full(len(t), 0.03), "STABLE"),
        (lambda t: np.full(len(t), 1.0), "BACKLOGGED"),
        (lambda t: 0.2 * t, "OVERLOADED"),
    ],
)
def test_saturation_levels(wait, level):
    assert metrics.saturation(open_loop(wait), 0.05).level == level


def test_an_overloaded_cluster_says_by_how_much():
    found = metrics.saturation(open_loop(lambda t: 0.25 * t), 0.05)

    assert found.served == pytest.approx(0.8 * found.offered, rel=0.05)
    assert found.growth == found.offered - found.served


def test_a_burst_at_time_zero_has_no_rate():
    assert metrics.saturation({"arrival_s": [0, 0], "admitted_s": [0, 9], "status": ["finished"] * 2}, 0.1) is None


# statistics

weighted = st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 9)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(rows=weighted, percents=st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_weighted_percentiles_are_those_of_the_written_out_samples(rows, percents):
    values, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    every = np.repeat(values, weights.astype(int))

    assert np.array_equal(metrics.percentiles(Samples(values, weights), percents), np.percentile(every, percents))


@settings(max_examples=60, deadline=None)
@given(rows=weighted)
def test_weighted_moments_are_those_of_the_written_out_samples(rows):
    values, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    every = np.repeat(values, weights.astype(int))
    scale = np.abs(every).max() + 1e-300

    assert metrics.mean(Samples(values, weights)) == pytest.approx(every.mean(), abs=1e-12 * scale)
    assert metrics.std(Samples(values, weights)) == pytest.approx(every.std(), abs=1e-10 * scale)


def test_describe_names_its_statistics():
    found = metrics.describe(Samples(np.arange(101.0)))

    assert found["median"] == found["p50"] == found["mean"] == 50.0
    assert found["p99.9"] == pytest.approx(99.9)
    assert (found["min"], found["max"]) == (0.0, 100.0)
    assert metrics.describe(Samples(np.array([]))) == {}


@pytest.mark.parametrize(("count", "percent", "shown"), [(10_000, 99.9, True), (9_999, 99.9, False), (1000, 99, True)])
def test_a_percentile_needs_ten_samples_beyond_it(count, percent, shown):
    assert metrics.enough(count, percent) is shown


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(1e-6, 1e3), st.integers(1, 9)), max_size=40),
    bins=st.sampled_from([7, "auto", "log"]),
)
def test_a_histogram_loses_no_sample(rows, bins):
    values, weights = ([row[index] for row in rows] for index in (0, 1))

    edges, counts = metrics.hist(values, weights, bins)

    assert counts.sum() == sum(weights)
    assert len(edges) == len(counts) + 1
    assert np.all(np.diff(edges) > 0)


def test_log_histograms_of_different_runs_share_their_edges():
    first, second = metrics.hist([0.01, 0.05], bins="log")[0], metrics.hist([0.03, 0.04], bins="log")[0]

    assert set(second) <= set(first)
    assert np.allclose(first[1:] / first[:-1], 1.005)


# confidence


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (10, 2.228), (11, 2.201), (20, 2.086), (60, 2.000), (1000, 1.962)]
)
def test_t_quantiles_of_the_tables(freedom, t):
    assert metrics.t_quantile(freedom) == pytest.approx(t, abs=6e-4)


def test_interval_over_seeds():
    assert metrics.over_seeds([9.0, 10.0, 11.0]) == pytest.approx(
        (10 - 4.3027 / math.sqrt(3), 10 + 4.3027 / math.sqrt(3))
    )
    assert metrics.over_seeds([1.0]) == Interval(-math.inf, math.inf)


@pytest.mark.parametrize("n", [60, 400, 20_000])
def test_percentile_intervals_hold_the_truth_nineteen_times_in_twenty(n):
    rng = np.random.default_rng(n)
    held = [
        (low <= 0.9 <= high) for low, high in (metrics.percentile_interval(rng.random(n), 90.0) for _ in range(400))
    ]

    assert 0.93 <= np.mean(held) <= 0.985


def test_order_statistics_of_the_median_of_ten():
    # Textbook: the 2nd and the 9th of ten values hold the median with 97.9 %.
    assert metrics.percentile_interval(np.arange(1.0, 11.0), 50.0) == (2.0, 9.0)


def test_too_few_samples_leave_an_interval_open():
    low, high = metrics.percentile_interval(np.arange(20.0), 99.0)

    assert math.isfinite(low)
    assert high == math.inf


def test_batch_means_see_correlation():
    rng = np.random.default_rng(5)
    noise = np.repeat(rng.normal(size=50), 100)

    low, high = metrics.mean_interval(noise)

    assert high - low > 4 * 1.96 * noise.std() / math.sqrt(len(noise))


def test_tgs_interval_is_tight_for_a_steady_run_whatever_the_window():
    t = np.repeat(np.arange(1, 1001) / 10, 2)
    steady = {"t_s": t, "batch": np.full(2000, 4)}

    for end in (100.0, 97.3):
        assert metrics.tgs_interval(steady, 4, (0.0, end)) == pytest.approx((20.0, 20.0))


def test_tgs_interval_holds_the_rate_of_a_noisy_run():
    t = np.cumsum(np.random.default_rng(2).gamma(4, 0.025, 4000))

    low, high = metrics.tgs_interval({"t_s": t, "batch": np.full(4000, 8)}, 4, (0.0, float(t[-1])))

    assert low < 20.0 < high
    assert high - low < 1.0


# the summary


def test_summary_has_vllm_keys_and_ours():
    summary = metrics.summary(run())

    assert summary["completed"] == 2
    assert summary["duration"] == 2.0
    assert (summary["total_input_tokens"], summary["total_output_tokens"]) == (30, 4)
    assert (summary["output_throughput"], summary["request_throughput"], summary["request_goodput"]) == (2.0, 1.0, 1.0)
    for metric in ("tpot", "itl", "e2el", "queue"):
        assert {f"{name}_{metric}_ms" for name in ("mean", "median", "std", "p90", "p95", "p99", "max")} <= set(summary)
    assert summary["mean_tpot_ms"] == summary["p99_itl_ms"] == 500.0
    assert "p99.9_tpot_ms" not in summary


def test_summary_of_ours():
    own = metrics.summary(run())["afdsim"]

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
    own = metrics.summary(run(open_loop=True))["afdsim"]

    assert own["saturation"]["level"] in {"STABLE", "BACKLOGGED", "OVERLOADED"}


def test_a_run_without_any_token_has_a_summary_without_latencies():
    nothing = {name: np.array([]) for name in ("t_s", "batch", "gaps", "itl_s")}
    never = requests(admitted_s=[NAN] * 3, first_token_s=[NAN] * 3, finish_s=[NAN] * 3, status=["waiting"] * 3)

    summary = metrics.summary(run(tokens=nothing, requests=never))

    assert summary["completed"] == summary["output_throughput"] == 0
    assert summary["afdsim"]["unfinished"] == 3
    assert not [key for key in summary if key.endswith("_ms")]
    assert "step_ms" not in summary["afdsim"]
    json.dumps(summary, allow_nan=False)


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
        metrics.summary(run(requests=table, sla=Sla(limits={"tpot": 0.5}, percentile=percentile))), allow_nan=False
    )

    assert "null" not in text
