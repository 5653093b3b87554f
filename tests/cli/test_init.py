"""`afdsim init` writes files that run, with the schema beside them; shells complete names."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from afdsim.cli.init import KINDS, MODELINE, SCHEMA
from afdsim.cli.main import main
from afdsim.scenario.document import load, locate, schema, shelf, shipped

OPTION = re.compile(r"^( *)# ([a-z_]+: .*)$")


def afdsim(*words):
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_init_writes_a_commented_scenario_of_every_kind(here, kind):
    done = afdsim("init", "my.yaml", "--kind", kind)

    text = Path("my.yaml").read_text(encoding="utf-8")
    assert done.stdout == "wrote my.yaml; next: afdsim run my.yaml\n"
    assert text.startswith(MODELINE)
    assert "afdsim check my.yaml" in text
    assert afdsim("check", "my.yaml").exit_code == 0
    assert json.loads(Path(SCHEMA).read_text(encoding="utf-8")) == schema(extending=True)


def options(kind):
    lines = (Path(__file__).parents[2] / f"afdsim/data/init/{kind}.yaml").read_text(encoding="utf-8").splitlines()
    return [(kind, number) for number, line in enumerate(lines) if OPTION.match(line) and not line.startswith("#   ")]


@pytest.mark.parametrize(("kind", "number"), [each for kind in KINDS for each in options(kind)])
def test_every_key_that_a_template_shows_can_be_taken_in(here, kind, number):
    afdsim("init", "my.yaml", "--kind", kind)
    lines = Path("my.yaml").read_text(encoding="utf-8").removeprefix(MODELINE).splitlines()
    pad, option = OPTION.match(lines[number]).groups()
    key = f"{pad}{option.partition(':')[0]}:"
    kept = [f"{pad}{option}" if at == number else line for at, line in enumerate(lines) if not line.startswith(key)]
    text = "\n".join(kept)
    if "process: trace" in option:
        Path("my.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,5\n", encoding="utf-8")
        text = re.sub(r"^workload:$", "workload:\n  trace: {path: my.csv}", text, flags=re.MULTILINE)
        text = re.sub(r"^  (input_len|output_len|num_requests|duration):.*$", "", text, flags=re.MULTILINE)
    if option.startswith("prefill:"):
        text = text.replace("{process: closed_loop}", "{process: poisson, request_rate: 50 req/s}")
    Path("taken.yaml").write_text(text, encoding="utf-8")

    assert load("taken.yaml").version == 1


def test_init_copies_a_shipped_scenario(here):
    afdsim("init", "--from", "small")

    assert Path("scenario.yaml").read_text(encoding="utf-8") == locate("small").read_text(encoding="utf-8")


def test_init_never_overwrites_a_file_and_says_what_is_wrong(here):
    afdsim("init", "my.yaml")
    before = Path("my.yaml").read_bytes()
    again = afdsim("init", "my.yaml", "--from", "small")

    assert again.exit_code == 2
    assert "my.yaml exists and is kept; give another name: afdsim init other.yaml" in again.stderr
    assert Path("my.yaml").read_bytes() == before
    assert afdsim("init", "nowhere/my.yaml").exit_code == 1
    assert afdsim("init", "b.yaml", "--from", "smal").exit_code == 2
    assert afdsim("init", "c.yaml", "--from", "small", "--kind", "afd").stderr.startswith("--kind writes a scenario")


def test_a_file_name_is_no_yaml(here):
    afdsim("init", "a\nversion: 9\n.yaml")

    assert load(Path("a\nversion: 9\n.yaml")).version == 1


# the schema ---------------------------------------------------------------------------------------------------------


def test_the_schema_beside_the_scenarios_is_todays():
    text = (shelf() / SCHEMA).read_text(encoding="utf-8")

    assert text == afdsim("schema").stdout, "afdsim schema -o scenarios/afdsim.schema.json"


def test_every_shipped_scenario_names_the_schema_and_keeps_to_it():
    from jsonschema import Draft202012Validator

    held = Draft202012Validator(schema(extending=True))
    for name in shipped():
        text = locate(name).read_text(encoding="utf-8")
        assert text.startswith(MODELINE)
        assert [error.message for error in held.iter_errors(YAML(typ="safe").load(text))] == [], name


@pytest.mark.parametrize("change", [{"modell": "step3"}, {"deployment": {"type": "afd", "atention": {}}}, {"run": 3}])
def test_the_schema_refuses_what_the_loader_refuses(change):
    from jsonschema import Draft202012Validator

    assert list(Draft202012Validator(schema(extending=True)).iter_errors(change))


def test_lists_say_what_a_scenario_is_not_where_its_schema_is():
    text = afdsim("list", "scenarios").stdout

    assert "The main job: Step-3" in text
    assert "yaml-language-server" not in text


# completion ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_commands_and_scenarios(tmp_path):
    words = ("run step3_2", "sweep rat", "plan --model step3-s", "compl")
    code = "from afdsim.cli.main import main; main(prog_name='afdsim')"
    program = tmp_path / "afdsim"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    tried = "".join(
        f'COMPREPLY=(); COMP_WORDS=(afdsim {line}); COMP_CWORD={len(line.split())}; _afdsim_completion afdsim; echo "${{COMPREPLY[*]}}"\n'
        for line in words
    )
    script = f'PATH="{tmp_path}:$PATH"; eval "$(afdsim completion bash)"\n{tried}'
    shown = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout

    assert shown.splitlines() == ["step3_2a2f_4k", "ratio", "step3-small", "completion"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_too(shell):
    assert "_AFDSIM_COMPLETE" in afdsim("completion", shell).stdout
