"""Closed forms of the pipeline (afd_mechanics I1 to I20 in the project's notes) hold on the engine."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import Outcome, Stages, Wires, run, tiny

TIMES = st.floats(min_value=0.05, max_value=2.0)
ENGINES = ("processes", "kernel")


def pipeline(times: tuple[float, float, float, float], *, engine="kernel", layers=6, m=3, **changes) -> Outcome:
    """A run whose stages take (attention, FFN, out, back) seconds."""
    a, f, out, back = times
    scenario = tiny(layers, **{"deployment__num_microbatches": m, "deployment__max_num_seqs": m, **changes})
    return run(scenario, engine, cost=Stages(attention=a, ffn=f), network=Wires(out=out, back=back))


@given(a=TIMES, f=TIMES, out=TIMES, back=TIMES, latency=st.floats(0, 0.5), m=st.integers(1, 5))
def test_streaming_step_is_layers_times_the_longer_of_busiest_resource_and_round_trip(a, f, out, back, latency, m):
    outcome = pipeline((a, f, out, back), m=m, network__link__latency=f"{latency:.6f}s")
    latency = round(latency, 6)

    period = max(m * max(a, f, out, back), a + f + out + back + 2 * latency)

    assert outcome.step_times[-1] == pytest.approx(6 * period, rel=1e-9)


@given(a=TIMES, f=TIMES, out=TIMES, back=TIMES, m=st.integers(1, 5))
def test_draining_step_adds_one_round_trip_and_the_tail(a, f, out, back, m):
    outcome = pipeline((a, f, out, back), m=m, deployment__boundary="drain")

    x, trip = max(a, f, out, back), a + f + out + back
    step = trip + 5 * max(m * x, trip) + (m - 1) * x

    assert outcome.step_times[-1] == pytest.approx(step, rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("m", "three", "four"), [(1, 183, 244), (2, 184, 245), (3, 185, 246), (4, 246, 247), (5, 307, 308)]
)
def test_golden_drained_steps_of_61_layers(engine, m, three, four):
    kind = {"engine": engine, "layers": 61, "m": m, "deployment__boundary": "drain", "workload__num_requests": m}

    assert pipeline((1.0, 1.0, 0.5, 0.5), **kind).step_times[-1] == pytest.approx(three, rel=1e-12)
    assert pipeline((1.0, 1.0, 1.0, 1.0), **kind).step_times[-1] == pytest.approx(four, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_three_stages_of_272_us_give_the_papers_50_ms(engine):
    outcome = pipeline((272e-6, 272e-6, 136e-6, 136e-6), layers=61, engine=engine)

    assert outcome.step_times[-1] == pytest.approx(61 * 3 * 272e-6, rel=1e-12)


@given(a=TIMES, f=TIMES, out=TIMES, back=TIMES, m=st.integers(1, 5))
def test_busy_shares_are_micro_batches_times_stage_over_period(a, f, out, back, m):
    outcome = pipeline((a, f, out, back), m=m, workload__num_requests=60)
    period = max(m * max(a, f, out, back), a + f + out + back)
    start, end = outcome.record.window

    attention, ffn = outcome.record.causes[:, 0] / (end - start)

    # the window cuts its first and last step in proportion, so the edges may be one step off
    assert attention == pytest.approx(m * a / period, rel=0.02)
    assert ffn == pytest.approx(m * f / period, rel=0.02)


@given(a=TIMES, f=TIMES, out=TIMES, back=TIMES)
def test_fewest_micro_batches_without_a_bubble(a, f, out, back):
    trip, x = a + f + out + back, max(a, f, out, back)
    enough = math.ceil(trip / x - 1e-9)

    assert pipeline((a, f, out, back), m=enough).step_times[-1] == pytest.approx(6 * max(enough * x, trip), rel=1e-9)
    if enough > 1:
        assert pipeline((a, f, out, back), m=enough - 1).step_times[-1] == pytest.approx(6 * trip, rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("instances", [(1, 1), (3, 1), (2, 4)])
def test_the_barrier_costs_nothing_among_equal_instances(engine, instances):
    a, f = instances
    one = pipeline((1.0, 0.8, 0.3, 0.3), engine=engine)
    many = pipeline(
        (1.0, 0.8, 0.3, 0.3), engine=engine, deployment__attention__instances=a, deployment__ffn__instances=f
    )

    assert set(many.step_times.round(9)) == set(one.step_times.round(9)) == {18.0}


@pytest.mark.parametrize("m", [1, 2, 3])
def test_little_closed_loop_throughput_is_population_over_step(m):
    outcome = pipeline((1.0, 0.7, 0.2, 0.2), m=m, workload__num_requests=40 * m)
    rows = outcome.record.boundaries
    start, end = outcome.record.window
    tokens = rows.batch[(start < rows.time) & (rows.time <= end)].sum()

    assert tokens / (end - start) == pytest.approx(m / outcome.step_times[-1], rel=0.01)


def test_two_equal_stages_without_communication_have_no_bubble():
    outcome = pipeline((1.0, 1.0, 0.0, 0.0), m=2)

    assert outcome.step_times[-1] == pytest.approx(2 * 6 * 1.0, rel=1e-12)


@given(a=TIMES, m=st.integers(1, 5))
def test_without_ffn_and_communication_attention_alone_sets_the_step(a, m):
    assert pipeline((a, 0.0, 0.0, 0.0), m=m).step_times[-1] == pytest.approx(m * 6 * a, rel=1e-9)


@given(a=TIMES, slack=st.floats(1.0, 3.0), m=st.integers(3, 5))
def test_ffn_bound_step_and_idle_attention(a, slack, m):
    f = a * slack
    outcome = pipeline((a, f, 0.1 * a, 0.1 * a), m=m, workload__num_requests=60)
    start, end = outcome.record.window

    assert outcome.step_times[-1] == pytest.approx(6 * m * f, rel=1e-9)
    assert outcome.record.causes[0, 0] / (end - start) == pytest.approx(a / f, rel=0.02)


@given(a=TIMES, f=TIMES, out=TIMES, back=TIMES, worse=st.floats(1.0, 2.0), which=st.integers(0, 3))
def test_no_step_gets_shorter_when_a_stage_gets_longer(a, f, out, back, worse, which):
    times = [a, f, out, back]
    before = pipeline(tuple(times)).step_times[-1]
    times[which] *= worse

    assert pipeline(tuple(times)).step_times[-1] >= before * (1 - 1e-12)


@pytest.mark.parametrize("slow", [1.1, 1.5])
def test_one_straggler_sets_the_step_whatever_the_number_of_instances(slow):
    times = (1.0, 0.6, 0.2, 0.2)
    base = pipeline(times).step_times[-1]
    for instances in (1, 2, 4):
        changes = {"deployment__attention__instances": instances, "variation__straggler": {"attention[0]": slow}}

        assert pipeline(times, **changes).step_times[-1] == pytest.approx(slow * base, rel=1e-9)


def test_bandwidth_is_free_until_the_round_trip_binds():
    compute_bound = pipeline((1.0, 0.8, 0.4, 0.4)).step_times[-1]

    assert pipeline((1.0, 0.8, 0.2, 0.2)).step_times[-1] == pytest.approx(compute_bound, rel=1e-12)
    assert pipeline((1.0, 0.8, 0.9, 0.9)).step_times[-1] > compute_bound
