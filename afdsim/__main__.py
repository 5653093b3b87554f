"""The command line from its first moment to its last: ``python -m afdsim``, and ``afdsim``.

A command may be asked to stop while it is loaded, before it can say what it keeps, and after it has done all.
"""

import os
import signal
import sys


def main() -> None:
    """Load the command line and run it."""
    heard = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _leave)
    try:
        from afdsim.cli.main import main as run

        run(prog_name="afdsim")
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN)  # all is done: the exit code says how it went


def _leave(number: int, _: object) -> None:
    """End at once, as nothing has begun."""
    sys.stderr.write("interrupted; nothing was saved\n")
    sys.stderr.flush()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
