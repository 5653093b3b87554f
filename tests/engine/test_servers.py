"""Prefill servers as a scenario asks for them: engines of one instance, and the wire to the decode ranks."""

import pytest

from afdsim.cost.prompts import Chunk
from afdsim.engine.lowering import lower
from afdsim.engine.servers import lower_prefill
from afdsim.scenario.document import load


def pool(**changes):
    asked = load("step3_prefill").varied({path.replace("__", "."): value for path, value in changes.items()})
    return lower_prefill(asked, lower(asked, seed=0))


def test_an_engine_is_one_instance_that_computes_prompts():
    found = pool(prefill__instances=3, prefill__gpus_per_instance=8, prefill__parallelism={"dp": 8, "tp": 1, "ep": 8})
    engine = found.prices.prefill.engine

    assert found.ranks == 3 * 8
    assert (engine.attention.instances, engine.gpus) == (1, 8)
    assert (engine.num_microbatches, engine.max_num_seqs) == (1, 1)


def test_exchanges_go_at_the_rate_of_the_nics_that_are_asked_for():
    rate = pool().prices.prefill.gpu.nic.bandwidth

    assert pool(network__link__bandwidth=None).prices.nic_scale == 1.0
    assert pool(network__link__bandwidth=f"{rate / 4 * 8 / 1e9:g}Gbps").prices.nic_scale == pytest.approx(0.25)


def test_caches_travel_at_the_pace_of_the_slower_side():
    """A decode GPU takes what it keeps by its NIC; the eight NICs of a prefill rank give it."""
    efficiency, one, eight = 0.8, {"dp": 8, "tp": 1, "ep": 8}, {"dp": 1, "tp": 8, "ep": 1}
    rate = {"network__link__bandwidth": "200Gbps", "network__efficiency": efficiency, "prefill__gpus_per_instance": 8}
    byte = 1 / (200e9 / 8) / efficiency

    assert pool(**rate, prefill__parallelism=eight).wire.per_byte == pytest.approx(byte)
    assert pool(**rate, prefill__parallelism=one).wire.per_byte == pytest.approx(byte)
    shared = {"network__nics_per_instance": {"attention": 2}}
    assert pool(**rate, prefill__parallelism=one, **shared).wire.per_byte == pytest.approx(4 * byte)
    wide = {"deployment__attention__parallelism": {"dp": 1, "tp": 8}}
    assert pool(**rate, prefill__parallelism=one, **wide).wire.per_byte == pytest.approx(8 * byte)
    assert pool(**rate, prefill__parallelism=eight, **wide).wire.per_byte == pytest.approx(byte)


def test_caches_leave_by_layer_only_where_they_are_asked_to():
    assert pool(prefill__overlap="layers").wire.by_layer == 61
    assert pool(prefill__overlap="none").wire.by_layer == 0


@pytest.mark.parametrize(("overlapped", "rate"), [(True, 8510), (False, 5612)])
def test_deepseek_v3_on_h800_computes_prompts_as_the_model_says(overlapped, rate):
    """Tokens per GPU and second of EP32 for prompts of 4,096 tokens, 16,384 tokens a GPU."""
    found = pool(
        model="deepseek-v3",
        prefill={
            "gpu": "H800",
            "instances": 1,
            "gpus_per_instance": 32,
            "max_batched_tokens": 16384,
            "parallelism": {"dp": 32, "tp": 1, "ep": 32},
            "two_batch_overlap": overlapped,
        },
    )
    step = found.prices.step([[Chunk(4096, 0)] * 4] * 32, [4] * 32)

    assert 16384 / step.seconds == pytest.approx(rate, abs=0.5)
