"""Named, counter-based streams of random numbers: a seed, what a number is for, and the step that it belongs to."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Kind(IntEnum):
    """What a stream of random numbers is for; the numbers are part of the meaning of a seed and never change."""

    arrivals = 1
    input_lengths = 2
    output_lengths = 3
    event_attention = 4
    event_ffn = 5
    step_attention = 6
    step_ffn = 7
    link_out = 8
    link_back = 9
    experts = 10
    failures = 11
    acceptance = 12
    spike_attention = 13
    spike_ffn = 14
    router = 15
    arrival_states = 20
    classes = 21
    prefixes = 22
    session_turns = 30
    user_lengths = 31
    turn_lengths = 32
    think_times = 33


def stream(seed: int, kind: Kind | str, step: int = 0, cell: int = 0) -> np.random.Generator:
    """Return the generator of one kind of draw at one step, independent of every other and of the order of events.

    Behind a router every cell has generators of its own.
    """
    import numpy as np

    number = Kind[kind] if isinstance(kind, str) else kind
    return np.random.Generator(np.random.Philox(key=[seed, int(number)], counter=[0, 0, step, cell]))


class Streams:
    """`stream` for one seed, many times over: a generator per kind is made once and set to each step.

    The numbers are those of `stream`; take them before the same kind is asked for again.
    """

    def __init__(self, seed: int, cell: int = 0) -> None:
        self._seed, self._cell = seed, cell
        self._generators: dict[str, tuple[np.random.Generator, dict[str, Any]]] = {}

    def words(self, kind: str) -> tuple[int, int, int]:
        """Both words of a kind's key, and the last one of its counters, behind the step."""
        return self._seed, int(Kind[kind]), self._cell

    def __call__(self, kind: str, step: int = 0) -> np.random.Generator:
        if kind not in self._generators:
            generator = stream(self._seed, kind, step, self._cell)
            self._generators[kind] = generator, dict(generator.bit_generator.state)
            return generator
        generator, state = self._generators[kind]
        state["state"]["counter"][2] = step
        generator.bit_generator.state = state
        return generator
