"""What factors are drawn: those of every source by itself, and nothing that memory held before."""

from functools import partial

import numpy as np
import pytest

from afdsim.engine.variation import Jitter, Variation, Wires
from afdsim.scenario.streams import stream

STEPS, DRAWS = 500, 40
SLOW = (1.0, 1.5, 1.25)
STREAM = partial(stream, 7)


def varied(**sigmas: float) -> Variation:
    compute = Jitter(pool="attention", stragglers=SLOW, draws=DRAWS)
    return Variation(stream=STREAM, compute=(compute,), wires=(Wires(kind="m2n", pairs=6, draws=DRAWS),), **sigmas)


def test_with_jitter_of_steps_alone_all_operations_of_a_unit_have_one_factor_a_step():
    rows = varied(step=0.1).operations(range(STEPS)).reshape(STEPS, len(SLOW), DRAWS)

    assert np.ptp(rows, axis=2).max() == 0.0
    drawn = rows[:, :, 0] / SLOW
    assert np.log(drawn).std(axis=0) == pytest.approx([0.1] * len(SLOW), rel=0.15)
    assert len(np.unique(drawn)) == drawn.size


def test_with_jitter_of_operations_alone_every_operation_has_its_own():
    rows = varied(event=0.1).operations(range(STEPS)).reshape(STEPS, len(SLOW), DRAWS)

    assert rows.mean(axis=(0, 2)) == pytest.approx(SLOW, rel=0.01)
    assert len(np.unique(rows)) == rows.size


def test_both_together_are_the_product_of_each_alone():
    both = varied(event=0.1, step=0.2).operations(range(STEPS))
    events, steps = (
        varied(**{name: sigma}).operations(range(STEPS)) for name, sigma in (("event", 0.1), ("step", 0.2))
    )
    constant = np.tile(np.repeat(SLOW, DRAWS), STEPS)

    assert both == pytest.approx(events * steps / constant, rel=1e-12)


def test_what_does_not_vary_is_one_row_of_stragglers_and_of_ones():
    still = varied()

    assert still.operations(range(STEPS)).tolist() == np.repeat(SLOW, DRAWS).tolist()
    assert still.transfers(range(STEPS)).tolist() == [1.0] * (6 * DRAWS)


def test_where_nothing_is_on_the_wire_there_is_one_factor_that_nobody_uses():
    alone = Variation(stream=STREAM, compute=(), wires=(), link=0.1)

    assert alone.transfers(range(STEPS)).tolist() == [1.0]
