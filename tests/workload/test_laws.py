import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.errors import ScenarioError
from afdsim.workload.laws import (
    BLOCK,
    ClosedLoop,
    Constant,
    ConstantRate,
    Gamma,
    Lognormal,
    Poisson,
    RequestSource,
    Trace,
    Uniform,
    arrivals,
    draw,
    longest,
)
from afdsim.workload.traces import read_trace, spread

DATA = Path(__file__).parent.parent / "data"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def rng(column="x"):
    return np.random.Generator(np.random.Philox(key=[1, len(column)]))


def write(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


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


def test_an_empty_population_has_empty_columns():
    source = RequestSource(ClosedLoop(), Constant(value=5), Constant(value=6), rng)

    assert [len(column) for column in source.columns(0)] == [0, 0]


# traces


def test_azure_trace_counts_from_its_first_request(tmp_path):
    path = write(tmp_path, AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")

    trace = read_trace(path)

    assert trace.arrival.tolist() == pytest.approx([0.0, 4.314579], abs=1e-6)  # microsecond timestamps
    assert trace.input_len.tolist() == [374, 396]
    assert trace.output_len.tolist() == [44, 109]
    assert trace.notes == ()


def test_azure_2024_timestamps_carry_a_zone():
    zoned, plain = read_trace(DATA / "azure_zoned.csv"), read_trace(DATA / "azure.csv", limit=20)

    assert np.array_equal(zoned.arrival, plain.arrival)
    assert np.array_equal(zoned.output_len, plain.output_len)


def test_mooncake_milliseconds_and_buckets():
    trace = read_trace(DATA / "mooncake.jsonl")
    buckets = len(set(trace.arrival.tolist()))

    assert set(np.diff(np.unique(trace.arrival)).tolist()) == {3.0}
    assert trace.notes == (
        f"{DATA / 'mooncake.jsonl'}: 200 requests on {buckets} timestamps; see workload.trace.spread",
    )


def test_spread_spaces_a_bucket_evenly():
    column = np.array([9, 8, 7, 6])
    trace = Trace(arrival=np.array([0.0, 0.0, 3.0, 3.0]), input_len=column, output_len=column)

    assert spread(trace).arrival.tolist() == [0.0, 1.5, 3.0, 4.5]
    assert spread(trace).output_len is column


def test_spread_leaves_a_single_timestamp_alone():
    trace = Trace(arrival=np.zeros(2), input_len=np.ones(2, int), output_len=np.ones(2, int))

    assert spread(trace) is trace


def test_burstgpt_is_read_by_name_and_its_failed_requests_left_out():
    path = DATA / "burstgpt.csv"

    trace = read_trace(path)

    assert len(trace) == 38
    assert trace.notes == (f"{path}: 2 failed requests (no output tokens) left out",)


def test_vidur_and_own_formats(tmp_path):
    own = read_trace(write(tmp_path, "output_len,arrival_s,input_len\n5,1.5,7\n6,2.0,8.0\n"))

    assert len(read_trace(DATA / "vidur.csv")) == 20
    assert own.arrival.tolist() == [0.0, 0.5]
    assert own.input_len.tolist() == [7, 8]


def test_window_limit_and_time_scale(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len\n" + "".join(f"{5 + i},{i + 1},1\n" for i in range(10)))

    cut = read_trace(path, window=(2.0, 8.0), limit=4, time_scale=0.5)

    assert cut.input_len.tolist() == [3, 4, 5, 6]
    assert cut.arrival.tolist() == [0.0, 0.5, 1.0, 1.5]
    with pytest.raises(ScenarioError, match=r"no request left between start and end; .* 10 requests in 9.0 s"):
        read_trace(path, window=(50.0, None))


def test_unsorted_rows_are_sorted_and_counted(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len\n2,20,1\n1,10,1\n3,30,1\n2,21,1\n")

    trace = read_trace(path)

    assert trace.input_len.tolist() == [10, 20, 21, 30]
    assert trace.notes == (f"{path}: 2 of 4 requests were out of order: sorted",)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfarrival_s,input_len,output_len\r\n1,2,3\r\n\r\n2,2,3\r\n")

    assert len(read_trace(path)) == 2


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("1,5,0", "output tokens 0"),
        ("1,-3,5", "input tokens -3"),
        ("1,many,5", "input tokens many"),
        ("1,5.5,5", "input tokens 5.5"),
        ("1,5,1e300", "output tokens 1e300"),
        ("1,5,nan", "output tokens nan"),
        ("inf,5,5", "arrival inf"),
        ("noon,5,5", "arrival noon"),
        ("1,5,", "output tokens missing"),
        ("1,5", "the row lacks a column or is damaged"),
    ],
)
def test_a_bad_row_is_skipped_and_named(tmp_path, row, fault):
    good = "1,5,5\n" * 200
    path = write(tmp_path, f"arrival_s,input_len,output_len\n{row}\n{good}")

    trace = read_trace(path)

    assert len(trace) == 200
    assert trace.notes[0] == f"{path}:2: {fault}: skipped"
    with pytest.raises(ScenarioError, match=f":2: {fault}; skip_bad_rows: true"):
        read_trace(path, skip_bad_rows=False)


def test_a_bad_json_line_is_skipped_and_named(tmp_path):
    good = '{"timestamp": 1, "input_length": 5, "output_length": 5}\n' * 300
    bad = '{"timestamp": 1\n{"timestamp": 1, "input_length": 5}\n'
    bad += '{"timestamp": null, "input_length": 5, "output_length": 5}\n'
    path = write(tmp_path, good + bad, "trace.jsonl")

    notes = read_trace(path).notes

    assert notes[:2] == tuple(f"{path}:{line}: the row lacks a column or is damaged: skipped" for line in (301, 302))
    assert notes[2] == f"{path}:303: arrival None: skipped"


def test_many_bad_rows_are_summed_up(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len\n" + "1,5,0\n" * 5 + "1,5,5\n" * 495)

    assert read_trace(path).notes[3] == f"{path}: 5 rows skipped in all"


def test_more_than_one_bad_row_in_a_hundred_is_no_trace(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len\n" + "1,5,0\n" * 2 + "1,5,5\n" * 98)

    with pytest.raises(ScenarioError, match=r"trace.csv:2: output tokens 0; 2 of 100 rows cannot be used, at most 1%"):
        read_trace(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty; expected columns TIMESTAMP,ContextTokens,GeneratedTokens"),
        ("ts,in,out\n1,2,3\n", r"expected columns TIMESTAMP,.*\(azure\), or .*; found ts,in,out; rename the columns"),
        (AZURE, "holds no requests"),
        (b"\x1f\x8b\x08\x00\xff\xfe\x00\x01", "is not text; expected a CSV"),
        (b"PK\x03\x04\x00\x00", r"found '.*x00.*'; rename"),
        ("{]\n", "a line that is no JSON object"),
        ('{"a": 1}\n', "found a; rename the columns"),
        ("[" * 5000, "expected columns"),
    ],
)
def test_a_file_that_is_no_trace_gets_one_clear_message(tmp_path, content, message):
    with pytest.raises(ScenarioError, match=message):
        read_trace(write(tmp_path, content))


def test_a_missing_file_a_folder_and_unknown_words(tmp_path):
    with pytest.raises(ScenarioError, match=r"none.csv: no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(ScenarioError, match=r"cannot be read"):
        read_trace(tmp_path)
    with pytest.raises(ScenarioError, match=r"unknown trace format 'azur'; known: auto, azure"):
        read_trace(DATA / "azure.csv", format="azur")
    with pytest.raises(ScenarioError, match=r"time_scale must be > 0"):
        read_trace(DATA / "azure.csv", time_scale=0.0)
    with pytest.raises(ScenarioError, match=r"expected columns timestamp,.*\(mooncake\); found TIMESTAMP"):
        read_trace(DATA / "azure.csv", format="mooncake")


@settings(max_examples=60, deadline=None)
@given(
    junk=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)), head=st.sampled_from(["", AZURE, "{"])
)
def test_no_file_makes_a_traceback(tmp_path_factory, junk, head):
    path = write(tmp_path_factory.mktemp("junk"), head.encode() + junk)

    with pytest.raises(ScenarioError):
        read_trace(path)


def test_the_published_azure_trace_is_read_whole(shared):
    trace = read_trace(shared / "traces" / "azure23_conv.csv")

    assert len(trace) == 19_366
    assert trace.arrival[-1] == pytest.approx(3501.721937)
    assert trace.output_len.mean() == pytest.approx(211, abs=0.5)


def test_the_published_mooncake_trace_is_read_whole(shared):
    trace = read_trace(shared / "traces" / "mooncake_conversation.jsonl")

    assert len(trace) == 12_031
    assert trace.notes[0].endswith("12,031 requests on 1,180 timestamps; see workload.trace.spread")
