"""Many points at once: on this machine or on any `concurrent.futures.Executor`, into one tidy table.

Rows come in the order of the grid whoever computes them, and every finished point is kept in a file of its own: a sweep
that is killed goes on where it was, and neither the number of workers nor their order can change a row.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from afdsim.cluster.network import Network
from afdsim.cost.roofline import CostModel
from afdsim.errors import ModelError, ScenarioError, SimulationError
from afdsim.scenario.document import Scenario, Source, load
from afdsim.simulation import refuse_beyond
from afdsim.studies.grid import Grid, Point, Zips, grid
from afdsim.studies.points import Cache, Models, Outcome, code, compute
from afdsim.studies.pool import Pool

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Row = dict[str, Any]

POINTS = Path("results/points")
"""Where outcomes are kept if nobody says otherwise."""

SHARD = 10_000
"""Rows of one file of a table, and how far a point may finish ahead of the first one that has not."""

AHEAD = 1_024
"""Points handed to an executor of unknown size."""

UNITS = "units.json"
"""File beside the shards with the units of their columns, because CSV holds none."""

LEADING = ("seed", "point", "status", "error")
"""Columns between the axes and the keys of the summary."""


RATES = ("output_throughput", "request_throughput", "tgs")
"""Columns of every table: an open loop that is too short has none of these keys, and NaN here."""


class StoppedError(SimulationError):
    """A sweep that could not go on; what had finished is kept."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a sweep is."""

    total: int
    done: int = 0
    before: int = 0
    """Of those done, how many a former sweep had computed."""
    failed: int = 0
    """Of those done, how many are errors."""


Report = Callable[[Tally], None]


def sweep(  # noqa: PLR0913 - the arguments are the vocabulary of a sweep
    base: Source | Scenario,
    over: Mapping[str, Iterable[object]] | None = None,
    zip: Zips | None = None,
    *,
    seeds: int | Iterable[int] | None = None,
    workers: int | Executor = 1,
    resume: bool = True,
    progress: bool = True,
    cache: str | Path = POINTS,
    cost: CostModel | None = None,
    network: Network | None = None,
) -> pd.DataFrame:
    """Simulate every combination of the axes with every seed; return one row for each.

    `over` maps dotted paths to lists of values and spans a product; the paths of one map in `zip` vary together.
    `seeds` is how many, or which; those of the scenario if left out. `workers` is a number of processes or any
    Executor, such as ``dask.distributed.Client.get_executor()``. Every point is kept in `cache` as soon as it has
    finished; with `resume`, points found there are not simulated again. `cost` and `network` replace the models, as in
    `simulate`; points of one that has no digest (`cost.identity`) are not kept, and a warning says so.

    Columns: one per axis, named by its path; seed, point (digest of the scenario), status ("ok" or "error") and error;
    every key of ``result.json`` (``afdsim.`` dropped, dots kept: "tgs", "pools.attention.busy", "sla.met"); wall_s. A
    point that fails is a row with its error and no figures. Amounts with units are numbers in the unit of the axis's
    first value, which ``frame.attrs["units"]`` has by column.
    """
    points = grid(base if isinstance(base, Scenario) else load(base), over, zip, seeds)
    models = Models(cost=cost, network=network)
    models.check()
    run = Sweep(grid=points, cache=Cache(Path(cache)), resume=resume, models=models)
    if run.unkept:
        warnings.warn(f"points are not kept: {run.unkept}", stacklevel=2)
    with executor(workers) as pool, run.resumable(), bar() if progress else nullcontext() as report:
        return table(run.rows(pool, report), points.paths, points.units)


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A point on its way."""

    point: Point
    scenario: Scenario | None
    key: str
    file: Path | None
    """Where its outcome is kept; nowhere if there is no scenario, or no digest of the models."""
    outcome: Outcome | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid, and where its outcomes are kept."""

    grid: Grid
    cache: Cache
    resume: bool = True
    models: Models = field(default_factory=Models)
    strict: bool = False
    """Whether points fail that have requests longer than their model was made for."""
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tally", Tally(total=len(self.grid)))

    def rows(self, pool: Executor, report: Report | None = None) -> Iterator[Row]:
        """Yield the row of every point in the order of the grid; only points that are on their way are in memory."""
        if isinstance(pool, Pool):
            self.models.check_travel()
        backlog: deque[_Job] = deque()
        running: dict[Future[str], _Job] = {}
        ahead = _ahead(pool)
        try:
            for job in self._jobs():
                backlog.append(job)
                if job.outcome is None:
                    running[self._submitted(job, pool)] = job
                else:
                    self._count(job.outcome, before=job.file is not None)
                while len(running) >= ahead or (len(backlog) >= SHARD and backlog[0].outcome is None):
                    self._settle(running)
                yield from self._ready(backlog, report)
            while running:
                self._settle(running)
                yield from self._ready(backlog, report)
        finally:
            for future in running:
                future.cancel()

    def ahead(self) -> tuple[int, list[str]]:
        """Return how many points are to be simulated, and why others cannot be."""
        jobs = [(job.outcome, job.scenario) for job in self._jobs()]
        wrong = [outcome.error or "" for outcome, scenario in jobs if scenario is None and outcome is not None]
        return sum(outcome is None for outcome, _ in jobs), wrong

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Say, when a sweep is interrupted or cannot write, what is kept and how to go on."""
        try:
            yield
        except KeyboardInterrupt as error:
            error.add_note(self.kept())
            raise
        except OSError as error:
            place = error.filename or self.cache.folder
            raise StoppedError(f"{place}: cannot be written: {error.strerror or error}; {self.kept()}") from None
        except BrokenExecutor as error:
            raise StoppedError(f"the executor broke: {error}; {self.kept()}") from None

    @cached_property
    def unkept(self) -> str:
        """Why no point of this sweep is kept; empty where they are."""
        return self.models.nameless()

    def kept(self) -> str:
        """Return what an interrupted sweep leaves, and the way on."""
        done, total = self.tally.done, self.tally.total
        if self.unkept:
            return f"{done:,} of {total:,} points had finished and none is kept: {self.unkept}"
        return f"{done:,} of {total:,} points are kept in {self.cache.folder}; the same again goes on from there"

    def _jobs(self) -> Iterator[_Job]:
        """Yield every point, with its outcome where that is known."""
        chosen, scenario = None, None
        for point in self.grid.points():
            if point.chosen is not chosen:
                chosen, scenario = point.chosen, _scenario(self.grid, point.chosen, strict=self.strict)
            yield self._job(point, scenario)

    def _job(self, point: Point, scenario: Scenario | str | None) -> _Job:
        if not isinstance(scenario, Scenario):
            wrong = Outcome(status="error", error=scenario, columns={})
            return _Job(point=point, scenario=None, key=_digest(self.grid, point), file=None, outcome=wrong)
        if self.unkept:
            return _Job(point=point, scenario=scenario, key=_digest(self.grid, point), file=None)
        key = self.models.key(scenario)
        file = self.cache.file(key, point.seed)
        known = self.cache.get(file) if self.resume else None
        return _Job(point=point, scenario=scenario, key=key, file=file, outcome=known)

    def _submitted(self, job: _Job, pool: Executor) -> Future[str]:
        assert job.scenario is not None
        file = None if job.file is None else job.file.absolute()
        return pool.submit(compute, job.scenario, job.point.seed, file, code(), self.models)

    def _settle(self, running: dict[Future[str], _Job]) -> None:
        """Wait until something has finished, and keep it."""
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            job = running.pop(future)
            job.outcome = self._answer(future, job)
            self._count(job.outcome)

    def _answer(self, future: Future[str], job: _Job) -> Outcome:
        try:
            text = future.result()
        except (BrokenExecutor, ModelError):
            raise
        except Exception as error:
            # a bug or a lost machine: a row like any failure, but not kept, so that the next sweep tries again
            return Outcome(status="error", error=f"{type(error).__name__}: {error}", columns={})
        if job.file is not None and (not self.resume or not job.file.is_file()):
            self.cache.put(job.file, text)
        return Outcome.read(text)

    def _count(self, outcome: Outcome, *, before: bool = False) -> None:
        self.tally.done += 1
        self.tally.before += before
        self.tally.failed += outcome.status == "error"

    def _ready(self, backlog: deque[_Job], report: Report | None) -> Iterator[Row]:
        """Yield the rows of the points that have finished, up to the first one that has not."""
        while backlog and (outcome := backlog[0].outcome) is not None:
            job = backlog.popleft()
            yield _row(self.grid, job, outcome)
        if report is not None:
            report(self.tally)


def _scenario(points: Grid, values: tuple[object, ...], *, strict: bool) -> Scenario | str:
    """Return the scenario of a point, or why there is none."""
    try:
        found = points.scenario(values)
        if strict:
            refuse_beyond(found, points.seeds)
    except ScenarioError as error:
        return str(error)
    return found


def _digest(points: Grid, point: Point) -> str:
    """Return what stands for the key of a point that has no scenario."""
    changes = dict(zip(points.paths, point.chosen, strict=True))
    text = json.dumps([points.base.key, changes], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _row(points: Grid, job: _Job, outcome: Outcome) -> Row:
    axes = dict(zip(points.paths, job.point.cells, strict=True))
    leading = (job.point.seed, job.key[:12], outcome.status, outcome.error)
    return {**outcome.columns, **axes, **dict(zip(LEADING, leading, strict=True)), "wall_s": outcome.wall_s}


# executors ----------------------------------------------------------------------------------------------------------


class Here(Executor):
    """Runs a call when it is submitted, in this process; Ctrl-C stops it at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run a call."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def executor(workers: int | Executor) -> AbstractContextManager[Executor]:
    """Return what runs the points; one of the caller's stays open."""
    if isinstance(workers, Executor):
        return nullcontext(workers)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ScenarioError(f"workers must be >= 1 or an Executor (got {workers})")
    return Here() if workers == 1 else Pool(workers)


def _ahead(pool: Executor) -> int:
    """Return how many points to hand to an executor before one has come back."""
    match pool:
        case Here():
            return 1
        case Pool():
            return 4 * pool.workers
        case _:
            return AHEAD


@contextmanager
def bar() -> Iterator[Report | None]:
    """Draw a progress bar with rate and time left on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console, transient=True
    ) as drawn:
        task = drawn.add_task("", total=None, rate="")

        def report(tally: Tally) -> None:
            speed = drawn.tasks[0].speed
            text = "" if speed is None else f"{speed:,.3g} points/s"
            failed = f", {tally.failed:,} failed" if tally.failed else ""
            drawn.update(task, total=tally.total, completed=tally.done, rate=text + failed)

        yield report


# tables -------------------------------------------------------------------------------------------------------------


def table(rows: Iterable[Row], paths: Iterable[str], units: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return rows as one frame: axes, seed, point, status and error first, wall time last; `units` in its attrs."""
    import pandas as pd

    paths, stream = tuple(paths), iter(rows)
    parts = []
    while chunk := list(islice(stream, SHARD)):  # frames are many times smaller than dicts
        parts.append(pd.DataFrame(chunk))
    return _tidy(pd.concat(parts, ignore_index=True), paths, units or {})


def _tidy(frame: pd.DataFrame, paths: tuple[str, ...], units: Mapping[str, str]) -> pd.DataFrame:
    """Order the columns; keep truth values usable as masks where failed points have none."""
    from pandas.api.types import is_object_dtype

    leading = [*paths, *LEADING]
    frame = frame.assign(**dict.fromkeys((name for name in RATES if name not in frame), math.nan))
    rest = [name for name in frame.columns if name not in {*leading, "wall_s"}]
    frame = frame[[*leading, *rest, "wall_s"]].astype({"error": "string", "point": "string", "status": "string"})
    mixed = [name for name in rest if is_object_dtype(frame[name])]
    frame = frame.astype({name: "boolean" for name in mixed if frame[name].dropna().isin([True, False]).all()})
    whole = frame.copy()  # in one piece: pandas warns whoever adds a column to one of many pieces
    whole.attrs = {"units": dict(units)} if units else {}
    return whole


def write(rows: Iterable[Row], paths: Iterable[str], folder: Path, units: Mapping[str, str] | None = None) -> int:
    """Stream rows into the numbered shards of a table, each whole or absent, and return how many rows there were."""
    from afdsim.results.result import write_frame
    from afdsim.results.whole import write_text

    paths, stream, count, shard = tuple(paths), iter(rows), 0, 0
    while chunk := list(islice(stream, SHARD)):
        frame = table(chunk, paths, units)
        count += len(frame)
        write_frame(frame, folder, _name(shard))
        shard += 1
    write_text(folder / UNITS, json.dumps(units or {}) + "\n")
    for stale in folder.glob("points-*"):
        if stale.name.partition(".")[0] not in map(_name, range(shard)):
            stale.unlink()
    return count


def read(folder: str | Path, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the table that `write` has put in a folder; of its keys of the summary only `columns`, if given."""
    import pandas as pd

    shards = sorted(Path(folder).glob("points-*.*"))
    if not shards:
        raise ScenarioError(f"{folder}: holds no table of a sweep (points-00000...); 'afdsim sweep' writes one")
    whole = pd.concat([_shard(shard, columns) for shard in shards], ignore_index=True)
    paths = tuple(str(name) for name in whole.columns[: list(whole.columns).index("seed")])
    return _tidy(whole, paths, _units(Path(folder)))


def _shard(file: Path, columns: Iterable[str] | None) -> pd.DataFrame:
    """Return one file of a table."""
    import pandas as pd

    from afdsim.results.result import read_frame

    if file.suffix == ".parquet":
        frame = read_frame(file)
    else:
        texts = dict.fromkeys(("point", "status", "error"), "string")
        frame = pd.read_csv(
            file, engine="python", dtype=texts, keep_default_na=False, na_values=[""]
        )  # "n/a" is a word
    if columns is None:
        return frame
    last = list(frame.columns).index("error")
    wanted = {*frame.columns[: last + 1], *RATES, "wall_s", *columns}
    return frame[[name for name in frame.columns if name in wanted]]


def _units(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / UNITS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a table of an older version has none
        return {}
    return found


def _name(shard: int) -> str:
    return f"points-{shard:05}"
