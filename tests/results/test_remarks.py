"""What is noted: of models, and of kernels in words that a reader knows."""

import json
from importlib.resources import files

import pytest

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.cost.roofline import read_table
from afdsim.results.remarks import KERNELS, of_model


def kernels():
    """Return every kernel of the coefficient table."""
    text = files("afdsim").joinpath("data", "coefficients.csv").read_text(encoding="utf-8")
    return {row.kernel for row in read_table(text)}


def test_kernels_are_called_by_words():
    called = {KERNELS.get(kernel, kernel) for kernel in kernels()}

    assert kernels() >= set(KERNELS)
    assert not any("_" in word for word in called)


def test_what_a_config_leaves_open_is_noted_of_every_run_under_the_name_of_the_model(tmp_path, small):
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 1024,
                "intermediate_size": 2048,
                "num_hidden_layers": 2,
                "num_attention_heads": 8,
                "num_key_value_heads": 8,
                "vocab_size": 1024,
                "frobnication_rank": 7,
            }
        )
    )
    (note,) = [each for each in of_model(catalog.llm(path)) if "frobnication" in each]
    found = afdsim.simulate(small.varied({"model": str(path), "workload.num_requests": 8}))

    assert note == "tiny: not understood: frobnication_rank"
    assert note in found.notes
    assert note in found.summary["afdsim"]["notes"]


@pytest.mark.parametrize(
    ("spike", "note"),
    [
        ({"probability": 1e-4, "seconds": "5ms"}, "an operation takes 5.00 ms longer with probability 0.0001"),
        ({"probability": 1e-4, "factor": 20}, "an operation takes 20 times as long with probability 0.0001"),
        (
            {"probability": 0.003, "seconds": "5ms", "where": "link"},
            "the rows of an operation are posted 5.00 ms later with probability 0.003",
        ),
    ],
)
def test_spikes_are_assumed_and_said_so(small, spike, note):
    found = afdsim.simulate(small.varied({"variation.spike": spike, "workload.num_requests": 8}))

    assert f"assumed spikes: {note}" in found.notes


def test_spikes_that_never_come_are_no_note(small):
    none = {"variation.spike": {"probability": 0, "seconds": "5ms"}, "workload.num_requests": 8}

    assert not any("spikes" in note for note in afdsim.simulate(small.varied(none)).notes)
