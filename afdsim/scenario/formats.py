"""Number formats in force, by role, and who asked for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afdsim.catalog import entries as catalog
from afdsim.catalog.llm import Precision
from afdsim.scenario.leaves import stored

if TYPE_CHECKING:
    from afdsim.scenario.document import Scenario

DEFAULT = "default"
"""Origin of a format that nobody asked for."""
CHECKPOINT = "checkpoint"
"""Origin of what a quantised checkpoint decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """The number format of one role."""

    role: str
    """"attention", "FFN", "projections" where theirs is another one, or "KV cache"."""
    dtype: str
    origin: str
    """Who asked for it: "scenario", "--set", "--precision", "checkpoint"; "default"; or "as ..." another role."""

    def __str__(self) -> str:
        return f"{self.role} {self.dtype} ({self.origin})"


def formats(precision: Precision, origins: Mapping[str, str], unquantised: str | None = None) -> tuple[Format, ...]:
    """Return what `precision` means by role; `origins` names who asked for each of its fields that was given.

    A default says where the checkpoint is `unquantised` in another format.
    """
    other = unquantised not in (None, precision.ffn)
    weights = f"{DEFAULT}; the checkpoint is {unquantised}" if other else DEFAULT
    core = origins.get("attention") or ("as KV cache" if "kv_cache" in origins else DEFAULT)
    found = [
        Format(role="attention", dtype=precision.cache, origin=core),
        Format(role="FFN", dtype=precision.ffn, origin=origins.get("ffn", weights)),
        Format(role="KV cache", dtype=precision.cache, origin=origins.get("kv_cache", "as attention")),
    ]
    if precision.projections != precision.ffn:
        origin = origins.get("projections", f"beside {precision.ffn} FFN")
        found.insert(2, Format(role="projections", dtype=precision.projections, origin=origin))
    return tuple(found)


def of_scenario(scenario: Scenario) -> tuple[Format, ...]:
    """Return the formats that a scenario runs in."""
    asked, origins = scenario.precision, scenario.origins("precision")
    given = {role: getattr(asked, role) for role in origins}
    precision = Precision(ffn=asked.ffn, projections=asked.projections or "", kv_cache=asked.kv_cache)
    origins = dict.fromkeys(stored(scenario.model, given), CHECKPOINT) | origins
    return formats(precision, origins, catalog.llm(scenario.model).unquantised)


def sentence(found: Iterable[Format]) -> str:
    """Return ``precision attention bf16 (scenario), FFN fp8 (default), KV cache bf16 (as attention)``."""
    return f"precision {', '.join(map(str, found))}"


def answer(found: Iterable[Format]) -> dict[str, dict[str, str]]:
    """Return the same for JSON: key of the scenario -> dtype and origin."""
    return {each.role.casefold().replace(" ", "_"): {"dtype": each.dtype, "origin": each.origin} for each in found}
