"""Reports of folders: what each holds is recognised, told and drawn, and what is no such folder is refused in a line."""

import json
import re
import shlex
from html import unescape

import pytest
from click.testing import CliRunner

import afdsim
from afdsim.cli.main import main
from afdsim.errors import ScenarioError, SimulationError
from afdsim.studies import reporting
from tests import synthetic
from tests.cases import tiny_model

QUICK = ("--set", "workload.num_requests=64", "--set", "workload.output_len.value=8")
SWEEP = """\
version: 1
name: batch <i>
base:
  extends: small
  name: small
  workload: {num_requests: 64}
axes:
  deployment.max_num_seqs: [12, 24, 48]
  deployment.ffn.gpus_per_instance: [8, 7]
"""


def run(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="afdsim")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of every kind, by what it holds."""
    root = tmp_path_factory.mktemp("answers")
    (root / "batch.sweep.yaml").write_text(SWEEP, encoding="utf-8")
    commands = {
        "run": ("run", "small", *QUICK, "--no-marginal"),
        "comparison": ("compare", "small", "small", "--set-b", "deployment.max_num_seqs=24", "--set-b", "name=other",
                       *QUICK, "--seeds", 2, "--no-tune"),
        "sweep": ("sweep", root / "batch.sweep.yaml", "--workers", 1, "--cache", root / "points", "--quiet"),
        "plan": ("plan", "--model", tiny_model(4), "--gpus", "H800:8", "--context", 1024, "--sla-tpot", "0.5ms",
                 "--workers", 1, "--cache", root / "points", "--pareto"),
        "capacity": ("capacity", "small", "--tolerance", 0.3, "--set", "workload.output_len.value=8", "--quiet"),
    }  # fmt: skip
    for name, words in commands.items():
        told = run(*words, "-o", root / name)
        assert told.exit_code in {0, 1}, told.output
    return {name: root / name for name in commands}


KINDS = ("run", "comparison", "sweep", "plan", "capacity")


@pytest.mark.parametrize("name", KINDS)
def test_every_folder_has_a_report_and_the_command_writes_the_same_bytes(folders, name):
    file = folders[name] / "report.html"
    before = file.read_bytes()
    told = run("report", folders[name])

    assert told.exit_code == 0
    assert told.stdout == f"{file}\n"
    assert file.read_bytes() == before
    assert reporting.kind(folders[name]) == name


@pytest.mark.parametrize("name", KINDS)
def test_every_page_has_its_answer_and_pictures_with_data(folders, name):
    html = (folders[name] / "report.html").read_text(encoding="utf-8")
    (answer,) = re.findall(r'<p class="answer">(.*?)</p>', html)
    figures = re.findall(r"<figure.*?</figure>", html, re.S)

    assert re.search(r"\d", answer)
    assert figures
    assert all("<svg" in figure and "<table" in figure for figure in figures)
    assert "<h2>Reproduce</h2>" in html
    assert "http" not in html


def test_a_sweep_names_its_best_point_and_what_failed(folders):
    html = (folders["sweep"] / "report.html").read_text(encoding="utf-8")

    assert "Best under the SLA: max_num_seqs = " in html
    assert "What failed" in html
    assert "3 of 6 runs failed." in html
    assert "small.yaml:" in html
    assert "/small.yaml" not in html
    assert "batch &lt;i&gt;" in html
    assert "Throughput and latency by max_num_seqs" in html


def test_a_comparison_holds_its_runs_and_tells_differences_with_intervals(folders):
    html = (folders["comparison"] / "report.html").read_text(encoding="utf-8")
    told = json.loads((folders["comparison"] / "compare.json").read_text(encoding="utf-8"))

    assert list(told["deployments"]) == ["small", "other"]
    assert "other against small" in html
    assert "95% CI" in html
    assert "mean of 2 seeds" in html
    assert (folders["comparison"] / "runs/2/seeds/1/requests.parquet").is_file()


def test_runs_of_several_folders_are_drawn_over_one_another(folders, tmp_path):
    runs = folders["comparison"] / "runs"
    told = run("report", runs / "1", runs / "2", folders["run"], "-o", tmp_path / "deep" / "both.html")
    html = (tmp_path / "deep" / "both.html").read_text(encoding="utf-8")

    assert told.exit_code == 0
    assert "small and other and small (run)" in html
    assert "p50" in html


def test_several_folders_must_all_be_runs(folders):
    told = run("report", folders["run"], folders["sweep"])

    assert told.exit_code == 2
    assert "holds a sweep; several folders must all be runs" in told.stderr


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_what_is_no_such_folder_is_refused_in_one_line(tmp_path, what):
    if what == "file":
        (tmp_path / what).write_text("x", encoding="utf-8")
    if what == "empty":
        (tmp_path / what).mkdir()
    told = run("report", tmp_path / what)

    assert told.exit_code == 2
    assert len(told.stderr.splitlines()) == 1
    assert str(tmp_path / what) in told.stderr


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("run", "manifest.json", "{"),
        ("run", "requests.parquet", "PAR1"),
        ("run", "scenario.resolved.yaml", "version: 1\nmodel: none"),
        ("comparison", "compare.json", "[]"),
        ("comparison", "compare.json", '{"deployments": {"a": 1}}'),
        ("comparison", "runs/2/manifest.json", "{}"),
        ("sweep", "points-00000.parquet", "x"),
        ("sweep", "sweep.yaml", "["),
        ("sweep", "sweep.yaml", "- 1"),
        ("plan", "plan.json", "{}"),
        ("plan", "plan.csv", ""),
        ("capacity", "capacity.json", "null"),
        ("capacity", "capacity.csv", "a,b\n1,2\n"),
    ],
)
def test_a_damaged_folder_is_told_in_words(folders, name, file, text):
    path = folders[name] / file
    before = path.read_bytes()
    try:
        path.write_text(text, encoding="utf-8")
        told = run("report", folders[name])
    finally:
        path.write_bytes(before)

    assert told.exit_code == 2
    assert "Traceback" not in told.output
    assert name in told.stderr


def test_what_a_reader_of_tables_cannot_do_is_damage(tmp_path):
    with pytest.raises(ScenarioError, match="is damaged"), reporting.reading(tmp_path):
        raise NotImplementedError("Integers with more than 64 bits not implemented")


def test_one_damaged_folder_of_several_is_told_in_words(folders):
    requests = folders["run"] / "requests.parquet"
    before = requests.read_bytes()
    try:
        requests.write_bytes((folders["run"] / "gpus.parquet").read_bytes())
        told = run("report", folders["comparison"] / "runs" / "1", folders["run"])
    finally:
        requests.write_bytes(before)

    assert told.exit_code == 2
    assert f"{folders['run']} is damaged" in told.stderr


def test_long_names_are_cut_where_several_runs_share_a_page(folders, tmp_path):
    long = tmp_path / "long"
    assert run("run", "small", "--set", f"name={'n' * 200}", "--no-marginal", "--quiet", "-o", long).exit_code == 0
    html = str(reporting.report(folders["run"], long))

    assert f"{'n' * 39}…:" in html
    assert "n" * 41 not in html.split('<section id="scenario', maxsplit=1)[0]


def test_a_file_that_cannot_be_written_is_told(folders, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    inside, folder = (
        run("report", folders["run"], "-o", tmp_path / "file" / "x.html"),
        run("report", folders["run"], "-o", tmp_path),
    )

    assert inside.exit_code == 1
    assert "cannot be written" in inside.stderr
    assert folder.exit_code == 2
    assert "is a folder; -o takes a file" in folder.stderr


def test_without_jinja2_a_run_is_saved_with_a_warning_and_a_report_is_refused(folders, small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.warns(UserWarning, match=r"no report: jinja2 is missing; pip install 'afdsim\[report\]'"):
        folder = synthetic.result(small).save(tmp_path / "run")

    assert not (folder / "report.html").exists()
    assert (folder / "figures").is_dir()
    with pytest.raises(SimulationError, match=r"reports need matplotlib and jinja2"):
        reporting.report(folder)


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ScenarioError, match="name a folder"):
        reporting.report()


def test_a_report_from_python_is_that_of_the_folder(folders):
    result = afdsim.results.result.Result.load(folders["run"])

    assert str(reporting.report(folders["run"])) == str(result.report())


def test_a_search_for_capacity_is_run_again_from_its_folder(folders, monkeypatch):
    html = (folders["capacity"] / "report.html").read_text(encoding="utf-8")
    (command,) = re.findall(r"afdsim (run scenario\.yaml [^<]*)<", html)
    monkeypatch.chdir(folders["capacity"])

    assert run(*shlex.split(unescape(command)), "--no-marginal", "--quiet").exit_code == 0
