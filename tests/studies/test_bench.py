"""`afdsim bench` gives the figures that it promises; how large they are is not a test's business."""

import json

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


def test_json_has_the_bare_rate_and_a_row_per_engine(monkeypatch):
    monkeypatch.setattr(bench, "WORK_PER_ROW", dict.fromkeys(bench.ENGINES, 40))

    printed = CliRunner().invoke(main, ["bench", "--json", "--deployment", "1A1F", "--engine", "kernel-python"])

    found = json.loads(printed.stdout)
    assert found["simpy_events_per_s"] > 0
    assert [set(row) for row in found["rows"]] == [FIELDS]
    assert (
        found["rows"][0] | {"deployment": "1A1F", "granularity": "instance", "engine": "kernel-python"}
        == found["rows"][0]
    )
    assert all(value > 0 for value in found["rows"][0].values() if isinstance(value, float))


def test_an_unknown_engine_is_named_with_the_known_ones():
    answer = CliRunner().invoke(main, ["bench", "--engine", "kernel-rust"])

    assert answer.exit_code == 2
    assert "kernel-rust; known: processes, kernel-python, kernel-numba" in answer.output


@pytest.mark.bench
def test_events_of_a_step_at_2a2f_by_engine():
    events = {engine: bench.measure((2, 2), "instance", engine).events_per_step for engine in bench.ENGINES}

    assert 4_000 < events["processes"] < 12_000
    assert events["kernel-python"] < 10
    assert events["kernel-numba"] < 10
