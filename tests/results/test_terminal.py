import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.results import metrics
from afdsim.results.result import pooled
from afdsim.results.terminal import WIDTH, Ink, deployment_line, sparkline, terminal
from tests import synthetic


def test_the_report_has_every_block_in_order(small):
    text = terminal(synthetic.result(small, notes=("event and step are assumed",)), source="small", saved="out")

    marks = ["afdsim 0.", "Model step3-small", "AFD decode 1A1F", "TPOT (ms)", "vLLM's definitions", "tok/s/GPU (TGS"]
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
    assert deployment_line(small) == "AFD decode 1A1F (16 GPUs) = 1x8 H800 attention + 1x8 H800 FFN, 3 micro-batches"
    assert deployment_line(small.vary("deployment.num_microbatches", 1)).endswith("FFN, 1 micro-batch")


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


def test_balanced_pools_have_no_bottleneck(small):
    run = synthetic.run()
    gpus = {**run.gpus, **{cause: np.full(16, share) for cause, share in synthetic.CAUSES.items()}}

    assert "balanced" in terminal(synthetic.result(small, gpus=gpus))


def test_an_open_loop_says_whether_it_kept_up(small):
    assert "\nLoad STABLE: offered" in terminal(synthetic.result(small, open_loop=True, sla=None)).replace("\n\n", "\n")


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
    from afdsim.results.terminal import deployment_line
    from afdsim.scenario.document import load

    grouped = load("step3_2a2f_4k").vary("deployment.attention.groups", 2)

    assert deployment_line(grouped).endswith("3 micro-batches in each of 2 attention groups")
    assert deployment_line(load("step3_2a2f_4k")).endswith("3 micro-batches")
