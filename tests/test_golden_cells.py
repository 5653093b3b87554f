"""Both engines give the frozen numbers of every cell of `golden_cells`, which go where the shipped scenarios do not.

``AFDSIM_GOLDEN=1 pytest tests/test_golden_cells.py`` writes ``tests/golden/cells`` anew, from the kernel (from the
processes where the kernel refuses a cell). A change here is a change of published numbers.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

import afdsim
from afdsim import timeline
from tests.golden_cells import CELLS, PROCESSES_ONLY, TIMELINES

FOLDER = Path(__file__).parent / "golden" / "cells"
TEXTS = {"definitions", "provenance", "notes", "itl_method", "engine"}
HELD_ELSEWHERE = {"blame"}
"""Who of equals was the last is a matter of the last bits; `laws/test_blame.py` holds it to the causes."""
CAUSES = ["busy", "wait_peer", "network", "imbalance", "no_work", "down"]
REQUEST_SUMS = [
    *("arrival_s", "admitted_s", "first_token_s", "finish_s", "queue_ms", "tpot_ms", "e2el_ms"),
    *("input_len", "output_len", "instance", "rank", "micro_batch", "counted"),
]


def engines(cell):
    """Engines that run a cell; the first one writes its file."""
    return ("processes",) if cell in PROCESSES_ONLY else ("kernel", "processes")


def plain(value):
    """A number or text as JSON has it; None for NaN, which equals nothing."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def rows(frame):
    return [{name: plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def sums(frame, columns):
    """Sum and count of every column over the rows that have a value."""
    return {name: [plain(frame[name].sum()), int(frame[name].count())] for name in columns}


def ends(frame, n=1):
    """The first and the last `n` rows."""
    return {"first": rows(frame.head(n)), "last": rows(frame.tail(n))}


def summarised(result):
    """Every number of a summary that a run's clock time and its way of counting events leave alone."""
    found = result.summary
    own = {key: value for key, value in found["afdsim"].items() if key not in TEXTS | HELD_ELSEWHERE}
    return found | {"afdsim": own | {"steps": found["afdsim"]["engine"]["steps"]}}


def requests(frame):
    status = {name: int(count) for name, count in sorted(frame["status"].value_counts().items())}
    return {"rows": len(frame), "status": status, "sums": sums(frame, REQUEST_SUMS), **ends(frame, 5)}


def gpus(frame):
    parts = frame.groupby("pool", sort=True)
    return {name: {"gpus": len(part), "sums": sums(part, CAUSES), **ends(part)} for name, part in parts}


def links(frame):
    parts = frame.groupby(["pool", "direction"], sort=True)
    found = {" ".join(names): sums(part, ["messages", "bytes"]) for names, part in parts}
    return {"rows": len(frame), "sums": found, "last": rows(frame.tail(1))}


def frozen(result):
    """What is kept of a result."""
    tokens = result.tokens
    return {
        "summary": summarised(result),
        "requests": requests(result.requests),
        "tokens": {"rows": len(tokens), "sums": sums(tokens, ["t_s", "batch", "gaps", "itl_s"])},
        "gpus": gpus(result.gpus),
        "links": links(result.links),
    }


def spans(found):
    """Per track and cause of a timeline: spans, seconds; and the first three spans of the track's cause."""
    kept = {}
    for span in found.spans:
        one = kept.setdefault(f"{span.track} | {span.cause}", {"spans": 0, "seconds": 0.0, "first": []})
        one["spans"] += 1
        one["seconds"] += plain(span.end_s - span.start_s)
        if len(one["first"]) < 3:
            one["first"].append([plain(value) for value in span])
    return {"spans": len(found.spans), "tracks": dict(sorted(kept.items()))}


def leaves(tree, path=""):
    """Every number and text of nested maps and lists by its path, and the length of every list."""
    if isinstance(tree, Mapping | list):
        pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        own = {f"{path}/#": len(tree)} if isinstance(tree, list) else {}
        return own | {key: leaf for name, part in pairs for key, leaf in leaves(part, f"{path}/{name}").items()}
    return {path: tree}


def same(value, golden):
    """Whether floats are close and everything else is equal; a float is no integer."""
    if isinstance(value, float) and isinstance(golden, float):
        return math.isclose(value, golden, rel_tol=1e-9, abs_tol=1e-12)
    return type(value) is type(golden) and value == golden


def assert_golden(name, found, *, writes):
    """Hold what was found against a file, which is written first where that is asked for."""
    file = FOLDER / f"{name}.json"
    if writes and "AFDSIM_GOLDEN" in os.environ:
        FOLDER.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    known, found = leaves(json.loads(file.read_text(encoding="utf-8"))), leaves(found)
    assert found.keys() == known.keys()
    assert {path: (leaf, known[path]) for path, leaf in found.items() if not same(leaf, known[path])} == {}


@pytest.mark.parametrize(("name", "engine"), [(name, engine) for name in CELLS for engine in engines(name)])
def test_cells_give_their_golden_numbers(name, engine):
    result = afdsim.simulate(CELLS[name]().vary("run.engine", engine))

    assert result.summary["afdsim"]["engine"]["name"] == engine
    assert_golden(name, frozen(result), writes=engine == engines(name)[0])


@pytest.mark.parametrize("engine", ["kernel", "processes"])
@pytest.mark.parametrize("name", TIMELINES)
def test_timelines_give_their_golden_spans(name, engine):
    cell, window = TIMELINES[name]
    found = timeline.record(CELLS[cell]().vary("run.engine", engine), window)

    assert_golden(f"timeline_{name}", spans(found), writes=engine == "kernel")


def test_no_golden_cell_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.json")} == {*CELLS, *(f"timeline_{name}" for name in TIMELINES)}
