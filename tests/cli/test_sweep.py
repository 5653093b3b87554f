"""`afdsim sweep` shows its answer; `afdsim init --sweep` and `afdsim list sweeps` show how one is written."""

import json
import re
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

import afdsim as library
from afdsim.cli import sweep
from afdsim.cli.main import main
from afdsim.scenario import document, yamlfile
from afdsim.studies import grid, sweeps
from tests.studies.test_sweeps import TINY

FILE = """\
base: tiny.yaml
axes:
  deployment.ffn.instances: [1, 2, 5]
  network.link.latency: [20us, 1ms]
"""
LATENCIES = """\
base: tiny.yaml
axes: {network.link.latency: [20us, 0.5ms, 9us]}
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yamlfile.dump(TINY))

    def run(text, *words):
        (tmp_path / "a.sweep.yaml").write_text(text)
        return afdsim("sweep", "a.sweep.yaml", "-o", "out", "--workers", "1", *words)

    return run


def afdsim(*words):
    return CliRunner().invoke(main, list(words), prog_name="afdsim")


def rows(stdout):
    """Cells of the table, without its heading."""
    lines = stdout.partition("─\n")[2].partition("\n\n")[0].splitlines()
    return [line.split() for line in lines]


def answer(stdout):
    """What follows the table, each sentence on one line again."""
    return stdout.partition("\n\n")[2].replace("\n  ", " ").splitlines()


def heads(stdout):
    """The headings of the table on one line."""
    return " ".join(stdout.partition("─")[0].split())


def on(**sla):
    """The option that gives the base an SLA."""
    return f"--set=sla={{{', '.join(f'{name}: {value}' for name, value in sla.items())}}}"


def test_another_sweep_in_a_folder_is_gone_before_the_first_point_of_this_one(command, tmp_path, monkeypatch):
    command("base: tiny.yaml\naxes: {deployment.ffn.instances: [1, 2]}\n")
    monkeypatch.setattr(sweeps.Sweep, "rows", lambda *_: signal.raise_signal(signal.SIGINT))
    stopped = command("base: tiny.yaml\naxes: {deployment.ffn.instances: [1]}\n", "--force")

    assert stopped.exit_code == 130
    assert list((tmp_path / "out").glob("points-*")) == []


# what it rests on ---------------------------------------------------------------------------------------------------


def test_what_the_base_rests_on_is_told_above_the_table_and_kept(command, tmp_path):
    done = command(LATENCIES, "--set", "precision.kv_cache=bf16", "--set", "deployment.ffn.gpu=H100")

    assert done.stderr.startswith("Precision attention bf16 (as KV cache), FFN fp8 (default), KV cache bf16 (--set)\n")
    assert (tmp_path / "out/notes.txt").read_text().startswith("precision attention bf16 (as KV cache), FFN fp8")


def test_what_an_axis_may_change_is_told_of_the_base_alone(command):
    done = command("base: tiny.yaml\naxes: {precision.ffn: [fp8, bf16]}\n")

    assert "KV cache fp8 (as attention) (of the base; an axis may change that)" in " ".join(done.stderr.split())


@pytest.fixture
def long(tmp_path, command):
    """A sweep over lengths of which one is beyond what the model was made for."""
    keys = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8}
    keys |= {"num_key_value_heads": 8, "vocab_size": 1024, "max_position_embeddings": 4096, "model_type": "llama"}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(keys))
    (tmp_path / "long.yaml").write_text(
        "model: m\ndeployment: {type: tensor_parallel, gpu: H100, gpus: 2, max_num_seqs: 4}\n"
        "workload: {arrival: {process: closed_loop}, input_len: 100, output_len: 4, num_requests: 8}\n"
    )
    return lambda *words: command("base: long.yaml\naxes: {workload.input_len: [100, 5000]}\n", *words)


def test_rows_beyond_the_model_are_counted(long):
    assert "1 of 2 rows have requests beyond max_position_embeddings: see the column notes" in long().stderr


def test_points_beyond_the_model_fail_by_strict(long, tmp_path):
    done = long("--strict")
    (error,) = sweeps.read(tmp_path / "out")["error"].dropna()

    assert done.exit_code == 1
    assert "8 of 8 requests are longer than the 4,096 tokens that m was made for" in error
    assert error.endswith("--strict refuses that")


# the answer ---------------------------------------------------------------------------------------------------------


def test_the_best_under_the_sla_comes_first_and_is_named(command, tmp_path):
    done = command(FILE)
    frame = sweeps.read(tmp_path / "out")
    met = frame[frame["sla.met"]].nlargest(1, "tgs").iloc[0]
    table = rows(done.stdout)

    assert len(table) == 6
    assert table[0][:2] == [f"{met[path]:g}" for path in ("deployment.ffn.instances", "network.link.latency")]
    assert [row[-1] for row in table] == ["met", "met", "missed", "missed", "error", "error"]
    assert "Order: SLA met, then SLA missed, then errors; each by falling tok/s/GPU" in done.stdout
    assert re.search(
        rf"^best under the SLA: instances = {table[0][0]}, latency \(us\) = {table[0][1]}: {met['tgs']:,.0f} tok/s/GPU,.*"
        r"\(2 met, 2 missed, 2 error\)$", answer(done.stdout)[-1]
    )  # fmt: skip


def test_a_point_that_has_too_few_requests_for_the_verdict_is_not_called_missed(command):
    done = command(LATENCIES, on(tpot="3ms", percentile="p99"))

    assert [(row[0], row[-1]) for row in rows(done.stdout)] == [("500", "missed"), ("9", "n/a"), ("20", "n/a")]
    assert answer(done.stdout)[0] == "Order: SLA missed, then n/a (too short to tell); each by falling tok/s/GPU"
    assert answer(done.stdout)[1] == "none of 3 points meets the SLA (1 missed, 2 n/a)"


def test_a_percentile_of_few_requests_is_not_shown(command, tmp_path):
    shown = rows(command(LATENCIES).stdout)

    assert sweeps.read(tmp_path / "out")["p99_tpot_ms"].notna().all()
    assert {row[-3] for row in shown} == {"n/a"}


def test_a_value_whose_interval_holds_the_limit_is_marginal(command):
    sure = library.simulate(TINY).summary["afdsim"]["sla"]
    between = f"{(sure['value_ms'] + sure['ci_ms'][1]) / 2}ms"
    done = command("base: tiny.yaml\n", on(tpot=between, percentile="mean"))

    assert [row[-1] for row in rows(done.stdout)] == ["marginal"]
    assert answer(done.stdout)[-1].startswith("best under the SLA (marginal): tiny: ")


def test_other_limits_than_tpot_have_columns_and_the_missed_ones_are_named(command, tmp_path):
    done = command(LATENCIES, on(tpot="1s", e2el="15ms", queue="1s", percentile="mean"))
    frame = sweeps.read(tmp_path / "out").set_index("network.link.latency")
    table = {row[0]: row for row in rows(done.stdout)}

    assert table["20"][-3:] == [f"{frame['mean_e2el_ms'][20] / 1e3:.3f}", "0.00", "met"]
    assert table["500"][-2:] == ["missed", "(e2el)"]

    done = command(LATENCIES, on(tpot="3ms", e2el="15ms", percentile="mean"), "--force")
    assert rows(done.stdout)[-1][-3:] == ["missed", "(tpot,", "e2el)"]

    done = command(LATENCIES, on(queue="1s", percentile="p90"), "--force")
    assert heads(done.stdout).endswith("p99 ms USD/1M p90 queue ms SLA")


def test_where_no_load_is_known_to_be_carried_and_no_sla_is_given_nothing_is_said_of_an_sla(command):
    arrival = '--set=workload.arrival={process: poisson, request_rate: "1 req/s"}'
    done = command("base: tiny.yaml\n", arrival, "--set=workload.num_requests=3", "--set=sla=null")

    assert [row[-1] for row in rows(done.stdout)] == ["-"]
    assert answer(done.stdout)[-1] == "no best: no point is known to carry its load (1 n/a)"


def test_a_verdict_that_is_not_known_is_a_word_in_shards_of_text_too(command, tmp_path):
    command("base: tiny.yaml\n", on(tpot="3ms", percentile="p99"))
    frame = sweeps.read(tmp_path / "out")
    (tmp_path / "text").mkdir()
    frame.to_csv(tmp_path / "text/points-00000.csv.gz", index=False)

    assert frame["sla.verdict"].tolist() == ["n/a"]
    assert sweeps.read(tmp_path / "text")["sla.verdict"].tolist() == ["n/a"]


def test_tables_and_sentences_fit_the_terminal(command):
    text = FILE + "  deployment.max_num_seqs: [3, 6]\n"
    done = command(text, on(e2el="1s", percentile="mean"))

    assert max(map(len, done.stdout.splitlines())) <= sweep.WIDTH
    assert heads(done.stdout).startswith("latency tok/s tok/s")
    assert "(us)" in heads(done.stdout)


def test_where_no_point_meets_the_sla_none_is_called_best(command):
    done = command(FILE, "--set", "sla.tpot=1us")

    assert "none of 6 points meets the SLA (4 missed, 2 error)" in done.stdout
    assert "best" not in done.stdout


def test_without_an_sla_the_best_says_so(command):
    done = command(FILE, "--set", "sla=null")

    assert "best, no SLA being given: instances = 1, latency (us) = 20:" in done.stdout
    assert "met" not in done.stdout


def test_where_all_points_fail_nothing_is_best(command, tmp_path):
    done = command(FILE.replace("[1, 2, 5]", "[5]"))

    assert "no best: all 2 points fail" in done.stdout
    assert not (tmp_path / "out" / "figures").exists()


def test_an_open_loop_has_a_column_of_loads_and_a_closed_one_has_none(command):
    arrival = '--set=workload.arrival={process: poisson, request_rate: "2000 req/s"}'

    assert " load " in command(FILE, arrival).stdout
    assert " load " not in command(FILE, "--force").stdout


def test_points_that_are_too_short_to_tell_are_no_answer_and_no_picture(command, tmp_path):
    arrival = '--set=workload.arrival={process: poisson, request_rate: "1 req/s"}'
    done = command(LATENCIES, arrival, "--set=workload.num_requests=3")

    assert "none of 3 points meets the SLA (3 n/a)" in done.stdout
    assert "Order: n/a (too short to tell)" in done.stdout
    assert "no pictures: no point has a throughput" in done.stderr
    assert not (tmp_path / "out/figures").exists()


def test_rows_that_are_left_out_are_counted_and_their_place_is_named(command, monkeypatch):
    monkeypatch.setattr(sweep, "SHOWN", 2)
    done = command(FILE)

    assert len(rows(done.stdout)) == 2
    assert "... and 4 more points, all in out: afdsim.studies.sweeps.read('out')" in done.stdout


def test_amounts_are_shown_as_numbers_under_their_unit(command):
    done = command(LATENCIES)

    assert "latency (us)" in done.stdout
    assert {row[0] for row in rows(done.stdout)} == {"20", "500", "9"}


def test_pictures_are_of_all_points_and_curves_of_one_numeric_axis(command, tmp_path):
    pytest.importorskip("matplotlib")
    command(FILE)
    assert {path.name for path in (tmp_path / "out/figures").iterdir()} == {"pareto.svg", "pareto.png"}

    command(LATENCIES, "--force")
    assert "curves.svg" in {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert "latency (us)" in (tmp_path / "out/figures/curves.svg").read_text().replace("<!-- ", "").replace(" -->", "")


# files of sweeps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ratio", "ratio.sweep.yaml", "scenarios/ratio.sweep.yaml"])
def test_a_shipped_sweep_is_found_by_name_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = afdsim("sweep", name, "--dry-run")

    assert done.exit_code == 0
    assert "ratio: 63 points x 1 seed of step3_4k" in done.stdout


def test_a_shipped_sweep_is_no_scenario_and_the_list_has_it():
    assert grid.shipped() == ("ratio",)
    assert not [name for name in document.shipped() if "ratio" in name]
    assert "ratio" not in afdsim("list", "scenarios").stdout
    assert "How many attention servers to how many FFN servers" in afdsim("list", "sweeps").stdout
    assert "How many attention servers" in afdsim("list").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "ratoi"), "ratoi: no such file, and no shipped sweep; did you mean 'ratio'? (shipped: ratio)"),
        (("sweep", "tiny.yaml"), "tiny.yaml:1:1: is a scenario; afdsim run runs it, a sweep names it as its base"),
        (("run", "ratio.sweep.yaml"), "ratio.sweep.yaml: a sweep is no scenario; afdsim sweep ratio.sweep.yaml"),
        (("check", "my.sweep.yaml"), "my.sweep.yaml: a sweep is no scenario; afdsim sweep my.sweep.yaml"),
    ],
)
def test_sweeps_and_scenarios_are_not_taken_for_each_other(command, tmp_path, words, message):
    done = afdsim(*words)

    assert done.exit_code == 2
    assert done.stderr.strip() == message


def test_init_writes_a_sweep_that_runs_and_never_overwrites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done, again = (afdsim("init", "--sweep", "mine.sweep.yaml") for _ in range(2))

    assert done.stdout == "wrote mine.sweep.yaml; next: afdsim sweep mine.sweep.yaml\n"
    assert again.exit_code == 2
    assert "mine.sweep.yaml exists and is kept; give another name: afdsim init --sweep other.sweep.yaml" in again.stderr
    assert afdsim("sweep", "mine.sweep.yaml", "--dry-run").exit_code == 0
    assert afdsim("init", "--sweep").stdout.startswith("wrote my.sweep.yaml")
    assert afdsim("init", "--sweep", "b.sweep.yaml", "--from", "small").exit_code == 2


def test_a_base_may_be_written_out_and_its_faults_have_places(command, tmp_path):
    inside = "base:\n  extends: tiny.yaml\n  deployment: {max_num_seqs: 3}\nseeds: 1\n"

    assert command(inside).exit_code == 0
    assert sweeps.read(tmp_path / "out")["status"].tolist() == ["ok"]
    done = command(inside.replace("max_num_seqs", "max_num_sqs"), "--force")
    assert "a.sweep.yaml:3:16: deployment.max_num_sqs: unknown key" in done.stderr


def test_paths_of_a_base_start_from_the_file_of_the_sweep(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/tiny.yaml").write_text(yamlfile.dump(TINY))
    (tmp_path / "folder/a.sweep.yaml").write_text("base: {extends: tiny.yaml}\n")
    monkeypatch.chdir(tmp_path)

    assert grid.read("folder/a.sweep.yaml").base.model == "step3-small"


@pytest.mark.slow
def test_the_shipped_sweep_has_a_best_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = afdsim("sweep", "ratio", "-o", "out", "--workers", "1")

    assert done.exit_code == 0
    assert "best under the SLA: attention.instances = 1, ffn.instances = 1, max_num_seqs = 528:" in done.stdout


def test_the_example_of_the_documents_is_a_sweep(tmp_path):
    text = (Path(__file__).parent.parent.parent / "docs/sweeps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "doc.sweep.yaml").write_text(example)

    assert len(grid.read(tmp_path / "doc.sweep.yaml")) == 90
    assert [key for key in grid.KEYS if f"| `{key}` |" not in text] == []
