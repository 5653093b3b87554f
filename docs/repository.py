"""Documents of the repository as pages of the site: copies with links that lead to pages, made anew by every build.

A link of a document leads to a file of the repository, so that it works on a git host; on the site it leads to the page
of that file where it has one, to a copy of the file where it has none, and a folder is named without a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MADE = DOCS / "_made"

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`(?!\]))", re.MULTILINE | re.DOTALL)


def homes() -> dict[Path, Path]:
    """Return the page of every document that is not below docs/: file or folder -> page."""
    found = {ROOT / "README.md": DOCS / "index.md"}
    for name in ("MODEL", "CHANGELOG", "CONTRIBUTING"):
        found[ROOT / f"{name}.md"] = MADE / f"{name.lower()}.md"
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        found[readme] = found[readme.parent] = MADE / "experiments" / f"{readme.parent.name}.md"
    found[ROOT / "experiments"] = DOCS / "experiments.md"
    return found


def copy() -> None:
    """Write the pages of documents that are not below docs/."""
    pages = homes()
    for source, page in pages.items():
        if page.is_relative_to(MADE) and source.is_file():
            page.parent.mkdir(parents=True, exist_ok=True)
            text = moved(source.read_text(encoding="utf-8"), source, page, pages)
            if not page.is_file() or page.read_text(encoding="utf-8") != text:
                page.write_text(text, encoding="utf-8")


def moved(text: str, source: Path, page: Path, pages: Mapping[Path, Path]) -> str:
    """Return the text of a document with links that work from the place of its page."""

    def link(match: re.Match[str]) -> str:
        file, mark, anchor = match["target"].partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return match[0]
        target = Path(os.path.normpath(source.parent / file))
        if target.is_dir() and target not in pages:
            return match["text"]
        anchor = "" if target == ROOT / "README.md" else f"{mark}{anchor}"
        place = os.path.relpath(pages.get(target, target), page.parent)
        return f"{match['image']}[{match['text']}]({place}{anchor})"

    parts = FENCE.split(text)
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))
