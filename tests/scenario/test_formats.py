"""Number formats in force: what they are, and who asked for each."""

from itertools import product

import pytest

from afdsim.catalog.llm import Precision
from afdsim.scenario.document import load
from afdsim.scenario.formats import answer, formats, of_scenario, sentence

BASE = "version: 1\nmodel: step3\ndeployment: {type: colocated, gpu: H800, instances: 1, max_num_seqs: 8}\nworkload: {arrival: {process: closed_loop}, input_len: 10, output_len: 2, num_requests: 8}\n"


def told(tmp_path, precision, *overrides):
    path = tmp_path / "asked.yaml"
    path.write_text(BASE + (f"precision: {precision}\n" if precision else ""))
    return sentence(of_scenario(load(path, overrides=overrides)))


@pytest.mark.parametrize(
    ("precision", "overrides", "words"),
    [
        ("", (), "attention fp8 (default), FFN fp8 (default), KV cache fp8 (as attention)"),
        ("{attention: bf16}", (), "attention bf16 (scenario), FFN fp8 (default), KV cache bf16 (as attention)"),
        (
            "{kv_cache: bf16, ffn: fp8}",
            (),
            "attention bf16 (as KV cache), FFN fp8 (scenario), KV cache bf16 (scenario)",
        ),
        ("{attention: null}", (), "attention fp8 (default), FFN fp8 (default), KV cache fp8 (as attention)"),
        (
            "{attention: bf16}",
            ("precision.ffn=bf16",),
            "attention bf16 (scenario), FFN bf16 (--set), KV cache bf16 (as attention)",
        ),
        (
            "{ffn: fp8}",
            ("precision={attention: bf16}",),
            "attention bf16 (--set), FFN fp8 (default), KV cache bf16 (as attention)",
        ),
        (
            "{ffn: fp4}",
            (),
            "attention fp8 (default), FFN fp4 (scenario), projections fp8 (beside fp4 FFN), KV cache fp8 (as attention)",
        ),
    ],
)
def test_every_format_says_who_asked_for_it(tmp_path, precision, overrides, words):
    assert told(tmp_path, precision, *overrides) == f"precision {words}"


def test_a_scenario_that_extends_another_keeps_what_that_one_asked_for(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE + "precision: {attention: bf16}\n")
    (tmp_path / "child.yaml").write_text("extends: base.yaml\nprecision: {ffn: bf16}\n")

    assert "attention bf16 (scenario), FFN bf16 (scenario)" in sentence(of_scenario(load(tmp_path / "child.yaml")))


@pytest.mark.parametrize("given", [*product((None, "--precision", "checkpoint"), repeat=3)])
def test_what_was_given_is_never_called_a_default(given):
    origins = {
        role: origin for role, origin in zip(("attention", "ffn", "kv_cache"), given, strict=True) if origin is not None
    }
    found = answer(formats(Precision(attention="bf16"), origins))

    for role in ("attention", "ffn", "kv_cache"):
        assert (found[role]["origin"] == origins[role]) if role in origins else (found[role]["origin"] not in given)
