"""A saved result, run again: identical bit for bit, or what differs and by how much.

What a figure could owe to something else than the scenario and the seed (versions, coefficients, the engine) is in the
manifest, and is compared first. Then every column of every frame, every figure of ``result.json`` and ``seeds.json``,
and what ``manifest.json`` holds of the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from afdsim.errors import ScenarioError
from afdsim.results.result import FRAMES, Manifest, Result, frame_file, pooled, read_frame
from afdsim.simulation import simulate
from afdsim.studies.marginal import marginal
from afdsim.studies.reporting import reading

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[float, str], None]

ROUTED: Final = "requests were routed by "
"""How the note begins of a run whose router was the caller's."""
STOPPED: Final = "stopped at "
"""How the note begins of a run that somebody stopped."""
FITTED: Final = "sha256:"
"""How the digest of our own coefficients begins; a cost model of the caller's has its class before."""
MANY: Final = "number of rows"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure, or a column, that the run does not give again."""

    file: str
    figure: str
    """Dotted key, or name of a column."""
    saved: Any
    again: Any
    """Values; of a column those that are furthest apart."""
    relative: float | None = None
    """|saved - again| / the larger of both; None where one is no number."""
    rows: int | None = None
    """Rows of a column that differ."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What running a saved result again gave."""

    folder: str
    scenario: str
    seeds: tuple[int, ...]
    origin: tuple[Difference, ...]
    """Of the manifest: versions, coefficients, the key of the scenario, the engine."""
    differences: tuple[Difference, ...]
    compared: int
    """Values that were compared."""

    @property
    def identical(self) -> bool:
        """Whether nothing of the result differs, whatever the manifest says."""
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        told = {**asdict(self), "seeds": list(self.seeds)}
        for part in ("origin", "differences"):
            told[part] = [_known(each) for each in told[part]]
        return {"identical": self.identical, **told}


def _known(difference: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not told, and write what JSON has no number for as text."""
    finite = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in difference.items()
    }
    return {key: value for key, value in finite.items() if value is not None or key in ("saved", "again")}


def verify(folder: str | Path, *, progress: Say | None = None) -> Verified:
    """Run the result of a folder again, every seed of it, and compare; ScenarioError where it cannot be run again."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ScenarioError(f"{folder}: no run folder; 'afdsim run SCENARIO -o {folder}' writes one")
    with reading(folder):
        saved = Result.load(folder)
        _refuse_models(folder, saved)
        others = _seeds(folder, saved)
        _refuse_stopped(folder, saved)
    first = again(saved, saved.manifest, progress)
    rest = [again(saved, held, progress) for held in others[1:]]
    counted = [0]
    with reading(folder):
        origin = tuple(_origin(saved.manifest, first))
        differences = [
            *_of_folder(folder, first, counted),
            *_of_seeds(folder, [first, *rest] if others else [], counted),
        ]
        if not differences:  # a figure of the manifest decides nothing that is in the other files
            differences = list(_leaves("manifest.json", _bare(saved.summary), _bare(first.summary), counted))
    return Verified(
        folder=str(folder),
        scenario=saved.scenario.name,
        seeds=tuple(each.seed for each in (first, *rest)),
        origin=origin,
        differences=tuple(differences),
        compared=counted[0],
    )


def again(saved: Result, held: Manifest, progress: Say | None = None) -> Result:
    """Run the scenario of a saved result with the engine and the seed of a manifest."""
    scenario = saved.scenario
    found = simulate(scenario.vary("run.engine", held.engine), seed=held.seed, progress=progress)
    signed = replace(
        found.manifest,
        key=scenario.key,
        engine_requested=scenario.run.engine,
        engine_reason=held.engine_reason,
    )
    found = replace(found, scenario=scenario, manifest=signed, asked=saved.asked)
    return replace(found, marginal=marginal(found)) if saved.marginal and held.seed == saved.seed else found


def _refuse_models(folder: Path, saved: Result) -> None:
    """Refuse what ran with code of the caller's, which no folder holds."""
    held = saved.manifest
    router = next((note for note in saved.notes if note.startswith(ROUTED)), "").removeprefix(ROUTED).partition(",")[0]
    models = {"cost=": "" if held.coefficients.startswith(FITTED) else held.coefficients}
    models |= {"network=": held.network, "router=": router}
    given = [f"{name}{model}" for name, model in models.items() if model]
    if given:
        raise ScenarioError(
            f"{folder}: ran with {' and '.join(given)}, which a folder does not hold; "
            "simulate() it again with them and compare the folders"
        )


def _refuse_stopped(folder: Path, saved: Result) -> None:
    """Refuse a run that somebody stopped: when that was is in no scenario."""
    path = folder / "seeds.json"
    told = {str(saved.seed): {"afdsim": {"notes": saved.notes}}, **(_read(path)["seeds"] if path.is_file() else {})}
    cut = [seed for seed, held in told.items() if any(note.startswith(STOPPED) for note in held["afdsim"]["notes"])]
    if cut:
        raise ScenarioError(
            f"{folder}: seed {', '.join(cut)} was stopped before its end, which no scenario can repeat; "
            f"'afdsim run {folder / 'scenario.yaml'} -o {folder}' runs it whole"
        )


def _seeds(folder: Path, saved: Result) -> list[Manifest]:
    """Return the manifests of all seeds of seeds.json, as their summaries tell them; none without one."""
    path = folder / "seeds.json"
    if not path.is_file():
        return []
    try:
        own = {int(seed): held["afdsim"]["provenance"] for seed, held in _read(path)["seeds"].items()}
        return [
            replace(saved.manifest, seed=seed, engine=each["engine"], engine_reason=each["engine_reason"])
            for seed, each in own.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ScenarioError(f"{path}: holds no whole summary of every seed; 'afdsim run -o' writes it") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}; 'afdsim run -o' writes it") from None
    if not isinstance(found, dict):
        raise ScenarioError(f"{path}: holds no figures; 'afdsim run -o' writes it")
    return found


# what differs --------------------------------------------------------------------------------------------------------


def _origin(held: Manifest, found: Result) -> Iterator[Difference]:
    yield from _leaves("manifest.json", asdict(held), asdict(found.manifest), [0])


def _of_folder(folder: Path, found: Result, counted: list[int]) -> Iterator[Difference]:
    """Yield what differs in the frames and in result.json, but for where they come from."""
    for name in FRAMES:
        frame = getattr(found, name)
        path = frame_file(folder, name)
        if path is None:  # none where there is nothing in it, and none of blame in older folders
            continue
        yield from _columns(path.name, read_frame(path), frame, counted)
    yield from _leaves("result.json", _bare(_read(folder / "result.json")), _bare(found.summary), counted)


def _of_seeds(folder: Path, results: list[Result], counted: list[int]) -> Iterator[Difference]:
    """Yield what differs in seeds.json."""
    if not results:
        return
    held, single = _read(folder / "seeds.json"), {str(each.seed): _bare(each.summary) for each in results}
    yield from _leaves("seeds.json", _bare(held.get("pooled")), _bare(pooled(results)), counted, "pooled.")
    seeds = {seed: _bare(each) for seed, each in held["seeds"].items()}
    yield from _leaves("seeds.json", seeds, single, counted, "seeds.")


def _bare(summary: Any) -> Any:
    """Return a summary without its provenance, as JSON has it."""
    plain = json.loads(json.dumps(summary))
    if isinstance(plain, dict) and isinstance(plain.get("afdsim"), dict):
        plain["afdsim"].pop("provenance", None)
    return plain


def _leaves(file: str, saved: Any, again: Any, counted: list[int], before: str = "") -> Iterator[Difference]:
    """Yield the figures of two trees that differ, in order; what one of them lacks is None."""
    mine, its = dict(_flat(saved)), dict(_flat(again))
    counted[0] += len(mine)
    for key in dict.fromkeys((*mine, *its)):
        one, other = mine.get(key), its.get(key)
        if one != other or type(one) is not type(other):
            yield Difference(file=file, figure=before + key, saved=one, again=other, relative=apart(one, other))


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, leaf)."""
    match tree:
        case Mapping() if tree:
            for key, value in tree.items():
                yield from _flat(value, f"{path}.{key}" if path else str(key))
        case list() | tuple() if tree:
            for place, value in enumerate(tree):
                yield from _flat(value, f"{path}[{place}]")
        case _:
            yield path, tree


def apart(one: Any, other: Any) -> float | None:
    """Return the relative distance of two numbers; None where one is none."""
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (one, other)):
        return None
    most = max(abs(one), abs(other))
    return abs(one - other) / most if most and math.isfinite(most) else 0.0


def _columns(file: str, saved: pd.DataFrame, again: pd.DataFrame, counted: list[int]) -> Iterator[Difference]:
    """Yield the columns of two frames that differ; of frames of unlike length only that."""
    counted[0] += saved.size
    if len(saved) != len(again):
        yield Difference(file=file, figure=MANY, saved=len(saved), again=len(again))
        return
    for name in dict.fromkeys((*saved.columns, *again.columns)):
        if name not in saved or name not in again:
            there = [name if name in each else None for each in (saved, again)]
            yield Difference(file=file, figure=f"column {name}", saved=there[0], again=there[1])
        elif (found := _column(file, name, saved[name], again[name])) is not None:
            yield found


def _column(file: str, name: str, saved: pd.Series[Any], again: pd.Series[Any]) -> Difference | None:
    """Return how two columns differ: the pair of values that is furthest apart."""
    both_gone = saved.isna().to_numpy() & again.isna().to_numpy()
    one, other = saved.to_numpy(), again.to_numpy()
    unlike = np.flatnonzero(np.asarray(one != other, dtype=bool) & ~both_gone)
    if not len(unlike):
        return None
    pairs = [(_plain(one[row]), _plain(other[row])) for row in unlike]
    worst = max(pairs, key=lambda pair: -1.0 if (found := apart(*pair)) is None else found)
    told = {"saved": worst[0], "again": worst[1], "relative": apart(*worst)}
    return Difference(file=file, figure=name, rows=len(unlike), **told)


def _plain(value: Any) -> Any:
    """Return a number of numpy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
