"""The best choice among cells under a budget of GPUs: one cell, or a fleet of them.

Single cells are compared by one figure. A fleet is a knapsack: as many cells of each kind as give most tokens within
the GPUs that there are, or as few GPUs as give enough tokens; solved exactly by dynamic programming over GPUs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K")

Objective = Literal["goodput", "tgs", "usd", "gpus", "speed"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
WORDS: Mapping[Objective, str] = {
    "goodput": "most tokens per second from these GPUs",
    "tgs": "most tokens per GPU and second",
    "usd": "fewest USD per million tokens",
    "gpus": "fewest GPUs that give the tokens per second asked for",
    "speed": "most tokens per second and user at a floor of tokens per GPU",
}


class Offer(NamedTuple):
    """What a cell gives, or may give at most."""

    gpus: Mapping[str, int]
    """By kind."""
    rate: float
    """Output tokens per second."""
    usd: float | None
    """Per hour; None where a price is not known."""
    speed: float
    """Tokens per second and user."""

    @property
    def total(self) -> int:
        """GPUs in all."""
        return sum(self.gpus.values())

    def figure(self, objective: Objective) -> float:
        """What a single cell is compared by: more is better."""
        match objective:
            case "usd":
                return -math.inf if not self.usd else self.rate / self.usd
            case "speed":
                return self.speed
        return self.rate / self.total


def chosen(
    objective: Objective, offers: Mapping[K, Offer], budget: Mapping[str, int], demand: float = 0.0
) -> Counter[K]:
    """Return the best cells with how many of each; nothing where there is nothing, or not enough.

    `demand` is in tokens per second, for the fewest GPUs. Of equal choices the first offer counts.
    """
    useful = {key: offer for key, offer in offers.items() if offer.rate > 0 and _fits(offer, budget)}
    if not useful:
        return Counter()
    if objective in ("goodput", "gpus"):
        return _fleet(useful, budget, demand if objective == "gpus" else None)
    best = max(useful, key=lambda key: useful[key].figure(objective))
    return Counter() if useful[best].figure(objective) == -math.inf else Counter([best])


def against(objective: Objective, offer: Offer, best: Offer) -> str:
    """Return by how much an offer is worse than the best: ``12 %``, ``16 GPUs``; ``-`` where it is no worse."""
    match objective:
        case "gpus":
            more = offer.total - best.total
            return f"{more} GPUs" if more > 0 else "-"
        case "goodput":
            part = 1.0 - offer.rate / best.rate
        case _:
            part = 1.0 - offer.figure(objective) / best.figure(objective)
    return f"{part:.1%}" if part > 0 else "-"


def _fits(offer: Offer, budget: Mapping[str, int]) -> bool:
    """Whether a cell has GPUs, and there are enough of each kind."""
    return offer.total > 0 and all(count <= budget.get(kind, 0) for kind, count in offer.gpus.items())


def _fleet(offers: Mapping[K, Offer], budget: Mapping[str, int], demand: float | None) -> Counter[K]:
    """The cells that give most tokens within a budget; or, where a demand is given, the fewest GPUs that meet it."""
    kinds = tuple(budget)
    unit = {kind: reduce(math.gcd, (offer.gpus.get(kind, 0) for offer in offers.values())) or 1 for kind in kinds}
    best: dict[tuple[int, ...], K] = {}
    for key, offer in offers.items():
        size = tuple(offer.gpus.get(kind, 0) // unit[kind] for kind in kinds)
        if size not in best or offer.rate > offers[best[size]].rate:
            best[size] = key
    sizes = np.array(list(best), dtype=np.int64)
    rates = np.array([offers[key].rate for key in best.values()])
    values, taken = _filled(sizes, rates, tuple(budget[kind] // unit[kind] for kind in kinds))
    place = _place(values, [unit[kind] for kind in kinds], demand)
    found: Counter[K] = Counter()
    keys = list(best.values())
    while place is not None and (number := int(taken[place])) >= 0:
        found[keys[number]] += 1
        place = tuple(int(each) for each in np.array(place) - sizes[number])
    return found


def _filled(
    sizes: NDArray[np.int64], rates: NDArray[np.float64], most: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The largest rate within every number of GPUs, and the last cell that it takes (-1: none)."""
    shape = tuple(each + 1 for each in most)
    values, taken = np.zeros(shape), np.full(shape, -1, dtype=np.int64)
    for place in np.ndindex(*shape):
        before = np.array(place) - sizes
        fits = np.flatnonzero((before >= 0).all(axis=1))
        if not len(fits):
            continue
        found = rates[fits] + values[tuple(before[fits].T)]
        best = int(found.argmax())
        values[place], taken[place] = found[best], fits[best]
    return values, taken


def _place(values: NDArray[np.float64], unit: Sequence[int], demand: float | None) -> tuple[int, ...] | None:
    """The numbers of GPUs to use: those with the largest rate, or the fewest that meet a demand; None if none do."""
    counts = sum(np.indices(values.shape)[axis] * unit[axis] for axis in range(values.ndim))
    enough = values >= (values.max() if demand is None else demand)
    if not enough.any():
        return None
    fewest = np.where(enough, counts, np.inf)
    ties = np.where(fewest == fewest.min(), values, -np.inf)
    return tuple(int(each) for each in np.unravel_index(int(ties.argmax()), values.shape))
