"""Measured tables where the simple form fails: ``python tables.py FOLDER [-o points.csv]``.

Fused MoE (CUTLASS, balanced) and dense GEMMs of H100 and H200 become points for `afdsim.cost.table`. The printed errors
are of inner token counts left out in turn and interpolated from their neighbours, beside those of the simple form.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from recipes import Recipe, Row, read, recipes, samples
from run import shipped, shipped_errors

from afdsim.cost.table import Point, monotone


def chosen() -> Iterator[Recipe]:
    """Yield the kernels worth a table."""
    for recipe in recipes():
        fused = recipe.identity.kernel == "grouped_gemm" and recipe.identity.backend == "cutlass"
        if fused or (recipe.identity.kernel == "gemm" and recipe.identity.gpu in ("H100", "H200")):
            yield recipe


def points(recipe: Recipe, folder: Path) -> list[Point]:
    """Return the points of a recipe; a shape and token count measured twice counts with its median."""
    found: dict[tuple[tuple[float, ...], float], list[float]] = {}
    for row in read(folder / recipe.file, recipe.where):
        if recipe.work(row) is not None:
            found.setdefault(place(row), []).append(float(row["measured_us"]) * 1e-6)
    name = recipe.identity
    key = (name.gpu, name.kernel, name.dtype)
    return [
        Point(key=key, shape=shape, tokens=tokens, seconds=statistics.median(times))
        for (shape, tokens), times in sorted(found.items())
    ]


def place(row: Row) -> tuple[tuple[float, ...], float]:
    """Return (shape, tokens) of a row: (k, n) and rows of a GEMM; of experts (hidden, inner, local) and pairs."""
    if "num_experts" not in row:
        return (float(row["k"]), float(row["n"])), float(row["m"])
    ep = float(row["moe_ep_size"])
    shape = (float(row["hidden_size"]), float(row["inter_size"]), float(row["num_experts"]) / ep)
    return shape, float(row["num_tokens"]) * float(row["topk"]) / ep


def left_out(own: list[Point]) -> list[float]:
    """Return the relative errors of inner points, each interpolated from the others of its shape."""
    errors = []
    for shape in dict.fromkeys(point.shape for point in own):
        line = sorted((point.tokens, point.seconds) for point in own if point.shape == shape)
        tokens, seconds = np.log([t for t, _ in line]), np.array([s for _, s in line])
        for index in range(1, len(line) - 1, 3):
            keep = np.arange(len(line)) != index
            guess = np.exp(np.interp(tokens[index], tokens[keep], np.log(monotone(seconds[keep]))))
            errors.append(float(abs(guess / seconds[index] - 1.0)))
    return errors


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="measured CSV files")
    parser.add_argument("-o", "--output", type=Path, help="write the points here")
    asked = parser.parse_args(arguments)
    lines = ["gpu,kernel,dtype,shape,tokens,seconds"]
    print(f"{'GPU':5} {'kernel':14} {'dtype':5} {'points':>6}  {'table, left out':>16}  {'simple form':>16}")
    for recipe in chosen():
        own, row = points(recipe, asked.folder), shipped(recipe)
        errors, simple = left_out(own), shipped_errors(row, recipe, samples(recipe, asked.folder))
        both = f"{np.median(errors):6.1%} {np.quantile(errors, 0.9):8.0%}  {simple.median:6.1%} {simple.p90:8.0%}"
        name = recipe.identity
        print(f"{name.gpu:5} {name.kernel:14} {name.dtype:5} {len(own):6}   {both}")
        for point in own:
            shape = "x".join(f"{each:g}" for each in point.shape)
            lines.append(f"{','.join(point.key)},{shape},{point.tokens:g},{point.seconds:.4g}")
    if asked.output:
        asked.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
