"""Pictures of runs and sweeps: the public face of `results.plot`."""

from afdsim.results.plot import (
    CAUSE_COLOURS,
    CAUSE_HATCHES,
    COLOURS,
    Simulated,
    causes,
    colours,
    frontier,
    gantt,
    itl_histogram,
    pareto,
    ratio,
    save,
    throughput,
    tpot_cdf,
    tpot_histogram,
    utilization,
)

__all__ = [
    "CAUSE_COLOURS",
    "CAUSE_HATCHES",
    "COLOURS",
    "Simulated",
    "causes",
    "colours",
    "frontier",
    "gantt",
    "itl_histogram",
    "pareto",
    "ratio",
    "save",
    "throughput",
    "tpot_cdf",
    "tpot_histogram",
    "utilization",
]
