"""Crashes and repairs: no request, token or second is lost or counted twice, whatever crashes when."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afdsim.engine.books import CAUSES, DOWN
from afdsim.engine.record import Record
from afdsim.results import outcome as columns
from afdsim.scenario.document import Scenario
from tests.cases import Outcome, run
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


@settings(max_examples=500)
@given(fragile())
def test_both_engines_agree_and_nothing_is_lost_or_counted_twice(scenario):
    kernel, processes = run(scenario), run(scenario, "processes")

    assert_same(kernel, processes)
    assert_conserved(kernel)
