import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim import units
from afdsim.units import (
    exact,
    parse,
    show_bandwidth,
    show_bytes,
    show_change,
    show_count,
    show_rate,
    show_time,
    suggestion,
)

QUANTITIES = ("time", "bandwidth", "size", "rate", "price", "compute")


@pytest.mark.parametrize(
    ("text", "quantity", "value"),
    [
        ("5us", "time", 5e-6),
        ("5 us", "time", 5e-6),
        ("5µs", "time", 5e-6),
        ("1.5e-6s", "time", 1.5e-6),
        ("47.5ms", "time", 0.0475),
        ("100 ns", "time", 1e-7),
        ("10min", "time", 600.0),
        ("2h", "time", 7200.0),
        ("1d", "time", 86400.0),
        ("-3us", "time", -3e-6),
        ("400Gbps", "bandwidth", 5e10),
        ("40 GB/s", "bandwidth", 4e10),
        ("1GiB/s", "bandwidth", 2.0**30),
        ("8bps", "bandwidth", 1.0),
        ("80GB", "size", 8e10),
        ("80GiB", "size", 80 * 2.0**30),
        ("180 req/s", "rate", 180.0),
        ("90 req/min", "rate", 1.5),
        ("inf", "rate", math.inf),
        ("2.80 USD/h", "price", 2.8),
        ("989TFLOPS", "compute", 9.89e14),
    ],
)
def test_a_unit_gives_the_nearest_float(text, quantity, value):
    assert parse(text, quantity) == value


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["s", "ms", "us", "ns", "min", "h"]))
def test_conversion_rounds_once(whole, decimals, unit):
    factors = {
        "s": 1,
        "ms": Fraction(1, 10**3),
        "us": Fraction(1, 10**6),
        "ns": Fraction(1, 10**9),
        "min": 60,
        "h": 3600,
    }
    text = f"{whole}.{decimals:06}"

    assert parse(f"{text}{unit}", "time") == float(Fraction(text) * factors[unit])


@given(st.floats(0, 1e30, allow_nan=False), st.sampled_from(QUANTITIES))
def test_exact_text_reads_back_to_the_same_bits(value, quantity):
    assert parse(exact(value, quantity), quantity) == value


@pytest.mark.parametrize(
    ("value", "quantity", "text"),
    [
        (9e-6, "time", "9 us"),
        (1.5e-6, "time", "1.5 us"),
        (0.0, "time", "0 s"),
        (600.0, "time", "600 s"),
        (5e10, "bandwidth", "50 GB/s"),
        (2.8, "price", "2.8 USD/h"),
        (math.inf, "rate", "inf"),
    ],
)
def test_exact_text_is_short(value, quantity, text):
    assert exact(value, quantity) == text


@pytest.mark.parametrize(
    ("text", "quantity", "message"),
    [
        ("20", "time", "needs a unit, for example '20us' or '20ms'"),
        ("400", "bandwidth", "needs a unit, for example '400Gbps' or '400GB/s'"),
        ("180", "rate", "needs a unit, for example '180 req/s'"),
        ("400GBps", "bandwidth", "unknown unit 'GBps'; 'Gbps' (gigabits) or 'GB/s' (gigabytes)?"),
        ("400MBPS", "bandwidth", "unknown unit 'MBPS'; 'Mbps' (megabits) or 'MB/s' (megabytes)?"),
        ("400gbps", "bandwidth", "unknown unit 'gbps'; 'Gbps' (gigabits) or 'GB/s' (gigabytes)?"),
        ("400gb/s", "bandwidth", "unknown unit 'gb/s'; 'Gbps' (gigabits) or 'GB/s' (gigabytes)?"),
        ("400G", "bandwidth", "unknown unit 'G'; 'Gbps' (gigabits) or 'GB/s' (gigabytes)?"),
        ("400Gb", "bandwidth", "unknown unit 'Gb'; 'Gbps' (gigabits) or 'GB/s' (gigabytes)?"),
        ("80G", "size", "unknown unit 'G'; 'GB' (powers of 1000) or 'GiB' (powers of 1024)?"),
        ("80gb", "size", "unknown unit 'gb'; 'GB' (powers of 1000) or 'GiB' (powers of 1024)?"),
        ("80b", "size", "unknown unit 'b'; 'B' (bytes) or 'KB'?"),
        ("5m", "time", "unknown unit 'm'; 'min' (minutes) or 'ms' (milliseconds)?"),
        ("80 Gb/s", "size", "'80 Gb/s' is a bandwidth; a size is needed, e.g. '80GB'"),
        ("5/s", "time", "'5/s' is a rate; a time is needed, e.g. '20us'"),
        ("50ms", "bandwidth", "'50ms' is a time; a bandwidth is needed, e.g. '400Gbps'"),
        ("80GB", "bandwidth", "'80GB' is a size; a bandwidth is needed, e.g. '400Gbps'"),
        ("5 req/s", "time", "'5 req/s' is a rate; a time is needed, e.g. '20us'"),
        (
            "5uss",
            "time",
            "unknown time unit 'uss'; did you mean 'us'? (known: s, ms, us, µs, ns, min, h, d)",
        ),
        ("5M", "price", "unknown price unit 'M' (known: USD/h)"),
        ("fast", "time", "'fast' is not a time; write a number and a unit, e.g. '20us'"),
        ("", "time", "'' is not a time; write a number and a unit, e.g. '20us'"),
        ("1e999s", "time", "'1e999s' is too large"),
        ("nan s", "time", "'nan s' is not a time; write a number and a unit, e.g. '20us'"),
        ("inf", "time", "'inf' is not a time; write a number and a unit, e.g. '20us'"),
    ],
)
def test_a_wrong_text_says_what_to_write(text, quantity, message):
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text, quantity)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "quantity", "same"),
    [
        ("400 Gb/s", "bandwidth", "400Gbps"),
        ("400Gbit/s", "bandwidth", "400Gbps"),
        ("400 Gbits/s", "bandwidth", "400Gbps"),
        ("400 Mb/s", "bandwidth", "400Mbps"),
        ("64 kbit/s", "bandwidth", "64Kbps"),
        ("8 Gibit/s", "bandwidth", "1GiB/s"),
        ("1 GiBps", "bandwidth", "1GiB/s"),
        ("1 GByte/s", "bandwidth", "1GB/s"),
        ("80 Gi", "size", "80GiB"),
        ("4 kB", "size", "4KB"),
        ("60 rps", "rate", "60 req/s"),
        ("60 qps", "rate", "60 req/s"),
        ("60 1/s", "rate", "60 req/s"),
        ("60/s", "rate", "60 req/s"),
        ("60 requests/min", "rate", "1 req/s"),
        ("2.8 $/h", "price", "2.8 USD/h"),
        ("989 TFLOP/s", "compute", "989TFLOPS"),
        ("9 \N{GREEK SMALL LETTER MU}s", "time", "9us"),
        ("9 \N{MICRO SIGN}s", "time", "9us"),
        ("9 usec", "time", "9us"),
        ("50 milliseconds", "time", "50ms"),
        ("2 hours", "time", "2h"),
    ],
)
def test_a_unit_may_be_spelled_as_others_do(text, quantity, same):
    assert parse(text, quantity) == parse(same, quantity)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["60 rps", "7200 req/min", "inf"], ([60.0, 120.0, math.inf], "req/s")),
        (["400Gb/s", "50 GB/s"], ([400.0, 400.0], "Gbps")),
        (["8 Gibit/s", "1GiB/s"], ([8.0, 8.0], "Gibit/s")),
        (["5us", "1 msec"], ([5.0, 1000.0], "us")),
        (["5us", "1 rps"], None),
        ([], None),
    ],
)
def test_amounts_of_one_quantity_have_one_unit(texts, found):
    assert units.together(texts) == found


def test_a_spelling_means_one_thing_and_is_never_written():
    written = [unit for known in units._UNITS.values() for unit in known]
    spelled = [unit for known in units._SPELLINGS.values() for unit in known]

    assert len(set(written) | set(spelled)) == len(written) + len(spelled)


@given(st.text(max_size=100), st.sampled_from(QUANTITIES))
def test_any_text_is_a_number_or_a_value_error(text, quantity):
    message = ""
    try:
        number = parse(text, quantity)
    except ValueError as error:
        number, message = 0.0, str(error)

    assert not math.isnan(number)
    assert len(message) < 400


def test_people_read_three_digits():
    assert [show_time(t) for t in (0.0475, 3502, 9.999e-4, 0, 20e-6)] == [
        "47.5 ms",
        "58.4 min",
        "1.00 ms",
        "0 s",
        "20.0 us",
    ]
    assert (show_bytes(80e9), show_bandwidth(4e10)) == ("80.0 GB", "40.0 GB/s")
    assert (show_rate(4039.3, "tok/s"), show_count(6144)) == ("4,039 tok/s", "6,144")
    assert (show_time(math.nan), show_rate(math.inf), show_count(math.nan)) == ("n/a", "inf req/s", "n/a")


def test_suggestions_ignore_case_and_need_likeness():
    assert suggestion("h20", ["H20", "L4"]) == "; did you mean 'H20'?"
    assert suggestion("zebra", ["H20", "L4"]) == ""


def test_a_change_has_a_sign_unless_it_is_none():
    assert [show_change(ratio) for ratio in (0.031, -0.2, 1e-5, -1e-5, 12.0)] == [
        "+3.1%", "-20.0%", "0.0%", "0.0%", "+1,200.0%",
    ]  # fmt: skip
