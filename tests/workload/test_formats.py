"""Formats are told by the columns that only they have, units never guessed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.errors import ScenarioError
from afdsim.workload.formats import FORMATS, fitting
from afdsim.workload.traces import read_lengths, read_trace
from tests.workload.written import ENCODINGS, MORE, SHAPES, TIMED, packed, records, text

requests = st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 99_999), st.integers(1, 99_999)), min_size=1)


def write(folder, content, name="trace"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def columns(trace):
    return trace.input_len.tolist(), trace.output_len.tolist()


# published formats, from excerpts written by hand

EXCERPTS = {
    "azure 2023": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:51.2224670,879,55\n",
        "azure (timestamps): 3 requests in 4.54 s, 0.6605 req/s", 1649, 208,
    ),
    "azure 2024": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:00.017335+00:00,2399,6\n"
        "2024-05-10 00:00:10.009930+00:00,76,15\n",
        "azure (timestamps): 3 requests in 10.00 s, 0.3000 req/s", 4637, 26,
    ),
    "mooncake": (
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}\n'
        '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 47]}\n'
        '{"timestamp": 30535, "input_length": 10, "output_length": 1, "hash_ids": []}\n',
        "mooncake (ms): 3 requests in 3.05 s, 0.9826 req/s", 13_437, 79,
    ),
    "burstgpt": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n"
        "118,GPT-4,417,276,693,API log\n119,GPT-4,417,0,417,API log\n120,GPT-4,417, 0,417,API log\n",
        "burstgpt (s): 3 requests in 113.00 s, 0.02655 req/s", 1976, 524,
    ),
    "burstgpt with sessions": (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "0.5,a,1.5,ChatGPT,472.0,18.0,490,Conversation log\n2.5,,0.5,ChatGPT,1087.0,0.0,1087,Conversation log\n"
        "4.5,a,2.5,ChatGPT,17.0,5.0,22,Conversation log\n",
        "burstgpt (s): 2 requests in 4.00 s, 0.5000 req/s", 489, 23,
    ),
    "bailian": (
        '{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 521, "output_length": 132, "type": '
        '"text", "turn": 1, "hash_ids": [1089, 1090]}\n'
        '{"chat_id": 160, "parent_chat_id": 159, "timestamp": 63.614, "input_length": 900, "output_length": 8, "type": '
        '"search", "turn": 2, "hash_ids": [1089]}\n',
        "bailian (s): 2 requests in 2.50 s, 0.8000 req/s", 1421, 140,
    ),
    "vidur": (
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n2.5,396,109\n",
        "vidur (s): 2 requests in 2.00 s, 1.000 req/s", 770, 153,
    ),
    "llmservingsim": (
        '{"input_toks": 35, "output_toks": 200, "arrival_time_ns": 46926808, "input_tok_ids": [1, 2]}\n'
        '{"input_toks": 40, "output_toks": 9, "arrival_time_ns": 546926808, "input_tok_ids": [1]}\n',
        "llmservingsim (ns): 2 requests in 500 ms, 4.000 req/s", 75, 209,
    ),
    "blis": (
        "request_id,client_id,tenant_id,slo_class,streaming,input_tokens,output_tokens,model,arrival_time_us,status\n"
        "0,c,t,standard,true,128,32,m,1000,ok\n1,c,t,standard,true,256,64,m,501000,ok\n2,c,t,s,true,9,0,m,601000,error\n",
        "blis (us): 2 requests in 500 ms, 4.000 req/s", 384, 96,
    ),
    "vllm-bench": (
        json.dumps({
            "date": "20260101-000000", "completed": 2, "total_input_tokens": 300, "input_lens": [100, 200, 9],
            "output_lens": [10, 20, 0], "ttfts": [0.1, 0.2, 0.0], "itls": [[0.1, 0.1], [0.2], []],
            "start_times": [1000.5, 1001.5, 1002.0], "errors": ["", "", "timeout"], "generated_texts": ["a", "b", ""],
        }),
        "vllm-bench (s): 2 requests in 1.00 s, 2.000 req/s", 300, 30,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXCERPTS)
def test_an_excerpt_of_a_published_trace_has_its_counts_and_sums(name, tmp_path):
    content, told, prompts, outputs = EXCERPTS[name]
    path = write(tmp_path, content)
    trace = read_trace(path)

    assert trace.told == f"{path}: read as {told}"
    assert (int(trace.input_len.sum()), int(trace.output_len.sum())) == (prompts, outputs)


def test_failures_of_burstgpt_are_counted_however_zero_is_written(tmp_path):
    path = write(tmp_path, EXCERPTS["burstgpt"][0].replace("GPT-4,417,0,", "GPT-4,417.0,0.0,"))

    assert read_trace(path).notes == (f"{path}: 2 failed requests (no output tokens) left out",)
    one = write(tmp_path, EXCERPTS["burstgpt"][0].replace("GPT-4,417,0,", "GPT-4,417,1,"), "one")
    assert read_trace(one).notes == (f"{one}: 1 failed request (no output tokens) left out",)


def test_a_note_says_that_turns_of_a_chat_are_independent(tmp_path):
    path = write(tmp_path, EXCERPTS["bailian"][0])

    assert read_trace(path).notes == (
        f"{path}: the turns of a chat are independent requests here: sessions are not modelled",
    )


# lengths without arrivals


def test_prompts_of_a_custom_dataset_are_estimated_and_their_answers_counted(tmp_path):
    line = '{"prompt": "What is the capital of India?", "output_tokens": 10}\n{"prompt": "é", "output_tokens": 1520}\n'
    path = write(tmp_path, line)
    found = read_lengths(path)

    assert columns(found) == ([8, 1], [10, 1520])
    assert found.told.startswith(f"{path}: read as vllm-custom (lengths only): 2 requests")
    assert found.notes == (
        f"{path}: tokens in are estimated: 4 bytes of UTF-8 a token, rounded up; input_len in place of prompt, and "
        "output_len, are taken as counted",
    )
    with pytest.raises(
        ScenarioError, match=r"read as vllm-custom: has lengths and no arrivals \(prompts have no times"
    ):
        read_trace(path)
    with pytest.raises(ScenarioError, match="found prompts without the lengths of their answers: write output_tokens"):
        read_lengths(write(tmp_path, '{"prompt": "a"}\n{"prompt": "b"}\n', "bare"))
    with pytest.raises(ScenarioError, match="of 2 rows cannot be used"):
        read_lengths(write(tmp_path, line.replace("10", '"ten"'), "damaged"))


def test_conversations_are_counted_by_a_rule_that_is_stated(tmp_path):
    talk = [
        {"from": "human", "value": "x" * 41},
        {"from": "gpt", "value": "é" * 10},
        {"from": "human", "value": "more"},
    ]
    silent = [{"from": "human", "value": "hello"}]
    path = write(tmp_path, json.dumps([{"id": "a", "conversations": talk}, {"id": "b", "conversations": silent}]))
    found = read_lengths(path)

    assert columns(found) == ([11], [5])
    lines = "".join(json.dumps({"id": n, "conversations": each}) + "\n" for n, each in enumerate(([], talk, silent)))
    assert columns(read_lengths(write(tmp_path, lines, "lines"))) == ([11], [5])
    assert found.notes[0] == f"{path}: 1 conversation without a question and an answer left out"
    assert "tokens are estimated: 4 bytes of UTF-8 a token, rounded up" in found.notes[1]
    with pytest.raises(
        ScenarioError, match=r"read as sharegpt: has lengths and no arrivals \(conversations have no times"
    ):
        read_trace(path)


def test_turns_in_the_keys_of_openai_are_read(tmp_path):
    talk = [{"role": "user", "content": "x" * 41}, {"role": "assistant", "content": "é" * 10}]
    path = write(tmp_path, json.dumps([{"id": n, "conversations": talk} for n in range(3)]))

    assert columns(read_lengths(path)) == ([11] * 3, [5] * 3)


@pytest.mark.parametrize(
    ("turn", "has"), [({"human": "hi", "assistant": "yo"}, "human,assistant"), ("hi", r"no keys \(str\)")]
)
def test_turns_of_another_shape_are_named_before_a_law_is_advised(turn, has, tmp_path):
    path = write(tmp_path, json.dumps([{"id": n, "conversations": [turn, turn]} for n in range(3)]))

    for read in (read_trace, read_lengths):
        with pytest.raises(
            ScenarioError, match=f": item 1: a turn of the conversation has {has}; expected from,value or"
        ):
            read(path)


@pytest.mark.parametrize("name", TIMED)
def test_no_law_is_advised_for_lengths_that_cannot_be_read(name, tmp_path):
    rows = records(name, [(0, 5, 6)])
    del rows[0][FORMATS[name].columns[0]]
    rows[0][FORMATS[name].columns[1]] = "many"

    with pytest.raises(ScenarioError, match="item 1: input tokens many; 1 of 1 rows cannot be used"):
        read_trace(write(tmp_path, text(rows, "array")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output_lens": [1, 2]}, r"the lists are unequal \(3 start_times, 3 input_lens, 2 output_lens\)"),
        ({"start_times": [1.5]}, r"the lists are unequal \(1 start_times, 3 input_lens, 3 output_lens\)"),
        ({"output_lens": []}, r"the lists are unequal \(3 start_times, 3 input_lens, 0 output_lens\)"),
        (
            {"start_times": [], "input_lens": [], "output_lens": []},
            r"holds no requests \(start_times and input_lens and output_lens are empty\)",
        ),
    ],
)
def test_unequal_lists_of_a_benchmark_are_counted(changed, message, tmp_path):
    saved = {**json.loads(EXCERPTS["vllm-bench"][0]), **changed}

    for content in (json.dumps(saved), json.dumps([saved]), json.dumps(saved, indent=1)):
        for read in (read_trace, read_lengths):
            with pytest.raises(ScenarioError, match=message):
                read(write(tmp_path, content))


def test_a_benchmark_without_start_times_gives_lengths(tmp_path):
    saved = json.loads(EXCERPTS["vllm-bench"][0])
    del saved["start_times"]
    path = write(tmp_path, json.dumps(saved, indent=2))

    assert columns(read_lengths(path)) == ([100, 200], [10, 20])
    with pytest.raises(ScenarioError, match=r"no arrivals .no column start_times; found .*; give arrivals by a law"):
        read_trace(path)
    with pytest.raises(ScenarioError, match="holds several results, one a line"):
        read_lengths(write(tmp_path, f"{json.dumps(saved)}\n{json.dumps(saved)}\n"))


@pytest.mark.parametrize("name", TIMED)
def test_lengths_without_arrivals_are_read_in_every_format(name, tmp_path):
    rows = records(name, [(0, 5, 6), (1, 7, 8)])
    for row in rows:
        del row[FORMATS[name].columns[0]]
    path = write(tmp_path, text(rows, "lines"))
    found = read_lengths(path)

    assert columns(found) == ([5, 7], [6, 8])
    assert found.told == (
        f"{path}: read as {name} (lengths only): 2 requests of 6.0 tokens in and 7.0 out on average; "
        "lengths from the file, arrivals from the law"
    )
    with pytest.raises(ScenarioError, match=f"read as {name}: has lengths and no arrivals .*process: poisson"):
        read_trace(path)
    with pytest.raises(
        ScenarioError, match=f"read as {name}: has lengths and no arrivals .*leave start out, and set end"
    ):
        read_lengths(path, window=(0.0, 1.0))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("arrival_s,input_tokens,output_tokens", "rename the lengths, for example to input_len,output_len"),
        ("arrival_time,input_tokens,output_tokens", "time_unit: s, ms, us or ns"),
        (
            "ts_ms,isl,osl",
            "rename the columns, for example to timestamp,input_length,output_length, and give time_unit: ms",
        ),
        (
            "arrival_time,input_len,output_len",
            "rename arrival_time to arrival_s if it counts in s, or rename the columns to",
        ),
        (
            "timestamp_ms,input_len,output_len",
            "afdsim and timestamp_ms, which looks like arrivals; rename the columns to",
        ),
        ("Time (ms),input_len,output_len", "input_length,output_length and give time_unit: ms"),
        ("time_s,input_len,output_len", "rename time_s to arrival_s if it counts in s"),
        ("arrived,num_prefill_tokens,num_decode_tokens", "rename arrived to arrived_at if it counts in s"),
        ("timestamp_us,input_length,output_length", "rename timestamp_us to timestamp, and give time_unit: us"),
        ("arrival_s,input_length,output_length", "rename input_length,output_length to input_len,output_len"),
        ("time,ContextTokens,GeneratedTokens", "rename time to TIMESTAMP if it holds dates and times"),
    ],
)
def test_arrivals_under_another_name_are_never_left_out(columns, message, tmp_path):
    path = write(tmp_path, f"{columns}\n0,100,10\n28133,100,10\n")

    for read in (read_trace, read_lengths):
        with pytest.raises(ScenarioError) as caught:
            read(path)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "column", ["request_id", "time_to_first_token", "latency", "total_tokens", "Elapsed time", "e2e_s"]
)
def test_other_columns_do_not_look_like_arrivals(column, tmp_path):
    path = write(tmp_path, f"{column},input_len,output_len\n1,100,10\n")

    assert columns(read_lengths(path)) == ([100], [10])


def test_lengths_that_anybody_may_name_so_are_no_format(tmp_path):
    path = write(tmp_path, "input_tokens,output_tokens\n100,10\n")

    with pytest.raises(ScenarioError, match=r"found input_tokens,output_tokens in a CSV; .*: to input_len,output_len$"):
        read_lengths(path)
    assert columns(read_lengths(path, "blis")) == ([100], [10])


def test_what_a_refusal_advises_is_read(tmp_path):
    path = write(tmp_path, "timestamp,input_length,output_length\n0,100,10\n28133,100,10\n")

    assert read_trace(path, time_unit="ms").arrival[-1] == 28.133


def test_a_window_of_lengths_is_told_by_their_arrivals(tmp_path):
    path = write(tmp_path, text(records("azure", [(3000, 7, 8), (0, 5, 6), (9000, 1, 1)]), "comma"))
    found = read_lengths(path, window=(0.0, 4.0))

    assert columns(found) == ([5, 7], [6, 8])
    assert found.told == (
        f"{path}: read as azure (timestamps): 3 requests in 9.00 s, 0.3333 req/s; of them 2 requests in 3.00 s, "
        "0.6667 req/s; lengths from the file, arrivals from the law"
    )
    assert columns(read_lengths(path)) == ([7, 5, 1], [8, 6, 1])


# units


@pytest.mark.parametrize("arrivals", [(0, 1000, 2000), (0.0, 0.25, 1.5)])
@pytest.mark.parametrize("shape", ["comma", "lines", "array"])
def test_three_columns_that_two_formats_share_are_refused_without_a_unit(arrivals, shape, tmp_path):
    rows = [{"timestamp": at, "input_length": 5, "output_length": 5} for at in arrivals]
    path = write(tmp_path, text(rows, shape))

    with pytest.raises(
        ScenarioError, match=r"fit mooncake \(ms\) and bailian \(s\), and no other .*format: .*time_unit: "
    ):
        read_trace(path)
    assert len(read_lengths(path)) == 3
    for unit, factor in {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}.items():
        given = read_trace(path, time_unit=unit)
        assert given.arrival.tolist() == pytest.approx([at * factor for at in arrivals])
        assert f"read as generic ({unit}): " in given.told
    assert read_trace(path, "mooncake").arrival[-1] == pytest.approx(arrivals[-1] * 1e-3)
    assert read_trace(path, "bailian").arrival[-1] == arrivals[-1]


def test_dates_are_those_of_azure(tmp_path):
    rows = "2024-05-12T00:00:00,100,10\n2024-05-12T00:00:05,100,10\n"
    path = write(tmp_path, f"timestamp,input_length,output_length\n{rows}")
    name = "name the columns TIMESTAMP,ContextTokens,GeneratedTokens"

    with pytest.raises(ScenarioError, match=f"timestamp 2024-05-12T00:00:00 is a date; .*{name}"):
        read_trace(path)
    with pytest.raises(ScenarioError, match=f":2: arrival 2024-05-12T00:00:00 .*{name}"):
        read_trace(path, time_unit="s")
    assert read_trace(write(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")).arrival.tolist() == [
        0.0,
        5.0,
    ]


def test_a_unit_of_named_arrivals_is_changed_with_their_name(tmp_path):
    path = write(tmp_path, "arrival_s,input_len,output_len\n0,100,10\n")

    with pytest.raises(
        ScenarioError, match=r"remove time_unit, or rename the columns to timestamp,.* if they count in ms"
    ):
        read_trace(path, time_unit="ms")


def test_fractions_are_no_milliseconds_of_mooncake(tmp_path):
    rows = [{"timestamp": at, "input_length": 5, "output_length": 5, "hash_ids": [1]} for at in (0.0, 0.289)]
    path = write(tmp_path, text(rows, "lines"))

    with pytest.raises(ScenarioError, match=r":2: timestamp 0.289 has a fraction: .*give format: mooncake or bailian"):
        read_trace(path)
    assert read_trace(path, "bailian").arrival[-1] == 0.289
    assert read_trace(path, "mooncake").arrival[-1] == pytest.approx(0.000289)
    assert read_trace(path, time_unit="ms").arrival[-1] == pytest.approx(0.000289)


def test_hash_ids_with_a_column_of_bailian_alone_tell_nothing(tmp_path):
    row = {"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1], "type": "text"}

    with pytest.raises(ScenarioError, match="and no other column tells which"):
        read_trace(write(tmp_path, text([row], "lines")))


@pytest.mark.parametrize("name", TIMED)
def test_a_unit_must_be_that_of_the_format(name, tmp_path):
    path, own = write(tmp_path, text(records(name, [(0, 5, 6), (1000, 5, 6)]), "lines")), FORMATS[name].unit

    for unit in {"s", "ms", "us", "ns"} - {own}:
        for form in ("auto", name):
            with pytest.raises(ScenarioError, match=f"time_unit {unit} contradicts the format {name}, whose arrivals"):
                read_trace(path, form, time_unit=unit)
    if own in {"s", "ms", "us", "ns"}:
        assert read_trace(path, time_unit=own).arrival[-1] == 1.0


def test_a_chat_trace_is_not_read_in_milliseconds(tmp_path):
    path = write(tmp_path, EXCERPTS["bailian"][0])

    with pytest.raises(ScenarioError, match=r"has chat_id, parent_chat_id, turn, .* looks like bailian \(s\)"):
        read_trace(path, "mooncake")
    assert read_trace(path, "generic", time_unit="ms").arrival[-1] == pytest.approx(0.0025)


# one format, every file


def test_no_columns_are_those_of_two_formats():
    for name, form in FORMATS.items():
        found = {*form.columns, *MORE.get(name, {})} - {""}

        assert list(fitting(found)) == [name]


def test_columns_of_two_formats_are_refused(tmp_path):
    rows = [
        {**row, **more} for row, more in zip(*(records(name, [(0, 5, 6)]) for name in ("azure", "vidur")), strict=True)
    ]

    with pytest.raises(ScenarioError, match="the columns are those of azure and of vidur; give format: one of them"):
        read_trace(write(tmp_path, text(rows, "comma")))


@pytest.mark.parametrize("given", TIMED)
@pytest.mark.parametrize("name", TIMED)
def test_a_format_that_the_file_has_not_is_answered_with_its_own(name, given, tmp_path):
    path = write(tmp_path, text(records(name, [(0, 5, 6)]), "lines"))
    alike = FORMATS[name].columns == FORMATS[given].columns

    if name != given and not alike:
        with pytest.raises(
            ScenarioError, match=f"found the columns of {name}: give 'format: {name}', or leave format out"
        ):
            read_trace(path, given)


@given(
    asked=requests,
    name=st.sampled_from(TIMED),
    shape=st.sampled_from(SHAPES),
    encoding=st.sampled_from(ENCODINGS),
    kept=st.tuples(st.booleans(), st.integers(0, 3)),
)
def test_what_is_written_is_read_in_every_format_shape_and_encoding(
    tmp_path_factory, asked, name, shape, encoding, kept
):
    zipped, blank = kept
    rows = records(name, asked)
    shape = (
        "array" if shape == "columns" and name in {"mooncake", "bailian"} else shape
    )  # hash_ids are lists themselves
    path = write(tmp_path_factory.mktemp("trace"), packed(text(rows, shape, blank), encoding, zipped))
    trace, ordered = read_trace(path), sorted(asked, key=lambda request: request[0])

    assert f": read as {name} (" in trace.told
    assert columns(trace) == ([each[1] for each in ordered], [each[2] for each in ordered])
    assert trace.arrival.tolist() == pytest.approx([(each[0] - ordered[0][0]) / 1e3 for each in ordered], abs=1e-6)
    assert columns(read_lengths(path)) == ([each[1] for each in asked], [each[2] for each in asked])


@given(st.integers(1, 200))
def test_a_file_that_is_cut_short_is_refused(tmp_path_factory, missing):
    data = packed(text(records("azure", [(n, 5, 6) for n in range(40)]), "comma"), zipped=True)
    path = write(tmp_path_factory.mktemp("trace"), data[: -min(missing, len(data) - 2)])

    with pytest.raises(ScenarioError, match="the gzip file is cut short; fetch it again"):
        read_trace(path)
