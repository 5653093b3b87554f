"""The model and the system: whose are the tokens of the paper's headline, and what do they cost?"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import cells
import drawing
import pandas as pd
from cells import EP, GPUS, WHOLE
from claims import KNOWN, Claim

import afdsim
from afdsim.catalog import entries as catalog
from afdsim.catalog.parameters import active

if TYPE_CHECKING:
    from afdsim.studies.pool import Pool

Row = dict[str, Any]

# the model or the system ---------------------------------------------------------------------------------------------

DEPLOYED = {"step3": "step3_2a2f_4k", "deepseek-v3": "dsv3_ep128_4k"}
"""The scenarios of what either paper measured."""
KEPT = ("tgs", "deployment")


def one_side(case: tuple[str, str, str]) -> list[Row]:
    """A model on 128 GPUs at 4K, planned; or on the deployment that was measured."""
    gpu, model, how = case
    if how == "planned":
        rows = cells.planned({"model": model, "gpus": {gpu: 128}, "context": 4096, "objective": "tgs"})
        systems = {"AFD": "AFD", EP: "EP"}
        return [
            {"gpu": gpu, "model": model, "system": systems[row["family"]], **{key: row[key] for key in KEPT}}
            for row in rows
            if row["family"] in systems
        ]
    places = ("deployment.attention.gpu", "deployment.ffn.gpu") if model == "step3" else ("deployment.gpu",)
    scenario = afdsim.load(DEPLOYED[model]).varied(dict.fromkeys(places, gpu))
    system = "AFD" if model == "step3" else "EP"
    tgs = cells.measured(scenario)["tgs"]
    return [{"gpu": gpu, "model": model, "system": f"{system} as published", "tgs": tgs, "deployment": scenario.name}]


def headline(pool: Pool) -> pd.DataFrame:
    """Measure two models on two systems, and what the two papers ran."""
    cases = list(product(GPUS, DEPLOYED, ("planned", "published")))
    made = pd.DataFrame([row for rows in pool.map(one_side, cases) for row in rows])
    rows = []
    for gpu, part in made.groupby("gpu", sort=False):
        tgs = part.set_index(["model", "system"])["tgs"]
        ours, theirs = "step3", "deepseek-v3"
        for name, over, under in (
            ("both as published", (ours, "AFD as published"), (theirs, "EP as published")),
            ("both at their best", (ours, "AFD"), (theirs, "EP")),
            ("model alone", (ours, "EP"), (theirs, "EP")),
            ("system alone for Step-3", (ours, "AFD"), (ours, "EP")),
            ("system alone for DeepSeek-V3", (theirs, "AFD"), (theirs, "EP")),
        ):
            ratio = float(tgs[over] / tgs[under])
            margin = "margin_system" if "system" in name else "margin_both"
            rows.append(
                {"gpu": gpu, "changed": name, "ratio": ratio, **({} if "model" in name else {margin: ratio - 1})}
            )
    return pd.concat([pd.DataFrame(rows), made], ignore_index=True)


def tell_headline(made: pd.DataFrame) -> str:
    """Return the ratios."""
    means = made[made["changed"].notna()].groupby("changed", sort=False)["ratio"].agg(["min", "max"])
    return "; ".join(f"{name} {row['min']:.2f} to {row['max']:.2f}" for name, row in means.iterrows())


HEADLINE = Claim(
    name="headline",
    said="Step-3 on AFD makes 74 % more tokens per GPU than DeepSeek-V3 on EP",
    source="abstract: 4,039 against 2,324 tok/s/GPU",
    axes=("changed", "gpu"),
    rule="tokens per GPU at 4K within 50 ms: the new model on the new system over the old on the old",
    tie=KNOWN,
    measured=headline,
    drawn=drawing.headline,
    told=tell_headline,
    margin="margin_both",
)
SYSTEM = replace(
    HEADLINE,
    name="system",
    said="The system, not the model, makes those tokens: AFD is ahead of EP for the same model",
    source="reading of the abstract",
    rule="tokens per GPU at 4K within 50 ms on up to 128 GPUs: AFD over EP, each planned",
    margin="margin_system",
    drawn=drawing.system,
)

# what the largest model costs ----------------------------------------------------------------------------------------

RIVALS = ("deepseek-v3", "kimi-k2", "qwen3-235b", "ernie-4.5-300b", "llama4-maverick")
PRICED = (8192, 32768)


def one_price(case: tuple[str, int]) -> list[Row]:
    """The cheapest deployment of a model on H800."""
    model, context = case
    rows = cells.planned({"model": model, "gpus": {"H800": WHOLE}, "context": context, "objective": "usd"})
    return [min(rows, key=lambda row: row["usd_per_1m"])] if rows else []


def priced(pool: Pool) -> pd.DataFrame:
    """Measure USD per 1M output tokens of models, each as it is cheapest."""
    cases = list(product(("step3", *RIVALS), PRICED))
    made = pd.DataFrame([row for rows in pool.map(one_price, cases) for row in rows])
    own = made[made["model"] == "step3"].set_index("context")["usd_per_1m"]
    margin = made["usd_per_1m"] / made["context"].map(own) - 1.0
    billions = made["model"].map({name: active(catalog.llm(name)) / 1e9 for name in ("step3", *RIVALS)})
    return made.assign(active_b=billions, margin=margin.where(made["model"] != "step3"))


def tell_price(made: pd.DataFrame) -> str:
    """Return the prices by model."""
    parts = made.groupby("model", sort=False)["usd_per_1m"].agg(["min", "max"])
    return "USD per 1M tokens at 8K and 32K: " + ", ".join(
        f"{name} {row['min']:.3f} and {row['max']:.3f}" for name, row in parts.iterrows()
    )


PRICE = Claim(
    name="price",
    said="Step-3 activates more parameters than most and costs least to decode",
    source="abstract, figure 1, table 6",
    axes=("model", "context"),
    rule=f"up to {WHOLE} H800, each model as it is cheapest within 50 ms: the rival costs over {KNOWN:.0%} more",
    tie=KNOWN,
    measured=priced,
    drawn=drawing.price,
    told=tell_price,
)

CLAIMS = (HEADLINE, SYSTEM, PRICE)
