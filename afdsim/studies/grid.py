"""The points of a sweep: axes by dotted path, their product, and the file that describes them.

An axis is a path with its values, or several paths whose values move together (``zip``). Everything that can be wrong
with an axis is found before the first point runs, all faults at once, with positions where there is a file.
In a table numbers stay numbers, and amounts become numbers in one unit; other values are texts.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from afdsim import units
from afdsim.errors import ScenarioError
from afdsim.scenario import complaints, yamlfile
from afdsim.scenario.document import SWEEP, Scenario, load, locate, near, shelf, told, within
from afdsim.scenario.leaves import Name, got
from afdsim.scenario.yamlfile import Document

TRIED = 200
"""Combinations in which a value that the base refuses is tried before it is called wrong."""

MOST_SEEDS = 100_000

KEYS = ("version", "name", "base", "axes", "zip", "seeds")

Zips = Mapping[str, Iterable[object]] | Iterable[Mapping[str, Iterable[object]]]


class Point(NamedTuple):
    """One simulation of a sweep."""

    chosen: tuple[object, ...]
    """The value of every path, in the order of `Grid.paths`."""
    cells: tuple[object, ...]
    """The same as a table shows them."""
    seed: int


class Column(NamedTuple):
    """The values of one path as a column of a table."""

    cells: tuple[object, ...]
    """A cell for every place on the axis; all are numbers, or all are texts, but for None and truth values."""
    unit: str = ""
    """What the numbers count, where the values are amounts with units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Paths that vary together; one path, unless it is a zip."""

    paths: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    """A value of every path, for every place on the axis."""
    at: tuple[str, ...] = ()
    """``file:line:col`` of every path, where there is a file."""

    def where(self, path: int) -> str:
        """Return the beginning of a message about a path."""
        return ": ".join(part for part in ((self.at[path] if self.at else ""), self.paths[path]) if part)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All points of a sweep: the product of the axes, first axis slowest, seeds fastest."""

    base: Scenario
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    folder: str = ""
    """Where relative paths among the values start from."""
    name: str = "sweep"

    def __post_init__(self) -> None:
        faults = [*_axis_faults(self.axes), *_seed_faults(self.seeds)] or list(self._value_faults())
        if faults:
            raise ScenarioError(told(faults))

    def __len__(self) -> int:
        return self.combinations * len(self.seeds)

    @property
    def combinations(self) -> int:
        """Points, seeds not counted."""
        return math.prod(len(axis.rows) for axis in self.axes)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that vary."""
        return tuple(path for axis in self.axes for path in axis.paths)

    def points(self) -> Iterator[Point]:
        """Yield every point in order; nothing of them is kept."""
        for index in range(self.combinations):
            chosen, cells = self.chosen(index), self.cells(index)
            for seed in self.seeds:
                yield Point(chosen, cells, seed)

    def scenario(self, chosen: tuple[object, ...]) -> Scenario:
        """Return the scenario of a point, the same for all of its seeds."""
        changes = {"run.seeds": [0], **dict(zip(self.paths, chosen, strict=True))}
        return self.base.varied(changes, folder=self.folder)

    def described(self) -> dict[str, Any]:
        """Return the content of a sweep file with the same points, its base written out."""
        alone = {axis.paths[0]: [row[0] for row in axis.rows] for axis in self.axes if len(axis.paths) == 1}
        columns = [dict(zip(axis.paths, map(list, zip(*axis.rows, strict=True)), strict=True)) for axis in self.axes]
        together = [group for group in columns if len(group) > 1]
        whole = {"version": 1, "name": self.name, "base": self.base.given(), "axes": alone}
        return whole | ({"zip": together} if together else {}) | {"seeds": list(self.seeds)}

    def chosen(self, index: int) -> tuple[object, ...]:
        """Return the value of every path at one combination."""
        return tuple(value for axis, place in self._places(index) for value in axis.rows[place])

    def cells(self, index: int) -> tuple[object, ...]:
        """Return the cell of every path at one combination."""
        return tuple(self.columns[path].cells[place] for axis, place in self._places(index) for path in axis.paths)

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """Every path as a column: a cell for every place on its axis."""
        return {path: column([row[n] for row in axis.rows]) for axis in self.axes for n, path in enumerate(axis.paths)}

    @property
    def units(self) -> dict[str, str]:
        """The unit of every path whose values are amounts."""
        return {path: found.unit for path, found in self.columns.items() if found.unit}

    def _places(self, index: int) -> list[tuple[Axis, int]]:
        """Return where a combination is on every axis."""
        found = []
        for axis in reversed(self.axes):
            index, place = divmod(index, len(axis.rows))
            found.append((axis, place))
        return found[::-1]

    def _value_faults(self) -> Iterator[str]:
        """Find the values that no combination can use: wrong kind, wrong unit, outside their range."""
        for place, axis in enumerate(self.axes):
            for row, values in enumerate(axis.rows):
                faults = self._own_faults(axis, dict(zip(axis.paths, values, strict=True)))
                if faults and all(self._own_faults(axis, each) for each in self._with(place, row)):
                    yield from faults

    def _with(self, place: int, row: int) -> Iterator[dict[str, object]]:
        """Yield some of the combinations that contain a row of an axis."""
        inner = math.prod(len(axis.rows) for axis in self.axes[place + 1 :])
        outer = math.prod(len(axis.rows) for axis in self.axes[:place])
        stride = max(1, inner * outer // TRIED)
        for count in range(0, inner * outer, stride):
            before, after = divmod(count, inner)
            index = (before * len(self.axes[place].rows) + row) * inner + after
            yield dict(zip(self.paths, self.chosen(index), strict=True))

    def _own_faults(self, axis: Axis, changes: dict[str, object]) -> list[str]:
        """Return what is wrong at the paths of an axis itself; the rest is the business of the points."""
        try:
            self.base.varied(changes, folder=self.folder)
        except ScenarioError as error:
            lines = str(error).splitlines()
        else:
            return []
        return [
            f"{axis.where(index)}{line[len(path) :]}"
            for index, path in enumerate(axis.paths)
            for line in lines
            if line.startswith((f"{path}: ", f"{path}.", f"{path}["))
        ]


def grid(
    base: Scenario,
    over: Mapping[str, Iterable[object]] | None = None,
    zipped: Zips | None = None,
    seeds: int | Iterable[int] | None = None,
) -> Grid:
    """Return the points of axes given in Python."""
    axes = [_axis({path: values}) for path, values in (over or {}).items()]
    groups = [zipped] if isinstance(zipped, Mapping) else list(zipped or ())
    return Grid(
        base=base, axes=(*axes, *map(_axis, groups)), seeds=_seeds(seeds, base, "seeds"), name=base.name
    )  # fmt: skip


def shipped() -> tuple[str, ...]:
    """Return the names of the sweeps that travel with the package."""
    return tuple(sorted(path.name.removesuffix(SWEEP) for path in shelf().glob(f"*{SWEEP}")))


def find(source: str | Path) -> Path:
    """Return the file of a sweep: a path first, then a shipped name, with or without ``.sweep.yaml``."""
    path = Path(source)
    if path.is_file():
        return path
    name = path.name.removesuffix(SWEEP)
    if str(path.parent) in (".", "scenarios") and name in shipped():
        return near(shelf() / f"{name}{SWEEP}")
    what = "is a folder" if path.is_dir() else "no such file"
    close = units.suggestion(name, shipped())
    raise ScenarioError(f"{source}: {what}, and no shipped sweep{close} (shipped: {', '.join(shipped())})")


def read(path: str | Path, overrides: Iterable[str] = ()) -> Grid:
    """Return the points that a sweep file describes; `overrides` change its base."""
    path = find(path)
    document = yamlfile.read(path)
    faults = [*document.faults, *_shape_faults(document)]
    if faults:
        raise ScenarioError(told(faults))
    data = document.data
    inside = isinstance(data["base"], dict)
    base = within(document, "base", overrides) if inside else load(_base(document), overrides)
    axes = [_axis_in_file(document, {key: ("axes", key)}) for key in data.get("axes", {})]
    groups = [
        _axis_in_file(document, {key: ("zip", index, key) for key in group})
        for index, group in enumerate(data.get("zip", []))
    ]
    seeds = _seeds(data.get("seeds"), base, f"{document.where(('seeds',))}: seeds")
    try:
        name = Name().read(data.get("name", path.name.removesuffix(".yaml").removesuffix(".sweep")))
    except ValueError as error:
        raise ScenarioError(f"{document.where(('name',))}: name: {error}") from None
    return Grid(base=base, axes=(*axes, *groups), seeds=seeds, folder=str(document.folder(())), name=name)


def column(values: Sequence[object]) -> Column:
    """Return the values of a path as cells of one kind.

    >>> column(["60 req/s", "2 req/min"]), column([1, 2.5]), column([1, "auto", [2]])  # doctest: +NORMALIZE_WHITESPACE
    (Column(cells=(60.0, 0.03333333333333333), unit='req/s'), Column(cells=(1.0, 2.5), unit=''),
     Column(cells=('1', 'auto', '[2]'), unit=''))
    """
    told = [value for value in values if value is not None]
    texts = ["inf" if value == math.inf else value for value in told]
    amounts = units.together([text for text in texts if isinstance(text, str)])
    if amounts is not None and all(isinstance(text, str) for text in texts):
        numbers = iter(amounts[0])
        return Column(tuple(math.nan if value is None else next(numbers) for value in values), amounts[1])
    if all(type(value) is int for value in values) or all(isinstance(value, bool) for value in told):
        return Column(tuple(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in told):
        return Column(tuple(math.nan if value is None else float(value) for value in values))  # type: ignore[arg-type]
    return Column(tuple(None if value is None else str(shown(value)) for value in values))


def shown(value: object) -> object:
    """Return a value as a cell of a table: maps and lists as JSON text."""
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, Mapping | list | tuple) else value


# axes ---------------------------------------------------------------------------------------------------------------


def _axis(columns: Mapping[str, Iterable[object]], at: tuple[str, ...] = ()) -> Axis:
    """Return the axis of one path, or of several whose values move together."""
    lists = {path: _listed(path, values, at[n] if at else "") for n, (path, values) in enumerate(columns.items())}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{path} has {len(values)}" for path, values in lists.items())
        raise ScenarioError(f"{at[0]}: zip: lengths differ: {counts}" if at else f"zip: lengths differ: {counts}")
    return Axis(paths=tuple(lists), rows=tuple(zip(*lists.values(), strict=True)), at=at)


def _listed(path: str, values: Any, at: str) -> list[object]:
    """Return the values of an axis; NumPy's numbers as Python's."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        place = f"{at}: {path}" if at else path
        raise ScenarioError(f"{place}: must be a list of values {got(values)}")
    return [value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value for value in values]


def _axis_in_file(document: Document, places: Mapping[str, yamlfile.Keys]) -> Axis:
    columns: dict[str, Any] = {}
    for path, keys in places.items():
        columns[path] = document.data
        for key in keys:
            columns[path] = columns[path][key]
        if isinstance(columns[path], Mapping) and set(columns[path]) == {"values"}:
            columns[path] = columns[path]["values"]
    return _axis(columns, tuple(document.where(keys, key=True) for keys in places.values()))


def _axis_faults(axes: tuple[Axis, ...]) -> Iterator[str]:
    """Find what is wrong with the axes whatever the base is."""
    seen: set[str] = set()
    for axis in axes:
        for index, path in enumerate(axis.paths):
            if path in seen:
                yield f"{axis.where(index)}: is an axis twice"
            elif fault := _path_fault(path):
                yield f"{axis.where(index)}: {fault}"
            seen.add(path)
        if not axis.rows and axis.paths:
            yield f"{axis.where(0)}: needs at least one value"
        if twice := _twice(map(shown, axis.rows)):
            yield f"{axis.where(0)}: names {', '.join(twice)} twice"


def _path_fault(path: object) -> str | None:
    if not isinstance(path, str):
        return f"must be a dotted path such as 'deployment.max_num_seqs' {got(path)}"
    if path.split(".")[:2] == ["run", "seeds"]:
        return "is not an axis; give seeds"
    return complaints.no_such_key(Scenario, yamlfile.split(path))


def _twice(values: Iterable[object]) -> list[str]:
    texts = [str(value).removeprefix("[").removesuffix("]") for value in values]
    return sorted(text for text, count in Counter(texts).items() if count > 1)


# seeds --------------------------------------------------------------------------------------------------------------


def _seeds(seeds: Any, base: Scenario, place: str) -> tuple[int, ...]:
    """Return the seeds: so many from 0 on, or those named, or those of the base."""
    place = place.removeprefix(": ")
    if seeds is None:
        return base.run.seeds
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ScenarioError(f"{place}: must be >= 1, or a list of seeds {got(seeds)}")
        if seeds > MOST_SEEDS:
            raise ScenarioError(f"{place}: must be at most {MOST_SEEDS:,} {got(seeds)}: each is a run of every point")
        return tuple(range(seeds))
    if isinstance(seeds, bool | str | bytes | Mapping) or not isinstance(seeds, Iterable):
        raise ScenarioError(f"{place}: must be how many, or a list of seeds {got(seeds)}")
    return tuple(_listed("seeds", seeds, ""))  # type: ignore[arg-type]  # checked by _seed_faults


def _seed_faults(seeds: tuple[object, ...]) -> Iterator[str]:
    if not seeds:
        yield "seeds: needs at least one"
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            yield f"seeds: must be whole numbers >= 0 {got(seed)}"
    if twice := _twice(seeds):
        yield f"seeds: names {', '.join(twice)} twice"


# sweep files --------------------------------------------------------------------------------------------------------


def _shape_faults(document: Document) -> Iterator[str]:
    """Find what is wrong with the keys of a sweep file."""
    data = document.data
    if "base" not in data and {"model", "deployment", "extends"} & set(data):
        yield f"{document.where(())}: is a scenario; afdsim run runs it, a sweep names it as its base"
        return
    for key in data:
        if key not in KEYS:
            known = f" (known: {', '.join(KEYS)})"
            yield f"{document.where((key,), key=True)}: {key}: unknown key{units.suggestion(key, KEYS) or known}"
    if data.get("version", 1) != 1:
        yield f"{document.where(('version',))}: version: must be 1 {got(data['version'])}"
    if not isinstance(data.get("base"), str | dict):
        yield f"{document.where(('base',))}: base: must be a scenario: a file or a shipped name {got(data.get('base'))}"
    if not isinstance(data.get("name", ""), str):
        yield f"{document.where(('name',))}: name: must be a text {got(data['name'])}"
    if not isinstance(data.get("axes", {}), dict):
        yield f"{document.where(('axes',))}: axes: must map paths to lists of values {got(data['axes'])}"
    groups = data.get("zip", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) and group for group in groups):
        yield f"{document.where(('zip',))}: zip: must be a list of maps from paths to lists of values {got(groups)}"


def _base(document: Document) -> Path:
    """Return the base of a sweep: beside the file, or shipped."""
    name = document.data["base"]
    beside = document.folder(("base",)) / name
    try:
        return beside if beside.is_file() else locate(name)
    except ScenarioError as error:
        raise ScenarioError(f"{document.where(('base',))}: base: {error}") from None
