"""Every figure that a document prints is what its origin gives, and what moved is seen and said."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from afdsim.errors import ScenarioError
from tests.test_shape import FUNCTIONS, length
from tests.test_shape import ast as syntax
from verdicts import experiments, figures, kept, ledger, page, pages, pictures, quotes, runs, suite, tables, uncovered
from verdicts import verified as seen
from verdicts.__main__ import main
from verdicts.kept import Row
from verdicts.ledger import Aside, Ledger, Quote
from verdicts.numbers import prints, spaced

REPOSITORY = Path(__file__).parent.parent
BOOK = ledger.read()
DOCUMENTS = sorted({quote.document for quote in BOOK.quotes})
MODULES = sorted((REPOSITORY / "verdicts").glob("*.py"))


def of(document, *, run):
    return [each for each in BOOK.quotes if each.document == document and figures.needs_run(each, BOOK) == run]


def a_quote(says, document="docs/trust.md", **given):
    return Quote(document=document, says=says, **given)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_figures_of_a_document_are_what_kept_tables_give(document):
    faults = [fault.why for quote in of(document, run=False) for fault in quotes.held(quote, BOOK)]

    assert faults == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_whose_figures_need_runs_stand_in_their_document(document):
    found = [quotes.stands(quote) for quote in of(document, run=True)]

    assert [each.why for each in found if isinstance(each, quotes.Fault)] == []


@pytest.mark.slow
@pytest.mark.parametrize("document", [each for each in DOCUMENTS if of(each, run=True)])
def test_figures_of_a_document_are_what_runs_give(document):
    faults = [fault.why for quote in of(document, run=True) for fault in quotes.held(quote, BOOK)]

    assert faults == []


def test_every_quote_has_an_origin():
    assert [quote.says for quote in BOOK.quotes if not figures.origins(quote, BOOK)] == []


def test_every_figure_of_the_documents_has_an_origin():
    """Those of the experiments' own pages but a few."""
    counts = [uncovered.counted(document, BOOK) for document in uncovered.documents()]
    left = [found for each in counts for found in each.left]

    asked = "quote them in docs/figures.yaml, or set them aside: python -m verdicts --uncovered"
    assert [each for each in left if not each.document.startswith("experiments/")] == [], asked
    assert len(left) <= 8, asked
    assert sum(each.quoted for each in counts) > 500


# what moves is seen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text", "same"),
    [
        (43.96, "44.0", True),
        (43.94, "44.0", False),
        (4371.09, "4,371", True),
        (-12.495, "-13", False),
        (0.0, "-0.0", True),
        (1e6, "1,000,000", True),
    ],
)
def test_a_value_prints_at_the_digits_that_are_there(value, text, same):
    assert prints(value, text) == same


def test_a_figure_that_moved_is_told_with_both_values():
    quote = a_quote("on average, afdsim predicts {1.0:.1f} ms", "README.md")
    faults = quotes.faults(replace(quote, says="8; {x:.1f} % (13 %)"), {"x": 11.5})

    assert [fault.why for fault in faults] == ["10.5 -> 11.5 (+9.52%) in '8; {x:.1f} % (13 %)'"]


def test_words_that_are_not_there_or_twice_are_told():
    gone, twice = (quotes.stands(a_quote(says)) for says in ("no such words {1:d}", "what it leaves open"))

    assert "not in docs/trust.md" in gone.why
    assert isinstance(twice, tuple) or "times in" in twice.why
    assert "2 times in docs/trust.md" in quotes.stands(a_quote("`kernel`")).why


def test_lines_may_be_broken_anywhere_and_a_number_is_read_whole():
    quote = a_quote("| 2A2F | {x:d} steps/s\n| {y:,d} steps/s")

    assert quotes.stands(quote) == ("8", "4,808")


def test_an_expression_that_fails_names_its_quote():
    quote = a_quote("{ratio_sweep('TP9').tgs:.0f} of")

    with pytest.raises(ScenarioError, match=r"docs/figures.yaml, docs/trust.md: .*no row with {'ffn': 'TP9'} in"):
        quotes.evaluated(quote, BOOK)


def test_expressions_reach_tables_by_their_first_columns():
    known = figures.scope(a_quote("{ratio_sweep:s} {max:s}"), BOOK)

    assert figures.value("ratio_sweep('TP8', 4096, 2).gpus", known) == 32
    assert figures.value("max(ratio_sweep(..., 4096).tgs)", known) > 4000
    assert figures.value("ratio_sweep('TP8', 4096).most('tgs').gpus", known) == 32
    with pytest.raises(NameError):
        figures.value("open('README.md')", known)


def written(folder, text):
    folder.mkdir(exist_ok=True)
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_cells_of_a_table_that_moved_are_told_the_worst_first(tmp_path):
    before = written(tmp_path / "a", "name,x,y\none,1.0,2.0\ntwo,3.0,\n")
    after = written(tmp_path / "b", "name,x,y\none,1.0005,2.2\ntwo,3.3,\n")
    cells = [str(cell) for cell in tables.moved(before, after)]

    assert tables.moved(before, before) == []
    assert cells == ["y of row 1 (one): 2 -> 2.2 (+10.00%)", "x of row 2 (two): 3 -> 3.3 (+10.00%)"]


def test_text_and_shapes_that_moved_are_told(tmp_path):
    before = written(tmp_path / "a", "name,x\none,1.0\n")
    other = written(tmp_path / "b", "name,x\nfour,1.0\n")
    longer = written(tmp_path / "c", "name,x\none,1.0\ntwo,2.0\n")

    assert [str(cell) for cell in tables.moved(before, other)] == ["name of row 1 (one): one -> four"]
    assert [str(cell) for cell in tables.moved(before, longer)] == [
        "shape of the table: 1 rows of name, x -> 2 rows of name, x"
    ]


def test_pixels_that_differ_are_counted(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    numpy = pytest.importorskip("numpy")
    picture = numpy.zeros((10, 10, 3))
    pyplot.imsave(tmp_path / "a.png", picture)
    picture[0, 0] = 1.0
    pyplot.imsave(tmp_path / "b.png", picture)

    assert pictures.unlike(tmp_path / "a.png", tmp_path / "a.png") == ""
    assert pictures.unlike(tmp_path / "a.png", tmp_path / "b.png") == "differs in 1.00% of the pixels"
    assert pictures.unlike(tmp_path / "a.png", tmp_path / "c.png") == "differs: only one of both is there"


# what was made is kept -----------------------------------------------------------------------------------------------


def an_experiment(tmp_path, monkeypatch, script):
    """An experiment of one table in a repository of its own."""
    monkeypatch.setattr(experiments, "PLACE", tmp_path / "experiments")
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(kept, "digest", lambda *_: "one version")
    folder = tmp_path / "experiments" / "own"
    written_to = folder / "expected"
    written_to.mkdir(parents=True)
    (written_to / "table.csv").write_text("x\n1.0\n")
    (folder / "run.py").write_text(script)
    (found,) = experiments.found(tmp_path / "results", everything=False, traces=None)
    return found


SCRIPT = (
    "import sys, pathlib; print('said'); pathlib.Path(sys.argv[2], 'table.csv').write_text('x\\n{}\\n'); sys.exit({})"
)


def test_an_experiment_is_made_once_and_held_to_its_table(tmp_path, monkeypatch):
    own, said = an_experiment(tmp_path, monkeypatch, SCRIPT.format("1.0", 0)), []
    (before,) = experiments.rows(own)
    experiments.run([own], 1, said.append)
    experiments.run([own], 1, said.append)
    (after,) = experiments.rows(own)

    assert said == ["own ...", "own: made"]
    assert (before.verdict, after.verdict) == ("not run here: not asked for", "kept")
    assert after.what == "experiments/own/expected/table.csv"


def test_an_experiment_that_gives_another_table_or_fails_is_told(tmp_path, monkeypatch):
    own, said = an_experiment(tmp_path, monkeypatch, SCRIPT.format("1.5", 0)), []
    experiments.run([own], 1, said.append)
    (moved,) = experiments.rows(own)
    (own.folder / "run.py").write_text(SCRIPT.format("1.0", 3))
    (own.made / kept.STAMP).unlink()
    experiments.run([own], 1, said.append)
    (failed,) = experiments.rows(own)

    assert (moved.verdict, moved.holds) == ("moved in 1 cells, most in x of row 1: 1 -> 1.5 (+50.00%)", False)
    assert (failed.verdict, failed.holds) == ("failed", False)
    assert said[-1].startswith("own: failed with exit code 3: said")


def test_what_another_version_made_does_not_count(tmp_path):
    kept.stamp(tmp_path, "one")

    assert kept.whole(tmp_path, "one")
    assert not kept.whole(tmp_path, "other")
    assert not kept.whole(tmp_path / "none", "one")


def test_values_of_runs_are_kept_and_held_to_their_quotes(tmp_path, monkeypatch):
    quote = next(each for each in BOOK.quotes if figures.needs_run(each, BOOK))
    book = replace(BOOK, quotes=(quote,))
    right = {
        figure.expression: quotes.said(text)[0]
        for figure, text in zip(quote.figures, quotes.stands(quote), strict=True)
    }
    asked = []
    monkeypatch.setattr(runs.quotes, "evaluated", lambda *_: asked.append(1) or right)
    (before,) = runs.rows(book, tmp_path, ())
    for _ in range(2):
        runs.made(book, tmp_path, lambda _: None)
    (after,) = runs.rows(book, tmp_path, ())

    assert len(asked) == 1
    assert (before.verdict, after.verdict) == ("not run here: 1 quote of runs", "kept")


def test_quotes_of_a_table_that_was_not_made_anew_say_so(tmp_path):
    quote = next(each for each in BOOK.quotes if figures.origins(each, BOOK) == ("experiments/straggler/run.py",))
    book = replace(BOOK, quotes=(quote,))
    (old,), (new,) = (runs.rows(book, tmp_path, whole) for whole in ((), ("experiments/straggler/run.py",)))

    assert (old.verdict, new.verdict) == ("as its kept table", "kept")


def test_long_experiments_and_those_of_traces_say_why_they_are_not_run(tmp_path):
    few, all_of_them = (
        {each.name: each.why_not for each in experiments.found(tmp_path, everything=everything, traces=None)}
        for everything in (False, True)
    )

    assert few["planner_check"] == "twenty minutes; with --all"
    assert (few["straggler"], all_of_them["planner_check"]) == ("", "")
    assert all_of_them["when_afd_pays"] == "the recorded traces do not ship; with --traces FOLDER"


def test_outcomes_of_pytest_become_rows(tmp_path):
    (tmp_path / pages.FILE).write_text(
        '<testsuites><testsuite><testcase classname="tests.test_docs" name="test_a[docs/sweeps.md]"/>'
        '<testcase classname="tests.test_docs" name="test_a[docs/sweeps.md-slow]"><failure/></testcase>'
        '<testcase classname="tests.test_docs" name="test_a[README.md]"/></testsuite></testsuites>'
    )
    kept.stamp(tmp_path, pages.made_of())
    found = {row.told: (row.verdict, row.holds) for row in pages.rows(pages.FOLLOWED, tmp_path)}

    assert found == {"README.md": ("as shown", True), "docs/sweeps.md": ("failed: test_a[docs/sweeps.md-slow]", False)}


# the table -----------------------------------------------------------------------------------------------------------


def a_row(**given):
    return Row(**{"kind": "quote", "what": "a | b", "told": "README.md", "verdict": "kept", "origin": "run", **given})


def test_the_page_counts_and_marks_what_moved():
    rows = [a_row(), a_row(verdict="moved: 1 -> 2", holds=False), a_row(verdict="not run here: long")]
    text = page.page(rows)

    assert "3 rows: 1 hold, 1 moved, differ or failed, 1 not run here." in text
    assert "| quote | a \\| b | README.md | **moved: 1 -> 2** | `run` |" in text
    assert page.printed(rows).splitlines()[-2].startswith("quote    moved")


def test_claims_and_checks_are_rows(tmp_path):
    claims, checks = tmp_path / "a" / "expected" / "verdicts.csv", tmp_path / "checks.json"
    claims.parent.mkdir(parents=True)
    claims.write_text("claim,said,source,verdict\nC1,AFD pays,7,shown with conditions\n")
    checks.write_text(json.dumps([{"check": "steps", "compares": "this with that", "verdict": "differs"}]))
    (claim,), (check,) = seen.claims(claims), seen.checks(checks)

    assert (claim.what, claim.verdict, claim.holds) == ("C1: AFD pays", "shown with conditions", True)
    assert (check.what, check.verdict, check.holds) == ("steps: this with that", "differs", False)
    assert "claims: 1 shown with conditions" in page.counted([claim, check])


def test_the_checks_that_are_read_are_those_of_the_page():
    page_of_checks = (REPOSITORY / "docs" / "verification.md").read_text(encoding="utf-8")
    found = json.loads(seen.CHECKS.read_text(encoding="utf-8"))

    assert [each["check"] for each in found] == re.findall(r"^\| \[(\w+)\]", page_of_checks, re.MULTILINE)
    assert all(f"| {each['value']} | {each['at most']} |" in page_of_checks for each in found)


def test_the_driver_writes_what_it_prints_and_refuses_names_that_are_none(tmp_path, capsys):
    code = main(["--only", "ledger", "--results", str(tmp_path / "results"), "-o", str(tmp_path / "verdicts.md")])
    told = capsys.readouterr().out

    assert code == 0, told
    assert told.splitlines()[-1] in (tmp_path / "verdicts.md").read_text(encoding="utf-8")
    assert main(["--only", "legder"]) == 2
    assert "--only legder: no part; there are runs, blocks, bands" in capsys.readouterr().err


def test_the_page_has_a_row_for_every_origin_and_nothing_of_this_machine():
    text = (REPOSITORY / "docs" / "verdicts.md").read_text(encoding="utf-8")
    names = [tables.home(path)[0] for path in tables.places().values()]

    assert [name for name in names if name not in text] == []
    assert all(check["check"] in text for check in json.loads(seen.CHECKS.read_text(encoding="utf-8")))
    assert not re.search(r"/(home|tmp|work|Users)/|\d\d:\d\d", text)


# what has no origin --------------------------------------------------------------------------------------------------


def test_a_figure_is_quoted_run_aside_or_left(tmp_path):
    text = "# Page\n\nIt takes 12.5 ms.\nAnd 3\n% more, 4 GB and 7 s.\n\n| a | 1,024 | x86 | 3 |\n\n```console\n9 ms\n```\n"
    (tmp_path / "page.md").write_text(text)
    book = Ledger(
        quotes=(a_quote("takes {12.5:.1f} ms. And 3 % more", "page.md"),),
        asides=(Aside(document="page.md", why="stated", words="4 GB"),),
        runs={},
        settings={},
    )
    count = uncovered.counted("page.md", book, tmp_path)

    assert (count.quoted, count.run, count.aside) == (1, 1, 1)
    assert [(left.line, left.figure) for left in count.left] == [(5, "7 s"), (7, "1,024")]
    assert "in all: 1 quoted, 1 run, 1 aside, 2 left" in uncovered.report([count])


def test_what_is_set_aside_is_there_and_has_a_class():
    head = spaced(ledger.PLACE.read_text(encoding="utf-8").partition("settings:")[0])
    for part in BOOK.asides:
        uncovered.span((REPOSITORY / part.document).read_text(encoding="utf-8"), part)

    assert {part.why for part in BOOK.asides} <= set(re.findall(r"# (\w+) ", head))


# it stands apart -----------------------------------------------------------------------------------------------------


def test_rooms_are_listed_and_import_only_rooms_above_them():
    trees = {path.stem: syntax.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    text = syntax.get_docstring(trees.pop("__init__"))
    order = [line.split()[0] for line in text.splitlines() if re.match(r"\w+ {2,}\w", line)]
    for name, tree in trees.items():
        from_here = [node for node in syntax.walk(tree) if isinstance(node, syntax.ImportFrom)]
        used = {each.name for node in from_here if node.module == "verdicts" for each in node.names}
        used |= {node.module.partition(".")[2] for node in from_here if node.module.startswith("verdicts.")}
        above = order if name == "__main__" else order[: order.index(name)]
        assert used <= set(above), name

    assert sorted(order) == sorted(set(trees) - {"__main__"})
    assert all(syntax.get_docstring(tree) for tree in trees.values())
    nodes = [node for tree in trees.values() for node in syntax.walk(tree) if isinstance(node, FUNCTIONS)]
    assert [node.name for node in nodes if length(node) > 40] == []
    assert suite.Asked(only=("runs",)).wants("runs")
