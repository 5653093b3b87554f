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
LAWS = ("failures", "fleet", "kv_cache", "mixed", "prefill", "reuse", "samples", "sessions", "users", "watch")
"""Laws whose deployments are small enough for Python."""
CELLS = (
    *("afd_dedicated", "afd_dense_first", "afd_drain_gap", "afd_empty_micro_batches", "afd_ep2_tp2", "afd_gpu_tp2"),
    *("afd_horizon", "afd_mtp1", "afd_mtp2_windowed", "afd_open_warmup", "afd_refused", "afd_skewed_4f"),
    *("afd_slow_links", "afd_tp2_o_proj", "afd_width", "afd_windowed_gpu", "ep", "ep_mtp1", "ep_normal_single_overlap"),
    *("ep_overheads", "ep_redundant_shared_gpus", "ep_tp2_gpu", "ep_two_batches", "ep_windowed", "tp8", "tp8_ep4"),
)
"""Golden cells that take little time in Python."""
COSTS = ("anatomy", "checked", "operators", "roofline", "table")
SAID = ("bottleneck", "intervals", "metrics", "pooling", "remarks", "summary")
TESTS = {
    "cost": (*(f"tests/cost/test_{name}.py" for name in COSTS), "afdsim/cost/roofline.py"),
    "results": (*(f"tests/results/test_{name}.py" for name in SAID),),
    "engine": (
        "tests/engine",
        *(f"tests/test_golden_cells.py::test_cells_give_their_golden_numbers[{name}-processes]" for name in CELLS),
        *(f"tests/test_golden_cells.py::test_cells_give_their_golden_numbers[{name}-kernel]" for name in CELLS[::3]),
    ),
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
    asked.add_argument("--laws", action="store_true", help="by the laws of the engine too, which take long in Python")
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
    laws = [f"tests/laws/test_{name}.py" for name in LAWS] if given.laws else []
    return int(pytest.main([*RUNS, *tests, *laws], plugins=[plugin]))


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
    print(told("all", [verdict for verdicts in scores for verdict in verdicts]))


def room(name: str, given: argparse.Namespace, trials: Any) -> list[bool | None]:
    """Try changes of one module; returns of each whether it was killed, None where no test calls its function."""
    from tests.mutants.changes import changes

    module, file, began = importlib.import_module(f"afdsim.{name}"), path_of(name), time.perf_counter()
    text = file.read_text(encoding="utf-8")
    every = [*changes(ast.parse(text))]
    numbers = [n for n, change in enumerate(every) if given.line is None or change.line == given.line]
    random.Random(f"{given.seed} {name}").shuffle(numbers)  # so that a larger sample holds a smaller one
    verdicts = [killed(module, text, number, trials) for number in sorted(numbers[given.skip : given.sample])]
    print(told(name, verdicts), f"of {len(every)}, {time.perf_counter() - began:.0f} s", flush=True)
    return verdicts


def killed(module: ModuleType, text: str, number: int, trials: Any) -> bool | None:
    """Try one change of a module, and print it if it survives."""
    from tests.mutants.changes import changes, put_in_place

    tree = ast.parse(text)
    change = [*changes(tree)][number]
    names = trials.chosen(str(module.__file__), change.start)
    verdict = trials.tried(partial(put_in_place, module, tree, change), names) if names else None
    if verdict is None or not verdict.killed:
        by = f"{len(names)} tests, {verdict.seconds:.0f} s" if verdict else "no test calls it"
        print(f"{module.__name__.removeprefix('afdsim.')}:{change} ({change.function}; {by})", flush=True)
    return bool(verdict.killed) if verdict else None


def told(name: str, verdicts: Sequence[bool | None]) -> str:
    """Return a score with its 95 % interval (Wilson's), of those whose function some test calls."""
    tried = [verdict for verdict in verdicts if verdict is not None]
    uncalled = f", {len(verdicts) - len(tried)} that no test calls" if len(tried) < len(verdicts) else ""
    if not tried:
        return f"{name}: none tried{uncalled}"
    count, share, z2 = len(tried), sum(tried) / len(tried), 1.96**2
    middle, spread = share + z2 / 2 / count, 1.96 * math.sqrt((share * (1 - share) + z2 / 4 / count) / count)
    low, high = ((middle + sign * spread) / (1 + z2 / count) for sign in (-1, 1))
    return f"{name}: {sum(tried)} of {count} killed, {share:.1%} ({low:.1%} to {high:.1%}){uncalled}"


if __name__ == "__main__":
    sys.exit(main())
