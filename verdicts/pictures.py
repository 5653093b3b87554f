"""Pictures drawn anew beside those that are kept: the same bytes, the same pixels, or how many differ."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree

from verdicts import kept
from verdicts.kept import KEPT, NOT_RUN, ROOT, Row

DRAW = ROOT / "docs" / "pictures.py"
ORIGIN = "make pictures"


def made_of() -> str:
    """Return the digest of what pictures of the documentation are drawn from."""
    return kept.digest(DRAW)


def draw(folder: Path, say: Callable[[str], None]) -> None:
    """Draw the pictures of the documentation, if they are not yet."""
    if kept.whole(folder, made_of()):
        return
    say("pictures ...")
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(DRAW), "-o", str(folder)], env=env, check=False)
    if done.returncode == 0:
        kept.stamp(folder, made_of())
    say("pictures: drawn" if done.returncode == 0 else f"pictures: failed with exit code {done.returncode}")


def rows(folder: Path) -> Iterator[Row]:
    """Return what became of the pictures of the documentation."""
    if not kept.whole(folder, made_of()):
        yield Row(kind="picture", what="docs/*.svg, docs/*.png", told="docs", verdict=NOT_RUN, origin=ORIGIN)
        return
    for path in sorted(path for path in folder.iterdir() if path.suffix in {".svg", ".png"}):
        before = ROOT / "docs" / path.name
        yield row(before, path, what=f"docs/{path.name}", told=", ".join(tellers(path.name)), origin=ORIGIN)


def tellers(name: str) -> list[str]:
    """Return the documents that show a picture of the documentation."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    own = (page for page in pages if not {"_build", "_made"} & set(page.parts))
    return [page.relative_to(ROOT).as_posix() for page in own if f"{name})" in page.read_text(encoding="utf-8")]


def row(before: Path, after: Path, *, what: str, told: str, origin: str) -> Row:
    """Return the row of a picture that was drawn anew."""
    why = unlike(before, after)
    return Row(kind="picture", what=what, told=told, verdict=why or KEPT, origin=origin, holds=not why)


def unlike(before: Path, after: Path) -> str:
    """Return how a picture differs from the one before; nothing where it does not."""
    if not before.is_file() or not after.is_file():
        return "differs: only one of both is there"
    if before.read_bytes() == after.read_bytes():
        return ""
    return "differs: another text" if before.suffix == ".svg" else _pixels(before, after)


def _pixels(before: Path, after: Path) -> str:
    from matplotlib.image import imread

    one, other = imread(before), imread(after)
    if one.shape != other.shape:
        return f"differs: {_size(other.shape)} pixels, before {_size(one.shape)}"
    share = float((one != other).reshape(*one.shape[:2], -1).any(axis=2).mean())
    return f"differs in {share:.2%} of the pixels" if share else ""


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
