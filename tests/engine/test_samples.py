"""Which steps are kept: even numbers apart, however long the run, the same for whoever asks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.books import Trace
from afdsim.engine.samples import MISSING, Samples, keep, taken

PLACES = 8


def blank() -> Samples:
    column = np.zeros((PLACES, 2, 1))
    step = np.full((PLACES, 2), MISSING, dtype=np.int64)
    return Samples(np.ones(1, dtype=np.int64), step, *(column.copy() for _ in range(8)))


def trace(step: int) -> Trace:
    return Trace(*([float(step)] for _ in Trace._fields))


@given(st.integers(1, 300), st.sets(st.integers(0, 300), max_size=30))
def test_samples_are_a_stride_apart_and_hold_their_steps(steps, skipped):
    samples = blank()
    ran = [step for step in range(steps) if step not in skipped]
    for step in ran:
        keep(samples, trace(step), step)
    found, stride = taken(samples), int(samples.stride[0])

    assert [each.step for each in found] == [n for n in range(0, steps, stride) if {n, n + 1} <= set(ran)]
    for each in found:
        for column in each[1:]:
            assert column[:, 0].tolist() == [each.step, each.step + 1]


@pytest.mark.parametrize("steps", [PLACES * 2**k + 1 for k in range(6)])
def test_a_long_run_keeps_at_least_half_as_many_as_there_is_place(steps):
    samples = blank()
    for step in range(steps):
        keep(samples, trace(step), step)

    assert PLACES // 2 <= len(taken(samples)) <= PLACES


@pytest.mark.parametrize("k", range(4))
def test_samples_are_thinned_by_the_first_that_has_no_place(k):
    samples, fit = blank(), PLACES * 2**k
    for step in range(fit):
        keep(samples, trace(step), step)
    assert samples.stride.tolist() == [2**k]

    keep(samples, trace(fit), fit)
    assert samples.stride.tolist() == [2 ** (k + 1)]
