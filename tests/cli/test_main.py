import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from afdsim import __version__, simulation
from afdsim.cli.main import main
from afdsim.errors import SimulationError
from tests import synthetic

AFDSIM = [sys.executable, "-c", "from afdsim.cli.main import main; main(prog_name='afdsim')"]
LOADED = "import sys; from afdsim.cli.main import main; main({!r}, standalone_mode=False); print(*sys.modules, file=sys.stderr)"


def afdsim(*words):
    return CliRunner().invoke(main, list(words), prog_name="afdsim")


def modules_after(*words):
    code = LOADED.format(list(words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}


# start-up


def test_version_and_help_import_nothing_heavy():
    heavy = {"numpy", "pandas", "simpy", "pydantic", "matplotlib", "pyarrow", "ruamel", "rich"}
    assert not heavy & modules_after("--version")

    code = "import sys; from afdsim.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert not heavy & {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_a_small_run_imports_neither_frames_nor_figures_nor_a_compiler():
    assert not {"pandas", "matplotlib", "pyarrow", "numba"} & modules_after("run", "small", "--quiet")


# run


def test_run_prints_the_report_and_the_wall_time_on_stderr():
    done = afdsim("run", "small")

    assert done.exit_code == 0
    assert done.stdout.startswith(f"afdsim {__version__}  small  sha256:")
    assert "rows sum to 100 %" in done.stdout
    assert "wall time" not in done.stdout
    assert "wall time" in done.stderr


def test_quiet_prints_nothing_on_stderr():
    assert afdsim("run", "small", "--quiet").stderr == ""


def test_json_is_the_summary_and_the_same_bytes_every_time(small):
    first, second = (afdsim("run", "small", "--json", "--seed", "3", "--no-marginal") for _ in range(2))

    assert first.stdout == second.stdout
    assert json.loads(first.stdout) == simulation.simulate(small.vary("run.seeds", [3]), seed=3).summary


def test_set_and_engine_change_the_scenario():
    done = afdsim("run", "small", "--json", "--set", "workload.num_requests=50", "--engine", "processes")

    summary = json.loads(done.stdout)
    assert summary["completed"] == 50
    assert summary["afdsim"]["engine"]["name"] == "processes"


def test_output_saves_what_json_prints_and_a_log_with_the_command(tmp_path):
    folder = tmp_path / "run"
    done = afdsim("run", "small", "-o", str(folder), "--json")

    assert (folder / "result.json").read_text(encoding="utf-8") == done.stdout
    log = (folder / "run.log").read_text(encoding="utf-8")
    assert "wall time: " in log
    assert "command: afdsim" in log


def test_a_folder_of_another_scenario_is_refused_before_anything_runs(tmp_path, monkeypatch):
    folder = str(tmp_path / "run")
    words = ("run", "small", "-o", folder, "--quiet")
    afdsim(*words)
    with monkeypatch.context() as patched:
        patched.setattr(simulation, "simulate", None)
        done = afdsim(*words, "--set", "deployment.max_num_seqs=40")

    assert done.exit_code == 2
    assert done.stderr == f"{folder} exists and holds a different scenario; -o or --force\n"
    assert afdsim(*words, "--set", "deployment.max_num_seqs=40", "--force").exit_code == 0


def test_several_seeds_are_pooled_and_saved(tmp_path):
    folder = tmp_path / "run"
    done = afdsim("run", "small", "--set", "run.seeds=[0, 1]", "-o", str(folder))

    assert "seeds 0,1" in done.stdout
    assert "over 2 seeds" in done.stdout
    assert set(json.loads((folder / "seeds.json").read_text(encoding="utf-8"))["seeds"]) == {"0", "1"}


@pytest.mark.parametrize(("limit", "code"), [("1us", 3), ("10s", 0)])
def test_fail_on_sla_tells_by_the_exit_code(limit, code):
    assert afdsim("run", "small", "--quiet", "--fail-on-sla", "--set", f"sla.tpot={limit}").exit_code == code


# what goes wrong


def test_bad_input_is_explained_line_by_line_without_a_traceback(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("extends: small\nworkload:\n  otput_len: 512\nrun: {seeds: [-1]}\n", encoding="utf-8")
    done = afdsim("run", str(path))

    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert lines[0] == f"{path}:3:3: workload.otput_len: unknown key 'otput_len'; did you mean 'output_len'?"
    assert len(lines) == 2
    assert done.stdout == ""


def test_what_does_not_fit_is_bad_input_with_its_place():
    for command in ("run", "check"):
        done = afdsim(command, "step3_2a2f_4k", "--set", "deployment.ffn.instances=1", "--set", "deployment.ffn.gpu=L4")

        assert done.exit_code == 2
        assert "deployment.ffn.instances: FFN weights need" in done.stderr


def test_a_failed_simulation_exits_with_one(monkeypatch):
    def fails(*_, **__):
        raise SimulationError("no attention instance left at 30.0 s; 812 requests unfinished")

    monkeypatch.setattr(simulation, "simulate", fails)
    done = afdsim("run", "small")

    assert (done.exit_code, done.stderr) == (1, "no attention instance left at 30.0 s; 812 requests unfinished\n")


def test_a_folder_that_cannot_be_written_exits_with_one(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = afdsim("run", "small", "-o", str(tmp_path / "file" / "run"))

    assert done.exit_code == 1
    assert "cannot be written: Not a directory" in done.stderr


def test_interrupted_says_what_is_kept(small, tmp_path, monkeypatch):
    def simulate(scenario, *, seed, **_):
        if seed == 1:
            raise KeyboardInterrupt
        return synthetic.result(scenario, seed)

    monkeypatch.setattr(simulation, "simulate", simulate)
    nothing = afdsim("run", "small", "--seed", "1")
    something = afdsim("run", "small", "--set", "run.seeds=[0, 1]", "-o", str(tmp_path / "run"))

    assert (nothing.exit_code, nothing.stderr) == (130, "interrupted; nothing was saved\n")
    assert (something.exit_code, something.stderr) == (130, f"interrupted; {tmp_path / 'run'} keeps seed 0\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("run", "small", "--sed", "3"), "--seed"),
        (("rum", "small"), "Did you mean 'run'"),
        (("run", "smal"), "did you mean 'small'?"),
        (("list", "gpu"), "gpus"),
        (("run", "small", "--seed", "-1"), "x>=0"),
        (("run", "small", "--set", "deployment"), "path=value"),
    ],
)
def test_a_slip_of_the_keyboard_gets_a_hint_and_exit_code_2(words, hint):
    done = afdsim(*words)

    assert done.exit_code == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_warnings_go_to_stderr():
    done = afdsim("check", "small", "--set", "deployment.num_microbatches=1")

    assert done.exit_code == 0
    assert done.stderr.startswith("warning: ")
    assert "no overlap" in done.stderr


def test_a_reader_that_leaves_early_is_no_error():
    code = f'{sys.executable} -c "from afdsim.cli.main import main; main()" schema | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "{"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_cannot_be_written_is_said_in_one_line():
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run([*AFDSIM, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "output: No space left on device\n")


def test_an_ascii_terminal_gets_ascii():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for words in (("run", "small"), ("list",)):
        done = subprocess.run([*AFDSIM, *words], capture_output=True, env=environment, check=True)

        assert done.stdout.isascii()
        assert b"####" in done.stdout or words == ("list",)
        assert b"\x1b" not in done.stdout


# the other commands


def test_check_names_deployment_and_memory():
    alike = ("--set", "workload.input_len=3840", "--set", "workload.output_len=512")
    done = afdsim("check", "step3_2a2f_4k", *alike)

    assert done.exit_code == 0
    assert "AFD decode 2A2F (32 GPUs) = 2x8 H200 attention + 2x8 H200 FFN (TP8), 3 micro-batches" in done.stdout
    assert "for KV cache" in done.stdout
    assert "sequences of 4,352 tokens" in done.stdout


def test_list_names_everything_with_its_source():
    from afdsim.catalog import entries as catalog
    from afdsim.scenario.document import shipped

    everything = afdsim("list").stdout
    assert all(name in everything for name in (*catalog.gpus(), *catalog.llms(), *shipped()))
    assert catalog.gpu("H20").source in everything
    assert "step3" not in afdsim("list", "gpus").stdout


def test_the_progress_bar_is_drawn_on_stderr(capsys):
    from afdsim.cli.main import _bar

    with _bar() as progress:
        progress(0.5, "small")

    assert capsys.readouterr().out == ""
