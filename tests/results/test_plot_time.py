"""Pictures over simulated time: labelled, the same every time, and their numbers are those of the run."""

from dataclasses import replace

import numpy as np
import pytest

import afdsim
from afdsim import plot
from afdsim.results import plot_time
from tests.results.test_plot import SPANS, boxes, simulated
from tests.results.test_timeline import KINDS

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result():
    return afdsim.simulate(KINDS["closed loop"]())


PICTURES = ("utilization", "gantt", "queue")


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_labelled_inside_its_figure_and_its_legend_hides_no_data(result, name):
    ax = getattr(result.plot, name)()
    ax.figure.draw_without_rendering()
    parts = boxes([ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_legend().get_texts()])
    width, height = ax.figure.bbox.width, ax.figure.bbox.height

    assert ax.get_title()
    assert ax.get_xlabel().endswith("s)")
    assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in parts)
    assert not any(one.overlaps(two) for index, one in enumerate(parts) for two in parts[index + 1 :])
    assert not ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_has_the_same_bytes_and_is_drawn_where_it_is_told_to(result, name, tmp_path):
    pages = [plot.save(getattr(result.plot, name)(), tmp_path / f"{turn}.svg").read_bytes() for turn in range(2)]
    given = getattr(plot, name)(result).figure.subplots()

    assert pages[0] == pages[1]
    assert getattr(plot, name)(result, given) is given


# GPU use


def use(rows, width=2.0, until=7.0):
    """A frame from (pool, instance, rank, busy shares of its slices)."""
    count = len(rows[0][3])
    begin = np.arange(count) * width
    return {
        "begin_s": np.tile(begin, len(rows)),
        "end_s": np.tile(np.minimum(begin + width, until), len(rows)),
        **{name: np.repeat([row[at] for row in rows], count) for at, name in enumerate(("pool", "instance", "rank"))},
        "busy": np.concatenate([row[3] for row in rows]),
    }


def heat(frame):
    return plot_time._over_time(frame)


def test_every_gpu_has_a_row_and_pools_lie_together():
    shares = [0.1, 0.2, 0.3, 0.4]
    rows = [("a", 0, 0, shares), ("f", 0, 0, [0.9] * 4), ("a", 1, 0, [0.5] * 4), ("f", 1, 0, [0.8] * 4)]
    grid, names, width = heat(use(rows))

    assert names == [("a", 0), ("a", 1), ("f", 0), ("f", 1)]
    assert grid[:, 0].tolist() == pytest.approx([10.0, 50.0, 90.0, 80.0])
    assert grid[0].tolist() == pytest.approx([10.0, 20.0, 30.0, 40.0])
    assert width == 2.0


def test_of_many_gpus_instances_have_rows_with_their_mean():
    rows = [("a", i // 8, i % 8, [i % 8 / 7] * 4) for i in range(plot_time.MOST_ROWS + 8)]
    grid, names, _ = heat(use(rows))

    assert names == [("a", i) for i in range(plot_time.MOST_ROWS // 8 + 1)]
    assert grid == pytest.approx(np.full(grid.shape, 50.0))


def test_slices_of_unlike_cells_are_drawn_as_wide_as_they_are():
    fine, coarse = use([("a", 0, 0, [0.1, 0.2, 0.3, 0.4])]), use([("a", 1, 0, [0.6, 0.8])], width=4.0)
    grid, _, width = heat({name: np.concatenate([fine[name], coarse[name]]) for name in fine})

    assert width == 2.0
    assert grid.tolist() == [pytest.approx([10, 20, 30, 40]), pytest.approx([60, 60, 80, 80])]


def test_the_whole_run_is_shown_with_the_window_marked(result):
    ax = plot.utilization(result)

    assert ax.get_xlim() == (0.0, result.utilization["end_s"].max())
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == list(result.run.window)
    assert ax.get_ylim() == (len(result.gpus) - 0.5, -0.5)


def test_a_run_that_nobody_watched_has_the_shares_of_its_window():
    ax = plot.utilization(simulated())

    assert "rank" in ax.get_xlabel()
    assert ax.images[0].get_array().tolist() == [[80.0, 80.0]] * 4


# queue and batch


def test_means_and_extremes_between_two_edges_are_exact():
    times, changes = np.array([0.5, 0.5, 1.0, 3.5]), np.array([1.0, 1.0, -1.0, 3.0])
    edges, low, mean, high = plot_time._levels(times, changes, 4.0, 2)

    assert edges.tolist() == [0.0, 2.0, 4.0]
    assert (low.tolist(), high.tolist()) == ([0.0, 1.0], [2.0, 4.0])
    assert mean.tolist() == pytest.approx([(0.5 * 2 + 1.0 * 1) / 2, (1.5 * 1 + 0.5 * 4) / 2])


def test_a_closed_loop_is_full_and_nobody_waits(result):
    moves = plot_time._moves(result.run)
    _, low, mean, _ = plot_time._levels(*moves["in flight"], result.run.window[1], 50)
    _, _, waiting, _ = plot_time._levels(*moves["waiting"], result.run.window[1], 50)

    assert mean[1:-1] == pytest.approx(np.full(48, result.run.slots), rel=0.02)
    assert low.max() <= result.run.slots
    assert waiting.max() < 0.1 * result.run.slots


def test_who_is_refused_never_waits_and_who_is_lost_goes():
    run = simulated(n=4)
    requests = {
        name: np.array(column, dtype=object if name == "status" else None) for name, column in run.requests.items()
    }
    requests["status"][:2] = "refused", "lost"
    for name in ("admitted_s", "first_token_s", "finish_s"):
        requests[name][0] = np.nan
    requests["finish_s"][1] = np.nan
    requests["lost_s"] = np.array([np.nan, 9.5, np.nan, np.nan])
    moves = plot_time._moves(replace(run, requests=requests))

    assert len(moves["waiting"][0]) == 6
    assert moves["in flight"][1].sum() == 0.0
    assert 9.5 in moves["in flight"][0]


def test_a_limit_far_above_is_told_and_not_drawn():
    near, far = (plot.queue(replace(simulated(), slots=slots)) for slots in (300, 3000))
    labels = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in (near, far)]

    assert "max_num_seqs: 300" in labels[0]
    assert "max_num_seqs: 3,000, far above" in labels[1]
    assert far.get_ylim()[1] < 3000


# the pipeline


def test_a_result_is_drawn_as_its_pipeline(result):
    mine, its = plot.gantt(result), plot.gantt(result.pipeline)
    bars = [
        [(bar.get_x(), bar.get_y(), bar.get_width()) for part in ax.containers for bar in part] for ax in (mine, its)
    ]

    assert bars[0] == bars[1]
    assert len(bars[0]) == len(result.pipeline)
    assert [label.get_text() for label in mine.get_yticklabels()] == list(dict.fromkeys(result.pipeline["track"]))


def test_bubbles_are_hatched_by_cause(result):
    ax = plot.gantt(result)
    hatches = {part.get_label(): part.patches[0].get_hatch() for part in ax.containers}
    gaps = {cause.replace("_", " "): plot_time.GAP_HATCHES[cause] for cause in set(result.pipeline["cause"]) - {"busy"}}

    assert gaps
    assert {name: hatches[name] for name in gaps} == gaps
    assert all(hatches[name] is None for name in hatches if name.startswith("micro-batch"))


def test_columns_without_layers_have_no_numbers_and_no_step_no_bars():
    assert len(plot.gantt(SPANS).texts) == 0
    assert len(plot.gantt(simulated()).containers) == 0
    assert "no step" in plot.gantt(simulated()).get_title()
