"""GPU use over time and three layers of a step: in agreement with the timeline, the totals and the engine."""

from collections import defaultdict
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import afdsim
from afdsim.results.result import Result
from afdsim.studies import recording
from tests.results.test_timeline import COLOCATED, KINDS, TINY, WHOLE, scenario

DEEP = afdsim.load("step3_ep32").varied(
    {"workload.num_requests": 40, "workload.output_len": 3, "workload.input_len": 64}
)
EVERY = KINDS | {
    "tensor parallel": lambda: afdsim.load(
        TINY | {"deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 8}}
    ),
    "mixed prompts": lambda: afdsim.load(COLOCATED | {"prefill": {"mode": "mixed"}}),
    "many layers": lambda: DEEP,
}
UNIT = ["every GPU", "uplinks of every GPU", "few NICs"]
"""Kinds whose timeline calls a rank otherwise."""


@cache
def result(kind: str) -> Result:
    return afdsim.simulate(EVERY[kind]())


def tracks(frame: pd.DataFrame) -> dict[str, list[tuple[float, float, str, int]]]:
    """Spans of every track in order, those without length left out."""
    found = defaultdict(list)
    columns = (frame[name] for name in ("track", "start_s", "end_s", "cause", "micro_batch"))
    for track, *span in zip(*columns, strict=True):
        if span[0] < span[1]:
            found[track].append(tuple(span))
    return found


# the pipeline


@pytest.mark.parametrize("kind", EVERY)
def test_every_kind_has_three_layers_of_at_most_two_units_of_a_pool(kind):
    frame = result(kind).pipeline
    layers = frame.loc[frame["what"].ne("gap") & frame["layer"].ge(0), "layer"]

    assert list(frame) == ["track", "start_s", "end_s", "step", "layer", "micro_batch", "cause", "what"]
    assert {29, 30, 31} <= set(layers) if kind == "many layers" else set(layers) == {0, 1}
    assert (
        max(frame["track"].str.extract(r"^(\w+)\[", expand=False).groupby(frame["track"]).first().value_counts()) <= 6
    )
    assert set(frame["cause"]) <= set(afdsim.plot.CAUSE_COLOURS)
    assert (frame["micro_batch"].eq(-1) == frame["what"].eq("gap")).all()


@pytest.mark.parametrize("kind", EVERY)
def test_a_track_does_one_thing_at_a_time_and_compute_is_without_holes(kind):
    frame = result(kind).pipeline
    begin, end = frame["start_s"].min(), frame["end_s"].max()
    for track, spans in tracks(frame).items():
        start, finish = np.array([span[:2] for span in spans]).T
        if track.startswith("→") or track.endswith((" gather", " scatter")):
            assert (start[1:] >= finish[:-1]).all()
        else:
            assert (start[1:] == finish[:-1]).all()
            assert (start[0], finish[-1]) == (begin, end)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNIT])
def test_operations_and_gaps_are_those_of_the_timeline(kind):
    drawn = recording.record(KINDS[kind](), WHOLE)
    frame = drawn.result.pipeline
    begin, end = frame["start_s"].min(), frame["end_s"].max()
    whole = pd.DataFrame(drawn.columns())
    whole["start_s"], whole["end_s"] = whole["start_s"].clip(lower=begin), whole["end_s"].clip(upper=end)
    known = tracks(whole)

    own = {track: spans for track, spans in tracks(frame).items() if not track.startswith("→")}
    assert len(own) >= 2
    for track, spans in own.items():
        assert spans == known[track]


@pytest.mark.parametrize("kind", ["closed loop", "by processes", "every GPU", "late posts", "ports"])
def test_a_gather_begins_when_its_messages_are_there(kind):
    found = tracks(result(kind).pipeline)
    there = [end for _, end, *_ in found["→ ffn[0]"]]
    gathers = found["ffn[0] gather"]

    for before, gather in pairwise(gathers):
        assert gather[0] == before[1] or gather[0] in there


def test_a_unit_without_requests_has_no_work():
    few = scenario(workload__arrival={"process": "closed_loop", "concurrency": 1}, workload__num_requests=30)
    frame = afdsim.simulate(few).pipeline
    gaps = frame[frame["track"].eq("attention[1]")]

    assert set(gaps["cause"]) == {"no_work"}


# use over time


@pytest.mark.parametrize("kind", EVERY)
def test_use_over_time_is_that_of_the_window_where_the_load_is_even(kind):
    """A batch that comes at once is measured from its begin to its end."""
    arrival = {"process": "poisson", "request_rate": "inf req/s"}
    found = afdsim.simulate(EVERY[kind]().varied({"workload.arrival": arrival, "workload.num_requests": 60}))
    frame = found.utilization
    frame["seconds"] = frame["busy"] * (frame["end_s"] - frame["begin_s"])
    sums = frame.groupby(["pool", "instance", "rank"], sort=False)["seconds"].sum()

    assert list(frame)[:6] == ["begin_s", "end_s", "pool", "instance", "rank", "busy"]
    assert list(sums.index) == list(found.gpus[["pool", "instance", "rank"]].itertuples(index=False, name=None))
    assert sums.to_numpy() == pytest.approx(found.gpus["busy"].to_numpy(), rel=1e-9)
    assert frame["busy"].between(0.0, 1.0).all()


def test_prefill_servers_are_watched_in_the_same_slices():
    short = ["workload.duration=4s", "workload.output_len=20", "run.warmup=1s"]
    found = afdsim.simulate(afdsim.load("step3_prefill", overrides=short))
    frame = found.utilization
    prefill = frame[frame["pool"].eq("prefill")]
    inside = prefill[prefill["begin_s"].ge(found.run.window[0]) & prefill["end_s"].le(found.run.window[1])]

    assert len(prefill) == frame["begin_s"].nunique() * found.gpus["pool"].eq("prefill").sum()
    share = found.gpus.loc[found.gpus["pool"].eq("prefill"), "busy"].mean() / found.run.duration
    assert inside["busy"].mean() == pytest.approx(share, rel=0.1)  # the window cuts two slices


def test_all_cells_of_a_fleet_are_watched():
    fleet = scenario(
        router={"replicas": 3},
        workload__arrival={"process": "poisson", "request_rate": "900 req/s"},
        workload__num_requests=60,
    )
    found = afdsim.simulate(fleet)

    assert found.utilization.groupby(["cell", "pool", "instance"]).ngroups == 3 * 4
    assert found.utilization.groupby("pool")["instance"].nunique().to_dict() == {"attention": 6, "ffn": 6}
    assert len(found.pipeline)
    assert found.run.slots == 3 * 2 * 8 * 6


# kept


def test_frames_are_kept_and_folders_without_them_are_read(tmp_path):
    found = result("closed loop")
    folder = found.save(tmp_path / "run")
    again = Result.load(folder)

    pd.testing.assert_frame_equal(again.utilization, found.utilization)
    pd.testing.assert_frame_equal(again.pipeline, found.pipeline)
    assert again.run.slots == found.run.slots == 96
    for name in ("utilization", "pipeline"):
        (folder / f"{name}.parquet").unlink()
    assert Result.load(folder).pipeline.empty
    assert Result.load(folder).summary == found.summary


def test_a_run_that_nobody_watches_is_the_same_without_them():
    found = afdsim.simulate(KINDS["closed loop"](), watch=False)

    assert found.utilization.empty
    assert found.pipeline.empty
    assert found.summary == result("closed loop").summary
