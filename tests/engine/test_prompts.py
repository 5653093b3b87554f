"""What a prefill step costs: by the operators of its tokens, the slowest rank and the flights between experts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.cost.operators import attention_operators, boundary_operators, dense_operators, expert_operator
from afdsim.cost.prompts import Chunk
from afdsim.cost.roofline import Roofline
from afdsim.engine import prompts
from afdsim.engine.prompts import Prices
from afdsim.engine.servers import prefill_of
from afdsim.scenario.document import load


def prices(cost=None, **prefill):
    found = load("step3_prefill", overrides=[f"prefill.{key}={value}" for key, value in prefill.items()])
    return Prices(prefill=prefill_of(found, found.prefill), cost=cost or Roofline())


LONE = prices(gpus_per_instance=8, parallelism="{dp: 1, tp: 8, ep: 1}")
SPREAD = prices(parallelism="{dp: 4, tp: 2, ep: 8}")
HALVED = prices(parallelism="{dp: 4, tp: 2, ep: 8}", two_batch_overlap="true")


def test_a_step_of_one_rank_is_the_sum_of_its_operators():
    engine, gpu, cost, n = LONE.prefill.engine, LONE.prefill.gpu, Roofline(), 1536.0
    llm, precision = engine.llm, engine.precision
    parts = []
    for layer in llm.layers:
        parts += attention_operators(llm, layer, n, precision=precision, tp=8)
        if hasattr(layer.ffn, "experts"):
            width = layer.ffn.shared * layer.ffn.shared_inner / 8
            parts += dense_operators(llm, n, width, precision.ffn)
            parts.append(expert_operator(llm, engine.routed(layer.ffn), n, precision=precision, split=engine.split))
        else:
            parts += dense_operators(llm, n, layer.ffn.inner / 8, precision.ffn)
        parts += LONE._all_reduce(n)
    embedding = [each for each in boundary_operators(llm, n, precision=precision, tp=8) if "embedding" in each.name]
    head = [each for each in boundary_operators(llm, 1.0, precision=precision, tp=8) if "embedding" not in each.name]
    expected = sum(float(cost.seconds(each, gpu)) for each in (*parts, *embedding, *head))
    cores = LONE._cores([Chunk(1536, 0)], 1)[0]

    assert LONE.step([[Chunk(1536, 0)]], [1]).seconds == pytest.approx(expected + cores, rel=1e-12)


@given(st.integers(1, 8000), st.integers(0, 20_000), st.integers(1, 100))
def test_more_tokens_take_longer(tokens, before, more):
    now = LONE.step([[Chunk(tokens, before)]], [0]).seconds

    assert LONE.step([[Chunk(tokens + more, before)]], [0]).seconds > now
    assert LONE.step([[Chunk(tokens, before + 1000 * more)]], [0]).seconds > now


def test_only_finished_prompts_have_a_head():
    part, whole = (LONE.step([[Chunk(512, 0)]], [done]).seconds for done in (0, 1))

    assert part < whole
    assert LONE.step([[Chunk(512, 0)] * 2], [2]).seconds < 2 * whole


def test_attention_is_quadratic_in_the_prompt():
    short, double = (LONE._cores([Chunk(n, 0)], 1)[prompts.FLOPS] for n in (4000, 8000))

    assert double == pytest.approx(4 * short)


@pytest.mark.parametrize("found", [SPREAD, HALVED], ids=["whole", "halves"])
def test_a_step_lasts_as_long_as_its_slowest_rank(found):
    step = found.step([[Chunk(4096, 0)], [], [Chunk(100, 0)], []], [1, 0, 1, 0])

    assert step.seconds == pytest.approx(max(step.own) + step.flights)
    assert step.own[0] > step.own[2] > step.own[1] == step.own[3]


def test_halves_hide_flights_behind_work_and_cost_the_kernels_of_both():
    full = [[Chunk(8192, 0)]] * 4
    whole, halves = SPREAD.step(full, [1] * 4), HALVED.step(full, [1] * 4)

    assert whole.flights > 0
    assert halves.flights == 0
    assert halves.own[0] > whole.own[0]
    assert halves.flops == pytest.approx(whole.flops, rel=1e-6)


def test_a_rank_alone_sends_nothing():
    assert LONE.step([[Chunk(8192, 0)]], [1]).flights == 0


def test_a_cost_model_of_the_caller_prices_prompts_too():
    class Roofline2:
        def seconds(self, operator, gpu):
            return Roofline().seconds(operator, gpu)

    own = prices(Roofline2(), parallelism="{dp: 1, tp: 8, ep: 1}")
    ranks = [[Chunk(300, 0), Chunk(212, 1024)]]

    assert own.step(ranks, [1]).seconds == pytest.approx(LONE.step(ranks, [1]).seconds, rel=1e-12)


def test_no_gpu_does_more_than_its_peak():
    step = LONE.step([[Chunk(8192, 0)]], [1])

    assert 0 < step.flops < step.seconds
    assert 0 < step.bytes < step.seconds


def test_far_numbers_of_tokens_lie_between_the_lines():
    wide = replace(SPREAD, prefill=replace(SPREAD.prefill, max_batched_tokens=30_000))
    numbers = np.array([16_385, 20_001, 29_999, 30_000])
    near = np.array([wide._rows(int(n))[prompts.SECONDS] for n in numbers])

    assert (np.diff(near) > 0).all()
    assert near == pytest.approx(wide._rows(15_000)[prompts.SECONDS] * numbers / 15_000, rel=0.01)


def test_a_line_of_the_grid_is_what_the_operators_take():
    """To the last bit: a table that ends there has it as its last line."""
    most = 4 * prompts.EXACT
    for doubling in (1, 9, 13):
        line = round(prompts.EXACT * 2 ** (doubling / prompts.LINES))
        long, short = (replace(SPREAD, prefill=replace(SPREAD.prefill, max_batched_tokens=n)) for n in (most, line))

        assert long._rows(line).tolist() == short._rows(line).tolist()


def test_nothing_takes_no_time():
    for found in (LONE, SPREAD, HALVED):
        assert [part(0).tolist() for part in (found._rows, found._heads, found._flights)] == [[0.0] * 3] * 3
