"""The scenario reference, from the tree of `afdsim.scenario`: every key, what it means, its values, its default."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from afdsim import units
from afdsim.scenario import leaves
from afdsim.scenario.document import Scenario, load, schema, shipped
from afdsim.scenario.part import Part

HERE = Path(__file__).parent
TAGS = ("type", "process", "distribution", "mode")
FIRST = ("small", "step3_2a2f_4k", "step3_poisson")
"""Shipped scenarios that examples are taken from before others."""


class Example(NamedTuple):
    """A key in use: a shipped scenario and what to set in it, the key itself last."""

    base: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of one map."""

    name: str
    path: str
    field: FieldInfo
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One map of the file: a part of the tree, where it stands first, and where else."""

    part: type[Part]
    path: str
    keys: tuple[Key, ...]
    elsewhere: tuple[str, ...]

    @property
    def title(self) -> str:
        """The path, with the key that chooses this kind of map."""
        tag = next((key for key in self.keys if key.name in TAGS and _is_tag(key)), None)
        which = "" if tag is None else f", `{tag.name}: {_words(tag.field)[0]}`"
        return f"`{self.path}`{which}" if self.path else "The file"

    @property
    def anchor(self) -> str:
        """What the heading is called in links, by the rule of git hosts."""
        text = re.sub(r"[^\w\- ]", "", self.title.lower())
        return text.replace(" ", "-")


def sections() -> tuple[Section, ...]:
    """Return every map of a scenario, in the order of the tree."""
    tree = schema()
    texts = {name: part.get("properties", {}) for name, part in tree["$defs"].items()}
    texts["Scenario"] = tree["properties"]
    places: dict[type[Part], list[str]] = {}
    _visit(Scenario, "", places)
    return tuple(_section(part, paths, texts[part.__name__]) for part, paths in places.items())


def _section(part: type[Part], paths: list[str], texts: Mapping[str, Any]) -> Section:
    first, *rest = dict.fromkeys(paths)
    keys = tuple(
        Key(name=name, path=f"{first}.{name}".lstrip("."), field=field, meaning=_meaning(name, texts[name]))
        for name, field in part.model_fields.items()
    )
    return Section(part=part, path=first, keys=keys, elsewhere=tuple(rest))


def _meaning(name: str, text: Mapping[str, Any]) -> str:
    return text.get("description") or (f"Chooses this kind of map: `{text['const']}`." if "const" in text else "")


def _visit(part: type[Part], path: str, places: dict[type[Part], list[str]]) -> None:
    """Note where a part and those below it stand; what stands twice is described once."""
    known = part in places
    places.setdefault(part, []).append(path)
    for name, field in part.model_fields.items() if not known else ():
        for below, suffix in parts(field.annotation):
            _visit(below, f"{path}.{name}{suffix}".lstrip("."), places)


def parts(annotation: Any) -> Iterator[tuple[type[Part], str]]:
    """Yield the maps that a value may be, with what stands behind the key where it is a list of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation, ""
    elif origin is tuple:
        yield from ((part, "[]") for part, _ in parts(arguments[0]))
    elif origin in (Union, UnionType):
        for each in arguments:
            yield from parts(each)
    elif origin is Annotated:
        yield from parts(arguments[0])


def values(field: FieldInfo, links: Mapping[type[Part], str]) -> str:
    """Say what a key takes: kind, unit, range, or the maps that it may be."""
    leaf = next((each for each in field.metadata if isinstance(each, leaves._Leaf)), None)
    return _leaf(leaf) if leaf is not None else _kind(field.annotation, links)


def _kind(annotation: Any, links: Mapping[type[Part], str]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in links:
        return links[annotation]
    if origin is Annotated:
        leaf = next((each for each in arguments if isinstance(each, leaves._Leaf)), None)
        return _leaf(leaf) if leaf is not None else _kind(arguments[0], links)
    if origin in (Union, UnionType):
        return " or ".join(_kind(each, links) for each in arguments if each is not NoneType)
    if origin is tuple:
        return f"list of {_kind(arguments[0], links)}"
    if origin is Literal:
        return f"`{arguments[0]}`"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"map from {_kind(arguments[0], links)} to {_kind(arguments[1], links)}"
    return {str: "name", Any: "any value"}.get(annotation, "map")


def _leaf(leaf: leaves._Leaf) -> str:
    match leaf:
        case leaves.Amount(quantity, positive):
            return f"{quantity} {'>' if positive else '≥'} 0, e.g. `{units.usual(quantity)}`"
        case leaves.Whole(low, high):
            most = "" if high >= 2**63 - 1 else f" and ≤ {high:,}"
            return f"whole number ≥ {low}{most}"
        case leaves.Real(low, high, positive, reach):
            most = "" if min(high, reach[1]) >= 1e9 else f" and ≤ {min(high, reach[1]):g}"
            return f"number {'>' if positive else '≥'} {low:g}{most}"
        case leaves.Choice(known):
            return ", ".join(f"`{word}`" for word in known)
        case leaves.Flag():
            return "`true` or `false`"
        case leaves.Version():
            return "`1`"
        case leaves.GpuName():
            return "name of a GPU"
        case leaves.ModelName():
            return "name of a model, or path"
        case leaves.Text(_, wanted):
            return wanted


def default(key: Key) -> str:
    """Say what holds where a key is left out."""
    field = key.field
    if field.is_required():
        return "" if "efault:" in key.meaning else "required"
    value = field.get_default(call_default_factory=True)
    leaf = next((each for each in field.metadata if isinstance(each, leaves.Amount)), None)
    if value is None or isinstance(value, Part) or value in ((), {}) or "efault:" in key.meaning:
        return ""
    if leaf is not None:
        return f"`{leaf.write(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else _flow(value)}`"


def _flow(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(each)}' for key, each in value.items())}}}"
    return f"'{value}'" if isinstance(value, str) and re.search(r"[\[\]{}:,]", value) else str(value)


def _is_tag(key: Key) -> bool:
    return bool(_words(key.field))


def _words(field: FieldInfo) -> tuple[str, ...]:
    """Return the one word that a key which chooses a kind of map can have; nothing for any other key."""
    words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return words if len(words) == 1 else ()


def examples() -> dict[tuple[str, str], Example]:
    """Return an example for every key that takes a value: what was written for it, or what a shipped scenario says."""
    written = YAML(typ="safe").load((HERE / "examples.yaml").read_text(encoding="utf-8"))
    given = {name: load(name).given() for name in dict.fromkeys((*FIRST, *sorted(_runnable())))}
    found = {}
    for section in sections():
        for key in section.keys:
            label = f"{section.part.__name__}.{key.name}"
            example = _written(written[label]) if label in written else _said(section, key, given)
            if example is not None:
                found[section.part.__name__, key.name] = example
    return found


def _runnable() -> Iterator[str]:
    """Yield the names of shipped scenarios that need no file of somebody else."""
    yield from (name for name in shipped() if name != "azure_conversation")


def _written(entry: str | list[str]) -> Example:
    base, *overrides = ["small", entry] if isinstance(entry, str) else entry
    return Example(base, tuple(overrides))


def _said(section: Section, key: Key, given: Mapping[str, Mapping[str, Any]]) -> Example | None:
    """Return the first shipped scenario that has the key in a map of this kind."""
    if "[]" in key.path:
        return None
    tags = {each.name: _words(each.field)[0] for each in section.keys if each.name in TAGS and _words(each.field)}
    for name, data in given.items():
        *above, last = key.path.split(".")
        around: Any = data
        for word in above:
            around = around.get(word) if isinstance(around, Mapping) else None
        alike = isinstance(around, Mapping) and all(around.get(tag) == word for tag, word in tags.items())
        if alike and last in around and not isinstance(around[last], Mapping):
            return Example(name, (f"{key.path}={_flow(around[last])}",))
    return None


def page() -> str:
    """Return the page."""
    every, shown = sections(), examples()
    links = {each.part: f"[{_shown(each)}](#{each.anchor})" for each in every}
    body = "\n\n".join(_text(each, links, shown) for each in every)
    head = (HERE / "reference" / "scenario.head.md").read_text(encoding="utf-8")
    return f"{head.rstrip()}\n\n{_units()}\n\n{body}\n"


def _shown(section: Section) -> str:
    tag = next((key for key in section.keys if key.name in TAGS and _is_tag(key)), None)
    return f"`{_words(tag.field)[0]}`" if tag is not None else "map"


def _text(section: Section, links: Mapping[type[Part], str], shown: Mapping[tuple[str, str], Example]) -> str:
    found = {key.name: shown.get((section.part.__name__, key.name)) for key in section.keys}
    common = _common([each for each in found.values() if each is not None])
    rows = [_row(key, links, _command(found[key.name], common)) for key in section.keys]
    about = " ".join((section.part.__doc__ or "").split()).replace("``", "`")
    places = ", ".join(f"`{path}`" for path in section.elsewhere)
    also = f" The same map stands at {places}." if places else ""
    after = f"\n\nExamples after `--set {shlex.quote(' '.join(common))}`." if common else ""
    head = "| key | meaning | values | default | example |\n|---|---|---|---|---|"
    return f"## {section.title}\n\n{about}{also}{after}\n\n{head}\n" + "\n".join(rows)


def _common(shown: list[Example]) -> tuple[str, ...]:
    """Return what all examples of a map set before the key itself."""
    first = {each.overrides[:1] for each in shown}
    return first.pop() if len(first) == 1 and len(shown) > 1 else ()


def _row(key: Key, links: Mapping[type[Part], str], example: str) -> str:
    cells = [f"`{key.name}`", key.meaning, values(key.field, links), default(key), example]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _command(example: Example | None, common: tuple[str, ...]) -> str:
    if example is None:
        return ""
    where = "" if example.base == "small" else f" ({example.base})"
    own = example.overrides[len(common) :] or example.overrides
    return " ".join(f"`{each}`" for each in own) + where


def _units() -> str:
    rows = [
        f"| {quantity} | {', '.join(f'`{unit}`' for unit in known)} | `{units.usual(quantity)}` |"
        for quantity, known in units._UNITS.items()
    ]
    return "## Units\n\nA unit is compulsory.\n\n| quantity | units | for example |\n|---|---|---|\n" + "\n".join(rows)
