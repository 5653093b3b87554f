"""What the documents say works: every block runs, every link leads somewhere, made pages are as the code makes them."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

import afdsim
from afdsim.scenario.document import load, schema
from tests import documents

PAGES = documents.pages()
LINKED = [
    *PAGES,
    *(documents.REPOSITORY / name for name in ("CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(documents.REPOSITORY.glob("experiments/*/README.md")),
]
KNOWN = {"console", "python", "yaml", "json", "csv", "sh", "text", "", "{toctree}", "{eval-rst}"}
WORDS = {"slow", "fragment", "compile"}


def walks():
    """Every page without its slow blocks, and every page that has some in full."""
    for path in PAGES:
        found = list(documents.blocks(path))
        yield pytest.param(path, False, id=documents.name(path))
        if any(block.slow for block in found):
            yield pytest.param(path, True, id=f"{documents.name(path)}-slow", marks=pytest.mark.slow)


@pytest.fixture
def maker(monkeypatch):
    """The scripts that make pages."""
    monkeypatch.syspath_prepend(str(documents.DOCS))
    modules = [importlib.import_module(name) for name in ("keys", "generate")]
    yield modules
    for module in modules:
        sys.modules.pop(module.__name__)


@pytest.mark.parametrize(("path", "slow"), list(walks()))
@pytest.mark.filterwarnings("default")
def test_a_reader_who_follows_a_page_sees_what_it_says(path, slow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before, reader = set(sys.modules), documents.Reader(path)
    for block in documents.blocks(path):
        if slow or not block.slow:
            reader.follow(block)
    for own in [name for name in set(sys.modules) - before if _is_below(sys.modules[name], tmp_path)]:
        del sys.modules[own]


def _is_below(module, folder):
    return Path(getattr(module, "__file__", None) or "/").is_relative_to(folder)


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "README.md"], ids=documents.name)
def test_commands_stand_where_they_are_run(path):
    found = list(documents.blocks(path))
    strange = {block.language for block in found} - KNOWN
    words = {word for block in found for word in block.words if "=" not in word} - WORDS
    idle = [b.line for b in found if b.language in ("", "text") and b.body.startswith(("afdsim ", "$ afdsim "))]

    assert (strange, words) == (set(), set())
    assert idle == []


@pytest.mark.parametrize("path", PAGES, ids=documents.name)
def test_a_file_to_write_is_named_in_the_text(path):
    text = documents.FENCE.sub("", path.read_text(encoding="utf-8"))
    files = [block.word("file") for block in documents.blocks(path) if block.word("file")]

    assert [file for file in files if f"`{file}`" not in text] == []


@pytest.mark.parametrize("path", LINKED, ids=documents.name)
def test_links_lead_to_files_and_headings_that_exist(path):
    astray = []
    for target in documents.links(path):
        file, _, anchor = target.partition("#")
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        place = (path.parent / file).resolve() if file else path
        known = place.exists() and (not anchor or anchor in set(documents.anchors(place)))
        astray += [] if known else [target]

    assert astray == []


def test_a_link_astray_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n\n## Two, `x: y`\n\n## One\n\n[a](#no) `[b](none.md)` [c](page.md#two-x-y)\n")

    assert list(documents.anchors(page)) == ["one", "two-x-y", "one-1"]
    assert documents.links(page) == ["#no", "page.md#two-x-y"]


def test_output_that_differs_is_seen():
    assert documents.same("a\n...\nd\n", "a\nb\nc\nd  \n")
    assert documents.same("", "anything")
    assert not documents.same("a\n", "a\nb\n")
    assert not documents.same("a 1\n...\n", "a 2\n")


def test_every_page_is_in_the_contents():
    listed = Counter(
        line.split("<")[-1].rstrip(">").strip()
        for block in documents.blocks(documents.DOCS / "index.md")
        if block.language == "{toctree}"
        for line in block.body.splitlines()
        if line and not line.startswith(":")
    )
    written = {
        p.relative_to(documents.DOCS).with_suffix("").as_posix() for p in PAGES if p.is_relative_to(documents.DOCS)
    }

    assert written - {"index"} <= set(listed)
    assert max(listed.values()) == 1


def test_made_pages_are_what_the_code_makes(maker):
    _, generate = maker
    stale = [name for name, text in generate.pages().items() if (documents.DOCS / name).read_text("utf-8") != text]

    assert stale == [], "run: make docs"


@pytest.mark.slow
def test_the_validation_page_is_what_is_predicted(maker):
    _, generate = maker

    assert (documents.DOCS / "validation.md").read_text("utf-8") == generate.measured()["validation.md"], (
        "run: make docs"
    )


def test_the_scenario_reference_has_every_key_of_the_schema_with_a_meaning(maker):
    keys, _ = maker
    text = schema()
    wanted = {(name, key) for name, part in text["$defs"].items() for key in part.get("properties", {})}
    wanted |= {("Scenario", key) for key in text["properties"] if key != "extends"}
    found = {(section.part.__name__, key.name): key.meaning for section in keys.sections() for key in section.keys}

    assert set(found) == wanted
    assert [key for key, meaning in found.items() if not meaning] == []


def test_every_key_has_an_example_that_loads(maker, tmp_path, monkeypatch):
    keys, _ = maker
    monkeypatch.chdir(tmp_path)
    Path("requests.csv").write_text("arrival_s,input_len,output_len\n0.0,1024,64\n2.0,900,32\n")
    Path("experts.csv").write_text(",".join(["1"] * 48) + "\n")
    shown = keys.examples()
    leaves = {
        (section.part.__name__, key.name)
        for section in keys.sections()
        for key in section.keys
        if not list(keys.parts(key.field.annotation)) and not keys._is_tag(key)
    }

    assert leaves <= set(shown)
    for label, example in shown.items():
        assert load(example.base, example.overrides).key, label
        assert label[1] in example.overrides[-1], label


def test_the_python_reference_has_every_public_name(maker):
    _, generate = maker
    text = generate.python()

    assert [name for name, _ in afdsim._HOME if f"afdsim.{name}\n" not in text] == []
