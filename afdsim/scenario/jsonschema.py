"""The tree of a scenario as a JSON schema: every key with its meaning, for editors and the reference of the docs."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from afdsim.scenario.complaints import Model, maps

OURS = "afdsim.scenario."
"""Modules whose classes are maps of a scenario."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TAKEN_OUT = {"type": "null", "description": "Takes the key of a base out.", "doNotSuggest": True}


def described(root: Model) -> dict[str, Any]:
    """Return the JSON schema of `root` with the docstrings of its attributes as descriptions."""
    schema = root.model_json_schema()
    texts = _docstrings(root)
    for name, part in [(root.__name__, schema), *schema["$defs"].items()]:
        part.pop("required", None)
        for key, value in part.get("properties", {}).items():
            if (name, key) in texts:
                value["description"] = texts[name, key]
    extends = {
        "type": "string",
        "description": "Scenario to inherit from: a file, relative to this one, or a shipped name.",
    }
    schema["properties"] = {"extends": extends, **schema["properties"]}
    for key in ("input_len", "output_len"):
        for part in ("Workload", "RequestClass"):
            schema["$defs"][part]["properties"][key]["anyOf"].append({"type": "integer", "minimum": 1})
    schema["$defs"]["Network"]["properties"]["nics_per_instance"]["anyOf"].append({"type": "integer", "minimum": 1})
    return {"$schema": DIALECT, **schema}


def lenient(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of files that extend others, where any key may be null: it takes that of the base out.

    Where a part is of one of several kinds, this goes for the keys of the other kinds too.
    """
    parts = {name: dict(part) for name, part in schema["$defs"].items()}
    for kinds in _choices(schema):
        known = [parts[kind]["properties"] for kind in kinds]
        for kind, own in zip(kinds, known, strict=True):
            others = dict.fromkeys(key for each in known for key in each if key not in own)
            parts[kind]["properties"] = {**own, **dict.fromkeys(others, _TAKEN_OUT)}
    loosened = {name: _loose(part) for name, part in parts.items()}
    return {**_loose(schema), "$defs": loosened}


def _choices(node: Any) -> Iterator[tuple[str, ...]]:
    """Yield the kinds of every part that is one of several, by their names in `$defs`."""
    if isinstance(node, Mapping):
        for key in ("oneOf", "anyOf"):
            kinds = tuple(each["$ref"].rpartition("/")[2] for each in node.get(key, ()) if "$ref" in each)
            if len(kinds) > 1:
                yield kinds
    for each in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _choices(each)


def _loose(part: Mapping[str, Any]) -> dict[str, Any]:
    """Let every key of a part be null, and what is one of several kinds be any of them."""
    if "properties" not in part:
        return dict(part)
    return {**part, "properties": {key: _nullable(value) for key, value in part["properties"].items()}}


def _nullable(value: Mapping[str, Any]) -> dict[str, Any]:
    if value.get("type") == "null":
        return dict(value)
    told = {key: each for key, each in value.items() if key in {"title", "description", "default"}}
    kinds = value.get("anyOf") or [{key: each for key, each in value.items() if key not in told}]
    flat = [each for kind in kinds for each in kind.get("oneOf", [kind])]
    return {**told, "anyOf": [*flat, *([] if {"type": "null"} in flat else [{"type": "null"}])]}


def _docstrings(root: Model) -> dict[tuple[str, str], str]:
    """Return (class, attribute) -> docstring of every part of the tree, those of the classes it extends included."""
    every = {each for part in _below(root) for each in part.__mro__ if each.__module__.startswith(OURS)}
    own = {each: _own_docstrings(each) for each in every}
    lines = ((part, line) for part in every for each in part.__mro__[::-1] for line in own.get(each, ()))
    return {(part.__name__, name): text for part, (name, text) in lines}


def _own_docstrings(part: type) -> tuple[tuple[str, str], ...]:
    """Return (attribute, docstring) of a class as it is written."""
    (node,) = ast.parse(inspect.getsource(part)).body
    assert isinstance(node, ast.ClassDef)
    found = []
    for first, second in itertools.pairwise(node.body):
        match first, second:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found.append((name, " ".join(text.split())))
    return tuple(found)


def _below(part: Model) -> Iterator[Model]:
    """Yield a map and all maps below it."""
    yield part
    for field in part.model_fields.values():
        for below in maps(field.annotation):
            yield from _below(below)
