"""The best cells and fleets under a budget, held against all of them."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.studies.choosing import OBJECTIVES, WORDS, Offer, chosen

BUDGET = st.fixed_dictionaries({"A": st.integers(0, 7), "B": st.integers(0, 5)})
SIZES = st.fixed_dictionaries({"A": st.integers(0, 5), "B": st.integers(0, 3)})
OFFERS = st.lists(
    st.builds(Offer, SIZES, st.integers(0, 40).map(float), st.none() | st.integers(0, 9).map(float), st.just(20.0)),
    max_size=5,
)


def summed(offers, counts):
    """GPUs of each kind, and tokens per second, of so many of each offer."""
    gpus = {kind: sum(n * offer.gpus[kind] for offer, n in zip(offers, counts, strict=True)) for kind in "AB"}
    return gpus, sum(n * offer.rate for offer, n in zip(offers, counts, strict=True))


def alike(offers, counts):
    """Whether there is one kind of cell on each kind of GPU, and one that takes several."""
    taken = [tuple(kind for kind in "AB" if offer.gpus[kind]) for offer, n in zip(offers, counts, strict=True) if n]
    return len(taken) == len(set(taken))


def fleets(offers, budget):
    """GPUs and tokens of every fleet within a budget."""
    fits = [offer for offer in offers if offer.total > 0]
    most = [min(budget[kind] // n for kind, n in offer.gpus.items() if n) for offer in fits]
    for counts in product(*(range(n + 1) for n in most)):
        gpus, rate = summed(fits, counts)
        if alike(fits, counts) and all(gpus[kind] <= budget[kind] for kind in budget):
            yield sum(gpus.values()), rate


def found(objective, offers, budget, demand=0.0):
    picks = chosen(objective, dict(enumerate(offers)), budget, demand)
    gpus, rate = summed(offers, [picks[place] for place in range(len(offers))])
    assert all(gpus[kind] <= budget[kind] for kind in budget)
    return sum(gpus.values()), rate


@given(OFFERS, BUDGET)
def test_no_fleet_gives_more_tokens_and_none_as_many_from_fewer_gpus(offers, budget):
    best = max(rate for _, rate in fleets(offers, budget))

    assert found("goodput", offers, budget) == (min(n for n, rate in fleets(offers, budget) if rate == best), best)


@given(OFFERS, BUDGET, st.integers(1, 120))
def test_no_fleet_gives_enough_tokens_from_fewer_gpus(offers, budget, demand):
    enough = [(n, -rate) for n, rate in fleets(offers, budget) if rate >= demand]
    gpus, rate = found("gpus", offers, budget, float(demand))

    assert (gpus, -rate) == (min(enough) if enough else (0, 0.0))


@given(OFFERS, BUDGET, st.sampled_from("AB"))
def test_more_gpus_never_give_less(offers, budget, kind):
    more = budget | {kind: budget[kind] + 1}

    assert found("goodput", offers, more)[1] >= found("goodput", offers, budget)[1]


@given(OFFERS, BUDGET, st.sampled_from(("tgs", "usd", "speed")))
def test_no_cell_within_the_budget_is_better(offers, budget, objective):
    picks = chosen(objective, dict(enumerate(offers)), budget)
    figures = [
        offer.figure(objective)
        for offer in offers
        if offer.rate and offer.total and all(offer.gpus[kind] <= budget[kind] for kind in budget)
    ]
    figures = [figure for figure in figures if figure > float("-inf")]

    assert sum(picks.values()) == bool(figures)
    assert [offers[place].figure(objective) for place in picks] == ([max(figures)] if figures else [])


def test_of_equal_cells_the_first_counts():
    twice = {"first": Offer({"A": 2}, 10.0, None, 1.0), "second": Offer({"A": 2}, 10.0, None, 1.0)}

    assert chosen("goodput", twice, {"A": 5}) == Counter(first=2)
    assert chosen("tgs", twice, {"A": 5}) == Counter(first=1)


def test_a_cell_of_gpus_that_nobody_has_is_not_chosen():
    foreign = {"one": Offer({"C": 2}, 10.0, None, 1.0), "none": Offer({}, 10.0, None, 1.0)}

    assert chosen("goodput", foreign, {"A": 5}) == Counter()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_told_in_words(objective):
    assert WORDS[objective]


def test_what_is_free_has_a_price() -> None:
    offers = {"small": Offer({"H20": 8}, 100.0, 0.0, 10.0), "large": Offer({"H20": 16}, 300.0, 0.0, 10.0)}
    assert chosen("usd", offers, {"H20": 16}) == {"large": 1}
