"""TGS against the rate of the NICs and the latency of the path: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv`, `fabrics.csv`, `knees.csv` and `budget.png`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import afdsim

HERE = Path(__file__).parent
GPUS = ("H800", "H200")
M = "deployment.num_microbatches"
RATE, LATENCY = "network.link.bandwidth", "network.link.latency"
RATES = (100, 150, 200, 250, 300, 400, 500, 600, 800)
"""Gb/s of a NIC."""
LATENCIES = (2, 5, 9, 15, 20, 35, 50, 70, 100)
"""Microseconds of the path, one way."""
FREE = (100_000, 0)
"""A network whose wires and path take no time: what is lost is lost against it."""
USUAL = (400, 9)
LOST = (1, 5)
"""Per cent of TGS that is lost at a knee."""
OUTPUT = 64
"""Output tokens: short ones, so that the warm-up is; the mean context is what counts."""

FABRICS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "uplinks 1:1": {"network.uplinks": {"oversubscription": 1}},
    "uplinks 2:1": {"network.uplinks": {"oversubscription": 2}},
    "uplinks 4:1": {"network.uplinks": {"oversubscription": 4}},
    "uplinks 8:1": {"network.uplinks": {"oversubscription": 8}},
    "half the NICs": {"network.nics_per_instance": {"attention": 4, "ffn": 4}},
    "half the NICs of FFN": {"network.nics_per_instance": {"ffn": 4}},
    "one NIC at half its rate": {"network.degraded": {"ffn[1].nic[3]": 0.5}},
    "one NIC at a quarter": {"network.degraded": {"ffn[1].nic[3]": 0.25}},
    "queue pairs on one port of two": {"network.link.ports": 2, "network.link.split": False},
}
DEFAULTS = {
    "network.uplinks": None,
    "network.nics_per_instance": None,
    "network.degraded": {},
    "network.link.ports": 1,
    "network.link.split": True,
}


def base() -> afdsim.Scenario:
    """Return the main scenario at its peak, on ports that queue pairs share: no jitter, equal lengths."""
    plain = {"event": 0, "step": 0, "link": 0, "experts": {"law": "uniform"}}
    return afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "network_budget",
            "network": {"type": "shared", "link": {"bandwidth": f"{USUAL[0]}Gbps", "latency": f"{USUAL[1]}us"}},
            "variation": plain,
            "workload.input_len": 4096 - OUTPUT // 2,
            "workload.output_len": OUTPUT,
            "workload.num_requests": 3072,
        }
    )


def swept(workers: int) -> pd.DataFrame:
    """Simulate every rate and latency with three and four micro-batches."""
    frame = afdsim.sweep(
        base(),
        over={
            M: [3, 4],
            RATE: [f"{rate}Gbps" for rate in (*RATES, FREE[0])],
            LATENCY: [f"{latency}us" for latency in (FREE[1], *LATENCIES)],
        },
        zip=_gpus(),
        workers=workers,
    )
    return _told(frame).rename(columns={RATE: "gbps", LATENCY: "us"})[["gpu", "m", "gbps", "us", "tgs", "mean_tpot_ms"]]


def fabrics(workers: int) -> pd.DataFrame:
    """Simulate what may lie between the pools, at the usual rate and latency."""
    together = [_gpus(), {path: [own.get(path, plain) for own in FABRICS.values()] for path, plain in DEFAULTS.items()}]
    frame = _told(afdsim.sweep(base(), over={M: [3, 4]}, zip=together, workers=workers))
    frame["fabric"] = list(FABRICS) * (len(frame) // len(FABRICS))
    whole = frame.groupby(["gpu", "m"])["tgs"].transform("first")
    return frame.assign(lost=100 * (1 - frame["tgs"] / whole))[["gpu", "m", "fabric", "tgs", "mean_tpot_ms", "lost"]]


def _gpus() -> dict[str, list[str]]:
    return {f"deployment.{side}.gpu": list(GPUS) for side in ("attention", "ffn")}


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"deployment.ffn.gpu": "gpu", M: "m"})


def surface(frame: pd.DataFrame, gpu: str, m: int) -> pd.DataFrame:
    """Return TGS by latency (rows) and rate (columns)."""
    own = frame[(frame["gpu"] == gpu) & (frame["m"] == m)]
    return own.pivot_table(index="us", columns="gbps", values="tgs")


def knees(frame: pd.DataFrame) -> pd.DataFrame:
    """Return where TGS has lost 1 and 5 % to the rate alone, and to the latency alone."""
    rows = []
    for gpu in GPUS:
        for m in (3, 4):
            tgs = surface(frame, gpu, m)
            by_rate, by_latency = tgs.loc[USUAL[1]], tgs[USUAL[0]]
            lost = (100 * (1 - by_rate / by_rate[FREE[0]]))[list(RATES)], 100 * (1 - by_latency / by_latency[FREE[1]])
            rows += [
                {"gpu": gpu, "m": m, "lost": each, "gbps": _rate(lost[0], each), "us": _latency(lost[1], each)}
                for each in LOST
            ]
    return pd.DataFrame(rows)


def _rate(lost: pd.Series, limit: float) -> str:
    """Return the lowest rate that loses no more than `limit`, between the rates on a logarithmic scale."""
    if lost.iloc[-1] > limit:
        return f"> {RATES[-1]}"
    if lost.iloc[0] <= limit:
        return f"< {RATES[0]}"
    return f"{np.exp(np.interp(-limit, -lost.to_numpy(), np.log(lost.index.to_numpy(float)))):.0f}"


def _latency(lost: pd.Series, limit: float) -> str:
    """Return the highest latency that loses no more than `limit`, between the latencies."""
    if lost.iloc[-1] <= limit:
        return f"> {LATENCIES[-1]}"
    return f"{np.interp(limit, lost.to_numpy(), lost.index.to_numpy(float)):.1f}"


def drawn(frame: pd.DataFrame, cables: pd.DataFrame) -> Figure:
    """Draw what is lost over rate and latency, a panel for each GPU, and what fabrics cost."""
    figure = Figure(figsize=(17, 5.4), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for ax, gpu in zip(axes, GPUS, strict=False):
        _contours(ax, frame, gpu)
    _bars(axes[2], cables)
    figure.suptitle(
        "Step-3 2A2F, 4K of context, 6,144 sequences: % of tokens/s per GPU that the network costs with three "
        "micro-batches; shaded: four are better"
    )
    figure.get_layout_engine().set(wspace=0.05)
    return figure


def _contours(ax: Axes, frame: pd.DataFrame, gpu: str) -> None:
    """Draw lines of equal loss with three micro-batches, and where four are better."""
    three, four = (surface(frame, gpu, m) for m in (3, 4))
    seen = three.loc[list(LATENCIES), list(RATES)]
    lost = 100 * (1 - seen / three.loc[FREE[1], FREE[0]])
    lines = ax.contour(RATES, LATENCIES, lost, levels=[1, 5, 10, 15, 20, 30, 40, 50], cmap="viridis_r")
    for text in ax.clabel(lines, fmt="%g%%"):
        text.set_clip_on(False)
    gained = four.loc[list(LATENCIES), list(RATES)] - seen
    ax.contourf(RATES, LATENCIES, gained, levels=[0, np.inf], colors=["#D55E00"], alpha=0.12)
    ax.plot(*USUAL, "k+", markersize=12, markeredgewidth=2)
    ax.set(xscale="log", yscale="log", xlabel="NIC, Gb/s", ylabel="path one way, us")
    ax.set_xticks(RATES, [str(rate) for rate in RATES])
    ax.set_yticks(LATENCIES, [str(latency) for latency in LATENCIES])
    ax.minorticks_off()
    ax.set_title(gpu)


def _bars(ax: Axes, cables: pd.DataFrame) -> None:
    """Draw what every fabric costs at the usual rate and latency."""
    names = [name for name in FABRICS if name != "as it is"]
    colours = afdsim.plot.colours(GPUS)
    bars = [(gpu, m) for gpu in GPUS for m in (3, 4)]
    for place, (gpu, m) in enumerate(bars):
        own = cables[(cables["gpu"] == gpu) & (cables["m"] == m)].set_index("fabric")["lost"]
        style = {"color": colours[gpu], "alpha": 1.0 if m == 3 else 0.4}
        at = np.arange(len(names)) + 0.2 * (place - 1.5)
        ax.barh(at, own[names], 0.18, label=f"{gpu}, {'three' if m == 3 else 'four'} micro-batches", **style)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("% lost against the same cluster as it is")
    ax.set_title(f"at {USUAL[0]} Gb/s and {USUAL[1]} us")
    ax.grid(axis="x", color="#E6E6E6")
    ax.set_axisbelow(True)
    ax.legend(frameon=False, loc="upper right")


def main() -> None:
    """Write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    frame, cables = swept(given.workers), fabrics(given.workers)
    frame.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    cables.to_csv(given.output / "fabrics.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(frame, cables), given.output / "budget.png", dpi=90)
    limits = knees(frame)
    limits.to_csv(given.output / "knees.csv", index=False)
    print(limits.to_string(index=False))
    wide = cables.pivot_table(index="fabric", columns=["gpu", "m"], values=["tgs", "lost"], sort=False)
    print(wide.to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
