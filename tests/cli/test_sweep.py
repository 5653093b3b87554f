"""`afdsim sweep` shows its answer; `afdsim init --sweep` and `afdsim list sweeps` show how one is written."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

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
        r"\(2 met, 2 missed, 2 error\)$", done.stdout, re.MULTILINE
    )  # fmt: skip


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
    assert "ratio: 24 points x 1 seed of step3_4k" in done.stdout


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
    assert "best under the SLA: attention.instances = 3, ffn.instances = 2" in done.stdout


def test_the_example_of_the_documents_is_a_sweep(tmp_path):
    text = (Path(__file__).parent.parent.parent / "docs/sweeps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "doc.sweep.yaml").write_text(example)

    assert len(grid.read(tmp_path / "doc.sweep.yaml")) == 90
    assert [key for key in grid.KEYS if f"| `{key}` |" not in text] == []
