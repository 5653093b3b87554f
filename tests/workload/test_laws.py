import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.workload.laws import (
    BLOCK,
    ClosedLoop,
    Constant,
    ConstantRate,
    Gamma,
    Lognormal,
    Poisson,
    Recorded,
    RequestSource,
    Uniform,
    arrivals,
    draw,
    longest,
)
from afdsim.workload.traces import read_trace

DATA = Path(__file__).parent.parent / "data"


def rng(column="x"):
    return np.random.Generator(np.random.Philox(key=[1, len(column)]))


# laws


def test_constant_lengths_draw_nothing():
    generator = rng()

    lengths = draw(Constant(value=512), generator, 3)

    assert lengths.tolist() == [512, 512, 512]
    assert lengths.dtype == np.int64
    assert generator.random() == rng().random()


def test_lognormal_lengths_have_the_mean_and_cv_of_their_law():
    lengths = draw(Lognormal(mean=512, cv=0.8, min=1, max=100_000), rng(), 200_000)

    assert lengths.mean() == pytest.approx(512, rel=0.01)  # standard error 0.2 %
    assert lengths.std() / lengths.mean() == pytest.approx(0.8, rel=0.02)


def test_lognormal_lengths_are_clipped_to_whole_tokens():
    lengths = draw(Lognormal(mean=100, cv=2.0, min=10, max=200), rng(), 1000)

    assert lengths.dtype == np.int64
    assert (lengths.min(), lengths.max()) == (10, 200)


def test_uniform_lengths_reach_both_ends():
    assert set(draw(Uniform(min=3, max=5), rng(), 200).tolist()) == {3, 4, 5}


def test_longest_request_bounds_memory():
    laws = (Constant(value=7), Uniform(min=1, max=8), Lognormal(mean=5, cv=1, max=9))

    assert [longest(law) for law in laws] == [7, 8, 9]


def test_constant_rate_starts_at_zero_and_keeps_its_beat():
    assert arrivals(ConstantRate(rate=4.0), rng(), 4).tolist() == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("law", "cv"), [(Poisson(rate=50.0), 1.0), (Gamma(rate=50.0, burstiness=0.25), 2.0)])
def test_random_arrivals_have_the_rate_and_burstiness_of_their_law(law, cv):
    gaps = np.diff(arrivals(law, rng(), 100_000))

    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02)


@pytest.mark.parametrize(
    "law", [Poisson(rate=math.inf), ConstantRate(rate=math.inf), Gamma(rate=math.inf, burstiness=2)]
)
def test_an_infinite_rate_is_everything_at_time_zero(law):
    assert arrivals(law, rng(), 3).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Constant, {"value": 0}, "value must be >= 1 token"),
        (Uniform, {"min": 0, "max": 3}, "min must be >= 1"),
        (Uniform, {"min": 4, "max": 3}, "max must be >= min"),
        (Lognormal, {"mean": 0.0, "cv": 1.0}, "mean must be > 0"),
        (Lognormal, {"mean": math.nan, "cv": 1.0}, "mean must be > 0"),
        (Lognormal, {"mean": 1.0, "cv": -1.0}, "cv must be >= 0"),
        (Poisson, {"rate": -1.0}, "rate must be > 0"),
        (ConstantRate, {"rate": 0.0}, "rate must be > 0"),
        (Gamma, {"rate": 1.0, "burstiness": 0.0}, "burstiness must be > 0"),
        (ClosedLoop, {"concurrency": 0}, "concurrency must be >= 1"),
    ],
)
def test_impossible_laws_cannot_be_constructed(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kind(**given)


lengths_laws = st.one_of(
    st.builds(Constant, value=st.integers(1, 99)),
    st.builds(Lognormal, mean=st.floats(1, 1e4), cv=st.floats(0, 3), max=st.integers(1, 99_999)),
    st.builds(Uniform, min=st.integers(1, 9), max=st.integers(9, 99)),
)


@settings(max_examples=30, deadline=None)
@given(law=lengths_laws, n=st.integers(0, 300), more=st.integers(0, 300))
def test_more_requests_leave_the_first_ones_alone(law, n, more):
    assert np.array_equal(draw(law, rng(), n + more)[:n], draw(law, rng(), n))


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0.01, 1e4), burstiness=st.floats(0.05, 20), n=st.integers(0, 200), more=st.integers(0, 200))
def test_more_arrivals_leave_the_first_ones_alone(rate, burstiness, n, more):
    law = Gamma(rate=rate, burstiness=burstiness)
    times = arrivals(law, rng(), n + more)

    assert np.array_equal(times[:n], arrivals(law, rng(), n))
    assert np.all(np.diff(times) >= 0)


# the endless column


def test_a_source_gives_the_same_request_in_any_order_of_asking():
    law = Lognormal(mean=300, cv=1.0)
    source = RequestSource(Poisson(rate=9.0), Uniform(min=5, max=50), law, rng)
    late = (source.lengths(BLOCK + 3), source.arrival(BLOCK + 3))
    again = RequestSource(Poisson(rate=9.0), Uniform(min=5, max=50), law, rng)
    walked = [(again.lengths(i), again.arrival(i)) for i in range(BLOCK + 4)]

    assert walked[-1] == late
    assert walked[7] == (source.lengths(7), source.arrival(7))
    assert [pair[0] for pair in walked] == list(
        zip(*(column.tolist() for column in source.columns(BLOCK + 4)), strict=True)
    )


def test_blocks_join_as_if_drawn_at_once():
    source = RequestSource(Poisson(rate=9.0), Constant(value=1), Lognormal(mean=300, cv=1.0), rng)
    n = 2 * BLOCK + 5

    assert np.array_equal(source.columns(n)[1], draw(Lognormal(mean=300, cv=1.0), rng("output_len"), n))
    assert source.arrival(n - 1) == arrivals(Poisson(rate=9.0), rng("arrival"), n)[-1]


def test_a_source_gives_plain_python_numbers():
    source = RequestSource(ConstantRate(rate=2.0), Constant(value=3), Constant(value=4), rng)

    assert source.size is None
    assert [type(value) for value in (*source.lengths(1), source.arrival(1))] == [int, int, float]


def test_a_trace_source_ends_with_its_trace():
    trace = read_trace(DATA / "azure.csv")
    source = RequestSource(trace, None, None, rng)

    assert source.size == len(trace) == 200
    assert source.lengths(199) == (trace.input_len[199], trace.output_len[199])
    assert source.arrival(199) == trace.arrival[199]
    with pytest.raises(IndexError):
        source.lengths(200)


def test_a_trace_can_give_arrivals_only():
    source = RequestSource(read_trace(DATA / "azure.csv"), Constant(value=5), Constant(value=6), rng)

    assert source.lengths(11) == (5, 6)


def test_recorded_lengths_start_again_from_the_first():
    lengths = Recorded(input_len=np.array([1, 2, 3]), output_len=np.array([4, 5, 6]), notes=("told",))
    source = RequestSource(Poisson(rate=9.0), lengths, lengths, rng)

    assert source.size is None
    assert source.columns(5)[0].tolist() == [1, 2, 3, 1, 2]
    assert source.lengths(BLOCK + 1) == ((BLOCK + 1) % 3 + 1, (BLOCK + 1) % 3 + 4)
    assert source.arrival(BLOCK) == RequestSource(Poisson(rate=9.0), Constant(value=1), Constant(value=1), rng).arrival(
        BLOCK
    )
    assert (source.file, source.notes) == (lengths, ("told",))


def test_an_empty_population_has_empty_columns():
    source = RequestSource(ClosedLoop(), Constant(value=5), Constant(value=6), rng)

    assert [len(column) for column in source.columns(0)] == [0, 0]
