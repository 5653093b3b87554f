"""Who did what when in a part of a run: the public face of `results.timeline` and `studies.recording`."""

from afdsim.results.excerpt import Span
from afdsim.results.timeline import Recorder, Timeline, draw, window
from afdsim.studies.recording import record

__all__ = ["Recorder", "Span", "Timeline", "draw", "record", "window"]
