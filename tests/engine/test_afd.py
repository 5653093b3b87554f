"""Kernel libraries of the pools of an AFD deployment: they price their own pool, and both engines alike."""

import numpy as np
import pytest

import afdsim
from afdsim.cost.roofline import Roofline
from afdsim.engine.lowering import deployment, lower
from afdsim.errors import ScenarioError
from afdsim.scenario.document import load
from tests.cases import run


def qwen(**kernels):
    """Qwen3-235B on H20 with a BF16 cache, whose 16 query rows a default kernel pads to 64."""
    pools = {
        name: {"gpu": "H20", "instances": count, "kernels": kernels.get(name, [])}
        for name, count in (("attention", 4), ("ffn", 2))
    }
    return load(
        {
            "version": 1,
            "model": "qwen3-235b",
            "precision": {"attention": "bf16"},
            "deployment": {"type": "afd", **pools, "max_num_seqs": 24},
            "workload": {
                "arrival": {"process": "closed_loop"},
                "input_len": {"distribution": "constant", "value": 8184},
                "output_len": {"distribution": "constant", "value": 16},
                "num_requests": 768,
            },
        }
    )


def prices(scenario):
    """Seconds of a full micro-batch: of the core of a rank, and of everything that depends on its tokens."""
    cell = lower(scenario, seed=0)
    return cell.tables.core_law, cell.pricing.of(np.array([cell.pricing.most]))


def test_kernels_price_the_pool_that_names_them():
    core, tokens = prices(qwen())
    attention, ffn = prices(qwen(attention=["flashinfer"])), prices(qwen(ffn=["swapab"]))

    assert (attention[0] != core).any()
    assert np.array_equal(attention[1], tokens)
    assert np.array_equal(ffn[0], core)
    assert (ffn[1] <= tokens).all()
    assert (ffn[1] < tokens).any()


def test_a_library_without_padding_speeds_grouped_queries_up():
    default, chosen = (afdsim.simulate(qwen(attention=names)).summary["mean_tpot_ms"] for names in ([], ["flashinfer"]))

    assert chosen < 0.85 * default


def test_engines_agree_on_chosen_kernels():
    scenario = qwen(attention=["flashinfer"], ffn=["swapab"]).vary("workload.num_requests", 8)
    processes, kernel = (run(scenario, engine) for engine in ("processes", "kernel"))

    assert np.array_equal(processes.record.requests.finish, kernel.record.requests.finish, equal_nan=True)
    assert np.array_equal(processes.record.causes, kernel.record.causes)


def test_a_library_that_prices_nothing_is_named():
    notes = afdsim.simulate(qwen(attention=["flashinfer", "swapab"], ffn=["swapab"])).notes
    idle = [note for note in notes if "no kernel of" in note]

    assert len(idle) == 1
    assert idle[0].startswith("deployment.attention.kernels: no kernel of swapab was measured")
    assert not any("core gqa" in note for note in notes)  # FlashInfer's was measured on H20


def test_a_cost_model_of_ones_own_replaces_both():
    scenario = qwen(attention=["flashinfer"], ffn=["swapab"])
    own = lower(scenario, seed=0, cost=Roofline())

    assert np.array_equal(own.tables.core_law, prices(qwen())[0])


@pytest.mark.parametrize("pool", ["attention", "ffn"])
def test_an_unknown_library_is_refused_as_a_colocated_one_is(pool):
    with pytest.raises(ScenarioError) as caught:
        qwen(**{pool: ["nope"]})

    with pytest.raises(ScenarioError) as colocated:
        load("dsv3_ep128_4k", overrides=["deployment.kernels=[nope]"])
    message = f"deployment.{pool}.kernels: no kernel was measured for 'nope' (known: "
    assert message in str(caught.value)
    assert str(caught.value).split("kernels: ")[1] == str(colocated.value).split("kernels: ")[1]


def test_a_deployment_knows_the_kernels_of_its_pools():
    found = deployment(qwen(attention=["flashinfer"], ffn=["swapab"]))

    assert (found.attention.kernels, found.ffn.kernels) == (("flashinfer",), ("swapab",))
