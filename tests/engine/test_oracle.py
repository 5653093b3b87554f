"""Both engines do what simulators say that share nothing with them but durations.

`shared/oracle` holds two small simulators, written from the text of MODEL.md alone: one event heap, one plain object per
request. They know the ports of the first edition, not shared ones, and one attention group. They let requests wait for a
micro-batch; `OneQueueARank` is the same kind of text for what MODEL.md says now.
"""

import importlib
import sys
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.engine.schedule import Compute
from afdsim.scenario.document import Scenario
from afdsim.simulation import demanded
from tests.cases import Outcome, place, run, tiny
from tests.engine.durations import AfdDurations, ColocatedDurations, shape, stages, work
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import deployments

EXACT = {"event": 0.0, "step": 0.0, "link": 0.0, "spike": None}
QUICK, MANY = settings(max_examples=20, derandomize=True), settings(max_examples=100, derandomize=True)


@pytest.fixture(scope="module")
def oracles(shared):
    """The modules of both simulators."""
    folder = shared / "oracle"
    if not folder.is_dir():
        pytest.skip("no independent simulators on this machine")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("afd_oracle"), importlib.import_module("colocated_oracle")
    sys.path.remove(str(folder))


def exact(scenario: Scenario) -> Scenario:
    """The scenario without jitter, and without what the simulators do not know: shared ports, fabrics, groups, host time."""
    scenario = scenario.varied({f"variation.{key}": value for key, value in EXACT.items()})
    if scenario.deployment.type == "afd":
        plain = {"uplinks": None, "degraded": {}, "nics_per_instance": None, "link.ports": 1, "link.split": True}
        scenario = scenario.varied({f"network.{key}": value for key, value in plain.items()})
        scenario = scenario.varied({"deployment.attention.groups": 1, "deployment.host_overhead": "0s"})
    shared = scenario.deployment.type == "afd" and scenario.network.type == "shared"
    return scenario.vary("network.type", "ports") if shared else scenario


class OneQueueARank:
    """Over the seats of a simulator: one queue a rank; `waiting` holds who is called to a seat."""

    def __init__(self, *given):
        super().__init__(*given)
        self.lines = [deque() for _ in self.kv_free]

    def emptiest(self):
        def crowd(seat):
            counted = [request for request in self.lines[seat[0]] if request.seat == seat]
            sequences = len(self.running[seat]) + len(self.waiting[seat]) + len(counted)
            return sequences >= self.shape.slots[seat[1]], sequences, seat

        return min(self.seats, key=crowd)

    def queue(self, request, seat):
        request.seat = seat
        self.lines[seat[0]].append(request)

    def welcome(self, request):
        self.queue(request, self.emptiest())
        self.call(request.seat[0])

    def arrive(self, now):
        while (when := self.next_arrival()) <= now:
            self.asked += 1
            if (request := self.issue(when, when >= self.work.warmup)) is not None:
                self.welcome(request)

    def populate(self):
        self.populating = True
        for _ in range(self.work.concurrency):
            self.welcome(self.issue_fitting(0.0))
        for group in self.waiting.values():
            for nth, request in enumerate(group):
                request.age = (2 * nth + 1) * request.output_len // (2 * len(group))
        self.populating = False

    def call(self, rank, here=None):
        line = self.lines[rank]
        while line:
            taken = {seat: len(self.running[seat]) + len(self.waiting[seat]) for seat in self.seats}
            free = [seat for seat in self.seats if seat[0] == rank and taken[seat] < self.shape.slots[seat[1]]]
            need = self.kv_need(line[0].input_len + line[0].output_len)
            if not free or need > self.kv_free[rank]:
                return
            request = line.popleft()
            request.seat = min(free, key=lambda seat: (taken[seat], seat[1] != here, seat))
            self.kv_free[rank] -= need
            self.waiting[request.seat].append(request)

    def join(self, ranks, j, now):
        for rank in ranks:
            self.call(rank, j)
            # the simulator takes the cache when it lets somebody in
            self.kv_free[rank] += sum(self.kv_need(r.input_len + r.output_len) for r in self.waiting[rank, j])
            super().join(range(rank, rank + 1), j, now)


def seated(afd, simulator, *given):
    """A simulator with such seats."""
    found = simulator(*given)
    seating = type("Seating", (OneQueueARank, afd.Seating), {})
    found.seating = seating(found.seating.shape, found.seating.work, found.seating.kv_need)
    return found


def assert_requests(found, outcome: Outcome) -> None:
    """Requests and boundaries are those of the simulator `found`."""
    record, mine = outcome.record, found.seating.requests
    requests, rows = record.requests, record.boundaries
    order = np.lexsort((rows.unit, rows.micro_batch, rows.step))
    its = sorted(found.rows)

    assert [(row[0], row[1], row[2]) for row in its] == list(
        zip(rows.step[order].tolist(), rows.micro_batch[order].tolist(), rows.unit[order].tolist(), strict=True)
    )
    assert close(rows.time[order], [row[3] for row in its])
    if outcome.cell.drafts is None:
        assert rows.batch[order].tolist() == [row[4] for row in its]
    assert len(mine) == len(requests)
    assert requests.refused.tolist() == [each.refused for each in mine]
    assert requests.counted.tolist() == [each.counted for each in mine]
    assert close(requests.arrival, [each.arrival for each in mine])
    assert close(requests.admitted, [np.nan if each.admitted is None else each.admitted for each in mine])
    assert close(requests.first_token, [each.tokens[0] if each.tokens else np.nan for each in mine])
    ended = [each.tokens[-1] if each.tokens and each.left == 0 else np.nan for each in mine]
    assert close(requests.finish, ended)
    assert record.ended == pytest.approx(found.ended, rel=1e-9)


def close(column, expected):
    return np.allclose(column, expected, rtol=1e-9, atol=0.0, equal_nan=True)


def assert_spans(spans, outcome: Outcome) -> None:
    """Every span (step, place in a trace, begin, end) is in the trace of its step, where that was completed."""
    kept = [span for span in spans if span[0] in outcome.traces]
    assert {span[0] for span in kept} == set(outcome.traces)
    for column, name in ((2, "start"), (3, "finish")):
        found = [getattr(outcome.traces[step], name)[at] for step, at, *_ in kept]
        assert close(found, [span[column] for span in kept])


def afd_both(oracles, scenario: Scenario, engine: str):
    """What the simulator of AFD finds, and the run."""
    oracle, scenario = oracles[0], exact(scenario)
    outcome = run(scenario, engine)
    cell = outcome.cell
    asked = work(cell, demanded(scenario, cell, 0), len(outcome.record.requests))
    described = oracle.Shape(**shape(scenario, cell))
    found = seated(oracle, oracle.Afd, described, oracle.Workload(**asked), AfdDurations(cell)).run()
    return found, outcome


def afd_agrees(oracles, scenario: Scenario, engine: str) -> None:
    found, outcome = afd_both(oracles, scenario, engine)
    cell = outcome.cell

    assert_requests(found, outcome)
    spans = []
    for what, unit, step, layer, j, begin, end in found.spans:
        whose = {"layer": max(layer - 1, 0), "micro_batch": j, "unit": unit + (cell.seated if what == "ffn" else 0)}
        spans.append((step, place(cell.schedule, what, **whose), begin, end))
    assert_spans(spans, outcome)


def colocated_both(oracles, scenario: Scenario, engine: str):
    """What the simulator of colocated deployments finds, and the run."""
    (afd, oracle), scenario = oracles, exact(scenario)
    outcome = run(scenario, engine)
    cell = outcome.cell
    step = oracle.Step(stages(cell), cell.micro_batches)
    asked = work(cell, demanded(scenario, cell, 0), len(outcome.record.requests))
    described = afd.Shape(**shape(scenario, cell))
    found = seated(afd, oracle.Colocated, described, step, afd.Workload(**asked), ColocatedDurations(cell)).run()
    return found, outcome


def colocated_agrees(oracles, scenario: Scenario, engine: str) -> None:
    found, outcome = colocated_both(oracles, scenario, engine)
    cell = outcome.cell

    assert_requests(found, outcome)
    places = [at for at, turn in zip(cell.schedule.at, cell.schedule.turns, strict=False) if isinstance(turn, Compute)]
    assert_spans([(step, places[number] + u, begin, end) for u, step, number, begin, end in found.spans], outcome)


COLOCATED = st.one_of(engines(), tensors())


@pytest.mark.parametrize("engine", ["processes", "kernel"])
@QUICK
@given(deployments())
def test_afd_agrees_with_an_independent_simulator(oracles, engine, scenario):
    afd_agrees(oracles, scenario, engine)


@pytest.mark.parametrize("engine", ["processes", "kernel"])
@QUICK
@given(COLOCATED)
def test_colocated_agrees_with_an_independent_simulator(oracles, engine, scenario):
    colocated_agrees(oracles, scenario, engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "kernel"])
@MANY
@given(deployments())
def test_afd_agrees_with_an_independent_simulator_in_many_cells(oracles, engine, scenario):
    afd_agrees(oracles, scenario, engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "kernel"])
@MANY
@given(COLOCATED)
def test_colocated_agrees_with_an_independent_simulator_in_many_cells(oracles, engine, scenario):
    colocated_agrees(oracles, scenario, engine)


@pytest.mark.parametrize("engine", ["processes", "kernel"])
def test_a_simulator_with_a_slower_operation_disagrees(oracles, engine):
    class Slower(AfdDurations):
        def attention(self, layer, u, batches, contexts):
            return super().attention(layer, u, batches, contexts) * (1 + 1e-6)

    oracle, scenario = oracles[0], tiny(attention=2, ffn=2, network__type="ports")
    outcome = run(scenario, engine)
    asked = work(outcome.cell, demanded(scenario, outcome.cell, 0), len(outcome.record.requests))
    found = oracle.Afd(
        oracle.Shape(**shape(scenario, outcome.cell)), oracle.Workload(**asked), Slower(outcome.cell)
    ).run()

    with pytest.raises(AssertionError):
        assert_requests(found, outcome)
