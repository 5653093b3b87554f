"""Machine code of the compiled steps, kept on disk between runs under a key of their sources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from afdsim.engine import causes, kernel, seating
from afdsim.engine import compiled as steps

CALLED = (
    *(getattr(seating, name) for name in (
        "need", "issue", "queue", "emptiest", "arrive", "refill", "grow", "steps_of", "leave", "stand_up",
        "chain_leaving", "join", "sit_down", "emit", "first_tokens", "turn_over",
    )),
    *(getattr(steps, name) for name in ("measure", "schedule", "attend", "open_step", "tabulate", "close_step")),
    kernel.advance_ports,
    kernel.advance_dedicated,
    causes.book,
)  # fmt: skip
"""What the entry points call, callees first."""


@cache
def compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`run_steps` and `populate` as machine code; no reordering of arithmetic."""
    import numba
    from numba.extending import register_jitable

    for function in CALLED:
        register_jitable(function)
    config: Any = numba.config
    elsewhere, config.CACHE_DIR = config.CACHE_DIR, str(_cache_folder())
    try:
        machine_code = numba.njit(cache=_keeps(), error_model="numpy")  # no division here can meet a zero
        return machine_code(steps.run_steps), machine_code(steps.populate)
    finally:
        config.CACHE_DIR = elsewhere


def kept() -> bool:
    """Whether machine code of these sources is on disk already."""
    return any(_cache_folder().rglob("*.nbi"))


def _keeps() -> bool:
    """Whether machine code can be kept: not where home is read-only."""
    try:
        _cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(_cache_folder(), os.W_OK)


def _cache_folder() -> Path:
    """Numba looks at one file only to tell whether code is stale; the folder's name covers all of them."""
    digest = hashlib.sha256()
    for module in (seating, steps, kernel, causes):
        digest.update(Path(str(module.__file__)).read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "afdsim" / f"native-{digest.hexdigest()[:16]}"
