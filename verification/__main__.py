"""Run checks and say what agrees: python -m verification [NAME ...] [-o FOLDER] [--json]."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afdsim.errors import AfdsimError
from afdsim.results.whole import write_text

if TYPE_CHECKING:
    from verification.suite import Row

DIFFERS, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="checks to run, instead of all")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/verification"), help="folder of the page")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of samples and cells")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    asked = parser.parse_args(words)
    if not 0 < asked.scale <= 1:
        parser.error(f"--scale {asked.scale:g}: must be above 0 and at most 1")
    return asked


def main(words: Sequence[str] | None = None) -> int:
    """Run checks, write pictures and page, print the table; returns the exit code."""
    asked = arguments(words)
    try:
        from verification import page, suite

        checks = suite.chosen(asked.names)
        rows = tuple(suite.run(checks, asked.output, scale=asked.scale, say=lambda text: print(text, file=sys.stderr)))
        if checks == suite.CHECKS:  # a page of some checks would hide the others
            write_text(asked.output / "verification.md", page.page(rows))
            write_text(asked.output / "verification.json", page.kept(rows))
    except (AfdsimError, OSError) as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except ImportError as error:
        print(f"{error}: pip install --editable '.[verification]' in the checkout", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the pictures drawn so far are kept", file=sys.stderr)
        return INTERRUPTED
    if asked.json:
        print(json.dumps([page.plain(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        print("\n".join(printed(row) for row in rows))
        print(f"pictures: {asked.output / suite.PICTURES}", file=sys.stderr)
    return DIFFERS if any(row.verdict == suite.DIFFERS for row in rows) else 0


def printed(row: Row) -> str:
    """Return a row for a terminal."""
    found = row.finding
    if found is None:
        return f"{row.check.name:<18}{row.verdict}"
    return f"{row.check.name:<18}{row.verdict:<9}{found.value:8.2g}, at most {found.tolerance:<6g} {found.statistic}"


if __name__ == "__main__":
    sys.exit(main())
