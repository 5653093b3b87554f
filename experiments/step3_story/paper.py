"""Claims of the Step-3 paper (arXiv 2507.19427), each tried where it was made and around."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cells
import drawing
import pandas as pd
from cells import EP8, INSIDE, TP8, afd, base, colocated
from claims import BUSY, KNOWN, Claim

from afdsim.catalog import entries as catalog
from afdsim.cost import theory

if TYPE_CHECKING:
    from afdsim.studies.pool import Pool

MIXED = "AFD on two kinds of GPU"
HOPPER = ("H800", "H100", "H200")
Row = dict[str, Any]

# three micro-batches hide the network --------------------------------------------------------------------------------

PUBLISHED = {"2A2F 4K": (2, 4096, 384), "4A2F 8K": (4, 8192, 192)}
"""Attention instances, context and sequences of an attention GPU of the FP8 deployments that the paper measured."""


def one_overlap(case: tuple[str, str, str, int]) -> Row:
    """A published deployment with another number of micro-batches."""
    gpu, inside, name, microbatches = case
    instances, context, sequences = PUBLISHED[name]
    own = {"deployment.max_num_seqs": sequences, "deployment.num_microbatches": microbatches}
    found = cells.measured(base("step3", context, **afd(gpu, instances, 2, inside), **cells.CALM, **own))
    return dict(zip(("gpu", "inside", "deployment", "microbatches"), case, strict=True)) | found


def overlapped(pool: Pool) -> pd.DataFrame:
    """Measure both deployments with one to four micro-batches; the claim is about three."""
    made = pd.DataFrame(pool.map(one_overlap, list(product(HOPPER, INSIDE, PUBLISHED, (1, 2, 3, 4)))))
    busiest = made[["attention_busy", "ffn_busy"]].max(axis=1)
    return made.assign(busiest=busiest, margin=(busiest - BUSY).where(made["microbatches"] == 3))


def tell_overlap(made: pd.DataFrame) -> str:
    """Return the share of time that the busier side computes, with one and with three."""
    means = made.groupby("microbatches")["busiest"].mean()
    three = made.loc[made["margin"].notna(), "busiest"]
    return (
        f"the busier side computes {means[1]:.0%} of the time with one micro-batch and {three.min():.0%} to "
        f"{three.max():.0%} with three"
    )


OVERLAP = Claim(
    name="overlap",
    said="Three micro-batches hide the network behind attention and FFN",
    source="sections 3 and 7.1, figure 7",
    axes=("gpu", "inside", "deployment"),
    rule=f"the busier side computes at least {BUSY:.0%} of the time with three micro-batches of the published batch",
    tie=0.01,
    measured=overlapped,
    drawn=drawing.overlap,
    told=tell_overlap,
)

# a deployment of 32 GPUs is enough -----------------------------------------------------------------------------------

SIZES = (8, 16, 32, 64, 128, 256, 320)
SMALL = 32
LARGE = 128


def one_size(case: tuple[str, str, int]) -> Row:
    """A colocated group at its best."""
    model, gpu, gpus = case
    found = cells.tuned(base(model, 4096, **colocated(model, gpu, gpus, 4096)))
    return {"model": model, "gpu": gpu, "side": "EP", "gpus": gpus, **(found or {"tgs": 0.0})}


def one_small(case: tuple[str, str]) -> Row:
    """The best AFD deployment of at most 32 GPUs."""
    model, gpu = case
    rows = cells.planned({"model": model, "gpus": {gpu: SMALL}, "context": 4096, "objective": "tgs"})
    best = next((row for row in rows if row["family"] == "AFD"), None)
    own = {"model": model, "gpu": gpu, "side": "AFD", "gpus": SMALL, "tgs": 0.0}
    return own if best is None else {**own, "tgs": best["tgs"], "gpus": best["used"], "deployment": best["deployment"]}


def scaled(pool: Pool) -> pd.DataFrame:
    """Measure AFD on at most 32 GPUs, and colocated groups of 8 to 320."""
    where = list(product(("step3", "deepseek-v3"), ("H800", "H200")))
    small = pd.DataFrame(pool.map(one_small, where))
    groups = pd.DataFrame(pool.map(one_size, [(*place, gpus) for place in where for gpus in SIZES]))
    below = groups[groups["gpus"] < LARGE].groupby(["model", "gpu"])["tgs"].max().rename("rival").reset_index()
    small = small.merge(below, on=["model", "gpu"])
    return pd.concat([small.assign(margin=small["tgs"] / small["rival"] - 1.0), groups], ignore_index=True)


def tell_scale(made: pd.DataFrame) -> str:
    """Return AFD's tokens over those of EP on fewer than 128 GPUs."""
    parts = made[made["side"] == "AFD"]
    return f"tok/s/GPU of AFD, and of EP on fewer than {LARGE} GPUs: " + "; ".join(
        f"{row.model} on {row.gpu} {row.tgs:,.0f} on {row.gpus} GPUs, {row.rival:,.0f}" for row in parts.itertuples()
    )


SCALE = Claim(
    name="scale",
    said="AFD does with 32 GPUs what expert parallelism needs 128 to 320 for",
    source="sections 1 and 5",
    axes=("model", "gpu"),
    rule=f"4K, each at its best: AFD on {SMALL} GPUs or fewer makes more tokens per GPU than EP on fewer than {LARGE}",
    tie=KNOWN,
    measured=scaled,
    drawn=drawing.scale,
    told=tell_scale,
)

# longer contexts need attention alone --------------------------------------------------------------------------------

CONTEXTS = (4096, 8192, 16384, 32768, 65536)
FFN = 2


def one_context(case: tuple[str, str, int]) -> Row:
    """Two FFN instances with as many attention instances more as the context is longer."""
    gpu, inside, context = case
    instances = 2 * context // CONTEXTS[0]
    found = cells.tuned(base("step3", context, **afd(gpu, instances, FFN, inside)))
    rate = found["tgs"] * cells.SERVER * (instances + FFN) if found else 0.0
    return {"gpu": gpu, "inside": inside, "context": context, "attention": instances, "rate": rate, **(found or {})}


def lengthened(pool: Pool) -> pd.DataFrame:
    """Measure a cell's tokens per second from 4K to 64K."""
    made = pd.DataFrame(pool.map(one_context, list(product(HOPPER, INSIDE, CONTEXTS))))
    first = made[made["context"] == CONTEXTS[0]].set_index(["gpu", "inside"])["rate"]
    kept = made["rate"] / [first[gpu, inside] for gpu, inside in zip(made["gpu"], made["inside"], strict=True)]
    return made.assign(kept=kept, margin=(kept - 1.0 + KNOWN).where(made["context"] > CONTEXTS[0]))


def tell_context(made: pd.DataFrame) -> str:
    """Return the share of the tokens at 4K that is kept, by context."""
    means = made.groupby("context")["kept"].agg(["min", "max"])
    return "tokens per second of the cell, of those at 4K: " + ", ".join(
        f"{context // 1024}K {row['min']:.0%} to {row['max']:.0%}"
        for context, row in means.iterrows()
        if context > 4096
    )


CONTEXT = Claim(
    name="context",
    said="A longer context needs more attention instances and nothing else",
    source="sections 5 and 7.3, table 8",
    axes=("gpu", "inside", "context"),
    rule="attention instances in proportion to the context: two FFN instances keep 92 % of their tokens within 50 ms",
    tie=0.0,
    measured=lengthened,
    drawn=drawing.context,
    told=tell_context,
)

# another GPU for attention -------------------------------------------------------------------------------------------

OTHERS = ("H20", "A800")


def one_mix(case: tuple[str, int]) -> list[Row]:
    """The cheapest of every kind of deployment on H800 and another GPU."""
    other, context = case
    asked = {"model": "step3", "gpus": {"H800": 64, other: 64}, "context": context, "objective": "usd"}
    return [{"other": other, **row} for row in cells.planned(asked)]


def mixed(pool: Pool) -> pd.DataFrame:
    """Measure the price of tokens with attention on another GPU than the experts."""
    rows = pd.DataFrame([row for rows in pool.map(one_mix, list(product(OTHERS, (8192, 32768)))) for row in rows])
    axes = ["other", "context"]
    rows = rows[rows["family"].isin(("AFD", MIXED, "colocated EP"))].reset_index(drop=True)
    two = rows[rows["family"] == MIXED].set_index(axes)["usd_per_1m"]
    own = two.reindex(pd.MultiIndex.from_frame(rows[axes])).fillna(float("inf")).to_numpy()
    rival = rows["family"].map({"AFD": "AFD on one kind", "colocated EP": "EP on one kind"})
    return rows.assign(rival=rival, margin=(rows["usd_per_1m"] / own - 1.0).where(rival.notna()))


def tell_mix(made: pd.DataFrame) -> str:
    """Return the price on two kinds and on one."""
    parts = []
    for (other, context), part in made.groupby(["other", "context"], sort=False):
        price = part.set_index("family")["usd_per_1m"]
        own = price.get(MIXED, float("nan"))
        parts.append(
            f"{other} at {context // 1024}K {own:.3f} USD against {price['AFD']:.3f} (AFD) and "
            f"{price['colocated EP']:.3f} (EP) on one kind"
        )
    return "; ".join(parts)


MIX = Claim(
    name="mix",
    said="Attention on cheaper GPUs and the FFN on H800 makes cheaper tokens",
    source="sections 3 and 4, table 6",
    axes=("rival", "other", "context"),
    rule="at the paper's prices, 50 ms: the cheapest AFD on two kinds of GPU costs less than the cheapest on one kind",
    tie=KNOWN,
    measured=mixed,
    drawn=drawing.mix,
    told=tell_mix,
)

# weak GPUs can attend ------------------------------------------------------------------------------------------------

WEAK = ("L20", "H20", "A800")
AT_ONCE = {4096: 82, 8192: 41, 16384: 20}
"""Sequences of a micro-batch, 328,000 tokens in all: what the paper allots to an L20 in 272 us a layer."""


def one_weak(case: tuple[str, int]) -> Row:
    """Forty-eight weak GPUs for attention before two FFN instances of H800."""
    gpu, context = case
    own = {**afd("H800", 6, 2), "deployment.attention.gpu": gpu, "deployment.max_num_seqs": 3 * AT_ONCE[context]}
    found = cells.measured(base("step3", context, **own))
    return {"gpu": gpu, "context": context, **found, "margin": 50.0 / found["tpot_ms"] - 1.0}


def weakened(pool: Pool) -> pd.DataFrame:
    """Measure the time of a token with weak GPUs for attention."""
    return pd.DataFrame(pool.map(one_weak, list(product(WEAK, AT_ONCE))))


def tell_weak(made: pd.DataFrame) -> str:
    """Return the time of a token by GPU."""
    spans = made.groupby("gpu", sort=False)["tpot_ms"].agg(["min", "max"])
    return "TPOT " + ", ".join(f"{gpu} {row['min']:.0f} to {row['max']:.0f} ms" for gpu, row in spans.iterrows())


WEAK_CLAIM = Claim(
    name="weak",
    said="An L20 attends to 328K tokens of context in the 272 us that a layer has",
    source="section 6",
    axes=("gpu", "context"),
    rule="6A2F, three micro-batches of 328K tokens on every attention GPU, FFN on H800: mean TPOT up to 50 ms",
    tie=0.02,
    measured=weakened,
    drawn=drawing.weak,
    told=tell_weak,
)

# uneven experts ------------------------------------------------------------------------------------------------------

SKEWS = (0.2, 0.4, 0.6, 0.8)
WAYS = ("AFD TP8", "AFD EP8", "EP32", "EP32 EPLB")
BATCH = {"AFD": 384, "EP32": 240}
"""Sequences of an attention GPU, near the best of either."""


def one_skew(case: tuple[str, float]) -> Row:
    """Experts of uneven popularity; 0 is even."""
    way, skew = case
    own = afd("H200", 2, 2, TP8 if "TP8" in way else EP8) if "AFD" in way else colocated("step3", "H200", 32, 4096)
    batch = {"deployment.max_num_seqs": BATCH[way.split()[0]]}
    law = {"law": "power_law", "skew": skew, "placement": "balanced" if "EPLB" in way else "contiguous"}
    found = cells.measured(
        base("step3", 4096, **own, **batch, **{"variation.experts": law if skew else {"law": "even"}})
    )
    return {"way": way, "skew": skew, **found}


def skewed(pool: Pool) -> pd.DataFrame:
    """Measure what uneven experts cost AFD and EP."""
    made = pd.DataFrame(pool.map(one_skew, list(product(WAYS, (0.0, *SKEWS)))))
    even = made[made["skew"] == 0].set_index("way")["tgs"]
    made = made.assign(lost=1.0 - made["tgs"] / made["way"].map(even))
    rivals = {way: made[made["way"] == way].set_index("skew")["lost"] for way in WAYS[2:]}
    rows = []
    for way, rival in product(WAYS[:2], WAYS[2:]):
        part = made[(made["way"] == way) & (made["skew"] > 0)]
        rows.append(
            part.assign(rival=rival, margin=rivals[rival].loc[list(part["skew"])].to_numpy() / 2 - part["lost"])
        )
    plain = made[(made["skew"] == 0) | made["way"].isin(WAYS[2:])]
    return pd.concat([*rows, plain], ignore_index=True)


def tell_skew(made: pd.DataFrame) -> str:
    """Return what is lost at the largest skew."""
    last = made[made["skew"] == SKEWS[-1]].drop_duplicates("way").set_index("way")["lost"]
    return f"tokens lost at a skew of {SKEWS[-1]:g}: " + ", ".join(f"{way} {last[way]:.0%}" for way in WAYS)


IMBALANCE = Claim(
    name="imbalance",
    said="Uneven experts slow EP down, and AFD hardly",
    source="sections 1 and 5.3",
    axes=("way", "rival", "skew"),
    rule="power law of popularity, 32 H200 at 4K: AFD loses less than half of the tokens that EP loses",
    tie=0.01,
    measured=skewed,
    drawn=drawing.imbalance,
    told=tell_skew,
)

# how sparse a model may be -------------------------------------------------------------------------------------------

EXPERTS = (16, 32, 48, 64, 96, 128)
FED = {"H800": ((5, 2), (8, 2)), "H20": ((2, 2), (3, 2))}
"""Attention and FFN instances with which the FFN computes most."""
FULL = 0.85


def one_sparsity(case: tuple[str, int, int, int, Path]) -> Row:
    """Step-3 with another number of experts, at the best batch within 50 ms."""
    gpu, experts, attention, ffn, model = case
    share = theory.sparsity(catalog.llm(model))
    own = {"gpu": gpu, "experts": experts, "attention": attention, "sparsity": share, "ffn_mfu": 0.0}
    return own | (cells.tuned(base(str(model), 4096, **afd(gpu, attention, ffn))) or {})


def sparsened(pool: Pool) -> pd.DataFrame:
    """Measure how much of its peak the FFN reaches, and compare with the sparsest model of the paper's formula."""
    with TemporaryDirectory() as folder:
        models = {experts: cells.step3_with(experts, Path(folder)) for experts in EXPERTS}
        cases = [(gpu, n, *cell, models[n]) for gpu, ways in FED.items() for n in EXPERTS for cell in ways]
        made = pd.DataFrame(pool.map(one_sparsity, cases))
    made = made.loc[made.groupby(["gpu", "experts"], sort=False)["ffn_mfu"].idxmax()].reset_index(drop=True)
    made["least"] = made["gpu"].map({gpu: theory.min_sparsity(catalog.gpu(gpu)) for gpu in FED})
    made["reached"] = made["ffn_mfu"] / made["gpu"].map(made.groupby("gpu")["ffn_mfu"].max())
    above = made["sparsity"] >= made["least"]
    return made.assign(margin=(made["reached"] - FULL).where(above, FULL - made["reached"]))


def tell_sparsity(made: pd.DataFrame) -> str:
    """Return the share of the best MFU by number of experts."""
    parts = []
    for gpu, part in made.groupby("gpu", sort=False):
        share = ", ".join(f"{row.experts} {row.reached:.0%}" for row in part.itertuples())
        parts.append(
            f"{gpu} (least sparsity {part['least'].iloc[0]:.3f}), share of the best FFN MFU by experts: {share}"
        )
    return "; ".join(parts)


SPARSITY = Claim(
    name="sparsity",
    said="Models sparser than GPU and network allow (S < 0.058 on H800) leave the FFN idle; Step-3 (0.08) does not",
    source="section 5.2, table 7",
    axes=("gpu", "experts"),
    rule=f"the FFN reaches {FULL:.0%} of its best MFU where S is above the paper's limit, and less where it is below",
    tie=0.0,
    measured=sparsened,
    drawn=drawing.sparsity,
    told=tell_sparsity,
)

CLAIMS = (OVERLAP, SCALE, CONTEXT, MIX, WEAK_CLAIM, IMBALANCE, SPARSITY)
