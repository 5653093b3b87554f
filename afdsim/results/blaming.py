"""Whom the GPUs waited for, and what one more instance would give, as lines of at most 96 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afdsim.results.header import hanging
from afdsim.units import show_many

TITLE = "Whom the GPUs waited for (share of all GPU time, GPU-seconds)"
WORDS = {
    "pool": "pools",
    "peer": "late peers",
    "port": "ports",
    "uplink": "uplinks",
    "nvlink": "NVLink",
    "path": "path",
    "host": "hosts",
    "rank": "slowest ranks",
    "outage": "crashes",
}
WORST = {"peers": "later than their mates", "ports": "ports"}
LEAST = 0.0005
"""Shares below which nobody is told."""
UNITS = 3
"""Units that are told to have been on the critical path."""
ROLES = {
    "attention": "One more attention instance",
    "ffn": "One more FFN instance",
    "instance": "One more instance",
    "degree": "The next degree",
}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the worst peers and ports, every kind of culprit, and the critical path with the slack beside it."""
    for name, title in WORST.items():
        worst = {who: own for who, own in found[name].items() if own["share"] >= LEAST}
        told = [f"{who} {own['share']:.1%} ({own['gpu_s']:,.4g})" for who, own in worst.items()]
        yield from hanging(f" {title}: ", ", ".join(told)) if told else ()
    kinds = [f"{WORDS[kind]} {own['share']:.1%}" for kind, own in found["kinds"].items() if own["share"] >= LEAST]
    yield from hanging(" in all: ", ", ".join(kinds) or "nobody")
    yield from _critical(found["critical_path"]) if "critical_path" in found else ()


def _critical(found: Mapping[str, Any]) -> Iterator[str]:
    parts = [f"{part} {share:.0%}" for part, share in found["shares"].items() if share >= 0.005]
    units = [f"{unit} {share:.0%}" for unit, share in list(found["units"].items())[:UNITS]]
    yield from hanging(" critical path: ", f"{', '.join(parts)}; operations of {', '.join(units)}")
    slacks = [f"{part} {own['mean']:.3g}" for part, own in found["slack_ms"].items() if part != "boundary"]
    yield from hanging(" mean slack (ms): ", ", ".join(slacks))


def marginal(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what one more instance of each role would give, or why it would not."""
    for row in rows:
        gpus = "" if "why" in row else f", {show_many(row['gpus'], 'GPU')}"
        text = row.get("why") or ", ".join(_gives(row))
        yield from hanging(f"{ROLES[row['role']]} ", f"({row['deployment']}{gpus}): {text}")


def _gives(row: Mapping[str, Any]) -> Iterator[str]:
    if "mean_tpot_ms" in row:
        yield f"TPOT {row['mean_tpot_ms']:,.4g} ms"
    if "tgs" in row:
        change = f" ({row['tgs_change']:+.1%})" if "tgs_change" in row else ""
        yield f"{row['tgs']:,.0f} tok/s/GPU{change}"
    if "usd_per_1m_output_tokens" in row:
        yield f"${row['usd_per_1m_output_tokens']:.3f}/1M"
