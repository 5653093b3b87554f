"""What can go wrong, by whose fault it is.

Every message names the thing, the value, the limit and the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AfdsimError(Exception):
    """Any failure that afdsim explains in one message."""


class ScenarioError(AfdsimError):
    """A scenario that cannot be read; the message lists every fault, one per line."""


class CatalogError(AfdsimError):
    """A GPU or a language model that the catalog does not hold, or cannot read."""


class CapacityError(AfdsimError):
    """A deployment that does not fit its hardware."""

    def __init__(
        self, message: str, *, path: str = "", tokens: int = 1, advice: tuple[Mapping[str, Any], ...] = ()
    ) -> None:
        super().__init__(message)
        self.path = path
        """Dotted scenario path at fault, such as ``deployment.max_num_seqs``; empty where no single one is."""
        self.tokens = tokens
        """Context of a request that must fit."""
        self.advice = advice
        """Changes, each of which makes the scenario fit: values by dotted path."""


class ModelError(AfdsimError):
    """A cost or network model of the caller's that lacks its method or answers with what cannot be seconds."""


class SimulationError(AfdsimError):
    """A run that broke one of its own laws, or that cannot go on."""


class StoppedEarly(Exception):  # noqa: N818 - no error: somebody wants no more
    """Raised by a callback of progress to end a run where it is; what is complete is kept."""
