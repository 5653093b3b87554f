"""`afdsim bench` gives the figures that it promises; how large they are is not a test's business."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from afdsim.cli.main import main
from afdsim.studies import bench

FIELDS = {
    "deployment",
    "granularity",
    "engine",
    "steps_per_s",
    "tokens_per_s",
    "real_time_factor",
    "events_per_step",
    "peak_mb",
}
CASES = {(case.deployment, case.granularity): case for case in bench.CASES}
BOUNDARIES = {
    ("1A1F", "instance"): 3,
    ("2A2F", "instance"): 6,
    ("4A2F", "instance"): 12,
    ("16A2F", "instance"): 48,
    ("64A8F", "instance"): 192,
    ("16A2F", "gpu"): 384,
    ("EP32", "instance"): 8,
    ("EP128 two-batch", "instance"): 32,
    ("EP128 MTP", "instance"): 32,
    ("TP8", "instance"): 1,
}
"""Of a step: units x micro-batches of a unit."""


def few(case: bench.Case, steps: int) -> bench.Case:
    """The same with other numbers of steps."""
    return replace(case, steps={"processes": steps, "kernel": steps})


def test_json_has_the_bare_rate_and_a_row_per_engine_each_a_line_of_progress(monkeypatch):
    monkeypatch.setattr(bench, "CASES", tuple(few(case, 3) for case in bench.CASES))

    printed = CliRunner().invoke(main, ["bench", "--json", "--deployment", "1A1F"])

    found = json.loads(printed.stdout)
    assert found["simpy_events_per_s"] > 0
    assert [set(row) for row in found["rows"]] == [FIELDS, FIELDS]
    assert [(row["deployment"], row["granularity"], row["engine"]) for row in found["rows"]] == [
        ("1A1F", "instance", "processes"),
        ("1A1F", "instance", "kernel"),
    ]
    assert all(value > 0 for row in found["rows"] for value in row.values() if isinstance(value, float))
    progress = printed.stderr.splitlines()
    assert [line.split(":")[0] for line in progress] == ["1A1F instance processes", "1A1F instance kernel"]
    assert all(line.endswith(" steps/s") for line in progress)


def test_the_table_compares_each_engine_with_the_slower_one(monkeypatch):
    common = {"granularity": "gpu", "tokens_per_s": 9e6, "real_time_factor": 7.0, "events_per_step": 3.0, "peak_mb": 60}
    slow = bench.Row(deployment="EP128 MTP", engine="processes", steps_per_s=2.5, **common)
    fast = bench.Row(deployment="EP128 MTP", engine="kernel", steps_per_s=2_000.0, **common)
    monkeypatch.setattr(bench, "rows", lambda engines, deployments: iter([slow, fast]))
    monkeypatch.setattr(bench, "simpy_events_per_s", lambda: 1e6)

    printed = CliRunner().invoke(main, ["bench"])

    assert printed.stderr.splitlines() == [
        "EP128 MTP gpu processes: 2.5 steps/s",
        "EP128 MTP gpu kernel: 2,000 steps/s",
    ]
    bare, header, *lines = printed.stdout.splitlines()
    assert bare == "bare SimPy loop: 1,000,000 events/s"
    assert len({len(line) for line in (header, *lines)}) == 1
    assert [line.split()[3:] for line in lines] == [
        ["processes", "2.5", "9,000,000", "7.0x", "3", "60", "1.0x", "2.5"],
        ["kernel", "2,000", "9,000,000", "7.0x", "3", "60", "800.0x", "2,000"],
    ]


def test_the_rows_are_afd_expert_parallel_and_tensor_parallel():
    assert list(CASES) == list(BOUNDARIES)
    assert all(steps >= 3 for case in bench.CASES for steps in case.steps.values())


@pytest.mark.parametrize(
    ("option", "wrong", "known"),
    [
        ("--engine", "kernel-rust", "processes, kernel"),
        ("--deployment", "EP64", "1A1F, 2A2F, 4A2F, 16A2F, 64A8F, EP32, EP128 two-batch, EP128 MTP, TP8"),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(option, wrong, known):
    answer = CliRunner().invoke(main, ["bench", option, wrong])

    assert answer.exit_code == 2
    assert f"'{option}': {wrong}; known: {known}" in answer.output


@pytest.mark.bench
@pytest.mark.parametrize("row", CASES, ids=" ".join)
def test_events_of_a_step_by_the_kernel_are_its_boundaries(row):
    case = few(CASES[row], 20)

    events = bench.measure(case, "kernel", bench.step_seconds(case)).events_per_step

    assert BOUNDARIES[row] <= events < 1.1 * BOUNDARIES[row]


@pytest.mark.bench
def test_events_of_a_step_at_2a2f_by_processes():
    case = few(CASES["2A2F", "instance"], 20)

    events = bench.measure(case, "processes", bench.step_seconds(case)).events_per_step

    assert 4_000 < events < 12_000
