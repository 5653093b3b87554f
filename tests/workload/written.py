"""Traces written by hand, in every format and every shape of file."""

import csv
import gzip
import io
import json
from datetime import datetime, timedelta

from afdsim.workload.formats import FORMATS, UNITS

BASE = datetime(2024, 5, 12)
MORE = {
    "mooncake": {"hash_ids": [1, 2]},
    "bailian": {"chat_id": 7, "parent_chat_id": -1, "type": "text", "turn": 1, "hash_ids": [3]},
    "burstgpt": {"Model": "GPT-4", "Total tokens": 9, "Log Type": "API log"},
    "vidur": {"num_total_tokens": 9, "pd_ratio": 5.0},
    "blis": {"request_id": 3, "slo_class": "standard", "status": "ok"},
}
"""Columns beside those of requests, by format."""
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
SHAPES = (*SEPARATORS, "lines", "array", "object", "columns")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
TIMED = tuple(name for name, form in FORMATS.items() if form.columns[0] and form.unit)
"""Formats that have arrivals and tell their unit."""


def records(name, requests):
    """Requests (milliseconds, input, output) as records of a format."""
    form = FORMATS[name]
    arrival, *lengths = form.columns
    return [
        {arrival: _moment(form.unit, ms), **dict(zip(lengths, tokens, strict=True)), **MORE.get(name, {})}
        for ms, *tokens in requests
    ]


def _moment(unit, ms):
    if unit in UNITS:
        return ms / 1e3 if unit == "s" else round(ms * UNITS[unit] / 1e3)
    return (BASE + timedelta(milliseconds=ms)).isoformat(" ", "microseconds")


def text(rows, shape, blank=0):
    """Write records in a shape of file, with some blank lines before them."""
    head = "\n" * blank
    match shape:
        case "lines":
            return head + "".join(json.dumps(row) + "\n" for row in rows)
        case "array":
            return head + json.dumps(rows, indent=1)
        case "object":
            return head + json.dumps({"version": 2, "trace": {"requests": rows}})
        case "columns":
            return head + json.dumps({"seed": 3, **{key: [row[key] for row in rows] for key in rows[0]}})
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], delimiter=SEPARATORS[shape])
    writer.writeheader()
    writer.writerows(rows)
    return head + file.getvalue()


def packed(content, encoding="utf-8", zipped=False):
    """Encode a text, with the mark that its encoding has."""
    data = content.encode(encoding)
    return gzip.compress(data) if zipped else data
