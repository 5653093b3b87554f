"""Loads of the busiest GPUs as a bound needs them: a few in place of one for every layer, none above the true one.

Layers are sorted by load and cut into a few parts; all layers of a part count as its lowest. What takes longer with
more rows is then never priced too long, and pricing takes as long for a hundred layers as for a few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from afdsim.cluster.experts import EVEN, Load

Floats: TypeAlias = NDArray[np.float64]

PARTS = 6
"""Into which layers are cut."""
TYPICAL = 1024.0
"""Tokens at which loads are sorted; any number gives a bound."""


@dataclass(frozen=True, kw_only=True)
class Floors:
    """Loads that those of some layers reach at least."""

    layers: Floats
    """How many are in each part (k,)."""
    means: Floats
    """As in `Load.ranks`, the lowest of each part (k, 1)."""
    draws: Floats
    """As in `Load.ranks`, the lowest of each part (k, 1)."""
    like: Load = EVEN
    """What all have in common."""

    def of(self, tokens: Floats) -> Floats:
        """Loads when so many tokens are routed (k, tokens).

        `Load.of` grows with the draw where that is positive; below, its skewed term is never less than at a draw of 0.
        """
        n = np.maximum(tokens, 1.0)
        lean = self.like.skewness * (np.maximum(self.draws, 0.0) ** 2 - 1.0)
        loads = self.means + self.draws * self.like.deviation / np.sqrt(n) + lean / n
        return np.asarray(np.clip(loads, 0.0, self.like.most))


def floors(loads: Sequence[Load]) -> Floors:
    """Return a few loads below those of some layers."""
    pairs = np.array(sorted((_busiest(load) for load in loads), key=lambda pair: _typical(loads[0], pair)))
    lowest = [(len(part), *part.min(axis=0)) for part in np.array_split(pairs, PARTS) if len(part)]
    layers, means, draws = (np.array(column, dtype=float) for column in zip(*lowest, strict=True))
    return Floors(layers=layers, means=means[:, np.newaxis], draws=draws[:, np.newaxis], like=loads[0])


def typical(load: Load) -> float:
    """Return a load at a typical number of tokens, its skewed term left out; for comparison alone."""
    return _typical(load, _busiest(load))


def _busiest(load: Load) -> tuple[float, float]:
    """Mean and draw of the rank that is the busiest at a typical number of tokens; the load is never less."""
    return max(load.ranks, key=lambda pair: _typical(load, pair))


def _typical(load: Load, pair: tuple[float, float]) -> float:
    return pair[0] + pair[1] * load.deviation / math.sqrt(TYPICAL)
