"""Formats of recorded requests: a table, and how the format and the unit of a file are told, never guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from afdsim.errors import ScenarioError
from afdsim.workload.files import Records

Clock: TypeAlias = Callable[[Any], float]
"""From a written arrival to seconds."""

DATES: Final = "timestamps"
"""Arrivals are dates and times of day, no counts of a unit."""
UNITS: Final = MappingProxyType({"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9})
"""Units of arrivals that a file may count in: how many make a second."""

MAX_TOKENS: Final = 10**9
"""A longer request is a damaged row, as no scenario may ask for one: engines count tokens in 32 bits."""
BYTES_PER_TOKEN: Final = 4
"""Of text without counts: about 4 characters of English a token (OpenAI, "What are tokens and how to count them?")."""


class BadRowError(ValueError):
    """Says which field of a row cannot be used, and its value."""


def _tokens(value: Any) -> int:
    number = float(value)
    if isinstance(value, bool) or not (number.is_integer() and 1 <= number <= MAX_TOKENS):
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - a row that cannot be used, as any other text
    return float(value)


def _is_zero(value: Any) -> bool:
    """Whether an output is none, however it is written: 0, "0.0", " 0"."""
    try:
        return float(value) == 0.0
    except (ValueError, TypeError):
        return False


def _of_text(text: Any) -> int:
    return _tokens(math.ceil(len(text.encode()) / BYTES_PER_TOKEN))


def _of_turn(number: int) -> Callable[[Any], int]:
    return lambda turns: _of_text(_said(turns[number]))


def _said(turn: Any) -> Any:
    """Return the text of a turn, as ShareGPT writes it (from, value) or OpenAI (role, content)."""
    for key in ("value", "content"):
        if isinstance(turn, dict) and key in turn:
            return turn[key]
    has = ",".join(turn)[:40] or "nothing" if isinstance(turn, dict) else f"no keys ({type(turn).__name__})"
    raise BadRowError(f"a turn of the conversation has {has}; expected from,value or role,content")


def _has_no_answer(turns: Any) -> bool:
    return isinstance(turns, list) and (len(turns) < 2 or not all(_said(turn) for turn in turns[:2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """How a published trace writes a request."""

    source: str
    """Who writes it."""
    columns: tuple[str, str, str]
    """Names of the arrival, the input length and the output length; no arrival is the empty name."""
    unit: str | None
    """What arrivals count in, a key of `UNITS` or `DATES`; None: the files do not tell."""
    marks: tuple[str, ...] = ()
    """One of these columns at least is there too, in formats that share `columns` with another."""
    timeless: tuple[str, ...] = ()
    """One of these columns at least is there where arrivals are not, in formats whose lengths anybody may name so."""
    foreign: tuple[str, ...] = ()
    """None of these columns is there, because they are another format's."""
    whole: bool = False
    """Arrivals are whole numbers of the unit."""
    tokens: tuple[Callable[[Any], int], Callable[[Any], int]] = (_tokens, _tokens)
    """From the written input and output length to tokens."""
    failed: Callable[[Any], bool] | None = None
    """Whether the written output is that of a request that failed, where the format has such requests."""
    failure: str = "failed request{s} (no output tokens)"
    """What such a request is, with the place of the s of several."""
    note: str = ""
    """What a reader of the figures should know of every file of the format."""


_ALIKE: Final = ("timestamp", "input_length", "output_length")
_LIKE_ARRIVALS: Final = re.compile(
    r"arriv|time_?stamp|start_?time|submit|issued|(created|sent|received|requested)_?at|request_?time"
    r"|^(t|ts|time|date|datetime)(\b|_(s|sec|ms|us|ns)$)",
    re.IGNORECASE,
)
"""Names of columns that hold arrivals more likely than anything else."""
_CHATS: Final = ("chat_id", "parent_chat_id", "turn")

FORMATS: Final = MappingProxyType(
    {
        "azure": TraceFormat(
            source="github.com/Azure/AzurePublicDataset, LLM inference 2023 and 2024",
            columns=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
            unit=DATES,
        ),
        "mooncake": TraceFormat(
            source="github.com/kvcache-ai/Mooncake, FAST25 traces",
            columns=_ALIKE,
            unit="ms",
            marks=("hash_ids",),
            foreign=(*_CHATS, "type"),
            whole=True,
        ),
        "bailian": TraceFormat(
            source="github.com/alibaba-edu/qwen-bailian-usagetraces-anon",
            columns=_ALIKE,
            unit="s",
            marks=_CHATS,
            note="the turns of a chat are independent requests here: sessions are not modelled",
        ),
        "burstgpt": TraceFormat(
            source="github.com/HPMLL/BurstGPT, with and without Session ID and Elapsed time",
            columns=("Timestamp", "Request tokens", "Response tokens"),
            unit="s",
            failed=_is_zero,
        ),
        "vidur": TraceFormat(
            source="github.com/microsoft/vidur, processed traces",
            columns=("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
            unit="s",
        ),
        "llmservingsim": TraceFormat(
            source="github.com/casys-kaist/LLMServingSim, datasets",
            columns=("arrival_time_ns", "input_toks", "output_toks"),
            unit="ns",
        ),
        "blis": TraceFormat(
            source="github.com/inference-sim/inference-sim, TraceV2",
            columns=("arrival_time_us", "input_tokens", "output_tokens"),
            unit="us",
            timeless=("client_id", "tenant_id", "slo_class", "streaming"),
            failed=_is_zero,
        ),
        "vllm-bench": TraceFormat(
            source="vllm bench serve --save-result --save-detailed, sglang.bench_serving --output-details",
            columns=("start_times", "input_lens", "output_lens"),
            unit="s",
            failed=_is_zero,
        ),
        "vllm-custom": TraceFormat(
            source="vllm bench serve --dataset-name custom, JSON lines of prompt and output_tokens",
            columns=("", "prompt", "output_tokens"),
            unit="s",
            tokens=(_of_text, _tokens),
            note=f"tokens in are estimated: {BYTES_PER_TOKEN} bytes of UTF-8 a token, rounded up; input_len in "
            "place of prompt, and output_len, are taken as counted",
        ),
        "sharegpt": TraceFormat(
            source="huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered, turns of OpenAI's keys too",
            columns=("", "conversations", "conversations"),
            unit="s",
            tokens=(_of_turn(0), _of_turn(1)),
            failed=_has_no_answer,
            failure="conversation{s} without a question and an answer",
            note=f"tokens are estimated: {BYTES_PER_TOKEN} bytes of UTF-8 a token, rounded up, of the first turn and "
            "the answer to it; long ones are kept (vLLM's sampler drops prompts above 1,024 tokens)",
        ),
        "afdsim": TraceFormat(source="afdsim", columns=("arrival_s", "input_len", "output_len"), unit="s"),
        "generic": TraceFormat(source="files in which nothing tells the unit", columns=_ALIKE, unit=None),
    }
)
"""Names and units as published. No file has the columns of two of them: see `recognise`."""

_TEXTS: Final = "texts without token counts: write input_len and output_len"
CAUSES: Final = MappingProxyType(
    {
        "total_input_tokens": "a benchmark's result without the length of each request: save it with --save-detailed "
        "(vLLM) or --output-details (SGLang)",
        "sub_requests": "sessions of requests, which are not modelled: write one request a record",
        "prompt": "prompts without the lengths of their answers: write output_tokens beside prompt (vLLM's "
        "--custom-output-len -1 reads the same key)",
        "messages": _TEXTS,
        "role": _TEXTS,
    }
)
"""Columns that tell what a file is that no format fits."""


def recognise(records: Records, name: str, path: Path) -> str:
    """Name of the format of a file: `name`, if its columns are there, or with "auto" the one that fits."""
    found = list(fitting(records.columns))
    if name == "auto":
        if len(found) == 1:
            return found[0]
        raise ScenarioError(f"{path}: {_fits_two(found) if found else _fits_none(records)}")
    form = FORMATS[name]
    others = [other for other in found if other != name]
    if not set(form.columns[1:]) <= set(records.columns):
        raise ScenarioError(f"{path}: {_expected(name)}; {_of_another(others) if others else _found(records)}")
    if others and name != "generic" and (strange := set(form.foreign) & set(records.columns)):
        raise ScenarioError(
            f"{path}: has {', '.join(sorted(strange))}, which {name} has not: it looks like {others[0]} "
            f"({FORMATS[others[0]].unit}); give 'format: {others[0]}', or 'format: generic' and time_unit"
        )
    return name


def fitting(columns: Collection[str]) -> Iterator[str]:
    """Yield the formats that columns may be of.

    Those whose arrivals are not there count where no format has its own, the one without a unit where no other fits.
    """
    names = set(columns)
    fits = [key for key, form in FORMATS.items() if _fits(form, names)]
    fits = [key for key in fits if FORMATS[key].columns[0] in names] or fits
    yield from [key for key in fits if FORMATS[key].unit is not None] or fits


def _fits(form: TraceFormat, names: set[str]) -> bool:
    wanted = form.marks or (form.timeless if form.columns[0] not in names else ())
    marked = not wanted or bool(names.intersection(wanted))
    return names.issuperset(form.columns[1:]) and marked and names.isdisjoint(form.foreign)


def demand_even(name: str, records: Records, path: Path) -> None:
    """Refuse a JSON object of columns in which those of a format are not equally long, or empty."""
    form = FORMATS[name]
    found = {column: records.lists[column] for column in form.columns if column in records.lists}
    if not form.columns[0] or len(found) < 2:
        return
    if len(set(found.values())) > 1:
        counts = ", ".join(f"{count:,} {column}" for column, count in found.items())
        raise ScenarioError(f"{path}: read as {name}: the lists are unequal ({counts}); each needs one entry a request")
    if not any(found.values()):
        raise ScenarioError(f"{path}: holds no requests ({' and '.join(found)} are empty)")


def known(columns: Collection[str]) -> bool:
    """Return whether columns hold the lengths of a format."""
    return any(form.columns[1] in columns and form.columns[2] in columns for form in FORMATS.values())


def demand_no_arrivals(name: str, columns: Sequence[str], path: Path) -> None:
    """Refuse a file without the arrivals of its format, but with a column that looks like other arrivals."""
    form, lengths = FORMATS[name], FORMATS[name].columns[1:]
    if not form.columns[0] or form.columns[0] in columns:
        return
    if like := next((each for each in columns if _LIKE_ARRIVALS.search(each) and each not in lengths), None):
        raise ScenarioError(
            f"{path}: has the lengths of {name} and {like}, which looks like arrivals; {_renamed(form, like, lengths)}"
        )


def _renamed(form: TraceFormat, like: str, lengths: tuple[str, ...]) -> str:
    """Return how arrivals under another name are written: as of the format, of another one, or with their unit."""
    unit = _unit_in(like)
    given = f"time_unit: {unit}" if unit else "time_unit"
    if owner := _owner(like):
        return f"rename {','.join(lengths)} to {','.join(owner[1:])}"
    if form.unit is None:
        return f"rename {like} to {form.columns[0]}, and give {given}"
    general = f"rename the columns to {','.join(_ALIKE)} and give {given}"
    if unit and unit != form.unit:
        return general
    counts = "holds dates and times" if form.unit == DATES else f"counts in {form.unit}"
    return f"rename {like} to {form.columns[0]} if it {counts}" + ("" if unit else f", or {general}")


def _unit_in(name: str) -> str | None:
    """Return the unit that a name ends with: ``ms`` of "ts_ms" and of "Time (ms)"."""
    found = re.search(r"(?:_|\(| in )(s|sec|ms|us|ns)\)?$", name.casefold())
    return None if found is None else found[1].replace("sec", "s")


def unit_of(name: str, asked: str | None, path: Path) -> str:
    """What the arrivals of a format count in; `asked` tells where the format does not, and must agree where it does."""
    unit = FORMATS[name].unit
    if unit is None and asked is None:
        raise ScenarioError(
            f"{path}: columns {','.join(_ALIKE)} fit mooncake (ms) and bailian (s), and no other column tells which "
            "(hash_ids alone: mooncake; chat_id, turn: bailian); give format: mooncake or bailian, or time_unit: s, "
            "ms, us or ns"
        )
    if None not in (unit, asked) and unit != asked:
        raise ScenarioError(f"{path}: {contradiction(name, asked or '')}")
    return unit or asked or ""


def contradiction(name: str, asked: str) -> str:
    """Return what to say where a unit is asked for that a format has not."""
    form = FORMATS[name]
    told = "are dates and times" if form.unit == DATES else f"count in {form.unit}"
    if form.columns == _ALIKE:
        out = f", or give 'format: generic' with time_unit: {asked}"
    elif form.unit == DATES:
        out = "; trace.time_scale stretches gaps"
    else:
        out = f", or rename the columns to {','.join(_ALIKE)} if they count in {asked}"
    return f"time_unit {asked} contradicts the format {name}, whose arrivals {told}; remove time_unit{out}"


def clock(unit: str) -> Clock:
    """Make the function from a written arrival to seconds."""
    if unit == DATES:
        return _dates()
    per_second = UNITS[unit]
    return _number if per_second == 1.0 else lambda value: _number(value) / per_second


def is_date(value: Any) -> bool:
    """Return whether a value is a date and a time of day, as ISO 8601 writes them."""
    try:
        return isinstance(value, str) and "-" in value.strip()[1:] and bool(datetime.fromisoformat(value.strip()))
    except ValueError:
        return False


def dated() -> str:
    """Return how arrivals that are dates are written."""
    return f"dates and times are those of azure: name the columns {','.join(FORMATS['azure'].columns)}"


def _dates() -> Clock:
    """Seconds since the first timestamp that is read; digits beyond the microsecond are cut."""
    base: datetime | None = None

    def seconds(value: Any) -> float:
        nonlocal base
        moment = _moment(value)
        base = base or moment
        if (moment.tzinfo is None) != (base.tzinfo is None):
            has = "no zone, and the first has one" if moment.tzinfo is None else "a zone, and the first has none"
            raise BadRowError(f"arrival {str(value).strip()[:40]} has {has}")
        return (moment - base).total_seconds()

    return seconds


def _moment(value: Any) -> datetime:
    """Return the date and time that is written; a number is none, though some pass for dates without hyphens."""
    text = str(value).strip()
    if value is None or not text:
        raise ValueError
    number = _is_number(text)
    try:
        if not number:
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    why = "is a number, azure has dates as" if number else "is no ISO date, as"
    raise BadRowError(f"arrival {text[:40]} {why} 2023-11-16 18:17:03")


def fractions(path: Path, place: str, value: float) -> str:
    """Return what to say of a fraction where a format has whole numbers."""
    return (
        f"{path}{place}: timestamp {value:g} has a fraction: mooncake's are whole milliseconds, bailian's seconds, and "
        "there is no chat_id that would tell; give format: mooncake or bailian"
    )


def no_arrivals(name: str, records: Records, path: Path, way_out: str) -> str:
    """Return what to say where arrivals are wanted of a file that has none."""
    column = FORMATS[name].columns[0]
    told = "conversations" if name == "sharegpt" else "prompts"
    lacking = f"no column {column}; found {_shown(records.columns)}" if column else f"{told} have no times"
    return f"{path}: read as {name}: has lengths and no arrivals ({lacking}); {way_out}"


# refusals -----------------------------------------------------------------------------------------------------------


def _fits_two(found: list[str]) -> str:
    return f"the columns are those of {' and of '.join(found)}; give format: one of them"


def _of_another(others: list[str]) -> str:
    named = [f"give 'format: {other}', or " for other in others if FORMATS[other].unit is not None]
    return f"found the columns of {others[0]}: {''.join(named[:1])}leave format out"


def _fits_none(records: Records) -> str:
    return f"{_expected('auto')}; {_found(records)}"


def _found(records: Records) -> str:
    columns = records.columns
    if not columns:
        which = "object" if records.shape == "a JSON object" else f"first object in {records.shape}"
        return f"the {which} is empty"
    causes = [text for column, text in CAUSES.items() if column in columns]
    if causes:
        return f"found {causes[0]}"
    if columns and all(_is_number(name) for name in columns[1:] or columns):
        return f"found {_shown(columns)}: values without a header; write the names of the columns into a first line"
    name, missing = min(
        ((key, _missing(form, columns)) for key, form in FORMATS.items()), key=lambda pair: len(pair[1])
    )
    lengths = len(missing) == 1 and missing[0] in FORMATS[name].columns[1:]
    near = lengths and len(set(FORMATS[name].columns)) == 3
    fix = f"{name} lacks {missing[0]}; rename the column that holds it" if near else f"rename {_example(columns)}"
    return f"found {_shown(columns)} in {records.shape}; {fix}"


def _example(columns: Collection[str]) -> str:
    """Return how columns that no format has may be named, by what looks like arrivals among them."""
    like = next(filter(_LIKE_ARRIVALS.search, columns), None)
    if like is None:
        alone = ",".join(FORMATS["afdsim"].columns[1:])
        return f"the columns, for example to {','.join(_ALIKE)}, and give time_unit; without arrivals: to {alone}"
    if owner := _owner(like):
        return f"the lengths, for example to {','.join(owner[1:])}"
    return f"the columns, for example to {','.join(_ALIKE)}, and give time_unit: {_unit_in(like) or 's, ms, us or ns'}"


def _owner(arrival: str) -> tuple[str, ...]:
    """Return the columns of the format whose arrivals have a name; nothing where there is none that tells a unit."""
    return next((each.columns for each in FORMATS.values() if each.columns[0] == arrival and each.unit), ())


def _missing(form: TraceFormat, columns: Collection[str]) -> list[str]:
    return [column for column in form.columns if column not in columns]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _shown(columns: Collection[str]) -> str:
    found = ",".join(name or "(unnamed)" for name in columns)
    shown = found[:80] + ("..." if len(found) > 80 else "")
    return shown if shown.isprintable() else ascii(shown)


def _expected(name: str) -> str:
    if name == "auto":
        first, *others = FORMATS
        return f"expected columns {','.join(FORMATS[first].columns)} ({first}), or those of {', '.join(others)}"
    return f"expected columns {','.join(filter(None, FORMATS[name].columns))} ({name})"
