"""What every map of a scenario is: frozen, strict, checked across its keys; and the types that several maps share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from afdsim.scenario.leaves import Amount, Real, Whole

Fault = tuple[str, str]
"""Dotted path below the part that found it, message."""

Time = Annotated[float, Amount("time", positive=False)]
Length = Annotated[int, Whole(high=10**9, why="no model reads more tokens")]
"""Tokens."""
Count = Annotated[int, Whole(high=10**5, why="no cluster has more")]
"""Servers, GPUs, ports, and what is cut over them."""
Requests = Annotated[int, Whole(high=10**8, why="a run holds every request in memory")]
Sequences = Annotated[int, Whole(high=10**5, why="a GPU holds every sequence in flight in memory")]
Sigma = Annotated[float, Real(reach=(1e-9, 10.0))]
"""Spread over mean, or of a logarithm."""


class Part(BaseModel):
    """A map of the scenario: frozen, strict, and with checks across its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=True)

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong among keys that are right one by one."""
        yield from ()

    @model_validator(mode="after")
    def _sound(self) -> Part:
        if found := tuple(self.faults()):
            raise PydanticCustomError("faults", "faults across keys", {"faults": found})
        return self
