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


QWEN57B = {
    "model_type": "qwen2_moe",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20480,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
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
    assert "32 x MHA 32 heads x 128; dense FFN of 11,008" in done.stdout
    assert "6.74 B parameters: 13.5 GB in BF16" in done.stdout
    assert "262.1 kB per token in FP8: 8.590 GB for 32,768 tokens" in done.stdout
    assert "attention fp8 (default), FFN fp8 (default)" in done.stdout
    assert "H100       1  (TP1 H100)" in done.stdout
    assert len(done.stdout.splitlines()) < 24
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 96


def fits(done):
    """Return the lines of the GPUs that hold a model, by GPU."""
    lines = done.stdout.partition("Fits ")[2].splitlines()[1:8]
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_sequences_are_no_longer_than_the_model_was_made_for(config):
    assert "by TP, and sequences of 4,096 tokens" in afdsim("check", config()).stdout
    assert "sequences of 8,192 tokens" in afdsim("check", config(max_position_embeddings=131072)).stdout


def test_fewer_gpus_than_a_server_are_tried_with_experts_spread(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN57B))
    found = fits(afdsim("check", path))

    assert found["L20"].startswith("2  (DP2+EP2 L20): ")
    assert found["H100"].startswith("1  (TP1 H100): ")


@pytest.mark.parametrize("gpus", [2, 4])
def test_what_fits_is_a_scenario(tmp_path, gpus):
    (tmp_path / "config.json").write_text(json.dumps(QWEN57B))
    (tmp_path / "s.yaml").write_text(
        f"model: {tmp_path}/config.json\n"
        f"deployment: {{type: colocated, gpu: L20, instances: 1, gpus_per_instance: {gpus}, max_num_seqs: 4}}\n"
        "workload: {arrival: {process: closed_loop}, input_len: 8000, output_len: 4, num_requests: 8}\n"
    )

    assert afdsim("check", tmp_path / "s.yaml").exit_code == 0


def test_what_was_tried_is_told_where_nothing_fits(config):
    large = afdsim("check", config(num_hidden_layers=320, hidden_size=8192, intermediate_size=65536))

    assert fits(large)["L20"] == "none: tried TP of 1 GPU (no NVLink)"
    assert fits(large)["H100"] == "none: tried TP up to 8 GPUs"
    experts = afdsim("check", "kimi-k2", "--precision", "ffn=bf16")
    assert fits(experts)["L20"].startswith("128  (DP128+EP128 L20): 256 sequences")


def test_one_sequence_is_no_plural(config):
    llama70b = {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    }
    found = fits(afdsim("check", config(**llama70b)))

    assert found["A100"] == "1  (TP1 A100): 1 sequence"


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


def test_models_of_the_catalog_have_limits_too_and_strict_says_where_it_cannot_tell():
    long = ("--set", "workload.input_len=200000", "--strict")
    told = afdsim("check", "small", *long, "--set", "model=qwen3-32b")
    silent = afdsim("check", "small", *long)

    assert told.exit_code == 2
    assert "longer than the 40,960 tokens that qwen3-32b was made for" in told.stderr
    assert silent.exit_code == 0
    assert "--strict: nothing says for how many tokens step3-small was made" in silent.stderr


def test_no_number_of_sequences_is_told_where_classes_have_lengths_of_their_own():
    classes = "workload.classes=[{name: a, input_len: 9}, {name: b}]"

    assert "sequences of 1,088 tokens" in afdsim("check", "small").stdout
    assert "sequences of" not in afdsim("check", "small", "--set", classes).stdout
