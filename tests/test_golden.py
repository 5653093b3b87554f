"""Summaries of the shipped scenarios as they were when somebody last looked: ``make golden`` writes them anew.

A change here is a change of published numbers: it needs its source, and a line under Numbers in CHANGELOG.md.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

import afdsim
from afdsim.scenario.document import load, shipped

GOLDEN = Path(__file__).parent / "golden"
NAMES = [name for name in shipped() if name != "azure_conversation"]
SHORTER = {
    "azure_code_burst": ["workload.duration=30s"],
    "best_of_n_code": ["workload.duration=30s"],
    "mooncake_long_context": ["workload.duration=40s"],
    "reasoning_32k": ["workload.output_len.mean=600", "workload.output_len.max=1024"],
    "dialogue_rollout": ["workload.arrival.concurrency=1024", "workload.num_requests=2048", "run.warmup=10s"],
}
"""Scenarios that are cut short here, because minutes of them say no more than seconds do."""
TAKEN = {"definitions", "provenance", "notes", "itl_method", "engine"}


def summarised(name):
    """Numbers of a run; of the Azure replay those of a short trace that ships with the tests."""
    trace = [f"workload.trace.path={Path(__file__).parent / 'data/azure.csv'}"] if name == "azure_conversation" else []
    found = afdsim.simulate(load(name, overrides=[*trace, *SHORTER.get(name, ())])).summary
    own = {key: value for key, value in found["afdsim"].items() if key not in TAKEN}
    return found | {"afdsim": own | {"steps": found["afdsim"]["engine"]["steps"]}}


def leaves(tree, path=""):
    """Every number and text of nested maps and lists by its dotted path."""
    if isinstance(tree, Mapping | list):
        pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {key: leaf for name, part in pairs for key, leaf in leaves(part, f"{path}.{name}".lstrip(".")).items()}
    return {path: tree}


def same(value, golden):
    numbers = isinstance(value, float) and isinstance(golden, float)
    return math.isclose(value, golden, rel_tol=1e-9, abs_tol=1e-12) if numbers else value == golden


@pytest.mark.parametrize("name", [*NAMES, "azure_conversation"])
def test_shipped_scenarios_give_their_golden_numbers(name):
    file, found = GOLDEN / f"{name}.json", summarised(name)
    if "AFDSIM_GOLDEN" in os.environ:
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    known, found = leaves(json.loads(file.read_text(encoding="utf-8"))), leaves(found)
    assert found.keys() == known.keys()

    # libraries of other machines round exp() and log() differently in the last bits
    assert {path: value for path, value in found.items() if not same(value, known[path])} == {}


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(shipped())
