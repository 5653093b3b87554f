"""`python -m tests.fuzz [COUNT] [--seed N] [--workers N] [--keep FOLDER]`: many inputs, counts of what became of them."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from click.testing import CliRunner

from afdsim.cli.main import main as afdsim
from tests.fuzz.trial import Outcome, chosen, numbered


def main() -> int:
    """Try inputs, print what became of them by kind, and every one that went wrong."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("count", type=int, nargs="?", default=20_000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    asked.add_argument("--keep", type=Path, help="folder for the inputs that went wrong")
    asked.add_argument("--only", help="kind of input")
    given = asked.parse_args()
    numbers = [
        n for n in range(given.count * (16 if given.only else 1)) if not given.only or chosen(n).name == given.only
    ]
    found: Counter[tuple[str, int]] = Counter()
    wrong: list[Outcome] = []
    CliRunner().invoke(
        afdsim, ["run", "small", "--engine", "kernel", "--quiet", "--no-marginal"]
    )  # compiled before the clock runs
    work = partial(numbered, seed=given.seed, keep=given.keep)
    with multiprocessing.get_context("spawn").Pool(given.workers, maxtasksperchild=500) as pool:
        for outcome in pool.imap_unordered(work, numbers[: given.count], chunksize=8):
            found[outcome.target, outcome.code] += 1
            if outcome.wrong:
                wrong.append(outcome)
                print(f"{outcome.target} {outcome.seed}: {outcome.wrong}", flush=True)
        pool.close()  # and not terminated: workers tidy up behind themselves
        pool.join()
    for target in dict.fromkeys(target for target, _ in sorted(found)):
        codes = {code: count for (name, code), count in sorted(found.items()) if name == target}
        print(
            f"{target:<16}{sum(codes.values()):>7,} inputs:",
            *(f"exit {code}: {count:,}" for code, count in codes.items()),
        )
    print(f"{sum(found.values()):,} inputs, {len(wrong):,} went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
