"""Values of quotes that need runs, kept one by one, and the rows of all quotes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from verdicts import figures, kept, quotes
from verdicts.kept import KEPT, MOVED, NOT_RUN, Row
from verdicts.ledger import Ledger, Quote

FILE = "runs.json"


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


def rows(ledger: Ledger, folder: Path, experiments: Path) -> Iterator[Row]:
    """Return the rows of all quotes: those of one document and origin together, one more for each that moved."""
    values = known(folder)
    groups: dict[tuple[str, tuple[str, ...]], list[Quote]] = {}
    for quote in ledger.quotes:
        groups.setdefault((quote.document, figures.origins(quote, ledger)), []).append(quote)
    for (document, origins), own in groups.items():
        yield from _group(document, ", ".join(origins), [_held(each, ledger, values, experiments) for each in own], own)


def _held(quote: Quote, ledger: Ledger, values: dict[str, Any], experiments: Path) -> list[quotes.Fault] | None:
    """Return what is wrong with a quote; None where its runs are not there."""
    if not figures.needs_run(quote, ledger):
        return quotes.held(quote, ledger, experiments)
    own = values.get(_key(quote, ledger))
    return None if own is None else quotes.faults(quote, own)


def _group(document: str, origin: str, held: list[list[quotes.Fault] | None], own: Iterable[Quote]) -> Iterator[Row]:
    faults = [fault for each in held for fault in each or ()]
    missing = sum(each is None for each in held)
    count = sum(len(quote.figures) or 1 for quote in own)
    what = f"{count} figure{'s' * (count != 1)} in {len(held)} quote{'s' * (len(held) != 1)}"
    if missing:
        yield Row(kind="quote", what=what, told=document, verdict=f"{NOT_RUN}: {missing} runs", origin=origin)
    elif not faults:
        yield Row(kind="quote", what=what, told=document, verdict=KEPT, origin=origin)
    for fault in faults:
        verdict = f"{MOVED}: {fault.why}"
        yield Row(kind="quote", what="a quote", told=document, verdict=verdict, origin=origin, holds=False)
