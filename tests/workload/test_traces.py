"""Files of recorded requests: what is read of them, and what is said of those that cannot be."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdsim.errors import ScenarioError
from afdsim.workload.laws import Trace
from afdsim.workload.traces import read_lengths, read_trace, spread

DATA = Path(__file__).parent.parent / "data"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


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
        ("1e13,5,5", "arrival 1e+13 s is beyond 1e+12 s and cannot be meant"),
        ("-1e300,5,5", "arrival -1e+300 s is beyond 1e+12 s and cannot be meant"),
        ("noon,5,5", "arrival noon"),
        ("1,5,", "output tokens missing"),
        ('"1,5",5,5', "arrival 1,5 (a comma in a number: write a point)"),
        ('1,"1,553",5', "input tokens 1,553 (a comma that separates thousands: write 1553)"),
        ('1,5,"1,234,567"', "output tokens 1,234,567 (a comma that separates thousands: write 1234567)"),
        ('"1,553",5,5', "arrival 1,553 (a comma that separates thousands: write 1553, or 1.553 for a fraction)"),
        ("1,5", "the row lacks a column or is damaged"),
    ],
)
def test_a_bad_row_is_skipped_and_named(tmp_path, row, fault):
    good = "1,5,5\n" * 200
    path = write(tmp_path, f"arrival_s,input_len,output_len\n{row}\n{good}")

    trace = read_trace(path)

    assert len(trace) == 200
    assert trace.notes[0] == f"{path}:2: {fault}: skipped"
    with pytest.raises(ScenarioError, match=re.escape(f":2: {fault}; skip_bad_rows: true")):
        read_trace(path, skip_bad_rows=False)


def test_a_bad_json_line_is_skipped_and_named(tmp_path):
    good = '{"timestamp": 1, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n' * 300
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
        ("", "the file is empty; expected a CSV with a header, or JSON"),
        ("\n\n  \n", "the file is empty"),
        (
            "ts,in,out\n1,2,3\n",
            r"expected columns TIMESTAMP,.*\(azure\), or those of mooncake, .*; found ts,in,out in a CSV; rename the "
            "columns, for example to timestamp,input_length,output_length, and give time_unit: s, ms, us or ns",
        ),
        ("TIMESTAMP,ContextTokens\n", "azure lacks GeneratedTokens; rename the column that holds it"),
        (",num_prefill_tokens,x\n0,5,5\n", r"found \(unnamed\),num_prefill_tokens,x in a CSV"),
        ("7,374,44\n8,396,109\n", "found 7,374,44: values without a header"),
        (AZURE, "holds no requests"),
        ("arrived_at|num_prefill_tokens|num_decode_tokens\n", r"columns are separated by '\|'; write a comma, a semi"),
        ("arrival_s  input_len  output_len\n0  5  5\n", "columns are separated by ' '"),
        (b"\x1f\x8b\x08\x00\xff\xfe\x00\x01", "the gzip file is cut short; fetch it again"),
        (b"\x1f\x8b\x09\x00\xff\xfe\x00\x01" * 9, "the gzip file is damaged"),
        (b"PK\x03\x04\x00\x00", "is a zip archive or an Excel sheet; unpack or export it to CSV or JSON"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "is a placeholder of Git LFS, not the data"),
        ("<!DOCTYPE html>\n", "is a web page"),
        (AZURE.encode() + b"caf\xe9,1,2\n", r"is not text in UTF-8 \(byte 0xe9: .*\); save it as UTF-8"),
        ("{]\n", r"trace.csv:1:2: is no JSON: .*; expected one object per line, or one array"),
        ('[{"arrival_s": 0, "input_len": 5, "output_len": 5},\n', "is no JSON: "),
        ('{"a": 1}\n', "found a in a JSON object; rename the columns"),
        ('{"a": 1}\n{"a": 1}\n', "found a in JSON lines; rename the columns"),
        ('{"a": {"b": [{"c": 1}]}}\n', r"found c in a JSON array \(a.b\); rename the columns"),
        ("[[0, 5, 5]]", "is a JSON array of lists; expected objects, one a request"),
        ("[]", "is a JSON array of nothing"),
        ("[" * 100_000, "is no JSON that can be read"),
        (
            '{"completed": 2, "total_input_tokens": 9, "duration": 1.5}',
            "without the length of each request: save it with",
        ),
        ('{"messages": [{"role": "user", "content": "hi"}]}\n', "texts without token counts"),
        (
            '{"session_id": 1, "sub_requests": [{"input_toks": 1}]}\n{"session_id": 2}\n',
            "sessions of requests, which are",
        ),
    ],
)
def test_a_file_that_is_no_trace_gets_one_clear_message(tmp_path, content, message):
    with pytest.raises(ScenarioError, match=message):
        read_trace(write(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        '{"session_id": 0, "arrival_time_ns": 5, "sub_requests": [{"input_toks": 4, "output_toks": 4}]}\n',
        '{"session": {"arrival_time_ns": 5, "sub_requests": [{"input_toks": 4, "output_toks": 4}]}}',
        '{"sub_requests": []}',
    ],
)
def test_one_session_is_no_file_of_requests(tmp_path, content):
    path = write(tmp_path, content)

    for read in (read_trace, read_lengths):
        with pytest.raises(ScenarioError, match="found sessions of requests, which are not modelled"):
            read(path)


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        ("1700158623.5", "is a number, azure has dates as 2023-11-16 18:17:03"),
        ("1701012312345", "is a number, azure has dates as 2023-11-16 18:17:03"),
        ("11/16/2023 18:17:03", "is no ISO date, as 2023-11-16 18:17:03"),
    ],
)
def test_dates_of_azure_are_iso_dates(tmp_path, moment, why):
    path = write(tmp_path, f"{AZURE}{moment},4808,10\n")

    with pytest.raises(ScenarioError, match=re.escape(f":2: arrival {moment} {why}; 1 of 1 rows")):
        read_trace(path)


def test_dates_with_and_without_a_zone_are_not_mixed(tmp_path):
    first, second = "2024-05-10 00:00:00", "2024-05-10 00:00:01+00:00"

    for rows, has in (((first, second), "a zone, and the first has none"), ((second, first), "no zone, and the first")):
        with pytest.raises(ScenarioError, match=re.escape(f":3: arrival {rows[1]} has {has}")):
            read_trace(write(tmp_path, AZURE + "".join(f"{row},5,5\n" for row in rows)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "version: 2\ntime_unit: microseconds\n"),
        ("a.yml", "# of a run\nversion: 2\n"),
        ("a.csv", "---\nversion: 2\n"),
        ("a.csv", "trace: {version: 2, time_unit: us}\n"),
    ],
)
def test_yaml_is_named_and_so_is_the_table_beside_it(tmp_path, name, content):
    path = write(tmp_path, content, name)

    with pytest.raises(ScenarioError, match=r"is YAML, and no table; .* TraceV2 \(blis\), name the CSV beside it"):
        read_trace(path)


def test_a_table_is_read_whatever_its_name(tmp_path):
    assert len(read_trace(write(tmp_path, "arrival_s,input_len,output_len\n0,1,1\n", "a.yaml"))) == 1


def test_an_empty_object_is_said_to_be_empty(tmp_path):
    for content, message in (
        ("{}", "the object is empty$"),
        ("[{}, {}]", "the first object in a JSON array is empty$"),
    ):
        with pytest.raises(ScenarioError, match=message):
            read_trace(write(tmp_path, content))


def test_a_missing_file_a_folder_and_unknown_words(tmp_path):
    with pytest.raises(ScenarioError, match=r"none.csv: no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(ScenarioError, match=r"cannot be read: is a folder; name the file in it"):
        read_trace(tmp_path)
    with pytest.raises(ScenarioError, match=r"unknown trace format 'azur'; known: auto, azure"):
        read_trace(DATA / "azure.csv", format="azur")
    with pytest.raises(ScenarioError, match=r"time_scale must be > 0"):
        read_trace(DATA / "azure.csv", time_scale=0.0)
    with pytest.raises(
        ScenarioError, match=r"expected columns timestamp,.*\(mooncake\); found the columns of azure: give"
    ):
        read_trace(DATA / "azure.csv", format="mooncake")
    with pytest.raises(ScenarioError, match=r"unknown time_unit 'min'; known: s, ms, us, ns"):
        read_trace(DATA / "azure.csv", time_unit="min")


@settings(max_examples=60, deadline=None)
@given(
    junk=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)), head=st.sampled_from(["", AZURE, "{"])
)
def test_no_file_makes_a_traceback(tmp_path_factory, junk, head):
    path = write(tmp_path_factory.mktemp("junk"), head.encode() + junk)

    with pytest.raises(ScenarioError):
        read_trace(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "0,500,20\n1e13,500,20\n",
            ":3: arrival 1e+13 s is beyond 1e+12 s and cannot be meant; 1 of 2 rows cannot be used",
        ),
        (
            "0,500,20\n1e10,500,20\n",
            ":3: arrives 316.9 years from its neighbour in time, line 2 counted in s; at most 10",
        ),
        ("0,500,20\n-1e10,500,20\n5,5,5\n", ":3: arrives 316.9 years from its neighbour in time, line 2 counted in s"),
        ("1.7e12,5,5\n1.7e12,5,5\n", ":2: arrival 1.7e+12 s is beyond 1e+12 s"),
    ],
)
def test_arrivals_that_cannot_be_meant_are_refused(tmp_path, rows, message):
    path = write(tmp_path, f"arrival_s,input_len,output_len\n{rows}")

    with pytest.raises(ScenarioError, match=re.escape(f"{path}{message}")):
        read_trace(path)


def test_dates_centuries_apart_are_refused(tmp_path):
    path = write(tmp_path, f"{AZURE}1970-01-01 00:00:00,5,5\n2023-11-16 18:15:46,5,5\n")

    with pytest.raises(
        ScenarioError, match=re.escape(":3: arrives 53.87 years from its neighbour in time, line 2; at")
    ):
        read_trace(path)


def test_dates_in_seconds_since_1970_and_years_of_arrivals_are_read(tmp_path):
    rows = "".join(f"{1.7e9 + 3e8 * n},5,5\n" for n in range(3))

    assert read_trace(write(tmp_path, f"arrival_s,input_len,output_len\n{rows}")).arrival[-1] == 6e8


def test_spaces_quotes_and_odd_ends_of_lines_do_no_harm(tmp_path):
    text = ' arrival_s ; "input_len";output_len \r\n;;\r\n 1 ; 2 ; "3" \r\n   \r\n2;2.0; 3\r\n'
    trace = read_trace(write(tmp_path, text))

    assert trace.arrival.tolist() == [0.0, 1.0]
    assert trace.input_len.tolist() == [2, 2]


def test_true_is_no_number_of_tokens(tmp_path):
    with pytest.raises(ScenarioError, match=": item 1: input tokens True; 1 of 1 rows"):
        read_trace(write(tmp_path, '[{"arrival_s": 0, "input_len": true, "output_len": 1}]'))


def test_true_is_no_arrival(tmp_path):
    path = write(tmp_path, '[{"arrival_s": true, "input_len": 5, "output_len": 1}]')

    with pytest.raises(ScenarioError, match=": item 1: arrival True; 1 of 1 rows"):
        read_trace(path)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len,input_len\n0,100,10,7\n")

    with pytest.raises(ScenarioError, match="has 2 columns input_len; rename all but one"):
        read_trace(path)
    assert len(read_trace(write(tmp_path, "arrival_s,input_len,output_len,,\n0,100,10,7,8\n"))) == 1


def test_a_name_that_says_gzip_of_a_file_that_is_none_is_told(tmp_path):
    plain = write(tmp_path, "arrival_s,input_len,output_len\n0,100,10\n", "a.csv.gz")
    damaged = write(tmp_path, b"arrival_s,input_len\xff\xff\n0,100,10\n", "b.csv.gz")

    assert read_trace(plain).notes == (f"{plain}: is named .gz and is not packed: read as it is",)
    with pytest.raises(ScenarioError, match=r"b.csv.gz: is named .gz and is no gzip file, nor text; fetch it again"):
        read_trace(damaged)


def test_what_is_left_of_a_cut_trace_is_told(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len\n0,1,1\n2,1,1\n4,1,1\n")
    told = f"{path}: read as afdsim (s): 3 requests in 4.00 s, 0.7500 req/s"

    assert read_trace(path).told == told
    assert read_trace(path, limit=2).told == f"{told}; of them 2 requests in 2.00 s, 1.000 req/s"
    assert read_trace(path, limit=1).told == f"{told}; of them 1 request at once"
    assert read_trace(path, time_scale=0.5).told == f"{told}; of them 3 requests in 2.00 s, 1.500 req/s"


CASES = {
    "az_plain.csv": "azure (timestamps): 30 requests in 43.50 s, 0.6897 req/s",
    "az_semicolon.csv": "azure (timestamps): 30 requests in 43.50 s, 0.6897 req/s",
    "az_leading_blank.csv": "azure (timestamps): 1 request at once",
    "bailian_30.jsonl": "bailian (s): 30 requests in 49.41 s, 0.6071 req/s",
    "burst6.csv": "burstgpt (s): 25 requests in 84.00 s, 0.2976 req/s",
    "burst_float0.csv": "burstgpt (s): 25 requests in 84.00 s, 0.2976 req/s",
    "llmss.jsonl": "llmservingsim (ns): 30 requests in 29.00 s, 1.034 req/s",
    "moon.jsonl": "mooncake (ms): 30 requests in 29.00 s, 1.034 req/s",
}
REFUSED = {
    "gap3.csv": "arrival 1e+13 s is beyond 1e+12 s and cannot be meant",
    "moon_array.json": "fit mooncake (ms) and bailian (s)",
    "vidur_noarrival.csv": "read as vidur: has lengths and no arrivals (no column arrived_at;",
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_read_and_told(shared, name):
    assert read_trace(_case(shared, name)).told.endswith(f"{name}: read as {CASES[name]}")


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_is_refused_with_its_cause(shared, name):
    with pytest.raises(ScenarioError, match=re.escape(REFUSED[name])):
        read_trace(_case(shared, name))


def test_lengths_without_arrivals_of_a_case_are_read(shared):
    found = read_lengths(_case(shared, "vidur_noarrival.csv"))

    assert (len(found), int(found.input_len.sum()), int(found.output_len.sum())) == (30, 3435, 1035)


def _case(shared, name):
    path = shared / "cases" / "traces" / name
    if not path.exists():
        pytest.skip("no cases on this machine")
    return path


def test_the_published_azure_trace_is_read_whole(shared):
    trace = read_trace(shared / "traces" / "azure23_conv.csv")

    assert len(trace) == 19_366
    assert trace.arrival[-1] == pytest.approx(3501.721937)
    assert trace.output_len.mean() == pytest.approx(211, abs=0.5)
    assert trace.told.endswith("read as azure (timestamps): 19,366 requests in 3,501.72 s, 5.530 req/s")


def test_the_published_mooncake_trace_is_read_whole(shared):
    trace = read_trace(shared / "traces" / "mooncake_conversation.jsonl")

    assert len(trace) == 12_031
    assert trace.notes[0].endswith("12,031 requests on 1,180 timestamps; see workload.trace.spread")
