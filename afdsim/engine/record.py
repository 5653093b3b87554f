"""What a run leaves behind, as columns; nothing is stored per token.

A boundary row (time, batch) and a request row (seat, times) together give every token time exactly.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np

from afdsim.engine.causes import CAUSES

Array = np.ndarray
NEVER = float("nan")
_STATUS = np.array(("finished", "refused", "running", "waiting"), dtype=object)


@dataclass(slots=True)
class Requests:
    """Requests as columns; the index is the request id. Times are NaN until they happen."""

    arrival: list[float] = field(default_factory=list)
    admitted: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    finish: list[float] = field(default_factory=list)
    input_len: list[int] = field(default_factory=list)
    output_len: list[int] = field(default_factory=list)
    context: list[int] = field(default_factory=list)
    """Context at the first step: `input_len`, more for requests that start aged."""
    joined: list[int] = field(default_factory=list)
    """First step it takes part in, -1 until it does."""
    seat: list[int] = field(default_factory=list)
    """rank x micro-batches + micro-batch, -1 until one is given."""
    needs: list[int] = field(default_factory=list)
    """Decode steps that it takes where a step may yield several tokens, 0 until drawn; elsewhere 0 for ever."""
    counted: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)

    def add(self, arrival: float, lengths: tuple[int, int], *, age: int = 0, counted: bool = True) -> int:
        """A new request that has already produced `age` of its tokens; returns its id."""
        self.arrival.append(arrival)
        self.admitted.append(NEVER)
        self.first_token.append(NEVER)
        self.finish.append(NEVER)
        self.input_len.append(lengths[0])
        self.output_len.append(lengths[1])
        self.context.append(lengths[0] + age)
        self.joined.append(-1)
        self.seat.append(-1)
        self.needs.append(0)
        self.counted.append(counted)
        self.refused.append(False)
        return len(self.arrival) - 1

    def steps(self, request: int) -> int:
        """Decode steps the request takes part in."""
        return self.needs[request] or self.tokens(request)

    def tokens(self, request: int) -> int:
        """Tokens that the request still has to produce when it is admitted."""
        return self.input_len[request] + self.output_len[request] - self.context[request]

    def __len__(self) -> int:
        return len(self.arrival)

    def status(self) -> Array:
        """finished, refused, running or waiting, by request."""
        ended = (~np.isnan(self.finish), np.array(self.refused, dtype=bool), ~np.isnan(self.admitted))
        return _STATUS[np.select(ended, (0, 1, 2), 3).astype(np.int8)]


@dataclass(slots=True)
class Boundaries:
    """One row per (step, micro-batch, attention unit): the lossless record of all tokens."""

    step: array[int] = field(default_factory=lambda: array("q"))
    micro_batch: array[int] = field(default_factory=lambda: array("q"))
    unit: array[int] = field(default_factory=lambda: array("q"))
    time: array[float] = field(default_factory=lambda: array("d"))
    batch: array[int] = field(default_factory=lambda: array("q"))
    """Tokens emitted."""
    gaps: array[int] = field(default_factory=lambda: array("q"))
    """Of these, tokens whose sequence had a token before."""

    def add(self, step: int, micro_batch: int, unit: int, time: float, tokens: tuple[int, int]) -> None:
        self.step.append(step)
        self.micro_batch.append(micro_batch)
        self.unit.append(unit)
        self.time.append(time)
        self.batch.append(tokens[0])
        self.gaps.append(tokens[1])


class Ledger:
    """Books the seconds of every unit by cause, inside the window only.

    Rows come once per step and unit, (begin, end, seconds by cause), and adjoin. A row that an edge of the window cuts
    counts in proportion, and the last row is stretched to the window's end.
    """

    def __init__(self, units: int) -> None:
        self.opens = float("inf")
        """Start of the window; infinite while nobody knows."""
        self._window = np.zeros((units, len(CAUSES)))
        self._run = np.zeros((units, len(CAUSES)))
        self._row = np.zeros((units, len(CAUSES)))
        self._begin = np.zeros(units)
        self._end = np.zeros(units)

    def book(self, end: Array, seconds: Array) -> None:
        """Close the row of every unit at `end` (unit,) with `seconds` (unit, cause)."""
        self._run += self._row
        if self.opens <= self._begin.min():
            self._window += self._row
        elif self.opens < float("inf"):
            self._window += self._row * self._share(self._end, self.opens)
        self._begin, self._end, self._row = self._end, end, seconds

    def close(self, end: float) -> tuple[float, Array]:
        """The window's start and its seconds (unit, cause); every row adds up to the window.

        A window that never opened is the whole run.
        """
        ends = np.full_like(self._end, end)
        if self.opens >= end:
            return 0.0, self._run + self._row * self._share(ends, 0.0)
        return self.opens, self._window + self._row * self._share(ends, self.opens)

    def _share(self, end: Array, opens: float) -> Array:
        """Part of the latest row between `opens` and `end` (unit, 1)."""
        length = self._end - self._begin
        inside = np.maximum(end - np.maximum(self._begin, opens), 0.0)
        share: Array = np.divide(inside, length, out=np.zeros_like(length), where=length > 0)
        return share[:, None]


@dataclass(slots=True, kw_only=True)
class Record:
    """Everything that an engine leaves behind."""

    requests: Requests
    boundaries: Boundaries
    window: tuple[float, float]
    causes: Array
    """Seconds (unit, cause) inside the window: attention units, then FFN instances; rows add up to the window."""
    own: Array
    """Attention seconds that each rank alone would have needed over the seconds of its unit (unit, rank)."""
    traffic: dict[tuple[str, int, int, str], list[float]]
    """Messages and bytes by (pool, unit or instance, rail, direction), counted by the processes."""
    steps_run: Array
    """Numbers of the steps that every unit has completed, ascending."""
    events: int
    """SimPy events of the processes; boundaries where the kernel runs the layers, which are its only events."""

    @property
    def steps(self) -> int:
        return len(self.steps_run)
