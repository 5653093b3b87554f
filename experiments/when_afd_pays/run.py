"""When AFD pays: 64 H200 that serve prompts and answers, as AFD, as colocated decode behind prefill, and aggregated.

``python run.py [-o FOLDER] [--traces FOLDER] [--workers N]``; FOLDER (default: `expected` beside this file) gets
`table.csv` (the best deployment of every kind), `tried.csv` (all that were tried) and `when_afd_pays.png`. `--traces`
takes the lengths of requests from the recorded traces, where there are, not from laws with their means and spreads.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import afdsim
from afdsim.errors import AfdsimError

HERE = Path(__file__).parent
GPU, SERVERS = "H200", 8
"""Servers of 8 GPUs that every deployment has, those of prefill too."""
EXPERTS = {"step3": 48, "deepseek-v3": 256, "qwen3-235b": 128}
MODELS = tuple(EXPERTS)
WORKLOADS: dict[str, dict[str, Any]] = {
    "conversation": {
        "input_len": {"distribution": "lognormal", "mean": 1155, "cv": 0.96, "max": 16384},
        "output_len": {"distribution": "lognormal", "mean": 211, "cv": 0.77, "min": 2, "max": 1024},
    },
    "long context": {
        "input_len": {"distribution": "lognormal", "mean": 12035, "cv": 1.31, "max": 131072},
        "output_len": {"distribution": "lognormal", "mean": 343, "cv": 0.73, "min": 2, "max": 2048},
    },
}
"""Means and spreads of the lengths in Azure's conversation trace of 2023 and in Mooncake's."""
TRACES = {"conversation": "azure23_conv.csv", "long context": "mooncake_conversation.jsonl"}
PROMPT = {"conversation": 1155, "long context": 12035}
ANSWER = {"conversation": 211, "long context": 343}
"""Tokens on average."""
LIMITS = {"conversation": "2s", "long context": "10s"}
"""Of TTFT; that of TPOT is 50 ms, both for 95 of 100 requests."""
AFD, APART, MIXED = "AFD", "prefill and decode apart", "aggregated"
KINDS = (AFD, APART, MIXED)
LAYOUTS = {"DP8": {"dp": 8, "tp": 1, "ep": 8}, "DP2 x TP4": {"dp": 2, "tp": 4, "ep": 8}}
"""How the GPUs of a prefill server share prompts: a GPU a prompt, or four."""
CHUNKS, GROUPS = (256, 128, 512), (4, 2, 8)
"""Of aggregated engines: prompt tokens a step of a GPU, and servers of an engine; several take turns."""
DURATION = {"conversation": 90, "long context": 150}
"""Seconds of arrivals."""
FLOOD = 400.0
"""Requests per second that four prefill servers do not carry."""
HALVINGS, SPAN = 4, 1.4
"""Of the ratio between a rate that is carried and one that is not, and that ratio at first: 2 % in the end."""
LOWEST = SPAN**6
"""What part of the first guess is given up at."""

Changes = dict[str, Any]


class Candidate(NamedTuple):
    """One deployment of all GPUs."""

    kind: str
    name: str
    guess: float
    """Requests per second at which the search begins."""
    scenario: afdsim.Scenario
    """As a closed loop."""
    front: Changes
    """What computes its prompts, and its router."""


class Decode(NamedTuple):
    """A way to decode on some servers."""

    rate: float
    """Requests per second that it makes within 50 ms a token."""
    name: str
    scenario: afdsim.Scenario


def base(model: str, workload: str, traces: Path | None) -> afdsim.Scenario:
    """What all deployments of a model have in common, as a closed loop."""
    lengths = WORKLOADS[workload]
    if traces is not None and workload in TRACES:
        lengths = {"trace": {"path": str(traces / TRACES[workload])}}
    return afdsim.load("step3_2a2f_4k").varied(
        {
            "name": "when_afd_pays",
            "model": model,
            "sla": {"tpot": "50ms", "percentile": "p95"},
            "workload": {"arrival": {"process": "closed_loop"}, "num_requests": 8192, **lengths},
        }
    )


def candidates(common: afdsim.Scenario, model: str, workload: str) -> Iterator[Candidate]:
    """The deployments that are tried for a model and a workload."""
    yield from apart(common, model, workload)
    yield from aggregated(common, model, workload)


# prefill and decode apart --------------------------------------------------------------------------------------------


def apart(common: afdsim.Scenario, model: str, workload: str) -> Iterator[Candidate]:
    """AFD and colocated decode behind prefill servers: the two splits of the servers that promise most."""
    ahead = {layout: prompts_per_server(common, workload, layout) for layout in LAYOUTS}
    for kind, ways in ((AFD, partial(afd)), (APART, partial(colocated, model))):
        decodes = {servers: decode(common, ways(servers), servers, workload) for servers in range(1, SERVERS)}
        for layout, each in ahead.items():
            rates = {n: min(each * (SERVERS - n), found.rate) for n, found in decodes.items() if found is not None}
            for servers in sorted(rates, key=rates.__getitem__)[-2:]:
                found = decodes[servers]
                assert found is not None
                name = f"{SERVERS - servers}P ({layout}) + {found.name}"
                yield Candidate(kind, name, rates[servers], found.scenario, prefill(layout, SERVERS - servers))


def prefill(layout: str, servers: int) -> Changes:
    """A pool of prefill servers."""
    return {"prefill": {"gpu": GPU, "instances": servers, "parallelism": LAYOUTS[layout]}}


def afd(servers: int) -> Iterator[tuple[str, Changes]]:
    """Attention and FFN on so many servers, whole experts on the GPUs of an instance."""
    for ffn in range(1, servers):
        counts = {"deployment.attention.instances": servers - ffn, "deployment.ffn.instances": ffn}
        yield f"{servers - ffn}A{ffn}F", {**counts, "deployment.ffn.parallelism": {"ep": 8, "tp": 1}}


def colocated(model: str, servers: int) -> Iterator[tuple[str, Changes]]:
    """Attention by data, experts over all GPUs of so many servers; copies fill up what the experts do not cover."""
    deployment = {
        "type": "colocated",
        "gpu": GPU,
        "instances": servers,
        "parallelism": {"dp": 8, "tp": 1},
        "redundant_experts": -EXPERTS[model] % (8 * servers),
        "max_num_seqs": 256,
    }
    yield f"EP{8 * servers}", {"deployment": deployment, "network": {}}


def decode(common: afdsim.Scenario, ways: Iterator[tuple[str, Changes]], servers: int, workload: str) -> Decode | None:
    """The way that makes most tokens within 50 ms, each at its best batch; None where none fits."""
    found = []
    for name, changes in ways:
        try:
            tuned = afdsim.tune(common.varied(changes))
        except AfdsimError:
            continue
        if tuned is not None and tuned.best.verdict != "FAIL":
            found.append(Decode(tuned.best.tgs * 8 * servers / ANSWER[workload], name, tuned.scenario))
    return max(found, key=lambda each: each.rate, default=None)


def prompts_per_server(common: afdsim.Scenario, workload: str, layout: str) -> float:
    """Prompts per second of one prefill server that never waits for any."""
    flooded = {**prefill(layout, 4), "deployment.max_num_seqs": 64}
    requests = afdsim.simulate(at_rate(common, flooded, workload, FLOOD)).requests
    return float(requests["prefill_end_s"].notna().sum() / requests["arrival_s"].max() / 4)


# prefill and decode together -----------------------------------------------------------------------------------------


def aggregated(common: afdsim.Scenario, model: str, workload: str) -> Iterator[Candidate]:
    """Engines that compute chunks of prompts inside decode steps, several taking turns."""
    guess = 100 * 8 * SERVERS / (0.05 * PROMPT[workload])
    for servers in GROUPS:
        (name, changes), *_ = colocated(model, servers)
        many = SERVERS // servers
        for chunk in CHUNKS:
            ways = {"prefill": {"mode": "mixed", "chunk": chunk}, "router": {"replicas": many} if many > 1 else None}
            yield Candidate(MIXED, f"{many} x {name}, {chunk} a step", guess, common.varied(changes), ways)


# the largest rate ----------------------------------------------------------------------------------------------------


def at_rate(scenario: afdsim.Scenario, front: Changes, workload: str, rate: float) -> afdsim.Scenario:
    """The scenario with prefill, requests that come by chance, and the limits."""
    arrival = {"process": "poisson", "request_rate": f"{rate:.6g} req/s"}
    load = {"workload.arrival": arrival, "workload.num_requests": None, "workload.duration": f"{DURATION[workload]}s"}
    sla = {"ttft": LIMITS[workload], "tpot": "50ms", "percentile": "p95"}
    return scenario.varied({**front, **load, "sla": sla})


def largest(tried: Candidate, workload: str, beaten: float) -> tuple[float, dict[str, Any]]:
    """The largest rate carried within the limits, to 2 %, and the summary of its run; 0 if it is not above `beaten`."""

    def carried(rate: float) -> dict[str, Any] | None:
        summary = afdsim.simulate(at_rate(tried.scenario, tried.front, workload, rate)).summary
        return summary if summary["afdsim"]["sla"]["met"] else None

    low, high = max(tried.guess, beaten), math.inf
    lowest, best = max(beaten, low / LOWEST), carried(low)
    while best is None and low > lowest:
        low, high = max(low / SPAN, lowest), low
        best = carried(low)
    while best is not None and high == math.inf:
        more = carried(low * SPAN)
        low, high, best = (low, low * SPAN, best) if more is None else (low * SPAN, high, more)
    if best is None:
        return 0.0, {}
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        more = carried(middle)
        low, high, best = (middle, high, more) if more is not None else (low, middle, best)
    return low, best


def searched(given: tuple[str, str, Path | None]) -> list[dict[str, Any]]:
    """Every deployment that is tried for a model and a workload, with its rate where that beats those before."""
    model, workload, traces = given
    rows, beaten = [], dict.fromkeys(KINDS, 0.0)
    for each in sorted(candidates(base(model, workload, traces), model, workload), key=lambda each: -each.guess):
        rate, summary = largest(each, workload, beaten[each.kind])
        beaten[each.kind] = max(beaten[each.kind], rate)
        rows.append({"model": model, "workload": workload, "kind": each.kind, "deployment": each.name, "rate": rate})
        rows[-1]["max_num_seqs"] = each.scenario.deployment.max_num_seqs
        if summary:
            own = summary["afdsim"]
            rows[-1] |= {"gpus": own["gpus"], "tgs": own["tgs"], "usd_per_1m": own["usd_per_1m_output_tokens"]}
            rows[-1] |= {key: summary[key] for key in ("p95_ttft_ms", "mean_tpot_ms", "p95_tpot_ms")}
    return rows


# what is shown -------------------------------------------------------------------------------------------------------


def best(tried: pd.DataFrame) -> pd.DataFrame:
    """The best deployment of every kind, and by how much it is ahead of the best that is not AFD."""
    groups = ["model", "workload", "kind"]
    made = tried.loc[tried.groupby(groups, sort=False)["rate"].idxmax()].reset_index(drop=True)
    rivals = made[made["kind"] != AFD].groupby(groups[:2])["rate"].max().rename("rival")
    made = made.merge(rivals, on=groups[:2])
    return made.assign(over_rivals=made["rate"] / made.pop("rival") - 1.0)


def drawn(made: pd.DataFrame) -> Figure:
    """Draw the rates as bars, a panel for each workload."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    colours = afdsim.plot.colours(list(KINDS))
    for ax, workload in zip(figure.subplots(1, len(WORKLOADS)), WORKLOADS, strict=True):
        for number, kind in enumerate(KINDS):
            part = made[(made["workload"] == workload) & (made["kind"] == kind)].set_index("model").reindex(MODELS)
            places = [place + 0.27 * (number - 1) for place in range(len(MODELS))]
            bars = ax.bar(places, part["rate"].fillna(0.0), width=0.25, color=colours[kind], label=kind)
            ax.bar_label(bars, fmt="{:,.3g}", fontsize=8, padding=2)
        ax.set_xticks(range(len(MODELS)), MODELS)
        ax.set(title=f"{workload}: TTFT <= {LIMITS[workload]}", ylabel="requests per second")
        ax.margins(y=0.12)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        f"What {8 * SERVERS} {GPU} carry within p95 limits of TTFT and of 50 ms TPOT, every kind at its best"
    )
    return figure


def main() -> None:
    """Write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    cases = [(model, workload, given.traces) for model in MODELS for workload in WORKLOADS]
    with ProcessPoolExecutor(given.workers) as pool:
        tried = pd.DataFrame([row for rows in pool.map(searched, cases) for row in rows])
    made = best(tried)
    tried.to_csv(given.output / "tried.csv", index=False, float_format="%.5g")
    made.to_csv(given.output / "table.csv", index=False, float_format="%.5g")
    afdsim.plot.save(drawn(made), given.output / "when_afd_pays.png", dpi=90)
    print(made.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
