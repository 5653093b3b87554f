"""The best choice among cells under a budget of GPUs: one cell, or a fleet of them.

Single cells are compared by one figure. A fleet is as people run one: on every kind of GPU replicas of one cell, beside
replicas of one cell that takes several kinds. Among those the best is found exactly: most tokens within the GPUs that
there are, or the fewest GPUs that give enough.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
FREE = 1e-9
"""USD per hour as which a price of 0 counts, so that of what is free the most is best."""


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
                return -math.inf if self.usd is None else self.rate / max(self.usd, FREE)
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
    unit = [reduce(math.gcd, (offer.gpus.get(kind, 0) for offer in offers.values())) or 1 for kind in kinds]
    most = [budget[kind] // each for kind, each in zip(kinds, unit, strict=True)]
    cells = best_of_sizes(offers, kinds, unit)
    alone = [_alone(offers, cells, place, count) for place, count in enumerate(most)]
    values = reduce(np.add.outer, (rates for rates, _ in alone))
    gpus = reduce(np.add.outer, (each * np.arange(count + 1.0) for each, count in zip(unit, most, strict=True)))
    best: tuple[tuple[float, float], Counter[K]] | None = None
    for mixed, number, rest in _beside(cells, most):
        rate, taken = (0.0, 0) if mixed is None else (number * offers[mixed].rate, number * offers[mixed].total)
        window = tuple(slice(each + 1) for each in rest)
        found = _place(values[window] + rate, gpus[window] + taken, demand)
        if found is not None and (best is None or found[0] < best[0]):
            picks: Counter[K] = Counter() if mixed is None else Counter({mixed: number})
            for (_, chosen_), count in zip(alone, found[1], strict=True):
                picks.update(chosen_[count])
            best = found[0], picks
    return Counter() if best is None else best[1]


def best_of_sizes(offers: Mapping[K, Offer], kinds: Sequence[str], unit: Sequence[int]) -> dict[tuple[int, ...], K]:
    """The cell with most tokens of all that take the same GPUs, by these in units of each kind."""
    best: dict[tuple[int, ...], K] = {}
    for key, offer in offers.items():
        size = tuple(offer.gpus.get(kind, 0) // each for kind, each in zip(kinds, unit, strict=True))
        if size not in best or offer.rate > offers[best[size]].rate:
            best[size] = key
    return best


def _alone(
    offers: Mapping[K, Offer], cells: Mapping[tuple[int, ...], K], place: int, most: int
) -> tuple[NDArray[np.float64], list[Counter[K]]]:
    """The most tokens from up to so many units of one kind of GPU by replicas of one cell, and these."""
    rates, chosen_ = np.zeros(most + 1), [Counter[K]() for _ in range(most + 1)]
    for size, key in cells.items():
        if sum(map(bool, size)) != 1 or not size[place]:
            continue
        for number in range(1, most // size[place] + 1):
            used, rate = number * size[place], number * offers[key].rate
            if rate > rates[used]:
                rates[used], chosen_[used] = rate, Counter({key: number})
    for used in range(1, most + 1):
        if rates[used - 1] >= rates[used]:
            rates[used], chosen_[used] = rates[used - 1], chosen_[used - 1]
    return rates, chosen_


def _beside(cells: Mapping[tuple[int, ...], K], most: Sequence[int]) -> Iterator[tuple[K | None, int, tuple[int, ...]]]:
    """Yield replicas of every cell on several kinds of GPU, none of any first, with the units that they leave."""
    yield None, 0, tuple(most)
    for size, key in cells.items():
        if sum(map(bool, size)) > 1:
            for number in range(1, min(n // each for n, each in zip(most, size, strict=True) if each) + 1):
                yield key, number, tuple(n - number * each for n, each in zip(most, size, strict=True))


def _place(
    values: NDArray[np.float64], gpus: NDArray[np.float64], demand: float | None
) -> tuple[tuple[float, float], tuple[int, ...]] | None:
    """The best units of each kind with what they are compared by, less is better; None where none meet a demand."""
    orders = (-values, gpus) if demand is None else (np.where(values >= demand, gpus, np.inf), -values)
    first = orders[0].min()
    if first == np.inf:
        return None
    second = np.where(orders[0] == first, orders[1], np.inf)
    place = np.unravel_index(int(second.argmin()), values.shape)
    return (float(first), float(second.min())), tuple(int(each) for each in place)
