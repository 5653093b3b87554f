"""The commands about cost: what they print, their JSON, and what they refuse."""

import json

import pytest
from click.testing import CliRunner

from afdsim.cli.cost import ACCELERATORS, MODELS
from afdsim.cli.main import main


def run(*arguments, code=0):
    found = CliRunner().invoke(main, [str(each) for each in arguments])
    assert found.exit_code == code, found.output
    return found


def answer(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def test_cost_answers_for_the_paper():
    found = answer("cost")

    assert len(found["work"]) == len(MODELS) * 2
    assert len(found["usd"]) == len(MODELS) * len(ACCELERATORS) * 2
    assert len(found["afd"]) == len(MODELS) * 2
    assert set(found["work"][0]) == {
        "model",
        "context",
        "kv_bytes",
        "attention_flops",
        "linear_flops",
        "ffn_flops",
    }
    assert set(found["usd"][0]) == {"model", "gpu", "context", "attention", "ffn", "total"}
    assert set(found["afd"][0]) == {"model", "context", "attention_gpu", "ffn_gpu", "usd"}
    assert {row["gpu"]: round(row["value"], 3) for row in found["min_sparsity"]} == {
        "H800": 0.058,
        "H20": 0.007,
        "A800": 0.031,
        "910B": 0.034,
    }


def test_cost_of_chosen_models_and_contexts():
    found = answer("cost", "--model", "step3,kimi-k2", "--gpu", "L20", "--gpu", "H20", "--context", "1000")

    assert [row["model"] for row in found["work"]] == ["step3", "kimi-k2"]
    assert [row["total"] is None for row in found["usd"]] == [True, False, True, False]
    assert {row["attention_gpu"] for row in found["afd"]} == {"H20"}


def test_weak_hardware_of_the_paper():
    found = answer("cost", "--model", "step3", "--gpu", "L20,L4,H20", "--context", "8000")
    weak = {row["gpu"]: (row["largest_batch"], row["ffn_cards"]) for row in found["weak_hardware"]}

    assert weak["L20"] == (41, 48)
    assert weak["L4"] == (3, 144)
    assert weak["H20"][1] == 12


def test_a_slower_network_needs_more_active_experts():
    wide, narrow = (answer("cost", "--network", rate)["min_sparsity"][0]["value"] for rate in ("400 GB/s", "200 GB/s"))

    assert narrow == pytest.approx(2 * wide)


def test_cost_prints_every_block():
    text = run("cost").stdout

    for word in ("Work per decoded token", "0.055  H20 + H800", "0.058", "compute", "ideal FFN batch", "FFN cards"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_stated_price_counts():
    (row,) = answer("cost", "--model", "step3", "--gpu", "H200", "--context", "8192", "--price", "H200=3.6")["usd"]

    assert row["ffn"] == pytest.approx(5.33e10 * 3.6 / 3600 / 1979e12 * 1e6, rel=0.002)


def test_explain_answers_for_one_layer():
    found = answer("explain", "--model", "step3", "--gpu", "H800", "--batch", 64, "--context", 8192)
    attention = sum(each["seconds"] for each in found["operators"] if each["stage"] == "attention")

    assert {"name", "stage", "flops", "bytes", "seconds", "bound"} <= set(found["operators"][0])
    assert found["attention_s"] == pytest.approx(attention)
    assert found["ffn_s"] > 0


def test_explain_takes_several_formats_after_one_option():
    asked = ("explain", "--model", "step3", "--gpu", "H800", "--batch", 64, "--context", 8192, "--precision")
    spaced = answer(*asked, "attention=bf16", "kv_cache=bf16")

    assert spaced == answer(*asked, "attention=bf16,kv_cache=bf16")
    assert spaced["attention_s"] > answer(*asked, "kv_cache=fp8")["attention_s"]


@pytest.mark.parametrize("name", ["small", "step3_2a2f_4k", "step3_poisson"])
def test_explain_a_scenario(name):
    found = answer("explain", name)

    assert {each["stage"] for each in found["operators"]} == {"attention", "boundary", "gather", "ffn", "scatter"}


def test_a_scenario_is_explained_at_its_mean_context():
    at_mean = answer("explain", "step3_2a2f_4k")["attention_s"]
    near, far = (answer("explain", "step3_2a2f_4k", "--context", n)["attention_s"] for n in (4000, 4200))

    assert near < at_mean < far


def test_explain_takes_coefficients_of_its_own(tmp_path):
    head = "gpu,kernel,dtype,backend,gpus,peak,fixed,compute,memory,bandwidth,tile,quantise,status,source,samples"
    path = tmp_path / "own.csv"
    path.write_text(f"{head},median_error\nH800,gemm,fp8,*,,,1e-3,0.5,0.5,,1,0,measured,mine,20,0.01\n")
    asked = ("explain", "--model", "step3", "--gpu", "H800", "--batch", 64, "--context", 8192)
    own = {each["name"]: each for each in answer(*asked, "--coefficients", path)["operators"]}

    assert own["o_proj"]["source"] == "mine"
    assert own["o_proj"]["seconds"] > 1e-3
    assert answer("explain", "small", "--coefficients", path)["attention_s"] > 3e-3


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("a,b\n1,2\n", "is no coefficient table")])
def test_a_bad_coefficient_file_is_said_in_one_line(tmp_path, text, message):
    path = tmp_path / "own.csv"
    if text is not None:
        path.write_text(text)
    asked = ("explain", "--model", "step3", "--gpu", "H800", "--batch", 64, "--context", 8192)

    assert message in run(*asked, "--coefficients", path, code=2).stderr


def test_explain_names_sources():
    text = run("explain", "--model", "deepseek-v3", "--gpu", "H20", "--batch", 8, "--context", 4096, "--ep", 16).stdout

    for word in ("Coefficients", "measured", "assumed", "shared expert up", "lm head"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain",), "explain takes a SCENARIO or --model"),
        (("explain", "small", "--model", "step3"), "explain takes a SCENARIO or --model"),
        (("explain", "--model", "step3", "--gpu", "H800"), "explain --model also needs --batch, --context"),
        (("explain", "small", "--tp", "2"), "change them with --set"),
        (("explain", "small", "--precision", "ffn=bf16"), "change them with --set"),
        (("cost", "--model", "step4"), "did you mean 'step3'"),
        (("cost", "--gpu", "H8000"), "unknown GPU 'H8000'"),
        (("cost", "--context", "8k"), "--context: '8k' is not a number of tokens"),
        (("cost", "--network", "400GBps"), "--network: unknown unit 'GBps'"),
        (("cost", "--tpot", "-5ms"), "--tpot: '-5ms' must be greater than zero"),
        (("cost", "--price", "H100=2"), "--price: 'h100' is none of the GPUs compared"),
        (("cost", "--price", "H800=cheap"), "--price: 'H800=cheap' is not GPU=USD/h"),
        (("cost", "--precision", "kv=fp8"), "--precision: 'kv=fp8'; write ROLE=DTYPE"),
        (("cost", "--precision", "ffn=fp32"), "--precision: 'ffn=fp32'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    found = run(*arguments, code=2)

    assert message in found.stderr
    assert found.stderr.count("\n") == 1
