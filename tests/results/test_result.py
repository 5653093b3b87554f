import io
import json
import math
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from afdsim.errors import ScenarioError
from afdsim.results import metrics
from afdsim.results.intervals import Interval, over_seeds
from afdsim.results.result import Result, check_folder, pooled, read_frame, to_json
from afdsim.results.seeds import load_seeds, save_seeds
from afdsim.results.steady import Load
from afdsim.results.summary import summary
from afdsim.results.terminal import terminal
from tests import synthetic


@pytest.fixture
def result(small):
    return synthetic.result(small, notes=("event and step are assumed",))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without(monkeypatch, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


# the summary


def test_the_summary_is_that_of_metrics_with_its_provenance(result):
    plain = summary(result.run)

    assert {key: result.summary[key] for key in plain if key != "afdsim"} == {
        k: v for k, v in plain.items() if k != "afdsim"
    }
    provenance = result.summary["afdsim"]["provenance"]
    assert provenance["key"] == result.scenario.key
    assert provenance["engine"] == "processes"
    assert set(provenance["packages"]) == {"numpy", "simpy"}
    assert result.summary["afdsim"]["window_s"] == list(result.run.window)
    assert result.summary["afdsim"]["notes"] == ["event and step are assumed"]


def test_json_refuses_what_is_not_a_number():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"tgs": math.nan})


def test_requests_have_derived_latencies_and_nan_where_nothing_was_reached(result):
    frame = result.requests

    assert list(frame.columns[-3:]) == ["queue_ms", "tpot_ms", "e2el_ms"]
    assert frame.loc[:1, ["tpot_ms", "e2el_ms"]].isna().all(axis=None)
    row = frame.loc[5]
    assert row.tpot_ms == pytest.approx(1e3 * (row.finish_s - row.first_token_s) / (row.output_len - 1), rel=1e-12)
    assert result.requests is frame


def test_frames_hold_the_columns_of_the_run(result):
    assert list(result.tokens.columns) == list(result.run.tokens)
    assert list(result.links["bytes"]) == [1.5e6, 1.5e6]
    sums = result.gpus[list(metrics.CAUSES)].sum(axis=1)
    assert sums.to_numpy() == pytest.approx(result.run.duration)


def test_a_histogram_counts_every_sample(result):
    for metric in ("tpot", "itl", "e2el", "queue"):
        frame = result.hist(metric)

        assert frame["count"].sum() == result.samples(metric).count
        assert frame["share"].sum() == pytest.approx(1)
        assert (frame["right_ms"] > frame["left_ms"]).all()
    assert len(result.hist("tpot", bins=7)) == 7


def test_a_result_at_a_prompt_is_its_headline_figures(result):
    first, *lines = repr(result).splitlines()

    assert first == "Result of small, seed 0"
    assert lines[0].split() == ["GPUs", str(result.summary["afdsim"]["gpus"])]
    assert " .summary .requests .tokens .gpus .links .blame .utilization .pipeline .hist() " in lines[-1]
    assert lines[-1].endswith(".plot .report() .save()")
    assert len(lines) < 14


def test_a_figure_that_a_run_does_not_have_is_no_headline(small):
    result = synthetic.result(small)
    own = {"gpus": 16, "load": "n/a", "sla": {"verdict": "n/a", "met": False}}
    vars(result)["summary"] = {"mean_e2el_ms": 1500.0, "afdsim": own}  # as a run that is too short for a steady state
    words = [line.split(maxsplit=1) for line in repr(result).splitlines()[1:-1]]

    assert words == [
        ["GPUs", "16"],
        ["Output", "tok/s/GPU (TGS)    n/a"],
        ["E2EL", "mean, p99 (s)        1.50, n/a"],
        ["Load", "n/a"],
        ["SLA", "n/a"],
    ]


def test_a_notebook_shows_a_table_with_nothing_unescaped(small):
    html = synthetic.result(small.vary("name", "<b>"))._repr_html_()

    assert "&lt;b&gt;" in html
    assert "TPOT mean, p99 (ms)" in html
    assert "MARGINAL" in html


# the run folder


def test_a_saved_result_reads_back_equal(result, tmp_path):
    folder = result.save(tmp_path / "deep" / "run")
    loaded = Result.load(folder)

    assert loaded.summary == result.summary
    assert loaded.scenario.key == result.scenario.key
    assert loaded.notes == result.notes
    pd.testing.assert_frame_equal(loaded.requests, result.requests, check_dtype=False)
    for name in ("tokens", "gpus", "links"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(result, name), check_dtype=False)


def test_the_formats_and_who_asked_for_them_are_kept(small, tmp_path):
    from afdsim.scenario.document import load

    asked = load(small, overrides=["precision.kv_cache=bf16"])
    result = synthetic.result(asked)
    loaded = Result.load(result.save(tmp_path / "run"))

    assert result.summary["afdsim"]["precision"]["ffn"] == {"dtype": "fp8", "origin": "default"}
    assert result.summary["afdsim"]["precision"]["kv_cache"] == {"dtype": "bf16", "origin": "--set"}
    assert loaded.formats == result.formats
    assert "FFN fp8 (default), KV cache bf16 (--set)" in terminal(loaded)


def test_several_seeds_have_their_notes_together(small):
    runs = [synthetic.result(small, seed, notes=("event is assumed", f"{9 - seed} are late")) for seed in (3, 4)]

    assert pooled(runs)["afdsim"]["notes"] == ["event is assumed", "6 are late (in seed 3, the most of 2 seeds)"]
    assert "Note 6 are late (in seed 3, the most of 2 seeds)" in terminal(runs)


def test_a_run_folder_holds_what_it_promises(result, tmp_path):
    files = set(contents(result.save(tmp_path / "run", log=("wall time: 1 s",))))

    drawn = ("tpot_histogram", "tpot_cdf", "itl_histogram", "causes")
    figures = {f"figures/{name}.{kind}" for name in drawn for kind in ("svg", "png")}
    frames = {f"{name}.parquet" for name in ("requests", "tokens", "gpus", "links")}
    texts = {"result.json", "manifest.json", "scenario.yaml", "scenario.resolved.yaml", "run.log", "report.html"}
    assert files == figures | frames | texts
    assert json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8")) == result.summary
    assert "wall time: 1 s" in (tmp_path / "run/run.log").read_text(encoding="utf-8")


def test_the_same_seed_gives_the_same_bytes(small, tmp_path):
    first, second = (contents(synthetic.result(small, 7).save(tmp_path / name)) for name in ("a", "b"))

    assert first == second


def test_a_resolved_scenario_loads_to_the_same_key(result, tmp_path):
    from afdsim.scenario.document import load

    folder = result.save(tmp_path / "run")

    assert load(folder / "scenario.resolved.yaml").key == result.scenario.key
    assert load(folder / "scenario.yaml").key == result.scenario.key


def test_without_pyarrow_frames_are_csv_with_a_warning_and_read_back_equal(result, tmp_path, monkeypatch):
    result.save(tmp_path / "run")
    without(monkeypatch, "pyarrow")
    with pytest.warns(UserWarning, match="pyarrow is missing"):
        result.save(tmp_path / "run")
    with pytest.warns(UserWarning, match="pyarrow is missing"):
        result.save(tmp_path / "again")

    assert not list((tmp_path / "run").glob("*.parquet"))
    assert (tmp_path / "run/tokens.csv.gz").read_bytes() == (tmp_path / "again/tokens.csv.gz").read_bytes()
    assert Result.load(tmp_path / "run").summary == result.summary


def test_without_matplotlib_one_line_says_so(result, tmp_path, monkeypatch):
    without(monkeypatch, "matplotlib")
    with pytest.warns(UserWarning, match=r"no figures: matplotlib is missing; pip install 'afdsim\[report\]'"):
        result.save(tmp_path / "run")

    assert not (tmp_path / "run/figures").exists()


def test_a_folder_with_another_scenario_is_refused(result, small, tmp_path):
    other = synthetic.result(small.vary("deployment.max_num_seqs", 47))
    folder = other.save(tmp_path / "run")
    before = contents(folder)

    with pytest.raises(ScenarioError, match=r"run exists and holds a different scenario; -o or --force"):
        result.save(folder)
    assert contents(folder) == before
    assert Result.load(result.save(folder, force=True)).scenario.key == small.key


def test_the_same_scenario_may_be_saved_again(result, tmp_path):
    result.save(tmp_path)
    check_folder(tmp_path, result.scenario)
    result.save(tmp_path)


def test_a_folder_with_something_else_and_a_file_are_refused(result, tmp_path):
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")

    with pytest.raises(ScenarioError, match="holds no afdsim result; -o or --force"):
        result.save(tmp_path)
    with pytest.raises(ScenarioError, match="is a file; -o takes a folder"):
        result.save(tmp_path / "thesis.tex")


def test_a_full_disk_leaves_whole_files_only_and_no_manifest(result, tmp_path, monkeypatch):
    folder = result.save(tmp_path / "run")
    before = contents(folder)
    opened = io.open

    def full(path, *args, **kwargs):
        if ".part" in str(path) and "resolved" in str(path):
            opened(path, *args, **kwargs).close()
            raise OSError(28, "No space left on device")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr("io.open", full)
    with pytest.raises(OSError, match="No space left"):
        result.save(folder)

    monkeypatch.undo()
    gone = {name for name in before if name in {"manifest.json", "report.html"} or name.startswith("figures")}
    assert contents(folder) == {name: held for name, held in before.items() if name not in gone}
    with pytest.raises(ScenarioError, match="not a whole run folder"):
        Result.load(folder)
    assert contents(result.save(folder)) == before


def test_what_is_no_run_folder_is_refused_in_one_line(tmp_path, result):
    with pytest.raises(ScenarioError, match="not a whole run folder"):
        Result.load(tmp_path)
    folder = result.save(tmp_path / "run")
    (folder / "tokens.parquet").write_bytes(b"PAR1")
    with pytest.raises(ScenarioError, match="not a whole run folder"):
        Result.load(folder)


# several seeds


def test_one_run_pools_to_itself(result):
    assert pooled([result]) is result.summary


def test_pooled_runs_add_counts_and_average_the_rest(small):
    runs = [synthetic.result(small, seed) for seed in (1, 2, 3)]
    each, both = [run.summary for run in runs], pooled(runs)

    assert both["completed"] == sum(one["completed"] for one in each)
    assert both["max_tpot_ms"] == max(one["max_tpot_ms"] for one in each)
    assert both["mean_tpot_ms"] == pytest.approx(np.mean([one["mean_tpot_ms"] for one in each]))
    assert both["afdsim"]["seeds"] == [1, 2, 3]
    assert both["afdsim"]["gpus"] == 16
    tgs = [one["afdsim"]["tgs"] for one in each]
    assert both["afdsim"]["tgs_ci"] == list(over_seeds(tgs))
    assert [run.summary for run in runs] == each
    to_json(both)


def test_the_pooled_verdict_is_about_the_mean_over_seeds(small):
    runs = [synthetic.result(small, seed, sla=metrics.Sla(limits={"tpot": 0.05, "e2el": 60.0})) for seed in (1, 2, 3)]
    sla = pooled(runs)["afdsim"]["sla"]

    values = [run.summary["afdsim"]["sla"]["limits"]["tpot"]["value_ms"] for run in runs]
    assert sla["limits"]["tpot"]["value_ms"] == pytest.approx(np.mean(values))
    assert sla["metric"] == "tpot"
    assert sla["met"] == (np.mean(values) <= 50)
    assert sla["limits"]["e2el"]["verdict"] == "PASS"


def test_a_limit_that_no_request_reaches_is_not_met(small):
    never = np.full(1500, np.nan)
    runs = []
    for seed in (1, 2):
        requests = {**synthetic.run(seed).requests, "finish_s": never}
        runs.append(synthetic.result(small, seed, requests=requests))

    assert pooled(runs)["afdsim"]["sla"]["met"] is False


def test_seeds_are_saved_beside_the_first(small, tmp_path):
    runs = [synthetic.result(small, seed) for seed in (1, 2)]
    folder = runs[0].save(tmp_path / "run")
    save_seeds(runs, folder)

    saved = json.loads((folder / "seeds.json").read_text(encoding="utf-8"))
    assert saved["pooled"] == pooled(runs)
    assert saved["seeds"]["2"] == runs[1].summary


def test_all_seeds_of_a_folder_read_back(small, tmp_path):
    several = small.vary("run.seeds", [7, 2])
    runs = [synthetic.result(several, seed) for seed in (7, 2)]
    folder = runs[0].save(tmp_path / "run", pictures=False)
    save_seeds(runs, folder)

    assert [each.summary for each in load_seeds(folder)] == [each.summary for each in runs]
    assert not (folder / "report.html").exists()
    runs[0].save(folder, pictures=False)
    assert [each.seed for each in load_seeds(folder)] == [7]


def test_of_several_seeds_the_gravest_load_counts_and_rates_are_over_the_seeds(small):
    stable = Load(level="STABLE", offered=10.0, served=10.0, growth=0.0, served_interval=Interval(9.0, 11.0))
    levels = [stable, replace(stable, served=8.0), Load(level="n/a", offered=9.0, wants=30.0, why="short")]

    both = pooled([synthetic.result(small, seed, load=load) for seed, load in enumerate(levels[:2])])["afdsim"]
    assert (both["load"], both["saturation"]["served"]) == ("STABLE", 9.0)
    assert both["saturation"]["served_ci"] == list(over_seeds([10.0, 8.0]))

    some = pooled([synthetic.result(small, seed, load=load) for seed, load in enumerate(levels)])
    assert (some["afdsim"]["load"], some["afdsim"]["saturation"]["wants_s"]) == ("n/a", 30.0)
    assert (some["afdsim"]["sla"]["met"], some["afdsim"]["sla"]["verdict"]) == (False, "n/a")
    assert "tgs" not in some["afdsim"]

    grave = [replace(stable, level="OVERLOADED", growth=5.0, why="it grows"), levels[2]]
    worst = pooled([synthetic.result(small, seed, load=load) for seed, load in enumerate(grave)])
    assert (worst["afdsim"]["load"], worst["afdsim"]["saturation"]["queue_growth"]) == ("OVERLOADED", 5.0)
    assert "Load OVERLOADED" in terminal([synthetic.result(small, seed, load=load) for seed, load in enumerate(grave)])


def test_damage_that_pyarrow_takes_for_a_format_to_come_is_told_as_damage(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": np.arange(3, dtype="uint8")}).to_parquet(path)
    whole, found = path.read_bytes(), {pd.read_parquet: set(), read_frame: set()}
    for place, bit in product(range(-120, 0), (2, 4, 16)):
        damaged = bytearray(whole)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        for read, errors in found.items():
            try:
                read(path)
            except Exception as error:
                errors.add(type(error))

    assert any(issubclass(error, NotImplementedError) for error in found[pd.read_parquet])
    assert not any(issubclass(error, NotImplementedError) for error in found[read_frame])
