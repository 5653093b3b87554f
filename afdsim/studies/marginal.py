"""What one more instance of each role would give: re-simulated, not guessed.

A closed loop is measured as `tuning` measures its candidates, over a few steps of a full cluster with the same batch on
every rank in which nothing crashes, and so is the deployment as it is; an open loop, or one behind prefill servers,
runs as it was, with the same requests and seed. Of tensor parallelism the next degree that the model allows takes the
place of one more instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from afdsim.engine.cell import Cell, lonely_step
from afdsim.engine.lowering import lower
from afdsim.errors import AfdsimError
from afdsim.results import metrics
from afdsim.results.result import Result
from afdsim.scenario import tree
from afdsim.scenario.asked import ClosedLoop
from afdsim.scenario.document import Scenario
from afdsim.simulation import chosen_engine, demanded, simulate, turns_expected
from afdsim.studies.tuning import ENDLESS, SPARE, STEPS, measured

MOST = 1e8
"""Turns of units, and copies, of an open loop up to which it is run again without being asked for: seconds."""
DEGREES = 2
"""Times its GPUs up to which a tensor-parallel engine is enlarged."""


class Figures(NamedTuple):
    """What a deployment gives."""

    gpus: int
    tgs: float | None
    """Output tokens per GPU and second; None where an open loop was too short."""
    tpot: float | None
    """Mean, seconds."""
    usd: float | None
    """Per million output tokens; None where a price is not known."""


@dataclass(frozen=True, kw_only=True)
class More:
    """A deployment with one more instance."""

    role: str
    """attention, ffn, instance or degree."""
    label: str
    """What it is then, such as 3A2F."""
    changes: Mapping[str, int]
    """Values by dotted path."""


def quick(scenario: Scenario) -> bool:
    """Return whether one more instance is simulated in seconds: a closed loop is, an open one if it has few steps."""
    cell = lower(scenario, seed=scenario.run.seeds[0])
    demand = demanded(scenario, cell, scenario.run.seeds[0])
    return _loops(scenario) or turns_expected(cell, demand) <= MOST


def marginal(result: Result) -> tuple[dict[str, Any], ...]:
    """Return a row for each role: what the deployment of a run would give with one more instance of it, or why not.

    Nothing of a run that was too short to be told, and where no larger tensor-parallel engine is possible.
    """
    scenario, as_is = result.scenario, _of_run(result)
    if as_is.tgs is None:
        return ()
    closed = _loops(scenario)
    found, known = [], _measured(scenario, result.seed) if closed else as_is
    for more in ways(scenario):
        head = {"role": more.role, "deployment": more.label}
        try:
            varied = scenario.varied(dict(more.changes))
            seed = result.seed
            given = _measured(varied, seed) if closed else _of_run(simulate(varied, seed=seed, watch=False))
        except AfdsimError as error:
            found.append(head | {"why": _reason(error)})
        else:
            found.append(head | _told(given, known))
    return tuple(found)


def _loops(scenario: Scenario) -> bool:
    """Whether a few steps of a full cluster say what it gives: not where users think, or prefill holds them up."""
    alone = scenario.workload.sessions is None and scenario.prefill is None
    return isinstance(scenario.workload.arrival, ClosedLoop) and alone


def _told(given: Figures, known: Figures) -> dict[str, Any]:
    """Figures as plain data, with the relative change of tokens per GPU; what is not known is absent."""
    change = None if given.tgs is None or not known.tgs else given.tgs / known.tgs - 1
    row = {
        "gpus": given.gpus,
        "mean_tpot_ms": given.tpot and given.tpot * 1e3,
        "tgs": given.tgs,
        "tgs_change": change,
        "usd_per_1m_output_tokens": given.usd,
    }
    return {key: value for key, value in row.items() if value is not None}


def ways(scenario: Scenario) -> Iterator[More]:
    """Yield the deployment of a scenario with one more instance of each role."""
    match scenario.deployment:
        case _ if scenario.router is not None:
            return  # one more in every cell is no small change
        case tree.Afd(attention=attention, ffn=ffn):
            for role, a, f in (("attention", 1, 0), ("ffn", 0, 1)):
                label = f"{attention.instances + a}A{ffn.instances + f}F"
                count = attention.instances + a if a else ffn.instances + f
                yield More(role=role, label=label, changes={f"deployment.{role}.instances": count})
        case tree.Colocated(instances=instances) as asked:
            label = f"EP{(instances + 1) * asked.gpus_per_instance}"
            yield More(role="instance", label=label, changes={"deployment.instances": instances + 1})
        case tree.TensorParallel(gpus=gpus):
            for degree in range(gpus + 1, DEGREES * gpus + 1):
                changes = {"deployment.gpus": degree}
                if _possible(scenario, changes):
                    yield More(role="degree", label=f"TP{degree}", changes=changes)
                    return


def _possible(scenario: Scenario, changes: dict[str, int]) -> bool:
    try:
        lower(scenario.varied(dict(changes)), seed=scenario.run.seeds[0])
    except AfdsimError:
        return False
    return True


def _reason(error: AfdsimError) -> str:
    """What a refusal says first, without where and the way out."""
    clause, *_ = str(error).splitlines()[0].split("; ")
    return clause.rpartition(": ")[2]


# figures ------------------------------------------------------------------------------------------------------------


def _of_run(result: Result) -> Figures:
    found = result.summary
    own, tpot = found["afdsim"], found.get("mean_tpot_ms")
    return Figures(own["gpus"], own.get("tgs"), tpot and tpot / 1e3, own.get("usd_per_1m_output_tokens"))


def _measured(scenario: Scenario, seed: int) -> Figures:
    """Figures of a closed loop over a few steps of a full cluster."""
    cell = lower(scenario, seed=seed)
    demand = replace(demanded(scenario, cell, seed), num_requests=ENDLESS, warmup=0.0, failing=None)
    horizon = SPARE * (STEPS + 1) * lonely_step(cell)
    engine, _ = chosen_engine(scenario, cell, replace(demand, horizon=horizon))
    pace = measured(cell, demand, None, engine)
    gpus = cell.deployment.gpus
    return Figures(gpus, pace.tgs, pace.tpot, metrics.usd_per_1m_output_tokens(_pools(scenario, cell), pace.tgs * gpus))


def _pools(scenario: Scenario, cell: Cell) -> dict[str, metrics.Pool]:
    prices = dict(scenario.cost)
    return {
        pool.name: metrics.Pool(
            gpu=pool.gpus.gpu.name,
            gpus=pool.gpus.gpus,
            usd_per_hour=prices.get(pool.gpus.gpu.name, pool.gpus.gpu.usd_per_hour),
        )
        for pool in cell.pools
    }
