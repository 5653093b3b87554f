"""`python -m tests.mutants [MODULE...] [--sample N] [--seed N]`: small changes of the code, and which no test notices.

A module is named within the package, as `engine.seats`, or by its wing, `engine`. Machine code is off: what numba
compiles runs as it is written, under the same tests, on their small deployments.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import math
import os
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parent.parent.parent / "afdsim"
DEFAULT = ("cost.roofline", "results.metrics", "engine")
LAWS: tuple[str, ...] = ()
COSTS = ("anatomy", "checked", "operators", "roofline", "table")
SAID = ("bottleneck", "intervals", "metrics", "pooling", "remarks", "summary")
TESTS = {
    "cost": (*(f"tests/cost/test_{name}.py" for name in COSTS), "afdsim/cost/roofline.py"),
    "results": (*(f"tests/results/test_{name}.py" for name in SAID),),
    "engine": ("tests/test_golden_cells.py", "tests/engine", *(f"tests/laws/test_{name}.py" for name in LAWS)),
}
"""The tests of a wing that say something of it in little time: those of its rooms, laws, frozen numbers of small cells."""
WRAPS = "ignore:overflow encountered in scalar:RuntimeWarning"
"""Whole numbers of machine code wrap around, which Python remarks on."""
RUNS = (
    "--hypothesis-profile=mutants",
    "-W",
    WRAPS,
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-q",
    "-s",
    "--no-header",
)


def main(words: Sequence[str] | None = None) -> int:
    """Try the changes that are asked for; print those that survive, and a line per module."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("modules", nargs="*", default=DEFAULT)
    asked.add_argument("--sample", type=int, help="changes of a module, where it has more; all where nothing is said")
    asked.add_argument("--skip", type=int, default=0, help="the first ones of a sample, tried before")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--line", type=int, help="changes of this line alone")
    asked.add_argument("--patience", type=float, default=6.0, help="seconds of tests for a change")
    asked.add_argument("--longest", type=float, default=2.0, help="seconds of a test, beyond which it is left out")
    asked.add_argument("--known", type=Path, help="file that keeps what tests call and take for another time")
    given = asked.parse_args(words)
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import pytest

    from tests.mutants.trial import Trials

    names = [name for each in given.modules for name in rooms(each)]
    files = frozenset(str(path_of(name)) for name in names)
    limits = {"longest": given.longest, "patience": given.patience, "known": given.known}
    plugin = Trials(files=files, judge=partial(judge, names, given), **limits)
    tests = dict.fromkeys(path for name in names for path in TESTS[name.partition(".")[0]])
    return int(pytest.main([*RUNS, *tests], plugins=[plugin]))


def rooms(name: str) -> list[str]:
    """Return a module, or all of a wing."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return [name]
    return [f"{name}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def path_of(name: str) -> Path:
    """Return the file of a module of the package."""
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def judge(names: list[str], given: argparse.Namespace, trials: Any) -> None:
    """Try the changes of every module."""
    calling = [seen.seconds for seen in trials.seen.values() if seen.calls]
    print(f"{len(calling)} of {len(trials.seen)} tests, {sum(calling):.0f} s", flush=True)
    scores = [room(name, given, trials) for name in names]
    killed, tried = (sum(column) for column in zip(*scores, strict=True))
    print(told("all", killed, tried))


def room(name: str, given: argparse.Namespace, trials: Any) -> tuple[int, int]:
    """Try changes of one module; returns how many were killed, of how many."""
    from tests.mutants.changes import changes

    module, file, began = importlib.import_module(f"afdsim.{name}"), path_of(name), time.perf_counter()
    text = file.read_text(encoding="utf-8")
    every = [*changes(ast.parse(text))]
    numbers = [n for n, change in enumerate(every) if given.line is None or change.line == given.line]
    random.Random(f"{given.seed} {name}").shuffle(numbers)  # so that a larger sample holds a smaller one
    numbers = sorted(numbers[given.skip : given.sample])
    killed = sum(killed_one(module, text, number, trials) for number in numbers)
    print(told(name, killed, len(numbers)), f"of {len(every)}, {time.perf_counter() - began:.0f} s", flush=True)
    return killed, len(numbers)


def killed_one(module: ModuleType, text: str, number: int, trials: Any) -> bool:
    """Try one change of a module, and print it if it survives."""
    from tests.mutants.changes import changes, put_in_place

    tree = ast.parse(text)
    change = [*changes(tree)][number]
    names = trials.chosen(str(module.__file__), change.start)
    verdict = trials.tried(partial(put_in_place, module, tree, change), names)
    if not verdict.killed:
        told_by = f"{len(names)} tests, {verdict.seconds:.0f} s"
        print(f"{module.__name__.removeprefix('afdsim.')}:{change} ({change.function}; {told_by})", flush=True)
    return bool(verdict.killed)


def told(name: str, killed: int, tried: int) -> str:
    """Return a score with its 95 % interval (Wilson's)."""
    if not tried:
        return f"{name}: nothing to change"
    share, z2 = killed / tried, 1.96**2
    middle, spread = share + z2 / 2 / tried, 1.96 * math.sqrt((share * (1 - share) + z2 / 4 / tried) / tried)
    low, high = ((middle + sign * spread) / (1 + z2 / tried) for sign in (-1, 1))
    return f"{name}: {killed} of {tried} killed, {share:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    sys.exit(main())
