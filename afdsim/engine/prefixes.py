"""Shared beginnings of prompts that lie in the KV cache of a rank, and which of them go first when room is needed.

A prefix is known by its number. It is held while sequences share it; after that it stays until its rank needs the room,
and the one that was let go longest ago makes it (least recently used first, vLLM's order). Tokens are whole blocks.
Who has a cache of its own, a prefill pool say, asks the same functions with rows of its own in place of ranks.

Plain functions over flat arrays, O(1) each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Values = Any
"""An array."""
NONE = -1

TOKENS, HOLDERS, EARLIER, LATER = range(4)
"""Of a prefix on a rank: tokens that are here, 0 for none; sequences that share them; of those that nobody holds, which
was let go before and after it."""
FIRST, LAST = range(2)
"""Of a rank: of those that nobody holds, which was let go first and last."""
ASKED, HIT, EVICTED = range(3)
"""Places in `tally`: tokens of prefixes that those who joined had asked for; of these, those that were here; prefixes
that went. Whoever asks counts the first two."""


class Prefixes(NamedTuple):
    """What is where; changes while a run goes on."""

    entries: Values  # rank, prefix, column
    idle: Values  # rank, column
    spare: Values  # rank: tokens of those that nobody holds
    tally: Values


def blank(ranks: int, count: int) -> Prefixes:
    """Nothing is anywhere."""
    entries = np.zeros((ranks, count, 4), dtype=np.int64)
    entries[:, :, EARLIER:] = NONE
    idle = np.full((ranks, 2), NONE, dtype=np.int64)
    return Prefixes(entries, idle, np.zeros(ranks, dtype=np.int64), np.zeros(3, dtype=np.int64))


def widened(prefixes: Prefixes, count: int) -> Prefixes:
    """Return the same with room for so many prefixes."""
    known = prefixes.entries
    more = blank(len(known), max(count - known.shape[1], 0)).entries
    return prefixes._replace(entries=np.concatenate([known, more], axis=1))


def here(prefixes: Prefixes, rank: int, prefix: int) -> int:
    """How many tokens of a prefix are here."""
    tokens: int = prefixes.entries[rank, prefix, TOKENS]
    return tokens


def spare_beside(prefixes: Prefixes, rank: int, prefix: int) -> int:
    """How many tokens the others hold that nobody shares: what `evict` can free."""
    free: int = prefixes.spare[rank]
    if prefixes.entries[rank, prefix, HOLDERS] == 0:
        free -= prefixes.entries[rank, prefix, TOKENS]
    return free


def touch(prefixes: Prefixes, rank: int, prefix: int, tokens: int) -> int:
    """One more sequence shares so many tokens of a prefix; returns how many of these were not here, and are now."""
    entry = prefixes.entries[rank, prefix]
    if entry[HOLDERS] == 0 and entry[TOKENS] > 0:
        take_out(prefixes, rank, prefix)
    entry[HOLDERS] += 1
    hit = min(tokens, entry[TOKENS])
    entry[TOKENS] = max(tokens, entry[TOKENS])
    return int(tokens - hit)


def let_go(prefixes: Prefixes, rank: int, prefix: int) -> None:
    """One sequence less shares a prefix; nobody's stays, as the last to go."""
    entry = prefixes.entries[rank, prefix]
    entry[HOLDERS] -= 1
    if entry[HOLDERS] > 0 or entry[TOKENS] == 0:
        return
    prefixes.spare[rank] += entry[TOKENS]
    last = prefixes.idle[rank, LAST]
    entry[EARLIER], entry[LATER] = last, NONE
    if last == NONE:
        prefixes.idle[rank, FIRST] = prefix
    else:
        prefixes.entries[rank, last, LATER] = prefix
    prefixes.idle[rank, LAST] = prefix


def evict(prefixes: Prefixes, rank: int) -> int:
    """Forget the prefix that was let go longest ago; returns its tokens, 0 where everything is held."""
    prefix = prefixes.idle[rank, FIRST]
    if prefix == NONE:
        return 0
    take_out(prefixes, rank, prefix)
    tokens: int = prefixes.entries[rank, prefix, TOKENS]
    prefixes.entries[rank, prefix, TOKENS] = 0
    prefixes.tally[EVICTED] += 1
    return tokens


def beyond(prefixes: Prefixes, rank: int, prefix: int, tokens: int) -> int:
    """How many tokens a prefix that nobody shares has here beyond so many: what `trim` can free."""
    entry = prefixes.entries[rank, prefix]
    if entry[HOLDERS] > 0:
        return 0
    return int(max(entry[TOKENS] - tokens, 0))


def trim(prefixes: Prefixes, rank: int, prefix: int, tokens: int) -> int:
    """Forget what a prefix that nobody shares has beyond so many tokens; returns how many these were."""
    more = beyond(prefixes, rank, prefix, tokens)
    prefixes.entries[rank, prefix, TOKENS] -= more
    prefixes.spare[rank] -= more
    return more


def take_out(prefixes: Prefixes, rank: int, prefix: int) -> None:
    """Take a prefix out of those that nobody holds."""
    entries, idle = prefixes.entries, prefixes.idle
    earlier, later = entries[rank, prefix, EARLIER], entries[rank, prefix, LATER]
    if earlier == NONE:
        idle[rank, FIRST] = later
    else:
        entries[rank, earlier, LATER] = later
    if later == NONE:
        idle[rank, LAST] = earlier
    else:
        entries[rank, later, EARLIER] = earlier
    prefixes.spare[rank] -= entries[rank, prefix, TOKENS]
