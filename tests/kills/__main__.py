"""`python -m tests.kills [COUNT] [--seed N] [--only COMMAND]`: many kills, counted by command, signal and victim."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter

from tests.kills.commands import KINDS
from tests.kills.shelf import Shelf
from tests.kills.trial import SIGNALS, SKIPPED, Outcome, chosen, tried


def main() -> int:
    """Kill commands one at a time; print what became of them, and every law that was broken."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("count", type=int, nargs="?", default=60)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--skip", type=int, default=0, help="trials of the seed to leave out, to repeat one")
    asked.add_argument("--only", choices=[kind.name for kind in KINDS], help="command")
    given = asked.parse_args()
    numbered = ((number, chosen(number, given.seed)) for number in range(given.skip, given.skip + 48 * given.count))
    cases = [each for each in numbered if given.only in {None, each[1].kind.name}][: given.count]
    started, outcomes = time.monotonic(), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Shelf() as shelf:
        for number, case in cases:
            found = tried(case, given.seed * 1_000_000 + number, shelf)
            outcomes.append(found)
            print(_line(found), flush=True)
    _table(outcomes)
    load = os.getloadavg()[0]
    wrong = sum(bool(each.wrong) for each in outcomes)
    print(f"{len(outcomes)} kills, {wrong} went wrong; {time.monotonic() - started:.0f} s, load {load:.1f}")
    return 1 if wrong else 0


def _line(found: Outcome) -> str:
    case = found.case
    what = f"{found.seed % 1_000_000:>3} {case.kind.name:<15}{case.signal:<5}{case.victim:<7}{found.moment:<28}"
    told = "" if found.hit else "  nobody left to kill"
    head = f"{what} exit {found.code:>4}, gone after {found.seconds:.1f} s{told}"
    return "\n".join([head, *(f"  WRONG {each}" for each in found.wrong)])


def _table(outcomes: list[Outcome]) -> None:
    """Print counts: kills of every command by signal and victim, and how they ended."""
    by_case = Counter((each.case.kind.name, each.case.signal, each.case.victim) for each in outcomes)
    columns = [(signal, victim) for signal in SIGNALS for victim in KINDS[1].victims]
    print("\n" + " " * 15 + "".join(f"{f'{signal} {victim}':>13}" for signal, victim in columns) + "  exit codes")
    for kind in KINDS:
        counts = "".join(
            f"{by_case[kind.name, signal, victim] if victim in kind.victims else 'none':>13}"
            for signal, victim in columns
        )
        codes = Counter(each.code for each in outcomes if each.case.kind is kind)
        print(f"{kind.name:<15}{counts}  {', '.join(f'{code}: {codes[code]}' for code in sorted(codes))}")
    late = sum(not each.hit for each in outcomes)
    print(f"none: there are no workers ({', '.join(SKIPPED)}); {late} commands had ended before the kill")


if __name__ == "__main__":
    sys.exit(main())
