"""A report in a real headless Chromium: nothing asked of a network, nothing cut off, tables that sort, both themes.

Needs playwright (pip install 'afdsim[browser]') and a Chromium of the system; skipped with the reason elsewhere.
"""

import shutil

import pytest

from afdsim.scenario.document import load
from afdsim.simulation import simulate

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)})")
    drive = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'afdsim[browser]'")
    with drive.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=found, headless=True, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    result = simulate(load("small", overrides=["name=<b>a</b> $x_$ [red]"]))
    return result.report().save(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def opened(browser, file):
    contexts = []

    def open_(width, theme="light", **given):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=theme, offline=True, **given
        )
        contexts.append(context)
        page = context.new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
        page.goto(file.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 400])
def test_every_figure_is_visible_and_nothing_is_cut_off_or_fetched(opened, width, theme, file):
    page = opened(width, theme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    boxes = [figure.bounding_box() for figure in page.query_selector_all("figure svg")]

    assert len(boxes) >= 10
    assert all(box["width"] > 200 and box["height"] > 80 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.wrong == []
    assert page.inner_text("h1") == "<b>a</b> $x_$ [red]"


def test_a_picture_draws_what_it_refers_to(opened):
    page = opened(1100)
    colours = page.evaluate("""[...document.querySelectorAll("figure svg [style*='clip-path'], figure svg [clip-path]")]
        .map((each) => (each.getAttribute("clip-path") || "").match(/#([^)]+)/)?.[1])
        .filter((id) => id && !document.getElementById(id))""")

    assert colours == []


def test_the_theme_is_that_of_the_system_until_it_is_chosen(opened):
    page = opened(1100, "dark")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert (before, after) == ("rgb(22, 23, 25)", "rgb(255, 255, 255)")
    assert page.inner_text("#theme") == "Dark"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ink_of_pictures_can_be_read_on_their_paper(opened, theme):
    page = opened(1100, theme)
    ink, paper = page.evaluate("""[getComputedStyle(document.querySelector("figure svg text")).fill,
        getComputedStyle(document.body).backgroundColor]""")

    assert abs(sum(parts(ink)) - sum(parts(paper))) > 500


def parts(colour):
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def test_a_table_sorts_by_the_head_that_is_pressed_by_keyboard_too(opened):
    page = opened(1100)
    page.evaluate("document.querySelector('#causes, #blame').querySelector('details').open = true")
    table = page.locator("#blame table" if page.locator("#blame").count() else "#causes table").first
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    button = table.locator("th.n button").first
    at = button.evaluate("(each) => each.closest('th').cellIndex")
    read = f"(each) => [...each.tBodies[0].rows].map((row) => Number(row.cells[{at}].textContent.replaceAll(',', '')))"
    button.click()
    falling = table.evaluate(read)
    button.focus()
    page.keyboard.press("Enter")
    rising = table.evaluate(read)

    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert rising != falling
    assert table.locator("th[aria-sort=ascending]").count() == 1


def test_it_prints_light_and_whole(opened):
    page = opened(1100, "dark")
    page.emulate_media(media="print")

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("""[...document.querySelectorAll("section > .scroll")]
        .every((each) => getComputedStyle(each).overflowX === "visible")""")
    assert not page.is_visible("#theme")
    assert len(page.pdf(format="A4")) > 20_000
