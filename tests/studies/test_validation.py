"""Published cases: all of them predicted or listed with a reason, and no prediction moves unnoticed."""

import json
import statistics

import pytest
from click.testing import CliRunner

from afdsim.cli.main import main
from afdsim.errors import CatalogError
from afdsim.studies.validation import medians, published, read_case, simulable, validate

LAYERS = [case for case in published() if case.how == "layer"]
PEAKS = [case for case in published() if case.id.startswith("2A2F 4K peak")]

GOLDEN = {
    "MFA H800 8K": 290.187,
    "MFA H20 8K": 452.825,
    "MFA A800 8K": 489.081,
    "MLA H800 8K": 394.265,
    "MLA H20 8K": 1508.61,
    "GQA H800 8K": 401.158,
    "GQA A800 8K": 683.331,
    "MFA H800 32K": 824.387,
    "MLA H20 32K": 5535.89,
    "GQA H800 32K": 1457.82,
    "GQA H20 32K": 2602.01,
    "EP128 qkv_a": 12.877,
    "EP128 q_b": 22.6643,
    "EP128 o_proj": 49.9782,
    "2A2F 4K peak H800": 3498.96,
    "2A2F 4K peak H100": 3953.05,
    "2A2F 4K peak H200": 4421.76,
}


def test_table_9_is_predicted_and_not_fitted():
    errors = [abs(verdict.error) for verdict in validate(c for c in LAYERS if c.kind == "attention layer")]

    assert len(errors) == 11
    assert statistics.median(errors) <= 0.10
    assert max(errors) <= 0.25


def test_published_kv_capacities_are_met():
    """In-sample: the reserve was chosen with them in view. Issue 10517 states a context that fits, not the capacity."""
    found = {verdict.case.id: verdict for verdict in validate(c for c in published() if c.how == "capacity")}
    paper = [verdict.error for verdict in found.values() if "arXiv 2309.06180" in verdict.case.source]

    assert len(paper) == 3
    assert max(map(abs, paper)) <= 0.05
    assert 0.0 < found["Llama-3.1-70B BF16 2x H100 vLLM"].error < 0.25


def test_golden_predictions():
    """A coefficient or a rule that moves a published number moves a line here."""
    found = {verdict.case.id: verdict.predicted for verdict in validate([*LAYERS, *PEAKS])}

    assert found == pytest.approx(GOLDEN, rel=1e-3)


def test_every_case_is_predicted_or_says_why_not():
    assert len({case.id for case in published()}) == len(published())
    for case in published():
        assert case.source
        assert simulable(case) or case.note


def test_medians_are_of_absolute_errors_by_class():
    (found,) = medians(validate(case for case in LAYERS if case.kind == "operator"))

    assert (found.kind, found.cases) == ("operator", 3)
    assert found.error <= found.worst


@pytest.mark.parametrize("lacking", [{"source": " "}, {"how": "", "note": ""}])
def test_cases_need_a_source_and_a_way_or_a_reason(lacking):
    line = {"id": "x", "class": "y", "how": "layer", "settings": "", "metric": "", "measured": "1", "unit": "us"}

    with pytest.raises(CatalogError, match="published case 'x' states no source"):
        read_case({**line, "source": "somebody", "note": "", **lacking})


def test_the_command_answers_in_json():
    found = CliRunner().invoke(main, ["validate", "--class", "attention layer", "--json"])
    answer = json.loads(found.stdout)

    assert set(answer) == {"cases", "medians", "not_simulated"}
    assert {"predicted", "measured", "error", "source", "class"} <= set(answer["cases"][0])
    first = answer["cases"][0]
    assert first["error"] == pytest.approx(first["predicted"] / first["measured"] - 1)


def test_the_command_prints_errors_and_sources():
    text = CliRunner().invoke(main, ["validate", "--class", "operator", "--class", "attention layer"]).stdout

    for word in ("predicted", "measured", "+3.3%", "[1] Step-3 paper", "Absolute errors", "median"):
        assert word in text


def test_an_unknown_class_is_refused():
    found = CliRunner().invoke(main, ["validate", "--class", "weather"])

    assert found.exit_code == 2
    assert "no published case is 'weather'; classes: attention layer" in found.stderr


@pytest.mark.paper
def test_simulated_throughput_of_the_paper():
    """Bands around table 8, with the gaps printed; nothing may be tuned towards them."""
    verdicts = {verdict.case.id: verdict for verdict in validate(c for c in published() if "table 8" in c.source)}
    for name, verdict in verdicts.items():
        print(f"{name:24} {verdict.predicted:7,.0f} {verdict.case.measured:7,.0f} {verdict.error:+.1%}")

    assert abs(verdicts["2A2F 4K peak H100"].error) < 0.10
    assert abs(verdicts["2A2F 4K average H100"].error) < 0.10
    assert abs(verdicts["2A2F 4K peak H800"].error) < 0.20
