"""A run of three requests whose every figure can be worked out by hand."""

import math

from afdsim.results import metrics
from afdsim.results.metrics import Engine, Pool, Run, Sla

NAN = math.nan


def requests(**columns):
    """Three requests: two finish, with 3 and 1 tokens, and one is refused."""
    return {
        "arrival_s": [0.0, 1.0, 2.0],
        "admitted_s": [0.5, 1.0, NAN],
        "first_token_s": [1.0, 2.0, NAN],
        "finish_s": [2.0, 2.0, NAN],
        "input_len": [10, 20, 30],
        "output_len": [3, 1, 5],
        "status": ["finished", "finished", "refused"],
        "counted": [True, True, True],
    } | columns


def tokens():
    """One sequence with tokens at 1, 1.5 and 2; another one joins at 2."""
    return {
        "step": [1, 2, 3],
        "t_s": [1.0, 1.5, 2.0],
        "batch": [1, 1, 2],
        "gaps": [0, 1, 1],
        "itl_s": [1.0, 0.5, 0.5],
    }


def gpus():
    rows = {cause: [0.0, 0.0, 0.0] for cause in metrics.CAUSES}
    rows |= {"busy": [1.0, 2.0, 1.0], "wait_peer": [1.0, 0.0, 0.5], "network": [0.0, 0.0, 0.5]}
    return {"pool": ["attention", "attention", "ffn"], **rows}


def run(**fields):
    pools = {
        "attention": Pool(gpu="H20", gpus=2, usd_per_hour=1.0, mfu=0.25),
        "ffn": Pool(gpu="H800", gpus=1, usd_per_hour=1.6),
    }
    given = {
        "requests": requests(),
        "tokens": tokens(),
        "gpus": gpus(),
        "window": (0.0, 2.0),
        "pools": pools,
        "engine": Engine(name="kernel", steps=3, events=9),
        "sla": Sla(limits={"tpot": 0.6}, percentile="mean"),
    }
    return Run(**given | fields)
