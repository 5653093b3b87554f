"""Experiments: the tour runs, and the slow ones give the tables that are kept beside them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("matplotlib")

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TABLES = (
    "ratio_sweep",
    "context_scaling",
    "jitter_tails",
    "hardware_mix",
    "like_for_like",
    "straggler",
    "failure_blast_radius",
    "network_budget",
    "planner_check",
)
TRACED = "when_afd_pays"
"""Its table is made of recorded traces, which do not ship."""
TRACES = Path(__file__).parents[2] / "shared" / "traces"


def load(name):
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", EXPERIMENTS / name / "run.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_the_tour_runs_from_top_to_bottom(tmp_path, capsys):
    load("tour").tour(tmp_path)

    told = capsys.readouterr().out
    assert "18 rows" in told
    assert "TPOT p50" in told
    assert {path.name for path in tmp_path.glob("*.png")} == {"histogram.png", "pareto.png", "causes.png"}


@pytest.mark.parametrize("name", [*TABLES, TRACED, "step3_story", "tour"])
def test_every_experiment_says_what_it_is(name):
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / name / "run.py", "--help"], capture_output=True, text=True, check=True
    )

    assert "--output" in done.stdout
    assert (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_an_experiment_gives_the_table_that_it_keeps(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "-o", str(tmp_path)])
    load(name).main()

    assert_alike(name, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="the recorded traces are not here")
def test_the_comparison_over_recorded_traces_gives_the_table_that_it_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "-o", str(tmp_path), "--traces", str(TRACES)])
    load(TRACED).main()

    assert_alike(TRACED, tmp_path)


def assert_alike(name, folder):
    """The table that an experiment made is the one that it keeps."""
    kept, made = (pd.read_csv(place / "table.csv") for place in (EXPERIMENTS / name / "expected", folder))
    pd.testing.assert_frame_equal(made, kept, rtol=1e-3)
