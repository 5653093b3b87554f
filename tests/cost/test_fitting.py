"""Fitting finds what made the data, states errors on shapes it never saw, and writes what the cost model reads."""

import math

import numpy as np
import pytest

from afdsim.catalog import entries as catalog
from afdsim.cost.fitting import COLUMNS, Identity, Peaks, Samples, best, errors, fit, held_out, line, to_csv
from afdsim.cost.operators import gemm
from afdsim.cost.roofline import Roofline, read_table

H200 = catalog.gpu("H200")
PEAKS = Peaks(flops=H200.peak("bf16"), bandwidth=H200.memory_bandwidth)
TRUTH = (5e-6, 0.7, 0.8)


def made(noise=0.0, truth=TRUTH):
    """GEMMs of decode shapes on a GPU that follows the form."""
    rng = np.random.default_rng(7)
    shapes = [(m, k, n) for m in (1, 16, 64, 256, 1024, 4096) for k in (2048, 7168) for n in (1024, 4096, 16384)]
    works = [gemm("gemm", float(m), (k, n), "bf16") for m, k, n in shapes]
    flops, moved = (np.array([getattr(work, name) for work in works]) for name in ("flops", "bytes"))
    exact = truth[0] + np.maximum(flops / (PEAKS.flops * truth[1]), moved / (PEAKS.bandwidth * truth[2]))
    seconds = exact * np.exp(noise * rng.standard_normal(len(exact)))
    return Samples(flops=flops, bytes=moved, seconds=seconds, shapes=tuple(shapes))


def test_the_fit_finds_what_made_the_data():
    assert best(made(), PEAKS) == pytest.approx(TRUTH, rel=0.01)


def test_noise_shows_as_error_and_hardly_moves_the_fit():
    found = fit(made(noise=0.05), PEAKS)

    assert (found.compute, found.memory) == pytest.approx(TRUTH[1:], rel=0.05)
    assert 0.01 < found.own.median < 0.06
    assert 0.01 < found.held_out.median < 0.10


def test_a_few_wild_rows_move_nothing():
    samples = made()
    samples.seconds[::12] *= 10

    assert best(samples, PEAKS) == pytest.approx(TRUTH, rel=0.05)


def test_no_kernel_streams_faster_than_memory():
    found = fit(made(truth=(5e-6, 0.7, 2.0)), PEAKS)

    assert found.memory <= 1.0
    assert fit(made(), Peaks(flops=PEAKS.flops, bandwidth=1.0)).memory > 1e12


def test_a_fifth_of_the_shapes_is_held_out_whole():
    shapes = [(m, index) for m in range(10) for index in range(100)]
    out = held_out(shapes)

    assert 0.15 < out.mean() < 0.25
    assert (held_out(shapes) == out).all()
    assert len(set(held_out([("same", 1)] * 5))) == 1


def test_errors_are_relative_to_what_was_measured():
    samples = made()
    found = errors((TRUTH[0] * 2, TRUTH[1] / 2, TRUTH[2] / 2), samples, PEAKS)

    assert found.median == pytest.approx(1.0)
    assert found.p90 == pytest.approx(1.0)


def test_too_few_rows_are_refused():
    few = made().take(np.arange(36) < 5)

    with pytest.raises(ValueError, match="5 measured rows are too few"):
        fit(few, PEAKS)


@pytest.mark.parametrize("seconds", [[0.0, 1.0], [-1.0, 1.0]])
def test_times_must_be_positive(seconds):
    with pytest.raises(ValueError, match="not positive"):
        Samples(flops=np.ones(2), bytes=np.ones(2), seconds=np.array(seconds), shapes=(1, 2))


def test_columns_must_be_equally_long():
    with pytest.raises(ValueError, match="different lengths"):
        Samples(flops=np.ones(2), bytes=np.ones(3), seconds=np.ones(2), shapes=(1, 2))


def test_what_is_written_prices_operators():
    name = Identity(gpu="H200", kernel="gemm", dtype="bf16", source="a test, made up")
    text = to_csv([line(name, fit(made(), PEAKS))])
    own = read_table(text)
    asked = gemm("x", 64.0, (4096, 4096), "bf16")

    assert text.startswith(",".join(COLUMNS))
    assert Roofline(own=own).law(asked, H200).source == "a test, made up"
    assert Roofline(own=own).law(asked, catalog.gpu("H100")).source != "a test, made up"
    exact = TRUTH[0] + asked.bytes / (H200.memory_bandwidth * TRUTH[2])
    assert Roofline(own=own).seconds(asked, H200) == pytest.approx(exact, rel=0.02)


def test_a_collective_is_written_with_its_bandwidth():
    name = Identity(gpu="H200", kernel="all_gather", dtype="*", gpus=8, source="a test, made up")
    moved = np.array([1e3, 1e4, 1e5, 1e6, 1e7, 1e8] * 2)
    seconds = 12e-6 + moved / 270e9
    samples = Samples(flops=np.zeros(12), bytes=moved, seconds=seconds, shapes=tuple(range(12)))
    (row,) = read_table(to_csv([line(name, fit(samples, Peaks(flops=1.0, bandwidth=1.0)))]))

    assert row.bandwidth == pytest.approx(270e9, rel=0.02)
    assert row.fixed == pytest.approx(12e-6, rel=0.02)
    assert not row.compute


def test_shipped_rows_state_their_errors(repository):
    rows = read_table((repository / "afdsim/data/coefficients.csv").read_text())
    measured = [row for row in rows if row.status == "measured" and row.samples]

    assert sum(not math.isnan(row.p90_error) for row in measured) > 50
    assert all(row.p90_error >= row.median_error for row in measured if not math.isnan(row.p90_error))
