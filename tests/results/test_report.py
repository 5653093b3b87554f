"""What a report is as a file: whole, escaped, the same every time, every picture with its data."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from afdsim.results import page as pages
from afdsim.results import report as reports
from afdsim.results.result import Result, pooled
from afdsim.results.result import report as of_seeds
from afdsim.results.steady import Load
from afdsim.scenario.document import load
from afdsim.simulation import simulate
from tests import synthetic

NASTY = '<script>alert(1)</script> $x_$ [red] & "quoted" </title> {{ 7 * 7 }}'
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Read(HTMLParser):
    """Elements of a page: (tag, attributes, path of open tags), and text by the path it stands in."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.texts.append((data, tuple(self.open)))

    def all(self, tag):
        return [attributes for each, attributes, _ in self.elements if each == tag]

    def text(self, *tags):
        return [data for data, path in self.texts if path[-len(tags) :] == tags]


@pytest.fixture(scope="module")
def result():
    return simulate(load("small"))


@pytest.fixture(scope="module")
def html(result):
    return str(result.report())


def figures_of(html):
    return re.findall(r"<figure.*?</figure>", html, re.S)


def test_every_element_is_closed_and_no_id_is_there_twice(html):
    read = Read(html)
    ids = [attributes["id"] for _, attributes, _ in read.elements if "id" in attributes]

    assert read.open == []
    assert len(ids) == len(set(ids))


def test_a_report_asks_for_nothing_from_outside(html):
    links = [value for _, attributes, _ in Read(html).elements for key, value in attributes.items() if "href" in key]

    assert not [tag for tag, attributes, _ in Read(html).elements if "src" in attributes or tag in {"link", "iframe"}]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html
    assert "http" not in html


def test_a_reference_inside_a_picture_finds_its_target_in_the_same_picture(html):
    for figure in figures_of(html):
        targets = set(re.findall(r' id="([^"]+)"', figure))

        assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", figure)) <= targets


def test_every_figure_has_a_picture_a_heading_a_sentence_and_its_data(html):
    found = [Read(figure) for figure in figures_of(html)]

    assert len(found) >= 10
    for read in found:
        (svg,) = read.all("svg")
        (name,) = read.text("figcaption", "h3")
        (sentence,) = read.text("figcaption", "p")
        assert svg["role"] == "img"
        assert svg["aria-label"] == f"{name}. {sentence}"
        assert re.search(r"\d", sentence)
        assert sentence.endswith(".")
        assert len(read.all("tr")) > 1
        assert read.text("rect", "title")


def test_headings_are_in_order(html):
    levels = [int(tag[1]) for tag, _, _ in Read(html).elements if re.fullmatch("h[1-6]", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_verdict_and_the_answer_come_first(result, html):
    read = Read(html)
    (answer,) = read.text("header", "p")[-1:]

    assert "PASS" in read.text("li", "strong")
    tpot, tgs = result.summary["mean_tpot_ms"], result.summary["afdsim"]["tgs"]
    assert (
        answer == f"1A1F on 16 H800 gives {tpot:.4g} ms mean TPOT, {tgs:,.0f} tok/s/GPU and " + answer.split(" and ")[1]
    )
    assert answer.endswith("mean TPOT is within the SLA of 4 ms.")


def test_the_table_is_that_of_the_terminal(result, html):
    from afdsim.results.terminal import terminal

    cells = set(Read(html).text("tr", "td"))
    lines = [
        line for line in terminal(result).splitlines() if line.startswith((" TPOT (ms)", " ITL (ms)", " E2EL (s)"))
    ]

    assert len(lines) == 3
    for line in lines:
        name, figures = line[1 : line.index(")") + 1], line[line.index(")") + 1 :].split()
        assert {name, *figures} <= cells


def test_a_saved_run_has_the_same_bytes_as_the_result_and_as_what_is_read_back(result, html, tmp_path):
    folder = result.save(tmp_path / "run")

    assert (folder / "report.html").read_text(encoding="utf-8") == html
    assert str(Result.load(folder).report()) == html


def test_a_report_stays_far_below_a_megabyte(html):
    assert len(html.encode()) < 700_000


def test_a_name_with_markup_and_formulas_is_text_everywhere(result):
    scenario = result.scenario.vary("name", NASTY)
    nasty = replace(result, scenario=scenario, manifest=replace(result.manifest, scenario=NASTY))
    runs = {NASTY: [nasty], "plain": [result]}
    read = Read(str(reports.report(runs, {name: pooled(seeds) for name, seeds in runs.items()})))
    (script,) = read.text("script")

    assert "alert" not in script
    assert [text for text, path in read.texts if "svg" in path and NASTY in text and path[-1] == "text"]
    assert [text for text in read.text("head", "title") if NASTY in text]
    assert NASTY in str(Read(str(nasty.report())).text("main", "header", "h1"))
    assert NASTY in str(Read(nasty._repr_html_()).text("table", "caption"))


def test_what_a_terminal_obeys_is_shown_as_a_sign_of_its_own():
    made = pages.render(pages.Page(kind="run", title="a\x1b[31mb", sections=(pages.Section(name="x", title="\x07"),)))

    assert "\x1b" not in made
    assert "\x07" not in made
    assert "a\N{REPLACEMENT CHARACTER}[31mb" in made


def test_values_stand_on_the_picture_with_their_units(html):
    spots = {figure["id"]: Read(text) for figure, text in zip(Read(html).all("figure"), figures_of(html), strict=True)}
    (first, *_) = spots["tpot-histogram"].text("rect", "title")

    assert re.fullmatch(r"TPOT of a request [\d.]+ to [\d.]+ ms: requests [\d.]+ %", first)
    assert "attention, busy: GPU time" in " ".join(spots["causes"].text("rect", "title"))
    assert not [text for read in spots.values() for text in read.text("rect", "title") if "None" in text]


def test_colours_that_are_no_data_follow_the_theme(html):
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, re.S))

    assert "var(--ink)" in pictures
    assert "var(--grid)" in pictures
    assert not re.search("#(ffffff|000000|e6e6e6|f2f2f2)", pictures)


def test_a_load_that_is_not_carried_comes_before_everything(small):
    load_ = Load(level="OVERLOADED", offered=20.0, served=10.0, growth=10.0, why="the queue grows")
    read = Read(str(synthetic.result(small, load=load_).report()))
    (answer,) = read.text("header", "p")[-1:]

    assert read.text("li", "strong")[0] == "OVERLOADED"
    assert "does not carry the load: OVERLOADED" in answer


def test_figures_that_a_run_has_no_data_for_are_left_out(small, html):
    bare = {attributes["id"] for attributes in Read(str(synthetic.result(small).report())).all("figure")}
    whole = {attributes["id"] for attributes in Read(html).all("figure")}

    assert bare < whole
    assert "pipeline" in whole - bare
    assert not any(name.startswith("ttft") for name in whole)


def test_cells_behind_a_router_have_a_row_each():
    arrivals = "workload.arrival={process: poisson, request_rate: 1000 req/s}"
    asked = [
        arrivals,
        "workload.num_requests=null",
        "workload.duration=4 s",
        "router={policy: round_robin, replicas: 2}",
    ]
    read = Read(str(simulate(load("small", overrides=asked)).report()))

    assert "What else happened" in read.text("section", "h2")
    assert [cell for cell in read.text("tr", "th", "button") + read.text("tr", "th") if cell == "p99 queue (ms)"]
    (answer,) = read.text("header", "p")[-1:]
    assert answer.startswith("2 x 1A1F on 32 H800 gives ")


def test_several_seeds_are_pooled(small):
    read = Read(str(of_seeds([synthetic.result(small, seed) for seed in (0, 1)])))

    assert any("mean of 2 seeds" in text for text in read.text("li", "span"))


def test_a_notebook_shows_percentiles_and_a_picture_and_without_matplotlib_its_table(result, monkeypatch):
    whole = result._repr_html_()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    monkeypatch.delitem(__import__("sys").modules, "afdsim.results.report", raising=False)

    assert whole.count("<svg") == 1
    assert "p99.9" in whole
    assert result._repr_html_().startswith("<table><caption>small")


def test_a_report_shows_itself_in_a_frame_and_saves_itself(result, html, tmp_path):
    made = result.report()

    assert Read(made._repr_html_()).all("iframe")[0]["srcdoc"] == html
    assert made.save(tmp_path / "page.html").read_text(encoding="utf-8") == html


@pytest.mark.parametrize(
    ("cell", "text"),
    [(None, "n/a"), (3, "3"), (12345.6, "12,346"), (0.22241, "0.2224"), (float("nan"), "n/a"), ("x", "x")],
)
def test_a_cell_is_written_with_four_digits(cell, text):
    assert pages.shown(cell) == text


def test_columns_of_numbers_are_known_and_long_tables_are_cut_and_say_so():
    found = pages.table(["name", "rate", "both"], [("2A2F", "60 req/s", number) for number in range(250)])
    html = pages.table_html(found)

    assert found.numeric == (False, True, True)
    assert len(found.rows) == 200
    assert "50 more rows are left out." in html
    assert html.count("<button") == 3


def test_every_run_is_held_to_its_own_limit_by_its_name(small):
    strict = simulate(small.vary("sla", {"tpot": "1ms", "percentile": "mean"}))
    runs = {"loose": [simulate(small)], "strict": [strict]}
    text = Read(str(reports.report(runs, {name: seeds[0].summary for name, seeds in runs.items()}))).texts
    told = " ".join(data for data, path in text if path[-1:] == ("p",))

    assert "loose: all requests have a TPOT of at most 4 ms, which the SLA asks of their mean" in told
    assert "strict: no requests have a TPOT of at most 1 ms, which the SLA asks of their mean" in told
    assert "The SLA of 1 and 4 ms is far off this picture." in told
    assert "strict: 1A1F on 16 H800 gives" in told


def test_no_percentile_is_told_that_the_table_calls_unknown(result):
    sentence = next(data for data, _ in Read(str(result.report())).texts if data.startswith("Half of the requests"))
    one = str(simulate(result.scenario.vary("workload.num_requests", 1)).report())

    assert "95% at most" in sentence
    assert "99%" not in sentence
    assert "1 request, too few for percentiles" in one
    assert "the run is too short for an interval" in one


def test_a_limit_has_no_verdict_while_the_load_is_not_known():
    scenario = load("step3_prefill").vary("workload.duration", "20s")
    made = simulate(scenario)
    html = str(made.report())

    limits = made.summary["afdsim"]["sla"]["limits"]
    assert made.summary["afdsim"]["load"] == "n/a"
    assert {each["verdict"] for each in limits.values()} == {"n/a"}
    assert ">PASS<" not in html
    assert "PASS" not in str(made)


def test_names_on_plates_of_paper_follow_the_theme(html):
    (roofline,) = [figure for figure in figures_of(html) if 'id="roofline"' in figure]
    names = re.findall(r"<text[^>]*>[^<]*of the kernels[^<]*</text>", roofline)

    assert names
    assert not [name for name in names if "#010101" in name]
