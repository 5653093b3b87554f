"""Text with a unit <-> SI number: the only place that converts.

A unit is compulsory, because a bare ``400`` has been a bandwidth in bits, in bytes and in kilobytes. Conversion is
exact (rational arithmetic, rounded once): ``5us`` is the float nearest to 5e-6, the one that ``5e-6`` denotes.

>>> parse("5us", "time") == 5e-6
True
>>> parse("400Gbps", "bandwidth")
50000000000.0
>>> show_time(0.0475)
'47.5 ms'
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

Quantity = Literal["time", "bandwidth", "size", "rate", "price", "compute", "token rate"]
"""SI units: seconds, bytes/s, bytes, 1/s, USD per hour (the one exception), FLOP/s, tokens/s."""

_BINARY = tuple((f"{prefix}iB", Fraction(1024**power)) for power, prefix in enumerate("KMGTP", start=1))
_DECIMAL = tuple((prefix, Fraction(1000**power)) for power, prefix in enumerate(["", *"KMGTP"]))

_SIZES = (*((f"{prefix}B", factor) for prefix, factor in _DECIMAL), *_BINARY)
_BITS = tuple((f"{prefix}bps", factor / 8) for prefix, factor in _DECIMAL)

_UNITS: Mapping[Quantity, Mapping[str, Fraction]] = MappingProxyType(
    {
        "time": MappingProxyType(
            {
                "s": Fraction(1),
                "ms": Fraction(1, 10**3),
                "us": Fraction(1, 10**6),
                "µs": Fraction(1, 10**6),
                "ns": Fraction(1, 10**9),
                "min": Fraction(60),
                "h": Fraction(3600),
                "d": Fraction(86400),
            }
        ),
        "bandwidth": MappingProxyType({**{f"{name}/s": factor for name, factor in _SIZES}, **dict(_BITS)}),
        "size": MappingProxyType(dict(_SIZES)),
        "rate": MappingProxyType({"req/s": Fraction(1), "req/min": Fraction(1, 60), "req/h": Fraction(1, 3600)}),
        "price": MappingProxyType({"USD/h": Fraction(1)}),
        "compute": MappingProxyType(
            {f"{prefix}FLOPS": factor for prefix, factor in _DECIMAL if prefix in ("", "G", "T", "P")}
        ),
        "token rate": MappingProxyType({"tok/s": Fraction(1)}),
    }
)
"""Units of each quantity and their SI value; the first unit is the SI one but for bandwidth, size and compute."""

_PREFIXES = (*_DECIMAL, ("k", Fraction(1000)))


def _spelled(*rows: tuple[str, Fraction]) -> Mapping[str, Fraction]:
    return MappingProxyType({unit: factor for texts, factor in rows for unit in texts.split()})


_SPELLINGS: Mapping[Quantity, Mapping[str, Fraction]] = MappingProxyType(
    {
        "time": _spelled(
            ("sec secs second seconds", Fraction(1)),
            ("msec msecs millisecond milliseconds", Fraction(1, 10**3)),
            ("\N{GREEK SMALL LETTER MU}s usec usecs microsecond microseconds", Fraction(1, 10**6)),
            ("nsec nsecs nanosecond nanoseconds", Fraction(1, 10**9)),
            ("mins minute minutes", Fraction(60)),
            ("hr hrs hour hours", Fraction(3600)),
            ("day days", Fraction(86400)),
        ),
        "bandwidth": _spelled(
            *((f"{prefix}b/s {prefix}bit/s {prefix}bits/s {prefix}bit/sec", n / 8) for prefix, n in _PREFIXES),
            *((f"{prefix}B/sec {prefix}Byte/s {prefix}Bytes/s", n) for prefix, n in _PREFIXES),
            *((f"{name}ps {name}/sec", n) for name, n in _BINARY),
            *((f"{name[:-1]}bps {name[:-1]}b/s {name[:-1]}bit/s", n / 8) for name, n in _BINARY),
            ("kbps", Fraction(1000, 8)),
            ("kB/s", Fraction(1000)),
        ),
        "size": _spelled(
            *((f"{name[:-1]}", n) for name, n in _BINARY), ("kB", Fraction(1000)), ("byte bytes", Fraction(1))
        ),
        "rate": _spelled(
            ("rps qps 1/s /s r/s reqs/s request/s requests/s req/sec requests/sec", Fraction(1)),
            ("rpm 1/min /min reqs/min request/min requests/min", Fraction(1, 60)),
            ("1/h /h reqs/h request/h requests/h req/hr req/hour", Fraction(1, 3600)),
        ),
        "price": _spelled(("USD/hr USD/hour $/h $/hr $/hour", Fraction(1))),
        "compute": _spelled(
            *((f"{prefix}FLOP/s {prefix}FLOPs {prefix}flops", n) for prefix, n in _DECIMAL if prefix in "GTP")
        ),
        "token rate": _spelled(("tokens/s token/s tok/sec tokens/sec tps", Fraction(1))),
    }
)
"""Other ways to write a unit that can be read in one way only; `exact` writes none of them."""

_MAGNITUDES: Mapping[str, str] = MappingProxyType(
    {"": "", "K": "kilo", "M": "mega", "G": "giga", "T": "tera", "P": "peta"}
)

_EXAMPLES: Mapping[Quantity, tuple[str, ...]] = MappingProxyType(
    {
        "time": ("us", "ms"),
        "bandwidth": ("Gbps", "GB/s"),
        "size": ("GB", "GiB"),
        "rate": (" req/s",),
        "price": (" USD/h",),
        "compute": ("TFLOPS",),
        "token rate": (" tok/s",),
    }
)
"""Units proposed to somebody who forgot one."""

_USUAL: Mapping[Quantity, str] = MappingProxyType(
    {
        "time": "20us",
        "bandwidth": "400Gbps",
        "size": "80GB",
        "rate": "180 req/s",
        "price": "2.80 USD/h",
        "compute": "989TFLOPS",
        "token rate": "20000 tok/s",
    }
)
"""A likely value of each quantity."""

_NUMBER = re.compile(r"\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>.*?)\s*", re.ASCII)
_LONGEST = 64


def parse(text: str, quantity: Quantity) -> float:
    """Return the SI value of `text`; ValueError says what to write instead."""
    found = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        if quantity == "rate" and text.strip() in ("inf", ".inf", "inf req/s"):
            return math.inf
        raise ValueError(f"{clip(text)!r} is not a {quantity}; write a number and a unit, e.g. '{_USUAL[quantity]}'")
    number, unit = found["number"], found["unit"]
    if not unit:
        raise ValueError(needs_unit(number, quantity))
    factor = _factor(unit, quantity)
    if factor is None:
        raise ValueError(_wrong_unit(text.strip(), unit, quantity))
    try:
        return float(Fraction(number) * factor)
    except OverflowError:
        raise ValueError(f"{text.strip()!r} is too large") from None


def together(texts: Iterable[str]) -> tuple[list[float], str] | None:
    """Return amounts of one quantity as numbers in the unit of the first, and that unit; None if they are none.

    >>> together(["60 req/s", "7200 req/min"])
    ([60.0, 120.0], 'req/s')
    """
    texts = [text.strip() for text in texts]
    words = [found["unit"] for text in texts if (found := _NUMBER.fullmatch(text))]
    for quantity in _UNITS:
        unit = next((_written(word, quantity) for word in words if _factor(word, quantity)), None)
        try:
            values = [parse(text, quantity) for text in texts]
        except ValueError:
            continue
        if unit is not None:
            return [_in_unit(text, value, unit, quantity) for text, value in zip(texts, values, strict=True)], unit
    return None


def _in_unit(text: str, value: float, unit: str, quantity: Quantity) -> float:
    """Return an amount in another unit, rounded once."""
    found = _NUMBER.fullmatch(text)
    own, new = _factor(found["unit"] if found else "", quantity), _factor(unit, quantity)
    return float(Fraction(found["number"]) * own / new) if found and own and new else value


def _written(unit: str, quantity: Quantity) -> str:
    """Return the usual spelling of a unit, if it has one."""
    factor, known = _factor(unit, quantity), _UNITS[quantity]
    return unit if unit in known else next((each for each in known if known[each] == factor), unit)


def needs_unit(number: object, quantity: Quantity) -> str:
    """Return the message for a bare number.

    >>> needs_unit(20, "time")
    "needs a unit, for example '20us' or '20ms'"
    """
    return "needs a unit, for example " + " or ".join(f"'{number}{unit}'" for unit in _EXAMPLES[quantity])


def usual(quantity: Quantity) -> str:
    """Return a likely value, to show how one is written."""
    return _USUAL[quantity]


def _factor(unit: str, quantity: Quantity) -> Fraction | None:
    return _UNITS[quantity].get(unit) or _SPELLINGS[quantity].get(unit)


def _wrong_unit(text: str, unit: str, quantity: Quantity) -> str:
    for other in _UNITS:
        if _factor(unit, other) is not None:
            return f"'{text}' is a {other}; a {quantity} is needed, e.g. '{_USUAL[quantity]}'"
    if both := _readings(unit, quantity):
        return f"unknown unit '{unit}'; {both}?"
    known = _UNITS[quantity]
    return f"unknown {quantity} unit '{clip(unit)}'{suggestion(unit, known)} (known: {', '.join(known)})"


def _readings(unit: str, quantity: Quantity) -> str:
    """Return the two units that a spelling may mean, or nothing."""
    if quantity == "time" and unit in {"m", "M"}:
        return "'min' (minutes) or 'ms' (milliseconds)"
    found = re.fullmatch(r"([KMGTP]?)(?:B(?:ps|/s|/sec|s)?)?", unit, re.IGNORECASE | re.ASCII)
    if found is None or quantity not in {"bandwidth", "size"}:
        return ""
    prefix = found[1].upper()
    if quantity == "size":
        return f"'{prefix}B' (powers of 1000) or '{prefix}iB' (powers of 1024)" if prefix else "'B' (bytes) or 'KB'"
    return f"'{prefix}bps' ({_MAGNITUDES[prefix]}bits) or '{prefix}B/s' ({_MAGNITUDES[prefix]}bytes)"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to `word`, or nothing.

    >>> suggestion("otput_len", ["input_len", "output_len"])
    "; did you mean 'output_len'?"
    """
    by_case = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), list(by_case), n=1, cutoff=0.6)
    return f"; did you mean '{by_case[close[0]]}'?" if close else ""


def exact(value: float, quantity: Quantity) -> str:
    """Return the shortest text that `parse` turns back into exactly `value`.

    >>> exact(9e-6, "time"), exact(5e10, "bandwidth")
    ('9 us', '50 GB/s')
    """
    if math.isinf(value):
        return "inf"
    texts = []
    for unit, factor in _UNITS[quantity].items():
        scaled = Fraction(value) / factor
        texts += [f"{float(scaled):.{digits}g} {unit}" for digits in (6, 15)] if unit != "µs" else []
    texts += [f"{float(value):.17g} {base}" for base in _bases(quantity)]
    same = [text for text in texts if parse(text, quantity) == value]
    return min(same, key=lambda text: ("e" in text, len(text)))


def _bases(quantity: Quantity) -> list[str]:
    return [unit for unit, factor in _UNITS[quantity].items() if factor == 1]


def show_time(seconds: float, *, digits: int = 3) -> str:
    """Return a time for people: ``47.5 ms``."""
    return _show(seconds, (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)), digits)


def show_bytes(size: float, *, digits: int = 3) -> str:
    """Return a size for people, in powers of ten: ``80.0 GB``."""
    return _show(size, (("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15)), digits)


def show_bandwidth(bytes_per_second: float, *, digits: int = 3) -> str:
    """Return a bandwidth for people, in bytes: ``40.0 GB/s``."""
    text = show_bytes(bytes_per_second, digits=digits)
    return text if text == "n/a" else f"{text}/s"


def show_rate(per_second: float, unit: str = "req/s", *, digits: int = 4) -> str:
    """Return a rate for people: ``4,039 tok/s``."""
    if not math.isfinite(per_second):
        return "n/a" if math.isnan(per_second) else f"{per_second} {unit}"
    return f"{_digits(per_second, digits)} {unit}"


def show_change(ratio: float) -> str:
    """Return a ratio minus 1 as a percentage with its sign, zero without one: ``+3.1%``."""
    text = f"{ratio:+,.1%}"
    return "0.0%" if text in {"+0.0%", "-0.0%"} else text


def show_count(count: float) -> str:
    """Return a whole number with thousands separators: ``6,144``."""
    return f"{count:,.0f}" if math.isfinite(count) else "n/a"


def show_many(count: float, noun: str) -> str:
    """Return a count with what is counted: ``1 GPU``, ``6,144 sequences``."""
    return f"{show_count(count)} {noun}{'' if count == 1 else 's'}"


def _show(value: float, steps: tuple[tuple[str, float], ...], digits: int) -> str:
    if not math.isfinite(value):
        return "n/a"
    rounded = float(f"{value:.{digits}g}")
    unit, factor = next((step for step in reversed(steps) if abs(rounded) >= step[1] * (1 - 1e-12)), steps[0])
    if value == 0:
        unit, factor = next(step for step in steps if step[1] == 1.0)
    return f"{_digits(value / factor, digits)} {unit}"


def _digits(value: float, digits: int) -> str:
    """Return `value` with `digits` significant digits and no exponent."""
    if value == 0:
        return "0"
    whole = math.floor(math.log10(abs(float(f"{value:.{digits}g}")))) + 1
    return f"{value:,.{max(0, digits - whole)}f}"


def printable(text: str) -> str:
    """Return `text` with what a terminal would obey, as escapes; line ends stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def file_name(text: str) -> str:
    """Return a name as the stem of a file in whatever folder: letters, digits, `.`, `_` and `-`, no dot in front."""
    return re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:100].lstrip(".") or "_"


def clip(text: str) -> str:
    """Return `text`, cut where it would fill the screen."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
