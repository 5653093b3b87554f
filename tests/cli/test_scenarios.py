"""A model is told from a scenario, whatever command is given which."""

import json

import pytest
from click.testing import CliRunner

from afdsim.cli.main import main
from afdsim.scenario.document import load

MODEL = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "frobnication_rank": 7,
}
SCENARIO = {
    "model": "m",
    "deployment": {"type": "tensor_parallel", "gpu": "H100", "gpus": 2, "max_num_seqs": 4},
    "workload": {"arrival": {"process": "closed_loop"}, "input_len": 100, "output_len": 4, "num_requests": 8},
}


def afdsim(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="afdsim")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(MODEL))
    (tmp_path / "s.json").write_text(json.dumps(SCENARIO))
    return tmp_path


@pytest.mark.parametrize("model", ["m", "./m", "m/", "m/config.json"])
def test_the_folder_of_a_model_is_its_config(here, model):
    written = here / "a.yaml"
    written.write_text(json.dumps(SCENARIO | {"model": model}))
    found, absolute = load(written), load(SCENARIO | {"model": str(here / "m")})

    assert found.model == str((here / "m" / "config.json").resolve())
    assert found.varied({"name": "a"}).key == absolute.varied({"name": "a"}).key
    assert afdsim("run", written, "--quiet").exit_code == 0


def test_the_key_follows_the_content_of_a_folder(here):
    before = load(SCENARIO).key
    (here / "m" / "config.json").write_text(json.dumps(MODEL | {"vocab_size": 2048}))

    assert load(SCENARIO).key != before


def test_a_scenario_in_json_is_a_scenario(here):
    assert "s.json: fine  (s, sha256:" in afdsim("check", "s.json").stdout
    assert "Model     m: 2 layers" in afdsim("check", "m/config.json").stdout


def test_a_model_is_no_scenario():
    done = afdsim("run", "m/config.json")

    assert done.exit_code == 2
    assert done.stderr == (
        "m/config.json: is a model, not a scenario; afdsim check m/config.json, or 'model: m/config.json' in a scenario (afdsim init)\n"
    )


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("empty", "empty: a folder without a config.json"),
        (
            "meta-llama/Llama-3.1-70B",
            "no scenario and no model of that name (afdsim list scenarios, afdsim list models",
        ),
        ("smal", "no scenario and no model of that name; did you mean 'small'?"),
        ("deepseek-v33", "no scenario and no model of that name; did you mean 'deepseek-v3'?"),
        ("poisson.sweep.yaml", "a sweep is no scenario"),
    ],
)
def test_what_is_neither_is_told_what_would_be(here, what, text):
    (here / "empty").mkdir()
    done = afdsim("check", what)

    assert done.exit_code == 2
    assert text in done.stderr


@pytest.mark.parametrize("asked", [("check", "s.json"), ("explain", "s.json"), ("run", "s.json", "--quiet")])
def test_what_a_model_leaves_open_is_told_by_every_command(asked):
    assert "m: not understood: frobnication_rank" in afdsim(*asked).output


def test_explain_and_cost_of_a_model_tell_it_too():
    explained = afdsim("explain", "--model", "m", "--gpu", "H100", "--batch", 1, "--context", 1024)

    assert "Note m: not understood: frobnication_rank" in explained.stdout
    assert "Note m: not understood: frobnication_rank" in afdsim("cost", "--model", "m", "--gpu", "H100").stdout
