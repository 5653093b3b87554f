"""Watching a run: both engines see the same bits, nothing else changes, and busy seconds are those of the books."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.books import BUSY
from afdsim.engine.lowering import lower
from afdsim.engine.record import Record
from afdsim.engine.watch import FINEST, MOST
from afdsim.results import excerpt
from afdsim.scenario.document import Scenario
from afdsim.simulation import Engine, demanded, execute
from tests.cases import Stages, Wires, fewer
from tests.laws.test_blame import EVERY
from tests.laws.test_failures import fragile, lone
from tests.laws.test_mixed import mixing

ANY = st.one_of(EVERY, mixing(), fragile())


def record(scenario: Scenario, engine: Engine, *, watched: bool = True, **models: object) -> Record:
    cell = lower(scenario, seed=0, **models)
    return execute(cell, replace(demanded(scenario, cell, 0), watched=watched), engine)


def pipeline(scenario: Scenario, found: Record) -> dict[str, np.ndarray]:
    return excerpt.pipeline(found, lower(scenario, seed=0))


def assert_alike(one: object, other: object) -> None:
    """The same bits, however deep."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    elif isinstance(one, dict):
        assert_alike(list(one.items()), list(other.items()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_alike(mine, its)
    elif hasattr(one, "__dataclass_fields__"):
        for each in fields(one):
            assert_alike(getattr(one, each.name), getattr(other, each.name))
    else:
        assert one == other or (np.isnan(one) and np.isnan(other))


@fewer(2)
@given(ANY)
def test_both_engines_see_the_same(scenario):
    one, other = (record(scenario, engine) for engine in ("processes", "kernel"))

    assert_alike(one.watch, other.watch)
    assert_alike(pipeline(scenario, one), pipeline(scenario, other))


@pytest.mark.parametrize("engine", ["kernel", "processes"])
@fewer(5)
@given(ANY)
def test_watching_changes_nothing_else(engine, scenario):
    seen, blind = record(scenario, engine), record(scenario, engine, watched=False)

    assert seen.watch is not None
    assert blind.watch is None
    assert_alike(replace(seen, watch=None), blind)


@fewer(2)
@given(ANY)
def test_slices_cover_the_run_and_nobody_is_busy_for_longer_than_one_lasts(scenario):
    found = record(scenario, "kernel")
    width, busy = float(found.watch.width[0]), found.watch.busy

    assert (len(busy) - 1) * width < found.ended <= len(busy) * width or len(busy) == found.ended == 0
    assert MOST / 2 < len(busy) <= MOST or found.ended <= MOST * FINEST / 2
    assert (busy >= 0.0).all()
    assert (busy <= width * (1 + 1e-9)).all()


@fewer(2)
@given(ANY)
def test_busy_seconds_of_a_batch_are_those_of_the_books(scenario):
    arrival = {"process": "poisson", "request_rate": "inf req/s"}  # all at once, so that the window is the whole run
    found = record(scenario.vary("workload.arrival", arrival), "kernel")

    assert found.window == (0.0, found.ended)
    assert found.watch.busy.sum(axis=0) == pytest.approx(found.causes[:, BUSY], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("engine", ["kernel", "processes"])
def test_nobody_is_busy_while_the_cell_stands_still(engine):
    models = {"cost": Stages(attention=1.0, ffn=1.0), "network": Wires()}
    found = record(lone((9.5, "ffn[0]")), engine, **models)
    ((outage, _),) = found.outages
    edges = np.arange(len(found.watch.busy) + 1) * found.watch.width[0]
    inside = (edges[:-1] >= outage.at) & (edges[1:] <= outage.resumed)

    assert inside.any()
    assert not found.watch.busy[inside].any()
    assert found.watch.busy[~inside].sum(axis=1).all()


def test_a_run_that_nobody_watched_has_no_excerpt(small):
    assert pipeline(small, record(small.vary("workload.num_requests", 4), "kernel", watched=False)) == {}
