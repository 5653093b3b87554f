"""Continuous batching: which requests sit in which micro-batch. It has no clock of its own.

Everything costs O(changes): a request is put into the bucket of the step in which it leaves, and the sum of contexts of
a rank grows by its batch. Sequences and contexts are counted per (attention unit, micro-batch, rank, window).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache

from afdsim.colocated_program import ColocatedProgram
from afdsim.program import Program
from afdsim.record import Requests


@dataclass(slots=True)
class Group:
    """The sequences of one micro-batch on one attention unit; lists have one entry per rank."""

    batch: list[int]
    contexts: list[list[int]]
    """Sum of the contexts read per window, by rank."""
    growing: list[list[int]]
    """Sequences whose context still grows inside each window; the full window shares `batch`."""
    waiting: list[deque[int]]
    queued: int = 0
    leaving: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Step -> (request, rank) that have no token left at that step's boundary."""
    saturating: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Step -> (window, rank) whose sequence fills its window at that step's boundary."""
    fresh: list[int] = field(default_factory=list)
    """Requests that joined at the latest boundary: their next token is their first."""


class Batching:
    """Seats requests: fewest sequences first, first come first served inside a seat, KV cache reserved in full."""

    def __init__(self, program: Program | ColocatedProgram, requests: Requests) -> None:
        self.requests = requests
        self.slots = program.deployment.micro_batch_slots
        self.micro_batches, self.ranks = program.micro_batches, program.ranks
        self.windows = program.windows
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
        growing = [batch if window is None else [0] * self.ranks for window in self.windows]
        contexts = [[0] * self.ranks for _ in self.windows]
        return Group(batch=batch, contexts=contexts, growing=growing, waiting=[deque() for _ in range(self.ranks)])

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

    def leave(self, step: int, j: int, unit: int, now: float) -> list[int]:
        """Emit the tokens of the step before, let finished requests go; returns those."""
        group = self.groups[unit][j]
        first_token = self.requests.first_token
        for request in group.fresh:
            first_token[request] = now
        group.fresh = []
        for sums, growing in zip(group.contexts, group.growing, strict=True):
            sums[:] = map(int.__add__, sums, growing)
        for window, rank in group.saturating.pop(step, ()):
            group.growing[window][rank] -= 1
        gone = group.leaving.pop(step, None)
        return self._release(group, gone, now, unit, j) if gone else []

    def _release(self, group: Group, gone: list[tuple[int, int]], now: float, unit: int, j: int) -> list[int]:
        requests = self.requests
        for request, rank in gone:
            group.batch[rank] -= 1
            start, steps = requests.context[request], requests.steps(request)
            for index, window in enumerate(self.windows):
                sums = group.contexts[index]
                if window is None:
                    sums[rank] -= start + steps
                    continue
                sums[rank] -= min(start + steps, window)
                group.growing[index][rank] -= start < window and steps <= window - start
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
        start, steps = requests.context[request], requests.steps(request)
        group.batch[rank] += 1
        group.queued -= 1
        self.queued -= 1
        self.active += 1
        for index, window in enumerate(self.windows):
            group.contexts[index][rank] += start if window is None else min(start, window)
            if window is not None and start < window:
                group.growing[index][rank] += 1
                if steps > window - start:
                    group.saturating.setdefault(step + window - start, []).append((index, rank))
        group.leaving.setdefault(step + steps, []).append((request, rank))
        group.fresh.append(request)
