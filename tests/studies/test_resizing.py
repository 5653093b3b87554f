"""The smallest change of a deployment when its workload moves."""

import json
from functools import cache

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.cli.main import main
from afdsim.errors import ScenarioError
from afdsim.studies import moving, resizing, sizes, trials
from afdsim.studies.candidates import Point
from afdsim.studies.points import Models
from afdsim.studies.sizes import Size
from tests.studies.models import Slower

WORKLOAD = {"arrival": {"process": "closed_loop"}, "input_len": 16384, "output_len": 16, "num_requests": 64}
AFD = {
    "name": "apart",
    "model": "step3-small",
    "deployment": {
        "type": "afd",
        "attention": {"gpu": "H20", "instances": 2, "gpus_per_instance": 2},
        "ffn": {"gpu": "H800", "instances": 1, "gpus_per_instance": 2},
        "max_num_seqs": 24,
    },
    "workload": WORKLOAD,
    "sla": {"tpot": "2.4ms", "percentile": "mean"},
    "cost": {"H20": "1 USD/h", "H800": "2 USD/h"},
}
TP = {
    "name": "tp",
    "model": "step3-small",
    "deployment": {"type": "tensor_parallel", "gpu": "H800", "gpus": 8, "max_num_seqs": 64},
    "workload": WORKLOAD | {"input_len": 1024},
    "sla": {"tpot": "0.8ms", "percentile": "mean"},
}
EP = {
    **TP,
    "name": "ep",
    "deployment": {"type": "colocated", "gpu": "H800", "instances": 1, "max_num_seqs": 8},
    "sla": {"tpot": "1.6ms", "percentile": "mean"},
}
POISSON = {"process": "poisson", "request_rate": "1000 req/s"}
CLASSES = [{"name": "a"}, {"name": "b", "sla": {"tpot": "9ms"}}]
SPREAD = {"distribution": "lognormal", "mean": 900, "cv": 0.5, "max": 4000}


@cache
def resized(data, **move):
    """The answer about one of the scenarios above, by its name."""
    return afdsim.resize({"apart": AFD, "tp": TP, "ep": EP}[data], **move)


def test_a_closed_loop_of_fewer_users_than_slots_asks_for_what_they_are_served():
    few = afdsim.load(TP).vary("workload.arrival.concurrency", 8)
    found, full = afdsim.resize(few), afdsim.resize(TP)

    assert 0 < found.demand.run < full.demand.run
    assert found.smallest.change == {}


@cache
def full(name):
    """One of them with as many sequences as its limit allows."""
    found = resized(name, rate=1.2)
    return afdsim.load({"tp": TP, "ep": EP}[name]).vary("deployment.max_num_seqs", found.smallest.batch)


def told(*words):
    return CliRunner().invoke(main, ["resize", *map(str, words)], prog_name="afdsim")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tp.yaml"
    path.write_text(json.dumps(TP))
    return path


# what is enough ------------------------------------------------------------------------------------------------------


def test_where_nothing_moves_nothing_changes():
    found = resized("tp")

    assert found.smallest == found.cheapest == found.as_is
    assert (found.smallest.change, found.options(found.smallest)) == ({}, ("workload.num_requests=128",))
    assert found.demand.run == pytest.approx(found.as_is.offer.rate, rel=1e-12)
    assert list(found.answers) == ["smallest"]


def test_instances_stay_where_another_batch_is_enough():
    found = resized("tp", rate=1.2)

    assert found.smallest.change == {}
    assert found.smallest.batch > 64
    assert found.smallest.offer.rate >= found.demand.run > found.as_is.offer.rate


@pytest.mark.parametrize("name", ["tp", "ep"])
@pytest.mark.parametrize("factor", [2, 3])
def test_times_the_rate_takes_as_many_full_engines(name, factor):
    scenario = full(name)
    found = afdsim.resize(scenario, rate=factor)

    assert found.smallest.change == {"cells": factor - 1}
    assert found.smallest.offer.gpus == {"H800": 8 * factor}
    assert found.smallest.offer.rate == pytest.approx(factor * found.as_is.offer.rate)


def test_less_needs_no_change_and_tells_what_could_go():
    scenario = afdsim.load(AFD).varied({"sla.tpot": "4ms", "deployment.ffn.instances": 2})
    found = afdsim.resize(scenario, rate=0.2)

    assert found.smallest == found.as_is
    assert found.cheapest.offer.usd < found.smallest.offer.usd
    assert found.cheapest.offer.rate >= found.demand.run
    assert found.to_dict()["cheapest"]["usd_per_hour_more"] < 0 < found.to_dict()["smallest"]["usd_per_hour"]


def test_longer_contexts_never_need_fewer_attention_instances():
    found = [resized("apart", context=tokens) for tokens in (8192, 32768)]
    counts = [each.smallest.size.counts[0] * each.smallest.size.cells for each in found]

    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    assert all(each.smallest.met and each.smallest.offer.rate >= each.demand.run for each in found)


def test_no_smaller_change_is_enough_and_no_cheaper_one_as_small():
    found = resized("apart", rate=1.3)
    now, question = Size((2, 1)), trials.Question(base=found.move.after, limit=2.4e-3)
    distance = sizes.apart(found.smallest.size, now)
    every = {
        each: sum(count * (2.0, 4.0)[role] for role, count in enumerate(each.counts)) for each in sizes.sizes(now, 4)
    }
    others = [
        size
        for size, usd in every.items()
        if (sizes.apart(size, now), usd) < (distance, found.smallest.offer.usd) and size.cells == 1
    ]

    def reached(size, micro_batches, batch):
        layout = sizes.layout(found.move.after, size.counts, micro_batches)
        quick = trials.measure(question, layout, batch)
        return quick.tgs * layout.count if quick and quick.tpot <= question.limit else 0.0

    best = max(reached(size, m, batch) for size in others for m in (2, 3, 4) for batch in (m, 10, 14, 18))
    deployment = found.smallest.scenario.deployment
    assert (distance, len(others)) == (2, 7)
    assert 0 < best < found.demand.measured
    assert reached(found.smallest.size, deployment.num_microbatches, deployment.max_num_seqs) >= found.demand.measured


def test_a_batch_that_is_just_short_is_searched_to_the_last_sequence():
    found = resized("tp", rate=1.2)
    question = resizing._posed(found.move.after, Models())
    trial = resizing.Trial(layout=sizes.layout(question.base, (), None), questions=(question,), weighing=resizing.ALONE)
    for batch in (2 * found.smallest.batch, found.smallest.batch // 2):
        trial.points.append(Point(batch, (trials.measure(question, trial.layout, batch),)))
    trial.measured([trial.points.pop()])
    search = resizing._Search(source=found.move.source, question=question, demand=found.demand, as_is=trial, say=str)
    search._finer(trial)

    assert trials.fine(question, trials.measure(question, trial.layout, trial.batch))
    assert not trials.fine(question, trials.measure(question, trial.layout, trial.batch + 1))


def test_a_slower_gpu_needs_more():
    slow, fast = (
        afdsim.resize(full("tp"), {"workload.arrival": POISSON}, rate=20, cost=cost) for cost in (Slower(1.5), None)
    )

    assert slow.demand == fast.demand
    assert slow.smallest.offer.total > fast.smallest.offer.total


def test_what_nothing_reaches_is_told():
    found = afdsim.resize(TP, {"sla.tpot": "1us"})

    assert (found.smallest, found.cheapest, found.most) == (None, None, None)
    assert "one sequence takes" in found.reason
    assert not found.as_is.met


def test_what_gives_most_is_told_where_it_is_not_enough(monkeypatch):
    monkeypatch.setattr(sizes, "MOST", 2)
    found = afdsim.resize(full("tp"), rate=9)

    assert (found.smallest, found.most.size.cells) == (None, 2)
    assert list(found.answers) == ["most"]


def test_all_of_the_deployment_is_kept():
    kept = {"host_overhead": "20us", "gpu_memory_utilization": 0.8, "mtp": {"draft": 1, "acceptance": 0.8}}
    scenario = afdsim.load(TP).varied({f"deployment.{key}": value for key, value in kept.items()})
    found = afdsim.resize(scenario, rate=0.9).smallest

    assert found.scenario.deployment == scenario.deployment


def test_before_the_move_it_must_run():
    with pytest.raises(ScenarioError, match=r"does not run before the move: .*no request fits"):
        afdsim.resize(afdsim.load(TP).vary("workload.input_len", 100_000_000))


def test_after_the_move_it_may_not_run():
    found = afdsim.resize(TP, {"workload.input_len": 100_000_000})

    assert (found.as_is, found.smallest) == (None, None)
    assert "no request fits" in found.why
    assert "memory holds 0 sequences" in found.reason


# what is asked for ---------------------------------------------------------------------------------------------------


def test_an_open_loop_asks_for_what_arrives():
    found = afdsim.resize({**TP, "workload": WORKLOAD | {"input_len": 1024, "arrival": POISSON}}, rate=1.5)

    assert found.demand.requests == 1500
    assert found.demand.run == 1500 * 16


@pytest.mark.parametrize("tokens", [500, 5000, 100_000])
def test_prompts_are_scaled_until_sequences_hold_what_is_asked_for(tokens):
    classes = [{"name": "a", "input_len": 100}, {"name": "b", "input_len": SPREAD}]
    ends = {"distribution": "uniform", "min": 50, "max": 900}
    for changes in ({"input_len": SPREAD}, {"input_len": ends}, {"input_len": None, "classes": classes}):
        scenario = afdsim.load(TP).varied({f"workload.{key}": value for key, value in changes.items()})
        found = moving.moved(scenario, (), context=tokens, rate=1.0)

        assert found.context[1] == pytest.approx(tokens, rel=0.01)
        assert found.after.workload.output_len == scenario.workload.output_len


@pytest.mark.parametrize(
    ("move", "changes", "message"),
    [
        ({"rate": 0}, {}, "--rate: must be > 0"),
        ({"rate": float("inf")}, {}, "--rate: must be > 0"),
        ({"context": 8}, {}, "--context: must be >= 9"),
        ({"changes": ["deployment.max_num_seqs=3"]}, {}, "only keys of workload and sla can move"),
        ({"changes": {"workload.output_len": 1}}, {}, "answers of one token have no TPOT"),
        ({"changes": {"sla.e2el": "9s"}}, {}, "sla.e2el cannot be sized"),
        ({}, {"workload.arrival": {"process": "poisson", "request_rate": "inf"}}, "arrive at once"),
        (
            {},
            {"failures": {"mtbf": {"gpu": "9h"}, "requests": "reject"}},
            "failures cannot be sized",
        ),
        ({}, {"kv_cache": {"policy": "grow", "reprefill_rate": "9 tok/s"}}, "kv_cache.policy: grow cannot be sized"),
        ({"changes": {"workload.classes": CLASSES}}, {}, r"workload.classes\[1\].sla cannot be sized"),
        ({}, {"kv_cache": {}, "workload.samples": 2}, "workload.samples cannot be sized"),
        ({}, {"workload.arrival": POISSON, "router": {"cells": [{"replicas": 2}]}}, "router.cells cannot be sized"),
    ],
)
def test_what_cannot_be_sized_is_refused(move, changes, message):
    with pytest.raises(ScenarioError, match=message):
        afdsim.resize(afdsim.load(TP).varied(changes), **move)


# sizes ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), max_size=2), st.integers(1, 5), st.integers(1, 9))
def test_sizes_are_there_once_the_one_that_is_first(counts, cells, most):
    now = Size(tuple(counts), cells)
    found = list(sizes.sizes(now, most))

    assert found[0] == now
    assert len(set(found)) == len(found)
    assert [each for each in found if sizes.apart(each, now) == 0] == [now]
    assert all(1 in (each.cells, now.cells) or each.counts == now.counts for each in found)
    assert cells == 1 or {each.counts for each in found} == {now.counts}


@pytest.mark.parametrize(("copies", "instances", "expected"), [(16, 4, 16), (16, 5, 32), (0, 3, 0), (0, 5, 32)])
def test_copies_make_experts_even(copies, instances, expected):
    asked = afdsim.load("step3_ep32").vary("deployment.redundant_experts", 16).deployment
    asked = asked.model_copy(update={"redundant_experts": copies})

    assert sizes.copies("step3", asked, instances) == expected


# the command ---------------------------------------------------------------------------------------------------------


def test_twice_the_same_question_gives_the_same_bytes(file):
    first, second = told(file, "--rate", 2, "--json"), told(file, "--rate", 2, "--json")

    assert (first.exit_code, first.stdout) == (0, second.stdout)
    assert json.loads(first.stdout)["smallest"]["gpus_more"] % 8 == 0


def test_the_answer_is_told_as_a_command_that_gives_it(file):
    done, found = told(file, "--context", 2048), afdsim.resize(file, context=2048)
    options = found.options(found.smallest)

    assert done.exit_code == 0
    assert " ".join(f"--set {each}" for each in options) in done.stdout
    assert afdsim.load(file, options).key == found.smallest.scenario.key
    assert "the SLA is met" in done.stdout or "misses the SLA by" in done.stdout


def test_a_folder_keeps_the_scenario_that_was_run(file, tmp_path):
    done = told(file, "--rate", 1.2, "-o", tmp_path / "new", "--json")
    answer = json.loads((tmp_path / "new" / "resize.json").read_text())
    run = afdsim.simulate(afdsim.load(tmp_path / "new" / "smallest.yaml")).summary

    assert json.loads(done.stdout) == answer
    assert run["afdsim"]["tgs"] * 8 == pytest.approx(answer["smallest"]["output_throughput"], rel=1e-12)
    assert told(file, "-o", tmp_path).exit_code == 2


def test_what_does_not_count_is_told(file):
    done = told(file, "--set", "sla=null", "--rate", 0.5)

    assert done.exit_code == 0
    assert "no limit" in done.stdout
