"""All checks in their order, and a run of some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from afdsim.errors import ScenarioError
from afdsim.results.plot_parts import new_axes, save
from verification import engines, estimate, flows, jitter, little, oracles, other, pipeline, ports, soak, waits
from verification.checks import Check, Finding, NotRunError

CHECKS: tuple[Check, ...] = (
    waits.MEANS,
    waits.DISTRIBUTION,
    other.CIW,
    little.LITTLE,
    pipeline.STEPS,
    pipeline.BUBBLES,
    estimate.ESTIMATE,
    ports.PORTS_CHECK,
    flows.FLOWS,
    jitter.MOMENTS,
    jitter.MAXIMA,
    engines.ENGINES,
    oracles.ORACLES,
    soak.SOAK,
    soak.REPEATED,
)
AGREES, DIFFERS = "agrees", "differs"
PICTURES = "verification"
"""Folder of the pictures, beside the page that shows them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table of verdicts."""

    check: Check
    finding: Finding | None
    """None where the check was not run."""
    why: str = ""
    """Why not."""

    @property
    def verdict(self) -> str:
        """Agrees, differs, or why it was not run."""
        if self.finding is None:
            return f"not run here: {self.why}"
        return AGREES if self.finding.agrees else DIFFERS


def chosen(names: Iterable[str]) -> tuple[Check, ...]:
    """Return the checks of these names; all without names."""
    known, asked = {each.name: each for each in CHECKS}, tuple(names)
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ScenarioError(f"{', '.join(unknown)}: no check; there are {', '.join(known)}")
    return tuple(known[name] for name in asked) or CHECKS


def run(
    checks: Iterable[Check], folder: Path, *, scale: float = 1.0, say: Callable[[str], None] = lambda _: None
) -> Iterator[Row]:
    """Run checks one after the other and draw the picture of each into a folder."""
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for check in checks:
        started, ax = time.perf_counter(), new_axes(None, height=4.6)
        try:
            row = Row(check=check, finding=check.run(ax, scale))
            save(ax, pictures / f"{check.name}.png", dpi=100)
        except NotRunError as reason:
            (pictures / f"{check.name}.png").unlink(missing_ok=True)
            row = Row(check=check, finding=None, why=str(reason))
        say(f"{check.name}: {row.verdict} ({time.perf_counter() - started:.1f} s)")
        yield row
