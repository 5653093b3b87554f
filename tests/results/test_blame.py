"""Whom a run blames: names, sums, several seeds, and what is printed of it."""

import numpy as np
import pytest

import afdsim
from afdsim.engine.books import CAUSES, NETWORK
from afdsim.engine.culprits import Culprit
from afdsim.engine.lowering import lower
from afdsim.results import blame, blaming
from afdsim.results.result import Result, pooled
from afdsim.results.terminal import terminal
from tests import synthetic
from tests.cases import tiny
from tests.laws.test_colocated import colocated

LOST = ["wait_peer", "network", "imbalance"]
WIDE = {"deployment__attention__gpus_per_instance": 2, "deployment__ffn__gpus_per_instance": 2}


def afd(**changes):
    return tiny(3, attention=2, ffn=2, **{"network__type": "shared", "variation__event": 0.1, **changes})


@pytest.fixture(scope="module")
def result():
    return afdsim.simulate(afd())


@pytest.mark.parametrize(
    ("scenario", "units", "port"),
    [
        (afd(), ["attention[0]", "attention[1]", "ffn[0]", "ffn[1]"], "ffn[1] ingress"),
        (afd(network__type="dedicated"), ["attention[0]", "attention[1]", "ffn[0]", "ffn[1]"], "ffn[1] ingress"),
        (
            afd(run__granularity="gpu", **WIDE),
            [*(f"attention[{i}].gpu[{r}]" for i in (0, 1) for r in (0, 1)), "ffn[0]", "ffn[1]"],
            "ffn[1].nic[1] ingress",
        ),
        (colocated(), ["instance[0]", "instance[1]"], "instance[1] ingress"),
        (colocated(run__granularity="gpu"), [f"instance[{i}].gpu[{r}]" for i in (0, 1) for r in (0, 1)], None),
    ],
)
def test_units_and_ports_are_named_as_in_the_scenario(scenario, units, port):
    cell = lower(scenario, seed=0)
    names = blame.Names(cell=cell)

    assert [names.unit(u) for u in range(cell.schedule.units)] == units
    if port is not None:
        last = int(cell.wiring.arriving[:, 1].max()) if len(cell.wiring.arriving) else cell.schedule.units - 1
        assert names.port(Culprit("port", NETWORK, cell.schedule.units - 1, last, "ingress"), 0) == port


def test_a_wire_of_its_own_is_named_by_both_ends():
    names = blame.Names(cell=lower(afd(network__type="dedicated"), seed=0))

    assert names.port(Culprit("port", NETWORK, 0, 1, "egress"), 3) == "attention[0] to ffn[1]"


def test_the_frame_adds_up_to_the_gpus_and_has_every_kind(result):
    frame, gpus = result.blame, result.gpus

    assert list(frame.columns) == ["pool", "unit", "kind", "culprit", "stage", "cause", "gpu_s", "share"]
    assert frame.groupby("cause")["gpu_s"].sum().sum() == pytest.approx(gpus[LOST].to_numpy().sum())
    assert frame["share"].sum() == pytest.approx(frame["gpu_s"].sum() / gpus[list(CAUSES)].to_numpy().sum())
    assert {"peer", "pool", "port", "nvlink"} >= set(frame["kind"]) - {"path"} >= {"peer", "pool", "port"}
    assert (frame["gpu_s"] > 0).all()


def test_the_summary_names_three_peers_and_ports_and_where_the_pools_stood_still(result):
    told, frame = result.summary["afdsim"]["blame"], result.blame

    peers = frame[frame["kind"] == "peer"].groupby("culprit")["gpu_s"].sum().sort_values(ascending=False)
    assert list(told["peers"]) == list(peers.index[:3])
    assert [each["gpu_s"] for each in told["peers"].values()] == pytest.approx(peers.to_list()[:3])
    assert sum(each["gpu_s"] for each in told["kinds"].values()) == pytest.approx(frame["gpu_s"].sum())
    waits = [sum(row) for kinds in told["waits"].values() for causes in kinds.values() for row in causes.values()]
    assert sum(waits) == pytest.approx(frame[frame["kind"] != "rank"]["gpu_s"].sum())
    assert told["waits"]["ffn"].keys() == {"moe"}
    assert sum(told["critical_path"]["shares"].values()) == pytest.approx(1)
    assert all(0 <= room["min"] + 1e-6 <= room["mean"] + 2e-6 for room in told["critical_path"]["slack_ms"].values())


def test_what_the_slowest_rank_costs_is_a_kind_of_its_own():
    lengths = {"distribution": "lognormal", "mean": 100_000, "cv": 1.0, "max": 500_000}
    result = afdsim.simulate(afd(workload__input_len=lengths, deployment__attention__gpus_per_instance=2))
    inner = result.blame[result.blame["kind"] == "rank"]

    assert set(inner["culprit"]) == {"attention[0] slowest rank", "attention[1] slowest rank"}
    assert result.blame["gpu_s"].sum() == pytest.approx(result.gpus[LOST].to_numpy().sum())


def test_windowed_layers_are_told_apart():
    from tests.cases import tiny_windowed

    told = afdsim.simulate(afd().vary("model", tiny_windowed(4))).summary["afdsim"]["blame"]

    assert {kind for kind in told["waits"]["ffn"] if kind != "boundary"} == {"GQA window 310 + moe", "GQA + moe"}


def test_several_seeds_are_blamed_together(result):
    other = afdsim.simulate(afd(), seed=1)
    both, each = pooled([result, other])["afdsim"]["blame"], [one.blame for one in (result, other)]

    assert sum(kind["gpu_s"] for kind in both["kinds"].values()) == pytest.approx(sum(f["gpu_s"].sum() for f in each))
    assert sum(both["critical_path"]["shares"].values()) == pytest.approx(1)
    steps = [one.summary["afdsim"]["blame"]["critical_path"]["steps"] for one in (result, other)]
    assert both["critical_path"]["steps"] == sum(steps)


def test_blame_is_saved_and_read_back(result, tmp_path):
    loaded = Result.load(result.save(tmp_path / "run"))

    assert loaded.summary == result.summary
    assert loaded.blame.equals(result.blame)


def test_an_older_folder_has_none(result, tmp_path):
    folder = result.save(tmp_path / "run")
    (folder / "blame.parquet").unlink()
    loaded = Result.load(folder)

    assert "blame" not in loaded.summary["afdsim"]
    assert blaming.TITLE not in terminal(loaded)


def test_the_report_names_them_in_a_few_lines(result):
    text = terminal(result)
    block = text.split(blaming.TITLE)[1].split("\n\n")[0].splitlines()[1:]

    assert 4 <= len(block) <= 7
    assert block[0].startswith(" later than their mates: ")
    assert any(line.startswith(" critical path: ") for line in block)
    assert max(map(len, text.splitlines())) <= 96


def test_a_run_that_nobody_watched_blames_nobody(small):
    assert blame.told([synthetic.run()]) is None
    assert blaming.TITLE not in terminal(synthetic.result(small))


def test_tensor_parallel_gpus_wait_for_nobody():
    scenario = colocated().vary("deployment", {"type": "tensor_parallel", "gpu": "H800", "gpus": 2, "max_num_seqs": 4})
    result = afdsim.simulate(scenario)

    assert result.summary["afdsim"]["blame"]["kinds"] == {}
    assert " in all: nobody" in terminal(result)
    assert np.isclose(sum(result.summary["afdsim"]["blame"]["critical_path"]["shares"].values()), 1)
