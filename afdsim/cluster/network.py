"""The seam for a network: seconds that a message occupies a NIC port."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Array = np.ndarray


class Network(Protocol):
    """The seam for a network of your own: seconds that a message occupies one NIC port."""

    def seconds(self, nbytes: Array, bandwidth: float) -> Array:
        """Seconds on the wire for messages of `nbytes` bytes at `bandwidth` bytes/s achieved."""
        ...


class Wire:
    """Time on the wire is bytes over achieved bandwidth."""

    def seconds(self, nbytes: Array, bandwidth: float) -> Array:
        return nbytes / bandwidth
