"""Measured tables: monotone to the last digit, through the points, and silent nowhere outside of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim import simulate
from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision, Split
from afdsim.cost.operators import ffn_operators, gemm
from afdsim.cost.roofline import Roofline
from afdsim.cost.table import Point, measured_table, monotone, read_points
from afdsim.errors import CatalogError

H100, H800, H20 = (catalog.gpu(name) for name in ("H100", "H800", "H20"))
STEP3 = catalog.llm("step3")
GEMM = ("H100", "gemm", "fp8")
SHAPES = [(k, n) for k in (1024.0, 8192.0) for n in (1024.0, 4096.0)]


def points(times=lambda m, k, n: 5e-6 + m * k * n * 1e-15):
    return [
        Point(key=GEMM, shape=(k, n), tokens=m, seconds=times(m, k, n)) for m in (1.0, 16.0, 256.0) for k, n in SHAPES
    ]


def table(own=None, **more):
    return measured_table(points() if own is None else own, others=Roofline(), **more)


def test_measured_points_come_back():
    for point in points():
        found = table().seconds(gemm("x", point.tokens, point.shape, "fp8"), H100)

        assert found == pytest.approx(point.seconds, rel=1e-12)


def test_between_points_lie_between_their_seconds():
    found = table().seconds(gemm("x", 64.0, (2048, 2048), "fp8"), H100)
    low, high = (
        table().seconds(gemm("x", m, shape, "fp8"), H100) for m, shape in ((16.0, SHAPES[0]), (256.0, SHAPES[3]))
    )

    assert low < found < high


def test_a_family_shares_its_table():
    asked = gemm("x", 64.0, (2048, 2048), "fp8")

    assert table().seconds(asked, H800) == table().seconds(asked, H100)
    assert table().seconds(asked, H20) == Roofline().seconds(asked, H20)


@given(seed=st.integers(0, 10**6), noise=st.floats(0.0, 1.0))
def test_one_more_token_never_costs_less_whatever_was_measured(seed, noise):
    rng = np.random.default_rng(seed)
    wild = points(lambda m, k, n: (5e-6 + m * k * n * 1e-15) * float(np.exp(noise * rng.standard_normal())))
    tokens = np.arange(0.0, 257.0)
    for shape in ((1024, 1024), (2000, 3000), (8192, 4096)):
        seconds = table(wild).seconds(gemm("x", tokens, shape, "fp8"), H100)

        assert (np.diff(seconds) >= 0).all()


@given(seed=st.integers(0, 10**6))
def test_monotone_moves_as_little_as_both_sides_allow(seed):
    raw = np.random.default_rng(seed).random((5, 4, 3))
    smooth = monotone(raw)

    for axis in range(3):
        assert (np.diff(smooth, axis=axis) >= 0).all()
    assert raw.min() <= smooth.min()
    assert smooth.max() <= raw.max()
    assert np.array_equal(monotone(smooth), smooth)


@pytest.mark.parametrize(
    ("tokens", "shape", "message"),
    [
        (
            257.0,
            (1024, 1024),
            r"x \(gemm fp8 on H100\) at 257 rows and shape 1024x1024 lies outside the measured 1 to 256",
        ),
        (16.0, (512, 1024), "lies outside the measured 1 to 256, 1024 to 8192, 1024 to 4096"),
        (np.array([1.0, 999.0]), (1024, 1024), "at 999 rows"),
    ],
)
def test_nothing_is_extrapolated_silently(tokens, shape, message):
    with pytest.raises(CatalogError, match=message):
        table().seconds(gemm("x", tokens, shape, "fp8"), H100)


def test_beyond_a_table_only_the_model_named_for_it_counts():
    asked = gemm("x", 5000.0, (1024, 1024), "fp8")

    assert table(beyond=Roofline()).seconds(asked, H100) == Roofline().seconds(asked, H100)


def test_shapes_without_a_full_grid_must_match():
    own = points()[:-1]

    assert table(own).seconds(gemm("x", 16.0, (1024, 1024), "fp8"), H100) > 0
    with pytest.raises(
        CatalogError, match=r"shape 2048x2048\) was not measured; measured shapes: 1024x1024, 1024x4096"
    ):
        table(own).seconds(gemm("x", 16.0, (2048, 2048), "fp8"), H100)


def test_experts_are_looked_up_by_pairs_with_the_shared_one_at_the_same_rate():
    split = Split(instances=2, tp=8)
    (asked,) = ffn_operators(STEP3, STEP3.layers[4], 2048.0, precision=Precision(), split=split)
    pairs = 2048 * 3 / 2
    own = [
        Point(key=("H100", "grouped_gemm", "fp8"), shape=asked.shape, tokens=count, seconds=1e-4 * (1 + count / pairs))
        for count in (1.0, pairs, 2 * pairs)
    ]
    found = table(own).seconds(asked, H100)

    assert found == pytest.approx(2e-4 * asked.flops / (asked.flops - asked.unpadded))


def test_a_table_prices_a_whole_simulation(small):
    fast = simulate(small.vary("workload.num_requests", 400), cost=Roofline()).summary["afdsim"]["step_ms"]
    own = [Point(key=GEMM, shape=(7168, 2560), tokens=m, seconds=1e-3) for m in (1.0, 64.0)]
    slow = simulate(small.vary("workload.num_requests", 400), cost=table(own, beyond=Roofline())).summary["afdsim"][
        "step_ms"
    ]

    assert slow > fast + 2


def test_points_are_read_from_text():
    text = "gpu,kernel,dtype,shape,tokens,seconds\nH100,gemm,fp8,1024x4096,16,7e-6\n"

    assert read_points(text) == [Point(key=GEMM, shape=(1024, 4096), tokens=16, seconds=7e-6)]


@pytest.mark.parametrize("bad", ["H100,gemm,fp8,1024x4096,many,7e-6", "H100,gemm,fp8", "H100,gemm,fp8,,1,1"])
def test_malformed_points_are_refused(bad):
    with pytest.raises(CatalogError, match="is not gpu, kernel, dtype, shape, tokens, seconds"):
        read_points(f"gpu,kernel,dtype,shape,tokens,seconds\n{bad}\n")


def test_times_must_be_positive():
    with pytest.raises(CatalogError, match="not positive"):
        table([Point(key=GEMM, shape=(1, 1), tokens=1, seconds=0.0)])
