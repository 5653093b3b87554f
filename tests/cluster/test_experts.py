"""Loads of the busiest GPUs under uniform routing, against tokens that are really drawn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.cluster.experts import EVEN, Asked, Load, drawn, slowest
from afdsim.scenario.streams import stream
from afdsim.scenario.tree import Experts


def draws(kind, at):
    return stream(0, kind, at)


def busiest(experts, top_k, ranks, tokens, seed=0):
    """Mean over 200 draws of the busiest rank's rows over the mean: every token asks for `top_k` different experts."""
    random, found = np.random.default_rng(seed), []
    for _ in range(200):
        asked = np.argpartition(random.random((tokens, experts)), top_k, axis=1)[:, :top_k]
        rows = np.bincount(asked.reshape(-1) * ranks // experts, minlength=ranks)
        found.append(rows.max() / rows.mean())
    return np.mean(found)


@pytest.mark.parametrize(
    ("experts", "top_k", "ranks", "tokens"),
    [
        *(
            (48, 3, 2, 2048),
            (48, 3, 4, 300),
            (48, 3, 24, 2048),
            (256, 8, 128, 2048),
            (256, 8, 16, 256),
            (128, 8, 4, 64),
        ),
        *(
            (256, 8, 128, 64),
            (256, 8, 256, 64),
            (256, 8, 32, 64),
            (128, 1, 16, 64),
            (64, 3, 32, 64),
            (256, 8, 128, 512),
        ),
    ],
)
def test_the_busiest_rank_is_as_busy_as_among_tokens_that_are_drawn(experts, top_k, ranks, tokens):
    asked = Asked(experts=experts, layers=1000, ranks=ranks, top_k=top_k)
    (row,) = slowest(Experts(law="uniform"), asked, 1, draws)
    ours = np.mean([load.of(float(tokens)) for load in row])
    theirs = busiest(experts, top_k, ranks, tokens)

    assert ours == pytest.approx(theirs, rel=0.03)
    assert ours - 1 == pytest.approx(theirs - 1, rel=0.08)


def test_two_instances_of_step3_differ_by_one_percent_and_thirty_two_gpus_by_nine():
    """The asymmetry between AFD's FFN instances and wide expert parallelism."""
    pairs = {2: 2048, 24: 6144}
    over = {}
    for ranks, tokens in pairs.items():
        (row,) = slowest(Experts(law="uniform"), Asked(experts=48, layers=2000, ranks=ranks, top_k=3), 1, draws)
        over[ranks] = float(np.mean([load.of(float(tokens)) for load in row])) - 1

    assert over[2] == pytest.approx(0.0099, abs=0.0004)
    assert over[24] == pytest.approx(0.067, abs=0.003)


@given(st.integers(1, 40), st.integers(1, 64))
def test_draws_share_what_there_is(layers, ranks):
    found = drawn(layers, ranks, stream=draws)

    assert found.shape == (layers, ranks)
    assert np.abs(found.sum(axis=1)).max() <= 0.05 * ranks + 1e-9  # each is rounded to a tenth


@given(
    st.integers(1, 8).flatmap(lambda k: st.tuples(st.integers(k, 256), st.just(k))),
    st.integers(1, 64),
    st.integers(0, 64),
)
def test_rows_grow_with_tokens_and_are_never_more_than_all(sizes, ranks, copies):
    experts, top_k = sizes
    asked = Asked(experts=experts, layers=4, ranks=ranks, top_k=top_k, copies=copies)
    tokens = np.arange(0.0, 3000.0)
    for row in slowest(Experts(law="uniform"), asked, ranks, draws):
        for load in row:
            rows = load.of(tokens) * tokens

            assert (np.diff(rows) >= -1e-9).all()
            assert (rows >= 0).all()
            assert (load.of(tokens) <= asked.most).all()


def test_even_loads_are_even_and_one_rank_has_them_all():
    asked = Asked(experts=48, layers=5, ranks=8, top_k=3)

    assert slowest(Experts(law="even"), asked, 2, draws) == [[EVEN] * 5] * 2
    assert slowest(Experts(law="uniform"), Asked(experts=48, layers=2, ranks=1, top_k=3), 1, draws) == [
        [Load(most=1.0)] * 2
    ]
    assert EVEN.of(np.arange(4.0)).tolist() == [1.0] * 4


def test_units_hold_the_busiest_of_their_own_ranks_and_all_of_them_the_busiest_where_they_do_not_divide():
    asked = Asked(experts=64, layers=6, ranks=8, top_k=4)
    (whole,) = slowest(Experts(law="uniform"), asked, 1, draws)
    apart = slowest(Experts(law="uniform"), asked, 4, draws)
    uneven = slowest(Experts(law="uniform"), asked, 3, draws)

    assert [max(row[layer].of(64.0) for row in apart) for layer in range(6)] == [load.of(64.0) for load in whole]
    assert uneven == [whole] * 3


@pytest.mark.parametrize(("ranks", "most"), [(1, 1.0), (2, 2.0), (8, 3.0)])
def test_no_rank_has_more_than_all_rows(ranks, most):
    law = Experts(law="slowest", max_over_mean=3.0)
    (row,) = slowest(law, Asked(experts=64, layers=3, ranks=ranks, top_k=4), 1, draws)

    assert [load.ranks[0][0] for load in row] == [most] * 3


def test_a_stated_load_is_rounded_up_to_a_hundredth_once():
    asked = Asked(experts=64, layers=3, ranks=8, top_k=4)
    (row,) = slowest(Experts(law="slowest", max_over_mean=1.11), asked, 1, draws)

    assert [load.ranks[0][0] for load in row] == [pytest.approx(1.11)] * 3
    assert all(math.isinf(load.most) for load in row)


@pytest.mark.parametrize(
    ("ranks", "copies", "most"),
    [(32, 16, 1.0), (48, 0, 1.0), (144, 96, 1.0), (80, 32, 80 / 48), (272, 224, 272 / 48 / 5), (32, 0, 64 / 48)],
)
def test_uniform_routing_leaves_what_the_best_placement_of_copies_leaves(ranks, copies, most):
    asked = Asked(experts=48, layers=2, ranks=ranks, top_k=3, copies=copies)
    (row,) = slowest(Experts(law="uniform"), asked, 1, draws)

    assert [load.ranks[0][0] for load in row] == [pytest.approx(most, abs=0.0101)] * 2
    assert all(load.ranks[0][0] >= most - 1e-9 for load in row)
