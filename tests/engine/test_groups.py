"""Attention groups take turns on one FFN pool, each with micro-batches of its own."""

import numpy as np
import pytest

from afdsim.engine.schedule import Compute
from afdsim.errors import ScenarioError
from tests.cases import Stages, Wires, run, tiny


def groups(count, *, m, attention, ffn, layers=5, engine="kernel"):
    """Usual step time of `count` groups of one instance each, without a network, and the run."""
    scenario = tiny(
        layers,
        attention=count,
        deployment__attention__groups=count,
        deployment__num_microbatches=m,
        deployment__max_num_seqs=m,
        workload__num_requests=40 * count,
    )
    outcome = run(scenario, engine, cost=Stages(attention=attention, ffn=ffn), network=Wires())
    return float(np.median(outcome.step_times[4:])), outcome


@pytest.mark.parametrize("engine", ["processes", "kernel"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize(("attention", "ffn"), [(100e-6, 20e-6), (60e-6, 60e-6), (20e-6, 70e-6)])
def test_a_step_is_bound_by_a_group_the_shared_pool_or_the_round_trip(engine, count, m, attention, ffn):
    step, _ = groups(count, m=m, attention=attention, ffn=ffn, engine=engine)

    assert step == pytest.approx(5 * max(m * attention, count * m * ffn, attention + ffn), rel=1e-9)


def test_an_ffn_instance_serves_layer_by_layer_group_by_group_micro_batch_by_micro_batch():
    _, outcome = groups(2, m=2, attention=50e-6, ffn=50e-6, layers=2)
    served = [turn for turn in outcome.cell.schedule.turns if isinstance(turn, Compute) and turn.name == "ffn"]

    assert [(turn.layer, turn.batch) for turn in served] == [(layer, batch) for layer in range(2) for batch in range(4)]


def test_a_group_sends_to_the_whole_pool_and_hears_from_all_of_it():
    _, outcome = groups(2, m=2, attention=50e-6, ffn=50e-6)
    exchanges = [outcome.cell.schedule.turns[place] for place in outcome.cell.schedule.exchanges]

    assert {(each.senders, each.receivers) for each in exchanges} == {
        (range(g, g + 1), range(2, 3)) for g in (0, 1)
    } | {(range(2, 3), range(g, g + 1)) for g in (0, 1)}


def test_groups_divide_the_instances():
    with pytest.raises(ScenarioError, match="2 groups do not divide the 3 instances"):
        tiny(3, attention=3).vary("deployment.attention.groups", 2)
