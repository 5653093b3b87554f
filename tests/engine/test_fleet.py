"""Which cell a router draws."""

from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from afdsim.engine.fleet import PowerOfTwo, Request
from afdsim.scenario.streams import stream

CELLS, REQUESTS = 4, 8_000


def chosen(loads):
    router = PowerOfTwo(partial(stream, 3, "router"))
    cells = [SimpleNamespace(number=number, load=load) for number, load in enumerate(loads)]
    requests = (Request(number=n, arrival=0.0, input_len=1, output_len=1) for n in range(REQUESTS))
    counts = Counter(router.choose(request, cells) for request in requests)
    return [counts[number] / REQUESTS for number in range(len(loads))]


def test_of_two_that_are_drawn_alike_the_less_loaded_one_is_chosen():
    """Of pairs of four cells the emptiest wins all 3 of 6, the second 2, the third 1, and the fullest none."""
    assert chosen([0.0] * CELLS) == pytest.approx([1 / 4] * CELLS, abs=0.02)
    assert chosen([0.4, 0.1, 0.3, 0.2]) == pytest.approx([0, 3 / 6, 1 / 6, 2 / 6], abs=0.02)
