"""Whether files are whole, and the same but for what names the time."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

from afdsim.scenario import yamlfile
from tests.kills.commands import POINTS, plain

TIMED = ("run.log",)
"""Names of files about one execution only."""


def left_over(path: Path) -> bool:
    """Whether a file is one that a killed process had not finished; it is hidden, and says so."""
    return path.name.startswith(".") and ".part" in path.suffixes[-2:]


def torn(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the files of a folder."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not left_over(path)):
        try:
            _read(path, path.read_bytes())
        except Exception as error:  # readers raise what they like
            yield f"{path.relative_to(folder)} is torn: {type(error).__name__}: {error}"


def _read(path: Path, data: bytes) -> None:
    """Read a file to its end."""
    import pandas as pd

    if not data and path.name != "notes.txt":
        raise ValueError("empty")
    match path.suffix:
        case ".json" if POINTS in path.parts:
            _ = [json.loads(line) for line in data.decode().splitlines()]
        case ".json":
            json.loads(data)
        case ".parquet":
            pd.read_parquet(io.BytesIO(data))
        case ".csv":
            pd.read_csv(io.BytesIO(data))
        case ".gz":
            gzip.decompress(data)
        case ".yaml":
            yamlfile.read(path)
        case _:
            _ended(path.suffix, data)


def _ended(suffix: str, data: bytes) -> None:
    """Refuse a picture or a page without its end."""
    ends = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".html": b"</html>"}
    if not data.endswith(ends.get(suffix, b"\n")):
        raise ValueError(f"ends with {data[-20:]!r}")


def differences(folder: Path, reference: Path) -> Iterator[str]:
    """Yield how the files of a folder are not those that an undisturbed command leaves."""
    here, there = _names(folder), _names(reference)
    yield from (f"{name} is missing" for name in sorted(there - here))
    yield from (f"{name} is one too many" for name in sorted(here - there))
    for name in sorted(here & there):
        if Path(name).name not in TIMED and not _same(folder / name, reference / name):
            yield f"{name} is not the same"


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _same(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    if POINTS in one.parts:
        return [plain(line) for line in _lines(one)] == [plain(line) for line in _lines(other)]
    return one.suffix == ".parquet" and _untimed(one).equals(_untimed(other))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _untimed(path: Path):
    import pandas as pd

    return pd.read_parquet(path).drop(columns="wall_s", errors="ignore")
