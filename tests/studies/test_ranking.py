"""The best point under the SLA comes first."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdsim.results.steady import LEVELS
from afdsim.studies.ranking import STANDINGS, ranked


def points(**columns):
    """A frame of a sweep with one axis; a column is one value for every row."""
    length = max(map(len, columns.values()))
    fixed = {"axis": range(length), "point": [f"p{n}" for n in range(length)], "status": "ok", "tgs": 1.0}
    return pd.DataFrame({**fixed, **columns}, index=range(length))


def test_the_sla_counts_before_tokens_per_gpu_and_the_load_before_both():
    frame = points(
        tgs=[10.0, 30.0, 20.0, 90.0, 80.0, np.nan, np.nan],
        load=["STABLE", "STABLE", "STABLE", "OVERLOADED", "BACKLOGGED", "n/a", None],
        status=["ok"] * 6 + ["error"],
        **{"sla.met": pd.array([True, False, True, False, False, False, None], "boolean")},
    )

    found = ranked(frame, ["axis"])

    assert found["axis"].tolist() == [2, 0, 1, 3, 4, 5, 6]
    assert found["standing"].tolist() == ["met", "met", "missed", "unstable", "unstable", "n/a", "error"]
    assert found["load"].tolist() == ["STABLE", "STABLE", "STABLE", "OVERLOADED", "BACKLOGGED", "n/a", "-"]


def test_a_point_is_as_good_as_its_worst_seed_and_has_the_mean_of_its_figures():
    frame = points(
        axis=[1, 1, 2, 2, 3, 3],
        point=["a", "a", "b", "b", "c", "c"],
        tgs=[10.0, 20.0, 100.0, 100.0, 50.0, np.nan],
        p99_tpot_ms=[1.0, np.nan, 3.0, 5.0, 1.0, 1.0],
        load=["STABLE", "STABLE", "STABLE", "OVERLOADED", "STABLE", "n/a"],
        **{"sla.met": [True, True, True, False, True, False]},
    )

    found = ranked(frame, ["axis"], ["p99_tpot_ms", "no such"])

    assert found["axis"].tolist() == [1, 2, 3]
    assert found["standing"].tolist() == ["met", "unstable", "n/a"]
    assert found["tgs"].tolist()[:2] == [15.0, 100.0]
    assert found[["tgs", "p99_tpot_ms"]].isna().to_numpy().tolist() == [[False, True], [False, False], [True, False]]


def test_an_sla_is_met_marginally_where_the_interval_of_a_seed_holds_the_limit():
    frame = points(
        point=["a", "a", "b", "b", "c"],
        axis=[1, 1, 2, 2, 3],
        tgs=[3.0, 3.0, 2.0, 2.0, 1.0],
        **{"sla.met": [True, True, True, True, False], "sla.verdict": ["PASS", "MARGINAL", "PASS", "PASS", "MARGINAL"]},
    )

    found = ranked(frame, ["axis"])

    assert found["standing"].tolist() == ["met", "met", "missed"]
    assert found["marginal"].tolist() == [True, False, False]


def test_the_metrics_beyond_their_limits_are_named():
    frame = points(
        point=["a", "a", "b", "c"],
        axis=[1, 1, 2, 3],
        tgs=[4.0, 4.0, 3.0, 2.0],
        **{
            "sla.met": [False, False, False, True],
            "sla.metric": ["queue", "tpot", "e2el", "tpot"],
            "sla.value_ms": [3.0, 60.0, 9.0, 1.0],
            "sla.limit_ms": [1.0, 50.0, 8.0, 50.0],
            "sla.limits.queue.value_ms": [3.0, 0.5, np.nan, np.nan],
            "sla.limits.queue.limit_ms": [1.0, 1.0, np.nan, np.nan],
            "sla.limits.tpot.value_ms": [40.0, 60.0, np.nan, np.nan],
            "sla.limits.tpot.limit_ms": [50.0, 50.0, np.nan, np.nan],
        },
    )

    found = ranked(frame, ["axis"])

    assert found["axis"].tolist() == [3, 1, 2]
    assert found["missed"].tolist() == ["", "tpot, queue", "e2el"]


def test_whether_there_is_an_sla_is_told_of_every_point():
    frame = points(load=["n/a"] * 2, **{"sla.met": pd.array([False, None], "boolean")})

    assert ranked(frame, ["axis"])["limited"].tolist() == [True, False]


def test_without_an_sla_tokens_per_gpu_decide():
    found = ranked(points(tgs=[1.0, 3.0, 2.0], status=["ok", "ok", "error"]), ["axis"])

    assert found["axis"].tolist() == [1, 0, 2]
    assert found["standing"].tolist() == ["no SLA", "no SLA", "error"]
    assert "load" not in found


def test_a_sweep_of_failures_alone_has_no_figures():
    frame = points(status=["error"] * 2).drop(columns="tgs")

    assert ranked(frame, ["axis"])["standing"].tolist() == ["error", "error"]


def test_points_that_are_absent_on_an_axis_are_rows_too():
    assert len(ranked(points(axis=[None, "x", np.nan]), ["axis"])) == 3


LOAD = st.sampled_from([*LEVELS, None])
ROW = st.tuples(st.floats(0, 1e6), st.sampled_from([True, False, None]), LOAD, st.sampled_from(["ok", "ok", "error"]))


@given(st.lists(ROW, min_size=1, max_size=40))
def test_no_point_stands_before_a_better_one(rows):
    tgs, met, load, status = map(list, zip(*rows, strict=True))
    frame = points(tgs=tgs, load=pd.array(load, "string"), status=status, **{"sla.met": pd.array(met, "boolean")})

    found = ranked(frame, ["axis"])

    keys = [(STANDINGS.index(each), -tgs) for each, tgs in zip(found["standing"], found["tgs"], strict=True)]
    assert keys == sorted(keys)
    assert sorted(found["axis"]) == list(range(len(rows)))


@pytest.mark.parametrize("load", ["OVERLOADED", "BACKLOGGED", "n/a"])
def test_a_load_that_is_not_stable_never_wins_though_its_sla_were_met(load):
    frame = points(tgs=[100.0, 1.0], load=[load, "STABLE"], **{"sla.met": [True, True]})

    assert ranked(frame, ["axis"])["axis"].tolist() == [1, 0]
