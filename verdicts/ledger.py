"""The quotes of `docs/figures.yaml`: which sentence of which document prints which figures, and from where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from verdicts.numbers import NUMBER, spaced

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "docs" / "figures.yaml"
FIELD = re.compile(r"\{([^{}]+):([^{}:]*)\}")
"""`{expression:format}`; a format of `s` is text."""
TEXT = r"[^|]+?"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a quote."""

    expression: str
    form: str
    """How it is printed, as Python formats: `,.0f`, `+.1f`; `s` is text."""

    @property
    def is_text(self) -> bool:
        return self.form.endswith("s")


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A sentence, or rows of a table, with its figures."""

    document: str
    says: str
    """As the ledger has it, with figures in braces."""
    let: Mapping[str, str] = field(default_factory=dict)
    """Names for expressions."""
    also: str = ""
    """Another document, whose blocks are run, that has the same words."""

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(Figure(expression=each[1].strip(), form=each[2]) for each in FIELD.finditer(self.says))

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the quote looks like in its document, a group for every figure."""
        parts = FIELD.split(spaced(self.says))
        words, forms = parts[::3], parts[2::3]
        groups = [f"({TEXT})" if form.endswith("s") else rf"(?<![\d.,])({NUMBER})(?!\d)" for form in forms]
        pairs = zip(words, [*groups, ""], strict=True)
        return re.compile("".join(re.escape(word) + group for word, group in pairs))

    @cached_property
    def names(self) -> set[str]:
        """Names that the expressions use, those behind names of `let` too."""
        seen: set[str] = set()
        waiting = [each.expression for each in self.figures]
        while waiting:
            new = _named(waiting.pop()) - seen
            seen |= new
            waiting += [self.let[name] for name in new if name in self.let]
        return seen


def _named(expression: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)}


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A part of a document whose figures are of a class that no quote is owed to."""

    document: str
    why: str
    section: str = ""
    """The heading of the part, with all below it."""
    paragraph: str = ""
    """Or words of the paragraph, of the point of a list, or of the row of a table."""
    words: str = ""
    """Or the words themselves."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that quotes name: a scenario and what is set in it."""

    scenario: str
    settings: tuple[str, ...] = ()
    free: str = ""
    """An operator that takes no time."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All of the file."""

    quotes: tuple[Quote, ...]
    asides: tuple[Aside, ...]
    runs: Mapping[str, Run]
    settings: Mapping[str, tuple[str, ...]]


def read(path: Path = PLACE) -> Ledger:
    """Return the ledger."""
    from ruamel.yaml import YAML

    data = YAML(typ="safe").load(path)
    runs = {
        name: Run(scenario=run["scenario"], settings=tuple(run.get("set", ())), free=run.get("free", ""))
        for name, run in data["runs"].items()
    }
    return Ledger(
        quotes=tuple(quote for entry in data["quotes"] for quote in _quotes(entry)),
        asides=tuple(_asides(data["asides"])),
        runs=runs,
        settings={name: tuple(settings) for name, settings in data["settings"].items()},
    )


def _quotes(entry: Mapping[str, Any]) -> Iterator[Quote]:
    """Return the quotes of an entry: one for each of its sentences, and for each of what `each` lists."""
    for says in _listed(entry["says"]):
        for values in _each(entry.get("each", {})):
            own = {name: Template(text).safe_substitute(values) for name, text in entry.get("let", {}).items()}
            filled = Template(says).safe_substitute(values)
            yield Quote(document=entry["in"], says=filled, let=own, also=entry.get("also", ""))


def _each(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the values of `each`: first of all lists, second of all lists, ..."""
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)] if lists else [{}]


def _asides(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Aside]:
    for why, parts in data.items():
        for part in parts:
            for kind in ("section", "paragraph", "words"):
                for words in _listed(part.get(kind, [])):
                    yield Aside(document=part["in"], why=why, **{kind: words})


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
