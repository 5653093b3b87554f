"""What makes operations of equal size last differently: jitter, stragglers, rare spikes.

Every number comes from a keyed stream (seed, kind, step), never from the order of events, so both engines and any
number of workers see the same draws; every sigma scales the same normal variates, and a spike of some probability is
one of every larger probability too (common random numbers). The factors of a step are one flat array: the units of each
pool in order, all draws of a unit together.
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
class Spike:
    """What rarely happens to an operation, beside its jitter; its mean is not 1, so it costs time on average."""

    probability: float
    """Of an operation, each for itself; drawn from spike_<pool>."""
    factor: float = 1.0
    """It lasts as many times as long."""
    seconds: float = 0.0
    """It lasts longer by these."""
    late: bool = False
    """Its rows are posted later by `seconds`; it lasts no longer."""


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
    """Lognormal multipliers and spikes of one run; a sigma of zero and an absent spike cost nothing."""

    stream: Stream
    compute: tuple[Jitter, ...]
    wires: tuple[Wires, ...]
    event: float = 0.0
    step: float = 0.0
    link: float = 0.0
    spike: Spike | None = None

    @property
    def jitters(self) -> bool:
        """Whether anything that is drawn for operations differs from step to step."""
        return self.event > 0 or self.step > 0 or self.spike is not None

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
                own = factors[place : place + len(each.stragglers) * each.draws]
                self._jitter(each, step, own)
                if self.spike is not None and self.spike.factor != 1:
                    own[self._spiked(self.spike, each, step)] *= self.spike.factor
                place += len(own)
        return factors

    def spikes(self, steps: range) -> tuple[Array, Array]:
        """Seconds that spikes add to the operations of some steps, and to their posts, as `units` places them.

        Empty where they never do.
        """
        spike, none = self.spike, np.zeros(0)
        if spike is None or spike.seconds == 0:
            return none, none
        hit = [self._spiked(spike, each, step) for step in steps for each in self.compute]
        seconds = np.concatenate(hit) * spike.seconds
        return (none, seconds) if spike.late else (seconds, none)

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

    def _spiked(self, spike: Spike, each: Jitter, step: int) -> Array:
        """Mark the operations of a pool that a spike hits in a step."""
        drawn = self.stream(f"spike_{each.pool}", step).random(len(each.stragglers) * each.draws)
        return np.asarray(drawn < spike.probability)

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
