"""The values of a scenario: how each kind is read from a file, written back and described to an editor.

Quantities come with units and become SI numbers; whole numbers are strict (``true`` and ``2.0`` are none); names are
looked up in the catalog. A wrong value is a ValueError that says what would be right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from afdsim import units
from afdsim.errors import CatalogError


def got(value: object) -> str:
    """Return what was found, as a reader of YAML knows it."""
    match value:
        case None:
            return "(got nothing)"
        case bool():
            return f"(got {str(value).lower()})"
        case Mapping():
            return "(got a map)"
        case list() | tuple():
            return "(got a list)"
        case str():
            return f"(got {units.clip(value)!r})"
        case _:
            return f"(got {units.clip(str(value))})"


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A value that is read, written and described by its own rules."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(self.write, when_used="json")
        return core_schema.no_info_plain_validator_function(self.read, serialization=writer)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.describe()

    def read(self, value: Any) -> Any:
        """Return the value inside the tree; ValueError says what is wrong with it."""
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        """Return the value as a file holds it."""
        return value

    def describe(self) -> dict[str, Any]:
        """Return the JSON schema."""
        raise NotImplementedError


BOUNDS: Mapping[units.Quantity, tuple[float, float]] = MappingProxyType(
    {
        "time": (1e-12, 1e9),
        "rate": (1e-9, 1e9),
        "token rate": (1e-3, 1e15),
        "bandwidth": (1.0, 1e18),
        "size": (1.0, 1e18),
        "compute": (1.0, 1e24),
        "price": (1e-9, 1e9),
    }
)
"""What an amount above zero may be, SI: beyond it sums of double precision lose whole events, or overflow."""


@dataclass(frozen=True, slots=True)
class Amount(_Leaf):
    """A number with a unit."""

    quantity: units.Quantity
    positive: bool = True

    def read(self, value: Any) -> float:
        """Convert to SI."""
        number, (low, high) = self._number(value), BOUNDS[self.quantity]
        if number < 0 or (self.positive and number == 0):
            raise ValueError(f"must be {'>' if self.positive else '>='} 0 {got(value)}")
        if math.isfinite(number) and not (low if self.positive else 0.0) <= number <= high:
            ends = " and ".join(units.exact(end, self.quantity) for end in (low, high))
            raise ValueError(f"must be between {ends} {got(value)}")
        return number

    def _number(self, value: Any) -> float:
        if isinstance(value, str):
            return units.parse(value, self.quantity)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a {self.quantity}, e.g. '{units.usual(self.quantity)}' {got(value)}")  # noqa: TRY004 - pydantic collects ValueError only
        if math.isinf(value) and value > 0 and self.quantity == "rate":
            return math.inf
        raise ValueError(units.needs_unit(value, self.quantity))

    def write(self, value: float) -> str:
        """Return the shortest text that reads back to the same number."""
        return units.exact(value, self.quantity)

    def describe(self) -> dict[str, Any]:
        """Return a text with examples."""
        return {"type": "string", "examples": [units.usual(self.quantity)]}


@dataclass(frozen=True, slots=True)
class Whole(_Leaf):
    """A whole number; ``true`` and ``2.0`` are not."""

    low: int = 1
    high: int = 2**63 - 1
    why: str = ""
    """Why not more."""

    def read(self, value: Any) -> int:
        """Check it."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value < 2**63:
            raise ValueError(f"must be a whole number >= {self.low} {got(value)}")
        if value > self.high:
            raise ValueError(f"must be at most {self.high:,} {got(value)}: {self.why}")
        return value

    def describe(self) -> dict[str, Any]:
        """Return an integer with its limits."""
        return {"type": "integer", "minimum": self.low} | ({} if self.high == 2**63 - 1 else {"maximum": self.high})


@dataclass(frozen=True, slots=True)
class Real(_Leaf):
    """A finite number without a unit."""

    low: float = 0.0
    high: float = math.inf
    positive: bool = False
    reach: tuple[float, float] = (1e-9, 1e9)
    """What it may be where it is not 0: laws of numbers beyond overflow, or are those of numbers within."""

    def read(self, value: Any) -> float:
        """Check it."""
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not known or not self.low <= value <= self.high or (self.positive and value == self.low):
            most = "" if math.isinf(self.high) else f" and <= {self.high:g}"
            raise ValueError(f"must be a number {'>' if self.positive else '>='} {self.low:g}{most} {got(value)}")
        if value and not self.reach[0] <= value <= self.reach[1]:
            raise ValueError(f"must be between {self.reach[0]:g} and {self.reach[1]:g} {got(value)}")
        return float(value)

    def describe(self) -> dict[str, Any]:
        """Return a number with its limits."""
        low = {"exclusiveMinimum" if self.positive else "minimum": self.low}
        return {"type": "number", **low, "maximum": min(self.high, self.reach[1])}


@dataclass(frozen=True, slots=True)
class Text(_Leaf):
    """A text, which must match `pattern` if there is one."""

    pattern: str = ".+"
    wanted: str = "a text"

    def read(self, value: Any) -> str:
        """Check it."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value, re.DOTALL):
            raise ValueError(f"must be {self.wanted} {got(value)}")
        return value

    def describe(self) -> dict[str, Any]:
        """Return a string."""
        return {"type": "string"} if self.pattern == ".+" else {"type": "string", "pattern": f"^({self.pattern})$"}


@dataclass(frozen=True, slots=True)
class Name(Text):
    """One line of text that can be printed: no control characters, which a terminal would obey."""

    wanted: str = "one line of at most 200 printable characters"

    def read(self, value: Any) -> str:
        """Check it."""
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 200:
            raise ValueError(f"must be {self.wanted} {got(value)}")
        return value


@dataclass(frozen=True, slots=True)
class Sharding(Text):
    """Over how many GPUs something is cut: ``tp8``, or ``replicated``."""

    pattern: str = r"replicated|tp[1-9]\d{0,3}"
    wanted: str = "'replicated' or 'tp<n>', e.g. 'tp8'"

    def read(self, value: Any) -> str:
        """Check it; a bare number is told how it is written."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            written = f"tp{value}" if value > 1 else "replicated"
            raise ValueError(f"must be {self.wanted} {got(value)}; write '{written}'")
        return Text.read(self, value)


@dataclass(frozen=True, slots=True)
class GpuName(Text):
    """The name of a GPU of the catalog, spelled as there."""

    def read(self, value: Any) -> str:
        """Look it up."""
        from afdsim.catalog import entries as catalog

        try:
            return catalog.gpu(Text.read(self, value)).name
        except CatalogError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Choice(_Leaf):
    """One of a few words; `later` are those that the design knows and this version does not model."""

    known: tuple[str, ...]
    later: tuple[str, ...] = ()

    def read(self, value: Any) -> str:
        """Check it."""
        if isinstance(value, str) and value in self.known:
            return value
        if value in self.later:
            raise ValueError(f"'{value}' is not modelled yet; this version simulates {', '.join(self.known)}")
        near = units.suggestion(value, self.known) if isinstance(value, str) else ""
        raise ValueError(f"must be one of {', '.join(self.known)} {got(value)}{near}")

    def describe(self) -> dict[str, Any]:
        """Return an enumeration."""
        return {"enum": list(self.known)}


@dataclass(frozen=True, slots=True)
class ModelName(Text):
    """The name of a language model of the catalog, or the path of its config.json."""

    def read(self, value: Any) -> str:
        """Look it up."""
        from afdsim.catalog import entries as catalog

        try:
            catalog.llm(Text.read(self, value))
        except CatalogError as error:
            raise ValueError(str(error)) from None
        return str(value)


@dataclass(frozen=True, slots=True)
class Version(_Leaf):
    """The version of the format."""

    def read(self, value: Any) -> int:
        """Check it."""
        if isinstance(value, bool) or value != 1:
            raise ValueError(f"must be 1, the only version of the format {got(value)}")
        return 1

    def describe(self) -> dict[str, Any]:
        """Return the one value."""
        return {"const": 1}


@dataclass(frozen=True, slots=True)
class Flag(_Leaf):
    """True or false; ``yes`` and 1 are neither."""

    def read(self, value: Any) -> bool:
        """Check it."""
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false {got(value)}")  # noqa: TRY004 - pydantic collects ValueError only
        return value

    def describe(self) -> dict[str, Any]:
        """Return a boolean."""
        return {"type": "boolean"}


def stored(model: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the formats that are given, completed by those of a quantised checkpoint; as they are without a model."""
    from afdsim.catalog import entries as catalog
    from afdsim.catalog.llm import as_stored

    try:
        return as_stored(catalog.llm(model), given) if isinstance(model, str) else dict(given)
    except CatalogError:
        return dict(given)


def is_path(model: str) -> bool:
    """Return whether a model is given by a file or a folder, not by a name."""
    return "/" in model or "\\" in model or model.endswith(".json")
