"""Degrees of parallelism that a model allows."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Gqa, Layer, Linear, Llm, Mamba, Moe
from afdsim.cluster.degrees import (
    attention_uneven,
    crossings,
    demand,
    dense_uneven,
    experts_uneven,
    nearest,
    output_uneven,
    shared_uneven,
    undivided,
    width_uneven,
)
from afdsim.engine.lowering import deployment
from afdsim.errors import CatalogError
from afdsim.scenario.document import load


def model(attention, ffn=None, hidden=3584):
    layer = Layer(attention=attention, ffn=ffn or Dense(inner=18_944))
    return Llm(name="m", hidden=hidden, vocab=1000, layers=(layer,), source="here")


QWEN7B = model(Gqa(heads=28, kv_heads=4, head_dim=128))


@pytest.mark.parametrize("tp", [1, 2, 4, 28])
def test_whole_heads_and_replicated_kv_heads_are_allowed(tp):
    assert attention_uneven(QWEN7B, tp) == ()


@pytest.mark.parametrize(
    ("tp", "found"), [(8, ("28 query heads",)), (7, ("4 KV heads",)), (14, ("4 KV heads",)), (3, None)]
)
def test_heads_that_do_not_divide_are_named(tp, found):
    whole = ("a hidden size of 3,584", "28 query heads", "4 KV heads")

    assert attention_uneven(QWEN7B, tp) == (found or whole)


def test_the_latent_cache_of_mla_is_replicated():
    llm = catalog.llm("deepseek-v3")

    assert all(attention_uneven(llm, tp) == () for tp in (1, 2, 8, 64, 128))
    assert attention_uneven(llm, 3) == ("a hidden size of 7,168", "128 query heads")


def test_recurrent_layers_are_cut_by_heads_and_channels():
    assert attention_uneven(model(Linear(heads=32, groups=16, head_dim=128)), 32) == ()
    assert attention_uneven(model(Linear(heads=24, head_dim=128)), 16) == (
        "24 heads of linear attention",
        "24 key heads of linear attention",
    )
    assert attention_uneven(model(Mamba(inner=8200, state_dim=16, rank=8)), 16) == ("8,200 Mamba channels",)


def test_widths_and_experts_are_cut_in_whole_parts():
    llm = model(QWEN7B.layers[0].attention, Moe(experts=48, top_k=3, inner=1344, shared=1, shared_inner=100))

    assert experts_uneven(llm, 10) == ("48 experts",)
    assert experts_uneven(llm, 10, copies=2) == ()
    assert width_uneven(llm, 5) == ("experts of width 1,344",)
    assert shared_uneven(llm, 8) == ("a shared expert of width 100",)
    assert dense_uneven(llm, 8) == ()
    assert dense_uneven(QWEN7B, 24) == ("a dense FFN of width 18,944",)


def test_output_projections_are_cut_by_heads_alone():
    assert output_uneven(QWEN7B, 7) == ()
    assert output_uneven(QWEN7B, 8) == ("28 query heads",)
    assert output_uneven(model(Linear(heads=24, groups=5, head_dim=128)), 8) == ()


def test_one_thing_does_not_and_several_do_not_divide():
    assert undivided(("a dense FFN of width 5",)) == "a dense FFN of width 5 does not divide"
    assert undivided(("28 query heads",)) == "28 query heads do not divide"
    assert undivided(("a hidden size of 5", "3 experts")) == "a hidden size of 5 and 3 experts do not divide"


@given(st.integers(1, 64), st.integers(1, 64))
def test_nearest_degrees_are_allowed_and_nothing_lies_between(degree, count):
    near = nearest(degree, range(1, 129), lambda n: count % n == 0)

    for found in near:
        assert count % found == 0
        low, high = sorted((found, degree))
        assert all(count % n for n in range(low + 1, high))


@given(st.sampled_from(catalog.llms()), st.integers(1, 32), st.sampled_from([1, 2, 4, 8, 16]))
def test_a_bare_model_is_cut_evenly_or_told_the_nearest(name, tp, ep):
    llm = catalog.llm(name)
    try:
        demand(llm, catalog.gpu("GB200"), tp=tp, ep=ep)
    except CatalogError as error:
        for change in advised(str(error)):
            demand(llm, catalog.gpu("GB200"), **{"tp": tp, "ep": ep, **change})
    else:
        assert not attention_uneven(llm, tp)
        assert not experts_uneven(llm, ep)


def advised(message):
    """Return the degrees that a refusal advises, each a map that is meant to help by itself."""
    if together := re.search(r"nearest: --tp (\d+) with --ep (\d+)$", message):
        return [{"tp": int(together[1]), "ep": int(together[2])}]
    option, values = re.search(r"nearest for --(tp|ep): (.*)$", message).groups()
    return [{option: int(value)} for value in values.split(" or ")]


@pytest.mark.parametrize(
    ("gpu", "tp", "text"),
    [
        ("H100", 16, "--tp: must be <= 8, the NVLink domain of H100 (got 16)"),
        ("RTX PRO 6000", 2, "--tp: must be <= 1, the NVLink domain of RTX PRO 6000, which has no NVLink (got 2)"),
        ("L20", 2, "--tp: must be <= 1, the NVLink domain of L20, which has no NVLink (got 2)"),
    ],
)
def test_tensor_parallelism_stays_inside_a_domain(gpu, tp, text):
    with pytest.raises(CatalogError, match=re.escape(text)):
        demand(catalog.llm("deepseek-v3"), catalog.gpu(gpu), tp=tp, ep=1)
    demand(catalog.llm("deepseek-v3"), catalog.gpu(gpu), tp=1, ep=16)


def test_no_degree_beyond_the_domain_is_advised():
    with pytest.raises(CatalogError, match=r"nearest for --tp: 4$"):
        demand(QWEN7B, catalog.gpu("H100"), tp=8, ep=1)


def pools(attention, ffn, **more):
    """Return Step-3 on one attention instance and some FFN instances."""
    asked = {
        "type": "afd",
        "attention": {"gpu": attention, "instances": 1, **more},
        "ffn": ffn,
        "max_num_seqs": 8,
    }
    workload = {"arrival": {"process": "closed_loop"}, "input_len": 256, "output_len": 4, "num_requests": 16}
    return deployment(load({"model": "step3", "deployment": asked, "workload": workload}))


def test_collectives_without_nvlink_and_uneven_shared_experts_are_told():
    assert list(crossings(pools("H100", {"gpu": "H100", "instances": 2}))) == []
    assert list(crossings(pools("L20", {"gpu": "L20", "instances": 4}))) == [
        "L20 has no NVLink: the collectives of the 8 GPUs of an FFN instance go over PCIe; assumed"
    ]
    assert list(crossings(pools("L20", {"gpu": "H100", "instances": 2}, parallelism={"tp": 4}))) == [
        "L20 has no NVLink: the collectives of the 4 GPUs of an attention rank go over PCIe; assumed"
    ]
    assert list(crossings(pools("H100", {"gpu": "H100", "instances": 1, "gpus_per_instance": 16}))) == [
        "the 16 GPUs of an FFN instance are more than the NVLink domain of H100, 8, and priced as one; assumed"
    ]
    assert list(crossings(pools("H100", {"gpu": "H100", "instances": 3}))) == [
        "a shared expert of width 5,120 does not divide over the 24 FFN GPUs: counted as cut evenly, without padding"
    ]
