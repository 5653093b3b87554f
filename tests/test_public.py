"""What the package promises in public: its names, and documents that name what there is."""

import inspect
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import afdsim

REPOSITORY = Path(__file__).parent.parent


def test_public_names_are_complete_and_sorted():
    from afdsim.scenario.document import load

    assert sorted(afdsim.__all__, key=lambda name: (name == "__version__" or name.islower(), name)) == afdsim.__all__
    assert {name for name, _ in afdsim._HOME} <= set(afdsim.__all__)
    assert all(getattr(afdsim, name) is not None for name in afdsim.__all__)
    assert afdsim.load is load


def test_public_names_are_documented():
    undocumented = [
        name for name in afdsim.__all__ if name != "__version__" and not (getattr(afdsim, name).__doc__ or "").strip()
    ]

    assert undocumented == []


def test_the_table_shows_how_a_call_begins():
    for name, call in [(name, call) for _, rows in afdsim._TABLE for name, _, call, _ in rows if "(" in call]:
        attribute, _, listed = call.rstrip(")").partition("(")
        found = attrgetter(f"{name}{attribute}")(afdsim)
        wanted = [word.strip(" *") for word in listed.split(",") if word.strip() != "..."]
        has = [each for each in inspect.signature(found).parameters if each != "self"]

        assert [each for each in has if each in wanted] == wanted
        assert "..." in listed or has == wanted


def test_a_prompt_completes_public_names_and_nothing_else():
    code = "import afdsim; print(*(name for name in dir(afdsim) if not name.startswith('__')))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert shown == sorted(name for name in afdsim.__all__ if name != "__version__")


def test_help_shows_every_public_name_before_any_is_used():
    code = "import afdsim, pydoc; print(pydoc.plain(pydoc.render_doc(afdsim)))"
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    head, _, rest = text.partition("PACKAGE CONTENTS")

    for name, room in afdsim._HOME:
        assert re.search(rf"^ +{name}\b.* {{2}}\w", head, re.MULTILINE), name
        assert not room or re.search(rf"(class |^ +|\.){name}\b", rest, re.MULTILINE), name
    assert re.search(r"simulate\(\s*scenario: ", rest)  # since 3.13 a long signature has a line for each argument


def test_no_public_function_bears_the_name_of_a_module():
    modules = {path.stem for path in (REPOSITORY / "afdsim").glob("*.py")}

    assert {name for name in afdsim.__all__ if name in modules} == {"chrome", "plot", "timeline"}


def test_documents_name_files_and_commands_that_exist():
    from afdsim.cli.main import main

    for name in ("README.md", "MODEL.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (REPOSITORY / target).exists(), f"{name} links to {target}"
        fenced = "".join(body for _, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        commands = set(re.findall(r"^(?:\.venv/bin/)?afdsim ([a-z]+)", fenced, re.MULTILINE))
        assert commands <= set(main.commands), name
