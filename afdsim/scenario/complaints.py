"""What to say about a scenario that does not fit the tree.

pydantic finds the faults; this module says them in the words of the file: position, dotted path, the limit, and the way
out (the nearest key, or afdsim's word for a name that another tool uses).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from afdsim.scenario import words
from afdsim.scenario.leaves import got
from afdsim.scenario.yamlfile import Document, Keys, at, dotted, split
from afdsim.units import suggestion

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = type[BaseModel]

_PLAIN: Mapping[str, str] = MappingProxyType(
    {
        "missing": "required key is missing",
        "union_tag_not_found": "required key is missing",
    }
)
"""pydantic's kind of fault -> our words."""

_TAGS = ("type", "process", "distribution", "mode")
"""Keys that choose between kinds of a part."""
_KINDS = ("servers", "mixed")
"""Kinds of prefill, whichever is chosen, said or not."""

_TRACE_HINT = "needs the file to replay; write it here or give --set workload.trace.path=FILE"


def lines(error: ValidationError, document: Document, root: Model, under: Keys = ()) -> Iterator[str]:
    """Yield every fault as ``file:line:col: path: message``; the document stands `under` some keys of another."""
    for item in error.errors(include_url=False):
        keys = _keys(item["loc"], document.data)
        if item["type"] == "faults":
            for path, message in item["ctx"]["faults"]:
                below = (int(key) if key.isdigit() else key for key in (split(path) if path else ()))
                yield _line(document, (*keys, *below), message, under=under)
        elif item["type"] == "extra_forbidden":
            yield _line(document, keys, _unknown(keys, root, document.data), key=True, under=under)
        else:
            if item["type"] == "union_tag_not_found":
                keys = (*keys, _bare(item["ctx"]["discriminator"]))
            key = item["loc"][-1:] == ("[key]",)
            yield _line(document, keys, _message(item, keys), key=key, under=under)


def no_such_key(root: Model, keys: Keys, data: Any = None) -> str | None:
    """Return why no scenario of the kinds chosen in `data` has a value at `keys`, or None if one may."""
    for depth, key in enumerate(keys):
        known = _known(root, keys[:depth], data)
        if known is None:
            return None
        if isinstance(key, int):  # an item of a list that is there
            continue
        if not known:
            return f"{dotted(keys[:depth])!r} has no keys"
        name, _, place = key.removesuffix("]").partition("[")
        if key not in known and name in known and place.isdigit():
            path = (*keys[:depth], name)
            items = None if data is None else at(data, path) or ()
            if isinstance(items, Sequence) and int(place) >= len(items):
                return f"{dotted(path)!r} has {len(items)} items, and none with number {place}; the first has 0"
            return no_such_key(root, (*path, int(place), *keys[depth + 1 :]), data)
        if key not in known:
            under = f" under {dotted(keys[:depth])!r}" if depth else ""
            home = _home(keys[: depth + 1], root)
            near = suggestion(str(key), known) or (home and f"; it belongs to {home!r}")
            listed = f" (has: {', '.join(known)}){near}"
            return f"no such key {str(key)!r}{under}{_hint(keys[: depth + 1], root, data) or listed}"
    return None


def _line(document: Document, keys: Keys, message: str, *, key: bool = False, under: Keys = ()) -> str:
    parts = (document.where(keys, key=key), dotted((*under, *keys)), message)
    return ": ".join(part for part in parts if part)


def _keys(location: Sequence[str | int], data: Any) -> Keys:
    """Return a location of pydantic as keys of the file: without the tags of unions."""
    keys: list[str | int] = []
    for item in location:
        tags = [data.get(key) for key in _TAGS] if isinstance(data, dict) else []
        tagged = item in (*_KINDS, *tags) and not (isinstance(data, dict) and item in data)
        if item == "[key]" or tagged:
            continue
        keys.append(item)
        data = _below(data, item)
    return tuple(keys)


def _below(data: Any, key: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(key)
    return data[key] if isinstance(data, list) and isinstance(key, int) and key < len(data) else None


def _message(item: ErrorDetails, keys: Keys) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "missing" and keys == ("workload", "trace", "path"):
        return _TRACE_HINT
    if kind == "union_tag_invalid":
        tag, known = context["tag"], [_bare(word) for word in context["expected_tags"].split(", ")]
        near = words.hint(str(tag), "", lambda _: False) if tag in words.ABSENT else suggestion(str(tag), known)
        return f"unknown {_bare(context['discriminator'])} {tag!r}{near} (known: {', '.join(known)})"
    if kind == "value_error":
        return str(context["error"])
    if kind.endswith("_type") and keys[-1:] in {("input_len",), ("output_len",)}:
        law = "{distribution: uniform, max: 4096}"
        return f"must be a whole number of tokens, or a map such as {law} {got(item['input'])}"
    if kind.endswith("_type"):
        return f"must be a {'list' if kind == 'tuple_type' else 'map'} {got(item['input'])}"
    return _PLAIN.get(kind, item["msg"])


def _unknown(keys: Keys, root: Model, data: Any) -> str:
    """Say what an unknown key may have been meant to be."""
    key = str(keys[-1])
    if told := _hint(keys, root, data):
        return f"unknown key {key!r}{told}"
    known = _known(root, keys[:-1], data) or ()
    if near := suggestion(key, known):
        return f"unknown key {key!r}{near}"
    if home := _home(keys, root):
        return f"unknown key {key!r} here; it belongs to {home!r}"
    return f"unknown key {key!r} (known: {', '.join(known)})"


def _home(keys: Keys, root: Model) -> str:
    """Return the only other path that ends in the same key, a map that is always there before one that is not."""
    for optional in (False, True):
        homes = {path for path in _paths(root, optional=optional) if path.split(".")[-1] == keys[-1]} - {dotted(keys)}
        if homes:
            return homes.pop() if len(homes) == 1 else ""
    return ""


def _hint(keys: Keys, root: Model, data: Any) -> str:
    """Say what a key is called here, or that it is not modelled, if it is a word of another tool."""
    return words.hint(str(keys[-1]), dotted(keys[:-1]), lambda path: _has(root, tuple(path.split(".")), data))


def _has(root: Model, keys: Keys, data: Any) -> bool:
    """Return whether a scenario of the kinds chosen in `data` may have a value at `keys`."""
    maps = (_known(root, keys[:depth], data) for depth in range(len(keys)))
    return all(known is None or key in known for key, known in zip(keys, maps, strict=True))


def _known(root: Model, keys: Keys, data: Any = None) -> tuple[str, ...] | None:
    """Return the keys of the map at `keys`; None where they are free. `data` decides between kinds of a part."""
    parts = [root]
    for key in keys:
        data = _below(data, key)
        if isinstance(key, int):  # an item of a list, whose type `parts` holds already
            continue
        fields = [part.model_fields[str(key)].annotation for part in parts if str(key) in part.model_fields]
        if any(get_origin(field) in (dict, Mapping) for field in fields):
            return None
        parts = [part for field in fields for part in maps(field)]
    chosen = [part for part in parts if _is_kind(part, data)] or parts
    return tuple(dict.fromkeys(name for part in chosen for name in part.model_fields))


def _is_kind(part: Model, data: Any) -> bool:
    tags = [(key, get_args(part.model_fields[key].annotation)) for key in _TAGS if key in part.model_fields]
    return isinstance(data, dict) and any(data.get(key) in words for key, words in tags)


def maps(annotation: Any) -> list[Model]:
    """Return the maps that an annotation allows."""
    if get_origin(annotation) is Annotated:
        return maps(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple):
        return [part for member in get_args(annotation) for part in maps(member)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _paths(part: Model, prefix: str = "", *, optional: bool = True) -> Iterator[str]:
    """Yield every path below a map; without `optional` none inside of maps that are absent unless given."""
    for name, field in part.model_fields.items():
        yield f"{prefix}{name}"
        for below in maps(field.annotation) if optional or field.default is not None else ():
            yield from _paths(below, f"{prefix}{name}.", optional=optional)


def _bare(word: str) -> str:
    return word.strip("'")
