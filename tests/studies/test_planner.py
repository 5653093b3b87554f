"""The best deployment for a budget of GPUs: what is asked, how workloads are weighed, what is found and kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.errors import ScenarioError
from afdsim.studies import asking
from afdsim.studies.candidates import BOUND, RUN, Weighing
from afdsim.studies.layouts import layouts
from afdsim.studies.planner import plan
from afdsim.studies.trials import Question
from tests.cases import fewer, tiny_model

GPUS = {"H800": 16}
LIMIT = "0.5ms"


def found(**changes):
    given = {"context": 1024, "sla": LIMIT, "gpus": GPUS, "cache": None} | changes
    return plan(tiny_model(4), **given)


@pytest.fixture(scope="module")
def planned():
    return found()


def test_the_winner_is_run_and_its_scenario_gives_its_figures(planned):
    for pick in planned.best.picks:
        (scenario,) = pick.trial.scenarios
        summary = afdsim.simulate(afdsim.load(scenario.given())).summary
        offer = pick.trial.offer

        assert pick.trial.standing == RUN
        assert offer.rate == pytest.approx(summary["afdsim"]["tgs"] * pick.trial.layout.count, rel=1e-12)
        assert summary["afdsim"]["sla"]["met"]


def test_nothing_left_untried_can_be_better(planned):
    best = planned.best.offer.rate

    for trial in planned.trials:
        if trial.standing == BOUND:
            copies = min(GPUS[kind] // count for kind, count in trial.layout.gpus.items())
            assert copies * trial.offer.rate <= best


def test_both_engines_agree_about_the_winner(planned):
    assert planned.agrees


def test_no_measure_beats_its_bound(planned):
    for trial in planned.trials:
        for point in trial.points:
            assert point.batch > trial.batch or point.measures[0].tgs <= trial.bound * (1 + 1e-12)


def test_the_same_question_gets_the_same_answer_by_any_number_of_workers(planned):
    again = found(workers=2)

    assert json.dumps(again.to_dict()) == json.dumps(planned.to_dict())
    assert again.frame().equals(planned.frame())


def test_what_was_tried_is_not_tried_again(tmp_path, monkeypatch):
    first = found(cache=tmp_path)
    monkeypatch.setattr("afdsim.studies.searching.compute", None)
    monkeypatch.setattr("afdsim.studies.searching._measures", None)

    assert found(cache=tmp_path).to_dict() == first.to_dict()


def test_more_gpus_never_give_less(planned):
    assert found(gpus={"H800": 24}).best.offer.rate >= planned.best.offer.rate


def test_the_fewest_gpus_give_what_is_asked_for(planned):
    demand = planned.best.offer.rate / 3
    best = found(objective="gpus", demand=demand).best

    assert best.offer.rate >= demand
    assert best.offer.total < planned.best.offer.total


def test_the_fastest_for_a_user_reaches_the_floor():
    floor = found(objective="tgs").best.offer.rate / 64
    best = found(objective="speed", floor=floor, sla=None).best

    assert best.offer.rate / best.offer.total >= floor
    assert best.offer.speed > 1e3 / 0.5


def test_the_worst_workload_decides_where_it_is_to():
    worst = found(context=(1024, 16384), objective="tgs", rule="worst").best
    (pick,) = worst.picks

    rates = [columns["tgs"] for columns in pick.trial.columns]
    assert pick.trial.offer.rate == pytest.approx(min(rates) * pick.trial.layout.count)
    assert all(columns["sla.met"] for columns in pick.trial.columns)


def test_nothing_meets_what_cannot_be_met():
    answer = found(sla="1us")

    assert answer.best is answer.runner_up is None
    assert "one sequence takes" in answer.why()


# how workloads are weighed -------------------------------------------------------------------------------------------

RATES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=5)


@given(RATES, st.floats(0.01, 1.0))
@fewer()
def test_the_mean_of_a_tail_lies_between_the_worst_and_the_mean(rates, tail):
    weights = tuple(1.0 / len(rates) for _ in rates)
    worst, middle, mean = (
        Weighing(weights=weights, rule=rule, tail=tail).pooled(rates) for rule in ("worst", "cvar", "mean")
    )

    assert worst <= middle * (1 + 1e-9)
    assert middle <= mean * (1 + 1e-9)


@given(RATES)
def test_the_whole_tail_is_the_mean(rates):
    weights = tuple(1.0 / len(rates) for _ in rates)

    assert Weighing(weights=weights, rule="cvar", tail=1.0).pooled(rates) == pytest.approx(
        Weighing(weights=weights, rule="mean").pooled(rates)
    )


# what is asked -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": {}}, "needs a kind of GPU"),
        ({"gpus": {"H800": 0}}, "H800 must be 1 to"),
        ({"gpus": {"H8000": 8}}, "H8000"),
        ({"context": None}, "a workload or a context"),
        ({"context": 200}, "must be > 256"),
        ({"context": ()}, "a workload or a context"),
        ({"objective": "cheap"}, "must be one of goodput"),
        ({"objective": "gpus"}, "needs a demand"),
        ({"objective": "speed"}, "needs a floor"),
        ({"objective": "speed", "floor": 1.0, "context": (1024, 2048)}, "one workload"),
        ({"context": (1024, 2048), "weights": (1.0,)}, "1 for 2 workloads"),
        ({"context": (1024, 2048), "weights": (0.0, 0.0)}, "not all 0"),
        ({"context": (1024, 1024)}, "differ in name"),
        ({"context": (1024, 2048), "rule": "cvar", "tail": 0.0}, "tail"),
        ({"rule": "worst"}, "weighs several workloads"),
        ({"demand": 1.0}, "demand is for objective gpus"),
        ({"floor": 1.0}, "floor is for objective speed"),
        ({"objective": "speed", "floor": 1.0, "sla": {"ttft": "1s"}}, "leave the limit of ttft out"),
        ({"context": (1024, 2048), "sla": {"ttft": "1s"}}, "ttft is about one workload"),
        ({"sla": {"e2el": "1s"}}, "limit of tpot"),
    ],
)
def test_a_question_that_cannot_be_planned_is_refused(changes, message):
    with pytest.raises(afdsim.AfdsimError, match=message):
        found(**changes)


def test_sequences_hold_the_context_on_average():
    question = asking.at_context(tiny_model(4), 1024, "H800", None)
    lengths = question.workload

    assert lengths.input_len.value + lengths.output_len.value / 2 == 1024


def test_arrivals_of_a_file_become_a_closed_loop_of_its_lengths():
    base = afdsim.load("step3_poisson")
    question, _ = asking.of_file(base, None, {"tpot": "50ms"})

    assert question.workload.arrival.process == "closed_loop"
    assert question.workload.input_len == base.workload.input_len
    assert question.sla.limits == {"tpot": 0.05}


def test_layouts_keep_drafts_and_host_time_of_a_workload_file():
    drafts = {"draft": 1, "acceptance": 0.7}
    base = afdsim.load("small").varied({"deployment.host_overhead": "20us", "deployment.mtp": drafts})
    question = Question(base=base)
    deployment = question.scenario(next(layouts(catalog.llm(base.model), {"H800": 8})), 16).deployment

    assert deployment.host_overhead == pytest.approx(2e-5)
    assert deployment.mtp == base.deployment.mtp


def test_sessions_cannot_be_planned():
    with pytest.raises(ScenarioError, match="sessions cannot be planned"):
        asking.of_file("dialogue_rollout", None, None)


# prefill servers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind():
    limits = {"tpot": LIMIT, "ttft": "100ms", "percentile": "mean"}
    return found(context=16384, sla=limits, gpus={"H800": 16})


def test_cells_behind_prefill_servers_carry_what_was_promised(behind):
    rate = f"{0.8 * behind.best.pod.rate:.4f} req/s"
    summary = afdsim.simulate(behind.pod.vary("workload.arrival.request_rate", rate)).summary

    assert summary["mean_ttft_ms"] <= 100
    assert summary["mean_tpot_ms"] <= 0.5


def test_prefill_servers_count_among_the_gpus(behind):
    offer, pod = behind.best.offer, behind.best.pod

    assert offer.total == pod.gpus + sum(pick.replicas * pick.trial.layout.count for pick in behind.best.picks)
    assert offer.total <= 16
    assert offer.rate <= pod.servers.rate(pod.ahead) * pod.answer * (1 + 1e-9)


def test_prefill_servers_carry_no_more_than_without_waiting(behind):
    servers, ahead = behind.best.pod.servers, behind.best.pod.ahead

    assert 0 < servers.known[ahead] <= ahead * servers.flood


def test_the_best_cells_at_stricter_limits_are_faster_and_give_less():
    front = found(pareto=True).front
    speeds, rates = (
        [each(choice.offer) for choice in front] for each in (lambda o: o.speed, lambda o: o.rate / o.total)
    )

    assert speeds == sorted(speeds)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["workload.arrival.concurrency=8"], "leaves slots empty"),
        (["workload.output_len.value=1"], "no TPOT to limit"),
    ],
)
def test_a_workload_that_no_plan_can_size_is_refused(changes, told):
    with pytest.raises(ScenarioError, match=told):
        plan(workload=afdsim.load("small", changes), gpus={"H800": 1}, cache=None)


def test_a_kind_named_twice_is_refused():
    with pytest.raises(ScenarioError, match="name a kind twice"):
        plan("step3-small", gpus={"h800": 4, "H800": 8}, context=1024, cache=None)


def test_a_winner_is_run_with_the_seed_of_the_plan():
    question, _ = asking.of_file("small", None, None, ["run.seeds=[3, 4]", "run.stop.max_sim_time=1 s"])
    assert question.run.seeds == (3,)
    assert question.run.stop.max_sim_time is None


def test_a_workload_without_weight_does_not_count_as_the_worst():
    assert Weighing(weights=(1.0, 0.0), rule="worst").pooled([5.0, 1.0]) == 5.0
