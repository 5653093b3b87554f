"""Every lost second has one culprit, the sums over culprits are the causes, and who was made slow is named first."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from afdsim.engine import culprits
from afdsim.engine.books import BLOCK, CAUSES
from afdsim.engine.cell import Array, Cell
from afdsim.engine.lowering import lower
from afdsim.engine.record import Record
from afdsim.engine.variation import Variation
from afdsim.results import blame, critical
from afdsim.results import outcome as columns
from afdsim.scenario.document import Scenario, load
from afdsim.simulation import demanded, execute
from tests.cases import Stages, Wires, run, tiny
from tests.golden_cells import CELLS
from tests.laws.test_colocated import colocated, engines, tensors
from tests.laws.test_equivalence import deployments

EVERY = st.one_of(deployments(), engines(), tensors())
SEEDS = range(20)
LOST = [CAUSES[cause] for cause in culprits.LOST]
CLOSE = {"rel": 1e-9, "abs": 1e-12}


def lost_by_unit(record: Record, cell: Cell) -> Iterator[dict[str, float]]:
    """Seconds of the window by cause, over the culprits and then over the parts of every unit in turn."""
    seconds, at = record.blamed, 0
    for found in (columns_ for account in culprits.accounts(cell) for columns_ in account):
        own = seconds[at : at + len(found)]
        at += len(found)
        yield {c: sum(own[i] for i, each in enumerate(found) if CAUSES[each.cause] == c) for c in LOST}
    assert at == len(seconds)


def assert_adds_up(record: Record, cell: Cell) -> None:
    sums, causes = list(lost_by_unit(record, cell)), record.causes[:, culprits.LOST]
    for unit in range(len(causes)):
        own = dict(zip(LOST, causes[unit].tolist(), strict=True))

        assert sums[2 * unit] == pytest.approx(own, **CLOSE)
        assert sums[2 * unit + 1] == pytest.approx(own, **CLOSE)
    assert record.blamed.min(initial=0.0) >= -1e-12


# sums ----------------------------------------------------------------------------------------------------------------


@given(EVERY)
def test_culprits_and_parts_add_up_to_the_causes_of_every_unit_in_every_window(scenario):
    outcome = run(scenario)
    record = outcome.record
    assert_adds_up(record, outcome.cell)
    last = len(record.slices) - 1
    for place in sorted({1, BLOCK - 1, BLOCK, last // 2, last} & set(range(last + 1))):
        assert_adds_up(record.since(place), outcome.cell)
    if last > BLOCK + 3:
        once, twice = record.since(BLOCK + 3), record.since(3).since(BLOCK)

        assert_adds_up(twice, outcome.cell)
        assert once.blamed == pytest.approx(twice.blamed, **CLOSE)


@given(EVERY)
def test_both_engines_blame_the_same_and_keep_the_same_steps(scenario):
    one, other = (run(scenario, engine).record for engine in ("processes", "kernel"))

    assert np.array_equal(one.blame, other.blame)
    assert [each.step for each in one.samples] == [each.step for each in other.samples]
    for mine, its in zip(one.samples, other.samples, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, its, strict=True))


@given(EVERY)
def test_the_rows_of_a_unit_add_up_to_what_its_gpus_lost(scenario):
    outcome = run(scenario)
    gpus = columns.gpus(outcome.record, outcome.cell)
    found = blame.columns(outcome.record, outcome.cell, gpus)
    rows = list(zip(found["pool"], found["cause"], found["gpu_s"], strict=True))

    for pool in outcome.cell.pools:
        own = gpus["pool"] == pool.name
        for cause in LOST:
            seconds = sum(lost for name, why, lost in rows if (name, why) == (pool.name, cause))
            assert seconds == pytest.approx(gpus[cause][own].sum(), **CLOSE)


@pytest.mark.parametrize("cell", ["afd_open_idle", "afd_open_idle_gpu", "afd_open_warmup", "ep_open_idle_host"])
def test_a_parked_open_loop_adds_up_wherever_its_window_begins(cell):
    outcome = run(CELLS[cell]())

    for place in range(0, len(outcome.record.slices), 7):
        assert_adds_up(outcome.record.since(place), outcome.cell)
    assert len(outcome.record.slices) == 1 or outcome.record.since(0).blame.shape == outcome.record.blame.shape


def test_a_lost_second_of_blame_is_seen():
    outcome = run(tiny(3, attention=2, ffn=2))
    place = int(outcome.record.blamed.argmax())
    blame_ = outcome.record.blame.copy()
    blame_[0, place] *= 1 + 1e-6

    with pytest.raises(AssertionError):
        assert_adds_up(replace(outcome.record, blame=blame_), outcome.cell)


# the slow one is named first -----------------------------------------------------------------------------------------

JITTER = {"variation__event": 0.05, "variation__link": 0.027}
BALANCED = Stages(attention=1e-3, ffn=1e-3, head=1e-4)


def afd(**changes: object) -> Scenario:
    """Both pools equally busy, on a network that takes little time."""
    link = {"network__type": "shared", "network__link": {"bandwidth": "400Gbps", "latency": "2us"}}
    return tiny(4, attention=2, ffn=2, **{**link, **JITTER, **changes})


def servers(**changes: object) -> Scenario:
    return colocated(3, deployment__instances=4, **JITTER, **changes)


def first(scenario: Scenario, seed: int, kind: str = "peer", cost: Stages | None = None) -> tuple[str, str]:
    """Who is blamed the most of a kind, and whose operations are most of the critical path."""
    return named(lower(scenario, seed=seed, cost=cost), scenario, seed, kind)


def named(cell: Cell, scenario: Scenario, seed: int, kind: str) -> tuple[str, str]:
    record = execute(cell, demanded(scenario, cell, seed), "kernel")
    found = blame.columns(record, cell, columns.gpus(record, cell))
    path = critical.told(record, cell)
    assert path is not None
    return next(iter(blame.sums([found], "culprit", kind))), next(iter(path["units"]))


@pytest.mark.parametrize("slow", ["attention[0]", "attention[1]", "ffn[0]", "ffn[1]"])
def test_a_straggler_of_either_side_is_named_first_among_peers(slow):
    scenario = afd(variation__straggler={slow: 1.3})

    assert {first(scenario, seed, cost=BALANCED) for seed in SEEDS} == {(slow, slow)}


def test_a_colocated_straggler_is_named_first_among_peers():
    scenario = servers(variation__straggler={"instance[2]": 1.3})

    assert {first(scenario, seed) for seed in SEEDS} == {("instance[2]", "instance[2]")}


def test_a_slow_rank_is_named_first_among_peers_at_gpu_granularity():
    scenario = servers(run__granularity="gpu", variation__straggler={"instance[1]": 1.3})

    assert {first(scenario, seed)[0] for seed in SEEDS} <= {"instance[1].gpu[0]", "instance[1].gpu[1]"}


@pytest.mark.parametrize(("scenario", "cost"), [(afd(), BALANCED), (servers(), None)], ids=["afd", "colocated"])
def test_without_a_straggler_it_is_now_this_one_now_that(scenario, cost):
    assert len({first(scenario, seed, cost=cost)[0] for seed in SEEDS}) > 1


@pytest.mark.parametrize("slow", ["attention[1]", "ffn[0]"])
def test_where_flights_hide_who_was_waited_for_the_critical_path_names_the_straggler(slow):
    """A gap in which results fly already is the network's, however late they were sent."""
    scenario = load("step3_2a2f_4k").vary("variation.straggler", {slow: 1.3})
    scenario = scenario.vary("workload.output_len", {"distribution": "constant", "value": 12})

    assert {first(scenario.vary("workload.num_requests", 3072), seed)[1] for seed in range(3)} == {slow}


@dataclass(frozen=True, kw_only=True)
class SlowNic(Variation):
    """Messages of some copies take longer by a factor, as on a link that has fallen back to a lower rate."""

    factor: Array
    """By place of a step's transfers."""

    def transfers(self, steps: range) -> Array:
        return np.asarray(super().transfers(steps) * np.tile(self.factor, len(steps)))


def with_slow_nic(cell: Cell, name: str) -> Cell:
    """The cell with one unit whose messages, out and in, take four times as long."""
    unit = next(u for u in range(cell.schedule.units) if blame.Names(cell=cell).unit(u) == name)
    factor, wiring = np.ones(int(cell.variation.pairs[-1])), cell.wiring
    ends: dict[int, set[int]] = {}
    for u, _, low, high in wiring.leaving.tolist():
        for x in range(low, high):
            ends.setdefault(x, set()).add(u)
    for u, _, low, high in wiring.arriving.tolist():
        for x in wiring.order[low:high].tolist():
            ends[x].add(u)
    draws = cell.variation.wires[0].draws
    for x, both in ends.items():
        if unit in both:
            factor[int(wiring.draw[x]) : int(wiring.draw[x]) + draws] = 4.0
    known = {each.name: getattr(cell.variation, each.name) for each in fields(Variation)}
    return replace(cell, variation=SlowNic(**known, factor=factor))


def first_port(seed: int, slow: str = "") -> str:
    """The port that is blamed the most where messages take a fifth of the time of operations."""
    cost, network = Stages(attention=1e-4, ffn=1e-4, head=1e-5), Wires(out=2e-5, back=2e-5)
    cell = lower(afd(), seed=seed, cost=cost, network=network)
    return named(with_slow_nic(cell, slow) if slow else cell, afd(), seed, "port")[0]


@pytest.mark.parametrize("slow", ["attention[0]", "attention[1]", "ffn[0]", "ffn[1]"])
def test_the_port_of_a_slow_nic_is_named_first_among_ports(slow):
    assert {first_port(seed, slow) for seed in SEEDS} == {f"{slow} egress"}


def test_without_a_slow_nic_it_is_now_this_port_now_that():
    assert len({first_port(seed) for seed in SEEDS}) > 1


# the critical path ---------------------------------------------------------------------------------------------------


@given(EVERY)
def test_the_critical_path_adds_up_to_the_step_and_has_no_slack(scenario):
    outcome = run(scenario)
    assume(outcome.record.samples)
    steps = critical.Steps(cell=outcome.cell)
    for sample in outcome.record.samples[:4]:
        begin, end = steps.window(sample)
        path, slacks = steps.path(sample), steps.slacks([sample])

        assert sum(link.end - link.begin for link in path) == pytest.approx(end - begin, **CLOSE)
        assert (path[0].end, path[-1].begin) == (end, begin)
        assert all(later.begin == earlier.end for later, earlier in pairwise(path))
        least = min(float(room.min()) for room in slacks.values())
        assert least == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("cell", ["afd_1_layer", "afd_1_layer_open"])
def test_a_step_that_overtakes_the_boundaries_of_the_one_before_has_a_critical_path_too(cell):
    outcome = run(CELLS[cell](), "processes")
    steps = critical.Steps(cell=outcome.cell)

    for sample in outcome.record.samples:
        begin, end = steps.window(sample)
        assert sum(link.end - link.begin for link in steps.path(sample)) == pytest.approx(end - begin, **CLOSE)
    assert_adds_up(outcome.record, outcome.cell)
