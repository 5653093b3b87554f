"""Files of recorded requests, read into `laws.Trace`, or into `laws.Recorded` where arrivals are not wanted."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from afdsim.errors import ScenarioError
from afdsim.units import show_many, show_rate, show_time
from afdsim.workload import files
from afdsim.workload.formats import (
    DATES,
    FORMATS,
    UNITS,
    BadRowError,
    Clock,
    TraceFormat,
    clock,
    dated,
    demand_even,
    demand_no_arrivals,
    fractions,
    is_date,
    known,
    no_arrivals,
    recognise,
    unit_of,
)
from afdsim.workload.laws import Floats, Ints, Recorded, Trace

Window: TypeAlias = tuple[float | None, float | None]

SEE_SPREAD: Final = "; see workload.trace.spread"
BAD_ROWS: Final = 0.01
"""Share of unusable rows beyond which a file is refused."""
BAD_ROWS_NAMED: Final = 3
"""Unusable rows that are named one by one in the notes."""
FROM_LAW: Final = "lengths from the file, arrivals from the law"
GIVE_LAW: Final = "give arrivals by a law, for example 'arrival: {process: poisson, request_rate: 5 req/s}'"
DROP_WINDOW: Final = "start and end count from the first arrival: leave start out, and set end to null"
YEAR: Final = 365.25 * 86_400
MAX_SECONDS: Final = 1e12
"""An arrival further from 0 is a damaged value, or in another unit: even dates in seconds are below."""
MAX_GAP: Final = 10 * YEAR
"""Seconds between two arrivals beyond which they cannot be of one recording."""


def read_trace(  # noqa: PLR0913 - one argument per key of a scenario's trace
    path: str | Path,
    format: str = "auto",
    *,
    time_unit: str | None = None,
    time_scale: float = 1.0,
    window: Window = (None, None),
    skip_bad_rows: bool = True,
    limit: int | None = None,
) -> Trace:
    """Read a request trace; its format is a key of `FORMATS`, or "auto" to tell it by the column names.

    `time_unit` is a key of `UNITS`, for files that do not tell theirs. `window` keeps the arrivals in [start, end)
    seconds after the file's first request, and `limit` the first ones of them. Arrivals are then counted from the first
    request kept and multiplied by `time_scale`.
    """
    if not (math.isfinite(time_scale) and time_scale > 0):
        raise ScenarioError(f"trace time_scale must be > 0 (got {time_scale:g})")
    rows = _read(Path(path), format, time_unit, GIVE_LAW)
    return _cut(rows.trace(skip_bad_rows), Path(path), window, limit, time_scale)


def read_lengths(
    path: str | Path,
    format: str = "auto",
    *,
    time_unit: str | None = None,
    window: Window = (None, None),
    skip_bad_rows: bool = True,
) -> Recorded:
    """Read the lengths of recorded requests in the order of the file, or with a `window` of arrivals in theirs."""
    if (window[0] or 0.0) > 0.0 or window[1] is not None:
        rows = _read(Path(path), format, time_unit, DROP_WINDOW)
        trace = _cut(rows.trace(skip_bad_rows), Path(path), window, None, 1.0)
        told = f"{trace.told}; {FROM_LAW}"
        return Recorded(input_len=trace.input_len, output_len=trace.output_len, notes=rows.notes(), told=told)
    return _read(Path(path), format, time_unit, "").lengths(skip_bad_rows)


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
    return replace(
        trace, arrival=arrival, notes=tuple(note.replace(SEE_SPREAD, "; spread evenly") for note in trace.notes)
    )


# the file -> rows ---------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    arrival: float
    input_len: int
    output_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How the rows of one file are read."""

    name: str
    unit: str
    """A key of `UNITS`, `DATES`, or nothing where arrivals are not wanted."""
    place: str
    guessed: bool
    """Whether the unit was told by the columns alone."""
    note: str
    """What is odd about the file."""
    lacks: str
    """What to say of arrivals that are wanted and not there, once the lengths were read; else nothing."""

    @property
    def form(self) -> TraceFormat:
        return FORMATS[self.name]


class _Rows:
    """The usable rows of one file, and what was wrong with the others."""

    def __init__(self, path: Path, how: _Reading) -> None:
        self.path, self.how = path, how
        self.arrival, self.input_len, self.output_len = array("d"), array("q"), array("q")
        self.lines = array("q")
        self.bad: list[str] = []
        self.failed = 0

    def collect(self, records: files.Records) -> None:
        form, timed = self.how.form, bool(self.how.unit)
        told = clock(self.how.unit) if timed else None
        pick = records.pick(form.columns if timed else form.columns[1:])
        for line, record in records.rows:
            try:
                values = pick(record)
                if form.failed is not None and form.failed(values[-1]):
                    self.failed += 1
                    continue
                row = _row(values, told, form)
            except BadRowError as fault:
                self.bad.append(f"{self.path}{self.how.place.format(line)}: {fault}")
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                place = self.how.place.format(line)
                self.bad.append(f"{self.path}{place}: the row lacks a column or is damaged")
            else:
                self._keep(line, row)

    def _keep(self, line: int, row: _Row) -> None:
        self.lines.append(line)
        self.arrival.append(row.arrival)
        self.input_len.append(row.input_len)
        self.output_len.append(row.output_len)

    def trace(self, skip_bad_rows: bool) -> Trace:
        """Sort the rows by arrival, rows at the same time as they stand in the file."""
        self._refuse(skip_bad_rows)
        if self.how.lacks:
            raise ScenarioError(self.how.lacks)
        arrival = np.array(self.arrival)
        order = np.argsort(arrival, kind="stable")
        self._refuse_fractions(arrival)
        self._refuse_gaps(arrival, order)
        span = float(arrival[order[-1]] - arrival[order[0]])
        return Trace(
            arrival=arrival[order],
            input_len=np.array(self.input_len, np.int64)[order],
            output_len=np.array(self.output_len, np.int64)[order],
            notes=(*self.notes(), *self._disorder(arrival)),
            told=f"{self.path}: read as {self.how.name} ({self.how.unit}): {_counted(len(arrival), span)}",
        )

    def lengths(self, skip_bad_rows: bool) -> Recorded:
        """The lengths alone, in the order of the file."""
        self._refuse(skip_bad_rows)
        input_len, output_len = np.array(self.input_len, np.int64), np.array(self.output_len, np.int64)
        of = f"{_requests(len(input_len))} of {means(input_len, output_len)}"
        return Recorded(
            input_len=input_len,
            output_len=output_len,
            notes=self.notes(),
            told=f"{self.path}: read as {self.how.name} (lengths only): {of}; {FROM_LAW}",
        )

    def _refuse(self, skip_bad_rows: bool) -> None:
        bad, total = len(self.bad), len(self.bad) + len(self.input_len)
        if self.bad and not skip_bad_rows:
            raise ScenarioError(f"{self.bad[0]}; skip_bad_rows: true leaves such rows out")
        if bad > BAD_ROWS * total:
            raise ScenarioError(
                f"{self.bad[0]}; {bad:,} of {total:,} rows cannot be used, at most {BAD_ROWS:.0%} may be skipped; "
                f"clean the file, or check format: (read as {self.how.name})"
            )
        if not self.input_len:
            left = f" but {self._failures()}" if self.failed else ""
            raise ScenarioError(f"{self.path}: holds no requests{left}")

    def _refuse_fractions(self, arrival: Floats) -> None:
        """Refuse fractions in a format of whole numbers that was told by its columns: it is another's file."""
        if not (self.how.guessed and self.how.form.whole):
            return
        written = arrival * UNITS[self.how.unit]
        if len(broken := np.flatnonzero(np.abs(written - np.rint(written)) > 1e-3)):
            first = int(broken[0])
            raise ScenarioError(fractions(self.path, self._place(first), float(written[first])))

    def _refuse_gaps(self, arrival: Floats, order: Ints) -> None:
        """Refuse arrivals of which two that follow each other are years apart."""
        gaps = np.diff(arrival[order])
        if len(gaps) and gaps.max() > MAX_GAP:
            after = int(np.argmax(gaps))
            first, second = sorted(map(int, order[after : after + 2]))
            counted = "" if self.how.unit == DATES else f" counted in {self.how.unit}"
            line = "line" if self.how.place == ":{}" else "item"
            raise ScenarioError(
                f"{self.path}{self._place(second)}: arrives {gaps[after] / YEAR:,.4g} years from its neighbour in "
                f"time, {line} {self.lines[first]}{counted}; at most {MAX_GAP / YEAR:g} can be meant; clean the "
                "file, or check format: and time_unit:"
            )

    def _failures(self) -> str:
        return f"{self.failed:,} {self.how.form.failure.format(s='s' if self.failed > 1 else '')}"

    def _place(self, row: int) -> str:
        return self.how.place.format(self.lines[row])

    def notes(self) -> tuple[str, ...]:
        """What was left out, and what is to be known of every file of the format."""
        found = filter(None, (self.how.note, self.how.form.note))
        return (*self._left_out(), *(f"{self.path}: {note}" for note in found))

    def _left_out(self) -> Iterator[str]:
        yield from (f"{fault}: skipped" for fault in self.bad[:BAD_ROWS_NAMED])
        if len(self.bad) > BAD_ROWS_NAMED:
            yield f"{self.path}: {len(self.bad):,} rows skipped in all"
        if self.failed:
            yield f"{self.path}: {self._failures()} left out"

    def _disorder(self, arrival: Floats) -> Iterator[str]:
        late = int(np.count_nonzero(arrival < np.maximum.accumulate(arrival)))
        if late:
            yield f"{self.path}: {late:,} of {len(arrival):,} requests were out of order: sorted"


def _read(path: Path, name: str, time_unit: str | None, way_out: str) -> _Rows:
    """Read a file once; `way_out` is told where it has no arrivals. Without one arrivals and unit are left alone."""
    if name not in (*FORMATS, "auto"):
        raise ScenarioError(f"unknown trace format '{name}'; known: auto, {', '.join(FORMATS)}")
    if time_unit not in (*UNITS, None):
        raise ScenarioError(f"unknown time_unit '{time_unit}'; known: {', '.join(UNITS)}")
    with files.opened(path, known) as records:
        found = recognise(records, name, path)
        demand_even(found, records, path)
        demand_no_arrivals(found, records.columns, path)
        _refuse_twins(found, records, path)
        timed = bool(way_out) and FORMATS[found].columns[0] in records.columns
        if timed and FORMATS[found].unit is None and time_unit is None:
            _refuse_dates(records, path)
        unit = unit_of(found, time_unit, path) if timed else ""
        guessed = name == "auto" and time_unit is None
        lacks = no_arrivals(found, records, path, way_out) if way_out and not timed else ""
        how = _Reading(name=found, unit=unit, place=records.place, guessed=guessed, note=records.note, lacks=lacks)
        rows = _Rows(path, how)
        rows.collect(records)
    return rows


def _refuse_twins(name: str, records: files.Records, path: Path) -> None:
    """Refuse a header that names a column twice of which one is needed."""
    for column in FORMATS[name].columns:
        if (count := records.columns.count(column)) > 1:
            raise ScenarioError(f"{path}: has {count} columns {column}; rename all but one")


def _refuse_dates(records: files.Records, path: Path) -> None:
    """Refuse dates where arrivals count in a unit that nobody told."""
    pick = records.pick(FORMATS["generic"].columns)
    try:
        value = next((pick(record)[0] for _, record in records.rows), None)
    except (ValueError, TypeError, LookupError, RecursionError):
        return
    if is_date(value):
        raise ScenarioError(f"{path}: timestamp {str(value)[:40]} is a date; {dated()}")


def _row(values: tuple[Any, ...], told: Clock | None, form: TraceFormat) -> _Row:
    return _Row(
        0.0 if told is None else _field("arrival", values[0], lambda value: _possible(told(value))),
        _field("input tokens", values[-2], form.tokens[0]),
        _field("output tokens", values[-1], form.tokens[1]),
    )


def _field(what: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except BadRowError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise BadRowError(f"{what} {str(value).strip()[:40] or 'missing'}{_misread(what, value)}") from None


def _misread(what: str, value: Any) -> str:
    """Return what may be meant by a text that is no number."""
    text = str(value).strip()
    if what == "arrival" and is_date(value):
        return f" ({dated()})"
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?", text):
        plain = text.replace(",", "")
        point = f", or {text.replace(',', '.')} for a fraction" if what == "arrival" and text.count(",") == 1 else ""
        return f" (a comma that separates thousands: write {plain}{point})"
    return " (a comma in a number: write a point)" if re.fullmatch(r"[-+\d.]+,\d+", text) else ""


def _possible(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError
    if abs(seconds) > MAX_SECONDS:
        raise BadRowError(f"arrival {seconds:g} s is beyond {MAX_SECONDS:g} s and cannot be meant")
    return seconds


def _counted(count: int, span: float) -> str:
    """Return ``30 requests in 49.41 s, 0.6072 req/s``."""
    requests = _requests(count)
    if span <= 0.0:
        return f"{requests} at once"
    lasting = f"{span:,.2f} s" if span >= 1.0 else show_time(span)
    return f"{requests} in {lasting}, {show_rate(count / span)}"


def means(input_len: Ints, output_len: Ints) -> str:
    """Return ``114.5 tokens in and 34.5 out on average``."""
    return f"{input_len.mean():,.1f} tokens in and {output_len.mean():,.1f} out on average"


def _requests(count: int) -> str:
    return show_many(count, "request")


# rows -> the part asked for -----------------------------------------------------------------------------------------


def _cut(trace: Trace, path: Path, window: Window, limit: int | None, time_scale: float) -> Trace:
    start, end = window
    since = trace.arrival - trace.arrival[0]
    first = int(np.searchsorted(since, start or 0.0))
    last = len(since) if end is None else int(np.searchsorted(since, end))
    kept = slice(first, last if limit is None else min(last, first + limit))
    arrival = since[kept]
    if not len(arrival):
        length = f"{len(since):,} requests in {since[-1]:,.1f} s"
        raise ScenarioError(f"{path}: no request left between start and end; the file holds {length}")
    scaled = (arrival - arrival[0]) * time_scale
    changed = len(arrival) < len(since) or time_scale != 1.0
    return Trace(
        arrival=scaled,
        input_len=trace.input_len[kept],
        output_len=trace.output_len[kept],
        notes=(*trace.notes, *_bucket_note(path, arrival)),
        told=trace.told + (f"; of them {_counted(len(scaled), float(scaled[-1]))}" if changed else ""),
    )


def _bucket_note(path: Path, arrival: Floats) -> Iterator[str]:
    ticks = len(np.unique(arrival))
    if len(arrival) >= 100 and ticks < len(arrival) / 2:
        yield f"{path}: {len(arrival):,} requests on {ticks:,} timestamps{SEE_SPREAD}"
