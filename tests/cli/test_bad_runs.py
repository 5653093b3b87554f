"""What is sound as a scenario and goes wrong as a run: the answer names the place, the limit and the way out."""

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import afdsim
from afdsim import CapacityError
from afdsim.cli.main import main
from afdsim.scenario.document import locate
from tests.cases import tiny_model
from tests.scenario.test_bad_inputs import PIECES

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def command(*words):
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="afdsim")


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def replay(file):
    """Replay a trace of the given rows with a model of two layers; 1A1F."""
    scenario = file("extends: azure_conversation\nmodel: step3-small\nworkload: {trace: {path: t.csv}}\n")

    def run(rows, *words, name="t.csv"):
        return file(rows, name), command("run", scenario, "--quiet", *words)

    return run


# memory


@pytest.mark.parametrize("verb", ["run", "check"])
def test_weights_that_do_not_fit_name_the_smallest_deployment_that_does(file, verb):
    path = file("extends: step3_2a2f_4k\ndeployment:\n  ffn:\n    gpu: L4\n    instances: 1\n")
    done = command(verb, path)

    assert done.exit_code == 2
    assert done.stderr == (
        f"{path}:5:16: deployment.ffn.instances: FFN weights need 38.0 GB per GPU, "
        "L4 has 19.0 of 24.2 GB usable; smallest fit: deployment.ffn.instances=2, or deployment.ffn.gpu=L20\n"
    )


def test_attention_weights_without_room_for_a_cache_say_how_to_make_room(file):
    path = file("extends: step3_2a2f_4k\nprecision: {ffn: bf16}\ndeployment: {attention: {gpu: L4}}\n")
    done = command("check", path)

    assert done.exit_code == 2
    assert done.stderr == (
        f"{path}:3:31: deployment.attention.gpu: attention weights need 24.4 GB per GPU and leave no room for KV cache: "
        "L4 has 19.4 of 24.2 GB usable; smallest fit: deployment.attention.parallelism={tp: 2}, "
        "or deployment.attention.gpu=L20, or precision.ffn=fp8\n"
    )


@pytest.mark.parametrize("verb", ["run", "check"])
def test_requests_that_can_never_fit_are_an_error_in_a_closed_loop(file, verb):
    path = file("extends: small\nworkload:\n  input_len: 90000000\n")
    done = command(verb, path)

    assert done.exit_code == 2
    assert done.stderr == (
        f"{path}:3:14: workload.input_len: no request fits: 90,000,064 tokens need 92.2 GB of KV cache, "
        "an attention rank has 70.6 GB; smallest fit: workload.input_len=68912298, or deployment.attention.gpu=H20-141GB\n"
    )


def test_a_cache_smaller_than_max_num_seqs_is_noted_with_what_fits():
    done = command(
        "run", "step3_2a2f_4k", "--quiet", "--set", "deployment.attention.gpu=L4", "--set", "workload.num_requests=1",
        "--set", "workload.input_len=3840", "--set", "workload.output_len=8",
    )  # fmt: skip

    assert done.exit_code == 0
    assert "Note KV cache of a rank holds 44 of max_num_seqs 384 at the longest context, 3,848\n" in done.stdout


def test_a_capacity_error_from_python_carries_its_path():
    with pytest.raises(CapacityError, match=r"^deployment\.ffn\.instances: FFN weights need ") as caught:
        afdsim.simulate({"extends": "step3_2a2f_4k", "deployment": {"ffn": {"gpu": "L4", "instances": 1}}})

    assert caught.value.path == "deployment.ffn.instances"


# load


def test_a_rate_above_capacity_is_a_verdict_and_ends_at_max_sim_time():
    rate = ("workload.arrival={process: poisson, request_rate: 9000 req/s}", "workload.num_requests=9000")
    words = [word for each in (*rate, "run.stop.max_sim_time=800ms") for word in ("--set", each)]
    done = command("run", "small", "--quiet", *words)

    assert done.exit_code == 0
    found = re.search(r"Load OVERLOADED: offered ([\d,.e+]+) req/s, served ([\d,.e+]+); queue grows ", done.stdout)
    assert found is not None
    assert float(found[1].replace(",", "")) > 3 * float(found[2].replace(",", ""))
    assert re.search(r"Requests  [\d,]+ finished, [\d,]+ unfinished; window 0\.4\d* s simulated", done.stdout)


def test_percentiles_without_enough_requests_are_not_shown():
    done = command("run", "small", "--quiet")

    assert " n/a: p99 needs >= 1,000, p99.9 needs >= 10,000 requests\n" in done.stdout
    assert re.search(r"TPOT \(ms\) .* n/a +n/a ", done.stdout)


# traces


def test_a_trace_with_other_columns_says_which_were_expected(replay):
    path, done = replay("ts,in,out\n1,2,3\n")

    assert done.exit_code == 2
    assert done.stderr == (
        f"{path}: expected columns TIMESTAMP,ContextTokens,GeneratedTokens (azure), or those of mooncake, bailian, "
        "burstgpt, vidur, llmservingsim, blis, vllm-bench, vllm-custom, sharegpt, afdsim, generic; found ts,in,out in a CSV; "
        "rename the columns, for example to timestamp,input_length,output_length, and give time_unit: s, ms, us or ns\n"
    )


def test_a_trace_of_bad_rows_is_refused_with_the_first_of_them(replay):
    path, done = replay(AZURE + "2023-11-16 18:15:46.68,374,0\n2023-11-16 18:15:47.68,374,3\n")

    assert done.exit_code == 2
    assert done.stderr == (
        f"{path}:2: output tokens 0; 1 of 2 rows cannot be used, at most 1% may be skipped; "
        "clean the file, or check format: (read as azure)\n"
    )


def test_few_bad_rows_are_skipped_and_counted_and_disorder_is_sorted(replay):
    rows = [f"2023-11-16 18:15:46.{n:06d},374,3" for n in range(300)]
    rows[3], rows[9], rows[20] = "2023-11-16 18:15:46.3,374,0", "2023-11-16 18:15:46.9,-4,3", "soon,374,3"
    rows[30], rows[31] = rows[31], rows[30]
    path, done = replay(AZURE + "\n".join(rows[:250] + rows[251:]) + "\n", "--json")

    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"{path}:5: output tokens 0; 3 of 299 rows cannot be used, at most 1% may be skipped; "
    )

    rows[3], rows[9] = rows[2], rows[8]
    path, done = replay(AZURE + "\n".join(rows) + "\n")
    assert done.exit_code == 0
    assert "Note t.csv:22: arrival soon is no ISO date, as 2023-11-16 18:17:03: skipped" in " ".join(
        done.stdout.split()
    )
    assert "Note t.csv: 1 of 299 requests were out of order: sorted\n" in done.stdout


def test_bad_rows_are_refused_where_none_may_be_skipped(replay):
    path, done = replay(AZURE + "2023-11-16 18:15:46.68,many,4\n", "--set", "workload.trace.skip_bad_rows=false")

    assert done.exit_code == 2
    assert done.stderr == f"{path}:2: input tokens many; skip_bad_rows: true leaves such rows out\n"


def test_an_empty_window_of_a_trace_says_how_long_the_trace_is(replay):
    path, done = replay(
        AZURE + "2023-11-16 18:15:46,9,4\n2023-11-16 18:15:48,9,4\n", "--set", "workload.trace.start=9s"
    )

    assert done.exit_code == 2
    assert done.stderr == (f"{path}: no request left between start and end; the file holds 2 requests in 2.0 s\n")


def test_check_reads_the_trace_too(replay, file):
    replay("ts,in,out\n1,2,3\n")
    done = command("check", file("extends: azure_conversation\nworkload: {trace: {path: t.csv}}\n", "b.yaml"))

    assert done.exit_code == 2
    assert "expected columns" in done.stderr


# models and folders


def test_an_unknown_kind_of_model_names_those_that_are_known(file):
    file('{"model_type": "llama5", "hidden_size": 8}', "config.json")
    path = file("extends: small\nmodel: ./config.json\n")
    done = command("check", path)

    assert done.exit_code == 2
    assert done.stderr.startswith(f"{path}:2:8: model: ")
    assert '"llama5" is not known (nearest in name, with other layers: llama, llama4;' in done.stderr
    assert "deepseek" in done.stderr


def test_a_folder_with_something_else_in_it_is_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    done = command("run", "small", "-o", tmp_path, "--quiet")

    assert (done.exit_code, done.stderr) == (2, f"{tmp_path} exists and holds no afdsim result; -o or --force\n")


@pytest.mark.filterwarnings("default")
def test_without_pyarrow_frames_are_csv_with_a_warning(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = command("run", "small", "--quiet", "-o", tmp_path / "run")

    assert done.exit_code == 0
    assert (
        "warning: requests.csv.gz is written as CSV: pyarrow is missing; pip install 'afdsim[parquet]'\n" in done.stderr
    )
    assert (tmp_path / "run/requests.csv.gz").is_file()


# whatever the file holds


@settings(max_examples=25)
@given(data=st.data(), verb=st.sampled_from(["check", "run"]))
def test_a_mutated_file_never_ends_in_a_traceback(data, verb, tmp_path_factory):
    text = QUICK.replace("MODEL", tiny_model(2))
    for _ in range(data.draw(st.integers(1, 4))):
        cut, removed = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        text = text[:cut] + data.draw(PIECES | st.text(max_size=4)) + text[cut + removed :]
    path = tmp_path_factory.mktemp("mutated") / "m.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    done = command(verb, path, *LIMITS)

    assert done.exit_code in (0, 2), done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert bool(done.stdout) == (done.exit_code == 0)


QUICK = """\
version: 1
name: quick
model: MODEL
precision: {attention: fp8, ffn: fp8, kv_cache: fp8}
deployment:
  type: afd
  attention: {gpu: H800, instances: 1, gpus_per_instance: 1}
  ffn: {gpu: H800, instances: 1, gpus_per_instance: 1}
  num_microbatches: 3
  max_num_seqs: 6
network: {type: ports, link: {bandwidth: 400Gbps, latency: 9us}, efficiency: 0.8}
variation: {event: 0.05, step: 0.02, link: 0.027}
workload:
  arrival: {process: poisson, request_rate: 900 req/s}
  input_len: {distribution: lognormal, mean: 300, cv: 0.5, min: 2, max: 900}
  output_len: 4
  num_requests: 9
sla: {tpot: 50ms, percentile: p99}
run: {seeds: [0], granularity: gpu, warmup: 1ms}
"""
LIMITS = ("--set", "run.stop.max_sim_time=20ms", "--set", "run.seeds=[0]")


def test_the_file_that_is_mutated_is_a_good_one(file):
    assert command("run", file(QUICK.replace("MODEL", tiny_model(2))), *LIMITS, "--quiet").exit_code == 0


@pytest.mark.parametrize("name", ["small", "step3_2a2f_4k", "step3_poisson"])
def test_shipped_scenarios_are_fine_and_say_nothing_on_stderr(name):
    done = command("check", locate(name))

    assert (done.exit_code, done.stderr) == (0, "")
    assert Path(locate(name)).stem in done.stdout


# degrees


@pytest.mark.parametrize("verb", ["run", "check", "explain"])
def test_a_degree_that_does_not_divide_is_refused_with_the_nearest(file, verb):
    path = file("extends: dsr1_h20_ep16\ndeployment:\n  parallelism: {dp: 2, tp: 3}\n  gpus_per_instance: 6\n")
    done = command(verb, path)

    assert done.exit_code == 2
    assert (
        f"{path}:3:16: deployment.parallelism: a hidden size of 7,168 and 128 query heads do not divide over tp=3; "
        "nearest: deployment.parallelism={tp: 2} with deployment.gpus_per_instance=4\n"
    ) in done.stderr


def test_a_degree_that_does_not_divide_ends_a_comparison(file):
    path = file("extends: dsr1_h20_ep16\ndeployment: {redundant_experts: 1}\n")
    done = command("compare", "dsr1_h20_ep16", path)

    assert done.exit_code == 2
    assert "do not divide over 16 groups of GPUs; nearest for deployment.redundant_experts: 0 or 16\n" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--tp 3",
            "--tp 3: a hidden size of 4,096, 64 query heads and 4 KV heads of qwen3-235b do not divide; nearest",
        ),
        ("--ep 3", "--ep 3: 128 experts of qwen3-235b do not divide; nearest for --ep: 2 or 4"),
    ],
)
def test_a_bare_model_is_cut_evenly(options, message):
    asked = ("--model", "qwen3-235b", "--gpu", "H100", "--batch", 8, "--context", 1024)
    done = command("explain", *asked, *options.split())

    assert done.exit_code == 2
    assert message in done.stderr


def test_answers_whose_drafts_would_take_hours_to_draw_are_refused(file):
    changes = ("--set", "deployment.mtp={draft: 1, acceptance: 0.5}", "--set", "workload.output_len=8000000")
    done = command("run", "small", "--quiet", *changes)

    assert done.exit_code == 2
    assert done.stderr.startswith(
        "deployment.mtp: an answer has at most 1,000,000 tokens with it, whose steps are drawn"
    )


# names


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "..", "x" * 200, "[red]$x_$<b>"])
def test_a_name_decides_no_path(name, tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    done = command("run", "small", "--set", f"name='{name}'", "--quiet", "--no-marginal", "--trace", "1ms")

    assert done.exit_code == 0
    assert [path.parent for path in tmp_path.rglob("*.json.gz")] == [inside]


def test_a_name_of_a_sweep_decides_no_path_either(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    text = "name: ../../evil\nbase: small\naxes: {deployment.max_num_seqs: [9]}\nseeds: 1\n"
    Path("s.sweep.yaml").write_text(text, encoding="utf-8")
    done = command("sweep", "s.sweep.yaml", "--workers", "1", "--quiet")

    assert done.exit_code == 0
    assert all(path.is_relative_to(inside) for path in tmp_path.rglob("*") if path.is_file())
    assert command("sweep", "s.sweep.yaml", "--dry-run").exit_code == 0
    Path("t.sweep.yaml").write_text(text.replace("../../evil", '"a\\x1bb"'), encoding="utf-8")
    assert "t.sweep.yaml:1:7: name: must be one line of" in command("sweep", "t.sweep.yaml").stderr


@pytest.mark.parametrize("words", [("run", "x" * 300), ("run", "small", "--set", f"model={'x' * 300}.json")])
def test_a_file_name_that_is_too_long_is_bad_input(words):
    done = command(*words)

    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_what_a_terminal_would_obey_is_told_as_escapes():
    done = command("run", "\x1b[31mred\x07")

    assert done.exit_code == 2
    assert "\\x1b[31mred\\x07" in done.stderr
    assert "\x1b" not in done.stderr
