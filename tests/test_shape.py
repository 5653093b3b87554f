"""Limits that keep the source readable."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "afdsim"
MODULES = sorted(PACKAGE.rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MUTABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MAKERS = {"dict", "list", "set", "bytearray", "defaultdict", "deque", "Counter", "array"}
CHANGERS = {
    "append",
    "add",
    "update",
    "setdefault",
    "pop",
    "popitem",
    "clear",
    "extend",
    "insert",
    "remove",
    "discard",
    "sort",
}


def named(path):
    """Return where a module is in the package."""
    return path.relative_to(PACKAGE).as_posix()


@cache
def trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES]


def test_no_function_is_longer_than_forty_lines():
    long = [
        f"{named(path)}:{node.lineno} {node.name}: {length(node)} lines"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and length(node) > 40
    ]

    assert long == []


def length(node):
    return node.end_lineno - node.lineno + 1


def test_no_module_is_longer_than_six_hundred_lines():
    assert [named(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 600] == []


def test_no_module_level_container_is_ever_changed():
    changed = [
        f"{named(path)}:{node.lineno} {name}"
        for path, tree in trees()
        for name in containers(tree)
        for node in ast.walk(tree)
        if changes(node, name)
    ]

    assert changed == []


def test_module_level_containers_are_constants():
    variable = [f"{named(path)} {name}" for path, tree in trees() for name in containers(tree) if name.upper() != name]

    assert variable == []


def containers(tree):
    """Names of dicts, lists and sets of a module."""
    for node in tree.body:
        value = getattr(node, "value", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign) or value is None:
            continue
        if isinstance(value, MUTABLE) or (isinstance(value, ast.Call) and ast.unparse(value.func) in MAKERS):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) != "__all__":
                yield ast.unparse(target)


def changes(node, name):
    match node:
        case ast.Subscript(value=ast.Name(id=found), ctx=ast.Store() | ast.Del()):
            return found == name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=found), attr=method)):
            return found == name and method in CHANGERS
        case ast.AugAssign(target=ast.Name(id=found)):
            return found == name
        case _:
            return False


def test_nothing_is_declared_global_and_only_the_cli_prints():
    found = [
        f"{named(path)}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
        or (not named(path).startswith("cli/") and isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
    ]

    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
