"""What a run leaves behind, as columns; nothing is stored per token.

A boundary row (time, batch) and a request row (seat, times) together give every token time exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from afdsim.engine.books import BLOCK
from afdsim.engine.faults import Hit, Outage
from afdsim.engine.prefill import Prefilled
from afdsim.engine.samples import Sample
from afdsim.engine.watch import Watch

Array = np.ndarray
_STATUS = np.array(("finished", "refused", "lost", "running", "waiting"), dtype=object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests as columns; the index is the request id. Times are NaN until they happen."""

    arrival: Array
    admitted: Array
    first_token: Array
    finish: Array
    input_len: Array
    output_len: Array
    context: Array
    """Context at the first step: `input_len`, more for requests that start aged."""
    joined: Array
    """First step it takes part in, -1 until it does."""
    seat: Array
    """rank x micro-batches + micro-batch, -1 until one is given."""
    needs: Array
    """Decode steps that it takes where a step may yield several tokens, 0 until drawn; elsewhere 0 for ever."""
    preempted: Array
    """How often it gave its blocks back before its end."""
    group: Array
    """Of prompts that begin alike."""
    hit: Array
    """Tokens of its prompt that it found in the KV cache of its rank when it was last called."""
    counted: Array
    refused: Array
    lost: Array
    """When a crash took its KV cache, and nobody computed it again."""

    def __len__(self) -> int:
        return len(self.arrival)

    def status(self) -> Array:
        """finished, refused, lost, running or waiting, by request."""
        ended = (~np.isnan(self.finish), self.refused, ~np.isnan(self.lost), ~np.isnan(self.admitted))
        return _STATUS[np.select(ended, (0, 1, 2, 3), 4).astype(np.int8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stays:
    """Where requests sat before an outage or a lack of blocks made them leave, with at least one token; a row each.

    The tokens of such a stay are out at the boundaries `joined` + 1 to `joined` + `steps` of its seat's lane.
    """

    request: Array
    seat: Array
    joined: Array
    """First step."""
    steps: Array
    context: Array
    """Context at the first step."""
    tokens: Array
    """Tokens: of what the lane yielded, whole ones in order of the requests where a step yields several."""

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int, int, int]]) -> Stays:
        """The same from rows."""
        columns = np.array(rows, dtype=np.int64).reshape(-1, 6).T.copy()
        return cls(**dict(zip(cls.__slots__, columns, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversed:
    """What sessions were, and what became of their KV cache between turns."""

    session: Array
    """Of every request."""
    turn: Array
    """Of every request, the first of its session being 0."""
    cut: int
    """Sessions that were opened and end early: the next turn would be too long."""
    tally: list[int]
    """Counts (`engine.sessions`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """One row per (step, micro-batch, attention unit): the lossless record of all tokens."""

    step: Array
    micro_batch: Array
    unit: Array
    time: Array
    batch: Array
    """Tokens emitted."""
    gaps: Array
    """Of these, tokens whose sequence had a token before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """What decode steps computed of prompts, in order of time; a row each."""

    request: Array
    seat: Array
    step: Array
    time: Array
    """When the step began."""
    tokens: Array
    before: Array
    """Tokens of the prompt that were computed earlier."""
    ends: Array
    """Whether the prompt ends there: its token is out when the step is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that an engine leaves behind."""

    requests: Requests
    stays: Stays
    outages: tuple[tuple[Outage, Hit], ...] | None
    """When the cell stood still and whom that hit, in order; None where nothing may crash."""
    prefixes: list[int]
    """Tokens of prefixes that were asked for, those of them that were there, and prefixes that went."""
    unfelt: tuple[float, ...]
    """When instances crashed that were away while the others went on."""
    boundaries: Boundaries
    edges: Array
    """Seconds: the window is cut into slices between them, so that its start may be chosen afterwards."""
    ended: float
    """When the run ended, seconds: an open loop goes on after its window, until the last request has left."""
    slices: Array
    """Seconds (slice, unit, cause), pool after pool; the causes of a unit add up to the slice."""
    blame: Array
    """The same seconds, but for busy and no work, by who was waited for (block of slices, column of `culprits`)."""
    columns: Array
    """Unit and cause of every column (column, 2); those of a culprit come before those of a part."""
    samples: tuple[Sample, ...]
    """Some steps with everything that happened in them, in order."""
    own: Array
    """Attention seconds that each rank alone would have needed over the seconds of its unit (unit, rank)."""
    traffic: dict[tuple[str, int, int, str], list[float]]
    """Messages and bytes by (pool, unit or instance, rail, direction), counted by the processes."""
    steps_run: Array
    """Numbers of the steps that every unit has completed, ascending."""
    watch: Watch | None = None
    """Busy seconds of every unit over the whole run; None where nobody looked."""
    left: int = 0
    """Slices of the first block that lie before the first edge."""
    events: int
    """SimPy events of the processes; boundaries where the kernel runs the layers, which are its only events."""
    prefill: Prefilled | None = None
    """What prefill servers did; None where there are none."""
    chunks: Chunks | None = None
    """What decode steps computed of prompts; None where they compute none."""
    sessions: Conversed | None = None
    """None where every request stands alone."""
    overloaded: bool = False
    """Whether it ended with its last arrival, because the load was not carried: some requests still sit or wait."""

    @property
    def steps(self) -> int:
        return len(self.steps_run)

    @property
    def window(self) -> tuple[float, float]:
        """From the first edge to the last, seconds."""
        return float(self.edges[0]), float(self.edges[-1])

    @property
    def blamed(self) -> Array:
        """Seconds by column inside the window."""
        total: Array = self.blame.sum(axis=0)
        return total

    @property
    def causes(self) -> Array:
        """Seconds (unit, cause) inside the window; rows add up to it."""
        total: Array = self.slices.sum(axis=0)
        return total

    def since(self, place: int) -> Record:
        """The same record with a window that begins at an edge.

        The blame of a block that it cuts is shared out as the seconds of its units and causes are.
        """
        gone, left = divmod(place + self.left, BLOCK)
        begin, end = max(gone * BLOCK - self.left, 0), (gone + 1) * BLOCK - self.left
        whole, rest = (self.slices[first:end].sum(axis=0)[*self.columns.T] for first in (begin, place))
        blame = self.blame[gone:].copy()
        blame[0] *= np.divide(rest, whole, out=np.zeros_like(whole), where=whole > 0)
        return replace(self, edges=self.edges[place:], slices=self.slices[place:], blame=blame, left=left)
