"""What keeps a run from being carried: its load, and why requests wait, or the limit of its SLA that fails worst.

Or nothing is known for sure: the run was too short for its load, or for the percentile that the SLA limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from afdsim.results import metrics
from afdsim.results.result import Result
from afdsim.results.summary import known
from afdsim.units import show_count, show_rate

FULL: Final = 0.97
"""Share of the slots from which they count as all taken."""
ROOM = 0.8
"""Share of the limit of TPOT below which more slots are worth a try."""
FULLER: Final = 95
"""Percentile over the moments in which somebody sits down."""
LOADS: Final = frozenset({"BACKLOGGED", "OVERLOADED"})


def limits(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every limit that a summary was held against, with what was found; those of a class with its name."""
    own = summary["afdsim"]
    for name, part in (("", own), *own.get("classes", {}).items()):
        sla = part.get("sla")
        if sla is None:
            continue
        for metric, found in sla.get("limits", {sla["metric"]: sla}).items():
            told = {key: found.get(key) for key in ("limit_ms", "value_ms", "ci_ms", "verdict")}
            yield known({"class": name or None, "metric": metric, "percentile": sla["percentile"], **told})


def binds(run: Result) -> dict[str, Any]:
    """Say why a run is not carried."""
    own = run.summary["afdsim"]
    level, failed = own.get("load"), [each for each in limits(run.summary) if each["verdict"] == "FAIL"]
    if level in LOADS:
        found = _load(run, own["saturation"])
    elif failed and level != "n/a":
        found = _failed(failed)
    else:
        return _open(run.summary)
    bound = own.get("bottleneck")
    if bound is None:
        return found
    where = f"the {bound['name']} ({bound['part']})" if "part" in bound else bound["name"]
    return {**found, "bottleneck": bound["name"], "text": f"{found['text']}; a step is bound by {where}"}


def worst(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The limit that is broken most, or is nearest to it; None where none has a value."""
    return max((each for each in limits(summary) if "value_ms" in each), key=_share, default=None)


def amount(limit: Mapping[str, Any], key: str) -> str:
    """The value or the limit in the unit that reports show it in, such as ``50 ms``."""
    scale, unit = metrics.shown_in(limit["metric"])
    return f"{limit[key] * scale:.4g} {unit}"


def shown(limit: Mapping[str, Any]) -> str:
    """What is limited, such as ``p99 TPOT of chat``."""
    name = {"queue": "queue wait"}.get(limit["metric"], limit["metric"].upper())
    return f"{limit['percentile']} {name}" + (f" of {limit['class']}" if "class" in limit else "")


def _failed(failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The limit that is broken most."""
    found = max(failed, key=_share)
    return {
        "kind": "sla",
        **found,
        "text": f"{shown(found)} = {amount(found, 'value_ms')} > {amount(found, 'limit_ms')}",
    }


def _open(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is not known for sure."""
    own = summary["afdsim"]
    if own.get("load") == "n/a":
        return {"kind": "undecided", "text": f"the load is not known: {own['saturation']['why']}"}
    found = max(
        limits(summary), key=lambda each: (each["verdict"] == "n/a", each["verdict"] == "MARGINAL", _share(each))
    )
    if "value_ms" not in found:
        text = f"no answer has a {shown(found)}"
    elif found["verdict"] == "n/a":
        text = f"too few answers for {shown(found)}"
    else:
        text = f"{shown(found)} = {amount(found, 'value_ms')} is too near to {amount(found, 'limit_ms')} to tell"
    return {"kind": "undecided", **found, "text": text}


def _share(limit: Mapping[str, Any]) -> float:
    """What was found, over the limit."""
    return float(limit.get("value_ms", 0.0) / limit["limit_ms"])


def _load(run: Result, found: Mapping[str, Any]) -> dict[str, Any]:
    """A load that is not carried, and what requests wait for."""
    cause, text = _waiting(run)
    rates = f"offered {show_rate(found['offered'])}, served {show_rate(found['served'])}"
    told = {"level": found["level"], "offered": found["offered"], "served": found["served"], "cause": cause}
    return {"kind": "load", **told, "text": f"{found['why']}: {rates}; {text}"}


def _waiting(run: Result) -> tuple[str, str]:
    """What the longest queue of a run waits for: (key, text)."""
    columns, end = run.run.requests, run.run.window[1]
    came = metrics.column(columns, "arrival_s")
    here = (came <= end) & (np.asarray(columns["status"]) != "refused")
    admitted = _by(columns, "admitted_s", end)
    if run.scenario.servers is not None:
        started, ready = _by(columns, "prefill_start_s", end), _by(columns, "kv_ready_s", end)
        if (started - came)[here].sum() > (admitted - ready)[here].sum():
            return "prefill", "prompts wait for prefill"
    taken, slots = _running(run), _slots(run)
    if taken >= FULL * slots:
        return "slots", f"all {show_count(slots)} slots are taken (deployment.max_num_seqs){_room(run)}"
    return "kv_cache", f"the KV cache is full with {show_count(taken)} of {show_count(slots)} slots taken"


def _room(run: Result) -> str:
    """Say that the SLA leaves room for more slots, where it does."""
    sla = run.summary["afdsim"].get("sla", {})
    if sla.get("metric") != "tpot" or _share(sla) > ROOM:
        return ""
    values = f"{sla['value_ms']:,.4g} of {sla['limit_ms']:,.4g} ms"
    return (
        f", and TPOT has room ({values}): a larger max_num_seqs may carry more, as 'afdsim plan --workload' would find"
    )


def _by(columns: metrics.Columns, name: str, end: float) -> metrics.Floats:
    """When something happened to every request, the end where it had not by then."""
    return np.fmin(metrics.column(columns, name), end)


def _running(run: Result) -> float:
    """Sequences that sat when others sat down, in the fuller moments of the window: a burst fills it for a while."""
    begin, end = run.run.window
    admitted, finish = (np.sort(metrics.column(run.run.requests, name)) for name in ("admitted_s", "finish_s"))
    moments = admitted[(admitted >= begin) & (admitted <= end)]
    if not len(moments):
        return 0.0
    sitting = np.searchsorted(admitted, moments, side="right") - np.searchsorted(finish, moments, side="right")
    return float(np.percentile(sitting, FULLER))


def _slots(run: Result) -> int:
    """Sequences that may sit in all cells."""
    parts = run.scenario.parts
    return sum(part.deployment.slots * (1 if part.router is None else part.router.count) for part in parts)
