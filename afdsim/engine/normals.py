"""Standard normal numbers of keyed streams as machine code draws them: the bits of numpy's generators, sooner.

Philox 4x64-10 (Salmon et al., SC 2011) makes four whole numbers of a counter, and a ziggurat of 256 layers (Marsaglia
and Tsang, 2000), with numpy's tables, a normal number of one of them, seldom of more. Numpy asks for them one by one;
here counters go side by side. Plain functions over flat arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from afdsim.engine.variation import Kinds, Normals, drawn_by_numpy
from afdsim.scenario.streams import Streams
from afdsim.workload.laws import Stream

Values = Any
U = np.uint64
ROUNDS = 10
HALF, LOW = U(32), U(0xFFFFFFFF)
LEFT, RIGHT = U(0xD2E7470EE14C6C93), U(0xCA5A826395121157)
"""What the first and the third word of a counter are multiplied by."""
LEFT_KEY, RIGHT_KEY = U(0x9E3779B97F4A7C15), U(0xBB67AE8584CAA73B)
"""What the two words of a key grow by from round to round."""
LAYER, LAYER_BITS, SIGN, BELOW, MANTISSA = U(0xFF), U(8), U(1), U(9), U(0x000FFFFFFFFFFFFF)
"""How a whole number is cut: layer, sign, size."""
DOUBLE_BITS, DOUBLE = U(11), 1.0 / 9007199254740992.0
WORDS, PART, SPARE = 4, 8, 8
"""Numbers of a counter; counters of a later go; counters of the first go beyond those of as many numbers."""


class Ziggurat(NamedTuple):
    """Tables of the layers, and where the tail begins."""

    inside: Values  # layer: sizes below it need no other number
    width: Values  # layer
    height: Values  # layer
    tail: float
    over_tail: float


@cache
def ziggurat() -> Ziggurat | None:
    """Numpy's tables, which numba keeps for generators of its own; None where it no longer does."""
    try:
        from numba.np.random import _constants as kept
    except ImportError:
        return None
    return Ziggurat(
        inside=np.ascontiguousarray(kept.ki_double),
        width=np.ascontiguousarray(kept.wi_double),
        height=np.ascontiguousarray(kept.fi_double),
        tail=float(kept.ziggurat_nor_r),
        over_tail=float(kept.ziggurat_nor_inv_r),
    )


class Drawn(NamedTuple):
    """Whole numbers of a stream, some at a go."""

    words: Values  # word, counter
    cursor: Values  # which of them is next, how many there are, counters so far
    seed: Any
    """First word of the key."""
    kind: Any
    """Second word."""
    step: Any
    """Third word of the counter."""
    cell: Any
    """Fourth word."""


def high(one: Any, other: Any) -> Any:
    """The upper half of a product of two whole numbers."""
    low, up, other_low, other_up = one & LOW, one >> HALF, other & LOW, other >> HALF
    middle = up * other_low + ((low * other_low) >> HALF)
    return up * other_up + (middle >> HALF) + ((low * other_up + (middle & LOW)) >> HALF)


def scramble(drawn: Drawn, count: int) -> None:
    """Draw the words of so many counters more."""
    words, left, right = drawn.words, drawn.seed, drawn.kind
    for i in range(count):
        words[0, i], words[1, i], words[2, i], words[3, i] = drawn.cursor[2] + 1 + i, 0, drawn.step, drawn.cell
    for _ in range(ROUNDS):
        for i in range(count):
            one, other = words[0, i], words[2, i]
            words[0, i], words[1, i] = high(RIGHT, other) ^ words[1, i] ^ left, RIGHT * other
            words[2, i], words[3, i] = high(LEFT, one) ^ words[3, i] ^ right, LEFT * one
        left, right = left + LEFT_KEY, right + RIGHT_KEY
    drawn.cursor[0], drawn.cursor[1] = 0, WORDS * count
    drawn.cursor[2] += count


def whole(drawn: Drawn) -> Any:
    """The next whole number."""
    if drawn.cursor[0] == drawn.cursor[1]:
        scramble(drawn, PART)
    at = drawn.cursor[0]
    drawn.cursor[0] = at + 1
    return drawn.words[at % WORDS, at // WORDS]


def chance(drawn: Drawn) -> float:
    """The next number from 0 to 1, without 1."""
    return float((whole(drawn) >> DOUBLE_BITS) * DOUBLE)


def tail(tables: Ziggurat, drawn: Drawn) -> float:
    """A number of the tail."""
    while True:
        x = -tables.over_tail * np.log1p(-chance(drawn))
        y = -np.log1p(-chance(drawn))
        if y + y > x * x:
            return float(tables.tail + x)


def normal(tables: Ziggurat, drawn: Drawn) -> float:
    """The next standard normal number."""
    while True:
        bits = whole(drawn)
        layer, size = bits & LAYER, (bits >> BELOW) & MANTISSA
        x = size * tables.width[layer]
        if (bits >> LAYER_BITS) & SIGN:
            x = -x
        if size < tables.inside[layer]:
            return float(x)
        if layer == 0:
            x = tail(tables, drawn)
            return -x if (size >> LAYER_BITS) & SIGN else x
        low, up = tables.height[layer], tables.height[layer - SIGN]
        if (up - low) * chance(drawn) + low < np.exp(-0.5 * x * x):
            return float(x)


def draw_normals(
    tables: Ziggurat,
    scratch: tuple[Values, Values],
    streams: Values,
    spans: Values,
    steps: tuple[int, int],
    into: Values,
) -> None:
    """Fill `into`, a row of as many numbers for every step, with the first numbers of some streams at each.

    `scratch`: words and a cursor; `streams` (stream, (seed, kind, cell)); `spans` (stream, (from, to)): in a row.
    """
    stride = len(into) // (steps[1] - steps[0])
    for step in range(steps[0], steps[1]):
        for n in range(len(streams)):
            drawn = Drawn(scratch[0], scratch[1], streams[n, 0], streams[n, 1], U(step), streams[n, 2])
            drawn.cursor[2] = 0
            scramble(drawn, (spans[n, 1] - spans[n, 0]) // WORDS + SPARE)
            for place in range(spans[n, 0], spans[n, 1]):
                into[(step - steps[0]) * stride + place] = normal(tables, drawn)


def sooner(draw: Callable[..., None]) -> Normals:
    """Return `variation.drawn_by_numpy` by `draw_normals` as machine code, where streams and tables are known."""
    tables = ziggurat()

    def drawn(stream: Stream, kinds: Kinds, steps: range, into: np.ndarray) -> None:
        if tables is None or not isinstance(stream, Streams):
            drawn_by_numpy(stream, kinds, steps, into)
            return
        streams = np.array([stream.words(kind) for kind, _, _ in kinds], dtype=U)
        spans = np.array([span for _, *span in kinds], dtype=np.int64)
        counters = int(np.diff(spans).max()) // WORDS + SPARE
        scratch = np.zeros((WORDS, max(counters, PART)), dtype=U), np.zeros(3, dtype=np.int64)
        draw(tables, scratch, streams, spans, (steps.start, steps.stop), into)

    return drawn
