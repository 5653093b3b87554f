"""Who asks next: the initial population, arrivals, refills of a closed loop, and when everything counted has ended."""

from __future__ import annotations

from dataclasses import dataclass

from afdsim.cluster.colocated import Colocated
from afdsim.cluster.deployment import Afd
from afdsim.engine.batching import Batching
from afdsim.errors import CapacityError
from afdsim.workload.laws import RequestSource

FOREVER = float("inf")
MOST_REFUSALS = 10_000
"""Requests in a row that may be too long for any rank before a closed loop gives up."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of the deployment."""

    source: RequestSource
    closed: bool
    num_requests: int
    """Requests to count in a closed loop, to issue in an open one."""
    concurrency: int = 0
    """Requests in flight in a closed loop."""
    warmup: float | None = None
    """Seconds that do not count. None in a closed loop: until as many requests have finished as it started with."""
    horizon: float = FOREVER
    """Simulated seconds after which the run stops."""


class Admission:
    """Issues requests to the batching. An open loop issues by time, a closed one refills the slot that fell free."""

    def __init__(self, demand: Demand, batching: Batching) -> None:
        self.demand, self.batching, self.requests = demand, batching, batching.requests
        self.outstanding = 0
        """Counted requests that were issued and have not ended."""
        self.warm_at: float | None = None if demand.closed and demand.warmup is None else demand.warmup or 0.0
        """When the warm-up ended; None while nobody knows."""
        self._drawn = 0
        self._finished = 0
        self._counted = 0
        self._populated = False
        if demand.closed:
            self._populate()
            self._populated = True

    @property
    def done(self) -> bool:
        """Whether every request that counts has been issued and has ended."""
        return self.outstanding == 0 and self._counted >= self.demand.num_requests

    @property
    def progress(self) -> float:
        """Share of the counted requests that has ended."""
        return (self._counted - self.outstanding) / max(self.demand.num_requests, 1)

    @property
    def next_arrival(self) -> float:
        """When the next request of an open loop arrives; never, if there is none."""
        exhausted = self.demand.closed or self._drawn >= self.demand.num_requests
        return FOREVER if exhausted else self.demand.source.arrival(self._drawn)

    def arrive(self, now: float) -> None:
        """Seat every request that has arrived by `now`, in order of arrival."""
        while (time := self.next_arrival) <= now:
            self._counted += 1
            request = self._issue(time, counted=time >= (self.warm_at or 0.0))
            if request is not None:
                self.batching.queue(request, self.batching.seat_for_arrival())

    def finished(self, request: int, now: float) -> None:
        """A request has produced its last token; a closed loop refills its slot."""
        self.outstanding -= self.requests.counted[request]
        if not self.demand.closed:
            return
        self._finished += 1
        if self.warm_at is None and self._finished >= self.demand.concurrency:
            self.warm_at = now
        self.batching.queue(self._issue_fitting(now), self.requests.seat[request])

    def _issue(self, arrival: float, *, counted: bool) -> int | None:
        """Draw the next request; None if no rank could ever hold it."""
        request = self.requests.add(arrival, self.demand.source.lengths(self._drawn), counted=counted)
        self._drawn += 1
        if not self.batching.fits_ever(request):
            self.requests.refused[request] = True
            return None
        self.outstanding += counted
        return request

    def _populate(self) -> None:
        """Fill the slots with requests whose ages are evenly spread inside every seat."""
        seats: dict[int, list[int]] = {}
        for _ in range(self.demand.concurrency):
            seat = self.batching.seat_for_arrival()
            request = self._issue_fitting(0.0)
            self.batching.queue(request, seat)
            seats.setdefault(seat, []).append(request)
        for members in seats.values():
            for place, request in enumerate(members):
                age = (2 * place + 1) * self.requests.output_len[request] // (2 * len(members))
                self.requests.context[request] += age

    def _issue_fitting(self, now: float) -> int:
        """The next request of a closed loop that a rank can hold; it counts once the warm-up population is complete."""
        for _ in range(MOST_REFUSALS):
            counted = self._populated and self._counted < self.demand.num_requests
            self._counted += counted
            request = self._issue(now, counted=counted)
            if request is not None:
                return request
        last = len(self.requests) - 1
        raise too_long(self.batching.deployment, self.requests.input_len[last] + self.requests.output_len[last])


def too_long(deployment: Afd | Colocated, context: int) -> CapacityError:
    """No request of a closed loop fits; `context` is the need of one of them."""
    return CapacityError(
        f"no request fits: {context:,} tokens need {deployment.kv_reserved(context) / 1e9:.1f} GB of KV cache, "
        f"an attention rank has {deployment.kv_budget / 1e9:.1f} GB; shorten input_len or output_len, or raise "
        "deployment.attention.parallelism.tp",
        path="workload.input_len",
    )
