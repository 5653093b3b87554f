"""What the commands about cost share: options, how they are read, and aligned tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from afdsim.errors import CatalogError

if TYPE_CHECKING:
    from afdsim.catalog.llm import Llm, Precision
    from afdsim.scenario.formats import Format

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
PRECISION = click.option(
    "--precision",
    metavar="ROLE=DTYPE",
    multiple=True,
    help="attention (core attention and its KV cache; kv_cache means the same), ffn (weights and GEMMs: FFN and "
    "projections) or projections (where theirs is another format), in bf16, fp8, int8 or fp4; weights also in int4 or "
    "w8a16; repeat.",
)


def listed(texts: Iterable[str]) -> list[str]:
    """Return the names that are given one by one or separated by commas."""
    return [name for text in texts for name in text.split(",") if name]


def asked_precision(texts: Iterable[str], llm: Llm | None = None) -> Precision:
    """Return the precision that ``role=dtype`` texts ask for; that of a quantised checkpoint, or FP8, elsewhere."""
    from afdsim.catalog.llm import Precision

    asked = _completed(_asked(texts), llm)
    try:
        return Precision(**asked)
    except CatalogError as error:
        raise CatalogError(f"--precision: {error}") from None


def asked_formats(texts: Iterable[str], llm: Llm | None = None) -> tuple[Format, ...]:
    """Return the same by role, each with where it comes from."""
    from afdsim.scenario.formats import CHECKPOINT, formats

    given = list(texts)
    asked = _asked(given)
    origins = dict.fromkeys(_completed(asked, llm), CHECKPOINT) | dict.fromkeys(asked, "--precision")
    return formats(asked_precision(given, llm), origins, llm.unquantised if llm else None)


def _completed(asked: dict[str, str], llm: Llm | None) -> dict[str, str]:
    """Return the dtype by role that is asked for, completed by a quantised checkpoint."""
    from afdsim.catalog.llm import as_stored

    return asked if llm is None else as_stored(llm, asked)


def _asked(texts: Iterable[str]) -> dict[str, str]:
    """Return the dtype by role of ``role=dtype`` texts."""
    from dataclasses import fields

    from afdsim.catalog.llm import ACTIVATION_WIDTH, WIDTH, Precision

    roles = [field.name for field in fields(Precision)]
    dtypes = [dtype for dtype in WIDTH if dtype != "fp32"]
    asked: dict[str, str] = {}
    for text in listed(texts):
        role, _, dtype = text.partition("=")
        if role not in roles or dtype not in dtypes:
            raise CatalogError(f"--precision: {text!r}; write ROLE=DTYPE with {'|'.join(roles)} and {'|'.join(dtypes)}")
        if ACTIVATION_WIDTH[dtype] > WIDTH[dtype] and role in ("attention", "kv_cache"):
            raise CatalogError(f"--precision: {text!r}; {dtype} is a format of weights alone: write ffn={dtype}")
        if asked.setdefault(role, dtype) != dtype:
            raise CatalogError(f"--precision: {role} has two formats, {asked[role]} and {dtype}; state one")
    return asked


def block(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a titled table, a line each."""
    return [click.style(title, bold=True), *columns(head, rows)]


def columns(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lay out rows: the first column left, the others right, a rule below the head."""
    body = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in body) for column in range(len(head))]
    rule = " " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    first, *rest = (_aligned(row, widths) for row in body)
    return [first, rule, *rest]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([f" {row[0]:<{widths[0]}}", *cells]).rstrip()
