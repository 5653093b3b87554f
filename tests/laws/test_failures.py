"""Crashes and repairs: no request, token or second is lost or counted twice, whatever crashes when."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.engine.books import CAUSES, DOWN
from afdsim.engine.crashes import failing
from afdsim.engine.record import Record
from afdsim.errors import SimulationError
from afdsim.results import metrics
from afdsim.results import outcome as columns
from afdsim.scenario.document import Scenario
from tests.cases import Outcome, Stages, Wires, run, tiny
from tests.laws.test_colocated import engines, tensors
from tests.laws.test_equivalence import assert_same, deployments

TIMES = st.one_of(st.sampled_from([0.0, 1e-3]), st.floats(0, 0.05), st.floats(0, 2.0))
SHORT = ["0s", "200us", "3ms"]


@st.composite
def fragile(draw: st.DrawFn) -> Scenario:
    """Any small deployment of any kind, with any crashes: stated, drawn or both, and any way to go on."""
    scenario = draw(st.one_of(deployments(), engines(), tensors()))
    return scenario.vary("failures", draw(failures(scenario))).vary("run.stop", draw(stops()))


def stops() -> st.SearchStrategy[dict[str, str]]:
    """Horizons: most runs have none."""
    return st.sampled_from([{}, {}, {}, {"max_sim_time": "4ms"}, {"max_sim_time": "300ms"}])


@st.composite
def failures(draw: st.DrawFn, scenario: Scenario) -> dict[str, object]:
    """Crashes of a deployment, soon enough to be felt."""
    parts = targets(scenario)
    seconds = st.sampled_from(SHORT)
    event = st.fixed_dictionaries(
        {"at": TIMES.map(lambda at: f"{at!r}s"), "target": st.sampled_from(parts), "repair": seconds}
    )
    found: dict[str, object] = {"events": draw(st.lists(event, max_size=4))}
    if draw(st.booleans()):
        kinds = ["instance", "gpu", *(["nic"] if scenario.deployment.type != "tensor_parallel" else [])]
        found["mtbf"] = {draw(st.sampled_from(kinds)): draw(st.sampled_from(["100ms", "1s"]))}
    found |= {key: draw(seconds) for key in ("repair", "detection", "restart")}
    if draw(st.booleans()):
        huge = scenario.workload.input_len.mean > 1e6  # an age at a low rate, in which something crashes again
        rates = ["1e10 tok/s"] if huge else ["1e5 tok/s", "1e7 tok/s"]
        found |= {"requests": "reprefill", "reprefill_rate": draw(st.sampled_from(rates))}
    else:
        found["requests"] = "reject"
    alone = 1 in sizes(scenario).values()
    return found | {
        "meanwhile": "stop" if alone else draw(st.sampled_from(["stop", "shrink"])),
        "kv_cache": draw(st.sampled_from(["lost", "kept"])),
    }


def sizes(scenario: Scenario) -> dict[str, int]:
    """Instances by role."""
    asked = scenario.deployment
    if asked.type == "afd":
        return {"attention": asked.attention.instances, "ffn": asked.ffn.instances}
    return {"instance": getattr(asked, "instances", 1)}


def targets(scenario: Scenario) -> list[str]:
    """Whatever may be named: instances and their first parts."""
    kinds = ["", ".gpu[0]", *([".nic[0]"] if scenario.deployment.type != "tensor_parallel" else [])]
    return [f"{role}[{i}]{kind}" for role, count in sizes(scenario).items() for i in range(count) for kind in kinds]


def emitted_by_requests(outcome: Outcome) -> int:
    """Tokens that requests have got, stay by stay; of one that still sits, from the boundaries of its lane."""
    record, m = outcome.record, outcome.cell.micro_batches
    table, rows = record.requests, record.boundaries
    total = int(record.stays.tokens.sum())
    finished = ~np.isnan(table.finish)
    total += int((table.input_len + table.output_len - table.context)[finished].sum())
    latest = np.full(outcome.cell.seated * m, -1)
    np.maximum.at(latest, rows.unit * m + rows.micro_batch, rows.step)
    sits = (table.joined >= 0) & ~finished
    lane = table.seat // m // outcome.cell.ranks * m + table.seat % m
    return total + int(np.maximum(latest[lane[sits]] - table.joined[sits], 0).sum())


def assert_conserved(outcome: Outcome) -> None:
    """Requests, tokens and seconds."""
    record, table = outcome.record, outcome.record.requests
    start, end = record.window
    causes = record.causes
    assert causes.min() >= -1e-12
    assert causes.sum(axis=1) == pytest.approx(np.full(len(causes), end - start), rel=1e-9, abs=1e-12)
    assert set(table.status()) <= {"finished", "refused", "lost", "running", "waiting"}
    assert not (~np.isnan(table.lost) & ~np.isnan(table.finish)).any()
    if outcome.cell.drafts is None:
        assert int(record.boundaries.batch.sum()) == emitted_by_requests(outcome)
    assert_tokens_of_finished(record)


def assert_tokens_of_finished(record: Record) -> None:
    """Every finished request has its output, over all its stays."""
    table = record.requests
    before = np.zeros(len(table), dtype=int)
    np.add.at(before, record.stays.request, record.stays.tokens)
    finished, last = ~np.isnan(table.finish), table.input_len + table.output_len - table.context
    aged = (table.arrival == 0.0) & ~table.counted  # the population of a closed loop starts with tokens
    young = finished & ~aged
    assert (before + last)[young].tolist() == table.output_len[young].tolist()
    assert ((before + last)[finished & aged] <= table.output_len[finished & aged]).all()


@given(fragile())
def test_both_engines_agree_and_nothing_is_lost_or_counted_twice(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)


# crashes at known times ----------------------------------------------------------------------------------------------

STEP = 4.0
"""Two layers of a second of attention and a second of FFN, nothing on the wire: a boundary every four seconds."""
TIMES_OF = {"detection": "1s", "repair": "2s", "restart": "3s"}


def lone(*events: tuple[float, str], output: int = 5, **changes: object) -> Scenario:
    """One request at time 0 on one attention and one FFN instance; `events` are (time, target)."""
    asked = {"events": [{"at": f"{at}s", "target": target} for at, target in events], **TIMES_OF}
    asked |= {"requests": "reprefill", "reprefill_rate": "1e12 tok/s", "kv_cache": "kept"}
    failures_ = asked | changes.pop("failures", {})
    scenario = tiny(2, deployment__num_microbatches=1, deployment__max_num_seqs=1, **changes)
    workload = {"arrival": {"process": "poisson", "request_rate": "inf req/s"}, "num_requests": 1}
    lengths = {"input_len": 100, "output_len": output}
    scenario = scenario.vary("workload", workload | lengths)
    return scenario.vary("failures", {key: value for key, value in failures_.items() if value is not None})


def both(scenario: Scenario) -> Outcome:
    """The run by both engines, which agree."""
    cost = Stages(attention=1.0, ffn=1.0)
    kernel = run(scenario, cost=cost, network=Wires())
    assert_same(kernel, run(scenario, "processes", cost=cost, network=Wires()))
    assert_conserved(kernel)
    return kernel


def token_times(scenario: Scenario) -> list[float]:
    return both(scenario).record.boundaries.time.tolist()


def seconds(outcome: Outcome, unit: int) -> dict[str, float]:
    """The seconds of a unit by cause, without zeros."""
    row = dict(zip(CAUSES, outcome.record.causes[unit].tolist(), strict=True))
    return {cause: value for cause, value in row.items() if value}


def test_without_a_crash_there_is_a_token_every_step():
    assert token_times(lone((1e6, "ffn[0]"))) == [4.0, 8.0, 12.0, 16.0, 20.0]


@pytest.mark.parametrize("target", ["ffn[0]", "attention[0]", "ffn[0].gpu[0]", "attention[0].nic[0]"])
def test_a_crash_loses_the_token_in_the_works_and_all_stand_still_until_the_restart(target):
    outcome = both(lone((9.5, target), failures={"kv_cache": "kept" if target.startswith("ffn") else "lost"}))
    ((outage, hit),) = outcome.record.outages

    # out by 8 s; noticed at 10.5, repaired at 12.5, up at 15.5
    assert (outage.at, outage.resumed, hit.interrupted, hit.tokens) == (9.5, 15.5, 1, 1)
    assert outcome.record.boundaries.time.tolist() == pytest.approx([4.0, 8.0, 19.5, 23.5, 27.5], rel=1e-9)


def test_the_books_are_cut_at_the_crash():
    outcome = both(lone((9.5, "ffn[0]")))

    # attention worked until 9 s, the FFN half a second of its second; then all are down for six seconds. The latest row
    # of attention, half busy, is stretched over the last second of the run
    assert seconds(outcome, 0) == pytest.approx({"busy": 11.0 + 0.5, "wait_peer": 10.5 - 0.5, "down": 6.0})
    assert seconds(outcome, 1) == pytest.approx({"busy": 10.5, "wait_peer": 11.0, "down": 6.0})


def test_a_gap_across_an_outage_is_an_itl_and_part_of_the_tpot():
    outcome = both(lone((9.5, "ffn[0]")))
    tokens = columns.tokens(outcome.record, outcome.cell)
    gaps = metrics.itl(tokens, (0.0, 1e9))

    assert np.repeat(gaps.values, gaps.weights.astype(int)).tolist() == pytest.approx([4.0, 4.0, 4.0, 11.5])
    assert metrics.tpot(columns.requests(outcome.record, outcome.cell)).tolist() == pytest.approx([23.5 / 4])


def test_a_boundary_that_ends_at_the_crash_stands():
    assert token_times(lone((8.0, "ffn[0]"))) == [4.0, 8.0, 18.0, 22.0, 26.0]
    assert token_times(lone((math.nextafter(8.0, 0.0), "ffn[0]")))[:2] == pytest.approx([4.0, 18.0])


def test_a_crash_at_the_start_and_one_after_the_end():
    assert token_times(lone((0.0, "ffn[0]"))) == [10.0, 14.0, 18.0, 22.0, 26.0]
    ended = both(lone((20.0, "ffn[0]"), (21.0, "ffn[0]"))).record
    assert (ended.ended, ended.outages) == (20.0, ())


@pytest.mark.parametrize(
    ("second", "resumed"),
    [
        (9.5, 15.5),  # at the same time: repaired together
        (10.0, 16.0),  # before the first is noticed: repaired at 13
        (11.0, 17.0),  # during the repair
        (13.0, 19.0),  # during the restart, which begins anew
        (15.5, 21.5),  # when all are up again: another outage, in which no step was done
    ],
)
def test_a_crash_during_an_outage_extends_it(second, resumed):
    record = both(lone((9.5, "ffn[0]"), (second, "attention[0]"))).record

    assert record.outages[-1][0].resumed == resumed
    assert len(record.outages) == (2 if second == 15.5 else 1)
    assert record.boundaries.time[2] == pytest.approx(resumed + STEP)


def test_a_rejected_request_is_lost_with_its_tokens_and_nothing_is_left_to_do():
    outcome = both(lone((9.5, "ffn[0]"), failures={"requests": "reject", "reprefill_rate": None, "kv_cache": "lost"}))
    record = outcome.record
    ((_, hit),) = record.outages

    assert record.requests.status().tolist() == ["lost"]
    assert (hit.rejected, hit.tokens, record.ended, record.requests.lost[0]) == (1, 1 + 2, 9.5, 9.5)


def test_a_lost_context_is_computed_again_before_its_request_joins():
    record = both(lone((9.5, "ffn[0]"), failures={"reprefill_rate": "10 tok/s", "kv_cache": "lost"})).record
    ((_, hit),) = record.outages

    # 100 tokens and the two that are out
    assert hit.again == 102
    assert record.boundaries.time.tolist() == pytest.approx([4.0, 8.0, 15.5 + 10.2 + 4, 33.7, 37.7])
    assert (record.requests.admitted[0], record.requests.first_token[0]) == (0.0, 4.0)


def test_a_crash_while_a_context_is_computed_again_starts_it_anew():
    asked = {"reprefill_rate": "10 tok/s", "kv_cache": "lost"}
    record = both(lone((9.5, "ffn[0]"), (20.0, "ffn[0]"), failures=asked)).record

    assert [hit.interrupted for _, hit in record.outages] == [1, 0]
    assert record.boundaries.time[2] == pytest.approx(26.0 + 10.2 + 4)


def test_the_horizon_holds_during_an_outage():
    outcome = both(lone((9.5, "ffn[0]"), run__stop={"max_sim_time": "13s"}))

    assert outcome.record.ended == 13.0
    assert outcome.record.causes[:, DOWN].tolist() == [3.5, 3.5]


def test_the_time_after_an_outage_that_held_no_step_is_booked_too():
    scenario = lone((9.5, "ffn[0]")).vary("deployment.num_microbatches", 2)
    scenario = scenario.vary("deployment.max_num_seqs", 2).vary("workload.num_requests", 2)
    outcome = both(scenario.vary("run.stop", {"max_sim_time": "16s"}))

    # up at 15.5: the boundary of the second micro-batch would have been at 16.5
    assert outcome.record.ended == 16.0
    assert outcome.record.causes[:, DOWN].tolist() == [6.0, 6.0]


def test_a_crash_in_an_idle_cell_hits_nobody():
    """Requests at 0 and 10 s of one token each; the crash at 6 s is over at 12."""
    arrival = {"process": "constant", "request_rate": "0.1 req/s"}
    scenario = lone((6.0, "ffn[0]"), output=1)
    scenario = scenario.vary("workload.arrival", arrival).vary("workload.num_requests", 2)
    record = both(scenario).record
    ((_, hit),) = record.outages

    assert (hit.interrupted, hit.tokens) == (0, 0)
    assert (record.requests.finish - record.requests.arrival).tolist() == pytest.approx([4.0, 12.0 + 4.0 - 10.0])


def test_a_shrunken_cell_goes_on_and_stops_once_more_between_two_steps():
    scenario = lone((9.5, "ffn[0]"), output=6, deployment__ffn={"gpu": "H800", "instances": 2, "gpus_per_instance": 1})
    scenario = scenario.vary("failures.meanwhile", "shrink").vary("failures.repair", "10s")
    outcome = both(scenario)
    crash, back = (outage for outage, _ in outcome.record.outages)

    # up at 13.5 without it; back at 20.5: the boundary at 21.5 stands, then a restart
    assert (crash.resumed, back.at, back.planned, back.back) == (13.5, 21.5, True, ("ffn[0]",))
    assert outcome.record.boundaries.time.tolist() == pytest.approx([4.0, 8.0, 17.5, 21.5, 28.5, 32.5])
    assert seconds(outcome, 1)["down"] == pytest.approx(15.0)
    assert seconds(outcome, 2)["down"] == pytest.approx(7.0)


def test_who_crashes_before_the_first_request_is_away_from_the_start():
    scenario = lone(
        (0.001, "attention[0]"),
        deployment__attention={"gpu": "H800", "instances": 2, "gpus_per_instance": 1},
        failures={"meanwhile": "shrink", "repair": "1000s"},
    )
    arrival = {"process": "poisson", "request_rate": "0.1 req/s"}
    outcome = both(scenario.vary("workload.arrival", arrival).vary("workload.num_requests", 2))

    assert outcome.record.requests.arrival[0] > 0.001
    assert outcome.record.causes[0, DOWN] == pytest.approx(outcome.record.window[1] - 0.001)


def test_a_shrunken_cell_leaves_the_seats_of_who_is_away_empty():
    scenario = lone(
        (9.5, "attention[0]"),
        deployment__attention={"gpu": "H800", "instances": 2, "gpus_per_instance": 1},
        failures={"meanwhile": "shrink", "repair": "1000s"},
    )
    record = both(scenario).record

    assert record.stays.seat.tolist() == [0]
    assert record.requests.seat.tolist() == [1]
    assert record.boundaries.unit.tolist() == [0, 0, 1, 1, 1]


def test_a_shrunken_cell_goes_on_without_the_instance_that_crashed_and_no_other():
    """Two requests on two instances; that of the second one moves to the first, and waits for its place."""
    scenario = lone(
        (9.5, "attention[1]"),
        deployment__attention={"gpu": "H800", "instances": 2, "gpus_per_instance": 1},
        failures={"meanwhile": "shrink", "repair": "1000s"},
    )
    record = both(scenario.vary("workload.num_requests", 2)).record

    assert record.boundaries.unit.tolist() == [0, 1, 0, 1, *[0] * 6]
    assert record.requests.seat.tolist() == [0, 0]


def test_who_is_away_posts_nothing_late():
    scenario = lone(
        (0.5, "ffn[0]"),
        output=12,
        deployment__ffn={"gpu": "H800", "instances": 2, "gpus_per_instance": 1},
        failures={"meanwhile": "shrink", "repair": "1000s"},
        variation__spike={"probability": 0.4, "seconds": "3s", "where": "link"},
    )
    outcome = both(scenario)
    record, variation = outcome.record, outcome.cell.variation
    steps = record.boundaries.step[:-1].tolist()
    late = np.array([variation.spikes(range(step, step + 1))[1].reshape(3, -1) for step in steps])

    waits = np.diff(record.boundaries.time)
    assert late[:, 1].any()
    assert waits == pytest.approx(STEP + (late[:, 0] + late[:, 2]).sum(axis=1))


def test_crashes_that_are_drawn_are_those_that_are_stated():
    scenario = tiny(2, attention=2, ffn=2, workload__num_requests=60)
    asked = {"mtbf": {"gpu": "60ms"}, "repair": "1ms", "detection": "1ms", "restart": "1ms", "requests": "reject"}
    drawn = scenario.vary("failures", asked)
    crashes = failing(drawn, run(drawn).cell, 0).crashes()
    found = [next(crashes) for _ in range(20)]
    events = [{"at": f"{crash.at!r} s", "target": crash.target} for crash in found]
    stated = scenario.vary("failures", asked | {"mtbf": None, "events": events})

    one, other = run(drawn), run(stated)
    assert len(one.record.outages) > 3
    assert one.record.ended < found[-1].at
    assert_same(one, other)


def test_a_deployment_that_never_comes_to_work_is_told_so():
    asked = {"mtbf": {"gpu": "1ms"}, "repair": "1s", "detection": "0s", "restart": "1s", "requests": "reject"}
    with pytest.raises(SimulationError, match=r"10,000 crashes in one outage.*raise failures\.mtbf"):
        run(tiny(2, failures=asked))


def test_a_crash_that_never_comes_changes_nothing():
    scenario = tiny(3, attention=2, variation__event=0.3)
    never = {"events": [{"at": "300d", "target": "ffn[0]"}], "requests": "reject"}
    with_, without = run(scenario.vary("failures", never)), run(scenario)

    assert with_.record.outages == ()
    without = Outcome(cell=without.cell, record=replace(without.record, outages=()), traces=without.traces)
    assert_same(with_, without)


# the law can fail ----------------------------------------------------------------------------------------------------


def test_a_crash_a_hair_before_a_boundary_is_seen():
    cost = Stages(attention=1.0, ffn=1.0)
    one, other = (run(lone((at, "ffn[0]")), cost=cost, network=Wires()) for at in (8.0, math.nextafter(8.0, 0.0)))

    with pytest.raises(AssertionError):
        assert_same(one, other)


@given(fragile())
def test_blocks_that_are_reserved_go_through_outages_as_tokens_do(scenario):
    scenario = scenario.vary("kv_cache", {"block": 16})
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)
