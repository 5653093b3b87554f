"""What prompts inside decode steps add to a run: times of requests, what a pass does for them, and how many steps do.

A *pass* is one step of one lane (a unit's micro-batch). One with prompts and nobody who decodes emits no token until a
prompt ends, and has no row among the boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np

from afdsim.cost.prompts import Chunk, summed
from afdsim.engine.cell import Array, Cell, Extra
from afdsim.engine.record import Boundaries, Chunks, Record
from afdsim.scenario.document import Scenario
from afdsim.units import show_count

DEFINITIONS: Final = {
    "ttft": "first token - arrival; the first token comes with the end of its prompt",
    "prefill_queue": "first step of its prompt - arrival",
    "queue": "first step of its prompt - arrival",
}
"""What more, and what else, the definitions say where steps compute prompts."""
SUMMED: Final = frozenset({"prompt_tokens", "tokens_recomputed"})
"""Figures that are added up over several seeds."""
PLACE: Final = 1 << 40
"""Of a lane: more than any step."""


def times(record: Record) -> dict[str, Array]:
    """Return when the prompt of every request began and ended; NaN where that did not happen, or not here."""
    chunks, table = record.chunks, record.requests
    if chunks is None:
        return {}
    start = np.full(len(table), np.nan)
    start[chunks.request[::-1]] = chunks.time[::-1]  # the first of several is written last
    return {"prefill_start_s": start, "prefill_end_s": np.where(np.isnan(start), np.nan, table.first_token)}


class Sitting(NamedTuple):
    """When the tokens of a request were out, without a gap but of steps: at these boundaries of its seat's lane."""

    request: Array
    seat: Array
    first: Array
    last: Array


def sittings(own: Sitting, chunks: Chunks) -> Sitting:
    """Return the visits of requests with the token that a prompt gives before them, or alone.

    `own`: those of decode, whose first token is that of their first step.
    """
    key = chunks.request * PLACE + chunks.step + 1
    alone = chunks.ends & ~np.isin(key, own.request * PLACE + own.first - 1)
    before = np.isin(own.request * PLACE + own.first - 1, key[chunks.ends])
    more = Sitting(*(each[alone] for each in (chunks.request, chunks.seat, chunks.step + 1, chunks.step + 1)))
    own = own._replace(first=own.first - before)
    return Sitting(*(np.concatenate(pair) for pair in zip(own, more, strict=True)))


# passes -------------------------------------------------------------------------------------------------------------


def lane(cell: Cell, seat: Array) -> Array:
    """Return the lane of every seat."""
    m = cell.micro_batches
    found: Array = seat // m // cell.ranks * m + seat % m
    return found


def passes(record: Record, cell: Cell) -> Boundaries:
    """Return a row for every pass, at the boundary that ends it, with the tokens of those that decode.

    One without a token has the time when the next one of its lane began; the last of a run when it began itself.
    """
    rows, chunks, m = record.boundaries, record.chunks, cell.micro_batches
    if chunks is None:
        return rows
    at = (rows.unit * m + rows.micro_batch) * PLACE + rows.step
    key, place = np.unique(lane(cell, chunks.seat) * PLACE + chunks.step + 1, return_index=True)
    silent = ~np.isin(key, at)
    own = lane(cell, chunks.seat[place[silent]])
    following = np.minimum(np.searchsorted(key, key[silent] + 1), len(key) - 1)
    after = place[np.where(key[following] == key[silent] + 1, following, np.flatnonzero(silent))]
    answers = _counted(lane(cell, chunks.seat) * PLACE + chunks.step + 1, chunks.ends, at)
    more = {
        "step": chunks.step[place[silent]] + 1,
        "micro_batch": own % m,
        "unit": own // m,
        "time": chunks.time[after],
        "batch": np.zeros(int(silent.sum()), dtype=np.int64),
    }
    found = {name: np.concatenate([getattr(rows, name), column]) for name, column in more.items()}
    found["batch"][: len(at)] -= answers
    return replace(rows, **found, gaps=np.concatenate([rows.gaps, more["batch"]]))


def _counted(keys: Array, weights: Array, at: Array) -> Array:
    """Return the sum of the weights of every key in `at`."""
    known, place = np.unique(keys, return_inverse=True)
    sums = np.bincount(place, weights, minlength=len(known)).astype(np.int64)
    found = np.minimum(np.searchsorted(known, at), max(len(known) - 1, 0))
    return np.where(known[found] == at, sums[found], 0) if len(known) else np.zeros(len(at), dtype=np.int64)


def extra(record: Record, cell: Cell) -> Extra | None:
    """Return what a pass of the window did for prompts on a rank, on average; None where none does."""
    chunks = record.chunks
    if chunks is None:
        return None
    rows, (start, end) = passes(record, cell), record.window
    inside = (rows.time > start) & (rows.time <= end)
    key = (rows.unit * cell.micro_batches + rows.micro_batch) * PLACE + rows.step
    mine = np.isin(lane(cell, chunks.seat) * PLACE + chunks.step + 1, key[inside])
    whole = max(int(inside.sum()), 1) * cell.ranks
    own = [Chunk(*each) for each in zip(chunks.tokens[mine].tolist(), chunks.before[mine].tolist(), strict=True)]
    sums = np.array([summed(own, window) for window in cell.prompts.windows]) / whole
    return Extra(float(chunks.tokens[mine].sum()) / whole, float(chunks.ends[mine].sum()) / whole, sums)


def computed(record: Record, cell: Cell) -> Array | float:
    """Return the tokens of prompts that every rank has computed in the completed steps (rank,)."""
    chunks = record.chunks
    if chunks is None:
        return 0.0
    done = np.isin(chunks.step, record.steps_run)
    rank = chunks.seat[done] // cell.micro_batches
    return np.bincount(rank, chunks.tokens[done], minlength=cell.deployment.attention.ranks)


# what is told -------------------------------------------------------------------------------------------------------


def told(scenario: Scenario, record: Record) -> dict[str, Any] | None:
    """Return how steps computed prompts in the window, as a tree of numbers; None where they compute none.

    Steps are those in which anything was computed: shares are of them, and of their time.
    """
    chunks, asked = record.chunks, scenario.mixed
    if chunks is None or asked is None:
        return None
    number, length, began = _steps(record, chunks)
    inside = (began >= record.window[0]) & (began <= record.window[1])
    prompts = np.isin(number, chunks.step)
    own = (chunks.time >= record.window[0]) & (chunks.time <= record.window[1])
    tokens, count = int(chunks.tokens[own].sum()), int((inside & prompts).sum())
    return {
        "mode": asked.mode,
        "chunk": asked.chunk,
        "prompt_tokens": tokens,
        "tokens_recomputed": _again(record, chunks),
        "tokens_per_step": tokens / count if count else None,
        "share_of_steps": count / int(inside.sum()) if inside.any() else None,
        "share_of_time": _ratio(float(length[inside & prompts].sum()), float(length[inside].sum())),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _again(record: Record, chunks: Chunks) -> int:
    """Tokens that were computed beyond those of every prompt, over the whole run: of requests that were preempted."""
    sums = np.bincount(chunks.request, chunks.tokens, minlength=len(record.requests))
    return int(np.maximum(sums - record.requests.input_len, 0).sum())


def _steps(record: Record, chunks: Chunks) -> tuple[Array, Array, Array]:
    """Return the steps in which anything was computed: number, seconds, when each began.

    A step begins with its last boundary, and ends with that of the next one.
    """
    rows = record.boundaries
    known = np.concatenate([rows.step, chunks.step])
    number, place = np.unique(known, return_inverse=True)
    began = np.zeros(len(number))
    np.maximum.at(began, place, np.concatenate([rows.time, chunks.time]))
    worked = np.isin(number, np.concatenate([rows.step - 1, chunks.step]))
    next_one = np.isin(number + 1, number)
    length = np.where(worked & next_one, np.append(np.diff(began), 0.0), 0.0)
    kept = worked & next_one
    return number[kept], length[kept], began[kept]


def added(each: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the same of several cells: tokens added, shares averaged."""
    known = [found for found in each if found is not None]
    if not known:
        return None
    found = dict(known[0])
    for name in SUMMED:
        found[name] = sum(one[name] for one in known)
    for name in ("tokens_per_step", "share_of_steps", "share_of_time"):
        values = [one[name] for one in known if one[name] is not None]
        found[name] = sum(values) / len(values) if values else None
    return found


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Say how much of the steps went to prompts."""
    if found.get("share_of_steps") is None:
        return []
    parts = [f"in {found['share_of_steps']:.1%} of the steps"]
    if found.get("share_of_time") is not None:
        parts[0] += f", {found['share_of_time']:.1%} of their time"
    if found.get("tokens_per_step") is not None:
        parts.append(f"{show_count(round(found['tokens_per_step']))} tokens of all ranks in each of these")
    if found["tokens_recomputed"]:
        parts.append(f"{found['tokens_recomputed']:,.0f} tokens computed again")
    return parts
