"""Reports of folders: what a folder holds is recognised by its files, and written as one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from afdsim.errors import AfdsimError, ScenarioError, SimulationError

if TYPE_CHECKING:
    from afdsim.results.page import Report
    from afdsim.results.result import Result


LONGEST: Final = 40
"""Characters of a name by which a report of several runs calls one, in every legend and table."""


def report(*folders: str | Path) -> Report:
    """Return the report of what a folder holds, or of several runs over one another.

    ScenarioError where a folder holds nothing of the kind or is damaged, SimulationError without matplotlib or jinja2.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ScenarioError("report: name a folder that 'afdsim run -o', sweep, compare, plan or capacity wrote")
    kinds = [kind(path) for path in paths]
    try:
        import jinja2  # noqa: F401 - pages are made with it
        import matplotlib as mpl  # noqa: F401 - pictures are made with it
    except ImportError:
        raise SimulationError("reports need matplotlib and jinja2: pip install 'afdsim[report]'") from None
    if len(paths) == 1:
        with reading(paths[0]):
            return _OF[kinds[0]](paths[0])
    for path, found in zip(paths, kinds, strict=True):
        if found != "run":
            raise ScenarioError(f"{path} holds a {found}; several folders must all be runs: report it alone")
    return _together(paths)


def write(folder: str | Path) -> Path:
    """Write ``report.html`` into a folder; return the file."""
    from afdsim.results.result import REPORT
    from afdsim.results.whole import write_text

    path = Path(folder) / REPORT
    write_text(path, str(report(folder)))
    return path


def kind(folder: Path) -> str:
    """Return what a folder holds: run, sweep, comparison, plan or capacity."""
    if not folder.is_dir():
        raise ScenarioError(f"{folder}: no such folder" if not folder.exists() else f"{folder} is a file, no folder")
    for name, found in _FILES.items():
        if (folder / name).is_file():
            return found
    raise ScenarioError(
        f"{folder} holds no run, sweep, comparison, plan or capacity; 'afdsim run -o {folder}' writes one"
    )


_FILES: Final = {
    "compare.json": "comparison",
    "plan.json": "plan",
    "capacity.json": "capacity",
    "sweep.yaml": "sweep",
    "manifest.json": "run",
    "result.json": "run",
}
"""Files by which folders are known; one of a run that was interrupted has no manifest."""


_DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
"""What readers of JSON, YAML, CSV and parquet raise on what they did not expect."""


@contextmanager
def reading(*folders: Path) -> Iterator[None]:
    """Say of whatever the files of a folder, or of some, lead to that they are damaged."""
    try:
        yield
    except AfdsimError:
        raise
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        which = f"one of {', '.join(map(str, folders))}" if len(folders) > 1 else f"{folders[0]}"
        raise ScenarioError(
            f"{which} is damaged, or of another version of afdsim ({what}); write it anew with --force"
        ) from None


def _of_run(folder: Path) -> Report:
    from afdsim.results.result import report as of_seeds
    from afdsim.results.seeds import load_seeds

    return of_seeds(load_seeds(folder))


def _together(folders: Sequence[Path]) -> Report:
    """Return the report of several runs, by the names of their scenarios; of equal names by their folders too."""
    from afdsim.results.report import report as of_runs
    from afdsim.results.result import pooled
    from afdsim.results.seeds import load_seeds

    runs: dict[str, Sequence[Result]] = {}
    summaries: dict[str, Mapping[str, Any]] = {}
    for folder in folders:
        with reading(folder):
            seeds = load_seeds(folder)
            told = pooled(seeds)
        name = _brief(seeds[0].scenario.name)
        name = f"{name} ({_brief(folder.resolve().name)})" if name in runs else name
        while name in runs:
            name += "'"
        runs[name], summaries[name] = seeds, told
    with reading(*folders):
        return of_runs(runs, summaries)


def _brief(name: str) -> str:
    """Cut a name that would fill a legend."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _of_sweep(folder: Path) -> Report:
    from afdsim.results.page import Report, render
    from afdsim.scenario import yamlfile
    from afdsim.studies import pages, sweeps, telling

    frame = sweeps.read(folder, telling.COLUMNS)
    paths = tuple(str(name) for name in frame.columns[: list(frame.columns).index("seed")])
    name = str(yamlfile.read(folder / "sweep.yaml").data.get("name", folder.name))
    notes = (folder / "notes.txt").read_text(encoding="utf-8").splitlines() if (folder / "notes.txt").is_file() else []
    axes = telling.Axes(name=name, paths=paths, units=frame.attrs.get("units", {}))
    return Report(render(pages.sweep(frame, axes, notes)))


def _of_comparison(folder: Path) -> Report:
    from afdsim.results.page import Report, render
    from afdsim.results.seeds import load_seeds
    from afdsim.studies import pages
    from afdsim.studies.comparison import RUNS, Comparison

    told = _json(folder / "compare.json")
    runs = {name: load_seeds(folder / RUNS / str(number)) for number, name in enumerate(told["deployments"], start=1)}
    found = Comparison(runs=runs, notes=tuple(told["notes"]), shared=tuple(told["shared"]))
    return Report(render(pages.comparison(found, told["advice"])))


def _of_plan(folder: Path) -> Report:
    import pandas as pd

    from afdsim.results.page import Report, render
    from afdsim.studies import pages

    front = folder / "front.csv"
    layouts = pd.read_csv(folder / "plan.csv")
    return Report(
        render(pages.plan(_json(folder / "plan.json"), layouts, pd.read_csv(front) if front.is_file() else None))
    )


def _of_capacity(folder: Path) -> Report:
    import pandas as pd

    from afdsim.results.page import Report, render
    from afdsim.studies import pages

    return Report(render(pages.capacity(_json(folder / "capacity.json"), pd.read_csv(folder / "capacity.csv"))))


def _json(path: Path) -> Mapping[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ScenarioError(f"{path}: not what afdsim writes")
    return found


_OF: Final[Mapping[str, Callable[[Path], Report]]] = {
    "run": _of_run,
    "sweep": _of_sweep,
    "comparison": _of_comparison,
    "plan": _of_plan,
    "capacity": _of_capacity,
}
