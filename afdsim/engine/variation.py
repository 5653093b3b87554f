"""What makes operations of equal size last differently: jitter, stragglers and skewed experts.

Every number comes from a keyed stream (seed, kind, step), never from the order of events, so both engines and any
number of workers see the same draws; every sigma scales the same normal variates (common random numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from afdsim.workload.laws import Stream

Array = np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Multipliers:
    """Factors with mean 1 on the durations of one step."""

    attention: Array
    """(l, j, u)"""
    ffn: Array
    """(l, j, f)"""
    out: Array
    """(l, j, u, f), attention to FFN"""
    back: Array
    """(l, j, f, u), FFN to attention"""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Lognormal multipliers of one run; a sigma of zero costs nothing."""

    layers: int
    micro_batches: int
    stream: Stream
    attention_stragglers: tuple[float, ...]
    """Constant factor of every attention unit."""
    ffn_stragglers: tuple[float, ...]
    event: float = 0.0
    step: float = 0.0
    link: float = 0.0
    _latest: list[tuple[int, Multipliers]] = field(default_factory=list, repr=False, compare=False)

    def multipliers(self, step: int) -> Multipliers:
        """The factors of `step`; the latest ones are kept, since several units ask for the same step."""
        for known, multipliers in self._latest:
            if known == step:
                return multipliers
        made = self._constant if self.event == self.step == self.link == 0 else self._drawn(step)
        self._latest[:] = [*self._latest[-1:], (step, made)]
        return made

    def _drawn(self, step: int) -> Multipliers:
        return Multipliers(
            attention=self.compute("attention", step).transpose(1, 2, 0),
            ffn=self.compute("ffn", step).transpose(1, 2, 0),
            out=self.wire("link_out", step).transpose(2, 3, 0, 1),
            back=self.wire("link_back", step).transpose(2, 3, 1, 0),
        )

    def compute(self, side: str, step: int) -> Array:
        """Factors (unit, l, j) of "attention" or "ffn": straggler x step x event, associated in that order."""
        stragglers = self.attention_stragglers if side == "attention" else self.ffn_stragglers
        shape = (len(stragglers), self.layers, self.micro_batches)
        events = self._lognormal(f"event_{side}", self.event, step, shape)
        if self.step == 0 and set(stragglers) == {1.0}:
            return events
        persistent = np.array(stragglers) * self._lognormal(f"step_{side}", self.step, step, shape[:1])
        factors: Array = persistent[:, None, None] * events
        return factors

    def wire(self, kind: str, step: int) -> Array:
        """Factors (u, f, l, j): the first instances keep their draws when more are added."""
        shape = (len(self.attention_stragglers), len(self.ffn_stragglers), self.layers, self.micro_batches)
        return self._lognormal(kind, self.link, step, shape)

    def _lognormal(self, kind: str, sigma: float, step: int, shape: tuple[int, ...]) -> Array:
        if sigma == 0:
            return np.ones(shape)
        draws = self.stream(kind, step).standard_normal(shape)
        draws *= sigma
        draws -= 0.5 * sigma * sigma
        return np.exp(draws, out=draws)

    @cached_property
    def _constant(self) -> Multipliers:
        return self._drawn(0)
