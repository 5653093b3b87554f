from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.results import metrics
from afdsim.results.intervals import Interval
from afdsim.results.metrics import Pool, Samples, Sla
from afdsim.results.steady import Load
from tests.results.by_hand import gpus, requests, run, tokens

# latencies


def test_tpot_is_per_request_and_needs_two_tokens():
    tpot = metrics.tpot(requests())

    assert tpot[0] == 0.5
    assert np.isnan(tpot[1:]).all()


def test_queue_delay_and_end_to_end_latency():
    assert metrics.queue(requests())[:2].tolist() == [0.5, 0.0]
    assert metrics.e2el(requests())[:2].tolist() == [2.0, 1.0]


def test_latencies_are_told_in_milliseconds_but_those_of_whole_requests():
    assert {name: metrics.shown_in(name) for name in ("tpot", "e2el")} == {"tpot": (1.0, "ms"), "e2el": (1e-3, "s")}


def test_itl_counts_every_gap_that_ends_in_the_window():
    itl = metrics.itl(tokens(), (0.0, 2.0))

    assert itl.values.tolist() == [0.5, 0.5]
    assert itl.count == 2
    assert metrics.itl(tokens(), (1.5, 2.0)).count == 1


def test_with_prefill_latencies_have_the_first_token_of_all_that_have_one():
    """The third has its first token and has not finished; the second does not count."""
    columns = {
        "prefill_start_s": [0.25, 1.0, 2.75],
        "prefill_end_s": [0.5, 1.0, 3.0],
        "kv_ready_s": [0.5, 1.0, 3.0],
        "admitted_s": [0.5, 1.0, 3.0],
    }
    table = requests(**columns, first_token_s=[1.0, 2.0, 4.0], counted=[True, False, True])
    found = metrics.latencies(run(requests=table))

    assert {name: samples.values.tolist() for name, samples in found.items() if name != "itl"} == {
        "ttft": [1.0, 2.0],
        "prefill_queue": [0.25, 0.75],
        "tpot": [0.5],
        "e2el": [2.0],
        "queue": [0.0],
    }
    assert set(metrics.latencies(run())) == {"tpot", "itl", "e2el", "queue"}


def test_late_are_those_that_arrived_within_the_settling_time_before_the_end():
    done = requests(arrival_s=[0.0, 1.0, 1.5], finish_s=[2.0, 2.0, 2.0], admitted_s=[0.5, 1.0, 1.5])
    load = Load(level="STABLE", offered=1.0, settling=1.0)
    found = metrics.latencies(run(requests=done, load=load, window=(0.5, 2.0)))

    assert found["e2el"].late.tolist() == [False, False, True]
    assert metrics.latencies(run(requests=done))["e2el"].late is None


def test_a_class_has_its_own_requests_gaps_and_limits():
    mixed = requests(**{"class": ["chat", "code", "chat"]})
    short = Sla(limits={"tpot": 0.1})
    both = run(requests=mixed, tokens=tokens() | {"gaps_chat": [0, 1, 0], "gaps_code": [0, 0, 1]})
    chat = metrics.of_class(replace(both, classes={"chat": short, "code": both.sla}), "chat")

    assert chat.requests["arrival_s"].tolist() == [0.0, 2.0]
    assert (chat.tokens["gaps"], chat.sla, chat.classes) == ([0, 1, 0], short, {})


def test_the_spread_of_ranks_is_a_ratio_of_busy_shares():
    one, other, idle = (metrics.Rank(instance=0, rank=0, busy=b, sequences=1, context=1) for b in (0.8, 0.2, 0))

    assert metrics.Ranks(busiest=one, idlest=other).spread == pytest.approx(4.0)
    assert metrics.Ranks(busiest=one, idlest=idle).spread == np.inf


def test_warm_up_requests_are_not_counted():
    table = requests(counted=[False, True, True])

    assert metrics.completed(table).tolist() == [False, True, False]


# throughput, causes, money


def test_throughput_is_over_the_window_and_over_all_gpus():
    assert metrics.output_throughput(tokens(), (0.0, 2.0)) == 2.0
    assert metrics.tgs(tokens(), 4, (0.0, 2.0)) == 0.5
    assert metrics.request_throughput(requests(), (0.0, 2.0)) == 1.0
    assert metrics.request_throughput(requests(), (1.0, 5.0)) == 0.5


def test_a_token_at_the_edge_belongs_to_the_window_that_it_ends():
    halves = [metrics.output_throughput(tokens(), window) for window in ((0.0, 1.5), (1.5, 2.0))]

    assert halves == [pytest.approx(2 / 1.5), 4.0]


def test_a_window_of_no_length_has_no_rates():
    assert metrics.output_throughput(tokens(), (2.0, 2.0)) == 0.0
    assert metrics.request_throughput(requests(), (2.0, 2.0)) == 0.0
    assert metrics.goodput(run(requests=requests(counted=[False] * 3)), Sla(limits={})) == 0.0


def test_throughput_over_time_holds_every_token():
    edges, rates = metrics.throughput_over_time(tokens(), (0.0, 2.0), bins=4)

    assert rates.tolist() == [0.0, 2.0, 2.0, 4.0]
    assert (rates * np.diff(edges)).sum() == 4.0


def test_the_first_tokens_are_spread_over_as_long_as_the_second_ones_or_a_millisecond():
    assert metrics.throughput_over_time(tokens(), (0.0, 2.0), bins=8)[1].tolist() == [0, 0, 2, 2, 2, 2, 4, 4]
    two = {"t_s": [1.0, 1.5], "batch": [1, 1]}
    assert metrics.throughput_over_time(two, (0.0, 2.0), bins=8)[1].tolist() == [0, 0, 2, 2, 2, 2, 0, 0]
    for window, rates in (((0.998, 1.002), [0.0, 3000.0, 0.0, 0.0]), ((0.9985, 1.0005), [0.0, 3000.0, 3000.0, 0.0])):
        one = metrics.throughput_over_time({"t_s": [1.0], "batch": [3]}, window, bins=4)[1]
        assert one == pytest.approx(rates, abs=1e-6)


def test_throughput_over_time_of_a_steady_run_is_flat_whatever_the_bins():
    steady = {"t_s": np.arange(1, 101) * 0.05, "batch": np.full(100, 5)}

    assert metrics.throughput_over_time(steady, (1.0, 4.0), bins=37)[1] == pytest.approx(np.full(37, 100.0))
    assert metrics.throughput_over_time({"t_s": [], "batch": []}, (0.0, 1.0), bins=2)[1].tolist() == [0.0, 0.0]


def test_causes_add_up_to_one_in_every_pool():
    causes = metrics.causes(gpus())

    assert causes["attention"] == dict.fromkeys(metrics.CAUSES, 0.0) | {"busy": 0.75, "wait_peer": 0.25}
    assert causes["ffn"]["network"] == 0.25


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_a_pool_without_any_time_has_no_shares(seconds):
    rows = {cause: [0.0, 0.0] for cause in metrics.CAUSES} | {"busy": [seconds, 0.0]}
    causes = metrics.causes({"pool": ["attention", "ffn"], **rows})

    assert set(causes) == {"attention"}
    assert causes["attention"]["busy"] == 1.0


def test_price_of_a_million_tokens():
    pools = run().pools

    assert metrics.usd_per_1m_output_tokens(pools, 1000.0) == pytest.approx(1.0, rel=1e-12)
    assert metrics.usd_per_1m_output_tokens(pools, 0.5) == pytest.approx(2000.0, rel=1e-12)
    assert metrics.usd_per_1m_output_tokens(pools, 0.0) is None
    assert metrics.usd_per_1m_output_tokens({"ffn": Pool(gpu="X", gpus=1)}, 1000.0) is None


# the SLA


def test_whole_steps_are_those_between_their_last_boundaries():
    two_lanes = {"step": [1, 1, 2, 2, 3, 3], "t_s": [0.9, 1.0, 1.9, 2.0, 2.9, 3.1], "batch": [3, 4, 3, 4, 3, 4]}

    tokens, seconds = metrics.steps(two_lanes, (0.0, 3.0))

    # the first has no beginning, the third ends outside
    assert tokens.tolist() == [7]
    assert seconds.tolist() == [1.0]


def test_a_step_that_begins_before_the_window_or_at_its_start_is_not_whole():
    two_lanes = {"step": [1, 1, 2, 2, 3, 3], "t_s": [0.9, 1.0, 1.9, 2.0, 2.9, 3.0], "batch": [3, 4, 5, 6, 7, 8]}

    assert [metrics.steps(two_lanes, (start, 3.0))[0].tolist() for start in (1.89, 1.9, 1.95)] == [[11, 15], [15], [15]]
    assert metrics.steps(two_lanes | {"step": [-1, -1, 1, 1, 2, 2]}, (0.0, 3.0))[0].tolist() == [15]


@pytest.mark.parametrize(("limit", "word"), [(0.9, "PASS"), (0.1, "FAIL"), (0.5001, "MARGINAL")])
def test_verdict_is_marginal_where_the_interval_holds_the_limit(limit, word):
    values = np.linspace(0.49, 0.51, 4000)

    verdict = metrics.verdict("tpot", Samples(values), Sla(limits={"tpot": limit}, percentile="p50"))

    assert verdict.word == word
    assert verdict.interval.low < verdict.value < verdict.interval.high


def test_too_few_samples_give_no_verdict_unless_the_limit_is_broken_for_certain():
    few = Samples(np.linspace(0.4, 0.5, 60))

    assert metrics.verdict("tpot", few, Sla(limits={"tpot": 0.9}, percentile="p99")).word == "n/a"
    assert not metrics.verdict("tpot", few, Sla(limits={"tpot": 0.9}, percentile="p99")).met
    assert metrics.verdict("tpot", few, Sla(limits={"tpot": 0.1}, percentile="p99")).word == "FAIL"
    assert metrics.verdict("tpot", Samples(np.array([])), Sla(limits={"tpot": 0.1}, percentile="mean")).word == "n/a"


@pytest.mark.parametrize(
    ("words", "level", "word"),
    [
        (["PASS", "PASS"], None, "PASS"),
        (["PASS", "MARGINAL"], "STABLE", "MARGINAL"),
        (["PASS", "n/a"], "STABLE", "n/a"),
        (["FAIL", "n/a"], None, "FAIL"),
        (["PASS"], "BACKLOGGED", "FAIL"),
        (["PASS"], "OVERLOADED", "FAIL"),
        (["FAIL"], "n/a", "n/a"),
    ],
)
def test_pass_needs_a_stable_load(words, level, word):
    assert metrics.overall(words, level) == word


def test_goodput_counts_a_single_token_as_met():
    assert metrics.good(requests(), Sla(limits={"tpot": 0.4})).tolist() == [False, True, False]
    assert metrics.good(requests(), Sla(limits={"tpot": 0.6, "queue": 0.1})).tolist() == [False, True, False]
    assert metrics.goodput(run(), Sla(limits={"tpot": 0.4})) == 0.5


OVERLOAD = Load(level="OVERLOADED", offered=2.0, ended=10.0)


def test_of_a_run_that_was_ended_who_sits_or_waits_is_undecided_unless_late_by_then():
    """At 10 s: one has finished, the others are in flight since 9, 4 and 4 s, the last one without a token."""
    left = requests(
        arrival_s=[0.0, 1.0, 6.0, 6.0],
        admitted_s=[0.0, 1.0, 6.0, np.nan],
        first_token_s=[1.0, 2.0, 7.0, np.nan],
        finish_s=[9.0, np.nan, np.nan, np.nan],
        status=["finished", "running", "running", "waiting"],
        counted=[True, True, True, True],
    )
    ended = run(requests=left, load=OVERLOAD)
    known = {
        name: metrics.decided(ended, Sla(limits=limits)).tolist()
        for name, limits in {
            "tpot": {"tpot": 1.0},
            "e2el": {"e2el": 5.0},
            "e2el of as long": {"e2el": 9.0},
            "ttft": {"ttft": 3.0},
            "ttft of as long": {"ttft": 4.0},
            "queue": {"queue": 3.0},
            "queue of as long": {"queue": 4.0},
        }.items()
    }

    assert known == {
        "tpot": [True, False, False, False],
        "e2el": [True, True, False, False],
        "e2el of as long": [True, False, False, False],
        "ttft": [True, False, False, True],
        "ttft of as long": [True, False, False, False],
        "queue": [True, False, False, True],
        "queue of as long": [True, False, False, False],
    }
    assert metrics.decided(run(requests=left), Sla(limits={"e2el": 5.0})).all()
    assert metrics.decided(run(requests=left | {"counted": [False] * 4}, load=OVERLOAD), Sla(limits={})).sum() == 0


def test_where_prompts_are_computed_a_wait_for_decode_begins_when_the_kv_cache_is_there():
    ready = requests(kv_ready_s=[0.2, 1.0, 8.0], status=["finished", "finished", "waiting"])
    late = [metrics.decided(run(requests=ready, load=OVERLOAD), Sla(limits={"queue": x})).tolist() for x in (1.0, 3.0)]

    assert metrics.queue(ready)[:2].tolist() == [0.3, 0.0]
    assert late == [[True, True, True], [True, True, False]]


def test_goodput_of_an_open_loop_is_what_finished_well_in_the_window_counted_or_not():
    done = requests(finish_s=[1.0, 2.0, 3.0], counted=[False, True, True])
    stable = run(requests=done, load=Load(level="STABLE", offered=1.0), window=(1.0, 3.0))

    assert metrics.good_ends(stable, Sla(limits={"e2el": 5.0})).tolist() == [2.0, 3.0]
    assert metrics.good_ends(stable, Sla(limits={"e2el": 1.0})).tolist() == [2.0, 3.0]
    assert metrics.good_ends(stable, Sla(limits={"e2el": 0.9})).tolist() == []
    assert metrics.goodput(stable, Sla(limits={"e2el": 1.0})) == 1.0

    slow = requests(finish_s=[1.0, 2.0, 3.5], counted=[False, False, True])
    stable = run(requests=slow, load=Load(level="STABLE", offered=1.0), window=(0.0, 4.0))
    assert metrics.goodput(stable, Sla(limits={"e2el": 1.2})) == 0.5
    assert metrics.goodput(replace(stable, load=None), Sla(limits={"e2el": 1.2})) == 0.0


def test_a_limit_is_met_at_its_very_value_and_each_on_its_own():
    table = requests(finish_s=[2.0, 2.0, np.nan])
    met = {
        name: metrics.within(table, Sla(limits={name: limit})).tolist()
        for name, limit in {"tpot": 0.5, "e2el": 2.0, "ttft": 1.0, "queue": 0.0}.items()
    }

    assert met == {
        "tpot": [True, True, False],
        "e2el": [True, True, False],
        "ttft": [True, True, False],
        "queue": [False, True, False],
    }
    assert metrics.within(requests(admitted_s=[np.nan] * 3), Sla(limits={"queue": 0.0})).tolist() == [True, True, False]


def test_the_limit_nearest_to_being_broken_comes_first_and_before_it_what_has_no_value():
    asked = run(sla=Sla(limits={"e2el": 4.0, "queue": 0.4, "ttft": 1.0, "tpot": 0.6}, percentile="mean"))
    samples = {"e2el": [2.0, 1.0], "queue": [0.5, 0.0], "tpot": [0.5], "ttft": []}
    found = metrics.verdicts(asked, {name: Samples(np.array(values)) for name, values in samples.items()})

    assert [each.metric for each in found] == ["ttft", "tpot", "queue", "e2el"]
    assert [each.limit for each in found] == [1.0, 0.6, 0.4, 4.0]
    assert metrics.verdicts(run(sla=None), {}) == []


def test_an_interval_also_holds_what_those_say_who_did_not_see_the_cluster_empty():
    early, empty = np.linspace(0.9, 1.1, 400), np.linspace(0.1, 0.3, 400)
    values, late = np.stack([early, empty]).T.ravel(), np.tile([False, True], 400)
    for statistic in ("mean", "p30"):
        whole, before, found = (
            metrics.interval_of(samples, statistic)
            for samples in (Samples(values), Samples(early), Samples(values, late=late))
        )

        assert (found.low, found.high) == (min(whole.low, before.low), max(whole.high, before.high))
        assert found.high > whole.high
        assert metrics.interval_of(Samples(values, late=~late | late), statistic) == whole
        assert metrics.interval_of(Samples(values, late=late & ~late), statistic) == whole


def held(value, low, high, *, known=True):
    return metrics.Verdict(
        metric="tpot", percentile="p99", limit=1.0, value=value, interval=Interval(low, high), known=known
    )


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (held(1.0, 1.0, 1.0), "PASS"),
        (held(1.0, 0.9, 1.0), "PASS"),
        (held(0.9, 0.8, 1.01), "MARGINAL"),
        (held(1.1, 1.0, 1.2), "MARGINAL"),
        (held(1.1, 1.01, 1.2), "FAIL"),
        (held(1.1, 0.9, 1.0), "FAIL"),
        (held(0.5, 0.4, 0.6, known=False), "n/a"),
        (held(1.5, 1.4, 1.6, known=False), "FAIL"),
        (held(None, 1.4, 1.6), "n/a"),
    ],
)
def test_a_limit_at_the_end_of_an_interval_is_outside_of_it(verdict, word):
    assert verdict.word == word


# statistics


def test_steps_of_several_cells_are_those_of_the_one_with_the_most_boundaries():
    """Cell 1 steps each second, cell 0 at other times; what has no step or no cell is nobody's."""
    rows = {
        "cell": [0, 1, 1, 0, 1, 1, -1],
        "step": [0, 0, 1, 1, 2, 3, -1],
        "t_s": [0.4, 1.0, 2.0, 2.4, 3.0, 4.0, 4.5],
        "batch": [5, 1, 1, 5, 1, 1, 9],
    }
    emitted, seconds = metrics.steps(rows, (0.0, 4.0))

    assert seconds.tolist() == [1.0, 1.0, 1.0]
    assert emitted.tolist() == [1.0, 6.0, 1.0]
    assert metrics.steps(rows | {"cell": [1, 0, 0, 1, 0, 0, -1]}, (0.0, 4.0))[0].tolist() == [1.0, 6.0, 1.0]
    for nobody in (tokens() | {"step": [-1] * 3}, tokens() | {"step": [-1] * 3, "cell": [-1] * 3}):
        assert [part.tolist() for part in metrics.steps(nobody, (0.0, 2.0))] == [[], []]


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([2.0, 2.0], [1.98, 2.02]),
        ([0.0], [-0.5, 0.5]),
        ([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0], np.linspace(0.0, 2.0, 31)),
        (np.linspace(0.0, 1.0, 9), np.linspace(0.0, 1.0, 11)),
        (np.linspace(0.0, 1.0, 8_000), np.linspace(0.0, 1.0, 21)),
        (np.linspace(1.0, 2.0, 8_300), np.linspace(1.0, 2.0, 22)),
        ([*np.linspace(0.0, 1.0, 8_000), 50.0], np.linspace(0.0, 50.0, 101)),
    ],
)
def test_bins_are_those_of_freedman_and_diaconis_from_ten_to_a_hundred(values, edges):
    """Of width 2 IQR / n^(1/3); 30 where half of the values are one, and one bin where all are."""
    assert metrics.hist(values)[0] == pytest.approx(edges)


def test_nothing_has_one_empty_bin():
    edges, counts = metrics.hist([])

    assert (edges.tolist(), counts.tolist()) == ([0.0, 1.0], [0.0])


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


@pytest.mark.parametrize(("statistic", "value"), [("mean", 50.0), ("p50", 50.0), ("p90", 90.0), ("p99.9", 99.9)])
def test_a_limit_is_held_against_the_statistic_that_is_named(statistic, value):
    held_ = metrics.verdict("tpot", Samples(np.arange(101.0)), Sla(limits={"tpot": 1.0}, percentile=statistic))

    assert held_.value == pytest.approx(value)


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
    assert first[0] <= 0.01 < first[1]
    assert first[-2] <= 0.05 < first[-1]
    assert metrics.hist([0.0, 1e-9], bins="log")[1].sum() == 1, "what takes no time is below every bin"
