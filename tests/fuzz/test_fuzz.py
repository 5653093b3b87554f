"""A few mutated inputs of every kind, in every run of the suite; `make fuzz` tries 20,000."""

import pytest

from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import tried

FEW = {"scenario": 40, "trace": 20, "config": 20, "sweep": 6, "coefficients": 12, "routing counts": 8}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.name)
def test_a_mutated_input_is_a_run_or_one_message(target):
    outcomes = [tried(target, seed) for seed in range(FEW.get(target.name, 6))]

    assert [(each.seed, each.wrong) for each in outcomes if each.wrong] == []


def test_mutations_reach_what_lies_behind_the_door():
    codes = [tried(TARGETS[0], seed).code for seed in range(40)]

    assert codes.count(0) >= 4
    assert codes.count(2) >= 10
