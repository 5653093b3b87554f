"""A timeline as Chrome trace events, which Perfetto, speedscope and chrome://tracing open, and what makes one valid.

One track per resource, so that slices never overlap; times are microseconds on a grid of nanoseconds.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afdsim.results.excerpt import Span
from afdsim.results.timeline import Timeline
from afdsim.results.whole import write_whole

Event = dict[str, Any]

GROUPS = (("attention", "attention"), ("ffn", "FFN"), ("colocated", "colocated"), ("micro-batch", "micro-batches"))
"""Beginnings of the names of tracks, and the group that shows them."""

COUNTERS = 9
"""Group of the counters."""

KNOWN = frozenset("XMC")
"""Kinds of events that are written: slices, names, counters."""

SLACK = 1e-4
"""Microseconds by which slices may seem to overlap, because sums of floats are rounded."""


def write(timeline: Timeline, path: Path) -> None:
    """Write a timeline as ``.json.gz``; the same timeline gives the same bytes."""
    text = json.dumps(document(timeline), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    write_whole(path, lambda temporary: temporary.write_bytes(gzip.compress(text.encode(), mtime=0)))


def save_pipeline(timeline: Timeline, folder: Path) -> None:
    """Draw a few layers of the pipeline as SVG and PNG, where there is something to draw with."""
    from afdsim.results import plot_parts, plot_time

    if find_spec("matplotlib") is None:
        return
    folder.mkdir(exist_ok=True)
    columns, window = timeline.pipeline()
    for suffix in ("svg", "png"):
        axes = plot_time.gantt(columns, window=window)
        plot_parts.save(axes, folder / f"gantt.{suffix}")


def document(timeline: Timeline) -> dict[str, Any]:
    """Return a timeline in Chrome's trace format."""
    made = timeline.result.manifest
    told = {"scenario": made.scenario, "key": made.key, "seed": made.seed, "afdsim": made.afdsim}
    events = [*_names(timeline), *map(_slice, _numbered(timeline)), *_counters(timeline)]
    return {"displayTimeUnit": "ms", "otherData": told, "traceEvents": events}


def _group(track: str) -> int:
    return 1 + next(index for index, (start, _) in enumerate(GROUPS) if track.startswith(start))


def _names(timeline: Timeline) -> Iterator[Event]:
    """Yield the names of groups and tracks, in the order in which they are shown."""
    groups = sorted({_group(track) for track in timeline.tracks})
    for group in groups:
        yield _name("process_name", group, 0, {"name": GROUPS[group - 1][1]})
        yield _name("process_sort_index", group, 0, {"sort_index": group})
    yield _name("process_name", COUNTERS, 0, {"name": "batch and queue"})
    for number, track in enumerate(timeline.tracks, 1):
        yield _name("thread_name", _group(track), number, {"name": track})
        yield _name("thread_sort_index", _group(track), number, {"sort_index": number})


def _name(kind: str, group: int, track: int, args: Mapping[str, Any]) -> Event:
    return {"ph": "M", "name": kind, "pid": group, "tid": track, "ts": 0, "args": dict(args)}


def _numbered(timeline: Timeline) -> Iterator[tuple[int, Span]]:
    numbers = {track: number for number, track in enumerate(timeline.tracks, 1)}
    return ((numbers[span.track], span) for span in timeline.spans)


def _slice(numbered: tuple[int, Span]) -> Event:
    number, span = numbered
    begin, end = round(span.start_s * 1e6, 3), round(span.end_s * 1e6, 3)
    place = {"pid": _group(span.track), "tid": number, "ts": begin, "dur": round(end - begin, 3)}
    if span.cause != "busy":
        return {"ph": "X", "name": span.cause.replace("_", " "), "cat": "bubble", **place}
    args = {"step": span.step, "layer": span.layer, "micro_batch": span.micro_batch}
    return {"ph": "X", "name": _title(span), "cat": "work", **place, "args": args}


def _title(span: Span) -> str:
    """Return step, layer and micro-batch, and what is done where the track does not say."""
    layer = "" if span.layer < 0 else f" L{span.layer}"
    return f"s{span.step}{layer} m{span.micro_batch} {span.what}".rstrip()


def _counters(timeline: Timeline) -> Iterator[Event]:
    for time, lane, batch in timeline.batches():
        yield _counter(f"batch of {lane}", time, {"sequences": batch})
    for time, waiting in timeline.queue():
        yield _counter("queue", time, {"requests": waiting})


def _counter(name: str, time: float, args: Mapping[str, int]) -> Event:
    return {"ph": "C", "name": name, "pid": COUNTERS, "tid": 0, "ts": round(time * 1e6, 3), "args": dict(args)}


# validity -----------------------------------------------------------------------------------------------------------


def faults(trace: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a trace: unknown events, times that are none, slices that overlap without nesting."""
    found: list[str] = []
    slices: dict[tuple[Any, Any], list[tuple[float, float, str]]] = defaultdict(list)
    for index, event in enumerate(trace.get("traceEvents", [{}])):
        wrong = list(_event_faults(event))
        found += [f"event {index}: {fault}" for fault in wrong]
        if event.get("ph") == "X" and not wrong:
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    for track, spans in slices.items():
        found += [f"track {track}: {fault}" for fault in _overlaps(spans)]
    return found


def _event_faults(event: Mapping[str, Any]) -> Iterator[str]:
    if event.get("ph") not in KNOWN:
        yield f"unknown ph {event.get('ph')!r}"
    if not isinstance(event.get("name"), str) or not event["name"]:
        yield "no name"
    for key in ("pid", "tid"):
        if not isinstance(event.get(key), int):
            yield f"{key} {event.get(key)!r} is no number"
    for key in ("ts", "dur") if event.get("ph") == "X" else ("ts",):
        if not _finite(event.get(key)):
            yield f"{key} {event.get(key)!r} is no number"
        elif key == "dur" and event[key] < 0:
            yield f"dur {event[key]} < 0"
    if event.get("ph") == "C" and not all(map(_finite, event.get("args", {"": None}).values())):
        yield "a counter counts no number"


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _overlaps(spans: list[tuple[float, float, str]]) -> Iterator[str]:
    """Yield the pairs of slices of one track that overlap without one being inside the other."""
    open_ends: list[tuple[float, str]] = []
    for begin, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while open_ends and open_ends[-1][0] <= begin + SLACK:
            open_ends.pop()
        if open_ends and end > open_ends[-1][0] + SLACK:
            yield f"{open_ends[-1][1]!r} and {name!r} overlap at {begin}"
        open_ends.append((end, name))
