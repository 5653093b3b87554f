"""What the expressions of quotes stand for: rows of kept tables, runs, and the page of validation."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from verdicts import tables
from verdicts.ledger import ROOT, Ledger, Quote, Run

WORDS: Mapping[str, Any] = {
    "abs": abs,
    "float": float,
    "int": int,
    "len": len,
    "max": max,
    "median": statistics.median,
    "min": min,
    "round": round,
    "set": set,
    "sum": sum,
    "zip": zip,
    "pct": lambda share: 100 * share,
    "over": lambda one, other: 100 * (one / other - 1),
}
"""Functions that expressions may call. `pct` is a share in %, `over` by how many % one is above another."""
PAGES: Mapping[str, Callable[[], tables.Rows]] = {"validation": tables.validation, "validated": tables.validated}
"""Tables of docs/validation.md."""
BLOCK = "block"
RUN_BLOCK = re.compile(r"^```(?:console|python)[^\n]*\n(.*?)^``` *$", re.MULTILINE | re.DOTALL)


class Told:
    """The summary of a run, whose keys read as attributes."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getattr__(self, key: str) -> Any:
        return self[key]

    def __getitem__(self, key: Any) -> Any:
        found = self._data[key]
        return Told(found) if isinstance(found, Mapping | list) else found

    def __iter__(self) -> Iterator[Any]:
        return (Told(each) if isinstance(each, Mapping | list) else each for each in self._data)


def block(document: str, pattern: str, number: int = 0, page: str = "") -> float:
    """Return what a pattern's group finds in the blocks of a document, or of another page, that are run."""
    text = "\n".join(RUN_BLOCK.findall((ROOT / (page or document)).read_text(encoding="utf-8")))
    found = re.findall(pattern, text)
    if number >= len(found):
        raise LookupError(f"no block of {document} has {pattern!r}")
    return float(found[number].replace(",", ""))


@cache
def _simulated(scenario: str, settings: tuple[str, ...], free: str) -> Told:
    import afdsim
    from afdsim.scenario.document import load

    cost = _without(free) if free else None
    return Told(afdsim.simulate(load(scenario, overrides=settings), cost=cost, watch=False).summary)


def _without(free: str) -> Any:
    """Return the shipped cost model with an operator that takes no time."""
    from afdsim.cost.roofline import Roofline

    class Without(Roofline):
        """Kernels as they ship, but for one."""

        def seconds(self, operator: Any, gpu: Any) -> Any:
            return super().seconds(operator, gpu) * (operator.name != free)

    return Without()


def runner(run: Run) -> Callable[..., Told]:
    """Return a run as expressions call it, with more settings."""

    def go(*more: str | tuple[str, ...]) -> Told:
        added = [word for each in more for word in ((each,) if isinstance(each, str) else each)]
        return _simulated(run.scenario, (*run.settings, *added), run.free)

    return go


def needs_run(quote: Quote, ledger: Ledger) -> bool:
    """Return whether a quote can be held to its figures by a simulation only."""
    return bool(quote.names & set(ledger.runs))


def origins(quote: Quote, ledger: Ledger) -> tuple[str, ...]:
    """Return the commands that give the figures of a quote."""
    if quote.also:
        return (f"blocks of {quote.also}",)
    places = tables.places()
    found = []
    for name in sorted(quote.names):
        if name in places:
            found.append(f"experiments/{tables.home(places[name])[0]}/run.py")
        elif name in ledger.runs:
            found.append(command(name, ledger.runs[name]))
        elif name in PAGES:
            found.append("afdsim validate")
        elif name == BLOCK:
            found.append("make docs-test")
    return tuple(dict.fromkeys(found))


def command(name: str, run: Run) -> str:
    """Return a run as typed into a shell, or where its settings stand if they are many."""
    free = f", no time for {run.free}" if run.free else ""
    if len(run.settings) > 1 or free:
        return f"afdsim run {run.scenario}, settings of {name} in docs/figures.yaml{free}"
    return f"afdsim run {run.scenario}" + "".join(f" --set {shlex.quote(each)}" for each in run.settings)


def scope(quote: Quote, ledger: Ledger, made: Path | None = None) -> dict[str, Any]:
    """Return what the names of a quote mean; tables of `made` folders come before those that are kept."""
    meanings = ((name, _meaning(name, quote, ledger, made)) for name in quote.names)
    known = {name: meaning for name, meaning in meanings if meaning is not None}
    for name, expression in quote.let.items():
        if name in quote.names:
            known[name] = value(expression, known)
    return known


def _meaning(name: str, quote: Quote, ledger: Ledger, made: Path | None) -> Any:
    """Return what a name means, None where it means nothing here: the parameter of a lambda."""
    if name in (places := tables.places()):
        return _table(_anew(places[name], made))
    if name in ledger.runs:
        return runner(ledger.runs[name])
    if name in ledger.settings:
        return ledger.settings[name]
    if name == BLOCK:
        return partial(block, quote.document)
    return _page(name) if name in PAGES else WORDS.get(name)


def _anew(path: Path, made: Path | None) -> Path:
    """Return where a table was made anew, if it was."""
    place = made.joinpath(*tables.home(path)) if made else path
    return place if place.is_file() else path


@cache
def _page(name: str) -> tables.Rows:
    return PAGES[name]()


@cache
def _table(path: Path) -> tables.Rows:
    return tables.read(path)


def value(expression: str, known: Mapping[str, Any]) -> Any:
    """Return what an expression of the ledger gives."""
    return eval(compile(expression, "docs/figures.yaml", "eval"), {"__builtins__": {}, **known})
