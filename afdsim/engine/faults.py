"""What crashes when, how long the cell stands still for it, and which instances are away meanwhile.

A crash of any part takes its instance down, and with it the cell, whose units move in lock step: they stop at the time
of the crash, notice it `detection` seconds later, and go on after a restart. An instance is back `detection` + `repair`
seconds after its latest crash. The cell waits for those that it needs (all, or one of each role where it shrinks); the
restart begins when they are there. A crash during an outage extends it by the same rules, with one restart at its end.
Whoever is repaired by then goes on with the others; a shrunken cell stops once more, between two steps and for a
restart, when another instance is back. A unit stops at a boundary that ends after the crash; one that ends at the very
time of it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from afdsim.engine.seats import FOREVER
from afdsim.errors import SimulationError

MOST_IN_A_ROW = 10_000
"""Crashes in one outage, or outages without a token between them, after which a cell is given up."""


class Instance(NamedTuple):
    """A server of one role, whose units go down together."""

    name: str
    role: str
    gpus: int
    nics: int
    first: int
    last: int
    """Units first .. last - 1."""

    @property
    def units(self) -> slice:
        """Its units."""
        return slice(self.first, self.last)


class Crash(NamedTuple):
    """A part crashes; sorts by time, ties by the place of the part in the deployment."""

    at: float
    part: int
    target: str
    instance: int
    repair: float


@dataclass(frozen=True, kw_only=True)
class Failing:
    """What may crash in a cell, and what then happens."""

    instances: tuple[Instance, ...]
    crashes: Callable[[], Iterator[Crash]]
    """All of them, in order."""
    detection: float
    restart: float
    shrinks: bool
    """Whether the cell goes on without an instance that is away."""
    keeps: bool
    """Whether the instances that did not fail keep their KV cache through a restart."""
    pace: float | None
    """Tokens per second at which a lost context is computed again; None: requests that lost theirs are rejected."""


class Outage(NamedTuple):
    """The cell stood still from `at` until `resumed`."""

    at: float
    resumed: float
    """When it would go on: the run may have ended before."""
    planned: bool
    """Whether it stopped between two steps, because an instance was back."""
    crashes: tuple[Crash, ...]
    """The one that began it, and those that hit meanwhile."""
    back: tuple[str, ...]
    """Instances that came back to a shrunken cell."""


class Hit(NamedTuple):
    """What an outage did to the requests."""

    interrupted: int
    """Requests in flight: each loses the token that was being computed."""
    contexts: int
    """Of these, and of those whose context was being computed again, how many lost their KV cache."""
    rejected: int
    tokens: int
    """Tokens that were being computed, and those that rejected requests had got."""
    again: int
    """Tokens of context that are computed again."""


@dataclass(kw_only=True)
class Outages:
    """The outages of a run, one after the other."""

    failing: Failing
    horizon: float
    away: dict[int, float] = field(default_factory=dict)
    """Instances that are away, and when each will be back."""
    barren: int = 0
    """Outages in a row between which nothing was served to those who were there."""
    unfelt: list[float] = field(default_factory=list)
    """When instances crashed that were away while the others went on: they only take longer to come back."""

    def __post_init__(self) -> None:
        self._crashes = self.failing.crashes()
        self._next = next(self._crashes, None)

    @property
    def strikes(self) -> float:
        """When the next part crashes; never, if not before the horizon."""
        return self._next.at if self._next is not None and self._next.at < self.horizon else FOREVER

    @property
    def returns(self) -> float:
        """When the next instance is back that a shrunken cell goes on without."""
        return min(self.away.values(), default=FOREVER)

    def begin(self, at: float) -> Outage:
        """The cell stops at `at`, because a part crashes then or because an instance is back."""
        planned = self.strikes > at
        before, crashes, ready = set(self.away), list[Crash](), at
        while self.strikes < ready + self.failing.restart or self.strikes <= at:
            crash = self._take()
            crashes.append(crash)
            ready = max(ready, self._fell(crash), self._needed())
            if len(crashes) > MOST_IN_A_ROW:
                raise SimulationError(_endless(f"{MOST_IN_A_ROW:,} crashes in one outage", at))
        resumed = ready + self.failing.restart
        self.away = {instance: back for instance, back in self.away.items() if back > resumed}
        back = (self.failing.instances[instance].name for instance in sorted(before - set(self.away)))
        self._pass_over()
        return Outage(at, resumed, planned, tuple(crashes), tuple(back))

    def _fell(self, crash: Crash) -> float:
        """Note how long an instance is away; returns when the others are ready to restart."""
        noticed, was_away = crash.at + self.failing.detection, self._is_away(crash)
        self.away[crash.instance] = max(self.away.get(crash.instance, 0.0), noticed + crash.repair)
        if not self.failing.shrinks:
            return self.away[crash.instance]
        return crash.at if was_away else noticed

    def _is_away(self, crash: Crash) -> bool:
        return crash.at < self.away.get(crash.instance, 0.0)

    def _pass_over(self) -> None:
        """Let crashes that the others do not feel, up to the next that they do, delay who is away."""
        passed: list[float] = []
        while self.strikes < FOREVER and self._next is not None and self._is_away(self._next):
            passed.append(self._next.at)
            self._fell(self._take())
            if len(passed) > MOST_IN_A_ROW:
                raise SimulationError(_endless(f"{MOST_IN_A_ROW:,} crashes of what is away", passed[0]))
        self.unfelt += passed

    def endure(self, at: float, *, served: bool) -> None:
        """Give up where nobody is served between outages; `served`: a token was out, or nobody wanted any."""
        self.barren = 0 if served else self.barren + 1
        if self.barren > MOST_IN_A_ROW:
            raise SimulationError(_endless(f"no token between {MOST_IN_A_ROW:,} outages in a row", at))

    def _take(self) -> Crash:
        crash, self._next = self._next, next(self._crashes, None)
        assert crash is not None
        return crash

    def _needed(self) -> float:
        """When every role has an instance again that is not away."""
        roles: dict[str, list[float]] = {}
        for index, instance in enumerate(self.failing.instances):
            roles.setdefault(instance.role, []).append(self.away.get(index, 0.0))
        return max(min(backs) for backs in roles.values())


def _endless(what: str, at: float) -> str:
    return (
        f"failures: {what}, at {at:,.4g} s: the deployment never comes to work; "
        "raise failures.mtbf, or lower failures.repair, detection or restart"
    )
