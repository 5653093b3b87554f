"""What fails and what then happens: crashes of instances, GPUs and NICs, their repair, and the requests they hit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from afdsim.scenario.cabling import Servers
from afdsim.scenario.leaves import Amount, Choice, Text
from afdsim.scenario.part import Fault, Part, Time

PARTS = ("instance", "gpu", "nic")
"""What may crash: a whole instance, one of its GPUs, or one of its NICs."""
_TARGET = r"(attention|ffn|instance)\[\d{1,6}\](\.(gpu|nic)\[\d{1,6}\])?"
_WANTED = "'attention[i]' or 'ffn[i]'; colocated: 'instance[i]'; a part of one: 'ffn[0].gpu[3]', 'ffn[0].nic[2]'"
Span = Annotated[float, Amount("time")]


class Event(Part):
    """A crash at a stated time."""

    at: Time
    """Simulated time."""
    target: Annotated[str, Text(_TARGET, _WANTED)]
    """An instance, or a GPU or NIC of one, whose crash takes the instance down."""
    repair: Time | None = None
    """From its detection until the instance is back; default: `failures.repair`."""


class Mtbf(Part):
    """Mean time between crashes of each part of a kind, exponential; a kind without one never fails by itself."""

    instance: Span | None = None
    """Of each instance."""
    gpu: Span | None = None
    """Of each GPU."""
    nic: Span | None = None
    """Of each NIC."""

    def faults(self) -> Iterator[Fault]:
        """Check that something fails."""
        if not self.given:
            yield "", "needs a kind of part, for example 'instance: 30d'"

    @property
    def given(self) -> dict[str, float]:
        """Seconds by kind of part."""
        return {kind: mean for kind in PARTS if (mean := getattr(self, kind)) is not None}


class Failures(Part):
    """Crashes and repairs of one deployment, which moves in lock step: an instance that is down stops all of it."""

    events: tuple[Event, ...] = ()
    """Crashes at stated times."""
    mtbf: Mtbf | None = None
    """Crashes drawn from the seed."""
    repair: Time = 300.0
    """From the detection of a crash until the instance is back, or replaced; assumed."""
    detection: Time = 10.0
    """From a crash until the others have noticed and aborted: StepMesh gives up a wait after 10 s."""
    restart: Time = 60.0
    """Processes start, weights load, queue pairs connect; assumed."""
    meanwhile: Annotated[Literal["stop", "shrink"], Choice(("stop", "shrink"))] = "stop"
    """Until the repair: all stand still, or go on without the instance and restart once more when it is back."""
    requests: Annotated[Literal["reprefill", "reject"], Choice(("reprefill", "reject"))] = "reprefill"
    """What becomes of requests whose KV cache is lost: their context is computed again, or they end as lost."""
    reprefill_rate: Annotated[float, Amount("token rate")] | None = None
    """Tokens per second at which a lost context is computed again, each request's by itself."""
    kv_cache: Annotated[Literal["lost", "kept"], Choice(("lost", "kept"))] = "lost"
    """Whether instances that did not fail keep their KV cache while the group restarts; StepMesh's processes abort."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        """Refuse a map without a crash: nothing would ever fail."""
        if isinstance(data, dict) and not {"events", "mtbf"} & data.keys():
            raise ValueError("needs 'events' or 'mtbf': nothing fails without one")
        return data

    def faults(self) -> Iterator[Fault]:
        """Check that a lost context has a rate at which it comes back, where it does."""
        if self.requests == "reprefill" and self.reprefill_rate is None:
            yield (
                "reprefill_rate",
                "required key is missing with 'requests: reprefill', e.g. '20000 tok/s'; or write 'requests: reject'",
            )
        if self.requests == "reject" and self.reprefill_rate is not None:
            yield "reprefill_rate", "belongs to 'requests: reprefill'; remove it (or set it to null)"


def misfits(failures: Failures, pools: Mapping[str, Servers], kind: str) -> Iterator[Fault]:
    """Yield what does not fit a deployment of a `kind`, whose `pools` go by name of target."""
    for place, event in enumerate(failures.events):
        if text := _no_target(event.target, pools, kind):
            yield f"events.{place}.target", text
    if kind == "tensor_parallel" and failures.mtbf is not None and failures.mtbf.nic is not None:
        yield "mtbf.nic", _NO_NIC
    if failures.meanwhile == "shrink":
        hit = {event.target.split("[")[0] for event in failures.events} if failures.mtbf is None else set(pools)
        for alone in (pool for pool in pools if pool in hit and pools[pool].instances == 1):
            yield "meanwhile", f"shrink needs a second {_noun(alone)} that goes on, and there is 1; write 'stop'"


_NO_NIC = "a tensor_parallel engine sends nothing through NICs; name the instance or a GPU"


def _noun(pool: str) -> str:
    return "instance" if pool == "instance" else f"{pool} instance"


def _no_target(target: str, pools: Mapping[str, Servers], kind: str) -> str:
    """Say why a deployment has no such part; empty if it has."""
    pool, index, part, number = split(target)
    if pool not in pools:
        words = " and ".join(f"'{name}[i]'" for name in pools)
        return f"{kind} deployments have {words}"
    servers = pools[pool]
    if index >= servers.instances:
        return f"{pool} has instances 0..{servers.instances - 1}"
    if part == "nic" and kind == "tensor_parallel":
        return _NO_NIC
    what, count = ("NICs", servers.nics) if part == "nic" else ("GPUs", servers.gpus)
    return f"{_noun(pool)} {index} has {what} 0..{count - 1}" if number >= count else ""


def split(target: str) -> tuple[str, int, str, int]:
    """Return (pool, instance, kind of part, its index) of a target; a whole instance has index 0.

    >>> split("ffn[1].nic[2]")
    ('ffn', 1, 'nic', 2)
    >>> split("attention[0]")
    ('attention', 0, 'instance', 0)
    """
    pool, index, *rest = re.findall(r"\w+", target)
    part, number = rest or ("instance", "0")
    return pool, int(index), part, int(number)
