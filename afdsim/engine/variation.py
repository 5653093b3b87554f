"""What makes operations of equal size last differently: jitter, stragglers and skewed experts.

Every number comes from a keyed stream (seed, kind, step), never from the order of events, so both engines and any
number of workers see the same draws; every sigma scales the same normal variates (common random numbers). The factors
of a step are one flat array: the units of each pool in order, all draws of a unit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from afdsim.workload.laws import Stream

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Factors of the operations of a pool: straggler x step x event, associated in that order."""

    pool: str
    """Names its streams, event_<pool> and step_<pool>."""
    stragglers: tuple[float, ...]
    """Constant factor of every unit."""
    draws: int
    """Operations of a unit in a step."""


@dataclass(frozen=True, kw_only=True)
class Wires:
    """Factors of the transfers of every pair, or sender."""

    kind: str
    """Names its stream."""
    pairs: int
    draws: int
    """Transfers of a pair in a step."""
    used: tuple[int, ...] | None = None
    """Draws that any transfer uses; None: all."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Lognormal multipliers of one run; a sigma of zero costs nothing."""

    stream: Stream
    compute: tuple[Jitter, ...]
    wires: tuple[Wires, ...]
    event: float = 0.0
    step: float = 0.0
    link: float = 0.0

    @property
    def jitters(self) -> bool:
        """Whether the factors of operations differ from step to step."""
        return self.event > 0 or self.step > 0

    @cached_property
    def units(self) -> Array:
        """Where the factors of every unit's operations begin (u,)."""
        draws = [each.draws for each in self.compute for _ in each.stragglers]
        return np.cumsum([0, *draws])

    @cached_property
    def pairs(self) -> Array:
        """Where the factors of every pair's transfers begin, kind after kind."""
        draws = [each.draws for each in self.wires for _ in range(each.pairs)]
        return np.cumsum([0, *draws])

    def operations(self, steps: range) -> Array:
        """Factors of all operations of some steps, as `units` places them; of one step where all are alike."""
        if not self.jitters:
            return self._constant
        size = int(self.units[-1])
        factors = np.empty(size * len(steps))
        for number, step in enumerate(steps):
            place = number * size
            for each in self.compute:
                self._jitter(each, step, factors[place : place + len(each.stragglers) * each.draws])
                place += len(each.stragglers) * each.draws
        return factors

    def transfers(self, steps: range) -> Array:
        """Factors of all transfers of some steps, as `pairs` places them; of one step where all are alike."""
        size = int(self.pairs[-1])
        if self.link == 0 or size == 0:
            return np.ones(max(size, 1))
        factors = np.empty(size * len(steps))
        for number, step in enumerate(steps):
            place = number * size
            for each in self.wires:
                self._wires(each, step, factors[place : place + each.pairs * each.draws])
                place += each.pairs * each.draws
        return factors

    def _jitter(self, each: Jitter, step: int, into: Array) -> None:
        self._lognormal(f"event_{each.pool}", self.event, step, into)
        if self.step == 0 and set(each.stragglers) == {1.0}:
            return
        persistent = np.array(each.stragglers)
        if self.step > 0:
            drawn = np.empty(len(persistent))
            self._lognormal(f"step_{each.pool}", self.step, step, drawn)
            persistent = persistent * drawn
        into *= np.repeat(persistent, each.draws)

    def _wires(self, each: Wires, step: int, into: Array) -> None:
        if each.used is None:
            self._lognormal(each.kind, self.link, step, into)
            return
        drawn = np.ascontiguousarray(
            self._normal(each.kind, self.link, step, into).reshape(each.pairs, -1)[:, each.used]
        )
        into[:] = 1.0
        into.reshape(each.pairs, -1)[:, each.used] = np.exp(drawn)

    def _lognormal(self, kind: str, sigma: float, step: int, into: Array) -> None:
        if sigma == 0:
            into[:] = 1.0
        else:
            np.exp(self._normal(kind, sigma, step, into), out=into)

    def _normal(self, kind: str, sigma: float, step: int, into: Array) -> Array:
        self.stream(kind, step).standard_normal(out=into)
        into *= sigma
        into -= 0.5 * sigma * sigma
        return into

    @cached_property
    def _constant(self) -> Array:
        return np.concatenate([np.repeat(each.stragglers, each.draws) for each in self.compute])
