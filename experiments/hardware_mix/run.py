"""Attention on H800, H20, A800, L20 or H200, the FFN on H800: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv` and `mix.png`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import afdsim
from afdsim.studies.pool import Pool

HERE = Path(__file__).parent
LIMIT = 50.0
"""Milliseconds per token, mean: the SLA of the base."""

BASE = "H800"
"""The GPU of FFN instances, and of the colocated rival."""
PRICES = {BASE: 2.00, "H20": 0.80, "A800": 0.75, "L20": 0.60, "H200": 3.50}
"""USD per GPU and hour of the GPUs of attention. Behind the Step-3 paper's table 6 are those of H800, H20 and A800;
L20's is a guess, and H200's that of the main scenario: both are assumed."""
NONE = "colocated"

ATTENTION, FFN = (1, 2, 3, 4, 6, 8), (1, 2)
"""Instances."""
CONTEXT, OUTPUT = 8192, 64
SEQS = 48
"""Sequences per attention GPU with which the search begins."""
PRICE = "usd_per_1m_output_tokens"


class Place(NamedTuple):
    """A deployment that is tried."""

    attention: str
    """GPU."""
    deployment: str
    instances: int
    """Of attention."""
    gpus: int
    scenario: afdsim.Scenario


def afd() -> Iterator[Place]:
    """The main scenario at 8K with equal lengths, FFN instances cut by experts; every GPU and count of attention."""
    base = afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "hardware_mix",
            "cost": {name: f"{price} USD/h" for name, price in PRICES.items()},
            "deployment.attention.parallelism": {"dp": 8, "tp": 1},
            "deployment.ffn.gpu": BASE,
            "deployment.ffn.parallelism": {"ep": 8, "tp": 1},
            "deployment.max_num_seqs": SEQS,
            "network.link.bandwidth": None,  # every GPU has the NIC of its servers
            "workload.input_len": CONTEXT - OUTPUT // 2,
            "workload.output_len": OUTPUT,
        }
    )
    for gpu, attention, ffn in product(PRICES, ATTENTION, FFN):
        counts = {"deployment.attention.instances": attention, "deployment.ffn.instances": ffn}
        own = base.varied({"deployment.attention.gpu": gpu, **counts})
        yield Place(gpu, f"{attention}A{ffn}F", attention, 8 * (attention + ffn), own)


def colocated(like: afdsim.Scenario) -> Place:
    """The rival on the base GPU: DP48 + EP48, an expert on every GPU."""
    deployment = {"type": "colocated", "gpu": BASE, "instances": 6, "parallelism": {"dp": 8, "tp": 1}}
    own = like.varied({"deployment": {**deployment, "max_num_seqs": SEQS}, "network": {}})
    return Place(NONE, "EP48", 0, 48, own)


def measured(workers: int) -> pd.DataFrame:
    """Every deployment with its best batch and overlap under the limit, if it meets it; last the rival."""
    places = list(afd())
    places.append(colocated(places[0].scenario))
    with Pool(workers) as pool:
        tuned = list(pool.map(afdsim.tune, [each.scenario for each in places]))
    return pd.DataFrame([row(*each) for each in zip(places, tuned, strict=True) if each[1].best.tpot_ms <= LIMIT])


def row(place: Place, tuned: Any) -> dict[str, Any]:
    """What was found of a deployment."""
    asked, own = tuned.scenario.deployment, {**place._asdict()}
    del own["scenario"]
    return {
        **own,
        "num_microbatches": asked.num_microbatches if asked.type == "afd" else 1,
        "max_num_seqs": asked.max_num_seqs,
        "tgs": tuned.best.tgs,
        "mean_tpot_ms": tuned.best.tpot_ms,
        PRICE: usd(place, PRICES, tuned.best.tgs),
    }


def usd(row: Any, prices: dict[str, float], tgs: float) -> float:
    """Price of 1M output tokens of a place or a row of the table."""
    share = 8 * row.instances / row.gpus
    hourly = share * prices.get(row.attention, 0.0) + (1 - share) * prices[BASE]
    return hourly / (tgs * 3600) * 1e6


def cheapest(made: pd.DataFrame, over: list[str]) -> pd.DataFrame:
    """The rows of least price, one for each value of the columns `over`."""
    return made.loc[made.groupby(over, sort=False)[PRICE].idxmin()]


def breaks_even(made: pd.DataFrame, gpu: str) -> float:
    """USD per hour of the base GPU above which attention on `gpu` makes cheaper tokens, each at its best; up to 100."""
    low, high = 0.0, 100.0
    while high - low > 0.001:
        prices = {**PRICES, BASE: (low + high) / 2}
        other, same = (
            min(usd(each, prices, each.tgs) for each in made[made["attention"] == name].itertuples())
            for name in (gpu, BASE)
        )
        low, high = (low, prices[BASE]) if other < same else (prices[BASE], high)
    return high


def drawn(made: pd.DataFrame) -> Figure:
    """Draw TGS and cost against attention instances, a colour for each attention GPU."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    colours = afdsim.plot.colours(PRICES)
    panels = {"tgs": "output tokens/s per GPU (all GPUs)", PRICE: "USD per 1M output tokens"}
    best = cheapest(made, ["attention", "instances"]).set_index("attention")
    for ax, (column, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for gpu in PRICES:
            part = best.loc[gpu]
            ax.plot(part["instances"], part[column], "o-", color=colours[gpu], label=f"attention on {gpu}")
        ax.axhline(best.loc[NONE, column], color="#666666", linewidth=1.6, label=f"EP48 on {BASE}")
        ax.set(xlabel="attention instances", ylabel=label, ylim=(0, None))
        ax.set_xticks(ATTENTION)
        ax.grid(color="#E6E6E6")
    figure.axes[1].set(ylim=(0, 0.8), title=f"L20: {best.loc['L20', PRICE].min():.2f} USD at best")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"FFN on 8 or 16 {BASE} (the cheaper), 8K context, best batch with mean TPOT <= {LIMIT:g} ms")
    return figure


def main() -> None:
    """Write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    made = measured(given.workers)
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "mix.png", dpi=90)
    for shown in (made, cheapest(made, ["attention"])):
        print(shown.to_string(index=False, float_format="{:.4g}".format), end="\n\n")
    for gpu in list(PRICES)[1:]:
        price = breaks_even(made, gpu)
        above = f"where {BASE} costs over {price:.2f} USD/h" if price < 99 else f"at no price of {BASE}"
        print(f"attention on {gpu} at {PRICES[gpu]:.2f} USD/h pays {above}")


if __name__ == "__main__":
    main()
