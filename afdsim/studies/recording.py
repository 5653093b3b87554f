"""One run, and what happened in a part of it."""

from __future__ import annotations

from afdsim.results.metrics import Window
from afdsim.results.timeline import Recorder, Timeline, draw
from afdsim.scenario.document import Scenario, Source
from afdsim.simulation import Progress, simulate


def record(
    scenario: Source | Scenario, window: Window, *, seed: int | None = None, progress: Progress | None = None
) -> Timeline:
    """Run a scenario once and return what happened between two simulated times."""
    recorder = Recorder(window)
    return draw(simulate(scenario, seed=seed, progress=progress, observer=recorder), recorder)
