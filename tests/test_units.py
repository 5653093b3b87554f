import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.units import (
    exact,
    parse,
    show_bandwidth,
    show_bytes,
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
        ("50ms", "bandwidth", "'50ms' is a time; a bandwidth is needed, e.g. '400Gbps'"),
        ("80GB", "bandwidth", "'80GB' is a size; a bandwidth is needed, e.g. '400Gbps'"),
        ("5 req/s", "time", "'5 req/s' is a rate; a time is needed, e.g. '20us'"),
        (
            "5usec",
            "time",
            "unknown time unit 'usec'; did you mean 'us'? (known: s, ms, us, µs, ns, min, h, d)",
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
