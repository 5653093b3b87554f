"""Number formats in force, by role, and who asked for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afdsim.catalog.llm import Precision
from afdsim.scenario.leaves import stored

if TYPE_CHECKING:
    from afdsim.scenario.document import Scenario

DEFAULT = "default"
"""Origin of a format that nobody asked for."""


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


def formats(precision: Precision, origins: Mapping[str, str]) -> tuple[Format, ...]:
    """Return what `precision` means by role; `origins` names who asked for each of its fields that was given."""
    core = origins.get("attention") or ("as KV cache" if "kv_cache" in origins else DEFAULT)
    found = [
        Format(role="attention", dtype=precision.cache, origin=core),
        Format(role="FFN", dtype=precision.ffn, origin=origins.get("ffn", DEFAULT)),
        Format(role="KV cache", dtype=precision.cache, origin=origins.get("kv_cache", "as attention")),
    ]
    if precision.projections != precision.ffn:
        apart = Format(role="projections", dtype=precision.projections, origin=f"beside {precision.ffn} FFN")
        found.insert(2, apart)
    return tuple(found)


def of_scenario(scenario: Scenario) -> tuple[Format, ...]:
    """Return the formats that a scenario runs in."""
    asked, origins = scenario.precision, scenario.origins("precision")
    if "ffn" not in origins and stored(scenario.model):
        origins |= {"ffn": "checkpoint"}
    return formats(Precision(ffn=asked.ffn, kv_cache=asked.kv_cache), origins)


def sentence(found: Iterable[Format]) -> str:
    """Return ``precision attention bf16 (scenario), FFN fp8 (default), KV cache bf16 (as attention)``."""
    return f"precision {', '.join(map(str, found))}"


def answer(found: Iterable[Format]) -> dict[str, dict[str, str]]:
    """Return the same for JSON: role -> dtype and origin."""
    return {each.role: {"dtype": each.dtype, "origin": each.origin} for each in found}
