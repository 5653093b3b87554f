"""Columns of a run."""

import afdsim
from tests.cases import tiny_model


def test_a_very_short_run_with_drafts_has_columns_though_its_mean_batch_seems_larger_than_the_slots():
    result = afdsim.simulate(
        {
            "model": tiny_model(1),
            "deployment": {
                "type": "colocated",
                "gpu": "H800",
                "instances": 1,
                "gpus_per_instance": 1,
                "max_num_seqs": 3,
                "mtp": {"draft": 1, "acceptance": 0.6},
            },
            "variation": {"link": 0},
            "workload": {
                "arrival": {"process": "closed_loop"},
                "input_len": {"distribution": "lognormal", "mean": 300, "cv": 1.0, "max": 3000},
                "output_len": {"distribution": "constant", "value": 3},
                "num_requests": 1,
            },
        }
    )

    assert (result.gpus[["busy", "imbalance"]].to_numpy() >= 0).all()
