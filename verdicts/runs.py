"""Values of quotes that need runs, kept one by one, and the rows of all quotes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from verdicts import figures, kept, quotes
from verdicts.kept import KEPT, MOVED, NOT_RUN, Row
from verdicts.ledger import Ledger, Quote
from verdicts.numbers import EXACT

FILE = "runs.json"
AS_TABLE = "as its kept table"
"""Verdict where the table itself was not made anew."""


def made(ledger: Ledger, folder: Path, say: Callable[[str], None]) -> None:
    """Run what quotes need and what is not there yet; the values of each quote are kept as soon as they are there."""
    values = known(folder)
    for quote in ledger.quotes:
        if figures.needs_run(quote, ledger) and (key := _key(quote, ledger)) not in values:
            say(f"runs of {quote.document} ...")
            values[key] = _plain(quotes.evaluated(quote, ledger))
            _write(folder, values)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them, without numpy's types."""
    return {name: value if isinstance(value, str) else float(value) for name, value in values.items()}


def _write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps({"made_of": kept.digest(), "values": values}, indent=1), encoding="utf-8")
    new.replace(folder / FILE)


def known(folder: Path) -> dict[str, Any]:
    """Return the values that runs of this version gave so far, by quote."""
    path = folder / FILE
    if not path.is_file():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return dict(data["values"]) if data["made_of"] == kept.digest() else {}


def _key(quote: Quote, ledger: Ledger) -> str:
    """Return what tells a quote's runs from others': its expressions and all that they name."""
    named = [(name, ledger.runs.get(name), ledger.settings.get(name)) for name in sorted(quote.names)]
    text = repr(([each.expression for each in quote.figures], sorted(quote.let.items()), named))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows(ledger: Ledger, results: Path, whole: Collection[str]) -> Iterator[Row]:
    """Return the rows of all quotes: those of one document and origin together, one more for each that moved.

    `whole` are the origins that were made anew.
    """
    values = known(results)
    groups: dict[tuple[str, tuple[str, ...]], list[Quote]] = {}
    for quote in ledger.quotes:
        groups.setdefault((quote.document, figures.origins(quote, ledger)), []).append(quote)
    for (document, origins), own in sorted(groups.items(), key=lambda group: _order(group[0][0])):
        held = [_held(each, ledger, values, results) for each in own]
        anew = all(origin in whole or not origin.startswith("experiments/") for origin in origins)
        yield _whole(document, ", ".join(origins), own, missing=sum(each is None for each in held), anew=anew)
        for fault in (fault for each in held for fault in each or ()):
            verdict = f"{MOVED}: {fault.why}"
            origin = ", ".join(origins)
            yield Row(kind="quote", what="of these", told=document, verdict=verdict, origin=origin, holds=False)


def _order(document: str) -> tuple[int, str]:
    """README and MODEL first, then docs, then experiments."""
    return ("/" in document) + document.startswith("experiments/"), document


def _held(quote: Quote, ledger: Ledger, values: dict[str, Any], results: Path) -> list[quotes.Fault] | None:
    """Return what is wrong with a quote; None where its runs are not there."""
    if not figures.needs_run(quote, ledger):
        return quotes.held(quote, ledger, results)
    own = values.get(_key(quote, ledger))
    return None if own is None else quotes.faults(quote, own, EXACT)


def _whole(document: str, origin: str, own: Collection[Quote], *, missing: int, anew: bool) -> Row:
    """Return the row of quotes that have one document and one origin."""
    count = sum(len(quote.figures) or 1 for quote in own)
    what = f"{_plural(count, 'figure')} in {_plural(len(own), 'quote')}"
    if missing:
        verdict = f"{NOT_RUN}: {_plural(missing, 'quote')} of runs"
        return Row(kind="quote", what=what, told=document, verdict=verdict, origin=origin)
    return Row(kind="quote", what=what, told=document, verdict=KEPT if anew else AS_TABLE, origin=origin)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
