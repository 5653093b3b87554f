"""Prompts that begin alike at prefill ranks: what one has computed the next need not, while its KV cache is there.

The same account of prefixes as that of decode ranks (`prefixes`), with what is computed beside it: a prompt that begins
while another is still computing their prefix has room for it in common, but computes it again. The last token of a
prompt is always computed: the first token of the answer comes from it.
"""

from __future__ import annotations

from typing import NamedTuple

from afdsim.cluster.memory import KvCache
from afdsim.engine.prefixes import ASKED, HIT, beyond, blank, evict, here, let_go, spare_beside, touch, trim
from afdsim.engine.seats import NOBODY


class Alike(NamedTuple):
    """Which prompts begin alike."""

    tokens: int
    """Of a group."""
    groups: int
    block: int
    """Tokens of a block, of which only whole ones are shared."""


class Reuse:
    """Prefixes in the KV caches of all ranks of a pool."""

    def __init__(self, ranks: int, cache: KvCache, alike: Alike) -> None:
        self._prefixes, self._cache, self._alike = blank(ranks, alike.groups), cache, alike
        self._computed: dict[tuple[int, int], int] = {}
        """Tokens of a (rank, group) that are computed, of those that are there."""

    @property
    def tally(self) -> list[int]:
        """Tokens asked for, those that were there, prefixes evicted (`prefixes.ASKED` and so on)."""
        return [int(each) for each in self._prefixes.tally]

    def shared(self, group: int, tokens: int) -> int:
        """Tokens of a prompt that are in blocks of its group."""
        alike, block = min(self._alike.tokens, tokens), self._alike.block
        return alike // block * block if group != NOBODY else 0

    def bytes(self, tokens: int) -> float:
        """Bytes of so many tokens of a prefix."""
        return self._cache.reserved(tokens) - self._cache.reserved(0)

    def idle(self, rank: int) -> float:
        """Bytes of the prefixes of a rank that nobody shares now."""
        return self.bytes(int(self._prefixes.spare[rank]))

    def begin(self, rank: int, prompt: tuple[int, int], room: float, *, alone: bool) -> tuple[int, float] | None:
        """Let a prompt (group, tokens) begin at a rank with so many bytes of room; forget what stands in its way.

        Returns the tokens that it need not compute and the bytes by which the room shrinks; None where it does not fit.
        It does where it is `alone`, because prefixes that nobody shares can go.
        """
        known, (group, tokens) = self._prefixes, prompt
        shared = self.shared(group, tokens)
        wanted, spare, tail = self._cache.reserved(tokens), self.idle(rank), 0.0
        if shared:
            wanted -= self.bytes(min(shared, here(known, rank, group)))
            spare = self.bytes(spare_beside(known, rank, group))
            tail = self.bytes(beyond(known, rank, group, shared))
        if wanted > room + spare + tail and not alone:
            return None
        freed = self.bytes(trim(known, rank, group, shared)) if shared and wanted > room + spare else 0.0
        hit = min(self._touched(rank, group, shared), tokens - 1) if shared else 0
        while wanted > room + freed and (gone := evict(known, rank)):
            freed += self.bytes(gone)
        known.tally[ASKED] += shared
        known.tally[HIT] += hit
        return hit, wanted - freed

    def _touched(self, rank: int, group: int, shared: int) -> int:
        """Share a prefix; returns the tokens of it that are computed."""
        there = shared - touch(self._prefixes, rank, group, shared)
        known = min(self._computed.get((rank, group), 0), here(self._prefixes, rank, group))
        self._computed[rank, group] = known if there == shared else min(known, there)
        return min(self._computed[rank, group], there)

    def computed(self, rank: int, group: int, tokens: int) -> None:
        """A step has computed a prompt up to some token."""
        if shared := self.shared(group, tokens):
            self._computed[rank, group] = max(self._computed[rank, group], shared)

    def leave(self, rank: int, group: int, tokens: int) -> float:
        """A prompt's cache has left; returns the bytes that are free again, its prefix stays."""
        if not (shared := self.shared(group, tokens)):
            return self._cache.reserved(tokens)
        let_go(self._prefixes, rank, group)
        return self._cache.reserved(tokens) - self.bytes(shared)
