"""Seconds looked up in measured tables, for kernels that the simple form fails: fused MoE and small GEMMs.

A table is made monotone before use, so that one more token never costs less, interpolated between measured points in
logarithms, and never extrapolated: an operator outside what was measured is refused with the measured range, unless
another cost model is given for it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from afdsim.catalog.hardware import Gpu
from afdsim.catalog.llm import Array
from afdsim.cost.operators import Operator
from afdsim.cost.roofline import CostModel
from afdsim.errors import CatalogError

Floats: TypeAlias = "NDArray[np.float64]"
Key: TypeAlias = tuple[str, str, str]
"""GPU (or family), kernel, dtype."""
Shape: TypeAlias = tuple[float, ...]
"""(k, n) of a GEMM; (hidden, inner, local experts) of a grouped GEMM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement."""

    key: Key
    shape: Shape
    tokens: float
    """Rows of a GEMM; token-expert pairs of a grouped GEMM."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Measured seconds over increasing axes, monotone along each of them."""

    axes: tuple[Floats, ...]
    """Tokens first, then the dimensions of the shape where they form a full grid."""
    seconds: Floats

    def covers(self, values: Iterable[Array]) -> bool:
        """Return whether `values`, one per axis, lie inside the grid."""
        return all(
            bool(np.all((np.asarray(value) >= axis[0]) & (np.asarray(value) <= axis[-1])))
            for value, axis in zip(values, self.axes, strict=True)
        )

    def line(self, shape: Shape) -> Floats:
        """Return the seconds over the tokens axis at one shape, linear in the logarithms of its dimensions."""
        logs = np.log(self.seconds)
        for axis, value in zip(self.axes[1:], shape, strict=True):
            low, share = _place(axis, value)
            up = np.minimum(low + 1, len(axis) - 1)
            logs = (1.0 - share) * np.take(logs, low, axis=1) + share * np.take(logs, up, axis=1)
        # an interpolated flat part may rise and fall in its last digit
        return np.asarray(np.maximum.accumulate(np.exp(logs)))

    def at(self, tokens: Array, shape: Shape) -> Floats:
        """Return interpolated seconds, linear in the logarithm of the tokens: never falling, to the last digit."""
        line = self.line(shape)
        low, share = _place(self.axes[0], tokens)
        up = np.minimum(low + 1, len(line) - 1)
        return np.asarray(line[low] + (line[up] - line[low]) * share)


def _place(axis: Floats, value: Array) -> tuple[NDArray[np.intp], Floats]:
    """Return the index below `value` on `axis` and how far it is towards the next one, in logarithms."""
    asked = np.asarray(value, dtype=np.float64)
    low = np.clip(np.searchsorted(axis, asked, side="right") - 1, 0, max(len(axis) - 2, 0))
    if len(axis) == 1:
        return low, np.zeros(asked.shape)
    return low, np.clip(np.log(asked / axis[low]) / np.log(axis[low + 1] / axis[low]), 0.0, 1.0)


def monotone(seconds: Floats) -> Floats:
    """Return `seconds` made non-decreasing along every axis.

    The mean of the least monotone table above and the greatest below, so that a wild point is shared out to both sides.

    >>> monotone(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    above, below = seconds, seconds
    for axis in range(seconds.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return np.asarray((above + below) / 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTable:
    """A cost model that looks operators up and hands those of other kernels to `others`."""

    grids: Mapping[Key, Mapping[Shape, Grid]] = field(hash=False)
    """One grid per shape; a single one under the empty shape where shapes form a full grid."""
    others: CostModel
    """Prices kernels, and GPUs, that no table holds."""
    beyond: CostModel | None = None
    """Prices what lies outside a table; None refuses it."""

    def seconds(self, operator: Operator, gpu: Gpu) -> Array:
        """Return the seconds of `operator` on one `gpu`; no tokens take as long as the fewest measured."""
        grids = self._grids(operator, gpu)
        if grids is None:
            return self.others.seconds(operator, gpu)
        tokens = np.asarray(_tokens(operator), dtype=np.float64)
        grid = grids.get(operator.shape)
        more: Shape = ()
        if grid is None and () in grids:
            grid, more = grids[()], operator.shape
        if grid is None:
            return self._outside(operator, gpu, grids, grid)
        rows = np.where(tokens > 0.0, tokens, grid.axes[0][0])
        if not grid.covers((rows, *more)):
            return self._outside(operator, gpu, grids, grid)
        return grid.at(rows, more) * _unpadded_share(operator)

    def _grids(self, operator: Operator, gpu: Gpu) -> Mapping[Shape, Grid] | None:
        for owner in (gpu.name, gpu.family):
            found = self.grids.get((owner, operator.kernel, operator.dtype))
            if found is not None:
                return found
        return None

    def _outside(self, operator: Operator, gpu: Gpu, grids: Mapping[Shape, Grid], grid: Grid | None) -> Array:
        if self.beyond is not None:
            return self.beyond.seconds(operator, gpu)
        what = f"{operator.name} ({operator.kernel} {operator.dtype} on {gpu.name}"
        shape = "x".join(f"{each:g}" for each in operator.shape)
        if grid is None:
            known = ", ".join("x".join(f"{each:g}" for each in shape) for shape in list(grids)[:6])
            raise CatalogError(f"{what}, shape {shape}) was not measured; measured shapes: {known}")
        tokens = np.asarray(_tokens(operator))
        spans = ", ".join(f"{axis[0]:g} to {axis[-1]:g}" for axis in grid.axes)
        raise CatalogError(
            f"{what}) at {tokens.max():g} rows and shape {shape} lies outside the measured {spans}; "
            "measure it, or name a cost model for what lies beyond"
        )


def _tokens(operator: Operator) -> Array:
    """Return the coordinate along which a kernel was measured: rows of a GEMM, pairs of a grouped one."""
    if operator.kernel == "gemm":
        k, n = operator.shape
        return operator.flops / (2.0 * k * n)
    assert operator.rows is not None, "a table is over rows"
    return operator.rows * operator.shape[-1]


def _unpadded_share(operator: Operator) -> float:
    """Return all over routed FLOPs: a shared expert in the same launch is taken to run at the same rate."""
    shared = np.asarray(operator.unpadded, dtype=np.float64)
    if not shared.any():
        return 1.0
    routed = np.asarray(operator.flops) - shared
    return float(np.max(1.0 + shared / np.where(routed > 0, routed, np.inf)))


def measured_table(points: Iterable[Point], *, others: CostModel, beyond: CostModel | None = None) -> MeasuredTable:
    """Return the cost model of measured points."""
    by_key: dict[Key, list[Point]] = {}
    for point in points:
        by_key.setdefault(point.key, []).append(point)
    return MeasuredTable(grids={key: _gridded(own) for key, own in by_key.items()}, others=others, beyond=beyond)


def _gridded(points: list[Point]) -> dict[Shape, Grid]:
    """Return one grid over tokens and shapes where every combination was measured, else one per shape."""
    axes = [sorted({value for point in points for value in (point.tokens,)})]
    axes += [sorted(set(column)) for column in zip(*(point.shape for point in points), strict=True)]
    found = {(point.tokens, *point.shape): point.seconds for point in points}
    if len(found) == np.prod([len(axis) for axis in axes]):
        return {(): _grid(axes, found)}
    grids = {}
    for shape in dict.fromkeys(point.shape for point in points):
        own: dict[tuple[float, ...], float] = {(p.tokens,): p.seconds for p in points if p.shape == shape}
        grids[shape] = _grid([sorted(tokens for (tokens,) in own)], own)
    return grids


def _grid(axes: list[list[float]], found: Mapping[tuple[float, ...], float]) -> Grid:
    seconds = np.array([found[place] for place in product(*axes)]).reshape([len(axis) for axis in axes])
    if (seconds <= 0).any():
        raise CatalogError("a measured time is not positive")
    return Grid(axes=tuple(np.array(axis) for axis in axes), seconds=monotone(seconds))


def read_points(text: str) -> list[Point]:
    """Return the points of a CSV with the columns gpu, kernel, dtype, shape (``7168x2048x32``), tokens, seconds."""
    return [_point(line) for line in csv.DictReader(text.splitlines())]


def _point(line: Mapping[str, str]) -> Point:
    try:
        return Point(
            key=(line["gpu"], line["kernel"], line["dtype"]),
            shape=tuple(float(each) for each in line["shape"].split("x")),
            tokens=float(line["tokens"]),
            seconds=float(line["seconds"]),
        )
    except (KeyError, ValueError, AttributeError) as error:
        raise CatalogError(f"measured table: {dict(line)} is not gpu, kernel, dtype, shape, tokens, seconds") from error
