"""A saved result that is run again is identical; one that was changed, or ran otherwise, is found and named."""

import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.results.result import Result
from afdsim.results.seeds import save_seeds
from afdsim.studies import verifying
from tests.cases import Stages, tiny

pytest.importorskip("pyarrow")


def verify(*words):
    return CliRunner().invoke(main, ["verify", *map(str, words)], prog_name="afdsim")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder of two seeds, without figures."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    asked = tiny(variation__event=0.1, run__seeds=[3, 4])
    results = [afdsim.simulate(asked, seed=seed) for seed in (3, 4)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Result, "_draw", lambda *_: None)
        results[0].save(folder)
    save_seeds(results, folder)
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy to change."""
    return shutil.copytree(saved, tmp_path / "run")


def rewritten(path, change):
    held = json.loads(path.read_text(encoding="utf-8"))
    change(held)
    path.write_text(json.dumps(held), encoding="utf-8")


def test_what_was_saved_is_found_again_bit_for_bit(saved):
    done = verify(saved)

    assert done.exit_code == 0, done.output
    assert "seeds 3, 4: identical (" in done.stdout
    assert "bit for bit)" in done.stdout


def test_json_says_the_same(saved):
    found = json.loads(verify(saved, "--json").stdout)

    assert (found["identical"], found["seeds"], found["differences"], found["origin"]) == (True, [3, 4], [], [])


def test_the_last_bit_of_one_row_is_found_and_named(run):
    frame = pd.read_parquet(run / "requests.parquet")
    frame.loc[5, "finish_s"] *= 1 + 2**-52
    frame.to_parquet(run / "requests.parquet", index=False)
    (found,) = verifying.verify(run).differences

    assert (found.file, found.figure, found.rows) == ("requests.parquet", "finish_s", 1)
    assert 0 < found.relative < 3e-16


def test_a_changed_digit_of_a_figure_is_found_and_named(run):
    rewritten(run / "result.json", lambda held: held["afdsim"].update(tgs=held["afdsim"]["tgs"] * 1.01))
    done = verify(run)

    assert done.exit_code == 1
    assert "differs in 1 of" in done.stdout
    assert "result.json afdsim.tgs: " in done.stdout
    assert "(0.0099)" in done.stdout


def test_a_changed_digit_of_a_further_seed_is_found_and_named(run):
    rewritten(run / "seeds.json", lambda held: held["seeds"]["4"].update(duration=1.0))
    done = verify(run, "--json")

    assert done.exit_code == 1
    assert [each["figure"] for each in json.loads(done.stdout)["differences"]] == ["seeds.4.duration"]


def test_a_changed_digit_of_what_the_manifest_holds_is_found(run):
    rewritten(run / "manifest.json", lambda held: held["run"]["pools"]["attention"].update(usd_per_hour=9.0))
    done = verify(run)

    assert done.exit_code == 1
    assert "manifest.json afdsim.usd_per_1m_output_tokens: " in done.stdout


def test_rows_that_are_gone_are_counted(run):
    frame = pd.read_parquet(run / "tokens.parquet")
    frame.iloc[:-2].to_parquet(run / "tokens.parquet", index=False)
    (found,) = verifying.verify(run).differences

    assert (found.file, found.figure, found.again - found.saved) == ("tokens.parquet", "number of rows", 2)


def test_another_version_is_named_before_anything_else(run):
    def change(held):
        held["manifest"].update(afdsim="0.0.9", coefficients="sha256:0123456789ab")
        held["manifest"]["packages"]["numpy"] = "1.0"

    rewritten(run / "manifest.json", change)
    done = verify(run)
    first, second, third, last = done.stdout.splitlines()

    assert done.exit_code == 0
    assert first == f"not as it was: afdsim 0.0.9, now {afdsim.__version__}"
    assert second.startswith("not as it was: coefficients sha256:0123456789ab, now sha256:")
    assert third.startswith("not as it was: numpy 1.0, now ")
    assert "identical" in last


def test_another_scenario_is_named_before_anything_else(run):
    path = run / "scenario.resolved.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("event: 0.1", "event: 0.2"), encoding="utf-8")
    done = verify(run)

    assert done.exit_code == 1
    assert done.stdout.startswith("not as it was: key ")


@pytest.mark.parametrize("model", [{"coefficients": "mine.Cost sha256:00"}, {"network": "mine.Net sha256:00"}])
def test_models_of_the_callers_cannot_be_run_again(run, model):
    rewritten(run / "manifest.json", lambda held: held["manifest"].update(model))
    done = verify(run)

    assert done.exit_code == 2
    assert "which a folder does not hold" in done.output
    assert len(done.output.splitlines()) == 1


def test_a_cost_model_of_the_callers_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Result, "_draw", lambda *_: None)
    afdsim.simulate(tiny(), cost=Stages(attention=1e-3)).save(tmp_path)
    done = verify(tmp_path)

    assert done.exit_code == 2
    assert "ran with cost=tests.cases.Stages" in done.output


def test_a_run_that_somebody_stopped_is_one_message(run):
    note = "stopped at 0.2 s: 9 requests had finished"
    rewritten(run / "seeds.json", lambda held: held["seeds"]["4"]["afdsim"].setdefault("notes", []).append(note))
    done = verify(run)

    assert done.exit_code == 2
    assert "seed 4 was stopped before its end, which no scenario can repeat; 'afdsim run " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_none_and_one_that_is_not_whole_are_told_apart(run, tmp_path):
    missing = verify(tmp_path / "nowhere")
    (run / "gpus.parquet").unlink()
    torn = verify(run)

    assert (missing.exit_code, torn.exit_code) == (2, 2)
    assert "no run folder" in missing.output
    assert "not a whole run folder" in torn.output


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seeds": []}', '{"seeds": {"3": {}, "x": {}}}'])
def test_seeds_that_cannot_be_read_are_one_message(run, text):
    (run / "seeds.json").write_text(text, encoding="utf-8")
    done = verify(run)

    assert done.exit_code == 2
    assert "seeds.json: " in done.output
    assert len(done.output.splitlines()) == 1


def test_a_trace_that_is_gone_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(Result, "_draw", lambda *_: None)
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i * 0.01},100,5\n" for i in range(40)),
        encoding="utf-8",
    )
    asked = tiny().vary("workload", {"trace": {"path": str(trace), "format": "vidur"}})
    afdsim.simulate(asked).save(tmp_path / "run")
    before = verify(tmp_path / "run")
    trace.unlink()
    after = verify(tmp_path / "run")

    assert before.exit_code == 0, before.output
    assert after.exit_code == 2
    assert "trace.csv" in after.output
    assert "Traceback" not in after.output


def test_the_suite_is_not_part_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(afdsim, "__file__", str(tmp_path / "site" / "afdsim" / "__init__.py"))
    done = verify()

    assert done.exit_code == 2
    assert "make verify" in done.output
