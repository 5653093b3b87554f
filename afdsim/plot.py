"""Pictures of runs and sweeps: the public face of `results.plot` and `results.plot_sweep`."""

from afdsim.results.plot import (
    CAUSE_COLOURS,
    CAUSE_HATCHES,
    Simulated,
    causes,
    itl_histogram,
    throughput,
    tpot_cdf,
    tpot_histogram,
    ttft_cdf,
    ttft_histogram,
)
from afdsim.results.plot_accounts import blame, cost, roofline
from afdsim.results.plot_parts import COLOURS, colours, save
from afdsim.results.plot_plan import plan
from afdsim.results.plot_sweep import frontier, pareto, ratio
from afdsim.results.plot_time import gantt, queue, utilization

__all__ = [
    "CAUSE_COLOURS",
    "CAUSE_HATCHES",
    "COLOURS",
    "Simulated",
    "blame",
    "causes",
    "colours",
    "cost",
    "frontier",
    "gantt",
    "itl_histogram",
    "pareto",
    "plan",
    "queue",
    "ratio",
    "roofline",
    "save",
    "throughput",
    "tpot_cdf",
    "tpot_histogram",
    "ttft_cdf",
    "ttft_histogram",
    "utilization",
]
