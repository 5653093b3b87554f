"""The text of the recurrence means the same to machine code and to Python, which reads it as it stands, bit for bit.

Machine code reckons with unsigned whole numbers, of which Python's arithmetic would make other types: they are signed
here. What coverage knows of the recurrence it knows from here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine import blocks, books, native, recurrence
from afdsim.engine.population import populate
from tests.cases import fewer, run, tiny
from tests.golden_cells import CELLS
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import assert_same, deployments
from tests.laws.test_failures import fragile
from tests.laws.test_kv_cache import alike, growing
from tests.laws.test_mixed import assert_chunks_same, mixing
from tests.laws.test_sessions import talking

ANYTHING = {
    "AFD": deployments(),
    "colocated": st.one_of(engines(), tensors()),
    "growing KV cache": st.one_of(growing(), alike()),
    "prompts": mixing(),
    "failures": fragile(),
    "sessions": talking(),
}
SOME = ("afd_gpu_uneven", "afd_open_idle", "afd_mtp2_windowed", "ep_heavy_normal_two_batches", "tp8_open_idle")


@contextmanager
def interpreted() -> Iterator[None]:
    """Let the kernel run as Python; random numbers are drawn as ever."""
    draw_normals = native.compiled()[-1]

    def entries() -> tuple[Any, ...]:
        return run_steps, populate, draw_normals

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "compiled", entries)
        patched.setattr(recurrence, "INDEX", np.int64)
        for name in ("HOST", "OWN", "AT_PEER", "AT_NETWORK"):
            patched.setattr(books, name, np.int64(getattr(books, name)))
        yield


def run_steps(*given: Any) -> tuple[int, int]:
    return recurrence.run_steps(*map(signed, given))


def signed(value: Any) -> Any:
    """The same memory, whose unsigned whole numbers are read as signed ones."""
    if isinstance(value, tuple):
        return value._make(map(signed, value)) if hasattr(value, "_make") else tuple(map(signed, value))
    return value.view(np.int64) if getattr(value, "dtype", None) == np.uint64 else value


@pytest.mark.parametrize("kind", ANYTHING)
def test_python_and_machine_code_agree_bit_for_bit(kind):
    @fewer(10)
    @given(ANYTHING[kind])
    def agree(scenario):
        compiled = run(scenario)
        with interpreted():
            read = run(scenario)

        assert_same(compiled, read)
        if kind == "prompts":
            assert_chunks_same(compiled, read)

    agree()


@pytest.mark.parametrize("name", SOME)
def test_frozen_cells_run_as_python_too(name):
    scenario = CELLS[name]().vary("workload.num_requests", 8)
    compiled = run(scenario)
    with interpreted():
        read = run(scenario)

    assert_same(compiled, read)


def test_a_text_that_means_something_else_is_seen(monkeypatch):
    compiled, post_time = run(tiny()), recurrence.post_time

    def later(*given):
        return np.nextafter(post_time(*given), np.inf)

    with interpreted():
        monkeypatch.setattr(recurrence, "post_time", later)
        read = run(tiny())

    with pytest.raises(AssertionError):
        assert_same(compiled, read)
