"""What every class of requests got, as a table, and which of them is worst off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from afdsim.results.ink import Ink, table
from afdsim.results.metrics import shown_in
from afdsim.units import show_count

NONE: Final = "n/a"
_HEADS: Final = {
    "p99 TTFT": ("p99_ttft_ms", 1),
    "TPOT": ("mean_tpot_ms", 1),
    "p99 TPOT": ("p99_tpot_ms", 1),
    "p99 ITL": ("p99_itl_ms", 1),
    "p99 queue": ("p99_queue_ms", 1),
    "p99 E2EL": ("p99_e2el_ms", 1e-3),
}
"""Heads of the columns of classes, with keys and scales; that of the first token only with prefill."""


def lines(own: Mapping[str, Any], ink: Ink, *, prefilled: bool) -> list[str]:
    """Return a row for every class of a summary, and which of them is worst off; nothing where there are none."""
    classes, worst = own.get("classes", {}), own.get("worst_class")
    if not classes:
        return []
    heads = [head for head in _HEADS if prefilled or "TTFT" not in head]
    rows = [_row(name, each, heads) for name, each in classes.items()]
    found = table(["class", "finished", *heads, "goodput", "SLA"], rows, ink)
    found.append(" TPOT = mean; ms, E2EL in s; goodput = share of the requests inside every limit of their class")
    return found if worst is None else [*found, _worst(worst, classes[worst]["sla"], ink)]


def _worst(name: str, sla: Mapping[str, Any], ink: Ink) -> str:
    scale, unit = shown_in(sla["metric"])
    value = f"{sla['value_ms'] * scale:,.4g}" if "value_ms" in sla else NONE
    limit = f"{sla['percentile']} {sla['metric'].upper()} {value} of {sla['limit_ms'] * scale:,.6g} {unit}"
    return f" worst: {name}, {limit}: {ink.verdict(sla['verdict'])}"


def _row(name: str, own: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    """Figures of one class; n/a where it has too few requests for them."""
    keys = [_HEADS[head] for head in heads]
    few, sla = own.get("too_few", ()), own.get("sla", {})
    cells = [NONE if key in few or key not in own else f"{own[key] * scale:,.4g}" for key, scale in keys]
    good = f"{sla['goodput_share']:.1%}" if sla else NONE
    return [name, show_count(own["completed"]), *cells, good, sla.get("verdict", NONE)]
