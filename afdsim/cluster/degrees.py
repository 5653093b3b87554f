"""Degrees of parallelism that a model allows: what must divide, and the nearest degrees that do.

The rules are those of vLLM: a GPU of a tensor-parallel group has whole query heads and whole KV heads, which are
replicated where there are more GPUs than heads, and whole slices of every matrix; a group of GPUs has whole experts.
The latent cache of MLA and the shared heads of MFA are replicated. The vocabulary is padded, so it may be cut at will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from afdsim.catalog.llm import Attention, Dense, Gqa, Linear, Llm, Mamba, Mfa, Mla, Moe
from afdsim.errors import CatalogError


def in_words(things: Iterable[str]) -> str:
    """Return ``28 query heads and 4 KV heads``."""
    *most, last = dict.fromkeys(things)
    return f"{', '.join(most)} and {last}" if most else last


def attention_uneven(llm: Llm, tp: int) -> tuple[str, ...]:
    """Return what of attention does not divide over `tp` GPUs: ``("28 query heads", "4 KV heads")``."""
    found = [f"a hidden size of {llm.hidden:,}"] if llm.hidden % tp else []
    found += [text for layer in llm.layers for mixer in layer.mixers for text in _of_mixer(mixer, tp)]
    return tuple(dict.fromkeys(found))


def _of_mixer(mixer: Attention, tp: int) -> Iterator[str]:
    match mixer:
        case Gqa(heads=heads, kv_heads=kv):
            yield from _whole(heads, "query heads", tp)
            yield from _whole(kv, "KV heads", tp, replicated=True)
        case Mla(heads=heads) | Mfa(heads=heads):
            yield from _whole(heads, "query heads", tp)
        case Linear(heads=heads, groups=groups):
            yield from _whole(heads, "heads of linear attention", tp)
            yield from _whole(groups or heads, "key heads of linear attention", tp, replicated=True)
        case Mamba(inner=inner):
            yield from _whole(inner, "Mamba channels", tp)


def _whole(count: int, what: str, parts: int, *, replicated: bool = False) -> Iterator[str]:
    if count % parts and not (replicated and parts % count == 0):
        yield f"{count:,} {what}"


def dense_uneven(llm: Llm, tp: int) -> tuple[str, ...]:
    """Return the widths of dense layers and of shared experts that do not divide over `tp` GPUs."""
    widths = []
    for ffn in (layer.ffn for layer in llm.layers):
        match ffn:
            case Dense(inner=inner):
                widths.append((inner, "a dense FFN of width"))
            case Moe(shared=shared, shared_inner=inner) if shared:
                widths.append((shared * inner, "a shared expert of width"))
    return tuple(dict.fromkeys(f"{what} {width:,}" for width, what in widths if width % tp))


def width_uneven(llm: Llm, tp: int) -> tuple[str, ...]:
    """Return the widths of routed experts that do not divide over `tp` GPUs."""
    widths = dict.fromkeys(layer.ffn.inner for layer in llm.layers if isinstance(layer.ffn, Moe))
    return tuple(f"experts of width {width:,}" for width in widths if width % tp)


def experts_uneven(llm: Llm, groups: int, copies: int = 0) -> tuple[str, ...]:
    """Return the numbers of experts that, with `copies` of some, do not divide over `groups` of GPUs."""
    counts = dict.fromkeys(layer.ffn.experts for layer in llm.layers if isinstance(layer.ffn, Moe))
    return tuple(f"{count:,} experts" for count in counts if (count + copies) % groups)


def nearest(degree: int, candidates: Iterable[int], allowed: Callable[[int], bool]) -> tuple[int, ...]:
    """Return the next smaller and the next larger of `candidates` that are allowed, as far as there are such.

    >>> nearest(8, range(1, 30), lambda n: 28 % n == 0)
    (7, 14)
    """
    known = sorted(set(candidates))
    below = next((n for n in reversed(known) if n < degree and allowed(n)), None)
    above = next((n for n in known if n > degree and allowed(n)), None)
    return tuple(n for n in (below, above) if n is not None)


def demand(llm: Llm, *, tp: int, ep: int) -> None:
    """Raise `CatalogError` where a bare model cannot be cut over `tp` GPUs and `ep` groups of them."""
    rules = (("tp", tp, partial(_tp_wrong, llm, ep=ep)), ("ep", ep, partial(_ep_wrong, llm, tp=tp)))
    for option, degree, wrong in rules:
        if found := wrong(degree):
            near = nearest(degree, range(1, 2 * degree + 1), lambda n, wrong=wrong: not wrong(n))  # type: ignore[misc]
            fix = f"nearest for --{option}: {' or '.join(map(str, near))}" if near else "take other degrees"
            raise CatalogError(f"--{option} {degree}: {in_words(found)} of {llm.name} do not divide; {fix}")


def _tp_wrong(llm: Llm, tp: int, *, ep: int) -> tuple[str, ...]:
    return (*attention_uneven(llm, tp), *dense_uneven(llm, tp), *_group_wrong(tp, ep))


def _ep_wrong(llm: Llm, ep: int, *, tp: int) -> tuple[str, ...]:
    groups = _group_wrong(tp, ep)
    return (*experts_uneven(llm, ep), *(groups or width_uneven(llm, max(tp, ep) // ep)))


def _group_wrong(tp: int, ep: int) -> tuple[str, ...]:
    return (f"tp {tp} and ep {ep}",) if max(tp, ep) % min(tp, ep) else ()
