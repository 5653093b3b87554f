import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.results import metrics
from afdsim.results.bottleneck import Bounds
from afdsim.results.header import WIDTH, deployment_line
from afdsim.results.ink import Ink, sparkline
from afdsim.results.intervals import Interval
from afdsim.results.result import pooled
from afdsim.results.steady import Load
from afdsim.results.terminal import terminal
from afdsim.scenario.document import load
from tests import synthetic


def report(scenario, **fields):
    """The report of a made-up run, lines unwrapped."""
    return re.sub(r"\n {6,}", " ", terminal(synthetic.result(scenario, **fields)))


def test_the_report_has_every_block_in_order(small):
    text = terminal(synthetic.result(small, notes=("event and step are assumed",)), source="small", saved="out")

    marks = [
        "afdsim 0.",
        "Model step3-small",
        "Precision attention fp8 (default), FFN fp8 (default)",
        "AFD decode 1A1F",
        "TPOT (ms)",
        "vLLM's definitions",
        "tok/s/GPU (TGS",
    ]
    marks += ["per 1M output", "TPOT per request", "< SLA", "tok/s over time", "rows sum to 100 %", "bottleneck:"]
    marks += [
        "SLA  p99 TPOT <= 50 ms",
        "goodput",
        "Note engine processes: the network is fifo",
        "Note event",
        "Saved out/",
    ]
    places = [text.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)


def test_the_report_is_at_most_96_columns_wide_and_plain_by_default(small):
    long = "word " * 60
    text = terminal([synthetic.result(small, seed, notes=(long,)) for seed in range(3)])

    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\033" not in text


def test_an_ascii_terminal_gets_ascii(small):
    text = terminal(synthetic.result(small), ink=Ink(unicode=False))

    assert text.isascii()


def test_colour_changes_no_letter(small):
    import click

    result = synthetic.result(small)

    assert click.unstyle(terminal(result, ink=Ink(colour=True))) == terminal(result)


def test_a_deployment_is_named_with_its_gpus(small):
    assert (
        deployment_line(small) == "AFD decode 1A1F (16 GPUs) = 1x8 H800 attention + 1x8 H800 FFN (TP8), 3 micro-batches"
    )
    assert deployment_line(small.vary("deployment.num_microbatches", 1)).endswith("FFN (TP8), 1 micro-batch")


def test_percentiles_without_enough_requests_are_not_shown(small):
    text = terminal(synthetic.result(small, count=500))

    row = next(line for line in text.splitlines() if line.startswith(" TPOT (ms)"))
    assert row.split()[-3:-1] == ["n/a", "n/a"]
    assert "n/a: p99 needs >= 1,000, p99.9 needs >= 10,000 requests" in text


def test_several_seeds_are_reported_together(small):
    results = [synthetic.result(small, seed) for seed in (4, 5, 6)]
    text = terminal(results, summary=pooled(results))

    assert "seeds 4,5,6" in text
    assert "over 3 seeds" in text


def test_a_run_without_limits_prices_or_finished_requests_is_still_reported(small):
    pool = {"attention": metrics.Pool(gpu="H200", gpus=8), "ffn": metrics.Pool(gpu="H200", gpus=8)}
    run = synthetic.run(sla=None, pools=pool)
    never = np.full(len(run.requests["finish_s"]), np.nan)
    requests = {**run.requests, "finish_s": never, "first_token_s": never}
    text = terminal(synthetic.result(small, sla=None, pools=pool, requests=requests))

    assert "SLA" not in text
    assert "per 1M" not in text
    assert "ITL, every gap" in text


def test_a_run_without_any_token_says_so(small):
    empty = {name: values[:0] for name, values in synthetic.run().tokens.items()}
    requests = {name: values[:1] for name, values in synthetic.run().requests.items()}
    text = terminal(synthetic.result(small, tokens=empty, requests=requests, sla=None))

    assert "No request finished" in text
    assert "1 refused" in text


# the bottleneck


def line(text):
    """The bottleneck on one line."""
    place = text.index("bottleneck: ")
    return " ".join(text[place : text.index("\n\n", place)].split())


def limits(**more):
    given = {"resources": {"attention": 0.038, "ffn": 0.021, "ffn port in": 0.009}, "round_trip": {"network": 0.033}}
    return Bounds(**given | more)


def test_the_longest_bound_is_named_with_the_step_and_the_next_two(small):
    text = terminal(synthetic.result(small, bounds=limits()))

    assert re.fullmatch(
        r"bottleneck: attention 38\.00 ms of the 4\d\.\d\d ms step; "
        r"next round trip of a micro-batch 33\.00 ms, ffn 21\.00 ms",
        line(text),
    )


def test_a_round_trip_is_told_with_its_largest_parts(small):
    parts = {"network": 0.03, "wire": 0.007, "ffn": 0.002, "boundary": 0.001}

    found = line(terminal(synthetic.result(small, bounds=limits(round_trip=parts))))

    assert "round trip of a micro-batch 40.00 ms of" in found
    assert "(network 30.00, wire 7.00, ffn 2.00); next attention 38.00 ms, ffn 21.00 ms" in found


def test_an_instance_apart_from_its_like_is_named_though_others_are_longer(small):
    resources = {"attention": 0.038, "attention port in": 0.03, "ffn[1]": 0.02, "ffn[0]": 0.01}

    found = line(terminal(synthetic.result(small, bounds=limits(resources=resources))))

    assert found.endswith("next round trip of a micro-batch 33.00 ms, attention port in 30.00 ms, ffn[1] 20.00 ms")
    assert "ffn[0]" not in found


def test_instances_of_one_kind_are_named_once_the_longest(small):
    resources = {"instance[1]": 0.041, "instance[0]": 0.037, "instance[2]": 0.036, "port in": 0.01}

    found = line(terminal(synthetic.result(small, bounds=limits(resources=resources))))

    assert found.startswith("bottleneck: instance[1] 41.00 ms of the")
    assert found.endswith("next round trip of a micro-batch 33.00 ms, port in 10.00 ms")


def test_a_bound_above_the_measured_step_says_at_what_batch(small):
    found = line(terminal(synthetic.result(small, bounds=limits(round_trip={"network": 0.06}))))

    assert "60.00 ms at the mean batch; the step is 4" in found


def test_a_cluster_that_waits_for_work_has_no_bottleneck(small):
    given = synthetic.run().gpus
    shift = 0.3 * given["busy"]
    gpus = {**given, "busy": given["busy"] - shift, "no_work": given["no_work"] + shift}

    text = terminal(synthetic.result(small, gpus=gpus, bounds=limits()))

    assert "\n no bottleneck: 26% of the time nothing is in flight; in a step the longest is attention 38.00" in text


def test_without_bounds_there_is_no_bottleneck_line(small):
    assert "bottleneck" not in terminal(synthetic.result(small, bounds=None))


def two_instances(apart):
    """GPU seconds of two attention and one FFN instance; busy shares of the first two differ by `apart`."""
    given, busy = synthetic.run(), np.array([0.8, 0.8 - apart, 0.7])
    length = given.window[1] - given.window[0]
    seconds = {cause: np.zeros(3) for cause in metrics.CAUSES} | {"busy": busy * length, "network": (1 - busy) * length}
    places = {"gpu": np.arange(3), "instance": np.array([0, 1, 0]), "rank": np.zeros(3, int)}
    return {**places, "pool": np.array(["attention", "attention", "ffn"], dtype=object), **seconds}


@pytest.mark.parametrize(("apart", "rows"), [(0.0, 0), (0.009, 0), (0.02, 2)])
def test_instances_have_rows_where_their_busy_shares_differ(small, apart, rows):
    text = terminal(synthetic.result(small, gpus=two_instances(apart)))

    assert len(re.findall(r"^   attention\[\d\] ", text, re.MULTILINE)) == rows
    assert "ffn[0]" not in text


def test_a_slow_server_stands_in_the_header_and_has_a_row(small):
    slow = small.vary("deployment.attention.instances", 2).vary("variation.straggler", {"attention[1]": 1.3})

    text = terminal(synthetic.result(slow, gpus=two_instances(0.0)))

    assert text.splitlines()[5] == "Straggler attention[1] x1.3"
    assert re.search(r"^   attention\[1\] +80\.0%", text, re.MULTILINE)
    assert "Straggler" not in terminal(synthetic.result(small))


def test_of_a_large_pool_the_most_and_the_least_busy_instance_have_rows(small):
    given = synthetic.run()
    length, busy = given.window[1] - given.window[0], np.linspace(0.5, 0.9, 20)
    gpus = {cause: np.zeros(20) for cause in metrics.CAUSES} | {"busy": busy * length, "network": (1 - busy) * length}
    gpus |= {"pool": np.array(["attention"] * 20, dtype=object), "instance": np.arange(20)}

    text = terminal(synthetic.result(small, gpus=gpus))

    assert re.findall(r"^   attention\[(\d+)\]", text, re.MULTILINE) == ["0", "19"]


def test_ranks_that_differ_are_told(small):
    far = {"instance": 0, "rank": 6, "busy": 0.931, "sequences": 384.0, "context": 4310.4}
    near = {"instance": 0, "rank": 1, "busy": 0.862, "sequences": 384.0, "context": 3890.0}
    ranks = metrics.Ranks(busiest=metrics.Rank(**far), idlest=metrics.Rank(**near))

    assert (
        "\n ranks: busiest attention[0].rank[6] 93.1% busy with 384.0 sequences of 4,310 tokens, idlest "
        "attention[0].rank[1] 86.2% busy with 384.0 sequences of 3,890 tokens\n"
    ) in report(small, ranks=ranks)
    assert "ranks:" not in report(small)


def test_an_open_loop_says_whether_it_kept_up(small):
    stable = Load(level="STABLE", offered=150.0, served=149.0, growth=0.1, served_interval=Interval(148.0, 150.0))
    grows = replace(stable, level="OVERLOADED", served=100.0, growth=50.0, why="the queue grows and no longer empties")

    assert "\nLoad STABLE: offered 150.0 req/s, served 149.0 (95% CI 148.0..150.0)" in report(
        small, load=stable, sla=None
    )
    text = report(small, load=grows, sla=None)
    assert (
        "\nLoad OVERLOADED: offered 150.0 req/s, served 100.0; queue grows 50.00 req/s (served 95% CI 148.0..150.0); the"
        in text
    )


def test_the_load_is_said_before_any_figure(small):
    grows = Load(level="OVERLOADED", offered=150.0, served=100.0, growth=50.0, ended=10.0, why="the queue grows")
    text = report(small, load=grows)

    assert text.index("\nLoad OVERLOADED") < text.index("\n Metric") < text.index("\nOutput") < text.index("\nSLA")
    assert "requests that came or left in it" in text
    assert "requests by their arrival" in report(small, load=replace(grows, ended=None))


def test_a_pass_is_not_printed_for_a_load_that_is_not_carried(small):
    queued = Load(level="BACKLOGGED", offered=150.0, served=149.0, growth=0.1, why="the queue no longer empties")
    text = report(small, load=queued, sla=metrics.Sla(limits={"tpot": 60.0}, percentile="mean"))

    assert " PASS" not in text
    assert "the load is BACKLOGGED: an SLA is met by a stable load only" in text


def test_an_unsteady_load_says_how_long_would_do(small):
    text = report(small, load=Load(level="n/a", offered=150.0, wants=180.0, why="the queue drifts"))

    assert "Output    n/a, the run was too short to be steady: see Load" in text
    assert "\nLoad n/a: the queue drifts; 180 s of arrivals would probably do (--until-steady)" in text
    assert "Cost" not in text


def test_drafts_have_gaps_per_step_and_money_and_wires_have_sources():
    drafts = terminal(synthetic.result(load("dsv3_ep128_4k")))

    assert " ITL (ms) per step" in drafts
    assert "ITL = every step of every request" in drafts
    assert "H800 2.8 USD/h (scenario)" in terminal(
        synthetic.result(load("step3_2a2f_4k").vary("cost", {"H800": "2.8 USD/h"}))
    )
    assert "Network shared, NIC 400 Gb/s (scenario) x 0.8 achieved, path 9.00 us" in terminal(
        synthetic.result(load("step3_2a2f_4k"))
    )


def test_the_limit_is_marked_once_in_the_histogram(small):
    lines = [line for line in terminal(synthetic.result(small)).splitlines() if line.endswith("< SLA")]

    assert len(lines) == 1
    assert lines[0].startswith(" 50-52 |")


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=40))
def test_histogram_bins_hold_every_sample(values):
    from afdsim.results.terminal import _bars

    lines = _bars(metrics.Samples(np.array(values)), None, Ink())

    shares = [float(line.split()[-1].rstrip("%")) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.06 * len(lines))
    assert len(lines) <= 20


def test_a_sparkline_rises_from_the_lowest_to_the_highest_mark():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 8], Ink()) == "▁▂▃▄▅▆▇█"


def test_attention_groups_stand_in_the_header():

    grouped = load("step3_2a2f_4k").vary("deployment.attention.groups", 2)

    assert deployment_line(grouped).endswith("3 micro-batches in each of 2 attention groups")
    assert deployment_line(load("step3_2a2f_4k")).endswith("3 micro-batches")
