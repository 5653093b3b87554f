"""Make tables, runs, pages and pictures anew and say what moved: python -m verdicts [--all] [--only NAME ...]."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from afdsim.errors import AfdsimError
from verdicts import kept, ledger, page, suite, uncovered

MOVED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m verdicts", description=__doc__)
    parser.add_argument("--all", action="store_true", help="the long experiments as well")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="parts, or experiments by name")
    parser.add_argument("--traces", type=Path, help="folder of the recorded traces, for when_afd_pays")
    parser.add_argument("--jobs", type=int, default=suite.Asked.jobs, help="experiments at a time")
    parser.add_argument("--results", type=Path, default=kept.RESULTS, help="folder of what was made so far")
    parser.add_argument("-o", "--output", type=Path, default=kept.ROOT / "docs" / "verdicts.md", help="the page")
    parser.add_argument("--uncovered", action="store_true", help="list figures of documents that have no origin")
    asked = parser.parse_args(words)
    if asked.jobs < 1:
        parser.error(f"--jobs {asked.jobs}: must be at least 1")
    return asked


def main(words: Sequence[str] | None = None) -> int:
    """Make anew, write the page, print the table; returns the exit code."""
    given = arguments(words)
    asked = suite.Asked(
        only=given.only, everything=given.all, traces=given.traces, results=given.results.resolve(), jobs=given.jobs
    )
    try:
        if given.uncovered:
            book = ledger.read()
            print(uncovered.report(uncovered.counted(each, book) for each in uncovered.documents()))
            return 0
        suite.check(asked)
        suite.make(asked, lambda text: print(text, file=sys.stderr, flush=True))
        rows = tuple(suite.rows(asked))
    except (AfdsimError, OSError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was made is kept, and the next run goes on with the rest", file=sys.stderr)
        return INTERRUPTED
    given.output.write_text(page.page(rows), encoding="utf-8")
    print(page.printed(rows))
    return 0 if all(row.holds for row in rows) else MOVED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is terminated ends its experiments, too
    sys.exit(main())
