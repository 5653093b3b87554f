"""What one dead instance costs, AFD against EP of equal size: ``python run.py [-o FOLDER] [--workers N]``.

FOLDER (default: `expected` beside this file) gets `table.csv`, `year.csv` and `blast_radius.png`.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import afdsim
from afdsim.results import metrics

HERE = Path(__file__).parent
AT, END = 90, 480
"""Seconds: the crash, and the last arrival."""
YEAR, MTBF = 365.0 * 86400, 30.0 * 86400
"""Seconds: of the arithmetic; the second is assumed, for an instance with its eight GPUs and NICs."""
FAILURES = {"repair": "60s", "restart": "30s", "reprefill_rate": "20000 tok/s"}
"""Assumed: a spare server takes over within a minute; detection is StepMesh's 10 s."""
# 60 % of the 149 and 171 thousand tokens/s that each makes in a closed loop with its largest batch within 50 ms
RATES = {"step3_2a2f_4k": "174 req/s", "step3_ep32": "200 req/s"}
SEQS = 460
"""Largest even batch of an attention GPU of 2A2F that keeps 50 ms on H200; EP32 ships with its."""
CASES = [
    ("AFD 2A2F", "step3_2a2f_4k", "ffn[0]", {}),
    ("AFD 2A2F", "step3_2a2f_4k", "ffn[0]", {"kv_cache": "kept"}),
    ("AFD 2A2F", "step3_2a2f_4k", "ffn[0]", {"meanwhile": "shrink"}),
    ("AFD 2A2F", "step3_2a2f_4k", "attention[0]", {}),
    ("AFD 2A2F", "step3_2a2f_4k", "attention[0]", {"meanwhile": "shrink"}),
    ("EP32", "step3_ep32", "instance[0]", {}),
    ("EP32", "step3_ep32", "instance[0]", {"meanwhile": "shrink"}),
]
"""Deployment, scenario, what crashes, and what is not the default."""


def scenario(name: str, target: str, more: dict[str, str]) -> afdsim.Scenario:
    """Return a deployment under 60 % of its load in which an instance crashes once."""
    changes = {
        "name": "failure_blast_radius",
        "workload": {
            "arrival": {"process": "poisson", "request_rate": RATES[name]},
            "input_len": {"distribution": "constant", "value": 3840},
            "output_len": {"distribution": "lognormal", "mean": 512, "cv": 0.5, "min": 2, "max": 1024},
            "duration": f"{END}s",
        },
        "run.warmup": "45s",
        "sla": {"tpot": "50ms", "percentile": "p99"},
        "failures": {"events": [{"at": f"{AT}s", "target": target}], **FAILURES, **more},
    }
    if name == "step3_2a2f_4k":
        changes |= {"network.type": "shared", "deployment.max_num_seqs": SEQS}
    return afdsim.load(name).varied(changes)


def simulated(case: tuple[str, str, str, dict[str, str]]) -> tuple[dict[str, Any], list[float], list[float]]:
    """Return a row of the table, and the output over time as (seconds, tokens per second)."""
    deployment, name, target, more = case
    result = afdsim.simulate(scenario(name, target, more))
    found = result.summary["afdsim"]["failures"]
    crash, down = found["outages"][0], found["downtime_s"]
    gaps = metrics.percentiles(metrics.itl(result.run.tokens, (AT, END)), (50, 99.9))
    row = {
        "deployment": deployment,
        "crashes": target,
        "meanwhile": more.get("meanwhile", "stop"),
        "kv_cache": more.get("kv_cache", "lost"),
        "requests_hit": crash["requests_hit"],
        "contexts_lost": found["contexts_lost"],
        "tokens_lost": found["tokens_lost"],
        "tokens_reprefilled": found["tokens_reprefilled"],
        "down_s": down,
        "recovery_s": found["outages"][-1]["at_s"] + found["outages"][-1]["recovery_s"] - AT,
        "output_before": crash["output_before"],
        "output_100_s": result_rate(result, AT, AT + 100.0),
        "goodput_before": crash["goodput_before"],
        "goodput_after": float(goodput(result, AT, AT + 300.0)),
        "p50_itl_ms": gaps[0] * 1e3,
        "p99.9_itl_ms": gaps[1] * 1e3,
        "tgs": crash["output_before"] / result.run.gpu_count,
        "instances": 4,
    }
    edges, rates = metrics.throughput_over_time(result.run.tokens, (45.0, float(END)), 290)
    return row, ((edges[1:] + edges[:-1]) / 2).tolist(), rates.tolist()


def result_rate(result: afdsim.Result, low: float, high: float) -> float:
    """Return output tokens per second between two times."""
    return metrics.output_throughput(result.run.tokens, (low, high))


def goodput(result: afdsim.Result, low: float, high: float) -> float:
    """Return the requests per second that finished between two times within 50 ms per token."""
    ends = metrics.column(result.run.requests, "finish_s")
    good = metrics.within(result.run.requests, metrics.Sla(limits={"tpot": 0.05}))
    return float((good & (ends > low) & (ends <= high)).sum()) / (high - low)


def year(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the arithmetic of a year: crashes by the MTBF, each with the outage that was measured."""
    crashes = frame["instances"] * YEAR / MTBF
    availability = 1.0 - crashes * frame["down_s"] / YEAR
    made = frame[["deployment", "crashes", "meanwhile", "kv_cache"]].assign(
        crashes_per_year=crashes,
        down_s_each=frame["down_s"],
        down_h_per_year=crashes * frame["down_s"] / 3600,
        availability=availability,
        tgs=frame["tgs"],
        effective_tgs=frame["tgs"] * availability,
    )
    return made.round(6)


def drawn(frame: pd.DataFrame, curves: list[tuple[list[float], list[float]]]) -> Figure:
    """Draw the output over time around the crash, a panel for each thing that crashes."""
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    panels = [("ffn[0]", "an FFN instance of 2A2F"), ("attention[0]", "an attention instance of 2A2F")]
    panels += [("instance[0]", "an instance of EP32")]
    for ax, (target, title) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for row, (seconds, rates) in zip(frame.to_dict("records"), curves, strict=True):
            if row["crashes"] == target:
                kept = row["kv_cache"] == "kept"
                label, style = f"{row['meanwhile']}{', cache kept' if kept else ''}", "--" if kept else "-"
                ax.plot(seconds, [rate / 1e3 for rate in rates], style, label=label, linewidth=1.2)
        ax.axvline(AT, color="0.5", linewidth=0.8, linestyle=":")
        ax.set(title=f"{title} crashes at {AT} s", xlabel="simulated time (s)", xlim=(45, END))
        ax.legend(loc="lower right", frameon=False)
    most = max(max(rates) for _, rates in curves) / 1e3
    figure.axes[0].set(ylabel="output (thousand tokens/s)", ylim=(0, 1.05 * most))
    return figure


def main() -> None:
    """Write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "expected")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.workers) as pool:
        rows, *curves = zip(*pool.map(simulated, CASES), strict=True)
    frame = pd.DataFrame(rows)
    made = frame.drop(columns=["tgs", "instances"])
    for name, each in (("table", made), ("year", year(frame))):
        each.to_csv(given.output / f"{name}.csv", index=False, float_format="%.7g")
        print(each.to_string(index=False, float_format="{:.7g}".format))
    afdsim.plot.save(drawn(frame, list(zip(*curves, strict=True))), given.output / "blast_radius.png", dpi=90)


if __name__ == "__main__":
    main()
