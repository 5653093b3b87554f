"""Whether an open loop goes on after its last arrival: one that does not carry its load would only work off its queue.

The load is judged once, with the first step that opens after the last arrival, by what `Demand.overloaded` says of the
record up to then. Both engines ask at the same place, when all boundaries of a step are over. A run with failures is
not judged: what queues up in an outage may yet be served.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from afdsim.engine import seats
from afdsim.engine.desk import Desk
from afdsim.engine.record import Record
from afdsim.engine.seats import FOREVER


class Closing:
    """The end of the arrivals of one run."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._overloaded = False
        demand = desk.demand
        judged = demand.stop is not None and demand.overloaded is not None and demand.failing is None
        desk.book.clock[seats.CLOSES_AT] = demand.stop if judged else FOREVER

    def ends(self, opened: float) -> bool:
        """Whether the run ends with a step whose boundaries were over at `opened`, because it is overloaded."""
        desk = self._desk
        if opened < desk.book.clock[seats.CLOSES_AT]:
            return False
        desk.book.clock[seats.CLOSES_AT] = FOREVER
        so_far = desk.record(steps=np.zeros(0, dtype=np.int64), events=0, traffic={})
        assert desk.demand.overloaded is not None
        self._overloaded = desk.demand.overloaded(so_far)
        if self._overloaded:
            desk.book.clock[seats.ENDS_AT] = opened
        return self._overloaded

    def signed(self, record: Record) -> Record:
        """The record of the run, with whether it ended so."""
        return replace(record, overloaded=self._overloaded)
