"""Figures as text prints them: how many digits, whether a value prints so, and which figures a text has."""

from __future__ import annotations

import re

NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
"""A printed number, thousands with commas or without."""
SLACK = 5e-5
"""What rounding may add to half of the last digit, as a share: the kept tables were rounded before, to five digits."""
EXACT = 1e-9
"""The same of values that were not rounded before."""
UNITS = (
    r"%|per cent|ms|us|ns|s|min|minutes|hours|h|times|USD|tok/s|tokens/s|req/s|steps/s|requests/s|tokens|requests|"
    r"GB/s|TB/s|Gb/s|MB/s|GB|MB|GiB|MiB|kB|KB|cases|simulations|layouts|M tokens/s|million|steps"
)
FIGURE = re.compile(rf"(?<![\w.,/`-]){NUMBER}(?:e-?\d+)?(?: to {NUMBER})? ?(?:{UNITS})(?![\w/])")
"""A number with its unit."""
CELL = re.compile(rf"(?<![\w.,/`]){NUMBER}(?![\w/])")
"""A number of a table, whose unit stands in its head."""


def spaced(text: str) -> str:
    """Return a text with one space for every run of white space, so that lines may be broken anywhere."""
    return " ".join(text.split())


def said(text: str) -> tuple[float, float]:
    """Return the value of a printed number and what one of its last digit is worth."""
    plain = text.replace(",", "")
    return float(plain), 10.0 ** -len(plain.partition(".")[2])


def prints(value: float, text: str, slack: float = SLACK) -> bool:
    """Return whether a value prints as `text` at the digits that it has."""
    known, digit = said(text)
    return abs(value - known) <= 0.5 * digit + slack * abs(value) + EXACT * digit


def change(before: float, after: float) -> str:
    """Return by how much a value moved, as a share of it where it is not 0."""
    return f"{after / before - 1:+.2%}" if before else f"{after - before:+.3g}"
