"""Cost and network models as a caller may bring them; apart from the tests, whose source pytest rewrites."""

from dataclasses import dataclass

from afdsim.cluster.network import Wire
from afdsim.cost.roofline import Roofline


@dataclass(frozen=True)
class Slower:
    """The roofline, some times slower."""

    factor: float

    def seconds(self, operator, gpu):
        return self.factor * Roofline().seconds(operator, gpu)


@dataclass(frozen=True)
class Delay:
    """A wire with seconds more for every message."""

    more: float

    def seconds(self, nbytes, bandwidth):
        return Wire().seconds(nbytes, bandwidth) + self.more
