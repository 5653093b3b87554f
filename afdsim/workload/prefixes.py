"""Which beginning of a prompt each request has: groups of requests whose prompts begin alike, or are the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from afdsim.workload.laws import BLOCK, Ints, Stream


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Groups that are known one by one."""

    groups: Ints

    def first(self, count: int) -> Ints:
        """Groups of the first `count` requests."""
        return self.groups[:count]


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """Groups of prompts that begin alike; the n-th request has the same group however many are drawn."""

    groups: int
    tokens: int
    """Shared by the prompts of a group; a shorter prompt is all shared."""
    zipf: float
    """Group g, from 1 on, is asked for in proportion to g ** -zipf; 0: all alike."""
    stream: Stream

    def first(self, count: int) -> Ints:
        """Groups of the first `count` requests."""
        drawn = [self._block(number) for number in range(-(-count // BLOCK))]
        return np.concatenate(drawn)[:count] if drawn else np.zeros(0, dtype=np.int64)

    def _block(self, number: int) -> Ints:
        at = self.stream("prefixes", number).random(BLOCK)
        return np.searchsorted(self._shares, at, side="right").astype(np.int64)

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """Cumulated shares of the groups, without the last."""
        weights = np.arange(1, self.groups + 1, dtype=float) ** -self.zipf
        shares: NDArray[np.float64] = np.cumsum(weights / weights.sum())[:-1]
        return shares


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Several answers to every prompt: requests that follow one another have the same."""

    answers: int

    def first(self, count: int) -> Ints:
        """Prompts of the first `count` requests."""
        return np.arange(count, dtype=np.int64) // self.answers
