"""What crashes did to a run: how long the cell stood still, whom it hit, and when the output was back.

*Requests hit* were in flight when the cell stopped; each loses the token that was being computed. *Contexts lost* are
KV caches that went, of these requests or of those whose context was still being computed again. *Tokens lost* are those
that were being computed and those that requests had got before they were rejected; tokens of context that are computed
again are counted apart. The output is back at the end of the first span of `SPAN` mean steps after the outage in which
it is at least `BACK` of that before. What is before: the later half of the time since the outage before it, or since
the start. During: from the crash until the output is back, or the cell goes on where it never is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from afdsim.engine.faults import Hit, Outage
from afdsim.engine.record import Record
from afdsim.results import metrics
from afdsim.results.metrics import Columns, Floats, Sla, Window, column

BACK: Final = 0.9
"""Share of the output before, from which on the deployment has recovered."""
SPAN: Final = 20.0
"""Mean steps over which the output is taken."""
SUMMED: Final = frozenset(
    {"crashes", "crashes_unfelt", "planned_stops", "requests_hit", "contexts_lost", "requests_lost"}
    | {"tokens_lost", "tokens_reprefilled", "downtime_s", "lost"}
)
"""Figures that are added up over several seeds."""
SHOWN: Final = 8
"""Outages that a report shows."""


def told(record: Record, requests: Columns, tokens: Columns, sla: Sla | None) -> dict[str, Any] | None:
    """Return what is said of the crashes of a run as a tree of numbers; None where nothing may crash."""
    if record.outages is None:
        return None
    outages = [outage for outage, _ in record.outages]
    down = _within(outages, record.window)
    length = record.window[1] - record.window[0]
    return {
        "crashes": sum(len(outage.crashes) for outage in outages),
        "crashes_unfelt": sum(at <= record.ended for at in record.unfelt),
        "planned_stops": sum(outage.planned for outage in outages),
        "downtime_s": down,
        "availability": 1.0 - metrics.ratio(down, length),
        **_sums([hit for _, hit in record.outages]),
        "outages": _each(record, requests, tokens, sla),
    }


def _within(outages: list[Outage], window: Window) -> float:
    """Seconds of a window in which the cell stood still."""
    return float(sum(max(0.0, min(each.resumed, window[1]) - max(each.at, window[0])) for each in outages))


def _sums(hits: list[Hit]) -> dict[str, int]:
    names = ("requests_hit", "contexts_lost", "requests_lost", "tokens_lost", "tokens_reprefilled")
    return {name: sum(hit[place] for hit in hits) for place, name in enumerate(names)}


def _each(record: Record, requests: Columns, tokens: Columns, sla: Sla | None) -> list[dict[str, Any]]:
    """Return what is said of every outage."""
    assert record.outages is not None
    output, found, since = _Output(tokens), list[dict[str, Any]](), 0.0
    nexts = [*(outage.at for outage, _ in record.outages[1:]), record.ended][: len(record.outages)]
    for (outage, hit), until in zip(record.outages, nexts, strict=True):
        resumed = min(outage.resumed, record.ended)
        before = ((since + outage.at) / 2, outage.at)
        back = output.back(before, resumed, until)
        during = (outage.at, resumed if back is None else back)
        found.append(
            {
                "at_s": outage.at,
                "targets": [crash.target for crash in outage.crashes],
                "planned": outage.planned,
                "returned": list(outage.back),
                "downtime_s": resumed - outage.at,
                **_sums([hit]),
                "recovery_s": None if back is None else back - outage.at,
                "output_before": output.rate(before),
                "output_during": output.rate(during),
                **_good(requests, sla, before, during),
            }
        )
        since = resumed
    return found


def _good(requests: Columns, sla: Sla | None, before: Window, during: Window) -> dict[str, float]:
    """Return requests per second that met every limit, by when they finished."""
    if sla is None:
        return {}
    ends = column(requests, "finish_s")[metrics.within(requests, sla)]
    return {
        f"goodput_{name}": metrics.ratio(float(((ends > low) & (ends <= high)).sum()), high - low)
        for name, (low, high) in (("before", before), ("during", during))
    }


class _Output:
    """Output tokens over time."""

    def __init__(self, tokens: Columns) -> None:
        moments, place = np.unique(column(tokens, "t_s"), return_inverse=True)
        self._moments: Floats = moments
        self._sums: Floats = np.cumsum(np.bincount(place, column(tokens, "batch"))) if len(place) else np.zeros(0)
        gaps = metrics.itl(tokens, (-np.inf, np.inf))
        usual = gaps.values <= np.percentile(gaps.values, 99) if gaps.count else np.zeros(0, dtype=bool)
        self._span = SPAN * float(gaps.values[usual].mean()) if usual.any() else 0.0

    def _until(self, times: Floats) -> Floats:
        """Tokens that are out by some times."""
        return np.concatenate([[0.0], self._sums])[np.searchsorted(self._moments, times, side="right")]

    def rate(self, window: Window) -> float:
        """Tokens per second in (low, high]."""
        low, high = self._until(np.array(window))
        return metrics.ratio(float(high - low), window[1] - window[0])

    def back(self, before: Window, resumed: float, until: float) -> float | None:
        """When the output is back after an outage, at the latest until the next; None if it is not."""
        wanted = BACK * self.rate(before) * self._span
        ends = self._moments[(self._moments >= resumed + self._span) & (self._moments <= until)]
        enough = ends[self._until(ends) - self._until(ends - self._span) >= wanted] if wanted else ends[:0]
        return float(enough[0]) if len(enough) else None


def pooled(failures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what several seeds together say: the outages of one are not those of another."""
    return {name: value for name, value in failures.items() if name != "outages"}


# as text ------------------------------------------------------------------------------------------------------------

HEAD: Final = ("outage", "at (s)", "down (s)", "hit", "contexts", "tokens lost", "back (s)", "tok/s before", "during")


def rows(failures: Mapping[str, Any]) -> list[list[str]]:
    """Return a row under `HEAD` for each of the first outages; several seeds have none."""
    return [_row(each) for each in failures.get("outages", ())[:SHOWN]]


def _row(each: Mapping[str, Any]) -> list[str]:
    hits = (f"{each[name]:,}" for name in ("requests_hit", "contexts_lost", "tokens_lost"))
    back = f"{each['recovery_s']:,.4g}" if "recovery_s" in each else "-"
    rates = (f"{each[name]:,.0f}" for name in ("output_before", "output_during"))
    return [_what(each), f"{each['at_s']:,.4g}", f"{each['downtime_s']:,.4g}", *hits, back, *rates]


def _what(each: Mapping[str, Any]) -> str:
    """Name what crashed, or what came back to a shrunken deployment."""
    first, *more = each["targets"] or each["returned"]
    if each["planned"]:
        first, more = f"{each['returned'][0] if each['returned'] else first} back", []
    return f"{first} +{len(more)}" if more else first


def sentences(failures: Mapping[str, Any], lost: int) -> list[str]:
    """Say what the table does not: how available the deployment was, and what became of the requests."""
    count, left = failures["crashes"], len(failures.get("outages", ())) - SHOWN
    crashes = f"{count:,} crash{'' if count == 1 else 'es'}"
    if failures["crashes_unfelt"]:
        crashes += f" and {failures['crashes_unfelt']:,} of instances that were away"
    parts = [f"{crashes}; up {failures['availability']:.2%} of the window, {failures['downtime_s']:,.4g} s down"]
    if failures["tokens_reprefilled"]:
        parts.append(f"{failures['tokens_reprefilled']:,} tokens of context computed again")
    if lost:
        parts.append(f"{lost:,} of the counted requests lost")
    return [*parts, *([f"{left:,} more outages in result.json"] if left > 0 else [])]
