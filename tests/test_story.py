"""The story of the paper: how claims are judged, and what is kept of them."""

import csv
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("matplotlib")

STORY = Path(__file__).parent.parent / "experiments" / "step3_story"


@pytest.fixture(scope="module")
def story():
    sys.path.insert(0, str(STORY))
    yield importlib.import_module("claims")
    sys.path.remove(str(STORY))


@pytest.fixture
def claim(story):
    return story.Claim(
        name="any",
        said="",
        source="",
        axes=("gpu", "context"),
        rule="",
        tie=0.05,
        measured=lambda pool: pd.DataFrame(),
        drawn=lambda made, ax: None,
        told=lambda made: "",
    )


def cases(*margins):
    names = [("H800", 4096), ("H800", 8192), ("H200", 4096), ("H200", 8192)]
    return pd.DataFrame(
        [{"gpu": gpu, "context": tokens, "margin": each} for (gpu, tokens), each in zip(names, margins, strict=True)]
    )


@pytest.mark.parametrize(
    ("margins", "verdict"),
    [
        ((0.1, 0.2, 0.06, 1.0), "shown"),
        ((0.1, 0.04, 0.06, 1.0), "shown with conditions"),
        ((0.1, -0.4, 0.06, 1.0), "shown with conditions"),
        ((0.05, -0.05, 0.0, -1.0), "not shown"),
    ],
)
def test_a_claim_is_shown_by_cases_that_hold_beyond_a_tie(story, claim, margins, verdict):
    assert story.verdict(claim.judged(cases(*margins))) == verdict


def test_a_region_names_the_cases_of_an_outcome_in_groups(story, claim):
    judged = claim.judged(cases(0.1, 0.2, 0.3, -0.3))

    assert story.region(judged, claim.axes, "holds") == "H800: all; H200: 4K"
    assert story.region(judged, claim.axes, "fails") == "H200: 8K"
    assert story.region(judged, claim.axes, "tie") == "nowhere"


def test_rows_without_a_margin_are_no_cases(story, claim):
    judged = claim.judged(cases(0.1, float("nan"), 0.1, 0.1))

    assert list(judged["outcome"]) == ["holds", "", "holds", "holds"]
    assert story.verdict(judged) == "shown"


def test_a_claim_may_judge_by_another_column(story, claim):
    judged = replace(claim, margin="other").judged(cases(1, 1, 1, 1).assign(other=-1.0))

    assert story.verdict(judged) == "not shown"


def test_every_claim_is_kept_with_the_verdict_that_its_cases_give(story):
    rooms = ("paper", "models", "later")
    claims = {claim.name: claim for room in rooms for claim in importlib.import_module(room).CLAIMS}
    with (STORY / "expected" / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        kept = {row["claim"]: row for row in csv.DictReader(file)}

    assert list(kept) == list(claims)
    for name, claim in claims.items():
        judged = claim.judged(pd.read_csv(STORY / "expected" / "claims" / f"{name}.csv"))
        assert kept[name]["verdict"] == story.verdict(judged), name
        assert kept[name]["holds"] == story.region(judged, claim.axes, story.HOLDS), name
        assert claim.told(judged) == kept[name]["figures"], name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overlap", "weak", "imbalance"])
def test_a_claim_gives_the_cases_that_it_keeps(story, name):
    claim = next(claim for claim in importlib.import_module("paper").CLAIMS if claim.name == name)
    from afdsim.studies.pool import Pool

    with Pool(1) as pool:
        made = claim.judged(claim.measured(pool))

    kept = pd.read_csv(STORY / "expected" / "claims" / f"{name}.csv")
    pd.testing.assert_frame_equal(made, kept, rtol=1e-3, check_dtype=False)
