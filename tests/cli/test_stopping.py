"""Ctrl-C and SIGTERM end a command alike: one message, the exit code of the signal, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from afdsim.cli import stopping

AFDSIM = [sys.executable, "-m", "afdsim"]
LONG = ("step3_2a2f_4k", "--set", "workload.num_requests=100000", "--no-marginal")
SWEEP = """base: {{extends: small, workload: {{num_requests: {requests}}}}}
axes: {{deployment.max_num_seqs: [16, 24, 32, 48]}}
"""


def begun(words, folder, until, **environment):
    """Start a command in a group of its own and wait until a line on stderr, or a process, shows that it works."""
    process = subprocess.Popen(
        [*AFDSIM, *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not until(process) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    return process


def busy(process, seconds=2.0):
    """Whether a process has computed for so long."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > seconds


def group(pid):
    """Living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(own) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_says_what_it_keeps(number, code, tmp_path):
    process = begun(("run", *LONG, "-o", "out"), tmp_path, busy)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)

    assert process.returncode == code
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("interrupted; ")


@linux
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=["INT", "TERM", "KILL"]
)
def test_workers_end_with_the_sweep_that_they_work_for(number, code, tmp_path):
    (tmp_path / "a.sweep.yaml").write_text(SWEEP.format(requests=800_000), encoding="utf-8")
    process = begun(("sweep", "a.sweep.yaml", "--workers", "2"), tmp_path, lambda each: len(group(each.pid)) > 2)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    deadline = time.monotonic() + 3
    while group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert process.returncode == code
    assert "Traceback" not in told
    assert group(process.pid) == []
    assert code < 0 or "of 4 points are kept" in told


def test_a_sweep_that_cannot_write_has_failed_and_was_not_interrupted(tmp_path):
    (tmp_path / "a.sweep.yaml").write_text(SWEEP.format(requests=100), encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = ("sweep", "a.sweep.yaml", "--workers", "1", "--cache", "file/points")
    done = subprocess.run([*AFDSIM, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "interrupted" not in done.stderr


def test_what_a_library_makes_of_a_signal_is_an_interruption():
    from afdsim.cli.main import _explained

    assert _explained(ValueError("error calling a serialiser: KeyboardInterrupt"), [signal.SIGTERM]) == 143
    assert _explained(ValueError("a bug"), []) is None


def test_a_run_that_is_terminated_in_a_long_step_ends_without_it(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 1)
    with stopping.between_steps() as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped() == 143
        with pytest.raises(stopping.TerminatedError):
            time.sleep(20)


def test_a_second_signal_ends_a_run_at_once():
    with stopping.between_steps() as stopped:
        assert stopped() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped() == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_was_reached_in_time_is_kept_however_long_that_takes(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 1)
    with stopping.between_steps() as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        stopping.patient()
        time.sleep(1.2)

        assert stopped() == 143


def test_a_run_that_is_stopped_while_it_looks_at_one_more_instance_is_kept(monkeypatch, tmp_path):
    from click.testing import CliRunner

    from afdsim.cli.main import main
    from afdsim.studies import marginal

    def asked(_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(marginal, "marginal", asked)
    done = CliRunner().invoke(main, ["run", "small", "--quiet", "-o", str(tmp_path / "out")])

    assert done.exit_code == 143
    assert done.stderr.splitlines()[-1] == f"interrupted; {tmp_path / 'out'} keeps seed 0"
    assert not (tmp_path / "out" / "report.html").exists()


def test_what_is_drawn_can_be_left_at_once(monkeypatch, tmp_path):
    from click.testing import CliRunner

    from afdsim.cli.main import main
    from afdsim.results.result import Result

    monkeypatch.setattr(Result, "draw", lambda *_: signal.raise_signal(signal.SIGINT))
    done = CliRunner().invoke(main, ["run", "small", "--quiet", "--no-marginal", "-o", str(tmp_path / "out")])

    assert (done.exit_code, done.stderr) == (130, f"interrupted; {tmp_path / 'out'} keeps seed 0\n")


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_is_loaded_says_so(number, tmp_path):
    (tmp_path / "click.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")  # what takes long to load
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = begun(("list",), tmp_path, lambda each: caught(each.pid, signal.SIGTERM), PYTHONPATH=path)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)

    assert (process.returncode, told) == (128 + number, "interrupted; nothing was saved\n")


@pytest.mark.parametrize("hears", ["noticed", "between_steps"])
def test_the_exit_code_counts_wherever_ctrl_c_came(hears, tmp_path):
    (tmp_path / "asked.py").write_text(INSIDE_EXEC.format(hears=hears), encoding="utf-8")
    words = [sys.executable, "-m", "asked"]

    assert subprocess.run(words, cwd=tmp_path, stderr=subprocess.DEVNULL, check=False).returncode == 130


INSIDE_EXEC = """import signal, sys
from afdsim.cli import stopping
try:
    with stopping.{hears}():
        for _ in range(2):
            exec("signal.raise_signal(signal.SIGINT)")  # as libraries make classes when they are loaded
except KeyboardInterrupt:
    sys.exit(130)
"""


def caught(pid, number):
    """Whether a process has a handler for a signal."""
    mask = int(Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def test_what_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and "&" in a script do
    try:
        with stopping.noticed() as asked, stopping.between_steps() as stopped:
            signal.raise_signal(signal.SIGINT)

            assert (asked, stopped()) == ([], 0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, stopping.TerminatedError), (signal.SIGINT, stopping.InterruptError)]
)
def test_a_signal_that_comes_while_an_object_goes_is_not_lost(number, error):
    class Going:
        pass

    def work():
        going = Going()
        watched.append(weakref.ref(going, lambda _: signal.raise_signal(number)))
        del going  # Python only reports what is raised in here
        time.sleep(10)

    watched = []
    with pytest.raises(error), stopping.noticed() as asked:
        work()

    assert asked == [number, number]
