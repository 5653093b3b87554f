"""A folder for files that outlive a test: one a process, gone with it."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path


@cache
def scratch() -> Path:
    """Return the folder, made on first use and removed at exit, by workers of `multiprocessing` too."""
    made = Path(tempfile.mkdtemp(prefix="afdsim-test-"))
    Finalize(None, shutil.rmtree, args=(made,), kwargs={"ignore_errors": True}, exitpriority=0)
    return made


def clear() -> None:
    """Remove the folder, if there is one: workers of pytest-xdist end without a word."""
    if scratch.cache_info().currsize:
        shutil.rmtree(scratch(), ignore_errors=True)
