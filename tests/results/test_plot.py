import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from afdsim import plot
from afdsim.results.metrics import CAUSES, Engine, Pool, Run, Sla

pytest.importorskip("matplotlib")
from matplotlib.text import Text

from afdsim.results import plot_axes


def simulated(seed=0, *, n=400, mean=0.042, stragglers=0):
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.uniform(0, 9, n))
    tpot = mean * np.exp(rng.normal(0, 0.04, n))
    tpot[:stragglers] *= 3
    times, eight = np.arange(1, 201) / 20, np.full(8, 1.0)
    gpus = {cause: eight * share for cause, share in zip(CAUSES, (8.0, 1.0, 0.5, 0.3, 0.2, 0.0), strict=True)}
    return Run(
        requests={
            "arrival_s": arrival, "admitted_s": arrival, "first_token_s": arrival + 0.05,
            "finish_s": arrival + 0.05 + 99 * tpot, "input_len": np.full(n, 10), "output_len": np.full(n, 100),
            "status": np.full(n, "finished"), "counted": np.ones(n, bool),
        },
        tokens={"t_s": times, "batch": np.full(200, 50), "gaps": np.full(200, 50), "itl_s": np.full(200, 0.05)},
        gpus={"pool": ["attention"] * 4 + ["ffn"] * 4, "instance": [0, 0, 1, 1] * 2, "rank": [0, 1] * 4, **gpus},
        window=(2.0, 10.0),
        pools={"attention": Pool(gpu="H800", gpus=4), "ffn": Pool(gpu="H800", gpus=4)},
        engine=Engine(name="kernel", steps=1, events=1),
        sla=Sla(limits={"tpot": 0.05}),
    )  # fmt: skip


class Simulation:
    """A result: something that has a run."""

    def __init__(self, seed):
        self.run = simulated(seed)


SPANS = {
    "track": ["attention[0]", "ffn[0]", "attention[0]", "ffn[0]"],
    "start_s": [0.0, 0.0, 0.001, 0.0012],
    "end_s": [0.001, 0.0012, 0.002, 0.002],
    "micro_batch": [0, -1, 1, 0],
    "cause": ["busy", "wait_peer", "busy", "busy"],
}
SWEEP = {
    "instances": [1, 1, 2, 2, 4, 4],
    "tgs": [900.0, 950.0, 2000.0, 2050.0, 1500.0, 1550.0],
    "tokens_per_s_per_user": [30.0, 29.0, 24.0, 25.0, 18.0, 19.0],
    "mean_tpot_ms": [33.0, 34.0, 41.0, 40.0, 55.0, 53.0],
    "sla.met": [True, True, True, True, False, False],
    "pools.attention.busy": [0.9, 0.9, 0.8, 0.8, 0.4, 0.4],
    "pools.ffn.busy": [0.5, 0.5, 0.7, 0.7, 0.9, 0.9],
}
TWO = {"2A2F (32 GPUs)": [simulated(1), Simulation(2)], "EP128 (128 GPUs)": simulated(3, mean=0.047, stragglers=1)}

PICTURES = {
    "tpot_histogram": lambda: plot.tpot_histogram(simulated()),
    "tpot_histogram of two": lambda: plot.tpot_histogram(TWO),
    "tpot_cdf": lambda: plot.tpot_cdf(Simulation(0)),
    "tpot_cdf of two": lambda: plot.tpot_cdf(TWO),
    "itl_histogram": lambda: plot.itl_histogram(Simulation(0)),
    "tail": lambda: plot.tpot_cdf(TWO, tail=True),
    "throughput": lambda: plot.throughput(simulated()),
    "causes": lambda: plot.causes(simulated()),
    "causes of two": lambda: plot.causes(TWO),
    "utilization": lambda: plot.utilization(simulated()),
    "gantt": lambda: plot.gantt(SPANS),
    "pareto": lambda: plot.pareto(SWEEP, hue="instances"),
    "ratio": lambda: plot.ratio(SWEEP, x="instances"),
}


def boxes(texts):
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_labelled_and_inside_its_figure(name):
    ax = PICTURES[name]()
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    parts = boxes([ax.title, ax.xaxis.label, ax.yaxis.label, *(legend.get_texts() if legend else [])])
    width, height = ax.figure.bbox.width, ax.figure.bbox.height

    assert ax.get_title()
    assert "(" in ax.get_xlabel() or name in {"pareto", "ratio"}
    assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in parts)
    assert not any(one.overlaps(two) for index, one in enumerate(parts) for two in parts[index + 1 :])


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_has_the_same_bytes(name, tmp_path):
    pages = [plot.save(PICTURES[name](), tmp_path / f"{turn}.svg").read_bytes() for turn in range(2)]

    assert pages[0] == pages[1]
    assert b"<dc:date>" not in pages[0]


@pytest.mark.parametrize("name", PICTURES)
def test_every_text_is_read_as_it_stands_and_none_is_a_formula(name, tmp_path):
    ax = PICTURES[name]()
    plot.save(ax, tmp_path / "saved.png")
    texts = ax.figure.findobj(Text)

    assert not [text.get_text() for text in texts if text.get_parse_math() or "\\mathdefault" in text.get_text()]
    assert "mathdefault" not in plot_axes.drawing(ax.figure)


def test_powers_on_log_axes_are_text():
    ax = plot_axes.new(4, 3)
    ax.set(xscale="log", xlim=(2e-5, 3e-4), yscale="log", ylim=(1, 1000))
    ax.set_yscale("log", base=2)
    page = plot_axes.drawing(ax.figure)

    assert {">10⁻⁴<", ">2×10⁻⁵<", ">2⁸<"} <= set(re.findall(">[^<>]+<", page))


def test_a_legend_hides_no_data():
    ax = plot.tpot_histogram(TWO)
    ax.figure.draw_without_rendering()

    assert not ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())


def test_histogram_says_percentiles_and_limit():
    ax = plot.tpot_histogram(simulated(n=1000))

    labels = [text.get_text() for text in ax.get_legend().get_texts()]

    assert labels[0].startswith("p50 4")
    assert labels[1].startswith("p99 4")
    assert labels[2] == "SLA 50 ms"


@pytest.mark.parametrize("draw", [plot.tpot_histogram, plot.tpot_cdf])
def test_no_percentile_is_marked_that_the_table_calls_unknown(draw):
    many, few = (
        [text.get_text() for text in draw(runs).get_legend().get_texts()]
        for runs in (simulated(n=999), {"one": simulated(n=5), "two": simulated(n=1000)})
    )

    assert [label[:3] for label in many] == ["p50", "SLA"]
    assert few[0] == "one"
    assert few[1].startswith("two: p50 4")
    assert ", p99 4" in few[1]


def test_unlike_limits_are_drawn_each_with_whose_it_is():
    runs = {"one": simulated(), "two": replace(simulated(1), sla=Sla(limits={"tpot": 0.045}))}
    labels = [text.get_text() for text in plot.tpot_histogram(runs).get_legend().get_texts()]

    assert labels[-2:] == ["SLA 45 ms of two", "SLA 50 ms of one"]


def test_a_few_stragglers_do_not_flatten_the_histogram():
    ax = plot.tpot_histogram(simulated(stragglers=1))

    assert ax.get_xlim()[1] < 60
    assert ax.get_xlabel().startswith("TPOT of a request (ms); 1 beyond, up to 1")


def test_a_limit_far_away_leaves_the_distribution_readable():
    ax, whole = plot.tpot_histogram(simulated(mean=0.005)), plot.tpot_cdf(simulated(mean=0.005))
    (inset,) = whole.child_axes

    assert 4 < ax.get_xlim()[0] < ax.get_xlim()[1] < 6
    assert "SLA 50 ms, far off" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert whole.get_xlim()[1] > 50
    assert 4 < inset.get_xlim()[0] < inset.get_xlim()[1] < 6
    assert not ax.child_axes
    assert not plot.tpot_cdf(simulated()).child_axes


def test_no_bin_lies_on_both_sides_of_the_limit():
    ax = plot.tpot_histogram({"passes": simulated(mean=0.0495), "is slow": simulated(1, mean=0.06)})
    edges = {float(edge) for stairs in ax.patches for edge in stairs.get_data().edges}

    assert 50.0 in edges
    assert len({round(b - a, 9) for a, b in pairwise(sorted(edges))}) == 1


def test_causes_fill_their_bars():
    ax = plot.causes(simulated())
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[-1]]

    assert ends == pytest.approx([100.0, 100.0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["attention", "ffn"]


def test_pictures_are_drawn_on_the_axes_given():
    from matplotlib.figure import Figure

    axes = Figure().subplots(2)

    assert plot.tpot_cdf(simulated(), axes[1]) is axes[1]
    assert plot.causes(simulated(), axes[0]) is axes[0]


def test_runs_without_a_request_are_drawn_empty(tmp_path):
    nothing = simulated(n=0)

    for draw in (plot.tpot_histogram, plot.tpot_cdf):
        assert plot.save(draw(nothing), tmp_path / "empty.png", dpi=30).stat().st_size


def test_gantt_clips_to_its_window():
    ax = plot.gantt(SPANS, window=(0.0005, 0.0015))

    assert ax.get_xlim() == pytest.approx((0.0, 1.0))
    assert max(bar.get_x() + bar.get_width() for bars in ax.containers for bar in bars) <= 1.0 + 1e-9


def test_frontier_keeps_what_no_point_beats():
    x, y = np.array([1.0, 2.0, 3.0, 2.0, 3.0]), np.array([9.0, 5.0, 4.0, 8.0, 1.0])

    assert plot.frontier(x, y).tolist() == [0, 3, 2]
    assert plot.frontier(x[:0], y[:0]).tolist() == []


def test_a_deployment_keeps_its_colour():
    alone, together = plot.colours(["2A2F"]), plot.colours(["2A2F", "4A2F", "EP32"])

    assert alone["2A2F"] == together["2A2F"]
    assert len(set(together.values())) == 3
    assert len(plot.colours(map(str, range(20)))) == 20


def test_plot_needs_no_matplotlib_until_it_draws():
    code = "import sys, afdsim.plot; sys.exit('matplotlib' in sys.modules or 'pandas' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_quantities_with_units_are_numbers_on_an_axis():
    sweep = {
        **SWEEP,
        "workload.arrival.request_rate": ["60 req/s", "60 req/s", "120 req/s", "120 req/s", "2e2 req/s", "200 req/s"],
    }
    ax = plot.ratio(sweep, x="workload.arrival.request_rate")

    assert ax.get_lines()[0].get_xdata().tolist() == [60.0, 120.0, 200.0]
    assert ax.get_xlabel() == "request rate (req/s)"


def limit(statistic):
    """Columns of an SLA on TPOT."""
    return {"sla.metric": ["tpot"] * 6, "sla.limit_ms": [50.0] * 6, "sla.percentile": [statistic] * 6}


@pytest.mark.parametrize("sla", [limit("p99"), {**limit("mean"), "sla.percentile": ["mean", "p99"] * 3}])
def test_a_limit_on_a_percentile_is_no_line_among_mean_speeds(sla):
    assert "SLA 50 ms" not in legend(plot.pareto({**SWEEP, **sla}))


def test_markers_at_the_ends_are_whole():
    ax = plot.pareto(SWEEP, met=None)
    ax.figure.draw_without_rendering()
    (right, _), (_, top) = ax.transData.transform([(max(SWEEP["tokens_per_s_per_user"]), 0), (0, max(SWEEP["tgs"]))])

    assert min(ax.bbox.x1 - right, ax.bbox.y1 - top) > 5 * ax.figure.dpi / 72


def test_points_that_failed_are_left_out_of_a_frontier():
    sweep = {
        **SWEEP,
        "sla.met": [True, True, True, True, None, None],
        "tgs": [900.0, 950.0, 2000.0, 2050.0, None, None],
    }
    ax = plot.pareto({**sweep, **limit("mean")}, hue="instances")

    assert "SLA 50 ms" in legend(ax)
    assert all(len(line.get_xdata()) == 0 for line in ax.get_lines() if line.get_label() == "4")


def test_a_column_that_is_no_number_is_told():
    with pytest.raises(ValueError, match="'fast' is no number"):
        plot.ratio({**SWEEP, "instances": ["fast"] * 6}, x="instances")


UNSTABLE = {
    "rate": [60.0, 60.0, 120.0, 120.0, 180.0, 180.0, 240.0, 240.0],
    "tgs": [900.0, 950.0, 2000.0, 2050.0, 2400.0, 2450.0, np.nan, np.nan],
    "tokens_per_s_per_user": [30.0, 29.0, 24.0, 25.0, 18.0, 19.0, 12.0, 11.0],
    "mean_tpot_ms": [33.0, 34.0, 41.0, 40.0, 55.0, 53.0, 80.0, 81.0],
    "sla.met": [True, True, True, True, False, False, False, False],
    "load": ["STABLE", "STABLE", "STABLE", "BACKLOGGED", "OVERLOADED", "OVERLOADED", "n/a", "n/a"],
}


def hollow(ax):
    """Places of the hollow points of a picture."""
    faces = {"none", "white"}
    drawn = [line for line in ax.get_lines() if line.get_marker() != "None" and line.get_markerfacecolor() in faces]
    return sorted((x, y) for line in drawn for x, y in zip(*line.get_data(), strict=True))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_point_whose_load_is_not_stable_is_hollow_and_on_no_frontier():
    ax = plot.pareto(UNSTABLE, met=None)
    (best,) = [line for line in ax.get_lines() if line.get_label() == "frontier"]

    assert hollow(ax) == [(18.0, 2400.0), (19.0, 2450.0), (25.0, 2050.0)]
    assert best.get_ydata().tolist() == [2000.0, 950.0, 900.0]
    assert "load not stable" in legend(ax)


def test_a_point_that_misses_the_limit_and_its_load_is_drawn_once():
    ax = plot.pareto(UNSTABLE)

    assert hollow(ax) == [(18.0, 2400.0), (19.0, 2450.0), (25.0, 2050.0)]
    assert "misses the SLA" not in legend(ax)


@pytest.mark.parametrize("draw", [plot.pareto, lambda table: plot.ratio(table, x="rate")])
def test_points_without_a_figure_are_left_out_and_counted(draw):
    assert draw(UNSTABLE).get_xlabel().endswith("; 2 points n/a, left out")


def test_a_place_is_hollow_where_the_load_of_any_seed_is_not_stable():
    ax = plot.ratio(UNSTABLE, x="rate")
    line, _ = ax.get_lines()[:2]

    assert line.get_xdata().tolist() == [60.0, 120.0, 180.0]
    assert hollow(ax) == [(120.0, 2025.0), (180.0, 2425.0)]
    assert "load not stable" in legend(ax)


def test_closed_loops_and_errors_have_no_load_and_are_not_hollow():
    for load in (None, np.nan):
        table = {**UNSTABLE, "load": [load] * 8}

        assert hollow(plot.ratio(table, x="rate")) == []
        assert hollow(plot.pareto(table, met=None)) == []
        assert "load not stable" not in legend(plot.pareto(table, met=None))


@pytest.mark.filterwarnings("error")
def test_a_sweep_without_any_figure_is_drawn_empty(tmp_path):
    table = {
        **UNSTABLE,
        "tgs": [np.nan] * 8,
        "load": ["n/a"] * 8,
        "pools.attention.busy": [np.nan] * 8,
        "pools.ffn.busy": [0.5] * 8,
    }

    for number, ax in enumerate((plot.pareto(table), plot.ratio(table, x="rate"))):
        assert plot.save(ax, tmp_path / f"{number}.png", dpi=30).stat().st_size
        assert ax.get_xlabel().endswith("; 8 points n/a, left out")


@pytest.mark.parametrize("missing", ["tgs", "mean_tpot_ms"])
def test_a_figure_that_no_point_has_is_drawn_as_none(missing):
    table = {name: column for name, column in UNSTABLE.items() if name != missing}

    assert plot.ratio(table, x="rate").get_lines()
    assert plot.pareto(table).get_lines()


def test_a_column_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="no column 'rat'; did you mean 'rate'"):
        plot.ratio(UNSTABLE, x="rat")


def test_an_axis_says_its_unit():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(UNSTABLE)
    frame.attrs["units"] = {"rate": "req/s"}

    assert plot.ratio(frame, x="rate").get_xlabel().startswith("rate (req/s)")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_shows_itself_in_a_notebook(name):
    assert PICTURES[name]()._repr_png_().startswith(b"\x89PNG")


def test_a_picture_opens_no_window():
    code = "import sys, afdsim.plot; afdsim.plot.pareto({'tokens_per_s_per_user': [1.0], 'tgs': [1.0]})._repr_png_()"

    assert (
        subprocess.run(
            [sys.executable, "-c", f"{code}; sys.exit('matplotlib.pyplot' in sys.modules)"], check=False
        ).returncode
        == 0
    )
