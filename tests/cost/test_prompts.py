"""Kernels over chunks: the work of a prompt is the same however it is cut, and that of its tokens one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Mla, Precision
from afdsim.cost.prompts import Chunk, Sums, ragged, summed
from tests.cases import tiny_hybrid, tiny_sparse, tiny_windowed

cuts = st.lists(st.integers(1, 900), min_size=1, max_size=6)
windows = st.one_of(st.none(), st.integers(1, 1500))


def chunked(cut):
    """Chunks of one prompt."""
    return [Chunk(tokens, sum(cut[:place])) for place, tokens in enumerate(cut)]


@given(cuts, windows)
def test_a_prompt_scores_the_same_pairs_however_it_is_cut(cut, window):
    whole, parts = summed([Chunk(sum(cut), 0)], window), summed(chunked(cut), window)

    assert parts.pairs == pytest.approx(whole.pairs)
    assert (parts.tokens, parts.chunks) == (whole.tokens, len(cut))


@given(st.integers(1, 400), st.integers(0, 400), windows)
def test_pairs_are_those_of_single_tokens_but_for_half_of_the_own(tokens, before, window):
    limit = before + tokens if window is None else window
    seen = sum(min(before + place, limit) for place in range(1, tokens + 1))

    assert summed([Chunk(tokens, before)], window).pairs == pytest.approx(seen, abs=tokens / 2)


@given(cuts, windows)
def test_sums_of_chunks_are_sums_of_sums(cut, window):
    chunks = chunked(cut)
    alone = [summed([chunk], window) for chunk in chunks]

    assert summed(chunks, window) == pytest.approx(tuple(map(sum, zip(*alone, strict=True))))


def kernels(model, tp=1):
    return ragged(catalog.llm(model), Precision(kv_cache="bf16"), tp)


def test_step3_scores_two_products_of_every_pair_and_reads_the_cache_once():
    ((kernel, layers),) = kernels("step3")
    core = catalog.llm("step3").layers[0].attention
    operator = kernel.of(summed([Chunk(1000, 3000)], None))

    assert layers == 61
    assert operator.flops == pytest.approx(2 * 2 * 1000 * (3000 + 500) * core.heads * core.head_dim)
    assert operator.bytes == pytest.approx(4000 * 2 * core.head_dim * 2 + 1000 * 2 * core.heads * 2 * core.head_dim)


def test_latent_attention_is_written_out_and_earlier_tokens_are_made_again():
    llm = catalog.llm("deepseek-v3")
    (core, _), (again, layers) = kernels("deepseek-v3")
    mla = llm.layers[0].attention
    assert isinstance(mla, Mla)
    first, later = (summed([Chunk(100, before)], None) for before in (0, 400))

    assert layers == len(llm.layers)
    assert core.of(later).flops == 100 * 450 * 2.0 * mla.heads * (mla.nope_dim + mla.rope_dim + mla.v_dim)
    assert again.of(first).flops == again.of(first).bytes == 0
    assert again.of(later).flops == 400 * 2.0 * mla.kv_rank * mla.heads * (mla.nope_dim + mla.v_dim)


def test_a_group_of_gpus_shares_heads_but_not_the_cache_of_one_kv_head():
    ((alone, _),), ((shared, _),) = kernels("step3"), kernels("step3", tp=8)

    assert shared.flops.pairs == alone.flops.pairs / 8
    assert shared.bytes.tokens == alone.bytes.tokens / 8
    assert shared.bytes.seen == alone.bytes.seen


def test_windows_are_those_of_the_layers():
    found = [(kernel.window, layers) for kernel, layers in kernels(tiny_windowed(4))]

    assert sorted(found, key=str) == [(310, 2), (None, 2)]


def test_an_indexer_scores_all_tokens_and_each_query_reads_its_own():
    (index, _), (core, _) = kernels(tiny_sparse(2))

    assert (index.window, core.window) == (None, 200)
    assert core.bytes.seen == 0 < core.bytes.pairs


def test_a_recurrent_layer_has_no_pairs_and_moves_its_state_once_a_chunk():
    linear = [kernel for kernel, _ in kernels(tiny_hybrid(4)) if kernel.operator.kernel == "core_linear"]
    grouped = [kernel for kernel, _ in kernels(tiny_hybrid(4)) if kernel.operator.kernel == "core_gqa"]

    assert linear
    assert all(kernel.flops.pairs == 0 and kernel.bytes == Sums(chunks=kernel.bytes.chunks) for kernel in linear)
    assert all(kernel.flops.pairs > 0 for kernel in grouped)
