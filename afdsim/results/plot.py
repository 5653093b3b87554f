"""Pictures of runs: every function takes a result or runs by name and returns the matplotlib Axes it drew on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np

from afdsim.engine.books import CAUSES
from afdsim.results import metrics
from afdsim.results.metrics import Floats, Run
from afdsim.results.plot_parts import COLOURS, colours, legend_below, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Simulated(Protocol):
    """A finished simulation; `afdsim.Result` is one."""

    @property
    def run(self) -> Run:
        """Its columns."""


One: TypeAlias = Run | Simulated
Runs: TypeAlias = One | Mapping[str, One | Sequence[One]]
"""One run, or runs by the name of their deployment; several runs of one deployment are its seeds."""

CAUSE_COLOURS: Final = {
    "busy": "#0072B2",
    "wait_peer": "#E69F00",
    "network": "#CC79A7",
    "imbalance": "#F0E442",
    "no_work": "#D9D9D9",
    "down": "#404040",
}
_TITLES: Final = {"tpot": "Time per output token", "ttft": "Time to first token"}
CAUSE_HATCHES: Final = {"wait_peer": "///", "network": "\\\\\\", "imbalance": "xxx"}


# latency ------------------------------------------------------------------------------------------------------------


def tpot_histogram(runs: Runs, ax: Axes | None = None, *, bins: metrics.Bins = "auto") -> Axes:
    """Draw the share of requests by TPOT, with p50, p99 and the SLA; one that is far off is in the legend only."""
    return _histogram(runs, "tpot", ax, bins=bins)


def ttft_histogram(runs: Runs, ax: Axes | None = None, *, bins: metrics.Bins = "auto") -> Axes:
    """Draw the share of requests by TTFT, with p50, p99 and the SLA."""
    return _histogram(runs, "ttft", ax, bins=bins)


def _histogram(runs: Runs, metric: str, ax: Axes | None, *, bins: metrics.Bins) -> Axes:
    ax = new_axes(ax)
    samples = {name: np.concatenate(seeds) for name, seeds in _spans_ms(runs, metric).items()}
    every, limits = np.concatenate(list(samples.values())), _limits_ms(runs, metric)
    edges, _ = metrics.hist(every[every <= _reach(every)], bins=bins)
    for limit in limits:
        edges = _parted(edges, limit)
    _draw_shares(ax, samples, edges)
    for name, colour in colours(samples).items():
        _mark_percentiles(ax, samples[name], colour, not name)
    ax.set(xlabel=f"{metric.upper()} of a request (ms)", ylabel="requests (%)", title=_TITLES[metric])
    ax.margins(y=0.12)
    _finish(ax, every, limits)
    return ax


def itl_histogram(run: One, ax: Axes | None = None, *, bins: metrics.Bins = 40) -> Axes:
    """Draw the share of all gaps between two tokens by length: jitter that a request's TPOT averages away."""
    ax = new_axes(ax)
    gaps = metrics.latencies(one_run(run))["itl"]
    edges, counts = metrics.hist(1e3 * gaps.values, gaps.weights, bins)
    ax.stairs(100 * counts / max(counts.sum(), 1.0), edges, fill=True, color=COLOURS[0], alpha=0.85)
    if gaps.count:
        for name, style, value in zip(("p50", "p99"), (":", "--"), metrics.percentiles(gaps, (50, 99)), strict=True):
            ax.axvline(1e3 * value, color="black", linestyle=style, linewidth=1.2)
            _mark_label(ax, f"{name} {1e3 * value:.4g} ms", style)
    ax.set(xlabel="gap between two tokens (ms)", ylabel="gaps (%)", title="Inter-token latency")
    legend_below(ax)
    return ax


def _draw_shares(ax: Axes, samples: Mapping[str, Floats], edges: Floats) -> None:
    for name, colour in colours(samples).items():
        share = 100 * np.histogram(samples[name], edges)[0] / max(len(samples[name]), 1)
        ax.stairs(share, edges, fill=True, color=colour, alpha=0.85 if len(samples) == 1 else 0.35)
        ax.stairs(share, edges, color=colour, label=_legend(name, samples[name]))


def tpot_cdf(runs: Runs, ax: Axes | None = None, *, tail: bool = False) -> Axes:
    """Draw the share of requests at or below every TPOT, a band over seeds; `tail` draws those above, on a log axis."""
    return _cdf(runs, "tpot", ax, tail=tail)


def ttft_cdf(runs: Runs, ax: Axes | None = None, *, tail: bool = False) -> Axes:
    """Draw the share of requests at or below every TTFT, a band over seeds; `tail` draws those above, on a log axis."""
    return _cdf(runs, "ttft", ax, tail=tail)


def _cdf(runs: Runs, metric: str, ax: Axes | None, *, tail: bool) -> Axes:
    ax = new_axes(ax)
    samples, limits = _spans_ms(runs, metric), _limits_ms(runs, metric)
    every = np.concatenate([values for seeds in samples.values() for values in seeds])
    for axes in (ax, None if tail else _inset(ax, every, min(limits, default=None))):
        if axes is not None:
            _draw_cumulative(axes, samples, tail)
            axes.set(yscale="log" if tail else "linear", ylim=(None, 130) if tail else (0, 103))
    for name, colour in colours(samples).items():
        _mark_percentiles(ax, np.concatenate(samples[name]), colour, not name)
    ylabel = "requests above (%)" if tail else "requests at or below (%)"
    ax.set(xlabel=f"{metric.upper()} of a request (ms)", ylabel=ylabel, title=_TITLES[metric])
    _finish(ax, every, limits, cut=not tail, whole=not tail)
    return ax


def _draw_cumulative(ax: Axes, samples: Mapping[str, Sequence[Floats]], tail: bool) -> None:
    for name, colour in colours(samples).items():
        pooled = np.sort(np.concatenate(samples[name]))
        ax.step(pooled, _shares(pooled, tail), where="post", color=colour, label=_legend(name, pooled))
        filled = [values for values in samples[name] if len(values)]
        if len(filled) > 1:
            _seed_band(ax, filled, colour, tail)


def throughput(run: One, ax: Axes | None = None, *, bins: int = 100) -> Axes:
    """Draw output tokens per second over simulated time, the window of the metrics shaded."""
    ax = new_axes(ax)
    run = one_run(run)
    times = np.asarray(run.tokens["t_s"], float)
    whole = (min(0.0, run.window[0]), max(float(times.max(initial=0.0)), run.window[1]))
    edges, rates = metrics.throughput_over_time(run.tokens, whole, bins)
    ax.stairs(rates / 1e3, edges, color=COLOURS[0], linewidth=1.2)
    mean = metrics.output_throughput(run.tokens, run.window) / 1e3
    ax.axvspan(*run.window, color="#F2F2F2", zorder=0, label="window of the metrics")
    ax.hlines(mean, *run.window, color="black", linewidth=1, linestyle="--", label=f"mean {mean:,.1f} k tok/s")
    ax.set(xlabel="simulated time (s)", ylabel="output (1,000 tokens/s)", title="Throughput", ylim=(0, None))
    ax.margins(x=0)
    legend_below(ax)
    return ax


# where the time went ------------------------------------------------------------------------------------------------


def causes(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw the GPU time of every pool by cause: bars that add up to 100 %; bubbles are hatched."""
    bars = [
        (f"{name}\n{pool}".strip(), shares)
        for name, seeds in named(runs).items()
        for pool, shares in metrics.causes(_joined(seeds)).items()
    ]
    ax = new_axes(ax, height=1.7 + 0.55 * len(bars))
    left = np.zeros(len(bars))
    for cause in CAUSES:
        width = np.array([100 * shares[cause] for _, shares in bars])
        drawn = ax.barh(
            range(len(bars)), width, left=left, height=0.62, color=CAUSE_COLOURS[cause],
            hatch=CAUSE_HATCHES.get(cause), edgecolor="white", linewidth=0.8, label=cause.replace("_", " "),
        )  # fmt: skip
        texts = [f"{share:.0f}%" if share >= 6 else "" for share in width]
        ax.bar_label(drawn, texts, label_type="center", color=_ink(cause), fontsize=9, bbox=_plate(cause))
        left += width
    ax.set_yticks(range(len(bars)), [label for label, _ in bars])
    ax.set(xlabel="GPU time (%)", xlim=(0, 100), title="Where the GPU time went")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    legend_below(ax)
    return ax


# runs and their data --------------------------------------------------------------------------------------------------


def one_run(one: One) -> Run:
    """Return the columns of one run."""
    return one if isinstance(one, Run) else one.run


def named(runs: Runs) -> dict[str, list[Run]]:
    """Return the seeds of every deployment by its name; one run alone has none."""
    if not isinstance(runs, Mapping):
        return {"": [one_run(runs)]}
    return {name: [one_run(one) for one in _several(each)] for name, each in runs.items()}


def _several(each: One | Sequence[One]) -> Sequence[One]:
    return each if isinstance(each, Sequence) else [each]


def _spans_ms(runs: Runs, metric: str) -> dict[str, list[Floats]]:
    """Return the sorted TPOTs, or TTFTs, of every seed of every deployment; none where there is no prefill."""
    none = metrics.Samples(np.zeros(0))
    return {
        name: [np.sort(1e3 * metrics.latencies(run).get(metric, none).values) for run in each]
        for name, each in named(runs).items()
    }


def _joined(seeds: Sequence[Run]) -> dict[str, Any]:
    return {name: np.concatenate([np.asarray(run.gpus[name]) for run in seeds]) for name in ("pool", *CAUSES)}


def _limits_ms(runs: Runs, metric: str) -> dict[float, list[str]]:
    """Return the limits of the runs, the strictest first, with the names of those that have each."""
    found: dict[float, list[str]] = {}
    for name, seeds in named(runs).items():
        for limit in {1e3 * run.sla.limits[metric] for run in seeds if run.sla and metric in run.sla.limits}:
            found.setdefault(limit, []).append(name)
    return dict(sorted(found.items()))


# figure parts -------------------------------------------------------------------------------------------------------


def _legend(name: str, values: Floats) -> str | None:
    """Name a run of several with its percentiles; a single one has them on its marks."""
    if not len(values):
        return f"{name}: none" if name else "no request"
    known = ", ".join(f"{percent} {value:.4g}" for percent, _, value in _known(values))
    return None if not name else f"{name}: {known} ms" if known else name


def _known(values: Floats) -> list[tuple[str, str, float]]:
    """Return p50 and p99 with the style of their marks, each where it has enough samples to be told."""
    few = ((percent, style) for percent, style in ((50, ":"), (99, "--")) if metrics.enough(len(values), percent))
    return [(f"p{percent}", style, float(np.percentile(values, percent))) for percent, style in few]


def _mark_percentiles(ax: Axes, values: Floats, colour: str, alone: bool) -> None:
    """Mark p50 and p99; the legend says which is which, and of a single run also where."""
    for name, style, value in _known(values):
        ax.axvline(value, color="black" if alone else colour, linestyle=style, linewidth=1.2)
        _mark_label(ax, f"{name} {value:.4g} ms" if alone else name, style)


def _mark_label(ax: Axes, label: str, style: str) -> None:
    ax.plot([], [], color="#404040", linestyle=style, linewidth=1.2, label=label)


def _finish(
    ax: Axes, values: Floats, limits: Mapping[float, Sequence[str]], *, cut: bool = True, whole: bool = False
) -> None:
    """Draw the SLA, or whose it is where there are several, and the legend; cut the axis before a few stragglers.

    Without `whole` a limit that would make a sliver of the values is told in the legend, not drawn.
    """
    drawn = [limit for limit in limits if whole or not far(values, limit)]
    for limit, names in limits.items():
        whose = f" of {names[0] if len(names) == 1 else f'{len(names)} runs'}" if len(limits) > 1 else ""
        look: dict[str, Any] = {"color": "#B00020", "linewidth": 1.6}
        if limit in drawn:
            ax.axvline(limit, label=f"SLA {limit:g} ms{whose}", **look)
        else:
            ax.plot([], [], label=f"SLA {limit:g} ms{whose}, far off", **look)
    reach = _reach(values)
    beyond = int(np.count_nonzero(values > reach))
    if cut and beyond:
        ax.set_xlim(right=max(reach, 1.02 * max(drawn, default=0.0)))
        ax.set_xlabel(f"{ax.get_xlabel()}; {beyond:,} beyond, up to {values.max():,.1f} ms")
    legend_below(ax)


def _parted(edges: Floats, limit: float | None) -> Floats:
    """Return edges of equal bins, moved so that a limit among them is one: no bin is on both sides of it."""
    width = edges[1] - edges[0]
    if limit is None or not edges[0] < limit < edges[-1] or not np.allclose(np.diff(edges), width):
        return edges
    low, high = (int(np.ceil(round(abs(limit - end) / width, 9))) for end in (edges[0], edges[-1]))
    return np.asarray(limit + width * np.arange(-low, high + 1))


def far(values: Floats, limit: float | None) -> bool:
    """Whether a limit is so far off that the values would be a sliver beside it."""
    if limit is None or not len(values):
        return False
    low, high = float(values.min()), _reach(values)
    return high - low <= 0.12 * (max(high, limit) - min(low, limit))


def _inset(ax: Axes, values: Floats, limit: float | None) -> Axes | None:
    """Return axes for a closer look where a limit is far off."""
    if limit is None or not far(values, limit):
        return None
    inset = ax.inset_axes((0.32 if limit > _reach(values) else 0.14, 0.27, 0.5, 0.58))
    inset.set_title("the same, closer", fontsize=9)
    inset.tick_params(labelsize=8)
    inset.locator_params(axis="x", nbins=5)
    return inset


def _reach(values: Floats) -> float:
    """Return up to where an axis shows the values: all of them, or p99.5 and a little where a few lie far out."""
    if not len(values):
        return 0.0
    middle, high = np.percentile(values, (50, 99.5)).tolist()
    reach = high + 0.25 * (high - middle)
    return float(values.max()) if values.max() <= reach + (high - middle) else float(reach)


def _shares(ordered: Floats, tail: bool) -> Floats:
    """Percent of the samples at or below each, or above it; the last one of a tail is not drawn at zero."""
    below = np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    return 100 * np.where(below < 1, 1 - below, np.nan) if tail else 100 * below


def _seed_band(ax: Axes, seeds: Sequence[Floats], colour: str, tail: bool) -> None:
    grid = np.linspace(min(each[0] for each in seeds), max(each[-1] for each in seeds), 400)
    below = np.array([np.searchsorted(each, grid, side="right") / len(each) for each in seeds])
    share = 100 * (1 - below if tail else below)
    ax.fill_between(grid, share.min(axis=0), share.max(axis=0), color=colour, alpha=0.25, linewidth=0)


def _ink(cause: str) -> str:
    return "white" if cause in {"busy", "down"} else "black"


def _plate(cause: str) -> dict[str, Any]:
    """Put a plain plate behind a number that would stand on hatching."""
    return {"facecolor": CAUSE_COLOURS[cause], "edgecolor": "none", "pad": 1.2}
