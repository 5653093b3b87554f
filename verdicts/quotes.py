"""Quotes held to their documents, which must have them once, and to their figures, at the digits that are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from afdsim.errors import ScenarioError
from verdicts import figures
from verdicts.ledger import ROOT, Ledger, Quote
from verdicts.numbers import EXACT, SLACK, change, prints, said, spaced


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a quote."""

    quote: Quote
    why: str


@cache
def text(document: str) -> str:
    """Return a document with one space for every run of white space."""
    return spaced((ROOT / document).read_text(encoding="utf-8"))


def stands(quote: Quote) -> tuple[str, ...] | Fault:
    """Return the figures of a quote as its document prints them, or that it is not there, or more than once."""
    found = [each.groups() for each in quote.pattern.finditer(text(quote.document))]
    if len(found) != 1:
        where = "not in" if not found else f"{len(found)} times in"
        return Fault(quote=quote, why=f"{where} {quote.document}: {_short(quote)}")
    if quote.also and len(quote.pattern.findall(text(quote.also))) == 0:
        return Fault(quote=quote, why=f"not in {quote.also}, which should have it, too: {_short(quote)}")
    return found[0]


def faults(quote: Quote, values: Mapping[str, Any], slack: float = SLACK) -> list[Fault]:
    """Return what is wrong with a quote whose expressions have these values."""
    printed = stands(quote)
    if isinstance(printed, Fault):
        return [printed]
    pairs = zip(quote.figures, printed, strict=True)
    whys = [_moved(each, values[figure.expression], slack, text=figure.is_text) for figure, each in pairs]
    return [Fault(quote=quote, why=f"{why} in {_short(quote)}") for why in whys if why]


def _moved(printed: str, value: Any, slack: float, *, text: bool) -> str:
    """Return how a figure moved, nothing where it did not."""
    if text:
        return "" if printed == str(value) else f"{printed} -> {value}"
    return "" if prints(value, printed, slack) else f"{printed} -> {value:.6g} ({change(said(printed)[0], value)})"


def evaluated(quote: Quote, ledger: Ledger, made: Path | None = None) -> dict[str, Any]:
    """Return the value of every expression of a quote."""
    try:
        known = figures.scope(quote, ledger, made)
        return {figure.expression: figures.value(figure.expression, known) for figure in quote.figures}
    except (LookupError, AttributeError, NameError, TypeError) as error:
        raise ScenarioError(f"docs/figures.yaml, {quote.document}: {_short(quote)}: {error}") from error


def held(quote: Quote, ledger: Ledger, made: Path | None = None) -> list[Fault]:
    """Return what is wrong with a quote."""
    slack = EXACT if figures.needs_run(quote, ledger) else SLACK
    return faults(quote, evaluated(quote, ledger, made), slack)


def _short(quote: Quote) -> str:
    words = spaced(quote.says)
    return repr(words if len(words) <= 90 else f"{words[:87]}...")
