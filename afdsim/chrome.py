"""A timeline as Chrome trace events: the public face of `results.chrome`."""

from afdsim.results.chrome import document, faults, save_pipeline, write

__all__ = ["document", "faults", "save_pipeline", "write"]
