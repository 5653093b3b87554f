"""Laws of the closed-form analysis beyond the paper's own tables: memory, FLOPs and number formats as limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision, attention_weight_bytes, kv_bytes
from afdsim.cost.theory import Batch, attention_usd, dense_batch, ffn_cards, ffn_usd, largest_batch, peak
from afdsim.cost.theory import min_sparsity as least

models = st.sampled_from(catalog.llms()).map(catalog.llm)
gpus = st.sampled_from(catalog.gpus()).map(catalog.gpu)
contexts = st.integers(16, 200_000)
limits = st.floats(0.001, 10.0)
formats = st.sampled_from(["bf16", "fp8", "int8", "fp4"])
cores = st.tuples(st.sampled_from([("attention",), ("kv_cache",), ("attention", "kv_cache"), ()]), formats)
precisions = st.builds(lambda core, ffn: Precision(ffn=ffn, **dict.fromkeys(*core)), cores, formats)
PAPER = Precision()


@given(models, gpus, contexts, limits, precisions)
def test_three_micro_batches_fit_the_memory(llm, gpu, context, tpot, precision):
    found = largest_batch(llm, gpu, context, o_proj=8, tpot=tpot, precision=precision)
    weights = attention_weight_bytes(llm, precision, o_proj="tp8")

    assert found.largest == getattr(found, found.limit)
    assert 3 * found.memory * kv_bytes(llm, context, precision) <= max(0.0, 0.9 * gpu.memory - weights)


@given(models, gpus, contexts, limits, precisions)
def test_more_context_or_less_time_never_takes_more(llm, gpu, context, tpot, precision):
    def at(context, tpot):
        return largest_batch(llm, gpu, context, tpot=tpot, precision=precision).largest

    assert at(context + 1000, tpot) <= at(context, tpot) <= at(context, 1.5 * tpot)


def test_the_limit_is_the_smallest():
    assert (Batch(bandwidth=3, compute=2, memory=1).limit, Batch(bandwidth=3, compute=2, memory=1).largest) == (
        "memory",
        1,
    )
    assert Batch(bandwidth=0, compute=2, memory=1).limit == "bandwidth"


@given(models, gpus)
def test_wider_formats_are_never_cheaper(llm, gpu):
    if gpu.usd_per_hour is None:
        return
    wide = Precision(attention="bf16", ffn="bf16")

    assert attention_usd(llm, gpu, 8192, wide) >= attention_usd(llm, gpu, 8192, PAPER) == attention_usd(llm, gpu, 8192)
    assert ffn_usd(llm, gpu, wide) >= ffn_usd(llm, gpu, PAPER) == ffn_usd(llm, gpu)
    assert ffn_cards(llm, gpu, precision=wide) >= ffn_cards(llm, gpu)


def test_a_format_counts_at_its_own_peak():
    h800, a800 = catalog.gpu("H800"), catalog.gpu("A800")

    assert (peak(h800), peak(h800, "bf16")) == (1979e12, 989e12)
    assert (peak(a800), peak(a800, "int8")) == (312e12, 624e12)
    assert dense_batch(h800, "bf16") == pytest.approx(dense_batch(h800), rel=0.001)
    assert least(h800, dtype="bf16") == pytest.approx(4 / 3 * least(h800), rel=0.001)
