"""All parts of the table of verdicts in their order: what is made anew, and the rows of what there is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from afdsim.errors import ScenarioError
from verdicts import experiments, kept, ledger, pages, pictures, runs, verified
from verdicts.kept import RESULTS, Row

LEDGER, RUNS, PICTURES = "ledger", "runs", "pictures"
PARTS = (RUNS, pages.FOLLOWED, pages.BANDS, PICTURES, LEDGER)
"""Parts beside the experiments, which go by their names; `ledger` makes nothing and reads what there is."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to make anew, and where."""

    only: Sequence[str] = ()
    """Names of parts and experiments; all of them if empty."""
    everything: bool = False
    """The long experiments as well."""
    traces: Path | None = None
    results: Path = RESULTS
    jobs: int = max(1, (os.cpu_count() or 1) // 2)
    """Experiments at a time; each takes its share of the cores."""

    @property
    def experiments(self) -> tuple[experiments.Experiment, ...]:
        named = set(self.only) & set(experiments.LONG)
        return experiments.found(self.results, everything=self.everything or bool(named), traces=self.traces)

    def wants(self, name: str) -> bool:
        return not self.only or name in self.only


def check(asked: Asked) -> None:
    """Refuse names that are none."""
    known = [*PARTS, *(each.name for each in asked.experiments)]
    if unknown := [name for name in asked.only if name not in known]:
        raise ScenarioError(f"--only {', '.join(unknown)}: no part; there are {', '.join(known)}")


def make(asked: Asked, say: Callable[[str], None]) -> None:
    """Make anew what is asked for and not there yet; what a run before it made is not made again."""
    book = ledger.read()
    experiments.run([each for each in asked.experiments if asked.wants(each.name)], asked.jobs, say)
    if asked.wants(RUNS):
        runs.made(book, asked.results, say)
    for which in (pages.FOLLOWED, pages.BANDS):
        if asked.wants(which):
            pages.run(which, asked.results / which, say)
    if asked.wants(PICTURES):
        pictures.draw(asked.results / PICTURES, say)


def rows(asked: Asked) -> Iterator[Row]:
    """Return the rows of everything, made by this run or by one before it."""
    book = ledger.read()
    for each in asked.experiments:
        yield from experiments.rows(each)
    whole = {each.origin for each in asked.experiments if kept.whole(each.made, each.made_of)}
    yield from runs.rows(book, asked.results, whole)
    for which in (pages.FOLLOWED, pages.BANDS):
        yield from pages.rows(which, asked.results / which)
    yield from pictures.rows(asked.results / PICTURES)
    yield from verified.claims()
    yield from verified.checks()
