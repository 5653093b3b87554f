"""Machine code of the recurrence, kept on disk between runs under a key of its sources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from afdsim.cluster import network
from afdsim.engine import (
    books,
    chunks,
    normals,
    population,
    prefixes,
    recurrence,
    returns,
    samples,
    schedule,
    seats,
    sessions,
    tables,
    turnover,
    watch,
)

ROOMS = (
    *(normals, schedule, prefixes, sessions, seats, population, chunks, returns),
    *(turnover, watch, books, samples, network, tables, recurrence),
)
"""Whose sources the machine code depends on."""
CALLED = {
    normals: ("high", "scramble", "whole", "chance", "tail", "normal"),
    prefixes: ("here", "spare_beside", "beyond", "trim", "take_out", "touch", "let_go", "evict"),
    sessions: ("upcoming", "open_next", "push", "pop", "take_next", "successor", "lie_down", "pick_up", "forget"),
    seats: (
        "tokens_of", "steps_of", "pace_of", "growth", "gained", "kept", "need", "written", "takes", "shares", "worth",
        "make_room", "session_of", "bring", "resume", "lay_down", "grant", "give_back", "issue", "append", "crowd",
        "queue", "emptiest", "emptiest_of", "beside", "fewest", "call", "welcome", "put_back", "uncall",
        "arrive", "refill", "recompute", "copied", "begun", "stops",
    ),
    population: ("shed",),
    chunks: ("budget", "note", "compute", "bow_out"),
    returns: ("come_back", "go_on", "note_return", "fetch"),
    turnover: (
        "lacks_rows", "lacks_stays", "lacks_chunks",
        "full", "emit", "first_tokens", "grow", "link", "unlink", "schedule", "stand_up", "take_part", "answer",
        "promote", "leave", "sit_down", "join",
        "hand_out", "remove_leaving", "remove_filling", "remove_claim", "strike_out", "preempt", "fill", "claim",
        "turn_over",
    ),
    watch: ("coarsen", "note"),
    books: ("settle", "clear", "rest", "pause", "held_in", "work", "deliver", "wait", "book", "remember", "close"),
    samples: ("note", "move", "thin", "keep"),
    network: (
        "precedes", "sink", "settle_order", "rank", "send_together", "send", "drained", "receive_together", "receive",
        "stamp", "flow", "cross",
    ),
    tables: ("between", "on_grid", "core_seconds", "chunk_seconds", "measure", "head_seconds", "seconds"),
    recurrence: (
        "signed", "work", "sent_at", "note_senders", "note_binding", "holding", "take_in", "post_time", "line_up",
        "weigh", "cross_over", "exchange_pairs", "exchange_all", "approach", "turn_page", "begin_step", "open_step",
        "run_list", "lacks_room", "lacks_prices", "note_idle", "after_opening",
    ),
}  # fmt: skip
"""What the entry points call, callees first."""
HOT = frozenset(
    {
        *("work", "weigh", "exchange_pairs", "exchange_all", "seconds", "send", "receive", "precedes", "settle_order"),
        *("book", "held_in", "pause", "wait", "deliver", "sent_at", "note_senders", "note_binding", "holding"),
        *("take_in", "high", "whole", "normal"),
    }
)
"""What runs for every turn: put into its callers whole."""


def functions(room: ModuleType) -> list[FunctionType]:
    """Functions of a room that are compiled, callees first."""
    return [getattr(room, name) for name in CALLED[room]]


@cache
def compiled() -> tuple[Callable[..., Any], ...]:
    """`run_steps`, `populate` and `draw_normals` as machine code, for any thread; no reordering of arithmetic."""
    import numba
    from numba.extending import register_jitable

    # machine code only reads and writes what it is handed: without reference counts a call costs a tenth
    options: dict[str, Any] = {"_nrt": False}
    for room in CALLED:
        for function in functions(room):
            register_jitable(**options, forceinline=function.__name__ in HOT)(function)
    options |= {"cache": _keeps(), "error_model": "numpy", "nogil": True}  # no division here can meet a zero
    config: Any = numba.config
    elsewhere, config.CACHE_DIR = config.CACHE_DIR, str(_cache_folder())
    try:
        entries = (recurrence.run_steps, population.populate, normals.draw_normals)
        return tuple(numba.njit(**options)(entry) for entry in entries)
    finally:
        config.CACHE_DIR = elsewhere


def kept() -> bool:
    """Whether machine code of these sources is on disk already."""
    return any(_cache_folder().rglob("*.nbi"))


def _keeps() -> bool:
    """Whether machine code can be kept: not where home is read-only."""
    try:
        _cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(_cache_folder(), os.W_OK)


def _cache_folder() -> Path:
    """Numba looks at one file only to tell whether code is stale; the folder's name covers all of them."""
    digest = hashlib.sha256()
    for room in ROOMS:
        digest.update(Path(str(room.__file__)).read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "afdsim" / f"native-{digest.hexdigest()[:16]}"
