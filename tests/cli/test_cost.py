"""The commands about cost: what they print, their JSON, and what they refuse."""

import json
import re

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


def test_a_model_or_gpu_that_is_named_twice_is_one():
    once = answer("cost", "--model", "step3", "--gpu", "H800", "--context", "8192")

    assert answer("cost", "--model", "step3,Step3", "--gpu", "H800,h800", "--context", "8192") == once


@pytest.fixture
def configs(tmp_path):
    """Folders of three models: llama, the same in INT4, and another one called llama."""
    keys = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8}
    keys |= {"num_key_value_heads": 8, "vocab_size": 1024, "model_type": "llama", "max_position_embeddings": 99999}
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    for name, more in (("a/llama", {}), ("a/llama-awq", awq), ("b/llama", {"vocab_size": 2048})):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(keys | more))
    return tmp_path


def test_several_models_are_compared_in_one_format_and_whose_checkpoint_is_not_followed_is_noted(configs):
    asked = ("cost", "--gpu", "H20", "--context", "30000", "--tpot", "1ms", "--model")
    both = f"{configs}/a/llama,{configs}/a/llama-awq"
    note = "several models are compared in one format, fp8, not in that of the checkpoint of llama-awq (int4)"

    assert answer(*asked, f"{configs}/a/llama-awq")["precision"]["ffn"] == {"dtype": "int4", "origin": "checkpoint"}
    assert any(each.startswith(note) for each in answer(*asked, both)["notes"])
    assert not any(note in each for each in answer(*asked, both, "--precision", "ffn=fp8")["notes"])
    assert max(map(len, run(*asked, both).stdout.splitlines())) <= 110


def test_two_models_of_one_name_are_refused(configs):
    done = run("cost", "--model", f"{configs}/a/llama,{configs}/b/llama", code=2)

    assert "are two models called llama; rename one of the files" in done.stderr


def test_weak_hardware_of_the_paper():
    found = answer("cost", "--model", "step3", "--gpu", "L20,L4,H20", "--context", "8000")
    weak = {row["gpu"]: (row["largest_batch"], row["ffn_cards"]) for row in found["weak_hardware"]}

    assert weak["L20"] == (41, 48)
    assert weak["L4"] == (3, 144)
    assert weak["H20"][1] == 12


def test_a_slower_network_needs_more_active_experts():
    found = [answer("cost", "--model", "step3", "--network", rate) for rate in ("400 GB/s", "200 GB/s")]
    wide, narrow = (each["min_sparsity"][0]["value"] for each in found)

    assert found[0]["afd_simulated"][0]["usd"] < found[1]["afd_simulated"][0]["usd"]
    assert narrow == pytest.approx(2 * wide)


def test_cost_prints_every_block():
    text = run("cost").stdout

    for word in ("Work per decoded token", "0.055  H20 + H800", "0.058", "compute", "ideal FFN batch", "FFN cards"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


def test_every_table_says_what_it_leaves_out():
    text = run("cost", "--model", "step3").stdout
    theory = [
        block for block in text.split("\n\n") if not block.startswith(("Precision", "The best AFD pairs", "Prices"))
    ]

    assert len(theory) == 7
    assert all(" Leaves out: " in block for block in theory)


def test_the_best_pairs_are_simulated():
    found = answer("cost", "--model", "step3")["afd_simulated"]
    text = run("cost", "--model", "step3").stdout

    for row in found:
        assert row["usd"] > row["theory_usd"]
        assert f"{row['usd'] / row['theory_usd']:.1f} x" in text
        assert row["deployment"] in text
    assert "as `afdsim run` does" in text


@pytest.mark.parametrize("role", ["attention", "ffn"])
def test_precision_reaches_every_table(role):
    asked = ("cost", "--model", "step3", "--gpu", "H800,H20", "--context", "8192")
    fp8, bf16 = answer(*asked), answer(*asked, "--precision", f"{role}=bf16")
    of = {
        "attention": ("precision", "work", "usd", "afd", "afd_simulated", "accelerators", "intensity", "weak_hardware"),
        "ffn": (
            "precision",
            "usd",
            "afd",
            "afd_simulated",
            "accelerators",
            "min_sparsity",
            "sparsity",
            "weak_hardware",
        ),
    }

    assert {key for key in fp8 if fp8[key] != bf16[key]} == set(of[role])


@pytest.mark.parametrize("tpot", ["50ms", "500ms"])
def test_the_largest_batch_knows_the_memory(tpot):
    found = answer("cost", "--model", "qwen3-235b,step3", "--gpu", "H800", "--context", "8192", "--tpot", tpot)
    size = {row["model"]: row["kv_bytes"] for row in found["work"]}

    for row in found["weak_hardware"]:
        assert row["limit"] == "memory"
        assert 0.5 * 80e9 < 3 * row["largest_batch"] * size[row["model"]] < 0.9 * 80e9


def test_the_largest_batch_names_the_limit_that_binds():
    asked = ("cost", "--model", "step3", "--gpu", "H20,L4", "--context", "8192")

    assert {row["gpu"]: row["limit"] for row in answer(*asked)["weak_hardware"]} == {
        "H20": "compute",
        "L4": "bandwidth",
    }
    assert "limited by" in run(*asked).stdout


def test_prices_and_rates_come_with_their_source():
    text = run("cost", "--model", "step3", "--gpu", "H200,H20", "--price", "H200=3.1 USD/h").stdout
    block = text.split("Prices and network rates used")[1]

    for word in ("3.10", "--price", "0.80", "25.0 GB/s", "H20 servers carry 4 x 400 Gb/s", "section 5: one port a GPU"):
        assert word in block
    assert "--network" in run("cost", "--model", "step3", "--network", "200 GB/s").stdout


def test_gpus_without_a_price_have_no_pair():
    found = answer("cost", "--model", "step3", "--gpu", "L20", "--context", "8192")

    assert found["afd_simulated"] == []
    assert "none known" in run("cost", "--model", "step3", "--gpu", "L20").stdout


def test_a_stated_price_counts():
    (row,) = answer("cost", "--model", "step3", "--gpu", "H200", "--context", "8192", "--price", "H200=3.6 USD/h")[
        "usd"
    ]

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


def test_either_format_of_core_attention_means_both():
    asked = ("explain", "--model", "step3", "--gpu", "H800", "--batch", 64, "--context", 8192, "--precision")

    one, other = answer(*asked, "attention=bf16"), answer(*asked, "kv_cache=bf16")

    assert one | {"precision": None} == other | {"precision": None}
    assert one["precision"]["kv_cache"] == {"dtype": "bf16", "origin": "as attention"}
    assert other["precision"]["attention"] == {"dtype": "bf16", "origin": "as KV cache"}


def test_cost_and_explain_say_the_formats_in_force_and_who_asked_for_them():
    bare = ("explain", "--model", "step3", "--gpu", "H800", "--batch", 64, "--context", 8192)
    words = "attention fp8 (default), FFN bf16 (--precision), KV cache fp8 (as attention)"

    assert f"precision {words}\n" in run(*bare, "--precision", "ffn=bf16").stdout
    assert run("cost", "--model", "step3", "--precision", "ffn=bf16").stdout.startswith(f"Precision {words}\n")
    text = run("explain", "step3_2a2f_4k", "--set", "precision.kv_cache=bf16").stdout
    assert "precision attention bf16 (as KV cache), FFN fp8 (scenario), KV cache bf16 (--set)\n" in text


def test_what_stands_in_for_a_format_that_the_gpu_lacks_is_noted_and_assumed():
    note = "H100 has no FP4 units: computes in fp8, weights keep the bytes of fp4, unpacking is not counted; assumed"
    asked = (
        "explain",
        "--model",
        "kimi-k2",
        "--gpu",
        "H100",
        "--batch",
        8,
        "--context",
        1024,
        "--precision",
        "ffn=fp4",
    )
    found = answer(*asked)

    assert found["notes"] == [note]
    assert f"Note {note}\n" in run(*asked).stdout
    assert {each["name"]: each["status"] for each in found["operators"]}["experts and shared expert"] == "assumed"
    (counted,) = answer("cost", "--model", "step3", "--gpu", "A800")["notes"]
    assert counted.startswith("A800 has no FP8 units: counted at its bf16 peak (a run computes in int8)")


@pytest.mark.parametrize(
    ("dtype", "note"),
    [
        (
            "fp4",
            "H800 has no FP4 units: computes in fp8, weights keep the bytes of fp4, unpacking is not counted; assumed",
        ),
        (
            "int4",
            "H800 unpacks int4 weights: computes in bf16, weights keep the bytes of int4, unpacking is not counted; assumed",
        ),
    ],
)
def test_run_and_check_note_it_too(dtype, note):
    asked = ("small", "--set", f"precision.ffn={dtype}")
    notes = answer("run", *asked)["afdsim"]["notes"]

    assert note in notes
    assert any(
        each.startswith("kernel times assumed, not measured, on H800") and "grouped GEMM" in each for each in notes
    )
    assert note in run("check", *asked).stderr


def test_int4_weights_are_read_in_half_a_byte_and_computed_in_bf16():
    asked = ("explain", "--model", "qwen3-32b", "--gpu", "H100", "--batch", 1, "--context", 1024, "--precision")
    four, sixteen = (
        {each["name"]: each for each in answer(*asked, f"ffn={dtype}")["operators"]} for dtype in ("int4", "bf16")
    )

    assert four["ffn up"]["bytes"] == pytest.approx(sixteen["ffn up"]["bytes"] / 4, rel=0.01)
    assert four["ffn up"]["seconds"] < 0.4 * sixteen["ffn up"]["seconds"]
    assert four["ffn up"]["status"] == "assumed"
    assert four["ffn up"]["source"].startswith("bf16 in place of int4: ")


@pytest.mark.parametrize("command", ["cost", "explain"])
def test_the_help_says_what_attention_means(command):
    text = " ".join(run(command, "--help").stdout.split())

    assert "attention (core attention and its KV cache; kv_cache means the same)" in text
    assert "ffn (weights and GEMMs: FFN and projections)" in text


@pytest.mark.parametrize("name", ["small", "step3_2a2f_4k", "step3_poisson"])
def test_explain_a_scenario(name):
    found = answer("explain", name)

    assert {each["stage"] for each in found["operators"]} == {"attention", "boundary", "gather", "ffn", "scatter"}


def test_a_scenario_is_explained_at_its_mean_context():
    at_mean = answer("explain", "step3_2a2f_4k")["attention_s"]
    near, far = (answer("explain", "step3_2a2f_4k", "--context", n)["attention_s"] for n in (4000, 4200))

    assert near < at_mean < far


def test_explain_says_as_what_a_trace_was_read(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("input_len,output_len\n100,10\n300,30\n")
    lengths = ("workload.input_len=null", "workload.output_len=null", f"workload.trace={{path: {path}}}")
    asked = ("explain", "small", *(part for each in lengths for part in ("--set", each)))
    told = "lengths.csv: read as afdsim (lengths only): 2 requests of 200.0 tokens in and 20.0 out on average"

    assert any(note.startswith(told) for note in answer(*asked)["notes"])
    assert f"Note {told}" in run(*asked).stdout


def test_explain_prints_the_rows_that_are_padded():
    asked = ("explain", "--model", "qwen3-32b", "--gpu", "H20", "--batch", 64, "--context", 8192)
    bf16 = (*asked, "--precision", "kv_cache=bf16")

    assert "8 padded to 64" in run(*bf16).stdout
    assert "8 padded to 16" in run(*bf16, "--kernels", "flashinfer").stdout
    core = next(each for each in answer(*bf16)["operators"] if each["name"] == "core attention")
    assert (core["bound"], core["rows"], core["padded"], core["tile"]) == ("compute", 8, 64, 64)
    assert core["peak"] < 0.1


def test_explain_reads_the_kernels_of_a_scenario():
    asked = ("explain", "qwen3_235b_gb200_7a1f", "--set", "deployment.attention.gpu=H20")
    default, chosen = (
        answer(*asked, "--set", f"deployment.attention.kernels={kernels}")["attention_s"]
        for kernels in ("[]", "[flashinfer]")
    )

    assert chosen == pytest.approx(0.63 * default, rel=0.02)


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


def test_explain_tells_a_siblings_table_from_a_measured_one():
    asked = ("explain", "--model", "step3", "--batch", 64, "--context", 8192, "--gpu")
    h800, h100 = (run(*asked, gpu).stdout for gpu in ("H800", "H100"))

    assert re.search(r"core attention +H800 .* family \[\d+\]", h800)
    assert re.search(r"\[\d+\] family: H100: FA3 decode rows", h800)
    assert re.search(r"core attention +H100 .* measured \[\d+\]", h100)
    assert "family" not in h100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain",), "explain takes a SCENARIO or --model"),
        (("explain", "small", "--model", "step3"), "explain takes a SCENARIO or --model"),
        (("explain", "--model", "step3", "--gpu", "H800"), "explain --model also needs --batch, --context"),
        (("explain", "small", "--tp", "2"), "change them with --set"),
        (
            ("explain", "--model", "step3", "--gpu", "H100", "--batch", 1, "--context", 1, "--tp", 16),
            "--tp: must be <= 8, the NVLink domain of H100 (got 16)",
        ),
        (
            ("explain", "--model", "step3", "--gpu", "L20", "--batch", 1, "--context", 1, "--tp", 2),
            "--tp: must be <= 1, the NVLink domain of L20, which has no NVLink (got 2)",
        ),
        (("explain", "small", "--precision", "ffn=bf16"), "change them with --set"),
        (("explain", "small", "--kernels", "flashinfer"), "change them with --set"),
        (
            ("explain", "--model", "step3", "--gpu", "H800", "--batch", 1, "--context", 1, "--kernels", "magic"),
            "no kernel was measured for 'magic' (known: cutlass, ",
        ),
        (("cost", "--model", "step4"), "did you mean 'step3'"),
        (("cost", "--gpu", "H8000"), "unknown GPU 'H8000'"),
        (("cost", "--context", "8k"), "--context: '8k' is not a number of tokens"),
        (("cost", "--network", "400GBps"), "--network: unknown unit 'GBps'"),
        (("cost", "--tpot", "-5ms"), "--tpot: '-5ms' must be greater than zero"),
        (("cost", "--price", "H100=2 USD/h"), "--price: H100 is none of the GPUs compared; add --gpu H100"),
        (("cost", "--price", "H8000=2 USD/h"), "--price: unknown GPU 'H8000'; did you mean 'H800'?"),
        (("cost", "--price", "2 USD/h"), "--price: '2 USD/h' is not GPU=PRICE; write e.g. 'H200=3.1 USD/h'"),
        (("cost", "--price", "H800=cheap"), "--price H800: 'cheap' is not a price; write a number and a unit"),
        (("cost", "--price", "H800=nan USD/h"), "--price H800: 'nan USD/h' is not a price"),
        (("cost", "--price", "H800=2"), "--price H800: needs a unit, for example '2 USD/h'"),
        (("cost", "--price", "H800=2 USD"), "--price H800: unknown price unit 'USD'; did you mean 'USD/h'?"),
        (("cost", "--price", "H800=-2 USD/h"), "--price H800: '-2 USD/h' must be greater than zero"),
        (("cost", "--price", "h800=2 USD/h", "--price", "H800=3 USD/h"), "--price: H800 has two prices; state one"),
        (("cost", "--precision", "kv=fp8"), "--precision: 'kv=fp8'; write ROLE=DTYPE"),
        (("cost", "--precision", "ffn=fp32"), "--precision: 'ffn=fp32'"),
        (("cost", "--precision", "attention=int4"), "int4 is a format of weights alone: write ffn=int4"),
        (("cost", "--precision", "ffn=fp8,ffn=fp4"), "--precision: ffn has two formats, fp8 and fp4; state one"),
        (
            ("cost", "--precision", "ffn=fp8", "--precision", "ffn=bf16"),
            "--precision: ffn has two formats, fp8 and bf16; state one",
        ),
        (
            ("cost", "--precision", "attention=bf16,kv_cache=fp8"),
            "--precision: attention: bf16 does nothing beside 'kv_cache: fp8', which decides the kernel of core attention; "
            "set one of them (or the same twice)",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    found = run(*arguments, code=2)

    assert message in found.stderr
    assert found.stderr.count("\n") == 1
