"""Pictures of README and documentation, drawn from runs: `python docs/pictures.py [-o FOLDER]`; `make pictures`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import afdsim
from afdsim.results.plot_plan import capacity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
ATTENTION, FFN, WIRE = "#0072B2", "#D55E00", "#555555"


def main() -> None:
    """Draw every picture anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    folder = parser.parse_args().output
    afdsim.plot.save(pipeline(), folder / "pipeline.svg")
    afdsim.plot.save(cell(), folder / "cell.svg")
    afdsim.plot.save(gaps(), folder / "step3_2a2f_4k.png")
    afdsim.plot.save(carried(), folder / "capacity.png")
    afdsim.plot.save(planned(), folder / "planning.png")


def pipeline() -> Axes:
    """Three layers of a step of the main scenario: who works on which micro-batch, and why others wait."""
    scenario = afdsim.load("step3_2a2f_4k").varied({"workload.num_requests": 6144})
    columns, window = afdsim.timeline.record(scenario, (0.0, 0.2)).pipeline()
    ax = afdsim.plot.gantt(columns, window=window)
    ax.set(title="Three layers of one step, 2A2F: attention and FFN of one instance, and the way between")
    return ax


def gaps() -> Axes:
    """Every gap between two tokens of the main scenario."""
    return afdsim.simulate("step3_2a2f_4k").plot.itl_histogram()


def carried() -> Axes:
    """What a search for capacity saw."""
    return capacity(afdsim.capacity("step3_poisson").frame())


def planned() -> Axes:
    """Every layout of a plan, and what was tried of it."""
    gpus, tokens = {"H800": 64, "H20": 64}, 8192
    return afdsim.plot.plan(afdsim.plan("step3", gpus=gpus, context=tokens, sla="50ms").frame())


def cell() -> Axes:
    """Who sends to whom in 2A2F: every attention instance to every FFN instance, GPU i to GPU i, and back."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, Rectangle

    ax = Figure(figsize=(9.0, 4.3), layout="constrained").subplots()
    ax.set(xlim=(0, 18), ylim=(0, 8.6))
    ax.set_axis_off()
    for name, x, y, colour, inside in (
        ("attention[0]", 0.4, 4.6, ATTENTION, "8 GPUs, 8 ranks: own requests,\nown KV cache; 3 micro-batches"),
        ("attention[1]", 0.4, 0.4, ATTENTION, "8 GPUs, 8 ranks: own requests,\nown KV cache; 3 micro-batches"),
        ("ffn[0]", 12.2, 4.6, FFN, "8 GPUs: half of the experts\n(or half of every width)"),
        ("ffn[1]", 12.2, 0.4, FFN, "8 GPUs: the other half"),
    ):
        ax.add_patch(FancyBboxPatch((x, y), 5.4, 3.0, boxstyle="round,pad=0.1", fc="white", ec=colour, lw=1.6))
        ax.text(x + 2.7, y + 2.55, name, ha="center", va="center", weight="bold", color=colour)
        ax.text(x + 2.7, y + 1.65, inside, ha="center", va="center", fontsize=8.5)
        for nic in range(8):
            ax.add_patch(Rectangle((x + 0.25 + 0.65 * nic, y + 0.15), 0.4, 0.4, fc=colour, ec="none"))
        ax.text(x + 2.7, y + 0.85, "NICs, one per GPU", ha="center", va="center", fontsize=7.5)
    for start in (6.3, 2.1):
        for end in (6.3, 2.1):
            _arrow(ax, (6.0, start + 0.15), (12.0, end + 0.15), "-|>")
            _arrow(ax, (12.0, end - 0.15), (6.0, start - 0.15), "-|>", dashed=True)
    ax.text(9.0, 8.3, "dispatch: activations, scales, expert ids (solid)", ha="center", fontsize=8.5)
    ax.text(9.0, 0.15, "combine: BF16 results (dashed)", ha="center", fontsize=8.5)
    return ax


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], style: str, *, dashed: bool = False) -> None:
    line = (0, (4, 3)) if dashed else "solid"
    ax.annotate("", end, start, arrowprops={"arrowstyle": style, "color": WIRE, "linestyle": line, "linewidth": 1.1})


if __name__ == "__main__":
    main()
