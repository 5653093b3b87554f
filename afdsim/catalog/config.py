"""The keys of one model's `config.json`, read with a check each.

Readers ask for roles; a family says which keys spell them. What was asked for, and which values came from the
defaults of the model's configuration class, is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from afdsim.errors import CatalogError

LARGEST = 10**7
"""No dimension of a language model is larger; a bigger number is a slip, and would only exhaust memory."""

MOST_LAYERS = 2000

LAYER_WORDS: Mapping[str, str] = {
    "attention": "full_attention",
    "mamba": "linear_attention",
    "mamba2": "linear_attention",
    "deepseek_sparse_attention": "indexed_attention",
}
"""Older words of ``layer_types``, and today's."""


LIKELY = 0.85
"""Ratio of common letters from which a word is taken for a slip of another."""


def shown(value: object) -> str:
    """Return a value of the file as a message quotes it."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def same(one: object, other: object) -> bool:
    """Return whether two values say the same, kinds of layers in older or today's words.

    >>> same(["attention", "mamba"], ["full_attention", "linear_attention"]), same(8, 8.0), same(8, 16)
    (True, True, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return LAYER_WORDS.get(one, one) == LAYER_WORDS.get(other, other)
    return one == other


def meant(word: str, known: Collection[str]) -> str | None:
    """Return the word of `known` that `word` is a slip of, with the same digits; None where it is none.

    >>> meant("num_key_value_head", ["num_key_value_heads"]), meant("deepseek_v4", ["deepseek_v3"])
    ('num_key_value_heads', None)
    """
    digits = [other for other in known if _digits(other) == _digits(word)]
    return next(iter(get_close_matches(word, digits, n=1, cutoff=LIKELY)), None)


def _digits(word: str) -> str:
    return "".join(filter(str.isdigit, word))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The keys of one model; a role is spelled by the keys of `spellings`, in order, or by its own name."""

    path: Path
    model_type: str
    keys: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration class, by key."""
    spellings: Mapping[str, str] = field(default_factory=dict)
    """Keys of a role, joined by ``|``; a role without them is not part of this family."""
    asked: set[str] = field(default_factory=set)
    """Keys that were read."""
    taken: dict[str, Any] = field(default_factory=dict)
    """Defaults that stood in for absent keys."""
    notes: list[str] = field(default_factory=list)
    """What readers found and could not model."""

    def fault(self, role: str, demand: str) -> CatalogError:
        """Return the error that says what the key of `role` must be."""
        key = self.spelled(role)
        if key not in self.keys:
            slip = meant(key, self.keys)
            hint = f" (the file has {slip})" if slip else ""
            return CatalogError(f"{self.path}: {key}: missing; a {self.model_type} config needs it{hint}")
        return CatalogError(f"{self.path}: {key}: must be {demand} (got {shown(self.keys[key])})")

    def refuse(self, role: str, why: str) -> CatalogError:
        """Return the error that says why the key of `role` cannot be modelled."""
        key = self.spelled(role)
        return CatalogError(f"{self.path}: {key}: {shown(self.keys.get(key))} {why}")

    def has(self, role: str) -> bool:
        """Return whether this family knows `role`."""
        return role in self.spellings

    def spelled(self, role: str) -> str:
        """Return the key that says `role`: the first with a value, else the first present, else the usual one."""
        keys = self.spellings.get(role, role).split("|")
        said = [key for key in keys if self.keys.get(key) is not None]
        present = [key for key in keys if key in self.keys]
        default = [key for key in keys if key in self.defaults]
        return (said or present or default or keys)[0]

    def get(self, role: str) -> Any:
        """Return the value of a role, of the class where the file says nothing; None where neither does."""
        key = self.spelled(role)
        self.asked.update(other for other in self.spellings.get(role, role).split("|") if self._agrees(other, key))
        if key in self.keys:
            return self.keys[key]
        value = self.defaults.get(key)
        if value not in (None, False, 0):
            self.taken[key] = value
        return value

    def _agrees(self, other: str, key: str) -> bool:
        return self.keys.get(other) is None or same(self.keys[other], self.keys.get(key))

    def assume(self, role: str, value: object) -> None:
        """Remember what stands in for a role where the file does not have its key."""
        key = self.spelled(role)
        if key not in self.keys:
            self.taken.setdefault(key, value)

    def skip(self, *roles: str) -> None:
        """Note that keys were read, and do nothing in this model."""
        for role in roles:
            self.asked.update(self.spellings.get(role, role).split("|"))

    def whole(self, role: str, default: int | None = None, *, least: int = 1, most: int = LARGEST) -> int:
        """Return a whole number; `default`, where there is one, also stands for null."""
        value = self.get(role)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.fault(role, f"a whole number from {least:,} to {most:,}")
        return value

    def maybe(self, role: str) -> int | None:
        """Return a whole number, or None where the key is absent or null."""
        return None if self.get(role) is None else self.whole(role)

    def window(self, role: str) -> int | None:
        """Return the tokens of a window; None where the key is absent, null or 0, which some files write for none."""
        value = self.get(role)
        return None if value is None or (value == 0 and not isinstance(value, bool)) else self.whole(role)

    def count(self, role: str) -> int:
        """Return a number of things, 0 where the family or the file has none."""
        return self.whole(role, 0, least=0) if self.has(role) else 0

    def even(self, role: str, *, least: int = 1, most: int = LARGEST) -> int:
        """Return a whole number that may also be written as a list of it, once for every layer."""
        value = self.get(role)
        if not isinstance(value, list):
            return self.whole(role, least=least, most=most)
        numbers = self.numbers(role) or ()
        if len(set(numbers)) != 1 or not least <= numbers[0] <= most:
            raise self.fault(role, f"one whole number from {least:,} to {most:,}, the same for all layers")
        return numbers[0]

    def flag(self, role: str, default: bool = False) -> bool:
        """Return a truth value; `default` where the file and the class say nothing."""
        value = self.get(role)
        if value is None:
            return default
        if value not in (0, 1):
            raise self.fault(role, "true or false")
        return bool(value)

    def numbers(self, role: str) -> tuple[int, ...] | None:
        """Return a list of whole numbers, also written as "4,5,6"; None where the key is absent or null."""
        value = self.get(role)
        if value is None:
            return None
        items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list) or any(not isinstance(item, int | str) or item is True for item in items):
            raise self.fault(role, "a list of whole numbers")
        try:
            return tuple(int(item) for item in items)
        except ValueError:
            raise self.fault(role, "a list of whole numbers") from None

    def indices(self, role: str) -> tuple[int, ...] | None:
        """Return a list of layers, counted from 0; None where the key is absent or null."""
        found = self.numbers(role)
        beyond = next((layer for layer in found or () if not 0 <= layer < self.layers), None)
        if beyond is not None:
            raise self.refuse(role, f"holds {beyond}, and the layers are 0 to {self.layers - 1}")
        return found

    def words(self, role: str) -> tuple[str, ...] | None:
        """Return a list of strings; None where the key is absent or null."""
        value = self.get(role)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fault(role, "a list of names")
        return tuple(value)

    def kinds(self, role: str, allowed: Collection[str]) -> tuple[str, ...] | None:
        """Return a word of `allowed` for each layer, older words in today's; None where nothing is said."""
        words = self.words(role)
        if words is None:
            return None
        found = tuple(LAYER_WORDS.get(word, word) for word in words)
        odd = sorted(set(found) - set(allowed))
        if odd:
            raise self.refuse(
                role, f"holds {odd[0]!r}, which {self.model_type} does not have (known: {', '.join(sorted(allowed))})"
            )
        self.per_layer(role, found)
        return found

    def part(self, role: str) -> Config:
        """Return the keys of a nested object, which must be there."""
        value = self.get(role)
        if not isinstance(value, dict):
            raise self.fault(role, "an object with its keys")
        return Config(path=self.path, model_type=f"{self.model_type} {role}", keys=value, notes=self.notes)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.whole("num_hidden_layers", most=MOST_LAYERS)

    def per_layer(self, role: str, found: Collection[Any]) -> None:
        """Demand one entry per layer of the list `found` of `role`."""
        if len(found) != self.layers:
            raise self.fault(role, f"one entry for each of the {self.layers} layers, not {len(found)}")
