"""What has been returned and dropped leaves nothing behind, and a run holds what it records: counts, not times."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import afdsim
from afdsim.engine.blocks import Blocks
from afdsim.engine.clock import Run
from afdsim.engine.desk import extended
from afdsim.engine.lowering import lower
from afdsim.simulation import demanded
from tests.cases import tiny
from verification.memory import Course
from verification.soak import MB, ROW, growth, recorded, settled

ROUNDS = 24
LENGTHS = {
    "input_len": {"distribution": "constant", "value": 100},
    "output_len": {"distribution": "constant", "value": 12},
}


def objects():
    """Objects that the collector knows of, by type."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        found[type(each)] = found.get(type(each), 0) + 1
    return found


def grown(act):
    """Objects that so many more rounds left behind, by type; a pool of the interpreter may gain a few."""
    for number in range(3):
        act(number)
    before = objects()
    for number in range(ROUNDS):
        act(3 + number)
    after = objects()
    return {kind.__name__: more for kind in after if (more := after[kind] - before.get(kind, 0)) >= ROUNDS // 2}


@pytest.mark.parametrize("engine", ["processes", "kernel"])
def test_runs_that_were_dropped_leave_no_objects(engine):
    asked = tiny(2, workload__num_requests=6, run__engine=engine)

    assert grown(lambda number: afdsim.simulate(asked, seed=number)) == {}


def test_results_and_what_they_rest_on_are_gone_when_dropped():
    found = afdsim.simulate(tiny(2, workload__num_requests=6))
    kept = [weakref.ref(each) for each in (found, found.run.tokens["t_s"], found.scenario)]
    del found
    gc.collect()

    assert [each() for each in kept] == [None] * len(kept)


def test_scenarios_that_were_dropped_leave_no_objects():
    base = afdsim.load("small")

    assert grown(lambda number: base.vary("variation.event", 1e-4 * number)) == {}


def test_points_of_sweeps_leave_no_objects(tmp_path):
    base = tiny(2, workload__num_requests=6, run__engine="processes")

    def sweep(number):
        afdsim.sweep(base, over={"variation.event": [1e-4 * number]}, cache=tmp_path, progress=False)

    assert grown(sweep) == {}


def test_reports_leave_no_figure_open():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    found = afdsim.simulate(tiny(2, workload__num_requests=6, run__engine="processes"))
    before = (figures(), pyplot.get_fignums())
    found.report()

    assert (figures(), pyplot.get_fignums()) == before


def figures():
    """Figures that are alive: other tests may keep some."""
    gc.collect()
    return sum(type(each).__name__ == "Figure" for each in gc.get_objects())


def held(member, asked):
    """Bytes that a run held at its end beyond what it held when a tenth of its requests had ended, and rows since."""
    cell = lower(asked, seed=0)
    marks = []

    def read(share):
        if share >= 0.1 and not marks:
            marks.append((tracemalloc.get_traced_memory()[0], len(run.desk.book.row_times)))

    run = member(cell, demanded(asked, cell, 0), progress=read)
    tracemalloc.start()
    try:
        run.begin()
        run.advance(float("inf"))
        gc.collect()
        marks.append((tracemalloc.get_traced_memory()[0], len(run.desk.book.row_times)))
    finally:
        tracemalloc.stop()
    (first, early), (last, late) = marks
    return last - first, late - early


@pytest.mark.parametrize(("member", "requests"), [(Run, 400), (Blocks, 20_000)])
def test_a_run_holds_no_more_at_its_end_than_early_on_but_for_rows_of_its_record(member, requests):
    open_loop = {"process": "poisson", "request_rate": "3000 req/s"}
    asked = tiny(2, workload={**LENGTHS, "arrival": open_loop, "num_requests": requests})
    more, rows = held(member, asked)

    assert more <= ROW * rows + 100_000  # lists of the interpreter, far fewer bytes than a number per step


def test_steps_that_follow_one_another_are_kept_as_one_range():
    asked = tiny(2, workload__num_requests=3_000, run__engine="kernel")
    cell = lower(asked, seed=0)
    run = Blocks(cell, demanded(asked, cell, 0))
    record = run.execute()

    assert len(run._completed) == 1
    np.testing.assert_array_equal(record.steps_run, np.arange(len(record.steps_run)))


def test_room_for_what_is_to_come_keeps_what_was_there():
    column = np.arange(6.0).reshape(3, 2)

    for blank in (0.0, -1.0, np.nan):
        grown = extended(column, 5, blank)
        np.testing.assert_array_equal(grown[:3], column)
        np.testing.assert_array_equal(grown[3:], np.full((2, 2), blank))


# the check of the verification suite can fail ------------------------------------------------------------------------


def test_a_leak_of_a_number_a_step_is_seen():
    share = np.linspace(0.0, 1.0, 101)
    rows, steps = 3_000_000, 3_000_000
    sound = settled(Course(share.tolist(), (3e8 + ROW * rows * share).tolist(), 10, rows))
    leaking = settled(Course(share.tolist(), (3e8 + (ROW * rows + 8 * steps) * share).tolist(), 10, rows))

    assert np.abs(sound.held - recorded(sound)).max() < 1
    assert np.abs(leaking.held - recorded(leaking)).max() > 16 * MB


def test_a_work_that_grows_to_its_end_is_told_from_one_that_levels_off():
    share = np.linspace(0.05, 1.0, 20)

    assert growth(Course(share.tolist(), (1e8 * share).tolist())) == pytest.approx(50, rel=0.1)
    assert growth(Course(share.tolist(), np.minimum(1e9 * share, 1e8).tolist())) == 0
