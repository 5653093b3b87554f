"""Sweeps: the same table whoever computes it, whatever was interrupted."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

import afdsim
from afdsim.errors import ScenarioError
from afdsim.studies import grid, points, pool, sweeps
from afdsim.studies.points import Cache, Outcome

TINY = {
    "version": 1,
    "name": "tiny",
    "model": "step3-small",
    "deployment": {
        "type": "afd",
        "attention": {"gpu": "H800", "instances": 1},
        "ffn": {"gpu": "H800", "instances": 1},
        "max_num_seqs": 6,
    },
    "variation": {"event": 0.1},
    "workload": {"arrival": {"process": "closed_loop"}, "input_len": 64, "output_len": 4, "num_requests": 24},
    "sla": {"tpot": "3ms", "percentile": "mean"},
}
OVER = {"deployment.attention.instances": [1, 2], "deployment.ffn.instances": [1, 2, 5]}
ZIP = {"workload.input_len.value": [64, 128], "deployment.max_num_seqs": [6, 3]}


def swept(cache, *, over=OVER, seeds=2, **given):
    return afdsim.sweep(TINY, over, seeds=seeds, progress=False, cache=cache, **given)


def same(one, two, but=()):
    """Rows and columns are equal bit for bit, but for the time they took."""
    hidden = ["wall_s", *but]
    assert_frame_equal(one.drop(columns=hidden), two.drop(columns=hidden), check_exact=True)
    return True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("undisturbed"))


# the table ----------------------------------------------------------------------------------------------------------


def test_every_combination_and_seed_is_a_row(undisturbed):
    rows = undisturbed[[*OVER, "seed"]].to_records(index=False).tolist()

    assert rows == [(a, f, seed) for a in (1, 2) for f in (1, 2, 5) for seed in (0, 1)]
    assert list(undisturbed.columns[:6]) == [*OVER, "seed", "point", "status", "error"]
    assert undisturbed.columns[-1] == "wall_s"


def test_a_table_is_in_one_piece_and_takes_more_columns(undisturbed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wider = undisturbed.assign(gpus_twice=2 * undisturbed["gpus"])

    assert len(undisturbed._mgr.blocks) < 40
    assert wider.shape[1] == undisturbed.shape[1] + 1


def test_columns_are_the_keys_of_the_summary_and_hold_its_figures(undisturbed):
    scenario = afdsim.load(TINY).vary("deployment.attention.instances", 2)
    summary = afdsim.simulate(scenario, seed=1).summary
    row = undisturbed.iloc[7]

    assert row["mean_tpot_ms"] == summary["mean_tpot_ms"]
    assert row["tgs"] == summary["afdsim"]["tgs"]
    assert row["pools.attention.busy"] == summary["afdsim"]["pools"]["attention"]["busy"]
    assert row["sla.met"] == summary["afdsim"]["sla"]["met"]
    assert row["provenance.seed"] == row["seed"] == 1


def test_a_point_that_fails_is_a_row_with_its_error(undisturbed):
    failed = undisturbed[undisturbed["status"] == "error"]

    assert set(failed["deployment.ffn.instances"]) == {5}
    assert failed["error"].str.contains("48 experts do not divide over").all()
    assert failed["tgs"].isna().all()
    assert undisturbed["error"].isna().sum() == 8


def test_truth_values_are_masks_even_beside_failed_points(undisturbed):
    assert len(undisturbed[undisturbed["sla.met"]]) + len(undisturbed[~undisturbed["sla.met"]]) == 8


def test_seeds_share_a_point_and_points_differ(undisturbed):
    assert undisturbed.groupby("point").size().tolist() == [2] * 6


def test_a_lack_of_memory_is_a_row_too(tmp_path):
    frame = swept(
        tmp_path, over={"model": ["step3-small", "step3"], "deployment.ffn.gpus_per_instance": [8, 1]}, seeds=1
    )

    assert frame["status"].tolist() == ["ok", "ok", "ok", "error"]
    assert "need" in frame["error"].iloc[3]


def test_zipped_axes_move_together(tmp_path):
    frame = swept(tmp_path, over={"deployment.num_microbatches": [2, 3]}, zip=ZIP, seeds=[7])

    assert frame[list(ZIP)].to_records(index=False).tolist() == [(64, 6), (128, 3)] * 2
    assert set(frame["seed"]) == {7}


def test_the_order_of_axes_and_values_changes_no_row(undisturbed, tmp_path):
    turned = {path: values[::-1] for path, values in reversed(OVER.items())}
    frame = swept(tmp_path, over=turned, seeds=[1, 0]).sort_values([*OVER, "seed"], ignore_index=True)

    assert same(frame[undisturbed.columns], undisturbed)


def test_values_may_be_numpy_numbers_maps_and_quantities(tmp_path):
    over = {
        "deployment.max_num_seqs": np.array([3, 6]),
        "workload.arrival": [{"process": "closed_loop"}, {"process": "poisson", "request_rate": "2000 req/s"}],
        "network.link.latency": ["9us", "20us"],
    }
    frame = swept(tmp_path, over=over, seeds=1)

    assert frame["status"].eq("ok").all()
    assert json.loads(frame["workload.arrival"].iloc[2])["request_rate"] == "2000 req/s"
    assert frame["network.link.latency"].tolist() == [9.0, 20.0] * 4


AMOUNTS = {
    "workload.arrival.request_rate": ["1000 req/s", "120000 req/min", "inf"],
    "deployment.attention.gpu": ["H800", "H20"],
}
OPEN = TINY | {"workload": TINY["workload"] | {"arrival": {"process": "poisson", "request_rate": "1 req/s"}}}


def test_amounts_are_numbers_in_the_unit_of_the_first_value_and_names_stay_names(tmp_path):
    frame = afdsim.sweep(OPEN, AMOUNTS, cache=tmp_path, progress=False)

    assert frame["workload.arrival.request_rate"].tolist() == [1000.0, 1000.0, 2000.0, 2000.0, np.inf, np.inf]
    assert frame["workload.arrival.request_rate"].dtype == float
    assert frame.attrs["units"] == {"workload.arrival.request_rate": "req/s"}
    assert frame["deployment.attention.gpu"].tolist() == ["H800", "H20"] * 3


@pytest.mark.parametrize("missing", [None, "pyarrow"])
def test_shards_read_back_have_the_same_axes_and_units(tmp_path, monkeypatch, missing):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
        warnings.filterwarnings("ignore", message=".*pyarrow is missing")
    monkeypatch.setattr(sweeps, "SHARD", 2)
    points_ = grid.grid(afdsim.load(OPEN), AMOUNTS, seeds=1)
    run = sweeps.Sweep(grid=points_, cache=Cache(tmp_path / "points"))
    rows = list(run.rows(sweeps.Here()))
    sweeps.write(rows, points_.paths, tmp_path, points_.units)

    read, kept = sweeps.read(tmp_path), sweeps.table(rows, points_.paths, points_.units)

    assert read.attrs == kept.attrs == {"units": points_.units}
    assert_frame_equal(read[list(AMOUNTS)], kept[list(AMOUNTS)])
    few = sweeps.read(tmp_path, ["completed", "no such"])
    assert list(few.columns) == [*AMOUNTS, *sweeps.LEADING, "completed", *sweeps.RATES, "wall_s"]


@pytest.mark.parametrize(
    ("values", "cells", "unit"),
    [
        ([1, 2], (1, 2), ""),
        ([1, 2.5], (1.0, 2.5), ""),
        ([True, False], (True, False), ""),
        ([1, True], ("1", "True"), ""),
        (["1ms", "20us"], (1.0, 0.02), "ms"),
        (["400Gbps", "50 GB/s"], (400.0, 400.0), "Gbps"),
        (["inf", "6 req/min"], (np.inf, 6.0), "req/min"),
        ([np.inf, "6 req/min"], (np.inf, 6.0), "req/min"),
        (["1ms", 3], ("1ms", "3"), ""),
        (["1ms", "3GB"], ("1ms", "3GB"), ""),
        (["H800", "H20"], ("H800", "H20"), ""),
        ([[1], {"a": 2}, "x"], ("[1]", '{"a": 2}', "x"), ""),
        ([None, "x"], (None, "x"), ""),
    ],
)
def test_a_column_holds_values_of_one_kind(values, cells, unit):
    assert grid.column(values) == (cells, unit)
    assert [type(cell) for cell in grid.column(values).cells] == [type(cell) for cell in cells]


def test_a_point_that_is_too_short_for_a_verdict_has_no_throughput_and_meets_no_sla(tmp_path):
    frame = afdsim.sweep(OPEN, {"workload.num_requests": [3, 4]}, cache=tmp_path, progress=False)

    assert frame["status"].eq("ok").all()
    assert frame["load"].tolist() == ["n/a", "n/a"]
    assert frame[list(sweeps.RATES)].isna().all(axis=None)
    assert frame[frame["sla.met"]].empty


def test_verdicts_are_masks_beside_failures_too(tmp_path):
    over = {"deployment.ffn.instances": [1, 5], "sla.tpot": ["3 ms", "1 us"]}
    frame = swept(tmp_path, over=over, seeds=1)

    best = frame[frame["sla.met"]].groupby("deployment.ffn.instances")["tgs"].max()

    assert frame["sla.met"].dtype == "boolean"
    assert best.index.tolist() == [1]
    assert not frame.query("`sla.tpot` < 0.01")["sla.met"].any()


def test_an_absent_amount_or_number_is_nan():
    amounts, numbers = grid.column([None, "2 ms"]), grid.column([3, None])

    assert np.isnan(amounts.cells[0])
    assert amounts[1] == "ms"
    assert np.isnan(numbers.cells[1])
    assert numbers.cells[0] == 3.0


UNITS_OF_TIME = {"ns": 1, "us": 1000, "ms": 10**6, "s": 10**9}


@given(st.lists(st.tuples(st.integers(1, 10**6), st.sampled_from(sorted(UNITS_OF_TIME))), min_size=1))
def test_amounts_in_any_units_keep_their_order_and_their_value(amounts):
    cells, unit = grid.column([f"{number} {each}" for number, each in amounts])

    assert unit == amounts[0][1]
    assert list(cells) == [float(Fraction(n * UNITS_OF_TIME[each], UNITS_OF_TIME[unit])) for n, each in amounts]


def test_the_seeds_of_the_scenario_are_the_default(tmp_path):
    base = TINY | {"run": {"seeds": [3, 5]}}

    assert afdsim.sweep(base, cache=tmp_path, progress=False)["seed"].tolist() == [3, 5]


# what is wrong is found before anything runs ------------------------------------------------------------------------

WRONG = {
    "deployment.atn.instances: no such key 'atn' under 'deployment' (has: type, attention, ffn": {"deployment.atn.instances": [1]},
    "deployment.max_num_seqs: must be a whole number >= 1 (got 0)": {"deployment.max_num_seqs": [1, 0]},
    "network.link.latency: needs a unit, for example '20us'": {"network.link.latency": ["20"]},
    "deployment.max_num_seqs: must be a list of values (got 3)": {"deployment.max_num_seqs": 3},
    "deployment.max_num_seqs: needs at least one value": {"deployment.max_num_seqs": []},
    "deployment.max_num_seqs: names 3 twice": {"deployment.max_num_seqs": [3, 4, 3]},
    "run.seeds: is not an axis; give seeds": {"run.seeds": [[1], [2]]},
    "deployment.attention.gpu: unknown GPU 'H2O'; did you mean 'H20'?": {"deployment.attention.gpu": ["H20", "H2O"]},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_every_axis_is_checked_before_the_first_point_runs(message, tmp_path):
    with pytest.raises(ScenarioError) as caught:
        swept(tmp_path, over={"deployment.num_microbatches": [2, 3]} | WRONG[message])

    assert message in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_all_faults_are_told_at_once():
    with pytest.raises(ScenarioError) as caught:
        grid.grid(afdsim.load(TINY), {"deployment.max_num_seqs": [-1], "network.post": ["2 GB"]}, seeds=1)

    assert len(str(caught.value).splitlines()) == 2


def test_a_value_that_only_other_axes_make_possible_is_no_fault():
    over = {"workload.arrival.process": ["closed_loop", "poisson"], "workload.arrival.request_rate": ["10 req/s"]}

    assert len(grid.grid(afdsim.load(TINY), over)) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "seeds: must be >= 1"),
        ({"seeds": [1, 1]}, "seeds: names 1 twice"),
        ({"seeds": [-1]}, "seeds: must be whole numbers >= 0"),
        ({"seeds": "5"}, "seeds: must be how many, or a list"),
        ({"workers": 0}, "workers must be >= 1 or an Executor"),
        ({"zip": {"deployment.max_num_seqs": [1, 2], "workload.input_len.value": [1]}}, "zip: lengths differ"),
        ({"zip": {"deployment.ffn.instances": [1]}}, "deployment.ffn.instances: is an axis twice"),
    ],
)
def test_other_arguments_are_checked_too(given, message, tmp_path):
    with pytest.raises(ScenarioError, match=message):
        swept(tmp_path, **given)


# sweep files --------------------------------------------------------------------------------------------------------

FILE = """\
version: 1
base: tiny.yaml
axes:
  deployment.attention.instances: [1, 2]
  deployment.ffn.instances: {values: [1, 2, 5]}
seeds: 2
"""


@pytest.fixture
def sweep_file(tmp_path):
    from afdsim.scenario import yamlfile

    (tmp_path / "tiny.yaml").write_text(yamlfile.dump(TINY))
    file = tmp_path / "ratio.sweep.yaml"
    file.write_text(FILE)
    return file


def test_a_file_says_what_a_call_says(sweep_file, undisturbed, tmp_path):
    points_ = grid.read(sweep_file)
    run = sweeps.Sweep(grid=points_, cache=Cache(tmp_path / "points"))

    assert points_.name == "ratio"
    assert same(sweeps.table(run.rows(sweeps.Here()), points_.paths), undisturbed, but=["error"])  # errors have places


def test_a_description_is_a_sweep_file_with_the_same_points(sweep_file, tmp_path):
    from afdsim.scenario import yamlfile

    first = grid.read(sweep_file)
    (tmp_path / "again.yaml").write_text(yamlfile.dump(first.described()))
    again = grid.read(tmp_path / "again.yaml")

    assert list(again.points()) == list(first.points())
    assert again.scenario(again.chosen(3)).key == first.scenario(first.chosen(3)).key


@pytest.mark.parametrize(
    ("line", "replaced", "message"),
    [
        (4, "  deployment.atn.instances: [1]", ":4:3: deployment.atn.instances: no such key 'atn' under 'deployment'"),
        (4, "  deployment.max_num_seqs: [1, two]", ":4:3: deployment.max_num_seqs: must be a whole number >= 1 (got 'two')"),
        (4, "  deployment.max_num_seqs: 3", ":4:3: deployment.max_num_seqs: must be a list of values (got 3)"),
        (2, "base: nowhere.yaml", ":2:7: base: nowhere.yaml: no such file"),
        (2, "basis: tiny", ":2:1: basis: unknown key; did you mean 'base'?"),
        (6, "seeds: none", ":6:8: seeds: must be how many, or a list of seeds"),
        (6, "zip: {a: [1]}", ":6:6: zip: must be a list of maps"),
        (6, "seeds: 2\nseeds: 3", ":7:1: seeds: duplicate key 'seeds' (first on line 6)"),
    ],
)  # fmt: skip
def test_faults_of_a_file_come_with_their_place(sweep_file, line, replaced, message):
    lines = FILE.splitlines()
    lines[line - 1] = replaced
    sweep_file.write_text("\n".join(lines) + "\n")

    with pytest.raises(ScenarioError) as caught:
        grid.read(sweep_file)

    assert f"{sweep_file}{message}" in str(caught.value)


# whoever computes it ------------------------------------------------------------------------------------------------


def test_processes_give_the_same_table(undisturbed, tmp_path):
    assert same(swept(tmp_path, workers=2), undisturbed)


def test_any_executor_gives_the_same_table(undisturbed, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        assert same(swept(tmp_path, workers=threads), undisturbed)


@pytest.mark.slow
def test_the_process_pool_of_the_standard_library_gives_the_same_table(undisturbed, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert same(swept(tmp_path, workers=processes), undisturbed)


def test_a_table_in_shards_is_the_same_table(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "SHARD", 5)
    points_ = grid.grid(afdsim.load(TINY), OVER, seeds=2)
    run = sweeps.Sweep(grid=points_, cache=Cache(tmp_path / "points"))
    (tmp_path / "points-00007.parquet").touch()

    count = sweeps.write(run.rows(sweeps.Here()), points_.paths, tmp_path)

    assert count == 12
    assert sorted(path.name for path in tmp_path.glob("points-*")) == [f"points-0000{n}.parquet" for n in range(3)]
    assert same(sweeps.read(tmp_path), undisturbed)


def test_shards_are_csv_without_pyarrow(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    rows = undisturbed.astype(object).where(undisturbed.notna(), None).to_dict("records")

    with pytest.warns(UserWarning, match="pyarrow is missing"):
        sweeps.write(rows, tuple(OVER), tmp_path)

    read = sweeps.read(tmp_path)
    assert [path.name for path in tmp_path.glob("points-*")] == ["points-00000.csv.gz"]
    assert read["tgs"].equals(undisturbed["tgs"])
    assert read["point"].equals(undisturbed["point"])


def test_rows_do_not_wait_in_memory_for_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "AHEAD", 16)
    many = grid.grid(afdsim.load(TINY), {"deployment.max_num_seqs": [3]}, seeds=300)
    given = Canned()

    rows = sweeps.Sweep(grid=many, cache=Cache(tmp_path)).rows(given)
    first = [next(rows) for _ in range(10)]

    assert [row["seed"] for row in first] == list(range(10))
    assert given.calls <= 32
    assert len(list(rows)) == 290


class Canned(sweeps.Executor):
    """Answers at once, so that a test may have many points."""

    calls = 0

    def submit(self, fn, *args, **kwargs):
        self.calls += 1
        future = sweeps.Future()
        future.set_result(Outcome(status="ok", columns={"tgs": 1.0}).text())
        return future


# resume -------------------------------------------------------------------------------------------------------------


def test_nothing_is_run_twice(undisturbed, tmp_path, monkeypatch):
    swept(tmp_path, over={"deployment.attention.instances": [1], "deployment.ffn.instances": [1, 2]})
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}

    assert same(swept(tmp_path), undisturbed)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    monkeypatch.setattr(points, "outcome", None)
    assert_frame_equal(swept(tmp_path), swept(tmp_path))


def test_without_resume_everything_is_run_again(tmp_path):
    over = {"deployment.ffn.instances": [1]}
    swept(tmp_path, over=over)
    (file,) = tmp_path.rglob("*-0.json")
    Cache.put(file, Outcome(status="ok", columns={"tgs": -1.0}).text())

    assert swept(tmp_path, over=over, seeds=1)["tgs"].tolist() == [-1.0]
    assert swept(tmp_path, over=over, seeds=1, resume=False)["tgs"].iloc[0] > 0
    assert swept(tmp_path, over=over, seeds=1)["tgs"].iloc[0] > 0


@pytest.mark.parametrize("torn", ["", '{"status": "ok", "er', "[]", "\0" * 50])
def test_a_torn_file_is_computed_again(undisturbed, tmp_path, torn):
    swept(tmp_path)
    for file in tmp_path.rglob("*.json"):
        file.write_text(torn)

    assert same(swept(tmp_path), undisturbed)


def test_a_changed_digit_and_the_entry_of_another_point_are_computed_again(undisturbed, tmp_path):
    swept(tmp_path)
    first, second, third, *_ = sorted(tmp_path.rglob("*.json"))
    first.write_text(re.sub(r'"tgs": (\d)', r'"tgs": 9\1', first.read_text(encoding="utf-8")), encoding="utf-8")
    second.write_text(third.read_text(encoding="utf-8"), encoding="utf-8")

    assert Cache.get(first) is Cache.get(second) is None
    assert Cache.get(third) is not None
    assert same(swept(tmp_path), undisturbed)


@pytest.mark.parametrize("seeds", [100_001, 2**63 - 1, 10**30])
def test_more_seeds_than_anybody_runs_are_refused(tmp_path, seeds):
    with pytest.raises(afdsim.ScenarioError, match="seeds: must be at most 100,000"):
        swept(tmp_path, seeds=seeds)


def test_neither_a_pipe_nor_a_folder_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()

    assert Cache.get(tmp_path / "pipe.json") is Cache.get(tmp_path / "folder.json") is None


def test_another_engine_does_not_find_the_outcomes_of_this_one(tmp_path, monkeypatch):
    over = {"deployment.ffn.instances": [1]}
    swept(tmp_path, over=over, seeds=1)
    monkeypatch.setattr(sweeps, "code", lambda: "0" * 64)
    monkeypatch.setattr(points, "code", lambda: "0" * 64)

    swept(tmp_path, over=over, seeds=1)

    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_a_worker_with_other_code_does_not_answer(tmp_path):
    scenario = afdsim.load(TINY)

    with pytest.raises(afdsim.SimulationError, match="another version of afdsim"):
        points.compute(scenario, 0, tmp_path / "x.json", "0" * 64)


def test_a_bug_is_a_row_and_tried_again(tmp_path, monkeypatch):
    over = {"deployment.ffn.instances": [1]}
    with monkeypatch.context() as broken:
        broken.setattr(points, "outcome", lambda *_: 1 / 0)
        frame = swept(tmp_path, over=over, seeds=1)

    assert frame["error"].tolist() == ["ZeroDivisionError: division by zero"]
    assert swept(tmp_path, over=over, seeds=1)["status"].tolist() == ["ok"]


# what goes wrong ----------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_sweep_with_what_it_has(undisturbed, tmp_path, monkeypatch):
    put, room = Cache.put, iter(range(3))

    def full(file, text):
        if next(room, None) is None:
            raise OSError(28, "No space left on device", str(file))
        put(file, text)

    monkeypatch.setattr(Cache, "put", staticmethod(full))
    with pytest.raises(sweeps.StoppedError, match=r"No space left on device; 3 of 12 points are kept in .*goes on"):
        swept(tmp_path)

    monkeypatch.undo()
    assert all(Cache.get(file) for file in tmp_path.rglob("*.json"))
    assert same(swept(tmp_path), undisturbed)


def test_ctrl_c_says_what_is_kept(undisturbed, tmp_path, monkeypatch):
    outcome, turns = points.outcome, iter(range(5))

    def interrupted(scenario, seed, models):
        if next(turns, None) is None:
            raise KeyboardInterrupt
        return outcome(scenario, seed, models)

    monkeypatch.setattr(points, "outcome", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        swept(tmp_path)

    monkeypatch.undo()
    assert "points are kept in" in caught.value.__notes__[0]
    assert len(list(tmp_path.rglob("*.json"))) == 5
    assert same(swept(tmp_path), undisturbed)


SCRIPT = """
import sys, json, afdsim
base, over, seeds, cache = json.loads(sys.argv[1])
afdsim.sweep(base, over, seeds=seeds, workers=2, cache=cache, progress=False).to_pickle(sys.argv[2])
"""


def script(cache, over, seeds, frame):
    """Start a sweep in an interpreter of its own, a leader of a process group."""
    given = json.dumps([TINY, over, seeds, str(cache)])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), given, str(frame)]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(afdsim.__file__).parent.parent), *sys.path])),
    }
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, env=env)


def killed_and_resumed(tmp_path, over, seeds, kills):
    """Return the frame of a sweep whose workers and parent were killed at random moments, then run to its end."""
    rng, frame = random.Random(6), tmp_path / "frame.pkl"
    for turn in range(kills):
        process = script(tmp_path / "points", over, seeds, frame)
        time.sleep(rng.uniform(0.5, 3.0))
        for pid in children(process.pid)[: turn % 3]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
    process = script(tmp_path / "points", over, seeds, frame)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return pd.read_pickle(frame)


def children(pid):
    """Return the processes that any thread of a process has started."""
    lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes in /proc")
def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path):
    over = {"deployment.attention.instances": [1, 2], "deployment.ffn.instances": [1, 2]}

    resumed = killed_and_resumed(tmp_path, over, 10, kills=2)

    assert same(resumed, swept(tmp_path / "fresh", over=over, seeds=10))
    assert all(Cache.get(file) for file in (tmp_path / "points").rglob("[!.]*.json"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes in /proc")
def test_a_thousand_points_survive_twenty_kills(tmp_path):
    over = {
        "deployment.attention.instances": [1, 2, 3, 4, 5],
        "deployment.ffn.instances": [1, 2, 3, 4],
        "workload.output_len.value": [16, 24],
    }

    resumed = killed_and_resumed(tmp_path, over, 25, kills=20)

    assert len(resumed) == 1000
    assert same(resumed, swept(tmp_path / "fresh", over=over, seeds=25, workers=2))


@pytest.mark.slow
def test_dask_gives_the_same_table_though_a_worker_is_killed(undisturbed, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        pids = [worker["pid"] for worker in client.run(lambda: {"pid": os.getpid()}).values()]
        assert same(swept(tmp_path / "calm", workers=client.get_executor()), undisturbed)
        client.get_executor().submit(os.kill, pids[0], signal.SIGKILL)
        frame = swept(tmp_path / "killed", seeds=40, workers=client.get_executor())

    assert same(frame, swept(tmp_path / "serial", seeds=40))


@pytest.mark.bench
def test_two_workers_are_nearly_twice_as_fast(tmp_path, capsys):
    base = afdsim.load("step3_poisson").varied({"workload.num_requests": 90_000, "workload.duration": None})
    afdsim.simulate(base)  # the machine code is on disk now
    quiet, seconds = os.getloadavg()[0] < 0.7, {}
    for workers in (1, 2):
        started = time.perf_counter()
        afdsim.sweep(base, seeds=8, workers=workers, cache=tmp_path / str(workers), progress=False)
        seconds[workers] = time.perf_counter() - started

    ratio = seconds[1] / seconds[2]
    with capsys.disabled():
        sys.stdout.write(f"\n8 points: {seconds[1]:.1f} s alone, {ratio:.2f} times faster by two; quiet: {quiet}\n")
    assert ratio >= (1.7 if quiet else 0.5)


# the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(sweep_file, monkeypatch):
    from click.testing import CliRunner

    from afdsim.cli.main import main

    monkeypatch.chdir(sweep_file.parent)
    return lambda *words: CliRunner().invoke(main, ["sweep", sweep_file.name, *words])


def test_the_command_writes_the_table_and_says_what_failed(command, undisturbed, tmp_path):
    done = command("--workers", "1")

    assert done.exit_code == 1
    assert "12 rows in results/ratio" in done.stderr
    assert "4 of 12 fail" in done.stderr
    assert "48 experts do not divide" in done.stderr
    assert "tok/s/GPU" in done.stdout
    assert same(sweeps.read(tmp_path / "results/ratio"), undisturbed, but=["error"])


def test_the_command_goes_on_where_it_was(command, tmp_path):
    first, again = command("--workers", "1"), command("--workers", "2", "--resume")

    assert "(8 from before)" in again.stderr
    assert first.stdout == again.stdout


def test_a_dry_run_simulates_nothing(command, tmp_path):
    done = command("--dry-run")

    assert done.exit_code == 0
    assert "ratio: 6 points x 2 seeds of tiny" in done.stdout
    assert "8 to simulate, 0 known" in done.stdout
    assert not (tmp_path / "results").exists()


def test_the_folder_of_another_sweep_is_kept(command):
    command("--workers", "1")
    done = command("--workers", "1", "--set", "deployment.max_num_seqs=3")

    assert done.exit_code == 2
    assert "exists and holds a different sweep" in done.stderr


def test_many_points_need_a_yes(command, sweep_file):
    sweep_file.write_text(FILE.replace("[1, 2]", "[1]").replace("[1, 2, 5]", "[1]").replace("seeds: 2", "seeds: 20000"))
    done = command("--workers", "2")

    assert done.exit_code == 2
    assert "1 points x 20,000 seeds ≈" in done.stderr
    assert "at 2 workers (timed on 2 points); --yes to go on" in done.stderr


def test_an_interrupted_command_prints_how_to_go_on(command, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(points, "outcome", interrupted)
    done = command("--workers", "1")

    assert done.exit_code == 130
    assert "interrupted; 0 of 12 points are kept in results/points" in done.stderr
    assert "--resume" in done.stderr
    assert not list(tmp_path.glob("results/ratio/points-*"))


def test_bad_axes_and_workers_are_bad_input(command, sweep_file):
    assert command("--workers", "0").exit_code == 2
    sweep_file.write_text(FILE.replace("attention", "atn"))
    done = command()

    assert done.exit_code == 2
    assert "ratio.sweep.yaml:4:3: deployment.atn.instances: no such key 'atn'" in done.stderr


def test_an_unreachable_scheduler_is_told(command):
    pytest.importorskip("distributed")
    from afdsim.cli import executors

    def refused(**_):
        raise OSError("timed out")

    with pytest.raises(afdsim.SimulationError, match="--dask tcp://nowhere:1: no scheduler answers: timed out"):
        executors._connected(refused, "tcp://nowhere:1", {})


def test_importing_sweeps_is_cheap():
    code = "import sys, afdsim.studies.sweeps as s; sys.exit(bool({'pandas', 'simpy', 'rich', 'distributed'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_pool_is_as_wide_as_asked():
    assert isinstance(sweeps.executor(1), sweeps.Here)
    with sweeps.executor(3) as three:
        assert isinstance(three, pool.Pool)
        assert three.workers == 3
