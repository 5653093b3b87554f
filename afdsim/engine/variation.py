"""What makes operations of equal size last differently: jitter, stragglers, rare spikes.

Every number comes from a keyed stream (seed, kind, step), never from the order of events, so both engines and any
number of workers see the same draws; every sigma scales the same normal variates, and a spike of some probability is
one of every larger probability too (common random numbers). The factors of a step are one flat array: the units of each
pool in order, all draws of a unit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from afdsim.workload.laws import Stream

Array = np.ndarray


Kinds = tuple[tuple[str, int, int], ...]
"""Streams, and which places of a step's row each of them fills: from, to."""
Normals = Callable[[Stream, Kinds, range, Array], None]
"""Fills rows of some steps, one after the other, with standard normal numbers."""


def drawn_by_numpy(stream: Stream, kinds: Kinds, steps: range, into: Array) -> None:
    """Fill rows of some steps with the first standard normal numbers of every stream at each."""
    for row, step in zip(into.reshape(len(steps), -1), steps, strict=True):
        for kind, low, high in kinds:
            stream(kind, step).standard_normal(out=row[low:high])


def placed(sizes: Iterable[tuple[str, int]]) -> Kinds:
    """Streams one after the other, each with as many numbers as it says."""
    named = tuple(sizes)
    ends = list(accumulate((size for _, size in named), initial=0))
    return tuple((name, low, high) for (name, _), (low, high) in zip(named, pairwise(ends), strict=True))


def lognormal(normals: Array, sigma: float) -> Array:
    """The numbers, in their place, as factors with mean 1."""
    normals *= sigma
    normals -= 0.5 * sigma * sigma
    np.exp(normals, out=normals)
    return normals


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
    normals: Normals = drawn_by_numpy
    """How streams are drawn; all ways give the same numbers."""

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
        self._lognormal(self._jittered, self.event, steps, factors)
        rows, persistent = factors.reshape(len(steps), size), self._persistent(steps)
        for each, (_, low, high), own in zip(self.compute, self._jittered, persistent, strict=True):
            units = rows[:, low:high].reshape(len(steps), len(each.stragglers), each.draws)
            units *= own[..., np.newaxis]
            if self.spike is not None and self.spike.factor != 1:
                for row, step in zip(rows, steps, strict=True):
                    row[low:high][self._spiked(self.spike, each, step)] *= self.spike.factor
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
        factors, kinds, used = np.empty(size * len(steps)), self._wired, self._used
        if used is None:
            self._lognormal(kinds, self.link, steps, factors)
            return factors
        self.normals(self.stream, kinds, steps, factors)
        rows = factors.reshape(len(steps), size)
        kept = lognormal(rows[:, used], self.link)
        rows[...] = 1.0
        rows[:, used] = kept
        return factors

    def _persistent(self, steps: range) -> Iterator[Array]:
        """Straggler x step of the units of every pool (step, unit)."""
        constant = np.concatenate([each.stragglers for each in self.compute])
        factors = np.empty(len(steps) * len(constant))
        kinds = placed((f"step_{each.pool}", len(each.stragglers)) for each in self.compute)
        self._lognormal(kinds, self.step, steps, factors)
        rows = factors.reshape(len(steps), -1)
        for _, low, high in kinds:
            yield constant[low:high] * rows[:, low:high]

    @cached_property
    def _jittered(self) -> Kinds:
        return placed((f"event_{each.pool}", len(each.stragglers) * each.draws) for each in self.compute)

    @cached_property
    def _wired(self) -> Kinds:
        return placed((each.kind, each.pairs * each.draws) for each in self.wires)

    @cached_property
    def _used(self) -> Array | None:
        """Places of a row that any transfer uses; None: all."""
        if all(each.used is None for each in self.wires):
            return None
        rows = [np.arange(each.pairs * each.draws).reshape(each.pairs, -1) for each in self.wires]
        kept = (row if each.used is None else row[:, each.used] for row, each in zip(rows, self.wires, strict=True))
        starts = (low for _, low, _ in self._wired)
        return np.concatenate([low + row.reshape(-1) for low, row in zip(starts, kept, strict=True)])

    def _spiked(self, spike: Spike, each: Jitter, step: int) -> Array:
        """Mark the operations of a pool that a spike hits in a step."""
        drawn = self.stream(f"spike_{each.pool}", step).random(len(each.stragglers) * each.draws)
        return np.asarray(drawn < spike.probability)

    def _lognormal(self, kinds: Kinds, sigma: float, steps: range, into: Array) -> None:
        if sigma == 0:
            into[:] = 1.0
            return
        self.normals(self.stream, kinds, steps, into)
        lognormal(into, sigma)

    @cached_property
    def _constant(self) -> Array:
        return np.concatenate([np.repeat(each.stragglers, each.draws) for each in self.compute])
