"""Slices of busy seconds: however long the run, none are lost, and every second lies where it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.watch import FINEST, MOST, Watch, coarsen, note


def blank(slices: int = MOST, units: int = 2) -> Watch:
    return Watch(np.full(1, FINEST), np.zeros((slices, units)))


def noted(rows: list[tuple[float, float]], slices: int = MOST) -> Watch:
    """Rows of (length, busy share), one after the other, of the second unit."""
    watch, begin = blank(slices), 0.0
    for length, share in rows:
        note(watch, 1, (begin, begin + length), share * length)
        begin += length
    return watch


ROWS = st.lists(st.tuples(st.floats(1e-5, 3.0), st.floats(0.0, 1.0)), min_size=1, max_size=40)


@given(ROWS)
def test_no_second_is_lost_and_none_counted_twice(rows):
    watch = noted(rows)

    assert watch.busy[:, 1].sum() == pytest.approx(sum(length * share for length, share in rows), rel=1e-9)
    assert not watch.busy[:, 0].any()


@given(ROWS)
def test_a_slice_has_the_mean_of_the_rows_that_cover_it(rows):
    watch = noted(rows)
    ends = np.cumsum([0.0, *(length for length, _ in rows)])
    busy = np.cumsum([0.0, *(length * share for length, share in rows)])
    edges = np.arange(MOST + 1) * watch.width[0]

    assert watch.busy[:, 1] == pytest.approx(np.diff(np.interp(edges, ends, busy)), abs=1e-9)


@given(st.floats(1e-3, 1e6))
def test_a_long_run_has_more_than_half_of_the_slices(length):
    watch = noted([(length, 1.0)])

    assert MOST / 2 < length / watch.width[0] <= MOST
    assert np.log2(watch.width[0]) == np.round(np.log2(watch.width[0]))


def test_a_slice_takes_in_the_next_one():
    watch = blank(slices=4)
    watch.busy[:, 0] = 1.0, 2.0, 3.0, 4.0
    coarsen(watch)

    assert watch.busy[:, 0].tolist() == [3.0, 7.0, 0.0, 0.0]
    assert watch.width[0] == 2 * FINEST


def test_nobody_looks_where_there_is_no_slice():
    watch = noted([(1.0, 1.0)], slices=0)

    assert watch.width[0] == FINEST
