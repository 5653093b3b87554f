"""Files of records, whatever their shape: opened, unpacked, decoded and cut into records.

Read are text in UTF-8 and UTF-16, packed by gzip or not, as CSV (comma, semicolon or tab), JSON lines, a JSON array of
objects, a JSON object with such an array inside, and a JSON object of columns.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias, cast

from afdsim.errors import ScenarioError

Known: TypeAlias = Callable[[Collection[str]], bool]
"""Whether columns are those of a format."""
Pick: TypeAlias = Callable[[Sequence[str]], Callable[[Any], tuple[Any, ...]]]

HEAD: Final = 4096
"""Bytes from which the kind of a file is told."""
GZIP: Final = b"\x1f\x8b"
BINARY: Final = (
    (b"PK\x03\x04", "a zip archive or an Excel sheet"),
    (b"\xd0\xcf\x11\xe0", "an Excel sheet"),
    (b"PAR1", "a Parquet file"),
    (b"(\xb5/\xfd", "packed by zstd"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
)
"""How a file begins that is no text, and what it is."""
PLACEHOLDER: Final = b"version https://git-lfs"
MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
"""Byte order marks, the longer first, and the encodings that they announce."""
SEPARATORS: Final = ",;\t"
OTHERS: Final = "| :"
"""Separators that are recognised to be named, and not read."""
BLANK: Final = " ,;\t\r\n"
"""What a line without content consists of."""
DEPTH: Final = 3
"""Objects in objects in which an array of records is looked for."""
SESSION: Final = "sub_requests"
"""Key of an object that is a session: the array under it is of one session's requests, no file's."""
YAML: Final = re.compile(r"(---|%YAML\b.*|[\w.-]+:(\s+([^,;\t]*|[\[{].*))?)$")
"""A first line that begins a YAML file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The records of a file in its order, to be walked once, while the file is open."""

    shape: str
    """What the file is, as said in messages."""
    columns: tuple[str, ...]
    """Names in the header or in the first record."""
    rows: Iterator[tuple[int, Any]]
    """Place and record; the place is a line, or a number from 1 where `place` says so."""
    pick: Pick
    """Makes the function from a record to the values of some columns."""
    place: str = ":{}"
    """Where a record is, to be put behind the name of the file."""
    note: str = ""
    """What is odd about the file."""
    lists: Mapping[str, int] = field(default_factory=dict)
    """How long the lists of plain values are in a JSON object of columns, equally long or not."""


@contextmanager
def opened(path: Path, known: Known) -> Iterator[Records]:
    """Open a file of records; `known` decides between readings of one text. ScenarioError says why it cannot be."""
    if path.is_dir():
        raise ScenarioError(f"{path}: cannot be read: is a folder; name the file in it")
    plain = False
    try:
        plain = path.suffix == ".gz" and not _is_packed(_head(path))
        with _text(path) as file:
            found = _records(file, known, path)
            yield replace(found, note="is named .gz and is not packed: read as it is") if plain else found
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        neither = plain and isinstance(error, UnicodeError)
        what = "is named .gz and is no gzip file, nor text; fetch it again" if neither else _unreadable(error)
        raise ScenarioError(f"{path}: {what}") from None


# bytes -> text ------------------------------------------------------------------------------------------------------


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_packed(head: bytes) -> bool:
    return head.startswith(GZIP)


def _text(path: Path) -> TextIO:
    head = _head(path)
    packed = _is_packed(head)
    if packed:
        with gzip.open(path) as unpacked:
            head = unpacked.read(HEAD)
    _refuse_binary(head, path)
    encoding = _encoding(head)
    if packed:
        return cast("TextIO", gzip.open(path, "rt", encoding=encoding, newline=""))
    return path.open(encoding=encoding, newline="")


def _refuse_binary(head: bytes, path: Path) -> None:
    for begin, what in BINARY:
        if head.startswith(begin):
            raise ScenarioError(f"{path}: is {what}; unpack or export it to CSV or JSON (.gz is read as it is)")
    if head.startswith(PLACEHOLDER):
        raise ScenarioError(f"{path}: is a placeholder of Git LFS, not the data; fetch it with 'git lfs pull'")


def _encoding(head: bytes) -> str:
    """Name of the encoding: by its byte order mark, or UTF-16 where every second byte is 0, or UTF-8."""
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    pairs = len(head) // 2
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if pairs > 1 and head[first::2].count(0) > 0.9 * pairs:
            return name
    return "utf-8"


def _unreadable(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; a path in a scenario is relative to the scenario, in --set to the working directory"
        case EOFError():
            return "the gzip file is cut short; fetch it again"
        case gzip.BadGzipFile() | zlib.error():
            return f"the gzip file is damaged ({error}); fetch it again"
        case UnicodeDecodeError():
            found = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "its end"
            return f"is not text in {error.encoding.upper()} ({found}: {error.reason}); save it as UTF-8"
        case OSError():
            return f"cannot be read: {error.strerror or error}"
        case _:
            return f"is no CSV, and no JSON: {error}"


# text -> records ----------------------------------------------------------------------------------------------------


def _records(file: TextIO, known: Known, path: Path) -> Records:
    first = next(_filled(file), "")
    match first.lstrip()[:1]:
        case "":
            raise ScenarioError(f"{path}: the file is empty; expected a CSV with a header, or JSON")
        case "[":
            return _array(_json(file, path), known, path)
        case "{":
            return _objects(file, first, known, path)
        case "<":
            raise ScenarioError(f"{path}: is a web page or XML; expected a CSV with a header, or JSON")
        case _:
            return _table(file, first, known, path)


def _filled(file: TextIO) -> Iterator[str]:
    """Yield the lines with content, from where the file stands."""
    return (line for line in iter(file.readline, "") if line.strip(BLANK))


def _table(file: TextIO, first: str, known: Known, path: Path) -> Records:
    """A CSV: the separator is the one that gives the columns of a format, or else the most columns."""
    headers = {separator: _cells(first, separator) for separator in SEPARATORS}
    separator = next((mark for mark, names in headers.items() if known(names)), None)
    if separator is None:
        _refuse_separator(first, known, path)
        _refuse_yaml(first, path)
        separator = max(SEPARATORS, key=lambda mark: len(headers[mark]))
    file.seek(0)
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
    rows = ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
    header = [name.strip() for name in next(rows, (0, []))[1]]
    names = {",": "a CSV", ";": "a CSV separated by semicolons", "\t": "a table separated by tabs"}
    return Records(
        shape=names[separator],
        columns=tuple(header),
        rows=rows,
        pick=lambda columns: itemgetter(*(header.index(column) for column in columns)),
    )


def _cells(line: str, separator: str) -> list[str]:
    cells = next(csv.reader([line.strip("\r\n")], delimiter=separator, skipinitialspace=True), [])
    return [name.strip() for name in cells]


def _refuse_separator(first: str, known: Known, path: Path) -> None:
    for mark in OTHERS:
        if known(_cells(" ".join(first.split()), mark)):
            raise ScenarioError(f"{path}: columns are separated by {mark!r}; write a comma, a semicolon or a tab")


def _refuse_yaml(first: str, path: Path) -> None:
    if path.suffix in {".yaml", ".yml"} or YAML.match(first.strip()):
        raise ScenarioError(
            f"{path}: is YAML, and no table; if it is the header of a TraceV2 (blis), name the CSV beside it"
        )


def _objects(file: TextIO, first: str, known: Known, path: Path) -> Records:
    """One JSON object per line, or a single one."""
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return _single(_json(file, path), known, path)
    if next(_filled(file), "") == "":
        return _single(record, known, path)
    if _columns_of(record, known):
        raise ScenarioError(f"{path}: holds several results, one a line, each with its own clock; keep one of them")
    file.seek(0)
    rows = ((line, text) for line, text in enumerate(file, 1) if not text.isspace())
    return Records(shape="JSON lines", columns=tuple(record), rows=rows, pick=_from_line)


def _from_line(columns: Sequence[str]) -> Callable[[str], tuple[Any, ...]]:
    get, decode = itemgetter(*columns), json.loads
    return lambda text: get(decode(text))


def _json(file: TextIO, path: Path) -> Any:
    file.seek(0)
    try:
        return json.load(file)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ScenarioError(f"{place}: is no JSON: {error.msg}; expected one object per line, or one array") from None
    except (ValueError, RecursionError):
        raise ScenarioError(f"{path}: is no JSON that can be read; expected one object per line") from None


def _array(items: Any, known: Known, path: Path, where: str = "") -> Records:
    shape = f"a JSON array{where}"
    first = next(iter(items), None)
    if not isinstance(first, dict):
        found = "nothing" if first is None else f"{type(first).__name__}s"
        raise ScenarioError(f"{path}: is {shape} of {found}; expected objects, one a request")
    if len(items) == 1 and known(_lists(first)):
        return _single(first, known, path)
    rows = iter(enumerate(items, 1))
    return Records(shape=shape, columns=tuple(first), rows=rows, pick=_from_object, place=": item {}")


def _from_object(columns: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    return itemgetter(*columns)


def _single(found: Any, known: Known, path: Path) -> Records:
    """A JSON object: of columns, or with an array of records somewhere inside, or a record itself."""
    lists = {key: len(items) for key, items in _lists(found).items()}
    if columns := _columns_of(found, known):
        return replace(_of_columns(columns), lists=lists)
    if not known(found) and SESSION not in found:
        arrays = dict(_arrays(found, DEPTH))
        fitting = [name for name, items in arrays.items() if known(items[0])]
        if len(fitting) == 1 or (len(arrays) == 1 and not fitting):
            name = fitting[0] if fitting else next(iter(arrays))
            return _array(arrays[name], known, path, f" ({name})")
        if fitting:
            raise ScenarioError(f"{path}: holds several lists of requests: {', '.join(fitting)}; keep one of them")
    rows = iter([(1, found)])
    shape, names = "a JSON object", tuple(found)
    return Records(shape=shape, columns=names, rows=rows, pick=_from_object, place=": item {}", lists=lists)


def _columns_of(record: Any, known: Known) -> dict[str, list[Any]]:
    """Columns of a JSON object: lists of plain values, equally long, with the names of a format; else nothing."""
    alike = dict[int, dict[str, list[Any]]]()
    for key, items in _lists(record).items():
        if items:
            alike.setdefault(len(items), {})[key] = items
    return next((columns for columns in alike.values() if known(columns)), {})


def _lists(record: Any) -> dict[str, list[Any]]:
    """Lists of plain values in a JSON object, by their names, however long."""
    items = record.items() if isinstance(record, dict) else ()
    return {
        key: value
        for key, value in items
        if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)
    }


def _of_columns(columns: Mapping[str, list[Any]]) -> Records:
    names = tuple(columns)
    rows = enumerate(zip(*columns.values(), strict=True), 1)
    return Records(
        shape="a JSON object of columns",
        columns=names,
        rows=rows,
        pick=lambda wanted: itemgetter(*map(names.index, wanted)),
        place=": item {}",
    )


def _arrays(found: Any, depth: int, prefix: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the arrays of objects in an object, by their dotted names; a session is an array of itself."""
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and SESSION in value:
            yield f"{prefix}{key}", [value]
        elif isinstance(value, dict) and depth > 1:
            yield from _arrays(value, depth - 1, f"{prefix}{key}.")
