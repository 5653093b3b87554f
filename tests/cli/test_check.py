"""`afdsim check` of scenarios and of models, and requests beyond what a model was made for."""

import json

import pytest
from click.testing import CliRunner

from afdsim.cli.main import main

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def afdsim(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="afdsim")


@pytest.fixture
def config(tmp_path):
    def written(**changes):
        path = tmp_path / "llama-7b" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(LLAMA | changes))
        return path

    return written


@pytest.fixture
def scenario(tmp_path, config):
    def written(input_len=100, **changes):
        path = tmp_path / "long.yaml"
        path.write_text(
            f"model: {config(**changes)}\n"
            "deployment: {type: tensor_parallel, gpu: H100, gpus: 8, max_num_seqs: 4}\n"
            f"workload: {{arrival: {{process: closed_loop}}, input_len: {input_len}, output_len: 4, num_requests: 8}}\n"
        )
        return path

    return written


def test_a_config_is_told_in_one_screen(config):
    done = afdsim("check", config())

    assert done.exit_code == 0
    assert "llama-7b: 32 layers, hidden 4,096, vocabulary 32,000, made for 4,096 tokens" in done.stdout
    assert "32 x GQA 32 heads, 32 KV x 128; dense FFN of 11,008" in done.stdout
    assert "6.74 B parameters: 13.5 GB in BF16" in done.stdout
    assert "262.1 kB per token in FP8: 8.590 GB for 32,768 tokens" in done.stdout
    assert "attention fp8 (default), FFN fp8 (default)" in done.stdout
    assert "H100       1  (TP1 H100)" in done.stdout
    assert len(done.stdout.splitlines()) < 24
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 96


def test_a_folder_and_a_name_are_models_too(config):
    assert "32 layers" in afdsim("check", config().parent).stdout
    assert "56 x MFA 64 heads x 256; 48 experts of 5,120, top 3, 1 shared of 5,120" in afdsim("check", "step3").stdout


def test_what_is_not_understood_is_told(config):
    done = afdsim("check", config(frobnication_rank=7))

    assert "not understood: frobnication_rank" in done.stdout


def test_a_quantised_checkpoint_decides_the_weights(config, scenario):
    quantised = {"quantization_config": {"quant_method": "awq", "bits": 4}}

    assert "FFN int4 (checkpoint)" in afdsim("check", config(**quantised)).stdout
    assert "FFN bf16 (--precision)" in afdsim("check", config(**quantised), "--precision", "ffn=bf16").stdout
    assert "FFN int4 (checkpoint)" in afdsim("check", scenario(**quantised)).stdout
    assert "FFN bf16 (--set)" in afdsim("check", scenario(**quantised), "--set", "precision.ffn=bf16").stdout


def test_options_of_the_other_kind_are_refused(config):
    model = afdsim("check", config(), "--set", "run.seeds=[1]")
    scenario = afdsim("check", "small", "--precision", "ffn=bf16")

    assert (model.exit_code, scenario.exit_code) == (2, 2)
    assert "--set and --strict are for scenarios" in model.stderr
    assert "--precision is for models" in scenario.stderr


def test_requests_beyond_the_model_are_noted(scenario):
    path = scenario(input_len=5000)
    text = "requests are longer than the 4,096 tokens that llama-7b was made for (max_position_embeddings)"

    assert f"8 of 8 {text}, the longest 5,004" in afdsim("check", path).stderr
    assert text in " ".join(afdsim("run", path, "--quiet").stdout.split())
    assert text not in afdsim("check", scenario(input_len=4000)).stderr


@pytest.mark.parametrize("command", ["check", "run"])
def test_requests_beyond_the_model_are_refused_by_strict(scenario, command):
    done = afdsim(command, scenario(input_len=5000), "--strict")

    assert done.exit_code == 2
    assert "long.yaml:3:" in done.stderr
    assert "workload: 8 of 8 requests are longer than the 4,096 tokens" in done.stderr
    assert afdsim(command, scenario(input_len=4000), "--strict").exit_code == 0
