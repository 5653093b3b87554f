"""Does linear Thompson sampling need fewer simulations than optimistic bounds?  ``python thompson.py [-o FOLDER]``

Meta-TSLB (arXiv:2409.06329) chooses what to try next by linear regression over features. Here every layout of a small
grid is an arm; its reward is what its best batch gives by a quick measure, tokens per GPU and second within 50 ms. All
arms are measured once, and every way to search is then replayed on that table, of all layouts and of AFD alone: how
many layouts does it try until the best one is among them? Bounds need no seed, and know when they are done; sampling
is told (an oracle stops it).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from afdsim.catalog import entries as catalog
from afdsim.studies.asking import at_context
from afdsim.studies.candidates import BOUND, OUT, Trial, Weighing, points
from afdsim.studies.layouts import AFD, FAMILIES, MIXED, SHORT, Layout, layouts
from afdsim.studies.trials import Question

MODEL, LIMIT = "step3", 0.05
GRIDS = (
    (4096, {"H800": 24}),
    (8192, {"H800": 24}),
    (32768, {"H800": 24}),
    (8192, {"H800": 8, "H20": 8}),
)
"""Contexts and GPUs, as in `run.py`."""
SEEDS = 20
SIGMA = 0.05
"""Standard deviation of what the features do not say, in parts of the best bound."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A layout, what it gives at most and by a quick measure: tokens per GPU and second."""

    layout: Layout
    bound: float
    reward: float


def arms(context: int, gpus: dict[str, int]) -> Iterator[Arm]:
    """Measure every layout of a grid whose bound is within the limit."""
    base = at_context(MODEL, context, next(iter(gpus)), {"tpot": "50ms", "percentile": "mean"})
    question = Question(base=base, limit=LIMIT)
    for layout in layouts(catalog.llm(MODEL), gpus):
        trial = Trial(layout=layout, questions=(question,), weighing=Weighing(weights=(1.0,)))
        trial.bounded()
        if trial.standing != BOUND:
            continue
        trial.measured(points(trial.questions, layout))
        reward = 0.0 if trial.standing == OUT or trial.offer is None else trial.offer.rate / layout.count
        yield Arm(layout=layout, bound=trial.bound, reward=reward)


# ways to search ------------------------------------------------------------------------------------------------------


def features(layout: Layout, kinds: list[str]) -> list[float]:
    """Sizes as logarithms, kinds and families as 0 or 1."""
    asked = layout.deployment
    apart = "attention" in asked
    x, y = (asked["attention"]["instances"], asked["ffn"]["instances"]) if apart else (asked.get("instances", 1), 1)
    pools = (asked["attention"]["gpu"], asked["ffn"]["gpu"]) if apart else (asked["gpu"], asked["gpu"])
    ep = asked["ffn"]["parallelism"]["ep"] if apart else asked.get("ep", layout.count)
    tp = (asked["attention"] if apart else asked).get("parallelism", {}).get("tp", 1)
    sizes = [math.log2(each) for each in (x, y, layout.count, ep, tp)]
    named = [float(pool == kind) for pool in pools for kind in kinds]
    ways = [float(asked.get("num_microbatches") == each) for each in (2, 3, 4)] + [float("shared_expert" in asked)]
    overlaps = [float(asked.get(each, False)) for each in SHORT]
    return [1.0, *sizes, *named, *ways, *overlaps, *(float(layout.family == each) for each in FAMILIES)]


def table(every: list[Arm], what: str) -> Floats:
    """Features of all arms: as they are, with squares and a product of the sizes, or with the bound's logarithm too."""
    kinds = sorted({kind for arm in every for kind in arm.layout.gpus})
    found = np.array([features(arm.layout, kinds) for arm in every])
    if what != "linear":
        x, y, gpus, ep = found[:, 1:5].T
        found = np.column_stack([found, x * x, y * y, x * y, gpus * gpus, ep * ep])
    if what == "with bound":
        found = np.column_stack([found, np.log([arm.bound for arm in every])])
    spread = np.ptp(found, axis=0)
    return np.where(spread > 0, (found - found.min(axis=0)) / np.where(spread > 0, spread, 1.0), 1.0)


def sampled(every: list[Arm], seen: Floats, seed: int) -> int:
    """Layouts that Thompson sampling tries until it has tried the best: Bayesian regression, prior N(0, 1)."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    rewards = np.array([arm.reward for arm in every])
    scale, best = max(arm.bound for arm in every), int(rewards.argmax())
    precision, pull = np.eye(seen.shape[1]), np.zeros(seen.shape[1])
    left = np.ones(len(every), dtype=bool)
    for count in range(1, len(every) + 1):
        root = np.linalg.cholesky(precision)
        mean = np.linalg.solve(precision, pull)
        weights = mean + np.linalg.solve(root.T, rng.standard_normal(len(mean)))
        arm = int(np.where(left, seen @ weights, -np.inf).argmax())
        if arm == best:
            return count
        left[arm] = False
        precision += np.outer(seen[arm], seen[arm]) / SIGMA**2
        pull += seen[arm] * rewards[arm] / scale / SIGMA**2
    return len(every)


def optimistic(every: list[Arm]) -> tuple[int, int]:
    """Layouts that bounds try, as the planner does, until the best is tried, and until nothing left can be better."""
    best = max(range(len(every)), key=lambda place: every[place].reward)
    order = sorted(range(len(every)), key=lambda place: -every[place].bound)
    proven = sum(arm.bound > every[best].reward for arm in every)
    return order.index(best) + 1, max(proven, order.index(best) + 1)


def drawn(every: list[Arm], seed: int) -> int:
    """Layouts that are tried in an order of chance until the best is."""
    best = max(range(len(every)), key=lambda place: every[place].reward)
    return int(np.random.Generator(np.random.Philox(key=seed)).permutation(len(every)).tolist().index(best)) + 1


def median(tries: Callable[[int], int]) -> float:
    """Median over seeds."""
    return float(np.median([tries(seed) for seed in range(SEEDS)]))


def row(context: int, gpus: dict[str, int], every: list[Arm]) -> dict[str, object]:
    """What every way to search needs on a grid."""
    best = max(every, key=lambda arm: arm.reward)
    found, proven = optimistic(every)
    tries = {}
    for what in ("linear", "with squares", "with bound"):
        tries[f"thompson {what}"] = median(partial(sampled, every, table(every, what)))
    head = {"context": context, "gpus": " + ".join(f"{n} {kind}" for kind, n in gpus.items()), "layouts": len(every)}
    head |= {"best": best.layout.label, "tgs": round(best.reward), "beaten": sum(a.reward > a.bound for a in every)}
    return head | {"bounds": found, "bounds proven": proven, **tries, "chance": median(partial(drawn, every))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/planner_check"), help="folder of the tables")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (context, gpus) in enumerate(GRIDS):
        every = list(arms(context, gpus))
        apart = [arm for arm in every if arm.layout.family in (AFD, MIXED)]
        rows += [row(context, gpus, some) | {"among": what} for what, some in (("all", every), ("AFD", apart))]
        told = [{"layout": arm.layout.label, "bound": arm.bound, "tgs": arm.reward} for arm in every]
        (folder / f"arms-{number}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print("\n".join(map(json.dumps, rows[-2:])), flush=True)
    with (folder / "thompson.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
