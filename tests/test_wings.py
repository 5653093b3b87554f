"""Every wing's `__init__` is its table of contents: what is in its folder, and what may import what."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "afdsim"
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
named = pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)


def rooms_listed(wing):
    """Names of the table of contents, in its order."""
    _, *lines = ast.get_docstring(ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))).splitlines()
    return [line.split()[0] for line in lines if line]


def rooms_imported(path):
    """Rooms of its own wing that a module imports, wherever in it and for whatever reason."""
    wing = f"afdsim.{path.parent.name}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=module, names=names) if module == wing:
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0) if module.startswith(f"{wing}."):
                yield module.split(".")[2]
            case ast.ImportFrom(level=level) if level > 0:
                yield f"relative import in {path.name}"
            case ast.Import(names=names):
                yield from (name.name.split(".")[2] for name in names if name.name.startswith(f"{wing}."))


def test_all_wings_are_found():
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}

    assert sorted(folders) == WINGS


@named
def test_a_wing_lists_the_rooms_of_its_folder(wing):
    rooms = {path.stem for path in wing.glob("*.py")} - {"__init__", "__main__"}

    assert sorted(rooms_listed(wing)) == sorted(rooms)


@named
def test_an_init_is_a_sentence_and_one_line_a_room(wing):
    tree = ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))
    sentence, empty, *lines = ast.get_docstring(tree).splitlines()

    assert len(tree.body) == 1
    assert sentence.endswith(".")
    assert empty == ""
    assert all(len(line.split()) > 1 for line in lines)


@named
def test_a_room_imports_only_rooms_listed_before_it(wing):
    listed = rooms_listed(wing)
    upwards = [
        f"{room} imports {other}"
        for number, room in enumerate(listed)
        for other in rooms_imported(wing / f"{room}.py")
        if other not in listed[:number]
    ]

    assert upwards == []
