"""Cells behind a router: one cell is the run without it, cells that nobody looks at are runs of their own, all agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.books import CAUSES
from afdsim.engine.cell import Cell
from afdsim.engine.desk import Demand
from afdsim.engine.fleet import Request, RoundRobin, Routed, Standing, route
from afdsim.engine.lowering import lower
from afdsim.engine.record import Record
from afdsim.errors import StoppedEarly
from afdsim.results.result import pooled
from afdsim.scenario.document import Scenario
from afdsim.scenario.routing import POLICIES
from afdsim.simulation import Engine, demanded, drawing, execute, member, routing
from tests.cases import fewer, tiny
from tests.golden_cells import CELLS
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import deployments
from tests.laws.test_kv_cache import alike, growing

COLUMNS = ("arrival", "admitted", "first_token", "finish", "input_len", "output_len", "joined", "seat", "counted")


@st.composite
def open_loops(draw: st.DrawFn) -> Scenario:
    """Any small deployment of any kind whose requests arrive, now and then with a horizon."""
    scenario = draw(st.one_of(deployments(), engines(), tensors(), growing(), alike()))
    assume(scenario.workload.arrival.process != "closed_loop")
    horizon = draw(st.sampled_from([None, None, "4ms", "60ms"]))
    return scenario if horizon is None else scenario.vary("run.stop", {"max_sim_time": horizon})


@dataclass(frozen=True)
class Fleet:
    """Some cells of one scenario."""

    cells: list[Cell]
    demand: Demand

    def routed(self, policy: str, engine: Engine, threads: int = 1) -> Routed:
        """Send the requests to the cells."""
        members = [member(cell, self.demand, engine) for cell in self.cells]
        return route(members, self.demand, routing(policy, 0), None, threads=threads)


def fleet(scenario: Scenario, cells: int) -> Fleet:
    cell = lower(scenario, seed=0)
    demand = replace(demanded(scenario, cell, 0), routed=True)
    return Fleet([drawing(cell, 0, number) for number in range(cells)], demand)


def assert_alike(one: Record, other: Record) -> None:
    assert one.ended == other.ended
    assert np.array_equal(one.slices, other.slices)
    assert np.array_equal(one.blame, other.blame)
    assert np.array_equal(one.steps_run, other.steps_run)
    for name in COLUMNS:
        assert np.array_equal(getattr(one.requests, name), getattr(other.requests, name), equal_nan=name[0] in "aff"), (
            name
        )


# laws ----------------------------------------------------------------------------------------------------------------


@given(open_loops(), st.sampled_from(POLICIES), st.sampled_from(["processes", "kernel"]))
def test_one_cell_behind_a_router_is_the_run_without_it(scenario, policy, engine):
    assume(engine == "processes" or lower(scenario, seed=0).refuses is None)
    alone = fleet(scenario, 1)
    single = execute(alone.cells[0], replace(alone.demand, routed=False), engine)

    assert_alike(alone.routed(policy, engine).records[0], single)


@fewer()
@given(open_loops(), st.integers(2, 4), st.sampled_from(POLICIES))
def test_both_engines_send_requests_to_the_same_cells_and_leave_the_same_records(scenario, cells, policy):
    assume(lower(scenario, seed=0).refuses is None)
    one, other = (fleet(scenario, cells).routed(policy, engine) for engine in ("processes", "kernel"))

    assert np.array_equal(one.chosen, other.chosen)
    for mine, its in zip(one.records, other.records, strict=True):
        assert_alike(mine, its)


@fewer()
@given(open_loops(), st.integers(2, 4), st.sampled_from(POLICIES))
def test_threads_change_nothing(scenario, cells, policy):
    engine = "kernel" if lower(scenario, seed=0).refuses is None else "processes"
    one, other = (fleet(scenario, cells).routed(policy, engine, threads) for threads in (1, 3))

    assert np.array_equal(one.chosen, other.chosen)
    for mine, its in zip(one.records, other.records, strict=True):
        assert_alike(mine, its)


@given(open_loops(), st.integers(2, 4), st.sampled_from(POLICIES))
def test_every_request_goes_to_one_cell_and_the_time_of_every_cell_adds_up(scenario, cells, policy):
    made = fleet(scenario, cells)
    engine = "kernel" if made.cells[0].refuses is None else "processes"
    found = made.routed(policy, engine)
    input_len, output_len = made.demand.source.columns(made.demand.num_requests)
    arrivals = made.demand.source.times(made.demand.num_requests)

    for number, record in enumerate(found.records):
        own = np.flatnonzero(found.chosen == number)[: len(record.requests)]
        assert np.array_equal(record.requests.input_len, input_len[own])
        assert np.array_equal(record.requests.output_len, output_len[own])
        assert np.array_equal(record.requests.arrival, arrivals[own])
        assert np.array_equal(record.edges, found.records[0].edges)
        assert record.ended == found.records[0].ended
        lengths = np.diff(record.edges)[:, np.newaxis]
        assert record.slices.sum(axis=2) == pytest.approx(np.broadcast_to(lengths, record.slices.shape[:2]))


@given(open_loops(), st.integers(2, 4))
def test_who_is_sent_where_the_fewest_are_is_what_a_count_of_finishes_says(scenario, cells):
    made = fleet(scenario, cells)
    engine = "kernel" if made.cells[0].refuses is None else "processes"
    found = made.routed("least_requests", engine)
    ends = np.full(made.demand.num_requests, np.inf)
    for number, record in enumerate(found.records):
        own = np.flatnonzero(found.chosen == number)
        assume(len(own) == len(record.requests))  # a run that ends early forgets who came after it
        ends[own] = np.where(np.isnan(record.requests.finish), np.inf, record.requests.finish)
        refused = record.requests.refused.astype(bool)
        assume(not refused.any())
    arrivals = made.demand.source.times(made.demand.num_requests)
    for request, at in enumerate(arrivals):
        there = [int((ends[:request][found.chosen[:request] == cell] >= at).sum()) for cell in range(cells)]
        assert found.chosen[request] == int(np.argmin(there))


class Own:
    """The requests of one cell, as a source."""

    def __init__(self, demand: Demand, chosen: np.ndarray) -> None:
        self._arrivals = demand.source.times(demand.num_requests)[chosen]
        self._lengths = [column[chosen] for column in demand.source.columns(demand.num_requests)]

    def times(self, n: int) -> np.ndarray:
        return self._arrivals[:n]

    def columns(self, n: int) -> tuple[np.ndarray, ...]:
        return tuple(column[:n] for column in self._lengths)


class OwnGroups:
    """Which of them begin alike."""

    def __init__(self, demand: Demand, chosen: np.ndarray) -> None:
        assert demand.prefixes is not None
        self._groups = demand.prefixes.first(demand.num_requests)[chosen]

    def first(self, count: int) -> np.ndarray:
        return self._groups[:count]


@given(open_loops(), st.integers(2, 3))
def test_cells_in_turn_are_runs_of_their_own(scenario, cells):
    made = fleet(scenario, cells)
    engine = "kernel" if made.cells[0].refuses is None else "processes"
    found = made.routed("round_robin", engine)
    assume(made.demand.horizon == np.inf)
    for number, (cell, record) in enumerate(zip(made.cells, found.records, strict=True)):
        own = np.flatnonzero(found.chosen == number)
        assume(len(own))
        demand = replace(made.demand, source=Own(made.demand, own), num_requests=len(own), routed=False)
        if demand.prefixes is not None:
            demand = replace(demand, prefixes=OwnGroups(made.demand, own))
        alone = execute(cell, demand, engine)

        assert np.array_equal(alone.requests.finish, record.requests.finish, equal_nan=True)
        assert np.array_equal(alone.boundaries.time, record.boundaries.time)


# results -------------------------------------------------------------------------------------------------------------


def three(policy: str = "least_requests", **changes: object) -> Scenario:
    scenario = CELLS["afd_open_warmup"]().vary("router", {"replicas": 3, "policy": policy})
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    return scenario


def test_the_result_of_a_fleet_has_every_cell_and_adds_them_up():
    result = afdsim.simulate(three())
    own = result.summary["afdsim"]
    one = afdsim.simulate(three().vary("router", None)).summary["afdsim"]

    assert own["gpus"] == 3 * one["gpus"] == len(result.gpus)
    assert sum(each["completed"] for each in own["cells"]) == result.summary["completed"]
    assert "tgs" not in own
    assert all("tgs" not in each for each in own["cells"])
    assert set(result.requests["cell"]) == set(result.gpus["cell"]) == {0, 1, 2}
    assert list(result.requests["request_id"]) == list(range(len(result.requests)))
    assert result.requests["arrival_s"].is_monotonic_increasing
    shares = [sum(pool[cause] for cause in CAUSES) for pool in own["pools"].values()]
    assert shares == pytest.approx([1.0] * len(shares))


def test_the_throughput_of_a_fleet_is_the_sum_of_its_cells():
    scenario = three(workload__num_requests=6000, workload__output_len={"distribution": "constant", "value": 3})
    result = afdsim.simulate(scenario)
    own = result.summary["afdsim"]

    assert own["load"] == "STABLE"
    assert sum(each["output_throughput"] for each in own["cells"]) == pytest.approx(result.summary["output_throughput"])
    assert sum(each["tgs"] for each in own["cells"]) / 3 == pytest.approx(own["tgs"])
    assert own["tgs_ci"][0] < own["tgs"] < own["tgs_ci"][1]


def test_a_folder_of_a_fleet_is_read_back(tmp_path):
    result = afdsim.simulate(three())
    result.save(tmp_path / "fleet")

    assert afdsim.Result.load(tmp_path / "fleet").summary == result.summary


def test_cells_draw_factors_of_their_own():
    scenario = three(
        "round_robin", variation__event=0.3, workload__arrival={"process": "constant", "request_rate": "9/s"}
    )
    finish = afdsim.simulate(scenario).requests

    assert len({*(finish["first_token_s"] - finish["arrival_s"]).round(12)}) > 3


@pytest.mark.parametrize("policy", POLICIES[:4])
def test_cells_that_get_everything_at_once_end_together(policy):
    lengths = {"distribution": "lognormal", "mean": 64, "cv": 1.0, "max": 400}
    burst = {"process": "poisson", "request_rate": "inf"}
    scenario = three(policy, workload__arrival=burst, workload__output_len=lengths, run__warmup=None)
    result = afdsim.simulate(scenario.vary("run.engine", "kernel"))
    seconds = result.gpus[list(CAUSES)].sum(axis=1)

    assert result.requests["finish_s"].max() == pytest.approx(result.summary["duration"])
    assert seconds.to_numpy() == pytest.approx([result.summary["duration"]] * len(seconds))
    lost = sum(pool[cause] for pool in result.summary["afdsim"]["pools"].values() for cause in CAUSES[1:4])
    shares = [each["share"] for each in result.summary["afdsim"]["blame"]["kinds"].values()]
    assert sum(shares) == pytest.approx(lost / len(result.summary["afdsim"]["pools"]))


@pytest.mark.parametrize("engine", ["kernel", "processes"])
def test_who_is_stopped_early_keeps_what_there_is(engine):
    made = fleet(three().vary("router", None), 3)
    told = list[float]()

    def enough(share: float) -> None:
        told.append(share)
        if share > 0.5:
            raise StoppedEarly

    found = route([member(cell, made.demand, engine) for cell in made.cells], made.demand, RoundRobin(), enough)

    assert len(found.chosen) == made.demand.num_requests
    assert len({record.ended for record in found.records}) == 1
    assert sum(int((record.requests.finish > 0).sum()) for record in found.records) < made.demand.num_requests
    assert told == sorted(told)


@pytest.mark.parametrize("place", [-1, 3])
def test_a_router_that_names_no_cell_is_told(place):
    router = type("Astray", (), {"choose": lambda self, request, cells: place})()

    with pytest.raises(afdsim.SimulationError, match=f"from 0 to 2 .got {place}"):
        afdsim.simulate(three(), router=router)


def test_a_router_without_cells_is_refused():
    with pytest.raises(afdsim.SimulationError, match="router= needs cells"):
        afdsim.simulate(three().vary("router", None), router=Last())


def test_cells_of_several_seeds_are_added_up():
    each = [afdsim.simulate(three(), seed=seed) for seed in (0, 1)]
    together = pooled(each)["afdsim"]["cells"]

    for number, cell in enumerate(together):
        own = [one.summary["afdsim"]["cells"][number] for one in each]
        assert cell["completed"] == sum(one["completed"] for one in own)
        assert cell["mean_tpot_ms"] == pytest.approx(np.mean([one["mean_tpot_ms"] for one in own]))


class Last:
    """A router of one's own."""

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        return len(cells) - 1


def test_a_router_of_ones_own_takes_the_place_of_the_policy():
    result = afdsim.simulate(three(), router=Last())

    assert set(result.requests["cell"]) == {2}
    assert any("routed by" in note and "Last" in note for note in result.notes)


class Looking:
    """Notes what it sees of every cell."""

    def __init__(self, look: Callable[[Standing], float]) -> None:
        self.look, self.seen = look, list[list[float]]()

    def choose(self, request: Request, cells: Sequence[Standing]) -> int:
        self.seen.append([self.look(cell) for cell in cells])
        return RoundRobin().choose(request, cells)


def test_a_router_sees_the_kv_cache_that_is_taken_and_waited_for():
    scenario = three(workload__arrival={"process": "constant", "request_rate": "100000 req/s"})
    router = Looking(lambda cell: cell.kv)
    made = fleet(scenario.vary("router", None), 3)
    route([member(cell, made.demand, "kernel") for cell in made.cells], made.demand, router, None)
    seen = np.array(router.seen)

    assert seen[0].tolist() == [0.0, 0.0, 0.0]
    assert [(row > 0).tolist() for row in seen[1:4]] == [[True, False, False], [True, True, False], [True, True, True]]
    asked = made.demand.source.columns(1)
    wanted = made.cells[0].deployment.kv_cache.reserved(int(asked[0][0] + asked[1][0]))
    whole = made.cells[0].deployment.kv_budget * made.cells[0].deployment.attention.ranks
    assert seen[1, 0] == pytest.approx(wanted / whole, rel=1e-6)


def test_a_trace_of_a_fleet_is_refused():
    with pytest.raises(afdsim.SimulationError, match="a trace shows one cell"):
        afdsim.simulate(three(), observer=lambda step, trace: None)


def test_the_report_has_a_row_for_every_cell():
    from afdsim.results.terminal import terminal

    text = terminal(afdsim.simulate(three()))

    assert "Router least_requests over 3 cells" in text
    assert all(f"cell[{number}]" in text for number in range(3))
    assert "Cells behind the router" in text


def test_a_single_cell_has_no_cells_in_its_summary():
    assert "cells" not in afdsim.simulate(tiny(3)).summary["afdsim"]
