"""Conversations of several turns: how many, what is said in them, and how long people think between.

The first turn of a session is a request like any other. The prompt of a further one is the whole conversation so far,
its answers included, and what the user says next; it comes when the answer before has ended and the user has thought.
Everything about a session but that moment is drawn from its number, so the n-th session is the same however many come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from afdsim.workload.laws import Floats, Ints, Lengths, RequestSource, Stream, draw

BLOCK: Final = 1024
"""Sessions whose further turns are drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Everybody thinks as long."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """Exponential times."""

    mean: float
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LognormalTime:
    """Lognormal times, by the moments of the times themselves."""

    mean: float
    """Seconds."""
    cv: float
    """Standard deviation over mean."""


Thought: TypeAlias = Fixed | Exponential | LognormalTime


def thought(law: Thought, rng: np.random.Generator, n: int) -> Floats:
    """Draw `n` times in seconds."""
    match law:
        case Fixed(seconds=seconds):
            return np.full(n, seconds)
        case Exponential(mean=mean):
            return rng.standard_exponential(n) * mean
        case LognormalTime(mean=mean, cv=cv):
            variance = np.log1p(cv**2)
            found: Floats = mean * np.exp(np.sqrt(variance) * rng.standard_normal(n) - variance / 2)
            return found
        case _:
            assert_never(law)


class Plan(NamedTuple):
    """Turns of the first sessions, session by session."""

    first: Ints
    """Session: number of its first turn; one entry more."""
    cut: NDArray[np.bool_]
    """Session: whether it ends early, because a turn of it would be too long."""
    session: Ints  # turn
    input_len: Ints  # turn
    output_len: Ints  # turn
    think: Floats
    """Turn: seconds after the end of the turn before; 0 of a first one."""

    def __len__(self) -> int:
        return len(self.session)


class _Further(NamedTuple):
    """Further turns of a block of sessions."""

    turns: Ints  # session: all of its turns
    user_len: Ints  # further turn
    output_len: Ints  # further turn
    think: Floats  # further turn


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """Laws of sessions over the requests that open them."""

    source: RequestSource
    """First turns."""
    turns: Lengths
    """Turns of a session, at least 1."""
    user_len: Lengths
    """Tokens that a further turn adds to the conversation."""
    output_len: Lengths
    """Tokens of the answer to a further turn."""
    think: Thought
    fits: Callable[[Ints], NDArray[Any]]
    """Which contexts a further turn may have: longer ones end their session before it."""
    stream: Stream

    @cached_property
    def _blocks(self) -> list[_Further]:
        return []

    def plan(self, sessions: int) -> Plan:
        """Return the turns of the first `sessions` sessions."""
        further = self._further(sessions)
        begins = np.concatenate([[0], np.cumsum(further.turns)])
        session = np.repeat(np.arange(sessions), further.turns)
        later = np.arange(len(session)) > begins[session]
        prompt, answer = self.source.columns(sessions)
        output_len = np.where(later, 0, answer[session])
        output_len[later] = further.output_len
        said, think = np.zeros_like(output_len), np.zeros(len(session))
        said[later], think[later] = further.user_len, further.think
        grown = np.cumsum(said + np.concatenate([[0], output_len[:-1]]))  # of all sessions, one behind the other
        input_len = prompt[session] + grown - grown[begins[session]]
        stays = ~later | self.fits(input_len + output_len)
        counts = np.bincount(session[stays], minlength=sessions)
        first = np.concatenate([[0], np.cumsum(counts)])
        cut = counts < further.turns
        return Plan(first, cut, session[stays], input_len[stays], output_len[stays], think[stays])

    def first_requests(self, requests: int) -> Plan:
        """Return the turns of as many sessions as have so many requests together; the last one may be cut short."""
        sessions = max(1, requests // BLOCK)
        while len(plan := self.plan(sessions)) < requests:
            sessions = min(2 * sessions, requests)
        last = int(plan.session[requests - 1])
        return Plan(
            first=np.minimum(plan.first[: last + 2], requests),
            cut=plan.cut[: last + 1],
            session=plan.session[:requests],
            input_len=plan.input_len[:requests],
            output_len=plan.output_len[:requests],
            think=plan.think[:requests],
        )

    def _further(self, sessions: int) -> _Further:
        """Further turns of the first sessions."""
        while len(self._blocks) * BLOCK < sessions:
            self._blocks.append(self._block(len(self._blocks)))
        known = self._blocks[: -(-sessions // BLOCK)]
        turns = np.concatenate([block.turns for block in known])[:sessions]
        further = int((turns - 1).sum())
        return _Further(turns, *(np.concatenate(columns)[:further] for columns in list(zip(*known, strict=True))[1:]))

    def _block(self, number: int) -> _Further:
        turns = draw(self.turns, self.stream("session_turns", number), BLOCK)
        count = int((turns - 1).sum())
        return _Further(
            turns,
            draw(self.user_len, self.stream("user_lengths", number), count),
            draw(self.output_len, self.stream("turn_lengths", number), count),
            thought(self.think, self.stream("think_times", number), count),
        )
