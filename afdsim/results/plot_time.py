"""Pictures over simulated time: GPU use, queue and batch, the pipeline of a few layers.

Every function takes a result and returns the matplotlib Axes it drew on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from afdsim.engine.books import CAUSES
from afdsim.results import metrics
from afdsim.results.metrics import Columns, Floats, Run, Window
from afdsim.results.plot import One, one_run
from afdsim.results.plot_parts import COLOURS, legend_below, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 96
"""GPUs that have rows of their own in a heat map; of more, instances have."""
WINDOW: Final = "window of the metrics"


# GPU use ------------------------------------------------------------------------------------------------------------


def utilization(run: One, ax: Axes | None = None) -> Axes:
    """Draw the busy share of every GPU (of many: of every instance) over simulated time, 0 to 100 %.

    Of a run that nobody watched it is that of the window: a row per instance, a column per rank.
    """
    found = one_run(run)
    if not len(found.utilization):
        return _utilization_of_ranks(found.gpus, ax)
    grid, names, width = _over_time(found.utilization)
    ax = new_axes(ax, width=8.0, height=max(2.8, min(2.0 + 0.12 * len(names), 7.5)))
    image = _heat(ax, grid, extent=(0.0, grid.shape[1] * width, len(names) - 0.5, -0.5))
    _name_rows(ax, names)
    _mark_window(ax, found.window)
    until = float(np.max(found.utilization["end_s"]))
    several = len(found.gpus["pool"]) > len(names)
    ax.set_title(f"Busy share of {'the GPUs of every instance' if several else 'every GPU'}", pad=12)
    ax.set(xlabel="simulated time (s)", xlim=(0.0, until))
    ax.figure.colorbar(image, ax=ax, label="busy (%)")
    legend_below(ax)
    return ax


FAR: Final = 4
"""Times the most requests from which a limit would press them against the axis."""
GPU: Final = ("pool", "instance", "rank")


def _heat(ax: Axes, grid: Floats, **given: Any) -> Any:
    ax.grid(visible=False)
    return ax.imshow(grid, vmin=0, vmax=100, cmap="cividis", aspect="auto", interpolation="nearest", **given)


def _over_time(frame: Columns) -> tuple[Floats, list[tuple[str, int]], float]:
    """(row, slice) busy shares in percent, the pool and instance of every row, and seconds of a slice.

    Slices of cells that are unlike are as wide as the finest: a width is a power of two seconds.
    """
    begin, end, busy = (np.asarray(frame[name], float) for name in ("begin_s", "end_s", "busy"))
    seats = list(zip(*(np.asarray(frame[name]).tolist() for name in GPU), strict=True))
    keys = seats if len(set(seats)) <= MOST_ROWS else [seat[:2] for seat in seats]
    pools = list(dict.fromkeys(pool for pool, *_ in seats))
    order = sorted(dict.fromkeys(keys), key=lambda key: pools.index(key[0]))
    width = float(min((end - begin)[begin == 0.0], default=1.0))
    count = math.ceil(float(end.max()) / width)
    total, weight = np.zeros((2, len(order), count))
    rows = {key: row for row, key in enumerate(order)}
    at = np.array([rows[key] for key in keys])
    first = np.round(begin / width).astype(int)
    spans = np.maximum(np.ceil((end - begin) / width - 1e-9).astype(int), 1)
    for more in range(int(spans.max())):
        chosen = (spans > more) & (first + more < count)
        np.add.at(total, (at[chosen], first[chosen] + more), busy[chosen])
        np.add.at(weight, (at[chosen], first[chosen] + more), 1.0)
    return 100 * total / np.maximum(weight, 1.0), [(str(key[0]), int(key[1])) for key in order], width


def _name_rows(ax: Axes, names: Sequence[tuple[str, int]]) -> None:
    """Name instances in the middle of their rows, as many as there is room for, with a line between pools."""
    groups: dict[tuple[str, int], list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    middles, labels = [sum(rows) / len(rows) for rows in groups.values()], [f"{pool}[{i}]" for pool, i in groups]
    stride = max(1, math.ceil(len(labels) / 24))
    ax.set_yticks(middles[::stride], labels[::stride])
    for row, (one, other) in enumerate(pairwise(names)):
        if one != other:
            ax.axhline(row + 0.5, color="white", linewidth=2.0 if one[0] != other[0] else 0.5)


def _mark_window(ax: Axes, window: Window) -> None:
    """A bar above the axes over the window of the metrics."""
    across = ax.get_xaxis_transform()
    ax.plot(window, (1.015, 1.015), color="black", linewidth=3, transform=across, clip_on=False, label=WINDOW,
            solid_capstyle="butt")  # fmt: skip
    for edge in window:
        ax.axvline(edge, color="white", linewidth=1.2, linestyle="--")


def _utilization_of_ranks(gpus: Columns, ax: Axes | None) -> Axes:
    """Draw the busy share of every GPU in the window: a row per instance, a column per rank."""
    grid, names = _busy_grid(gpus)
    ax = new_axes(ax, height=max(2.2, min(1.4 + 0.34 * len(names), 9.0)))
    image = _heat(ax, grid)
    if len(names) <= 24 and grid.shape[1] <= 16:
        for (row, rank), busy in np.ndenumerate(grid):
            shade, text = "black" if busy > 55 else "white", "" if math.isnan(busy) else f"{busy:.0f}"
            ax.text(rank, row, text, ha="center", va="center", color=shade, fontsize=8)
    stride = max(1, math.ceil(len(names) / 24))
    ax.set_yticks(range(0, len(names), stride), names[::stride])
    ax.set(xlabel="rank (GPU of the instance)", title="Busy share of every GPU")
    ax.locator_params(axis="x", integer=True)
    ax.figure.colorbar(image, ax=ax, label="busy (%)")
    return ax


def _busy_grid(gpus: Columns) -> tuple[Floats, list[str]]:
    """(instance, rank) busy shares in percent, NaN where an instance has no such rank, and the instances' names."""
    seats = list(zip(*(np.asarray(gpus[name]).tolist() for name in GPU), strict=True))
    seconds = np.stack([np.asarray(gpus[cause], float) for cause in CAUSES])
    share = 100 * seconds[0] / seconds.sum(axis=0)
    rows = {key: row for row, key in enumerate(dict.fromkeys((pool, instance) for pool, instance, _ in seats))}
    grid = np.full((len(rows), 1 + max(int(rank) for _, _, rank in seats)), np.nan)
    for (pool, instance, rank), busy in zip(seats, share.tolist(), strict=True):
        grid[rows[pool, instance], int(rank)] = busy
    return grid, [f"{pool}[{instance}]" for pool, instance in rows]


# queue and batch ----------------------------------------------------------------------------------------------------


def queue(run: One, ax: Axes | None = None, *, points: int = 400) -> Axes:
    """Draw sequences in flight and requests that wait over simulated time: means, and bands from the least to the most.

    In flight is from admission to decode to the last token, waiting from arrival to admission (with prefill, also while
    it computes the prompt). The dashed line is `max_num_seqs` of all ranks. Those with whom a closed loop begins never
    waited.
    """
    ax, found = new_axes(ax), one_run(run)
    moves, until, most = _moves(found), _last(found), 1.0
    for (name, (times, changes)), colour in zip(moves.items(), (COLOURS[0], COLOURS[1]), strict=True):
        edges, low, mean, high = _levels(times, changes, until, points)
        ax.fill_between(edges, [*low, low[-1]], [*high, high[-1]], step="post", color=colour, alpha=0.3, linewidth=0)
        ax.stairs(mean, edges, color=colour, linewidth=1.3, label=name, baseline=None)
        most = max(most, float(high.max()))
    if found.slots:
        far = found.slots > FAR * most
        label = f"max_num_seqs: {found.slots:,}{', far above' if far else ''}"
        level = [math.nan if far else found.slots] * 2
        ax.plot([0.0, until], level, color="#404040", linewidth=1.2, linestyle="--", label=label)
    ax.axvspan(*found.window, color="#F2F2F2", zorder=0, label=WINDOW)
    ax.set(xlabel="simulated time (s)", ylabel="requests (count)", title="Queue and batch", ylim=(0, None))
    ax.set_xlim(0.0, until)
    legend_below(ax)
    return ax


Moves: TypeAlias = tuple[Floats, Floats]
"""When a number changes, and by how much."""


def _moves(run: Run) -> dict[str, Moves]:
    """When requests begin and cease to be in flight, and to wait."""
    requests = run.requests
    arrival, admitted, finish = (metrics.column(requests, f"{name}_s") for name in ("arrival", "admitted", "finish"))
    lost = metrics.column(requests, "lost_s") if "lost_s" in requests else np.full(len(finish), np.nan)
    left = np.where(np.isnan(finish), lost, finish)
    waits = np.asarray(requests["status"]) != "refused"
    waits &= (arrival > 0.0) | (run.load is not None)
    called = np.where(np.isnan(admitted), left, admitted)  # of one token: prefill has done it all
    return {"in flight": _change(admitted, left), "waiting": _change(arrival[waits], called[waits])}


def _change(begin: Floats, end: Floats) -> Moves:
    times = np.concatenate([begin, end])
    changes = np.repeat([1.0, -1.0], len(begin))
    kept = ~np.isnan(times)
    order = np.argsort(times[kept], kind="stable")
    return times[kept][order], changes[kept][order]


def _levels(times: Floats, changes: Floats, until: float, points: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Edges from 0 to the end, and the least, the mean and the most of a number between them."""
    moments, last = np.unique(times[::-1], return_index=True)
    level = np.concatenate([[0.0], np.cumsum(changes)[len(times) - 1 - last]])
    edges = np.linspace(0.0, until, points + 1)
    first = np.searchsorted(moments, edges, side="right").tolist()
    low, high = (np.array([ends(level[i : j + 1]) for i, j in pairwise(first)]) for ends in (np.min, np.max))
    breaks = np.concatenate([[min([0.0, *moments[:1]])], moments, [max([until, *moments[-1:]])]])
    area = np.concatenate([[0.0], np.cumsum(level * np.diff(breaks))])
    return edges, low, np.diff(np.interp(edges, breaks, area)) / np.diff(edges), high


def _last(run: Run) -> float:
    """When the last token or the window ended."""
    return max(float(np.asarray(run.tokens["t_s"], float).max(initial=0.0)), run.window[1])


# the pipeline -------------------------------------------------------------------------------------------------------

GAP_HATCHES: Final = {
    "wait_peer": "////",
    "network": "\\\\\\\\",
    "imbalance": "xxxx",
    "no_work": "....",
    "down": "++++",
}
NUMBERED = 0.022
"""Share of the width from which a span has room for the number of its layer."""


def gantt(spans: Columns | One, ax: Axes | None = None, *, window: Window | None = None) -> Axes:
    """Draw who worked on which micro-batch, and why a track stood still: of a result its `pipeline`.

    Columns: track, start_s, end_s, micro_batch (-1 for a gap), cause ("busy", or a cause of `books.CAUSES`), and layer
    where spans are to have its number. Tracks are drawn in the order in which they first appear.
    """
    columns, seen, (zero, until) = _clipped(spans, window)
    tracks = {track: row for row, track in enumerate(dict.fromkeys(columns["track"].tolist()))}
    rows = np.array([tracks[track] for track in columns["track"].tolist()], dtype=int)
    ax = new_axes(ax, width=9.0, height=1.6 + 0.36 * max(len(tracks), 1))
    batch, cause = columns["micro_batch"].astype(int), columns["cause"]
    groups = [(seen & (batch == each) & (cause == "busy"), _batch_look(each)) for each in np.unique(batch[batch >= 0])]
    groups += [(seen & (cause == each), _gap_look(each)) for each in CAUSES[1:]]
    height = np.array([_height(track) for track in tracks] or [0.0])
    for chosen, look in groups:
        if chosen.any():
            left, width = columns["left"][chosen], columns["width"][chosen]
            ax.barh(rows[chosen], width, left=left, height=height[rows[chosen]], **look)
    _number(ax, columns, rows, seen & (cause == "busy"))
    ax.set_yticks(range(len(tracks)), [str(track) for track in tracks])
    ax.set(xlabel=f"time after {zero:.6g} s (ms)", xlim=(0, (until - zero) * 1e3), title=_headline(columns))
    ax.set_ylim(max(len(tracks), 1) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    legend_below(ax)
    return ax


def _clipped(spans: Columns | One, window: Window | None) -> tuple[dict[str, Any], Any, Window]:
    """The columns with `left` and `width` of every span in a window, ms from its begin; which are seen; the window."""
    given = one_run(spans).pipeline if isinstance(spans, Run) or hasattr(spans, "run") else spans
    names = ("track", "start_s", "end_s", "micro_batch", "cause")
    columns = {name: np.asarray(given[name]) if len(given) else np.zeros(0) for name in names}
    columns |= {name: np.asarray(given[name]) for name in ("layer", "step") if name in given}
    begin, end = (columns[name].astype(float) for name in ("start_s", "end_s"))
    zero, until = window or (float(begin.min(initial=np.inf)), float(end.max(initial=-np.inf)))
    if not zero < until:
        zero, until = 0.0, 1e-3
    left, right = np.maximum(begin, zero), np.minimum(end, until)
    columns |= {"left": (left - zero) * 1e3, "width": (right - left) * 1e3}
    return columns, (end > zero) & (begin < until), (zero, until)


def _height(track: str) -> float:
    """Messages and NVLink are thinner than what computes."""
    return 0.42 if str(track).startswith("→") or str(track).endswith((" gather", " scatter")) else 0.78


def _headline(columns: Mapping[str, Any]) -> str:
    if not len(columns["track"]):
        return "Pipeline: no step was watched"
    if not {"layer", "step"} <= set(columns):
        return "Pipeline"
    return f"Pipeline in step {int(np.min(columns['step'])):,}: numbers are layers, hatched are bubbles"


def _number(ax: Axes, columns: Mapping[str, Any], rows: Any, chosen: Any) -> None:
    """Write the number of its layer on every span with room for it; layers count from 0."""
    if "layer" not in columns:
        return
    whole = float(columns["width"][chosen].max(initial=0.0) + columns["left"][chosen].max(initial=0.0))
    wide = chosen & (columns["width"] > NUMBERED * whole) & (columns["layer"] >= 0)
    for place in np.flatnonzero(wide & (_heights(columns) > 0.5)).tolist():
        at = columns["left"][place] + columns["width"][place] / 2
        shade = "black" if int(columns["micro_batch"][place]) % len(COLOURS) in DARK_ON else "white"
        ax.text(at, rows[place], f"{int(columns['layer'][place])}", ha="center", va="center", fontsize=7.5, color=shade)


DARK_ON: Final = frozenset({3, 4, 5})
"""Colours that black can be read on better than white."""


def _heights(columns: Mapping[str, Any]) -> Floats:
    return np.array([_height(track) for track in columns["track"].tolist()])


def _batch_look(micro_batch: int) -> dict[str, Any]:
    colour = COLOURS[int(micro_batch) % len(COLOURS)]
    return {"color": colour, "edgecolor": "white", "linewidth": 0.3, "label": f"micro-batch {micro_batch}"}


def _gap_look(cause: str) -> dict[str, Any]:
    label = cause.replace("_", " ")
    return {"color": "white", "edgecolor": "#999999", "linewidth": 0.0, "hatch": GAP_HATCHES[cause], "label": label}
