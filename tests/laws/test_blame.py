"""Every lost second has one culprit, the sums over culprits are the causes, and who was made slow is named first."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from afdsim.engine import culprits
from afdsim.engine.books import BLOCK, CAUSES
from afdsim.engine.cell import Cell
from afdsim.engine.lowering import lower
from afdsim.engine.record import Record
from afdsim.results import blame, critical
from afdsim.results import outcome as columns
from afdsim.scenario.document import Scenario, load
from afdsim.simulation import demanded, execute
from tests.cases import run, tiny
from tests.golden_cells import CELLS
from tests.laws.test_colocated import colocated, engines, tensors
from tests.laws.test_equivalence import deployments
from tests.laws.test_failures import fragile

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


@given(fragile())
def test_crashes_are_blamed_alike_by_both_engines_and_add_up(scenario):
    one, other = (run(scenario, engine) for engine in ("processes", "kernel"))

    assert_adds_up(one.record, one.cell)
    assert np.array_equal(one.record.blame, other.record.blame)
    assert [each.step for each in one.record.samples] == [each.step for each in other.record.samples]


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

SHORT = {"distribution": "constant", "value": 6}


def main(**changes: object) -> Scenario:
    """The main scenario, over a few steps."""
    scenario = load("step3_2a2f_4k").vary("workload.output_len", SHORT).vary("workload.num_requests", 1024)
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    return scenario


def servers(**changes: object) -> Scenario:
    return colocated(3, deployment__instances=4, variation__event=0.05, variation__link=0.027, **changes)


def first(scenario: Scenario, seed: int, kind: str = "peer") -> tuple[str, str]:
    """Who is blamed the most of a kind, and whose operations are most of the critical path."""
    cell = lower(scenario, seed=seed)
    record = execute(cell, demanded(scenario, cell, seed), "kernel")
    found = blame.columns(record, cell, columns.gpus(record, cell))
    path = critical.told(record, cell)
    assert path is not None
    return next(iter(blame.sums([found], "culprit", kind))), next(iter(path["units"]))


@pytest.mark.parametrize("slow", ["attention[0]", "attention[1]", "ffn[0]", "ffn[1]"])
def test_a_straggler_of_either_side_is_named_first_among_peers(slow):
    """Also where gaps show only while results fly: those of an FFN instance beside busier attention."""
    scenario = main(variation__straggler={slow: 1.3})

    assert {first(scenario, seed) for seed in SEEDS} == {(slow, slow)}


def test_a_colocated_straggler_is_named_first_among_peers():
    scenario = servers(variation__straggler={"instance[2]": 1.3})

    assert {first(scenario, seed) for seed in SEEDS} == {("instance[2]", "instance[2]")}


def test_a_slow_rank_is_named_first_among_peers_at_gpu_granularity():
    scenario = servers(run__granularity="gpu", variation__straggler={"instance[1]": 1.3})

    assert {first(scenario, seed)[0] for seed in SEEDS} <= {"instance[1].gpu[0]", "instance[1].gpu[1]"}


@pytest.mark.parametrize("scenario", [main(), servers()], ids=["afd", "colocated"])
def test_without_a_straggler_it_is_now_this_one_now_that(scenario):
    assert len({first(scenario, seed)[0] for seed in SEEDS}) > 1


@pytest.mark.parametrize("slow", ["attention[0]", "attention[1]", "ffn[0]", "ffn[1]"])
def test_the_port_of_a_slow_nic_is_named_first_among_ports(slow):
    scenario = main(network__degraded={slow: 0.5})

    assert {first(scenario, seed, "port")[0].split()[0] for seed in SEEDS} == {slow}


@pytest.mark.parametrize("slow", ["attention[1].nic[5]", "ffn[0].nic[3]"])
def test_one_slow_nic_of_an_instance_is_named_where_every_gpu_is_modelled(slow):
    scenario = main(network__degraded={slow: 0.25}, run__granularity="gpu")

    assert {first(scenario, seed, "port")[0].split()[0] for seed in range(3)} == {slow}


@pytest.mark.parametrize("pool", ["attention", "ffn"])
def test_a_thread_that_polls_late_is_blamed_as_a_host(pool):
    scenario = main(variation__spike={"probability": 0.01, "seconds": "5 ms", "where": "link"})
    outcome = run(scenario)
    found = blame.columns(outcome.record, outcome.cell, columns.gpus(outcome.record, outcome.cell))

    assert any(name.startswith(pool) and name.endswith("host") for name in blame.sums([found], "culprit", "host"))


def test_uplinks_that_are_too_narrow_are_blamed():
    link = {"network__uplinks": {"oversubscription": 4.0, "latency": "1 us"}}
    outcome = run(main(**link))
    found = blame.columns(outcome.record, outcome.cell, columns.gpus(outcome.record, outcome.cell))
    kinds = blame.sums([found], "kind")

    assert kinds["uplink"] > kinds["port"]


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
