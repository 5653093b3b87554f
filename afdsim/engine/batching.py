"""Continuous batching: which requests sit in which micro-batch. It has no clock of its own.

Everything costs O(changes): a request is put into the bucket of the step in which it leaves, and the sum of contexts of
a rank grows by its batch. Sequences and contexts are counted per (attention unit, micro-batch, rank, window).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache

from afdsim.engine.colocated_program import ColocatedProgram
from afdsim.engine.drafts import SCALE
from afdsim.engine.program import Program
from afdsim.engine.record import Requests


@dataclass(slots=True)
class Group:
    """The sequences of one micro-batch on one attention unit; lists have one entry per rank."""

    batch: list[int]
    contexts: list[list[int]]
    """Sum of the contexts read per window, by rank."""
    growing: list[list[int]]
    """Tokens by which the contexts inside each window grow in a step; the full window shares `batch` where that is the
    number of sequences."""
    waiting: list[deque[int]]
    queued: int = 0
    leaving: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Step -> (request, rank) that have no token left at that step's boundary."""
    saturating: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Step -> (window, rank, pace) of a sequence that fills its window at that step's boundary."""
    pace: int = 0
    """Tokens of a step, in fixed point, where sequences may yield several."""
    owed: int = 0
    """Fixed-point tokens that have not made a whole one yet."""
    fresh: list[int] = field(default_factory=list)
    """Requests that joined at the latest boundary: their next token is their first."""


class Batching:
    """Seats requests: fewest sequences first, first come first served inside a seat, KV cache reserved in full."""

    def __init__(self, program: Program | ColocatedProgram, requests: Requests) -> None:
        self.requests = requests
        self.slots = program.deployment.micro_batch_slots
        self.micro_batches, self.ranks = program.micro_batches, program.ranks
        self.windows = program.windows
        self.drafts = program.drafts
        self.scale = SCALE if self.drafts else 1
        """Contexts are counted in tokens / scale."""
        self.groups = [[self._empty() for _ in range(self.micro_batches)] for _ in range(program.units)]
        seats = program.units * self.ranks
        self.kv_free = [program.deployment.kv_budget] * seats
        self.sequences = [0 if self.slots[j] else 1 << 60 for _ in range(seats) for j in range(self.micro_batches)]
        """Waiting and running sequences by seat = rank x micro-batches + micro-batch; huge where nothing can sit."""
        self.active = 0
        """Running sequences anywhere."""
        self.queued = 0
        self.deployment = program.deployment
        self.kv_budget = program.deployment.kv_budget
        self.kv_reserved = cache(program.deployment.kv_reserved)

    def _empty(self) -> Group:
        batch = [0] * self.ranks
        shares = self.drafts is None
        growing = [batch if window is None and shares else [0] * self.ranks for window in self.windows]
        contexts = [[0] * self.ranks for _ in self.windows]
        return Group(batch=batch, contexts=contexts, growing=growing, waiting=[deque() for _ in range(self.ranks)])

    def _growth(self, start: int, steps: int, pace: int, window: int | None) -> int:
        """Steps in which a context of `start` tokens grows inside a window."""
        if window is None:
            return steps
        return min(steps, -(-max(window - start, 0) * self.scale // pace))

    def seat_for_arrival(self) -> int:
        """The seat with the fewest sequences, ties to the lowest index."""
        return self.sequences.index(min(self.sequences))

    def fits_ever(self, request: int) -> bool:
        """Whether an empty rank could hold the request's whole context."""
        return self._need(request) <= self.kv_budget

    def _need(self, request: int) -> float:
        return self.kv_reserved(self.requests.input_len[request] + self.requests.output_len[request])

    def queue(self, request: int, seat: int) -> None:
        """Let a request wait for a place in the micro-batch and rank of `seat`."""
        rank, j = divmod(seat, self.micro_batches)
        unit, local = divmod(rank, self.ranks)
        group = self.groups[unit][j]
        group.waiting[local].append(request)
        group.queued += 1
        self.queued += 1
        self.sequences[seat] += 1
        self.requests.seat[request] = seat

    def emitted(self, j: int, unit: int) -> tuple[int, int]:
        """Tokens that the step before has yielded, and how many sequences had one before."""
        group = self.groups[unit][j]
        sequences = sum(group.batch)
        if self.drafts is None:
            return sequences, sequences - len(group.fresh)
        tokens, group.owed = divmod(group.owed + group.pace, self.scale)
        return tokens, sequences - len(group.fresh)

    def _pace(self, request: int) -> int:
        """Fixed-point tokens that a request gains in a step."""
        return self.requests.tokens(request) * self.scale // self.requests.steps(request)

    def leave(self, step: int, j: int, unit: int, now: float) -> list[int]:
        """Emit the tokens of the step before, let finished requests go; returns those."""
        group = self.groups[unit][j]
        first_token = self.requests.first_token
        for request in group.fresh:
            first_token[request] = now
        group.fresh = []
        for sums, growing in zip(group.contexts, group.growing, strict=True):
            sums[:] = map(int.__add__, sums, growing)
        for window, rank, pace in group.saturating.pop(step, ()):
            group.growing[window][rank] -= pace
        gone = group.leaving.pop(step, None)
        return self._release(group, gone, now, unit, j) if gone else []

    def _release(self, group: Group, gone: list[tuple[int, int]], now: float, unit: int, j: int) -> list[int]:
        requests = self.requests
        for request, rank in gone:
            group.batch[rank] -= 1
            start, steps, pace = requests.context[request], requests.steps(request), self._pace(request)
            if self.drafts is not None:
                group.pace -= pace
            for index, window in enumerate(self.windows):
                grows = self._growth(start, steps, pace, window)
                group.contexts[index][rank] -= (
                    start if window is None else min(start, window)
                ) * self.scale + grows * pace
                if grows == steps and (window is not None or self.drafts is not None):
                    group.growing[index][rank] -= pace
            seat = unit * self.ranks + rank
            self.kv_free[seat] += self._need(request)
            self.sequences[seat * self.micro_batches + j] -= 1
            requests.finish[request] = now
        self.active -= len(gone)
        return [request for request, _ in gone]

    def join(self, step: int, j: int, unit: int, now: float) -> None:
        """Let waiting requests in, in order, while there are slots and KV cache for them."""
        group = self.groups[unit][j]
        if not group.queued:
            return
        for rank, waiting in enumerate(group.waiting):
            seat = unit * self.ranks + rank
            while waiting and group.batch[rank] < self.slots[j]:
                need = self._need(waiting[0])
                if need > self.kv_free[seat]:
                    break
                self.kv_free[seat] -= need
                self._seat(group, waiting.popleft(), rank, step, now)

    def _seat(self, group: Group, request: int, rank: int, step: int, now: float) -> None:
        requests = self.requests
        requests.admitted[request] = now
        requests.joined[request] = step
        if self.drafts is not None:
            requests.needs[request] = self.drafts.steps(request, requests.tokens(request))
        start, steps, pace = requests.context[request], requests.steps(request), self._pace(request)
        if self.drafts is not None:
            group.pace += pace
            group.owed += requests.tokens(request) * self.scale - pace * steps  # what rounding leaves over
        group.batch[rank] += 1
        group.queued -= 1
        self.queued -= 1
        self.active += 1
        for index, window in enumerate(self.windows):
            group.contexts[index][rank] += (start if window is None else min(start, window)) * self.scale
            grows = self._growth(start, steps, pace, window)
            if grows and (window is not None or self.drafts is not None):
                group.growing[index][rank] += pace
                if grows < steps:
                    group.saturating.setdefault(step + grows, []).append((index, rank, pace))
        group.leaving.setdefault(step + steps, []).append((request, rank))
        group.fresh.append(request)
