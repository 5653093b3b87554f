"""Sizes are bounded at the door: each is refused with a reason before anything is built of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.errors import ScenarioError
from afdsim.scenario.document import load

OPEN = ("workload.num_requests=null", "workload.duration=1min")

ROWS = [
    (("deployment.num_microbatches=10000",), "must be at most 64 (got 10000): a micro-batch beyond has nothing left"),
    (("deployment.attention.instances=99999999999",), "must be at most 100,000 (got 99999999999): no cluster has more"),
    (
        ("deployment.attention.instances=5000", "deployment.max_num_seqs=900"),
        "gives 36,000,000 sequences in flight; at most 5,000,000",
    ),
    (("deployment.attention.instances=20000", "deployment.max_num_seqs=9"), "has 160,008 GPUs; at most 100,000 are"),
    (("deployment.max_num_seqs=999999999",), "must be at most 100,000 (got 999999999): a GPU holds every sequence"),
    (("deployment.mtp={draft: 1000000, acceptance: 0.5}",), "must be at most 16 (got 1000000): no published system"),
    (("workload.num_requests=9223372036854775807",), "must be at most 10,000,000 (got 9223372036854775807): a run"),
    (("workload.num_requests=9223372036854775808",), "must be a whole number >= 1 (got 9223372036854775808)"),
    (("workload.input_len=2147483648",), "must be at most 1,000,000,000 (got 2147483648): no model reads more tokens"),
    (("workload.output_len=3000000000",), "must be at most 1,000,000,000 (got 3000000000)"),
    (("workload.input_len={distribution: lognormal, mean: 1000, cv: 1e308}",), "cv: must be between 1e-09 and 10"),
    (("workload.arrival={process: gamma, request_rate: 5 req/s, cv: 1e200}",), "cv: must be between 0.001 and 100"),
    (("workload.arrival={process: gamma, request_rate: 5 req/s, burstiness: 1e-300}",), "between 0.0001 and 1e+06"),
    (("workload.arrival={process: poisson, request_rate: 1e300 req/s}",), "between 1e-09 req/s and 1e+09 req/s"),
    (
        ("workload.arrival={process: poisson, request_rate: 1e8 req/s}", *OPEN),
        "would bring 6e+09 requests at 1e+08 req/s",
    ),
    (
        ("workload.arrival={process: mmpp, states: [{rate: 1e8 req/s, dwell: 1s}, {rate: 0 req/s, dwell: 1s}]}", *OPEN),
        "would bring 6e+09 requests",
    ),
    (("workload.arrival={process: poisson, request_rate: 5 req/s}", OPEN[0], "workload.duration=1e300 s"), "between"),
    (("network.link.latency=1e300s",), "must be between 0.001 ns and 1000000000 s (got '1e300s')"),
    (("network.link.bandwidth=1e-300Gbps",), "must be between 1 B/s and 1000 PB/s (got '1e-300Gbps')"),
    (("variation.straggler={'ffn[0]': 1e308}",), "must be between 0.001 and 1e+06 (got 1e+308)"),
    (("variation.event=1e308",), "must be between 1e-09 and 10 (got 1e+308)"),
    (('name="a\\e[31mb"',), "must be one line of at most 200 printable characters (got 'a\\x1b[31mb')"),
    (('name="a\\nb"',), "must be one line of at most 200 printable characters"),
    ((f"name={'a' * 201}",), "must be one line of at most 200 printable characters"),
]


@pytest.mark.parametrize(("changes", "message"), ROWS)
def test_what_is_too_large_is_refused_with_a_reason(changes, message):
    with pytest.raises(ScenarioError) as error:
        load("small", overrides=changes)

    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("model", ["step3", "no-such-model"])
def test_messages_of_a_step_are_counted_over_all_layers(model):
    sizes = ("deployment.attention.instances=4096", "deployment.ffn.instances=48", "deployment.max_num_seqs=3")
    with pytest.raises(ScenarioError) as error:
        load("step3_2a2f_4k", overrides=(f"model={model}", *sizes))

    assert ("has 71,958,528 messages or operations in a step" in str(error.value)) is (model == "step3")


@given(st.sampled_from(["$x_$", "_" * 30, "[red]", "<script>", "../../evil", "/etc/x", "a b", "ünï", "'; rm -rf"]))
def test_a_name_is_any_line_of_text(name):
    assert load({**load("small").given(), "name": name}).name == name
