"""Multi-token prediction: how many decode steps a request needs when every step may yield several tokens.

A step checks `draft` proposed tokens after the certain one; each is kept with probability `acceptance` if all before it
were. The steps of a request are drawn once, when it is admitted, from a stream of its own; it then advances evenly, by
tokens over steps, so that batching stays O(changes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from afdsim.catalog.llm import Llm
from afdsim.errors import ScenarioError
from afdsim.workload.laws import Stream

SCALE = 1 << 20
"""Fixed point of contexts where a step yields a fraction of a token: exact sums in any order."""
MOST = 1_000_000
"""Tokens of an answer whose steps are drawn."""


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """Multi-token prediction of one run."""

    draft: int
    acceptance: float
    stream: Stream

    def steps(self, request: int, tokens: int) -> int:
        """Decode steps that `request` needs for `tokens` more tokens."""
        if tokens <= 1 or self.acceptance == 0:
            return tokens
        if tokens > MOST:
            why = f"an answer has at most {MOST:,} tokens with it, whose steps are drawn one by one (got {tokens:,})"
            raise ScenarioError(f"deployment.mtp: {why}")
        random, taken, left = self.stream("acceptance", request), 0, tokens
        while True:
            block = max(int(1.2 * left / self.mean) + 8, 8)
            reached = np.cumsum(self._yields(random, block))
            enough = int(np.searchsorted(reached, left))
            if enough < block:
                return taken + enough + 1
            taken, left = taken + block, left - int(reached[-1])

    @property
    def mean(self) -> float:
        """Tokens of a step on average."""
        return float(sum(self.acceptance**k for k in range(self.draft + 1)))

    def _yields(self, random: np.random.Generator, count: int) -> np.ndarray:
        kept = random.random((count, self.draft)) < self.acceptance
        return 1 + np.asarray(np.logical_and.accumulate(kept, axis=1).sum(axis=1))


def with_drafts(llm: Llm, draft: int) -> Llm:
    """Return `llm` with one more layer per draft: what proposes a token is a layer like the last one.

    Weights of several drafts count as often, although DeepSeek's share them: 1 / layers too much for each.
    """
    return replace(llm, layers=(*llm.layers, *llm.layers[-1:] * draft)) if draft else llm
