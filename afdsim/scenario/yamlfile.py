"""YAML text -> plain data in which every value remembers where it stands.

YAML 1.2 scalars (``on`` and ``12:30`` are text), duplicate keys refused with both lines, no tags, aliases expanded
within reason. Whatever the text is, the answer is a Document or a ScenarioError.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from afdsim.errors import ScenarioError

Keys = tuple[str | int, ...]
"""Path of a value: keys of maps and indices of lists, from the root."""

_DEEPEST = 32
_MOST = 20_000
_INT = re.compile(r"[-+]?[0-9]{1,64}")
_BASED = re.compile(r"0o[0-7]{1,64}|0x[0-9a-fA-F]{1,64}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,64}|[0-9]{1,64}(\.[0-9]{0,64})?)([eE][-+]?[0-9]{1,3})?")
_WORDS: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("", "~", "null", "Null", "NULL")),
        **dict.fromkeys(("true", "True", "TRUE"), True),
        **dict.fromkeys(("false", "False", "FALSE"), False),
        **dict.fromkeys((f"{sign}.{word}" for sign in ("", "+") for word in ("inf", "Inf", "INF")), math.inf),
        **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
        **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where a key and its value stand, as text that editors follow: ``file:line:col``."""

    key: str
    value: str
    folder: str
    """Folder that relative paths written here start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data with the marks of its values."""

    data: Any
    marks: Mapping[Keys, Mark] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    """Faults that do not stop the reading, to be reported with those of the schema."""

    def where(self, keys: Keys, *, key: bool = False) -> str:
        """Return the position of a value (or of its key), else of its nearest parent; empty if nothing is known."""
        for length in range(len(keys), -1, -1):
            mark = self.marks.get(keys[:length])
            if mark is not None:
                return mark.key if key and length == len(keys) else mark.value
        return ""

    def folder(self, keys: Keys) -> Path:
        """Return the folder that a relative path at `keys` starts from."""
        mark = self.mark(keys)
        return Path() if mark is None else Path(mark.folder)

    def mark(self, keys: Keys) -> Mark | None:
        """Return the mark of a value, else of its nearest parent."""
        marks = (self.marks.get(keys[:length]) for length in range(len(keys), -1, -1))
        return next((mark for mark in marks if mark is not None), None)


def read(path: Path) -> Document:
    """Read one YAML file whose root is a map."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}:1:1: not a text file in UTF-8 (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    document = parse(text, str(path), folder=str(path.parent))
    if document.data is None:
        raise ScenarioError(f"{path}:1:1: the file is empty; 'afdsim init' writes a scenario to start from")
    if not isinstance(document.data, dict):
        raise ScenarioError(f"{document.where(())}: a scenario is a map of keys, such as 'model: step3'")
    return document


def parse(text: str, name: str, *, folder: str = "") -> Document:
    """Read YAML text; `name` is what positions call it."""
    reader = _Reader(name=name, folder=folder)
    events = _events(text, name)
    if not any(isinstance(event, DocumentStartEvent) for event in events):
        return Document(data=None, marks={(): reader.at_start()})
    data = reader.value(events, (), None)
    if any(isinstance(event, DocumentStartEvent) for event in events):
        raise ScenarioError(f"{name}:1:1: holds more than one YAML document ('---'); one scenario per file")
    return Document(data=data, marks=reader.marks, faults=tuple(reader.faults))


def merged(base: Document, child: Document) -> Document:
    """Return `base` with `child` on top: maps merge, everything else replaces, null removes."""
    marks = dict(base.marks)
    data = _merge(base.data, child.data, (), marks)
    marks.update(child.marks)
    return Document(data=data, marks=marks, faults=(*base.faults, *child.faults))


def put(document: Document, keys: Keys, value: Any, mark: Mark) -> Document:
    """Return `document` with the value at `keys` replaced (null removes it); missing maps on the way are made."""
    data = copy.deepcopy(document.data)
    parent = data
    for position, key in enumerate(keys[:-1]):
        parent = parent[key] if isinstance(key, int) else parent.setdefault(key, {})
        if not isinstance(parent, list if isinstance(keys[position + 1], int) else dict):
            path = dotted(keys[: position + 1])
            raise ScenarioError(
                f"{mark.key}: {path}: is not a map, so it has no key {keys[position + 1]!r}".lstrip(": ")
            )
    if value is None:
        parent.pop(keys[-1], None)
    else:
        parent[keys[-1]] = copy.deepcopy(value)
    marks = _without(document.marks, keys)
    marks[keys] = mark
    return Document(data=data, marks=marks, faults=document.faults)


def at(data: Any, keys: Keys) -> Any:
    """Return what stands at some keys of plain data; None where nothing does."""
    for key in keys:
        if isinstance(key, int):
            data = data[key] if isinstance(data, list) and key < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def indexed(data: Any, keys: Keys) -> Keys:
    """Return the keys of a path with ``cells[1]`` as a list and its place, where the data has such a list."""
    found: Keys = ()
    for key in keys:
        name, _, place = str(key).removesuffix("]").partition("[")
        items = at(data, (*found, name)) if place.isdigit() else None
        found += (name, int(place)) if isinstance(items, list) and int(place) < len(items) else (key,)
    return found


def dump(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML text that `parse` reads back to the same data."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # keep the order of the schema
    stream = StringIO()
    yaml.dump(dict(data), stream)
    return stream.getvalue()


def dotted(keys: Keys) -> str:
    """Return a path for people: ``run.seeds[1]``."""
    texts = [f"[{key}]" if isinstance(key, int) else f".{key if key.isprintable() else repr(key)}" for key in keys]
    return "".join(texts).removeprefix(".")


def split(path: str) -> tuple[str, ...]:
    """Return the keys of a dotted path; the name of a NIC, ``ffn[1].nic[3]``, is one key."""
    return tuple(re.split(r"\.(?!nic\[)", path))


def _events(text: str, name: str) -> Iterator[Event]:
    """Yield parser events; every way in which the parser gives up becomes a ScenarioError."""
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        raise ScenarioError(f"{name}:{line + 1}:{column + 1}: {_syntax(text, line, error)}") from None
    except (
        YAMLError,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
        AssertionError,
        RecursionError,
        TypeError,
    ) as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise ScenarioError(f"{name}:1:1: not valid YAML: {what[0][:200]}") from None


def _syntax(text: str, line: int, error: MarkedYAMLError) -> str:
    lines = text.splitlines()
    shown = lines[line] if line < len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or "'\\t'" in str(error.problem):
        return f"YAML does not allow tabs for indentation (line {line + 1})"
    return f"not valid YAML: {error.problem or error.context or 'unreadable'}"


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Builds plain data from parser events and notes where everything stands."""

    name: str
    folder: str
    marks: dict[Keys, Mark] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    _anchors: dict[str, Any] = field(default_factory=dict)
    _size: int = 0

    def value(self, events: Iterator[Event], keys: Keys, key_at: str | None) -> Any:
        """Return the next value of the stream."""
        return self._built(next(events), events, keys, key_at)

    def at_start(self) -> Mark:
        """Return the mark of the first character."""
        return Mark(key=f"{self.name}:1:1", value=f"{self.name}:1:1", folder=self.folder)

    def _built(self, event: Event, events: Iterator[Event], keys: Keys, key_at: str | None) -> Any:
        empty = isinstance(event, ScalarEvent) and _plain(event) and not event.value
        at = key_at if empty and key_at else self._at(event)  # nothing stands nowhere: point at its key
        self.marks[keys] = Mark(key=key_at or at, value=at, folder=self.folder)
        self._count(1, at, keys)
        if isinstance(event, AliasEvent):
            return self._alias(event, at, keys)
        if getattr(event, "tag", None) is not None:
            self.faults.append(f"{at}: {dotted(keys)}: YAML tags (!...) are not used in scenarios")
        match event:
            case MappingStartEvent():
                built: Any = self._map(events, keys)
            case SequenceStartEvent():
                built = self._list(events, keys)
            case ScalarEvent():
                built = _scalar(event.value) if _plain(event) else event.value
            case _:
                raise ScenarioError(f"{at}: not valid YAML: a value is expected here")
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self._anchors[event.anchor] = built
        return built

    def _map(self, events: Iterator[Event], keys: Keys) -> dict[str, Any]:
        built: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for event in events:
            if isinstance(event, CollectionEndEvent):
                break
            at, key = self._at(event), self._key(event, keys)
            if key in built:
                self.faults.append(f"{at}: {dotted((*keys, key))}: duplicate key {key!r} (first on line {lines[key]})")
                self._skip(events, (*keys, key), at)
            else:
                built[key] = self.value(events, (*keys, key), at)
                lines[key] = event.start_mark.line + 1
        return built

    def _skip(self, events: Iterator[Event], keys: Keys, at: str) -> None:
        """Read a value that a duplicate key brings, and keep the marks of the first."""
        kept = dict(self.marks)
        self.value(events, keys, at)
        self.marks = kept

    def _key(self, event: Event, keys: Keys) -> str:
        if not isinstance(event, ScalarEvent):
            raise ScenarioError(f"{self._at(event)}: {dotted(keys)}: a key must be plain text".replace(": : ", ": "))
        key = str(event.value)
        if _plain(event) and not isinstance(_scalar(key), str):
            self.faults.append(
                f"{self._at(event)}: {dotted((*keys, key))}: key {key or 'null'!r} must be text, not a {_kind(key)}"
            )
        return key

    def _list(self, events: Iterator[Event], keys: Keys) -> list[Any]:
        built: list[Any] = []
        for event in events:
            if isinstance(event, CollectionEndEvent):
                break
            built.append(self._built(event, events, (*keys, len(built)), None))
        return built

    def _alias(self, event: AliasEvent, at: str, keys: Keys) -> Any:
        if event.anchor not in self._anchors:
            raise ScenarioError(f"{at}: {dotted(keys)}: alias '*{event.anchor}' has no finished anchor before it")
        value = self._anchors[event.anchor]
        self._count(_size(value), at, keys)
        return copy.deepcopy(value)

    def _count(self, more: int, at: str, keys: Keys) -> None:
        self._size += more
        if self._size > _MOST:
            raise ScenarioError(f"{at}: {dotted(keys)[:80]}: more than {_MOST:,} values; a scenario is a short text")
        if len(keys) > _DEEPEST:
            raise ScenarioError(f"{at}: {dotted(keys)[:80]}: nested more than {_DEEPEST} levels deep")

    def _at(self, event: Event) -> str:
        return f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"


def _plain(event: ScalarEvent) -> bool:
    return event.style in (None, "")


def _scalar(text: str) -> Any:
    """Return the value of a plain scalar under the YAML 1.2 core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _kind(text: str) -> str:
    match _scalar(text):
        case bool():
            return "truth value"
        case None:
            return "null"
        case _:
            return "number"


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _merge(base: Any, child: Any, keys: Keys, marks: dict[Keys, Mark]) -> Any:
    """Merge `child` over `base`, forgetting the marks of what it replaces."""
    if not (isinstance(base, dict) and isinstance(child, dict)):
        kept = _without(marks, keys)
        marks.clear()
        marks.update(kept)
        return copy.deepcopy(child)
    data = dict(base)
    for key, value in child.items():
        if value is None and key in data:
            del data[key]
        else:
            data[key] = _merge(data.get(key), value, (*keys, key), marks)
    return data


def _without(marks: Mapping[Keys, Mark], keys: Keys) -> dict[Keys, Mark]:
    return {path: mark for path, mark in marks.items() if path[: len(keys)] != keys}
