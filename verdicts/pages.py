"""Blocks of the documentation followed, made pages made, and bands around published figures, by the tests of each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from xml.etree import ElementTree as ET

from verdicts import kept
from verdicts.kept import NOT_RUN, ROOT, Row

FOLLOWED, BANDS = "blocks", "bands"
SUITES = {
    FOLLOWED: ("tests/test_docs.py", "-m", "slow or not slow", "-k", "a_reader_who_follows or validation_page"),
    BANDS: ("tests", "-m", "paper", "-rA"),
}
"""What pytest is given for each."""
ORIGINS = {FOLLOWED: "make docs-test", BANDS: "pytest -m paper"}
FILE = "outcomes.xml"


def made_of() -> str:
    """Return the digest of pages and tests, beside that of the package."""
    pages = [ROOT / "README.md", ROOT / "MODEL.md", *sorted((ROOT / "docs").rglob("*.md"))]
    own = [page for page in pages if not {"_build", "_made"} & set(page.parts) and page.name != "verdicts.md"]
    return kept.digest(*own, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "docs").glob("*.py")))


def run(which: str, folder: Path, say: Callable[[str], None]) -> None:
    """Run the tests of blocks or of bands, if they were not yet; what they print goes to the terminal."""
    if kept.whole(folder, made_of()):
        return
    say(f"{which} ...")
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES[which]]
    done = subprocess.run([*words, f"--junitxml={folder / FILE}"], cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode in (0, 1):
        kept.stamp(folder, made_of())
    say(f"{which}: {'as told' if done.returncode == 0 else f'pytest ended with {done.returncode}'}")


def rows(which: str, folder: Path) -> Iterator[Row]:
    """Return what became of the tests of blocks or of bands, a row for every page or file of tests."""
    origin = ORIGINS[which]
    if not kept.whole(folder, made_of()):
        yield Row(kind=which, what=which, told="docs", verdict=NOT_RUN, origin=origin)
        return
    cases: dict[str, list[ET.Element]] = {}
    for case in ET.parse(folder / FILE).iter("testcase"):
        cases.setdefault(_place(which, case), []).append(case)
    for place, own in sorted(cases.items()):
        yield _row(which, place, own)


def _place(which: str, case: ET.Element) -> str:
    """Return the page that a test of blocks follows, or the file of a test of bands."""
    name = case.attrib["name"]
    if which == BANDS:
        return case.attrib["classname"].replace(".", "/") + ".py"
    return name.partition("[")[2].rstrip("]").removesuffix("-slow") or "docs/validation.md"


def _row(which: str, place: str, cases: list[ET.Element]) -> Row:
    bad = [case.attrib["name"] for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    what = f"{place}, its blocks" if which == FOLLOWED else f"{place}, tests: {len(cases) - len(skipped)}"
    verdict = f"failed: {kept.listed(bad)}" if bad else NOT_RUN if len(skipped) == len(cases) else _held(which)
    told = place if which == FOLLOWED else "tests/data/paper, afdsim/data/published.csv"
    return Row(kind=which, what=what, told=told, verdict=verdict, origin=ORIGINS[which], holds=not bad)


def _held(which: str) -> str:
    return "as shown" if which == FOLLOWED else "held"
