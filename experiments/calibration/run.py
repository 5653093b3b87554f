"""Fit the coefficient table to measured kernels: ``python run.py FOLDER [-o coefficients.csv]``.

FOLDER holds measurements in the layouts that `recipes.py` describes. Prints one line per coefficient: the fit, its
errors in-sample and on the held-out fifth of the shapes, and what the shipped coefficient makes of the same rows.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from recipes import Recipe, recipes, samples

from afdsim.cost.fitting import Errors, Fit, errors, fit, line, to_csv
from afdsim.cost.roofline import Coefficient, table

HEAD = (
    f"{'GPU':5} {'kernel':14} {'dtype':5} {'n':>5} {'fixed us':>8} {'compute':>7} {'memory':>7} "
    f"{'median':>6} {'p90':>5}  {'held out':>11}  {'shipped':>22} {'median':>6} {'p90':>5}"
)


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="measured CSV files")
    parser.add_argument("-o", "--output", type=Path, help="write the fitted coefficients here")
    parser.add_argument("--only", default="", help="kernels to fit, separated by commas")
    asked = parser.parse_args(arguments)
    only = set(filter(None, asked.only.split(",")))
    lines = []
    print(HEAD)
    for recipe in recipes():
        if only and recipe.identity.kernel not in only:
            continue
        found = fitted(recipe, asked.folder)
        if found is not None:
            lines.append(line(recipe.identity, found))
    if asked.output:
        asked.output.write_text(to_csv(lines), encoding="utf-8")
        print(f"wrote {asked.output}: {len(lines)} rows")


def fitted(recipe: Recipe, folder: Path) -> Fit | None:
    """Fit one recipe and print its line; a missing file is said and skipped."""
    name = recipe.identity
    label = f"{name.gpu:5} {name.kernel + (str(name.gpus) if name.gpus else ''):14} {name.dtype:5}"
    if not (folder / recipe.file).is_file():
        print(f"{label} no {recipe.file}")
        return None
    measured = samples(recipe, folder)
    found = fit(measured, recipe.peaks)
    rate = f"{found.memory / 1e9:4.0f}GB/s" if name.collective else f"{found.memory:7.3f}"
    own = f"{found.own.median:6.1%} {found.own.p90:5.0%}  {found.held_out.median:5.1%} {found.held_out.p90:5.0%}"
    compute = "      -" if name.collective else f"{found.compute:7.3f}"
    print(f"{label} {found.samples:5} {found.fixed * 1e6:8.1f} {compute} {rate} {own}  {judged(recipe, measured)}")
    return found


def judged(recipe: Recipe, measured) -> str:
    """Return the shipped coefficient and its errors on the same rows."""
    row = shipped(recipe)
    if row is None:
        return "none shipped"
    found = shipped_errors(row, recipe, measured)
    rate = f"{row.bandwidth / 1e9:.0f}GB/s" if recipe.identity.collective else f"{row.compute:.3f} {row.memory:.3f}"
    return f"{row.fixed * 1e6:6.1f} {rate:>15} {found.median:6.1%} {found.p90:5.0%}"


def shipped(recipe: Recipe) -> Coefficient | None:
    """Return the row of the shipped table that a recipe is about."""
    name = recipe.identity
    for row in table().get((name.gpu, name.kernel), ()):
        if (row.dtype, row.gpus) == (name.dtype, name.gpus) and name.backend in (row.backend, "*"):
            return row
    return None


def shipped_errors(row: Coefficient, recipe: Recipe, measured) -> Errors:
    """Return the errors of a shipped coefficient; its fit excluded what `quantise` adds, and so do these."""
    rate = row.bandwidth if recipe.identity.collective else row.memory
    return errors((row.fixed, row.compute or math.inf, rate or math.inf), measured, recipe.peaks)


if __name__ == "__main__":
    main(sys.argv[1:])
