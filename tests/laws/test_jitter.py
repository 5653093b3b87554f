"""What jitter, spikes, stragglers and host time cost (afd_mechanics I9, I16, I17 and b.6 in the project's notes)."""

import math
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.engine.books import BUSY, NETWORK, WAIT_PEER
from afdsim.engine.lowering import lower
from afdsim.engine.schedule import Compute
from afdsim.engine.variation import Variation
from afdsim.results import outcome
from afdsim.results.bottleneck import bounds
from afdsim.simulation import demanded, execute
from tests.cases import Outcome, Stages, Wires, run, tiny
from tests.laws.test_colocated import colocated
from tests.laws.test_colocated import step as colocated_step
from tests.laws.test_theory import ENGINES, TIMES, pipeline

CV = 0.1
"""Of the attention stage."""
STEPS = 400
"""Simulated; the notes' figures are means of 80."""
NOTED = 80
ROUNDED = 0.0005
"""The notes give a tenth of a percent."""
E_MAX = {1: 0.0, 2: 0.56, 4: 1.03, 8: 1.42}
"""Greatest of n normal variates on average (I16)."""
TABLE = {
    ("event", 3): {1: 0.007, 2: 0.022, 4: 0.034, 8: 0.045},
    ("event", 4): {1: 0.000, 2: 0.003, 4: 0.007, 8: 0.011},
    ("step", 3): {1: 0.001, 2: 0.055, 4: 0.106, 8: 0.137},
}
"""Longer than without jitter, by its kind, micro-batches and attention instances (b.6)."""


# jitter of attention -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OnAttention(Variation):
    """Normal factors of attention alone, as in the notes: a scenario has lognormal ones of the operations of both pools."""

    def _lognormal(self, kinds, sigma, steps, into):
        into[:] = 1.0
        for row, step in zip(into.reshape(len(steps), -1), steps, strict=True):
            for kind, low, high in kinds if sigma else ():
                if not kind.endswith("_ffn"):
                    row[low:high] += sigma * self.stream(kind, step).standard_normal(high - low)


@cache
def excess(kind: str, m: int, instances: int, law: type[Variation] = OnAttention) -> np.ndarray:
    """How much longer the steps of the notes' pipeline (61 layers, a 1, f .9, s .45, path .02) are with jitter."""
    scenario = tiny(
        61,
        instances,
        deployment__num_microbatches=m,
        deployment__max_num_seqs=m,
        network__link__latency="20ms",
        variation={"link": 0, kind: CV},
        workload__output_len__value=STEPS,
        workload__num_requests=m * instances,
    )
    cell = lower(scenario, seed=0, cost=Stages(attention=1.0, ffn=0.9), network=Wires(out=0.45, back=0.45))
    drawn = {field.name: getattr(cell.variation, field.name) for field in fields(cell.variation)}
    cell = replace(cell, variation=law(**drawn))
    rows = execute(cell, demanded(scenario, cell, 0), "kernel").boundaries
    times = np.diff(rows.time[(rows.unit == 0) & (rows.micro_batch == 0)])
    return times[NOTED // 4 :] / (61 * max(m, 2.84)) - 1


def apart(found: np.ndarray, noted: float) -> float:
    """Distance of a mean from a mean of the notes, in standard errors of the latter, less its rounding."""
    return max(abs(float(found.mean()) - noted) - ROUNDED, 0.0) / (float(found.std()) / math.sqrt(NOTED))


@pytest.mark.parametrize("instances", E_MAX)
@pytest.mark.parametrize("case", TABLE)
def test_jitter_of_attention_costs_what_the_notes_say(case, instances):
    assert apart(excess(*case, instances), TABLE[case][instances]) < 3


def test_jitter_of_both_pools_is_no_jitter_of_attention():
    assert apart(excess("event", 3, 8, Variation), TABLE["event", 3][8]) > 3


@pytest.mark.parametrize("instances", E_MAX)
def test_imbalance_that_lasts_a_step_costs_the_slowest_instance(instances):
    found = excess("step", 3, instances)

    assert found.mean() == pytest.approx(CV * E_MAX[instances], abs=0.01)


@pytest.mark.parametrize("instances", [2, 4, 8])
def test_jitter_of_operations_costs_less_than_of_steps_and_less_the_more_micro_batches(instances):
    step, three, four = (excess(*case, instances).mean() for case in (("step", 3), ("event", 3), ("event", 4)))

    assert 0 < four < three / 2 < three < step / 2


def test_jitter_costs_more_the_more_instances_wait_for_one_another():
    for case in TABLE:
        costs = [excess(*case, instances).mean() for instances in E_MAX]
        assert costs == sorted(costs)


# stragglers ----------------------------------------------------------------------------------------------------------


@given(
    a=TIMES,
    others=st.tuples(*[st.floats(0.0, 0.3)] * 3),
    slow=st.floats(1.0, 3.0),
    m=st.integers(2, 4),
    instances=st.integers(1, 3),
)
def test_a_straggler_on_a_bound_attention_side_makes_the_step_as_many_times_longer(a, others, slow, m, instances):
    times = (a, *(a * other for other in others))  # a round trip is at most 1.9 a, m attention stages at least 2 a
    changes = {"deployment__attention__instances": instances}
    alike = pipeline(times, m=m, **changes).step_times[-1]
    straggling = pipeline(times, m=m, **changes, variation__straggler={f"attention[{instances - 1}]": slow})

    assert straggling.step_times[-1] == pytest.approx(slow * alike, rel=1e-9)


@pytest.mark.parametrize("slow", [1.1, 1.5])
def test_a_straggler_on_a_side_with_slack_costs_nothing_until_it_binds(slow):
    times = (1.0, 0.8, 0.1, 0.1)
    straggling = pipeline(times, deployment__ffn__instances=2, variation__straggler={"ffn[1]": slow})

    assert straggling.step_times[-1] == pytest.approx(6 * 3 * max(1.0, 0.8 * slow), rel=1e-9)


@pytest.mark.parametrize("slow", [1.1, 1.5])
def test_one_slow_colocated_server_lengthens_every_operation_of_all(slow):
    """What flies between its operations takes as long as before."""
    alike, straggling = (run(colocated(4, variation__straggler=each)) for each in ({}, {"instance[1]": slow}))
    trace, steps = alike.traces[5], alike.schedule
    own = [steps.at[place] + 1 for place, turn in enumerate(steps.turns) if isinstance(turn, Compute)]
    computed = sum(trace.finish[place] - trace.start[place] for place in own)

    assert colocated_step(straggling) - colocated_step(alike) == pytest.approx((slow - 1) * computed, rel=0.01)


# more of anything is never faster ------------------------------------------------------------------------------------


def ends(done: Outcome) -> dict[tuple[int, int, int], float]:
    """When every boundary ended, by (step, unit, micro-batch)."""
    rows = done.record.boundaries
    places = zip(rows.step.tolist(), rows.unit.tolist(), rows.micro_batch.tolist(), strict=True)
    return dict(zip(places, rows.time.tolist(), strict=True))


def earlier(one: Outcome, other: Outcome) -> list[tuple[int, int, int]]:
    """Boundaries of a run that ended before those of another; a run ends with some of its last ones."""
    mine, its = ends(one), ends(other)
    return [place for place in mine.keys() & its.keys() if mine[place] < its[place] * (1 - 1e-12)]


@st.composite
def jittered(draw: st.DrawFn) -> dict[str, object]:
    """A pipeline of several instances under jitter; keys are those of `pipeline`."""
    return {
        "m": draw(st.integers(1, 4)),
        "deployment__attention__instances": draw(st.integers(1, 3)),
        "deployment__ffn__instances": draw(st.sampled_from([1, 2])),
        "deployment__boundary": draw(st.sampled_from(["stream", "drain"])),
        "network__type": draw(st.sampled_from(["dedicated", "shared"])),
        "variation__event": draw(st.sampled_from([0.0, 0.1, 0.5])),
        "variation__step": draw(st.sampled_from([0.0, 0.2])),
        "variation__link": draw(st.sampled_from([0.0, 0.3])),
    }


@given(
    shape=jittered(), times=st.tuples(TIMES, TIMES, TIMES, TIMES), worse=st.floats(1.0, 2.0), which=st.integers(0, 3)
)
def test_with_the_same_draws_no_boundary_is_earlier_when_a_stage_is_longer(shape, times, worse, which):
    longer = tuple(time * worse if place == which else time for place, time in enumerate(times))

    assert earlier(pipeline(longer, **shape), pipeline(times, **shape)) == []


def test_a_boundary_that_is_earlier_is_seen():
    few, many = (pipeline((1.0, 0.8, 0.3, 0.3), variation__event=sigma) for sigma in (0.1, 0.1001))

    assert earlier(few, many) != []


SPIKES = st.one_of(
    st.fixed_dictionaries({"factor": st.floats(1.0, 20.0)}),
    st.fixed_dictionaries({"seconds": st.integers(0, 5000).map("{}ms".format), "where": st.just("compute")}),
    st.fixed_dictionaries({"seconds": st.integers(0, 5000).map("{}ms".format), "where": st.just("link")}),
)


@given(
    shape=jittered(),
    times=st.tuples(TIMES, TIMES, TIMES, TIMES),
    spike=SPIKES,
    probabilities=st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]), min_size=2, max_size=2, unique=True),
)
def test_no_boundary_is_earlier_with_likelier_spikes(shape, times, spike, probabilities):
    few, many = (
        pipeline(times, **shape, variation__spike=spike | {"probability": each}) for each in sorted(probabilities)
    )

    assert earlier(many, few) == []


@settings(max_examples=10)
@given(shape=jittered(), times=st.tuples(TIMES, TIMES, TIMES, TIMES), host=st.integers(1, 2000))
def test_no_boundary_is_earlier_with_host_time(shape, times, host):
    busy = pipeline(times, **shape, deployment__host_overhead=f"{host}ms")

    assert earlier(busy, pipeline(times, **shape)) == []


# spikes --------------------------------------------------------------------------------------------------------------


def drawn(probability: float, **changes: object) -> Variation:
    """What three layers of 2A2F draw with spikes of a probability."""
    changes = {"factor": 7.0} | changes
    scenario = tiny(3, 2, 2, variation={"event": 0.1, "spike": {"probability": probability, **changes}})
    return lower(scenario, seed=3).variation


def test_spikes_leave_every_other_draw_alone_and_likelier_ones_keep_the_others():
    steps = range(50)
    plain, few, many = (drawn(probability).operations(steps) for probability in (0.0, 0.02, 0.2))
    hit = [each != plain for each in (few, many)]

    assert hit[0].mean() == pytest.approx(0.02, abs=4 * math.sqrt(0.02 / len(plain)))
    assert hit[1].mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 / len(plain)))
    assert (hit[0] <= hit[1]).all()
    assert many[hit[1]] == pytest.approx(7.0 * plain[hit[1]], rel=1e-15)
    assert np.array_equal(drawn(0.2).transfers(steps), drawn(0.0).transfers(steps))


def test_a_spike_in_seconds_hits_what_one_by_a_factor_hits():
    steps = range(50)
    hit = drawn(0.1).operations(steps) != drawn(0.0).operations(steps)
    more, _ = drawn(0.1, factor=None, seconds="5ms").spikes(steps)
    _, late = drawn(0.1, factor=None, seconds="5ms", where="link").spikes(steps)

    assert np.array_equal(more, 5e-3 * hit)
    assert np.array_equal(late, more)


@pytest.mark.parametrize("nothing", [{"probability": 0.0, "factor": 3.0}, {"probability": 0.5, "seconds": "0s"}])
def test_spikes_that_change_nothing_cost_nothing(nothing):
    variation = lower(tiny(variation={"link": 0, "spike": nothing}), seed=0).variation

    assert variation.spike is None
    assert not variation.jitters


@pytest.mark.parametrize("engine", ENGINES)
def test_where_every_operation_has_a_spike_all_are_that_much_longer(engine):
    times, every = (1.0, 0.6, 0.2, 0.2), {"probability": 1.0}
    added = pipeline(times, engine=engine, variation__spike=every | {"seconds": "500ms"})
    multiplied = pipeline(times, engine=engine, variation__spike=every | {"factor": 1.5})

    assert added.step_times[-1] == pytest.approx(6 * 3 * 1.5, rel=1e-12)
    assert multiplied.step_times[-1] == pytest.approx(6 * 3 * 1.5, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_late_posts_lengthen_the_way_and_not_the_work(engine):
    late = {"probability": 1.0, "seconds": "300ms", "where": "link"}
    alone = pipeline((1.0, 0.6, 0.2, 0.2), engine=engine, m=1, variation__spike=late)
    hidden = pipeline((1.0, 0.6, 0.2, 0.2), engine=engine, m=3, variation__spike=late)

    assert alone.step_times[-1] == pytest.approx(6 * (2.0 + 2 * 0.3), rel=1e-12)
    assert hidden.step_times[-1] == pytest.approx(6 * 3.0, rel=1e-12)


def test_colocated_posts_may_be_late_too():
    late = {"probability": 1.0, "seconds": "1ms", "where": "link"}
    plain, spiked = (colocated_step(run(colocated(4, variation__spike=each))) for each in (None, late))

    # a dispatch and a combine in each of four layers, none of them overlapped
    assert spiked - plain == pytest.approx(8e-3, rel=0.02)


def test_an_operation_on_nothing_has_no_spike():
    scenario = tiny(
        3,
        2,
        variation={"link": 0, "spike": {"probability": 1.0, "seconds": "1s"}},
        workload__arrival={"process": "closed_loop", "concurrency": 1},
    )
    done = run(scenario, cost=Stages(attention=1.0, ffn=1.0))

    assert done.record.causes[0, BUSY] > 0
    assert done.record.causes[1, BUSY] == 0


# host time -----------------------------------------------------------------------------------------------------------


@given(times=st.tuples(TIMES, TIMES, TIMES, TIMES), host=st.integers(1, 3000), m=st.integers(1, 4))
def test_host_time_of_a_stream_costs_what_a_head_as_long_costs(times, host, m):
    a, f, out, back = times
    changes = {"deployment__num_microbatches": m, "deployment__max_num_seqs": m}
    network = Wires(out=out, back=back)
    waits = run(
        tiny(6, **changes, deployment__host_overhead=f"{host}ms"), cost=Stages(attention=a, ffn=f), network=network
    )
    works = run(tiny(6, **changes), cost=Stages(attention=a, ffn=f, head=host / 1000), network=network)

    assert waits.step_times[2:] == pytest.approx(works.step_times[2:], rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("boundary", ["stream", "drain"])
def test_a_bound_attention_side_pays_its_host_time_in_full(engine, boundary):
    changes = {"deployment__boundary": boundary, "deployment__host_overhead": "500ms"}
    step = pipeline((1.0, 0.4, 0.0, 0.0), m=3, engine=engine, **changes).step_times[-1]
    without = pipeline((1.0, 0.4, 0.0, 0.0), m=3, engine=engine, deployment__boundary=boundary).step_times[-1]

    assert step - without == pytest.approx(3 * 0.5, rel=1e-9)


def test_host_time_of_one_drained_micro_batch_is_a_gap():
    host, gap = (
        pipeline((1.0, 0.7, 0.2, 0.2), m=1, deployment__boundary="drain", **{f"deployment__{key}": "900ms"})
        for key in ("host_overhead", "gap")
    )

    assert ends(host) == ends(gap)


def test_host_time_is_a_pause_in_the_books_and_in_the_bounds():
    times, changes = (1.0, 0.4, 0.0, 0.0), {"m": 3, "workload__num_requests": 60}
    done, plain = pipeline(times, deployment__host_overhead="500ms", **changes), pipeline(times, **changes)
    start, end = done.record.window
    shares = done.record.causes[0] / (end - start)
    limits = bounds(done.cell, outcome.mean_step(done.record, done.cell))

    assert done.record.causes[0, NETWORK] == pytest.approx(plain.record.causes[0, NETWORK], abs=1e-9)
    assert shares[WAIT_PEER] == pytest.approx(1.5 / 19.5, rel=0.03)  # the window cuts its first and last step
    assert limits.resources["attention"] == pytest.approx(19.5, rel=1e-9)
    assert limits.round_trip["pauses"] == pytest.approx(0.5, rel=1e-9)
