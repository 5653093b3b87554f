"""Pairs of the theory, simulated: sized as the theory sizes them, and what cannot be sized says so."""

import json
from pathlib import Path

import pytest

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.cost import theory
from afdsim.cost.survey import Survey
from afdsim.engine.lowering import deployment
from afdsim.errors import CapacityError
from afdsim.studies.pairs import runs, scenario, sizes

H20, H800 = catalog.gpu("H20"), catalog.gpu("H800")
STEP3 = catalog.llm("step3")


def survey(models=("step3",), **more):
    llms = tuple(catalog.llm(name) for name in models)
    return Survey(llms=llms, **{"gpus": (H800, H20), "contexts": (8192,), **more})


def test_a_pair_keeps_both_pools_busy_at_peak():
    found = sizes(survey(), STEP3, (H20, H800), 8192)
    tokens = found.attention * 8 * found.micro_batch
    attention = tokens * theory.attention_seconds(STEP3, H20, 8192) / (found.attention * 8)
    ffn = tokens * theory.ffn_seconds(STEP3, H800) / (found.ffn * 8)

    assert (found.attention, found.ffn) == (13, 2)
    assert attention == pytest.approx(ffn, rel=0.5 / found.attention)
    assert attention <= theory.TPOT / theory.STAGES


def test_a_row_is_what_a_run_gives():
    (row,) = runs(survey(), ["step3"])
    pair = (H20, H800)
    asked = scenario(survey(), "step3", pair, 8192, sizes(survey(), STEP3, pair, 8192))
    found = afdsim.simulate(asked)

    assert (row["attention_gpu"], row["ffn_gpu"]) == ("H20", "H800")
    assert row["usd"] == found.summary["afdsim"]["usd_per_1m_output_tokens"]
    assert row["tpot_ms"] == found.summary["mean_tpot_ms"]
    assert not [note for note in found.notes if "KV cache" in note]


def test_more_steps_say_the_same():
    pair = (H20, H800)
    short = scenario(survey(), "step3", pair, 8192, sizes(survey(), STEP3, pair, 8192))
    long = json.loads(json.dumps(short))
    long["workload"]["output_len"]["value"], long["workload"]["input_len"]["value"] = 64, 8192 - 32
    one, other = (afdsim.simulate(each).summary["afdsim"]["tgs"] for each in (short, long))

    assert one == pytest.approx(other, rel=0.002)


def test_rates_and_prices_reach_the_run():
    (plain,) = runs(survey(), ["step3"])
    (wide,) = runs(survey(network=800e9), ["step3"])
    asked = scenario(survey(network=800e9), "step3", (H20, H800), 8192, sizes(survey(), STEP3, (H20, H800), 8192))

    assert wide["usd"] < plain["usd"]
    assert asked["network"]["link"] == {"bandwidth": "100 GB/s"}
    assert asked["cost"] == {"H20": "0.8 USD/h", "H800": "2 USD/h"}


def test_what_cannot_be_sized_says_why():
    l4 = catalog.gpu("L4")

    with pytest.raises(
        CapacityError, match="the bandwidth of L4 does not do for one sequence of 8,192 tokens in each of 3"
    ):
        sizes(survey(tpot=0.001), STEP3, (l4, H800), 8192)
    with pytest.raises(CapacityError, match=r"2F balances it, more than the 128 attention instances"):
        sizes(survey(), catalog.llm("qwen3-235b"), (H20, H800), 65536)
    (row,) = runs(survey(models=("qwen3-235b",), contexts=(65536,)), ["qwen3-235b"])
    assert row["usd"] is None
    assert "more than the 128" in row["reason"]


def test_a_model_may_be_a_file(monkeypatch):
    folder = Path(__file__).parent.parent / "data" / "huggingface"
    monkeypatch.chdir(folder)
    ours, theirs = (runs(survey(models=(name,)), [name])[0] for name in ("qwen3-235b", "qwen3_235b.json"))

    assert theirs["usd"] == pytest.approx(ours["usd"], rel=0.01)


@pytest.mark.parametrize("context", [3_000_000, 50_000_000])
def test_the_longest_context_that_is_advised_is_the_longest_that_does(context):
    with pytest.raises(CapacityError, match="the longest --context that does is ") as caught:
        sizes(survey(), STEP3, (H20, H800), context)
    longest = int(str(caught.value).rpartition(" is ")[2].replace(",", ""))

    assert sizes(survey(), STEP3, (H20, H800), longest).micro_batch >= 1
    with pytest.raises(CapacityError):
        sizes(survey(), STEP3, (H20, H800), longest + 1)


def test_where_no_context_does_none_is_advised():
    with pytest.raises(CapacityError, match=r"; no --context does on L4$"):
        sizes(survey(), catalog.llm("kimi-k2"), (catalog.gpu("L4"), H800), 8192)


@pytest.mark.parametrize("model", ["step3", "dbrx", "qwen3-235b"])
@pytest.mark.parametrize("gpu", ["H800", "H20", "L20"])
@pytest.mark.parametrize("context", [2048, 16384])
def test_what_a_pair_is_sized_for_fits_its_memory(model, gpu, context):
    llm, asked = catalog.llm(model), catalog.gpu(gpu)
    survey = Survey(llms=(llm,), gpus=(asked,), contexts=(context,))
    try:
        found = sizes(survey, llm, (asked, asked), context)
    except CapacityError:
        return
    pair = afdsim.load(scenario(survey, model, (asked, asked), context, found))
    longest = pair.workload.input_len.value + pair.workload.output_len.value

    assert deployment(pair).kv_cache.sequences(longest) >= pair.deployment.max_num_seqs
