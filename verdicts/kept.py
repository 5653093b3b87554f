"""Rows of the table of verdicts, and what was made anew so far, kept for a run that goes on where another ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "paper"
STAMP = "made-of.txt"
"""In a folder that is whole: the digest of what it was made of."""
KEPT, MOVED, NOT_RUN = "kept", "moved", "not run here"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table of verdicts."""

    kind: str
    what: str
    told: str
    """Documents that tell it, as paths of the repository."""
    verdict: str
    origin: str
    """The command that gives it."""
    holds: bool = True
    """False where something moved, differs or failed."""


def digest(*more: Path) -> str:
    """Return the digest of everything that a run depends on: the package, its data, scenarios, and more files."""
    return hashlib.sha256(_package() + b"".join(map(_named, more))).hexdigest()


@cache
def _package() -> bytes:
    """Return the digest of the package and the scenarios, which do not change while this runs."""
    files = [*_sources(ROOT / "afdsim"), *_sources(ROOT / "scenarios")]
    return hashlib.sha256(b"".join(map(_named, files))).digest()


def _named(path: Path) -> bytes:
    return path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"


def _sources(folder: Path) -> list[Path]:
    kinds = {".py", ".json", ".csv", ".yaml"}
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds)


def whole(folder: Path, made_of: str) -> bool:
    """Return whether a folder was made, to its end, of what there is now."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == made_of


def stamp(folder: Path, made_of: str) -> None:
    """Say that a folder is whole; the last thing that is written into it."""
    (folder / STAMP).write_text(f"{made_of}\n", encoding="utf-8")


def listed(words: Iterable[str], most: int = 3) -> str:
    """Return some of many words, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return "; ".join(words[:most]) + more
