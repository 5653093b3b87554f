"""Unlike cells behind a router: one entry is replicas, every kind is its own scenario, and all add up."""

from collections.abc import Sequence

import numpy as np
import pytest

import afdsim
from afdsim.engine.books import CAUSES
from afdsim.engine.fleet import Request, RoundRobin, Standing
from afdsim.scenario.document import Scenario, load
from afdsim.scenario.routing import POLICIES
from tests.golden_cells import CELLS

COLOCATED = {"type": "colocated", "gpu": "H20", "instances": 2, "gpus_per_instance": 2, "max_num_seqs": 8}


def fleet(*cells: dict, policy: str = "least_requests", **changes: object) -> Scenario:
    scenario = CELLS["afd_open_warmup"]().vary("router", {"cells": list(cells), "policy": policy})
    for path, value in changes.items():
        scenario = scenario.vary(path.replace("__", "."), value)
    return scenario


def told(result):
    """A summary without what names the scenario."""
    own = {key: value for key, value in result.summary["afdsim"].items() if key != "provenance"}
    return {**result.summary, "afdsim": own}


@pytest.mark.parametrize("policy", POLICIES[:4])
def test_one_entry_with_replicas_is_replicas(policy):
    one = afdsim.simulate(fleet({"replicas": 3}, policy=policy))
    other = afdsim.simulate(CELLS["afd_open_warmup"]().vary("router", {"replicas": 3, "policy": policy}))

    assert told(one) == told(other)
    assert one.requests.equals(other.requests)
    assert one.gpus.equals(other.gpus)
    assert one.blame.equals(other.blame)


@pytest.mark.parametrize("policy", POLICIES[:4])
def test_engines_send_requests_to_the_same_cells(policy):
    scenario = fleet({}, {"deployment": COLOCATED}, policy=policy)
    one, other = (afdsim.simulate(scenario.vary("run.engine", engine)) for engine in ("kernel", "processes"))

    assert one.requests.equals(other.requests)
    assert one.gpus.equals(other.gpus)
    assert set(one.requests["cell"]) == {0, 1}


def test_a_cell_that_gets_everything_is_the_run_of_its_scenario():
    class Last:
        def choose(self, request: Request, cells: Sequence[Standing]) -> int:
            return 1

    scenario = fleet({}, {"deployment": COLOCATED}).varied({"variation.event": 0.0, "variation.step": 0.0})
    scenario = scenario.vary("variation.link", 0.0)
    result = afdsim.simulate(scenario, router=Last())
    alone = afdsim.simulate(scenario.parts[1].vary("router", None))

    assert result.requests["finish_s"].equals(alone.requests["finish_s"])
    assert np.array_equal(result.gpus.query("cell == 1")[list(CAUSES)].to_numpy(), alone.gpus[list(CAUSES)].to_numpy())


def test_what_unlike_cells_did_adds_up():
    result = afdsim.simulate(
        fleet({"replicas": 2}, {"deployment": COLOCATED}, cost={"H800": "2 USD/h", "H20": "1 USD/h"})
    )
    own, seconds = result.summary["afdsim"], result.gpus[list(CAUSES)].sum(axis=1)

    assert [each["gpus"] for each in own["cells"]] == [8, 8, 4]
    assert own["gpus"] == len(result.gpus) == 20
    assert {name: pool["gpus"] for name, pool in own["pools"].items()} == {"attention": 8, "ffn": 8, "colocated": 4}
    assert seconds.to_numpy() == pytest.approx([result.summary["duration"]] * 20)
    assert sum(each["completed"] for each in own["cells"]) == result.summary["completed"]
    assert result.blame["share"].sum() == pytest.approx(result.gpus[list(CAUSES[1:4])].to_numpy().sum() / seconds.sum())
    assert "bottleneck" not in own


def test_pools_with_other_gpus_have_names_of_their_own():
    result = afdsim.simulate(fleet({"replicas": 2}, {"deployment": {"attention": {"gpu": "H20"}}}))
    pools = result.summary["afdsim"]["pools"]

    assert {name: (pool["gpu"], pool["gpus"]) for name, pool in pools.items()} == {
        "attention_H800": ("H800", 8),
        "ffn": ("H20", 12),
        "attention_H20": ("H20", 4),
    }
    assert set(result.gpus.query("pool == 'attention_H20'")["cell"]) == {2}
    assert set(result.gpus.query("pool == 'ffn'")["instance"]) == set(range(6))


def test_turns_go_by_slots():
    cells = [type("Cell", (), {"slots": slots})() for slots in (6, 2, 4)]
    router = RoundRobin()
    chosen = [router.choose(Request(number, 0.0, 1, 1), cells) for number in range(600)]

    assert np.bincount(chosen).tolist() == [300, 100, 200]
    assert max(np.diff(np.flatnonzero(np.array(chosen) == 1))) <= 8


def test_a_key_of_one_kind_is_set_and_swept_by_its_place():
    scenario = fleet({"replicas": 2}, {"deployment": {"max_num_seqs": 8}})
    frame = afdsim.sweep(scenario, over={"router.cells[1].deployment.max_num_seqs": [2, 6]}, progress=False)

    assert [part.deployment.max_num_seqs for part in scenario.parts] == [9, 8]
    assert frame["router.cells[1].deployment.max_num_seqs"].tolist() == [2, 6]
    assert load(scenario, ["router.cells[0].replicas=5"]).router.count == 6


def test_a_resolved_scenario_means_the_same():
    scenario = fleet({"replicas": 2}, {"deployment": {"mtp": None, "max_num_seqs": 8}})
    scenario = scenario.vary("deployment.mtp", {"draft": 1, "acceptance": 0.5})
    again = load(scenario.resolved())

    assert [part.deployment.mtp is None for part in again.parts] == [False, True]
    assert again.key == scenario.key != scenario.vary("router.cells[0].replicas", 3).key


def test_the_report_names_every_kind():
    from afdsim.results.terminal import terminal

    text = terminal(afdsim.simulate(fleet({"replicas": 2}, {"deployment": COLOCATED})))

    assert "cell[0] to cell[1] AFD decode 2A2F" in text
    assert "cell[2] Colocated decode DP4+EP4" in text
    assert "Router least_requests over 3 cells, of 2 kinds" in text


@pytest.mark.parametrize(
    ("router", "message"),
    [
        ({}, "router: must have one of replicas and cells, e.g. {replicas: 4}; neither is given"),
        ({"replicas": 2, "cells": [{}]}, "both are given ('replicas: null' removes it)"),
        ({"cells": []}, "router.cells: must name at least one cell, e.g. [{replicas: 2}]"),
        ({"cells": [{"replicas": 0}]}, "router.cells[0].replicas: must be a whole number >= 1 (got 0)"),
        ({"cells": [{"replicas": 1025}]}, "router.cells: must be <= 1,024"),
        ({"cells": [{}, {"deployment": {"max_num_sequences": 4}}]},
         "router.cells[1].deployment.max_num_sequences: unknown key 'max_num_sequences'; did you mean 'max_num_seqs'?"),
        ({"cells": [{"deployment": {"type": "colocated"}}]}, "router.cells[0].deployment.gpu: required key is missing"),
        ({"cells": [{"workload": {}}]}, "router.cells[0].workload: unknown key 'workload'"),
        ({"cells": [{"variation": {"straggler": {"ffn[7]": 2}}}]},
         "router.cells[0].variation.straggler.ffn[7]: ffn has instances 0..1"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_cells_is_refused(router, message):
    with pytest.raises(afdsim.ScenarioError) as caught:
        CELLS["afd_open_warmup"]().vary("router", router)

    assert message in str(caught.value)


def test_another_type_takes_the_line_rate_alone():
    network = {"link": {"latency": "20us", "bandwidth": "100Gbps"}, "post": "2us"}
    scenario = fleet({}, {"deployment": {"max_num_seqs": 4}}, policy="round_robin", network=network)
    scenario = scenario.vary("variation.straggler", {"ffn[1]": 1.5})
    scenario = scenario.vary("router.cells", [{}, {"deployment": COLOCATED}])
    same, other = scenario.parts

    assert (same.network, same.variation) == (scenario.network, scenario.variation)
    assert other.network.link.bandwidth == scenario.network.link.bandwidth
    assert (other.network.link.latency, other.network.post) == (9e-6, 1.5e-6)
    assert (other.variation.straggler, other.variation.event) == ({}, scenario.variation.event)


def test_a_place_that_is_not_there_is_named():
    with pytest.raises(afdsim.ScenarioError, match=r"'router.cells' has 1 items, and none with number 1"):
        fleet({}).vary("router.cells[1].deployment.max_num_seqs", 3)


def test_a_kind_that_does_not_fit_says_which():
    small = {"gpu": "L20", "instances": 1, "gpus_per_instance": 1, "parallelism": {"ep": 1, "tp": 1}}
    scenario = load("step3_fleet").vary("router", {"cells": [{}, {"deployment": {"ffn": small}}]})

    with pytest.raises(afdsim.CapacityError, match=r"^router.cells\[1\].deployment.ffn.instances: FFN weights need"):
        afdsim.simulate(scenario)
