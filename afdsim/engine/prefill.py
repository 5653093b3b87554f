"""Prefill instances as queues: prompts come, steps compute chunks of them, and their KV cache leaves by the NICs.

A prompt goes to the rank that has the fewest tokens left to compute, ties to the lowest index; one that a step under
way computes still counts. A rank is first come, first served: a step takes from its prompts in order, of each no more
than a chunk, until the step is full. What is in the KV cache of its rank is not computed again (`reuse`). An
instance steps when one of its ranks has something to do, and its ranks step together. A step that ends at some time
comes before a prompt that arrives then, and a step that begins then after it.

The first token is out at the end of the step that finishes a prompt. Its KV cache, which was reserved when the prompt
began, then leaves over the NICs of its rank, one prompt after the other, and keeps its memory until it has left: a
prompt that does not fit waits for that. With `by_layer` the caches of a step leave layer by layer while it goes on.

Prompts are submitted in order of time and the queue is advanced up to a time, so that whoever decides what comes next
may drive it step by step; nothing here waits for the decode side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice

import numpy as np

from afdsim.cost.prompts import Chunk
from afdsim.engine.prompts import Prices, Step
from afdsim.engine.reuse import Alike, Reuse
from afdsim.engine.seats import FOREVER, NOBODY
from afdsim.errors import SimulationError

Array = np.ndarray
END, START = range(2)
"""Kinds of events, in their order at one time."""
UNKNOWN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Wire:
    """How KV caches travel from a prefill rank to a decode rank."""

    nbytes: Callable[[int], float]
    """Bytes that one GPU of a decode rank keeps of so many tokens."""
    per_byte: float
    """Seconds of such a byte on the slower of the two sides."""
    latency: float
    by_layer: int = 0
    """Layers, where each travels while the next one is computed; 0 where all go together."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A lowered prefill pool."""

    prices: Prices
    wire: Wire
    alike: Alike | None = None
    """Which prompts begin alike, where any do."""

    @property
    def ranks(self) -> int:
        """Ranks of all instances."""
        return self.prices.prefill.instances * self.prices.prefill.dp


@dataclass(slots=True)
class Prompt:
    """One prompt on its way. Times are NaN until they happen."""

    arrival: float
    tokens: int
    answered: bool
    """Whether more than the first token is wanted, so that its cache must travel."""
    rank: int
    group: int = NOBODY
    """Of prompts that begin alike."""
    computed: int = 0
    """Tokens, those that were there among them."""
    start: float = UNKNOWN
    end: float = UNKNOWN
    """When its first token is out."""
    ready: float = UNKNOWN
    """When its KV cache is with the decode rank."""


@dataclass(slots=True)
class Rank:
    """Who waits at a rank, and what of its memory is taken."""

    number: int
    queue: deque[Prompt] = field(default_factory=deque)
    held: float = 0.0
    """Bytes of KV cache on one of its GPUs."""
    holders: int = 0
    """Prompts that these belong to."""
    leaving: list[tuple[float, int, int]] = field(default_factory=list)
    """(when, group, tokens) of prompts whose cache will be free again, a heap."""
    port: float = 0.0
    """When its NICs are free."""


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was run."""

    instance: int
    start: float
    cost: Step


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a pool made of the prompts of an open loop; columns by prompt, in order of arrival. Seconds."""

    pool: Pool
    arrival: Array
    input_len: Array
    output_len: Array
    start: Array
    """First step."""
    end: Array
    """First token."""
    ready: Array
    """KV cache with decode; NaN where one token is all."""
    order: Array
    """Prompts in the order in which they reach decode."""
    prefixes: list[int]
    """Tokens of prefixes asked for, of these those that were there, prefixes evicted."""
    steps: tuple[Done, ...]
    blocked: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """What a record knows of prefill; columns by request. Seconds, NaN until they happen."""

    served: Served
    start: Array
    end: Array
    ready: Array
    decoded: Array
    """First token of decode, the second of a request."""


class Queue:
    """Prompts at the instances of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._prefill = pool, pool.prices.prefill
        self.reuse = Reuse(pool.ranks, self._prefill.engine.kv_cache, pool.alike or Alike(0, 0, 1))
        self.prompts: list[Prompt] = []
        self.finished: list[Prompt] = []
        """Those of which it is known when their first token is out, in the order in which that was found."""
        self.steps: list[Done] = []
        self.blocked: list[tuple[int, float, float]] = []
        """(instance, from, until): prompts waited for memory that others held until their cache had left."""
        self._ranks = [Rank(number) for number in range(pool.ranks)]
        self._left = np.zeros(pool.ranks, dtype=np.int64)
        """By rank: tokens that are not computed yet."""
        self._taken: list[list[tuple[Prompt, int, int]]] = [[] for _ in range(self._prefill.instances)]
        """By instance: prompts of the step under way, their tokens in it, and those up to which it computes them."""
        self._next = [FOREVER] * self._prefill.instances  # when a step is to begin
        self._since = [FOREVER] * self._prefill.instances  # from when on memory is waited for
        self._events: list[tuple[float, int, int]] = []
        self._now = 0.0

    def submit(self, time: float, tokens: int, *, answered: bool = True, group: int = NOBODY) -> Prompt:
        """Let a prompt arrive; times may not fall."""
        if time < self._now:
            raise SimulationError(f"a prompt at {time:g} s comes after one at {self._now:g} s; submit them in order")
        self._prefill.check_prompt(tokens)
        self.advance(time)
        rank = int(self._left.argmin())
        prompt = Prompt(time, tokens, answered, rank, group)
        self.prompts.append(prompt)
        self._ranks[rank].queue.append(prompt)
        self._left[rank] += tokens
        self._wake(rank // self._prefill.dp, time)
        return prompt

    def advance(self, until: float) -> None:
        """Run what ends up to a time, and what begins before it."""
        while self._events and self._events[0] < (until, START):
            time, kind, instance = heappop(self._events)
            if kind == END:
                self._end(instance, time)
            else:
                self._start(instance, time)
        self._now = max(self._now, until)

    def _wake(self, instance: int, time: float) -> None:
        """Have a step begin, if none is under way and none begins earlier."""
        if not self._taken[instance] and time < self._next[instance]:
            self._next[instance] = time
            heappush(self._events, (time, START, instance))

    def _of(self, instance: int) -> range:
        dp = self._prefill.dp
        return range(instance * dp, (instance + 1) * dp)

    def _end(self, instance: int, time: float) -> None:
        """A step is over: its tokens no longer wait, and the next one may begin."""
        for prompt, tokens, computed in self._taken[instance]:
            self._left[prompt.rank] -= tokens
            self.reuse.computed(prompt.rank, prompt.group, computed)
        self._taken[instance] = []
        if any(self._ranks[rank].queue for rank in self._of(instance)):
            self._wake(instance, time)

    def _start(self, instance: int, now: float) -> None:
        """Run a step of what waits, unless it has begun earlier; where nothing fits, try again when memory is free."""
        if now != self._next[instance]:
            return
        self._next[instance] = FOREVER
        if self._since[instance] < now:
            self.blocked.append((instance, self._since[instance], now))
        self._since[instance] = FOREVER
        work = [self._take(self._ranks[rank], now) for rank in self._of(instance)]
        if any(work):
            self._run(instance, now, work)
            return
        self._since[instance] = now
        waiting = [rank for rank in map(self._ranks.__getitem__, self._of(instance)) if rank.queue]
        self._wake(instance, min(rank.leaving[0][0] for rank in waiting))

    def _run(self, instance: int, now: float, work: Sequence[Sequence[tuple[Prompt, Chunk]]]) -> None:
        finished = [sum(prompt.computed == prompt.tokens for prompt, _ in chunks) for chunks in work]
        cost = self._pool.prices.step([[chunk for _, chunk in chunks] for chunks in work], finished)
        for rank, chunks in zip(self._of(instance), work, strict=True):
            self._send(self._ranks[rank], chunks, now, now + cost.seconds)
            self._taken[instance] += [(prompt, chunk.tokens, prompt.computed) for prompt, chunk in chunks]
        self.steps.append(Done(instance, now, cost))
        heappush(self._events, (now + cost.seconds, END, instance))

    def _take(self, rank: Rank, now: float) -> list[tuple[Prompt, Chunk]]:
        """Take the chunks of a step from the prompts of a rank, in order, as far as they fit."""
        self._clear(rank, now)
        taken: list[tuple[Prompt, Chunk]] = []
        room = self._prefill.max_batched_tokens
        for prompt in rank.queue:
            if not room or not self._begins(rank, prompt, now):
                break
            tokens = min(self._prefill.chunk, prompt.tokens - prompt.computed, room)
            taken.append((prompt, Chunk(tokens, prompt.computed)))
            prompt.computed += tokens
            room -= tokens
        waiting = [prompt for prompt, _ in taken if prompt.computed < prompt.tokens]
        rank.queue = deque([*waiting, *islice(rank.queue, len(taken), None)])
        return taken

    def _clear(self, rank: Rank, now: float) -> None:
        """Free the caches that have left by now."""
        while rank.leaving and rank.leaving[0][0] <= now:
            _, group, tokens = heappop(rank.leaving)
            rank.held -= self.reuse.leave(rank.number, group, tokens)
            rank.holders -= 1
        if not rank.holders:
            rank.held = self.reuse.idle(rank.number)  # without what rounding has left over

    def _begins(self, rank: Rank, prompt: Prompt, now: float) -> bool:
        """Whether a prompt has begun, or may now because its cache fits."""
        if prompt.start <= now:
            return True
        room = self._prefill.engine.kv_cache.budget - rank.held
        asked = (prompt.group, prompt.tokens)
        begun = self.reuse.begin(rank.number, asked, room, alone=not rank.holders)
        if begun is None:
            return False
        prompt.computed, more = begun
        self._left[rank.number] -= prompt.computed
        rank.held, rank.holders = rank.held + more, rank.holders + 1
        prompt.start = now
        return True

    def _send(self, rank: Rank, chunks: Sequence[tuple[Prompt, Chunk]], start: float, end: float) -> None:
        """Give out the first tokens of a step and send the caches of who is done."""
        wire, layers = self._pool.wire, self._pool.wire.by_layer
        if layers:
            seconds = wire.per_byte * sum(self._grown(*each) for each in chunks)
            if seconds:
                first, last = start + (end - start) / layers, end + seconds / layers
                rank.port = max(rank.port + seconds, first + seconds, last)
        for prompt, _ in chunks:
            if prompt.computed < prompt.tokens:
                continue
            prompt.end = left = end
            self.finished.append(prompt)
            if prompt.answered:
                if not layers:
                    rank.port = max(rank.port, end) + wire.per_byte * wire.nbytes(prompt.tokens)
                left = max(rank.port, end)
                prompt.ready = left + wire.latency
            heappush(rank.leaving, (left, prompt.group, prompt.tokens))

    def _grown(self, prompt: Prompt, chunk: Chunk) -> float:
        """Return the bytes that a chunk adds to what must travel; a recurrent state goes with the last one."""
        if not prompt.answered:
            return 0.0
        nbytes, whole = self._pool.wire.nbytes, chunk.before + chunk.tokens
        return nbytes(whole) - nbytes(chunk.before) + (nbytes(0) if whole == prompt.tokens else 0.0)
