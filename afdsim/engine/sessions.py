"""Turns of sessions: who comes next, when, with what; and where the KV cache of a conversation lies between two turns.

A session is known by its number, and so is a turn; the turns of a session lie side by side. What a turn asks for is
planned before it comes; when it comes is known when the turn before has finished. Turns that are known to come wait in
a heap by (time, number), which first turns of an open loop join by order of arrival. Between two turns the KV cache of
a conversation may stay on its rank until that needs the room: whole conversations go, the one that has lain there
longest first.

Plain functions over flat arrays, O(1) each, O(log n) where the heap is concerned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from afdsim.workload.sessions import Plan

Values = Any
"""An array."""
NONE = -1
NEVER = float("inf")

ALONE, KEEP, OFFLOAD, DROP = range(4)
"""What becomes of the KV cache between two turns; ALONE: there are no sessions."""
SESSION, PROMPT, ANSWER, STEPS = range(4)
"""Of a turn: its session; tokens of its prompt and of its answer; decode steps with drafts (0 without)."""
RANK, SPOKEN, EARLIER, LATER = range(4)
"""Of a session: rank on which its KV cache lies and nobody reads it; tokens of the conversation so far, 0 before its
first turn here has ended; who came to lie there before and after it."""
BYTES, THERE_AT = range(2)
"""Of a session: what it has on that rank; when its copy in host memory is complete."""
FIRST, LAST = range(2)
"""Of a rank: of those whose KV cache lies there, who has lain there longest and who came last."""
OPENED, COMING, ENDED, BACK, FOUND, TOKENS_FOUND, FETCHED, AFRESH, EVICTED = range(9)
"""Places in `tally`: sessions that were opened; turns in the heap; sessions that have ended; further turns that joined;
of these, those whose conversation was still on their rank; its tokens; tokens that came back from host memory, and
that had to be computed again; conversations that made room for others."""


class Sessions(NamedTuple):
    """What is planned, and what is where; changes while a run goes on."""

    plan: Values  # turn, column
    think: Values  # turn: seconds after the end of the one before
    starts: Values  # session: turn with which it opens
    ends: Values  # session: number behind its last turn
    opens: Values  # session: when it comes; empty where a closed loop decides that
    homes: Values  # session, column
    held: Values  # session, column
    idle: Values  # rank, column
    spare: Values  # rank: bytes of conversations that nobody reads
    times: Values  # place in the heap
    turns: Values  # place in the heap
    tally: Values


def blank(ranks: int) -> Sessions:
    """Return no session."""
    whole, real = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Sessions(
        plan=np.zeros((0, 4), dtype=np.int64),
        think=real,
        starts=whole,
        ends=whole,
        opens=real,
        homes=np.zeros((0, 4), dtype=np.int64),
        held=np.zeros((0, 2)),
        idle=np.full((ranks, 2), NONE, dtype=np.int64),
        spare=np.zeros(ranks),
        times=real,
        turns=whole,
        tally=np.zeros(9, dtype=np.int64),
    )


def extended(sessions: Sessions, plan: Plan, steps: Values, starts: Values, opens: Values) -> Sessions:
    """Return the same with room for the sessions of a longer plan."""
    known, count = len(sessions.starts), len(starts)
    more = count - known
    homes = np.full((more, 4), NONE, dtype=np.int64)
    homes[:, SPOKEN] = 0
    return sessions._replace(
        plan=np.stack([plan.session, plan.input_len, plan.output_len, steps], axis=1),
        think=plan.think.copy(),
        starts=starts,
        ends=plan.first[1:].copy(),
        opens=opens,
        homes=np.concatenate([sessions.homes, homes]),
        held=np.concatenate([sessions.held, np.zeros((more, 2))]),
        times=np.concatenate([sessions.times, np.zeros(more)]),
        turns=np.concatenate([sessions.turns, np.zeros(more, dtype=np.int64)]),
    )


# who comes next ------------------------------------------------------------------------------------------------------


def upcoming(sessions: Sessions) -> float:
    """When the next turn comes that is known to."""
    opened, time = sessions.tally[OPENED], NEVER
    if opened < len(sessions.opens):
        time = sessions.opens[opened]
    if sessions.tally[COMING] > 0:
        time = min(time, sessions.times[0])
    return time


def take_next(sessions: Sessions) -> int:
    """Take out the turn that comes next; of two at one time the lower number."""
    opened = sessions.tally[OPENED]
    if opened < len(sessions.opens):
        time, turn = sessions.opens[opened], sessions.starts[opened]
        if sessions.tally[COMING] == 0 or (time, turn) < (sessions.times[0], sessions.turns[0]):
            return open_next(sessions)
    return pop(sessions)


def open_next(sessions: Sessions) -> int:
    """Open the next session; returns its first turn."""
    turn: int = sessions.starts[sessions.tally[OPENED]]
    sessions.tally[OPENED] += 1
    return turn


def successor(sessions: Sessions, turn: int) -> int:
    """Return the turn after another one of the same session; NONE after the last."""
    more: bool = turn + 1 < sessions.ends[sessions.plan[turn, SESSION]]
    return turn + 1 if more else NONE


def push(sessions: Sessions, time: float, turn: int) -> None:
    """Let a turn come at a time."""
    times, turns, place = sessions.times, sessions.turns, sessions.tally[COMING]
    sessions.tally[COMING] += 1
    while place > 0:
        above = (place - 1) // 2
        if (times[above], turns[above]) <= (time, turn):
            break
        times[place], turns[place] = times[above], turns[above]
        place = above
    times[place], turns[place] = time, turn


def pop(sessions: Sessions) -> int:
    """Take the first turn out of the heap."""
    times, turns = sessions.times, sessions.turns
    sessions.tally[COMING] -= 1
    first: int = turns[0]
    count, place = sessions.tally[COMING], 0
    time, turn = times[count], turns[count]
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and (times[below + 1], turns[below + 1]) < (times[below], turns[below]):
            below += 1
        if (time, turn) <= (times[below], turns[below]):
            break
        times[place], turns[place] = times[below], turns[below]
        place = below
    times[place], turns[place] = time, turn
    return first


# where KV cache lies -------------------------------------------------------------------------------------------------


def lie_down(sessions: Sessions, session: int, rank: int, nbytes: float) -> None:
    """Let the KV cache of a conversation lie on a rank, as the last to go."""
    home, idle = sessions.homes[session], sessions.idle
    home[RANK], home[EARLIER], home[LATER] = rank, idle[rank, LAST], NONE
    sessions.held[session, BYTES] = nbytes
    sessions.spare[rank] += nbytes
    if idle[rank, LAST] == NONE:
        idle[rank, FIRST] = session
    else:
        sessions.homes[idle[rank, LAST], LATER] = session
    idle[rank, LAST] = session


def pick_up(sessions: Sessions, session: int) -> float:
    """Take a conversation out of those that lie on its rank; returns its bytes."""
    home, homes, idle, nbytes = sessions.homes[session], sessions.homes, sessions.idle, sessions.held[session, BYTES]
    rank, earlier, later = home[RANK], home[EARLIER], home[LATER]
    if earlier == NONE:
        idle[rank, FIRST] = later
    else:
        homes[earlier, LATER] = later
    if later == NONE:
        idle[rank, LAST] = earlier
    else:
        homes[later, EARLIER] = earlier
    sessions.spare[rank] -= nbytes
    home[RANK] = NONE
    return float(nbytes)


def forget(sessions: Sessions, rank: int) -> float:
    """Forget the conversation that has lain on a rank longest; returns its bytes, 0 where there is none."""
    session = sessions.idle[rank, FIRST]
    if session == NONE:
        return 0.0
    sessions.tally[EVICTED] += 1
    return pick_up(sessions, session)
