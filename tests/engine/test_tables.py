"""Tables of seconds: the law of core attention, and the grid that stands for it where a cost model gives none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.cost.operators import core_operators
from afdsim.cost.roofline import Roofline
from afdsim.engine.cell import LONGEST, lines
from afdsim.engine.lowering import lower
from afdsim.engine.tables import on_grid


class Own:
    """A cost model of one's own that gives nothing but seconds."""

    def seconds(self, operator, gpu):
        return Roofline().seconds(operator, gpu)


@pytest.mark.parametrize("changes", [{}, {"deployment.mtp": {"draft": 1, "acceptance": 0.7}}])
@pytest.mark.parametrize("engine", ["processes", "kernel"])
def test_the_grid_of_a_linear_law_is_the_law(changes, engine):
    scenario = afdsim.load("small").varied({"workload.num_requests": 60, "run.engine": engine} | changes)
    known, own = (afdsim.simulate(scenario, cost=cost).summary for cost in (None, Own()))

    assert own["mean_tpot_ms"] == pytest.approx(known["mean_tpot_ms"], rel=1e-9)
    assert own["p99_itl_ms"] == pytest.approx(known["p99_itl_ms"], rel=1e-9)


class Root:
    """A cost model whose seconds are the roots of the usual ones."""

    def seconds(self, operator, gpu):
        return np.sqrt(Roofline().seconds(operator, gpu))


@pytest.mark.parametrize("context", [1.0, 100.0, 5_000.0, 50_000.0, LONGEST])
@pytest.mark.parametrize("batch", [1, 7, 16])
def test_a_grid_reaches_to_the_longest_contexts_of_all_slots(context, batch):
    scenario = afdsim.load("small").varied({"deployment.max_num_seqs": 16, "deployment.num_microbatches": 1})
    cell = lower(scenario, seed=0, cost=Root())
    tables = cell.tables
    found = on_grid(tables.grids, int(tables.core_grid[0]), batch, batch * context)
    layer, precision = cell.deployment.llm.layers[0], cell.deployment.precision
    (core,) = core_operators(layer, batch, context, precision=precision, tp=1, query_tokens=1)

    assert found == pytest.approx(Root().seconds(core, cell.deployment.attention.gpu), rel=0.02)


def grid(law, batches, contexts):
    cells = np.array([[law(batch, context) for context in contexts] for batch in batches])
    return np.concatenate([[len(batches), len(contexts)], batches, contexts, cells.reshape(-1)])


@given(st.integers(1, 300), st.floats(0, 300 * LONGEST * 2))
def test_a_grid_is_exact_for_bilinear_laws_also_beyond_it(batch, context):
    def law(b, s):
        return 1e-6 + 2e-9 * b + 3e-12 * s

    made = grid(law, lines(1, 256), np.concatenate([[0.0], lines(1, 256 * LONGEST)]))

    assert on_grid(made, 0, batch, context) == pytest.approx(law(batch, context), rel=1e-9)


@given(st.integers(1, 255), st.floats(0, 1e7), st.floats(0, 1e6))
def test_a_grid_of_a_monotone_law_never_falls(batch, context, more):
    def law(b, s):
        return max(np.ceil(b / 16) * 1e-6, 1e-12 * s) + 1e-6

    made = grid(law, lines(1, 256), np.concatenate([[0.0], lines(1, 256 * LONGEST)]))

    low, high = on_grid(made, 0, batch, context), on_grid(made, 0, batch + 1, context + more)
    assert high >= low - 1e-18


def test_lines_are_every_number_then_eight_to_a_doubling():
    made = lines(1, 1000)

    assert made[:16].tolist() == list(range(1, 17))
    assert made[-1] == 1000
    assert (made[17:] / made[16:-1] <= 1.13).all()
