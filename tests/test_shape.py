"""Limits that keep the source readable."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "afdsim"
MODULES = sorted(PACKAGE.rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MUTABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MAKERS = {"dict", "list", "set", "bytearray", "defaultdict", "deque", "Counter", "array"}


def trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES]


def test_no_function_is_longer_than_forty_lines():
    long = [
        f"{path.name}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno + 1 > 40
    ]

    assert long == []


def test_no_module_is_longer_than_six_hundred_lines():
    assert [path.name for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 600] == []


def test_no_module_level_name_is_mutable():
    mutable = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees()
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" not in ast.unparse(node).split("=")[0]
        if isinstance(node.value, MUTABLE)
        or (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in MAKERS)
    ]

    assert mutable == []


def test_nothing_is_declared_global_and_only_the_cli_prints():
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
        or (path.name != "cli.py" and isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
    ]

    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
