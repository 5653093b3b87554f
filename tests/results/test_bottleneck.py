import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.lowering import lower
from afdsim.results import outcome
from afdsim.results.bottleneck import ROUND_TRIP, Bounds, Means, bounds, longest, told
from afdsim.results.result import Result, pooled
from afdsim.scenario.document import load
from afdsim.simulation import simulate
from tests.cases import Outcome, Stages, Wires, run, tiny, tiny_model

TIMES = st.floats(min_value=0.05, max_value=2.0)
ROUNDING = 1e-9
"""Sums of a step in another order."""


def found(done: Outcome) -> tuple[Bounds, float]:
    """Bounds of a run, and its measured step once it has fallen into line: the mean of its later half."""
    rows = done.record.boundaries
    seen = outcome.mean_step(done.record, done.cell)
    own = rows.time[(rows.unit == 0) & (rows.micro_batch == 0)]
    later = own[len(own) // 2 :]
    return bounds(done.cell, seen), float(np.diff(later).mean())


def every(given: Bounds) -> dict[str, float]:
    return {ROUND_TRIP: math.fsum(given.round_trip.values()), **given.resources}


CELLS = st.fixed_dictionaries(
    {
        "layers": st.integers(2, 6),
        "attention": st.integers(1, 3),
        "ffn": st.sampled_from([1, 2, 4]),
        "m": st.integers(1, 4),
        "network": st.sampled_from(["ports", "shared", "dedicated"]),
        "boundary": st.sampled_from(["stream", "drain"]),
        "latency": st.integers(0, 2000),
        "slow": st.sampled_from([{}, {"attention[0]": 1.4}, {"ffn[0]": 1.4}]),
    }
)


def cell(shape, times, engine="kernel") -> Outcome:
    a, f, head, out, back = times
    scenario = tiny(
        shape["layers"],
        shape["attention"],
        shape["ffn"],
        deployment__num_microbatches=shape["m"],
        deployment__max_num_seqs=shape["m"],
        deployment__boundary=shape["boundary"],
        network__type=shape["network"],
        network__link__latency=f"{shape['latency']}ms",
        variation__straggler=shape["slow"],
        workload__output_len__value=40,
        workload__num_requests=2 * shape["m"] * shape["attention"],
    )
    return run(scenario, engine, cost=Stages(attention=a, ffn=f, head=head), network=Wires(out=out, back=back))


def excess(limits: Bounds, step: float) -> dict[str, float]:
    """The bounds that a step is shorter than."""
    return {name: value for name, value in every(limits).items() if value > step * (1 + ROUNDING)}


@given(shape=CELLS, times=st.tuples(TIMES, TIMES, TIMES, TIMES, TIMES))
def test_no_step_is_shorter_than_any_bound(shape, times):
    assert excess(*found(cell(shape, times))) == {}


def test_a_bound_of_slower_wires_would_be_noticed():
    shape = {"layers": 3, "attention": 2, "ffn": 2, "m": 2, "network": "ports", "boundary": "stream", "latency": 0}
    done = cell(shape | {"slow": {}}, (0.1, 0.1, 0.0, 1.0, 0.1))
    slower = cell(shape | {"slow": {}}, (0.1, 0.1, 0.0, 1.01, 0.1))

    assert "attention port out" in excess(found(slower)[0], found(done)[1])


@given(shape=CELLS, times=st.tuples(TIMES, TIMES, TIMES, TIMES, TIMES))
def test_with_one_micro_batch_the_round_trip_is_the_step(shape, times):
    limits, step = found(cell(shape | {"m": 1}, times))

    assert math.fsum(limits.round_trip.values()) == pytest.approx(step, rel=ROUNDING)


@given(shape=CELLS, times=st.tuples(TIMES, TIMES, TIMES, TIMES))
def test_the_step_of_a_pipeline_without_boundaries_is_its_longest_bound(shape, times):
    a, f, out, back = times
    one = {"attention": 1, "ffn": 1, "boundary": "stream", "slow": {}}

    limits, step = found(cell(shape | one, (a, f, 0.0, out, back)))

    assert max(every(limits).values()) == pytest.approx(step, rel=ROUNDING)


@pytest.mark.parametrize("granularity", ["instance", "gpu"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_bound_is_what_the_books_say_of_a_resource_that_never_waits(granularity, groups):
    scenario = load("step3_2a2f_4k").vary("variation", {"event": 0, "step": 0, "link": 0})
    scenario = scenario.varied({"workload.input_len": 3840, "workload.output_len": 512, "workload.num_requests": 1})
    scenario = scenario.vary("deployment.attention.groups", groups)
    done = run(scenario.vary("deployment.max_num_seqs", 36).vary("run.granularity", granularity))

    limits, _ = found(done)
    (start, end), steps = done.record.window, done.record.causes[:, 0]
    per_step = (end - start) / found(done)[1]

    assert steps[0] / per_step == pytest.approx(limits.resources["attention"], rel=2e-3)
    assert steps[-1] / per_step == pytest.approx(limits.resources["ffn"], rel=2e-3)


def colocated(overlap: bool, m: int, kernels: str = "low_latency", **changes):
    """A closed loop whose contexts add up to the same in every step: as many sequences in a seat as a request has."""
    data = {
        "model": tiny_model(4, 1),
        "deployment": {
            "type": "colocated",
            "gpu": "H800",
            "instances": 2,
            "gpus_per_instance": 2,
            "parallelism": {"dp": 2, "tp": 1},
            "two_batch_overlap": overlap,
            "max_num_seqs": 8 * m,
            "all_to_all": kernels,
        },
        "variation": {"link": 0},
        "workload": {
            "arrival": {"process": "closed_loop"},
            "input_len": {"distribution": "constant", "value": 1000},
            "output_len": {"distribution": "constant", "value": 8},
            "num_requests": 200,
        },
    }
    scenario = load(data)
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    return scenario


@pytest.mark.parametrize("slow", [{}, {"instance[1]": 1.3}])
@pytest.mark.parametrize("kernels", ["low_latency", "normal"])
def test_a_colocated_step_without_overlap_is_its_round_trip(kernels, slow):
    limits, step = found(run(colocated(False, 1, kernels, variation__straggler=slow)))

    assert math.fsum(limits.round_trip.values()) == pytest.approx(step, rel=ROUNDING)
    assert excess(limits, step) == {}


@pytest.mark.parametrize("slow", [{}, {"instance[1]": 1.3}])
@pytest.mark.parametrize("kernels", ["low_latency", "normal"])
def test_no_overlapped_step_is_shorter_than_any_bound(kernels, slow):
    limits, step = found(run(colocated(True, 2, kernels, variation__straggler=slow)))

    assert excess(limits, step) == {}
    assert max(every(limits).values()) > 0.8 * step


def test_tensor_parallelism_is_bound_by_its_compute():
    engine = {"type": "tensor_parallel", "gpu": "H800", "gpus": 2, "max_num_seqs": 8}
    limits, step = found(run(load(colocated(False, 1).given() | {"deployment": engine})))

    assert told(limits, step)["name"] == "compute"
    assert limits.resources["compute"] == pytest.approx(step, rel=ROUNDING)


# names --------------------------------------------------------------------------------------------------------------


def main_scenario(**changes):
    """The main scenario with a few requests: its batch is full all the same."""
    scenario = load("step3_2a2f_4k").vary("workload.num_requests", 64)
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    cell = lower(scenario, seed=0)
    return told(bounds(cell, Means(128.0, 4096.0, np.ones(cell.seated))), 0.0563)


def test_the_main_scenario_is_bound_by_its_round_trip():
    own = main_scenario()

    assert (own["name"], own["part"]) == (ROUND_TRIP, "attention")
    assert own["ms"] == own["bounds"][ROUND_TRIP] == pytest.approx(math.fsum(own["round_trip"].values()))
    assert list(own["bounds"].values()) == sorted(own["bounds"].values(), reverse=True)


def test_a_slow_path_is_named():
    own = main_scenario(network__link__latency="1ms")

    assert (own["name"], own["part"]) == (ROUND_TRIP, "network")
    # there and back in each of 61 layers: 1 ms of path, 8 + 1.5 + 1.5 us of synchronise, post and poll
    assert own["round_trip"]["network"] == pytest.approx(2 * 61 * 1.011, rel=1e-6)


def test_a_slow_server_is_named_on_either_side():
    attention = main_scenario(variation__straggler={"attention[1]": 1.3})
    ffn = main_scenario(variation__straggler={"ffn[0]": 1.3}, variation__experts={"law": "even"})

    assert attention["bounds"]["attention[1]"] > 1.25 * attention["bounds"]["attention[0]"]
    assert attention["name"] == "attention[1]"
    assert ffn["bounds"]["ffn[0]"] == pytest.approx(1.3 * ffn["bounds"]["ffn[1]"])
    assert "ffn scatter" in ffn["bounds"]  # NVLink is not slowed


def test_a_slow_server_is_named_where_all_are_slow():
    own = main_scenario(variation__straggler={"ffn[0]": 1.3, "ffn[1]": 1.3})

    assert {"ffn[0]", "ffn[1]"} < set(own["bounds"])


def test_a_resource_comes_before_an_equal_round_trip():
    assert longest({ROUND_TRIP: 2.0, "compute": 2.0}, {"experts": 2.0}) == {"name": "compute", "ms": 2.0}
    assert longest({ROUND_TRIP: 2.0, "compute": 1.9}, {"experts": 2.0})["part"] == "experts"


def test_a_unit_without_requests_has_no_bound():
    cell = lower(load("step3_2a2f_4k"), seed=0)

    own = bounds(cell, Means(1.0, 4096.0, np.array([1.0, 0.0]))).resources

    assert "attention[0]" in own
    assert "attention[1]" not in own


# runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_tells_its_bottleneck_and_keeps_it(small, tmp_path):
    result = simulate(small.vary("variation.straggler", {"attention[0]": 1.3}))
    own = result.summary["afdsim"]["bottleneck"]

    assert own["name"] == "attention[0]"
    assert own["step_ms"] == result.summary["afdsim"]["step_ms"]
    assert 0.95 < own["ms"] / own["step_ms"] < 1.0
    assert Result.load(result.save(tmp_path)).summary["afdsim"]["bottleneck"] == own
    assert any("attention[0] x1.3" in note for note in result.notes)


def test_seeds_together_have_the_mean_of_their_bounds(small):
    runs = [simulate(small, seed=seed) for seed in (0, 1)]
    together = pooled(runs)["afdsim"]["bottleneck"]
    each = [one.summary["afdsim"]["bottleneck"]["bounds"]["attention"] for one in runs]

    assert together["name"] == "attention"
    assert together["ms"] == together["bounds"]["attention"] == pytest.approx(sum(each) / 2)
