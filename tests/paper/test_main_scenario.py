"""The prediction that MODEL.md states against the paper's 2A2F is what the program gives."""

import re
from pathlib import Path

import pytest

import afdsim
from afdsim.scenario.document import load

MODEL = (Path(__file__).parent.parent.parent / "MODEL.md").read_text(encoding="utf-8")
ALIKE = ("workload.input_len=4032", "workload.output_len=128", "workload.num_requests=6144")
CALM = (*ALIKE, "variation.event=0", "variation.step=0", "variation.link=0")
ROWS = {"peak: variation off": (CALM, 47.5), "average: variation on": ((), 49.1)}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("gpu", "column"), [("H800", 0), ("H100", 1), ("H200", 2)])
def test_the_stated_prediction_and_its_error_are_current(row, gpu, column):
    overrides, published = ROWS[row]
    line = re.search(rf"^\| {row} \| {published} ms \| (.*) \|$", MODEL, re.MULTILINE)
    assert line is not None
    stated, error = line[1].split(" | ")[2 * column : 2 * column + 2]

    both = (f"deployment.attention.gpu={gpu}", f"deployment.ffn.gpu={gpu}")
    mean = afdsim.simulate(load("step3_2a2f_4k", overrides=(*overrides, *both))).summary["mean_tpot_ms"]

    assert stated == f"{mean:.1f} ms"
    assert error == f"{100 * (mean / published - 1):+.1f} %"
