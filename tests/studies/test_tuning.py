"""The best way to run one deployment, by a quick search."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.engine.drafts import Drafts
from afdsim.errors import CapacityError
from afdsim.scenario.streams import Streams
from afdsim.studies import tuning
from afdsim.workload import laws as workload
from tests.studies.models import Slower

EP = {
    "name": "ep",
    "model": "step3-small",
    "deployment": {"type": "colocated", "gpu": "H800", "instances": 1, "two_batch_overlap": True, "max_num_seqs": 8},
    "variation": {"event": 0.05, "step": 0.02},
    "workload": {"arrival": {"process": "closed_loop"}, "input_len": 1024, "output_len": 32, "num_requests": 512},
    "sla": {"tpot": "1.5ms", "percentile": "mean"},
}
BATCH = "deployment.max_num_seqs"
SPREAD = {"distribution": "lognormal", "mean": 48, "cv": 0.5, "max": 128}


def ep(**changes):
    return afdsim.load(EP).varied(changes)


def afd(**changes):
    return afdsim.load("small").varied({BATCH: 24, "sla.tpot": "3.2ms", "workload.num_requests": 512, **changes})


def tp(**changes):
    deployment = {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 32}
    return ep(**{"deployment": deployment, **changes})


def lengths(output_len):
    draws = workload.Uniform(min=1, max=1000)
    return workload.RequestSource(
        workload.ClosedLoop(), draws, output_len, lambda column: np.random.default_rng(len(column))
    )


def search(scenario):
    found = tuning._Search(scenario=scenario, cost=None, network=None)
    return dataclasses.replace(found, limit=tuning._limit(scenario, afdsim.simulate(scenario), found.as_is))


@pytest.mark.parametrize(
    "scenario",
    [
        ep(),
        ep(**{"deployment.two_batch_overlap": False, "deployment.single_batch_overlap": True, BATCH: 40}),
        ep(**{"deployment.mtp": {"draft": 1, "acceptance": 0.8}, "workload.output_len": 128}),
        ep(**{"workload.output_len": SPREAD, "run.granularity": "gpu"}),
        ep(**{"variation.experts": {"law": "power_law", "skew": 0.5}}),
        afd(),
        afd(**{"deployment.num_microbatches": 1}),
        afd(**{"deployment.num_microbatches": 2, "workload.output_len": SPREAD, "workload.num_requests": 1500}),
        afd(**{"workload.arrival.concurrency": 40, "workload.num_requests": 512}),
        # Contexts of answers alone, and widely spread: those in flight are twice as long as those that are asked for.
        tp(**{"workload.input_len": 1, "workload.output_len": {**SPREAD, "mean": 2000, "cv": 1.0, "max": 16000}}),
        tp(),
    ],
)
def test_a_quick_measure_gives_what_a_run_gives(scenario):
    quick, found = search(scenario).as_is, afdsim.simulate(scenario).summary

    assert quick.tgs == pytest.approx(found["afdsim"]["tgs"], rel=0.015)
    assert quick.tpot * 1e3 == pytest.approx(found["mean_tpot_ms"], rel=0.015)


@pytest.mark.parametrize("scenario", [ep(), ep(**{"deployment.two_batch_overlap": False}), afd(), tp()])
def test_nothing_that_meets_the_limit_gives_more(scenario):
    found, every = afdsim.tune(scenario), search(scenario)
    batch = found.scenario.deployment.max_num_seqs
    others = [batch // 2, batch, batch + 1, batch + 2, 2 * batch]
    paces = [every.pace(way, other) for way in every.ways() for other in others]

    assert found.best.tpot_ms <= scenario.sla.tpot * 1e3
    assert found.best.tgs * 1.02 > max(pace.tgs for pace in paces if pace and pace.tpot <= tuning.SURE * every.limit)


def test_the_answer_is_the_same_again_and_is_a_scenario():
    found = afdsim.tune(ep())

    assert found == afdsim.tune(ep())
    assert found.scenario.key == ep(**found.changes).key
    assert afdsim.load(EP, overrides=found.options).key == found.scenario.key
    assert found.scenario.deployment.two_batch_overlap is False
    assert afdsim.simulate(found.scenario).summary["mean_tpot_ms"] == found.best.tpot_ms


def test_the_best_has_nothing_to_change():
    best = afdsim.tune(ep())
    again = afdsim.tune(best.scenario)

    assert again.as_is == best.best
    assert 0 <= again.gain < 0.01
    assert again.changes == {} or again.gain > 0


def test_a_side_that_misses_its_sla_may_have_to_give_less():
    found = afdsim.tune(ep(**{"deployment.two_batch_overlap": False, BATCH: 100}))

    assert (found.as_is.verdict, found.best.verdict) == ("FAIL", "PASS")
    assert found.as_is.tpot_ms > 1.5 >= found.best.tpot_ms
    assert found.gain < 0
    assert found.changes[BATCH] < 100


def test_an_open_loop_has_no_best():
    assert afdsim.tune(ep(**{"workload.arrival": {"process": "poisson", "request_rate": "10 req/s"}})) is None


def test_where_nothing_meets_the_sla_nothing_is_changed():
    found = afdsim.tune(ep(**{"sla.tpot": "10us"}))

    assert found.changes == {}
    assert (found.gain, found.best) == (0.0, found.as_is)


@pytest.mark.parametrize(
    "changes",
    [
        {"sla": None},
        {"sla": {"tpot": "50ms", "e2el": "9s"}},
        {"sla": {"e2el": "9s"}},
        {"workload.arrival.concurrency": 64},
    ],
)
def test_the_batch_stays_where_tpot_alone_does_not_limit_it(changes):
    found = afdsim.tune(ep(**changes))

    assert found.changes == {"deployment.two_batch_overlap": False}
    assert found.gain > 0.5


def test_no_more_sequences_than_memory_holds():
    found = afdsim.tune(ep(**{"sla.tpot": "10s", "workload.input_len": 2_000_000}))
    more = found.scenario.vary(BATCH, found.scenario.deployment.max_num_seqs + 1)

    assert not any("KV cache of a rank holds" in note for note in afdsim.simulate(found.scenario).notes)
    assert any("KV cache of a rank holds" in note for note in afdsim.simulate(more).notes)


def test_ways_that_the_scenario_refuses_are_left_out():
    alone = ep(**{"deployment.two_batch_overlap": False, BATCH: 1, "sla": None})

    assert search(alone).pace({"deployment.two_batch_overlap": True}, 1) is None
    assert "deployment.two_batch_overlap" not in afdsim.tune(alone).changes


@pytest.mark.parametrize(
    "scenario",
    [
        ep(**{"sla.percentile": "p99", "workload.output_len": SPREAD, "workload.num_requests": 1500}),
        ep(**{"sla.percentile": "p90", "variation.event": 0.3, "variation.step": 0.2, "workload.num_requests": 1500}),
        ep(**{"deployment.mtp": {"draft": 2, "acceptance": 0.7}, "workload.output_len": 8, "sla.tpot": "2.5ms"}),
        afd(**{"deployment.mtp": {"draft": 2, "acceptance": 0.8}, "workload.output_len": 16}),
        afd(**{"deployment.attention.instances": 2, "deployment.attention.groups": 2, "sla.tpot": "5ms"}),
        afd(**{"variation.straggler": {"attention[0]": 1.3}, "sla.tpot": "4ms", "run.granularity": "gpu"}),
    ],
)
def test_advice_meets_the_sla_when_it_is_run(scenario):
    run = afdsim.simulate(scenario)
    found = afdsim.tune(scenario, run=run)
    again = afdsim.simulate(found.scenario).summary["afdsim"]

    assert again["sla"]["met"] or not found.changes
    assert again["tgs"] == found.best.tgs
    assert again["sla"]["value_ms"] == pytest.approx(found.best.sla_tpot_ms, rel=1e-12)
    assert found.changes or run.summary["afdsim"]["sla"]["met"]


def test_answers_of_one_token_are_not_searched_for_a_batch():
    found = afdsim.tune(ep(**{"workload.output_len": 1}))

    assert BATCH not in found.changes
    assert (found.best.tpot_ms, found.best.sla_tpot_ms) == (None, None)


def test_the_caller_s_cost_model_is_searched_with():
    plain, slow = (afdsim.tune(afd(), cost=cost) for cost in (None, Slower(1.1)))

    assert slow.as_is.tpot_ms > plain.as_is.tpot_ms
    assert slow.scenario.deployment.max_num_seqs < plain.scenario.deployment.max_num_seqs


def test_a_deployment_that_does_not_fit_is_told_with_its_place():
    with pytest.raises(CapacityError, match=r"deployment\.instances: weights need"):
        afdsim.tune(ep(model="deepseek-v3"))


@given(
    st.integers(0, 50), st.lists(st.integers(1, 300), min_size=1, max_size=4), st.sampled_from([0.0, 0.3, 0.85, 1.0])
)
def test_drafts_that_are_kept_are_those_that_are_drawn(request, tokens, acceptance):
    drawn = Drafts(draft=2, acceptance=acceptance, stream=Streams(0))
    kept = tuning._Kept(**vars(drawn), known={})

    assert [kept.steps(request, each) for each in tokens] == [drawn.steps(request, each) for each in tokens]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 40))
def test_a_longer_list_of_requests_in_flight_begins_with_the_shorter(fewer, more, count):
    source = tuning.InFlight(lengths(workload.Lognormal(mean=40, cv=1.0, min=1, max=400)), count)
    short, long = source.columns(min(fewer, more)), source.columns(max(fewer, more))

    assert [column.tolist() for column in short] == [column[: min(fewer, more)].tolist() for column in long]


def test_answers_are_in_flight_as_often_as_they_are_long():
    law = workload.Uniform(min=1, max=99)
    plain, biased = (lengths(law).columns(20_000)[1], tuning.InFlight(lengths(law), 20_000).columns(20_000)[1])

    assert biased.mean() == pytest.approx((plain**2).mean() / plain.mean(), rel=0.01)
    assert biased.mean() > 1.3 * plain.mean()


def test_requests_of_one_length_are_in_flight_as_they_are_asked_for():
    alike = lengths(workload.Constant(value=32))

    assert np.array_equal(tuning.InFlight(alike, 100).columns(200), alike.columns(200))
