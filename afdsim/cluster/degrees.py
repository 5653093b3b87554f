"""Degrees of parallelism that a model allows: what must divide, and the nearest degrees that do.

The rules are those of vLLM: a GPU of a tensor-parallel group has whole query heads and whole KV heads, which are
replicated where there are more GPUs than heads, and whole slices of every matrix; a group of GPUs has whole experts.
The latent cache of MLA and the shared heads of MFA are replicated. The vocabulary is padded, so it may be cut at will.
Tensor parallelism stays inside one scale-up (NVLink) domain where it is all that joins the GPUs; the GPUs of an AFD or
colocated instance share a server, and `crossings` says what its collectives are priced as without NVLink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import product

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Attention, Dense, Gqa, Linear, Llm, Mamba, Mfa, Mla, Moe
from afdsim.cluster.deployment import Afd, Served
from afdsim.errors import CatalogError

_TRIES = 500
"""Combinations of degrees that are tried, the nearest first, so that a refusal comes at once."""

_NEAR = 80
"""Values of each degree that are combined, for the same reason."""


def in_words(things: Iterable[str]) -> str:
    """Return ``28 query heads and 4 KV heads``."""
    *most, last = dict.fromkeys(things)
    return f"{', '.join(most)} and {last}" if most else last


def undivided(things: Sequence[str]) -> str:
    """Return ``28 query heads do not divide``, or of a single thing that it does not."""
    alone = len(things) == 1 and things[0].startswith("a ")
    return f"{in_words(things)} {'does' if alone else 'do'} not divide"


def attention_uneven(llm: Llm, tp: int) -> tuple[str, ...]:
    """Return what of attention does not divide over `tp` GPUs: ``("28 query heads", "4 KV heads")``."""
    found = [f"a hidden size of {llm.hidden:,}"] if llm.hidden % tp else []
    found += [text for layer in llm.layers for mixer in layer.mixers for text in _of_mixer(mixer, tp)]
    return tuple(dict.fromkeys(found))


def _of_mixer(mixer: Attention, tp: int) -> Iterator[str]:
    yield from _output(mixer, tp)
    match mixer:
        case Gqa(kv_heads=kv):
            yield from _whole(kv, "KV heads", tp, replicated=True)
        case Linear(heads=heads, groups=groups):
            yield from _whole(groups or heads, "key heads of linear attention", tp, replicated=True)


def _output(mixer: Attention, parts: int) -> Iterator[str]:
    match mixer:
        case Gqa(heads=heads) | Mla(heads=heads) | Mfa(heads=heads):
            yield from _whole(heads, "query heads", parts)
        case Linear(heads=heads):
            yield from _whole(heads, "heads of linear attention", parts)
        case Mamba(inner=inner):
            yield from _whole(inner, "Mamba channels", parts)


def output_uneven(llm: Llm, parts: int) -> tuple[str, ...]:
    """Return what the input of output projections consists of and does not divide over `parts` GPUs."""
    return tuple(
        dict.fromkeys(text for layer in llm.layers for mixer in layer.mixers for text in _output(mixer, parts))
    )


def _whole(count: int, what: str, parts: int, *, replicated: bool = False) -> Iterator[str]:
    if count % parts and not (replicated and parts % count == 0):
        yield f"{count:,} {what}"


def dense_uneven(llm: Llm, tp: int) -> tuple[str, ...]:
    """Return the widths of dense layers that do not divide over `tp` GPUs."""
    widths = dict.fromkeys(layer.ffn.inner for layer in llm.layers if isinstance(layer.ffn, Dense))
    return tuple(f"a dense FFN of width {width:,}" for width in widths if width % tp)


def shared_uneven(llm: Llm, tp: int) -> tuple[str, ...]:
    """Return the widths of shared experts that do not divide over `tp` GPUs."""
    found = (layer.ffn for layer in llm.layers if isinstance(layer.ffn, Moe))
    widths = dict.fromkeys(ffn.shared * ffn.shared_inner for ffn in found)
    return tuple(f"a shared expert of width {width:,}" for width in widths if width % tp)


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


def beyond_domain(gpu: Gpu, tp: int) -> str | None:
    """Return what is wrong with tensor parallelism over more GPUs than NVLink joins; None where it joins them.

    >>> from afdsim.catalog.entries import gpu
    >>> beyond_domain(gpu("H100"), 16)
    'must be <= 8, the NVLink domain of H100 (got 16)'
    """
    if tp <= gpu.scale_up:
        return None
    none = "" if gpu.nvlink else ", which has no NVLink"
    return f"must be <= {gpu.scale_up}, the NVLink domain of {gpu.name}{none} (got {tp})"


def together(
    now: Sequence[int], candidates: Sequence[Iterable[int]], allowed: Callable[[tuple[int, ...]], bool]
) -> tuple[int, ...] | None:
    """Return as many other degrees, nearest to those `now` in sum, that are allowed together; None if none are found.

    >>> together((6, 3), (range(1, 9), range(1, 9)), lambda values: 8 % values[0] == values[0] % values[1] == 0)
    (4, 2)
    """
    pairs = zip(now, candidates, strict=True)
    others = [sorted({*some} - {n}, key=lambda other, n=n: abs(other - n))[:_NEAR] for n, some in pairs]  # type: ignore[misc]
    near = nsmallest(
        _TRIES, product(*others), key=lambda values: sum(abs(a - b) for a, b in zip(values, now, strict=True))
    )
    return next(filter(allowed, near), None)


def demand(llm: Llm, gpu: Gpu, *, tp: int, ep: int) -> None:
    """Raise `CatalogError` where a bare model cannot be cut over `tp` GPUs of a kind and `ep` groups of them."""
    if text := beyond_domain(gpu, tp):
        raise CatalogError(f"--tp: {text}")
    if found := _tp_wrong(llm, tp, ep=ep):
        wrong, first = f"--tp {tp}", 0
    elif found := _ep_wrong(llm, ep, tp=tp):
        wrong, first = f"--ep {ep}", 1
    else:
        return
    fix = _bare_fix(llm, gpu, (tp, ep), first)
    raise CatalogError(f"{wrong}: {in_words(found)} of {llm.name} do not divide; {fix}")


def _bare_fix(llm: Llm, gpu: Gpu, now: tuple[int, int], first: int) -> str:
    """Return the nearest degrees of a bare model: of the option at `first`, or of the other, or of both together."""
    choices = (range(1, min(2 * now[0], gpu.scale_up) + 1), range(1, 2 * now[1] + 1))

    def allowed(degrees: tuple[int, ...]) -> bool:
        tp, ep = degrees
        return not _tp_wrong(llm, tp, ep=ep) and not _ep_wrong(llm, ep, tp=tp)

    for place in (first, 1 - first):
        near = nearest(now[place], choices[place], lambda n, place=place: allowed((*now[:place], n, *now[place + 1 :])))  # type: ignore[misc]
        if near:
            return f"nearest for --{('tp', 'ep')[place]}: {' or '.join(map(str, near))}"
    pair = together(now, choices, allowed)
    return f"nearest: --tp {pair[0]} with --ep {pair[1]}" if pair else "take other degrees"


def _tp_wrong(llm: Llm, tp: int, *, ep: int) -> tuple[str, ...]:
    return (*attention_uneven(llm, tp), *dense_uneven(llm, tp), *shared_uneven(llm, tp), *_group_wrong(tp, ep))


def _ep_wrong(llm: Llm, ep: int, *, tp: int) -> tuple[str, ...]:
    groups = _group_wrong(tp, ep)
    return (*experts_uneven(llm, ep), *(groups or width_uneven(llm, max(tp, ep) // ep)))


def _group_wrong(tp: int, ep: int) -> tuple[str, ...]:
    return (f"tp {tp} and ep {ep}",) if max(tp, ep) % min(tp, ep) else ()


def crossings(deployment: Served) -> Iterator[str]:
    """Say where GPUs of an AFD or colocated deployment work as one without NVLink, or in uneven parts."""
    pool, where = deployment.attention, "an attention rank" if isinstance(deployment, Afd) else "a rank"
    yield from _crossing(pool.gpu, pool.tp, f"the {pool.tp} GPUs of {where}")
    if isinstance(deployment, Afd):
        ffn, gpus = deployment.ffn, deployment.ffn.gpus_per_instance
        yield from _crossing(ffn.gpu, gpus, f"the {gpus} GPUs of an FFN instance")
        if found := shared_uneven(deployment.llm, ffn.gpus):
            yield f"{undivided(found)} over the {ffn.gpus} FFN GPUs: counted as cut evenly, without padding"


def _crossing(gpu: Gpu, gpus: int, what: str) -> Iterator[str]:
    if gpus <= gpu.scale_up:
        return
    if gpu.nvlink is None:
        yield f"{gpu.name} has no NVLink: the collectives of {what} go over PCIe; assumed"
    else:
        yield f"{what} are more than the NVLink domain of {gpu.name}, {gpu.scale_up}, and priced as one; assumed"
