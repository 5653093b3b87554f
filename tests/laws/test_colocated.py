"""Laws of colocated deployments: engines, order of stages, sums of stages, several tokens a step."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afdsim.catalog.entries import gpu, gpus
from afdsim.cost.all_to_all import exchange, pair_bytes, table
from afdsim.cost.operators import Operator
from afdsim.engine.books import CAUSES
from afdsim.engine.colocated import order
from afdsim.engine.drafts import Drafts
from afdsim.engine.lowering import lower
from afdsim.results import outcome as columns
from afdsim.scenario.document import Scenario, load
from afdsim.scenario.streams import stream
from afdsim.simulation import demanded, execute, simulate
from tests.cases import Outcome, run, tiny_hybrid, tiny_model, tiny_sparse, tiny_windowed
from tests.laws.test_equivalence import SKEWS, SPIKES, assert_same, drafts, workloads


def colocated(layers: int = 3, dense: int = 0, **changes: object) -> Scenario:
    """Expert parallelism on small servers, no variation; `changes` are dotted paths with __."""
    scenario = load(
        {
            "model": tiny_model(layers, dense),
            "deployment": {
                "type": "colocated",
                "gpu": "H800",
                "instances": 2,
                "gpus_per_instance": 2,
                "max_num_seqs": 4,
            },
            "variation": {"link": 0},
            "workload": {
                "arrival": {"process": "closed_loop"},
                "input_len": {"distribution": "constant", "value": 100},
                "output_len": {"distribution": "constant", "value": 12},
                "num_requests": 24,
            },
        }
    )
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    return scenario


@st.composite
def engines(draw: st.DrawFn) -> Scenario:
    """Any small colocated deployment."""
    instances, per = draw(st.sampled_from([(1, 1), (1, 2), (2, 2), (4, 1), (4, 2)]))
    overlap = draw(st.sampled_from([{}, {"two_batch_overlap": True}, {"single_batch_overlap": True}]))
    tp = draw(st.sampled_from([1, 2])) if per == 2 else 1
    deployment = {
        "type": "colocated",
        "gpu": "H800",
        "instances": instances,
        "gpus_per_instance": per,
        "parallelism": {"tp": tp, "dp": per // tp},
        "max_num_seqs": draw(st.integers(2, 9)),
        "all_to_all": draw(st.sampled_from(["low_latency", "normal"])),
        "host_overhead": draw(st.sampled_from(["0s", "0.3ms"])),
        "framework_overhead": draw(st.sampled_from(["0s", "20us"])),
        **overlap,
    }
    return varied(draw, deployment)


@st.composite
def tensors(draw: st.DrawFn) -> Scenario:
    """Any small tensor-parallel deployment."""
    gpus_ = draw(st.sampled_from([1, 2, 4]))
    deployment = {
        "type": "tensor_parallel",
        "gpu": "H800",
        "gpus": gpus_,
        "ep": draw(st.sampled_from([ep for ep in (1, 2, 4) if gpus_ % ep == 0])),
        "max_num_seqs": draw(st.integers(1, 9)),
        "host_overhead": draw(st.sampled_from(["0s", "0.3ms"])),
        "framework_overhead": draw(st.sampled_from(["0s", "20us"])),
    }
    return varied(draw, deployment)


def varied(draw: st.DrawFn, deployment: dict[str, object]) -> Scenario:
    """The deployment with any model, variation and workload."""
    if draw(st.booleans()):
        deployment["mtp"] = draw(drafts())
    layers = draw(st.integers(1, 4))
    dense = draw(st.integers(0, layers - (deployment["type"] == "colocated")))  # without experts its ranks are alone
    others = [each(layers) for each in (tiny_windowed, tiny_sparse, tiny_hybrid)]
    model = draw(st.sampled_from([tiny_model(layers), tiny_model(layers, dense), *others]))
    scenario = colocated(layers, deployment=deployment).vary("model", model)
    scenario = (
        scenario.vary("variation.event", draw(st.sampled_from([0.0, 0.3])))
        .vary("variation.step", draw(st.sampled_from([0.0, 0.2])))
        .vary("variation.link", draw(st.sampled_from([0.0, 0.3])))
        .vary("variation.spike", draw(st.sampled_from(SPIKES if deployment["type"] == "colocated" else SPIKES[:3])))
        .vary("variation.experts", draw(st.sampled_from(SKEWS)))
        .vary("variation.straggler", draw(st.sampled_from([{}, {"instance[0]": 1.5}])))
        .vary("run.granularity", draw(st.sampled_from(["instance", "gpu"])))
    )
    return scenario.vary("workload", draw(workloads()))


@given(engines())
def test_processes_and_kernel_agree_bit_for_bit(scenario):
    assert_same(run(scenario, "processes"), run(scenario, "kernel"))


@given(tensors())
def test_engines_agree_on_tensor_parallelism(scenario):
    assert_same(run(scenario, "processes"), run(scenario, "kernel"))


@given(st.one_of(engines(), tensors()))
@settings(max_examples=8)
def test_an_observer_changes_nothing(scenario):
    cell = lower(scenario, seed=0)
    blind = execute(cell, demanded(scenario, cell, 0), "kernel")
    seen = run(scenario)

    assert_same(seen, Outcome(cell=cell, record=blind, traces=seen.traces))


@pytest.mark.parametrize("engine", ["processes", "kernel"])
def test_the_last_bits_of_one_flight_are_seen(monkeypatch, engine):
    # long and alone, so that no other hides it
    cost = Seconds(dispatch=1.0, combine=1.0)
    scenario = colocated(deployment__instances=1, variation__link=0.2)
    before = run(scenario, cost=cost)
    drawn = type(before.cell.variation).transfers

    def nudged(variation, steps):
        factors = drawn(variation, steps)
        if 0 in steps:
            # the longest one, since a receiver takes 1 s whatever is drawn; by more than a sum may round away
            place = max(variation.wires[0].used, key=factors.__getitem__)
            factors[place] += 4 * np.spacing(factors[place])
        return factors

    assert_same(before, run(scenario, "processes", cost=cost))
    monkeypatch.setattr(type(before.cell.variation), "transfers", nudged)
    with pytest.raises(AssertionError):
        assert_same(before, run(scenario, engine, cost=cost))


@given(st.one_of(engines(), tensors()))
def test_every_gpu_second_is_booked_once(scenario):
    outcome = run(scenario)
    start, end = outcome.record.window
    found = columns.gpus(outcome.record, outcome.cell)
    causes = np.array([found[cause] for cause in ("busy", "wait_peer", "network", "imbalance", "no_work", "down")])

    assert causes.min() >= -1e-12
    assert causes.sum(axis=0) == pytest.approx(np.full(causes.shape[1], end - start), rel=1e-9, abs=1e-12)


@given(st.one_of(engines(), tensors()))
def test_tokens_of_finished_requests_are_emitted(scenario):
    outcome = run(scenario)
    table_ = outcome.record.requests
    done = ~np.isnan(np.array(table_.finish))
    tokens = np.array(table_.input_len) + np.array(table_.output_len) - np.array(table_.context)

    assert sum(outcome.record.boundaries.batch) >= tokens[done].sum() - 1
    if done.all():
        assert sum(outcome.record.boundaries.batch) == tokens.sum()


@given(engines())
def test_bytes_sent_are_bytes_received(scenario):
    outcome = run(scenario, "processes")
    links = columns.links(outcome.record, outcome.cell)
    sent, got = (links["bytes"][links["direction"] == way].sum() for way in ("egress", "ingress"))
    counted = {
        way: sum(row[1] for port, row in outcome.record.traffic.items() if port[3] == way)
        for way in ("egress", "ingress")
    }

    assert sent == pytest.approx(got, rel=1e-9)
    assert counted["egress"] == pytest.approx(counted["ingress"], rel=1e-9)
    assert counted["egress"] == pytest.approx(sent, rel=1e-9)


def test_the_second_micro_batch_runs_two_stages_behind():
    names = [f"{'ab'[j]}{layer}{stage}" for layer, stage, j in order([5, 5], 2)]

    assert names[:11] == ["a00", "a01", "a02", "b00", "a03", "b01", "a04", "b02", "a10", "b03", "a11"]
    assert names[-3:] == ["b12", "b13", "b14"]
    assert len(names) == len(set(names)) == 20


class Seconds:
    """A cost model of constants by kernel, with nothing on the wire."""

    def __init__(self, **seconds: float) -> None:
        self.known = seconds

    def seconds(self, operator: Operator, gpu: object) -> object:
        del gpu
        return self.known.get(operator.kernel, 0.0)


def step(outcome: Outcome) -> float:
    """The usual step time."""
    return float(np.median(outcome.step_times))


@pytest.mark.parametrize("layers", [1, 4])
def test_without_communication_one_micro_batch_is_the_sum_of_its_stages(layers):
    cost = Seconds(core_mqa=100e-6, grouped_gemm=70e-6, sampling=30e-6, gemm=1e-6)
    scenario = colocated(layers, dense=0)

    # q down, q up, o_proj and router; two matrices of the shared expert; the LM head
    expected = layers * (100e-6 + 70e-6 + 4e-6 + 2e-6) + 30e-6 + 1e-6
    assert step(run(scenario, cost=cost)) == pytest.approx(expected, rel=1e-9)


def test_overlap_hides_flights_behind_the_compute_that_follows_them_in_the_published_order():
    cost = Seconds(core_mqa=200e-6, grouped_gemm=200e-6, dispatch=150e-6, combine=150e-6)
    one = run(colocated(8), cost=cost)
    two = run(colocated(8, deployment__two_batch_overlap=True), cost=cost)

    assert step(one) == pytest.approx(8 * 700e-6, rel=1e-9)
    # a combine flies while the other's core runs; under a dispatch this model has nothing to compute
    assert step(two) == pytest.approx(8 * 2 * (400e-6 + 150e-6) + 150e-6, rel=1e-9)


def test_host_overhead_is_one_pause_per_step():
    slow, quick = (step(run(colocated(deployment__host_overhead=host))) for host in ("1ms", "0s"))

    assert slow - quick == pytest.approx(1e-3, rel=1e-9)


def test_framework_overhead_is_once_per_layer_whatever_the_overlap():
    for overlap in (False, True):
        slow, quick = (
            step(run(colocated(5, deployment__framework_overhead=time, deployment__two_batch_overlap=overlap)))
            for time in ("100us", "0s")
        )
        assert slow - quick == pytest.approx(5 * 100e-6, rel=0.25 if overlap else 1e-9)


def test_one_gpu_of_expert_parallelism_is_one_of_tensor_parallelism():
    workload = colocated().vary("deployment.instances", 1).vary("deployment.gpus_per_instance", 1)
    lone = workload.vary("deployment", {**BASE, "type": "colocated", "instances": 1, "gpus_per_instance": 1})
    tensor = workload.vary("deployment", {**BASE, "type": "tensor_parallel", "gpus": 1})

    a, b = run(lone), run(tensor)
    assert a.record.requests.finish == pytest.approx(b.record.requests.finish, rel=1e-12, nan_ok=True)


BASE = {"gpu": "H800", "max_num_seqs": 4}


def test_with_equal_ranks_both_granularities_give_the_same_times():
    whole, single = (run(colocated(run__granularity=each)) for each in ("instance", "gpu"))

    assert step(whole) == pytest.approx(step(single), rel=1e-12)


@given(st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.integers(1, 400))
def test_steps_of_a_request_lie_between_all_and_nothing_accepted(draft, acceptance, tokens):
    drafts = Drafts(draft=draft, acceptance=acceptance, stream=lambda kind, at: stream(1, kind, at))
    steps = drafts.steps(5, tokens)

    assert -(-tokens // (draft + 1)) <= steps <= tokens
    if acceptance == 1.0:
        assert steps == -(-tokens // (draft + 1))


def test_accepted_tokens_per_step_are_the_expected_ones():
    drafts = Drafts(draft=2, acceptance=0.7, stream=lambda kind, at: stream(0, kind, at))
    steps = sum(drafts.steps(request, 500) for request in range(200))

    assert 200 * 500 / steps == pytest.approx(1 + 0.7 + 0.49, rel=0.01)


@pytest.mark.parametrize("kind", ["colocated", "afd"])
def test_drafts_that_are_never_accepted_only_cost(kind):
    base = load("small") if kind == "afd" else colocated()
    base = base.vary("variation", {"link": 0})
    plain, drafted = (run(base.vary("deployment.mtp", mtp)) for mtp in (None, {"draft": 1, "acceptance": 0.0}))

    assert step(drafted) > step(plain)
    assert drafted.record.steps == plain.record.steps


def test_drafts_that_are_always_accepted_halve_the_steps():
    base = colocated()
    plain, drafted = (run(base.vary("deployment.mtp", mtp)) for mtp in (None, {"draft": 1, "acceptance": 1.0}))

    assert drafted.record.steps == pytest.approx(plain.record.steps / 2, rel=0.1)


@given(
    st.sampled_from(sorted({row[:2] for row in table()})),
    st.integers(1, 400),
    st.sampled_from([2, 8, 16, 72, 144, 320]),
)
def test_more_bytes_never_take_less_time(row, tokens, size):
    owner, kernel = row
    assume(owner in gpus() and kernel == "low_latency")
    for operation in ("dispatch", "combine"):
        one = exchange(kernel, operation, gpu(owner), size)
        less, more = (one.seconds(8 * each * pair_bytes(7168, "fp8")) for each in (tokens, tokens + 1))
        assert less <= more
        assert 0 <= one.held(8 * tokens * pair_bytes(7168, "fp8")) <= less


@given(
    draft=drafts(),
    output_len=st.integers(1, 24),
    slots=st.integers(2, 60),
    requests=st.integers(1, 300),
    overlap=st.booleans(),
)
def test_short_answers_with_drafts_are_summed_up(draft, output_len, slots, requests, overlap):
    """The mean batch of a short run is rounded from tokens and paces, and may lie beyond the tables."""
    found = simulate(
        colocated(
            deployment__mtp=draft,
            deployment__max_num_seqs=slots,
            deployment__two_batch_overlap=overlap,
            workload__output_len=output_len,
            workload__num_requests=requests,
            variation__experts={"law": "uniform"},
        )
    )
    own = found.summary["afdsim"]["pools"]["colocated"]

    assert found.summary["completed"] == requests
    assert sum(own[cause] for cause in CAUSES) == pytest.approx(1.0)
    assert all(own[cause] >= 0 for cause in CAUSES)
