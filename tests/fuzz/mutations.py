"""Text, trees, tables and bytes, changed at random; every function takes a generator and leaves its input alone."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

from tests.fuzz.values import EVERY, NUMBERS, SIGNS


def text(rng: random.Random, given: str) -> str:
    """Change a text once to four times: signs, lines, cells, its end."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        given = rng.choice((_sign, _cut, _twice, _dropped, _swapped, _cell))(rng, given)
    return given


def _sign(rng: random.Random, given: str) -> str:
    at = rng.randrange(len(given) + 1)
    return given[:at] + rng.choice(SIGNS) + given[at + rng.choice((0, 1)) :]


def _cut(rng: random.Random, given: str) -> str:
    return given[: rng.randrange(len(given) + 1)]


def _twice(rng: random.Random, given: str) -> str:
    lines = given.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    return "".join([*lines[:at], lines[at] * rng.choice((2, 3, 50)), *lines[at + 1 :]])


def _dropped(rng: random.Random, given: str) -> str:
    lines = given.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    return "".join([*lines[:at], *lines[at + 1 :]])


def _swapped(rng: random.Random, given: str) -> str:
    lines = given.splitlines(keepends=True) or [""]
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return "".join(lines)


def _cell(rng: random.Random, given: str) -> str:
    """Put a value in place of one of a line, as its separators cut it."""
    lines = given.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    separator = rng.choice((",", ": ", " "))
    cells = lines[at].rstrip("\n").split(separator)
    cells[rng.randrange(len(cells))] = str(rng.choice(EVERY))
    return "".join([*lines[:at], separator.join(cells), "\n", *lines[at + 1 :]])


def tree(rng: random.Random, given: Any) -> Any:
    """Change a tree of maps, lists and scalars once to three times: a value, a key, a place."""
    made = copy.deepcopy(given)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = [each for each in _places(made) if each[1] is not None]
        if not places:
            return rng.choice(EVERY)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(key) + rng.choice(("s", "_", "x", ""))] = holder.pop(key)
            case 2:
                other, place = rng.choice(places)
                holder[key] = copy.deepcopy(other[place]) if other is not holder else rng.choice(EVERY)
            case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = rng.choice(
                    (-holder[key], 2 * holder[key], holder[key] + 1, holder[key] * 1e6, holder[key] / 7)
                )
            case _:
                holder[key] = copy.deepcopy(rng.choice(EVERY))
    return made


def gentle(rng: random.Random, given: Any) -> Any:
    """Scale numbers of a tree, with their units where they have one, so that it mostly stays what it was."""
    made = copy.deepcopy(given)
    for _ in range(rng.choice((1, 2, 4))):
        holder, key = rng.choice([(each, name) for each, name in _places(made) if AMOUNT.fullmatch(str(each[name]))])
        number, unit = AMOUNT.fullmatch(str(holder[key])).groups()
        factor = rng.choice((0, 1, 0.5, 2, 3, 10, 0.1, 1e-3, 1e-6, *((1000, 1e6) if unit else (30,))))
        scaled = float(number) * factor
        whole = "." not in number and scaled.is_integer()
        holder[key] = f"{scaled:g}{unit}" if unit else int(scaled) if whole else scaled
    return made


AMOUNT = re.compile(r"(\d+(?:\.\d+)?)( ?[A-Za-z/]*)")


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Holder and key of every value."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [(node, key) for key in keys] + [place for key in keys for place in _places(node[key])]


def data(rng: random.Random, given: bytes) -> bytes:
    """Change bytes: some of them, the end, or all."""
    match rng.randrange(5):
        case 0:
            return given[: rng.randrange(len(given) + 1)]
        case 1:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        case 2:
            at, length = rng.randrange(len(given) + 1), rng.randrange(64)
            return given[:at] + given[at + length :]
        case _:
            made = bytearray(given or b"x")
            for _ in range(rng.choice((1, 1, 3, 20))):
                made[rng.randrange(len(made))] = rng.randrange(256)
            return bytes(made)


def table(rng: random.Random, path: Path) -> None:
    """Change a Parquet table in place, so that it still is one: a column, a type, rows, values."""
    import pandas as pd

    frame = pd.read_parquet(path)
    if not len(frame.columns):
        return
    name = rng.choice(list(frame.columns))
    match rng.randrange(6):
        case 0:
            frame = frame.drop(columns=name)
        case 1:
            frame[name] = frame[name].astype(str)
        case 2:
            frame = frame.head(rng.choice((0, 1, len(frame) // 2)))
        case 3:
            frame = pd.concat([frame, frame])
        case 4:
            frame[name] = [rng.choice(NUMBERS[:12]) for _ in range(len(frame))]
        case _:
            frame[name] = None
    frame.to_parquet(path, index=False)
