"""Files of recorded requests, in the formats that are published, read into `laws.Trace`."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias

import numpy as np

from afdsim.errors import ScenarioError
from afdsim.workload.laws import Floats, Trace

Clock: TypeAlias = Callable[[Any], float]

MAX_TOKENS: Final = 1 << 31
"""A longer request is a damaged row."""
SEE_SPREAD: Final = "; see workload.trace.spread"
BAD_ROWS: Final = 0.01
"""Share of unusable rows beyond which a file is refused."""
BAD_ROWS_NAMED: Final = 3
"""Unusable rows that are named one by one in the notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """How a published trace writes a request."""

    columns: tuple[str, str, str]
    """Names of the arrival, the input length and the output length."""
    clock: Callable[[], Clock]
    """Makes the function from a written arrival to seconds."""
    failed: str | None = None
    """What stands for the output length of a request that failed, where the format has such requests."""


def _timestamps() -> Clock:
    """Seconds since the first timestamp that is read; digits beyond the microsecond are cut."""
    base: datetime | None = None

    def seconds(text: str) -> float:
        nonlocal base
        moment = datetime.fromisoformat(text.strip())
        base = base or moment
        return (moment - base).total_seconds()

    return seconds


def _seconds() -> Clock:
    return float


def _milliseconds() -> Clock:
    return lambda value: float(value) / 1e3


# Names and units as published: AzurePublicDataset 2023 and 2024, Mooncake FAST25, BurstGPT, Vidur.
FORMATS: Final = {
    "azure": TraceFormat(columns=("TIMESTAMP", "ContextTokens", "GeneratedTokens"), clock=_timestamps),
    "mooncake": TraceFormat(columns=("timestamp", "input_length", "output_length"), clock=_milliseconds),
    "burstgpt": TraceFormat(columns=("Timestamp", "Request tokens", "Response tokens"), clock=_seconds, failed="0"),
    "vidur": TraceFormat(columns=("arrived_at", "num_prefill_tokens", "num_decode_tokens"), clock=_seconds),
    "afdsim": TraceFormat(columns=("arrival_s", "input_len", "output_len"), clock=_seconds),
}


def read_trace(
    path: str | Path,
    format: str = "auto",
    *,
    time_scale: float = 1.0,
    window: tuple[float | None, float | None] = (None, None),
    skip_bad_rows: bool = True,
    limit: int | None = None,
) -> Trace:
    """Read a request trace; its format is a key of `FORMATS`, or "auto" to tell it by the column names.

    `window` keeps the arrivals in [start, end) seconds after the file's first request, and `limit` the first ones of
    them. Arrivals are then counted from the first request kept and multiplied by `time_scale`.
    """
    if format not in (*FORMATS, "auto"):
        raise ScenarioError(f"unknown trace format '{format}'; known: auto, {', '.join(FORMATS)}")
    if not (math.isfinite(time_scale) and time_scale > 0):
        raise ScenarioError(f"trace time_scale must be > 0 (got {time_scale:g})")
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _read(file, format, path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{path}: {_unreadable(error)}") from None
    return _cut(rows.trace(skip_bad_rows), path, window, limit, time_scale)


def spread(trace: Trace) -> Trace:
    """Space the requests that share a timestamp evenly up to the next one, for traces recorded in buckets.

    The last bucket is as long as the one before it.
    """
    ticks, first, counts = np.unique(trace.arrival, return_index=True, return_counts=True)
    if len(ticks) < 2:
        return trace
    widths = np.append(np.diff(ticks), ticks[-1] - ticks[-2])
    place = np.arange(len(trace)) - np.repeat(first, counts)
    arrival = trace.arrival + place * np.repeat(widths / counts, counts)
    notes = tuple(note.replace(SEE_SPREAD, "; spread evenly") for note in trace.notes)
    return Trace(arrival=arrival, input_len=trace.input_len, output_len=trace.output_len, notes=notes)


# the file -> rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A file of either kind: records by line, `decode` turns one into something that `pick` takes columns from."""

    header: Sequence[str]
    records: Iterator[tuple[int, Any]]
    decode: Callable[[Any], Any]
    pick: Callable[[Sequence[str]], Callable[[Any], tuple[Any, ...]]]


class _BadRowError(ValueError):
    """Says which field of a row cannot be used, and its value."""


class _Rows:
    """The usable rows of one file, and what was wrong with the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrival, self.input_len, self.output_len = array("d"), array("q"), array("q")
        self.bad: list[str] = []
        self.failed = 0

    def collect(self, table: _Table, form: TraceFormat) -> None:
        clock, pick = form.clock(), table.pick(form.columns)
        for line, record in table.records:
            try:
                values = pick(table.decode(record))
                if values[2] == form.failed:
                    self.failed += 1
                    continue
                row = _row(values, clock)
            except _BadRowError as fault:
                self.bad.append(f"{self.path}:{line}: {fault}")
            except (ValueError, TypeError, LookupError, RecursionError):
                self.bad.append(f"{self.path}:{line}: the row lacks a column or is damaged")
            else:
                self.arrival.append(row[0])
                self.input_len.append(row[1])
                self.output_len.append(row[2])

    def trace(self, skip_bad_rows: bool) -> Trace:
        """Sort the rows by arrival, rows at the same time as they stand in the file."""
        self._refuse(skip_bad_rows)
        arrival = np.array(self.arrival)
        order = np.argsort(arrival, kind="stable")
        return Trace(
            arrival=arrival[order],
            input_len=np.array(self.input_len, np.int64)[order],
            output_len=np.array(self.output_len, np.int64)[order],
            notes=tuple(self._notes(arrival)),
        )

    def _refuse(self, skip_bad_rows: bool) -> None:
        bad, total = len(self.bad), len(self.bad) + len(self.arrival)
        if self.bad and not skip_bad_rows:
            raise ScenarioError(f"{self.bad[0]}; skip_bad_rows: true leaves such rows out")
        if bad > BAD_ROWS * total:
            raise ScenarioError(
                f"{self.bad[0]}; {bad:,} of {total:,} rows cannot be used, at most {BAD_ROWS:.0%} may be skipped; "
                "clean the file, or check format:"
            )
        if not self.arrival:
            raise ScenarioError(f"{self.path}: holds no requests")

    def _notes(self, arrival: Floats) -> Iterator[str]:
        yield from (f"{fault}: skipped" for fault in self.bad[:BAD_ROWS_NAMED])
        if len(self.bad) > BAD_ROWS_NAMED:
            yield f"{self.path}: {len(self.bad):,} rows skipped in all"
        if self.failed:
            yield f"{self.path}: {self.failed:,} failed requests (no output tokens) left out"
        late = int(np.count_nonzero(arrival < np.maximum.accumulate(arrival)))
        if late:
            yield f"{self.path}: {late:,} of {len(arrival):,} requests were out of order: sorted"


def _read(file: TextIO, name: str, path: Path) -> _Rows:
    table = _json_table(file) if _starts_with_brace(file) else _csv_table(file)
    if not table.header:
        raise ScenarioError(f"{path}: the file is empty; {_expected(name)}")
    rows = _Rows(path)
    rows.collect(table, FORMATS[_recognise(table.header, name, path)])
    return rows


def _starts_with_brace(file: TextIO) -> bool:
    brace = file.read(1) == "{"
    file.seek(0)
    return brace


def _csv_table(file: TextIO) -> _Table:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    records = ((reader.line_num, row) for row in reader if row)
    return _Table(
        header=header,
        records=records,
        decode=lambda row: row,
        pick=lambda columns: itemgetter(*(header.index(column) for column in columns)),
    )


def _json_table(file: TextIO) -> _Table:
    """One JSON object per line; the first one tells the columns."""
    try:
        header = list(json.loads(file.readline()))
    except (ValueError, RecursionError):
        header = ["a line that is no JSON object"]
    file.seek(0)
    records = ((line, text) for line, text in enumerate(file, 1) if not text.isspace())
    return _Table(header=header, records=records, decode=json.loads, pick=lambda columns: itemgetter(*columns))


def _recognise(header: Sequence[str], name: str, path: Path) -> str:
    """Name of the format whose columns are all in the header."""
    for candidate in FORMATS if name == "auto" else (name,):
        if set(FORMATS[candidate].columns) <= set(header):
            return candidate
    found = ",".join(header)
    shown = found[:80] + ("..." if len(found) > 80 else "")
    shown = shown if shown.isprintable() else ascii(shown)
    raise ScenarioError(f"{path}: {_expected(name)}; found {shown}; rename the columns")


def _row(values: tuple[Any, ...], clock: Clock) -> tuple[float, int, int]:
    return (
        _field("arrival", values[0], lambda value: _finite(clock(value))),
        _field("input tokens", values[1], _tokens),
        _field("output tokens", values[2], _tokens),
    )


def _field(what: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise _BadRowError(f"{what} {str(value)[:40] or 'missing'}") from None


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


def _tokens(value: Any) -> int:
    number = float(value)
    if not (number.is_integer() and 1 <= number <= MAX_TOKENS):
        raise ValueError
    return int(number)


# rows -> the part asked for -----------------------------------------------------------------------------------------


def _cut(
    trace: Trace, path: Path, window: tuple[float | None, float | None], limit: int | None, time_scale: float
) -> Trace:
    start, end = window
    since = trace.arrival - trace.arrival[0]
    first = int(np.searchsorted(since, start or 0.0))
    last = len(since) if end is None else int(np.searchsorted(since, end))
    kept = slice(first, last if limit is None else min(last, first + limit))
    arrival = since[kept]
    if not len(arrival):
        length = f"{len(since):,} requests in {since[-1]:,.1f} s"
        raise ScenarioError(f"{path}: no request left between start and end; the file holds {length}")
    return Trace(
        arrival=(arrival - arrival[0]) * time_scale,
        input_len=trace.input_len[kept],
        output_len=trace.output_len[kept],
        notes=(*trace.notes, *_bucket_note(path, arrival)),
    )


def _bucket_note(path: Path, arrival: Floats) -> Iterator[str]:
    ticks = len(np.unique(arrival))
    if len(arrival) >= 100 and ticks < len(arrival) / 2:
        yield f"{path}: {len(arrival):,} requests on {ticks:,} timestamps{SEE_SPREAD}"


def _expected(name: str) -> str:
    if name == "auto":
        first, *others = FORMATS
        return f"expected columns {','.join(FORMATS[first].columns)} ({first}), or those of {', '.join(others)}"
    return f"expected columns {','.join(FORMATS[name].columns)} ({name})"


def _unreadable(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; a path in a scenario is relative to the scenario, in --set to the working directory"
        case OSError():
            return f"cannot be read: {error.strerror or error}"
        case _:
            return "is not text; expected a CSV with a header, or one JSON object per line (unpack a compressed file)"
