"""Files that are whole or not there, whoever is killed in the middle of writing one.

A file is written beside its place and renamed. What a killed process had not finished is hidden, no result, and taken
away when the file is next written on the same machine.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

PART = ".part"
"""In the names of files that are being written."""


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file that then takes the place of `path`."""
    for each in _abandoned(path):
        each.unlink(missing_ok=True)
    temporary = path.with_name(_named(path, os.getpid()))
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def vacant(folder: Path) -> bool:
    """Whether there is no such folder, or nothing in it but what a killed process had begun to write."""
    return not folder.is_dir() or all(each.name.startswith(".") and PART in each.name for each in folder.iterdir())


def _named(path: Path, pid: int | str) -> str:
    """Return the name of a temporary file: of the machine too, for folders may be shared."""
    return f".{path.stem}.{crc32(platform.node().encode()):08x}-{pid}{PART}{path.suffix}"


def _abandoned(path: Path) -> Iterator[Path]:
    """Yield temporary files of a file whose processes are no more."""
    before, _, after = _named(path, "*").partition("*")
    for name in os.listdir(path.parent):  # noqa: PTH208 - Path.glob keeps a pattern of every file in memory
        pid = name.removeprefix(before).removesuffix(after)
        if name == f"{before}{pid}{after}" and pid.isdecimal() and not _lives(int(pid)):
            yield path.with_name(name)


def _lives(pid: int) -> bool:
    """Whether there is a process that may still write; only POSIX lets one ask."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return not _waits_for_its_parent(pid)


def _waits_for_its_parent(pid: int) -> bool:
    """Whether a process has ended and nobody has asked how, as orphans in some containers."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False  # not Linux, or it is gone by now
