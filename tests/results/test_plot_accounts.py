"""Pictures of culprits, of the price of tokens and of operators."""

import numpy as np
import pytest

import afdsim
from afdsim import plot
from afdsim.results.operators import operators

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result():
    return afdsim.simulate(afdsim.load("small"))


def widths(ax):
    return [bar.get_width() for bar in ax.patches]


def test_a_deployment_pays_for_its_tokens_what_the_summary_says(result):
    ax = plot.cost({"one": result, "same": result})

    price = result.summary["afdsim"]["usd_per_1m_output_tokens"]
    assert sum(widths(ax)) == pytest.approx(2 * price)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "same"]
    assert ax.get_xlabel() == "USD per 1M output tokens"


def test_without_prices_tokens_cost_gpu_hours(result):
    from dataclasses import replace

    pools = {name: replace(pool, usd_per_hour=None) for name, pool in result.run.pools.items()}
    ax = plot.cost(replace(result.run, pools=pools))

    own = result.summary["afdsim"]
    assert ax.get_xlabel() == "GPU-hours per 1M output tokens"
    assert sum(widths(ax)) == pytest.approx(1e6 / own["tgs"] / 3600)


def test_culprits_are_drawn_by_falling_share_of_all_gpu_time(result):
    ax = plot.blame(result, most=100)

    shares = widths(ax)
    lost = result.blame.groupby(["culprit", "kind"])["share"].sum()
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100 * lost[lost >= 0.0005].sum())


def test_a_run_that_blames_nobody_has_an_empty_picture(result):
    from dataclasses import replace

    assert widths(plot.blame(replace(result.run, blame={}))) == []


def test_no_operator_is_above_the_roof_of_its_gpu(result):
    found = operators(result.scenario, result.run)
    roof = np.minimum(found["peak_flops"], found["bandwidth"] * found["flops"] / np.maximum(found["bytes"], 1))

    assert (found["flops"] <= roof * found["seconds"] * (1 + 1e-9)).all()


def test_operators_are_taken_at_the_batch_of_the_run(result):
    from afdsim.cost.anatomy import explain_deployment
    from afdsim.engine.lowering import deployment

    batch = result.tokens.query("t_s > @result.run.window[0] and t_s <= @result.run.window[1]")["batch"].mean()
    own = deployment(result.scenario)
    parts = explain_deployment(own, batch=round(batch / own.attention.dp), context=1).parts

    found = operators(result.scenario, result.run)
    assert found["name"].tolist() == [part.name for part in parts]
    assert found["flops"][found["stage"] == "ffn"].tolist() == [part.flops for part in parts if part.stage == "ffn"]


def test_the_roofline_names_what_takes_longest(result):
    ax = plot.roofline(operators(result.scenario, result.run))

    named = {text.get_text().split(",")[0] for text in ax.texts}
    assert "core attention" in named
    assert ax.get_xscale() == ax.get_yscale() == "log"


@pytest.mark.parametrize("name", ["cost", "blame"])
def test_pictures_of_accounts_are_the_same_bytes_again(result, tmp_path, name):
    one, two = (plot.save(getattr(plot, name)(result), tmp_path / f"{at}.svg").read_bytes() for at in (1, 2))

    assert one == two
