"""No cliffs: a decode step never gets faster by one more sequence or one more token of context, on a dense grid."""

from collections import Counter

import numpy as np
import pytest

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision, Split
from afdsim.cost.operators import (
    attention_operators,
    boundary_operators,
    core_operator,
    ffn_operators,
    gather_operator,
    reduction_operator,
    scatter_operator,
)
from afdsim.cost.roofline import Roofline

COST = Roofline()
BATCHES = np.arange(1.0, 321.0)
CONTEXTS = np.unique(
    np.concatenate([np.arange(1, 200), np.geomspace(200, 131072, 120).astype(int), [8192, 8193, 32768]])
)
SPLIT = Split(instances=2, tp=8)
RANKS = 16
"""Attention GPUs that share the FFN."""


def step(llm, gpu, batches, contexts, precision=None):
    """Return the seconds of all layers, stage after stage, for batches (rows) and contexts (columns), and a bound.

    The bound counts every operator at peak FLOPs and peak bandwidth.
    """
    asked = precision or Precision()
    seconds, bound = np.zeros((len(batches), len(contexts))), np.zeros((len(batches), len(contexts)))
    parts = [*boundary_operators(llm, batches, precision=asked)]
    grid = [(1, operator) for operator in parts]
    for layer, count in Counter(llm.layers).items():
        window = layer.attention.window
        seen = contexts if window is None else np.minimum(contexts, window)
        core = core_operator(layer, batches[:, None], batches[:, None] * seen[None, :], precision=asked)
        rest = (
            *attention_operators(llm, layer, batches, precision=asked),
            reduction_operator(llm, batches, 2),
            *ffn_operators(llm, layer, batches * RANKS, precision=asked, split=SPLIT),
            gather_operator(llm, batches * RANKS, gpus=8, top_k=8, precision=asked),
            scatter_operator(llm, batches * RANKS, gpus=8),
        )
        grid += [(count, core), *((count, operator) for operator in rest)]
    for count, operator in grid:
        seconds += count * spread(COST.seconds(operator, gpu), seconds.shape)
        if operator.kernel not in ("all_gather", "reduce_scatter"):
            peak = gpu.peak("bf16" if operator.dtype == "fp32" else operator.dtype)
            bound += count * spread(
                np.maximum(operator.flops / peak, operator.bytes / gpu.memory_bandwidth), seconds.shape
            )
    return seconds, bound


def spread(values, shape):
    array = np.asarray(values, dtype=float)
    return np.broadcast_to(array[:, None] if array.ndim == 1 else array, shape)


@pytest.mark.parametrize("name", catalog.gpus())
def test_a_step_has_no_cliffs_and_stays_above_the_roofline(name):
    for model in catalog.llms():
        seconds, bound = step(catalog.llm(model), catalog.gpu(name), BATCHES, CONTEXTS)

        assert (np.diff(seconds, axis=0) >= 0).all(), model
        assert (np.diff(seconds, axis=1) >= -1e-15).all(), model
        assert (seconds >= bound).all(), model


def test_a_table_without_care_would_have_cliffs():
    """The law can fail: nearest-neighbour lookup of the same seconds, as a peer does it, falls."""
    llm, gpu = catalog.llm("deepseek-v3"), catalog.gpu("H800")
    seconds, _ = step(llm, gpu, BATCHES, CONTEXTS[-3:])
    per_sequence = seconds[:, 0] / BATCHES
    measured = np.array([8, 32, 128, 256])
    nearest = measured[np.abs(BATCHES[:, None] - measured).argmin(axis=1)]

    assert (np.diff(per_sequence[nearest - 1] * BATCHES) < 0).any()


GOLDEN = {
    "step3": (33.3434, 58.153366, 73.034718),
    "step3-small": (1.689401, 2.81594, 3.239203),
    "step3-600b": (41.027155, 78.572155, 108.069506),
    "deepseek-v3": (46.789328, 94.225677, 127.477354),
    "deepseek-r1": (46.789328, 94.225677, 127.477354),
    "kimi-k2": (49.908172, 80.851512, 124.093565),
    "qwen3-235b": (49.167728, 89.491173, 77.474349),
    "qwen3-30b-a3b": (20.047463, 38.534085, 28.087922),
    "qwen3-32b": (48.540963, 106.071031, 65.286419),
    "llama4-maverick": (46.42218, 89.86862, 81.364442),
    "minimax-m1": (55.424284, 72.093882, 112.723193),
    "minimax-m2.5": (47.359224, 97.103706, 71.31963),
    "ernie-4.5-300b": (51.85097, 111.351839, 103.41404),
    "pangu-pro-moe": (37.213824, 78.734711, 58.732689),
    "mixtral-8x22b": (45.650023, 105.645238, 92.413864),
    "dbrx": (34.024333, 81.178325, 75.553228),
}


@pytest.mark.parametrize("model", catalog.llms())
def test_golden_steps(model):
    """Milliseconds of one step at 64 sequences and 8192 tokens on H800, H20 and A800, all stages in series."""
    found = []
    for name in ("H800", "H20", "A800"):
        seconds, _ = step(catalog.llm(model), catalog.gpu(name), np.array([64.0]), np.array([8192]))
        found.append(float(seconds[0, 0]) * 1e3)

    assert found == pytest.approx(GOLDEN[model], rel=1e-6)
