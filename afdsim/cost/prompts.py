"""Operators of prompts: kernels over chunks of unlike lengths, which scale with sums over the chunks.

Everything but core attention sees tokens, as in decode. A chunk of n tokens behind c others scores n * (c + n/2) pairs,
fewer where a query sees a window only, and reads the cache of c + n tokens once. Latent attention (MLA) computes
prompts with keys and values written out, as engines do: those of the chunk cost what its absorbed products cost in
decode, those of the c tokens before it are made again. Where each query chooses its tokens (sparse attention) it stays
absorbed, and each reads its own. A recurrent layer reads and writes its state once a chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from afdsim.catalog.llm import Core, Gqa, Linear, Llm, Mamba, Mla, Precision, share
from afdsim.cost.operators import Operator, core_operator, gemm


class Chunk(NamedTuple):
    """A part of a prompt that one step computes."""

    tokens: int
    before: int
    """Tokens of the prompt that were computed earlier."""


class Sums(NamedTuple):
    """What a kernel's work is proportional to, summed over chunks; or the work for one of each."""

    pairs: float = 0.0
    """Query tokens times the tokens that they see."""
    seen: float = 0.0
    """Tokens whose cache is read."""
    before: float = 0.0
    """Tokens before a chunk, seen or not."""
    tokens: float = 0.0
    chunks: float = 0.0

    def times(self, other: Sums) -> float:
        """Return the work of so many of each."""
        return sum(each * number for each, number in zip(self, other, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ragged:
    """A kernel that works on all chunks of a step in one launch."""

    operator: Operator
    """The kernel, without work."""
    window: int | None
    """Tokens that a query sees; None means all of them."""
    flops: Sums
    bytes: Sums

    def of(self, sums: Sums) -> Operator:
        """Return the kernel with the work of a step."""
        return replace(self.operator, flops=self.flops.times(sums), bytes=self.bytes.times(sums))


def summed(chunks: Iterable[Chunk], window: int | None) -> Sums:
    """Return the sums over chunks, where a query sees a window of so many tokens.

    >>> summed([Chunk(4, 0), Chunk(2, 4)], None)
    Sums(pairs=18.0, seen=10.0, before=4.0, tokens=6.0, chunks=2.0)
    """
    pairs = seen = before = tokens = count = 0.0
    for n, c in chunks:
        grows = float(n) if window is None else float(min(max(window - c, 0), n))
        pairs += grows * (c + grows / 2.0) + ((n - grows) * window if window is not None else 0.0)
        seen += n + (c if window is None else min(c, window))
        before, tokens, count = before + c, tokens + n, count + 1.0
    return Sums(pairs, seen, before, tokens, count)


def ragged(llm: Llm, precision: Precision, tp: int) -> list[tuple[Ragged, int]]:
    """Return the kernels that see chunks, on one of `tp` GPUs, with the layers that run each."""
    counts = Counter(core for layer in llm.layers for core in layer.cores)
    return [(kernel, layers) for core, layers in counts.items() for kernel in kernels(core, precision, tp)]


def kernels(core: Core, precision: Precision, tp: int) -> Iterator[Ragged]:
    """Yield the kernels that see the chunks of a core, on one of `tp` GPUs."""
    match core:
        case Linear() | Mamba():
            at = _bare(core, precision, tp, 1.0, 0.0)
            yield Ragged(
                operator=_idle(at),
                window=None,
                flops=Sums(tokens=float(at.flops)),
                bytes=Sums(chunks=float(at.bytes)),
            )
        case Mla(index=None):
            yield from _written_out(core, precision, tp)
        case _:
            yield _attention(core, precision, tp)


def _written_out(core: Mla, precision: Precision, tp: int) -> Iterator[Ragged]:
    """Yield latent attention with the keys and values of every head, and what makes those of earlier tokens."""
    heads, wide = share(core.heads, tp), core.nope_dim + core.v_dim
    as_heads = Gqa(
        heads=heads, kv_heads=heads, head_dim=core.nope_dim + core.rope_dim, v_dim=core.v_dim, kv_dtype="bf16"
    )
    yield _attention(as_heads, precision, 1)
    none, one = (gemm("kv up", rows, (core.kv_rank, heads * wide), "bf16") for rows in (0.0, 1.0))
    yield Ragged(
        operator=_idle(one),
        window=None,
        flops=Sums(before=float(one.flops)),
        bytes=Sums(before=float(one.bytes - none.bytes)),
    )


def _attention(core: Core, precision: Precision, tp: int) -> Ragged:
    query, key = _bare(core, precision, tp, 1.0, 0.0), _bare(core, precision, tp, 0.0, 1.0)
    read = "pairs" if isinstance(core, Mla) else "seen"
    return Ragged(
        operator=_idle(key),
        window=core.window,
        flops=Sums(pairs=float(key.flops)),
        bytes=Sums(tokens=float(query.bytes))._replace(**{read: float(key.bytes)}),
    )


def _bare(core: Core, precision: Precision, tp: int, tokens: float, context: float) -> Operator:
    return core_operator(core, tokens, context, precision=precision, tp=tp)


def _idle(operator: Operator) -> Operator:
    """Return a kernel without work; of so many rows that no tile is left half empty."""
    return replace(operator, flops=0.0, bytes=0.0, rows=None)
