"""Models of the caller's: a wrong answer is one clear error."""

import re

import numpy as np
import pytest

import afdsim
from afdsim.cluster.network import Wire
from afdsim.cost.checked import checked_cost, checked_network
from afdsim.cost.roofline import Roofline
from afdsim.errors import ModelError


class Answers:
    """Answers every question of a cost model or a network with the same."""

    def __init__(self, answer):
        self.answer = answer

    def seconds(self, work, how):
        return self.answer


class NoMethod:
    pass


class OneParameter:
    def seconds(self, operator):
        return 1.0


class Cost:
    """The roofline, but for what `change` makes of an answer."""

    def __init__(self, change):
        self.change = change

    def seconds(self, operator, gpu):
        return self.change(Roofline().seconds(operator, gpu))


WRONG = {
    "nan": (np.nan, "must return finite seconds >= 0; asked for .* it returned nan"),
    "infinite": (np.inf, "must return finite seconds >= 0; asked for .* it returned inf"),
    "negative": (-1e-6, "must return finite seconds >= 0; asked for .* it returned -1e-06"),
    "text": ("3", "must return seconds as numbers; asked for .* it returned '3'"),
    "nothing": (None, "must return seconds as numbers; asked for .* it returned None"),
    "truth": (True, "must return seconds as numbers"),
    "complex": (1j, "must return seconds as numbers"),
    "ragged": ([1.0, [2.0]], "must return seconds as numbers"),
    "shape": (np.ones(7), r"must return the shape that it is asked in, \(\d+,\), or one number; .* shape \(7,\)"),
    "axes": (np.ones((3, 1)), r"must return the shape that it is asked in, .* it returned shape \(3, 1\)"),
}


@pytest.mark.parametrize("argument", ["cost", "network"])
@pytest.mark.parametrize(("answer", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_is_an_error_with_what_was_asked_and_returned(argument, answer, message):
    with pytest.raises(ModelError, match=f"^{argument}=Answers: seconds {message}"):
        afdsim.simulate("small", **{argument: Answers(answer)})


def test_the_first_wrong_number_of_many_is_told_with_its_work():
    def change(seconds):
        return np.where(np.arange(np.size(seconds)) == 5, -1.0, seconds)

    with pytest.raises(ModelError, match=r"'[\w ,]+' \(gemm, fp8\) on H800 of [\d.e+]+ FLOP and [\d.e+]+ bytes"):
        afdsim.simulate("small", cost=Cost(change))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NoMethod(), "cost= is of type NoMethod, which has no method seconds(operator, gpu)"),
        (3, "cost= is of type int, which has no method seconds(operator, gpu)"),
        (Roofline, "cost= is the class Roofline; give an object of it: Roofline()"),
        (OneParameter(), "cost=OneParameter: seconds must take (operator, gpu): too many positional arguments"),
    ],
)
def test_what_is_no_cost_model_is_told_everywhere(model, message, tmp_path):
    for call in (
        lambda: afdsim.simulate("small", cost=model),
        lambda: afdsim.sweep("small", cost=model, cache=tmp_path, progress=False),
        lambda: afdsim.compare("small", "small", cost=model),
    ):
        with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
            call()


def test_what_is_no_network_is_told():
    with pytest.raises(ModelError, match=r"network= is of type NoMethod, which has no method seconds\(nbytes, bandw"):
        afdsim.simulate("small", network=NoMethod())


def test_a_sound_model_gives_the_same_bits_as_unchecked():
    same = Cost(lambda seconds: seconds)
    operator = next(iter(operators()))
    gpu = afdsim.catalog.entries.gpu("H800")

    assert np.array_equal(checked_cost(same).seconds(operator, gpu), Roofline().seconds(operator, gpu))
    assert checked_network(Answers(np.array([1.0, 2.0]))).seconds(np.array([3.0, 4.0]), 1.0).tolist() == [1.0, 2.0]


def operators():
    from afdsim.cost.operators import gemm

    yield gemm("up", np.arange(9.0), (64, 32), "fp8")


def test_one_number_answers_for_all():
    assert afdsim.simulate("small", cost=Answers(1e-5), network=Answers(1e-6)).summary["completed"] == 768


def test_models_of_afdsim_are_not_wrapped():
    roofline, wire = Roofline(), Wire()

    assert checked_cost(roofline) is roofline
    assert checked_network(wire) is wire
    assert checked_cost(None) is checked_network(None) is None


def test_the_provenance_names_both_models_and_a_colocated_run_says_that_it_has_no_ports(tmp_path):
    own = Answers(1e-5)
    apart = afdsim.simulate("small", cost=own, network=own)
    few = {"workload.num_requests": 64, "workload.output_len": 8}
    together = afdsim.simulate(afdsim.load("step3_ep32").varied(few), network=own)

    assert apart.summary["afdsim"]["provenance"]["coefficients"].startswith("tests.cost.test_checked.Answers")
    assert apart.summary["afdsim"]["provenance"]["network"].startswith("tests.cost.test_checked.Answers")
    assert together.summary["afdsim"]["provenance"]["network"] == ""
    assert any("network= is not used: a colocated deployment has no ports" in note for note in together.notes)
