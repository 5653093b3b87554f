"""What later work holds against AFD, and where: against the best expert parallelism, the dead zone, whole servers."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import cells
import drawing
import pandas as pd
from cells import EP, EP8, GPUS, SERVER, WHOLE, afd, base
from claims import KNOWN, Claim

if TYPE_CHECKING:
    from afdsim.studies.pool import Pool

Row = dict[str, Any]

# what AFD gains over the best expert parallelism ---------------------------------------------------------------------

MODELS = ("step3", "deepseek-v3", "qwen3-235b")
CONTEXTS = (4096, 8192, 32768, 131072)


def one_gain(case: tuple[str, str, int]) -> list[Row]:
    """The best AFD and the best colocated EP on 64 GPUs."""
    model, gpu, context = case
    return [
        {"gpu": gpu, **row}
        for row in cells.planned({"model": model, "gpus": {gpu: WHOLE}, "context": context})
        if row["family"] in ("AFD", EP)
    ]


def gained(pool: Pool) -> pd.DataFrame:
    """Measure the most that 64 GPUs give either way."""
    made = pd.DataFrame([row for rows in pool.map(one_gain, list(product(MODELS, GPUS, CONTEXTS))) for row in rows])
    axes = ["model", "gpu", "context"]
    best = made[made["family"] == EP].set_index(axes)["rate"]
    keys = pd.MultiIndex.from_frame(made[axes])
    over = made["rate"].to_numpy() / best.reindex(keys).to_numpy() - 1.0
    return made.assign(over_ep=over, margin=pd.Series(-over).where(made["family"] == "AFD"))


def tell_gain(made: pd.DataFrame) -> str:
    """Return AFD's gain by model."""
    parts = made[made["family"] == "AFD"].groupby("model", sort=False)["over_ep"].agg(["min", "max"])
    return "AFD over EP: " + ", ".join(
        f"{name} {row['min']:+.0%} to {row['max']:+.0%}" for name, row in parts.iterrows()
    )


GAIN = Claim(
    name="gain",
    said="Against the best wide EP, AFD makes fewer tokens",
    source="FastAFD's published figures; arXiv 2602.09721",
    axes=("model", "gpu", "context"),
    rule=f"{WHOLE} GPUs of one kind, either side planned (`afdsim.plan`): EP makes over {KNOWN:.0%} more tokens",
    tie=KNOWN,
    measured=gained,
    drawn=drawing.gain,
    told=tell_gain,
)

# the dead zone -------------------------------------------------------------------------------------------------------

DEAD = {"deepseek-v3": 8, "step3": 3}
"""Experts that a token asks."""
COUNTS = {"deepseek-v3": (2, 4, 8, 16), "step3": (1, 2, 3, 6)}
"""FFN instances over which experts divide and in which they fit."""
FEEDING = (3, 5, 8)
"""Attention instances for each FFN instance."""
WIDEST = 64
"""Attention instances that are tried."""


def one_zone(case: tuple[str, int, int]) -> Row:
    """So many FFN instances of H800, fed by so many attention instances each; tokens go where their experts are."""
    model, ffn, feeding = case
    own = {"model": model, "ffn": ffn, "feeding": feeding, "ffn_mfu": 0.0}
    cell = {
        **afd("H800", ffn * feeding, ffn, EP8),
        "deployment.dispatch": "sparse",
        "deployment.shared_expert": "attention",
    }
    return own | (cells.tuned(base(model, 4096, **cell)) or {})


def zoned(pool: Pool) -> pd.DataFrame:
    """Measure how much of its peak the FFN reaches at best as instances are added."""
    places = ((model, ffn, each) for model in DEAD for ffn, each in product(COUNTS[model], FEEDING))
    tried = [(model, ffn, each) for model, ffn, each in places if ffn * each <= WIDEST]
    made = pd.DataFrame(pool.map(one_zone, tried))
    made = made.loc[made.groupby(["model", "ffn"], sort=False)["ffn_mfu"].idxmax()].reset_index(drop=True)
    before = made.groupby("model")["ffn_mfu"].shift()
    gain = made["ffn_mfu"] / before.where(before > 0) - 1.0
    return made.assign(gain=gain, margin=(KNOWN - gain).where(made["ffn"] <= made["model"].map(DEAD)))


def tell_zone(made: pd.DataFrame) -> str:
    """Return the best MFU by FFN instances."""
    parts = []
    for model, part in made.groupby("model", sort=False):
        parts.append(f"{model}: " + ", ".join(f"{row.ffn}F {row.ffn_mfu:.0%}" for row in part.itertuples()))
    return "best MFU of the FFN, " + "; ".join(parts)


DEAD_ZONE = Claim(
    name="dead_zone",
    said="Up to as many FFN instances as a token asks experts, more of them do not raise the FFN's MFU",
    source="arXiv 2602.09721",
    axes=("model", "ffn"),
    rule=f"H800, 4K, sparse dispatch: going to so many instances adds at most {KNOWN:.0%} of MFU",
    tie=0.0,
    measured=zoned,
    drawn=drawing.dead_zone,
    told=tell_zone,
)

# whole servers -------------------------------------------------------------------------------------------------------

SERVERS = (2, 3, 4, 5, 6, 8, 10)
GRAINED = (4096, 16384, 65536)


def one_grain(case: tuple[str, int, int]) -> list[Row]:
    """The most that a number of servers gives, as AFD and as EP."""
    gpu, context, servers = case
    asked = {"model": "step3", "gpus": {gpu: SERVER * servers}, "context": context}
    return [{"gpu": gpu, "servers": servers, **row} for row in cells.planned(asked) if row["family"] in ("AFD", EP)]


def grained(pool: Pool) -> pd.DataFrame:
    """Measure what is lost because instances are whole servers: against the best of all numbers of servers."""
    cases = list(product(GPUS, GRAINED, SERVERS))
    made = pd.DataFrame([row for rows in pool.map(one_grain, cases) for row in rows])
    each = made["rate"] / made["servers"] / SERVER
    lost = 1.0 - each / each.groupby([made["family"], made["gpu"], made["context"]]).transform("max")
    return made.assign(lost=lost, margin=(lost - KNOWN).where(made["family"] == "AFD"))


def tell_grain(made: pd.DataFrame) -> str:
    """Return the mean and the largest loss of either side."""
    parts = made.groupby("family", sort=False)["lost"].agg(["mean", "max"])
    return "lost to whole servers: " + ", ".join(
        f"{name} {row['mean']:.0%} on average, {row['max']:.0%} at most" for name, row in parts.iterrows()
    )


GRAIN = Claim(
    name="granularity",
    said="Whole servers cost AFD a good part of small clusters",
    source="arXiv 2602.09721; users of FastAFD",
    axes=("gpu", "context", "servers"),
    rule=f"Step-3 on so many servers, planned: AFD gives over {KNOWN:.0%} fewer tokens per GPU than on its best number",
    tie=0.0,
    measured=grained,
    drawn=drawing.granularity,
    told=tell_grain,
)

CLAIMS = (GAIN, DEAD_ZONE, GRAIN)
