"""Classes of requests: drawn by weight from a stream of their own, and every figure of one is that of its requests."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import afdsim
from afdsim.cli.main import main
from afdsim.results import metrics
from afdsim.results.result import Result, pooled
from afdsim.results.terminal import terminal
from afdsim.scenario.document import load
from afdsim.scenario.requests import requested
from tests.cases import tiny

CHAT = {"name": "chat", "weight": 3.0}
CODE = {"name": "code", "input_len": 300, "output_len": {"distribution": "uniform", "min": 2, "max": 30}}
LAWS = (
    {"process": "closed_loop"},
    {"process": "poisson", "request_rate": "300 req/s"},
    {"process": "mmpp", "states": [{"rate": "600 req/s", "dwell": "50ms"}, {"rate": "0 req/s", "dwell": "50ms"}]},
)


def mixed(*classes, law=LAWS[1], **changes):
    return tiny(2, 2, 1, workload__classes=list(classes), workload__arrival=law, **changes)


def columns(scenario, n=20_000):
    source = requested(scenario, 0)
    return (*source.columns(n), source.times(n))


# drawn


def test_every_class_has_its_share_and_its_lengths():
    source = requested(mixed(CHAT, CODE), 0)
    kinds, (input_len, output_len) = source.kinds(40_000), source.columns(40_000)

    assert np.bincount(kinds) / len(kinds) == pytest.approx([0.75, 0.25], abs=0.01)  # standard error 0.002
    assert (set(input_len[kinds == 0]), set(input_len[kinds == 1])) == ({100}, {300})
    assert (set(output_len[kinds == 0]), set(output_len[kinds == 1])) == ({12}, set(range(2, 31)))


def test_classes_leave_arrivals_alone_and_a_new_class_the_lengths_of_the_others():
    spread = {"distribution": "lognormal", "mean": 50, "cv": 1.0}
    plain = tiny(2, workload__arrival=LAWS[1], workload__output_len=spread)
    two = plain.vary("workload.classes", [CHAT, CODE])
    three = plain.vary("workload.classes", [CHAT, CODE, {"name": "rare", "weight": 0.01}])
    kinds, more = requested(two, 0).kinds(20_000), requested(three, 0).kinds(20_000)
    alike = (kinds == more) & (kinds == 1)

    assert np.array_equal(columns(plain)[2], columns(two)[2])
    assert np.array_equal(columns(plain)[1][kinds == 0], columns(two)[1][kinds == 0])
    assert alike.sum() > 4000
    assert np.array_equal(columns(two)[1][alike], columns(three)[1][alike])


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law["process"])
def test_classes_without_lengths_of_their_own_change_nothing_but_what_is_told(law):
    plain = afdsim.simulate(tiny(2, 2, 1, workload__arrival=law))
    told = afdsim.simulate(mixed(CHAT, {"name": "code"}, law=law))

    pd.testing.assert_frame_equal(plain.requests, told.requests.drop(columns="class"))
    pd.testing.assert_frame_equal(plain.tokens, told.tokens.drop(columns=["gaps_chat", "gaps_code"]))
    assert set(told.summary["afdsim"]) - set(plain.summary["afdsim"]) == {"classes"}


def test_lengths_of_every_class_need_none_for_all():
    scenario = mixed(CODE, workload__input_len=None, workload__output_len=None)

    assert set(columns(scenario)[0]) == {300}


def test_requests_of_a_trace_have_classes_but_no_lengths_of_their_own(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,input_len,output_len\n" + "".join(f"{n / 50},{100 + n},5\n" for n in range(60)))
    trace = {"arrival": {"process": "trace"}, "input_len": None, "output_len": None, "num_requests": None}
    asked = {"extends": "small", "workload": trace | {"trace": {"path": str(path)}, "classes": [CHAT, {"name": "b"}]}}
    found = afdsim.simulate(load(asked)).requests

    assert found.input_len.tolist() == list(range(100, 160))
    assert set(found["class"]) == {"chat", "b"}
    asked["workload"]["classes"] = [CODE]
    with pytest.raises(afdsim.ScenarioError, match=r"classes\[0\]\.input_len: comes from the trace; remove it"):
        load(asked)


# told


@given(
    law=st.sampled_from(LAWS),
    engine=st.sampled_from(["kernel", "kernel", "processes"]),
    mtp=st.sampled_from([None, None, {"draft": 2, "acceptance": 0.6}]),
    seed=st.integers(0, 30),
)
def test_gaps_of_the_classes_are_all_gaps_and_those_of_their_requests(law, engine, mtp, seed):
    scenario = mixed(CHAT, CODE, law=law, deployment__mtp=mtp, run__engine=engine)
    result = afdsim.simulate(scenario, seed=seed)
    tokens, requests = result.tokens, result.requests

    assert (tokens.gaps_chat + tokens.gaps_code == tokens.gaps).all()
    if law["process"] != "closed_loop":  # all have left: their seconds from first to last token are those of their gaps
        for name, own in requests.groupby("class"):
            seconds = (tokens[f"gaps_{name}"] * tokens.itl_s.fillna(0)).sum()
            assert seconds == pytest.approx((own.finish_s - own.first_token_s).sum(), rel=1e-9)


def test_a_crash_takes_gaps_across_it_from_every_class():
    crash = {"events": [{"at": "200ms", "target": "ffn[0]"}], "repair": "0s", "detection": "0s", "restart": "100ms"}
    result = afdsim.simulate(
        mixed(CHAT, CODE, failures=crash | {"reprefill_rate": "1000 tok/s"}, workload__num_requests=200)
    )
    tokens, across = result.tokens, result.tokens.batch == 0

    assert across.any()
    assert (tokens.gaps_chat + tokens.gaps_code)[~across].tolist() == tokens.gaps[~across].tolist()
    assert not (tokens.gaps_chat + tokens.gaps_code)[across].any()


def test_figures_of_a_class_are_those_of_its_requests():
    chat_only, asked = {"sla": {"e2el": "5ms", "percentile": "p50"}}, {"sla": {"tpot": "1s"}}
    result = afdsim.simulate(mixed(CHAT | chat_only, CODE, workload__num_requests=9000, **asked))
    own = result.summary["afdsim"]
    for name, told in own["classes"].items():
        mine = result.requests[(result.requests["class"] == name) & result.requests.counted]
        assert told["completed"] == len(mine)
        assert told["p99_e2el_ms"] == pytest.approx(np.percentile(mine.e2el_ms, 99))
        assert told["mean_tpot_ms"] == pytest.approx(mine.tpot_ms.mean())
    chat, code = own["classes"]["chat"], own["classes"]["code"]

    mine = result.requests[(result.requests["class"] == "chat") & result.requests.counted]
    assert chat["sla"]["goodput_share"] == pytest.approx((mine.e2el_ms <= 5).mean())
    assert (chat["sla"]["limit_ms"], code["sla"]["limit_ms"]) == (5.0, 1000.0)
    assert chat["completed"] + code["completed"] == result.summary["completed"]
    assert chat["request_throughput"] + code["request_throughput"] == pytest.approx(
        result.summary["request_throughput"]
    )
    assert (own["worst_class"], chat["sla"]["met"], code["sla"]["met"]) == ("chat", True, True)
    assert " worst: chat, p50 E2EL " in terminal(result)


def test_no_class_has_a_verdict_where_none_has_a_limit():
    result = afdsim.simulate(mixed(CHAT, CODE))

    assert "worst_class" not in result.summary["afdsim"]
    assert not any("sla" in each for each in result.summary["afdsim"]["classes"].values())
    assert ["class", "finished", "TPOT"] in [line.split()[:3] for line in terminal(result).splitlines()]
    assert max(map(len, terminal(result).splitlines())) <= 96


def test_classes_are_saved_and_read_back(tmp_path):
    result = afdsim.simulate(mixed(CHAT | {"sla": {"tpot": "1ns"}}, CODE))
    result.save(tmp_path / "run")
    back = Result.load(tmp_path / "run")

    assert back.summary == result.summary
    assert back.run.classes == {"chat": metrics.Sla(limits={"tpot": 1e-9}), "code": None}


def test_several_seeds_hold_a_class_against_their_mean():
    runs = [afdsim.simulate(mixed(CHAT | {"sla": {"tpot": "1ns"}}, CODE), seed=seed) for seed in range(3)]
    found, each = pooled(runs)["afdsim"], [run.summary["afdsim"]["classes"]["chat"] for run in runs]
    chat = found["classes"]["chat"]

    assert chat["completed"] == sum(one["completed"] for one in each)
    assert chat["sla"]["value_ms"] == pytest.approx(np.mean([one["sla"]["value_ms"] for one in each]))
    assert (chat["sla"]["met"], found["worst_class"]) == (False, "chat")


def test_a_class_that_misses_its_limit_fails_the_run(tmp_path):
    path = tmp_path / "s.yaml"
    classes = "{name: a, sla: {tpot: 1us, percentile: mean}}, {name: b}"
    path.write_text(f"extends: small\nsla: null\nworkload: {{classes: [{classes}]}}\n")
    bad, good = (
        CliRunner().invoke(main, ["run", str(path), "--quiet", "--fail-on-sla", *more])
        for more in ([], ["--set", "workload.classes=null"])
    )

    assert (bad.exit_code, good.exit_code) == (3, 0)


def test_a_class_of_single_tokens_is_not_held_to_a_tpot(tmp_path):
    path = tmp_path / "s.yaml"
    classes = "{name: a}, {name: label, output_len: 1}"
    path.write_text(
        f"extends: small\nsla: {{tpot: 1s, e2el: 1h, percentile: mean}}\nworkload: {{classes: [{classes}]}}\n"
    )
    found = afdsim.simulate(load(path)).summary["afdsim"]["classes"]

    assert set(found["a"]["sla"]["limits"]) == {"tpot", "e2el"}
    assert (found["label"]["sla"]["metric"], found["label"]["sla"]["verdict"]) == ("e2el", "PASS")
    assert CliRunner().invoke(main, ["run", str(path), "--quiet", "--fail-on-sla"]).exit_code == 0
