"""Runs made up by hand, for tests of what happens after a simulation."""

import numpy as np

from afdsim.results import metrics
from afdsim.results.bottleneck import Bounds
from afdsim.results.result import Result, manifest

CAUSES = {"busy": 0.88, "wait_peer": 0.04, "network": 0.03, "imbalance": 0.03, "no_work": 0.02, "down": 0.0}


def requests(rng, count):
    arrival = np.sort(rng.uniform(0, 10, count))
    admitted = arrival + rng.exponential(0.003, count)
    output = rng.integers(100, 600, count)
    first = admitted + 0.05
    status = np.array(["finished"] * count, dtype=object)
    status[0], status[1] = "refused", "running"
    finish = first + (output - 1) * rng.lognormal(np.log(0.042), 0.08, count)
    for column in (admitted, first, finish):
        column[0] = np.nan
    finish[1] = np.nan
    lengths = {"input_len": np.full(count, 3840), "output_len": output}
    seat = {"instance": np.arange(count) % 2, "rank": np.arange(count) % 8, "micro_batch": np.arange(count) % 3}
    times = {"arrival_s": arrival, "admitted_s": admitted, "first_token_s": first, "finish_s": finish}
    known = {"status": status, "counted": np.arange(count) % 10 != 9}
    return {"request_id": np.arange(count), **times, **lengths, **seat, **known}


def tokens(rng, steps):
    step = np.repeat(np.arange(steps), 3)
    itl = rng.lognormal(np.log(0.042), 0.1, 3 * steps)
    moment = np.cumsum(itl) / 3
    seat = {"step": step, "micro_batch": np.tile([0, 1, 2], steps), "instance": np.zeros(3 * steps, int)}
    batch = np.full(3 * steps, 512)
    return {**seat, "rank": np.zeros(3 * steps, int), "t_s": moment, "batch": batch, "gaps": batch - 7, "itl_s": itl}


def gpus(window, per_pool):
    count = 2 * per_pool
    length = window[1] - window[0]
    pool = np.array(["attention"] * per_pool + ["ffn"] * per_pool, dtype=object)
    seconds = {cause: np.full(count, share * length) for cause, share in CAUSES.items()}
    seconds["busy"][per_pool:] -= 0.07 * length
    seconds["wait_peer"][per_pool:] += 0.07 * length
    return {
        "gpu": np.arange(count),
        "pool": pool,
        "instance": np.arange(count) // 8,
        "rank": np.arange(count) % 8,
        **seconds,
    }


def links():
    names = {"port": ["attention[0].0 egress", "ffn[0].0 ingress"], "pool": ["attention", "ffn"], "instance": [0, 0]}
    return {**names, "rail": [0, 0], "direction": ["egress", "ingress"], "messages": [6, 6], "bytes": [1.5e6, 1.5e6]}


def run(seed=0, *, count=1500, steps=300, **fields):
    rng = np.random.default_rng(seed)
    columns = tokens(rng, steps)
    window = (1.0, float(columns["t_s"][-1]))
    price = {"gpus": 8, "usd_per_hour": 2.8}
    given = {
        "requests": requests(rng, count),
        "tokens": columns,
        "gpus": gpus(window, 8),
        "links": links(),
        "window": window,
        "pools": {
            "attention": metrics.Pool(gpu="H800", mfu=0.31, mbu=0.52, **price),
            "ffn": metrics.Pool(gpu="H800", mfu=0.22, **price),
        },
        "engine": metrics.Engine(name="processes", steps=steps, events=9 * steps),
        "bounds": Bounds(
            resources={"attention": 0.038, "ffn": 0.021}, round_trip={"network": 0.02, "attention": 0.013}
        ),
        "sla": metrics.Sla(limits={"tpot": 0.05}, percentile="p99"),
    }
    return metrics.Run(**given | fields)


def result(scenario, seed=0, *, notes=(), **fields):
    made = manifest(scenario, seed=seed, engine="processes", engine_reason="the network is fifo")
    return Result(scenario=scenario, run=run(seed, **fields), manifest=made, notes=notes)
