"""Normal numbers that machine code draws are numpy's, to the bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.native import compiled
from afdsim.engine.normals import draw_normals, sooner, ziggurat
from afdsim.engine.variation import drawn_by_numpy, placed
from afdsim.scenario.streams import Streams

KINDS = ("link_out", "event_attention", "step_ffn")


def both(seed, cell, sizes, steps):
    """Rows of some steps, by machine code and by numpy."""
    kinds = placed(zip(KINDS, sizes, strict=False))
    rows = np.zeros((2, len(steps) * sum(sizes)))
    for row, draw in zip(rows, (sooner(compiled()[2]), drawn_by_numpy), strict=True):
        draw(Streams(seed, cell), kinds, steps, row)
    return rows


def test_numpys_tables_are_there():
    assert ziggurat() is not None


@given(
    st.integers(0, 2**63), st.integers(0, 1023), st.lists(st.integers(1, 150), min_size=1, max_size=3),
    st.integers(0, 2**40), st.integers(1, 5),
)  # fmt: skip
def test_every_stream_and_step_gives_numpys_numbers(seed, cell, sizes, first, count):
    one, other = both(seed, cell, sizes, range(first, first + count))

    assert np.array_equal(one, other)


def test_a_long_row_has_numbers_of_every_layer_and_of_the_tail():
    one, other = both(1, 0, (400_000,), range(7, 9))

    assert np.array_equal(one, other)
    assert (np.abs(one) > ziggurat().tail).sum() > 100


def test_another_step_or_cell_gives_other_numbers():
    one, other = both(1, 0, (50,), range(3)), both(1, 1, (50,), range(3))

    assert len(np.unique(np.concatenate([one[0], other[0]]))) == 300


def test_python_reads_the_same_numbers_out_of_the_text():
    kinds, steps = placed([("event_attention", 9000)]), range(3, 4)
    read, known = np.zeros((2, 9000))
    with np.errstate(over="ignore"):  # as machine code does, scalars go round at 2^64
        sooner(draw_normals)(Streams(2, 0), kinds, steps, read)
    drawn_by_numpy(Streams(2, 0), kinds, steps, known)

    assert np.array_equal(read, known)
    assert (np.abs(read) > ziggurat().tail).sum() > 0
