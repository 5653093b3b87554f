"""Degrees of parallelism that a model allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Dense, Gqa, Layer, Linear, Llm, Mamba, Moe
from afdsim.cluster.degrees import attention_uneven, demand, dense_uneven, experts_uneven, nearest, width_uneven
from afdsim.errors import CatalogError


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
    assert dense_uneven(llm, 8) == ("a shared expert of width 100",)


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
        demand(llm, tp=tp, ep=ep)
    except CatalogError as error:
        option, _, values = str(error).partition("nearest for --")[2].partition(": ")
        for value in map(int, values.split(" or ") if values else ()):
            assert not refused(llm, option, **{"tp": tp, "ep": ep, option: value})
    else:
        assert not attention_uneven(llm, tp)
        assert not experts_uneven(llm, ep)


def refused(llm, option, **degrees):
    """Whether a bare model is refused because of one of its options."""
    try:
        demand(llm, **degrees)
    except CatalogError as error:
        return str(error).startswith(f"--{option} ")
    return False
